"""The hexagonal lattice on the sphere and its frames."""

import numpy as np
import pytest

from incasem_like.synthetic.lattice import icosphere, nearest_neighbour_distance, spherical_frame


@pytest.mark.parametrize("parts", [1, 2, 5, 16])
def test_icosphere_has_euler_count_of_distinct_unit_vectors(parts):
    sites = icosphere(parts)
    assert sites.shape == (10 * parts**2 + 2, 3)
    np.testing.assert_allclose(np.linalg.norm(sites, axis=1), 1)
    assert nearest_neighbour_distance(sites) > 0.5 * (4 * np.pi / len(sites)) ** 0.5


def test_all_sites_but_the_twelve_corners_have_six_neighbours():
    sites = icosphere(6)
    cosines = sites @ sites.T - 2 * np.eye(len(sites))
    sixth = np.sort(np.arccos(np.clip(cosines, -1, 1)), axis=1)
    ratio = sixth[:, 5] / sixth[:, 4]  # sixth over fifth nearest: far only where there are five
    assert (ratio > 1.3).sum() == 12


def test_frames_are_orthonormal_and_point_outwards_even_at_the_poles():
    sites = np.concatenate([icosphere(3), [[1.0, 0, 0], [-1.0, 0, 0]]])
    frames = spherical_frame(sites)
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.broadcast_to(np.eye(3), frames.shape), atol=1e-9)
    np.testing.assert_array_equal(frames[:, 2], sites)


def test_nearest_neighbour_distance_by_brute_force():
    points = np.random.default_rng(0).random((50, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 10 * np.eye(50)
    assert nearest_neighbour_distance(points) == pytest.approx(distances.min(axis=1).mean())
