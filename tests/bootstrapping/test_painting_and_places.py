"""What is painted, where to paint next, and pseudo ground truth, on small volumes with values worked out by hand."""

import csv
import json

import numpy as np
import pytest
import tifffile
from bootstrapping_laboratory import VOXEL_SIZE, write

from incasem_like.bootstrapping.disagreement import other_checkpoint, write_unsure
from incasem_like.bootstrapping.painting import OWN_IDS, Painting
from incasem_like.bootstrapping.places import find_places, painted_crops, write_places
from incasem_like.bootstrapping.pseudo_truth import read_corrections, write_pseudo_truth
from incasem_like.errors import ConfigError, DataError, InputError
from incasem_like.volumes import Roi, create_volume, open_volume


@pytest.fixture
def raw(tmp_path):
    return open_volume(write(tmp_path, "raw", np.random.default_rng(0).integers(0, 255, (6, 40, 40)).astype(np.uint8)))


def volumes(folder, **arrays):
    return tuple(open_volume(write(folder, name, array, begin)) for name, (array, begin) in arrays.items())


def test_labels_and_crops_are_brought_together_section_by_section(raw, tmp_path):
    one, crop = np.zeros((2, 10, 10), np.uint32), np.ones((1, 8, 8), np.uint16)
    one[0, 2:5, 3:6], one[1, 4:8, 4:8] = 7, 8
    labels, crops = volumes(tmp_path, one=(one, (1, 20, 10))), volumes(tmp_path, crop=(crop, (5, 30, 30)))
    painting = Painting(raw, labels, crops)
    box = painting.check()
    assert box == Roi((1, 22, 13), (5, 16, 25))
    sections = painting.sections(box)
    assert sections == [(Roi((1, 22, 13), (2, 6, 5)), 9 + 16), (Roi((5, 30, 30), (1, 8, 8)), 64)]
    written, mask = painting.write("painted", box, {}, num_workers=1)
    found, known = written.read(), mask.read()
    expected = np.zeros((6, 40, 40), np.uint64)
    expected[1:3, 20:30, 10:20] = one
    expected[5, 30:38, 30:38] = 1 + (1 << OWN_IDS)
    assert np.array_equal(found, expected[box.to_slices()])
    expected[5, 30:38, [30, 37]] = expected[5, [30, 37], 30:38] = 0  # the edge of a crop does not count
    assert np.array_equal(known, expected[box.to_slices()] > 0)
    assert written.offset == tuple(b * s for b, s in zip(box.begin, VOXEL_SIZE, strict=True))


def test_an_object_of_a_crop_that_was_painted_before_keeps_its_id(raw, tmp_path):
    one, first, second = (np.zeros((1, 12, 12), np.uint32) for _ in range(3))
    one[0, 2:10, 0:6], one[0, 2:10, 6:8] = 500, 501
    first[0, :, 0:5], first[0, :, 5:12] = 1, 2  # most of 500, and all of 501, whose border was drawn elsewhere before
    second[0, 0:6] = 1
    labels = volumes(tmp_path, one=(one, (2, 8, 8)))
    crops = volumes(tmp_path, first=(first, (2, 8, 8)), second=(second, (2, 8, 20)), alone=(second, (4, 8, 8)))
    painting = Painting(raw, labels, crops)
    assert painting.crop_ids == [[[1, 500], [2, 501]], [], []]
    box = painting.check()
    assert len(painting.sections(box)) == 2  # nothing is painted twice
    found = painting.write("painted", box, {}, num_workers=1)[0].read()
    assert (found[0, :, 0:5] == 500).all()
    assert (found[0, :, 5:12] == 501).all()  # the later painting wins
    again = volumes(tmp_path, first=(first, (2, 8, 8)), moved=(second[:, :6], (2, 8, 14)))
    assert Painting(raw, labels, again).crop_ids[1] == [[1, 501]]


