"""How far a sweep is, and its shards put together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._progress import clock, shard_work
from .._sweep import Sweep
from ._claim import holder, is_alive
from ._files import REMEDY, checksums, discard, publish, read_manifest, versions
from ._store import Store, write_zarr


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    **Attributes:** one entry a shard, in order.

    - `state`: `"done"`, `"trained"` (not yet labelled), `"running"`, `"interrupted"`
        (a checkpoint is there) or `"waiting"`.
    - `networks`, `num_steps`: how many, and the padded length of their trials.
    - `share`: of the training.
    - `seconds`: spent on training, of finished shards; NaN otherwise.
    - `holder`: who works on it, `host:process`.
    """

    name: str
    state: tuple[str, ...]
    networks: np.ndarray
    num_steps: np.ndarray
    share: np.ndarray
    seconds: np.ndarray
    work: np.ndarray
    holder: tuple[str, ...]

    @property
    def done(self) -> int:
        """Networks of finished shards."""
        return int(
            sum(self.networks[i] for i, s in enumerate(self.state) if s == "done")
        )

    @property
    def remaining(self) -> float:
        """Seconds of one worker to go, at the mean rate of the finished shards;
        infinite before the first is finished."""
        known = np.isfinite(self.seconds)
        left = float(np.sum(self.work * (1 - self.share)))
        if not known.any():
            return float("inf") if left else 0.0
        return left * float(np.sum(self.seconds[known]) / np.sum(self.work[known]))

    def __repr__(self) -> str:
        line = f"{self.name}: {self.done} of {int(self.networks.sum())} networks"
        if self.remaining > 0:
            line += f", about {clock(self.remaining)} to go, one shard at a time"
        return line

    def table(self) -> str:
        """A line a shard, and the sum."""
        lines = [repr(self)]
        for i, state in enumerate(self.state):
            text = f"{i:5d}  {int(self.networks[i]):5d} networks  "
            text += f"{int(self.num_steps[i]):4d} steps  {state:11s}"
            if state in ("running", "interrupted"):
                text += f" {100 * self.share[i]:5.1f} %  {self.holder[i]}"
            elif np.isfinite(self.seconds[i]):
                text += f" {clock(self.seconds[i])}"
            lines.append(text.rstrip())
        return "\n".join(lines)


def status(out: str | Path) -> Status:
    """How far the sweep in a folder is.

    **Raises:** a `ValueError` if there is no sweep.
    """
    store = Store.open(out)
    count = len(store.shards)
    states, holders = [], []
    share, seconds = np.zeros(count), np.full(count, np.nan)
    for i in range(count):
        claim = holder(store.claim(i))
        alive = is_alive(store.claim(i))
        if store.is_trained(i):
            share[i] = 1.0
            manifest = read_manifest(store.folder("shards", i))
            seconds[i] = manifest["seconds"]
            labelled = not store.config.labels or store.is_labelled(i)
            states.append("done" if labelled else "running" if alive else "trained")
        elif alive:
            share[i] = float(claim.get("share", 0.0))
            states.append("running")
        else:
            states.append("interrupted" if store.checkpoint(i).exists() else "waiting")
        holders.append(f"{claim['host']}:{claim['pid']}" if alive and claim else "")
    return Status(
        name=store.config.name,
        state=tuple(states),
        networks=np.asarray([len(s.rows) for s in store.shards]),
        num_steps=np.asarray([s.shape.num_steps for s in store.shards]),
        share=share,
        seconds=seconds,
        work=np.asarray(shard_work(store)),
        holder=tuple(holders),
    )


def merge(out: str | Path) -> Path:
    """Put labels and curves of all shards into one zarr store, `OUT/merged/sweep.zarr`,
    in the order of the grid; weights stay in the shards.

    **Returns:** the folder `OUT/merged`, with a `manifest.json` that lists checksums
    and the shards it was made from. Made again if shards were added since, or if its
    files do not have the checksums of its manifest.

    **Raises:** a `ValueError` if there is no sweep or nothing finished in it, or if a
    shard's files do not have the checksums of its manifest.
    """
    store = Store.open(out)
    sweep = Sweep(store)
    if not len(sweep):
        raise ValueError(f"{out} has no finished shard yet. Run the sweep first.")
    parts = {}
    for index in sweep.finished:
        for kind in ("shards", "labels"):
            folder = store.folder(kind, index)
            if (folder / "manifest.json").is_file():
                parts[f"{kind}/{folder.name}"] = verify(folder)
    folder = Path(out) / "merged"
    if folder.exists():
        try:
            verify(folder)
            if read_manifest(folder).get("parts") == parts:
                return folder
        except ValueError:
            pass  # what is broken can be made again
        discard(folder)

    def fill(path: Path) -> dict[str, Any]:
        data = sweep.to_xarray(curves=True)
        arrays = {str(k): v.values for k, v in data.variables.items()}
        arrays["row"] = sweep.rows
        dims = {str(k): tuple(map(str, v.dims)) for k, v in data.variables.items()}
        write_zarr(path / "sweep.zarr", arrays, {**dims, "row": ("member",)})
        about = {"config_hash": store.config.hash, "config": store.config.to_dict()}
        return {**about, "members": len(sweep), "parts": parts, "versions": versions()}

    publish(folder, fill)
    return folder


def verify(folder: str | Path) -> dict[str, str]:
    """The checksums of a published folder, if its files still have them.

    **Raises:** a `ValueError` that names the files that are missing, new or changed.
    """
    folder = Path(folder)
    wanted = read_manifest(folder)["files"]
    have = checksums(folder)
    bad = sorted(k for k in {*wanted, *have} if wanted.get(k) != have.get(k))
    if bad:
        raise ValueError(
            f"{folder}: {', '.join(bad[:5])} differ from manifest.json. {REMEDY}"
        )
    return wanted
