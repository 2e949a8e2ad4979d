"""Samplers and the strategy that adds starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Map, flows


def decay(t, x, args):
    return -x


def test_samplers_have_their_shape_and_stay_where_they_should(getkey):
    box = rdd.Box(jnp.array([-1.0, 2.0]), jnp.array([0.0, 3.0]), 50)
    x = box(decay, None, key=getkey())
    assert x.shape == (50, 2)
    assert np.all((x >= box.low[None]) & (x <= box.high[None]))
    x = rdd.Gaussian(jnp.array([1.0, 5.0, 0.0]), 400)(decay, None, key=getkey())
    np.testing.assert_allclose(np.std(x, axis=0), [1, 5, 0], rtol=0.2)
    states = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    x = rdd.NearStates(states, 0.0, 5)(decay, None, key=getkey())
    assert np.array_equal(x, states[jnp.array([0, 1, 0, 1, 0])])


def test_states_from_trajectories(getkey):
    x0s = jnp.array([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
    sampler = rdd.FromTrajectories(x0s, 20, flow=flows.ScanFlow(dt=0.01), duration=1.0)
    x = sampler(decay, None, key=getkey())
    assert x.shape == (20, 2)
    # Trajectories of x' = -x are rays.
    np.testing.assert_allclose(x[:, 1], 2 * x[:, 0])
    assert np.all(np.abs(x[:, 0]) >= np.exp(-1.0) - 1e-6)
    halve = Map(lambda x, args: 0.5 * x)
    x = rdd.FromTrajectories(x0s, 20, num_times=3)(halve, None, key=getkey())
    assert np.all(np.abs(x[:, 0]) >= 0.125)
    with pytest.raises(ValueError, match="ScanFlow"):
        rdd.FromTrajectories(x0s, 20)(decay, None, key=getkey())


def test_sampler_in_place_of_starts(getkey):
    none = rdd.MultiStart(num_large=0, rounds=0)
    sampler = rdd.Gaussian(jnp.ones(2), 8)
    pts = rdd.fixed_points(decay, sampler, strategy=none, key=getkey())
    np.testing.assert_allclose(pts.roots(), [[0.0, 0.0]], atol=1e-12)


def test_scalar_scale_is_refused():
    with pytest.raises(ValueError, match="one number per"):
        rdd.Gaussian(3.0, 8)


def test_given_symmetry_completes_the_set():
    # Roots at the third roots of unity (and 0); rotation by a third of a turn.
    def f(t, x, args):
        re, im = x[0], x[1]
        return jnp.stack([re - re**2 + im**2, im + 2 * re * im])  # z - conj(z)^2

    c, s = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    turn = jnp.array([[c, -s], [s, c]])
    search = lambda *symmetries: rdd.fixed_points(
        f,
        jnp.array([[1.1, 0.01]]),
        strategy=rdd.MultiStart(num_large=0, rounds=0, symmetries=symmetries),
    )
    assert int(search().mask.sum()) == 1
    two = search(lambda x: turn @ x, lambda x: turn.T @ x)
    angles = np.sort(np.angle(two.x[two.mask] @ np.array([1, 1j])))
    np.testing.assert_allclose(angles, [-2 * np.pi / 3, 0, 2 * np.pi / 3], atol=1e-12)
    # A wrong symmetry invents nothing.
    assert int(search(lambda x: x + 0.3).mask.sum()) == 1


def test_oddness_is_found_and_not_imagined(getkey):
    probes = jax.random.normal(getkey(), (4, 3))
    strategy = rdd.MultiStart()
    assert strategy.is_odd(lambda x: jnp.tanh(2 * x) - x, probes)
    assert not strategy.is_odd(lambda x: jnp.tanh(2 * x + 1e-9) - x, probes)
    assert not strategy.is_odd(lambda x: x * jnp.nan, probes)


def test_states_after_pulses_and_inside_the_search(getkey):
    leak = lambda t, x, u: -x + (0.0 if u is None else u)
    flow = flows.ScanFlow(dt=0.05)
    amplitudes = jnp.array([[1.0, 0.0], [0.0, -2.0]])
    sampler = rdd.AfterPulses(
        jnp.zeros(2), amplitudes, 30, flow=flow, duration=1.0, after=2.0
    )
    x = sampler(leak, None, key=getkey())
    # One coordinate responds to each pulse and decays from 1 - 1/e of the amplitude.
    assert np.all(np.sort(np.abs(x), axis=1)[:, 0] < 1e-12)
    assert np.abs(x).max() <= 2 * (1 - np.exp(-1.0)) + 1e-6
    assert np.abs(x).max(axis=1).min() >= (1 - np.exp(-1.0)) * np.exp(-2.0) - 1e-6
    paths = rdd.FromTrajectories(jnp.ones((2, 2)), 6, flow=flow, duration=1.0)
    none = rdd.MultiStart(num_large=0, rounds=0)
    for each in (sampler, paths):
        pts = rdd.fixed_points(leak, each, strategy=none, key=getkey())
        np.testing.assert_allclose(pts.roots(), [[0.0, 0.0]], atol=1e-12)
    with pytest.raises(ValueError, match="expected a flow"):
        sampler(Map(lambda x, u: x), None, key=getkey())
