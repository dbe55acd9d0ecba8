"""Small instances of many families of models, with random weights, a loss and a batch of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, IMAGES, WORDS, LENGTH = 4, 4, 32, 8

Batch = Any
Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Family:
    """One family: how to build a small model of it, its batches and its loss.

    Args:
        library: The distribution it is from.
        name: The model's name there.
        make: Builds it, in the present default dtype.
        batch: Draws a batch.
        loss: The training loss.
    """

    library: str
    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: Loss


def families() -> Iterator[Family]:
    """All of them; those of a library that is not installed raise an ImportError when made."""
    for name, (side, options) in TORCHVISION.items():
        make = partial(_torchvision, name, options)
        yield Family("torchvision", name, make, partial(_images, side), classified)
    for name, (side, options) in TIMM.items():
        make = partial(_timm, name, options)
        yield Family("timm", name, make, partial(_images, side), classified)
    for name, (batch, options) in TRANSFORMERS.items():
        yield Family("transformers", name, partial(_transformers, name, options), batch, own_loss)


def classified(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of the classes; the main output's, where a model has several."""
    outputs = model(batch[0])
    outputs = getattr(outputs, "logits", outputs)  # GoogLeNet, Inception
    return F.cross_entropy(outputs, batch[1])


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What models of transformers make of labels."""
    loss: Tensor = model(**batch).loss
    return loss


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    model: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return model


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return model


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    transformers = importlib.import_module("transformers")
    head = name.removesuffix("Model")
    kind = getattr(transformers, head)
    config = kind.config_class(**{**options, "use_cache": False})
    model: nn.Module = kind(config)
    return model


def _images(side: int) -> tuple[Tensor, Tensor]:
    return torch.randn(IMAGES, 3, side, side), torch.randint(CLASSES, (IMAGES,))


def _pixels(side: int = 32) -> dict[str, Tensor]:
    x, y = _images(side)
    return {"pixel_values": x, "labels": y}


def _words() -> dict[str, Tensor]:
    words = torch.randint(4, WORDS, (3, LENGTH))
    return {"input_ids": words, "labels": words.clone()}


def _labelled_words() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(4, WORDS, (3, LENGTH)), "labels": torch.tensor([0, 1, 1])}


def _sound() -> dict[str, Tensor]:
    words = torch.randint(4, WORDS, (2, LENGTH))
    return {"input_features": torch.randn(2, 8, 16), "labels": words}


def _waves() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 1600), "labels": torch.tensor([0, 1])}


TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "convnext_tiny": (32, {"block_setting": None}),
    "densenet121": (32, {}),
    "efficientnet_b0": (32, {}),
    "efficientnet_v2_s": (32, {}),
    "googlenet": (32, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (80, {"aux_logits": False, "init_weights": False}),
    "maxvit_t": (64, {"input_size": (64, 64)}),
    "mnasnet0_5": (32, {}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "regnet_x_400mf": (32, {}),
    "regnet_y_400mf": (32, {}),
    "resnet18": (32, {}),
    "resnext50_32x4d": (32, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "squeezenet1_1": (32, {}),
    "swin_t": (32, {}),
    "swin_v2_t": (32, {}),
    "vgg11_bn": (32, {}),
    "vit_b_32": (64, {"image_size": 64}),
}
TORCHVISION["convnext_tiny"] = (32, {})

TIMM: dict[str, tuple[int, dict[str, Any]]] = {}
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "num_labels": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TRANSFORMERS: dict[str, tuple[Callable[[], dict[str, Tensor]], dict[str, Any]]] = {}
