"""What is finished of a sweep, as arrays: a row a network."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._core._checks import one_of
from ..models import member
from ._config import SweepConfig
from ._grid import Grid, positions
from ._labels import CODES, blank, unpack
from .disk._store import Store, need


class _Read(NamedTuple):
    """Arrays of the finished networks, and where each lies: the position among the
    finished shards, and in the shard."""

    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    part: np.ndarray
    place: np.ndarray


class Sweep:
    """The finished networks of a sweep, in the order of its grid.

    **Attributes:**

    - `config`, `grid`: what was asked for.
    - `rows`: positions in the grid of the networks that are there, shape `(rows,)`.
    - `arrays`: NumPy arrays of shape `(rows, ...)` by name: every hyper-parameter,
        `id`, `epochs` (allowed), `steps` (made), `outcome`, `diverged`, `stopped`,
        `final_loss`, `final_accuracy`, `final_reliability`, the labels `compat_code`,
        `compat_index`, `compat_median`, `compat_ambiguous`, `mechanism`, `cue_code`,
        `flow_code`, `margin`, and their `evidence_*`.
    """

    def __init__(self, store: Store):
        self.store = store
        self.config: SweepConfig = store.config
        self.grid: Grid = store.config.grid
        self.finished = [s.index for s in store.shards if store.is_trained(s.index)]

    @cached_property
    def _read(self) -> "_Read":
        # When first asked for: many sweeps are run shard by shard and never looked at.
        parts = [self.store.read_shard(i) for i in self.finished]
        cues = self.config.rules.conditions
        parts = [unpack(blank(len(p["id"]), cues)) | p for p in parts]
        where = [np.full(len(p["id"]), i) for i, p in enumerate(parts)]
        place = [np.arange(len(p["id"])) for p in parts]
        joined = _join(parts)
        order = np.argsort(joined["row"]) if parts else np.zeros(0, int)
        arrays = {k: v[order] for k, v in joined.items()}
        none = np.zeros(0, int)
        return _Read(
            rows=arrays.pop("row", np.zeros(0, np.int64)),
            arrays=arrays,
            part=np.concatenate([none, *where])[order],
            place=np.concatenate([none, *place])[order],
        )

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known of every network, by name."""
        return self._read.arrays

    @property
    def rows(self) -> np.ndarray:
        """Positions in the grid of the networks that are there."""
        return self._read.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Sweep({len(self)} of {self.grid.size} networks, {self.store.out})"

    @property
    def complete(self) -> bool:
        """Whether every network is there."""
        return len(self) == self.grid.size

    def cube(self, name: str, fill: Any = None) -> np.ndarray:
        """An array of one value a network over the whole grid, shape `grid.shape` and
        what the array has beyond; `fill` where nothing is there (NaN, or -1)."""
        one_of("array", name, self.arrays)
        values = self.arrays[name]
        if fill is None:
            fill = {"f": np.nan, "b": False}.get(values.dtype.kind, -1)
        cube = np.full((self.grid.size, *values.shape[1:]), fill, values.dtype)
        cube[self.rows] = values
        return cube.reshape(*self.grid.shape, *values.shape[1:])

    def curves(self) -> dict[str, np.ndarray]:
        """Curves of every network, by name.

        `last_loss`, `last_accuracy`, `last_reliability` `(rows, last)`: the last
        epochs, ending in the last column, NaN before the first. `history_*` `(rows,
        record)`: the whole training at the stride `config.record_every`, NaN after the
        end; also `history_grad_norm`.
        """
        parts = [self.store.read_shard(i, curves=True) for i in self.finished]
        keep = lambda k: k.startswith(("last_", "history_"))
        parts = [{k: v for k, v in p.items() if keep(k)} for p in parts]
        for name in parts[0] if parts else ():
            width = max(p[name].shape[1] for p in parts)
            for part in parts:
                short = width - part[name].shape[1]
                before = name.startswith("last_")
                pad = (short, 0) if before else (0, short)
                part[name] = np.pad(part[name], ((0, 0), pad), constant_values=np.nan)
        order = np.lexsort((self._read.place, self._read.part)).argsort()
        return {k: v[order] for k, v in _join(parts).items()}

    def networks(self, rows: Any) -> tuple[Any, Any]:
        """Trained networks and their tasks, as ensembles.

        **Arguments:** `rows`: positions in the arrays, one or several, or a mask over
        them.

        **Raises:** a `ValueError` if the networks do not share a program; select by
        `post_reaction`, `units` and the like, or use `groups`.
        """
        groups = self.groups(rows)
        if not groups:
            raise ValueError("no networks were chosen, expected at least one.")
        if len(groups) != 1:
            raise ValueError(
                f"these networks belong to {len(groups)} programs (padded lengths, "
                "sizes, periods), expected one. Take them by `groups(rows)`."
            )
        _, networks, tasks = groups[0]
        return networks, tasks

    def groups(self, rows: Any = slice(None)) -> list[tuple[np.ndarray, Any, Any]]:
        """`(rows, networks, tasks)` for each set of networks that share a program."""
        rows = positions(rows, len(self))
        shapes: dict[Any, list[int]] = {}
        for row in rows:
            shard = self.store.shards[self.finished[self._read.part[row]]]
            shapes.setdefault(shard.shape, []).append(int(row))
        found = []
        for chosen in map(np.asarray, shapes.values()):
            pieces = []
            for part in np.unique(self._read.part[chosen]):
                mine = chosen[self._read.part[chosen] == part]
                whole = self.store.read_networks(self.finished[part])
                pieces.append((mine, member(whole, self._read.place[mine])))
            back = np.argsort(np.concatenate([m for m, _ in pieces]))
            order = np.argsort(chosen).argsort()
            nets = _stack([p for _, p in pieces])
            found.append((chosen, *member(nets, back[order])))
        return found

    def fractions(self, label: str = "compat", axis: str = "seed") -> "Fractions":
        """How networks of each cell are distributed over labels.

        **Arguments:**

        - `label`: `"compat"` (not learned, limit cycle, slow point; unstable networks
            count as not learned, as published), `"mechanism"` or `"outcome"`.
        - `axis`: the axis to count over. On a grid without seeds a cell is a network.
        """
        one_of("label", label, ("compat", "mechanism", "outcome"))
        one_of("axis", axis, {*self.grid.names, "seed"})
        name = {"compat": "compat_code"}.get(label, label)
        codes = self.cube(name, -1).astype(int)
        names = CODES[name]
        if label == "compat":
            codes, names = np.where(codes == 3, 0, codes), names[:3]
        if axis in self.grid.names:
            codes = np.moveaxis(codes, self.grid.names.index(axis), -1)
        else:
            codes = codes[..., None]
        counts = [np.sum(codes == i, axis=-1) for i in range(len(names))]
        dims = tuple(n for n in self.grid.names if n != axis)
        coordinates = {n: np.asarray(self.grid.axes[n]) for n in dims}
        return Fractions(names, coordinates, np.stack(counts, axis=-1))

    def to_xarray(self, curves: bool = False) -> Any:
        """An `xarray.Dataset` with dimensions `member` and, for what is known of every
        cue, `condition`; codes named in `attrs` (needs `rnndyn[data]`)."""
        xarray = need("xarray")
        data = dict(self.arrays) | (self.curves() if curves else {})
        names = lambda k, v: ("member", *_extra_dims(k, v.ndim - 1))
        attrs = lambda k: {"names": ", ".join(CODES[k])} if k in CODES else {}
        return xarray.Dataset({k: (names(k, v), v, attrs(k)) for k, v in data.items()})


