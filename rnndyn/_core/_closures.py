"""What a function depends on, made visible: as leaves, and without derivatives."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax


class Captured(eqx.Module):
    """A function whose traced constants are leaves, so that derivatives in what it
    closes over can be taken, or cut (`freeze`)."""

    fn: Callable = eqx.field(static=True)
    constants: list

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args, *self.constants)


def capture(fn: Callable, *examples: Any) -> Captured:
    """`fn` with everything it depends on as leaves, for arguments like `examples`.

    `equinox.filter_closure_convert` does the same but compares shardings, which differ
    between a value and its vmapped self inside `jax.shard_map`.
    """
    converted, constants = jax.closure_convert(fn, *examples)
    return Captured(converted, list(constants))


def freeze(tree: Any) -> Any:
    """The same without derivatives."""
    cut = lambda a: lax.stop_gradient(a) if eqx.is_array(a) else a
    return jax.tree.map(cut, tree)


def program(fn: Callable) -> Any:
    """`equinox.filter_jit` for functions with options: whole numbers and flags of NumPy
    are what Python's are, not traced."""
    compiled = eqx.filter_jit(fn)
    plain = lambda a: a.item() if isinstance(a, np.integer | np.bool_) else a

    @functools.wraps(fn)
    def call(*args, **options):
        return compiled(
            *map(plain, args), **{name: plain(a) for name, a in options.items()}
        )

    return call
