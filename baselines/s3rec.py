"""S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization. Zhou et al.,
CIKM 2020, arXiv 2008.07873.  Official code: github.com/RUCAIBox/CIKM2020-S3Rec @ 2a81540.

A Transformer over item ids is first trained, bidirectionally, to predict attributes, masked items and masked segments
of histories; then it is fine-tuned, causally, on the next item. Attributes are labels, never inputs.

Axes: R rows, W width, D hidden, A attributes, T targets, N items, E training events; [MASK] is id N + 1.
Follows the official code and the paper's four terms, pretraining_loss(): attributes of visible items (AAP), masked
items (MIP), attributes of masked items (MAP; both ClassTerms.terms()), segments (SP). draw_cloze() hides items and
segments, encode() is the encoder, loss() the fine-tuning.
Differences: (1) attributes are scored from the state of an item in its history, all of them at once, as the code does;
the paper scores the item's embedding, against sampled attributes. (2) Validation and test events are neither cut into
segments nor kept from being negatives; the code does both. (3) [MASK] is never a negative item; in the code it can be.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs, Samples
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.layers import Dropout, init_normal, zero_padding
from mmbench.settings.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt

PRETRAIN = "pretrain"


@dataclass(frozen=True, kw_only=True)
class S3RecConfig(TransformerConfig):
    attributes: Literal["category+brand", "category"]
    attribute_min_count: PositiveInt  # attributes that fewer items share are left out
    pretrain_epochs: NonNegativeInt
    pretrain_batch_size: PositiveInt  # counts prefixes
    mask_ratio: Fraction
    aap_weight: NonNegativeFloat
    mip_weight: NonNegativeFloat
    map_weight: NonNegativeFloat
    sp_weight: NonNegativeFloat
    pair_form: Literal["double", "logit"]  # is the form of MIP and SP, see pair_loss
    loss: Loss  # is that of fine-tuning


class Labels(nn.Module):
    """The classes of items, any number each, as lists: a table of all classes would be large with many brands.

    item, label  pairs, int64 [n] each. Classes of fewer than `min_count` items are left out; with 0 all `n_classes`
                 stay, those without items too.
    """

    ids: Tensor  # int64 [N + 2, K], 0..n_classes - 1
    is_real: Tensor  # bool [N + 2, K], False where an item has fewer than K classes

    def __init__(self, item: Tensor, label: Tensor, n_items: int, min_count: int, n_classes: int = 1) -> None:
        super().__init__()
        pairs = torch.stack([item, label], 1).unique(dim=0)
        is_kept = torch.bincount(pairs[:, 1], minlength=n_classes) >= min_count
        items, labels = pairs[is_kept[pairs[:, 1]]].unbind(1)
        counts = torch.bincount(items, minlength=n_items + 2)
        column = torch.arange(len(items)) - (counts.cumsum(0) - counts)[items]
        ids = torch.zeros(n_items + 2, int(counts.max()), dtype=torch.int64)
        ids[items, column] = (is_kept.cumsum(0) - 1)[labels]
        self.n_classes = int(is_kept.sum())
        # Not in checkpoints: the data set has them.
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("is_real", torch.arange(ids.shape[1]) < counts[:, None], persistent=False)

    @property
    def n_labelled(self) -> int:
        """Return how many items have a class."""
        return int(self.is_real.any(1).sum())

    def bce(self, logits: Tensor, items: Tensor) -> Tensor:
        """Return the binary cross entropy of logits [..., A] with the classes of items [...], summed over A, [...]."""
        of_classes = logits.gather(-1, self.ids[items])
        return F.softplus(logits).sum(-1) - torch.where(self.is_real[items], of_classes, 0.0).sum(-1)


def attribute_labels(config: S3RecConfig, catalog: Catalog) -> Labels:
    """Return the attributes of the items; raise ValueError when the data set has none."""
    item, label = torch.zeros(2, 0, dtype=torch.int64)
    if catalog.category_ids is not None and catalog.category_offsets is not None:
        item = torch.repeat_interleave(torch.arange(catalog.n_items + 1), catalog.category_offsets.diff())
        label = catalog.category_ids
    if config.attributes == "category+brand" and catalog.brand_ids is not None:
        with_brand = catalog.brand_ids.nonzero()[:, 0]
        item = torch.cat([item, with_brand])
        label = torch.cat([label, catalog.n_categories + catalog.brand_ids[with_brand]])
    labels = Labels(item, label, catalog.n_items, config.attribute_min_count)
    if not labels.n_classes:
        raise ValueError(
            f"no attribute (categories, brands) is shared by {config.attribute_min_count} items; lower "
            "attribute_min_count, or set pretrain_epochs = 0 to leave pre-training out"
        )
    return labels


class Cloze(NamedTuple):
    """The versions of histories that pre-training compares; all [R, W]."""

    items: Tensor  # the history with [MASK] for masked items
    is_masked: Tensor
    negatives: Tensor  # for each event an item that its history does not have
    context: Tensor  # the history without a segment
    positive: Tensor  # the segment alone
    negative: Tensor  # other events instead of the segment


def history_lengths(batch: Batch) -> Tensor:
    """Return the length of each event's history, int64 [R, W]; any number for padding."""
    return batch.attention_mask(causal=False).sum(-1)


