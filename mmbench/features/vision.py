"""Any vision model of `transformers`, by hub name or folder: a vector per picture, or the [CLS] state of each layer.

Pooling, unless `:cls` or `:mean` chooses it: the final [CLS] if the network has such a token, else the mean of the
last feature map over space.

    cls     the network's final state at [CLS]: after the last LayerNorm, before any projection or classifier
            (CLIP normalises this token only, and so does mmbench)
    mean    the patches' mean of `last_hidden_state`, without [CLS] and other tokens that are not patches
    layers  [CLS] as it enters the first block (in CLIP: after the LayerNorm that follows the embeddings), then as
            it leaves each block, none of them normalised: [n_layers + 1, D]

The networks that HM4SR uses get HM4SR's preprocessing (its code, too, feeds a CLIP network with mean and deviation
0.5); every other network gets that of its preprocessor_config.json, computed by Pillow and numpy.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.errors import DataError, UsageError
from mmbench.features.picture_network import Forward, PictureNetwork
from mmbench.features.pixels import STRIPS, Pixels, middle
from mmbench.features.pretrained import (
    Checkpoint,
    find_blocks,
    find_checkpoint,
    first_token_states,
    import_transformers,
    load_whole,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

HM4SR = Pixels(shape="crop", resize=256, crop=224)
PREPROCESSING = {"google/vit-base-patch16-224": HM4SR, "openai/clip-vit-base-patch16": HM4SR}

# Heads that nothing here reads, and for a model of texts and pictures also the text tower.
UNUSED_MISSING = ("pooler.*",)
UNUSED_UNEXPECTED = (
    "classifier.*", "cls_classifier.*", "distillation_classifier.*", "pooler.*", "*position_ids",
    "text_model.*", "text_projection*", "visual_projection*", "logit_scale", "logit_bias",
)  # fmt: skip
CLS_WEIGHTS = ("cls_token", "class_embedding")  # endings of the names of weights that form a [CLS] token


class TransformersVision(PictureNetwork):
    """source: a folder or a hub name; pooling: "cls", "mean" or None (see above); layers: return all [CLS] states."""

    def __init__(
        self,
        name: str,
        *,
        source: str,
        pooling: str | None = None,
        layers: bool = False,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__(name, device=device, precision=precision)
        self.source, self._pooling, self.layers = source, pooling, layers

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return find_checkpoint(self.source)

    @cached_property
    def config(self) -> Any:
        """The network's configuration; for a model of texts and pictures, that of the picture tower."""
        transformers = import_transformers()
        try:
            whole = transformers.AutoConfig.from_pretrained(self.checkpoint.folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.checkpoint.folder}: config.json cannot be used ({_brief(error)})"
            ) from error
        return getattr(whole, "vision_config", whole)

    @cached_property
    def skeleton(self) -> "nn.Module":
        """The network without weights, which tells its structure before anything large is read."""
        import torch

        transformers = import_transformers()
        try:
            with torch.device("meta"):
                network: nn.Module = transformers.AutoModel.from_config(self.config)
        except (ValueError, ImportError) as error:
            raise DataError(
                f"{self.checkpoint.folder} does not describe a network that can be built ({_brief(error)})"
            ) from error
        if getattr(network, "main_input_name", "") != "pixel_values":
            raise UsageError(f"{self.source} is not a network for pictures ({type(network).__name__})")
        return network

    @cached_property
    def pooling(self) -> str:
        """ "cls" or "mean"; UsageError when [CLS] is requested and the network has none."""
        has_cls = any(name.endswith(CLS_WEIGHTS) for name, _ in self.skeleton.named_parameters())
        if not has_cls and (self.layers or self._pooling == "cls"):
            ending = "+layers" if self.layers else ":cls"
            raise UsageError(
                f"{self.source} has no [CLS] token ({type(self.skeleton).__name__}); leave out {ending}"
            )
        if self.layers:
            find_blocks(self.skeleton, self.config.num_hidden_layers)
        return self._pooling or ("cls" if has_cls else "mean")

    @cached_property
    def processor(self) -> "Pixels | ConfiguredPreprocessing":
        return PREPROCESSING.get(self.source) or ConfiguredPreprocessing(self.checkpoint)

    def describe(self) -> dict[str, Any]:
        files, pooling = self.checkpoint.weight_files(), self.pooling
        return {
            "source": self.source if self.checkpoint.revision else self.checkpoint.folder.name,
            "revision": self.checkpoint.revision,
            "network": type(self.skeleton).__name__,
            "weights_sha256": self.checkpoint.hashes(files),
            "preprocessing": self.processor.describe(),
            "pooling": "[CLS] before the first and after each block" if self.layers else pooling,
        }

    def pixels(self, image: "Image") -> np.ndarray:
        return self.processor(image)

    def build(self) -> tuple["nn.Module", Forward]:
        pooling = self.pooling  # comes first, because it may refuse
        network = load_whole(
            import_transformers().AutoModel.from_pretrained,
            self.checkpoint,
            missing=UNUSED_MISSING,
            unexpected=UNUSED_UNEXPECTED,
            config=self.config,
        )
        forward = self._layers_of(network) if self.layers else self._pooled(network, pooling)
        network.eval()
        _check_steady(self.source, forward, self.pixels(_probe((97, 61))))
        return network, forward

    def _layers_of(self, network: "nn.Module") -> Forward:
        import torch

        blocks = find_blocks(network, self.config.num_hidden_layers)

        def forward(pixels: "Tensor") -> "Tensor":  # [B, n_layers + 1, D]
            with first_token_states(blocks) as states:
                network(pixel_values=pixels)
            return torch.stack(states, dim=1)

        return forward

    def _pooled(self, network: "nn.Module", pooling: str) -> Forward:
        has_cls = any(name.endswith(CLS_WEIGHTS) for name, _ in network.named_parameters())

        def forward(pixels: "Tensor") -> "Tensor":  # [B, D]
            with _ClosingNorm(network) as closing:
                hidden = network(pixel_values=pixels).last_hidden_state
            if pooling == "cls":
                return closing(hidden[:, 0])
            if hidden.ndim == 4:  # a feature map [B, D, h, w]
                return hidden.float().mean((2, 3))
            first = _first_patch(hidden.shape[1], self.config, pixels) if has_cls else 0
            return hidden[:, first:].float().mean(1)

        return forward


