"""Host level: decide in float64 what a search has found."""

from typing import Any

import numpy as np

from ..._core._checks import check_count, is_concrete
from ..._core._verdicts import Verdict
from .._states import check_tolerances
from ..slow._saddle_node import are_ghosts
from ._continua import add_ends, find_continua, label_families
from ._points import FixedPoints
from ._polish import Polish, close, length, size_of


LEVEL = 1e-2
"""Relative slope of q up to which a start left undetermined may be at a minimum."""


def certify(
    points: FixedPoints,
    *,
    tol: Any = None,
    tol_unique: Any = None,
    tol_margin: Any = None,
    max_steps: int = 64,
    spectrum: bool = True,
) -> FixedPoints:
    """The same points with final verdicts, recomputed in float64.

    Works on one network or a batch of them, in a float32 process as well; runs on the
    host, so not inside `jit`. Candidates (distinct roots and slow points, and starts
    left undetermined) of all networks are compacted, polished in float64 in chunks by
    one compiled program, and judged again:

    - *root*: |F| <= `tol` max(1, rms of x), the Newton step bounds the error of the
        point by sqrt(eps) max(1, |x|) (or |F| is pure rounding), and the polish did
        not move the point further than the search's tolerance for one point.
    - *continuum*: a root with a singular Jacobian, with other roots found at the
        expected distance along its null directions; `dimension` is the number of
        directions in which they continue, and members that can be reached from each
        other along roots share their `family`.
    - *slow_point*: the gradient of q vanishes to rounding, its exact Hessian is
        positive semidefinite, and the speed does not fall along its softest direction.
    - *ghost*: a slow point left behind by a saddle-node. Along the null vector v of
        the Jacobian, with w the left one, s' = w.f + (w.D2f[v, v] / 2) s^2 has no
        root; it holds within a factor 1.5 up to the ends of the bottleneck, where the
        next eigenvalue is still larger; and no root is found within reach.
    - anything else is *undetermined*, or keeps the verdict *diverged* or *lost*.

    Roots are also looked for at -x of every root, and accepted by the same test.
    Eigenvalues come from LAPACK on the host, for distinct points only. Where the
    Jacobian jumps (a relu at its kink) stability is left undecided. A continuum is
    judged transversally, without the `dimension` eigenvalues of its null directions;
    these count in `num_marginal`.

    **Arguments:**

    - `points`: result of `fixed_points` or `slow_points`, possibly under
        `equinox.filter_vmap`.
    - `tol`: largest scale-free speed of a root; default 1e-12.
    - `tol_unique`: relative distance below which two points are one; default 1e-6.
    - `tol_margin`: margins within it, relative to max(1, |J|), count as undecided;
        default sqrt(eps).
    - `max_steps`: polishing steps per candidate; at most 8 for starts that a search in
        float64 left undetermined.
    - `spectrum`: whether to compute eigenvalues, most of the cost where points are many
        and large. Without them `eigenvalues`, `margin` and `condition` of the points
        found are NaN, `stability` is 0 and `num_marginal` 0: verdicts are the same.

    **Returns:**

    `FixedPoints` with `certified=True` and float64 numpy arrays, without derivatives.
    What is returned as found is found; that nothing was missed is not guaranteed.
    """
    if not is_concrete(points.x):
        raise ValueError(
            "`certify` got traced points, expected concrete ones: it decides on the "
            "host. Return the FixedPoints from the jitted function first."
        )
    check_tolerances(tol=tol, tol_unique=tol_unique, tol_margin=tol_margin)
    check_count("max_steps", max_steps, least=0)
    host = lambda a: np.array(a)
    batch, (slots, size) = points.x.shape[:-2], points.x.shape[-2:]
    nets = int(np.prod(batch, dtype=int))
    flat = lambda a: host(a).reshape(nets, *np.shape(a)[len(batch) :])
    single = host(points.x).dtype != np.float64
    x, verdict = flat(points.x).astype(np.float64), flat(points.verdict)
    # A certified result may come again.
    verdict[verdict == Verdict.continuum] = Verdict.root
    verdict[verdict == Verdict.ghost] = Verdict.slow_point
    unique, was_unique = np.zeros((nets, slots), bool), flat(points.unique)
    stats = {k: flat(v) for k, v in points.stats.items()}
    steps = stats["num_steps"]
    problem, scale = points.problem.doubled(batch), flat(points.time_scale)
    scale = scale.astype(np.float64)

    eps = np.finfo(np.float64).eps
    tol = max(1e-12, 8 * eps * size**0.5) if tol is None else float(tol)
    tol_unique = 1e-6 if tol_unique is None else float(tol_unique)
    reach = 1e-3 if single else tol_unique
    # As an array its value is not compiled in: 0 steps only look.
    polish = Polish(problem, scale, tol, tol_unique, np.asarray(max_steps, np.int32))

    speed = flat(points.speed).astype(np.float64)
    kinked, bound = np.zeros_like(unique), np.full(unique.shape, np.inf)
    jac = {}  # (net, slot) -> Jacobian of the residual, for distinct points

    # Roots.
    chosen = ((verdict == Verdict.root) & was_unique) | (
        verdict == Verdict.undetermined
    )
    chosen &= np.isfinite(x).all(axis=2)
    chosen &= verdict != Verdict.diverged
    net, slot = np.nonzero(chosen)
    old = x[net, slot]
    # What a search in float64 gave up is not searched again at length.
    given_up = (verdict[net, slot] == Verdict.undetermined) & (not single)
    new = polish.roots(net, old, given_up)
    near = length(new["x"] - old) <= reach * size_of(new["x"])
    good = polish.is_root(new) & near
    verdict[net, slot] = np.where(good, int(Verdict.root), int(Verdict.undetermined))
    x[net[good], slot[good]] = new["x"][good]
    speed[net[good], slot[good]] = new["speed"][good]
    steps[net[good], slot[good]] += new["num_steps"][good]
    for i in np.flatnonzero(good):
        jac[net[i], slot[i]] = new["jac"][i]
        kinked[net[i], slot[i]] = new["kinked"][i]
        bound[net[i], slot[i]] = new["condition_bound"][i]
    certified = np.zeros_like(unique)
    certified[net[good], slot[good]] = True
    unique |= _unique(x, speed, certified, tol_unique)
    _demote(x, verdict, Verdict.root, unique, certified, reach)
    if "hits" not in stats:
        ran = stats["given"] & (steps > 0) & (verdict == Verdict.root)
        stats["hits"] = _hits(x, ran, unique)
    _add_mirrored(polish, x, speed, verdict, unique, jac, kinked, bound, tol_unique)
    dimension, bases = find_continua(polish, x, unique, jac, bound)
    family = label_families(polish, x, dimension, bases)
    add_ends(polish, x, kinked & unique, dimension, family)
    _inherit(x, verdict == Verdict.root, unique, dimension, family)
    verdict[dimension > 0] = Verdict.continuum

    # Slow points, among them undetermined candidates that the polish saw as such.
    chosen = (verdict == Verdict.slow_point) & was_unique & np.isfinite(x).all(axis=2)
    # A search may end beside a minimum: where descent of the speed is below rounding.
    slope = np.linalg.norm(np.einsum("nij,ni->nj", new["jac"], new["f"]), axis=1)
    level = slope * size_of(new["x"]) <= LEVEL * new["speed"] ** 2
    level &= new["speed"] > 0
    turned = ~good & ((new["verdict"] == Verdict.slow_point) | level)
    turned &= length(new["x"] - old) <= 0.1 * size_of(old)
    x[net[turned], slot[turned]] = new["x"][turned]
    chosen[net[turned], slot[turned]] = True
    net, slot = np.nonzero(chosen)
    old = x[net, slot]
    new = polish.minima(net, old)
    near = length(new["x"] - old) <= 0.1 * size_of(old)
    good = polish.is_minimum(net, new) & near
    verdict[net, slot] = np.where(
        good, int(Verdict.slow_point), int(Verdict.undetermined)
    )
    x[net[good], slot[good]] = new["x"][good]
    speed[net[good], slot[good]] = new["speed"][good]
    for i in np.flatnonzero(good):
        jac[net[i], slot[i]] = new["jac"][i]
        kinked[net[i], slot[i]] = new["kinked"][i]
    rows = {k: v[good] for k, v in new.items()}
    ghost = are_ghosts(polish, net[good], rows)
    certified = np.zeros_like(unique)
    certified[net[good], slot[good]] = True
    kept = _unique(x, speed, certified, tol_unique)
    _demote(x, verdict, Verdict.slow_point, kept, certified, 0.1)
    unique |= kept
    ghosts = np.zeros_like(unique)
    ghosts[net[good][ghost], slot[good][ghost]] = True
    _inherit(x, verdict == Verdict.slow_point, kept, ghosts)
    verdict[ghosts] = Verdict.ghost

    # Spectrum, then the order of `fixed_points`.
    values = np.zeros((nets, slots, size), complex)
    condition, margin = np.zeros((2, nets, slots))
    stability, num_marginal = np.zeros((2, nets, slots), np.int32)
    tol_margin = eps**0.5 if tol_margin is None else float(tol_margin)
    for n, s in zip(*np.nonzero(unique), strict=True):
        if not spectrum:
            values[n, s] = condition[n, s] = margin[n, s] = np.nan
            continue
        j = jac[n, s]
        sigma = np.linalg.svd(j, compute_uv=False)
        condition[n, s] = sigma[0] / max(sigma[-1], sigma[0] * eps**2, 1e-300)
        w, rates = np.linalg.eigvals(j), lambda w: w.real
        # A family is judged across itself: along it, nothing moves.
        across = w[np.argsort(np.abs(w))[dimension[n, s] :]]
        if points.kind == "map":
            w, across, rates = w + 1, across + 1, lambda w: np.abs(w) - 1
        w = w[np.lexsort((-w.imag, -rates(w)))]
        values[n, s] = w / (1 if points.kind == "map" else scale[n])
        margin[n, s] = rates(across).max() if len(across) else 0
        undecided = tol_margin * max(1, sigma[0])
        num_marginal[n, s] = np.sum(np.abs(rates(w)) <= undecided)
        if abs(margin[n, s]) > undecided and not kinked[n, s]:
            stability[n, s] = np.sign(margin[n, s])
    is_root = np.isin(verdict, (Verdict.root, Verdict.continuum))
    rank = np.where(unique & is_root, 0, np.where(unique, 1, 2))
    order = np.lexsort((np.where(is_root, 0, speed), rank), axis=1)

    def arrange(a):
        index = order.reshape(order.shape + (1,) * (a.ndim - 2))
        return np.take_along_axis(a, index, axis=1).reshape(*batch, *a.shape[1:])

    return FixedPoints(
        x=arrange(x),
        x_init=arrange(flat(points.x_init)),
        speed=arrange(speed),
        eigenvalues=arrange(values),
        verdict=arrange(verdict),
        unique=arrange(unique),
        stability=arrange(stability),
        margin=arrange(margin),
        condition=arrange(condition),
        time_scale=scale.reshape(batch),
        problem=points.problem,
        stats={k: arrange(v) for k, v in stats.items()},
        kind=points.kind,
        wanted=points.wanted,
        certified=True,
        dimension=arrange(dimension),
        family=arrange(family),
        num_marginal=arrange(num_marginal),
    )


