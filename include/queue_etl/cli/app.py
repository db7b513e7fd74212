"""The engine from the command line: `python -m include.queue_etl COMMAND`, from the project's folder.

The same steps as in Airflow, without it (cron, Lambda, tests). Connections come from the environment:
QUEUE_ETL_WAREHOUSE_DSN, QUEUE_ETL_KEYSET_FILE, and what boto3 reads itself (AWS_ENDPOINT_URL and others).
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from include import VERSION
from include.queue_etl.cli import contract, operations, pipeline, privacy, watch
from include.queue_etl.cli.arguments import UsageError
from include.queue_etl.errors import BreakingChange, QueueEtlError
from include.queue_etl.log_fields import JsonLines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 failed with one clear message on stderr, 2 wrong usage, 3 breaking change, 130 Ctrl-C
    """
    parsed = _parser().parse_args(arguments)
    _set_up_logs(logging.INFO if parsed.verbose else logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        parsed.command(parsed)
    except UsageError as error:
        print(f"{parsed.name}: error: {error}", file=sys.stderr)
        return 2
    except BreakingChange as error:
        print(f"{parsed.name}: {error}", file=sys.stderr)
        return 3
    except (QueueEtlError, ValueError, OSError) as error:
        print(f"{parsed.name}: {_text_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parsed.name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _set_up_logs(level: int) -> None:
    """Lines for people on standard error; with QUEUE_ETL_LOG=json, a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if os.environ.get("QUEUE_ETL_LOG") == "json" else None)
    logging.basicConfig(level=level, handlers=[handler])


def _text_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # Python's own text begins with [Errno 2]
    return str(error)


def _stop(number: int, frame: object) -> NoReturn:
    # As an exception, so that what is held is released on the way out.
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.queue_etl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"queue-etl {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (pipeline, operations, watch, privacy, contract):
        module.add_to(commands)
    return parser
