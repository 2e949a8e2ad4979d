"""Do networks trained as published fall into the published phases?

Trains cells of the phase diagram (100 units, SGD with momentum, 1000 epochs or more as
published; batches of 32 trials, not 128), labels every network twice, as published and
by the certified attractor of each cue, and compares the fractions with the published
ones within 99 % binomial bands.

    python benchmarks/phases.py train --store /tmp/phases   # resumable, a file a cell
    python benchmarks/phases.py label --store /tmp/phases   # resumable
    python benchmarks/phases.py check --store /tmp/phases   # the table and the JSON

Weights and histories stay in the store, so that labels can be made again.
"""

import argparse
import json
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np


os.environ.setdefault("EQX_ON_ERROR", "nan")

N, BATCH, SIGMA, TAU, DT = 100, 32, 1e-3, 0.01, 0.005
RESULT = Path(__file__).parent / "results" / "phases.json"


class Cell(NamedTuple):
    """One cell of the phase diagram: durations in ms."""

    delay: int
    rate: float
    post: int = 0
    networks: int = 20

    @property
    def epochs(self):
        """The published budget."""
        return max(1000, round((100 if self.post else 30) / self.rate))

    @property
    def name(self):
        return f"delay{self.delay}-post{self.post}-lr{self.rate:g}"


def _cells():
    """In the order in which they are run."""
    cells = [
        # no delay, at any learning rate
        Cell(0, 0.316, networks=40),
        Cell(0, 0.1, networks=40),
        Cell(0, 0.01),
        # single cells
        Cell(40, 0.1, networks=100),
        Cell(100, 0.03, networks=100),
        Cell(80, 0.1, networks=100),
        Cell(80, 0.1, 30, networks=40),
        # the post-response period makes limit cycles
        Cell(100, 0.01, networks=40),
        Cell(100, 0.01, 30, networks=20),
        *(Cell(d, r, 30) for r in (0.1, 0.03) for d in (0, 20, 40, 60)),
        # long delays, and the row at 0.1
        Cell(200, 0.1, networks=40),
        Cell(400, 0.1, networks=20),
        *(Cell(d, 0.1, networks=40) for d in (100, 120, 140, 20, 60, 160, 180, 220)),
        Cell(300, 0.1),
        # slow points are rare with a post-response period
        *(Cell(d, 0.1, 30) for d in (100, 120, 160, 200)),
        Cell(200, 0.03, networks=40),
        *(Cell(d, 0.03, 30) for d in (100, 200)),
        Cell(0, 0.001, networks=16),
        Cell(200, 0.01),
        *(Cell(d, 0.01, 30, networks=16) for d in (0, 40, 200)),
        Cell(240, 0.1),
        Cell(260, 0.1),
    ]
    return tuple(cells)


CELLS = _cells()


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def networks(ids):
    """Network `i` starts from the same weights in every cell, as published."""
    import jax

    import rnndyn as rd

    def build(key):
        init = rd.models.Xavier()
        return rd.models.RateRNN(
            2, N, 2, tau=TAU, noise=SIGMA, init=init, readout="sigmoid", key=key
        )

    root = jax.random.key(0)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(np.asarray(ids))
    return rd.models.ensemble(build, keys)


def task_of(cell):
    import rnndyn as rd

    return rd.tasks.DelayedCueDiscrimination(cell.delay / 1000, cell.post / 1000)


def say(text):
    print(text, flush=True)


def write(path, arrays):
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def read(path):
    with np.load(path) as stored:
        return dict(stored)


# -------------------------------------------------------------------------- training


def train(store, cells):
    """Networks of every cell; a cell that has too few gets more."""
    for cell in cells:
        path = store / f"{cell.name}.npz"
        old = read(path) if path.exists() else None
        have = 0 if old is None else len(old["outcome"])
        if have >= cell.networks:
            continue
        new = train_some(cell, np.arange(have, cell.networks))
        if old is not None:
            add = ("seconds", "cpu_seconds")
            new = {
                k: v + old[k] if k in add else np.concatenate([old[k], v])
                for k, v in new.items()
            }
        write(path, new)
        each = 1e3 * float(new["cpu_seconds"]) / (cell.networks * cell.epochs)
        outcomes = np.bincount(new["outcome"], minlength=3).tolist()
        say(f"{cell.name}: {outcomes}, {each:.2f} CPU ms an epoch")


