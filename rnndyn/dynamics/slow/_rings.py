"""The flow along a closed curve of slow points."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from ..._core._batch import in_double
from ..._core._checks import check_count, check_finite
from ..._core._export import Result
from ..._core._system import is_map, time_scale_of
from ..._core._verdicts import Verdict
from .._states import as_arrays
from ..points._certify import certify
from ..points._fixed_points import fixed_points
from ..points._points import Values
from ._manifolds import jacobians, residuals


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
    - `invariance_error`: by how much a Newton step at one place moves the curve to
        where the flow does not cross it, over its radius: the median of 64 places
        between the knots. NaN without a curve, or if the flow is not finite on it.
        Near 1 the curve is nothing of the flow's.
    - `verdict`: `root` if there are such angles and each has its root; `continuum` if
        the flow stands still all round (within `tol`); `limit_cycle`
        (`invariant_circle` of a map) if it goes round; `undetermined` if the
        points leave more than `max_hole` of the angle open (this is no ring), where a
        root is missing, where the flow stands still without changing its sign, or
        where it leaves the curve (`invariance_error` above 0.1).
    """

    angle: Float[Values, " grid"]
    x: Float[Values, "grid state"]
    angular_velocity: Float[Values, " grid"]
    fixed_angle: Float[Values, " fixed"]
    fixed_x: Float[Values, "fixed state"]
    offset: Float[Values, " fixed"]
    stability: Int[Values, " fixed"]
    uniform_norm: Float[Values, ""]
    invariance_error: Float[Values, ""]
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

    Orders the points by angle in a plane, draws a periodic cubic spline through slow
    ones near `num_knots` equally spaced angles, projects the flow on its tangent and
    reads off the sign changes. Host level.

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
    - `num_knots`: of the spline; `grid`: angles at which the flow is evaluated, and
        between which its slowest places are looked at more closely.
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
    unit = 1.0 if is_map(system) else float(np.asarray(time_scale_of(system)))
    with in_double():
        args = as_arrays(args, points)
        speed = np.linalg.norm(
            residuals(system, args, unit, jnp.asarray(points)), axis=1
        )
    knots = _knots(angle, speed, num_knots)
    spline = _periodic_spline(angle[knots], points[knots])

    def velocity(angles):
        x, slope = spline(angles)
        with in_double():
            f = np.array(residuals(system, args, unit, jnp.asarray(x))) / unit
        return x, np.sum(f * slope, axis=1) / np.sum(slope**2, axis=1), slope

    x, omega, slope = velocity(theta)
    norm = np.abs(omega * np.linalg.norm(slope, axis=1)).max()
    if not np.all(np.isfinite(omega)):
        return _ring(theta, x, omega, Verdict.undetermined)
    error = _invariance_error(system, args, unit, spline, tol)
    measured = norm, error
    leaves = not error <= 0.1
    angles, values = theta, omega
    if np.abs(omega).max() > tol:
        angles, values = _with_dips(theta, omega, lambda a: velocity(a)[1])
    still = np.abs(values) <= tol
    # Angles at which nothing moves carry the last sign: a touch is no change.
    sign = np.sign(np.where(still, 0, values))
    if not np.any(sign):
        rest = Verdict.undetermined if leaves else Verdict.continuum
        return _ring(theta, x, omega, rest, measured)
    last = np.flatnonzero(sign)[-1]
    for i in range(len(sign)):
        last = i if sign[i] else last
        sign[i] = sign[last]
    (index,) = np.nonzero(sign != np.roll(sign, -1))
    if not len(index):
        circle = Verdict.invariant_circle if is_map(system) else Verdict.limit_cycle
        # Nothing passes an angle at which nothing moves.
        circle = Verdict.undetermined if still.any() or leaves else circle
        return _ring(theta, x, omega, circle, measured)
    low, high = angles[index], np.append(angles, 2 * np.pi)[index + 1]
    for _ in range(50):
        middle = 0.5 * (low + high)
        before = np.sign(velocity(middle)[1]) == sign[index]
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    found = np.mod(low, 2 * np.pi)
    code = np.where(sign[index] > 0, -1, 1).astype(np.int32)
    on_curve = spline(found)[0]
    roots, offset = _nearest_roots(system, args, on_curve)
    certain = np.all(np.isfinite(offset)) and not leaves
    sure = Verdict.root if certain else Verdict.undetermined
    return _ring(theta, x, omega, sure, measured, found, roots, offset, code)


