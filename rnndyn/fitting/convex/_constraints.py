"""Sets that weights may be confined to, as projections."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._core._checks import is_concrete


class AbstractConstraint(eqx.Module):
    """A closed set of weights. Implement `project`; the rest works."""

    @abc.abstractmethod
    def project(
        self, theta: Float[Array, "predictor neuron"]
    ) -> Float[Array, "predictor neuron"]:
        """The nearest weights in the set."""


class Entries(AbstractConstraint):
    """Entry by entry: weights within bounds; both bounds 0 for a missing connection."""

    lower: Float[Array, "predictor neuron"]
    upper: Float[Array, "predictor neuron"]

    def project(self, theta):
        return jnp.clip(
            theta, self.lower.astype(theta.dtype), self.upper.astype(theta.dtype)
        )


class LowRank(AbstractConstraint):
    """A recurrent block of at most a given rank; input weights are free. Not convex:
    the projection is exact, a fit may still end in a local minimum."""

    rank: int = eqx.field(static=True)
    num_neurons: int = eqx.field(static=True)

    def project(self, theta):
        n = self.num_neurons
        left, values, right = jnp.linalg.svd(theta[:n], full_matrices=False)
        k = self.rank
        block = (left[:, :k] * values[None, :k]) @ right[:k]
        return jnp.concatenate([block, theta[n:]])


def no_self_connections(num_neurons: int, num_inputs: int = 0) -> np.ndarray:
    """The `mask` that forbids self-connections: `(neuron + input, neuron)`, True on the
    diagonal of the recurrent block."""
    return np.eye(num_neurons + num_inputs, num_neurons, dtype=bool)


def build_constraint(
    num_neurons: int, num_inputs: int, mask: Any, sign: Any, rank: Any
) -> AbstractConstraint | None:
    """The set that `mask`, `sign` and `rank` describe, `None` for all weights.

    **Raises:** a `ValueError` for wrong shapes and values, and for a rank together with
    bounds on entries, whose common set has no simple projection.
    """
    p, n = num_neurons + num_inputs, num_neurons
    if rank is not None:
        if mask is not None or sign is not None:
            raise ValueError(
                "rank is given together with mask or sign, expected one kind of "
                "constraint: their common set has no simple projection."
            )
        whole = isinstance(rank, int | np.integer) and not isinstance(rank, bool)
        if not whole or not 1 <= rank <= n:
            raise ValueError(f"rank = {rank}, expected a whole number from 1 to {n}.")
        return LowRank(int(rank), n)
    if mask is None and sign is None:
        return None
    lower, upper = jnp.full((p, n), -jnp.inf), jnp.full((p, n), jnp.inf)
    if sign is not None:
        sign = sign if isinstance(sign, jax.Array) else np.asarray(sign)
        known = not is_concrete(sign) or np.all(np.isin(sign, (-1, 0, 1)))
        if sign.shape != (n,) or not known:
            raise ValueError(
                f"sign has shape {sign.shape}, expected ({n},) of 1 for an excitatory, "
                "-1 for an inhibitory and 0 for a neuron of unknown kind."
            )
        rows = jnp.pad(jnp.asarray(sign, jnp.int32), (0, num_inputs))[:, None]
        lower, upper = jnp.where(rows > 0, 0, lower), jnp.where(rows < 0, 0, upper)
    if mask is not None:
        mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
        if mask.shape != (p, n) or mask.dtype != bool:
            raise ValueError(
                f"mask has shape {mask.shape} and dtype {mask.dtype}, expected bool "
                f"({p}, {n}): predictor first, as fit.theta, True where a weight is "
                "held at zero. Transpose it?"
            )
        lower, upper = jnp.where(mask, 0, lower), jnp.where(mask, 0, upper)
    return Entries(lower, upper)
