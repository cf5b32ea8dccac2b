"""A saved network's page, and the folder to publish: it loads back with one call and gives its scores."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

import eval_pruned_net
import export_net
from comparison import card
from configs.load import as_tree, load
from models.multitask import MultiTaskNet
from prune_utils.masks import apply
from prune_utils.report import certificate
from tests.scripts import call
from training.checkpoint import FORMAT, versions, write_file
from workflow.saved import load_network, read_saved

from .examples import write


@pytest.fixture
def saved(tmp_path, rooms):
    """A pruned network of the NYUv2 layout, written as the scripts write it."""
    config = load(
        "nyuv2", flags={"data": {"root": str(rooms)}, "model": {"width": 0.05}, "prune": {"ratio": 90}}
    )
    torch.manual_seed(0)
    network = MultiTaskNet({"seg": 40, "sn": 3}, width=0.05)
    mask = {
        name: torch.rand(weight.shape) < 0.1
        for name, weight in network.named_parameters()
        if weight.ndim == 4
    }
    apply(network, mask)
    asked = {"ratio": 90.0, "criterion": "snip", "budget": "global", "arbiter": "unanimous"}
    content = {
        "format": FORMAT,
        "name": "nyuv2_disparse_static_90",
        "method": "disparse_static",
        "network": network.description,
        "state": network.state_dict(),
        "mask": mask,
        "certificate": certificate(mask, network.owners(), asked, network),
        "config": as_tree(config),
        "step": 12,
        "versions": versions(),
    }
    return write_file(tmp_path / "best_nyuv2_disparse_static_90.pth", content), network


def write_own(folder, seed, figures, **fields):
    """A result of the saved network's method, protocol and settings."""
    return write(folder, "disparse_static", seed, figures, **({"protocol": "paper"} | fields))


def described(path, *words):
    assert card.main([str(path), *words]) == 0
    return path.with_suffix(".md").read_text()


def test_the_card_says_what_it_is_and_what_is_not_known(saved):
    path, network = saved
    text = described(path)
    head, body = text.split("---\n")[1:]
    assert yaml.safe_load(head)["datasets"] == ["nyuv2"] and "model-index" not in yaml.safe_load(head)
    assert body.startswith("\n# nyuv2_disparse_static_90\n")
    kept = read_saved(path)["certificate"]["kept"]
    assert f"{kept:,} of" in body and "seg (40 outputs), sn (3 outputs)" in body
    assert "None: no result of these weights lies beside the network" in body and "Not measured" in body
    assert "NYU Depth V2 (Silberman" in body


def test_scores_have_the_interval_of_their_seeds(saved, tmp_path):
    path, _ = saved
    for seed, miou in enumerate((9.0, 10.0, 11.0)):  # one more in protocol paper
        write_own(tmp_path / "out", seed, (miou, 1.0, 0.5), constant=(2.5, 0.9))
    write(tmp_path / "out", "snip", 0, (50.0, 1.0, 0.5))  # another method
    text = described(path, "--results", str(tmp_path / "out"))
    # 11 +- 4.303 x 1 / sqrt(3)
    assert "| seg mIoU % ↑ | 11.00 | 8.52 .. 13.48 | 3 | 2.50 |" in text
    assert (
        yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]["value"] == 10.0
    )


def test_speed_is_shown_as_measured(saved, tmp_path):
    path, _ = saved
    row = {"runtime": "sparse engine", "batch": 1, "threads": 2}
    row["milliseconds"] = {"median": 69.04, "low": 68.0, "high": 71.0}
    (tmp_path / "speed.json").write_text(json.dumps({"rows": [row]}))
    text = described(path, "--speed", str(tmp_path / "speed.json"))
    assert "| sparse engine | 1 | 2 | 69.0 | 68.0 to 71.0 |" in text


def test_the_hub_folder_loads_back_bit_for_bit(saved, tmp_path, capsys):
    path, network = saved
    assert card.main([str(path), "--hub", str(tmp_path / "hub")]) == 0
    assert "config.json" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = load_network(tmp_path / "hub").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    told = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert told["network"] == network.description and told["certificate"]["ratio"] == pytest.approx(90, abs=1)
    assert (tmp_path / "hub" / "model.safetensors").stat().st_size < path.stat().st_size / 3


