"""The command line of ./dev: one small function a command."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from devstack import (
    bench,
    demo,
    dotenv,
    engine,
    environment,
    keyset,
    locks,
    orchestrator,
    postgres,
    sample_traffic,
    settings,
    stack,
    status,
    suite,
)
from devstack.console import Console
from devstack.errors import StackError, UsageError
from devstack.settings import Settings
from include import VERSION

EPILOG = """\
Everything is kept in .venv/ and .dev/. Variables that change where and what:
  DEV_PG_PORT, DEV_SQS_PORT, DEV_UI_PORT   ports on 127.0.0.1 (54329, 4566, 8080); remembered until `reset`
  DEV_STATE          folder of the stack's data, secrets and logs (.dev); another folder is another stack
  DEV_SQS_ENDPOINT   URL of another SQS to use, with AWS_ACCESS_KEY_ID and so on
  DEV_PG_DSN         URL of another Postgres to use, as a superuser
Exit codes: 0 good, 1 something failed and one line says what, 2 wrong arguments or variables.
"""

PSQL_ROLES = ("owner", "etl_loader", "etl_maintainer", "etl_remasker", "analyst", "pii_officer", "ops_ro")
CONTRACTS = settings.ROOT / "include" / "contracts"
CONTRACT_HELP = "of which pipeline (default: user_logins)"
EMULATOR_SPEED = "the SQS emulator passes 150 to 500 messages a second; docs/performance.md says why"

Command = Callable[[argparse.Namespace, Settings, Console], int]


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code; an expected failure is one line on stderr."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and not options.passes_on:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = [argument for argument in rest if argument != "--"]
    try:
        command: Command = options.run
        return command(options, settings.from_environment(os.environ), _console(options))
    except StackError as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("\ndev: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. The interpreter's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _console(options: argparse.Namespace) -> Console:
    """Keep stdout for the answer of commands that have one; progress goes to stderr then."""
    return Console(sys.stderr if options.answers or getattr(options, "json", False) else sys.stdout)


def _demo(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    with locks.held(stack_settings.state / "demo.lock", console):
        messages = options.messages or demo.DEMOS[options.contract].sample
        outcome = demo.run(stack_settings, console, options.contract, Path(messages))
    demo.show(stack_settings, console, outcome)
    if options.json:
        print(outcome.as_json())
    return 0 if outcome.succeeded else 1


def _up(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    with locks.held(stack_settings.state / "demo.lock", console):  # the scheduler would disturb its run
        stack.require_ports(stack_settings, ("postgres", "ministack", "api-server"))
        stack.ensure(stack_settings, console, airflow_database=True)
        stack.ensure_airflow(stack_settings, console)
    console.note(f"\nAirflow:  {stack.ui_address(stack_settings)}")
    console.note(f"page:     {stack.page_address(stack_settings)}")
    console.note(f"login:    user {environment.UI_USER}, password {environment.ui_password(stack_settings)}")
    console.note(f"shell:    source '{stack_settings.state / 'env'}'")
    if stack_settings.sqs_endpoint is None:
        console.note(f"speed:    {EMULATOR_SPEED}")
    if options.sample_traffic:
        sample_traffic.run(stack_settings, console)
    return 0


def _down(_options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    stopped = stack.down(stack_settings, console)
    console.note(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
    return 0


def _reset(_options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    for path in stack.reset(stack_settings, console):
        console.note(f"removed {path}")
    return 0


def _status(_options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    return status.show(stack_settings, console)


def _send(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    path = Path(options.file)
    if path.is_dir():
        raise StackError(f"{options.file} is a directory: give a file with one message body on each line")
    if not path.exists():
        raise StackError(f"no such file: {options.file}")
    stack.ensure(stack_settings, console)
    return engine.run(stack_settings, "send", *_contract(options), *options.rest, options.file)


def _drain(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    stack.ensure(stack_settings, console)
    return engine.run(stack_settings, "drain", *_contract(options), *options.rest)


def _contract(options: argparse.Namespace) -> list[str]:
    return ["--contract", options.contract] if options.contract else []


def _run(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    arguments = options.arguments or ["--help"]
    if {"-h", "--help"} & set(arguments):
        stack.install(stack_settings, console)
    else:
        stack.ensure(stack_settings, console, revisions=arguments[0] != "contract")
    return engine.run(stack_settings, *arguments)


def _psql(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    stack.ensure(stack_settings, console, sqs=False, revisions=False)
    if options.role == "owner":
        login = postgres.superuser(stack_settings)
    else:
        login = environment.login(stack_settings, options.role)
    command = [*postgres.psql_command(stack_settings, login), *options.rest]
    # Become psql: it then owns the terminal, its signals and its exit code.
    os.execve(command[0], command, postgres.psql_environment(login))


def _test(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    return suite.run(stack_settings, console, options.suite, options.rest)


def _bench(options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    return bench.run(stack_settings, console, options)


def _dotenv(_options: argparse.Namespace, stack_settings: Settings, console: Console) -> int:
    target = stack_settings.root / ".env"
    dotenv.write(target, stack_settings.root / ".env.example", keyset.new_json())
    console.note(f"wrote {target}; next: docker compose up --build")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev",
        description="Run the project on this machine; each command first builds and starts what it needs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"queue-etl {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_runs(commands)
    _add_stack(commands)
    _add_checks(commands)
    return parser


def _add_runs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demonstrate = _add(commands, "demo", _demo, "send messages, run the DAG once, show what came of it")
    demonstrate.add_argument("--messages", metavar="FILE", help="one message body a line (default: a sample)")
    demonstrate.add_argument(
        "--contract",
        choices=sorted(demo.DEMOS),
        default=orchestrator.DAG,
        help="whose sample and DAG (default: %(default)s)",
    )
    demonstrate.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, progress on stderr"
    )
    _add_engine(commands)
    shell = _add(
        commands,
        "psql",
        _psql,
        "a shell on the warehouse; further arguments go to psql",
        answers=True,
        passes_on=True,
    )
    shell.add_argument(
        "--role", choices=PSQL_ROLES, default="owner", help="whose eyes to look with (default: owner)"
    )


def _add_engine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that the engine does. Only what is needed before it starts is declared here."""
    send = _add(commands, "send", _send, "put messages on the queue, one a line of FILE", passes_on=True)
    send.add_argument("file", metavar="FILE")
    drain = _add(
        commands, "drain", _drain, "empty the queue into the warehouse without Airflow", passes_on=True
    )
    for one, name in ((send, "send"), (drain, "drain")):
        one.add_argument("--contract", type=_known_contract, metavar="NAME", help=CONTRACT_HELP)
        one.epilog = f"The engine's own options are passed on; `./dev run {name} --help` lists them."
    engine_itself = _add(commands, "run", _run, "any command of the engine, from any folder")
    engine_itself.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help="`./dev run` alone lists them",
    )
    for one in (send, drain, engine_itself):
        one.set_defaults(answers=True)


