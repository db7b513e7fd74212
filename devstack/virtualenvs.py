"""The two virtualenvs, built from the lock files and rebuilt when something is off."""

import hashlib
import os
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


@dataclass(frozen=True)
class Virtualenv:
    """A folder that shall hold exactly what its lock files say; where two pin one package, they agree."""

    folder: Path
    locks: tuple[Path, ...]
    log: Path

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
        env = Virtualenv(folder, locks, logs / f"install-{names[-1]}.log")
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
    """Build the virtualenv from nothing, with uv where it is on PATH, else with pip.

    Always from nothing: a half-written package looks installed to both, and a removed one would stay.
    """
    env.log.parent.mkdir(parents=True, exist_ok=True)
    env.log.write_text("")
    uv = _uv_outside(env.folder)
    # uv does not read pip's configuration: where a company's index is set there, pip may still succeed.
    done = uv is not None and _attempt(env, console, "uv", _uv_commands(uv, env))
    if not done and not _attempt(env, console, "pip, 1-3 minutes", _pip_commands(env)):
        raise StackError(f"could not install {env.name}; the reason is at the end of {env.log}")
    env.stamp.write_text(env.wanted())


def base_python() -> str:
    """Return the interpreter outside any virtualenv: the one running us may be about to be replaced."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"))


def _uv_outside(folder: Path) -> str | None:
    """Find uv on PATH, unless it is the one in the folder, which is about to be removed."""
    uv = shutil.which("uv")
    return None if uv is None or Path(uv).is_relative_to(folder) else uv


def _uv_commands(uv: str, env: Virtualenv) -> list[list[str]]:
    install = [uv, "pip", "install", "--quiet", "--python", str(env.python), "--require-hashes", "--no-deps"]
    return [
        [uv, "venv", "--quiet", "--python", base_python(), str(env.folder)],
        [*install, *_locks(env)],
    ]


def _pip_commands(env: Virtualenv) -> list[list[str]]:
    install = [str(env.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    return [
        [base_python(), "-m", "venv", str(env.folder)],
        # The locks are complete, so there is nothing to resolve: --no-deps saves pip the search.
        [*install, "--disable-pip-version-check", "--require-hashes", "--no-deps", *_locks(env)],
    ]


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
