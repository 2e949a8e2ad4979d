"""CORNN against its equations and the published iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import record

import rnndyn.fitting as fi
from rnndyn import Verdict
from rnndyn.fitting.convex._blocks import Blocks
from rnndyn.fitting.convex._factor import Cholesky
from rnndyn.fitting.convex._iteration import Normal, sweep
from rnndyn.fitting.convex._outliers import check_outliers


def published(rows, ridge, threshold, steps, mode="weighted"):
    """The published iteration: explicit inverse, two products formed beforehand."""
    x, d = rows.x, rows.d
    total = len(x)
    inverse = np.linalg.inv(x.T @ x + ridge * total * np.eye(x.shape[1]))
    to_theta = inverse @ x.T
    stay = to_theta @ x
    theta = to_theta @ np.arctanh(d)
    for _ in range(steps):
        error = d - np.tanh(x @ theta)
        if mode != "standard":
            error = error / (1 - d * d)
        if mode == "robust":
            error = np.clip(error, -threshold, threshold)
        if mode == "weighted":
            out = np.abs(error) > threshold
            error = np.where(out, 0, error) * total / (total - out.sum(axis=0))
        theta = stay @ theta + to_theta @ error
    return theta


def cross_entropy(theta, rows, ridge, weighted):
    """Every neuron's loss."""
    z, d = rows.x @ theta, rows.d
    loss = jnp.logaddexp(z, -z) - d * z
    if weighted:
        loss = loss / (1 - d * d)
    return jnp.mean(loss, axis=0) + ridge / 2 * jnp.sum(theta**2, axis=0)


def blocks_of(rows, size=None):
    rows = jax.tree.map(jnp.asarray, rows)
    return Blocks(rows, jnp.ones(rows.num_neurons, bool), size=size)


@pytest.mark.parametrize("outliers", [fi.Plain(), fi.Keep()], ids=["plain", "keep"])
def test_gradient_and_hessian_of_the_loss(outliers):
    _, r = record(0, 5, 60, (0.1, 0.0))
    rows = fi.regression_rows(r, alpha=0.1)
    theta = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))
    weighted = isinstance(outliers, fi.Keep)
    loss = lambda th: jnp.sum(cross_entropy(th, rows, 1e-3, weighted))
    expected = jax.grad(loss)(theta)
    scale = jnp.max(jnp.abs(expected))
    blocks = blocks_of(rows, 16)
    mask = jnp.zeros((blocks.num_blocks, blocks.size, 5), bool)
    slope = lambda th: sweep(blocks, th, 1e-3, outliers, mask).gradient
    np.testing.assert_allclose(slope(theta), expected, atol=1e-10 * scale)
    # The closed form of the second derivative, neuron by neuron.
    bend = 1 - jnp.tanh(rows.x @ theta) ** 2
    bend = bend / (1 - rows.d**2) if weighted else bend
    hessian = jax.hessian(loss)(theta)
    for i in range(5):
        own = rows.x.T @ (bend[:, i, None] * rows.x) / len(rows.d) + 1e-3 * np.eye(5)
        atol = 1e-10 * np.max(np.abs(own))
        np.testing.assert_allclose(hessian[:, i, :, i], own, atol=atol)


@pytest.mark.parametrize("n", [1, 63, 64, 150])
def test_systems_are_solved_by_blocks(n):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n + 3))
    matrix, right = a @ a.T + 1e-8 * np.eye(n), rng.normal(size=(n, 5))
    factor = jnp.linalg.cholesky(jnp.asarray(matrix))
    found = jax.jit(lambda f, b: Cholesky(f).solve(b))(factor, right)
    # What substitution row by row leaves, within a factor.
    usual = jax.scipy.linalg.cho_solve((factor, True), jnp.asarray(right))
    left = lambda x: np.abs(matrix @ x - right).max()
    assert left(found) < 10 * left(usual) + 1e-15
    several = jax.vmap(lambda b: Cholesky(factor).solve(b[:, None])[:, 0], 1, 1)
    np.testing.assert_allclose(several(right), found, rtol=1e-9, atol=1e-12)
    slope = jax.grad(lambda b: jnp.sum(Cholesky(factor).solve(b)))(jnp.asarray(right))
    expected = np.linalg.solve(matrix, np.ones_like(right))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-8)


