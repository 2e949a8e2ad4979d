"""Host level: decide in float64 what a search has found."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core._checks import is_concrete
from .._core._masks import norm
from .._core._system import residual_fn
from .._core._verdicts import Verdict
from ._linear import newton_length
from ._points import FixedPoints, Frozen
from ._search import Tolerances, judge
from ._solver import LevenbergMarquardt


CHUNK = 32


def certify(
    points: FixedPoints,
    *,
    tol: Any = None,
    tol_unique: Any = None,
    tol_margin: Any = None,
    max_steps: int = 64,
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
        expected distance along its null direction.
    - *slow_point*: the gradient of q vanishes to rounding, its exact Hessian is
        positive semidefinite, and the speed does not fall along its softest direction.
    - anything else is *undetermined*, or keeps the verdict *diverged* or *lost*.

    Roots are also looked for at -x of every root, and accepted by the same test.
    Eigenvalues come from LAPACK on the host, for distinct points only. Where the
    Jacobian jumps (a relu at its kink) stability is left undecided.

    **Arguments:**

    - `points`: result of `fixed_points` or `slow_points`, possibly under
        `equinox.filter_vmap`.
    - `tol`: largest scale-free speed of a root; default 1e-12.
    - `tol_unique`: relative distance below which two points are one; default 1e-6.
    - `tol_margin`: margins within it, relative to max(1, |J|), count as undecided;
        default sqrt(eps).
    - `max_steps`: polishing steps per candidate.

    **Returns:**

    `FixedPoints` with `certified=True` and float64 numpy arrays, without derivatives.
    What is returned as found is found; that nothing was missed is not guaranteed.
    """
    if not is_concrete(points.x):
        raise ValueError(
            "`certify` got traced points, expected concrete ones: it decides on the "
            "host. Return the FixedPoints from the jitted function first."
        )
    host = lambda a: np.array(a)
    batch, (slots, size) = points.x.shape[:-2], points.x.shape[-2:]
    nets = int(np.prod(batch, dtype=int))
    flat = lambda a: host(a).reshape(nets, *np.shape(a)[len(batch) :])
    single = host(points.x).dtype != np.float64
    x, verdict = flat(points.x).astype(np.float64), flat(points.verdict)
    unique, was_unique = np.zeros((nets, slots), bool), flat(points.unique)
    steps = flat(points.stats["num_steps"])
    problem, scale = _batched64(points, flat), flat(points.time_scale)
    scale = scale.astype(np.float64)

    eps = np.finfo(np.float64).eps
    tol = max(1e-12, 8 * eps * size**0.5) if tol is None else float(tol)
    tol_unique = 1e-6 if tol_unique is None else float(tol_unique)
    reach = 1e-3 if single else tol_unique
    # As an array its value is not compiled in: 0 steps only look.
    polish = _Polish(problem, scale, tol, tol_unique, np.asarray(max_steps, np.int32))

    speed = flat(points.speed).astype(np.float64)
    jac = {}  # (net, slot) -> Jacobian of the residual, for distinct points

    # Roots.
    chosen = ((verdict == Verdict.root) & was_unique) | (
        verdict == Verdict.undetermined
    )
    chosen &= np.isfinite(x).all(axis=2)
    chosen &= verdict != Verdict.diverged
    net, slot = np.nonzero(chosen)
    old = x[net, slot]
    new = polish.roots(net, old)
    near = _length(new["x"] - old) <= reach * _size(new["x"])
    good = polish.is_root(new) & near
    verdict[net, slot] = np.where(good, int(Verdict.root), int(Verdict.undetermined))
    x[net[good], slot[good]] = new["x"][good]
    speed[net[good], slot[good]] = new["speed"][good]
    steps[net[good], slot[good]] += new["num_steps"][good]
    for i in np.flatnonzero(good):
        jac[net[i], slot[i]] = new["jac"][i]
    certified = np.zeros_like(unique)
    certified[net[good], slot[good]] = True
    unique |= _unique(x, speed, certified, tol_unique)
    _demote(x, verdict, Verdict.root, unique, certified, reach)
    _add_mirrored(polish, x, speed, verdict, unique, jac, tol_unique)
    _find_continua(polish, x, verdict, unique, jac)

    # Slow points, among them undetermined candidates that the polish saw as such.
    chosen = (verdict == Verdict.slow_point) & was_unique & np.isfinite(x).all(axis=2)
    turned = ~good & (new["verdict"] == Verdict.slow_point)
    turned &= _length(new["x"] - old) <= 0.1 * _size(old)
    x[net[turned], slot[turned]] = new["x"][turned]
    chosen[net[turned], slot[turned]] = True
    net, slot = np.nonzero(chosen)
    old = x[net, slot]
    new = polish.minima(net, old)
    near = _length(new["x"] - old) <= 0.1 * _size(old)
    good = polish.is_minimum(net, new) & near
    verdict[net, slot] = np.where(
        good, int(Verdict.slow_point), int(Verdict.undetermined)
    )
    x[net[good], slot[good]] = new["x"][good]
    speed[net[good], slot[good]] = new["speed"][good]
    for i in np.flatnonzero(good):
        jac[net[i], slot[i]] = new["jac"][i]
    certified = np.zeros_like(unique)
    certified[net[good], slot[good]] = True
    kept = _unique(x, speed, certified, tol_unique)
    _demote(x, verdict, Verdict.slow_point, kept, certified, 0.1)
    unique |= kept

    # Spectrum, then the order of `fixed_points`.
    kinked = np.zeros_like(unique)
    net, slot = np.nonzero(unique)
    if len(net):
        kinked[net, slot] = polish.kinks(net, x[net, slot])
    values = np.zeros((nets, slots, size), complex)
    condition, margin = np.zeros((2, nets, slots))
    stability = np.zeros((nets, slots), np.int32)
    tol_margin = eps**0.5 if tol_margin is None else float(tol_margin)
    for n, s in zip(*np.nonzero(unique), strict=True):
        j = jac[n, s]
        sigma = np.linalg.svd(j, compute_uv=False)
        condition[n, s] = sigma[0] / max(sigma[-1], sigma[0] * eps**2, 1e-300)
        if points.kind == "map":
            w = np.linalg.eigvals(j + np.eye(size))
            w = w[np.lexsort((-w.imag, -np.abs(w)))]
            margin[n, s] = np.abs(w[0]) - 1
        else:
            w = np.linalg.eigvals(j)
            w = w[np.lexsort((-w.imag, -w.real))]
            margin[n, s] = w[0].real
            w = w / scale[n]
        values[n, s] = w
        if abs(margin[n, s]) > tol_margin * max(1, sigma[0]) and not kinked[n, s]:
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
        stats={"num_steps": arrange(steps)},
        kind=points.kind,
        wanted=points.wanted,
        certified=True,
    )


