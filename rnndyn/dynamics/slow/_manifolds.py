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
from ..._core._checks import check_count
from ..._core._export import Result
from ..._core._system import is_map, residual_fn, time_scale_of
from .._states import (
    as_arrays,
    as_states,
    check_number,
    check_residual,
    check_time_scale,
)
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
    check_time_scale(time_scale)
    scale = time_scale_of(system) if time_scale is None else time_scale
    unit = 1.0 if is_map(system) else float(np.asarray(scale))
    with in_double():
        rows = jnp.asarray(xs.reshape(-1, xs.shape[2]))
        args = as_arrays(args, rows)
        check_residual(residual_fn(system, args, unit), rows[0])
        velocity = np.array(residuals(system, args, unit, rows)).reshape(xs.shape)
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
        jacs = np.array(jacobians(system, args, unit, jnp.asarray(padded)))
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
def residuals(system, args, unit, rows):
    """f (of a map F - 1) times `unit` at every row."""
    return jax.vmap(residual_fn(system, args, unit))(rows)


@eqx.filter_jit
def jacobians(system, args, unit, rows):
    """Their derivatives, 0 where these are not finite."""
    jac = jax.vmap(jax.jacfwd(residual_fn(system, args, unit)))(rows)
    return jnp.where(jnp.isfinite(jac), jac, 0)
