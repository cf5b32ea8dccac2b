"""The figures that the paper's tables give, to be shown beside measured ones.

All at 90 % sparsity, full-size network, GPU training, scored by the protocol `paper`. Source: Sun et al.,
DiSparse, CVPR 2022, tables 1 to 3. The paper's names of the methods are ours here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.names import BASELINE

from .entries import DELTA, Entry, delta
from .results import DENSE, Column, Result

RATIO, PROTOCOL, SPLIT, SOURCE = 90.0, "paper", "test", "published"
METHODS = (
    BASELINE,
    "lth",
    "snip",
    "random",
    "disparse_static",
    "rigl",
    "disparse_dynamic",
    "imp",
    "random_pt",
    "disparse_pt",
)

# data set -> the measures of its table, as "task metric", and a row for each of METHODS
MEASURES = {
    "nyuv2": "seg mIoU, seg pixel_acc, sn mean, sn median, sn 11.25, sn 22.5, sn 30",
    "cityscapes": "seg mIoU, seg pixel_acc, seg err, depth abs, depth rel, "
    "depth d1.25, depth d1.25^2, depth d1.25^3",
    "taskonomy": "seg mIoU, seg pixel_acc, sn mean, sn median, depth abs, depth rel, keypoint err, edge err",
}
FIGURES = {
    "nyuv2": """
        27.69 58.77 16.55 14.17 39.62 73.54 86.33
        24.63 56.25 17.01 14.27 39.49 71.95 84.31
        23.83 56.90 16.58 14.05 39.82 73.73 85.77
        25.56 25.18 18.86 16.22 27.81 69.55 85.45
        26.48 57.77 16.44 13.69 41.24 74.07 85.85
        24.91 56.74 17.27 14.63 38.52 70.75 83.71
        28.16 59.18 16.54 13.47 42.25 73.14 84.73
        29.19 59.81 16.58 13.32 43.32 72.31 84.03
        25.56 25.18 18.69 16.04 23.37 73.08 86.78
        29.45 59.95 16.56 13.30 43.33 72.49 84.18""",
    "cityscapes": """
        42.58 74.84 0.49 0.016 0.33 74.22 88.90 94.47
        36.19 73.97 0.51 0.017 0.35 72.46 87.29 93.59
        38.47 73.99 0.53 0.016 0.36 72.49 87.51 93.61
        35.67 71.74 0.60 0.021 0.43 66.47 82.21 90.63
        38.21 74.31 0.49 0.015 0.35 72.72 87.60 93.59
        36.57 74.02 0.51 0.017 0.37 71.98 86.66 93.05
        38.55 74.28 0.49 0.016 0.36 72.11 87.01 93.41
        37.63 73.90 0.50 0.018 0.37 71.15 86.41 93.01
        33.62 51.63 1.18 0.034 0.43 50.09 72.42 82.73
        40.71 74.64 0.49 0.016 0.37 72.06 86.67 93.11""",
    "taskonomy": """
        29.51 92.98 24.36 12.88 0.021 0.033 0.20 0.21
        24.36 91.62 26.07 15.78 0.023 0.036 0.20 0.22
        26.03 91.89 27.06 18.12 0.022 0.036 0.20 0.21
        25.39 91.18 26.31 16.30 0.023 0.037 0.20 0.22
        25.53 91.85 25.42 14.80 0.022 0.035 0.20 0.21
        23.87 90.14 26.91 17.75 0.023 0.037 0.19 0.20
        25.21 91.49 25.28 14.63 0.022 0.034 0.19 0.20
        26.71 91.74 24.99 13.89 0.021 0.033 0.20 0.21
        23.89 83.89 41.21 38.35 0.25 0.39 0.45 0.40
        29.12 92.58 24.70 13.42 0.021 0.033 0.19 0.20""",
}
NOTE = (
    "published rows: from the paper, one run each of the full-size network at 90 %, protocol paper; "
    "their delta is over the measures that the paper gives"
)


def published_entries(dataset: str, columns: Sequence[Column], setups: Mapping[str, str]) -> list[Entry]:
    """The paper's rows for a data set, in the measures among `columns`; their one value stands under seed -1.

    ValueError if the paper has no table for the data set.
    """
    if dataset not in FIGURES:
        raise ValueError(f"there are no published figures for {dataset}, only for {', '.join(FIGURES)}")
    names = [tuple(words.split()) for words in MEASURES[dataset].split(", ")]
    ours = {(column.task, column.metric): column for column in columns}
    entries: list[Entry] = []
    dense: dict[Column, float] = {}
    for method, line in zip(METHODS, FIGURES[dataset].strip().splitlines(), strict=True):
        figures = dict(zip(names, map(float, line.split()), strict=True))
        values = {ours[name]: value for name, value in figures.items() if name in ours}
        dense = dense or values
        group = DENSE if method == BASELINE else setups[method]
        label = DENSE if method == BASELINE else method
        by_seed = {column: {-1: value} for column, value in values.items()}
        by_seed[DELTA] = {-1: delta(values, dense)}
        density = 1.0 if method == BASELINE else 1 - RATIO / 100
        entries.append(Entry(group, label, method, density, by_seed, SOURCE))
    return entries


def check(protocol: str, results: Sequence[Result], other_ratios: bool) -> None:
    """ValueError if the measured results are not to be shown beside the published ones. protocol: of the
    scores; other_ratios: whether their sparsity may differ."""
    if protocol != PROTOCOL:
        raise ValueError(
            f"the published figures are in metric protocol {PROTOCOL}, these in {protocol}: "
            f"--metric-protocol {PROTOCOL}"
        )
    for field, one in (("dataset", results[0].dataset), ("split", SPLIT)):
        for result in results:
            if getattr(result, field) != one:
                raise ValueError(
                    f"the published figures are of one {field}, here {one}, and {result.path} is of "
                    f"{getattr(result, field)}: --{field} {one}"
                )
    others = sorted({r.ratio for r in results if r.ratio is not None and r.ratio != RATIO})
    if others and not other_ratios:
        raise ValueError(f"the published figures are at {RATIO:g} % sparsity, not at {others[0]:g} %")
