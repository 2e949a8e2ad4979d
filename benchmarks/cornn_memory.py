"""How much memory does a fit take beside its data?

Peak of a process that fits T = 100,000 frames of N = 200 above one that has run the
same program, in units of the data, for memory that JAX can use as it is and for any.
Expected: no more than 1.5.

    python benchmarks/cornn_memory.py
"""

import os


os.environ.setdefault("RNNDYN_BENCH_THREADS", "1")

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cornn import ours, record, save


def memory(n=200, frames=100_000):
    """Peak memory of a fit above a process that has run the same program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rates.npy"
        np.save(path, record(0, n, frames)[1])
        call = [sys.executable, __file__, str(path)]
        found = {}
        for kind in ("aligned", "numpy"):
            done = subprocess.run([*call, kind], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    return found


def child(path, kind):
    """One measurement in a process of its own."""

    def resident():
        status = Path("/proc/self/status").read_text()
        take = lambda key: int(status.split(key)[1].split()[0]) / 1024
        return take("VmRSS:"), take("VmHWM:")

    def load():
        """NumPy's own memory, which JAX copies, or memory aligned as JAX's is."""
        if kind == "numpy":
            return np.load(path)
        source = np.load(path, mmap_mode="r")
        raw = np.empty(source.nbytes + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        rates = raw[skip : skip + source.nbytes].view(np.float64)
        rates = rates.reshape(source.shape)
        for k in range(0, len(source), 1000):
            rates[k : k + 1000] = source[k : k + 1000]
        return rates

    def fit():
        return ours(load(), 5)

    fit()
    gc.collect()
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, _ = resident()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    rates = load()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # loading may have held it twice
    loaded, _ = resident()
    start = time.process_time()
    ours(rates, 5)
    cpu = time.process_time() - start
    _, peak = resident()
    data = Path(path).stat().st_size / 2**20
    print(
        json.dumps(
            {
                "data_MiB": data,
                "warm_MiB": before,
                "with_the_data_MiB": loaded,
                "peak_MiB": peak,
                "data_and_fit_in_units_of_the_data": (peak - before) / data,
                "fit_in_units_of_the_data": (peak - loaded) / data,
                "cpu_s_of_5_steps": cpu,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        child(*sys.argv[1:])
    else:
        save("memory, 1 thread", memory())
