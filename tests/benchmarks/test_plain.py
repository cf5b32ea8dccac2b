"""The plain way and ours on the same network: the same masks. And the page of figures has its places."""

import pytest
import torch

from benchmarks import all as all_of_them
from benchmarks import plain, rows
from benchmarks.all import COMMANDS, PAGE, put_in
from benchmarks.cases import make_case
from prune_utils import keep_by_ratio, prunable, score, xavier_copy


@pytest.mark.parametrize("name", ["nyuv2", "taskonomy"])
def test_plain_and_fast_scores_give_the_same_masks(name):
    case = make_case(name, crop=33, batch=2, count=2, width=0.0625)
    for module in case.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the plain way draws anew for every task
    start = xavier_copy(case.network, 0)
    fast = score(start, case.electorate.voters("tasks"), enumerate(case.batches), "snip")
    twin = plain.masked_copy(case.network)
    with torch.no_grad():
        for layer, module in plain.layers_of(twin).items():
            module.weight.copy_(prunable(start)[f"{layer}.weight"])
    slow = plain.score(twin.train(), case.electorate.losses, case.batches)
    for task, of in slow.items():
        assert [f"{layer}.weight" for layer in of] == list(fast[task])
        for layer, value in of.items():
            torch.testing.assert_close(fast[task][f"{layer}.weight"], value, rtol=2e-3, atol=1e-6)
    ours = keep_by_ratio(fast, 0.1, "unanimous")
    united: dict[str, torch.Tensor] = {}
    for of in plain.choose(slow, 0.1).values():
        for layer, kept in of.items():
            united[layer] = united[layer] | kept.bool() if layer in united else kept.bool()
    differ = sum(int((ours[f"{layer}.weight"] != kept).sum()) for layer, kept in united.items())
    kept = sum(int(mask.sum()) for mask in ours.values())
    assert differ <= 1e-3 * kept  # rounding at the threshold


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_page_has_a_place_for_every_table(name):
    page = put_in(PAGE.read_text(encoding="utf-8"), name, "figures of today")
    assert "figures of today" in page


def test_a_place_that_is_missing_is_named():
    with pytest.raises(ValueError, match="0 places for the table 'masks'"):
        put_in("# nothing", "masks", "")


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (all_of_them, ["--only", "nothing"], "benchmark 'nothing' is not one of startup, masks, crop, "),
        (rows, ["--data-root", "no/such", "--dest", "no/dest"], "there is no data folder no/such\n"),
    ],
)
def test_a_mistake_is_one_sentence(command, words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["it", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(f"error: {sentence}") and said.count("\n") == 1
    assert not PAGE.parents[1].joinpath("no").exists()
