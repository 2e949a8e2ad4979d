"""Where a trajectory crosses a section: the search, and its derivative."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..._core._closures import precise
from ..._core._masks import norm


class _Landing(eqx.Module):
    """Newton's method for the length of the step that ends on the section."""

    s: Array
    low: Array
    high: Array
    best: Array
    point: Array
    value: Array
    count: Array


class _Found(eqx.Module):
    """Crossings so far: the step they are in, how far into it, where, which way."""

    index: Array
    fraction: Array
    points: Array
    sign: Array


def find_crossings(fns, x0, crossings, direction, dt, num_steps):
    """Follow the trajectory and land on every crossing.

    `fns` are `velocity(t, x)`, `height(x)` and `advance(x, t, length)`.

    **Returns:** for every slot the step, the mask, the sign, the time and the point;
    then whether the trajectory stayed finite.
    """
    velocity, height, advance = fns
    dtype, eps = x0.dtype, jnp.finfo(x0.dtype).eps
    h = jnp.asarray(dt, dtype)
    g0, slope = jax.value_and_grad(height)(x0)
    rate = jnp.vdot(slope, velocity(jnp.zeros((), dtype), x0))
    # A start within rounding of the section counts as having left it already.
    near = 64 * eps * norm(slope) * jnp.maximum(1, norm(x0))
    near = jnp.maximum(near, eps**0.5 * h * jnp.abs(rate))
    leaving = jnp.abs(g0) <= near
    side = jnp.sign(jnp.where(leaving, rate, g0)).astype(jnp.int32)
    limit = 60 if eps < 1e-10 else 30

    def going(carry):
        i, count, finite = carry[0], carry[1], carry[2]
        return (i < num_steps) & (count < crossings) & finite

    # One step an iteration, a whole one or a trial to land: the program holds the
    # integrator once, and under `vmap` no lane waits for another to land.
    def body(carry):
        i, count, _, landing, x, g, side, ahead, g_ahead, land, found = carry
        length = jnp.where(landing, land.s, h)
        new = advance(x, i * h, length)
        g_new, slope = jax.value_and_grad(height)(new)
        finite = jnp.all(jnp.isfinite(new)) & jnp.isfinite(g_new)
        finite = finite | landing
        now = jnp.sign(jnp.where(finite, g_new, 0)).astype(jnp.int32)
        # Landing exactly on the section completes the crossing.
        now = jnp.where(now == 0, -side, now)
        wanted = (now == direction) if direction else jnp.ones((), bool)
        crossed = ~landing & finite & (side != 0) & (now != side) & wanted

        # A trial to land: keep the best, shrink the bracket, take Newton's step.
        better = jnp.abs(g_new) < land.value
        over = -side.astype(dtype) * g_new > 0
        low = jnp.where(over, land.low, land.s)
        high = jnp.where(over, land.s, land.high)
        # From a start on the section, g / s is solved: s = 0 is no crossing.
        first = leaving & (i == 0)
        steep = jnp.vdot(slope, velocity(i * h + land.s, new))
        steep = steep - jnp.where(first, g_new / land.s, 0)
        newton = land.s - g_new / steep
        tiny = jnp.abs(newton - land.s) <= eps * h
        inside = (newton > low) & (newton < high)  # False for NaN
        trial = _Landing(
            s=jnp.where(inside, newton, 0.5 * (low + high)),
            low=low,
            high=high,
            best=jnp.where(better, land.s, land.best),
            point=jnp.where(better, new, land.point),
            value=jnp.where(better, jnp.abs(g_new), land.value),
            count=land.count + 1,
        )
        rounding = eps * norm(slope) * jnp.maximum(1, norm(x)) / 8
        landed = (trial.value <= rounding) | tiny | (trial.count >= limit)
        landed = landing & landed
        behind = jnp.where(first, h * jnp.abs(rate), jnp.abs(g))
        sizes = behind + jnp.abs(g_new)
        guess = h * behind / jnp.where(sizes > 0, sizes, 1)
        fresh = _Landing(
            guess, 0 * h, h, h, new, jnp.abs(g_new), jnp.zeros((), jnp.int32)
        )
        land = _select(crossed, fresh, _select(landing, trial, land))
        ahead = jnp.where(crossed, new, ahead)
        g_ahead = jnp.where(crossed, g_new, g_ahead)

        row = jnp.where(landed, count, crossings)  # out of bounds: dropped
        values = _Found(i, trial.best, trial.point, -side)
        found = jax.tree.map(lambda a, v: a.at[row].set(v, mode="drop"), found, values)
        onward = ~landing & ~crossed & finite
        x = jnp.where(landed, ahead, jnp.where(onward, new, x))
        g = jnp.where(landed, g_ahead, jnp.where(onward, g_new, g))
        side = jnp.where(landed, -side, jnp.where(onward, now, side))
        i = i + (landed | onward)
        landing = crossed | (landing & ~landed)
        count = count + landed
        return i, count, finite, landing, x, g, side, ahead, g_ahead, land, found

    zero = jnp.zeros((), jnp.int32)
    rows, ints = jnp.zeros(crossings, dtype), jnp.zeros(crossings, jnp.int32)
    found = _Found(ints, rows, jnp.zeros((crossings, x0.size), dtype), ints)
    land = _Landing(h, 0 * h, h, h, x0, h, zero)
    finite = jnp.all(jnp.isfinite(x0)) & jnp.isfinite(g0)
    start = (zero, zero, finite, False, x0, g0, side, x0, g0, land, found)
    start = jax.tree.map(jnp.asarray, start)
    out = lax.while_loop(going, body, start)
    mask = jnp.arange(crossings) < out[1]
    found = out[-1]
    times = jnp.where(mask, found.index * h + found.fraction, 0)
    return found.index, mask, found.sign, times, found.points, out[2]


