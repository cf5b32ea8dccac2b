"""Public networks, each as its package ships it, with a batch: what benchmarks/networks.py tries.

Built without a download, small where the network's configuration allows. Weights are random but for the
MTCNN, whose trained ones lie in its package.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

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
    names = {64: f"{small} {others}", 299: "inception_v3"}
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

    # functions and norms of their own: reversible layers, a convolution under weight_norm
    axial = {"axial_pos_shape": [4, 4], "axial_pos_embds_dim": [16, 16], "max_position_embeddings": 16}
    local = {"attn_layers": ["local", "local"], "local_attn_chunk_length": 8, "is_decoder": True}
    reformer = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16} | axial | local
    yield Case(
        "transformers ReformerModelWithLMHead",
        partial(make, "Reformer", "ModelWithLMHead", reformer | {"feed_forward_size": 64}),
        lambda: {"input_ids": torch.randint(3, 120, (2, 16))},
        call,
    )
    sound = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    yield Case(
        "transformers Wav2Vec2ForCTC",
        partial(make, "Wav2Vec2", "ForCTC", TEXT | sound | {"mask_time_prob": 0.0}),
        lambda: {"input_values": torch.randn(2, 2000)},
        call,
    )

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

    sizes = {
        64: "resnet10t convnext_atto ghostnet_050 test_resnet test_nfnet test_mambaout",
        128: "mobilevitv2_050 repvit_m0_9 efficientvit_b0 regnetx_002 hrnet_w18_small",
        160: "test_vit test_vit4 test_byobnet",
        224: "pit_ti_224 vit_tiny_patch16_224 mixer_s32_224 deit_tiny_patch16_224 levit_128s",
    }
    for size, names in sizes.items():
        for name in names.split():
            make = partial(timm.create_model, name, num_classes=10)
            yield Case(f"timm {name}", make, images(size), lambda model, batch: model(batch[0]))


def smp_cases() -> Iterator[Case]:
    import segmentation_models_pytorch as smp

    for name in (
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "DeepLabV3Plus",
        "PSPNet",
        "MAnet",
        "Linknet",
        "UPerNet",
    ):
        make = partial(getattr(smp, name), "resnet18", encoder_weights=None, classes=4)
        yield Case(
            f"segmentation_models_pytorch {name}", make, images(64), lambda model, batch: model(batch[0])
        )
    make = partial(smp.PAN, "resnet18", encoder_weights=None, classes=4)
    yield Case("segmentation_models_pytorch PAN", make, images(128), lambda model, batch: model(batch[0]))
    make = partial(smp.Segformer, "mit_b0", encoder_weights=None, classes=4)
    yield Case(
        "segmentation_models_pytorch Segformer", make, images(64), lambda model, batch: model(batch[0])
    )


def libmtl_cases() -> Iterator[Case]:
    """The package's own architectures over its own ResNet-18, two image tasks."""
    # LibMTL 1.1.5 takes this function from a module that torchvision has given up
    utils: Any = ModuleType("torchvision.models.utils")
    utils.load_state_dict_from_url = torch.hub.load_state_dict_from_url
    sys.modules.setdefault("torchvision.models.utils", utils)
    architecture, resnet = import_module("LibMTL.architecture"), import_module("LibMTL.model")
    tasks, size = ["kind", "size"], 32
    options: dict[str, dict[str, Any]] = {
        "HPS": {},
        "Cross_stitch": {},
        "MTAN": {},
        "MMoE": {"img_size": [3, size, size], "num_experts": [2]},
        "CGC": {"img_size": [3, size, size], "num_experts": [1, 1, 1]},
        "PLE": {"img_size": [3, size, size], "num_experts": [1, 1, 1]},
        "DSelect_k": {"img_size": [3, size, size], "num_experts": [2], "num_nonzeros": 2, "kgamma": 1.0},
    }

    def make(name: str, more: dict[str, Any]) -> nn.Module:
        heads = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5)) for _ in tasks]
        decoders = nn.ModuleDict(dict(zip(tasks, heads, strict=True)))

        def encoder() -> nn.Module:
            return resnet.resnet_dilated("resnet18", pretrained=False)

        kind = getattr(architecture, name)
        return kind(tasks, encoder, decoders, False, False, torch.device("cpu"), **more)

    for name, more in options.items():
        yield Case(
            f"LibMTL {name}", partial(make, name, more), images(size), lambda model, batch: model(batch[0])
        )


def facenet_cases() -> Iterator[Case]:
    import facenet_pytorch

    sizes = {"pnet": 40, "rnet": 24, "onet": 48}
    yield Case(
        "facenet_pytorch MTCNN (trained)",
        facenet_pytorch.MTCNN,
        lambda: {name: torch.rand(4, 3, size, size) * 2 - 1 for name, size in sizes.items()},
        lambda model, batch: {name: getattr(model, name)(batch[name]) for name in sizes},
    )
    yield Case(
        "facenet_pytorch InceptionResnetV1",
        lambda: facenet_pytorch.InceptionResnetV1(classify=True, num_classes=10),
        images(96),
        lambda model, batch: model(batch[0]),
    )


PACKAGES = {
    "torchvision": torchvision_cases,
    "timm": timm_cases,
    "segmentation_models_pytorch": smp_cases,
    "transformers": transformers_cases,
    "LibMTL": libmtl_cases,
    "facenet_pytorch": facenet_cases,
}


def cases() -> Iterator[Case]:
    """Of every package that is installed."""
    for package, found in PACKAGES.items():
        if importlib.util.find_spec(package):
            yield from found()
