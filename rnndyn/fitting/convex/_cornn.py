"""Data-constrained recurrent networks from recordings, by convex regression."""

import contextlib
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._core._batch import to_host
from ..._core._checks import check_count, check_shape, is_concrete
from ..._core._closures import precise
from ..._core._verdicts import Verdict
from .._problem import check_in, check_precision, check_ridge, regression_rows
from ._blocks import Blocks, clipped_share, survey
from ._constraints import LowRank, build_constraint
from ._cornn_fit import CornnFit, NeuronFlag, remarks
from ._implicit import attach
from ._iteration import Admm, Backtrack, Momentum, Normal, Solver, rms
from ._outliers import AbstractOutliers, Reject, check_outliers


SATURATED = 0.5
"""Share of clipped targets from which a neuron counts as saturated."""


def cornn(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = None,
    ridge: Any = 1e-5,
    outliers: AbstractOutliers | None = None,
    mask: Any = None,
    sign: Any = None,
    rank: Any = None,
    init: Any = None,
    max_steps: Any = 30,
    tol: Any = 1e-9,
    damping: Any = 1.0,
    splitting: Admm | None = None,
    dtype: Any = np.float64,
    sweep_dtype: Any = None,
    block_size: int | None = None,
) -> CornnFit:
    r"""A recurrent network that predicts every next frame of a recording.

    Fits `theta` of `r_{t+1} = (1 - alpha) r_t + alpha tanh(theta^T [r_t, u_t])` by
    regularised regression on the targets `d_t` (see `Rows`): for every neuron it
    minimises

        (1/T) sum_t c_t [ln(2 cosh z_t) - d_t z_t] + (ridge/2) |theta|^2 ,
        c_t = 1 / (1 - d_t^2) ,   z_t = theta^T x_t ,

    with outliers dealt with by `outliers`. The weights `c` make the Hessians of all
    neurons nearly equal to `A/T = X^T X / T + ridge`, so that one Cholesky factor
    serves all of them in every step:

        theta <- theta + A^-1 (X^T E - ridge T theta) ,   E = (d - tanh z) / (1 - d^2) .

    The start is the fixed point of that step with `E` linearised: ridge regression of
    `arctanh d`. Constraints are split off by ADMM.

    ```python
    fit = rd.fitting.cornn(rates, alpha=0.1, outliers=rd.fitting.Reject(0.2))
    fit.W, fit.gradient_norm, fit.kept
    points = rd.dynamics.fixed_points(fit.network, x0s)
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`: see `regression_rows`; `alpha = dt / tau`, a number or
      one a neuron.
    - `dt`: time between frames in seconds; 1 if not given, and `tau` is in frames then.
    - `ridge`: strength per row.
    - `outliers`: `Reject(threshold)`, `Clip(threshold)`, `Keep()` or `Plain()`;
      `Reject(1.0)` by default.
    - `mask`: bool `(predictor, neuron)`, True where a weight is held at 0; see
      `no_self_connections`.
    - `sign`: Dale's law, `(neuron,)` of 1, -1 and 0 for either: what goes out of a
      neuron has its sign.
    - `rank`: largest rank of `W`; not together with `mask` or `sign`.
    - `init`: weights to start from, `(predictor, neuron)`; the fixed point by default.
    - `max_steps`: most steps, one pass over the data each; 0 is the fixed point.
    - `tol`: root mean square gradient at which a neuron counts as converged.
    - `damping`: length of a step, `Backtrack()` or `Momentum()`.
    - `splitting`: penalty and start of ADMM; `Admm()` by default.
    - `dtype`: precision of data and weights, on the host. Traced arguments keep theirs.
    - `sweep_dtype`: precision of passes over the data while steps are taken;
      `np.float32` takes half the time. The last pass, which is reported, is in `dtype`,
      and steps go on in `dtype` if the tolerance needs it.
    - `block_size`: rows in a block.

    **Returns:** a `CornnFit`: of NumPy arrays, or traced if an argument is. With
    hard rejection the weights are one of many local minima. Under `jax.grad` the
    derivatives are those of the converged fit with its kept set held, see
    `differentiable`. Nothing is said about how well the network runs freely.

    **Raises:** a `ValueError` for what `regression_rows` refuses, for wrong shapes of
    constraints and starts, for options outside their range, and for fewer rows than
    predictors without a ridge. Warns, unless traced, of more neurons than frames, of
    neurons left out because they are not finite, and if over 20 % of all targets were
    clipped.

    **Reference:** Dinc, Shai, Schnitzer & Tanaka 2023, arXiv:2311.10200.
    """
    check_precision(dtype=dtype, sweep_dtype=sweep_dtype or dtype)
    single = np.dtype(dtype) == np.float32
    rows = regression_rows(
        rates, inputs, alpha=alpha, dtype=None if single else np.float64
    )
    constraint = build_constraint(rows.num_neurons, rows.num_inputs, mask, sign, rank)
    dt = 1.0 if dt is None else dt
    outliers = Reject() if outliers is None else outliers
    splitting = Admm() if splitting is None else splitting
    _check(rows, constraint, ridge, init, damping, max_steps)
    options = outliers, damping, tol, splitting, block_size
    _check_options(rows.num_neurons, constraint, *options)
    check_in("dt", dt, "(0, inf)", "Pass the seconds from one frame to the next.")
    args = {
        "rows": rows,
        "dt": dt,
        "ridge": ridge,
        "outliers": outliers,
        "constraint": constraint,
        "init": init,
        "max_steps": max_steps,
        "tol": tol,
        "damping": damping,
        "rho": splitting.rho,
    }
    static = {
        "shifted": splitting.shifted,
        "sweep_dtype": sweep_dtype,
        "block_size": block_size,
    }
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args)):
        return _fit(**_arrays(args, rows.rates.dtype), **static)
    frames, neurons = rows.rates.shape
    if neurons > frames:
        warnings.warn(
            f"rates have {neurons} neurons and only {frames} frames: rates are (time, "
            "neuron); transpose them?",
            stacklevel=2,
        )
    with contextlib.nullcontext() if single else jax.enable_x64(True):
        arrays = _arrays(args, jnp.float32 if single else jnp.float64)
        fit = to_host(_fit(**arrays, **static))
    for message in remarks(fit, constraint is not None):
        warnings.warn(message, stacklevel=2)
    return fit


