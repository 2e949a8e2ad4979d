"""How well a task is solved: accuracy, reliability, and the paper's verdict."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..tasks import (
    AbstractTask,
    DelayedActivation,
    DelayedCueDiscrimination,
    FixedResponse,
    Trial,
)


_PUBLISHED = (DelayedCueDiscrimination, DelayedActivation, FixedResponse)

NOT_LEARNED, LEARNED, UNSTABLE = 0, 1, 2
OUTCOMES = ("not_learned", "learned", "unstable")
"""Names of the codes `outcome` returns."""


class Scores(eqx.Module):
    """Accuracy and reliability, in the paper's window and in the clean one."""

    accuracy: Float[Array, "..."]
    reliability: Float[Array, "..."]
    accuracy_clean: Float[Array, "..."]
    reliability_clean: Float[Array, "..."]


def scores(
    task: AbstractTask,
    outputs: Float[Array, "time trial output"],
    trials: Trial,
    *,
    readout: str = "before",
) -> Scores:
    """Accuracy and reliability of a batch of trials.

    A task of your own says them itself, in both windows: means of `AbstractTask.score`.
    For the published tasks they are as their code has them.

    With `p = y / sum(y)` over the outputs (0 where undefined), accuracy is the share of
    `argmax p = argmax target` and reliability the mean of `p` at the target's argmax,
    over trials and the steps of a window. A single output `y` counts
    as the pair `(y, 1 - y)`.

    - In the paper's window (`paper_window`) a network that always prefers the right
      output scores 0.95, because the window starts one step early, where the target
      `(0, 0)` counts as the first class; 0.9 and 0.944 at delays of 300 and 320 ms.
    - In the clean window (`clean_window`) it scores 1.

    Works with delays that are traced or differ between members.
    """
    if not _scored_as_published(task):
        one = lambda trial, y: task.score(trial, y, lag=int(readout == "before"))
        own = jax.vmap(one, in_axes=(0, 1))(trials, outputs)
        accuracy, reliability = jnp.mean(own.accuracy), jnp.mean(own.reliability)
        return Scores(accuracy, reliability, accuracy, reliability)
    targets = jnp.moveaxis(trials.targets, 1, 0).astype(outputs.dtype)
    if outputs.shape[-1] == 1:
        outputs = jnp.concatenate([outputs, 1 - outputs], axis=-1)
        targets = jnp.concatenate([targets, 1 - targets], axis=-1)
    share = outputs / jnp.sum(outputs, axis=-1, keepdims=True)
    share = jnp.where(jnp.isfinite(share), share, 0)
    truth = jnp.argmax(targets, axis=-1)
    miss = jnp.mean((jnp.argmax(share, axis=-1) != truth).astype(share.dtype), 1)
    right = jnp.take_along_axis(share, truth[..., None], axis=-1)
    right = jnp.mean(right[..., 0], axis=1)

    period = trials.period[0]
    clean = clean_window(task, period, readout=readout)
    paper = paper_window(task, period)

    def over(window, values):
        return jnp.sum(jnp.where(window, values, 0)) / jnp.sum(window)

    return Scores(
        accuracy=1 - over(paper, miss),
        reliability=over(paper, right),
        accuracy_clean=1 - over(clean, miss),
        reliability_clean=over(clean, right),
    )


def _scored_as_published(task: AbstractTask) -> bool:
    """Whether the task is a published one, and not of a class that says itself how well
    it is solved."""
    return any(
        isinstance(task, known) and type(task).score is known.score
        for known in _PUBLISHED
    )


def clean_window(
    task: AbstractTask, period: Any, *, readout: str = "before"
) -> Bool[Array, " time"]:
    """Steps of the reaction period, without its first one if the output is read
    before the update and so lags by a step (a reaction of one step is kept). All valid
    steps for a task without a reaction period."""
    if "reaction" not in task.periods:
        return period >= 0
    reaction = period == task.periods.index("reaction")
    if readout == "before":
        earlier = jnp.concatenate([jnp.zeros(1, bool), reaction[:-1]])
        later = reaction & earlier
        reaction = jnp.where(jnp.any(later), later, reaction)
    return reaction


