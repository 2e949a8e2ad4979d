"""Recurrent networks as vector fields."""

from .._core._system import Map as Map
from ._activations import ACTIVATIONS as ACTIVATIONS
from ._base import (
    AbstractRNN as AbstractRNN,
    ensemble as ensemble,
    member as member,
    num_members as num_members,
    stack as stack,
)
from ._constraints import (
    AbstractConstraint as AbstractConstraint,
    Constraints as Constraints,
    Dale as Dale,
    Masked as Masked,
    trainable as trainable,
)
from ._gated import ContinuousGRU as ContinuousGRU
from ._init import (
    AbstractInit as AbstractInit,
    Connectivity as Connectivity,
    DaleBalanced as DaleBalanced,
    Gaussian as Gaussian,
    Orthogonal as Orthogonal,
    Sparse as Sparse,
    Xavier as Xavier,
)
from ._io import (
    load_network as load_network,
    network_dt as network_dt,
    save_network as save_network,
)
from ._lowrank import (
    Factors as Factors,
    GaussianFactors as GaussianFactors,
    LatentField as LatentField,
    LowRankRNN as LowRankRNN,
)
from ._piecewise import PiecewiseLinearRNN as PiecewiseLinearRNN
from ._rate import CurrentRNN as CurrentRNN, RateRNN as RateRNN
from ._unroll import outputs as outputs, unroll as unroll