def test_the_hub_folder_gives_the_scores_of_the_file(saved, tmp_path, rooms, monkeypatch):
    path, _ = saved
    assert card.main([str(path), "--hub", str(tmp_path / "hub")]) == 0
    for weights in (path, tmp_path / "hub"):
        words = [
            "--dataset",
            "nyuv2",
            "--weights",
            str(weights),
            "--data-root",
            str(rooms),
            "--device",
            "cpu",
        ]
        monkeypatch.setattr(sys, "argv", ["eval_pruned_net.py", *words, "--num-workers", "0"])
        eval_pruned_net.main()
    results = [
        json.loads((Path(folder) / "nyuv2_disparse_static_90.json").read_text())
        for folder in (tmp_path, tmp_path / "hub")
    ]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.fixture
def hub(saved, tmp_path):
    """A folder with a dot in its name, which holds the network."""
    folder = tmp_path / "hubs" / "net.v1"
    assert card.main([str(saved[0]), "--hub", str(folder)]) == 0
    return folder


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("{hub}", "--hub", "{hub}", "--half"), "--hub {hub}/model.safetensors is the network itself"),
        (
            ("{hub}/model.safetensors", "--hub", "{hub}"),
            "--hub {hub}/model.safetensors is the network itself",
        ),
        (
            ("{hub}", "--out", "{hub}/model.safetensors"),
            "--out {hub}/model.safetensors is the network itself",
        ),
    ],
)
def test_a_card_never_takes_the_place_of_its_network(hub, words, named, capsys):
    before = held(hub)
    assert card.main([word.format(hub=hub) for word in words]) == 2
    assert named.format(hub=hub) in capsys.readouterr().err
    assert held(hub) == before


@pytest.mark.parametrize("flag", ["--speed", "--results"])
def test_a_card_takes_the_place_of_no_file_that_it_shows(flag, saved, tmp_path, capsys):
    path, _ = saved
    shown = write_own(tmp_path / "out", 0, (9.0, 1.0, 0.5), step=12)
    words = ["--results", str(shown)]
    if flag == "--speed":
        shown = tmp_path / "speed.json"
        shown.write_text('{"rows": []}')
        words = ["--speed", str(shown)]
    before = shown.read_bytes()
    assert card.main([str(path), *words, "--out", str(shown)]) == 2
    said = f"error: --out {shown} is a file that is shown, which would be lost: name another file\n"
    assert capsys.readouterr().err == said
    assert shown.read_bytes() == before


@pytest.mark.parametrize(
    ("prune", "seeds"), [({"criterion": "magnitude"}, "1"), ({"num_batches": 1}, "1"), ({}, "2")]
)
def test_seeds_that_were_pruned_otherwise_are_not_shown_beside_the_own_one(prune, seeds, saved, tmp_path):
    path, _ = saved
    write_own(tmp_path / "out", 0, (10.0, 1.0, 0.5), step=12)
    other = write_own(tmp_path / "out", 1, (12.0, 1.0, 0.5), step=90)
    content = json.loads(other.read_text())
    content["config"]["prune"] |= prune
    other.write_text(json.dumps(content))
    assert scores(path, tmp_path / "out")[1] == [seeds]


def test_the_network_of_a_folder_is_exported_beside_it_under_its_whole_name(hub, capsys):
    before = held(hub)
    place = hub / "model.safetensors"
    end = call("export_net.py", ["--weights", str(hub), "--half", "--out", str(place)], capsys)
    assert end.code == 2 and f"--out {place} is the network itself" in end.err
    assert held(hub) == before
    capsys.readouterr()
    assert call("export_net.py", ["--weights", str(hub), "--half"], capsys).code == 0
    assert [path.name for path in hub.parent.iterdir() if path.is_file()] == ["net.v1.half.safetensors"]
    assert held(hub) == before


