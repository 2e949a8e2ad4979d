"""Attractors of a fitted network against those of its generator."""

import itertools

import equinox as eqx
import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import rnndyn as rd
from rnndyn import Verdict
from rnndyn.fitting import (
    Reject,
    _generators as generators,
    cornn,
    no_self_connections,
)
from rnndyn.fitting._attractors import Match, attractor_check, hausdorff
from rnndyn.fitting._evaluation import free_run
from rnndyn.fitting._trained import FlipFlop, train_flip_flop


GAIN = 1.5
LEVEL = 0.8585596  # m = tanh(1.5 m), 0.85855960...
ALPHA = 0.5
FAST = dict(steps=256, rounds=2, chunk=8)


def flip_flop(size=4, gains=(GAIN, GAIN, GAIN)):
    """Three groups that each hold a sign: 8 stable fixed points, 27 in all."""
    group = np.repeat(np.arange(3), size)
    W = np.asarray(gains)[group][:, None] / size * (group[:, None] == group[None])
    W_in = 2.0 * (group[:, None] == np.arange(3))
    W_out = (group == np.arange(3)[:, None]) / size
    return rd.models.RateRNN.from_arrays(W, W_in, W_out=W_out, tau=1.0)


def starts(size, count=32, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size))


def test_a_network_against_itself():
    net = flip_flop()
    check = attractor_check(
        net.map(ALPHA), net.map(ALPHA), starts(12), readout=net.readout, **FAST
    )
    assert check.complete and len(check.true_state) == 8
    assert np.allclose(np.abs(check.true_state), LEVEL, atol=1e-6)
    assert check.distance.max() < 1e-9
    # Neighbours differ in the sign of one group of four.
    assert np.allclose(check.spacing, 2 * LEVEL * 4**0.5, atol=1e-6)
    patterns = {tuple(s) for s in check.true_sign.tolist()}
    assert patterns == set(itertools.product((-1, 1), repeat=3))
    assert np.array_equal(check.leads_to, check.partner)
    assert len(check.fitted_points.roots()) == 27
    assert int((check.fitted_points.stability[check.fitted_points.mask] < 0).sum()) == 8
    assert check.true_share.sum() == pytest.approx(1)
    assert "8 of 8 attractors matched" in str(check) and check.caveats == ()
    table = check.to_dict()
    assert set(table["true_code_name"]) == {"matched"}
    pytest.importorskip("xarray")
    assert check.to_xarray().true_code.attrs["flag_meanings"].split()[1] == "matched"


def test_lost_and_invented_attractors():
    true, fitted = flip_flop(), flip_flop(gains=(GAIN, GAIN, 0.9))
    options = dict(readout=true.readout, points=False, **FAST)
    lost = attractor_check(fitted.map(ALPHA), true.map(ALPHA), starts(12), **options)
    # Each of the four fitted ones lies midway between two true ones: no match.
    assert np.all(lost.true_code == Match.missing) and len(lost.fitted_code) == 4
    assert np.all(lost.fitted_code == Match.spurious) and not lost.complete
    assert np.allclose(lost.relative, 0.5, atol=1e-6) and np.all(lost.partner == -1)
    assert np.all(lost.fitted_sign[:, 2] == 0)
    assert np.all(lost.leads_to >= 0) and np.all(lost.fitted_leads_to >= 0)
    ends = lost.fitted_sign[lost.leads_to]
    assert np.array_equal(ends[:, :2], lost.true_sign[:, :2])
    # One group weaker, but still with two signs: all are matched, at a distance.
    weak = flip_flop(gains=(GAIN, GAIN, 1.3))
    near = attractor_check(weak.map(ALPHA), true.map(ALPHA), starts(12), **options)
    assert near.complete and 0.01 < near.relative.min() and near.relative.max() < 0.1


