"""Imports of the engine go in one direction, as ARCHITECTURE.md draws it; lazy and type imports too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "include.queue_etl"
# Each room may import those above it, and none below.
ROOMS = (
    "errors",
    "counts",
    "log_fields",
    "private_files",
    "settings",
    "recognition",
    "keys",
    "contract",
    "transform",
    "onboarding",
    "staging",
    "postgres",
    "sqs",
    "production",
    "resources",
    "warehouses",
    "run_context",
    "steps",
    "operations",
    "privacy",
    "page",
    "include.contracts",
    "cli",
    "__main__",
)
FILES = sorted((ROOT / "include").rglob("*.py"))


def room_of(module: str) -> str | None:
    """The room of a module; None for what is in none, such as the package itself."""
    if module.startswith("include.contracts"):
        return "include.contracts"
    return module.split(".")[2] if module.startswith(f"{ENGINE}.") else None


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(path: Path) -> set[str]:
    """Every module of the project that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {module for module in found if module.startswith("include.")}


def climbs(path: Path) -> set[str]:
    """Rooms below its own that a file imports."""
    own = room_of(name_of(path))
    rooms = {room_of(module) for module in imported_by(path)} - {None}
    return {str(room) for room in rooms if own and ROOMS.index(str(room)) > ROOMS.index(own)}


def test_every_module_is_in_a_room_and_every_room_has_modules():
    assert {room_of(name_of(path)) for path in FILES} - {None} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_its_own_room_and_those_above_alone(path):
    assert climbs(path) == set()


def test_an_import_in_the_wrong_direction_is_seen(tmp_path):
    wrong = ROOT / "include" / "queue_etl" / "errors.py"
    assert climbs(wrong) == set()
    assert room_of("include.queue_etl.keys.keyset") == "keys"
    text = "def f():\n    from include.queue_etl.steps import extract\n"
    (tmp_path / "file.py").write_text(text)
    assert {room_of(module) for module in imported_by(tmp_path / "file.py")} == {"steps"}
