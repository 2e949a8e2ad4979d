"""Limit cycles of flows by single and multiple shooting."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from ..._core._checks import check_counts, is_concrete, is_in
from ..._core._closures import capture, freeze, program
from ..._core._masks import norm
from ..._core._system import Map
from ..._core._verdicts import Verdict
from ...flows import AbstractFlow, DiffraxFlow, Dopri8, ScanFlow
from .._states import as_arrays, as_states, check_tolerances
from ..points._points import Frozen
from ._floquet import Floquet, floquet
from ._limit_cycle import NEUTRAL, LimitCycle
from ._mesh import Mesh
from ._shooting import Shot, attach_orbit, shoot


def limit_cycle(
    f: Any,
    x0: Any,
    period: Any,
    args: PyTree = None,
    *,
    flow: AbstractFlow | None = None,
    segments: int = 1,
    tol: float | None = None,
    max_steps: int = 60,
    period_bounds: Any = None,
    reduce_period: bool = True,
    floquet_segments: int = 60,
) -> LimitCycle:
    """The limit cycle near a guess, stable or not, with its Floquet multipliers.

    Damped Newton on the starts of the segments and the period, the phase left free.
    Pure: works under `jit`, `vmap` and `grad`.

    ```python
    cycle = rd.dynamics.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6)
    cycle = rd.certify(cycle).check()
    cycle.period, cycle.log_multipliers, cycle.accuracy, cycle.error
    ```

    **Arguments:**

    - `f`: a flow `f(t, x, args)`, autonomous under the held input `args`.
    - `x0`: a guess for a point of the orbit, `(state,)`, or for the starts of all
        segments, `(segments, state)`.
    - `period`: a guess for the period; where `x0` is one point, the time of its nearest
        return within a fifth of that is taken (a return next to the guess first).
    - `flow`: how to integrate over a given time, traced times allowed. By default
        order 8 with 16 steps (above 64 states 8, above 128 states 4) for each of the
        60 pieces of an orbit, which are made shorter where the flow is stiffer;
        `certify` halves the steps where that does not suffice (van der Pol up to
        mu = 20). Stiffer systems:
        `DiffraxFlow(diffrax.Kvaerno5(), adjoint=diffrax.DirectAdjoint(),
        max_steps=2**16)`; a solver that runs out of steps leaves the search
        `undetermined`. (Where a search strays so far that the linear solves of an
        implicit method meet infinities, these raise unless the environment variable
        `EQX_ON_ERROR=nan` was set before Equinox was imported.) Multipliers below
        exp(-10) a piece are lost in the tolerance of the solver unless
        `floquet_segments` is raised; `certify` says so in `log_error`, and takes that
        of a planar cycle from the divergence.
    - `segments`: of multiple shooting. Unstable orbits need enough that no segment
        stretches by more than about 1e6; `certify` raises them where states are few.
    - `tol`: largest residual; default 1e-11 in float64 and 1e-4 in float32, 1e-8 with
        an adaptive `flow` (whose tolerance should be 100 times smaller).
    - `max_steps`: integrations of the orbit; there is one more in the end, to see
        whether it is isolated.
    - `period_bounds`: the search stays between these; default a thousandth to a
        hundred times `period`.
    - `reduce_period`: look for a shorter period (1/2, 1/3, 1/5 and products of them)
        where the guess was a multiple of it. Other multiples, such as 7, are kept.
    - `floquet_segments`: pieces over which the multipliers are accumulated, rounded
        up to a multiple of `segments`; the result does not depend on it as long as
        each piece is short.

    **Returns:** a `LimitCycle`; look at its `verdict`. Not guaranteed: that the cycle
    is the one nearest to the guess; that the steps are short enough (`certify` tests
    it).

    **Reference:** Stoer & Bulirsch 2002 section 7.3.5 (multiple shooting);
    Lust 2001, doi:10.1142/S0218127401003486.
    """
    if isinstance(f, Map):
        raise ValueError(
            "limit_cycle got a Map, expected a flow f(t, x, args). The oscillations of "
            "maps are invariant circles or k-cycles: see k_cycles and invariant_circle."
        )
    axes = [("state",), ("segments", "state")]
    x0 = as_states("x0", x0, axes, "One guess, or the starts of all segments.", f, args)
    check_counts(max_steps=max_steps)
    check_tolerances(tol=tol)
    if not is_in(period, "(0, inf)"):
        raise ValueError(
            f"`period` = {period}, expected one finite number, a guess > 0. Search "
            "from several guesses with `jax.vmap`, or without one with `limit_cycles`."
        )
    check_bounds(period_bounds, period)
    if x0.ndim == 2 and x0.shape[0] != segments:
        raise ValueError(
            f"`x0` has {x0.shape[0]} rows, expected {segments}, one a segment. Pass "
            f"segments={x0.shape[0]}."
        )
    mesh = make_mesh(flow, segments, floquet_segments, x0.shape[-1])
    return _limit_cycle(
        f,
        x0,
        jnp.asarray(period, x0.dtype),
        as_arrays(args, x0),
        mesh,
        tol,
        max_steps,
        period_bounds,
        reduce_period,
    )


ADAPT = 4
"""How often a mesh is adapted to an orbit."""


def make_mesh(
    flow: AbstractFlow | None, segments: int, floquet_segments: int, size: int
) -> Mesh:
    """The mesh of `limit_cycle` for states of `size`. Small systems may be stiff, and
    their steps cost little; those of large ones cost the cube of their size."""
    check_counts(segments=segments, floquet_segments=floquet_segments)
    if flow is None:
        steps = 16 if size <= 64 else 8 if size <= 128 else 4
        flow = ScanFlow(num_steps=steps, method=Dopri8())
    if not isinstance(flow, AbstractFlow):
        raise ValueError(
            f"`flow` = {flow!r}, expected a flow such as rnndyn.DiffraxFlow("
            "diffrax.Kvaerno5()), or None for the default."
        )
    if isinstance(flow, DiffraxFlow):  # a failed solve is a verdict, not an exception
        flow = dataclasses.replace(flow, throw=False)
    return Mesh(flow, segments, -(-floquet_segments // segments))


def default_tol(mesh: Mesh, dtype: Any, tol: float | None) -> float:
    """See `limit_cycle`."""
    if tol is not None:
        return tol
    if dtype != jnp.float64:
        return 1e-4
    return 1e-11 if isinstance(mesh.flow, ScanFlow) else 1e-8


# One program, cached: an eager call compiles once for each system and shape.
@program
def _limit_cycle(
    f, x0, period, args, mesh, tol, max_steps, period_bounds, reduce_period
):
    sg = lax.stop_gradient
    period = sg(jnp.asarray(period, x0.dtype))
    x0 = sg(x0)
    tol = default_tol(mesh, x0.dtype, tol)
    bounds = (1e-3 * period, 100 * period) if period_bounds is None else period_bounds
    velocity = velocity_of(f, args, x0[0] if x0.ndim == 2 else x0)
    frozen = freeze(velocity)
    if x0.ndim == 1:
        period = _nearest_return(mesh, frozen, x0, period, bounds)
        x0 = mesh.nodes(frozen, x0, period)
    shot = shoot(
        mesh,
        frozen,
        x0,
        period,
        tol=tol,
        max_steps=max_steps,
        bounds=bounds,
        reduce_period=reduce_period,
        adapt=ADAPT,
    )
    fields = describe(mesh, velocity, shot, tol)
    return LimitCycle(**fields, problem=Frozen(f, args), mesh=mesh)


def _nearest_return(mesh, velocity, x, period, bounds):
    """The time about `period` at which the trajectory from `x` returns to it: next to
    the guess if it does there (to a tenth of its extent), else where it comes closest.

    An error of the period leaves a gap along the flow, which linear equations take for
    one of the orbit where the period depends on that strongly, and where the flow is
    slow for a gap in time of any length.
    """
    low = jnp.maximum(0.8 * period, bounds[0])
    high = jnp.minimum(1.25 * period, bounds[1])
    looks = -(-9 * mesh.size // 20)  # from 0.8 to 1.25, a piece each
    spacing = (high - low) / looks
    strides = jnp.concatenate(
        [jnp.full(mesh.size, low / mesh.size), jnp.full(looks, spacing)]
    )

    def go(y, stride):
        return (mesh.through(velocity, y, stride),) * 2

    ends = lax.scan(go, x, strides)[1]
    reach = jnp.max(jnp.nan_to_num(jnp.linalg.norm(ends - x[None], axis=1)))

    def closest(time, end, shift):
        """The nearest point within two pieces of a state, by Newton's method."""

        limits = (
            jnp.maximum(-2 * spacing, low - time),
            jnp.minimum(2 * spacing, high - time),
        )

        def closer(_, carry):
            shift, step, gap = carry
            trial = jnp.clip(shift + step, *limits)
            there = mesh.through(velocity, end, trial)
            speed = velocity(there)
            square = jnp.vdot(speed, speed)
            ahead = jnp.vdot(speed, x - there) / jnp.where(square > 0, square, 1)
            new = norm(there - x)
            good = new < gap  # false for NaN
            pick = lambda a, b: jnp.where(good, a, b)
            return pick(trial, shift), pick(ahead, 0.5 * step), pick(new, gap)

        start = (shift, jnp.zeros_like(shift), jnp.asarray(jnp.inf, x.dtype))
        shift, _, gap = lax.fori_loop(0, 6, closer, start)
        return time + shift, gap

    # The guess itself is one more place to look from.
    times = low + spacing * jnp.arange(looks + 1)
    own = jnp.argmin(jnp.abs(times - period))
    index = jnp.append(jnp.arange(looks + 1), own)
    shifts = jnp.zeros(looks + 2, x.dtype).at[-1].set(period - times[own])
    states = ends[mesh.size - 1 + index]
    times, misses = jax.vmap(closest)(times[index], states, shifts)
    best = jnp.argmin(misses)
    keep = (misses[-1] <= 0.1 * reach) | ~(misses[best] < 0.5 * misses[-1])
    return jnp.where(keep, times[-1], times[best])


