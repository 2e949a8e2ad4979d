"""How fast and how accurate are Lyapunov spectra?

x' = -x + 2 J tanh(x), J = default_rng(0).standard_normal((64, 64)) / 8, float64: 20000
steps of Runge-Kutta 4 with a QR every 10, here and in lyapax; then the cost of equal
accuracy, against exponents of the same trajectory and first tangent vectors computed
with a twelfth of the step of Dopri8 (the attractor is not chaotic, so trajectories of
all methods stay together); then the Lorenz system over 1e5 units of time.

CPU time of the process, one BLAS thread, least of three repeats in turn, so that other
load on the machine matters little; the first call includes compilation.

    python benchmarks/lyapunov.py          # needs lyapax in the same environment
"""

import os


os.environ["EQX_ON_ERROR"] = "nan"

from rnndyn import _bootstrap


_bootstrap.configure(devices=1, x64=True, cache=False)

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lyapax
import numpy as np

from rnndyn.dynamics import lyapunov_spectrum
from rnndyn.flows import RK4, Dop853, Dopri8


N, REPEATS = 64, 3
RESULT = Path(__file__).parent / "results" / "lyapunov.json"
J = jnp.asarray(np.random.default_rng(0).standard_normal((N, N)) / 8)


def network(t, x, args):
    return -x + 2 * J @ jnp.tanh(x)


