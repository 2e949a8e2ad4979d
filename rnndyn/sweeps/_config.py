"""What a sweep is: its grid, and everything its members share."""

import hashlib
import json
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .._core._checks import check_positive, check_step_ratio, one_of, steps_in
from ._grid import WHOLE, Grid, Members, canonical, member_id
from ._protocol import MEMBER_FIELDS, PROTOCOLS, AbstractProtocol
from ._published import PUBLISHED


SCHEMA = "rnndyn.sweep/1"
_LABELS = ("primary", "compat")
_UNHASHED = ("name", "labels")
_COUNTS = ("min_epochs", "record_every", "last", "shard_size", "pad_steps")
_WHOLE = (*WHOLE, *_COUNTS, "long_epochs", "root_seed")
_LEAST = dict.fromkeys((*_COUNTS, "units", "batch"), 1) | dict.fromkeys(
    ("noise", "rate_epochs", "long_epochs", "long_delay", "momentum", "weight_decay"), 0
)
_SEEDS = 2**32  # keys take 32 bits of a seed
_LONG = 200  # time constants of a period that may be in other units; published: 60
PRESETS = tuple(PUBLISHED)
"""Names of the published sweeps."""


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: every member of `grid`, trained as `protocol` says.

    A hyper-parameter that is an axis of the grid takes its value from there, any other
    from the field of that name. A member may make

        epochs = max(min_epochs, rate_epochs / learning_rate)

    updates, `long_epochs` at least if its delay exceeds `long_delay`.

    **Arguments:**

    - `grid`: a `Grid`.
    - `protocol`: `"delayed_cue"` (full-rank networks, two cues, a delay),
        `"fixed_response"` (the same without a delay: the control without memory), or
        `"delayed_activation"` (rank-2 networks without input).
    - `learning_rate`, `momentum`, `weight_decay`: of gradient descent.
    - `delay`, `reaction`, `post_reaction`, `cue`, `dt`: periods and step in seconds.
    - `tau` (seconds), `noise`, `units`: of the networks; `batch`: trials an epoch.
    - `min_epochs`, `rate_epochs`, `long_delay`, `long_epochs`: the budget.
    - `record_every`: stride of the stored history; `last`: how many of the last epochs
        are stored at every epoch.
    - `shard_size`: networks a shard; `pad_steps`: trials are padded to multiples of
        this many steps, and members of equal padded length share a program.
    - `labels`: any of `"primary"` (`rnndyn.mechanisms.classify`, for all networks)
        and `"compat"` (the published index, for learned networks). The former is left
        out of protocols without a delay, over which nothing is held.
    - `seed`: the seed of all members if it is no axis; `root_seed`: of all
        randomness. The initial weights depend on these two and the sizes only, so that
        a seed starts from the same weights in every cell of the grid.

    **Raises:** a `ValueError` for impossible values, or axes no member has.

    !!! example

        ```python
        config = rd.sweeps.SweepConfig(
            grid=rd.sweeps.Grid(learning_rate=[0.1, 0.01], delay=[0.02, 0.1], seed=20),
            batch=32,
        )
        config.members().epochs.sum()
        ```
    """

    grid: Grid
    protocol: str = "delayed_cue"
    name: str = "sweep"
    learning_rate: float | int = 0.03
    momentum: float | int = 0.9
    weight_decay: float | int = 1e-7
    delay: float | int = 0.1
    reaction: float | int = 0.05
    post_reaction: float | int = 0.0
    cue: float | int = 0.03
    dt: float | int = 5e-3
    tau: float | int = 0.01
    noise: float | int = 1e-3
    units: int = 100
    batch: int = 128
    min_epochs: int = 1000
    rate_epochs: float | int = 30.0
    long_delay: float | int | None = None
    long_epochs: int = 0
    record_every: int = 100
    last: int = 1000
    shard_size: int = 500
    pad_steps: int = 16
    seed: int = 0
    root_seed: int = 0
    labels: tuple[str, ...] = field(default=_LABELS)

    def __post_init__(self):
        if not isinstance(self.grid, Grid):
            raise ValueError(
                f"grid = {self.grid!r}, expected a Grid. Pass rnndyn.sweeps.Grid(...)."
            )
        one_of("protocol", self.protocol, tuple(PROTOCOLS))
        if not isinstance(self.labels, tuple):
            raise ValueError(f"labels = {self.labels!r}, expected a tuple of names.")
        for name in self.labels:
            one_of("label", name, _LABELS)
        if "delay" not in self.rules.periods:
            applying = tuple(name for name in self.labels if name != "primary")
            object.__setattr__(self, "labels", applying)
        for name in self.grid.names:
            one_of("axis", name, MEMBER_FIELDS)
        # Plain numbers, so that equal configurations have equal hashes.
        for name in (*MEMBER_FIELDS, *_LEAST, "root_seed"):
            value = getattr(self, name)
            if not (value is None and name == "long_delay"):
                value = _number(name, value, whole=name in _WHOLE)
            object.__setattr__(self, name, value)
        values = {k: self.grid.axes.get(k, (getattr(self, k),)) for k in MEMBER_FIELDS}
        for name, least in _LEAST.items():
            for value in values.get(name, (getattr(self, name),)):
                if value is not None and value < least:
                    raise ValueError(f"{name} = {value}, expected >= {least}.")
        for name, seeds in (("root_seed", (self.root_seed,)), ("seed", values["seed"])):
            for bad in (s for s in seeds if not 0 <= s < _SEEDS):
                raise ValueError(f"{name} = {bad}, expected 0 .. {_SEEDS - 1}.")
        for name in ("learning_rate", "reaction"):
            if min(values[name]) <= 0:
                raise ValueError(f"{name} = {min(values[name])}, expected > 0.")
        for name in ("dt", "tau"):
            check_positive(name, np.asarray(values[name]), "seconds")
        check_step_ratio(max(values["dt"]), min(values["tau"]))
        if max(values["momentum"]) >= 1:
            raise ValueError(f"momentum = {max(values['momentum'])}, expected below 1.")
        self._check_periods(values)
        longest = max(max(values[name]) for name in self.rules.periods)
        if longest > _LONG * max(values["tau"]):
            warnings.warn(
                f"a period of {longest:g} s is {longest / max(values['tau']):.0f} time "
                "constants: are all durations in seconds?",
                stacklevel=3,
            )

    def _check_periods(self, values):
        periods = self.rules.periods
        for name in AbstractProtocol.periods:  # all there are
            if name in self.grid.names and name not in periods:
                raise ValueError(
                    f"axis = {name!r}, but trials of {self.protocol!r} consist of "
                    f"{', '.join(periods)}, expected one of these: its networks would "
                    "differ in their seeds only."
                )
            for value in values[name]:
                for dt in values["dt"]:
                    steps_in(name, value, dt)
        before = [name for name in ("cue", "delay") if name in periods]
        if sum(min(values[name]) for name in before) <= 0:
            raise ValueError(
                f"{' and '.join(before)} = 0 s, expected at least one step before the "
                "answer."
            )

    @property
    def rules(self) -> AbstractProtocol:
        """The protocol object."""
        return PROTOCOLS[self.protocol]

    def members(self) -> Members:
        """The table of all members, in the order of the grid."""
        columns = self.grid.columns()
        count = self.grid.size
        values = {
            name: columns.get(name, np.full(count, getattr(self, name)))
            for name in MEMBER_FIELDS
        }
        # The same member has the same id in sweeps of other grids.
        rows = zip(*(values[name].tolist() for name in MEMBER_FIELDS), strict=True)
        ids = [member_id(dict(zip(MEMBER_FIELDS, row, strict=True))) for row in rows]
        budget = np.maximum(
            self.min_epochs, np.floor(self.rate_epochs / values["learning_rate"] + 1e-6)
        )
        if self.long_delay is not None:
            is_long = values["delay"] > self.long_delay + 1e-9
            budget = np.where(is_long, np.maximum(budget, self.long_epochs), budget)
        return Members(np.asarray(ids, np.int64), budget.astype(np.int64), values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` and a TOML file take them."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["grid"] = {k: list(v) for k, v in self.grid.axes.items()}
        plain["labels"] = list(self.labels)
        return {k: v for k, v in plain.items() if v is not None}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "SweepConfig":
        """A configuration from plain values.

        `preset` names a published sweep to start from, `seeds` is the number of seeds.
        Axes are lists, or `{from = 0.1, to = 0.001, count = 15, spacing = "log"}`.

        **Raises:** a `ValueError` that names unknown or missing fields.
        """
        given = dict(given)
        grid = given.pop("grid", {})
        if not isinstance(grid, Mapping):
            raise ValueError(f"grid = {grid!r}, expected a table of axes by name.")
        grid = dict(grid)
        name, seeds = given.pop("preset", None), given.pop("seeds", None)
        known = {f.name for f in fields(cls)} - {"grid"}
        for key in given:
            one_of("field", key, known | set(MEMBER_FIELDS))
        if name is not None:
            one_of("preset", name, PRESETS)
            base = dict(PUBLISHED[name])
            axes = dict(base.pop("grid"))
            for key in axes:
                if key in given:  # a fixed value in place of an axis
                    grid.setdefault(key, np.ravel(given.pop(key)).tolist())
            grid, given = {**axes, **grid}, {**base, **given}
        if seeds is not None:
            grid["seed"] = seeds
        if not grid:
            raise ValueError("no grid, expected a table [grid] of axes, or a preset.")
        if "labels" in given:
            if not isinstance(given["labels"], list | tuple):
                raise ValueError(
                    f"labels = {given['labels']!r}, expected a list of names."
                )
            given["labels"] = tuple(given["labels"])
        if not isinstance(given.get("name", ""), str):
            raise ValueError(f"name = {given['name']!r}, expected a string.")
        return cls(grid=Grid({k: _axis(k, v) for k, v in grid.items()}), **given)

    @classmethod
    def from_toml(cls, path: str | Path) -> "SweepConfig":
        """A configuration from a TOML file; see `from_dict`."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no file {path}. Pass the path of a TOML file.")
        try:
            return cls.from_dict(tomllib.loads(path.read_text()))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not TOML: {error}.") from error

    @property
    def hash(self) -> str:
        """Digest of all that decides what is trained: not of name and labels."""
        plain = {k: v for k, v in self.to_dict().items() if k not in _UNHASHED}
        text = json.dumps({"schema": SCHEMA, **plain}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def preset(name: str, /, *, seeds: int | None = None, **changes: Any) -> SweepConfig:
    """A sweep of Kurtkaya, Dinc et al. 2025 (63,000 + 6,300 + 4,200 + 8,000 + 1,600
    networks).

    | name | learning rates | delays | seeds | epochs |
    |---|---|---|---|---|
    | `nopost_broad` | 15, 0.1 to 0.001 | 21, 0 to 400 ms | 100 | max(1000, 30/lr) |
    | `nopost_narrow` | 15, 0.316 to 0.025 | same | 100 | same |
    | `nopost` | both, 30 | same | 100 | same |
    | `post` | as broad, 30 ms after the reaction | same | 20 | max(1000, 100/lr) |
    | `longtau` | 10, tau = 20 ms | 21, 0 to 800 ms | 20 | max(1000, 30/lr) |
    | `nomemory` | 20, 1 to 0.001 | 20 responses, 20 to 400 ms | 20 | 3000 |
    | `rank2` | 0.005, with and without post | 8, 30 to 100 ms | 100 | 0.5 or 1.5 10^6 |

    **Arguments:**

    - `name`: one of `PRESETS`.
    - `seeds`: networks a cell, if not as published.
    - `changes`: other fields of `SweepConfig`; a value given for an axis, such as
        `delay=[0.1, 0.2]`, replaces that axis.

    !!! example

        ```python
        config = rd.sweeps.preset("nopost", seeds=20, batch=32, delay=[0.1, 0.2])
        ```

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433.
    """
    seeds_given = {} if seeds is None else {"seeds": seeds}
    return SweepConfig.from_dict({"preset": name, **seeds_given, **changes})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines that say what differs between two configurations as plain values."""
    lines = []
    for name in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(name), new.get(name)
        if name in _UNHASHED:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for axis in [*a, *(k for k in b if k not in a)]:
                if a.get(axis) != b.get(axis):
                    lines.append(f"grid.{axis}: {_brief(a, axis)} -> {_brief(b, axis)}")
            if set(a) == set(b) and list(a) != list(b):
                lines.append(f"order of axes: {', '.join(a)} -> {', '.join(b)}")
        elif a != b:
            lines.append(f"{name}: {_brief(old, name)} -> {_brief(new, name)}")
    return lines


def _brief(table, name):
    if name not in table:
        return "(absent)"
    value = table[name]
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} values {value[0]} .. {value[-1]}"
    return repr(value)


def _number(name: str, value: Any, whole: bool = False) -> float | int:
    """A number as it is stored, or a `ValueError` that says which one is none."""
    try:
        return canonical(value, whole=whole)
    except ValueError as error:
        raise ValueError(f"{name} = {error}") from None


def _axis(name: str, given: Any) -> Any:
    """Values of an axis as a TOML file writes them."""
    if not isinstance(given, Mapping):
        return given
    spacing = given.get("spacing", "linear")
    one_of("spacing", spacing, ("linear", "log"))
    missing = {"from", "to", "count"} - set(given)
    if missing or set(given) - {"from", "to", "count", "spacing"}:
        raise ValueError(
            f"axis {name} = {dict(given)}, expected a list of values or the keys "
            "from, to, count and (optionally) spacing."
        )
    for end in ("from", "to"):
        _number(f"axis {name}: {end}", given[end])
    count = int(_number(f"axis {name}: count", given["count"], whole=True))
    positive = min(given["from"], given["to"]) > 0 or spacing == "linear"
    if count < 1 or not positive:
        raise ValueError(
            f"axis {name} = {dict(given)}, expected a count of at least 1, and ends "
            "above 0 for logarithmic spacing."
        )
    space = np.geomspace if spacing == "log" else np.linspace
    return space(given["from"], given["to"], count)
