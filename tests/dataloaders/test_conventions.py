"""Class groups, weights and names."""

import numpy as np
import pytest

from dataloaders.conventions import TO_2, TO_7, coarser, median_frequency, official_name


def test_coarser_labels():
    label = np.array([[0, 1, 2, 5], [10, 11, 18, -1]], np.int8)
    np.testing.assert_array_equal(coarser(label, TO_7), [[0, 0, 1, 2], [4, 5, 6, -1]])
    np.testing.assert_array_equal(coarser(label, TO_2), [[0, 0, 0, 0], [0, 1, 1, -1]])
    assert coarser(label, TO_7).dtype == np.int8
    assert (len(TO_7), max(TO_7), len(TO_2), max(TO_2)) == (19, 6, 19, 1)


def test_median_frequency():
    np.testing.assert_allclose(median_frequency(np.array([8, 4, 0, 2])), [0.5, 1, 1, 2])
    with pytest.raises(ValueError, match="all pixels are void"):
        median_frequency(np.zeros(3))


def test_official_name():
    assert official_name("point_3_view_0", "rgb") == "point_3_view_0_domain_rgb.png"
    assert official_name("point_3_view_0", "segment_semantic") == "point_3_view_0_domain_segmentsemantic.png"
