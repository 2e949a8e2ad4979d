"""Fits confined by masks, signs and rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.fitting as fi
from rnndyn import Verdict
from rnndyn.fitting.convex._constraints import build_constraint


def record(W, frames, std, *, alpha=0.1, seed=0):
    """Frames of a rate network with noise inside and outside of its activation."""
    rng = np.random.default_rng(seed)
    n = len(W)
    r = np.empty((frames + 1, n))
    r[0] = rng.uniform(-1, 1, n)
    for t in range(frames):
        new = np.tanh(W @ r[t] + std[0] * rng.normal(size=n))
        r[t + 1] = (1 - alpha) * r[t] + alpha * (new + std[1] * rng.normal(size=n))
    return r


def chaotic(seed, n, gain=3.0):
    W = np.random.default_rng(seed).normal(0, gain / np.sqrt(n), (n, n))
    np.fill_diagonal(W, 0)
    return W


def published_admm(rows, ridge, threshold, steps, mask, rho, shifted):
    """The published splitting: explicit inverse, two products formed beforehand."""
    x, d = rows.x, rows.d
    load = ridge * len(x)
    penalty = rho * load
    inverse = np.linalg.inv(x.T @ x + (load + penalty) * np.eye(x.shape[1]))
    to_theta = inverse @ x.T
    stay = to_theta @ x
    theta = chi = to_theta @ np.arctanh(d)
    dual = -load / penalty * theta if shifted else np.zeros_like(theta)
    for _ in range(steps):
        error = (d - np.tanh(x @ theta)) / (1 - d * d)
        out = np.abs(error) > threshold
        error = np.where(out, 0, error) * len(x) / (len(x) - out.sum(axis=0))
        theta = stay @ theta + to_theta @ error + penalty * inverse @ (chi - dual)
        chi = np.where(mask, 0, theta + dual)
        dual = dual + theta - chi
    return chi


@pytest.mark.parametrize("shifted, rho", [(True, 100.0), (False, 10.0)])
def test_same_iterates_as_the_published_splitting(shifted, rho):
    W = chaotic(0, 40)
    r = record(W, 700, (1e-2, 1e-3))
    rows = fi.regression_rows(r, alpha=0.1)
    mask = fi.no_self_connections(40)
    mask |= np.random.default_rng(1).uniform(size=mask.shape) < 0.2
    splitting = fi.Admm(rho, shifted=shifted)
    for steps in (1, 12):
        fit = fi.cornn(
            r,
            alpha=0.1,
            mask=mask,
            outliers=fi.Reject(1.0),
            splitting=splitting,
            max_steps=steps,
            tol=0.0,
        )
        expected = published_admm(rows, 1e-5, 1.0, steps, mask, rho, shifted)
        np.testing.assert_allclose(fit.theta, expected, atol=1e-8)
        assert np.all(fit.theta[mask] == 0)


def test_masked_entries_are_exactly_zero_from_the_start():
    r = record(chaotic(1, 40), 700, (0.1, 1e-3))
    mask = fi.no_self_connections(40)
    kwargs = dict(alpha=0.1, mask=mask, tol=0.0)
    for steps in (0, 3):
        assert np.all(np.diag(fi.cornn(r, max_steps=steps, **kwargs).W) == 0)
    # Weights before projection approach those after it.
    gaps = [fi.cornn(r, max_steps=k, **kwargs).gap for k in (10, 40)]
    assert np.sqrt(np.mean(gaps[1] ** 2)) < np.sqrt(np.mean(gaps[0] ** 2)) / 2


def test_known_zeros_help():
    n = 40
    W = chaotic(2, n)
    absent = np.random.default_rng(3).uniform(size=(n, n)) < 0.7
    W = np.where(absent, 0, W / np.sqrt(0.3))
    r = record(W, 600, (1e-2, 1e-3))
    kwargs = dict(alpha=0.1, outliers=fi.Reject(0.3), max_steps=60)
    free = fi.cornn(r, **kwargs)
    confined = fi.cornn(r, mask=absent.T, **kwargs)
    assert np.all(confined.W[absent] == 0)
    accuracy = [fi.weight_correlation(W, fit.W) for fit in (free, confined)]
    assert accuracy[1] > accuracy[0]


@pytest.mark.filterwarnings("ignore:.*were clipped")
@pytest.mark.parametrize("seed", range(4))
def test_steps_go_on_until_the_confined_weights_are_optimal(seed):
    rng = np.random.default_rng(seed)
    r = record(rng.normal(size=(8, 8)) / 2, 500, (0.05, 1e-3), alpha=0.4, seed=seed)
    signs = rng.choice([-1, 1], 8)
    for confined in ({"mask": fi.no_self_connections(8)}, {"sign": signs}):
        fit = fi.cornn(r, alpha=0.4, max_steps=1000, outliers=fi.Keep(), **confined)
        assert fit.num_steps < 1000 and np.all(fit.verdict == Verdict.root)
        assert fit.gradient_norm.max() <= 1e-9 and np.all(fit.differentiable)
    # The start is not called diverged because it is projected.
    low = fi.cornn(r, alpha=0.4, max_steps=0, rank=2)
    assert not np.any(low.verdict == Verdict.diverged)


@pytest.mark.filterwarnings("ignore:.*were clipped")
def test_optimality_under_signs():
    """Converged: no gradient on free weights, and an outward one at bounds."""
    n = 12
    rng = np.random.default_rng(4)
    sign = rng.choice([-1, 1], n)
    W = 1.5 * np.abs(chaotic(4, n)) * sign[None, :]
    r = record(W, 800, (0.3, 0.05), alpha=0.5)
    fit = fi.cornn(
        r,
        alpha=0.5,
        sign=sign,
        mask=fi.no_self_connections(n),
        outliers=fi.Clip(1.0),
        ridge=1e-4,
        max_steps=3000,
        tol=1e-9,
    )
    assert fit.converged
    assert np.all(fit.W * sign[None, :] >= 0)
    rows = fi.regression_rows(r, alpha=0.5)

    def loss(theta):
        z = rows.x @ theta
        error = (rows.d - jnp.tanh(z)) / (1 - rows.d**2)
        return rows.x.T @ jnp.clip(error, -1, 1) / rows.num_rows - 1e-4 * theta

    downhill = np.asarray(loss(fit.theta))
    off = ~fi.no_self_connections(n)
    free = off & (fit.theta != 0)
    assert np.max(np.abs(downhill[free])) < 1e-7
    held = off & (fit.theta == 0)
    assert held.sum() > 0
    outward = (downhill * sign[:, None])[held]
    assert np.max(outward) < 1e-7
    free = fi.cornn(r, alpha=0.5, outliers=fi.Clip(1.0), ridge=1e-4, max_steps=200)
    gain = [fi.weight_correlation(W, f.W) for f in (fit, free)]
    assert gain[0] > gain[1]


def test_free_signs_stay_free():
    r = record(chaotic(5, 10), 400, (0.1, 1e-2))
    kwargs = dict(alpha=0.1, max_steps=3000, outliers=fi.Clip(0.5), ridge=1e-3)
    free = fi.cornn(r, **kwargs)
    sign = fi.cornn(r, sign=np.zeros(10, int), splitting=fi.Admm(3.0), **kwargs)
    assert free.converged and sign.converged
    np.testing.assert_allclose(sign.theta, free.theta, atol=1e-4)


def test_low_rank_is_found():
    n, rank = 30, 2
    rng = np.random.default_rng(6)
    m, v = rng.normal(size=(2, n, rank))
    W = 2.5 * m @ v.T / n
    r = record(W, 900, (0.3, 1e-3), alpha=0.5)
    kwargs = dict(alpha=0.5, outliers=fi.Clip(1.0), max_steps=200)
    free = fi.cornn(r, **kwargs)
    fit = fi.cornn(r, rank=rank, splitting=fi.Admm(1e4), **kwargs)
    assert np.linalg.matrix_rank(fit.W, tol=1e-8) == rank
    assert not np.any(fit.differentiable) and not np.any(
        fi.cornn(r, rank=n, **kwargs).differentiable
    )
    accuracy = [fi.weight_correlation(W, f.W) for f in (free, fit)]
    assert accuracy[1] > accuracy[0]


def test_projections_are_nearest_points():
    rng = np.random.default_rng(7)
    theta = jnp.asarray(rng.normal(size=(6, 5)))
    sign = np.array([1, -1, 0, 1, -1])
    mask = fi.no_self_connections(5, 1)
    entries = build_constraint(5, 1, mask, sign, None).project(theta)
    expected = np.array(theta)
    expected[:5] = np.where(sign[:, None] * expected[:5] < 0, 0, expected[:5])
    expected[mask] = 0
    np.testing.assert_allclose(entries, expected)
    low = build_constraint(5, 1, None, None, 2)
    once = low.project(theta)
    values = np.linalg.svd(np.asarray(theta[:5]), compute_uv=False)
    np.testing.assert_allclose(
        jnp.sum((once - theta) ** 2), np.sum(values[2:] ** 2), rtol=1e-10
    )
    np.testing.assert_allclose(low.project(once), once, atol=1e-12)
    np.testing.assert_array_equal(once[5], theta[5])


def test_constrained_fits_map_over_networks():
    rs = np.stack([record(chaotic(s, 8), 150, (0.1, 1e-2)) for s in range(2)])
    mask = fi.no_self_connections(8)
    one = lambda r: fi.cornn(r, alpha=0.1, mask=mask, max_steps=15)
    many = jax.jit(jax.vmap(one))(jnp.asarray(rs))
    for k in range(2):
        np.testing.assert_allclose(many.theta[k], one(rs[k]).theta, atol=1e-10)


def test_masks_and_signs_of_their_own_under_vmap():
    rates = record(chaotic(0, 8), 150, (0.1, 1e-2))
    rng = np.random.default_rng(1)
    masks, signs = rng.random((2, 8, 8)) < 0.2, rng.integers(-1, 2, (2, 8))
    one = lambda m, s: fi.cornn(rates, alpha=0.1, mask=m, sign=s, max_steps=15)
    many = jax.jit(jax.vmap(one))(jnp.asarray(masks), jnp.asarray(signs))
    for k in range(2):
        np.testing.assert_array_equal(many.theta[k][masks[k]], 0)
        assert np.all(many.theta[k] * signs[k][:, None] >= 0)
        theta = one(masks[k], signs[k]).theta
        np.testing.assert_allclose(many.theta[k], theta, atol=1e-10)


BAD = {
    "mask shape": (dict(mask=np.zeros((4, 4), bool)), "mask has shape"),
    "mask dtype": (dict(mask=np.zeros((5, 5))), "expected bool"),
    "sign shape": (dict(sign=np.ones(4)), "sign has shape"),
    "sign value": (dict(sign=np.full(5, 2)), "excitatory"),
    "rank": (dict(rank=0), "whole number from 1"),
    "nan rank": (dict(rank=np.nan), "whole number from 1"),
    "both": (dict(rank=2, sign=np.ones(5)), "one kind of constraint"),
    "ridge": (dict(rank=2, ridge=0.0), "relative to the ridge"),
    "damping": (dict(rank=2, damping=fi.Backtrack()), "expected a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changed, message = BAD[name]
    rates = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 5))
    with pytest.raises(ValueError, match=message):
        fi.cornn(rates, alpha=0.1, **changed)


@pytest.mark.slow
def test_zero_diagonal_is_at_least_as_accurate():
    gains = []
    for seed in range(5):
        W = chaotic(seed, 200)
        r = record(W, 2000, (1e-2, 1e-4), seed=seed)
        kwargs = dict(alpha=0.1, outliers=fi.Reject(0.2), max_steps=100, tol=0.0)
        free = fi.cornn(r, **kwargs)
        fit = fi.cornn(r, mask=fi.no_self_connections(200), **kwargs)
        assert np.all(np.diag(fit.W) == 0)
        gains.append(fi.weight_correlation(W, fit.W) - fi.weight_correlation(W, free.W))
    assert np.mean(gains) > 0 and np.min(gains) > -2e-3
