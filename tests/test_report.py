"""The report on one network, and the command line, on networks with known answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.dynamics import Attractors
from rnndyn.mechanisms._free_runs import Pulses, creeping, probe, with_ends
from rnndyn.mechanisms._report import _decide


SHARED = Path(__file__).parents[2] / "shared" / "data" / "networks"


@pytest.fixture(scope="module")
def rank_one():
    """Rank one, m = n = 1-vector direction: x = kappa m, kappa = tanh(1.5 kappa)."""
    n = 24
    return rd.models.LowRankRNN.from_arrays(
        np.ones((n, 1)),
        1.5 * np.ones((n, 1)),
        W_in=np.ones((n, 1)),
        W_out=np.ones((1, n)) / n,
        tau=0.1,
    )


@pytest.fixture(scope="module")
def rank_one_report(rank_one):
    return rd.analyse(rank_one, dt=0.02, starts=12, key=jax.random.key(0))


def test_rank_one_network_against_its_exact_reduction(rank_one_report):
    r = rank_one_report
    kappa = 1.5 * 0.85855963664011036215  # kappa = 1.5 tanh(kappa)
    expected = np.sort([0.0, kappa, -kappa])
    np.testing.assert_allclose(np.sort(r.latent[:, 0]), expected, atol=1e-11)
    np.testing.assert_allclose(np.sort(r.latent_roots[:, 0]), expected, atol=1e-11)
    assert r.latent_mismatch < 1e-10
    assert sorted(r.stability) == [-1, -1, 1]
    leading = r.eigenvalues[r.stability == -1, 0].real * 0.1
    np.testing.assert_allclose(leading, -0.60568697450139750319, rtol=1e-9)
    assert r.mechanism == "fixed_points"
    assert r.attractors.names == r.map_attractors.names == ["root", "root"]
    assert sorted(r.point_of(r.attractors)) == sorted(r.point_of(r.map_attractors))
    assert r.attractors.count.sum() == r.map_attractors.count.sum()
    outputs = np.sort(r.readout[:, 0])
    np.testing.assert_allclose(outputs, [-np.tanh(kappa), 0, np.tanh(kappa)], atol=1e-9)


def test_report_in_dictionary_and_xarray(rank_one_report):
    flat = rank_one_report.to_dict()
    assert flat["points"].shape == (3, 24)
    assert list(flat["attractors.verdict_name"]) == ["root", "root"]
    xarray = pytest.importorskip("xarray")
    data = rank_one_report.to_xarray()
    assert isinstance(data, xarray.Dataset) and data.sizes["point"] == 3


def test_report_plot(rank_one_report, tmp_path):
    pytest.importorskip("matplotlib")
    figure = rank_one_report.plot()
    figure.savefig(tmp_path / "report.png")
    # The label is that of the map, and so are the ends beside it.
    assert "runs of the Euler map end" in figure.axes[3].get_title(loc="left")
    assert (tmp_path / "report.png").stat().st_size > 5000


def test_one_resting_state_is_no_memory():
    model = rd.models.RateRNN.from_arrays(0.5 * np.eye(3), np.eye(3), tau=0.1)
    report = rd.analyse(model, starts=6, key=jax.random.key(0))
    assert report.mechanism == "undetermined"
    assert report.map_attractors is None and np.isnan(report.map_radius).all()


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.filterwarnings("error")
def test_continuous_attractor(rank):
    """A line of identity units, and the ring of a rank-2 network."""
    angles = 2 * np.pi * np.arange(60) / 60  # fewer would feel the lattice
    if rank == 1:
        v = np.array([1.0, 2, -1]) / np.sqrt(6)
        make, options = rd.models.RateRNN.from_arrays, {"activation": "identity"}
        arrays = (np.outer(v, v),)
    else:
        m = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        make, options, arrays = rd.models.LowRankRNN.from_arrays, {}, (m, 1.5 * m)
    model = make(*arrays, tau=0.1, **options)
    report = rd.analyse(model, starts=12, key=jax.random.key(0))
    text = " ".join(report.evidence)
    assert report.mechanism == "slow_manifold" and "without any drift" in text
    assert "a continuum of fixed points of dimension 1" in text
    assert report.attractors.names == ["continuum"]
    assert "inf" not in text and "nan" not in text and "resting" not in text


def test_a_ring_whose_symmetry_is_broken_is_a_slow_manifold():
    """The drift takes longer than any run; no pulse on two channels tells of it."""
    angles = 2 * np.pi * np.arange(48) / 48
    W = (4 * np.cos(angles[:, None] - angles) - 0.5) / 48
    W += 1e-3 * np.random.default_rng(0).normal(size=W.shape) / 48**0.5
    W_in = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    model = rd.models.RateRNN.from_arrays(W, W_in, tau=0.1)
    report = rd.analyse(model, starts=12, key=jax.random.key(0))
    told = " ".join(report.evidence)
    assert report.mechanism == "slow_manifold"
    assert "still creep" in told and "one slow direction" in told
    assert "rnndyn.dynamics.ring_flow" in told
    # Nothing of the kind is said of runs that are lost for another reason.
    ends, starts = report.attractors, np.random.default_rng(1).normal(size=(9, 48))
    nowhere = np.full(len(ends.label), -1)
    assert "still creep" in creeping(report.model, ends, nowhere, 1.0, starts)
    assert creeping(report.model, ends, nowhere + 1, 1.0, starts) is None
    gone = np.where(ends.label < 0, rd.Verdict.diverged, ends.start_verdict)
    away = eqx.tree_at(lambda a: a.start_verdict, ends, gone)
    assert creeping(report.model, away, nowhere, 1.0, starts) is None
    # Nor of runs at two places, or all but at one.
    two = np.where(
        np.arange(len(ends.label))[:, None] % 2, ends.final[:1], -ends.final[:1]
    )
    for final in (two, 1e-3 * ends.final):
        near = eqx.tree_at(lambda a: a.final, ends, final)
        assert creeping(report.model, near, nowhere, 1.0, starts) is None


def test_a_slow_latch_holds_its_memory_in_fixed_points():
    """Gates that leave a thousandth of a unit open: its two units creep to four roots
    for longer than any run of the map, which are all but there."""
    W = np.zeros((6, 2))
    W[4:] = 3 * np.eye(2)
    b = np.repeat([8.0, 10.0, 0.0], 2)
    W_in = np.concatenate([np.zeros((4, 1)), np.ones((2, 1))])
    model = rd.models.ContinuousGRU.from_arrays(
        W, W_in, b, np.zeros(2), np.eye(2), tau=1.0
    )
    report = rd.analyse(model, dt=1.0, starts=12, key=jax.random.key(0))
    told = " ".join(report.evidence)
    assert report.mechanism == "fixed_points"
    assert "on the way to 4 root(s)" in told and "creep" not in told


def test_points_of_a_line_attractor_are_no_goals_of_runs():
    """Runs creep to the line, past points of it that are stable across it."""
    model = rd.models.RateRNN.from_arrays(
        np.diag([1, 1 - 2**-10, 0]), tau=1.0, activation="identity"
    )
    for dt in (None, 1.0):
        report = rd.analyse(model, dt=dt, starts=2, key=jax.random.key(3))
        told = " ".join(report.evidence)
        assert report.mechanism == "slow_manifold" and "on the way" not in told


def test_runs_that_diverge_are_on_the_way_nowhere():
    """x' = -x + relu(2x - 1): 0 attracts, and beyond the other root, 1, all diverge."""
    model = rd.models.RateRNN.from_arrays([[2.0]], b=[-1.0], tau=0.1, activation="relu")
    report = rd.analyse(model, starts=12, key=jax.random.key(0))
    told = " ".join(report.evidence)
    assert report.mechanism == "undetermined" and len(report.points) == 2
    assert "run(s) diverged" in told and "on the way" not in told


