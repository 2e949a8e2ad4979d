"""Systems with known answers and small comparisons shared by the tests."""

import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd


def tree_allclose(a, b, *, rtol=1e-7, atol=0.0) -> bool:
    """Same structure, and all leaves close."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        np.allclose(x, y, rtol=rtol, atol=atol)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def all_models(key, *, inputs=2, size=7, outputs=3):
    """One network of every class and form, by name."""
    m = rd.models
    sizes = (inputs, size, outputs)
    tau = jnp.linspace(0.01, 0.02, size)
    return {
        "rate": m.RateRNN(
            *sizes, tau=0.01, key=key, init=m.Xavier(), readout="sigmoid"
        ),
        "current": m.CurrentRNN(*sizes, tau=tau, key=key),
        "lowrank_current": m.LowRankRNN(*sizes, rank=2, tau=0.01, key=key),
        "lowrank_rate": m.LowRankRNN(
            *sizes,
            rank=2,
            tau=0.01,
            form="rate",
            scale="1",
            latent_readout=True,
            init=m.GaussianFactors(gain=0.3, b_out_std=1.0),
            key=key,
        ),
        "piecewise": m.PiecewiseLinearRNN(*sizes, tau=0.01, key=key),
        "gru": m.ContinuousGRU(*sizes, tau=0.01, key=key),
    }


def van_der_pol(t, x, args):
    """x'' = mu (1 - x^2) x' - x."""
    mu = 1.0 if args is None else args
    return jnp.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


def lorenz(t, x, args):
    """The Lorenz system at 10, 28, 8/3."""
    return jnp.stack(
        [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
    )


def record(seed, n, frames, std, *, gain=3.0, alpha=0.1, poisson=False):
    """The published generator: weights and `frames + 1` frames of a chaotic network."""
    rng = np.random.default_rng(seed)
    W = rng.normal(0, gain / np.sqrt(n), (n, n))
    np.fill_diagonal(W, 0)
    r = np.empty((frames + 1, n))
    r[0] = rng.uniform(-1, 1, n)
    draw = lambda s: rng.poisson(s, n) if poisson else s * rng.normal(size=n)
    for t in range(frames):
        new = np.tanh(W @ r[t] + draw(std[0])) + draw(std[1])
        r[t + 1] = (1 - alpha) * r[t] + alpha * new
    return W, r
