"""Labels on networks whose mechanism is known by construction."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.mechanisms import (
    DecisionList,
    Mechanism,
    classify,
    flow_map,
    measure,
)
from rnndyn.mechanisms._run import free_run, settle


task = rd.tasks.DelayedCueDiscrimination(delay=0.05, reaction=0.02)
rate = rd.models.RateRNN


def rotation(gain, angle):
    c, s = gain * np.cos(angle), gain * np.sin(angle)
    return np.array([[c, -s], [s, c]])


def toggle():
    """Two stable states, set by the cue and read out directly: fixed points."""
    W = 3.0 * np.eye(2) - 1.5 * np.ones((2, 2))
    W_in = 4.0 * np.array([[1, -1], [-1, 1]])
    return rate.from_arrays(
        W, W_in, W_out=40 * np.eye(2), b_out=[-10.0, -10.0], tau=0.01, readout="sigmoid"
    )


def oscillator():
    """An unstable rotation: every cue ends on one cycle."""
    return rate.from_arrays(
        rotation(2.0, 0.8), np.eye(2), W_out=np.eye(2), tau=0.01, readout="sigmoid"
    )


def relaxer():
    """A leaky integrator with a time constant of 30 tau: back to rest, slowly."""
    W = np.diag([1 - 1 / 30, 1 - 1 / 30])
    return rate.from_arrays(
        W, 0.1 * np.eye(2), W_out=np.eye(2), tau=0.01, readout="sigmoid"
    )


def integrator():
    """A line attractor along (1, -1), on which the cues differ."""
    W = np.array([[0.5, -0.5], [-0.5, 0.5]])
    return rate.from_arrays(
        W, np.eye(2), W_out=[[9.0, -9.0], [-9.0, 9.0]], tau=0.01,
        activation="identity", readout="sigmoid",
    )  # fmt: skip


def exploding():
    """Diverges whatever the cue."""
    return rate.from_arrays(
        3 * np.eye(2), np.ones((2, 2)), W_out=np.eye(2), b=[1.0, 1.0], tau=0.01,
        activation="identity", readout="sigmoid",
    )  # fmt: skip


def label(model, classifier=None, **options):
    nets = jax.tree.map(lambda a: a[None] if eqx.is_array(a) else a, model)
    return classify(
        nets, task, classifier=classifier, key=jax.random.key(0), trials=4, **options
    )


@pytest.mark.parametrize(
    "build, code",
    [
        (toggle, Mechanism.fixed_points),
        (oscillator, Mechanism.limit_cycle),
        (relaxer, Mechanism.slow_manifold),
        (integrator, Mechanism.slow_manifold),
        (exploding, Mechanism.diverged),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_known_mechanisms_per_cue(build, code):
    report = label(build())
    assert [int(c) for c in report.cue_code[0]] == [code, code]
    if code != Mechanism.diverged:
        assert float(report.margin.min()) > 0
    f, gone = report.features, code == Mechanism.diverged
    assert not np.any(f.at_root & gone) and np.all(np.isinf(f.root_distance)) >= gone
    if build in (toggle, integrator):
        assert report.flow_code.tolist() == [[code, code]]
    lines = report.evidence(0)
    assert len(lines) == 3 and "accuracy" in lines[0] and code.name in lines[1]


def test_learned_and_not_learned():
    assert label(toggle()).names == ["fixed_points"]
    assert label(oscillator()).names == ["not_learned"]


def test_the_numbers_of_the_slow_network():
    f = label(relaxer()).features
    # Map multiplier 1 - 0.5/30; time constant -dt/ln(multiplier).
    np.testing.assert_allclose(f.root_radius, 1 - 0.5 / 30, rtol=1e-9)
    time_constant = -0.005 / np.log(1 - 0.5 / 30)
    np.testing.assert_allclose(f.slow_time, time_constant, rtol=0.2)
    np.testing.assert_allclose(f.flow_root_rightmost, -1 / 0.3, rtol=1e-9)
    assert bool(np.all(f.root_residual < 1e-12))


def test_period_of_the_map_and_of_the_flow():
    # Linear part of the map: rotation; the cycle's period is measured independently by
    # counting turns of the angle.
    model = oscillator()
    f = label(model).features
    for system, period in [
        (model.map(0.005), f.period),
        (flow_map(model, 0.005), f.flow_period),
    ]:
        x = jnp.array([0.3, 0.1])
        states = rd.flows.iterate(system, x, 4000, jnp.zeros((4000, 2)))[2000:]
        turns = np.unwrap(np.angle(states[:, 0] + 1j * states[:, 1]))
        expected = 0.005 * 2 * np.pi * 1999 / abs(turns[-1] - turns[0])
        np.testing.assert_allclose(period, expected, rtol=0.02)


def test_map_and_flow_may_differ_and_both_are_said():
    # x' = -x + tanh-rotor with a = .8, b = 2: stable as a flow, unstable as a map.
    W = np.array([[0.8, -2.0], [2.0, 0.8]])
    model = rd.models.CurrentRNN.from_arrays(
        W, np.eye(2), W_out=np.eye(2), tau=0.01, readout="sigmoid"
    )
    report = label(model)
    assert [int(c) for c in report.cue_code[0]] == [Mechanism.limit_cycle] * 2
    assert [int(c) for c in report.flow_code[0]] == [Mechanism.fixed_points] * 2
    # An invariant circle: zero leading exponent, not a stable k-cycle, not chaos.
    assert float(np.max(np.abs(report.features.growth))) < 5


def test_chaos_is_neither_cycle_nor_rest():
    rng = np.random.default_rng(1)
    n = 60
    model = rd.models.CurrentRNN.from_arrays(
        5.0 * rng.standard_normal((n, n)) / n**0.5,
        rng.standard_normal((n, 2)),
        W_out=rng.standard_normal((2, n)),
        tau=0.01,
        readout="sigmoid",
    )
    report = label(model)
    assert [int(c) for c in report.cue_code[0]] == [Mechanism.chaotic] * 2


def test_mixed_and_neighbours_unharmed():
    nets = [toggle(), exploding(), toggle()]
    nets[1] = eqx.tree_at(lambda m: m.W, toggle(), jnp.full((2, 2), jnp.nan))
    stack = lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0]
    many = jax.tree.map(stack, *nets)
    report = classify(many, task, key=jax.random.key(0), trials=4)
    assert report.names == ["fixed_points", "diverged", "fixed_points"]
    assert report.counts() == {"fixed_points": 2, "diverged": 1}


def test_thresholds_are_arrays_and_decide_on_both_sides():
    nets = jax.tree.map(lambda a: a[None] if eqx.is_array(a) else a, relaxer())
    features = measure(nets, task, key=jax.random.key(0), trials=2)
    ratio = float(np.min(features.slow_time[0] / features.unit_time[0]))
    for slow, code in [
        (ratio * 0.99, Mechanism.slow_manifold),
        (ratio * 1.5, Mechanism.undetermined),
    ]:
        report = DecisionList(slow=slow)(features)
        assert int(report.cue_code[0, 0]) == code
    many = eqx.filter_vmap(lambda s: DecisionList(slow=s)(features).cue_code)(
        jnp.array([1.0, 1e3])
    )
    assert many.shape == (2, 1, 2)


def test_dictionary_and_bad_input():
    report = label(toggle())
    flat = report.to_dict()
    assert flat["mechanism"] == ["fixed_points"]
    assert flat["features.late_rms"].shape == (1, 2)
    with pytest.raises(ValueError, match="steps of the task take 0.005 s"):
        label(toggle(), dt=0.02)
    fast = eqx.tree_at(lambda m: m.tau, toggle(), jnp.asarray(0.004))
    with pytest.raises(ValueError, match="dt/tau"):
        label(fast)
    with pytest.raises(ValueError, match="leading axes"):
        classify(toggle(), task, key=jax.random.key(0))


def beside_a_toggle(*blocks, size):
    """A bistable unit, set by the cue and read out, beside blocks of other units."""
    W, W_in, W_out = np.zeros((size, size)), np.zeros((size, 2)), np.zeros((2, size))
    W[0, 0], W_in[0], W_out[:, 0] = 2.0, [2, -2], [5, -5]
    at = 1
    for block in blocks:
        W[at : at + 2, at : at + 2] = block
        W_in[at] = [1.0, 0.7]
        at += 2
    return rate.from_arrays(W, W_in, W_out=W_out, tau=0.01, readout="sigmoid")


def test_two_frequencies_near_resonance_are_no_limit_cycle():
    # Recurrence reaches .98 to 1 within the window at all three ratios.
    turn = rotation(1.5, 0.6)
    for ratio in (1.618033, 1.3247, 2**0.5):
        report = label(beside_a_toggle(turn, rotation(1.5, 0.6 * ratio), size=6))
        assert report.cue_code.tolist() == [[Mechanism.undetermined] * 2]
    one = label(beside_a_toggle(turn, size=4))
    assert one.cue_code.tolist() == [[Mechanism.limit_cycle] * 2]


def test_an_oscillation_of_two_units_among_many_is_seen():
    turn = rotation(1.5, 0.6)
    large = label(beside_a_toggle(turn, size=200))
    assert float(large.features.late_rms.max()) < 0.1
    assert large.cue_code.tolist() == [[Mechanism.limit_cycle] * 2]
    assert large.flow_code.tolist() == [[Mechanism.limit_cycle] * 2]


def test_a_flow_that_still_moves_is_not_at_rest():
    # Just past the Hopf point of the flow the cycle is small, in 100 units tiny.
    turn = rotation(1.001, 0.6) / np.cos(0.6)
    report = label(beside_a_toggle(turn, size=100))
    assert float(report.features.flow_late_rms.max()) < 0.02
    assert report.flow_code.tolist() == [[Mechanism.undetermined] * 2]
    # Just past a saddle-node of x' = -x + tanh(1.5 x + b) it creeps, near no root.
    x = (1 - 1 / 1.5) ** 0.5
    b = np.zeros(2)
    b[0] = np.arctanh(x) - 1.5 * x - 1e-5
    ghost = rate.from_arrays(
        np.diag([1.5, 0.2]), [[3.0, -3.0], [0, 0]], b,
        W_out=[[5.0, 0], [-5.0, 0]], tau=0.01, readout="sigmoid",
    )  # fmt: skip
    report = label(ghost)
    assert Mechanism.undetermined in report.flow_code.ravel().tolist()
    resting = np.asarray(report.flow_code == Mechanism.fixed_points)
    assert np.all(np.asarray(report.features.flow_at_root)[resting])


class ThreeWay(rd.tasks.AbstractTask):
    """Which of three cues? With nothing but what the docstring asks for."""

    amplitude: jax.Array
    input_size: int = 3
    output_size: int = 3
    num_conditions: int = 3
    num_steps: int = 20
    dt: float = 0.005
    periods = ("cue", "delay", "answer")
    reference = "made up"

    def trial(self, condition, *, key):
        steps = jnp.arange(20)
        period = jnp.where(steps < 4, 0, jnp.where(steps < 14, 1, 2))
        code = jax.nn.one_hot(condition, 3)[None]
        return rd.tasks.Trial(
            inputs=self.amplitude * (period == 0)[:, None] * code,
            targets=(period == 2)[:, None] * code,
            mask=(period == 2) / 6.0,
            period=period,
            condition=condition,
        )

    def score(self, trial, outputs, *, lag=0):
        asked = trial.period == 2
        right = jnp.argmax(outputs, axis=1) == trial.condition
        share = jnp.sum(asked * right) / jnp.sum(asked)
        return rd.tasks.Score(share, share)


def test_a_task_of_ones_own():
    net = rate.from_arrays(
        np.diag([2.0, 2.0, 2.0, 0.3]), 8 * np.eye(4)[:, :3], W_out=np.eye(4)[:3],
        tau=0.01, x0=[-0.95, -0.95, -0.95, 0.0],
    )  # fmt: skip
    nets, own = rd.models.stack([net]), ThreeWay(jnp.asarray(2.0))
    report = classify(nets, own, key=jax.random.key(0), trials=4)
    assert report.names == ["fixed_points"]
    np.testing.assert_allclose(report.features.delay, 0.05)


def test_networks_and_tasks_that_do_not_fit():
    many = rd.models.stack([toggle(), toggle()])
    one_output = rate.from_arrays(np.eye(2), np.eye(2), W_out=[[1.0, 0]], tau=0.01)
    no_delay = rd.tasks.FixedResponse()
    for bad, match in (
        (dict(trials=0), "trials = 0"),
        (dict(chunk=0), "chunk = 0"),
        (dict(task=no_delay), "'delay' among them"),
        (dict(task=rd.tasks.DelayedActivation()), "input_size"),
        (dict(models=rd.models.stack([one_output])), "output_size = 1"),
        (dict(models=rd.models.member(many, slice(0, 0))), "members = 0"),
    ):
        with pytest.raises(ValueError, match=match):
            classify(**(dict(models=many, task=task, key=jax.random.key(0)) | bad))
    with pytest.raises(ValueError, match="'delay' among them"):
        free_run(toggle(), no_delay, jnp.asarray(0), system=toggle().map(0.005))
    with pytest.raises(ValueError, match="input_size"):  # before its long search
        rd.analyse(toggle(), rd.tasks.DelayedActivation(), key=jax.random.key(0))


def test_a_reaction_of_one_step_is_scored():
    short = rd.tasks.DelayedCueDiscrimination(delay=0.05, reaction=0.005)
    many = rd.models.stack([toggle()])
    report = classify(many, short, key=jax.random.key(0), trials=2)
    assert report.names == ["fixed_points"] and float(report.features.accuracy[0]) == 1


def test_settle_finds_a_period_between_steps():
    # A pure rotation by an angle incommensurate with the step.
    angle = 2 * np.pi / 7.3
    R = jnp.asarray(rotation(1.0, angle))
    late = settle(
        rd.Map(lambda x, u: R @ x), jnp.array([1.0, 0.0]), None, transient=0, window=730
    )
    assert abs(float(late.period) - 7.3) < 0.2
    assert float(late.recurrence) > 0.97
    assert abs(float(late.growth)) < 1e-9
    still = settle(
        rd.Map(lambda x, u: 0.5 * x), jnp.ones(2), None, transient=200, window=50
    )
    assert float(still.period) == 0 and float(still.rms) < 1e-12


def test_a_run_at_rest_is_measured_as_if_it_ran_on():
    rng = np.random.default_rng(1)
    n, window = 12, 400
    W = 0.9 * rng.standard_normal((n, n)) / n**0.5
    model = rate.from_arrays(W, np.ones((n, 1)), W_out=np.ones((1, n)), tau=0.01)
    system, u = flow_map(model, 0.005), jnp.ones(1)
    late = settle(system, model.x0, u, transient=2000, window=window)
    # The same by hand, with a Jacobian at every state.
    x = jax.lax.fori_loop(0, 2000, lambda _, x: system(x, u), model.x0)
    v = np.cos(1.0 + np.arange(2 * n)).reshape(2, n).T
    growth = np.zeros((window, 2))
    v = np.linalg.qr(v)[0]
    step = jax.jit(lambda x: (system(x, u), jax.jacfwd(system.F)(x, u)))
    for k in range(window):
        x, matrix = step(x)
        v, r = np.linalg.qr(np.asarray(matrix) @ v)
        growth[k] = np.log(np.abs(np.diag(r)))
    np.testing.assert_allclose(late.final, x, atol=1e-13)
    np.testing.assert_allclose(late.growth, growth[:, 0].sum(), rtol=1e-10)
    halves = growth[: window // 2, 0].sum(), growth[window // 2 :, 0].sum()
    np.testing.assert_allclose(late.growth_low, 2 * min(halves), rtol=1e-10)
    assert float(late.rms) < 1e-14 and float(late.period) == 0
    assert float(late.trend) == 1


@pytest.mark.parametrize("far", [1e-17, 1e-14, 1e-12])
def test_a_run_that_starts_on_a_saddle_may_leave_it(far):
    # Unstable by 2% a step: from rounding to size 1 within 2000 steps.
    grow = rd.Map(lambda x, u: jnp.tanh(jnp.array([1.02, 0.5]) * (x - 1)) + 1)
    x0 = jnp.array([1.0 + far, 1.3])
    late = settle(grow, x0, None, transient=3000, window=20)
    left = float(x0[0]) != 1  # 1e-17 is rounded away
    assert (abs(float(late.final[0]) - 1) > 0.1) == left
    assert (float(late.growth) > 0) != left


def test_chunks_change_nothing():
    nets = [toggle(), oscillator(), relaxer(), toggle(), oscillator()]
    stack = lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0]
    many = jax.tree.map(stack, *nets)
    whole = classify(many, task, key=jax.random.key(0), trials=2)
    parts = classify(many, task, key=jax.random.key(0), trials=2, chunk=2)
    np.testing.assert_array_equal(whole.cue_code, parts.cue_code)
    np.testing.assert_allclose(whole.features.accuracy, parts.features.accuracy)


def linear(w, w_in, w_out, **options):
    return rate.from_arrays(
        w, w_in, W_out=w_out, tau=0.01, activation="identity", readout="sigmoid",
        **options,
    )  # fmt: skip


def cue_names(model):
    return [Mechanism(int(c)).name for c in label(model).cue_code[0]]


def test_period_two_of_a_map():
    W = np.diag([-3.5, 2.0, 0.0])
    model = rate.from_arrays(
        W, [[1.0, 1.0], [-1, 1], [0, 0]], W_out=[[0, -3.0, 0], [0, 3.0, 0]], tau=0.01,
        readout="sigmoid",
    )  # fmt: skip
    f = label(model).features
    np.testing.assert_allclose(f.period, 0.01)
    assert float(f.recurrence.max()) <= 1


def test_spirals_that_decay_or_grow_are_no_cycles():
    for rate_per_trial in (-1 / 30, 1 / 200):
        z = np.exp(rate_per_trial / 18 + 1j * 2 * np.pi / 40)
        w = (z - 0.5) / 0.5
        W = np.array([[w.real, -w.imag], [w.imag, w.real]])
        names = cue_names(linear(W, [[-0.3, 0.3], [0, 0]], np.eye(2)))
        assert "limit_cycle" not in names and "chaotic" not in names


def test_run_away_is_not_chaos():
    model = rate.from_arrays(
        np.diag([1.2, 1.2]), [[0.0, 5.0], [5.0, 0.0]], W_out=4 * np.eye(2), tau=0.01,
        activation="relu", readout="sigmoid",
    )  # fmt: skip
    assert not {"chaotic", "limit_cycle"} & set(cue_names(model))


def test_a_leaky_integrator_is_not_a_fixed_point_memory():
    for trials in (3, 1000):
        w = (np.exp(-1 / (18 * trials)) - 0.5) / 0.5
        W = np.diag([0.0, w])
        for offset in (0.0, 8.0):
            W_in = [[offset, offset], [-0.2, 0.2]]
            model = linear(W, W_in, [[0, -100.0], [0, 100.0]], b=[10 * offset, 0.0])
            assert "fixed_points" not in cue_names(model)


def test_an_idle_slow_unit_does_not_make_a_slow_manifold():
    n = 14
    W = np.zeros((n + 1, n + 1))
    W[range(1, n), range(n - 1)] = 1
    W[n, n] = 1 - 1e-3
    W_in = np.zeros((n + 1, 2))
    W_in[0] = [-1, 1]
    W_out = np.concatenate([np.full((2, n), 5.0), np.zeros((2, 1))], axis=1)
    W_out[0] *= -1
    model = rate.from_arrays(
        W, W_in, W_out=W_out, tau=5e-3, activation="identity", readout="sigmoid"
    )
    assert "slow_manifold" not in cue_names(model)


def test_two_frequencies_are_no_limit_cycle():
    blocks = [rotation(2.0, 0.8), rotation(2.0, 0.8 / 1.618)]
    W = np.block([[blocks[0], np.zeros((2, 2))], [np.zeros((2, 2)), blocks[1]]])
    model = rate.from_arrays(W, np.ones((4, 2)), W_out=np.ones((2, 4)), tau=0.01)
    assert "limit_cycle" not in cue_names(model)


def test_the_flow_is_resolved_however_stiff():
    rng = np.random.default_rng(0)
    n = 40
    W = 1.3 * rng.standard_normal((n, n)) / n**0.5 - 30 / n
    model = rd.models.CurrentRNN.from_arrays(
        W, rng.standard_normal((n, 2)), W_out=np.ones((2, n)), tau=0.01
    )
    x = jnp.asarray(rng.standard_normal(n) * 0.5)
    run = lambda substeps: settle(
        flow_map(model, 0.005, substeps=substeps),
        x,
        jnp.zeros(2),
        transient=1040,
        window=520,
    )
    assert float(run(None).rms) > 0.1  # two substeps would say 3e-7: at rest
    np.testing.assert_allclose(run(None).rms, run(64).rms, rtol=0.1)


def test_one_unit_and_no_numbers():
    one = rate.from_arrays([[2.0]], [[1.0, -1.0]], W_out=[[1.0], [-1.0]], tau=0.01)
    assert len(label(one).names) == 1
    nan = eqx.tree_at(lambda m: m.W, toggle(), jnp.full((2, 2), jnp.nan))
    assert "left the finite numbers" in label(nan).evidence(0)[1]
