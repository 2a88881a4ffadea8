"""Files and folders that appear whole or not at all, and locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from disks import tmpfs

from incasem_like.disk import check_output_file, check_writable, copy_whole, is_locked, lock, whole_folder, write_whole
from incasem_like.errors import InputError


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_replaces_its_target_and_leaves_nothing_beside_it(tmp_path: Path, link: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    for _ in range(2):  # the second time both are links of one file
        copy_whole(source, target, link=link)
    assert target.read_text() == "new"
    assert target.samefile(source) == link
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_text("content")
    copy_whole(tmp_path / "source", tmp_path / "target", link=True)
    assert (tmp_path / "target").read_text() == "content"


def test_a_folder_appears_when_its_block_is_done(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder") as beside:
        (beside / "file").write_text("content")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_whose_block_fails_does_not_appear(tmp_path: Path) -> None:
    def fill() -> None:
        with whole_folder(tmp_path / "folder") as beside:
            (beside / "file").write_text("content")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_locked_until_the_process_that_locked_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not is_locked(path)
    code = (
        "import os, sys; from incasem_like.disk import lock; "
        "assert lock(os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with open(path) as file:
            assert not lock(file.fileno(), wait=False)
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)
    with open(path) as file:
        assert lock(file.fileno(), wait=False)
        assert is_locked(path)


@pytest.mark.parametrize("name", ["missing/out.csv", "folder", "file/out.csv"])
def test_a_file_that_cannot_be_written_is_named_before_and_at_writing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    path = tmp_path / name
    with pytest.raises(InputError, match=path.name):
        check_output_file(path)
    with pytest.raises(OSError, match=path.name) as raised:
        write_whole(path, lambda file: file.write(b"x"))
    assert raised.value.filename == str(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_in_an_existing_folder_passes(tmp_path: Path) -> None:
    check_output_file(tmp_path / "out.csv")


def test_what_can_be_written_is_found_out_without_writing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", "choose another")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    check_writable(tmp_path / "file", "choose another")
    with pytest.raises(InputError, match=r"file is a file, but a folder is needed there for .*: choose another"):
        check_writable(tmp_path / "file" / "folder", "choose another")
    with tmpfs(tmp_path / "locked", "ro") as locked, pytest.raises(InputError, match="change its permissions, or cho"):
        check_writable(locked / "new", "choose another")
