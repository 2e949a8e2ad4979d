"""Published labels against certified ones, network by network."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ..dynamics import wilson
from ._compat import COMPAT, LIMIT_CYCLE, SLOW_POINT, CompatLabels
from ._mechanism import Mechanism, MechanismReport


KINDS = ("rest", "cycle", "mixed", "other")
"""How the cues of a network end: at rest, on cycles, some each, or it is not known."""

REST, CYCLE, MIXED, OTHER = range(4)
_RESTING = 0.02  # as in DecisionList


class Share(eqx.Module):
    """`count` of `total` networks: the `share`, and its Wilson interval."""

    count: int
    total: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, count: Any, total: Any, level: float = 0.95) -> "Share":
        """The share of `count` in `total`; NaN with an interval of [0, 1] of none."""
        return cls(int(count), int(total), *wilson(int(count), int(total), level))

    def __str__(self) -> str:
        interval = f"[{self.low:.2f}, {self.high:.2f}]"
        return f"{self.count}/{self.total} = {self.share:.2f} {interval}"


class Agreement(eqx.Module):
    """How published labels and certified ones agree.

    **Attributes:**

    - `table`: networks by published class (rows, `COMPAT`) and by how their cues end
        (columns, `KINDS`), shape `(published, kinds)`.
    - `same`: of the learned networks that are not mixed and whose kind is known, those
        that both labels call alike; `kappa`: Cohen's, NaN where one label is constant.
    - `same_cue`: the same about the one cue that the published label looked at, mixed
        networks included.
    - `mixed`: learned networks whose cues end differently; `other`: learned ones whose
        kind is not known.
    - `ambiguous`: learned networks whose published label changes with the noise or the
        sign of a principal component.
    """

    table: Int[Array, "published kinds"]
    same: Share
    kappa: float
    same_cue: Share
    mixed: Share
    other: Share
    ambiguous: Share

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, shares as dictionaries, ready for JSON."""
        out: dict[str, Any] = {"published": COMPAT, "kinds": KINDS}
        for name, value in vars(self).items():
            out[name] = dict(vars(value)) if isinstance(value, Share) else value
        return out | {"table": np.asarray(self.table).tolist()}

    def __str__(self) -> str:
        width = max(map(len, COMPAT)) + 2
        lines = ["".ljust(width) + "".join(k.rjust(8) for k in KINDS)]
        for name, row in zip(COMPAT, np.asarray(self.table), strict=True):
            lines.append(name.ljust(width) + "".join(f"{n:8d}" for n in row))
        lines += [
            f"same label          {self.same}, kappa {self.kappa:.2f}",
            f"same, the cue shown {self.same_cue}",
            f"mixed               {self.mixed}",
            f"kind not known      {self.other}",
            f"index ambiguous     {self.ambiguous}",
        ]
        return "\n".join(lines)


def cue_kinds(report: MechanismReport) -> np.ndarray:
    """How each cue ends, codes of `KINDS`: `rest`, `cycle` or `other`.

    A cue at rest whose memory could not be named (neither held by fixed points nor by
    slowness) is at rest all the same.

    ```python
    report = rd.mechanisms.classify(models, task, key=key)
    rd.mechanisms.cue_kinds(report)
    ```

    **Arguments:** `report`: from `classify`.

    **Returns:** integer codes, shape `(member, cue)`.
    """
    f = report.features
    return kinds_of(report.cue_code, f.late_peak, f.at_root)


def kinds_of(cue_code: Any, late_peak: Any, at_root: Any) -> np.ndarray:
    """`cue_kinds` from the arrays it needs, each of shape `(member, cue)`."""
    code = np.asarray(cue_code)
    named = np.isin(code, (Mechanism.fixed_points, Mechanism.slow_manifold))
    still = np.asarray(at_root, bool) & (np.asarray(late_peak) < _RESTING)
    rest = named | ((code == Mechanism.undetermined) & still)
    cycle = np.where(code == Mechanism.limit_cycle, CYCLE, OTHER)
    return np.where(rest, REST, cycle).astype(np.int32)


