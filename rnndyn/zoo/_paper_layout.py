"""Networks as the authors of the phase diagrams wrote them: a folder each."""

import re
from pathlib import Path

import numpy as np

from .._core._checks import check_count
from .._core._store import read_arrays
from ..mechanisms import COMPAT
from ..sweeps._grid import member_id
from ..training import outcome


_CELL = re.compile(r"lr(?P<lr>[0-9.e+-]+)_delay_(?P<delay>[0-9.e+-]+)")
_PROCESS = re.compile(r"process_(?P<seed>[0-9]+)")
_NAMES = {
    "W_in.weight": "W_in",
    "W_in.bias": "b_in",
    "W_rec.weight": "W",
    "W_rec.bias": "b",
    "W_out.weight": "W_out",
    "W_out.bias": "b_out",
}
_LISTS = {
    "loss_list": "last_loss",
    "reaction_accuracy_list": "last_accuracy",
    "reaction_reliability_list": "last_reliability",
}


def read_paper_layout(
    folder: str | Path,
    *,
    tau: float | int = 0.01,
    dt: float | int = 5e-3,
    noise: float | int = 1e-3,
    last: int = 1000,
) -> dict[str, np.ndarray]:
    """Networks in the layout of Kurtkaya, Dinc et al. 2025, as named arrays.

    Read is `FOLDER/lr{lr}_delay_{delay}/process_{seed}/` with

    - `model_final.npz`: `W_in.weight` `(units, inputs)`, `W_in.bias`, `W_rec.weight`,
      `W_rec.bias`, `W_out.weight`, `W_out.bias`. The authors' `model_final.pt` must be
      converted where PyTorch is installed:
      `numpy.savez("model_final.npz", **{k: v.numpy() for k, v in torch.load(
      "model_final.pt", map_location="cpu").items()})`.
    - `training_details.npz` (optional): `loss_list`, `reaction_accuracy_list`,
      `reaction_reliability_list`, one number an epoch.
    - `class.txt` (optional): 0 not learned, 1 limit cycle, 2 slow point, 3 unstable;
      `psd_ratio.txt` (optional): the index.

    **Arguments:**

    - `folder`: for example `results_nopost`.
    - `tau`, `dt` (seconds), `noise`: of all networks; the files do not say.
    - `last`: epochs of the curves to keep.

    **Returns:** arrays for `rnndyn.zoo.save(arrays, path, network={"readout":
    "sigmoid"})`; `outcome` is decided from the whole histories, -1 without them.

    **Raises:** a `ValueError` if there are no networks, one lacks its weights, a file
    cannot be read, or sizes differ.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433; layout of
    github.com/fatihdinc/dynamical-phases-stm.
    """
    check_count("last", last)
    folder = Path(folder)
    found = sorted(
        (float(cell["lr"]), float(cell["delay"]), int(process["seed"]), path)
        for path in folder.glob("lr*_delay_*/process_*")
        if (cell := _CELL.fullmatch(path.parent.name))
        and (process := _PROCESS.fullmatch(path.name))
    )
    if not found:
        raise ValueError(
            f"{folder} holds no lr*_delay_*/process_*. Pass a folder such as "
            "results_nopost."
        )
    rows = []
    for rate, delay, seed, path in found:
        row = _weights(path) | _history(path, last) | _labels(path)
        values = {"learning_rate": rate, "delay": delay, "seed": seed}
        rows.append(
            row
            | {"id": member_id(values), "tau": tau, "noise": noise, "dt": dt}
            | values
        )
    if len(sizes := {r["W"].shape for r in rows}) > 1:
        raise ValueError(
            f"the networks of {folder} have W of shapes {sorted(sizes)}, expected one. "
            "Read networks of each size from a folder of their own."
        )
    names = list(rows[0])
    whole = ("id", "seed", "epochs", "outcome", "compat_code")
    kinds = dict.fromkeys(whole, np.int64) | dict.fromkeys(_curves(), np.float32)
    return {k: np.asarray([r[k] for r in rows], kinds.get(k)) for k in names}


def _weights(path):
    file = path / "model_final.npz"
    if not file.is_file():
        beside = (
            " There is a model_final.pt: convert it."
            if (path / "model_final.pt").is_file()
            else ""
        )
        raise ValueError(f"{path} has no model_final.npz.{beside}")
    arrays, _ = read_arrays(file)
    if set(arrays) != set(_NAMES):
        raise ValueError(f"{file} holds {sorted(arrays)}, expected {sorted(_NAMES)}.")
    return {ours: arrays[k].astype(np.float32) for k, ours in _NAMES.items()}


def _history(path, last):
    file = path / "training_details.npz"
    blank = np.full(last, np.nan, np.float32)
    row = dict.fromkeys(_curves(), blank) | {"epochs": 0, "outcome": -1}
    if not file.is_file():
        return row
    arrays, _ = read_arrays(file)
    if not set(_LISTS) <= set(arrays):
        raise ValueError(f"{file} holds {sorted(arrays)}, expected {[*_LISTS]}.")
    for name, ours in _LISTS.items():
        values = np.asarray(arrays[name], np.float32)[-last:]
        row[ours] = np.concatenate([blank[len(values) :], values])
    row["epochs"] = len(arrays["loss_list"])
    accuracy, reliability = (arrays[k] for k in list(_LISTS)[1:])
    row["outcome"] = int(outcome(accuracy, reliability))
    return row


def _labels(path):
    code, index = path / "class.txt", path / "psd_ratio.txt"
    found = {"compat_code": -1, "compat_index": np.nan}
    if code.is_file():
        found["compat_code"] = int(_number(code))
        if not 0 <= found["compat_code"] < len(COMPAT):
            raise ValueError(f"{code} holds {found['compat_code']}, expected 0 .. 3.")
    if index.is_file():
        found["compat_index"] = _number(index)
    return found


def _number(file):
    text = file.read_text()
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{file} holds {text!r}, expected a number.") from error


def _curves():
    return tuple(_LISTS.values())
