"""Grids, members and configurations: what a sweep is, before anything is trained."""

import jax
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

from rnndyn import sweeps
from rnndyn.sweeps import _config, _grid


Grid, SweepConfig = sweeps.Grid, sweeps.SweepConfig


def test_columns_are_in_c_order_and_seeds_may_be_counted():
    grid = Grid(learning_rate=[0.1, 0.01], delay=[0.0, 0.1, 0.2], seed=4)
    assert grid.shape == (2, 3, 4) and grid.size == 24
    columns = grid.columns()
    assert columns["seed"].tolist() == [0, 1, 2, 3] * 6
    assert columns["delay"].reshape(2, 3, 4)[1, :, 0].tolist() == [0.0, 0.1, 0.2]
    assert grid == Grid(grid.axes) and hash(grid) == hash(Grid(grid.axes))
    assert grid != Grid(delay=[0.0, 0.1, 0.2], learning_rate=[0.1, 0.01], seed=4)


def test_ids_depend_on_nothing_but_the_member():
    wide = SweepConfig(grid=Grid(learning_rate=[0.1, 0.01], delay=[0.0, 0.1], seed=9))
    # Other axes, another order, the learning rate a fixed value with rounding noise.
    narrow = SweepConfig(
        grid=Grid(seed=[5, 2], delay=[0.1]), learning_rate=0.1 * (1 + 1e-15), batch=128
    )
    ids = wide.members().id.reshape(wide.grid.shape)
    assert len(set(ids.ravel().tolist())) == ids.size
    assert narrow.members().id.tolist() == [ids[0, 1, 5], ids[0, 1, 2]]
    assert np.all(ids >= 0)
    # Frozen: members of published data sets must be found again.
    assert _grid.member_id({"seed": 3, "delay": 0.1}) == 5031761857733399034


def test_initial_weights_belong_to_the_seed_and_noise_to_the_member():
    config = SweepConfig(
        grid=Grid(learning_rate=[0.1, 0.3], delay=[0.0, 0.02], seed=3),
        units=6,
        shard_size=12,
        pad_steps=32,
    )
    shards = sweeps.plan(config)
    assert len(shards) == 1
    networks, tasks = _shard_networks(config, shards[0])
    W = np.asarray(networks.W).reshape(2, 2, 3, 6, 6)
    assert np.array_equal(W, np.broadcast_to(W[:1, :1], W.shape))
    assert len({w.tobytes() for w in W[0, 0]}) == 3
    np.testing.assert_array_equal(
        tasks.delay_steps, [0] * 3 + [4] * 3 + [0] * 3 + [4] * 3
    )
    assert networks.W.dtype == np.float32  # also in a process that runs in float64
    keys = _grid.id_keys(jr.key(0), config.members().id, _grid.DATA)
    assert len({k.tobytes() for k in np.asarray(jax.random.key_data(keys))}) == 12


def _shard_networks(config, shard):
    from rnndyn.sweeps._shard import untrained

    networks, tasks = untrained(config, shard)
    order = np.argsort(shard.rows)
    back = lambda a: np.asarray(a)[order]
    return jax.tree.map(back, networks), jax.tree.map(back, tasks)


def test_published_sweeps():
    sizes = {n: sweeps.preset(n).grid.size for n in sweeps.PRESETS}
    assert sizes["nopost"] == sizes["nopost_broad"] + sizes["nopost_narrow"] == 63_000
    assert sizes["post"] == 6300 and sizes["longtau"] == 4200
    assert sizes["nomemory"] == 8000 and sizes["rank2"] == 1600
    whole = sweeps.preset("nopost")
    rates = np.asarray(whole.grid.axes["learning_rate"])
    assert np.all(np.diff(rates) < 0) and rates[0] == pytest.approx(10**-0.5)
    members = whole.members()
    lr = members.values["learning_rate"]
    np.testing.assert_array_equal(
        members.epochs, [max(1000, int(30 / r + 1e-6)) for r in lr]
    )
    steps = {s.shape.num_steps for s in sweeps.plan(whole, members)}
    assert steps == {16, 32, 48, 64, 80, 96}
    post = sweeps.preset("post").members()
    assert post.epochs.max() == 100_000 and set(post.values["post_reaction"]) == {0.03}
    rank2 = sweeps.preset("rank2").members()
    short = rank2.values["delay"] <= 0.0401
    assert set(rank2.epochs[short]) == {500_000}
    assert set(rank2.epochs[~short]) == {1_500_000}
    narrow = set(sweeps.preset("nopost_narrow").members().id.tolist())
    assert narrow <= set(members.id.tolist())