def check_bounds(bounds: Any, period: Any = None) -> None:
    """`ValueError` unless `period_bounds` are `None` or a low and a high period, with
    the guess between them; traced values pass."""
    if bounds is None:
        return
    if isinstance(bounds, str) or not hasattr(bounds, "__len__") or len(bounds) != 2:
        raise ValueError(
            f"`period_bounds` = {bounds}, expected the lowest and the highest period."
        )
    if not all(map(is_concrete, bounds)):
        return
    low, high = (float(b) for b in bounds)
    if not low < high:
        raise ValueError(f"`period_bounds` = {bounds}, expected low < high.")
    if period is not None and is_concrete(period) and not low <= float(period) <= high:
        raise ValueError(
            f"`period` = {period} lies outside `period_bounds` = {bounds}, expected a "
            "guess between them. Widen the bounds or guess again."
        )


def velocity_of(f: Any, args: Any, x: Float[Array, " state"]) -> Callable:
    """`x -> dx/dt` with everything it depends on as leaves, also what `f` closes
    over."""
    # Constants of the closure become leaves: derivatives live there and only there.
    zero = jnp.zeros((), x.dtype)
    out = jax.eval_shape(lambda x: f(zero, x, args), x)
    if getattr(out, "shape", None) != x.shape or out.dtype != x.dtype:
        raise ValueError(
            f"the flow returns {out} for a state {x.dtype}{x.shape}, expected the same "
            "shape and dtype. Cast the start, or the system's arrays: one dtype "
            "throughout."
        )
    return capture(lambda x: f(zero, x, args), x)


