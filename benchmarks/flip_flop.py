"""How many trials does CORNN need to recover a trained three-bit network?

Networks are trained to hold three bits, run for trials of 100 steps with recording
noise, and fitted (experiment 5 of Dinc et al. 2023, arXiv:2311.10200; theirs are not
public, and with what they were trained is not known). `score` is the correlation of
the outputs of true and fitted network, both run freely for 1000 steps.

    python benchmarks/flip_flop.py 100 1000

Expected as published: N = 100 has r >= .96 from 25 trials; with N = 1000 r crosses .9
between 400 and 1000 trials and the score jumps from below .45 to above .99 between 100
and 400. A thousand neurons take about 50 CPU-minutes beside other work. How many trials
they need hangs on how they were trained, mainly on how saturated they are: with rates
of 6e-4 (batch 32), 4e-4 and 6e-4 (batch 8) r is .62, .21, .03 from 25 trials, and .975,
.900, .551 from 400.
"""

from rnndyn import _bootstrap


_bootstrap.configure(devices=1, x64=True)

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from rnndyn.fitting import train_flip_flop
from rnndyn.studies.cornn._tasks import flip_flop


RESULT = Path(__file__).parent / "results" / "flip_flop.json"
TRAINING = {
    100: {"networks": 4, "updates": 1500, "learning_rate": 1e-2},
    1000: {"networks": 1, "updates": 5000, "batch": 8, "learning_rate": 4e-4},
}
TRIALS = {100: (25, 50, 100), 1000: (25, 50, 100, 200, 400, 600, 1000)}


def measure(neurons):
    how = dict(TRAINING[neurons])
    networks, start = how.pop("networks"), time.process_time()
    trained = train_flip_flop(
        networks, neurons, alpha=0.5, key=jax.random.key(5), **how
    )
    loss = np.asarray(trained.loss)
    print("loss", loss.reshape(networks, 10, -1).mean(axis=2).round(4), flush=True)
    row = {"training": how, "training_cpu_s": time.process_time() - start}
    data = flip_flop(
        neurons=neurons,
        networks=networks,
        trained=trained,
        trials=TRIALS[neurons],
        say=lambda text: print(text, flush=True),
    )
    return row | describe(trained.loss, data)


def describe(loss, data):
    loss = np.asarray(loss)
    late = loss[:, -loss.shape[1] // 10 :].mean(axis=1)
    named = {name: data[name].values.tolist() for name in ("r", "r_in", "score", "cpu")}
    return {"late_loss": late.tolist(), "trials": data.trials.values.tolist(), **named}


def save(neurons, row):
    """Into the result file, beside other sizes."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"networks": {}}
    found["command"] = "python benchmarks/flip_flop.py 100 1000"
    found["machine"] = {"cores": os.cpu_count(), "jax": version("jax")}
    found["networks"][str(neurons)] = row | {"load_average": os.getloadavg()[0]}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    for size in [int(a) for a in sys.argv[1:]] or [100, 1000]:
        save(size, measure(size))
