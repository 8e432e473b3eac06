"""Tiny vision models with random weights, saved by `transformers` itself; the pictures they are asked about."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.features.pretrained import import_transformers
from tests.features.toy import picture

WIDTH, BLOCKS, SIDE, PATCH = 32, 2, 32, 8
VIT: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 99,
}  # fmt: skip
PREPROCESSING: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
    "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
}  # fmt: skip
PICTURES = [picture(seed, size) for seed, size in ((1, (40, 60)), (2, (50, 30)), (3, (32, 32)))]


def configs() -> dict[str, Any]:
    """Kind -> (model class, configuration), each as its checkpoints on the hub are made."""
    t = import_transformers()
    conv = t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    swin = t.SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    dino = {key: value for key, value in VIT.items() if key != "intermediate_size"}
    return {
        "vit": (t.ViTForImageClassification, t.ViTConfig(**VIT)),
        "clip": (t.CLIPModel, t.CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=16)),
        "siglip": (t.SiglipModel, t.SiglipConfig(text_config=TEXT, vision_config=VIT)),
        "dinov2": (t.Dinov2WithRegistersModel, t.Dinov2WithRegistersConfig(**dino)),
        "swin": (t.SwinModel, swin),
        "convnext": (t.ConvNextForImageClassification, conv),
        "mae": (t.ViTMAEModel, t.ViTMAEConfig(**{**VIT, "patch_size": 4})),
        "bert": (t.BertModel, t.BertConfig(**TEXT)),
    }


def save(kind: str, folder: Path, **preprocessing: Any) -> Path:
    """A model of this kind with random weights and its preprocessing -> its folder."""
    import torch

    build, config = configs()[kind]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build(config)
        # Fresh biases, norms and positions are zeros and ones, under which mistakes do not show.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSING, **preprocessing}))
    return folder


def change_weights(folder: Path, change: Any) -> None:
    """Let `change` edit the named tensors of a saved model in place."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def by_hand(image: Any) -> np.ndarray:
    """PREPROCESSING, worked out without transformers -> float32 [3, SIDE, SIDE]."""
    from PIL import Image

    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return ((small / 255 - 0.5) / 0.5).transpose(2, 0, 1)
