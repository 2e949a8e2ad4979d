"""Free runs: what they still tell of an input pulse before them, and where they end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core._verdicts import Verdict
from ..dynamics import Attractors, attractors, jacobian
from ..dynamics.long_run._late_verdict import UNDECIDED
from ..flows import iterate
from ..models import AbstractRNN, LowRankRNN
from ._run import flow_map


AMPLITUDES = (0.25, 0.5, 1.0, 2.0)
"""Amplitudes of the probe pulses, one unit time constant long."""

_STEPS = 10  # a unit time constant
_ROUNDING = 1e-9
_FORGOTTEN = 1e-6


class Pulses(eqx.Module):
    """Memory of a short input pulse: what is left of its amplitude, and for how long.

    - `amplitude` `(pulse,)`, `channel` `(pulse,)`.
    - `early`, `late` `(pulse, coordinate)`: what is seen 20 and 120 time constants
      after the pulse: latent variables of low-rank networks, else outputs, else (or
      where the outputs are constant) the state.
    - `graded`: spread over amplitudes that is left early, as a share of the early
      response; `left`: the spread that is left late, as a share of the same: the
      largest in the 20 time constants from then on, whatever the phase of a response
      that swings. The response is what differs from a run without a pulse, so that it
      does not depend on a bias. Medians over channels that respond, 0 if none does.
    """

    amplitude: np.ndarray
    channel: np.ndarray
    early: np.ndarray
    late: np.ndarray
    graded: float
    left: float


def probe(
    model: AbstractRNN, unit: float
) -> tuple[Pulses | None, Float[Array, "starts state"]]:
    """Responses to pulses on every channel, and states along them."""
    if model.input_size == 0:
        return None, jnp.zeros((1, model.state_size), model.x0.dtype)
    channels = np.repeat(np.arange(model.input_size), len(AMPLITUDES))
    amplitude = np.tile(AMPLITUDES, model.input_size)
    system = flow_map(model, unit / _STEPS)
    on = jnp.asarray(np.eye(model.input_size)[channels] * amplitude[:, None])
    on = jnp.concatenate([on, jnp.zeros_like(on[:1])])  # the last run has no pulse

    def respond(u):
        inputs = jnp.zeros((141 * _STEPS, model.input_size)).at[:_STEPS].set(u[None])
        return iterate(system, model.initial_state(), 141 * _STEPS, inputs)

    # A row a time constant, counted from the end of the pulse.
    path = eqx.filter_jit(jax.vmap(respond))(on)[:, _STEPS - 1 :: _STEPS]
    seen = np.asarray(_seen(model, path))
    start, early, late = seen[:, :1], seen[:, 20:40], seen[:, 120:140]
    graded, left = _memory(start, early, late, model.input_size)
    pulses = Pulses(amplitude, channels, early[:-1, 0], late[:-1, 0], graded, left)
    path = path[:-1, :121:20].reshape(-1, model.state_size)
    return pulses, path[:: max(1, len(path) // 48)]


def _seen(model, path):
    """Latent variables, outputs or the state along runs `(pulse, time, state)`."""
    see = lambda fn: jax.vmap(jax.vmap(fn))(path)
    if isinstance(model, LowRankRNN):
        return see(model.latent)
    if model.output_size:
        outputs = see(model.readout)
        span = jnp.max(jnp.ptp(outputs, axis=(0, 1)))
        # Weights of zero, or a bias that swallows them, show nothing of the dynamics.
        if span > _ROUNDING * jnp.max(jnp.abs(outputs)):
            return outputs
    return path


def _memory(start, early, late, channels) -> tuple[float, float]:
    """Spread over amplitudes early and late, both as a share of the early response, of
    what is seen in `(pulse, time, coordinate)`."""

    def largest(seen):
        # Per channel: the coordinate that responds most, its response and its range.
        with np.errstate(invalid="ignore"):  # of runs that diverge
            response = (seen[:-1] - seen[-1]).reshape(
                channels, len(AMPLITUDES), *seen.shape[1:]
            )
            size = np.abs(response).max(axis=(1, 2))
            ranges = np.ptp(response, axis=1).max(axis=1)
        best = size.argmax(axis=1)[:, None]
        return (np.take_along_axis(a, best, 1)[:, 0] for a in (size, ranges))

    first, _ = largest(start)
    size, ranges = largest(early)
    _, late_ranges = largest(late)
    heard = size > max(1e-3 * size.max(), _FORGOTTEN * first.max())
    if not heard.any():
        return 0.0, 0.0
    share = lambda ranges: float(np.median(ranges[heard] / size[heard]))
    return share(ranges), share(late_ranges)


def free_runs(system, x0s, model) -> Attractors:
    """Where free runs from a sample of the starts end, without input.

    **Arguments:** `system`: the flow or a map of `model`; `x0s`: starts, `(starts,
    state)`, of which about 48 are followed.
    """
    x0s = np.asarray(x0s)
    x0s = x0s[np.isfinite(x0s).all(axis=1)]
    x0s = x0s[:: max(1, len(x0s) // 48)]
    # A start on an unstable root would stay there for ever.
    x0s = x0s + 1e-3 * np.random.default_rng(0).standard_normal(x0s.shape)
    u = jnp.zeros(model.input_size, x0s.dtype)
    return attractors(system, x0s, u, steps=512, rounds=3)


def with_ends(x0s, *ends: Attractors | None):
    """The starts, and the roots that runs from them ended on: a point that a run has
    reached must not be missing among those found.

    **Arguments:** `x0s`: `(starts, state)`; `ends`: of the flow, and of the map if it
    was looked at.

    **Returns:** starts, by a multiple of 16 more: few programs are compiled.
    """
    roots = [e.state[e.verdict == Verdict.root] for e in ends if e is not None]
    roots = np.concatenate(roots)
    if not len(roots):
        roots = np.zeros((1, x0s.shape[1]))
    rows = np.resize(roots, (-(-len(roots) // 16) * 16, x0s.shape[1]))
    return jnp.concatenate([x0s, jnp.asarray(rows, x0s.dtype)])


_CYCLES = {"limit_cycle", "invariant_circle", "k_cycle"}


def ends_in_words(
    attractors: Attractors, goal: np.ndarray, points: np.ndarray
) -> tuple[list[str], list[str], str]:
    """Kinds of the attractors, verdicts of the runs that reached none, and both in
    words. Roots among `points` that runs are about to reach (`goal`, see `arriving`)
    are attractors too."""
    names, nearly = attractors.names, np.unique(goal[goal >= 0])
    roots = attractors.state[attractors.verdict == Verdict.root]
    reached = []
    if len(nearly):
        apart = np.linalg.norm(roots[:, None] - points[None], axis=2)
        reached = apart.argmin(axis=1)
    new = np.setdiff1d(nearly, reached)
    out = (attractors.label < 0) & (goal < 0)
    lost = [Verdict(int(v)).name for v in attractors.start_verdict[out]]
    seen = [f"{names.count(k)} {k}(s)" for k in dict.fromkeys(names)]
    if len(nearly):
        count = int(np.sum(goal >= 0))
        seen.append(f"{count} run(s) on the way to {len(nearly)} root(s)")
    seen += [f"{lost.count(k)} run(s) {k}" for k in dict.fromkeys(lost)]
    return names + ["root"] * len(new), lost, ", ".join(seen)


def arriving(ends: Attractors, points: np.ndarray, stable: np.ndarray) -> np.ndarray:
    """The root that each undecided run is about to reach, else -1: one of the certified
    `points` that is `stable`, 50 times closer to its end than to any other of them."""
    lost = np.isin(ends.start_verdict, UNDECIDED) & (ends.label < 0)
    goal = np.full(len(lost), -1)
    if len(points) < 2:
        return goal
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    apart = (apart + np.diag(np.full(len(points), np.inf))).min(axis=1)
    to_go = np.linalg.norm(ends.final[:, None] - points[None], axis=2)
    nearest = to_go.argmin(axis=1)
    there = lost & stable[nearest] & (to_go.min(axis=1) < 0.02 * apart[nearest])
    goal[there] = nearest[there]
    return goal


def kinds_of(names: list[str]) -> set[str]:
    """Kinds of attractors, in which the cycles of flows and of maps are one."""
    return {"cycle" if k in _CYCLES else k for k in names}


def slow_directions(eigenvalues: np.ndarray, unit: float) -> tuple[int, float, float]:
    """How many slow directions points have (the most of any), their largest
    |eigenvalue| in 1/tau, and the smallest ratio of the next one to it (infinite if
    there is none); 0 directions without points.

    Of each point those are slow, below 0.1, behind which the largest gap is; the
    slowest one if all are faster.

    **Arguments:** `eigenvalues`: shape `(points, state)`; `unit`: tau.
    """
    if not len(eigenvalues):
        return 0, np.nan, np.nan
    size = np.sort(np.abs(eigenvalues) * unit, axis=1)
    size = np.maximum(size, np.finfo(float).tiny)
    ratio = np.append(size, np.full((len(size), 1), np.inf), axis=1)[:, 1:] / size
    # Of pairs and planes, too, the gap is behind the last.
    last = np.where(size < 0.1, ratio, 0).argmax(axis=1)
    rows = np.arange(len(size))
    leading, gap = size[rows, last], ratio[rows, last]
    return int(last.max()) + 1, float(leading.max()), float(gap.min())


def ways(count: int) -> str:
    """So many slow directions, in words."""
    return "one slow direction" if count == 1 else f"{count} slow directions"


def creeping(
    model: AbstractRNN,
    ends: Attractors,
    goal: np.ndarray,
    step: float,
    starts: np.ndarray,
) -> str | None:
    """What speaks for a slow manifold in the runs that reached nothing; `None` unless
    all of them still creep, each in slow directions alone, and at three places or more.

    **Arguments:** `goal`: see `arriving`, these do not count; `step`: of the time of
    `ends`, in seconds; `starts`: states `(starts, state)`, against whose spread that of
    the places is judged: what comes to rest by a power of time ends in different
    places, too.
    """
    lost = (ends.label < 0) & (goal < 0)
    x = ends.final[lost]
    if len(x) < 3 or np.any(ends.start_verdict[lost] == Verdict.diverged):
        return None
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    spread = distance.max()
    wide = spread > 0.05 * np.linalg.norm(np.std(starts, axis=0))
    if not (wide and _places(distance, 0.01 * spread) >= 3):
        return None
    unit = float(model.time_scale)
    with jax.enable_x64(True):
        rows, u = jnp.asarray(x), jnp.zeros(model.input_size, model.x0.dtype)
        velocity = np.asarray(jax.vmap(lambda x: model(0.0, x, u))(rows))
        jacobians = np.asarray(jax.vmap(lambda x: jacobian(model, x, u))(rows))
    speed = unit * np.linalg.norm(velocity, axis=1).max()
    count, leading, gap = slow_directions(np.linalg.eigvals(jacobians), unit)
    if not (speed < 1e-2 * spread and leading < 0.1 and gap >= 5):
        return None
    rest = f", the next one at least {gap:.1f} times as fast" if gap < 1e9 else ""
    time = step * ends.time[lost].min() / unit
    return (
        f"{len(x)} runs still creep after {time:.0f} tau, at {speed / spread:.1e} of "
        f"the distance between them a tau and with {ways(count)} (|eigenvalue| up to "
        f"{leading:.3f}/tau{rest}): a slow manifold; where its drift ends see "
        "rnndyn.dynamics.ring_flow and slow_manifold"
    )


def _places(distance: np.ndarray, near: float) -> int:
    """How many rows are further than `near` from all that were counted before."""
    counted: list[int] = []
    for i in range(len(distance)):
        if np.all(distance[i, counted] > near):
            counted.append(i)
    return len(counted)
