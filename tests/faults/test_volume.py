"""Many messages in few runs, and the check of it sees what is left behind."""

from collections import Counter
from pathlib import Path
from uuid import uuid4

from tests.bench.feed import feed
from tests.faults import volume
from tests.faults.servers import Servers


def test_a_large_run_leaves_only_masked_and_rejected_files(servers: Servers) -> None:
    result = volume.drain_all(feed(20_000), servers.environment["QUEUE_ETL_OWNER_DSN"])

    assert result.problems == []
    assert set(result.left) == {"masked", "rejected"}
    assert result.peak_bytes > sum(result.left.values()) > 0
    assert max(result.rss_mb) < 200


def test_what_a_run_leaves_is_counted_by_kind(tmp_path: Path) -> None:
    run = tmp_path / str(uuid4())
    run.mkdir()
    for name, size in (("0000-abcdef.raw", 5), ("0001-abcdef.raw", 6), (".half.tmp", 7)):
        (run / name).write_bytes(bytes(size))

    assert volume.by_kind(tmp_path) == Counter(raw=11, other=7)
