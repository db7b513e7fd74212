"""No secret is committed but those in `.secrets.baseline`, each of which a person has looked at."""

import json
import subprocess
from pathlib import Path

from detect_secrets.core import baseline
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / ".secrets.baseline"
KNOWN = json.loads(BASELINE.read_text(encoding="utf-8"))
HINT = "If they are none: .venv/bin/detect-secrets scan --baseline .secrets.baseline"


def test_no_secret_is_committed():
    # By value: the tool's own hook also asks for a new baseline when a line or a file moves.
    known = {secret.secret_hash for _, secret in baseline.load(KNOWN, BASELINE.name)}
    new = [
        f"{path}:{one.line_number}: {one.type}"
        for path, one in found(tracked())
        if one.secret_hash not in known
    ]
    assert new == [], HINT


def test_a_private_key_would_be_found(tmp_path):
    path = tmp_path / "config.txt"
    path.write_text("-----BEGIN " + "RSA PRIVATE KEY-----\n")
    assert [secret.type for _, secret in found([str(path)])] == ["Private Key"]


def tracked() -> list[str]:
    """Return the files of the next commit, as git would take them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = listing.stdout.split("\0")[:-1]
    return [str(ROOT / name) for name in names if (ROOT / name).is_file() and name != BASELINE.name]


def found(paths: list[str]) -> SecretsCollection:
    secrets = SecretsCollection(root=str(ROOT))
    with transient_settings(KNOWN):
        secrets.scan_files(*paths)
    return secrets
