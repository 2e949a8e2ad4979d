"""Limit cycles from many starts: guesses, a cheap search, a refined one."""

import dataclasses
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core._checks import check_counts
from ..._core._closures import freeze, program
from ..._core._export import Result
from ..._core._masks import norm
from ..._core._system import Map, time_scale_of
from ..._core._verdicts import Verdict
from ...flows import RK4, AbstractFlow, DiffraxFlow, ScanFlow
from .._states import as_arrays, as_states, check_time_scale, check_tolerances
from ..points._points import Frozen, Values
from ._cycle_guess import CloseReturns, same_orbit
from ._cycles import (
    ADAPT,
    check_bounds,
    default_tol,
    describe,
    make_mesh,
    velocity_of,
)
from ._limit_cycle import LimitCycle
from ._mesh import Mesh
from ._shooting import shoot


class LimitCycles(Result):
    """The distinct limit cycles that a search found, and how each start ended.

    **Attributes:**

    - `cycles`: a `LimitCycle` whose arrays have a leading axis of `max_cycles`;
        unused entries are `undetermined`. `mask` `(cycles,)`: found and distinct.
    - `verdict` `(starts, guesses)`: of each guess of each start: `limit_cycle`,
        `constant` (it settled on, or the search collapsed to, a fixed point),
        `diverged`, or `undetermined` (no close return, or no convergence).
    - `index` `(starts, guesses)`: the cycle that the guess led to, -1 if none. A guess
        that lies on a cycle already found (to 1e-4 of its extent) is not run again.
        Where the verdict is `undetermined` the orbit closed, but its steps were too
        long to tell more: `certify` shortens them and decides.
    - `x_guess`, `period_guess`, `miss`: the guesses; `miss` is the distance of the
        close return relative to the extent of the record, each variable in units of
        its range there.
    - `overflow`: more cycles than `max_cycles` were met; some were dropped.
    """

    cycles: LimitCycle
    mask: Bool[Values, "*batch cycles"]
    verdict: Int[Values, "*batch starts guesses"]
    index: Int[Values, "*batch starts guesses"]
    x_guess: Float[Values, "*batch starts guesses state"]
    period_guess: Float[Values, "*batch starts guesses"]
    miss: Float[Values, "*batch starts guesses"]
    overflow: Bool[Values, "*batch"]
    kind: str = eqx.field(static=True, default="flow")

    def headline(self) -> str:
        """Distinct cycles, stable ones, and what is left to decide."""
        mask, verdict = np.asarray(self.mask), np.asarray(self.verdict)
        stable = mask & (np.asarray(self.cycles.stability) == -1)
        closed = (np.asarray(self.index) >= 0) & (verdict == Verdict.undetermined)
        rest = f", {closed.sum()} of which closed undecided" if closed.any() else ""
        return (
            f"{mask.sum()} distinct limit cycles ({stable.sum()} stable) from "
            f"{verdict.size} guesses{rest}"
        )

    def cycle(self, i: Any) -> LimitCycle:
        """One cycle of an unbatched result."""
        numbers, rest = eqx.partition(self.cycles, eqx.is_array_like)
        keep = (numbers.problem, numbers.mesh)
        chosen = jax.tree.map(lambda a: a[i], _without(numbers))
        chosen = eqx.tree_at(
            lambda c: (c.problem, c.mesh), chosen, keep, is_leaf=lambda v: v is None
        )
        return eqx.combine(chosen, rest)

    def found(self) -> list[LimitCycle]:
        """The distinct cycles found, of an unbatched result. Host level."""
        if np.ndim(self.mask) != 1:
            raise ValueError(
                f"`found` got a batch of shape {np.shape(self.mask)[:-1]}, expected "
                "one search. Take one member with jax.tree.map(lambda a: a[i], ...)."
            )
        return [self.cycle(i) for i in np.flatnonzero(np.asarray(self.mask))]


def _without(cycles):
    return eqx.tree_at(lambda c: (c.problem, c.mesh), cycles, (None, None))


