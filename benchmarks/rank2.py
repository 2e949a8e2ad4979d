"""Rank-2 networks: how fast are they trained, and do they do what was published?

    python benchmarks/rank2.py --speed                 # needs torch: one run for both
    python benchmarks/rank2.py --cells DIR F1 F2 F3            # labels what is there
    python benchmarks/rank2.py --cells DIR --train F1 F2 F3 delays   # trains too

Expected outcome: an epoch of one network costs at least 100 times less than in a plain
PyTorch loop; at a delay of 30 ms 0.40 to 0.60 of the networks oscillate without a
post-reaction period and at least .97 with one (F1); at a delay of 75 ms a rate of 0.1
reaches 1e-4 of the initial loss in 1e4 to 1e5 epochs, a rate of 1 does not reach 0.1,
most networks oscillate after 0.01 and most are at rest after 1e-4 (F2); some network
changes from rest to oscillation within training, at a spike of the loss (F3).

Sections of benchmarks/results/rank2.json are replaced one by one; cells are files that
resume, so that the script may be stopped and started again.
"""

import argparse
import functools
import json
import os
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path


os.environ.setdefault("EQX_ON_ERROR", "nan")

from rnndyn import _bootstrap


_bootstrap.configure(devices=1)

import jax
import numpy as np

from rnndyn._core._store import read_arrays
from rnndyn.studies.rank2._cells import (
    Rank2Cell,
    Rank2Config,
    rank2_networks,
    train_cell,
)
from rnndyn.studies.rank2._stats import (
    changes,
    jsonable,
    label_checkpoints,
    summarise,
)
from rnndyn.studies.rank2._study import label_cell
from rnndyn.training import train_latent


RESULT = Path(__file__).parent / "results" / "rank2.json"
RATES = (1.0, 0.1, 0.01, 1e-4)
DELAYS = tuple(range(40, 101, 10))


def torch_epoch(task, threads=1):
    """A plain training loop in PyTorch, one network; returns a function of epochs."""
    import torch

    torch.set_num_threads(threads)
    nets = rank2_networks(1)
    get = lambda a: torch.tensor(np.asarray(a[0]))
    m, n, b, w, c = (get(a).requires_grad_() for a in
                     (nets.m, nets.n, nets.b, nets.W_out, nets.b_out))  # fmt: skip
    x0, a = get(nets.x0), 0.5
    trial = task.trial()
    target, weight = (torch.tensor(np.asarray(v)) for v in (trial.targets, trial.mask))
    optimiser = torch.optim.SGD([m, n, b, w, c], lr=0.005)
    losses = []

    def run(epochs):
        for _ in range(epochs):
            optimiser.zero_grad()
            x, outputs = x0, []
            for _ in range(task.num_steps):
                x = (1 - a) * x + a * torch.tanh(m @ (n.T @ x) + b)
                outputs.append(torch.sigmoid(w @ (n.T @ x) + c))
            y = torch.stack(outputs)
            loss = torch.sum(weight * torch.mean((y - target) ** 2, dim=1))
            loss.backward()
            optimiser.step()
            losses.append(loss.item())

    return run, losses


def speed(repeats=5):
    """Seconds a network-epoch, alternating between the two; smallest of repeats."""
    import torch

    rows = []
    for delay, post in ((30, 0), (30, 30), (100, 0), (100, 30)):
        task = Rank2Cell(delay, post).task
        loop, losses = torch_epoch(task)
        loop(20)
        nets, epochs = rank2_networks(100), 1000
        kw = dict(learning_rate=0.005, steps=epochs, record_every=epochs)
        result = train_latent(nets, task, **kw)
        work = {
            "torch": (functools.partial(loop, 100), 100),
            "rnndyn": (functools.partial(train_latent, nets, task, **kw), 100 * epochs),
        }
        wall, cpu = {name: [] for name in work}, {name: [] for name in work}
        for _ in range(repeats):
            for name, (run, count) in work.items():
                t, p = time.perf_counter(), time.process_time()
                run()
                wall[name].append((time.perf_counter() - t) / count)
                cpu[name].append((time.process_time() - p) / count)
        row = {"delay_ms": delay, "post_ms": post, "steps": task.num_steps}
        for name in wall:
            row[f"{name}_us_wall"] = round(1e6 * min(wall[name]), 3)
            row[f"{name}_us_cpu"] = round(1e6 * min(cpu[name]), 3)
        row["ratio_wall"] = round(row["torch_us_wall"] / row["rnndyn_us_wall"], 1)
        row["ratio_cpu"] = round(row["torch_us_cpu"] / row["rnndyn_us_cpu"], 1)
        # The same weights, the same data: the losses must agree.
        first = float(result.history.loss[0, 0])
        row["first_loss_torch_minus_rnndyn"] = losses[0] - first
        row["at_least_100_times"] = row["ratio_cpu"] >= 100
        rows.append(row)
        print(row, flush=True)
    return {"torch": torch.__version__, "threads": 1, "networks": 100, "rows": rows}


def labelled(cell, args):
    """A labelled cell, or `None` where no finished networks are."""
    path = args.cells / f"{cell.name}.safetensors"
    if not args.train and not is_finished(path):
        return None
    result = train_cell(cell, args.cells, budget=args.seconds, say=print)
    return label_cell(cell, result)


def is_finished(path):
    """Whether a cell's file says so; another process may still be writing it."""
    return path.exists() and read_arrays(path)[1]["done"]


