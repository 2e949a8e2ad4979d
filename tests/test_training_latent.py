"""Training in latent coordinates: the same networks as in full space, only faster."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from rnndyn import models as m, tasks, training
from rnndyn.flows import iterate
from rnndyn.training import _latent_train, latent_loss, latent_outputs, train_latent


TASK = tasks.DelayedActivation(0.02, 0.01)
WEIGHTS = ("m", "n", "b", "W_out", "b_out")


def build(key, *, scale="1", size=15, rank=2, dtype=jnp.float64):
    keys = jr.split(key, 3)
    net = m.LowRankRNN(
        0,
        size,
        1,
        rank=rank,
        tau=0.01,
        form="rate",
        scale=scale,
        readout="sigmoid",
        latent_readout=True,
        x0=jr.normal(keys[0], (size,)) / 10,
        init=m.GaussianFactors(b_out_std=1.0),
        key=keys[1],
    )
    net = eqx.tree_at(lambda n: n.b, net, 0.1 * jr.normal(keys[2], (size,)))
    cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, net)


NETS = m.ensemble(build, jr.split(jr.key(0), 5))
RATES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])


def full_loss(net, task):
    """The loss by the full network's Euler map, outputs read after the update."""
    trial = task.trial()
    states = iterate(net.map(task.dt), net.x0, task.num_steps)
    error = (jax.vmap(net.readout)(states) - trial.targets) ** 2
    return jnp.sum(trial.mask * jnp.mean(error, axis=1))


def get(net):
    return [getattr(net, name) for name in WEIGHTS]


def close(a, b, rtol=1e-10, atol=1e-12):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("scale", "rank"), [("1", 2), ("1/N", 3)])
def test_latent_map_is_the_full_map(getkey, scale, rank):
    net = build(getkey(), scale=scale, rank=rank, size=100)
    outputs, kappa = latent_outputs(net, 5e-3, 200)
    # The map of the full network, as it is written in the paper.
    s, x, a = net._s, net.x0, 0.5
    for t in range(5):
        x = (1 - a) * x + a * jnp.tanh(net.m @ (s * net.n.T @ x) + net.b)
        np.testing.assert_allclose(kappa[t], s * net.n.T @ x, atol=1e-13)
    states = iterate(net.map(5e-3), net.x0, 200)
    np.testing.assert_allclose(kappa, jax.vmap(net.latent)(states), atol=1e-12)
    np.testing.assert_allclose(outputs, jax.vmap(net.readout)(states), atol=1e-12)


def test_loss_and_gradient_are_those_of_the_full_network():
    net = m.member(NETS, 0)
    loss, gradient = latent_loss(net, TASK)
    wanted, full = eqx.filter_jit(eqx.filter_value_and_grad(full_loss))(net, TASK)
    np.testing.assert_allclose(loss, wanted, rtol=1e-13)
    close(get(gradient), get(full))
    jitted = eqx.filter_jit(latent_loss)
    close(jitted(net, TASK), (loss, gradient))
    # Central difference along a random direction.
    direction = [jr.normal(jr.key(i), w.shape) for i, w in enumerate(get(net))]
    where = lambda n: [getattr(n, name) for name in WEIGHTS]

    def moved(h):
        new = [w + h * d for w, d in zip(get(net), direction, strict=True)]
        return float(jitted(eqx.tree_at(where, net, new), TASK)[0])

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    pairs = zip(get(gradient), direction, strict=True)
    inner = sum(float(jnp.sum(g * d)) for g, d in pairs)
    np.testing.assert_allclose(inner, slope, rtol=1e-7)


def test_long_trials_are_looped_and_agree():
    task = tasks.DelayedActivation(0.4)
    net = m.member(NETS, 1)
    assert task.num_steps > 64
    loss, gradient = eqx.filter_jit(latent_loss)(net, task)
    wanted, full = eqx.filter_jit(eqx.filter_value_and_grad(full_loss))(net, task)
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    close(get(gradient), get(full))


@pytest.fixture(scope="module")
def twenty():
    return train_latent(NETS, TASK, learning_rate=RATES, steps=20, record_every=1)


