"""Slow manifolds: where trajectories linger, which directions are slow there, and how
fast the flow along them is."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int, PyTree

from ..._core._batch import in_double
from ..._core._checks import check_count, check_finite
from ..._core._export import Result
from ..._core._system import is_map, residual_fn, time_scale_of
from ..._core._verdicts import Verdict
from .._states import as_arrays, as_states, check_number, check_residual
from ..points._certify import certify
from ..points._fixed_points import fixed_points
from ..points._points import Values


class SlowManifold(Result):
    """The slow part of a set of trajectories and the linearisation on it.

    **Attributes:**

    - `speed`: scale-free speed along the trajectories, shape `(traj, time)`.
    - `mask`: where it is below `rel_speed` times that trajectory's largest.
    - `x`: slow points, spread evenly over the mask, shape `(points, state)`; may be
        empty.
    - `velocity`: dx/dt there, in state units per unit of time.
    - `eigenvalues`: of df/dx (per unit of time), slowest first: by |Re lambda|, for a
        map of dF/dx by |log |lambda||.
    - `dimension`: number of slow directions, where consecutive rates differ most; 0 if
        no such gap reaches `min_gap`: undecided.
    - `gap`: rate of the slowest normal direction over that of the fastest tangential
        one: normal hyperbolicity. At most 1e8.
    - `tangent`: orthonormal columns, shape `(points, state, state)`; the first
        `dimension` span the slow eigenspace.
    - `tangential`: size of the velocity along it; the whole velocity if undecided.
    - `uniform_norm`: the largest of these: the distance from a continuous attractor.
    """

    speed: Float[Values, "traj time"]
    mask: Bool[Values, "traj time"]
    x: Float[Values, "points state"]
    velocity: Float[Values, "points state"]
    eigenvalues: Complex[Values, "points state"]
    dimension: Int[Values, " points"]
    gap: Float[Values, " points"]
    tangent: Float[Values, "points state state"]
    tangential: Float[Values, " points"]
    uniform_norm: Float[Values, ""]

    def headline(self) -> str:
        """How many slow points of which dimension, the least gap, the speed."""
        found = Counter(self.dimension.tolist())
        parts = [f"{n} of dimension {d}" if d else f"{n} undecided"
                 for d, n in sorted(found.items())]  # fmt: skip
        line = f"{len(self.x)} slow points" + (f": {', '.join(parts)}" if parts else "")
        decided = self.gap[self.dimension > 0]
        if len(decided):
            line += f", gap at least {decided.min():.3g}"
        return f"{line}, uniform norm {self.uniform_norm:.2g}"

    def memory_error_bound(self, t: Any) -> Any:
        """Largest distance that a memory drifts along the manifold within the time
        `t`: t uniform_norm. Holds as far as the points represent the manifold."""
        return t * self.uniform_norm


def slow_manifold(
    system: Any,
    trajectories: Any,
    args: PyTree = None,
    *,
    rel_speed: float = 1e-3,
    min_gap: float = 5.0,
    num_points: int = 256,
    time_scale: Any = None,
) -> SlowManifold:
    """The slow manifold that trajectories settle on. Host level, in float64.

    A point is slow if its speed is below `rel_speed` times the largest speed of its
    own trajectory. At `num_points` of these, spread evenly, the Jacobian's eigenvalues
    are split into slow (tangential) and fast (normal) ones at their largest gap.

    ```python
    flow = rnndyn.flows.ScanFlow(dt=0.05)
    run = jax.vmap(lambda x0: flow.trajectory(f, x0, jnp.linspace(0, 50, 200)).xs)
    slow = slow_manifold(f, run(x0s))
    slow.dimension, slow.gap, slow.memory_error_bound(10.0)
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` (taken at t = 0) or a `Map`.
    - `trajectories`: states, shape `(traj, time, state)`, without input noise; start
        them off the manifold, or nothing is slow relative to the start.
    - `args`: the input, held constant.
    - `rel_speed`: see above. `min_gap`: smallest ratio of rates that decides.
    - `num_points`: at most so many points are linearised.
    - `time_scale`: unit of time of a flow's speed. Default: the system's own, else 1.

    **Returns:** a `SlowManifold` of numpy arrays. Not guaranteed: that the trajectories
    cover the manifold; and on an isolated stable point with well-separated rates the
    slow directions are those of the last approach.

    **Raises:** a `ValueError` for a wrong shape or `rel_speed` outside (0, 1).

    **Reference:** A. Sagodi et al. 2024, "Back to the continuous attractor",
    arXiv:2408.00109.
    """
    # Only looked at: as an array of JAX float64 may lose digits.
    axes, remedy = ("traj", "time", "state"), "Pass one trajectory as xs[None]."
    as_states("trajectories", trajectories, axes, remedy)
    xs = np.asarray(trajectories, np.float64)
    check_number("rel_speed", rel_speed, "Leave it out for the default.")
    if rel_speed >= 1:
        raise ValueError(f"`rel_speed` = {rel_speed}, expected a number in (0, 1).")
    check_number("min_gap", min_gap, "Leave it out for the default.")
    check_count("num_points", num_points)
    if time_scale is not None:
        check_number("time_scale", time_scale, "Pass it in the flow's unit of time.")
    scale = time_scale_of(system) if time_scale is None else time_scale
    unit = 1.0 if is_map(system) else float(np.asarray(scale))
    with in_double():
        rows = jnp.asarray(xs.reshape(-1, xs.shape[2]))
        args = as_arrays(args, rows)
        check_residual(residual_fn(system, args, unit), rows[0])
        velocity = np.array(_residuals(system, args, unit, rows)).reshape(xs.shape)
        speed = np.linalg.norm(velocity, axis=2)
        finite = np.isfinite(speed)
        top = np.max(np.where(finite, speed, 0), axis=1)[:, None]
        mask = finite & (speed < rel_speed * top)
        chosen = np.argwhere(mask)
        if len(chosen) > num_points:
            even = np.linspace(0, len(chosen) - 1, num_points).round().astype(int)
            chosen = chosen[even]
        points = xs[tuple(chosen.T)].reshape(-1, xs.shape[2])
        # One shape of the program, whatever the number of points.
        padded = np.zeros((num_points, xs.shape[2]))
        padded[: len(points)] = points
        jacs = np.array(_jacobians(system, args, unit, jnp.asarray(padded)))
    jacs, size = jacs[: len(points)], xs.shape[2]
    values, vectors = np.linalg.eig(jacs)
    values = values.astype(complex) + (1 if is_map(system) else 0)
    with np.errstate(divide="ignore"):
        modulus = np.abs(np.log(np.abs(values)))
    rates = np.minimum(modulus, 1e8) if is_map(system) else np.abs(np.real(values))
    # Pairs stay together, the positive imaginary part first.
    floor = 1e-8 * rates.max(axis=1, initial=1e-300, keepdims=True)
    order = np.lexsort((-np.imag(values), np.round(rates / floor, 3)), axis=1)
    values, rates = (np.take_along_axis(a, order, axis=1) for a in (values, rates))
    vectors = np.take_along_axis(vectors, order[:, None, :], axis=2)
    ratio = np.maximum(rates[:, 1:], floor) / np.maximum(rates[:, :-1], floor)
    ratio = np.concatenate([np.ones((len(points), 1)), ratio], axis=1)
    gap, dimension = ratio.max(axis=1), ratio.argmax(axis=1)
    dimension = np.where(gap >= min_gap, dimension, 0).astype(np.int32)
    # Real and imaginary part of a pair span what the pair spans.
    lower = np.imag(values)[:, None, :] < 0
    real = np.where(lower, np.imag(vectors), np.real(vectors))
    tangent = np.linalg.qr(real)[0]
    moving = velocity[tuple(chosen.T)].reshape(-1, size) / unit
    inside = np.arange(size)[None, :] < np.where(dimension, dimension, size)[:, None]
    along = np.einsum("pij,pi->pj", tangent, moving)
    tangential = np.linalg.norm(np.where(inside, along, 0), axis=1)
    return SlowManifold(
        speed=speed,
        mask=mask,
        x=points,
        velocity=moving,
        eigenvalues=values if is_map(system) else values / unit,
        dimension=dimension,
        gap=gap,
        tangent=tangent,
        tangential=tangential,
        uniform_norm=np.array(tangential.max(initial=0)),
    )


@eqx.filter_jit
def _residuals(system, args, unit, rows):
    return jax.vmap(residual_fn(system, args, unit))(rows)


@eqx.filter_jit
def _jacobians(system, args, unit, rows):
    jac = jax.vmap(jax.jacfwd(residual_fn(system, args, unit)))(rows)
    return jnp.where(jnp.isfinite(jac), jac, 0)


class RingFlow(Result):
    """The flow along a closed curve through slow points.

    **Attributes:**

    - `angle`: equally spaced in [0, 2 pi), shape `(grid,)`; `x`: the curve there,
        shape `(grid, state)`.
    - `angular_velocity`: of the flow projected on the curve's tangent, in radians per
        unit of time (per step of a map).
    - `fixed_angle`, `stability`: where it changes sign, -1 towards the angle (stable
        along the curve), 1 away from it (saddle); they alternate.
    - `fixed_x`: the certified roots there, off the curve by `offset`; a point of the
        curve where there is none, with an infinite `offset`.
    - `uniform_norm`: largest speed along the curve, in state units.
    - `verdict`: `root` if there are such angles and each has its root; `continuum` if
        the flow stands still all round (within `tol`); `limit_cycle`
        (`invariant_circle` of a map) if it goes round; `undetermined` if the
        points leave more than `max_hole` of the angle open (this is no ring), where a
        root is missing, or where the flow stands still without changing its sign.
    """

    angle: Float[Values, " grid"]
    x: Float[Values, "grid state"]
    angular_velocity: Float[Values, " grid"]
    fixed_angle: Float[Values, " fixed"]
    fixed_x: Float[Values, "fixed state"]
    offset: Float[Values, " fixed"]
    stability: Int[Values, " fixed"]
    uniform_norm: Float[Values, ""]
    verdict: int = eqx.field(static=True)

    def headline(self) -> str:
        """The verdict, and how many roots lie along the curve."""
        stable = int(np.sum(self.stability == -1))
        line = Verdict(self.verdict).name
        if len(self.stability):
            line += f", {len(self.stability)} angles ({stable} stable)"
        return f"{line}, uniform norm {self.uniform_norm:.2g}"


def ring_flow(
    system: Any,
    points: Any,
    plane: Any,
    args: PyTree = None,
    *,
    num_knots: int = 64,
    grid: int = 1024,
    tol: float = 1e-9,
    max_hole: float = 1.0,
) -> RingFlow:
    """The flow along a one-dimensional slow manifold that closes on itself.

    Orders the points by angle in a plane, draws a periodic cubic spline through the
    ones nearest to `num_knots` equally spaced angles, projects the flow on its tangent
    and reads off the sign changes. Host level.

    ```python
    slow = slow_manifold(f, trajectories)
    ring = ring_flow(f, slow.x, readout)
    ring.fixed_angle, ring.stability
    ```

    **Arguments:**

    - `system`, `args`: as in `slow_manifold`.
    - `points`: points on the ring, shape `(points, state)`.
    - `plane`: two directions that show it as a ring, shape `(2, state)`, such as the
        read-out; angles are about the mean of the projected points.
    - `num_knots`: of the spline; `grid`: angles at which the flow is evaluated.
    - `tol`: angular velocity that counts as none.
    - `max_hole`: largest angle, in radians, between neighbouring points.

    **Returns:** a `RingFlow`; look at its `verdict`. Between the roots it says what the
    flow does on the spline, which is as good as the points are dense.

    **Raises:** a `ValueError` for wrong shapes, points that are not finite, and fewer
    than 4 knots or angles.

    **Reference:** A. Sagodi et al. 2024, arXiv:2408.00109.
    """
    points, plane = np.asarray(points, np.float64), np.asarray(plane, np.float64)
    if points.ndim != 2 or plane.shape != (2, points.shape[-1]):
        raise ValueError(
            f"`points` and `plane` have shapes {points.shape} and {plane.shape}, "
            "expected (points, state) and (2, state). Pass the rows of the read-out or "
            "the first two principal components."
        )
    check_finite("points", points)
    check_finite("plane", plane)
    check_count("num_knots", num_knots, least=4)
    check_count("grid", grid, least=4)
    theta = np.linspace(0, 2 * np.pi, grid, endpoint=False)
    size = points.shape[1]
    flat = points @ plane.T
    flat = flat - flat.mean(axis=0) if len(flat) else flat
    angle = np.mod(np.arctan2(flat[:, 1], flat[:, 0]), 2 * np.pi)
    order = np.argsort(angle)
    angle, points = angle[order], points[order]
    holes = np.diff(np.append(angle, angle[:1] + 2 * np.pi))
    if len(angle) < 4 or holes.max() > max_hole:
        nothing = np.zeros((grid, size))
        return _ring(theta, nothing, theta * 0, Verdict.undetermined)
    wanted = np.linspace(0, 2 * np.pi, num_knots, endpoint=False)
    turn = np.abs(np.angle(np.exp(1j * (angle[None, :] - wanted[:, None]))))
    knots = np.unique(turn.argmin(axis=1))
    knots = knots[np.append(True, np.diff(angle[knots]) > 1e-9)]
    spline = _periodic_spline(angle[knots], points[knots])

    unit = 1.0 if is_map(system) else float(np.asarray(time_scale_of(system)))
    with in_double():
        args = as_arrays(args, points)

    def velocity(angles):
        x, slope = spline(angles)
        with in_double():
            f = np.array(_residuals(system, args, unit, jnp.asarray(x))) / unit
        return x, np.sum(f * slope, axis=1) / np.sum(slope**2, axis=1), slope

    x, omega, slope = velocity(theta)
    norm = np.abs(omega * np.linalg.norm(slope, axis=1)).max()
    if not np.all(np.isfinite(omega)):
        return _ring(theta, x, omega, Verdict.undetermined)
    still = np.abs(omega) <= tol
    # Angles at which nothing moves carry the last sign: a touch is no change.
    sign = np.sign(np.where(still, 0, omega))
    if not np.any(sign):
        return _ring(theta, x, omega, Verdict.continuum, norm)
    last = np.flatnonzero(sign)[-1]
    for i in range(grid):
        last = i if sign[i] else last
        sign[i] = sign[last]
    (index,) = np.nonzero(sign != np.roll(sign, -1))
    if not len(index):
        circle = Verdict.invariant_circle if is_map(system) else Verdict.limit_cycle
        # Nothing passes an angle at which nothing moves.
        circle = Verdict.undetermined if still.any() else circle
        return _ring(theta, x, omega, circle, norm)
    low, high = theta[index], theta[index] + 2 * np.pi / grid
    for _ in range(50):
        middle = 0.5 * (low + high)
        before = np.sign(velocity(middle)[1]) == sign[index]
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    found = np.mod(low, 2 * np.pi)
    code = np.where(sign[index] > 0, -1, 1).astype(np.int32)
    on_curve = spline(found)[0]
    roots, offset = _nearest_roots(system, args, on_curve)
    sure = Verdict.root if np.all(np.isfinite(offset)) else Verdict.undetermined
    return _ring(theta, x, omega, sure, norm, found, roots, offset, code)


def _nearest_roots(system, args, points):
    """A certified root of its own for each point, and the distance to it: closer than
    half the way to the next point, else the point itself, infinitely far."""
    found = certify(fixed_points(system, jnp.asarray(points), args)).roots()
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    reach = np.where(between > 0, between, np.inf).min(axis=1) / 2
    reach = np.where(np.isfinite(reach), reach, np.linalg.norm(points, axis=1))
    gaps = np.linalg.norm(points[:, None] - found[None], axis=2)
    if not len(found):
        return points, np.full(len(points), np.inf)
    near, offset = found[gaps.argmin(axis=1)], gaps.min(axis=1)
    own = offset < reach
    return np.where(own[:, None], near, points), np.where(own, offset, np.inf)


def _ring(theta, x, omega, verdict, norm=0.0, angle=(), fixed=(), offset=(), code=()):
    return RingFlow(
        angle=theta,
        x=x,
        angular_velocity=omega,
        fixed_angle=np.asarray(angle, np.float64),
        fixed_x=np.asarray(fixed, np.float64).reshape(-1, x.shape[1]),
        offset=np.asarray(offset, np.float64),
        stability=np.asarray(code, np.int32),
        uniform_norm=np.asarray(norm, np.float64),
        verdict=int(verdict),
    )


def _periodic_spline(t, y):
    """Periodic cubic spline of period 2 pi: angles -> values and slopes."""
    h: Any = np.diff(np.append(t, t[0] + 2 * np.pi))
    count, before = len(t), np.roll(h, 1)
    rise = (np.roll(y, -1, axis=0) - y) / h[:, None]
    matrix = np.zeros((count, count))
    i = np.arange(count)
    matrix[i, i] = 2 * (h + before)
    matrix[i, (i - 1) % count] += before
    matrix[i, (i + 1) % count] += h
    second = np.linalg.solve(matrix, 6 * (rise - np.roll(rise, 1, axis=0)))
    following = np.roll(second, -1, axis=0)

    def evaluate(angles):
        turned = t[0] + np.mod(angles - t[0], 2 * np.pi)
        k = np.searchsorted(t, turned, side="right") - 1
        s, width = (turned - t[k])[:, None], h[k][:, None]
        bend = (following[k] - second[k]) / width
        start = rise[k] - width * (2 * second[k] + following[k]) / 6
        value = y[k] + s * (start + s * (second[k] / 2 + s * bend / 6))
        return value, start + s * (second[k] + s * bend / 2)

    return evaluate
