"""MMMLP: Multi-modal Multilayer Perceptron for Sequential Recommendations. Liang, Zhao, Li, Zhang, Wang, Liu, Liu,
WWW 2023, doi 10.1145/3543507.3583378.  Official code: github.com/Applied-Machine-Learning-Lab/MMMLP @ 5f4deaa (a
RecBole model file, which does not run as released).

Ids, texts and pictures of a history are separate streams. In every stream residual MLPs mix along time and along
channels, the same two in all layers; the streams meet at the last event only, where a linear map joins them into the
user's vector. Candidates are id embeddings, so texts and pictures act through the history.

Axes: R rows, L positions (max_len), M streams in use (id first), D hidden, T targets, N items.
Follows: the official code's network, because we had no access to the paper; streams() is the input of the Feature
Mixer Layer, Mixer its mixers, query() the Fusion Mixer Layer, loss() and item_table() the Prediction Layer.
The three differences that matter: (1) The mixers of texts and pictures are stacked like those of ids; the released
loop starts each pass from its input, so that its depth is 1 (`content_depth`). (2) The padding id is the zero vector
and not a class; RecBole initialises it at random and trains it as a class only (`padding_id`). (3) Texts and pictures
are the data set's features through a trained map each; the code looks up 128-d vectors of unknown origin.
Mixing along time is dense: states see later events and the padding, so training uses a row per prefix, padded to L.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.features import FeatureTable
from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear
from mmbench.nn.layers import Dropout, init_normal, zero_padding
from mmbench.nn.losses import cross_entropy
from mmbench.nn.mlp import shift
from mmbench.nn.parts import in_parts
from mmbench.settings.config import PositiveInt, Probability

CONTENT = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class MMMLPConfig(Sampling):
    loss: Loss = "ce"
    hidden_dim: PositiveInt
    n_layers: PositiveInt  # adds depth, no parameters
    expansion: PositiveInt  # inner width of the MLPs divided by the outer width
    dropout: Probability
    content_depth: Literal["stacked", "once"] = "stacked"  # "once": a single layer for texts and pictures
    padding_id: Literal["zero", "class"] = "zero"  # "class": a random vector, trained as a class
    pad_side: Literal["right", "left"] = "right"  # "left": the newest event is always last
    use_text: bool = True
    use_image: bool = True


class GroupedMLP(nn.Module):
    """G MLPs over x [G, ..., A]: A -> ratio A, GELU, dropout, -> A, dropout."""

    def __init__(self, n_groups: int, size: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.up = GroupedLinear(n_groups, size, ratio * size)
        self.down = GroupedLinear(n_groups, ratio * size, size)
        self.drop = Dropout(dropout)

    def inner(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.drop(F.gelu(self.up(x)))
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.drop(self.down(self.inner(x)))
        return dropped

    def entry(self, x: Tensor, position: Tensor) -> Tensor:
        """Compute entry position[t] of the output for x [G, T, D, A] and no other entry, [G, T, D]."""
        n_groups, size, width = self.down.weight.shape
        # Rows [G, T] of the stacked maps of all groups.
        row = torch.arange(n_groups, device=position.device)[:, None] * size + position
        weight = F.embedding(row, self.down.weight.view(-1, width))  # [G, T, ratio A]
        assert self.down.bias is not None
        bias = F.embedding(row, self.down.bias[:, None])  # [G, T, 1]
        dropped: Tensor = self.drop((self.inner(x) @ weight[..., None])[..., 0] + bias)
        return dropped


class Mixer(nn.Module):
    """x <- x + MLP(LN(x)) along time, then along channels, `depth` times with the same weights; G streams.

    A row needs the state at a single position, so the last layer computes only that.
    """

    def __init__(self, config: MMMLPConfig, n_streams: int, max_len: int, depth: int) -> None:
        super().__init__()
        dim, self.depth = config.hidden_dim, depth
        self.time_norm = GroupedLayerNorm(n_streams, dim, eps=1e-5)
        self.time = GroupedMLP(n_streams, max_len, config.expansion, config.dropout)
        self.channel_norm = GroupedLayerNorm(n_streams, dim, eps=1e-5)
        self.channel = GroupedMLP(n_streams, dim, config.expansion, config.dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return the states of x [G, T, L, D] at position int64 [T], [G, T, D]."""
        for _ in range(self.depth - 1):
            x = x + self.time(self.time_norm(x).transpose(-1, -2)).transpose(-1, -2)
            x = x + self.channel(self.channel_norm(x))
        mixed = self.time.entry(self.time_norm(x).transpose(-1, -2), position)
        index = torch.arange(len(position), device=x.device) * x.shape[2] + position
        state = x.flatten(1, 2).index_select(1, index) + mixed
        last: Tensor = state + self.channel(self.channel_norm(state))
        return last


