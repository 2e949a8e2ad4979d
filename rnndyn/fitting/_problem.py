"""The regression behind a data-constrained network: rows `x_t`, targets `d_t`."""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from .._core._checks import check_shape, is_concrete, is_in


CLIP = 1e-6
"""Targets are kept this far inside (-1, 1), where `arctanh` is finite."""

Real = jax.Array | np.ndarray


class Rows(eqx.Module):
    r"""Pairs of successive frames as one regression problem.

    Row `t` holds `x_t = [r_t, u_t]` and the target

        d_t = (r_{t+1} - (1 - alpha) r_t) / alpha ,   clipped to +-(1 - 1e-6),

    so that a network `r_{t+1} = (1 - alpha) r_t + alpha tanh(theta^T x_t)` predicts
    `tanh(theta^T x_t)` for `d_t`. Rows never cross from one trial to the next. Frames
    are stored once; `x` and `d` are made when asked for.

    **Attributes:**

    - `rates`: all frames, trials one after another, `(frame, neuron)`.
    - `inputs`: `(frame, input)`, without columns if there are none.
    - `alpha`: `dt / tau` of every neuron, `(neuron,)`.
    - `lengths`: number of frames of every trial.
    """

    rates: Float[Real, "frame neuron"]
    inputs: Float[Real, "frame input"]
    alpha: Float[Real, " neuron"]
    lengths: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_neurons(self) -> int:
        return self.rates.shape[1]

    @property
    def num_inputs(self) -> int:
        return self.inputs.shape[1]

    @property
    def num_predictors(self) -> int:
        """`p`, neurons and inputs."""
        return self.num_neurons + self.num_inputs

    @property
    def num_rows(self) -> int:
        """Pairs of frames within a trial."""
        return sum(self.lengths) - len(self.lengths)

    @property
    def start(self) -> Int[np.ndarray, " row"]:
        """Index of every row's first frame among all frames."""
        return np.flatnonzero(self.valid)

    @property
    def trial(self) -> Int[np.ndarray, " row"]:
        """The trial that every row comes from."""
        return np.repeat(np.arange(len(self.lengths)), np.array(self.lengths) - 1)

    @property
    def valid(self) -> Bool[np.ndarray, " frame_but_last"]:
        """Whether frames `t` and `t + 1` belong to one trial."""
        ends = np.cumsum(self.lengths)[:-1] - 1
        valid = np.ones(sum(self.lengths) - 1, bool)
        valid[ends] = False
        return valid

    @property
    def r(self) -> Float[Real, "row neuron"]:
        """Rates at the start of every row."""
        return self._of(self.rates, 0)

    @property
    def r_next(self) -> Float[Real, "row neuron"]:
        """Rates one frame later."""
        return self._of(self.rates, 1)

    @property
    def x(self) -> Float[Real, "row predictor"]:
        """Predictors: rates, then inputs."""
        if not self.num_inputs:
            return self.r
        parts = [self.r, self._of(self.inputs, 0)]
        return _module(self.rates).concatenate(parts, axis=1)

    @property
    def d(self) -> Float[Real, "row neuron"]:
        """Targets, clipped."""
        return targets(self.r, self.r_next, self.alpha[None, :])

    @property
    def clipped(self) -> Float[Real, " neuron"]:
        """Share of every neuron's targets that were clipped."""
        at_edge = _module(self.rates).abs(self.d) >= 1 - 2 * CLIP
        return at_edge.astype(self.rates.dtype).mean(axis=0)

    def _of(self, frames, shift):
        if len(self.lengths) == 1:
            return frames[1:] if shift else frames[:-1]
        return frames[self.start + shift]


def targets(r: Any, r_next: Any, alpha: Any) -> Any:
    """`(r_{t+1} - (1 - alpha) r_t) / alpha`, clipped to `+-(1 - 1e-6)`."""
    d = (r_next - (1 - alpha) * r) / alpha
    return _module(d).clip(d, -1 + CLIP, 1 - CLIP)


