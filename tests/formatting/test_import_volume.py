"""Import of volumes of other programs, written by their own libraries."""

import itertools
import json
import shutil

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.import_volume import choose_level, import_volume
from incasem_like.formatting.pyramid import make_pyramid
from incasem_like.volumes import create_volume, list_datasets, open_volume

SHAPE = (9, 14, 11)


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture
def imported(tmp_path):
    number = itertools.count()

    def run(place, dataset="volumes/raw", **options):
        container = str(tmp_path / f"out{next(number)}.zarr")
        derivation = Derivation(container, dataset, dataset, (4, 8, 8), out_container=container)
        written = import_volume(str(place), derivation, **options)
        return open_volume(written.address), written.note

    return run


@pytest.mark.parametrize("chunks", [None, (3, 5, 4)])
@pytest.mark.parametrize("dtype", ["uint8", ">i2", "float32", "uint64"])
def test_hdf5_of_every_layout(tmp_path, raw, imported, chunks, dtype):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        data = file.create_dataset(
            "volumes/raw", data=raw.astype(dtype), chunks=chunks, compression="gzip" if chunks else None
        )
        data.attrs["resolution"], data.attrs["offset"] = (40, 4.5, 4.5), (80, 0, 9)
    found, note = imported(tmp_path / "c.h5/volumes/raw")
    np.testing.assert_array_equal(found.read(), raw)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert (found.voxel_size, found.offset) == ((40, 4.5, 4.5), (80, 0, 9))
    assert "voxel size 40 4.5 4.5 nm" in note
    assert found.provenance["inputs"][0]["address"].endswith("c.h5/volumes/raw")


def test_hdf5_of_ilastik_with_axes_and_micrometres(tmp_path, raw, imported):
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        data = file.create_dataset("exported_data", data=raw.transpose(2, 1, 0)[..., None])
        data.attrs["axistags"] = json.dumps({"axes": [{"key": axis} for axis in "xyzc"]})
        file.create_dataset("plantseg", data=raw).attrs["element_size_um"] = (0.3, 0.1, 0.1)
        file.create_dataset("row", data=raw[0, 0])
    found, _ = imported(tmp_path / "c.hdf5/exported_data")
    np.testing.assert_array_equal(found.read(), raw)
    assert imported(tmp_path / "c.hdf5/plantseg")[0].voxel_size == (300, 100, 100)
    assert list_datasets(tmp_path / "c.hdf5") == ["exported_data", "plantseg"]
    with pytest.raises(DataError, match="name one of them: exported_data, plantseg"):
        imported(tmp_path / "c.hdf5")
    with pytest.raises(DataError, match="did you mean 'plantseg'"):
        imported(tmp_path / "c.hdf5/plantsog")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
