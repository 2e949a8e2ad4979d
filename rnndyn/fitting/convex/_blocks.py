"""Rows in blocks: all that a fit learns from its data are sums over blocks."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._problem import CLIP, Rows, targets


ROWS = 1024
"""Rows a block, at most: a block's errors stay in cache."""
STORED = 256e6
"""Bytes of blocks that are kept; larger data are cut anew in every sweep."""


class Block(eqx.Module):
    """Some rows. `xt` is `x` transposed in memory, with which products over rows run
    at full speed; `goal` is `arctanh d`. Rows that do not count are zero."""

    x: Float[Array, "row predictor"]
    xt: Float[Array, "predictor row"]
    d: Float[Array, "row neuron"]
    goal: Float[Array, "row neuron"]


class Blocks(eqx.Module):
    """All rows of a fit, a block at a time, in a given precision.

    Neurons not in `alive` are taken as silent: their columns are zero.
    """

    rows: Rows
    alive: Bool[Array, " neuron"]
    stored: Block | None
    size: int = eqx.field(static=True)
    num_blocks: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows, alive, *, dtype=None, size=None, store=None):
        self.rows, self.alive = rows, alive
        self.dtype = np.dtype(dtype or rows.rates.dtype)
        last = rows.rates.shape[0] - 1
        self.num_blocks = max(1, math.ceil(last / (size or ROWS)))
        self.size = math.ceil(last / self.num_blocks)
        width = 2 * (rows.num_predictors + rows.num_neurons)
        if store is None:
            store = last * width * self.dtype.itemsize <= STORED
        self.stored = None
        if store:
            self.stored = lax.map(self._cut, jnp.arange(self.num_blocks))

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    @property
    def num_blank(self) -> int:
        """Rows of zeros that all blocks together hold beside the real ones."""
        return self.size * self.num_blocks - self.num_rows

    def sum(self, fn: Callable, *per_block: Any) -> Any:
        """`fn(block, *per_block)` added up over blocks."""
        return self.scan(lambda b, *rest: (fn(b, *rest), None), *per_block)[0]

    def scan(self, fn: Callable, *per_block: Any) -> Any:
        """`fn(block, *per_block) -> (summand, output)`: the sum, and the outputs with
        a leading axis of blocks."""
        if self.stored is None:
            source, get = jnp.arange(self.num_blocks), self._cut
        else:
            source, get = self.stored, lambda block: block

        def add(total, item):
            summand, out = fn(get(item[0]), *item[1:])
            return jax.tree.map(jnp.add, total, summand), out

        items = (source, *per_block)
        first = jax.tree.map(lambda a: a[0], items)
        shapes = jax.eval_shape(lambda item: fn(get(item[0]), *item[1:])[0], first)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(add, start, items)

    def _cut(self, index):
        """Block `index` from the frames; the last one reaches back to be full."""
        rows, size = self.rows, self.size
        last = rows.rates.shape[0] - 1
        start = jnp.minimum(index * size, last - size)
        cut = lambda a, n: lax.dynamic_slice_in_dim(a, start, n)
        frames = jnp.where(self.alive[None, :], cut(rows.rates, size + 1), 0)
        x = frames[:-1]
        d = targets(x, frames[1:], rows.alpha[None, :])
        if rows.num_inputs:
            x = jnp.concatenate([x, cut(rows.inputs, size)], axis=1)
        if self.num_blank:
            new = start + jnp.arange(size) >= index * size
            if len(rows.lengths) > 1:
                new &= cut(jnp.asarray(rows.valid), size)
            x, d = jnp.where(new[:, None], x, 0), jnp.where(new[:, None], d, 0)
        goal = jnp.log((1 + d) / (1 - d)) / 2  # arctanh(d) at a third of its cost
        x, d, goal = (a.astype(self.dtype) for a in (x, d, goal))
        # Otherwise the transpose is folded into products, which then run at half speed.
        return Block(x, lax.optimization_barrier(x.T), d, goal)


def clipped_share(blocks: Blocks) -> Float[Array, " neuron"]:
    """Share of every neuron's targets at the edge of (-1, 1)."""
    at_edge = lambda b: jnp.sum(jnp.abs(b.d) >= 1 - 2 * CLIP, axis=0)
    return blocks.sum(at_edge).astype(blocks.rows.rates.dtype) / blocks.num_rows


def survey(
    rates: Float[Array, "frame neuron"],
) -> tuple[Bool[Array, " neuron"], Bool[Array, " neuron"]]:
    """Which neurons are finite, and which are not constant."""
    first, size = rates[0], min(ROWS, rates.shape[0])

    def add(found, index):
        start = jnp.minimum(index * size, rates.shape[0] - size)
        block = lax.dynamic_slice_in_dim(rates, start, size)
        finite = jnp.all(jnp.isfinite(block), axis=0)
        varies = jnp.any(block != first[None, :], axis=0)
        return (found[0] & finite, found[1] | varies), None

    start = jnp.ones(first.shape, bool), jnp.zeros(first.shape, bool)
    return lax.scan(add, start, jnp.arange(math.ceil(rates.shape[0] / size)))[0]
