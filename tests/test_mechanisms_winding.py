"""Rest and rotation in the plane, on networks whose answer is known.

`N` units on a ring, `m_i = c e_i`, `n_i = (2 G / N) R(phi) e_i` with unit vectors `e_i`
evenly spaced: then `n^T tanh(m k) = g(|k|) R(phi) k` up to terms of order N in |k|, `g`
falls from `G c` to 0, and with `a = dt/tau` the map turns by `arg(1 - a + a g e^(i
phi))` and keeps its radius where `|1 - a + a g e^(i phi)| = 1`. The flow does so where
`g cos(phi) = 1`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rnndyn import Verdict, models
from rnndyn.mechanisms._winding import Rotation, latent_map, winding


A, UNITS = 0.5, 60


def ring(gain, phi, start=(0.3, 0.1), c=2.0):
    angle = 2 * np.pi * np.arange(UNITS) / UNITS
    e = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turn = np.array([[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]])
    n = 2 * gain / c / UNITS * e @ turn.T
    x0 = n @ np.linalg.solve(n.T @ n, np.asarray(start))
    return models.LowRankRNN.from_arrays(
        c * e,
        n,
        W_out=np.ones((1, 2)),
        tau=0.01,
        form="rate",
        scale="1",
        latent_readout=True,
        x0=x0,
    )


def stack(*nets):
    return jax.tree.map(lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0], *nets)


def critical(phi):
    """Gain at which the map keeps its radius, and turns per step there."""
    g = scipy.optimize.brentq(
        lambda g: abs(1 - A + A * g * np.exp(1j * phi)) - 1, 0.1, 5
    )
    return g, np.angle(1 - A + A * g * np.exp(1j * phi)) / (2 * np.pi)


# At 60 degrees the map oscillates above a gain of 1.30, the flow above 2.
PHI = np.pi / 3
CASES = {
    "both rest": (ring(1.1, PHI), Rotation.rest, Verdict.root, Verdict.root),
    "map only": (
        ring(1.6, PHI), Rotation.cycle, Verdict.invariant_circle, Verdict.root
    ),
    "both turn": (
        ring(3.0, PHI), Rotation.cycle, Verdict.invariant_circle, Verdict.limit_cycle
    ),
    "clockwise": (
        ring(3.0, -PHI), Rotation.cycle, Verdict.invariant_circle, Verdict.limit_cycle
    ),
    "to a point": (ring(0.5, 0.0), Rotation.rest, Verdict.root, Verdict.root),
}  # fmt: skip
STEPS = 8


@pytest.fixture(scope="module")
def labels():
    return winding(stack(*(c[0] for c in CASES.values())), STEPS)


def test_critical_gain():
    g, turns = critical(PHI)
    np.testing.assert_allclose(g, (13**0.5 - 1) / 2, rtol=1e-12)
    np.testing.assert_allclose(turns, 0.0953, atol=1e-3)


def test_labels_of_known_networks(labels):
    _, code, verdict, flow = zip(*CASES.values(), strict=True)
    np.testing.assert_array_equal(labels.code, code)
    np.testing.assert_array_equal(labels.late_code, code)
    np.testing.assert_array_equal(labels.verdict, verdict)
    np.testing.assert_array_equal(labels.flow_verdict, flow)
    np.testing.assert_array_equal(labels.cycles, np.asarray(code) == Rotation.cycle)
    assert labels.names[1] == "cycle"
    at_rest = labels.code == Rotation.rest
    assert np.all(labels.relative_rms[at_rest] < 1e-6)
    assert np.all(labels.residual[at_rest] < 1e-12)
    assert np.all(labels.relative_rms[~at_rest] > 0.4)


def test_turns_and_periods_are_the_closed_form(labels):
    _, turns = critical(PHI)
    np.testing.assert_allclose(labels.turns_late[1:3], STEPS * turns, rtol=1e-3)
    np.testing.assert_allclose(labels.turns_late[3], -STEPS * turns, rtol=1e-3)
    np.testing.assert_allclose(labels.period[1:4], 1 / turns, rtol=1e-3)
    # The gain falls while the radius grows, and with it the turn of a step.
    np.testing.assert_allclose(labels.turns[2], 3 * STEPS * turns, rtol=0.05)
    first = np.angle(1 - A + A * 3.0 * np.exp(1j * PHI)) / (2 * np.pi)
    assert turns < labels.sharpest[2] < first
    assert np.all(np.isnan(labels.period[[0, 4]]))
    # Two turns within three trials; the spiral into a point turns, too.
    np.testing.assert_array_equal(labels.full_rotation, [1, 1, 1, 1, 0])
    np.testing.assert_allclose(labels.kappa_0, [[0.3, 0.1]] * 5, atol=1e-12)
    np.testing.assert_allclose(labels.centre, 0, atol=0.05)  # not whole turns
    assert labels.turns_late[0] == 0 == labels.turns_late[4]


def test_both_sides_of_the_critical_gain():
    # A slow fall: the first run is not long enough to tell, the next ones are.
    g, _ = critical(PHI)
    nets = stack(ring(0.97 * g, PHI), ring(1.03 * g, PHI))
    found = winding(nets, STEPS, run=9)
    np.testing.assert_array_equal(found.code, [Rotation.rest, Rotation.cycle])
    assert found.steps[0] > 9 * STEPS
    hasty = winding(nets, STEPS, run=9, rounds=0)
    assert hasty.late_code[0] == Rotation.undetermined
    assert hasty.code[0] == Rotation.undetermined == hasty.verdict[0]


def test_latent_map_is_a_map_of_the_plane():
    net = CASES["map only"][0]
    system = latent_map(net, 5e-3)
    k = jnp.array([0.3, 0.1])
    wanted = (1 - A) * k + A * net.n.T @ jnp.tanh(net.m @ k + net.b)
    np.testing.assert_allclose(system(k), wanted, atol=1e-15)
    np.testing.assert_allclose(eqx.filter_jit(system)(k), wanted, atol=1e-15)
    nets = stack(net, CASES["clockwise"][0])
    both = eqx.filter_vmap(lambda n: latent_map(n, 5e-3)(k))(nets)
    np.testing.assert_allclose(both[0], wanted, atol=1e-15)
    turn = jax.jacfwd(system)(jnp.zeros(2))
    np.testing.assert_allclose(
        np.linalg.eigvals(turn)[0].real, 1 - A + A * 1.6 / 2, atol=1e-9
    )


def test_one_bad_network_harms_nobody(labels):
    nets = stack(*(c[0] for c in CASES.values()))
    nets = eqx.tree_at(lambda n: n.b, nets, nets.b.at[1, 0].set(jnp.nan))
    found = winding(nets, STEPS)
    assert found.late_code[1] == Rotation.diverged
    assert found.code[1] in (Rotation.diverged, Rotation.undetermined)
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(found.code[others], labels.code[others])
    alone = winding(stack(CASES["both turn"][0]), STEPS)
    np.testing.assert_allclose(alone.turns, labels.turns[2:3], rtol=1e-9)
    assert alone.code[0] == labels.code[2]


def test_export_and_no_certificate(labels):
    table = labels.to_dict()
    assert list(table["code_name"][:2]) == ["rest", "cycle"]
    assert table["flow_verdict_name"][2] == "limit_cycle"
    data = labels.to_xarray()
    assert data.centre.dims == ("member", "two")
    nets = stack(*(c[0] for c in CASES.values()))
    quick = winding(nets, STEPS, certify=False)
    np.testing.assert_array_equal(quick.late_code, labels.late_code)
    assert np.all(quick.code == Rotation.undetermined)


def test_bad_input():
    net = CASES["both rest"][0]
    with pytest.raises(ValueError, match="members, state, 2"):
        winding(net, STEPS)
    nets = stack(net)
    with pytest.raises(ValueError, match="three views"):
        winding(nets, STEPS, run=5)
    with pytest.raises(ValueError, match="dt/tau"):
        winding(nets, STEPS, dt=0.02)
    one = models.LowRankRNN(0, 5, 1, rank=1, tau=0.01, key=jax.random.key(0))
    with pytest.raises(ValueError, match="rank 1"):
        winding(stack(one), STEPS)
    with pytest.raises(ValueError, match="form"):
        two = models.LowRankRNN(0, 5, 1, rank=2, tau=0.01, key=jax.random.key(0))
        latent_map(two, 5e-3)
