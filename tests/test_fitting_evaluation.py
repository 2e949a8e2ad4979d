"""Smoothing, scaling, held-out scores and statistics of free runs."""

import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from rnndyn._core._checks import check_key, check_positive
from rnndyn.fitting._cosmoothing import bits_per_spike, co_smoothing
from rnndyn.fitting._evaluation import (
    compare_activity,
    free_run,
    held_out,
    one_step_residuals,
    power_spectrum,
)
from rnndyn.fitting._metrics import one_step_r2
from rnndyn.fitting._problem import check_in, regression_rows
from rnndyn.fitting.recordings._binning import ExponentialKernel, GaussianKernel, smooth
from rnndyn.fitting.recordings._scaling import Scaling, z_scale


def test_smoothing_known_answers():
    dt, time = 0.1, 60
    kernel = GaussianKernel(0.25)
    values = np.zeros((1, time, 2))
    values[0, 30, 0], values[0, :, 1] = 1.0, 3.0
    valid = np.ones((1, time), bool)
    out = smooth(values, valid, kernel, dt)
    lags = (np.arange(time) - 30) * dt
    weights = np.where(np.abs(lags) <= 1.0, np.exp(-0.5 * (lags / 0.25) ** 2), 0)
    assert np.allclose(out[0, 12:49, 0], (weights / weights.sum())[12:49])
    assert np.allclose(out[0, :, 1], 3.0)  # also at the ends
    for causal in (GaussianKernel(0.25, causal=True), ExponentialKernel(0.3)):
        late = smooth(values, valid, causal, dt)
        assert np.all(late[0, :30, 0] == 0) and late[0, 30, 0] > 0
    # A kernel longer than the recording.
    for wide in (
        GaussianKernel(5.0),
        ExponentialKernel(5.0),
        GaussianKernel(2.0, True),
    ):
        out = smooth(values, valid, wide, dt)
        assert np.allclose(out[0, :, 1], 3.0)
    lags = (np.arange(time)[:, None] - np.arange(time)) * dt
    weights = np.exp(-0.5 * (lags / 5.0) ** 2)
    out = smooth(values, valid, GaussianKernel(5.0), dt)
    assert np.allclose(out[0, :, 0], weights[:, 30] / weights.sum(axis=1))
    # Validity neuron by neuron is that of each neuron alone.
    each = np.stack([valid, valid & (np.arange(time) % 3 > 0)], axis=-1)
    out = smooth(values, each, kernel, dt)
    for i in range(2):
        alone = smooth(values[..., [i]], each[..., i], kernel, dt)
        assert np.allclose(out[..., [i]], alone)
    with pytest.raises(ValueError, match="width"):
        GaussianKernel(0.0)


def test_scaling_round_trip():
    rng = np.random.default_rng(2)
    rates = np.exp(rng.normal(size=(500, 4))) * np.array([1, 10, 0.1, 1]) + 5
    rates[:, 3] = 7.0
    scaling = z_scale(rates, limit=0.9)
    scaled = scaling(rates)
    assert np.allclose(np.abs(scaled[:, :3]).max(axis=0), 0.9)
    assert np.allclose(scaled[:, :3].mean(axis=0), 0, atol=1e-12)
    assert list(scaling.constant) == [False, False, False, True]
    assert np.allclose(scaled[:, 3], 0)
    assert np.allclose(scaling.invert(scaled), rates, rtol=1e-12)
    assert np.all(scaling.clipped(rates) == 0)
    tight = z_scale(rates.reshape(5, 100, 4), limit=0.9, quantile=0.98)
    assert np.allclose(tight.clipped(rates)[:3], 0.02, atol=0.003)
    assert np.abs(tight(rates)).max() == 0.9
    known = Scaling(np.zeros(4), np.full(4, 2.0))
    assert np.array_equal(known(np.ones(4)), np.full(4, 0.5))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: z_scale(np.ones(5)), "shape"),
        (lambda: z_scale(np.full((5, 2), np.nan)), "non-finite"),
        (lambda: z_scale(np.ones((5, 2)), limit=1.0), "limit"),
        (lambda: z_scale(np.ones((5, 2)), quantile=0.0), "quantile"),
        (lambda: Scaling(np.zeros(2), np.array([1.0, 0.0])), "positive"),
        (lambda: Scaling(np.zeros(2), np.array([1.0, np.inf])), "positive"),
        (lambda: Scaling(np.full(2, np.nan), np.ones(2)), "2 non-finite"),
        (lambda: Scaling(0.0, 1.0), "offset has shape"),
        (lambda: z_scale(np.eye(4))(np.ones((4, 3))), "4 neurons"),
    ],
)
def test_scaling_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def network(rng, neurons=20, inputs=0, gain=2.0):
    theta = rng.normal(size=(neurons + inputs, neurons)) * gain / neurons**0.5
    theta[neurons:] *= neurons**0.5 / gain
    return theta


