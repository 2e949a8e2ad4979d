"""Roots as differentiable functions of whatever the residual depends on."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._core._closures import precise


@eqx.filter_custom_jvp
def attach(
    fn, x: Float[Array, "slots state"], select: Bool[Array, " slots"]
) -> Float[Array, "slots state"]:
    """`x` itself, with the derivative of the root of `fn` in the selected rows.

    By the implicit function theorem dx = -J^-1 df. Value and memory are those of `x`;
    linear solves happen only when a derivative is taken, and only for selected rows.
    The rule calls itself, so higher derivatives are right as well, and it is linear in
    the tangents, so both `jax.jacfwd` and `jax.grad` work.

    Rows that are not selected keep the derivative they had. Where the Jacobian is
    singular to working precision no derivative exists, and it is 0.
    """
    del fn, select
    return x


@attach.def_jvp
@precise
def _attach_jvp(primals, tangents):
    fn, x, select = primals
    t_fn, t_x, _ = tangents
    t_x = jnp.zeros_like(x) if t_x is None else t_x
    x = attach(fn, x, select)

    def tangent(row):
        x_i, t_i, chosen = row

        def work(x_i, t_i):
            _, t_f = eqx.filter_jvp(lambda fn: fn(x_i), (fn,), (t_fn,))
            jac = jax.jacfwd(fn)(x_i)
            inverse = jnp.linalg.inv(lax.stop_gradient(jac))
            condition = jnp.linalg.norm(inverse) * jnp.linalg.norm(jac)
            # Also False for NaN. The identity keeps the unused branch finite.
            regular = condition < 0.1 / jnp.finfo(x_i.dtype).eps
            jac = jnp.where(regular, jac, jnp.eye(x_i.size, dtype=x_i.dtype))
            return jnp.where(regular, -jnp.linalg.solve(jac, t_f), 0)

        return lax.cond(chosen, work, lambda x_i, t_i: t_i, x_i, t_i)

    return x, lax.map(tangent, (x, t_x, select))


class SpeedSlope(eqx.Module):
    """Gradient of half the squared speed."""

    fn: Any

    def __call__(self, x):
        return jax.grad(lambda y: 0.5 * jnp.vdot(self.fn(y), self.fn(y)))(x)
