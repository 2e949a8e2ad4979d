"""Following starts to where the long run begins, and the pace of what is there.

Fixed steps measure best, but which step is not known before the motion is: far starts
may be much stiffer, or much slower, than what they lead to.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from ..._core._masks import norm
from .._steps import embedded_step, next_length


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
    """Follow a flow by steps of controlled error, 1e-8 of a variable. Pure; `attempts`
    may be traced."""
    field = lambda x: system(jnp.zeros((), x.dtype), x, args)
    size, half = norm(x0), attempts // 2
    bound = 1e8 * jnp.maximum(1, size)

    def attempt(i, carry):
        x, slope, h, time, away, v, rate, largest = carry
        # Power iteration along the way: the pace of the fastest direction. For complex
        # pairs, and where the Jacobian is far from normal, an average says it.
        pushed = jax.jvp(field, (x,), (v,))[1]
        length = norm(pushed)
        v = jnp.where(length > 0, pushed / jnp.where(length > 0, length, 1), v)
        seen = jnp.log(jnp.maximum(length, 1e-100))
        rate = jnp.where(i == 0, seen, 0.8 * rate + 0.2 * seen)
        largest = jnp.where(i < half, rate, jnp.maximum(largest, rate))
        # Longer steps of a variable near 0 may be accurate and change its sign.
        h = jnp.minimum(h, jnp.exp(-rate))
        new, end, worst = embedded_step(field, x, slope, h, 1e-8)
        good = (worst <= 1) & ~away
        x, slope = jnp.where(good, new, x), jnp.where(good, end, slope)
        time = time + jnp.where(good, h, 0)
        away = away | (norm(x) > bound)
        return x, slope, next_length(h, worst), time, away, v, rate, largest

    slope = field(x0)
    away = ~jnp.all(jnp.isfinite(slope))
    x, slope = jnp.where(away, 0, x0), jnp.where(away, 0, slope)
    zero = jnp.zeros((), x0.dtype)
    h = 1e-2 * (size + 1e-3) / jnp.maximum(norm(slope), 1e-100)
    v = jnp.cos(jnp.arange(1.0, 1 + x.size, dtype=x.dtype))
    start = (x, slope, h, zero, away, v / norm(v), zero, zero)
    x, _, _, time, away, *_, rate = lax.fori_loop(0, attempts, attempt, start)
    return Approach(x, time, jnp.exp(rate), away)


def shared_steps(rate: np.ndarray, used: np.ndarray) -> np.ndarray:
    """A fixed step for each run, half of its fastest time constant or shorter.

    Runs of the same pace, to a factor 2 from one to the next, share one, if possible
    one of those `used` before: the errors of the steps are then the same on the same
    attractor, and its averages agree.
    """
    # Where the Jacobian is 0 (a relay) there is no time constant to go by.
    wanted = 0.5 / np.where(rate > 1e-50, rate, 1.0)
    order = np.argsort(wanted)
    gaps = np.flatnonzero(np.diff(np.log(wanted[order])) > np.log(2)) + 1
    steps = np.empty_like(wanted)
    for alike in np.split(order, gaps):
        least = wanted[alike[0]]
        known = used[(used >= least / 2) & (used <= 1.25 * least)]
        steps[alike] = known.max() if known.size else least
    return steps
