"""Continuous families of roots: which roots belong to one, its dimension, and which
of them are connected. Host level, in float64."""

from typing import Any

import numpy as np

from ._polish import length, size_of


# Singular values below it, relative to the largest, are null directions: of a member,
# and (looser, as the point is moved) of a probe.
NULL = 1e-8
NULL_PROBE = 1e-6
# Length of a probe, relative to max(1, |x|); families closer than this are one.
PROBE = 1e-3
# Largest angle, in radians, between a chord of a family and its tangent space.
BEND = 0.05
# How often groups that are left are tried again.
ROUNDS = 6


def find_continua(
    polish: Any, x: np.ndarray, unique: np.ndarray, jac: dict, bound: np.ndarray
) -> tuple[np.ndarray, dict]:
    """Dimension of the family of roots through each distinct root, 0 if isolated.

    A small singular value alone proves nothing: x' = -x^3 has an isolated root. So the
    root is moved by `PROBE` both ways along each null direction and polished. Probes
    that end at another root about that far away, whose Jacobian is singular too, show
    that the roots continue; the dimension is the rank of their displacements.

    **Returns:** dimensions, shape `(net, slot)`, and orthonormal bases of the tangent
    spaces, `(net, slot) -> (state, dimension)`.
    """
    dimension, bases = np.zeros(unique.shape, np.int32), {}
    owner, base, directions, null = [], [], [], {}
    # Most roots are far from singular: `bound` is one of the condition number.
    for key in zip(*np.nonzero(unique & ~(bound * NULL < 1)), strict=True):
        _, sigma, vh = np.linalg.svd(jac[key])
        null[key] = vh[sigma <= NULL * max(sigma[0], 1e-300)]
        for sign in (1, -1):
            owner += [key] * len(null[key])
            base += [x[key]] * len(null[key])
            directions += list(sign * null[key])
    if not owner:
        return dimension, bases
    base, directions = np.array(base), np.array(directions)
    h = PROBE * size_of(base)
    new = polish.roots(np.array([n for n, _ in owner]), base + h[:, None] * directions)
    moved = length(new["x"] - base)
    good = polish.is_root(new) & (moved > 0.25 * h) & (moved < 2 * h)
    # An isolated neighbour has a regular Jacobian; a member of the family has not.
    sigma = np.linalg.svd(new["jac"], compute_uv=False)
    good &= sigma[:, -1] <= NULL_PROBE * np.maximum(sigma[:, 0], 1e-300)
    for key, vectors in null.items():
        mine = [i for i, k in enumerate(owner) if k == key and good[i]]
        if not mine:
            continue
        shift = (new["x"][mine] - base[mine]) / h[mine, None]
        _, size, vh = np.linalg.svd(shift, full_matrices=False)
        d = int(np.sum(size > 0.3))
        dimension[key] = d
        # The null vectors are exact where all of them are tangent.
        bases[key] = vectors.T if d == len(vectors) else vh[:d].T
    return dimension, bases


def label_families(
    polish: Any, x: np.ndarray, dimension: np.ndarray, bases: dict
) -> np.ndarray:
    """A label for each connected family, shared by its members; -1 for all others.

    Two members are connected if one is reached from the other along roots. Neighbours
    (the edges of the shortest tree through all members, then the shortest ones between
    the groups that are left) are linked if the chord meets both tangent spaces at
    small, opposite angles and its middle polishes to a root near it; else by walking
    from one towards the other, each step tangent, short against the curvature, and
    polished. Members of a surface that only a detour connects may stay apart; families
    nearer to each other than about 1e-3 of the distance between neighbouring members,
    or than 1e-3 max(1, |x|), may be taken as one.
    """
    family = np.full(dimension.shape, -1, np.int32)
    groups, edges = {}, []
    for n in np.flatnonzero((dimension > 0).any(axis=1)):
        members = np.flatnonzero(dimension[n] > 0)
        groups[n] = _Groups(members)
        edges += [(n, a, b) for a, b in _tree(x[n], members)]
    tried = set()
    for again in range(ROUNDS):
        tried.update(edges)
        linked = _chords(polish, x, bases, edges)
        left = [e for e, ok in zip(edges, linked, strict=True) if not ok]
        walked = _walks(polish, x, dimension, bases, left, again > 0)
        good = [e for e, ok in zip(edges, linked, strict=True) if ok]
        good += [e for e, ok in zip(left, walked, strict=True) if ok]
        for n, a, b in good:
            groups[n].join(a, b)
        edges = [
            (n, a, b)
            for n, group in groups.items()
            for a, b in _between(x[n], group, n, tried)
        ]
        if not edges:
            break
    for n, group in groups.items():
        roots = [group.root(s) for s in group.parent]
        order = {r: i for i, r in enumerate(dict.fromkeys(roots))}
        family[n, list(group.parent)] = [order[r] for r in roots]
    return family


