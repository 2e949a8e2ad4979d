"""From a batch of trials to outputs and a loss."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core._types import KeyLike
from ..models._base import AbstractRNN
from ..models._unroll import after, trajectory
from ..tasks import Trial
from ._noise import gaussian


def run_trials(
    model: AbstractRNN,
    x0: Float[Array, "trial state"],
    inputs: Float[Array, "trial time input"],
    dt: Any,
    *,
    readout: str = "before",
    key: KeyLike,
) -> Float[Array, "time trial output"]:
    """Outputs of the Euler map over a batch of trials, with the network's own noise.

    The noise current is `model.noise * xi` with fresh `xi ~ N(0, 1)` for every
    current, trial and step, not scaled by `sqrt(dt)`.

    **Arguments:**

    - `model`, `x0`, `inputs`: the network, initial states, inputs of all trials.
    - `dt`: step in seconds.
    - `readout`: `"before"` or `"after"` the update, see `rnndyn.models.outputs`.
    - `key`: of the noise (`rnndyn.training.gaussian`).
    """
    # Drawn for all steps at once: inside the scan it costs the same.
    drive = _each(model.drive, jnp.moveaxis(inputs, 1, 0))
    currents = drive + model.noise * gaussian(key, drive.shape, drive.dtype)
    before, last = trajectory(model, x0, currents, dt)
    states = before if readout == "before" else after(before, last)
    return _each(model.readout, states)


def _each(fn, xs):
    """`fn` on every step of every trial. Over one flat axis: as two nested vmaps the
    products with two-column matrices come out ten times slower on a CPU."""
    flat = jax.vmap(fn)(xs.reshape(xs.shape[0] * xs.shape[1], xs.shape[-1]))
    return flat.reshape(*xs.shape[:-1], flat.shape[-1])


def masked_loss(
    outputs: Float[Array, "time trial output"], trials: Trial
) -> Float[Array, ""]:
    """Weighted square error, `mean_trials sum_t mask_t mean_o (y_to - target_to)^2`.

    The weights are the task's (`Trial.mask`); they contain the `1/T` of a time average
    and are zero in padding. For the delayed tasks with `k` late steps of `T` this is
    `(k/T)(1 - k/T) (MSE_early + MSE_late)`.
    """
    targets = jnp.moveaxis(trials.targets, 1, 0).astype(outputs.dtype)
    mask = jnp.moveaxis(trials.mask, 1, 0).astype(outputs.dtype)
    error = jnp.mean(jnp.square(outputs - targets), axis=-1)
    return jnp.sum(mask * error) / outputs.shape[1]
