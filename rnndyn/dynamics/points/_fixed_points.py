"""Fixed points and slow points of flows and maps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from ..._core._checks import check_counts, check_key, is_concrete
from ..._core._closures import capture, freeze, program
from ..._core._masks import near_kept, norm, unique_mask
from ..._core._system import is_map, residual_fn, time_scale_of
from ..._core._types import KeyLike
from ..._core._verdicts import Verdict
from .._implicit import SpeedSlope, attach
from .._linear import linearise, stability
from .._states import (
    as_arrays,
    check_number,
    check_residual,
    check_starts,
    check_time_scale,
    check_tolerances,
    flatten_states,
)
from ._points import FixedPoints, Frozen
from ._rounds import Rounds
from ._search import Tolerances
from ._solver import LevenbergMarquardt, check_solver
from ._starts import AbstractSampler
from ._strategies import as_strategies


STALL = 1e-1
"""Relative slope of the speed at which a start without a root in sight is given up."""


def fixed_points(
    system: Any,
    x0s: Any,
    args: PyTree = None,
    *,
    strategy: Any = None,
    solver: LevenbergMarquardt | None = None,
    tol: Any = None,
    tol_unique: Any = None,
    max_steps: int = 128,
    lanes: int | None = None,
    time_scale: Any = None,
    spectrum: bool | None = None,
    slow: bool = True,
    unseen: Any = None,
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
    - `x0s`: starting states, shape `(starts, state)`, or a sampler. States may also be
        arrays of more dimensions or pytrees: every leaf has the leading axis of
        starts, and the system takes and returns one such state. The result is flat;
        `states(points)` gives it back in that form. Lengths are relative to
        max(1, |x|): where sizes differ by more than 1e4, as of mol/l beside mV, scale
        the variables, or many starts end `undetermined`.
    - `args`: the input, held constant. Under `equinox.filter_vmap` it may have an
        axis of its own (shared starts), or share one with `x0s` (start and input in
        pairs); roots are differentiable in it. Python floats become arrays, so that
        another value compiles nothing.
    - `strategy`: which starts to add: a `MultiStart` (the default), `Deflation` or
        `NoisyRestarts`, or a tuple of these, whose rounds run one after the other.
        `MultiStart(num_large=0, rounds=0)` adds none.
    - `solver`: a `rnndyn.dynamics.LevenbergMarquardt`. Default: that, from 48 unknowns
        on after steps in Krylov spaces, which need no Jacobian: they suffice where it
        is a multiple of the identity and something of low rank, as in low-rank and
        many trained networks.
    - `tol`: largest scale-free speed |tau f| or |F(x) - x| of a root, relative to
        max(1, rms of x). Default max(1e-12, 8 eps sqrt(state size)).
    - `tol_unique`: distance, relative to max(1, |x|), below which two points are one;
        closer roots are reported as the first of them. Default 1e-6 in float64 and
        1e-3 in float32.
    - `max_steps`: steps per start; a start that needs more is `undetermined`.
    - `lanes`: how many starts run side by side. Default: a quarter of the starts, at
        most 64, on a CPU fewer for large states. A GPU prefers more.
    - `time_scale`: unit of time of a flow's speeds. Default: the system's own, else 1.
    - `spectrum`: whether to compute eigenvalues. Default: where the default backend
        can (CPUs and GPUs). Without them `eigenvalues` and `margin` of the points
        found are NaN and `stability` is 0 until `certify` computes them.
    - `slow`: whether to follow starts to slow points. Without, a start that comes to
        rest where nothing is a root is given up early, as `lost`: fewer steps where
        slow points abound.
    - `unseen`: give up the rest of the given starts once the chance that another one
        ends at a root not seen is below this, by the 95 % interval of
        `FixedPoints.coverage` (.02: after 150 starts at the least). They are `lost`,
        with 0 steps. Default: all starts run.
    - `key`: typed key for the added starts and for samplers. Default: a fixed key.

    **Returns:**

    `FixedPoints` with one slot per start, the added ones included: unique roots first,
    in the order of their starts, so that a single start decides the first slot. That
    the set of roots is complete is NOT guaranteed. Near a fold the derivative is
    ill-conditioned: see `condition`.

    A root is more than a small speed: Newton's method must contract there, or f change
    sign along its softest direction. So a fold that has just vanished is
    `undetermined`, and so is a double root, and a tail like exp(-x^2) where f
    underflows; an f that is 0 at every float tried is taken as 0.

    **Reference:** D. Sussillo & O. Barak 2013, doi:10.1162/NECO_a_00409 (the question);
    for the method see `LevenbergMarquardt`.
    """
    # As far as these are known; NumPy's whole numbers would be traced.
    check_solver(solver)
    check_tolerances(tol=tol, tol_unique=tol_unique)
    check_counts(max_steps=max_steps)
    if lanes is not None:
        check_counts(lanes=lanes)
    check_time_scale(time_scale)
    if unseen is not None:
        check_number("unseen", unseen, "Leave it out to run all starts.")
        if is_concrete(unseen) and unseen >= 1:
            raise ValueError(
                f"`unseen` = {unseen}, expected a chance between 0 and 1, e.g. .02: "
                "one more start of fifty may find a new root."
            )
    if key is not None:
        check_key(key)
    return _program(
        system,
        x0s,
        as_arrays(args, x0s),
        strategy=strategy,
        solver=solver,
        tol=tol,
        tol_unique=tol_unique,
        max_steps=int(max_steps),
        lanes=None if lanes is None else int(lanes),
        time_scale=time_scale,
        spectrum=spectrum,
        slow=slow,
        unseen=unseen,
        key=jax.random.key(0) if key is None else key,
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
    decided by `certify`. Position and speed of a slow point are differentiable; their
    accuracy is that of the minimum (`ghost_passage` polishes it first).
    """
    if not options.get("slow", True):
        raise ValueError(
            "`slow` = False gives slow points up, expected True. Search roots alone "
            "with `fixed_points(..., slow=False)`."
        )
    found = fixed_points(system, x0s, args, **options)
    wanted = (Verdict.root, Verdict.slow_point, Verdict.ghost, Verdict.continuum)
    return dataclasses.replace(found, wanted=wanted)


# One program, cached: an eager call compiles once for each system and shape.
@program
def _program(
    system,
    x0s,
    args,
    *,
    strategy,
    solver,
    tol,
    tol_unique,
    max_steps,
    lanes,
    time_scale,
    spectrum,
    slow,
    unseen,
    key,
):
    k_sample, k_large, k_rounds, k_probes = jax.random.split(key, 4)
    if isinstance(x0s, AbstractSampler):
        x0s = x0s(system, args, key=k_sample)
    system, x0s = flatten_states(system, x0s)
    x0s = lax.stop_gradient(check_starts(x0s))
    size = x0s.shape[1]
    kind = "map" if is_map(system) else "flow"
    scale = time_scale_of(system) if time_scale is None else jnp.asarray(time_scale)

    residual = residual_fn(system, args, time_scale)
    check_residual(residual, x0s[0])
    # The derivative lives in `fn` only; the search sees constants and is never
    # differentiated, even where the system closes over traced arrays.
    fn = capture(residual, x0s[0])
    frozen = freeze(fn)
    tols = Tolerances(x0s.dtype, size, tol, tol_unique, 0.0 if slow else STALL)

    strategies = as_strategies(strategy)
    rounds = Rounds(frozen, solver, tols, strategies, lanes, max_steps, unseen)
    starts, found = rounds.run(x0s, k_large, k_rounds)
    num_given = x0s.shape[0]
    probes = jax.random.normal(k_probes, (4, size), x0s.dtype)
    starts, found = rounds.close(starts, found, probes)

    # Unique roots first, in the order of their starts (their speeds are rounding, and
    # the given starts should decide which root stands in the first slot), then unique
    # slow points by speed, then all others.
    is_root = found.verdict == Verdict.root
    is_slow = found.verdict == Verdict.slow_point
    speed = jnp.where(is_root, 0, found.speed)
    order = jnp.lexsort((speed, ~is_slow, ~is_root))
    given = order < num_given
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    starts, found = take(starts), take(found)
    is_root, is_slow = take(is_root), take(is_slow)
    # Roots come first: a slow point close to one is not a point of its own.
    unique = unique_mask(found.x, is_root | is_slow, tols.unique)
    speed = jnp.where(is_root, 0, found.speed)
    order = jnp.lexsort((speed, ~(unique & is_slow), ~(unique & is_root)))
    starts, found, unique = take(starts), take(found), unique[order]
    given = given[order]

    is_root = found.verdict == Verdict.root
    x = attach(fn, found.x, is_root & unique)
    x = attach(SpeedSlope(fn), x, (found.verdict == Verdict.slow_point) & unique)
    shift = 1 if kind == "map" else 0
    if spectrum is None:
        # Nonsymmetric eigenvalues exist for CPU, CUDA and ROCm only (jax 0.10).
        spectrum = jax.default_backend() in ("cpu", "gpu")
    linear = linearise(fn, x, unique, shift, spectrum)
    # Where the Jacobian says that the root may be far away, it is not one yet.
    sizes = jax.vmap(lambda y: jnp.maximum(1, norm(y)))(found.x)
    doubtful = linear.newton > tols.step * sizes
    certain = is_root & unique & ~doubtful
    # A duplicate of a doubtful root is no more certain than that.
    alone = is_root & ~near_kept(found.x, certain, tols.unique)
    verdict = jnp.where(alone, int(Verdict.undetermined), found.verdict)
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
        stability=jnp.where(unique & ~jnp.isnan(margin), code, 0),
        margin=jnp.where(unique, margin, 0),
        condition=linear.condition,
        time_scale=jnp.asarray(scale, x0s.dtype),
        problem=Frozen(system, args),
        stats={"num_steps": found.num_steps, "given": given},
        kind=kind,
        wanted=(Verdict.root, Verdict.continuum),
        certified=False,
    )


def _speed(fn, found, is_root):
    # At a minimum of the speed its derivative is the partial one (envelope theorem);
    # at a root it does not exist and is 0 here.
    live = jax.vmap(lambda y: norm(fn(y)))(found.x)
    moving = ~is_root & (found.verdict != Verdict.lost) & jnp.isfinite(live)
    return jnp.where(moving, jnp.where(moving, live, 0), found.speed)
