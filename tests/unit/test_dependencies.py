"""What is imported is declared, what is declared is locked, and every declaration has its reason."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PRODUCT, CELERY, TESTS, CHECKS, TOOLS = (
    f"requirements{name}.txt" for name in ("", "-celery", "-tests", "-checks", "-tools")
)
FILES = [*ROOT.iterdir(), *(ROOT / "plugins").iterdir(), *(ROOT / "tests").rglob("*.py")]
OWN = {path.stem for path in FILES} | {"clocked_outer"}  # a test writes that before it imports it
PROGRAMS = "devstack/programs"  # of the launcher, those that run in the virtualenv
DISTRIBUTIONS = packages_distributions()
OPTIONAL = ("airflow.providers.openlineage", "openlineage.")  # used where a deployment has them


def declared(*files: str) -> list[Requirement]:
    lines = [
        line.partition("#")[0].strip() for name in files for line in (ROOT / name).read_text().splitlines()
    ]
    return [Requirement(line) for line in lines if line]


def names(*files: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in declared(*files)}


def pinned(lock: str) -> dict[str, set[str]]:
    """Return the versions of each package in the lock: more than one where they differ by interpreter."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z][\w.-]*)==([^ ]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def imported(folders: list[str]) -> set[str]:
    """Return what the Python files of these folders import from outside the project and the library."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    if "devstack" in folders:
        files = [path for path in files if path.parent != ROOT / PROGRAMS]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    modules = {name for tree in trees for node in ast.walk(tree) for name in _modules(node)}
    return {name for name in modules if name.partition(".")[0] not in OWN | sys.stdlib_module_names}


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def providers(module: str) -> set[str]:
    """Return the packages that bring the module; of Airflow, which lies in many, the one to declare."""
    if provider := re.match(r"airflow\.providers\.(\w+)", module):
        return {f"apache-airflow-providers-{provider[1]}"}
    if module.startswith("airflow."):
        return {"apache-airflow"}
    return {canonicalize_name(name) for name in DISTRIBUTIONS.get(module.partition(".")[0], [module])}


@pytest.mark.parametrize(
    ("folders", "files"),
    [
        (["include", "plugins", "dags", "config", PROGRAMS], [PRODUCT]),
        (["tests", "docs"], [PRODUCT, TESTS]),
        (["devstack", "docker"], []),  # they run before anything is installed
    ],
    ids=["product", "tests", "launcher"],
)
def test_everything_imported_is_declared(folders, files):
    known = names(*files)
    needed = {module for module in imported(folders) if not module.startswith(OPTIONAL)}
    assert {module for module in needed if not providers(module) & known} == set()


def test_everything_declared_for_the_product_is_imported():
    used = {name for module in imported(["include", "plugins", "dags"]) for name in providers(module)}
    # They bring no module that we import, but the connection type `postgres`, the tasks behind `@task`, and
    # Airflow's client of StatsD.
    providers_alone = {f"apache-airflow-providers-{name}" for name in ("postgres", "standard")}
    assert names(PRODUCT) - used == {*providers_alone, "statsd"}


@pytest.mark.parametrize(
    ("lock", "files"),
    [
        ("requirements.lock", [PRODUCT]),
        ("requirements-celery.lock", [PRODUCT, CELERY]),
        ("requirements-dev.lock", [TESTS, CHECKS]),
        ("requirements-tools.lock", [TOOLS]),
    ],
)
def test_the_lock_holds_what_is_declared(lock, files):
    pins = pinned(lock)
    wrong = [
        str(one)
        for one in declared(*files)
        if not all(one.specifier.contains(version) for version in pins.get(canonicalize_name(one.name), [""]))
    ]
    assert wrong == []


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("*.lock")))
def test_the_lock_has_hashes_and_names_no_index(lock):
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert not any(word in text for word in ("--index", "--extra-index", "--find-links", "://"))


def test_the_locks_of_one_virtualenv_agree():
    product, development = pinned("requirements.lock"), pinned("requirements-dev.lock")
    both = product.keys() & development.keys()
    assert both
    assert {name for name in both if product[name] != development[name]} == set()


def test_celery_changes_no_version_of_the_product():
    product, celery = pinned("requirements.lock"), pinned("requirements-celery.lock")
    assert {name for name in product if product[name] != celery.get(name)} == set()


def test_the_image_installs_the_product_alone():
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"-r /opt/airflow/(\S+)", text) == ["$REQUIREMENTS"]
    assert "\nARG REQUIREMENTS=requirements.lock\n" in text
    assert pinned("requirements.lock").keys() & names(CHECKS) == set()
    assert {name for name in pinned("requirements.lock") if name.startswith("pytest")} == set()


def test_every_dependency_has_its_reason_and_its_licence():
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(names(PRODUCT, CELERY, TESTS, CHECKS, TOOLS))
    assert [row for row in rows if not row[1].strip() or not row[2].strip()] == []