def test_training_is_gradient_descent(twenty):
    step = eqx.filter_jit(eqx.filter_vmap(latent_loss, in_axes=(0, None)))
    nets, losses, norms = NETS, [], []
    for _ in range(20):
        loss, gradient = step(nets, TASK)
        losses.append(loss)
        norms.append(
            jnp.sqrt(sum(jnp.sum(g.reshape(5, -1) ** 2, 1) for g in get(gradient)))
        )
        rate = lambda g: jnp.asarray(RATES).reshape(-1, *[1] * (g.ndim - 1))
        new = [p - rate(g) * g for p, g in zip(get(nets), get(gradient), strict=True)]
        nets = eqx.tree_at(lambda n: [getattr(n, k) for k in WEIGHTS], nets, new)
    close(get(twenty.models), get(nets))
    np.testing.assert_allclose(twenty.history.loss, jnp.stack(losses, 1), rtol=1e-10)
    np.testing.assert_allclose(twenty.history.gradient, jnp.stack(norms, 1), rtol=1e-9)
    assert twenty.done and np.all(twenty.state.epoch == 20)
    # What is not trained has not changed.
    np.testing.assert_array_equal(twenty.models.x0, NETS.x0)
    np.testing.assert_allclose(twenty.state.loss_0, twenty.history.loss[:, 0])


def test_records_keep_the_extremes(twenty):
    sparse = train_latent(NETS, TASK, learning_rate=RATES, steps=20, record_every=5)
    close(sparse.models, twenty.models)
    loss = twenty.history.loss.reshape(5, 4, 5)
    np.testing.assert_allclose(sparse.history.loss, loss[:, :, 0], rtol=1e-10)
    np.testing.assert_allclose(sparse.history.low, loss.min(2), rtol=1e-10)
    np.testing.assert_allclose(sparse.history.high, loss.max(2), rtol=1e-10)


@pytest.mark.parametrize("lanes", [1, 2])
def test_lanes_do_not_matter(twenty, lanes):
    other = train_latent(
        NETS, TASK, learning_rate=RATES, steps=20, record_every=1, lanes=lanes
    )
    close(other.state, twenty.state)
    close(other.history, twenty.history)


def test_going_on_is_not_stopping_and_checkpoints_are_the_weights_then(twenty):
    kw = dict(record_every=5, checkpoints=(5, 15))
    seen = []
    whole = train_latent(
        NETS,
        TASK,
        learning_rate=RATES,
        steps=20,
        on_chunk=lambda r: seen.append(int(r.state.epoch[0])),
        **kw,
    )
    assert seen == [5, 15, 20]
    first = train_latent(
        NETS, TASK, learning_rate=RATES, steps=15, record_every=5, checkpoints=(5, 15)
    )
    half = jax.tree.map(np.copy, first)
    second = train_latent(first, TASK, steps=20)
    close(second, whole, rtol=0, atol=0)
    close(first, half, rtol=0, atol=0)  # the first result is not written to
    at = lambda k: jax.tree.map(
        lambda a: a[:, k] if eqx.is_array(a) else a, whole.checkpoints
    )
    close(get(at(1)), get(first.models))
    five = train_latent(NETS, TASK, learning_rate=RATES, steps=5, record_every=5)
    close(get(at(0)), get(five.models))


def test_networks_stop_and_stay():
    rates = np.full(5, 0.5)
    free = train_latent(NETS, TASK, learning_rate=rates, steps=600, record_every=1)
    share = free.history.loss / free.history.loss[:, :1]
    ratio = float(np.median(share[:, 300]))
    result = train_latent(
        NETS,
        TASK,
        learning_rate=rates,
        steps=600,
        record_every=60,
        stop_ratio=ratio,
        checkpoints=(600,),
    )
    below = share < ratio
    wanted = np.where(below.any(1), below.argmax(1), 600)
    np.testing.assert_array_equal(result.state.stopped, below.any(1))
    assert 0 < result.state.stopped.sum() < 5
    np.testing.assert_array_equal(result.state.epoch, wanted)
    # Later checkpoints of a stopped network are its last weights.
    close(get(result.models), [np.asarray(w)[:, 0] for w in get(result.checkpoints)])
    after = np.arange(10)[None] * 60 > wanted[:, None]
    assert np.all(np.isnan(result.history.loss) == after)
    first = lambda r: np.where((share < r).any(1), (share < r).argmax(1), -1)
    for k, r in enumerate(training.RATIOS):
        np.testing.assert_array_equal(free.state.reached[:, k], first(r))