def test_a_step_is_newtons_with_the_hessian_frozen():
    _, r = record(0, 60, 900, (0.1, 1e-3))
    rows = fi.regression_rows(r, alpha=0.1)
    x, d, total = rows.x, rows.d, 900
    A = x.T @ x + 1e-5 * total * np.eye(60)
    start = np.linalg.solve(A, x.T @ np.arctanh(d))
    zero = fi.cornn(r, alpha=0.1, max_steps=0)
    np.testing.assert_allclose(zero.theta, start, atol=1e-9)
    error = (d - np.tanh(x @ start)) / (1 - d * d)
    gradient = 1e-5 * start - x.T @ error / total
    expected = start - np.linalg.solve(A / total, gradient)
    by_products = np.linalg.solve(A, x.T @ x) @ start + np.linalg.solve(A, x.T @ error)
    np.testing.assert_allclose(expected, by_products, atol=1e-9)
    one = fi.cornn(r, alpha=0.1, max_steps=1, outliers=fi.Keep(), tol=0.0)
    np.testing.assert_allclose(one.theta, expected, atol=1e-9)


def test_noise_free_weights_come_back():
    checked = 0
    for seed in range(40):
        W, r = record(seed, 50, 500, (0.0, 0.0))
        if checked < 2 and np.all(fi.regression_rows(r, alpha=0.1).clipped == 0):
            fits = [
                fi.cornn(r, alpha=0.1, ridge=ridge, max_steps=0)
                for ridge in (1e-5, 1e-8, 1e-12)
            ]
            coarse, middle, fine = (fi.rmse(W, fit.W) for fit in fits)
            # Linear in the ridge once it is below the smallest eigenvalue.
            assert coarse > 50 * middle and middle > 1e3 * fine
            assert coarse < 0.2 and fine < 1e-6
            checked += 1
    assert checked == 2


def test_input_noise_converges_in_six_steps():
    seed = next(s for s in range(40) if unclipped(s))
    _, r = record(seed, 60, 900, (0.1, 0.0))
    fit = fi.cornn(r, alpha=0.1, outliers=fi.Keep(), max_steps=6, tol=1e-10)
    assert fit.converged and fit.kept.min() == 1
    # Newton's method with the exact Hessian, whose minimum is the only one.
    rows = fi.regression_rows(r, alpha=0.1)
    for i in (0, 17):
        d, theta = rows.d[:, i], np.zeros(60)
        weight = 1 / (1 - d**2)
        for _ in range(30):
            predicted = np.tanh(rows.x @ theta)
            slope = 1e-5 * theta - rows.x.T @ (weight * (d - predicted)) / 900
            bend = weight * (1 - predicted**2)
            hessian = rows.x.T @ (bend[:, None] * rows.x) / 900 + 1e-5 * np.eye(60)
            move = np.linalg.solve(hessian, slope)
            theta = theta - move * min(1, 0.5 / np.max(np.abs(rows.x @ move)))
        assert np.max(np.abs(slope)) < 1e-12
        assert np.max(np.abs(theta - fit.theta[:, i])) < 1e-6


def unclipped(seed):
    _, r = record(seed, 60, 900, (0.1, 0.0))
    return np.all(fi.regression_rows(r, alpha=0.1).clipped == 0)


def test_plain_steps_lower_every_neurons_loss():
    for std in ((1e-2, 1e-4), (0.1, 1e-2)):
        _, r = record(1, 60, 900, std)
        rows = fi.regression_rows(r, alpha=0.1)
        run = lambda k, r=r: (
            fi.cornn(r, alpha=0.1, outliers=fi.Plain(), max_steps=k, tol=0.0).theta
        )
        losses = [cross_entropy(run(k), rows, 1e-5, False) for k in (0, 1, 2, 5, 10)]
        assert np.max(np.diff(np.array(losses), axis=0)) <= 1e-15


