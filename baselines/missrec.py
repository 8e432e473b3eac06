"""MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence Representation for Recommendation. Wang,
Zeng, Wang, Wang, Lu, Li, Yuan, Zhang, Zheng, Xia, ACM MM 2023, arXiv:2308.11175.
Official code: github.com/gimpong/MM23-MISSRec @ c3167c5; its slips are in missrec_released.py.

The texts and pictures of all items are clustered at the start of every epoch; a cluster is an interest. An encoder
reads the set of a history's interests, a decoder reads its items and attends to the encoder. The score weighs the
cosines of text and picture for each pair of user and item, and adds that of the id.

Axes: R rows, W width, M modalities, D hidden, T targets, N items, K interests.
Follows: modality adaptors adapted(); interest discovery discover(); interest-aware encoder memory(), EncoderLayer();
decoder tokens(), states(), DecoderLayer(); user-adaptive late fusion score(), fused_scores(); interest regulariser
diversity(); pre-training pretraining_terms(); fine-tuning loss(), start_stage().
Differences that matter (missrec.toml lists all, with their switches):
(1) interests: k-means; the paper has DPC-KNN (`clustering = "dpc-knn"`), the code a pass that leaves most of the
    clusters empty (variant as-released).
(2) regulariser: the mean over histories of the squared mean of their interests; the code sums over the batch, padding
    too (variant as-released).
(3) pre-training is off; `pretrain_on = ["target"]` trains on the run's data set first, names on other data sets, with
    the item drop as the only augmentation.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs
from mmbench.models.pretraining import PretrainedConfig
from mmbench.nn.clusters import count_by, density_peaks, effective_number, lloyd
from mmbench.nn.encoder_decoder import EPS, DecoderLayer, EncoderLayer
from mmbench.nn.features import available
from mmbench.nn.item_drop import choose_kept, shorten
from mmbench.nn.late_fusion import fused_cross_entropy, fused_scores
from mmbench.nn.layers import Attention, Dropout, check_heads, init_normal, zero_padding
from mmbench.nn.losses import cross_entropy, info_nce
from mmbench.nn.unit import unit
from mmbench.settings.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)

N_MAPS = 5  # maps of N numbers that a score holds together


@dataclass(frozen=True, kw_only=True)
class MISSRecConfig(PretrainedConfig):
    hidden_dim: PositiveInt
    inner_dim: PositiveInt
    n_layers: PositiveInt  # half of them in the encoder, half in the decoder
    n_heads: PositiveInt
    dropout: Probability  # applies to attention weights too
    temperature: PositiveFloat
    modalities: tuple[Literal["text", "image"], ...] = ("text", "image")
    use_ids: bool = True  # transductive; False: inductive
    tokens: Literal["add", "contextual"] = "add"  # a token per event, or per event and modality
    # The slope of the weights of text and picture is shared, or each item's, or 0.
    fusion: Literal["learned", "per-item", "mean"] = "learned"
    clustering: Literal["kmeans", "dpc-knn"] = "kmeans"
    cluster_ratio: Fraction  # interests per item vector
    cluster_passes: NonNegativeInt  # counts passes of k-means
    neighbour_share: Fraction  # share of all vectors that the densities of DPC-KNN look at
    diversity_weight: NonNegativeFloat  # gamma
    pretrain_epochs: PositiveInt
    pretrain_batch_size: PositiveInt
    pretrain_cluster_ratio: Fraction
    freeze: bool = True  # Transformer and positions, after a pre-training
    item_drop: Literal["last-kept", "first-kept"] = "first-kept"
    drop_rate: Fraction  # share of a history's items that its augmentation loses
    ss_weight: NonNegativeFloat  # weighs the sequence-sequence contrast

    def __post_init__(self) -> None:
        self.check_pretraining()
        check_heads(self.hidden_dim, self.n_heads)
        if self.n_layers % 2:
            raise ValueError(
                f"n_layers {self.n_layers} must be even: half encode interests, half decode items"
            )
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError('modalities must name "text", "image" or both, each once')
        if self.fusion == "per-item" and self.pretrain_on:
            raise ValueError(
                'fusion = "per-item" ties a slope to each item of a data set; pre-train with "learned"'
            )


@dataclass(frozen=True, kw_only=True)
class Histories:
    """The histories of a batch as the network reads them, whole or augmented."""

    item_seq: Tensor  # int64 [R, W]
    position: Tensor  # int64 [R, W]
    segment: Tensor  # int64 [R, W]
    kept: Tensor  # bool [R, W], False = dropped
    slot: Tensor  # int64 [T], flat in [R W]


class MISSRec(Recommender[MISSRecConfig]):
    centroids: Tensor  # [K + 1, D], row 0 is not an interest
    lookup: Tensor  # int64 [N + 1, M], interest 1..K of each item by modality; 0 for padding

    def __init__(self, config: MISSRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self._take_features(catalog)
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0) if config.use_ids else None
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=EPS), Dropout(config.dropout)
        half, sizes = config.n_layers // 2, (dim, config.inner_dim, config.n_heads, config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(half))
        self.encoder_norm = nn.LayerNorm(dim, eps=EPS)
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(half))
        self.decoder_norm = nn.LayerNorm(dim, eps=EPS)
        self._init_weights()
        # The released code initialises the modules above; the adaptors keep PyTorch's defaults.
        self.adaptors = nn.ModuleDict(
            {name: nn.Linear(self.features(name).shape[1], dim) for name in self.modalities}
        )
        n_slopes = catalog.n_items if config.fusion == "per-item" else 1
        is_learned = len(self.modalities) > 1 and config.fusion != "mean"
        self.slope = nn.Parameter(torch.zeros(n_slopes)) if is_learned else None  # a
        self.is_pretraining = False
        self._begin_interests()

    def _init_weights(self) -> None:
        init_normal(self, std=0.02)
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.xavier_uniform_(module.qkv.get_parameter("weight"))
        if self.item_emb is not None:
            zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: MISSRecConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(samples=("prefix",), causal=False)

    # -- stages -------------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[Stage, ...]:
        config = self.config
        if not config.pretrain_on:
            return (Stage(),)
        size = {"batch_size": config.pretrain_batch_size}
        first = Stage(
            name="pretrain", epochs=config.pretrain_epochs, settings=size, data=config.pretraining_data
        )
        return (first, Stage(name="finetune"))

    def start_stage(self, name: str) -> None:
        """Start a stage: pre-training ignores ids; fine-tuning may freeze the Transformer and the positions."""
        self.is_pretraining = name == "pretrain"
        self._begin_interests()
        if name == "finetune" and self.config.freeze:
            for part in (self.encoder, self.encoder_norm, self.decoder, self.decoder_norm, self.position_emb):
                part.requires_grad_(False)

    def use_catalog(self, catalog: Catalog) -> None:
        self.n_items = catalog.n_items
        self._take_features(catalog)

    def _take_features(self, catalog: Catalog) -> None:
        """Read the features of a catalogue, which must have the same widths as before."""
        for name in self.modalities:
            feat, present = getattr(catalog, f"{name}_feat"), getattr(catalog, f"has_{name}")
            width = self.adaptors[name].in_features if hasattr(self, "adaptors") else None
            if feat is None or (width is not None and feat.shape[1] != width):
                has = "has none" if feat is None else f"has {feat.shape[1]}"
                raise UsageError(
                    f"MISSRec reads {name} features {width} wide, and a data set to train on {has}; "
                    "extract those of all data sets with the same encoder"
                )
            self.register_buffer(f"{name}_feat", feat, persistent=False)
            present = feat.ne(0).any(1) if present is None else present
            self.register_buffer(f"has_{name}", present, persistent=False)

    # -- interests ----------------------------------------------------------------------------------------

    def features(self, modality: str) -> Tensor:
        """Return the frozen vectors of all items and padding, [N + 1, F]."""
        return self.get_buffer(f"{modality}_feat")

    def adapted(self) -> list[Tensor]:
        """Return the vectors of all items and padding by modality, [N + 1, D] each; a missing vector is the bias."""
        return [self.adaptors[name](self.features(name)) for name in self.modalities]

    def _rows_to_cluster(self) -> Tensor:
        """Return Z, the stacked vectors of all modalities, [M N, D]."""
        return torch.cat([table[1:] for table in self.adapted()])

    def _begin_interests(self) -> None:
        """Draw interests for use before the first discovery, and assign items to them in turn."""
        ratio = self.config.pretrain_cluster_ratio if self.is_pretraining else self.config.cluster_ratio
        n_rows, like = len(self.modalities) * self.n_items, self.position_emb.weight
        n_interests = max(1, -int(-ratio * n_rows // 1))
        centroids = nn.init.normal_(like.new_empty(n_interests, like.shape[1]))
        self._set_interests(centroids, torch.arange(n_rows, device=like.device) % n_interests)

    def _set_interests(self, centroids: Tensor, label: Tensor) -> None:
        """Store centroids [K, D] and the cluster of each row of Z, int64 [M N] from 0."""
        by_item = label.view(len(self.modalities), -1).T + 1
        self.register_buffer("centroids", F.pad(centroids, (0, 0, 1, 0)))
        self.register_buffer("lookup", F.pad(by_item, (0, 0, 1, 0)))

    @torch.no_grad()
    def discover(self) -> None:
        """Cluster the current vectors of the adaptors; the first centroids are drawn."""
        rows = self._rows_to_cluster()
        first = self.draw_first(len(rows), len(self.centroids) - 1).to(rows.device)
        self._set_interests(*self.clusters(rows, first))

    def draw_first(self, n_rows: int, n_interests: int) -> Tensor:
        """Draw K different rows with which k-means begins, int64 [K]."""
        return torch.randperm(n_rows)[:n_interests]

    def clusters(self, rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return centroids [K, D] and the cluster of each row [n, D]; k-means begins with the rows `first` [K]."""
        if self.config.clustering == "dpc-knn":
            return density_peaks(rows, len(first), self.config.neighbour_share)
        return lloyd(rows, rows[first], self.config.cluster_passes)

    def start_epoch(self, epoch: int) -> None:
        self.discover()

    # -- network ------------------------------------------------------------------------------------------

    def memory(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return the encoded interests of the rows [R, M W, D], and those of each event's history, bool [R, W, M W].

        An interest that a history has several times is read once.
        """
        n_modalities = len(self.modalities)
        interest = self.lookup[histories.item_seq].movedim(-1, 1).flatten(1)  # [R, M W]
        segment = histories.segment.repeat(1, n_modalities)
        is_real = ((histories.segment > 0) & histories.kept).repeat(1, n_modalities)
        same_history = segment[:, :, None] == segment[:, None, :]
        same = same_history & (interest[:, :, None] == interest[:, None, :]) & is_real[:, None, :]
        column = torch.arange(interest.shape[1], device=interest.device)
        is_repeated = (same & (column[None, :] < column[:, None])).any(2)
        is_read = (is_real & ~is_repeated)[:, None, :]
        x, mask = F.embedding(interest, self.centroids), self.encoder_mask(same_history, is_read)
        for layer in self.encoder:
            x = layer(x, mask)
        looks = same_history[:, : histories.segment.shape[1]] & is_read  # of each event
        return self.encoder_norm(x), looks

    def encoder_mask(self, same_history: Tensor, is_read: Tensor) -> Tensor:
        """Return which interests see each other, bool [R, V, V]; same_history [R, V, V], is_read [R, 1, V]."""
        return same_history & is_read

    def states(self, histories: Histories, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return u [T, D] at the slots, of length 1, and the term of their interests, a scalar."""
        memory, looks = self.memory(histories)
        x, mask, slot = self.tokens(histories, tables)
        looks_of_tokens = looks.repeat(1, x.shape[1] // looks.shape[1], 1)
        for number, layer in enumerate(self.decoder, start=1):
            x = layer(x, mask, memory, looks_of_tokens, slot if number == len(self.decoder) else None)
        return unit(self.decoder_norm(x)), self.diversity(memory, looks, histories)

    def tokens(self, histories: Histories, tables: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's tokens [R, V, D], their mask bool [R, V, V], and slots (flat in [R V]).

        "add": a token is the sum of an event's modalities, V = W. "contextual": a token for each modality, all texts
        before all pictures, V = M W; attention ignores tokens of missing modalities, and slots are text tokens.
        """
        added = self.position_emb(histories.position)
        if self.item_emb is not None and not self.is_pretraining:
            added = added + self.item_emb(histories.item_seq)
        segment, kept, slot = histories.segment, histories.kept, histories.slot
        if self.config.tokens == "add":
            x = F.embedding(histories.item_seq, torch.stack(tables).sum(0)) + added
        else:
            x = torch.cat([F.embedding(histories.item_seq, table) + added for table in tables], 1)
            segment, kept = (part.repeat(1, len(tables)) for part in (segment, kept))
            present = [self.get_buffer(f"has_{name}")[histories.item_seq] for name in self.modalities]
            kept = kept & (torch.cat(present, 1) | (segment == 0))
            width = histories.item_seq.shape[1]
            slot = slot + torch.div(slot, width, rounding_mode="floor") * (x.shape[1] - width)
        mask = (segment[:, :, None] == segment[:, None, :]) & kept[:, None, :]
        # A token without any key, in a history without modalities, sees itself.
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        return self.drop(self.norm(x)), mask | (itself & ~mask.any(2, keepdim=True)), slot

    def diversity(self, memory: Tensor, looks: Tensor, histories: Histories) -> Tensor:
        """Return the mean over histories of |mean of their encoded interests|^2 / D."""
        slot = histories.slot
        weight = looks.flatten(0, 1).index_select(0, slot).to(memory.dtype)  # [T, V]
        weight = weight / weight.sum(1, keepdim=True)
        row = torch.div(slot, looks.shape[1], rounding_mode="floor")
        mean = (weight[:, None, :] @ memory.index_select(0, row))[:, 0]
        return mean.square().sum(1).mean() / memory.shape[-1]

    # -- score --------------------------------------------------------------------------------------------

    def catalogue(self, tables: list[Tensor], first: int = 1) -> tuple[list[Tensor], Tensor | None]:
        """Return unit vectors of the items from `first` on: by modality, [N, D] each, and of ids, [N, D] or None.

        A single modality and the ids share a table.
        """
        content, ids = [table[first:] for table in tables], None
        if self.item_emb is not None and not self.is_pretraining:
            ids = self.item_emb.weight[first:]
        if len(content) == 1 and ids is not None:
            content, ids = [content[0] + ids], None
        return [unit(table) for table in content], None if ids is None else unit(ids)

    def slopes(self) -> Tensor:
        """Return a, [1] or [N]; 0 weighs both modalities equally."""
        return self.centroids.new_zeros(1) if self.slope is None else self.slope

    @property
    def is_dot_product(self) -> bool:
        return len(self.modalities) == 1

    def query(self, batch: Batch) -> Tensor:
        return self.states(whole(batch), self.adapted())[0]

    def item_table(self) -> Tensor:
        """Return the item vectors of a single modality, [N, D]."""
        return self.catalogue(self.adapted())[0][0]

    def score(self, batch: Batch) -> Tensor:
        tables = self.adapted()
        u, (content, ids) = self.states(whole(batch), tables)[0], self.catalogue(tables)
        if len(content) == 1:
            return u @ content[0].T
        return fused_scores(u, content[0], content[1], ids, self.slopes())

    def score_cost(self, n_items: int) -> int:
        return N_MAPS * n_items

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        if self.is_pretraining:
            return self.pretraining_terms(batch)
        tables = self.adapted()
        u, diversity = self.states(whole(batch), tables)
        ce = self.next_item_loss(u, tables, batch.target)
        return {"ce": ce, "diversity": self.config.diversity_weight * diversity}

    def next_item_loss(self, u: Tensor, tables: list[Tensor], target: Tensor) -> Tensor:
        content, ids = self.catalogue(tables)
        return self.classify(u, content, ids, self.slopes(), target - 1)

    def classify(
        self, u: Tensor, content: list[Tensor], ids: Tensor | None, slope: Tensor, target: Tensor
    ) -> Tensor:
        """Return the cross entropy of the scores of u [T, D] with tables [N, D]; target int64 [T] from 0."""
        tau = self.config.temperature
        if len(content) == 1:
            return cross_entropy(u / tau, content[0], target + 1)
        return fused_cross_entropy(u, content[0], content[1], ids, slope, target, tau)

    def pretraining_terms(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return contrasts of histories with the step's items and with its augmented histories, without ids."""
        config, tables = self.config, self.adapted()
        short = shorten(batch, choose_kept(batch, config.drop_rate, config.item_drop))
        shorter = replace(whole(batch), position=short.position, kept=short.kept, slot=short.slot)
        u, diversity = self.states(whole(batch), tables)
        augmented, diversity_augmented = self.states(shorter, tables)
        content = [unit(F.embedding(batch.target, table)) for table in tables]
        slope, target = self.slopes(), torch.arange(len(u), device=u.device)
        return {
            "si": self.classify(u, content, None, slope, target),
            "ss": config.ss_weight * info_nce(u, augmented, temperature=config.temperature),
            "diversity": config.diversity_weight * (diversity + diversity_augmented),
        }

    def extra_state(self) -> dict[str, object]:
        n_interests = len(self.centroids) - 1
        label = self.lookup[1:].flatten() - 1
        return {
            "modalities": self.modalities,
            "pretrain_on": self.config.pretrain_on,
            "interests": n_interests,
            "interests_used": int((count_by(label, n_interests) > 0).sum()),
            "interests_effective": effective_number(label, n_interests),
        }


def whole(batch: Batch) -> Histories:
    """Return the batch's histories without dropped items."""
    return Histories(
        item_seq=batch.item_seq, position=batch.position, segment=batch.segment,
        kept=torch.ones_like(batch.mask), slot=batch.slot,
    )  # fmt: skip
