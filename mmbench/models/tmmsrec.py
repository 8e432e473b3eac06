"""TMMSRec: Time-interval-aware Multi-Modal Sequential Recommender. Wang, Xu, Jiang, Xu, Zhuang,
2026, manuscript. Official code: github.com/wangpp0602/TMMSRec@7e65e82.

Each item has an id, a text and an image vector. The time interval encoder (TIE) rotates every vector by the
year, month and day of its event; vector + rotated vector enter one causal encoder per modality (first
fusion), and the dot products of the modalities' states and item vectors are added up (second fusion).

Axes: R rows, W width, D hidden, J = D/6 blocks of the rotation, M modalities (id, text, image), T targets,
K negatives, N items.
Follows: eq. 2-4 vectors(), eq. 7-9 TimeIntervalEncoder, eq. 10-11 encode(), eq. 12-13 query()/item_table(),
eq. 14 loss().
Differences (the recipe names the switches):
(1) Eq. 7 multiplies a row vector from the left, which turns by minus the angle of eq. 9; so does the released
    code. Reading it as a column only swaps the two dims of every pair, so it is no switch. The released code
    writes the six strided parts of the result one after another instead of interleaved, so that vector and
    rotated vector are added in different orders of dims: `tie_layout`.
(2) Histories lie on the left, not on the right. TIE knows no places, so only the positions `random` and
    `sinusoidal` notice: they count from the oldest kept item.
(3) The released code lets real places attend to the padding on the left, whose keys and values are biases, so
    that a short history shares its attention with 50 - T empty places: `padding_keys`.
(4) Users are shuffled each epoch, not drawn with replacement.
(5) An item without a modality has the zero vector there, even after a linear map with a bias: it neither
    gains nor loses score. The paper drops such items from the data.
(6) A data set without text or without image trains the other modalities; a variant all of whose feature
    modalities are missing is refused.
(7) Early fusion (table 6) has no equations: the time vector is TIE of the sum of the modalities' vectors,
    fused with them by sum, linear map or MLP; the one state meets the sum of an item's modality vectors.
(8) The backbone MLP4Rec is not causal, so it is trained on one sample per prefix.
(9) Table 5's random table is drawn once, with the mean square of the sinusoidal one, and not trained.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.views import TrainView
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives, Pairs, whole_history
from mmbench.nn.calendar import civil_date
from mmbench.nn.convolution import CausalConvEncoder
from mmbench.nn.features import FeatureTable, available, look_up
from mmbench.nn.layers import Dropout, PreQueryEncoder, at, check_heads, zero_padding
from mmbench.nn.losses import bce, dots, pairs
from mmbench.nn.mlp import MLPEncoder
from mmbench.settings.config import PositiveInt, Probability

Modality = Literal["id", "text", "image"]


@dataclass(frozen=True, kw_only=True)
class TMMSRecConfig:
    modalities: tuple[Modality, ...] = ("id", "text", "image")  # table 4
    position: Literal["tie", "none", "random", "sinusoidal"] = "tie"  # table 5
    fusion: Literal["two-stage", "add", "linear", "mlp"] = "two-stage"  # table 6
    backbone: Literal["sasrec", "gru4rec", "nextitnet", "mlp4rec"] = "sasrec"  # fig. 6
    encoder: Literal["own", "shared"] = "own"  # per modality (eq. 10); the code shares one
    hidden_dim: PositiveInt = 768  # fig. 7; a multiple of 6
    n_layers: PositiveInt = 2  # blocks of SASRec (fig. 7), layers of the GRU or the MLPs, [1, 4] of NextItNet
    n_heads: PositiveInt = 1  # code
    dropout: Probability = 0.5  # fig. 7
    tie_dropout: Probability = 0.0  # on TIE's output; no equation has it, the code has 0.2
    tie_layout: Literal["interleaved", "concatenated"] = "interleaved"  # the code: concatenated
    padding_keys: bool = False  # the code: True, padding takes part in attention (sasrec backbone)
    n_negatives: PositiveInt = 1  # eq. 14, per target
    negatives: Literal["history", "first"] = "history"  # the code excludes the user's first item only

    def __post_init__(self) -> None:
        if self.hidden_dim % 6:
            low = self.hidden_dim // 6 * 6
            near = " or ".join(str(one) for one in (low, low + 6) if one)
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not divisible by 6 (TIE turns blocks of six dims, "
                f"a pair each for year, month and day); use {near}"
            )
        check_heads(self.hidden_dim, self.n_heads)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(
                f"modalities {list(self.modalities)} must name at least one of id, text, image, each once"
            )
        if self.padding_keys and self.backbone != "sasrec":
            raise ValueError(f"padding_keys is about attention; backbone {self.backbone!r} has none")


class TimeIntervalEncoder(nn.Module):
    """TIE, sec. 2.4: block j of six dims is turned by (year, month, day) * theta_j, two dims each."""

    def __init__(self, *, dim: int, dropout: float, layout: Literal["interleaved", "concatenated"]) -> None:
        super().__init__()
        self.dim, self.is_interleaved = dim, layout == "interleaved"
        self.drop = Dropout(dropout)

    def prepare(self, batch: Batch) -> Tensor:
        """cos and sin of every angle, float64 [2, R, W, J, 3], once for all modalities; padding has angle 0.

        In float32 the year's angle (2014 rad at j = 1) is off by 1e-4, so angles are formed in float64.
        """
        date = torch.stack(civil_date(batch.time_seq), dim=-1) * batch.mask[..., None]  # [R, W, 3]
        block = torch.arange(self.dim // 6, dtype=torch.float64, device=date.device)
        theta = 10_000.0 ** (-6.0 * block / self.dim)  # [J]
        angle = date[..., None, :] * theta[:, None]  # eq. 9  [R, W, J, 3]
        return torch.stack([angle.cos(), angle.sin()])

    def forward(self, x: Tensor, prepared: Tensor) -> Tensor:
        """x [..., R, W, D] -> e P of eq. 7, the same."""
        cos, sin = prepared.to(x.dtype)
        even, odd = x.unflatten(-1, (*cos.shape[-2:], 2)).unbind(-1)  # each [..., R, W, J, 3]
        turned = torch.stack([even * cos + odd * sin, odd * cos - even * sin], dim=-1)
        turned = turned.flatten(-2)  # [..., R, W, J, 6]
        if not self.is_interleaved:
            turned = turned.transpose(-1, -2)
        return self.drop(turned.flatten(-2))


class PositionTable(nn.Module):
    """Table 5's TMMSRec-RP and -VP: a fixed vector per place, counted from the oldest kept item."""

    table: Tensor

    def __init__(self, *, dim: int, max_len: int, kind: Literal["random", "sinusoidal"]) -> None:
        super().__init__()
        if kind == "random":
            table = torch.randn(max_len, dim) * 0.5**0.5  # a sine's mean square is 1/2
        else:
            rate = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            angle = torch.arange(max_len, dtype=torch.float64)[:, None] * rate
            table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()
        self.register_buffer("table", table)

    def prepare(self, batch: Batch) -> Tensor:
        return self.table[batch.position]

    def forward(self, x: Tensor, prepared: Tensor) -> Tensor:
        return prepared