def test_untrimmed_weighted_fit_says_that_it_does_not_converge():
    _, r = record(0, 60, 900, (1e-2, 1e-2))
    kwargs = dict(alpha=0.1, outliers=fi.Keep(), max_steps=60)
    plain = fi.cornn(r, **kwargs)
    assert not plain.converged
    assert np.sum(plain.verdict != Verdict.root) > 10
    # Shorter steps mend that: the loss is convex.
    damped = fi.cornn(r, damping=fi.Backtrack(), **kwargs)
    assert np.median(damped.gradient_norm) < 1e-2 * np.median(plain.gradient_norm)


@pytest.mark.parametrize(
    "std, threshold, poisson",
    [((1e-2, 1e-4), 0.2, False), ((0.1, 1e-5), 0.2, False), ((1e-2, 0.1), 0.5, True)],
    ids=["conversion", "input", "poisson"],
)
def test_same_iterates_as_the_published_program(std, threshold, poisson):
    _, r = record(2, 60, 900, std, poisson=poisson)
    rows = fi.regression_rows(r, alpha=0.1)
    for outliers, mode in (
        (fi.Reject(threshold), "weighted"),
        (fi.Clip(threshold), "robust"),
        (fi.Plain(), "standard"),
    ):
        for steps in (1, 10):
            expected = published(rows, 1e-5, threshold, steps, mode)
            fit = fi.cornn(r, alpha=0.1, outliers=outliers, max_steps=steps, tol=0.0)
            assert fit.num_steps == steps
            np.testing.assert_allclose(fit.theta, expected, atol=1e-8)


def test_kept_share_and_gradient_are_those_of_the_weights():
    _, r = record(0, 60, 900, (1e-2, 1e-3))
    fit = fi.cornn(r, alpha=0.1, outliers=fi.Reject(0.2), max_steps=7)
    rows = fi.regression_rows(r, alpha=0.1)
    error = (rows.d - np.tanh(rows.x @ fit.theta)) / (1 - rows.d**2)
    kept = np.abs(error) <= 0.2
    np.testing.assert_allclose(fit.kept, kept.mean(axis=0))
    total = rows.x.T @ np.where(kept, error, 0) / kept.sum(axis=0)
    norm = np.sqrt(np.mean((1e-5 * fit.theta - total) ** 2, axis=0))
    np.testing.assert_allclose(fit.gradient_norm, norm, rtol=1e-6, atol=1e-12)


def test_frozen_kept_set_converges_and_bounds_the_curvature():
    _, r = record(3, 60, 900, (0.1, 1e-2))
    loose = fi.cornn(r, alpha=0.1, outliers=fi.Reject(0.5), max_steps=10, tol=0.0)
    assert np.min(loose.kept) < 0.97 and np.any(loose.kept_changed > 0)
    frozen = fi.Reject(0.5, freeze_after=10)
    kwargs = dict(alpha=0.1, outliers=frozen, max_steps=400)
    fit = fi.cornn(r, **kwargs)
    assert fit.converged and np.all(fit.kept_changed == 0)
    assert np.all(fit.differentiable)
    np.testing.assert_allclose(fit.kept, loose.kept)
    rows = fi.regression_rows(r, alpha=0.1)
    z = rows.x @ loose.theta
    kept = frozen.keep(frozen.error(rows.d, np.arctanh(rows.d), z))
    np.testing.assert_allclose(np.mean(kept, axis=0), loose.kept, atol=1e-12)
    curvature = (1 - np.tanh(z) ** 2) / (1 - rows.d**2)
    assert np.max(np.where(kept, curvature, 0)) <= 1 + 2 * 0.5
    short = fi.cornn(r, damping=fi.Backtrack(), **kwargs)
    assert short.converged


