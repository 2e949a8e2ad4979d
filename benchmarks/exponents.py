"""How the critical delay scales with the learning rate, as far as a machine gets.

The published networks and cues without a period after the reaction, batch 8 (published:
128; the trials of a cue differ in noise and start alone): ten learning rates from 0.316
to 0.0014, all 21 delays, 20 networks a cell. The sweep is cut into shards of ten
networks of one cell and worked on in the order of what a shard says for its cost, until
the minutes are over; the same command goes on later, and several processes may share a
folder. What is there is then fitted: the published procedure with seeds resampled, and
maximum likelihood with censored cells. Fewer rates, delays or networks than planned
bias both (20 networks a cell already lower the exponent of the published data by 0.2),
so the JSON says what is missing and what it would cost.

    python benchmarks/exponents.py run --minutes 60 --store FOLDER
    python benchmarks/exponents.py summary --store FOLDER
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import time

from rnndyn import _bootstrap


_bootstrap.configure()

import numpy as np
from phases_report import origin

import rnndyn as rd
from rnndyn.studies.phases._exponents import boundary
from rnndyn.studies.phases._summary import summarise
from rnndyn.studies.rank2._stats import jsonable
from rnndyn.sweeps import plan


RESULT = pathlib.Path(__file__).parent / "results" / "exponents.json"
BATCH = 8
HALF = 10  # networks a shard, half a cell


def config():
    return rd.sweeps.preset(
        "nopost",
        seeds=20,
        batch=BATCH,
        learning_rate=np.geomspace(0.316, 0.0014, 10).tolist(),
        shard_size=HALF,
        labels=["compat"],
    )


def order(sweep):
    """Shards, first those that add most to a cell for their length."""
    members = sweep.members()
    rate, delay = members.values["learning_rate"], members.values["delay"]
    seen: dict = {}
    ranked = []
    for shard in plan(sweep):
        row = shard.rows[0]
        cell = (rate[row], delay[row])
        seen[cell] = seen.get(cell, 0) + 1
        ranked.append((seen[cell] * members.epochs[row], shard.index))
    return [index for _, index in sorted(ranked)]


class TimeIsUp(Exception):
    pass


def run(store, minutes):
    sweep, began = config(), time.time()
    spent = _spent(store) / f"{os.getpid()}-{began:.0f}.txt"
    spent.parent.mkdir(parents=True, exist_ok=True)

    def after_each(line):
        print(line, flush=True)
        spent.write_text(f"{time.process_time():.1f}")
        if time.time() - began > 60 * minutes:
            raise TimeIsUp

    options = dict(shards=order(sweep), wait=False, say=after_each)
    with contextlib.suppress(TimeIsUp):
        rd.sweeps.run(sweep, store, checkpoint_seconds=120, **options)


def _spent(store):
    return store.with_name(store.name + "-cpu")


def summary(store):
    found, state = rd.sweeps.load(store), rd.sweeps.status(store)
    cells = summarise("nopost", found)
    epochs = found.config.members().epochs
    steps = np.asarray(found.arrays["steps"])
    # What every process has used so far, compilation included.
    spent = [float(p.read_text()) for p in _spent(store).glob("*.txt")]
    done = sum(w for w, s in zip(state.work, state.state, strict=True) if s == "done")
    out = {
        **origin(__doc__),
        "networks": {"planned": len(epochs), "trained": len(steps)},
        "network_epochs": {"planned": int(epochs.sum()), "trained": int(steps.sum())},
        "batch": BATCH,
        "cpu_hours": round(sum(spent) / 3600, 2),
        "cpu_hours_missing": round(
            sum(spent) / 3600 * (float(np.sum(state.work)) / done - 1), 1
        ),
        "rates": cells.rates.tolist(),
        "delays_ms": cells.x.tolist(),
        "networks_a_cell": cells.n.tolist(),
        "not_learned_cycle_slow_point": cells.counts().tolist(),
    }
    for which in ("no_solution", "slow_point"):
        fit = complete_rates(cells, which)
        out[which] = fit if fit is not None else "too few complete rates to fit"
    out = jsonable(out)
    RESULT.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps({k: v for k, v in out.items() if k != "networks_a_cell"}))


def complete_rates(cells, which):
    """The fits over the rates of which every cell holds as many networks."""
    for count in range(int(cells.n.max(initial=0)), 0, -1):
        rows = np.all(cells.n >= count, axis=1)
        if rows.sum() < 3:
            continue
        code = cells.code[rows]
        full = np.stack([[c[c >= 0][:count] for c in row] for row in code])
        part = dataclasses.replace(cells, rates=cells.rates[rows], code=full)
        found = boundary(part, which)
        if found is None:
            continue
        row = {
            "rates": part.rates.tolist(),
            "networks_a_cell": count,
            "exponent": found.published.exponent,
            "interval": [found.low, found.high],
            "critical_delays_ms": np.asarray(found.published.delays).tolist(),
        }
        if found.likelihood is not None:
            fit = found.likelihood
            row["likelihood"] = [fit.exponent, fit.low, fit.high]
        return row
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "summary"))
    parser.add_argument("--store", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    if given.what == "run":
        run(given.store, given.minutes)
    else:
        summary(given.store)