def _check(rows, constraint, ridge, init, damping, max_steps):
    """What can be wrong beside the data."""
    p, n = rows.num_predictors, rows.num_neurons
    if init is not None:
        check_shape("init", init, (p, n), "Predictor first, as fit.theta.")
        if is_concrete(init) and not np.all(np.isfinite(np.asarray(init))):
            raise ValueError(
                "init holds NaN or infinite entries, expected finite weights. Leave it "
                "out to start at the fixed point."
            )
    if is_concrete(max_steps):
        if np.ndim(max_steps) or np.asarray(max_steps).dtype.kind not in "iu":
            raise ValueError(f"max_steps = {max_steps}, expected one whole number.")
        if max_steps < 0:
            raise ValueError(f"max_steps = {max_steps}, expected 0 or more.")
    if constraint is not None and isinstance(damping, (Backtrack, Momentum)):
        raise ValueError(
            f"damping is {type(damping).__name__} together with a constraint, expected "
            "a number: steps of ADMM lower no single function."
        )
    check_ridge(ridge)
    if is_concrete(ridge):
        if ridge == 0 and rows.num_rows < p:
            raise ValueError(
                f"{rows.num_rows} rows for {p} predictors without a ridge: infinitely "
                "many weights fit perfectly. Pass ridge > 0, or a longer recording."
            )
        if ridge == 0 and constraint is not None:
            raise ValueError(
                "ridge = 0 together with a constraint, expected > 0: ADMM's penalty is "
                "relative to the ridge."
            )


def _check_options(
    num_neurons, constraint, outliers, damping, tol, splitting, block_size
):
    """Numbers that would be taken silently, and spoil the fit."""
    check_outliers(outliers, num_neurons)
    check_in("tol", tol, "[0, inf]", "Pass a gradient, such as 1e-9.")
    if isinstance(damping, Backtrack):
        check_in("shrink of Backtrack", damping.shrink, "(0, 1)", "Pass 0.5.")
    elif isinstance(damping, Momentum):
        check_in("beta of Momentum", damping.beta, "[0, 1)", "Pass 0.3.")
    else:
        remedy = "Pass a length, such as 1.0, Backtrack() or Momentum()."
        check_in("damping", damping, "(0, inf)", remedy)
    if not isinstance(splitting, Admm):
        raise ValueError(
            f"splitting = {splitting!r}, expected Admm: pass Admm(rho), such as "
            "Admm(100.0)."
        )
    if constraint is not None:
        remedy = "Pass a penalty, such as 100.0."
        check_in("rho of Admm", splitting.rho, "(0, inf)", remedy)
    if block_size is not None:
        check_count("block_size", block_size)


