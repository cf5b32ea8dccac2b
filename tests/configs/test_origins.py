"""--print-config: every setting, and the last of the sources that says it."""

from configs.arguments import flags_tree, parser
from configs.load import as_tree, load
from configs.origins import settings_table


def rows(*words, base=None):
    asked = parser("", "", ("data", "network", "pruning", "training", "machine")).parse_args(words)
    config = load(asked.dataset, asked.config, flags_tree(asked))
    lines = [line.split() for line in settings_table(config, asked, base).splitlines()[2:]]
    return config, {line[0]: (" ".join(line[1:-1]), line[-1]) for line in lines}


def test_each_source_is_named(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("optim: {iterations: 5, step_every: 3}\ndata: {mirror: 0.25}\n")
    words = ("--config", str(overlay), "--lr", "0.5", "--max-iters", "7", "--set", "optim.lr=0.25")
    _, found = rows(*words)
    assert found["data.crop"] == ("321", "configs/nyuv2.yaml")
    assert found["data.tasks"] == ("[seg, sn]", "configs/nyuv2.yaml")
    assert found["data.hflip"] == ("0.25", str(overlay))  # by its earlier name
    assert found["optim.step_every"] == ("3", str(overlay))
    assert found["optim.iterations"] == ("7", "--max-iters")
    assert found["finetune.lr"] == ("0.5", "--lr")
    assert found["optim.lr"] == ("0.25", "--set")
    assert found["prune.criterion"] == ("none", "default")
    assert found["loss_weights.sn"] == ("20.0", "configs/nyuv2.yaml")


def test_every_setting_has_a_row():
    config, found = rows()
    names = {f"{section}.{name}" for section, of in as_tree(config).items() for name in of if of[name] != {}}
    assert set(found) == names


def test_a_saved_network_stands_between_yaml_and_flags():
    _, found = rows("--width", "0.5", base=("net.pth", {"model": {"width": 0.5, "backbone": "resnet34"}}))
    assert found["model.width"] == ("0.5", "--width")
    assert found["model.backbone"] == ("resnet34", "net.pth")
