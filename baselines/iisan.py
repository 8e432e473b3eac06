"""IISAN: Efficiently Adapting Multimodal Representation for Sequential Recommendation with Decoupled PEFT. Fu et al.,
SIGIR 2024, arXiv 2404.02059.  Official code: github.com/GAIR-Lab/IISAN @ 67f5c1f (Code_Cached).

BERT and ViT stay frozen; a small network beside them reads the state of their first token after every second block. It
has three towers of adapters: for texts, for pictures, and between both. An item has no id vector. A causal Transformer
reads the item vectors of a history.

Axes: G = 3 towers (image, text, inter), n items, K layers that are read, F width of a state, R rows, W width,
T targets, D hidden, N items, M different items of a step.
Follows the official code (the paper's equations were not available): adapters SideNetwork.forward(), item vectors
encode_items(), user encoder encode(), its loss in_batch_loss().
Differences: (1) cross entropy over the catalogue at all positions; the code compares with the items of the batch, each
corrected by its popularity (`loss = "inbatch"`). (2) The oldest item has position 0; the code pads on the left, so that
the newest has the last position (`positions = "left-padded"`). (3) One learning rate; the code has three.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, WholeRows
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.features import LayerFeatures
from mmbench.nn.grouped import GroupedLinear
from mmbench.nn.layers import Dropout, PostNormEncoder
from mmbench.nn.losses import rows_of_logits
from mmbench.nn.memo import Memo
from mmbench.settings.config import PositiveInt

TOWERS = ("image", "text", "inter")
TEMPERATURE = 0.1  # divides the gates' logits
MASKED = -1e4  # is the logit of an item that is not a candidate
ITEM_BLOCK = (
    2048  # items whose activations are in memory together, each about 170 KB in float32 with 768 dims
)


@dataclass(frozen=True, kw_only=True)
class IISANConfig(TransformerConfig):
    loss: Loss | Literal["inbatch"]
    positions: Literal["oldest-first", "left-padded"]
    layer_step: PositiveInt  # reads the embedding output and every layer_step-th block; 1 = all
    bottleneck_dim: PositiveInt
    activation: Literal["relu", "gelu"]  # belongs to the adapters


class Adapter(nn.Module):
    """x + up(act(down(x))) of each tower, x [G, n, F]."""

    def __init__(self, config: IISANConfig, dim: int) -> None:
        super().__init__()
        self.down = GroupedLinear(len(TOWERS), dim, config.bottleneck_dim)
        self.up = GroupedLinear(len(TOWERS), config.bottleneck_dim, dim)
        self.activation = F.relu if config.activation == "relu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.up(self.activation(self.down(x)))
        return out


class SideNetwork(nn.Module):
    """Item vectors from the states of two frozen networks: text and image [n, K, F] -> [n, D]."""

    def __init__(self, config: IISANConfig, n_states: int, dim: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(config, dim) for _ in range(n_states))
        self.gate = nn.Parameter(torch.zeros(n_states, len(TOWERS)))
        self.head = GroupedLinear(len(TOWERS), dim, dim)
        self.narrow = GroupedLinear(len(TOWERS), dim, config.hidden_dim)
        self.join = nn.Linear(len(TOWERS) * config.hidden_dim, config.hidden_dim)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights as the official code does: adapters N(0, 0.01^2), the image tower's last map Xavier-normal, the
        others by PyTorch's defaults."""
        for part in self.adapters.modules():
            if isinstance(part, GroupedLinear) and part.bias is not None:
                nn.init.normal_(part.weight, std=0.01)
                nn.init.zeros_(part.bias)
        image = TOWERS.index("image")
        nn.init.xavier_normal_(self.narrow.weight[image])
        assert self.narrow.bias is not None
        self.narrow.bias.view(len(TOWERS), -1)[image].zero_()

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        states = text.new_zeros(len(TOWERS), len(text), text.shape[-1])
        for k, adapter in enumerate(self.adapters):
            states = adapter(self.mix(k, text[:, k], image[:, k], states))
        vectors = self.narrow(self.head(states))  # [G, n, D]
        joined: Tensor = self.join(vectors.movedim(0, 1).flatten(1))
        return joined

    def mix(self, k: int, text: Tensor, image: Tensor, states: Tensor) -> Tensor:
        """Return the inputs of the adapters of layer k [G, n, F]: mixes of the layer's text and image states [n, F]
        with the towers' states [G, n, F].

        The tower between both adds the gated sum of image and text to its state; the others gate their modality.
        """
        gate = (self.gate[k] / TEMPERATURE).sigmoid()
        return torch.stack(
            [
                torch.lerp(states[0], image, gate[0]),
                torch.lerp(states[1], text, gate[1]),
                states[2] + torch.lerp(text, image, gate[2]),
            ]
        )


