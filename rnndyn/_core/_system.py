"""The two kinds of dynamical system: flows `f(t, x, args)` and maps `F(x, args)`."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractVectorField(eqx.Module):
    """A vector field that knows its own time scale.

    Any callable `f(t, x, args) -> dx/dt` is a system. Subclassing this is only
    needed when speeds should be reported in units of a time scale other than 1;
    implement these two, the rest works.
    """

    @abc.abstractmethod
    def __call__(self, t: Any, x: Any, args: Any) -> Any:
        """The velocity `dx/dt` at time `t` and state `x` under input `args`."""

    @property
    @abc.abstractmethod
    def time_scale(self) -> Float[Array, ""]:
        """Reference time, in seconds, that makes speeds scale-free."""


class Map(eqx.Module):
    """A discrete-time system `x -> F(x, args)`.

    Networks trained with Euler steps are maps: map and flow share their fixed
    points, but neither stability nor cycles.

    **Arguments:**

    - `F`: callable `F(x, args) -> x`.
    - `dt`: duration of one step in seconds, if it has one: `lyapunov_spectrum` then
        reports exponents per second and times in seconds.
    """

    F: Callable[[Any, Any], Any]
    dt: Float[Array, ""] | None = eqx.field(
        default=None, converter=lambda v: None if v is None else jnp.asarray(v)
    )

    def __check_init__(self):
        if not callable(self.F):
            raise ValueError(
                f"F = {self.F!r}, expected a function F(x, args) that returns the next "
                "state."
            )

    def __call__(self, x: Any, args: Any = None) -> Any:
        """One step of the map."""
        return self.F(x, args)


def is_map(system: Any) -> bool:
    """Whether `system` is a `Map`; every other callable is taken as a flow."""
    return isinstance(system, Map)


def time_scale_of(system: Any) -> Float[Array, ""]:
    """The system's own time scale, 1 for maps and plain callables."""
    if isinstance(system, AbstractVectorField):
        return system.time_scale
    return jnp.ones(())


def residual_fn(system: Any, args: Any = None, time_scale: Any = None) -> Callable:
    """The function whose zeros are the fixed points, `x -> residual`.

    It is `tau_ref f(0, x, args)` for a flow and `F(x, args) - x` for a map, so
    that its norm is the scale-free speed.

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`.
    - `args`: the input, held constant.
    - `time_scale`: overrides the flow's own reference time (seconds).
    """
    if isinstance(system, Map):
        return lambda x: jax.tree.map(jnp.subtract, system.F(x, args), x)
    tau = time_scale_of(system) if time_scale is None else time_scale

    def flow_residual(x):
        velocity = system(jnp.zeros(()), x, args)
        return jax.tree.map(lambda v: jnp.asarray(tau, v.dtype) * v, velocity)

    return flow_residual
