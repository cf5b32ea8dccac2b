"""What a study says of its length before anything has run, and on a terminal while it runs."""

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

import reproduce
from common.interrupt import StopRequest
from study import foretell, live
from study.plan import Study, parse_methods, single_tasks
from study.runner import Times


def study(dest, methods="snip,disparse_pt"):
    variants = tuple(parse_methods(methods))
    return Study("nyuv2", dest, variants, (90.0,), (0,), (), ("--max-iters", "40"))


def jobs(dest):
    return study(dest).jobs()


def script(figures, status=0):
    """Stands for the scripts' preflights; notes what it was asked for."""
    asked = []

    def run(name, words, log, stop, threads, devices=1):
        asked.append((name, words[words.index("--method") + 1]))
        path = Path(words[words.index("--preflight") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures[name]))
        return status

    return run, asked


FIGURES = {
    "launch_training.py": {"command": 200.0, "evaluation": 5.0},
    "create_pruned_net.py": {"command": 30.0, "evaluation": 0.0},
}


def test_one_training_and_one_mask_tell_about_all(tmp_path, monkeypatch):
    run, asked = script(FIGURES)
    monkeypatch.setattr(foretell, "run_script", run)
    todo, times = jobs(tmp_path), Times(tmp_path)
    assert times.estimate(todo[0], todo[0].commands[0]) is None
    times.guesses = foretell.foretell(todo, StopRequest())
    assert asked == [("launch_training.py", "baseline"), ("create_pruned_net.py", "snip")]
    found = {job.name: [times.estimate(job, command) for command in job.commands] for job in todo}
    # --max-iters 40 is the length of both kinds of training
    assert found == {
        "nyuv2_baseline": [200.0, 5.0],
        "nyuv2_snip_90": [30.0, 200.0, 5.0],
        "nyuv2_disparse_pt_90": [30.0, 200.0, 5.0],
    }


def test_what_was_measured_counts_more(tmp_path):
    todo, times = jobs(tmp_path), Times(tmp_path)
    times.guesses = {("launch", "full"): 200.0}
    times.add(todo[0], todo[0].commands[0], 120.0)
    assert times.estimate(todo[0], todo[0].commands[0]) == 120.0


def test_a_preflight_that_fails_tells_nothing(tmp_path, monkeypatch):
    run, _ = script(FIGURES, status=2)
    monkeypatch.setattr(foretell, "run_script", run)
    assert foretell.foretell(jobs(tmp_path), StopRequest()) == {}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_runs_for_one_task_are_heard(tmp_path):
    plan = replace(study(tmp_path), references=single_tasks(("seg",), (None,)))
    for age, job in enumerate(reversed(plan.jobs())):
        log = job.folder / "logs" / f"{job.name}.launch.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("5 %")
        os.utime(log, (1000 + age, 1000 + age) if job.folder.name == "alone" else (900, 900))
    assert live.latest(tmp_path) == "nyuv2_baseline+tasks=seg.launch: 5 %"


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_terminal_shows_what_runs_say(stream, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "RHYTHM", 0.01)
    for age, name in enumerate(("nyuv2_snip_90.launch", "nyuv2_snip_90.create")):
        log = tmp_path / "seed0" / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("10 %\r20 %")
        os.utime(log, (1000 - age, 1000 - age))
    with live.live(tmp_path, stream):
        while stream.isatty() and "20 %" not in stream.getvalue():
            time.sleep(0.01)
    shown = live.CLEAR + "nyuv2_snip_90.launch: 20 %"
    assert (shown in stream.getvalue()) == stream.isatty()
    assert stream.getvalue().endswith(live.CLEAR) == stream.isatty()


def test_a_study_is_foretold_with_the_threads_that_its_runs_will_have(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    asked = []

    def run(script, words, log, stop, threads):
        asked.append(threads)
        return 1

    monkeypatch.setattr(foretell, "run_script", run)
    assert reproduce.tried(jobs(tmp_path), 2, StopRequest()) == {}
    assert reproduce.tried(jobs(tmp_path), 1, StopRequest()) == {}
    assert set(asked[: len(asked) // 2]) == {4} and set(asked[len(asked) // 2 :]) == {None}
