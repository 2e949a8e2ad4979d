"""How many certified fixed points of random networks per CPU-second?

x' = -x + tanh(W x), W = 1.5 default_rng(N).standard_normal((N, N)) / sqrt(N), from 1024
starts 2 N(0, 1): our search (added starts, float64 certificate, eigenvalues included)
against a batched Levenberg-Marquardt in numpy with the same starts. CPU time of the
process, one BLAS thread, compilation reported apart. Also: what one linear solve of a
step costs, which is why the solver uses Cholesky.

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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn.dynamics as rdd


STARTS = 1024


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


def distinct(points, tol=1e-6):
    kept = []
    for x in points:
        if all(np.linalg.norm(x - y) > tol * max(1, np.linalg.norm(x)) for y in kept):
            kept.append(x)
    return np.array(kept).reshape(-1, points.shape[1])


def linear_algebra(size, lanes=64):
    """CPU-milliseconds for one solve of each kind in all lanes."""
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

    out = {}
    for name, solve in (("cholesky", cholesky), ("lu", lu), ("stacked_qr", qr)):
        batched = jax.jit(jax.vmap(solve))
        ten = lambda batched=batched: [batched(jac, f) for _ in range(10)]
        out[name] = round(100 * cpu_seconds(ten, 5)[2], 3)
    return out


def measure(size):
    W = np.random.default_rng(size).standard_normal((size, size)) * 1.5 / size**0.5
    starts = 2 * np.random.default_rng(1).standard_normal((STARTS, size))
    net, x0s = Net(jnp.asarray(W)), jnp.asarray(starts)
    points, cold, warm = cpu_seconds(lambda: rdd.fixed_points(net, x0s))
    final, cold_certify, warm_certify = cpu_seconds(lambda: rdd.certify(points))
    roots = final.roots()
    q = 0.5 * np.sum((np.tanh(roots @ W.T) - roots) ** 2, axis=1)
    mirrored = [np.linalg.norm(roots + x, axis=1).min() < 1e-8 for x in roots]
    row = {
        "size": size,
        "starts": STARTS,
        "starts_with_added": int(points.x.shape[0]),
        "roots": len(roots),
        "slow_points": len(final.slow()),
        "largest_q": float(q.max()),
        "closed_under_minus": bool(np.all(mirrored)),
        "largest_condition": float(final.condition[final.mask].max()),
        "cpu_s_first_call": round(cold + cold_certify, 3),
        "cpu_s_search": round(warm, 3),
        "cpu_s_certify": round(warm_certify, 3),
        "cpu_ms_per_solve_of_64": linear_algebra(size),
    }
    for iterations in (60, 100):
        begin = time.process_time()
        x, q = numpy_lm(W, starts, iterations)
        seconds = time.process_time() - begin
        found = distinct(x[q < 1e-24])
        row[f"numpy_lm_{iterations}"] = {
            "cpu_s": round(seconds, 3),
            "converged": int(np.sum(q < 1e-24)),
            "roots": len(found),
            "roots_with_mirror_images": len(distinct(np.concatenate([found, -found]))),
        }
    return row


def main(sizes):
    result = {
        "question": __doc__.split("\n")[0],
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
        "rows": [measure(size) for size in sizes],
    }
    path = pathlib.Path(__file__).parent / "results" / "fixed_points.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]] or [64, 128])
