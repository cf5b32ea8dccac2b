"""What the numbers of segmentation classes mean, where a data set says it: for legends alone.

NYUv2: the 40 classes of Gupta et al. (CVPR 2013), numbered from 0, and the 13 of Couprie et al. (ICLR 2013);
Cityscapes: the 19 of its evaluation. Others go by their number.
"""

from __future__ import annotations

_NYU40 = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, "
    "shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refrigerator, "
    "television, paper, towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, "
    "bathtub, bag, "
    "other structure, other furniture, other prop"
)
_NYU13 = "bed, books, ceiling, chair, floor, furniture, objects, picture, sofa, table, TV, wall, window"
_CITYSCAPES19 = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, "
    "person, rider, car, truck, bus, train, motorcycle, bicycle"
)
_NAMES = {("nyuv2", 40): _NYU40, ("nyuv2", 13): _NYU13, ("cityscapes", 19): _CITYSCAPES19}


def class_names(dataset: str, classes: int) -> list[str]:
    """A name for each class, "class 5" where the data set gives none."""
    known = _NAMES.get((dataset, classes))
    return known.split(", ") if known else [f"class {number}" for number in range(classes)]
