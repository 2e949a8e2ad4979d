"""Low-rank networks as maps of their latent variables: outputs, loss and gradient."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float

from .._core._checks import check_step_ratio
from ..models import LowRankRNN
from ..models._activations import activation
from ..tasks import AbstractTask


_UNROLLED = 64
"""Trials up to this long become straight code: two to four times faster than a loop
over time steps whose bodies cost a microsecond."""


class _Weights(NamedTuple):
    """Trained arrays of one network with long axes last, as the CPU likes them."""

    m: Float[Array, "rank state"]
    n: Float[Array, "rank state"]
    b: Float[Array, " state"]
    w: Float[Array, "output rank"]
    c: Float[Array, " output"]


def latent_outputs(
    model: LowRankRNN, dt: Any, num_steps: int
) -> tuple[Float[Array, "time output"], Float[Array, "time rank"]]:
    """Outputs and latent variables of one network after each of `num_steps` steps,

        kappa_(t+1) = (1 - a) kappa_t + a s n^T phi(m kappa_t + b),    a = dt / tau,
        y_t = readout(W_out kappa_(t+1) + b_out),    kappa_0 = s n^T x0,

    which is the Euler map of the network in rate form seen through `n`: exact, because
    `n` does not change within a trial. Pure; one network, batch by `vmap`.

    ```python
    outputs, kappa = latent_outputs(model, 5e-3, 24)
    ```

    **Arguments:** a network as in `train_latent`; `dt`: one step in seconds.

    **Returns:** shapes `(time, output)` and `(time, rank)`.
    """
    _check_model(model, dt)
    weights, step, kappa = _setting(model, dt)

    def one(kappa, _):
        kappa, y = step(weights, kappa)
        return kappa, (y, kappa)

    return lax.scan(one, kappa(weights), None, length=num_steps)[1]


def latent_loss(
    model: LowRankRNN, task: AbstractTask
) -> tuple[Float[Array, ""], LowRankRNN]:
    """Loss of one network on the task's trial, `sum_t mask_t mean_o (y - target)^2`,
    and its gradient with respect to `m`, `n`, `b`, `W_out` and `b_out`.

    ```python
    loss, gradient = latent_loss(model, rd.tasks.DelayedActivation(delay=0.03))
    ```

    **Arguments:** as in `train_latent`, one network.

    **Returns:** the loss, and the gradient as a network (all other fields as they are).
    """
    _check_fit(model, task)
    weights, fn = _loss_fn(model, *_trial(task, model.m.dtype), task.dt)
    loss, gradient = jax.value_and_grad(fn)(weights)
    return loss, _with_weights(model, gradient)


def _setting(model, dt):
    """Weights, one step `(weights, kappa) -> (kappa, output)`, and the start."""
    phi = activation(model.activation)
    out = activation(model.readout_activation)
    scale = 1.0 / model.state_size if model.scale == "1/N" else 1.0
    a = (dt / model.tau).astype(model.m.dtype)
    weights = _Weights(model.m.T, model.n.T, model.b, model.W_out, model.b_out)

    def step(p, kappa):
        rates = phi(p.m.T @ kappa + p.b)
        kappa = (1 - a) * kappa + (a * scale) * (p.n @ rates)
        return kappa, out(p.w @ kappa + p.c)

    return weights, step, lambda p: scale * (p.n @ model.x0)


def _loss_fn(model, targets, mask, dt):
    weights, step, start = _setting(model, dt)

    def loss(p):
        def one(carry, wanted):
            kappa, total = carry
            kappa, y = step(p, kappa)
            target, weight = wanted
            return (kappa, total + weight * jnp.mean((y - target) ** 2)), None

        carry = (start(p), jnp.zeros((), p.m.dtype))
        if len(mask) > _UNROLLED:
            return lax.scan(one, carry, (targets, mask), unroll=8)[0][1]
        for t in range(len(mask)):
            carry, _ = one(carry, (targets[t], mask[t]))
        return carry[1]

    return weights, loss


def _with_weights(model, weights):
    where = lambda r: (r.m, r.n, r.b, r.W_out, r.b_out)
    p = weights
    return eqx.tree_at(where, model, (p.m.T, p.n.T, p.b, p.w, p.c))


def _trial(task, dtype):
    trial = task.trial(jnp.zeros((), jnp.int32), key=jr.key(0))
    return trial.targets.astype(dtype), trial.mask.astype(dtype)


def _check_model(model, dt):
    if not isinstance(model, LowRankRNN):
        raise ValueError(
            f"got a {type(model).__name__}, expected a rnndyn.models.LowRankRNN: only "
            "low-rank networks have latent variables. Use rnndyn.training.train."
        )
    wanted = {"form": "rate", "latent_readout": True, "input_size": 0, "W_fixed": None}
    for name, want in wanted.items():
        got = getattr(model, name)
        if (got is None) != (want is None) or (want is not None and got != want):
            shown = "an array" if name == "W_fixed" else repr(got)
            raise ValueError(
                f"the network has {name} = {shown}, expected {want!r}: it has no exact "
                "reduction to latent variables. Use rnndyn.training.train."
            )

    if jnp.ndim(model.tau) != jnp.ndim(model.noise):
        raise ValueError("tau has an axis of units, expected one tau a network.")
    check_step_ratio(dt, model.tau)


def _check_fit(model, task):
    _check_model(model, task.dt)
    if task.input_size != 0 or task.num_conditions != 1:
        raise ValueError(
            f"the task has {task.input_size} inputs and {task.num_conditions} "
            "conditions, expected 0 and 1, as rnndyn.tasks.DelayedActivation has."
        )
    if model.output_size != task.output_size:
        raise ValueError(
            f"the network has {model.output_size} outputs, the task "
            f"{task.output_size}, expected the same."
        )
