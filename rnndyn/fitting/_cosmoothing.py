"""Predicting neurons that are hidden from the network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._core._batch import in_double
from .._core._checks import check_count, check_key, check_positive, check_shape
from .._core._export import Result
from .._core._types import KeyLike
from ._metrics import (
    checked_weights,
    linear_regression,
    share_explained,
    train_rows,
    variation,
)
from ._problem import check_ridge, doubles, regression_rows


class CoSmoothing(Result):
    """Rates of hidden neurons, predicted from the others.

    **Attributes:**

    - `r2`: pooled over neurons, of the network; `r2_ridge`: of the linear regression
        on the observed neurons of the same frame, NaN if there was no training part.
    - `r2_neuron`, `r2_ridge_neuron`: neuron by neuron, NaN where nothing varies.
    - `fold`: in which group each neuron was hidden.
    """

    r2: Float[np.ndarray, ""]
    r2_ridge: Float[np.ndarray, ""]
    r2_neuron: Float[np.ndarray, " neuron"]
    r2_ridge_neuron: Float[np.ndarray, " neuron"]
    fold: Int[np.ndarray, " neuron"]

    def headline(self) -> str:
        """The pooled shares of the network and of the regression."""
        return f"r2 {self.r2:.4g}, ridge {self.r2_ridge:.4g}"


def co_smoothing(
    theta: Any,
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    folds: int = 5,
    burn_in: int = 20,
    train: Any = None,
    ridge: float = 1e-3,
    key: KeyLike | None = None,
) -> CoSmoothing:
    """How well the network fills in neurons that it does not see.

    The neurons are dealt into `folds` groups. One group after the other is hidden: the
    network runs with the rest set to the recording in every frame, the hidden ones
    start at 0 (their mean, after z-scaling) and run freely; their rates are scored
    against the recording, by the share of variance explained. The network
    sees frames up to t - 1 when it predicts frame t; the regression beside it
    sees frame t.

    ```python
    score = co_smoothing(fit.theta, test, alpha=0.5, train=train)
    score.r2, score.r2_ridge
    ```

    **Arguments:**

    - `theta`: weights `(neuron + input, neuron)`, fitted to all neurons.
    - `rates`, `inputs`: held-out frames, `(time, neuron)` or `(trial, time, neuron)`.
    - `alpha`: `dt / tau`.
    - `folds`: number of groups, 2 to the number of neurons.
    - `burn_in`: frames at the start of each trial that are not scored.
    - `train`: frames of the same neurons for the regression, which has an intercept;
      `ridge`: its penalty per row, on all else.
    - `key`: deals the groups; a fixed key by default.

    **Returns:** `CoSmoothing`, in float64. Host level. Not the co-smoothing of a latent
    variable model: the weights of hidden neurons were fitted while they were seen.

    **Raises:** a `ValueError` for NaN rates, too few frames or a wrong `folds`.

    **Reference:** F. Pei et al. 2021, arXiv:2109.04463 (co-smoothing scores).
    """
    rates = doubles("rates", rates)
    if not np.isfinite(rates).all():
        raise ValueError("`rates` hold NaN or infinity: leave those neurons out.")
    alpha = np.asarray(alpha, np.float64)
    rows = regression_rows(
        rates, None if inputs is None else np.asarray(inputs, np.float64), alpha=alpha
    )
    theta = checked_weights("theta", theta, rows)
    trials = rates if rates.ndim == 3 else rates[None]
    count, time, neurons = trials.shape
    check_count("folds", folds, 2)
    check_count("burn_in", burn_in, 0)
    if folds > neurons or burn_in >= time - 1:
        raise ValueError(
            f"folds = {folds} and burn_in = {burn_in}, expected 2 <= folds <= "
            f"{neurons} neurons and 0 <= burn_in < {time - 1} frames."
        )
    known = None
    if train is not None:
        check_ridge(ridge)
        known = np.asarray(train_rows(train, None, alpha, (neurons, 0)).rates)
    u = np.zeros((count, time, 0))
    if inputs is not None:
        given = np.asarray(inputs, np.float64)
        given = given if given.ndim == 3 else given[None]
        # The input of the last frame is not needed and may be missing.
        u = np.concatenate([given[:, : time - 1], given[:, -1:]], axis=1)
    key = jax.random.key(0) if key is None else check_key(key)
    fold = np.empty(neurons, int)
    fold[np.asarray(jax.random.permutation(key, neurons))] = np.arange(neurons) % folds
    hidden = fold == np.arange(folds)[:, None]
    with in_double():
        a = jnp.broadcast_to(jnp.asarray(alpha, jnp.float64), (neurons,))
        runs = np.asarray(_forced(theta, a, trials, u, hidden))
    predicted = np.empty_like(trials)
    linear = np.full_like(trials, np.nan)
    for k, mask in enumerate(hidden):
        predicted[..., mask] = runs[k][..., mask]
        if known is not None:
            mean = known.mean(axis=0)
            x, y = (known - mean)[:, ~mask], (known - mean)[:, mask]
            weights = linear_regression(x, y, ridge)
            linear[..., mask] = mean[mask] + (trials - mean)[..., ~mask] @ weights
    target = trials[:, burn_in:].reshape(-1, neurons)
    total = variation(target)
    missed = [
        ((target - p[:, burn_in:].reshape(-1, neurons)) ** 2).sum(axis=0)
        for p in (predicted, linear)
    ]
    return CoSmoothing(
        r2=share_explained(missed[0].sum(), total.sum()),
        r2_ridge=share_explained(missed[1].sum(), total.sum()),
        r2_neuron=share_explained(missed[0], total),
        r2_ridge_neuron=share_explained(missed[1], total),
        fold=fold,
    )


def bits_per_spike(
    rates: Any, counts: Any, *, bin_width: float, null: Any = None
) -> Float[np.ndarray, ""]:
    r"""Poisson log-likelihood of spike counts above that of constant rates, in bits.

        (1 / (n log 2)) sum_t,i [ c log(m / m0) - (m - m0) ],   m = rate bin_width

    ```python
    bits_per_spike(scaling.invert(predicted), counts, bin_width=0.02)
    ```

    **Arguments:**

    - `rates`: predicted, in Hz, `(..., neuron)`; below 1e-6 spikes a bin they count as
      that.
    - `counts`: spikes in each bin, of the same shape.
    - `bin_width`: seconds.
    - `null`: constant rates in Hz to compare with, `(neuron,)`; by default the mean
      rates of `counts`.

    **Returns:** bits per spike; 0 is as good as constant rates, NaN without spikes.

    **Raises:** a `ValueError` for NaN or negative counts, NaN rates, shapes that do not
    match, or `bin_width` not above 0.

    **Reference:** F. Pei et al. 2021, arXiv:2109.04463.
    """
    rates, counts = np.asarray(rates, np.float64), np.asarray(counts, np.float64)
    check_positive("bin_width", bin_width, "seconds")
    if not rates.ndim or rates.shape != counts.shape or not np.isfinite(rates).all():
        raise ValueError(
            f"rates {rates.shape} and counts {counts.shape}, expected finite arrays of "
            "one shape, neurons on the last axis."
        )
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(
            "counts hold NaN, infinite or negative entries, expected spikes a bin. "
            "Leave out what was not observed."
        )
    if null is not None:
        check_shape("null", null, counts.shape[-1:], "One rate a neuron, in Hz.")
    mean = np.maximum(rates * bin_width, 1e-6)
    flat = counts.reshape(-1, counts.shape[-1])
    constant = flat.mean(axis=0) if null is None else np.asarray(null) * bin_width
    constant = np.maximum(constant, 1e-6)
    gain = counts * np.log(mean / constant) - (mean - constant)
    spikes = counts.sum()
    bits = gain.sum() / (spikes * np.log(2)) if spikes else np.nan
    return np.asarray(bits, np.float64)


@jax.jit
def _forced(theta, alpha, trials, inputs, hidden):
    """Runs in which all but the hidden neurons follow the recording."""

    def run(mask, frames, u):
        def step(r, now):
            frame, drive = now
            r = jnp.where(mask, r, frame)
            new = jnp.tanh(jnp.concatenate([r, drive]) @ theta)
            return (1 - alpha) * r + alpha * new, r

        return jax.lax.scan(step, jnp.zeros(frames.shape[1]), (frames, u))[1]

    over_trials = jax.vmap(run, in_axes=(None, 0, 0))
    return jax.vmap(over_trials, in_axes=(0, None, None))(hidden, trials, inputs)
