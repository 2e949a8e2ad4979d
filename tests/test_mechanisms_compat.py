"""Published labels: the index, the pipeline around it, and who agrees with it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.mechanisms import (
    COMPAT,
    agreement,
    classify,
    cohen_kappa,
    compat_labels,
    cue_attractors,
    cue_kinds,
    discrimination_index,
    network_kinds,
    sign_index,
)
from rnndyn.mechanisms._compat import _free_runs


def pipeline(signs):
    """The published index, from two columns whose difference has the given signs."""
    t = np.arange(len(signs))
    z = np.stack([np.cos(t) + 2 * signs, np.cos(t) + 0.1 * np.sin(3 * t)], axis=1)
    assert np.all(np.sign(z[:, 0] - z[:, 1]) == signs)
    C = np.corrcoef(z)
    F = np.abs(np.fft.fftshift(np.fft.fft2(C))) ** 2
    n = len(signs)
    i, j = np.indices(F.shape)
    inside = (i - n // 2) ** 2 + (j - n // 2) ** 2 <= 9
    return F[inside].sum() / F.sum()


def square(period, T=36):
    """A square wave of a period in trial lengths, over nine of them."""
    phase = (np.arange(9 * T) + 0.5) / (period * T) % 1
    return np.where(phase < 0.5, 1.0, -1.0)


def test_index_identity(getkey):
    runs = [square(p) for p in (0.5, 1, 2, 3.5, 4.5)] + [np.ones(324)]
    draws = jax.random.normal(getkey(), (3, 325))
    runs += [np.where(np.asarray(jnp.cumsum(d)) >= 0, 1.0, -1.0) for d in draws]
    for s in runs:
        assert abs(sign_index(s) - pipeline(s)) < 1e-4


def test_index_values():
    index = jax.jit(sign_index)
    assert abs(index(jnp.ones(324)) - 1) < 1e-12
    for period in (0.5, 1, 1.5, 2, 2.5, 3):
        assert index(square(period)) < 0.02
    assert abs(index(square(4.5)) - 0.657) < 1e-3
    flips = {0.25: 0.828, 0.5: 0.738, 0.75: 0.702, 1: 0.696, 1.5: 0.719, 2: 0.748}
    for when, want in flips.items():
        s = np.where(np.arange(324) < round(36 * when), -1.0, 1.0)
        assert abs(index(s) - want) < 1e-3


def test_index_of_rates():
    t = jnp.arange(9 * 36) / 36
    weights = jax.random.normal(jax.random.key(1), (2, 20))
    turn = jnp.stack([jnp.sin(4 * t), jnp.cos(4 * t)], axis=1) @ weights
    assert discrimination_index(turn) < 0.05
    settle = jnp.exp(-jnp.stack([t, 3 * t], axis=1)) @ weights + weights[:1]
    both = [discrimination_index(settle, flip=f) for f in (False, True)]
    assert min(both) > 0.5
    stack = jnp.stack([turn, settle])
    mapped = jax.jit(jax.vmap(discrimination_index))(stack)
    each = jnp.stack([discrimination_index(r) for r in stack])
    np.testing.assert_allclose(mapped, each, rtol=1e-9)
    with pytest.raises(ValueError, match="time, neurons"):
        discrimination_index(jnp.ones(5))
    with pytest.raises(ValueError, match="vmap"):
        sign_index(jnp.ones((5, 5)))


def test_index_of_the_first_steps_only():
    index = jax.jit(sign_index)
    for steps in (144, 145):
        s = square(1, T=17)[:steps]
        padded = np.concatenate([s, np.ones(60)])
        np.testing.assert_allclose(index(padded, steps=steps), sign_index(s), atol=1e-9)
    rates = np.random.default_rng(0).normal(size=(60, 5)).cumsum(axis=0)
    padded = np.concatenate([rates, 9 * np.ones((20, 5))])
    short = jax.jit(discrimination_index)(padded, steps=60)
    np.testing.assert_allclose(short, discrimination_index(rates), atol=1e-9)


def test_index_of_a_few_steps_counts_every_frequency_once():
    # All frequencies lie within the radius, of an even number of steps as well.
    for steps in (2, 3, 4, 5):
        s = np.where(np.arange(steps) < 1, -1.0, 1.0)
        np.testing.assert_allclose(sign_index(s, radius=9), 1, atol=1e-12)


# -------------------------------------------------------------- networks of two kinds

task = rd.tasks.DelayedCueDiscrimination(delay=0.05, reaction=0.02)
rate = rd.models.RateRNN


def oscillator(size=2.0, angle=0.8):
    """An unstable rotation: every cue ends on one cycle."""
    c, s = size * np.cos(angle), size * np.sin(angle)
    return rate.from_arrays(
        np.array([[c, -s], [s, c]]), np.eye(2), W_out=np.eye(2), tau=0.01, noise=1e-3
    )


def relaxer():
    """Leaks back to rest."""
    W = np.diag([1 - 1 / 30, 1 - 1 / 30])
    return rate.from_arrays(
        W, np.array([[0.1, 0.4], [0.3, 0.1]]), W_out=np.eye(2), tau=0.01, noise=1e-6
    )


def mixed():
    """Rests after one cue and turns after the other: an oscillator behind a gate.

    The last unit is bistable; where it is low it holds the other two at rest.
    """
    c, s = 2 * np.cos(0.8), 2 * np.sin(0.8)
    W = np.array([[c, -s, 0, 4.0], [s, c, 0, 4.0], [0, 0, 0, 0], [0, 0, 0, 3.0]])
    W_in = np.array([[1, 0], [0, 0], [0, 0], [-4.0, 4.0]])
    b = np.array([4.0, 4.0, 0, 0])
    W[:2, 3] = -4.0
    return rate.from_arrays(
        W, W_in, W_out=np.eye(4)[:2], b=b, tau=0.01, noise=1e-4, x0=np.zeros(4)
    )


def stack(*models):
    return jax.tree.map(
        lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0], *models
    )


def test_labels_of_known_networks(getkey):
    models = stack(oscillator(), relaxer(), oscillator(), relaxer())
    labels = compat_labels(models, task, outcome=[1, 1, 0, 2], key=getkey())
    assert labels.names == ["limit_cycle", "slow_point", "not_learned", "unstable"]
    assert labels.counts() == dict.fromkeys(COMPAT, 1) | {"slow_point": 1}
    assert labels.indices.shape == (4, 3, 2)
    np.testing.assert_array_equal(labels.index, labels.indices[:, 0, 0])
    np.testing.assert_allclose(
        labels.median, np.median(np.asarray(labels.indices), axis=(1, 2))
    )
    assert labels.learned.tolist() == [True, True, False, False]
    # Without an outcome all count as learned.
    labels = compat_labels(models, task, key=getkey())
    assert labels.names == ["limit_cycle", "slow_point"] * 2


def test_the_free_run_is_the_published_one(getkey):
    """Step by step in NumPy: inputs in the first trial only, noise inside the tanh."""
    model, key = relaxer(), jax.random.split(getkey(), 2)
    models = stack(model, model)
    tasks = rd.tasks._base.per_member(task, 2)
    mesh = rd.device_mesh()
    sizes = (jnp.asarray(0.005), jnp.asarray(0.1), jnp.asarray(0))
    data = jax.random.key_data(key)
    rates, steps = _free_runs(models, tasks, data, *sizes, 2, mesh)
    assert steps.tolist() == [9 * task.num_steps] * 2
    assert rates.shape == (2, 2, 9 * task.num_steps, 2)
    start, noise = jax.random.split(jax.random.fold_in(key[1], 1))
    r = np.tanh(0.1 * np.asarray(jax.random.normal(start, (2,))))
    xi = np.asarray(jax.random.normal(noise, (9 * task.num_steps, 2)))
    W, W_in, b = (np.asarray(getattr(model, k)) for k in ("W", "W_in", "b"))
    u = np.zeros((9 * task.num_steps, 2))
    u[: task.cue_steps] = [0, 1]
    for t in range(9 * task.num_steps):
        r = 0.5 * r + 0.5 * np.tanh(W @ r + W_in @ u[t] + b + 1e-6 * xi[t])
        np.testing.assert_allclose(rates[1, 1, t], r, atol=1e-9)


def test_padding_and_chunks_change_nothing(getkey):
    """Networks with delays of their own share a program, whatever the padding."""
    key = getkey()
    models = stack(oscillator(), oscillator(1.6, 0.5), relaxer())
    quiet = eqx.tree_at(lambda m: m.noise, models, jnp.zeros(3))
    delays = [0.03, 0.05, 0.08]
    tasks = rd.tasks.DelayedCueDiscrimination.stack(delays, reaction=0.02)
    together = compat_labels(quiet, tasks, spread=0, key=key)
    small = compat_labels(quiet, tasks, spread=0, chunk=1, key=key)
    np.testing.assert_allclose(small.indices, together.indices, atol=1e-9)
    for i, delay in enumerate(delays):
        alone = rd.tasks.DelayedCueDiscrimination(delay, reaction=0.02)
        one = rd.models.member(quiet, np.asarray([i]))
        got = compat_labels(one, alone, spread=0, key=key)
        np.testing.assert_allclose(got.indices[0], together.indices[i], atol=1e-9)


def test_agreement_counts_mixed_networks_apart(getkey):
    models = stack(*[_padded(m) for m in (oscillator(), relaxer(), mixed())])
    report = classify(models, task, key=getkey())
    assert network_kinds(report).tolist() == [1, 0, 2]
    assert cue_kinds(report)[2].tolist() in ([0, 1], [1, 0])
    labels = compat_labels(models, task, key=getkey())
    found = agreement(labels, report)
    assert int(found.table.sum()) == 3
    assert found.mixed.count == 1 and found.mixed.total == 3
    assert found.same.total == 2 and found.same.count == 2 and found.kappa == 1
    assert found.same_cue.total == 3
    assert "kappa 1.00" in str(found)
    assert found.to_dict()["mixed"]["count"] == 1
    # A label that is always wrong: every cycle called a slow point and back.
    swapped = eqx.tree_at(lambda c: c.code, labels, jnp.asarray([2, 1, 1], jnp.int32))
    assert agreement(swapped, report).same.count == 0
    assert agreement(swapped, report).kappa == -1
    with pytest.raises(ValueError, match="same networks"):
        agreement(compat_labels(relaxer_pair(), task, key=getkey()), report)


def relaxer_pair():
    return stack(relaxer(), relaxer())


def _padded(model, size=4):
    """The same network with idle units."""
    n = model.state_size
    if n == size:
        return model
    grow = lambda a, shape: np.pad(
        a, [(0, m - k) for k, m in zip(a.shape, shape, strict=True)]
    )
    return rate.from_arrays(
        grow(model.W, (size, size)),
        grow(model.W_in, (size, 2)),
        W_out=grow(model.W_out, (2, size)),
        tau=0.01,
        b=np.zeros(size),
        noise=model.noise,
        x0=np.zeros(size),
    )


def test_kappa():
    np.testing.assert_allclose(cohen_kappa([[20, 5], [10, 15]]), 0.4)
    assert np.isnan(cohen_kappa([[0, 0], [0, 0]]))
    assert np.isnan(cohen_kappa([[5, 0], [0, 0]]))
    with pytest.raises(ValueError, match="square"):
        cohen_kappa(np.ones((2, 3)))


def test_bad_input(getkey):
    models = relaxer_pair()
    key = getkey()
    with pytest.raises(ValueError, match="outcome"):
        compat_labels(models, task, outcome=[1], key=key)
    with pytest.raises(ValueError, match="outcome"):
        compat_labels(models, task, outcome=[1, 3], key=key)
    with pytest.raises(ValueError, match="draws"):
        compat_labels(models, task, draws=0, key=key)
    with pytest.raises(ValueError, match="cue"):
        compat_labels(models, task, cue=2, key=key)
    with pytest.raises(ValueError, match="dt"):
        compat_labels(models, task, dt=0.5, key=key)
    with pytest.raises(ValueError, match=r"ensemble|axis"):
        compat_labels(relaxer(), task, key=key)


def test_a_network_that_runs_away_is_no_crash(getkey):
    wild = rate.from_arrays(
        3 * np.eye(2), np.ones((2, 2)), W_out=np.eye(2), b=[1.0, 1.0], tau=0.01,
        activation="identity", noise=1e-3,
    )  # fmt: skip
    calm = rate.from_arrays(
        np.zeros((2, 2)), np.ones((2, 2)), W_out=np.eye(2), b=[0.0, 0.0], tau=0.01,
        activation="identity", noise=1e-3,
    )  # fmt: skip
    labels = compat_labels(stack(wild, calm), task, outcome=[0, 1], key=getkey())
    assert labels.names[0] == "not_learned"
    assert np.isfinite(labels.index[1])


def test_runs_that_are_not_finite_have_no_index(getkey):
    for bad in (np.nan, np.inf):
        rates = np.random.default_rng(0).normal(size=(20, 3))
        rates[7, 1] = bad
        assert np.isnan(discrimination_index(rates))
        # Beyond the steps that count it does no harm.
        short = discrimination_index(rates, steps=7)
        np.testing.assert_allclose(short, discrimination_index(rates[:7]), atol=1e-9)
    nan = eqx.tree_at(lambda m: m.W, relaxer(), jnp.full((2, 2), jnp.nan))
    models = stack(nan, relaxer(), nan)
    labels = compat_labels(models, task, outcome=[1, 1, 2], key=getkey())
    assert labels.names == ["not_learned", "slow_point", "unstable"]
    assert labels.median_code.tolist() == labels.code.tolist()
    assert np.isnan(labels.index[0]) and not labels.ambiguous.any()
    assert labels.learned.tolist() == [False, True, False]


# ----------------------------------------------------------------- certified attractors


def test_attractors_of_the_cues():
    models = stack(*[_padded(m) for m in (oscillator(), relaxer(), mixed())])
    ends = cue_attractors(models, task, chunk=4)
    assert ends.names[0] == ["invariant_circle"] * 2
    assert ends.names[1] == ["root"] * 2
    assert sorted(ends.names[2]) == ["invariant_circle", "root"]
    assert ends.mixed.tolist() == [False, False, True]
    assert np.all(ends.residual[1] < 1e-12)
    # The relaxer's slowest direction, as a rate: (1 - (1 - 1/60)) / dt.
    rest = np.log(1 - 0.5 / 30) / task.dt
    np.testing.assert_allclose(ends.exponents[1, :, 0], rest, rtol=1e-3)
    assert np.all(np.abs(ends.exponents[0, :, 0]) < 0.05)
    table = ends.to_dict()
    assert table["verdict_name"][1, 0] == "root"


def test_a_cycle_of_two_is_certified_as_one():
    """Strong self-inhibition at dt = tau: the map flips sign in every step; beside a
    network that diverges."""
    flips = rate.from_arrays(
        -3 * np.eye(2), np.array([[1.0, 0.5], [0.5, 1.0]]), W_out=np.eye(2), tau=0.005
    )
    grows = eqx.tree_at(lambda m: m.W, flips, jnp.full((2, 2), jnp.nan))
    ends = cue_attractors(stack(flips, grows), task)
    assert ends.names == [["k_cycle"] * 2, ["diverged"] * 2]
    np.testing.assert_allclose(ends.period[0], 2 * task.dt)
    assert not ends.mixed.any()
    # Nothing is said of where a run that diverged ended.
    gone = (ends.final, ends.exponents, ends.extent, ends.residual, ends.distance)
    assert all(np.all(np.isnan(a[1])) for a in gone) and np.all(ends.time > 0)


def test_attractors_bad_input():
    with pytest.raises(ValueError, match="rounds"):
        cue_attractors(relaxer_pair(), task, rounds=0)
    with pytest.raises(ValueError, match="dt"):
        cue_attractors(relaxer_pair(), task, dt=0.5)
    with pytest.raises(ValueError, match="'delay' among them"):
        cue_attractors(relaxer_pair(), rd.tasks.FixedResponse())
    with pytest.raises(ValueError, match="input_size"):
        cue_attractors(relaxer_pair(), rd.tasks.DelayedActivation())
    none = rd.models.member(relaxer_pair(), slice(0, 0))
    with pytest.raises(ValueError, match="members = 0"):
        cue_attractors(none, task)
    with pytest.raises(ValueError, match="members = 0"):
        compat_labels(none, task, key=jax.random.key(0))
