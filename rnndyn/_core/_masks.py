"""Choosing among slots with static shapes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def unique_mask(
    x: Float[Array, "slots state"], candidates: Bool[Array, " slots"], tol: Any
) -> Bool[Array, " slots"]:
    """The first of every group of candidates that lie within `tol` of each other, in
    the sense of `group_sizes`."""
    return group_sizes(x, candidates, tol) > 0


def group_sizes(
    x: Float[Array, "slots state"], candidates: Bool[Array, " slots"], tol: Any
) -> Int[Array, " slots"]:
    """How many candidates lie within `tol` of each other, at the first of every group;
    0 at the others.

    Greedy in the order of the slots: a candidate is kept if no earlier *kept* one is
    close to it, so chains of neighbours do not swallow each other. The cost is one
    pass over the slots per kept point, never a slots x slots table.

    **Arguments:**

    - `x`: points, shape `(slots, state)`, best first.
    - `candidates`: which slots take part.
    - `tol`: points a, b coincide if |a - b| <= tol max(1, |a|), Euclidean norms.
    """

    def body(carry):
        open_, sizes = carry
        i = jnp.argmax(open_)
        # The centre leaves the queue even if it is not finite, or this never ends.
        first = _one_hot(i, open_.size)
        mine = open_ & (_around(x, i, tol) | first)
        return open_ & ~mine, jnp.where(first, jnp.sum(mine, dtype=jnp.int32), sizes)

    start = (candidates, jnp.zeros(candidates.shape, jnp.int32))
    return lax.while_loop(lambda carry: jnp.any(carry[0]), body, start)[1]


def near_kept(
    x: Float[Array, "slots state"], kept: Bool[Array, " slots"], tol: Any
) -> Bool[Array, " slots"]:
    """Which slots lie within `tol` of a kept one, in the sense of `unique_mask`."""

    def body(carry):
        open_, near = carry
        i = jnp.argmax(open_)
        return open_ & ~_one_hot(i, open_.size), near | _around(x, i, tol)

    start = (kept, jnp.zeros_like(kept))
    return lax.while_loop(lambda carry: jnp.any(carry[0]), body, start)[1]


def first_indices(
    mask: Bool[Array, " slots"], size: int
) -> tuple[Array, Bool[Array, " size"]]:
    """Indices of the first `size` true slots, padded with 0, and which are real."""
    (index,) = jnp.nonzero(mask, size=size, fill_value=-1)
    return jnp.maximum(index, 0), index >= 0


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Euclidean norm whose gradient at 0 is 0 instead of NaN."""
    squares = jnp.sum(x * x)
    # `!=`, not `>`: NaN must stay NaN.
    regular = squares != 0
    return jnp.where(regular, jnp.sqrt(jnp.where(regular, squares, 1)), 0)


def _around(x: Array, i: Array, tol: Any) -> Bool[Array, " slots"]:
    """Which slots lie within `tol` of slot `i`."""
    centre = x[i]
    reach = jnp.asarray(tol, x.dtype) * jnp.maximum(1, norm(centre))
    return jax.vmap(lambda other: norm(other - centre))(x) <= reach


def _one_hot(i: Array, size: int) -> Bool[Array, " slots"]:
    return jnp.arange(size) == i


def after(done: Any, a: Any) -> Any:
    """`a`, in a way that the compiler takes to depend on `done`, a number >= 0.

    XLA's CPU runtime runs what is independent side by side, and two batched LAPACK
    calls can wait for each other's threads for ever (jax 0.10.2, two cores, matrices of
    100 rows): calls that do not depend on each other must be made to.
    """
    return jnp.where(done == -1.5, 0, a)
