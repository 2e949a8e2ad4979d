"""Guesses of cycles from close returns of runs, and cycles compared as orbits."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..._core._masks import norm
from ..._core._verdicts import Verdict
from ._records import MOST, record


BASES = 16
BACKWARD = 2**16
"""Steps of a run backwards in time. What attracts repels there, and a run that is
driven out ever faster would take shorter steps for minutes."""


class Guess(eqx.Module):
    """A point, a period, how closely the trajectory returned (relative to its extent),
    the verdict if there is nothing to search for, and the direction of time, 1 or -1,
    in which the trajectory ran."""

    x: Float[Array, "*batch state"]
    period: Float[Array, "*batch"]
    miss: Float[Array, "*batch"]
    verdict: Int[Array, "*batch"]
    direction: Float[Array, "*batch"]


class CloseReturns(eqx.Module):
    """How `limit_cycles` guesses: by close returns of the runs from the starts.

    Each run is recorded from the start, after a transient, and (optionally) backwards
    in time; each record gives one guess, the closest return to one of 16 of its
    points. Late records find attractors, early ones what repels slowly, backward ones
    cycles that repel in every direction (in the plane: the unstable cycle between two
    stable ones). On a chaotic attractor each close return shadows an unstable cycle.

    **Attributes:** in time constants of the system (`time_scale`):

    - `max_period`: longest period looked for; records are twice as long.
    - `transient`: discarded before the late record.
    - `samples`: states kept of a record. Steps of the runs, explicit ones also of
        stiff systems, are no longer than the time between these, and shorter where
        accuracy asks.
    - `backward`: also run backwards, for 65536 steps (or 8 a sample) at most. Default:
        up to 3 state variables.
    - `per_record`: guesses from each record, from different points of it. More than 1
        helps on chaotic attractors.
    """

    max_period: float | int = eqx.field(static=True, default=50.0)
    transient: float | int = eqx.field(static=True, default=200.0)
    samples: int = eqx.field(static=True, default=800)
    backward: bool | None = eqx.field(static=True, default=None)
    per_record: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        ok = self.max_period > 0 and self.transient >= 0
        ok = ok and 1 <= self.per_record <= BASES
        if not ok or self.samples < 32:
            raise ValueError(
                f"CloseReturns got max_period = {self.max_period}, transient = "
                f"{self.transient}, samples = {self.samples}, per_record = "
                f"{self.per_record}; expected positive times, at least 32 samples and "
                f"1 to {BASES} guesses `per_record`."
            )

    @property
    def spacing(self) -> float:
        """Time between the states of a record, in time constants."""
        return 2 * self.max_period / self.samples

    def num_guesses(self, size: int) -> int:
        """Guesses a start."""
        return self._records(size) * self.per_record

    def _records(self, size: int) -> int:
        backward = size <= 3 if self.backward is None else self.backward
        return 3 if backward else 2

    def __call__(self, velocity: Any, x0: Float[Array, " state"], unit: Any) -> Guess:
        """The guesses of one start, with a leading axis of `num_guesses`."""
        spacing = self.spacing * unit
        run = lambda x, sign, duration, samples, most: record(
            lambda x: sign * velocity(x), x, duration, samples, spacing, most
        )
        _, late = run(x0, 1, self.transient * unit, 1, MOST)
        count = self._records(x0.shape[0])
        firsts = jnp.stack([late, x0, x0][:count])
        signs = jnp.asarray([1.0, 1.0, -1.0][:count], x0.dtype)
        most = jnp.asarray([MOST, MOST, max(BACKWARD, 8 * self.samples)][:count])
        along = lambda x, sign, most: run(x, sign, spacing, self.samples, most)[0]
        records = jax.vmap(along)(firsts, signs, most)
        closest = lambda xs, sign: closest_returns(xs, spacing, self.per_record, sign)
        guesses = jax.vmap(closest)(records, signs)
        return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), guesses)


def closest_returns(
    xs: Float[Array, "time state"], spacing: Any, num: int = 1, direction: Any = 1.0
) -> Guess:
    """The `num` closest returns in a record of equally spaced states, each variable
    measured by its range."""
    # Membrane potentials may be a hundred times as large as what gates them.
    spread, size = jnp.ptp(xs, axis=0), jnp.max(jnp.abs(xs), axis=0)
    floor = jnp.maximum(1e-6 * size, 1e-9 * jnp.max(spread))
    scaled = xs / jnp.where(spread > floor, spread, jnp.inf)[None]
    samples = xs.shape[0]
    lags = samples // 2
    bases = jnp.linspace(0, samples - lags - 1, BASES).astype(jnp.int32)

    def from_base(i):
        window = lax.dynamic_slice_in_dim(scaled, i, lags + 1)
        return _return_to_first(window)

    miss, lag = jax.vmap(from_base)(bases)
    finite, blown = jnp.all(jnp.isfinite(xs)), jnp.any(jnp.isinf(xs))
    # Late returns of a run that settles are closer; of equally close ones the
    # shortest counts.
    best = jnp.min(miss)
    good = miss <= jnp.maximum(1.5 * best, 1e-6)
    k = jnp.lexsort((miss, jnp.where(good, lag, jnp.inf), ~good))[:num]
    still = norm(spread) < 1e-7 * jnp.maximum(1, norm(xs[-1]))
    verdict = jnp.select(
        [blown, ~finite, still, ~jnp.isfinite(best)],
        [
            int(Verdict.diverged),
            int(Verdict.undetermined),
            int(Verdict.constant),
            int(Verdict.undetermined),
        ],
        int(Verdict.limit_cycle),  # something to search for
    ).astype(jnp.int32)
    return Guess(
        jnp.where(finite, xs[bases[k]], 0),
        jnp.where(jnp.isfinite(lag[k]), lag[k], 1) * spacing,
        miss[k],
        jnp.broadcast_to(verdict, (num,)),
        jnp.broadcast_to(jnp.asarray(direction, xs.dtype), (num,)),
    )


def _return_to_first(window):
    """Miss and lag (in samples, interpolated) of the best return to row 0."""
    square = jnp.sum((window - window[:1]) ** 2, axis=1)
    largest = jnp.max(square)
    left = jnp.cumsum(square > 0.04 * largest) > 0  # gone a fifth of the way
    before, after = jnp.roll(square, 1), jnp.roll(square, -1)
    bend = before - 2 * square + after
    inner = jnp.arange(square.size)
    dip = left & (square <= before) & (square < after) & (bend > 0)
    dip = dip & (inner > 1) & (inner < square.size - 1)
    shift = jnp.where(dip, 0.5 * (before - after) / jnp.where(dip, bend, 1), 0)
    # Near a return the squared distance is a parabola.
    bottom = jnp.maximum(square - 0.25 * (before - after) * shift, 0)
    unit = jnp.where(largest > 0, largest, 1)
    # It says nothing where the run jumps from one sample to the next.
    hop = jnp.sum(jnp.diff(window, axis=0) ** 2, axis=1)
    hop = jnp.maximum(jnp.append(hop, 0), jnp.append(0, hop))
    ratio = jnp.sqrt(bottom / unit) + 0.25 * hop / unit
    ratio = jnp.where(dip, ratio, jnp.inf)
    best = jnp.min(ratio)
    # The parabola leaves a few per cent of a chord: returns as close as that tie.
    k = jnp.argmax(ratio <= best + 0.01)
    found = jnp.isfinite(best)
    return (
        jnp.where(found, ratio[k], jnp.inf),
        jnp.where(found, k + shift[k], jnp.inf),
    )


def same_orbit(
    x: Float[Array, " state"],
    period: Any,
    orbit: Float[Array, "nodes state"],
    spacings: Float[Array, " nodes"],
    *,
    advance: Any,
    roughly: Any,
    velocity: Any,
    tol: Any,
    multiples: bool = False,
    nearest: int | None = None,
) -> Bool[Array, ""]:
    """Whether a cycle through `x` is the given orbit (nodes not repeated, each followed
    by its spacing in time): a point of it on the orbit to `tol` times the extent, and
    the same period to `tol` (with `multiples`, a multiple of it to 1 %). `advance`
    integrates over a time, `roughly` the same at less cost. With `nearest` only so many
    nodes, the nearest ones, are looked at: less cost, and now and then a miss."""
    ratio = period / jnp.sum(spacings)
    turns = jnp.maximum(1, jnp.round(ratio)) if multiples else 1.0
    close = 1e-2 if multiples else tol
    mean = jnp.mean(orbit, axis=0, keepdims=True)
    extent = jnp.max(jnp.linalg.norm(orbit - mean, axis=1))

    # Along the orbit from the nodes, either way, by integration: between the nodes of
    # a spike no interpolation is good enough, and the nearest node may belong to
    # another turn.
    def closest(k, shift, advance, iterations):
        def closer(_, carry):
            shift, _ = carry
            point = advance(orbit[k], shift)
            speed = velocity(point)
            step = jnp.vdot(speed, x - point) / jnp.maximum(
                jnp.vdot(speed, speed), jnp.finfo(x.dtype).tiny
            )
            shift = jnp.clip(shift + step, -spacings[k - 1], spacings[k])
            return shift, norm(point - x)

        start = (shift, jnp.asarray(jnp.inf, x.dtype))
        return lax.fori_loop(0, iterations, closer, start)

    zero = jnp.zeros((), x.dtype)
    nodes = jnp.arange(orbit.shape[0])
    if nearest is not None and nearest < nodes.size:
        apart = jnp.sum((orbit - x[None]) ** 2, axis=1)
        nodes = lax.top_k(-apart, nearest)[1]
    shifts, distances = jax.vmap(lambda k: closest(k, zero, roughly, 6))(nodes)
    best = jnp.argmin(jnp.where(jnp.isfinite(distances), distances, jnp.inf))
    distance = distances[best]
    if advance is not roughly:
        distance = closest(nodes[best], shifts[best], advance, 4)[1]
    near = distance <= tol * extent
    return near & (jnp.abs(ratio - turns) <= close * turns)