def test_a_state_that_rests_by_a_power_of_time_is_no_manifold():
    model = rd.models.RateRNN.from_arrays(np.ones((1, 1)), tau=0.1)  # x' = -x + tanh x
    report = rd.analyse(model, starts=12, key=jax.random.key(0))
    told = " ".join(report.evidence)
    assert report.mechanism == "undetermined" and "creep" not in told


def test_cycle_of_the_map_beside_rest_of_the_flow():
    W = np.array([[0.8, -2.0], [2.0, 0.8]])
    model = rd.models.CurrentRNN.from_arrays(W, tau=0.1)
    report = rd.analyse(model, dt=0.05, starts=6, key=jax.random.key(0))
    assert report.attractors.names == ["root"]
    assert report.map_attractors.names == ["invariant_circle"]
    assert report.stability.tolist() == [-1] and report.map_radius[0] > 1
    # The label is that of the map, which was trained; the flow is named beside it.
    assert report.mechanism == "limit_cycle"
    told = "\n".join(report.evidence)
    assert "runs of the flow end in 1 root(s)" in told
    assert "Euler map end in 1 invariant_circle(s)" in told
    assert "label is the map's" in told and "only its phase" in told


def test_a_slow_memory_does_not_depend_on_the_readout():
    """Rank one just above the pitchfork: graded for some 50 tau, then one of two."""
    v = np.ones(3) / 3**0.5
    W = 1.02 * np.outer(v, v)

    def probed(gain=1.0, b=0.0, **options):
        model = rd.models.RateRNN.from_arrays(
            gain * W, v[:, None], b * np.ones(3), tau=0.1, **options
        )
        pulses, path = probe(model, 0.1)
        assert len(path) == 28 and pulses.early.shape[0] == 4
        return pulses.graded, pulses.left

    state = probed()
    assert state[0] > 0.4 and state[1] < state[0] / 4
    for b_out in ([0.0], [50.0], [1e12]):
        np.testing.assert_allclose(probed(W_out=v[None], b_out=b_out), state, rtol=1e-3)
    np.testing.assert_array_equal(probed(W_out=0 * v[None]), state)
    # With a time constant of 40 tau all is told early; late, exp(-2.5) of it is left.
    graded, left = probed(0.975 / 1.02, activation="identity", b=3.0)
    np.testing.assert_allclose(
        [graded, left / graded], [7 / 8, np.exp(-2.5)], rtol=1e-3
    )
    assert probed(0.0, W_out=v[None]) == (0.0, 0.0)  # forgotten within a few tau