class _Polish:
    """Runs compacted candidates through the two compiled programs, in chunks."""

    def __init__(self, problem, scale, tol, tol_unique, max_steps):
        self.problem, self.scale, self.max_steps = problem, scale, max_steps
        self.tol, self.tol_unique = np.float64(tol), np.float64(tol_unique)

    def roots(self, net, x):
        return self._chunks(_polish_roots, net, x)

    def minima(self, net, x):
        return self._chunks(_polish_minima, net, x)

    def look(self, net, x):
        """Speed and Jacobian at `x`, without a step."""
        return self._chunks(_polish_roots, net, x, np.zeros((), np.int32))

    def kinks(self, net, x):
        """Where the Jacobian jumps, so that it says nothing about stability."""
        direction = np.random.default_rng(0).standard_normal(x.shape[1])
        step = 1e-7 * _size(x)[:, None] * direction / np.linalg.norm(direction)
        above, below = (self.look(net, x + sign * step)["jac"] for sign in (1, -1))
        jump = np.abs(above - below).max(axis=(1, 2), initial=0)
        return jump > 1e-3 * np.abs(above).max(axis=(1, 2), initial=0)

    def is_root(self, new):
        eps = np.finfo(np.float64).eps
        size = _size(new["x"])
        small = new["speed"] <= self.tol * np.maximum(
            1, _length(new["x"]) / new["x"].shape[1] ** 0.5
        )
        return small & (new["newton"] <= eps**0.5 * size)

    def is_minimum(self, net, new):
        eps = np.finfo(np.float64).eps
        rounding = 64 * eps * np.linalg.norm(new["jac"], axis=(1, 2))
        slope = new["gradient"] * _size(new["x"])
        flat = slope <= 1e-8 * new["speed"] ** 2 + rounding * new["speed"]
        candidate = np.isfinite(new["speed"]) & ~self.is_root(new) & flat
        if not candidate.any():
            return candidate
        # Curvatures relative to those of each coordinate: a stiff direction must not
        # hide a soft one. Where the softest is flat to second order, look around.
        lowest, softest = zip(*map(_softest, new["hessian"]), strict=True)
        step = 3e-3 * _size(new["x"])[:, None] * np.array(softest)
        around = [self.look(net, new["x"] + sign * step)["speed"] for sign in (1, -1)]
        lower = np.minimum(*around) < new["speed"] * (1 - 1e-12)
        return candidate & (np.array(lowest) >= -1e-8) & ~lower

    def _chunks(self, program, net, x, max_steps=None):
        max_steps = self.max_steps if max_steps is None else max_steps
        # Also with nothing to do: one padded chunk gives the shapes of the result.
        pad = -len(x) % CHUNK if len(x) else CHUNK
        rows = np.concatenate([x, np.zeros((pad, x.shape[1]))])
        nets = np.concatenate([net, np.zeros(pad, int)])
        pieces = []
        for i in range(0, len(rows), CHUNK):
            if len(x) == 0:
                return _nothing(x.shape[1])
            arrays = [a[nets[i : i + CHUNK]] for a in self.problem.arrays]
            chunk = eqx.tree_at(lambda p: p.arrays, self.problem, arrays)
            with jax.enable_x64(True):
                out = program(
                    chunk,
                    self.scale[nets[i : i + CHUNK]],
                    rows[i : i + CHUNK],
                    self.tol,
                    self.tol_unique,
                    max_steps,
                )
                pieces.append({k: np.array(v) for k, v in out.items()})
        return {k: np.concatenate([p[k] for p in pieces])[: len(x)] for k in pieces[0]}