def _knots(angle, speed, count):
    """The points to go through: near each of `count` angles the nearest of those that
    are at most twice as fast as the slowest there (the others are still on their way to
    the ring), none within half the distance of two angles from a slower one."""
    near = np.round(angle / (2 * np.pi) * count)
    turn = np.abs(angle - near * (2 * np.pi / count))
    sector = near.astype(int) % count
    speed = np.where(np.isfinite(speed), speed, np.inf)
    least = np.full(count, np.inf)
    np.minimum.at(least, sector, speed)
    late = speed > 2 * least[sector]
    order = np.lexsort((turn, late, sector))
    first = order[np.append(True, np.diff(sector[order]) > 0)]
    chosen = np.zeros(0, int)
    for k in first[np.argsort(speed[first], kind="stable")]:
        gap = np.abs(np.angle(np.exp(1j * (angle[chosen] - angle[k]))))
        if gap.min(initial=np.pi) > np.pi / count:
            chosen = np.append(chosen, k)
    return np.sort(chosen)


def _with_dips(theta, omega, rate):
    """Angles and angular velocities, with the smallest ones between neighbours added:
    a pair of roots may lie between two angles."""
    size = np.abs(omega)
    lowest = (size <= np.roll(size, 1)) & (size <= np.roll(size, -1))
    (index,) = np.nonzero(lowest & (size > 0) & (size < 0.1 * size.max()))
    if not len(index):
        return theta, omega
    sign, step = np.sign(omega[index])[:, None], 2 * np.pi / len(theta)
    middle, shares = theta[index], np.linspace(-1, 1, 17)
    for _ in range(12):
        trial = middle[:, None] + step * shares
        value = rate(trial.ravel()).reshape(trial.shape)
        best = (sign * value).argmin(axis=1)
        rows = np.arange(len(index))
        middle, least = trial[rows, best], value[rows, best]
        step = step / 4
    angles = np.concatenate([theta, np.mod(middle, 2 * np.pi)])
    order = np.argsort(angles, kind="stable")
    return angles[order], np.concatenate([omega, least])[order]


def _invariance_error(system, args, unit, spline, tol):
    """The median Newton step across the curve, over its radius. At single places of a
    true cycle the step is long: where the flow turns from drawing in to pushing out."""
    x, slope = spline((np.arange(_PLACES) + 0.5) * 2 * np.pi / _PLACES)
    with in_double():
        rows = jnp.asarray(x)
        values = np.array(residuals(system, args, unit, rows))
        slopes = np.array(jacobians(system, args, unit, rows))
    radius = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
    steps = []
    for f, jacobian, tangent in zip(values, slopes, slope, strict=True):
        tangent = tangent / np.linalg.norm(tangent)
        across = np.eye(len(f)) - np.outer(tangent, tangent)
        inner = across @ jacobian @ across + np.outer(tangent, tangent)
        speed = across @ f
        # Rounding over rounding where nothing crosses, and nothing brings back.
        still = np.linalg.norm(speed) <= tol * radius
        move = 0 * f if still else np.linalg.lstsq(inner, speed, rcond=None)[0]
        known = still or (np.all(np.isfinite(f)) and np.any(jacobian))
        steps.append(np.linalg.norm(move) if known else np.inf)
    return float(np.median(steps)) / radius


_PLACES = 64


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


def _ring(
    theta, x, omega, verdict, measured=(0.0, np.nan), angle=(), fixed=(), offset=(),
    code=(),
):  # fmt: skip
    norm, error = measured
    return RingFlow(
        angle=theta,
        x=x,
        angular_velocity=omega,
        fixed_angle=np.asarray(angle, np.float64),
        fixed_x=np.asarray(fixed, np.float64).reshape(-1, x.shape[1]),
        offset=np.asarray(offset, np.float64),
        stability=np.asarray(code, np.int32),
        uniform_norm=np.asarray(norm, np.float64),
        invariance_error=np.asarray(error, np.float64),
        verdict=int(verdict),
    )


def _periodic_spline(t, y):
    """Periodic cubic spline of period 2 pi: angles -> values and slopes."""
    from scipy.interpolate import CubicSpline

    closed = np.append(t, t[0] + 2 * np.pi), np.vstack([y, y[:1]])
    spline = CubicSpline(*closed, bc_type="periodic")
    return lambda angles: (spline(angles), spline(angles, 1))
