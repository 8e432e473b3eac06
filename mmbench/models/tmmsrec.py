"""TMMSRec: Time-interval-aware Multi-Modal Sequential Recommender. Wang, Xu, Jiang, Xu, Zhuang, 2026, manuscript.
Official code: github.com/wangpp0602/TMMSRec @ 7e65e82; its slips are in tmmsrec_released.py.

Each item has an id, a text and an image vector. The time interval encoder (TIE) rotates every vector by the year, month
and day of its event; vector + rotated vector enter a causal encoder per modality (first fusion), and the dot products
of the modalities' states and item vectors are added up (second fusion).

Axes: R rows, W width, D hidden, J = D/6 blocks of the rotation, M modalities (id, text, image), T targets,
K negatives, N items.
Follows: eq. 2-4 and 6 vectors(), 5 and 7-9 TimeIntervalEncoder(), 10-11 encode(), 12-13 query() and item_table(),
14 loss(); table 5 PositionTable(), table 6 fuse_early(), fig. 6 make_encoder().
Differences that matter (tmmsrec.toml lists all, with their switches):
(1) encoders: separate parameters for each modality, as in eq. 10; the code shares an encoder.
(2) padding in attention: hidden; in the code all positions of left padding take part in the softmax.
(3) items without text or image: the zero vector, even after a linear map with a bias, so that they neither gain nor
    lose score; the paper drops such items from the data.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.calendar import civil_date
from mmbench.nn.convolution import CausalConvEncoder
from mmbench.nn.features import FeatureTable, available, look_up
from mmbench.nn.layers import Dropout, PreQueryEncoder, check_heads, take_slots, zero_padding
from mmbench.nn.losses import dots, pairs, wide
from mmbench.nn.mlp import MLPEncoder
from mmbench.settings.config import PositiveInt, Probability

Modality = Literal["id", "text", "image"]


@dataclass(frozen=True, kw_only=True)
class TMMSRecConfig(Sampling):
    loss: Loss = "bce"
    modalities: tuple[Modality, ...] = ("id", "text", "image")  # table 4
    position: Literal["tie", "none", "random", "sinusoidal"] = "tie"  # table 5
    fusion: Literal["two-stage", "add", "linear", "mlp"] = "two-stage"  # table 6
    backbone: Literal["sasrec", "gru4rec", "nextitnet", "mlp4rec"] = "sasrec"  # fig. 6
    hidden_dim: PositiveInt  # a multiple of 6
    n_layers: PositiveInt  # blocks of SASRec, layers of the GRU or the MLPs, [1, 4] of NextItNet
    n_heads: PositiveInt
    dropout: Probability
    tie_dropout: Probability = 0.0  # applies to TIE's output

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % 6:
            low = self.hidden_dim // 6 * 6
            near = " or ".join(str(width) for width in (low, low + 6) if width)
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not divisible by 6 (TIE turns blocks of six dims, "
                f"a pair each for year, month and day); use {near}"
            )
        check_heads(self.hidden_dim, self.n_heads)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(
                f"modalities {list(self.modalities)} must name at least one of id, text, image, each once"
            )


class TimeIntervalEncoder(nn.Module):
    """TIE, eq. 7-9: turns block j of six dims by (year, month, day) * theta_j, two dims each.

    Eq. 7 multiplies a row vector from the left, which turns it by minus the angle of eq. 9.
    """

    def __init__(self, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.drop = Dropout(dropout)

    def prepare(self, batch: Batch) -> Tensor:
        """Return cos and sin of every angle, float64 [2, R, W, J, 3], for all modalities; padding has angle 0.

        In float32 the year's angle (2014 rad at j = 1) is off by 1e-4, so angles are formed in float64.
        """
        date = torch.stack(civil_date(batch.time_seq), dim=-1) * batch.mask[..., None]  # [R, W, 3]
        block = torch.arange(self.dim // 6, dtype=torch.float64, device=date.device)
        theta = 10_000.0 ** (-6.0 * block / self.dim)  # [J]
        angle = date[..., None, :] * theta[:, None]  # eq. 9  [R, W, J, 3]
        return torch.stack([angle.cos(), angle.sin()])

    def turn(self, x: Tensor, prepared: Tensor) -> Tensor:
        """Return e P of eq. 7 by block, [..., R, W, J, 6], of x [..., R, W, D]."""
        x = wide(x)
        turn = torch.complex(prepared[0], -prepared[1]).to(x.dtype.to_complex())  # exp(-i angle)
        pairs_of_dims = torch.view_as_complex(x.unflatten(-1, (*turn.shape[-2:], 2)))  # [..., R, W, J, 3]
        return torch.view_as_real(pairs_of_dims * turn).flatten(-2)

    def forward(self, x: Tensor, prepared: Tensor) -> Tensor:
        """Return e P of x [..., R, W, D], in the same shape."""
        return self.drop(self.turn(x, prepared).flatten(-2))


class PositionTable(nn.Module):
    """Table 5's TMMSRec-RP and -VP: a fixed vector per position, counted from the oldest kept item."""

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
        """Return the vector of each position, [R, W, D]."""
        return self.table[batch.position]

    def forward(self, x: Tensor, prepared: Tensor) -> Tensor:
        return prepared


