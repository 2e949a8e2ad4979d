"""The phases study: published numbers, checks, fits, figures, and one small run."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.studies import PhasesConfig, phase_checks, phases_study, table_text
from rnndyn.studies._published import (
    NOPOST,
    POST,
    check_share,
)
from rnndyn.studies._statistics import binomial_band, binomial_tail, fisher_exact
from rnndyn.studies.phases._checks import find
from rnndyn.studies.phases._exponents import boundary, exponent_checks
from rnndyn.studies.phases._summary import Curves, Summary


def published_cells(n=40):
    """Networks in the published shares."""
    cells = {}
    for post, table in ((0, NOPOST), (30, POST)):
        for rate, row in table.items():
            for delay, shares in row.items():
                counts = np.round(np.asarray(shares) * n).astype(int)
                counts[np.argmax(counts)] += n - counts.sum()
                cells[post, rate, delay] = counts
    # Rows that the tables leave out, made up in their spirit.
    for delay, sp, lc in (
        (20, 0.9, 0.1), (60, 0.45, 0.4), (120, 0.2, 0.55), (140, 0.1, 0.55),
        (160, 0.05, 0.6), (180, 0.02, 0.65), (220, 0.0, 0.55),
    ):  # fmt: skip
        counts = [0, round(lc * n), round(sp * n)]
        cells[0, 0.1, delay] = np.asarray([n - sum(counts), *counts[1:]])
    for rate in (0.1, 0.03):
        for delay in (20, 60):
            cells[30, rate, delay] = np.asarray([0, n, 0])
    return cells


# ------------------------------------------------------------------ published numbers


def test_fractions_add_up():
    for table in (NOPOST, POST):
        for row in table.values():
            for shares in row.values():
                assert abs(sum(shares) - 1) < 0.011, shares


def test_binomial_band_is_that_of_the_binomial():
    stats = pytest.importorskip("scipy.stats")
    for p, n in ((0.63, 40), (0.02, 20), (0.5, 7), (1.0, 9), (0.0, 3)):
        low, high = binomial_band(p, n)
        assert low == max(stats.binom.ppf(0.005, n, p), 0) / n
        assert high == stats.binom.ppf(0.995, n, p) / n
    assert binomial_band(0.63, 40) == (0.425, 0.825)
    assert abs(binomial_tail(3, 10, 0.3) - stats.binom.sf(2, 10, 0.3)) < 1e-12
    low, high = binomial_band(0.3, 5000)  # whose binomials are no floats
    assert 0.28 < low < 0.3 < high < 0.32 and 0 < binomial_tail(1600, 5000, 0.3) < 0.01
    with pytest.raises(ValueError, match="share"):
        binomial_band(1.5, 4)


def test_fisher_exact_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for table in ([8, 2, 1, 5], [9, 11, 20, 0], [0, 5, 5, 0], [3, 3, 3, 3]):
        want = stats.fisher_exact(np.reshape(table, (2, 2))).pvalue
        assert abs(fisher_exact(*table) - want) < 1e-9


def test_a_share_holds_is_explained_or_fails():
    check = check_share("x", 19, 20, 1.0, per_cell=20, wanted=(0.97, 1))
    assert check.verdict == "within 99 %"
    interval = [float(check.low or 0), float(check.high or 0)]
    np.testing.assert_allclose(interval, [0.764, 0.991], atol=1e-3)
    assert check_share("x", 20, 20, 1.0, wanted=(0.97, 1)).verdict == "holds"
    assert check_share("x", 10, 20, 1.0, wanted=(0.97, 1)).verdict == "fails"
    assert check_share("x", 0, 0, 1.0).verdict == "not run"


# ----------------------------------------------------------------------------- checks


def test_published_networks_pass_every_check():
    checks = phase_checks(published_cells())
    bad = [c for c in checks if c.verdict not in ("holds", "within 99 %")]
    assert not bad, table_text(bad)
    assert sum(c.verdict == "holds" for c in checks) >= len(checks) - 1


def test_other_networks_do_not():
    cells = published_cells()
    swapped = {k: v[[0, 2, 1]] for k, v in cells.items()}
    verdicts = {c.name: c.verdict for c in phase_checks(swapped)}
    assert verdicts["no delay, rate 0.1: slow point"] == "fails"
    assert verdicts["40 ms, rate 0.1, post: limit cycle"] == "fails"
    assert verdicts["40 ms, rate 0.1: slow point"] == "fails"
    assert verdicts["mean slow points, post"] == "fails"
    assert verdicts["rate 0.1, slow points fall from 0 to 140 ms"] == "fails"


def test_missing_cells_are_said_to_be_missing():
    checks = phase_checks({})
    assert {c.verdict for c in checks} == {"not run"}
    text = table_text(checks)
    assert "not run" in text and "verdict" in text
    assert json.dumps([c.to_dict() for c in checks])


def test_cells_are_found_at_nearby_rates():
    cells = {(0, 0.0316228, 100): np.asarray([1, 2, 3])}
    assert find(cells, (0, 0.03, 100)) is not None
    assert find(cells, (0, 0.028, 100)) is None
    assert find(cells, (30, 0.03, 100)) is None


# ------------------------------------------------------------------ fits and figures


def made_up(name="nopost", exponent=2.7, seeds=20, rates=10, post=0.0, key=0):
    """A sweep whose boundaries are known."""
    rng = np.random.default_rng(key)
    lrs = np.geomspace(0.3, 0.006, rates)
    x = np.linspace(0, 400, 21)
    onset = 25 * (lrs / 0.3) ** (-1 / exponent)
    lost = -np.expm1(-0.02 * np.maximum(x[None] - onset[:, None], 0))
    half = 60 * (lrs / 0.3) ** (-1 / 4)
    slow = (1 - lost) / (1 + np.exp(0.05 * (x[None] - half[:, None])))
    draw = rng.random((rates, 21, seeds))
    code = np.where(draw < lost[..., None], 0, 1)
    code = np.where(draw > 1 - slow[..., None], 2, code)
    code = np.where((code == 0) & (rng.random(code.shape) < 0.3), 3, code)
    kind = np.where(code == 2, 0, 1)
    kind = np.where(rng.random(code.shape) < 0.1, 2, kind)
    config = rd.sweeps.preset(name).to_dict() | {"post_reaction": post}
    curve = Curves(np.arange(9), np.linspace(0.05, 0.01, 9), np.full(9, 0.002), 7)
    index = np.where(code == 1, 0.05, np.where(code == 2, 0.75, np.nan))
    named = {"limit_cycle": curve, "slow_point": curve, "unstable": curve}
    return Summary(name, config, lrs, x, code, kind, index, named, named, None)


def test_summary_counts():
    summary = made_up()
    assert summary.counts().sum() == summary.n.sum() == 10 * 21 * 20
    np.testing.assert_allclose(summary.fractions().sum(axis=-1), 1)
    assert summary.kind_counts().sum() == summary.n.sum()
    np.testing.assert_array_equal(
        summary.kind_counts()[..., 0], summary.counts()[..., 0]
    )
    cell = summary.cells()[0, float(summary.rates[3]), 100]
    np.testing.assert_array_equal(cell, summary.counts()[3, 5])
    assert summary.share(0).total == 4200


def test_boundaries_of_a_known_sweep():
    summary = made_up(seeds=100)
    found = boundary(summary, "no_solution", draws=20)
    assert found is not None and abs(found.published.exponent - 2.7) < 0.4
    assert found.likelihood.low < 2.7 < found.likelihood.high
    assert found.low <= found.published.exponent <= found.high
    slow = boundary(summary, "slow_point", draws=20)
    assert slow is not None and slow.published.exponent > found.published.exponent
    sweeps, fits = {"nopost": summary}, {"nopost": found, "slow_point": slow}
    checks = {c.name: c for c in exponent_checks(sweeps, fits)}
    assert checks["exponent, not learned"].verdict == "holds"
    assert checks["slow points fall more steeply than learning"].verdict == "holds"
    assert checks["exponent, without memory"].verdict == "not run"


def test_critical_rates_of_clearly_parted_cells():
    from rnndyn.studies.phases._exponents import half_learned_rates

    summary = made_up(seeds=100)
    rates, lost = half_learned_rates(summary), summary.fractions()[..., 0]
    found = np.isfinite(rates)
    assert found.sum() > 3
    for share, rate in zip(lost.T[found], rates[found], strict=True):
        # `rates` fall, and so do the shares at the crossing.
        at = np.interp(-np.log(rate), -np.log(summary.rates), share)
        np.testing.assert_allclose(at, 0.5)


def test_a_small_grid_is_fitted_and_not_judged():
    small = made_up(rates=6)
    fits = {"nopost": boundary(small, "no_solution", draws=5)}
    checks = {c.name: c for c in exponent_checks({"nopost": small}, fits)}
    assert checks["exponent, not learned"].verdict == "too few cells"
    nothing = made_up(rates=2)
    assert boundary(nothing, "no_solution", draws=5) is None


def test_figures_are_drawn_for_what_is_there(tmp_path):
    pytest.importorskip("matplotlib")
    from rnndyn.studies import PhasesStudy
    from rnndyn.studies.phases._figures import phases_figures

    sweeps = {"nopost": made_up(), "post": made_up("post", post=0.03, key=1)}
    sweeps |= {"longtau": made_up("longtau"), "nomemory": made_up("nomemory")}
    fits = {
        "nopost": boundary(sweeps["nopost"], "no_solution", draws=5),
        "slow_point": boundary(sweeps["nopost"], "slow_point", draws=5),
        "post": None,
        "nomemory": None,
    }
    study = PhasesStudy(PhasesConfig({}), sweeps, fits, ())
    figures = phases_figures(study)
    assert set(figures) == {
        "figure_4",
        "figure_S2",
        "figure_S3",
        "figure_S5",
        "figure_S6",
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
    empty = phases_figures(PhasesStudy(PhasesConfig({}), {}, {}, ()))
    assert set(empty) == {"figure_S2"}


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    from rnndyn.studies import PhasesStudy

    summary = made_up()
    found = boundary(summary, "no_solution", draws=5)
    open_end = dataclasses.replace(found.likelihood, high=float("inf"))
    found = dataclasses.replace(found, likelihood=open_end)
    PhasesStudy(PhasesConfig({}), {"nopost": summary}, {"nopost": found}, ()).save(
        tmp_path
    )
    no_number = lambda name: pytest.fail(f"{name} is no JSON")
    text = (tmp_path / "phases.json").read_text()
    fit = json.loads(text, parse_constant=no_number)["boundaries"]["nopost"]
    assert fit["likelihood"]["high"] is None and fit["likelihood"]["low"] > 1


def test_toy_loss_panel_shows_the_published_numbers():
    """Figure S2B: 1 up to 1/140, 0 at 1/120, 5/12 at 1/70, 1.5 at 1/60."""
    pytest.importorskip("matplotlib")
    from rnndyn.plots import figure
    from rnndyn.studies.phases._panels import toy_loss

    _, axes = figure()
    line = toy_loss(axes[0, 0]).lines[0]
    r, loss = line.get_data()
    at = lambda value: float(np.interp(value, r, loss))
    assert at(1 / 160) == 1
    assert at(1 / 120) < 0.02
    assert abs(at(1 / 70) - 5 / 12) < 0.02 and abs(at(1 / 60) - 1.5) < 0.02


# -------------------------------------------------------------------------- one study


def test_a_study_from_end_to_end(tmp_path):
    pytest.importorskip("zarr")
    small: dict[str, Any] = dict(
        units=8, batch=4, min_epochs=4, rate_epochs=0.0, pad_steps=32, seeds=2,
        learning_rate=[0.3, 0.1], last=4, record_every=2,
    )  # fmt: skip
    nopost = rd.sweeps.preset("nopost", delay=[0.0, 0.04], labels=["compat"], **small)
    config = PhasesConfig({"nopost": nopost})
    said = []
    with jax.enable_x64(False):
        study = phases_study(config, out=tmp_path, say=said.append)
    assert said[0] == "nopost: 8 networks"
    summary = study.sweeps["nopost"]
    assert summary.complete() and summary.code.shape == (2, 2, 2)
    # Four epochs are not enough to learn anything, and no test of the paper.
    assert set(np.unique(summary.code)) <= {0, 3}
    assert "no test of the paper" in study.table()
    assert {c.verdict for c in study.checks} <= {
        "not run", "not judged", "too few cells",
    }  # fmt: skip
    study.save(tmp_path)
    document = json.loads((tmp_path / "phases.json").read_text())
    counts = document["sweeps"]["nopost"]["not_learned_cycle_slow"]
    assert np.sum(counts) == 8
    # Again: nothing is trained twice.
    again = phases_study(config, out=tmp_path)
    np.testing.assert_array_equal(again.sweeps["nopost"].code, summary.code)
    with pytest.raises(ValueError, match="another sweep"):
        other = rd.sweeps.preset("nopost", delay=[0.0], labels=["compat"], **small)
        phases_study(PhasesConfig({"nopost": other}), out=tmp_path)


def test_unknown_scale():
    with pytest.raises(ValueError, match="tiny, small, full"):
        phases_study("huge")


def test_sweeps_that_are_no_phase_diagram_are_refused_before_training():
    sweep = rd.sweeps.preset("nopost", seeds=1)
    with pytest.raises(ValueError, match="sweep = 'mine' is not known"):
        PhasesConfig({"mine": sweep})
    for axes in ({"delay": [0.1]}, {"delay": [0.1], "learning_rate": [0.1], "tau": 1}):
        grid = rd.sweeps.Grid(axes | {"seed": 1})
        with pytest.raises(ValueError, match="sweep nopost has axes"):
            PhasesConfig({"nopost": rd.sweeps.SweepConfig(grid=grid)})


def test_every_scale_can_be_configured():
    sizes = {
        name: sum(c.grid.size for c in make().sweeps.values())
        for name, make in rd.studies.PHASES_SCALES.items()
    }
    assert sizes["tiny"] < sizes["small"] < sizes["full"] == 81_500
