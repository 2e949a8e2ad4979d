"""Everything rnndyn can say about one network, in one report."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._core._batch import to_double
from .._core._checks import check_counts, check_key, check_step_ratio
from .._core._export import xarray_module
from .._core._types import KeyLike
from .._core._verdicts import Verdict
from ..dynamics import (
    Attractors,
    Box,
    FixedPoints,
    MultiStart,
    certify,
    fixed_points,
    slow_points,
)
from ..models import AbstractRNN, LowRankRNN
from ..models._base import check_single
from ..tasks import AbstractTask
from ._classify import classify
from ._free_runs import (
    AMPLITUDES,
    Pulses,
    arriving,
    creeping,
    ends_in_words,
    free_runs,
    kinds_of,
    probe,
    slow_directions,
    ways,
    with_ends,
)
from ._mechanism import MECHANISMS, Mechanism, MechanismReport
from ._run import check_memory, step_of


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
    - `attractors`: of the flow (seconds); `map_attractors`: of the Euler map (steps),
      if `dt` is known.
    - `pulses`: responses to short inputs, see `Pulses`.
    - `mechanism`, `evidence`: the label, and the sentences that justify it. With `dt`
      the label is that of the Euler map, without it of the flow.
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
    pulses: Pulses | None
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
            if isinstance(value, Attractors):
                out |= {f"{name}.{k}": v for k, v in value.to_dict().items()}
            elif isinstance(value, Pulses):
                out |= {f"{name}.{k}": v for k, v in vars(value).items()}
            else:
                out[name] = value
        if self.task_report is not None:
            out |= {f"task.{k}": v for k, v in self.task_report.to_dict().items()}
        return out

    def point_of(self, ends: Attractors) -> np.ndarray:
        """Row of `points` that each attractor is, -1 if it is none of them."""
        rows = np.full(len(ends.state), -1)
        for i in np.flatnonzero(ends.verdict == Verdict.root):
            distance = np.linalg.norm(self.points - ends.state[i], axis=1)
            size = max(1.0, float(np.linalg.norm(ends.state[i])))
            if len(distance) and distance.min() < 1e-6 * size:
                rows[i] = distance.argmin()
        return rows

    def to_xarray(self) -> Any:
        """The points as an `xarray.Dataset` (needs the extra `rnndyn[data]`)."""
        xarray = xarray_module()
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


def analyse(
    model: Any,
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
    without a random part are also searched in their latent space (in a box that holds
    all roots if the activation is bounded), and the two answers compared. The label
    says what kind of attractors the network has (`mixed`: of several kinds); which of
    them holds which cue of a task only `classify` can say.

    **Arguments:**

    - `model`: any network (`AbstractRNN`).
    - `task`: if given, the network is also labelled cue by cue (`classify` with its
        defaults: a network that is read after the update is tried otherwise than it was
        trained; label it with `classify(readout="after", spread=...)`).
    - `dt`: step of the Euler map it was trained as (seconds), if it was; the task's
        by default.
    - `starts`: random starts of each kind.
    - `key`: PRNG key.

    **Returns:** a `Report`. Not guaranteed: that a full-rank search found every root.

    **Raises:** a `ValueError` for an ensemble, a task that does not fit, `starts` below
    1 or `dt/tau` outside (0, 1].

    !!! example

        ```python
        model = rd.load_network("network.npz")
        report = rd.analyse(model, key=jax.random.key(0))
        print(report.mechanism, *report.evidence, sep="\\n")
        ```
    """
    if not isinstance(model, AbstractRNN):
        raise ValueError(
            f"`model` is a {type(model).__name__}, expected a network: see "
            "rnndyn.load_network and rnndyn.models.RateRNN.from_arrays. For any other "
            "flow or map use fixed_points and attractors of rnndyn.dynamics."
        )
    # All this before the long search, not after it.
    check_single(model)
    check_counts(starts=starts)
    if task is not None:
        check_memory(model, task)
        dt = step_of(task, dt)
    if dt is not None:
        check_step_ratio(dt, model.tau)
    check_key(key)
    keys = jr.split(key, 4)
    data = [np.asarray(jr.key_data(k)) for k in keys]
    with jax.enable_x64(True):
        k_random, k_plane, k_search, _ = (
            jr.wrap_key_data(jnp.asarray(d)) for d in data
        )
        model = to_double(model)
        unit = float(model.time_scale)
        pulses, path = probe(model, unit)
        random = jr.normal(k_random, (starts, model.state_size))
        x0s = [random * jnp.linspace(0.1, 3.0, starts)[:, None], path]
        if isinstance(model, LowRankRNN):
            size = jr.uniform(k_plane, (starts, model.rank), minval=-1.5, maxval=1.5)
            x0s.append(size @ model.m.T)
        x0s = jnp.concatenate(x0s)
        found_ends, map_attractors = free_runs(model, x0s, model), None
        if dt is not None:
            map_attractors = free_runs(model.map(dt), x0s, model)
        strategy = MultiStart(num_large=0, rounds=1, per_round=16)
        starts_ = with_ends(x0s, found_ends, map_attractors)
        found = slow_points(model, starts_, None, strategy=strategy, key=k_search)
        found = certify(found)
        points, slow = (
            _rows(found, Verdict.root, Verdict.continuum),
            _rows(found, Verdict.slow_point, Verdict.ghost),
        )
        latent_roots, mismatch = _latent(model, points)
        radius = np.full(len(points["x"]), np.nan)
        if dt is not None:
            radius = np.max(np.abs(1 + dt * points["eigenvalues"]), axis=-1)
        x = jnp.asarray(points["x"])
        readout = np.asarray(jax.vmap(model.readout)(x))
        latent = None
        if isinstance(model, LowRankRNN):
            latent = np.asarray(jax.vmap(model.latent)(x))
    task_report = None
    if task is not None:
        one = jax.tree.map(lambda a: a[None] if eqx.is_array(a) else a, model)
        task_report = classify(one, task, dt=dt, key=keys[3])
    # Points of a continuum are stable across it only, and no run ends at one of them.
    alone = points["dimension"] == 0
    stable = alone & (points["stability"] == -1)
    goals = [arriving(found_ends, points["x"], stable)]
    of_label, step = found_ends, 1.0
    if dt is not None and map_attractors is not None:
        of_label, step = map_attractors, dt
        stable = alone & (points["stability"] != 0) & (radius < 1)
        goals.append(arriving(map_attractors, points["x"], stable))
    creep = creeping(model, of_label, goals[-1], step, np.asarray(x0s))
    name, evidence = _decide(
        unit, points, len(slow["x"]), found_ends, map_attractors, goals, radius, pulses,
        latent_roots, mismatch, creep,
    )  # fmt: skip
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
        attractors=found_ends,
        map_attractors=map_attractors,
        pulses=pulses,
        mechanism=name,
        evidence=tuple(evidence),
        task_report=task_report,
    )


