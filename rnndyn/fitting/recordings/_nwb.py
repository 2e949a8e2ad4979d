"""What pynwb has to say about a file, reduced to arrays on a grid."""

import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from ._binning import (
    AbstractKernel,
    covered,
    frame_means,
    kernel_weights,
    nearest_frames,
    smooth,
    spike_counts,
    whole_bins,
)


BLOCK = 8192  # frames read at once


class Window(NamedTuple):
    """What to cut out of a recording, times in seconds."""

    bin_width: float | None
    kernel: AbstractKernel | None
    start: float | None
    stop: float | None
    events: Any
    before: float
    after: float


@contextlib.contextmanager
def open_nwb(path: str):
    try:
        import pynwb
    except ImportError as error:
        raise ImportError(
            "read_nwb needs pynwb, which is not installed. Run "
            'pip install "rnndyn[nwb]".'
        ) from error
    if not os.path.isfile(path):
        raise ValueError(f"no file {path}, expected one in the NWB format.")
    try:
        io = pynwb.NWBHDF5IO(path, "r")  # pyright: ignore[reportCallIssue]
    except (OSError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be opened as NWB ({error}), expected an HDF5 file in that "
            "format."
        ) from error
    with io:
        yield io.read()


def trial_columns(file: Any) -> dict[str, np.ndarray]:
    if file.trials is None:
        raise ValueError(
            "the file has no trials table. Pass the event times as an array."
        )
    return {
        name: column
        for name in file.trials.colnames
        if (column := _plain_column(file.trials, name)) is not None
    }


def read_spikes(file: Any, window: Window, units: Any) -> dict[str, Any]:
    table = file.units
    if table is None or "spike_times" not in table.colnames:
        raise ValueError(
            "the file has no Units table with spike times. For imaging pass "
            "signal=Fluorescence()."
        )
    if window.bin_width is None:
        raise ValueError(
            "spikes need a `bin_width` in seconds, such as bin_width=0.02: the network "
            "is fitted to rates on that grid."
        )
    ends = np.asarray(table.spike_times_index.data[:], np.int64)
    columns = {
        name: column
        for name in table.colnames
        if (column := _plain_column(table, name)) is not None
    }
    ids = np.asarray(table.id[:], np.int64)
    columns |= {"id": ids, "num_spikes": np.diff(ends, prepend=0)}
    rows = _select(units, ids, columns, "units")
    trains = [np.asarray(table.spike_times_index[int(i)], float) for i in rows]
    finite = [np.isfinite(t).all() for t in trains]
    lost = [int(i) for i, ok in zip(ids[rows], finite, strict=True) if not ok]
    if lost:
        raise ValueError(
            f"units {lost[:10]} hold spike times that are NaN or infinite, expected "
            "seconds. Leave them out with `units`, or mend the file."
        )
    observed = [None] * len(rows)
    if "obs_intervals" in table.colnames:
        observed = [np.asarray(table["obs_intervals"][int(i)], float) for i in rows]
    caveats = []
    start, stop = window.start, window.stop
    if start is None or stop is None:
        known = [o for o in observed if o is not None and len(o)]
        spans = known if len(known) == len(rows) else [t for t in trains if len(t)]
        if not spans:
            raise ValueError("none of the selected units has spikes: pass start, stop.")
        what = "observed intervals" if spans is known else "first and last spike"
        start = min(np.min(s) for s in spans) if start is None else start
        stop = max(np.max(s) for s in spans) if stop is None else stop
        caveats.append(f"start and stop were taken from the {what} of the units")
    width = window.bin_width
    grid = _grid(window, width, float(start), float(stop))
    # A spike on an edge belongs to the bin it opens, whatever the rounding.
    edges = grid.edges - 1e-6 * width
    counts = np.stack([spike_counts(t, edges) for t in trains], axis=-1)
    full = np.ones(len(grid.edges), bool)
    for intervals in observed:
        full &= covered(intervals, grid.low, grid.high)
    if window.events is None and not full.all():
        caveats.append("some units were not observed all the time: their rates are 0")
        full[:] = True
    if window.events is not None and window.kernel is not None:
        # What was not observed beside a window is unknown, not silent.
        ends = grid.edges[:, :-1], grid.edges[:, 1:]
        seen = np.stack([covered(o, *ends) for o in observed], axis=-1)
        if not seen.all():
            grid = grid._replace(valid=grid.valid[..., None] & seen)
    return _finish(
        counts / width, grid, window, full, width, ids[rows], caveats, "Hz", "units"
    )


