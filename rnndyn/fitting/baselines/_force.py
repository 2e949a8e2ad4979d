"""FORCE learning: recursive least squares in closed loop, frame by frame."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._problem import check_in
from ._baseline import (
    AbstractWeightStart,
    BaselineFit,
    FixedPointStart,
    check_kind,
    first_weights,
    mean_of_good,
    precision,
    problem,
    repeat,
)


class CurrentError(eqx.Module):
    """Errors of currents, `z - arctanh(d)`, as in Perich et al. 2021."""


class RateError(eqx.Module):
    """Errors of rates, `(r_predicted - r)/alpha`."""


def force(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = 1.0,
    error: CurrentError | RateError | None = None,
    ridge: Any = 200.0,
    input_ridge: Any = 1.0,
    start: AbstractWeightStart | None = None,
    epochs: int = 5,
    tol_change: Any = 1e-3,
    record_every: int | None = None,
) -> BaselineFit:
    r"""Fit a network to rates by FORCE learning.

    The network runs on its own rates from each trial's first frame. At every frame,
    with `k = P r`,

        P <- P - k k^T / (1 + r^T k),    W <- W - e (P r)^T

    and then steps with the new weights. All neurons share `P`, which starts at
    `I/ridge` in every epoch; inputs have one of their own.

    ```python
    fit = force(rates, alpha=0.1, error=RateError(), epochs=5)
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`, `dt`: as in `newton`.
    - `error`: `CurrentError()`, the original, by default; or `RateError()`.
    - `ridge`, `input_ridge`: inverse of the first `P`.
    - `start`: `FixedPointStart(ridge / T^2)` by default, as published;
      `RandomWeights(key, gain=2.0)` is the other.
    - `epochs`: passes over the data.
    - `tol_change`: relative change of all of a neuron's weights in the last epoch at
      which it counts as converged.
    - `record_every`: keep `theta` after every so many epochs.

    **Returns:** a `BaselineFit`. Its `loss` is the mean square error `e` of every
    epoch (the first entry is NaN: nothing is measured before), its `gradient_norm` is
    NaN: FORCE descends on no fixed loss. Not guaranteed: convergence.

    **Raises:** a `ValueError` for bad data or options.

    **Reference:** Sussillo & Abbott 2009, doi:10.1016/j.neuron.2009.07.018; Perich et
    al. 2021, doi:10.1101/2020.12.18.423348; settings of Dinc et al. 2023,
    arXiv:2311.10200.
    """
    error = CurrentError() if error is None else error
    kinds = CurrentError | RateError
    check_kind("error", error, kinds, "CurrentError() or RateError()")
    for name, value in (("ridge", ridge), ("input_ridge", input_ridge)):
        check_in(name, value, "(0, inf)", "Pass the inverse of the first P.")
    check_in("tol_change", tol_change, "[0, inf]", "Pass a share, such as 1e-3.")
    with precision(rates):
        rows, given = problem(rates, inputs, alpha, dt)
        dtype = given.x.dtype
        ridge = jnp.asarray(ridge, dtype)
        start = FixedPointStart(ridge / rows.num_rows**2) if start is None else start
        first = jnp.asarray(np.diff(rows.trial, prepend=-1) > 0)
        # The clipping of targets concerns currents only.
        currents = isinstance(error, CurrentError)
        wanted = jnp.arctanh(given.d) if currents else jnp.asarray(rows.r_next)
        theta, losses, change, kept = _force(
            given,
            jnp.where(given.good[None], wanted, 0),
            first,
            first_weights(start, given),
            ridge,
            jnp.asarray(input_ridge, dtype),
            currents,
            epochs,
            record_every,
        )
        good = given.good & jnp.all(jnp.isfinite(theta), axis=0)
        nothing = jnp.full((1,), jnp.nan, dtype)
        return BaselineFit(
            theta=theta,
            loss=jnp.concatenate([nothing, losses]),
            gradient_norm=jnp.full(theta.shape[1], jnp.nan, dtype),
            converged=(change <= jnp.asarray(tol_change, dtype)) & good,
            diverged=~good,
            num_steps=jnp.asarray(epochs, jnp.int32),
            snapshots=kept,
            alpha=given.alpha,
            dt=jnp.asarray(dt, dtype),
        )


@eqx.filter_jit
def _force(given, wanted, first, theta, ridge, input_ridge, currents, epochs, every):
    x, alpha = given.x, given.alpha
    n, p = wanted.shape[1], x.shape[1]
    P0 = jnp.eye(n, dtype=x.dtype) / ridge
    Q0 = jnp.eye(p - n, dtype=x.dtype) / input_ridge

    def frame(carry, row):
        r, W, V, P, Q = carry
        x, target, new = row
        # A trial starts at its true first frame.
        r = jnp.where(new, x[:n], r)
        z = r @ W + x[n:] @ V
        if currents:
            e = z - target
        else:
            # Of rates it is the prediction from the model's own rate that counts.
            e = ((1 - alpha) * r + alpha * jnp.tanh(z) - target) / alpha
        k = P @ r
        P = P - k[:, None] * (k / (1 + r @ k))[None, :]
        W = W - (k / (1 + r @ k))[:, None] * e[None, :]
        if p > n:
            u = x[n:]
            q = Q @ u
            Q = Q - q[:, None] * (q / (1 + u @ q))[None, :]
            V = V - (q / (1 + u @ q))[:, None] * e[None, :]
        r = (1 - alpha) * r + alpha * jnp.tanh(r @ W + x[n:] @ V)
        return (r, W, V, P, Q), mean_of_good(e**2, given.good)

    def epoch(state):
        theta, _ = state
        carry = (x[0, :n], theta[:n], theta[n:], P0, Q0)
        items = (x, wanted, first)
        (_, W, V, _, _), errors = jax.lax.scan(frame, carry, items)
        new = jnp.concatenate([W, V])
        size = jnp.sqrt(jnp.sum(new**2, axis=0))
        moved = jnp.sqrt(jnp.sum((new - theta) ** 2, axis=0))
        change = moved / jnp.where(size > 0, size, 1)
        return (new, change), jnp.mean(errors)

    state = (theta, jnp.full(n, jnp.inf, x.dtype))
    (theta, change), losses, kept = repeat(
        epoch, state, epochs, every, lambda s: s[0], name="epochs"
    )
    return theta, losses, change, kept
