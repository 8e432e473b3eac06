"""Vision models of `transformers`: the right numbers of the right token, whole weights or none, one identity each."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmbench.errors import DataError, UsageError
from mmbench.features import vision
from mmbench.features.encoders import get_encoder
from mmbench.features.extract import Options, extract
from mmbench.features.pretrained import Checkpoint, find_checkpoint, import_transformers
from mmbench.features.store import load_features
from mmbench.features.vision import HM4SR, PREPROCESSING, ConfiguredPreprocessing, TransformersVision
from tests.features import networks
from tests.features.networks import BLOCKS, PICTURES, WIDTH, by_hand
from tests.features.toy import encoded, items, prepare

KINDS = ("vit", "clip", "siglip", "dinov2", "swin", "convnext", "mae", "bert")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vision")
    return {kind: networks.save(kind, root / kind) for kind in KINDS}


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Path:
    """A ViT of one's own, to be damaged."""
    return Path(shutil.copytree(models["vit"], tmp_path / "vit"))


def encoder(folder: Path, **options: Any) -> TransformersVision:
    return TransformersVision("x", source=str(folder), device="cpu", **options)


def features(folder: Path, **options: Any) -> np.ndarray:
    built = encoder(folder, **options)
    inputs = [built.prepare(image) for image in PICTURES]
    return built.run([input.array for input in inputs if input is not None])


def forward(folder: Path, model: str = "AutoModel") -> tuple[Any, torch.Tensor]:
    """The model as transformers loads it, and the pictures prepared by hand, [3, 3, H, W]."""
    network = getattr(import_transformers(), model).from_pretrained(folder).eval()
    return network, torch.from_numpy(np.stack([by_hand(image) for image in PICTURES]))


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-4, atol=2e-5)


def test_vit_is_cls_after_the_last_norm(models: dict[str, Path]) -> None:
    network, pixels = forward(models["vit"], "ViTModel")
    found = features(models["vit"])
    assert found.dtype == np.float32
    close(found, network(pixels).last_hidden_state[:, 0])


def test_clip_is_cls_after_the_post_norm_and_before_the_projection(models: dict[str, Path]) -> None:
    network, pixels = forward(models["clip"], "CLIPModel")
    whole = network.vision_model(pixel_values=pixels)
    close(features(models["clip"]), whole.pooler_output)
    assert not np.allclose(
        features(models["clip"]), whole.last_hidden_state[:, 0].detach().numpy(), atol=1e-2
    )


@pytest.mark.parametrize("kind", ["siglip", "swin"])
def test_without_cls_the_mean_over_the_patches(models: dict[str, Path], kind: str) -> None:
    network, pixels = forward(models[kind])
    network = getattr(network, "vision_model", network)
    close(features(models[kind]), network(pixel_values=pixels).last_hidden_state.mean(1))


def test_feature_maps_are_averaged_over_space(models: dict[str, Path]) -> None:
    network, pixels = forward(models["convnext"])
    maps = network(pixels).last_hidden_state
    assert maps.ndim == 4
    close(features(models["convnext"]), maps.mean((2, 3)))


def test_mean_leaves_out_cls_and_registers(models: dict[str, Path]) -> None:
    network, pixels = forward(models["dinov2"])
    tokens = network(pixels).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 16
    close(features(models["dinov2"], pooling="mean"), tokens[:, 5:].mean(1))
    close(features(models["dinov2"]), tokens[:, 0])


def test_layers_of_vit_are_the_states_between_its_blocks(models: dict[str, Path]) -> None:
    network, pixels = forward(models["vit"], "ViTModel")
    state = network.embeddings(pixels)
    expected = [state[:, 0]]
    blocks = network.encoder.layer if hasattr(network, "encoder") else network.layers  # since transformers 5
    for block in blocks:
        state = block(state)
        expected.append(state[:, 0])
    found = features(models["vit"], layers=True)
    assert found.shape == (3, BLOCKS + 1, WIDTH)
    close(found, torch.stack(expected, 1))
    # Before any attention [CLS] knows nothing of the picture.
    np.testing.assert_array_equal(found[0, 0], found[2, 0])
    assert np.abs(found[0, -1] - found[2, -1]).max() > 1e-3
    # The last state is the one that the final LayerNorm has still to see.
    close(features(models["vit"]), network.layernorm(torch.from_numpy(found[:, -1])))
    assert not np.allclose(features(models["vit"]), found[:, -1], atol=1e-2)


