"""The embedded SQS and S3: MiniStack, one process, one port on 127.0.0.1."""

import os
import urllib.error
import urllib.request

from devstack import ports, processes
from devstack.console import Console
from devstack.errors import StackError
from devstack.processes import Part
from devstack.settings import Settings

# It saves queues and messages only when it ends in good order.
LOSS = (
    "ministack died: messages on its queues are lost unless its last good stop saved them;"
    " rows in Postgres are safe"
)


def part(settings: Settings) -> Part:
    """Return the emulator as a part of the stack."""
    return Part("ministack", settings.state, settings.logs / "ministack.log", settings.state / "ministack")


def endpoint(settings: Settings) -> str:
    """Return the URL of SQS and S3: the emulator's, or that of DEV_SQS_ENDPOINT."""
    return settings.sqs_endpoint or f"http://{ports.HOST}:{settings.sqs_port}"


def start(settings: Settings, console: Console) -> bool:
    """Start the emulator unless it answers on its port; True when it was started.

    Queues and messages survive a stop, not a kill, which is said.
    """
    emulator = part(settings)
    if emulator.died():
        console.note(f"  {LOSS}")
    if emulator.pid() and emulator.record().get("port") == settings.sqs_port and is_ready(settings):
        return False
    if emulator.record():
        processes.stop([emulator])
    require_port(settings)
    emulator.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [str(settings.tools_venv / "bin" / "python"), "-m", "ministack"]
    with console.step(f"start the SQS emulator on {ports.HOST}:{settings.sqs_port}"):
        processes.start(emulator, command, environment(settings), settings.sqs_port)
        processes.wait_until(lambda: emulator.pid() is None or is_ready(settings), 60)
        if emulator.pid() is None or not is_ready(settings):
            raise StackError(
                f"the emulator does not start; the end of {emulator.log}:\n{emulator.log_tail()}"
            )
    return True


def require_port(settings: Settings) -> None:
    """Raise StackError where another program has the port of the SQS emulator."""
    ports.require_free(settings.sqs_port, "DEV_SQS_PORT", "the SQS emulator", settings.ports.values())


def environment(settings: Settings) -> dict[str, str]:
    """Return MiniStack's settings on top of this process's environment."""
    folder = settings.state / "ministack"
    return {
        **os.environ,
        "BIND_HOST": ports.HOST,
        "GATEWAY_PORT": str(settings.sqs_port),
        "SERVICES": "sqs,s3,sts,cloudwatch,kms",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "s3"),
        "TMPDIR": str(folder),
        # It looks for containers to clean up; it has none of ours.
        "DOCKER_HOST": "unix:///dev/null",
    }


def is_ready(settings: Settings) -> bool:
    """Tell whether the endpoint answers HTTP at all; any status will do, for it may not be MiniStack."""
    # Without a proxy: one set in the environment cannot reach this machine's 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint(settings)}/_ministack/health", timeout=3):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
