"""The README's Python runs as printed (with smaller numbers)."""

import re
from pathlib import Path

import numpy as np
import pytest

import rnndyn as rd


README = Path(__file__).parents[1] / "README.md"
SMALLER = [
    ("steps=1000, batch=128", "steps=3, batch=4"),
    ("jax.random.key(0), 64)", "jax.random.key(0), 2)"),
    ("2, 100, 2", "2, 10, 2"),
    ("(256, 100)", "(8, 10)"),
    ("seed=20", "seed=2"),
    ("units=100, batch=32", "units=10, batch=4, min_epochs=3, rate_epochs=0.0"),
]


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    np.savez(
        "network.npz",
        W=1.5 * np.eye(3),
        tau=0.1,
        form="rate",
        dt=0.02,
        activation="tanh",
    )
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) == 7
    names: dict = {}
    for block in blocks:
        for old, new in SMALLER:
            block = block.replace(old, new)
        exec(compile(block, "README.md", "exec"), names)
    assert "certified fixed points" in capsys.readouterr().out
    assert (tmp_path / "network.png").exists()
    gradient = eval("jax.grad(root)(1.5)", names)
    np.testing.assert_allclose(gradient, 0.37262509309998, rtol=1e-9)


def test_every_public_name_resolves():
    for name in dir(rd):
        getattr(rd, name)
    with pytest.raises(AttributeError, match="no attribute"):
        rd.nothing  # noqa: B018
