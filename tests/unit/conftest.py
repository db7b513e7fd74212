"""What the unit tests share. They start no server and open no connection."""

from pathlib import Path

import pytest
from hypothesis import settings

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument

HERE = Path(__file__).parent
# No deadline: on a busy machine the first example pays for imports, and a slow one proves nothing.
settings.register_profile("unit", deadline=None, max_examples=40)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a unit test a warning is an error. First, so that a test's own filters come after and win."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture(scope="session")
def logins() -> Contract:
    return CONTRACT


@pytest.fixture(scope="session")
def keyset_json() -> str:
    return KeysetDocument.new().text


@pytest.fixture(scope="session")
def keyset(keyset_json: str) -> Keyset:
    return Keyset.from_json(keyset_json)