def regression_rows(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    check: bool = True,
    dtype: Any = None,
) -> Rows:
    """Rows of the regression from rates and inputs, checked.

    ```python
    rows = regression_rows(rates, alpha=0.1)
    theta = np.linalg.lstsq(rows.x, np.arctanh(rows.d))[0]
    ```

    **Arguments:**

    - `rates`: `(time, neuron)`, `(trial, time, neuron)` or a list of trials
      `(time, neuron)` of any lengths, in (-1, 1).
    - `inputs`: as `rates`, with inputs for neurons; an input at the last frame of a
      trial is not used and may be missing.
    - `alpha`: `dt / tau` in (0, 1], a number or one a neuron.
    - `check`: whether to look at values; traced values are never looked at.
    - `dtype`: precision of `alpha` and inputs, that of the rates by default; traced
      data all have that of the rates.

    **Returns:** `Rows`, of NumPy arrays unless an argument is traced. A neuron with
    NaN is not an error here.

    **Raises:** a `ValueError` for wrong shapes, trials shorter than two frames, inputs
    that do not match, `alpha` outside (0, 1], NaN inputs, no finite neuron, or rates
    of which most lie outside [-1, 1].
    """
    trials = _trials("rates", rates)
    neurons = trials[0].shape[1]
    lengths = tuple(r.shape[0] for r in trials)
    for k, r in enumerate(trials):
        where = f"rates of trial {k}"
        check_shape(where, r, (None, neurons), "Trials share their neurons.")
        if r.shape[0] < 2:
            raise ValueError(
                f"{where} has {r.shape[0]} frames, expected at least 2: a row is a "
                "pair of successive frames. Leave the trial out."
            )
    if not neurons:
        raise ValueError(
            f"rates have shape {trials[0].shape}, expected at least one neuron: (time, "
            "neuron)."
        )
    driven = _inputs(trials, inputs)
    frames, driven = _join(trials), _join(driven)
    if not isinstance(alpha, Tracer):
        alpha = doubles("alpha", alpha)
    module = _module(frames, driven, alpha)
    frames = module.asarray(frames)
    dtype = frames.dtype if dtype is None or module is jnp else dtype
    alpha = module.asarray(alpha, dtype)
    if alpha.ndim > 1 or (alpha.ndim == 1 and alpha.shape[0] != neurons):
        raise ValueError(
            f"alpha has shape {alpha.shape}, expected a number or ({neurons},), one a "
            "neuron."
        )
    rows = Rows(
        rates=frames,
        inputs=module.asarray(driven, dtype),
        alpha=module.broadcast_to(alpha, (neurons,)),
        lengths=lengths,
    )
    if check:
        check_values(rows)
    return rows


