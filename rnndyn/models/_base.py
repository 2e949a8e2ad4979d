"""What every recurrent network is: a vector field with a current and a read-out."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import (
    as_float,
    check_count,
    check_finite,
    check_positive,
    check_shape,
    check_step_ratio,
    is_concrete,
)
from .._core._system import AbstractVectorField, Map


class AbstractRNN(AbstractVectorField):
    """A recurrent network as a vector field

        dx/dt = velocity(x, recurrent(x) + drive(u))

    in which input, bias and noise enter through one *current*. Splitting the field
    there is what makes training fast: everything that does not depend on the state is
    computed for all time steps at once, and so are the weight gradients.

    Sizes are static, numbers are arrays, so that an ensemble is the same Module with
    a leading axis. Implement `recurrent`, `drive`, `velocity` and `readout`; the rest
    works: flows, the Euler map, training, analysis, storage.
    """

    state_size: eqx.AbstractVar[int]
    input_size: eqx.AbstractVar[int]
    output_size: eqx.AbstractVar[int]
    tau: eqx.AbstractVar[Array]
    noise: eqx.AbstractVar[Array]
    x0: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def recurrent(self, x: Float[Array, " state"]) -> Float[Array, " current"]:
        """The recurrent part of the current, linear in the trained weights."""

    @abc.abstractmethod
    def drive(
        self, u: Float[Array, " input"] | None = None
    ) -> Float[Array, " current"]:
        """The part of the current that does not depend on the state: input, biases."""

    @abc.abstractmethod
    def velocity(
        self, x: Float[Array, " state"], current: Float[Array, " current"]
    ) -> Float[Array, " state"]:
        """`dx/dt` in 1/s, given the total current."""

    @abc.abstractmethod
    def readout(self, x: Float[Array, " state"]) -> Float[Array, " output"]:
        """The output in state `x`, nonlinearity included."""

    def __call__(
        self, t: Any, x: Float[Array, " state"], args: Any = None
    ) -> Float[Array, " state"]:
        """The vector field `f(t, x, args)`; `args` is the input: `None`, an array
        `(input,)`, or a callable `u(t)`."""
        check_shape("x", x, (self.state_size,), "One state; jax.vmap over several.")
        u: Any = args(t) if callable(args) else args
        return self.velocity(x, self.recurrent(x) + self.drive(u))

    @property
    def time_scale(self) -> Float[Array, ""]:
        """The slowest unit's time constant (seconds)."""
        return jnp.max(self.tau)

    def initial_state(self) -> Float[Array, " state"]:
        """The state at the start of a trial, `x0`."""
        return self.x0

    def map(self, dt: Any) -> Map:
        """The Euler map the papers train, `x -> (1 - a) x + a G(x, u)`, `a = dt/tau`.

        **Arguments:**

        - `dt`: step in seconds, `0 < dt <= tau`.

        **Raises:** a `ValueError` if `dt/tau` lies outside (0, 1].
        """
        check_step_ratio(dt, self.tau)
        if is_concrete(dt):
            dt = jnp.asarray(dt, self.tau.dtype)
        return Map(EulerStep(self, dt), dt=dt)


class EulerStep(eqx.Module):
    """`x -> x + dt f(x, u)`, the discrete-time system an Euler-trained network is."""

    model: AbstractRNN
    dt: Array

    def __call__(self, x, args=None):
        dt = jnp.asarray(self.dt, x.dtype)
        return x + dt * self.model(jnp.zeros((), x.dtype), x, args)


def ensemble(build: Any, keys: Any, *args: Any) -> Any:
    """Build many networks at once: `build(key, *per_member)` vmapped over `keys`.

    **Arguments:**

    - `build`: callable `(key, *args) -> model`.
    - `keys`: typed keys, shape `(members,)`.
    - `*args`: per-member arrays with the same leading axis.

    **Returns:** one model whose arrays have a leading member axis.

    **Raises:** a `ValueError` if `keys` is no array of keys.

    !!! example

        ```python
        keys = jax.random.split(jax.random.key(0), 64)
        build = lambda key: rd.models.RateRNN(2, 100, 2, tau=0.01, key=key)
        nets = rd.models.ensemble(build, keys)
        ```
    """
    if jnp.ndim(keys) == 0:
        raise ValueError(
            f"keys = {keys}, expected one key a network. Pass "
            "jax.random.split(jax.random.key(0), members)."
        )
    return eqx.filter_vmap(build)(keys, *args)


