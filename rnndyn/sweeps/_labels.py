"""Labels of a trained shard: by mechanism, and as published."""

from typing import Any

import jax
import jax.random as jr
import numpy as np

from ..mechanisms import COMPAT, MECHANISMS, Features, classify, compat_labels
from ..models import num_members
from ..training import OUTCOMES
from ._config import SweepConfig
from ._grid import LABEL


DIMS: dict[str, tuple[str, ...]] = {
    "mechanism": ("member",),
    "cue_code": ("member", "cue"),
    "flow_code": ("member", "cue"),
    "margin": ("member", "cue"),
    "compat_code": ("member",),
    "compat_index": ("member",),
    "compat_median": ("member",),
    "compat_ambiguous": ("member",),
    "evidence": ("member", "number"),
    "cue_evidence": ("member", "cue", "number_of_cue"),
}
"""Dimensions of the label arrays."""

_OF_NETWORK = ("accuracy", "reliability", "unit_time", "delay")
RULES = 2
"""Raised when networks of the same evidence columns would be labelled otherwise."""
EVIDENCE: dict[str, tuple[str, ...]] = {
    "evidence": _OF_NETWORK,
    "cue_evidence": tuple(
        k for k in Features.__dataclass_fields__ if k not in _OF_NETWORK
    ),
}
"""Fields of `rnndyn.mechanisms.Features` in the order in which they are stored."""

_COMPAT_OF = {"not_learned": 0, "learned": -1, "unstable": 3}


def label(
    config: SweepConfig,
    networks: Any,
    tasks: Any,
    outcome: np.ndarray,
    ids: np.ndarray,
) -> dict[str, np.ndarray]:
    """Label arrays of networks, by the names of `DIMS`.

    `mechanism` (codes of `rnndyn.mechanisms.MECHANISMS`, with `cue_code`, `flow_code`,
    `margin` and all evidence) is what this library believes, decided for every
    network. `compat_code` is the published class, decided for learned networks only.
    What was not asked for is -1 or NaN.

    **Arguments:**

    - `config`: `labels` says which, `root_seed` which noise.
    - `networks`, `tasks`: trained networks and their tasks, a leading axis each.
    - `outcome`: codes of `rnndyn.training.OUTCOMES`, `ids`: of the members, both of
        shape `(members,)`.
    """
    key = jr.fold_in(jr.key(config.root_seed), LABEL)
    ids = ids.astype(np.uint32)  # equal low halves would share noise, no more
    count, cues = num_members(networks), config.rules.conditions
    found = blank(count, cues)
    compat = np.asarray([_COMPAT_OF[name] for name in OUTCOMES])
    found["compat_code"] = compat[outcome].astype(np.int8)
    if "compat" in config.labels:
        learned = outcome == OUTCOMES.index("learned")
        with jax.enable_x64(False):
            labels = compat_labels(
                networks, tasks, outcome=outcome, ids=ids, key=jr.fold_in(key, 0)
            )
        ours = lambda a: np.where(learned, np.asarray(a), np.nan).astype(np.float32)
        found["compat_code"] = np.asarray(labels.code, np.int8)
        found["compat_index"] = ours(labels.index)
        found["compat_median"] = ours(labels.median)
        found["compat_ambiguous"] = learned & np.asarray(labels.ambiguous)
    if "primary" in config.labels:
        report = classify(
            networks, tasks, ids=ids, key=jr.fold_in(key, 1), **config.rules.scoring
        )
        found["mechanism"] = np.asarray(report.code, np.int8)
        found["cue_code"] = np.asarray(report.cue_code, np.int8)
        found["flow_code"] = np.asarray(report.flow_code, np.int8)
        found["margin"] = np.asarray(report.margin, np.float32)
        found |= pack(vars(report.features))
    return found


def pack(features: Any) -> dict[str, np.ndarray]:
    """Numbers by name as two arrays, of each network and of each of its cues: a file
    per number would be too many."""
    return {
        name: np.stack(
            [np.asarray(features[k], np.float32) for k in EVIDENCE[name]], axis=-1
        )
        for name in EVIDENCE
    }


def aligned(
    arrays: dict[str, np.ndarray], columns: dict[str, tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """The two arrays of `pack` with the columns of this version: what another version,
    with these `columns`, did not keep is NaN."""
    found = {}
    for name in EVIDENCE.keys() & arrays.keys():
        values, have = arrays[name], columns[name]
        lost = np.full(values.shape[:-1], np.nan, values.dtype)
        parts = [
            values[..., have.index(k)] if k in have else lost for k in EVIDENCE[name]
        ]
        found[name] = np.stack(parts, axis=-1)
    return found


def unpack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of `pack` by name again, as `evidence_*`."""
    arrays = dict(arrays)
    for name, parts in EVIDENCE.items():
        if name in arrays:
            values = arrays.pop(name)
            arrays |= {f"evidence_{k}": values[..., i] for i, k in enumerate(parts)}
    return arrays


def blank(count: int, cues: int) -> dict[str, np.ndarray]:
    """The arrays of no label at all."""
    sizes = {"member": count, "cue": cues}
    sizes["number"] = len(EVIDENCE["evidence"])
    sizes["number_of_cue"] = len(EVIDENCE["cue_evidence"])
    arrays = {}
    for name, dims in DIMS.items():
        shape = tuple(sizes[d] for d in dims)
        if name == "compat_ambiguous":
            arrays[name] = np.zeros(shape, bool)
        elif name.endswith(("code", "mechanism")):
            arrays[name] = np.full(shape, -1, np.int8)
        else:
            arrays[name] = np.full(shape, np.nan, np.float32)
    return arrays


CODES = {
    "outcome": OUTCOMES,
    "compat_code": COMPAT,
    "mechanism": MECHANISMS,
    "cue_code": MECHANISMS,
    "flow_code": MECHANISMS,
}
"""Names of the codes; -1 is not labelled."""
