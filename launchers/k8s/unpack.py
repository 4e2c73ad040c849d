"""Prepare the run folder, the first program in every pod.

Puts the sealed run into the run folder, proves that it is that run, and becomes the command after `--`.
The program comes with the run, before Galley is installed in the pod, so that it imports none of it.

Ends with 2 if the run or its code is not what was sealed. Pods that share the run folder may
unpack at once: each file is replaced in one step, by the same content.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


def main() -> None:
    parser = argparse.ArgumentParser(prog="unpack")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--run-sha256", required=True)
    parser.add_argument("--code-sha256", required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    install(Path(__file__).parent, arguments.run_dir, arguments.run_sha256, arguments.code_sha256)
    os.execvp(arguments.command[0], arguments.command)  # noqa: S606


def install(source: Path, run_dir: Path, run_sha256: str, code_sha256: str) -> None:
    """Write run.json and code/ into `run_dir`; the code from `source`, or the one that exists already."""
    run = (source / "run.json").read_bytes()
    if hashlib.sha256(run).hexdigest() != run_sha256:
        refuse(f"{source / 'run.json'} is not the sealed run {run_sha256}")
    present = run_dir / "run.json"
    if present.exists() and present.read_bytes() != run:
        refuse(f"{run_dir} holds another run")
    write(present, run)
    archive = source / "code.tar.xz"
    if archive.exists():
        with tarfile.open(archive, "r:xz") as members:
            for member in members:
                write(inside(run_dir / "code", member), members.extractfile(member).read())  # type: ignore[union-attr]
    found_sha256 = tree_sha256(run_dir / "code")
    if found_sha256 != code_sha256:
        refuse(f"{run_dir / 'code'} is {found_sha256}, not the sealed code {code_sha256}")


def inside(folder: Path, member: tarfile.TarInfo) -> Path:
    """Return the member's path below `folder`. Refuses any member that would be written elsewhere."""
    path = Path(member.name)
    if not member.isfile() or path.is_absolute() or ".." in path.parts:
        refuse(f"'{member.name}' does not belong into {folder}")
    return folder / path


def write(path: Path, content: bytes) -> None:
    """Replace `path` in one step. Leave it if it has that content."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".unpack.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    Path(temporary).chmod(0o644)  # mkstemp makes 0600, which the user of another pod could not read
    Path(temporary).replace(path)


def tree_sha256(folder: Path) -> str:
    """Return one hash over the names and contents of all files, like `galley.run.seal`."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files(folder)):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def files(folder: Path) -> Iterator[Path]:
    """Yield all files except bytecode and those that another pod is just writing."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != "__pycache__" and not path.name.startswith("."):
            yield from files(path) if path.is_dir() else (path,)


def refuse(reason: str) -> NoReturn:
    print(f"unpack: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
