"""Public networks through the library: what a ratio covers, and whether everything holds.

Every network is built from its package without a download, small where its configuration allows, given two
losses, made 80 % sparse by `sparsify`, trained one step with the mask attached, its mask moved once, saved
and loaded. Zeros are counted over all parameters, not only over those that the mask covers.

usage: python3 -m benchmarks.networks [--only PATTERN] [--out docs/networks.md]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import prune_utils as pu

RATIO = 80
WORDS = {"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Case:
    """A network with a batch; call(network, batch) -> anything that holds tensors."""

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Any]
    call: Callable[[nn.Module, Any], Any]


def images(size: int, number: int = 2) -> Callable[[], Any]:
    return lambda: (torch.randn(number, 3, size, size), None)


def torchvision_cases() -> Iterator[Case]:
    from torchvision import models

    def plain(model: nn.Module, batch: Any) -> Any:
        return model(batch[0])

    small = "resnet18 resnet50 resnext50_32x4d mobilenet_v2 mobilenet_v3_small efficientnet_b0 squeezenet1_1"
    others = "shufflenet_v2_x0_5 densenet121 googlenet mnasnet0_5 regnet_y_400mf convnext_tiny swin_t alexnet"
    names = {64: f"{small} {others}", 96: "inception_v3"}
    for size, row in names.items():
        for name in row.split():
            more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
            make = partial(models.get_model, name, weights=None, num_classes=10, **more)
            yield Case(f"torchvision {name}", make, images(size), plain)
    vit = {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 32,
        "mlp_dim": 64,
    }
    yield Case("torchvision VisionTransformer", lambda: models.VisionTransformer(**vit), images(32), plain)
    for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"):
        make = partial(models.get_model, name, weights=None, weights_backbone=None, num_classes=5)
        yield Case(f"torchvision {name}", make, images(64), plain)
    box = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    box |= {"masks": torch.ones(1, 96, 96, dtype=torch.uint8)}
    detectors = "ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn fcos_resnet50_fpn"
    for name in f"{detectors} retinanet_resnet50_fpn maskrcnn_resnet50_fpn".split():
        sizes = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 96}
        make = partial(models.get_model, name, weights=None, weights_backbone=None, num_classes=3, **sizes)
        yield Case(
            f"torchvision {name}",
            make,
            lambda: ([torch.rand(3, 96, 96) for _ in range(2)], [box, box]),
            lambda model, batch: model(batch[0], copy.deepcopy(batch[1])),
        )


def transformers_cases() -> Iterator[Case]:
    import transformers as hf

    def text() -> Any:
        return {"input_ids": torch.randint(3, 120, (2, 12))}

    def call(model: nn.Module, batch: Any) -> Any:
        return model(**batch)

    def make(family: str, head: str, sizes: dict[str, Any], words: dict[str, int] = WORDS) -> nn.Module:
        return getattr(hf, f"{family}{head}")(getattr(hf, f"{family}Config")(**(words | sizes)))

    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    heads = {"num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    rows = {
        "Bert": ("SequenceClassification", TEXT),
        "Roberta": ("SequenceClassification", TEXT),
        "Electra": ("SequenceClassification", TEXT | {"embedding_size": 32}),
        "Albert": ("SequenceClassification", TEXT | {"embedding_size": 16}),
        "DistilBert": ("SequenceClassification", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
        "MPNet": ("SequenceClassification", TEXT),
        "DebertaV2": ("SequenceClassification", TEXT),
        "GPT2": ("LMHeadModel", gpt),
        "GPTNeoX": ("ForCausalLM", TEXT),
        "OPT": ("ForCausalLM", TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        "Bloom": ("ForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
        "Llama": ("ForCausalLM", TEXT | heads),
        "Mistral": ("ForCausalLM", TEXT | heads),
        "Qwen2": ("ForCausalLM", TEXT | heads),
        "Gemma": ("ForCausalLM", TEXT | heads),
        "Phi": ("ForCausalLM", TEXT),
        "Mixtral": ("ForCausalLM", TEXT | heads | experts),
        "Mamba": ("ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    }
    for family, (head, sizes) in rows.items():
        head = head if head.startswith(("For", "LM")) else f"For{head}"
        if hasattr(hf, f"{family}{head}"):
            yield Case(f"transformers {family}{head}", partial(make, family, head, sizes), text, call)

    def pair() -> Any:
        ids = torch.randint(3, 120, (2, 8))
        return {"input_ids": ids, "decoder_input_ids": ids.flip(1)}

    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    bart = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    bart |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    for family, sizes in {"T5": t5, "Bart": bart, "Pegasus": bart}.items():
        head = "ForConditionalGeneration"
        yield Case(f"transformers {family}{head}", partial(make, family, head, sizes), pair, call)
    small = {key: value for key, value in TEXT.items() if key != "max_position_embeddings"}
    vision = small | {"image_size": 32, "patch_size": 8}
    for family in ("ViT", "DeiT", "Dinov2"):
        head = "ForImageClassification"
        yield Case(
            f"transformers {family}{head}",
            partial(make, family, head, vision, {}),
            lambda: {"pixel_values": torch.randn(2, 3, 32, 32)},
            call,
        )


def timm_cases() -> Iterator[Case]:
    import timm

    for name in (
        "resnet10t",
        "vit_tiny_patch16_224",
        "mixer_s32_224",
        "convnext_atto",
        "ghostnet_050",
        "pit_ti_224",
    ):
        size = {"img_size": 64} if name.startswith(("vit", "mixer")) else {}
        make = partial(timm.create_model, name, num_classes=10, **size)
        yield Case(
            f"timm {name}", make, images(64 if size or "224" not in name else 224), lambda m, b: m(b[0])
        )


def smp_cases() -> Iterator[Case]:
    import segmentation_models_pytorch as smp

    for name in ("Unet", "FPN", "DeepLabV3Plus", "PSPNet", "MAnet"):
        make = partial(getattr(smp, name), "resnet18", encoder_weights=None, classes=4)
        yield Case(f"segmentation_models_pytorch {name}", make, images(64), lambda m, b: m(b[0]))


PACKAGES = {
    "torchvision": torchvision_cases,
    "transformers": transformers_cases,
    "timm": timm_cases,
    "segmentation_models_pytorch": smp_cases,
}


def cases() -> Iterator[Case]:
    """Of every package that is installed."""
    for package, found in PACKAGES.items():
        if importlib.util.find_spec(package):
            yield from found()


def _tensors(out: Any) -> list[Tensor]:
    if hasattr(out, "to_tuple"):
        out = out.to_tuple()
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]


# two tasks that look at the same outputs in different ways
LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "size": lambda out, _: torch.stack([((t - 0.5) ** 2).mean() for t in _tensors(out)]).sum(),
    "spread": lambda out, _: torch.stack([(t + 0.3 * t.sin()).abs().mean() for t in _tensors(out)]).sum(),
}


@dataclass(frozen=True)
class Row:
    """What happened to one network; `failed`: the sentence of the first thing that went wrong."""

    name: str
    parameters: int = 0
    covered: int = 0
    zeros: int = 0
    failed: str = ""


def try_case(case: Case) -> Row:
    """The whole way of one network. Never raises: a failure is a row."""
    torch.manual_seed(0)
    try:
        return _try(case)
    except Exception as error:  # whatever it is, the table shall say it
        return Row(case.name, failed=f"{type(error).__name__}: {error}".split("\n")[0][:160])


def _try(case: Case) -> Row:
    model, batch = case.make(), case.batch()
    for weight in model.parameters():
        if (
            weight.dim() > 1 and not weight.any()
        ):  # a head that starts at 0: no gradient passes it before training
            nn.init.normal_(weight, std=0.02)
    fresh = copy.deepcopy(model)
    sparsity = pu.sparsify(model, LOSSES, [batch], RATIO, forward=case.call)
    before = sum(int((p == 0).sum()) for p in fresh.parameters())
    _step(sparsity, model, case, batch)
    asked = pu.keep_count(pu.size(sparsity.mask), RATIO)
    assert sparsity.verify()["kept"] == asked
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert zeros >= pu.size(sparsity.mask) - asked, f"{zeros} zeros, {before} before"
    sparsity.detach()
    voters = pu.task_voters(LOSSES, sparsity.owners)
    growth = pu.Growth(voters, forward=case.call)
    moving = pu.Regrowth(
        model, sparsity.mask, None, pu.Schedule(9, 1), growth, batches=[batch], owners=sparsity.owners
    )
    _step(moving, model, case, batch)
    assert moving.updates == 1 and moving.figures["dropped"] > 0
    assert moving.verify()["kept"] == asked
    with tempfile.TemporaryDirectory() as folder:
        path = pu.save_sparse(Path(folder) / "net.safetensors", model, moving.mask, moving.certificate)
        pu.load_sparse(path, fresh)
    states = zip(model.state_dict().values(), fresh.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states), "the loaded network differs"
    parameters = sum(p.numel() for p in model.parameters())
    return Row(case.name, parameters, pu.size(sparsity.mask), zeros)


def _step(sparsity: pu.Masked, model: nn.Module, case: Case, batch: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    sparsity.attach(optimizer)
    model.train()
    out = case.call(model, batch)
    sum((loss(out, batch) for loss in LOSSES.values()), torch.zeros(())).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    sparsity.detach()


def table(rows: list[Row]) -> str:
    lines = [
        "| network | parameters | covered by the ratio | zeros of all parameters | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        share = f"{row.covered / row.parameters:.1%}" if row.parameters else ""
        zeros = f"{row.zeros:,} ({row.zeros / row.parameters:.1%})" if row.parameters else ""
        lines.append(f"| {row.name} | {row.parameters:,} | {share} | {zeros} | {row.failed or 'holds'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="*", help="shell pattern of names")
    parser.add_argument("--out", type=Path, help="file that the table is written to")
    given = parser.parse_args()
    rows = []
    for case in cases():
        if fnmatchcase(case.name, given.only):
            rows.append(try_case(case))
            print(rows[-1], flush=True)
    text = table(rows)
    print(text)
    if given.out:
        given.out.write_text(f"{HEAD}\n{text}\n", encoding="utf-8")


HEAD = f"""# Public networks

Made by `python3 -m benchmarks.networks --out docs/networks.md` with the packages that were installed; random
weights, {RATIO} % sparse by `sparsify` with two losses. A row holds if the count is exact after one training
step with the mask attached and after one move of the mask, and if the saved file loads to the same network,
bit for bit.
"""


if __name__ == "__main__":
    main()
