"""Where one start of a flow or a map ends up: rest, recurrence, stretch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core._export import Result
from ..._core._jacobian import jacobian
from ..._core._masks import norm
from ..._core._system import Map, residual_fn
from ...flows import RK4, AbstractMethod
from .._linear import newton_length
from .._states import as_states
from ._returns import SAMPLES, find_returns, orbit_after, period_average


BLOCKS = 8
"""Stretches of each half of the window, whose means say how much means fluctuate."""


class LateRun(Result):
    """A long run at constant input, measured after a transient. Times in steps.

    **Attributes:**

    - `final`: the last state, shape `(state,)`; `finite`: whether the state stayed
        finite and below 1e8 max(1, |x0|).
    - `point`, `speed`, `error`, `distance`: a root by Newton's method from the last
        state, the residual and the Newton step there (the error of the point), and how
        far it is; `jacobian`: of the residual there.
    - `extent`: half the diagonal of the box that holds the window.
    - `trend`: extent of the second half of the window over that of the first.
    - `growth`: logarithm of the stretch of the leading tangent vectors in the two
        halves of the window, shape `(2, k)`.
    - `rates`: the same per step, averaged over the window with a smooth weight that
        vanishes at its ends: accurate far beyond 1/window for quasi-periodic motion.
    - `neutral`: growth of the leading vector over the window; for a flow less that of
        the velocity, so that it is 0 on a limit cycle whatever the phase.
    - `mean`, `spread`: smoothly weighted average and variance of the state; where there
        are returns the average is that over one period (of a map, of up to 256 steps).
    - `drift`: largest change, over variables, of the smoothly weighted averages of x
        (in units of its extent) and of x^2 (of the square) from one half of the window
        to the other: tiny for periodic and quasi-periodic motion, about the inverse
        root of the window for chaos.
    - `blocks`: plain averages of x and x^2 over 16 equal stretches of the window, shape
        `(16, 2, state)`.
    - `returns`: how often the orbit came back to where it was, to `closed` extents or
        less, and went on as before; `period`: mean time between these; `uneven`: spread
        of these times, relative; `closure`: largest distance at a return, and between
        states of the orbit a period apart, in extents.
    - `nearest`: closest return of all, in extents.
    - `window`: its length; `orbit`: states after it, shape `(256, state)`, equally
        spaced: over one period if there is one, else over the window; of a map,
        consecutive.
    - `step_error`: largest error of one step of the integration on the orbit,
        relative to the extent.
    """

    final: Float[Array, " state"]
    finite: Bool[Array, ""]
    point: Float[Array, " state"]
    speed: Float[Array, ""]
    error: Float[Array, ""]
    distance: Float[Array, ""]
    jacobian: Float[Array, "state state"]
    extent: Float[Array, ""]
    trend: Float[Array, ""]
    growth: Float[Array, "halves k"]
    rates: Float[Array, " k"]
    neutral: Float[Array, ""]
    mean: Float[Array, " state"]
    spread: Float[Array, " state"]
    drift: Float[Array, ""]
    blocks: Float[Array, "blocks moments state"]
    returns: Int[Array, ""]
    period: Float[Array, ""]
    uneven: Float[Array, ""]
    closure: Float[Array, ""]
    nearest: Float[Array, ""]
    window: Float[Array, ""]
    orbit: Float[Array, "samples state"]
    step_error: Float[Array, ""]
    kind: str = eqx.field(static=True)


def settle(
    system: Any,
    x0: Float[Array, " state"],
    args: PyTree = None,
    *,
    dt: Any = None,
    transient: Any,
    window: Any,
    closed: Any = None,
    method: AbstractMethod | None = None,
) -> LateRun:
    """Run a flow or a map for a long time and measure what it does then.

    Pure; the numbers of steps may be traced, so that one program serves all lengths.
    Forward-mode differentiation only, and meaningless where the end is chaotic.

    ```python
    run = settle(lorenz, x0, dt=0.01, transient=2000, window=8000)
    run.growth.sum(axis=0) / (8000 * 0.01), verdict_of(run)
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`; `args`: the input, held constant.
    - `x0`: the start, shape `(state,)`.
    - `dt`: step of the integration of a flow.
    - `transient`, `window`: steps to discard, and to measure. Returns are looked for in
        another `window` steps.
    - `closed`: largest distance of a return, in extents; default 1e-4 for flows and
        1e-6 for maps.
    - `method`: of integration, `RK4()` by default.

    **Returns:** a `LateRun`. A `window` shorter than three periods shows no return.

    **Reference:** Das, Saiki, Sander & Yorke 2017, doi:10.1088/1361-6544/aa84c2
    (weighted averages); Benettin et al. 1980, doi:10.1007/BF02128236.
    """
    is_map = isinstance(system, Map)
    x0 = as_states("x0", x0, ("state",), "Use jax.vmap for several.", system, args)
    dtype, size = x0.dtype, x0.size
    if is_map:
        advance = lambda x, h: system(x, args)
        displacement = lambda x: system(x, args) - x
        h = jnp.ones((), dtype)
    else:
        if dt is None:
            raise ValueError(
                "`dt` = None, expected the step of the integration. Pass e.g. a "
                "twentieth of the fastest time constant."
            )
        integrate = RK4() if method is None else method
        zero, h = jnp.zeros((), dtype), jnp.asarray(dt, dtype)
        advance = lambda x, h: integrate.step(system, zero, x, h, args, None)
        displacement = lambda x: h * system(zero, x, args)
    closed = (1e-6 if is_map else 1e-4) if closed is None else closed
    half = jnp.asarray(window, jnp.int32) // 2
    bound = 1e8 * jnp.maximum(1, norm(x0))

    def run(steps, x):
        return lax.fori_loop(0, steps, lambda _, x: advance(x, h), x)

    # The tangent vectors need a transient of their own: one half window before the two.
    x = run(jnp.maximum(jnp.asarray(transient, jnp.int32) - half, 0), x0)
    k = min(3, size)
    v = jnp.cos(jnp.arange(1.0, 1 + k)[:, None] * (1 + jnp.arange(size))[None, :])
    v = orthonormal(v.astype(dtype), v.astype(dtype))[0]
    tiny = jnp.finfo(dtype).tiny
    pace = lambda x: jnp.log(jnp.maximum(norm(displacement(x)), tiny))
    reference = x

    def one_half(carry, _):
        x, v = carry

        def step(i, carry):
            x, v, low, high, plain, first, second, growth, weighted, total = carry
            place = (i + 0.5) / half
            weight = jnp.exp(-1 / (place * (1 - place))).astype(dtype)
            push = lambda v: jax.jvp(lambda x: advance(x, h), (x,), (v,))
            x, pushed = jax.vmap(push, out_axes=(None, 0))(v)
            v, stretch = orthonormal(pushed, v)
            y = x - reference
            return (
                x,
                v,
                jnp.minimum(low, x),
                jnp.maximum(high, x),
                plain + jnp.stack([y, y**2]),
                first + weight * y,
                second + weight * y**2,
                growth + stretch,
                weighted + weight * stretch,
                total + weight,
            )

        def block(carry, ends):
            carry = lax.fori_loop(ends[0], ends[1], step, carry)
            return carry, carry[4]

        nothing, flat = jnp.zeros_like(x), jnp.zeros(k, dtype)
        both = jnp.zeros((2, size), dtype)
        zero = jnp.zeros((), dtype)
        start = (x, v, x, x, both, nothing, nothing, flat, flat, zero)
        edges = jnp.arange(BLOCKS + 1) * half // BLOCKS
        out, plain = lax.scan(block, start, (edges[:-1], edges[1:]))
        x, v, low, high, _, first, second, growth, weighted, total = out
        lengths = jnp.maximum(jnp.diff(edges), 1)[:, None, None]
        plain = jnp.diff(plain, axis=0, prepend=both[None]) / lengths
        means = (first / total, second / total, weighted / total)
        return (x, v), (low, high, growth, pace(x), plain, *means)

    (x, _), late = lax.scan(one_half, (x, v), None, length=3)
    last = late[3][0]
    low, high, growth, now, plain, first, second, rates = (a[1:] for a in late)
    extents = jnp.linalg.norm(high - low, axis=1) / 2
    extent = norm(jnp.max(high, axis=0) - jnp.min(low, axis=0)) / 2
    unit = jnp.where(extent > 0, extent, 1)
    # Each variable in its own extent, unless that is rounding; in units in which
    # variables that move alike have the drift of the state.
    own = (jnp.max(high, axis=0) - jnp.min(low, axis=0)) / 2
    scale = jnp.maximum(jnp.max(jnp.abs(high), axis=0), jnp.max(jnp.abs(low), axis=0))
    own = jnp.maximum(own, 1e-9 * jnp.maximum(scale, extent))
    own = jnp.where(own > 0, own, 1) * size**0.5
    shift = jnp.abs(first[1] - first[0]) / own
    drift = jnp.max(jnp.maximum(shift, jnp.abs(second[1] - second[0]) / own**2))
    neutral = jnp.sum(growth[:, 0])
    if not is_map:
        neutral = neutral - (now[-1] - last)

    found = find_returns(advance, displacement, x, h, 2 * half, unit, closed, is_map)
    x, returns, period, uneven, closure, nearest = found
    orbit = orbit_after(advance, x, h, 2 * half, returns, period, is_map)
    # A window of a few periods is no average; its halves may agree on the wrong one.
    whole = (returns > 0) & ((period <= SAMPLES) if is_map else jnp.isfinite(period))
    average = period_average(advance, x, h, jnp.where(whole, period, 0), is_map)
    mean = jnp.where(whole, average, reference + jnp.mean(first, axis=0))
    step_error = jnp.zeros((), dtype)
    if not is_map:
        some = orbit[:: SAMPLES // 16]
        halved = lambda x: advance(advance(x, h / 2), h / 2)
        gap = jax.vmap(lambda x: norm(advance(x, h) - halved(x)))(some)
        step_error = jnp.max(gap) / (extent + 1e-9 * jnp.maximum(1, norm(x)))
    # False for NaN.
    finite = jnp.all(jnp.isfinite(orbit)) & (jnp.max(jnp.abs(orbit)) < bound)
    finite = finite & (extent < bound)
    residual = residual_fn(system, args)
    point, jac, speed, error = _nearby_root(residual, jnp.where(finite, x, 0))
    clean = lambda a: jnp.where(finite & jnp.isfinite(a), a, 0)
    return LateRun(
        final=clean(x),
        finite=finite,
        point=clean(point),
        speed=speed,
        error=error,
        distance=norm(point - x),
        jacobian=jac,
        extent=clean(extent),
        trend=clean(extents[1] / jnp.where(extents[0] > 0, extents[0], 1)),
        growth=clean(growth),
        rates=clean(jnp.mean(rates, axis=0)),
        neutral=clean(neutral),
        mean=clean(mean),
        spread=clean(jnp.mean(second, axis=0) - jnp.mean(first, axis=0) ** 2),
        drift=drift,
        blocks=clean(_about_zero(plain.reshape(-1, 2, size), reference)),
        returns=jnp.where(finite, returns, 0),
        period=clean(period),
        uneven=uneven,
        closure=closure,
        nearest=nearest,
        window=2 * half.astype(dtype),
        orbit=clean(orbit),
        step_error=step_error,
        kind="map" if is_map else "flow",
    )


def _about_zero(moments, centre):
    """Means of x and x^2 from those about `centre`."""
    first, second, centre = moments[:, 0], moments[:, 1], centre[None]
    squares = second + 2 * centre * first + centre**2
    return jnp.stack([first + centre, squares], axis=1)


def orthonormal(pushed, before):
    """Gram-Schmidt of the few rows `pushed`, and the logarithms of the lengths; of what
    is wiped out the row in `before` stays."""
    rows, logs = [], []
    for i in range(pushed.shape[0]):
        v = pushed[i]
        for u in rows:
            v = v - jnp.vdot(u, v) * u
        for u in rows:  # again: once is not enough for nearly parallel rows
            v = v - jnp.vdot(u, v) * u
        length = jnp.linalg.norm(v)
        # A direction that is wiped out leaves no vector; keep the old one.
        alive = length > jnp.finfo(v.dtype).tiny
        rows.append(jnp.where(alive, v / jnp.where(alive, length, 1), before[i]))
        logs.append(jnp.log(jnp.where(alive, length, jnp.finfo(v.dtype).tiny)))
    return jnp.stack(rows), jnp.stack(logs)


def _nearby_root(residual, x):
    """A few Newton steps from `x`; the Jacobian, the residual, and the next step.

    Along a continuum of roots, where the Jacobian is singular but for rounding, nothing
    moves: the steps are damped by 1e-7 of it.
    """

    def newton(_, x):
        jac, f = jacobian(residual, x)
        damping = (1e-7 * jnp.linalg.norm(jac)) ** 2
        normal = jac.T @ jac + damping * jnp.eye(x.size, dtype=x.dtype)
        step = jnp.linalg.solve(normal, jac.T @ f)
        longest = jnp.maximum(1, norm(x))
        step = step / jnp.maximum(1, norm(step) / longest)
        return x - jnp.where(jnp.isfinite(step), step, 0)

    x = lax.fori_loop(0, 8, newton, x)
    jac, f = jacobian(residual, x)
    jac = jnp.where(jnp.isfinite(jac), jac, 0)
    return x, jac, norm(f), newton_length(residual, jac, f, x)
