"""Which ends of many runs are the same attractor, and what share of starts it has."""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from ..._core._checks import check_level
from ..._core._verdicts import Verdict


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """A share `k/n` with its Wilson interval: `(share, low, high)`.

    **Raises:** a `ValueError` unless 0 <= k <= n and 0 < level < 1.

    **Reference:** Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    check_level(level)
    if not 0 <= k <= n:
        raise ValueError(f"k = {k}, n = {n}, expected 0 <= k <= n.")
    if n == 0:
        return (float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (p, max(0.0, centre - half), min(1.0, centre + half))


def group(
    verdict: np.ndarray,
    ends: dict[str, np.ndarray],
    tol_point: float,
    meets: Callable[[dict, dict], bool],
) -> list[np.ndarray]:
    """Starts that ended on the same attractor, the largest group first.

    Each end is compared with the first of every group of its verdict: points by
    distance, cycles as closed curves and by their periods, k-cycles as sets, other
    motion by its averages and variances. The averages of cycles must agree too: they
    tell what is small against the extent. All continua are one group.

    **Arguments:**

    - `verdict`: shape `(starts,)`.
    - `ends`: fields of `LateRun`, with a leading axis of starts, and `step`, that of
        the integration.
    - `tol_point`: points closer than this, times max(1, |x|), are one.
    - `meets`: whether the orbit of one cycle runs along that of another: asked where
        the stored states are too few to tell.
    """
    groups: list[list[int]] = []
    for i, code in enumerate(verdict):
        same = _SAME.get(int(code))
        if same is None:
            continue
        mine = {k: v[i] for k, v in ends.items()}
        for members in groups:
            first = members[0]
            if verdict[first] != code:
                continue
            theirs = {k: v[first] for k, v in ends.items()}
            alike = same(mine, theirs, tol_point)
            if meets(mine, theirs) if alike is None else alike:
                members.append(i)
                break
        else:
            groups.append([i])
    return [np.asarray(g) for g in sorted(groups, key=len, reverse=True)]


def _same_point(a, b, tol) -> bool:
    gap = np.linalg.norm(a["point"] - b["point"])
    return bool(gap <= tol * max(1.0, np.linalg.norm(a["point"])))


def _same_mean(a, b, error, tol) -> bool:
    """Whether averages over cycles agree, to within an error in extents; with different
    steps of the integration nothing is known of these."""
    gap = np.linalg.norm(a["mean"] - b["mean"])
    error = error * max(a["extent"], b["extent"])
    close = gap <= error + tol * max(1.0, np.linalg.norm(a["mean"]))
    return bool(close or a["step"] != b["step"])


def _same_cycle(a, b, tol) -> bool | None:
    extent = max(a["extent"], b["extent"])
    if abs(a["period"] - b["period"]) > 1e-2 * a["period"]:
        return False
    if abs(a["extent"] - b["extent"]) > 1e-2 * extent:
        return False
    # How far from the cycle the orbits still were, and left it for other steps.
    error = 2 * (a["closure"] + b["closure"]) + 4 * (a["step_error"] + b["step_error"])
    if not _same_mean(a, b, error, tol):
        return False
    # Chords cut corners where the motion is fast, hence the median; with many loops
    # they do everywhere.
    gaps, sag = (v / extent for v in _to_curve(a["orbit"], b["orbit"]))
    if np.median(sag) > 3e-4:
        return None
    gaps = np.sort(gaps)
    return bool(gaps[len(gaps) // 2] < 1e-3 and gaps[int(0.9 * len(gaps))] < 2e-2)


def _same_k_cycle(a, b, tol) -> bool:
    k, samples = round(float(a["period"])), len(a["orbit"])
    # Averages of longer cycles are those of a window.
    error = 6 * (a["drift"] + b["drift"]) * (k > samples)
    error += 2 * (a["closure"] + b["closure"])
    if k != round(float(b["period"])) or not _same_mean(a, b, error, tol):
        return False
    if k >= 2 * samples:
        return _same_torus(a, b, tol)
    # Of a long cycle only a part is stored; two parts have a state in common.
    some = a["orbit"][: max(1, k + 1 - samples), None]
    gaps = np.linalg.norm(b["orbit"][None, :k] - some, axis=2)
    return bool(gaps.min() <= 1e-4 * max(a["extent"], b["extent"]))


def _same_torus(a, b, _) -> bool:
    """Whether means and variances agree, to within their own errors."""
    extent = max(a["extent"], b["extent"])
    tol = min(0.2, max(1e-3, 3 * (a["drift"] + b["drift"])))
    if abs(a["extent"] - b["extent"]) > 2 * tol * extent:
        return False
    means = np.linalg.norm(a["mean"] - b["mean"]) / extent
    spreads = np.linalg.norm(a["spread"] - b["spread"]) / extent**2
    return bool(max(means, spreads) <= tol)


def _same_chaos(a, b, _) -> bool:
    """Whether means and mean squares agree, coordinate by coordinate, to within ten
    times what those of stretches of the window fluctuate by."""
    count = len(a["blocks"])
    gap = np.abs(a["blocks"].mean(axis=0) - b["blocks"].mean(axis=0))
    variances = [np.var(c["blocks"], axis=0, ddof=1) / count for c in (a, b)]
    size = [np.sqrt(np.mean(c["blocks"][:, 1], axis=0)) for c in (a, b)]
    size = np.maximum(*size)
    rounding = 1e-9 * np.stack([size, size**2])
    return bool(np.all(gap <= 10 * np.sqrt(sum(variances)) + rounding))


_SAME: dict[int, Callable[..., bool | None]] = {
    Verdict.root: _same_point,
    Verdict.limit_cycle: _same_cycle,
    Verdict.k_cycle: _same_k_cycle,
    Verdict.invariant_circle: _same_torus,
    Verdict.torus: _same_torus,
    Verdict.chaotic: _same_chaos,
    Verdict.continuum: lambda a, b, tol: True,
}


def regroup(
    groups: list[np.ndarray], verdict: np.ndarray, ends: dict, *options: Any
) -> list[np.ndarray]:
    """Groups whose first members have turned out to be on the same attractor."""
    first = np.array([g[0] for g in groups], int)
    joined = group(verdict[first], {k: v[first] for k, v in ends.items()}, *options)
    merged = [np.concatenate([groups[i] for i in sorted(rows)]) for rows in joined]
    return sorted(merged, key=len, reverse=True)


def _to_curve(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every row of `a` to the closed polygon through the rows of `b`, and
    how far a smooth curve through these bulges from that side."""
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    side = np.roll(b, -1, axis=0) - b
    length = np.maximum((side**2).sum(1), 1e-300)
    from_corner = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    along = a @ side.T - (b * side).sum(1)[None]
    part = np.clip(along / length[None], 0, 1)
    squares = from_corner - 2 * part * along + part**2 * length[None]
    nearest = squares.argmin(axis=1)
    # By an eighth of its second differences.
    bend = np.linalg.norm(np.roll(side, 1, axis=0) - side, axis=1) / 8
    bulge = np.maximum(bend, np.roll(bend, -1))
    distance = squares[np.arange(len(a)), nearest]
    return np.sqrt(np.maximum(distance, 0)), bulge[nearest]