def test_runs_that_end_nowhere_speak_for_nothing():
    """Exactly at the pitchfork all comes to rest, by a power of time."""
    model = rd.models.RateRNN.from_arrays([[1.0]], [[1.0]], W_out=[[1.0]], tau=0.1)
    report = rd.analyse(model, dt=0.02, starts=24, key=jax.random.key(0))
    told = " ".join(report.evidence)
    assert report.mechanism == "undetermined"
    assert "slow manifold:" not in told and "differ in kind" not in told


@pytest.mark.parametrize(
    "ends, lost, label",
    [
        (["torus"], [], "undetermined"),
        (["torus", "root"], [], "mixed"),
        (["chaotic", "root"], [], "mixed"),
        (["chaotic", "chaotic"], [], "chaotic"),
        (["k_cycle", "invariant_circle"], [], "limit_cycle"),
        ([], ["diverged", "diverged"], "diverged"),
        (["root", "root"], ["diverged"], "undetermined"),
        (["root"], [], "undetermined"),
    ],
)
def test_label_of_every_kind_of_end(ends, lost, label):
    rows, starts = len(ends), len(ends) + len(lost)
    codes = np.array([rd.Verdict[k] for k in (*ends, *lost)], int)
    number, state = np.zeros(rows), np.zeros((rows, 2))
    label_of = np.where(np.arange(starts) < rows, np.arange(starts), -1)
    found = Attractors(
        *(codes[:rows], codes[:rows], number, number, number, state),
        *(state[:, None], number, number, np.zeros((rows, 3)), number, label_of, codes),
        *(np.zeros(starts), np.zeros((starts, 2)), np.ones(starts), "flow", ()),
    )
    points = {"dimension": np.zeros(1, int), "stability": np.zeros(1, int)}
    points |= {"speed": np.zeros(1), "eigenvalues": np.ones((1, 2))}
    points["x"] = np.zeros((1, 2))
    nothing = np.zeros(4, int)
    pulses = Pulses(nothing, nothing, nothing, nothing, 1.9, np.inf)
    name, evidence = _decide(
        *(1.0, points, 0, found, found, [np.full(starts, -1)] * 2, np.zeros(1)),
        *(pulses, None, np.nan, None),
    )
    told = " ".join(evidence)
    assert name == label
    assert ("a single resting state" in told) == (ends == ["root"])
    # A multiplier of 0 at a point that is undecided in the flow proves nothing.
    assert "0 stable in the flow, 0 in the Euler map" in told
    assert "differ" not in told and "grow without bound" in told and "inf" not in told


