"""Sweeps end to end: same networks however they are cut, interrupted and spread."""

import inspect
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import rnndyn as rd
from rnndyn import sweeps
from rnndyn.sweeps import _grid, _labels, _run
from rnndyn.sweeps.disk import _claim, _store
from rnndyn.training import ModelStart, Recipe, _slots, run_trials


def small(**changes):
    axes = {"learning_rate": [0.3, 0.03], "delay": [0.0, 0.1], "seed": 3}
    plain = dict(
        grid=axes,
        units=8,
        batch=4,
        min_epochs=40,
        rate_epochs=3.0,
        record_every=15,
        last=30,
        shard_size=3,
        pad_steps=16,
        labels=(),
    )
    return sweeps.SweepConfig.from_dict(plain | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    before = programs()
    sweep = sweeps.run(small(), out)
    # 12 networks in 4 shards of 2 lengths, of 40 and 100 epochs: two programs.
    assert len(sweep.finished) == 4
    assert programs() == before + 2
    return sweep


def programs():
    return _slots.advance_slots._cached._cache_size()


def weights(sweep):
    return {
        int(sweep.arrays["id"][row]): np.concatenate(
            [np.ravel(leaf[i]) for leaf in jax.tree.leaves(networks)]
        )
        for rows, networks, _ in sweep.groups()
        for i, row in enumerate(rows)
    }


def same(a, b, tolerance=1e-6):
    ours, theirs = weights(a), weights(b)
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], rtol=tolerance, atol=tolerance)
    for name in ("outcome", "steps", "compat_code", "mechanism", "diverged"):
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


def test_rows_are_in_the_order_of_the_grid(done):
    assert done.complete and len(done) == 12
    members = done.config.members()
    np.testing.assert_array_equal(done.rows, np.arange(12))
    np.testing.assert_array_equal(done.arrays["id"], members.id)
    for name, values in members.values.items():
        np.testing.assert_array_equal(done.arrays[name], values)
    np.testing.assert_array_equal(done.arrays["steps"], members.epochs)
    assert set(members.epochs.tolist()) == {40, 100}
    cube = done.cube("final_loss")
    assert cube.shape == (2, 2, 3) and np.all(np.isfinite(cube))
    np.testing.assert_array_equal(cube.ravel(), done.arrays["final_loss"])


def test_networks_are_those_that_training_by_hand_gives(done):
    rows = np.flatnonzero(done.arrays["delay"] == 0.1)
    networks, tasks = done.networks(rows)
    members = done.config.members().rows(rows)
    root = jr.key(0)
    with jax.enable_x64(False):
        build = lambda key: rd.models.RateRNN(
            2, 8, 2, tau=0.01, noise=1e-3, readout="sigmoid", init=rd.models.Xavier(),
            key=key,
        )  # fmt: skip
        nets = rd.models.ensemble(build, _grid.seed_keys(root, members.values["seed"]))
        recipe = rd.training.Recipe(optimiser=rd.training.sgd(), batch=4)
        begin = lambda net, rate, key: rd.training.init(
            net, recipe, learning_rate=rate, key=key
        )
        rates = np.asarray(members.values["learning_rate"], np.float32)
        states = jax.vmap(begin)(
            nets, rates, _grid.id_keys(root, members.id, _grid.DATA)
        )
        by_hand = rd.training.train(
            states,
            rd.tasks.DelayedCueDiscrimination.stack([0.1] * 6, num_steps=48),
            optimiser=rd.training.sgd(),
            learning_rate=None,
            steps=members.epochs,
            batch=4,
            key=root,
        )
    np.testing.assert_allclose(networks.W, by_hand.models.W, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(done.arrays["outcome"][rows], by_hand.outcome)
    assert int(tasks.delay_steps[0]) == 20
    # Curves: the last epochs, ending in the last column; records at the stride.
    curves = {k: v[rows] for k, v in done.curves().items()}
    for i, epochs in enumerate(members.epochs):
        loss = np.asarray(by_hand.losses)[i, :epochs]
        np.testing.assert_allclose(curves["last_loss"][i], loss[-30:], rtol=1e-3)
        records = [*range(14, epochs, 15), *([epochs - 1] if epochs % 15 else [])]
        history = curves["history_loss"][i]
        np.testing.assert_allclose(
            history[np.isfinite(history)], loss[records], rtol=1e-3
        )


def test_nothing_is_done_twice_and_other_sweeps_are_refused(done):
    out = done.store.out
    stamp = lambda: {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    before = stamp()
    again = sweeps.run(small(name="another name"), out)
    changed = {p.name for p, t in stamp().items() if before.get(p) != t}
    assert changed == {"sweep.json"}
    same(again, done, 0)
    with pytest.raises(ValueError, match=r"(?s)another sweep.*batch: 4 -> 5"):
        sweeps.run(small(batch=5), out)
    with pytest.raises(ValueError, match="shard 4, expected 0 .. 3"):
        sweeps.run(small(), out, shards=[4])
    with pytest.raises(ValueError, match=r"no sweep\.json"):
        sweeps.load(out / "shards")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        sweeps.run(small(), out / "sweep.json")
    sweeps.run(small(), out)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 5])