@pytest.mark.parametrize("size", [7, 64])
def test_blocks_do_not_matter(size):
    trials = [record(s, 12, 100 + 30 * s, (0.1, 1e-2))[1] for s in range(3)]
    kwargs = dict(alpha=0.1, max_steps=5, tol=0.0)
    whole = fi.cornn(trials, **kwargs)
    cut = fi.cornn(trials, block_size=size, **kwargs)
    np.testing.assert_allclose(cut.theta, whole.theta, atol=1e-10)
    np.testing.assert_allclose(cut.kept, whole.kept)
    rows = jax.tree.map(jnp.asarray, fi.regression_rows(trials, alpha=0.1))
    for store in (True, False):
        blocks = Blocks(rows, jnp.ones(12, bool), size=size, store=store)
        normal = Normal(blocks, 1e-5, 0.0)
        theta = np.linalg.solve(
            rows.x.T @ rows.x + 1e-5 * rows.num_rows * np.eye(12),
            rows.x.T @ np.arctanh(rows.d),
        )
        np.testing.assert_allclose(normal.start, theta, atol=1e-10)


def test_trials_inputs_and_time_scales():
    rng = np.random.default_rng(0)
    n, alpha = 15, np.linspace(0.1, 0.9, 15)
    W = rng.normal(0, 1 / np.sqrt(n), (n, n))
    W_in = 0.5 * rng.normal(size=(n, 2))
    rates, inputs = [], []
    for frames in (150, 400, 90):
        u = rng.normal(size=(frames, 2))
        r = [rng.uniform(-1, 1, n)]
        for t in range(frames - 1):
            r.append((1 - alpha) * r[t] + alpha * np.tanh(W @ r[t] + W_in @ u[t]))
        rates.append(np.array(r))
        inputs.append(u)
    fit = fi.cornn(rates, inputs, alpha=alpha, dt=0.01, ridge=1e-10)
    assert fit.converged
    np.testing.assert_allclose(fit.W, W, atol=1e-4)
    np.testing.assert_allclose(fit.W_in, W_in, atol=1e-4)
    short = fi.cornn(rates, [u[:-1] for u in inputs], alpha=alpha, dt=0.01, ridge=1e-10)
    np.testing.assert_array_equal(short.theta, fit.theta)
    # The network's map makes the next frame, and tau is dt / alpha.
    network = fit.network
    np.testing.assert_allclose(network.tau, 0.01 / alpha, rtol=1e-6)
    step = network.map(float(fit.dt))
    new = step(jnp.asarray(rates[1][7]), jnp.asarray(inputs[1][7]))
    np.testing.assert_allclose(new, rates[1][8], atol=1e-4)
    # Equal trials as one array.
    cut = [r[:90] for r in rates], [u[:90] for u in inputs]
    a = fi.cornn(*cut, alpha=alpha, max_steps=2)
    b = fi.cornn(np.stack(cut[0]), np.stack(cut[1]), alpha=alpha, max_steps=2)
    np.testing.assert_array_equal(a.theta, b.theta)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_one_bad_neuron_does_not_spoil_the_others():
    _, r = record(4, 60, 900, (0.1, 1e-3))
    spoilt = r.copy()
    spoilt[200, 3] = np.nan
    spoilt[10, 9] = np.inf
    spoilt[:, 5] = 0.3
    spoilt[:, 7] = np.sign(np.sin(np.arange(901)))
    fit = fi.cornn(spoilt, alpha=0.1, max_steps=10)
    flag = fi.NeuronFlag
    expected = np.zeros(60, int)
    expected[[3, 9]], expected[5], expected[7] = flag.not_finite, flag.constant, 3
    np.testing.assert_array_equal(fit.flag, expected)
    assert np.all(fit.verdict[[3, 5, 9]] == Verdict.constant)
    assert np.all(np.isfinite(fit.theta)) and not fit.diverged
    left = [i for i in range(60) if i not in (3, 5, 9)]
    alone = fi.cornn(spoilt[:, left], alpha=0.1, max_steps=10)
    np.testing.assert_allclose(fit.theta[np.ix_(left, left)], alone.theta, atol=1e-9)
    assert np.all(fit.theta[[3, 5, 9]] == 0) and np.all(fit.theta[:, [3, 5, 9]] == 0)
    scores = fi.one_step_r2(fit.theta, fi.regression_rows(spoilt, alpha=0.1))
    assert np.isfinite(scores.d)


