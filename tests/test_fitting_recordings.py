"""Recordings: NWB files, binning, scaling, held-out scores and statistics."""

import datetime
import sys

import numpy as np
import pytest

from rnndyn.fitting.recordings import _nwb
from rnndyn.fitting.recordings._binning import (
    ExponentialKernel,
    GaussianKernel,
    covered,
    nearest_frames,
)
from rnndyn.fitting.recordings._recordings import Events, Fluorescence, Spikes, read_nwb
from rnndyn.fitting.recordings._scaling import z_scale


RATE, FRAMES, CELLS, SPIKING = 4.0, 120, 6, 5


def new_file(pynwb):
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return pynwb.NWBFile("a session", "an id", start)


def add_imaging(pynwb, file, data, *, name="RoiResponseSeries", **series):
    """A `DfOverF` with one series of all ROIs."""
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel

    device = file.create_device("scope")
    channel = OpticalChannel(name="c", description="-", emission_lambda=500.0)
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="-",
        device=device,
        excitation_lambda=488.0,
        indicator="GCaMP6s",
        location="tectum",
    )
    module = file.create_processing_module("ophys", "-")
    segmentation = ImageSegmentation()
    table = segmentation.create_plane_segmentation(
        name="cells", description="-", imaging_plane=plane
    )
    module.add(segmentation)
    table.add_column("depth", "in um")
    for i in range(data.shape[1]):
        table.add_roi(pixel_mask=[(i, i, 1.0)], depth=10.0 * i, id=100 + i)
    rois = table.create_roi_table_region(
        region=list(range(data.shape[1])), description="-"
    )
    container = DfOverF()
    module.add(container)
    container.create_roi_response_series(
        name=name, data=data, rois=rois, unit="dF/F", **series
    )