def test_starts_that_hit_nothing_do_not_hide_it():
    """All given starts lie in one basin; the other attractors come from the fit."""
    net = flip_flop()
    x0s = 0.5 + 0.1 * starts(12, 8)
    check = attractor_check(net.map(ALPHA), net.map(ALPHA), x0s, points=False, **FAST)
    assert len(check.true_state) == len(check.fitted_state) == 1
    assert check.true_sign.shape == (1, 0) and check.complete
    # Three spurious ones are seen for what they are, although x0s miss them.
    other = flip_flop(gains=(0.9, 0.9, 0.9))
    spurious = attractor_check(
        net.map(ALPHA), other.map(ALPHA), starts(12), points=False, **FAST
    )
    assert np.all(spurious.fitted_code == Match.spurious)
    assert list(spurious.true_code) == [Match.missing]
    assert spurious.true_verdict[0] == Verdict.root


def circle(strength, turn):
    """Two rates that turn about the origin."""
    c, s = np.cos(turn), np.sin(turn)
    W = strength * np.array([[c, -s], [s, c]])
    return rd.models.RateRNN.from_arrays(W, tau=1.0).map(1.0)


def test_cycles_and_other_kinds():
    x0s = starts(2, 8)
    true, fitted = circle(1.3, 0.7), circle(1.31, 0.7)
    same = attractor_check(fitted, true, x0s, points=False, chunk=8)
    assert same.true_verdict.tolist() == [Verdict.invariant_circle]
    assert same.true_code.tolist() == [Match.matched] and same.complete
    assert same.distance[0] < 0.1
    rest = attractor_check(circle(0.5, 0.7), true, x0s, points=False, chunk=8)
    assert rest.fitted_verdict.tolist() == [Verdict.root]
    assert rest.true_code.tolist() == [Match.missing]
    # The origin is a root of the turning map too, but not stable.
    assert rest.fitted_code.tolist() == [Match.spurious]


def test_what_is_not_decided_is_said():
    true, slow = flip_flop(), flip_flop(gains=(1.001, 1.001, 1.001))
    check = attractor_check(
        slow.map(0.01), true.map(0.01), starts(12, 4), points=False, steps=16, rounds=1
    )
    assert np.all(check.true_code != Match.missing)
    assert np.all(check.fitted_code != Match.spurious) and check.caveats


def test_read_outs_at_the_origin_have_no_sign():
    """Two silent networks; what their read-outs are is rounding noise."""
    true, fitted = flip_flop(gains=(0.5,) * 3), flip_flop(gains=(0.45,) * 3)
    for readout in (true.readout, -np.asarray(true.W_out)):
        check = attractor_check(
            fitted.map(ALPHA), true.map(ALPHA), starts(12), readout=readout,
            points=False, **FAST,
        )  # fmt: skip
        assert check.true_sign.tolist() == check.fitted_sign.tolist() == [[0, 0, 0]]
        assert check.complete
    nothing = attractor_check(
        fitted.map(ALPHA), true.map(ALPHA), starts(12), readout=np.zeros((0, 12)),
        points=False, **FAST,
    )  # fmt: skip
    assert nothing.true_sign.shape == (1, 0) and nothing.complete
    where = lambda c: (c.fitted_sign, c.fitted_code, c.partner)
    none = (np.zeros((0, 3), int), np.zeros(0, int), np.array([-1]))
    assert not eqx.tree_at(where, check, none).complete
    where = lambda c: (c.true_code, c.fitted_code, c.partner, c.true_sign)
    none = (*np.zeros((3, 0), int), np.zeros((0, 3), int))
    assert not eqx.tree_at(where, check, none).complete


def test_hausdorff():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert hausdorff(ring, 1.2 * ring) == pytest.approx(0.2, abs=1e-3)
    assert hausdorff(ring, np.zeros((1, 2))) == pytest.approx(1)
    assert hausdorff(ring, ring[:1]) == pytest.approx(2)


def test_bad_input():
    net = flip_flop()
    with pytest.raises(ValueError, match="a Map and the other a flow"):
        attractor_check(net.map(ALPHA), net, starts(12))
    both = net.map(ALPHA), net.map(ALPHA)
    # A single start says nothing of how close is close: the network would miss itself.
    for alike in (starts(12)[:1], np.full((4, 12), np.nan)):
        with pytest.raises(ValueError, match="expected finite starts that differ"):
            attractor_check(*both, alike)
    with pytest.raises(ValueError, match="readout has shape"):
        attractor_check(*both, starts(12), readout=np.eye(3))
    with pytest.raises(ValueError, match="tol_match = -1"):
        attractor_check(*both, starts(12), tol_match=-1.0)
    with pytest.raises(ValueError, match="tol_sign = nan"):
        attractor_check(*both, starts(12), tol_sign=np.nan)
    with pytest.raises((ValueError, TypeCheckError), match="key"):
        attractor_check(*both, starts(12), key=3)
    with pytest.raises(ValueError, match="x0s"):
        attractor_check(net.map(ALPHA), net.map(ALPHA), starts(12)[0])


