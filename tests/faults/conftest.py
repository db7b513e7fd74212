"""The stack that the fault tests share, and a queue for each of them."""

from collections.abc import Iterator

import pytest

from tests.faults.bodies import Sent, some, texts
from tests.faults.ground import Ground, Lane, running


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A stack of the fault tests' own: they stop its Postgres, and search it for personal values."""
    with running(tmp_path_factory.mktemp("faults") / "stack") as ground:
        yield ground


@pytest.fixture
def lane(ground: Ground) -> Lane:
    """An empty queue."""
    return ground.new_lane()


@pytest.fixture
def sent(lane: Lane) -> list[Sent]:
    """Thirty messages, which are on the lane's queue: three batches."""
    messages = some(lane.tag, 30)
    lane.send(texts(messages))
    return messages
