"""The toy models as differential equations, to check the closed forms against."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float

from .._core._checks import check_positive, check_shape
from ..flows import ScanFlow
from ._toy import AbstractToy, _floats


def simulated_switch_time(
    toy: AbstractToy,
    r: Any,
    horizon: Any,
    *,
    x_max: float | int | None = None,
    tol: float | None = None,
    max_steps: int = 16384,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> Float[Array, ""]:
    """When the output of the vector field first switches on, by an event of diffrax.

    The event is located to the tolerance of the integration, and can be differentiated
    with respect to `r`.

    ```python
    toy = rnndyn.theory.slow_point
    seen = rnndyn.theory.simulated_switch_time(toy, 1e-3, horizon=1e3)
    assert abs(seen / toy.switch_time(1e-3) - 1) < 1e-2
    ```

    **Arguments:**

    - `toy`: `slow_point`, `limit_cycle` or any `AbstractToy`.
    - `r`: its parameter, one number (`jax.vmap` for more).
    - `horizon`: time at which to give up.
    - `x_max`: where a passage counts as over. It is seen early by the time left to
        infinity, `1/x_max` for a slow point of order 2; 1e-4 by default.
    - `tol`: relative and absolute tolerance; 1e-9 in float64, 1e-5 in float32.
    - `max_steps`: of the integration; running out of them reads as no switch.
    - `adjoint`: `RecursiveCheckpointAdjoint` by default, for reverse mode; pass
        `diffrax.ForwardMode()` for forward mode.

    **Returns:** the time, infinite if there was no switch before `horizon`.

    **Raises:** a `ValueError` unless `horizon` and `x_max` are positive and finite.
    """
    check_positive("horizon", horizon)
    check_shape("r", r, (), "Use jax.vmap for more.")
    if x_max is not None:
        check_positive("x_max", x_max)
    if adjoint is None:
        adjoint = dfx.RecursiveCheckpointAdjoint()
    x_max = None if x_max is None else float(x_max)
    r, horizon = _floats(r, horizon)
    return _switch_time(toy, r, horizon, x_max, tol, max_steps, adjoint)


@eqx.filter_jit
def _switch_time(toy, r, horizon, x_max, tol, max_steps, adjoint):
    system = toy.system(x_max)
    start = system.start.astype(r.dtype)
    if tol is None:
        tol = 1e-5 if r.dtype == jnp.float32 else 1e-9
    # Down-crossings of -drive: an up-crossing would fire at once where drive = 0.
    event = dfx.Event(
        lambda t, y, args, **kwargs: -system.drive(y),
        root_finder=optx.Newton(tol, tol),
        direction=False,
    )
    solution = dfx.diffeqsolve(
        dfx.ODETerm(system.field),
        dfx.Tsit5(),
        t0=jnp.zeros_like(horizon),
        t1=horizon,
        dt0=None,
        y0=start,
        args=r,
        stepsize_controller=dfx.PIDController(rtol=tol, atol=tol),
        adjoint=adjoint,
        event=event,
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ts is not None
    switched = solution.result == dfx.RESULTS.event_occurred
    return jnp.where(switched, solution.ts[-1], jnp.inf)


def simulated_loss(
    toy: AbstractToy,
    r: Any,
    T_d: float | int,
    T_r: float | int,
    *,
    dt: float | int = 0.01,
    x_max: float | int = 1e3,
) -> Float[Array, ""]:
    """The loss by integrating the vector field and counting steps with the output on.

    Steps of fixed length with the classical Runge-Kutta method; a state that has passed
    `x_max` stays where it is. The error is about `dt (1/T_d + 1/T_r)`.

    ```python
    toy = rnndyn.theory.limit_cycle
    seen = rnndyn.theory.simulated_loss(toy, 0.01, 60.0, 10.0)
    assert abs(seen - toy.loss(0.01, 60.0, 10.0)) < 5e-3
    ```

    **Arguments:** `toy`; `r`: one number (`jax.vmap` for more); `T_d`, `T_r`: delay and
    response, concrete; `dt`: step; `x_max`: where a passage counts as over.

    **Returns:** the loss of `AbstractToy` by the midpoint rule.

    **Raises:** a `ValueError` unless times are positive, and multiples of `dt`.
    """
    for name, value in (("T_d", T_d), ("T_r", T_r), ("dt", dt), ("x_max", x_max)):
        check_positive(name, value)
    steps = [round(T_d / dt), round(T_r / dt)]
    for name, count, time in zip(("T_d", "T_r"), steps, (T_d, T_r), strict=True):
        if count == 0 or abs(count * dt - time) > 1e-6 * time:
            raise ValueError(
                f"{name} = {time} is no multiple of dt = {dt}, as the count of steps "
                "needs. Pass another dt."
            )
    check_shape("r", r, (), "Use jax.vmap for more.")
    (r,) = _floats(r)
    return _loss(toy, r, tuple(steps), float(dt), float(x_max))


@eqx.filter_jit
def _loss(toy, r, steps, dt, x_max):
    system = toy.system(x_max)

    def field(t, x, r):
        moving = jnp.max(jnp.abs(x)) < x_max
        return jnp.where(moving, system.field(t, x, r), 0)

    ts = dt * np.arange(sum(steps) + 1)
    start = system.start.astype(r.dtype)
    states = ScanFlow(num_steps=1).trajectory(field, start, jnp.asarray(ts), r).xs
    on = (eqx.filter_vmap(system.drive)(states) > 0).astype(r.dtype)
    on = (on[:-1] + on[1:]) / 2
    return jnp.mean(on[: steps[0]]) + jnp.mean(1 - on[steps[0] :])
