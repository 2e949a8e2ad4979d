"""Loss, windows and verdicts against the paper's definitions."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from rnndyn import tasks, training


DELAYS = [20 * i for i in range(21)]  # ms


scores = eqx.filter_jit(training.scores)
loss_of = eqx.filter_jit(training.masked_loss)


@eqx.filter_jit
def batch(task, size):
    return task.batch(size, key=jr.key(0))


def time_major(a):
    return jnp.moveaxis(a, 1, 0)


@pytest.mark.parametrize("post", [0.0, 0.03])
@pytest.mark.parametrize("padding", [0, 9])
def test_loss_identity(post, padding):
    for delay in (0.0, 0.1, 0.4):
        task = tasks.DelayedCueDiscrimination(delay, post)
        T = task.num_steps
        assert T == (22 if post else 16) + round(delay * 1000) // 5
        task = tasks.DelayedCueDiscrimination(delay, post, num_steps=T + padding)
        trials = batch(task, 8)
        outputs = jr.uniform(jr.key(1), (T + padding, 8, 2))
        k = 16 if post else 10
        error = np.square(np.asarray(outputs) - np.moveaxis(trials.targets, 1, 0))
        early, late = np.mean(error[: T - k]), np.mean(error[T - k : T])
        want = k / T * (1 - k / T) * (early + late)
        np.testing.assert_allclose(loss_of(outputs, trials), want, rtol=1e-6)


def test_an_always_right_choice_scores_the_papers_ceilings():
    # The paper's window starts a step early (two at 300 ms) and is a step short at
    # 320 ms; the early target (0, 0) counts as the first class.
    ensemble = tasks.DelayedCueDiscrimination.stack([d / 1000 for d in DELAYS])

    @eqx.filter_jit
    def perfect(task):
        trials = batch(task, 8)
        right = jax.nn.one_hot(1 - trials.condition, 2)
        outputs = jnp.broadcast_to(right, (task.num_steps, 8, 2))
        return training.scores(task, outputs, trials)

    arrays = eqx.filter(ensemble, eqx.is_array)
    got = jax.vmap(lambda a: perfect(eqx.combine(a, ensemble)))(arrays)
    want = {300: 0.9, 320: 8.5 / 9}
    want = np.asarray([want.get(d, 0.95) for d in DELAYS])
    np.testing.assert_allclose(got.accuracy, want, atol=1e-6)
    np.testing.assert_allclose(got.accuracy_clean, 1)
    np.testing.assert_allclose(got.reliability_clean, 1)


@pytest.mark.parametrize("delay", [0.08, 0.3, 0.32])
def test_scores_equal_the_papers_code(delay):
    task = tasks.DelayedCueDiscrimination(delay, num_steps=96)
    trials = batch(task, 6)
    o = np.asarray(jr.uniform(jr.key(1), (96, 6, 2)))
    y = np.asarray(time_major(trials.targets))
    s = int((0.03 + delay) / 0.005 - 1)
    e = int((0.03 + delay + 0.05) / 0.005 - 1)
    p = (o / o.sum(-1, keepdims=True))[s:e]
    truth = y[s:e].argmax(-1)
    accuracy = 1 - np.abs(p.argmax(-1) - truth).mean()
    reliability = np.take_along_axis(p, truth[..., None], -1).mean()
    got = scores(task, jnp.asarray(o), trials)
    np.testing.assert_allclose(got.accuracy, accuracy, rtol=1e-12)
    np.testing.assert_allclose(got.reliability, reliability, rtol=1e-12)


def test_clean_window_knows_the_read_out_lag():
    task = tasks.DelayedCueDiscrimination(0.02, 0.03)
    period = task.trial(jnp.asarray(0)).period
    lagged = np.flatnonzero(training.clean_window(task, period, readout="before"))
    direct = np.flatnonzero(training.clean_window(task, period, readout="after"))
    np.testing.assert_array_equal(direct, np.arange(10, 20))
    np.testing.assert_array_equal(lagged, np.arange(11, 20))


def test_a_reaction_of_one_step_is_scored():
    # Without its first step nothing would be left: the score was NaN, or 0.
    task = tasks.DelayedCueDiscrimination(0.02, reaction=0.005)
    trials = batch(task, 2)
    got = scores(task, time_major(trials.targets), trials)
    assert got.accuracy_clean == 1 and got.reliability_clean == 1
    trial = task.trial(jnp.asarray(1))
    assert task.score(trial, trial.targets, lag=1).accuracy == 1


def test_a_single_output_is_scored_against_its_complement():
    task = tasks.DelayedActivation(0.03)
    trials = batch(task, 2)
    right = scores(task, time_major(trials.targets), trials, readout="after")
    wrong = scores(task, 1 - time_major(trials.targets), trials)
    assert right.accuracy_clean == 1 and right.reliability_clean == 1
    assert wrong.accuracy_clean == 0


def test_a_wrong_choice_of_three_counts_once():
    task = tasks.DelayedActivation(0.03)
    trials = batch(task, 2)
    one_hot = lambda i: jnp.zeros((2, task.num_steps, 3)).at[:, :, i].set(1)
    trials = eqx.tree_at(lambda t: t.targets, trials, one_hot(2))
    got = scores(task, time_major(one_hot(0)), trials)
    assert got.accuracy == 0 and got.accuracy_clean == 0


def test_silent_outputs_are_no_nan():
    task = tasks.DelayedCueDiscrimination(0.02)
    trials = batch(task, 2)
    got = scores(task, jnp.zeros((task.num_steps, 2, 2)), trials)
    assert got.accuracy_clean == 0.5 and got.reliability_clean == 0


def test_outcomes():
    flat = np.full(100, 0.5)
    learned = np.where(np.arange(100) < 30, 0.5, 0.95)
    fell_back = learned.copy()
    fell_back[50:70] = 0.5
    unsteady_end = learned.copy()
    unsteady_end[-10:] = 0.75
    histories = np.stack([flat, learned, fell_back, unsteady_end])
    names = [training.OUTCOMES[c] for c in training.outcome(histories, histories)]
    # The third ends perfectly correct, yet is not counted as learned.
    assert names == ["not_learned", "learned", "unstable", "not_learned"]
    ended = np.concatenate([learned, np.full(50, np.nan)])
    assert training.outcome(ended, ended) == training.OUTCOMES.index("learned")
    with pytest.raises(ValueError, match="histories have shapes"):
        training.outcome(flat, learned[:-1])


class SignOfTheLastPulse(tasks.AbstractTask):
    """A one-bit flip-flop: the output is the sign of the pulse, -1 or 1, at any step,
    which differs from trial to trial."""

    num_steps: int = 12
    input_size: int = 1
    output_size: int = 1
    num_conditions: int = 2
    dt: float = 0.05
    periods: ClassVar[tuple[str, ...]] = ("wait", "hold")
    reference: ClassVar[str] = ""

    def trial(self, condition, *, key):
        onset = jr.randint(key, (), 1, 6)
        steps, sign = jnp.arange(self.num_steps), 2.0 * condition - 1
        held = steps >= onset
        return tasks.Trial(
            inputs=jnp.where(steps == onset, sign, 0.0)[:, None],
            targets=jnp.where(held, sign, 0.0)[:, None],
            mask=held / self.num_steps,
            period=held.astype(jnp.int32),
            condition=jnp.asarray(condition, jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        right = outputs[:, 0] * trial.targets[:, 0] > 0
        count = jnp.where(trial.period == 1, right, False).sum(dtype=outputs.dtype)
        share = count / jnp.sum(trial.period == 1)
        return tasks.Score(accuracy=share, reliability=share**2)


def test_a_task_of_your_own_is_scored_by_its_own_score():
    task = SignOfTheLastPulse()
    trials = task.batch(8, key=jr.key(0))
    outputs = time_major(trials.targets)
    right = scores(task, outputs, trials)
    assert right.accuracy == right.accuracy_clean == right.reliability == 1
    # Half of the trials all wrong, the other half all right.
    half = jnp.where(jnp.arange(8)[None, :, None] < 4, outputs, -outputs)
    some = scores(task, half, trials)
    assert some.accuracy == some.reliability == some.reliability_clean == 0.5

    class Strict(tasks.DelayedCueDiscrimination):
        def score(self, trial, outputs, *, lag=0):
            return tasks.Score(accuracy=jnp.array(0.25), reliability=jnp.array(0.5))

    task = Strict(delay=0.05)
    trials = task.batch(8, key=jr.key(0))
    own = scores(task, time_major(trials.targets), trials)
    assert (own.accuracy, own.reliability_clean) == (0.25, 0.5)
