"""Short-term memory tasks of Kurtkaya, Dinc et al. 2025."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._core._checks import steps_in
from ._base import (
    AbstractTask,
    Score,
    Trial,
    answered,
    balanced_mask,
    check_condition,
    masked_mean,
    period_at,
)


class DelayedCueDiscrimination(AbstractTask):
    """Which of two cues was shown, asked after a delay.

    A one-hot cue, a silent delay, a reaction period in which the same one-hot is the
    target, then (optionally) a post-reaction period with target zero. Class 0 has cue
    and target `(0, 1)`, class 1 `(1, 0)`. Reaction and post-reaction steps together
    weigh as much in the loss as everything before (see `balanced_mask`).

    The delay is an array, so networks with different delays train in one program:
    pass the same `num_steps` to all and shorter trials are padded at the end.

    **Arguments:** durations in seconds, each a multiple of `dt`.

    - `delay`: between cue and reaction.
    - `post_reaction`: after the reaction, 0 for none (30 ms in the paper's code).
    - `dt`: one step.
    - `cue`, `reaction`: durations of cue and reaction.
    - `num_steps`: pad to this many steps; the trial's own length by default.

    **Raises:** a `ValueError` if a duration is not a multiple of `dt`, or if
    `num_steps` is too small.
    """

    delay_steps: Int[Array, ""]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_conditions: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    cue_steps: int = eqx.field(static=True)
    reaction_steps: int = eqx.field(static=True)
    post_steps: int = eqx.field(static=True)
    periods: ClassVar[tuple[str, ...]] = ("cue", "delay", "reaction", "post_reaction")
    reference: ClassVar[str] = (
        "Kurtkaya, Dinc et al. 2025, Dynamical phases of short-term memory mechanisms "
        "in RNNs, arXiv:2502.17433"
    )

    def __init__(
        self,
        delay: float = 0.1,
        post_reaction: float = 0.0,
        dt: float = 5e-3,
        cue: float = 0.03,
        reaction: float = 0.05,
        num_steps: int | None = None,
    ):
        delay_steps = steps_in("delay", delay, dt)
        self.cue_steps = steps_in("cue", cue, dt)
        self.reaction_steps = steps_in("reaction", reaction, dt)
        self.post_steps = steps_in("post_reaction", post_reaction, dt)
        if self.reaction_steps == 0:
            raise ValueError("reaction = 0 s, expected at least one step of dt.")
        if self.cue_steps + delay_steps == 0:
            raise ValueError(
                f"delay = {delay} s with no cue, expected at least one step before the "
                "reaction: without it all weights of the balanced loss are 0."
            )
        needed = self.cue_steps + delay_steps + self.reaction_steps + self.post_steps
        if num_steps is not None and (num_steps < needed or num_steps % 1):
            raise ValueError(
                f"num_steps = {num_steps}, expected a whole number of at least "
                f"{needed}, the length of the trial. Pass num_steps=None or the length "
                "of the longest trial."
            )
        self.delay_steps = jnp.asarray(delay_steps, jnp.int32)
        self.num_steps = needed if num_steps is None else int(num_steps)
        self.dt = dt
        self.input_size, self.output_size, self.num_conditions = 2, 2, 2

    @classmethod
    def stack(cls, delays: Any, **kwargs: Any) -> "DelayedCueDiscrimination":
        """One task per delay as a single Module with a leading axis, padded to the
        longest (or to `num_steps=`): tasks for an ensemble of networks."""
        return _stack(cls, delays, lambda task: task.delay_steps, kwargs)

    @property
    def ends(self) -> Int[Array, " period"]:
        """Steps at which cue, delay, reaction and post-reaction end."""
        lengths = [
            jnp.asarray(n, jnp.int32)
            for n in (
                self.cue_steps,
                self.delay_steps,
                self.reaction_steps,
                self.post_steps,
            )
        ]
        return jnp.cumsum(jnp.stack(lengths))

    @property
    def duration_steps(self) -> Int[Array, ""]:
        """Length of the unpadded trial in steps."""
        return self.ends[-1]

    def trial(self, condition, *, key=None):
        """The trial of `condition` (0 or 1); nothing else is random."""
        check_condition("condition", condition, self.num_conditions)
        period = period_at(self.ends, self.num_steps)
        one_hot = jax.nn.one_hot(1 - condition, 2)
        cue, reaction = period == 0, period == 2
        late = (period == 2) | (period == 3)
        dtype = one_hot.dtype
        return Trial(
            inputs=jnp.where(cue[:, None], one_hot, 0),
            targets=jnp.where(reaction[:, None], one_hot, 0),
            mask=balanced_mask(late.astype(dtype), (period >= 0).astype(dtype)),
            period=period,
            condition=jnp.asarray(condition, jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        """In the reaction period: how often the right output is the larger one, and
        its mean share of the sum of both."""
        return _choice(trial, outputs, answered(trial, 2, lag, self.ends))


class DelayedActivation(AbstractTask):
    """No input; the output must be 0 for the delay, then 1 for the reaction, then
    (optionally) 0 again. Used for rank-2 networks, whose initial state starts the
    clock. Arguments and errors as in `DelayedCueDiscrimination`; the paper has a
    reaction of 10 ms.
    """

    delay_steps: Int[Array, ""]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_conditions: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    reaction_steps: int = eqx.field(static=True)
    post_steps: int = eqx.field(static=True)
    periods: ClassVar[tuple[str, ...]] = ("delay", "reaction", "post_reaction")
    reference: ClassVar[str] = DelayedCueDiscrimination.reference

    def __init__(
        self,
        delay: float = 0.03,
        post_reaction: float = 0.0,
        dt: float = 5e-3,
        reaction: float = 0.01,
        num_steps: int | None = None,
    ):
        shape = DelayedCueDiscrimination(
            delay, post_reaction, dt, cue=0.0, reaction=reaction, num_steps=num_steps
        )
        self.delay_steps = shape.delay_steps
        self.reaction_steps = shape.reaction_steps
        self.post_steps = shape.post_steps
        self.num_steps = shape.num_steps
        self.dt = dt
        self.input_size, self.output_size, self.num_conditions = 0, 1, 1

    @property
    def ends(self) -> Int[Array, " period"]:
        """Steps at which delay, reaction and post-reaction end."""
        tail = jnp.asarray([self.reaction_steps, self.post_steps], jnp.int32)
        return jnp.cumsum(jnp.concatenate([self.delay_steps[None], tail]))

    @property
    def duration_steps(self) -> Int[Array, ""]:
        """Length of the unpadded trial in steps."""
        return self.ends[-1]

    def trial(self, condition=0, *, key=None):
        """The only trial there is."""
        period = period_at(self.ends, self.num_steps)
        reaction = period == 1
        target = reaction.astype(jnp.result_type(float))
        late = (period == 1) | (period == 2)
        return Trial(
            inputs=jnp.zeros((self.num_steps, 0), target.dtype),
            targets=target[:, None],
            mask=balanced_mask(
                late.astype(target.dtype), (period >= 0).astype(target.dtype)
            ),
            period=period,
            condition=jnp.zeros((), jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        """Over the whole trial: how often the output is on the right side of 1/2, and
        one minus its mean distance from the target."""
        mask = (trial.period >= 0) & (jnp.arange(self.num_steps) >= lag)
        distance = jnp.abs(outputs - trial.targets)[:, 0]
        return Score(
            accuracy=masked_mean((distance < 0.5).astype(distance.dtype), mask),
            reliability=masked_mean(1 - jnp.minimum(distance, 1), mask),
        )


class FixedResponse(AbstractTask):
    """Say at once which of two cues is shown, and go on saying it: the control in which
    nothing has to be timed.

    A one-hot cue, then silence for the length of the response; the target is the same
    one-hot at every step, from the first on. All steps weigh the same, `1/T`. Class 0
    has cue and target `(0, 1)`, class 1 `(1, 0)`.

    The response is an array, so networks with different responses train in one program
    as in `DelayedCueDiscrimination`.

    **Arguments:** durations in seconds, each a multiple of `dt`.

    - `response`: how long the answer must be held after the cue.
    - `dt`: one step.
    - `cue`: duration of the cue.
    - `num_steps`: pad to this many steps; the trial's own length by default.

    **Raises:** a `ValueError` if a duration is not a multiple of `dt`, if `response` is
    0, or if `num_steps` is too small.
    """

    response_steps: Int[Array, ""]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_conditions: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    cue_steps: int = eqx.field(static=True)
    periods: ClassVar[tuple[str, ...]] = ("cue", "response")
    reference: ClassVar[str] = DelayedCueDiscrimination.reference

    def __init__(
        self,
        response: float = 0.1,
        dt: float = 5e-3,
        cue: float = 0.03,
        num_steps: int | None = None,
    ):
        if steps_in("response", response, dt) == 0:
            raise ValueError("response = 0 s, expected at least one step of dt.")
        shape = DelayedCueDiscrimination(
            0.0, 0.0, dt, cue=cue, reaction=response, num_steps=num_steps
        )
        self.response_steps = jnp.asarray(shape.reaction_steps, jnp.int32)
        self.cue_steps = shape.cue_steps
        self.num_steps = shape.num_steps
        self.dt = dt
        self.input_size, self.output_size, self.num_conditions = 2, 2, 2

    @classmethod
    def stack(cls, responses: Any, **kwargs: Any) -> "FixedResponse":
        """One task per response as a single Module with a leading axis, padded to the
        longest (or to `num_steps=`)."""
        return _stack(cls, responses, lambda task: task.response_steps, kwargs)

    @property
    def ends(self) -> Int[Array, " period"]:
        """Steps at which cue and response end."""
        cue = jnp.asarray(self.cue_steps, jnp.int32)
        return jnp.stack([cue, cue + self.response_steps])

    @property
    def duration_steps(self) -> Int[Array, ""]:
        """Length of the unpadded trial in steps."""
        return self.ends[-1]

    def trial(self, condition, *, key=None):
        """The trial of `condition` (0 or 1); nothing else is random."""
        check_condition("condition", condition, self.num_conditions)
        period = period_at(self.ends, self.num_steps)
        one_hot = jax.nn.one_hot(1 - condition, 2)
        valid = (period >= 0).astype(one_hot.dtype)
        return Trial(
            inputs=jnp.where((period == 0)[:, None], one_hot, 0),
            targets=valid[:, None] * one_hot[None, :],
            mask=valid / jnp.sum(valid),
            period=period,
            condition=jnp.asarray(condition, jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        """In the response period: how often the right output is the larger one, and its
        mean share of the sum of both, clipped to [0, 1]."""
        return _choice(trial, outputs, answered(trial, 1, lag, self.ends))


def _choice(trial, outputs, mask):
    """How often the right output is the larger one where `mask` holds, and its share of
    the sum of both."""
    total = jnp.sum(outputs, axis=1)
    share = jnp.sum(outputs * trial.targets, axis=1)
    # Strictly larger: equal outputs are no answer.
    right = share > jnp.max(jnp.where(trial.targets > 0, -jnp.inf, outputs), axis=1)
    share = jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 0)
    confidence = jnp.clip(share, 0, 1)
    return Score(
        accuracy=masked_mean(right.astype(share.dtype), mask),
        reliability=masked_mean(confidence, mask),
    )


def _stack(cls, durations, steps_of, kwargs):
    """One task per duration with a leading axis, padded to the longest."""
    durations = [float(d) for d in np.ravel(durations)]
    if not durations:
        raise ValueError("no durations, expected one for each network.")
    kwargs = {"num_steps": cls(max(durations), **kwargs).num_steps} | kwargs
    tasks = {d: cls(d, **kwargs) for d in set(durations)}
    steps = jnp.stack([steps_of(tasks[d]) for d in durations])
    return eqx.tree_at(steps_of, tasks[durations[0]], steps)
