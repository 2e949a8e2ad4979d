"""Levenberg-Marquardt for many small dense problems at once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from ..._core._jacobian import jacobian
from ..._core._masks import after, norm


class LMState(eqx.Module):
    """What one problem carries from step to step.

    **Attributes:**

    - `damping`: relative damping of the next step.
    - `scale`: unit of the damping: the largest diagonal element of J^T J, with a slow
        memory (where J vanishes, as at a minimum of 1 + x^2, it is no unit).
    - `flat_gradient`: gradient where the last step changed the speed by rounding
        only, else 0.
    - `speed`: |f| at the present point.
    - `step`: length of the Gauss-Newton step proposed last.
    - `slope`: |J^T f| max(1, |x|, |v|) / |f|^2 before the last step v: the relative
        decrease of |f|^2 / 2 to first order over a distance of the size of the state
        (of the step if that is more, as on the way to a root far out).
    - `ratio`: length of the last proposed step over that of the one before; 0 after
        the first step. It stays near 1/2 at a fold, whether there is a root or not.
    - `at_rounding`: whether each component of f is within its rounding.
    - `precise`: whether the step proposed last solves its equations; only a step of
        mixed precision may not.
    - `too_soft`: whether that is so because J is too ill-conditioned for float32.
    """

    damping: Float[Array, ""]
    scale: Float[Array, ""]
    flat_gradient: Float[Array, " state"]
    speed: Float[Array, ""]
    step: Float[Array, ""]
    slope: Float[Array, ""]
    ratio: Float[Array, ""]
    at_rounding: Bool[Array, ""]
    precise: Bool[Array, ""]
    too_soft: Bool[Array, ""]


class LevenbergMarquardt(optx.AbstractLeastSquaresSolver):
    """Damped Gauss-Newton steps by Cholesky of the normal equations.

    Minimises |f(x)|^2 / 2. The step solves (J^T J + mu I) v = -J^T f with
    mu = damping min(1, |f|) max diag(J^T J): the factor |f| makes the convergence to a
    root quadratic. A second-order correction along v (geodesic acceleration) re-uses
    the factor and saves about a fifth of the steps on random networks. At N = 64 to
    128 a solve takes a quarter to a fifth of the CPU time of a QR of the stacked
    (2N, N) system (benchmarks/fixed_points.py). Squaring the condition number costs
    steps at ill-conditioned roots, not accuracy: f itself decides when to stop.
    Searches in float64 factorise in float32 from 48 unknowns on, refine the step in
    float64, and go on in float64 alone where the refinement does not converge.

    Usable in `optimistix.least_squares` and `optimistix.root_find`; the searches of
    this room run many of them side by side.

    **Arguments:**

    - `rtol`, `atol`: where a solve by optimistix ends; searches have tolerances of
        their own. `norm`: kept for optimistix, not used.
    - `damping`: of the first step, relative; `shrink`, `grow`: its factors after steps
        that lower |f|^2 as predicted, or not.
    - `acceleration`: longest correction of second order, relative to its step.

    **Reference:** K. Levenberg 1944; D. Marquardt 1963, doi:10.1137/0111030;
    M. Transtrum & J. Sethna 2012, arXiv:1201.5885 (acceleration).
    """

    rtol: float = 1e-10
    atol: float = 1e-12
    norm: Callable = optx.max_norm
    damping: float = 0.03
    shrink: float = 1 / 3
    grow: float = 3.0
    acceleration: float = 0.4

    def start(self, x: Float[Array, " state"]) -> LMState:
        """The state before the first step at the flat vector `x`."""
        one = jnp.ones((), x.dtype)
        return LMState(
            damping=self.damping * one,
            scale=0 * one,
            flat_gradient=jnp.zeros_like(x),
            speed=jnp.inf * one,
            step=jnp.inf * one,
            slope=jnp.inf * one,
            ratio=0 * one,
            at_rounding=jnp.asarray(False),
            precise=jnp.asarray(True),
            too_soft=jnp.asarray(False),
        )

    def advance(
        self,
        fn: Callable,
        x: Float[Array, " state"],
        state: LMState,
        log_weight: Callable | None = None,
        mixed: bool = False,
    ) -> tuple[Float[Array, " state"], LMState]:
        """One damped step of `fn`: vector -> vector; the point moves only downhill.

        With `log_weight`: vector -> scalar the step is one of exp(log_weight) fn. With
        `mixed` the normal equations are factorised in float32, at less cost; their
        solution is refined once in the dtype of `x`, and `precise` of the state says
        whether that was enough.
        """
        eps = jnp.finfo(x.dtype).eps
        jac, f = jacobian(fn, x)
        if log_weight is not None:
            # A scalar factor m changes J by a term of rank one: d(m f) = m (J + f w^T).
            level, w = jax.value_and_grad(log_weight)(x)
            plain = fn
            fn = lambda y: jnp.exp(log_weight(y)) * plain(y)
            jac = jnp.exp(level) * (jac + f[:, None] * w[None, :])
            f = jnp.exp(level) * f
        speed = norm(f)
        gradient = jac.T @ f
        low = jnp.float32 if mixed else x.dtype
        # In units of the largest element nothing overflows in float32.
        unit, rows = jnp.ones((), x.dtype), jac
        if mixed:
            unit = jnp.max(jnp.abs(jac))
            unit = jnp.where(unit > 0, unit, 1)
            rows = (jac / unit).astype(low)
        normal = rows.T @ rows
        own = jnp.diag(normal).astype(x.dtype) * unit**2
        largest = jnp.max(own)
        scale = jnp.maximum(1e-4 * state.scale, largest)

        # Speeds that agree to rounding cannot steer the damping; the direction of
        # the gradient can: it turns round when the last step was too long.
        last = jnp.vdot(state.flat_gradient, gradient)
        damping = state.damping * jnp.where(
            last < 0, 4.0, jnp.where(last > 0, 0.5, 1.0)
        ).astype(x.dtype)

        # Rounding of the largest column, or of one that is in far smaller units.
        least = jnp.where(own < 1e-4 * largest, own, largest)
        least = 4 * eps * jnp.maximum(least, eps**2 * largest)
        mu = damping * jnp.minimum(1, speed) * scale + least
        floor = (8 * jnp.finfo(low).eps if mixed else 0) * largest
        factor, lower = jax.scipy.linalg.cho_factor(
            normal + jnp.diag(((mu + floor) / unit**2).astype(low))
        )

        def solve(*columns):
            b = jnp.stack(columns, axis=1)
            size = jnp.maximum(jax.vmap(norm)(b.T), jnp.finfo(x.dtype).tiny)
            y = jax.scipy.linalg.cho_solve(
                (factor, lower), (b / size[None, :]).astype(low)
            )
            return tuple((y.astype(x.dtype) * (size / unit**2)[None, :]).T)

        def second_order(v):
            along = lambda y: jax.jvp(fn, (y,), (v,))[1]
            return jac.T @ jax.jvp(along, (x,), (v,))[1]

        precise = jnp.asarray(True)
        if mixed:
            (v,) = solve(-gradient)
            defect = -gradient - jac.T @ (jac @ v) - mu * v
            more, a = solve(defect, second_order(v))
            precise = norm(more) <= 0.1 * norm(v)
            v, a = v + more, -0.5 * a
        else:
            v = -jax.scipy.linalg.cho_solve((factor, lower), gradient)
            # In turn, see `after`: what is second order may not depend on v.
            bend = after(norm(v), second_order(v))
            a = -0.5 * jax.scipy.linalg.cho_solve((factor, lower), bend)
        # An over-long correction is shortened, a non-finite one dropped.
        ratio = norm(a) / (self.acceleration * norm(v))
        a = jnp.where(jnp.isfinite(ratio), a / jnp.maximum(1, ratio), 0)

        trial = x + v + a
        trial_f = fn(trial)
        trial_speed = norm(trial_f)
        rounding = 8 * eps * (jnp.abs(jac) @ jnp.abs(x) + jnp.abs(x))
        predicted = 0.5 * jnp.vdot(v, mu * v - gradient)
        gain = 0.5 * (speed**2 - trial_speed**2) / predicted
        flat = jnp.abs(trial_speed - speed) <= 32 * eps * speed
        # A constant system has the same speed at any step, one that is NaN too.
        accept = (((trial_speed < speed) & (gain > 1e-3)) | flat) & jnp.all(
            jnp.isfinite(trial)
        )
        change = jnp.where(gain > 0.75, self.shrink, self.grow).astype(x.dtype)
        change = jnp.where(flat | ((gain > 0.25) & (gain <= 0.75)), 1, change)
        # Where J is 0 there is no step.
        reach = jnp.maximum(norm(x), jnp.where(jnp.isfinite(norm(v)), norm(v), 0))
        reach = jnp.maximum(1, reach)
        state = LMState(
            jnp.clip(damping * change, eps, 1 / eps**2),
            scale,
            jnp.where(flat, gradient, 0),
            jnp.where(accept, trial_speed, speed),
            norm(v),
            norm(gradient) * reach / speed**2,
            norm(v) / state.step,
            jnp.all(jnp.abs(trial_f) <= rounding),
            precise,
            ~precise & (jnp.min(mu) < 4 * floor),
        )
        return jnp.where(accept, trial, x), state

    # The optimistix interface.

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Any:
        flat, _ = ravel_pytree(y)
        return self.start(flat)

    def step(self, fn, y, args, options, state, tags) -> tuple[Any, Any, Any]:
        flat, unravel = ravel_pytree(y)
        vector_fn = lambda v: ravel_pytree(fn(unravel(v), args)[0])[0]
        flat, state = self.advance(vector_fn, flat, state)
        y = unravel(flat)
        return y, state, fn(y, args)[1]

    def terminate(
        self, fn, y, args, options, state, tags
    ) -> tuple[Bool[Array, ""], optx.RESULTS]:
        flat, _ = ravel_pytree(y)
        eps = jnp.finfo(flat.dtype).eps
        small = self.atol + self.rtol * norm(flat)
        root = (state.speed <= self.atol) & (state.step <= small)
        minimum = state.slope <= jnp.maximum(self.rtol, eps ** (1 / 3))
        return root | minimum, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def check_solver(solver: Any) -> None:
    """`ValueError` unless searches, which run many solves in lanes, can use it."""
    if not isinstance(solver, LevenbergMarquardt | None):
        raise ValueError(
            f"`solver` is a {type(solver).__name__}, expected a "
            "rnndyn.dynamics.LevenbergMarquardt: searches run many solves in lanes."
        )