def _known_contract(name: str) -> str:
    """Look at the file names only: what is wrong in a contract is for the engine to say."""
    there_are = sorted(path.stem for path in CONTRACTS.glob("*.py") if path.stem != "__init__")
    if name not in there_are:
        raise argparse.ArgumentTypeError(f"no contract {name!r}; there are: {', '.join(there_are)}")
    return name


def _add_stack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    up = _add(commands, "up", _up, f"start everything with the Airflow UI; the DAG is {orchestrator.DAG}")
    up.add_argument(
        "--sample-traffic",
        action="store_true",
        help="then send a few messages of the samples every 20 s, some malformed, until Ctrl-C",
    )
    _add(commands, "down", _down, "stop everything; rows, queue and secrets are kept")
    look = _add(
        commands, "status", _status, "what runs, queues, last runs; exit 1 when something needs a person"
    )
    look.epilog, look.formatter_class = status.NEEDS, argparse.RawDescriptionHelpFormatter
    _add(commands, "reset", _reset, "stop everything and remove the data, without asking; .venv is kept")


def _add_checks(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    test = _add(
        commands, "test", _test, "style, types and tests; further arguments go to pytest", passes_on=True
    )
    test.add_argument(
        "suite",
        nargs="?",
        choices=suite.TARGETS,
        help="only these tests (default: everything); `quick`: style, types and the tests that end within"
        " three minutes",
    )
    test.epilog = (
        "Tests run side by side; with pytest arguments they run one by one."
        " `faults` with one of --kills N, --messages N, --restarts N, --staging folder|s3, --seed N, --json"
        " is the kill run: it prints what became of the messages; exit code 1 where that is not what should."
        " With --live SECONDS it is the soak: messages are sent all the while, under Airflow's scheduler;"
        " it takes --rate R, --kills N, --worker-kills N, --scheduler-kills N, --clears N, --seed N,"
        " --executor local|celery, --sqs emulator|stub, --json."
    )
    race = _add(
        commands, "bench", _bench, "the pipeline against two baselines: CPU, speed, memory", answers=True
    )
    bench.add_arguments(race)
    _add(commands, "dotenv", _dotenv, "write .env with fresh secrets, for docker compose")


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Command,
    summary: str,
    answers: bool = False,
    passes_on: bool = False,
) -> argparse.ArgumentParser:
    """Add a command. `answers`: stdout is its result; `passes_on`: it takes another program's arguments."""
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=run, answers=answers, passes_on=passes_on)
    return parser
