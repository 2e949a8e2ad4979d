"""The command line: `rnndyn demo | doctor | analyse | sweep | study`. Nothing lives
only here."""

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from . import _bootstrap


PACKAGES = (
    "rnndyn",
    "jax",
    "jaxlib",
    "equinox",
    "diffrax",
    "optimistix",
    "lineax",
    "optax",
    "numpy",
    "safetensors",
)


@dataclass
class Demo:
    """Train an ensemble over delays, learning rates and seeds, label every network,
    and write weights, results, manifest.json and report.png."""

    out: Path = Path("rnndyn-demo")
    """Folder to write to."""
    delays: tuple[int, ...] = (20, 60, 100, 140)
    """Delays in ms."""
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Learning rates."""
    seeds: int = 8
    """Networks a cell."""
    units: int = 64
    """Units a network."""
    epochs: int = 800
    """Updates a network."""
    batch: int = 16
    """Trials an update."""

    def run(self) -> None:
        from . import studies

        start = time.perf_counter()
        config = studies.EnsembleConfig(
            delays=self.delays,
            learning_rates=self.learning_rates,
            seeds=self.seeds,
            units=self.units,
            epochs=self.epochs,
            batch=self.batch,
        )
        # Before the long training, not after it.
        self.out.mkdir(parents=True, exist_ok=True)
        run = studies.run_ensemble(config, progress=True, say=print)
        print(f"\n{run.table()}\n")
        print(
            "labels are those of the Euler map that was trained; one network of each:"
        )
        seen = set()
        for i, name in enumerate(run.report.names):
            if name not in seen:
                seen.add(name)
                print(f"network {i}: {name}")
                print(*(f"  {line}" for line in run.report.evidence(i)), sep="\n")
        studies.save_ensemble(run, self.out)
        if _has("matplotlib"):
            studies.plot_ensemble(run).savefig(self.out / "report.png", dpi=130)
        else:
            print('no figure: pip install "rnndyn[plot]"')
        print(f"wrote {self.out}/ in {time.perf_counter() - start:.0f} s altogether")


@dataclass
class Analyse:
    """Say by which mechanism a trained network (npz or safetensors of named arrays)
    holds a memory: fixed points, slow points, attractors, read-outs, evidence."""

    file: Path
    """Arrays `form`, `tau`, `W` or `m` and `n`, and optionally `dt`, `activation`,
    `W_in`, `b`, `W_out`, `x0`; or those of a PyTorch nn.RNN or nn.GRU, by its names."""
    out: Path | None = None
    """Figure to write, `FILE`.png in the current folder by default; a name without
    suffix gets `.png`."""
    form: str | None = None
    """rate, current, piecewise or gru, if the file does not say."""
    tau: float | None = None
    """Time constant in seconds, if the file does not say."""
    dt: float | None = None
    """Step of the Euler map in seconds, if the file does not say."""
    activation: str | None = None
    """Activation, if the file does not say."""
    readout: str | None = None
    """Read-out nonlinearity."""
    scale: str | None = None
    """1/N or 1: factor of m n^T in low-rank networks."""
    member: int | None = None
    """Which network, of a file that holds many (weights of `rnndyn demo`)."""
    starts: int = 32
    """Random starts of each kind; more search harder."""
    seed: int = 0
    """Of the random starts."""

    def run(self) -> None:
        import jax
        import numpy as np

        import rnndyn as rd

        start = time.perf_counter()
        # Before the long search, not after it.
        out = _figure_path(self.out or Path(f"{self.file.stem}.png"))
        names = ("form", "tau", "activation", "readout", "scale")
        given = {k: v for k in names if (v := getattr(self, k)) is not None}
        model = rd.load_network(self.file, member=self.member, **given)
        dt = self.dt
        if dt is None:
            dt = rd.models.network_dt(self.file, member=self.member, tau=self.tau)
        if dt is None:
            print("no dt, in the file or by --dt: the Euler map is not looked at")
        key = jax.random.key(self.seed)
        report = rd.analyse(model, dt=dt, starts=self.starts, key=key)
        print(f"{type(model).__name__}, {model.state_size} units, {self.file.name}")
        print("\nfixed points (flow; eigenvalues and speeds in units of 1/tau)")
        unit = report.time_scale
        for i, x in enumerate(report.points):
            leading = np.round(report.eigenvalues[i, :3] * unit, 5)
            state = {-1: "stable", 0: "undecided", 1: "unstable"}
            text = f"{i:3d} {state[int(report.stability[i])]:9s}"
            text += f" residual {report.residual[i]:.0e}"
            if report.latent is not None:
                text += f" kappa {np.round(report.latent[i] + 0.0, 6)}"
            else:
                text += f" |x| {np.linalg.norm(x):.4f}"
            text += f" read-out {np.round(report.readout[i] + 0.0, 4)}"
            text += f" eigenvalues {_numbers(leading)}"
            if dt is not None:
                text += f", largest multiplier in the map {report.map_radius[i]:.4f}"
            print(text)
        print(f"slow points (speed minima that are no roots): {len(report.slow)}")
        for title, found in (
            ("flow", report.attractors),
            ("Euler map", report.map_attractors),
        ):
            if found is None:
                continue
            print(f"\nattractors of the {title}, share of {len(found.label)} runs")
            rows = report.point_of(found)
            unit = "s" if found.kind == "flow" else "steps"
            for k, name in enumerate(found.names):
                interval = f"{found.low[k]:.2f}-{found.high[k]:.2f}"
                text = f"  {name} {found.share[k]:.2f} ({interval})"
                if rows[k] >= 0:
                    text += f" = point {rows[k]}"
                if name in ("limit_cycle", "k_cycle"):
                    text += f" period {found.period[k]:.4f} {unit}"
                if name != "root":
                    text += f" extent {found.extent[k]:.3g}"
                print(text)
            for line in found.caveats:
                print(f"  {line}")
        print(f"\nmechanism: {report.mechanism}")
        print(*(f"  {line}" for line in report.evidence), sep="\n")
        if _has("matplotlib"):
            report.plot().savefig(out, dpi=130)
            print(f"wrote {out}")
        else:
            print('no figure: pip install "rnndyn[plot]"')
        print(f"{time.perf_counter() - start:.0f} s")


@dataclass
class Doctor:
    """Print devices, precision, BLAS threads, compilation cache and versions."""

    packages: tuple[str, ...] = PACKAGES
    """Packages whose versions are printed."""

    def run(self) -> None:
        import jax

        devices = ", ".join(str(d) for d in jax.devices())
        print(f"python      {platform.python_version()} on {platform.platform()}")
        print(f"devices     {jax.device_count()} ({devices})")
        cores = _bootstrap.available_cores()
        print(f"cores       {cores}")
        config = jax.config.values
        x64 = config["jax_enable_x64"]
        print(f"precision   training float{64 if x64 else 32}, verdicts float64")
        print(f"matmul      {config['jax_default_matmul_precision'] or 'default'}")
        threads = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
        advice = "" if threads == "1" else "  <- set to 1: 15-200x on small matrices"
        print(f"BLAS        OPENBLAS_NUM_THREADS={threads}{advice}")
        print(f"XLA_FLAGS   {os.environ.get('XLA_FLAGS', '')}")
        print(f"cache       {config['jax_compilation_cache_dir'] or 'off'}")
        for name in self.packages:
            try:
                print(f"{name:11s} {version(name)}")
            except PackageNotFoundError:
                print(f"{name:11s} not installed")
        for name in ("matplotlib", "xarray", "zarr", "tyro"):
            print(
                f"{name:11s} {'installed' if _has(name) else 'not installed (extra)'}"
            )


@dataclass
class Sweep:
    """Train and label a sweep of networks (run), say how far it is (status), go on with
    it (resume), or put the curves and labels of all shards together (merge)."""

    action: Literal["run", "status", "resume", "merge"]
    """What to do."""
    config: Path
    """Configuration (TOML), or the folder of a sweep that has been started."""
    out: Path | None = None
    """Folder for the sweep of a configuration; by default the name of
    that file, here."""
    shard: str | None = None
    """`i/n`, with i from 0 to n-1: work on every n-th shard, from the i-th on. For an
    array job."""
    workers: int = 0
    """Worker processes with one CPU device each; 0 trains in this process."""
    label: bool = True
    """Label what was trained."""
    checkpoint: float = 60.0
    """Seconds between two checkpoints of a shard."""

    def run(self) -> None:
        from rnndyn import sweeps

        if not self.config.exists():
            raise ValueError(
                f"no file or folder {self.config}. Pass a configuration (TOML), or the "
                "folder of a sweep."
            )
        if self.config.is_dir() and self.out is not None:
            raise ValueError(
                f"--out {self.out} goes with a configuration, and {self.config} is a "
                "folder: its results stay there. Leave --out away."
            )
        for name, value in (("workers", self.workers), ("checkpoint", self.checkpoint)):
            if value < 0:
                raise ValueError(f"--{name} {value}, expected 0 or more.")
        folder = self.out or Path(self.config.stem)
        if self.config.is_dir():
            folder = self.config
        if self.action == "status":
            print(sweeps.status(folder).table())
            return
        if self.action == "merge":
            print(f"wrote {sweeps.merge(folder)}")
            return
        if self.action == "resume" or self.config.is_dir():
            config = sweeps.load_config(folder)
        else:
            config = sweeps.SweepConfig.from_toml(self.config)
        sweep = self._train(sweeps, config, folder)
        for label in [k for k in ("compat", "primary") if k in config.labels]:
            label = "mechanism" if label == "primary" else label
            if self.label:
                print(f"\n{sweep.fractions(label).table()}")
        print(f"\n{len(sweep)} of {sweep.grid.size} networks are in {folder}/")

    def _train(self, sweeps, config, folder):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        shards = None
        if self.shard is not None:
            count = len(sweeps.plan(config))
            shards = _every(self.shard, count)
            if not shards:
                print(f"no shard for --shard {self.shard}: the sweep has {count}")
        options = dict(shards=shards, label=self.label, say=print)
        options |= dict(checkpoint_seconds=self.checkpoint)
        if self.workers < 1:
            terminal = sys.stderr.isatty()
            return sweeps.run(config, folder, progress=terminal, **options)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=spawn) as pool:
            return sweeps.run(config, folder, executor=pool, **options)


@dataclass
class Study:
    """Repeat a published study at a scale, and print its table `published / ours /
    verdict`."""

    name: str
    """phases, rank2 or cornn."""
    scale: Literal["tiny", "small", "full"] = "tiny"
    """How many networks: minutes, hours, or as published."""
    out: Path | None = None
    """Folder for figures and tables."""

    def run(self) -> None:
        from rnndyn import studies

        known = [k.removesuffix("_study") for k in dir(studies) if k.endswith("_study")]
        if self.name not in known:
            raise ValueError(
                f"no study {self.name!r}, expected one of {', '.join(sorted(known))}."
            )
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file, expected a folder.")
        study = getattr(studies, f"{self.name}_study")
        result = study(
            self.scale, out=self.out, progress=sys.stderr.isatty(), say=print
        )
        print(f"\n{result.table()}")
        if self.out is not None:
            result.save(self.out)
            print(f"wrote {self.out}/")


def main() -> None:
    """Entry point of the command `rnndyn`."""
    try:
        import tyro
    except ImportError:
        sys.exit('the command line needs tyro: pip install "rnndyn[cli]"')
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "demo": Demo,
            "doctor": Doctor,
            "analyse": Analyse,
            "sweep": Sweep,
            "study": Study,
        },
        config=(tyro.conf.PositionalRequiredArgs,),
        description="By which mechanism does a recurrent network hold a memory?",
    )
    # Weights of a file keep all their digits; training is in float32.
    _bootstrap.configure(x64=isinstance(command, Analyse))
    try:
        command.run()
    except (ValueError, OSError) as error:  # OSError: no such folder, disk full
        sys.exit(f"rnndyn: {error}")
    except KeyboardInterrupt:
        print("rnndyn: interrupted", file=sys.stderr)
        sys.exit(130)  # as a shell counts it


def _every(shard: str, count: int) -> list[int]:
    """Numbers of the shards that `i/n` stands for."""
    first, _, step = shard.partition("/")
    if not (first.isdigit() and step.isdigit() and int(first) < int(step)):
        raise ValueError(f"--shard {shard}, expected i/n with 0 <= i < n, such as 0/8.")
    return list(range(int(first), count, int(step)))


def _figure_path(out: Path) -> Path:
    """Where to write a figure, as PNG by default; its folder is made."""
    if not out.suffix:
        out = out.with_suffix(".png")
    if _has("matplotlib"):
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.get_supported_filetypes()
        if out.suffix[1:].lower() not in known:
            raise ValueError(
                f"--out {out}: figures are written as {', '.join(sorted(known))}. Pass "
                f"--out {out.with_suffix('.png')}."
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _numbers(values) -> str:
    return " ".join(
        f"{v.real:.5g}{v.imag:+.5g}i" if v.imag else f"{v.real:.5g}" for v in values
    )


if __name__ == "__main__":
    main()