def _arrays(args: Any, dtype: Any) -> Any:
    """Numbers as arrays, so that other values need no other program."""

    def cast(leaf):
        if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic, jax.Array)):
            return leaf
        kind = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
        return jnp.asarray(leaf, dtype if np.issubdtype(kind, np.floating) else None)

    return jax.tree.map(cast, args)


@eqx.filter_jit
@precise
def _fit(
    *,
    rows,
    dt,
    ridge,
    outliers,
    constraint,
    init,
    max_steps,
    tol,
    damping,
    rho,
    shifted,
    sweep_dtype,
    block_size,
):
    """The fit as one program."""
    given = rows, ridge
    rows, ridge, init = jax.lax.stop_gradient((rows, ridge, init))
    finite, varies = survey(rows.rates)
    alive = finite & varies
    mixed = sweep_dtype is not None and np.dtype(sweep_dtype) != rows.rates.dtype
    blocks = Blocks(rows, alive, size=block_size, store=False if mixed else None)
    clipped = clipped_share(blocks)
    penalty = jnp.zeros_like(ridge)
    if constraint is not None:
        penalty = rho * ridge * blocks.num_rows
    normal = Normal(blocks, ridge, penalty)
    solver = Solver(normal, ridge, penalty, outliers, constraint, damping, shifted)
    inputs = jnp.ones(rows.num_inputs, bool)
    linked = jnp.concatenate([alive, inputs])[:, None] & alive[None, :]
    theta = normal.start if init is None else jnp.asarray(init, rows.rates.dtype)
    # No step changes weights of neurons left out: they would stay as they came.
    theta = jnp.where(linked, theta, 0)
    quick = blocks
    if mixed:
        quick = Blocks(rows, alive, dtype=sweep_dtype, size=block_size)
    state = solver.begin(quick, theta)
    first = state.rms
    if constraint is not None:
        first = first + solver.bend(blocks, theta - constraint.project(theta))
    if mixed:
        # Below this a gradient is rounding of the quick passes.
        floor = jnp.maximum(tol, 2 * float(jnp.finfo(sweep_dtype).eps))
        state = solver.run(quick, state, max_steps, floor)
        state = solver.look_again(blocks, state)
    state = solver.run(blocks, state, max_steps, tol)
    theta, norm, kept = state.theta, state.rms, state.sweep.kept
    held, gap = state.sweep.mask, jnp.zeros_like(norm)
    if constraint is not None and state.dual is not None:
        theta = jnp.where(linked, constraint.project(state.chi), 0)
        gap = rms(state.theta - theta)
        swept = solver.look(blocks, theta, held, state.step + 1)
        kept, held = swept.kept, swept.mask
        norm = rms(swept.gradient + penalty / blocks.num_rows * state.dual)
    grown = ~jnp.isfinite(norm) | (norm > 10 * first + tol) | state.failed
    found = (norm <= tol) & normal.regular & (kept > 0)
    verdict = jnp.where(found, Verdict.root, Verdict.undetermined)
    verdict = jnp.where(grown, Verdict.diverged, verdict)
    verdict = jnp.where(alive, verdict, Verdict.constant)
    flag = jnp.where(clipped >= SATURATED, NeuronFlag.saturated, NeuronFlag.fine)
    flag = jnp.where(varies, flag, NeuronFlag.constant)
    flag = jnp.where(finite, flag, NeuronFlag.not_finite)
    fixed = {"outliers": outliers, "constraint": constraint, "normal": normal}
    # A start that is the solution already has the kept set that goes with it.
    stays = (state.sweep.changed == 0) | (state.step == 0)
    if isinstance(constraint, LowRank):
        stays = jnp.zeros_like(stays)  # the derivative is NaN
    lazy = Blocks(given[0], alive, size=block_size, store=False)
    theta = attach(lazy, theta, held, ridge=given[1], **fixed)
    return CornnFit(
        theta=theta,
        alpha=given[0].alpha,
        dt=dt,
        ridge=given[1],
        gradient_norm=norm,
        kept=jnp.where(alive, kept, 0),
        kept_changed=state.sweep.changed,
        clipped=clipped,
        flag=flag,
        verdict=verdict,
        differentiable=(verdict == Verdict.root) & stays,
        regular=normal.regular,
        gap=gap,
        num_steps=state.step,
    )