def _add_mirrored(polish, x, speed, verdict, unique, jac, kinked, bound, tol_unique):
    """Put -x into a spare slot wherever it is a root that the set lacks."""
    wanted = []
    for n, s in zip(*np.nonzero(unique), strict=True):
        mirror = -x[n, s]
        if not close(x[n, unique[n]], mirror, tol_unique).any():
            wanted.append((n, mirror))
    if not wanted:
        return
    net = np.array([n for n, _ in wanted])
    old = np.array([m for _, m in wanted])
    # Where a root is that near, the residual is small: most systems are not odd.
    seen = polish.look(net, old)
    slope = np.linalg.norm(seen["jac"], axis=(1, 2))
    near = seen["speed"] <= 10 * tol_unique * slope * size_of(old)
    net, old = net[near], old[near]
    new = polish.roots(net, old)
    good = polish.is_root(new) & (length(new["x"] - old) <= tol_unique * size_of(old))
    for i in np.flatnonzero(good):
        n = net[i]
        spare = np.flatnonzero(~unique[n] & (verdict[n] != Verdict.slow_point))
        if len(spare) and not close(x[n, unique[n]], new["x"][i], tol_unique).any():
            s = spare[-1]
            x[n, s], speed[n, s] = new["x"][i], new["speed"][i]
            verdict[n, s], unique[n, s] = Verdict.root, True
            jac[n, s], kinked[n, s] = new["jac"][i], new["kinked"][i]
            bound[n, s] = new["condition_bound"][i]


