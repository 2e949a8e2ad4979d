"""Which mechanism do networks learn, and how does the delay change it?

Trains 32 networks on delayed cue discrimination at a short and a long delay, labels
each of them and draws the picture. Expected: at 20 ms all networks rest in fixed points
reached along a slow manifold; at 100 ms many oscillate.

    python examples/01_first_ensemble.py

The full version, over delays and learning rates, is `rnndyn demo`.
"""

from rnndyn import _bootstrap


_bootstrap.configure()

import jax
import numpy as np

import rnndyn as rd


SEEDS = 16
DELAYS = (0.02, 0.1)  # seconds


def main():
    # One network per (delay, seed); the same seed starts from the same weights.
    delays = np.repeat(DELAYS, SEEDS)
    seeds = np.tile(np.arange(SEEDS), len(DELAYS))
    keys = jax.vmap(jax.random.key)(seeds)

    def build(key):
        return rd.models.RateRNN(
            2,
            64,
            2,
            tau=0.01,
            noise=1e-3,
            readout="sigmoid",
            init=rd.models.Xavier(),
            key=key,
        )

    nets = rd.models.ensemble(build, keys)
    task = rd.tasks.DelayedCueDiscrimination.stack(delays)

    result = rd.training.train(
        nets,
        task,
        optimiser=rd.training.sgd(),
        learning_rate=0.1,
        steps=600,
        batch=16,
        key=jax.random.key(1),
        progress=True,
    )
    report = rd.mechanisms.classify(result.models, task, key=jax.random.key(2))

    names = np.asarray(report.names).reshape(len(DELAYS), SEEDS)
    for delay, row in zip(DELAYS, names, strict=True):
        kinds, counts = np.unique(row, return_counts=True)
        table = ", ".join(f"{k} {c}" for k, c in zip(kinds, counts, strict=True))
        print(f"delay {1000 * delay:.0f} ms: {table}")
    print("why, for the last network:")
    print(*report.evidence(len(seeds) - 1), sep="\n")


if __name__ == "__main__":
    main()