class GRUEncoder(nn.Module):
    """GRU4Rec as a backbone: a GRU without biases, then a linear map (`baselines/gru4rec`, variant A)."""

    def __init__(self, *, dim: int, n_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, num_layers=n_layers, bias=False, batch_first=True)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return states [R, W, D], or [T, D] at `slot` only, of x [R, W, D], a right-padded history per row."""
        return self.out(take_slots(self.gru(x)[0], slot))


class NextItNetEncoder(nn.Module):
    """NextItNet as a backbone: residual blocks of dilations 1, 4, then a linear map (`baselines/nextitnet`)."""

    def __init__(self, *, dim: int, n_layers: int) -> None:
        super().__init__()
        self.stack = CausalConvEncoder(dim=dim, n_blocks=n_layers)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return states [R, W, D], or [T, D] at `slot` only, of packed or padded rows x [R, W, D].

        A convolution reaches as far back as the attention mask [R, W, W] allows.
        """
        return self.out(take_slots(self.stack(x, mask.sum(-1) - 1), slot))


class MLPBackbone(nn.Module):
    """MLP4Rec as a backbone: its MLPs along time and channels; an event is a single row, so there is no row mixer."""

    def __init__(self, *, dim: int, max_len: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.mixer = MLPEncoder(dim=dim, max_len=max_len, n_rows=1, n_layers=n_layers, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return states [R, max_len, D], or [T, D] at `slot`, of x [R, max_len, D]; zeros of padding are mixed in."""
        return self.mixer((x * real[..., None].to(x.dtype))[:, :, None], slot)


def make_encoder(config: TMMSRecConfig, max_len: int, n_groups: int | None = None) -> nn.Module:
    """Return the user encoder of eq. 10; every backbone is called with (x, attention mask, is real, slots).

    SASRec's takes all modalities in a single call, x [M, R, W, D], and has weights for each of the `n_groups`, if any.
    """
    dim, n_layers = config.hidden_dim, config.n_layers
    if config.backbone == "gru4rec":
        return GRUEncoder(dim=dim, n_layers=n_layers)
    if config.backbone == "nextitnet":
        return NextItNetEncoder(dim=dim, n_layers=n_layers)
    if config.backbone == "mlp4rec":
        return MLPBackbone(dim=dim, max_len=max_len, n_layers=n_layers, dropout=config.dropout)
    return PreQueryEncoder(
        dim=dim, inner_dim=dim, n_layers=n_layers, n_heads=config.n_heads, dropout=config.dropout,
        project_out=True, n_groups=n_groups,
    )  # fmt: skip


class TMMSRec(Recommender[TMMSRecConfig]):
    def __init__(self, config: TMMSRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim, self.is_early = config.hidden_dim, config.fusion != "two-stage"
        self.modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self.features = nn.ModuleDict()
        for modality in self.modalities:
            self._add_modality(modality, catalog)
        self.drop = Dropout(config.dropout)
        self.time = self.make_time(catalog)
        n_fused = len(self.modalities) + (self.time is not None)
        if config.fusion == "linear":
            self.fuse: nn.Module = nn.Linear(n_fused * dim, dim)
        elif config.fusion == "mlp":
            self.fuse = nn.Sequential(nn.Linear(n_fused * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        is_single = self.is_early or self.shares_encoder
        self.is_grouped = config.backbone == "sasrec" and not is_single
        names = ("all",) if is_single or self.is_grouped else self.modalities
        n_groups = len(self.modalities) if self.is_grouped else None
        self.encoders = nn.ModuleDict(
            {name: make_encoder(config, catalog.max_len, n_groups) for name in names}
        )
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _add_modality(self, modality: str, catalog: Catalog) -> None:
        """Add a trained table of ids, or frozen features, mapped where their width is not D (eq. 2-4)."""
        dim = self.config.hidden_dim
        if modality == "id":
            self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
            return
        feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
        self.features[modality] = FeatureTable(feat, present, dim, keep_width=True, unit_norm=False)

    @property
    def shares_encoder(self) -> bool:
        """Return whether all modalities share an encoder."""
        return False

    def make_time(self, catalog: Catalog) -> TimeIntervalEncoder | PositionTable | None:
        """Return the encoder of an event's date or position; None = events have neither."""
        dim, kind = self.config.hidden_dim, self.config.position
        if kind == "tie":
            return TimeIntervalEncoder(dim=dim, dropout=self.config.tie_dropout)
        return None if kind == "none" else PositionTable(dim=dim, max_len=catalog.max_len, kind=kind)

    def _init_weights(self) -> None:
        """Draw Xavier-normal matrices, as the code does. torch's attention stacks query, key and value into a matrix of
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
        return config.position == "tie" if modality == "time" else modality in config.modalities

    @property
    def needs(self) -> Needs:
        """Return the needs; not stackable with a GRU, which torch cannot vectorise."""
        extras = self.next_item.extras
        if self.config.backbone == "mlp4rec":  # dense along time: a state sees later events and the padding
            return Needs(layout="fixed", samples=("prefix",), causal=False, extras=extras)
        is_recurrent = self.config.backbone == "gru4rec"
        return Needs(
            layout="padded" if is_recurrent else "packed", samples=("last-window", "all", "prefix"),
            stackable=not is_recurrent, extras=extras,
        )  # fmt: skip

    def extra_state(self) -> dict[str, Any]:
        return {"modalities": self.modalities}

    # -- score --------------------------------------------------------------------------------------------

    def vectors(self, ids: Tensor) -> list[Tensor]:
        """Return the vectors of items `ids` [...] by modality (eq. 2-4, 6), [..., D] each; a missing vector is zero."""
        return [table(ids) for table in self._tables()]

    def _tables(self) -> list[nn.Module]:
        return [self.item_emb if name == "id" else self.features[name] for name in self.modalities]

    def attention_mask(self, batch: Batch) -> Tensor:
        """Return which positions (axis 2) each position (axis 1) may look at, bool [R, W, W]."""
        return batch.attention_mask(causal=True)

    def encode(
        self, batch: Batch, vectors: list[Tensor] | None = None, *, slot: Tensor | None = None
    ) -> Tensor:
        """Return the states of all positions (eq. 10-11), [R, W, M*D] (early fusion: [R, W, D]), or [T, M*D] at `slot`.

        vectors  those of item_seq, if the caller has them already
        """
        vectors = self.vectors(batch.item_seq) if vectors is None else vectors
        x = self.drop(torch.stack(vectors))  # [M, R, W, D]
        if self.is_early:
            x = self.fuse_early(x, batch)[None]
        elif self.time is not None:
            x = x + self.time(x, self.time.prepare(batch))  # eq. 11
        mask = self.attention_mask(batch)
        if self.config.backbone == "sasrec":
            states = self.encoders["all"](x, mask, batch.mask, slot)
        else:
            names = self.modalities if len(self.encoders) > 1 else list(self.encoders) * len(x)
            inputs = zip(names, x, strict=True)
            states = torch.stack([self.encoders[name](part, mask, batch.mask, slot) for name, part in inputs])
        return states.movedim(0, -2).flatten(-2)  # eq. 10

    def fuse_early(self, x: Tensor, batch: Batch) -> Tensor:
        """Fuse the modalities x [M, R, W, D] with time, as if it were another modality, into [R, W, D] (sec. 3.7.2).

        The paper has no equations; here time is TIE of the sum of the modalities.
        """
        if self.time is not None:
            x = torch.cat([x, self.time(x.sum(0), self.time.prepare(batch))[None]])
        if self.config.fusion == "add":
            return x.sum(0)
        return self.fuse(x.movedim(0, -2).flatten(-2))

    def candidates(self, vectors: list[Tensor]) -> Tensor:
        """Return the vectors that a state is multiplied by, such that a dot product sums the modalities (eq. 13)."""
        return torch.stack(vectors).sum(0) if self.is_early else torch.cat(vectors, dim=-1)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, slot=batch.slot)

    def item_table(self) -> Tensor:
        device = next(self.parameters()).device
        return self.candidates(self.vectors(torch.arange(1, self.n_items + 1, device=device)))

    def meets_few(self, batch: TrainBatch) -> bool:
        """Return whether each state meets two items, or all states together fewer than there are."""
        if not self.next_item.has_target_negatives:
            return False
        return batch.negatives.shape[1] == 1 or len(batch.target) + batch.negatives.numel() < self.n_items

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return eq. 14; where the states meet few items, only these are looked up."""
        if not self.meets_few(batch):
            return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}
        met = pairs(batch)
        found = (look_up(table, batch.item_seq, met) for table in self._tables())
        inputs, items = zip(*found, strict=True)
        state = self.encode(batch, list(inputs), slot=batch.slot)
        scores = dots(state, self.candidates(list(items)))  # [T, 1 + K]
        loss = self.next_item.from_scores(scores[:, 0], scores[:, 1:], batch.negatives, batch)
        return {self.config.loss: loss}
