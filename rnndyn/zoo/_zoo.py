"""A data set of networks, read as NumPy arrays, as ensembles on demand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._core._checks import one_of
from .._core._store import read_arrays
from ..models import CurrentRNN, LowRankRNN, RateRNN
from ..sweeps._grid import positions
from ..sweeps.disk._files import read_json, sha256
from ._schema import SCHEMA


class Zoo:
    """A set of trained networks, as it lies in a folder.

    **Attributes:**

    - `about`: everything in `zoo.json`: title, licence, origin, fields, checksums.
    - `table`: NumPy arrays by name, one row a network: hyper-parameters, outcomes,
        labels and their evidence. Units and meanings are in `about["fields"]`.
    """

    def __init__(self, path: str | Path, *, check: bool = True):
        """**Arguments:** `path`; `check`: whether files must have their checksums when
        they are read."""
        self.path = Path(path)
        if not (self.path / "zoo.json").is_file():
            raise ValueError(
                f"{path} holds no zoo.json. Pass the folder of a data set; of a sweep, "
                "make one with rnndyn.zoo.save(folder, new_folder)."
            )
        self.about: dict[str, Any] = read_json(self.path / "zoo.json")
        if self.about.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} has schema {self.about.get('schema')!r}, expected {SCHEMA!r}."
            )
        _check_about(self.about, path)
        self._check, self._intact = check, set()
        self.table = self._arrays("table.safetensors")
        self._file = np.zeros(len(self), int)
        self._place = np.zeros(len(self), int)
        for i, group in enumerate(self.about["groups"]):
            self._file[group["rows"]] = i
            self._place[group["rows"]] = np.arange(len(group["rows"]))

    def __len__(self) -> int:
        return int(self.about["networks"])

    def __repr__(self) -> str:
        return f"Zoo({self.about['title']!r}, {len(self)} networks, {self.path})"

    def names(self, field: str) -> np.ndarray:
        """Names of the codes of a label such as `mechanism`, `""` where unknown."""
        one_of("field", field, self.table)
        codes = self.about["fields"].get(field, {}).get("codes")
        if codes is None:
            raise ValueError(
                f"{field} has no codes, expected a label such as mechanism."
            )
        return np.asarray([*codes, ""])[self.table[field]]

    def rows(self, **wanted: Any) -> np.ndarray:
        """Positions of the networks with these values; labels by name.

        **Raises:** a `ValueError` for unknown fields and names, and for fields with a
        value a cue, which do not say which networks to take.

        !!! example

            ```python
            zoo.rows(mechanism="limit_cycle", delay=0.1)
            ```
        """
        keep = np.ones(len(self), bool)
        for name, value in wanted.items():
            one_of("field", name, self.table)
            values = self.table[name]
            if np.ndim(value):
                raise ValueError(
                    f"{name} = {value!r}, expected one value. Take several by "
                    f"numpy.flatnonzero(numpy.isin(zoo.table[{name!r}], values))."
                )
            if values.ndim > 1:
                named = isinstance(value, str)
                read = f"names({name!r})" if named else f"table[{name!r}]"
                raise ValueError(
                    f"{name} has a value a cue, expected one a network. Say for which "
                    f"cues: numpy.flatnonzero((zoo.{read} == {value!r}).any(axis=1))."
                )
            if isinstance(value, str):
                values = self.names(name)
                one_of(name, value, self.about["fields"][name]["codes"])
                keep &= values == value
            elif values.dtype.kind == "f":
                value = values.dtype.type(value)  # 0.02 in single precision, too
                keep &= np.isclose(values, value, rtol=1e-9, atol=0)
            else:
                keep &= values == value
        return np.flatnonzero(keep)

    def weights(self, rows: Any = slice(None)) -> dict[str, np.ndarray]:
        """Named weights of networks of one kind, a leading axis over them."""
        return self._one_kind(rows)[1]

    def curves(self, rows: Any = slice(None)) -> dict[str, np.ndarray]:
        """Training curves, NaN where a network was not trained (any more).

        `last_*` `(rows, last)` end in the last column, `history_*` `(rows, record)`
        begin in the first. Empty if the data set has none.
        """
        rows = positions(rows, len(self))
        found: dict[str, np.ndarray] = {}
        for mine, part in self._read(rows, "curves"):
            for name, values in part.items():
                width = values.shape[1]
                whole = found.get(name, np.full((len(rows), 0), np.nan, values.dtype))
                short = max(width - whole.shape[1], 0)
                at_end = name.startswith("last_")
                pad = ((0, 0), (short, 0) if at_end else (0, short))
                whole = np.pad(whole, pad, constant_values=np.nan)
                start = whole.shape[1] - width if at_end else 0
                whole[mine, start : start + width] = values
                found[name] = whole
        return found

    def ensemble(self, rows: Any = slice(None)) -> Any:
        """The networks as an ensemble (a model with a leading axis), in single
        precision.

        **Raises:** a `ValueError` if they are of different kinds or sizes.
        """
        return build(*self._one_kind(rows))

    def to_xarray(self) -> Any:
        """The table as an `xarray.Dataset` with units and meanings (needs
        `rnndyn[data]`)."""
        import xarray

        variables = {}
        for name, values in self.table.items():
            about = self.about["fields"].get(name, {})
            dims = ("network", "condition")[: values.ndim]
            attrs = {k: about[k] for k in ("unit", "meaning", "codes") if k in about}
            variables[name] = (dims, values, attrs)
        return xarray.Dataset(variables, attrs={"title": self.about["title"]})

    def _arrays(self, name):
        """The arrays of a file, which must be as it was written."""
        wanted = self.about.get("files", {}).get(name, {}).get("sha256")
        path = self.path / name
        unseen = self._check and name not in self._intact
        if wanted and unseen and path.is_file():
            if sha256(path) != wanted:
                raise ValueError(
                    f"{path} does not have the checksum in zoo.json: it is damaged or "
                    "was changed. Fetch or make the data set again."
                )
            self._intact.add(name)
        return read_arrays(path)[0]

    def _one_kind(self, rows):
        rows = positions(rows, len(self))
        if not len(rows):
            raise ValueError("no networks were chosen, expected at least one.")
        kinds = [
            self.about["groups"][i]["network"] for i in np.unique(self._file[rows])
        ]
        arrays: dict[str, np.ndarray] = {}
        shapes = set()
        for mine, part in self._read(rows, "weights"):
            shapes.add(tuple(sorted((k, v.shape[1:]) for k, v in part.items())))
            for name, values in part.items():
                blank = np.zeros((len(rows), *values.shape[1:]), values.dtype)
                whole = arrays.setdefault(name, blank)
                if whole.shape[1:] == values.shape[1:]:
                    whole[mine] = values
        if any(k != kinds[0] for k in kinds) or len(shapes) != 1:
            raise ValueError(
                "these networks are of different kinds or sizes, expected one. Choose "
                "by rows(units=..., ...)."
            )
        return kinds[0], arrays

    def _read(self, rows, kind):
        """Pieces `(positions in rows, arrays)`, a file each."""
        for index in np.unique(self._file[rows]):
            group = self.about["groups"][index]
            if kind in group:
                mine = np.flatnonzero(self._file[rows] == index)
                arrays = self._arrays(group[kind])
                place = self._place[rows[mine]]
                yield mine, {k: v[place] for k, v in arrays.items()}


def build(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
    """An ensemble from what a data set says of its networks, and named weights.

    **Raises:** a `ValueError` if the weights do not make such networks.
    """
    kind = network_class(about)
    names = ("activation", "readout")
    if about["class"] == "LowRankRNN":
        names = (*names, "form", "scale", "latent_readout")
    given = {k: about[k] for k in names if k in about}
    arrays = {k: jnp.asarray(v) for k, v in arrays.items()}
    try:
        return eqx.filter_vmap(lambda a: kind.from_arrays(**a, **given))(arrays)
    except TypeError as error:  # an array that is needed, or has no place there
        raise ValueError(
            f"the weights {sorted(arrays)} do not make a {about['class']} ({error})."
        ) from error


def network_class(about: Mapping[str, Any]) -> Any:
    """The class of networks that a data set names.

    **Raises:** a `ValueError` for a class that has no file form.
    """
    classes = {"RateRNN": RateRNN, "CurrentRNN": CurrentRNN, "LowRankRNN": LowRankRNN}
    one_of("class of networks", about["class"], classes)
    return classes[about["class"]]


def _check_about(about, path):
    """Raise a `ValueError` unless `zoo.json` says where every network is."""
    lacking = [k for k in ("title", "networks", "fields", "groups") if k not in about]
    groups = about.get("groups", [])
    wanted = ("rows", "network", "weights")
    lacking += sorted({f"groups.{k}" for g in groups for k in wanted if k not in g})
    if lacking:
        raise ValueError(f"{path}: zoo.json lacks {', '.join(lacking)}.")
    files = about.get("files", {})
    if not isinstance(files, dict) or not all(
        isinstance(f, dict) for f in files.values()
    ):
        raise ValueError(f"{path}: `files` of zoo.json are no checksums by name.")
    rows = sorted(r for g in groups for r in g["rows"])
    if rows != list(range(about["networks"])):
        raise ValueError(f"{path}: the groups do not hold every network once.")
