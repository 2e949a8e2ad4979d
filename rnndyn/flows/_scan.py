"""Fixed-step integration in one `lax.scan`: small programs, both AD modes."""

import abc
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import is_concrete
from .._core._system import Map
from ._base import AbstractFlow, Trajectory, all_finite
from ._inputs import HeldInput, PulseInput


_HELD = (HeldInput, PulseInput)


class AbstractMethod(eqx.Module):
    """One step of fixed length. Implement this; `ScanFlow` does the rest."""

    @abc.abstractmethod
    def step(self, f: Any, t: Any, x: Any, dt: Any, args: Any, key: Any) -> Any:
        """The state at `t + dt`."""


class ExplicitRungeKutta(AbstractMethod):
    """Any explicit Runge-Kutta method by its Butcher tableau.

    **Arguments:** `a` (strictly lower triangular rows), `b`, `c`, and the `order` of
    convergence. Use the named constructors `Euler`, `Heun`, `RK4`, `Dopri8`.
    """

    a: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    b: tuple[float, ...] = eqx.field(static=True)
    c: tuple[float, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)

    def step(self, f, t, x, dt, args, key):
        stages = []
        for row, c in zip(self.a, self.c, strict=True):
            stages.append(f(t + c * dt, _advance(x, dt, row, stages), args))
        return _advance(x, dt, self.b, stages)


def _advance(x, dt, weights, stages):
    used = [(w, k) for w, k in zip(weights, stages, strict=True) if w != 0]
    if not used:
        return x
    return jax.tree.map(
        lambda xi, *ks: (
            xi + dt * sum(w * k for (w, _), k in zip(used, ks, strict=True))
        ),
        x,
        *(k for _, k in used),
    )


def Euler() -> ExplicitRungeKutta:
    """Euler's method, order 1: the map of the papers."""
    return ExplicitRungeKutta(((),), (1.0,), (0.0,), 1)


def Heun() -> ExplicitRungeKutta:
    """Heun's (explicit trapezoidal) method, order 2."""
    return ExplicitRungeKutta(((), (1.0,)), (0.5, 0.5), (0.0, 1.0), 2)


def RK4() -> ExplicitRungeKutta:
    """The classical Runge-Kutta method, order 4."""
    a = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    return ExplicitRungeKutta(a, (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0), 4)


def Dopri8() -> ExplicitRungeKutta:
    """Prince and Dormand's method of order 8 (RK8(7)13M, 13 stages), for orbits that
    must close to rounding error.

    **Reference:** Prince & Dormand 1981, doi:10.1016/0771-050X(81)90010-3.
    """
    tableau = dfx.Dopri8.tableau
    rows = ((), *(tuple(float(v) for v in row) for row in tableau.a_lower))
    b = tuple(float(v) for v in np.asarray(tableau.b_sol))
    used = max(i for i, w in enumerate(b) if w != 0) + 1
    c = (0.0, *(float(v) for v in np.asarray(tableau.c)))
    return ExplicitRungeKutta(rows[:used], b[:used], c[:used], 8)


class EulerMaruyama(AbstractMethod):
    """Euler steps with additive white noise, `dx = f dt + sigma dW`.

    **Arguments:** `sigma`: amplitude, a number or an array broadcast against the
    state, in state units per square root of a second. Needs a `key`.
    """

    sigma: Float[Array, "..."] = eqx.field(converter=jnp.asarray)

    def step(self, f, t, x, dt, args, key):
        if key is None:
            raise ValueError("key = None, expected a PRNG key: the method is random.")
        scale = jnp.sqrt(jnp.abs(dt))
        leaves, treedef = jax.tree.flatten(x)
        keys = jax.tree.unflatten(treedef, list(jr.split(key, len(leaves))))
        return jax.tree.map(
            lambda xi, v, k: (
                xi
                + dt * v
                + scale
                * jnp.asarray(self.sigma, xi.dtype)
                * jr.normal(k, xi.shape, xi.dtype)
            ),
            x,
            f(t, x, args),
            keys,
        )