def test_places_have_the_largest_errors_far_apart_and_unpainted(raw, tmp_path):
    errors = np.full((6, 40, 40), 3, np.uint8)
    errors[1, 0:10, 0:10] = 200  # the largest
    errors[1, 0:10, 10:20] = 190  # beside it
    errors[4, 30:40, 30:40] = 100
    errors[3, 20:30, 0:10] = 250  # painted
    painted = np.zeros((1, 40, 40), np.uint8)
    painted[0, 20:30, 0:6] = 1
    error_map, mask = volumes(tmp_path, errors=(errors, (0, 0, 0)), mask=(painted, (3, 0, 0)))
    places = find_places(error_map, mask, 2, 10)
    assert [(place.z, place.y, place.x) for place in places] == [(1, 0, 0), (4, 30, 30)]
    assert places[0].error == pytest.approx(200 / 255, abs=1e-4)
    more = find_places(error_map, mask, 3, 10)  # none is that far from both but those of low error
    assert (1, 0, 10) not in [(place.z, place.y, place.x) for place in more]
    distances = [
        np.linalg.norm((np.array(one.roi.begin) - other.roi.begin) * VOXEL_SIZE)
        for one in more for other in more if one != other
    ]  # fmt: skip
    assert min(distances) >= 2 * 10 * VOXEL_SIZE[2]


def test_voxels_are_unsure_by_error_and_disagreement_alike(raw, tmp_path):
    rng = np.random.default_rng(4)
    errors, one, other = (
        rng.integers(0, 256, shape).astype(np.uint8) for shape in ((6, 40, 40), *[(3, 6, 40, 40)] * 2)
    )
    (error_map,) = volumes(tmp_path, errors=(errors, (0, 0, 0)))
    predictions = []
    for name, values in (("one", one), ("other", other)):
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=values.shape, axes="czyx", dtype=np.uint8, voxel_size=VOXEL_SIZE,
            chunk_shape=(3, 6, 40, 40), attributes={"scale": 255},
        )  # fmt: skip
        volume.write(values)
        volume.mark_complete()
        predictions.append(open_volume(volume.address))
    found = write_unsure(error_map, predictions, "where", num_workers=1).read()
    difference = (one.astype(float) - other) / 255
    expected = np.sqrt(((difference**2).mean(axis=0) + (errors / 255) ** 2) / 2)
    assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(InputError, match="has one checkpoint"):
        other_checkpoint([100], 100)


def test_a_place_at_the_end_of_a_section_is_as_large_as_what_is_left(raw, tmp_path):
    errors = np.zeros((1, 25, 40), np.uint8)
    errors[0, 16:, 0:16] = 90
    (error_map,) = volumes(tmp_path, errors=(errors, (2, 3, 0)))
    place = find_places(error_map, None, 1, 16)[0]
    assert (place.z, place.y, place.x, place.height, place.width) == (2, 19, 0, 9, 16)
    assert place.error == pytest.approx(90 / 255, abs=1e-4)


@pytest.fixture
def written(raw, tmp_path):
    errors = np.zeros((6, 40, 40), np.uint8)
    errors[1, 0:10, 0:10], errors[4, 20:30, 20:30] = 200, 100
    error_map, guess = volumes(
        tmp_path, errors=(errors, (0, 0, 0)), guess=(np.full((6, 40, 40), 5, np.uint32), (0, 0, 0))
    )
    places = find_places(error_map, None, 2, 10)
    write_places(tmp_path / "places", places, raw, guess, 0)
    return tmp_path / "places"


