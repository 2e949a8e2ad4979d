"""Baseline solvers against closed forms, loops in NumPy, and each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn import Verdict
from rnndyn.fitting import (
    Clip,
    Keep,
    Plain,
    Reject,
    cornn,
    regression_rows,
    weight_correlation,
)
from rnndyn.fitting._generators import (
    GaussianNoise,
    PoissonNoise,
    random_network,
    record,
)
from rnndyn.fitting.baselines._baseline import (
    CrossEntropy,
    FixedPointStart,
    GivenWeights,
    MeanSquare,
    RandomWeights,
    XavierWeights,
    check_kind,
)
from rnndyn.fitting.baselines._force import CurrentError, RateError, force
from rnndyn.fitting.baselines._gradient import adam, lbfgs
from rnndyn.fitting.baselines._newton import newton
from rnndyn.fitting.baselines._teacher_forcing import forced_loss, teacher_forced_bptt


N, T, ALPHA = 6, 300, 0.5
RIDGE = 1e-3


@pytest.fixture(scope="module")
def data():
    key = jax.random.key(0)
    net = random_network(N, 1, alpha=ALPHA, gain=1.5, key=key)
    u = jax.random.normal(jax.random.key(1), (T, 1))
    noise = GaussianNoise(0.2)
    rates = record(net, T, dt=1.0, inputs=u, input_noise=noise, key=jax.random.key(2))
    return net, np.asarray(rates), np.asarray(u)


def loss_of(theta, rows, weighted=False, ridge=RIDGE):
    """The mean loss of every neuron, written as in the publication."""
    d, predicted = rows.d, jnp.tanh(rows.x @ theta)
    p, q = (1 + d) / 2, (1 + predicted) / 2
    entropy = -p * jnp.log(q) - (1 - p) * jnp.log(1 - q)
    c = 1 / (1 - d**2) if weighted else 1.0
    return jnp.mean(c * entropy, axis=0) + ridge / 2 * jnp.sum(theta**2, axis=0)


@pytest.mark.parametrize("rule", [Plain(), Keep()])
def test_newton_minimises_the_loss(data, rule):
    _, rates, u = data
    fit = newton(rates, u, alpha=ALPHA, ridge=RIDGE, outliers=rule, num_steps=12)
    assert fit.converged.all() and not fit.diverged.any()
    rows = regression_rows(rates, u, alpha=ALPHA)
    total = lambda th: loss_of(th, rows, isinstance(rule, Keep)).sum()
    gradient = jax.grad(total)(fit.theta)
    assert np.abs(gradient).max() < 1e-9
    # ln 2cosh z - d z is the entropy of the publication, c = 1 included.
    expected = total(fit.theta) / N
    assert np.isclose(fit.loss[-1], expected, rtol=1e-12)
    assert np.all(np.diff(fit.loss) < 1e-12)
    assert int(fit.num_steps) < 12
    assert fit.W.shape == (N, N) and fit.W_in.shape == (N, 1)
    assert np.allclose(fit.network.tau, 1 / ALPHA)


@pytest.mark.parametrize(
    "rule", [pytest.param(Plain(), marks=pytest.mark.slow), Keep()]
)
def test_lbfgs_finds_the_same_minimum(data, rule):
    _, rates, u = data
    options = {"alpha": ALPHA, "ridge": RIDGE, "outliers": rule}
    exact = newton(rates, u, num_steps=12, **options)
    found = lbfgs(rates, u, num_steps=80, whiten=True, **options)
    assert found.converged.all()
    assert np.abs(found.theta - exact.theta).max() < 1e-6
    assert abs(float(found.loss[-1] - exact.loss[-1])) < 1e-12


def test_newton_agrees_with_cornn_on_kept_rows(data):
    _, rates, u = data
    options = {"alpha": ALPHA, "ridge": RIDGE, "outliers": Keep()}
    exact = newton(rates, u, num_steps=15, **options)
    # Input noise alone: the fixed-Hessian iteration ends in the same minimum.
    fit = cornn(rates, u, max_steps=200, tol=1e-12, **options)
    assert np.abs(fit.theta - exact.theta).max() < 1e-8


@pytest.mark.slow
def test_newton_with_rejection(getkey):
    net = random_network(15, key=getkey())
    laws = [PoissonNoise(1e-2), PoissonNoise(1e-1)]
    rates = np.asarray(
        record(
            net,
            1500,
            dt=1.0,
            input_noise=laws[0],
            conversion_noise=laws[1],
            key=getkey(),
        )
    )
    rejected = newton(rates, alpha=0.1, outliers=Reject(threshold=0.5), num_steps=15)
    start = cornn(rates, alpha=0.1, max_steps=0)
    better = weight_correlation(net.W, rejected.W)
    assert better > weight_correlation(net.W, start.W) + 0.05


def test_mask_and_snapshots(data):
    _, rates, u = data
    mask = np.eye(N + 1, N, dtype=bool)
    options = {"alpha": ALPHA, "ridge": RIDGE, "mask": mask}
    fit = newton(rates, u, num_steps=8, record_every=4, **options)
    assert np.all(np.asarray(fit.theta)[mask] == 0)
    assert fit.snapshots.shape == (2, N + 1, N)
    assert np.array_equal(fit.snapshots[-1], fit.theta)
    rows = regression_rows(rates, u, alpha=ALPHA)
    gradient = jax.grad(lambda th: loss_of(th, rows).sum())(fit.theta)
    assert np.abs(np.asarray(gradient)[~mask]).max() < 1e-9
    found = adam(rates, u, alpha=ALPHA, mask=mask, num_steps=4, record_every=2)
    assert np.all(np.asarray(found.theta)[mask] == 0)
    assert np.allclose(found.snapshots[-1], found.theta)


@pytest.mark.slow
def test_lbfgs_with_a_mask(data):
    _, rates, u = data
    mask = np.eye(N + 1, N, dtype=bool)
    options = {"alpha": ALPHA, "ridge": RIDGE, "mask": mask}
    found = lbfgs(rates, u, num_steps=100, record_every=50, **options)
    exact = newton(rates, u, num_steps=12, **options)
    assert np.all(np.asarray(found.theta)[mask] == 0)
    assert np.abs(found.theta - exact.theta).max() < 1e-5


def test_starts(data, getkey):
    _, rates, u = data
    rows = regression_rows(rates, u, alpha=ALPHA)
    x, d = jnp.asarray(rows.x), jnp.asarray(rows.d)
    fixed = FixedPointStart(RIDGE)(x, d)
    none = cornn(rates, u, alpha=ALPHA, ridge=RIDGE, max_steps=0)
    assert np.allclose(fixed, none.theta, atol=1e-10)
    drawn = RandomWeights(getkey(), 2.0, zero_diagonal=True)(x, d)
    assert np.all(jnp.diagonal(drawn) == 0)
    assert np.all(jnp.diagonal(XavierWeights(getkey())(x, d)) == 0)
    options = {"alpha": ALPHA, "ridge": RIDGE, "outliers": Plain(), "num_steps": 12}
    fit = newton(rates, u, start=GivenWeights(drawn), **options)
    other = newton(rates, u, **options)
    # Convex: the start does not matter.
    assert np.abs(fit.theta - other.theta).max() < 1e-6
    with pytest.raises(ValueError, match="One column"):
        newton(rates, u, alpha=ALPHA, start=GivenWeights(jnp.zeros((2, N))))


@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquare()])
def test_adam_against_a_loop(data, loss):
    _, rates, u = data
    rows = regression_rows(rates, u, alpha=ALPHA)
    start, rate, decay = 0.1 * np.ones((N + 1, N)), 0.02, 1e-3

    def total(theta):
        predicted, d = (1 + jnp.tanh(rows.x @ theta)) / 2, (1 + rows.d) / 2
        if isinstance(loss, MeanSquare):
            return jnp.mean((predicted - d) ** 2)
        return -jnp.mean(d * jnp.log(predicted) + (1 - d) * jnp.log(1 - predicted))

    theta, m, v = start.copy(), 0.0, 0.0
    for k in range(1, 8):
        g = np.asarray(jax.grad(total)(jnp.asarray(theta))) + decay * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        theta = theta - rate * step
    fit = adam(
        rates,
        u,
        alpha=ALPHA,
        loss=loss,
        learning_rate=rate,
        weight_decay=decay,
        start=GivenWeights(start),
        num_steps=7,
    )
    assert np.allclose(fit.theta, theta, atol=1e-10)
    assert np.isclose(fit.loss[0], total(start), rtol=1e-6)
    assert not fit.converged.any()


@pytest.mark.parametrize("error", [CurrentError(), RateError()])
def test_force_against_a_loop(data, error):
    _, rates, u = data
    trials = np.stack([rates[:40], rates[50:90]])
    inputs = np.stack([u[:39], u[50:89]])
    start = 0.1 * np.ones((N + 1, N))
    theta, errors = start.copy(), []
    for _ in range(2):
        P, Q = np.eye(N) / 3.0, np.eye(1) / 0.5
        squares = []
        for r, v in zip(trials, inputs, strict=True):
            own = r[0]
            for t in range(39):
                z = theta[:N].T @ own + theta[N:].T @ v[t]
                d = np.clip((r[t + 1] - 0.5 * r[t]) / 0.5, -1 + 1e-6, 1 - 1e-6)
                if isinstance(error, CurrentError):
                    e = z - np.arctanh(d)
                else:
                    e = (0.5 * own + 0.5 * np.tanh(z) - r[t + 1]) / 0.5
                squares.append(np.mean(e**2))
                for M, y, part in ((P, own, slice(0, N)), (Q, v[t], slice(N, None))):
                    k = M @ y
                    M -= np.outer(k, k) / (1 + y @ k)
                    theta[part] -= np.outer(M @ y, e)
                z = theta[:N].T @ own + theta[N:].T @ v[t]
                own = 0.5 * own + 0.5 * np.tanh(z)
        errors.append(np.mean(squares))
    fit = force(
        trials,
        inputs,
        alpha=ALPHA,
        error=error,
        ridge=3.0,
        input_ridge=0.5,
        epochs=2,
        start=GivenWeights(start),
    )
    assert np.allclose(fit.theta, theta, atol=1e-9)
    assert np.isnan(fit.loss[0]) and np.allclose(fit.loss[1:], errors, atol=1e-9)
    assert np.isnan(fit.gradient_norm).all()


def test_force_stays_at_the_truth(getkey):
    net = random_network(N, alpha=0.5, gain=1.0, key=getkey())
    rates = np.asarray(record(net, 60, dt=1.0, key=getkey()))
    truth = GivenWeights(net.W.T)
    for error in (CurrentError(), RateError()):
        fit = force(rates, alpha=0.5, error=error, start=truth, epochs=2)
        assert np.abs(fit.W - net.W).max() < 1e-9
        assert fit.converged.all()


@pytest.mark.parametrize(
    ("loss", "forced"),
    [(MeanSquare(), "none"), (CrossEntropy(), "some"), (MeanSquare(), "all")],
)
def test_gradient_of_forced_runs(loss, forced, getkey):
    theta = jax.random.normal(getkey(), (5, 4)) / 2
    rates = 0.9 * jnp.tanh(jax.random.normal(getkey(), (9, 3, 4)))
    inputs = jax.random.normal(getkey(), (8, 3, 1))
    alpha = jnp.linspace(0.3, 0.9, 4)
    share = {"none": 0.0, "some": 0.5, "all": 1.0}[forced]
    mask = jax.random.bernoulli(getkey(), share, (8,))

    @jax.jit
    def value(theta):
        own, out = rates[0], []
        for t in range(8):
            own = jnp.where(mask[t], rates[t], own)
            z = own @ theta[:4] + inputs[t] @ theta[4:]
            own = (1 - alpha)[None] * own + alpha[None] * jnp.tanh(z)
            out.append(own)
        return jnp.mean(loss(jnp.stack(out), rates[1:]))

    expected, gradient = jax.value_and_grad(value)(theta)
    found, grad = eqx.filter_jit(forced_loss)(theta, rates, inputs, mask, alpha, loss)
    assert np.isclose(found, expected, rtol=1e-12)
    assert np.allclose(grad, gradient, atol=1e-12)
    h = 1e-6 * jnp.eye(5, 4)
    assert np.isclose(
        (value(theta + h) - value(theta - h)) / 2e-6,
        jnp.sum(grad * jnp.eye(5, 4)),
        atol=1e-7,
    )


def test_teacher_forcing_helps(getkey):
    net = random_network(20, 1, alpha=0.9, key=getkey())
    u = np.full((60, 1), 0.1)
    rates = record(
        net,
        60,
        dt=1.0,
        inputs=jnp.asarray(u),
        input_noise=GaussianNoise(0.1),
        key=getkey(),
    )
    options = {"alpha": 0.9, "num_steps": 400, "learning_rate": 5e-3, "key": getkey()}
    r = {}
    for share in (0.0, 1.0):
        fit = teacher_forced_bptt(np.asarray(rates), u, share=share, **options)
        r[share] = float(weight_correlation(net.W, fit.W))
        assert np.all(jnp.diagonal(fit.W) == 0)
        assert np.isfinite(fit.loss).all()
    assert r[1.0] > 0.6 > r[0.0]


SOLVERS = {
    "newton": lambda r, u: newton(r, u, alpha=ALPHA, ridge=RIDGE, num_steps=10),
    "adam": lambda r, u: adam(r, u, alpha=ALPHA, num_steps=4),
    "force": lambda r, u: force(r, u, alpha=ALPHA, epochs=1),
    "bptt": lambda r, u: teacher_forced_bptt(
        r, u, alpha=ALPHA, num_steps=3, key=jax.random.key(9)
    ),
}
NAMES = ["newton", *(pytest.param(n, marks=pytest.mark.slow) for n in SOLVERS)]


@pytest.mark.parametrize("name", [*NAMES[:1], *NAMES[2:]])
def test_vmap_is_a_loop(data, name):
    _, rates, u = data
    both = jnp.stack([rates[:150], rates[150:300]])
    inputs = jnp.stack([u[:149], u[150:299]])
    solve = SOLVERS[name]
    together = eqx.filter_jit(eqx.filter_vmap(solve))(both, inputs)
    for i in range(2):
        alone = solve(both[i], inputs[i])
        assert np.allclose(together.theta[i], alone.theta, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", NAMES[1], *NAMES[3:]])
def test_float32_stays(data, name):
    _, rates, u = data
    single = SOLVERS[name](np.float32(rates[:50]), np.float32(u[:49]))
    assert single.theta.dtype == jnp.float32
    assert np.isfinite(single.theta).all()


@pytest.mark.parametrize("name", ["newton", NAMES[3]])
@pytest.mark.parametrize("rows, value", [(17, np.nan), (slice(None), 0.3)])
def test_a_bad_neuron_spoils_no_other(data, name, rows, value):
    _, rates, u = data
    bad = rates.copy()
    bad[rows, 2] = value
    others = np.delete(np.arange(N + 1), 2)
    fit = SOLVERS[name](bad, u)
    assert np.flatnonzero(fit.diverged).tolist() == [2]
    assert not fit.converged[2]
    assert fit.verdict[2] == Verdict.constant
    assert np.isfinite(fit.theta).all()
    without = SOLVERS[name](np.delete(rates, 2, axis=1), u)
    found = np.asarray(fit.theta)[others][:, others[:-1]]
    assert np.abs(found - without.theta).max() < 1e-7


def test_bad_input(data):
    _, rates, u = data
    with pytest.raises(ValueError, match="alpha"):
        newton(rates, u, alpha=1.5)
    with pytest.raises(ValueError, match="divisor"):
        adam(rates, u, alpha=ALPHA, num_steps=10, record_every=4)
    with pytest.raises(ValueError, match="line search"):
        newton(rates, u, alpha=ALPHA, outliers=Clip(0.5))
    with pytest.raises(ValueError, match="freeze_after"):
        newton(rates, u, alpha=ALPHA, outliers=Reject(threshold=0.5, freeze_after=3))
    with pytest.raises(ValueError, match="discontinuous"):
        lbfgs(rates, u, alpha=ALPHA, outliers=Reject(threshold=0.5))
    with pytest.raises(ValueError, match="whiten"):
        mask = np.eye(N + 1, N, dtype=bool)
        lbfgs(rates, u, alpha=ALPHA, whiten=True, mask=mask)
    with pytest.raises(ValueError, match="one length"):
        trials, inputs = [rates[:20], rates[:30]], [u[:19], u[:29]]
        teacher_forced_bptt(trials, inputs, alpha=ALPHA, key=jax.random.key(0))
    with pytest.raises(ValueError, match="True where a weight must be zero"):
        newton(rates, u, alpha=ALPHA, mask=np.eye(N, dtype=bool))
    with pytest.raises(ValueError, match="mask has dtype float64"):
        adam(rates, u, alpha=ALPHA, mask=np.full((N + 1, N), 0.5))


@pytest.mark.parametrize("name", ["adam", "force", "lbfgs", "bptt", "newton"])
def test_options_are_checked(data, name):
    _, rates, u = data
    solve = {
        "adam": adam,
        "force": force,
        "lbfgs": lbfgs,
        "newton": newton,
        "bptt": lambda *a, **k: teacher_forced_bptt(*a, key=jax.random.key(0), **k),
    }[name]
    fit = lambda **options: solve(rates[:20], u[:19], alpha=ALPHA, **options)
    with pytest.raises(ValueError, match="dt = -1"):
        fit(dt=-1.0)
    if name in ("force", "lbfgs", "newton"):
        with pytest.raises(ValueError, match="ridge = nan, expected one number in"):
            fit(ridge=np.nan)
    if name == "bptt":
        with pytest.raises(ValueError, match="share = 2"):
            fit(share=2.0)
        with pytest.raises(ValueError, match="clip = 0"):
            fit(clip=0.0)
    if name in ("adam", "bptt"):
        with pytest.raises(
            ValueError, match="learning_rate = nan, expected one number"
        ):
            fit(learning_rate=np.nan)
        with pytest.raises(ValueError, match="weight_decay = -1"):
            fit(weight_decay=-1)
    tol = "tol_change" if name == "force" else "tol_gradient"
    with pytest.raises(ValueError, match=f"{tol} = nan"):
        fit(**{tol: np.nan})


@pytest.mark.parametrize("wrong", [CrossEntropy, "square"])
def test_a_loss_is_no_class_and_no_word(wrong):
    """Either would pass silently for the other one of two losses."""
    with pytest.raises(ValueError, match="loss = .*, expected MeanSquare()"):
        check_kind("loss", wrong, CrossEntropy | MeanSquare, "MeanSquare()")


@pytest.mark.parametrize("solve", [newton, lbfgs])
def test_a_silent_neuron_needs_no_ridge(data, solve):
    _, rates, u = data
    bad = rates.copy()
    bad[17, 2] = np.nan
    others = np.delete(np.arange(N + 1), 2)
    options = dict(alpha=ALPHA, ridge=0.0, num_steps=200)
    options |= dict(whiten=True) if solve is lbfgs else {}
    fit = solve(bad, u, **options)
    assert np.flatnonzero(~fit.converged).tolist() == [2]
    without = solve(np.delete(rates, 2, axis=1), u, **options)
    found = np.asarray(fit.theta)[others][:, others[:-1]]
    assert np.abs(found - without.theta).max() < 1e-6


def test_the_scale_of_a_loss_counts(data):
    _, rates, u = data
    options = dict(alpha=ALPHA, num_steps=2)
    one = adam(rates, u, loss=MeanSquare(), **options)
    three = adam(rates, u, loss=MeanSquare(3.0), **options)
    assert np.allclose(three.loss, 3 * one.loss, rtol=1e-6)


def test_the_network_of_a_fit_in_a_process_of_single_precision(data, recwarn):
    _, rates, u = data
    with jax.enable_x64(False):
        fit = newton(rates, u, alpha=ALPHA, num_steps=2)
        assert fit.network.W.dtype == np.float32
    assert not recwarn.list


def test_counts_and_rows_are_checked(data):
    _, rates, u = data
    with pytest.raises(ValueError, match="num_steps = 0, expected a whole number >= 1"):
        newton(rates, u, alpha=ALPHA, num_steps=0)
    with pytest.raises(ValueError, match="epochs = 0, expected a whole number >= 1"):
        force(rates, u, alpha=ALPHA, epochs=0)
    with pytest.raises(ValueError, match="4 rows for 7 predictors without a ridge"):
        newton(rates[:5], u[:4], alpha=ALPHA, ridge=0.0)


def test_bptt_without_inputs(data):
    _, rates, _ = data
    solve = lambda *u: teacher_forced_bptt(
        rates[:40], *u, alpha=ALPHA, num_steps=2, key=jax.random.key(0)
    )
    fit = solve()
    assert fit.theta.shape == (N, N) and np.isfinite(fit.loss).all()
    # Silent inputs change nothing but the draw of their own weights.
    start = GivenWeights(0.1 * np.ones((N, N)))
    driven = GivenWeights(0.1 * np.ones((N + 1, N)))
    options = dict(alpha=ALPHA, num_steps=2, key=jax.random.key(0))
    alone = teacher_forced_bptt(rates[:40], start=start, **options)
    beside = teacher_forced_bptt(
        rates[:40], np.zeros((39, 1)), start=driven, weight_decay=0.0, **options
    )
    assert np.allclose(alone.theta, beside.theta[:N], atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "force", "lbfgs", "bptt", "newton"])
def test_a_neuron_left_out_has_no_weights(data, name):
    _, rates, u = data
    bad = rates[:60].copy()
    bad[17, 2] = np.nan
    options = dict(alpha=ALPHA, start=RandomWeights(jax.random.key(3)))
    solve = {
        "adam": lambda: adam(bad, u[:59], num_steps=3, **options),
        "force": lambda: force(bad, u[:59], epochs=1, **options),
        "lbfgs": lambda: lbfgs(bad, u[:59], num_steps=3, **options),
        "newton": lambda: newton(bad, u[:59], num_steps=3, **options),
        "bptt": lambda: teacher_forced_bptt(
            bad, u[:59], num_steps=3, key=jax.random.key(9), **options
        ),
    }[name]
    theta = np.asarray(solve().theta)
    assert np.all(theta[2] == 0) and np.all(theta[:, 2] == 0)
    assert np.all(np.delete(theta, 2, axis=1)[N] != 0)


def test_adams_gradient_is_what_it_brings_to_zero(data):
    _, rates, u = data
    decay = 0.1
    options = dict(alpha=ALPHA, loss=MeanSquare(), weight_decay=decay)
    fit = adam(rates, u, num_steps=5, **options)
    rows = regression_rows(rates, u, alpha=ALPHA)

    def lowered(theta):
        miss = jnp.mean((jnp.tanh(rows.x @ theta) - rows.d) ** 2) / 4
        return miss + decay / 2 * jnp.sum(theta**2)

    slope = N * jax.grad(lowered)(fit.theta)
    assert np.allclose(fit.gradient_norm, np.sqrt(np.mean(slope**2, axis=0)))
    rest = adam(rates, u, num_steps=4000, learning_rate=1e-3, **options)
    assert np.max(rest.gradient_norm) < 1e-3 * np.max(fit.gradient_norm)


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "adam", "force", "bptt"])
def test_a_neuron_left_out_has_no_loss(data, solver):
    _, rates, _ = data
    rates, keep = rates[:80], np.arange(N) != 2
    bad = rates.copy()
    bad[7, 2] = np.nan
    x = np.random.default_rng(0).normal(size=(N, N)) / N
    start = lambda chosen: {"start": GivenWeights(x[np.ix_(chosen, chosen)])}
    call = {
        "newton": lambda r, s: newton(r, alpha=ALPHA, **s),
        "lbfgs": lambda r, s: lbfgs(r, alpha=ALPHA, num_steps=3, **s),
        "adam": lambda r, s: adam(r, alpha=ALPHA, num_steps=3, **s),
        "force": lambda r, s: force(r, alpha=ALPHA, epochs=2, **s),
        "bptt": lambda r, s: teacher_forced_bptt(
            r, alpha=ALPHA, num_steps=3, share=1.0, key=jax.random.key(0), **s
        ),
    }[solver]
    whole, part = call(bad, start(np.arange(N))), call(rates[:, keep], start(keep))
    np.testing.assert_allclose(whole.loss, part.loss, rtol=1e-9)
    if solver == "bptt":
        assert len(whole.loss) == 4
    if solver != "force":
        norm = np.asarray(whole.gradient_norm)[keep]
        ratio = 1 if solver == "newton" else np.sqrt((N - 1) / N)
        np.testing.assert_allclose(
            norm, ratio * part.gradient_norm, rtol=1e-6, atol=1e-9
        )


def test_force_compares_rates_as_they_came():
    rng = np.random.default_rng(3)
    W, r = rng.normal(0, 1.5 / N**0.5, (N, N)), np.zeros((150, N))
    r[0] = rng.uniform(-1, 1, N)
    for t in range(149):  # one target in eight lies outside (-1, 1)
        new = np.tanh(W @ r[t] + 0.1 * rng.normal(size=N))
        r[t + 1] = (1 - ALPHA) * r[t] + ALPHA * (new + 0.3 * rng.normal(size=N))
    fit = force(r, alpha=ALPHA, error=RateError(), epochs=1)
    x, d = r[:-1], np.clip((r[1:] - (1 - ALPHA) * r[:-1]) / ALPHA, -1 + 1e-6, 1 - 1e-6)
    gram = x.T @ x + 200 / 149 * np.eye(N)
    theta, P, own = np.linalg.solve(gram, x.T @ np.arctanh(d)), np.eye(N) / 200, r[0]
    for t in range(149):
        error = (1 - ALPHA) * own + ALPHA * np.tanh(own @ theta) - r[t + 1]
        k = P @ own
        P = P - np.outer(k, k) / (1 + own @ k)
        theta = theta - np.outer(P @ own, error / ALPHA)
        own = (1 - ALPHA) * own + ALPHA * np.tanh(own @ theta)
    np.testing.assert_allclose(fit.theta, theta, atol=1e-10)