def _nothing(size):
    none = np.zeros(0)
    square = np.zeros((0, size, size))
    return {
        "x": np.zeros((0, size)),
        "speed": none,
        "newton": none,
        "gradient": none,
        "jac": square,
        "hessian": square,
        "num_steps": np.zeros(0, int),
        "verdict": np.zeros(0, int),
    }


@eqx.filter_jit
def _polish_roots(problem, scale, x, tol, tol_unique, max_steps):
    solver = LevenbergMarquardt()
    tols = Tolerances(x.dtype, x.shape[1], tol, tol_unique)

    def one(problem, scale, x0):
        fn = _residual64(problem, scale, x0)

        def body(carry):
            x, state, num_steps, _, _ = carry
            x, state = solver.advance(fn, x, state)
            num_steps = num_steps + 1
            return x, state, num_steps, *judge(tols, x0, x, state, num_steps, max_steps)

        zero = jnp.zeros((), jnp.int32)
        carry = (x0, solver.start(x0), zero, max_steps <= 0, zero)
        x, _, num_steps, _, verdict = lax.while_loop(lambda c: ~c[3], body, carry)
        jac, f = jax.jacfwd(lambda y: (fn(y),) * 2, has_aux=True)(x)
        return {
            "x": x,
            "speed": norm(f),
            "newton": newton_length(jac, f, x),
            "jac": jnp.where(jnp.isfinite(jac), jac, 0),
            "num_steps": num_steps,
            "verdict": verdict,
        }

    return jax.vmap(one)(problem, scale, x)


@eqx.filter_jit
def _polish_minima(problem, scale, x, tol, tol_unique, max_steps):
    """Newton's method for a zero of the gradient of q, with the exact Hessian."""

    def one(problem, scale, x0):
        fn = _residual64(problem, scale, x0)
        gradient = jax.grad(lambda y: 0.5 * jnp.vdot(fn(y), fn(y)))

        def body(carry):
            x, g, hessian, num_steps, _ = carry
            trial = x - jnp.linalg.solve(hessian, g)
            new = gradient(trial)
            better = norm(new) < norm(g)
            x, g = jnp.where(better, trial, x), jnp.where(better, new, g)
            hessian = jax.jacfwd(gradient)(x)
            return x, g, hessian, num_steps + 1, better & (num_steps < max_steps)

        start = (x0, gradient(x0), jax.jacfwd(gradient)(x0), 0, jnp.asarray(True))
        x, g, hessian, _, _ = lax.while_loop(lambda c: c[4], body, start)
        jac, f = jax.jacfwd(lambda y: (fn(y),) * 2, has_aux=True)(x)
        return {
            "x": x,
            "speed": norm(f),
            "newton": newton_length(jac, f, x),
            "gradient": norm(g),
            "jac": jnp.where(jnp.isfinite(jac), jac, 0),
            "hessian": jnp.where(jnp.isfinite(hessian), hessian, 0),
        }

    return jax.vmap(one)(problem, scale, x)


