"""Settings: what is merged over what, types, choices, ranges."""

import pytest

from configs.load import (
    DATASETS,
    as_tree,
    carried,
    load,
    merge,
    parse_assignments,
    paths,
    result_digest,
    result_settings,
    settings,
    trained,
)
from configs.schema import Config

PAPER = {  # formats: training settings of the paper
    "nyuv2": (("seg", "sn"), {"seg": 1, "sn": 20}, 321, 20000, 1e-3, 4000, 0.5, 50, 1000, 1e-5),
    "cityscapes": (("seg", "depth"), {"seg": 1, "depth": 20}, 224, 20000, 1e-4, 4000, 0.5, 50, 1000, 1e-5),
    "taskonomy": (
        ("seg", "sn", "depth", "keypoint", "edge"),
        {"seg": 1, "sn": 3, "depth": 2, "keypoint": 7, "edge": 7},
        224,
        100000,
        1e-4,
        12000,
        0.3,
        250,
        4000,
        1e-6,
    ),
}


@pytest.mark.parametrize("dataset", PAPER)
def test_settings_of_the_paper(dataset):
    config = load(dataset)
    tasks, weights, crop, iterations, lr, every, factor, interval, tuned, tuned_lr = PAPER[dataset]
    assert config.data.tasks == tasks
    assert {task: config.loss_weights[task] for task in tasks} == weights
    assert (config.data.crop, config.data.batch_size) == (crop, 16)
    optim = config.optim
    assert (optim.iterations, optim.lr, optim.weight_decay) == (iterations, lr, 5e-4)
    assert (optim.step_every, optim.step_factor) == (every, factor)
    assert (config.dynamic.until, config.dynamic.every, config.dynamic.fraction) == (0.75, interval, 0.5)
    assert (config.finetune.iterations, config.finetune.lr) == (tuned, tuned_lr)


def test_later_wins(tmp_path):
    overlay = tmp_path / "over.yaml"
    overlay.write_text("optim: {lr: 0.5, iterations: 7}\n")
    config = load(
        "nyuv2", [str(overlay)], merge({"optim": {"lr": 0.25}}, parse_assignments(["optim.step_every=3"]))
    )
    assert (config.optim.lr, config.optim.iterations, config.optim.step_every) == (0.25, 7, 3)
    assert config.optim.weight_decay == 5e-4


