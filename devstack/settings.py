"""Where things are and which ports they use: the DEV_* variables."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from devstack.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORTS = {"DEV_PG_PORT": 54329, "DEV_SQS_PORT": 4566, "DEV_UI_PORT": 8080}


@dataclass(frozen=True)
class Settings:
    """One stack. Two stacks with different `state` folders and ports do not touch each other.

    `sqs_endpoint` and `postgres_dsn` (a superuser's URL) name servers to use instead of the embedded ones.
    `variables` of the environment win over those that the stack would have.
    """

    root: Path
    state: Path
    postgres_port: int
    sqs_port: int
    ui_port: int
    sqs_endpoint: str | None = None
    postgres_dsn: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        """The project's own virtualenv; shared by every stack of this clone."""
        return self.root / ".venv"

    @property
    def tools_venv(self) -> Path:
        """The virtualenv of the embedded servers, whose pins clash with Airflow's."""
        return self.root / ".dev" / "tools-venv"

    @property
    def logs(self) -> Path:
        """Folder of every log but Postgres's."""
        return self.state / "logs"

    @property
    def python(self) -> Path:
        """The interpreter of the project's virtualenv."""
        return self.venv / "bin" / "python"

    @property
    def ports(self) -> dict[str, int]:
        """The three ports, by the variable that changes each."""
        return dict(zip(DEFAULT_PORTS, (self.postgres_port, self.sqs_port, self.ui_port), strict=True))

    def remember_ports(self) -> None:
        """Keep the ports, so that the next command needs no variable to find the same stack."""
        (self.state / "ports.json").write_text(json.dumps(self.ports))

    def with_ports(self, ports: Mapping[str, int]) -> "Settings":
        """Return the same stack on other ports, keyed by the names of DEFAULT_PORTS."""
        return replace(
            self,
            postgres_port=ports["DEV_PG_PORT"],
            sqs_port=ports["DEV_SQS_PORT"],
            ui_port=ports["DEV_UI_PORT"],
        )


def from_environment(environ: Mapping[str, str], root: Path = ROOT) -> Settings:
    """Read the DEV_* variables; a port comes from its variable, else the last start, else the default.

    Raises:
        UsageError: naming every variable whose value cannot be used.
    """
    state = Path(environ.get("DEV_STATE") or root / ".dev").expanduser().absolute()
    ports = {**DEFAULT_PORTS, **remembered_ports(state), **_given_ports(environ)}
    base = Settings(
        root=root,
        state=state,
        postgres_port=0,
        sqs_port=0,
        ui_port=0,
        sqs_endpoint=environ.get("DEV_SQS_ENDPOINT") or None,
        postgres_dsn=environ.get("DEV_PG_DSN") or None,
    )
    return base.with_ports(ports)


def remembered_ports(state: Path) -> dict[str, int]:
    """Return the ports of the last start in this state folder; empty when there was none."""
    try:
        ports = json.loads((state / "ports.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: ports[name] for name in DEFAULT_PORTS if isinstance(ports.get(name), int)}


def _given_ports(environ: Mapping[str, str]) -> dict[str, int]:
    given = {name: environ[name] for name in DEFAULT_PORTS if environ.get(name)}
    wrong = [f"{name}={text}" for name, text in given.items() if not _is_port(text)]
    if wrong:
        raise UsageError(f"not a port between 1 and 65535: {', '.join(wrong)}")
    return {name: int(text) for name, text in given.items()}


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535
