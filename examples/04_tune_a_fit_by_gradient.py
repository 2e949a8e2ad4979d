"""Which ridge and which time constants suit a recording? Follow the gradient.

A network of 30 neurons with three different time constants is recorded with noise. A
fit needs a ridge and every neuron's alpha = dt/tau, neither of which is known. Both are
tuned on held-out frames, by the derivative of the whole fit (implicit function theorem)
rather than by refitting on a grid of 31 dimensions. Expected: the held-out error falls,
the time constants move to the true ones, and the weights get better.

    python examples/04_tune_a_fit_by_gradient.py
"""

from rnndyn import _bootstrap


_bootstrap.configure(x64=True)

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn.fitting as fi


N, DT = 30, 1.0


def record(frames, seed, W, alpha):
    """A chaotic network with noise in its currents and in its rates."""
    rng = np.random.default_rng(seed)
    r = [rng.uniform(-1, 1, N)]
    for _ in range(frames):
        z = W @ r[-1] + 0.1 * rng.normal(size=N)
        r.append((1 - alpha) * r[-1] + alpha * (np.tanh(z) + 0.02 * rng.normal(size=N)))
    return jnp.asarray(r)


def fit(settings, rates):
    """Clipped errors: a convex loss, so that the fit has one derivative."""
    return fi.cornn(
        rates,
        alpha=jax.nn.sigmoid(settings["alpha"]),
        ridge=jnp.exp(settings["ridge"]),
        outliers=fi.Clip(1.0),
        max_steps=300,
        tol=1e-8,
    )


def held_out(settings, rates, test):
    """Mean square error of the next frame, in units of the frame's change."""
    fitted = fit(settings, rates)
    alpha = jax.nn.sigmoid(settings["alpha"])[None, :]
    r = test[:-1]
    new = (1 - alpha) * r + alpha * jnp.tanh(r @ fitted.theta)
    change = jnp.mean((test[1:] - r) ** 2)
    return jnp.mean((test[1:] - new) ** 2) / change, fitted


def main():
    rng = np.random.default_rng(0)
    W = rng.normal(0, 2.5 / np.sqrt(N), (N, N))
    np.fill_diagonal(W, 0)
    alpha = rng.choice([0.15, 0.3, 0.6], N)
    rates, test = record(1000, 1, W, alpha), record(1000, 2, W, alpha)

    settings = {"ridge": jnp.log(jnp.asarray(1e-2)), "alpha": jnp.full(N, -0.8)}
    optimiser = optax.adam(0.1)
    state = optimiser.init(settings)

    @jax.jit
    def step(settings, state):
        value = jax.value_and_grad(held_out, has_aux=True)
        (error, fitted), slope = value(settings, rates, test)
        moves, state = optimiser.update(slope, state)
        return optax.apply_updates(settings, moves), state, error, fitted

    for k in range(46):
        now = settings
        settings, state, error, fitted = step(settings, state)
        if k % 15 == 0:
            guess = jax.nn.sigmoid(now["alpha"])
            print(
                f"step {k:2d}: held-out error {error:.4f}, "
                f"ridge {jnp.exp(now['ridge']):.1e}, "
                f"tau off by {jnp.mean(jnp.abs(DT / guess - DT / alpha)):.2f} frames, "
                f"weights r = {fi.weight_correlation(W, fitted.W):.3f}, "
                f"derivatives hold for {jnp.mean(fitted.differentiable):.0%} of neurons"
            )


if __name__ == "__main__":
    main()
