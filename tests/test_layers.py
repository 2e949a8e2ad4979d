"""The house: who may import whom, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[1] / "rnndyn"
BASE = {"_core"}
ALLOWED = {
    "_core": set(),
    "models": BASE,
    "tasks": BASE,
    "flows": BASE,
    "theory": BASE | {"flows"},
    "dynamics": BASE | {"flows"},
    "training": BASE | {"models", "tasks", "flows"},
    "mechanisms": BASE | {"models", "tasks", "flows", "dynamics"},
    "fitting": BASE | {"models", "tasks", "flows", "dynamics", "training"},
    "plots": BASE | {"models", "tasks", "flows", "dynamics", "mechanisms"},
    "sweeps": BASE
    | {"_bootstrap"}
    | {"models", "tasks", "flows", "dynamics", "theory", "training", "mechanisms"},
    "zoo": BASE
    | {"models", "tasks", "flows", "dynamics", "theory", "training", "mechanisms"}
    | {"sweeps"},
    "studies": BASE
    | {"models", "tasks", "flows", "dynamics", "theory", "training", "mechanisms"}
    | {"fitting", "sweeps", "zoo", "plots"},
}
FILES = sorted(p for room in ALLOWED for p in (PACKAGE / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported_rooms(path: Path) -> set[str]:
    """Rooms of rnndyn a file imports, relative imports resolved."""
    room, *inner = path.parent.relative_to(PACKAGE).parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = (node.module or "").split(".")
            if node.level <= 1 + len(inner):
                rooms.add(room)
            else:
                rooms |= {parts[0]} if parts[0] else {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "rnndyn":
                rooms.add(".".join(node.module.split(".")[1:2]) or "top")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "rnndyn":
                    rooms.add("top")
    return rooms - {room}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers(path):
    too_high = imported_rooms(path) - ALLOWED[name_of(path).split("/")[0]]
    assert not too_high, f"{path} imports {too_high}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    text = path.read_text()
    assert "from __future__ import annotations" not in text
    assert "config.update" not in text
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
    assert "print" not in names


def test_rooms_are_small():
    """A room is read at one sitting: at most a dozen files beside its front."""
    folders = {p.parent for p in FILES}
    sizes = {name_of(d): len(list(d.glob("_[a-z]*.py"))) for d in folders}
    assert max(sizes.values()) <= 12, sizes


def test_import_is_light():
    code = (
        "import sys, rnndyn\n"
        "assert 'jax' not in sys.modules\n"
        "rnndyn.models, rnndyn.tasks, rnndyn.flows, rnndyn.dynamics\n"
        "rnndyn.training, rnndyn.mechanisms\n"
        "heavy = {'matplotlib', 'xarray', 'scipy.optimize', 'scipy.stats', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
