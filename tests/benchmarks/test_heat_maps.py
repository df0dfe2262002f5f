"""The measurement of heat maps: places as drawn, scores as defined."""

import numpy as np
import pytest

from benchmarks import heat_maps
from benchmarks.heat_maps import Finding
from data_prep.phantom import PhantomConfig, draw_all, draw_with_places
from data_prep.phantom_drawing import FINDINGS

SIDE = 48


@pytest.fixture(scope="module")
def drawn():
    config = PhantomConfig(out="-", images=60, seed=3, short_side=SIDE)
    return config, list(draw_with_places(config))


def test_places_are_of_what_is_drawn_and_change_no_pixel(drawn):
    config, images = drawn
    for (split, row, pixels), (other, same, with_places, _) in zip(
        draw_all(config), images, strict=True
    ):
        assert (split, row) == (other, same)
        np.testing.assert_array_equal(pixels, with_places)
    seen = {name: [] for name in FINDINGS}
    for _, row, pixels, places in images:
        assert not places or row[3] == "Frontal"
        for name, place in places.items():
            assert (place.shape, place.dtype) == (pixels.shape, bool)
            seen[name].append(place)
    for name, places in seen.items():
        assert len(places) > 3, name
        assert 0 < np.mean([place.mean() for place in places]) < 0.25, name
    height, width = np.nonzero(seen["Cardiomegaly"][0])
    middle = np.array(seen["Cardiomegaly"][0].shape) / 2
    assert abs(height.mean() - middle[0]) < 12, "the heart is in the middle"
    assert abs(width.mean() - middle[1]) < 12


def test_a_finding_is_brighter_in_its_place(drawn):
    """Consolidation is dense: inside its place the lung is whiter than in the other phantoms."""
    _, images = drawn
    frontal = [(heat_maps.square(p), places) for _, row, p, places in images if row[3] != "Lateral"]
    inside, outside = [], []
    for pixels, places in frontal:
        if "Consolidation" in places:
            place = heat_maps.square(places["Consolidation"])
            others = [other[place].mean() for other, p in frontal if "Consolidation" not in p]
            inside.append(pixels[place].mean())
            outside.append(np.mean(others))
    assert np.mean(np.array(inside) - np.array(outside)) > 10


def test_energy_and_pointing_by_hand():
    maps = np.zeros((2, 4, 4, 2), np.float32)
    maps[0, 0, 0, 0], maps[0, 3, 3, 0] = 3, 1
    maps[0, ..., 1] = 1
    corner = np.zeros((4, 4), bool)
    corner[:2, :2] = True
    findings = [Finding(0, 0, 7, corner), Finding(0, 1, 7, corner), Finding(1, 0, 8, corner)]
    result = heat_maps.score(maps, findings)
    np.testing.assert_allclose(result.energy, [0.75, 0.25, 0])
    np.testing.assert_allclose(result.pointing, [1, 0.25, 0])  # chance where all are the hottest
    text = heat_maps.interval(np.array([1.0, 1, 0]), np.array([7, 7, 8]), 200)
    assert text == "66.7 (0.0 to 100.0)"  # the two of one patient come together