def test_layers_of_clip_begin_after_its_first_norm(models: dict[str, Path]) -> None:
    network, pixels = forward(models["clip"], "CLIPVisionModel")
    tower = getattr(network, "vision_model", network)
    found = features(models["clip"], layers=True)
    close(found[:, 0], tower.pre_layrnorm(tower.embeddings(pixels))[:, 0])
    close(features(models["clip"]), tower.post_layernorm(torch.from_numpy(found[:, -1])))


def test_a_picture_alone_and_in_a_batch(models: dict[str, Path]) -> None:
    together = features(models["vit"], layers=True)
    built = encoder(models["vit"], layers=True)
    alone = built.run([built.pixels(PICTURES[1])])
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4, atol=1e-5)


def test_own_preprocessing_is_followed(models: dict[str, Path]) -> None:
    built = encoder(models["vit"])
    for image in PICTURES:
        found = built.pixels(image)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, by_hand(image), atol=1e-6)


@pytest.mark.parametrize("source", ["google/vit-base-patch16-224", "openai/clip-vit-base-patch16"])
def test_networks_of_hm4sr_get_its_preprocessing(source: str) -> None:
    name = source.partition("/")[2]
    built = get_encoder("image", name, device="cpu")
    assert isinstance(built, TransformersVision)
    assert (built.name, built.source) == (name, source)
    assert built.processor is PREPROCESSING[source] is HM4SR
    assert built.pixels(PICTURES[0]).shape == (3, 224, 224)


@pytest.mark.parametrize(
    "lost", ["vit.layernorm.weight", "vit.encoder.layer.1.output.dense.bias", "vit.embeddings.cls_token"]
)
def test_a_missing_weight_is_an_error(copied: Path, lost: str) -> None:
    networks.change_weights(copied, lambda tensors: tensors.pop(lost))
    with pytest.raises(DataError, match=r"lacks weights: 1, first .*half loaded"):
        encoder(copied).load()


def test_an_unexpected_weight_is_an_error(copied: Path) -> None:
    networks.change_weights(
        copied, lambda tensors: tensors.update({"vit.encoder.layer.2.extra": torch.ones(2)})
    )
    with pytest.raises(DataError, match="has unknown weights: 1"):
        encoder(copied).load()


def test_a_weight_of_another_shape_is_an_error(copied: Path) -> None:
    networks.change_weights(copied, lambda tensors: tensors.update({"vit.layernorm.bias": torch.ones(3)}))
    with pytest.raises(DataError, match=r"vit cannot be loaded"):
        encoder(copied).load()


def test_a_classifier_is_not_missed(copied: Path) -> None:
    before = features(copied)
    networks.change_weights(
        copied, lambda tensors: [tensors.pop(f"classifier.{x}") for x in ("weight", "bias")]
    )
    np.testing.assert_array_equal(features(copied), before)


def test_the_tower_of_texts_is_not_loaded(models: dict[str, Path]) -> None:
    network, _ = encoder(models["clip"]).build()
    assert not [name for name, _ in network.named_parameters() if "text" in name]


def test_identity_says_what_decides_the_values(models: dict[str, Path], tmp_path: Path) -> None:
    identity = encoder(models["vit"]).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["network"] == "ViTModel"
    assert identity["pooling"] == "cls"
    assert identity["precision"] == "float32"
    assert identity["preprocessing"]["settings"]["image_mean"] == [0.5] * 3
    moved = shutil.copytree(models["vit"], tmp_path / "vit")
    assert encoder(moved).identity() == identity
    others = [
        encoder(models["vit"], layers=True),
        encoder(models["vit"], pooling="mean"),
        encoder(networks.save("vit", tmp_path / "a" / "vit", resample=3)),
    ]
    networks.change_weights(moved, lambda tensors: tensors["vit.layernorm.bias"].add_(1e-3))
    seen = [identity, *(encoded.identity() for encoded in [*others, encoder(moved)])]
    assert len({json.dumps(event, sort_keys=True) for event in seen}) == 5


