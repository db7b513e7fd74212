"""The stack that the fault tests share, and a queue for each of them."""

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest

from tests.faults import canaries, reconciliation
from tests.faults.bodies import Sent, some, texts
from tests.faults.reconciliation import Balance
from tests.faults.report import Report
from tests.faults.servers import QueueUnderTest, Servers, running

FIGURES = Report()
# What a worker of pytest-xdist tells the process that prints: a figure of each test, and what was found.
FIGURE, HITS = "figure", "pii_hits"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Servers]:
    """A stack of the fault tests' own: they stop its Postgres, and search it for personal values."""
    with running(tmp_path_factory.mktemp("faults") / "stack") as servers:
        yield servers
        hits = canaries.everywhere(servers)
        if hasattr(pytestconfig, "workeroutput"):
            pytestconfig.workeroutput[HITS] = hits
        else:
            FIGURES.found(hits)
        assert hits == {}


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps the last balance of each test, but of those that are to show mistakes."""
    before = len(reconciliation.balances)
    yield
    if len(reconciliation.balances) > before and request.path.stem != "test_balance":
        messages, balance = reconciliation.balances[-1]
        figure = (request.node.originalname, messages, *astuple(balance))
        request.node.user_properties.append((FIGURE, figure))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the figures of all tests, whichever process ran them."""
    if report.when == "teardown":
        found: list[Any] = [value for name, value in report.user_properties if name == FIGURE]
        for test, messages, *balance in found:
            FIGURES.add(test, messages, Balance(*balance))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker found; one without fault tests has not looked."""
    if (hits := getattr(node, "workeroutput", {}).get(HITS)) is not None:
        FIGURES.found(hits)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES.by_fault:
        terminalreporter.section("what became of the messages")
        terminalreporter.write_line("\n".join(FIGURES.lines()))


@pytest.fixture
def tested(servers: Servers) -> QueueUnderTest:
    """An empty queue."""
    return servers.new_queue()


@pytest.fixture
def sent(tested: QueueUnderTest) -> list[Sent]:
    """Thirty messages, which are on the tested's queue: three batches."""
    messages = some(tested.tag, 30)
    tested.send(texts(messages))
    return messages
