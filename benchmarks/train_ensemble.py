"""How fast is an epoch of training one network of an ensemble?

Compares, on the same work (100 units, batch 128, SGD with momentum, delays of 100 and
200 ms) and in one run: rnndyn's public `train`, a PyTorch loop over steps with one
network at a time, and the floor: the bare matrix products, tanhs and Gaussian draws
that no implementation can leave out.

Every number is CPU milliseconds per network and epoch of a process pinned to one core
(all its threads counted), the least of several repeats in alternating processes, so
that other load on the machine matters little.

    python benchmarks/train_ensemble.py          # needs torch in the same environment
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path


os.environ.setdefault("EQX_ON_ERROR", "nan")

N, BATCH, LR, SIGMA = 100, 128, 0.03, 1e-3
DELAYS = (0.1, 0.2)
PARTS = ("rnndyn", "torch", "floor")
RESULT = Path(__file__).parent / "results" / "train_ensemble.json"


def least(run, repeats):
    """Least CPU seconds of `run()`."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


# ----------------------------------------------------------------------------- rnndyn


def ensemble(members, delay):
    import jax

    import rnndyn as rd

    build = lambda key: rd.models.RateRNN(
        2,
        N,
        2,
        tau=0.01,
        noise=SIGMA,
        init=rd.models.Xavier(),
        readout="sigmoid",
        key=key,
    )
    nets = rd.models.ensemble(build, jax.random.split(jax.random.key(0), members))
    return nets, rd.tasks.DelayedCueDiscrimination(delay)


def train(members, delay, epochs, **kwargs):
    import jax

    import rnndyn as rd

    nets, task = ensemble(members, delay)

    def run():
        result = rd.training.train(
            nets,
            task,
            optimiser=rd.training.sgd(),
            learning_rate=LR,
            steps=epochs,
            batch=BATCH,
            key=jax.random.key(1),
            **kwargs,
        )
        jax.block_until_ready(result.state)
        return result

    return run


def part_rnndyn(delay, repeats):
    from rnndyn import _bootstrap

    _bootstrap.configure(devices=1)
    members, epochs = 6, 20
    run = train(members, delay, epochs)
    run()
    return {"train": 1e3 * least(run, repeats) / (members * epochs)}


def part_chunks(delay, repeats):
    """One row a choice of slots and lanes, on one device a core."""
    from rnndyn import _bootstrap

    _bootstrap.configure()
    rows, members, epochs = [], 32, 25
    for chunk, lanes in [
        (2, 1),
        (8, 1),
        (32, 1),
        (8, 2),
        (8, 4),
        (32, 16),
    ]:
        run = train(members, delay, epochs, chunk=chunk, lanes=lanes)
        run()
        cpu = 1e3 * least(run, repeats) / (members * epochs)
        rows.append(
            {
                "chunk": chunk,
                "lanes": lanes,
                "cpu_ms_per_epoch": cpu,
                "networks_of_1000_epochs_per_core_hour": 3600 / cpu,
            }
        )
    return rows


# ------------------------------------------------------------------------------ torch


def part_torch(delay, repeats):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    T = 16 + round(delay / 5e-3)
    labels = torch.arange(BATCH) % 2
    one_hot = torch.nn.functional.one_hot(1 - labels, 2).float()
    u = torch.zeros(T, BATCH, 2)
    u[:6] = one_hot
    y = torch.zeros(T, BATCH, 2)
    y[-10:] = one_hot
    w = torch.full((T, 1, 1), 10 / T)
    w[-10:] = 1 - 10 / T

    def network():
        torch.manual_seed(0)
        layers = torch.nn.ModuleDict(
            {
                "inputs": torch.nn.Linear(2, N),
                "recurrent": torch.nn.Linear(N, N),
                "outputs": torch.nn.Linear(N, 2),
            }
        )
        for layer in layers.values():
            torch.nn.init.xavier_uniform_(layer.weight)
        optimiser = torch.optim.SGD(
            layers.parameters(), lr=LR, momentum=0.9, weight_decay=1e-7
        )
        return layers, optimiser

    def scores(outputs):
        window = outputs.detach()[-11:-1]
        target = y[-11:-1]
        p = window / window.sum(-1, keepdim=True)
        truth = target.argmax(-1, keepdim=True)
        miss = (p.argmax(-1) - truth[..., 0]).abs().float().mean()
        return 1 - miss.item(), p.gather(-1, truth).mean().item()

    def plain(layers):
        """As the paper's code: three layers called in every step."""
        r = torch.tanh(0.1 * torch.randn(BATCH, N))
        outputs = []
        for t in range(T):
            outputs.append(torch.sigmoid(layers["outputs"](r)))
            noise = SIGMA * torch.randn(BATCH, N)
            total = layers["inputs"](u[t]) + layers["recurrent"](r) + noise
            r = 0.5 * r + 0.5 * torch.tanh(total)
        return torch.stack(outputs)

    def hoisted(layers):
        """Inputs, noise and outputs of all steps at once, recurrence fused."""
        r = torch.tanh(0.1 * torch.randn(BATCH, N))
        current = layers["inputs"](u) + SIGMA * torch.randn(T, BATCH, N)
        current = (current + layers["recurrent"].bias).unbind()
        weight, states = layers["recurrent"].weight.T, []
        for t in range(T):
            states.append(r)
            total = torch.addmm(current[t], r, weight)
            r = torch.lerp(r, torch.tanh(total), 0.5)
        return torch.sigmoid(layers["outputs"](torch.stack(states)))

    result = {}
    for name, forward in [("plain", plain), ("hoisted", hoisted)]:
        layers, optimiser = network()

        def epochs(count, layers=layers, optimiser=optimiser, forward=forward):
            for _ in range(count):
                optimiser.zero_grad()
                outputs = forward(layers)
                loss = (w * (outputs - y) ** 2).mean()
                loss.backward()
                optimiser.step()
                loss.item()
                scores(outputs)

        epochs(5)
        result[name] = 1e3 * least(lambda run=epochs: run(10), repeats) / 10
    return result


