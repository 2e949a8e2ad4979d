"""What a training run is made of, besides networks and task: optimiser, initial
states, when to stop."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from .._core._types import KeyLike
from ..models import Constraints
from ..models._base import AbstractRNN
from ..models._constraints import FIXED_LEAVES
from ._noise import gaussian


@dataclasses.dataclass(frozen=True)
class sgd:  # noqa: N801 (used like a function of optax, compared by value)
    """Stochastic gradient descent in PyTorch's form, to be called with a learning rate:

        g <- g + weight_decay p,  v <- momentum v + g,  p <- p - lr v

    The defaults are those of Kurtkaya, Dinc et al. 2025. Any callable that turns a
    learning rate into an `optax.GradientTransformation`, such as `optax.adam`, can
    take its place; pass the same object again to reuse the compiled program.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-7

    def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.sgd(learning_rate, momentum=self.momentum),
        )


class AbstractStart(eqx.Module):
    """Where trials start. Implement this one method."""

    @abc.abstractmethod
    def __call__(
        self, model: AbstractRNN, trials: int, *, key: KeyLike
    ) -> Float[Array, "trial state"]:
        """Initial states of `trials` trials."""


class RandomStart(AbstractStart):
    """`x_0 = tanh(scale xi)`, `xi ~ N(0, 1)`, afresh for every trial and epoch.

    **Reference:** Kurtkaya, Dinc et al. 2025 (scale 0.1).
    """

    scale: Float[Array, ""] = eqx.field(default=0.1, converter=jnp.asarray)

    def __call__(self, model, trials, *, key):
        xi = gaussian(key, (trials, model.state_size), model.x0.dtype)
        return jnp.tanh(self.scale.astype(xi.dtype) * xi)


class ModelStart(AbstractStart):
    """Every trial starts at `model.initial_state()`."""

    def __call__(self, model, trials, *, key):
        x0 = model.initial_state()
        return jnp.broadcast_to(x0, (trials, *x0.shape))


class AbstractStop(eqx.Module):
    """When a network has been trained enough. Implement this one method."""

    @abc.abstractmethod
    def __call__(self, info: Any) -> Bool[Array, ""]:
        """Whether to stop, given the `TrainInfo` of this epoch. The network keeps the
        weights that earned it."""


class LossBelow(AbstractStop):
    """Stop at the first epoch whose loss is below `threshold`."""

    threshold: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, info):
        return info.loss < self.threshold


class Recipe(eqx.Module):
    """How networks are trained. Everything in it is shared by the ensemble; what may
    differ between members is in `TrainState` and in the task.

    - `optimiser`: callable `lr -> optax.GradientTransformation`; its update is also
        given the loss, the gradient and the loss as a function of the weights, of the
        same trials and noise.
    - `batch`: trials an epoch.
    - `start`: initial states, an `AbstractStart`.
    - `readout`: `"before"` or `"after"` the update.
    - `constraints`: applied to the weights inside the loss.
    - `fixed`: names of array fields that are not trained, instead of the default
        `("tau", "noise", "x0", "W_fixed")`.
    - `stop`: an `AbstractStop`, or `None`.
    """

    optimiser: Callable[..., Any] = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    start: AbstractStart = eqx.field(default_factory=RandomStart)
    readout: Literal["before", "after"] = eqx.field(static=True, default="before")
    constraints: Constraints | None = None
    fixed: tuple[str, ...] = eqx.field(static=True, default=FIXED_LEAVES)
    stop: AbstractStop | None = None

    def __check_init__(self):
        for name in ("start", "stop", "constraints"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "start"):
                raise ValueError(
                    f"{name} = {value!r}, expected an object that is called, such as "
                    "start=ModelStart(), stop=LossBelow(1e-3) or Constraints(W=...)."
                )
        if not callable(self.optimiser):
            raise ValueError(
                f"optimiser is a {type(self.optimiser).__name__}, expected a callable "
                "that takes the learning rate: optax.adam, not optax.adam(1e-3)."
            )
        if self.batch < 1 or self.batch % 1:
            raise ValueError(
                f"batch = {self.batch}, expected a whole number, at least one trial."
            )
        if self.readout not in ("before", "after"):
            raise ValueError(
                f"readout = {self.readout!r}, expected 'before' or 'after' the update."
            )


def check_rates(learning_rate: Any, count: int) -> None:
    """Raise a `ValueError` unless this is one learning rate, or one a network."""
    rates = np.asarray(learning_rate)
    if rates.dtype.kind not in "fiu":
        raise ValueError(
            f"learning_rate = {learning_rate!r}, expected a number, or one for each "
            "network. Only what goes on, a state or a LatentResult, has its own."
        )
    if rates.shape not in ((), (count,)):
        raise ValueError(
            f"learning_rate has shape {rates.shape}, expected () or ({count},): one "
            "number, or one for each network."
        )
    if not np.all(np.isfinite(rates) & (rates >= 0)):
        raise ValueError(
            f"learning_rate = {rates} has non-finite or negative entries, expected "
            "numbers of at least 0."
        )