@pytest.mark.parametrize(
    "assignment, section, field, value",
    [
        ("optim.lr=3e-4", "optim", "lr", 3e-4),
        ("data.tasks=[sn]", "data", "tasks", ("sn",)),
        ("data.tasks=seg,sn", "data", "tasks", ("seg", "sn")),
        ("data.scale=[1, 2]", "data", "scale", (1.0, 2.0)),
        ("prune.keep_ratio=null", "prune", "keep_ratio", None),
        ("prune.shuffle=true", "prune", "shuffle", True),
        ("run.devices=2", "run", "devices", "2"),
        ("model.branch_after=stages.2.1", "model", "branch_after", "stages.2.1"),
    ],
)
def test_every_type_can_be_set(assignment, section, field, value):
    assert getattr(getattr(load("nyuv2", flags=parse_assignments([assignment])), section), field) == value


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("optim.lrr=1", "setting 'optim.lrr' is not one of lr, weight_decay.*did you mean 'lr'"),
        ("optimm.lr=1", "setting 'optimm' is not one of data, loss_weights.*did you mean 'optim'"),
        ("optim.lr=fast", "setting 'optim.lr' needs a number, not 'fast'"),
        ("optim.iterations=1.5", "setting 'optim.iterations' needs a whole number, not 1.5"),
        ("prune.shuffle=1", "setting 'prune.shuffle' needs true or false, not 1"),
        ("optim=1", "setting 'optim' is a section with fields, not 1"),
        ("loss_weights.seg=x", "setting 'loss_weights.seg' needs a number"),
        ("loss_weights=3", "setting 'loss_weights' needs names with values, not 3"),
        ("prune.ratio=100", "setting 'prune.ratio' is 100.0, it must be a percentage"),
        ("prune.ratio=nan", "setting 'prune.ratio' is nan"),
        ("prune.ratio=0.9", "setting 'prune.ratio' is 0.9, it must be a percentage: .*: did you mean 90\\?"),
        ("prune.start_from=last", "setting 'prune.start_from' is last, it must be best or final"),
        ("prune.keep_ratio=0", "setting 'prune.keep_ratio' is 0.0"),
        ("run.protocol=other", "setting 'run.protocol' is other, it must be paper or metric"),
        ("data.batch_size=0", "setting 'data.batch_size' is 0, it must be at least 1"),
        ("data.tasks=[]", "setting 'data.tasks' is"),
        ("data.tasks=seg,sn,seg", "setting 'data.tasks' is .*, it must be at least one task, none twice"),
        ("data.size=-5", "setting 'data.size' is -5, it must be at least 16 pixels"),
        ("data.scale=[1, .inf]", "setting 'data.scale' is .*, it must be two factors"),
        ("run.seed=-1", "setting 'run.seed' is -1, it must be from 0 to 4294967295"),
        ("run.seed=1000000000000", "setting 'run.seed' is 1000000000000"),
        ("optim.lr=.inf", "setting 'optim.lr' is inf, it must be above 0 and finite"),
        ("finetune.lr=.nan", "setting 'finetune.lr' is nan"),
        ("optim.weight_decay=.inf", "setting 'optim.weight_decay' is inf"),
        ("optim.step_factor=-1", "setting 'optim.step_factor' is -1.0, it must be above 0 and at most 1"),
        ("dynamic.until=.inf", "setting 'dynamic.until' is inf"),
        ("loss_weights.seg=-1", "setting 'loss_weights.seg' is -1.0, it must be at least 0 and finite"),
        ("loss_weights.seg=.nan", "setting 'loss_weights.seg' is nan"),
        ("loss_weights.dpeth=1", "setting 'loss_weights.dpeth' is not one of depth, .*seg, sn"),
        ("lr", "--set takes section.field=value, not 'lr'"),
        ("a.b=[", "is no valid value"),
    ],
)
def test_wrong_settings_end_with_the_choices(assignment, words):
    with pytest.raises(ValueError, match=words):
        load("nyuv2", flags=parse_assignments([assignment]))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration file .*none.yaml .*configs/tiny.yaml"):
        load("nyuv2", [str(tmp_path / "none.yaml")])
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: {lr: 1\nrun: [")
    with pytest.raises(ValueError, match="broken.yaml is not valid YAML at line"):
        load("nyuv2", [str(broken)])
    broken.write_text("optim: {lr: 0.5}\ndata: {crop: 48}\noptim: {iterations: 7}\n")
    with pytest.raises(ValueError, match="broken.yaml is not valid YAML at line 3: key 'optim' stands twice"):
        load("nyuv2", [str(broken)])
    broken.write_text("just words")
    with pytest.raises(ValueError, match="must hold sections"):
        load("nyuv2", [str(broken)])
    with pytest.raises(ValueError, match="dataset 'kitti' is not one of cityscapes, nyuv2, .*taskonomy"):
        load("kitti")


@pytest.mark.parametrize("dataset", DATASETS)
def test_tree_round_trip(dataset):
    config = load(dataset)
    assert load(dataset, base=as_tree(config)) == config


def test_overlay_fits_every_dataset():
    for dataset in DATASETS:
        config = load(dataset, ["configs/tiny.yaml"])
        assert (config.model.backbone, config.model.width) == ("resnet18", 0.125)


def test_paths_name_every_setting():
    assert "optim.lr" in paths() and "loss_weights.TASK" in paths()
    assert len(paths()) == sum(len(section) for section in as_tree(Config()).values()) + 1


def test_settings_that_change_no_result_are_left_out():
    tree = as_tree(load("nyuv2", flags={"run": {"preflight": False, "seed": 3}, "data": {"root": "there"}}))
    kept = result_settings(tree)
    assert kept == result_settings(as_tree(load("nyuv2", flags={"run": {"seed": 3}})))
    assert kept != result_settings(as_tree(load("nyuv2")))
    assert "root" not in kept["data"] and kept["run"]["seed"] == 3
    assert {"seg": 1, "sn": 20, "depth": 1}.items() <= kept["loss_weights"].items()


def test_a_digest_is_of_what_differs_from_the_defaults(monkeypatch):
    tree = as_tree(load("nyuv2", flags={"run": {"seed": 3}}))
    digest = result_digest(tree)
    assert len(digest) == 16 and digest == result_digest(tree | {"run": tree["run"] | {"preflight": False}})
    assert digest != result_digest(tree | {"run": tree["run"] | {"seed": 4}})
    assert digest != result_digest(tree | {"loss_weights": {"seg": 2}})
    # a version that does not know a setting yet, or leaves it as it is
    later = [row for row in settings() if row[:2] != ("dynamic", "progress")]
    monkeypatch.setattr("configs.load.settings", lambda: later)
    assert digest == result_digest(tree)


def test_an_earlier_name_of_a_setting_is_read_everywhere(tmp_path):
    (tmp_path / "old.yaml").write_text("data: {mirror: 0.25}\n")
    assert load("nyuv2", [str(tmp_path / "old.yaml")]).data.hflip == 0.25
    assert load("nyuv2", flags=parse_assignments(["data.mirror=0"])).data.hflip == 0
    tree = as_tree(load("nyuv2", flags={"data": {"hflip": 0.75}}))
    tree["data"]["mirror"] = tree["data"].pop("hflip")  # as an earlier version wrote it
    assert load("nyuv2", base=tree).data.hflip == result_settings(tree)["data"]["hflip"] == 0.75


def test_a_setting_that_a_file_does_not_know_yet_had_its_default():
    tree = as_tree(load("nyuv2"))
    del tree["prune"]["shuffle"]
    assert result_settings(tree) == result_settings(as_tree(load("nyuv2")))


def test_a_file_brings_what_describes_its_network_and_nothing_of_a_machine():
    theirs = {
        "data": {
            "root": "/theirs",
            "cache": "/theirs",
            "num_workers": 5000,
            "skip_unreadable": 9,
            "classes": 13,
        },
        "model": {"width": 0.5, "backbone_weights": "/theirs"},
        "optim": {"lr": 0.5},
        "run": {
            "devices": "5000",
            "device": "cuda",
            "precision": "bf16-mixed",
            "protocol": "metric",
            "seed": 4,
        },
    }
    tree = as_tree(load("nyuv2", flags=theirs))
    config, ours = load("nyuv2", base=carried(tree)), load("nyuv2")
    assert (config.data.classes, config.model.width, config.optim.lr) == (13, 0.5, 0.5)
    assert (config.run.protocol, config.run.seed) == ("metric", 4)
    for section, fields in {
        "data": ("root", "cache", "num_workers", "skip_unreadable"),
        "model": ("backbone_weights",),
        "run": ("devices", "device", "precision", "channels_last"),
    }.items():
        for field in fields:
            assert getattr(getattr(config, section), field) == getattr(getattr(ours, section), field)
    assert trained(tree)["run"]["precision"] == "bf16-mixed"
    assert "size" not in trained(tree)["data"] and "root" not in trained(tree)["data"]
    with pytest.raises(ValueError, match="setting 'optim' is a section with fields, not 3"):
        carried(tree | {"optim": 3})