def add_ends(
    polish: Any,
    x: np.ndarray,
    kinked: np.ndarray,
    dimension: np.ndarray,
    family: np.ndarray,
) -> None:
    """Roots at a kink at which a family ends join it, in place.

    The Jacobian there may be that of the other side, and regular. Roots continue from
    it towards the nearest member, or it is another root.
    """
    found = []
    for n, s in zip(*np.nonzero(kinked & (dimension == 0)), strict=True):
        (members,) = np.nonzero(dimension[n] > 0)
        if len(members):
            gap = x[n, members] - x[n, s]
            k = np.argmin(length(gap))
            if length(gap[k]) > 0:
                found.append((n, s, members[k], gap[k] / length(gap[k])))
    if not found:
        return
    start = np.array([x[n, s] for n, s, _, _ in found])
    h = PROBE * size_of(start)
    probe = start + h[:, None] * np.array([towards for *_, towards in found])
    new = polish.roots(np.array([n for n, *_ in found]), probe)
    joined = polish.is_root(new) & (length(new["x"] - probe) <= BEND * h)
    for (n, s, member, _), ok in zip(found, joined, strict=True):
        if ok:
            dimension[n, s], family[n, s] = dimension[n, member], family[n, member]


class _Groups:
    """Union-find over slots."""

    def __init__(self, members):
        self.parent = {int(s): int(s) for s in members}

    def root(self, s):
        while self.parent[s] != s:
            s = self.parent[s]
        return s

    def join(self, a, b):
        self.parent[self.root(a)] = self.root(b)


def _tree(x, members):
    """Edges of the shortest spanning tree (Prim)."""
    points, edges = x[members], []
    near = np.zeros(len(members), int)
    gap = length(points - points[0])
    outside = np.ones(len(members), bool)
    outside[0] = False
    while outside.any():
        i = np.argmin(np.where(outside, gap, np.inf))
        outside[i] = False
        edges.append((int(members[near[i]]), int(members[i])))
        fresh = length(points - points[i])
        near, gap = np.where(fresh < gap, i, near), np.minimum(fresh, gap)
    return edges


def _between(x, group, n, tried):
    """From each group, the shortest untried edges to its nearest four other groups."""
    members = np.array(list(group.parent))
    label = np.array([group.root(s) for s in group.parent])
    names, index = np.unique(label, return_inverse=True)
    if len(names) == 1:
        return []
    gap = length(x[members][:, None, :] - x[members][None, :, :])
    for i, j in np.ndindex(gap.shape):
        edge = (n, int(members[i]), int(members[j]))
        if index[i] == index[j] or edge in tried or (n, *edge[:0:-1]) in tried:
            gap[i, j] = np.inf
    edges = set()
    for mine in range(len(names)):
        rows = np.flatnonzero(index == mine)
        best = []
        for other in range(len(names)):
            columns = np.flatnonzero(index == other)
            part = gap[np.ix_(rows, columns)]
            i, j = np.unravel_index(np.argmin(part), part.shape)
            best.append((part[i, j], int(members[rows[i]]), int(members[columns[j]])))
        edges.update(
            (min(a, b), max(a, b)) for d, a, b in sorted(best)[:4] if d < np.inf
        )
    return sorted(edges)


