"""Results as dictionaries and labelled arrays."""

import builtins
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import van_der_pol
from jaxtyping import Array, Bool, Complex, Float, Int

import rnndyn as rd
from rnndyn import Verdict
from rnndyn._core._export import Result, to_dict, to_xarray


xarray = pytest.importorskip("xarray")
ALONE = rd.dynamics.MultiStart(num_large=0, rounds=0)
STARTS = jnp.array([[1.0, 1.0], [0.1, -0.1], [-1.0, 1.0], [0.5, 0.0]])
WEIGHTS = jnp.stack([1.5 * jnp.eye(2), 2.0 * jnp.eye(2), 0.5 * jnp.eye(2)])


def field(t, x, W):
    return -x + jnp.tanh(W @ x)


def search(W):
    return rd.dynamics.fixed_points(field, STARTS, W, strategy=ALONE)


@pytest.fixture(scope="module")
def many():
    return eqx.filter_jit(eqx.filter_vmap(search))(WEIGHTS)


@pytest.fixture(scope="module")
def one(many):
    return jax.tree.map(lambda a: a[0], many)


@pytest.fixture(scope="module")
def cycle():
    return rd.dynamics.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6)


@pytest.fixture(scope="module")
def spectrum():
    stable = lambda t, x, args: jnp.array([-1.0, -2.0]) * x
    return rd.dynamics.lyapunov_spectrum(
        stable, jnp.ones(2), t_transient=40, t_total=64, dt=0.05, qr_every=5
    )


class Colour(enum.IntEnum):
    red = 3
    blue = 7


class Inner(Result):
    """An inner one.

    - `matrix`: what it does.
    """

    matrix: Float[Array, "state state"]


class Toy(Result):
    """A toy.

    **Attributes:**

    - `values`: first line,
        second line.
    - `low`, `high`: ends.
    """

    values: Complex[Array, "trial state"]
    low: Float[Array, " trial"]
    high: Float[np.ndarray | Array, " trial+1"]
    pair: Float[Array, "trial 2"]
    verdict: Int[Array, " trial"]
    colour: Int[Array, " trial"] = eqx.field(metadata={"flags": Colour})
    speed: Float[Array, ""] = eqx.field(metadata={"units": "s-1"})
    names: tuple[str, ...] = eqx.field(static=True, metadata={"dims": "trial"})
    inner: Inner
    extra: dict
    model: eqx.nn.Linear
    fn: object
    nothing: Float[Array, " state"] | None = None
    hidden: int = eqx.field(default=1, metadata={"export": False})
    _private: float = 2.0
    certified: bool = eqx.field(static=True, default=True)

    @property
    def largest(self) -> Float[Array, " state"]:
        """Made for one network: wrong if called on a batch."""
        return jnp.max(jnp.abs(self.values), axis=0)

    @property
    def mask(self) -> Bool[Array, " trial"]:
        """Which are roots."""
        return self.verdict == Verdict.root

    @property
    def helper(self):
        """Not an array: not exported."""
        return self.fn


def toy(x):
    return Toy(
        values=(x + 1j * jnp.arange(6.0)).reshape(2, 3),
        low=x * jnp.ones(2),
        high=x * jnp.ones(3),
        pair=jnp.ones((2, 2)),
        verdict=jnp.array([1, 10]),
        colour=jnp.array([3, 7]),
        speed=x,
        names=("a", "b"),
        inner=Inner(x * jnp.eye(3)),
        extra={"by_shape": x * jnp.ones((2, 3)), "odd": x * jnp.ones(5)},
        model=eqx.nn.Linear(2, 2, key=jax.random.key(0)),
        fn=jnp.tanh,
    )


def test_every_rule_on_a_toy():
    result = toy(jnp.asarray(1.5))
    table = result.to_dict()
    absent = {"model", "fn", "hidden", "_private", "helper"}
    assert not absent & set(table)
    assert table["values"].dtype == complex and table["speed"] == 1.5
    assert isinstance(table["speed"], np.floating)
    assert list(table["verdict_name"]) == ["root", "diverged"]
    assert list(table["colour_name"]) == ["red", "blue"]
    assert table["inner"]["matrix"].shape == (3, 3)
    assert table["names"] == ("a", "b") and table["nothing"] is None
    np.testing.assert_array_equal(table["mask"], [True, False])

    data = result.to_xarray()
    assert data.values_re.dims == ("trial", "state")
    np.testing.assert_array_equal(data.values_im[1], [3, 4, 5])
    assert data.values_re.attrs["description"] == "first line, second line"
    assert data.low.attrs["description"] == data.high.attrs["description"] == "ends"
    assert data.high.dims == ("trial_plus_1",) and data.pair.dims[0] == "trial"
    assert data.inner_matrix.dims == ("state", "state_2")
    assert data.extra_by_shape.dims == ("trial", "state")
    assert data.extra_odd.dims == ("extra_odd_axis0",)
    assert data.names.dims == ("trial",) and data.speed.attrs["units"] == "s-1"
    assert data.attrs == {"result": "Toy", "certified": 1}
    meanings = data.colour.attrs["flag_meanings"].split()
    assert dict(zip(data.colour.attrs["flag_values"], meanings, strict=True)) == {
        3: "red",
        7: "blue",
    }


