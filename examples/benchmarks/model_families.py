"""Small models of many families, with random weights, a loss and a batch each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

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
        library: The distribution that contains it.
        name: The model's name there.
        make: Builds it, in the current default dtype.
        batch: Draws a batch.
        loss: The training loss.
        lr: A learning rate at which training is stable.
    """

    library: str
    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: Loss
    lr: float


def families() -> Iterator[Family]:
    """All of them; those of a library that is not installed raise an ImportError when made."""
    for name, (side, of_models) in TORCHVISION.items():
        make = partial(_torchvision, of_models)
        lr = LRS.get(name, 1e-4)
        yield Family("torchvision", name, make, partial(_images, side), classified, lr)
    for name, (side, options) in TIMM.items():
        make = partial(_timm, name, options)
        lr = LRS.get(name, 1e-4)
        yield Family("timm", name, make, partial(_images, side), classified, lr)
    for name, (batch, options) in TRANSFORMERS.items():
        loss = next_word if "LM" in name else own_loss
        lr = LRS.get(name, 0.1)
        yield Family("transformers", name, partial(_transformers, name, options), batch, loss, lr)


def classified(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of the classes; the main output's, where a model has several."""
    outputs = model(batch[0])
    outputs = getattr(outputs, "logits", outputs)  # GoogLeNet, Inception
    return F.cross_entropy(outputs, batch[1])


def next_word(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the next words; that of transformers is in single precision."""
    words = batch["input_ids"]
    logits = model(input_ids=words).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that models of transformers compute from labels."""
    loss: Tensor = model(**batch).loss
    return loss


def _torchvision(make: Callable[[Any], nn.Module]) -> nn.Module:
    return make(importlib.import_module("torchvision.models"))


def _named(name: str, **options: Any) -> Callable[[Any], nn.Module]:
    """By its name in torchvision, with random weights."""
    return lambda models: models.get_model(name, num_classes=CLASSES, weights=None, **options)


def _narrow(model: Any) -> nn.Module:
    """Its features, followed by narrow layers."""
    last = [m for m in model.features if isinstance(m, nn.Conv2d)][-1].out_channels
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(last, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
    )
    return cast(nn.Module, model)


def _blocks(models: Any) -> list[Any]:
    kind = models.convnext.CNBlockConfig
    return [kind(16, 32, 1), kind(32, None, 1)]


def _swin_v2(module: Any) -> nn.Module:
    blocks = {
        "block": module.SwinTransformerBlockV2,
        "downsample_layer": module.PatchMergingV2,
    }
    return cast(nn.Module, module.SwinTransformer(**_SWIN, **blocks))


_SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": [4, 4],
    "num_classes": CLASSES,
}


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return model


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    kind = getattr(importlib.import_module("transformers"), name)
    model: nn.Module = kind(kind.config_class(**options))
    return model


def _images(side: int) -> tuple[Tensor, Tensor]:
    return torch.randn(IMAGES, 3, side, side), torch.randint(CLASSES, (IMAGES,))


def _pixels() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}


def _words() -> dict[str, Tensor]:
    words = torch.randint(4, WORDS, (3, LENGTH))
    return {"input_ids": words, "labels": words.clone()}


def _labelled_words() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(4, WORDS, (3, LENGTH)), "labels": torch.tensor([0, 1, 1])}


def _sounds() -> dict[str, Tensor]:
    words = torch.randint(4, WORDS, (2, LENGTH))
    return {"input_features": torch.randn(2, 8, 16), "labels": words}


def _waves() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 1600), "labels": torch.tensor([0, 1])}


def _pictures_and_words() -> dict[str, Any]:
    words = torch.randint(4, WORDS, (2, LENGTH))
    words[:, -1] = 2  # the end of the text, which CLIP looks for
    return {"input_ids": words, "pixel_values": torch.randn(2, 3, 32, 32), "return_loss": True}


