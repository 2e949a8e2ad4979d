"""Generators: noise laws, recordings, tasks, trained networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.fitting._generators import (
    CorrelatedNoise,
    GaussianNoise,
    LaplaceNoise,
    PoissonNoise,
    jittered_alpha,
    random_network,
    record,
    restrict,
)
from rnndyn.fitting._trained import (
    FlipFlop,
    TimedResponse,
    train_flip_flop,
    train_timed_response,
)


@pytest.mark.parametrize(
    ("law", "mean", "std"),
    [
        (GaussianNoise(0.3), 0.0, 0.3),
        (LaplaceNoise(0.3), 0.0, 0.3 * 2**0.5),
        (PoissonNoise(0.2), 0.2, 0.2**0.5),
        (PoissonNoise(3.0), 3.0, 3.0**0.5),
    ],
)
def test_moments_of_noise(law, mean, std, getkey):
    draws = np.asarray(law(2000, 50, jnp.float64, key=getkey()))
    # Four standard errors of 1e5 independent draws.
    assert abs(draws.mean() - mean) < 4 * std / 1e5**0.5
    assert abs(draws.std() / std - 1) < 0.02


def test_poisson_probabilities(getkey):
    draws = np.asarray(PoissonNoise(0.5)(1000, 100, jnp.float64, key=getkey()))
    for k, p in enumerate(np.exp(-0.5) * np.array([1, 0.5, 0.125, 0.125 / 6])):
        assert abs(np.mean(draws == k) - p) < 4 * (p / 1e5) ** 0.5
    with pytest.raises(ValueError, match="mean count"):
        PoissonNoise(-1.0)


@pytest.mark.parametrize("rate", [0.0, 0.2, 3.0, 8.0])
def test_poisson_in_float32(rate):
    draws = PoissonNoise(rate)(2000, 1000, jnp.float32, key=jax.random.key(1))
    assert draws.dtype == jnp.float32
    draws = np.asarray(draws, np.float64)
    # The rounded sum of probabilities once let a few uniforms count to 40.
    assert draws.max() < (20 if rate <= 3 else 32)
    assert abs(draws.mean() - rate) <= 4 * (rate / draws.size) ** 0.5
    # Of the sample variance: fourth moment r + 3 r^2 less the variance squared.
    error = ((rate + 2 * rate**2) / draws.size) ** 0.5
    assert abs(draws.var() - rate) <= 4 * error


def test_correlated_noise(getkey):
    draws = np.asarray(CorrelatedNoise(0.1)(4000, 60, jnp.float64, key=getkey()))
    assert np.isclose(draws.std(), 0.1)
    z = draws / draws.std()
    # White noise through a Gaussian of width w is correlated as exp(-lag^2/(4 w^2)).
    for lag in (1, 5, 10):
        expected = np.exp(-(lag**2) / (4 * 5.0**2))
        assert abs(np.mean(z[lag:] * z[:-lag]) - expected) < 0.05
    between = np.mean(z[:, 20:37] * z[:, 23:40])
    assert abs(between - np.exp(-(3**2) / (4 * 3.0**2))) < 0.08


def test_random_network(getkey):
    net = random_network(300, 2, alpha=0.2, dt=0.01, gain=2.0, key=getkey())
    W = np.asarray(net.W)
    assert np.all(np.diag(W) == 0)
    assert abs(W.std() * 300**0.5 - 2) < 0.05
    assert np.allclose(net.tau, 0.05)
    assert abs(np.asarray(net.W_in).std() - 2**0.5) < 0.2
    with pytest.raises(ValueError, match="alpha = 1.5, expected dt / tau in"):
        random_network(5, alpha=1.5, key=getkey())


def test_record_rate_form(getkey):
    net = random_network(7, 2, alpha=0.3, key=getkey())
    u = jax.random.normal(getkey(), (20, 2))
    r = np.asarray(record(net, 20, dt=1.0, inputs=u, key=getkey()))
    assert np.all(np.abs(r[0]) < 1)
    for t in range(20):
        z = np.asarray(net.W) @ r[t] + np.asarray(net.W_in @ u[t])
        assert np.allclose(r[t + 1], 0.7 * r[t] + 0.3 * np.tanh(z), atol=1e-12)


def test_record_current_form(getkey):
    W = jax.random.normal(getkey(), (5, 5)) / 5**0.5
    net = rd.CurrentRNN.from_arrays(W, jnp.ones((5, 1)), tau=4.0)
    u = jnp.ones((10, 1))
    r = np.asarray(record(net, 10, dt=1.0, inputs=u, key=getkey()))
    assert np.all(np.abs(r[0]) < 0.5)
    x = np.arctanh(r)
    for t in range(10):
        expected = 0.75 * x[t] + 0.25 * (np.asarray(W) @ r[t] + 1)
        assert np.allclose(x[t + 1], expected, atol=1e-12)


def test_noise_enters_where_it_should(getkey):
    net = random_network(20, alpha=0.1, key=getkey())
    law = GaussianNoise(1e-3)
    r = np.asarray(record(net, 2000, dt=1.0, conversion_noise=law, key=getkey()))
    d = (r[1:] - 0.9 * r[:-1]) / 0.1
    error = d - np.tanh(r[:-1] @ np.asarray(net.W).T)
    # Conversion noise is additive on the targets, whatever alpha is.
    assert abs(error.std() / 1e-3 - 1) < 0.03
    same = random_network(20, alpha=np.full(20, 0.1), key=jax.random.key(1))
    one = random_network(20, alpha=0.1, key=jax.random.key(1))
    run = lambda net: record(
        net, 5, dt=1.0, conversion_noise=law, key=jax.random.key(2)
    )
    assert np.allclose(run(same), run(one), atol=1e-12)
    r = np.asarray(record(net, 2000, dt=1.0, input_noise=law, key=getkey()))
    d = (r[1:] - 0.9 * r[:-1]) / 0.1
    inside = np.abs(d) < 0.9
    error = np.arctanh(np.where(inside, d, 0)) - r[:-1] @ np.asarray(net.W).T
    assert abs(error[inside].std() / 1e-3 - 1) < 0.03


def test_record_by_vmap_and_in_float32(getkey):
    nets = rd.models.ensemble(
        lambda key: random_network(6, key=key), jax.random.split(getkey(), 3)
    )
    keys = jax.random.split(getkey(), 3)
    run = lambda net, key: record(
        net, 15, dt=1.0, input_noise=GaussianNoise(0.1), key=key
    )
    together = eqx.filter_jit(eqx.filter_vmap(run))(nets, keys)
    for i in range(3):
        alone = run(rd.models.member(nets, i), keys[i])
        assert np.allclose(together[i], alone, atol=1e-12)
    single = random_network(6, dtype=jnp.float32, key=getkey())
    assert record(single, 5, dt=1.0, key=getkey()).dtype == jnp.float32


def test_record_refuses(getkey):
    net = random_network(4, 1, key=getkey())
    with pytest.raises(ValueError, match="one fewer than frames"):
        record(net, 10, dt=1.0, inputs=jnp.zeros((11, 1)), key=getkey())
    with pytest.raises(ValueError, match="dt/tau"):
        record(net, 10, dt=20.0, key=getkey())
    with pytest.raises(ValueError, match=r"r0 has shape \(3,\), expected \(4\)"):
        record(net, 10, dt=1.0, r0=jnp.zeros(3), key=getkey())

    with pytest.raises(ValueError, match=r"inputs has shape \(10, 3\)"):
        record(net, 10, dt=1.0, inputs=jnp.zeros((10, 3)), key=getkey())
    with pytest.raises(ValueError, match="num_steps = -1"):
        record(net, -1, dt=1.0, key=getkey())
    with pytest.raises(ValueError, match="num_neurons = -1"):
        random_network(-1, key=getkey())
    with pytest.raises(ValueError, match="pulse = 2"):
        FlipFlop(pulse=2.0)
    with pytest.raises(ValueError, match="width = 0"):
        TimedResponse(width=0.0)


def test_restrict_and_jitter(getkey):
    net = random_network(6, 2, key=getkey())
    assert np.array_equal(restrict(net, 2).W, net.W[2:3, 2:3])
    part = restrict(net, slice(0, 3))
    assert np.array_equal(part.W, net.W[:3, :3])
    assert np.array_equal(part.W_in, net.W_in[:3])
    mask = [True, False, True, False, False, False]
    for units in (
        [0, 2],
        (0, 2),
        range(0, 3, 2),
        mask,
        np.array(mask),
        jnp.arange(3)[::2],
    ):
        part = restrict(net, units)
        assert np.array_equal(part.W, net.W[jnp.array([0, 2])][:, jnp.array([0, 2])])
    pick = jax.jit(lambda units: restrict(net, units).W)
    assert np.array_equal(pick(jnp.array([0, 2])), part.W)
    with pytest.raises(IndexError, match="out of bounds"):
        restrict(net, [0, 6])
    alpha = np.asarray(jittered_alpha(0.1, 0.2, 500, key=getkey()))
    assert alpha.min() == 1e-3 and alpha.max() <= 1 and len(set(alpha)) > 300
    assert np.allclose(jittered_alpha(0.1, 0.0, 5, key=getkey()), 0.1)


def test_flip_flop_trial(getkey):
    task = FlipFlop(bits=2, num_steps=300, pulse=0.1)
    trial = task.sample(getkey())
    inputs, targets = np.asarray(trial.inputs), np.asarray(trial.targets)
    assert set(np.unique(inputs)) == {-1.0, 0.0, 1.0}
    assert abs(np.mean(inputs != 0) - 0.1) < 0.05
    state = np.zeros(2)
    for u, y in zip(inputs, targets, strict=True):
        state = np.where(u != 0, u, state)
        assert np.array_equal(y, state)
    score = task.score(trial, trial.targets)
    assert score.accuracy == 1 and score.reliability == 1
    assert task.score(trial, -trial.targets).accuracy == 0
    with pytest.raises(ValueError, match="bits = 0, expected a whole number"):
        FlipFlop(bits=0)


def test_timed_response_trial():
    task = TimedResponse(num_steps=60, cue=10, peak=50.0, width=2.0)
    trial = task.trial(jnp.zeros((), int))
    assert trial.inputs[:10].sum() == 10 and trial.inputs[10:].sum() == 0
    assert trial.targets[50, 0] == 1
    assert np.isclose(trial.targets[48, 0], np.exp(-0.5))
    assert np.isclose(task.score(trial, trial.targets).accuracy, 1)
    assert task.score(trial, jnp.zeros((60, 1))).accuracy == 0
    with pytest.raises(ValueError, match="cue"):
        TimedResponse(num_steps=60, cue=80)


def test_training_lowers_the_loss(getkey):
    key = getkey()
    task = FlipFlop(bits=1, num_steps=20)
    nets = train_flip_flop(
        2, 8, task=task, updates=50, batch=8, learning_rate=2e-2, key=key
    )
    assert nets.loss.shape == (2, 50)
    assert np.all(nets.loss[:, -5:].mean(axis=1) < 0.7 * nets.loss[:, 0])
    assert nets.models.W.dtype == jnp.float64
    assert np.all(jnp.diagonal(nets.models.W, axis1=1, axis2=2) == 0)
    assert np.all(nets.models.b == 0) and nets.models.b_in is None
    # A network that can not have learned does not count as learned.
    assert not np.any(nets.learned & (nets.loss[:, -5:].mean(axis=1) > 0.2))


@pytest.mark.slow
def test_three_bits_are_eight_fixed_points():
    nets = train_flip_flop(
        1, 100, updates=1500, learning_rate=1e-2, key=jax.random.key(0)
    )
    assert nets.learned.all()
    net = rd.models.member(nets.models, 0)
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, 8).T
    # A pulse on every channel at once, then silence.
    u = jnp.zeros((8, 300, 3)).at[:, 0].set(signs)
    run = lambda u: record(
        net, 300, dt=1.0, inputs=u, r0=jnp.zeros(100), key=jax.random.key(1)
    )
    ends = jax.vmap(run)(u)[:, -1]
    points = rd.fixed_points(net.map(1.0), ends, key=jax.random.key(2))
    stable = np.asarray(points.mask & (points.stability == -1))
    found = np.sign(np.asarray(points.x)[stable] @ np.asarray(net.W_out).T)
    assert sorted(map(tuple, found)) == sorted(map(tuple, signs))


@pytest.mark.slow
def test_timed_response_is_learned():
    nets = train_timed_response(2, 100, updates=2000, key=jax.random.key(0))
    assert np.all(nets.loss[:, -200:].mean(axis=1) < 0.5 * nets.loss[:, :50].mean())


def test_numbers_are_checked(getkey):
    for build, match in (
        (lambda: GaussianNoise(-1.0), "std = -1"),
        (lambda: LaplaceNoise(np.nan), "scale = nan"),
        (lambda: CorrelatedNoise(0.1, np.inf), "time_width = inf"),
        (lambda: random_network(4, gain=np.ones(3), key=getkey()), "gain = "),
        (lambda: jittered_alpha(0.1, -1.0, 4, key=getkey()), "spread = -1"),
        (lambda: TimedResponse(peak=np.nan), "peak = nan"),
        (lambda: train_flip_flop(1, 4, alpha=0.0, key=getkey()), "alpha = 0.0"),
        (lambda: train_flip_flop(1, 4, loss_below="a", key=getkey()), "loss_below = a"),
    ):
        with pytest.raises(ValueError, match=match):
            build()


def test_a_timed_answer_is_scored_where_it_counts():
    task = TimedResponse(num_steps=20, cue=2, peak=1.0, width=3.0)
    trial = task.trial(0)
    at_mean = jnp.full((20, 1), jnp.mean(trial.targets[4:]))
    # The mean explains nothing of the steps that count; the rest do not.
    assert float(task.score(trial, at_mean, lag=4).accuracy) < 1e-12
    half = jnp.where(jnp.arange(20)[:, None] >= 4, trial.targets, 9.0)
    assert float(task.score(trial, half, lag=4).accuracy) == 1
    slope = trial.targets + 0.5 * (trial.targets - at_mean)
    np.testing.assert_allclose(task.score(trial, slope, lag=4).accuracy, 0.75)