def network_kinds(report: MechanismReport) -> np.ndarray:
    """How each network's cues end together, codes of `KINDS`; learned or not.

    **Arguments:** `report`: from `classify`.

    **Returns:** integer codes, shape `(member,)`: `mixed` if some cues rest and some
    cycle, `other` if one of them does neither.
    """
    return together(cue_kinds(report))


def together(cues: np.ndarray) -> np.ndarray:
    """Kinds of networks from those of their cues."""
    same = np.all(cues == cues[:, :1], axis=1)
    kinds = np.where(same, cues[:, 0], MIXED)
    return np.where(np.any(cues == OTHER, axis=1), OTHER, kinds).astype(np.int32)


def agreement(
    compat: CompatLabels, report: MechanismReport, *, cue: int = 0
) -> Agreement:
    """Compare the published labels of an ensemble with its certified ones.

    A published limit cycle should be a network whose cues end on cycles, a slow point
    one whose cues come to rest. Networks whose cues differ are counted as mixed and
    left out of `same`; the published pipeline has no such class.

    ```python
    compat = rd.mechanisms.compat_labels(models, task, outcome=outcome, key=key)
    report = rd.mechanisms.classify(models, task, key=key)
    print(rd.mechanisms.agreement(compat, report))
    ```

    **Arguments:**

    - `compat`: from `compat_labels`; `report`: from `classify`, of the same networks.
    - `cue`: the one `compat` was made with.

    **Returns:** an `Agreement`, with 95 % intervals. Not guaranteed: that the certified
    label is right where networks creep more slowly than 60 trial lengths show.

    **Raises:** a `ValueError` if the two are not about equally many networks.

    **Reference:** Cohen 1960, doi:10.1177/001316446002000104 (kappa); Wilson 1927,
    doi:10.1080/01621459.1927.10502953.
    """
    cues = cue_kinds(report)
    if np.shape(compat.code) != cues.shape[:1]:
        raise ValueError(
            f"compat is about {np.shape(compat.code)[0]} networks and report about "
            f"{cues.shape[0]}, expected the same networks in the same order."
        )
    return compare(compat.code, compat.learned, compat.ambiguous, cues, cue)


def compare(code: Any, learned: Any, ambiguous: Any, cues: Any, cue: int) -> Agreement:
    """`agreement` from the arrays it needs."""
    code, cues, learned = np.asarray(code), np.asarray(cues), np.asarray(learned)
    kinds = together(cues)
    table = np.zeros((len(COMPAT), len(KINDS)), np.int64)
    np.add.at(table, (code, kinds), 1)
    count = int(learned.sum())
    decided = table[[LIMIT_CYCLE, SLOW_POINT]][:, [CYCLE, REST]]
    wanted = np.where(code == LIMIT_CYCLE, CYCLE, REST)
    seen = learned & (cues[:, cue] != OTHER)
    return Agreement(
        table=jnp.asarray(table, jnp.int32),
        same=Share.of(np.trace(decided), decided.sum()),
        kappa=cohen_kappa(decided),
        same_cue=Share.of(np.sum(seen & (wanted == cues[:, cue])), seen.sum()),
        mixed=Share.of(np.sum(learned & (kinds == MIXED)), count),
        other=Share.of(np.sum(learned & (kinds == OTHER)), count),
        ambiguous=Share.of(np.sum(learned & np.asarray(ambiguous)), count),
    )


def cohen_kappa(table: Any) -> float:
    """Agreement beyond chance of two labels, `(p_same - p_chance)/(1 - p_chance)`.

    ```python
    cohen_kappa([[20, 5], [10, 15]])  # 0.4
    ```

    **Arguments:** `table`: counts, one label in rows and the other in columns, square.

    **Returns:** kappa in [-1, 1], NaN if the table is empty or chance explains all.

    **Reference:** Cohen 1960, doi:10.1177/001316446002000104.
    """
    table = np.asarray(table, float)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"table has shape {table.shape}, expected a square one.")
    total = table.sum()
    if total == 0:
        return float("nan")
    same = np.trace(table) / total
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return float((same - chance) / (1 - chance)) if chance < 1 else float("nan")
