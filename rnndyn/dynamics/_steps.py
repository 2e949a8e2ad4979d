"""One step of a flow with an estimate of its error."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


_TABLEAU = dfx.Dopri5.tableau
_ROWS = [[float(w) for w in row] for row in _TABLEAU.a_lower]
_ERROR = [float(w) for w in np.asarray(_TABLEAU.b_error)]


def embedded_step(
    velocity: Callable,
    x: Float[Array, " state"],
    slope: Float[Array, " state"],
    h: Any,
    rtol: float,
) -> tuple[Float[Array, " state"], Float[Array, " state"], Any]:
    """A step `h` of Dormand and Prince's method of order 5 from `x`, where the velocity
    is `slope`: the state and the velocity after it, and its error in units of what is
    allowed, `rtol` of each variable or 1e-2 `rtol` of the largest.

    Diffrax does the same and takes longer to compile.
    """
    slopes = [slope]
    for row in _ROWS:
        y = x + h * sum(w * k for w, k in zip(row, slopes, strict=True) if w)
        slopes.append(velocity(y))
    error = h * sum(w * k for w, k in zip(_ERROR, slopes, strict=True) if w)
    scale = jnp.maximum(jnp.abs(x), jnp.abs(y))
    scale = rtol * jnp.maximum(scale, 1e-2 * jnp.max(scale))
    worst = jnp.max(jnp.abs(error) / (scale + jnp.finfo(x.dtype).tiny))
    return y, slopes[-1], jnp.where(jnp.isnan(worst), jnp.inf, worst)


def next_length(h: Any, worst: Any) -> Any:
    """The length of the next step after one of length `h` with that error."""
    return h * jnp.clip(0.9 * worst**-0.2, 0.2, 5)
