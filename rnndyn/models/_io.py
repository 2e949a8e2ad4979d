"""Networks from files that other people wrote, and back."""

import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._core._checks import one_of
from .._core._store import named_leaves, read_arrays, write_arrays
from ._base import AbstractRNN, check_single
from ._gated import ContinuousGRU
from ._lowrank import LowRankRNN
from ._piecewise import PiecewiseLinearRNN
from ._rate import CurrentRNN, RateRNN
from ._torch import torch_fields, torch_layers


_WEIGHTS = (
    "W",
    "W_in",
    "b",
    "b_in",
    "b_n",
    "W_out",
    "b_out",
    "m",
    "n",
    "W_fixed",
    "A",
    "h",
)
_NAMES = ("form", "activation", "readout", "scale")
_NUMBERS = ("tau", "dt", "noise", "x0")


_PERCEPTRON = ("activation", "readout", "W_in", "b", "W_out", "b_out")
_READ = {  # what each kind of network takes besides form, tau, noise, x0 and dt
    "full": (*_PERCEPTRON, "W", "b_in"),
    "low rank": (*_PERCEPTRON, "m", "n", "scale", "W_fixed"),
    "piecewise": ("A", "W", "h", "W_in", "W_out", "b_out"),
    "gated": ("W", "W_in", "b", "b_n", "W_out", "b_out"),
}


def load_network(
    path: str | Path, *, member: int | None = None, **overrides: Any
) -> AbstractRNN:
    """A network from an npz or safetensors file of named arrays.

    Read are `form` (`"rate"`, `"current"`, `"piecewise"` or `"gru"`), `tau` (seconds),
    `activation`, `readout`, `W` `(state, state)` or `m`, `n` `(state, rank)` with
    `scale` (`"1/N"` or `"1"`), and optionally `W_in` `(state, input)`, `b`, `b_in`,
    `W_out` `(output, state)`, `b_out`, `W_fixed`, `noise`, `x0`; for piecewise-linear
    networks `A`, `W`, `h`; for gated ones `W`, `W_in`, `b`, `b_n` as in
    `ContinuousGRU.from_arrays`. `dt` is not part of the model: see `network_dt`.

    Or the state dictionary of a PyTorch module with one `nn.RNN` or `nn.GRU` of one
    layer, and at most one linear layer on top:
    `np.savez("net.npz", **{k: v.numpy() for k, v in module.state_dict().items()})`.
    Its step is the Euler map at `dt = tau`, 1 unless you pass `tau=` (seconds); for an
    `nn.RNN` pass `activation="tanh"` or `"relu"`.

    **Arguments:**

    - `path`: the file. In a safetensors file, names and numbers may also stand in the
        header.
    - `member`: which network of a file that holds many, one a row of every array.
    - `overrides`: fields that the file lacks, or that should be replaced.

    **Returns:** a `LowRankRNN` if there are `m` and `n`, otherwise a `RateRNN`,
    `CurrentRNN`, `PiecewiseLinearRNN` or `ContinuousGRU`, in the precision of the file,
    at least float32: float64 weights keep their digits under `jax.enable_x64(True)`
    only. Arrays that are not read are named in a warning.

    **Raises:** a `ValueError` that names what is missing and how to pass it.
    """
    fields = _fields(path, overrides, member)
    form = _text(_need(fields, "form", path, "rate, current, piecewise or gru"))
    one_of("form", form, ("rate", "current", "piecewise", "gru"))
    _need(fields, "tau", path, "time constant in seconds")
    if form == "piecewise":
        kind, build = "piecewise", PiecewiseLinearRNN
        _need(fields, "A", path, "diagonal of the linear part")
    elif form == "gru":
        kind, build = "gated", ContinuousGRU
    elif "m" in fields or "n" in fields:
        kind, build = "low rank", LowRankRNN
        for name in ("m", "n"):
            _need(fields, name, path, "low-rank factor (state, rank)")
    else:
        kind, build = "full", RateRNN if form == "rate" else CurrentRNN
    if kind != "low rank":
        _need(fields, "W", path, "recurrent weights (state, state), or m and n")
    if kind not in ("piecewise", "gated"):
        _need(fields, "activation", path, "name of the activation, such as tanh")
    known = (*_READ[kind], "tau", "noise", "x0")
    about = {"form", "dt", "class", "config", "first_member", "schema"}
    unread = sorted(set(fields) - set(known) - about)
    if unread:
        warnings.warn(
            f"{path}: not read by a {kind} network: {', '.join(unread)}. "
            f"It reads {', '.join(known)}.",
            stacklevel=2,
        )
    given: dict[str, Any] = {k: _plain(k, fields[k]) for k in known if k in fields}
    if kind == "low rank":
        given["form"] = form
    return build.from_arrays(**given)


