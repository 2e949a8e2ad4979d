"""Running a sweep: shard after shard, here or wherever an executor takes them."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._core._checks import check_count
from .._core._store import named_leaves, write_arrays
from ._config import SweepConfig
from ._labels import label as label_shard
from ._progress import Meter
from ._shard import Trained, train_shard
from ._sweep import Sweep, read
from .disk._claim import Claim
from .disk._files import read_checkpoint
from .disk._store import Store, need


@dataclass(frozen=True)
class Options:
    """How shards are worked on; nothing here changes what comes out."""

    label: bool = True
    checkpoint_seconds: float = 60.0
    chunk: int | None = None
    lanes: int | None = None
    devices: int | None = None
    parent: int = 0


class _Overtaken(Exception):
    """Another process has published the shard meanwhile."""


def run(
    config: SweepConfig,
    out: str | Path,
    *,
    executor: Any = None,
    shards: Sequence[int] | None = None,
    label: bool = True,
    progress: bool = False,
    say: Callable[[str], Any] | None = None,
    checkpoint_seconds: float | int = 60.0,
    chunk: int | None = None,
    lanes: int | None = None,
    devices: int | None = None,
    wait: bool = True,
) -> Sweep:
    """Train and label every member of a sweep, or go on where it was interrupted.

    A shard whose results are there is not touched again. Any number of processes may
    work on one folder at the same time; each takes the next shard that nobody works
    on. A process that is killed loses what it did since its last checkpoint.

    **Arguments:**

    - `config`: a `SweepConfig`.
    - `out`: folder, made if it is not there.
    - `executor`: any `concurrent.futures.Executor`, such as a
        `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))` (a fork
        of a process that runs JAX hangs), `dask.distributed`'s `client.get_executor()`
        or submitit's; every shard is one task. Its workers must see the same folder.
        Shards are trained in this process without one.
    - `shards`: numbers of the shards to work on, all by default.
    - `label`: whether to label what was trained.
    - `progress`: show a bar; `say`: called with a line of text for every shard.
    - `checkpoint_seconds`: time between two checkpoints of a shard.
    - `chunk`, `lanes`: as in `rnndyn.training.train`; by default what fits the memory.
    - `devices`: how many to use in a process, all by default; of worker processes that
        an executor starts, 1 by default.
    - `wait`: whether to wait for shards that other processes work on.

    **Returns:** a `Sweep` of all that is finished in the folder; after `shards` alone
    its arrays are not read before they are asked for.

    **Raises:** a `ValueError` if the folder holds a sweep of another configuration,
    with the differences; an `ImportError` without xarray and zarr; what a worker
    raised, after all other shards are done.

    !!! example

        ```python
        grid = rd.sweeps.Grid(learning_rate=[0.1, 0.03], delay=[0.02, 0.1], seed=20)
        config = rd.sweeps.SweepConfig(grid=grid, batch=32, shard_size=40)
        sweep = rd.sweeps.run(config, "out", progress=True)
        print(sweep.fractions("mechanism").table())
        ```
    """
    if not isinstance(config, SweepConfig):
        raise ValueError(
            f"config is a {type(config).__name__}, expected a SweepConfig. Pass "
            "SweepConfig.from_toml(path) or SweepConfig.from_dict(table)."
        )
    need("xarray", "zarr")
    for name, value in (("chunk", chunk), ("lanes", lanes), ("devices", devices)):
        if value is not None:
            check_count(name, value)
    store = Store(out, config)
    store.create()
    wanted = range(len(store.shards)) if shards is None else list(shards)
    for index in wanted:
        if not 0 <= index < len(store.shards):
            raise ValueError(
                f"shard {index}, expected 0 .. {len(store.shards) - 1}: the sweep has "
                f"{len(store.shards)} shards."
            )
    options = Options(
        label=label,
        checkpoint_seconds=float(checkpoint_seconds),
        chunk=chunk,
        lanes=lanes,
        devices=devices,
    )
    meter = Meter(store, wanted, progress, say)
    left = [i for i in wanted if not _is_done(store, i, label)]
    meter.start(left)
    pause = 0.5
    with contextlib.closing(meter):
        while left:
            if executor is None:
                busy = [i for i in left if not _work(store, i, options, meter)]
            else:
                busy = _spread(store, left, options, executor, meter)
            left = [i for i in busy if not _is_done(store, i, label)]
            if not wait:
                break
            if len(left) == len(busy) and left:
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
    return read(store) if shards is None else Sweep(store)


def resume(out: str | Path, **options: Any) -> Sweep:
    """Go on with the sweep in a folder; keywords as in `run`."""
    return run(Store.open(out).config, out, **options)


def work(config: dict[str, Any], out: str, index: int, options: Options) -> bool:
    """Work on one shard in a worker process: what is sent to an executor.

    **Returns:** whether it is done; `False` if another process works on it.
    """
    if os.getpid() != options.parent:
        from .. import _bootstrap

        _bootstrap.configure(devices=options.devices or 1)
    store = Store(out, SweepConfig.from_dict(config))
    return _work(store, index, options, None)


def _spread(store, left, options, executor, meter):
    """One round over an executor; the shards that turned out busy."""
    options = replace(options, parent=os.getpid())
    plain = store.config.to_dict()
    out = str(store.out.resolve())
    futures = {}
    for index in left:
        # Options differ per call: some executors take equal calls for the same call.
        future = executor.submit(work, plain, out, index, options)
        futures[future] = index
    busy, errors = [], []
    for future in _completed(futures):
        try:
            done = future.result()
        except Exception as error:
            errors.append((futures[future], error))
            continue
        if done:
            meter.shard_done(futures[future])
        else:
            busy.append(futures[future])
    if errors:
        index, error = errors[0]
        error.add_note(
            f"while working on shard {index} of {store.out} ({len(errors)} of "
            f"{len(left)} shards failed); finished shards are kept, run again to go on."
        )
        raise error
    return busy


def _completed(futures):
    """Futures as they end; also of executors whose futures only look alike."""
    try:
        yield from as_completed(list(futures))
    except (AttributeError, TypeError):
        yield from futures


def _is_done(store: Store, index: int, label: bool) -> bool:
    if not store.is_trained(index):
        return False
    return not (label and store.config.labels) or store.is_labelled(index)


def _work(store: Store, index: int, options: Options, meter: Any) -> bool:
    """Train and label one shard. Whether it is done."""
    if _is_done(store, index, options.label):
        return True
    claim = Claim(store.claim(index))
    with claim as held:
        if not held:
            return False
        shard = store.shards[index]
        if not store.is_trained(index):
            with contextlib.suppress(_Overtaken):
                _train(store, shard, options, claim, meter)
        store.checkpoint(index).unlink(missing_ok=True)
        if options.label and store.config.labels and not store.is_labelled(index):
            began = time.perf_counter()
            networks, tasks = store.read_networks(index)
            outcome = store.read_shard(index)["outcome"]
            ids = store.members.id[shard.rows]
            labels = label_shard(store.config, networks, tasks, outcome, ids)
            store.write_labels(shard, labels, time.perf_counter() - began)
    if meter is not None:
        meter.shard_done(index)
    return True


def _train(store, shard, options, claim, meter):
    began = time.perf_counter()
    path, header = store.checkpoint(shard.index), store.header(shard.index)
    saved = [began]
    budget = store.members.epochs[shard.rows]

    def on_chunk(now):
        running = np.asarray(now.state.running)
        share = np.where(running, now.state.step / budget, 1.0)
        claim.note(share=float(np.mean(share)))
        if meter is not None:
            meter.within(shard.index, share)
        if time.perf_counter() - saved[0] < options.checkpoint_seconds:
            return
        if store.is_trained(shard.index):
            raise _Overtaken
        write_arrays(path, named_leaves(Trained(now.state, now.log)), header)
        saved[0] = time.perf_counter()

    trained = train_shard(
        store.config,
        shard,
        members=store.members,
        resume=lambda like: read_checkpoint(path, like, header),
        on_chunk=on_chunk,
        chunk=options.chunk,
        lanes=options.lanes,
        devices=_devices(options.devices) if options.parent == 0 else None,
    )
    store.write_shard(shard, trained, time.perf_counter() - began)


def _devices(count):
    if count is None:
        return None
    import jax

    return jax.devices()[:count]
