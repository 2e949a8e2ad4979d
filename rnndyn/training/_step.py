"""One epoch of training as a pure function."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._core._types import KeyLike
from ..models import trainable
from ..tasks import AbstractTask
from ._loss import masked_loss, run_trials
from ._recipe import Recipe
from ._scores import scores


_TRIALS, _START, _NOISE = 0, 1, 2


class TrainState(eqx.Module):
    """Everything needed to go on: arrays only, so that it can be stored and vmapped.

    - `model`: the network with its current (raw, unconstrained) weights.
    - `opt_state`: state of the optimiser.
    - `learning_rate`: this member's.
    - `step`: number of updates made.
    - `key`: data of this member's PRNG key.
    - `diverged`: a loss, gradient or weight was not finite, or a trained `tau` fell
      below the step; the network is frozen at its last weights before that.
    - `stopped`: the stop criterion was met.
    """

    model: Any
    opt_state: Any
    learning_rate: Float[Array, "*members"]
    step: Int[Array, "*members"]
    key: UInt32[Array, "*members words"]
    diverged: Bool[Array, "*members"]
    stopped: Bool[Array, "*members"]

    @property
    def running(self) -> Bool[Array | np.ndarray, "*members"]:
        """Neither stopped nor diverged."""
        return ~(self.diverged | self.stopped)


class TrainInfo(eqx.Module):
    """What may be looked at after an epoch, measured before its update.

    - `loss`: of the batch.
    - `accuracy`, `reliability`: in the paper's window, of a task of your own those of
        its `score` (see `scores`).
    - `accuracy_clean`, `reliability_clean`: in the clean window.
    - `grad_norm`: 2-norm of the gradient.
    - `finite`: whether loss, gradient and updated weights are, and `tau` is allowed.
    """

    loss: Float[Array, "..."]
    accuracy: Float[Array, "..."]
    reliability: Float[Array, "..."]
    accuracy_clean: Float[Array, "..."]
    reliability_clean: Float[Array, "..."]
    grad_norm: Float[Array, "..."]
    finite: Bool[Array, "..."]


def init(model: Any, recipe: Recipe, *, learning_rate: Any, key: KeyLike) -> TrainState:
    """The state before the first epoch of one network (vmap it over an ensemble).

    **Arguments:**

    - `model`: the network.
    - `recipe`: how it is trained.
    - `learning_rate`: a number or scalar array.
    - `key`: this member's key, from which trials, initial states and noise of every
      epoch follow.
    """
    learning_rate = jnp.asarray(learning_rate, model.x0.dtype)
    params = eqx.filter(model, trainable(model, fixed=recipe.fixed))
    return TrainState(
        model=model,
        opt_state=recipe.optimiser(learning_rate).init(params),
        learning_rate=learning_rate,
        step=jnp.zeros((), jnp.int32),
        key=jr.key_data(key),
        diverged=jnp.zeros((), bool),
        stopped=jnp.zeros((), bool),
    )


def step(
    state: TrainState, task: AbstractTask, recipe: Recipe
) -> tuple[TrainState, TrainInfo]:
    """One epoch: run a batch of trials, back-propagate through all of time, update.

    Pure, vmappable and scannable. A network that is stopped or diverged stays as it
    is. The optimiser is built from the state's learning rate, which may be traced.

    **Arguments:**

    - `state`: from `init` or the previous epoch.
    - `task`: one task; delays may be traced.
    - `recipe`: how to train.

    **Returns:** the next state, and the epoch's `TrainInfo`.
    """
    key = jr.fold_in(jr.wrap_key_data(state.key), state.step)
    trials = task.batch(recipe.batch, key=jr.fold_in(key, _TRIALS))
    spec = trainable(state.model, fixed=recipe.fixed)
    params, rest = eqx.partition(state.model, spec)
    dtype = state.model.x0.dtype

    def network(params):
        model = eqx.combine(params, rest)
        return model if recipe.constraints is None else recipe.constraints(model)

    def objective(params):
        model = network(params)
        x0 = recipe.start(model, recipe.batch, key=jr.fold_in(key, _START))
        outputs = run_trials(
            model,
            x0,
            trials.inputs.astype(dtype),
            task.dt,
            readout=recipe.readout,
            key=jr.fold_in(key, _NOISE),
        )
        return masked_loss(outputs, trials), outputs

    (loss, outputs), grads = jax.value_and_grad(objective, has_aux=True)(params)
    # What line searches and step sizes from the loss (optax.lbfgs, polyak_sgd) need.
    optimiser = optax.with_extra_args_support(recipe.optimiser(state.learning_rate))
    updates, opt_state = optimiser.update(
        grads,
        state.opt_state,
        params,
        value=loss,
        grad=grads,
        value_fn=lambda params: objective(params)[0],
    )
    updated = optax.apply_updates(params, updates)

    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & _all_finite(updated)
    if "tau" not in recipe.fixed:  # with dt/tau outside (0, 1] it is no leaky unit
        finite &= jnp.all(network(updated).tau * (1 + 1e-6) >= task.dt)
    score = scores(task, outputs, trials, readout=recipe.readout)
    info = TrainInfo(
        loss=loss,
        accuracy=score.accuracy,
        reliability=score.reliability,
        accuracy_clean=score.accuracy_clean,
        reliability_clean=score.reliability_clean,
        grad_norm=grad_norm,
        finite=finite,
    )
    stop = jnp.zeros((), bool) if recipe.stop is None else recipe.stop(info)
    running = state.running
    go = running & finite & ~stop
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(go, a, b), new, old)
    state = TrainState(
        model=eqx.combine(keep(updated, params), rest),
        opt_state=keep(opt_state, state.opt_state),
        learning_rate=state.learning_rate,
        step=state.step + go.astype(jnp.int32),
        key=state.key,
        diverged=state.diverged | (running & ~finite),
        stopped=state.stopped | (running & finite & stop),
    )
    return state, info


def _all_finite(tree):
    return jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])
    )
