"""What a long run amounts to: rest, cycle, circle, torus, chaos, or nothing certain."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ..._core._masks import norm
from ..._core._verdicts import Verdict
from ..points._search import Tolerances
from ._recurrence import LateRun


UNDECIDED = (Verdict.undetermined, Verdict.slow_point)
"""Verdicts after which a run is worth going on with."""


def verdict_of(
    run: LateRun,
    *,
    near: float = 1e-4,
    decay: float = 3.0,
    neutral: float = 1.0,
    stretch: float = 5.0,
    steady: float = 0.03,
    smooth: float = 1e-5,
    closed: float = 1e-6,
) -> Int[Array, ""]:
    """The verdict on a `LateRun`, as a code of `rnndyn.Verdict`.

    Attractors must attract: perturbations off the attractor must have shrunk by
    exp(-`decay`) over the window.

    - `root`: at rest within `near` max(1, |x|) of a root, which attracts.
    - `limit_cycle` (flows): at least 3 evenly spaced returns, of all states of the
        cycle to within 100 `closed` extents; one neutral direction (growth within
        `neutral`), all others attract.
    - `k_cycle` (maps): at least 3 evenly spaced returns, of all states of the cycle to
        within `closed` extents; all directions attract.
    - `invariant_circle` (maps): no return, one neutral direction (averaged growth
        within a hundredth of `neutral`), all others attract, and weighted averages of
        the halves that agree to `smooth`, in two dimensions or more. `torus`: the same
        with two neutral directions, in three or more.
    - `chaotic`: leading growth above `stretch` in both halves, in similar amounts.
    - `slow_point`: hardly moves, but no root nearby could be certified.
    - `continuum`: rests on a root with a neutral direction.
    - `diverged`, and `undetermined` for all else, for instance for cycles that
        neither attract nor repel.

    Cycles, circles and tori must keep their extent to within `steady` from one half of
    the window to the other, chaotic motion to within a factor 2.
    """
    size = jnp.maximum(1, norm(run.final))
    tol = Tolerances(run.final.dtype, run.final.size)
    is_root = (run.speed <= tol.speed_at(run.point)) & (run.error <= tol.step * size)
    total = jnp.sum(run.growth, axis=0)
    # Directions that do not exist attract.
    total = jnp.concatenate([total, jnp.full(3 - total.size, -jnp.inf, total.dtype)])
    weighted = jnp.abs(run.window * run.rates)
    weighted = jnp.concatenate([weighted, jnp.full(3 - run.rates.size, jnp.inf)])
    moving = run.extent > 1e-6 * size
    same = jnp.abs(run.trend - 1) < steady
    back = (run.returns >= 3) & (run.uneven < 1e-3)
    attracts = total < -decay
    at_rest = is_root & attracts[0] & (run.distance <= near * size)
    quasi = moving & same & (run.drift < smooth) & (run.returns == 0)
    smallest, largest = jnp.min(run.growth[:, 0]), jnp.max(run.growth[:, 0])
    chaotic = (smallest > stretch) & (smallest > largest / 3) & moving
    chaotic = chaotic & (run.trend > 0.5) & (run.trend < 2)
    # Smooth averages of quasi-periodic growth vanish; those of a cycle too long or too
    # weak to be seen do not.
    small = 1e-2 * neutral
    one = attracts[1] & (weighted[0] < small)
    # In two dimensions nothing would be left that attracts.
    two = attracts[2] & (jnp.maximum(weighted[0], weighted[1]) < small)
    two = two & (run.final.size > 2)
    if run.kind == "map":
        cycle = back & attracts[0] & (run.closure <= closed)
        one, code = one & (run.final.size > 1), Verdict.k_cycle
    else:
        cycle = back & attracts[1] & (jnp.abs(run.neutral) < neutral)
        cycle = cycle & (run.closure <= 100 * closed)
        code = Verdict.limit_cycle
        one = jnp.zeros((), bool)
    still = run.speed <= 64 * jnp.finfo(run.final.dtype).eps * size
    resting = still & (run.distance <= near * size) & (run.extent <= 1e-8 * size)
    resting = resting & (jnp.abs(total[0]) < 0.1) & (run.error <= tol.step * size)
    creeping = (run.extent <= 1e-2 * size) & ~is_root & ~attracts[0]
    verdict = jnp.select(
        [
            ~run.finite,
            moving & same & cycle,  # it may attract, and lie close to a root
            at_rest,
            chaotic,
            quasi & one,
            quasi & two,
            resting,
            creeping,
        ],
        [
            Verdict.diverged,
            code,
            Verdict.root,
            Verdict.chaotic,
            Verdict.invariant_circle,
            Verdict.torus,
            Verdict.continuum,
            Verdict.slow_point,
        ],
        Verdict.undetermined,
    )
    return verdict.astype(jnp.int32)


def confirm_roots(verdict, ends, is_map, rows) -> None:
    """Let eigenvalues confirm what the growth of perturbations said of roots."""
    for i in rows[np.isin(verdict[rows], (Verdict.root, Verdict.continuum))]:
        values = np.linalg.eigvals(ends["jacobian"][i])
        margin = np.abs(1 + values) - 1 if is_map else values.real
        size = max(np.abs(values).max(), 1e-300)
        stable = margin.max() < -1e-9 * size
        neutral = not stable and margin.max() < 1e-7 * size
        wanted = stable if verdict[i] == Verdict.root else neutral
        if not wanted:
            verdict[i] = Verdict.undetermined
