"""Writing a set of networks as a data set, and reading it again.

zoo.json                    schema, groups of networks, origin, licence, checksums
README.md                   the card
table.safetensors           hyper-parameters, outcomes, labels: one row a network
weights-00000.safetensors   stacked networks of one kind
curves-00000.safetensors    their training
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .._core._checks import check_count, one_of
from .._core._store import named_leaves, read_arrays, write_arrays
from ..models._activations import ACTIVATIONS
from ..sweeps import Sweep, load as load_sweep, verify
from ..sweeps._grid import positions
from ..sweeps.disk._files import is_published, publish, sha256, versions
from ._card import card
from ._schema import CURVES, HYPER, SCHEMA, WEIGHTS, describe, field, problems
from ._zoo import Zoo, build


Arrays = Mapping[str, Any]
_ABOUT = ("class", "form", "activation", "readout", "scale", "latent_readout")


def save(
    source: Sweep | str | Path | Arrays,
    path: str | Path,
    *,
    title: str = "Recurrent networks that hold a memory",
    description: str = "",
    licence: str = "cc-by-4.0",
    authors: tuple[str, ...] = (),
    network: Mapping[str, Any] | None = None,
    rows: Any = None,
    curves: bool = True,
    per_file: int = 1000,
) -> Zoo:
    """Write a set of networks as a data set.

    **Arguments:**

    - `source`: a `rnndyn.sweeps.Sweep`, the folder of one, or named arrays with a
        leading axis over networks, by the names of `rnndyn.zoo.TABLE`, `CURVES` and
        `WEIGHTS`: weights at least, such as `read_paper_layout` gives them.
    - `path`: folder to make; it must not be there yet.
    - `title`, `description`, `licence` (a name the Hugging Face Hub knows), `authors`
        (a tuple of names): for the card.
    - `network`: for arrays, what the weights do not say: `form`, `activation`,
        `readout`, and `class`, `scale`, `latent_readout` of low-rank networks.
    - `rows`: which networks, by position or as a mask; all by default.
    - `curves`: whether to keep the training curves.
    - `per_file`: networks a file of weights, at most.

    **Returns:** the data set, as `load` gives it.

    **Raises:** a `ValueError` if nothing is in the source, a file of a sweep has
    changed, an array is not part of the schema or does not fit it, the weights do not
    make networks, or the folder is there already.

    !!! example

        ```python
        zoo = rd.zoo.save("sweep", "zoo", title="64 networks", licence="cc-by-4.0")
        nets = zoo.ensemble(zoo.rows(mechanism="limit_cycle"))
        ```
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} is there already. Pass the name of a new folder.")
    check_count("per_file", per_file)
    if isinstance(authors, str):
        raise ValueError(f"authors = {authors!r}, expected names. Pass ({authors!r},).")
    origin: dict[str, Any] = {}
    if isinstance(source, str | Path):
        source = load_sweep(source)
    if isinstance(source, Sweep):
        table, groups = _of_sweep(source, rows, curves)
        origin = {"sweep": source.config.to_dict(), "config_hash": source.config.hash}
    elif isinstance(source, Mapping):
        table, groups = _of_arrays(source, network, rows, curves)
    else:
        raise ValueError(
            f"source is a {type(source).__name__}, expected a sweep, its folder, or "
            'named arrays. Pass {"W": networks.W, ...}.'
        )
    count = len(next(iter(table.values()))) if table else 0
    if not count:
        raise ValueError("the source holds no networks, expected at least one.")
    bad = [*problems(table, count)]
    for group in groups:
        bad += problems(group["weights"] | group["curves"], len(group["rows"]))
        bad += [] if bad else _misfits(group["network"], group["weights"])
    if bad:
        raise ValueError(f"the source does not fit {SCHEMA}: {'; '.join(bad)}.")

    def fill(folder):
        written, index = [], 0
        for group in groups:
            for first in range(0, len(group["rows"]), per_file):
                cut = slice(first, first + per_file)
                entry = {"network": group["network"], "rows": group["rows"][cut]}
                for kind in ("weights", "curves"):
                    if not group[kind]:
                        continue
                    name = f"{kind}-{index:05d}.safetensors"
                    entry[kind] = name
                    arrays = {k: v[cut] for k, v in group[kind].items()}
                    header = {"schema": SCHEMA, "first_member": first}
                    if "dt" in table:
                        header["dt"] = table["dt"][entry["rows"]].tolist()
                    write_arrays(folder / name, arrays, group["network"] | header)
                written.append(entry)
                index += 1
        write_arrays(folder / "table.safetensors", table, {"schema": SCHEMA})
        everything = [
            *table,
            *(k for g in groups for k in (*g["weights"], *g["curves"])),
        ]
        about = {
            "schema": SCHEMA,
            "title": title,
            "description": description,
            "licence": licence,
            "authors": list(authors),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "networks": count,
            "groups": [e | {"rows": [int(r) for r in e["rows"]]} for e in written],
            "fields": describe(dict.fromkeys(everything)),
            "origin": origin,
            "versions": versions(),
        }
        (folder / "README.md").write_text(card(about, table))
        about["files"] = {
            p.name: {"sha256": sha256(p), "bytes": p.stat().st_size}
            for p in sorted(folder.iterdir())
        }
        (folder / "zoo.json").write_text(json.dumps(about, indent=1))
        validate(folder)
        return {"schema": SCHEMA, "networks": count}

    publish(path, fill)
    return Zoo(path)


