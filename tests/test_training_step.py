"""One epoch: parity with PyTorch's rules written out, purity, freezing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

from rnndyn import models as m, tasks, training
from rnndyn.training import gaussian


run = eqx.filter_jit(training.step)


def small(key, noise=0.0, dtype=None):
    net = m.RateRNN(
        2, 12, 2, tau=0.01, noise=noise, init=m.Xavier(), readout="sigmoid", key=key
    )
    if dtype is None:
        return net
    cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, net)


def numpy_epochs(net, task, lr, xi, r0, epochs, momentum=0.9, decay=1e-7):
    """The paper's training with back-propagation through time written by hand."""
    p = {
        k: np.array(getattr(net, k))
        for k in ("W", "W_in", "b", "b_in", "W_out", "b_out")
    }
    velocity = {k: np.zeros_like(a) for k, a in p.items()}
    trials = task.batch(r0.shape[1], key=jr.key(0))
    u = np.asarray(trials.inputs).swapaxes(0, 1)
    y = np.asarray(trials.targets).swapaxes(0, 1)
    w = np.asarray(trials.mask).T[..., None]
    T, B, a = *u.shape[:2], 0.5
    losses = []
    for epoch in range(epochs):
        r, r_all, phi_all, o_all = r0[epoch], [], [], []
        for t in range(T):
            o_all.append(1 / (1 + np.exp(-(r @ p["W_out"].T + p["b_out"]))))
            z = u[t] @ p["W_in"].T + p["b_in"] + r @ p["W"].T + p["b"] + xi[epoch][t]
            r_all.append(r)
            phi_all.append(np.tanh(z))
            r = (1 - a) * r + a * phi_all[-1]
        losses.append(sum(np.sum(w[t] * (o_all[t] - y[t]) ** 2) for t in range(T)))
        losses[-1] /= 2 * B
        g = {k: np.zeros_like(v) for k, v in p.items()}
        d_r = np.zeros_like(r)
        for t in reversed(range(T)):
            d_z = d_r * a * (1 - phi_all[t] ** 2)
            g["W"] += d_z.T @ r_all[t]
            g["W_in"] += d_z.T @ u[t]
            g["b"] += d_z.sum(0)
            g["b_in"] += d_z.sum(0)
            d_o = w[t] * (o_all[t] - y[t]) / B * o_all[t] * (1 - o_all[t])
            g["W_out"] += d_o.T @ r_all[t]
            g["b_out"] += d_o.sum(0)
            d_r = (1 - a) * d_r + d_z @ p["W"] + d_o @ p["W_out"]
        for k in p:
            velocity[k] = momentum * velocity[k] + g[k] + decay * p[k]
            p[k] = p[k] - lr * velocity[k]
    return p, losses


def test_sgd_momentum_equals_numpy_over_five_epochs():
    net, lr, batch = small(jr.key(0), noise=1e-2), 0.1, 6
    task = tasks.DelayedCueDiscrimination(0.02)
    recipe = training.Recipe(optimiser=training.sgd(), batch=batch)
    state = training.init(net, recipe, learning_rate=lr, key=jr.key(9))
    # The frozen noise: what member and epoch decide, drawn outside.
    xi, r0 = [], []
    for epoch in range(5):
        key = jr.fold_in(jr.key(9), epoch)
        draw = gaussian(jr.fold_in(key, 2), (task.num_steps, batch, 12), jnp.float64)
        xi.append(1e-2 * np.asarray(draw))
        start = gaussian(jr.fold_in(key, 1), (batch, 12), jnp.float64)
        r0.append(np.tanh(0.1 * np.asarray(start)))
    want, losses = numpy_epochs(net, task, lr, np.asarray(xi), np.asarray(r0), 5)
    for epoch in range(5):
        state, info = run(state, task, recipe)
        # The noise is float32, and rounds differently when fused.
        np.testing.assert_allclose(info.loss, losses[epoch], rtol=1e-8)
        if epoch == 0:
            # Two biases: their sum moves twice as fast.
            moved = state.model.b - net.b
            np.testing.assert_allclose(moved, state.model.b_in - net.b_in, atol=1e-8)
    for name, value in want.items():
        np.testing.assert_allclose(getattr(state.model, name), value, rtol=1e-5)
    np.testing.assert_array_equal(state.model.tau, net.tau)


