"""What surrounds a run: the code it was made with, its repository, the installed packages, the machine and process."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import incasem_like
from incasem_like.disk import write_whole
from incasem_like.tracking.liveness import boot_id, pid_namespace, process_start, start_ticks
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.tracking.values import without_credentials

_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same code gives the same bytes, whenever it was installed
_SECONDS_FOR_GIT = 10


def archive_package(package: Path) -> Path:
    """Write a package's source files into a ZIP file in the user's cache, unless it is there already; return its path.

    Where the cache cannot be written, it is a temporary file.
    """
    files = sorted(package.rglob("*.py"))
    contents = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(zipfile.ZipInfo(name, _EARLIEST), content, zipfile.ZIP_DEFLATED)

    path = cache_directory() / "sources" / digest.hexdigest()[:16] / f"{package.name}.zip"
    if zipfile.is_zipfile(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="incasem-like-")) / path.name
        write_whole(path, write)
    return path


def describe_experiment(name: str, sources: Sequence[Path]) -> dict[str, Any]:
    """Describe script, sources, packages and repositories in the form of Sacred's ``experiment`` entry.

    ``sources`` are files to keep beside the script that was started, and the package's modules in one archive.
    """
    package = Path(incasem_like.__file__).resolve().parent
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = Path(main) if main and main.endswith(".py") else None
    own = [path.resolve() for path in ([script, *sources] if script else sources) if path.is_file()]
    # the script first: it is what a reader looks for
    files = [*dict.fromkeys(path for path in own if package not in path.parents), archive_package(package)]
    base = package.parent
    return {
        "name": name,
        "base_dir": str(base),
        "sources": [
            [_shown(path, base), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()] for path in files
        ],
        "dependencies": installed_packages(),
        "repositories": describe_repositories([package, *(path.parent for path in own)]),
        "mainfile": _shown(script.resolve(), base) if script else None,
    }


@functools.cache
def installed_packages() -> list[str]:
    """List all installed packages as ``name==version``."""
    return sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}, key=str.lower)


def describe_repositories(directories: Sequence[Path]) -> list[dict[str, Any]]:
    """Name the git repositories of some directories: URL without credentials, commit, whether files differ."""
    found: dict[str, dict[str, Any]] = {}
    for directory in dict.fromkeys(directories):
        root = _git(directory, "rev-parse", "--show-toplevel")
        commit = _git(directory, "rev-parse", "HEAD")
        if not root or not commit or root in found:
            continue
        url = _git(directory, "config", "--get", "remote.origin.url") or root
        changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
        found[root] = {"url": without_credentials(url), "commit": commit, "dirty": changes != ""}
    return list(found.values())


def describe_process() -> dict[str, Any]:
    """Name this process so that one that died can be told from one that lives: id, start, namespace and boot."""
    description = {
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "process_ticks": start_ticks(os.getpid()),
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
    }
    return {name: value for name, value in description.items() if value is not None}


def _shown(path: Path, base: Path) -> str:
    """Name a file as it lies below a folder, and in full where it lies elsewhere."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        finished = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS_FOR_GIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()
