"""The stack that the tests of living queues share."""

from collections.abc import Iterator

import pytest

from tests.faults import worker
from tests.faults.ground import Ground, running


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A stack of these tests' own."""
    with running(tmp_path_factory.mktemp("living") / "stack") as ground:
        # The first process of the engine pays for the imports of all, which no test is to measure.
        assert worker.run(ground.new_lane(), "check").code == 0
        yield ground