def test_held_out_known_answers():
    rng = np.random.default_rng(3)
    theta, alpha = network(rng, 20, 2), np.linspace(0.2, 0.6, 20)
    inputs = rng.normal(size=(400, 2))
    rates = free_run(theta, rng.uniform(-0.5, 0.5, 20), 400, inputs, alpha=alpha)
    kinds = {"true": theta, "none": np.zeros_like(theta)}
    parts = rates[200:], inputs[200:]
    given = dict(alpha=alpha, train=rates[:200], train_inputs=inputs[:200])
    scores = held_out(kinds, *parts, **given)
    assert scores.predictors == ("true", "none", "persistence", "ridge")
    assert scores["true"]["r2_d"] > 1 - 1e-10 and scores["true"]["skill"] > 1 - 1e-10
    assert scores["none"]["r2_d"] <= 0  # predicts 0, not the mean
    assert scores["persistence"]["skill"] == pytest.approx(0, abs=1e-12)
    assert scores["none"]["r2_d"] < scores["ridge"]["r2_d"] < scores["true"]["r2_d"]
    r, ahead = rates[200:-1], rates[201:]
    d = (ahead - (1 - alpha) * r) / alpha
    share = 1 - ((d - r) ** 2).sum() / ((d - d.mean(axis=0)) ** 2).sum()
    assert scores["persistence"]["r2_d"] == pytest.approx(share)
    assert scores.clipped == 0
    x = np.concatenate([rates[:199], inputs[:199]], axis=1)
    past = (rates[1:200] - (1 - alpha) * rates[:199]) / alpha
    weights = np.linalg.lstsq(x, past, rcond=None)[0]
    plain = held_out(theta, *parts, **given, ridge=0.0)
    linear = np.concatenate([r, inputs[200:399]], axis=1) @ weights
    share = 1 - ((d - linear) ** 2).sum() / ((d - d.mean(axis=0)) ** 2).sum()
    assert plain["ridge"]["r2_d"] == pytest.approx(share, abs=1e-6)
    with pytest.raises(ValueError, match="shape"):
        held_out(theta.T, rates, inputs, alpha=alpha)
    with pytest.raises(ValueError, match="non-finite"):
        held_out(theta, np.full_like(rates, np.nan), inputs, alpha=alpha)


def test_a_training_part_of_other_neurons_is_refused():
    rng = np.random.default_rng(12)
    theta, rates = network(rng, 6), rng.uniform(-0.5, 0.5, (60, 6))
    other = rng.uniform(-0.5, 0.5, (60, 12))  # as many numbers as twice the frames
    for score in (held_out, co_smoothing):
        with pytest.raises(ValueError, match="`train` has 12 neurons"):
            score(theta, rates, alpha=0.5, train=other)
        with pytest.raises(ValueError, match="`train` has 360 non-finite"):
            score(theta, rates, alpha=0.5, train=np.full((60, 6), np.nan))
        with pytest.raises(ValueError, match="ridge = -1"):
            score(theta, rates, alpha=0.5, train=rates, ridge=-1.0)
        # Fewer rows than predictors: the smallest weights that fit.
        score(theta, rates, alpha=0.5, train=rates[:3], ridge=0.0)
    with pytest.raises(ValueError, match="names of the plain predictors"):
        held_out({"ridge": theta}, rates, alpha=0.5)


