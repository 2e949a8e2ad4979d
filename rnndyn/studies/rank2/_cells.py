"""Cells of the rank-2 study: networks trained on one task, stored to resume."""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..._core._store import named_leaves, read_arrays, write_arrays
from ...models import GaussianFactors, LowRankRNN, ensemble
from ...tasks import DelayedActivation
from ...training import LatentHistory, LatentResult, LatentState, train_latent


@dataclass(frozen=True)
class Rank2Cell:
    """Rank-2 networks trained on one delayed activation task.

    Network `i` starts from the same weights in every cell: its key is
    `fold_in(key(seed), i)`. Durations in milliseconds; the step is 5 ms, tau 10 ms.

    **Attributes:**

    - `delay`, `post`, `reaction`: durations of the task.
    - `rate`: learning rate; `steps`: epochs; `record_every`: stride of the history.
    - `stop_ratio`, `checkpoints`: as in `train_latent`.
    - `networks`, `units`, `seed`: how many, how large, and which.
    """

    delay: int
    post: int = 0
    reaction: int = 10
    rate: float = 0.005
    steps: int = 500_000
    record_every: int = 1000
    stop_ratio: float = 0.0
    checkpoints: tuple[int, ...] = ()
    networks: int = 100
    units: int = 100
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of its file."""
        stop = f"-s{self.stop_ratio:g}" if self.stop_ratio else ""
        return (
            f"d{self.delay:03d}-p{self.post:02d}-r{self.reaction:02d}-lr{self.rate:g}"
            f"-e{self.steps}-n{self.networks}-seed{self.seed}{stop}"
        )

    @property
    def task(self) -> DelayedActivation:
        """Its task."""
        return DelayedActivation(
            self.delay / 1000, self.post / 1000, reaction=self.reaction / 1000
        )


@dataclass(frozen=True)
class Rank2Config:
    """What the rank-2 study trains.

    **Attributes:**

    - `delays`, `posts`: durations in ms, each pair a cell of `networks` networks.
    - `rate`: learning rate; `steps`: epochs, or `None` for the published 500,000 up to
        a delay of 40 ms and 1,500,000 beyond.
    - `rates`: learning rates of Figure 2 (delay 75 ms), each with `examples` networks
        and at most `example_steps` epochs; a network stops at 1e-4 of its loss.
    - `curves`: whether to train the networks of Figure 3A and B.
    - `sequence`: networks of Figure S1 (delay 150 ms, reaction 50 ms), 0 for none.
    """

    delays: tuple[int, ...] = (30,)
    posts: tuple[int, ...] = (0, 30)
    networks: int = 16
    rate: float = 0.005
    steps: int | None = None
    rates: tuple[float, ...] = ()
    examples: int = 10
    example_steps: int = 200_000
    curves: bool = False
    sequence: int = 0
    seed: int = 0

    def cells(self) -> dict[str, Rank2Cell]:
        """All cells to train, by name."""
        make = functools.partial(Rank2Cell, seed=self.seed)
        found = {}
        for delay in self.delays:
            published = 500_000 if delay <= 40 else 1_500_000
            steps = published if self.steps is None else self.steps
            for post in self.posts:
                found[f"delay {delay} post {post}"] = make(
                    delay, post, rate=self.rate, steps=steps, networks=self.networks
                )
        for rate in self.rates:
            # At rate 1 nothing is learned however long it takes.
            needed = 50_000 if rate >= 1 else 200_000 if rate >= 0.1 else 5_000_000
            steps = min(needed, self.example_steps)
            found[f"rate {rate:g}"] = make(
                75,
                rate=rate,
                steps=steps,
                stop_ratio=1e-4,
                networks=self.examples,
                record_every=100 if steps <= 500_000 else 1000,
            )
        if self.curves:
            for post, steps in ((0, 500_000), (30, 1_000_000)):
                found[f"curve post {post}"] = make(
                    30, post, rate=1e-3, steps=steps, networks=self.examples
                )
        if self.sequence:
            found["sequence"] = make(
                150,
                reaction=50,
                rate=0.01,
                steps=150_000,
                record_every=100,
                checkpoints=tuple(range(2000, 150_001, 2000)),
                networks=self.sequence,
            )
        return found


RANK2_SCALES: dict[str, Rank2Config] = {
    "tiny": Rank2Config(steps=100_000),
    "small": Rank2Config(
        delays=(30, 40), networks=50, rates=(1.0, 0.1), curves=True, sequence=16
    ),
    "full": Rank2Config(
        delays=(30, 40, 50, 60, 70, 80, 90, 100),
        networks=100,
        rates=(1.0, 0.1, 0.01, 1e-4),
        examples=16,
        example_steps=5_000_000,
        curves=True,
        sequence=32,
    ),
}
"""Configurations by scale: a minute, about 10 minutes, and about 5 hours of one CPU."""


def rank2_networks(
    count: int, *, units: int = 100, seed: int = 0, dtype: Any = jnp.float32
) -> LowRankRNN:
    """Untrained rank-2 networks as published, with a leading axis,

        m, n ~ N(0, 1/N),  b = 0,  w_out ~ N(0, 1/2),  c ~ N(0, 1),  x_0 ~ N(0, 0.01),

    rate form, tau 10 ms, one sigmoid output that reads `kappa = n^T x`.

    ```python
    nets = rd.studies.rank2_networks(16)
    ```

    **Arguments:** `count` networks of `units` units; network `i` depends on
    `(seed, i)` only.

    **Returns:** `LowRankRNN` with a leading axis.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433.
    """

    nets = _draw(jnp.arange(count), jnp.asarray(seed), units)
    cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, nets)


@eqx.filter_jit
def _draw(members, seed, units):
    def build(i):
        k_start, k_init = jr.split(jr.fold_in(jr.key(seed), i))
        return LowRankRNN(
            0,
            units,
            1,
            rank=2,
            tau=0.01,
            form="rate",
            scale="1",
            readout="sigmoid",
            latent_readout=True,
            x0=jr.normal(k_start, (units,)) / 10,
            init=GaussianFactors(b_out_std=1.0),
            key=k_init,
        )

    return ensemble(build, members)


def train_cell(
    cell: Rank2Cell,
    folder: str | Path | None = None,
    *,
    every: float = 60.0,
    budget: float = float("inf"),
    progress: bool = False,
    say: Callable[[str], Any] = lambda text: None,
    lanes: int = 64,
) -> LatentResult:
    """Train a cell, or go on where its file ends.

    The file is replaced every `every` seconds and at the end, atomically: what is lost
    when the process is killed is less than that. A finished file is only read.

    ```python
    result = train_cell(Rank2Cell(delay=30, networks=16), "out/rank2")
    ```

    **Arguments:**

    - `cell`: what to train; `folder`: where its file is, `None` for none.
    - `every`: seconds between two writes.
    - `budget`: seconds after which the result so far is stored and returned.
    - `progress`, `lanes`: as in `train_latent`; `say`: called with a line of text.

    **Returns:** a `LatentResult`; `result.done` says whether it is finished.

    **Raises:** a `ValueError` if the file belongs to another configuration.
    """
    path = None if folder is None else Path(folder) / f"{cell.name}.safetensors"
    result, began, clock = None, time.perf_counter(), _Clock()
    if path is not None and path.exists():
        result, clock.before = _read(path, cell)
        say(f"{cell.name}: at epoch {int(np.min(result.state.epoch))} of {cell.steps}")
    written = time.perf_counter()

    def keep(result):
        nonlocal written
        now = time.perf_counter()
        if path is not None and now - written > every:
            _write(path, cell, result, clock())
            written = now
        if now - began > budget:
            raise _OutOfTime(result)

    if result is None or not result.done:
        start = result
        if start is None:
            start = rank2_networks(cell.networks, units=cell.units, seed=cell.seed)
        try:
            result = train_latent(
                start,
                cell.task,
                learning_rate=cell.rate,
                steps=cell.steps,
                record_every=cell.record_every,
                stop_ratio=cell.stop_ratio,
                checkpoints=cell.checkpoints,
                lanes=lanes,
                progress=progress,
                on_chunk=keep,
            )
        except _OutOfTime as stop:
            result = stop.result
        if path is not None:
            _write(path, cell, result, clock())
        seconds = time.perf_counter() - began
        how = "trained" if result.done else "interrupted"
        say(f"{cell.name}: {how}, {seconds:.0f} s")
    return result


class _Clock:
    """CPU seconds of this process, on top of what earlier ones took."""

    def __init__(self):
        self.before, self.start = 0.0, time.process_time()

    def __call__(self) -> float:
        return self.before + time.process_time() - self.start


class _OutOfTime(Exception):
    def __init__(self, result):
        super().__init__("out of time")
        self.result = result


def _config(cell):
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(cell).items()}


def _write(path, cell, result, seconds):
    header = {"cell": _config(cell), "done": result.done, "cpu_seconds": seconds}
    write_arrays(path, named_leaves(result), header)


def _read(path, cell):
    arrays, header = read_arrays(path)
    if header.get("cell") != _config(cell):
        theirs = header.get("cell", {})
        differ = {k: (theirs.get(k), v) for k, v in _config(cell).items()
                  if theirs.get(k) != v}  # fmt: skip
        raise ValueError(
            f"{path} was written for another cell (file, wanted): {differ}. Pass "
            "another folder, or remove the file."
        )
    models = rank2_networks(1, units=cell.units)
    part = lambda prefix: {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }

    def filled(like, prefix):
        values = [np.array(part(prefix)[k]) for k in named_leaves(like)]
        dynamic, static = eqx.partition(like, eqx.is_array)
        dynamic = jax.tree.unflatten(jax.tree.structure(dynamic), values)
        return eqx.combine(dynamic, static)

    plain = part("state.")
    state = LatentState(
        models=filled(models, "state.models."),
        **{k: v.copy() for k, v in plain.items() if not k.startswith("models.")},
    )
    kept = filled(models, "checkpoints.") if cell.checkpoints else None
    history = {k: v.copy() for k, v in part("history.").items()}
    result = LatentResult(
        state=state,
        history=LatentHistory(**history),
        checkpoints=kept,
        checkpoint_epochs=cell.checkpoints,
        record_every=cell.record_every,
        steps=cell.steps,
    )
    return result, header.get("cpu_seconds", float("nan"))
