"""Returns of an orbit to where it was, and what lies between two of them."""

import jax
import jax.numpy as jnp
from jax import lax

from ..._core._jacobian import jacobian
from ..._core._masks import norm


SAMPLES = 256
"""States kept of the motion found."""


ATTEMPTS = 4
"""How often a return is looked for, each time ten times nearer."""


def find_returns(advance, displacement, p, h, steps, unit, closed, is_map):
    """Returns of the orbit from `p` after which it goes on as before: the end, how
    many, the period, how uneven, the largest and the least distance.

    An orbit may come near to where it was long before it closes. Where states a period
    apart (`apart`) differ by more than `closed` units, nearer returns are looked for;
    of a flow also where returns come unevenly."""

    def attempt(carry):
        k, nearest, _ = carry
        found = _returns(advance, displacement, p, p, h, steps, unit, nearest, is_map)
        x, count, period, uneven, closure, least = found
        even = (count >= 3) & (uneven < 1e-3)
        gap = apart(advance, p, h, jnp.where(even, period, 0), is_map) / unit
        found = (x, count, period, uneven, jnp.maximum(closure, gap), least)
        again = (even & (gap > closed)) | (~even & (count >= 3) & (not is_map))
        k = jnp.where(again, k + 1, ATTEMPTS)
        return k, jnp.minimum(0.1 * nearest, 0.5 * closure), found

    zero, count = jnp.zeros((), p.dtype), jnp.zeros((), jnp.int32)
    nothing = (p, count, zero, zero, zero, zero)
    start = (count, jnp.asarray(closed, p.dtype), nothing)
    return lax.while_loop(lambda c: c[0] < ATTEMPTS, attempt, start)[2]


def nearest_pass(advance, displacement, p, x, h, steps, unit):
    """Least distance from `p`, in its plane across the flow, of an orbit from `x`."""
    return _returns(advance, displacement, p, x, h, steps, unit, 0.0, False)[-1]


def _returns(advance, displacement, p, x, h, steps, unit, closed, is_map, most=16):
    """Follow the orbit from `x` until it has come to `p` `most` times: for a flow,
    crossings of the plane through `p` across the velocity."""
    along = displacement(p)
    infinite = jnp.asarray(jnp.inf, p.dtype)

    def derivatives(x):
        velocity = displacement(x)
        return velocity, jax.jvp(displacement, (x,), (velocity,))[1]

    def crossing(x, new):
        if is_map:
            return jnp.ones((), bool), jnp.ones((), p.dtype), norm(new - p) / unit
        ends = [x - p, new - p, *derivatives(x), *derivatives(new)]
        heights = [jnp.vdot(along, a) for a in ends]
        s0, s1 = heights[:2]
        hit = (s0 < 0) & (s1 >= 0)
        u = jnp.where(hit, -s0 / jnp.where(s1 > s0, s1 - s0, 1), 0)
        for _ in range(3):
            slope = jax.grad(_quintic)(u, *heights)
            u = u - _quintic(u, *heights) / jnp.where(slope > 0, slope, infinite)
            u = jnp.clip(u, 0, 1)
        # What is interpolated tells where to integrate to, and no more.
        y = advance(x, u * h)
        velocity = displacement(y)
        slope = jnp.vdot(along, velocity)
        part = -jnp.vdot(along, y - p) / jnp.where(slope > 0, slope, infinite)
        return hit, u + part, norm(y + part * velocity - p) / unit

    def body(carry):
        i, x, count, last, shortest, longest, closure, nearest, total = carry
        new = advance(x, h)
        hit, part, distance = crossing(x, new)
        time = i + part
        near = hit & (distance <= closed)
        gap = time - last
        return (
            i + 1,
            new,
            count + near,
            jnp.where(near, time, last),
            jnp.where(near, jnp.minimum(shortest, gap), shortest),
            jnp.where(near, jnp.maximum(longest, gap), longest),
            jnp.where(near, jnp.maximum(closure, distance), closure),
            jnp.where(hit, jnp.minimum(nearest, distance), nearest),
            jnp.where(near, time, total),
        )

    zero = jnp.zeros((), p.dtype)
    count = jnp.zeros((), jnp.int32)
    start = (count, x, count, zero, infinite, zero, zero, infinite, zero)
    going = lambda c: (c[0] < steps) & (c[2] < most)
    _, x, count, _, shortest, longest, closure, nearest, total = lax.while_loop(
        going, body, start
    )
    period = total / jnp.maximum(count, 1)
    uneven = jnp.where(count > 0, (longest - shortest) / jnp.maximum(period, 1e-30), 0)
    return x, count, period, uneven, closure, nearest


