"""Matrix factorisation trained by BPR whose items also have frozen features: VBPR, and its relatives.

    x(u, i) = beta_i + gamma_u . gamma_i + sum over feature tables m of  theta_u^m . (E_m f_i^m) + beta^m . f_i^m

A user is its id alone; the order of events is not used. `ContentBPR` builds on the contract of mmbench.models.base; its
subclasses are model files, which name the feature tables.

Axes: T triples (user u, training item i, negatives j), K negatives, D width, F width of the features, N items, U users.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.features import FeatureNorm, feature_margins
from mmbench.nn.losses import dots, pairs
from mmbench.settings.config import NonNegativeFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class ContentBPRConfig:
    hidden_dim: PositiveInt
    dim_split: Literal["shared", "full"] = "shared"  # hidden_dim of all factors together, or of each
    n_negatives: PositiveInt
    use_bias: bool  # adds beta_i and beta^m
    init: Literal["normal", "xavier"]
    feature_norm: FeatureNorm
    reg: Literal["l2", "mmrec"]
    reg_weight: NonNegativeFloat  # lambda, penalises factors and item biases
    content_reg_weight: NonNegativeFloat  # lambda_E, penalises E and beta^m; "l2" only

    def __post_init__(self) -> None:
        if self.content_reg_weight and self.reg == "mmrec":
            raise ValueError("content_reg_weight belongs to reg = 'l2'; reg = 'mmrec' has reg_weight alone")


C = TypeVar("C", bound=ContentBPRConfig)


def split_width(config: ContentBPRConfig, n_parts: int) -> tuple[int, int]:
    """Return the width of the latent factors and of each part; content gets half of `hidden_dim`."""
    if config.dim_split == "full" or not n_parts:
        return config.hidden_dim, config.hidden_dim
    part_dim = config.hidden_dim // (2 * n_parts)
    if not part_dim:
        raise ValueError(
            f"hidden_dim {config.hidden_dim} leaves no width for {n_parts} feature tables; "
            f"set {2 * n_parts} or more, or dim_split = 'full'"
        )
    return config.hidden_dim - n_parts * part_dim, part_dim


class ContentPart(nn.Module):
    """The share of a table of frozen features in a score: theta_u . (E f_i) + beta . f_i."""

    feat: Tensor

    def __init__(self, feat: Tensor, n_users: int, dim: int, *, use_bias: bool) -> None:
        super().__init__()
        self.register_buffer("feat", feat, persistent=False)  # float32 [N + 1, F]
        self.user_emb = nn.Embedding(n_users, dim)  # theta
        self.map = nn.Parameter(torch.empty(feat.shape[1], dim))  # E
        self.bias = nn.Parameter(torch.zeros(feat.shape[1])) if use_bias else None  # beta

    def margins(self, theta: Tensor, ids: Tensor) -> Tensor:
        """Return by how much the first of the ids [T, 1 + K] outscores the others for users theta [T, D], [T, K]."""
        return feature_margins(theta, self.map, self.feat, ids, bias=self.bias)

    def table(self) -> tuple[Tensor, Tensor | None]:
        """Return E f_i [N, D] and beta . f_i [N] of all items."""
        feat = self.feat[1:]
        return feat @ self.map, None if self.bias is None else feat @ self.bias


class ContentBPR(Recommender[C]):
    """Base of models that pass named feature tables, float32 [N + 1, F] each."""

    def __init__(self, config: C, catalog: Catalog, features: Mapping[str, Tensor]) -> None:
        super().__init__(config, catalog)
        dim, part_dim = split_width(config, len(features))
        self.user_emb = nn.Embedding(catalog.n_users, dim)  # gamma_u
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)  # gamma_i
        self.item_bias = nn.Embedding(catalog.n_items + 1, 1, padding_idx=0) if config.use_bias else None
        self.content = nn.ModuleDict(
            {
                name: ContentPart(feat, catalog.n_users, part_dim, use_bias=config.use_bias)
                for name, feat in features.items()
            }
        )
        self._init_weights(catalog)

    @property
    def content_parts(self) -> list[ContentPart]:
        return list(self.content.values())  # type: ignore[arg-type]

    @torch.no_grad()
    def _init_weights(self, catalog: Catalog) -> None:
        users = [self.user_emb.weight, *(part.user_emb.weight for part in self.content_parts)]
        for weight in (*users, self.item_emb.weight):
            nn.init.normal_(weight, std=0.01)
        if self.config.init == "xavier":
            # MMRec keeps all user factors in a single table, whose whole width sets the bound of Xavier's rule.
            user_bound = (6 / (catalog.n_users + sum(weight.shape[1] for weight in users))) ** 0.5
            item_bound = (6 / (catalog.n_items + self.item_emb.embedding_dim)) ** 0.5
            for weight in users:
                nn.init.uniform_(weight, -user_bound, user_bound)
            nn.init.uniform_(self.item_emb.weight, -item_bound, item_bound)
        for part in self.content_parts:
            (nn.init.xavier_normal_ if self.config.init == "xavier" else nn.init.xavier_uniform_)(part.map)
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias.weight)
        self.item_emb.weight[0].zero_()
        # Users without a training event get no gradient; a zero vector ranks by what all users share.
        absent = catalog.histories.n_events == 0
        for weight in users:
            weight[absent] = 0.0

    @property
    def needs(self) -> Needs:
        extras = (Negatives(k=self.config.n_negatives),)
        return Needs(layout="padded", samples=("pairs",), causal=False, extras=extras)

    def query(self, batch: Batch) -> Tensor:
        """Return [gamma_u | theta_u^m ... | 1] of each user, [T, D]."""
        state = torch.cat(
            [self.user_emb(batch.user), *(part.user_emb(batch.user) for part in self.content_parts)], 1
        )
        return F.pad(state, (0, 1), value=1.0) if self.config.use_bias else state

    def item_table(self) -> Tensor:
        """Return [gamma_i | E_m f_i^m ... | beta_i + sum_m beta^m . f_i^m] of all items, [N, D]."""
        tables = [part.table() for part in self.content_parts]
        columns = [self.item_emb.weight[1:], *(vectors for vectors, _ in tables)]
        if self.item_bias is not None:
            bias = self.item_bias.weight[1:, 0] + sum(bias for _, bias in tables if bias is not None)
            columns.append(bias[:, None])
        return torch.cat(columns, 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the mean of -log sigma(x_uij), where x_uij = x_ui - x_uj, and the penalty if it has a weight."""
        ids = pairs(batch)  # [T, 1 + K]
        user, items = self.user_emb(batch.user), self.item_emb(ids)
        thetas = [part.user_emb(batch.user) for part in self.content_parts]
        scores = dots(user, items)
        bias = None if self.item_bias is None else self.item_bias(ids)[..., 0]
        if bias is not None:
            scores = scores + bias
        margins = scores[:, :1] - scores[:, 1:]  # x_uij [T, K]
        for part, theta in zip(self.content_parts, thetas, strict=True):
            margins = margins + part.margins(theta, ids)
        terms = {"bpr": F.softplus(-margins).mean()}
        users = torch.cat([user, *thetas], 1)
        if self.config.reg == "mmrec" and self.config.reg_weight:
            terms["reg"] = self._norm_penalty(users, items, ids)
        elif self.config.reg_weight or self.config.content_reg_weight:
            terms["reg"] = self._square_penalty(users, items, bias)
        return terms

    def _square_penalty(self, users: Tensor, items: Tensor, bias: Tensor | None) -> Tensor:
        """Return lambda / 2T times the squares of the factors [T, D], [T, 1 + K, D] and biases of the step, plus
        lambda_E / 2 times those of the maps."""
        total = users.square().sum() + items.square().sum()
        if bias is not None:
            total = total + bias.square().sum()
        penalty = self.config.reg_weight / (2 * max(len(users), 1)) * total
        if self.config.content_reg_weight:
            maps = [
                weight
                for part in self.content_parts
                for weight in (part.map, part.bias)
                if weight is not None
            ]
            squares = torch.stack([weight.square().sum() for weight in maps])
            penalty = penalty + self.config.content_reg_weight / 2 * squares.sum()
        return penalty

    def _norm_penalty(self, users: Tensor, items: Tensor, ids: Tensor) -> Tensor:
        """Return MMRec's penalty: plain norms of the users, and of the positives and negatives with their E f."""
        projected = [F.embedding(ids, part.feat) @ part.map for part in self.content_parts]
        whole = torch.cat([items, *projected], -1)  # [T, 1 + K, D]
        norms = users.norm() + whole[:, 0].norm() + whole[:, 1:].norm()
        return self.config.reg_weight * norms / max(len(users), 1)
