"""Numbers of the rank-2 study: published shares, exact tests, changes of mechanism."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from ...mechanisms._winding import Rotation, winding
from ...training import LatentResult


DELAYS = (30, 40, 50, 60, 70, 80, 90, 100)
"""Delays of Figure 3C in milliseconds."""

PUBLISHED: dict[int, tuple[float, ...]] = {
    0: (0.40, 0.69, 0.82, 0.86, 0.85, 0.84, 0.83, 0.82),
    30: (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.989, 0.985),
}
"""Share of learned networks "with full rotations" by post-reaction period (ms) and
delay, labelled by hand, 100 networks a condition; read from the vector graphics of
Figure 3C of Kurtkaya, Dinc et al. 2025, arXiv:2502.17433."""


def published_share(delay: int, post: int) -> float | None:
    """The published share, `None` where there is none."""
    if post not in PUBLISHED or delay not in DELAYS:
        return None
    return PUBLISHED[post][DELAYS.index(delay)]


class Change(NamedTuple):
    """One network that came to oscillate between two checkpoints, after the loss had
    fallen below half its start.

    - `network`; `before`, `after`: epochs of the checkpoints.
    - `spike`: largest rise of the loss between them, as the ratio of the highest loss
        of a record to the median of the records around it; `exceeded`: share of the
        other intervals of the same network, none with a change, whose rise is at least
        as large, NaN where there are none.
    - `epoch`: of the largest rise; `loss`: share of the initial loss at `after`.
    """

    network: int
    before: int
    after: int
    spike: float
    exceeded: float
    epoch: int
    loss: float


def label_checkpoints(result: LatentResult, num_steps: int) -> np.ndarray:
    """Long-run behaviour at every checkpoint, codes of `Rotation`, shape
    `(members, checkpoints)`, by the late deviation (see `winding`)."""
    if result.checkpoints is None:
        raise ValueError("the result has no checkpoints. Train with checkpoints=(...).")
    kept = result.checkpoints
    shape = kept.m.shape[:2]
    count = shape[0] * shape[1]
    flatten = lambda a: a.reshape(count, *a.shape[2:]) if eqx.is_array(a) else a
    flat = jax.tree.map(flatten, kept)
    return winding(flat, num_steps, certify=False).late_code.reshape(shape)


def spikes(result: LatentResult, around: int = 10) -> np.ndarray:
    """For every record, its highest loss over the median of the losses of the records
    within `around` of it, shape `(members, records)`."""
    loss, high = np.asarray(result.history.loss), np.asarray(result.history.high)
    padded = np.pad(loss, ((0, 0), (around, around)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * around + 1, axis=1)
    return high / np.maximum(np.nanmedian(windows, axis=2), 1e-300)


def changes(result: LatentResult, codes: np.ndarray) -> list[Change]:
    """Changes from rest to oscillation within training.

    A change counts where the loss has fallen below half its start: untrained networks
    are at rest too.

    **Arguments:**

    - `result`: trained with checkpoints.
    - `codes`: of `label_checkpoints`.

    **Returns:** all `Change`s. The spike is that of the interval between two
    checkpoints: which epoch within it changed the label is not known.
    """
    marks = np.asarray(result.checkpoint_epochs)
    every = result.record_every
    rise = spikes(result)
    loss = np.asarray(result.history.loss)
    half = np.asarray(result.state.reached)[:, 0]
    found = []
    for i, row in enumerate(codes):
        peaks = [
            rise[i, a // every : b // every].max()
            for a, b in zip(marks[:-1], marks[1:], strict=True)
        ]
        changed = (row[:-1] == Rotation.rest) & (row[1:] == Rotation.cycle)
        learned = (half[i] >= 0) & (marks[:-1] >= half[i])
        still = np.asarray(peaks)[row[:-1] == row[1:]]
        share = lambda top, still=still: np.mean(still >= top) if still.size else np.nan
        for k in np.flatnonzero(changed & learned):
            inside = rise[i, marks[k] // every : marks[k + 1] // every]
            epoch = marks[k] + every * int(np.argmax(inside))
            after = min(marks[k + 1] // every, loss.shape[1] - 1)
            found.append(
                Change(
                    network=i,
                    before=int(marks[k]),
                    after=int(marks[k + 1]),
                    spike=float(inside.max()),
                    exceeded=float(share(inside.max())),
                    epoch=int(epoch),
                    loss=float(loss[i, after] / loss[i, 0]),
                )
            )
    return found


def summarise(values: Any) -> list[float]:
    """Smallest, quartiles and largest of what is finite."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return []
    return [float(v) for v in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))]


def jsonable(tree: Any) -> Any:
    """Nested dictionaries and lists with `None` for what is not finite, since JSON has
    no such numbers."""
    if isinstance(tree, dict):
        return {k: jsonable(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [jsonable(v) for v in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree
