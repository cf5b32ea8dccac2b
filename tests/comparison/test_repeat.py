"""The commands that a page prints are read by the study's own parser, and make the same settings."""

import shlex
import sys

import pytest

import reproduce
from comparison.page.repeat import commands
from comparison.results import read_results
from configs.arguments import flags_tree
from configs.load import as_tree, load, result_settings
from study.plan import read
from study.runner import settings

from .examples import write

METHODS = (
    "disparse_static:granularity=2:4:lr=2e-3:protect=heads.*,stem.*,"
    "snip:num-batches=7:shuffle=true:max-iters=90,"
    "disparse_gmp:arbiter=weighted:prune.factors.seg=2.5:loss_weights.sn=3,rigl"
)
WORDS = ["--set", "optim.weight_decay=0.001", "--set", "weighting.strength=0.5", "--val-share", "0.2"]
WORDS += ["--set", "data.eval_batch_size=5"]


@pytest.fixture
def planned(monkeypatch):
    """The runs of a study by the words of its command."""

    def jobs(words):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
        asked = reproduce.arguments()
        return reproduce.make_study(asked, load(asked.dataset, asked.config, flags_tree(asked))).jobs()

    return jobs


def written(folder, job, name=""):
    """The result of a run as its evaluation writes it. name: another than the study's."""
    variant = job.variant.label.removeprefix(job.variant.method)
    content = {"ratio": job.ratio or 90, "variant": variant, "split": job.split, "config": settings(job)}
    content |= {"name": name} if name else {}
    path = write(folder, job.variant.method, job.seed, (1, 1, 1), **content)
    return path.rename(path.with_name(f"{name}.json")) if name else path


def of_result(made):
    """The settings that a result depends on."""
    return result_settings(made), made["data"]["eval_batch_size"]


def told(lines, script):
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"python3 {script} ")]


def test_a_study_is_repeated_with_the_settings_of_its_results(planned, tmp_path):
    asked = ["--methods", METHODS, "--ratios", "50,99.99999", "--seeds", "3,5", "--split", "val", *WORDS]
    jobs = planned(asked)
    for job in jobs:
        written(tmp_path, job)
    results = read_results([tmp_path])
    lines = commands(results)
    (words,) = told(lines, "reproduce.py")
    assert lines == [f"python3 reproduce.py {shlex.join(words)}"]
    assert words[words.index("--methods") + 1].split(",")[0].startswith("disparse_gmp:arbiter=weighted")
    again = planned(words)
    made, before = ({(j.name, j.seed): of_result(settings(j)) for j in of} for of in (again, jobs))
    assert made == before


def test_flags_are_said_once_and_by_the_value_of_their_setting(planned, tmp_path):
    for job in planned(["--methods", "snip:protect=heads.*:lr=0.002", "--seeds", "0,"]):
        written(tmp_path, job)
    (line,) = commands(read_results([tmp_path]))
    assert line == (
        "python3 reproduce.py --dataset nyuv2 --methods 'snip:protect=heads.*:lr=0.002' --ratios 90 "
        "--seeds 0, --split test"
    )


@pytest.mark.parametrize(
    ("method", "scripts"),
    [
        ("snip:rounds=3", ["create_pruned_net.py", "launch_training.py", "eval_pruned_net.py"]),
        ("rigl", ["launch_training.py", "eval_pruned_net.py"]),
        ("baseline", ["launch_training.py", "eval_pruned_net.py"]),
    ],
)
def test_a_network_with_a_name_of_its_own_is_made_by_the_scripts(method, scripts, planned, tmp_path):
    job = planned(["--methods", method, "--seeds", "4,", "--ratios", "95", *WORDS])[-1]
    written(tmp_path, job, name="my net")
    lines = commands(read_results([tmp_path]))
    assert [line.split()[1] for line in lines] == scripts
    where = ["--dataset", "nyuv2", "--method", job.variant.method]
    where += ["--ratio", "95"] if job.ratio else []
    where += ["--name", "my net", "--dest", "outputs/seed4"]
    for line in lines:
        words = shlex.split(line)[2:]
        assert words[: len(where)] == where
        if line.startswith("python3 eval_pruned_net.py "):
            assert words[len(where) :] == ["--split", "test"]
            continue
        asked = read(words)
        made = as_tree(load(asked.dataset, asked.config, flags_tree(asked)))
        assert of_result(made) == of_result(settings(job))


def test_a_reference_for_one_task_is_trained_under_its_name(planned, tmp_path):
    for job in planned(["--methods", "snip", "--seeds", "0,", "--single-task", "same", "--tasks", "seg,sn"]):
        written(tmp_path, job)
    lines = commands(read_results([tmp_path]))
    assert len(told(lines, "reproduce.py")) == 1
    names = [words[words.index("--name") + 1] for words in told(lines, "launch_training.py")]
    assert names == ["nyuv2_baseline+tasks=seg", "nyuv2_baseline+tasks=sn"]
    assert [read(words).set for words in told(lines, "launch_training.py")] == [
        ['data.tasks=["seg"]'],
        ['data.tasks=["sn"]'],
    ]
