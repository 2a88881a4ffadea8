"""Files of the original generator, written and read; and 2-D images with their data set."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import label

from incasem_like.errors import DataError, InputError
from incasem_like.synthetic import generate_optic_lobe, legacy
from incasem_like.synthetic.images import ColumnImages, ImageParameters, generate_image
from incasem_like.synthetic.legacy import PUBLISHED, LegacyVolumes, make_file, make_files
from incasem_like.synthetic.parameters import OpticLobeParameters
from incasem_like.volumes import open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts/01_data_formatting"
SIDE = 16


def test_a_file_has_the_layout_of_the_original_and_is_read_back(tmp_path):
    path = tmp_path / "set.h5"
    assert not make_file(path, 3, seed=5, side=SIDE)
    assert make_file(path, 3, seed=5, side=SIDE)
    with h5py.File(path) as file:
        assert sorted(file) == ["e_phi", "e_r", "e_theta", "points", "vol_data", "vol_labels"]
        assert {file[name].dtype for name in ("vol_data", "vol_labels")} == {np.dtype(np.float16)}
        assert file["vol_data"].shape == (3, SIDE, SIDE, SIDE)
        assert h5py.check_vlen_dtype(file["points"].dtype) == np.float16
    volumes = LegacyVolumes(path)
    for index in range(3):
        made = generate_optic_lobe((SIDE,) * 3, seed=5, index=index)
        np.testing.assert_array_equal(volumes[index].raw, made.raw)
        np.testing.assert_array_equal(volumes[index].mask, made.mask)
        assert len(volumes[index].middles) == len(made.columns)
        nm = volumes[index].middles * SIDE * 500
        np.testing.assert_allclose(nm, [column["middle"] for column in made.columns], atol=16)
        direction = volumes[index].frames[:, 2]
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        np.testing.assert_allclose(direction, [column["direction"] for column in made.columns], atol=0.01)
    with pytest.raises(InputError, match="--overwrite"):
        make_file(path, 3, seed=6, side=SIDE)
    assert not list(tmp_path.glob(".set*"))


def test_a_file_of_the_original_is_read_with_its_axes_turned(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.random((2, 5, 5, 7)).astype(np.float16)  # x, y, z
    points = rng.random((4, 3)).astype(np.float16)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["vol_data"], file["vol_labels"] = data, (data > 0.5).astype(np.float16)
        for name in ("points", "e_r", "e_theta", "e_phi"):
            rows = file.create_dataset(name, (2,), h5py.vlen_dtype(np.float16))
            rows[0], rows[1] = points.ravel(), points.ravel()
    volumes = LegacyVolumes(tmp_path / "old.h5", tmp_path / "old.h5")
    assert len(volumes) == 4
    np.testing.assert_array_equal(volumes[3].raw, data[1].transpose(2, 1, 0))
    np.testing.assert_array_equal(volumes[-1].mask, data[1].transpose(2, 1, 0) > 0.5)
    np.testing.assert_array_equal(volumes[2].middles, points[:, ::-1])
    image, mask = volumes.crop(1, 4, np.random.default_rng(1), most_background=0.55)
    assert image.shape == mask.shape == (4, 4, 4)
    assert (mask == 0).mean() < 0.55
    assert (image.min(), image.max()) == (0, 1)
    with pytest.raises(DataError, match="less than 0 background"):
        volumes.crop(1, 4, np.random.default_rng(1), most_background=0.0)
    with pytest.raises(IndexError):
        volumes[4]
    (tmp_path / "text.h5").write_text("no file of HDF5")
    with pytest.raises(DataError, match=r"text\.h5"):
        LegacyVolumes(tmp_path / "text.h5")


def test_the_published_sets_have_2048_and_64_volumes(tmp_path, monkeypatch, capsys):
    assert sum(count for name, (count, _) in PUBLISHED.items() if "train" in name) == 2048
    assert PUBLISHED["vol_val_set.h5"] == (64, 9999)
    monkeypatch.setattr(legacy, "PUBLISHED", {name: (1, seed) for name, (_, seed) in PUBLISHED.items()})
    options = {"num_workers": 1, "overwrite": False}
    make_files(tmp_path, "h5", True, 1, (SIDE,) * 3, 0, OpticLobeParameters(), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PUBLISHED)
    assert capsys.readouterr().out.count("1 volumes") == 5
    first, last = (LegacyVolumes(tmp_path / name)[0].raw for name in ("vol_train_set1.h5", "vol_val_set.h5"))
    assert not np.array_equal(first, last)


def test_images_depend_on_seed_and_index_and_have_labelled_columns():
    image = generate_image(3, 1)
    np.testing.assert_array_equal(image.raw, generate_image(3, 1).raw)
    assert not np.array_equal(image.raw, generate_image(3, 2).raw)
    assert image.mask.mean() >= 0.3
    assert len(image.centres) < 128
    for y, x in image.centres:
        assert image.mask[int(np.clip(round(y), 0, 127)), int(np.clip(round(x), 0, 127))] == 1
    # Discs are apart: radius 3.5 at a distance of 10 or somewhat less.
    assert label(image.mask)[1] > 0.5 * len(image.centres)
    assert image.raw[image.mask > 0].mean() > image.raw[image.mask == 0].mean() + 0.1
    with pytest.raises(InputError, match="ask for less"):
        generate_image(1, 0, ImageParameters(least_labelled=0.99))


def test_a_data_set_of_images_is_written_once_and_refuses_other_parameters(tmp_path):
    path = tmp_path / "images.h5"
    made = ColumnImages(4, seed=2, path=path)
    again = ColumnImages(4, seed=2, path=path)
    assert (made.already_complete, again.already_complete) == (False, True)
    np.testing.assert_array_equal(made[3][0], again[3][0])
    np.testing.assert_array_equal(made.centres[1], again.centres[1])
    assert again[0][1].dtype == np.float32
    assert [len(images) for images in (again, again[1:3])] == [4, 2]
    with h5py.File(path) as file:
        assert file["data"].shape == file["masks"].shape == (4, 128, 128)
    with pytest.raises(InputError, match="another seed"):
        ColumnImages(4, seed=3, path=path)


def test_the_script_writes_a_file_that_the_importer_reads(tmp_path):
    def script(name, *words):
        command = [sys.executable, str(SCRIPTS / name), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    made = script("05_make_synthetic_data.py", "-o", "lobe.h5", "--num_volumes", 2, "--shape", 12, 12, 12, "--seed", 4)
    assert made.returncode == 0, made.stderr
    source = ("-i", "lobe.h5/vol_data@c=1", "-f", "a.zarr", "--axes", "xyz", "--voxel_size", 500, 500, 500)
    done = script("01_import_volume.py", *source, "--value_range", 0, 255)
    assert done.returncode == 0, done.stderr
    imported = open_volume(tmp_path / "a.zarr/volumes/raw").read()
    np.testing.assert_array_equal(imported, LegacyVolumes(tmp_path / "lobe.h5")[1].raw)
    images = script("05_make_synthetic_data.py", "-o", "i.h5", "--format", "images", "--num_volumes", 2)
    assert images.stdout == "Wrote: i.h5, 2 images\n"
    wrong = script("05_make_synthetic_data.py", "-o", "b.h5", "--shape", 12, 12, 13)
    assert (wrong.returncode, "cubes" in wrong.stderr) == (2, True)
