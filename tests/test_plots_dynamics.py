"""Figures of the dynamics: the artists and labels are there, nothing global moves."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import van_der_pol


pytest.importorskip("matplotlib")

import rnndyn as rd
import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict, models, plots
from rnndyn.plots._style import STABLE, UNSTABLE


@pytest.fixture
def ax():
    fig, axes = plots.figure()
    yield axes[0, 0]
    fig.draw_without_rendering()  # layout and labels hold together


def rotation(t, x, args):
    speed = 1.0 if args is None else args
    return speed * jnp.stack([-x[1], x[0], *([0.0 * x[0]] * (len(x) - 2))])


def orbit(size=2, radius=1.0, nodes=41):
    angle = np.linspace(0, 2 * np.pi, nodes)
    out = np.zeros((nodes, size))
    out[:, 0], out[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return out


def limit_cycle(logs=(0.0, -3.0), trivial=0, stability=-1, verdict=5, **fields):
    values = {
        "orbit": orbit(len(logs)),
        "period": np.asarray(2 * np.pi),
        "log_multipliers": np.array(logs, complex),
        "trivial": np.asarray(trivial),
        "accuracy": np.asarray(3e-14),
        "stability": np.asarray(stability),
        "verdict": np.asarray(verdict),
    }
    return SimpleNamespace(**(values | fields))


def fixed_points(x, verdict, stability):
    return SimpleNamespace(
        x=np.asarray(x, float),
        verdict=np.asarray(verdict),
        stability=np.asarray(stability),
        unique=np.array([True] * (len(x) - 1) + [False]),
    )


POINTS = fixed_points(
    [[0.0, 0.0], [0.5, 0.5], [-0.5, 0.2], [9.0, 9.0]],
    [Verdict.root, Verdict.root, Verdict.ghost, Verdict.root],
    [1, -1, 0, -1],
)


def labels(ax):
    legend = ax.get_legend()
    return [] if legend is None else [t.get_text() for t in legend.get_texts()]


def test_phase_portrait_of_a_plane_system(ax):
    limits = ((-2, 2), (-1, 3))
    got = plots.phase_portrait(
        ax, rotation, POINTS, limits=limits, args=2.0, cycles=[limit_cycle()]
    )
    assert got is ax
    assert ax.get_xlim() == (-2, 2) and ax.get_ylim() == (-1, 3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x1", "x2")
    shown = labels(ax)
    assert {"stable", "unstable", "slow"} < set(shown)
    assert any("stable cycle, T = 6.28319" in text for text in shown)
    # A point that is no root of its own is not drawn.
    offsets = [c.get_offsets() for c in ax.collections if len(c.get_offsets())]
    assert not any(np.any(np.asarray(o) == 9.0) for o in offsets)


def test_phase_portrait_finds_limits_and_plane(ax):
    plots.phase_portrait(ax, rotation, cycles=[limit_cycle((0.0, -1.0, -2.0))])
    assert ax.get_xlabel().startswith("PC1")
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < -1 < 1 < right and bottom < -1 < 1 < top
    assert not np.isnan(ax.lines[0].get_xdata()).any()


def test_phase_portrait_refuses(ax):
    with pytest.raises(ValueError, match="got a Map"):
        plots.phase_portrait(ax, Map(lambda x, a: x), limits=((0, 1), (0, 1)))
    with pytest.raises(ValueError, match="limits = None without points"):
        plots.phase_portrait(ax, rotation)
    for limits in ((-1, 1), ((1, -1), (0, 1)), ((0, 0), (0, 1))):
        with pytest.raises(ValueError, match="limits = .*expected"):
            plots.phase_portrait(ax, rotation, POINTS, limits=limits)
    line = fixed_points([[0.0], [1.0], [1.0]], [1, 1, 1], [1, -1, -1])
    with pytest.raises(ValueError, match="one variable.*Draw the velocity"):
        plots.phase_portrait(ax, lambda t, x, a: x - x**3, line)
    # Of the state nothing is known here, and JAX reads beyond the end of an array.
    net = models.RateRNN.from_arrays(np.eye(5), tau=0.1)
    for flow in (lambda t, x, a: jnp.stack([x[0], x[1], x[2]]), net):
        with pytest.raises(ValueError, match=r"state of shape \(2,\).*plane="):
            plots.phase_portrait(ax, flow, limits=((-1, 1), (-1, 1)))
    with pytest.raises(ValueError, match="in a plane of 3 variables"):
        plane = plots.pca_plane(np.eye(3))
        plots.phase_portrait(ax, rotation, POINTS, plane=plane)
    one = fixed_points(np.ones((2, 3)), [1, 1], [1, 1])
    with pytest.raises(ValueError, match="do not span a plane"):
        plots.phase_portrait(ax, rotation, one)
    batch = fixed_points(np.ones((2, 3, 4)), [1, 1], [1, 1])
    for draw in (
        lambda: plots.phase_portrait(ax, rotation, batch),
        lambda: plots.fixed_points(batch, ax=ax),
    ):
        with pytest.raises(ValueError, match="Pick network"):
            draw()


def test_what_limit_cycles_found_is_drawn(ax):
    found = rdd.limit_cycles(van_der_pol, jnp.array([[2.0, 0.0]]))
    plots.phase_portrait(ax, van_der_pol, cycles=found)
    plots.phase_portrait(ax, van_der_pol, cycles=found.cycle(0))
    assert [text for text in labels(ax) if "stable cycle, T = 6.66329" in text]
    for draw in (plots.cycle, plots.multipliers):
        with pytest.raises(ValueError, match="expected one LimitCycle"):
            draw(ax, found)


def test_the_latent_plane_holds_the_dynamics_of_a_network_with_bias_and_input():
    rng = np.random.default_rng(0)
    n = 30
    model = models.LowRankRNN.from_arrays(
        rng.standard_normal((n, 2)),
        rng.standard_normal((n, 2)),
        rng.standard_normal((n, 1)),
        rng.standard_normal(n),
        tau=0.1,
    )
    for u in (None, np.array([0.7])):
        plane = plots.latent_plane(model, u)
        kappa = rng.standard_normal((5, 2))
        states = plane.origin + kappa @ np.asarray(model.m).T
        np.testing.assert_allclose(plane(states), kappa, atol=1e-6)
        velocity = np.asarray(jax.vmap(lambda x, u=u: model(0.0, x, u))(states))
        rates = np.tanh(states) @ np.asarray(model.n) / n
        # Nothing leaves the plane, and in it tau kappa' = -kappa + n^T phi / N.
        np.testing.assert_allclose(velocity @ plane.axes, (rates - kappa) / 0.1, 1e-4)
        left = velocity - velocity @ plane.axes @ np.asarray(model.m).T
        assert np.abs(left).max() < 1e-4


def test_latent_and_other_planes_refuse_what_does_not_lie_in_them(ax):
    rank = lambda r, **options: models.LowRankRNN(
        0, 9, 1, rank=r, tau=0.1, key=jax.random.key(0), **options
    )
    for model in (
        rank(1),
        rank(2, form="rate"),
        rank(2, init=models.GaussianFactors(gain=0.5)),
        models.RateRNN.from_arrays(np.eye(2), tau=1),
    ):
        with pytest.raises(ValueError, match="expected a LowRankRNN of rank 2"):
            plots.latent_plane(model)
    with pytest.raises(ValueError, match="latent_readout=True"):
        plots.latent_flow(ax, rank(2), np.zeros((5, 2)), 3)
    with pytest.raises(ValueError, match="path has shape"):
        plots.latent_flow(ax, rank(3, latent_readout=True), np.zeros((5, 3)), 3)
    latent, path = rank(2, latent_readout=True), np.full((5, 2), np.nan)
    with pytest.raises(ValueError, match="no finite state"):
        plots.latent_flow(ax, latent, path, 3)
    path[:3] = np.eye(3, 2)  # it diverged later
    plots.latent_flow(ax, latent, path, 3)
    assert np.isfinite(ax.get_xlim()).all()
    with pytest.raises(ValueError, match=r"paths\[None\]"):
        plots.trajectories(ax, plots.pca_plane(np.eye(2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="rates has shape"):
        plots.rate_map(ax, np.zeros(5), 0.1)
    with pytest.raises(ValueError, match="kind = 'cycle' is not known"):
        plots.spectrum(ax, np.zeros((1, 2)), kind="cycle")


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['xarray'] = None\n"
        "import rnndyn as rd\n"
        "for use in (lambda: rd.plots, lambda: rd.mechanisms.Report.to_xarray(None)):\n"
        "    try: use()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "rnndyn[plot]"' in done.stdout, done.stderr
    assert 'pip install "rnndyn[data]"' in done.stdout, done.stderr


@pytest.mark.parametrize("stability, style", [(-1, "-"), (0, "-."), (1, "--")])
def test_cycle_shows_its_stability(ax, stability, style):
    plots.cycle(ax, limit_cycle(stability=stability))
    assert ax.lines[0].get_linestyle() == style
    np.testing.assert_allclose(ax.lines[0].get_xdata(), orbit()[:, 0], atol=1e-12)
    word = {-1: "stable", 0: "undecided", 1: "unstable"}[stability]
    assert labels(ax) == [f"{word} cycle, T = 6.28319"]


def test_what_is_no_cycle_is_not_drawn_as_one(ax):
    plots.cycle(ax, limit_cycle(verdict=Verdict.undetermined))
    assert ax.lines[0].get_linestyle() == ":"
    assert labels(ax) == ["no cycle: undetermined"]
    with pytest.raises(ValueError, match="Pick network"):
        plots.cycle(ax, limit_cycle(orbit=np.zeros((3, 5, 2))))


def marked(ax, colour):
    chosen = [line for line in ax.lines if line.get_color() == colour]
    points = [np.transpose(line.get_data()) for line in chosen]
    return np.concatenate(points) if points else np.zeros((0, 2))


def test_multipliers_inside_and_near_zero(ax):
    # A pair at radius 1/2, one at 1e-130, whose exponential is fine but invisible.
    logs = (0.0, np.log(0.5) + 1j, np.log(0.5) - 1j, -300.0)
    plots.multipliers(ax, limit_cycle(logs))
    inside = marked(ax, STABLE)
    np.testing.assert_allclose(np.hypot(*inside.T), [0.5, 0.5, 0.0], atol=1e-12)
    assert any("-130.29" in t.get_text() for t in ax.texts)
    assert "3e-14" in ax.get_title(loc="left")
    assert labels(ax) == ["inside", "trivial"] and ax.get_xlabel() == "Re"


def test_large_multipliers_are_compressed_and_noted(ax):
    plots.multipliers(ax, limit_cycle((20 * np.log(10), 0.0, -1.0), trivial=1))
    np.testing.assert_allclose(marked(ax, UNSTABLE), [[21.0, 0.0]], atol=1e-9)
    assert "log10 |m|" in ax.get_xlabel() and "outside" in labels(ax)


def lyapunov(**fields):
    times = np.arange(1, 65) / 2
    final = np.array([0.9, 0.0, -14.5])
    values = {
        "history": final + 1 / times[:, None],
        "times": times,
        "exponents": final,
        "stderr": np.array([0.01, 0.001, 0.02]),
        "kaplan_yorke": np.asarray(2.062),
        "finite": np.asarray(True),
    }
    return SimpleNamespace(**(values | fields))


def test_exponents(ax):
    plots.exponents(ax, lyapunov())
    assert labels(ax) == ["0.9 ± 0.01", "0 ± 0.001", "-14.5 ± 0.02"]
    assert len(ax.collections) == 3 and "2.062" in ax.get_title(loc="left")
    # The band ends as wide as the error and is wider before.
    corners = ax.collections[0].get_paths()[0].vertices
    last = corners[np.isclose(corners[:, 0], 32.0), 1]
    np.testing.assert_allclose(np.ptp(last), 0.02, rtol=1e-9)
    first = corners[np.isclose(corners[:, 0], 0.5), 1]
    np.testing.assert_allclose(np.ptp(first), 0.02 * 8, rtol=1e-9)


def test_exponents_say_when_they_mean_nothing(ax):
    nothing = np.full((64, 3), np.nan)
    plots.exponents(ax, lyapunov(finite=np.asarray(False), history=nothing))
    assert "diverged" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="Pick network"):
        plots.exponents(ax, lyapunov(history=np.zeros((2, 64, 3))))


@pytest.mark.parametrize("by", ["names", "codes"])
def test_basins(ax, by):
    share = np.array([0.5, 0.3, 0.2])
    kinds = {
        "names": {"kind": ("root", "limit_cycle", "chaotic")},
        "codes": {"kind": "flow", "verdict": np.array([1, 5, 9])},
    }[by]
    table = SimpleNamespace(share=share, low=share - 0.1, high=share + 0.2, **kinds)
    plots.basins(ax, table)
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], share)
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["root 1", "limit cycle 2", "chaotic 3"]
    segments = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(segments[0, :, 0], [0.4, 0.7])
    assert ax.get_xlim() == (0, 1) and "95 %" in ax.get_xlabel()
    with pytest.raises(ValueError, match="3 kinds"):
        plots.basins(ax, SimpleNamespace(**(vars(table) | {"share": share[:2]})))


def test_fixed_points_draws_a_search(ax):
    x0s = np.random.default_rng(0).standard_normal((8, 2))
    found = rdd.certify(rdd.fixed_points(lambda t, x, a: x - x**3, jnp.asarray(x0s)))
    assert plots.fixed_points(found, ax=ax) is ax
    assert ax.get_xlabel().startswith("PC1") and len(ax.collections) >= 2
    assert plots.fixed_points(found) is not ax


@pytest.mark.parametrize("size", [1, 2])
def test_report_on_runs_that_diverge_from_nothing_found(size):
    """x' = 59 x + 1: no root above zero, and e^1740 after 30 tau."""
    with jax.enable_x64(True):
        model = models.RateRNN.from_arrays(
            60 * np.eye(size), b=np.ones(size), tau=0.1, activation="relu"
        )
    none, numbers, codes = np.zeros((0, size)), np.zeros(0), np.zeros(0, int)
    ends = rdd.Attractors(
        *(codes, codes, numbers, numbers, numbers, none, none[:, None], numbers),
        *(numbers, np.zeros((0, 3)), numbers, codes, codes, numbers, none, numbers),
        *("flow", ()),
    )
    result = rd.mechanisms.Report(
        *(model, 0.1, None, none, numbers, none + 0j, codes, numbers, numbers),
        *(np.zeros((0, 0)), None, None, np.nan, none, numbers, ends, None, None),
        *("undetermined", (), None),
    )
    fig = plots.report(result)
    fig.draw_without_rendering()
    assert all(np.isfinite([*a.get_xlim(), *a.get_ylim()]).all() for a in fig.axes)


