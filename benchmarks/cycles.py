"""Limit cycles: against jaxcont 0.4 on one orbit, and a search over many networks.

1. The van der Pol cycle at mu = 1 with its multipliers, from the same guess: our
   `limit_cycle` (1 segment, order 8) against jaxcont's collocation on a uniform mesh
   (`periodic_orbit_problem` and `floquet_multipliers`), first and identical later
   calls, with errors of the period and the multiplier.
2. `limit_cycles` on 256 random networks x' = -x + W tanh x (N = 32, gain 1.5) from 32
   starts each, as one program, then `certify`: verdicts, programs, peak memory.
3. The same for one network in N (16 to 512) and in the number of starts K.

    pip install jaxcont==0.4.0
    python benchmarks/cycles.py [peer] [many[=NETWORKS]] [scaling[=NxK,...]]
"""

from rnndyn import _bootstrap


_bootstrap.configure(devices=1, x64=True, cache=False)  # cold is cold

import json
import pathlib
import platform
import resource
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
import rnndyn.dynamics as rdd


HERE = pathlib.Path(__file__).parent
PERIOD = 6.66328685932313018969968  # 26-40-digit Taylor integration
LOG_M = float(np.log(8.596950636038051862e-4))
COMPILED = []  # names of the programs, as they are compiled


@jax.monitoring.register_event_duration_secs_listener
def _record(event, seconds, **about):
    if event.endswith("backend_compile_duration"):
        COMPILED.append(about.get("fun_name"))


def van_der_pol(t, x, mu):
    return jnp.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


def network(t, x, W):
    return -x + W @ jnp.tanh(x)


def timed(fn):
    begin = time.process_time()
    out = fn()
    jax.block_until_ready(jax.tree.leaves(eqx.filter(out, eqx.is_array)))
    return out, time.process_time() - begin


def errors(period, log_m):
    return {
        "period_error": abs(float(period) / PERIOD - 1),
        "log_multiplier_error": abs(float(log_m) - LOG_M),
    }


def peer():
    """First call (with compilation) and best of five later ones, in CPU-seconds."""
    start, mu = jnp.array([2.0, 0.0]), jnp.asarray(1.0)

    def ours():
        cycle = rdd.limit_cycle(van_der_pol, start, 6.6, mu)
        return cycle.period, cycle.log_multipliers

    (period, logs), cold = timed(ours)
    warm = min(timed(ours)[1] for _ in range(5))
    rows = {"rnndyn": {"cold": cold, "warm": warm} | errors(period, logs[1].real)}

    from jaxcont.core.collocation import Collocation
    from jaxcont.problems.periodic import periodic_orbit_problem
    from jaxcont.stability.floquet import floquet_multipliers

    ts = jnp.linspace(0.0, 6.6, 400)
    flow = rd.ScanFlow(num_steps=4)
    xs = jax.jit(lambda x: flow.trajectory(van_der_pol, x, ts, mu).xs)(start)
    field = lambda u, p, args: van_der_pol(0.0, u, p)
    for intervals, degree in ((20, 4), (40, 4), (40, 6)):
        mesh = Collocation(ntst=intervals, ncol=degree)

        def theirs(mesh=mesh):
            problem = periodic_orbit_problem(field, xs, ts, 6.6, 1.0, mesh)
            u = problem.u0
            return u[-1], floquet_multipliers(field, mesh, u, mu)

        (period, m), cold = timed(theirs)
        warm = min(timed(theirs)[1] for _ in range(3))
        smallest = jnp.log(jnp.min(jnp.abs(m)))
        key = f"jaxcont {intervals}x{degree}"
        rows[key] = {"cold": cold, "warm": warm} | errors(period, smallest)
    return rows


