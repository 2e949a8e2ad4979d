"""How long a trajectory takes from a state to a plane, slow passages included."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core._checks import as_float, check_count, is_concrete
from ..._core._closures import capture, precise, program
from ..._core._export import Result
from ..._core._masks import norm
from ..._core._system import is_map
from ...flows import Dopri8
from .._states import as_arrays, as_states, check_number


# Steps of the last stretch, which ends on the plane exactly.
LAST = 8


class Passage(Result):
    """The way of one trajectory from a state to a plane.

    **Attributes:**

    - `time`: in the time unit of the flow; infinite if the trajectory never arrived.
    - `x`: the state on the plane, or the last one reached, shape `(state,)`.
    - `arrived`: whether the plane was crossed. `num_steps`: accepted steps.
    """

    time: Float[Array, ""]
    x: Float[Array, " state"]
    arrived: Bool[Array, ""]
    num_steps: Int[Array, ""]

    def headline(self) -> str:
        """When it arrived."""
        line = f"arrived after {self.time:.6g}" if self.arrived else "did not arrive"
        return f"{line}, {self.num_steps} steps"


def passage_time(
    f: Any,
    x0: Float[Array, "..."],
    end: Float[Array, "..."],
    args: PyTree = None,
    *,
    normal: Float[Array, "..."] | None = None,
    rtol: float | None = None,
    max_steps: int = 4096,
) -> Passage:
    """The time along the flow from a state until a plane is crossed.

    Integrates with respect to the length of the path, dx/ds = f/|f| and dt/ds = 1/|f|,
    by order 8 with step-size control: the steps do not pile up where the flow is slow,
    and for one state variable this is the quadrature of dx/f. The last stretch takes
    the distance from the plane as its variable and ends on it exactly. Pure; `time`
    and `x` are differentiable in `x0`, `end`, `normal` and whatever `f` and `args`
    depend on, in both modes.

    ```python
    f = lambda t, x, mu: mu + x**2
    way = passage_time(f, jnp.array([-1.0]), jnp.array([1.0]), 1e-4)
    way.time                                # 2 atan(1 / sqrt mu) / sqrt mu = 312.159...
    ```

    **Arguments:**

    - `f`: a flow `f(t, x, args)`, autonomous under the held input `args`.
    - `x0`: where the clock starts, shape `(state,)`.
    - `end`: a state on the plane at which it stops, shape `(state,)`.
    - `args`: the input, held constant.
    - `normal`: of the plane, on the side to which it is crossed. Default: `end - x0`.
    - `rtol`: error of a step relative to max(1, |x|) and to the time. Default 1e-12 in
        float64 and 1e-5 in float32.
    - `max_steps`: trials of a step; a trajectory that needs more has not arrived.

    **Returns:**

    A `Passage`; look at `arrived`. An error e of the path counts e / |f| in the time:
    relative to a bottleneck's time it is about e / sqrt(drift). In directions that
    contract at rate k the steps cannot last longer than about 6 / k: raise `max_steps`
    where the time is longer than a few thousand / k. Two crossings within one step are
    missed.

    **Raises:** a `ValueError` for a map, or for shapes that do not fit.

    **Reference:** M. Henon 1982, doi:10.1016/0167-2789(82)90034-3 (ending on a plane).
    """
    if is_map(f):
        raise ValueError(
            "passage_time got a Map, expected a flow f(t, x, args). Count the steps of "
            "a map, or pass the flow that it discretises."
        )
    check_count("max_steps", max_steps)
    remedy = "Use `jax.vmap` for several starts."
    args = as_arrays(args, x0)
    x0 = as_states("x0", x0, ("state",), remedy, f, args)
    end = as_states("end", end, ("state",), remedy)
    normal = end - x0 if normal is None else as_float(normal, "`normal`")
    if x0.ndim != 1 or end.shape != x0.shape or normal.shape != x0.shape:
        raise ValueError(
            f"x0, end and normal have shapes {x0.shape}, {end.shape}, {normal.shape}, "
            "expected three times (state,). Use `jax.vmap` for several starts."
        )
    if is_concrete(normal) and not np.any(normal):
        raise ValueError(
            "`normal` is 0, expected the direction in which the plane is crossed. Pass "
            "an `end` other than `x0`, or a normal=."
        )
    if rtol is None:
        rtol = 1e-12 if x0.dtype == jnp.float64 else 1e-5
    check_number("rtol", rtol, "Leave it out for the default.")
    return _passage_time(f, x0, end, args, normal, rtol, max_steps)


@program
def _passage_time(f, x0, end, args, normal, rtol, max_steps):
    field = lambda x: f(jnp.zeros((), x.dtype), x, args)
    fn = capture(field, x0)
    end, normal = end.astype(x0.dtype), normal.astype(x0.dtype)
    return Passage(*_follow(fn, x0, end, normal, rtol, max_steps))


def _by_length(fn):
    def field(_, z, __):
        velocity = fn(z[:-1])
        speed = norm(velocity)
        return jnp.append(velocity, 1) / speed

    return field


def _by_height(fn, normal):
    def field(_, z, __):
        velocity = fn(z[:-1])
        return jnp.append(velocity, 1) / jnp.vdot(normal, velocity)

    return field


def _mesh(fn, x0, end, normal, rtol, max_steps):
    """Lengths of the steps up to the one that would cross the plane."""
    method, field = Dopri8(), _by_length(fn)
    tableau = dfx.Dopri8.tableau
    rows = [np.asarray(row) for row in tableau.a_lower]
    weights = np.asarray(tableau.b_error)
    height = lambda z: jnp.vdot(normal, z[:-1] - end)

    def error(z, h):
        stages = [field(0, z, None)]
        for row in rows:
            total = sum(float(w) * k for w, k in zip(row, stages, strict=True) if w)
            stages.append(field(0, z + h * total, None))
        pairs = zip(weights, stages, strict=True)
        return h * sum(float(w) * k for w, k in pairs if w)

    def body(carry):
        z, h, steps, count, trials, _ = carry
        new = method.step(field, 0, z, h, None, None)
        off = error(z, h)
        unit = jnp.maximum(1, norm(new[:-1]))
        size = norm(off[:-1]) / unit + jnp.abs(off[-1]) / jnp.abs(new[-1])
        size = size / rtol
        good = (size <= 1) & jnp.all(jnp.isfinite(new))
        factor = jnp.clip(0.9 * jnp.maximum(size, 1e-16) ** (-1 / 8), 0.2, 5.0)
        factor = jnp.where(jnp.isfinite(size), factor, 0.2).astype(z.dtype)
        crossed = good & (height(z) < 0) & (height(new) >= 0)
        steps = steps.at[count].set(jnp.where(good, h, 0), mode="drop")
        count = count + (good & ~crossed)
        z = jnp.where(good & ~crossed, new, z)
        return z, jnp.where(crossed, h, h * factor), steps, count, trials + 1, crossed

    z0 = jnp.append(x0, 0)
    h0 = 1e-3 * jnp.maximum(1, norm(x0)) * jnp.ones((), x0.dtype)
    zero = jnp.zeros((), jnp.int32)
    carry = (z0, h0, jnp.zeros(max_steps, x0.dtype), zero, zero, jnp.zeros((), bool))
    going = lambda c: ~c[5] & (c[4] < max_steps)
    z, _, steps, count, _, crossed = lax.while_loop(going, body, carry)
    steps = jnp.where(jnp.arange(max_steps) < count, steps, 0)
    return z, steps, count, crossed


def _last(fn, z, end, normal):
    """From before the plane onto it."""
    field = _by_height(fn, normal)
    h = jnp.vdot(normal, end - z[:-1]) / LAST
    step = lambda z, _: (Dopri8().step(field, 0, z, h, None, None), None)
    return lax.scan(step, z, None, length=LAST)[0]


@eqx.filter_custom_jvp
def _follow(fn, x0, end, normal, rtol, max_steps):
    return _finish(fn, end, normal, *_mesh(fn, x0, end, normal, rtol, max_steps))


def _finish(fn, end, normal, z, steps, count, crossed):
    there = _last(fn, z, end, normal)
    arrived = crossed & jnp.all(jnp.isfinite(there))
    z = jnp.where(arrived, there, z)
    return jnp.where(arrived, z[-1], jnp.inf), z[:-1], arrived, count


@_follow.def_jvp
@precise
def _follow_jvp(primals, tangents):
    # The steps are held: their choice changes the result by its error only.
    fn, x0, end, normal, rtol, max_steps = primals
    mesh = _mesh(fn, x0, end, normal, rtol, max_steps)
    value, steps = _finish(fn, end, normal, *mesh), mesh[1]

    def replay(fn, x0, end, normal):
        field = _by_length(fn)
        advance = jax.checkpoint(
            lambda z, h: Dopri8().step(field, 0, z, h, None, None), prevent_cse=False
        )
        body = lambda z, h: (lax.cond(h > 0, advance, lambda z, h: z, z, h), None)
        z, _ = lax.scan(body, jnp.append(x0, 0), steps)
        z = _last(fn, z, end, normal)
        return z[-1], z[:-1]

    _, (time, x) = eqx.filter_jvp(replay, primals[:4], tangents[:4])
    arrived = value[2]
    return value, (jnp.where(arrived, time, 0), jnp.where(arrived, x, 0), None, None)