def read_fluorescence(
    file: Any, name: str | None, window: Window, units: Any
) -> dict[str, Any]:
    series = _find_series(file, name)
    shape = series.data.shape
    rois = np.asarray(series.rois.data[:], np.int64)
    if len(shape) != 2 or shape[1] != len(rois):
        raise ValueError(
            f"{_path(series)} has data of shape {shape} for {len(rois)} ROIs, expected "
            "(time, roi). The file does not follow the schema; rewrite it."
        )
    table = series.rois.table
    columns = {
        n: c[rois] for n in table.colnames if (c := _plain_column(table, n)) is not None
    }
    ids = np.asarray(table.id[:], np.int64)[rois]
    columns["id"] = ids
    cols = _select(units, ids, columns, "ROIs")
    stamps = _stamps(series)
    steps = np.diff(stamps)
    dt = float(np.median(steps)) if len(steps) else 0.0
    if dt <= 0 or not (steps >= 0).all():
        raise ValueError(
            f"{_path(series)} has {len(stamps)} frames, {int((steps < 0).sum())} of "
            "which lie before the one before, expected two or more in order of time. "
            "Was the clock reset? Mend the time stamps in the file."
        )
    unit = str(series.unit)
    start = stamps[0] if window.start is None else window.start
    # The last frame lasts as long as the others.
    stop = stamps[-1] + dt if window.stop is None else window.stop
    get = lambda a, b: _read_block(series, a, b, cols)
    caveats: list[str] = []
    if window.bin_width is None:
        used = stamps
        if window.events is None:  # a gap elsewhere does no harm
            ends = np.asarray([start, stop]) - 1e-6 * dt
            used = stamps[slice(*np.searchsorted(stamps, ends))]
            used = stamps if len(used) < 2 else used
        dt = float(np.median(np.diff(used))) or dt
        uneven = np.abs(np.diff(used) / dt - 1).max()
        if uneven > 0.01:
            raise ValueError(
                f"the frames of {_path(series)} are unevenly spaced: intervals deviate "
                f"by up to {uneven:.0%} from {dt:g} s. Pass a bin_width in seconds, or "
                "start and stop of an even stretch."
            )
        dt = (used[-1] - used[0]) / (len(used) - 1)
        return _by_frame(
            get, stamps, dt, window, start, stop, ids[cols], unit, _path(series)
        )
    width = window.bin_width
    grid = _grid(window, width, float(start), float(stop))
    values = []
    # A frame on an edge belongs to the bin it opens, whatever the rounding.
    for edges in grid.edges - 1e-6 * width:
        a, b = np.searchsorted(stamps, (edges[0], edges[-1]))
        values.append(frame_means(stamps[a:b], get(a, b), edges))
    values = np.stack(values)
    # A neuron with NaN is another matter, told below.
    empty = np.isnan(values).all(axis=2) & grid.valid
    full = ~empty[:, grid.cut].any(axis=1)
    if window.events is None and not full[0]:
        raise ValueError(
            f"{int(empty.sum())} of {empty.shape[1]} bins of {width} s hold no frame "
            f"(frames every {dt:g} s). Pass a wider bin_width, or start and stop "
            "without the gap."
        )
    grid = grid._replace(valid=grid.valid & ~empty)
    return _finish(
        values, grid, window, full, width, ids[cols], caveats, unit, _path(series)
    )


class _Grid(NamedTuple):
    edges: Any  # (trial, padded time + 1)
    valid: Any  # (trial, padded time[, neuron]): bins inside the recording
    cut: slice  # of the padded bins
    times: Any
    low: Any  # (trial,) ends of the window, without padding
    high: Any
    inside: Any  # (trial,)


