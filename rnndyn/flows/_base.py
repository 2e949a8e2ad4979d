"""Advancing a vector field in time."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._core._types import KeyLike, VectorField


class Trajectory(eqx.Module):
    """States `xs` (leading axis time) at times `ts` `(time,)` in seconds; `ok` is
    false when the solver gave up or the state became non-finite."""

    ts: Float[Array, " time"]
    xs: Any
    ok: Bool[Array, ""]


class AbstractFlow(eqx.Module):
    """A way of solving `dx/dt = f(t, x, args)`.

    `args` is the input: `None`, an array held constant, or a callable `u(t)` (see
    `HeldInput` for inputs that switch). Implement these two; shooting, Lyapunov
    exponents and trajectories work with any of them.
    """

    @abc.abstractmethod
    def __call__(
        self,
        f: VectorField,
        x0: Any,
        t0: Any,
        t1: Any,
        args: Any = None,
        *,
        key: KeyLike | None = None,
    ) -> Any:
        """The state at `t1`, started from `x0` at `t0`."""

    @abc.abstractmethod
    def trajectory(
        self,
        f: VectorField,
        x0: Any,
        ts: Any,
        args: Any = None,
        *,
        key: KeyLike | None = None,
    ) -> Trajectory:
        """States at times `ts` `(time,)`, started from `x0` at `ts[0]`."""


def all_finite(xs: Any) -> Bool[Array, ""]:
    """Whether every number of every leaf is finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(xs)]))
