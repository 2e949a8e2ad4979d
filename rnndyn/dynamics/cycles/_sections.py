"""Poincare sections of flows and their return maps."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core._checks import check_count, is_concrete
from ..._core._closures import capture, freeze, program
from ..._core._export import Result
from ..._core._masks import norm
from ..._core._system import Map
from ...flows import AbstractFlow, Dopri8, ScanFlow
from .._states import as_arrays, as_states, check_system
from ._crossings import attach_crossings, find_crossings


class Section(Result):
    """Where a trajectory crosses a section, in the order of time.

    `points`, `times` and `intervals` are differentiable in both modes in the start and
    in whatever the flow and the section depend on. Slots that were not reached hold 0.

    **Attributes:**

    - `points`: states on the section, shape `(crossings, state)`.
    - `times`: since the start, shape `(crossings,)`, in the time unit of the flow.
    - `intervals`: since the crossing before, shape `(crossings,)`; the first one since
        the start.
    - `mask`: whether this many crossings were reached within `max_time`.
    - `sign`: 1 where g rises, -1 where it falls, 0 where not reached.
    - `transversality`: |grad g . f| / (|grad g| |f|), between 0 and 1. Where it is
        small the orbit grazes the section: times and derivatives are unreliable, and
        a second crossing nearby may have been missed.
    - `residual`: |g| at the points.
    - `finite`: whether the trajectory stayed finite as far as it was followed.
    """

    points: Float[Array, "crossings state"]
    times: Float[Array, " crossings"]
    intervals: Float[Array, " crossings"]
    mask: Bool[Array, " crossings"]
    sign: Int[Array, " crossings"]
    transversality: Float[Array, " crossings"]
    residual: Float[Array, " crossings"]
    finite: Bool[Array, ""]

    def headline(self) -> str:
        """How many crossings there are, until when, and the flattest angle."""
        found = np.asarray(self.mask)
        line = f"{found.sum()} of {found.size} crossings"
        if not found.any():
            return line
        last, angle = self.times[found][-1], np.min(self.transversality[found])
        return f"{line} until {last:.4g}, transversality at least {angle:.2g}"


class Plane(eqx.Module):
    """The section `normal . x = offset`, as a function that is zero on it."""

    normal: Float[Array, " state"]
    offset: Float[Array, ""]

    def __call__(self, x: Float[Array, " state"]) -> Float[Array, ""]:
        """Signed distance from the plane, times |normal|."""
        return jnp.vdot(self.normal.astype(x.dtype), x) - self.offset.astype(x.dtype)


class ReturnMap(eqx.Module):
    """The map of a section onto itself by the flow; see `return_map`."""

    f: Any
    g: Any
    flow: AbstractFlow | None
    direction: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    max_time: float = eqx.field(static=True)

    def __call__(self, x: Any, args: PyTree = None) -> Array:
        """The next crossing, shape `(state,)`; NaN if there is none in time."""
        section = self.section(x, args)
        return jnp.where(_returns(section), section.points[0], jnp.nan)

    def time(self, x: Any, args: PyTree = None) -> Float[Array, ""]:
        """The time to the next crossing; NaN if there is none in time."""
        section = self.section(x, args)
        return jnp.where(_returns(section), section.times[0], jnp.nan)

    def section(self, x: Any, args: PyTree = None) -> Section:
        """The next crossing as a `Section` with one slot."""
        x = _check_start(self.f, x, "a return map")
        if isinstance(self.g, Plane) and self.g.normal.shape != x.shape:
            raise ValueError(
                f"`normal` has shape {self.g.normal.shape} but the state {x.shape}, "
                "expected one component for each of the state's."
            )
        args = as_arrays(args, x)
        # Every return starts the clock anew.
        check_system(self.f, args, x)
        _check_height(self.g, x)
        x = _onto(self.g, x)
        return _section(
            self.f, x, self.g, args, 1, self.direction, self.dt, self.max_time,
            self.flow,
        )  # fmt: skip


def poincare_section(
    f: Any,
    x0: Any,
    normal: Any,
    offset: Any = 0.0,
    args: PyTree = None,
    *,
    crossings: int,
    dt: Any,
    max_time: Any,
    direction: int = 1,
    flow: AbstractFlow | None = None,
) -> Section:
    """The first crossings of a section by the trajectory from one start.

    The trajectory is followed in steps of `dt`. In a step at whose ends g differs in
    sign, the length of a shorter last step that ends on the section is found by
    Newton's method within the bracket, so that the crossing is as accurate as the
    integration. Pure: works under `jit`, `vmap` and `grad`, in the dtype of `x0`.

    ```python
    section = rd.dynamics.poincare_section(
        lorenz, x0, jnp.array([0.0, 0.0, 1.0]), 27.0,
        crossings=100, direction=-1, dt=0.01, max_time=200.0)
    section.points[section.mask], section.intervals
    ```

    **Arguments:**

    - `f`: a flow `f(t, x, args)`, which may change with time; that starts at 0.
    - `x0`: the start, shape `(state,)`. A start on the section is no crossing.
    - `normal`: of the plane `normal . x = offset`, shape `(state,)`; or any smooth
        scalar function `g(x)`, whose section is `g(x) = offset`.
    - `offset`: see `normal`.
    - `args`: the input, held constant.
    - `crossings`: how many to record.
    - `dt`: step of the search, in the time unit of the flow. Two crossings in one step
        are missed.
    - `max_time`: when to give up. The derivative costs this many steps even where the
        crossings come earlier, if it is taken under `vmap`.
    - `direction`: 1 records crossings where g rises, -1 where it falls, 0 both.
    - `flow`: how to integrate one step, over traced times. By default one step of order
        8; a `DiffraxFlow` with `DirectAdjoint` for stiff systems.

    **Returns:** a `Section`; look at its `mask`. Raises `ValueError` for a `Map`, and
    for shapes and numbers that do not fit. Not guaranteed: that `dt` is short enough;
    halve it and compare.

    The derivative of a crossing time follows from the implicit function theorem,
    dt* = -(grad g . dx + dg) / (grad g . f).

    **Reference:** M. Henon 1982, doi:10.1016/0167-2789(82)90034-3 (landing on the
    section by a last, shorter step, there with g as the independent variable).
    """
    x0 = _check_start(f, x0, "poincare_section")
    g = _check_section(normal, offset, x0)
    args = as_arrays(args, x0)
    check_system(f, args, x0, autonomous=False)
    _check_height(g, x0)
    dt, max_time = _check_numbers(dt, max_time, direction)
    check_count("crossings", crossings)
    return _section(f, x0, g, args, crossings, direction, dt, max_time, flow)


def return_map(
    f: Any,
    normal: Any,
    offset: Any = 0.0,
    *,
    dt: Any,
    max_time: Any,
    direction: int = 1,
    flow: AbstractFlow | None = None,
) -> Map:
    """The return map of a section as a `Map`, whose fixed points are limit cycles.

    A point is first moved onto the section along the gradient of g, then carried by the
    flow to the next crossing. The map takes and returns whole states `(state,)`. Its
    multipliers at a fixed point are the cycle's nontrivial Floquet multipliers, and one
    more is 0.

    ```python
    P = rd.dynamics.return_map(van_der_pol, jnp.array([0.0, 1.0]), dt=0.05,
                               max_time=10.0)
    points = rd.dynamics.fixed_points(P, jnp.array([[-2.0, 0.0]]), mu, slow=False)
    period = P.F.time(points.x[0], mu)
    ```

    **Arguments:** as `poincare_section`, but `f` must be autonomous: the time of a
    return starts at 0 again. Of a flow that is driven with a period, take the
    stroboscopic map.

    **Returns:** a `Map` around a `ReturnMap` `P.F`: `P(x, args)` is the next crossing,
    `P.F.time(x, args)` the return time, `P.F.section(x, args)` both with diagnostics.
    All are differentiable. A point that does not return within `max_time`, or whose
    return only touches the section (`transversality` within half the digits), is mapped
    to NaN, so that no search takes it for a fixed point: where the flow is tangent to
    the section, orbits return at once to where they began. Raises `ValueError` as
    `poincare_section` does, and where it is called for a flow that changes with time.

    A search for its fixed points compiles for the better part of a minute, and for
    minutes with slow points (`slow=True`), of which a return map has none to speak of.

    Not guaranteed: continuity, for the map jumps where an orbit grazes the section; nor
    that a fixed point is a cycle, for an equilibrium on the section (f = 0) is one too.

    **Reference:** M. Henon 1982, doi:10.1016/0167-2789(82)90034-3.
    """
    if isinstance(f, Map):
        raise ValueError(_IS_MAP.format("return_map"))
    g = _check_section(normal, offset, None)
    dt, max_time = _check_numbers(dt, max_time, direction)
    return Map(ReturnMap(f, g, flow, direction, dt, max_time))


@program
def _section(f, x0, g, args, crossings, direction, dt, max_time, flow):
    integrate = ScanFlow(num_steps=1, method=Dopri8()) if flow is None else flow
    num_steps = max(1, math.ceil(max_time / dt - 1e-9))
    zero = jnp.zeros((), x0.dtype)

    def advance(x, t, s):
        # Time runs from 0, or the rounding of t would spoil short steps late on.
        shifted = lambda elapsed, x, args: f(t + elapsed, x, args)
        return integrate(shifted, x, zero, s, args)

    # Derivatives live in `fns` only; the search sees constants.
    fns = (
        capture(lambda t, x: f(t, x, args), zero, x0),
        capture(lambda x: jnp.asarray(g(x), x.dtype), x0),
        capture(advance, x0, zero, zero),
    )
    found = find_crossings(freeze(fns), freeze(x0), crossings, direction, dt, num_steps)
    index, mask, sign, times, points, finite = found
    # The last step may reach beyond.
    mask = mask & (times <= max_time * (1 + 4 * jnp.finfo(x0.dtype).eps))
    times, points = attach_crossings(fns, x0, index, mask, times, points, dt, num_steps)
    # Diagnostics carry no derivative: at empty slots it need not exist.
    velocity, height, _ = freeze(fns)
    speeds = jax.vmap(velocity)(freeze(times), freeze(points))
    slopes = jax.vmap(jax.grad(height))(freeze(points))
    sizes = jax.vmap(norm)(slopes) * jax.vmap(norm)(speeds)
    rate = jnp.abs(jnp.sum(slopes * speeds, axis=1))
    rate = rate / jnp.where(sizes > 0, sizes, 1)
    before = jnp.concatenate([zero[None], times[:-1]])
    times, points = jnp.where(mask, times, 0), jnp.where(mask[:, None], points, 0)
    return Section(
        points=points,
        times=times,
        intervals=jnp.where(mask, times - before, 0),
        mask=mask,
        sign=jnp.where(mask, sign, 0),
        transversality=jnp.where(mask, rate, 0),
        residual=jnp.where(mask, jnp.abs(jax.vmap(height)(freeze(points))), 0),
        finite=finite,
    )


def _returns(section):
    """Whether the first crossing was reached, and not by touching the section."""
    angle = section.transversality[0]
    return section.mask[0] & (angle > jnp.finfo(angle.dtype).eps ** 0.5)


def _onto(g, x):
    """`x` moved onto the section along the gradient of `g`."""
    # A plane is reached in one step; the rest is for curved sections.
    for _ in range(1 if isinstance(g, Plane) else 6):
        value, slope = jax.value_and_grad(lambda y: jnp.asarray(g(y), y.dtype))(x)
        square = jnp.vdot(slope, slope)
        x = x - value * slope / jnp.where(square > 0, square, 1)
    return x


_IS_MAP = (
    "{} got a Map, expected a flow f(t, x, args): the states of a map jump over every "
    "section. Pass the flow."
)


def _check_start(f, x0, verb):
    if isinstance(f, Map):
        raise ValueError(_IS_MAP.format(verb))
    return as_states("x0", x0, ("state",), "Batch over starts with `jax.vmap`.")


def _check_height(g, x0):
    """`ValueError` unless `g` is one number at the start."""
    shape = jax.eval_shape(lambda x: jnp.asarray(g(x)), x0).shape
    if shape:
        raise ValueError(
            f"the section's function returns shape {shape} for a state of shape "
            f"{x0.shape}, expected one number, which is 0 on the section."
        )


def _check_section(normal, offset, x0):
    if callable(normal):
        if isinstance(offset, float | int) and offset == 0:
            return normal
        return _Level(normal, jnp.asarray(offset))
    normal, offset = jnp.asarray(normal), jnp.asarray(offset)
    if normal.ndim != 1 or offset.ndim != 0 or (x0 is not None and
                                                normal.shape != x0.shape):  # fmt: skip
        raise ValueError(
            f"`normal` has shape {normal.shape} and `offset` {offset.shape}, expected "
            "(state,) and (): one component for each of the state's, or pass a "
            "function g(x)."
        )
    if is_concrete(normal) and not np.any(np.asarray(normal)):
        raise ValueError("`normal` is 0, expected the direction across the section.")
    floats = jnp.result_type(normal, float) if x0 is None else x0.dtype
    return Plane(normal.astype(floats), offset.astype(floats))


class _Level(eqx.Module):
    """A level of a function, as zeros."""

    g: Any
    offset: Float[Array, ""]

    def __call__(self, x):
        return self.g(x) - self.offset.astype(x.dtype)


def _check_numbers(dt, max_time, direction):
    if not (is_concrete(dt) and is_concrete(max_time)):
        raise ValueError(
            "`dt` or `max_time` is traced, expected plain numbers: they fix the number "
            "of steps."
        )
    dt, max_time = float(dt), float(max_time)
    if not 0 < dt <= max_time < math.inf:
        raise ValueError(
            f"`dt` = {dt} and `max_time` = {max_time}, expected 0 < dt <= max_time, in "
            "the time unit of the flow."
        )
    if direction not in (-1, 0, 1):
        raise ValueError(
            f"`direction` = {direction}, expected 1 (g rises), -1 (g falls) or 0 "
            "(both)."
        )
    return dt, max_time