def _trials(name, data):
    """A list of trials `(time, channel)` of floats, NumPy's or JAX's."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        trials = [floats(name, t) for t in data]
        if trials and all(t.ndim == 2 for t in trials):
            return trials
        if not trials or any(t.ndim != 1 for t in trials):
            shapes = [t.shape for t in trials]
            raise ValueError(
                f"{name} is a list of arrays of shapes {shapes}, expected trials "
                "(time, channel)."
            )
        data = np.stack([np.asarray(t) for t in trials])
    data = floats(name, data)
    if data.ndim == 2:
        return [data]
    if data.ndim == 3 and data.shape[0]:
        return [data] if not data.shape[1] else _Stack(data)
    raise ValueError(
        f"{name} has shape {data.shape}, expected (time, neuron), "
        "(trial, time, neuron) or a list of trials."
    )


class _Stack(list):
    """Trials of one array, which joins without a copy."""

    def __init__(self, array):
        super().__init__(array[k] for k in range(array.shape[0]))
        self.array = array


def _join(trials):
    if isinstance(trials, _Stack):
        return trials.array.reshape(-1, trials.array.shape[-1])
    if len(trials) == 1:
        return trials[0]
    return _module(*trials).concatenate(trials, axis=0)


def _inputs(trials, inputs):
    """Inputs of every trial, one frame a frame of the rates."""
    module = _module(*trials)
    if inputs is None:
        return [module.zeros((r.shape[0], 0), r.dtype) for r in trials]
    given = _trials("inputs", inputs)
    if len(given) != len(trials):
        raise ValueError(
            f"inputs have {len(given)} trials, rates {len(trials)}: pass inputs in the "
            "same form as rates."
        )
    out = []
    for k, (r, u) in enumerate(zip(trials, given, strict=True)):
        check_shape(f"inputs of trial {k}", u, (None, given[0].shape[1]), "Same inputs")
        frames = r.shape[0]
        if u.shape[0] not in (frames, frames - 1):
            raise ValueError(
                f"inputs of trial {k} have {u.shape[0]} frames, expected {frames} as "
                f"the rates have, or {frames - 1} without the last one."
            )
        # No row begins at the last frame: what stands there must not matter.
        u = u[: frames - 1]
        out.append(_module(u).concatenate([u, u[-1:]], axis=0))
    return out


def floats(name: str, data: Any) -> Any:
    """Floating-point array; of JAX only if it is traced."""
    if isinstance(data, Tracer):
        return data if eqx.is_inexact_array(data) else data.astype(float)
    if isinstance(data, np.ma.MaskedArray):
        # NumPy would hand out what lies under the mask.
        data = np.ma.filled(data.astype(np.float64), np.nan)
    try:
        data = np.asarray(data)
    except ValueError as error:
        raise ValueError(
            f"{name} holds arrays of different shapes, expected one array. Trials of "
            "different lengths go into regression_rows, cornn and held_out, as a list."
        ) from error
    if data.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} has dtype {data.dtype}, expected real numbers. Pass an array of "
            "floats: np.asarray(data, float)."
        )
    return data if data.dtype in (np.float32, np.float64) else data.astype(np.float64)


def doubles(name: str, data: Any) -> np.ndarray:
    """The same in float64, on the host."""
    return np.asarray(floats(name, data), np.float64)


def _module(*arrays):
    """`jnp` if any array is traced or JAX's, otherwise `np`."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def check_values(rows):
    """What can only be said of concrete values."""
    check_alpha(rows.alpha)
    if is_concrete(rows.inputs) and not np.all(np.isfinite(np.asarray(rows.inputs))):
        raise ValueError(
            "inputs hold NaN or infinite entries, expected finite numbers. A missing "
            "input makes every neuron's row unknown: leave those frames out."
        )
    if not is_concrete(rows.rates):
        return
    frames = np.asarray(rows.rates)
    outside, finite = 0, 0
    alive = np.ones(rows.num_neurons, bool)
    # In blocks: a mask of all entries would be an eighth of the data.
    edges = [*range(0, rows.rates.shape[0], 4096), rows.rates.shape[0]]
    for a, b in itertools.pairwise(edges):
        block = frames[a:b]
        good = np.isfinite(block)
        alive &= good.all(axis=0)
        finite += int(good.sum())
        outside += int((np.abs(block[good]) > 1).sum())
    if not alive.any():
        raise ValueError(
            "every neuron has NaN or infinite rates, expected at least one without. "
            "Cut out the frames that are missing, and pass what is left as trials."
        )
    if outside > finite / 2:
        raise ValueError(
            f"{outside / finite:.0%} of the rates lie outside [-1, 1], expected rates "
            "in (-1, 1), which tanh can produce. Scale every neuron into that range."
        )


def check_alpha(alpha: Any) -> None:
    """Raise a `ValueError` unless every concrete `alpha` lies in (0, 1]."""
    if is_concrete(alpha):
        alpha = np.asarray(floats("alpha", alpha))
        if not np.all((alpha > 0) & (alpha <= 1)):
            shown = alpha if alpha.ndim == 0 or alpha.size < 6 else alpha[:6]
            raise ValueError(
                f"alpha = {shown}, expected dt / tau in (0, 1]. With tau the neurons' "
                "time constant, use frames closer together than tau."
            )


def check_in(name: str, value: Any, interval: str, remedy: str) -> None:
    """Raise a `ValueError` unless `value` is one number in an interval such as
    `"[0, inf)"`, as far as it is known."""
    if not is_in(value, interval):
        raise ValueError(
            f"{name} = {value}, expected one number in {interval}. {remedy}"
        )


def check_descent(tol_gradient: Any, **options: Any) -> None:
    """Raise a `ValueError` unless all of these are single numbers >= 0."""
    for name, value in options.items():
        check_in(name, value, "[0, inf)", "Leave it out for the default.")
    check_in("tol_gradient", tol_gradient, "[0, inf]", "Pass one, such as 1e-9.")


def check_precision(**kinds: Any) -> None:
    """Raise a `ValueError` unless all of these are float32 or float64."""
    for name, kind in kinds.items():
        try:
            known = np.dtype(kind) in (np.float32, np.float64)
        except TypeError:
            known = False
        if not known:
            raise ValueError(
                f"{name} = {kind}, expected np.float64 or np.float32: the precision."
            )


def check_ridge(ridge: Any) -> None:
    """Raise a `ValueError` unless a ridge is one finite number >= 0."""
    check_in("ridge", ridge, "[0, inf)", "Call once for each of several.")