def test_trials_of_unequal_lengths():
    rng = np.random.default_rng(9)
    theta, alpha = network(rng, 10, 2), 0.4
    lengths = (60, 45, 80)
    inputs = [rng.normal(size=(n, 2)) for n in lengths]
    rates = [
        free_run(theta, rng.uniform(-0.5, 0.5, 10), len(u), u, alpha=alpha)
        for u in inputs
    ]
    guess = theta + 0.1 * rng.normal(size=theta.shape)
    scores = held_out(
        guess, rates, inputs, alpha=alpha, train=rates[:2], train_inputs=inputs[:2]
    )
    errors = one_step_residuals(guess, rates, inputs, alpha=alpha)
    parts = [
        one_step_residuals(guess, r, u[:-1], alpha=alpha)
        for r, u in zip(rates, inputs, strict=True)
    ]
    assert np.allclose(errors, np.concatenate(parts), atol=1e-12)
    d = np.concatenate([(r[1:] - 0.6 * r[:-1]) / 0.4 for r in rates])
    share = 1 - (errors**2).sum() / ((d - d.mean(axis=0)) ** 2).sum()
    assert scores["model"]["r2_d"] == pytest.approx(share)
    assert np.isfinite(scores["ridge"]["r2_d"])
    # Single precision is cast before anything is computed.
    single = [r.astype(np.float32) for r in rates]
    low = one_step_residuals(guess, single, inputs, alpha=alpha)
    back = [r.astype(np.float64) for r in single]
    assert np.array_equal(low, one_step_residuals(guess, back, inputs, alpha=alpha))
    single[1][3, 0] = np.nan
    with pytest.raises(ValueError, match="`rates` has 1 non-finite"):
        held_out(theta, single, inputs, alpha=alpha)
    with pytest.raises(ValueError, match="alpha"):
        held_out(theta, rates[:1], inputs[:1], alpha=7.0)