def ends_at(states, verdicts):
    """Attractors of which only these are known."""
    rows = len(states)
    codes, number = np.array(verdicts, int), np.zeros(rows)
    return Attractors(
        *(codes, codes, number, number, number, states),
        *(states[:, None], number, number, np.zeros((rows, 3)), number),
        *(np.arange(rows), codes, np.zeros(rows), states, number, "flow", ()),
    )


def test_roots_that_runs_have_reached_are_starts_of_the_search():
    x0s, states = np.zeros((3, 2)), np.arange(4.0).reshape(2, 2)
    ends = ends_at(states, [rd.Verdict.root, rd.Verdict.limit_cycle])
    rows = np.asarray(with_ends(x0s, ends, None))[3:]
    assert rows.shape == (16, 2) and np.all(rows == [0.0, 1.0])
    assert with_ends(x0s, ends_at(states[:0], []), None).shape == (19, 2)


@pytest.mark.slow
def test_no_root_that_a_run_has_reached_is_missing_among_the_points():
    # x = tanh(2 x) twice: 9 roots, of which the search from 4 starts found 5.
    model = rd.models.RateRNN.from_arrays(2 * np.eye(2), tau=0.1)
    report = rd.analyse(model, dt=0.02, starts=4, key=jax.random.key(0))
    for ends in (report.attractors, report.map_attractors):
        assert np.all(report.point_of(ends) >= 0)


def test_what_cannot_be_analysed_is_refused_at_once():
    nets = rd.models.stack([rd.models.RateRNN.from_arrays(np.eye(2), tau=0.1)] * 2)
    one = rd.models.member(nets, 0)
    for message, network, options in (
        ("expected a network", "network.npz", {}),
        (r"leading axis of 2.*member\(models, i\)", nets, {}),
        ("starts = 0, expected a whole number", one, {"starts": 0}),
        ("dt/tau = 2", one, {"dt": 0.2}),
    ):
        with pytest.raises(ValueError, match=message):
            rd.analyse(network, key=jax.random.key(0), **options)


