"""Flags: dash or underscore, what was not said changes nothing, wrong values end in a sentence."""

import pytest

from configs.arguments import FLAGS, SWITCHES, default_text, flags_text, flags_tree, parser
from configs.load import load, settings

GROUPS = ("data", "network", "pruning", "contract", "training", "machine")


def tree(*words):
    return flags_tree(parser("", "", GROUPS).parse_args(words))


def test_nothing_said_changes_nothing():
    assert tree() == {}


@pytest.mark.parametrize("words", [("--num_batches", "3"), ("--num-batches", "3"), ("--num_batches=3",)])
def test_dash_and_underscore(words):
    assert tree(*words) == {"prune": {"num_batches": 3}}


def test_values_keep_their_underscores():
    assert tree("--set", "data.root=a_b", "--data-root=c_d") == {"data": {"root": "a_b"}}


def test_max_iters_is_the_length_of_any_run():
    assert tree("--max-iters", "7") == {"optim": {"iterations": 7}, "finetune": {"iterations": 7}}


def test_set_goes_over_flags():
    assert tree("--lr", "1", "--set", "optim.lr=2") == {"optim": {"lr": 2}, "finetune": {"lr": 1.0}}


def test_wrong_number_names_flag_and_value():
    with pytest.raises(ValueError, match="--ratio needs a number, not 'abc'"):
        tree("--ratio", "abc")
    with pytest.raises(ValueError, match="--num-batches needs a whole number, not '1.5'"):
        tree("--num-batches", "1.5")


@pytest.mark.parametrize("name", [*FLAGS, *SWITCHES])
def test_every_flag_fills_a_setting_that_exists(name):
    flag = (FLAGS | SWITCHES)[name]
    example = {
        "select-on": "test",
        "protocol": "metric",
        "backbone": "resnet18",
        "scope": "backbone",
        "start-from": "best",
        "keep-ratio": "0.5",
        "ratio-of": "macs",
        "channel-multiple": "8",
        "ratio": "50",
        "classes": "7",
        "logger": "none",
        "ema-decay": "0.5",
        "val-share": "0.5",
        "max-drop": "all=1",
        "level": "0.9",
        "trunk-share": "0.5",
        "of": "latency:openvino",
    }
    words = [f"--{name}"] if name in SWITCHES else [f"--{name}", example.get(name, "1")]
    given = tree(*words)
    config = load("nyuv2", flags=given)
    for setting in flag.settings:
        section, field = setting.split(".")
        default = getattr(getattr(load("nyuv2"), section), field)
        value = getattr(getattr(config, section), field)
        assert value != default or name in ("width", "accumulate", "num-workers")


def test_unknown_flag_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parser("", "", GROUPS).parse_args(["--dataste", "nyuv2"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: there is no flag --dataste; did you mean --dataset?\n"


def test_help_shows_examples_and_settings(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parser("what it does", "  example line", GROUPS).parse_args(["--help"])
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert "what it does" in text and "example line" in text and "dynamic.until" in text


def test_the_short_help_shows_the_common_flags_alone(capsys):
    asked = parser("what it does", "  example line", GROUPS, ("--dataset", "--ratio"))
    with pytest.raises(SystemExit):
        asked.parse_args(["--help"])
    short = capsys.readouterr().out
    assert "--dataset NAME" in short and "--ratio FLOAT" in short and "--help-all shows" in short
    assert "--lr" not in short and "dynamic.until" not in short
    with pytest.raises(SystemExit):
        asked.parse_args(["--help-all"])
    full = capsys.readouterr().out
    assert all(f"--{name}" in full for name in FLAGS | SWITCHES) and "dynamic.until" in full


def test_every_line_says_default_and_choices():
    text = " ".join(parser("", "", GROUPS).format_help().split())
    assert "where weights may stay (global, erk, uniform, waterfill; default: the method's own)" in text
    assert "trained network (default: 20000 / 1000; " in text and "; taskonomy 100000 / 4000" in text
    assert "segmentation classes (default: 40; cityscapes 19; " in text
    assert "images in a training batch, over all devices (default: 16)" in text
    for name, flag in FLAGS.items():
        assert flag.about.help and default_text(flag.settings) != "", name


def test_choices_of_settings_are_those_of_the_library():
    from models.resnet import BLOCKS
    from prune_utils.arbiters import ARBITERS
    from prune_utils.budgets import BUDGETS
    from prune_utils.criteria import CRITERIA
    from prune_utils.plan import INITS, SCOPES
    from workflow.processes import PRECISIONS

    known = {
        "criterion": CRITERIA,
        "pt_criterion": CRITERIA,
        "budget": BUDGETS,
        "arbiter": ARBITERS,
        "backbone": BLOCKS,
        "scope": SCOPES,
        "score_init": INITS,
        "precision": PRECISIONS,
    }
    offered = {field: set(about.names) for _, field, about in settings() if field in known}
    assert set(offered) == set(known)
    for field, names in offered.items():
        assert names and names <= set(known[field]), field  # the library may have more


def test_text_of_the_settings_can_be_typed_again():
    words = ["--ratio", "90", "--config", "a b.yaml", "--num_batches=3", "--shuffle", "--set", "optim.lr=1"]
    text = flags_text(parser("", "", GROUPS).parse_args(words))
    assert text == "--config 'a b.yaml' --num-batches 3 --shuffle --set optim.lr=1"


def test_text_for_another_command_leaves_out_what_a_contract_alone_is_told():
    words = ["--max-drop", "seg=1,sn=2", "--of", "size", "--ratio-of", "macs", "--seed", "3"]
    assert flags_text(parser("", "", GROUPS).parse_args(words)) == "--ratio-of macs --seed 3"
