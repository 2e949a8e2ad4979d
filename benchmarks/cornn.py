"""What does a CORNN fit cost, next to the published way of computing it?

The published iteration inverts `A = X^T X + ridge T I`, forms `A^-1 X^T` and
`A^-1 X^T X`, and repeats `theta <- A^-1 X^T X theta + A^-1 X^T E`. It is re-implemented
here in NumPy from its equations and run in the same process, on the same data.

    python benchmarks/cornn.py iterates            # agreement, CPU per step, floor
    python benchmarks/cornn.py accuracy            # CPU to the same correlation
    python benchmarks/cornn.py stream              # latency of 100 new frames
    python benchmarks/cornn.py scaling             # CPU against T and N, and a bound
    python benchmarks/cornn.py large               # N = 5,000, T = 30,000
    python benchmarks/cornn.py iterates --threads 2 --sizes 200x2000,500x5000

Times are CPU seconds of the process (with two threads, of both, and the elapsed time
of a step beside them), compilation excluded and reported apart; each is the least of
several repeats. With two threads ours runs as `rnndyn.configure` sets a process up:
operations side by side, each on one thread, BLAS too. Expected: the same iterates to
1e-8, at least 1.4 times less CPU a step at N = 200 and never more, and at least twice
less to the same correlation.
"""

import argparse
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path


RESULT = Path(__file__).parent / "results" / "cornn.json"
THREADS = int(os.environ.get("RNNDYN_BENCH_THREADS", "0"))
if THREADS:
    os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = flags
    if THREADS == 1:
        os.environ["XLA_FLAGS"] += " intra_op_parallelism_threads=1"
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

import rnndyn.fitting as fi


ALPHA, RIDGE, THRESHOLD = 0.1, 1e-5, 0.2


def record(seed, n, frames, std=(1e-2, 1e-4), poisson=False):
    """Weights and frames of the published chaotic generator."""
    rng = np.random.default_rng(seed)
    W = rng.normal(0, 3 / np.sqrt(n), (n, n))
    np.fill_diagonal(W, 0)
    r = np.empty((frames + 1, n))
    r[0] = rng.uniform(-1, 1, n)
    draw = lambda s: rng.poisson(s, n) if poisson else s * rng.normal(size=n)
    for t in range(frames):
        out = draw(std[1])
        new = np.tanh(W @ r[t] + draw(std[0])) + out
        r[t + 1] = (1 - ALPHA) * r[t] + ALPHA * new
    return W, r


