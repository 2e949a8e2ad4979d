"""Models: equations, the Euler map, constraints, files, bad input."""

import functools
import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import all_models, tree_allclose
from safetensors.numpy import save_file

import rnndyn as rd
from rnndyn._core._checks import check_key


NAMES = ["rate", "current", "lowrank_current", "lowrank_rate", "piecewise", "gru"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_velocity(name, m, x, u):
    """The equations of the docstrings, written down once more in NumPy."""
    m = eqx.tree_at(lambda _: [], m, [])
    a = {k: np.asarray(v) for k, v in vars(m).items() if eqx.is_array(v)}
    if name == "rate":
        bias = a["b"] + a["b_in"]
        return (-x + np.tanh(a["W"] @ x + a["W_in"] @ u + bias)) / a["tau"]
    if name == "current":
        return (-x + a["W"] @ np.tanh(x) + a["W_in"] @ u + a["b"]) / a["tau"]
    if name == "lowrank_current":
        kappa = a["n"].T @ np.tanh(x) / len(x)
        return (-x + a["m"] @ kappa + a["W_in"] @ u + a["b"]) / a["tau"]
    if name == "lowrank_rate":
        W = a["m"] @ a["n"].T + a["W_fixed"]
        return (-x + np.tanh(W @ x + a["W_in"] @ u + a["b"])) / a["tau"]
    if name == "piecewise":
        z = a["A"] * x + a["W"] @ np.maximum(x, 0) + a["h"] + a["W_in"] @ u
        return (z - x) / a["tau"]
    z, r, n = np.split(a["W_in"] @ u + a["b"], 3)
    hz, hr, hn = np.split(a["W"] @ x, 3)
    candidate = np.tanh(n + sigmoid(r + hr) * (hn + a["b_n"]))
    return (1 - sigmoid(z + hz)) * (candidate - x) / a["tau"]


@pytest.mark.parametrize("name", NAMES)
def test_field_map_and_ensemble(name, getkey):
    model = all_models(getkey())[name]
    x, u = jr.normal(getkey(), (7,)), jr.normal(getkey(), (2,))
    velocity = numpy_velocity(name, model, np.asarray(x), np.asarray(u))
    np.testing.assert_allclose(model(0.0, x, u), velocity, rtol=1e-12)
    np.testing.assert_allclose(model(0.0, x, lambda t: u), velocity, rtol=1e-12)
    zero = numpy_velocity(name, model, np.asarray(x), np.zeros(2))
    np.testing.assert_allclose(model(0.0, x, None), zero, rtol=1e-12)
    dt = 0.004
    np.testing.assert_allclose(
        model.map(dt)(x, u), np.asarray(x) + dt * velocity, rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(eqx.filter_jit(model)(0.0, x, u), velocity, rtol=1e-12)
    keys = jr.split(getkey(), 3)
    nets = rd.models.ensemble(lambda k: all_models(k)[name], keys)
    assert rd.models.num_members(nets) == 3
    batched = eqx.filter_vmap(lambda m: m(0.0, x, u))(nets)
    loop = jnp.stack([rd.models.member(nets, i)(0.0, x, u) for i in range(3)])
    np.testing.assert_allclose(batched, loop, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_map_trajectory_equals_numpy_euler_loop(name, getkey):
    model = all_models(getkey())[name]
    inputs = np.asarray(jr.normal(getkey(), (50, 2)))
    dt = 0.005
    x = np.asarray(jr.normal(getkey(), (7,)))
    states = rd.flows.iterate(model.map(dt), jnp.asarray(x), 50, jnp.asarray(inputs))
    for u, state in zip(inputs, states, strict=True):
        x = x + dt * numpy_velocity(name, model, x, u)
        np.testing.assert_allclose(state, x, rtol=1e-12, atol=1e-12)


def test_gru_is_the_discrete_gru_at_dt_equal_tau(getkey):
    model = all_models(getkey())["gru"]
    x, u = np.asarray(jr.normal(getkey(), (7,))), np.asarray(jr.normal(getkey(), (2,)))
    i, h = np.asarray(model.W_in) @ u + model.b, np.asarray(model.W) @ x
    z, r = sigmoid(i[:7] + h[:7]), sigmoid(i[7:14] + h[7:14])
    n = np.tanh(i[14:] + r * (h[14:] + model.b_n))
    got = model.map(0.01)(jnp.asarray(x), jnp.asarray(u))
    np.testing.assert_allclose(got, (1 - z) * n + z * x, rtol=1e-12)


def test_a_gru_of_pytorch_keeps_its_steps(getkey):
    shapes = {"ih": (15, 2), "hh": (15, 5)}
    a = {k: np.asarray(jr.normal(getkey(), s)) for k, s in shapes.items()}
    b = {k: np.asarray(jr.normal(getkey(), (15,))) for k in shapes}
    model = rd.models.ContinuousGRU.from_torch(a["ih"], a["hh"], b["ih"], b["hh"])
    h, u = np.asarray(jr.normal(getkey(), (5,))), np.asarray(jr.normal(getkey(), (2,)))
    # As the documentation of torch.nn.GRU has it: reset, update, new.
    i, s = a["ih"] @ u + b["ih"], a["hh"] @ h + b["hh"]
    r, z = sigmoid(i[:5] + s[:5]), sigmoid(i[5:10] + s[5:10])
    n = np.tanh(i[10:] + r * s[10:])
    got = model.map(1.0)(jnp.asarray(h), jnp.asarray(u))
    np.testing.assert_allclose(got, (1 - z) * n + z * h, rtol=1e-12)
    assert model.output_size == 0
    with pytest.raises(ValueError, match="weight_hh_l0"):
        rd.models.ContinuousGRU.from_torch(a["hh"], a["ih"])
    with pytest.raises(ValueError, match="z, r, n"):
        rd.models.ContinuousGRU.from_arrays(np.eye(4), tau=1.0)


def test_piecewise_discrete_twin(getkey):
    model = all_models(getkey())["piecewise"]
    z = jr.normal(getkey(), (7,))
    expected = model.A * z + model.W @ jax.nn.relu(z) + model.h
    np.testing.assert_allclose(model.discrete()(z), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["lowrank_current", "lowrank_rate"])
def test_latent_field_is_exact_on_lifted_states(name, getkey):
    model = all_models(getkey())[name]
    if name == "lowrank_rate":
        with pytest.raises(ValueError, match="W_fixed"):
            model.reduce()
        model = eqx.tree_at(lambda m: m.W_fixed, model, None)
    field = model.reduce(jnp.array([0.3, -0.2]))
    kappa = jr.normal(getkey(), (2,))
    if name == "lowrank_current":  # trajectories, not only fixed points
        x = field.lift(kappa)
        moved = (model.n.T @ (model(0.0, x, jnp.array([0.3, -0.2])))) * 0
        lifted = jax.jvp(field.lift, (kappa,), (field(0.0, kappa, None),))[1]
        full = model(0.0, x, jnp.array([0.3, -0.2]))
        np.testing.assert_allclose(full, lifted + moved.sum(), rtol=1e-9, atol=1e-10)
    bound = field.bound()
    values = model.tau * field(0.0, kappa, None) + kappa
    assert bool(jnp.all(jnp.abs(values) <= bound))


def test_ten_thousand_six_hundred_and_two_parameters(getkey):
    model = rd.models.RateRNN(
        2, 100, 2, tau=0.01, key=getkey(), init=rd.models.Xavier()
    )
    mask = rd.models.trainable(model)
    free = eqx.filter(model, mask)
    assert sum(a.size for a in jax.tree.leaves(free)) == 10_602
    assert float(jnp.max(jnp.abs(model.W))) <= (6 / 200) ** 0.5
    assert float(jnp.max(jnp.abs(model.W_in))) <= (6 / 102) ** 0.5
    assert float(jnp.max(jnp.abs(model.b_in))) <= 0.5**0.5
    assert not np.any(np.diag(model.W))


def test_initialisations_have_the_promised_spectra(getkey):
    radius = lambda W: float(np.max(np.abs(np.linalg.eigvals(np.asarray(W)))))
    n = 300
    m = rd.models
    gaussian = m.Gaussian(1.3)(1, n, 1, key=getkey()).W
    assert abs(radius(gaussian) / 1.3 - 1) < 0.12
    sparse = m.Sparse(0.2, 1.3)(1, n, 1, key=getkey()).W
    assert abs(radius(sparse) / 1.3 - 1) < 0.12
    assert abs(float(jnp.mean(sparse != 0)) - 0.2) < 0.02
    orthogonal = m.Orthogonal(0.9)(1, n, 1, key=getkey()).W
    np.testing.assert_allclose(orthogonal @ orthogonal.T, 0.81 * np.eye(n), atol=1e-10)
    dale = m.DaleBalanced(0.8, 1.0)
    W = dale(1, n, 1, key=getkey()).W
    assert bool(jnp.all(W * dale.signs(n)[None] >= 0))
    # An unbalanced matrix has an outlier near n * mean, here above 10.
    assert radius(W) < 2.0


def test_constraints(getkey):
    m = rd.models
    model = m.CurrentRNN(2, 20, 1, tau=0.1, key=getkey())
    signs = m.DaleBalanced(0.75).signs(20)
    keep = ~jnp.eye(20, dtype=bool)
    allowed = m.Constraints(W=m.Dale(signs, keep))(model)
    assert bool(jnp.all(allowed.W * signs[None] >= 0))
    assert not np.any(np.diag(allowed.W))
    grad = eqx.filter_grad(lambda raw: jnp.sum(m.Constraints(W=m.Masked(keep))(raw).W))(
        model
    )
    np.testing.assert_array_equal(grad.W, keep.astype(float))
    with pytest.raises(ValueError, match="no such array"):
        m.Constraints(V=m.Masked(keep))(model)
    with pytest.raises(ValueError, match="mask has shape"):
        m.Constraints(W=m.Dale(signs, keep[:, :1]))(model)
    with pytest.raises(ValueError, match="weight has shape"):
        m.Constraints(b=m.Dale(signs))(model)


@pytest.mark.parametrize(
    "name", ["rate", "current", "lowrank_current", "piecewise", "gru"]
)
def test_file_round_trip(name, tmp_path, getkey):
    model = all_models(getkey())[name]
    path = tmp_path / "net.safetensors"
    rd.save_network(path, model, dt=0.005, seed=None)
    again = rd.load_network(path)
    assert type(again) is type(model)
    # Training may turn the sign of the noise, which then is no number for a file.
    turned = eqx.tree_at(lambda m: m.noise, model, -model.noise - 0.25)
    rd.save_network(tmp_path / "turned.safetensors", turned)
    noise = rd.load_network(tmp_path / "turned.safetensors").noise
    np.testing.assert_array_equal(noise, model.noise + 0.25)
    assert tree_allclose(
        eqx.filter(again, eqx.is_array), eqx.filter(model, eqx.is_array)
    )
    assert rd.models.network_dt(path) == 0.005
    x, u = jr.normal(getkey(), (7,)), jr.normal(getkey(), (2,))
    np.testing.assert_array_equal(again.readout(x), model.readout(x))
    np.testing.assert_array_equal(again(0.0, x, u), model(0.0, x, u))


def test_state_dictionaries_of_pytorch(tmp_path):
    path, rng = tmp_path / "net.npz", np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape)
    n = {"weight_ih_l0": (4, 2), "weight_hh_l0": (4, 4), "bias_ih_l0": (4,)}
    n |= {"bias_hh_l0": (4,)}
    layer = {f"net.rnn.{k}": draw(*shape) for k, shape in n.items()}
    W_in, W, b, b_hh = layer.values()
    top = {"net.out.weight": draw(3, 4), "net.out.bias": draw(3)}
    np.savez(path, **layer, **top)
    with pytest.raises(ValueError, match="activation="):
        rd.load_network(path)
    model = rd.load_network(path, activation="tanh", tau=0.02)
    assert rd.models.network_dt(path, tau=0.02) == 0.02
    assert rd.models.network_dt(path) == 1.0
    h, u = jnp.asarray(draw(4)), jnp.asarray(draw(2))
    step = np.tanh(W_in @ u + b + W @ h + b_hh)
    np.testing.assert_allclose(model.map(0.02)(h, u), step, rtol=1e-12)
    out = top["net.out.weight"] @ h + top["net.out.bias"]
    np.testing.assert_allclose(model.readout(h), out, rtol=1e-12)

    np.savez(path, **{k.replace("net.rnn", "rnn_l1"): v for k, v in layer.items()})
    np.testing.assert_array_equal(rd.load_network(path, activation="tanh").W, W)

    n = {"weight_ih": (12, 2), "weight_hh": (12, 4), "bias_ih": (12,)}
    cell = {k: draw(*shape) for k, shape in n.items()} | {"bias_hh": draw(12)}
    np.savez(path, **cell)
    again = rd.models.ContinuousGRU.from_torch(**cell)
    got = rd.load_network(path).map(1.0)(h, u)
    np.testing.assert_allclose(got, again.map(1.0)(h, u), rtol=1e-12)

    two = {k.replace("_l0", "_l1"): v for k, v in layer.items()}
    lstm = {"weight_ih_l0": draw(16, 2), "weight_hh_l0": draw(16, 4)}
    for arrays, words in ((layer | two, "one layer in one"), (lstm, "LSTM")):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=words):
            rd.load_network(path)


def test_npz_with_missing_arrays_and_overrides(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, W=np.eye(3, dtype=np.float32), form="current")
    with pytest.raises(ValueError, match="no 'activation'"):
        rd.load_network(path, tau=0.1)
    with pytest.raises(ValueError, match="no 'tau'.*load_network.*tau="):
        rd.load_network(path)
    model = rd.load_network(path, tau=0.1, activation="tanh")
    assert model.W.dtype == jnp.float32 and model.input_size == 0
    with pytest.raises(ValueError, match="override = 'colour' is not known"):
        rd.load_network(path, tau=0.1, colour="red")
    np.savez(path, W=np.eye(3), bias=np.ones(3), form=b"rate", tau=[0.1], dt=[0.02])
    with pytest.warns(UserWarning, match="not read by a full network: bias"):
        model = rd.load_network(path, activation="tanh")
    assert model.tau.shape == () and rd.models.network_dt(path) == 0.02
    np.savez(path, W=1j * np.eye(3), form="rate", tau=0.1, activation="tanh")
    with pytest.raises(ValueError, match="W is complex"):
        rd.load_network(path)
    with pytest.raises(ValueError, match="ends in .npz"):
        rd.save_network(tmp_path / "x.npz", model)
    nets = rd.models.ensemble(
        lambda k: rd.models.RateRNN(1, 3, 1, tau=0.1, key=k), jr.split(jr.key(0), 2)
    )
    with pytest.raises(ValueError, match="leading axis of 2"):
        rd.save_network(tmp_path / "x.safetensors", nets)
    np.savez(path, m=np.ones((3, 1)), form="rate", tau=0.1)
    with pytest.raises(ValueError, match="no 'n'"):
        rd.load_network(path)
    np.savez(path, W=np.array([None]))
    with pytest.raises(ValueError, match="pickle"):
        rd.load_network(path)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="neither"):
        rd.load_network(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no file"):
        rd.load_network(tmp_path / "absent.npz")


def test_bad_input(getkey):
    m = rd.models
    W = jnp.eye(3)
    lowrank = functools.partial(m.LowRankRNN, 1, 3, 1, rank=1, tau=1.0)
    rate, piecewise = (
        m.RateRNN.from_arrays(W, tau=1.0),
        m.PiecewiseLinearRNN.from_arrays,
    )
    cases = [
        (lambda: m.RateRNN.from_arrays(np.ones((2, 3)), tau=1.0), "W has shape"),
        (lambda: m.RateRNN.from_arrays(W, np.ones((2, 3)), tau=1.0), "W_in has shape"),
        (lambda: m.RateRNN.from_arrays(W, tau=-1.0), "tau = -1.0, expected > 0"),
        (lambda: m.RateRNN.from_arrays(W, tau=np.ones(2)), "tau has shape"),
        (lambda: m.RateRNN.from_arrays(W * np.nan, tau=1.0), "W has 9 non-finite"),
        (lambda: m.RateRNN.from_arrays(W, tau=1.0, activation="tan"), "'tan' is not"),
        (lambda: m.RateRNN(2, 3, 1, tau=1.0), "key = None"),
        (lambda: m.RateRNN(2, 0, 1, tau=1.0, key=getkey()), "state_size = 0"),
        (lambda: m.LowRankRNN(1, 3, 1, rank=4, tau=1.0, key=getkey()), "rank = 4"),
        (lambda: lowrank(init=m.Xavier(), key=getkey()), "init = Xavier"),
        (lambda: lowrank(init=m.GaussianFactors()), "key = None"),
        (lambda: m.RateRNN.from_arrays(W, tau=1.0, readout="tan"), "readout = 'tan'"),
        (lambda: rate(0.0, jnp.ones(2)), r"x has shape \(2,\), expected \(3\)"),
        (lambda: m.DaleBalanced(80.0), "excitatory = 80.0, expected a share"),
        (lambda: m.ensemble(lambda k: rate, jr.key(0)), "expected one key a network"),
        (lambda: m.LowRankRNN.from_arrays(W, W[:, :1], tau=1.0), "n has shape"),
        (lambda: m.RateRNN.from_arrays(W, tau=0.1).map(0.2), r"dt/tau = 2"),
        (lambda: m.RateRNN.from_arrays(W, tau=0.1).map(0.0), r"dt/tau = 0"),
        (lambda: m.RateRNN.from_arrays(W, tau=0.1)(0.0, W[0], jnp.ones(2)), "input u"),
        (lambda: m.PiecewiseLinearRNN.from_arrays(np.ones((3, 3)), W), "off-diagonal"),
        (lambda: m.Sparse(0.0), "density = 0"),
        (lambda: m.DaleBalanced().signs(1), "state_size = 1, expected at least two"),
        (lambda: rate.map("one"), "dt = one and tau = .*, expected numbers"),
        (lambda: rate.map(None), "dt = None"),
        (lambda: piecewise(np.ones((2, 3)), W), r"A has shape \(2, 3\)"),
        (lambda: piecewise(np.diag([np.nan, 1, 1]), W), "A has 1 non-finite"),
        (lambda: m.RateRNN.from_arrays(W + 1j, tau=1.0), "W is complex"),
        (lambda: m.RateRNN.from_arrays(W, 1j * W, tau=1.0), "W_in is complex"),
        (lambda: m.RateRNN.from_arrays([["one"]], tau=1.0), "W is no array of numbers"),
        (lambda: m.RateRNN.from_arrays(W, tau=1.0, x0=1j * W[0]), "x0 is complex"),
        (lambda: m.LowRankRNN.from_arrays(1j * W, W, tau=1.0), "m is complex"),
    ]
    for noise in (np.nan, -1.0, np.ones(5), []):
        for build in (
            lambda **o: m.RateRNN.from_arrays(W, tau=1.0, **o),
            lambda **o: m.LowRankRNN.from_arrays(W, W, tau=1.0, **o),
            lambda **o: piecewise(np.ones(3), W, **o),
        ):
            cases.append((functools.partial(build, noise=noise), "noise"))
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_input_of_users_who_check_no_types():
    """In these tests annotations are enforced, so that this is run without."""
    code = """
import jax, numpy as np, rnndyn as rd
m, key, W = rd.models, jax.random.key(0), np.eye(2)
net = m.RateRNN.from_arrays(W, tau=0.1)
for call, message in (
    (lambda: m.RateRNN(2, 3.0, 1, tau=1.0, key=key), "state_size = 3.0"),
    (lambda: m.RateRNN("2", 3, 1, tau=1.0, key=key), "input_size = '2'"),
    (lambda: m.RateRNN(1, 3, 1, tau=1.0, init=m.Xavier, key=key), "models.Xavier()"),
    (lambda: m.LowRankRNN(1, 3, 1, rank=1.5, tau=1.0, key=key), "rank = 1.5"),
    (lambda: m.RateRNN.from_arrays(W, tau=1.0, activation=["tanh"]), "activation = "),
    (lambda: m.outputs(net, W, W[None], readout="now"), "readout = 'now'"),
    (lambda: m.save_network("net.safetensors", W), "expected a network"),
    (lambda: rd.analyse(net, dt="0.02", key=key), "expected numbers"),
    (lambda: rd.analyse(net, "delayed cue", key=key), "task is a str"),
    (lambda: rd.analyse(net, starts=1.5, key=key), "starts = 1.5"),
):
    try:
        call()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_stack_makes_an_ensemble_of_equal_kinds():
    nets = [rd.models.RateRNN.from_arrays(k * np.eye(2), tau=0.1) for k in (1.0, 2.0)]
    both = rd.models.stack(nets)
    assert rd.models.num_members(both) == 2
    np.testing.assert_array_equal(rd.models.member(both, 1).W, nets[1].W)
    np.testing.assert_array_equal(rd.models.member(both, np.array([-1])).W, both.W[1:])
    # JAX itself would answer with the last network, or with rows of the only one.
    for index in (2, -3, 0.5, np.array([0, 2])):
        with pytest.raises(ValueError, match="of 2 networks, expected whole numbers"):
            rd.models.member(both, index)
    with pytest.raises(ValueError, match="expected one common size"):
        rd.models.member(nets[0], slice(1))
    other = rd.models.RateRNN.from_arrays(np.eye(3), tau=0.1)
    with pytest.raises(ValueError, match="network 1 differs"):
        rd.models.stack([nets[0], other])
    with pytest.raises(ValueError, match="at least one"):
        rd.models.stack([])


def test_files_of_many_networks(tmp_path, recwarn):
    path = tmp_path / "many.npz"
    many = dict(W=np.stack([np.eye(3), 2 * np.eye(3)]), tau=0.1, dt=[0.01, 0.01])
    np.savez(path, form="rate", activation="tanh", **many)
    assert rd.load_network(path, member=1).W[0, 0] == 2
    assert rd.models.network_dt(path) == 0.01
    with pytest.raises(ValueError, match="holds 2 networks and member = 2"):
        rd.load_network(path, member=2)
    np.savez(path, form="rate", activation="tanh", **many, b=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="but b of length 3"):
        rd.load_network(path, member=0)
    np.savez(path, form="rate", activation="tanh", W=np.eye(3), tau=0.1)
    assert rd.models.network_dt(path) is None
    with pytest.raises(ValueError, match="holds one network and member = 7"):
        rd.load_network(path, member=7)
    np.savez(path, W=many["W"], dt=[0.01, 0.02])
    assert rd.models.network_dt(path, member=1) == 0.02
    for member in (None, 2, -1):
        with pytest.raises(ValueError, match="2 different dt.*member=0 .. 1"):
            rd.models.network_dt(path, member=member)
    np.savez(path, W=many["W"], dt=[])
    assert rd.models.network_dt(path, 0.5) == 0.5


@pytest.mark.parametrize(
    "dtype, loaded",
    [("float16", "float32"), ("bfloat16", "float32"), (">f8", "float64"),
     ("longdouble", "float64"), (">i4", "float64"), ("bool", "float64")],
)  # fmt: skip
def test_numbers_of_any_kind_are_read(tmp_path, dtype, loaded):
    """Time constants, too, in a precision that keeps them."""
    W, path = np.eye(3).astype(jnp.dtype(dtype)), tmp_path / "net.npz"
    about = dict(form="rate", activation="tanh", tau=0.1)
    if dtype == "bfloat16":
        path = tmp_path / "net.safetensors"
        save_file({"W": W}, path, metadata={"header": json.dumps(about)})
    else:
        np.savez(path, W=W, **about)
    model = rd.load_network(path)
    assert model.W.dtype == loaded and abs(float(model.tau) - 0.1) < 1e-8
    np.testing.assert_array_equal(model.W, np.eye(3))


def test_broken_files_are_refused(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez(whole, form="rate", activation="tanh", W=np.eye(30), tau=0.1)
    cut, empty, plain = (tmp_path / f"{name}.npz" for name in ("cut", "empty", "plain"))
    cut.write_bytes(whole.read_bytes()[:2000])
    empty.write_bytes(b"")
    with plain.open("wb") as file:
        np.save(file, np.eye(3))
    for path in (cut, empty, plain):
        with pytest.raises(ValueError, match="cannot be read as npz"):
            rd.load_network(path)
    listed = tmp_path / "listed.safetensors"
    save_file({"W": np.eye(2)}, listed, metadata={"header": "[1, 2]"})
    with pytest.raises(ValueError, match="its header is a list"):
        rd.load_network(listed)
    nameless = tmp_path / "nameless.npz"
    np.savez(nameless, form=np.array([]), activation="tanh", W=np.eye(2), tau=0.1)
    with pytest.raises(ValueError, match="a name has 0 entries"):
        rd.load_network(nameless)


def test_a_number_is_no_key():
    for key in (jr.key(0), jr.PRNGKey(0)):
        assert check_key(key) is key
    for bad in (0, None, "a", np.zeros(2), jnp.zeros(2)):
        with pytest.raises(ValueError, match=r"pass key=jax.random.key\(0\)"):
            check_key(bad)
