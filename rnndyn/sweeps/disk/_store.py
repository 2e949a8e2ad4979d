"""Where a sweep lies on disk.

OUT/sweep.json                      configuration, its hash, number of shards
OUT/shards/00000/weights.safetensors     stacked networks
                /curves.zarr             members, outcome, curves
                /manifest.json           hash, versions, device, checksums
OUT/labels/00000/labels.zarr
                /manifest.json
OUT/work/00000.safetensors          a shard in the middle of its training
OUT/claims/00000.json               who works on it
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._core._store import (
    named_leaves,
    place,
    read_arrays,
    write_arrays,
    write_json,
)
from .._config import SCHEMA, SweepConfig, differences
from .._grid import Members
from .._labels import CODES, DIMS, EVIDENCE, RULES, aligned, unpack
from .._shard import Shard, Trained, plan, untrained
from ._files import (
    REMEDY,
    discard,
    is_published,
    machine,
    publish,
    read_json,
    read_manifest,
    sha256,
    versions,
)


class Store:
    """The folder of one sweep."""

    def __init__(self, out: str | Path, config: SweepConfig):
        self.out = Path(out)
        self.config = config
        self.members: Members = config.members()
        self.shards: list[Shard] = plan(config, self.members)

    @classmethod
    def open(cls, out: str | Path) -> "Store":
        """The folder of an existing sweep.

        **Raises:** a `ValueError` if there is none.
        """
        path = Path(out) / "sweep.json"
        if not path.is_file():
            raise ValueError(f"{out} holds no sweep.json. Pass the folder of a sweep.")
        return cls(out, SweepConfig.from_dict(_checked(read_json(path), path)))

    def create(self) -> None:
        """Write `sweep.json`, or check that it is there and says the same.

        **Raises:** a `ValueError` with the differences if it says something else.
        """
        path = self.out / "sweep.json"
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file, expected a folder for the sweep.")
        new = self.config.to_dict()
        if path.is_file():
            table = read_json(path)
            old = _checked(table, path)
            # The hash does not see the order of axes, in which members are numbered.
            turned = list(old["grid"]) != list(new["grid"])
            if table["config_hash"] != self.config.hash or turned:
                lines = differences(old, new) or ["the rules for the hash"]
                raise ValueError(
                    f"{self.out} holds another sweep than the one asked for:\n  "
                    + "\n  ".join(lines)
                    + "\nPass another folder, or the configuration in sweep.json."
                )
            if old["labels"] == new["labels"] and old["name"] == new["name"]:
                return
        self.out.mkdir(parents=True, exist_ok=True)
        about = {"schema": SCHEMA, "config_hash": self.config.hash, "config": new}
        write_json(path, {**about, "shards": len(self.shards)})

    def folder(self, kind: str, index: int) -> Path:
        """The folder of a shard's results (`shards`) or labels (`labels`)."""
        return self.out / kind / f"{index:05d}"

    def checkpoint(self, index: int) -> Path:
        """The file of a shard in training."""
        return self.out / "work" / f"{index:05d}.safetensors"

    def claim(self, index: int) -> Path:
        """The file that says who works on a shard."""
        return self.out / "claims" / f"{index:05d}.json"

    def is_trained(self, index: int) -> bool:
        """Whether the networks of a shard are there."""
        return is_published(self.folder("shards", index))

    def is_labelled(self, index: int) -> bool:
        """Whether the labels that the configuration wants are there, with the evidence
        that this version of the library keeps."""
        folder = self.folder("labels", index)
        if not is_published(folder):
            return False
        about, wanted = read_manifest(folder), set(self.config.labels)
        current = "primary" not in wanted or self._current(index, about)
        return wanted <= set(about.get("labels", [])) and current

    def _current(self, index: int, about: Mapping[str, Any]) -> bool:
        """Whether the primary labels of a shard are those of this version."""
        return about.get("rules") == RULES and self._evidence(index) == EVIDENCE

    def _evidence(self, index: int) -> dict[str, tuple[str, ...]]:
        """Names of the columns of evidence in a shard's labels; none if these cannot be
        read."""
        path = self.folder("labels", index) / "labels.zarr"
        try:
            about = {k: read_json(path / k / "zarr.json") for k in EVIDENCE}
            return {
                k: tuple(v["attributes"]["names"].split(", ")) for k, v in about.items()
            }
        except (OSError, KeyError, ValueError):
            return dict.fromkeys(EVIDENCE, ())

    def header(self, index: int) -> dict[str, Any]:
        """What a file of a shard says about itself."""
        return {"schema": SCHEMA, "config_hash": self.config.hash, "index": index}

    def write_shard(self, shard: Shard, trained: Trained, seconds: float) -> bool:
        """Publish a trained shard; whether it was this call that did."""
        arrays, dims = shard_arrays(self.config, self.members, shard, trained)

        def fill(path):
            model = trained.state.model
            about = self.header(shard.index)
            header = network_header(model, self.config, shard.shape["dt"], about)
            write_arrays(path / "weights.safetensors", named_leaves(model), header)
            write_zarr(path / "curves.zarr", arrays, dims)
            return self._manifest(shard, seconds)

        return publish(self.folder("shards", shard.index), fill)

    def write_labels(
        self, shard: Shard, labels: Mapping[str, np.ndarray], seconds: float
    ) -> bool:
        """Publish the labels that the configuration wants of a shard, beside those of
        the other kind if they are there."""
        folder = self.folder("labels", shard.index)
        kinds = list(self.config.labels)

        def fill(path):
            write_zarr(path / "labels.zarr", labels, DIMS)
            about = self._manifest(shard, seconds)
            return {**about, "labels": kinds, "rules": RULES}

        if is_published(folder) and not self.is_labelled(shard.index):
            about = read_manifest(folder)
            others = [k for k in about.get("labels", []) if k not in kinds]
            columns = self._evidence(shard.index)
            # Of another version they are kept, and made anew when asked for.
            current = self._current(shard.index, about)
            kinds += [k for k in others if k != "primary" or current]
            kind = lambda name: "compat" if name.startswith("compat") else "primary"
            old = self._read("labels", shard.index, "labels.zarr")
            old |= aligned(old, columns)
            labels = {k: old[k] if kind(k) in others else v for k, v in labels.items()}
            discard(folder)
        return publish(folder, fill)

    def _manifest(self, shard, seconds):
        about = {
            "members": len(shard.rows),
            "num_steps": shard.shape.num_steps,
            "ids": [int(self.members.id[r]) for r in shard.rows],
            "seconds": round(seconds, 3),
            "machine": machine(),
            "versions": versions(),
        }
        return {**self.header(shard.index), **about}

    def read_shard(self, index: int, curves: bool = False) -> dict[str, np.ndarray]:
        """Arrays of a trained shard, with its labels if there are any.

        **Raises:** a `ValueError` if a file is missing, cannot be read, or belongs to
        another sweep.
        """
        skip = () if curves else ("last_", "history_")
        arrays = self._read("shards", index, "curves.zarr", skip)
        if is_published(self.folder("labels", index)):
            labels = self._read("labels", index, "labels.zarr")
            arrays |= unpack(labels | aligned(labels, self._evidence(index)))
        rows = self.members.rows(arrays["row"])
        return {**rows.values, **arrays}

    @functools.cached_property
    def _hash(self):
        """As sweep.json has it: another version may hash by other rules."""
        path = self.out / "sweep.json"
        return read_json(path)["config_hash"] if path.is_file() else self.config.hash

    def _read(self, kind, index, name, skip=()):
        """Arrays of a published folder, if it is whole and of this sweep."""
        folder = self.folder(kind, index)
        manifest = read_manifest(folder)
        if manifest.get("config_hash") != self._hash:
            raise ValueError(
                f"{folder} belongs to another configuration than sweep.json. {REMEDY}"
            )
        # Zarr takes a file that is not there for one of nothing but zeros.
        lost = [k for k in manifest["files"] if not (folder / k).is_file()]
        if lost:
            raise ValueError(f"{folder} lacks {', '.join(lost[:5])}. {REMEDY}")
        try:
            return read_zarr(folder / name, skip)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{folder} cannot be read ({error}). {REMEDY}") from error

    def read_networks(self, index: int) -> tuple[Any, Any]:
        """Networks and tasks of a trained shard.

        **Raises:** a `ValueError` if its weights are not those that were written.
        """
        shard = self.shards[index]
        networks, tasks = untrained(self.config, shard, self.members)
        folder = self.folder("shards", index)
        path = folder / "weights.safetensors"
        known = read_manifest(folder)["files"].get(path.name)
        if not path.is_file() or sha256(path) != known:
            raise ValueError(f"{path} is not what its manifest says. {REMEDY}")
        arrays, _ = read_arrays(path)
        return place(arrays, networks, path), tasks


