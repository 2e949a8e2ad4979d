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

from .._core._checks import (
    as_float,
    check_count,
    check_key,
    check_positive,
    is_concrete,
)
from .._core._system import Map, is_map
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
    convergence. Use the named constructors `Euler`, `Heun`, `RK4`,
    `Dopri8`, `Dop853`.
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


def Dop853() -> ExplicitRungeKutta:
    """The method of order 8 of DOP853, with a stage less than `Dopri8`; its numbers
    are SciPy's.

    **Reference:** E. Hairer, S. Norsett & G. Wanner 1993, Solving Ordinary Differential
    Equations I, II.5, doi:10.1007/978-3-540-78862-1.
    """
    from scipy.integrate import DOP853  # takes a third of a second to import

    b = tuple(map(float, DOP853.B))
    a = tuple(tuple(map(float, DOP853.A[i, :i])) for i in range(len(b)))
    return ExplicitRungeKutta(a, b, tuple(map(float, DOP853.C[: len(b)])), 8)


class EulerMaruyama(AbstractMethod):
    """Euler steps with additive white noise, `dx = f dt + sigma dW`.

    **Arguments:** `sigma`: amplitude, a number or an array broadcast against the
    state, in state units per square root of a second. Needs a `key`.
    """

    sigma: Float[Array, "..."] = eqx.field(converter=as_float)

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
                * jnp.broadcast_to(self.sigma.astype(xi.dtype), xi.shape)
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
        if dt is not None:
            if not is_concrete(dt):
                raise ValueError("dt is traced, expected a number. Pass num_steps=.")
            check_positive("dt", dt, "seconds")
        else:
            check_count("num_steps", num_steps)
        self.dt = None if dt is None else float(dt)
        self.num_steps = num_steps
        self.method = RK4() if method is None else method
        check_method(self.method)

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
        start, end = _times(x0, t0), _times(x0, t1)
        if key is not None:
            check_key(key)
        return self._run(f, x0, start, end, self._steps(t0, t1), args, key)

    def trajectory(self, f, x0, ts, args=None, *, key=None):
        given, ts = ts, _times(x0, ts, ndim=1)
        num_steps = self._steps(given)
        if key is not None:
            check_key(key)

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
        check_flow(f)
        dt = (t1 - t0) / num_steps

        def step(x, k):
            t = t0 + k * dt
            # Between the ends of the step the value is the same whichever way time
            # runs and however the grid was rounded.
            held = args(t + 0.5 * dt) if isinstance(args, _HELD) else args
            here = None if key is None else jr.fold_in(key, k)
            return self.method.step(f, t, x, dt, held, here), None

        try:
            return jax.lax.scan(step, x0, jnp.arange(num_steps))[0]
        except TypeError as error:
            shapes = jax.tree.map(jnp.shape, x0)
            raise ValueError(
                f"a step from a state of shape {shapes} failed ({error}). Expected a "
                "flow f(t, x, args) that returns dx/dt in the shape and dtype of x."
            ) from error


def check_method(method: Any) -> None:
    """`ValueError` for anything but an `AbstractMethod`."""
    if not isinstance(method, AbstractMethod):
        raise ValueError(
            f"method = {method!r}, expected an AbstractMethod such as "
            "rnndyn.flows.Euler()."
        )


def check_flow(f: Any) -> None:
    """`ValueError` for a `Map`, which has no velocity to integrate."""
    if is_map(f):
        raise ValueError(
            "a flow got a Map, expected a vector field f(t, x, args). Use "
            "rnndyn.flows.iterate for maps."
        )


def _times(x0: Any, t: Any, ndim: int = 0) -> Array:
    """Times in the dtype of the state: mixing them would promote the state."""
    if not jax.tree.leaves(x0):
        raise ValueError(f"x0 = {x0!r}, expected an array or a pytree of arrays.")
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"x0 has dtype {dtype}, expected floats: pass jnp.asarray(x0, float)."
        )
    t = as_float(t, "the times")
    if t.ndim != ndim or t.size == 0:
        wanted = "(time,), at least one" if ndim else "(): one number"
        raise ValueError(f"the times have shape {t.shape}, expected {wanted}.")
    return t.astype(dtype)


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
    check_count("num_steps", num_steps)
    if not is_map(system):
        raise ValueError(
            f"iterate got a {type(system).__name__}, expected a rnndyn.Map. For a flow "
            "use ScanFlow(...).trajectory."
        )

    def step(x, u):
        x = system(x, u)
        return x, x

    return jax.lax.scan(step, x0, inputs, length=num_steps)[1]