def describe(mesh: Mesh, velocity: Callable, shot: Shot, tol: float) -> dict[str, Any]:
    """The numbers of a `LimitCycle` from a search that has ended."""
    sg = lax.stop_gradient
    shot = attach_orbit(mesh, velocity, shot)
    size = shot.nodes.shape[1]
    dtype = shot.nodes.dtype
    orbit = shot.orbit.states.reshape(mesh.size, size)
    jacobians = shot.orbit.jacobians.reshape(mesh.size, size, size)
    spectrum = floquet(jacobians)
    logs = spectrum.log_multipliers
    speeds = sg(jax.vmap(velocity)(orbit))
    trivial = _trivial(spectrum.vectors[0], speeds[0])
    others = jnp.where(jnp.arange(size) == trivial, -jnp.inf, logs.real)
    margin = jnp.max(others)
    shares = shot.orbit.shares.reshape(-1, 1)
    mean = jnp.sum(shares * orbit, axis=0, keepdims=True) / jnp.sum(shares)
    extent = sg(jnp.max(jnp.linalg.norm(orbit - mean, axis=1)))
    drift = sg(jnp.abs(logs[trivial]))
    accuracy = jnp.maximum(drift, spectrum.uncertainty)
    double = dtype == jnp.float64
    neutral = NEUTRAL if double else 1e-3
    nearest = jnp.where(jnp.arange(size) == trivial, jnp.inf, jnp.abs(logs))
    nearest = sg(jnp.min(nearest))
    # A double multiplier 1 splits by the root of the error, the trivial one as far.
    isolated = nearest > jnp.maximum(neutral, 3 * drift)
    response = _phase_response(spectrum, trivial, speeds)
    closed = jnp.concatenate([orbit, orbit[:1]])
    times = jnp.cumsum(shot.orbit.shares.ravel()) * shot.period
    times = jnp.concatenate([jnp.zeros(1, dtype), times])
    finite = jnp.isfinite(shot.residual) & jnp.all(jnp.isfinite(orbit))
    solved = (shot.residual <= tol) & (shot.period > 0)
    resolved = (shot.step <= (1e-6 if double else 1e-2)) & shot.isolated
    flat = extent < 1e-6 * jnp.maximum(1, norm(orbit[0]))
    known = (drift <= jnp.sqrt(tol)) & isolated
    verdict = jnp.select(
        [~finite, solved & resolved & known, solved & flat & ~resolved],
        [Verdict.diverged, Verdict.limit_cycle, Verdict.constant],
        Verdict.undetermined,
    ).astype(jnp.int32)
    clear = jnp.abs(margin) > jnp.maximum(10 * accuracy, neutral)
    decided = (verdict == Verdict.limit_cycle) & clear
    # Where the orbit is one of a family, or shrank to a point, it has no derivative.
    moves = verdict != Verdict.constant
    keep = lambda a: jnp.where(isolated & moves, a, sg(a))
    return dict(
        x0=keep(orbit[0]),
        period=keep(shot.period),
        orbit=keep(closed),
        times=keep(times),
        log_multipliers=keep(logs),
        trivial=trivial,
        accuracy=accuracy,
        defect=spectrum.defect,
        phase_response=sg(jnp.concatenate([response, response[:1]])),
        residual=shot.residual,
        step=shot.step,
        error=jnp.full((), jnp.nan, dtype),
        log_error=jnp.full((), jnp.nan, dtype),
        extent=extent,
        verdict=verdict,
        stability=jnp.where(decided, jnp.sign(sg(margin)), 0).astype(jnp.int32),
        margin=keep(margin),
        num_steps=shot.num_steps,
    )


def _phase_response(spectrum: Floquet, trivial, speeds):
    """Adjoint vector of the trivial multiplier, scaled so that Z . f = 1."""
    rows = spectrum.inverse[:, trivial, :]
    along = jnp.sum(rows * speeds, axis=1, keepdims=True)
    return (rows / jnp.where(along == 0, 1, along)).real


def _trivial(vectors, velocity):
    """The Floquet vector along the flow."""
    unit = velocity / jnp.maximum(norm(velocity), jnp.finfo(velocity.dtype).tiny)
    along = jnp.abs(jnp.conj(vectors).T @ unit.astype(vectors.dtype))
    along = along / jnp.linalg.norm(vectors, axis=0)
    return jnp.argmax(lax.stop_gradient(along)).astype(jnp.int32)
