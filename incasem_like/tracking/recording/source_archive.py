"""This package's own source code in one file, which a run keeps: hundreds of entries would swell every record."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path

from incasem_like.tracking.checkpoints.cache import cache_directory
from incasem_like.tracking.files.layout import write_whole

_LEFT_OUT = {"__pycache__"}
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same code gives the same bytes, whenever it was installed


def archive_package(package: Path) -> Path:
    """Write a package's source files into a ZIP file, unless it is there already.

    Args:
        package: Its folder.

    Returns:
        A file in the user's cache, or among the temporary ones where that cannot be written: ``<hash>/<package>.zip``.
    """
    files = sorted(path for path in package.rglob("*.py") if not _LEFT_OUT & set(path.parts))
    contents = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    try:
        return _written(cache_directory() / "sources", package.name, digest.hexdigest(), contents)
    except OSError:
        return _written(Path(tempfile.mkdtemp(prefix="incasem-like-")), package.name, digest.hexdigest(), contents)


def _written(folder: Path, name: str, digest: str, contents: dict[str, bytes]) -> Path:
    path = folder / digest[:16] / f"{name}.zip"
    if not zipfile.is_zipfile(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: _write(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED), contents))
    return path


def _write(archive: zipfile.ZipFile, contents: dict[str, bytes]) -> None:
    with archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), content, zipfile.ZIP_DEFLATED)
