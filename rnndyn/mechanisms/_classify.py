"""From evidence to labels: a decision list whose thresholds are arrays."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core._types import KeyLike
from ..models import AbstractRNN
from ..tasks import AbstractTask
from ._features import Features, measure
from ._mechanism import Mechanism, MechanismReport


class AbstractClassifier(eqx.Module):
    """From `Features` to a `MechanismReport`. Implement this one method; `classify`,
    tables and plots work with it."""

    @abc.abstractmethod
    def __call__(self, features: Features) -> MechanismReport:
        """Label every network and every cue."""


def _threshold(value: float) -> Any:
    return eqx.field(default=value, converter=jnp.asarray)


class DecisionList(AbstractClassifier):
    """Labels by tests in a fixed order; the thresholds are array fields, so that a
    sensitivity study is a `vmap` over classifiers.

    Per cue, on the map the network was trained as:

    1. `diverged`: the free run left the finite numbers, or 1e8.
    2. `chaotic`: still moving (`late_peak > moving`: some unit does), bounded
        (`late_trend` between 1/2 and 2), and stretched by more than `exp(stretch)` in
        both halves of the late window, each taken twice.
    3. `limit_cycle`: still moving, neither growing nor decaying
        (`|late_trend - 1| < steady`), stretched by less than `exp(neutral)`, shrunk by
        more than `exp(attracting)` in the next direction (a torus is not), and
        recurrent (`recurrence >= recurrent`). On a map this is an invariant circle
        (exponent 0) or, if the exponent is negative, a k-cycle.
    4. `fixed_points`: at rest (`late_peak < resting`) in a certified stable root, which
        is not that of another cue (`apart > arrived`), and when the delay ended the
        state already was there (`remaining <= arrived`).
    5. `slow_manifold`: at rest in the end, but the memory was held on the way there:
        `remaining > arrived`, the slowest time constant of the delay is at least `slow`
        of the unit's own, and the state itself came to move slowly: at its slowest it
        would need at least `lasting` of the delay to cross the separation of the cues.
        Or at rest as for 4 in a root with a neutral direction (largest multiplier 1
        within `root_margin`): a continuous attractor, without any drift.
    6. `undetermined` otherwise.

    The network's label is that of its cues if they agree and `mixed` if they are held
    differently; `not_learned` if the score lies below `accuracy` or `reliability`.

    `margin` is the smallest, over the tests that a cue's label passed, of how far the
    number lies from its threshold, relative to it (of `recurrent`, to 1 - `recurrent`;
    of a root, by how much its multipliers lie below 1 in units of `root_margin`).

    Not guaranteed: that a slower drift than 60 trial lengths can be told from rest.
    """

    accuracy: Float[Array, ""] = _threshold(0.8)
    reliability: Float[Array, ""] = _threshold(0.8)
    moving: Float[Array, ""] = _threshold(0.05)
    resting: Float[Array, ""] = _threshold(0.02)
    stretch: Float[Array, ""] = _threshold(10.0)
    neutral: Float[Array, ""] = _threshold(5.0)
    attracting: Float[Array, ""] = _threshold(0.1)
    recurrent: Float[Array, ""] = _threshold(0.98)
    steady: Float[Array, ""] = _threshold(0.03)
    root_margin: Float[Array, ""] = _threshold(1e-6)
    arrived: Float[Array, ""] = _threshold(0.1)
    slow: Float[Array, ""] = _threshold(2.0)
    lasting: Float[Array, ""] = _threshold(0.5)

    def __call__(self, features):
        f = features
        chaotic, cycle = self._motion(f, "")
        resting = (f.late_peak < self.resting) & f.at_root
        stable = resting & (f.root_radius < 1 - self.root_margin)
        neutral = resting & (jnp.abs(f.root_radius - 1) <= self.root_margin)
        arrived = (f.remaining <= self.arrived) & (f.apart > self.arrived)
        away = f.remaining > self.arrived
        slow = away & (f.slow_time >= self.slow * f.unit_time[:, None])
        slow = slow & (f.dwell >= self.lasting * f.delay[:, None])
        cue_code = _first(
            (~f.finite, Mechanism.diverged),
            (chaotic, Mechanism.chaotic),
            (cycle, Mechanism.limit_cycle),
            (stable & arrived, Mechanism.fixed_points),
            ((stable & slow) | (neutral & arrived), Mechanism.slow_manifold),
        )
        learned = (f.accuracy > self.accuracy) & (f.reliability > self.reliability)
        same = jnp.all(cue_code == cue_code[:, :1], axis=1)
        unsure = jnp.any(cue_code == Mechanism.undetermined, axis=1)
        code = _first(
            (jnp.any(cue_code == Mechanism.diverged, axis=1), Mechanism.diverged),
            (~learned, Mechanism.not_learned),
            (unsure, Mechanism.undetermined),
            (~same, Mechanism.mixed),
            (same, cue_code[:, 0]),
        )
        return MechanismReport(
            code=code,
            cue_code=cue_code,
            margin=self._margin(f, cue_code),
            flow_code=self._flow(f),
            features=f,
        )

    def _motion(self, f, system):
        """Which cues end in chaos, and which in a cycle, of the map or the flow."""
        of = lambda name: getattr(f, system + name)
        moving, trend = of("late_peak") > self.moving, of("late_trend")
        bounded = (trend > 0.5) & (trend < 2)
        steady = jnp.abs(trend - 1) < self.steady
        closed = (of("growth") < self.neutral) & (of("recurrence") >= self.recurrent)
        closed = closed & (of("growth_second") < -self.attracting)
        chaotic = moving & bounded & (of("growth_low") > self.stretch)
        return chaotic, moving & steady & closed

    def _margin(self, f, cue_code):
        above = lambda value, limit: value / limit - 1
        below = lambda value, limit: 1 - value / limit
        least = lambda *tests: jnp.min(jnp.stack(tests), axis=0)
        moving = above(f.late_peak, self.moving)
        rest = below(f.late_peak, self.resting)
        stable = above(1 - f.root_radius, self.root_margin)
        neutral = below(jnp.abs(f.root_radius - 1), self.root_margin)
        chaotic = least(
            moving,
            above(f.growth_low, self.stretch),
            above(f.late_trend, 0.5),
            below(f.late_trend, 2),
        )
        cycle = least(
            moving,
            below(jnp.abs(f.late_trend - 1), self.steady),
            below(f.growth, self.neutral),
            above(-f.growth_second, self.attracting),
            (f.recurrence - self.recurrent) / (1 - self.recurrent),
        )
        here = least(
            rest, below(f.remaining, self.arrived), above(f.apart, self.arrived)
        )
        away = least(
            rest,
            stable,
            above(f.remaining, self.arrived),
            above(f.slow_time, self.slow * f.unit_time[:, None]),
            above(f.dwell, jnp.maximum(self.lasting * f.delay[:, None], 1e-12)),
        )
        margin = jnp.select(
            [
                cue_code == Mechanism.chaotic,
                cue_code == Mechanism.limit_cycle,
                cue_code == Mechanism.fixed_points,
                cue_code == Mechanism.slow_manifold,
            ],
            [
                chaotic,
                cycle,
                jnp.minimum(here, stable),
                jnp.where(f.remaining > self.arrived, away, jnp.minimum(here, neutral)),
            ],
            0.0,
        )
        return jnp.maximum(margin, 0)

    def _flow(self, f):
        chaotic, cycle = self._motion(f, "flow_")
        resting = f.flow_at_root & (f.flow_late_peak < self.resting)
        leading = f.flow_root_rightmost * f.unit_time[:, None]
        neutral = resting & (jnp.abs(leading) <= self.root_margin)
        return _first(
            (~f.flow_finite, Mechanism.diverged),
            (chaotic, Mechanism.chaotic),
            (cycle, Mechanism.limit_cycle),
            (resting & (leading < -self.root_margin), Mechanism.fixed_points),
            (neutral & (f.apart > self.arrived), Mechanism.slow_manifold),
        )


def _first(*rules):
    """Code of the first rule that holds, else undetermined."""
    conditions, codes = zip(*rules, strict=True)
    codes = [
        jnp.broadcast_to(jnp.asarray(c, jnp.int32), conditions[0].shape) for c in codes
    ]
    return jnp.select(list(conditions), codes, jnp.int32(Mechanism.undetermined))


def classify(
    models: AbstractRNN,
    task: AbstractTask,
    *,
    dt: float | None = None,
    classifier: AbstractClassifier | None = None,
    key: KeyLike,
    **options: Any,
) -> MechanismReport:
    """By which mechanism each network of an ensemble holds its memory.

    Every network is shown each cue, left alone at the end of the delay and followed,
    as the map it was trained as, for 60 trial lengths in float64.

    **Arguments:**

    - `models`: trained networks with a leading axis (`rnndyn.models.ensemble`).
    - `task`: what they were trained on, with a `"delay"` among its periods; one task,
        or one per network.
    - `dt`: step of their Euler map in seconds, that of the task.
    - `classifier`: `DecisionList()` by default.
    - `key`: for the noisy trials that decide whether the task was learned.
    - `options`: further keywords of `rnndyn.mechanisms.measure`.

    **Returns:** a `MechanismReport`.

    !!! example

        ```python
        task = rd.tasks.DelayedCueDiscrimination(delay=0.1)
        report = rd.mechanisms.classify(models, task, key=jax.random.key(0))
        print(report.counts())
        ```
    """
    classifier = DecisionList() if classifier is None else classifier
    if not isinstance(classifier, AbstractClassifier):
        raise ValueError(
            f"classifier = {classifier!r}, expected an object such as DecisionList()."
        )
    features = measure(models, task, dt=dt, key=key, **options)
    with jax.enable_x64(True):
        return classifier(features)