def test_divergence_is_a_verdict():
    _, r = record(0, 60, 900, (1e-2, 1e-2))
    fit = fi.cornn(r, alpha=0.1, outliers=fi.Keep(), damping=1e6, max_steps=200)
    assert fit.diverged and not fit.converged
    assert np.all(np.isfinite(fit.theta))


@pytest.mark.filterwarnings("ignore:.*left out")
def test_jit_and_vmap_change_nothing(getkey):
    rs = np.stack([record(s, 10, 120, (0.1, 1e-2))[1] for s in range(3)])
    rs[1, 50, 2] = np.nan
    ridges = np.array([1e-5, 1e-4, 1e-3])
    one = lambda r, ridge: fi.cornn(r, alpha=0.1, ridge=ridge, max_steps=20)
    many = jax.jit(jax.vmap(one))(jnp.asarray(rs), jnp.asarray(ridges))
    path = jax.jit(jax.vmap(one, (None, 0)))(jnp.asarray(rs[0]), jnp.asarray(ridges))
    for i in range(3):
        alone = one(rs[i], float(ridges[i]))
        np.testing.assert_allclose(many.theta[i], alone.theta, atol=1e-11)
        np.testing.assert_array_equal(many.verdict[i], alone.verdict)
        assert many.num_steps[i] == alone.num_steps
        same = one(rs[0], float(ridges[i]))
        np.testing.assert_allclose(path.theta[i], same.theta, atol=1e-11)


def test_single_and_mixed_precision():
    W, r = record(5, 60, 900, (0.1, 1e-3))
    kwargs = dict(alpha=0.1, outliers=fi.Reject(0.2), max_steps=20)
    double = fi.cornn(r, **kwargs)
    single = fi.cornn(r, dtype=np.float32, **kwargs)
    mixed = fi.cornn(r, sweep_dtype=np.float32, **kwargs)
    assert single.theta.dtype == np.float32 and mixed.theta.dtype == np.float64
    accuracy = [fi.weight_correlation(W, f.W) for f in (double, single, mixed)]
    assert abs(accuracy[1] - accuracy[0]) < 1e-2
    assert abs(accuracy[2] - accuracy[0]) < 1e-3
    # What mixed precision reports is measured in double.
    kwargs = dict(alpha=0.1, outliers=fi.Clip(0.5), max_steps=1000, tol=1e-11)
    mixed = fi.cornn(r, sweep_dtype=np.float32, **kwargs)
    assert mixed.converged
    double = fi.cornn(r, **kwargs)
    np.testing.assert_allclose(mixed.theta, double.theta, atol=1e-6)


def test_momentum_needs_fewer_steps():
    W, r = record(6, 60, 900, (1e-2, 0.1), poisson=True)
    accuracy = lambda **kw: fi.weight_correlation(
        W, fi.cornn(r, alpha=0.1, outliers=fi.Reject(0.5), tol=0.0, **kw).W
    )
    assert accuracy(max_steps=8, damping=fi.Momentum(0.4)) > accuracy(max_steps=9)