def test_how_the_table_is_cut_does_not_matter(done, tmp_path, shards):
    same(sweeps.run(small(shard_size=shards), tmp_path), done)


@pytest.mark.slow
def test_every_learning_rate_is_the_same_in_any_chunk(tmp_path):
    rates = sweeps.preset("nopost").grid.axes["learning_rate"]
    config = small(
        grid={"learning_rate": rates, "seed": 1},
        units=16,
        delay=0.0,
        min_epochs=20,
        rate_epochs=0.0,
        shard_size=30,
    )
    # One device and two; four in a process of their own below.
    runs = [
        sweeps.run(config, tmp_path / str(chunk), chunk=chunk, devices=devices)
        for chunk, devices in ((1, 1), (7, 1), (64, 2))
    ]
    for other in runs[1:]:
        same(other, runs[0], 1e-5)


def test_resumes_in_the_middle_of_a_shard(done, tmp_path, monkeypatch):
    count = [0]
    write = _run.write_arrays

    def interrupted(*args):
        write(*args)
        count[0] += 1
        if count[0] % 2 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(_run, "write_arrays", interrupted)
    options = dict(checkpoint_seconds=0.0)
    stops = 0
    for _ in range(50):
        try:
            sweep = sweeps.run(small(), tmp_path, **options)
            break
        except KeyboardInterrupt:
            stops += 1
            state = sweeps.status(tmp_path).state
            assert "interrupted" in state and "running" not in state
    assert stops >= 2
    same(sweep, done)
    ours, theirs = sweep.curves(), done.curves()
    assert len(ours) == 7
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
    assert not list((tmp_path / "work").glob("*.safetensors"))
    assert set(sweeps.status(tmp_path).state) == {"done"}


def test_a_checkpoint_that_does_not_fit_is_ignored(done, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "00000.safetensors").write_bytes(b"half a file")
    _run.write_arrays(work / "00001.safetensors", {"a": np.ones(3)}, {"x": 1})
    same(sweeps.run(small(), tmp_path), done)


def test_shards_in_parts_and_by_threads_of_an_executor(done, tmp_path):
    first = sweeps.run(small(), tmp_path, shards=[2])
    assert first.finished == [2] and not first.complete
    assert np.isnan(first.cube("final_loss")).sum() == 9
    lines = []
    with ThreadPoolExecutor(2) as pool:
        sweep = sweeps.run(small(), tmp_path, executor=pool, say=lines.append)
    same(sweep, done)
    assert "1 shards are there" in lines[0] and len(lines) == 4
    assert sweeps.resume(tmp_path).complete


def test_a_shard_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    train = _run.train_shard

    def fails(config, shard, **options):
        if shard.index == 1:
            raise RuntimeError("out of luck")
        return train(config, shard, **options)

    monkeypatch.setattr(_run, "train_shard", fails)
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError) as caught:
        sweeps.run(small(), tmp_path, executor=pool)
    assert "shard 1 of" in caught.value.__notes__[0]
    assert sweeps.load(tmp_path).finished == [0, 2, 3]


def test_two_workers_on_the_same_shard_corrupt_nothing(done, tmp_path, monkeypatch):
    # Claims that never hold: both train every shard, one of them publishes it.
    monkeypatch.setattr(_claim.Claim, "_create", lambda self: True)
    found = []

    def worker():
        found.append(sweeps.run(small(), tmp_path, checkpoint_seconds=0.0))

    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for sweep in found:
        same(sweep, done)
    for folder in (tmp_path / "shards").iterdir():
        sweeps.verify(folder)
    assert not list((tmp_path / "shards").glob(".*"))


