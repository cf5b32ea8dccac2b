"""The plan of a study: which runs, by which commands."""

from dataclasses import replace

import pytest

from configs.arguments import flags_tree
from configs.load import overlay
from prune_utils.methods import METHODS
from study.plan import check_tasks, parse_methods, parse_variant, read, single_tasks
from study.runner import settings

from .plans import study


def test_a_variant_is_a_method_with_flags_of_its_own():
    variant = parse_variant("disparse_static:rounds=12:shuffle=true:dynamic.every=5:keep_ratio=0.1")
    assert variant.method == "disparse_static"
    assert variant.label == "disparse_static+rounds=12+shuffle=true+dynamic.every=5+keep-ratio=0.1"
    assert variant.words() == [
        "--rounds",
        "12",
        "--shuffle",
        "--set",
        "dynamic.every=5",
        "--keep-ratio",
        "0.1",
    ]
    assert parse_variant("snip:shuffle=false").words() == ["--set", "prune.shuffle=false"]


def test_a_number_for_one_task_is_a_setting_of_a_variant():
    found = parse_variant("disparse_gmp:arbiter=weighted:prune.factors.seg=1.5:loss_weights.sn=2")
    assert found.words() == [
        "--arbiter",
        "weighted",
        "--set",
        "prune.factors.seg=1.5",
        "--set",
        "loss_weights.sn=2",
    ]


@pytest.mark.parametrize("flag", ["loss_weights.dpeth=2", "prune.factors.=2", "loss_weights.TASK=2"])
def test_a_number_for_a_task_that_there_is_not_is_refused(flag):
    variants = parse_methods(f"snip:loss_weights.sn=2,disparse_static:{flag}")
    check_tasks(variants[:2], ("seg", "sn"))
    name = flag.partition("=")[0]
    with pytest.raises(ValueError, match=f"the task of {name} '.*' is not one of seg, sn"):
        check_tasks(variants, ("seg", "sn"))


def test_labels_are_file_names():
    assert parse_variant("snip:protect=heads.*/conv3").label == "snip+protect=heads._conv3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("disparse", "disparse_static, snip"),
        ("snip:rouns=3", "'rouns=3' is not one of .*rounds"),
        ("snip:rounds", "each with =value"),
        ("snip:prune.factors=2", "did you mean 'prune.factors.TASK'"),
        ("snip:seed=3", "is not one of"),
        ("snip:shuffle=perhaps", "true or false, not 'perhaps'"),
        ("baseline:lr=1", "whole study"),
    ],
)
def test_mistakes_in_a_variant_name_the_choices(text, words):
    with pytest.raises(ValueError, match=words):
        parse_variant(text)


def test_methods():
    assert [variant.method for variant in parse_methods("all")] == ["baseline", *METHODS]
    assert [variant.label for variant in parse_methods("snip, snip,snip:rounds=2")] == [
        "baseline",
        "snip",
        "snip+rounds=2",
    ]


def test_the_dense_network_is_trained_once_a_seed_and_first(tmp_path):
    jobs = study(tmp_path, "disparse_pt,lth,imp", (90.0, 95.0)).jobs()
    assert [(job.name, job.seed) for job in jobs[:2]] == [("nyuv2_baseline", 0), ("nyuv2_baseline", 1)]
    assert len(jobs) == 2 + 2 * 2 * 3
    assert [job.name for job in jobs].count("nyuv2_baseline") == 2
    assert len({(job.folder, job.name) for job in jobs}) == len(jobs)


