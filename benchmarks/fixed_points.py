"""How many distinct certified fixed points per CPU-second?

x' = -x + tanh(W x) from starts 2 N(0, 1), the same for all. Two kinds of network:
random, W = 1.5 default_rng(N).standard_normal((N, N)) / sqrt(N), whose number of fixed
points is unknown, and three stored patterns, W = 2 / N sum xi xi^T, which has 51.

Compared in one run, everything in float64:

- ours: search for roots alone from the same starts and float64 certificate; apart from
  it, ended when another start finds a new root with a chance below .02 (which is less
  work, and not what is compared), without the steps in Krylov spaces, with slow points
  too, and then with the default strategy (added starts) and eigenvalues;
- batched Levenberg-Marquardt in numpy;
- the usual way of the field: minimise the mean of q = |f|^2 / 2 over all starts by one
  Adam (compiled by JAX), whose rate falls by 5% whenever the mean has not improved
  twice, up to 5000 iterations or all q < 1e-12; then Levenberg-Marquardt from its ends.

A root is a point with q < 1e-24; mirror images of roots are granted to the others
without cost. CPU time of the process, one BLAS thread, least of the repeats;
compilation is reported apart. Also: where our time goes, and what one linear solve of
a step costs, which is why the solver uses Cholesky, in float32 for large states.

    python benchmarks/fixed_points.py [sizes ...]
"""

import os


os.environ["EQX_ON_ERROR"] = "nan"

from rnndyn import _bootstrap


_bootstrap.configure(devices=1, x64=True)

import json
import pathlib
import platform
import sys
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn.dynamics as rdd


STARTS = {64: 1024, 128: 1024, 256: 256}
REPEATS = {64: 3, 128: 1, 256: 1}


class Net(eqx.Module):
    W: jax.Array

    def __call__(self, t, x, args):
        return -x + jnp.tanh(self.W @ x)


def cpu_seconds(fn, repeats=3):
    """Result, CPU-seconds of the first call, best of the others."""
    times = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        out = fn()
        jax.block_until_ready(jax.tree.leaves(eqx.filter(out, eqx.is_array)))
        times.append(time.process_time() - begin)
    return out, times[0], min(times[1:])


def numpy_lm(W, x, iterations):
    """Plain batched Levenberg-Marquardt with Nielsen's damping."""
    x = x.copy()
    size = x.shape[1]
    f = np.tanh(x @ W.T) - x
    mu, nu = np.full(len(x), 1e-3), np.full(len(x), 2.0)
    for _ in range(iterations):
        (live,) = np.nonzero(np.sum(f * f, axis=1) > 1e-26)
        if not len(live):
            break
        xs, fs = x[live], f[live]
        jac = (1 - np.tanh(xs @ W.T) ** 2)[:, :, None] * W - np.eye(size)
        transposed = jac.transpose(0, 2, 1)
        gradient = transposed @ fs[:, :, None]
        normal = transposed @ jac + mu[live][:, None, None] * np.eye(size)
        step = -np.linalg.solve(normal, gradient)[:, :, 0]
        trial = xs + step
        f_trial = np.tanh(trial @ W.T) - trial
        old, new = np.sum(fs * fs, axis=1), np.sum(f_trial * f_trial, axis=1)
        predicted = np.sum(step * (mu[live][:, None] * step - gradient[..., 0]), axis=1)
        gain = (old - new) / np.maximum(predicted, 1e-300)
        good = new < old
        x[live[good]], f[live[good]] = trial[good], f_trial[good]
        shrunk = mu[live] * np.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        raised = np.minimum(mu[live] * nu[live], 1e30)
        mu[live] = np.where(good, shrunk, raised)
        nu[live] = np.where(good, 2.0, np.minimum(2 * nu[live], 1e15))
    return x, np.sum(f * f, axis=1) / 2


ADAM = (0.9, 0.999, 1e-8)


