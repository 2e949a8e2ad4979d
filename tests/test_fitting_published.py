"""Published accuracies of CORNN, at the published sizes."""

import numpy as np
import pytest
from helpers import record

import rnndyn.fitting as fi


POISSON = 200, 1500, (1e-2, 0.1), (0, 10, 30), 0.5


def accuracies(seeds, n, frames, std, steps, threshold, **kwargs):
    """Correlation and slope, `(network, step, 2)`."""
    poisson = kwargs.pop("poisson", False)
    found = []
    for seed in range(seeds):
        W, r = record(100 + seed, n, frames, std, poisson=poisson)
        row = []
        for k in steps:
            outliers = kwargs.get("outliers", fi.Reject(threshold))
            fit = fi.cornn(r, alpha=0.1, outliers=outliers, max_steps=k, tol=0.0)
            row.append((fi.weight_correlation(W, fit.W), fi.slope(W, fit.W)))
        found.append(row)
    return np.array(found)


def mean_accuracy(*args):
    return np.mean(accuracies(*args), axis=0)


@pytest.mark.slow
def test_published_accuracy_with_conversion_noise():
    r, slope = mean_accuracy(10, 200, 3000, (1e-2, 1e-4), (0, 5, 100), 0.2).T
    # Tolerance: spread over networks (.057, .03, .017) / sqrt(10), doubled.
    np.testing.assert_allclose(r[0], 0.8736, atol=0.036)
    np.testing.assert_allclose(r[1], 0.9608, atol=0.02)
    np.testing.assert_allclose(r[2], 0.9835, atol=0.011)
    np.testing.assert_allclose(slope[2], 0.985, atol=0.01)


@pytest.mark.slow
def test_published_accuracy_with_input_noise():
    r, _ = mean_accuracy(10, 200, 3000, (0.1, 1e-5), (0, 10, 100), 0.2).T
    np.testing.assert_allclose(r, [0.9598, 0.9691, 0.9691], atol=0.008)


@pytest.mark.slow
def test_published_accuracy_of_large_networks():
    r, _ = mean_accuracy(10, 500, 10_000, (0.1, 1e-5), (0, 5, 50), 1.0).T
    np.testing.assert_allclose(r[:2], [0.9858, 0.9897], atol=0.001)
    assert abs(r[2] - r[1]) < 1e-3


@pytest.mark.slow
def test_rejection_is_what_poisson_noise_needs():
    # Published are medians of 100 networks after 0, 10 and 30 steps.
    every = accuracies(100, *POISSON, poisson=True)[..., 0]
    r = np.median(every, axis=0)
    np.testing.assert_allclose(r, [0.323, 0.945, 0.993], atol=0.01)
    assert r[1] >= 0.94 and r[2] >= 0.99
    assert np.mean(every[:, 2]) >= 0.99
    plain = accuracies(10, *POISSON, poisson=True, outliers=fi.Plain())
    assert np.median(plain[:, 2, 0]) <= 0.45


@pytest.mark.slow
def test_ridge_hardly_matters():
    found = []
    for seed in range(10):
        W, r = record(100 + seed, 200, 3000, (1e-2, 1e-4))
        fit = lambda ridge, r=r: fi.cornn(
            r, alpha=0.1, ridge=ridge, outliers=fi.Reject(0.2), max_steps=100, tol=0.0
        )
        ridges = (1e-10, 1e-7, 1e-5, 1e-4, 1e-3)
        found.append([fi.weight_correlation(W, fit(ridge).W) for ridge in ridges])
    small, _, usual, best, large = np.mean(found, axis=0)
    assert abs(small - usual) < 0.01
    assert best > usual > large
    assert 0.92 < large < 0.95


@pytest.mark.slow
def test_double_precision_does_not_decay():
    W, r = record(100, 200, 3000, (1e-2, 1e-4))
    kwargs = dict(alpha=0.1, outliers=fi.Reject(0.2), tol=0.0)
    early, late = (fi.cornn(r, max_steps=k, **kwargs) for k in (40, 100))
    gain = fi.weight_correlation(W, late.W) - fi.weight_correlation(W, early.W)
    assert gain > -1e-3
    assert fi.rmse(W, late.W) < 1.02 * fi.rmse(W, early.W)
