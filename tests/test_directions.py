"""Arrows point down: a module imports its own room and rooms below it, nothing above."""

import ast
import subprocess
import sys
from pathlib import Path

import prumerge

PACKAGE = Path(prumerge.__file__).parent
# From the ground up. Rooms of one line stand side by side and do not import each other.
FLOORS = [
    {"paths": "paths", "settings": "settings"},
    {
        "method": "tower encoder scores outliers spatial supplement reduction",
        "roofline": "roofline",
    },
    {"methods": "methods"},
    {"rivals": "rivals", "models": "models"},
    {"prumerge": "prumerge"},  # the package itself: what `import prumerge` hands on
    {"mini": "mini"},
    {"draw": "draw"},
    {"experiments": "experiments"},
    {"workbook": "workbook"},
    {"claims": "claims"},
    {"command": "__main__"},
]
ROOM = {name: room for floor in FLOORS for room, names in floor.items() for name in names.split()}
RANK = {room: rank for rank, floor in enumerate(FLOORS) for room in floor}


def modules() -> dict[str, Path]:
    """Files by dotted name without the package's; the package itself is ``prumerge``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or "prumerge"] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports of the package, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by dots: write the whole name"
            base = node.module
            names = [
                f"{base}.{alias.name}"
                if f"{base}.{alias.name}".removeprefix("prumerge.") in known
                else base
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name for name in names if name.split(".")[0] == "prumerge")
    return {name.removeprefix("prumerge.") for name in found}


def points_up(module: str, target: str) -> bool:
    own, other = (ROOM[name.partition(".")[0]] for name in (module, target))
    return own != other and RANK[other] >= RANK[own]


def test_every_module_has_a_room():
    lost = sorted(name for name in modules() if name.partition(".")[0] not in ROOM)
    assert not lost, f"{lost}: give each a room in FLOORS, or move it into one"


def test_arrows_point_down():
    known = modules()
    upwards = {
        f"{name} -> {target}"
        for name, path in known.items()
        for target in imports(path, known)
        if points_up(name, target)
    }
    assert not upwards, f"{sorted(upwards)}: no module imports a room above or beside its own"


def test_a_turned_arrow_is_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import prumerge.claims\nfrom prumerge import names\n"
        "def late():\n    from prumerge.experiments.sweeps import tables\n"
        "    from prumerge.settings import Settings\n"
    )
    seen = imports(path, modules())
    assert seen == {"claims", "prumerge", "experiments.sweeps.tables", "settings"}
    assert {target for target in seen if points_up("scores", target)} == seen - {"settings"}
    assert points_up("mini.model", "mini.pictures") is False  # one room
    assert points_up("rivals.tome", "models") is True  # side by side


def test_importing_the_package_needs_torch_alone():
    code = "import sys, prumerge; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"transformers", "pandas", "matplotlib", "PIL", "scipy", "sklearn", "seaborn"}
    assert "torch" in run.stdout.split() and heavy.isdisjoint(run.stdout.split())
