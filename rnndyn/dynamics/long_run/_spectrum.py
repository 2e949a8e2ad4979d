"""Lyapunov exponents as a result."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..._core._export import Result


class LyapunovSpectrum(Result):
    """Lyapunov exponents, largest first.

    **Attributes:**

    - `exponents`: shape `(k,)`, per unit of time of a flow; of a map per step, or per
        second if the map has a `dt`. Means over trajectories. NaN where tangent
        vectors became parallel to rounding between two orthonormalisations (lower
        `qr_every`), or where `project` met a fixed point.
    - `stderr`: shape `(k,)`, standard error of the mean, from smoothly weighted means
        over eighths of every trajectory, and at least the distance of these means from
        `exponents`: what a run over no whole number of periods is wrong by. Too small
        if the memory of the system is longer than an eighth. It covers statistical
        fluctuation, not the error of the time step, and is itself known to about a
        quarter from one trajectory.
    - `drift`: shape `(k,)`, mean over the second half of the time less that over the
        first, in units of its standard error. Beyond 3 in size (4 for one trajectory)
        the transient was too short. A drift much slower than the whole run cannot be
        seen in it.
    - `step_error`: shape `(k,)`, how much the exponents change along these
        trajectories if steps are halved (upper end of two standard errors, from 16
        places in every trajectory); 0 for maps. Leaves out that the trajectory itself
        moves with the step; of the same size as the true error where that was known.
    - `history`: shape `(checkpoints, k)`, the estimate as it stood at `times`.
    - `times`: shape `(checkpoints,)`, since the end of the transient.
    - `kaplan_yorke`: Kaplan-Yorke dimension, with exponents as 0 that are within twice
        `stderr` and `step_error` below it; NaN if the `k` exponents computed do not sum
        to a negative number.
    - `finite`: whether every trajectory stayed finite; otherwise the numbers mean
        nothing.
    """

    exponents: Float[Array, " k"]
    stderr: Float[Array, " k"]
    drift: Float[Array, " k"]
    step_error: Float[Array, " k"]
    history: Float[Array, "checkpoints k"]
    times: Float[Array, " checkpoints"]
    kaplan_yorke: Float[Array, ""]
    finite: Bool[Array, ""]

    def headline(self) -> str:
        """The leading exponents with their errors, and the dimension."""
        pairs = zip(np.asarray(self.exponents), np.asarray(self.stderr), strict=True)
        leading = ", ".join(f"{a:.4g} +- {b:.1g}" for a, b in list(pairs)[:4])
        rest = ", ..." if len(self.exponents) > 4 else ""
        return f"{leading}{rest}; Kaplan-Yorke dimension {self.kaplan_yorke:.4g}"


def kaplan_yorke(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Kaplan-Yorke dimension of exponents sorted from the largest: 0 if all are
    negative, NaN if one is NaN, or if their sum is not negative (more exponents are
    needed, or the volume grows).

    **Raises:** a `ValueError` unless `exponents` is a vector of at least one."""
    if jnp.ndim(exponents) != 1 or jnp.size(exponents) == 0:
        raise ValueError(
            f"`exponents` has shape {jnp.shape(exponents)}, expected (k,), at least "
            "one. Use jax.vmap over several spectra."
        )
    sums = jnp.cumsum(exponents)
    j = jnp.sum(jnp.cumprod(sums >= 0))
    size = exponents.shape[0]
    before = jnp.where(j > 0, sums[jnp.maximum(j - 1, 0)], 0)
    following = exponents[jnp.minimum(j, size - 1)]
    dimension = j + before / jnp.where(j < size, jnp.abs(following), 1)
    dimension = jnp.where(j == 0, 0.0, jnp.where(j < size, dimension, jnp.nan))
    return jnp.where(jnp.any(jnp.isnan(exponents)), jnp.nan, dimension)
