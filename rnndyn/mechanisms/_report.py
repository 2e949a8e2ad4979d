"""Everything rnndyn can say about one network, in one report."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._core._batch import to_double
from .._core._types import KeyLike
from .._core._verdicts import Verdict
from ..dynamics import Box, FixedPoints, MultiStart, certify, fixed_points, slow_points
from ..flows import iterate
from ..models import AbstractRNN, LowRankRNN
from ..tasks import AbstractTask
from ._classify import classify
from ._mechanism import MECHANISMS, Mechanism, MechanismReport, wilson
from ._run import LateRun, flow_map, settle


AMPLITUDES = (0.25, 0.5, 1.0, 2.0)
"""Amplitudes of the probe pulses, one unit time constant long."""


class Attractors(eqx.Module):
    """Where free runs end, one row an attractor.

    - `kind`: `"fixed_point"`, `"limit_cycle"` (of a map: an invariant circle or
      k-cycle), `"chaotic"`, `"diverged"` or `"undetermined"`.
    - `point`: row of the report's points it is, -1 if it is none of them.
    - `count`, `share`, `low`, `high`: runs that ended there, with a 95 % Wilson
      interval for the share of the starts used (not of state space).
    - `rms`, `period` (s), `exponent` (1/s): of the motion left.
    - `state` `(attractor, state)`: one state on it.
    """

    kind: tuple[str, ...] = eqx.field(static=True)
    point: np.ndarray
    count: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rms: np.ndarray
    period: np.ndarray
    exponent: np.ndarray
    state: np.ndarray


class Report(eqx.Module):
    """What one network does without input, with evidence. Host level, NumPy.

    - `model` (in float64), its `time_scale` and the step `dt` (seconds).
    - `points`, `slow`: certified fixed points of the flow, and non-zero minima of the
      speed; `readout` `(point, output)`: the output there.
    - `map_radius` `(point,)`: largest multiplier modulus in the Euler map (NaN
      without `dt`): the map is stable where it is below 1, whatever the flow is.
    - `latent` `(point, rank)`: latent coordinates of low-rank networks, else `None`;
      `latent_roots`: the roots of the exact latent search, `latent_mismatch`: largest
      distance between these and the full-space roots (infinite if one is missing).
    - `attractors`: of the flow; `map_attractors`: of the Euler map, if `dt` is known.
    - `pulses`: responses to short inputs, see `Pulses`.
    - `mechanism`, `evidence`: the label, and the sentences that justify it.
    - `task_report`: the labels per cue, if a task was given.
    """

    model: AbstractRNN
    time_scale: float
    dt: float | None
    points: np.ndarray
    residual: np.ndarray
    eigenvalues: np.ndarray
    stability: np.ndarray
    condition: np.ndarray
    map_radius: np.ndarray
    readout: np.ndarray
    latent: np.ndarray | None
    latent_roots: np.ndarray | None
    latent_mismatch: float
    slow: np.ndarray
    slow_speed: np.ndarray
    attractors: Attractors
    map_attractors: Attractors | None
    pulses: "Pulses | None"
    mechanism: str = eqx.field(static=True)
    evidence: tuple[str, ...] = eqx.field(static=True)
    task_report: MechanismReport | None

    def to_dict(self) -> dict[str, Any]:
        """Numbers and names by dotted name, arrays as NumPy."""
        out: dict[str, Any] = {"mechanism": self.mechanism, "evidence": self.evidence}
        skip = {"model", "mechanism", "evidence", "task_report"}
        for name, value in vars(self).items():
            if name in skip or value is None:
                continue
            if isinstance(value, Attractors | Pulses):
                out |= {f"{name}.{k}": v for k, v in vars(value).items()}
            else:
                out[name] = value
        if self.task_report is not None:
            out |= {f"task.{k}": v for k, v in self.task_report.to_dict().items()}
        return out

    def to_xarray(self) -> Any:
        """The points as an `xarray.Dataset` (needs the extra `rnndyn[data]`)."""
        import xarray

        data = {
            "x": (("point", "unit"), self.points),
            "residual": (("point",), self.residual),
            "eigenvalues": (("point", "mode"), self.eigenvalues),
            "stability": (("point",), self.stability),
            "condition": (("point",), self.condition),
            "map_radius": (("point",), self.map_radius),
            "readout": (("point", "output"), self.readout),
        }
        if self.latent is not None:
            data["latent"] = (("point", "rank"), self.latent)
        return xarray.Dataset(data, attrs={"mechanism": self.mechanism})

    def plot(self) -> Any:
        """The report as a figure (needs the extra `rnndyn[plot]`); see
        `rnndyn.plots.report`."""
        import importlib

        return importlib.import_module("rnndyn.plots").report(self)


class Pulses(eqx.Module):
    """Memory of a short input pulse: what is left of its amplitude, and for how long.

    - `amplitude` `(pulse,)`, `channel` `(pulse,)`.
    - `early`, `late` `(pulse, coordinate)`: response 20 and 120 time constants after
      the pulse: latent variables of low-rank networks, else outputs, else the state.
    - `graded`: spread over amplitudes that is left early, as a share of the early
      response; `left`: the same late. Medians over channels that respond.
    """

    amplitude: np.ndarray
    channel: np.ndarray
    early: np.ndarray
    late: np.ndarray
    graded: float
    left: float


def analyse(
    model: AbstractRNN,
    task: AbstractTask | None = None,
    *,
    dt: float | None = None,
    starts: int = 48,
    key: KeyLike,
) -> Report:
    """Find what a network could hold a memory with: points, attractors, mechanism.

    Everything is computed at zero input in float64. The search for fixed points
    starts from random states, from states along the responses to input pulses, and
    (low rank) from random states in the column space of `m`; low-rank networks
    without a random part are also searched exhaustively in their latent space, and
    the two answers compared.

    **Arguments:**

    - `model`: any network.
    - `task`: if given, the network is also labelled cue by cue (`classify`).
    - `dt`: step of the Euler map it was trained as (seconds), if it was; the task's
        by default.
    - `starts`: random starts of each kind.
    - `key`: PRNG key.

    **Returns:** a `Report`. Not guaranteed: that a full-rank search has found every
    root; the README says how to search harder.

    !!! example

        ```python
        model = rd.load_network("network.npz")
        report = rd.analyse(model, key=jax.random.key(0))
        print(report.mechanism, *report.evidence, sep="\\n")
        ```
    """
    if task is not None and dt is None:
        dt = task.dt
    keys = jr.split(key, 4)
    data = [np.asarray(jr.key_data(k)) for k in keys]
    with jax.enable_x64(True):
        k_random, k_plane, k_search, _ = (
            jr.wrap_key_data(jnp.asarray(d)) for d in data
        )
        model = to_double(model)
        unit = float(model.time_scale)
        pulses, path = _pulses(model, unit)
        random = jr.normal(k_random, (starts, model.state_size))
        x0s = [random * jnp.linspace(0.1, 3.0, starts)[:, None], path]
        if isinstance(model, LowRankRNN):
            size = jr.uniform(k_plane, (starts, model.rank), minval=-1.5, maxval=1.5)
            x0s.append(size @ model.m.T)
        x0s = jnp.concatenate(x0s)
        strategy = MultiStart(num_large=0, rounds=1, per_round=16)
        found = slow_points(model, x0s, None, strategy=strategy, key=k_search)
        found = certify(found)
        points, slow = (
            _rows(found, Verdict.root, Verdict.continuum),
            _rows(found, Verdict.slow_point, Verdict.ghost),
        )
        latent_roots, mismatch = _latent(model, points["x"])
        flow = flow_map(model, unit / 10)
        x, stable = points["x"], points["stability"] == -1
        attractors = _attractors(model, flow, unit / 10, unit, x0s, x, stable)
        map_attractors, radius = None, np.full(len(points["x"]), np.nan)
        if dt is not None:
            system = model.map(dt)
            radius = np.max(np.abs(1 + dt * points["eigenvalues"]), axis=-1)
            map_attractors = _attractors(model, system, dt, unit, x0s, x, radius < 1)
        x = jnp.asarray(x)
        readout = np.asarray(jax.vmap(model.readout)(x))
        latent = None
        if isinstance(model, LowRankRNN):
            latent = np.asarray(jax.vmap(model.latent)(x))
    task_report = None
    if task is not None:
        one = jax.tree.map(lambda a: a[None] if eqx.is_array(a) else a, model)
        task_report = classify(one, task, dt=dt, key=keys[3])
    name, evidence = _decide(unit, points, attractors, pulses, latent_roots, mismatch)
    if task_report is not None:
        name = task_report.names[0]
        evidence = [*task_report.evidence(0), *evidence]
    return Report(
        model=model,
        time_scale=unit,
        dt=dt,
        points=points["x"],
        residual=points["speed"],
        eigenvalues=points["eigenvalues"],
        stability=points["stability"],
        condition=points["condition"],
        map_radius=radius,
        readout=readout,
        latent=latent,
        latent_roots=latent_roots,
        latent_mismatch=mismatch,
        slow=slow["x"],
        slow_speed=slow["speed"],
        attractors=attractors,
        map_attractors=map_attractors,
        pulses=pulses,
        mechanism=name,
        evidence=tuple(evidence),
        task_report=task_report,
    )


def _rows(found: FixedPoints, *verdicts: Verdict) -> dict[str, np.ndarray]:
    chosen = np.isin(np.asarray(found.verdict), verdicts) & np.asarray(found.mask)
    fields = ("x", "speed", "eigenvalues", "stability", "condition")
    return {k: np.asarray(getattr(found, k))[chosen] for k in fields}


def _latent(model, points) -> tuple[np.ndarray | None, float]:
    """Roots of the exact latent dynamics, and how far the full-space ones are off."""
    if not isinstance(model, LowRankRNN) or model.W_fixed is not None:
        return None, float("nan")
    if jnp.ndim(model.tau) > 0:
        return None, float("nan")
    field = model.reduce()
    box = Box(-field.bound(), field.bound(), 256)
    kappa = fixed_points(field, box).roots()
    lifted = np.asarray(jax.vmap(field.lift)(jnp.asarray(kappa)))
    if len(kappa) != len(points):
        return kappa, float("inf")
    distance = np.linalg.norm(lifted[:, None] - points[None], axis=-1)
    return kappa, float(max(distance.min(0).max(), distance.min(1).max()))


def _pulses(model, unit) -> tuple[Pulses | None, Float[Array, "starts state"]]:
    """Responses to pulses on every channel, and states along them."""
    if model.input_size == 0:
        return None, jnp.zeros((1, model.state_size), model.x0.dtype)
    channels = np.repeat(np.arange(model.input_size), len(AMPLITUDES))
    amplitude = np.tile(AMPLITUDES, model.input_size)
    steps = 10
    system = flow_map(model, unit / steps)
    on = jnp.asarray(np.eye(model.input_size)[channels] * amplitude[:, None])

    def respond(u):
        inputs = jnp.zeros((121 * steps, model.input_size)).at[:steps].set(u[None])
        return iterate(system, model.initial_state(), 121 * steps, inputs)

    states = eqx.filter_jit(jax.vmap(respond))(on)
    see = model.readout if model.output_size else lambda x: x
    if isinstance(model, LowRankRNN):
        see = model.latent
    early, late = states[:, 21 * steps - 1], states[:, -1]
    early, late = (np.asarray(jax.vmap(see)(s)) for s in (early, late))

    def spread(response):
        # Per channel: range over amplitudes of the coordinate that responds most.
        response = response.reshape(model.input_size, len(AMPLITUDES), -1)
        size = np.abs(response).max(axis=1)
        ranges = np.ptp(response, axis=1)
        best = size.argmax(axis=1)[:, None]
        pick = lambda a: np.take_along_axis(a, best, 1)[:, 0]
        size, ranges = pick(size), pick(ranges)
        heard = size > 1e-3 * max(size.max(), 1e-12)
        if not heard.any():
            return 0.0
        return float(np.median(ranges[heard] / size[heard]))

    path = states[:, steps - 1 :: 20 * steps].reshape(-1, model.state_size)
    pulses = Pulses(amplitude, channels, early, late, spread(early), spread(late))
    return pulses, path[:: max(1, len(path) // 48)]


@eqx.filter_jit
def _settle_all(system, x0s, u, transient, window):
    run = lambda x: settle(system, x, u, transient=transient, window=window)
    return jax.lax.map(run, x0s, batch_size=16)


def _attractors(model, system, dt, unit, x0s, points, stable) -> Attractors:
    """Free runs of 500 time constants from a sample of the starts, grouped. Cycles
    longer than 80 time constants are not recognised."""
    x0s = x0s[jnp.all(jnp.isfinite(x0s), axis=1)]
    x0s = x0s[:: max(1, len(x0s) // 48)]
    # A start on an unstable root would stay there for ever.
    x0s = x0s + 1e-3 * jr.normal(jr.key(0), x0s.shape, x0s.dtype)
    per_unit = max(1, round(unit / dt))
    u = jnp.zeros(model.input_size, x0s.dtype)
    late = _settle_all(system, x0s, u, 340 * per_unit, 160 * per_unit)
    late = jax.tree.map(np.asarray, late)
    final = np.where(late.finite[:, None], late.final, 0)
    size = np.maximum(1, np.linalg.norm(final, axis=1))
    distance = np.full((len(final), 1), np.inf)
    if len(points):
        distance = np.linalg.norm(final[:, None] - points[None], axis=-1)
    nearest = distance.argmin(axis=1)
    rms_tol = 1e-3 * size / final.shape[1] ** 0.5
    at_point = late.finite & (distance.min(axis=1) < 1e-3 * size) & (late.rms < rms_tol)
    at_point &= np.append(stable, False)[nearest]
    moving = late.finite & ~at_point & (late.rms > rms_tol)
    bounded = (late.trend > 0.5) & (late.trend < 2)
    steady = np.abs(late.trend - 1) < 0.03
    chaotic = moving & bounded & (late.growth_low > 10)
    cycle = moving & steady & (late.growth < 5) & (late.recurrence > 0.98)
    kinds = np.select(
        [~late.finite, at_point, chaotic, cycle],
        ["diverged", "fixed_point", "chaotic", "limit_cycle"],
        "undetermined",
    )
    groups = _group(kinds, nearest, late, dt)
    return _collect(groups, kinds, nearest, late, dt)


def _group(kinds, nearest, late: LateRun, dt) -> list[np.ndarray]:
    """Runs that ended in the same attractor: the same point, or cycles of the same
    period and size; every other kind is one group."""
    groups: dict[Any, list[int]] = {}
    cycles: list[tuple[float, float]] = []
    for i, kind in enumerate(kinds):
        tag: Any = (kind,)
        if kind == "fixed_point":
            tag = (kind, int(nearest[i]))
        elif kind == "limit_cycle":
            mine = (float(late.period[i] * dt), float(late.rms[i]))
            same = [np.allclose(mine, c, rtol=0.02) for c in cycles]
            if not any(same):
                cycles.append(mine)
                same.append(True)
            tag = (kind, same.index(True))
        groups.setdefault(tag, []).append(i)
    return [np.asarray(g) for g in sorted(groups.values(), key=len, reverse=True)]


def _collect(groups, kinds, nearest, late: LateRun, dt) -> Attractors:
    first = np.asarray([g[0] for g in groups])
    count = np.asarray([len(g) for g in groups])
    total = int(count.sum())
    intervals = np.asarray([wilson(int(k), total) for k in count])
    is_point = kinds[first] == "fixed_point"
    return Attractors(
        kind=tuple(str(k) for k in kinds[first]),
        point=np.where(is_point, nearest[first], -1),
        count=count,
        share=intervals[:, 0],
        low=intervals[:, 1],
        high=intervals[:, 2],
        rms=np.asarray(late.rms)[first],
        period=late.period[first] * dt,
        exponent=late.exponent[first] / dt,
        state=np.asarray(late.final)[first],
    )


def _decide(unit, points, attractors, pulses, latent_roots, mismatch):
    """The label of a network without a task, and what speaks for it."""
    evidence = []
    stable = int(np.sum(points["stability"] == -1))
    evidence.append(
        f"{len(points['x'])} certified fixed points, {stable} stable, largest residual "
        f"{points['speed'].max(initial=0):.1e}"
    )
    if latent_roots is not None:
        evidence.append(
            f"exact latent search: {len(latent_roots)} fixed points, largest distance "
            f"from the full-space ones {mismatch:.1e}"
        )
    ends = [k for k in attractors.kind]
    runs = int(attractors.count.sum())
    evidence.append(
        f"{runs} free runs end in "
        + ", ".join(f"{ends.count(k)} {k}(s)" for k in dict.fromkeys(ends))
    )
    slow = _slowness(points, unit)
    if slow is not None:
        leading, gap = slow
        evidence.append(
            f"slowest direction of each point: |eigenvalue| up to {leading:.3f}/tau, "
            f"the next one at least {gap:.1f} times as fast"
        )
    graded = (
        pulses is not None and pulses.graded > 0.1 and pulses.left < pulses.graded / 2
    )
    if pulses is not None:
        evidence.append(
            f"pulses of amplitude {AMPLITUDES[0]} to {AMPLITUDES[-1]}: responses "
            f"differ by {100 * pulses.graded:.0f} % after 20 tau, "
            f"{100 * pulses.left:.0f} % after 120 tau"
        )
    is_slow = slow is not None and slow[0] < 0.1 and slow[1] >= 5
    if is_slow and graded:
        evidence.append(
            "slow manifold: one slow direction at every point, graded while the "
            f"memory is needed, {ends.count('fixed_point')} attractors in the end"
        )
    if "undetermined" in ends or "diverged" in ends:
        label = Mechanism.undetermined
    elif "chaotic" in ends:
        label = Mechanism.chaotic
    elif "limit_cycle" in ends:
        only = all(k == "limit_cycle" for k in ends)
        label = Mechanism.limit_cycle if only else Mechanism.mixed
    elif is_slow and graded:
        label = Mechanism.slow_manifold
    elif ends.count("fixed_point") >= 2:
        label = Mechanism.fixed_points
    else:
        label = Mechanism.undetermined
        evidence.append("a single resting state: nothing that could hold a memory")
    return MECHANISMS[label], evidence


def _slowness(points, unit) -> tuple[float, float] | None:
    """Largest leading |eigenvalue| over the points, in 1/tau, and smallest ratio of
    the next one to it."""
    if len(points["x"]) == 0 or points["eigenvalues"].shape[1] < 2:
        return None
    size = np.sort(np.abs(points["eigenvalues"]) * unit, axis=1)
    return float(size[:, 0].max()), float((size[:, 1] / size[:, 0]).min())
