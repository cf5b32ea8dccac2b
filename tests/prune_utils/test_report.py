import json

import pytest
import torch
from torch import nn

from prune_utils import certificate, format_certificate, mask_hash

OWNERS = {
    "trunk.weight": frozenset("abc"),
    "branch.weight": frozenset("ab"),
    "head.a.weight": frozenset("a"),
    "lost.weight": frozenset(),
}


def mask(**kept):
    names = {
        "trunk": "trunk.weight",
        "branch": "branch.weight",
        "head": "head.a.weight",
        "lost": "lost.weight",
    }
    return {names[key]: torch.arange(total) < count for key, (count, total) in kept.items()}


def test_counts_by_hand():
    m = mask(head=(3, 4), lost=(0, 2), branch=(2, 4), trunk=(1, 2))
    cert = certificate(m, OWNERS, {"ratio": 50, "protect": ("x",), "seed": 7})
    assert (cert["kept"], cert["total"], cert["asked_keep"]) == (6, 12, 6)
    assert cert["pruned"] == 6
    assert (cert["density"], cert["sparsity"], cert["ratio"]) == (0.5, 0.5, 50.0)
    assert list(cert["groups"].items()) == [
        ("backbone", {"kept": 1, "total": 2}),
        ("shared by a+b", {"kept": 2, "total": 4}),
        ("head a", {"kept": 3, "total": 4}),
        ("no task's", {"kept": 0, "total": 2}),
    ]
    assert cert["tasks"] == {
        "a": {"kept": 6, "total": 10},
        "b": {"kept": 3, "total": 6},
        "c": {"kept": 1, "total": 2},
    }
    assert cert["layers"]["head.a"] == {"kept": 3, "total": 4}
    assert cert["hash"] == mask_hash(m)
    assert cert["asked"] == {"ratio": 50, "protect": ["x"], "seed": 7}


def test_plain_values_only(tmp_path):
    cert = certificate(mask(trunk=(1, 2), branch=(1, 2)), OWNERS, {"ratio": 50, "protect": ("x",)})
    assert json.loads(json.dumps(cert)) == cert
    torch.save(cert, tmp_path / "cert.pth")
    assert torch.load(tmp_path / "cert.pth", weights_only=True) == cert


def test_a_starved_shared_layer_is_named_with_the_remedy():
    m = mask(trunk=(4, 1000), branch=(50, 1000), head=(140, 2000), lost=(1, 1000))  # 195 / 5000 = 3.9 %
    assert certificate(m, OWNERS, {})["warnings"] == []
    m["trunk.weight"] = torch.arange(1000) < 3  # 0.3 %, a tenth of 3.88 % is 0.388 %
    (warning,) = certificate(m, OWNERS, {})["warnings"]
    assert "trunk (0.300%)" in warning
    assert "branch" not in warning and "lost" not in warning
    assert "budget erk or 12 rounds may help, in the library floor=0.1, too" in warning


def test_an_empty_layer_is_named():
    (warning,) = certificate(mask(trunk=(2, 2), head=(0, 2)), OWNERS, {})["warnings"]
    assert warning.startswith("no weight is left in head.a: ")


def test_what_was_not_asked_is_not_compared():
    cert = certificate(mask(trunk=(1, 2)), OWNERS, {"ratio": 90.0, "keep_ratio": 0.3})
    assert cert["asked_keep"] is None
    assert "(asked keep ratio 0.3 for every task)" in format_certificate(cert)
    assert "asked" not in format_certificate(certificate(mask(trunk=(1, 2)), OWNERS, {}))


def test_as_text():
    m = mask(trunk=(3, 4), branch=(100, 1996))
    asked = {"ratio": 94.85, "criterion": "snip", "shuffle": False, "rounds": 1, "protect": ("x", "y")}
    lines = format_certificate(certificate(m, OWNERS, asked)).splitlines()
    assert lines[0] == "sparsity 94.8500 % (asked 94.85 %, 103 weights; kept 103)"
    assert lines[2:9] == [
        "                     kept  total  density",
        "backbone                3      4   75.00%",
        "shared by a+b         100  1,996    5.01%",
        "task a, all it owns   103  2,000    5.15%",
        "task b, all it owns   103  2,000    5.15%",
        "task c, all it owns     3      4   75.00%",
        "together              103  2,000    5.15%",
    ]
    assert lines[10] == "pruned 1,897 of 2,000 weights, each exactly 0"
    assert lines[11] == "criterion snip  rounds 1  protect x,y"
    assert lines[12] == f"mask {mask_hash(m)[:16]}"


def test_warnings_are_part_of_the_text():
    text = format_certificate(certificate(mask(trunk=(2, 2), head=(0, 2)), OWNERS, {}))
    assert text.splitlines()[-1].startswith("warning: no weight is left in head.a")


@pytest.mark.parametrize("tasks", [1, 2])
def test_without_owners_all_is_nobodys(tasks):
    cert = certificate(mask(trunk=(1, 2)), {}, {})
    assert list(cert["groups"]) == ["no task's"]
    assert cert["tasks"] == {}


def test_the_share_of_all_parameters_by_hand():
    model = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4), "words": nn.Embedding(3, 4)})
    m = {"one.weight": torch.arange(16).reshape(4, 4) < 4}
    cert = certificate(m, {}, {"ratio": 75}, model)
    assert cert["of_all"] == {
        "parameters": 52,
        "considered": 16,
        "share": 16 / 52,
        "pruned": 12,
        "sparsity": 12 / 52,
        "left_out": {
            "bias": {"one.bias": 4, "two.bias": 4},
            "out of scope": {"two.weight": 16},
            "embedding": {"words.weight": 12},
        },
    }
    text = format_certificate(cert).splitlines()
    assert "of all 52 parameters 30.77% are considered; 12 are pruned, 23.0769% of all" in text
    assert "not considered, bias: 8 in one.bias, two.bias" in text
    assert text[-1].startswith(
        "warning: the ratio speaks of 30.77% of all parameters only; not considered are"
    )
    assert json.loads(json.dumps(cert)) == cert


def test_a_certificate_without_a_network_says_so():
    text = format_certificate(certificate(mask(trunk=(1, 2)), OWNERS, {}))
    assert "share of all parameters: not known, no network was given" in text
    old = {
        key: value for key, value in certificate(mask(trunk=(1, 2)), OWNERS, {}).items() if key != "of_all"
    }
    assert "share of all" not in format_certificate(old)
