"""ResNet-50: torchvision's own features for whatever weights it is given, and only for whole ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench.errors import DataError, UsageError
from mmbench.features import resnet
from mmbench.features.encoders import get_encoder
from mmbench.features.resnet import FILE, PIXELS, PUBLISHED, ResNet50
from mmbench.features.torchvision_import import prepare_torchvision
from tests.features.toy import picture


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    """Import it when the first test runs: it takes seconds, which a collection need not spend."""
    if prepare_torchvision() not in ("complete", "declared"):
        pytest.skip("torchvision is not installed")


@pytest.fixture(scope="module")
def network(torchvision: None) -> torch.nn.Module:
    from torchvision.models import resnet50

    with torch.random.fork_rng():
        torch.manual_seed(3)
        built: torch.nn.Module = resnet50(weights=None).eval()
    for name, buffer in built.named_buffers():
        if name.endswith("running_mean"):  # fresh ones are zeros, under which a lost one would not show
            buffer.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    return built


@pytest.fixture
def file(network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "mine.pth"
    torch.save(network.state_dict(), path)
    monkeypatch.setenv(FILE, str(path))
    yield path
    path.unlink()  # 100 MB; pytest keeps its folders


def test_features_are_what_the_classifier_reads(file: Path, network: torch.nn.Module) -> None:
    encoder = get_encoder("image", "resnet50", device="cpu")
    assert isinstance(encoder, ResNet50)
    pixels = [encoder.pixels(picture(seed)) for seed in (1, 2)]
    actual = encoder.run(pixels)
    assert (actual.shape, actual.dtype) == ((2, 2048), np.dtype(np.float32))
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack(pixels)))
        again = network.get_submodule("fc")(torch.from_numpy(actual))
    np.testing.assert_allclose(again.numpy(), logits.numpy(), rtol=1e-3, atol=1e-4)


def test_preprocessing_is_that_of_the_published_weights() -> None:
    from torchvision.models import ResNet50_Weights

    published = ResNet50_Weights.IMAGENET1K_V1
    assert published.url == resnet.URL
    image = picture(4, (310, 270))
    np.testing.assert_allclose(PIXELS(image), published.transforms()(image).numpy(), atol=1e-6)


def test_identity_has_the_hash_of_the_file(file: Path, tmp_path: Path) -> None:
    first = ResNet50(device="cpu").identity()
    assert json.loads(json.dumps(first)) == first
    state = torch.load(file, weights_only=True)
    state["conv1.weight"][0, 0, 0, 0] += 1
    torch.save(state, file)
    second = ResNet50(device="cpu").identity()
    assert {key for key in first if first[key] != second[key]} == {"weights_sha256"}


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("layer4.2.conv3.weight", "lacks weights: 1"),
        ("bn1.running_mean", "lacks weights: 1"),
        ("fc.weight", ""),
    ],
)
def test_only_the_classifier_may_be_missing(file: Path, lost: str, said: str) -> None:
    state = torch.load(file, weights_only=True)
    del state[lost]
    torch.save(state, file)
    if said:
        with pytest.raises(DataError, match=said):
            ResNet50(device="cpu").load()
    else:
        ResNet50(device="cpu").load()


def test_weights_of_another_network_are_refused(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, file)
    with pytest.raises(DataError, match=r"mine.pth lacks weights: 265, first bn1.bias"):
        ResNet50(device="cpu").load()


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "no.pth"))
    with pytest.raises(UsageError, match=rf"{FILE} names .*no.pth, which is not a file"):
        ResNet50(device="cpu").identity()


def test_published_weights_come_from_the_cache_or_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(FILE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def download(url: str, path: str, **options: object) -> None:
        asked.append((url, options["hash_prefix"]))
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(DataError, match=rf"put the file into {tmp_path}/checkpoints"):
        ResNet50(device="cpu").identity()
    assert asked == [(f"https://download.pytorch.org/models/{PUBLISHED}", "0676ba61")]
    (tmp_path / "checkpoints" / PUBLISHED).write_bytes(b"half of it")
    with pytest.raises(DataError, match="is damaged: its sha256 does not begin with 0676ba61"):
        ResNet50(device="cpu").identity()
