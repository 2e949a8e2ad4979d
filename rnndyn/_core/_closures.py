"""What a function depends on, made visible: as leaves, and without derivatives."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax.extend.core import get_opaque_trace_state


# The trace state outside all transformations, read in a thread of its own because this
# module may be imported during a trace.
with ThreadPoolExecutor(1) as pool:
    _OUTSIDE = pool.submit(get_opaque_trace_state).result()


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


def precise(fn: Callable) -> Any:
    """`fn` with its products of matrices in the precision of their arguments: GPUs
    would take 10 bits of a float32's 23, and nothing would converge."""

    @functools.wraps(fn)
    def call(*args, **options):
        with jax.default_matmul_precision("highest"):
            return fn(*args, **options)

    return call


def program(fn: Callable, *, quick: bool = True) -> Any:
    """`equinox.filter_jit` for `precise` functions with options: whole numbers and
    flags of NumPy are what Python's are, not traced. With `quick` it is compiled with
    cheaper options of XLA where it is called outside a trace (see `_quickly`); not for
    long runs, which these slow down."""
    fn = precise(fn)
    compiled = eqx.filter_jit(fn)
    plain = lambda a: a.item() if isinstance(a, np.integer | np.bool_) else a

    @functools.cache
    def quicker():
        options = _quickly() if quick else None
        return compiled if options is None else eqx.filter_jit(fn, **options)

    @functools.wraps(fn)
    def call(*args, **options):
        args = tuple(map(plain, args))
        options = {name: plain(a) for name, a in options.items()}
        # Within another program there can be no options of its own.
        outside = get_opaque_trace_state() == _OUTSIDE
        chosen = quicker() if outside else compiled
        return chosen(*args, **options)

    return call


@functools.cache
def _quickly() -> Any:
    """Options of `jax.jit` with which programs of hundreds of small operations, as
    searches are, compile sooner and run as fast (benchmarks/cycles.py); training, and
    Lyapunov exponents by short steps, would run slower. None where XLA knows no such
    option: jaxlib 0.12 does not, and compiles as fast by itself."""
    if jax.default_backend() != "cpu" or not version("jaxlib").startswith("0.10."):
        return None
    return {"compiler_options": {"xla_cpu_use_fusion_emitters": False}}
