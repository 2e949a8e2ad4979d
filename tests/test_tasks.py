"""Tasks to the letter of the paper, padded and batched."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import rnndyn as rd


Delayed = rd.tasks.DelayedCueDiscrimination


@pytest.mark.parametrize("post, base", [(0.0, 16), (0.03, 22)])
def test_number_of_steps_at_all_delays_of_the_paper(post, base):
    for i in range(21):
        delay = 0.02 * i
        assert Delayed(delay, post).num_steps == base + 4 * i


def test_segments_inputs_and_targets(getkey):
    task = Delayed(0.1, 0.03)
    for condition, one_hot in [(0, [0, 1]), (1, [1, 0])]:
        trial = task.trial(jnp.asarray(condition), key=getkey())
        period = np.repeat([0, 1, 2, 3], [6, 20, 10, 6])
        np.testing.assert_array_equal(trial.period, period)
        np.testing.assert_array_equal(trial.inputs, (period == 0)[:, None] * one_hot)
        np.testing.assert_array_equal(trial.targets, (period == 2)[:, None] * one_hot)


@pytest.mark.parametrize("post, late", [(0.0, 10), (0.03, 16)])
def test_mask_is_the_papers_weighting(post, late, getkey):
    task = Delayed(0.06, post)
    trial = task.trial(jnp.asarray(0), key=getkey())
    total, k = task.num_steps, late
    weights = np.full(total, k / total)
    weights[-k:] = 1 - k / total
    np.testing.assert_allclose(trial.mask, weights / total, rtol=1e-12)
    error = np.asarray(jr.normal(getkey(), (total,))) ** 2
    early, late_mse = error[:-k].mean(), error[-k:].mean()
    identity = (k / total) * (1 - k / total) * (early + late_mse)
    np.testing.assert_allclose(np.sum(trial.mask * error), identity, rtol=1e-12)


def test_padding_changes_nothing_but_the_length(getkey):
    delays = [0.0, 0.06, 0.2]
    stacked = Delayed.stack(delays, post_reaction=0.03)
    assert stacked.num_steps == 22 + 40
    padded = eqx.filter_vmap(lambda t: t.trial(jnp.asarray(1), key=None))(stacked)
    for i, delay in enumerate(delays):
        alone = Delayed(delay, 0.03).trial(jnp.asarray(1), key=getkey())
        n = alone.mask.shape[0]
        for name in ("inputs", "targets", "mask", "period"):
            np.testing.assert_allclose(
                getattr(padded, name)[i, :n], getattr(alone, name), rtol=1e-12
            )
        assert not np.any(padded.mask[i, n:]) and np.all(padded.period[i, n:] == -1)


def test_one_program_serves_several_delays(getkey):
    traces = []

    @eqx.filter_jit
    def run(task, key):
        traces.append(1)
        return task.sample(key).mask

    for delay in (0.0, 0.1, 0.2):
        run(Delayed(delay, num_steps=60), getkey())
    assert len(traces) == 1


def test_batch_alternates_and_sample_draws_both(getkey):
    task = Delayed(0.02)
    np.testing.assert_array_equal(task.batch(6, key=getkey()).condition, [0, 1] * 3)
    drawn = jax.vmap(lambda k: task.sample(k).condition)(jr.split(getkey(), 200))
    assert 60 < int(drawn.sum()) < 140


def test_delayed_activation():
    trial = rd.tasks.DelayedActivation(0.03, 0.03).trial()
    np.testing.assert_array_equal(trial.targets[:, 0], [0] * 6 + [1, 1] + [0] * 6)
    assert trial.inputs.shape == (14, 0)
    # The single-example scripts weigh 8/L before and 1 - 8/L after the delay.
    np.testing.assert_allclose(trial.mask[:6] * 14, 8 / 14)
    np.testing.assert_allclose(trial.mask[6:] * 14, 1 - 8 / 14)


def test_bad_durations():
    with pytest.raises(ValueError, match="delay = 0.101 s is not .* multiple"):
        Delayed(0.101)
    with pytest.raises(ValueError, match="post_reaction = -0.03"):
        Delayed(0.1, -0.03)
    with pytest.raises(ValueError, match="num_steps = 10, expected .* at least 36"):
        Delayed(0.1, num_steps=10)
    with pytest.raises(ValueError, match="reaction = 0"):
        Delayed(0.1, reaction=0.0)


def test_scores_of_perfect_late_and_useless_outputs(getkey):
    task = Delayed(0.04, 0.03, num_steps=40)
    trial = task.trial(jnp.asarray(1), key=getkey())
    perfect = task.score(trial, trial.targets)
    assert float(perfect.accuracy) == 1 and float(perfect.reliability) == 1
    late = jnp.roll(trial.targets, 1, axis=0)
    assert float(task.score(trial, late).accuracy) < 1
    assert float(task.score(trial, late, lag=1).accuracy) == 1
    wrong = task.score(trial, trial.targets[:, ::-1])
    assert float(wrong.accuracy) == 0 and float(wrong.reliability) == 0
    silent = task.score(trial, jnp.zeros_like(trial.targets))
    assert float(silent.reliability) == 0
    activation = rd.tasks.DelayedActivation(0.03)
    trial = activation.trial()
    assert float(activation.score(trial, trial.targets).accuracy) == 1
    assert float(activation.score(trial, 1 - trial.targets).reliability) == 0


def test_fixed_response(getkey):
    task = rd.tasks.FixedResponse(0.1, num_steps=30)
    trial = task.trial(jnp.asarray(0), key=getkey())
    valid = np.arange(30) < 26
    np.testing.assert_array_equal(trial.targets, valid[:, None] * [0, 1])
    np.testing.assert_array_equal(trial.inputs, (np.arange(30) < 6)[:, None] * [0, 1])
    np.testing.assert_allclose(trial.mask, valid / 26, rtol=1e-12)
    assert float(task.score(trial, trial.targets).accuracy) == 1
    assert float(task.score(trial, trial.targets[:, ::-1]).accuracy) == 0
    assert float(task.score(trial, -trial.targets).reliability) == 0
    stacked = rd.tasks.FixedResponse.stack([0.02, 0.4])
    assert stacked.num_steps == 86
    np.testing.assert_array_equal(stacked.response_steps, [4, 80])
    with pytest.raises(ValueError, match="response = 0 s"):
        rd.tasks.FixedResponse(0.0)


def test_published_window_of_a_fixed_response():
    for i in range(1, 21):
        task = rd.tasks.FixedResponse(0.02 * i, num_steps=90)
        period = task.trial(jnp.asarray(0)).period
        window = np.asarray(rd.training.paper_window(task, period))
        length = 6 + 4 * i
        first = length - (2 if i == 15 else 1)  # 300 ms, by rounding
        np.testing.assert_array_equal(np.flatnonzero(window), range(first, length))


def test_impossible_times():
    for wrong in ({"dt": 0.0}, {"dt": -5e-3}, {"delay": np.inf}, {"delay": np.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            rd.tasks.DelayedCueDiscrimination(**wrong)
    with pytest.raises(ValueError, match="dt = 0"):
        rd.tasks.DelayedActivation(dt=0.0)
    with pytest.raises(ValueError, match="no durations"):
        Delayed.stack([])


def test_times_of_another_kind_without_a_type_checker(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong in ("0.1", None, np.array([0.1, 0.2])):
        with pytest.raises(ValueError, match="delay = .*one number"):
            Delayed(wrong)
    with pytest.raises(ValueError, match=r"num_steps = 40\.5, expected a whole number"):
        Delayed(0.1, num_steps=40.5)
