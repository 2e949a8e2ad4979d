"""Running networks freely after their memory period, one compiled program for all."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from .._core._system import Map
from ..flows import RK4, ScanFlow
from ..models import AbstractRNN
from ..tasks import AbstractTask


class LateRun(eqx.Module):
    """Where a long run at constant input ends up.

    - `rms`: root mean square over units and time of the deviation from the time
      average in the late window (state units).
    - `period`: in steps, by autocorrelation of the late window, 0 if there is none;
      `recurrence`: the autocorrelation at that lag, 1 for a closed orbit.
    - `exponent`: leading Lyapunov exponent in the late window, per step; `growth`:
      the same times the number of steps of the window.
    - `final`: the last state; `finite`: the window holds finite numbers only.
    """

    rms: Float[Array, "*batch"]
    period: Float[Array, "*batch"]
    recurrence: Float[Array, "*batch"]
    exponent: Float[Array, "*batch"]
    growth: Float[Array, "*batch"]
    final: Float[Array, "*batch state"]
    finite: Bool[Array, "*batch"]


class FreeRun(eqx.Module):
    """What one network does after one cue, left alone from the end of the delay.

    - `held` `(time, state)`: states of the trial up to the end of the delay, padded
      with free states after it; `memory_end`: index of the last state of the delay.
    - `late`: where it ends up.
    """

    held: Float[Array, "*batch time state"]
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
    """
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
    """
    x = jax.lax.fori_loop(0, transient, lambda _, x: system(x, u), x)

    def step(carry, _):
        x, v, log_growth = carry
        x, v = jax.jvp(lambda x: system(x, u), (x,), (v,))
        size = jnp.linalg.norm(v)
        size = jnp.where(size > 0, size, 1)
        return (x, v / size, log_growth + jnp.log(size)), x

    v = jnp.cos(1.0 + jnp.arange(x.size, dtype=x.dtype))
    start = (x, v / jnp.linalg.norm(v), jnp.zeros((), x.dtype))
    (x, _, growth), states = jax.lax.scan(step, start, None, length=window)
    centred = states - jnp.mean(states, axis=0, keepdims=True)
    finite = jnp.all(jnp.isfinite(states))
    rms = jnp.sqrt(jnp.mean(centred**2))
    # Rounding noise at rest has autocorrelations too, but no period.
    moving = rms > 1e-9 * jnp.maximum(1, jnp.max(jnp.abs(x)))
    period, recurrence = _period(jnp.where(finite & moving, centred, 0))
    return LateRun(
        rms=rms,
        period=period,
        recurrence=recurrence,
        exponent=growth / window,
        growth=growth,
        final=x,
        finite=finite,
    )


def _period(
    centred: Float[Array, "time state"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Lag and height of the first autocorrelation peak that is nearly the highest."""
    n, fine = centred.shape[0], 4
    spectrum = jnp.sum(jnp.abs(jnp.fft.rfft(centred, n=2 * n, axis=0)) ** 2, axis=1)
    # Band-limited interpolation: a period between two steps must not look imperfect.
    spectrum = jnp.pad(spectrum, (0, (fine - 1) * n))
    raw = fine * jnp.fft.irfft(spectrum)[: fine * n // 2]
    lags = jnp.arange(raw.size) / fine
    power = jnp.where(raw[0] > 0, raw[0] / n, 1)
    correlation = raw / (n - lags) / power
    # A return needs a departure: lags before the first negative value do not count.
    left = jnp.cumsum(correlation < 0) > 0
    rises = correlation > jnp.roll(correlation, 1)
    falls = correlation >= jnp.roll(correlation, -1)
    peak = left & rises & falls & (jnp.arange(raw.size) < raw.size - 1)
    height = jnp.where(peak, correlation, -jnp.inf)
    best = jnp.max(height)
    first = jnp.argmax(height >= best - 0.02 * jnp.abs(best))
    found = jnp.any(peak)
    return jnp.where(found, lags[first], 0), jnp.where(found, correlation[first], 0)


def flow_map(model: AbstractRNN, dt: float | Float[Array, ""]) -> Map:
    """The time-`dt` map of the network's flow, by two RK4 steps of `dt/2`: what the
    continuous-time network does, sampled where its Euler map lives."""
    flow = ScanFlow(num_steps=2, method=RK4())
    return Map(_FlowStep(model, flow, jnp.asarray(dt)), dt=dt)


class _FlowStep(eqx.Module):
    model: AbstractRNN
    flow: ScanFlow
    dt: Array

    def __call__(self, x, args=None):
        return self.flow(self.model, x, 0.0, self.dt, args)
