"""Low-rank networks as maps of their latent variables, and where these maps end."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core._batch import take
from .._core._system import Map
from .._core._verdicts import Verdict
from ..dynamics import invariant_circle, settle, verdict_of
from ..dynamics.long_run._late_verdict import UNDECIDED
from ..models import LowRankRNN


class LatentEuler(eqx.Module):
    """The Euler map of latent variables, `kappa -> kappa + dt f(kappa)`, which is the
    trained network seen through `n`."""

    field: Any
    dt: Float[Array | np.ndarray, ""]

    def __call__(self, x, args=None):
        return x + self.dt * self.field(0.0, x)


def latent_map(model: LowRankRNN, dt: Any) -> Map:
    """The map of the latent variables of a network in rate form without input,

        kappa_(t+1) = (1 - a) kappa_t + a s n^T phi(m kappa_t + b),    a = dt / tau.

    Exact for every trajectory of the Euler map of the network, not only for its fixed
    points. Pure.

    ```python
    system = latent_map(model, 5e-3)
    circle = rd.dynamics.invariant_circle(system, model.latent(model.x0))
    ```

    **Arguments:** a `LowRankRNN` in rate form with `input_size=0`; `dt`: step, seconds.

    **Returns:** a `Map` on `(rank,)`.

    **Raises:** a `ValueError` for a network that has no exact reduction.
    """
    if model.form != "rate":
        raise ValueError(
            f"the network has form = {model.form!r}, expected 'rate': only there "
            "latent trajectories from every start are exact."
        )
    dt = jnp.asarray(dt, model.m.dtype)
    return Map(LatentEuler(model.reduce(), dt), dt)


_CHUNK = 16
"""Networks in one call: the same programs serve every number of them."""


def in_chunks(fn, models, rows, start, *args):
    """Arrays of `fn(models, start, *args)` for some networks, repeated to fill up."""
    pieces = []
    for i in range(0, len(rows), _CHUNK):
        some = rows[i : i + _CHUNK]
        full = np.resize(some, _CHUNK)
        out = fn(take(models, full), start[full], *args)
        pieces.append([np.asarray(a)[: len(some)] for a in out])
    return [np.concatenate(a) for a in zip(*pieces, strict=True)]


_SAMPLES = (2048, 16384)
"""States a circle is drawn through: close to a resonance few of them leave gaps."""


def latent_attractors(models, start, dt, steps, rounds):
    """Where map and flow end, what is open continued four times as long."""
    count = len(start)
    out = {
        "verdict": np.zeros(count, np.int64),
        "flow_verdict": np.zeros(count, np.int64),
        "period": np.full(count, np.nan),
        "residual": np.full(count, np.nan),
    }
    settlers = (("verdict", _settle_map), ("flow_verdict", _settle_flow))
    for name, settler in settlers:
        todo, at = np.arange(count), start.copy()
        for r in range(rounds):
            # The longer a dense orbit is followed, the closer it passes its start.
            length, closed = np.int32(steps * 4**r), np.float64(10.0**-r)
            found = in_chunks(settler, models, todo, at, dt, length, closed)
            code, final, period, speed = found
            out[name][todo] = code
            at[todo] = final
            if name == "verdict":
                out["residual"][todo] = speed
                out["period"][todo] = np.where(code == Verdict.k_cycle, period, np.nan)
            todo = todo[np.isin(code, UNDECIDED)]
            if not todo.size:
                break
    circles = np.flatnonzero(out["verdict"] == Verdict.invariant_circle)
    for samples in _SAMPLES:
        if not circles.size:
            break
        gap, period = in_chunks(_circles, models, circles, start, dt, samples)
        closed = gap <= 0.2
        out["period"][circles[closed]] = period[closed]
        circles = circles[~closed]
    # What no closed curve can be put through is no circle; it may be a weak k-cycle.
    out["verdict"][circles] = Verdict.undetermined
    if circles.size:
        length, closed = np.int32(steps * 4**3), np.float64(1e-3)
        found = in_chunks(_settle_map, models, circles, start, dt, length, closed)
        code, period = found[0], found[2]
        weak = code == Verdict.k_cycle
        out["verdict"][circles[weak]] = Verdict.k_cycle
        out["period"][circles[weak]] = period[weak]
    return out


@eqx.filter_jit
def _settle_map(models, start, dt, steps, closed):
    def one(model, kappa):
        system, lengths = latent_map(model, dt), dict(transient=steps, window=steps)
        run = settle(system, kappa, closed=1e-6 * closed, **lengths)
        return verdict_of(run), run.final, run.period, run.speed

    return eqx.filter_vmap(one)(models, start)


@eqx.filter_jit
def _settle_flow(models, start, dt, steps, closed):
    def one(model, kappa):
        field, step = model.reduce(), model.tau / 8
        run = settle(field, kappa, dt=step, transient=steps, window=steps)
        code = jnp.where(run.step_error > 1e-4, Verdict.undetermined, verdict_of(run))
        return code, run.final, run.period, run.speed

    return eqx.filter_vmap(one)(models, start)


@eqx.filter_jit
def _circles(models, start, dt, samples):
    def one(model, kappa):
        found = invariant_circle(latent_map(model, dt), kappa, samples=samples)
        turns = found.rotation / found.pieces
        period = jnp.where(turns > 0, 1 / jnp.where(turns > 0, turns, 1), jnp.nan)
        return found.gap, period

    return eqx.filter_vmap(one)(models, start)