def _rows(found: FixedPoints, *verdicts: Verdict) -> dict[str, np.ndarray]:
    chosen = np.isin(np.asarray(found.verdict), verdicts) & np.asarray(found.mask)
    fields = ("x", "speed", "eigenvalues", "stability", "condition", "dimension")
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
    if np.any(points["dimension"] > 0):  # two samples of a continuum
        return kappa, float("nan")
    if len(kappa) != len(points["x"]):
        return kappa, float("inf")
    distance = np.linalg.norm(lifted[:, None] - points["x"][None], axis=-1)
    return kappa, float(max(distance.min(0).max(), distance.min(1).max()))


def _decide(
    unit, points, num_slow, flow_ends, map_ends, goals, radius, pulses, latent_roots,
    mismatch, creep,
):  # fmt: skip
    """The label of a network without a task, and what speaks for it."""
    evidence = []
    alone = points["dimension"] == 0
    stable = int(np.sum(points["stability"][alone] == -1))
    # At a kink, or on the edge, eigenvalues decide nothing about the map either.
    of_map = (radius[alone] < 1) & (points["stability"][alone] != 0)
    of_map = "" if map_ends is None else f", {int(np.sum(of_map))} in the Euler map"
    evidence.append(
        f"{int(np.sum(alone))} certified fixed points, {stable} stable in the flow"
        f"{of_map}, largest residual {points['speed'].max(initial=0):.1e}"
    )
    if not np.all(alone):
        evidence.append(
            f"a continuum of fixed points of dimension {points['dimension'].max()}, "
            f"certified at {int(np.sum(~alone))} points"
        )
    if latent_roots is not None and np.all(alone):
        evidence.append(
            f"exact latent search: {len(latent_roots)} fixed points, largest distance "
            f"from the full-space ones {mismatch:.1e}"
        )
    ends, lost, words = ends_in_words(flow_ends, goals[0], points["x"])
    evidence.append(f"{len(flow_ends.label)} free runs of the flow end in {words}")
    if map_ends is not None:
        of_flow = kinds_of(ends)
        # The network was trained as a map: what that does is what it does.
        ends, lost, words = ends_in_words(map_ends, goals[1], points["x"])
        evidence.append(
            f"{len(map_ends.label)} free runs of the Euler map end in {words}"
        )
        if ends and of_flow and kinds_of(ends) != of_flow:
            evidence.append("flow and map differ in kind: the label is the map's")
    # What repels fast lies off a manifold that holds a memory.
    held = alone & ~np.any(unit * points["eigenvalues"].real > 0.1, axis=1)
    count, leading, gap = slow_directions(points["eigenvalues"][held], unit)
    if count:
        which = "direction" if count == 1 else f"{count} directions"
        rest = f", the next one at least {gap:.1f} times as fast"
        evidence.append(
            f"slowest {which} of each point that does not repel fast (flow): "
            f"|eigenvalue| up to {leading:.3f}/tau{rest if gap < 1e9 else ''}"
        )
    single = ends == ["root"]
    # Where only one state is left in the end, nothing graded lasts for ever.
    graded = pulses is not None and pulses.graded > 0.1
    if pulses is not None and not single:
        graded = graded and pulses.left < pulses.graded / 2
    if pulses is not None and not pulses.left < 10:  # nor NaN
        evidence.append("responses to pulses grow without bound (flow)")
    elif pulses is not None:
        # Responses of opposite sign are further apart than either is large.
        early, late = (min(s, 1.0) for s in (pulses.graded, pulses.left))
        evidence.append(
            f"amplitude of pulses ({AMPLITUDES[0]} to {AMPLITUDES[-1]}, flow): "
            f"{100 * early:.0f} % of the response tells it after 20 tau, "
            f"{100 * late:.0f} % after 120 tau"
        )
    is_slow = count > 0 and leading < 0.1 and gap >= 5
    ghost = single and num_slow > 0
    if (is_slow or ghost) and graded and not lost:
        where = f"{ways(count)} at every point that does not repel fast"
        where = where if is_slow else f"{num_slow} slow points that are no roots"
        evidence.append(
            f"slow manifold: {where}, graded while the memory is needed, "
            f"{ends.count('root')} fixed points in the end"
        )
    kinds = kinds_of(ends)
    if creep is not None:
        evidence.append(creep)
    if creep is not None and kinds <= {"root", "continuum"}:
        label = Mechanism.slow_manifold
    elif lost:
        gone = not ends and set(lost) == {"diverged"}
        label = Mechanism.diverged if gone else Mechanism.undetermined
    elif kinds == {"cycle"}:
        label = Mechanism.limit_cycle
        if len(ends) == 1:
            evidence.append("a single cycle: only its phase could hold a memory")
    elif kinds == {"chaotic"}:
        label = Mechanism.chaotic
    elif kinds == {"torus"}:
        label = Mechanism.undetermined
        evidence.append("motion of several frequencies: none of the named mechanisms")
    elif kinds & {"cycle", "chaotic", "torus"}:
        label = Mechanism.mixed
    elif (is_slow or ghost) and graded:
        label = Mechanism.slow_manifold
    elif "continuum" in ends:
        label = Mechanism.slow_manifold
        evidence.append("a continuous attractor: a slow manifold without any drift")
    elif ends.count("root") >= 2:
        label = Mechanism.fixed_points
    else:
        label = Mechanism.undetermined
        told = "nothing that could hold a memory"
        if graded:
            told = "it is reached slowly, but no slow manifold stands out"
        evidence.append(f"a single resting state: {told}")
    return MECHANISMS[label], evidence
