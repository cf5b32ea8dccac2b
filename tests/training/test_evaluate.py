"""Evaluation: what it returns, what it leaves as it was, and several processes."""

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import multiprocessing

from tasks.base import Target
from tasks.sums import measures
from tests.training.examples import BATCHES, Small, make_batch, make_tasks
from training.evaluate import evaluate, evaluating, figures, format_scores, image_sums


def blind(batch, *names):
    """The batch with no valid pixel for these tasks."""
    image, targets = batch
    hidden = {name: Target(targets[name].value, torch.zeros_like(targets[name].valid)) for name in names}
    return image, targets | hidden


def test_losses_are_the_batches_means_weighted_by_size():
    model, tasks = Small(), make_tasks()
    scores = evaluate(model, tasks, BATCHES, loss_weights={"seg": 1.0, "depth": 20.0})
    with evaluating(model):
        for name, task in tasks.items():
            total = sum(len(image) * task.loss(model(image)[name], to[name]).item() for image, to in BATCHES)
            assert scores["loss"][name] == pytest.approx(total / 9, rel=1e-6)
    assert scores["loss"]["total"] == pytest.approx(scores["loss"]["seg"] + 20 * scores["loss"]["depth"])
    assert (scores["images"], scores["batches"]) == (9, 5)


def test_metrics_are_the_tasks_own():
    model, tasks = Small(), make_tasks()
    scores = evaluate(model, tasks, BATCHES)
    assert list(scores["metrics"]) == ["seg", "depth"]
    metric = tasks["depth"].metric()
    with evaluating(model):
        for image, targets in BATCHES:
            metric.update(model(image)["depth"], targets["depth"])
    assert scores["metrics"]["depth"] == metric.compute()


def test_default_weights_are_one():
    scores = evaluate(Small(), make_tasks(), BATCHES)
    assert scores["loss"]["total"] == scores["loss"]["seg"] + scores["loss"]["depth"]


def test_the_fabric_says_the_precision():
    seen = []

    class Watched(Small):
        def forward(self, image):
            said = super().forward(image)
            seen.append(said["seg"].dtype)
            return said

    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    scores, exact = (
        evaluate(Watched(), make_tasks(), BATCHES, fabric=fabric),
        evaluate(Small(), make_tasks(), BATCHES),
    )
    assert set(seen) == {torch.bfloat16}
    assert scores["loss"]["total"] == pytest.approx(exact["loss"]["total"], rel=0.02)


def test_modes_and_gradients_are_left_as_they_were():
    model = Small()
    model.train()
    model.heads.eval()
    before = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    first = evaluate(model, make_tasks(), BATCHES)
    assert before == {name: module.training for name, module in model.named_modules()}
    assert torch.equal(random, torch.get_rng_state()) and torch.is_grad_enabled()
    assert first == evaluate(model.eval(), make_tasks(), BATCHES)


def test_modes_return_after_an_error():
    model = Small().train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert all(module.training for module in model.modules()) and torch.is_grad_enabled()


def test_a_batch_without_valid_pixels_is_not_a_loss_of_zero():
    model, tasks = Small(), make_tasks()
    alone = evaluate(model, tasks, BATCHES[:1])
    both = evaluate(model, tasks, [BATCHES[0], blind(BATCHES[1], "seg")])
    assert both["loss"]["seg"] == alone["loss"]["seg"]
    assert both["metrics"]["seg"] == alone["metrics"]["seg"]


def test_a_task_without_any_valid_pixel_is_nan_and_not_in_the_total():
    scores = evaluate(Small(), make_tasks(), [blind(batch, "depth") for batch in BATCHES])
    assert math.isnan(scores["loss"]["depth"])
    assert scores["loss"]["total"] == scores["loss"]["seg"]
    nothing = evaluate(Small(), make_tasks(), [blind(BATCHES[0], "seg", "depth")])
    assert math.isnan(nothing["loss"]["total"])


def test_a_diverged_network_is_nan_and_no_error():
    model = Small()
    torch.nn.init.constant_(model.heads["seg"].weight, math.nan)
    scores = evaluate(model, make_tasks(), BATCHES)
    assert math.isnan(scores["loss"]["total"]) and not math.isnan(scores["loss"]["depth"])


def test_an_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="there is nothing to evaluate: the loader has no batch"):
        evaluate(Small(), make_tasks(), [])


def test_progress_wraps_the_loader():
    seen = []

    def progress(loader):
        for batch in loader:
            seen.append(len(batch[0]))
            yield batch

    evaluate(Small(), make_tasks(), iter(BATCHES), progress=progress)
    assert seen == [2, 1, 3, 2, 1]


def test_with_fabric():
    fabric = Fabric(accelerator="cpu", devices=1)
    model = fabric.setup_module(Small())
    assert evaluate(model, make_tasks(), BATCHES, fabric=fabric) == evaluate(Small(), make_tasks(), BATCHES)


