"""What the documents say exists, exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "CHANGELOG.md"
]


def test_the_readme_has_its_first_command_before_line_15_and_a_picture_before_line_40():
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_decision_is_listed():
    decisions = {path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    listed = set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (ROOT / "docs/decisions/README.md").read_text()))
    assert listed == decisions


def test_the_layout_in_the_readme_names_folders_that_exist():
    layout = README.partition("## Layout")[2].partition("```")[2].partition("```")[0]
    named = [name for line in layout.splitlines() if line for name in line.split("  ")[0].split(", ")]
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
