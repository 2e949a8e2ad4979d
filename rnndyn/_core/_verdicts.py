"""One table of verdicts for every search, and what each one advises."""

import enum


class Verdict(enum.IntEnum):
    """How one start of a search ended. The integer codes are frozen: codes are
    appended, never reused, and stored as names."""

    undetermined = 0
    root = 1
    slow_point = 2
    ghost = 3
    continuum = 4
    limit_cycle = 5
    invariant_circle = 6
    k_cycle = 7
    torus = 8
    chaotic = 9
    diverged = 10
    lost = 11
    constant = 12

    @property
    def advice(self) -> str:
        """What the verdict means and what to try next."""
        return _ADVICE[self]


_ADVICE = {
    Verdict.undetermined: "The precision or the number of steps does not suffice to "
    "decide. Run `rnndyn.dynamics.certify`, or raise `max_steps`.",
    Verdict.root: "The residual passed the root test in the dtype of the search.",
    Verdict.slow_point: "A local minimum of the speed that is not a root.",
    Verdict.ghost: "A slow point left behind by a saddle-node: one eigenvalue near 0.",
    Verdict.continuum: "The root belongs to a continuous family of roots.",
    Verdict.limit_cycle: "A closed orbit of a flow, not a single point.",
    Verdict.invariant_circle: "A closed curve invariant under a map.",
    Verdict.k_cycle: "A periodic orbit of a map.",
    Verdict.torus: "Quasi-periodic motion with more than one frequency.",
    Verdict.chaotic: "A positive leading exponent.",
    Verdict.diverged: "The state left every bound or became non-finite. Check the "
    "weights and the start.",
    Verdict.lost: "The search left the neighbourhood it was asked about, or stopped "
    "where the speed is neither zero nor minimal. Try other starts.",
    Verdict.constant: "A cycle search that collapsed on a fixed point.",
}


def names(codes) -> list[str]:
    """Names of an iterable of verdict codes, for tables and files."""
    return [Verdict(int(c)).name for c in codes]
