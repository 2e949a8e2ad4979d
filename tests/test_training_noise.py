"""The fast Gaussian: moments, distribution, correlations at a million draws."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

from rnndyn.training import gaussian
from rnndyn.training._noise import _cos_turn, _log, _unit


SHAPE = (80, 125, 100)  # time, trial, unit: a million


@pytest.fixture(scope="module")
def draws():
    draw = jax.jit(lambda key: gaussian(key, SHAPE))
    root = jr.key(0)
    return [np.asarray(draw(jr.fold_in(root, i)), np.float64) for i in range(3)]


def test_moments_and_distribution(draws):
    for z in draws:
        z = z.ravel()
        n = z.size
        # Four standard errors of each moment of a million Gaussians.
        assert abs(z.mean()) < 4 / n**0.5
        assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
        assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
        assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
        assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
        assert 4.3 < np.abs(z).max() < 5.8


def test_tails(draws):
    z = np.abs(np.concatenate([d.ravel() for d in draws]))
    for threshold in (3.0, 4.0):
        expected = z.size * 2 * scipy.stats.norm.sf(threshold)
        assert abs((z > threshold).sum() - expected) < 4 * expected**0.5


@pytest.mark.parametrize("lag", [1, 2, 64, 100, 125 * 100, 10 * 125 * 100])
def test_no_correlation_along_the_array(draws, lag):
    z = draws[0].ravel()
    n = z.size - lag
    assert abs(np.mean(z[:-lag] * z[lag:])) < 4 / n**0.5
    # Squares too: pairs (radius, angle) must not share a radius.
    assert abs(np.mean((z[:-lag] ** 2 - 1) * (z[lag:] ** 2 - 1))) < 4 * 2 / n**0.5


def test_no_correlation_between_streams():
    # Neighbouring members and neighbouring steps of one member.
    draw = jax.jit(lambda member, step: gaussian(
        jr.fold_in(jr.fold_in(jr.key(0), member), step), (100_000,)
    ))  # fmt: skip
    z = np.asarray([draw(i, j) for i in range(3) for j in range(3)], np.float64)
    off = np.corrcoef(z)[np.triu_indices(9, 1)]
    assert np.max(np.abs(off)) < 4.5 / 100_000**0.5


def test_counter_and_key_alone_decide():
    draw = jax.jit(gaussian, static_argnums=(1, 2))
    key = jr.key(5)
    flat = draw(key, (600,))
    np.testing.assert_array_equal(draw(key, (5, 10, 12)).ravel(), flat)
    assert not np.array_equal(draw(jr.key(6), (600,)), flat)
    assert draw(key, (3,), jnp.float64).dtype == jnp.float64


def test_its_functions_are_accurate():
    u = np.concatenate([_unit(jr.bits(jr.key(0), (100_000,), jnp.uint32)),
                        [2.0**-24, 1 - 2.0**-24]]).astype(np.float32)  # fmt: skip
    assert 0 < u.min() and u.max() < 1
    exact = np.log(u.astype(np.float64))
    np.testing.assert_allclose(_log(jnp.asarray(u)), exact, rtol=2e-7)
    ends = _unit(jnp.asarray([0, 2**32 - 1], jnp.uint32))
    np.testing.assert_array_equal(ends, np.float32([2.0**-24, 1 - 2.0**-24]))
    x = np.linspace(-0.5, 0.5, 10_001, dtype=np.float32)
    exact = np.cos(2 * np.pi * x.astype(np.float64))
    np.testing.assert_allclose(_cos_turn(jnp.asarray(x)), exact, atol=1e-6)


def test_too_many():
    with pytest.raises(ValueError, match="at most 2\\^32"):
        gaussian(jr.key(0), (2**17, 2**17))