# ------------------------------------------------------------------------------ floor


def part_floor(delay, repeats):
    from rnndyn import _bootstrap

    _bootstrap.configure(devices=1)
    import jax
    import jax.numpy as jnp

    from rnndyn.training import gaussian

    T = 16 + round(delay / 5e-3)
    key = jax.random.key(0)
    W = jax.random.normal(key, (N, N)) / N**0.5
    x = jax.random.normal(key, (BATCH, N))
    many = jax.random.normal(key, (T * BATCH, N))
    chain = lambda W, x: jax.lax.scan(lambda x, _: (x @ W, None), x, None, length=T)[0]
    pieces = {
        "forward_products": (lambda W, x: chain(W.T, x), (W, x)),
        "reverse_products": (chain, (W, x)),
        "weight_gradient": (lambda d, x: d.T @ x, (many, many)),
        "tanh": (jnp.tanh, (many,)),
        "gaussian": (lambda key: gaussian(key, (T, BATCH, N)), (key,)),
        "gaussian_threefry": (
            lambda key: jax.random.normal(key, (T, BATCH, N)),
            (key,),
        ),
    }
    result = {}
    for name, (fn, args) in pieces.items():
        compiled = jax.jit(fn)

        # Results are dropped at once, or fresh memory is what gets timed.
        def ten(fn=compiled, args=args):
            for _ in range(10):
                jax.block_until_ready(fn(*args))

        ten()
        result[name] = 1e3 * least(ten, repeats) / 10
    return result


# ------------------------------------------------------------------------------- main


def measure(part, delay, repeats, *, pinned=True):
    """One part in a fresh process on one core."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--part", part, "--delay", str(delay)]
    command += ["--repeats", str(repeats)] + ["--pin"] * pinned
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def combine(rounds):
    return {k: min(r[k] for r in rounds) for k in rounds[0]}


def machine():
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0], "cores": len(names), "system": platform.platform()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=(*PARTS, "chunks"))
    parser.add_argument("--delay", type=float)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pin", action="store_true")
    args = parser.parse_args()
    if args.part:
        if args.pin:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        parts = dict(
            rnndyn=part_rnndyn, torch=part_torch, floor=part_floor, chunks=part_chunks
        )
        print(json.dumps(parts[args.part](args.delay, args.repeats)))
        return
    report = {
        "command": " ".join(["python", *sys.argv]),
        "load_average": os.getloadavg()[1],
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {k: version(k) for k in ("jax", "jaxlib", "equinox", "torch")},
        "python": platform.python_version(),
        "dtype": "float32",
        "sizes": {"units": N, "batch": BATCH, "noise": SIGMA},
        "unit": "CPU ms per network and epoch, one core, least of repeats",
        "cases": [],
    }
    for delay in DELAYS:
        rounds = {p: [] for p in PARTS}
        for _ in range(args.rounds):
            for part in PARTS:
                rounds[part].append(measure(part, delay, args.repeats))
        ours, torch, floor = (combine(rounds[p]) for p in PARTS)
        threefry = floor.pop("gaussian_threefry")
        total = sum(floor.values())
        case = {
            "delay": delay,
            "steps": 16 + round(delay / 5e-3),
            "rnndyn": ours["train"],
            "torch_plain": torch["plain"],
            "torch_hoisted": torch["hoisted"],
            "floor": total,
            "floor_pieces": floor,
            "floor_with_threefry": total - floor["gaussian"] + threefry,
            "torch_plain_over_rnndyn": torch["plain"] / ours["train"],
            "torch_hoisted_over_rnndyn": torch["hoisted"] / ours["train"],
            "rnndyn_over_floor": ours["train"] / total,
        }
        report["cases"].append(case)
        print(json.dumps(case, indent=1))
    report["chunks_at_100ms"] = measure("chunks", 0.1, 4, pinned=False)
    print(json.dumps(report["chunks_at_100ms"], indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
