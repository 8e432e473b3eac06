"""UniSRec: Towards Universal Sequence Representation Learning for Recommender Systems. Hou, Mu, Zhao, Li, Ding, Wen,
KDD 2022, arXiv:2206.05941.
Official code: github.com/RUCAIBox/UniSRec @ 05aa5cb (on RecBole); its slips are in unisrec_released.py.

A mixture of whitening experts maps the frozen text vectors of items; a causal Transformer reads the history; the score
is the cosine of state and item vector. "Transductive" (the default) adds an id embedding to items in inputs and scores,
"inductive" has no parameter that belongs to an item, so the model can be trained on other data sets first.

Axes: R rows, W width, D hidden, T targets, N items.
Follows: paper sec. 2.1.1-2.1.2, the adaptor, WhiteningExperts() and content(); sec. 2.1.3 encode(); sec. 2.2.1 the
sequence-item and 2.2.2 the sequence-sequence contrast, pretraining_terms(); sec. 2.3 fine-tuning, loss() and
start_stage().
Differences that matter (unisrec.toml lists all, with their switches):
(1) pre-training is off; `pretrain_on = ["target"]` trains on the run's data set first, names on other data sets. Its
    augmentation is the item drop only: the word drop needs a second encoding of every text.
(2) padding is not a class of the softmax, and an item whose vector is zero is the constant 0, where a cosine has no
    gradient (1e12 in the code).
(3) equal targets of a pre-training step are not negatives of each other; the code sets their logits to 0, which stay
    in the sum.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.pretraining import PretrainedConfig
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.features import available
from mmbench.nn.item_drop import choose_kept, shorten
from mmbench.nn.layers import Dropout, init_normal
from mmbench.nn.losses import info_nce
from mmbench.nn.unit import unit
from mmbench.nn.whitening import WhiteningExperts
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Probability

TINY = 1e-6  # an item vector below this norm is the constant 0


@dataclass(frozen=True, kw_only=True)
class UniSRecConfig(TransformerConfig, PretrainedConfig):
    loss: Loss = "ce"
    n_experts: PositiveInt  # G
    adaptor_dropout: Probability
    temperature: PositiveFloat  # tau, the same in the cross entropy and both contrasts
    modalities: tuple[Literal["text", "image"], ...] = ("text",)
    use_ids: bool = True  # transductive; False: inductive
    expert_masks: Literal["own", "shared"] = "own"  # dropout masks per expert, or for all
    noisy_gate: bool = True
    catalogue_noise: Literal["own", "shared"] = "own"  # noise per occurrence in a history, or per item
    pretrain_epochs: PositiveInt
    pretrain_batch_size: PositiveInt
    freeze: bool = True  # fine-tuning does not train Transformer and positions of a pre-training
    item_drop: Literal[
        "last-kept", "first-kept"
    ]  # "last-kept" as released, "first-kept" as intended: choose_kept
    drop_rate: Fraction  # share of a history's items that its augmentation loses
    ss_weight: NonNegativeFloat  # lambda, weighs the sequence-sequence contrast

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pretraining()
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError('modalities must name "text", "image" or both, each once')


class UniSRec(Recommender[UniSRecConfig]):
    def __init__(self, config: UniSRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        for name in self.modalities:
            self.register_buffer(f"{name}_feat", getattr(catalog, f"{name}_feat"), persistent=False)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        self.adaptors = nn.ModuleDict({name: self._make_adaptor(name) for name in self.modalities})
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim) if config.use_ids else None
        self.is_pretraining = False
        init_normal(self, std=0.02)
        for adaptor in self.adaptors.values():
            adaptor.reset()  # type: ignore[operator]

    def _make_adaptor(self, modality: str) -> WhiteningExperts:
        config = self.config
        return WhiteningExperts(
            self.features(modality).shape[1], config.hidden_dim, config.n_experts, config.adaptor_dropout,
            mask_per_expert=config.expert_masks == "own", is_noisy=config.noisy_gate,
        )  # fmt: skip

    @classmethod
    def reads(cls, config: UniSRecConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    # -- stages -------------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[Stage, ...]:
        config = self.config
        if not config.pretrain_on:
            return (Stage(),)
        size = {"batch_size": config.pretrain_batch_size}
        first = Stage(
            name="pretrain",
            epochs=config.pretrain_epochs,
            samples="prefix",
            settings=size,
            data=config.pretraining_data,
        )
        return (first, Stage(name="finetune"))

    def start_stage(self, name: str) -> None:
        """Start a stage: pre-training ignores ids; fine-tuning may freeze the Transformer and the positions."""
        self.is_pretraining = name == "pretrain"
        if name == "finetune" and self.config.freeze:
            self.encoder.requires_grad_(False)
            self.position_emb.requires_grad_(False)

    def use_catalog(self, catalog: Catalog) -> None:
        self.n_items = catalog.n_items
        self.next_item = NextItem(self.config.loss, self.config, catalog)
        for name in self.modalities:
            new, width = getattr(catalog, f"{name}_feat"), self.features(name).shape[1]
            if new is None or new.shape[1] != width:
                has = "has none" if new is None else f"has {new.shape[1]}"
                raise UsageError(
                    f"UniSRec reads {name} features {width} wide, and a data set to train on {has}; "
                    "extract those of all data sets with the same encoder"
                )
            setattr(self, f"{name}_feat", new)

    # -- score --------------------------------------------------------------------------------------------

    def features(self, modality: str) -> Tensor:
        """Return the frozen vectors of all items and padding, [N + 1, F]."""
        return self.get_buffer(f"{modality}_feat")

    def content(self, ids: Tensor | None = None) -> Tensor:
        """Return v of the items `ids` [...] -> [..., D], or of the whole catalogue and padding, [N + 1, D].

        In training each entry has separate draws, so that two occurrences of an item differ.
        """
        if ids is not None and not self.training and ids.numel() > self.n_items:
            return F.embedding(ids, self.content())  # without draws an item is computed once
        parts = []
        for name in self.modalities:
            feat = self.features(name)
            parts.append(self.adaptors[name](feat if ids is None else F.embedding(ids, feat)))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def encode(self, x: Tensor, position: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
        """Return states at the slots [T, D] of item vectors x [R, W, D], with their attention mask [R, W, W]."""
        return self.encoder(self.drop(self.norm(x + self.position_emb(position))), mask, slot)

    def states(self, batch: Batch, content: Tensor) -> Tensor:
        """Return states at the batch's slots, [T, D], with the items' content [R, W, D]."""
        x = content if self.item_emb is None else content + self.item_emb(batch.item_seq)
        return self.encode(x, batch.position, batch.attention_mask(causal=True), batch.slot)

    def candidates(self, content: Tensor) -> Tensor:
        """Return unit vectors of the items with content [N + 1, D], padding first."""
        c = content if self.item_emb is None else content + self.item_emb.weight
        return unit(self.guarded(c))

    def guarded(self, vectors: Tensor) -> Tensor:
        """Return item vectors [..., D] whose cosines are taken; those that are zero get no gradient."""
        return without_tiny(vectors)

    def query(self, batch: Batch) -> Tensor:
        return unit(self.states(batch, self.content(batch.item_seq)))

    def item_table(self) -> Tensor:
        return self.candidates(self.content())[1:]

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        if self.is_pretraining:
            return self.pretraining_terms(batch)
        content = self.content()
        is_shared = self.config.catalogue_noise == "shared"
        history = F.embedding(batch.item_seq, content) if is_shared else self.content(batch.item_seq)
        states = unit(self.states(batch, history))
        query = states / self.config.temperature
        return {self.config.loss: self.next_item_loss(query, self.candidates(content), batch)}

    def next_item_loss(self, query: Tensor, candidates: Tensor, batch: TrainBatch) -> Tensor:
        return self.next_item(query, candidates[1:], batch)

    def pretraining_terms(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return both contrasts over the targets of the step; each slot ends a separate history."""
        config = self.config
        short = shorten(batch, choose_kept(batch, config.drop_rate, config.item_drop))
        mask = batch.attention_mask(causal=True)
        # A single pass of the network reads the histories and the augmented histories, with separate draws.
        states, augmented = self.encode(
            self.content(torch.cat([batch.item_seq, batch.item_seq])),
            torch.cat([batch.position, short.position]),
            torch.cat([mask, short.attention_mask(mask)]),
            torch.cat([batch.slot, short.slot + batch.item_seq.numel()]),
        ).chunk(2)
        same = batch.target[:, None] == batch.target[None, :]
        items = self.guarded(self.content(batch.target))
        return {
            "si": self.contrast(states, items, same),
            "ss": config.ss_weight * self.contrast(states, augmented, same),
        }

    def contrast(self, anchor: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        return info_nce(anchor, positive, temperature=self.config.temperature, same=same)

    def extra_state(self) -> dict[str, object]:
        return {"modalities": self.modalities, "pretrain_on": self.config.pretrain_on}


def without_tiny(vectors: Tensor) -> Tensor:
    """Return vectors [..., D] with those shorter than TINY replaced by the constant 0."""
    is_tiny = vectors.detach().norm(dim=-1, keepdim=True) < TINY
    return vectors.masked_fill(is_tiny, 0.0)
