"""Fixed points and slow points of flows and maps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from .._core._masks import first_indices, norm, unique_mask
from .._core._system import is_map, residual_fn, time_scale_of
from .._core._types import KeyLike
from .._core._verdicts import Verdict
from ._implicit import attach
from ._linear import linearise, stability
from ._points import FixedPoints, Frozen
from ._search import Found, Tolerances, huge, run_lanes
from ._solver import LevenbergMarquardt
from ._starts import AbstractSampler, MultiStart


def fixed_points(
    system: Any,
    x0s: Any,
    args: PyTree = None,
    *,
    strategy: MultiStart | None = None,
    solver: LevenbergMarquardt | None = None,
    tol: Any = None,
    tol_unique: Any = None,
    max_steps: int = 128,
    lanes: int | None = None,
    time_scale: Any = None,
    key: KeyLike | None = None,
) -> FixedPoints:
    """Fixed points of a flow or a map, from many starts at once.

    Pure: works under `jit`, `vmap` (over networks) and `grad`, in the dtype of the
    starts. Every start gets a verdict; a start that did not converge is never a root.
    Roots are differentiable by the implicit function theorem in whatever `system` and
    `args` depend on, in forward and reverse mode.

    ```python
    pts = rnndyn.dynamics.fixed_points(lambda t, x, u: -x + jnp.tanh(W @ x), x0s)
    pts = rnndyn.dynamics.certify(pts)
    pts.roots(), pts.stability[pts.mask]
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` (taken at t = 0) or a `Map`. As under `jax.jit`,
        a plain callable is taken as unchanging: what may change goes into `args` or
        the arrays of an `equinox.Module`.
    - `x0s`: starting states, shape `(starts, state)`, or a sampler.
    - `args`: the input, held constant.
    - `strategy`: which starts to add; `MultiStart(num_large=0, rounds=0)` adds none.
    - `solver`: a `rnndyn.dynamics.LevenbergMarquardt`.
    - `tol`: largest scale-free speed |tau f| or |F(x) - x| of a root, relative to
        max(1, rms of x). Default max(1e-12, 8 eps sqrt(state size)).
    - `tol_unique`: distance, relative to max(1, |x|), below which two points are one.
        Default 1e-6 in float64 and 1e-3 in float32.
    - `max_steps`: steps per start; a start that needs more is `undetermined`.
    - `lanes`: how many starts run side by side. Default: a quarter of the starts, at
        most 64. A GPU prefers more.
    - `time_scale`: unit of time of a flow's speeds. Default: the system's own, else 1.
    - `key`: typed key for the added starts and for samplers. Default: a fixed key.

    **Returns:**

    `FixedPoints` with one slot per start, the added ones included: unique roots first,
    in the order of their starts, so that a single start decides the first slot. That
    the set of roots is complete is NOT guaranteed. Near a fold the derivative is
    ill-conditioned: see `condition`.

    **Reference:** D. Sussillo & O. Barak 2013, doi:10.1162/NECO_a_00409 (the question);
    for the method see `LevenbergMarquardt`.
    """
    return _search(
        system,
        x0s,
        args,
        wanted=(Verdict.root, Verdict.continuum),
        strategy=strategy,
        solver=solver,
        tol=tol,
        tol_unique=tol_unique,
        max_steps=max_steps,
        lanes=lanes,
        time_scale=time_scale,
        key=key,
    )


def slow_points(
    system: Any,
    x0s: Any,
    args: PyTree = None,
    **options: Any,
) -> FixedPoints:
    """Local minima of the speed, roots included.

    Arguments and result are those of `fixed_points`, but `mask` covers roots, slow
    points and ghosts. In-graph, a slow point is where the relative slope of the speed
    is below cbrt(eps); that it is a minimum rather than a saddle of the speed is
    decided by `certify`. Slow points carry no derivative.
    """
    wanted = (Verdict.root, Verdict.slow_point, Verdict.ghost, Verdict.continuum)
    return _search(system, x0s, args, wanted=wanted, **options)


# One program, cached: an eager call compiles once for each system and shape.
@eqx.filter_jit
def _search(
    system,
    x0s,
    args,
    *,
    wanted,
    strategy=None,
    solver=None,
    tol=None,
    tol_unique=None,
    max_steps=128,
    lanes=None,
    time_scale=None,
    key=None,
):
    strategy = MultiStart() if strategy is None else strategy
    solver = LevenbergMarquardt() if solver is None else solver
    if not isinstance(solver, LevenbergMarquardt):
        raise ValueError(
            f"`solver` is a {type(solver).__name__}, expected a "
            "rnndyn.dynamics.LevenbergMarquardt: searches run many solves in lanes."
        )
    if max_steps < 1:
        raise ValueError(f"`max_steps` = {max_steps}, expected at least 1.")
    key = jax.random.key(0) if key is None else key
    k_sample, k_large, k_rounds = jax.random.split(key, 3)
    if isinstance(x0s, AbstractSampler):
        x0s = x0s(system, args, key=k_sample)
    x0s = lax.stop_gradient(_check_starts(x0s))
    given, size = x0s.shape
    kind = "map" if is_map(system) else "flow"
    scale = time_scale_of(system) if time_scale is None else jnp.asarray(time_scale)

    residual = residual_fn(system, args, time_scale)
    _check_residual(residual, x0s[0])
    # The derivative lives in `fn` only; the search sees constants and is never
    # differentiated, even where the system closes over traced arrays.
    fn = eqx.filter_closure_convert(residual, x0s[0])
    frozen = jax.tree.map(lambda a: lax.stop_gradient(a) if eqx.is_array(a) else a, fn)
    tols = Tolerances(x0s.dtype, size, tol, tol_unique)

    num_large, per_round = strategy.sizes(given)
    normal = jax.random.normal(k_large, (num_large + 4, size), x0s.dtype)
    far, probes = strategy.spread(x0s) * normal[:-4], normal[-4:]
    later = jnp.zeros((strategy.rounds * per_round, size), x0s.dtype)
    starts = jnp.concatenate([x0s, far, later])
    starts, found = _rounds(
        frozen,
        solver,
        tols,
        strategy,
        starts,
        given,
        given + num_large,
        per_round,
        k_rounds,
        lanes,
        max_steps,
    )
    starts, found = _close(frozen, tols, strategy, starts, found, probes)

    # Unique roots first, in the order of their starts (their speeds are rounding, and
    # the given starts should decide which root stands in the first slot), then unique
    # slow points by speed, then all others.
    is_root = found.verdict == Verdict.root
    is_slow = found.verdict == Verdict.slow_point
    speed = jnp.where(is_root, 0, found.speed)
    order = jnp.lexsort((speed, ~is_slow, ~is_root))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    starts, found = take(starts), take(found)
    is_root, is_slow = take(is_root), take(is_slow)
    # Roots come first: a slow point close to one is not a point of its own.
    unique = unique_mask(found.x, is_root | is_slow, tols.unique)
    speed = jnp.where(is_root, 0, found.speed)
    order = jnp.lexsort((speed, ~(unique & is_slow), ~(unique & is_root)))
    starts, found, unique = take(starts), take(found), unique[order]

    is_root = found.verdict == Verdict.root
    x = attach(fn, found.x, is_root & unique)
    shift = 1 if kind == "map" else 0
    linear = linearise(fn, x, unique, shift)
    # Where the Jacobian says that the root may be far away, it is not one yet.
    sizes = jax.vmap(lambda y: jnp.maximum(1, norm(y)))(found.x)
    doubtful = linear.newton > tols.step * sizes
    verdict = jnp.where(
        is_root & unique & doubtful, int(Verdict.undetermined), found.verdict
    )
    unique = unique & (verdict == found.verdict)

    unit = jnp.asarray(1.0 if kind == "map" else scale, x0s.dtype)
    values = linear.eigenvalues / unit
    tol_margin = tols.step
    code, margin = stability(values, kind=kind, time_scale=unit, tol=tol_margin)
    return FixedPoints(
        x=x,
        x_init=starts,
        speed=_speed(fn, found, is_root),
        eigenvalues=values,
        verdict=verdict,
        unique=unique,
        stability=jnp.where(unique, code, 0),
        margin=jnp.where(unique, margin, 0),
        condition=linear.condition,
        time_scale=jnp.asarray(scale, x0s.dtype),
        problem=Frozen(system, args),
        stats={"num_steps": found.num_steps},
        kind=kind,
        wanted=wanted,
        certified=False,
    )


def _rounds(
    fn, solver, tols, strategy, starts, given, first, per_round, key, lanes, max_steps
):
    """The given and large starts, then `rounds` blocks of combinations of roots."""
    slots = starts.shape[0]
    if lanes is None:
        lanes = min(64, max(1, first // 4))
    pool = min(slots, 128)

    def one_round(r, carry):
        starts, found = carry
        if per_round:
            ranked = jnp.argsort(found.speed)
            is_root = found.verdict[ranked] == Verdict.root
            distinct = unique_mask(found.x[ranked], is_root, tols.unique)
            index, real = first_indices(distinct, pool)
            block = strategy.combine(
                found.x[ranked][index],
                jnp.sum(real),
                starts[:given],
                per_round,
                jax.random.fold_in(key, r),
            )
            # Round 0 runs what is there already; it writes its block where round 1
            # will overwrite it.
            where = first + jnp.maximum(r - 1, 0) * per_round
            starts = lax.dynamic_update_slice(starts, block, (where, 0))
            found = eqx.tree_at(
                lambda t: t.x,
                found,
                lax.dynamic_update_slice(found.x, block, (where, 0)),
            )
        r = jnp.asarray(r, jnp.int32)
        begin = jnp.where(r == 0, 0, first + (r - 1) * per_round)
        end = first + r * per_round
        found = run_lanes(
            fn,
            solver,
            tols,
            starts,
            found,
            begin,
            end,
            lanes=lanes,
            max_steps=max_steps,
        )
        return starts, found

    carry = (starts, Found.empty(starts))
    if not strategy.rounds:
        return one_round(jnp.asarray(0), carry)
    return lax.fori_loop(0, strategy.rounds + 1, one_round, carry)


def _close(fn, tols, strategy, starts, found, probes):
    """Append the images of the roots under the symmetries, judged like any root."""
    maps: list[Callable] = [jax.vmap(g) for g in strategy.symmetries]
    size = min(starts.shape[0], 128)
    ranked = jnp.argsort(found.speed)
    is_root = found.verdict[ranked] == Verdict.root
    distinct = unique_mask(found.x[ranked], is_root, tols.unique)
    index, real = first_indices(distinct, size)
    roots, steps = found.x[ranked][index], found.num_steps[ranked][index]
    valid = [real] * len(maps)
    if strategy.detect_odd:
        maps.append(lambda x: -x)
        valid.append(real & strategy.is_odd(fn, probes))
    for image, ok in zip(maps, valid, strict=True):
        x = jnp.where(ok[:, None], image(roots), 0)
        speed = jax.vmap(lambda y: norm(fn(y)))(x)
        good = ok & (speed <= jax.vmap(tols.speed_at)(x))
        verdict = jnp.where(good, int(Verdict.root), int(Verdict.lost))
        speed = jnp.where(good, speed, huge(x.dtype))
        rows = Found(x, speed, verdict.astype(jnp.int32), steps)
        join = lambda a, b: jnp.concatenate([a, b])
        starts, found = join(starts, x), jax.tree.map(join, found, rows)
    return starts, found


def _speed(fn, found, is_root):
    # At a minimum of the speed its derivative is the partial one (envelope theorem);
    # at a root it does not exist and is 0 here.
    live = jax.vmap(lambda y: norm(fn(y)))(found.x)
    moving = ~is_root & (found.verdict != Verdict.lost) & jnp.isfinite(live)
    return jnp.where(moving, jnp.where(moving, live, 0), found.speed)


def _check_starts(x0s: Any) -> Array:
    if not eqx.is_array_like(x0s):
        raise ValueError(
            f"`x0s` is a {type(x0s).__name__}, expected an array (starts, state) or a "
            "sampler. Nested states: `jax.flatten_util.ravel_pytree` them first."
        )
    x0s = jnp.asarray(x0s)
    if x0s.ndim != 2 or x0s.shape[0] == 0 or x0s.shape[1] == 0:
        raise ValueError(
            f"`x0s` has shape {x0s.shape}, expected (starts, state). Pass one start as "
            "x0[None]; batch over networks with `equinox.filter_vmap`."
        )
    if not jnp.issubdtype(x0s.dtype, jnp.floating):
        raise ValueError(f"`x0s` has dtype {x0s.dtype}, expected a floating-point one.")
    return x0s


def _check_residual(residual: Callable, x: Array) -> None:
    out = jax.eval_shape(residual, x)
    if not isinstance(out, jax.ShapeDtypeStruct) or out.shape != x.shape:
        got = jax.tree.map(lambda a: a.shape, out)
        raise ValueError(
            f"The system returns {got} for a state of shape {x.shape}, expected the "
            "same shape. Vectorise nested states with `jax.flatten_util.ravel_pytree`."
        )
    if out.dtype != x.dtype:
        raise ValueError(
            f"The system returns {out.dtype} for a state of {x.dtype}. Cast the starts "
            f"with x0s.astype(jnp.{out.dtype}), or the system's arrays: one dtype "
            "throughout."
        )
