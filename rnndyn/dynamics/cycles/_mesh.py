"""How a closed orbit is cut into segments and pieces, and integrated over these."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ...flows import AbstractFlow, DiffraxFlow


UNKNOWNS = 64
"""Unknowns of a shooting problem up to which it costs little to solve."""


class Mesh(eqx.Module):
    """How an orbit is cut: `segments` with an unknown state at the start of each, of
    `pieces` each, over each of which `flow` integrates."""

    flow: AbstractFlow
    segments: int = eqx.field(static=True)
    pieces: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Pieces of the whole orbit."""
        return self.segments * self.pieces

    def advance(self, velocity, x, duration):
        """The state after `duration`, which may be traced or negative, and whether the
        solver got there."""
        zero = jnp.zeros((), x.dtype)
        field = lambda t, x, args: velocity(x)
        if isinstance(self.flow, DiffraxFlow):
            # The linear solves of implicit methods raise where something is not finite.
            good = jnp.all(jnp.isfinite(x)) & jnp.isfinite(duration)
            start, span = jnp.where(good, x, 0), jnp.where(good, duration, 0)
            end, ok = self.flow.advance(field, start, zero, span)
            return jnp.where(good, end, x), ok & good
        return self.flow(field, x, zero, duration), jnp.ones((), bool)

    def through(self, velocity, x, duration):
        """The state after `duration`, NaN where the solver gave up."""
        x, ok = self.advance(velocity, x, duration)
        return jnp.where(ok, x, jnp.nan)

    def nodes(self, velocity, x, period):
        """Starts of the segments on the trajectory from `x`, which must not be
        integrated in longer strides than the pieces."""
        if self.segments == 1:
            return x[None]
        step = lambda x, _: (self.through(velocity, x, period / self.size), x)
        return lax.scan(step, x, None, length=self.size)[1][:: self.pieces]

    def divided(self, state_size: int) -> "Mesh":
        """The same pieces in more segments, as many as cost little: where a segment
        stretches errors by more than 1/residual, a small residual proves nothing.
        Adaptive solvers keep their segments, which wait for the slowest of them."""
        if isinstance(self.flow, DiffraxFlow):
            return self
        most = max(self.segments, UNKNOWNS // state_size)
        segments = max(k for k in range(1, most + 1) if self.size % k == 0)
        return Mesh(self.flow, segments, self.size // segments)

    def uniform(self, dtype: Any) -> Float[Array, "segment piece"]:
        """Equal shares of the period for all pieces."""
        return jnp.full((self.segments, self.pieces), 1 / self.size, dtype)


class Orbit(eqx.Module):
    """A trajectory on a mesh: `ends` `(segment, state)` of the segments, `states` at
    the starts of the pieces, the pieces' `jacobians`, and their `shares` of the
    period."""

    ends: Float[Array, "segment state"]
    states: Float[Array, "segment piece state"]
    jacobians: Float[Array, "segment piece state state"]
    shares: Float[Array, "segment piece"]


def trace_orbit(
    mesh: Mesh, velocity: Callable, nodes: Any, period: Any, shares: Any
) -> Orbit:
    """Integrate all segments, each from its node, with their Jacobians. Ends are
    infinite where the state blew up, and NaN where the solver ran out of steps."""

    def piece(carry, share):
        x, ok = carry

        def small(x):
            end, ok = mesh.advance(velocity, x, period * share)
            return end, (end, ok)

        jac, (end, here) = jax.jacfwd(small, has_aux=True)(x)
        return (end, ok & here), (x, jac)

    # One piece at a time in reverse mode: memory does not grow with the steps.
    step = jax.checkpoint(piece)
    good = jnp.ones((), bool)
    along = lambda x, shares: lax.scan(step, (x, good), shares)
    (ends, ok), (states, jacobians) = jax.vmap(along)(nodes, shares)
    blown = ~jnp.all(jnp.isfinite(ends), axis=1)
    failed = jnp.where(blown, jnp.inf, jnp.nan).astype(ends.dtype)
    ends = jnp.where((ok & ~blown)[:, None], ends, failed[:, None])
    return Orbit(ends, states, jacobians, shares)


def gaps(mesh: Mesh, velocity: Callable, nodes: Any, period: Any, shares: Any) -> Array:
    """Ends of the segments minus the nodes that follow, without Jacobians."""
    step = jax.checkpoint(
        lambda x, share: (mesh.advance(velocity, x, period * share)[0], None)
    )
    along = lambda x, shares: lax.scan(step, x, shares)[0]
    ends = jax.vmap(along)(nodes, shares)
    ends = jnp.where(jnp.isfinite(ends), ends, jnp.inf)
    return ends - jnp.roll(nodes, -1, axis=0)
