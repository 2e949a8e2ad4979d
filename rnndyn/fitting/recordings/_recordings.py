"""Recordings of neural activity, read from NWB files."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ..._core._checks import is_in
from ..._core._export import Result
from ._binning import AbstractKernel
from ._nwb import Window, open_nwb, read_fluorescence, read_spikes, trial_columns
from ._scaling import Scaling, positions


class Spikes(eqx.Module):
    """Spike trains of the file's `Units` table, as rates in Hz."""


class Fluorescence(eqx.Module):
    """A `RoiResponseSeries`, in its own units (dF/F).

    **Arguments:** `name`: of the series or of the container it lies in. By default
    the only one of the file, or the only one inside a `DfOverF`.
    """

    name: str | None = None


class Events(eqx.Module):
    """Windows around events: trials of one length.

    **Arguments:**

    - `times`: event times in seconds of the session, shape `(event,)`, or the name of
      a column of the file's trials table, such as "start_time".
    - `before`, `after`: the window is [event - before, event + after), in seconds.
    - `where`: which trials to take: a callable from the trials table (a dictionary of
      columns) to a mask. Only with a column name.
    """

    times: Any
    before: float | int
    after: float | int
    where: Callable[[dict[str, np.ndarray]], Any] | None = None

    def __check_init__(self):
        numbers = all(is_in(v, "(-inf, inf)") for v in (self.before, self.after))
        if not numbers or self.before + self.after <= 0:
            raise ValueError(
                f"the window [event - {self.before}, event + {self.after}) is empty or "
                "endless. Pass before + after > 0, in seconds."
            )


class Recording(Result):
    """Activity on a regular grid of time. NumPy, float64.

    **Attributes:**

    - `trials`: shape `(trial, time, neuron)`; a continuous recording is one trial.
    - `times`: left edge of the bins or stamp of the frames, in seconds: of the session,
        or from the event on.
    - `dt`: width of the bins, seconds.
    - `unit_ids`: the ids that the file gives to the neurons, shape `(neuron,)`.
    - `events`: the event of each trial, seconds of the session; empty if continuous.
    - `dropped`: events without a full window, by their number; empty if none.
    - `scaling`: the map from recorded to scaled rates if `trials` are scaled.
    - `unit`: of the recorded rates; `source`: where in the file they lie.
    - `caveats`: what was assumed, in words.
    """

    trials: Float[np.ndarray, "trial time neuron"]
    times: Float[np.ndarray, " time"]
    dt: Float[np.ndarray, ""]
    unit_ids: Int[np.ndarray, " neuron"]
    events: Float[np.ndarray, " event"]
    dropped: Int[np.ndarray, " dropped"]
    scaling: Scaling | None = None
    unit: str = eqx.field(static=True, default="")
    source: str = eqx.field(static=True, default="")
    caveats: tuple[str, ...] = eqx.field(static=True, default=())

    def headline(self) -> str:
        """Trials, frames, neurons, width of the bins."""
        trials, frames, neurons = self.trials.shape
        scaled = "" if self.scaling is None else ", scaled"
        return (
            f"{trials} x {frames} frames of {self.dt:.4g} s, {neurons} neurons{scaled}"
        )

    @property
    def rates(self) -> np.ndarray:
        """What `cornn` takes: `(time, neuron)`, or `(trial, time, neuron)` if aligned
        to events."""
        return self.trials if len(self.events) else self.trials[0]

    def scaled(self, scaling: Scaling) -> "Recording":
        """The same recording in scaled rates; the map is kept in `scaling`.

        **Raises:** a `ValueError` if it is scaled already.
        """
        if self.scaling is not None:
            raise ValueError(
                "the recording is scaled already. Undo it first with `unscaled()`."
            )
        where = lambda r: (r.trials, r.scaling)
        return eqx.tree_at(
            where, self, (scaling(self.trials), scaling), is_leaf=lambda v: v is None
        )

    def unscaled(self) -> "Recording":
        """The same recording in recorded units; values cut by the scaling stay cut."""
        if self.scaling is None:
            return self
        where = lambda r: (r.trials, r.scaling)
        return eqx.tree_at(where, self, (self.scaling.invert(self.trials), None))

    def take(self, neurons: Any) -> "Recording":
        """Some of the neurons, by position or mask."""
        neurons = positions(neurons, len(self.unit_ids))
        scaling = None if self.scaling is None else self.scaling.take(neurons)
        return eqx.tree_at(
            lambda r: (r.trials, r.unit_ids, r.scaling),
            self,
            (self.trials[..., neurons], self.unit_ids[neurons], scaling),
            is_leaf=lambda v: v is None,
        )

    def split(self, *fractions: float | int) -> tuple["Recording", ...]:
        """Contiguous parts in order of time: of a continuous recording its bins, of an
        aligned one its trials, in the order of its events.

        **Arguments:** `fractions`: shares of the parts, e.g. `split(0.6, 0.2, 0.2)`;
        what is left over if they sum to less than 1 is not used.

        **Raises:** a `ValueError` if a part would be empty.
        """
        by_trial = bool(len(self.events))
        total = len(self.trials) if by_trial else len(self.times)
        if any(not f > 0 for f in fractions) or sum(fractions) > 1 + 1e-9:
            raise ValueError(
                f"fractions {fractions}, expected positive numbers that sum to <= 1."
            )
        ends = np.round(np.cumsum((0.0, *fractions)) * total).astype(int)
        if np.any(np.diff(ends) < (1 if by_trial else 2)):
            raise ValueError(
                f"{total} {'trials' if by_trial else 'frames'} cannot be split into "
                f"{fractions}: a part would be empty. Pass larger fractions."
            )
        parts = []
        for a, b in zip(ends[:-1], ends[1:], strict=True):
            if by_trial:
                leaves = lambda r: (r.trials, r.events)
                new = (self.trials[a:b], self.events[a:b])
            else:
                leaves = lambda r: (r.trials, r.times)
                new = (self.trials[:, a:b], self.times[a:b])
            parts.append(eqx.tree_at(leaves, self, new))
        return tuple(parts)