class _ClosingNorm:
    """The LayerNorm that ends the network at [CLS], for networks that apply it to no other token.

    CLIP returns `last_hidden_state` without it. The inputs of the LayerNorm show whether a network has normalised the
    whole sequence, since some networks that look similar (BLIP) have.
    """

    def __init__(self, network: "nn.Module") -> None:
        norms = [module for name, module in network.named_modules() if name.endswith("post_layernorm")]
        self.norm = norms[0] if len(norms) == 1 else None
        self.passed: list[int] = []

    def __enter__(self) -> "_ClosingNorm":
        if self.norm is not None:
            self._hook = self.norm.register_forward_pre_hook(lambda _, args: self.passed.append(args[0].ndim))
        return self

    def __exit__(self, *_: object) -> None:
        if self.norm is not None:
            self._hook.remove()

    def __call__(self, state: "Tensor") -> "Tensor":
        return state if self.norm is None or 3 in self.passed else self.norm(state)


def _first_patch(n_tokens: int, config: Any, pixels: "Tensor") -> int:
    """Return how many tokens come before the patches: [CLS], and some networks' registers or second class token."""
    size = getattr(config, "patch_size", None)
    high, wide = size if isinstance(size, list | tuple) else (size, size)
    n_patches = (pixels.shape[-2] // high) * (pixels.shape[-1] // wide) if high and wide else 0
    return n_tokens - n_patches if 0 < n_patches < n_tokens else 1


def _check_steady(source: str, forward: Forward, pixels: np.ndarray) -> None:
    """Raise DataError when the network refuses the size that its preprocessing gives, or answers differently each time.

    Masked autoencoders do the latter: they hide random patches.
    """
    import torch

    batch = torch.from_numpy(pixels[None])
    try:
        with torch.inference_mode():
            first, second = forward(batch), forward(batch)
    except (ValueError, RuntimeError, AttributeError) as error:
        size = "x".join(str(side) for side in pixels.shape[1:])
        raise DataError(
            f"{source} does not take the pictures of {size} that its preprocessing gives ({_brief(error)})"
        ) from error
    if (first - second).abs().max() > 1e-5 * first.abs().max():
        raise DataError(
            f"{source} answers differently to the same picture each time; it cannot give features"
        )


class ConfiguredPreprocessing:
    """Preprocesses as preprocessor_config.json says, by the Pillow and numpy code of transformers, to a fixed size."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        transformers = import_transformers()
        # The two implementations give slightly different pixels, so the choice must not depend on what is installed.
        named = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 4)
        choice: dict[str, Any] = {"backend": "pil"} if named else {"use_fast": False}
        try:
            self._processor = transformers.AutoImageProcessor.from_pretrained(
                checkpoint.folder, local_files_only=True, **choice
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise DataError(
                f"{checkpoint.folder}: its preprocessing is unknown ({_brief(error)}); "
                "put its preprocessor_config.json beside config.json"
            ) from error
        shapes = {self(_probe(size)).shape for size in ((40, 60), (97, 31))}
        if len(shapes) != 1:
            raise DataError(
                f"{checkpoint.folder}: its preprocessing gives pictures of different sizes {sorted(shapes)}; "
                "set size and crop_size in preprocessor_config.json"
            )

    def describe(self) -> dict[str, Any]:
        settings = {key: _plain(value) for key, value in sorted(self._processor.to_dict().items())}
        return {
            "as": "preprocessor_config.json",
            "code": f"transformers, {_implementation(self._processor)}",
            "strips": STRIPS,
            "settings": {key: value for key, value in settings.items() if value is not None},
        }

    def __call__(self, image: "Image") -> np.ndarray:
        """Convert an RGB picture to float32 [3, H, W]."""
        batch = self._processor(images=middle(image.convert("RGB")), return_tensors="pt")["pixel_values"]
        pixels = np.asarray(batch[0], dtype=np.float32)
        if pixels.ndim != 3:
            raise DataError(
                f"the preprocessing {type(self._processor).__name__} gives {pixels.ndim} axes for a picture, "
                "not 3; this network cannot be used"
            )
        return pixels


def _implementation(processor: Any) -> str:
    """Return "pil" or "torchvision": some processors exist in the second only, whatever is asked for."""
    fast = "torchvision" if getattr(processor, "is_fast", False) else "pil"
    return str(getattr(processor, "backend", fast))  # transformers has the attribute since 5.4


def _probe(size: tuple[int, int]) -> "Image":
    from PIL import Image as Pillow

    return Pillow.linear_gradient("L").resize(size).convert("RGB")


def _plain(value: Any) -> Any:
    """Return a JSON value for whatever a processor holds."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