def test_batch_is_a_stack_of_single_results():
    xs = jnp.array([1.0, 2.0, 3.0, 4.0])
    stacked = eqx.filter_vmap(toy)(xs)
    data = stacked.to_xarray()
    assert data.sizes["network"] == 4
    assert data.inner_matrix.dims == ("network", "state", "state_2")
    assert data.names.dims == ("trial",)
    for i in range(4):
        single = toy(xs[i]).to_xarray()
        for name in single:
            row = data[name]
            row = row.isel(network=i) if "network" in row.dims else row
            np.testing.assert_array_equal(row, single[name], err_msg=name)
            assert row.dims == single[name].dims, name
    twice = eqx.filter_vmap(eqx.filter_vmap(toy))(xs.reshape(2, 2))
    data = twice.to_xarray(batch=("seed", "network"))
    assert data.largest.dims == ("seed", "network", "state")


def test_fixed_points(one):
    table = to_dict(one)
    assert table["x"].shape == table["eigenvalues"].shape
    assert "problem" not in table and table["kind"] == "flow"
    assert table["verdict"].dtype.kind == "i" and table["mask"].any()
    assert list(table["verdict_name"]) == [Verdict(v).name for v in table["verdict"]]
    assert table["stats"]["num_steps"].shape == table["verdict"].shape
    data = to_xarray(one)
    assert data.x.dims == data.eigenvalues_re.dims == ("slots", "state")
    assert data.stats_num_steps.dims == ("slots",) and data.time_scale.dims == ()
    assert data.verdict.attrs["flag_meanings"].split()[1] == "root"
    assert data.verdict.attrs["flag_values"][1] == 1
    assert data.stability.attrs["flag_meanings"] == "stable undecided unstable"
    assert "|F(x) - x|" in data.speed.attrs["description"]
    np.testing.assert_array_equal(data.q, 0.5 * data.speed**2)


def test_vmapped_fixed_points(many):
    data = to_xarray(many)
    assert data.x.dims == ("network", "slots", "state")
    assert data.time_scale.dims == ("network",) and data.sizes["network"] == 3
    assert data.mask.dims == ("network", "slots")
    found = data.x.where(data.mask).isel(network=2)
    assert np.isnan(found).any() and abs(found).max() < 1e-10
    assert to_xarray(many, batch="seed").x.dims[0] == "seed"


def test_cycle_and_spectrum(cycle, spectrum):
    data = to_xarray(cycle)
    assert data.orbit.dims == ("nodes", "state")
    assert "mesh" not in to_dict(cycle) and "problem" not in to_dict(cycle)
    np.testing.assert_allclose(
        data.multipliers_re.sortby(data.multipliers_re)[0], 8.596950636038e-4, 1e-7
    )
    assert data.period.dims == () and data.verdict.dims == ()
    assert str(to_dict(cycle)["verdict_name"]) == "limit_cycle"
    data = to_xarray(spectrum)
    assert data.exponents.dims == ("k",) and data.history.dims == ("checkpoints", "k")
    np.testing.assert_allclose(data.exponents, [-1, -2], rtol=1e-6)


@pytest.mark.parametrize("which", ["one", "many", "cycle", "spectrum"])
def test_zarr_round_trip(which, request, tmp_path):
    pytest.importorskip("zarr")
    data = to_xarray(request.getfixturevalue(which))
    data.to_zarr(tmp_path / "result.zarr", consolidated=False)
    back = xarray.open_zarr(tmp_path / "result.zarr", consolidated=False).load()
    for name in data:
        np.testing.assert_array_equal(back[name], data[name], err_msg=name)
        assert back[name].dims == data[name].dims
        assert back[name].dtype == data[name].dtype
    assert back.attrs["result"] == data.attrs["result"]
    if "verdict" in data:
        meanings = data.verdict.attrs["flag_meanings"]
        assert back.verdict.attrs["flag_meanings"] == meanings


def test_netcdf_round_trip(one, tmp_path):
    pytest.importorskip("scipy")
    data = to_xarray(one)
    data.to_netcdf(tmp_path / "result.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "result.nc", engine="scipy") as back:
        np.testing.assert_array_equal(back.x, data.x)
        np.testing.assert_array_equal(back.mask, data.mask)


def test_float32_and_numpy_keep_their_dtype(one):
    small = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, one
    )
    assert to_dict(small)["x"].dtype == np.float32
    host = jax.tree.map(np.asarray, one)
    assert to_xarray(host).x.dtype == np.float64


def test_many_results_in_one_field():
    class Several(Result):
        good: Bool[Array, " parts"]
        parts: Inner

    parts = eqx.filter_vmap(lambda x: Inner(x * jnp.eye(2)))(jnp.arange(3.0))
    several = Several(jnp.ones(3, bool), parts)
    assert several.to_xarray().parts_matrix.dims == ("parts", "state", "state_2")


