"""Where columns enter, how they point, where neurites run."""

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.synthetic.geometry import ColumnGeometry, _half_turn_to_axis, _rotation, draw_geometry
from incasem_like.synthetic.parameters import OpticLobeParameters

CUBE = np.ones(3)


@pytest.fixture
def geometry() -> ColumnGeometry:
    return draw_geometry(OpticLobeParameters(), CUBE, np.random.default_rng(3))


def test_enough_columns_enter_inside_and_none_beyond_the_margin(geometry):
    inside = np.all((geometry.sites > 0) & (geometry.sites < 1), axis=1)
    assert inside.sum() >= 100
    assert geometry.sites.min() >= -0.2
    assert geometry.sites.max() <= 1.2


def test_a_flat_volume_needs_its_share_of_columns_only():
    extents = np.array([0.1, 1.0, 1.0])
    geometry = draw_geometry(OpticLobeParameters(), extents, np.random.default_rng(0))
    assert np.all((geometry.sites > 0) & (geometry.sites < extents), axis=1).sum() >= 10


def test_all_columns_point_away_from_one_centre(geometry):
    # Lines through sites along e_r meet in the ellipsoid's centre: the least-squares point leaves no residue.
    directions = geometry.frames[:, 2] / np.linalg.norm(geometry.frames[:, 2], axis=1, keepdims=True)
    across = np.eye(3) - directions[:, :, None] * directions[:, None]
    centre = np.linalg.solve(across.sum(axis=0), (across @ geometry.sites[..., None]).sum(axis=0)[:, 0])
    residue = (across @ (geometry.sites - centre)[..., None])[..., 0]
    np.testing.assert_allclose(residue, 0, atol=1e-9)
    # site = centre + e_r: the frame is the stretched unit frame.
    np.testing.assert_allclose(geometry.sites - centre, geometry.frames[:, 2], atol=1e-9)


def test_neurites_start_at_their_column_and_go_inwards(geometry):
    np.testing.assert_array_equal(geometry.bezier[:, 0], geometry.sites)
    inverse = np.linalg.inv(geometry.frames)
    local = ((geometry.bezier[:, 1] - geometry.sites)[:, None] @ inverse)[:, 0]
    assert (local[:, 2] <= 1e-12).all()
    assert (local[:, 2] >= -0.2).all()


def test_rotation_takes_radians_and_keeps_lengths():
    quarter = _rotation(np.deg2rad([90.0, 0, 0]))
    np.testing.assert_allclose(quarter @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    turn = _rotation(np.array([0.3, 1.2, -2.0]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize("direction", [[0.0, 0, 2.0], [0.3, -0.5, 0.1], [-1.0, 0, 0]])
def test_half_turn_brings_a_direction_onto_the_z_axis(direction):
    vector = np.array(direction)
    np.testing.assert_allclose(_half_turn_to_axis(vector) @ vector, [np.linalg.norm(vector), 0, 0], atol=1e-12)


def test_an_impossible_wish_says_what_to_change():
    with pytest.raises(InputError, match="lower min_columns"):
        draw_geometry(OpticLobeParameters(min_columns=5000, subdivisions=(1, 1)), CUBE, np.random.default_rng(0))
