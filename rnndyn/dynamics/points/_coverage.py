"""What share of starts would end at a root that a search has not seen."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..._core._export import Result
from ..._core._verdicts import Verdict


class Coverage(Result):
    """How much of the space of starts the roots found account for.

    **Attributes:**

    - `hits`: number of the given starts that ended at each root, in the order of
        `roots(families=True)`; 0 for roots that only added starts or symmetries found.
    - `num_starts`: given starts that ran.
    - `undecided`: how many of these have no verdict. They may hide roots; raise
        `max_steps`, or certify.
    - `unseen`: estimated chance that one more start would end at a new root, the share
        of starts that are alone at theirs (Good-Turing).
    - `unseen_upper`: upper end of its 95 % interval; about 3 / `num_starts` where every
        root was found twice.
    - `missing`: a lower bound of the number of roots that are missing (Chao 1984); the
        number itself cannot be known, since basins may be as small as they like.

    All of it supposes that starts are independent draws from one distribution, as those
    of a sampler, and speaks of that distribution alone: of roots without starts near
    them nothing is known.

    **References:** I. J. Good 1953, doi:10.1093/biomet/40.3-4.237; A. Chao 1984,
    Scandinavian Journal of Statistics 11:265; the interval after W. Esty 1983,
    doi:10.1214/aos/1176346256, with one start more among those that are alone, so that
    it holds for small numbers too.
    """

    hits: Int[np.ndarray, " roots"]
    num_starts: int
    undecided: int
    unseen: Float[np.ndarray, ""]
    unseen_upper: Float[np.ndarray, ""]
    missing: Float[np.ndarray, ""]

    def headline(self) -> str:
        """Roots found, what more starts would bring, and what that leaves out."""
        undecided = f" ({self.undecided} undecided)" if self.undecided else ""
        return (
            f"{len(self.hits)} roots from {self.num_starts} starts{undecided}; one "
            f"more ends at a new one with chance {self.unseen:.2g}, at most "
            f"{self.unseen_upper:.2g}"
        )


def coverage_of(points: Any, roots: Int[np.ndarray, " roots"]) -> Coverage:
    """The estimates for certified points whose distinct roots, of a family the first,
    are in slots `roots`."""
    stats = {k: np.asarray(v) for k, v in points.stats.items()}
    verdict, family = np.asarray(points.verdict), np.asarray(points.family)
    ran = stats["given"] & (stats["num_steps"] > 0)
    # Members of a family may be far from the first; they share its label.
    same = [(family == family[i]) if family[i] >= 0 else [i] for i in roots]
    hits = np.array([np.sum(stats["hits"][rows]) for rows in same], int)
    num_starts, undecided = ran.sum(), (ran & (verdict == Verdict.undetermined)).sum()
    once, twice = np.sum(hits == 1), np.sum(hits == 2)
    return Coverage(
        hits=hits,
        num_starts=int(num_starts),
        undecided=int(undecided),
        unseen=np.asarray(once / num_starts if num_starts else 1.0),
        unseen_upper=np.asarray(unseen_upper(once, twice, num_starts)),
        missing=np.asarray(once * (once - 1) / (2 * (twice + 1))),
    )


def unseen_upper(once: Any, twice: Any, num_starts: Any) -> Any:
    """Upper end of the 95 % interval of the chance of a new root, when of `num_starts`
    starts `once` are alone at their root, and `twice` roots have two. Of NumPy and JAX
    numbers alike, at most 1."""
    variance = once + 2 * twice + 1
    upper = (once + 1 + 1.96 * variance**0.5) / (num_starts + (num_starts == 0))
    return upper * (upper < 1) + 1.0 * (upper >= 1)
