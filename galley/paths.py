"""Where the program is: a checkout, the folder that a wheel installs, or the snapshot of a run.

All three are laid out alike, and whatever comes with Galley is found relative to `ROOT`.
"""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
RECIPES = ROOT / "recipes"


def user_cache() -> Path:
    """What is kept between runs: `$XDG_CACHE_HOME/galley`, else `~/.cache/galley`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "galley"


def is_checkout() -> bool:
    """Return whether the program is a checkout, and neither an installation nor the snapshot of a run."""
    return (ROOT / "Makefile").is_file()


def current_folder() -> Path | None:
    """Return the current folder, None if it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def install(extra: str) -> str:
    """Return the command, for a shell, that adds one of Galley's extras to this environment."""
    return (
        f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}"
        if is_checkout()
        else f"pip install 'galley[{extra}]'"
    )


def command() -> str:
    """Return the command, for a shell, as it can be typed in the current folder.

    It is `galley` of an installation, and train.py of a checkout.
    """
    if not is_checkout():
        return "galley"
    return "python train.py" if current_folder() == ROOT else f"python {shlex.quote(str(ROOT / 'train.py'))}"


def command_of(code: Path) -> str:
    """Return the command, quoted for the shell, that runs a snapshot with its own code.

    PYTHONPATH is for snapshots whose train.py does not put its own folder first on the path.
    """
    program = (sys.executable, "-P", str(code / "train.py"))
    return f"PYTHONPATH={shlex.quote(str(code))} {shlex.join(program)}"
