"""Running the Euler map of a network through a trial, built for fast gradients."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    dt = jnp.asarray(dt, x0.dtype)

    def scan(arrays, x0, currents, dt, kicks):
        return _scan(eqx.combine(arrays, static), x0, currents, dt, kicks)

    def recurrent(arrays, xs):
        return jax.vmap(eqx.combine(arrays, static).recurrent)(xs)

    def increment(arrays, dt, xs, totals):
        return dt * jax.vmap(eqx.combine(arrays, static).velocity)(xs, totals)

    @jax.custom_vjp
    def run(arrays, x0, currents, dt):
        return scan(arrays, x0, currents, dt, None)

    def forward(arrays, x0, currents, dt):
        # Derivatives with respect to x0 and currents only: the scan's backward pass
        # then holds no weight gradient. `kicks` are zeros added to each state; their
        # cotangent is the full sensitivity to that state.
        states, backward_scan = jax.vjp(
            lambda x0, currents, kicks: scan(arrays, x0, currents, dt, kicks),
            x0,
            currents,
            jnp.zeros((currents.shape[0], *x0.shape), x0.dtype),
        )
        return states, (backward_scan, arrays, x0, currents, dt, states)

    def backward(residuals, cotangent):
        backward_scan, arrays, x0, currents, dt, states = residuals
        d_x0, d_currents, d_states = backward_scan(cotangent)
        before = jnp.concatenate([x0[None], states[:-1]])
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


def _scan(model, x0, currents, dt, kicks):
    def step(x, inputs):
        current, kick = inputs
        total = jax.vmap(model.recurrent)(x) + current
        x = x + dt * jax.vmap(model.velocity)(x, total)
        x = x if kick is None else x + kick
        return x, x

    return jax.lax.scan(step, x0, (currents, kicks))[1]


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
    if readout == "before":
        states = jnp.concatenate([x0[None], states[:-1]])
    return jax.vmap(jax.vmap(model.readout))(states)
