"""Fits that go on during a recording against fits of all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.fitting as fi
from rnndyn.fitting.convex._stream import update_factor


def record(seed, n, frames, std=(1e-2, 1e-3), *, alpha=0.1, gain=3.0):
    rng = np.random.default_rng(seed)
    W = rng.normal(0, gain / np.sqrt(n), (n, n))
    r = np.empty((frames + 1, n))
    r[0] = rng.uniform(-1, 1, n)
    for t in range(frames):
        new = np.tanh(W @ r[t] + std[0] * rng.normal(size=n))
        r[t + 1] = (1 - alpha) * r[t] + alpha * (new + std[1] * rng.normal(size=n))
    return W, r


@pytest.mark.parametrize("p, k", [(5, 1), (70, 3), (64, 40)])
def test_factor_update(p, k):
    rng = np.random.default_rng(p)
    a = rng.normal(size=(2 * p, p))
    x = rng.normal(size=(k, p))
    before = np.linalg.cholesky(a.T @ a)
    after = update_factor(jnp.asarray(before), jnp.asarray(x))
    expected = np.linalg.cholesky(a.T @ a + x.T @ x)
    np.testing.assert_allclose(after, expected, atol=1e-11 * np.max(expected))


def test_a_gradient_that_was_not_looked_at_is_not_known():
    _, r = record(0, 5, 60)
    state = fi.update(fi.stream(5, alpha=0.1, load=1e-2), r, steps=0)
    assert np.all(np.isnan(state.gradient_norm))
    assert np.all(fi.update(state, r[:5], steps=1).gradient_norm > 0)


@pytest.mark.parametrize("chunk", [1, 50])
def test_fixed_point_is_that_of_the_batch_fit(chunk):
    frames = 120 if chunk == 1 else 600
    _, r = record(0, 30, frames)
    batch = fi.cornn(r, alpha=0.1, ridge=1e-4, max_steps=0)
    state = fi.stream(30, alpha=0.1, load=1e-4 * frames, window=40)
    for first in range(0, frames + 1, chunk):
        state = fi.update(state, r[first : first + chunk])
    assert state.num_rows == frames
    np.testing.assert_allclose(state.fixed_point, batch.theta, atol=1e-8)
    whole = state.gram + 1e-4 * frames * np.eye(30)
    np.testing.assert_allclose(state.factor @ state.factor.T, whole, atol=1e-9)


def test_steps_are_those_of_the_batch_fit_while_all_rows_are_in_the_window():
    rng = np.random.default_rng(1)
    trials = [record(s, 20, frames)[1] for s, frames in ((1, 149), (2, 249))]
    inputs = [rng.normal(size=(len(r), 2)) for r in trials]
    kwargs = dict(alpha=np.linspace(0.1, 0.3, 20), outliers=fi.Reject(2.0))
    batch = fi.cornn(trials, inputs, ridge=1e-4, max_steps=7, tol=0.0, **kwargs)
    state = fi.stream(20, 2, load=1e-4 * (149 + 249), window=500, **kwargs)
    for r, u in zip(trials, inputs, strict=True):
        for k in range(0, len(r), 50):
            piece = slice(k, k + 50)
            state = fi.update(state, r[piece], u[piece], new_trial=k == 0, steps=7)
    assert state.num_rows == 149 + 249
    np.testing.assert_allclose(state.theta, batch.theta, atol=1e-8)
    assert state.W.shape == (20, 20) and state.W_in.shape == (20, 2)
    assert state.network.state_size == 20


def test_a_window_comes_close_to_the_batch_fit():
    W, r = record(3, 50, 3000, (1e-2, 1e-4))
    batch = fi.cornn(r, alpha=0.1, outliers=fi.Reject(0.2))
    state = fi.stream(50, alpha=0.1, load=1e-5 * 3000, outliers=fi.Reject(0.2))
    for first in range(0, 3001, 100):
        state = fi.update(state, r[first : first + 100])
    r_batch, r_stream, r_start = (
        fi.weight_correlation(W, w) for w in (batch.W, state.W, state.fixed_point.T)
    )
    assert r_stream > r_start and r_stream > r_batch - 0.05


def test_jit_and_precision():
    _, r = record(4, 10, 200)
    state = fi.stream(10, alpha=0.1, load=1e-2, window=100)
    eager = fi.update(state, r[:50])
    traced = jax.jit(lambda s, f: fi.update(s, f))(
        jax.tree.map(jnp.asarray, state), jnp.asarray(r[:50])
    )
    np.testing.assert_allclose(traced.theta, eager.theta, atol=1e-12)
    single = fi.stream(10, alpha=0.1, load=1e-2, window=100, dtype=np.float32)
    single = fi.update(single, r[:50])
    assert single.theta.dtype == np.float32
    np.testing.assert_allclose(single.fixed_point, eager.fixed_point, atol=2e-2)


def test_bad_input():
    make = lambda **kw: fi.stream(**(dict(num_neurons=4, alpha=0.1, load=1e-2) | kw))
    with pytest.raises(ValueError, match="load = 0"):
        make(load=0.0)
    with pytest.raises(ValueError, match="load = inf"):
        make(load=np.inf)
    with pytest.raises(ValueError, match="dt / tau"):
        make(alpha=2.0)
    with pytest.raises(ValueError, match="num_neurons = 0"):
        make(num_neurons=0)
    with pytest.raises(ValueError, match="alpha has shape"):
        make(alpha=np.full(3, 0.1))
    with pytest.raises(ValueError, match="dtype = float16, expected np.float64"):
        fi.stream(3, alpha=0.5, load=1.0, dtype="float16")
    with pytest.raises(ValueError, match="freeze_after"):
        make(outliers=fi.Reject(1.0, freeze_after=3))
    state = make()
    with pytest.raises(ValueError, match="frames has shape"):
        fi.update(state, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="steps = -1"):
        fi.update(state, np.zeros((5, 4)), steps=-1)
    with pytest.raises(ValueError, match="frames has dtype complex"):
        fi.update(state, np.zeros((5, 4), complex))
    with pytest.raises(ValueError, match="inputs has shape"):
        fi.update(state, np.zeros((5, 4)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match="new_trial=True"):
        fi.update(state, np.full((5, 4), np.nan))


def test_a_chunk_longer_than_the_window_is_like_short_ones():
    W, r = record(0, 10, 3000, (0.3, 0.1), alpha=0.3, gain=1.5)
    found = []
    for chunk in (100, 3000):
        state = fi.stream(10, alpha=0.3, load=0.03)
        for k in range(0, 3000, chunk):
            state = fi.update(state, r[k : k + chunk], steps=20)
        found.append((fi.weight_correlation(W, state.W), state))
    assert found[0][0] > 0.9 and found[1][0] > found[0][0] - 0.02
    assert found[0][1].num_rows == found[1][1].num_rows == 2999
    np.testing.assert_allclose(found[1][1].gram, found[0][1].gram, rtol=1e-9)
    state = fi.stream(10, alpha=0.3, load=0.03)
    traced = jax.jit(lambda s, f: fi.update(s, f, steps=20))(
        jax.tree.map(jnp.asarray, state), jnp.asarray(r[:700])
    )
    whole = fi.update(state, r[:700], steps=20)
    np.testing.assert_allclose(traced.theta, whole.theta, atol=1e-9)


def test_first_chunks():
    _, r = record(0, 4, 50)
    empty = fi.stream(4, 1, alpha=0.1, load=1e-2)
    with pytest.raises(ValueError, match="frames has 0 frames"):
        fi.update(empty, np.zeros((0, 4)), np.zeros((0, 1)))
    one = fi.update(empty, r[:1], np.zeros((1, 1)))
    assert one.num_rows == 0 and np.all(one.gradient_norm == 0)
    assert np.all(one.theta == 0)
    both = fi.update(one, r[1:].tolist(), np.zeros((50, 1)).tolist())
    whole = fi.update(empty, r, np.zeros((51, 1)))
    np.testing.assert_allclose(both.fixed_point, whole.fixed_point, atol=1e-9)
    with pytest.raises(ValueError, match="threshold of Reject = -1"):
        fi.stream(4, alpha=0.1, load=1e-2, outliers=fi.Reject(-1.0))