def test_presets_take_other_values():
    config = sweeps.preset("nopost", seeds=3, batch=32, delay=0.1, tau=0.02)
    assert config.grid.shape == (30, 1, 3) and config.batch == 32
    assert set(config.members().values["tau"]) == {0.02}
    with pytest.raises(ValueError, match="preset = 'nopast'"):
        sweeps.preset("nopast")
    with pytest.raises(ValueError, match="field = 'batches'"):
        sweeps.preset("nopost", batches=3)


def test_shards_share_a_program_and_hold_every_member_once():
    config = sweeps.preset("post", seeds=2, shard_size=70)
    members = config.members()
    shards = sweeps.plan(config, members)
    assert [s.index for s in shards] == list(range(len(shards)))
    rows = np.concatenate([s.rows for s in shards])
    assert sorted(rows.tolist()) == list(range(config.grid.size))
    assert max(len(s.rows) for s in shards) == 70
    for shard in shards:
        steps = 22 + np.round(members.values["delay"][shard.rows] / 5e-3)
        assert np.all(steps <= shard.shape.num_steps)
        assert np.all(steps > shard.shape.num_steps - 16)
        assert np.all(np.diff(members.epochs[shard.rows]) <= 0)
    # Members that differ in more than arrays do not share one.
    mixed = SweepConfig(grid=Grid(units=[5, 9], post_reaction=[0.0, 0.03], seed=2))
    assert len({s.shape for s in sweeps.plan(mixed)}) == 4


def test_toml(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        """
        name = "small"
        units = 20
        labels = ["compat"]
        [grid]
        learning_rate = { from = 0.1, to = 0.001, count = 3, spacing = "log" }
        delay = [0, 0.1]
        seed = 5
        """
    )
    config = SweepConfig.from_toml(path)
    assert config.grid.axes["learning_rate"] == (0.1, 0.01, 0.001)
    assert config.grid.shape == (3, 2, 5) and config.labels == ("compat",)
    assert SweepConfig.from_dict(config.to_dict()) == config
    path.write_text('preset = "post"\nseeds = 4\nbatch = 16\n[grid]\ndelay = [0.1]\n')
    config = SweepConfig.from_toml(path)
    assert config == sweeps.preset("post", seeds=4, batch=16, delay=[0.1])
    path.write_text("a = = b")
    with pytest.raises(ValueError, match="is not TOML"):
        SweepConfig.from_toml(path)
    with pytest.raises(ValueError, match="no file"):
        SweepConfig.from_toml(tmp_path / "none.toml")


def test_hash_is_of_what_is_trained():
    config = sweeps.preset("post", seeds=4)
    same = sweeps.preset("post", seeds=4, name="mine", labels=("compat",))
    assert same.hash == config.hash
    for change in ({"batch": 64}, {"root_seed": 1}, {"shard_size": 7}, {"noise": 0}):
        assert sweeps.preset("post", seeds=4, **change).hash != config.hash
    lines = _config.differences(
        config.to_dict(), sweeps.preset("post", seeds=5, delay=0.1, batch=64).to_dict()
    )
    assert "batch: 128 -> 64" in lines
    assert any(
        line.startswith("grid.delay: 21 values 0.0 .. 0.4 -> ") for line in lines
    )


