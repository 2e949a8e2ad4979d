"""Fitted weights as a differentiable function of the data and the ridge."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._blocks import Blocks
from ._constraints import AbstractConstraint, Entries
from ._iteration import Normal, sweep
from ._outliers import AbstractOutliers


CG_STEPS = 200
"""Most steps of a linear solve; the fit's own factor preconditions it."""


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
    loss with the kept set `mask` held. `H` differs between neurons and is never formed:
    all are solved for together by conjugate gradients, one pass over the data a step.
    Confined weights at their bounds stay there; for a rank the derivative is NaN.
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
        return lax.custom_linear_solve(linear, right, solve, symmetric=True)

    return lax.custom_root(gradient, theta, lambda _, start: start, tangent)


def conjugate_gradients(matvec: Any, right: Array, precondition: Any) -> Array:
    """Solve for every column at once; columns that are done stay as they are."""
    tiny = jnp.finfo(right.dtype).eps
    dot = lambda a, b: jnp.sum(a * b, axis=0)
    goal = (10 * tiny) ** 2 * dot(right, precondition(right))

    def body(state):
        k, x, r, p, rz = state
        q = matvec(p)
        bend = dot(p, q)
        busy = (rz > goal) & (bend > 0)
        step = jnp.where(busy, rz / jnp.where(busy, bend, 1), 0)
        x, r = x + step[None, :] * p, r - step[None, :] * q
        z = precondition(r)
        new = dot(r, z)
        ratio = jnp.where(busy, new / jnp.where(busy, rz, 1), 0)
        return k + 1, x, r, z + ratio[None, :] * p, jnp.where(busy, new, 0)

    z = precondition(right)
    state = (0, jnp.zeros_like(right), right, z, dot(right, z))
    going = lambda s: (s[0] < CG_STEPS) & jnp.any(s[4] > goal)
    return lax.while_loop(going, body, state)[1]