def test_mrc_of_every_mode(tmp_path, raw, imported, dtype):
    values = (raw // 2).astype(dtype)
    with mrcfile.new(tmp_path / "tomo.mrc", values) as file:
        file.voxel_size = (13.4, 13.4, 20)  # x, y, z in angstroms
    found, _ = imported(tmp_path / "tomo.mrc")
    np.testing.assert_array_equal(found.read(), values)
    np.testing.assert_allclose(found.voxel_size, (2, 1.34, 1.34), rtol=1e-6)


def test_bytes_of_imod_are_unsigned_and_a_missing_voxel_size_is_unknown(tmp_path, raw, imported):
    with mrcfile.new(tmp_path / "imod.rec", raw.view(np.int8)) as file:
        file.header.extra2 = np.void(b"\0" * 40 + np.array([1146047817, 0], "<i4").tobytes() + b"\0" * 36)
        file.voxel_size = 0
    found, _ = imported(tmp_path / "imod.rec", voxel_size=(5, 5, 5))
    np.testing.assert_array_equal(found.read(), raw)
    assert found.voxel_size == (5, 5, 5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti(tmp_path, raw, imported, suffix):
    image = nibabel.Nifti1Image(raw.transpose(2, 1, 0).astype(np.int16), np.diag([0.01, 0.01, 0.02, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / f"brain{suffix}")
    found, _ = imported(tmp_path / f"brain{suffix}")
    np.testing.assert_array_equal(found.read(), raw)
    np.testing.assert_allclose(found.voxel_size, (20000, 10000, 10000), rtol=1e-6)
    assert found.dtype == np.int16


def test_scaled_nifti_becomes_floats(tmp_path, raw, imported):
    image = nibabel.Nifti1Image(raw.transpose(2, 1, 0).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "brain.nii")
    np.testing.assert_allclose(
        imported(tmp_path / "brain.nii")[0].read(), nibabel.load(tmp_path / "brain.nii").get_fdata().T
    )


def test_damaged_and_missing_files_are_named(tmp_path, imported, raw):
    (tmp_path / "empty.h5").write_bytes(b"")
    mrcfile.write(tmp_path / "short.mrc", raw.astype(np.int16))
    (tmp_path / "short.mrc").write_bytes((tmp_path / "short.mrc").read_bytes()[:2000])
    nibabel.save(nibabel.Nifti1Image(raw, np.eye(4)), tmp_path / "short.nii.gz")
    (tmp_path / "short.nii.gz").write_bytes((tmp_path / "short.nii.gz").read_bytes()[:600])
    (tmp_path / "text.nii").write_text("no image")
    for name in ("empty.h5/raw", "short.mrc", "short.nii.gz", "text.nii", "absent.h5/raw"):
        with pytest.raises(DataError, match=name.partition("/")[0]):
            imported(tmp_path / name)
    assert not list(tmp_path.glob("out*"))


def test_a_damaged_chunk_of_hdf5_stops_the_import(tmp_path, raw, imported):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        data = file.create_dataset("raw", data=raw, chunks=(9, 14, 11), compression="gzip")
        position = data.id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / "c.h5").read_bytes())
    content[position : position + 20] = b"\0" * 20
    (tmp_path / "c.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"c\.h5"):
        imported(tmp_path / "c.h5/raw")


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_level_is_chosen_by_number_or_voxel_size_and_reported(tmp_path, raw, imported, volume_of, format):
    container, _ = volume_of(raw, f"in.{'n5' if format == 'n5' else 'zarr'}/im", format=format)
    make_pyramid(Derivation(container, "im", "", None), factors=[(1, 2, 2), (2, 2, 2)])
    levels = [open_volume(container, f"im/s{level}") for level in range(3)]
    found, note = imported(f"{container}/im", level=1)
    np.testing.assert_array_equal(found.read(), levels[1].read())
    assert "im/s1" in note
    assert "4 8 8 nm" in note
    found, note = imported(f"{container}/im", voxel_size=(8, 16, 16))
    np.testing.assert_array_equal(found.read(), levels[2].read())
    with pytest.raises(InputError, match=r"several levels: .*im/s0 \(4 4 4 nm\), im/s1 \(4 8 8 nm\)"):
        imported(f"{container}/im")
    with pytest.raises(DataError, match="no level of 5 5 5 nm"):
        imported(f"{container}/im", voxel_size=(5, 5, 5))
    with pytest.raises(DataError, match="--level is 3"):
        imported(f"{container}/im", level=3)


def test_precomputed_levels(tmp_path, raw, imported):
    import tensorstore

    for number, step in enumerate((1, 2)):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{tmp_path}/pre/"},
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
            "scale_metadata": {"resolution": [4 * step] * 3, "encoding": "raw", "chunk_size": [8, 8, 8],
                               "size": [-(-side // step) for side in SHAPE[::-1]], "voxel_offset": [2, 0, 1]},
            "create": True,
            "open": number == 1,
        }  # fmt: skip
        tensorstore.open(spec).result()[..., 0].write(raw[::step, ::step, ::step].T).result()
    found, note = imported(tmp_path / "pre", voxel_size=(8, 8, 8))
    np.testing.assert_array_equal(found.read(), raw[::2, ::2, ::2])
    assert "8_8_8" in note
    assert tuple(imported(tmp_path / "pre", level=0)[0].roi.begin) == (1, 0, 2)


def test_unrelated_datasets_are_not_levels(volume_of, raw):
    container, _ = volume_of(raw, "in.zarr/volumes/raw")
    volume_of(raw, "in.zarr/volumes/labels")
    with pytest.raises(DataError, match="name one of them: volumes/labels, volumes/raw"):
        choose_level(f"{container}/volumes")


def test_a_box_with_another_axis_order(volume_of, raw, imported):
    place = "/".join(volume_of(raw, voxel_size=(4, 8, 40), begin=(1, 2, 3)))
    found, _ = imported(place, axes="xyz", offset=(4, 3, 2), shape=(5, 0, 6))
    np.testing.assert_array_equal(found.read(), raw.transpose(2, 1, 0)[1:6, 1:, 1:7])
    assert (found.voxel_size, tuple(found.roi.begin)) == ((40, 8, 4), (4, 3, 2))
    turned, _ = imported(place, axes="yxz")
    np.testing.assert_array_equal(turned.read(), raw.transpose(2, 0, 1))
    assert turned.voxel_size == (40, 4, 8)
    with pytest.raises(InputError, match="--axes xyy"):
        imported(place, axes="xyy")
    with pytest.raises(DataError, match="does not contain"):
        imported(place, offset=(0, 0, 0))


def test_grey_values_of_16_bits(volume_of, raw, imported):
    wide = raw.astype(np.uint16) * 100 + 7
    place = "/".join(volume_of(wide))
    np.testing.assert_array_equal(imported(place, value_range=(7, 25507))[0].read(), raw)
    low, high = np.percentile(wide, (2, 98), method="inverted_cdf")
    wanted = np.rint((wide.clip(low, high) - float(low)) * (255 / (high - float(low))))
    np.testing.assert_array_equal(imported(place, percentiles=(2, 98), invert=True)[0].read(), 255 - wanted)
    with pytest.raises(DataError, match="which uint8 cannot hold"):
        imported(place, dtype="uint8")
    with pytest.raises(InputError, match="leave out --dtype"):
        imported(place, dtype="uint16", percentiles=(2, 98))


def test_labels_are_unsigned(volume_of, raw, imported):
    place = "/".join(volume_of(raw.astype(np.int32)))
    assert imported(place, "volumes/labels/er")[0].dtype == np.uint32
    assert set(np.unique(imported(place, "labels", conversion="RelabelTo:7")[0].read())) == {0, 7}
    with pytest.raises(InputError, match="unsigned"):
        imported(place, "labels", dtype="int16")
    with pytest.raises(InputError, match="keep labels"):
        imported(place, "labels", percentiles=(1, 99))
    below = "/".join(volume_of(raw.astype(np.int32) - 1, "below.zarr/x"))
    with pytest.raises(DataError, match="holds the label -1 at z"):
        imported(below, "labels")


def test_a_voxel_size_that_contradicts_the_file_is_reported(volume_of, raw, imported, caplog):
    place = "/".join(volume_of(raw))
    found, _ = imported(place, voxel_size=(5, 5, 5))
    assert found.voxel_size == (5, 5, 5)
    assert "states a voxel size of 4 4 4 nm, but --voxel_size is 5 5 5" in caplog.text


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_png_and_jpeg_sections(tmp_path, raw, run_stage, suffix):
    folder = tmp_path / "sections"
    folder.mkdir()
    smooth = np.broadcast_to(raw[:, :1, :1], SHAPE).astype(np.uint8)  # which JPEG stores nearly exactly
    for number, section in enumerate(raw if suffix == "png" else smooth):
        Image.fromarray(section).save(folder / f"s_{number}.{suffix}")
    script = "01_import_volume.py"
    done = run_stage(script, "-i", folder, "-f", "c.zarr", "--voxel_size", 40, 5, 5, "-n", 1)
    assert done.returncode == 0, done.stderr
    found = zarr.open(str(tmp_path / "c.zarr"))["volumes/raw"][:].astype(int)
    assert np.abs(found - (raw if suffix == "png" else smooth)).max() <= (0 if suffix == "png" else 2)
    path = folder / f"s_3.{suffix}"
    path.write_bytes(path.read_bytes()[:-20])
    refused = run_stage(script, "-i", folder, "-f", "d.zarr", "--voxel_size", 40, 5, 5)
    assert refused.returncode == 2
    assert "is truncated" in refused.stderr
    assert not (tmp_path / "d.zarr").exists()


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", "uint16"), ("1", "uint8"), ("RGB", "uint8"), ("P", "uint8")])
def test_kinds_of_png(tmp_path, mode, dtype):
    from incasem_like.formatting.image_sections import inspect_image
    from incasem_like.formatting.section_file import ReadOptions

    values = np.random.default_rng(0).integers(0, 2 if mode == "1" else 2**16 if mode == "I;16" else 256, (5, 6))
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8) * (255 if mode == "1" else 1))
    image.convert(mode).save(tmp_path / "s.png")
    found = inspect_image(tmp_path / "s.png", ReadOptions(apply_colour_map=mode == "P"), set())
    [section] = found.read(range(1))
    assert (found.pixels.dtype, section.dtype, found.shape) == (dtype, dtype, (5, 6))
    assert found.pixels.colours == (3 if mode in ("RGB", "P") else 1)
    np.testing.assert_array_equal(section, np.repeat(values[..., None], 3, -1) if found.pixels.colours == 3 else values)


def test_the_script_imports_and_resumes(run_stage, tmp_path, raw):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("labels", data=raw.astype(np.int64)).attrs["resolution"] = (40, 4, 4)
    words = ("-i", "c.h5/labels", "-f", "c.zarr", "-d", "volumes/labels/er", "-n", 1)
    done = run_stage("01_import_volume.py", *words)
    assert done.returncode == 0, done.stderr
    assert "Read HDF5" in done.stdout
    assert "Already complete" in run_stage("01_import_volume.py", *words).stdout
    assert zarr.open(str(tmp_path / "c.zarr"))["volumes/labels/er"].dtype == np.uint64


def test_files_open_as_volumes_everywhere(tmp_path, raw):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("raw", data=raw)
    volume = open_volume(tmp_path / "c.h5/raw")
    np.testing.assert_array_equal(volume.read(), raw)
    before = volume.content_hash
    shutil.copy(tmp_path / "c.h5", tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file["raw"][0] = 0
    (tmp_path / "d.h5").replace(tmp_path / "c.h5")
    assert open_volume(tmp_path / "c.h5/raw").content_hash != before
    with pytest.raises(InputError, match="only read"):
        open_volume(tmp_path / "c.h5/raw", writable=True)
    with pytest.raises(InputError, match=r"HDF5|file"):
        create_volume(tmp_path / "d.h5/new", shape=(4, 4, 4), dtype="uint8", voxel_size=(1, 1, 1))