def test_a_diverged_network_is_marked_and_harms_nobody(twenty):
    nets = jax.tree.map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, NETS
    )
    # The gradient of network 1 overflows in float32.
    n, w = nets.n.at[1].mul(1e25), nets.W_out.at[1].mul(1e-25)
    nets = eqx.tree_at(
        lambda k: (k.m, k.n, k.b, k.W_out),
        nets,
        (nets.m.at[1].set(0), n, nets.b.at[1].set(0), w),
    )
    result = train_latent(nets, TASK, learning_rate=RATES, steps=20, record_every=1)
    assert result.models.m.dtype == np.float32
    np.testing.assert_array_equal(result.state.diverged, [0, 1, 0, 0, 0])
    assert all(np.all(np.isfinite(w)) for w in get(result.models))
    others = [0, 2, 3, 4]
    np.testing.assert_allclose(
        result.history.loss[others], twenty.history.loss[others], rtol=1e-4
    )
    assert result.done


def test_new_values_compile_nothing(twenty, monkeypatch):
    traced, real = [], _latent_train._loss_fn
    monkeypatch.setattr(
        _latent_train, "_loss_fn", lambda *a: (traced.append(1), real(*a))[1]
    )
    kw = dict(record_every=1, stop_ratio=0.01)
    train_latent(NETS, TASK, learning_rate=2 * RATES, steps=30, **kw)
    assert not traced


def test_bad_input():
    kw = dict(steps=10, record_every=5)
    with pytest.raises(ValueError, match="learning_rate"):
        train_latent(NETS, TASK, **kw)
    with pytest.raises(ValueError, match="learning_rate"):
        train_latent(NETS, TASK, learning_rate=np.ones(3), **kw)
    with pytest.raises(ValueError, match="multiple of record_every"):
        train_latent(NETS, TASK, learning_rate=0.1, steps=11, record_every=5)
    with pytest.raises(ValueError, match="checkpoints"):
        train_latent(NETS, TASK, learning_rate=0.1, checkpoints=(7,), **kw)
    cue = tasks.DelayedCueDiscrimination(0.02)
    with pytest.raises(ValueError, match="2 inputs"):
        train_latent(NETS, cue, learning_rate=0.1, **kw)
    with pytest.raises(ValueError, match="form"):
        current = m.LowRankRNN(0, 5, 1, rank=2, tau=0.01, key=jr.key(0))
        latent_outputs(current, 5e-3, 3)
    with pytest.raises(ValueError, match="LowRankRNN"):
        net = m.RateRNN(0, 5, 1, tau=0.01, key=jr.key(0))
        train_latent(net, TASK, learning_rate=0.1, **kw)
    bad = eqx.tree_at(lambda n: n.m, NETS, NETS.m.at[3, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"\[3\]"):
        train_latent(bad, TASK, learning_rate=0.1, **kw)
    with pytest.raises(ValueError, match="negative"):
        train_latent(NETS, TASK, learning_rate=-0.1, **kw)
    with pytest.raises(ValueError, match="lanes = 0"):
        train_latent(NETS, TASK, learning_rate=0.1, lanes=0, **kw)
    stacked = jax.tree.map(lambda a: jnp.stack([a] * len(NETS.m)), TASK)
    with pytest.raises(ValueError, match="expected one for all"):
        train_latent(NETS, stacked, learning_rate=0.1, **kw)
    with pytest.raises(ValueError, match="dt/tau"):
        latent_outputs(m.member(NETS, 0), 0.1, 3)
    result = train_latent(NETS, TASK, learning_rate=0.1, **kw)
    with pytest.raises(ValueError, match="steps"):
        train_latent(result, TASK, steps=5)
    with pytest.raises(ValueError, match="checkpoints"):
        train_latent(result, TASK, steps=20, checkpoints=(5,))
