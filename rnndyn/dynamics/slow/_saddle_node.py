"""When a slow point is the ghost of a saddle-node."""

from typing import Any

import numpy as np

from ..points._polish import length, size_of


def is_saddle_node(
    drift: Any, curvature: Any, eigenvalue: Any, following: Any, profile: Any
) -> Any:
    """Whether s' = drift + curvature s^2 describes the bottleneck.

    - drift * curvature > 0: the normal form has no root;
    - the null eigenvalue is below a tenth of the rate sqrt(drift * curvature);
    - at the ends s = +-sqrt(drift / curvature) of the bottleneck, where the normal
        form doubles the speed and its eigenvalue is +-2 rate, the next eigenvalue is
        still the larger one, so that the passage is along one direction;
    - there the speed along the left null vector, `profile` in units of the drift, is
        2 within 1: neither a cubic nor a quartic term has taken over.
    """
    product = drift * curvature
    rate = (product * (product > 0)) ** 0.5
    simple = (abs(eigenvalue) <= 0.1 * rate) & (abs(following) > 2 * rate)
    quadratic = (abs(profile - 2) <= 1).all(axis=0)
    return (product > 0) & simple & quadratic


def are_ghosts(polish: Any, net: np.ndarray, new: dict) -> np.ndarray:
    """Which certified minima of the speed are ghosts: host level, in float64.

    At a minimum that is not a root f is a left null vector of the Jacobian. Besides
    `is_saddle_node`, polishing from both ends of the bottleneck, and from three times
    as far, must not lead to a root within three times its half-length.
    """
    x, f, jac = new["x"], new["f"], new["jac"]
    if not len(x):
        return np.zeros(0, bool)
    right = np.array([_right_null(j, v) for j, v in zip(jac, f, strict=True)])
    h = 1e-4 * size_of(x)[:, None]
    pair = lambda step: np.concatenate([x + step * right, x - step * right])
    nets, count = np.tile(net, 2), len(x)
    around = polish.look(nets, pair(h))["jac"]
    above, below = around[:count], around[count:]
    bend = ((above - below) @ right[:, :, None])[:, :, 0] / (2 * h)
    with np.errstate(all="ignore"):
        # Without overlap (a defective null eigenvalue) the drift is unbounded.
        left = f / np.sum(f * right, axis=1)[:, None]
        drift, curvature = np.sum(left * f, axis=1), np.sum(left * bend, axis=1) / 2
        reach = np.sqrt(drift / curvature)
    good = np.isfinite(reach)
    reach = np.where(good, reach, 0)[:, None]
    ends = polish.look(nets, pair(reach))["f"].reshape(2, *x.shape)
    profile = np.sum(left * ends, axis=2) / drift
    # Eigenvalues and searches are dear: only where all else speaks for a ghost.
    nothing, infinite = np.zeros(len(x)), np.full(len(x), np.inf)
    good &= is_saddle_node(drift, curvature, nothing, infinite, profile)
    for i in np.flatnonzero(good):
        values = np.sort(np.abs(np.linalg.eigvals(jac[i])))
        following = values[1] if len(values) > 1 else np.inf
        null = left[i] @ jac[i] @ right[i]
        good[i] = is_saddle_node(drift[i], curvature[i], null, following, profile[:, i])
    (index,) = np.nonzero(good)
    index = np.tile(index, 4)
    ends = np.repeat([1, -1, 3, -3], len(index) // 4)[:, None]
    there = polish.roots(net[index], x[index] + ends * (reach * right)[index])
    near = length(there["x"] - x[index]) <= 3 * reach[index, 0]
    good[index[polish.is_root(there) & near]] = False
    return good


def _right_null(jac, f):
    """Right null vector, given that f is a left one (bordered system)."""
    size = len(f)
    bordered = np.zeros((size + 1, size + 1))
    bordered[:size, :size] = jac
    # In the units of the Jacobian, if it has any.
    bordered[:size, size] = f * (np.linalg.norm(jac) or 1.0) / np.linalg.norm(f)
    bordered[size, :size] = np.random.default_rng(0).standard_normal(size)
    try:
        vector = np.linalg.solve(bordered, np.eye(size + 1)[size])[:size]
    except np.linalg.LinAlgError:
        return np.full(size, np.nan)
    return vector / np.linalg.norm(vector)
