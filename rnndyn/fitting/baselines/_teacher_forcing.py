"""Back-propagation through time with scheduled teacher forcing."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float

from ..._core._checks import check_key
from ..._core._types import KeyLike
from .._problem import CLIP, check_descent, check_in
from ._baseline import (
    AbstractWeightStart,
    BaselineFit,
    CrossEntropy,
    MeanSquare,
    XavierWeights,
    check_kind,
    first_weights,
    linked,
    mean_of_good,
    precision,
    problem,
    repeat,
)


def teacher_forced_bptt(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = 1.0,
    share: Any = 0.5,
    loss: CrossEntropy | MeanSquare | None = None,
    learning_rate: Any = 1e-3,
    weight_decay: Any = 1e-8,
    clip: Any = 0.1,
    start: AbstractWeightStart | None = None,
    num_steps: int = 3000,
    tol_gradient: Any = 0.0,
    record_every: int | None = None,
    key: KeyLike,
) -> BaselineFit:
    r"""Fit a network to rates by BPTT through whole trials.

    Every epoch the network runs through each trial from its first frame; before each
    step its rates are replaced by the recorded ones with probability `share`, and the
    loss compares all of its rates with the recorded ones. `share` 0 is free-running
    BPTT, 1 the one-step problem. Adam with the gradient's norm clipped; there are no
    self-connections.

    ```python
    fit = teacher_forced_bptt(rates, inputs, alpha=0.9, share=0.5, key=key)
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`, `dt`, `record_every`: as in `newton`; trials of one
      length.
    - `share`: probability of a forced step, in [0, 1]; may be traced.
    - `loss`: `MeanSquare()` by default, or `CrossEntropy()`, of `(1 + r)/2`.
    - `learning_rate`, `weight_decay`, `clip`: of Adam.
    - `start`: `XavierWeights(key)` by default.
    - `num_steps`: epochs, all of them made.
    - `tol_gradient`: root mean square gradient at the last weights at which a neuron
      counts as converged; nothing stops there.
    - `key`: PRNG key, of the forcing and the default start.

    **Returns:** a `BaselineFit`; `loss` and `gradient_norm` are those of the forcing
    that was drawn, at the last weights of one more draw. Not guaranteed: convergence,
    or, at `share` 0, anything at all.

    **Raises:** a `ValueError` for bad data or options, or trials of different lengths.

    **Reference:** Williams & Zipser 1989, doi:10.1162/neco.1989.1.2.270; Bengio et al.
    2015, arXiv:1506.03099; settings of Dinc et al. 2023, arXiv:2311.10200.
    """
    loss = MeanSquare() if loss is None else loss
    kinds = CrossEntropy | MeanSquare
    check_kind("loss", loss, kinds, "MeanSquare() or CrossEntropy()")
    check_in("share", share, "[0, 1]", "Pass a probability, such as 0.5.")
    check_in("clip", clip, "(0, inf]", "Pass a norm, or np.inf not to clip.")
    check_descent(tol_gradient, learning_rate=learning_rate, weight_decay=weight_decay)
    check_key(key)
    with precision(rates):
        rows, given = problem(rates, inputs, alpha, dt)
        if len(set(rows.lengths)) > 1:
            raise ValueError(
                f"trials have {sorted(set(rows.lengths))} frames, expected one length: "
                "they advance together. Cut them."
            )
        dtype = given.x.dtype
        trials = len(rows.lengths)
        # Explicit sizes: without inputs there is nothing that -1 could be told from.
        cut = lambda a: a.reshape(trials, a.shape[0] // trials, a.shape[1])
        by_trial = lambda a: jnp.moveaxis(cut(a), 0, 1)
        frames = jnp.where(given.good[None, :], jnp.asarray(rows.rates), 0)
        k_start, k_run = jr.split(key)
        start = XavierWeights(k_start) if start is None else start
        found = _descend(
            given,
            by_trial(jnp.clip(frames, -1 + CLIP, 1 - CLIP)),
            by_trial(given.x[:, rows.num_neurons :]),
            first_weights(start, given),
            jnp.asarray(share, dtype),
            jnp.asarray(learning_rate, dtype),
            jnp.asarray(weight_decay, dtype),
            jnp.asarray(clip, dtype),
            loss,
            num_steps,
            record_every,
            k_run,
        )
        theta, losses, norm, kept = found
        good = given.good & jnp.all(jnp.isfinite(theta), axis=0)
        return BaselineFit(
            theta=theta,
            loss=losses,
            gradient_norm=norm,
            converged=(norm <= jnp.asarray(tol_gradient, dtype)) & good,
            diverged=~good,
            num_steps=jnp.asarray(num_steps, jnp.int32),
            snapshots=kept,
            alpha=given.alpha,
            dt=jnp.asarray(dt, dtype),
        )


def forced_loss(
    theta: Float[Array, "predictor neuron"],
    rates: Float[Array, "frame trial neuron"],
    inputs: Float[Array, "time trial input"],
    forced: Bool[Array, " time"],
    alpha: Float[Array, " neuron"],
    loss: Any,
    good: Bool[Array, " neuron"] | bool = True,
) -> tuple[Float[Array, ""], Float[Array, "predictor neuron"]]:
    """Mean loss of a partly forced run and its gradient in the weights.

    Written out instead of left to autodiff: the gradient over all steps and trials is
    then one product after the backward scan.
    """
    n = rates.shape[-1]
    W, currents = theta[:n], inputs @ theta[n:]
    forced = forced.at[0].set(True)
    alpha = alpha[None, :]

    def forward(own, at_step):
        true, given, force = at_step
        state = jnp.where(force, true, own)
        predicted = jnp.tanh(state @ W + given)
        own = (1 - alpha) * state + alpha * predicted
        return own, (state, predicted, own)

    items = (rates[:-1], currents, forced)
    _, (states, predicted, own) = jax.lax.scan(forward, rates[0], items)
    mean = lambda own: mean_of_good(loss(own, rates[1:]), good)
    value, d_own = jax.value_and_grad(mean)(own)

    def backward(d_next, at_step):
        d_own, predicted, force = at_step
        total = d_own + d_next
        d_z = alpha * (1 - predicted**2) * total
        d_state = (1 - alpha) * total + d_z @ W.T
        return jnp.where(force, 0, d_state), d_z

    zero = jnp.zeros_like(rates[0])
    _, d_z = jax.lax.scan(backward, zero, (d_own, predicted, forced), reverse=True)
    flat = lambda a: a.reshape(a.shape[0] * a.shape[1], a.shape[2])
    x = jnp.concatenate([flat(states), flat(inputs)], axis=1)
    return value, x.T @ flat(d_z)


@eqx.filter_jit
def _descend(
    given, rates, inputs, theta, share, rate, decay, clip, loss, num_steps, every, key
):
    n = rates.shape[-1]
    off = 1 - jnp.eye(theta.shape[0], n, dtype=theta.dtype)
    off = off * linked(given)
    solver = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.add_decayed_weights(decay),
        optax.adam(rate),
    )

    def look(theta, count):
        forced = jr.bernoulli(jr.fold_in(key, count), share, (inputs.shape[0],))
        at = (rates, inputs, forced, given.alpha)
        value, grad = forced_loss(theta, *at, loss, given.good)
        return value, grad * off

    def step(carry):
        theta, state, count = carry
        value, grad = look(theta, count)
        updates, state = solver.update(grad, state, theta)
        new: Any = optax.apply_updates(theta, updates)
        return (new * off, state, count + 1), value

    theta = theta * off
    carry = (theta, solver.init(theta), jnp.zeros((), jnp.int32))
    carry, losses, kept = repeat(step, carry, num_steps, every, lambda c: c[0])
    theta, _, count = carry
    last, grad = look(theta, count)
    norm = jnp.sum(given.good) * jnp.sqrt(jnp.mean(grad**2, axis=0))
    return theta, jnp.concatenate([losses, last[None]]), norm, kept
