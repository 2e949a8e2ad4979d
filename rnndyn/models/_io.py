"""Networks from files that other people wrote, and back."""

from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from .._core._checks import one_of
from .._core._store import named_leaves, read_arrays, write_arrays
from ._base import AbstractRNN
from ._lowrank import LowRankRNN
from ._piecewise import PiecewiseLinearRNN
from ._rate import CurrentRNN, RateRNN


_WEIGHTS = ("W", "W_in", "b", "b_in", "W_out", "b_out", "m", "n", "W_fixed", "A", "h")
_NAMES = ("form", "activation", "readout", "scale")
_NUMBERS = ("tau", "dt", "noise", "x0")


def load_network(path: str | Path, **overrides: Any) -> AbstractRNN:
    """A network from an npz or safetensors file of named arrays.

    Read are `form` (`"rate"`, `"current"` or `"piecewise"`), `tau` (seconds),
    `activation`, `readout`, `W` `(state, state)` or `m`, `n` `(state, rank)` with
    `scale` (`"1/N"` or `"1"`), and optionally `W_in` `(state, input)`, `b`, `b_in`,
    `W_out` `(output, state)`, `b_out`, `W_fixed`, `noise`, `x0`; for piecewise-linear
    networks `A`, `W`, `h`. `dt` is not part of the model: see `network_dt`.

    **Arguments:**

    - `path`: the file. In a safetensors file, names and numbers may also stand in the
        header.
    - `overrides`: fields that the file lacks, or that should be replaced.

    **Returns:** a `LowRankRNN` if there are `m` and `n`, otherwise a `RateRNN`,
    `CurrentRNN` or `PiecewiseLinearRNN`.

    **Raises:** a `ValueError` that names what is missing and how to pass it.
    """
    fields = _fields(path, overrides)
    form = str(_need(fields, "form", path, "rate, current or piecewise"))
    one_of("form", form, ("rate", "current", "piecewise"))
    tau = _need(fields, "tau", path, "time constant in seconds")
    weights = {k: fields[k] for k in _WEIGHTS if k in fields}
    common = {"tau": tau, **{k: fields[k] for k in ("noise", "x0") if k in fields}}
    names: dict[str, Any] = {
        k: str(fields[k]) for k in ("activation", "readout") if k in fields
    }
    if form == "piecewise":
        _need(fields, "A", path, "diagonal of the linear part")
        _need(fields, "W", path, "recurrent weights (state, state)")
        return PiecewiseLinearRNN.from_arrays(**weights, **common)
    if "m" in fields or "n" in fields:
        for name in ("m", "n"):
            _need(fields, name, path, "low-rank factor (state, rank)")
        weights.pop("W", None)
        scale: dict[str, Any] = (
            {"scale": str(fields["scale"])} if "scale" in fields else {}
        )
        return LowRankRNN.from_arrays(**weights, **common, **names, **scale, form=form)
    _need(fields, "W", path, "recurrent weights (state, state), or m and n")
    build = RateRNN if form == "rate" else CurrentRNN
    return build.from_arrays(**weights, **common, **names)


def network_dt(path: str | Path, default: float | None = None) -> float | None:
    """The step (seconds) that a file says its network was trained with."""
    fields = _fields(path, {})
    return float(np.asarray(fields["dt"])) if "dt" in fields else default


def save_network(path: str | Path, model: AbstractRNN, **extra: Any) -> None:
    """Write one network to a safetensors file that `load_network` reads.

    **Arguments:** `path`, `model`, and `extra` numbers for the header, such as `dt`.

    **Raises:** a `ValueError` for a class of network that has no file form.
    """
    header: dict[str, Any] = {"class": type(model).__name__, **extra}
    if isinstance(model, LowRankRNN):
        if model.latent_readout:
            raise ValueError(
                "a latent read-out has no file form, expected one on the rates. Fold "
                "it in: W_out = W_out @ (s n^T), latent_readout=False."
            )
        header |= {"form": model.form, "scale": model.scale}
    elif isinstance(model, RateRNN | CurrentRNN):
        header["form"] = "rate" if isinstance(model, RateRNN) else "current"
    elif isinstance(model, PiecewiseLinearRNN):
        header["form"] = "piecewise"
    else:
        raise ValueError(
            f"{type(model).__name__} has no file form, expected a RateRNN, CurrentRNN, "
            "LowRankRNN or PiecewiseLinearRNN. Use equinox.tree_serialise_leaves."
        )
    if not isinstance(model, PiecewiseLinearRNN):
        header |= {"activation": model.activation, "readout": model.readout_activation}
    write_arrays(path, named_leaves(eqx.filter(model, eqx.is_array)), header)


def _fields(path, overrides):
    arrays, header = read_arrays(path)
    given = {k: v for k, v in overrides.items() if v is not None}
    known = (*_WEIGHTS, *_NAMES, *_NUMBERS)
    for name in given:
        one_of("override", name, known)
    return {**header, **arrays, **given}


def _need(fields, name, path, meaning):
    if name not in fields:
        raise ValueError(
            f"{path} has no {name!r} ({meaning}); it holds {sorted(fields)}. "
            f"Pass it: load_network(path, {name}=...) or, on the command line, "
            f"--{name.replace(chr(95), chr(45))}."
        )
    return fields[name]
