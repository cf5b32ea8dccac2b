import pytest
import torch

from prune_utils import bracket, choose, global_budget
from prune_utils.storing import stored


@pytest.fixture
def scores():
    draws = torch.Generator().manual_seed(0)
    return {
        task: {"wide": torch.randn(50, 60, generator=draws).exp(), task: torch.rand(200, generator=draws)}
        for task in ("a", "b")
    }


def test_maps_hold_the_same_values_and_give_the_same_mask(scores, tmp_path):
    shapes = {"wide": (50, 60), "a": (200,), "b": (200,)}
    budget = global_budget(shapes, 340)
    plain = choose(scores, budget, "unanimous")
    values = {task: {name: of.clone() for name, of in mine.items()} for task, mine in scores.items()}
    maps = {task: stored(mine, tmp_path / task) for task, mine in scores.items()}
    assert all(torch.equal(maps[t][n], values[t][n]) for t in values for n in values[t])
    assert scores == {"a": {}, "b": {}}
    mask = choose(maps, budget, "unanimous")
    assert all(torch.equal(mask[name], plain[name]) for name in plain)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"0.scores", "1.scores"}


def test_half_the_size_on_request(scores, tmp_path):
    expected = scores["a"]["wide"].bfloat16()
    found = stored(scores["a"], tmp_path, torch.bfloat16)
    assert torch.equal(found["wide"], expected)
    assert (tmp_path / "0.scores").stat().st_size == 6000


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_no_mask(scores, chunk, monkeypatch):
    like = {"wide": torch.empty(50, 60), "a": torch.empty(200), "b": torch.empty(200)}
    among = {name: torch.arange(t.numel()).reshape(t.shape) % 3 > 0 for name, t in like.items()}
    for candidates in (None, among):
        contest = bracket.Contest(scores, like, 340, "unanimous", candidates)
        whole = bracket.choose_by_bracket(contest)
        monkeypatch.setattr(bracket, "CHUNK", chunk)
        parts = bracket.choose_by_bracket(contest)
        assert whole is not None and parts is not None
        assert all(torch.equal(whole[name], parts[name]) for name in like)
        monkeypatch.undo()