def read_nwb(
    path: Any,
    signal: Any = None,
    *,
    bin_width: float | int | None = None,
    smoothing: AbstractKernel | None = None,
    align: Events | None = None,
    units: Any = None,
    start: float | int | None = None,
    stop: float | int | None = None,
) -> Recording:
    """Rates of one recording in an NWB file.

    Spikes are counted in bins [t, t + bin_width) and divided by the width (Hz).
    Fluorescence is taken frame by frame, or averaged over the frames in each bin; with
    `conversion` and `offset` of the series applied. Then it is smoothed, and cut into
    windows around events if asked. Only the neurons and the time that are asked for are
    read from the file.

    ```python
    spikes = rd.fitting.read_nwb("a.nwb", Spikes(), bin_width=0.02, start=0, stop=600)
    cells = rd.fitting.read_nwb("b.nwb", Fluorescence("DfOverF"))
    go = Events("go_time", before=0.5, after=1.0)
    trials = rd.fitting.read_nwb("a.nwb", bin_width=0.02, align=go)
    train, test = trials.split(0.8, 0.2)
    ```

    **Arguments:**

    - `path`: of the `.nwb` file (HDF5).
    - `signal`: `Spikes()` or `Fluorescence(name)`; it may be left out where the file
      holds only one of the two.
    - `bin_width`: in seconds. Must be given for spikes. For fluorescence the default is
      the frames as they are, which then must be evenly spaced (to within 1 %).
    - `smoothing`: a kernel such as `GaussianKernel(0.05)`; none by default. Windows are
      smoothed with what lies around them; at the ends of the recording, and (windows
      of spikes) of a unit's observed intervals, the weights are renormalised.
      Acausal kernels leak the future into the present.
    - `align`: an `Events`; without it the recording is one stretch. Spike bins start
      exactly at event - before; unbinned frames are aligned to the nearest frame.
      Events whose window leaves the recording, or has a bin without frames, or (spikes)
      leaves the observed intervals of a selected unit, are dropped and listed.
    - `units`: which neurons: their ids, a mask over the table's rows, or a callable
      from the table's columns (a dictionary, with "id" and, for spikes, "num_spikes")
      to a mask. All by default.
    - `start`, `stop`: seconds of the session. For spikes the default is from the first
      to the last spike of the selected units, which is a guess and listed in `caveats`.

    **Returns:** a `Recording` in recorded units; scale it with `z_scale`. Not
    guaranteed: that the file's own metadata (rates, time stamps, observed intervals)
    are right; nothing is detrended, deconvolved or corrected for motion.

    **Raises:** an `ImportError` without pynwb; a `ValueError` where the file does not
    hold what is asked for, bins would be empty, or no event has a full window.

    **Reference:** O. Rübel et al. 2022, doi:10.7554/eLife.78362 (NWB).
    """
    for name, value in (("bin_width", bin_width), ("start", start), ("stop", stop)):
        if value is not None and not is_in(value, "(-inf, inf)"):
            raise ValueError(f"`{name}` = {value}, expected a finite time in seconds.")
    if not (align is None or isinstance(align, Events)):
        raise ValueError(
            f"`align` = {align!r}, expected windows around events: pass "
            "Events('start_time', 0.5, 1.0)."
        )
    if bin_width is not None and not bin_width > 0:
        raise ValueError(f"`bin_width` = {bin_width}, expected seconds > 0.")
    if start is not None and stop is not None and not start < stop:
        raise ValueError(f"start = {start} and stop = {stop}, expected start < stop.")
    if not (smoothing is None or isinstance(smoothing, AbstractKernel)):
        raise ValueError(
            f"smoothing = {smoothing!r}, expected a kernel: pass GaussianKernel(0.05), "
            "its width in seconds."
        )
    with open_nwb(os.fspath(path)) as file:
        signal = _default_signal(file) if signal is None else signal
        events = None if align is None else _event_times(file, align)
        window = Window(
            bin_width,
            smoothing,
            start,
            stop,
            events,
            0.0 if align is None else float(align.before),
            0.0 if align is None else float(align.after),
        )
        if isinstance(signal, Spikes):
            read = read_spikes(file, window, units)
        elif isinstance(signal, Fluorescence):
            read = read_fluorescence(file, signal.name, window, units)
        else:
            raise ValueError(
                f"`signal` is a {type(signal).__name__}, expected Spikes() or "
                "Fluorescence(name)."
            )
    return Recording(**read)


