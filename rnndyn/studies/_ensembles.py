"""The first ensemble: train networks over delays and learning rates, label them all."""

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._core._batch import to_double
from .._core._checks import check_count
from .._core._store import SCHEMA, named_leaves, write_arrays, write_json
from ..dynamics import MultiStart, certify, slow_points, wilson
from ..flows import iterate
from ..mechanisms import Mechanism, MechanismReport, classify
from ..models import RateRNN, Xavier, ensemble, member
from ..tasks import DelayedCueDiscrimination
from ..training import TrainResult, sgd, train
from ._table import columns


@dataclass(frozen=True)
class EnsembleConfig:
    """What `run_ensemble` trains: every delay x learning rate x seed.

    Delays in milliseconds. The network of a seed starts from the same weights in
    every cell.
    """

    delays: tuple[int, ...] = (20, 60, 100, 140)
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    seeds: int = 8
    units: int = 64
    batch: int = 16
    epochs: int = 800
    tau: float = 0.01
    noise: float = 1e-3
    post_reaction: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name in ("seeds", "units", "batch", "epochs"):
            check_count(name, getattr(self, name))
        for name in ("delays", "learning_rates"):
            if not len(getattr(self, name)):
                raise ValueError(f"{name} is empty, expected at least one.")


@dataclass(frozen=True)
class EnsembleRun:
    """A trained and labelled ensemble: members are ordered delay, learning rate,
    seed, the last fastest."""

    config: EnsembleConfig
    result: TrainResult
    report: MechanismReport
    seconds: dict[str, float]

    @property
    def labels(self) -> np.ndarray:
        """Names, shape `(delay, learning rate, seed)`."""
        c = self.config
        shape = (len(c.delays), len(c.learning_rates), c.seeds)
        return np.asarray(self.report.names).reshape(shape)

    def table(self) -> str:
        """Numbers of networks by cell and label, as text."""
        c = self.config
        labels = self.labels
        present = [m.name for m in Mechanism if np.any(labels == m.name)]
        head = ["delay ms", "rate", *(n.replace("_", " ") for n in present)]
        rows = [
            [f"{d}", f"{lr:g}", *(str(int(np.sum(labels[i, j] == n))) for n in present)]
            for i, d in enumerate(c.delays)
            for j, lr in enumerate(c.learning_rates)
        ]
        total = ["all", "", *(str(int(np.sum(labels == n))) for n in present)]
        shares = ["share", "95 %"]
        for name in present:
            _, low, high = wilson(int(np.sum(labels == name)), labels.size)
            shares.append(f"{low:.2f}-{high:.2f}")
        return columns([head, *rows, total, shares], str.rjust)


