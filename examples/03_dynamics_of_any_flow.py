"""What can one ask of any flow f(t, x, args)?

Its fixed points, its cycles with their multipliers, how both move with a parameter,
where a trajectory crosses a section, and how fast neighbours part. Van der Pol's
oscillator and the Lorenz system have known answers, printed beside the computed ones.

    python examples/03_dynamics_of_any_flow.py
"""

from rnndyn import _bootstrap


_bootstrap.configure(x64=True)

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd


def van_der_pol(t, x, mu):
    """x'' = mu (1 - x^2) x' - x."""
    return jnp.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


def lorenz(t, x, args):
    return jnp.stack(
        [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
    )


def row(what, got, known):
    print(f"{what:38s} {float(got):<22.14g} known {known}")


def cycles():
    """Van der Pol at mu = 1: an unstable rest inside a stable cycle."""
    mu = jnp.asarray(1.0)
    starts = jax.random.uniform(jax.random.key(0), (8, 2), minval=-3.0, maxval=3.0)
    points = rd.dynamics.certify(rd.dynamics.fixed_points(van_der_pol, starts, mu))
    roots = points.roots()
    print(f"certified fixed points of van der Pol: {roots.round(12) + 0.0}")
    row("  real part of its eigenvalues", points.eigenvalues[0, 0].real, 0.5)

    def search(mu):
        x0 = jnp.array([2.0, 0.0])
        return rd.dynamics.limit_cycle(van_der_pol, x0, 6.6, mu)

    def period(mu):
        cycle = search(mu)
        return cycle.period, cycle

    slope, cycle = jax.jit(jax.grad(period, has_aux=True))(mu)
    cycle.check()
    small = np.min(np.abs(cycle.multipliers))
    row("period of its cycle", cycle.period, "6.66328685932313")
    row("  nontrivial multiplier", small, "8.596950636038e-4")
    row("  error of the trivial one's logarithm", cycle.accuracy, 0)
    row("  dT/dmu, by reverse mode", slope, "0.731596597765925")

    # The same cycle as a fixed point of the return map of the section x' = 0.
    P = rd.dynamics.return_map(
        van_der_pol, jnp.array([0.0, 1.0]), dt=0.05, max_time=8.0
    )
    x = jnp.array([-2.0, 0.0])
    for _ in range(6):
        x = P(x, mu)
    row("  return time to a section", P.F.time(x, mu), "6.66328685932313")
    return points, cycle


def chaos():
    """Lorenz: exponents, and the maxima of z that make his cusp map."""
    x0s = jax.random.normal(jax.random.key(1), (16, 3)) + jnp.array([1.0, 1.0, 25.0])
    spectrum = rd.dynamics.lyapunov_spectrum(
        lorenz, x0s, t_transient=20, t_total=200, dt=0.01
    )
    for got, error, known in zip(
        spectrum.exponents, spectrum.stderr, (0.90572, 0.0, -14.57239), strict=True
    ):
        row(f"Lorenz exponent (+- {float(error):.0e})", got, known)
    row("  their sum", spectrum.exponents.sum(), -41 / 3)
    row("  Kaplan-Yorke dimension", spectrum.kaplan_yorke, 2.06215)
    turning = lambda x: x[0] * x[1] - 8 / 3 * x[2]  # dz/dt
    section = rd.dynamics.poincare_section(
        lorenz, x0s[0], turning, crossings=300, direction=-1, dt=0.01, max_time=400.0
    )
    row("  largest |dz/dt| at 300 maxima of z", section.residual.max(), 0)
    return spectrum, section


def draw(points, cycle, spectrum, section):
    fig, axes = rd.plots.figure(2, 2)
    rd.plots.phase_portrait(
        axes[0, 0], van_der_pol, points, args=jnp.asarray(1.0), cycles=[cycle]
    )
    rd.plots.multipliers(axes[0, 1], cycle)
    rd.plots.exponents(axes[1, 0], spectrum)
    z = np.asarray(section.points)[20:, 2]
    axes[1, 1].plot(z[:-1], z[1:], ".", ms=3)
    axes[1, 1].set(xlabel="a maximum of z", ylabel="the next one")
    fig.savefig("dynamics_of_any_flow.png", dpi=150)
    print("wrote dynamics_of_any_flow.png")


def main():
    points, cycle = cycles()
    spectrum, section = chaos()
    if importlib.util.find_spec("matplotlib"):
        draw(points, cycle, spectrum, section)


if __name__ == "__main__":
    main()
