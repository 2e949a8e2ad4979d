"""Claims, publishing, size on disk and in memory of the shards of a sweep."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rnndyn import sweeps
from rnndyn.sweeps import _labels, _shard
from rnndyn.sweeps.disk import _claim, _files, _store
from rnndyn.training import _log


def test_storage_of_full_rank_networks_with_curves(tmp_path):
    # 40 networks of 100 units as if trained for 30,000 epochs, numbers that do not
    # compress; at most 120 kB a network.
    config = sweeps.preset("nopost", seeds=40, delay=[0.1], learning_rate=[0.001])
    store = _store.Store(tmp_path, config)
    states, _ = _shard.start(config, store.shards[0], store.members)
    rng = np.random.default_rng(0)
    log = _log.empty_log(40, 30_000, config.record_every, config.last, np.float32(0))
    noise = lambda a: (
        rng.random(a.shape).astype(a.dtype) if a.dtype != int else a + 30_000
    )
    log = jax.tree.map(noise, log)
    trained = sweeps.Trained(jax.tree.map(np.asarray, states), log)
    store.write_shard(store.shards[0], trained, 1.0)
    store.write_labels(store.shards[0], _labels.blank(40, 2), 1.0)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    assert 40 * 42_408 < size < 40 * 70_000
    assert len(files) < 90


def test_chunks_fit_the_memory_of_an_accelerator():
    class Device:
        platform = "gpu"

        def __init__(self, memory):
            self.memory = memory

        def memory_stats(self):
            return {"bytes_limit": self.memory}

    config = sweeps.preset("nopost", shard_size=1000)
    longest = sweeps.plan(config)[-1]
    chunk = lambda *memory: _shard.fitting_chunk(
        config, longest, [Device(m) for m in memory]
    )
    assert chunk(80 << 30) == 1000
    few = chunk(8 << 30)
    # A trajectory of 96 steps, 128 trials and 100 units is 4.9 MB, eight copies of it.
    assert 80 < few < 110 and abs(chunk(8 << 30, 8 << 30) - 2 * few) <= 1
    assert chunk(1 << 20) == 1
    assert _shard.fitting_chunk(config, longest, jax.devices()) is None


def test_claims(tmp_path):
    path = tmp_path / "claims" / "0.json"
    with _claim.Claim(path) as held:
        assert held and _claim.is_alive(path)
        with _claim.Claim(path) as second:
            assert not second
        assert path.exists()  # not given back by the one that did not get it
        assert not _claim.is_alive(path, stale=-1.0)
    assert not path.exists()
    # Of a process that is gone.
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    claim = _claim.Claim(path)
    about = json.loads(claim._content()) | {"pid": gone.pid}
    path.write_text(json.dumps(about))
    with claim as held:
        assert held
    # Of another machine, and silent for long.
    path.write_text(json.dumps(about | {"host": "elsewhere"}))
    with _claim.Claim(path) as held:
        assert not held
    os.utime(path, (time.time() - 3600,) * 2)
    with _claim.Claim(path) as held:
        assert held


def test_publishing_is_all_or_nothing(tmp_path):
    folder = tmp_path / "results" / "0"

    def fill(path):
        (path / "a.txt").write_text("a")
        return {"by": "first"}

    def breaks(path):
        (path / "a.txt").write_text("b")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _files.publish(folder, breaks)
    assert list(folder.parent.iterdir()) == []
    assert _files.publish(folder, fill)
    assert not _files.publish(folder, lambda path: {"by": "second"})
    assert json.loads((folder / "manifest.json").read_text())["by"] == "first"
    assert [p.name for p in Path(folder.parent).iterdir()] == ["0"]
    # What a killed process left is gone once it is old.
    for name, age in ((".0.new", 0), (".0.old", 1e5)):
        (folder.parent / name).mkdir()
        os.utime(folder.parent / name, (time.time() - age,) * 2)
    assert not _files.publish(folder, fill)
    assert sorted(p.name for p in folder.parent.iterdir()) == [".0.new", "0"]
    sweeps.verify(folder)
    (folder / "a.txt").write_text("changed")
    with pytest.raises(ValueError, match=r"a\.txt differ"):
        sweeps.verify(folder)
