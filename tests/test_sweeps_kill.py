"""Processes that are killed, that work side by side, and that have other devices."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rnndyn import sweeps
from rnndyn.sweeps.disk import _store


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CONFIG = """
units = 12
batch = 4
min_epochs = 3000
rate_epochs = 0.0
record_every = 100
last = 200
shard_size = 6
labels = ["compat"]
[grid]
learning_rate = [0.1, 0.03]
delay = [0.0, 0.02]
seed = 6
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A configuration, the environment of its processes, and an uninterrupted run."""
    folder = tmp_path_factory.mktemp("kill")
    config = folder / "sweep.toml"
    config.write_text(CONFIG)
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"PYTHONPATH": str(ROOT), "RNNDYN_CACHE": str(folder / "cache")}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    command(config, folder / "whole", env).communicate(timeout=500)
    return config, env, sweeps.load(folder / "whole")


def command(config, out, env, *more):
    code = "from rnndyn.cli import main; main()"
    words = ["sweep", "run", str(config), "--out", str(out), "--checkpoint", "0.1"]
    words = [sys.executable, "-c", code, *words, *more]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)


def same(a, b, tolerance=1e-6):
    assert a.complete and b.complete
    for name in ("id", "outcome", "compat_code", "steps", "diverged"):
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name])
    ours, theirs = a.groups(), b.groups()
    for (rows, nets, _), (rows_, nets_, _) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(rows, rows_)
        for x, y in zip(jax.tree.leaves(nets), jax.tree.leaves(nets_), strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_killed_five_times_at_random_moments(setting, tmp_path):
    config, env, whole = setting
    rng = random.Random(5)
    seen = set()
    for _ in range(5):
        process = command(config, tmp_path, env)
        # Wait for work to begin, then for a random moment of it.
        deadline = time.time() + 120
        before = progress(tmp_path)
        while process.poll() is None and progress(tmp_path) == before:
            assert time.time() < deadline
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(process.returncode)
        for folder in (tmp_path / "shards").glob("[0-9]*"):
            sweeps.verify(folder)
    assert -signal.SIGKILL in seen
    out, _ = command(config, tmp_path, env).communicate(timeout=500)
    assert "24 of 24 networks" in out
    same(sweeps.load(tmp_path), whole)


def progress(out):
    """Changes whenever a checkpoint or a shard is written."""
    files = [*out.glob("work/*.safetensors"), *out.glob("shards/[0-9]*/manifest.json")]
    stamps = []
    for path in files:
        try:
            stamps.append((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return sorted(stamps)


def test_two_processes_on_one_folder(setting, tmp_path):
    config, env, whole = setting
    both = [command(config, tmp_path, env) for _ in range(2)]
    texts = [p.communicate(timeout=500)[0] for p in both]
    assert all("24 of 24 networks" in t for t in texts)
    same(sweeps.load(tmp_path), whole)
    for kind in ("shards", "labels"):
        folders = list((tmp_path / kind).iterdir())
        assert sorted(f.name for f in folders) == ["00000", "00001", "00002", "00003"]
        for folder in folders:
            sweeps.verify(folder)
    assert not list((tmp_path / "claims").iterdir())


def test_parts_of_an_array_job(setting, tmp_path):
    config, env, whole = setting
    for part in ("0/2", "1/2"):
        out, _ = command(config, tmp_path, env, "--shard", part).communicate(
            timeout=500
        )
    assert "24 of 24 networks" in out
    same(sweeps.load(tmp_path), whole)


def test_worker_processes(setting, tmp_path):
    config, env, whole = setting
    env = {k: v for k, v in env.items() if k != "XLA_FLAGS"}
    out, _ = command(config, tmp_path, env, "--workers", "2").communicate(timeout=500)
    assert "24 of 24 networks" in out
    # One device instead of two, 3000 epochs: the same up to rounding at these rates.
    same(sweeps.load(tmp_path), whole, 2e-2)


def test_one_and_four_devices(tmp_path):
    code = (
        "import sys, json, jax; from rnndyn import sweeps\n"
        "assert jax.device_count() == int(sys.argv[1])\n"
        "config = sweeps.SweepConfig.from_dict(json.loads(sys.argv[2]))\n"
        "sweeps.run(config, sys.argv[3])\n"
    )
    rates = sweeps.preset("nopost").grid.axes["learning_rate"]
    config = sweeps.SweepConfig.from_dict(
        {
            "grid": {"learning_rate": rates, "seed": 2},
            "units": 16, "batch": 8, "delay": 0.02, "min_epochs": 20,
            "rate_epochs": 0.0, "labels": [],
        }
    )  # fmt: skip
    runs = []
    for devices in (1, 4):
        flag = f"--xla_force_host_platform_device_count={devices}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        env |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flag}
        out = tmp_path / str(devices)
        words = [str(devices), json.dumps(config.to_dict()), str(out)]
        subprocess.run([sys.executable, "-c", code, *words], env=env, check=True)
        runs.append(sweeps.load(out))
    same(*runs, 1e-5)


def test_a_dask_worker_is_killed(setting, tmp_path):
    distributed = pytest.importorskip("distributed")
    config, env, whole = setting
    config = sweeps.SweepConfig.from_toml(config)
    for name, value in env.items():
        os.environ.setdefault(name, value)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    killed = []
    with cluster, distributed.Client(cluster) as client:
        import threading

        def kill():
            # As soon as a checkpoint is there, the worker that wrote it.
            deadline = time.time() + 200
            while time.time() < deadline and not killed:
                for i, state in enumerate(sweeps.status(tmp_path).state):
                    claim = tmp_path / "claims" / f"{i:05d}.json"
                    if (
                        state == "running"
                        and (tmp_path / "work" / f"{i:05d}.safetensors").exists()
                    ):
                        pid = json.loads(claim.read_text())["pid"]
                        assert pid != os.getpid()
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        break
                time.sleep(0.02)

        _store.Store(tmp_path, config).create()
        thread = threading.Thread(target=kill)
        thread.start()
        sweep = sweeps.run(
            config,
            tmp_path,
            executor=client.get_executor(),
            checkpoint_seconds=0.1,
            devices=2,
        )
        thread.join()
    assert len(killed) == 1
    same(sweep, whole, 2e-2)
