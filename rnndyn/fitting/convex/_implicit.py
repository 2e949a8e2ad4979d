"""Fitted weights as a differentiable function of the data and the ridge."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._blocks import Blocks
from ._constraints import AbstractConstraint, Entries
from ._iteration import Normal, sweep
from ._outliers import AbstractOutliers


DENSE = 128
"""Predictors up to which the Hessians are formed: as many passes over the data."""
CG_STEPS = 4
"""Most steps of conjugate gradients for each unknown, of which there is one step in
exact arithmetic; the fit's own factor preconditions them."""


def attach(
    blocks: Blocks,
    theta: Float[Array, "predictor neuron"],
    mask: Bool[Array, "block row neuron"],
    *,
    ridge: Any,
    outliers: AbstractOutliers,
    constraint: AbstractConstraint | None,
    normal: Normal,
) -> Float[Array, "predictor neuron"]:
    """`theta` itself, with the derivative of the root of the gradient.

    By the implicit function theorem `d theta = -H^-1 dg`, `g` the gradient of the mean
    loss with the kept set `mask` held. `H` differs between neurons; all are solved for
    together, those of many predictors by conjugate gradients, one pass over the data a
    step. Confined weights at their bounds stay there; for a rank the derivative is NaN.
    """
    theta, normal = lax.stop_gradient(theta), lax.stop_gradient(normal)
    free = None
    if isinstance(constraint, Entries):
        free = (theta > constraint.lower) & (theta < constraint.upper)

    def gradient(weights):
        inside = weights if free is None else jnp.where(free, weights, theta)
        slope = sweep(blocks, inside, ridge, outliers, mask, True).gradient
        return slope if free is None else jnp.where(free, slope, weights - theta)

    def tangent(linear, right):
        if constraint is not None and free is None:
            return right * jnp.nan

        def precondition(v):
            if free is None:
                return blocks.num_rows * normal.factor.solve(v)
            inside = blocks.num_rows * normal.factor.solve(jnp.where(free, v, 0))
            return jnp.where(free, inside, v)

        solve = lambda matvec, b: conjugate_gradients(matvec, b, precondition)
        if theta.shape[0] <= DENSE:
            solve = solve_dense
        return lax.custom_linear_solve(linear, right, solve, symmetric=True)

    return lax.custom_root(gradient, theta, lambda _, start: start, tangent)


def solve_dense(matvec: Any, right: Array) -> Array:
    """Solve for every column by the matrix of each, from products with all units."""
    size, columns = right.shape
    unit = lambda k: jnp.zeros_like(right).at[k].set(1)
    matrices = lax.map(lambda k: matvec(unit(k)), jnp.arange(size))
    matrices = matrices.transpose(2, 1, 0)
    # Predictors that are silent, without a ridge, and neurons left out have no row.
    blank = jnp.all(matrices == 0, axis=2)
    matrices = matrices + jnp.eye(size, dtype=right.dtype)[None] * blank[:, None, :]
    # In units of the diagonal a small weight is no small pivot.
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(matrices, axis1=1, axis2=2)))
    matrices = matrices / (scale[:, :, None] * scale[:, None, :])
    x = jnp.linalg.solve(matrices, (right.T / scale)[:, :, None])[:, :, 0] / scale
    return jnp.where(jnp.any(right != 0, axis=0)[None, :], x.T, 0)


def conjugate_gradients(matvec: Any, right: Array, precondition: Any) -> Array:
    """Solve for every column at once; columns that are done stay as they are, those
    that were not solved to half the digits are NaN."""
    tiny = jnp.finfo(right.dtype).eps
    dot = lambda a, b: jnp.sum(a * b, axis=0)
    most = max(200, CG_STEPS * right.shape[0])

    def body(state):
        k, x, r, p, rz, lost = state
        q = matvec(p)
        bend = dot(p, q)
        lost = lost | ((rz > goal) & ~(bend > 0))
        busy = (rz > goal) & ~lost
        step = jnp.where(busy, rz / jnp.where(busy, bend, 1), 0)
        x, r = x + step[None, :] * p, r - step[None, :] * q
        z = precondition(r)
        new = dot(r, z)
        ratio = jnp.where(busy, new / jnp.where(busy, rz, 1), 0)
        return k + 1, x, r, z + ratio[None, :] * p, jnp.where(busy, new, rz), lost

    z = precondition(right)
    size = dot(right, z)
    goal = (10 * tiny) ** 2 * size
    state = (0, jnp.zeros_like(right), right, z, size, ~jnp.isfinite(size))
    going = lambda s: (s[0] < most) & jnp.any((s[4] > goal) & ~s[5])
    _, x, _, _, left, lost = lax.while_loop(going, body, state)
    solved = (left <= tiny * size) & ~lost
    return jnp.where(solved[None, :], x, jnp.nan)