def limit_cycles(
    f: Any,
    x0s: Any,
    args: PyTree = None,
    *,
    strategy: CloseReturns | None = None,
    flow: AbstractFlow | None = None,
    segments: int = 1,
    tol: float | None = None,
    tol_unique: float | None = None,
    max_steps: int = 30,
    max_cycles: int = 8,
    period_bounds: Any = None,
    time_scale: Any = None,
    floquet_segments: int = 60,
) -> LimitCycles:
    """Limit cycles, stable and unstable, from many starts at once.

    Guesses come from close returns of the runs from the starts. They are tried from
    the closest to the loosest by shooting at low cost; guesses on an orbit already
    found are not run. Every distinct orbit is then refined and its multipliers
    computed as by `limit_cycle`. Pure: works under `jit`, `vmap` and `grad`. Under
    `vmap` all networks run as many searches as the busiest; on a CPU
    `rnndyn.map_members` is faster, and its memory is that of one network.

    ```python
    found = rd.dynamics.limit_cycles(van_der_pol, jax.random.normal(key, (8, 2)))
    for cycle in rd.certify(found).found():
        print(cycle.period, cycle.stability, cycle.multipliers)
    ```

    **Arguments:**

    - `f`: a flow `f(t, x, args)`, autonomous under the held input `args`.
    - `x0s`: starts, `(starts, state)`.
    - `strategy`: where guesses come from, `CloseReturns()` by default: periods up to
        50 time constants.
    - `flow`, `segments`, `tol`, `floquet_segments`: as in `limit_cycle`. The first,
        cheap search uses `flow`, in float64 a `DiffraxFlow` at a tolerance of 1e-7
        unless it has a controller; by default RK4 with 4 steps a piece (16 up to 16
        states, 32 up to 4). Where states are few, cycles found are refined with more
        segments.
    - `tol_unique`: cycles that agree in period and position to this, relative to
        period and extent, are one. Default 1e-5 in float64, 1e-2 in float32. The cheap
        search merges at 1e-4 (1e-2): closer pairs need guesses of their own.
    - `max_steps`: orbit integrations for each guess.
    - `max_cycles`: entries of the result.
    - `period_bounds`: of all periods. Default: from the `spacing` of the strategy to
        its `max_period`.
    - `time_scale`: unit of the strategy's times. Default: the system's own, else 1.

    **Returns:** `LimitCycles`. That all cycles are found is NOT guaranteed: a cycle
    near which no run ever returns (unstable in several directions, say) needs a guess
    of its own to `limit_cycle`.

    **Reference:** close returns: Auerbach et al. 1987,
    doi:10.1103/PhysRevLett.58.2387; shooting: see `limit_cycle`.
    """
    if isinstance(f, Map):
        raise ValueError(
            "limit_cycles got a Map, expected a flow f(t, x, args). The oscillations "
            "of maps are invariant circles or k-cycles: see k_cycles."
        )
    axes = ("starts", "state")
    x0s = as_states("x0s", x0s, axes, "Pass one start as x0[None].", f, args)
    check_counts(max_cycles=max_cycles, max_steps=max_steps)
    check_tolerances(tol=tol)
    check_bounds(period_bounds)
    mesh = make_mesh(flow, segments, floquet_segments, x0s.shape[1])
    coarse = mesh
    double = x0s.dtype == jnp.float64  # in float32 the default is as loose
    if isinstance(mesh.flow, DiffraxFlow) and mesh.flow.controller is None and double:
        loose = dfx.PIDController(rtol=1e-7, atol=1e-7)
        rough = dataclasses.replace(mesh.flow, controller=loose)
        coarse = Mesh(rough, mesh.segments, mesh.pieces)
    if flow is None:
        # Small systems may be stiff, and their steps cost little.
        steps = 32 if x0s.shape[1] <= 4 else 16 if x0s.shape[1] <= 16 else 4
        rough = ScanFlow(num_steps=steps, method=RK4())
        coarse = Mesh(rough, mesh.segments, mesh.pieces)
    strategy = CloseReturns() if strategy is None else strategy
    check_time_scale(time_scale)
    unit = time_scale_of(f) if time_scale is None else time_scale
    return _search(
        f, x0s, as_arrays(args, x0s), strategy, mesh, coarse, tol, tol_unique,
        max_steps, max_cycles, period_bounds, unit,
    )  # fmt: skip