def paper_window(task: AbstractTask, period: Any) -> Bool[Array, " time"]:
    """Steps the paper's code scores: `[s, e)` with

        s = int((T_cue + T_delay)/dt - 1)
        e = int((T_cue + T_delay + T_reaction)/dt - 1)

    in floating point, hence one step early, two at a delay of 300 ms, and one step
    short at 320 ms. Of a fixed response it scores the last step, `s = T - 1` (the last
    two at 300 ms). A delayed activation has no such history: it is the reaction
    period moved one step back.

    **Reference:** Kurtkaya, Dinc et al. 2025, `calculate_accuracy` of
    github.com/fatihdinc/dynamical-phases-stm.
    """
    steps = jnp.arange(period.shape[0])
    if isinstance(task, DelayedCueDiscrimination):
        # Delays are arrays, rounding is Python's: look it up.
        table = jnp.asarray(_paper_windows(task))
        start, end = table[jnp.clip(task.delay_steps, 0, table.shape[0] - 1)]
        return (steps >= start) & (steps < end)
    if isinstance(task, FixedResponse):
        table = jnp.asarray(_last_steps(task))
        start = table[jnp.clip(task.response_steps, 0, table.shape[0] - 1)]
        return (steps >= start) & (period >= 0)
    reaction = clean_window(task, period, readout="after")
    return jnp.concatenate([reaction[1:], reaction[-1:] & False])


def _paper_windows(task):
    """`(s, e)` for every delay of 0 .. num_steps steps."""
    seconds = lambda steps: round(steps * task.dt, 9)
    cue, reaction = seconds(task.cue_steps), seconds(task.reaction_steps)
    rows = []
    for steps in range(task.num_steps + 1):
        delay = seconds(steps)
        start = int((cue + delay) / task.dt - 1)
        end = int((cue + delay + reaction) / task.dt - 1)
        rows.append((max(start, 0), end))
    return np.asarray(rows, np.int32)


def _last_steps(task):
    """`s` for every response of 0 .. num_steps steps."""
    seconds = lambda steps: round(steps * task.dt, 9)
    cue = seconds(task.cue_steps)
    starts = [
        max(int((cue + seconds(n)) / task.dt - 1), 0) for n in range(task.num_steps + 1)
    ]
    return np.asarray(starts, np.int32)


def outcome(accuracy: Any, reliability: Any) -> np.ndarray:
    """The paper's verdict on training histories: learned, unstable or not learned.

    From the first epoch with accuracy and reliability above 0.8 on, epochs below 0.6
    must be rarer than one in ten of those above, and the means over the last tenth
    must exceed 0.8. A network without such an epoch, or steady but not good at the
    end, is *not learned*; one that fell back is *unstable*, even if it ends correct.

    **Arguments:**

    - `accuracy`, `reliability`: histories in the paper's window, one value an epoch,
      shape `(epochs,)` or `(members, epochs)`. Ended by NaN where training stopped.

    **Returns:** codes of `OUTCOMES`, shape `()` or `(members,)`. The verdict depends
    on how often the history was recorded.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, `sort_data.py`.
    """
    accuracy, reliability = np.asarray(accuracy), np.asarray(reliability)
    if accuracy.shape != reliability.shape or accuracy.ndim not in (1, 2):
        raise ValueError(
            f"histories have shapes {accuracy.shape} and {reliability.shape}, expected "
            "twice (epochs,) or (members, epochs)."
        )
    if accuracy.ndim == 2:
        pairs = zip(accuracy, reliability, strict=True)
        return np.asarray([outcome(a, r) for a, r in pairs], np.int32)
    known = ~np.isnan(accuracy)
    acc, rel = accuracy[known], reliability[known]
    good = np.flatnonzero((acc > 0.8) & (rel > 0.8))
    if good.size == 0:
        return np.asarray(NOT_LEARNED, np.int32)
    a, r = acc[good[0] :], rel[good[0] :]
    stable = ((a < 0.6).sum() + (r < 0.6).sum()) / (
        (a > 0.6).sum() + (r > 0.6).sum()
    ) < 0.1
    tail = -max(len(acc) // 10, 1)
    final = acc[tail:].mean() > 0.8 and rel[tail:].mean() > 0.8
    if stable:
        return np.asarray(LEARNED if final else NOT_LEARNED, np.int32)
    return np.asarray(UNSTABLE, np.int32)
