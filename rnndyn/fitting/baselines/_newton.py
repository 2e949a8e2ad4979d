"""Newton's method on every neuron's own Hessian: exact, and slow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._core._checks import check_count, is_concrete
from .._problem import check_descent, check_ridge
from ..convex._outliers import Keep, Plain, Reject
from ._baseline import (
    AbstractWeightStart,
    BaselineFit,
    FixedPointStart,
    first_weights,
    free_entries,
    mean_of_good,
    precision,
    problem,
    repeat,
)


_FEW = 0.1
"""Below this share of kept rows the threshold of a neuron is raised tenfold."""


def newton(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = 1.0,
    ridge: Any = 1e-5,
    outliers: Any = None,
    mask: Any = None,
    start: AbstractWeightStart | None = None,
    num_steps: int = 20,
    tol_gradient: Any = 1e-10,
    record_every: int | None = None,
    lanes: int = 1,
) -> BaselineFit:
    r"""Fit a network to rates by Newton's method, neuron by neuron.

    Lowers, for every neuron,

        L = (1/n) sum_t c_t (ln 2cosh z_t - d_t z_t) + (ridge/2) |theta|^2 ,

    with `z = X theta`, over the `n` rows that are kept. Each step solves with the exact
    Hessian `X^T diag(c (1 - tanh^2 z)) X / n + ridge I` and halves its length until
    that same loss falls enough (Armijo). With `Plain()` this is the cross-entropy,
    which is convex and converges. With `Keep()` rows are weighted by `c = 1/(1 - d^2)`;
    with `Reject(threshold)` those whose error in current exceeds the threshold are left
    out besides, decided anew at every step.

    ```python
    fit = newton(rates, alpha=0.1, num_steps=10)
    assert fit.converged.all()
    fit.network
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`: as in `cornn`.
    - `dt`: one frame, in seconds; it only scales the network's time constant.
    - `ridge`: on the mean loss.
    - `outliers`: `Plain()` by default, `Keep()` or `Reject(threshold)`.
    - `mask`: `(predictor, neuron)`, true where a weight must be zero.
    - `start`: `FixedPointStart(ridge)` by default.
    - `num_steps`: at most; neurons that have converged are skipped.
    - `tol_gradient`: root mean square gradient at which a neuron has converged.
    - `record_every`: keep `theta` after every so many steps.
    - `lanes`: neurons advanced together; one is fastest on a CPU.

    **Returns:** a `BaselineFit`. With a finite threshold no convergence is guaranteed,
    and the loss may rise when the kept rows change.

    **Raises:** a `ValueError` for bad data, outlier rules other than these three, or
    fewer rows than predictors without a ridge.

    **Reference:** Dinc et al. 2023, arXiv:2311.10200 (a baseline; the line search
    there tests another loss than the one that is lowered).
    """
    outliers = Plain() if outliers is None else outliers
    if not isinstance(outliers, Plain | Keep | Reject):
        raise ValueError(
            f"outliers = {outliers}, expected Plain(), Keep() or Reject(threshold): "
            "the line search has no loss for other rules. Pass those to cornn."
        )
    if isinstance(outliers, Reject):
        if np.ndim(outliers.threshold):
            raise ValueError(
                f"threshold has shape {np.shape(outliers.threshold)}, expected one "
                "number: neurons are fitted one by one. Use cornn."
            )
        if outliers.freeze_after is not None:
            raise ValueError(
                f"freeze_after = {outliers.freeze_after}, expected None: here the kept "
                "rows are chosen at every step. Use cornn."
            )
        # As an array: another threshold needs no other program.
        threshold = np.asarray(outliers.threshold)
        outliers = Reject(threshold=threshold, rescale=outliers.rescale)
    check_ridge(ridge)
    check_descent(tol_gradient)
    check_count("lanes", lanes)
    with precision(rates):
        _, given = problem(rates, inputs, alpha, dt)
        dtype = given.x.dtype
        num_rows, p = given.x.shape
        if num_rows < p and is_concrete(ridge) and np.all(np.asarray(ridge) == 0):
            raise ValueError(
                f"{num_rows} rows for {p} predictors without a ridge: infinitely many "
                "weights fit perfectly. Pass ridge > 0, or a longer recording."
            )
        ridge = jnp.asarray(ridge, dtype)
        free = free_entries(mask, (given.x.shape[1], given.d.shape[1]))
        start = FixedPointStart(ridge) if start is None else start
        theta, end, losses, kept, steps, gradient = _newton(
            given,
            first_weights(start, given),
            free,
            ridge,
            outliers,
            jnp.asarray(tol_gradient, dtype),
            num_steps,
            record_every,
            lanes,
        )
        good = given.good & jnp.all(jnp.isfinite(theta), axis=0)
        return BaselineFit(
            theta=theta,
            loss=losses,
            gradient_norm=gradient,
            converged=end & good,
            diverged=~good,
            num_steps=steps,
            snapshots=kept,
            alpha=given.alpha,
            dt=jnp.asarray(dt, dtype),
        )


@eqx.filter_jit
def _newton(given, theta, free, ridge, outliers, tol, num_steps, every, lanes):
    x, d = given.x, given.d
    entries = jnp.ones(theta.shape, bool) if free is None else free
    # Silent predictors have no curvature: their weights are held at zero.
    entries &= jnp.any(x != 0, axis=0)[:, None]
    theta = jnp.where(entries, theta, 0)

    def advance(column):
        theta, d, free, done = column
        # One neuron at a time this skips the work of those that have converged.
        return jax.lax.cond(
            done,
            lambda: (theta, done, _loss_at(x, d, theta, ridge, outliers)),
            lambda: _step(x, d, theta, free, ridge, outliers, tol),
        )

    def step(state):
        theta, done, count = state
        columns = (theta.T, d.T, entries.T, done)
        many = {} if lanes == 1 else {"batch_size": lanes}
        new, now, losses = jax.lax.map(advance, columns, **many)
        count = count + jnp.any(~done).astype(count.dtype)
        return (new.T, now, count), mean_of_good(losses, given.good)

    state = (theta, jnp.zeros(d.shape[1], bool), jnp.zeros((), jnp.int32))
    measure = lambda th, di, fr: _gradient(
        x, di, th, fr, ridge, *_rows(x @ th, di, outliers)
    )
    first = jax.vmap(
        lambda th, di: _loss_at(x, di, th, ridge, outliers),
        in_axes=1,
    )(theta, d)
    (theta, _, count), losses, kept = repeat(
        step, state, num_steps, every, lambda s: s[0]
    )
    gradient = jax.vmap(measure, in_axes=1)(theta, d, entries)
    norm = jnp.sqrt(jnp.mean(gradient**2, axis=1))
    losses = jnp.concatenate([mean_of_good(first, given.good)[None], losses])
    return theta, norm <= tol, losses, kept, count, norm


def _rows(z, d, outliers):
    """Weight of every row of one neuron in its loss, and `z`."""
    if isinstance(outliers, Plain):
        return jnp.full_like(d, 1 / d.shape[0]), z
    c = 1 / (1 - d**2)
    if isinstance(outliers, Keep):
        return c / d.shape[0], z
    error = jnp.abs((d - jnp.tanh(z)) * c)
    threshold = jnp.asarray(outliers.threshold, d.dtype)
    kept = error <= threshold
    kept = jnp.where(jnp.mean(kept) < _FEW, error <= 10 * threshold, kept)
    count = jnp.maximum(jnp.sum(kept), 1) if outliers.rescale else d.shape[0]
    return kept * c / count, z


def _gradient(x, d, theta, free, ridge, weight, z):
    return jnp.where(free, ridge * theta - x.T @ (weight * (d - jnp.tanh(z))), 0)


def _value(z, d, theta, ridge, weight):
    entropy = jnp.logaddexp(z, -z) - d * z
    return jnp.sum(weight * entropy) + ridge / 2 * jnp.sum(theta**2)


def _loss_at(x, d, theta, ridge, outliers):
    weight, z = _rows(x @ theta, d, outliers)
    return _value(z, d, theta, ridge, weight)


def _step(x, d, theta, free, ridge, outliers, tol):
    """One damped Newton step of one neuron; whether it had already converged."""
    weight, z = _rows(x @ theta, d, outliers)
    gradient = _gradient(x, d, theta, free, ridge, weight, z)
    curvature = weight * (1 - jnp.tanh(z) ** 2)
    hessian = x.T @ (curvature[:, None] * x)
    both = free[:, None] & free[None, :]
    # Weights that are held at zero get rows of the identity.
    diagonal = jnp.where(free, ridge, 1)
    hessian = jnp.where(both, hessian, 0) + jnp.diag(diagonal)
    factor = jax.scipy.linalg.cho_factor(hessian, lower=True)
    direction = jax.scipy.linalg.cho_solve(factor, -gradient)
    descent = jnp.dot(gradient, direction)
    z_step = x @ direction
    before = _value(z, d, theta, ridge, weight)
    # Next to the minimum the loss is flat to rounding.
    slack = 8 * jnp.finfo(x.dtype).eps * jnp.abs(before)

    def falls(s):
        value = _value(z + s * z_step, d, theta + s * direction, ridge, weight)
        return value <= before + 1e-4 * s * descent + slack

    def shorter(carry):
        s, _, k = carry
        s = s / 2
        return s, falls(s), k + 1

    one = jnp.ones((), x.dtype)
    s, ok, _ = jax.lax.while_loop(
        lambda c: ~c[1] & (c[2] < 40), shorter, (one, falls(one), 0)
    )
    done = jnp.sqrt(jnp.mean(gradient**2)) <= tol
    move = ok & ~done
    theta = jnp.where(move, theta + s * direction, theta)
    value = jnp.where(move, _value(z + s * z_step, d, theta, ridge, weight), before)
    return theta, done, value
