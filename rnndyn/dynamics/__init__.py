"""Questions one can ask of any flow `f(t, x, args)` or map `F(x, args)`."""

from ._decide import certify as certify
from ._linear import (
    eigenvalues as eigenvalues,
    jacobian as jacobian,
    stability as stability,
)
from ._states import states as states
from .cycles._cycle_certify import (
    certify_cycle as certify_cycle,
    certify_cycles as certify_cycles,
)
from .cycles._cycle_guess import CloseReturns as CloseReturns
from .cycles._cycle_search import (
    LimitCycles as LimitCycles,
    limit_cycles as limit_cycles,
)
from .cycles._cycles import limit_cycle as limit_cycle
from .cycles._floquet import Floquet as Floquet, floquet as floquet
from .cycles._limit_cycle import LimitCycle as LimitCycle
from .cycles._sections import (
    ReturnMap as ReturnMap,
    Section as Section,
    poincare_section as poincare_section,
    return_map as return_map,
)
from .long_run._attractors import Attractors as Attractors, attractors as attractors
from .long_run._basins import wilson as wilson
from .long_run._late_verdict import verdict_of as verdict_of
from .long_run._lyapunov import lyapunov_spectrum as lyapunov_spectrum
from .long_run._recurrence import LateRun as LateRun, settle as settle
from .long_run._spectrum import (
    LyapunovSpectrum as LyapunovSpectrum,
    kaplan_yorke as kaplan_yorke,
)
from .maps._circles import (
    InvariantCircle as InvariantCircle,
    invariant_circle as invariant_circle,
)
from .maps._map_cycles import KCycles as KCycles, k_cycles as k_cycles
from .maps._piecewise import (
    PiecewiseCycles as PiecewiseCycles,
    plrnn_cycles as plrnn_cycles,
    plrnn_fixed_points as plrnn_fixed_points,
)
from .points._certify import certify as certify_points
from .points._coverage import Coverage as Coverage
from .points._fixed_points import (
    fixed_points as fixed_points,
    slow_points as slow_points,
)
from .points._points import FixedPoints as FixedPoints
from .points._search import Tolerances as Tolerances
from .points._solver import LevenbergMarquardt as LevenbergMarquardt
from .points._starts import (
    AbstractSampler as AbstractSampler,
    AbstractStrategy as AbstractStrategy,
    AfterPulses as AfterPulses,
    Box as Box,
    FromTrajectories as FromTrajectories,
    Gaussian as Gaussian,
    MultiStart as MultiStart,
    NearStates as NearStates,
)
from .points._strategies import (
    Deflation as Deflation,
    NoisyRestarts as NoisyRestarts,
)
from .slow._ghosts import (
    Ghost as Ghost,
    ghost_passage as ghost_passage,
    ghosts as ghosts,
)
from .slow._manifolds import (
    SlowManifold as SlowManifold,
    slow_manifold as slow_manifold,
)
from .slow._passage import Passage as Passage, passage_time as passage_time
from .slow._rings import RingFlow as RingFlow, ring_flow as ring_flow
