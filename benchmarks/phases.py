"""Do networks trained as published fall into the published phases?

Trains cells of the phase diagram (100 units, SGD with momentum, 1000 epochs or more as
published; batches of 32 trials, not 128), labels every network twice, as published and
by the certified attractor of each cue, and compares the fractions with the published
ones within 99 % binomial bands.

    python benchmarks/phases.py train --store /tmp/phases   # resumable, a file a cell
    python benchmarks/phases.py label --store /tmp/phases   # resumable
    python benchmarks/phases.py attractors --store /tmp/phases
    python benchmarks/phases.py speed --store /tmp/phases
    python benchmarks/phases.py check --store /tmp/phases   # the table and the JSON

Weights and histories stay in the store, so that labels can be made again.
"""

import argparse
import json
import os
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from phases_report import certified_ends, evidence, labels_of, machine, plain, summary


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
        Cell(100, 0.01, 30, networks=40),
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


JOBS = ("train", "label", "attractors", "speed", "check")


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


PAD = 32
"""Trials are padded to multiples of this many steps, so that cells share programs."""


def trained(files):
    """The networks of several files as one ensemble."""
    import equinox as eqx
    import jax.numpy as jnp

    like = networks(np.arange(sum(len(f["outcome"]) for f in files)))
    names = [k.removeprefix("weights/") for k in files[0] if k.startswith("weights/")]
    where = lambda m: [getattr(m, k) for k in names]
    join = lambda k: jnp.asarray(np.concatenate([f[f"weights/{k}"] for f in files]))
    return eqx.tree_at(where, like, [join(k) for k in names])


