"""The files that a repository has beside its code agree with the code and with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from devstack.checks import CHECKS, commands
from devstack.errors import StackError
from include import VERSION

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
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


def test_the_workflow_runs_what_ci_runs_on_every_supported_python():
    job = WORKFLOW["jobs"]["test"]
    supported = re.findall(r"python(3\.\d+)", re.search(r"NAMES = .*", (ROOT / "dev").read_text())[0])
    assert sorted(job["strategy"]["matrix"]["python"]) == sorted(supported)
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]


def test_the_workflow_audits_every_lock():
    audited = [step.get("run", "") for step in WORKFLOW["jobs"]["audit"]["steps"]]
    locks = {path.name for path in ROOT.glob("*.lock")}
    assert {line.split()[-1] for line in audited if line.startswith("pip-audit")} == locks


def test_the_workflow_pins_every_action_by_its_commit():
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step and not step["uses"].startswith("docker:")]
    assert [action for action in actions if not re.search(r"@[0-9a-f]{40}$", action)] == []


def test_pre_commit_runs_every_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks}
    assert {command for _, command in CHECKS} - entries == set()


def test_a_missing_program_of_a_check_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"^ruff is not installed; .*apt-get install ruff$"):
        commands(tmp_path)


def test_every_shell_script_is_checked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    scripts = {
        str(path.relative_to(ROOT))
        for path in paths
        if re.match(rb"#!.*\b(ba)?sh\n", path.read_bytes()) or path.suffix == ".sh"
    }
    checked = dict(CHECKS)["shellcheck"].split()[1:]
    assert sorted(scripts) == sorted(checked)


def test_every_owned_path_exists():
    lines = (ROOT / ".github/CODEOWNERS").read_text().splitlines()
    patterns = [line.split()[0] for line in lines if line and not line.startswith(("#", "* "))]
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern.strip("/")))] == []
