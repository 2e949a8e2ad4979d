"""The estimator: `cornn` with `fit`, `predict` and `score`."""

import numpy as np
import pytest

from rnndyn.fitting import Reject, cornn, one_step_r2, regression_rows
from rnndyn.fitting._estimator import CORNN
from rnndyn.fitting._evaluation import free_run


ALPHA = 0.4


def recording(rng, neurons=16, time=900, inputs=0):
    theta = 1.8 * rng.normal(size=(neurons + inputs, neurons)) / neurons**0.5
    u = rng.normal(size=(time, inputs)) if inputs else None
    errors = 0.1 * rng.normal(size=(5000, neurons))
    import jax

    rates = free_run(
        theta, np.zeros(neurons), time, u, alpha=ALPHA, residuals=errors,
        key=jax.random.key(1),
    )  # fmt: skip
    return theta, rates, u


def test_it_is_cornn():
    _, rates, _ = recording(np.random.default_rng(0))
    train, test = rates[:600], rates[600:]
    model = CORNN(alpha=ALPHA, ridge=1e-4, outliers=Reject(0.5), max_steps=10)
    assert model.fit(train) is model
    fit = cornn(train, alpha=ALPHA, ridge=1e-4, outliers=Reject(0.5), max_steps=10)
    assert np.allclose(model.fit_.theta, fit.theta, atol=1e-12)
    rows = regression_rows(test, alpha=ALPHA)
    assert model.score(test) == pytest.approx(float(one_step_r2(fit.theta, rows).d))
    assert model.score(train) > model.score(test) > 0.3
    ahead = model.predict(test)
    assert ahead.shape == test.shape
    expected = (1 - ALPHA) * test + ALPHA * np.tanh(test @ fit.theta)
    assert np.allclose(ahead, expected, atol=1e-12)
    trials = rates.reshape(3, 300, -1)
    assert model.fit(trials).predict(trials).shape == trials.shape
    assert model.score(trials) > 0.3


def test_inputs():
    theta, rates, u = recording(np.random.default_rng(1), inputs=2)
    model = CORNN(alpha=ALPHA, ridge=1e-6).fit(rates, inputs=u)
    corr = np.corrcoef(model.fit_.theta.ravel(), theta.ravel())[0, 1]
    assert corr > 0.9
    assert model.score(rates, inputs=u) > 0.5
    assert model.predict(rates, inputs=u).shape == rates.shape
    assert model.simulate(rates, 7, inputs=u[:7]).shape == (7, 16)
    with pytest.raises(ValueError, match="columns"):
        model.predict(rates)
    with pytest.raises(ValueError, match="network with 2 inputs, expected none"):
        model.simulate(rates, 7, inputs=u[:7], noisy=True)


def test_the_last_input_may_be_missing():
    _, rates, u = recording(np.random.default_rng(1), inputs=2, time=400)
    model = CORNN(alpha=ALPHA, max_steps=5).fit(rates, inputs=u[:-1])
    full, short = model.predict(rates, inputs=u), model.predict(rates, inputs=u[:-1])
    assert short.shape == rates.shape and np.array_equal(full[:-1], short[:-1])
    trials, v = rates.reshape(4, 100, 16), u.reshape(4, 100, 2)
    short = model.predict(trials, inputs=v[:, :-1])
    assert np.allclose(short[:, :-1], model.predict(trials, inputs=v)[:, :-1])
    for wrong in (u[:-2], v, u[:, 0]):
        with pytest.raises(ValueError, match=r"inputs have shape .*399 rows"):
            model.predict(rates, inputs=wrong)


def test_scaling_is_undone():
    _, rates, _ = recording(np.random.default_rng(2))
    raw = 40 + 12 * rates  # Hz, say
    train, test = raw[:600], raw[600:]
    model = CORNN(alpha=ALPHA, ridge=1e-4, scale_limit=0.9).fit(train)
    error = np.mean((model.predict(test)[:-1] - test[1:]) ** 2, axis=0)
    still = np.mean((test[:-1] - test[1:]) ** 2, axis=0)
    assert np.all(error < still)
    # Affine changes of the recording change nothing but the units.
    other = CORNN(alpha=ALPHA, ridge=1e-4, scale_limit=0.9).fit(-3 + 0.1 * train)
    assert other.score(-3 + 0.1 * test) == pytest.approx(model.score(test), abs=1e-9)
    again = -3 + 0.1 * model.predict(test)
    assert np.allclose(other.predict(-3 + 0.1 * test), again)
    run = model.simulate(train, 200, noisy=True)
    assert run.shape == (200, 16) and np.allclose(run[0], train[-1])
    assert 0.2 < run.std() / train.std() < 5


