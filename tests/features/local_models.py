"""Small models with random weights, saved by `transformers` itself with real tokenizer files."""

import json
from pathlib import Path
from typing import Any

import torch

from mmbench.features.pretrained import import_transformers

WORDS = [
    "red", "blue", "green", "shirt", "dress", "shoe", "shampoo", "toy", "bear", "board", "game", "lamp", "chair",
    "table", "sofa", "black", "white", "small", "large", "cotton", "wool", "silk", "for", "men", "women", "kids",
    "with", "and", "of", "the", "a", "old", "new", "soft", "hard",
]  # fmt: skip
TEXTS = [
    "red shirt", "small blue cotton dress for women", "toy bear", "old board game with soft bear and the new lamp",
    "black wool sofa", "a", "shampoo for kids", "white silk shirt of the new men with hard shoe and small lamp",
]  # fmt: skip
LIMIT = 24  # tokens that the small models take
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip


def train_wordpiece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def train_bytes() -> Any:
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXTS * 3, vocab_size=320, special_tokens=special, show_progress=False)
    return tokenizer


def save_bert(folder: Path, *, seed: int = 0, n_positions: int = LIMIT) -> Path:
    library = import_transformers()
    tokenizer = library.BertTokenizerFast(tokenizer_object=train_wordpiece())
    config = library.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=n_positions, **SIZES)
    return save(folder, library.BertModel, config, tokenizer, seed)


def save_roberta(folder: Path, *, kind: str = "Roberta", seed: int = 0) -> Path:
    """A RoBERTa, or with kind="Longformer" one with attention windows of 8 tokens."""
    library = import_transformers()
    bytes_file = folder.parent / f"{folder.name}-bytes"
    bytes_file.mkdir(parents=True)
    train_bytes().save_model(str(bytes_file))
    tokenizer = library.RobertaTokenizerFast.from_pretrained(bytes_file)
    more = {"attention_window": [8, 8]} if kind == "Longformer" else {}
    positions = LIMIT * 4 + 2  # two are never reached
    config = getattr(library, f"{kind}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=positions, type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id, **SIZES, **more,
    )  # fmt: skip
    return save(folder, getattr(library, f"{kind}Model"), config, tokenizer, seed)


def save(folder: Path, model_class: Any, config: Any, tokenizer: Any, seed: int) -> Path:
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():  # the small initial weights would make all texts alike
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sentence_model(folder: Path, *, mode: str = "mean", normalize: bool = True, limit: int = 12) -> Path:
    """Add what sentence-embedding folders hold beside the model."""
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules += [("2", "2_Normalize", "Normalize")] if normalize else []
    listed = [
        {"idx": k, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for k, (name, path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    flags = {
        f"pooling_mode_{pooling}": pooling.startswith(mode)
        for pooling in ("cls_token", "mean_tokens", "max_tokens")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": limit, "do_lower_case": False})
    )
    return folder
