"""Compile the extension against the installed oneCCL, once for all ranks and runs.

The result is kept under a name made of everything that decides it, and moved there in one step, so
that ranks that start together, and a compiler that is killed, do no harm. The lock is the
kernel's (`flock`) and ends with the process that holds it.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import shutil
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from galley.errors import GalleyError, SubmissionError
from galley.system import proc
from galley.system.locks import held

MODULE_NAME = "galley_ccl"
SOURCES = Path(__file__).parent
REQUIREMENTS = ("oneccl-cpu-devel==2022.1.2", "intel-cmplr-lib-rt", "impi-rt")
"""What `pip install` needs; impi-rt brings libfabric, and comes with oneccl-cpu-devel."""

_SOURCE = "extension.cpp"
_COMPILE_TIMEOUT_S = 900
_INTEL_RUNTIME = ("irc", "intlc", "svml", "imf")


class BackendUnavailable(GalleyError):
    """This machine cannot offer a backend; the message says what is missing."""

    exit_code = 2


@dataclass(frozen=True)
class Parts:
    """What the extension is made of.

    Attributes:
        versions: of the packages, for the name of the result.
        library: oneCCL's static library without SYCL.
        runtime_dir: Intel's compiler runtime.
        fabric_dir: libfabric and its providers, which are loaded at run time.
        hwloc: file name of the shared library.
    """

    compiler: str
    versions: tuple[str, ...]
    include: Path
    library: Path
    runtime_dir: Path
    fabric_dir: Path
    hwloc: str


def find_parts() -> Parts:
    """Find everything that the build needs.

    Raises `BackendUnavailable` with the command that installs what is missing.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise BackendUnavailable("no C++ compiler: apt-get install g++")
    hwloc = ctypes.util.find_library("hwloc")
    if hwloc is None:
        raise BackendUnavailable("no hwloc library: apt-get install libhwloc-dev")

    header = _package_file("oneccl-cpu-devel", "include/oneapi/ccl.hpp")
    return Parts(
        compiler=compiler,
        versions=tuple(_version(requirement.partition("==")[0]) for requirement in REQUIREMENTS),
        include=header.parent.parent,
        library=_package_file("oneccl-cpu-devel", "ccl/cpu/lib/libccl.a"),
        runtime_dir=_package_file("intel-cmplr-lib-rt", "libirc.so").parent,
        fabric_dir=_package_file("impi-rt", "libfabric.so.1").parent,
        hwloc=hwloc,
    )


def _version(package: str) -> str:
    """Return the package with its version. Raises `BackendUnavailable` if it is not installed."""
    try:
        return f"{package} {distribution(package).version}"
    except PackageNotFoundError:
        wanted = " ".join(REQUIREMENTS)
        raise BackendUnavailable(f"{package} is not installed: pip install {wanted}") from None


def _package_file(package: str, ending: str) -> Path:
    """Return the file of a package whose path has this ending."""
    _version(package)
    for file in distribution(package).files or []:
        path = Path(os.path.normpath(file.locate()))
        if path.as_posix().endswith("/" + ending) and path.exists():
            return path
    raise BackendUnavailable(f"{_version(package)} has no {ending}")


def build(parts: Parts, cache: Path) -> Path:
    """Return the extension, compiled if it does not exist yet. Many processes may call it at once.

    Raises:
        BackendUnavailable: the compiler fails; the message contains its last lines.
    """
    target = cache / "ccl" / _key(parts) / f"{MODULE_NAME}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(target.with_suffix(".lock")):
        if not target.exists():
            _compile(parts, target)
    return target


def _compile(parts: Parts, target: Path) -> None:
    """Compile into a temporary folder, then move the result to its place."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / target.name
        try:
            command = _command(parts, SOURCES / _SOURCE)
            proc.run([*command, "-o", str(output)], timeout_s=_COMPILE_TIMEOUT_S)
        except SubmissionError as error:
            tail = "\n".join(str(error).splitlines()[-20:])
            raise BackendUnavailable(f"the oneCCL extension does not build: {tail}") from error
        output.replace(target)


def _command(parts: Parts, source: Path) -> list[str]:
    """Return the compiler's command without the output file."""
    import torch

    home = Path(torch.__file__).parent
    includes = [parts.include, Path(sysconfig.get_path("include")), home / "include"]
    includes.append(home / "include/torch/csrc/api/include")
    folders = [home / "lib", parts.runtime_dir]
    return [
        *(parts.compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(argument for path in includes for argument in ("-isystem", str(path))),
        str(source),
        str(parts.library),
        *(f"-L{path}" for path in folders),
        *("-ltorch_python", "-ltorch_cpu", "-ltorch", "-lc10"),
        *(f"-l{name}" for name in _INTEL_RUNTIME),
        *(f"-l:{parts.hwloc}", "-ldl", "-lpthread"),
        *(f"-Wl,-rpath,{path}" for path in (*folders, parts.fabric_dir)),
        # Hide oneCCL's symbols, and never unload the library: its threads must not outlive their code.
        *("-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic", "-Wl,-z,nodelete"),
    ]


def _key(parts: Parts) -> str:
    """Return a hash of contents and commands, not of paths: every run has its own copy of the sources."""
    import torch

    digest = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.hpp")]):
        digest.update(source.read_bytes())
    compiler = proc.run([parts.compiler, "--version"], timeout_s=30).partition("\n")[0]
    python = sysconfig.get_config_var("SOABI")
    made_of = (compiler, torch.__version__, python, *parts.versions, *_command(parts, Path(_SOURCE)))
    digest.update("\0".join(map(str, made_of)).encode())
    return digest.hexdigest()[:20]