def test_pure_scannable_vmappable():
    task = tasks.DelayedCueDiscrimination(0.0)
    recipe = training.Recipe(optimiser=training.sgd(), batch=4)
    nets = m.ensemble(lambda k: small(k, 1e-2), jr.split(jr.key(0), 3))
    start = lambda net, key, lr: training.init(net, recipe, learning_rate=lr, key=key)
    rates = jnp.asarray([0.01, 0.1, 1.0])
    states = eqx.filter_vmap(start)(nets, jr.split(jr.key(1), 3), rates)

    @eqx.filter_jit
    def scanned(states):
        arrays, static = eqx.partition(states, eqx.is_array)

        def body(arrays, _):
            new, info = training.step(eqx.combine(arrays, static), task, recipe)
            return eqx.filter(new, eqx.is_array), info

        three = lambda a: jax.lax.scan(body, a, None, length=3)
        return jax.vmap(three)(arrays)

    final, infos = scanned(states)
    assert infos.loss.shape == (3, 3)
    one = m.member(states, 1)
    for epoch in range(3):
        one, info = run(one, task, recipe)
        np.testing.assert_allclose(info.loss, infos.loss[1, epoch], rtol=1e-8)
    np.testing.assert_allclose(one.model.W, final.model.W[1], rtol=1e-6, atol=1e-9)


def test_divergence_freezes_at_the_last_finite_weights():
    task = tasks.DelayedCueDiscrimination(0.0)
    recipe = training.Recipe(optimiser=training.sgd(), batch=4)
    state = training.init(small(jr.key(0)), recipe, learning_rate=1e308, key=jr.key(1))
    for _ in range(3):
        state, info = run(state, task, recipe)
    assert bool(state.diverged) and not bool(state.running)
    assert all(
        bool(jnp.all(jnp.isfinite(a)))
        for a in jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
    )


def test_a_trained_time_constant_never_falls_below_the_step():
    task = tasks.DelayedCueDiscrimination(0.0)
    recipe = training.Recipe(
        optimiser=training.sgd(), batch=4, fixed=("noise", "x0", "W_fixed")
    )
    seen = set()
    for seed in range(4):
        state = training.init(
            small(jr.key(seed)), recipe, learning_rate=0.5, key=jr.key(1)
        )
        for _ in range(3):
            state, info = run(state, task, recipe)
        assert state.model.tau >= task.dt
        assert bool(info.finite) is not bool(state.diverged)
        seen.add(bool(state.diverged))
    assert seen == {True, False}  # some grow, the others would turn negative


def test_constraints_hold_inside_the_loss():
    mask = ~jnp.eye(12, dtype=bool)
    recipe = training.Recipe(
        optimiser=optax.adam,
        batch=4,
        constraints=m.Constraints(W=m.Masked(mask)),
        start=training.ModelStart(),
        readout="after",
    )
    task = tasks.DelayedCueDiscrimination(0.0)
    state = training.init(small(jr.key(0)), recipe, learning_rate=0.05, key=jr.key(1))
    losses = []
    for _ in range(60):
        state, info = run(state, task, recipe)
        losses.append(float(info.loss))
    # Where the mask is zero the raw weights have no gradient.
    before = jnp.diag(small(jr.key(0)).W)
    np.testing.assert_array_equal(jnp.diag(state.model.W), before)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("optimiser", [optax.lbfgs, optax.polyak_sgd])
def test_optimisers_that_ask_for_the_loss(optimiser):
    """A line search and a step size from the loss; without noise they descend."""
    recipe = training.Recipe(optimiser, batch=2, start=training.ModelStart())
    task = tasks.DelayedCueDiscrimination(0.0)
    net = small(jr.key(0), 0.0)
    state = training.init(net, recipe, learning_rate=1.0, key=jr.key(1))
    losses = []
    for _ in range(20):
        state, info = run(state, task, recipe)
        losses.append(float(info.loss))
    assert losses[-1] < 0.5 * losses[0]
    if optimiser is optax.lbfgs:
        assert all(np.diff(losses) < 0)


def test_dtype_follows_the_model():
    task = tasks.DelayedCueDiscrimination(0.0)
    recipe = training.Recipe(optimiser=training.sgd(), batch=2)
    net = small(jr.key(0), 1e-3, jnp.float32)
    state = training.init(net, recipe, learning_rate=0.1, key=jr.key(1))
    state, info = run(state, task, recipe)
    assert info.loss.dtype == state.model.W.dtype == jnp.float32


def test_impossible_recipes():
    with pytest.raises((ValueError, TypeError), match="optimiser"):
        training.Recipe(optimiser=optax.adam(0.1), batch=1)
    with pytest.raises(ValueError, match="batch = 0"):
        training.Recipe(optimiser=training.sgd(), batch=0)
    with pytest.raises((ValueError, TypeError), match="readout"):
        training.Recipe(optimiser=training.sgd(), batch=1, readout="sometimes")


@pytest.mark.parametrize(
    "wrong", [dict(stop=1e-3), dict(start=None), dict(constraints=1)], ids=str
)
def test_parts_of_a_recipe_without_a_type_checker(wrong, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = .*LossBelow"):
        training.Recipe(optimiser=training.sgd(), batch=1, **wrong)
