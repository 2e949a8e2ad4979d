"""The numbers that decide a label: measured in float64, for all networks at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._batch import device_mesh, map_members
from .._core._checks import check_step_ratio
from .._core._types import KeyLike
from ..dynamics import MultiStart, certify, fixed_points, jacobian
from ..models import AbstractRNN, member, num_members
from ..tasks import AbstractTask, per_member
from ._run import FreeRun, flow_map, free_run


class Features(eqx.Module):
    """Evidence per network (`member`) and per condition of the task (`cue`).

    Everything except the `flow_*` fields is about the Euler map the network was
    trained as. Speeds are `|F(x) - x|`, times are in seconds.

    - `accuracy`, `reliability` `(member,)`: task score with noise.
    - `unit_time` `(member,)`: the slowest unit's own time constant.
    - `finite`: the free run stayed finite.
    - `late_rms`: oscillation that remains after 40 trial lengths (state units).
    - `period` (s), `recurrence`: of the remaining oscillation; recurrence 1 is closed.
    - `exponent` (1/s): leading Lyapunov exponent in the late window; `growth`: the
        logarithm of the total stretch over that window.
    - `root_residual`, `root_distance`, `root_radius`: speed, distance from the final
        state and largest multiplier modulus of the certified root the run ended in;
        `at_root` says whether there is one.
    - `remaining`: distance still to go to the final state when the delay ends, over
        the largest distance in the trial: 0 if the memory already sits at it.
    - `drift`: distance moved during the delay, over the same.
    - `slow_speed`: smallest speed during the delay; `slow_time` (s): longest time
        constant of the linearised map there; `num_slow`, `slow_gap`: how many slow
        directions lie above the largest gap among the ten slowest, and that gap.
    - `flow_late_rms`, `flow_growth`, `flow_period`, `flow_recurrence`,
        `flow_finite`: the same numbers for the continuous flow;
        `flow_root_rightmost` (1/s): rightmost eigenvalue of the flow at the root.
    """

    accuracy: Float[Array, " member"]
    reliability: Float[Array, " member"]
    unit_time: Float[Array, " member"]
    finite: Bool[Array, "member cue"]
    late_rms: Float[Array, "member cue"]
    period: Float[Array, "member cue"]
    recurrence: Float[Array, "member cue"]
    exponent: Float[Array, "member cue"]
    growth: Float[Array, "member cue"]
    at_root: Bool[Array, "member cue"]
    root_residual: Float[Array, "member cue"]
    root_distance: Float[Array, "member cue"]
    root_radius: Float[Array, "member cue"]
    remaining: Float[Array, "member cue"]
    drift: Float[Array, "member cue"]
    slow_speed: Float[Array, "member cue"]
    slow_time: Float[Array, "member cue"]
    num_slow: Int[Array, "member cue"]
    slow_gap: Float[Array, "member cue"]
    flow_finite: Bool[Array, "member cue"]
    flow_late_rms: Float[Array, "member cue"]
    flow_period: Float[Array, "member cue"]
    flow_recurrence: Float[Array, "member cue"]
    flow_growth: Float[Array, "member cue"]
    flow_root_rightmost: Float[Array, "member cue"]


def measure(
    models: AbstractRNN,
    task: AbstractTask,
    *,
    dt: float | None = None,
    trials: int = 16,
    spread: float = 0.1,
    readout_lag: int = 1,
    chunk: int = 64,
    key: KeyLike,
) -> Features:
    """Measure the evidence for every network of an ensemble. Host level, float64.

    **Arguments:**

    - `models`: networks with a leading axis.
    - `task`: one task, or one per network (leading axis).
    - `dt`: step of the map they were trained as (seconds); the task's by default.
    - `trials`: noisy trials per condition for the score.
    - `spread`: standard deviation inside the tanh of the random initial states of
        these trials.
    - `readout_lag`: 1 if outputs are read before the update, as in the paper.
    - `chunk`: networks measured at a time, which bounds the memory.
    - `key`: for noise and initial states of the scored trials.

    **Raises:** a `ValueError` if `models` is no ensemble or `dt/tau` outside (0, 1].
    """
    members = num_members(models)
    dt = task.dt if dt is None else dt
    check_step_ratio(dt, models.tau)
    keys = np.asarray(jr.key_data(jr.split(key, members)))
    with jax.enable_x64(True):
        models, task = _double(models), per_member(_double(task), members)
        mesh = device_mesh()
        whole = lambda n: -(-n // mesh.size) * mesh.size
        size = min(whole(chunk), whole(members))
        parts = []
        for first in range(0, members, size):
            # The last chunk is filled up by repetition: one shape, one program.
            index = np.arange(first, first + size) % members
            nets, tasks = member((models, task), index)
            runs, flow_runs, score = _run_all(
                nets, tasks, keys[index], dt, trials, spread, readout_lag, mesh
            )
            whole_chunk = _assess(nets, tasks, runs, flow_runs, score, dt)
            rows = slice(0, min(size, members - first))
            cut = lambda a, rows=rows: jnp.asarray(np.asarray(a)[rows])
            parts.append(jax.tree.map(cut, whole_chunk))
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def _assess(models, task, runs, flow_runs, score, dt) -> Features:
    runs, flow_runs, score = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a)), (runs, flow_runs, score)
    )
    slow = _slow_states(models, task, runs, dt)
    roots = _roots(models, runs, slow["state"], dt)
    return _assemble(models, runs, flow_runs, score, slow, roots, dt)


@eqx.filter_jit
def _run_all(models, task, keys, dt, trials, spread, lag, mesh):
    cues = jnp.arange(task.num_conditions)

    # One network at a time keeps its states in the cache; the cues share products.
    def one(model, one_task, key):
        key = jr.wrap_key_data(key)
        system = model.map(dt)
        run = jax.vmap(lambda c: free_run(model, one_task, c, system=system))(cues)
        flow = flow_map(model, dt)
        flow_run = jax.vmap(lambda c: free_run(model, one_task, c, system=flow))(cues)
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
def _slow_states(models, task, runs, dt):
    """Where each run was slowest during the delay, and the linearised map there."""

    def one(model, one_task, run):
        def cue(run):
            moved = jnp.linalg.norm(run.held[1:] - run.held[:-1], axis=1)
            steps = jnp.arange(1, run.held.shape[0])
            begin = jnp.minimum(one_task.ends[0], run.memory_end)
            inside = (steps >= begin) & (steps <= run.memory_end)
            slowest = jnp.argmin(jnp.where(inside, moved, jnp.inf))
            x = jnp.where(run.late.finite, run.held[slowest], 0)
            extent = jnp.max(jnp.linalg.norm(run.held - run.late.final[None], axis=1))
            extent = jnp.where(extent > 0, extent, 1)
            ending = run.held[run.memory_end]
            return {
                "state": x,
                "speed": moved[slowest],
                "jacobian": jacobian(model.map(dt), x, None),
                "remaining": jnp.linalg.norm(ending - run.late.final) / extent,
                "drift": jnp.linalg.norm(ending - run.held[begin - 1]) / extent,
            }

        return jax.vmap(cue)(run)

    return eqx.filter_vmap(one)(models, task, runs)


def _roots(models, runs: FreeRun, slow_states, dt):
    """Certified roots reached from the final states, a slot per cue."""
    starts = jnp.where(runs.late.finite[..., None], runs.late.final, 0)
    plain = MultiStart(num_large=0, rounds=0)

    def search(model, x0s):
        return fixed_points(model.map(dt), x0s, strategy=plain, max_steps=64)

    points = certify(eqx.filter_vmap(search)(models, starts))
    x, found = np.asarray(points.x), np.asarray(points.mask)
    radius = np.max(np.abs(np.asarray(points.eigenvalues)), axis=-1)
    rightmost = np.max(np.real((np.asarray(points.eigenvalues) - 1) / dt), axis=-1)
    final = np.asarray(starts)
    distance = np.linalg.norm(final[:, :, None] - x[:, None], axis=-1)
    distance = np.where(found[:, None], distance, np.inf)
    nearest = np.argmin(distance, axis=-1)
    take = lambda a: np.take_along_axis(a, nearest, axis=1)
    closest = np.min(distance, axis=-1)
    return {
        "distance": np.where(np.isfinite(closest), closest, 0),
        "found": np.isfinite(closest),
        "residual": take(np.asarray(points.speed)),
        "radius": take(radius),
        "rightmost": take(rightmost),
    }


def _assemble(models, runs, flow_runs, score, slow, roots, dt) -> Features:
    jacobians = np.asarray(slow["jacobian"])
    values = np.linalg.eigvals(np.where(np.isfinite(jacobians), jacobians, 0))
    # Growth counts as slow as decay: an unstable direction near 1 is slow to leave.
    rate = np.sort(np.abs(np.log(np.maximum(np.abs(values), 1e-300))), axis=-1)
    leading = np.maximum(rate[..., :10], 1e-12)
    gaps = leading[..., 1:] / leading[..., :-1]
    scale = np.maximum(1, np.linalg.norm(np.asarray(runs.late.final), axis=-1))
    at_root = roots["found"] & (roots["distance"] <= 1e-2 * scale)
    return Features(
        accuracy=score.accuracy,
        reliability=score.reliability,
        unit_time=jnp.max(models.tau.reshape(len(values), -1), axis=1),
        finite=runs.late.finite,
        late_rms=runs.late.rms,
        period=runs.late.period * dt,
        recurrence=runs.late.recurrence,
        exponent=runs.late.exponent / dt,
        growth=runs.late.growth,
        at_root=jnp.asarray(at_root),
        root_residual=jnp.asarray(roots["residual"]),
        root_distance=jnp.asarray(roots["distance"]),
        root_radius=jnp.asarray(roots["radius"]),
        remaining=slow["remaining"],
        drift=slow["drift"],
        slow_speed=slow["speed"],
        slow_time=jnp.asarray(dt / leading[..., 0]),
        num_slow=jnp.asarray(np.argmax(gaps, axis=-1) + 1),
        slow_gap=jnp.asarray(np.max(gaps, axis=-1)),
        flow_finite=flow_runs.finite,
        flow_late_rms=flow_runs.rms,
        flow_period=flow_runs.period * dt,
        flow_recurrence=flow_runs.recurrence,
        flow_growth=flow_runs.growth,
        flow_root_rightmost=jnp.asarray(roots["rightmost"]),
    )


def _double(tree: Any) -> Any:
    """Every float array in float64."""
    cast = lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, tree)
