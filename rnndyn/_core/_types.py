"""Shared type aliases: one place to learn what the letters in signatures mean."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Key


VectorField: TypeAlias = Callable[[Any, Any, Any], Any]
"""Any callable `f(t, x, args) -> dx/dt`."""

KeyLike: TypeAlias = Key[Array, ""]
"""A typed PRNG key (`jax.random.key`)."""
