"""The CORNN study: its table, its experiments at small sizes, what it saves."""

import json

import numpy as np
import pytest

from rnndyn.studies.cornn._lines import LINES
from rnndyn.studies.cornn._random import recovery, regularisation
from rnndyn.studies.cornn._study import EXPERIMENTS, SIZES, cornn_study
from rnndyn.studies.cornn._table import claim, r_squared, render, value


def test_table():
    lines = [
        value("1a", "r", 0.9835, 0.981, 0.006, same_size=True),
        value("1a", "r", 0.9835, 0.9, 0.006, same_size=True),
        value("1a", "r", 0.9835, 0.9, 0.006, same_size=False),
        claim("8", "a > b", "2, 1", True, same_size=True),
        claim("8", "a > b", "1, 2", False, same_size=True),
        claim("8", "a > b", "1, 2", False, same_size=False),
    ]
    verdicts = [line.verdict for line in lines]
    assert verdicts[:3] == ["agrees", "differs", "other size"]
    assert verdicts[3:] == ["holds", "fails", "not at this size"]
    text = render(lines).splitlines()
    assert text[0].split() == ["experiment", "quantity", "published", "ours", "verdict"]
    assert len(text) == 8 and "0.9835" in text[2]


def test_r_squared():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 50, 4))
    assert r_squared(true, true) == 1
    mean = true.reshape(-1, 4).mean(axis=0)
    assert abs(r_squared(true, np.broadcast_to(mean, true.shape))) < 1e-12
    one = true.copy()
    one[..., 0] = mean[0]
    assert np.isclose(r_squared(true, one), 0.75)


def test_every_scale_knows_every_experiment():
    for sizes in SIZES.values():
        assert set(sizes) == set(EXPERIMENTS) == set(LINES)


def test_study_of_some_experiments(tmp_path):
    said = []
    study = cornn_study("tiny", only=("7",), out=tmp_path, say=said.append)
    assert set(study.results) == {"7"} and len(said) > 3
    data = study.results["7"]
    assert data.r.dims == ("network", "iteration")
    assert float(data.r[0, -1]) > 0.9 > float(data.r[0, 0]) + 0.1
    assert all(
        "other size" in line.verdict for line in study.lines if line.published != "true"
    )
    text = (tmp_path / "table.txt").read_text()
    assert text.strip() == study.table()
    saved = json.loads((tmp_path / "table.json").read_text())
    assert len(saved["lines"]) == len(study.lines)
    assert list(tmp_path.glob("experiment_7.*"))

    # What is there is not run again, unless it was made with other settings.
    again = []
    repeated = cornn_study("tiny", only=("7",), out=tmp_path, say=again.append)
    assert again == ["experiment 7 is there"]
    assert repeated.lines == study.lines and repeated.seconds == study.seconds
    assert repeated.results["7"].r.equals(data.r)
    cornn_study("tiny", only=("7",), out=tmp_path, seed=1, say=again.append)
    assert len(again) > 3


@pytest.mark.slow
def test_records_agree_with_one_long_fit():
    sizes = {"neurons": 30, "steps": 600, "networks": 1, "methods": ("cornn",)}
    short = recovery(records=1, **sizes)
    long = recovery(records=2, **sizes)
    assert np.allclose(short.r[..., :2], long.r[..., :2], atol=1e-12)
    assert long.step.values.tolist() == [[0, 5, 10]]


def test_study_refuses():
    with pytest.raises(ValueError, match="scale"):
        cornn_study("huge")
    with pytest.raises(ValueError, match="not known"):
        cornn_study("tiny", only=("9",))


@pytest.mark.slow
def test_tiny_study(tmp_path):
    study = cornn_study("tiny")
    assert set(study.results) == set(EXPERIMENTS)
    assert {line.experiment for line in study.lines} == set(EXPERIMENTS)
    claims = {line.quantity: line.verdict for line in study.lines}
    assert claims["newton > cornn > fixed point"] == "holds"
    assert claims["free-running BPTT fails"] == "holds"
    # At this size not every network has learned: nothing is said to hold of them.
    for number in "456":
        lines = [line for line in study.lines if line.experiment == number]
        learned = lines[0].verdict == "holds"
        assert all((line.verdict == "no test") != learned for line in lines[1:])
    data = study.results["8"]
    assert data.r.dims == ("solver", "network", "record")
    assert float(data.r.sel(solver="cornn").min("network")[-1]) > 0.95
    study.save(tmp_path)


@pytest.mark.slow
def test_regularisation():
    data = regularisation(
        neurons=40,
        steps=2000,
        networks=1,
        multipliers=(1e-5, 1e-3, 1.0),
        cornn_steps=50,
        epochs=2,
    )
    cornn = data.r.sel(solver="cornn")[0]
    assert np.all(cornn > data.r.sel(solver="fixed point")[0])
    assert float(data.r.sel(solver="force rates")[0, 0]) < 0.5
