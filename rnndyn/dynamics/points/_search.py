"""Many starts through few lanes: the compiled search loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._core._masks import near_kept, norm, unique_mask
from ..._core._verdicts import Verdict
from ._krylov import NewtonKrylov, judge_krylov
from ._solver import LevenbergMarquardt


LARGE = 48
"""State size from which steps without a Jacobian are tried first, and a float32
factorisation is worth its refinement."""
PILOT = 16
"""Starts by which a search judges whether steps without a Jacobian suffice."""


class Tolerances(eqx.Module):
    """What counts as a root and as a slow point, in one dtype.

    Lengths are relative to max(1, size of the state). `None` takes the default.

    **Attributes:**

    - `speed`: largest scale-free speed of a root, times max(1, rms of x); default
        max(1e-12, 8 eps sqrt(state size)), that is 1e-12 in float64.
    - `step`: largest Newton step at a root, times max(1, |x|): bounds the error of the
        point where the Jacobian is regular. Default sqrt(eps).
    - `slope`: largest relative slope of q at a slow point. Default cbrt(eps).
    - `unique`: points closer than this, times max(1, |x|), are one point. Default
        1e-6 in float64, 1e-3 in float32.
    - `stall`: relative slope of q, away from roots, at which a start is given up as
        lost. Default 0: it is followed until it is a slow point.
    """

    speed: Float[Array, ""]
    step: Float[Array, ""]
    slope: Float[Array, ""]
    unique: Float[Array, ""]
    stall: Float[Array, ""]

    def __init__(self, dtype, state_size, speed=None, unique=None, stall=0.0):
        eps = float(jnp.finfo(dtype).eps)
        if speed is None:
            speed = max(1e-12, 8 * eps * state_size**0.5)
        if unique is None:
            unique = 1e-6 if eps < 1e-12 else 1e-3
        cast = lambda v: jnp.asarray(v, dtype)
        self.speed, self.unique = cast(speed), cast(unique)
        self.step, self.slope = cast(eps**0.5), cast(eps ** (1 / 3))
        self.stall = cast(stall)

    def speed_at(self, x: Float[Array, " state"]) -> Float[Array, ""]:
        """The largest speed of a root at `x`."""
        return self.speed * jnp.maximum(1, norm(x) / x.size**0.5)


class Found(eqx.Module):
    """Where every start of a search ended; one row per start."""

    x: Float[Array, "slots state"]
    speed: Float[Array, " slots"]
    verdict: Int[Array, " slots"]
    num_steps: Int[Array, " slots"]
    handed_on: Bool[Array, " slots"]  # to full precision, within `run_lanes`

    @staticmethod
    def empty(x: Float[Array, "slots state"]) -> "Found":
        """Rows for starts that have not run."""
        zeros = jnp.zeros(x.shape[0], jnp.int32)
        speed = jnp.full(x.shape[0], huge(x.dtype), x.dtype)
        verdict = zeros + int(Verdict.undetermined)
        return Found(x, speed, verdict, zeros, zeros != 0)


def huge(dtype) -> Float[Array, ""]:
    """Stands for an unknown speed; its square is still finite."""
    return jnp.asarray(float(jnp.finfo(dtype).max) ** 0.5, dtype)


def judge(tol: Tolerances, x0, x, state, num_steps, max_steps):
    """Whether a lane has ended, and how."""
    small = state.speed <= tol.speed_at(x)
    # A strongly damped step says nothing about the distance to the root.
    undamped = state.damping * jnp.minimum(1, state.speed) <= tol.step
    bounded = undamped & (state.step <= tol.step * jnp.maximum(1, norm(x)))
    # At a fold, or in a tail that only tends to 0, steps shrink without converging.
    tiny = state.step <= 32 * jnp.finfo(x.dtype).eps * jnp.maximum(1, norm(x))
    settled = ((state.ratio <= 0.4) | state.at_rounding | tiny) & state.precise
    lost_bounds = norm(x) > 1e8 * jnp.maximum(1, norm(x0))
    diverged = ~jnp.isfinite(state.speed) | lost_bounds
    stalled = (state.slope < tol.stall) & ~small
    slow = (state.slope <= tol.slope) & ~small
    # Steps of the size of rounding, and still uphill.
    stuck = state.damping * jnp.minimum(1, state.speed) * jnp.finfo(x.dtype).eps > 1
    # At a minimum of the speed, and the step changes it by less than its rounding.
    change = state.slope * state.step / jnp.maximum(1, norm(x))
    flat = (state.slope <= 1e-3) & (change <= jnp.finfo(x.dtype).eps)
    stuck = stuck | (flat & ~small)
    verdict = jnp.select(
        [diverged, small & bounded & settled, stalled, slow],
        [Verdict.diverged, Verdict.root, Verdict.lost, Verdict.slow_point],
        Verdict.undetermined,
    ).astype(jnp.int32)
    # A small residual with a long Newton step may still become a root: carry on.
    ended = diverged | (small & bounded & settled) | stalled | slow | stuck
    return ended | (num_steps >= max_steps), verdict


def judge_deflated(tol: Tolerances, x0, x, state, num_steps, max_steps):
    """Whether a deflated lane has ended, how, and whether it may now run undeflated."""
    eps = jnp.finfo(x.dtype).eps
    size = jnp.maximum(1, norm(x))
    damping = state.damping * jnp.minimum(1, state.speed)
    # Close to a root that is not among the deflated ones.
    handed_on = (damping <= 1e-2) & (state.step <= 1e-2 * size)
    diverged = ~jnp.isfinite(state.speed) | (norm(x) > 1e8 * jnp.maximum(1, norm(x0)))
    # A minimum of the deflated speed says nothing about the system.
    flat = (state.slope <= 1e-2) | (damping * eps > 1)
    verdict = jnp.select(
        [diverged, flat], [Verdict.diverged, Verdict.lost], Verdict.undetermined
    ).astype(jnp.int32)
    handed_on = handed_on & ~diverged
    done = (diverged | flat | (num_steps >= max_steps)) & ~handed_on
    return done, verdict, handed_on


def most_lanes(size: int) -> int:
    """Lanes that keep the device busy: every round of a search ends with its slowest
    start while the other lanes idle, so that more than that is waste."""
    if jax.default_backend() != "cpu":
        return 64
    return 64 if size <= 32 else max(8, 2048 // size)


def run_lanes(
    fn: Callable,
    solver: LevenbergMarquardt | None,
    tol: Tolerances,
    starts: Float[Array, "slots state"],
    found: Found,
    first: Int[Array, ""],
    last: Int[Array, ""],
    *,
    lanes: int,
    max_steps: Any,
    log_weight: Callable | None = None,
    deflate: Any = False,
) -> Found:
    """Run starts `first <= i < last`, `lanes` at a time, into `found`.

    A vmapped solve runs to its slowest member while the others idle. Here a lane that
    ends writes its row and loads the next start, so that all lanes stay busy until
    the queue is empty; the shape of the program does not depend on any value.

    Where `deflate` holds, lanes begin on exp(log_weight) fn and change to fn itself
    once near a root, so that only `judge` ever says that one was found.

    Without a `solver` large states first take steps without a Jacobian, which suffice
    if its rank is effectively low; a few starts say whether they do. Of the starts that
    these bring to one root the first goes on with dense steps, and its verdict is that
    of the rest; starts that they do not bring to a root begin again. Who asks for a
    `solver` gets its steps and no others. Dense steps in float64 are of mixed
    precision; where these do not resolve a root, the start goes on in full precision,
    in a last pass over such starts.
    """
    slots, size = starts.shape
    mixed = size >= LARGE and starts.dtype == jnp.float64
    slot = jnp.arange(slots, dtype=jnp.int32)
    rows = first + slot
    dense = LevenbergMarquardt() if solver is None else solver
    queue = _Queue(fn, dense, tol, starts, lanes, max_steps)
    count = last - first
    if size < LARGE:
        return queue.run(starts, found, rows, count, False, log_weight, deflate)

    inside = (slot >= first) & (slot < last)
    arrived = jnp.zeros_like(inside)
    if solver is None:
        # A product costs a dense step the less, the larger the state.
        quick = NewtonKrylov(dimension=min(16, 4 + size // 32))
        quick = _Queue(fn, quick, tol, starts, min(slots, 64), max_steps, judge_krylov)
        # The Jacobian of a deflated residual is of higher rank.
        most = jnp.where(deflate | (max_steps < 2), 0, count)
        came = lambda found: inside & (found.verdict == Verdict.root)

        def some(i, found):
            # Where no more than a few of the first starts arrive, none follow them.
            pilot = jnp.minimum(most, PILOT)
            follow = jnp.sum(came(found)) >= pilot / 4
            number = jnp.where(i == 0, pilot, jnp.where(follow, most - pilot, 0))
            return quick.run(starts, found, rows + i * pilot, number, False)

        found = lax.fori_loop(0, 2, some, found)
        arrived = came(found) & (found.num_steps > 0)
    distinct = unique_mask(found.x, arrived, tol.unique)

    def rerun(points, found, mask, *options):
        # Depends on the loops before it: see the note in `linearise`.
        rows = jnp.argsort(~mask).astype(jnp.int32)
        count = jnp.sum(mask, dtype=jnp.int32)
        return queue.run(points, found, rows, count, *options)

    # All others begin again, with all their steps.
    points = jnp.where(arrived[:, None], found.x, starts)
    num_steps = jnp.where(inside & ~arrived, 0, found.num_steps)
    found = eqx.tree_at(lambda f: f.num_steps, found, num_steps)
    new = inside & (~arrived | distinct)
    found = rerun(points, found, new, mixed, log_weight, deflate)
    sure = near_kept(found.x, distinct & (found.verdict == Verdict.root), tol.unique)
    rest = found.handed_on | (arrived & ~distinct & ~sure)
    return rerun(found.x, found, rest, False)


class _Queue:
    """The compiled loop of `run_lanes`."""

    def __init__(self, fn, solver, tol, starts, lanes, max_steps, judge=judge):
        self.fn, self.solver, self.tol, self.starts = fn, solver, tol, starts
        self.lanes, self.max_steps, self.judge = lanes, max_steps, judge

    def run(self, points, found, rows, count, mixed, log_weight=None, deflate=False):
        """Run rows `rows[:count]` from `points` into `found`, adding to their steps."""
        fn, solver, slots = self.fn, self.solver, rows.shape[0]
        # Reading `found` within the loop that writes it would copy it at each step.
        taken = found.num_steps
        begin = jnp.full(self.lanes, deflate)
        row_of = lambda index: rows[jnp.minimum(index, slots - 1)]

        def step(x, state, deflated):
            options: dict[str, Any] = {"mixed": True} if mixed else {}
            weight = log_weight
            if weight is not None:
                switched = lambda y: jnp.where(deflated, weight(y), 0)
                options["log_weight"] = switched
            return solver.advance(fn, x, state, **options)

        def load(index):
            row = row_of(index)
            x = points[row]
            return x, jax.vmap(solver.start)(x), taken[row]

        def judged(judge, x0, x, state, num_steps):
            verdict = lambda *lane: judge(self.tol, *lane, self.max_steps)
            return jax.vmap(verdict)(x0, x, state, num_steps)

        def pick(mask, new, old):
            where = lambda a, b: jnp.where(
                mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b
            )
            return jax.tree.map(where, new, old)

        def body(carry):
            x, state, index, num_steps, deflated, queue, found = carry
            x, state = jax.vmap(step)(x, state, deflated)
            num_steps = num_steps + 1
            row = row_of(index)
            x0 = self.starts[row]
            done, verdict = judged(self.judge, x0, x, state, num_steps)
            undeflate, final = jnp.zeros_like(deflated), state.speed
            # Far from a root, or where damping rules, such a step is as good as any.
            softened = jnp.zeros_like(done)
            if mixed:
                softened = state.too_soft & (state.speed <= 1e-2) & ~deflated & ~done
            done = done | softened
            if log_weight is not None:
                stop, how, undeflate = judged(judge_deflated, x0, x, state, num_steps)
                undeflate = undeflate & deflated
                done = jnp.where(deflated, stop, done)
                verdict = jnp.where(deflated, how, verdict)
                plain = jax.vmap(lambda y: norm(fn(y)))(x)
                final = jnp.where(deflated, plain, state.speed)
            done = done & (index < count)
            row = jnp.where(done, row, slots)  # `slots` is out of bounds: dropped
            finite = jnp.all(jnp.isfinite(x), axis=1, keepdims=True)
            speed = jnp.where(jnp.isfinite(final), final, huge(x.dtype))
            put = lambda old, new: old.at[row].set(new, mode="drop")
            new = Found(jnp.where(finite, x, 0), speed, verdict, num_steps, softened)
            found = jax.tree.map(put, found, new)
            fresh = queue + jnp.cumsum(done, dtype=jnp.int32) - 1
            index = jnp.where(done, jnp.minimum(fresh, count), index)
            x, state, num_steps = pick(done, load(index), (x, state, num_steps))
            if log_weight is not None:
                state = pick(undeflate, jax.vmap(solver.start)(x), state)
            deflated = jnp.where(done, begin, deflated & ~undeflate)
            queue = queue + jnp.sum(done, dtype=jnp.int32)
            return x, state, index, num_steps, deflated, queue, found

        index = jnp.minimum(jnp.arange(self.lanes, dtype=jnp.int32), count)
        x, state, num_steps = load(index)
        queue = jnp.asarray(self.lanes, jnp.int32)
        carry = (x, state, index, num_steps, begin, queue, found)
        return lax.while_loop(lambda c: jnp.any(c[2] < count), body, carry)[-1]
