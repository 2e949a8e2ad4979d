"""Unrolled trajectories and their gradients, for every model class."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from rnndyn import models as m


N, TRIALS, STEPS, DT = 5, 3, 7, 0.1
TAU = np.array([0.2, 0.3, 0.4, 0.25, 0.5])


def build(name):
    key = jr.key(7)
    sizes = (2, N, 2)
    low = dict(rank=2, tau=0.2)
    if name == "rate":
        return m.RateRNN(*sizes, tau=0.2, init=m.Xavier(), readout="sigmoid", key=key)
    if name == "rate, tau per unit":
        return m.RateRNN(*sizes, tau=TAU, key=key)
    if name == "current, tau per unit":
        return m.CurrentRNN(*sizes, tau=TAU, activation="softplus", key=key)
    if name == "low rank, current":
        return m.LowRankRNN(*sizes, form="current", **low, key=key)
    if name == "low rank, rate, latent read-out":
        return m.LowRankRNN(*sizes, form="rate", latent_readout=True, **low, key=key)
    if name == "low rank, W_fixed":
        drawn = m.LowRankRNN(*sizes, **low, key=key)
        return m.LowRankRNN.from_arrays(
            drawn.m,
            drawn.n,
            drawn.W_in,
            drawn.b,
            drawn.W_out,
            drawn.b_out,
            tau=TAU,
            W_fixed=0.3 * jr.normal(key, (N, N)),
        )
    if name == "piecewise linear":
        return m.PiecewiseLinearRNN(*sizes, tau=0.2, key=key)
    return m.ContinuousGRU(*sizes, tau=0.2, key=key)


NAMES = [
    "rate",
    "rate, tau per unit",
    "current, tau per unit",
    "low rank, current",
    "low rank, rate, latent read-out",
    "low rank, W_fixed",
    "piecewise linear",
    "gru",
]


def problem(model):
    key = jr.key(3)
    x0 = jr.normal(key, (TRIALS, N))
    width = model.drive().shape[0]
    currents = 0.5 * jr.normal(jr.fold_in(key, 1), (STEPS, TRIALS, width))
    weights = jr.normal(jr.fold_in(key, 2), (STEPS, TRIALS, N))
    return x0, currents, weights


def naive(model, x0, currents, dt):
    def step(x, current):
        total = jax.vmap(model.recurrent)(x) + current
        x = x + dt * jax.vmap(model.velocity)(x, total)
        return x, x

    return jax.lax.scan(step, x0, currents)[1]


@pytest.mark.parametrize("name", NAMES)
def test_states_equal_a_plain_euler_loop(name):
    model = build(name)
    x0, currents, _ = problem(model)
    states = m.unroll(model, x0, currents, DT)
    recurrent = eqx.filter_jit(model.recurrent)
    velocity = eqx.filter_jit(model.velocity)
    for trial in range(TRIALS):
        x = np.asarray(x0[trial])
        for k in range(STEPS):
            total = np.asarray(recurrent(x)) + np.asarray(currents[k, trial])
            x = x + DT * np.asarray(velocity(x, total))
            np.testing.assert_allclose(states[k, trial], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_naive_scan_and_central_differences(name):
    model = build(name)
    x0, currents, weights = problem(model)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def value(run_params, x0, currents, dt):
        states = m.unroll(eqx.combine(run_params, static), x0, currents, dt)
        return jnp.sum(weights * states)

    @jax.jit
    def reference(params, x0, currents, dt):
        return jnp.sum(weights * naive(eqx.combine(params, static), x0, currents, dt))

    at = (params, x0, currents, jnp.asarray(DT))
    got = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*at)
    want = jax.jit(jax.grad(reference, argnums=(0, 1, 2, 3)))(*at)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)

    # One random direction in all arguments at once.
    keys = iter(jr.split(jr.key(11), 64))
    direction = jax.tree.map(lambda a: jr.normal(next(keys), a.shape), at)
    h = 1e-6
    move = lambda s: jax.tree.map(lambda a, d: a + s * h * d, at, direction)
    difference = (value(*move(1)) - value(*move(-1))) / (2 * h)
    slope = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(got), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_one_step_of_the_paper_in_numpy():
    rng = np.random.default_rng(0)
    for dtype, tolerance in [(np.float32, 1e-6), (np.float64, 1e-12)]:

        def draw(*shape, dtype=dtype):
            return rng.uniform(-0.3, 0.3, shape).astype(dtype)

        W, W_in, b, b_in = draw(100, 100), draw(100, 2), draw(100), draw(100)
        W_out, b_out = draw(2, 100), draw(2)
        model = m.RateRNN.from_arrays(
            W, W_in, b, b_in, W_out, b_out, tau=0.01, readout="sigmoid"
        )
        r0, u = draw(4, 100), draw(4, 2)
        currents = jax.vmap(model.drive)(u)[None]
        states = m.unroll(model, jnp.asarray(r0), currents, 5e-3)
        want = 0.5 * r0 + 0.5 * np.tanh(u @ W_in.T + b_in + r0 @ W.T + b)
        assert states.dtype == dtype
        np.testing.assert_allclose(states[0], want, atol=tolerance)
        before = m.outputs(model, jnp.asarray(r0), states, readout="before")
        after = m.outputs(model, jnp.asarray(r0), states, readout="after")
        for got, r in [(before, r0), (after, want)]:
            sigmoid = 1 / (1 + np.exp(-(r @ W_out.T + b_out)))
            np.testing.assert_allclose(got[0], sigmoid, atol=tolerance)


def test_paper_initialisation():
    model = m.RateRNN(2, 100, 2, tau=0.01, init=m.Xavier(), key=jr.key(0))
    params = eqx.filter(model, m.trainable(model))
    assert sum(a.size for a in jax.tree.leaves(params)) == 10_602
    np.testing.assert_array_equal(jnp.diag(model.W), 0)
    for array, bound in [
        (model.W, (6 / 200) ** 0.5),
        (model.W_in, (6 / 102) ** 0.5),
        (model.W_out, (6 / 102) ** 0.5),
        (model.b, 0.1),
        (model.b_in, 0.5**0.5),
        (model.b_out, 0.1),
    ]:
        assert jnp.max(jnp.abs(array)) <= bound
        if array.size > 2:
            assert jnp.max(jnp.abs(array)) > 0.9 * bound


def test_wrong_number_of_trials():
    model = build("rate")
    x0, currents, _ = problem(model)
    with pytest.raises((ValueError, TypeCheckError)):
        m.unroll(model, x0[:2], currents, DT)