def layer_table(catalog: Catalog, modality: str, step: int) -> LayerFeatures:
    """Return the states of every `step`-th layer; raise ValueError when the data set has no states per layer."""
    if modality not in catalog.layer_feat:
        raise ValueError(
            f"the data set has no {modality} features per layer; make them with `mmbench extract DATASET --text "
            "bert-base-uncased+layers --image vit-base-patch16-224+layers`, and name them in text_encoder and "
            "image_encoder"
        )
    return LayerFeatures(catalog.layer_feat[modality], slice(0, None, step))


def log_popularity(catalog: Catalog) -> Tensor:
    """Return the logarithm of each item's share of the events in the rows, [N + 1]; 0 for items without events.

    A row holds the newest max_len + 1 training events of a user.
    """
    ends = catalog.train_offsets[1:][catalog.histories.users]
    is_read = torch.arange(len(catalog.train_items)) >= ends - catalog.max_len - 1
    counts = torch.bincount(catalog.train_items[is_read], minlength=catalog.n_items + 1).double()
    logs = (counts / counts.sum().clamp(min=1)).log()
    return torch.where(counts > 0, logs, 0.0).to(torch.get_default_dtype())


class IISAN(Recommender[IISANConfig]):
    reads_layers = True
    log_pop: Tensor

    def __init__(self, config: IISANConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.memo: Memo[Tensor] = Memo()
        self.text = layer_table(catalog, "text", config.layer_step)
        self.image = layer_table(catalog, "image", config.layer_step)
        shape, other = self.text.bits.shape[1:], self.image.bits.shape[1:]
        if shape != other:
            raise ValueError(
                "text and image features must have the same number of layers and the same width, but have "
                f"{shape[0]} layers {shape[1]} wide and {other[0]} layers {other[1]} wide; extract both again"
            )
        self.side = SideNetwork(config, *shape)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-6), Dropout(config.dropout)
        self.encoder = PostNormEncoder(
            dim=dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, attn_dropout=config.attn_dropout, activation="relu", eps=1e-6, attn_bias=False,
        )  # fmt: skip
        if config.loss == "inbatch":
            self.register_buffer("log_pop", log_popularity(catalog), persistent=False)
        kind: Loss = "ce" if config.loss == "inbatch" else config.loss
        self.next_item = NextItem(kind, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        self.side.init_weights()
        nn.init.xavier_normal_(self.position_emb.weight)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                for part in module.weight.split(self.config.hidden_dim if module.bias is None else 2**31):
                    nn.init.xavier_normal_(part)  # query, key and value share a tensor
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def needs(self) -> Needs:
        """Return the needs; not stackable, because the backward pass encodes the step's items again."""
        if self.config.loss == "inbatch":
            return Needs(samples=("last-window",), stackable=False, extras=(WholeRows(),))
        extras = self.next_item.extras
        if self.config.positions == "left-padded":
            return Needs(samples=("prefix", "last-window"), stackable=False, extras=extras)
        return Needs(samples=("all", "prefix", "last-window"), stackable=False, extras=extras)

    # -- items --------------------------------------------------------------------------------------------

    def encode_items(self, ids: Tensor) -> Tensor:
        """Return the vectors of items [n], [n, D].

        Only a block of items has its activations in memory; the backward pass computes them again.
        """
        parts = [
            checkpoint(self._encode_part, part, use_reentrant=False, preserve_rng_state=False)
            for part in ids.split(ITEM_BLOCK)
        ]
        return torch.cat(parts)

    def _encode_part(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.side(self.text(ids), self.image(ids))
        return vectors

    def item_table(self) -> Tensor:
        ids = torch.arange(1, self.n_items + 1, device=self.position_emb.weight.device)
        return self.memo(self, lambda: self.encode_items(ids))  # all chunks of a ranking share the table

    def train(self, mode: bool = True) -> "IISAN":
        self.memo.forget()
        super().train(mode)
        return self

    # -- users --------------------------------------------------------------------------------------------

    def encode(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the states at the batch's slots [T, D]; vectors [R, W, D] of its items."""
        position = batch.position
        if self.config.positions == "left-padded":
            lengths = batch.attention_mask(causal=False).sum(-1)
            position = (self.max_len - lengths + position).clamp(min=0)  # any position will do for padding
        x = self.drop(self.norm(vectors + self.position_emb(position)))
        return self.encoder(x, batch.attention_mask(causal=True), batch.slot)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, look_up(self.item_table(), batch))

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        if self.config.loss == "inbatch":
            return {"inbatch": self.in_batch_loss(batch)}
        table = self.item_table()
        query = self.encode(batch, look_up(table, batch))
        return {self.config.loss: self.next_item(query, table, batch)}

    def in_batch_loss(self, batch: TrainBatch) -> Tensor:
        """Return the mean cross entropy of each target among the step's items outside its history.

        Every occurrence of an item counts as a separate candidate; its log popularity is subtracted from its logit.
        """
        is_first = batch.at_slots(batch.position) == 0
        history = is_first.cumsum(0) - 1  # [T]
        first = batch.at_slots(batch.item_seq)[is_first]
        ids, index, count = torch.cat([first, batch.target]).unique(return_inverse=True, return_counts=True)
        of_first, of_target = index.split((len(first), len(batch.target)))
        in_history = torch.zeros(len(first), len(ids), dtype=torch.bool, device=ids.device)
        in_history[torch.arange(len(first), device=ids.device), of_first] = True
        in_history[history, of_target] = True
        table = self.encode_items(ids)
        padded = torch.searchsorted(ids, batch.item_seq).clamp(
            max=len(ids) - 1
        )  # any item will do for padding
        query = self.encode(batch, F.embedding(padded, table))
        with torch.autocast(query.device.type, enabled=False):
            query, table = query.to(self.log_pop.dtype), table.to(self.log_pop.dtype)
            positive = (query * F.embedding(of_target, table)).sum(-1) - self.log_pop[batch.target]
            bias = count.to(table.dtype).log() - self.log_pop[ids]
            chunks = zip(query.split(rows_of_logits()), history.split(rows_of_logits()), strict=True)
            others = [
                checkpoint(_log_sum, rows, table, bias, in_history[number], use_reentrant=False)
                for rows, number in chunks
            ]
            return (torch.logaddexp(positive, torch.cat(others)) - positive).mean()


def look_up(table: Tensor, batch: Batch) -> Tensor:
    """Return the rows of a table [N, D] for the batch's items, [R, W, D]; zero for padding."""
    return F.embedding(batch.item_seq, F.pad(table, (0, 0, 1, 0)))


def _log_sum(query: Tensor, table: Tensor, bias: Tensor, in_history: Tensor) -> Tensor:
    """Return log sum exp over the items [M] outside each history, [T]."""
    return torch.addmm(bias, query, table.T).masked_fill(in_history, MASKED).logsumexp(-1)