class _Table(eqx.Module):
    """Distinct orbits of the cheap search; `count` of them are real."""

    period: Float[Array, " cycles"]
    states: Float[Array, "cycles node state"]
    count: Int[Array, ""]


@program
def _search(
    f, x0s, args, strategy, mesh, coarse, tol, tol_unique, max_steps, max_cycles,
    period_bounds, unit,
):  # fmt: skip
    x0s = lax.stop_gradient(x0s)
    starts, size = x0s.shape
    dtype = x0s.dtype
    double = dtype == jnp.float64
    unit = lax.stop_gradient(jnp.asarray(unit, dtype))
    tol = default_tol(mesh, dtype, tol)
    if tol_unique is None:
        tol_unique = 1e-5 if double else 1e-2
    velocity = velocity_of(f, args, x0s[0])
    frozen = freeze(velocity)
    guess = jax.vmap(lambda x: strategy(frozen, x, unit))(x0s)
    guesses = guess.verdict.shape[1]
    flat = jax.tree.map(lambda a: a.reshape(starts * guesses, *a.shape[2:]), guess)
    if period_bounds is None:
        period_bounds = (strategy.spacing * unit, strategy.max_period * unit)
    inside = (flat.period >= period_bounds[0]) & (flat.period <= period_bounds[1])
    cheap_tol = 1e-6 if double else 1e-3

    equal = jnp.full(mesh.size, 1 / mesh.size, dtype)
    # Orbits of the cheap search agree to its own error only.
    near = 1e-4 if double else 1e-2
    roughly = lambda x, duration: coarse.through(frozen, x, duration)
    moving_on = {"advance": roughly, "roughly": roughly, "velocity": frozen}

    def search(carry):
        open_, verdict, index, table, overflow = carry
        s = jnp.argmin(jnp.where(open_, flat.miss, jnp.inf))
        x, period, direction = flat.x[s], flat.period[s], flat.direction[s]
        # What repels in every direction attracts backwards in time.
        along = lambda x: direction * frozen(x)
        shot = shoot(
            coarse,
            along,
            coarse.nodes(along, x, period),
            period,
            tol=cheap_tol,
            max_steps=max_steps,
            bounds=period_bounds,
            look_around=False,
        )
        states = shot.orbit.states.reshape(mesh.size, size)
        states = jnp.where(direction > 0, states, jnp.roll(states[::-1], 1, axis=0))
        converged = shot.residual <= cheap_tol
        mean = jnp.mean(states, axis=0, keepdims=True)
        extent = jnp.max(jnp.linalg.norm(states - mean, axis=1))
        moving = extent > 1e-5 * jnp.maximum(1, norm(states[0]))
        good = converged & moving

        def known(c):
            return same_orbit(
                states[0], shot.period, table.states[c], equal * table.period[c],
                tol=near, **moving_on,
            )  # fmt: skip

        entries = jnp.arange(max_cycles)
        same = _where_worth(known, good & (entries < table.count), entries)
        is_known = jnp.any(same)
        first = jnp.argmax(same).astype(jnp.int32)
        where = jnp.where(is_known, first, table.count)
        full = good & ~is_known & (table.count >= max_cycles)
        add = good & ~is_known & ~full
        row = jnp.where(add, table.count, max_cycles)  # out of bounds: dropped
        table = _Table(
            table.period.at[row].set(shot.period, mode="drop"),
            table.states.at[row].set(states, mode="drop"),
            table.count + add.astype(jnp.int32),
        )
        listed = good & ~full
        index = index.at[s].set(jnp.where(listed, where, -1))
        outcome = jnp.where(converged & ~moving, int(Verdict.constant), 0)
        outcome = jnp.where(listed, int(Verdict.limit_cycle), outcome)
        verdict = verdict.at[s].set(outcome.astype(jnp.int32))
        open_ = open_.at[s].set(False)

        def on_it(x, period):
            return same_orbit(
                x, period, states, equal * shot.period, tol=near, multiples=True,
                nearest=4, **moving_on,
            )  # fmt: skip

        # Only where a cycle was found, and at its nearest nodes: compared at all nodes,
        # hundreds of guesses would cost more than the searches. A miss is searched.
        compare = lambda: jax.vmap(on_it)(flat.x, flat.period)
        on = lax.cond(listed, compare, lambda: jnp.zeros_like(open_)) & open_
        index = jnp.where(on, where, index)
        verdict = jnp.where(on, int(Verdict.limit_cycle), verdict)
        return open_ & ~on, verdict, index, table, overflow | full

    worth = (flat.verdict == Verdict.limit_cycle) & inside
    ended = (flat.verdict == Verdict.limit_cycle) | (flat.verdict == 0)
    verdict = jnp.where(ended, 0, flat.verdict)
    shape = (max_cycles, mesh.size, size)
    table = _Table(
        jnp.ones(max_cycles, dtype),
        jnp.zeros(shape, dtype),
        jnp.zeros((), jnp.int32),
    )
    index = jnp.full(worth.shape, -1, jnp.int32)
    carry = (worth, verdict, index, table, jnp.zeros((), bool))
    carry = lax.while_loop(lambda c: jnp.any(c[0]), search, carry)
    _, verdict, index, table, overflow = carry

    mesh = mesh.divided(size)

    def refine(c):
        shot = shoot(
            mesh,
            frozen,
            table.states[c, :: mesh.pieces],
            table.period[c],
            tol=tol,
            max_steps=max_steps,
            bounds=period_bounds,
            adapt=ADAPT,
        )
        return describe(mesh, velocity, shot, tol)

    blank = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), eqx.filter_eval_shape(refine, 0)
    )
    one = lambda c: lax.cond(c < table.count, refine, lambda _: blank, c)
    fields = lax.map(one, jnp.arange(max_cycles))
    cycles = LimitCycle(**fields, problem=Frozen(f, args), mesh=mesh)
    precisely = lambda x, duration: mesh.through(frozen, x, duration)
    refined = moving_on | {"advance": precisely}
    mask, closed, first = _distinct(cycles, refined, tol, tol_unique)
    last = jnp.where((index >= 0) & closed[index], first[index], -1)
    ended = jnp.where(index >= 0, cycles.verdict[index], verdict)
    fold = lambda a: a.reshape(starts, guesses)
    return LimitCycles(
        cycles=cycles,
        mask=mask,
        verdict=fold(ended),
        index=fold(last),
        x_guess=guess.x,
        period_guess=guess.period,
        miss=guess.miss,
        overflow=overflow,
    )


