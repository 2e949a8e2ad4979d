"""The published networks and metrics: parity with PyTorch and NumPy."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnndyn import models, tasks, theory, training


REF = json.loads(
    (Path(__file__).parent / "reference" / "phases_torch.json").read_text()
)


def wave(shape, scale, phase):
    """Numbers that any library can make."""
    return scale * np.sin(phase + 12.9898 * np.arange(np.prod(shape))).reshape(shape)


def network(dtype=jnp.float64):
    n = 100
    arrays = (
        wave((n, n), 0.17, 3),
        wave((n, 2), 0.24, 1),
        wave((n,), 0.1, 4),
        wave((n,), 0.7, 2),
        wave((2, n), 0.24, 5),
        wave((2,), 0.1, 6),
    )
    arrays = [jnp.asarray(a, dtype) for a in arrays]
    return models.RateRNN.from_arrays(*arrays, tau=0.01, readout="sigmoid")


def trials_and_noise(dtype=jnp.float64):
    task = tasks.DelayedCueDiscrimination(0.02)
    trials = task.batch(4, key=jax.random.key(0))
    r0 = np.tanh(0.1 * wave((5, 4, 100), 1.5, 7))
    xi = 1e-3 * wave((5, task.num_steps, 4, 100), 1.5, 8)
    return trials, jnp.asarray(r0, dtype), jnp.asarray(xi, dtype)


@pytest.mark.parametrize("dtype, tol", [(jnp.float64, 1e-12), (jnp.float32, 1e-6)])
def test_one_step_equals_pytorch(dtype, tol):
    net = network(dtype)
    trials, r0, xi = trials_and_noise(dtype)
    free = eqx.filter(net, models.trainable(net))
    assert sum(a.size for a in jax.tree.leaves(free)) == REF["parameters"] == 10_602
    u = trials.inputs[:, 0].astype(dtype)
    output = jax.vmap(net.readout)(r0[0])
    np.testing.assert_allclose(output, REF["output_0"], atol=tol)
    currents = (jax.vmap(net.drive)(u) + xi[0, 0])[None]
    _, r1 = models._unroll.trajectory(net, r0[0], currents, 0.005)
    assert r1.dtype == dtype
    np.testing.assert_allclose(r1[0, ::5], REF["r_1"], atol=tol)


def test_five_epochs_of_sgd_equal_pytorch():
    net = network()
    trials, r0, xi = trials_and_noise()
    params, static = eqx.partition(net, models.trainable(net))
    optimiser = training.sgd()(0.1)

    def loss(params, r0, xi):
        net = eqx.combine(params, static)
        u = jnp.moveaxis(trials.inputs, 1, 0)
        currents = jax.vmap(jax.vmap(net.drive))(u) + xi
        before, _ = models._unroll.trajectory(net, r0, currents, 0.005)
        return training.masked_loss(jax.vmap(jax.vmap(net.readout))(before), trials)

    @jax.jit
    def epoch(params, state, r0, xi):
        value, grad = jax.value_and_grad(loss)(params, r0, xi)
        updates, state = optimiser.update(grad, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimiser.init(params), []
    first = params
    for e in range(5):
        params, state, value = epoch(params, state, r0[e], xi[e])
        losses.append(value)
        if e == 0:  # both biases move by lr g: their sum twice as fast
            moved = params.b - first.b
            np.testing.assert_allclose(moved, params.b_in - first.b_in, atol=1e-7)
    np.testing.assert_allclose(losses, REF["losses"], rtol=1e-5)
    names = {"W_in": "in.weight", "b_in": "in.bias", "W": "rec.weight"}
    names |= {"b": "rec.bias", "W_out": "out.weight", "b_out": "out.bias"}
    for ours, theirs in names.items():
        value = np.asarray(getattr(params, ours)).ravel()
        value = value[:: max(1, value.size // 25)]
        np.testing.assert_allclose(value, REF[theirs], rtol=1e-5, atol=1e-9)


def test_initial_weights_lie_in_the_published_ranges():
    net = models.RateRNN(
        2, 100, 2, tau=0.01, init=models.Xavier(), key=jax.random.key(0)
    )
    bounds = {"W_in": 0.2425, "W": 0.1732, "W_out": 0.2425}
    bounds |= {"b_in": 0.7071, "b": 0.1, "b_out": 0.1}
    for name, bound in bounds.items():
        largest = float(jnp.max(jnp.abs(getattr(net, name))))
        assert largest <= bound + 1e-4
        # b_out has two entries; the others come close to their bound
        assert name == "b_out" or largest > 0.9 * bound
    assert not np.any(np.diag(net.W))


def test_loss_identity_and_lengths():
    for post, base, late in ((0.0, 16, 10), (0.03, 22, 16)):
        for delay in range(0, 401, 20):
            task = tasks.DelayedCueDiscrimination(delay / 1000, post)
            T = task.num_steps
            assert T == base + delay // 5
            if delay not in (0, 200):
                continue
            trials = task.batch(2, key=jax.random.key(0))
            y = np.moveaxis(np.asarray(trials.targets), 1, 0)
            o = 0.5 + wave(y.shape, 0.4, 1)
            early, end = np.mean((o - y)[:-late] ** 2), np.mean((o - y)[-late:] ** 2)
            want = late / T * (1 - late / T) * (early + end)
            got = training.masked_loss(jnp.asarray(o), trials)
            np.testing.assert_allclose(got, want, rtol=1e-6)
            factor = theory.effective_rate(1.0, delay, post=1000 * post)
            np.testing.assert_allclose(factor * (early + end), want, rtol=1e-12)


def test_accuracy_ceiling_of_a_perfect_output():
    score = eqx.filter_jit(training.scores)
    for delay in range(0, 401, 20):
        task = tasks.DelayedCueDiscrimination(delay / 1000, num_steps=96)
        trials = task.batch(4, key=jax.random.key(0))
        targets = jnp.moveaxis(trials.targets, 1, 0)
        # In the reaction period the target, everywhere else undecided for class 1
        right = jax.nn.one_hot(1 - trials.condition, 2)[None]
        outputs = jnp.where(jnp.sum(targets, -1, keepdims=True) > 0, targets, right)
        got = score(task, outputs, trials).accuracy
        want = {300: 0.90, 320: 1 - 0.5 / 9}.get(delay, 0.95)
        np.testing.assert_allclose(got, want, atol=1e-6)
