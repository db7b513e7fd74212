"""Two loaders meet, and the check of it sees a deadlock."""

from typing import Any

import pytest

from include.contracts.user_logins import CONTRACT
from tests.faults import loaders
from tests.faults.servers import Servers
from tests.integration.scratch import masked_batch


def test_two_loaders_whose_messages_overlap_never_wait_for_each_other(servers: Servers) -> None:
    result = loaders.meet(servers, rounds=60, seed=3)

    assert result.is_good, result
    assert result.messages > 60 * loaders.BATCH


def test_loaders_that_do_not_sort_are_seen_to_deadlock(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []

    def load_unsorted(warehouse: Any, run_id: Any, messages: list[Any], batch: str) -> Any:
        if run_id not in runs:
            runs.append(run_id)
        every_second_run = bool(runs.index(run_id) % 2)  # two meet, so one of them
        messages = sorted(messages, reverse=every_second_run)
        return warehouse.load(run_id, CONTRACT, batch, *masked_batch(run_id, messages))

    monkeypatch.setattr(loaders, "load", load_unsorted)

    # Whether two meet in the middle is a matter of luck, so they get several chances.
    assert any(loaders.meet(servers, rounds=5, seed=seed).deadlocks for seed in range(4, 44))