def train_some(cell, ids):
    import equinox as eqx
    import jax

    import rnndyn as rd
    from rnndyn._core._store import named_leaves

    began, cpu = time.perf_counter(), cpu_seconds()
    result = rd.training.train(
        networks(ids),
        task_of(cell),
        optimiser=rd.training.sgd(),
        learning_rate=cell.rate,
        steps=cell.epochs,
        batch=BATCH,
        key=jax.random.key(1),
        ids=ids,
    )
    named = named_leaves(eqx.filter(result.models, eqx.is_array))
    arrays = {f"weights/{k}": np.asarray(v) for k, v in named.items()}
    for name, value in vars(result.history).items():
        if name != "finite":
            arrays[f"history/{name}"] = np.asarray(value, np.float32)
    arrays["outcome"] = result.outcome
    arrays["diverged"] = np.asarray(result.diverged)
    arrays["seconds"] = np.asarray(time.perf_counter() - began)
    arrays["cpu_seconds"] = np.asarray(cpu_seconds() - cpu)
    return arrays


# -------------------------------------------------------------------------- labelling


def trained(stored):
    """The networks of a file."""
    import equinox as eqx
    import jax.numpy as jnp

    like = networks(np.arange(len(stored["outcome"])))
    names = [k.removeprefix("weights/") for k in stored if k.startswith("weights/")]
    where = lambda m: [getattr(m, k) for k in names]
    new = [jnp.asarray(stored[f"weights/{k}"]) for k in names]
    return eqx.tree_at(where, like, new)


def label(store, cells):
    """Both labels of every network, with the time they took."""
    import jax

    import rnndyn as rd

    for cell in cells:
        path = store / f"{cell.name}.npz"
        target = store / f"{cell.name}.labels.npz"
        if not path.exists():
            continue
        stored = read(path)
        count = len(stored["outcome"])
        if target.exists() and len(read(target)["outcome"]) == count:
            continue
        models, task = trained(stored), task_of(cell)
        began, cpu = time.perf_counter(), cpu_seconds()
        compat = rd.mechanisms.compat_labels(
            models, task, outcome=stored["outcome"], key=jax.random.key(2)
        )
        compat = {k: np.asarray(v) for k, v in vars(compat).items()}
        between = time.perf_counter(), cpu_seconds()
        report = rd.mechanisms.classify(models, task, key=jax.random.key(3))
        arrays = {f"compat/{k}": v for k, v in compat.items()}
        arrays |= {
            k: np.asarray(v) for k, v in report.to_dict().items() if k != "mechanism"
        }
        arrays["outcome"] = stored["outcome"]
        arrays["times"] = np.asarray(
            [
                between[0] - began,
                between[1] - cpu,
                time.perf_counter() - between[0],
                cpu_seconds() - between[1],
            ]
        )
        write(target, arrays)
        cpu = arrays["times"][[1, 3]] / count * 100
        say(
            f"{cell.name}: {np.bincount(compat['code'], minlength=4).tolist()}, "
            f"{report.counts()}, {cpu[0]:.1f} + {cpu[1]:.1f} CPU s per 100"
        )


def labels_of(stored):
    """The stored labels as the objects they were."""
    import jax.numpy as jnp

    import rnndyn as rd

    part = lambda start: {
        k.removeprefix(start): jnp.asarray(v)
        for k, v in stored.items()
        if k.startswith(start)
    }
    compat = rd.mechanisms.CompatLabels(**part("compat/"))
    report = rd.mechanisms.MechanismReport(
        **{k: jnp.asarray(stored[k]) for k in ("code", "cue_code", "margin")},
        flow_code=jnp.asarray(stored["flow_code"]),
        features=rd.mechanisms.Features(**part("features.")),
    )
    return compat, report


# --------------------------------------------------------------------------- checking


