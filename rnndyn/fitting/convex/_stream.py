"""A fit that goes on while the recording does."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ..._core._batch import to_host
from ..._core._checks import check_count, check_shape, is_concrete
from ..._core._closures import precise
from ...models import RateRNN
from .._fit import AbstractWeights
from .._problem import Real, check_alpha, check_in, check_precision, floats, targets
from ._factor import Cholesky
from ._iteration import rms
from ._outliers import AbstractOutliers, Reject, check_outliers


PANEL = 32
"""Columns of the factor that are updated together."""
REFACTOR = 24
"""Predictors a new row from which updating the factor beats making it anew."""


class StreamState(AbstractWeights):
    r"""What a stream keeps of the frames that have passed.

    **Attributes:**

    - `factor`: lower Cholesky factor of `X^T X + load I`, all rows that ever came.
    - `gram`: `X^T X` of all rows; `old_gram`: of those that have left the window.
    - `cross`: `X^T arctanh(d)` of all rows.
    - `old_cross`: of rows that have left the window, with targets as they were believed
      when they left: the prediction if the sample was an outlier, else prediction plus
      error.
    - `old_kept`: kept samples among those, one number a neuron.
    - `theta`: fitted weights `(predictor, neuron)`.
    - `fixed_point`: ridge regression on currents of all rows, exact.
    - `gradient_norm`: root mean square gradient of every neuron before the last step,
      of the loss in which rows that have left the window are linearised: it says
      whether the steps have converged, not how far the weights are from those of the
      batch fit. NaN if the last update took no step.
    - `x`, `d`, `filled`: the window, newest rows last, and which of its rows hold data.
    - `last`: the last frame and its input; `started`: whether there is one.
    - `num_rows`: rows that came.
    - `load`, `alpha`, `outliers`: as given to `stream`.
    """

    factor: Float[Real, "predictor predictor"]
    gram: Float[Real, "predictor predictor"]
    old_gram: Float[Real, "predictor predictor"]
    cross: Float[Real, "predictor neuron"]
    old_cross: Float[Real, "predictor neuron"]
    old_kept: Float[Real, " neuron"]
    theta: Float[Real, "predictor neuron"]
    fixed_point: Float[Real, "predictor neuron"]
    gradient_norm: Float[Real, " neuron"]
    x: Float[Real, "window predictor"]
    d: Float[Real, "window neuron"]
    filled: Bool[Real, " window"]
    last: Float[Real, " predictor"]
    started: Bool[Real, ""]
    num_rows: Int[Real, ""]
    load: Float[Real, ""]
    alpha: Float[Real, " neuron"]
    outliers: AbstractOutliers

    @property
    def network(self) -> RateRNN:
        """The network so far; time is counted in frames."""
        return RateRNN.from_arrays(self.W, self.W_in, tau=1 / self.alpha)


def stream(
    num_neurons: int,
    num_inputs: int = 0,
    *,
    alpha: Any,
    load: Any,
    outliers: AbstractOutliers | None = None,
    window: int | None = None,
    dtype: Any = np.float64,
) -> StreamState:
    """An empty stream, to be fed by `update`.

    ```python
    state = stream(rates.shape[1], alpha=0.1, load=1e-5 * 10_000)
    for frames in chunks:
        state = update(state, frames)
    ```

    **Arguments:**

    - `num_neurons`, `num_inputs`: sizes of a frame.
    - `alpha`: `dt / tau`, a number or one a neuron.
    - `load`: ridge times number of rows of the batch fit that is to be matched. It
      stays: a ridge that grew with every row would change the whole factor.
    - `outliers`: as in `cornn`, without `freeze_after`.
    - `window`: newest rows whose targets are looked at again in every update; twenty
      times the predictors by default.
    - `dtype`: precision.

    **Returns:** a `StreamState` with zero weights.

    **Raises:** a `ValueError` for sizes below 1, `load` not above 0, `alpha` outside
    (0, 1], another precision, outlier rules that `cornn` refuses, or `freeze_after`.
    """
    outliers = Reject() if outliers is None else outliers
    check_count("num_neurons", num_neurons)
    check_outliers(outliers, num_neurons)
    check_precision(dtype=dtype)
    check_count("num_inputs", num_inputs, 0)
    window = 20 * (num_neurons + num_inputs) if window is None else window
    check_count("window", window)
    check_in("load", load, "(0, inf)", "Pass ridge times number of rows.")
    if outliers.freeze_after is not None:
        raise ValueError(
            "outliers have freeze_after, expected None: rows that leave the window are "
            "frozen anyway."
        )
    check_alpha(alpha)
    if np.ndim(alpha):
        check_shape("alpha", alpha, (num_neurons,), "A number, or one a neuron.")
    p, n = num_neurons + num_inputs, num_neurons
    zeros = lambda *shape: np.zeros(shape, dtype)
    return StreamState(
        factor=np.sqrt(load) * np.eye(p, dtype=dtype),
        gram=zeros(p, p),
        old_gram=zeros(p, p),
        cross=zeros(p, n),
        old_cross=zeros(p, n),
        old_kept=zeros(n),
        theta=zeros(p, n),
        fixed_point=zeros(p, n),
        gradient_norm=np.full(n, np.nan, dtype),
        x=zeros(window, p),
        d=zeros(window, n),
        filled=np.zeros(window, bool),
        last=zeros(p),
        started=np.asarray(False),
        num_rows=np.asarray(0),
        load=np.asarray(load, dtype),
        alpha=np.broadcast_to(np.asarray(alpha, dtype), (n,)).copy(),
        outliers=outliers,
    )


def update(
    state: StreamState,
    frames: Any,
    inputs: Any = None,
    *,
    steps: int = 3,
    restart: bool = False,
    new_trial: bool = False,
) -> StreamState:
    r"""The stream after new frames.

    Exact, up to rounding and whatever the chunks: `gram`, `cross`, `factor` and
    `fixed_point` are those of a batch fit of all rows with the same `load` (which
    leaves constant neurons out; here one that is not 0 acts as a bias). The factor is
    updated by rank `k` where that is cheaper (see `update_factor`), else made anew.

    Then come `steps` steps of `cornn` in which rows of the window are looked at afresh,
    and older rows enter with the error that they had when they left. While the window
    holds all rows these are steps of the batch fit, taken from the fixed point of all
    rows so far, except for neurons of which under two thirds of the samples are kept:
    with `rescale` their steps are shortened to the kept share, those of `cornn` are
    not. Later they go on from the weights so far and are an approximation: a
    row that was an outlier when it left goes on to speak for the weights of that time.
    How much that costs depends on how good weights from one window are.

    ```python
    state = update(state, frames)
    state.W, state.fixed_point, state.gradient_norm
    ```

    **Arguments:**

    - `state`: from `stream` or `update`.
    - `frames`: `(frame, neuron)`, the frames after those that came. A chunk longer than
      the window is taken in pieces of its length, with `steps` steps each.
    - `inputs`: `(frame, input)` at those frames.
    - `steps`: steps taken now.
    - `restart`: whether they start at the fixed point, not at the weights so far.
    - `new_trial`: whether the first frame does not follow the last one that came.

    **Returns:** the new `StreamState`, of NumPy arrays unless traced. Chunks of one
    length share a program. A chunk with NaN must not be fed: it would stay.

    **Raises:** a `ValueError` for wrong shapes, no or non-finite frames.
    """
    n, p = state.theta.shape[1], state.theta.shape[0]
    frames = floats("frames", frames)
    check_shape("frames", frames, (None, n), "The neurons of the stream, (frame, ...).")
    if not frames.shape[0]:
        raise ValueError(
            "frames has 0 frames, expected at least 1. Skip the update until one comes."
        )
    if inputs is None:
        inputs = np.zeros((frames.shape[0], 0), state.theta.dtype)
    inputs = floats("inputs", inputs)
    if is_concrete(steps):
        check_count("steps", steps, 0)
    check_shape("inputs", inputs, (frames.shape[0], p - n), "One a frame.")
    args = (state, frames, inputs, steps, restart, new_trial)
    if any(isinstance(a, Tracer) for a in jax.tree.leaves(args)):
        return _in_pieces(*args)
    if not (np.all(np.isfinite(frames)) and np.all(np.isfinite(inputs))):
        raise ValueError(
            "frames or inputs hold NaN or infinite entries, expected finite numbers. "
            "Leave such frames out, and feed the next ones with new_trial=True."
        )
    single = state.theta.dtype == np.float32
    with jax.enable_x64(not single):
        arrays = lambda a: jnp.asarray(a, state.theta.dtype)
        args = (state, arrays(frames), arrays(inputs), jnp.asarray(steps))
        flags = jnp.asarray(restart), jnp.asarray(new_trial)
        return to_host(_in_pieces(*args, *flags))


def _in_pieces(state, frames, inputs, steps, restart, new_trial):
    """`_update` with no more frames than the window holds: rows that came and left in
    one update would be judged with weights that never saw them."""
    window = state.x.shape[0]
    for k in range(0, frames.shape[0], window):
        piece = slice(k, k + window)
        state = _update(state, frames[piece], inputs[piece], steps, restart, new_trial)
        new_trial = jnp.asarray(False)
    return state


@eqx.filter_jit
@precise
def _update(state, frames, inputs, steps, restart, new_trial):
    """One chunk."""
    new = jnp.concatenate([frames, inputs], axis=1).astype(state.last.dtype)
    x = jnp.concatenate([state.last[None, :], new[:-1]])
    k, n = x.shape[0], frames.shape[1]
    counts = jnp.ones(k, bool).at[0].set(state.started & ~jnp.asarray(new_trial))
    d = targets(x[:, :n], new[:, :n], state.alpha[None, :])
    x, d = jnp.where(counts[:, None], x, 0), jnp.where(counts[:, None], d, 0)
    gram = state.gram + x.T @ x
    cross = state.cross + x.T @ jnp.arctanh(d)
    if x.shape[1] > REFACTOR * k:
        factor = update_factor(state.factor, x)
    else:
        load = state.load * jnp.eye(x.shape[1], dtype=x.dtype)
        factor = jnp.linalg.cholesky(gram + load)
    solve = Cholesky(factor).solve
    fixed_point = solve(cross)
    # The rows that leave the window, with what is believed of them now.
    xs = jnp.concatenate([state.x, x])
    ds = jnp.concatenate([state.d, d])
    filled = jnp.concatenate([state.filled, counts])
    error, kept = _errors(state.outliers, xs[:k], ds[:k], filled[:k], state.theta)
    believed = xs[:k] @ state.theta + error
    old_gram = state.old_gram + xs[:k].T @ xs[:k]
    old_cross = state.old_cross + xs[:k].T @ believed
    old_kept = state.old_kept + kept
    xs, ds, filled = xs[k:], ds[k:], filled[k:]
    num_rows = state.num_rows + jnp.sum(counts)
    # Weights from few rows reject what they should learn from, and never recover.
    first = jnp.asarray(restart) | (num_rows <= state.x.shape[0])
    first |= state.num_rows == 0
    theta = jnp.where(first, fixed_point, state.theta)
    xs_t = lax.optimization_barrier(xs.T)

    def step(_, carry):
        theta, _ = carry
        error, kept = _errors(state.outliers, xs, ds, filled, theta)
        scale = jnp.ones_like(kept)
        if state.outliers.rescale:
            scale = num_rows / jnp.maximum(old_kept + kept, 1)
        total = old_cross - old_gram @ theta + xs_t @ error
        slope = scale[None, :] * total - state.load * theta
        # With few rows most can be outliers; a full step would then overshoot.
        length = jnp.where(scale > 1.5, 1 / scale, 1)[None, :]
        return theta + length * solve(slope), rms(slope) / jnp.maximum(num_rows, 1)

    unknown = jnp.full_like(state.gradient_norm, jnp.nan)
    theta, size = lax.fori_loop(0, steps, step, (theta, unknown))
    return StreamState(
        factor=factor,
        gram=gram,
        old_gram=old_gram,
        cross=cross,
        old_cross=old_cross,
        old_kept=old_kept,
        theta=theta,
        fixed_point=fixed_point,
        gradient_norm=size,
        x=xs,
        d=ds,
        filled=filled,
        last=new[-1],
        started=jnp.asarray(True),
        num_rows=num_rows,
        load=state.load,
        alpha=state.alpha,
        outliers=state.outliers,
    )


def _errors(outliers, x, d, filled, theta):
    """Errors that enter, zero in empty rows, and kept samples of every neuron."""
    error = outliers.error(d, jnp.arctanh(d), x @ theta)
    kept = outliers.keep(error)
    error = jnp.where(filled[:, None], outliers.limit(error, kept), 0)
    return error, jnp.sum(kept & filled[:, None], axis=0).astype(error.dtype)


def update_factor(
    factor: Float[Array, "predictor predictor"], x: Float[Array, "row predictor"]
) -> Float[Array, "predictor predictor"]:
    """Lower Cholesky factor of `L L^T + x^T x` from `L`, by orthogonal panels.

    `[L^T; x]` is brought to triangular form a panel of columns at a time by the QR
    decomposition of the panel, applied to the rest by matrix products: about
    `2 p^2 (panel + k)^2 / panel` operations instead of `p^3 / 3`. Nothing is
    subtracted, so that the factor stays accurate over any number of updates.

    **Reference:** Golub & Van Loan 2013, Matrix Computations, section 6.5.
    """
    p, k = factor.shape[0], x.shape[0]
    panels = -(-p // PANEL)
    extra = panels * PANEL - p
    upper = jnp.pad(factor.T, ((0, extra), (0, extra)))
    pad = jnp.arange(p, p + extra)
    upper = upper.at[pad, pad].set(1)
    x = jnp.pad(x, ((0, 0), (0, extra)))
    column = jnp.arange(p + extra)

    def body(i, state):
        upper, x = state
        start = i * PANEL
        rows = jnp.concatenate([lax.dynamic_slice_in_dim(upper, start, PANEL), x])
        panel = lax.dynamic_slice_in_dim(rows, start, PANEL, axis=1)
        q, r = jnp.linalg.qr(panel, mode="complete")
        # Positive diagonal, so that the factor is the unique one.
        sign = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)
        q = q * jnp.concatenate([sign, jnp.ones(k, q.dtype)])[None, :]
        turned = q.T @ rows
        inside = column[None, :] >= start
        top = jnp.where(inside, turned[:PANEL], 0)
        below = jnp.where(column[None, :] >= start + PANEL, turned[PANEL:], 0)
        return lax.dynamic_update_slice_in_dim(upper, top, start, 0), below

    upper, _ = lax.fori_loop(0, panels, body, (upper, x))
    return jnp.tril(upper[:p, :p].T)
