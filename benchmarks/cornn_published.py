"""Does CORNN recover weights as well as published?

The published chaotic generator, fitted and compared with its weights; numbers go into
`results/cornn.json`.

    python benchmarks/cornn_published.py held-out  # R2 of d on the next 1000 frames
    python benchmarks/cornn_published.py poisson   # 100 networks with Poisson noise
"""

import os


os.environ.setdefault("RNNDYN_BENCH_THREADS", "1")

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from cornn import ALPHA, ours, record, save

import rnndyn.fitting as fi


def poisson(networks=100, n=200, frames=1500):
    """Correlation of the weights after 0, 10 and 30 steps with Poisson noise on
    currents and rates, all networks in one program, and what goes with a low one after
    10. Published medians of 100 networks: .323, .945, .993."""
    drawn = [
        record(100 + k, n, frames, (1e-2, 0.1), poisson=True) for k in range(networks)
    ]

    def fit(r, steps):
        outliers = fi.Reject(0.5)
        return fi.cornn(
            r, alpha=ALPHA, outliers=outliers, max_steps=steps, tol=0.0
        ).theta

    start = time.process_time()
    with jax.enable_x64(True):
        rates = jnp.asarray(np.array([r for _, r in drawn]))
        # One call a number of steps: two batched Cholesky factorisations side by side
        # block each other for ever in jaxlib 0.10.2.
        fits = jax.jit(jax.vmap(fit, (0, None)))
        thetas = np.array([np.asarray(fits(rates, k)) for k in (0, 10, 30)])
    found = {
        "networks": networks,
        "cpu_s_with_compilation": time.process_time() - start,
    }
    r = np.array(
        [
            [fi.weight_correlation(W, theta.T) for theta in thetas[:, k]]
            for k, (W, _) in enumerate(drawn)
        ]
    )
    for column, steps in enumerate((0, 10, 30)):
        row = {}
        for name, statistic in (("median", np.median), ("mean", np.mean)):
            interval = scipy.stats.bootstrap(
                (r[:, column],), statistic, method="percentile", rng=0
            ).confidence_interval
            row[name] = float(statistic(r[:, column]))
            row[f"{name}_95_percent"] = [float(v) for v in interval]
        found[f"{steps} steps"] = row
    found["lowest_after_10_steps"] = np.sort(r[:, 1])[:10].tolist()
    found["below_0.94_after_10_steps"] = int((r[:, 1] < 0.94).sum())
    frozen, awake = np.array([stillness(W, rates) for W, rates in drawn]).T
    traits = {
        "share of the mean square of rates that is in their means": frozen,
        "least share of frames that a neuron has |tanh z| < 0.9": awake,
        "correlation after 0 steps": r[:, 0],
    }
    low = np.argsort(r[:, 1])[:5]
    found["with_the_correlation_after_10_steps"] = {
        name: {
            "rank_correlation": float(scipy.stats.spearmanr(v, r[:, 1])[0]),
            "of_the_five_lowest": v[low].tolist(),
            "median": float(np.median(v)),
        }
        for name, v in traits.items()
    }
    moving = r[frozen < 0.4]
    found["mean_of_those_with_less_than_0.4_in_the_means"] = {
        "networks": len(moving),
        "r": moving.mean(axis=0).tolist(),
    }
    print(json.dumps(found, indent=1))
    return found


def stillness(W, r):
    """How little a network moves: see `poisson`."""
    frozen = np.sum(r.mean(axis=0) ** 2) / np.sum(np.mean(r**2, axis=0))
    awake = np.mean(np.abs(np.tanh(r @ W.T)) < 0.9, axis=0)
    return frozen, awake.min()


def held_out(n=200, frames=3000, seeds=10):
    """One-step R2 of d on the next 1000 frames, and r, by steps; published, of one
    network: R2 .962, .991, .994, .996."""
    rows = {k: [] for k in (0, 5, 10, 30)}
    for seed in range(seeds):
        W, r = record(seed, n, frames + 1001)
        for steps, found in rows.items():
            fit = ours(r[: frames + 1], steps)
            scores = fi.held_out(fit.theta, r[frames:], alpha=ALPHA)["model"]
            found.append((scores["r2_d"], fi.weight_correlation(W, fit.W)))
    found = {}
    for steps, values in rows.items():
        found[steps] = {
            "median_r2_d": float(np.median([v[0] for v in values])),
            "mean_r2_d": float(np.mean([v[0] for v in values])),
            "median_r": float(np.median([v[1] for v in values])),
        }
        print(steps, found[steps])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"held-out": held_out, "poisson": poisson}
    parser.add_argument("part", choices=parts)
    part = parser.parse_args().part
    save(f"{part}, 1 thread", parts[part]())