def from_dict(**axes):
    """Axes, and fields whose name ends in an underscore, as a TOML file has them."""
    fields = {k[:-1]: axes.pop(k) for k in list(axes) if k.endswith("_")}
    return SweepConfig.from_dict({"grid": axes or {"seed": 1}, **fields})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Grid(), "without axes"),
        (lambda: Grid(delay=[]), "axis delay = "),
        (lambda: Grid(delay=[0.1, 0.1 + 1e-16]), "none twice"),
        (lambda: Grid(delay=[np.nan]), "finite"),
        (lambda: Grid(delay=[True]), "finite number"),
        (lambda: Grid(seed=[0.5]), "axis seed: 0.5, expected a whole"),
        (lambda: SweepConfig(grid=Grid(speed=[1.0])), "axis = 'speed'"),
        (lambda: SweepConfig(grid=Grid(seed=1), protocol="maze"), "protocol = 'maze'"),
        (lambda: SweepConfig(grid=Grid(seed=1), labels=("best",)), "label = 'best'"),
        (lambda: SweepConfig(grid=Grid(seed=1), min_epochs=0), "min_epochs = 0"),
        (lambda: SweepConfig(grid=Grid(learning_rate=[0.0])), "learning_rate = 0.0"),
        (lambda: SweepConfig.from_dict({"units": 3}), "no grid"),
        (
            lambda: sweeps.plan(SweepConfig(grid=Grid(delay=[0.0123]))),
            "delay = 0.0123 s is not",
        ),
        (
            lambda: SweepConfig.from_dict(
                {"grid": {"delay": {"from": 0.1, "step": 2}}}
            ),
            "axis delay",
        ),
        (lambda: from_dict(delay={"from": 0, "to": 1, "count": 2.5}), "count = 2.5"),
        (lambda: from_dict(delay={"from": "a", "to": 1, "count": 2}), "from = 'a'"),
        (lambda: from_dict(seed=True), "axis seed: True"),
        (lambda: from_dict(seed=[-1]), "seed = -1, expected 0"),
        (lambda: from_dict(seed=[2**32]), "seed = 4294967296, expected 0"),
        (lambda: from_dict(units=[0]), "units = 0, expected >= 1"),
        (lambda: from_dict(batch=[8, 0]), "batch = 0, expected >= 1"),
        (lambda: from_dict(tau=[0.1, 0.004]), "dt/tau = 1.25"),
        (lambda: SweepConfig.from_dict({"grid": 5}), "grid = 5, expected a table"),
        (lambda: from_dict(labels_=5), "labels = 5, expected a list"),
        (lambda: from_dict(name_=3), "name = 3, expected a string"),
        (lambda: from_dict(labels_="primary"), "labels = 'primary', expected a list"),
        (lambda: from_dict(rate_epochs_=-5), r"rate_epochs = -5\.0, expected >= 0"),
        (lambda: from_dict(noise_=-1), "noise = -1.0, expected >= 0"),
        (lambda: from_dict(root_seed_=-1), "root_seed = -1, expected 0"),
        (lambda: from_dict(momentum_=1.0), "momentum = 1.0, expected below 1"),
        (lambda: from_dict(weight_decay_=-1), "weight_decay = -1.0, expected >= 0"),
        (lambda: from_dict(cue=[0.0], delay=[0.0, 0.1]), "cue and delay = 0 s"),
        (lambda: from_dict(dt=[0.005, 0.004], delay=[0.03]), "multiple of dt = 0.004"),
        (lambda: from_dict(delay=[-0.02]), r"Nearest choices: 0\."),
        (lambda: from_dict(delay=[0.1], protocol_="fixed_response"), "axis = 'delay'"),
        (lambda: from_dict(cue=[0.1], protocol_="delayed_activation"), "axis = 'cue'"),
        (
            lambda: from_dict(delay={"from": 0, "to": 1, "count": 3, "spacing": "log"}),
            "ends above 0",
        ),
    ],
)
def test_impossible_sweeps(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("long_delay", "x", "long_delay = 'x', expected a finite number"),
        ("long_epochs", 0.5, "long_epochs = 0.5, expected a whole number"),
        ("protocol", ["a"], r"protocol = \['a'\] is not known"),
        ("tau", "a", "tau = 'a', expected a finite number"),
        ("root_seed", "x", "root_seed = 'x', expected a finite number"),
    ],
)
def test_fields_of_another_type_without_a_type_checker(
    field, value, match, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=match):
        SweepConfig.from_dict({"grid": {"seed": 1}, field: value})


def test_trials_without_a_delay_hold_nothing():
    grid = sweeps.Grid(learning_rate=[0.1], reaction=[0.05, 0.1])
    config = sweeps.SweepConfig(grid=grid, protocol="fixed_response")
    assert config.labels == ("compat",)
    assert sweeps.SweepConfig(grid=sweeps.Grid(seed=2)).labels == ("primary", "compat")
    # As a file of an earlier version may have it.
    given = config.to_dict() | {"labels": ["primary", "compat"]}
    assert sweeps.SweepConfig.from_dict(given) == config


def test_periods_must_be_whole_steps_before_anything_runs():
    with pytest.raises(ValueError, match="Nearest choices: 0.02 or 0.025"):
        sweeps.SweepConfig(grid=sweeps.Grid(delay=[0.02, 0.021]))
    with pytest.raises(ValueError, match="reaction"):
        sweeps.SweepConfig(grid=sweeps.Grid(seed=2), reaction=0.012)
    with pytest.raises(ValueError, match=r"reaction = 0\.0, expected > 0"):
        sweeps.SweepConfig(grid=sweeps.Grid(reaction=[0.05, 0.0]))


def test_numbers_of_numpy_are_numbers(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain = dict(units=9, min_epochs=7, long_epochs=8, long_delay=0.25)
    kinds = dict(zip(plain, (np.int64, float, np.int32, np.float32), strict=True))
    other = {k: kinds[k](v) for k, v in plain.items()}
    assert from_dict(**_fields(plain)).hash == from_dict(**_fields(other)).hash
    assert from_dict(**_fields(other)).to_dict()["min_epochs"] == 7
    with pytest.raises(ValueError, match="units = 0.5, expected a whole number"):
        from_dict(units_=0.5)


def _fields(values):
    return {f"{k}_": v for k, v in values.items()}
