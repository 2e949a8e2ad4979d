"""How members of a sweep are built, what they are trained on, and when they count as
trained."""

import abc
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core._checks import steps_in
from ..models import GaussianFactors, LowRankRNN, RateRNN, Xavier, ensemble
from ..tasks import (
    AbstractTask,
    DelayedActivation,
    DelayedCueDiscrimination,
    FixedResponse,
)
from ..training import (
    AbstractStop,
    ModelStart,
    TrainLog,
    TrainState,
    sgd,
)
from ..training._scores import LEARNED, NOT_LEARNED


MEMBER_FIELDS = (
    "batch",
    "cue",
    "delay",
    "dt",
    "learning_rate",
    "momentum",
    "noise",
    "post_reaction",
    "reaction",
    "seed",
    "tau",
    "units",
    "weight_decay",
)
"""Hyper-parameters that each member has, and that may be axes of a grid."""


class LossAbove(AbstractStop):
    """Give up at the first epoch whose loss is above `threshold`."""

    threshold: Any = eqx.field(converter=jnp.asarray)

    def __call__(self, info):
        return info.loss > self.threshold


@dataclass(frozen=True)
class Shape:
    """What a compiled program depends on: the padded length of a trial, and the values
    of the hyper-parameters that are not arrays in it."""

    num_steps: int
    static: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.static)[name]


class AbstractProtocol(abc.ABC):
    """One way of training networks. `periods` names the durations that its trials are
    made of, `dynamic` the hyper-parameters that may differ within one compiled
    program, `scoring` the keywords of `rnndyn.mechanisms.measure` with which trained
    networks are tried as they were trained."""

    dynamic: frozenset[str] = frozenset({"learning_rate", "delay", "tau", "noise"})
    periods: tuple[str, ...] = ("cue", "delay", "reaction", "post_reaction")
    conditions: int = 2
    scoring: Mapping[str, Any] = MappingProxyType({})

    def steps(self, values: Mapping[str, Any]) -> int:
        """Length of one member's trial in steps."""
        return sum(steps_in(n, values[n], values["dt"]) for n in self.periods)

    @abc.abstractmethod
    def networks(self, shape: Shape, tau: Any, noise: Any, keys: Any) -> Any:
        """An untrained ensemble."""

    @abc.abstractmethod
    def tasks(self, shape: Shape, values: Mapping[str, np.ndarray]) -> AbstractTask:
        """One task a member, padded to `shape.num_steps`."""

    @abc.abstractmethod
    def recipe(self, shape: Shape) -> dict[str, Any]:
        """Keywords of `rnndyn.training.Recipe`."""

    def outcome(self, state: TrainState, log: TrainLog) -> np.ndarray:
        """Codes of `rnndyn.training.OUTCOMES`."""
        return log.outcome_of(state.diverged)

    def shape_of(self, values: Mapping[str, Any], pad_steps: int) -> Shape:
        """What the program of one member depends on."""
        static = tuple(
            (name, values[name])
            for name in MEMBER_FIELDS
            if name not in self.dynamic and name != "seed"
        )
        return Shape(-(-self.steps(values) // pad_steps) * pad_steps, static)


class DelayedCue(AbstractProtocol):
    """Full-rank networks that discriminate two cues after a delay."""

    def networks(self, shape, tau, noise, keys):
        return _full_rank(shape["units"], "sigmoid", tau, noise, keys)

    def tasks(self, shape, values):
        return DelayedCueDiscrimination.stack(
            values["delay"],
            post_reaction=shape["post_reaction"],
            dt=shape["dt"],
            cue=shape["cue"],
            reaction=shape["reaction"],
            num_steps=shape.num_steps,
        )

    def recipe(self, shape):
        return _descent(shape)


class FixedResponseControl(AbstractProtocol):
    """The same networks with a linear read-out, without a delay: they must answer at
    once and go on answering. Given up when the loss exceeds 100."""

    dynamic = frozenset({"learning_rate", "reaction", "tau", "noise"})
    periods = ("cue", "reaction")

    def networks(self, shape, tau, noise, keys):
        return _full_rank(shape["units"], "identity", tau, noise, keys)

    def tasks(self, shape, values):
        return FixedResponse.stack(
            values["reaction"],
            dt=shape["dt"],
            cue=shape["cue"],
            num_steps=shape.num_steps,
        )

    def recipe(self, shape):
        return _descent(shape) | {"stop": LossAbove(100.0)}

    def outcome(self, state, log):
        given_up = np.asarray(state.stopped | state.diverged)
        return np.where(log.ends_well & ~given_up, LEARNED, NOT_LEARNED)


class RankTwo(AbstractProtocol):
    """Rank-2 networks without input that must switch on after a delay; deterministic.
    Learned means a last loss below 1e-3; a solved task has one of about 1e-5."""

    periods = ("delay", "reaction", "post_reaction")
    conditions = 1
    scoring = MappingProxyType({"readout": "after", "spread": 0.0})

    def networks(self, shape, tau, noise, keys):
        return _low_rank(shape["units"], tau, noise, keys)

    def tasks(self, shape, values):
        build = functools.partial(
            DelayedActivation,
            post_reaction=shape["post_reaction"],
            dt=shape["dt"],
            reaction=shape["reaction"],
            num_steps=shape.num_steps,
        )
        delays = [float(d) for d in values["delay"]]
        made = {d: build(d) for d in set(delays)}
        steps = jnp.stack([made[d].delay_steps for d in delays])
        return eqx.tree_at(lambda t: t.delay_steps, made[delays[0]], steps)

    def recipe(self, shape):
        return _descent(shape) | {"start": ModelStart(), "readout": "after"}

    def outcome(self, state, log):
        return np.where(log.last(1)["loss"][:, 0] < 1e-3, LEARNED, NOT_LEARNED)


PROTOCOLS: dict[str, AbstractProtocol] = {
    "delayed_cue": DelayedCue(),
    "fixed_response": FixedResponseControl(),
    "delayed_activation": RankTwo(),
}


def _descent(shape):
    optimiser = sgd(momentum=shape["momentum"], weight_decay=shape["weight_decay"])
    return {"optimiser": optimiser, "batch": int(shape["batch"])}


@eqx.filter_jit
def _full_rank(units, readout, tau, noise, keys):
    def build(key, tau, noise):
        return RateRNN(
            2, units, 2, tau=tau, noise=noise, readout=readout, init=Xavier(), key=key
        )

    return ensemble(build, keys, tau, noise)


@eqx.filter_jit
def _low_rank(units, tau, noise, keys):
    def build(key, tau, noise):
        k_weights, k_start = jax.random.split(key)
        return LowRankRNN(
            0,
            units,
            1,
            rank=2,
            tau=tau,
            noise=noise,
            form="rate",
            scale="1",
            readout="sigmoid",
            latent_readout=True,
            init=GaussianFactors(b_out_std=1.0),
            x0=0.1 * jax.random.normal(k_start, (units,)),
            key=k_weights,
        )

    return ensemble(build, keys, tau, noise)
