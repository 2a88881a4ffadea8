"""The page that says what a new operation must bring is true: its example runs, its file of workers is read."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from incasem_like.blockwise.workers_file import load_workers
from incasem_like.volumes import Volume, create_volume, open_volume

PAGE = (Path(__file__).parents[2] / "docs" / "blockwise.md").read_text()


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def write_raw(tmp_path: Path) -> Volume:
    place, chunks = tmp_path / "cell.zarr/volumes/raw", (8, 8, 8)
    raw = create_volume(place, shape=(20, 18, 22), dtype="uint8", voxel_size=(4, 4, 4), chunk_shape=chunks)
    raw.write(np.random.default_rng(0).integers(0, 255, raw.shape, dtype=np.uint8))
    raw.mark_complete()
    return raw


def test_the_example_inverts_a_volume_with_workers(tmp_path: Path) -> None:
    raw, chunks = write_raw(tmp_path), (8, 8, 8)
    script = tmp_path / "invert.py"
    small = example("python").replace("offset=raw.offset,", f"offset=raw.offset, chunk_shape={chunks},")
    script.write_text(small.replace("invert_block, parameters)", f"invert_block, parameters, {chunks})"))
    (tmp_path / "w.yaml").write_text("count: 2")
    words = [sys.executable, script, "--workers", "w.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "BlockSummary(total=27, done=27, skipped=0, failed=(), voxels=7920)"
    assert np.array_equal(open_volume(tmp_path / "cell.zarr/volumes/inverted").read(), 255 - raw.read())
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.stdout.strip() == "BlockSummary(total=27, done=0, skipped=27, failed=(), voxels=0)"


def test_the_script_of_the_example_says_what_is_wrong_in_a_sentence(tmp_path: Path) -> None:
    script = tmp_path / "invert.py"
    script.write_text(example("python"))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cell.zarr does not exist" in done.stderr


def test_the_second_example_counts_a_volume(tmp_path: Path) -> None:
    write_raw(tmp_path)
    script = tmp_path / "histogram.py"
    script.write_text(example("python", 1).replace("raw.roi, 2**21)", "raw.roi, 1)"))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(20 * 18 * 22)


def test_the_file_of_workers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text(example("yaml"))
    workers = load_workers(path)
    (group,) = workers.groups
    assert (group.launcher, group.count, group.time) == ("slurm", 20, 86400)
    assert workers.scheduler.listen == "10.0.0.5"
