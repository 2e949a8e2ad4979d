"""Ensembles: nothing about a member depends on who trains beside it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from rnndyn import models as m, tasks, training
from rnndyn.training import _log, _slots


def build(key):
    return m.RateRNN(
        2, 10, 2, tau=0.01, noise=1e-3, init=m.Xavier(), readout="sigmoid", key=key
    )


NETS = m.ensemble(build, jr.split(jr.key(0), 7))
TASK = tasks.DelayedCueDiscrimination(0.02)
KW = dict(optimiser=training.sgd(), batch=4, key=jr.key(1))


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def twenty():
    return training.train(NETS, TASK, learning_rate=0.1, steps=20, **KW)


def test_shapes_and_records(twenty):
    assert twenty.losses.shape == (7, 20)
    assert bool(jnp.all(twenty.steps == 20))
    assert not bool(jnp.any(twenty.diverged | twenty.stopped))
    assert bool(jnp.all(twenty.history.finite))
    assert bool(jnp.all(twenty.losses[:, -1] < twenty.losses[:, 0]))
    assert twenty.models.W.shape == (7, 10, 10) and twenty.outcome.shape == (7,)
    sparse = training.train(
        NETS, TASK, learning_rate=0.1, steps=20, record_every=8, **KW
    )
    close(sparse.models, twenty.models)
    np.testing.assert_array_equal(sparse.losses, twenty.losses[:, [7, 15, 19]])


def test_a_result_in_one_line_and_as_a_dataset(twenty):
    assert repr(twenty).startswith("TrainResult(7 not_learned; 0 diverged, 0 stopped; ")
    data = twenty.to_xarray()
    assert data.sizes == {"members": 7, "records": 20}
    names = {"losses", "accuracies", "steps", "diverged", "stopped", "outcome"}
    assert set(data) == names == set(twenty.to_dict()) - {"record_every", "seconds"}
    np.testing.assert_array_equal(data.losses, twenty.losses)


@pytest.mark.parametrize(
    ("chunk", "lanes", "devices"), [(1, 1, 1), (7, 7, 1), (64, 1, 1), (64, 3, 2)]
)
def test_chunks_lanes_and_devices_do_not_matter(twenty, chunk, lanes, devices):
    result = training.train(
        NETS,
        TASK,
        learning_rate=0.1,
        steps=20,
        chunk=chunk,
        lanes=lanes,
        devices=jax.devices()[:devices],
        **KW,
    )
    close(result.models, twenty.models)
    close(result.history, twenty.history)


def test_a_member_alone(twenty):
    alone = training.train(
        m.member(NETS, jnp.asarray([4])),
        TASK,
        learning_rate=0.1,
        steps=20,
        ids=[4],
        **KW,
    )
    close(m.member(alone.models, 0), m.member(twenty.models, 4))


def test_learning_rates_and_delays_per_network_in_one_program():
    delays, rates = [0.0, 0.02, 0.04, 0.0, 0.02, 0.04, 0.02], np.geomspace(0.01, 1, 7)
    stack = tasks.DelayedCueDiscrimination.stack(delays)
    traces = count_traces()
    result = training.train(NETS, stack, learning_rate=rates, steps=3, **KW)
    training.train(
        m.member(NETS, slice(0, 3)),
        tasks.DelayedCueDiscrimination.stack([0.04, 0.0, 0.0]),
        learning_rate=0.3,
        steps=70,
        **KW,
    )
    assert count_traces() == traces + 1
    for i in (1, 5):
        single = training.train(
            m.member(NETS, jnp.asarray([i])),
            tasks.DelayedCueDiscrimination(delays[i], num_steps=stack.num_steps),
            learning_rate=rates[i],
            steps=3,
            ids=[i],
            **KW,
        )
        close(m.member(single.models, 0), m.member(result.models, i))
    assert count_traces() == traces + 1
    # Padding a trial changes nothing but rounding, given the same noise of the steps.
    quiet = eqx.tree_at(lambda n: n.noise, NETS, jnp.zeros(7))
    padded = training.train(quiet, stack, learning_rate=rates, steps=3, **KW)
    short = training.train(
        m.member(quiet, jnp.asarray([0])),
        tasks.DelayedCueDiscrimination(0.0),
        learning_rate=rates[0],
        steps=3,
        **KW,
    )
    close(m.member(short.models, 0), m.member(padded.models, 0), 1e-10)


def count_traces():
    return _slots.advance_slots._cached._cache_size()


def test_a_diverged_network_disturbs_nobody():
    rates = np.full(7, 0.1)
    calm = training.train(NETS, TASK, learning_rate=rates, steps=20, **KW)
    rates[3] = 1e300
    wild = training.train(NETS, TASK, learning_rate=rates, steps=20, **KW)
    assert np.flatnonzero(wild.diverged).tolist() == [3]
    assert wild.steps[3] < 20 and not bool(jnp.all(wild.history.finite[3]))
    assert bool(jnp.all(jnp.isfinite(wild.models.W)))
    # Also where the epochs before it broke off scored well.
    log = wild.log
    good = jnp.ones_like(log.good), 0 * log.low, jnp.ones_like(log.high)
    scored = jnp.ones_like(log.accuracy), jnp.ones_like(log.reliability)
    log = eqx.tree_at(
        lambda t: (t.good, t.low, t.high, t.accuracy, t.reliability), log, good + scored
    )
    lucky = eqx.tree_at(lambda r: r.log, wild, log)
    assert log.outcome.tolist() == [1] * 7
    assert lucky.outcome.tolist() == [1, 1, 1, 0, 1, 1, 1]
    others = np.asarray([0, 1, 2, 4, 5, 6])
    for a, b in zip(
        jax.tree.leaves((calm.models, calm.history)),
        jax.tree.leaves((wild.models, wild.history)),
        strict=True,
    ):
        np.testing.assert_array_equal(a[others], b[others])


def test_stopped_networks_make_room():
    blocks = []
    kw = dict(learning_rate=0.3, steps=400, chunk=2, **KW)
    free = training.train(NETS, TASK, **kw)
    threshold = float(np.quantile(np.asarray(free.losses).min(axis=1), 0.6))
    result = training.train(
        NETS,
        TASK,
        stop=training.LossBelow(threshold),
        on_chunk=lambda p: blocks.append((p.done, p.epochs)),
        **kw,
    )
    below = np.asarray(free.losses) < threshold
    reached = below.any(axis=1)
    assert 0 < reached.sum() < 7
    np.testing.assert_array_equal(result.stopped, reached)
    first = np.where(reached, below.argmax(axis=1), 400)
    np.testing.assert_array_equal(result.steps, first)
    assert blocks[-1] == (7, first.sum() + reached.sum())
    assert bool(jnp.all(jnp.isnan(result.losses[reached, -1])))


def test_resume_equals_one_run(twenty):
    half = training.train(NETS, TASK, learning_rate=0.1, steps=9, **KW)
    rest = training.train(half.state, TASK, learning_rate=None, steps=20, **KW)
    close(rest.models, twenty.models, 1e-12)
    np.testing.assert_array_equal(rest.losses[:, 9:], twenty.losses[:, 9:])
    assert bool(jnp.all(jnp.isnan(rest.losses[:, :9])))


def test_same_start_at_every_learning_rate():
    # A seed is a network: its weights, trials and noise do not depend on the rate.
    keys = jr.split(jr.key(3), 2)
    nets = m.ensemble(build, jnp.concatenate([keys, keys]))
    result = training.train(
        nets,
        TASK,
        learning_rate=[0.01, 0.01, 0.3, 0.3],
        steps=2,
        ids=[0, 1, 0, 1],
        **KW,
    )
    np.testing.assert_array_equal(result.losses[:2, 0], result.losses[2:, 0])
    assert not np.array_equal(result.losses[:2, 1], result.losses[2:, 1])


def test_impossible_requests():
    def run(nets=NETS, task=TASK, **changes):
        kw = {**dict(learning_rate=0.1, steps=2), **KW, **changes}
        return training.train(nets, task, **kw)

    with pytest.raises(ValueError, match="empty"):
        run(m.member(NETS, slice(0, 0)))
    with pytest.raises(ValueError, match=r"steps = 2\.7, expected whole"):
        run(steps=2.7)
    with pytest.raises(ValueError, match="steps = 0"):
        run(steps=0)
    with pytest.raises(ValueError, match="batch = 0"):
        run(batch=0)
    with pytest.raises(ValueError, match="batch = 1, but the task has 2 conditions"):
        run(batch=1)
    with pytest.raises(ValueError, match="record_every = 0"):
        run(record_every=0)
    with pytest.raises(ValueError, match=r"learning_rate has shape \(3,\)"):
        run(learning_rate=[0.1, 0.2, 0.3])
    for rate in (np.nan, -0.1):
        with pytest.raises(ValueError, match="non-finite or negative"):
            run(learning_rate=rate)
    with pytest.raises(ValueError, match="expected a tuple of fields"):
        run(fixed=("no_such_field",))
    with pytest.raises(ValueError, match=r"networks \[2\] have non-finite weights"):
        run(eqx.tree_at(lambda n: n.W, NETS, NETS.W.at[2, 0, 0].set(jnp.nan)))
    for ids in ([0, 1], 0.5 + np.arange(7)):
        with pytest.raises(ValueError, match="ids has shape"):
            run(ids=ids)
    with pytest.raises(ValueError, match="leading axes"):
        run(task=tasks.DelayedCueDiscrimination.stack([0.0, 0.02]))
    with pytest.raises(ValueError, match="input_size"):
        run(task=tasks.DelayedActivation(0.03))
    with pytest.raises(ValueError, match="dt/tau"):
        run(task=tasks.DelayedCueDiscrimination(0.1, dt=0.05, cue=0.05))
    for name in ("chunk", "lanes", "last"):
        with pytest.raises(ValueError, match=f"{name} = -1, expected a whole number"):
            run(**{name: -1})
    with pytest.raises(ValueError, match="learning_rate = None, expected a number"):
        run(learning_rate=None)
    every = ("W", "W_in", "b", "b_in", "W_out", "b_out", "tau", "noise", "x0")
    with pytest.raises(ValueError, match="nothing is left to train"):
        run(fixed=every)


def test_only_a_state_goes_on_and_with_its_own_optimiser(twenty):
    kw = dict(learning_rate=None, steps=21)
    with pytest.raises(ValueError, match=r"Pass result\.state"):
        training.train(twenty, TASK, **kw, **KW)
    for other in (dict(optimiser=optax.adam), dict(fixed=("tau", "noise", "x0", "W"))):
        with pytest.raises(ValueError, match="another optimiser, or to other fixed"):
            training.train(twenty.state, TASK, **kw, **{**KW, **other})
    assert training.train(twenty.state, TASK, **kw, **KW).steps[0] == 21


def test_rank_two_networks_learn_delayed_activation_without_input():
    def build(key):
        return m.LowRankRNN(
            0, 40, 1, rank=2, tau=0.01, form="rate", scale="1", readout="sigmoid",
            latent_readout=True, init=m.GaussianFactors(b_out_std=1.0),
            x0=0.1 * jax.random.normal(jax.random.fold_in(key, 1), (40,)), key=key,
        )  # fmt: skip

    nets = m.ensemble(build, jax.random.split(jax.random.key(0), 2))
    task = tasks.DelayedActivation(delay=0.03)
    result = training.train(
        nets,
        task,
        optimiser=optax.adam,
        learning_rate=0.01,
        steps=600,
        batch=1,
        readout="after",
        start=training.ModelStart(),
        key=jax.random.key(1),
    )
    assert np.all(result.losses[:, -1] < 0.05 * result.losses[:, 0])
    np.testing.assert_array_equal(result.models.x0, nets.x0)


def test_budgets_per_network_and_exact_verdicts_at_any_stride():
    budgets = np.asarray([7, 130, 20, 60, 1, 130, 90])
    kw = dict(learning_rate=np.geomspace(0.1, 3, 7), steps=budgets, **KW)
    fine = training.train(NETS, TASK, **kw)
    np.testing.assert_array_equal(fine.steps, budgets)
    np.testing.assert_array_equal(np.isfinite(fine.losses).sum(axis=1), budgets)
    acc, rel = fine.history.accuracy, fine.history.reliability
    verdict = training.outcome(acc, rel)
    np.testing.assert_array_equal(fine.outcome, verdict)
    coarse = training.train(NETS, TASK, record_every=17, last=40, chunk=3, **kw)
    close(coarse.models, fine.models)
    np.testing.assert_array_equal(coarse.outcome, verdict)
    for i, n in enumerate(budgets):
        kept = coarse.log.last()["loss"][i]
        held = min(n, 40)
        assert np.all(np.isnan(kept[: 40 - held]))
        np.testing.assert_allclose(kept[40 - held :], fine.losses[i, n - held : n])
        np.testing.assert_allclose(
            coarse.losses[i, (n - 1) // 17], fine.losses[i, n - 1]
        )


def test_log_equals_the_verdict_on_whole_histories(getkey):
    rng = np.random.default_rng(3)
    length, count = 400, 300
    # Histories that hover around the thresholds, so that all verdicts occur.
    level = rng.uniform(0.4, 1.0, (count, 1)) + np.linspace(-0.2, 0.25, length)
    level += 0.25 * (rng.random((count, length)) < rng.uniform(0, 0.4, (count, 1))) * -1
    acc = np.clip(level + 0.05 * rng.standard_normal(level.shape), 0, 1)
    rel = np.clip(level + 0.05 * rng.standard_normal(level.shape), 0, 1)
    acc, rel = acc.astype(np.float32), rel.astype(np.float32)
    ends = rng.integers(1, length + 1, count)
    ends[:100] = length
    broken = rng.random(count) < 0.2
    acc[broken, ends[broken] - 1] = np.nan
    for i, n in enumerate(ends):
        acc[i, n:], rel[i, n:] = np.nan, np.nan
    log = _log.empty_log(count, length, 7, 30, acc)
    for first in range(0, length, 33):
        counts = np.clip(ends - first, 0, min(33, length - first))
        rows = np.flatnonzero(counts)
        cut = lambda a, rows=rows, first=first: a[rows, first : first + 33]
        parts = [jnp.asarray(cut(a)) for a in (acc, acc, rel, acc, rel, rel)]
        info = training.TrainInfo(*parts, finite=parts[0] > 0)
        _log.write_block(log, rows, np.full(len(rows), first), counts[rows], info, 7)
    want = training.outcome(acc, rel)
    assert set(want.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(log.outcome, want)
    np.testing.assert_array_equal(log.seen, ends)
    np.testing.assert_array_equal(
        np.asarray(log.history.accuracy)[:, -1], acc[np.arange(count), -1]
    )


def test_resuming_with_the_log_keeps_the_verdict():
    kw = dict(learning_rate=0.5, steps=120, last=50, record_every=10, **KW)
    seen = {}

    def keep(progress):
        if progress.epochs >= 300 and not seen:
            copy = lambda tree: jax.tree.map(np.array, tree)
            seen["state"] = copy(progress.state)
            seen["log"] = copy(progress.log)

    whole = training.train(NETS, TASK, on_chunk=keep, **kw)
    rest = training.train(seen["state"], TASK, log=seen["log"], **kw)
    close(rest.models, whole.models, 1e-12)
    close(rest.log, whole.log, 1e-12)
    with pytest.raises(ValueError, match="log's history has shape"):
        training.train(seen["state"], TASK, log=seen["log"], **{**kw, "steps": 220})
    with pytest.raises(ValueError, match=r"steps has shape \(2,\)"):
        training.train(NETS, TASK, **{**kw, "steps": [3, 4]})