def test_an_export_of_a_folder_tells_the_bytes_of_the_network(hub, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export_net.py", "--weights", str(hub), "--half"])
    export_net.main()
    size = (hub / "model.safetensors").stat().st_size
    assert f"{size:,}" in next(
        line for line in capsys.readouterr().out.splitlines() if "bytes before" in line
    )


def test_the_card_of_a_folder_lies_beside_it_and_shows_the_results_in_it(hub):
    write_own(hub, 0, (30.0, 1.0, 0.5), step=12)
    assert card.main([str(hub)]) == 0
    assert sorted(path.name for path in hub.parent.iterdir()) == ["net.v1", "net.v1.md"]
    assert "| seg mIoU % ↑ | 31.00 |" in (hub.parent / "net.v1.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_a_folder_of_something_else_is_left_as_it_is(saved, tmp_path, name, capsys):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / name).write_text("{}")
    assert card.main([str(saved[0]), "--hub", str(folder)]) == 2
    said = f"{folder} holds {name} and no network: give --hub a folder of its own"
    assert said in capsys.readouterr().err
    assert held(folder) == {name: b"{}"}


def test_a_folder_of_this_network_is_written_again(saved, hub):
    (hub / "README.md").write_text("older")
    assert card.main([str(saved[0]), "--hub", str(hub)]) == 0
    assert "nyuv2_disparse_static_90" in (hub / "README.md").read_text()


def test_half_of_a_dense_network_is_refused_before_anything_is_written(saved, tmp_path, capsys):
    path, _ = saved
    dense = torch.load(path, weights_only=True) | {"mask": None, "certificate": None, "method": "baseline"}
    write_file(tmp_path / "dense.pth", dense)
    assert card.main([str(tmp_path / "dense.pth"), "--hub", str(tmp_path / "new"), "--half"]) == 2
    assert "this network is dense" in capsys.readouterr().err and not (tmp_path / "new").exists()


def scores(path, folder):
    """(means in the table, what the head says, by measure) of the card."""
    text = described(path, "--results", str(folder))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| seg ")]
    entries = yaml.safe_load(text.split("---\n")[1]).get("model-index", [])
    metrics = entries[0]["results"][0]["metrics"] if entries else []
    return [row[1] for row in rows][:1], [row[3] for row in rows][:1], metrics


def test_scores_of_other_weights_of_the_same_name_are_not_shown(saved, tmp_path):
    path, _ = saved  # of step 12
    write_own(tmp_path / "out", 0, (10.0, 1.0, 0.5), step=40)
    write_own(tmp_path / "out", 1, (11.0, 1.0, 0.5), step=12)
    assert scores(path, tmp_path / "out") == ([], [], [])


def test_scores_of_another_protocol_are_not_shown(saved, tmp_path):
    path, _ = saved
    write_own(tmp_path / "out", 0, (10.0, 1.0, 0.5), step=12, protocol="metric")
    write_own(tmp_path / "out", 1, (11.0, 1.0, 0.5), step=12)
    assert scores(path, tmp_path / "out") == ([], [], [])


def test_only_seeds_that_were_trained_alike_are_shown_beside_the_own_one(saved, tmp_path):
    path, _ = saved
    own = {"weights": "best_nyuv2_disparse_static_90.pth"}
    write_own(tmp_path / "out", 0, (10.0, 1.0, 0.5), step=12, **own)
    write_own(tmp_path / "out", 1, (12.0, 1.0, 0.5), step=90, **own)
    write_own(tmp_path / "out", 2, (50.0, 1.0, 0.5), step=0, weights="nyuv2_disparse_static_90.pth")
    write_own(tmp_path / "out", 3, (51.0, 1.0, 0.5), step=99, weights="final_nyuv2_disparse_static_90.pth")
    write_own(tmp_path / "out", 4, (52.0, 1.0, 0.5), step=90, iterations=7, **own)
    write_own(tmp_path / "out", 5, (53.0, 1.0, 0.5), step=90, protocol="metric", **own)
    means, seeds, metrics = scores(path, tmp_path / "out")
    # in protocol paper figures are 1 higher
    assert (means, seeds) == (["12.00"], ["2"])
    assert metrics[0] == {"type": "seg mIoU", "value": 11.0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing.pth"], "nothing.pth"),
        (["{file}", "--half"], "--half is for the network of --hub DIR"),
        (["{file}", "--speed", "{json}"], "is not what prune_utils.deploy.benchmark writes"),
        (["{file}", "--hub", "{other}"], "holds another network: give --hub a folder of its own"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, sentence, saved, tmp_path, capsys):
    path, _ = saved
    (tmp_path / "x.json").write_text('{"rows": [1]}')
    other = torch.load(path, weights_only=True) | {"name": "another"}
    write_file(tmp_path / "other.pth", other)
    assert card.main([str(tmp_path / "other.pth"), "--hub", str(tmp_path / "taken")]) == 0
    capsys.readouterr()
    named = {"file": path, "json": tmp_path / "x.json", "other": tmp_path / "taken"}
    assert card.main([word.format(**named) for word in words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
