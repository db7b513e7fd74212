"""What the documents say exists, exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ENGINE = ROOT / "include" / "queue_etl"
DOCUMENTS = [
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "CHANGELOG.md"
]
# Words that the code and these documents no longer use; each has one that everybody knows.
REPLACED = (
    r"\b(?:upkeep|mend(?:s|ed|ing)?|whoever|bear(?:s|ing)|doomed|stretches|canonical form"
    r"|g[ai]ve(?:s|n)? (?:\w+ )?back|(?:send|sent) again|br(?:ing|ings|ought) (?:\w+ )?back|odd"
    r"|settings to mend|contracts to mend)\b"
)


def test_the_readme_has_a_command_before_line_15_and_a_picture_before_40():
    lines = README.splitlines()
    assert any(line.startswith("./dev ") for line in lines[:14])
    assert any("SQS login-queue" in line for line in lines[:39])


def test_every_dev_command_in_the_readme_exists():
    mentioned = set(re.findall(r"\./dev ([a-z]+)", README))
    told = subprocess.run(
        [sys.executable, ROOT / "dev", "--help"], capture_output=True, text=True, check=True
    ).stdout
    existing = set(re.findall(r"^    ([a-z]+)\s", told, re.MULTILINE))
    assert mentioned <= existing
    assert {"demo", "up", "down", "test"} <= mentioned


def test_every_engine_command_in_the_documents_exists():
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    mentioned = set(re.findall(r"include\.queue_etl ([a-z][a-z-]+)", text))
    told = subprocess.run(
        [sys.executable, "-m", "include.queue_etl", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    existing = set(re.findall(r"^    ([a-z-]+)\s", told, re.MULTILINE))
    assert "unmask" in mentioned
    assert mentioned <= existing


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(document: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = document.parent / name if name else document
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document):
    links = re.findall(r"\]\(([^):]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not leads_somewhere(document, link)] == []


def test_a_link_to_a_heading_that_is_not_there_is_seen():
    index = ROOT / "docs" / "README.md"
    assert leads_somewhere(index, "operations.md#the-database-was-restored-or-failed-over")
    assert not leads_somewhere(index, "operations.md#nothing")
    assert not leads_somewhere(index, "nothing.md")


def test_the_index_leads_to_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {Path(name).name for name in re.findall(r"\]\(([^)#]+)", text)} >= pages


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_uses_a_word_that_has_been_replaced(document):
    # Names of tests, and of a field in staged files, which stays as it was stored first.
    text = re.sub(r"`(?:test_\w+|odd)`", "", document.read_text(encoding="utf-8"))
    assert re.findall(REPLACED, text, re.IGNORECASE) == []


def test_the_glossary_is_in_alphabetical_order():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| \*?([^|*]+?)\*? \| ", text, re.MULTILINE)[1:]
    assert len(words) > 40
    assert words == sorted(words, key=str.lower)


def modules(room: str) -> int:
    """How many modules a room of the engine has; a package's own file and the migrations are none."""
    package = ENGINE / room
    return len(list(package.glob("[!_]*.py"))) if package.is_dir() else int((ENGINE / f"{room}.py").exists())


def test_the_architecture_counts_the_modules_of_every_room():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", ARCHITECTURE, re.MULTILINE)
    rooms = {path.stem for path in ENGINE.iterdir() if not path.name.startswith("_")}
    assert {room for room, _ in rows} == rooms
    assert {room: int(count) for room, count in rows} == {room: modules(room) for room in rooms}


def test_the_architecture_has_the_rooms_in_the_order_of_imports():
    named = re.findall(r"^\| `(\w+)` \| \d+ \|", ARCHITECTURE, re.MULTILINE)
    tested = (ROOT / "tests/unit/test_imports.py").read_text(encoding="utf-8")
    rooms = re.findall(r'"(\w+)"', tested.partition("ROOMS = (")[2].partition(")")[0])
    assert named == [room for room in rooms if room in named]


def test_every_function_and_class_in_the_architecture_exists():
    code = "\n".join(path.read_text(encoding="utf-8") for path in ENGINE.rglob("*.py"))
    functions = set(re.findall(r"\bdef (\w+)\(", code))
    classes = set(re.findall(r"^class (\w+)", code, re.MULTILINE))
    called = set(re.findall(r"`(?:\w+\.)?(\w+)\(\)`", ARCHITECTURE))
    tabled = set(re.findall(r"^\| `([A-Z]\w+)` \|", ARCHITECTURE, re.MULTILINE))
    owners = set(re.findall(r"`(_?[A-Z]\w+)\.\w+(?:\(\))?`", ARCHITECTURE))
    assert len(called) > 20
    assert called - functions == set()
    assert (tabled | owners) - classes == set()


def test_every_decision_is_listed():
    decisions = {path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    listed = set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (ROOT / "docs/decisions/README.md").read_text()))
    assert listed == decisions


def test_the_layout_in_the_readme_names_folders_that_exist():
    layout = README.partition("## Layout")[2].partition("```")[2].partition("```")[0]
    named = [name for line in layout.splitlines() if line for name in line.split("  ")[0].split(", ")]
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_test_has_a_name_of_at_most_70_characters():
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    names = {name for text in files for name in re.findall(r"\bdef (test_\w+)", text)}
    assert len(names) > 1_000
    assert sorted(name for name in names if len(name) > 70) == []