def roots(part):
    """Leading eigenvalue of the flow (1/tau) at the root next to the late centre, and
    its multiplier in the map; every network."""
    models, values = part.result.models, []
    for i in range(len(part.learned)):
        m, n, b = (np.asarray(getattr(models, k)[i], float) for k in ("m", "n", "b"))
        kappa = part.labels.centre[i].copy()
        for _ in range(50):
            phi = np.tanh(m @ kappa + b)
            jac = n.T @ ((1 - phi**2)[:, None] * m) - np.eye(2)
            step = np.linalg.solve(jac, n.T @ phi - kappa)
            kappa -= step / max(1.0, np.linalg.norm(step) / (1 + np.linalg.norm(kappa)))
        residual = np.linalg.norm(n.T @ np.tanh(m @ kappa + b) - kappa)
        values.append((np.linalg.eigvals(jac), residual))
    good = np.array([r < 1e-9 for _, r in values])
    eigen = np.array([e for e, _ in values])[good]
    real, radius = eigen.real.max(axis=1), np.abs(1 + 0.5 * eigen).max(axis=1)
    return {
        "roots_found": int(good.sum()),
        "flow_real_part": np.quantile(real, (0, 0.5, 1)).round(4).tolist(),
        "map_radius": np.quantile(radius, (0, 0.5, 1)).round(4).tolist(),
        "stable_in_flow_unstable_in_map": int(np.sum((real < 0) & (radius > 1))),
    }


def f1(args):
    """Shares at a delay of 30 ms."""
    out = {}
    for post in (0, 30):
        part = labelled(Rank2Cell(30, post, networks=args.networks), args)
        if part is None:
            continue
        row = out[f"post {post}"] = part.row()
        share = row["oscillate"][0]
        row["holds"] = 0.40 <= share <= 0.60 if post == 0 else share >= 0.97
        if part.labels.cycles.any():
            row["roots"] = roots(part)
        row["turns_of_cycles"] = np.sort(
            np.abs(part.labels.turns[part.labels.late_code == 2])
        ).round(2).tolist()  # fmt: skip
    return out


def f2(args):
    """Learning rates at a delay of 75 ms."""
    out = {}
    config = Rank2Config(delays=(), rates=RATES, examples=16, example_steps=5_000_000)
    cells = dict(config.cells())
    # Training at this rate is chaotic: a share of 16 differs between machines.
    cells["rate 1, 100 networks"] = replace(cells["rate 1"], networks=100)
    for name, cell in cells.items():
        part = labelled(cell, args)
        if part is None:
            continue
        row = out[name] = part.row()
        reached = np.asarray(part.result.state.reached)
        if cell.rate == 0.1:
            at = reached[:, 4]
            row["in_1e4_to_1e5"] = int(np.sum((at >= 1e4) & (at <= 1e5)))
        if cell.rate >= 1:
            row["never_below_0.1"] = int(np.sum(reached[:, 1] < 0))
            first, loss = part.result.state.loss_0, part.result.history.loss
            # Networks that stopped early have no loss at later records.
            last = [one[np.isfinite(one)][-1] for one in np.asarray(loss)]
            row["last_below_0.1"] = int(np.sum(last < 0.1 * np.asarray(first)))
        late = part.labels.late_code
        row["late"] = {"rest": int(np.sum(late == 1)), "cycle": int(np.sum(late == 2))}
    return out


def f3(args):
    """Changes of mechanism within training."""
    cell = Rank2Config(delays=(), sequence=32).cells()["sequence"]
    if not args.train and not is_finished(args.cells / f"{cell.name}.safetensors"):
        return {}
    result = train_cell(cell, args.cells, say=print)
    codes = label_checkpoints(result, cell.task.num_steps)
    found = changes(result, codes)
    return {
        "cell": cell.name,
        "networks": cell.networks,
        "last_label": {
            "rest": int(np.sum(codes[:, -1] == 1)),
            "cycle": int(np.sum(codes[:, -1] == 2)),
        },
        "changes": [c._asdict() for c in found],
        "rise_of_the_loss": summarise([c.spike for c in found]),
        "share_of_other_intervals_with_such_a_rise": summarise(
            [c.exceeded for c in found]
        ),
        "holds": any(c.spike >= 2 for c in found),
    }


def delays(args):
    """Further delays of Figure 3C."""
    out = {}
    for post in (0, 30):
        for delay in DELAYS:
            for networks in (100, 50):
                steps = 500_000 if delay <= 40 else 1_500_000
                cell = Rank2Cell(delay, post, steps=steps, networks=networks)
                if args.train and networks != args.networks:
                    continue
                part = labelled(cell, args)
                if part is not None:
                    out[f"delay {delay} post {post} n {networks}"] = part.row()
                    store("delays", out, 0.0)
    return out


def store(section, content, seconds):
    """Replace one section of the result file."""
    document = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    document[section] = {
        "command": "python " + " ".join(sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "cpu_seconds": round(seconds, 1),
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": [round(v, 1) for v in os.getloadavg()],
        },  # fmt: skip
        "versions": {k: version(k) for k in ("jax", "jaxlib", "equinox", "numpy")},
        "device": str(jax.devices()[0]),
        "dtype": "float32 training, float64 labels",
        **content,
    }
    RESULT.parent.mkdir(exist_ok=True)
    partial = RESULT.with_suffix(".tmp")
    partial.write_text(json.dumps(jsonable(document), indent=1) + "\n")
    partial.replace(RESULT)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sections", nargs="*", help="F1 F2 F3 delays")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--cells", type=Path, default=Path("rank2-cells"))
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    work = {"F1": f1, "F2": f2, "F3": f3, "delays": delays}
    if args.speed:
        clock = time.process_time()
        store("speed", speed(), time.process_time() - clock)
    for name in args.sections:
        clock = time.process_time()
        content = work[name](args)
        store(name, content, time.process_time() - clock)
        print(name, json.dumps(content)[:2000], flush=True)


if __name__ == "__main__":
    main()
