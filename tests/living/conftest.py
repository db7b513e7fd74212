"""The stack that the tests of living queues share."""

from collections.abc import Iterator

import pytest

from tests.faults import worker
from tests.faults.servers import Servers, running


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A stack of these tests' own."""
    with running(tmp_path_factory.mktemp("living") / "stack") as servers:
        # The first process of the engine pays for the imports of all, which no test is to measure.
        assert worker.run(servers.new_queue(), "check").code == 0
        yield servers
