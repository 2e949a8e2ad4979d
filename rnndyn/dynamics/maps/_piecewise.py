"""Exact fixed points and cycles of piecewise-linear networks, by sign patterns."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from ..._core._checks import check_count
from ..._core._export import Result
from ._patterns import heuristic, sequences


class PiecewiseCycles(Result):
    """Fixed points or cycles of a piecewise-linear map. Host level, NumPy, float64.

    **Attributes:**

    - `z`: fixed points `(found, state)`, or cycles `(found, order, state)`; each cycle
        once, whatever its phase.
    - `residual`: largest |F(z_t) - z_(t+1)| of each.
    - `eigenvalues`: of the product of the Jacobians along the cycle, shape
        `(found, state)`, modulus descending.
    - `stability`: -1 stable, 1 unstable, 0 undecided (within 1e-9 of modulus 1, or on a
        boundary, where the Jacobian jumps).
    - `boundary`: whether a component is 0 to rounding, so that several sign patterns
        describe the same cycle.
    - `continua`: shape `(families, order, state)`: one member of every family of
        solutions found in a pattern whose linear system is singular.
    - `num_singular`: patterns whose linear system is singular to working precision;
        `num_unresolved`: those among them of which it is not known whether they hold
        a family.
    - `num_systems`: linear systems solved.
    - `complete`: whether every pattern was either solved or excluded, and none is
        unresolved.
    """

    z: Float[np.ndarray, "found *order state"]
    residual: Float[np.ndarray, " found"]
    eigenvalues: Complex[np.ndarray, "found state"]
    stability: Int[np.ndarray, " found"]
    boundary: Bool[np.ndarray, " found"]
    continua: Float[np.ndarray, "families order state"]
    num_singular: int = eqx.field(static=True)
    num_unresolved: int = eqx.field(static=True)
    num_systems: int = eqx.field(static=True)
    complete: bool = eqx.field(static=True)

    def headline(self) -> str:
        """How many there are, and whether these are all."""
        stable = int(np.sum(self.stability == -1))
        families = f", {len(self.continua)} families" if len(self.continua) else ""
        known = "complete" if self.complete else "not complete"
        return f"{len(self.z)} found ({stable} stable){families}, {known}"


def plrnn_fixed_points(
    A: Any, W: Any, h: Any, *, max_systems: int = 2_000_000, seed: int = 0
) -> PiecewiseCycles:
    """All fixed points of z -> A z + W relu(z) + h.

    In each of the 2^M sign patterns the map is linear, so its fixed point there is the
    solution of one linear system, kept if it has the signs it was solved for. Patterns
    that no state can map into are excluded by signs alone.

    ```python
    found = rd.dynamics.plrnn_fixed_points(A, W, h)
    found.z, found.eigenvalues, found.stability
    assert found.complete and found.num_singular == 0
    ```

    **Arguments:**

    - `A`: shape `(state,)` (its diagonal) or `(state, state)`.
    - `W`: shape `(state, state)`; `h`: shape `(state,)`.
    - `max_systems`: above so many candidate patterns (about 20 units) the enumeration
        gives way to the search described at `plrnn_cycles`.
    - `seed`: of that search.

    **Returns:** `PiecewiseCycles` with `z` of shape `(points, state)`.

    **Raises:** a `ValueError` on shapes that do not match or non-finite numbers.
    Completeness is guaranteed only where `complete` says so; families of solutions are
    counted, and shown by one member each, not enumerated.

    **Reference:** Durstewitz 2017, doi:10.1371/journal.pcbi.1005542; Eisenmann et al.
    2023, arXiv:2310.17561.
    """
    found = plrnn_cycles(A, W, h, 1, max_systems=max_systems, seed=seed)
    return eqx.tree_at(lambda f: f.z, found, found.z[:, 0])


def plrnn_cycles(
    A: Any, W: Any, h: Any, order: int, *, max_systems: int = 2_000_000, seed: int = 0
) -> PiecewiseCycles:
    """All cycles of minimal period `order` of z -> A z + W relu(z) + h.

    A tree over sequences of sign patterns, one representative for each cyclic rotation.
    A branch is cut where a component cannot have the required sign for any earlier
    state with the signs chosen before. What is left is solved as one linear system
    each. Beyond `max_systems` the tree is given up for a heuristic: random sequences
    are solved, and re-started from the signs of the solution until these agree.

    ```python
    found = rd.dynamics.plrnn_cycles(A, W, h, 3)
    found.z.shape, found.eigenvalues, found.complete
    ```

    **Arguments:** those of `plrnn_fixed_points`, and

    - `order`: the period, at least 1.

    **Returns:** `PiecewiseCycles` with `z` of shape `(cycles, order, state)`. Cycles of
    smaller period are not among them. Completeness is guaranteed only where `complete`
    says so.

    **Reference:** Eisenmann et al. 2023, arXiv:2310.17561 (the heuristic).
    """
    check_count("max_systems", max_systems, least=0)
    check_count("seed", seed, least=0)
    problem = _Problem(A, W, h, order)
    rng = np.random.default_rng(seed)
    exhausted = False
    if problem.size <= 24:
        exhausted = True
        for patterns in sequences(problem, max_systems):
            if patterns is None:
                exhausted = False
                break
            problem.solve(patterns)
    if not exhausted:
        heuristic(problem, rng)
    return problem.result(exhausted)


class _Problem:
    """The map, and what has been found of its cycles so far."""

    def __init__(self, A, W, h, order):
        check_count("order", order)
        A, W, h = (_real(*pair) for pair in (("A", A), ("W", W), ("h", h)))
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] == 0:
            raise ValueError(f"W has shape {W.shape}, expected (state, state).")
        n = W.shape[0]
        if A.shape not in ((n,), (n, n)):
            raise ValueError(
                f"A has shape {A.shape}, expected its diagonal ({n},) or ({n}, {n})."
            )
        if h.shape != (n,):
            raise ValueError(
                f"h has shape {h.shape}, expected ({n},): one bias a unit."
            )
        for name, a in (("A", A), ("W", W), ("h", h)):
            if not np.isfinite(a).all():
                raise ValueError(f"{name} holds non-finite numbers, expected finite.")
        self.A = np.diag(A) if A.ndim == 1 else A
        self.W, self.h, self.size, self.order = W, h, n, order
        self.cycles: dict[bytes, np.ndarray] = {}
        self.on_boundary: list[np.ndarray] = []
        self.continua: list[np.ndarray] = []
        self.singular: set[bytes] = set()
        self.unresolved = 0
        self.num_systems = 0

    def matrices(self, patterns):
        """A + W D for patterns of shape (..., state)."""
        return self.A + self.W * patterns[..., None, :]

    def step(self, z):
        return z @ self.A.T + np.maximum(z, 0) @ self.W.T + self.h

    def terms(self, z):
        """Sizes of the terms that make up each component of `step`, one state earlier:
        rounding is relative to these, not to the largest component."""
        terms = np.abs(z) @ np.abs(self.A).T + np.maximum(z, 0) @ np.abs(self.W).T
        return np.roll(terms + np.abs(self.h), 1, axis=0)

    def compose(self, patterns):
        """`z_k = P z_0 + q` along sequences of patterns (count, order, state)."""
        count = len(patterns)
        P = np.broadcast_to(np.eye(self.size), (count, self.size, self.size))
        q = np.zeros((count, self.size))
        for t in range(patterns.shape[1]):
            step = self.matrices(patterns[:, t])
            P, q = step @ P, (step @ q[..., None])[..., 0] + self.h
        return P, q

    def virtual(self, patterns):
        """Solutions (count, order, state) of the linear systems, whether or not their
        signs agree, and which systems are singular."""
        P, q = self.compose(patterns)
        system = np.eye(self.size) - P
        sign, _ = np.linalg.slogdet(system)
        bad = (sign == 0) | ~np.isfinite(system).all(axis=(1, 2))
        system[bad] = np.eye(self.size)
        inverse = np.linalg.inv(system)
        one_norm = lambda m: np.abs(m).sum(axis=1).max(axis=1)
        # Relative to the terms that were subtracted, or cancellation hides.
        bad |= (1 + one_norm(P)) * one_norm(inverse) > 1e13
        z0 = (inverse @ q[..., None])[..., 0]
        z0 += (inverse @ (q - (system @ z0[..., None])[..., 0])[..., None])[..., 0]
        z = [z0]
        for t in range(patterns.shape[1] - 1):
            z.append(
                (self.matrices(patterns[:, t]) @ z[-1][..., None])[..., 0] + self.h
            )
        self.num_systems += len(patterns)
        return np.stack(z, axis=1), bad

    def solve(self, patterns):
        """Solve, and keep what has the signs it was solved for."""
        z, bad = self.virtual(patterns)
        scale = np.abs(z).max(axis=(1, 2), keepdims=True)
        signs = 2.0 * patterns - 1
        good = ((z * signs) >= -1e-6 * scale).all(axis=(1, 2)) & ~bad
        for i in np.flatnonzero(good):
            self.keep(patterns[i])
        for i in np.flatnonzero(bad):
            self.look_into(patterns[i])
        return z, bad

    def keep(self, patterns):
        """Solve one sequence again as one large system, and record the solution."""
        n, k = self.size, self.order
        try:
            z = np.linalg.solve(self.large(patterns), np.tile(self.h, k))
        except np.linalg.LinAlgError:
            return self.look_into(patterns)
        self.record(z.reshape(k, n))

    def large(self, patterns):
        """The system of all states of the cycle, better conditioned than products."""
        n, k = self.size, self.order
        system = np.eye(n * k)
        for t in range(k):
            after = (t + 1) % k
            rows = slice(after * n, (after + 1) * n)
            system[rows, t * n : (t + 1) * n] -= self.matrices(patterns[t])
        return system

    def record(self, z) -> None:
        """Record a solution, if it is a cycle of the map and of this minimal period."""
        scale = self.terms(z)
        # A component that is 0 is the rounding of those that made it.
        error = 1e-9 * scale + 4 * np.finfo(np.float64).eps * scale.max()
        near = lambda y: bool(np.all(np.abs(y - z) <= error))
        if not near(np.roll(self.step(z), 1, axis=0)):
            return
        k = self.order
        if any(k % p == 0 and near(np.roll(z, -p, axis=0)) for p in range(1, k)):
            return
        same = lambda y: any(near(np.roll(y, r, axis=0)) for r in range(k))
        if any(map(same, self.on_boundary)):
            return
        if (np.abs(z) <= 1e-12 * scale).any():
            # Also found with the signs that rounding gave it.
            for key in [key for key, y in self.cycles.items() if same(y)]:
                del self.cycles[key]
            self.on_boundary.append(z)
            return
        patterns, shift = _canonical(z > 0)
        self.cycles.setdefault(patterns.tobytes(), np.roll(z, -shift, axis=0))

    def look_into(self, patterns) -> None:
        """A singular system: no solution, one on a boundary, or a family of them."""
        key = _canonical(patterns > 0)[0].tobytes()
        if key in self.singular:
            return
        self.singular.add(key)
        system, right = self.large(patterns), np.tile(self.h, self.order)
        u, sigma, vh = np.linalg.svd(system)
        rank = int(np.sum(sigma > 1e-12 * sigma[0]))
        if rank == len(sigma):
            # Only the product was ill-conditioned.
            self.record(np.linalg.solve(system, right).reshape(self.order, -1))
            return
        z0 = vh[:rank].T @ ((u.T @ right)[:rank] / sigma[:rank])
        scale = max(np.abs(right).max(), np.abs(z0).max())
        if np.abs(system @ z0 - right).max() > 1e-9 * scale:
            return
        null = vh[rank:].T
        # Signs along the cycle, as linear functions of the place in the family.
        signs = (2 * patterns - 1).ravel()
        a, b = signs[:, None] * null, signs * z0
        if null.shape[1] == 1:
            low, high = _interval(a[:, 0], b, 1e-10 * scale)
            if low > high:
                return
            places = [np.array([_inside(low, high, part)]) for part in (0.4, 0.7)]
            point = high - low <= 1e-8 * scale
        else:
            starts = scale * np.random.default_rng(0).standard_normal((2, len(null.T)))
            places = [
                _feasible(a, b, 1e-10 * scale, s) for s in (0 * starts[0], *starts)
            ]
            places = [place for place in places if place is not None]
            if not places:
                self.unresolved += 1
                return
            point = _reach(a, b, 1e-10 * scale) <= 1e-8 * scale
        # Some places in a family may have a smaller period, in the middle above all.
        orbits = [(z0 + null @ s).reshape(self.order, -1) for s in places]
        if point:
            self.record(orbits[0])
        else:
            self.continua.extend([orbit for orbit in orbits if _moves(orbit)][:1])

    def result(self, exhausted) -> PiecewiseCycles:
        n, k = self.size, self.order
        inside = [self.cycles[key] for key in sorted(self.cycles)]
        z = np.array(inside + self.on_boundary).reshape(-1, k, n)
        boundary = np.arange(len(z)) >= len(inside)
        product, _ = self.compose((z > 0).astype(float))
        values = np.linalg.eigvals(product).astype(complex)
        order = np.lexsort((-np.imag(values), -np.abs(values)), axis=1)
        values = np.take_along_axis(values, order, axis=1)
        margin = np.abs(values[:, 0]) - 1
        decided = (np.abs(margin) > 1e-9) & ~boundary
        gaps = np.abs(self.step(z) - np.roll(z, -1, axis=1))
        return PiecewiseCycles(
            z=z,
            residual=gaps.max(axis=(1, 2), initial=0),
            eigenvalues=values,
            stability=np.where(decided, np.sign(margin), 0).astype(np.int32),
            boundary=boundary,
            continua=np.array(self.continua).reshape(-1, k, n),
            num_singular=len(self.singular),
            num_unresolved=self.unresolved,
            num_systems=self.num_systems,
            complete=exhausted and self.unresolved == 0,
        )


def _real(name, values) -> np.ndarray:
    a = np.asarray(values)
    if a.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {a.dtype}, expected real numbers.")
    return a.astype(np.float64)


def _canonical(patterns):
    """The first of all rotations of a sequence, and by how much it was rotated."""
    rotations = [np.roll(patterns, -s, axis=0) for s in range(len(patterns))]
    shift = min(range(len(patterns)), key=lambda s: rotations[s].tobytes())
    return np.ascontiguousarray(rotations[shift]), shift


def _interval(a, b, tol):
    """Where a s + b >= 0 holds in every row."""
    flat = np.abs(a) <= 1e-12 * max(np.abs(a).max(), 1e-300)
    if (b[flat] < -tol).any():
        return 1.0, 0.0
    up, down = ~flat & (a > 0), ~flat & (a < 0)
    low = np.max(-(b[up] + tol) / a[up], initial=-np.inf)
    high = np.min(-(b[down] + tol) / a[down], initial=np.inf)
    return low, high


def _inside(low, high, part) -> float:
    if np.isfinite(low) and np.isfinite(high):
        return low + part * (high - low)
    if np.isfinite(low) or np.isfinite(high):
        return low + 2 * part if np.isfinite(low) else high - 2 * part
    return part


def _feasible(a, b, tol, s):
    """A place with a s + b >= 0 in every row, by projections from the place `s`; `None`
    if not found."""
    inverse = np.linalg.pinv(a)
    for _ in range(2000):
        value = a @ s + b
        if (value >= -tol).all():
            return s
        s = inverse @ (np.maximum(value, 0) - b)
    return None


def _reach(a, b, tol) -> float:
    """How far apart places with a s + b >= 0 in every row lie, along any axis."""
    # Costs 0.3 s to import: not before it is needed.
    from scipy.optimize import linprog

    reach = 0.0
    for axis in np.eye(a.shape[1]):
        ends = [
            linprog(sign * axis, A_ub=-a, b_ub=b + tol, bounds=(None, None))
            for sign in (1, -1)
        ]
        if not all(end.success for end in ends):
            return np.inf
        reach = max(reach, -(ends[0].fun + ends[1].fun))
    return reach


def _moves(orbit) -> bool:
    scale = max(np.abs(orbit).max(), 1e-300)
    return all(
        np.abs(np.roll(orbit, -p, axis=0) - orbit).max() > 1e-9 * scale
        for p in range(1, len(orbit))
    )
