"""The numbers that decide a label: measured in float64, for all networks at once."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._batch import device_mesh, map_members, member_keys, to_double
from .._core._checks import check_counts, check_ids, check_step_ratio, one_of
from .._core._types import KeyLike
from ..dynamics import MultiStart, certify, fixed_points, jacobian
from ..models import AbstractRNN, member, num_members
from ..tasks import AbstractTask, per_member
from ._run import (
    check_memory,
    flow_map,
    flow_substeps,
    free_run,
    step_of,
)


_HERE = 1e-2  # what is closer to a root, in separations, is at it
_CALM = 0.1  # a flow that moves more is not looked for at a root


class Features(eqx.Module):
    """Evidence per network (`member`) and per condition of the task (`cue`).

    Everything except the `flow_*` fields is about the Euler map the network was
    trained as. Speeds are `|F(x) - x|`, times are in seconds.

    - `accuracy`, `reliability` `(member,)`: task score with noise.
    - `unit_time` `(member,)`: the slowest unit's own time constant (s).
    - `delay` `(member,)`: duration of the delay (s).
    - `finite`: the free run stayed finite.
    - `late_rms`: oscillation that remains after 40 trial lengths (state units, over all
        units); `late_peak`: that of the unit that moves most; `late_trend`: its size in
        the second half of the late window over that in the first, 1 if it neither grows
        nor decays.
    - `period`: of the remaining oscillation (s).
    - `recurrence`: its autocorrelation a period later, 1 if it is closed.
    - `exponent`: leading Lyapunov exponent in the late window (1/s); `growth`: the
        logarithm of the total stretch over that window; `growth_low`: twice that of
        the half that stretches less; `growth_second`: that of the second exponent over
        the whole window, smoothly weighted.
    - `separation`: distance between the states of different cues when the delay ends
        (with one cue, the extent of its trial): the size of the memory.
    - `apart`: distance between the final states of this cue and the nearest other, over
        `separation`: 0 if they end in the same place.
    - `root_residual`, `root_distance`, `root_radius`: speed, distance from the final
        state and largest multiplier modulus of the nearest certified root (infinite
        where none was found); `at_root`: it lies within a hundredth of `separation`.
    - `remaining`: distance still to go to the final state when the delay ends, over
        `separation`: 0 if the memory already sits at it.
    - `drift`: distance moved during the delay, over the same.
    - `slow_speed`: smallest speed during the delay; `dwell`: time that speed needs
        to cross the separation (s); `slow_time`: longest time constant of the
        linearised map there (s).
    - `num_slow`, `slow_gap`: how many slow directions lie above the largest gap among
        the ten slowest, and that gap.
    - `flow_late_rms`, `flow_late_peak`, `flow_late_trend`, `flow_growth`,
        `flow_growth_low`, `flow_growth_second`, `flow_period`, `flow_recurrence`,
        `flow_finite`, `flow_at_root`: the same numbers for the continuous flow;
        `flow_root_rightmost`: its rightmost eigenvalue at the root where it ends (1/s),
        or, where it ends at none, at that of the map.
    """

    accuracy: Float[Array, " member"]
    reliability: Float[Array, " member"]
    unit_time: Float[Array, " member"]
    delay: Float[Array, " member"]
    finite: Bool[Array, "member cue"]
    late_rms: Float[Array, "member cue"]
    late_peak: Float[Array, "member cue"]
    late_trend: Float[Array, "member cue"]
    period: Float[Array, "member cue"]
    recurrence: Float[Array, "member cue"]
    exponent: Float[Array, "member cue"]
    growth: Float[Array, "member cue"]
    growth_low: Float[Array, "member cue"]
    growth_second: Float[Array, "member cue"]
    separation: Float[Array, "member cue"]
    apart: Float[Array, "member cue"]
    at_root: Bool[Array, "member cue"]
    root_residual: Float[Array, "member cue"]
    root_distance: Float[Array, "member cue"]
    root_radius: Float[Array, "member cue"]
    remaining: Float[Array, "member cue"]
    drift: Float[Array, "member cue"]
    slow_speed: Float[Array, "member cue"]
    dwell: Float[Array, "member cue"]
    slow_time: Float[Array, "member cue"]
    num_slow: Int[Array, "member cue"]
    slow_gap: Float[Array, "member cue"]
    flow_finite: Bool[Array, "member cue"]
    flow_at_root: Bool[Array, "member cue"]
    flow_late_rms: Float[Array, "member cue"]
    flow_late_peak: Float[Array, "member cue"]
    flow_late_trend: Float[Array, "member cue"]
    flow_period: Float[Array, "member cue"]
    flow_recurrence: Float[Array, "member cue"]
    flow_growth: Float[Array, "member cue"]
    flow_growth_low: Float[Array, "member cue"]
    flow_growth_second: Float[Array, "member cue"]
    flow_root_rightmost: Float[Array, "member cue"]


def measure(
    models: AbstractRNN,
    task: AbstractTask,
    *,
    dt: float | None = None,
    trials: int = 16,
    spread: float = 0.1,
    readout: Literal["before", "after"] = "before",
    chunk: int = 64,
    ids: Any = None,
    key: KeyLike,
) -> Features:
    """Measure the evidence for every network of an ensemble. Host level, float64.

    **Arguments:**

    - `models`: networks with a leading axis.
    - `task`: one task, or one per network (leading axis).
    - `dt`: step of the map they were trained as (seconds), that of the task.
    - `trials`: noisy trials per condition for the score.
    - `spread`: these start at the network's initial state + tanh(spread xi),
        xi ~ N(0, 1).
    - `readout`: whether outputs are read before the update, as in the paper, or after
        it; as the networks were trained.
    - `chunk`: networks measured at a time, which bounds the memory.
    - `ids`: member numbers, `0 .. members - 1` by default; `key`: for noise and
        initial states of the scored trials, which depend on these two only.

    **Raises:** a `ValueError` if `models` is no ensemble or has other inputs or outputs
    than the task, if the task has no delay, `dt/tau` lies outside (0, 1], or numbers
    are below 1.
    """
    members = num_members(models)
    check_memory(models, task)
    check_counts(members=members, trials=trials, chunk=chunk)
    one_of("readout", readout, ("before", "after"))
    dt = step_of(task, dt)
    check_step_ratio(dt, models.tau)
    keys = np.asarray(jr.key_data(member_keys(key, check_ids(ids, members))))
    with jax.enable_x64(True):
        models, task = to_double(models), per_member(to_double(task), members)
        substeps = flow_substeps(models, dt)
        mesh = device_mesh()
        whole = lambda n: -(-n // mesh.size) * mesh.size
        size = min(whole(chunk), whole(members))
        if members > size:
            # Of one size, the last one filled up by little; of few sizes: programs.
            even = -(-members // -(-members // size))
            size = min(size, whole(-(-even // 8) * 8))
        parts = []
        for first in range(0, members, size):
            # Filled up by repetition: one shape, one program.
            index = np.arange(first, first + size) % members
            nets, tasks = member((models, task), index)
            runs, flow_runs, score = _run_all(
                nets,
                tasks,
                keys[index],
                dt,
                substeps,
                trials,
                spread,
                int(readout == "before"),
                mesh,
            )
            whole_chunk = _assess(nets, runs, flow_runs, score, dt)
            rows = slice(0, min(size, members - first))
            cut = lambda a, rows=rows: jnp.asarray(np.asarray(a)[rows])
            parts.append(jax.tree.map(cut, whole_chunk))
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def _assess(models, runs, flow_runs, score, dt) -> Features:
    runs, flow_runs, score = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a)), (runs, flow_runs, score)
    )
    slow = _slow_states(models, runs, dt)
    roots = _roots(models, runs.late, dt)
    flow_roots = {
        "distance": _gap(flow_runs.final, roots["x"]), "rightmost": roots["rightmost"]
    }  # fmt: skip
    # Where a flow may be at rest elsewhere, the same search from there.
    near = flow_roots["distance"] <= _HERE * np.asarray(slow["separation"])
    calm = np.asarray(flow_runs.finite & (flow_runs.peak < _CALM))
    if (calm & ~near).any():
        found = _roots(models, flow_runs, dt)
        closer = found["distance"] < flow_roots["distance"]
        flow_roots = {k: np.where(closer, found[k], v) for k, v in flow_roots.items()}
    return _assemble(models, runs, flow_runs, score, slow, roots, flow_roots, dt)


@eqx.filter_jit
def _run_all(models, task, keys, dt, substeps, trials, spread, lag, mesh):
    cues = jnp.arange(task.num_conditions)

    # One run at a time keeps its states in the cache, and ends when it is at rest; on a
    # CPU a product with two columns takes longer than two products.
    def one(model, one_task, key):
        key = jr.wrap_key_data(key)
        system = model.map(dt)
        flow = flow_map(model, dt, substeps=substeps)
        runs = lambda system: jax.lax.map(
            lambda c: free_run(model, one_task, c, system=system), cues
        )
        run, flow_run = runs(system), runs(flow)
        return run, flow_run.late, _score(model, one_task, key, dt, trials, spread, lag)

    return map_members(one, models, task, keys, mesh=mesh)


def _score(model, task, key, dt, trials, spread, lag):
    size = trials * task.num_conditions
    k_batch, k_start, k_noise = jr.split(key, 3)
    batch = task.batch(size, key=k_batch)
    shape = (size, task.num_steps, model.drive(None).size)
    noise = model.noise * jr.normal(k_noise, shape)
    start = model.initial_state()[None] + jnp.tanh(
        spread * jr.normal(k_start, (size, model.state_size))
    )

    def answer(trial, x0, noise):
        def step(x, inputs):
            u, xi = inputs
            current = model.recurrent(x) + model.drive(u) + xi
            after = x + dt * model.velocity(x, current)
            return after, model.readout(x if lag else after)

        outputs = jax.lax.scan(step, x0, (trial.inputs, noise))[1]
        return task.score(trial, outputs, lag=lag)

    score = jax.vmap(answer)(batch, start, noise)
    return jax.tree.map(jnp.mean, score)


@eqx.filter_jit
def _slow_states(models, runs, dt):
    """Where each run was slowest during the delay, and the linearised map there."""

    def one(model, run):
        ending = jax.vmap(lambda r: r.held[r.memory_end])(run)
        final = run.late.final
        alone = lambda x: jnp.max(
            jnp.linalg.norm(run.held - x[:, None], axis=2), axis=1
        )
        separation, apart = _nearest(ending), _nearest(final)
        if ending.shape[0] == 1:
            separation, apart = alone(final), jnp.ones(1)
        size = jnp.where(separation > 0, separation, 1)

        def cue(run, size):
            moved = jnp.linalg.norm(run.held[1:] - run.held[:-1], axis=1)
            steps = jnp.arange(1, run.held.shape[0])
            first = jnp.minimum(jnp.maximum(run.memory_begin, 1), run.memory_end)
            inside = (steps >= first) & (steps <= run.memory_end)
            slowest = jnp.argmin(jnp.where(inside, moved, jnp.inf))
            x = jnp.where(run.late.finite, run.held[slowest], 0)
            ending = run.held[run.memory_end]
            return {
                "state": x,
                "speed": moved[slowest],
                "jacobian": jacobian(model.map(dt), x, None),
                "remaining": jnp.linalg.norm(ending - run.late.final) / size,
                "drift": jnp.linalg.norm(ending - run.held[first - 1]) / size,
            }

        cues = jax.vmap(cue)(run, size)
        length = dt * (run.memory_end[0] + 1 - run.memory_begin[0])
        return cues | {"separation": separation, "apart": apart / size, "delay": length}

    return eqx.filter_vmap(one)(models, runs)


def _nearest(x: Float[Array, "cue state"]) -> Float[Array, " cue"]:
    """Distance of each row to the nearest other one."""
    distance = jnp.linalg.norm(x[:, None] - x[None], axis=2)
    return jnp.min(distance + jnp.diag(jnp.full(len(x), jnp.inf)), axis=1)


def _roots(models, late, dt):
    """Certified roots reached from the final states: the nearest one to each."""
    starts = jnp.where(late.finite[..., None], late.final, 0)
    plain = MultiStart(num_large=0, rounds=0)

    def search(model, x0s):
        return fixed_points(
            model.map(dt), x0s, strategy=plain, max_steps=64, slow=False, spectrum=False
        )

    points = certify(eqx.filter_vmap(search)(models, starts))
    x, found = np.asarray(points.x), np.asarray(points.mask)
    radius = np.max(np.abs(np.asarray(points.eigenvalues)), axis=-1)
    rightmost = np.max(np.real((np.asarray(points.eigenvalues) - 1) / dt), axis=-1)
    distance = np.linalg.norm(np.asarray(starts)[:, :, None] - x[:, None], axis=-1)
    # Runs that left the finite numbers end at no root.
    ended = np.asarray(late.finite)[..., None]
    distance = np.where(found[:, None] & ended, distance, np.inf)
    nearest = np.argmin(distance, axis=-1)
    closest = np.min(distance, axis=-1)

    def take(a):
        return np.where(
            np.isfinite(closest), np.take_along_axis(a, nearest, axis=1), np.inf
        )

    there = np.isfinite(closest)[..., None]
    return {
        "x": np.where(there, np.take_along_axis(x, nearest[..., None], axis=1), np.nan),
        "distance": closest,
        "residual": take(np.asarray(points.speed)),
        "radius": take(radius),
        "rightmost": take(rightmost),
    }


def _gap(final, x):
    """Distance of the final states to these, infinite for what is not finite."""
    gap = np.linalg.norm(np.asarray(final) - x, axis=-1)
    return np.where(np.isfinite(gap), gap, np.inf)


def _assemble(models, runs, flow_runs, score, slow, roots, flow_roots, dt) -> Features:
    jacobians = np.asarray(slow["jacobian"])
    values = np.linalg.eigvals(np.where(np.isfinite(jacobians), jacobians, 0))
    # Growth counts as slow as decay: an unstable direction near 1 is slow to leave.
    rate = np.sort(np.abs(np.log(np.maximum(np.abs(values), 1e-300))), axis=-1)
    leading = np.maximum(rate[..., :10], 1e-12)
    gaps = leading[..., 1:] / leading[..., :-1]
    if gaps.shape[-1] == 0:  # one unit has one direction and no gap
        gaps = np.ones_like(leading)
    size = np.asarray(slow["separation"])
    at_root = roots["distance"] <= _HERE * size
    dwell = dt * size / np.maximum(np.asarray(slow["speed"]), 1e-300)
    return Features(
        accuracy=score.accuracy,
        reliability=score.reliability,
        unit_time=jnp.max(models.tau.reshape(len(values), -1), axis=1),
        delay=slow["delay"],
        finite=runs.late.finite,
        late_rms=runs.late.rms,
        late_peak=runs.late.peak,
        late_trend=runs.late.trend,
        period=runs.late.period * dt,
        recurrence=runs.late.recurrence,
        exponent=runs.late.exponent / dt,
        growth=runs.late.growth,
        growth_low=runs.late.growth_low,
        growth_second=runs.late.growth_second,
        separation=slow["separation"],
        apart=slow["apart"],
        at_root=jnp.asarray(at_root),
        root_residual=jnp.asarray(roots["residual"]),
        root_distance=jnp.asarray(roots["distance"]),
        root_radius=jnp.asarray(roots["radius"]),
        remaining=slow["remaining"],
        drift=slow["drift"],
        slow_speed=slow["speed"],
        dwell=jnp.asarray(dwell),
        slow_time=jnp.asarray(dt / leading[..., 0]),
        num_slow=jnp.asarray(np.argmax(gaps, axis=-1) + 1),
        slow_gap=jnp.asarray(np.max(gaps, axis=-1)),
        flow_finite=flow_runs.finite,
        flow_at_root=jnp.asarray(flow_roots["distance"] <= _HERE * size),
        flow_late_rms=flow_runs.rms,
        flow_late_peak=flow_runs.peak,
        flow_late_trend=flow_runs.trend,
        flow_period=flow_runs.period * dt,
        flow_recurrence=flow_runs.recurrence,
        flow_growth=flow_runs.growth,
        flow_growth_low=flow_runs.growth_low,
        flow_growth_second=flow_runs.growth_second,
        flow_root_rightmost=jnp.asarray(flow_roots["rightmost"]),
    )
