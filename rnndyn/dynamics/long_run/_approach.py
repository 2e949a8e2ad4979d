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
from ...flows import RK4, AbstractMethod


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
    system: Any,
    x0: Float[Array, " state"],
    args: PyTree,
    attempts: Any,
    method: AbstractMethod | None,
) -> Approach:
    """Follow a flow by steps of controlled error: one step against two of half length,
    to 1e-6 of the state. Pure; `attempts` may be traced."""
    integrate = RK4() if method is None else method
    zero = jnp.zeros((), x0.dtype)
    field = lambda x: system(zero, x, args)
    advance = lambda x, h: integrate.step(system, zero, x, h, args, None)
    size = norm(x0)
    bound = 1e8 * jnp.maximum(1, size)
    half = attempts // 2
    every = jnp.maximum(half // SAMPLES, 1)

    def attempt(i, carry):
        x, h, time, visited, away = carry
        new = advance(advance(x, h / 2), h / 2)
        gap = norm(advance(x, h) - new)
        allowed = 1e-6 * (norm(x) + 1e-3 * size) + 1e-12
        good = (gap <= allowed) & ~away  # false for NaN
        x, time = jnp.where(good, new, x), time + jnp.where(good, h, 0)
        factor = 0.9 * (allowed / jnp.maximum(gap, 1e-4 * allowed)) ** 0.2
        factor = jnp.where(jnp.isfinite(gap), jnp.clip(factor, 0.2, 5), 0.2)
        # At rest without rounding nothing would stop the growth.
        h = jnp.minimum(h * factor, 1e100)
        place = jnp.clip((i - half) // every, 0, SAMPLES - 1)
        return x, h, time, visited.at[place].set(x), away | (norm(x) > bound)

    speed = norm(field(x0))
    away = ~jnp.isfinite(speed)
    x = jnp.where(away, 0, x0)
    h = 1e-2 * (size + 1e-3) / jnp.maximum(jnp.where(away, 1, speed), 1e-100)
    visited = jnp.tile(x, (SAMPLES, 1))
    start = (x, jnp.minimum(h, 1e100), zero, visited, away)
    x, _, time, visited, away = lax.fori_loop(0, attempts, attempt, start)
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