def run_ensemble(
    config: EnsembleConfig | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> EnsembleRun:
    """Train the ensemble of a configuration and label every network.

    **Arguments:**

    - `config`: `EnsembleConfig()` by default.
    - `progress`: show a bar while training.
    - `say`: called with a line of text at every stage.
    """
    config = EnsembleConfig() if config is None else config
    cells = [
        (d, lr, s)
        for d in config.delays
        for lr in config.learning_rates
        for s in range(config.seeds)
    ]
    root = jr.key(config.seed)
    k_init, k_data, k_label = (jr.fold_in(root, i) for i in range(3))
    seeds = jnp.asarray([s for _, _, s in cells])
    keys = jax.vmap(lambda s: jr.fold_in(k_init, s))(seeds)

    def build(key):
        return RateRNN(
            2,
            config.units,
            2,
            tau=config.tau,
            noise=config.noise,
            readout="sigmoid",
            init=Xavier(),
            key=key,
        )

    task = DelayedCueDiscrimination.stack(
        [d / 1000 for d, _, _ in cells], post_reaction=config.post_reaction
    )
    say(f"training {len(cells)} networks of {config.units} units")
    result = train(
        ensemble(build, keys),
        task,
        optimiser=sgd(),
        learning_rate=np.asarray([lr for _, lr, _ in cells]),
        steps=config.epochs,
        batch=config.batch,
        record_every=10,
        key=k_data,
        progress=progress,
    )
    say(f"labelling {len(cells)} networks")
    start = time.perf_counter()
    report = classify(result.models, task, key=k_label)
    labelling = time.perf_counter() - start
    return EnsembleRun(
        config, result, report, {"training": result.seconds, "labelling": labelling}
    )


def save_ensemble(run: EnsembleRun, out: str | Path, *, shard: int = 500) -> Path:
    """Write weights, results and `manifest.json` to a folder.

    Weights go to `weights-00000.safetensors` ... with `shard` networks each, labels,
    evidence and loss curves to `results.safetensors`; the manifest lists every file
    with its SHA-256, the configuration, versions and timings.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    config = asdict(run.config)
    named = named_leaves(eqx.filter(run.result.models, eqx.is_array))
    members = len(run.report.names)
    files = []
    for i, first in enumerate(range(0, members, shard)):
        rows = slice(first, first + shard)
        path = out / f"weights-{i:05d}.safetensors"
        header = {"class": "RateRNN", "form": "rate", "activation": "tanh"}
        header |= {"readout": "sigmoid", "dt": DelayedCueDiscrimination().dt}
        header |= {"config": config, "first_member": first}
        write_arrays(path, {k: np.asarray(v)[rows] for k, v in named.items()}, header)
        files.append(path)
    evidence = run.report.to_dict()
    names = evidence.pop("mechanism")
    evidence["losses"] = np.asarray(run.result.losses)
    evidence["diverged"] = np.asarray(run.result.diverged)
    path = out / "results.safetensors"
    write_arrays(path, evidence, {"mechanism": names, "config": config})
    files.append(path)
    packages = ("rnndyn", "jax", "equinox", "optax", "numpy")
    manifest = {
        "schema": SCHEMA,
        "config": config,
        "order": ["delay", "learning_rate", "seed"],
        "counts": run.report.counts(),
        "seconds": run.seconds,
        "versions": {p: version(p) for p in packages},
        "machine": f"{platform.machine()}, {jax.device_count()} {jax.devices()[0]}",
        "files": {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)
        },
    }
    write_json(out / "manifest.json", manifest, sort_keys=True)
    return out


def plot_ensemble(run: EnsembleRun) -> Any:
    """Phase diagram, loss curves, one slow-manifold and one limit-cycle network (needs
    `rnndyn[plot]`)."""
    import importlib

    plots = importlib.import_module("rnndyn.plots")
    examples = [
        example
        for kind in (Mechanism.slow_manifold, Mechanism.limit_cycle)
        if (example := _example(run, kind)) is not None
    ]
    losses = np.asarray(run.result.losses)
    epochs = run.result.record_every * (1 + np.arange(losses.shape[1]))
    return plots.ensemble_report(
        labels=np.swapaxes(run.labels, 0, 1),
        learning_rates=run.config.learning_rates,
        delays=run.config.delays,
        epochs=epochs,
        losses=losses,
        names=run.report.names,
        examples=examples,
    )


def _example(run: EnsembleRun, kind: Mechanism) -> tuple | None:
    """The clearest network of a kind: its trial and free run, and its points."""
    codes = np.asarray(run.report.code)
    chosen = np.flatnonzero(codes == kind)
    if not chosen.size:
        return None
    margin = np.asarray(run.report.margin)[chosen].min(axis=1)
    i = int(chosen[margin.argmax()])
    c = run.config
    delay = c.delays[i // (len(c.learning_rates) * c.seeds)]
    task = DelayedCueDiscrimination(delay / 1000, c.post_reaction)
    with jax.enable_x64(True):
        model = to_double(member(run.result.models, i))
        system = model.map(task.dt)
        inputs = jax.vmap(lambda k: task.trial(k).inputs)(jnp.arange(2))
        steps = 5 * task.num_steps
        inputs = jnp.pad(inputs, ((0, 0), (0, steps - task.num_steps), (0, 0)))
        paths = jax.vmap(lambda u: iterate(system, model.x0, steps, u))(inputs)
        # Slow points are looked for where the memory is: along the delay.
        x0s = paths[:, task.cue_steps : task.num_steps : 3].reshape(-1, c.units)
        x0s = jnp.concatenate([x0s, paths[:, -1]])
        plain = MultiStart(num_large=0, rounds=0)
        found = certify(slow_points(system, x0s, strategy=plain, max_steps=100))
    is_root = np.asarray(found.verdict) == 1
    mask = np.asarray(found.mask)
    x = np.asarray(found.x)
    near = (
        np.linalg.norm(x, axis=1) < 3 * np.linalg.norm(np.asarray(paths), axis=2).max()
    )
    title = f"{kind.name.replace('_', ' ')}: delay {delay} ms, network {i}"
    return (
        title,
        np.asarray(paths),
        x[mask & is_root & near],
        np.asarray(found.stability)[mask & is_root & near],
        x[mask & ~is_root & near],
    )