def lorenz(t, x, args):
    return jnp.stack(
        [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
    )


def ours(k, dt, method, qr_every, t_total):
    @eqx.filter_jit
    def run(x0):
        return lyapunov_spectrum(
            network,
            x0,
            k=k,
            t_transient=0,
            t_total=t_total,
            dt=dt,
            method=method,
            qr_every=qr_every,
        )

    return lambda x0: (lambda lam: (lam.exponents, lam.step_error))(run(x0))


def theirs(k, dt, stepper, qr_every, t_total):
    step = stepper(lambda x: network(0.0, x, None), dt)
    num_steps = round(t_total / dt)
    run = jax.jit(
        lambda x0: (
            lyapax.lyapunov_spectrum(
                step, x0, dt, num_steps, k=k, renorm_every=qr_every
            ).exponents
        )
    )
    return lambda x0: (run(x0), None)


def compare(runs, x0):
    """First and least warm CPU-seconds of each run, and its result."""
    out = {}
    for name, run in runs.items():
        began = time.process_time()
        result = jax.block_until_ready(run(x0))
        out[name] = {"first": time.process_time() - began, "warm": [], "is": result}
    for _ in range(REPEATS):
        for name, run in runs.items():
            began = time.process_time()
            jax.block_until_ready(run(x0))
            out[name]["warm"].append(time.process_time() - began)
    for row in out.values():
        row["warm"] = min(row["warm"])
    return out


def same_steps(x0):
    rk4 = lyapax.rk4_step
    rows = []
    for k in (64, 10, 1):
        got = compare(
            {
                "lyapax": theirs(k, 0.05, rk4, 10, 1000.0),
                "rnndyn": ours(k, 0.05, RK4(), 10, 1000.0),
            },
            x0,
        )
        row = {"k": k}
        for name, of in got.items():
            row[f"{name}_cpu_s"] = round(of["warm"], 4)
            row[f"{name}_cpu_s_first_call"] = round(of["first"], 3)
        row["rnndyn_over_lyapax"] = round(
            got["rnndyn"]["warm"] / got["lyapax"]["warm"], 3
        )
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def equal_accuracy(x0):
    t_total = 896.0  # whole stretches of all
    reference = np.asarray(ours(N, 0.05, Dopri8(), 40, t_total)(x0)[0])
    rk4, rk6 = lyapax.rk4_step, lyapax.rk6_step
    rows = []
    for k in (64, 10, 1):
        runs = {
            "lyapax rk4 dt=0.05 qr=10": theirs(k, 0.05, rk4, 10, t_total),
            "lyapax rk4 dt=0.05 qr=40": theirs(k, 0.05, rk4, 40, t_total),
            "lyapax rk6 dt=0.25 qr=8": theirs(k, 0.25, rk6, 8, t_total),
            "lyapax rk6 dt=0.32 qr=10": theirs(k, 0.32, rk6, 10, t_total),
            "rnndyn RK4 dt=0.05 qr=10": ours(k, 0.05, RK4(), 10, t_total),
            "rnndyn Dopri8 dt=0.5 qr=8": ours(k, 0.5, Dopri8(), 8, t_total),
            "rnndyn Dopri8 dt=0.56 qr=10": ours(k, 0.56, Dopri8(), 10, t_total),
            "rnndyn Dopri8 dt=7/11 qr=11": ours(k, 7 / 11, Dopri8(), 11, t_total),
            "rnndyn Dop853 dt=0.5 qr=8": ours(k, 0.5, Dop853(), 8, t_total),
            "rnndyn Dop853 dt=0.56 qr=10": ours(k, 0.56, Dop853(), 10, t_total),
            "rnndyn Dop853 dt=7/11 qr=11": ours(k, 7 / 11, Dop853(), 11, t_total),
        }
        if k < N:
            # Fewer vectors span other directions: a reference of their own.
            truth = np.asarray(ours(k, 0.05, Dopri8(), 40, t_total)(x0)[0])
        else:
            truth = reference
        got = compare(runs, x0)
        base = got["lyapax rk4 dt=0.05 qr=10"]["warm"]
        for name, of in got.items():
            exponents, step_error = of["is"]
            error = np.abs(np.asarray(exponents) - truth)
            total = abs(float(np.sum(exponents)) - truth.sum())
            row = {
                "k": k,
                "run": name,
                "cpu_s": round(of["warm"], 4),
                "largest_error": float(f"{error.max():.3g}"),
                "error_of_sum": float(f"{total:.3g}"),
                "times_faster_than_lyapax_rk4": round(base / of["warm"], 2),
            }
            if step_error is not None:
                row["largest_step_error_reported"] = float(f"{step_error.max():.3g}")
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def long_lorenz(trajectories=64, t_total=1600.0):
    known = np.array([0.9057, 0.0, -14.5724])
    x0s = jnp.array([[1.0, 1.0, 20.0]])
    x0s = x0s + jax.random.normal(jax.random.key(0), (trajectories, 3))
    out = {"trajectories": trajectories, "time_each": t_total, "known": known.tolist()}
    for project in (False, True):
        run = eqx.filter_jit(
            lambda x0s, project=project: lyapunov_spectrum(
                lorenz,
                x0s,
                t_transient=50,
                t_total=t_total,
                dt=0.04,
                method=Dopri8(),
                project=project,
            )
        )
        began = time.process_time()
        lam = jax.block_until_ready(run(x0s))
        error = np.abs(lam.exponents - known)
        out["projected" if project else "full"] = {
            "cpu_s_first_call": round(time.process_time() - began, 2),
            "time_used": float(lam.times[-1]) * trajectories,
            "exponents": np.asarray(lam.exponents).tolist(),
            "stderr": np.asarray(lam.stderr).tolist(),
            "step_error": np.asarray(lam.step_error).tolist(),
            "drift": np.asarray(lam.drift).tolist(),
            "errors": error.tolist(),
            "largest_error": float(error.max()),
            "error_of_sum": abs(float(jnp.sum(lam.exponents)) + 41 / 3),
            "kaplan_yorke": float(lam.kaplan_yorke),
        }
    print(json.dumps(out, indent=1), flush=True)
    return out


def machine():
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0], "cores": len(names), "system": platform.platform()}


def main():
    x0 = jnp.asarray(np.random.default_rng(1).standard_normal(N))
    settle = Dopri8()
    settled = jax.jit(
        lambda x: jax.lax.scan(
            lambda x, _: (settle.step(network, 0.0, x, 0.1, None, None), None),
            x,
            None,
            length=10000,
        )[0]
    )(x0)
    report = {
        "question": __doc__.split("\n")[0],
        "command": " ".join(["python", *sys.argv]),
        "load_average": os.getloadavg()[1],
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {k: version(k) for k in ("jax", "jaxlib", "equinox", "lyapax")},
        "python": platform.python_version(),
        "dtype": "float64",
        "same_steps": same_steps(x0),
        "equal_accuracy": equal_accuracy(settled),
        "lorenz": long_lorenz(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