def test_parameters():
    model = CORNN(alpha=0.3, ridge=1e-2)
    given = model.get_params()
    assert given["alpha"] == 0.3 and given["mask"] is None
    assert CORNN(**given).get_params() == given
    assert model.set_params(ridge=1e-4, max_steps=3) is model
    assert model.ridge == 1e-4 and "ridge=0.0001" in repr(model)
    with pytest.raises(ValueError, match="no parameter 'lam'"):
        model.set_params(lam=1.0)


def test_a_neuron_left_out_spoils_no_prediction():
    rates = np.random.default_rng(2).uniform(-0.5, 0.5, (60, 4))
    bad = rates.copy()
    bad[7, 2] = np.nan
    with pytest.warns(UserWarning, match="left out"):
        model = CORNN(alpha=0.5).fit(bad)
    good = [0, 1, 3]
    alone = CORNN(alpha=0.5).fit(rates[:, good]).predict(rates[:, good])
    np.testing.assert_allclose(model.predict(bad)[:, good], alone, rtol=1e-9)

    scaled = dict(alpha=0.5, scale_limit=0.9)
    for options in (dict(alpha=0.5), scaled):
        with pytest.warns(UserWarning, match="left out"):
            model = CORNN(**options).fit(bad)
        alone = CORNN(**options).fit(rates[:, good])
        for frames in (bad, rates):  # the neuron may be there again
            score = alone.score(rates[:, good])
            assert model.score(frames) == pytest.approx(score, rel=1e-9)
        run = model.simulate(bad, 5, noisy=True)
        assert np.all(run[1:, good] != 0) and np.all(run[:, 2] == 0)
        np.testing.assert_allclose(
            model.simulate(bad, 5)[:, good],
            alone.simulate(rates[:, good], 5),
            rtol=1e-9,
        )
    with pytest.raises(ValueError, match="non-finite"):
        CORNN(**scaled).fit(np.full((60, 4), np.nan))


def test_the_input_of_the_last_frame_does_not_matter():
    rng = np.random.default_rng(4)
    rates, inputs = rng.uniform(-0.5, 0.5, (2, 40, 3)), rng.normal(size=(2, 40, 1))
    lost = inputs.copy()
    lost[:, -1] = np.nan
    model, other = (CORNN(alpha=0.5).fit(rates, inputs=u) for u in (inputs, lost))
    np.testing.assert_array_equal(model.fit_.theta, other.fit_.theta)
    assert model.score(rates, inputs=lost) == model.score(rates, inputs=inputs[:, :-1])


def test_before_fit_and_wrong_shapes():
    model = CORNN(alpha=ALPHA)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(np.zeros((5, 3)))
    _, rates, _ = recording(np.random.default_rng(3), time=200)
    model.fit(rates)
    with pytest.raises(ValueError, match=r"expected \(time, 16\)"):
        model.score(rates[:, :5])
    with pytest.raises(ValueError, match="alpha"):
        CORNN(alpha=1.5).fit(rates)


def test_scikit_learn_takes_it():
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
    from sklearn.utils.validation import check_is_fitted

    _, rates, _ = recording(np.random.default_rng(4), time=400)
    mask = np.eye(16, dtype=bool)
    model = CORNN(alpha=ALPHA, outliers=Reject(0.5), mask=mask, max_steps=5).fit(rates)
    check_is_fitted(model)
    copy = clone(model)
    assert copy is not model and not hasattr(copy, "fit_")
    assert copy.alpha == ALPHA and np.array_equal(copy.mask, mask)
    search = GridSearchCV(
        CORNN(alpha=ALPHA, max_steps=5),
        {"ridge": [1e-4, 1e3]},
        cv=TimeSeriesSplit(2),
    )
    search.fit(rates)
    assert search.best_params_ == {"ridge": 1e-4}
    trials = rates.reshape(4, 100, 16)
    scores = cross_val_score(CORNN(alpha=ALPHA, max_steps=5), trials, cv=2)
    assert scores.shape == (2,) and np.all(np.isfinite(scores))


def test_scikit_learn_passes_inputs_on():
    sklearn = pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score

    _, rates, u = recording(np.random.default_rng(5), time=400, inputs=2)
    model, cv = CORNN(alpha=ALPHA, max_steps=5), TimeSeriesSplit(2)
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(model, {"ridge": [1e-4, 1e3]}, cv=cv)
        search.fit(rates, inputs=u)
        scores = cross_val_score(model, rates, cv=cv, params={"inputs": u})
        assert search.score(rates, inputs=u) > 0.3
    assert search.best_params_ == {"ridge": 1e-4}
    first, last = list(cv.split(rates))[1]
    alone = model.fit(rates[first], inputs=u[first]).score(rates[last], inputs=u[last])
    assert scores[1] == pytest.approx(alone)
