"""What of the migrations can be told without a server."""

from pathlib import Path

import pytest

from include import migrations


def test_sql_without_its_revision_is_refused_before_anything_runs(monkeypatch, tmp_path: Path):
    versions = tmp_path / "versions"
    versions.mkdir()
    for name in ("0001_first.py", "0001_first.sql", "0002_signups.sql"):
        (versions / name).touch()
    monkeypatch.setattr(migrations, "HERE", tmp_path)
    with pytest.raises(ValueError, match=r"^no \.py beside 0002_signups\.sql: .+$"):
        migrations.upgrade("host=127.0.0.1 port=1", {})
