"""Adaptive, stiff and stochastic integration by diffrax."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import as_float, check_count, check_key, is_concrete
from ._base import AbstractFlow, Trajectory, all_finite
from ._inputs import switch_times
from ._scan import _times, check_flow


class DiffraxFlow(AbstractFlow):
    """A flow by any diffrax solver.

    **Arguments:**

    - `solver`: any diffrax solver, `Tsit5()` by default; an implicit one
        (`Kvaerno5()`) for stiff systems.
    - `controller`: step-size controller; `PIDController` at tolerance 1e-5 for
        float32 states and 1e-10 for float64 ones by default.
    - `adjoint`: `RecursiveCheckpointAdjoint` by default (reverse mode only);
        `DirectAdjoint()` for both modes and for shooting.
    - `sigma`: amplitude of additive white noise, in state units per square root of a
        second (an SDE in the Ito sense; needs a
        `key`, a solver for SDEs such as `diffrax.Euler()`, and `dt0`). The noise is
        white for steps down to `dt0`, or `dt0 / 1000` with an adaptive controller.
    - `event`: a `diffrax.Event` at which to stop; its state is then returned.
    - `dt0`: length of the first step in seconds, chosen by the solver if `None`.
    - `max_steps`: after which the solve counts as failed.
    - `throw`: raise when a solve fails; otherwise the end state is NaN, and
        `Trajectory.ok` says so.

    Times are cast to the dtype of the state. Switching times of `HeldInput` and
    `PulseInput` are passed to the controller, so no step straddles one.
    """

    solver: dfx.AbstractSolver
    controller: dfx.AbstractStepSizeController | None
    adjoint: dfx.AbstractAdjoint
    sigma: Float[Array, "..."] | None
    event: dfx.Event | None
    dt0: float | None
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    def __init__(
        self,
        solver: dfx.AbstractSolver | None = None,
        controller: dfx.AbstractStepSizeController | None = None,
        adjoint: dfx.AbstractAdjoint | None = None,
        sigma: Any = None,
        event: dfx.Event | None = None,
        dt0: float | None = None,
        max_steps: int = 16384,
        throw: bool = True,
    ):
        self.solver = dfx.Tsit5() if solver is None else solver
        self.controller = controller
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        self.sigma = None if sigma is None else as_float(sigma, "sigma")
        self.event = event
        self.dt0 = dt0
        self.max_steps = max_steps
        self.throw = throw
        check_count("max_steps", max_steps)
        for name, value, kind in (
            ("solver", self.solver, dfx.AbstractSolver),
            ("adjoint", self.adjoint, dfx.AbstractAdjoint),
            ("controller", controller, dfx.AbstractStepSizeController | None),
            ("event", event, dfx.Event | None),
        ):
            if not isinstance(value, kind):
                raise ValueError(
                    f"{name} = {value!r}, expected an object of diffrax, such as "
                    "solver=diffrax.Kvaerno5()."
                )
        if dt0 is not None and is_concrete(dt0) and not 0 < np.abs(dt0) < np.inf:
            raise ValueError(f"dt0 = {dt0}, expected a length of time, not 0.")

    def __call__(self, f, x0, t0, t1, args=None, *, key=None):
        x, ok = self.advance(f, x0, t0, t1, args, key=key)
        return jax.tree.map(lambda a: jnp.where(ok, a, jnp.nan), x)

    def advance(self, f, x0, t0, t1, args=None, *, key=None):
        """Like a call, but `(x, ok)`: where `ok` is false, `x` is the state that the
        solver had reached. Implicit solvers can be called again with that; NaN would
        make their linear solves raise."""
        t0, t1 = _times(x0, t0), _times(x0, t1)
        solution = self._solve(f, x0, t0, t1, args, key, dfx.SaveAt(t1=True))
        # A time that is NaN ends the solve at once, as if all had gone well.
        ok = _succeeded(solution) & ~jnp.isnan(t1 - t0)
        return jax.tree.map(lambda a: a[-1], solution.ys), ok

    def trajectory(self, f, x0, ts, args=None, *, key=None):
        ts = _times(x0, ts, ndim=1)
        solution = self._solve(f, x0, ts[0], ts[-1], args, key, dfx.SaveAt(ts=ts))
        # After an event there are no states: diffrax fills up with infinities.
        ok = _succeeded(solution) & all_finite(solution.ys)
        return Trajectory(ts=ts, xs=solution.ys, ok=ok)

    def _solve(self, f, x0, t0, t1, args, key, saveat):
        check_flow(f)
        dtype = t0.dtype
        # Steps run the way that time does.
        dt0 = None
        if self.dt0 is not None:
            dt0 = jnp.copysign(jnp.asarray(self.dt0, dtype), t1 - t0)
        controller = self._controller(args, dtype)
        field = dfx.ODETerm(lambda t, x, args: f(t, x, args))
        terms = field
        if self.sigma is not None:
            if key is None:
                raise ValueError("key = None, expected a PRNG key: sigma is set.")
            check_key(key)
            if self.dt0 is None:
                raise ValueError(
                    "dt0 = None, expected a number: sigma is set, and the step says "
                    "how finely noise is resolved. Pass dt0, e.g. a tenth of tau."
                )
            shape = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x0)
            # Below its tolerance the tree interpolates: increments over shorter steps
            # are correlated and too small. Adaptive steps may be far below the first.
            constant = isinstance(controller, dfx.ConstantStepSize)
            finest = (0.5 if constant else 2.0**-11) * self.dt0
            tol = jnp.abs(jnp.asarray(finest, dtype))
            # A path has some length, also where the flow has none.
            span = jnp.where(t1 == t0, tol, jnp.abs(t1 - t0))
            tol = jnp.minimum(span * 2.0**-12, tol)
            begin = jnp.minimum(t0, t1)
            path = dfx.VirtualBrownianTree(begin, begin + span, tol, shape, key)
            level = self.sigma.astype(dtype)
            sigma = jax.tree.map(lambda a: jnp.broadcast_to(level, a.shape), x0)
            noise = dfx.ControlTerm(
                lambda t, x, args: lx.DiagonalLinearOperator(sigma), path
            )
            terms = dfx.MultiTerm(field, noise)
        return dfx.diffeqsolve(
            terms,
            self.solver,
            t0=t0,
            t1=t1,
            dt0=dt0,
            y0=x0,
            args=args,
            saveat=saveat,
            stepsize_controller=controller,
            adjoint=self.adjoint,
            event=self.event,
            max_steps=self.max_steps,
            throw=self.throw,
        )

    def _controller(self, args, dtype) -> Any:
        if self.controller is not None:
            controller: Any = self.controller
        elif self.sigma is not None:
            controller = dfx.ConstantStepSize()
        else:
            tol = 1e-5 if dtype == jnp.float32 else 1e-10
            controller = dfx.PIDController(rtol=tol, atol=tol)
        jumps = switch_times(args)
        if jumps is None or isinstance(controller, dfx.ConstantStepSize):
            return controller
        return dfx.ClipStepSizeController(controller, jump_ts=jumps.astype(dtype))


def _succeeded(solution: dfx.Solution) -> Any:
    return (solution.result == dfx.RESULTS.successful) | (
        solution.result == dfx.RESULTS.event_occurred
    )
