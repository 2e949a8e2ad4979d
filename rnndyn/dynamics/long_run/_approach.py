"""Following starts to where the long run begins, and the pace of what is there.

Fixed steps measure best, but which step is not known before the motion is: far starts
may be much stiffer, or much slower, than what they lead to.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from ..._core._jacobian import jacobian
from ..._core._masks import norm
from .._steps import embedded_step, next_length


SAMPLES = 8
"""States at which the pace is measured."""


class Approach(NamedTuple):
    """Where a flow is after a number of attempted steps.

    - `x`: the state; `time`: how far it is from the start.
    - `rate`: about the largest modulus of an eigenvalue of df/dx in the later half.
    - `away`: whether it left every bound, 1e8 max(1, |x0|), or is not defined at the
        start. Errors were controlled on the way, so this is not made up by the steps.
    """

    x: Float[Array, " state"]
    time: Float[Array, ""]
    rate: Float[Array, ""]
    away: Bool[Array, ""]


def approach(
    system: Any, x0: Float[Array, " state"], args: PyTree, attempts: Any
) -> Approach:
    """Follow a flow by steps of controlled error, 1e-6 of a variable. Pure; `attempts`
    may be traced."""
    field = lambda x: system(jnp.zeros((), x.dtype), x, args)
    size = norm(x0)
    bound = 1e8 * jnp.maximum(1, size)
    half = attempts // 2
    every = jnp.maximum(half // SAMPLES, 1)

    def attempt(i, carry):
        x, slope, h, time, visited, away = carry
        new, end, worst = embedded_step(field, x, slope, h, 1e-6)
        good = (worst <= 1) & ~away
        x, slope = jnp.where(good, new, x), jnp.where(good, end, slope)
        time = time + jnp.where(good, h, 0)
        # At rest without rounding nothing would stop the growth.
        h = jnp.minimum(next_length(h, worst), 1e100)
        place = jnp.clip((i - half) // every, 0, SAMPLES - 1)
        away = away | (norm(x) > bound)
        return x, slope, h, time, visited.at[place].set(x), away

    slope = field(x0)
    away = ~jnp.all(jnp.isfinite(slope))
    x, slope = jnp.where(away, 0, x0), jnp.where(away, 0, slope)
    h = 1e-2 * (size + 1e-3) / jnp.maximum(norm(slope), 1e-100)
    visited = jnp.tile(x, (SAMPLES, 1))
    start = (x, slope, jnp.minimum(h, 1e100), jnp.zeros_like(h), visited, away)
    x, _, _, time, visited, away = lax.fori_loop(0, attempts, attempt, start)
    rates = lax.map(lambda x: _radius(jacobian(field, x)[0]), visited)
    rate = jnp.max(jnp.where(jnp.isfinite(rates), rates, 0))
    return Approach(x, time, rate, away)


def _radius(jac):
    """About the spectral radius, by power iteration: eigenvalues would cost more than
    the run. Complex pairs do not converge, so that the growth is averaged."""
    v = jnp.cos(jnp.arange(1.0, 1 + len(jac)))

    def body(_, v):
        w = jac @ v
        length = norm(w)
        return w / jnp.where(length > 0, length, 1), length

    def grow(i, carry):
        v, total = carry
        v, length = body(i, v)
        return v, total + jnp.log(jnp.maximum(length, 1e-300))

    v = lax.fori_loop(0, 20, lambda i, v: body(i, v)[0], v / norm(v))
    return jnp.exp(lax.fori_loop(0, 20, grow, (v, 0.0))[1] / 20)


def shared_steps(rate: np.ndarray, used: np.ndarray) -> np.ndarray:
    """A fixed step for each run, a fifth of its fastest time constant or shorter.

    Runs of the same pace, to a factor 2 from one to the next, share one, if possible
    one of those `used` before: the errors of the steps are then the same on the same
    attractor, and its averages agree.
    """
    wanted = 0.2 / np.where(rate > 0, rate, 1.0)
    order = np.argsort(wanted)
    gaps = np.flatnonzero(np.diff(np.log(wanted[order])) > np.log(2)) + 1
    steps = np.empty_like(wanted)
    for alike in np.split(order, gaps):
        least = wanted[alike[0]]
        known = used[(used >= least / 2) & (used <= 1.25 * least)]
        steps[alike] = known.max() if known.size else least
    return steps
