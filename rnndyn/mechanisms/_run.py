"""Running networks freely after their memory period, one compiled program for all."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._system import Map
from ..dynamics import jacobian
from ..dynamics.long_run._recurrence import orthonormal
from ..flows import RK4, ScanFlow
from ..models import AbstractRNN
from ..tasks import AbstractTask
from ..tasks._base import check_fit


_STILL = 8  # roundings by which a step moves what is at rest
_EVERY = 16  # steps, after which a run is asked whether it is


class LateRun(eqx.Module):
    """Where a long run at constant input ends up.

    - `rms`: root mean square over units and time of the deviation from the time
      average in the late window (state units); `peak`: the same over time, of the unit
      that moves most.
    - `period`: in steps, by autocorrelation of the late window, 0 if there is none;
      `recurrence`: the autocorrelation at that lag, 1 for a closed orbit.
    - `exponent`: leading Lyapunov exponent in the late window, per step; `growth`:
      the same times the number of steps of the window; `growth_low`: twice the smaller
      of the growths in its two halves; `growth_second`: of the second exponent, with
      a smooth weight over the window; minus infinity of one unit.
    - `trend`: largest distance from the time average in the second half of the window,
      over that in the first.
    - `final`: the last state; `finite`: the window holds finite numbers below 1e8 only.
    """

    rms: Float[Array, "*batch"]
    peak: Float[Array, "*batch"]
    period: Float[Array, "*batch"]
    recurrence: Float[Array, "*batch"]
    exponent: Float[Array, "*batch"]
    growth: Float[Array, "*batch"]
    growth_low: Float[Array, "*batch"]
    growth_second: Float[Array, "*batch"]
    trend: Float[Array, "*batch"]
    final: Float[Array, "*batch state"]
    finite: Bool[Array, "*batch"]


def check_memory(
    models: AbstractRNN, task: AbstractTask, *, outputs: bool = True
) -> None:
    """Raise a `ValueError` unless networks fit a task and it has a delay to remember
    over."""
    check_fit(models, task, outputs=outputs)
    if "delay" not in task.periods:
        raise ValueError(
            f"the task has the periods {task.periods}, expected a 'delay' among them: "
            "it is in the delay that a memory is held. Pass a task with one, such as "
            "rnndyn.tasks.DelayedCueDiscrimination."
        )


def step_of(task: AbstractTask, dt: float | None) -> float:
    """`dt`, or the step of the task; a `ValueError` if they are not the same."""
    dt = task.dt if dt is None else dt
    if abs(dt - task.dt) > 1e-6 * task.dt:
        raise ValueError(
            f"dt = {dt} s, but the steps of the task take {task.dt} s, expected the "
            f"same: its periods would last another time. Build the task with dt={dt}."
        )
    return dt


class FreeRun(eqx.Module):
    """What one network does after one cue, left alone from the end of the delay.

    - `held` `(time, state)`: states of the trial up to the end of the delay, padded
      with free states after it; `memory_begin`, `memory_end`: index of the first and
      the last state of the delay.
    - `late`: where it ends up.
    """

    held: Float[Array, "*batch time state"]
    memory_begin: Int[Array, "*batch"]
    memory_end: Int[Array, "*batch"]
    late: LateRun


def free_run(
    model: AbstractRNN,
    task: AbstractTask,
    condition: Int[Array, ""],
    *,
    system: Map,
    trials: int = 60,
    late: int = 20,
) -> FreeRun:
    """Show the cue of `condition`, then zero input until `trials` trial lengths.

    Noise-free, from `model.initial_state()`. The statistics are taken over the last
    `late` trial lengths.

    **Arguments:**

    - `system`: what is iterated, `model.map(dt)` or `flow_map(model, dt)`.

    **Raises:** a `ValueError` if the network has other inputs than the task, or the
    task no delay.
    """
    check_memory(model, task, outputs=False)
    delay = task.periods.index("delay")
    trial = task.trial(condition, key=jr.key(0))
    shown = (trial.period >= 0) & (trial.period <= delay)
    inputs = jnp.where(shown[:, None], trial.inputs, 0).astype(model.x0.dtype)
    length = task.num_steps

    def step(x, u):
        x = system(x, u)
        return x, x

    x, held = jax.lax.scan(step, model.initial_state(), inputs)
    late_run = settle(
        system,
        x,
        jnp.zeros(model.input_size, x.dtype),
        transient=(trials - late - 1) * length,
        window=late * length,
    )
    return FreeRun(
        held=held,
        memory_begin=jnp.sum((trial.period >= 0) & (trial.period < delay)),
        memory_end=jnp.sum(shown) - 1,
        late=eqx.tree_at(
            lambda r: r.finite, late_run, late_run.finite & jnp.all(jnp.isfinite(held))
        ),
    )


def settle(
    system: Map,
    x: Float[Array, " state"],
    u: Float[Array, " input"] | None,
    *,
    transient: int,
    window: int,
) -> LateRun:
    """Iterate a map at constant input and describe where it ends up.

    **Arguments:**

    - `system`: the map; `x`: the start; `u`: the input.
    - `transient`: steps to discard; `window`: steps over which statistics are taken.

    Steps that would move nothing are not made: a run that has come to rest at a stable
    root is described from there, with the Jacobian of that root. Has derivatives in
    forward mode only.
    """
    here = lambda x: system(x, u)
    x, rest, stretch = _transient(here, x, transient, window)
    return jax.lax.cond(
        rest,
        lambda x, stretch: _describe(jnp.broadcast_to(x, (window, x.size)), stretch),
        lambda x, _: _describe(*_window(here, x, window)),
        x,
        stretch,
    )


def _transient(here, x, transient, window):
    """The state after the transient, whether it is at rest there for good (no step
    moves it by more than rounding, and it is stable), and if so the stretch of tangent
    vectors over a window there."""

    def steps(carry):
        k, x, _ = carry
        x = jax.lax.fori_loop(1, _EVERY, lambda _, x: here(x), x)
        after = here(x)
        moved, size = jnp.max(jnp.abs(after - x)), jnp.max(jnp.abs(after))
        return k + _EVERY, after, moved <= _STILL * jnp.finfo(x.dtype).eps * size

    start = jnp.zeros((), jnp.int32), x, jnp.zeros((), bool)
    k, x, still = jax.lax.while_loop(
        lambda carry: (carry[0] + _EVERY <= transient) & ~carry[2], steps, start
    )
    unknown = jnp.full((window, min(2, x.size)), jnp.inf, x.dtype)
    stretch = jax.lax.cond(
        still, lambda x: _stretch_at_rest(here, x, window), lambda x: unknown, x
    )
    # In the later half: the vectors must have turned to what grows fastest.
    rest = jnp.sum(stretch[window // 2 :, 0]) < 0
    # An unstable root may yet be left.
    x = jax.lax.while_loop(
        lambda carry: (carry[0] < transient) & ~rest,
        lambda carry: (carry[0] + 1, here(carry[1])),
        (k, x),
    )[1]
    return x, rest, stretch


def _tangents(x):
    """Two vectors (one of one unit) that are special to nothing, orthonormal."""
    count = min(2, x.size)
    v = jnp.cos(1.0 + jnp.arange(count * x.size, dtype=x.dtype)).reshape(count, -1)
    return orthonormal(v, v)[0]


def _stretch_at_rest(here, x, window):
    """What `_window` finds where the Jacobian is the same all along."""
    matrix = jax.jacfwd(here)(x)
    push = lambda v, _: orthonormal(jnp.stack([matrix @ row for row in v]), v)
    return jax.lax.scan(push, _tangents(x), None, length=window)[1]


def _window(here, x, window):
    """States and logarithms of the stretch of tangent vectors in each step."""

    def step(carry, _):
        x, v = carry
        x, push = jax.linearize(here, x)
        # One product a vector: on a CPU faster than one of two columns.
        v, logs = orthonormal(jnp.stack([push(row) for row in v]), v)
        return (x, v), (x, logs)

    return jax.lax.scan(step, (x, _tangents(x)), None, length=window)[1]


def _describe(states, stretch) -> LateRun:
    """The numbers of a window, from its states `(time, state)` and the stretch."""
    window, x = states.shape[0], states[-1]
    centred = states - jnp.mean(states, axis=0, keepdims=True)
    half = window // 2
    # Largest distances, not root mean squares: halves need not hold whole periods.
    distance = jnp.linalg.norm(centred, axis=1)
    halves = [jnp.max(distance[:half]), jnp.max(distance[half:])]
    still = jnp.maximum(*halves) == 0
    growths = [jnp.sum(stretch[:half, 0]), jnp.sum(stretch[half:, 0])]
    growth = growths[0] + growths[1]
    # With a weight that vanishes at both ends: how quasi-periodic growth swings within
    # a turn averages out.
    place = (jnp.arange(window, dtype=x.dtype) + 0.5) / window
    weight = jnp.exp(-1 / (place * (1 - place)))
    second = jnp.asarray(-jnp.inf, x.dtype)
    if x.size > 1:
        second = window * (weight @ stretch[:, 1]) / jnp.sum(weight)
    finite = jnp.all(jnp.abs(states) < 1e8)  # false for NaN
    rms = jnp.sqrt(jnp.mean(centred**2))
    peak = jnp.sqrt(jnp.max(jnp.mean(centred**2, axis=0)))
    # Rounding noise at rest has autocorrelations too, but no period.
    moving = rms > 1e-9 * jnp.maximum(1, jnp.max(jnp.abs(x)))
    none = jnp.zeros((), x.dtype)
    period, recurrence = jax.lax.cond(
        finite & moving, _period, lambda _: (none, none), centred
    )
    return LateRun(
        rms=rms,
        peak=peak,
        period=period,
        recurrence=recurrence,
        exponent=growth / window,
        growth=growth,
        growth_low=2 * jnp.minimum(*growths),
        growth_second=second,
        trend=jnp.where(still, 1, halves[1] / jnp.where(halves[0] > 0, halves[0], 1)),
        final=x,
        finite=finite,
    )


def _period(
    centred: Float[Array, "time state"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Lag and height of the first autocorrelation peak that is nearly the highest."""
    n = centred.shape[0]
    spectrum = jnp.sum(jnp.abs(jnp.fft.rfft(centred, n=2 * n, axis=0)) ** 2, axis=1)
    raw = jnp.fft.irfft(spectrum)[: n // 2]
    lags = jnp.arange(raw.size)
    power = jnp.where(raw[0] > 0, raw[0] / n, 1)
    correlation = raw / (n - lags) / power
    # A parabola through three lags: a period between two steps is not imperfect.
    before, after = jnp.roll(correlation, 1), jnp.roll(correlation, -1)
    bend = before - 2 * correlation + after
    is_peak = (correlation >= before) & (correlation > after) & (bend < 0)
    shift = jnp.where(is_peak, 0.5 * (before - after) / jnp.where(is_peak, bend, 1), 0)
    top = jnp.minimum(correlation - 0.25 * (before - after) * shift, 1)
    # A return needs a departure: lags before the first negative value do not count.
    left = jnp.cumsum(correlation < 0) > 0
    peak = left & is_peak & (lags < raw.size - 1)
    height = jnp.where(peak, top, -jnp.inf)
    best = jnp.max(height)
    first = jnp.argmax(height >= best - 0.02 * jnp.abs(best))
    found = jnp.any(peak)
    return (
        jnp.where(found, lags[first] + shift[first], 0),
        jnp.where(found, top[first], 0),
    )


def flow_map(
    model: AbstractRNN, dt: float | Float[Array, ""], *, substeps: int | None = None
) -> Map:
    """The time-`dt` map of the network's flow, by RK4: what the continuous-time network
    does, sampled where its Euler map lives.

    `substeps` is the number of RK4 steps, see `flow_substeps`; found from the model
    itself if it is one concrete network.
    """
    if substeps is None:
        substeps = flow_substeps(model, dt)
    flow = ScanFlow(num_steps=substeps, method=RK4())
    return Map(_FlowStep(model, flow, jnp.asarray(dt)), dt=dt)


def flow_substeps(models: AbstractRNN, dt: Any) -> int:
    """RK4 steps in `dt` that resolve the fastest direction at rest (where saturating
    activations are steepest), of one network or of all of an ensemble: at least 2,
    steps of |J| h <= 1. Host level."""
    jacobians = np.asarray(_jacobian_at_rest(models))
    finite = np.all(np.isfinite(jacobians), axis=(-2, -1))
    stiffness = np.linalg.norm(jacobians[finite], 2, axis=(-2, -1)).max(initial=0.0)
    # Powers of two: few different programs.
    wanted = min(max(float(dt) * float(stiffness), 2.0), 1024.0)
    return int(2 ** np.ceil(np.log2(wanted)))


@eqx.filter_jit
def _jacobian_at_rest(models):
    at_rest = lambda model: jacobian(model, jnp.zeros_like(model.x0), None)
    return (eqx.filter_vmap(at_rest) if models.x0.ndim == 2 else at_rest)(models)


class _FlowStep(eqx.Module):
    model: AbstractRNN
    flow: ScanFlow
    dt: Array

    def __call__(self, x, args=None):
        return self.flow(self.model, x, 0.0, self.dt, args)