def test_commands_of_a_run(tmp_path):
    jobs = {job.name: job for job in study(tmp_path, "snip:rounds=3,rigl", (92.5,), (4,)).jobs()}
    assert set(jobs) == {"nyuv2_baseline", "nyuv2_snip+rounds=3_92.5", "nyuv2_rigl_92.5"}
    kinds = {name: [command.kind for command in job.commands] for name, job in jobs.items()}
    assert kinds["nyuv2_baseline"] == kinds["nyuv2_rigl_92.5"] == ["launch", "eval"]
    assert kinds["nyuv2_snip+rounds=3_92.5"] == ["create", "launch", "eval"]
    create, launch, evaluate = jobs["nyuv2_snip+rounds=3_92.5"].commands
    words = " ".join(create.words)
    assert words == " ".join(launch.words)
    for part in (
        "--method snip",
        "--ratio 92.5",
        "--seed 4",
        "--rounds 3",
        "--lr 1",
        "--device cpu",
        "--resume",
    ):
        assert part in words
    assert f"--dest {tmp_path / 'seed4'}" in words
    assert "--lr" not in evaluate.words and "--split" in evaluate.words


def told(words):
    """What eval_pruned_net.py takes from a command line, laid over the settings in a network's file."""
    asked = read(words)
    return overlay(asked.dataset, asked.config, flags_tree(asked))


def test_evaluation_is_told_of_the_data_and_the_machine_and_of_nothing_else(tmp_path):
    """Flags lie over --config, --set over both, a variant's own over all."""
    (tmp_path / "one.yaml").write_text("data: {root: /one, crop: 33, num_workers: 0}\nrun: {device: cuda}\n")
    plan = replace(
        study(tmp_path, "snip:rounds=3:num-workers=1,rigl:prune.protect=heads.*"),
        shared=("--device", "cpu", "--data-root", "/two"),
        tuned=(
            *("--lr", "1", "--config", str(tmp_path / "one.yaml"), "--set", "data.skip_unreadable=3"),
            *(
                "--set",
                'data.cache="a: b"',
                "--set",
                "run.channels_last=true",
                "--set",
                "prune.num_batches=7",
            ),
        ),
    )
    found = {job.name: job.commands[-1].words for job in plan.jobs() if job.seed == 0}
    told_all = [
        *("--set", "data.skip_unreadable=3", "--set", 'data.cache="a: b"'),
        *("--set", "run.channels_last=true", "--split", "test"),
    ]
    shared = ["--device", "cpu", "--data-root", "/two"]
    assert list(found["nyuv2_baseline"][8:]) == [*shared, "--set", "data.num_workers=0", *told_all]
    assert list(found["nyuv2_rigl+prune.protect=heads.__90"][10:]) == [
        *(*shared, "--set", "data.num_workers=0", *told_all)
    ]
    snip = found["nyuv2_snip+rounds=3+num-workers=1_90"]
    assert list(snip[10:]) == [*shared, "--set", "data.num_workers=1", *told_all]
    assert told(snip[:-2]) == {
        "data": {"root": "/two", "num_workers": 1, "skip_unreadable": 3, "cache": "a: b"},
        "run": {"device": "cpu", "channels_last": True},
        "prune": {"ratio": 90.0},
    }


def test_references_for_one_task_are_trained_once_a_seed_and_apart(tmp_path):
    plan = replace(study(tmp_path), references=single_tasks(("seg", "sn"), (None, 0.061)))
    jobs = plan.jobs()
    names = [job.name for job in jobs if job.seed == 1 and job.variant.row is None]
    widths = ["", "+width=0.061"]
    tasks = ["seg", "sn"]
    assert names == ["nyuv2_baseline", *(f"nyuv2_baseline+tasks={t}{w}" for w in widths for t in tasks)]
    assert len(jobs) == 2 * (5 + 2)
    single = next(job for job in jobs if job.name == "nyuv2_baseline+tasks=sn+width=0.061")
    assert single.folder == tmp_path / "seed0" / "alone"
    for command in single.commands:
        asked = list(command.words)
        assert asked.index("data.tasks=sn") < asked.index("model.width=0.061")
        assert asked[asked.index("data.tasks=sn") - 1] == "--set"
    assert settings(single)["data"]["tasks"] == ["sn"]


