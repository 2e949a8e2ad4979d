"""Multiple shooting: closed orbits as zeros of a residual, and their derivatives."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._core._closures import precise
from ..._core._masks import after, norm
from ...flows import ScanFlow
from ._mesh import Mesh, Orbit, gaps, trace_orbit


STIFFNESS = 3.0
"""Largest |df/dx| x duration of a piece for which the mesh stays uniform."""

JACOBIANS_LATER = 32
"""State size from which a step is first tried without Jacobians."""


def newton_matrix(
    velocity: Callable, orbit: Orbit
) -> Float[Array, "equations unknowns"]:
    """Derivative of the gaps in (nodes, period): one column more than rows."""
    segments, _, size = orbit.states.shape

    def multiply(product, jac):
        return jac @ product, None

    eye = jnp.eye(size, dtype=orbit.ends.dtype)
    propagate = lambda jacs: lax.scan(multiply, eye, jacs)[0]
    blocks = jax.vmap(propagate)(orbit.jacobians)
    rows = jnp.arange(segments)
    matrix = jnp.zeros((segments, size, segments, size), orbit.ends.dtype)
    matrix = matrix.at[rows, :, rows, :].add(blocks)
    matrix = matrix.at[rows, :, (rows + 1) % segments, :].add(-eye[None])
    matrix = matrix.reshape(segments * size, segments * size)
    # An autonomous flow: the end moves with the velocity when the duration grows.
    lasting = jnp.sum(orbit.shares, axis=1, keepdims=True)
    column = (jax.vmap(velocity)(orbit.ends) * lasting).reshape(-1, 1)
    return jnp.concatenate([matrix, column], axis=1)


class Shot(eqx.Module):
    """Where a shooting search stands: nodes, period, their orbit, the largest relative
    gap, the Newton step from here (relative to the size of the orbit, or the period if
    that is more), whether it is `isolated` (false where nobody looked), and how many
    orbits were integrated."""

    nodes: Float[Array, "segment state"]
    period: Float[Array, ""]
    orbit: Orbit
    residual: Float[Array, ""]
    step: Float[Array, ""]
    isolated: Bool[Array, ""]
    num_steps: Int[Array, ""]


def shoot(
    mesh: Mesh,
    velocity: Callable,
    nodes: Float[Array, "segment state"],
    period: Float[Array, ""],
    *,
    tol: float,
    max_steps: int,
    bounds: tuple[Any, Any],
    reduce_period: bool = True,
    shares: Any = None,
    adapt: int = 0,
    look_around: bool = True,
) -> Shot:
    """Damped Newton on nodes and period.

    The phase is free: of all solutions of the linear equations the shortest is taken
    (the period counts with the distance covered), which leaves a guess off the orbit
    free to move in every direction. Lengths are measured with every variable in units
    of its largest value on the first orbit. Steps are shortened while the residual does
    not fall. An orbit that closes after a half, third or fifth of its period (sampled
    at the pieces) is run again with that. An orbit that has converged but varies too
    fast for its steps somewhere is run again, up to `adapt` times, on a mesh that
    shares out its stiffness equally. The search ends where rounding stops the descent
    below `tol`.

    With `look_around` one more orbit is then run: from where the Newton step leads that
    removes the gap left over and one of rounding (of an adaptive flow, of a hundredth
    of `tol`). At an isolated cycle the step for the same gap is nearly the same there;
    where two cycles have merged or just vanished the two steps differ by as much as
    they are long, at any scale. `isolated` is False if they differ, or are not short.
    """
    extent_floor = jnp.maximum(1, norm(nodes[0]))
    unknown = jnp.asarray(jnp.finfo(nodes.dtype).max, nodes.dtype)
    eps = jnp.finfo(nodes.dtype).eps
    noise = 8 * eps if isinstance(mesh.flow, ScanFlow) else 1e-2 * tol
    no = jnp.zeros((), bool)
    wave = jnp.cos(1.0 + jnp.arange(nodes.size, dtype=nodes.dtype))
    splits = [k for k in (2, 3, 5) if mesh.size % k == 0 and reduce_period]

    def newton(orbit, gap, units, looking, left):
        """The step that removes the gap, whether there is one, and the units of steps;
        a gap a little larger, in the direction that takes the longest step (the gap
        `left` while `looking`), and the step for it."""
        rows = jnp.tile(units[0], mesh.segments)
        matrix = newton_matrix(velocity, orbit) / rows[:, None]
        # The shortest solution, by QR of the transposed matrix.
        speed = jnp.maximum(norm(matrix[:, -1]), jnp.finfo(gap.dtype).tiny)
        scale = jnp.append(rows, 1 / speed)
        q, r = jnp.linalg.qr((matrix * scale[None]).T)
        solve = partial(jax.scipy.linalg.solve_triangular, r)
        # The softest direction, by a step of inverse iteration.
        soft = solve(solve(after(jnp.abs(q[0, 0]), wave), trans=1))
        soft = soft / jnp.maximum(norm(soft), jnp.finfo(gap.dtype).tiny)
        gap = gap.ravel() / rows
        rounding = noise * jnp.max(jnp.linalg.norm(orbit.states / units[None], axis=-1))
        larger = gap + rounding * jnp.where(jnp.vdot(soft, gap) < 0, -soft, soft)
        left = jnp.where(looking, left, larger)
        half = solve(after(jnp.abs(soft[0]), jnp.stack([gap, left], axis=1)), trans=1)
        step, other = (scale[:, None] * (q @ half)).T
        regular = jnp.all(jnp.isfinite(step))
        return jnp.where(regular, step, 0), regular, scale, left, other

    def units_of(orbit):
        largest = jnp.max(jnp.abs(orbit.states), axis=(0, 1))[None, :]
        # Variables that vanish on the orbit are known to the rounding of the others.
        floor = 1e-6 * jnp.max(largest)
        return jnp.where(floor > 0, jnp.maximum(largest, floor), 1)

    def first_return(orbit, units):
        """The largest fraction 1/k of the period after which the orbit closes."""
        states = orbit.states.reshape(mesh.size, -1)
        away = jnp.linalg.norm((states - states[:1]) / units, axis=1)
        closed = [away[mesh.size // k] <= 1e-6 * jnp.max(away) for k in splits]
        extent = jnp.max(jnp.linalg.norm(states - states[:1], axis=1))
        large = extent > 1e-5 * extent_floor
        k = jnp.ones((), jnp.int32)
        for candidate, ok in zip(reversed(splits), reversed(closed), strict=True):
            k = jnp.where(ok & large, candidate, k)
        return k, states

    def too_long(shot):
        """Whether a piece is too long for its steps, and others could take over."""
        stiffness = _stiffness(velocity, shot)
        largest = jnp.max(stiffness)
        return (largest > STIFFNESS) & (largest > 2 * jnp.mean(stiffness))

    def body(carry):
        shot, size, units, step, factor, rounds, (looking, left, away), _ = carry
        nodes = shot.nodes - factor * step[:-1].reshape(shot.nodes.shape)
        period = shot.period - factor * step[-1]
        inside = (period >= bounds[0]) & (period <= bounds[1])
        trace = lambda: trace_orbit(mesh, velocity, nodes, period, shot.orbit.shares)
        if nodes.shape[1] < JACOBIANS_LATER:
            orbit = trace()
        else:
            gap = gaps(mesh, velocity, nodes, period, shot.orbit.shares)
            promising = ((norm(gap / units) < size) & inside) | looking
            nothing = eqx.tree_at(
                lambda o: o.ends, shot.orbit, gap + jnp.roll(nodes, -1, 0)
            )
            orbit = lax.cond(promising, trace, lambda: nothing)
        gap = orbit.ends - jnp.roll(nodes, -1, axis=0)
        new_units = units_of(orbit)
        fresh = ~jnp.isfinite(size) & jnp.all(jnp.isfinite(new_units))
        units = jnp.where(fresh, new_units, units)
        new = norm(gap / units)
        better = (new < size) & inside & ~looking
        residual = jnp.max(jnp.linalg.norm(gap, axis=1)) / jnp.maximum(
            1, norm(nodes[0])
        )
        moved = Shot(
            nodes, period, orbit, residual, shot.step, shot.isolated, shot.num_steps + 1
        )
        # A run that blows up before anything is known has diverged.
        blown = inside & jnp.any(jnp.isinf(gap)) & ~jnp.isfinite(size)
        stay = eqx.tree_at(
            lambda s: (s.residual, s.num_steps),
            shot,
            (jnp.where(blown, jnp.inf, shot.residual), shot.num_steps + 1),
        )
        shot = _where(better, moved, stay)
        size = jnp.where(better, new, size)
        small = shot.residual <= tol
        gap = shot.orbit.ends - jnp.roll(shot.nodes, -1, axis=0)
        here = _where(looking, orbit, shot.orbit)
        fresh, regular, scale, left, other = newton(here, gap, units, looking, left)
        # The same gap asks for the same step (the period counts with the distance).
        size_of = lambda s: norm(s / scale)
        shorter = jnp.minimum(size_of(other), size_of(away))
        same = size_of(other - away) <= 0.2 * shorter
        isolated = jnp.where(looking, same, shot.isolated)
        # A period that would change by more than half is a step too far, and so is a
        # node that would move by more than the size of the orbit.
        cap = 0.5 * shot.period / jnp.maximum(jnp.abs(fresh[-1]), 1e-30)
        states = shot.orbit.states.reshape(mesh.size, -1)
        far = lambda x: jnp.max(jnp.linalg.norm(x / units, axis=1))
        reach = far(states - states[:1])
        farthest = lambda s: far(s[:-1].reshape(gap.shape))
        length = farthest(fresh)
        cap = jnp.minimum(cap, reach / jnp.maximum(length, 1e-30))
        relative = jnp.maximum(length / reach, jnp.abs(fresh[-1]) / shot.period)
        relative = jnp.where(regular & (reach > 0), relative, jnp.inf)
        relative = jnp.where(looking, shot.step, relative)
        shot = eqx.tree_at(lambda s: (s.step, s.isolated), shot, (relative, isolated))
        factor = jnp.where(better, jnp.minimum(1, cap), 0.4 * factor)
        over = ~better & (small | (factor < 1e-3))
        over = over | (shot.residual <= 8 * eps) | ~jnp.isfinite(size)
        done = over & small
        new_nodes, new_period = shot.nodes, shot.period
        new_shares = shot.orbit.shares
        again = no
        if splits:
            k, states = first_return(shot.orbit, units)
            # Only equal pieces can be compared after a fraction of the period.
            again = done & (k > 1) & (rounds == adapt) & ~looking
            index = (jnp.arange(mesh.segments) * mesh.pieces) // k
            new_nodes = jnp.where(again, states[index], new_nodes)
            new_period = jnp.where(again, shot.period / k, new_period)
        if adapt:
            coarse = done & ~again & ~looking & (rounds > 0) & too_long(shot)
            shares_, nodes_ = _share_out(mesh, velocity, shot)
            new_nodes = jnp.where(coarse, nodes_, new_nodes)
            new_shares = jnp.where(coarse, shares_, new_shares)
            rounds = rounds - coarse.astype(jnp.int32)
            again = again | coarse
        # Where the search starts again nothing is known yet, also if it ends here.
        shot = eqx.tree_at(
            lambda s: (s.nodes, s.period, s.orbit.shares, s.residual),
            shot,
            (
                new_nodes,
                new_period,
                new_shares,
                jnp.where(again, unknown, shot.residual),
            ),
        )
        # A step to another place altogether tells nothing of this one.
        near = (farthest(other) <= 1e-2 * reach) & (
            jnp.abs(other[-1]) <= 1e-2 * shot.period
        )
        last = shot.num_steps >= max_steps
        look = small & (over | last) & ~again & ~looking & near & look_around
        step = jnp.where(again, 0, jnp.where(look, other, fresh))
        size = jnp.where(again, jnp.inf, size)
        factor = jnp.where(again | look, 1.0, factor).astype(nodes.dtype)
        view = (look, left, other)
        over = over & ~again & ~look
        return shot, size, units, step, factor, rounds, view, over

    def going(carry):
        shot, *_, (looking, _, _), over = carry
        return ~over & (looking | (shot.num_steps < max_steps))

    shape = (mesh.segments, mesh.pieces, nodes.shape[1])
    nothing = Orbit(
        jnp.zeros_like(nodes),
        jnp.zeros(shape, nodes.dtype),
        jnp.zeros((*shape, nodes.shape[1]), nodes.dtype),
        mesh.uniform(nodes.dtype) if shares is None else shares,
    )
    infinite = jnp.asarray(jnp.inf, nodes.dtype)
    count = jnp.zeros((), jnp.int32)
    shot = Shot(nodes, period, nothing, unknown, infinite, no, count)
    still = jnp.zeros(nodes.size + 1, nodes.dtype)
    one = jnp.ones((), nodes.dtype)
    rounds = jnp.asarray(adapt, jnp.int32)
    view = (no, jnp.zeros(nodes.size, nodes.dtype), still)
    ones = jnp.ones_like(nodes[:1])
    carry = (shot, infinite, ones, still, one, rounds, view, no)
    return lax.while_loop(going, body, carry)[0]


def attach_orbit(mesh: Mesh, velocity: Callable, shot: Shot) -> Shot:
    """The same shot with the derivatives of the closed orbit in whatever `velocity`
    depends on, by the implicit function theorem. The point x0 moves in the plane
    normal to the flow through it."""
    nodes, period = _attach(velocity, shot.nodes, shot.period, shot.orbit, mesh)
    orbit = _recall(velocity, nodes, period, shot.orbit, mesh)
    return dataclasses.replace(shot, nodes=nodes, period=period, orbit=orbit)


@eqx.filter_custom_jvp
def _recall(velocity, nodes, period, orbit, mesh):
    """`orbit`, known to be the trajectory from `nodes`, as a function of them."""
    del velocity, nodes, period, mesh
    return orbit


@_recall.def_jvp
@precise
def _recall_jvp(primals, tangents):
    velocity, nodes, period, orbit, mesh = primals
    t_velocity, t_nodes, t_period, _, _ = tangents
    again = lambda v, n, p: trace_orbit(mesh, v, n, p, orbit.shares)
    _, tangent = eqx.filter_jvp(
        again, (velocity, nodes, period), (t_velocity, t_nodes, t_period)
    )
    return _recall(velocity, nodes, period, orbit, mesh), tangent


@eqx.filter_custom_jvp
def _attach(velocity, nodes, period, orbit, mesh):
    """`nodes, period`, known to close the orbit, as functions of `velocity`."""
    del velocity, orbit, mesh
    return nodes, period


@_attach.def_jvp
@precise
def _attach_jvp(primals, tangents):
    velocity, nodes, period, orbit, mesh = primals
    t_velocity = tangents[0]
    nodes, period = _attach(velocity, nodes, period, orbit, mesh)
    _, t_gap = eqx.filter_jvp(
        lambda v: gaps(mesh, v, nodes, period, orbit.shares), (velocity,), (t_velocity,)
    )
    direction = lax.stop_gradient(_unit(velocity(nodes[0])))
    known = _recall(velocity, nodes, period, orbit, mesh)
    # The phase: the first node moves in the plane normal to the flow.
    phase = jnp.zeros((1, nodes.size + 1), t_gap.dtype)
    phase = phase.at[0, : direction.size].set(direction)
    matrix = jnp.concatenate([newton_matrix(velocity, known), phase])
    right = jnp.concatenate([t_gap.ravel(), jnp.zeros(1, t_gap.dtype)])
    # Where there is no isolated orbit there is no derivative: it is 0.
    regular = jnp.all(jnp.isfinite(jnp.linalg.inv(lax.stop_gradient(matrix))))
    matrix = jnp.where(regular, matrix, jnp.eye(right.size, dtype=right.dtype))
    step = -jnp.linalg.solve(matrix, jnp.where(regular, right, 0))
    return (nodes, period), (step[:-1].reshape(nodes.shape), step[-1])


def _stiffness(velocity, shot):
    """|df/dx| times the duration of each piece, flat."""
    states = shot.orbit.states.reshape(-1, shot.nodes.shape[1])
    rates = jax.vmap(lambda x: jnp.linalg.norm(jax.jacfwd(velocity)(x)))(states)
    # The faster end of a piece decides.
    rates = jnp.maximum(rates, jnp.roll(rates, -1))
    return rates * shot.orbit.shares.ravel() * shot.period


def _share_out(mesh, velocity, shot):
    """Shares such that every piece holds as much stiffness (half of it spread evenly,
    so that slow stretches keep pieces), and nodes to start from."""
    shares = shot.orbit.shares
    segments, pieces = shares.shape
    amount = _stiffness(velocity, shot)
    amount = amount + jnp.mean(amount) * shares.ravel() * amount.size
    zero = jnp.zeros(1, shares.dtype)
    total = jnp.concatenate([zero, jnp.cumsum(amount)])
    times = jnp.concatenate([zero, jnp.cumsum(shares.ravel())])
    wanted = jnp.linspace(0, 1, amount.size + 1, dtype=shares.dtype) * total[-1]
    new_times = jnp.interp(wanted, total, times)
    new_shares = jnp.diff(new_times).reshape(segments, pieces)
    if segments == 1:
        return new_shares, shot.nodes
    # From the state before each: between the states of a spike no line is good enough.
    states = shot.orbit.states.reshape(amount.size, -1)
    starts = new_times[:-1:pieces]
    k = jnp.clip(jnp.searchsorted(times, starts, side="right") - 1, 0, amount.size - 1)
    go = lambda x, share: mesh.through(velocity, x, share * shot.period)
    return new_shares, jax.vmap(go)(states[k], starts - times[k])


def _unit(v):
    return v / jnp.maximum(norm(v), jnp.finfo(v.dtype).tiny)


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
