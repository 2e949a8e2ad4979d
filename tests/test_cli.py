"""The command line: what it says, and what it refuses."""

import sys
import tomllib

import numpy as np
import pytest

from rnndyn import cli, studies, sweeps


CONFIG = """
name = "tiny"
units = 6
batch = 2
min_epochs = 5
rate_epochs = 0.0
shard_size = 2
labels = []
[grid]
delay = [0.0]
seed = 4
"""


@pytest.fixture
def rnndyn(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own; what it printed."""
    monkeypatch.chdir(tmp_path)
    # The tests have configured the process already.
    monkeypatch.setattr(cli._bootstrap, "configure", lambda **options: {})

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["rnndyn", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    return run


def test_a_sweep_from_a_file(rnndyn, tmp_path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    text = rnndyn("sweep", "run", "tiny.toml", "--shard", "1/2")
    assert "2 of 4 networks are in tiny/" in text
    text = rnndyn("sweep", "status", "tiny.toml")
    assert "tiny: 2 of 4 networks" in text
    assert "waiting" in text and "done" in text
    text = rnndyn("sweep", "resume", "tiny")
    assert "4 of 4 networks are in tiny/" in text
    text = rnndyn("sweep", "merge", "tiny.toml", "--out", "tiny")
    assert "wrote tiny/merged" in text
    assert sweeps.load("tiny").complete
    np.testing.assert_array_equal(sweeps.load("tiny").arrays["steps"], 5)


def test_a_grid_without_seeds_has_a_table(rnndyn, tmp_path):
    text = CONFIG.replace("labels = []", 'labels = ["compat"]')
    (tmp_path / "tiny.toml").write_text(text.replace("seed = 4", "units = [4, 6]"))
    text = rnndyn("sweep", "run", "tiny.toml")
    assert "not_learned" in text and "2 of 2 networks are in tiny/" in text


def test_refusals(rnndyn, tmp_path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    with pytest.raises(SystemExit, match=r"no sweep\.json"):
        rnndyn("sweep", "status", "tiny.toml")
    with pytest.raises(SystemExit, match="no file"):
        rnndyn("sweep", "run", "none.toml")
    # Not the sweep of that name in this folder.
    (tmp_path / "tiny").mkdir()
    with pytest.raises(SystemExit, match="no file or folder elsewhere/tiny"):
        rnndyn("sweep", "status", "elsewhere/tiny")
    with pytest.raises(SystemExit, match="--out other goes with a configuration"):
        rnndyn("sweep", "run", "tiny", "--out", "other")
    for shard in ("2/2", "x", "1", "-1/2"):
        with pytest.raises(SystemExit):
            rnndyn("sweep", "run", "tiny.toml", f"--shard={shard}")
    for name in ("workers", "checkpoint"):
        with pytest.raises(SystemExit, match=f"--{name} -1.*expected 0 or more"):
            rnndyn("sweep", "run", "tiny.toml", f"--{name}=-1")
    (tmp_path / "tiny" / "sweep.json").write_text("[]")
    with pytest.raises(SystemExit, match="holds no configuration of a sweep"):
        rnndyn("sweep", "status", "tiny")
    text = CONFIG.replace("delay = [0.0]", "delay = [20.0]")
    with pytest.warns(UserWarning, match="are all durations in seconds"):
        sweeps.SweepConfig.from_dict(tomllib.loads(text))
    with pytest.raises(SystemExit, match=r"no study 'mice'"):
        rnndyn("study", "mice")
    with pytest.raises(SystemExit, match="tiny.toml is a file, expected a folder"):
        rnndyn("study", "rank2", "--out", "tiny.toml")


def test_a_study_is_looked_up_and_saved(rnndyn, monkeypatch, tmp_path):
    class Done:
        def __init__(self, scale):
            self.scale = scale

        def table(self):
            return f"published / ours / verdict at scale {self.scale}"

        def save(self, out):
            out.mkdir()
            (out / "table.txt").write_text(self.table())

    def mock_study(scale, *, out=None, progress=False, say=print):
        say("working")
        return Done(scale)

    monkeypatch.setattr(studies, "mock_study", mock_study, raising=False)
    text = rnndyn("study", "mock", "--scale", "small", "--out", "figures")
    assert "working" in text and "at scale small" in text
    assert (tmp_path / "figures" / "table.txt").is_file()
    assert "scale tiny" in rnndyn("study", "mock")


def test_the_published_example_is_a_valid_sweep():
    from pathlib import Path

    path = Path(__file__).parents[1] / "examples" / "sweep_small.toml"
    config = sweeps.SweepConfig.from_toml(path)
    assert config.grid.size == 320 and len(sweeps.plan(config)) == 5
    # A delay of 60 ms is one number, however it was computed.
    assert 0.06 in config.grid.axes["delay"]


def test_doctor(rnndyn):
    text = rnndyn("doctor")
    assert "devices" in text and "precision" in text


def test_analyses_one_of_many_networks_of_one_unit(rnndyn, tmp_path):
    many = dict(W=np.array([[[0.5]], [[2.0]]]), tau=0.1, dt=0.02)
    np.savez(tmp_path / "many.npz", form="rate", activation="tanh", **many)
    figure = tmp_path / "figures" / "one"
    out = rnndyn("analyse", "many.npz", "--member", 1, "--starts", 4, "--out", figure)
    # x = tanh(2 x): two stable roots and the origin.
    assert out.count("|x| 0.9575") == 2
    assert f"wrote {figure}.png" in out and figure.with_suffix(".png").exists()


@pytest.mark.slow
def test_a_network_without_fixed_points_is_plotted_all_the_same(rnndyn, tmp_path):
    arrays = dict(W=2 * np.eye(2), b=np.ones(2), tau=0.1)
    np.savez(tmp_path / "none.npz", form="rate", activation="relu", **arrays)
    rnndyn("analyse", "none.npz", "--starts", 4)
    assert (tmp_path / "none.png").exists()


def test_where_a_figure_goes(tmp_path):
    assert cli._figure_path(tmp_path / "new" / "one").name == "one.png"
    assert (tmp_path / "new").is_dir()
    assert cli._figure_path(tmp_path / "two.PDF").name == "two.PDF"
    with pytest.raises(ValueError, match=r"written as .*png.*Pass --out .*one\.png"):
        cli._figure_path(tmp_path / "one.v2")


def test_a_demo_is_refused_before_it_trains(rnndyn, tmp_path):
    (tmp_path / "taken").write_text("")
    for words, match in (
        (("--seeds", 0), "seeds = 0, expected a whole number"),
        (("--epochs", 0), "epochs = 0"),
        (("--out", "taken"), "rnndyn: .*File exists"),
    ):
        with pytest.raises(SystemExit, match=match):
            rnndyn("demo", *words)
    with pytest.raises(ValueError, match="delays is empty"):
        studies.EnsembleConfig(delays=())


def test_what_is_no_toml_and_an_interruption(rnndyn, monkeypatch, tmp_path, capsys):
    (tmp_path / "net.npz").write_bytes(b"PK\x03\xa3")
    with pytest.raises(SystemExit, match=r"net\.npz is not TOML"):
        rnndyn("sweep", "run", "net.npz")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "mock_study", interrupted, raising=False)
    with pytest.raises(SystemExit) as stopped:
        rnndyn("study", "mock")
    assert stopped.value.code == 130
    assert "rnndyn: interrupted" in capsys.readouterr().err
