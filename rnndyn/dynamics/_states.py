"""Nested and multi-dimensional states as flat vectors, and back."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree

from .._core._checks import is_concrete, is_in
from .._core._system import AbstractVectorField, Map, is_map, time_scale_of


FLOATS = (jnp.float32, jnp.float64)
"""What is computed in."""


class Layout(eqx.Module):
    """How a state of several arrays is laid out in one vector. Hashable, no arrays."""

    treedef: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def ravel(self, state: PyTree) -> Array:
        """The vector of one state."""
        leaves, treedef = jax.tree.flatten(state)
        got = tuple(jnp.shape(v) for v in leaves)
        if treedef != self.treedef or got != self.shapes:
            raise ValueError(
                f"The system returns {treedef} with shapes {got} for a state "
                f"{self.treedef} with shapes {self.shapes}, expected the same "
                "structure and shapes."
            )
        return jnp.concatenate([jnp.reshape(v, -1) for v in leaves])

    def unravel(self, x: Any) -> PyTree:
        """The state of a vector, or of each row of an array `(..., state)`."""
        sizes = [math.prod(s) for s in self.shapes]
        ends = np.cumsum([0, *sizes])
        leaves = [
            x[..., a:b].reshape(*x.shape[:-1], *shape)
            for a, b, shape in zip(ends[:-1], ends[1:], self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


class FlatFlow(AbstractVectorField):
    """A flow of nested states as one of vectors."""

    system: Any
    layout: Layout

    def __call__(self, t, x, args):
        return self.layout.ravel(self.system(t, self.layout.unravel(x), args))

    @property
    def time_scale(self):
        return time_scale_of(self.system)


class FlatStep(eqx.Module):
    """One step of a map of nested states as a function of vectors."""

    step: Any
    layout: Layout

    def __call__(self, x, args):
        return self.layout.ravel(self.step(self.layout.unravel(x), args))


def flatten_states(system: Any, x0s: PyTree) -> tuple[Any, Array]:
    """`system` and starts on vectors; unchanged if they are so already."""
    leaves, treedef = jax.tree.flatten(x0s)
    if not leaves or not all(eqx.is_array_like(v) for v in leaves):
        raise ValueError(
            f"`x0s` is a {type(x0s).__name__}, expected an array (starts, state), a "
            "pytree of arrays (starts, ...) or a sampler."
        )
    leaves = [jnp.asarray(v) for v in leaves]
    shapes = [v.shape for v in leaves]
    if eqx.is_array_like(x0s) and len(shapes[0]) < 3:
        return system, leaves[0]
    if any(len(s) == 0 for s in shapes) or len({s[0] for s in shapes}) != 1:
        raise ValueError(
            f"`x0s` has leaves of shapes {shapes}, expected one leading axis of starts "
            "that all leaves share. Pass one start as jax.tree.map(lambda a: a[None], "
            "state), and a list of numbers as jnp.asarray(x0s)."
        )
    dtypes = sorted({str(v.dtype) for v in leaves})
    if len(dtypes) > 1:
        raise ValueError(
            f"`x0s` has leaves of dtypes {dtypes}, expected one. Cast them with "
            "jax.tree.map(lambda a: a.astype(...), x0s)."
        )
    layout = Layout(treedef, tuple(s[1:] for s in shapes))
    flat = jnp.concatenate([v.reshape(v.shape[0], -1) for v in leaves], axis=1)
    if is_map(system):
        return Map(FlatStep(system.F, layout), system.dt), flat
    return FlatFlow(system, layout), flat


def states(points: Any) -> PyTree:
    """The points in the structure of the starts: arrays `(..., slots, ...)`.

    Fixed points of nested states, such as the hidden and cell state of an LSTM, are
    searched for and stored as vectors, `points.x`. This is `points.x` itself where the
    starts were an array `(starts, state)`. Differentiable.

    ```python
    pts = fixed_points(lstm, {"h": h0s, "c": c0s})
    states(pts)["c"][pts.mask]
    ```

    **Arguments:**

    - `points`: result of `fixed_points` or `slow_points`, certified or not.
    """
    if not hasattr(points, "system"):
        raise ValueError(
            f"`states` got a {type(points).__name__}, expected the result of "
            "`fixed_points` or `slow_points`."
        )
    system = points.system.F if is_map(points.system) else points.system
    if isinstance(system, FlatFlow | FlatStep):
        return system.layout.unravel(points.x)
    return points.x


def as_arrays(args: PyTree, x: PyTree) -> PyTree:
    """Python floats of `args` as arrays of the dtype of the states `x`, other numbers
    of NumPy as arrays of their own: a program then serves all values, and derivatives
    pass."""
    dtypes = (jnp.result_type(v) for v in jax.tree.leaves(x) if eqx.is_array_like(v))
    floats = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    dtype = floats[0] if floats else jnp.result_type(float)

    def cast(a):
        if isinstance(a, float):
            return jnp.asarray(a, dtype)
        return jnp.asarray(a) if isinstance(a, np.generic) else a

    return jax.tree.map(cast, args)


def check_starts(x0s: Array) -> Array:
    """The starts, or a `ValueError`."""
    if x0s.ndim != 2 or x0s.shape[0] == 0 or x0s.shape[1] == 0:
        raise ValueError(
            f"`x0s` has shape {x0s.shape}, expected (starts, state). Pass one start as "
            "x0[None]; batch over networks with `equinox.filter_vmap`."
        )
    if x0s.dtype not in FLOATS:
        raise ValueError(
            f"`x0s` has dtype {x0s.dtype}, expected a floating-point one of 32 or "
            "64 bits."
        )
    return x0s


def as_states(
    name: str,
    x: Any,
    axes: tuple[str, ...] | list[tuple[str, ...]],
    remedy: str,
    system: Any = None,
    args: PyTree = None,
) -> Array:
    """`x` as floats with the given axes (or one of a list of these), for verbs whose
    states are vectors; with `system`, what that returns is checked too."""
    options = axes if isinstance(axes, list) else [axes]
    wanted = " or ".join(str(a).replace("'", "") for a in options)
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` is a {type(x).__name__}, expected floats of shape {wanted}. "
            "Make nested states vectors with jax.flatten_util.ravel_pytree."
        ) from error
    if (
        not any(array.ndim == len(a) for a in options)
        or 0 in array.shape
        or array.dtype not in FLOATS
    ):
        raise ValueError(
            f"`{name}` has shape {array.shape} and dtype {array.dtype}, expected "
            f"floats of shape {wanted}, of 32 or 64 bits. {remedy}"
        )
    if system is not None:
        check_system(system, args, array.reshape(-1, array.shape[-1])[0])
    return array


def check_system(
    system: Any, args: PyTree, x: Array, *, autonomous: bool = True
) -> None:
    """`ValueError` unless the system returns the shape and dtype of the state `x`, and
    a flow does not depend on its time `t`. Where `t` is used in the program at all, the
    flow is compared at 256 times up to 1e4 and four states; what these do not show goes
    unnoticed."""
    if is_map(system):
        check_residual(lambda x: system(x, args), x)
        return
    zero = jnp.zeros((), x.dtype)
    check_residual(lambda x: system(zero, x, args), x)
    if not autonomous:
        return
    at = lambda t, x: system(t, x, args)
    program = jax.make_jaxpr(at)(zero, x).jaxpr
    if not partial_eval.dce_jaxpr(program, [True])[1][0]:
        return
    # What drives the flow may be silent at one state, or at most times.
    rng = np.random.default_rng(0)
    known = np.asarray(x) if is_concrete(x) else np.zeros(x.shape)
    size = max(1.0, float(np.max(np.abs(known), initial=0.0)))
    states = known + size * rng.normal(size=(4, *x.shape)) * np.array(
        [[0.0], [0.1], [0.3], [1.0]]
    )
    times = np.concatenate([np.arange(200) * 0.0931, np.geomspace(1e-3, 1e4, 56)])
    probe = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
    values = probe(jnp.asarray(times, x.dtype), jnp.asarray(states, x.dtype))
    if not is_concrete(values):
        raise ValueError(
            "the flow is written with its time, and whether that matters cannot be "
            "looked at inside `jit`, `vmap` or `grad`, expected an autonomous one: it "
            "would be held at t = 0. Leave the time out of it, or take the verb out of "
            "the transformation."
        )
    values = np.asarray(values)
    finite = np.isfinite(values)
    now = np.where(finite[0], np.abs(values[0]), 0).max(axis=-1)
    with np.errstate(invalid="ignore"):
        gap = np.where(finite & finite[:1], np.abs(values - values[:1]), 0)
    gap = gap.max(axis=(0, 2))
    # A state far out has large speeds, beside which a drive is nothing.
    if np.any(gap > 1e-4 * now + 1e-12) or np.any(finite != finite[:1]):
        raise ValueError(
            f"the flow changes with time (by up to {gap.max():.2g} at states near the "
            "first), expected an autonomous one: it would be held at t = 0. Add the "
            "states of what drives it, or study its stroboscopic map: Map(F) over one "
            "period."
        )


def check_number(name: str, value: Any, remedy: str, *, zero: bool = False) -> None:
    """`ValueError` unless `value` is one finite number above 0 (or 0, with `zero`), as
    far as it is known."""
    if not is_in(value, "[0, inf)" if zero else "(0, inf)"):
        least = ">= 0" if zero else "> 0"
        raise ValueError(f"`{name}` = {value}, expected one number {least}. {remedy}")


def check_time_scale(time_scale: Any) -> None:
    """`ValueError` for a unit of time that is given and no number above 0."""
    if time_scale is not None:
        check_number("time_scale", time_scale, "Pass it in the flow's unit of time.")


def check_tolerances(**values: Any) -> None:
    """`ValueError` for a tolerance that is given and no number of at least 0."""
    for name, value in values.items():
        if value is not None:
            check_number(name, value, "Leave it out for the default.", zero=True)


def check_residual(residual: Callable, x: Array) -> None:
    """`ValueError` unless the residual returns what it was given in shape and dtype."""
    try:
        out = jax.eval_shape(residual, x)
    except TypeError as error:
        raise ValueError(
            f"the system failed on a state of shape {x.shape}, the width of `x0s` "
            f"({error}). Expected a flow f(t, x, args) or Map(F) with F(x, args), and "
            "`x0s` of shape (starts, state): transpose it?"
        ) from error
    if not isinstance(out, jax.ShapeDtypeStruct) or out.shape != x.shape:
        got = jax.tree.map(lambda a: a.shape, out)
        raise ValueError(
            f"The system returns {got} for a state of shape {x.shape}, expected the "
            "same shape. For nested states pass `x0s` in the same nested form."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"The system returns {out.dtype} for a state of {x.dtype}, expected the "
            "same. Return floats; make a complex state two real ones."
        )
    if out.dtype != x.dtype:
        raise ValueError(
            f"The system returns {out.dtype} for a state of {x.dtype}. Cast the starts "
            f"with x0s.astype(jnp.{out.dtype}), or the system's arrays: one dtype "
            "throughout."
        )
