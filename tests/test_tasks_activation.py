"""Delayed activation: what is wanted, and the weights as published."""

import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.tasks import DelayedActivation


@pytest.mark.parametrize("delay", [6, 8, 20])
@pytest.mark.parametrize("post", [0, 6])
def test_targets_and_both_published_weightings(delay, post):
    task = DelayedActivation(delay * 5e-3, post * 5e-3)
    trial = task.trial()
    length = delay + 2 + post
    wanted = np.r_[np.zeros(delay), np.ones(2), np.zeros(post)]
    np.testing.assert_array_equal(trial.targets[:, 0], wanted)
    assert trial.inputs.shape == (length, 0)
    early = np.arange(length) < delay
    # The study: 1 - T_d/L before, T_d/L after, mean over the steps.
    study = np.where(early, 1 - delay / length, delay / length) / length
    np.testing.assert_allclose(trial.mask, study, rtol=1e-12)
    # The single examples: the share of ones on zeros and the rest on ones, or with a
    # post-reaction period 8/L before and 1 - 8/L after.
    if post:
        single = np.where(early, 8 / length, 1 - 8 / length) / length
    else:
        ones = wanted.mean()
        single = np.where(wanted > 0, 1 - ones, ones) / length
    np.testing.assert_allclose(trial.mask, single, rtol=1e-12)
    np.testing.assert_allclose(
        np.sum(np.asarray(trial.mask)[early]), np.sum(np.asarray(trial.mask)[~early])
    )


def test_sequence_task_and_score():
    task = DelayedActivation(0.15, reaction=0.05)
    trial = task.trial()
    assert task.num_steps == 40 and int(trial.targets.sum()) == 10
    perfect = task.score(trial, trial.targets)
    assert float(perfect.accuracy) == 1 and float(perfect.reliability) == 1
    late = jnp.zeros_like(trial.targets).at[31:].set(1.0)  # one step late
    np.testing.assert_allclose(float(task.score(trial, late).accuracy), 39 / 40)
    with pytest.raises(ValueError, match="multiple"):
        DelayedActivation(0.033)


def test_a_trial_without_an_early_part_is_refused():
    # All weights of its balanced loss would be 0.
    with pytest.raises(ValueError, match="at least one step before the reaction"):
        DelayedActivation(delay=0.0)
