"""Published numbers of Kurtkaya, Dinc et al. 2025, and how ours are held against them.

Cells of the phase diagram are the fractions of not learned (or unstable), limit-cycle
and slow-point networks at a learning rate and a delay in ms, recovered from the vector
graphics of the paper's figures.

**Reference:** Kurtkaya, Dinc et al. 2025, Dynamical phases of short-term memory
mechanisms in RNNs, ICML, arXiv:2502.17433; github.com/fatihdinc/dynamical-phases-stm.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..dynamics import wilson
from ._statistics import binomial_band, fisher_exact
from ._table import columns


_DELAYS = (0, 40, 80, 100, 200, 300, 400)


def _row(*cells: str) -> dict[int, tuple[float, ...]]:
    parts = (tuple(float(v) for v in cell.split("/")) for cell in cells)
    return dict(zip(_DELAYS, parts, strict=True))


NOPOST: Mapping[float, Mapping[int, tuple[float, ...]]] = {
    0.316228: _row(
        "0/0/1", ".06/.45/.49", ".12/.65/.23", ".31/.41/.28", ".63/.37/0",
        ".85/.15/0", ".89/.11/0",
    ),
    0.1: _row(
        "0/0/1", "0/.37/.63", ".19/.49/.32", ".22/.55/.23", ".36/.64/0",
        ".61/.39/0", ".83/.17/0",
    ),
    0.03: _row(
        "0/0/1", "0/.35/.65", "0/.49/.51", ".01/.53/.46", ".35/.57/.08",
        ".59/.39/.02", ".87/.13/0",
    ),
    0.01: _row(
        "0/0/1", "0/.33/.67", "0/.41/.59", "0/.43/.57", ".45/.42/.13",
        ".49/.39/.12", ".66/.33/.01",
    ),
    0.001: _row(
        "0/0/1", "0/.33/.67", "0/.38/.62", "0/.45/.55", "0/.63/.37",
        ".12/.67/.21", ".61/.33/.06",
    ),
}  # fmt: skip
"""Without a post-response period, 100 networks a cell: rate, delay, fractions."""

POST: Mapping[float, Mapping[int, tuple[float, ...]]] = {
    0.1: _row(
        "0/1/0", "0/1/0", ".2/.8/0", ".15/.85/0", ".65/.35/0", ".75/.25/0", ".85/.15/0",
    ),
    0.01: _row(
        "0/1/0", "0/1/0", "0/1/0", "0/1/0", ".05/.9/.05", ".3/.7/0", ".65/.35/0",
    ),
    0.001: _row(
        "0/1/0", "0/1/0", "0/1/0", "0/1/0", "0/1/0", ".1/.9/0", ".05/.95/0",
    ),
}  # fmt: skip
"""With a post-response period, 20 networks a cell."""

PER_CELL = {"nopost": 100, "post": 20}
"""Published networks a cell."""

WHOLE: Mapping[str, tuple[float, float, float]] = {
    "nopost": (0.353, 0.396, 0.250),
    "post": (0.192, 0.804, 0.005),
    "longtau": (0.315, 0.428, 0.258),
}
"""Fractions of not learned, limit cycle, slow point over all cells of a sweep."""


@dataclass(frozen=True)
class Exponent:
    """A published scaling exponent; `low`, `high` accept a sweep of 10 learning rates,
    21 delays and 20 networks a cell, which biases it."""

    value: float
    stderr: float
    r2: float
    low: float
    high: float


EXPONENTS: Mapping[str, Exponent] = {
    "nopost": Exponent(2.72, 0.07, 0.98, 1.6, 3.0),
    "slow_point": Exponent(4.05, 0.10, 0.99, 3.1, 4.9),
    "post": Exponent(2.65, 0.23, 0.93, 0.7, 3.0),
    "nomemory": Exponent(0.38, 0.02, 0.97, 0.0, 0.6),
}
"""How the critical learning rate falls with the delay (or the response window)."""


@dataclass(frozen=True)
class Check:
    """One line of a table "published / ours / verdict".

    - `name`: what is compared; `published`, `ours`: as text.
    - `verdict`: `holds` (the claim as stated), `within 99 %` (not as stated, but
        sampling alone explains it), `fails`, `not run`, `too few cells`
        (an exponent from a grid that biases it) or `not judged` (networks trained
        unlike the published ones).
    - `count`, `total`: networks, if it is about a share; `low`, `high`: its 95 %
        Wilson interval; `band`: counts that sampling explains at 99 %, as shares.
    """

    name: str
    published: str
    ours: str
    verdict: str
    count: int | None = None
    total: int | None = None
    low: float | None = None
    high: float | None = None
    band: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values without what is not there."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def missing(name: str, published: str, why: str = "") -> Check:
    """A check whose networks were not trained."""
    return Check(name, published, why or "-", "not run")


def check_share(
    name: str,
    count: int,
    total: int,
    published: float,
    *,
    per_cell: int = 100,
    wanted: tuple[float | int, float | int] | None = None,
    text: str | None = None,
) -> Check:
    """A share against a published one.

    **Arguments:**

    - `count`, `total`: ours.
    - `published`: share; `per_cell`: of how many networks. A published 0 or 1 is taken
        as half a network off, or no other count would ever be expected.
    - `wanted`: bounds of the claim; `holds` inside them. By default the 99 % binomial
        band about the published share, as if that were exact. Outside, a share is still
        `within 99 %` if Fisher's test of both counts, the published one being a sample
        too, has p >= 0.01.
    - `text`: the claim in words.
    """
    if total == 0:
        return missing(name, text or f"{published:.2f}")
    _, low, high = wilson(count, total)
    edge = 0.5 / per_cell
    band = binomial_band(min(max(published, edge), 1 - edge), total)
    share = count / total
    lowest, highest = wanted or band
    inside = lowest - 1e-9 <= share <= highest + 1e-9
    theirs = round(published * per_cell)
    p = fisher_exact(count, total - count, theirs, per_cell - theirs)
    possible = p >= 0.01
    verdict = "holds" if inside else "within 99 %" if possible else "fails"
    return Check(
        name=name,
        published=text or f"{published:.2f}",
        ours=f"{count}/{total} = {share:.2f}",
        verdict=verdict,
        count=count,
        total=total,
        low=low,
        high=high,
        band=band,
    )


def table_text(checks: list[Check]) -> str:
    """The checks as a text table with 95 % intervals."""
    head = ("", "published", "ours", "95 %", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for c in checks:
        interval = "" if c.low is None else f"{c.low:.2f}-{c.high:.2f}"
        rows.append((c.name, c.published, c.ours, interval, c.verdict))
    return columns(rows)
