"""Runs of a flow recorded at equal times, in steps as short as accuracy asks."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._core._masks import norm
from .._steps import embedded_step, next_length


MOST = 2**22
"""Steps after which a run is given up."""


def record(
    velocity: Callable,
    x0: Float[Array, " state"],
    spacing: Any,
    samples: int,
    longest: Any,
    most: Any = MOST,
) -> tuple[Float[Array, "samples state"], Float[Array, " state"]]:
    """States at equal `spacing` from `x0` on, and the one after them.

    Steps of `embedded_step`, at most `longest`, shorter where their error would exceed
    1e-6 (in float32 1e-4) of a variable. States are infinite once the run has left
    1e8 max(1, |x0|), NaN once it was given up, as it is after `most` steps.
    """
    dtype = x0.dtype
    rtol = 1e-6 if dtype == jnp.float64 else 1e-4
    bound = 1e8 * jnp.maximum(1, norm(x0))

    def advance(carry):
        left, x, slope, h, count = carry
        last = h >= (1 - 1e-9) * left
        taken = jnp.where(last, left, h)
        y, end, worst = embedded_step(velocity, x, slope, taken, rtol)
        good = worst <= 1
        fitting = next_length(taken, worst)
        # The last step is short for another reason.
        fitting = jnp.where(good & last, jnp.maximum(h, fitting), fitting)
        h = jnp.minimum(fitting, longest)
        y = jnp.where(norm(y) < bound, y, jnp.inf)
        lost = (h < 1e-30 * longest) | (count >= most)
        x = jnp.where(lost, jnp.nan, jnp.where(good, y, x))
        left = jnp.where(good, jnp.where(last, 0, left - taken), left)
        return left, x, jnp.where(good, end, slope), h, count + 1

    going = lambda c: (c[0] > 0) & jnp.all(jnp.isfinite(c[1]))
    zero = jnp.zeros((), jnp.int32)
    spacing = jnp.asarray(spacing, dtype)

    def sample(carry, _):
        _, *rest = lax.while_loop(going, advance, (spacing, *carry))
        return tuple(rest), carry[0]

    start = (x0, velocity(x0), jnp.asarray(longest, dtype), zero)
    (x, *_), xs = lax.scan(sample, start, None, length=samples)
    return xs, x