def test_what_is_empty_or_infinite_leaves_an_empty_figure(ax):
    plots.spectrum(ax, np.zeros((0, 2), complex))
    plane = plots.pca_plane(np.array([[1.0, 2.0], [3.0, 4.0], [np.inf, 0.0]]))
    np.testing.assert_allclose(plane.origin, [2, 3])
    lost = plots.pca_plane(np.full((2, 3), np.nan))
    assert np.isfinite(lost.axes).all() and not lost.origin.any()


def test_results_of_another_verb_are_a_value_error():
    ax = plots.figure()[1][0, 0]
    flow = lambda t, x, a: jnp.stack([x[1], -x[0]])
    plane = plots.pca_plane(np.eye(3))
    wrong = np.zeros((3, 3))
    for draw, words in (
        (lambda: plots.cycle(ax, wrong), "the result of limit_cycle"),
        (lambda: plots.multipliers(ax, wrong), "the result of limit_cycle"),
        (lambda: plots.exponents(ax, wrong), "the result of lyapunov_spectrum"),
        (lambda: plots.basins(ax, wrong), "the result of attractors"),
        (lambda: plots.fixed_points(wrong), "the result of fixed_points"),
        (lambda: plots.phase_portrait(ax, flow, wrong), "result of fixed_points"),
        (lambda: plots.points(ax, plane, wrong, [1, -1]), r"stability \(2,\)"),
        (lambda: plots.spectrum(ax, [["a"]]), "expected numbers"),
        (lambda: plots.speed_field(ax, plane, lambda x: x[0]), "returns shape"),
        (lambda: plots.speed_field(ax, plane, flow), "raises"),
        (lambda: plots.pca_plane(1.0), "expected states"),
        (lambda: plots.loss_curves(ax, [1, 2], np.ones((1, 3)), ["mixed"]), "record"),
        (lambda: plots.loss_range(ax, [1, 2], [1, 2], [1]), "expected the same"),
        (lambda: plots.rate_map(ax, np.ones((0, 3)), 0.1), "at least one step"),
    ):
        with pytest.raises(ValueError, match=words):
            draw()
