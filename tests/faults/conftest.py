"""The stack that the fault tests share, and a queue for each of them."""

from collections.abc import Iterator

import pytest

from tests.faults import accounts, canaries
from tests.faults.bodies import Sent, some, texts
from tests.faults.figures import Figures
from tests.faults.ground import Ground, Lane, running

FIGURES = Figures()


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A stack of the fault tests' own: they stop its Postgres, and search it for personal values."""
    with running(tmp_path_factory.mktemp("faults") / "stack") as ground:
        yield ground
        FIGURES.pii_hits = canaries.everywhere(ground)
        assert FIGURES.pii_hits == {}


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps the last balance of each test, but of those that are to show mistakes."""
    before = len(accounts.drawn)
    yield
    if len(accounts.drawn) > before and request.path.stem != "test_balance":
        FIGURES.add(request.node.originalname, *accounts.drawn[-1])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES.by_fault:
        terminalreporter.section("what became of the messages")
        terminalreporter.write_line("\n".join(FIGURES.lines()))


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