def apart(advance, x, h, period, is_map):
    """Largest distance between states of a cycle and the same a period later: near a
    critical point all but the first may still be far from closing."""
    number = jnp.round(period) if is_map else jnp.ceil(period)
    h = h if is_map else h * period / jnp.maximum(number, 1)

    def body(_, carry):
        x, y, largest = carry
        x, y = advance(x, h), advance(y, h)
        return x, y, jnp.maximum(largest, norm(x - y))

    steps = number.astype(jnp.int32)
    y = lax.fori_loop(0, steps, lambda _, x: advance(x, h), x)
    return lax.fori_loop(0, steps, body, (x, y, norm(x - y)))[2]


def cycle_point(step, x0, k):
    """Newton's method for x = F^k(x), where F is `step`: `x`, how far it is from `x0`
    (`distance`), the `jacobian` of F^k, and whether a cycle was `found`: the last step
    is short, and far shorter than the one before, as at a double root it is not, or f
    within rounding."""
    iterate = lambda x: lax.fori_loop(0, k, lambda _, y: step(y), x)
    eps = jnp.finfo(x0.dtype).eps

    def newton(carry):
        i, x, _, before, _ = carry
        jac, f = jacobian(lambda x: iterate(x) - x, x)
        jac = jnp.where(jnp.isfinite(jac), jac, 0)
        ahead = jnp.linalg.solve(jac, f)
        finite = jnp.all(jnp.isfinite(ahead))
        size = jnp.maximum(1, norm(x))
        length = jnp.where(finite, norm(ahead) / size, jnp.inf)
        settled = (length <= 0.3 * before) | (norm(f) <= 64 * eps * size)
        found = settled & (length <= eps**0.5)
        return i + 1, jnp.where(finite, x - ahead, x), jac, length, found

    going = lambda c: (c[0] < 16) & ~c[4] & (k > 0)
    zero, far = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, x0.dtype)
    nothing = jnp.zeros((x0.size, x0.size), x0.dtype)
    start = (zero, x0, nothing, far, jnp.zeros((), bool))
    _, x, jac, _, found = lax.while_loop(going, newton, start)
    jac = jac + jnp.eye(x0.size, dtype=x0.dtype)
    return dict(x=x, jacobian=jac, found=found, distance=norm(x - x0))


def _quintic(u, x0, x1, v0, a0, v1, a1):
    """States, velocities and accelerations at both ends of a step, interpolated."""
    w = 1 - u
    return w**3 * (
        (1 + 3 * u + 6 * u**2) * x0 + u * (1 + 3 * u) * v0 + u**2 / 2 * a0
    ) + u**3 * ((1 + 3 * w + 6 * w**2) * x1 - w * (1 + 3 * w) * v1 + w**2 / 2 * a1)


def orbit_after(advance, x, h, steps, returns, period, is_map):
    """Equally spaced states after `x`."""
    if is_map:
        return lax.scan(lambda x, _: (advance(x, h), x), x, None, length=SAMPLES)[1]
    periodic = returns > 0
    inner = jnp.where(periodic, jnp.ceil(period / SAMPLES), steps // SAMPLES)
    inner = jnp.maximum(inner, 1).astype(jnp.int32)
    small = jnp.where(periodic, h * period / (SAMPLES * inner), h)
    hop = lambda x: lax.fori_loop(0, inner, lambda _, x: advance(x, small), x)
    return lax.scan(lambda x, _: (hop(x), x), x, None, length=SAMPLES)[1]


def period_average(advance, x, h, period, is_map):
    """The average over one period, in steps nearly as long as those that led to `x`:
    much shorter ones have an orbit of their own, and leave this one."""
    steps = jnp.round(period) if is_map else jnp.ceil(period)
    number = jnp.maximum(steps, 1)
    fitting = h if is_map else h * period / number
    one = lambda _, c: (advance(c[0], fitting), c[1] + (c[0] - x))
    start = (x, jnp.zeros_like(x))
    _, total = lax.fori_loop(0, steps.astype(jnp.int32), one, start)
    return x + total / number
