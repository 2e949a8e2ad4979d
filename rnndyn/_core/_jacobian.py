"""Jacobians of vector fields whose first step is a product with a weight matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Float


def jacobian(
    fn: Callable, x: Float[Array, " state"]
) -> tuple[Float[Array, "out state"], Float[Array, " out"]]:
    """`(df/dx, f)` of a function of one vector, as `jax.jacfwd` has it.

    `jacfwd` pushes the identity through `fn`: for phi(W x) that begins with the product
    of W and the identity, N^3 operations for a copy. Here tangents stay diagonal until
    something mixes them, and a product of a matrix with them is a scaling of its
    columns. What is not known to keep them diagonal is done as `jacfwd` does it.
    """
    f, push = jax.linearize(fn, x)
    linear = jax.make_jaxpr(push)(x)
    try:
        (out,) = _evaluate(linear.jaxpr, linear.consts, [_Diagonal(jnp.ones_like(x))])
    except (AttributeError, TypeError):  # programs look different in another JAX
        return jax.vmap(push, out_axes=-1)(jnp.eye(x.size, dtype=x.dtype)), f
    if not _is_tangent(out):  # f does not depend on x
        return jnp.zeros((*f.shape, x.size), f.dtype), f
    return _dense(out), f


class _Diagonal(NamedTuple):
    """Tangents of a vector of which component i depends on x_i alone."""

    scale: Array


class _Dense(NamedTuple):
    """Tangents of any array; the last axis is that of x."""

    value: Array


def _is_tangent(value: Any) -> bool:
    return isinstance(value, _Diagonal | _Dense)


def _dense(tangent: Any) -> Array:
    if isinstance(tangent, _Diagonal):
        size = tangent.scale.shape[0]
        return jnp.where(jnp.eye(size, dtype=bool), tangent.scale[:, None], 0)
    return tangent.value


def _evaluate(jaxpr, constants, tangents):
    """A linear program on tangents."""
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= dict(zip(jaxpr.invars, tangents, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]
    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        outputs = _apply(jaxpr, eqn, inputs)
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _apply(jaxpr, eqn, inputs):
    moving = [_is_tangent(v) for v in inputs]
    name, inner = eqn.primitive.name, eqn.params.get("jaxpr")
    if any(moving) and name in ("jit", "pjit"):
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    out = _RULES[name](inputs, **eqn.params) if any(moving) and name in _RULES else None
    if out is not None:
        return [out]
    # As it is, or, like `jacfwd`, with all tangents at once.
    rows = [i for i, v in enumerate(eqn.invars) if not isinstance(v, Literal)]
    invars = [eqn.invars[i] for i in rows]
    alone = jaxpr.replace(constvars=[], invars=invars, outvars=eqn.outvars, eqns=[eqn])
    run = jaxpr_as_fun(ClosedJaxpr(alone, []))
    if not any(moving):
        return run(*(inputs[i] for i in rows))
    many = jax.vmap(run, in_axes=[-1 if moving[i] else None for i in rows], out_axes=-1)
    values = many(*(_dense(inputs[i]) if moving[i] else inputs[i] for i in rows))
    return [_Dense(v) for v in values]


def _neg(inputs, **_):
    (a,) = inputs
    return type(a)(-a[0])


def _mul(inputs, **_):
    a, b = inputs if _is_tangent(inputs[0]) else inputs[::-1]
    if isinstance(a, _Diagonal):
        return _Diagonal(a.scale * b)
    b = jnp.asarray(b)
    return _Dense(_wide(a.value, b.ndim + 1) * (b[..., None] if b.ndim else b))


def _add(inputs, **_):
    a, b = inputs
    if not (_is_tangent(a) and _is_tangent(b)):  # what is no tangent is 0 here
        return a if _is_tangent(a) else b
    if isinstance(a, _Diagonal) and isinstance(b, _Diagonal):
        return _Diagonal(a.scale + b.scale)
    a, b = _dense(a), _dense(b)
    return _Dense(_wide(a, b.ndim) + _wide(b, a.ndim))


def _wide(tangents, ndim):
    """Tangents of a number beside those of an array, to which `lax` broadcasts it."""
    missing = max(0, ndim - tangents.ndim)
    return tangents.reshape((1,) * missing + tangents.shape)


def _sub(inputs, **_):
    a, b = inputs
    return _add((a, _neg((b,)) if _is_tangent(b) else b))


def _dot_general(inputs, *, dimension_numbers, preferred_element_type=None, **_):
    (contracted, batched) = dimension_numbers
    which = 0 if isinstance(inputs[0], _Diagonal) else 1
    vector, matrix = inputs[which], inputs[1 - which]
    if not isinstance(vector, _Diagonal) or any(batched) or not contracted[which]:
        return None
    (axis,) = contracted[1 - which]
    out = jnp.moveaxis(matrix, axis, -1)
    out = out * vector.scale.reshape((1,) * (out.ndim - 1) + (-1,))
    return _Dense(out.astype(preferred_element_type or out.dtype))


def _convert(inputs, *, new_dtype, **_):
    (a,) = inputs
    return type(a)(a[0].astype(new_dtype))


_RULES: dict[str, Callable] = {
    "neg": _neg,
    "mul": _mul,
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "dot_general": _dot_general,
    "convert_element_type": _convert,
    "copy": lambda inputs, **_: inputs[0],
}
