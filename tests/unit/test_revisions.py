"""What of the migrations can be told without a server."""

import re
from pathlib import Path

import pytest

from include.queue_etl.postgres import migrations


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("0001_first.sql", "0003_signups.sql"), "0003_signups.sql should be 0002_*.sql"),
        (("0001_first.sql", "0001_signups.sql"), "0001_signups.sql should be 0002_*.sql"),
    ],
)
def test_a_number_left_out_or_used_twice_is_refused_before_anything_runs(
    names, wrong, monkeypatch, tmp_path: Path
):
    versions = tmp_path / "versions"
    versions.mkdir()
    for name in names:
        (versions / name).touch()
    monkeypatch.setattr(migrations, "HERE", tmp_path)
    with pytest.raises(ValueError, match=re.escape(wrong)):
        migrations.upgrade("host=127.0.0.1 port=1", {})
