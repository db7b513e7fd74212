"""The two virtualenvs, built from the lock files and rebuilt when something is off."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from devstack.console import Console
from devstack.errors import StackError
from devstack.settings import Settings

# Names of lock files. The image installs the product's alone; here the tests and checks come on top.
DEVELOPMENT = ("requirements", "requirements-dev")
TOOLS = ("requirements-tools",)
# Of a lock: the version of uv with its hashes.
PINNED_UV = re.compile(r"^uv==.*(?:\n .*)*", re.MULTILINE)


@dataclass(frozen=True)
class Virtualenv:
    """A folder that shall hold exactly what its lock files say; where two pin one package, they agree.

    `uv` is that of another virtualenv, for where PATH has none.
    """

    folder: Path
    locks: tuple[Path, ...]
    log: Path
    uv: Path | None = None

    @property
    def name(self) -> str:
        """Its lock files, for people."""
        return " and ".join(lock.name for lock in self.locks)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written last; absent while an installation is under way or was cut short."""
        return self.folder / ".installed"

    def wanted(self) -> str:
        """Return what the stamp must hold: the locks but their comments, the interpreter, the place.

        The place because scripts in it name it, so that a moved clone builds its own again.
        """
        text = "\n".join(lock.read_text() for lock in self.locks)
        lines = [line.partition("#")[0].rstrip() for line in text.splitlines()]
        digest = hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()
        return f"{digest} {sys.version_info[0]}.{sys.version_info[1]} {self.folder}"


def ensure(settings: Settings, console: Console) -> None:
    """Build or repair both virtualenvs; does nothing when they already match their lock files."""
    logs = settings.root / ".dev" / "logs"
    for folder, names in ((settings.venv, DEVELOPMENT), (settings.tools_venv, TOOLS)):
        locks = tuple(settings.root / f"{name}.lock" for name in names)
        env = Virtualenv(folder, locks, logs / f"install-{names[-1]}.log", settings.venv / "bin" / "uv")
        if not is_current(env):
            build(env, console)


def is_current(env: Virtualenv) -> bool:
    """Tell whether the virtualenv was installed completely from today's locks, here, and still starts."""
    try:
        matches = env.stamp.read_text() == env.wanted()
    except OSError:
        return False
    return matches and os.access(env.python, os.X_OK)


def build(env: Virtualenv, console: Console) -> None:
    """Build the virtualenv from nothing, with uv where there is one, or the one that a lock pins, else pip.

    Always from nothing: a half-written package looks installed to both, and a removed one would stay. What
    takes pip 94 s takes uv 17.
    """
    env.log.parent.mkdir(parents=True, exist_ok=True)
    env.log.write_text("")
    commands = _uv_commands(env) or _pinned_uv_commands(env)
    # uv does not read pip's configuration: where a company's index is set there, pip may still succeed.
    done = bool(commands) and _attempt(env, console, "uv", commands)
    if not done and not _attempt(env, console, "pip, 1-3 minutes", _pip_commands(env)):
        raise StackError(f"could not install {env.name}; the reason is at the end of {env.log}")
    env.stamp.write_text(env.wanted())


def base_python() -> str:
    """Return the interpreter outside any virtualenv: the one running us may be about to be replaced."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"))


def _uv_outside(env: Virtualenv) -> str | None:
    """Find uv on PATH or in the other virtualenv, unless it is in the folder that is about to be removed."""
    found = (shutil.which("uv"), shutil.which(env.uv) if env.uv else None)
    return next((uv for uv in found if uv and not Path(uv).is_relative_to(env.folder)), None)


def _uv_commands(env: Virtualenv) -> list[list[str]]:
    """Return what installs with a uv that is there; nothing where there is none."""
    uv = _uv_outside(env)
    if uv is None:
        return []
    return [
        [uv, "venv", "--quiet", "--python", base_python(), str(env.folder)],
        [uv, *_uv_install(env), *_locks(env)],
    ]


def _pinned_uv_commands(env: Virtualenv) -> list[list[str]]:
    """Return what has pip install the uv that a lock pins, and that one the rest; nothing without a pin."""
    pins = [pin for lock in env.locks for pin in PINNED_UV.findall(lock.read_text())]
    if not pins:
        return []
    pinned = env.log.with_suffix(".uv.txt")
    pinned.write_text(pins[0])
    return [
        [base_python(), "-m", "venv", str(env.folder)],
        [*_pip_install(env), "-r", str(pinned)],
        [str(env.folder / "bin" / "uv"), *_uv_install(env), *_locks(env)],
    ]


def _pip_commands(env: Virtualenv) -> list[list[str]]:
    return [[base_python(), "-m", "venv", str(env.folder)], [*_pip_install(env), *_locks(env)]]


# The locks are complete, so there is nothing to resolve: --no-deps saves both the search. uv compiles only
# when told to; else each process that may not write bytecode would compile Airflow for itself.
def _uv_install(env: Virtualenv) -> list[str]:
    options = ["--quiet", "--compile-bytecode", "--require-hashes", "--no-deps"]
    return ["pip", "install", "--python", str(env.python), *options]


def _pip_install(env: Virtualenv) -> list[str]:
    quiet = ["--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
    return [str(env.python), "-m", "pip", "install", *quiet, "--require-hashes", "--no-deps"]


def _locks(env: Virtualenv) -> list[str]:
    return [argument for lock in env.locks for argument in ("-r", str(lock))]


def _attempt(env: Virtualenv, console: Console, tool: str, commands: list[list[str]]) -> bool:
    shutil.rmtree(env.folder, ignore_errors=True)
    with console.step(f"install {env.name} into {env.folder.name} ({tool})"), env.log.open("a") as log:
        for command in commands:
            if subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            ).returncode:
                _explain(env, console, tool)
                return False
    return True


def _explain(env: Virtualenv, console: Console, tool: str) -> None:
    if "ensurepip" in env.log.read_text():
        raise StackError("this Python cannot make virtualenvs; on Debian: apt-get install python3-venv")
    console.note(f"\n  {tool.split(',')[0]} failed, see {env.log}")