def items_elsewhere(batch: Batch, n_items: int) -> Tensor:
    """Draw an item for each event, uniformly from those that its history does not have, int64 [R, W].

    With the different items of a history sorted, h_1 < .. < h_m, h_k - k others are below h_k: the x-th of the
    others is x + #{k: h_k - k < x}, as in mmbench.data.negatives.
    """
    items, same = batch.item_seq, batch.attention_mask(causal=False)
    is_equal = same & (items[:, :, None] == items[:, None, :])
    is_first = batch.mask & ~is_equal.tril(-1).any(-1)  # occurrence of an item in its history
    others = same & is_first[:, None, :]
    rank = (others & (items[:, None, :] <= items[:, :, None])).sum(-1)
    draw = torch.rand(items.shape, dtype=torch.float64, device=items.device)
    x = 1 + (draw * (n_items - others.sum(-1))).long()
    return (x + (others & ((items - rank)[:, None, :] < x[:, :, None])).sum(-1)).clamp(max=n_items)


def draw_cloze(batch: Batch, events: Tensor, n_items: int, mask_ratio: float) -> Cloze:
    """Draw the items and the segment to hide of each history; `events` [E] are the items of all training events.

    The last item is always masked. A segment has 1 to half of the history's items; a history with a single item has no
    segment and is both context and segment.
    """
    items, position, mask_id = batch.item_seq, batch.position, n_items + 1
    length = history_lengths(batch)
    draw = torch.rand(4, *items.shape, dtype=torch.float64, device=items.device)
    is_masked = batch.mask & ((draw[0] < mask_ratio) | (position == length - 1))
    first = torch.arange(items.shape[1], device=items.device) - position
    of_history = draw[1:].gather(2, first.expand(3, -1, -1))  # the draws of its first event
    size = 1 + (of_history[0] * (length // 2)).long()
    begin = (of_history[1] * (length - size + 1)).long()
    cut = (of_history[2] * (len(events) - size + 1)).long()
    is_whole = length < 2
    is_hidden = (position >= begin) & (position < begin + size) & ~is_whole
    other = events[(cut + position - begin).clamp(0, len(events) - 1)]
    return Cloze(
        items=items.masked_fill(is_masked, mask_id),
        is_masked=is_masked,
        negatives=items_elsewhere(batch, n_items),
        context=items.masked_fill(is_hidden, mask_id),
        positive=items.masked_fill(~(is_hidden | is_whole), mask_id),
        negative=torch.where(is_hidden, other, items.masked_fill(~is_whole, mask_id)),
    )


def pair_loss(positive: Tensor, negative: Tensor, form: Literal["double", "logit"]) -> Tensor:
    """Return -log sigma(sigma(r+) - sigma(r-)) ("double", the code's), in .313 .. 1.313, or -log sigma(r+ - r-)."""
    if form == "double":
        positive, negative = positive.sigmoid(), negative.sigmoid()
    return F.softplus(negative - positive)


class ClassTerms(nn.Module):
    """What AAP and MAP need to predict the classes of items. No event has both terms."""

    labels: Labels | None  # None: the model has no such terms
    attribute_emb: nn.Embedding
    aap: nn.Linear
    map: nn.Linear

    def terms(
        self, states: Tensor, items: Tensor, is_visible: Tensor, is_masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sums of AAP and MAP; states [R, W, D], items int64 [R, W], masks bool [R, W]."""
        if self.labels is None:
            return states.new_zeros(()), states.new_zeros(())
        query = torch.where(is_masked[..., None], self.map(states), self.aap(states))
        losses = self.labels.bce(query @ self.attribute_emb.weight.T, items)
        return masked_sum(losses, is_visible), masked_sum(losses, is_masked)


class Pretraining(ClassTerms):
    """The modules that only pre-training needs."""

    events: Tensor
    mip: nn.Linear
    sp: nn.Linear

    def __init__(self, config: S3RecConfig, labels: Labels | None, catalog: Catalog) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.labels = labels
        if labels is not None:
            self.attribute_emb = nn.Embedding(labels.n_classes, dim)
        for name in ("mip", "sp") if labels is None else ("aap", "mip", "map", "sp"):
            self.register_module(name, nn.Linear(dim, dim))
        self.register_buffer("events", catalog.train_items, persistent=False)


class S3Rec(Recommender[S3RecConfig]):
    def __init__(self, config: S3RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 2, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        self.pretraining: Pretraining | None = None
        if config.pretrain_epochs:
            self.pretraining = Pretraining(config, self.labels_of(config, catalog), catalog)
        self.is_pretraining = False
        init_normal(self, std=0.02)
        zero_padding(self.item_emb)

    @staticmethod
    def labels_of(config: S3RecConfig, catalog: Catalog) -> Labels | None:
        """Return the attributes that pre-training predicts."""
        return attribute_labels(config, catalog)

    @property
    def needs(self) -> Needs:
        samples: tuple[Samples, ...] = ("last-window", "prefix", "sequence-prefix")
        return Needs(samples=samples, extras=self.next_item.extras)

    @property
    def stages(self) -> tuple[Stage, ...]:
        if not self.config.pretrain_epochs:
            return (Stage(),)
        size = {"batch_size": self.config.pretrain_batch_size, "batch_unit": "rows"}
        first = Stage(
            name=PRETRAIN, epochs=self.config.pretrain_epochs, samples="sequence-prefix", settings=size
        )
        return (first, Stage(name="finetune"))

    def start_stage(self, name: str) -> None:
        self.is_pretraining = name == PRETRAIN

    def extra_state(self) -> dict[str, Any]:
        labels = None if self.pretraining is None else self.pretraining.labels
        if labels is None:
            return {}
        return {"n_attributes": labels.n_classes, "n_items_with_attributes": labels.n_labelled}

    # -- states -------------------------------------------------------------------------------------------

    def encode(self, items: Tensor, batch: Batch, *, causal: bool, slot: Tensor | None = None) -> Tensor:
        """Return the states of items [C R, W], C versions of the batch's, [C R, W, D], or [T, D] at `slot`.

        The newest item of a history has the last position.
        """
        n_versions = len(items) // len(batch.item_seq)
        # Any position will do for padding.
        position = (self.max_len - history_lengths(batch) + batch.position).clamp(min=0)
        x = self.item_emb(items) + self.position_emb(position).repeat(n_versions, 1, 1)
        mask = batch.attention_mask(causal=causal).repeat(n_versions, 1, 1)
        return self.encoder(self.drop(self.norm(x)), mask, slot)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch.item_seq, batch, causal=True, slot=batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:-1]

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        if self.is_pretraining:
            config, events = self.config, self.parts_of_pretraining.events
            return self.pretraining_loss(batch, draw_cloze(batch, events, self.n_items, config.mask_ratio))
        return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}

    @property
    def parts_of_pretraining(self) -> Pretraining:
        if self.pretraining is None:
            raise TypeError("pretrain_epochs is 0, so the modules of pre-training do not exist")
        return self.pretraining

    def pretraining_states(self, batch: TrainBatch, cloze: Cloze) -> tuple[Tensor, Tensor]:
        """Return the states of all events of the cloze version, [R, W, D], and those of context, positive and negative
        at the end of each history, [3, n, D]; one pass of the encoder, which finishes no other states."""
        versions = torch.cat([cloze.items, cloze.context, cloze.positive, cloze.negative])
        place = torch.arange(versions.numel(), device=versions.device).view(4, -1)
        slot = torch.cat([place[0], place[1:, batch.ends].flatten()])
        states = self.encode(versions, batch, causal=False, slot=slot)
        n_places = batch.item_seq.numel()
        return states[:n_places].view(*batch.item_seq.shape, -1), states[n_places:].unflatten(0, (3, -1))

    def pretraining_loss(self, batch: TrainBatch, cloze: Cloze) -> dict[str, Tensor]:
        """Return the weighted terms, each a sum over the events, or the histories, that it concerns."""
        config, parts = self.config, self.parts_of_pretraining
        states, (context, positive, negative) = self.pretraining_states(batch, cloze)
        is_visible = batch.mask & ~cloze.is_masked
        query = parts.mip(states)
        pairs = [(query * self.item_emb(items)).sum(-1) for items in (batch.item_seq, cloze.negatives)]
        mip = pair_loss(pairs[0], pairs[1], config.pair_form)
        query = parts.sp(context)
        sp = pair_loss((query * positive).sum(-1), (query * negative).sum(-1), config.pair_form)
        return {
            **self.side_terms(states, batch.item_seq, is_visible, cloze.is_masked),
            "mip": config.mip_weight * masked_sum(mip, cloze.is_masked),
            "sp": config.sp_weight * sp.sum(),
        }

    def side_terms(
        self, states: Tensor, items: Tensor, is_visible: Tensor, is_masked: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted terms of what is known of items besides their ids: AAP and MAP."""
        aap, masked = self.parts_of_pretraining.terms(states, items, is_visible, is_masked)
        return {"aap": self.config.aap_weight * aap, "map": self.config.map_weight * masked}


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of values [...] where mask bool [...] is True."""
    return torch.where(mask, values, 0.0).sum()
