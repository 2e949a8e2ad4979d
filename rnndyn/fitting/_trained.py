"""Networks trained on tasks, to be recorded and recovered."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float

from .._core._checks import check_count, check_key
from .._core._types import KeyLike
from ..models import Constraints, CurrentRNN, Masked, RateRNN, Xavier, ensemble
from ..models._constraints import FIXED_LEAVES
from ..tasks import AbstractTask, Score, Trial
from ..training import AbstractStart, TrainResult, sgd, train
from ..training._noise import gaussian
from ._problem import check_alpha, check_in


_FIXED = (*FIXED_LEAVES, "b", "b_in", "b_out")


class FlipFlop(AbstractTask):
    """Remember the sign of the last pulse, independently on each of `bits` channels.

    Every channel and step carries a pulse of +1 or -1 with probability `pulse`, else
    0. The target is the sign of the last pulse, the present one included, and 0 before
    the first. A step is one frame (`dt` = 1 s).

    **Reference:** Sussillo & Barak 2013, doi:10.1162/NECO_a_00409; Dinc et al. 2023,
    arXiv:2311.10200 (three bits, 100 steps, `pulse` 0.05).
    """

    pulse: Float[Array, ""]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_conditions: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    periods: ClassVar[tuple[str, ...]] = ("memory",)
    reference: ClassVar[str] = "Sussillo & Barak 2013, doi:10.1162/NECO_a_00409"

    def __init__(self, bits: int = 3, num_steps: int = 100, pulse: Any = 0.05):
        check_count("bits", bits)
        check_count("num_steps", num_steps)
        check_in("pulse", pulse, "[0, 1]", "Pass a probability, such as 0.05.")
        self.pulse = jnp.asarray(pulse, jnp.result_type(float))
        self.input_size = self.output_size = bits
        self.num_conditions, self.num_steps, self.dt = 1, num_steps, 1.0

    def trial(self, condition, *, key):
        """A trial of fresh pulses; there is one condition."""
        k_when, k_sign = jr.split(key)
        shape = (self.num_steps, self.input_size)
        dtype = jnp.result_type(float)
        sign = jr.rademacher(k_sign, shape, dtype)
        inputs = jnp.where(jr.bernoulli(k_when, self.pulse, shape), sign, 0)
        steps = jnp.arange(1, self.num_steps + 1)[:, None]
        last = jax.lax.cummax(jnp.where(inputs != 0, steps, 0), axis=0)
        held = jnp.take_along_axis(inputs, jnp.maximum(last - 1, 0), axis=0)
        return Trial(
            inputs=inputs,
            targets=jnp.where(last > 0, held, 0),
            mask=jnp.full(self.num_steps, 1 / self.num_steps, dtype),
            period=jnp.zeros(self.num_steps, jnp.int32),
            condition=jnp.asarray(condition, jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        """Share of channels and steps with the right sign, where there is one; the
        reliability is 1 minus the mean square error, at least 0."""
        on = (trial.targets != 0) & (jnp.arange(self.num_steps) >= lag)[:, None]
        right = jnp.sum(on & (outputs * trial.targets > 0)) / jnp.maximum(on.sum(), 1)
        error = jnp.sum(jnp.where(on, jnp.square(outputs - trial.targets), 0))
        error = error / jnp.maximum(on.sum(), 1)
        return Score(accuracy=right, reliability=jnp.maximum(1 - error, 0))


class TimedResponse(AbstractTask):
    """Answer by a pulse a fixed time after a cue.

    The input is 1 for the first `cue` steps and 0 after; the target is
    `exp(-(t - peak)^2 / (2 width^2))`. A step is one frame (`dt` = 1 s).

    **Reference:** Dinc et al. 2023, arXiv:2311.10200 (600 steps, cue 100, peak 500,
    width 20).
    """

    peak: Float[Array, ""]
    width: Float[Array, ""]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_conditions: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    cue: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    periods: ClassVar[tuple[str, ...]] = ("cue", "delay")
    reference: ClassVar[str] = "Dinc et al. 2023, arXiv:2311.10200"

    def __init__(
        self, num_steps: int = 600, cue: int = 100, peak: Any = 500.0, width: Any = 20.0
    ):
        check_count("num_steps", num_steps)
        check_count("cue", cue)
        check_in("width", width, "(0, inf)", "Pass a number of steps, such as 20.")
        check_in("peak", peak, "(-inf, inf)", "Pass a step, such as 500.")
        if cue >= num_steps:
            raise ValueError(
                f"cue = {cue}, expected a number of steps between 0 and "
                f"num_steps = {num_steps}."
            )
        self.peak = jnp.asarray(peak, jnp.result_type(float))
        self.width = jnp.asarray(width, jnp.result_type(float))
        self.input_size = self.output_size = self.num_conditions = 1
        self.num_steps, self.cue, self.dt = num_steps, cue, 1.0

    def trial(self, condition, *, key=None):
        """The trial; nothing in it is random."""
        steps = jnp.arange(self.num_steps)
        cue = steps < self.cue
        dtype = jnp.result_type(float)
        bump = jnp.exp(-0.5 * jnp.square((steps - self.peak) / self.width))
        return Trial(
            inputs=cue[:, None].astype(dtype),
            targets=bump[:, None].astype(dtype),
            mask=jnp.full(self.num_steps, 1 / self.num_steps, dtype),
            period=jnp.where(cue, 0, 1).astype(jnp.int32),
            condition=jnp.asarray(condition, jnp.int32),
        )

    def score(self, trial, outputs, *, lag=0):
        """The share of the target's variance that the output explains, at least 0, as
        both accuracy and reliability."""
        on = (jnp.arange(self.num_steps) >= lag)[:, None]
        error = jnp.sum(jnp.where(on, jnp.square(outputs - trial.targets), 0))
        mean = jnp.mean(trial.targets, where=on)
        spread = jnp.sum(jnp.where(on, jnp.square(trial.targets - mean), 0))
        r2 = jnp.maximum(1 - error / spread, 0)
        return Score(accuracy=r2, reliability=r2)


class NormalStart(AbstractStart):
    """Trials start at `scale N(0, 1)`; rates may start beyond (-1, 1)."""

    scale: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)

    def __call__(self, model, trials, *, key):
        xi = gaussian(key, (trials, model.state_size), model.x0.dtype)
        return self.scale.astype(xi.dtype) * xi


class ArctanhStart(AbstractStart):
    """Trials start at `arctanh(U(-bound, bound))`: currents of rates within a bound."""

    bound: Float[Array, ""] = eqx.field(default=0.5, converter=jnp.asarray)

    def __call__(self, model, trials, *, key):
        dtype = model.x0.dtype
        bound = self.bound.astype(dtype)
        uniform = jr.uniform(key, (trials, model.state_size), dtype, minval=-1)
        return jnp.arctanh(bound * uniform)


@dataclasses.dataclass(frozen=True)
class cosine_adam:  # noqa: N801 (used like a function of optax, compared by value)
    """Adam whose rate falls to zero over `steps` as half a cosine, with the gradient's
    norm clipped at `clip`. To be called with a learning rate."""

    steps: int
    clip: float = 1.0

    def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(1.0, self.steps)
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(),
            optax.scale_by_schedule(schedule),
            optax.scale_by_learning_rate(learning_rate),
        )


class TrainedNetworks(eqx.Module):
    """Networks trained on a task.

    **Attributes:**

    - `models`: with a leading axis; `rnndyn.models.member(models, i)` is one.
    - `loss`: of every update, shape `(networks, updates)`.
    - `learned`: whether the mean loss over the last tenth of the updates is below the
      threshold asked for, and training did not diverge.
    """

    models: Any
    loss: Float[Array, "networks updates"]
    learned: Bool[Array, " networks"]


def train_flip_flop(
    num_networks: int,
    num_neurons: int = 100,
    *,
    alpha: Any = 0.5,
    task: FlipFlop | None = None,
    updates: int = 600,
    batch: int = 32,
    learning_rate: Any = 3e-3,
    loss_below: Any = 0.05,
    dtype: Any = None,
    key: KeyLike,
    **options: Any,
) -> TrainedNetworks:
    """Rate networks without biases and self-connections, trained by full BPTT to hold
    `bits` signs.

        r_{t+1} = (1 - alpha) r_t + alpha tanh(W r_t + W_in u_t),   y_t = W_out r_{t+1}

    from Xavier weights and `r_0 ~ N(0, 1)`. The optimiser of the published networks is
    not known; here it is Adam with a cosine schedule.

    ```python
    nets = train_flip_flop(2, 100, alpha=0.5, key=jax.random.key(0))
    model = rnndyn.models.member(nets.models, 0)
    ```

    **Arguments:**

    - `num_networks`, `num_neurons`: sizes.
    - `alpha`: `dt/tau`; a frame is 1 s.
    - `task`: `FlipFlop()` by default.
    - `updates`, `batch`, `learning_rate`: of Adam. A thousand neurons want 3000 updates
        at 6e-4.
    - `loss_below`: mean square error that counts as learned.
    - `dtype`: of the training, float32 by default. The networks come back in JAX's
      default float dtype.
    - `key`: PRNG key.
    - `**options`: further arguments of `rnndyn.training.train`, such as `progress`.

    **Returns:** `TrainedNetworks`. Not guaranteed: that all have learned, see
    `learned`; or that each learned network has only the fixed points that the task
    needs.

    **Reference:** Sussillo & Barak 2013, doi:10.1162/NECO_a_00409; Dinc et al. 2023,
    arXiv:2311.10200.
    """
    task = FlipFlop() if task is None else task
    dtype = jnp.float32 if dtype is None else dtype
    check_alpha(alpha)
    check_in("loss_below", loss_below, "(-inf, inf]", "Pass one for all networks.")
    k_init, k_train = jr.split(check_key(key))
    sizes = (task.input_size, num_neurons, task.output_size)
    models = _untrained(RateRNN, sizes, num_networks, alpha, 0.0, dtype, key=k_init)
    constraints = Constraints(W=Masked(~jnp.eye(num_neurons, dtype=bool)))
    result = train(
        models,
        task,
        optimiser=cosine_adam(updates),
        learning_rate=learning_rate,
        steps=updates,
        batch=batch,
        start=NormalStart(jnp.ones((), dtype)),
        readout="after",
        constraints=constraints,
        fixed=_FIXED,
        key=k_train,
        **options,
    )
    return _trained(result, loss_below)


def train_timed_response(
    num_networks: int,
    num_neurons: int = 500,
    *,
    alpha: Any = 0.1,
    noise: Any = 0.1,
    task: TimedResponse | None = None,
    updates: int = 3000,
    batch: int = 1,
    optimiser: Any = None,
    learning_rate: Any = 1e-3,
    loss_below: Any = 0.01,
    dtype: Any = None,
    key: KeyLike,
    **options: Any,
) -> TrainedNetworks:
    """Current-form networks without biases and self-connections, trained by full BPTT
    to answer at a set time.

        x_{t+1} = (1 - alpha) x_t + alpha (W tanh(x_t) + W_in u_t + noise xi_t)
        y_t = W_out tanh(x_{t+1})

    from Xavier weights and `tanh(x_0) ~ U(-1/2, 1/2)`. This is not the form that CORNN
    fits.

    ```python
    nets = train_timed_response(1, 500, key=jax.random.key(0))
    ```

    **Arguments:**

    - `num_networks`, `num_neurons`: sizes.
    - `alpha`: `dt/tau`; a frame is 1 s.
    - `noise`: standard deviation of the current noise in training.
    - `task`: `TimedResponse()` by default.
    - `updates`, `batch`, `learning_rate`, `optimiser`: the published ones by default:
      single trials, gradient descent with momentum 0.9 and weight decay 1e-7.
    - `loss_below`: mean square error that counts as learned; answering 0 always costs
      0.06 in the default task.
    - `dtype`: of the training, float32 by default.
    - `key`: PRNG key.
    - `**options`: further arguments of `rnndyn.training.train`, such as `progress`.

    **Returns:** `TrainedNetworks`. Not guaranteed: that all have learned.

    **Reference:** Dinc et al. 2023, arXiv:2311.10200.
    """
    task = TimedResponse() if task is None else task
    dtype = jnp.float32 if dtype is None else dtype
    check_alpha(alpha)
    check_in("loss_below", loss_below, "(-inf, inf]", "Pass one for all networks.")
    k_init, k_train = jr.split(check_key(key))
    sizes = (1, num_neurons, 1)
    models = _untrained(
        CurrentRNN, sizes, num_networks, alpha, noise, dtype, key=k_init
    )
    constraints = Constraints(W=Masked(~jnp.eye(num_neurons, dtype=bool)))
    result = train(
        models,
        task,
        optimiser=sgd() if optimiser is None else optimiser,
        learning_rate=learning_rate,
        steps=updates,
        batch=batch,
        start=ArctanhStart(jnp.asarray(0.5, dtype)),
        readout="after",
        constraints=constraints,
        fixed=_FIXED,
        key=k_train,
        **options,
    )
    return _trained(result, loss_below)


def _untrained(kind, sizes, count, alpha, noise, dtype, *, key):
    def build(key):
        # The classes take a time constant; a frame is 1 s.
        tau = 1 / jnp.asarray(alpha, dtype)
        drawn = kind(*sizes, tau=tau, noise=noise, init=Xavier(), key=key)
        silent = jax.tree.map(jnp.zeros_like, (drawn.b, drawn.b_out))
        where = lambda m: (m.b, m.b_out, m.b_in)
        return eqx.tree_at(
            where, drawn, (*silent, None), is_leaf=lambda leaf: leaf is None
        )

    cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, ensemble(build, jr.split(key, count)))


def _trained(result: TrainResult, loss_below: Any) -> TrainedNetworks:
    default = jnp.result_type(float)
    cast = lambda a: a.astype(default) if eqx.is_inexact_array(a) else a
    models = jax.tree.map(cast, result.models)
    # Training noise is no property of the network that is to be recovered.
    models = eqx.tree_at(lambda m: m.noise, models, jnp.zeros_like(models.noise))
    tail = max(result.losses.shape[1] // 10, 1)
    end = jnp.mean(result.losses[:, -tail:], axis=1)
    return TrainedNetworks(
        models=models,
        loss=result.losses,
        learned=(end < loss_below) & ~result.diverged,
    )