def validate(path: str | Path) -> Zoo:
    """Check a data set: schema, checksums, shapes, kinds, codes, finite weights that
    make networks.

    **Returns:** the data set.

    **Raises:** a `ValueError` that lists everything that is wrong.
    """
    zoo = Zoo(path, check=False)
    bad = []
    listed = zoo.about.get("files", {})
    kinds = ("weights", "curves")
    parts = [g[kind] for g in zoo.about["groups"] for kind in kinds if kind in g]
    for name in ("table.safetensors", *parts):
        if name not in listed:
            bad.append(f"{name} has no checksum in zoo.json")
    for name, file in listed.items():
        target = zoo.path / name
        if not target.is_file():
            bad.append(f"{name} is missing")
        elif sha256(target) != file.get("sha256"):
            bad.append(f"{name} does not have the checksum in zoo.json")
    if not bad:
        count = zoo.about["networks"]
        bad += problems(zoo.table, count)
        for group in zoo.about["groups"]:
            for kind in ("weights", "curves"):
                if kind in group:
                    arrays, _ = read_arrays(zoo.path / group[kind])
                    bad += problems(arrays, len(group["rows"]))
                    if kind == "weights" and not bad:
                        bad += _misfits(group["network"], arrays)
    if bad:
        raise ValueError(f"{path} is not a valid data set: {'; '.join(bad)}.")
    return zoo


def _misfits(network: Mapping[str, Any], weights: Arrays) -> list[str]:
    """Why weights do not make networks of their kind; all have the shapes of one."""
    try:
        build(network, {k: v[:1] for k, v in weights.items()})
    except ValueError as error:
        return [str(error).rstrip(".")]
    return []


def _of_sweep(sweep: Sweep, rows: Any, curves: bool) -> tuple[dict, list[dict]]:
    """Table and groups of the finished networks of a sweep, whose files must be as they
    were written: the checksums of a data set would vouch for them."""
    for index in sweep.finished:
        for kind in ("shards", "labels"):
            folder = sweep.store.folder(kind, index)
            if is_published(folder):
                verify(folder)
    rows = positions(slice(None) if rows is None else rows, len(sweep))
    table = {k: v[rows] for k, v in _table_of(sweep.arrays).items() if field(k)}
    paths = sweep.curves() if curves else {}
    groups = []
    for chosen, networks, _ in sweep.groups(rows):
        weights = {k: np.asarray(v) for k, v in named_leaves(networks).items()}
        about = {
            "class": type(networks).__name__,
            "form": getattr(networks, "form", "rate"),
            "activation": networks.activation,
            "readout": networks.readout_activation,
        }
        for name in ("scale", "latent_readout"):
            if hasattr(networks, name):
                about[name] = getattr(networks, name)
        order = np.argsort(rows)
        place = order[np.searchsorted(rows, chosen, sorter=order)]
        of_group = {k: v[chosen] for k, v in paths.items()}
        groups.append(
            {"network": about, "rows": place, "weights": weights, "curves": of_group}
        )
    return table, groups


def _of_arrays(
    arrays: Arrays, network: Mapping[str, Any] | None, rows: Any, curves: bool
) -> tuple[dict, list[dict]]:
    """Table and the one group of named arrays."""
    about = {"form": "rate", "activation": "tanh", "readout": "identity"}
    about |= dict(network or {})
    full = {"rate": "RateRNN", "current": "CurrentRNN"}
    one_of("form", about["form"], full)
    about.setdefault("class", "LowRankRNN" if "m" in arrays else full[about["form"]])
    if about["class"] in full.values() and about["class"] != full[about["form"]]:
        raise ValueError(
            f"network has class {about['class']!r} and form {about['form']!r}, which "
            f"disagree. Pass form={about['form']!r} alone."
        )
    for name in ("activation", "readout"):
        one_of(name, about[name], ACTIVATIONS)
    unknown = sorted(set(about) - set(_ABOUT))
    if unknown:
        raise ValueError(f"network has {unknown}, expected some of {list(_ABOUT)}.")
    sizes = {k: np.shape(v)[:1] for k, v in arrays.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise ValueError(
            f"the arrays have leading axes {sizes}, expected one size. Pass an entry a "
            "network, such as tau=numpy.full(networks, 0.1)."
        )
    rows = slice(None) if rows is None else rows
    rows = positions(rows, next(iter(sizes.values()))[0])
    chosen = {k: np.asarray(v)[rows] for k, v in arrays.items()}
    given = {k: _stored(k, v) for k, v in chosen.items()}
    table = _table_of(chosen)
    count = len(rows)
    table.setdefault("id", np.arange(count, dtype=np.int64))
    group = {
        "network": about,
        "rows": np.arange(count),
        "weights": {k: v for k, v in given.items() if k in WEIGHTS},
        "curves": {k: v for k, v in given.items() if k in CURVES and curves},
    }
    if not group["weights"]:
        raise ValueError(f"the arrays hold no weights, expected some of {[*WEIGHTS]}.")
    return table, [group]


def _table_of(arrays: Arrays) -> dict[str, np.ndarray]:
    """Those that are neither weights nor curves, and hyper-parameters that are weights
    too. What the schema does not know is among them, to be refused by name."""
    table = {k: v for k, v in arrays.items() if k not in WEIGHTS and k not in CURVES}
    own = [k for k in HYPER if k in arrays and np.ndim(arrays[k]) == 1]
    return table | {k: arrays[k] + 0.0 for k in own}  # also of whole numbers


def _stored(name: str, values: np.ndarray) -> np.ndarray:
    """Curves and weights in single precision; hyper-parameters as they are."""
    if name in CURVES or name in WEIGHTS:
        return np.asarray(values, np.float32)
    return values