def _default_signal(file: Any) -> Spikes | Fluorescence:
    spikes = file.units is not None and "spike_times" in file.units.colnames
    kinds = {getattr(v, "neurodata_type", "") for v in file.objects.values()}
    frames = "RoiResponseSeries" in kinds
    if spikes == frames:
        what = "both spikes and fluorescence" if spikes else "neither spikes nor ROIs"
        raise ValueError(
            f"the file holds {what}, expected one of them. "
            "Pass signal=Spikes() or signal=Fluorescence(name)."
        )
    return Spikes() if spikes else Fluorescence()


def _event_times(file: Any, align: Events) -> np.ndarray:
    if not isinstance(align.times, str):
        if align.where is not None:
            raise ValueError(
                "`where` selects rows of the trials table, but `times` is an array. "
                "Pass the name of a column, or select the times yourself."
            )
        times: Sequence[float] | np.ndarray = align.times
    else:
        table = trial_columns(file)
        if align.times not in table:
            raise ValueError(
                f"the trials table has no column {align.times!r}. "
                f"Its columns are {sorted(table)}."
            )
        times = table[align.times]
        if align.where is not None:
            chosen = np.asarray(align.where(table), bool)
            if chosen.shape != times.shape:
                raise ValueError(
                    f"`where` returned shape {chosen.shape}, expected a mask of shape "
                    f"{times.shape}, one entry a trial."
                )
            times = times[chosen]
    times = np.asarray(times)
    if times.ndim != 1 or not len(times) or times.dtype.kind not in "fiu":
        raise ValueError(
            f"event times have shape {times.shape} and dtype {times.dtype}, expected "
            "(event,) numbers of seconds, not empty."
        )
    return times.astype(np.float64)