def label(store, cells):
    """Both labels of every network not labelled yet, cells of similar length together,
    and the time they took."""
    groups = {}
    for cell in cells:
        path, target = store / f"{cell.name}.npz", store / f"{cell.name}.labels.npz"
        if not path.exists():
            continue
        stored = read(path)
        done = len(read(target)["outcome"]) if target.exists() else 0
        if done < len(stored["outcome"]):
            steps = -(-task_of(cell).num_steps // PAD) * PAD
            groups.setdefault((cell.post, steps), []).append((cell, stored))
    for (post, steps), members in groups.items():
        files = [stored for _, stored in members]
        counts = [len(f["outcome"]) for f in files]
        found, times = label_some(
            trained(files),
            tasks_of([c for c, _ in members], counts, post, steps),
            np.concatenate([f["outcome"] for f in files]),
        )
        ends = np.cumsum(counts)
        for (cell, stored), end, count in zip(members, ends, counts, strict=True):
            part = {k: v[end - count : end] for k, v in found.items()}
            part["outcome"], part["times"] = stored["outcome"], times
            write(store / f"{cell.name}.labels.npz", part)
            codes = np.bincount(part["compat/code"], minlength=4).tolist()
            say(f"{cell.name}: {codes} by published class")
        each = 100 * times / sum(counts)
        say(f"  {sum(counts)} networks: {each[1]:.1f} + {each[3]:.1f} CPU s per 100")


def tasks_of(cells, counts, post, steps):
    import rnndyn as rd

    delays = np.repeat([c.delay / 1000 for c in cells], counts)
    return rd.tasks.DelayedCueDiscrimination.stack(
        delays, post_reaction=post / 1000, num_steps=steps
    )


def label_some(models, tasks, outcome):
    """Label arrays, and wall and CPU seconds of published and certified labels."""
    import jax

    import rnndyn as rd

    clock = lambda: np.asarray([time.perf_counter(), cpu_seconds()])
    began = clock()
    compat = rd.mechanisms.compat_labels(
        models, tasks, outcome=outcome, key=jax.random.key(2)
    )
    found = {f"compat/{k}": np.asarray(v) for k, v in vars(compat).items()}
    between = clock()
    report = rd.mechanisms.classify(models, tasks, key=jax.random.key(3))
    found |= {k: np.asarray(v) for k, v in report.to_dict().items()}
    found.pop("mechanism")
    return found, np.concatenate([between - began, clock() - between])


def attractors(store, cells):
    """The certified attractor of every cue of every network."""
    import rnndyn as rd

    for cell in cells:
        path, target = store / f"{cell.name}.npz", store / f"{cell.name}.ends.npz"
        if not path.exists():
            continue
        stored = read(path)
        count = len(stored["outcome"])
        if target.exists() and len(read(target)["verdict"]) == count:
            continue
        steps = -(-task_of(cell).num_steps // PAD) * PAD
        task = tasks_of([cell], [count], cell.post, steps)
        cpu = cpu_seconds()
        ends = rd.mechanisms.cue_attractors(trained([stored]), task)
        kept = ("verdict", "period", "exponents", "extent", "residual", "time")
        found = {k: np.asarray(getattr(ends, k)) for k in kept}
        found["cpu_seconds"] = np.asarray(cpu_seconds() - cpu)
        write(target, found)
        names = dict(zip(*np.unique(ends.names, return_counts=True), strict=True))
        say(f"{cell.name}: { {str(k): int(v) for k, v in names.items()} }")


def speed(store, cells):
    """Certified labels of 100 networks, warm: wall and CPU seconds."""
    import rnndyn as rd

    rows = []
    for cell in cells:
        path = store / f"{cell.name}.npz"
        if not path.exists() or cell.networks < 100:
            continue
        files = [{k: v[:100] for k, v in read(path).items() if np.ndim(v)}]
        steps = -(-task_of(cell).num_steps // PAD) * PAD
        tasks = tasks_of([cell], [100], cell.post, steps)
        for _ in range(2):  # the first one compiles
            times = label_some(trained(files), tasks, files[0]["outcome"])[1]
            began = time.perf_counter(), cpu_seconds()
            rd.mechanisms.cue_attractors(trained(files), tasks)
            ended = time.perf_counter() - began[0], cpu_seconds() - began[1]
        rows.append(
            {
                "cell": cell.name,
                "steps": steps,
                "published_wall_s": round(times[0], 2),
                "published_cpu_s": round(times[1], 2),
                "certified_wall_s": round(times[2], 2),
                "certified_cpu_s": round(times[3], 2),
                "attractors_wall_s": round(ended[0], 2),
                "attractors_cpu_s": round(ended[1], 2),
                "load_average": os.getloadavg()[0],
            }
        )
        say(json.dumps(rows[-1]))
    (store / "speed.json").write_text(json.dumps(rows))


# --------------------------------------------------------------------------- checking


def check(store, cells):
    from rnndyn.mechanisms import cue_kinds
    from rnndyn.studies import phase_checks, table_text

    counts, rows, networks_, ended = {}, [], [], []
    for cell in cells:
        path = store / f"{cell.name}.labels.npz"
        if not path.exists():
            continue
        stored = read(path)
        compat, report = labels_of(stored)
        code = np.asarray(compat.code)
        three = [int(np.sum(np.isin(code, c))) for c in ((0, 3), (1,), (2,))]
        counts[cell.post, cell.rate, cell.delay] = three
        ends = store / f"{cell.name}.ends.npz"
        certified = read(ends)["verdict"] if ends.exists() else None
        networks_.append((cell, compat, report))
        ended.append((cell, cue_kinds(report), certified))
        rows.append(summary(cell, compat, report, read(store / f"{cell.name}.npz")))
    checks = phase_checks(counts)
    print(table_text(checks))
    found = evidence(networks_)
    times = store / "speed.json"
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
        "attractors": certified_ends(ended),
        "labelling_100_networks": json.loads(times.read_text())
        if times.exists()
        else [],
        "cells": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(plain(result), indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--store", type=Path, default=Path("/tmp/phases"))
    parser.add_argument("--cells", default="", help="names, comma separated")
    args = parser.parse_args()
    from rnndyn import _bootstrap

    _bootstrap.configure()
    wanted = [c for c in args.cells.split(",") if c]
    cells = [c for c in CELLS if not wanted or c.name in wanted]
    args.store.mkdir(parents=True, exist_ok=True)
    jobs = (train, label, attractors, speed, check)
    dict(zip(JOBS, jobs, strict=True))[args.job](args.store, cells)


if __name__ == "__main__":
    main()