def load_config(out: str | Path) -> SweepConfig:
    """The configuration of the sweep in a folder.

    **Raises:** a `ValueError` if there is none.
    """
    return Store.open(out).config


def shard_arrays(
    config: SweepConfig, members: Members, shard: Shard, trained: Trained
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """What is stored of a trained shard besides weights, and its dimensions."""
    rows = members.rows(shard.rows)
    state, log = trained
    last = log.last()
    arrays = {
        "id": rows.id,
        "row": shard.rows.astype(np.int64),
        "epochs": rows.epochs,
        **{k: rows.values[k] for k in config.grid.names},
        "steps": np.asarray(state.step),
        "outcome": np.asarray(config.rules.outcome(state, log), np.int8),
        "diverged": np.asarray(state.diverged),
        "stopped": np.asarray(state.stopped),
        "final_loss": last["loss"][:, -1],
        "final_accuracy": last["accuracy"][:, -1],
        "final_reliability": last["reliability"][:, -1],
    }
    dims: dict[str, tuple[str, ...]] = {k: ("member",) for k in arrays}
    for name, values in last.items():
        arrays[f"last_{name}"] = values
        dims[f"last_{name}"] = ("member", "last")
    for name in ("loss", "accuracy", "reliability", "grad_norm"):
        arrays[f"history_{name}"] = np.asarray(getattr(log.history, name))
        dims[f"history_{name}"] = ("member", "record")
    return arrays, dims


def network_header(
    model: Any, config: SweepConfig, dt: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What `rnndyn.load_network` needs to know about a file of networks, all of which
    were trained with steps of `dt`."""
    header = {
        "class": type(model).__name__,
        "form": getattr(model, "form", "rate"),
        "activation": model.activation,
        "readout": model.readout_activation,
        "dt": dt,
        "config": {**about, "sweep": config.to_dict()},
    }
    if hasattr(model, "scale"):
        header["scale"] = model.scale
    return header


def write_zarr(
    path: Path, arrays: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]]
) -> None:
    """Arrays to a zarr store (format 3), one chunk each, codes with their names."""
    xarray = need("xarray", "zarr")
    variables = {}
    for name, values in arrays.items():
        names = CODES.get(name) or EVIDENCE.get(name)
        attrs = {"names": ", ".join(names)} if names else {}
        variables[name] = (dims[name], np.asarray(values), attrs)
    data = xarray.Dataset(variables)
    chunks = {k: {"chunks": v.shape} for k, v in data.variables.items() if v.size}
    data.to_zarr(path, zarr_format=3, consolidated=False, encoding=chunks)


def read_zarr(path: Path, skip: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Arrays of a zarr store, without those whose name starts with one of `skip`."""
    arrays = sorted(need("zarr", "xarray").open_group(path, mode="r").arrays())
    return {k: np.asarray(a[...]) for k, a in arrays if not k.startswith(skip or "?")}


def need(*packages: str) -> Any:
    """The first of the packages, all of which must be there.

    **Raises:** an `ImportError` that says what to install.
    """
    import importlib

    try:
        return [importlib.import_module(p) for p in packages][0]
    except ImportError as error:
        raise ImportError(
            f"sweeps are stored by xarray and zarr ({error}): "
            'pip install "rnndyn[data]"'
        ) from error


def _checked(table, path):
    if not isinstance(table, dict) or not isinstance(table.get("config"), dict):
        raise ValueError(
            f"{path} holds no configuration of a sweep. Restore that file, or run the "
            "sweep in another folder."
        )
    if table.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {table.get('schema')!r}, expected {SCHEMA!r}. It was "
            "written by another version; use that one."
        )
    return table["config"]
