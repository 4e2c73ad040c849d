"""Libraries that ranks load before all others (`LD_PRELOAD`): an allocator, Intel's OpenMP. Pure, but
for `find_libraries` and `loaded_problems`."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from galley.errors import Problem, valid_values
from galley.quoting import shell_word
from galley.spec import ClusterFacts

LIBRARIES = {
    "tcmalloc": ("libtcmalloc.so.4", "libtcmalloc.so", "libtcmalloc_minimal.so.4"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc.so"),
    "libiomp5": ("libiomp5.so",),
}
"""Name -> its files, the better one first. The allocator is loaded before whatever allocates."""
_ALLOCATORS = ("tcmalloc", "jemalloc")
_SOURCES = {
    "tcmalloc": "apt-get install libgoogle-perftools4",
    "jemalloc": "apt-get install libjemalloc2",
    "libiomp5": "pip install intel-openmp",
}
_KEY = "cluster.preload"


def library_folders(environ: Mapping[str, str]) -> list[Path]:
    """Where libraries lie: those of the search path, of this environment and of the system."""
    named = [part for part in environ.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/")]
    system = [f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}", "/usr/lib64", "/usr/lib", "/usr/local/lib"]
    return [Path(folder) for folder in (*named, f"{sys.prefix}/lib", *system)]


def find_libraries(folders: Sequence[Path]) -> tuple[str, ...]:
    """The first file of each of `LIBRARIES` that there is, in the order in which they are loaded."""
    found = []
    for files in LIBRARIES.values():
        paths = [folder / file for file in files for folder in folders]
        found += [str(path) for path in paths if path.is_file()][:1]
    return tuple(found)


def inherited_preload(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The libraries that `LD_PRELOAD` names by a path which is there."""
    named = environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return tuple(path for path in named if path.startswith("/") and Path(path).is_file())


def spelling_problems(asked: Collection[str]) -> Iterator[Problem]:
    """Entries that are neither a known library nor the path of a file, and a second allocator."""
    if set(asked) >= set(_ALLOCATORS):
        what = "one process has one allocator: the second would be loaded, and never called"
        yield Problem(_KEY, f"{' and '.join(_ALLOCATORS)}: {what}", "name one of them")
    for entry in asked:
        if entry not in LIBRARIES and not entry.startswith("/"):
            hint = f"{valid_values(entry, LIBRARIES)}, or the whole path of a library"
            yield Problem(f"{_KEY}={entry}", "is no library that is known by name", hint)
        elif set(entry) & set(" :\n"):
            yield Problem(f"{_KEY}={entry}", "LD_PRELOAD cannot carry a path with a space or a colon")


def preload_problems(asked: Collection[str], facts: ClusterFacts) -> Iterator[Problem]:
    """Why the nodes cannot load what is asked for; nodes elsewhere find out about paths themselves."""
    for entry in asked:
        if entry.startswith("/"):
            if not facts.declared and not Path(entry).is_file():
                yield Problem(f"{_KEY}={entry}", f"there is no such file on {facts.hostname}")
        elif entry not in LIBRARIES:
            continue  # `spelling_problems` tells
        elif facts.declared:
            file = shell_word(_KEY.split("."), [f"/usr/lib/{LIBRARIES[entry][0]}"])
            hint = f"name the file as the nodes have it: {file}"
            yield Problem(f"{_KEY}={entry}", "where the nodes have it cannot be seen from here", hint)
        elif _path_of(entry, facts.libraries) is None:
            what = f"{facts.hostname} has no {' or '.join(LIBRARIES[entry])}"
            yield Problem(f"{_KEY}={entry}", what, f"{_SOURCES[entry]}; or leave it out")


def resolve_preload(asked: Collection[str], facts: ClusterFacts) -> tuple[str, ...]:
    """The paths of what is asked for, in the order in which they are loaded; `preload_problems` is empty.

    What this process was itself preloaded with stays, behind them.
    """
    if not asked:
        return ()
    known = [_path_of(name, facts.libraries) for name in LIBRARIES if name in asked]
    paths = [path for path in known if path is not None] + [path for path in asked if path.startswith("/")]
    return tuple(dict.fromkeys([*paths, *facts.preloaded]))


def loaded_problems(paths: Collection[str], hostname: str) -> Iterator[Problem]:
    """What of `paths` this process has not loaded: the dynamic linker only warns about a missing file."""
    if not paths:
        return
    maps = Path("/proc/self/maps").read_text()
    for path in paths:
        if f" {os.path.realpath(path)}\n" not in maps:
            yield Problem(_KEY, f"{path} was not loaded on {hostname}", "is the file there, and a library?")


def _path_of(name: str, found: Collection[str]) -> str | None:
    return next((path for path in found if Path(path).name in LIBRARIES[name]), None)