def _select(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


@eqx.filter_custom_jvp
def attach_crossings(fns, x0, index, mask, times, points, dt, num_steps):
    """Times and points themselves, with the derivatives of the crossings.

    The rule calls itself, so higher derivatives are right as well, and it is linear in
    the tangents, so forward and reverse mode work. Values are those of the search; the
    trajectory is only replayed when a derivative is taken.
    """
    del fns, x0, index, mask, dt, num_steps
    return times, points


@attach_crossings.def_jvp
@precise
def _attach_jvp(primals, tangents):
    fns, x0, index, mask, times, points, dt, num_steps = primals
    t_fns, t_x0 = tangents[:2]
    times, points = attach_crossings(fns, x0, index, mask, times, points, dt, num_steps)
    h = jnp.asarray(dt, x0.dtype)
    total = jnp.sum(mask, dtype=jnp.int32)
    fractions = jnp.where(mask, times - index * h, 0)
    size = index.shape[0]
    # Lanes and slots without a crossing compute something harmless instead: in reverse
    # mode 0 times NaN would spoil the derivative of what they share with the others.
    speed = fns[0](jnp.zeros((), x0.dtype), x0)
    sound = jnp.all(jnp.isfinite(x0)) & jnp.all(jnp.isfinite(speed))
    x0 = jnp.where(sound, x0, 0)
    filled = jnp.where(mask[:, None], points, x0[None])

    def ends(fns, x0):
        """The ends of the last steps, at fixed times."""
        advance = fns[2]
        move = jax.checkpoint(lambda x, i, s: advance(x, i * h, s), prevent_cse=False)

        def step(carry, _):
            # A whole step, or a last one to a crossing from the same place.
            i, count, x, out = carry
            slot = jnp.minimum(count, size - 1)
            lands = (count < total) & (index[slot] == i)
            length = jnp.where(lands, fractions[slot], h)
            length = jnp.where(count < total, length, 0)
            end = lax.cond(count < total, move, lambda x, i, s: x, x, i, length)
            out = out.at[jnp.where(lands, slot, size)].set(end, mode="drop")
            onward = (count < total) & ~lands
            x = jnp.where(onward, end, x)
            return (i + onward, count + lands, x, out), None

        zero = jnp.zeros((), jnp.int32)
        start = (zero, zero, x0, jnp.zeros((size, x0.size), x0.dtype))
        carry, _ = lax.scan(step, start, None, length=num_steps + size)
        return carry[-1]

    zero_like = lambda t, p: jnp.zeros_like(p) if t is None else t
    t_x0 = zero_like(t_x0, x0)
    _, at_fixed_times = eqx.filter_jvp(ends, (fns, x0), (t_fns, t_x0))
    velocity, height, _ = fns
    level = lambda height, x: jax.vmap(height)(x)
    _, t_level = eqx.filter_jvp(level, (height, filled), (t_fns[1], at_fixed_times))
    speeds = jax.vmap(velocity)(times, filled)
    rate = jnp.sum(jax.vmap(jax.grad(height))(filled) * speeds, axis=1)
    regular = mask & (rate != 0)
    t_times = jnp.where(regular, -t_level / jnp.where(regular, rate, 1), 0)
    t_points = at_fixed_times + speeds * t_times[:, None]
    return (times, points), (t_times, jnp.where(mask[:, None], t_points, 0))