def check(store, cells):
    from rnndyn.studies import phase_checks, table_text

    counts, rows, networks_ = {}, [], []
    for cell in cells:
        path = store / f"{cell.name}.labels.npz"
        if not path.exists():
            continue
        stored = read(path)
        compat, report = labels_of(stored)
        code = np.asarray(compat.code)
        three = [int(np.sum(np.isin(code, c))) for c in ((0, 3), (1,), (2,))]
        counts[cell.post, cell.rate, cell.delay] = three
        networks_.append((cell, compat, report))
        rows.append(summary(cell, compat, report, read(store / f"{cell.name}.npz")))
    checks = phase_checks(counts)
    print(table_text(checks))
    found = evidence(networks_)
    print(json.dumps(found, indent=1))
    result = {
        "command": "python benchmarks/phases.py train|label|check --store DIR",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {k: version(k) for k in ("jax", "jaxlib", "equinox", "optax")},
        "sizes": {"units": N, "batch": BATCH, "noise": SIGMA, "tau": TAU, "dt": DT},
        "epochs": "max(1000, 30/rate), max(1000, 100/rate) with post",
        "networks": sum(sum(v) for v in counts.values()),
        "checks": [c.to_dict() for c in checks],
        "mechanism": found,
        "cells": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1, default=float) + "\n")


def summary(cell, compat, report, stored):
    from rnndyn.mechanisms import COMPAT, KINDS, network_kinds

    learned = np.asarray(compat.learned)
    kinds = network_kinds(report)
    count = lambda codes, names: {
        n: int(np.sum(codes == i)) for i, n in enumerate(names)
    }
    return {
        "delay_ms": cell.delay,
        "post_ms": cell.post,
        "learning_rate": cell.rate,
        "epochs": cell.epochs,
        "networks": len(learned),
        "published_label": count(np.asarray(compat.code), COMPAT),
        "cues_of_learned": count(kinds[learned], KINDS),
        "ambiguous": int(np.sum(learned & np.asarray(compat.ambiguous))),
        "mechanism": report.counts(),
        "cpu_seconds_training": round(float(stored["cpu_seconds"]), 1),
    }


def evidence(cells):
    """Whether late motion is all or nothing, how long cycles are, who is mixed."""
    from rnndyn.mechanisms import KINDS, Share, agreement, cue_kinds

    learned = [(c, np.asarray(a.learned), a, r) for c, a, r in cells]
    rms = np.concatenate(
        [np.asarray(r.features.late_rms).ravel() for _, _, _, r in learned]
    )
    rms = rms[np.isfinite(rms)]
    between = rms[(rms > 0.02) & (rms < 0.1)]
    periods = []
    for cell, ok, _, report in learned:
        cycles = (cue_kinds(report) == KINDS.index("cycle")) & ok[:, None]
        period = np.asarray(report.features.period)[cycles]
        if period.size >= 10:
            twice = 2e-3 * (30 + cell.delay)
            periods.append(
                {
                    "delay_ms": cell.delay,
                    "post_ms": cell.post,
                    "learning_rate": cell.rate,
                    "cycles": int(period.size),
                    "median_ms": 1e3 * float(np.median(period)),
                    "median_over_twice_cue_and_delay": float(np.median(period) / twice),
                }
            )
    by_cell = []
    for cell, _, compat, report in learned:
        found = agreement(compat, report)
        by_cell.append({"cell": cell.name, **found.to_dict()})
    total = lambda post, name: Share.of(
        *(
            sum(c[name][k] for c in by_cell if ("post0" not in c["cell"]) == post)
            for k in ("count", "total")
        )
    )
    shares = {
        name: {
            where: dict(vars(total(post, name)))
            for where, post in (("nopost", False), ("post", True))
        }
        for name in ("same", "same_cue", "mixed", "other", "ambiguous")
    }
    return {
        "late_rms": {
            "cues": int(rms.size),
            "in_0.02_to_0.1": int(between.size),
            "largest_below": float(rms[rms <= 0.02].max(initial=0)),
            "smallest_above": float(rms[rms >= 0.1].min(initial=np.inf)),
            "values_between": np.sort(between).tolist(),
        },
        "periods": periods,
        "shares_of_learned": shares,
        "agreement": by_cell,
    }


def machine():
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0], "cores": len(names), "system": platform.platform()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=("train", "label", "check"))
    parser.add_argument("--store", type=Path, default=Path("/tmp/phases"))
    parser.add_argument("--cells", default="", help="names, comma separated")
    args = parser.parse_args()
    from rnndyn import _bootstrap

    _bootstrap.configure()
    wanted = [c for c in args.cells.split(",") if c]
    cells = [c for c in CELLS if not wanted or c.name in wanted]
    args.store.mkdir(parents=True, exist_ok=True)
    {"train": train, "label": label, "check": check}[args.job](args.store, cells)


if __name__ == "__main__":
    main()