def _grid(window: Window, width: float, start: float, stop: float) -> _Grid:
    """Bins of every window, padded by the reach of the kernel."""
    slack = 1e-6 * width
    behind, ahead = 0, 0
    if window.kernel is not None:
        _, behind, ahead = kernel_weights(window.kernel, width)
    if window.events is None:
        zero, first = np.array([start]), 0.0
        bins = int(np.floor((stop - start) / width + 1e-6))
        behind = ahead = 0  # there is nothing outside
    else:
        zero, first = window.events, -window.before
        bins = whole_bins(window.before + window.after, width)
    if bins < 2:
        raise ValueError(
            f"{bins} bins of {width} s between {start:g} and {stop:g} s, expected at "
            "least 2. Pass a smaller bin_width or a longer stretch."
        )
    steps = np.arange(-behind, bins + ahead + 1)
    edges = zero[:, None] + first + steps * width
    valid = (edges[:, :-1] >= start - slack) & (edges[:, 1:] <= stop + slack)
    low, high = zero + first, zero + first + bins * width
    inside = (low >= start - slack) & (high <= stop + slack)
    times = first + np.arange(bins) * width
    if window.events is None:
        times = times + start
    return _Grid(edges, valid, slice(behind, behind + bins), times, low, high, inside)


def _finish(values, grid, window, full, dt, ids, caveats, unit, source):
    """Smooth, cut the padding off, drop the windows that are not full."""
    if window.kernel is not None:
        values = smooth(values, grid.valid, window.kernel, dt)
    values = values[:, grid.cut]
    kept = grid.inside & full
    if window.events is not None and not kept.any():
        raise ValueError(
            f"none of the {len(kept)} events has a full window "
            f"[-{window.before}, {window.after}) s inside the recording. Are the event "
            "times in seconds of the session?"
        )
    values = values[kept]
    if not np.isfinite(values).all():
        bad = ids[~np.isfinite(values).all(axis=(0, 1))]
        raise ValueError(
            f"units {bad[:10].tolist()} hold NaN or infinite samples. Leave them out "
            "with `units`, or cut the time with `start` and `stop`."
        )
    return {
        "trials": values,
        "times": grid.times,
        "dt": np.asarray(dt, np.float64),
        "unit_ids": ids,
        "events": np.zeros(0) if window.events is None else window.events[kept],
        "dropped": np.flatnonzero(~kept),
        "unit": unit,
        "source": source,
        "caveats": tuple(caveats),
    }


def _by_frame(get, stamps, dt, window, start, stop, ids, unit, source):
    """Frames as they are, on a grid of frame numbers."""
    slack = 1e-6 * dt
    first = int(np.searchsorted(stamps, start - slack))
    last = int(np.searchsorted(stamps, stop - slack))  # exclusive
    behind, ahead = 0, 0
    if window.kernel is not None:
        _, behind, ahead = kernel_weights(window.kernel, dt)
    caveats = []
    if window.events is None:
        rows, count = np.array([first]), last - first
        behind = ahead = 0
        times = stamps[first:last]
    else:
        count = whole_bins(window.before + window.after, dt, exact=False)
        shift = round(window.before / dt)
        rows = nearest_frames(stamps, window.events, dt) - shift
        times = (np.arange(count) - shift) * dt
        apart = np.diff(stamps).max() / 2
        caveats = [f"events were aligned to frames, to within {apart:g} s"]
    if count < 2:
        raise ValueError(
            f"{count} frames between {start:g} and {stop:g} s, expected at least 2. "
            f"The file holds {stamps[0]:g} to {stamps[-1]:g} s."
        )
    inside = (rows >= first) & (rows + count <= last)
    index = rows[:, None] + np.arange(-behind, count + ahead)
    valid = (index >= first) & (index < last)
    # Rows of windows that leave the recording are dropped below: read none for them.
    values = np.zeros((*index.shape, len(ids)))
    for i in np.flatnonzero(inside):
        a, b = index[i][valid[i]][[0, -1]]
        values[i, valid[i]] = get(int(a), int(b) + 1)
    grid = _Grid(None, valid, slice(behind, behind + count), times, None, None, inside)
    full = np.ones(len(rows), bool)
    return _finish(values, grid, window, full, dt, ids, caveats, unit, source)


