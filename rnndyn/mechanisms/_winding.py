"""Labels of rank-2 networks without input: rest or rotation of two latent variables."""

import enum
import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from .._core._batch import in_double, to_double, to_host
from .._core._checks import check_step_ratio
from .._core._export import Result
from .._core._verdicts import Verdict
from ..models import LowRankRNN, num_members
from ._latent_map import in_chunks, latent_attractors, latent_map


class Rotation(enum.IntEnum):
    """What the latent variables do in the long run. The codes are frozen."""

    undetermined = 0
    rest = 1
    cycle = 2
    irregular = 3
    diverged = 4


class Winding(Result):
    """Long-run behaviour and turns of the latent variables of many networks.

    Host level, NumPy, float64; arrays lead with the member axis. Turns are counted
    about `centre`, positive for counter-clockwise, and only while the distance from it
    is at least `small` of the extent of the path: closer, angles are rounding.

    **Attributes:**

    - `code`: of `Rotation`, decided by the late deviation and by the attractor of the
        map, which must agree; `undetermined` where they do not.
    - `late_code`: by the late deviation alone.
    - `verdict`: the attractor of the map, `root`, `k_cycle`, `invariant_circle`, ...
    - `flow_verdict`: the attractor of the flow from the same start, `root`,
        `limit_cycle`, ...
    - `late_rms`: rms distance from `centre` in the late window; `relative_rms`: the
        same over half the diagonal of the box that holds the first `view` trials.
    - `turns`: in the first `view` trials; `turns_late`: per trial, in the late window.
    - `sharpest`: largest turn of one step that was counted. Above 1/2 turn the sense of
        rotation of a map is not defined; `turns` is only meaningful well below.
    - `period`: of the map's cycle, in steps: one over the rotation number of a circle
        or the period of a k-cycle; NaN elsewhere, and where a circle is so close to a
        resonance that a rotation number was not certified.
    - `residual`: scale-free speed at the root next to the end of the run.
    - `centre`: time average of the late window, `kappa_0`: the start, `(members, 2)`.
    - `steps`: length of the run that decided.
    """

    code: Int[np.ndarray, " member"] = eqx.field(metadata={"flags": Rotation})
    late_code: Int[np.ndarray, " member"] = eqx.field(metadata={"flags": Rotation})
    verdict: Int[np.ndarray, " member"]
    flow_verdict: Int[np.ndarray, " member"] = eqx.field(metadata={"flags": Verdict})
    late_rms: Float[np.ndarray, " member"]
    relative_rms: Float[np.ndarray, " member"]
    turns: Float[np.ndarray, " member"]
    turns_late: Float[np.ndarray, " member"]
    sharpest: Float[np.ndarray, " member"]
    period: Float[np.ndarray, " member"]
    residual: Float[np.ndarray, " member"]
    centre: Float[np.ndarray, "member two"]
    kappa_0: Float[np.ndarray, "member two"]
    steps: Int[np.ndarray, " member"]

    @property
    def cycles(self) -> Bool[np.ndarray, " member"]:
        """Certified oscillations of the map."""
        return self.code == Rotation.cycle

    @property
    def full_rotation(self) -> Bool[np.ndarray, " member"]:
        """At least one whole turn within the first `view` trials."""
        return np.abs(self.turns) >= 1

    @property
    def names(self) -> list[str]:
        """Names of the codes."""
        return [Rotation(int(c)).name for c in self.code]