def write(pynwb, file, path):
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(file)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file with spikes and trials, one with fluorescence, and what is in them."""
    pynwb = pytest.importorskip("pynwb")
    folder = tmp_path_factory.mktemp("nwb")
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 10, 20 + 7 * i)) for i in range(SPIKING)]
    file = new_file(pynwb)
    file.add_unit_column("quality", "-")
    for i, train in enumerate(trains):
        # The third unit was lost between 4 and 6 s.
        seen = [[0.0, 4.0], [6.0, 10.0]] if i == 2 else [[0.0, 10.0]]
        file.add_unit(
            spike_times=train,
            id=10 * i,
            quality="good" if i % 2 == 0 else "bad",
            obs_intervals=seen,
        )
    file.add_trial_column("go", "-")
    file.add_trial_column("correct", "-")
    for start, correct in ((0.1, True), (2.0, True), (4.5, False), (7.0, True)):
        file.add_trial(
            start_time=start, stop_time=start + 1, go=start + 0.25, correct=correct
        )
    spikes = write(pynwb, file, folder / "spikes.nwb")
    data = rng.normal(size=(FRAMES, CELLS)).astype(np.float32)
    file = new_file(pynwb)
    add_imaging(pynwb, file, data, rate=RATE, starting_time=2.0, conversion=0.5)
    frames = write(pynwb, file, folder / "frames.nwb")
    return spikes, trains, frames, data


def test_spike_counts(files):
    path, trains, _, _ = files
    found = read_nwb(path, Spikes(), bin_width=0.25, start=1.0, stop=9.1)
    assert found.rates.shape == (32, SPIKING) and found.unit == "Hz"
    for i, train in enumerate(trains):
        for k in range(32):
            left = 1.0 + 0.25 * k
            count = sum(left <= t < left + 0.25 for t in train)
            assert found.rates[k, i] == count / 0.25
    assert np.allclose(found.times, 1.0 + 0.25 * np.arange(32))
    assert list(found.unit_ids) == [0, 10, 20, 30, 40]
    assert any("not observed" in c for c in found.caveats)
    # The same without naming the signal; start and stop from what was observed.
    whole = read_nwb(path, bin_width=0.5)
    assert whole.rates.shape == (20, SPIKING)
    assert any("observed intervals" in c for c in whole.caveats)


def test_a_spike_on_an_edge_opens_its_bin(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    file = new_file(pynwb)
    # Times in whole milliseconds, as many files hold them.
    file.add_unit(spike_times=np.round(0.01 * np.arange(1000), 2))
    path = write(pynwb, file, tmp_path / "edges.nwb")
    for width, spikes in ((0.1, 10), (0.02, 2)):
        found = read_nwb(path, bin_width=width, start=0, stop=10)
        assert np.allclose(found.rates * width, spikes)


def test_unit_selection(files):
    path, trains, _, _ = files
    options = dict(bin_width=0.5, start=0.0, stop=10.0)
    by_id = read_nwb(path, units=[40, 10], **options)
    assert list(by_id.unit_ids) == [40, 10]
    assert by_id.rates[:, 1].sum() * 0.5 == len(trains[1])
    good = read_nwb(path, units=lambda c: c["quality"] == "good", **options)
    assert list(good.unit_ids) == [0, 20, 40]
    busy = read_nwb(path, units=lambda c: c["num_spikes"] > 30, **options)
    assert list(busy.unit_ids) == [20, 30, 40]
    mask = read_nwb(path, units=np.arange(5) == 3, **options)
    assert list(mask.unit_ids) == [30]
    for bad in ([3], np.ones(4, bool), lambda c: c["num_spikes"] > 1e6):
        with pytest.raises(ValueError, match="units"):
            read_nwb(path, units=bad, **options)


def test_aligned_spikes(files):
    path, trains, _, _ = files
    go = Events("go", before=0.5, after=1.0)
    found = read_nwb(path, bin_width=0.1, align=go, start=0.0, stop=10.0)
    # The first begins before the recording, the third where a unit was not observed.
    assert list(found.dropped) == [0, 2] and np.allclose(found.events, [2.25, 7.25])
    assert found.rates.shape == (2, 15, SPIKING)
    assert np.allclose(found.times, -0.5 + 0.1 * np.arange(15))
    edges = 2.25 - 0.5 + 0.1 * np.arange(16)
    assert np.array_equal(found.rates[0, :, 1] * 0.1, np.histogram(trains[1], edges)[0])
    some = Events("go", 0.5, 1.0, where=lambda t: t["correct"] & (t["start_time"] > 3))
    assert read_nwb(path, bin_width=0.1, align=some).rates.shape == (1, 15, SPIKING)
    times = Events(np.array([3.0, 8.0]), before=0.0, after=1.0)
    again = read_nwb(path, bin_width=0.1, align=times, units=[0])
    assert again.rates.shape == (2, 10, 1)
    for align, words in (
        (Events("nothing", 0.5, 1.0), "no column"),
        (Events("go", 0.5, 1.03), "no multiple"),
        (Events(np.array([99.0]), 0.5, 1.0), "full window"),
        (Events(np.array([3.0]), 0.5, 1.0, where=len), "where"),
        (Events("correct", 0.5, 1.0), "dtype bool"),
    ):
        with pytest.raises(ValueError, match=words):
            read_nwb(path, bin_width=0.1, align=align)
    with pytest.raises(ValueError, match="is empty"):
        Events("go", 0.5, -0.5)


def test_windows_are_smoothed_with_what_lies_around(files):
    path, _, _, _ = files
    kernel = GaussianKernel(0.1)
    options = dict(bin_width=0.1, units=[0, 10], start=0.0, stop=10.0)
    whole = read_nwb(path, smoothing=kernel, **options)
    # 2.5 s lies on the grid of the whole recording.
    align = Events(np.array([2.5]), before=0.5, after=1.0)
    window = read_nwb(path, smoothing=kernel, align=align, **options)
    assert np.allclose(window.rates[0], whole.rates[20:35], atol=1e-12)
    assert whole.rates.sum() == pytest.approx(
        read_nwb(path, **options).rates.sum(), rel=0.02
    )


def test_unobserved_time_is_not_silence(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    file = new_file(pynwb)
    train = np.arange(0.01, 10, 0.02)  # 50 Hz
    seen = train[(train < 5) | (train > 7)]
    file.add_unit(spike_times=seen, obs_intervals=[[7.0, 10.0], [0.0, 5.0]])
    file.add_unit(spike_times=train, obs_intervals=[[0.0, 10.0]])
    path = write(pynwb, file, tmp_path / "gap.nwb")
    align = Events([4.5, 6.5, 7.5], 0.5, 0.5)
    kernel = GaussianKernel(0.2)
    found = read_nwb(path, align=align, bin_width=0.1, smoothing=kernel)
    assert list(found.dropped) == [1]
    assert np.allclose(found.rates, 50, atol=1e-9)
    # One unit's gap is no gap of the others.
    alone = read_nwb(path, align=align, bin_width=0.1, smoothing=kernel, units=[1])
    assert np.array_equal(alone.rates[[0, 2], :, 0], found.rates[:, :, 1])


def test_windows_in_observed_intervals():
    rng = np.random.default_rng(8)
    low = rng.uniform(0, 10, (20, 6))
    high = low + rng.uniform(0.1, 2, low.shape)
    spans = rng.uniform(0, 8, (5, 1)) + [0.0, 2.0]
    spans[0] = 1.0, 9.0  # holds others
    moments = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, 5001)
    seen = np.any([(a <= moments) & (moments <= b) for a, b in spans], axis=0)
    assert np.array_equal(covered(spans, low, high), seen.all(axis=-1))
    assert covered(None, low, high).all()


def test_intervals_that_touch_or_overlap_are_one():
    low, high = np.array([1.5, 4.5, 6.5, 9.5]), np.array([2.5, 5.5, 7.5, 10.5])
    touching = np.array([[5.0, 10.0], [0.0, 5.0]])
    assert covered(touching, low, high).tolist() == [True, True, True, False]
    overlapping = np.array([[0.0, 5.2], [5.1, 6.0], [6.6, 11.0]])
    assert covered(overlapping, low, high).tolist() == [True, True, False, True]


def test_events_go_to_the_nearest_stamp_of_a_clock_that_drifts():
    # Every interval within 1 % of the median, 20 frames off after 5000.
    stamps = np.cumsum(np.append(0, np.repeat([0.0996, 0.1004], 5000)))
    frames = np.array([0, 100, 4999, 5001, 9990])
    found = nearest_frames(stamps, stamps[frames] + 0.03, 0.1)
    assert found.tolist() == frames.tolist()
    outside = np.array([-0.21, stamps[-1] + 0.19])
    assert nearest_frames(stamps, outside, 0.1).tolist() == [-2, 10002]
    assert abs(nearest_frames(stamps, np.array([np.nan]), 0.1)[0]) > 1e14


def test_files_that_are_no_recordings_are_refused(tmp_path):
    pytest.importorskip("pynwb")
    (tmp_path / "text.nwb").write_text("no HDF5")
    with pytest.raises(ValueError, match="cannot be opened as NWB"):
        read_nwb(tmp_path / "text.nwb")
    for path in (tmp_path / "none.nwb", tmp_path):
        with pytest.raises(ValueError, match="no file"):
            read_nwb(path)


def test_spike_times_that_are_no_times_are_refused(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    file = new_file(pynwb)
    file.add_unit(spike_times=[1.0, np.nan, 3.0], id=7)
    path = write(pynwb, file, tmp_path / "nan.nwb")
    with pytest.raises(ValueError, match=r"units \[7\] hold spike times that are NaN"):
        read_nwb(path, bin_width=0.5, start=0.0, stop=4.0)


def test_fluorescence_as_it_is(files, monkeypatch):
    _, _, path, data = files
    monkeypatch.setattr(_nwb, "BLOCK", 7)
    found = read_nwb(path)
    assert np.array_equal(found.rates, 0.5 * data.astype(np.float64))
    assert found.dt == 1 / RATE and found.times[0] == 2.0 and found.unit == "dF/F"
    assert found.source == "ophys/DfOverF/RoiResponseSeries"
    part = read_nwb(
        path,
        Fluorescence("DfOverF"),
        units=lambda c: c["depth"] > 25,
        start=4.0,
        stop=8.0,
    )
    assert list(part.unit_ids) == [103, 104, 105]
    assert np.array_equal(part.rates, 0.5 * data[8:24, 3:].astype(np.float64))
    swapped = read_nwb(path, units=[104, 101])
    assert np.array_equal(swapped.rates, found.rates[:, [4, 1]])


def test_fluorescence_in_bins_and_windows(files):
    _, _, path, data = files
    frames = 0.5 * data.astype(np.float64)
    halves = read_nwb(path, bin_width=0.5)
    assert np.allclose(halves.rates, frames.reshape(-1, 2, CELLS).mean(axis=1))
    # Event at 7.1 s: the nearest frame is number 20, at 7 s.
    align = Events(np.array([7.1, 31.9, 12.0]), before=1.0, after=2.0)
    found = read_nwb(path, align=align)
    assert list(found.dropped) == [1] and found.rates.shape == (2, 12, CELLS)
    assert np.array_equal(found.rates[0], frames[16:28])
    assert np.allclose(found.times, np.arange(-4, 8) / RATE)
    assert any("to within 0.125" in c for c in found.caveats)
    binned = read_nwb(path, align=align, bin_width=0.5)
    assert binned.rates.shape == (2, 6, CELLS)
    # [6.1, 6.6) holds the frames at 6.25 and 6.5 s.
    assert np.allclose(binned.rates[0, 0], frames[17:19].mean(axis=0))
    causal = read_nwb(path, align=align, smoothing=ExponentialKernel(0.5))
    whole = read_nwb(path, smoothing=ExponentialKernel(0.5))
    assert np.allclose(causal.rates[1], whole.rates[36:48])
    with pytest.raises(ValueError, match="hold no frame"):
        read_nwb(path, bin_width=0.1)


@pytest.mark.parametrize("before", [0.0, 0.5])
@pytest.mark.parametrize("bin_width", [None, 0.25])
def test_trials_without_the_event_are_dropped(files, before, bin_width):
    _, _, frames, _ = files
    times = np.array([np.nan, 10.0, np.inf, 12.0, -1e300])
    go = Events(times, before=before, after=1.0)
    found = read_nwb(frames, align=go, bin_width=bin_width)
    assert found.dropped.tolist() == [0, 2, 4]
    assert found.events.tolist() == [10.0, 12.0]


def test_only_what_is_asked_for_is_read(files, monkeypatch):
    spikes, trains, frames, _ = files
    asked = []
    plain = _nwb._read_block

    def watched(series, a, b, cols):
        asked.append((a, b, list(cols)))
        return plain(series, a, b, cols)

    monkeypatch.setattr(_nwb, "_read_block", watched)
    align = Events(np.array([12.0, 7.0]), before=1.0, after=2.0)
    read_nwb(frames, align=align, units=[101, 102])
    assert asked == [(36, 48, [1, 2]), (16, 28, [1, 2])]
    asked.clear()
    read_nwb(frames, start=10.0, stop=11.0)
    assert asked == [(32, 36, list(range(CELLS)))]


def test_uneven_frames_and_gaps(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    stamps = np.arange(40) / 10.0
    stamps[20:] += 1.0  # one second is missing
    data = np.random.default_rng(1).normal(size=(40, 3))
    file = new_file(pynwb)
    add_imaging(pynwb, file, data, timestamps=stamps)
    path = write(pynwb, file, tmp_path / "gap.nwb")
    with pytest.raises(ValueError, match="unevenly spaced"):
        read_nwb(path)
    rates = np.concatenate([np.arange(20) / 10, 2 + np.arange(100) / 20])
    file = new_file(pynwb)
    more = np.random.default_rng(2).normal(size=(120, 3))
    add_imaging(pynwb, file, more, timestamps=rates)
    two = write(pynwb, file, tmp_path / "two.nwb")
    assert read_nwb(two, stop=2.0).dt == pytest.approx(0.1)
    assert read_nwb(two, start=2.0).dt == pytest.approx(0.05)
    even = read_nwb(path, stop=2.0)
    assert even.dt == pytest.approx(0.1)
    np.testing.assert_array_equal(even.rates, data[:20])
    with pytest.raises(ValueError, match="5 of 25 bins"):
        read_nwb(path, bin_width=0.2)
    before = read_nwb(path, bin_width=0.2, stop=2.0)
    assert np.allclose(before.rates, data[:20].reshape(10, 2, 3).mean(axis=1))
    align = Events(np.array([0.4, 2.0, 3.6]), before=0.4, after=0.4)
    found = read_nwb(path, bin_width=0.2, align=align)
    assert list(found.dropped) == [1]


@pytest.mark.parametrize("bin_width", [None, 0.5])
@pytest.mark.parametrize("align", [None, Events(np.array([10.0, 20.0]), 1.0, 1.0)])
def test_missing_samples_are_those_of_a_neuron(tmp_path, bin_width, align):
    pynwb = pytest.importorskip("pynwb")
    data = np.random.default_rng(3).normal(size=(FRAMES, 4))
    data[40, 2] = np.nan  # at 10 s
    file = new_file(pynwb)
    add_imaging(pynwb, file, data, rate=RATE, starting_time=0.0)
    path = write(pynwb, file, tmp_path / "missing.nwb")
    with pytest.raises(ValueError, match=r"units \[102\] hold NaN"):
        read_nwb(path, bin_width=bin_width, align=align)
    rest = read_nwb(path, bin_width=bin_width, align=align, units=[100, 101])
    assert np.isfinite(rest.trials).all() and not len(rest.dropped)


def test_a_clock_that_was_reset(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    stamps = np.arange(FRAMES) / RATE
    stamps[60:] -= 5
    file = new_file(pynwb)
    add_imaging(pynwb, file, np.zeros((FRAMES, 2)), timestamps=stamps)
    path = write(pynwb, file, tmp_path / "reset.nwb")
    for bin_width in (None, 0.5):
        with pytest.raises(ValueError, match="1 of which lie before the one before"):
            read_nwb(path, bin_width=bin_width)


def test_files_that_do_not_hold_it(files, tmp_path, monkeypatch):
    pynwb = pytest.importorskip("pynwb")
    spikes, _, frames, _ = files
    with pytest.raises(ValueError, match="bin_width"):
        read_nwb(spikes)
    with pytest.raises(ValueError, match="no RoiResponseSeries"):
        read_nwb(spikes, Fluorescence())
    with pytest.raises(ValueError, match="no Units table"):
        read_nwb(frames, Spikes(), bin_width=0.1)
    with pytest.raises(ValueError, match="0 RoiResponseSeries match"):
        read_nwb(frames, Fluorescence("Neuropil"))
    with pytest.raises(ValueError, match="no trials table"):
        read_nwb(frames, align=Events("start_time", 0.5, 0.5))
    with pytest.raises(ValueError, match="bin_width"):
        read_nwb(spikes, bin_width=-1.0)
    with pytest.raises(ValueError, match="expected start < stop"):
        read_nwb(spikes, bin_width=0.1, start=5.0, stop=1.0)
    with pytest.raises(ValueError, match="hold doubles"):
        read_nwb(spikes, bin_width=0.1, units=[10, 10])
    with pytest.raises(ValueError, match="expected Spikes"):
        read_nwb(frames, "DfOverF")
    empty = write(pynwb, new_file(pynwb), tmp_path / "empty.nwb")
    with pytest.raises(ValueError, match="neither"):
        read_nwb(empty)
    file = new_file(pynwb)
    data = np.ones((20, 3))
    data[5, 1] = np.nan
    add_imaging(pynwb, file, data, rate=1.0)
    bad = write(pynwb, file, tmp_path / "nan.nwb")
    with pytest.raises(ValueError, match=r"\[101\]"):
        read_nwb(bad)
    assert read_nwb(bad, units=[100, 102]).rates.shape == (20, 2)
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(ImportError, match=r"rnndyn\[nwb\]"):
        read_nwb(frames)


def test_options_of_reading_are_checked(files):
    spikes, _, _, _ = files
    with pytest.raises(ValueError, match="endless"):
        Events([1.0], before=np.inf, after=1.0)
    with pytest.raises(ValueError, match=r"`where` returned shape \(2,\)"):
        where = lambda table: np.array([0, 2])
        go = Events("go", before=0.1, after=0.1, where=where)
        read_nwb(spikes, bin_width=0.1, align=go)


def test_parts_of_a_recording(files):
    spikes, _, frames, _ = files
    whole = read_nwb(frames)
    train, valid, test = whole.split(0.5, 0.25, 0.25)
    assert [len(p.rates) for p in (train, valid, test)] == [60, 30, 30]
    assert np.array_equal(test.rates, whole.rates[90:]) and test.times[0] == 24.5
    scaling = z_scale(train.rates)
    scaled = train.scaled(scaling)
    assert np.abs(scaled.rates).max() == pytest.approx(0.95)
    assert np.array_equal(scaled.scaling.scale, scaling.scale)
    assert np.allclose(scaled.unscaled().rates, train.rates)
    with pytest.raises(ValueError, match="scaled already"):
        scaled.scaled(scaling)
    assert scaled.take(2).rates.shape == (60, 1)
    assert np.allclose(scaled.take(2).unscaled().rates, train.rates[:, [2]])
    some = scaled.take([2, 0])
    assert list(some.unit_ids) == [102, 100]
    assert np.allclose(some.unscaled().rates, train.rates[:, [2, 0]])
    trials = read_nwb(
        spikes,
        bin_width=0.1,
        units=[0],
        align=Events(np.array([2.0, 4.0, 6.0]), 0.5, 0.5),
    )
    first, last = trials.split(0.7, 0.3)
    assert len(first.rates) == 2 and np.allclose(last.events, [6.0])
    with pytest.raises(ValueError, match="empty"):
        trials.split(0.1, 0.9)
    with pytest.raises(ValueError, match="sum to"):
        whole.split(0.9, 0.2)
    pytest.importorskip("xarray")
    table = trials.to_xarray()
    assert table.trials.dims == ("trial", "time", "neuron")