def test_labels_and_merged_store(done, tmp_path):
    config = small(labels=("compat",), name="labelled")
    out = tmp_path / "copy"
    shutil.copytree(done.store.out, out)
    sweep = sweeps.run(config, out)  # labels are no reason to train again
    same_networks = weights(sweep), weights(done)
    for key, value in same_networks[0].items():
        np.testing.assert_array_equal(value, same_networks[1][key])
    learned = sweep.arrays["outcome"] == 1
    assert np.all(np.isin(sweep.arrays["compat_code"][learned], (1, 2)))
    assert np.all(np.isin(sweep.arrays["compat_code"][~learned], (0, 3)))
    np.testing.assert_array_equal(np.isnan(sweep.arrays["compat_index"]), ~learned)
    assert set(sweep.arrays["mechanism"].tolist()) == {-1}
    # Labels of the other kind are added, not exchanged.
    for shard in sweep.store.shards:
        found = _labels.blank(len(shard.rows), 2)
        found["mechanism"] += 3
        store = _store.Store(out, small(labels=("primary",)))
        assert not store.is_labelled(shard.index)
        assert store.write_labels(shard, found, 1.0)
        assert store.is_labelled(shard.index)
    both = sweeps.load(out)
    assert set(both.arrays["mechanism"].tolist()) == {2}
    for name in ("compat_code", "compat_index", "compat_ambiguous"):
        np.testing.assert_array_equal(both.arrays[name], sweep.arrays[name])
    assert sweep.store.is_labelled(0)

    # Evidence is known by name: labels of a version that kept other numbers are made
    # anew when asked for, and read as far as they go until then.
    store, shard = _store.Store(out, small(labels=("primary",))), sweep.store.shards[0]
    old = out / "labels" / "00000" / "labels.zarr" / "cue_evidence" / "zarr.json"
    old.write_text(old.read_text().replace("late_peak", "late_mean"))
    assert not store.is_labelled(0) and store.is_labelled(1)
    there = np.isin(sweeps.load(out).rows, shard.rows)
    assert np.isnan(sweeps.load(out).arrays["evidence_late_peak"][there]).all()
    assert store.write_labels(shard, _labels.blank(len(shard.rows), 2), 1.0)
    assert store.is_labelled(0)
    # So are labels by other rules of the same numbers.
    manifest = out / "labels" / "00000" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"rules": 1}))
    assert not store.is_labelled(0) and sweep.store.is_labelled(1)
    manifest.write_text(text)
    # Others may be added meanwhile: they stay, and count as of the other version.
    folder, shard = out / "labels" / "00001", sweep.store.shards[1]
    old = folder / "labels.zarr" / "cue_evidence" / "zarr.json"
    old.write_text(old.read_text().replace("late_peak", "late_mean"))
    about = json.loads((folder / "manifest.json").read_text()) | {"labels": ["primary"]}
    (folder / "manifest.json").write_text(json.dumps(about))
    assert sweep.store.write_labels(shard, _labels.blank(len(shard.rows), 2), 1.0)
    assert sweep.store.is_labelled(1) and not store.is_labelled(1)
    there = np.isin(sweeps.load(out).rows, shard.rows)
    assert set(sweeps.load(out).arrays["mechanism"][there].tolist()) == {2}
    (folder / "labels.zarr" / "cue_evidence" / "zarr.json").unlink()
    assert not store.is_labelled(1)
    with pytest.raises(ValueError, match="lacks"):
        sweeps.load(out)
    shutil.rmtree(folder)
    assert store.write_labels(shard, _labels.blank(len(shard.rows), 2), 1.0)
    for shard in sweep.store.shards:
        if not sweep.store.is_labelled(shard.index):
            sweep.store.write_labels(shard, _labels.blank(len(shard.rows), 2), 1.0)
    fractions = sweep.fractions("compat")
    assert fractions.dims == ("learning_rate", "delay")
    assert fractions.counts.shape == (2, 2, 3) and np.all(fractions.n == 3)
    np.testing.assert_allclose(fractions.values.sum(axis=-1), 1)
    assert fractions.of("slow_point").shape == (2, 2)
    assert "learning_rate" in fractions.table()
    assert np.all(sweep.fractions("outcome").n == 3)

    folder = sweeps.merge(out)
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(folder / "sweep.zarr", consolidated=False) as data:
        np.testing.assert_array_equal(data["outcome"], sweep.arrays["outcome"])
        assert data["compat_code"].attrs["names"].startswith("not_learned, limit")
        assert data["last_loss"].dims == ("member", "last")
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert sweeps.merge(out) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    # What is broken there is made again.
    for broken in ("manifest.json", "sweep.zarr/zarr.json"):
        (folder / broken).write_text("{}")
        sweeps.verify(sweeps.merge(out))
    (out / "labels" / "00000" / "labels.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match=r"labels\.zarr/zarr\.json differ"):
        sweeps.merge(out)


def test_weights_are_files_that_anybody_can_load(done):
    path = done.store.folder("shards", 0) / "weights.safetensors"
    model = rd.load_network(path, member=1)
    row = done.store.shards[0].rows[1]
    networks, _ = done.networks([row])
    np.testing.assert_array_equal(model.W, networks.W[0])
    assert model.readout_activation == "sigmoid"
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["config_hash"] == done.config.hash
    assert {"jax", "python", "rnndyn"} <= set(manifest["versions"])
    assert set(manifest["files"]) >= {"weights.safetensors"}
    with pytest.raises(ValueError, match="2 programs"):
        done.networks(slice(None))


@pytest.mark.slow
def test_no_memory_control(tmp_path):
    config = small(
        grid={"learning_rate": [0.1, 30.0], "reaction": [0.02, 0.1], "seed": 2},
        protocol="fixed_response",
        delay=0.0,
        min_epochs=300,
        rate_epochs=0.0,
        units=16,
    )
    sweep = sweeps.run(config, tmp_path)
    outcome = sweep.cube("outcome")
    assert np.all(outcome[0] == 1) and np.all(outcome[1] == 0)
    given_up = sweep.cube("stopped") | sweep.cube("diverged")
    assert np.all(given_up[1]) and not np.any(given_up[0])
    assert set(sweep.arrays["compat_code"].tolist()) == {-1}


@pytest.mark.slow
def test_primary_labels_are_those_of_classify(done, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(done.store.out, out)
    sweep = sweeps.run(small(labels=("primary", "compat")), out, shards=[0, 1])
    short = np.flatnonzero(sweep.arrays["delay"] == 0.0)
    networks, tasks = sweep.networks(short)
    report = rd.classify(networks, tasks, key=jr.key(5))
    np.testing.assert_array_equal(sweep.arrays["cue_code"][short], report.cue_code)
    np.testing.assert_array_equal(sweep.arrays["flow_code"][short], report.flow_code)
    np.testing.assert_allclose(
        sweep.arrays["evidence_late_rms"][short], report.features.late_rms, rtol=1e-4,
        atol=1e-6,
    )  # fmt: skip
    assert np.all(sweep.arrays["cue_code"][sweep.arrays["delay"] == 0.1] == -1)
    assert sweep.fractions("mechanism").n.tolist() == [[3, 0], [3, 0]]


@pytest.mark.slow
def test_submitit(done, tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(folder=tmp_path / "log", cluster="local")
    executor.update_parameters(timeout_min=5)
    sweep = sweeps.run(small(), tmp_path / "out", executor=executor, devices=2)
    same(sweep, done, 1e-4)


@pytest.mark.parametrize("protocol", ["delayed_cue", "delayed_activation"])
def test_networks_are_tried_as_they_were_trained(protocol):
    config = sweeps.SweepConfig(grid=sweeps.Grid(seed=1), protocol=protocol)
    recipe = Recipe(**config.rules.recipe(sweeps.plan(config)[0].shape))
    options = inspect.signature(rd.mechanisms.measure).parameters
    options = {k: v.default for k, v in options.items()} | dict(config.rules.scoring)
    scale = 0 if isinstance(recipe.start, ModelStart) else recipe.start.scale
    assert options["readout"] == recipe.readout and options["spread"] == scale


@pytest.mark.slow
def test_rank_two(tmp_path):
    config = sweeps.preset(
        "rank2", seeds=2, delay=[0.03], units=20, min_epochs=60, record_every=20,
        long_epochs=0, labels=("primary",),
    )  # fmt: skip
    sweep = sweeps.run(config, tmp_path)
    assert sweep.cube("steps").tolist() == [[[60, 60]], [[60, 60]]]

    def alone(net, task):
        none = jnp.zeros((1, task.num_steps, 0), net.x0.dtype)
        options = {"readout": "after", "key": jr.key(0)}
        outputs = run_trials(net, net.x0[None], none, task.dt, **options)
        return task.score(task.trial(0, key=jr.key(0)), outputs[:, 0])

    for rows, networks, tasks in sweep.groups():
        assert networks.m.shape == (2, 20, 2) and tasks.delay_steps.tolist() == [6, 6]
        scores = jax.vmap(alone)(networks, tasks)
        for name, value in vars(scores).items():
            found = sweep.arrays["evidence_" + name][rows]
            np.testing.assert_allclose(found, value, atol=1e-4)
    x0 = [np.asarray(n.x0) for _, n, _ in sweep.groups()]
    np.testing.assert_array_equal(x0[0], x0[1])  # of a seed, in every cell


def test_another_order_of_axes_is_another_sweep(done):
    turned = small(grid={"delay": [0.0, 0.1], "learning_rate": [0.3, 0.03], "seed": 3})
    with pytest.raises(ValueError, match="order of axes: learning_rate, delay"):
        sweeps.run(turned, done.store.out)


def test_networks_with_steps_of_their_own_and_no_seeds(tmp_path):
    grid = {"dt": [0.005, 0.01], "learning_rate": [0.3, 0.1]}
    config = small(grid=grid, units=9, delay=0.0, min_epochs=2, rate_epochs=0.0)
    sweep = sweeps.run(config, tmp_path)
    for shard in sweep.store.shards:
        path = sweep.store.folder("shards", shard.index) / "weights.safetensors"
        dt = sweep.arrays["dt"][shard.rows[0]]
        assert rd.models.network_dt(path, member=0) == dt
    # A cell of a grid without seeds is one network.
    found = sweep.fractions("outcome")
    assert found.dims == ("dt", "learning_rate") and np.all(found.n == 1)
    assert sweep.fractions("outcome", axis="dt").counts.sum() == 4
    with pytest.raises(ValueError, match="axis = 'delay'"):
        sweep.fractions("outcome", axis="delay")


def test_a_shard_that_lost_a_file_is_refused(done, tmp_path):
    for name, change in (
        ("row", lambda path: path.unlink()),
        ("final_loss", lambda path: path.unlink()),
        ("final_loss", lambda path: path.write_bytes(path.read_bytes()[:3])),
    ):
        out = tmp_path / "broken"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(done.store.out, out)
        change(out / "shards" / "00001" / "curves.zarr" / name / "c" / "0")
        for read in (sweeps.load, sweeps.merge, sweeps.resume):
            with pytest.raises(ValueError, match=r"00001.*run the sweep again"):
                read(out)
    # A bit of the weights, and a manifest that is none.
    path = out / "shards" / "00000" / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.rmtree(out / "shards" / "00001")
    with pytest.raises(ValueError, match=r"weights.*not what its manifest says"):
        sweeps.load(out).groups()
    about = path.with_name("manifest.json")
    for text in ("[]", "{"):
        was = about.read_text()
        about.write_text(text)
        for read in (sweeps.load, sweeps.status):
            with pytest.raises(ValueError, match=r"manifest.*run the sweep again"):
                read(out)
        about.write_text(was)
    (out / "sweep.json").unlink()
    with pytest.raises(ValueError, match="00000 belongs to another configuration"):
        sweeps.run(small(noise=0.5), out)
    shutil.rmtree(out)
    shutil.copytree(done.store.out, out)
    shutil.rmtree(out / "shards" / "00001" / "curves.zarr")
    with pytest.raises(ValueError, match=r"00001 lacks .*run the sweep again"):
        sweeps.load(out)


def test_impossible_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="config is a str, expected a SweepConfig"):
        sweeps.run("sweep.toml", tmp_path)
    for name in ("chunk", "lanes", "devices"):
        with pytest.raises(ValueError, match=f"{name} = 0, expected a whole number"):
            sweeps.run(small(), tmp_path, **{name: 0})
    assert not list(tmp_path.iterdir())


def test_one_network_is_chosen_by_its_number(done):
    one, _ = done.networks(3)
    np.testing.assert_array_equal(one.W, done.networks([3])[0].W)
    with pytest.raises(ValueError, match="rows do not fit 12 networks"):
        done.networks([12])
    with pytest.raises(ValueError, match="no networks were chosen"):
        done.networks([])
