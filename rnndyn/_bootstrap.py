"""Environment before JAX starts: the one place that touches global settings.

Used by the command line, the tests, the benchmarks and sweep workers, never by the
library. Call it before the first array is made:

    from rnndyn import _bootstrap            # does nothing by itself
    _bootstrap.configure()
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path


def configure(
    *, devices: int | None = None, cache: bool = True, x64: bool = False
) -> dict[str, str]:
    """Set BLAS threads, one XLA CPU device per core and the compilation cache.

    Values already in the environment are respected.

    **Arguments:**

    - `devices`: CPU devices; by default one per core, when only the CPU is used.
    - `cache`: keep compiled programs in `~/.cache/rnndyn` (`RNNDYN_CACHE` to move it).
    - `x64`: start JAX in float64.

    **Returns:** the variables that were set.

    Not guaranteed: an effect on devices and BLAS threads after the first array was
    made or the first factorisation was run; `rnndyn doctor` shows what is in force.
    """
    cores = devices or available_cores()
    wanted = {
        # OpenBLAS threads make batched small factorisations 15-200 times slower.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": " ".join(_xla_flags(cores)),
    }
    if cache:
        folder = Path(os.environ.get("RNNDYN_CACHE", Path.home() / ".cache" / "rnndyn"))
        wanted["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        wanted["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        wanted["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    if x64:
        wanted["JAX_ENABLE_X64"] = "1"
    done = {k: v for k, v in wanted.items() if k not in os.environ}
    os.environ.update(done)
    if "jax" in sys.modules:  # pytest plugins import it; its flags are read on import
        jax = sys.modules["jax"]
        for name, value in done.items():
            if name.startswith("JAX_"):
                flag = name.lower()
                number = flag.endswith(("secs", "bytes"))
                typed = int(value) if number else value
                jax.config.update(flag, True if flag == "jax_enable_x64" else typed)
    return done


def _xla_flags(cores: int) -> list[str]:
    flags = [f"--xla_force_host_platform_device_count={cores}"]
    if cores > 1:
        # One device a core, each on one thread, keeps small networks in its cache.
        flags.append("--xla_cpu_multi_thread_eigen=false")
    # An unknown flag aborts the process: this one only where it is known to exist.
    if has_avx512() and version("jaxlib").startswith("0.10."):
        # LLVM prefers 256 bits; noise and tanh in 512 make an epoch of training
        # 100 units 18% faster on a Zen 5 (benchmarks/train_ensemble.py).
        flags.append("--xla_cpu_prefer_vector_width=512")
    return flags


def has_avx512() -> bool:
    """Whether this processor has AVX-512, as far as Linux says."""
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def available_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
