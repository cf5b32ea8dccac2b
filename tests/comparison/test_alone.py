"""Delta against the dense networks for one task each, beside that against the dense network for all."""

import pytest

from comparison.entries import ALONE, FORMULA_ALONE
from comparison.report import Options, report
from comparison.results import read_results

from .examples import DIRECTIONS, write

SETUPS = {"snip": "static"}


def write_alone(folder, seed, task, measures, width=None):
    """The result of a dense network for one task. measures: metric -> value in both protocols."""
    config = {
        "prune": {"ratio": 90},
        "model": {} if width is None else {"width": width},
        "optim": {},
        "run": {"seed": seed},
    }
    flags = f"+tasks={task}" + ("" if width is None else f"+width={width:g}")
    return write(
        folder / "alone",
        "baseline",
        seed,
        (1.0, 1.0, 1.0),
        name=f"nyuv2_baseline{flags}",
        variant=flags,
        metrics={task: {protocol: measures for protocol in ("metric", "paper")}},
        directions={task: DIRECTIONS[task]},
        config=config,
    ).rename(folder / f"{seed}{flags}.json")


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "baseline", seed, (20.0, 4.0, 0.5))
        write(tmp_path, "snip", seed, (22.0, 3.0, 0.75))
        write_alone(tmp_path, seed, "seg", {"mIoU": 40.0, "err": 4.0})
        write_alone(tmp_path, seed, "edge", {"err": 0.25 * (seed + 1)})
    return tmp_path


def deltas(folder):
    made = report(read_results([folder]), Options("metric"), SETUPS)
    found = {
        entry.label: {c.metric: by for c, by in entry.values.items() if not c.task} for entry in made.entries
    }
    return made, found


def test_hand_worked(folder):
    """Seed 0, dense: seg (-50 + 0) / 2 %, edge -100; snip: seg (-45 + 25) / 2, edge -200; then the mean."""
    made, found = deltas(folder)
    assert found["dense"][ALONE] == pytest.approx({0: (-25 - 100) / 2, 1: (-25 + 0) / 2})
    assert found["snip"][ALONE] == pytest.approx({0: (-10 - 200) / 2, 1: (-10 - 50) / 2})
    assert found["snip"]["delta"] == pytest.approx({0: -16.25, 1: -16.25})  # as ever, against dense
    assert found["baseline:tasks=seg"] == {"delta": pytest.approx({0: 50.0, 1: 50.0})}
    assert FORMULA_ALONE in made.scores.notes
    assert made.scores.header[-2:] == ("delta % ↑", "delta alone % ↑")


def test_other_widths_stand_apart(folder):
    for task, measures in (("seg", {"mIoU": 20.0, "err": 2.0}), ("edge", {"err": 0.5})):
        write_alone(folder, 0, task, measures, width=0.5)
    _, found = deltas(folder)
    # seg (10 - 50) / 2, edge -50
    assert found["snip"]["delta alone at width 0.5"] == pytest.approx({0: -35.0})
    assert found["snip"][ALONE][0] == pytest.approx(-105.0)


def test_one_task_missing_gives_no_delta(folder):
    for path in folder.glob("1+tasks=edge.json"):
        path.unlink()
    _, found = deltas(folder)
    assert set(found["snip"][ALONE]) == {0}
