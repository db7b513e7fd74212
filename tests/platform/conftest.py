"""A stack of our own for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.platform.dev_command import Launcher, clean_environment


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    # A blank in the path: whatever forgets to quote it shows.
    ours = Launcher(clean_environment(tmp_path_factory.mktemp("a stack") / "state"))
    yield ours
    assert ours.run("reset").returncode == 0


@pytest.fixture
def running(launcher: Launcher) -> Launcher:
    """The servers of the stack are up."""
    if not all(launcher.pid(name) for name in ("postgres", "ministack")):
        launcher.start_servers()
    return launcher
