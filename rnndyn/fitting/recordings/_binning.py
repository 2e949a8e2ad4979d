"""From spike times and frames to rates on a regular grid."""

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._problem import check_in


class AbstractKernel(eqx.Module):
    """A smoothing kernel over lags in seconds; implement these two, the rest works."""

    @property
    @abc.abstractmethod
    def reach(self) -> tuple[float, float]:
        """How far it looks into the past and the future, in seconds, both >= 0."""

    @abc.abstractmethod
    def __call__(self, lag: Any) -> Any:
        """Weight of what was recorded `lag` seconds ago; any scale."""


class GaussianKernel(AbstractKernel):
    """Gaussian weights exp(-(lag / width)^2 / 2), cut at four widths.

    Two-sided by default. It then mixes the future into the present, so that one-step
    predictions of the smoothed rates look better than they are: use `causal=True`
    (the half with lag >= 0) where prediction is scored.

    **Arguments:** `width`: standard deviation in seconds; `causal`.
    """

    width: float | int
    causal: bool = False

    def __check_init__(self):
        check_in("width", self.width, "(0, inf)", "Pass a time in seconds.")

    @property
    def reach(self):
        return 4.0 * self.width, 0.0 if self.causal else 4.0 * self.width

    def __call__(self, lag):
        return np.exp(-0.5 * (np.asarray(lag) / self.width) ** 2)


class ExponentialKernel(AbstractKernel):
    """Causal weights exp(-lag / decay) for lag >= 0, cut at eight decay times.

    **Arguments:** `decay`: in seconds.
    """

    decay: float | int

    def __check_init__(self):
        check_in("decay", self.decay, "(0, inf)", "Pass a time in seconds.")

    @property
    def reach(self):
        return 8.0 * self.decay, 0.0

    def __call__(self, lag):
        return np.exp(-np.asarray(lag) / self.decay)


def kernel_weights(kernel: AbstractKernel, dt: float) -> tuple[Any, int, int]:
    """Weights by lag, from `ahead` bins into the future to `behind` into the past."""
    behind, ahead = (int(np.floor(r / dt + 1e-9)) for r in kernel.reach)
    return kernel(np.arange(-ahead, behind + 1) * dt), behind, ahead


def smooth(
    values: Any, valid: Any, kernel: AbstractKernel, dt: float
) -> Float[np.ndarray, "trial time neuron"]:
    """Weighted means over the valid bins within the kernel; NaN where there are none.

    **Arguments:** `values` `(trial, time, neuron)`; `valid` `(trial, time)`, or with
    an axis of neurons.
    """
    weights, _, ahead = kernel_weights(kernel, dt)
    valid = valid[..., None] if valid.ndim == 2 else valid
    mask = valid.astype(np.float64)
    total = np.zeros_like(values)
    norm = np.zeros_like(mask)
    filled = np.where(valid, values, 0)
    time = values.shape[1]
    for i, weight in enumerate(weights):
        lag = i - ahead
        if abs(lag) >= time:  # no two bins are that far apart
            continue
        here = slice(max(0, lag), min(time, time + lag))
        there = slice(max(0, -lag), min(time, time - lag))
        total[:, here] += weight * filled[:, there]
        norm[:, here] += weight * mask[:, there]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 0, total / norm, np.nan)


def spike_counts(spikes: Any, edges: Any) -> Float[np.ndarray, "trial time"]:
    """Spikes in the half-open bins [edge_k, edge_k+1), `edges` `(trial, time + 1)`."""
    return np.diff(np.searchsorted(np.sort(spikes), edges), axis=1).astype(np.float64)


def frame_means(
    stamps: Any, frames: Any, edges: Any
) -> Float[np.ndarray, "time neuron"]:
    """Mean of the frames whose time stamps lie in each bin; NaN in bins without any."""
    index = np.searchsorted(edges, stamps, side="right") - 1
    inside = (index >= 0) & (index < len(edges) - 1)
    index, frames = index[inside], frames[inside]
    count = np.bincount(index, minlength=len(edges) - 1)
    total = np.zeros((len(edges) - 1, frames.shape[1]))
    np.add.at(total, index, frames)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / np.where(count > 0, count, np.nan)[:, None]


def whole_bins(duration: float, width: float, exact: bool = True) -> int:
    """How many bins a duration holds, which must be whole if `exact`."""
    count = round(duration / width)
    if exact and abs(count * width - duration) > 1e-6 * width:
        raise ValueError(
            f"the window of {duration:g} s is no multiple of bin_width = {width:g} s. "
            f"Nearest: {np.floor(duration / width) * width:g} s."
        )
    return count


def covered(intervals, low, high):
    """Whether the observed intervals hold the whole window; yes if none are given."""
    if intervals is None or not len(intervals):
        return np.ones(low.shape, bool)
    slack = 1e-9 * max(1.0, float(np.abs(intervals).max()))
    a, b = intervals[np.argsort(intervals[:, 0])].T
    # Intervals that touch or overlap are one.
    end = np.maximum.accumulate(b)
    first = np.flatnonzero(np.append(True, a[1:] > end[:-1] + slack))
    last = np.append(-np.inf, np.maximum.reduceat(b, first) + slack)
    return high <= last[np.searchsorted(a[first] - slack, low, side="right")]


def nearest_frames(stamps, events, dt):
    """Number of the frame nearest to each event. Frames go on every `dt` beyond the
    ends; where there is no event (NaN) it is far out."""
    right = np.clip(np.searchsorted(stamps, events), 1, len(stamps) - 1)
    early = events - stamps[right - 1] < stamps[right] - events
    inside = right - early
    # Whole numbers hold no NaN and nothing far out.
    limit = lambda a: np.rint(np.fmin(np.fmax(a / dt, -1e15), 1e15)).astype(int)
    before = limit(events - stamps[0])
    after = len(stamps) - 1 + limit(events - stamps[-1])
    return np.where(
        events < stamps[0], before, np.where(events <= stamps[-1], inside, after)
    )
