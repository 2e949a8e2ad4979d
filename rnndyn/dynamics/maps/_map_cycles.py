"""Periodic orbits of maps by multiple shooting."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from ..._core._checks import check_count
from ..._core._closures import capture, freeze, program
from ..._core._export import Result
from ..._core._masks import after, norm
from ..._core._system import Map
from ..._core._verdicts import Verdict
from .._implicit import attach
from .._linear import distance_to_root
from .._states import as_arrays, as_states, check_tolerances
from ..cycles._floquet import floquet
from ..points._search import Found, Tolerances, run_lanes
from ..points._solver import LevenbergMarquardt, check_solver


class KCycles(Result):
    """The result of a search for k-cycles of a map, two slots per start.

    Distinct cycles of minimal period k come first, then distinct ones of a divisor of
    k, then fixed points, then the rest. Empty places hold finite numbers.

    **Attributes:**

    - `x`: the points of each cycle in order, shape `(slots, k, state)`; differentiable
        where `unique`. Cycles of a divisor of k are repeated.
    - `x_init`: the start of each slot.
    - `residual`: norm of F(x_t) - x_(t+1) over the cycle.
    - `period`: minimal period, 0 where nothing was found.
    - `verdict`: `k_cycle`; `constant` for a fixed point; `lost`, where the search
        stopped at a minimum of the residual; `diverged`; `undetermined`.
    - `unique`: the first slot of every distinct orbit, whatever its phase.
    - `multipliers`: eigenvalues of dF^p over the minimal period p, modulus descending,
        and `log_multipliers`, which do not underflow; at unique orbits, 0 elsewhere.
        Differentiable.
    - `stability`: -1 stable, 1 unstable, 0 undecided; `margin`: largest log modulus.
    - `num_steps`: steps of the solver.
    """

    x: Float[Array, "slots k state"]
    x_init: Float[Array, "slots state"]
    residual: Float[Array, " slots"]
    period: Int[Array, " slots"]
    verdict: Int[Array, " slots"]
    unique: Bool[Array, " slots"]
    multipliers: Complex[Array, "slots state"]
    log_multipliers: Complex[Array, "slots state"]
    stability: Int[Array, " slots"]
    margin: Float[Array, " slots"]
    num_steps: Int[Array, " slots"]
    k: int = eqx.field(static=True)
    kind: str = eqx.field(static=True, default="map")

    def headline(self) -> str:
        """Distinct cycles of minimal period k, and stable ones."""
        mask = np.asarray(self.mask)
        stable = np.sum(mask & (np.asarray(self.stability) == -1))
        return f"{np.sum(mask)} cycles of period {self.k} ({stable} stable)"

    @property
    def mask(self) -> Bool[Array, " slots"]:
        """Slots that hold, once each, the cycles of minimal period k."""
        found = (self.verdict == Verdict.k_cycle) | (self.verdict == Verdict.constant)
        return self.unique & found & (self.period == self.k)


def k_cycles(
    system: Any,
    x0s: Any,
    k: int,
    args: PyTree = None,
    *,
    solver: LevenbergMarquardt | None = None,
    tol: Any = None,
    tol_unique: Any = None,
    max_steps: int = 128,
    lanes: int | None = None,
    settled: int = 256,
) -> KCycles:
    """Cycles of period `k` of a map, stable or not, from many starts.

    Levenberg-Marquardt on all `k` points at once (multiple shooting), from the `k`
    states that follow each start, and from those that follow it after a while, when a
    stable cycle has drawn the orbit in. Pure: works under `jit`, `vmap` and `grad`;
    cycles and multipliers are differentiable by the implicit function theorem, in both
    modes.

    ```python
    logistic = rd.Map(lambda x, r: r * x * (1 - x))
    found = rd.dynamics.k_cycles(logistic, x0s, 3, jnp.array(3.83))
    found.x[found.mask], found.multipliers[found.mask]
    ```

    **Arguments:**

    - `system`: a `Map`; `args`: its input, held constant.
    - `x0s`: starts, shape `(starts, state)`.
    - `k`: the period, at least 1.
    - `solver`, `max_steps`, `lanes`: as in `fixed_points`.
    - `settled`: steps after which a start is taken a second time; with 0 there is
        one slot per start.
    - `tol`: largest residual, relative to max(1, rms of the points).
    - `tol_unique`: distance, relative to max(1, |x|), below which two points are one;
        default 1e-6 in float64 and 1e-3 in float32. It also decides whether a cycle
        has a smaller period.

    **Returns:** `KCycles`. Not guaranteed: that all cycles are found.

    **Raises:** a `ValueError` for a flow, or a start of the wrong shape.
    """
    if not isinstance(system, Map):
        raise ValueError(
            f"k_cycles got a {type(system).__name__}, expected a rnndyn.Map. For a "
            "flow use rnndyn.dynamics.limit_cycle."
        )
    axes = ("starts", "state")
    args = as_arrays(args, x0s)
    x0s = as_states("x0s", x0s, axes, "Pass one start as x0[None].", system, args)
    check_count("k", k)
    check_count("max_steps", max_steps)
    check_count("settled", settled, least=0)
    if lanes is not None:
        check_count("lanes", lanes)
    check_tolerances(tol=tol, tol_unique=tol_unique)
    check_solver(solver)
    counts = (k, max_steps, settled)
    return _search(system, x0s, args, solver, tol, tol_unique, lanes, *counts)


@program
def _search(system, x0s, args, solver, tol, tol_unique, lanes, k, max_steps, settled):
    slots, size = x0s.shape
    x0s = lax.stop_gradient(x0s)

    def residual(flat):
        x = flat.reshape(k, size)
        return (jax.vmap(lambda x: system(x, args))(x) - jnp.roll(x, -1, 0)).ravel()

    fn = capture(residual, jnp.zeros(k * size, x0s.dtype))
    frozen = freeze(fn)
    held, held_args = freeze((system, args))
    step = lambda x: _bounded(held, x, held_args)
    if settled:
        later = jax.vmap(lambda x: lax.fori_loop(0, settled, lambda _, x: step(x), x))
        x0s = jnp.concatenate([x0s, later(x0s)])
        slots = 2 * slots
    states = lambda x: lax.scan(lambda x, _: (step(x), x), x, None, length=k)[1]
    starts = jax.vmap(lambda x: states(x).ravel())(x0s)
    tols = Tolerances(x0s.dtype, k * size, tol, tol_unique)
    found = run_lanes(
        frozen,
        solver,
        tols,
        starts,
        Found.empty(starts),
        jnp.zeros((), jnp.int32),
        jnp.asarray(slots, jnp.int32),
        lanes=min(64, max(1, slots // 4)) if lanes is None else lanes,
        max_steps=max_steps,
    )
    orbits = found.x.reshape(slots, k, size)
    is_root = found.verdict == Verdict.root
    period = jax.vmap(lambda x: _minimal_period(x, tols.unique))(orbits)
    order = jnp.lexsort((-period, ~is_root))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    found, orbits, period, x0s, is_root = take((found, orbits, period, x0s, is_root))
    unique = _unique_orbits(orbits, is_root, tols.unique)

    x = attach(fn, found.x, is_root & unique)
    doubtful, logs, values = _linear(system, args, frozen, x, period, unique, k)
    doubtful = unique & (doubtful > tols.step * jnp.maximum(1, _norms(found.x)))
    unique = unique & ~doubtful
    verdict = jnp.where(is_root, int(Verdict.k_cycle), found.verdict)
    verdict = jnp.where(is_root & (period == 1), int(Verdict.constant), verdict)
    lost = found.verdict == Verdict.slow_point
    verdict = jnp.where(lost, int(Verdict.lost), verdict)
    verdict = jnp.where(doubtful, int(Verdict.undetermined), verdict)
    # A duplicate of a doubtful orbit is no more certain than that.
    known = _near_any(orbits, unique, tols.unique)
    verdict = jnp.where(is_root & ~known, int(Verdict.undetermined), verdict)
    margin = jnp.where(unique, jnp.max(logs.real, axis=1), 0)
    decided = jnp.abs(margin) > tols.step
    order = jnp.lexsort((-period, ~is_root, ~unique))
    take = lambda a: a[order]
    return KCycles(
        x=take(x.reshape(slots, k, size)),
        x_init=take(x0s),
        residual=take(found.speed),
        period=take(jnp.where(is_root & known, period, 0)),
        verdict=take(verdict.astype(jnp.int32)),
        unique=take(unique),
        multipliers=take(values),
        log_multipliers=take(logs),
        stability=take(jnp.where(decided, jnp.sign(margin), 0).astype(jnp.int32)),
        margin=take(margin),
        num_steps=take(found.num_steps),
        k=k,
    )


def _bounded(system, x, args):
    """One step; no step where it would leave every bound."""
    new = system(x, args)
    return jnp.where(norm(new) <= 1e3 * jnp.maximum(1, norm(x)), new, x)


def _norms(x):
    return jax.vmap(norm)(x)


def _minimal_period(x, tol):
    """The smallest divisor of k by which the orbit may be shifted."""
    k = x.shape[0]
    size = jnp.maximum(1, jnp.max(_norms(x)))
    period = jnp.asarray(k, jnp.int32)
    for p in sorted((d for d in range(1, k) if k % d == 0), reverse=True):
        gap = jnp.max(_norms(jnp.roll(x, -p, axis=0) - x))
        period = jnp.where(gap <= tol * size, p, period)
    return period


def _distances(orbits, one):
    """Distance of every orbit from `one`, over all phases."""

    def phase(shift, best):
        gaps = orbits - jnp.roll(one, -shift, axis=0)[None]
        largest = jnp.max(jnp.sqrt(jnp.sum(gaps**2, axis=2)), axis=1)
        return jnp.minimum(best, largest)

    start = jnp.full(orbits.shape[0], jnp.inf, orbits.dtype)
    return lax.fori_loop(0, one.shape[0], phase, start)


def _unique_orbits(orbits, candidates, tol):
    """The first of every group of candidates that are one orbit."""
    index = jnp.arange(candidates.size)

    def body(carry):
        open_, kept = carry
        i = jnp.argmax(open_)
        reach = tol * jnp.maximum(1, jnp.max(_norms(orbits[i])))
        near = _distances(orbits, orbits[i]) <= reach
        return open_ & ~near & (index != i), kept | (index == i)

    start = (candidates, jnp.zeros_like(candidates))
    return lax.while_loop(lambda c: jnp.any(c[0]), body, start)[1] & candidates


def _near_any(orbits, kept, tol):
    """Whether an orbit is one of the kept ones."""

    def body(i, near):
        reach = tol * jnp.maximum(1, jnp.max(_norms(orbits[i])))
        return near | (kept[i] & (_distances(orbits, orbits[i]) <= reach))

    return lax.fori_loop(0, kept.size, body, jnp.zeros_like(kept))


def _linear(system, args, fn, x, period, select, k):
    """Newton step and multipliers of the selected rows, at the cost of these only."""
    size = x.shape[1] // k
    kind = jnp.result_type(x.dtype, jnp.complex64)

    def work(x, period):
        point = lax.stop_gradient(x)
        step, _ = distance_to_root(fn, jax.jacfwd(fn)(point), fn(point), point)
        jacobian = jax.jacfwd(lambda x: system(x, args))
        # Beyond one minimal period the product goes on with identities. LAPACK calls
        # in turn, see `after`.
        jacobians = after(step, jax.vmap(jacobian)(x.reshape(k, size)))
        inside = (jnp.arange(k) < period)[:, None, None]
        jacobians = jnp.where(inside, jacobians, jnp.eye(size, dtype=x.dtype)[None])
        spectrum = floquet(jacobians)
        logs = spectrum.log_multipliers.astype(kind)
        # A superstable cycle has a multiplier 0, which only the product shows.
        product = _product_eigenvalues(after(spectrum.uncertainty, jacobians))
        alive = product != 0
        smallest = math.log(jnp.finfo(x.dtype).tiny)
        plain = jnp.where(alive, jnp.log(jnp.where(alive, product, 1)), smallest)
        regular = jnp.all(jnp.isfinite(lax.stop_gradient(logs)))
        logs = jnp.where(regular, logs, plain)
        values = jnp.where(regular, jnp.exp(logs), product)
        order = jnp.lexsort(
            (-lax.stop_gradient(logs.imag), -lax.stop_gradient(logs.real))
        )
        return step, logs[order], values[order]

    def skip(x, period):
        nothing = jnp.zeros(size, kind)
        return jnp.zeros((), x.dtype), nothing, nothing

    row = lambda r: lax.cond(r[2], work, skip, r[0], r[1])
    return lax.map(row, (x, period, select))


def _product_eigenvalues(jacobians):
    def step(product, a):
        return a @ product, None

    eye = jnp.eye(jacobians.shape[1], dtype=jacobians.dtype)
    product = lax.scan(step, eye, jacobians)[0]
    return jnp.linalg.eigvals(jnp.where(jnp.isfinite(product), product, 0))
