"""Shared type aliases: one place to learn what the letters in signatures mean."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Key, PyTree


State: TypeAlias = Float[Array, " state"]
"""The state `x` of one network in one trial."""

Args: TypeAlias = PyTree
"""What a vector field receives as input at time `t`: `None`, an array held
constant, or a callable `u(t)`."""

VectorField: TypeAlias = Callable[[Any, Any, Any], Any]
"""Any callable `f(t, x, args) -> dx/dt`."""

KeyLike: TypeAlias = Key[Array, ""]
"""A typed PRNG key (`jax.random.key`)."""
