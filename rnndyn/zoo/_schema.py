"""What a published set of networks consists of: every array, its dimensions, its unit,
its meaning, its codes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core._annotations import documentation
from ..mechanisms import COMPAT, MECHANISMS, Features
from ..training import OUTCOMES


SCHEMA = "rnndyn.zoo/1"
_NUMBER, _WHOLE, _FLAG = "f", "i", "b"


@dataclass(frozen=True)
class Field:
    """One array of a data set.

    - `dims`: names of its dimensions, the first is always `network`.
    - `kind`: `"f"` numbers, `"i"` whole numbers, `"b"` flags.
    - `unit`, `meaning`: in words; `codes`: names of whole numbers, -1 is unknown.
    """

    dims: tuple[str, ...]
    kind: str
    unit: str
    meaning: str
    codes: tuple[str, ...] = ()


def _one(kind: str, unit: str, meaning: str, codes: tuple[str, ...] = ()) -> Field:
    return Field(("network",), kind, unit, meaning, codes)


def _cue(kind: str, unit: str, meaning: str, codes: tuple[str, ...] = ()) -> Field:
    return Field(("network", "cue"), kind, unit, meaning, codes)


TABLE: dict[str, Field] = {
    "id": _one(_WHOLE, "", "number made from the hyper-parameters; unique"),
    "seed": _one(_WHOLE, "", "of the initial weights, which are equal in all cells"),
    "learning_rate": _one(_NUMBER, "", "of gradient descent"),
    "momentum": _one(_NUMBER, "", "of gradient descent"),
    "weight_decay": _one(_NUMBER, "", "added to the gradient, times the weights"),
    "delay": _one(_NUMBER, "s", "between cue and reaction"),
    "cue": _one(_NUMBER, "s", "duration of the cue"),
    "reaction": _one(_NUMBER, "s", "duration of the reaction or response"),
    "post_reaction": _one(_NUMBER, "s", "silence demanded after the reaction"),
    "dt": _one(_NUMBER, "s", "Euler step the network was trained with"),
    "units": _one(_WHOLE, "", "recurrent units"),
    "batch": _one(_WHOLE, "", "trials an epoch"),
    "epochs": _one(_WHOLE, "epochs", "budget of training"),
    "steps": _one(_WHOLE, "epochs", "updates made"),
    "diverged": _one(_FLAG, "", "frozen at its last finite weights"),
    "stopped": _one(_FLAG, "", "met the stop criterion"),
    "final_loss": _one(_NUMBER, "", "of the last epoch, before its update"),
    "final_accuracy": _one(_NUMBER, "", "of the last epoch, published window"),
    "final_reliability": _one(_NUMBER, "", "of the last epoch, published window"),
    "outcome": _one(_WHOLE, "", "verdict on the training history", OUTCOMES),
    "compat_code": _one(_WHOLE, "", "published class", COMPAT),
    "compat_index": _one(_NUMBER, "", "published index, of learned networks"),
    "compat_median": _one(_NUMBER, "", "its median over noise draws and both signs"),
    "compat_ambiguous": _one(_FLAG, "", "whether these disagree about the class"),
    "mechanism": _one(_WHOLE, "", "how the memory is held", MECHANISMS),
    "cue_code": _cue(_WHOLE, "", "the same for each cue", MECHANISMS),
    "flow_code": _cue(_WHOLE, "", "what the continuous flow does", MECHANISMS),
    "margin": _cue(_NUMBER, "", "relative distance from the nearest threshold"),
}
"""Arrays of one value, or one a cue, for every network."""

_LAST = ("network", "last")
_RECORD = ("network", "record")
CURVES: dict[str, Field] = {
    **{
        f"last_{k}": Field(_LAST, _NUMBER, "", f"{k} of the last epochs, NaN before")
        for k in ("loss", "accuracy", "reliability")
    },
    **{
        f"history_{k}": Field(_RECORD, _NUMBER, "", f"{k} at a stride, NaN after")
        for k in ("loss", "accuracy", "reliability", "grad_norm")
    },
}
"""Arrays over training."""

WEIGHTS: dict[str, Field] = {
    "W": Field(("network", "unit", "unit"), _NUMBER, "", "recurrent, to x from"),
    "W_in": Field(("network", "unit", "input"), _NUMBER, "", "input"),
    "b": Field(("network", "unit"), _NUMBER, "", "bias"),
    "b_in": Field(("network", "unit"), _NUMBER, "", "second bias, trained separately"),
    "W_out": Field(("network", "output", "readable"), _NUMBER, "", "read-out"),
    "b_out": Field(("network", "output"), _NUMBER, "", "bias of the read-out"),
    "m": Field(("network", "unit", "rank"), _NUMBER, "", "left factor"),
    "n": Field(("network", "unit", "rank"), _NUMBER, "", "right factor"),
    "W_fixed": Field(("network", "unit", "unit"), _NUMBER, "", "untrained part"),
    "tau": Field(("network",), _NUMBER, "s", "time constant"),
    "noise": Field(("network",), _NUMBER, "", "standard deviation of the current"),
    "x0": Field(("network", "unit"), _NUMBER, "", "initial state"),
}
"""Arrays that make a network."""

HYPER = ("tau", "noise")
"""Weights that are hyper-parameters too, where each network has one number."""

EVIDENCE = "evidence_"
_SECONDS = ("unit_time", "delay", "period", "dwell", "slow_time")
_RATES = ("exponent", "root_rightmost")
_EVIDENCE_NAMES = tuple(Features.__dataclass_fields__)


def field(name: str) -> Field | None:
    """What is known about an array, `None` for a name the schema does not have."""
    for group in (TABLE, CURVES, WEIGHTS):
        if name in group:
            return group[name]
    if name.startswith(EVIDENCE) and name.removeprefix(EVIDENCE) in _EVIDENCE_NAMES:
        own = name.removeprefix(EVIDENCE)
        of_cue = "cue" in str(Features.__annotations__[own].dim_str)
        dims = ("network", "cue") if of_cue else ("network",)
        meaning = documentation(Features).get(own, "see rnndyn.mechanisms.Features")
        own = own.removeprefix("flow_")
        unit = "s" if own in _SECONDS else "1/s" if own in _RATES else ""
        return Field(dims, _NUMBER, unit, meaning)
    return None


def problems(arrays: Mapping[str, np.ndarray], members: int) -> Iterable[str]:
    """What is wrong with arrays of one group, in words."""
    for name, values in arrays.items():
        about = field(name)
        if about is None:
            yield f"{name} is not part of schema {SCHEMA}"
            continue
        dims = len(about.dims)
        fits = values.ndim == dims or (name.startswith(EVIDENCE) and values.ndim == 1)
        if name == "tau":  # one, or one a unit
            fits = values.ndim in (1, 2)
        if not fits or values.shape[:1] != (members,):
            yield f"{name} has shape {values.shape}, expected {members} x {about.dims}"
        wanted = {"f": "f", "i": "iu", "b": "b"}[about.kind]
        if not name.startswith(EVIDENCE) and values.dtype.kind not in wanted:
            yield f"{name} is {values.dtype}, expected kind {about.kind!r}"
            continue
        if name in WEIGHTS and not np.all(np.isfinite(values)):
            yield f"{name} holds numbers that are not finite"
        if about.codes and values.size:
            low, high = int(values.min()), int(values.max())
            if low < -1 or high >= len(about.codes):
                yield f"{name} holds codes {low} .. {high}, known are -1 .. " + str(
                    len(about.codes) - 1
                )
    if "id" in arrays and len(np.unique(arrays["id"])) != len(arrays["id"]):
        yield "id holds the same number twice"


def describe(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The schema of some arrays as plain values, for a file."""
    found = {}
    for name in names:
        about = field(name)
        if about is not None:
            found[name] = {
                "dims": list(about.dims),
                "unit": about.unit,
                "meaning": about.meaning,
                **({"codes": list(about.codes)} if about.codes else {}),
            }
    return found