def weights(size, seed, gain=1.5):
    rng = np.random.default_rng(seed)
    return gain * rng.standard_normal((size, size)) / np.sqrt(size)


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def many(networks=256, starts=32, size=32):
    Ws = jnp.asarray(np.stack([weights(size, s) for s in range(networks)]))
    x0s = jnp.asarray(np.random.default_rng(0).standard_normal((starts, size)))
    programs = []

    @eqx.filter_jit
    def search(Ws):
        programs.append(Ws.shape)  # at every trace
        one = lambda W: rdd.limit_cycles(network, x0s, W)
        return rd.map_members(one, Ws)

    before = peak_memory()
    # The program is compiled by the call that is timed.
    found, seconds = timed(lambda: search(Ws))
    found, certifying = timed(lambda: rd.certify(found))
    in_certify = COMPILED.count("jit(_program)")
    names = [rd.Verdict(c).name for c in np.unique(found.verdict)]
    counts = np.unique(found.verdict, return_counts=True)[1]
    per_network = np.asarray(found.mask).sum(axis=1)
    error = np.asarray(found.cycles.error)[np.asarray(found.mask)]
    return {
        "networks": networks,
        "starts": starts,
        "N": size,
        "cpu_seconds": seconds,
        "certify_cpu_seconds": certifying,
        "programs": {"search": len(programs), "certify": in_certify},
        "networks_with_a_cycle": int(np.sum(per_network > 0)),
        "cycles": int(per_network.sum()),
        "stable_cycles": int(
            np.sum((found.cycles.stability == -1) & np.asarray(found.mask))
        ),
        "guesses_by_verdict": dict(zip(names, counts.tolist(), strict=True)),
        "largest_period_error": float(error.max(initial=0)),
        "peak_memory_gib": peak_memory(),
        "peak_memory_before_gib": before,
    }


SIZES = [(n, 16) for n in (16, 32, 64, 128, 256, 512)]
SIZES += [(64, k) for k in (4, 64, 256)]


def scaling(rows, sizes=SIZES):
    """Rows of the sizes asked for, in place of earlier ones."""
    rows = {(r["N"], r["K"]): r for r in rows}
    for size, starts in sizes:
        W = jnp.asarray(weights(size, 1))
        x0s = jnp.asarray(np.random.default_rng(0).standard_normal((starts, size)))
        run = lambda W, x0s=x0s: rdd.limit_cycles(network, x0s, W)
        once = timed(lambda run=run, W=W: run(W))
        first = once[1]
        # Compilation takes about 12 CPU-seconds: long runs are not repeated.
        result, seconds = timed(lambda run=run, W=W: run(W)) if first < 300 else once
        row = {"N": size, "K": starts, "cold": first, "warm": seconds}
        row |= {"cycles": int(result.mask.sum()), "memory_gib": peak_memory()}
        rows[size, starts] = row
        print(json.dumps(row), flush=True)
    return [rows[key] for key in sorted(rows)]


def plot(rows):
    from rnndyn.plots._style import figure, tidy

    fig, axes = figure(1, 2)
    for ax, name, fixed in ((axes[0, 0], "N", ("K", 16)), (axes[0, 1], "K", ("N", 64))):
        chosen = sorted(
            (r for r in rows if r[fixed[0]] == fixed[1]), key=lambda r: r[name]
        )
        ax.loglog([r[name] for r in chosen], [r["warm"] for r in chosen], "o-")
        ax.set_xticks([r[name] for r in chosen], [str(r[name]) for r in chosen])
        ax.minorticks_off()
        tidy(ax, title=f"{fixed[0]} = {fixed[1]}", x=name, y="CPU-seconds (warm)")
    fig.savefig(HERE / "results" / "cycles_scaling.png", dpi=120)


def main(parts):
    path = HERE / "results" / "cycles.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "rnndyn": rd.__version__,
    }
    results["command"] = "python benchmarks/cycles.py peer many scaling"
    if "peer" in parts:
        results["van_der_pol"] = peer()
    for part in parts:
        if part.startswith("many"):
            results["many_networks"] = many(int(part.partition("=")[2] or 256))
    for part in parts:
        if part.startswith("scaling"):
            given = part.partition("=")[2]
            pairs = [tuple(map(int, p.split("x"))) for p in given.split(",") if p]
            results["scaling"] = scaling(results.get("scaling", []), pairs or SIZES)
            plot(results["scaling"])
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:] or ["peer", "many", "scaling"])
