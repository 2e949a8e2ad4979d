"""Ghosts of saddle-nodes: null vectors, drift, curvature and predicted passage time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float, Int, PyTree

from ..._core._batch import in_double
from ..._core._closures import capture, freeze, program
from ..._core._export import Result
from ..._core._masks import after, norm
from ..._core._system import is_map, residual_fn, time_scale_of
from ..._core._verdicts import Verdict
from .._implicit import SpeedSlope, attach
from .._linear import distance_to_root
from .._states import as_arrays, as_states, check_time_scale
from ..points._certify import certify
from ..points._points import FixedPoints, Values
from ..points._search import Tolerances
from ..points._solver import LevenbergMarquardt
from ._saddle_node import is_saddle_node


class Ghost(Result):
    """A slow point as what a saddle-node leaves behind, per unit of time.

    Along the null direction the flow is s' = drift + curvature s^2, which has no root
    if drift * curvature > 0. After `ghosts` every array has a leading axis of points.

    **Attributes:**

    - `x`: the local minimum of the speed, shape `(state,)`. `speed`: scale-free.
    - `eigenvalue`: the one nearest 0 (of dF/dx - 1 for a map); at a minimum of the
        speed that is not a root the Jacobian is singular, so it is 0 to rounding.
    - `next_eigenvalue`: the one second to it; infinite for a single state variable.
    - `right`: null vector v of the Jacobian, of length 1, pointing downstream.
    - `left`: left null vector w with w.v = 1; it is parallel to f.
    - `drift`: w.f(x), along v. `curvature`: w.D2f(x)[v, v] / 2.
    - `passage_time`: pi / sqrt(drift curvature): the time from far before to far
        behind, to leading order in the drift; infinite if the product is not positive.
    - `gap`: |next eigenvalue| / (2 sqrt(drift curvature)). Above 1 the null direction
        is still the slowest one at the ends of the bottleneck, where its own
        eigenvalue is +-2 sqrt(drift curvature).
    - `condition`: |w| |v|, the condition number of the null eigenvalue.
    - `verdict`: `ghost`; `slow_point` if the speed is minimal but this is no
        saddle-node's ghost; `root`; `undetermined` if the speed is not minimal,
        or that of a root without a root nearby.
    """

    x: Float[Values, "*points state"]
    speed: Float[Values, "*points"]
    eigenvalue: Float[Values, "*points"]
    next_eigenvalue: Complex[Values, "*points"]
    right: Float[Values, "*points state"]
    left: Float[Values, "*points state"]
    drift: Float[Values, "*points"]
    curvature: Float[Values, "*points"]
    passage_time: Float[Values, "*points"]
    gap: Float[Values, "*points"]
    condition: Float[Values, "*points"]
    verdict: Int[Values, "*points"]

    def headline(self) -> str:
        """Verdicts and passage times."""
        codes, times = np.ravel(self.verdict), np.ravel(self.passage_time)
        rows = [
            f"{Verdict(int(c)).name} ({t:.4g})"
            for c, t in zip(codes, times, strict=True)
        ]
        return ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")


def ghost_passage(
    system: Any,
    x: Float[Array, "..."],
    args: PyTree = None,
    *,
    time_scale: Any = None,
) -> Ghost:
    """The ghost at a slow point, and how long a trajectory takes to pass it.

    Moves `x` to the local minimum of the speed by Newton's method, then reads off the
    normal form of the saddle-node. Pure; all fields but `next_eigenvalue`, `gap`,
    `condition` and `verdict` are differentiable in whatever `system` and `args` depend
    on, in both modes, the change of the minimum included.

    ```python
    f = lambda t, x, mu: jnp.stack([mu + x[0] ** 2, -x[1]])
    ghost = ghost_passage(f, jnp.array([0.1, 0.2]), 1e-4)
    ghost.passage_time                                  # pi / sqrt(mu) = 314.159...
    jax.grad(lambda mu: ghost_passage(f, x, mu).passage_time)(1e-4)
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` (taken at t = 0) or a `Map`.
    - `x`: a slow point or a guess near one, shape `(state,)`.
    - `args`: the input, held constant.
    - `time_scale`: unit of time of a flow's speed. Default: the system's own, else 1.

    **Returns:**

    A `Ghost`; look at its `verdict`. The passage time is that of the normal form on
    the whole line (in steps for a map): its error is of the order of the time spent
    outside the bottleneck. For the time along the actual flow see `passage_time`. Not
    guaranteed: that no root is near; `certify` looks for one.

    **Raises:** a `ValueError` if `x` is not one floating-point state.

    **Reference:** S. Strogatz & R. Westervelt 1989, doi:10.1103/PhysRevB.40.10501.
    """
    remedy = "Use `jax.vmap` for several, or `ghosts` for the result of a search."
    args = as_arrays(args, x)
    x = as_states("x", x, ("state",), remedy, system, args)
    check_time_scale(time_scale)
    return _ghost_passage(system, x, args, time_scale)


def ghosts(points: FixedPoints) -> Ghost:
    """The certified ghosts among the results of a search. Host level, one network.

    Certifies first if need be, and computes in float64.

    ```python
    found = certify(slow_points(f, x0s, args))
    passing = ghosts(found)
    passing.x, passing.drift, passing.passage_time      # a row a ghost, slowest first
    ```

    **Arguments:** `points`: result of `slow_points`, of one network.

    **Returns:** a `Ghost` whose numpy arrays have a leading axis of ghosts, by rising
    speed; it may have length 0. Slow points that are no ghosts are left out.

    **Raises:** a `ValueError` for points of several networks.
    """
    if not isinstance(points, FixedPoints):
        raise ValueError(
            f"`ghosts` got a {type(points).__name__}, expected the result of "
            "`slow_points`. At a state of your own use `ghost_passage`."
        )
    points = points if points.certified else certify(points)
    if points.x.ndim != 2:
        raise ValueError(
            f"`ghosts` got points of {points.x.shape[:-2]} networks, expected one. "
            "Pick network i with jax.tree.map(lambda a: a[i], points)."
        )
    chosen = np.asarray(points.unique) & (np.asarray(points.verdict) == Verdict.ghost)
    # At least one row, so that nothing special happens where there is nothing.
    rows = np.concatenate([np.asarray(points.x)[chosen], np.zeros_like(points.x[:1])])
    with in_double():
        out = _rows(points.problem, jnp.asarray(points.time_scale), jnp.asarray(rows))
        out = jax.tree.map(lambda a: np.array(a)[:-1], out)
    code = np.full(len(rows) - 1, int(Verdict.ghost), np.int32)
    return eqx.tree_at(lambda g: g.verdict, out, code)


@program
def _rows(problem, scale, rows):
    system, args = problem.thaw(rows.dtype)
    return lax.map(lambda x: _ghost_passage(system, x, args, scale), rows)


@program
def _ghost_passage(system, x, args, time_scale):
    residual = residual_fn(system, args, time_scale)
    fn = capture(residual, x)
    frozen = freeze(fn)
    minimum = _minimise(SpeedSlope(frozen), freeze(x))
    x = attach(SpeedSlope(fn), minimum[None], jnp.ones(1, bool))[0]
    unit = time_scale_of(system) if time_scale is None else jnp.asarray(time_scale)
    unit = jnp.asarray(1.0 if is_map(system) else unit, x.dtype)

    jac, f = jax.jacfwd(lambda y: (fn(y),) * 2, has_aux=True)(x)
    speed = norm(f)
    u, sigma, vh = jnp.linalg.svd(freeze(jac))
    # The direction of f is a left null vector; at a root it has none.
    null = jnp.where(speed > 0, freeze(f) / jnp.where(speed > 0, speed, 1), u[:, -1])
    null = freeze(null)
    right = _right_null(jac, null, vh[-1])
    sign = jnp.where(jnp.vdot(freeze(right), null) < 0, -1.0, 1.0).astype(x.dtype)
    right = right * sign / norm(right)
    left = jnp.where(speed > 0, f, u[:, -1])
    overlap = jnp.vdot(left, right)
    left = left / jnp.where(overlap == 0, 1, overlap)

    along = lambda y: jax.jvp(fn, (y,), (right,))[1]
    drift = jnp.vdot(left, f)
    curvature = 0.5 * jnp.vdot(left, jax.jvp(along, (x,), (right,))[1])
    eigenvalue = jnp.vdot(left, jac @ right)
    product = drift * curvature
    real = (product > 0) & jnp.isfinite(product) & (overlap != 0)
    rate = jnp.sqrt(jnp.where(real, product, 1))
    time = jnp.where(real, jnp.pi / rate, jnp.inf)

    # Eigenvalues wait for the singular values: one LAPACK call after the other.
    done = after(sigma[0], norm(freeze(right)))
    values = jnp.linalg.eigvals(after(done, freeze(jac)))
    values = values[jnp.argsort(jnp.abs(values))]
    second = values[1] if x.size > 1 else jnp.asarray(jnp.inf, values.dtype)

    reach = jnp.sqrt(jnp.abs(freeze(drift) / jnp.where(real, freeze(curvature), 1)))
    reach = jnp.where(real, reach, 0)
    ends = [frozen(minimum + s * reach * freeze(right)) for s in (1, -1)]
    profile = jnp.stack([jnp.vdot(freeze(left), end) for end in ends]) / freeze(drift)
    saddle_node = is_saddle_node(
        freeze(drift), freeze(curvature), freeze(eigenvalue), second, profile
    )
    # In turn, see `after`.
    jac = after(jnp.abs(second), freeze(jac))
    verdict = _verdict(frozen, minimum, freeze(f), jac, saddle_node)
    return Ghost(
        x=x,
        speed=speed,
        eigenvalue=eigenvalue / unit,
        # A complex infinity over a number would be NaN.
        next_eigenvalue=lax.complex(second.real / unit, second.imag / unit),
        right=right,
        left=left,
        drift=drift / unit,
        curvature=curvature / unit,
        passage_time=time * unit,
        gap=jnp.where(real, jnp.abs(second) / (2 * freeze(rate)), 0),
        condition=norm(freeze(left)),
        verdict=verdict,
    )


def _minimise(slope, x, max_steps=64):
    """Downhill until near a minimum of q, then Newton steps on its gradient, halved
    while the gradient does not fall."""
    solver = LevenbergMarquardt()
    downhill = lambda _, carry: solver.advance(slope.fn, *carry)
    x, _ = lax.fori_loop(0, 24, downhill, (x, solver.start(x)))

    def body(carry):
        x, g, factor, count = carry
        trial = x - factor * jnp.linalg.solve(jax.jacfwd(slope)(x), g)
        new = slope(trial)
        better = norm(new) < norm(g)
        x, g = jnp.where(better, trial, x), jnp.where(better, new, g)
        factor = jnp.where(better, jnp.minimum(1, 2 * factor), factor / 2)
        return x, g, factor, count + 1

    start = (x, slope(x), jnp.ones((), x.dtype), jnp.zeros((), jnp.int32))
    going = lambda c: (c[2] > 1e-3) & (c[3] < max_steps) & (norm(c[1]) > 0)
    return lax.while_loop(going, body, start)[0]


def _right_null(jac, left, guess):
    """The right null vector as a smooth function of the Jacobian (bordered system)."""
    top = jnp.concatenate([jac, left[:, None]], axis=1)
    bottom = jnp.concatenate([guess, jnp.zeros(1, jac.dtype)])
    bordered = jnp.concatenate([top, bottom[None]])
    unit = jnp.zeros(jac.shape[0] + 1, jac.dtype).at[-1].set(1)
    vector = jnp.linalg.solve(bordered, unit)[:-1]
    return jnp.where(jnp.all(jnp.isfinite(vector)), vector, guess)


def _verdict(fn, x, f, jac, saddle_node):
    tols = Tolerances(x.dtype, x.size)
    eps, speed = jnp.finfo(x.dtype).eps, norm(f)
    small = speed <= tols.speed_at(x)
    length, _ = distance_to_root(fn, jac, f, x)
    is_root = small & (length <= tols.step * jnp.maximum(1, norm(x)))
    slope = SpeedSlope(fn)
    flat = norm(slope(x)) * jnp.maximum(1, norm(x))
    flat = flat <= tols.slope * speed**2 + 64 * eps * norm(jac) * speed
    curvature = jnp.linalg.eigvalsh(after(length, jax.jacfwd(slope)(x)))
    minimal = flat & (curvature[0] >= -tols.step * jnp.abs(curvature[-1]))
    return jnp.select(
        [is_root, small, minimal & saddle_node, minimal],
        [Verdict.root, Verdict.undetermined, Verdict.ghost, Verdict.slow_point],
        Verdict.undetermined,
    ).astype(jnp.int32)
