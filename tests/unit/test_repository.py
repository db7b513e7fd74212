"""The files that a repository has beside its code agree with the code and with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from include import VERSION

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_the_version_is_the_newest_release_or_leads_to_the_next():
    newest = Version(re.findall(r"^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)[0])
    ours = Version(VERSION)
    assert ours > newest if ours.is_devrelease else ours == newest


@pytest.mark.parametrize("command", [["dev"], ["-m", "include.queue_etl"]], ids=["dev", "engine"])
def test_each_program_tells_its_version(command):
    done = subprocess.run(
        [sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"queue-etl {VERSION}\n"