class GRUEncoder(nn.Module):
    """GRU4Rec as a backbone: GRU without biases, then one linear map (`baselines/gru4rec`, variant A)."""

    def __init__(self, *, dim: int, n_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, num_layers=n_layers, bias=False, batch_first=True)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """One history a row, right padded: x [R, W, D] -> [R, W, D] or, at `slot` only, [T, D]; padding comes last."""
        return self.out(at(self.gru(x)[0], slot))


class NextItNetEncoder(nn.Module):
    """NextItNet as a backbone: residual blocks of dilations 1, 4, then one linear map (`baselines/nextitnet`)."""

    def __init__(self, *, dim: int, n_layers: int) -> None:
        super().__init__()
        self.stack = CausalConvEncoder(dim=dim, n_blocks=n_layers)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """Packed or padded rows: a convolution reaches as far back as attention may look, `mask` [R, W, W]."""
        return self.out(at(self.stack(x, mask.sum(-1) - 1), slot))


class MLPBackbone(nn.Module):
    """MLP4Rec as a backbone: its MLPs along time and channels, with one row an event and so no row mixer."""

    def __init__(self, *, dim: int, max_len: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.mixer = MLPEncoder(dim=dim, max_len=max_len, n_rows=1, n_layers=n_layers, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, max_len, D] -> [R, max_len, D], or [T, D] at `slot`; padding is the zero vector, and is mixed in."""
        return self.mixer((x * real[..., None].to(x.dtype))[:, :, None], slot)


def make_encoder(config: TMMSRecConfig, max_len: int, n_groups: int | None = None) -> nn.Module:
    """The user encoder of eq. 10. Every backbone is called with (x, attention mask, real places, slots).

    SASRec's takes all modalities in one call, x [M, R, W, D], with weights for each if there are `n_groups`.
    """
    dim, n_layers = config.hidden_dim, config.n_layers
    if config.backbone == "gru4rec":
        return GRUEncoder(dim=dim, n_layers=n_layers)
    if config.backbone == "nextitnet":
        return NextItNetEncoder(dim=dim, n_layers=n_layers)
    if config.backbone == "mlp4rec":
        return MLPBackbone(dim=dim, max_len=max_len, n_layers=n_layers, dropout=config.dropout)
    return PreQueryEncoder(
        dim=config.hidden_dim, inner_dim=config.hidden_dim, n_layers=config.n_layers, n_heads=config.n_heads,
        dropout=config.dropout, project_out=True, n_groups=n_groups,
    )  # fmt: skip


def first_items(view: TrainView) -> Pairs:
    """Return the first training item of each user, which is all that the released sampler excludes."""
    first = view.offsets[:-1][np.diff(view.offsets) > 0]
    return view.users[first], view.items[first]


class TMMSRec(Recommender[TMMSRecConfig]):
    def __init__(self, config: TMMSRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim, self.is_early = config.hidden_dim, config.fusion != "two-stage"
        self.modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self.features = nn.ModuleDict()
        for modality in self.modalities:
            self._add_modality(modality, catalog)
        self.drop = Dropout(config.dropout)
        self.time: TimeIntervalEncoder | PositionTable | None = None
        if config.position == "tie":
            self.time = TimeIntervalEncoder(dim=dim, dropout=config.tie_dropout, layout=config.tie_layout)
        elif config.position != "none":
            self.time = PositionTable(dim=dim, max_len=catalog.max_len, kind=config.position)
        n_fused = len(self.modalities) + (self.time is not None)
        if config.fusion == "linear":
            self.fuse: nn.Module = nn.Linear(n_fused * dim, dim)
        elif config.fusion == "mlp":
            self.fuse = nn.Sequential(nn.Linear(n_fused * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        is_single = self.is_early or config.encoder == "shared"
        self.is_grouped = config.backbone == "sasrec" and not is_single
        names, n_groups = ("all",) if is_single or self.is_grouped else self.modalities, None
        if self.is_grouped:
            n_groups = len(self.modalities)
        self.encoders = nn.ModuleDict({one: make_encoder(config, catalog.max_len, n_groups) for one in names})
        self._init_weights()

    def _add_modality(self, modality: str, catalog: Catalog) -> None:
        """Eq. 2-4: a trained table of ids, or frozen features, mapped where their width is not D."""
        dim = self.config.hidden_dim
        if modality == "id":
            self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
            return
        feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
        self.features[modality] = FeatureTable(feat, present, dim, keep_width=True, unit_norm=False)

    def _init_weights(self) -> None:
        """The code's: xavier-normal matrices. torch's attention stacks query, key and value in one matrix of
        3D rows, which makes their values smaller by sqrt(2), and starts with zero biases."""
        for name, parameter in self.named_parameters():
            part = name.split(".")[-2] if "." in name else ""
            is_attention = part in ("query", "key", "value")
            if parameter.dim() >= 2:
                for matrix in parameter.data if parameter.dim() == 3 else [parameter.data]:  # of each group
                    nn.init.xavier_normal_(matrix, gain=0.5**0.5 if is_attention else 1.0)
            elif is_attention or (part == "out" and name.endswith("bias")) or name.startswith("features."):
                nn.init.zeros_(parameter)
        if "id" in self.modalities:
            zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: TMMSRecConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        config = self.config
        exclude = first_items if config.negatives == "first" else whole_history
        extras = (Negatives(k=config.n_negatives, exclude=exclude),)
        if config.padding_keys:
            # How many empty places a state sees depends on the length of the whole row, so it is not causal.
            return Needs(layout="fixed", samples=("last-window", "prefix"), causal=False, extras=extras)
        if config.backbone == "mlp4rec":  # dense along time: a state sees later events and the padding
            return Needs(layout="fixed", samples=("prefix",), causal=False, extras=extras)
        is_recurrent = config.backbone == "gru4rec"
        return Needs(
            layout="padded" if is_recurrent else "packed", samples=("last-window", "all", "prefix"),
            stackable=not is_recurrent, extras=extras,
        )  # fmt: skip

    def extra_state(self) -> dict[str, Any]:
        return {"modalities": self.modalities}

    def vectors(self, ids: Tensor) -> list[Tensor]:
        """Item vectors of ids [...], eq. 2-4: one [..., D] per modality, zero where an item lacks it."""
        return [table(ids) for table in self._tables()]

    def _tables(self) -> list[nn.Module]:
        return [self.item_emb if one == "id" else self.features[one] for one in self.modalities]

    def encode(
        self, batch: Batch, vectors: list[Tensor] | None = None, *, slot: Tensor | None = None
    ) -> Tensor:
        """States of all places [R, W, M*D] (early fusion: [R, W, D]), or of `slot` only [T, M*D].

        `vectors` of item_seq, if they are known already.
        """
        vectors = self.vectors(batch.item_seq) if vectors is None else vectors
        x = self.drop(torch.stack(vectors))  # [M, R, W, D]
        if self.is_early:
            x = self._fused(x, batch)[None]
        elif self.time is not None:
            x = x + self.time(x, self.time.prepare(batch))  # eq. 11
        mask = batch.attention_mask(causal=True)
        if self.config.padding_keys:
            mask = mask | ~batch.mask[:, None, :]
        if self.config.backbone == "sasrec":
            states = self.encoders["all"](x, mask, batch.mask, slot)
        else:
            names = self.modalities if len(self.encoders) > 1 else list(self.encoders) * len(x)
            states = torch.stack(
                [self.encoders[name](one, mask, batch.mask, slot) for name, one in zip(names, x, strict=True)]
            )
        return states.movedim(0, -2).flatten(-2)  # eq. 10

    def _fused(self, x: Tensor, batch: Batch) -> Tensor:
        """Early fusion of the modalities x [M, R, W, D], time being the last of them, [R, W, D] (sec. 3.7.2)."""
        if self.time is not None:
            x = torch.cat([x, self.time(x.sum(0), self.time.prepare(batch))[None]])
        if self.config.fusion == "add":
            return x.sum(0)
        return self.fuse(x.movedim(0, -2).flatten(-2))

    def candidates(self, vectors: list[Tensor]) -> Tensor:
        """What a state is multiplied with, so that one dot product is the sum over modalities of eq. 13."""
        return torch.stack(vectors).sum(0) if self.is_early else torch.cat(vectors, dim=-1)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, slot=batch.slot)

    def item_table(self) -> Tensor:
        device = next(self.parameters()).device
        return self.candidates(self.vectors(torch.arange(1, self.n_items + 1, device=device)))

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Eq. 14 with K uniform negatives per target (the paper: one)."""
        ids = batch.item_seq, pairs(batch)
        inputs, items = zip(*(look_up(table, *ids) for table in self._tables()), strict=True)
        state = self.encode(batch, list(inputs), slot=batch.slot)
        scores = dots(state, self.candidates(list(items)))  # [T, 1 + K]
        return {"bce": bce(scores[:, 0], scores[:, 1:])}