def _text(value: Any) -> str:
    value = np.ravel(value)
    if value.size != 1:
        raise ValueError(f"a name has {value.size} entries, expected one: {value}.")
    value = value[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(name: str, value: Any) -> Any:
    """Names as strings, one-element `tau` and `noise` as numbers, real arrays."""
    if name in _NAMES:
        return _text(value)
    value = np.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating):
        # Half precision would round tau as well; JAX takes neither big-endian numbers
        # nor long doubles.
        value = value.astype(np.float64 if value.dtype.itemsize > 4 else np.float32)
    elif value.dtype.kind in "biu":
        value = value.astype(np.float64)
    elif value.dtype.kind != "c":
        raise ValueError(
            f"{name} has dtype {value.dtype}, expected numbers. Save it as floats."
        )
    if np.iscomplexobj(value):
        raise ValueError(f"{name} is complex, expected real numbers. Save {name}.real.")
    if name in ("tau", "noise") and value.size == 1:
        return float(value.ravel()[0])
    return value


def network_dt(
    path: str | Path,
    default: float | None = None,
    *,
    member: int | None = None,
    tau: float | None = None,
) -> float | None:
    """The step (seconds) that a file says its network was trained with; `member` says
    which network, where those of a file differ in it. That of a PyTorch layer is the
    `tau` given to `load_network`, or 1."""
    arrays, header = read_arrays(path)
    if torch_layers(arrays):
        default = 1.0 if tau is None else float(tau)
    steps = np.ravel({"dt": (), **header, **arrays}["dt"])
    if steps.size and np.any(steps != steps[0]):
        if member is None or not 0 <= member < steps.size:
            raise ValueError(
                f"{path} holds {steps.size} different dt and member = {member}, "
                f"expected one of them. Pass member=0 .. {steps.size - 1}."
            )
        steps = steps[member:]
    return float(steps[0]) if steps.size else default


def save_network(path: str | Path, model: AbstractRNN, **extra: Any) -> None:
    """Write one network to a safetensors file that `load_network` reads.

    **Arguments:** `path`, `model`, and `extra` numbers for the header, such as `dt`
    (`None` is left out).

    **Raises:** a `ValueError` for an ensemble, a class of network that has no file
    form, or a path that ends in `.npz`.
    """
    if Path(path).suffix == ".npz":
        raise ValueError(
            f"{path} ends in .npz, but networks are written as safetensors. Pass "
            f"{str(Path(path).with_suffix('.safetensors'))!r}."
        )
    if not isinstance(model, AbstractRNN):
        raise ValueError(
            f"model is a {type(model).__name__}, expected a network such as "
            "rnndyn.models.RateRNN.from_arrays(W, tau=0.1)."
        )
    check_single(model)
    extra = {k: float(v) for k, v in extra.items() if v is not None}
    header: dict[str, Any] = {"class": type(model).__name__, **extra}
    # Training may turn the sign of the noise, which means nothing.
    model = eqx.tree_at(lambda m: m.noise, model, replace_fn=abs)
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
    elif isinstance(model, ContinuousGRU):
        header["form"] = "gru"
    else:
        raise ValueError(
            f"{type(model).__name__} has no file form, expected a RateRNN, CurrentRNN, "
            "LowRankRNN, PiecewiseLinearRNN or ContinuousGRU. Use "
            "equinox.tree_serialise_leaves."
        )
    if not isinstance(model, PiecewiseLinearRNN | ContinuousGRU):
        header |= {"activation": model.activation, "readout": model.readout_activation}
    write_arrays(path, named_leaves(eqx.filter(model, eqx.is_array)), header)


def _fields(path, overrides, member=None):
    arrays, header = read_arrays(path)
    arrays = torch_fields(path, arrays)
    weights = arrays.get("W", arrays.get("m", np.zeros(())))
    stacked = np.ndim(weights) == 3
    count = len(weights) if stacked else 1
    index = -1
    if isinstance(member, int | np.integer) and not isinstance(member, bool):
        index = int(member)
    if stacked and not 0 <= index < count:
        raise ValueError(
            f"{path} holds {count} networks and member = {member}, expected one of "
            f"them. Pass member=0 .. {count - 1}, or --member on the command line."
        )
    if not stacked and member not in (None, 0):
        raise ValueError(
            f"{path} holds one network and member = {member}, expected no member."
        )
    if stacked:
        # Names and numbers may be shared; all else has a row for every network.
        shared = {k for k, a in arrays.items() if np.ndim(a) == 0}
        odd = [k for k in sorted(set(arrays) - shared) if len(arrays[k]) != count]
        if odd:
            raise ValueError(
                f"{path} holds {count} networks, but {', '.join(odd)} of length "
                f"{', '.join(str(len(arrays[k])) for k in odd)}, expected one row a "
                "network."
            )
        arrays = {k: a if k in shared else a[index] for k, a in arrays.items()}
    given = {k: v for k, v in overrides.items() if v is not None}
    known = (*_WEIGHTS, *_NAMES, *_NUMBERS)
    for name in given:
        one_of("override", name, known)
    return {**header, **arrays, **given}


def _need(fields, name, path, meaning):
    if name not in fields:
        flag = f" (on the command line --{name})" if name in ("form", "tau") else ""
        raise ValueError(
            f"{path} has no {name!r} ({meaning}); it holds {sorted(fields)}. Rename an "
            f"array to {name!r}, or pass load_network(path, {name}=...){flag}."
        )
    return fields[name]