def winding(
    models: LowRankRNN,
    num_steps: int,
    *,
    dt: float = 5e-3,
    view: int = 3,
    run: int = 60,
    rest: float = 0.01,
    moves: float = 0.1,
    small: float = 0.02,
    rounds: int = 4,
    steps: int = 2048,
    certify: bool = True,
) -> Winding:
    """Label rank-2 networks by what their two latent variables do when left alone.

    Without input a network in rate form is a map of the plane, started at
    `kappa_0 = s n^T x0`. Three questions are asked of it, in float64:

    - *late deviation*: over the last third of `run` trials, is the rms distance from
        the time average above `moves` or below `rest` of the extent of the first
        trials? Between the two, and where the halves of the window differ by more than
        a tenth, the run is made four times longer, up to `rounds` times.
    - *turns* about that average in the first `view` trials, which is what one sees in
        a picture of the phase plane, and in the late window.
    - *attractor*: `rnndyn.dynamics.settle` and `verdict_of` on the map (a root with
        small residual that attracts, a k-cycle that comes back and attracts, or a
        circle with one neutral exponent), confirmed for circles by
        `rnndyn.dynamics.invariant_circle`; the flow's answer beside it.

    ```python
    labels = winding(result.models, task.num_steps)
    labels.names, labels.full_rotation, labels.period
    ```

    **Arguments:**

    - `models`: `LowRankRNN(0, N, outputs, rank=2, form="rate", ...)` with a leading
        ensemble axis.
    - `num_steps`: steps of one trial; `dt`: one step, in seconds.
    - `view`: trials in which turns are counted; the authors looked at 3.
    - `run`: trials of the run whose last third is the late window.
    - `rest`, `moves`: bounds of the late deviation, relative.
    - `small`: distance from the centre below which angles do not count, relative.
    - `rounds`: how often what is undecided is continued, each time four times longer.
    - `steps`: transient and window of the search for the attractor in its first round.
    - `certify`: whether to look for the attractors; without, `code` and the verdicts
        stay `undetermined` and `late_code` is all there is, at a fiftieth of the cost.

    **Returns:** a `Winding`. Not guaranteed: that other starts end alike. A decaying
    spiral has turns too, and a cycle that is wide on one side may not wind around its
    time average.

    **Raises:** a `ValueError` for networks that are not of rank 2 or have inputs.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433 (labels by hand); Das,
    Saiki, Sander & Yorke 2017, doi:10.1088/1361-6544/aa84c2 (circles).
    """
    _check(models, num_steps, dt, view, run)
    count = num_members(models)
    with in_double():
        models = to_host(to_double(to_host(models)))
        start = np.asarray(_starts(models))
        everyone = np.arange(count)
        paths = functools.partial(in_chunks, _paths, models)
        (path,) = paths(everyone, start, dt, run * num_steps)
        seen = path[:, : view * num_steps + 1]
        extent = np.ptp(seen, axis=1)
        extent = np.maximum(np.linalg.norm(extent, axis=1) / 2, 1e-300)
        late, length = path[:, -(run * num_steps // 3) :], run * num_steps
        centre, rms, steady, finite, total = _late(late)
        taken = np.full(count, length)
        turns_late = total / (late.shape[1] - 1) * num_steps
        relative = rms / extent
        last = path[:, -1]
        for _ in range(rounds):
            unclear = (relative >= rest) & ((relative <= moves) | ~steady)
            open_ = np.flatnonzero(unclear & finite)
            if not open_.size:
                break
            length *= 4
            (more,) = paths(open_, last, dt, length)
            late = more[:, -(length // 3) :]
            found = _late(late)
            centre[open_], rms[open_], steady[open_], finite[open_], total = found
            turns_late[open_] = total / (late.shape[1] - 1) * num_steps
            relative = rms / extent
            last[open_] = more[:, -1]
            taken[open_] += length
        turns, sharpest = _turns(seen, centre, small * extent)
        attractor = latent_attractors(
            models, start, dt, steps, rounds if certify else 0
        )
    late_code = np.select(
        [~finite, relative < rest, (relative > moves) & steady],
        [int(Rotation.diverged), int(Rotation.rest), int(Rotation.cycle)],
        int(Rotation.undetermined),
    )
    by_map = _by_verdict(attractor["verdict"])
    # Irregular motion is motion too.
    agree = (by_map == late_code) | (
        (by_map == Rotation.irregular) & (late_code == Rotation.cycle)
    )
    return Winding(
        code=np.where(agree, by_map, int(Rotation.undetermined)),
        late_code=late_code,
        verdict=attractor["verdict"],
        flow_verdict=attractor["flow_verdict"],
        late_rms=rms,
        relative_rms=relative,
        turns=turns,
        turns_late=np.where(relative > moves, turns_late, 0.0),
        sharpest=sharpest,
        period=attractor["period"],
        residual=attractor["residual"],
        centre=centre,
        kappa_0=start,
        steps=taken,
    )


@eqx.filter_jit
def _starts(models):
    return eqx.filter_vmap(lambda model: model.latent(model.x0))(models)


@eqx.filter_jit
def _paths(models, start, dt, steps):
    """Latent paths `(member, steps + 1, 2)`, starts included."""

    def one(model, kappa):
        system = latent_map(model, dt)
        path = lax.scan(lambda k, _: (system(k), k), kappa, None, length=steps)
        return (jnp.concatenate([path[1], path[0][None]]),)

    return eqx.filter_vmap(one)(models, start)


def _late(late):
    """Centre, rms distance from it, whether that is the same in both halves, whether
    all is finite, and turns about the centre."""
    finite = np.isfinite(late).all(axis=(1, 2)) & (np.abs(late) < 1e8).all(axis=(1, 2))
    late = np.where(finite[:, None, None], late, 0)
    centre = late.mean(axis=1)
    square = np.sum((late - centre[:, None]) ** 2, axis=2)
    rms = np.sqrt(np.mean(square, axis=1))
    half = late.shape[1] // 2
    parts = [np.sqrt(np.mean(a, axis=1)) for a in (square[:, :half], square[:, half:])]
    steady = np.abs(parts[0] - parts[1]) <= 0.1 * rms
    turns, _ = _turns(late, centre, 0.02 * rms)
    return centre, rms, steady, finite, turns


def _turns(path, centre, near):
    """Turns of paths about their centres, and the largest of one step."""
    arm = np.where(np.isfinite(path), path, 0) - centre[:, None]
    z = arm[..., 0] + 1j * arm[..., 1]
    far = np.abs(z) > near[:, None]
    step = np.angle(z[:, 1:] * np.conj(z[:, :-1])) / (2 * np.pi)
    step = np.where(far[:, 1:] & far[:, :-1], step, 0)
    return step.sum(axis=1), np.abs(step).max(axis=1)


_REGULAR = (Verdict.invariant_circle, Verdict.k_cycle, Verdict.limit_cycle)


def _by_verdict(verdict):
    return np.select(
        [
            verdict == Verdict.root,
            np.isin(verdict, _REGULAR),
            np.isin(verdict, (Verdict.chaotic, Verdict.torus)),
            verdict == Verdict.diverged,
        ],
        [
            int(Rotation.rest),
            int(Rotation.cycle),
            int(Rotation.irregular),
            int(Rotation.diverged),
        ],
        int(Rotation.undetermined),
    )


def _check(models, num_steps, dt, view, run):
    if not isinstance(models, LowRankRNN):
        raise ValueError(
            f"got a {type(models).__name__}, expected a rnndyn.models.LowRankRNN with "
            "a leading ensemble axis."
        )
    if models.rank != 2 or models.input_size != 0:
        raise ValueError(
            f"the networks have rank {models.rank} and {models.input_size} inputs, "
            "expected rank 2 and none: turns need a plane that no input moves."
        )
    if models.m.ndim != 3:
        raise ValueError(
            f"m has shape {models.m.shape}, expected (members, state, 2). Make one "
            "network an ensemble of one: jax.tree.map(lambda a: a[None], model)."
        )
    if num_steps < 1 or view < 1 or run < 3 * view:
        raise ValueError(
            f"num_steps = {num_steps}, view = {view}, run = {run}, expected positive "
            "numbers and a run of at least three views."
        )
    check_step_ratio(dt, models.tau)