def _select(units, ids, columns, what):
    """Rows that were asked for."""
    if units is None:
        return np.arange(len(ids))
    chosen = np.asarray(units(columns) if callable(units) else units)
    if chosen.dtype == bool:
        if chosen.shape != ids.shape:
            raise ValueError(
                f"the mask of {what} has shape {chosen.shape}, expected {ids.shape}."
            )
        rows = np.flatnonzero(chosen)
    else:
        place = {int(v): i for i, v in enumerate(ids)}
        unknown = [v for v in chosen.ravel().tolist() if v not in place]
        if unknown:
            raise ValueError(
                f"{what} {unknown[:10]} are not in the file. Its ids are "
                f"{ids[:10].tolist()}{' ...' if len(ids) > 10 else ''}."
            )
        rows = np.array([place[int(v)] for v in chosen.ravel()], int)
        if len(set(rows)) < len(rows):
            raise ValueError(f"{what} {chosen.ravel().tolist()[:10]} hold doubles.")
    if not len(rows):
        raise ValueError(f"the selection leaves none of the {len(ids)} {what}.")
    return rows


def _plain_column(table, name):
    """A column with one number or word a row, read; None for ragged and linked ones."""
    column = table[name]
    data = getattr(column, "data", column)
    if name in ("spike_times", "obs_intervals", "pixel_mask", "voxel_mask"):
        return None
    shape = getattr(data, "shape", None)
    if shape is None:
        data = np.asarray(data, dtype=None if len(data) else float)
        shape = data.shape
    if len(shape) != 1 or type(column).__name__ not in ("VectorData", "ndarray"):
        return None
    return np.asarray(data[:])


def _find_series(file, name):
    found = [
        v
        for v in file.objects.values()
        if getattr(v, "neurodata_type", "") == "RoiResponseSeries"
    ]
    if not found:
        raise ValueError(
            "the file has no RoiResponseSeries. For spikes pass signal=Spikes()."
        )
    paths = [_path(v) for v in found]
    if name is None:
        chosen = found
        if len(found) > 1:
            chosen = [
                v for v in found if getattr(v.parent, "neurodata_type", "") == "DfOverF"
            ]
    else:
        chosen = [
            v
            for v, p in zip(found, paths, strict=True)
            if name == p or name in p.split("/")
        ]
    if len(chosen) != 1:
        raise ValueError(
            f"{len(chosen)} RoiResponseSeries match name={name!r}, expected one. "
            f"The file holds {paths}: pass Fluorescence with one of these."
        )
    return chosen[0]


def _path(series) -> str:
    parts = [series.name]
    node = series.parent
    while node is not None and getattr(node, "neurodata_type", "") != "NWBFile":
        parts.append(node.name)
        node = node.parent
    return "/".join(reversed(parts))


def _stamps(series):
    if series.timestamps is not None:
        return np.asarray(series.timestamps[:], np.float64)
    start = 0.0 if series.starting_time is None else float(series.starting_time)
    return start + np.arange(series.data.shape[0]) / float(series.rate)


def _read_block(series, a, b, cols):
    """Frames a to b of some columns in float64, a block at a time."""
    out = np.empty((max(0, b - a), len(cols)))
    low, high = int(cols.min()), int(cols.max()) + 1
    for i in range(a, b, BLOCK):
        j = min(b, i + BLOCK)
        block = np.asarray(series.data[i:j, low:high], np.float64)
        out[i - a : j - a] = block[:, cols - low]
    conversion = 1.0 if series.conversion is None else float(series.conversion)
    offset = float(getattr(series, "offset", 0.0) or 0.0)
    # Multiplying by 1 and adding 0 changes nothing, not even the last bit.
    return out * conversion + offset
