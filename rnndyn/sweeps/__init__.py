"""Many networks, long runs: grids of networks trained in shards that can be resumed.

A sweep is a configuration (`SweepConfig`: a `Grid` of named axes and everything the
members share). The grid gives a table of members with ids that depend on nothing but
the member; the table is cut into shards of members that share one compiled program.
A shard is a pure function of (configuration, index), so that it can be computed by any
process, on any machine, again after a crash, and be checked by recomputing it.

    config = rd.sweeps.SweepConfig(
        grid=rd.sweeps.Grid(learning_rate=[0.1, 0.01], delay=[0.02, 0.1], seed=20),
        units=100, batch=32, min_epochs=1000, rate_epochs=30.0)
    config = rd.sweeps.preset("nopost", batch=32, seeds=20)      # a published sweep
    config = rd.sweeps.SweepConfig.from_toml("sweep.toml")

    sweep = rd.sweeps.run(config, "out")                  # trains, labels, resumes
    sweep = rd.sweeps.run(config, "out", executor=pool, shards=[0, 1], say=print)
    sweep = rd.sweeps.load("out")                         # what is finished by now
    rd.sweeps.status("out").table(); rd.sweeps.resume("out"); rd.sweeps.merge("out")

A finished `Sweep` has a row for each network, in the order of the grid:

    sweep.arrays["learning_rate" | "delay" | "seed" | "outcome" | "mechanism" | ...]
    sweep.cube("final_loss")                   # over the grid, NaN where missing
    sweep.fractions("compat").of("slow_point") # over all axes but the seed
    sweep.curves()["last_accuracy"]            # (rows, last)
    nets, tasks = sweep.networks(rows)         # ensembles; sweep.groups(rows) if mixed

Codes: `outcome` is that of `rnndyn.training.OUTCOMES` (0 not learned, 1 learned,
2 unstable), exact at every epoch; `compat_code` is the published one (0 not learned,
1 limit cycle, 2 slow point, 3 unstable, -1 not labelled); `mechanism`, `cue_code`,
`flow_code` are codes of `rnndyn.mechanisms.MECHANISMS` (-1 not labelled).
"""

from ._config import (
    PRESETS as PRESETS,
    SweepConfig as SweepConfig,
    preset as preset,
)
from ._grid import Grid as Grid, Members as Members
from ._protocol import PROTOCOLS as PROTOCOLS, AbstractProtocol as AbstractProtocol
from ._run import resume as resume, run as run
from ._shard import (
    Shard as Shard,
    Trained as Trained,
    plan as plan,
    train_shard as train_shard,
)
from ._sweep import Fractions as Fractions, Sweep as Sweep, load as load
from .disk._status import (
    Status as Status,
    merge as merge,
    status as status,
    verify as verify,
)
from .disk._store import load_config as load_config
