"""Recformer: a checkpoint of the published layout, against its embeddings and encoder put together by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import get_encoder
from mmbench.features.pretrained import import_transformers
from mmbench.features.recformer import ITEM_POSITIONS, Recformer
from tests.features.local_models import SIZES, TEXTS, save_roberta

PADDING = 1
N_ITEM_POSITIONS = 51


def write_checkpoint(folder: Path, *, prefix: str = "", drop: str = "", add: str = "") -> Path:
    """Weights as the authors' RecformerModel (no prefix) or RecformerForSeqRec ("longformer.") saves them."""
    save_roberta(folder, kind="Longformer")
    (folder / "model.safetensors").unlink()
    library = import_transformers()
    config = library.LongformerConfig.from_pretrained(folder, type_vocab_size=4, attention_window=[64, 64])
    torch.manual_seed(5)
    model = library.LongformerModel(config, add_pooling_layer=False)
    weights = {name: value + 0.3 * torch.randn_like(value) for name, value in model.state_dict().items()}
    weights[ITEM_POSITIONS] = torch.randn(N_ITEM_POSITIONS, SIZES["hidden_size"])
    weights["embeddings.position_ids"] = torch.arange(98)[None]
    weights = {prefix + name: value for name, value in weights.items() if not (drop and drop in name)}
    if add:
        weights[add] = torch.zeros(2)
    torch.save(weights, folder / "recformer_ckpt.bin")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("recformer") / "recformer")


def by_hand(folder: Path, text: str) -> torch.Tensor:
    """Embeddings of Recformer, written out, then the encoder of Longformer; no batch, no padding but the window's."""
    library = import_transformers()
    weights = torch.load(folder / "recformer_ckpt.bin", weights_only=True)
    config = library.LongformerConfig.from_pretrained(folder, type_vocab_size=4, attention_window=[64, 64])
    model = library.LongformerModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(
        {
            name: value
            for name, value in weights.items()
            if name not in (ITEM_POSITIONS, "embeddings.position_ids")
        }
    )
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    ids = [0, *tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))]
    row = torch.tensor(ids + [PADDING] * (-len(ids) % 64))
    real = torch.arange(len(row)) < len(ids)
    item = (real & (torch.arange(len(row)) > 0)).long()  # item position: 0 for <s>, 1 for the item's tokens
    position = torch.where(real, torch.arange(len(row)) + PADDING + 1, PADDING)
    table = {
        name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    }
    summed = table["word"][row] + table["position"][position] + table["token_type"][2 * item]
    embedded = model.embeddings.LayerNorm(summed + weights[ITEM_POSITIONS][item])
    attention = torch.full((len(row),), -10_000.0)  # negative: not seen; 0: seen nearby; positive: globally
    attention[real] = 0.0
    attention[0] = 10_000.0
    with torch.inference_mode():
        return model.encoder(embedded[None], attention_mask=attention[None])[0][0, 0]


def build(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str = "recformer") -> Any:
    monkeypatch.setenv("MMBENCH_RECFORMER", str(folder))
    return get_encoder("text", name)


def test_it_is_what_the_published_code_computes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(monkeypatch, folder)
    assert isinstance(encoder, Recformer)
    actual = encoder.run([encoder.prepare(text).array for text in TEXTS])
    expected = torch.stack([by_hand(folder, text) for text in TEXTS]).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert encoder.identity()["weights"].keys() == {"recformer_ckpt.bin"}


def test_the_other_published_checkpoint_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_checkpoint(tmp_path / "recformer", prefix="longformer.", add="lm_head.bias")
    encoders = [build(monkeypatch, folder), build(monkeypatch, other)]
    arrays = [encoders[0].prepare(text).array for text in TEXTS[:3]]
    np.testing.assert_allclose(encoders[0].run(arrays), encoders[1].run(arrays), atol=1e-6)


def test_long_texts_are_cut_and_blank_ones_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(monkeypatch, folder)
    limit = encoder.max_length
    assert (
        limit
        == json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"] - 2
    )
    cut, fits = encoder.prepare("toy " * 200), encoder.prepare("toy")
    assert (len(cut.array), cut.cut, fits.cut) == (limit, True, False)
    assert encoder.run([cut.array]).shape == (1, SIZES["hidden_size"])
    assert encoder.prepare("") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "item_position"}, f"lacks weights: 1, first {ITEM_POSITIONS}"),
        ({"drop": "layer.1.output"}, "lacks weights: 4, first encoder.layer.1.output"),
        ({"add": "classifier.weight"}, "has unknown weights: 1, first classifier.weight"),
    ],
)
def test_half_of_a_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    encoder = build(monkeypatch, write_checkpoint(tmp_path / "recformer", **change))
    with pytest.raises(DataError, match=message):
        encoder.load()


def test_without_a_checkpoint_it_says_where_to_get_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMBENCH_RECFORMER", raising=False)
    with pytest.raises(UsageError, match=r"recformer_ckpt\.bin from github\.com/AaronHeee/RecFormer"):
        get_encoder("text", "recformer")
    with pytest.raises(UsageError, match="which is not a folder"):
        build(monkeypatch, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="leave out :mean"):
        build(monkeypatch, folder, "recformer:mean")
    with pytest.raises(DataError, match=r"holds 0 files \*recformer\*.bin"):
        build(monkeypatch, save_roberta(tmp_path / "plain", kind="Longformer")).identity()