@partial(jax.jit, static_argnames="max_steps")
def adam_on_speed(W, x, rate, max_steps=5000):
    """Ends of one joint Adam over all starts, and the iterations it took."""
    b1, b2, small = ADAM

    def slope(x):
        t = jnp.tanh(x @ W.T)
        f = t - x
        q = 0.5 * jnp.sum(f * f, axis=1)
        return q, (((1 - t * t) * f) @ W - f) / len(x)

    def body(carry):
        x, m, v, i, rate, best, bad, _ = carry
        q, g = slope(x)
        loss = jnp.mean(q)
        better = loss < best * (1 - 1e-4)
        bad = jnp.where(better, 0, bad + 1)
        rate = jnp.where(bad > 2, 0.95 * rate, rate)
        bad = jnp.where(bad > 2, 0, bad)
        best = jnp.minimum(loss, best)
        m, v, i = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, i + 1
        step = (m / (1 - b1**i)) / (jnp.sqrt(v / (1 - b2**i)) + small)
        ended = jnp.all(q < 1e-12)
        return jnp.where(ended, x, x - rate * step), m, v, i, rate, best, bad, ended

    zero = jnp.zeros_like(x)
    carry = (x, zero, zero, 0.0, rate, jnp.inf, 0, False)
    running = lambda c: ~c[-1] & (c[3] < max_steps)
    x, _, _, i, *_ = jax.lax.while_loop(running, body, carry)
    return x, i, slope(x)[0]


def distinct(points, tol=1e-6):
    kept = []
    for x in points:
        if all(np.linalg.norm(x - y) > tol * max(1, np.linalg.norm(x)) for y in kept):
            kept.append(x)
    return np.array(kept).reshape(-1, points.shape[1])


def linear_algebra(size, lanes=64):
    """CPU-milliseconds for one solve of each kind in all lanes, and for what a
    certificate needs: the inverse, or singular vectors near singular matrices."""
    key = jax.random.key(0)
    jac = jax.random.normal(key, (lanes, size, size)) / size**0.5 - jnp.eye(size)
    f = jax.random.normal(key, (lanes, size))

    def cholesky(j, f):
        factor = jax.scipy.linalg.cho_factor(j.T @ j + 0.1 * jnp.eye(size))
        return jax.scipy.linalg.cho_solve(factor, j.T @ f)

    def lu(j, f):
        return jnp.linalg.solve(j.T @ j + 0.1 * jnp.eye(size), j.T @ f)

    def qr(j, f):
        stacked = jnp.concatenate([j, 0.1**0.5 * jnp.eye(size)])
        q, r = jnp.linalg.qr(stacked)
        return jax.scipy.linalg.solve_triangular(r, q[:size].T @ f)

    def single(j, f):
        return cholesky(j.astype(jnp.float32), f.astype(jnp.float32))

    out = {}
    kinds = {
        "cholesky_float32": single,
        "cholesky": cholesky,
        "lu": lu,
        "stacked_qr": qr,
        "inverse": lambda j, f: jnp.linalg.inv(j) @ f,
        "singular_vectors": lambda j, f: jnp.linalg.svd(j)[0] @ f,
    }
    for name, solve in kinds.items():
        batched = jax.jit(jax.vmap(solve))
        five = lambda batched=batched: [batched(jac, f) for _ in range(5)]
        out[name] = round(200 * cpu_seconds(five, 2)[2], 3)
    return out


def weights(kind, size):
    rng = np.random.default_rng(size)
    if kind == "random":
        return rng.standard_normal((size, size)) * 1.5 / size**0.5
    bits = np.arange(size)[:, None] >> np.arange(3)[None] & 1
    patterns = (1 - 2 * bits) * rng.choice([-1, 1], (size, 1))
    return 2 / size * patterns @ patterns.T


def roots_of(W, x):
    """Distinct roots among `x`, mirror images added."""
    q = 0.5 * np.sum((np.tanh(x @ W.T) - x) ** 2, axis=1)
    found = distinct(x[q < 1e-24])
    return distinct(np.concatenate([found, -found])), int(np.sum(q < 1e-24))


def peer(seconds, roots, converged, **extra):
    return {
        "cpu_s": round(seconds, 3),
        "converged": converged,
        "roots": len(roots),
        "roots_per_cpu_s": round(len(roots) / seconds, 3),
        **extra,
    }