def test_metrics():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(6, 6))
    assert abs(fi.weight_correlation(W, 2 * W + 1) - 1) < 1e-12
    assert abs(fi.slope(W, 0.9 * W) - 0.9) < 1e-12
    assert abs(fi.rmse(W, W + 0.1) - 0.1) < 1e-12
    with pytest.raises(ValueError, match="postsynaptic"):
        fi.weight_correlation(W, W[:3])
    _, r = record(0, 60, 900, (0.1, 0.0))
    rows = fi.regression_rows(r, alpha=0.1)
    fit = fi.cornn(r, alpha=0.1)
    scores = fi.one_step_r2(fi.stack_weights(fit.W, fit.W_in), rows)
    predicted = np.tanh(rows.x @ fit.theta)
    miss = np.sum((rows.d - predicted) ** 2, axis=0)
    spread = np.sum((rows.d - rows.d.mean(axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(scores.d, 1 - miss.sum() / spread.sum())
    np.testing.assert_allclose(scores.d_per_neuron, 1 - miss / spread)


def test_weights_of_another_shape_have_no_score():
    rows = fi.regression_rows(np.random.default_rng(0).uniform(-1, 1, (9, 4)), alpha=1)
    with pytest.raises(ValueError, match=r"theta has shape \(3, 4\), expected \(4, 4"):
        fi.one_step_r2(np.zeros((3, 4)), rows)


def test_rates_are_predicted_by_any_weights():
    _, r = record(0, 60, 900, (1e-2, 1e-4))
    rows = fi.regression_rows(r, alpha=0.1)
    poor, good = np.zeros((60, 60)), fi.cornn(r, alpha=0.1).theta
    assert fi.one_step_r2(poor, rows).r > 0.9
    assert fi.one_step_r2(poor, rows).d < 0.1 < 0.9 < fi.one_step_r2(good, rows).d


BAD = {
    "shape": (dict(rates=np.zeros(5)), "expected .time, neuron."),
    "alpha": (dict(alpha=1.5), "expected dt / tau in"),
    "alpha zero": (dict(alpha=0.0), "expected dt / tau in"),
    "alpha shape": (dict(alpha=np.full(3, 0.1)), "one a neuron"),
    "neurons": (
        dict(rates=[np.zeros((9, 4)), np.zeros((9, 5))]),
        "share their neurons",
    ),
    "short": (dict(rates=[np.zeros((9, 4)), np.zeros((1, 4))]), "at least 2"),
    "counts": (dict(rates=np.full((50, 4), 3.0)), "Scale every neuron"),
    "no neurons": (dict(rates=np.zeros((50, 0))), "expected at least one neuron"),
    "ragged": (dict(rates=[[[0.1], [0.2, 0.3]]]), "arrays of different shapes"),
    "dts": (dict(dt=np.ones(3)), "dt = .*expected one number in"),
    "nan": (dict(rates=np.full((50, 4), np.nan)), "every neuron has NaN"),
    "inputs": (dict(inputs=np.zeros((7, 1))), "inputs of trial 0 have 7 frames"),
    "nan inputs": (dict(inputs=np.full((41, 1), np.nan)), "inputs hold NaN"),
    "trials": (dict(inputs=np.zeros((2, 41, 1))), "inputs have 2 trials"),
    "rows": (dict(rates=np.zeros((5, 9)), ridge=0.0), "without a ridge"),
    "ridge": (dict(ridge=-1.0), r"ridge = -1.0, expected one number in \[0, inf"),
    "start": (dict(init=np.zeros((4, 5))), "init has shape"),
    "steps": (dict(max_steps=-1), "expected 0 or more"),
    "dt": (dict(dt=0.0), "dt = 0"),
    "words": (dict(rates=np.array([["a", "b"]])), "expected real numbers"),
    "threshold": (dict(outliers=fi.Reject(-0.1)), "threshold of Reject = -0.1"),
    "nan threshold": (dict(outliers=fi.Clip(np.nan)), "threshold of Clip = nan"),
    "no threshold": (dict(outliers=fi.Clip(0.0)), "expected a number > 0"),
    "thresholds": (dict(outliers=fi.Reject(np.ones(2))), "one a neuron"),
    "freeze": (dict(outliers=fi.Reject(freeze_after=-1)), "freeze_after = -1"),
    "damping": (dict(damping=0.0), "damping = 0"),
    "nan damping": (dict(damping=np.nan), "damping = nan"),
    "shrink": (dict(damping=fi.Backtrack(1.0)), "shrink of Backtrack = 1"),
    "beta": (dict(damping=fi.Momentum(1.0)), "beta of Momentum = 1"),
    "tol": (dict(tol=-1.0), "tol = -1"),
    "nan tol": (dict(tol=np.nan), "tol = nan"),
    "nan start": (dict(init=np.full((4, 4), np.nan)), "init holds NaN"),
    "block": (dict(block_size=0), "block_size = 0"),
    "half": (dict(dtype=np.float16), "expected np.float64 or np.float32"),
    "word ridge": (dict(ridge="a"), r"ridge = a, expected one number in \[0, inf\)"),
    "complex alpha": (dict(alpha=0.1j), "alpha has dtype complex"),
    "part steps": (dict(max_steps=2.5), "max_steps = 2.5, expected one whole"),
    "rho": (dict(sign=np.ones(4), splitting=fi.Admm(0.0)), "rho of Admm = 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changed, message = BAD[name]
    rates = np.random.default_rng(0).uniform(-0.5, 0.5, (41, 4))
    with pytest.raises(ValueError, match=message):
        fi.cornn(**(dict(rates=rates, alpha=0.1) | changed))


def test_a_rule_is_no_word():
    # The type checker of the tests stops a word before cornn does.
    with pytest.raises(ValueError, match=r"'reject'.*pass Reject\(0.2\)"):
        check_outliers("reject", 4)


def test_out_of_range_rates_are_flagged():
    _, r = record(0, 60, 900, (0.1, 0.0))
    r[:, 4] *= 8
    fit = fi.cornn(r, alpha=0.1)
    assert fit.flag[4] == fi.NeuronFlag.saturated and fit.clipped[4] > 0.5
    assert np.all(fit.flag[np.arange(60) != 4] == 0)


def test_neurons_without_a_kept_sample_are_told():
    _, r = record(0, 6, 200, (0.5, 0.1))
    with pytest.warns(UserWarning, match="no sample of 6 of 6 neurons was kept"):
        fit = fi.cornn(r, alpha=0.1, ridge=1.0, outliers=fi.Reject(1e-9))
    assert np.all(fit.kept == 0) and not np.any(fit.differentiable)
    assert np.all(fit.verdict == Verdict.undetermined) and not fit.converged


def test_fit_leaves_python():
    _, r = record(0, 6, 100, (0.1, 0.0))
    fit = fi.cornn(r, np.zeros((101, 1)), alpha=0.1)
    data = fit.to_xarray()
    assert data.theta.dims == ("predictor", "neuron")
    assert fit.to_dict()["verdict_name"][0] == "root"


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("rank", [None, 3])
def test_neurons_left_out_have_no_weights_whatever_the_start(rank):
    _, r = record(0, 12, 300, (0.1, 1e-2))
    r[7, 3], r[:, 5] = np.nan, 0.2
    inputs = np.random.default_rng(0).normal(size=(301, 1))
    init = np.ones((13, 12))
    for steps in (0, 4):
        fit = fi.cornn(r, inputs, alpha=0.1, init=init, max_steps=steps, rank=rank)
        assert np.all(fit.theta[[3, 5]] == 0) and np.all(fit.theta[:, [3, 5]] == 0)
        assert np.all(np.delete(fit.theta, [3, 5], axis=1)[12] != 0)
        assert np.all(fit.kept[[3, 5]] == 0) and np.all(np.delete(fit.kept, [3, 5]) > 0)


def test_suspicious_data_are_warned_of():
    _, r = record(0, 12, 300, (0.1, 1e-2))
    with pytest.warns(UserWarning, match="301 neurons and only 12 frames.*transpose"):
        fi.cornn(r.T, alpha=1.0, max_steps=0)
    spoilt = r.copy()
    spoilt[3, [1, 4]] = np.nan
    with pytest.warns(UserWarning, match="2 of 12 neurons.*weights are zero"):
        fi.cornn(spoilt, alpha=0.1, max_steps=0)
    with pytest.warns(UserWarning, match="clipped: scale the rates down") as found:
        fi.cornn(r, alpha=0.01, max_steps=0)
    assert len(found) == 1
    # Traced data are not looked at.
    jax.jit(lambda r: fi.cornn(r, alpha=0.01, max_steps=0).theta)(jnp.asarray(r))


def test_single_precision_rates_keep_alpha_and_inputs():
    _, r = record(0, 12, 300, (0.1, 1e-2))
    r, inputs = np.float32(r), np.random.default_rng(0).normal(size=(301, 1))
    single = fi.cornn(r, inputs, alpha=0.1, max_steps=3, tol=0.0)
    double = fi.cornn(np.float64(r), inputs, alpha=0.1, max_steps=3, tol=0.0)
    assert np.all(single.alpha == 0.1)
    np.testing.assert_array_equal(single.theta, double.theta)


def test_masked_samples_are_missing():
    """NumPy hands out what lies under a mask: the fit took it for data."""
    rates = np.random.default_rng(0).uniform(-0.5, 0.5, (80, 4))
    hidden = np.ma.array(rates, mask=np.zeros(rates.shape, bool))
    hidden.mask[3, 1] = True
    with pytest.warns(UserWarning, match="1 of 4 neurons have NaN"):
        fit = fi.cornn(hidden, alpha=0.5)
    assert list(fit.verdict == Verdict.constant) == [False, True, False, False]


@pytest.mark.parametrize("seed", range(4))
def test_without_a_ridge_the_same_cell_twice_is_no_solution(seed):
    _, r = record(seed, 6, 300, (0.3, 0.0), alpha=0.5)
    r = r.copy()
    r[:, 3] = r[:, 5]
    with pytest.warns(UserWarning, match="linearly dependent"):
        fit = fi.cornn(r, alpha=0.5, ridge=0.0)
    assert not fit.regular and not np.any(fit.differentiable)
    assert not np.any(fit.verdict == Verdict.root)
    fit = fi.cornn(r, alpha=0.5, ridge=1e-5, max_steps=300)
    assert fit.regular and np.all(fit.verdict == Verdict.root)


def test_steps_that_are_too_long_are_said_to_be():
    rng = np.random.default_rng(1)
    W, r = rng.standard_normal((4, 4)), np.zeros((60, 4))
    r[0] = 0.1
    for i in range(59):
        drive = W @ r[i] + 2 * rng.standard_normal(4)
        r[i + 1] = 0.7 * r[i] + 0.3 * np.tanh(drive)
    options = {"alpha": 0.3, "ridge": 0.01, "outliers": fi.Keep(), "max_steps": 2000}
    with pytest.warns(UserWarning, match=r"far from a minimum.*damping=Backtrack"):
        fit = fi.cornn(r, **options)
    assert not np.any(fit.verdict == Verdict.root)
    fit = fi.cornn(r, damping=fi.Backtrack(), **options)
    assert np.all(fit.verdict == Verdict.root)


def test_an_input_that_is_never_used_spoils_nothing():
    _, r = record(0, 6, 300, (0.3, 0.0), alpha=0.5)
    u = np.random.default_rng(0).normal(size=(300, 1))
    options = {"alpha": 0.5, "ridge": 0.0, "max_steps": 300}
    one = fi.cornn(r[:300], u, **options)
    two = fi.cornn(r[:300], np.concatenate([u, 0 * u], axis=1), **options)
    np.testing.assert_allclose(two.theta[:-1], one.theta, atol=1e-12)
    assert np.all(two.theta[-1] == 0) and np.all(two.verdict == Verdict.root)


def test_a_solution_as_the_start_is_differentiable():
    _, r = record(0, 6, 300, (0.3, 0.0), alpha=0.5)
    first = fi.cornn(r, alpha=0.5, max_steps=300)
    again = fi.cornn(r, alpha=0.5, init=first.theta)
    assert again.num_steps == 0 and np.all(again.differentiable)
