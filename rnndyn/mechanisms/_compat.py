"""Labels as published: a noisy free run of one cue, and the index of its signs."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._batch import device_mesh, map_members, member_keys
from .._core._checks import check_counts, check_ids, check_step_ratio
from .._core._export import Result
from .._core._types import KeyLike
from ..models import AbstractRNN, member, num_members
from ..tasks import AbstractTask, per_member
from ..tasks._base import check_condition, check_fit
from ._index import sign_index, sign_of, two_components
from ._run import step_of


COMPAT = ("not_learned", "limit_cycle", "slow_point", "unstable")
"""Names of the published classes by code."""

NOT_LEARNED, LIMIT_CYCLE, SLOW_POINT, UNSTABLE = range(4)
_OUTCOMES = (NOT_LEARNED, LIMIT_CYCLE, UNSTABLE)
_THRESHOLD = 0.5
_TRIALS = 9


class CompatLabels(Result):
    """The published label of every network, and how much chance there is in it.

    **Attributes:**

    - `code`: published class, codes of `rnndyn.mechanisms.COMPAT`, shape `(member,)`.
    - `index`: the index of the first run with the default sign, which decided.
    - `indices`: of every noise draw, and of the difference and the sum of the two
        principal components, shape `(member, draw, sign)`.
    - `median`: their median; `median_code`: the class it would give.
    - `ambiguous`: whether draws or signs disagree about the class.
    - `learned`: whether the training outcome counts as learned, and all runs were
        finite.
    """

    code: Int[Array, " member"]
    index: Float[Array, " member"]
    indices: Float[Array, "member draw sign"]
    median: Float[Array, " member"]
    median_code: Int[Array, " member"]
    ambiguous: Bool[Array, " member"]
    learned: Bool[Array, " member"]

    def headline(self) -> str:
        """How many networks there are of each label."""
        counts = Counter(self.names).most_common()
        line = ", ".join(f"{name}: {n}" for name, n in counts)
        return f"{line}; {int(np.sum(self.ambiguous))} ambiguous"

    @property
    def names(self) -> list[str]:
        """Names of the published classes, one a network."""
        return [COMPAT[int(c)] for c in np.asarray(self.code)]

    def counts(self) -> dict[str, int]:
        """How many networks fall in each published class."""
        codes = np.asarray(self.code)
        return {name: int(np.sum(codes == i)) for i, name in enumerate(COMPAT)}


def compat_labels(
    models: AbstractRNN,
    task: AbstractTask,
    *,
    dt: float | None = None,
    outcome: Any = None,
    draws: int = 3,
    spread: float | int = 0.1,
    cue: int = 0,
    chunk: int = 16,
    ids: Any = None,
    key: KeyLike,
) -> CompatLabels:
    r"""Label networks by the published pipeline, step by step.

    Of each network, and of the first cue only: a free run of nine trial lengths, the
    trial's inputs in the first and none after, with noise and a random start as in
    training,

        r_0 = tanh(spread xi),  r_{t+1} = r_t + dt f(r_t, u_t + noise xi_t)

    the rates `r_1 .. r_9T` on their first two principal components, and the index of
    the sign of their difference (`discrimination_index`): a limit cycle below 0.5,
    else a slow point. Networks that were not learned, or unstable, keep that class;
    one that leaves the finite numbers in any run has no index (NaN) and is not learned.

    ```python
    result = rd.training.train(nets, task, ...)
    labels = rd.mechanisms.compat_labels(
        result.models, task, outcome=result.outcome, key=jax.random.key(0)
    )
    labels.counts(), labels.ambiguous.mean()
    ```

    **Arguments:**

    - `models`: trained networks with a leading axis, in their own precision.
    - `task`: one task, or one per network; delays may differ.
    - `dt`: step of the map they were trained as (seconds), that of the task.
    - `outcome`: codes of `rnndyn.training.outcome`, shape `(members,)`: 0 not learned,
        1 learned, 2 unstable. All are taken as learned without it.
    - `draws`: runs with fresh noise; the first decides, all make the median.
    - `spread`: standard deviation inside the tanh of the start.
    - `cue`: the condition shown; the published code looks at the first.
    - `chunk`: networks in memory at a time.
    - `ids`: member numbers, `0 .. members - 1` by default; `key`: of starts and
        noise. A network's draws depend on these two and on nothing else.

    **Returns:** `CompatLabels`. Differs from the published code in that the principal
    components are exact instead of randomised, so that their signs are fixed by
    convention (the largest weight is positive) instead of by chance. Not guaranteed:
    that the label is right. It looks at one cue, changes with the sign of a principal
    component, and takes cycles slower than about four trial lengths for slow points;
    `classify` is what this library believes.

    **Raises:** a `ValueError` if `models` is no ensemble, is empty or has other inputs
    than the task, if `outcome` has another shape or other codes, `draws < 1`, or
    `dt/tau` lies outside (0, 1].

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, `sort_data.py` of
    github.com/fatihdinc/dynamical-phases-stm.
    """
    members = num_members(models)
    check_fit(models, task, outputs=False)
    dt = step_of(task, dt)
    check_step_ratio(dt, models.tau)
    check_counts(members=members, draws=draws, chunk=chunk)
    check_condition("cue", cue, task.num_conditions)
    given = _published_outcome(outcome, members)
    tasks = per_member(task, members)
    keys = jr.key_data(member_keys(key, check_ids(ids, members)))
    mesh = device_mesh()
    size = -(-chunk // mesh.size) * mesh.size
    sizes = (jnp.asarray(dt), jnp.asarray(float(spread)), jnp.asarray(cue))
    parts = []
    for first in range(0, members, size):
        # Filled up by repetition: one program for any number of networks.
        rows = np.arange(first, first + size) % members
        nets, some = member((models, tasks), rows)
        runs = _free_runs(nets, some, keys[rows], *sizes, draws, mesh)
        # Two programs: decompositions of arrays that lie on several devices of a CPU
        # can wait for each other for ever.
        found = _indices(*(jnp.asarray(np.asarray(a)) for a in runs))
        parts.append(np.asarray(found)[: members - first])
    indices = np.concatenate(parts)
    # What runs away is no slow point, whatever its training said.
    wild = ~np.isfinite(indices).all(axis=(1, 2))
    given = np.where(wild & (given == LIMIT_CYCLE), NOT_LEARNED, given)
    low = indices < _THRESHOLD
    median = np.median(indices, axis=(1, 2))
    learned = given == LIMIT_CYCLE
    name = lambda cycle: np.where(
        learned, np.where(cycle, LIMIT_CYCLE, SLOW_POINT), given
    )
    return CompatLabels(
        code=jnp.asarray(name(low[:, 0, 0]), jnp.int32),
        index=jnp.asarray(indices[:, 0, 0]),
        indices=jnp.asarray(indices),
        median=jnp.asarray(median),
        median_code=jnp.asarray(name(median < _THRESHOLD), jnp.int32),
        ambiguous=jnp.asarray(low.any(axis=(1, 2)) & ~low.all(axis=(1, 2))),
        learned=jnp.asarray(learned),
    )


def _published_outcome(outcome, members) -> np.ndarray:
    """Classes of what was not learned, limit cycle for all that was."""
    if outcome is None:
        return np.full(members, LIMIT_CYCLE)
    codes = np.asarray(outcome)
    if codes.shape != (members,) or not np.isin(codes, (0, 1, 2)).all():
        raise ValueError(
            f"outcome has shape {codes.shape} and codes {np.unique(codes)[:5]}, "
            f"expected ({members},) and 0, 1, 2. Pass TrainResult.outcome."
        )
    return np.asarray(_OUTCOMES)[codes]


@eqx.filter_jit
def _free_runs(models, tasks, keys, dt, spread, cue, draws, mesh):
    def run(model, task, key):
        dtype = model.x0.dtype
        trial = task.trial(cue, key=jr.key(0))
        length = _TRIALS * task.num_steps
        inputs = jnp.zeros((length, model.input_size), dtype)
        inputs = inputs.at[: task.num_steps].set(trial.inputs.astype(dtype))
        drive = jax.vmap(model.drive)(inputs)
        h = dt.astype(dtype)

        def one(i):
            k_start, k_noise = jr.split(jr.fold_in(jr.wrap_key_data(key), i))
            xi = jr.normal(k_start, (model.state_size,), dtype)
            x = jnp.tanh(spread.astype(dtype) * xi)
            noise = model.noise * jr.normal(k_noise, drive.shape, dtype)

            def step(x, current):
                x = x + h * model.velocity(x, model.recurrent(x) + current)
                return x, x

            return jax.lax.scan(step, x, drive + noise)[1]

        steps = _TRIALS * jnp.sum(trial.period >= 0)
        return jax.vmap(one)(jnp.arange(draws)), steps.astype(jnp.int32)

    return map_members(run, models, tasks, keys, mesh=mesh)


@eqx.filter_jit
def _indices(rates, steps):
    def both_signs(rates, steps):
        first, second = two_components(rates, steps)
        gaps = jnp.stack([first - second, first + second])
        return jax.vmap(lambda s: sign_index(s, steps=steps))(sign_of(gaps))

    return jax.vmap(jax.vmap(both_signs, (0, None)))(rates, steps)
