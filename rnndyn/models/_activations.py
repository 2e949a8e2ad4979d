"""Activations and read-out nonlinearities by name, because names are stored with
weights."""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp

from .._core._checks import one_of


ACTIVATIONS = MappingProxyType(
    {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "softplus": jax.nn.softplus,
        "identity": lambda x: x,
        "erf": lambda x: jax.lax.erf(0.886226925452758 * x),  # sqrt(pi)/2
        "retanh": lambda x: jnp.tanh(jax.nn.relu(x)),
    }
)
"""Known names. `erf` has slope 1 at zero, `retanh` is the rectified tanh."""


def activation(name: str, field: str = "activation") -> Callable:
    """The function called `name`; raises a `ValueError` about `field` that lists the
    known ones."""
    one_of(field, name, list(ACTIVATIONS))
    return ACTIVATIONS[name]