# Learning rates: small where batch norm of few numbers makes the loss too curved, large where the
# model computes in single precision, so that differences exceed its rounding.
LRS = {"MNASNet": 1e-6, "mobilenetv4_conv_small_050": 1e-6, "MambaForCausalLM": 0.5}
# The side of the images, and what the model is built with.
TORCHVISION: dict[str, tuple[int, Callable[[Any], nn.Module]]] = {
    "AlexNet": (64, lambda models: _narrow(models.alexnet(num_classes=CLASSES))),
    "ConvNeXt": (32, lambda models: models.ConvNeXt(_blocks(models), num_classes=CLASSES)),
    "DenseNet": (32, lambda models: models.DenseNet(8, (2, 2), 16, num_classes=CLASSES)),
    "EfficientNet": (64, _named("efficientnet_b0")),
    "GoogLeNet": (64, _named("googlenet", aux_logits=False, init_weights=False)),
    "MaxVit": (
        64,
        lambda models: models.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.1, num_classes=CLASSES),
    ),
    "MNASNet": (64, _named("mnasnet0_5")),
    "MobileNetV2": (64, _named("mobilenet_v2", width_mult=0.5)),
    "MobileNetV3": (64, _named("mobilenet_v3_small")),
    "RegNet": (64, _named("regnet_y_400mf")),
    "ResNet": (32, _named("resnet18")),
    "ShuffleNetV2": (64, _named("shufflenet_v2_x0_5")),
    "SqueezeNet": (32, _named("squeezenet1_1")),
    "SwinTransformer": (32, lambda models: models.SwinTransformer(**_SWIN)),
    "SwinTransformerV2": (32, lambda models: _swin_v2(models.swin_transformer)),
    "VGG": (32, lambda models: _narrow(models.vgg11_bn(num_classes=CLASSES))),
    "VisionTransformer": (
        32,
        lambda models: models.VisionTransformer(32, 8, 2, 2, 16, 24, 0.1, num_classes=CLASSES),
    ),
}
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "test_byobnet": (64, {}),
    "test_convnext": (64, {}),
    "test_efficientnet": (64, {}),
    "test_mambaout": (64, {}),
    "test_maxvit": (64, {"img_size": 64}),
    "test_nfnet": (64, {}),
    "test_resnet": (64, {}),
    "test_vit": (64, {"img_size": 64}),
    "test_vit_relpos": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "convit_tiny": (64, {"img_size": 64}),
    "edgenext_xx_small": (64, {}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "fastvit_t8": (64, {}),
    "ghostnet_050": (64, {}),
    "inception_next_atto": (64, {}),
    "lcnet_035": (64, {}),
    "levit_128s": (224, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_050": (64, {}),
    "mobilevit_xxs": (64, {}),
    "pvt_v2_b0": (64, {}),
    "repghostnet_050": (64, {}),
    "repvit_m0_9": (64, {}),
    "starnet_s050": (64, {}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64}),
}

_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_TEXT = {**_SIZES, **_ENDS, "vocab_size": WORDS, "max_position_embeddings": 16}
_GPT = {**_ENDS, "vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
_CAUSAL = {**_TEXT, "num_key_value_heads": 1, "head_dim": 8}
_SEQ2SEQ = {
    **_ENDS,
    "vocab_size": WORDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 1,
}
_VISION = {**_SIZES, "image_size": 32, "patch_size": 8}
_CONVOLUTIONS = {"conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8]}

TRANSFORMERS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "AlbertForSequenceClassification": (_labelled_words, {**_TEXT, "embedding_size": 8}),
    "BartForConditionalGeneration": (_words, {**_SEQ2SEQ, "max_position_embeddings": 16}),
    "BertForSequenceClassification": (_labelled_words, _TEXT),
    "BloomForCausalLM": (
        _words,
        {**_ENDS, "vocab_size": WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
    "CLIPModel": (
        _pictures_and_words,
        {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 8},
    ),
    "ConvNextForImageClassification": (
        _pixels,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
    "DebertaV2ForSequenceClassification": (
        _labelled_words,
        {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "DistilBertForSequenceClassification": (
        _labelled_words,
        {**_ENDS, "vocab_size": WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "ElectraForSequenceClassification": (_labelled_words, {**_TEXT, "embedding_size": 8}),
    "FalconForCausalLM": (_words, {**_ENDS, **_SIZES, "vocab_size": WORDS}),
    "GemmaForCausalLM": (_words, _CAUSAL),
    "GPT2LMHeadModel": (_words, _GPT),
    "GPTNeoXForCausalLM": (_words, _TEXT),
    "LlamaForCausalLM": (_words, _CAUSAL),
    "MambaForCausalLM": (
        _words,
        {**_ENDS, "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    ),
    "MistralForCausalLM": (_words, _CAUSAL),
    "MixtralForCausalLM": (
        _words,
        {
            **_CAUSAL,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "experts_implementation": "eager",
        },
    ),
    "OPTForCausalLM": (
        _words,
        {**_TEXT, "ffn_dim": 24, "word_embed_proj_dim": 16},
    ),
    "PhiForCausalLM": (_words, _TEXT),
    "Qwen2ForCausalLM": (_words, {**_TEXT, "num_key_value_heads": 1}),
    "ResNetForImageClassification": (
        _pixels,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "RobertaForSequenceClassification": (_labelled_words, _TEXT),
    "SwinForImageClassification": (
        _pixels,
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "T5ForConditionalGeneration": (
        _words,
        {
            **_ENDS,
            "vocab_size": WORDS,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
    "ViTForImageClassification": (_pixels, _VISION),
    "Wav2Vec2ForSequenceClassification": (
        _waves,
        {
            **_SIZES,
            **_CONVOLUTIONS,
            "vocab_size": WORDS,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 8,
            "mask_time_prob": 0.0,
        },
    ),
    "WhisperForConditionalGeneration": (
        _sounds,
        {
            **_SEQ2SEQ,
            "num_mel_bins": 8,
            "max_source_positions": 8,
            "max_target_positions": 16,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
}