@pytest.mark.parametrize("flag", ["rewind-step", "prune.rewind_step"])
def test_the_dense_run_keeps_the_weights_that_a_variant_rewinds_to(flag, tmp_path):
    baseline = study(tmp_path, f"lth:{flag}=7").jobs()[0]
    words = baseline.commands[0].words
    assert words[words.index("--rewind-step") + 1] == "7"
    with pytest.raises(ValueError, match="not of several: 3, 7"):
        study(tmp_path, "lth:rewind-step=7,lth:rewind-step=3").jobs()
    with pytest.raises(ValueError, match="7, the default"):
        study(tmp_path, "lth:rewind-step=7,lth").jobs()
    assert "--rewind-step" not in study(tmp_path, "lth,snip").jobs()[0].commands[0].words


def test_a_setting_of_a_variant_lies_over_that_of_the_study(tmp_path):
    words = ("--shuffle", "--set", "dynamic.every=3", "--set", "prune.num_batches=4")
    plan = replace(study(tmp_path, "rigl:dynamic.every=5,snip:shuffle=false"), tuned=words)
    rigl, snip = (settings(job) for job in plan.jobs() if job.seed == 0 and job.variant.row)
    assert (rigl["dynamic"]["every"], rigl["prune"]["shuffle"]) == (5, True)
    assert (snip["dynamic"]["every"], snip["prune"]["shuffle"]) == (3, False)


def test_a_value_of_a_variant_may_hold_colons_and_commas(tmp_path):
    text = "disparse_static:granularity=2:4:rounds=3,snip:protect=heads.*, stem.*:granularity=block:4x1,rigl"
    variants = parse_methods(f"{text}:shuffle=true,all")
    assert [variant.flags for variant in variants[:4]] == [
        (),
        (("granularity", "2:4"), ("rounds", "3")),
        (("protect", "heads.*,stem.*"), ("granularity", "block:4x1")),
        (("shuffle", "true"),),
    ]
    assert [variant.method for variant in variants[4:]] == list(METHODS)
    assert variants[1].label == "disparse_static+granularity=2_4+rounds=3"
    plan = replace(study(tmp_path, text, (50.0,)), tuned=())
    found = {job.variant.method: settings(job)["prune"] for job in plan.jobs()}
    assert found["disparse_static"]["granularity"] == "2:4" and found["disparse_static"]["rounds"] == 3
    assert found["snip"]["granularity"] == "block:4x1"
    assert found["snip"]["protect"] == ["heads.*", "stem.*"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snip,disparse", "^method 'disparse' is not one of"),
        ("snip:rounds=3,rigl,disparse:rounds=2", "^method 'disparse' is not one of"),
        ("snip:rounds=3,disparse:rounds=2", "^method 'disparse' is not one of"),
        ("snip:criterion=fisher,disparse", "^method 'disparse' is not one of"),
        ("snip:protect", "^'snip:protect': 'protect' is not one of .*each with =value"),
        ("snip:", "^'snip:': '' is not one of"),
    ],
)
def test_what_no_value_goes_on_with_is_a_mistake(text, words):
    with pytest.raises(ValueError, match=words):
        parse_methods(text)


def test_two_runs_of_one_name_are_refused(tmp_path):
    plan = study(tmp_path, "snip:protect=heads.*,snip:protect=heads.?")
    with pytest.raises(ValueError) as caught:
        plan.jobs()
    assert str(caught.value) == (
        "snip:protect=heads.* at 90 % and snip:protect=heads.? at 90 % would both be named "
        "nyuv2_snip+protect=heads.__90: leave one of them out"
    )


def test_a_ratio_is_said_without_loss(tmp_path):
    ratios = (90.0, 99.5, 99.99999, 0.0)
    jobs = [job for job in study(tmp_path, "snip", ratios, (0,)).jobs() if job.ratio is not None]
    assert [job.name.removeprefix("nyuv2_snip_") for job in jobs] == ["90", "99.5", "99.99999", "0"]
    assert [settings(job)["prune"]["ratio"] for job in jobs] == list(ratios)
