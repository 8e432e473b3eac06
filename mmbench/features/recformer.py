"""`recformer`: the item encoder of Li et al., "Text Is All You Need" (KDD 2023), 768 numbers per item.

A Longformer-base with an attention window of 64, four token types and a table of item positions. Its authors publish
the checkpoint as a file on their page, https://github.com/AaronHeee/RecFormer; it is on no hub. Put
`recformer_ckpt.bin` (or their checkpoint for sequential recommendation) in a folder beside the config and
tokenizer files of allenai/longformer-base-4096, and set MMBENCH_RECFORMER to the folder.

As in their code, an item is a history of length 1: <s> with type and item position 0, then the item's tokens with
item position 1, no closing token, at most 1,024 tokens; the vector is the last state of <s>, which attends globally.
A difference: they give attributes as name and value, each cut at 32 tokens, with a separate type for names; here the
text of an item is a single string, all of which is value (type 2).
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import Input
from mmbench.features.pretrained import check_whole, import_transformers
from mmbench.features.transformers_text import TransformersText

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "MMBENCH_RECFORMER"
WINDOW = 64
TOKEN_TYPES = 4  # <s>, name, value, padding
VALUE = 2
MAX_TOKENS = 1_024
ITEM_POSITIONS = "embeddings.item_position_embeddings.weight"


class Recformer(TransformersText):
    """Encodes an item's text with the published checkpoint."""

    def __init__(self, *, source: str = "", pooling: str | None, **options: Any) -> None:
        folder = os.environ.get(FOLDER, "")
        if not folder:
            raise UsageError(
                f"recformer needs {FOLDER}: a folder with recformer_ckpt.bin from github.com/AaronHeee/RecFormer "
                "and the config and tokenizer files of allenai/longformer-base-4096"
            )
        if not Path(folder).expanduser().is_dir():
            raise UsageError(f"{FOLDER} names {folder}, which is not a folder")
        if pooling == "mean":
            raise UsageError("recformer returns the state of its first token; leave out :mean")
        super().__init__(source=folder, pooling="cls", **options)
        self.config["attention_window"] = WINDOW
        self._item_positions: Any = None

    @property
    def max_length(self) -> int:
        return min(
            MAX_TOKENS, int(self.config["max_position_embeddings"]) - int(self.config["pad_token_id"]) - 1
        )

    def weight_files(self) -> list[Path]:
        files = sorted(self.checkpoint.folder.glob("*recformer*.bin"))
        if len(files) != 1:
            raise DataError(
                f"{self.checkpoint.folder} holds {len(files)} files *recformer*.bin; "
                "put a single checkpoint of github.com/AaronHeee/RecFormer there"
            )
        return files

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "attention_window": WINDOW, "token_type": VALUE, "item_position": 1}

    def _load(self) -> Any:
        import torch

        [file] = self.weight_files()
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        # Damaged files raise nearly anything; refused pickles raise an error of the pickle module.
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{file} cannot be loaded ({reason}); download it again") from error
        weights = {name.removeprefix("longformer."): value for name, value in weights.items()}
        table = weights.pop(ITEM_POSITIONS, None)
        check_whole(file, [] if table is not None else [ITEM_POSITIONS], [])
        settings = {**self.config, "type_vocab_size": TOKEN_TYPES}
        settings["attention_window"] = [WINDOW] * int(self.config["num_hidden_layers"])
        library = import_transformers()
        model = library.LongformerModel(library.LongformerConfig(**settings), add_pooling_layer=False)
        try:
            keys = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:  # a shape differs
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{file} does not fit {self.checkpoint.folder}/config.json: {reason}") from error
        unused = ("lm_head.", "embeddings.position_ids")
        check_whole(file, keys.missing_keys, [k for k in keys.unexpected_keys if not k.startswith(unused)])
        self._item_positions = torch.as_tensor(table).float().to(self.device)
        return model.float().eval()

    def prepare(self, raw: str) -> Input | None:
        ids = self.tokenizer(raw, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        kept = [self.tokenizer.bos_token_id, *ids[: self.max_length - 1]]
        return Input(np.array(kept, dtype=np.int64), cut=len(ids) >= self.max_length) if ids else None

    def _forward(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        import torch

        inside = mask.clone()
        inside[:, 0] = 0  # leaves 1 at the item's tokens
        first = torch.zeros_like(mask)
        first[:, 0] = 1
        padding = int(self.config["pad_token_id"])
        words = self._model.get_input_embeddings()(ids)
        states: Tensor = self._model(
            # The model adds the token types and the positions.
            inputs_embeds=words + self._item_positions[inside],
            token_type_ids=inside * VALUE,
            position_ids=mask.cumsum(dim=1) * mask + padding,
            attention_mask=mask,
            global_attention_mask=first,
        ).last_hidden_state
        return states