def _distinct(cycles, moving_on, tol, tol_unique):
    """Which refined cycles are the first of their kind; which orbits have closed; and
    for each the first like it, one that was found if there is any."""
    frozen = freeze((cycles.x0, cycles.period, cycles.orbit[:, :-1], cycles.times))
    x0, period, orbits, times = frozen
    spacings = jnp.diff(times, axis=1)
    num = period.shape[0]
    open_ = (cycles.verdict == Verdict.undetermined) & (cycles.residual <= tol)
    open_ = open_ & (cycles.extent > 0)

    def compare(pair):
        i, j = pair
        return same_orbit(
            x0[i], period[i], orbits[j], spacings[j], tol=tol_unique, **moving_on
        )

    i, j = [m.ravel() for m in jnp.meshgrid(*[jnp.arange(num)] * 2, indexing="ij")]
    worth = (cycles.mask[i] | open_[i]) & cycles.mask[j] & ((j < i) | open_[i])
    worth = worth | (open_[i] & open_[j] & (j < i))
    same = _where_worth(compare, worth, (i, j)).reshape(num, num)
    found = same & cycles.mask[None]
    like = jnp.where(jnp.any(found, axis=1, keepdims=True), found, same)
    first = jnp.where(jnp.any(like, axis=1), jnp.argmax(like, axis=1), jnp.arange(num))
    first = first.astype(jnp.int32)
    mask = cycles.mask & (first == jnp.arange(num))
    return mask, cycles.mask | open_, first


def _where_worth(compare, worth, entries):
    """`compare` of each entry, one after the other; False without a run where it is
    not `worth` it."""
    no = lambda _: jnp.zeros((), bool)
    one = lambda pair: lax.cond(pair[0], compare, no, pair[1])
    return lax.map(one, (worth, entries))
