"""Evidence for an invariant circle of a map."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core._checks import check_count, is_concrete
from ..._core._closures import program
from ..._core._export import Result
from ..._core._masks import after, norm
from ..._core._system import Map
from ..._core._verdicts import Verdict
from .._states import as_arrays, as_states
from ..long_run._late_verdict import verdict_of
from ..long_run._recurrence import settle
from ..long_run._returns import cycle_point


PIECES = (1, 2, 3, 4, 5, 6, 8)
"""Numbers of closed curves, visited in turn, that are told from one."""


class InvariantCircle(Result):
    """What one orbit of a map settles on, with the evidence.

    **Attributes:**

    - `verdict`: `invariant_circle`, `k_cycle`, `constant`, `chaotic`, `torus`,
        `diverged` or `undetermined`.
    - `rotation`: rotation number of the circle, in turns per step, in [0, 1/2], 0 if
        there is none; of a circle in several pieces, of the map iterated `pieces`
        times.
    - `rotation_error`: its difference between the halves of the orbit.
    - `pieces`: how many closed curves make up the circle.
    - `gap`: largest distance between states that are neighbours in phase, in extents:
        small if the states lie on a closed curve that is continuous in the phase.
    - `exponents`: the leading Lyapunov exponents, at most three, per step.
    - `drift`: see `LateRun`.
    - `period`: of a k-cycle, in steps, else 0.
    - `extent`, `orbit`: half the diagonal of the bounding box; consecutive states.
    """

    verdict: Int[Array, ""]
    rotation: Float[Array, ""]
    rotation_error: Float[Array, ""]
    pieces: Int[Array, ""]
    gap: Float[Array, ""]
    exponents: Float[Array, " k"]
    drift: Float[Array, ""]
    period: Float[Array, ""]
    extent: Float[Array, ""]
    orbit: Float[Array, "samples state"]
    kind: str = eqx.field(static=True, default="map")

    def headline(self) -> str:
        """Verdict, rotation number and leading exponent."""
        return (
            f"{Verdict(int(self.verdict)).name}, rotation {self.rotation:.8g}, "
            f"leading exponent {self.exponents[0]:.2g}"
        )

    @property
    def mask(self) -> Bool[Array, ""]:
        """Whether there is evidence for an invariant circle."""
        return self.verdict == Verdict.invariant_circle


@program
def invariant_circle(
    system: Any,
    x0: Any,
    args: PyTree = None,
    *,
    transient: Any = 4096,
    window: Any = 8192,
    samples: int = 2048,
    tol_gap: float = 0.2,
) -> InvariantCircle:
    """Whether a start of a map settles on an invariant circle, and its rotation number.

    The oscillation of a map that comes from a flow is in general no k-cycle: it fills
    a closed curve. The evidence for one: the leading Lyapunov exponent is zero (its
    smoothly weighted average, times the window, within 1) and the others are negative;
    the orbit never comes back exactly; weighted averages of the two halves agree to
    1e-5, which rules out weak chaos and slow spirals; and states sorted by phase make a
    continuous closed curve, which a torus does not. Pure.

    ```python
    circle = rd.dynamics.invariant_circle(model.map(dt), x0)
    circle.mask, circle.rotation, circle.rotation_error
    ```

    **Arguments:**

    - `system`: a `Map`; `args`: its input, held constant.
    - `x0`: the start, shape `(state,)`.
    - `transient`, `window`: steps discarded, and measured (see `settle`).
    - `samples`: states on which phase and curve are measured.
    - `tol_gap`: largest `gap` of a circle.

    **Returns:** an `InvariantCircle`. The phase is the angle about the mean in the
    plane of largest variance, so that a curve that does not wind around its mean there
    is `undetermined`. Unstable circles are not found.

    **Raises:** a `ValueError` for a flow, or a start of the wrong shape.

    **Reference:** Das, Saiki, Sander & Yorke 2017, doi:10.1088/1361-6544/aa84c2.
    """
    if not isinstance(system, Map):
        raise ValueError(
            f"invariant_circle got a {type(system).__name__}, expected a rnndyn.Map. "
            "For a flow use rnndyn.dynamics.limit_cycle."
        )
    x0 = as_states("x0", x0, ("state",), "Use jax.vmap for several starts.")
    check_count("samples", samples, least=64)
    for name, value, least in (("transient", transient, 0), ("window", window, 1)):
        if is_concrete(value):
            check_count(name, value, least)
    args = as_arrays(args, x0)
    run = settle(system, x0, args, transient=transient, window=window)
    code = verdict_of(run)
    # A cycle that the orbit only nears may have just vanished.
    k = jnp.where(code == Verdict.k_cycle, jnp.round(run.period), 0).astype(jnp.int32)
    point = cycle_point(lambda x: system(x, args), run.final, k)
    there = point["found"] & (point["distance"] <= 1e-2 * run.extent)
    code = jnp.where((k > 0) & ~there, int(Verdict.undetermined), code)
    step = lambda x, _: (system(x, args), x)
    states = lax.scan(step, run.final, None, length=samples)[1]
    states = jnp.where(run.finite & jnp.isfinite(states), states, 0)
    curves, done = [], point["distance"]
    for q in PIECES:  # in turn, see `after`
        curves.append(_curve(after(done, states[::q])))
        done = curves[-1][2]
    rotation, error, gap = (jnp.stack(c) for c in zip(*curves, strict=True))
    # The first that makes a closed curve; the smallest gap if none does.
    good = gap <= tol_gap
    best = jnp.where(jnp.any(good), jnp.argmax(good), jnp.argmin(gap))
    is_circle = code == Verdict.invariant_circle
    open_ = is_circle & ~good[best]
    code = jnp.where(open_, int(Verdict.undetermined), code)
    rest = (code == Verdict.root) | (code == Verdict.continuum)
    code = jnp.where(rest, int(Verdict.constant), code)
    slow = code == Verdict.slow_point
    code = jnp.where(slow, int(Verdict.undetermined), code)
    some = lambda a: jnp.where(is_circle & ~open_, a[best], 0)
    return InvariantCircle(
        verdict=code.astype(jnp.int32),
        rotation=some(rotation),
        rotation_error=some(error),
        pieces=some(jnp.asarray(PIECES)),
        gap=gap[best],
        exponents=run.rates,
        drift=run.drift,
        period=jnp.where(code == Verdict.k_cycle, run.period, 0),
        extent=run.extent,
        orbit=run.orbit,
    )


def _plane(states):
    """Coordinates in the two directions of largest variance."""
    centred = states - jnp.mean(states, axis=0, keepdims=True)
    if states.shape[1] == 1:
        return jnp.concatenate([centred, jnp.zeros_like(centred)], axis=1)
    _, vectors = jnp.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, -2:]


def _curve(states):
    """Rotation number, its error, and the largest gap between neighbours in phase."""
    plane = _plane(states)
    # Axes of equal length, so that angles turn as evenly as they can.
    width = jnp.sqrt(jnp.mean(plane**2, axis=0))
    plane = plane / jnp.where(width > 0, width, 1)[None]
    angle = jnp.arctan2(plane[:, 1], plane[:, 0]) / (2 * jnp.pi)
    raw = jnp.diff(angle)
    # Either way round is right; take the branch cut where there are no steps.
    turn = jnp.exp(2j * jnp.pi * raw)
    middle = jnp.angle(jnp.mean(turn)) / (2 * jnp.pi)
    steps = middle + raw - middle - jnp.round(raw - middle)
    half = steps.size // 2
    place = (jnp.arange(half, dtype=states.dtype) + 0.5) / half
    weight = jnp.exp(-1 / (place * (1 - place)))
    mean = lambda s: jnp.sum(weight * s) / jnp.sum(weight)
    early, late = mean(steps[:half]), mean(steps[half : 2 * half])
    rotation = (early + late) / 2
    error = jnp.abs(early - late)
    phase = jnp.mod(jnp.arange(states.shape[0]) * rotation, 1)
    ordered = states[jnp.argsort(phase)]
    # Each variable in its own extent, unless that is rounding.
    extent = (jnp.max(states, axis=0) - jnp.min(states, axis=0)) / 2
    least = 1e-9 * jnp.maximum(norm(extent), jnp.max(jnp.abs(states), axis=0))
    extent = jnp.maximum(extent, least)
    jumps = jnp.max(jnp.abs(ordered - jnp.roll(ordered, 1, axis=0)), axis=0)
    gap = jnp.max(jumps / jnp.where(extent > 0, extent, 1))
    rotation = jnp.abs(rotation - jnp.round(rotation))
    return rotation, error, gap
