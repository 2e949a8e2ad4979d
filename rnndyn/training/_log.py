"""What is kept of an ensemble's training: a history at a stride, the last epochs, and
the counts from which the paper's verdict follows exactly."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._batch import to_host
from ._scores import LEARNED, NOT_LEARNED, UNSTABLE
from ._step import TrainInfo


class TrainLog(eqx.Module):
    """Records of every member, on the host; arrays lead with the member axis.

    - `history`: a `TrainInfo` of `(members, records)`, one record a stride.
    - `seen`: epochs that were run, also those without an update.
    - `good`: whether an epoch had accuracy and reliability above 0.8.
    - `low`, `high`: from the first such epoch on, how many accuracies and
      reliabilities lay below, and above, 0.6.
    - `loss`, `accuracy`, `reliability`: the last epochs in rings, the `e`-th epoch
      seen in slot `e % length`. The last two reach back over a tenth of the training.
    """

    history: TrainInfo
    seen: Int[np.ndarray | Array, " members"]
    good: Bool[np.ndarray | Array, " members"]
    low: Int[np.ndarray | Array, " members"]
    high: Int[np.ndarray | Array, " members"]
    loss: Float[np.ndarray | Array, "members last"]
    accuracy: Float[np.ndarray | Array, "members ring"]
    reliability: Float[np.ndarray | Array, "members ring"]

    @property
    def outcome(self) -> np.ndarray:
        """`rnndyn.training.outcome` of the whole training, whatever the stride."""
        codes = np.full(len(self.seen), NOT_LEARNED, np.int32)
        for i in np.flatnonzero(np.asarray(self.good)):
            stable = self.low[i] / self.high[i] < 0.1
            if not stable:
                codes[i] = UNSTABLE
            elif self._ends_well(i):
                codes[i] = LEARNED
        return codes

    def outcome_of(self, diverged: Any) -> np.ndarray:
        """`outcome`, but for networks that diverged, which have not learned."""
        codes, lost = self.outcome, np.asarray(diverged)
        return np.where(lost & (codes == LEARNED), NOT_LEARNED, codes)

    @property
    def ends_well(self) -> np.ndarray:
        """Whether the means of accuracy and reliability over the last tenth of the
        epochs exceed 0.8."""
        return np.asarray([self._ends_well(i) for i in range(len(self.seen))], bool)

    def last(self, epochs: int | None = None) -> dict[str, np.ndarray]:
        """Loss, accuracy and reliability of the last `epochs`, shape `(members,
        epochs)`, the last one at the end and NaN before the first."""
        length = self.loss.shape[1] if epochs is None else epochs
        names = ("loss", "accuracy", "reliability")
        out = {}
        for name in names:
            ring = np.asarray(getattr(self, name))
            out[name] = np.stack(
                [_unroll(ring[i], int(n), length) for i, n in enumerate(self.seen)]
            )
        return out

    def _ends_well(self, i):
        ring = np.asarray(self.accuracy)[i], np.asarray(self.reliability)[i]
        seen = int(self.seen[i])
        held = min(seen, len(ring[0]))
        accuracy, reliability = (_unroll(r, seen, held) for r in ring)
        known = ~np.isnan(accuracy)
        # Unknown epochs are those in which a network diverged: the last, if any.
        count = seen - int(np.sum(~known))
        if count < 1:
            return False
        tail = -max(count // 10, 1)
        ends = (accuracy[known][tail:].mean(), reliability[known][tail:].mean())
        return bool(ends[0] > 0.8 and ends[1] > 0.8)


def empty_log(count: int, steps: Any, every: int, last: int, like: Any) -> TrainLog:
    """The log of no epoch yet, for trainings of up to `max(steps)` epochs."""
    longest = int(np.max(steps))
    blank = lambda n: np.full((count, n), np.nan, like.dtype)
    fields = [f for f in TrainInfo.__dataclass_fields__ if f != "finite"]
    nothing = jnp.asarray(blank(-(-longest // every)))
    history = TrainInfo(**dict.fromkeys(fields, nothing), finite=nothing == 0)
    history = to_host(history)
    last = min(last, longest)
    # One more than a tenth: the epoch in which a network diverges does not count.
    ring = min(max(last, longest // 10 + 1), longest)
    zeros = lambda: np.zeros(count, np.int64)
    return TrainLog(
        history=history,
        seen=zeros(),
        good=np.zeros(count, bool),
        low=zeros(),
        high=zeros(),
        loss=blank(last),
        accuracy=blank(ring),
        reliability=blank(ring),
    )


def write_block(log: TrainLog, members: Any, first: Any, counts: Any, info: Any, every):
    """File the epochs `first .. first + counts` of `members`, of which `info` holds
    one row a member, at every epoch from `first` on. Changes the log's arrays."""
    members, first, counts = (np.asarray(a) for a in (members, first, counts))
    width = int(counts.max(initial=0))
    if width == 0:
        return
    info = jax.tree.map(lambda a: np.asarray(a)[: len(members), :width], info)
    valid = np.arange(width)[None, :] < counts[:, None]
    epoch = first[:, None] + np.arange(width)[None, :]
    row = np.broadcast_to(members[:, None], epoch.shape)

    # A record is the last epoch of its stride that was run.
    last_run = epoch == (first + counts - 1)[:, None]
    due = valid & (((epoch + 1) % every == 0) | last_run)
    where = row[due], epoch[due] // every

    def record(whole, part):
        whole[where] = part[due]

    jax.tree.map(record, log.history, info)

    acc, rel = info.accuracy, info.reliability
    known = valid & ~np.isnan(acc)
    good = known & (acc > 0.8) & (rel > 0.8)
    since = np.logical_or.accumulate(good, axis=1) | log.good[members][:, None]
    since = since & known
    count = lambda test: np.sum(since & test(acc), 1) + np.sum(since & test(rel), 1)
    log.low[members] += count(lambda a: a < 0.6)
    log.high[members] += count(lambda a: a > 0.6)
    log.good[members] |= good.any(axis=1)
    position = log.seen[members][:, None] + np.arange(width)[None, :]
    log.seen[members] += counts
    for name in ("loss", "accuracy", "reliability"):
        ring = getattr(log, name)
        # Only what is not overwritten by this very block.
        fits = valid & (position >= log.seen[members][:, None] - ring.shape[1])
        ring[row[fits], position[fits] % ring.shape[1]] = getattr(info, name)[fits]


def _unroll(ring: np.ndarray, seen: int, length: int) -> np.ndarray:
    """The last `length` values written to a ring, oldest first, NaN before them."""
    held = min(seen, len(ring), length)
    index = np.arange(seen - held, seen) % max(len(ring), 1)
    blank = np.full(length - held, np.nan, ring.dtype)
    return np.concatenate([blank, ring[index]])