def record_trials(seed, n, frames, trials=10):
    """The same network in several trials, with Poisson noise on the rates: a product
    of matrices a step, where one long trial would read all weights for every frame."""
    rng = np.random.default_rng(seed)
    W = rng.normal(0, 3 / np.sqrt(n), (n, n))
    np.fill_diagonal(W, 0)
    r = np.empty((trials, frames // trials, n))
    r[:, 0] = rng.uniform(-1, 1, (trials, n))
    for t in range(r.shape[1] - 1):
        new = np.tanh(r[:, t] @ W.T + 1e-2 * rng.normal(size=(trials, n)))
        new += rng.poisson(1e-3, (trials, n))
        r[:, t + 1] = (1 - ALPHA) * r[:, t] + ALPHA * new
    return W, r


def published(x, d, steps, each=None):
    """The published iteration; `each(k, theta)` is called after every step."""
    total = len(x)
    inverse = np.linalg.inv(x.T @ x + RIDGE * total * np.eye(x.shape[1]))
    to_theta = inverse @ x.T
    stay = to_theta @ x
    theta = to_theta @ np.arctanh(d)
    weight = 1 - d * d
    for k in range(steps):
        error = (d - np.tanh(x @ theta)) / weight
        out = np.abs(error) > THRESHOLD
        error[out] = 0
        error *= total / (total - out.sum(axis=0))
        theta = stay @ theta + to_theta @ error
        if each is not None:
            each(k + 1, theta)
    return theta


def ours(r, steps, **kwargs):
    outliers = fi.Reject(THRESHOLD)
    with threadpoolctl.threadpool_limits(1, "blas"):
        return fi.cornn(
            r, alpha=ALPHA, outliers=outliers, max_steps=steps, tol=0.0, **kwargs
        )


QUICK = {"sweep_dtype": np.float32}
VARIANTS = {
    "double": {},
    "mixed": QUICK,
    "mixed, momentum 0.3": QUICK | {"damping": fi.Momentum(0.3)},
}


def least_cpu(fn, repeats):
    """Least CPU seconds of several calls, after one that compiles."""
    start = time.process_time()
    fn()
    times = [time.process_time() - start]
    for _ in range(repeats):
        start = time.process_time()
        fn()
        times.append(time.process_time() - start)
    return min(times[1:]), times[0] - min(times[1:])


def products(x, d, dtype):
    """CPU seconds of the two products of a step alone: NumPy's and XLA's."""
    theta = np.zeros((x.shape[1], d.shape[1]), dtype)
    x, d = x.astype(dtype), d.astype(dtype)
    xt = np.ascontiguousarray(x.T)
    numpy_cpu, _ = least_cpu(lambda: (x @ theta, xt @ d), 3)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in (x, xt, d, theta)]
        both = jax.jit(lambda x, xt, d, theta: (x @ theta, xt @ d))
        xla_cpu, _ = least_cpu(lambda: jax.block_until_ready(both(*arrays)), 3)
    return {"numpy": numpy_cpu, "xla": xla_cpu}


def floor(x, d, steps, sweep_dtype=np.float64):
    """CPU seconds of the products that `steps` steps cannot do without: `X^T X` in
    float64, then `X theta` and `X^T E` in every step, NumPy's or XLA's, the quicker."""
    gram, _ = least_cpu(lambda: x.T @ x, 3)  # NumPy knows that it is symmetric
    return gram + steps * min(products(x, d, sweep_dtype).values())


def least_wall(fn, repeats):
    """Least elapsed seconds of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return min(times)


def iterates(sizes, repeats):
    """Agreement after ten steps, and the cost of a step."""
    out = {}
    for n, frames in sizes:
        _, r = record(0, n, frames)
        rows = fi.regression_rows(r, alpha=ALPHA)
        x, d = rows.x, rows.d
        gap = np.abs(published(x, d, 10) - ours(r, 10).theta)
        row = {
            "largest_difference_after_10_steps": float(gap.max()),
            "entries_beyond_1e-8": int((gap > 1e-8).sum()),
            "product_floor_s": {
                "float64": products(x, d, np.float64),
                "float32": products(x, d, np.float32),
            },
        }
        more = 10 if n < 1000 else 4
        costs = {}
        runs = {"published": functools.partial(published, x, d)}
        for name, kwargs in VARIANTS.items():
            runs[name] = functools.partial(ours, r, **kwargs)
        for name, run in runs.items():
            fixed, compiled = least_cpu(functools.partial(run, 0), repeats)
            total, _ = least_cpu(functools.partial(run, more), repeats)
            elapsed = [
                least_wall(functools.partial(run, k), repeats) for k in (more, 0)
            ]
            costs[name] = {
                "start_s": fixed,
                "step_s": (total - fixed) / more,
                "step_elapsed_s": (elapsed[0] - elapsed[1]) / more,
                "compile_s": compiled,
            }
        base = costs["published"]
        for cost in costs.values():
            cost["times_less_cpu_a_step"] = base["step_s"] / cost["step_s"]
            quicker = base["step_elapsed_s"] / cost["step_elapsed_s"]
            cost["times_less_time_a_step"] = quicker
        row["cost"] = costs
        out[f"{n}x{frames}"] = row
        print(n, frames, json.dumps(row, indent=1), flush=True)
    return out


def accuracy(sizes, repeats, target_steps=30, seeds=3):
    """CPU seconds until the correlation the published iteration has after 30 steps."""
    out = {}
    for n, frames in sizes:
        rows_out = []
        for seed in range(seeds if n < 1000 else 1):
            W, r = record(seed, n, frames)
            rows = fi.regression_rows(r, alpha=ALPHA)
            theta = published(rows.x, rows.d, target_steps)
            goal = fi.weight_correlation(W, theta.T) - 1e-4
            run = functools.partial(published, rows.x, rows.d, target_steps)
            base, _ = least_cpu(run, repeats)
            row = {"goal": float(goal), "published_s": base}
            for name, kwargs in VARIANTS.items():
                run = functools.partial(ours, r, **kwargs)
                for steps in range(5, 46):
                    if fi.weight_correlation(W, run(steps).W) >= goal:
                        break
                else:
                    row[name] = {"steps": None}
                    continue
                cpu, _ = least_cpu(functools.partial(run, steps), repeats)
                row[name] = {"steps": steps, "s": cpu, "times_less_cpu": base / cpu}
            rows_out.append(row)
            print(n, frames, seed, json.dumps(row), flush=True)
        out[f"{n}x{frames}"] = rows_out
    return out


def stream(sizes, repeats):
    """CPU and wall milliseconds of an update by 100 frames."""
    out = {}
    for n in sorted({n for n, _ in sizes}):
        _, r = record(0, n, 1300)
        for window in (1000, 20 * n):
            for steps in (0, 1, 3):
                options = {"load": RIDGE * 10 * n, "window": window}
                state = fi.stream(
                    n, alpha=ALPHA, outliers=fi.Reject(THRESHOLD), **options
                )
                cpu, wall = [], []
                for k in range(0, 100 * (repeats + 2), 100):
                    start, begun = time.process_time(), time.perf_counter()
                    state = fi.update(state, r[k : k + 100], steps=steps)
                    cpu.append(time.process_time() - start)
                    wall.append(time.perf_counter() - begun)
                row = {"cpu_ms": 1e3 * min(cpu[2:]), "wall_ms": 1e3 * min(wall[2:])}
                out[f"N={n}, window={window}, steps={steps}"] = row
                print(n, window, steps, row, flush=True)
    return out


def scaling(repeats, steps=10):
    """Exponents of the CPU of ten steps in T, in N at the published 20,000 frames, and
    in N for one trial of 100 frames; published: .9 to 1, 1.36 up to N = 3000, 2.17.
    Beside those in N, the least that is possible without being slower at the smallest
    size: there our time, at the others that of the products alone."""
    frames, neurons, short = (
        (2000, 8000, 32000),
        (101, 306, 936, 1636),
        (306, 936, 1636),
    )
    long = [(n, 20_000) for n in neurons]
    cost, least = {}, {"double": {}, "mixed": {}}
    mixed = {}
    for n, t in [(100, t) for t in frames] + long + [(n, 100) for n in short]:
        _, r = record(0, n, t)
        cost[n, t], _ = least_cpu(functools.partial(ours, r, steps), repeats)
        if (n, t) in long:
            run = functools.partial(ours, r, steps, **QUICK)
            mixed[n, t], _ = least_cpu(run, repeats)
            rows = fi.regression_rows(r, alpha=ALPHA)
            least["double"][n, t] = floor(rows.x, rows.d, steps)
            least["mixed"][n, t] = floor(rows.x, rows.d, steps, np.float32)
        print(n, t, cost[n, t], mixed.get((n, t)), flush=True)

    def exponent(cost, sizes, varied):
        x = np.log([size[varied] for size in sizes])
        y = np.log([cost[size] for size in sizes])
        return float(np.polyfit(x, y, 1)[0])

    def bound(cost, floors):
        """Of the line through both ends, and of the fitted one, which is flattest with
        our times below the mean of log N and the floor's above."""
        middle = np.mean(np.log(neurons))
        best = {s: cost[s] if np.log(s[0]) < middle else floors[s] for s in long}
        ends = exponent(best, [long[0], long[-1]], 0)
        return {"through_the_ends": ends, "fitted": exponent(best, long, 0)}

    named = lambda cost: {f"{n}x{t}": v for (n, t), v in cost.items()}
    found = {
        "exponent_in_T": exponent(cost, [(100, t) for t in frames], 1),
        "exponent_in_N": exponent(cost, long, 0),
        "least_exponent_in_N": bound(cost, least["double"]),
        "between_neighbours": [
            exponent(cost, pair, 0) for pair in zip(long, long[1:], strict=False)
        ],
        "exponent_in_N_one_trial": exponent(cost, [(n, 100) for n in short], 0),
        "cpu_s": named(cost),
        "products_cpu_s": named(least["double"]),
        "mixed": {
            "exponent_in_N": exponent(mixed, long, 0),
            "least_exponent_in_N": bound(mixed, least["mixed"]),
            "cpu_s": named(mixed),
            "products_cpu_s": named(least["mixed"]),
        },
    }
    print(json.dumps(found, indent=1))
    return found


def large(n, frames, max_steps):
    """Twenty-five million weights, Poisson noise on the rates, ten trials."""
    W, r = record_trials(0, n, frames)
    found = []
    for steps in max_steps:
        start, begun = time.process_time(), time.perf_counter()
        fit = fi.cornn(
            r, alpha=ALPHA, outliers=fi.Reject(1.0), max_steps=steps, tol=0.0, **QUICK
        )
        found.append(
            {
                "steps": steps,
                "r": float(fi.weight_correlation(W, fit.W)),
                "cpu_s": time.process_time() - start,
                "wall_s_with_compilation": time.perf_counter() - begun,
                "peak_MiB_of_the_process": resource.getrusage(
                    resource.RUSAGE_SELF
                ).ru_maxrss
                / 1024,
            }
        )
        print(n, frames, found[-1], flush=True)
    return found


def save(key, value):
    """Into the result file, beside what other parts have left there."""
    RESULT.parent.mkdir(exist_ok=True)
    data = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    data["machine"] = {
        "processor": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "numpy")},
    }
    data[key] = value
    data[key + ", load average"] = os.getloadavg()[0]
    RESULT.write_text(json.dumps(data, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("iterates", "accuracy", "stream", "scaling", "large")
    parser.add_argument("part", choices=parts)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", default="200x2000,500x5000,1000x10000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", default="0,1,4")
    args = parser.parse_args()
    if THREADS != args.threads:
        # Numbers of threads can only be set before the libraries are loaded.
        env = os.environ | {"RNNDYN_BENCH_THREADS": str(args.threads)}
        return subprocess.run([sys.executable, *sys.argv], env=env, check=True)
    sizes = [tuple(map(int, s.split("x"))) for s in args.sizes.split(",")]
    key = f"{args.part}, {args.threads} thread{'s' * (args.threads > 1)}"
    if args.part == "iterates":
        found = iterates(sizes, args.repeats)
    elif args.part == "accuracy":
        found = accuracy(sizes, args.repeats)
    elif args.part == "stream":
        found = stream(sizes, args.repeats)
    elif args.part == "scaling":
        found = scaling(args.repeats)
    else:
        found = large(*sizes[-1], [int(k) for k in args.steps.split(",")])
        key = f"{key}, {args.sizes}"
    if args.part in ("iterates", "accuracy", "stream"):
        for size, row in found.items():
            save(f"{key}, {size}", row)
        return None
    return save(key, found)


if __name__ == "__main__":
    main()
