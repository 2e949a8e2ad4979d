"""Named axes, and the table of members they span."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key

from .._core._types import KeyLike


WHOLE = ("seed", "units", "batch")
"""Hyper-parameters that are whole numbers; all others are floats."""
INIT, DATA, LABEL = 0, 1, 2
"""What a member's randomness is for: initial weights, trials and noise, labels."""


class Grid:
    """The outer product of named axes.

    Axes are names of hyper-parameters of a `SweepConfig` (`learning_rate`, `delay`,
    `post_reaction`, `tau`, `noise`, `units`, `batch`, ...) and `seed`; the first varies
    slowest. Numbers are rounded to 12 significant digits, so that they, and with them
    the members, are the same on every machine.

    **Arguments:** `axes`: values of each axis, a list or an array; a single whole
    number `n` stands for `0 .. n - 1` if the axis is `seed`.

    **Raises:** a `ValueError` for axes that are empty, repeat a value, or hold
    something other than finite numbers.

    !!! example

        ```python
        grid = rd.sweeps.Grid(learning_rate=[0.1, 0.01], delay=[0.02, 0.1], seed=20)
        grid.shape      # (2, 2, 20)
        ```
    """

    axes: dict[str, tuple[float | int, ...]]

    def __init__(self, axes: Mapping[str, Any] | None = None, /, **more: Any):
        self.axes = {k: _values(k, v) for k, v in {**(axes or {}), **more}.items()}
        if not self.axes:
            raise ValueError("a grid without axes, expected at least seed=1.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes, the slowest first."""
        return tuple(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(v) for v in self.axes.values())

    @property
    def size(self) -> int:
        """Number of members."""
        return int(np.prod(self.shape))

    def columns(self) -> dict[str, np.ndarray]:
        """The value of every axis for every member, in C order of `shape`."""
        mesh = np.meshgrid(*(np.asarray(v) for v in self.axes.values()), indexing="ij")
        return {k: m.ravel() for k, m in zip(self.axes, mesh, strict=True)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and list(self.axes.items()) == list(
            other.axes.items()
        )

    def __hash__(self) -> int:
        return hash(tuple(self.axes.items()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __repr__(self) -> str:
        return f"Grid({', '.join(f'{k}={list(v)}' for k, v in self.axes.items())})"


class Members(NamedTuple):
    """The table of a sweep's members, one row each, in the order of the grid.

    - `id`: 63-bit numbers made from the values of a member alone.
    - `epochs`: updates each member may make.
    - `values`: every hyper-parameter, also those that are no axis.
    """

    id: np.ndarray
    epochs: np.ndarray
    values: dict[str, np.ndarray]

    def rows(self, index: Any) -> "Members":
        """Some members."""
        values = {k: v[index] for k, v in self.values.items()}
        return Members(self.id[index], self.epochs[index], values)


def canonical(value: Any, *, whole: bool = False) -> float | int:
    """A number as it is stored: whole numbers exactly, others to 12 digits."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not np.isfinite(value):
        raise ValueError(f"{value!r}, expected a finite number.")
    if whole:
        if value != int(value):
            raise ValueError(f"{value!r}, expected a whole number.")
        return int(value)
    return float(f"{float(value):.12g}")


def positions(rows: Any, count: int) -> np.ndarray:
    """Positions of the networks that a number, a list, a slice or a mask chooses.

    **Raises:** a `ValueError` if there are no such networks.
    """
    try:
        return np.atleast_1d(np.arange(count)[rows])
    except IndexError as error:
        raise ValueError(
            f"rows do not fit {count} networks ({error}). Pass positions below "
            f"{count}, or a mask of that length."
        ) from error


def member_id(values: Mapping[str, Any]) -> int:
    """A number in [0, 2^63) from names and values, whatever their order."""
    text = ";".join(f"{k}={float(values[k]):.12g}" for k in sorted(values))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_keys(root: KeyLike, seeds: Any) -> Key[Array, " members"]:
    """Keys of the initial weights: the same for a seed in every cell of the grid."""
    key = jr.fold_in(root, INIT)
    return jax.vmap(lambda s: jr.fold_in(key, s))(np.asarray(seeds, np.uint32))


def id_keys(root: KeyLike, ids: Any, purpose: int) -> Key[Array, " members"]:
    """Keys for everything else that is random about a member."""
    ids = np.asarray(ids, np.uint64)
    high = (ids >> np.uint64(32)).astype(np.uint32)
    low = (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    key = jr.fold_in(root, purpose)
    return jax.vmap(lambda h, w: jr.fold_in(jr.fold_in(key, h), w))(high, low)


def _values(name: str, given: Any) -> tuple[float | int, ...]:
    counted = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if name == "seed" and counted:
        given = range(int(given))
    try:
        values = tuple(
            canonical(v, whole=name in WHOLE) for v in np.ravel(given).tolist()
        )
    except ValueError as error:
        raise ValueError(f"axis {name}: {error}") from None
    if not values or len(set(values)) != len(values):
        raise ValueError(
            f"axis {name} = {list(values)}, expected at least one value and none twice."
        )
    return values
