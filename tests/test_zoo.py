"""Data sets of networks: written, checked, read, sent and fetched."""

import json
import shutil

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rnndyn as rd
from rnndyn import sweeps, zoo


CONFIG = dict(
    units=8,
    batch=4,
    min_epochs=30,
    rate_epochs=0.0,
    record_every=10,
    last=20,
    shard_size=4,
    pad_steps=48,
    labels=(),
)


PAIR = {"W": np.ones((2, 3, 3)), "tau": np.full(2, 0.1)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    grid = {"delay": [0.0, 0.1], "learning_rate": [0.3, 0.1], "seed": 2}
    config = sweeps.SweepConfig.from_dict({"grid": grid, **CONFIG})
    return sweeps.run(config, tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def kept(sweep, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "kept"
    return zoo.save(
        sweep, path, title='Eight "small" networks', authors=("A. Author",), per_file=3
    )


def test_what_was_saved_is_what_is_loaded(sweep, kept):
    loaded = rd.zoo.load(kept.path, check=True)
    assert len(loaded) == 8 and "8 networks" in repr(loaded)
    for name in ("id", "learning_rate", "delay", "seed", "outcome", "final_loss"):
        np.testing.assert_array_equal(loaded.table[name], sweep.arrays[name])
    rows = [5, 0, 3]
    nets = loaded.ensemble(rows)
    theirs, _ = sweep.networks(rows)
    for a, b in zip(jax.tree.leaves(nets), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nets.readout_activation == "sigmoid" and isinstance(nets, rd.models.RateRNN)
    np.testing.assert_array_equal(loaded.weights(rows)["W"], theirs.W)
    curves = loaded.curves(rows)
    for name, values in sweep.curves().items():
        np.testing.assert_array_equal(curves[name], values[rows])
    assert loaded.curves()["last_loss"].shape == (8, 20)


def test_selection_by_value_and_name(kept):
    rows = kept.rows(delay=0.1, seed=1)
    assert rows.tolist() == [5, 7]
    names = kept.names("outcome")
    assert set(names) <= set(rd.training.OUTCOMES)
    np.testing.assert_array_equal(
        kept.rows(outcome=str(names[0])), np.flatnonzero(names == names[0])
    )
    assert set(kept.names("mechanism")) == {""}
    with pytest.raises(ValueError, match="field = 'speed'"):
        kept.rows(speed=3)
    with pytest.raises(ValueError, match="outcome = 'won'"):
        kept.rows(outcome="won")
    with pytest.raises(ValueError, match="no networks were chosen"):
        kept.ensemble([])


def test_networks_are_chosen_by_one_value_each(kept, tmp_path):
    for name, values in kept.curves(3).items():
        np.testing.assert_array_equal(values, kept.curves([3])[name])
    with pytest.raises(ValueError, match="rows do not fit 8 networks"):
        kept.weights([8])
    with pytest.raises(ValueError, match="learning_rate has no codes"):
        kept.rows(learning_rate="0.1")
    with pytest.raises(ValueError, match=r"seed = \[0, 1\], expected one value"):
        kept.rows(seed=[0, 1])
    codes = np.asarray([[3, 3], [1, 3]])
    cued = zoo.save(PAIR | {"cue_code": codes}, tmp_path / "cued")
    with pytest.raises(ValueError, match=r"zoo.names\('cue_code'\) == 'limit_cycle'"):
        cued.rows(cue_code="limit_cycle")


def test_the_card_says_what_is_inside(kept):
    text = (kept.path / "README.md").read_text()
    front = text.split("---")[1]
    assert "license: cc-by-4.0" in front
    assert 'pretty_name: "Eight \\"small\\" networks"' in front
    assert "size_categories: [n<1K]" in front
    assert "| `delay` | network | s |" in text and "A. Author" in text
    assert kept.about["origin"]["config_hash"] in text
    fields = kept.about["fields"]
    assert fields["mechanism"]["codes"][3] == "limit_cycle"
    assert set(kept.table) <= set(fields)
    # The recorded configuration makes the same sweep again.
    config = sweeps.SweepConfig.from_dict(kept.about["origin"]["sweep"])
    np.testing.assert_array_equal(config.members().id, kept.table["id"])


def test_what_is_wrong_is_named(kept, tmp_path):
    def broken(change):
        path = tmp_path / "broken"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(kept.path, path)
        change(path)
        return path

    def edit(path, **fields):
        about = json.loads((path / "zoo.json").read_text()) | fields
        (path / "zoo.json").write_text(json.dumps(about))

    path = broken(lambda p: (p / "table.safetensors").write_bytes(b"x" * 100))
    with pytest.raises(ValueError, match="safetensors"):
        zoo.validate(path)
    path = broken(lambda p: (p / "curves-00001.safetensors").unlink())
    with pytest.raises(ValueError, match=r"curves-00001\.safetensors is missing"):
        zoo.validate(path)
    path = broken(lambda p: (p / "README.md").write_text("changed"))
    with pytest.raises(ValueError, match=r"README\.md does not have the checksum"):
        zoo.validate(path)
    groups = kept.about["groups"]
    path = broken(lambda p: edit(p, groups=groups[:-1]))
    with pytest.raises(ValueError, match="every network once"):
        zoo.validate(path)
    for rows in ([0, 1, 9], [0, 1]):
        wrong = [groups[0] | {"rows": rows}, *groups[1:]]
        with pytest.raises(ValueError, match="every network once"):
            zoo.load(broken(lambda p, g=wrong: edit(p, groups=g)))
    for name, change in (
        ("fields", lambda about: about.pop("fields")),
        ("groups.weights", lambda about: about["groups"][0].pop("weights")),
    ):
        about = json.loads((kept.path / "zoo.json").read_text())
        change(about)
        text = json.dumps(about)
        path = broken(lambda p, t=text: (p / "zoo.json").write_text(t))
        with pytest.raises(ValueError, match=f"zoo.json lacks {name}"):
            zoo.load(path)
    path = broken(lambda p: edit(p, schema="rnndyn.zoo/0"))
    with pytest.raises(ValueError, match="has schema 'rnndyn.zoo/0'"):
        zoo.load(path)
    with pytest.raises(ValueError, match=r"no zoo\.json"):
        zoo.load(tmp_path)
    for nowhere in (tmp_path / "nowhere", "./zoo", "../zoo"):
        with pytest.raises(ValueError, match="no folder and no name"):
            zoo.load(nowhere)


def test_arrays_of_anybody(tmp_path, getkey):
    build = lambda key: rd.models.LowRankRNN(
        1, 10, 1, rank=2, tau=0.02, form="rate", scale="1", latent_readout=True, key=key
    )
    nets = rd.models.ensemble(build, jax.random.split(getkey(), 5))
    arrays = {k: getattr(nets, k) for k in ("m", "n", "W_in", "b", "W_out", "b_out")}
    arrays |= {"tau": nets.tau, "seed": np.arange(5), "delay": np.full(5, 0.1)}
    network = {"form": "rate", "scale": "1", "latent_readout": True}
    kept = zoo.save(arrays, tmp_path / "a", network=network, rows=[4, 1, 2])
    assert kept.table["seed"].tolist() == [4, 1, 2]
    assert kept.rows(tau=0.02).tolist() == kept.rows(tau=np.float64(0.02)).tolist()
    assert len(kept.rows(tau=0.02)) == 3
    whole = arrays | {"tau": np.ones(5, int)}
    whole = zoo.save(whole, tmp_path / "whole", network=network)
    assert len(whole.rows(tau=1)) == 5
    again = zoo.validate(tmp_path / "a").ensemble()
    x = jax.random.normal(getkey(), (10,))
    f = jax.vmap(lambda net: net(0.0, x.astype(net.m.dtype)))
    index = jnp.asarray([4, 1, 2])
    np.testing.assert_allclose(
        jax.vmap(lambda n: n(0.0, x))(rd.models.member(nets, index)),
        f(again),
        rtol=1e-4,
        atol=1e-4,
    )

    bad = {"W": np.full((2, 3, 3), np.nan), "mechanism": np.asarray([2, 70])}
    with pytest.raises(ValueError, match="W holds numbers that are not finite") as info:
        zoo.save(bad, tmp_path / "b")
    assert "mechanism holds codes 2 .. 70" in str(info.value)
    assert not (tmp_path / "b").exists()
    for arrays, match in (
        ({"seed": np.arange(3)}, "no weights"),
        ({"W": np.zeros((2, 3, 3)), "b": np.zeros((3, 3))}, "leading axes"),
        ({"W": np.zeros((0, 3, 3))}, "no networks"),
        ({"W": np.zeros((1, 3, 3)), "color": np.zeros(1)}, "color is not part"),
    ):
        with pytest.raises(ValueError, match=match):
            zoo.save(arrays, tmp_path / "b")
    with pytest.raises(ValueError, match="there already"):
        zoo.save({"W": np.zeros((1, 3, 3))}, tmp_path / "a")
    with pytest.raises(ValueError, match="expected some of"):
        zoo.save({"W": np.zeros((1, 3, 3))}, tmp_path / "c", network={"color": "red"})


@pytest.mark.slow
def test_networks_of_different_kinds(tmp_path):
    grid = {"units": [6, 8], "seed": 2}
    config = sweeps.SweepConfig.from_dict({"grid": grid, **CONFIG, "min_epochs": 2})
    kept = zoo.save(sweeps.run(config, tmp_path / "s"), tmp_path / "z", curves=False)
    assert kept.ensemble(kept.rows(units=6)).W.shape == (2, 6, 6)
    assert kept.ensemble([3]).W.shape == (1, 8, 8)
    assert kept.curves() == {}
    with pytest.raises(ValueError, match="different kinds or sizes"):
        kept.ensemble()
    assert kept.to_xarray()["delay"].attrs["unit"] == "s"


class FakeHub:
    """What `huggingface_hub.HfApi` does, in a folder."""

    def __init__(self, root):
        self.root = root
        self.calls = []

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert repo_type == "dataset" and exist_ok
        self.calls.append(("create", repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(
        self, *, repo_id, repo_type, folder_path, commit_message, allow_patterns
    ):
        self.calls.append(("upload", repo_id, commit_message))
        for name in allow_patterns:
            shutil.copy(f"{folder_path}/{name}", self.root / repo_id / name)

    def snapshot_download(self, *, repo_id, repo_type, revision, local_dir):
        self.calls.append(("download", repo_id, revision))
        return str(self.root / repo_id)


def test_to_a_hub_and_back(kept, tmp_path):
    hub = FakeHub(tmp_path)
    assert zoo.push(kept.path, "lab/nets", api=hub).endswith("datasets/lab/nets")
    back = zoo.load("hf://lab/nets@v1", api=hub)
    np.testing.assert_array_equal(back.table["id"], kept.table["id"])
    assert [c[0] for c in hub.calls] == ["create", "upload", "download"]
    assert hub.calls[-1] == ("download", "lab/nets", "v1")
    (tmp_path / "lab/nets" / "weights-00000.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="does not have the checksum"):
        zoo.load("lab/nets", api=hub)
    with pytest.raises(ValueError, match="does not have the checksum"):
        zoo.push(tmp_path / "lab/nets", "lab/other", api=hub)
    with pytest.raises(ValueError, match='expected "owner/name"'):
        zoo.push(kept.path, "lab nets", api=hub)
    with pytest.raises(ValueError, match="is a file, expected the folder"):
        zoo.load(kept.path / "zoo.json", api=hub)
    assert len(hub.calls) == 4  # nothing was sent


def arrays_of(rng, n):
    """Weights by the names of the paper's code."""
    return {
        "W_in.weight": rng.normal(size=(n, 2)),
        "W_in.bias": rng.normal(size=n),
        "W_rec.weight": rng.normal(size=(n, n)),
        "W_rec.bias": rng.normal(size=n),
        "W_out.weight": rng.normal(size=(2, n)),
        "W_out.bias": rng.normal(size=2),
    }


def test_the_layout_of_the_paper(tmp_path, getkey):
    rng = np.random.default_rng(0)
    cells = [(0.1, 0.02, 0, 1), (0.1, 0.02, 1, 2), (0.0316227766016838, 0.1, 0, 0)]
    for rate, delay, seed, code in cells:
        path = tmp_path / "results" / f"lr{rate}_delay_{delay}" / f"process_{seed}"
        path.mkdir(parents=True)
        np.savez(path / "model_final.npz", **arrays_of(rng, 10))
        good = np.full(1300, 0.95 if code else 0.5)
        np.savez(
            path / "training_details.npz",
            loss_list=np.arange(1300.0),
            reaction_accuracy_list=good,
            reaction_reliability_list=good,
            W_rec_grad_list=good,
        )
        (path / "class.txt").write_text(str(code))
        if code:
            (path / "psd_ratio.txt").write_text("0.0131")
    arrays = zoo.read_paper_layout(tmp_path / "results")
    assert arrays["W"].shape == (3, 10, 10)
    assert arrays["learning_rate"].tolist() == [0.0316227766016838, 0.1, 0.1]
    assert arrays["compat_code"].tolist() == [0, 1, 2]
    assert arrays["outcome"].tolist() == [0, 1, 1]
    np.testing.assert_array_equal(arrays["last_loss"][0], np.arange(300, 1300))
    assert np.isnan(arrays["compat_index"][0]) and arrays["compat_index"][1] == 0.0131
    kept = zoo.save(arrays, tmp_path / "z", network={"readout": "sigmoid"})
    net = rd.models.member(kept.ensemble(), 2)
    # One Euler step of the published network.
    r, u, dt = rng.normal(size=10), np.asarray([0.0, 1.0]), 5e-3
    w = {k: np.asarray(arrays[k][2], np.float64) for k in ("W", "W_in", "b", "b_in")}
    new = 0.5 * r + 0.5 * np.tanh(w["W"] @ r + w["b"] + w["W_in"] @ u + w["b_in"])
    step = net.map(dt)(jnp.asarray(r, jnp.float32), jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(step, new, rtol=1e-5, atol=1e-5)

    folder = tmp_path / "results" / "lr0.1_delay_0.02" / "process_1"
    with pytest.raises(ValueError, match="last = 0"):
        zoo.read_paper_layout(tmp_path / "results", last=0)
    (folder / "class.txt").write_text("")
    with pytest.raises(ValueError, match=r"process_1/class\.txt holds ''"):
        zoo.read_paper_layout(tmp_path / "results")
    (folder / "class.txt").write_text("1")
    np.savez(folder / "training_details.npz", loss_list=good)
    with pytest.raises(ValueError, match=r"process_1/training_details\.npz holds"):
        zoo.read_paper_layout(tmp_path / "results")
    (folder / "training_details.npz").unlink()
    np.savez(folder / "model_final.npz", **arrays_of(rng, 7))
    with pytest.raises(ValueError, match="W of shapes"):
        zoo.read_paper_layout(tmp_path / "results")
    (folder / "model_final.npz").rename(folder / "model_final.pt")
    with pytest.raises(ValueError, match=r"There is a model_final\.pt: convert it"):
        zoo.read_paper_layout(tmp_path / "results")
    with pytest.raises(ValueError, match="holds no lr"):
        zoo.read_paper_layout(tmp_path)


def test_chosen_networks_keep_their_rows(sweep, tmp_path):
    rows = [5, 2, 7]
    loaded = zoo.save(sweep, tmp_path / "chosen", rows=rows)
    rd.zoo.load(loaded.path, check=True)
    np.testing.assert_array_equal(loaded.table["id"], sweep.arrays["id"][rows])
    theirs, _ = sweep.networks(rows)
    np.testing.assert_array_equal(loaded.weights()["W"], theirs.W)
    last = zoo.save(sweep, tmp_path / "last", rows=[7, 6, 0])
    np.testing.assert_array_equal(last.weights([2])["W"], sweep.networks([0])[0].W)
    weights = last.path / "weights-00000.safetensors"
    assert rd.models.network_dt(weights, member=0) == last.table["dt"][0]


def test_a_sweep_that_was_changed_is_not_vouched_for(sweep, tmp_path):
    shutil.copytree(sweep.store.out, tmp_path / "sweep")
    (file,) = (tmp_path / "sweep/shards/00001").glob("weights.safetensors")
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="shards/00001: weights.safetensors differ"):
        zoo.save(tmp_path / "sweep", tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_durations_of_cues_are_no_coordinate_of_labels(sweep, kept):
    for table, row in ((sweep.to_xarray(), "member"), (kept.to_xarray(), "network")):
        assert table["cue"].dims == (row,) and not table.coords
        for name in {"cue_code", "margin"} & set(table):
            assert table[name].dims == (row, "condition")


def test_the_form_decides_what_is_built(tmp_path):
    current = zoo.save(PAIR, tmp_path / "current", network={"form": "current"})
    assert isinstance(current.ensemble(), rd.models.CurrentRNN)
    one = rd.load_network(current.path / "weights-00000.safetensors", member=1)
    assert isinstance(one, rd.models.CurrentRNN)
    for wrong, said in (
        ({"form": "foo"}, "form = 'foo'"),
        ({"activation": "bar"}, "activation = 'bar'"),
        ({"form": "current", "class": "RateRNN"}, "disagree"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.save(PAIR, tmp_path / "wrong", network=wrong)


def test_weights_that_make_no_network_are_not_saved(kept, tmp_path):
    wide = {"m": np.ones((2, 3, 1)), "n": np.ones((2, 3, 1)), "tau": np.ones(2)}
    for arrays, network, said in (
        ({"W": PAIR["W"]}, {}, "do not make a RateRNN .* 'tau'"),
        ({"tau": PAIR["tau"]}, {}, "do not make a RateRNN .* 'W'"),
        (PAIR | {"b": np.ones((2, 4))}, {}, r"b has shape \(4,\), expected \(3\)"),
        (PAIR | {"tau": 0.1}, {}, "an entry a network"),
        (wide, {"scale": "2"}, "scale = '2'"),
        (PAIR | {"m": wide["m"]}, {"class": "RateRNN"}, "do not make a RateRNN"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.save(arrays, tmp_path / "wrong", network=network)
    with pytest.raises(ValueError, match="per_file = 0"):
        zoo.save(PAIR, tmp_path / "wrong", per_file=0)
    assert not list(tmp_path.iterdir())
    # Neither are they valid if somebody changed what they are said to be.
    copy = shutil.copytree(kept.path, tmp_path / "copy")
    about = json.loads((copy / "zoo.json").read_text())
    about["groups"][0]["network"]["activation"] = "bar"
    (copy / "zoo.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="activation = 'bar'"):
        zoo.validate(copy)


def test_sources_of_another_kind_without_a_type_checker(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    net = rd.models.RateRNN.from_arrays(PAIR["W"][0], tau=0.1)
    with pytest.raises(ValueError, match="source is a RateRNN, expected a sweep"):
        zoo.save(net, tmp_path / "net")
    with pytest.raises(ValueError, match=r"authors = 'Me', expected names"):
        zoo.save(PAIR, tmp_path / "mine", authors="Me")


def test_time_constants_and_noise_of_a_sweep_are_in_the_table(tmp_path):
    grid = {"tau": [0.01, 0.02], "noise": [0.0, 1e-3]}
    config = sweeps.SweepConfig.from_dict({"grid": grid, **CONFIG})
    swept = sweeps.run(config, tmp_path / "sweep")
    kept = zoo.save(swept, tmp_path / "zoo")
    for name in grid:
        np.testing.assert_array_equal(kept.table[name], swept.arrays[name])
    rows = kept.rows(tau=0.02, noise=1e-3)
    assert len(rows) == 1
    np.testing.assert_allclose(kept.weights(rows)["tau"], 0.02, rtol=1e-6)
    card = (tmp_path / "zoo" / "README.md").read_text()
    assert "- `tau`: 0.01 to 0.02, 2 values" in card
    assert "| `evidence_period` | network, cue | s |" in card
    assert "see rnndyn" not in card


def test_damaged_parts_are_not_read(kept, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(kept.path, path)
    for name in ("weights-00000.safetensors", "curves-00000.safetensors"):
        content = bytearray((path / name).read_bytes())
        content[-3] ^= 1
        (path / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match="not a valid data set") as error:
        zoo.validate(path)
    assert str(error.value).count("does not have the checksum") == 2
    found = zoo.load(path)
    with pytest.raises(ValueError, match="weights-00000.* was changed"):
        found.ensemble([0])
    with pytest.raises(ValueError, match="curves-00000.* was changed"):
        found.curves()
    about = json.loads((path / "zoo.json").read_text())
    (path / "zoo.json").write_text(json.dumps(about | {"files": None}))
    with pytest.raises(ValueError, match="no checksums by name"):
        zoo.load(path)
    (path / "zoo.json").write_bytes(b"\xff{}")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        zoo.load(path)


def test_files_without_a_checksum_are_named(kept, tmp_path):
    copy = shutil.copytree(kept.path, tmp_path / "copy")
    about = json.loads((copy / "zoo.json").read_text())
    (copy / "zoo.json").write_text(json.dumps(about | {"files": {}}))
    with pytest.raises(ValueError, match="weights-00000.safetensors has no checksum"):
        zoo.validate(copy)