def test_places_are_written_as_a_table_pairs_of_tiffs_and_crops(written, raw):
    rows = list(csv.DictReader((written / "places.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert np.array_equal(tifffile.imread(written / "place_02_raw.tif"), raw.read(Roi((4, 20, 20), (1, 10, 10))))
    assert not tifffile.imread(written / "place_01_labels.tif").any()
    crop = open_volume(written / "crops.zarr", "place_02/raw")
    assert crop.roi == Roi((4, 20, 20), (1, 10, 10))
    assert (open_volume(written / "crops.zarr", "place_02/segmentation").read() == 5).all()
    assert painted_crops(written) == []


def test_what_was_painted_is_picked_up_from_tiffs_and_crops(written, raw):
    labels = np.zeros((10, 10), np.uint16)
    labels[2:5, 2:6] = 3
    tifffile.imwrite(written / "place_02_labels.tif", labels)
    (crop,) = painted_crops(written)
    assert np.array_equal(crop.read()[0], labels)
    assert Painting(raw, (), (crop,)).check() == Roi((4, 22, 22), (1, 3, 4))
    before = crop.content_hash
    assert painted_crops(written)[0].content_hash == before  # not written again
    other = open_volume(written / "crops.zarr", "place_01/labels", writable=True)
    other.write(np.ones((1, 10, 10), np.uint32))
    assert len(painted_crops(written)) == 2
    tifffile.imwrite(written / "place_02_labels.tif", labels[:5])
    with pytest.raises(DataError, match="paint the file as it was written"):
        painted_crops(written)


def test_places_that_were_painted_are_not_overwritten(written, raw, tmp_path):
    labels = np.full((10, 10), 4, np.uint16)
    tifffile.imwrite(written / "place_01_labels.tif", labels)
    (guess,) = volumes(tmp_path, guess=(np.full((6, 40, 40), 5, np.uint32), (0, 0, 0)))
    rows = find_places(open_volume(tmp_path / "cell.zarr", "errors"), None, 2, 10)
    write_places(written, rows, raw, guess, 0)
    assert (tifffile.imread(written / "place_01_labels.tif") == 4).all()


def test_pseudo_ground_truth_is_the_corrected_segmentation_and_its_trusted_voxels(raw, tmp_path):
    labels = np.random.default_rng(1).integers(0, 6, (6, 40, 40)).astype(np.uint32)
    trusted = np.random.default_rng(2).integers(0, 2, labels.shape).astype(np.uint8)
    weight = np.random.default_rng(3).integers(0, 256, labels.shape).astype(np.uint8)
    made = volumes(tmp_path, s=(labels, (0, 0, 0)), t=(trusted, (0, 0, 0)), w=(weight, (0, 0, 0)))
    open_volume(made[2].address, writable=True).update_attributes({"scale": 255})
    addresses = [str(volume.address) for volume in made]
    path = tmp_path / "corrections.json"
    path.write_text(json.dumps({"merge": [[5, 2]], "remove": [3], "segmentation": addresses[0]}))
    masks = {"mask": addresses[1], "weight": addresses[2]}
    made = write_pseudo_truth(addresses[0], masks, "pseudo", read_corrections(path, addresses[0]), num_workers=1)
    expected = labels.copy()
    expected[labels == 5], expected[labels == 3] = 2, 0
    assert np.array_equal(open_volume(tmp_path / "cell.zarr", made["labels"]).read(), expected)
    assert np.array_equal(open_volume(tmp_path / "cell.zarr", made["mask"]).read(), trusted)
    assert np.array_equal(open_volume(tmp_path / "cell.zarr", made["weight"]).read(), weight)
    assert open_volume(tmp_path / "cell.zarr", made["weight"]).attributes["scale"] == 255
    assert made["voxels"] == trusted.sum()
    with pytest.raises(ConfigError, match="with other ids"):
        read_corrections(path, "another")


@pytest.mark.parametrize("text", ["[1]", '{"merge": [["a"]]}', '{"split": []}', "{", '{"remove": [0]}'])
def test_corrections_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "corrections.json").write_text(text)
    with pytest.raises(ConfigError, match="holds no corrections"):
        read_corrections(tmp_path / "corrections.json")


def test_nothing_trusted_is_an_error(raw, tmp_path):
    labels, trusted = np.ones((6, 40, 40), np.uint32), np.zeros((6, 40, 40), np.uint8)
    addresses = [str(volume.address) for volume in volumes(tmp_path, s=(labels, (0, 0, 0)), t=(trusted, (0, 0, 0)))]
    with pytest.raises(DataError, match=r"raise selection\.trusted_share"):
        write_pseudo_truth(addresses[0], {"mask": addresses[1]}, "pseudo", {}, num_workers=1)