def stack(models: Sequence[Any]) -> Any:
    """One ensemble of several networks of the same kind and sizes.

    ```python
    nets = rd.models.stack([rd.load_network(p) for p in paths])
    ```

    **Raises:** a `ValueError` if they differ in anything but the values of arrays.
    """
    models = list(models)
    if not models:
        raise ValueError("no networks, expected at least one.")
    parts = [eqx.partition(m, eqx.is_array) for m in models]
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), arrays) for arrays, _ in parts]
    for i, (_, static) in enumerate(parts):
        if shapes[i] != shapes[0] or not eqx.tree_equal(static, parts[0][1]):
            raise ValueError(
                f"network {i} differs from network 0 in kind, size, dtype or static "
                "fields, expected the same for all. Analyse them one by one."
            )
    arrays = jax.tree.map(lambda *a: jnp.stack(a), *(arrays for arrays, _ in parts))
    return eqx.combine(arrays, parts[0][1])


def num_members(models: Any) -> int:
    """Length of the leading axis of an ensemble.

    **Raises:** a `ValueError` if the arrays do not share one.
    """
    sizes = {
        a.shape[0] if a.ndim else None
        for a in jax.tree.leaves(eqx.filter(models, eqx.is_array))
    }
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"the arrays of the ensemble have leading axes {sizes}, expected one "
            "common size. Build it with rnndyn.models.ensemble, or make one of several "
            "networks with rnndyn.models.stack([a, b]); one alone is stack([a])."
        )
    return int(sizes.pop() or 0)


def member(models: Any, index: Any) -> Any:
    """The network(s) at `index` of an ensemble: an int gives one network, an array
    or slice an ensemble.

    **Raises:** a `ValueError` if it is no ensemble or has no such member.
    """
    count = num_members(models)
    if is_concrete(index) and not isinstance(index, slice):
        # Indexing of JAX arrays would return the last member instead.
        at = np.asarray(index)
        whole = at.dtype.kind in "iub" or not at.size
        if not whole or (at.dtype != bool and np.any((at < -count) | (at >= count))):
            raise ValueError(
                f"index = {index} of {count} networks, expected whole numbers from 0 "
                f"to {count - 1}."
            )
    arrays, static = eqx.partition(models, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda a: a[index], arrays), static)


def check_sizes(input_size: int, state_size: int, output_size: int) -> None:
    """Raise a `ValueError` for impossible sizes."""
    check_count("input_size", input_size, 0)
    check_count("state_size", state_size, 1)
    check_count("output_size", output_size, 0)


def check_single(model: Any) -> None:
    """Raise a `ValueError` for an ensemble where one network is expected."""
    if model.x0.ndim != 1:
        raise ValueError(
            f"model has a leading axis of {model.x0.shape[0]}, expected one network. "
            "Pass rnndyn.models.member(models, i)."
        )


def check_tau(tau: Any, state_size: int, dtype: Any) -> Array:
    """`tau` as an array of the model's dtype: positive, one number or one a unit."""
    check_positive("tau", tau, "seconds")
    if np.ndim(tau) > 0:
        check_shape("tau", tau, (state_size,), "Pass one tau, or one a unit (seconds).")
    return as_float(tau).astype(dtype)


def check_x0(x0: Any, state_size: int, dtype: Any) -> Array:
    """`x0` as an array of the model's dtype, zeros if missing."""
    return given_array(
        "x0", x0, (state_size,), "x0 is one state of the network.", dtype=dtype
    )


def check_noise(noise: Any, dtype: Any) -> Array:
    """`noise` as an array of the model's dtype: one finite number, not below zero."""
    array = as_float(noise, "noise")
    check_shape("noise", noise, (), "Pass one number for all units.")
    # `noise` and not `array`, which under a transformation is always traced.
    if is_concrete(noise) and not 0 <= float(noise) < float("inf"):
        raise ValueError(
            f"noise = {noise}, expected a finite standard deviation >= 0. Pass "
            "noise=0.0 for none."
        )
    return array.astype(dtype)


def input_current(W_in: Array, u: Any, bias: Array) -> Array:
    """`W_in u + bias`; no input is zero input."""
    if u is None:
        return bias
    check_shape("input u", u, (W_in.shape[-1],), "One number per input, or None.")
    return W_in @ u + bias


def assembled(cls: Any, sizes: tuple[int, int, int], **fields: Any) -> Any:
    """A network of a class, of `(input, state, output)` sizes, with these fields."""
    shell = eqx.filter_eval_shape(cls, *sizes, tau=1.0, key=jr.key(0))
    return eqx.tree_at(
        lambda m: [getattr(m, k) for k in fields], shell, list(fields.values())
    )


def given_array(name: str, value: Any, shape: Any, remedy: str, *, dtype: Any) -> Array:
    """A checked array of the model's dtype; a missing one is zero, of size 0 along
    axes of any size."""
    if value is None:
        return jnp.zeros(tuple(s or 0 for s in shape), dtype)
    array = as_float(value, name)
    check_shape(name, value, shape, remedy)
    check_finite(name, value)
    return array.astype(dtype)