def record(net, frames, key, noise=(1e-3, 1e-2)):
    """Pulses on three channels, noise in the current and in the rates."""
    n, (k_pulse, k_sign, k_in, k_out) = net.state_size, jax.random.split(key, 4)
    on = jax.random.bernoulli(k_pulse, 0.05, (frames, 3))
    u = np.asarray(on * jax.random.rademacher(k_sign, (frames, 3)), float)
    inside = noise[0] * np.asarray(jax.random.normal(k_in, (frames, n)))
    outside = noise[1] * np.asarray(jax.random.normal(k_out, (frames, n)))
    # Noise inside the activation comes in as an input with unit weights.
    theta = np.concatenate([np.asarray(net.W).T, np.asarray(net.W_in).T, np.eye(n)])
    drive = np.concatenate([u, inside], axis=1)
    return (
        free_run(
            theta, np.zeros(n), frames, drive, alpha=ALPHA,
            residuals=outside, key=k_out,
        ),
        u,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_fit_keeps_the_eight_states(seed):
    """Three bits, 8 stable fixed points at u = 0, read out with the true weights."""
    rng = np.random.default_rng(seed)
    net = flip_flop()
    W = net.W + 0.15 * rng.normal(size=(12, 12)) / 12**0.5
    net = rd.models.RateRNN.from_arrays(W, net.W_in, W_out=net.W_out, tau=1.0)
    rates, u = record(net, 8000, jax.random.key(seed))
    fit = cornn(rates, u, alpha=ALPHA, dt=ALPHA, ridge=1e-5, outliers=Reject(1.0))
    check = attractor_check(
        fit.network.map(ALPHA),
        net.map(ALPHA),
        rates[::100],
        readout=net.readout,
        points=False,
        **FAST,
    )
    assert len(check.true_state) == 8
    assert np.all(check.fitted_verdict == Verdict.root)
    patterns = {tuple(s) for s in check.fitted_sign.tolist()}
    assert patterns == set(itertools.product((-1, 1), repeat=3))
    assert check.complete and len(check.fitted_state) == 8
    assert check.relative.max() < 0.1


@pytest.mark.slow
def test_fit_of_a_trained_network_keeps_the_eight_states():
    """A network trained on the task (N = 100), recorded for 50 trials of 100 steps."""
    task = FlipFlop()
    nets = train_flip_flop(1, 100, alpha=ALPHA, key=jax.random.key(0))
    net = rd.models.member(nets.models, 0)

    @jax.jit
    @jax.vmap
    def trial(key):
        k_task, k_start, k_noise = jax.random.split(key, 3)
        u = task.trial(0, key=k_task).inputs
        rates = generators.record(
            net,
            100,
            dt=1.0,
            inputs=u,
            r0=jax.random.normal(k_start, (100,)),
            input_noise=generators.GaussianNoise(1e-3),
            conversion_noise=generators.GaussianNoise(1e-2),
            key=k_noise,
        )
        return rates, u

    rates, u = (np.asarray(a) for a in trial(jax.random.split(jax.random.key(1), 50)))
    mask = no_self_connections(100, 3)
    fit = cornn(rates, u, alpha=ALPHA, dt=1.0, ridge=1e-5, mask=mask, max_steps=50)
    check = attractor_check(
        fit.network.map(1.0), net.map(1.0), rates[:, 50], readout=net.readout
    )
    assert np.sum(check.fitted_verdict == Verdict.root) == 8
    patterns = {tuple(s) for s in check.fitted_sign.tolist()}
    assert patterns == set(itertools.product((-1, 1), repeat=3))
    # Measured 0.012; a tenth of the spacing is what one may hope for.
    assert check.complete and check.relative.max() < 0.1
    stable = check.fitted_points.stability[check.fitted_points.mask] < 0
    assert stable.sum() == 8