class MMMLP(Recommender[MMMLPConfig]):
    def __init__(self, config: MMMLPConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.features = nn.ModuleDict()
        for name in CONTENT:
            feat = getattr(catalog, f"{name}_feat") if self.reads(config, name) else None
            if feat is not None:
                present = getattr(catalog, f"has_{name}")
                self.features[name] = FeatureTable(feat, present, dim, keep_width=True, unit_norm=False)
        n_content, is_stacked = len(self.features), config.content_depth == "stacked"
        self.norm = nn.LayerNorm(dim, eps=1e-12)  # serves the id stream and the user vector
        if n_content:
            self.content_norm = GroupedLayerNorm(n_content, dim, eps=1e-12)
        # Streams of the same depth are mixed together.
        sizes = [1 + n_content] if is_stacked or not n_content else [1, n_content]
        depths = [config.n_layers, config.n_layers if is_stacked else 1]
        self.mixers = nn.ModuleList(
            Mixer(config, n_streams, catalog.max_len, depth)
            for n_streams, depth in zip(sizes, depths, strict=False)
        )
        self.sizes = sizes
        self.fusion_norm = nn.LayerNorm((1 + n_content) * dim, eps=1e-12)
        self.fusion = nn.Linear((1 + n_content) * dim, dim)
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw from N(0, 0.02^2), except the maps along time: torch's convolutions in the official code."""
        channels = [mixer.get_submodule("channel") for mixer in self.mixers]
        for part in (self.item_emb, self.features, self.fusion, *channels):
            init_normal(part, std=0.02)
        if self.config.padding_id == "zero":
            zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: MMMLPConfig, modality: str) -> bool:
        return config.use_text if modality == "text" else config.use_image

    @property
    def needs(self) -> Needs:
        extras = self.next_item.extras
        return Needs(layout="fixed", samples=("prefix",), causal=False, extras=extras)

    def extra_state(self) -> dict[str, Any]:
        return {"streams": ["id", *self.features]}

    def streams(self, items: Tensor) -> Tensor:
        """Return the normalised vectors of items [T, L] in each stream, [M, T, L, D]."""
        ids = self.norm(self.item_emb(items))[None]
        if not self.features:
            return ids
        content = torch.stack([table(items) for table in self.features.values()])
        return torch.cat([ids, self.content_norm(content)])

    def query(self, batch: Batch) -> Tensor:
        """Return u = LN_0(W LN([id, text, image] at the last event) + b), [T, D]."""
        config = self.config
        return in_parts(self.users, batch, (1 + len(self.features)) * config.expansion * config.hidden_dim)

    def users(self, batch: Batch) -> Tensor:
        """Return u of all slots together, [T, D]."""
        row, position = batch.slot // self.max_len, batch.slot % self.max_len
        items = batch.item_seq.index_select(0, row)  # a row for each slot
        if self.config.pad_side == "left":
            items, position = (
                shift(items, self.max_len - 1 - position),
                torch.full_like(position, self.max_len - 1),
            )
        parts = self.streams(items).split(self.sizes)
        states = [mixer(part, position) for mixer, part in zip(self.mixers, parts, strict=True)]
        user: Tensor = self.norm(self.fusion(self.fusion_norm(torch.cat(states).movedim(0, 1).flatten(1))))
        return user

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        config, query = self.config, self.query(batch)
        if config.loss == "ce" and config.padding_id == "class":  # row 0 of the table is a class
            return {"ce": cross_entropy(query, self.item_emb.weight, batch.target + 1)}
        return {config.loss: self.next_item(query, self.item_table(), batch)}