def _chords(polish, x, bases, edges):
    """Whether each edge is plainly a chord of one family."""
    good = np.zeros(len(edges), bool)
    if not edges:
        return good
    for i, (n, a, b) in enumerate(edges):
        good[i] = _arc(x[n, b] - x[n, a], bases[n, a], bases[n, b])
    ends = [np.array([x[e[0], e[k]] for e in edges])[good] for k in (1, 2)]
    net = np.array([n for n, _, _ in edges])[good]
    middle = 0.5 * (ends[0] + ends[1])
    new = polish.roots(net, middle)
    near = length(new["x"] - middle) <= BEND * length(ends[1] - ends[0])
    good[good] = polish.is_root(new) & near
    return good


def _arc(chord, before, after):
    """Whether a chord meets the two tangent spaces as that of a short arc does: at
    small angles, one inwards and one outwards. Parallel families fail the latter."""
    inwards = chord - before @ (before.T @ chord)
    outwards = chord - after @ (after.T @ chord)
    bend = max(length(inwards), length(outwards))
    slack = 0.1 * bend + 5e-4 * length(chord)
    return bend <= 2 * BEND * length(chord) and length(inwards + outwards) <= slack


def _walks(polish, x, dimension, bases, edges, detours, max_steps=256):
    """Whether walking along the family leads from one end of each edge to the other:
    always closer or, with `detours` and on curves, as far as eight times the gap."""
    edges = [
        (n, a, b) if dimension[n, a] <= dimension[n, b] else (n, b, a)
        for n, a, b in edges
    ]
    linked = np.zeros(len(edges), bool)
    if not edges:
        return linked
    net = np.array([n for n, _, _ in edges])
    here = np.array([x[n, a] for n, a, _ in edges])
    goal = np.array([x[n, b] for n, _, b in edges])
    basis = [bases[n, a] for n, a, _ in edges]
    floor, limit = PROBE * size_of(here), np.full(len(edges), np.inf)
    alive, taken = np.ones(len(edges), bool), np.zeros(len(edges), int)
    far, path = length(goal - here), np.zeros(len(edges))
    heading = np.random.default_rng(0).standard_normal(here.shape)
    for _ in range(max_steps):
        gap = goal - here
        linked |= alive & (length(gap) <= 1e-6 * size_of(goal))
        alive &= ~linked
        step = np.zeros_like(here)
        for i in np.flatnonzero(alive):
            along = basis[i] @ (basis[i].T @ gap[i])
            stuck = length(along) <= 0.02 * length(gap[i])
            back = along @ heading[i] < 0 and length(gap[i]) > length(heading[i])
            if detours and taken[i] and basis[i].shape[1] == 1 and (stuck or back):
                # A curve leads on, even if away from the goal for a while.
                ahead = basis[i][:, 0] * np.sign(basis[i][:, 0] @ heading[i])
                along = 0.5 * far[i] * ahead
            elif stuck:
                # The far side of a ring lies in no tangent direction: set off anyhow.
                alive[i] = taken[i] < 4
                along = basis[i] @ (basis[i].T @ heading[i])
                along *= 0.5 * length(gap[i]) / length(along)
            step[i] = along * min(1, limit[i] / length(along))
        (index,) = np.nonzero(alive)
        if not len(index):
            break
        h = length(step)
        new = polish.roots(net[index], here[index] + step[index])
        root = polish.is_root(new)
        _, _, vh = np.linalg.svd(new["jac"])
        for k, i in enumerate(index):
            chord, after = new["x"][k] - here[i], vh[k, -basis[i].shape[1] :].T
            smooth = length(chord - step[i]) <= BEND * h[i]
            smooth &= _arc(chord, basis[i], after)
            # At the length of a probe corners may be turned.
            small = h[i] <= floor[i] and 0.25 * h[i] < length(chord) < 2 * h[i]
            if root[k] and (smooth or small):
                closer = length(goal[i] - new["x"][k]) < length(gap[i])
                path[i] += h[i]
                alive[i] = closer or taken[i] < 4 or (detours and path[i] < 8 * far[i])
                here[i], basis[i], heading[i] = new["x"][k], after, chord
                taken[i] += 1
                limit[i] = max(2 * h[i], floor[i])
            else:
                alive[i] = h[i] > floor[i]
                limit[i] = max(0.5 * h[i], floor[i])
    return linked