def evaluate_one_rank(rank, world, folder):
    torch.set_num_threads(1)  # as the process that it is compared with: threads change the order of sums
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    torch.save(evaluate(Small(), make_tasks(), BATCHES[:world][rank:1]), folder / f"few{rank}")
    torch.save(evaluate(Small(), make_tasks(), BATCHES[rank::world], constants=True), folder / f"all{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_give_the_scores_of_one(tmp_path):
    # 3 and 2 batches; then 1 and none
    multiprocessing.spawn(evaluate_one_rank, args=(2, tmp_path), nprocs=2)
    for name, batches in (("all", BATCHES), ("few", BATCHES[:1])):
        alone = evaluate(Small(), make_tasks(), batches)
        ranks = [torch.load(tmp_path / f"{name}{rank}", weights_only=True) for rank in range(2)]
        assert ranks[0] == ranks[1]
        assert figures(ranks[0]) == pytest.approx(figures(alone), rel=1e-12)
        for count in ("images", "task_images", "batches", "counts"):
            assert ranks[0][count] == alone[count]
        if name == "all":
            constant = evaluate(Small(), make_tasks(), batches, constants=True)["constant"]
            for task, protocols in constant.items():
                for protocol, values in protocols.items():
                    assert ranks[0]["constant"][task][protocol] == pytest.approx(values, rel=1e-12)


def test_figures_are_flat():
    flat = figures(evaluate(Small(), make_tasks(), BATCHES[:1]))
    assert list(flat)[:4] == ["loss/seg", "loss/depth", "loss/total", "paper/seg/mIoU"]
    assert "metric/depth/d1.25^3" in flat and len(flat) == 3 + 2 * (3 + 5)


def test_table():
    names = {"mIoU": 27.694, "pixel_acc": math.nan, "err": 0.49321}
    scores = {
        "loss": {"seg": 0.5, "total": 0.5},
        "metrics": {"seg": {"paper": names, "metric": names | {"mIoU": 5.0}}},
        "images": 2,
        "task_images": {"seg": 1},
        "batches": 1,
    }
    table = format_scores(scores, {"seg": make_tasks()["seg"]}, ["trained in the metric protocol"])
    assert table.splitlines() == [
        "task  measure        paper  metric  unit",
        "seg   mIoU       ↑   27.69    5.00  %",
        "      pixel_acc  ↑       -       -  %",
        "      err        ↓  0.4932  0.4932",
        "loss  seg        ↓     0.5",
        "      total      ↓     0.5",
        "images: 2 (with a target: seg 1), batches: 1",
        "trained in the metric protocol",
    ]


def test_a_constant_network_does_not_beat_the_best_constant():
    model, tasks = Small(), {"seg": make_tasks()["seg"]}
    torch.nn.init.zeros_(model.heads["seg"].weight)
    label = torch.tensor([0, 1, 1, 2]).view(1, 1, 2, 2)
    target = Target(label, torch.ones_like(label, dtype=torch.bool))
    model.heads["seg"].bias.data = torch.tensor([0.0, 5.0, 0.0])  # class 1 everywhere
    scores = evaluate(model, tasks, [(torch.zeros(1, 3, 4, 4), {"seg": target})], constants=True)
    assert scores["metrics"]["seg"]["paper"]["mIoU"] == scores["constant"]["seg"]["paper"]["mIoU"] == 50
    assert scores["counts"] == {"seg": {"classes_hit": 1, "classes": 3}}
    lines = format_scores(scores, tasks).splitlines()
    assert lines[0].split() == ["task", "measure", "paper", "constant", "metric", "constant", "unit"]
    assert lines[1].split() == ["seg", "mIoU", "↑", "50.00†", "50.00", "16.67†", "16.67", "%"]
    assert lines[-2] == "seg: classes_hit 1, classes 3"
    assert lines[-1].startswith("† no better than the best constant answer")


def test_constants_are_those_of_the_targets_in_one_pass():
    scores = evaluate(Small(), make_tasks(), iter(BATCHES), constants=True)
    assert list(scores["constant"]) == ["seg", "depth"]
    for name, task in make_tasks().items():
        metric = task.constant()
        for _, targets in BATCHES:
            metric.update(targets[name])
        assert scores["constant"][name] == metric.compute()
    assert "constant" not in evaluate(Small(), make_tasks(), BATCHES)


def test_images_are_counted_for_each_task():
    image, targets = make_batch(4, 0)
    first = torch.tensor([True, False, True, False]).reshape(4, 1, 1, 1)
    half = image, targets | {"seg": Target(targets["seg"].value, targets["seg"].valid & first)}
    scores = evaluate(Small(), make_tasks(), [half, blind(BATCHES[2], "depth")])
    assert (scores["images"], scores["task_images"]) == (7, {"seg": 5, "depth": 4})


def test_batches_of_other_sizes_can_follow_each_other():
    batches = [make_batch(1, 0, size=(8, 12)), make_batch(1, 1, size=(10, 6))]
    assert evaluate(Small(), make_tasks(), batches)["images"] == 2


def test_sums_of_images_give_the_scores_of_batches_of_one():
    model, tasks = Small(), make_tasks()
    singles = [make_batch(1, seed) for seed in range(5)]
    together = [
        (
            torch.cat([image for image, _ in pair]),
            {n: Target(*map(torch.cat, zip(*(t[n] for _, t in pair), strict=True))) for n in tasks},
        )
        for pair in (singles[:3], singles[3:])
    ]
    scores, sums = evaluate(model, tasks, singles)["metrics"], image_sums(model, tasks, together)
    everything = torch.ones(1, 5, dtype=torch.int64)
    for name, task in tasks.items():
        assert len(sums[name]) == 5
        for protocol, values in scores[name].items():
            found = {n: float(row[0]) for n, row in measures(task, sums[name], everything, protocol).items()}
            assert found == pytest.approx(values, rel=1e-5)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        image_sums(model, tasks, [])
