"""Do phases scale with the time constant? Twice tau at twice the delay.

The published control with tau = 20 ms, batch 32: slow points at a delay of 200 ms over
all ten learning rates (published 0.29; 0.40 at 100 ms with tau = 10 ms), and from which
delay on a tenth of the networks does not learn at the lowest rate, 0.001 (published
560 ms; the fitted onset lies between 543 and 570 ms). Both sweeps are resumable.

    python benchmarks/long_tau.py run [rates] [onset] --store FOLDER
    python benchmarks/long_tau.py summary --store FOLDER
"""

import argparse
import json
import pathlib

from rnndyn import _bootstrap


_bootstrap.configure()

import numpy as np
from phases_report import origin

import rnndyn as rd
from rnndyn.studies._statistics import binomial_tail
from rnndyn.studies.phases._study import long_tau_check
from rnndyn.studies.phases._summary import NOT_LEARNED, summarise
from rnndyn.studies.rank2._stats import jsonable
from rnndyn.sweeps import plan


RESULT = pathlib.Path(__file__).parent / "results" / "long_tau.json"
COMMON = {"batch": 32, "labels": ["compat"], "shard_size": 10}
SWEEPS = {
    "rates": rd.sweeps.preset("longtau", seeds=20, delay=[0.2], **COMMON),
    "onset": rd.sweeps.preset(
        "longtau",
        seeds=20,
        learning_rate=[0.001],
        delay=[0.44, 0.48, 0.52, 0.56, 0.6],
        **COMMON,
    ),
}


def order(sweep):
    """Shards: the first networks of every cell first, around the published onset."""
    members = sweep.members()
    seed, delay = members.values["seed"], members.values["delay"]
    rows = [(shard.rows[0], shard.index) for shard in plan(sweep)]
    return [i for *_, i in sorted((seed[r], abs(delay[r] - 0.56), i) for r, i in rows)]


def run(store, names):
    for name in names:
        for shard in order(SWEEPS[name]):
            rd.sweeps.run(SWEEPS[name], store / name, shards=[shard], wait=False)


def summary(store):
    """Cells that this store lacks stay as an earlier one had them."""
    rows, old = {}, json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in SWEEPS:
        rows[name] = old.get(name, "not run")
        if not (store / name).exists():
            continue
        found, state = rd.sweeps.load(store / name), rd.sweeps.status(store / name)
        if not len(found):
            continue
        cells = summarise("longtau", found)
        rows[name] = {
            "rates": cells.rates.tolist(),
            "delays_ms": cells.x.tolist(),
            "networks": cells.n.tolist(),
            "not_learned_cycle_slow_point": cells.counts().tolist(),
            "networks_planned": int(np.prod(cells.code.shape)),
            "hours_of_this_store": round(float(np.nansum(state.seconds)) / 3600, 2),
        }
        if name == "rates":
            rows[name]["check"] = long_tau_check({"longtau": cells}).to_dict()
        else:
            counts = np.asarray(cells.counts())[0]
            if isinstance(old.get(name), dict):
                before = np.array(old[name]["not_learned_cycle_slow_point"][0])
                counts = np.where(counts.sum(axis=1, keepdims=True), counts, before)
                rows[name]["not_learned_cycle_slow_point"] = [counts.tolist()]
            n = counts.sum(axis=1)
            rows[name]["networks"] = [n.tolist()]
            # `p_if_a_tenth`: how likely so many failures are, were that their share.
            rows[name]["cells"] = [
                {
                    "delay_ms": float(delay),
                    "share_not_learned": k / m,
                    "p_if_a_tenth": float(binomial_tail(int(k), int(m), 0.1)),
                }
                for delay, k, m in zip(cells.x, counts[:, NOT_LEARNED], n, strict=True)
                if m
            ]
    out = jsonable({**origin(__doc__), **rows})
    RESULT.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "summary"))
    parser.add_argument("names", nargs="*", default=list(SWEEPS))
    parser.add_argument("--store", type=pathlib.Path, required=True)
    given = parser.parse_intermixed_args()
    if given.what == "run":
        run(given.store, given.names)
    else:
        summary(given.store)