def _unique(x, speed, candidates, tol):
    """Greedy, by speed, within each network."""
    kept = np.zeros(candidates.shape, bool)
    for n in range(len(x)):
        for s in np.argsort(speed[n], kind="stable"):
            if candidates[n, s] and not close(x[n, kept[n]], x[n, s], tol).any():
                kept[n, s] = True
    return kept


def _hits(x, rows, kept):
    """How many of the rows lie at every point that was kept."""
    hits = np.zeros(kept.shape, np.int32)
    for n in range(len(x)):
        index = np.flatnonzero(kept[n])
        if len(index):
            np.add.at(hits[n], _nearest(x[n], rows[n], index), 1)
    return hits


def _inherit(x, chosen, kept, *values):
    """Duplicates take the values of the nearest point that was kept."""
    for n in range(len(x)):
        (rows,), (index,) = np.nonzero(chosen[n] & ~kept[n]), np.nonzero(kept[n])
        index = index[chosen[n, index]]
        if len(rows) and len(index):
            nearest = _nearest(x[n], rows, index)
            for value in values:
                value[n, rows] = value[n, nearest]


def _nearest(x, rows, index):
    """Of the slots `index`, the nearest to each of `rows`."""
    return index[np.argmin(_distances(x[rows], x[index]), axis=1)]


def _demote(x, verdict, code, kept, certified, reach):
    """Duplicates share the fate of what they were duplicates of."""
    for n in range(len(x)):
        (rows,) = np.nonzero((verdict[n] == code) & ~certified[n])
        apart = _distances(x[n, rows], x[n, kept[n]])
        alone = ~(apart <= reach * size_of(x[n, rows])[:, None]).any(axis=1)
        verdict[n, rows[alone]] = Verdict.undetermined


def _distances(a, b):
    from scipy.spatial.distance import cdist

    return cdist(a, b)
