"""Running the Euler map of a network through trials, built for fast gradients."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core._checks import check_shape, one_of
from ._base import AbstractRNN


def unroll(
    model: AbstractRNN,
    x0: Float[Array, "trial state"],
    currents: Float[Array, "time trial current"],
    dt: Any,
) -> Float[Array, "time trial state"]:
    """States `x_1 .. x_T` of the Euler map under given currents.

    `x_{k+1} = x_k + dt velocity(x_k, recurrent(x_k) + currents_k)`, where
    `currents_k = drive(u_k) + noise xi_k`. Unlike everything else in this library it
    takes the trial axis explicitly: reverse mode then gathers the gradient of the
    recurrent weights over all steps and trials in one matrix product after the
    backward scan, instead of one small product a step. The reverse-mode derivative is
    exact; for forward mode run the map by `rnndyn.flows.ScanFlow` with Euler steps.

    **Arguments:**

    - `model`: the network.
    - `x0`: initial states.
    - `currents`: everything that enters a unit besides recurrence.
    - `dt`: step in seconds.

    **Returns:** states after each step, without `x0`.
    """
    before, last = trajectory(model, x0, currents, dt)
    return after(before, last)


def outputs(
    model: AbstractRNN,
    x0: Float[Array, "trial state"],
    states: Float[Array, "time trial state"],
    *,
    readout: Literal["before", "after"],
) -> Float[Array, "time trial output"]:
    """Outputs along `states = unroll(...)`.

    **Arguments:**

    - `readout`: `"before"` reads `x_0 .. x_{T-1}`, so that the output at step k does
      not yet know the input at step k; `"after"` reads `x_1 .. x_T`.
    """
    one_of("readout", readout, ("before", "after"))
    if readout == "before":
        states = jnp.concatenate([x0[None], states[:-1]])
    return jax.vmap(jax.vmap(model.readout))(states)


def after(
    before: Float[Array, "time trial state"], last: Float[Array, "trial state"]
) -> Float[Array, "time trial state"]:
    """`x_1 .. x_T` from `x_0 .. x_{T-1}` and `x_T`."""
    return jnp.concatenate([before[1:], last[None]])


def trajectory(
    model: AbstractRNN,
    x0: Float[Array, "trial state"],
    currents: Float[Array, "time trial current"],
    dt: Any,
) -> tuple[Float[Array, "time trial state"], Float[Array, "trial state"]]:
    """As `unroll`, but returns `x_0 .. x_{T-1}` and `x_T`: the states the scan and
    its gradient work on, without a copy."""
    check_shape("x0", x0, (currents.shape[1], None), "One initial state a trial.")
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    dt = jnp.asarray(dt, x0.dtype)

    def recurrent(arrays, xs):
        return jax.vmap(eqx.combine(arrays, static).recurrent)(xs)

    def increment(arrays, dt, xs, totals):
        return dt * jax.vmap(eqx.combine(arrays, static).velocity)(xs, totals)

    @jax.custom_vjp
    def run(arrays, x0, currents, dt):
        def step(x, current):
            return x + increment(arrays, dt, x, recurrent(arrays, x) + current), x

        last, before = jax.lax.scan(step, x0, currents)
        return before, last

    def forward(arrays, x0, currents, dt):
        def step(x, current):
            total = recurrent(arrays, x) + current
            dx, pull = jax.vjp(lambda *at: increment(arrays, dt, *at), x, total)
            return x + dx, (x, pull)

        last, (before, pulls) = jax.lax.scan(step, x0, currents)
        return (before, last), (arrays, before, currents, dt, pulls)

    def backward(residuals, cotangents):
        arrays, before, currents, dt, pulls = residuals
        d_before, d_last = cotangents

        def step(d_next, at_step):
            x, pull, d_x = at_step
            through_velocity, d_total = pull(d_next)
            _, pull = jax.vjp(lambda x: recurrent(arrays, x), x)
            (through_recurrent,) = pull(d_total)
            d_x = d_x + d_next + through_velocity + through_recurrent
            return d_x, (d_total, d_next)

        d_x0, (d_currents, d_states) = jax.lax.scan(
            step, d_last, (before, pulls, d_before), reverse=True
        )
        flat = lambda a: a.reshape(-1, a.shape[-1])
        totals, pull = jax.vjp(lambda a: recurrent(a, flat(before)), arrays)
        (d_recurrent,) = pull(flat(d_currents))
        # Only weights inside `velocity` (time constants) need this part; where nobody
        # asks for their gradient the compiler drops it.
        _, pull = jax.vjp(
            lambda a, h: increment(a, h, flat(before), totals + flat(currents)),
            arrays,
            dt,
        )
        d_velocity, d_dt = pull(flat(d_states))
        d_arrays = jax.tree.map(jnp.add, d_recurrent, d_velocity)
        return d_arrays, d_x0, d_currents, d_dt

    run.defvjp(forward, backward)
    return run(arrays, x0, currents, dt)