class ScanFlow(AbstractFlow):
    """Fixed-step flow, differentiable in forward and reverse mode.

    **Arguments:** give exactly one of

    - `dt`: step in seconds; times must then be concrete, and the interval is cut into
        the fewest equal steps not longer than `dt`.
    - `num_steps`: number of steps from `t0` to `t1` (per interval in `trajectory`);
        the times may then be traced, as shooting with an unknown period needs.

    and `method`, `RK4()` by default.

    Every stage of a step sees the input that a `HeldInput` or `PulseInput` has in the
    middle of the step. Not guaranteed: accuracy; halve the step and compare.
    """

    dt: float | None = eqx.field(static=True)
    num_steps: int | None = eqx.field(static=True)
    method: AbstractMethod

    def __init__(
        self,
        dt: float | None = None,
        num_steps: int | None = None,
        method: AbstractMethod | None = None,
    ):
        if (dt is None) == (num_steps is None):
            raise ValueError(
                f"dt = {dt} and num_steps = {num_steps}, expected exactly one of them."
            )
        if dt is not None and not dt > 0:
            raise ValueError(f"dt = {dt}, expected a step > 0 in seconds.")
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps = {num_steps}, expected at least one step.")
        self.dt = dt
        self.num_steps = num_steps
        self.method = RK4() if method is None else method

    def _steps(self, *times: Any) -> int:
        """Steps for the longest of the intervals between `times`."""
        if self.dt is None:
            assert self.num_steps is not None
            return self.num_steps
        if not all(is_concrete(t) for t in times):
            raise ValueError(
                "the end time is traced but the number of steps must be known. "
                "Pass ScanFlow(num_steps=...) instead of dt."
            )
        joined = np.concatenate([np.ravel(t) for t in times])
        if not np.all(np.isfinite(joined)):
            raise ValueError(
                f"the times are {joined}, expected finite seconds. Pass the end of the "
                "interval, and num_steps= if it has to be traced."
            )
        # Rounding of t1 - t0 must not cost a step.
        spans = np.diff(joined)
        ratio = float(np.max(np.abs(spans), initial=0.0)) / self.dt
        return max(int(np.ceil(ratio - 1e-6 * max(ratio, 1))), 1)

    def __call__(self, f, x0, t0, t1, args=None, *, key=None):
        num_steps = self._steps(t0, t1)
        t0, t1 = _times(x0, t0), _times(x0, t1)
        return self._run(f, x0, t0, t1, num_steps, args, key)

    def trajectory(self, f, x0, ts, args=None, *, key=None):
        num_steps = self._steps(ts)
        ts = _times(x0, ts)

        def interval(carry, inputs):
            x, key = carry
            t0, t1 = inputs
            here, key = (None, None) if key is None else jr.split(key)
            x = self._run(f, x, t0, t1, num_steps, args, here)
            return (x, key), x

        _, xs = jax.lax.scan(interval, (x0, key), (ts[:-1], ts[1:]))
        xs = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), x0, xs)
        return Trajectory(ts=ts, xs=xs, ok=all_finite(xs))

    def _run(self, f, x0, t0, t1, num_steps, args, key):
        dt = (t1 - t0) / num_steps

        def step(x, k):
            t = t0 + k * dt
            # Between the ends of the step the value is the same whichever way time
            # runs and however the grid was rounded.
            held = args(t + 0.5 * dt) if isinstance(args, _HELD) else args
            here = None if key is None else jr.fold_in(key, k)
            return self.method.step(f, t, x, dt, held, here), None

        return jax.lax.scan(step, x0, jnp.arange(num_steps))[0]


def _times(x0: Any, t: Any) -> Array:
    """Times in the dtype of the state: mixing them would promote the state."""
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"x0 has dtype {dtype}, expected floats: pass jnp.asarray(x0, float)."
        )
    return jnp.asarray(t, dtype)


def iterate(
    system: Map,
    x0: Any,
    num_steps: int,
    inputs: Any = None,
) -> Any:
    """States `x_1 .. x_n` of a map.

    **Arguments:**

    - `system`: a `Map`.
    - `x0`: the start, any pytree.
    - `num_steps`: how many steps.
    - `inputs`: `None`, or a pytree with a leading axis of `num_steps`: `inputs[k]` is
        what takes `x_k` to `x_{k+1}`.

    **Returns:** the states after each step, with a leading axis of `num_steps`.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}, expected at least one step.")

    def step(x, u):
        x = system(x, u)
        return x, x

    return jax.lax.scan(step, x0, inputs, length=num_steps)[1]