def run_cli(*args, **kwargs):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_ENABLE")}
    return subprocess.run(
        [sys.executable, "-m", "rnndyn.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env=env,
        **kwargs,
    )


def test_command_line_analyse(rank_one, tmp_path):
    path = tmp_path / "net.npz"
    arrays = {k: np.asarray(getattr(rank_one, k)) for k in ("m", "n", "W_in", "W_out")}
    np.savez(path, tau=0.1, **arrays)
    failed = run_cli("analyse", path, cwd=tmp_path)
    assert failed.returncode != 0 and "--form" in failed.stderr
    done = run_cli(
        "analyse",
        path,
        "--form",
        "current",
        "--activation",
        "tanh",
        "--starts",
        8,
        "--dt",
        0.02,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "mechanism: fixed_points" in done.stdout
    assert "3 certified fixed points, 2 stable" in done.stdout


def test_command_line_demo_and_doctor(tmp_path):
    small = ["--delays", 20, "--learning-rates", 0.1, "--seeds", 2, "--units", 16]
    done = run_cli("demo", *small, "--epochs", 20, "--batch", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "rnndyn-demo"
    manifest = json.loads((out / "manifest.json").read_text())
    assert sum(manifest["counts"].values()) == 2
    assert set(manifest["files"]) == {
        "weights-00000.safetensors",
        "results.safetensors",
    }
    doctor = run_cli("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "OPENBLAS_NUM_THREADS=1" in doctor.stdout


# Networks other people published; their exact answers stand in the README beside them.
published = pytest.mark.skipif(not SHARED.exists(), reason="published networks absent")


@published
@pytest.mark.slow
def test_published_match_to_sample_network():
    path = SHARED / "dms_rank2_500.npz"
    r = rd.analyse(rd.load_network(path), dt=0.02, key=jax.random.key(0))
    half = np.array(
        [
            [0.331644236474, 0.888801205790],
            [0.564028035552, 0.846490093440],
            [1.005058693946, 0.161085726262],
            [1.088490356680, -0.308282102246],
        ]
    )
    expected = np.concatenate([half, -half, np.zeros((1, 2))])
    for kappa in (r.latent, r.latent_roots):
        assert len(kappa) == 9
        distance = np.linalg.norm(kappa[:, None] - expected[None], axis=-1)
        assert distance.min(axis=0).max() < 1e-8
    assert int(np.sum(r.stability == -1)) == 4
    assert r.mechanism == "fixed_points"


@published
@pytest.mark.slow
def test_published_parametric_memory_network():
    path = SHARED / "romo_rank2_500.npz"
    r = rd.analyse(rd.load_network(path), dt=0.02, key=jax.random.key(0))
    assert len(r.points) == len(r.latent_roots) == 3
    expected = np.array([0.024396673869, -0.187607097525])
    for kappa in (r.latent, r.latent_roots):
        assert np.min(np.linalg.norm(kappa - expected, axis=1)) < 1e-8
    assert r.mechanism == "slow_manifold"
    assert any("slow manifold" in line for line in r.evidence)
    np.testing.assert_allclose(r.pulses.late[:, 1], -0.188, atol=2e-3)
    assert np.ptp(r.pulses.early[:, 1]) > 0.05


@published
@pytest.mark.slow
def test_published_context_dependent_decision_network():
    path = SHARED / "mante_fr_fig1.npz"
    r = rd.analyse(rd.load_network(path), dt=0.02, key=jax.random.key(0))
    assert len(r.points) >= 7 and r.residual.max() < 1e-12
    assert int(np.sum(r.stability == -1)) >= 2


def test_bootstrap_sets_what_it_says():
    code = (
        "from rnndyn import _bootstrap\n"
        "done = _bootstrap.configure(devices=3, cache=False)\n"
        "import jax\n"
        "assert jax.device_count() == 3, jax.devices()\n"
        "assert done['OPENBLAS_NUM_THREADS'] == '1'\n"
    )
    drop = ("XLA_FLAGS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    env = {k: v for k, v in os.environ.items() if k not in drop}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_phase_diagram_and_curves_draw():
    pytest.importorskip("matplotlib")
    labels = np.array([[["limit_cycle", "mixed"]], [["not_learned", "slow_manifold"]]])
    losses = np.abs(np.asarray(jax.random.normal(jax.random.key(0), (4, 5)))) + 0.1
    losses = np.array(losses)
    fig, axes = rd.plots.figure(1, 3)
    rd.plots.phase_diagram(axes[0, 0], labels, [0.1, 0.3], [20])
    published = np.array(rd.mechanisms.COMPAT)[:, None, None]
    rd.plots.phase_diagram(axes[0, 0], published, list("abcd"), [20])
    with pytest.raises(ValueError, match="labels has shape"):
        rd.plots.phase_diagram(axes[0, 0], labels[0], [0.1, 0.3], [20])
    with pytest.raises(ValueError, match=r"labels \['cycle'\], expected names among"):
        rd.plots.loss_curves(axes[0, 1], np.arange(5), losses[:1], ["cycle"])
    losses[3] = np.nan  # diverged: nothing to show, and nothing to warn of
    losses[2, 4:] = np.nan
    rd.plots.loss_curves(axes[0, 1], np.arange(5), losses, labels.ravel())
    rd.plots.spectrum(axes[0, 2], jnp.array([[0.5 + 0.1j, 0.5 - 0.1j]]), kind="map")
    fig.canvas.draw()


def test_a_network_of_the_demo_can_be_analysed(tmp_path):
    config = rd.studies.EnsembleConfig(
        delays=(20, 40, 60), learning_rates=(0.1,), seeds=2, units=12, batch=4, epochs=6
    )
    run = rd.studies.run_ensemble(config)
    assert run.labels.shape == (3, 1, 2) and "share" in run.table()
    rd.studies.save_ensemble(run, tmp_path)
    path = tmp_path / "weights-00000.safetensors"
    with pytest.raises(ValueError, match="holds 6 networks"):
        rd.load_network(path)
    model = rd.load_network(path, member=4)
    assert rd.models.network_dt(path) == rd.tasks.DelayedCueDiscrimination().dt
    expected = rd.models.member(run.result.models, 4)
    np.testing.assert_array_equal(model.W, expected.W)
    assert model.readout_activation == "sigmoid"
    pytest.importorskip("matplotlib")
    figure = rd.studies.plot_ensemble(run)
    # Curves carry the label of their own network: one median line a label.
    thick = [line for line in figure.axes[1].lines if line.get_linewidth() > 1]
    for line in thick:
        name = line.get_label().replace(" ", "_")
        mine = np.asarray(run.report.names) == name
        median = np.median(np.asarray(run.result.losses)[mine], axis=0)
        np.testing.assert_allclose(line.get_ydata(), median)
