"""Adaptive, stiff and stochastic integration by diffrax."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ._base import AbstractFlow, Trajectory, all_finite
from ._inputs import switch_times
from ._scan import _times


class DiffraxFlow(AbstractFlow):
    """A flow by any diffrax solver.

    **Arguments:**

    - `solver`: any diffrax solver, `Tsit5()` by default; an implicit one
        (`Kvaerno5()`) for stiff systems.
    - `controller`: step-size controller; `PIDController` at tolerance 1e-5 for
        float32 states and 1e-10 for float64 ones by default.
    - `adjoint`: `RecursiveCheckpointAdjoint` by default (reverse mode only);
        `DirectAdjoint()` for both modes and for shooting.
    - `sigma`: amplitude of additive white noise (an SDE in the Ito sense; needs a
        `key`, a solver for SDEs such as `diffrax.Euler()`, and `dt0`). The noise is
        white for steps down to `dt0`, or `dt0 / 1000` with an adaptive controller.
    - `event`: a `diffrax.Event` at which to stop; its state is then returned.
    - `dt0`: first step, chosen by the solver if `None`.
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
        self.sigma = None if sigma is None else jnp.asarray(sigma)
        self.event = event
        self.dt0 = dt0
        self.max_steps = max_steps
        self.throw = throw

    def __call__(self, f, x0, t0, t1, args=None, *, key=None):
        x, ok = self.advance(f, x0, t0, t1, args, key=key)
        return jax.tree.map(lambda a: jnp.where(ok, a, jnp.nan), x)

    def advance(self, f, x0, t0, t1, args=None, *, key=None):
        """Like a call, but `(x, ok)`: where `ok` is false, `x` is the state that the
        solver had reached. Implicit solvers can be called again with that; NaN would
        make their linear solves raise."""
        t0, t1 = _times(x0, t0), _times(x0, t1)
        solution = self._solve(f, x0, t0, t1, args, key, dfx.SaveAt(t1=True))
        return jax.tree.map(lambda a: a[-1], solution.ys), _succeeded(solution)

    def trajectory(self, f, x0, ts, args=None, *, key=None):
        ts = _times(x0, ts)
        solution = self._solve(f, x0, ts[0], ts[-1], args, key, dfx.SaveAt(ts=ts))
        # After an event there are no states: diffrax fills up with infinities.
        ok = _succeeded(solution) & all_finite(solution.ys)
        return Trajectory(ts=ts, xs=solution.ys, ok=ok)

    def _solve(self, f, x0, t0, t1, args, key, saveat):
        dtype = t0.dtype
        controller = self._controller(args, dtype)
        field = dfx.ODETerm(lambda t, x, args: f(t, x, args))
        terms = field
        if self.sigma is not None:
            if key is None:
                raise ValueError("key = None, expected a PRNG key: sigma is set.")
            if self.dt0 is None:
                raise ValueError(
                    "dt0 = None, expected a number: sigma is set, and the step says "
                    "how finely noise is resolved. Pass dt0, e.g. a tenth of tau."
                )
            shape = jax.ShapeDtypeStruct(x0.shape, x0.dtype)
            # Below its tolerance the tree interpolates: increments over shorter steps
            # are correlated and too small. Adaptive steps may be far below the first.
            constant = isinstance(controller, dfx.ConstantStepSize)
            finest = (0.5 if constant else 2.0**-11) * self.dt0
            tol = jnp.abs(jnp.asarray(finest, dtype))
            tol = jnp.minimum(jnp.abs(t1 - t0) * 2.0**-12, tol)
            path = dfx.VirtualBrownianTree(
                jnp.minimum(t0, t1), jnp.maximum(t0, t1), tol, shape, key
            )
            sigma = jnp.broadcast_to(jnp.asarray(self.sigma, dtype), x0.shape)
            noise = dfx.ControlTerm(
                lambda t, x, args: lx.DiagonalLinearOperator(sigma), path
            )
            terms = dfx.MultiTerm(field, noise)
        return dfx.diffeqsolve(
            terms,
            self.solver,
            t0=t0,
            t1=t1,
            dt0=None if self.dt0 is None else jnp.asarray(self.dt0, dtype),
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