def ours(net, x0s, repeats, spectrum=True, **options):
    """Search and certificate: cost, and what was found."""
    search = lambda: rdd.fixed_points(net, x0s, spectrum=spectrum, **options)
    points, cold, warm = cpu_seconds(search, repeats)
    decide = lambda: rdd.certify(points, spectrum=spectrum)
    final, cold_certify, warm_certify = cpu_seconds(decide, repeats)
    W, roots = np.asarray(net.W), final.roots()
    q = 0.5 * np.sum((np.tanh(roots @ W.T) - roots) ** 2, axis=1)
    mirrored = [np.linalg.norm(roots + x, axis=1).min() < 1e-8 for x in roots]
    good = len(distinct(roots[q < 1e-24]))
    steps = np.asarray(points.stats["num_steps"])
    return {
        "cpu_s": round(warm + warm_certify, 3),
        "cpu_s_first_call": round(cold + cold_certify, 3),
        "cpu_s_search": round(warm, 3),
        "cpu_s_certify": round(warm_certify, 3),
        "roots": good,
        "roots_per_cpu_s": round(good / (warm + warm_certify), 3),
        "slow_points": len(final.slow()),
        "largest_q": float(q.max()),
        "closed_under_minus": bool(np.all(mirrored)),
        "starts": int(np.sum(steps > 0)),
        "chance_of_a_new_root": float(final.coverage().unseen),
        "at_most": float(final.coverage().unseen_upper),
        "steps": int(steps.sum()),
        "longest": int(steps.max()),
    }


def measure(kind, size):
    W, count = weights(kind, size), STARTS.get(size, 256)
    repeats = REPEATS.get(size, 1)
    starts = 2 * np.random.default_rng(1).standard_normal((count, size))
    net, x0s = Net(jnp.asarray(W)), jnp.asarray(starts)
    bare = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)
    solve = linear_algebra(size)
    bare_ours = partial(ours, net, x0s, repeats, strategy=bare, spectrum=False)
    row = {
        "network": kind,
        "size": size,
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "starts": count,
        "ours": bare_ours(slow=False),
        "ours_until_unseen_below_.02": bare_ours(slow=False, unseen=0.02),
        "ours_dense": bare_ours(slow=False, solver=rdd.LevenbergMarquardt()),
        "ours_with_slow_points": bare_ours(),
        "ours_with_slow_points_added_starts_and_spectra": ours(net, x0s, repeats),
        "cpu_ms_per_solve_of_64": solve,
    }
    for iterations in (60,) if size > 128 else (60, 100):
        run = lambda n=iterations: numpy_lm(W, starts, n)
        (x, _), seconds = least(run, repeats)
        row[f"numpy_lm_{iterations}"] = peer(seconds, *roots_of(W, x))
    for rate in (1.0, 0.1):
        run = lambda rate=rate: jax.block_until_ready(adam_on_speed(net.W, x0s, rate))
        run()
        (ends, done, q), seconds = least(run, repeats if size == 64 else 1)
        polish = lambda ends=ends: numpy_lm(W, np.asarray(ends), 60)
        (x, _), extra = least(polish, repeats)
        row[f"adam_{rate:g}_and_polish"] = peer(
            seconds + extra,
            *roots_of(W, x),
            iterations=int(done),
            median_q_before_polish=float(np.median(q)),
            below_1e_12_before_polish=int(np.sum(q < 1e-12)),
            cpu_s_adam=round(seconds, 3),
        )
    rate = row["ours"]["roots_per_cpu_s"]
    best = lambda names: max(row[n]["roots_per_cpu_s"] for n in names)
    lm, adam = ([n for n in row if n.startswith(p)] for p in ("numpy_lm", "adam"))
    row["ours_over_best_numpy_lm"] = round(rate / best(lm), 2)
    row["ours_over_best_adam"] = round(rate / best(adam), 2)
    rate = row["ours_until_unseen_below_.02"]["roots_per_cpu_s"]
    row["until_unseen_over_best_adam"] = round(rate / best(adam), 2)
    print(json.dumps(row, indent=1), flush=True)
    return row


def least(fn, repeats):
    """Result and least CPU-seconds of `repeats` calls."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        out = fn()
        times.append(time.process_time() - began)
    return out, min(times)


def main(sizes):
    path = pathlib.Path(__file__).parent / "results" / "fixed_points.json"
    rows = [measure(kind, size) for size in sizes for kind in ("patterns", "random")]
    # Sizes that were not asked for stay as they were.
    if path.exists():
        old = json.loads(path.read_text())["rows"]
        rows = sorted(
            [r for r in old if r["size"] not in sizes] + rows, key=lambda r: r["size"]
        )
    result = {
        "question": __doc__.split("\n")[0],
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "load_average": os.getloadavg()[1],
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "device": str(jax.devices()[0].device_kind),
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "equinox": eqx.__version__,
            "numpy": np.__version__,
        },
        "dtype": "float64",
        "rows": rows,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]] or [64, 128, 256])
