"""The result of a search for a limit cycle."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from ..._core._export import Result
from ..._core._verdicts import Verdict
from ..points._points import Frozen, Values
from ._mesh import Mesh


SAMPLES = 8
"""Places in every piece at which `extrema` looks."""


NEUTRAL = 1e-6
"""Logarithms of multipliers below this are taken for 0, in float64."""


class LimitCycle(Result):
    """A periodic orbit of a flow, or the place where the search for one ended.

    `x0`, `period`, `orbit` and `log_multipliers` are differentiable by the implicit
    function theorem, in both modes, in whatever `f` and `args` depend on. Derivatives
    of points are those of the orbit at fixed phase: `x0` moves in the plane normal to
    the flow. (Its value lies wherever the search ended on the orbit.) All derivatives
    of an orbit that is not isolated, or has shrunk to a point, are 0. Where logarithms
    cross, each of them has the derivative of no branch in particular; their sum is
    right.

    **Attributes:**

    - `x0`: a point on the orbit, shape `(state,)`; `period`: in the time unit of the
        flow.
    - `orbit`: shape `(nodes, state)`, at `times` `(nodes,)` from 0 to the period;
        first point = last. Equally spaced unless some stretch is much stiffer than
        the rest, which then gets more nodes.
    - `log_multipliers`: complex logarithms of the Floquet multipliers, shape
        `(state,)`, real part descending.
    - `trivial`: which of them is the one along the flow, whose logarithm should be 0.
    - `accuracy`: |its logarithm|, or the rounding error of the others if that is
        larger: the error that they can be trusted to. `defect`: see `Floquet`.
    - `phase_response`: infinitesimal phase response along the orbit, `(nodes, state)`:
        time by which the oscillation is advanced per unit of displacement of each
        state (the adjoint Floquet vector Z with Z . f = 1). No derivative.
    - `residual`: largest gap between the end of a segment and the next one's start,
        relative to max(1, |x|).
    - `error`, `log_error`: relative changes, when the step is halved, of the period
        and of the logarithms (of these relative to max(1, |ln m|), the largest), from
        `certify`; NaN before. `log_error` is also at least the part of their sum that
        the divergence of the flow contradicts (Liouville's formula): multipliers too
        small for the steps are lost at any step. A small residual says that the orbit
        closes, not that the steps were short enough: only these and `accuracy` say so.
    - `step`: length of the Newton step from here, relative to the size of the orbit
        (or of the period): the error of the orbit for its steps of integration.
    - `extent`: largest distance of the nodes from their mean over time.
    - `verdict`: `limit_cycle` if the residual is below `tol`, the Newton step below
        1e-6 (1e-2 in float32), the trivial logarithm below the root of `tol`, and no
        other logarithm within 1e-6 (1e-3), or three times the trivial one, of 0: such
        an orbit is not known to be isolated (a centre, a fold of cycles) and is
        `undetermined`. `constant` if the orbit has shrunk to a point; `diverged` if the
        first run does.
    - `stability`: -1 stable, 1 unstable, 0 undecided; `margin`: the largest real part
        of the other logarithms.
    - `num_steps`: how many times the orbit was integrated.
    """

    x0: Float[Values, "*batch state"]
    period: Float[Values, "*batch"]
    orbit: Float[Values, "*batch nodes state"]
    times: Float[Values, "*batch nodes"]
    log_multipliers: Complex[Values, "*batch state"]
    trivial: Int[Values, "*batch"]
    accuracy: Float[Values, "*batch"]
    defect: Float[Values, "*batch"]
    phase_response: Float[Values, "*batch nodes state"]
    residual: Float[Values, "*batch"]
    error: Float[Values, "*batch"]
    log_error: Float[Values, "*batch"]
    step: Float[Values, "*batch"]
    extent: Float[Values, "*batch"]
    verdict: Int[Values, "*batch"]
    stability: Int[Values, "*batch"]
    margin: Float[Values, "*batch"]
    num_steps: Int[Values, "*batch"]
    problem: Frozen
    mesh: Mesh
    kind: str = eqx.field(static=True, default="flow")

    def headline(self) -> str:
        """Verdict, period, stability and the leading logarithm."""
        if np.ndim(self.period):
            return f"{np.sum(np.asarray(self.mask))} found of {np.size(self.period)}"
        how = {-1: "stable", 0: "undecided", 1: "unstable"}[int(self.stability)]
        return (
            f"{Verdict(int(self.verdict)).name}, period {self.period:.8g}, {how}, "
            f"largest ln|m| {self.margin:.4g}, residual {self.residual:.1g}, error "
            f"{self.error:.1g}"
        )

    @property
    def multipliers(self) -> Complex[Values, "*batch state"]:
        """The Floquet multipliers; may underflow where their logarithms do not."""
        logs = self.log_multipliers
        return np.exp(logs) if isinstance(logs, np.ndarray) else jnp.exp(logs)

    @property
    def mask(self) -> Bool[Values, "*batch"]:
        """Whether a limit cycle was found."""
        found = self.verdict == Verdict.limit_cycle
        return np.asarray(found) if isinstance(found, np.bool_) else found

    def check(self) -> "LimitCycle":
        """Itself, or a `ValueError` if no cycle was found. Host level."""
        if not bool(np.all(np.asarray(self.mask))):
            verdict = Verdict(int(np.min(np.asarray(self.verdict))))
            residual = float(np.max(np.asarray(self.residual)))
            advice = (
                f"{verdict.advice} Try another start or period, or more `segments`."
            )
            if np.ndim(self.period) == 0 and residual < 1e-6:
                others = np.delete(self.log_multipliers, int(self.trivial))
                if np.min(np.abs(others), initial=np.inf) <= NEUTRAL:
                    advice = (
                        "It closes, but a second multiplier is 1: it is one of a "
                        "family (a centre) or at a fold of cycles, and not isolated."
                    )
            raise ValueError(
                f"the search ended as {verdict.name!r} with residual {residual:.1e}. "
                f"{advice}"
            )
        return self

    def at(self, time: Any) -> Float[Array, " state"]:
        """The state `time` after `x0` (any sign), by integration from the nearest
        earlier node. Not batched: use `jax.vmap`."""
        time = jnp.asarray(time, self.orbit.dtype)
        time = time - lax.stop_gradient(jnp.floor(time / self.period)) * self.period
        k = jnp.searchsorted(jnp.asarray(self.times), time, side="right") - 1
        k = jnp.clip(k, 0, self.orbit.shape[0] - 2)
        return self._from_node(k, time - self.times[k])

    def extrema(
        self, observable: Callable
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Smallest and largest value of `observable(x) -> number` on the orbit.

        Refined between the nodes by Newton's method on its rate of change, and
        differentiable (envelope theorem). The amplitude of unit i is
        `cycle.extrema(lambda x: x[i])[1]`. Not batched: use `jax.vmap`. Extrema
        narrower than an eighth of the spacing of the nodes can be missed.
        """
        spacings = jnp.diff(jnp.asarray(self.times)) / SAMPLES
        velocity = self._velocity()

        def along(x, spacing):
            step = lambda x, _: (self.mesh.through(velocity, x, spacing), x)
            return lax.scan(step, x, None, length=SAMPLES)[1]

        fine = jax.vmap(along)(jnp.asarray(self.orbit)[:-1], spacings)
        values = jax.vmap(jax.vmap(observable))(fine).ravel()
        ends = jnp.stack([jnp.argmin(values), jnp.argmax(values)])
        low, high = jax.vmap(lambda i: self._extremum(observable, i))(ends)
        return low, high

    def _extremum(self, observable, i):
        velocity = self._velocity()
        k, start = i // SAMPLES, i % SAMPLES
        rate = lambda x: jax.jvp(observable, (x,), (velocity(x),))[1]
        spacing = jnp.diff(jnp.asarray(self.times))[k] / SAMPLES

        def newton(_, shift):
            x = self._from_node(k, shift)
            value, bend = jax.jvp(rate, (x,), (velocity(x),))
            step = value / jnp.where(bend == 0, 1, bend)
            shift = shift - jnp.clip(step, -spacing, spacing)
            return jnp.clip(shift, (start - 1) * spacing, (start + 1) * spacing)

        shift = lax.fori_loop(0, 8, newton, start * spacing)
        return observable(self._from_node(k, lax.stop_gradient(shift)))

    def _velocity(self):
        system, args = self.problem.thaw()
        return lambda x: system(jnp.zeros((), x.dtype), x, args)

    def _from_node(self, k, duration):
        return self.mesh.through(self._velocity(), jnp.asarray(self.orbit)[k], duration)
