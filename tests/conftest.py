"""Environment of the tests: two CPU devices, float64 on, one BLAS thread."""

from rnndyn import _bootstrap


_bootstrap.configure(devices=2, x64=True)

import equinox as eqx
import jax
import pytest


jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey(request):
    """Fresh keys, the same in every run of the same test."""
    seed = sum(map(ord, request.node.name))
    counter = iter(range(10_000))
    return lambda: jax.random.fold_in(jax.random.key(seed), next(counter))


@pytest.fixture(autouse=True, scope="module")
def release_programs():
    """Drop the programs of a file when it is done: each holds dozens of memory maps,
    and Linux ends a process at 65530 of them."""
    yield
    eqx.clear_caches()
    jax.clear_caches()
