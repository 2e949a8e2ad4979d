"""The attractor of the trained map that each cue leads to, certified."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from .._core._batch import in_double, to_double
from .._core._checks import check_counts, check_step_ratio
from .._core._export import Result
from .._core._verdicts import Verdict, names
from ..dynamics import settle, verdict_of
from ..dynamics.long_run._late_verdict import UNDECIDED, confirm_roots
from ..models import AbstractRNN, member, num_members
from ..tasks import AbstractTask, per_member
from ._run import check_memory, step_of


_KEPT = ("final", "jacobian", "period", "rates", "extent", "speed", "distance")


class CueAttractors(Result):
    """Where the map of each network ends after each cue. Host level, NumPy, float64.

    **Attributes:**

    - `verdict`: `root`, `invariant_circle`, `k_cycle`, `torus`, `chaotic`, `continuum`,
        `diverged`, or `undetermined` and `slow_point` where it was not decided, shape
        `(member, cue)`.
    - `period`: of k-cycles (seconds), NaN for the rest.
    - `exponents`: the largest Lyapunov exponents, at most three (1/s).
    - `extent`: half the diagonal of its bounding box, 0 for roots.
    - `residual`: speed at the nearest root; `distance`: how far that is from the end.
    - `final`: the last state; `time`: how long it was followed (seconds).

    All but `time` are NaN where it diverged.
    """

    verdict: Int[np.ndarray, "member cue"]
    period: Float[np.ndarray, "member cue"]
    exponents: Float[np.ndarray, "member cue largest"]
    extent: Float[np.ndarray, "member cue"]
    residual: Float[np.ndarray, "member cue"]
    distance: Float[np.ndarray, "member cue"]
    final: Float[np.ndarray, "member cue state"]
    time: Float[np.ndarray, "member cue"]

    def headline(self) -> str:
        """How many cues end on each kind of attractor."""
        counts = Counter(sum(self.names, [])).most_common()
        return ", ".join(f"{name}: {n}" for name, n in counts)

    @property
    def names(self) -> list[list[str]]:
        """Verdicts by name, a list a network."""
        return [names(row) for row in self.verdict]

    @property
    def mixed(self) -> np.ndarray:
        """Networks whose cues end on attractors of different kinds: rest and motion, or
        different motions; false where one is not decided."""
        known = ~np.isin(self.verdict, UNDECIDED)
        circle = int(Verdict.invariant_circle)  # k-cycles and circles are one kind
        kind = np.where(self.verdict == Verdict.k_cycle, circle, self.verdict)
        return np.all(known, axis=1) & np.any(kind != kind[:, :1], axis=1)


def cue_attractors(
    models: AbstractRNN,
    task: AbstractTask,
    *,
    dt: float | None = None,
    steps: int = 1024,
    rounds: int = 3,
    chunk: int = 16,
) -> CueAttractors:
    """Certify the attractor of the trained map that each cue leads to.

    Noise-free, from `model.initial_state()`: the cue, the delay, then no input. The run
    is discarded for `3 steps`, measured for `2 steps` (rest, three Lyapunov exponents,
    drift of averages, returns; `rnndyn.dynamics.settle` and `verdict_of`), and
    continued four times as long, up to `rounds` times, while nothing is decided. Roots
    are confirmed by the eigenvalues of the map. This is the slower and stricter
    companion of `classify`, which says by which mechanism the memory was held, and
    takes any closed, non-chaotic late motion for a limit cycle.

    ```python
    ends = rd.mechanisms.cue_attractors(models, task)
    ends.names, ends.mixed.mean()
    ```

    **Arguments:**

    - `models`: trained networks with a leading axis.
    - `task`: one task, or one per network, with a `"delay"` among its periods.
    - `dt`: step of the map they were trained as (seconds), that of the task.
    - `steps`, `rounds`: how long a run is followed.
    - `chunk`: runs side by side, which bounds the memory.

    **Returns:** `CueAttractors`. Not guaranteed: that transients longer than the run
    are seen through, or that motion close to a resonance is decided.

    **Raises:** a `ValueError` if `models` is no ensemble or has other inputs than the
    task, if the task has no delay, `dt/tau` lies outside (0, 1], or numbers are below
    1.
    """
    members = num_members(models)
    check_memory(models, task, outputs=False)
    cues, dt = task.num_conditions, step_of(task, dt)
    check_step_ratio(dt, models.tau)
    check_counts(members=members, steps=steps, rounds=rounds, chunk=chunk)
    with in_double():
        models, task = to_double(models), per_member(to_double(task), members)
        step = jnp.asarray(float(dt))
        x = np.array(_memory(models, task, step)).reshape(members * cues, -1)
        verdict = np.zeros(len(x), np.int64)
        time, kept = np.zeros(len(x)), {}
        todo = np.arange(len(x))
        for r in range(rounds):
            length = steps * 4**r
            found, ends = _follow(models, todo // cues, x[todo], step, length, chunk)
            for name, value in ends.items():
                kept.setdefault(name, np.zeros((len(x), *value.shape[1:])))
                kept[name][todo] = value
            confirm_roots(found, ends, True, np.arange(len(found)))
            verdict[todo], x[todo] = found, ends["final"]
            time[todo] += 5 * length
            todo = todo[np.isin(found, UNDECIDED)]
            if not len(todo):
                break
    gone = verdict == Verdict.diverged

    def fold(a):
        if a.dtype.kind == "f":
            a = np.where(gone.reshape(-1, *[1] * (a.ndim - 1)), np.nan, a)
        return a.reshape(members, cues, *a.shape[1:])

    root = verdict == Verdict.root
    cycle = verdict == Verdict.k_cycle
    return CueAttractors(
        verdict=fold(verdict),
        period=fold(np.where(cycle, dt * kept["period"], np.nan)),
        exponents=fold(kept["rates"] / dt),
        extent=fold(np.where(root, 0, kept["extent"])),
        residual=fold(kept["speed"]),
        distance=fold(kept["distance"]),
        final=fold(kept["final"]),
        time=(dt * time).reshape(members, cues),
    )


@eqx.filter_jit
def _memory(models, tasks, dt):
    """States at the end of the delay, `(member, cue, state)`."""

    def one(model, task):
        delay, system = task.periods.index("delay"), model.map(dt)

        def run(cue):
            trial = task.trial(cue, key=jr.key(0))
            shown = (trial.period >= 0) & (trial.period <= delay)

            def step(x, now):
                u, on = now
                return jnp.where(on, system(x, u.astype(x.dtype)), x), None

            return jax.lax.scan(step, model.initial_state(), (trial.inputs, shown))[0]

        return jax.vmap(run)(jnp.arange(task.num_conditions))

    return eqx.filter_vmap(one)(models, tasks)


def _follow(models, rows, x, dt, steps, chunk):
    """Verdicts and evidence of runs of the networks `rows`, in padded chunks."""
    parts: list[Any] = []
    size = min(chunk, 1 << (len(x) - 1).bit_length())
    for first in range(0, len(x), size):
        # Filled up by repetition: one shape, one program.
        index = np.minimum(np.arange(first, first + size), len(x) - 1)
        nets = member(models, rows[index])
        found = _end(nets, jnp.asarray(x[index]), dt, jnp.asarray(steps, jnp.int32))
        rest = min(size, len(x) - first)
        parts.append(jax.tree.map(lambda a, rest=rest: np.asarray(a)[:rest], found))
    verdict, ends = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    return verdict.astype(np.int64), ends


@eqx.filter_jit
def _end(models, x, dt, steps):
    def one(model, x):
        u = jnp.zeros(model.input_size, x.dtype)
        run = settle(model.map(dt), x, u, transient=3 * steps, window=2 * steps)
        return verdict_of(run), {k: getattr(run, k) for k in _KEPT}

    return eqx.filter_vmap(one)(models, x)