def test_a_field_with_the_name_of_an_axis():
    class Clash(Result):
        state: Float[Array, "run state"]
        run: Float[Array, " run"]

    data = Clash(jnp.ones((2, 3)), jnp.arange(2.0)).to_xarray()
    assert data.state_value.dims == ("run", "state") and "run" in data.coords


def test_bad_input(many, monkeypatch):
    with pytest.raises(ValueError, match="1 leading axes but `batch`"):
        to_xarray(many, batch=("a", "b"))
    broken = eqx.tree_at(lambda p: p.x, many, many.x[0])
    with pytest.raises(ValueError, match="axes more than annotated"):
        to_xarray(broken)
    cut = eqx.tree_at(lambda p: p.speed, many, many.speed[:, :1])
    with pytest.raises(ValueError, match="expected one length"):
        to_xarray(cut)
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "xarray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"rnndyn\[data\]"):
        to_xarray(many)


def test_a_repr_never_fails():
    points = rd.fixed_points(lambda t, x, a: -x, jnp.ones((2, 1)))
    seen = []
    jax.jit(lambda p: seen.append(repr(p)))(points)
    parts = eqx.partition(points, eqx.is_inexact_array)
    shapes = eqx.filter_eval_shape(lambda: points)
    for text in (*seen, *map(repr, parts), repr(shapes)):
        assert text.startswith("FixedPoints(")
    assert "1 roots (1 stable)" in repr(points)


def test_results_of_verbs_say_in_one_line_what_they_are(cycle, spectrum):
    logistic = rd.Map(lambda x, r: r * x * (1 - x))
    turn = rd.Map(lambda x, a: jnp.array([[0.0, -1.0], [1.0, 0.0]]) @ x * 0.9)
    ends = rd.dynamics.attractors(lambda t, x, a: x - x**3, jnp.array([[1.0], [-0.5]]))
    lines = {
        "limit_cycle, period 6.66": cycle,
        "-1 +- ": spectrum,
        "2 cycles of period 1 (0 stable)": rd.dynamics.k_cycles(
            logistic, jnp.linspace(0.1, 0.9, 6)[:, None], 1, 3.9
        ),
        "constant, rotation 0": rd.dynamics.invariant_circle(turn, jnp.ones(2)),
        "root 50%, root 50% of 2 starts": ends,
        "ghost (": rd.dynamics.ghost_passage(
            lambda t, x, a: 1e-4 + x**2, jnp.array([0.1])
        ),
    }
    for line, result in lines.items():
        assert line in repr(result), repr(result)
        assert result.to_dict() and result.to_xarray().attrs
    batch = jax.vmap(lambda mu: rd.limit_cycle(van_der_pol, jnp.array([2.0, 0]), 7, mu))
    assert "2 found of 2" in repr(batch(jnp.array([1.0, 1.1])))
    law = rd.theory.fit_boundary(*boundary())
    assert "exponent" in repr(law) and law.to_dict()["rates"].size == 3


def test_results_of_other_rooms_say_it_too():
    spin = lambda t, x, a: jnp.stack([-x[1], x[0]])
    rates = np.tanh(np.cumsum(np.random.default_rng(0).normal(size=(400, 5)), 0) / 20)
    fit = rd.fitting.cornn(rates, alpha=0.3, dt=0.05)
    line = np.linspace(0.1, 0.9, 20)[None, :, None]
    leak = lambda t, x, a: -0.01 * x * jnp.array([1.0, 500.0])
    path = np.concatenate([line, line**8], axis=2)
    theta, half = fit.theta, 0.5 * np.ones(2)
    rows = rd.fitting.regression_rows(rates, alpha=0.3)
    lines = {
        "3 of 3 crossings until 7.854": rd.dynamics.poincare_section(
            spin, jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]), crossings=3, dt=0.1,
            max_time=20.0, direction=0,
        ),
        "arrived after 0.693": rd.dynamics.passage_time(
            lambda t, x, a: x, jnp.ones(1), 2 * jnp.ones(1)
        ),
        " slow points": rd.dynamics.slow_manifold(leak, path),
        "(1 stable), complete": rd.dynamics.plrnn_fixed_points(
            half, np.zeros((2, 2)), half
        ),
        "persistence: r2_d": rd.fitting.held_out({"net": theta}, rates, alpha=0.3),
        "5 neurons": rd.fitting.compare_activity(rates, rates + 0.01),
        "d 0.": rd.fitting.one_step_r2(theta, rows),
        "ridge nan": rd.fitting.co_smoothing(theta, rates, alpha=0.3),
    }  # fmt: skip
    for text, result in lines.items():
        assert text in repr(result), repr(result)


def boundary():
    delays, rates = np.array([20.0, 40.0, 80.0, 160.0]), np.array([0.1, 0.03, 0.01])
    critical = 3 / rates
    p = 1 / (1 + np.exp(-4 * np.log(delays[None] / critical[:, None])))
    return delays, np.round(20 * p) / 20, rates
