"""Candidates of many networks through two compiled programs, in float64."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._core._batch import in_double
from ..._core._closures import program
from ..._core._jacobian import jacobian
from ..._core._masks import norm
from ..._core._system import residual_fn
from .._linear import distance_to_root, rounding_of, row_units
from ._search import Tolerances, judge
from ._solver import LevenbergMarquardt


CHUNK = 32
"""Points a program takes; fewer large ones, since chunks are filled up."""


class Polish:
    """Runs compacted candidates through the two compiled programs, in chunks."""

    def __init__(self, problem, scale, tol, tol_unique, max_steps):
        self.problem, self.scale, self.max_steps = problem, scale, max_steps
        self.tol, self.tol_unique = np.float64(tol), np.float64(tol_unique)

    def roots(self, net, x, short=False):
        """Where Levenberg-Marquardt leads from `x`; a point that no step would move by
        more than rounding stays as it is. Where `short`, at most 8 steps."""
        # Arrays: a program would be compiled for every number of Python or NumPy.
        new = self._chunks(_polish_roots, net, x, np.asarray(0, np.int32))
        eps = np.finfo(np.float64).eps
        exact = self.is_root(new) & (new["newton"] <= 64 * eps * size_of(x))
        short = np.broadcast_to(short, exact.shape)
        for steps, wanted in (
            (self.max_steps, ~exact & ~short),
            (np.asarray(min(self.max_steps, 8), np.int32), ~exact & short),
        ):
            (rest,) = np.nonzero(wanted)
            if len(rest):
                moved = self._chunks(_polish_roots, net[rest], x[rest], steps)
                for name, rows in moved.items():
                    new[name][rest] = rows
        return new

    def minima(self, net, x):
        return self._chunks(_polish_minima, net, x)

    def look(self, net, x):
        """Residual, speed and Jacobian at `x`, without a step or a verdict."""
        return self._chunks(_polish_roots, net, x, np.asarray(-1, np.int32))

    def is_root(self, new):
        eps = np.finfo(np.float64).eps
        size = size_of(new["x"])
        small = new["speed"] <= self.tol * np.maximum(
            1, length(new["x"]) / new["x"].shape[1] ** 0.5
        )
        good = small & (new["newton"] <= eps**0.5 * size)
        for i in np.flatnonzero(small & ~good & new["within"]):
            row = (new[k][i] for k in ("jac", "f", "x", "rounding"))
            good[i] = _is_singular_root(*row)
        return good

    def is_minimum(self, net, new):
        eps = np.finfo(np.float64).eps
        # J^T f carries the rounding of f, a difference of terms that may be far larger.
        noise = np.abs(new["jac"]) * new["rounding"][:, :, None]
        noise = np.linalg.norm(noise.sum(axis=1), axis=1) * size_of(new["x"])
        rounding = 64 * eps * np.linalg.norm(new["jac"], axis=(1, 2)) * new["speed"]
        slope = new["gradient"] * size_of(new["x"])
        flat = slope <= 1e-8 * new["speed"] ** 2 + np.maximum(rounding, noise)
        candidate = np.isfinite(new["speed"]) & ~self.is_root(new) & flat
        if not candidate.any():
            return candidate
        # Curvatures relative to those of each coordinate: a stiff direction must not
        # hide a soft one. Where the softest is flat to second order, look around.
        lowest, softest = zip(*map(_softest, new["hessian"]), strict=True)
        step = size_of(new["x"])[:, None] * np.array(softest)

        def around(rows, h):
            ends = (new["x"][rows] + sign * h * step[rows] for sign in (1, -1))
            return np.minimum(*(self.look(net[rows], x)["speed"] for x in ends))

        lower = around(slice(None), 3e-3) < new["speed"] * (1 - 1e-12)
        minimum = candidate & (np.array(lowest) >= -1e-8) & ~lower
        # On a plateau nothing bends, near or far.
        bend = np.abs(new["hessian"]).max(axis=(1, 2)) * size_of(new["x"]) ** 2
        (flat,) = np.nonzero(minimum & (bend <= 1e-6 * new["speed"] ** 2))
        if len(flat):
            minimum[flat] = around(flat, 0.3) > new["speed"][flat] * (1 + 1e-6)
        return minimum

    def _chunks(self, polish, net, x, max_steps=None):
        max_steps = self.max_steps if max_steps is None else max_steps
        # Also with nothing to do: one padded chunk gives the shapes of the result.
        size = max(4, min(CHUNK, 2048 // x.shape[1]))
        pad = -len(x) % size if len(x) else size
        rows = np.concatenate([x, np.zeros((pad, x.shape[1]))])
        nets = np.concatenate([net, np.zeros(pad, int)])
        pieces = []
        for i in range(0, len(rows), size):
            if len(x) == 0:
                return _nothing(x.shape[1])
            chunk = self.problem.at(nets[i : i + size])
            with in_double(), _no_leaks():
                out = polish(
                    chunk,
                    self.scale[nets[i : i + size]],
                    rows[i : i + size],
                    self.tol,
                    self.tol_unique,
                    max_steps,
                )
                pieces.append({k: np.array(v) for k, v in out.items()})
        return {k: np.concatenate([p[k] for p in pieces])[: len(x)] for k in pieces[0]}


@contextlib.contextmanager
def _no_leaks():
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(
            "the system closes over arrays of a transformation that has ended (a "
            "closure under vmap or grad), expected one that holds them. Pass them "
            "through `args`, or make the system an equinox.Module."
        ) from error


def _is_singular_root(jac, f, x, rounding):
    """Whether f is pure rounding along the left null directions of the Jacobian, and
    the Newton step across the right ones is short."""
    eps = np.finfo(np.float64).eps
    # Equation by equation: the stiffest one must not excuse the softest.
    unit = np.asarray(row_units(jac))
    u, sigma, _ = np.linalg.svd(unit[:, None] * jac)
    null = sigma <= 1e-13 * max(sigma[0], 1e-300)
    noise = np.abs(u[:, null]).T @ (unit * rounding)
    # Computed null vectors hold a rounding of the other equations.
    noise = noise + 8 * eps * np.linalg.norm(unit * f)
    part = u.T @ (unit * f)
    step = np.linalg.norm(part[~null] / sigma[~null])
    rounded = null.any() and np.all(np.abs(part[null]) <= noise)
    return bool(rounded and step <= eps**0.5 * size_of(x))


def _nothing(size):
    none = np.zeros(0)
    square = np.zeros((0, size, size))
    return {
        "x": np.zeros((0, size)),
        "f": np.zeros((0, size)),
        "speed": none,
        "newton": none,
        "rounding": np.zeros((0, size)),
        "within": np.zeros(0, bool),
        "condition_bound": none,
        "gradient": none,
        "jac": square,
        "hessian": square,
        "kinked": np.zeros(0, bool),
        "num_steps": np.zeros(0, int),
        "verdict": np.zeros(0, int),
    }


@program
def _polish_roots(problem, scale, x, tol, tol_unique, max_steps):
    solver = LevenbergMarquardt()
    tols = Tolerances(x.dtype, x.shape[1], tol, tol_unique)

    def descend(problem, scale, x0):
        fn = _residual64(problem, scale, x0)

        def body(carry):
            x, state, num_steps, _, _ = carry
            x, state = solver.advance(fn, x, state)
            num_steps = num_steps + 1
            return x, state, num_steps, *judge(tols, x0, x, state, num_steps, max_steps)

        zero = jnp.zeros((), jnp.int32)
        carry = (x0, solver.start(x0), zero, max_steps <= 0, zero)
        x, _, num_steps, _, verdict = lax.while_loop(lambda c: ~c[3], body, carry)
        return {"x": x, "num_steps": num_steps, "verdict": verdict}

    found = jax.vmap(descend)(problem, scale, x)
    return found | _look_at(problem, scale, found["x"], max_steps >= 0)


@program
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
        hessian = jnp.where(jnp.isfinite(hessian), hessian, 0)
        return {"x": x, "gradient": norm(g), "hessian": hessian}

    found = jax.vmap(one)(problem, scale, x)
    return found | _look_at(problem, scale, found["x"], True)


def _look_at(problem, scale, x, closely):
    """Residual and Jacobian at every point, and `closely` what these say about it."""

    def one(point):
        problem, scale, x = point
        fn = _residual64(problem, scale, x)
        jac, f = jacobian(fn, x)
        rounding, within = rounding_of(fn, jac, f, x)
        unknown = jnp.full((), jnp.nan)
        (newton, bound), kinked = lax.cond(
            closely,
            lambda: (distance_to_root(fn, jac, f, x), _is_kink(fn, x)),
            lambda: ((unknown, unknown), jnp.asarray(False)),
        )
        return {
            "f": jnp.where(jnp.isfinite(f), f, 0),
            "speed": norm(f),
            "newton": newton,
            "rounding": rounding,
            "within": within,
            "condition_bound": bound,
            "kinked": kinked,
            "jac": jnp.where(jnp.isfinite(jac), jac, 0),
        }

    # Not `vmap`: branches stay branches, and few points need singular vectors.
    return lax.map(one, (problem, scale, x))


def _is_kink(fn, x):
    """Whether the Jacobian jumps at `x`, so that it says nothing about stability: by as
    much over an eighth of the distance. What changes smoothly, if fast, does not."""
    rng = np.random.default_rng(0)
    direction, *probes = rng.standard_normal((5, x.size))
    step = 1e-7 * jnp.maximum(1, norm(x)) * direction / np.linalg.norm(direction)

    def slopes(y):
        # A few products with the Jacobian show a jump; all of it costs more.
        _, tangent_of = jax.linearize(fn, y)
        return jax.vmap(tangent_of)(jnp.asarray(np.array(probes)))

    def jump(step):
        above, below = slopes(x + step), slopes(x - step)
        return jnp.max(jnp.abs(above - below)), 1e-3 * jnp.max(jnp.abs(above))

    far, noticeable = jump(step)
    return (far > noticeable) & (jump(step / 8)[0] > 0.5 * far)


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


def _softest(hessian):
    """Lowest eigenvalue of the Hessian with each coordinate scaled to its own
    curvature, and the direction that belongs to it."""
    curvature = np.abs(np.diag(hessian))
    floor = 1e-12 * max(np.abs(hessian).max(initial=0), 1e-300)
    scale = np.sqrt(np.maximum(curvature, floor))
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    direction = vectors[:, 0] * (scale.min() / scale)
    return values[0], direction / np.linalg.norm(direction)


def close(rows, point, tol):
    return length(rows - point) <= tol * size_of(point)


def length(rows):
    return np.linalg.norm(rows, axis=-1)


def size_of(rows):
    return np.maximum(1, length(rows))