@dataclass(frozen=True)
class Fractions:
    """Counts of labels in every cell of a grid.

    **Attributes:**

    - `names`: of the labels.
    - `coordinates`: values of the axes, in the order of `counts`.
    - `counts`: shape `(*axes, labels)`; `n`: labelled networks of a cell `(*axes)`;
        `values`: fractions `(*axes, labels)`, NaN in empty cells.
    """

    names: tuple[str, ...]
    coordinates: dict[str, np.ndarray]
    counts: np.ndarray

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(self.coordinates)

    @property
    def n(self) -> np.ndarray:
        """Labelled networks of each cell."""
        return self.counts.sum(axis=-1)

    @property
    def values(self) -> np.ndarray:
        """Fractions of each cell."""
        n = self.n[..., None]
        return np.where(n > 0, self.counts / np.maximum(n, 1), np.nan)

    def of(self, name: str) -> np.ndarray:
        """Fractions of one label, shape `(*axes)`."""
        one_of("label", name, self.names)
        return self.values[..., self.names.index(name)]

    def table(self) -> str:
        """Counts by cell, as text."""
        present = [i for i in range(len(self.names)) if self.counts[..., i].sum() > 0]
        head = [*self.dims, *(self.names[i] for i in present)]
        rows = [head]
        for index in np.ndindex(*self.counts.shape[:-1]):
            at = zip(self.coordinates.values(), index, strict=True)
            cell = self.counts[index]
            rows.append(
                [*(f"{v[i]:g}" for v, i in at), *(str(cell[i]) for i in present)]
            )
        widths = [max(len(r[k]) for r in rows) for k in range(len(head))]
        lines = [
            "  ".join(v.rjust(w) for v, w in zip(r, widths, strict=True)) for r in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def load(out: str | Path) -> Sweep:
    """What is finished of the sweep in a folder.

    **Raises:** a `ValueError` if there is no sweep, or if files of it are broken.
    """
    return read(Store.open(out))


def read(store: Store) -> Sweep:
    """What is finished, read at once, so that what is broken is said here."""
    sweep = Sweep(store)
    len(sweep)
    return sweep


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parts one after the other; what a part lacks is NaN, or -1."""
    joined: dict[str, np.ndarray] = {}
    names = dict.fromkeys(k for p in parts for k in p)
    for name in names:
        like = next(p[name] for p in parts if name in p)
        pieces = []
        for part in parts:
            shape = (len(part["id"]) if "id" in part else 0, *like.shape[1:])
            fill = {"f": np.nan, "b": False}.get(like.dtype.kind, -1)
            pieces.append(part.get(name, np.full(shape, fill, like.dtype)))
        joined[name] = np.concatenate(pieces)
    return joined


def _stack(trees: list[Any]) -> Any:
    """Ensembles of the same structure one after the other."""
    parts = [eqx.partition(t, eqx.is_array) for t in trees]
    arrays = jax.tree.map(
        lambda *a: np.concatenate([np.asarray(x) for x in a]), *(p for p, _ in parts)
    )
    return eqx.combine(arrays, parts[0][1])


def _extra_dims(name: str, count: int) -> tuple[str, ...]:
    # Not "cue", which is the name of a duration.
    dims = {"last": "last", "history": "record"}.get(name.split("_")[0], "condition")
    return (dims,)[:count]
