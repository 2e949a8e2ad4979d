"""Lines of the table "published / ours / verdict", and small measures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from .._table import columns


@dataclass(frozen=True)
class Line:
    """One line of the table.

    `verdict` is "agrees" or "differs" for a number measured at the published size,
    "other size" for one that was not, and "holds" or "fails" for a claim; "not at this
    size" for a claim that fails at another size than the published one, "no test" for
    any of networks that have not all learned their task.
    """

    experiment: str
    quantity: str
    published: str
    ours: str
    verdict: str

    def to_dict(self) -> dict[str, str]:
        """The five columns by name."""
        return asdict(self)


def value(
    experiment: str,
    quantity: str,
    published: float,
    ours: Any,
    tolerance: float,
    *,
    same_size: bool,
) -> Line:
    """A published number beside ours; they agree within `tolerance`."""
    ours = float(ours)
    verdict = "agrees" if abs(ours - published) <= tolerance else "differs"
    return Line(
        experiment,
        quantity,
        f"{published:.4g}",
        f"{ours:.4g}",
        verdict if same_size else "other size",
    )


def claim(
    experiment: str, statement: str, ours: str, holds: Any, *, same_size: bool
) -> Line:
    """A statement of the publication, and whether it holds here."""
    no = "fails" if same_size else "not at this size"
    return Line(experiment, statement, "true", ours, "holds" if holds else no)


def render(lines: Sequence[Line]) -> str:
    """The table as text."""
    head = ("experiment", "quantity", "published", "ours", "verdict")
    return columns([head, *(tuple(line.to_dict().values()) for line in lines)])


def timed(fn: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `fn`, and the CPU seconds of this process that it took."""
    start = time.process_time()
    out = fn()
    jax.block_until_ready(jax.tree.leaves(out))
    return out, time.process_time() - start


def r_squared(true: Any, found: Any) -> float:
    """Per-neuron R2, the uniform mean over neurons (the last axis)."""
    true, found = np.asarray(true), np.asarray(found)
    true, found = (a.reshape(-1, a.shape[-1]) for a in (true, found))
    error = ((true - found) ** 2).sum(axis=0)
    spread = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - error / spread))