def test_identity_reads_no_weights(copied: Path) -> None:
    """Features that are already stored must be recognised without loading a large network."""
    (copied / "model.safetensors").write_bytes(b"not a model")
    assert encoder(copied).identity()["network"] == "ViTModel"
    with pytest.raises(DataError, match="cannot be loaded"):
        encoder(copied).load()


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("swin", {"layers": True}, r"no \[CLS\] token \(SwinModel\); leave out \+layers"),
        ("convnext", {"pooling": "cls"}, "leave out :cls"),
        ("bert", {}, "not a network for pictures"),
    ],
)
def test_wishes_that_cannot_be(
    models: dict[str, Path], kind: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        encoder(models[kind], **options).identity()


def test_a_network_that_answers_at_random_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="differently to the same picture each time"):
        encoder(models["mae"]).load()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": {"height": 48, "width": 48}}, "does not take the pictures of 48x48"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": False},
         "different sizes"),
        ({"image_processor_type": "NoSuchProcessor"}, "preprocessing is unknown"),
    ],
)  # fmt: skip
def test_preprocessing_that_does_not_fit(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = networks.save("vit", tmp_path / "vit", **settings)
    with pytest.raises(DataError, match=said):
        encoder(folder).load()


class Processors:
    """An `AutoImageProcessor` of a version of transformers; keeps what it was asked for."""

    def __init__(self, version: str, **attributes: Any) -> None:
        self.__version__, self.AutoImageProcessor = version, self
        self.attributes, self.asked = attributes, dict[str, Any]()

    def from_pretrained(self, folder: Path, *, local_files_only: bool, **asked: Any) -> Any:
        self.asked = asked

        def process(images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
            return {"pixel_values": torch.zeros(1, 3, 2, 2)}

        vars(process).update({"to_dict": dict, **self.attributes})
        return process


@pytest.mark.parametrize(
    ("version", "attributes", "asked", "implementation"),
    [
        ("4.57.1", {"is_fast": False}, {"use_fast": False}, "pil"),
        ("5.0.0", {"is_fast": False}, {"use_fast": False}, "pil"),
        ("5.3.0", {"is_fast": True}, {"use_fast": False}, "torchvision"),
        ("5.4.0", {"is_fast": False, "backend": "pil"}, {"backend": "pil"}, "pil"),
        ("5.10.2", {"is_fast": True, "backend": "torchvision"}, {"backend": "pil"}, "torchvision"),
    ],
)
def test_every_transformers_is_asked_for_pillow_and_says_what_it_gave(
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    attributes: dict[str, Any],
    asked: dict[str, Any],
    implementation: str,
) -> None:
    processors = Processors(version, **attributes)
    monkeypatch.setattr(vision, "import_transformers", lambda: processors)
    preprocessing = ConfiguredPreprocessing(find_checkpoint(str(models["vit"])))
    assert processors.asked == asked
    assert preprocessing.describe()["code"] == f"transformers, {implementation}"


def test_a_model_of_the_hub_is_named_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = networks.save("vit", tmp_path / "snapshot", vit={"image_size": 224, "patch_size": 56})
    monkeypatch.setattr(vision, "find_checkpoint", lambda source: Checkpoint(folder, "0f1e2d"))
    built = get_encoder("image", "vit-base-patch16-224", device="cpu")
    identity = built.identity()
    assert (identity["source"], identity["revision"]) == ("google/vit-base-patch16-224", "0f1e2d")
    assert identity["preprocessing"] == HM4SR.describe()
    assert identity["preprocessing"]["resize"].startswith(
        "shorter side to 256, centre 224x224 cut out; Pillow bil"
    )
    assert isinstance(built, TransformersVision)
    assert built.run([built.pixels(image) for image in PICTURES]).shape == (3, WIDTH)


def test_extraction_stores_every_layer(models: dict[str, Path], tmp_path: Path) -> None:
    for number, image in enumerate(PICTURES[:2]):
        (tmp_path / f"{number}.png").write_bytes(encoded(image))
    records = [{**item, "image": f"{number}.png"} for number, item in enumerate(items(3))]
    prepared = prepare(tmp_path / "data", records, pictures=tmp_path)
    report = extract(prepared, "image", f"{models['vit']}+layers", options=Options(device="cpu"))
    assert (report.n_present, report.absent) == (2, {"missing file": 1})
    stored = load_features(prepared, "image", "vit+layers")
    assert stored.values.shape == (4, BLOCKS + 1, WIDTH)
    np.testing.assert_allclose(
        stored.values[1:3], features(models["vit"], layers=True)[:2], rtol=1e-4, atol=1e-5
    )
    assert not stored.values[[0, 3]].any()
    again = extract(prepared, "image", f"{models['vit']}+layers", options=Options(device="cpu"))
    assert again.skipped