def _residual64(problem, scale, x):
    system, args = problem.thaw()
    fn = residual_fn(system, args, scale)
    out = jax.eval_shape(fn, x)
    if out.dtype != x.dtype:
        raise ValueError(
            f"The system returns {out.dtype} for a float64 state, expected float64. "
            "Let it compute in the dtype of the state, without fixed dtypes or arrays "
            "captured by closure: pass these through `args` or as Module leaves."
        )
    return fn


def _batched64(points: FixedPoints, flat) -> Frozen:
    """The system with float64 arrays and one leading axis for the networks."""

    def cast(a):
        a = flat(a) if not _is_key(a) else a
        return a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a

    arrays = [cast(a) for a in points.problem.arrays]
    return eqx.tree_at(lambda p: p.arrays, points.problem, arrays)


def _is_key(a) -> bool:
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _add_mirrored(polish, x, speed, verdict, unique, jac, tol_unique):
    """Put -x into a spare slot wherever it is a root that the set lacks."""
    wanted = []
    for n, s in zip(*np.nonzero(unique), strict=True):
        mirror = -x[n, s]
        if not _close(x[n, unique[n]], mirror, tol_unique).any():
            wanted.append((n, mirror))
    if not wanted:
        return
    net = np.array([n for n, _ in wanted])
    old = np.array([m for _, m in wanted])
    new = polish.roots(net, old)
    good = polish.is_root(new) & (_length(new["x"] - old) <= tol_unique * _size(old))
    for i in np.flatnonzero(good):
        n = net[i]
        spare = np.flatnonzero(~unique[n] & (verdict[n] != Verdict.slow_point))
        if len(spare) and not _close(x[n, unique[n]], new["x"][i], tol_unique).any():
            s = spare[-1]
            x[n, s], speed[n, s] = new["x"][i], new["speed"][i]
            verdict[n, s], unique[n, s] = Verdict.root, True
            jac[n, s] = new["jac"][i]


def _softest(hessian):
    """Lowest eigenvalue of the Hessian with each coordinate scaled to its own
    curvature, and the direction that belongs to it."""
    curvature = np.abs(np.diag(hessian))
    floor = 1e-12 * max(np.abs(hessian).max(initial=0), 1e-300)
    scale = np.sqrt(np.maximum(curvature, floor))
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    direction = vectors[:, 0] / scale
    return values[0], direction / np.linalg.norm(direction)


def _find_continua(polish, x, verdict, unique, jac):
    """Rename roots from which other roots are reached along the null direction."""
    probes = []
    for n, s in zip(*np.nonzero(unique), strict=True):
        _, sigma, vh = np.linalg.svd(jac[n, s])
        if sigma[-1] <= 1e-8 * max(sigma[0], 1e-300):
            probes += [(n, s, sign * vh[-1]) for sign in (1, -1)]
    if not probes:
        return
    net = np.array([n for n, _, _ in probes])
    base = np.array([x[n, s] for n, s, _ in probes])
    h = 1e-3 * _size(base)
    new = polish.roots(net, base + h[:, None] * np.array([v for _, _, v in probes]))
    moved = _length(new["x"] - base)
    good = polish.is_root(new) & (moved > 0.5 * h) & (moved < 2 * h)
    # An isolated neighbour has a regular Jacobian; a member of the family has not.
    sigma = np.linalg.svd(new["jac"], compute_uv=False)
    good &= sigma[:, -1] <= 1e-6 * np.maximum(sigma[:, 0], 1e-300)
    for i in np.flatnonzero(good):
        verdict[probes[i][0], probes[i][1]] = Verdict.continuum


def _unique(x, speed, candidates, tol):
    """Greedy, by speed, within each network."""
    kept = np.zeros(candidates.shape, bool)
    for n in range(len(x)):
        for s in np.argsort(speed[n], kind="stable"):
            if candidates[n, s] and not _close(x[n, kept[n]], x[n, s], tol).any():
                kept[n, s] = True
    return kept


def _demote(x, verdict, code, kept, certified, reach):
    """Duplicates share the fate of what they were duplicates of."""
    for n, s in zip(*np.nonzero((verdict == code) & ~certified), strict=True):
        if not _close(x[n, kept[n]], x[n, s], reach).any():
            verdict[n, s] = Verdict.undetermined


def _close(rows, point, tol):
    return _length(rows - point) <= tol * _size(point)


def _length(rows):
    return np.linalg.norm(rows, axis=-1)


def _size(rows):
    return np.maximum(1, _length(rows))