def test_free_runs():
    rng = np.random.default_rng(4)
    theta, x0 = network(rng), rng.uniform(-0.5, 0.5, 20)
    with jax.enable_x64(False):  # host level: float64 in a float32 process too
        run = free_run(theta, x0, 50, alpha=0.3)
    r = x0
    for row in run:
        assert np.allclose(row, r, atol=1e-12) and row.dtype == np.float64
        r = 0.7 * r + 0.3 * np.tanh(r @ theta)
    later = free_run(theta, x0, 20, alpha=0.3, transient=30)
    assert np.allclose(later, run[30:])
    errors = 0.1 * rng.normal(size=(40, 20))
    key = jax.random.key(0)
    noisy = free_run(theta, x0, 200, alpha=0.3, residuals=errors, key=key)
    again = free_run(theta, x0, 200, alpha=0.3, residuals=errors, key=key)
    assert np.array_equal(noisy, again)
    # The errors of the true weights are the very rows that were drawn.
    found = one_step_residuals(theta, noisy, alpha=0.3)
    gap = np.abs(found[:, None] - errors[None]).max(axis=2).min(axis=1)
    assert gap.max() < 1e-12
    with pytest.raises(ValueError, match="key"):
        free_run(theta, x0, 5, alpha=0.3, residuals=errors)
    with pytest.raises(ValueError, match="inputs"):
        free_run(network(rng, 20, 1), x0, 5, alpha=0.3)
    with pytest.raises(ValueError, match="alpha = 7"):
        free_run(theta, x0, 5, alpha=7.0)
    for wrong in ({"transient": -3}, {"alpha": np.full(7, 0.3)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            free_run(theta, x0, 10, **({"alpha": 0.3} | wrong))
    with pytest.raises(ValueError, match="x0 has shape"):
        free_run(theta, x0[None], 10, alpha=0.3)
    for wrong in (errors[:, :7], errors[:, :1], errors[:0], errors[0]):
        with pytest.raises(ValueError, match=r"residuals have shape .*\(row, 20\)"):
            free_run(theta, x0, 5, alpha=0.3, residuals=wrong, key=key)


@pytest.mark.parametrize("segment", [64, 63, 2])
def test_power_spectrum_is_welch(segment):
    signal = pytest.importorskip("scipy.signal")
    rates = np.random.default_rng(10).normal(size=(1000, 3))
    _, power = signal.welch(
        rates, nperseg=segment, noverlap=segment - segment // 2, axis=0
    )
    expected = power[1:] / power[1:].sum(axis=0)
    assert np.allclose(power_spectrum(rates, segment), expected, rtol=1e-9)


def test_activity_distances():
    rng = np.random.default_rng(5)
    time = np.arange(2048)
    mixing = rng.normal(size=(3, 6))
    a, b = (rng.normal(size=(2048, 3)) @ mixing for _ in range(2))
    same = compare_activity(a, a)
    assert same.variance_ratio == 1 and same.mean_error == 0
    assert same.correlation_agreement == pytest.approx(1)
    assert same.spectrum_distance < 1e-6 and same.neurons == 6
    alike = compare_activity(a, b)
    assert alike.correlation_agreement > 0.98 and alike.spectrum_distance < 0.25
    twice = compare_activity(a, 2 * a + 1)
    assert twice.variance_ratio == pytest.approx(4)
    assert twice.spectrum_distance < 1e-6
    sines = np.stack([np.sin(2 * np.pi * time / p + p) for p in (8, 16, 32)], axis=1)
    power = power_spectrum(sines, 256)
    assert list(power.argmax(axis=0) + 1) == [32, 16, 8]
    assert np.allclose(power.sum(axis=0), 1)
    apart = compare_activity(sines, sines[:, [1, 2, 0]])
    assert apart.spectrum_distance > 0.99
    still = compare_activity(a, np.zeros_like(a))
    assert still.neurons == 0 and still.variance_ratio == 0
    assert np.isnan(still.spectrum_distance)
    with pytest.raises(ValueError, match="same neurons"):
        compare_activity(a, a[:, :3])
    with pytest.raises(ValueError, match="NaN or infinity"):
        compare_activity(a, np.full_like(a, np.nan))
    with pytest.raises(ValueError, match="segment = 1"):
        compare_activity(a, a, segment=1)
    assert np.isnan(power_spectrum(np.zeros((300, 2)))).all()


def test_co_smoothing():
    rng = np.random.default_rng(6)
    neurons, alpha = 24, 0.5
    # Contracting, so that a hidden neuron forgets where it started.
    theta = network(rng, neurons, 1, gain=0.8)
    inputs = rng.normal(size=(600, 1))
    rates = free_run(theta, np.zeros(neurons), 600, inputs, alpha=alpha)
    options = dict(alpha=alpha, folds=4, train=rates[:300])
    full = co_smoothing(theta, rates[300:], inputs[300:], burn_in=30, **options)
    assert full.r2 > 0.98 and np.bincount(full.fold).tolist() == [6, 6, 6, 6]
    trials = rates[300:].reshape(3, 100, neurons)
    cut = co_smoothing(
        theta, trials, inputs[300:].reshape(3, 100, 1), burn_in=30, **options
    )
    assert cut.r2 > 0.98
    shuffled = rng.permutation(theta.ravel()).reshape(theta.shape)
    wrong = co_smoothing(shuffled, rates[300:], inputs[300:], **options)
    assert wrong.r2 < 0.5 and np.isfinite(full.r2_ridge)
    options["train"] = rates[:300] / 4 + 0.5  # the regression has an intercept
    moved = co_smoothing(theta, rates[300:] / 4 + 0.5, inputs[300:], burn_in=30,
                         ridge=1e-3 / 16, **options)  # fmt: skip
    np.testing.assert_allclose(moved.r2_ridge, full.r2_ridge, rtol=1e-9)
    alone = co_smoothing(theta, rates[300:], inputs[300:], alpha=alpha, folds=4)
    assert np.isnan(alone.r2_ridge)
    with pytest.raises(ValueError, match="folds"):
        co_smoothing(theta, rates, inputs, alpha=alpha, folds=25)


def test_bits_per_spike():
    rng = np.random.default_rng(7)
    true = np.exp(rng.normal(size=(4000, 3)))
    counts = rng.poisson(true * 0.5)
    mean = np.broadcast_to(counts.mean(axis=0) / 0.5, true.shape)
    assert bits_per_spike(mean, counts, bin_width=0.5) == pytest.approx(0, abs=1e-12)
    best = bits_per_spike(true, counts, bin_width=0.5)
    # E[m log2(m / mean m)] / E[m] of a log-normal with s = 1 is 1 / (2 log 2).
    assert best == pytest.approx(0.5 / np.log(2), abs=0.06)
    assert bits_per_spike(true[::-1], counts, bin_width=0.5) < 0
    assert np.isnan(bits_per_spike(true, np.zeros_like(true), bin_width=0.5))
    with pytest.raises(ValueError, match="one shape"):
        bits_per_spike(true, counts[:, :2], bin_width=0.5)
    for bad in (np.full_like(true, np.nan), -np.ones_like(true)):
        with pytest.raises(ValueError, match="counts hold NaN, infinite or negative"):
            bits_per_spike(true, bad, bin_width=0.5)
    with pytest.raises(ValueError, match="bin_width = 0"):
        bits_per_spike(true, counts, bin_width=0.0)
    with pytest.raises(ValueError, match="null has shape"):
        bits_per_spike(true, counts, bin_width=0.5, null=np.ones(2))


def test_what_is_constant_has_no_share_of_variance():
    """The mean of many 0.1 is not 0.1: it was -1e33 and a spectrum of rounding."""
    rng = np.random.default_rng(11)
    theta, still = network(rng, 4, 0), np.full((30, 4), 0.1)
    assert np.isnan(held_out(theta, still, alpha=0.5).r2_d).all()
    rows = regression_rows(still, alpha=0.5)
    assert np.isnan(one_step_r2(theta, rows).d)
    assert np.isnan(co_smoothing(theta, still, alpha=0.5, folds=2, burn_in=2).r2)
    assert np.isnan(power_spectrum(still)).all()
    moving = rng.normal(size=(30, 4))
    assert np.isnan(compare_activity(still, moving).mean_error)
    assert compare_activity(moving, still).neurons == 0
    moving[:, 2] = 0.3
    assert list(np.isnan(held_out(theta, moving, alpha=0.5).r2_d_neuron[0])) == [
        *(False, False, True, False),
    ]


def test_masked_samples_are_missing():
    rng = np.random.default_rng(12)
    theta, rates = network(rng, 4, 0), 0.5 * np.sin(rng.normal(size=(60, 4)))
    hidden = np.ma.array(rates, mask=np.zeros(rates.shape, bool))
    hidden.mask[3, 1] = True
    with pytest.raises(ValueError, match="1 non-finite"):
        held_out(theta, hidden, alpha=0.5)
    with pytest.raises(ValueError, match="1 non-finite"):
        z_scale(hidden)
    with pytest.raises(ValueError, match="NaN or infinity"):
        compare_activity(rates, hidden)


def test_keys_are_keys():
    theta, rates = np.eye(3), np.sin(np.arange(90.0)).reshape(30, 3)
    noisy = dict(alpha=0.5, residuals=rates)
    for bad in (3, np.uint32(3), jax.random.split(jax.random.key(0), 2)):
        with pytest.raises((ValueError, TypeCheckError), match="key"):
            free_run(theta, rates[0], 5, key=bad, **noisy)
        with pytest.raises((ValueError, TypeCheckError), match="key"):
            co_smoothing(theta, rates, alpha=0.5, folds=2, key=bad)
    # The type checker of the tests stops an int before this does.
    with pytest.raises(ValueError, match=r"key = 3, .* pass key=jax.random.key\(0\)"):
        check_key(3)
    with pytest.raises(ValueError, match=r"keys of shape \(2,\), expected one"):
        check_key(jax.random.split(jax.random.key(0), 2))
    for good in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert check_key(good) is good


def test_what_a_refused_number_is_told():
    for good, interval in ((0, "[0, 1)"), (np.float32(1), "(0, 1]"), (1e9, "(0, inf)")):
        check_in("a", good, interval, "")
    jax.jit(lambda a: check_in("a", a, "[0, 1]", "") or a)(7.0)  # not known yet
    for bad in (1, -0.1, np.nan, "a", None, True, np.zeros(2), 0.5j):
        with pytest.raises(ValueError, match=r"a = .*one number in \[0, 1\). Pass 0"):
            check_in("a", bad, "[0, 1)", "Pass 0.5.")
    with pytest.raises(ValueError, match=r"lr = -1, expected > 0 \(finite\)"):
        check_positive("lr", -1)
    with pytest.raises(ValueError, match=r"dt = -1, expected > 0 \(finite, in seconds"):
        check_positive("dt", -1, "seconds")
