"""MAML: User Diverse Preference Modeling by Multimodal Attentive Metric Learning. Liu, Cheng, Sun, Wang, Nie,
Kankanhalli, ACM MM 2019, arXiv:1908.07738 (not the meta-learning of that name).  Official code:
github.com/liufancs/MAML @ a547be2.

Users and items are points in a unit ball; users like the items that are near. An attention vector for each pair of a
user and an item weighs the dimensions of their distance; it reads both vectors and the output of a network for the
item's text and picture. The order of events is ignored.

    D(u, i) = sum_k w_k(u, i)^2 (P_uk - Q_ik)^2,    score = -D

Axes: T targets, K negatives, U users, N items, F width of both features, D width, B items of a block.
Follows (the equations of the official code, because the paper's text was not available): FeatureNet f_i,
PairAttention w and D, loss() with impostors() the ranked hinge, covariance(), constrain() the unit ball.
Differences: (1) Both networks are trained, as the paper presents them; the code's optimiser gets P and Q only
(`train_nets = false`). (2) Loss terms are means over targets and items; the code's are sums (`loss_reduction`). (3) The
covariance term is the sum of squared entries off the diagonal; the code's signed sum penalises nothing
(`covariance`). The recipe has all differences.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.features import FeatureNorm, check_modalities, chosen, rescaled
from mmbench.nn.layers import Dropout
from mmbench.nn.losses import pairs
from mmbench.nn.memo import Memo
from mmbench.settings.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability

EPS = 1e-6  # is the smallest divisor of a vector, as in the code
# Numbers of the attention's hidden layer, and items, that a ranking holds together; a CPU's cache fits them.
MOST_HIDDEN = {"cpu": 2**18, "cuda": 2**26}
ITEM_BLOCK = {"cpu": 128, "cuda": 1024}
PROJECTED_BLOCK = 4096  # items that are projected together when the model is built


@dataclass(frozen=True, kw_only=True)
class MAMLConfig:
    hidden_dim: PositiveInt  # d
    inner_dim: PositiveInt  # H, the width of the feature network
    n_negatives: PositiveInt  # W
    margin: PositiveFloat
    dropout: Probability  # applies to the feature network
    attn_dropout: Probability
    feature_weight: NonNegativeFloat  # lambda_f
    covariance_weight: NonNegativeFloat  # lambda_c
    covariance: Literal["squared", "signed"]
    loss_reduction: Literal["mean", "sum"]
    n_feature_items: NonNegativeInt  # items that a step's feature loss reads; 0 = all
    train_nets: bool  # False: the networks keep their initial weights, without dropout
    modalities: tuple[Literal["text", "image"], ...] = ("text", "image")
    centre: bool  # subtracts the mean feature of the items that have features
    feature_norm: FeatureNorm  # applies to each modality

    def __post_init__(self) -> None:
        check_modalities(self.modalities)
        if self.inner_dim < 2:
            raise ValueError(
                f"inner_dim {self.inner_dim} cannot be halved for two of the layers; use 2 or more"
            )


def dense(d_in: int, d_out: int) -> nn.Linear:
    """Return a map with TensorFlow's initial weights: Glorot-uniform, biases 0."""
    linear = nn.Linear(d_in, d_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class FeatureNet(nn.Module):
    """Features of unit norm [.., F] -> f [.., D] inside the unit ball."""

    def __init__(self, d_in: int, config: MAMLConfig) -> None:
        super().__init__()
        half = config.inner_dim // 2
        widths = (d_in, config.inner_dim, half, half, config.hidden_dim)
        self.layers = nn.ModuleList(dense(a, b) for a, b in pairwise(widths))
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, last = self.layers
        x = first(x).relu()
        for layer in (second, third):
            x = layer(F.normalize(self.drop(x), dim=-1, eps=EPS)).relu()
        return into_ball(last(self.drop(x)))


def into_ball(x: Tensor) -> Tensor:
    """Return x with longer rows shortened to norm 1."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1.0)


class Side(NamedTuple):
    """A user or an item in a pair: its vector, its share of the attention's first layer, and its squared norm."""

    vector: Tensor  # [.., D]
    mapped: Tensor  # [.., 5D]
    square: Tensor  # [.., 1]


class PairAttention(nn.Module):
    """w = D softmax(relu(A2 l2norm(tanh(A1 l2norm([P_u; Q_i; f_i]))))), and the distance that it weighs.

    The first layer is a user's plus an item's share over the norm of the three: pairs need no product for it.
    """

    def __init__(self, config: MAMLConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.first, self.second = dense(3 * dim, 5 * dim), dense(5 * dim, dim)
        self.drop = Dropout(config.attn_dropout)

    def user_side(self, user: Tensor) -> Side:
        """Return the side of users P [.., D]."""
        of_user, _, _ = self.first.weight.chunk(3, 1)
        return Side(user, user @ of_user.mT, user.square().sum(-1, keepdim=True))

    def item_side(self, item: Tensor, feature: Tensor) -> Side:
        """Return the side of items Q and f, [.., D] each."""
        _, of_item, of_feature = self.first.weight.chunk(3, 1)
        square = item.square().sum(-1, keepdim=True) + feature.square().sum(-1, keepdim=True)
        return Side(item, item @ of_item.mT + feature @ of_feature.mT, square)

    def weights(self, user: Side, item: Side) -> Tensor:
        """Return w [.., D] of pairs, whose sum is D; leading axes are broadcast."""
        norm = (user.square + item.square).clamp(min=EPS**2).sqrt()
        hidden = ((user.mapped + item.mapped) / norm + self.first.bias).tanh()
        raw = self.second(F.normalize(self.drop(hidden), dim=-1, eps=EPS)).relu()
        return raw.shape[-1] * raw.softmax(-1)

    def distance(self, user: Side, item: Side) -> Tensor:
        """Return D(u, i) of pairs; leading axes are broadcast."""
        return (self.weights(user, item) * (user.vector - item.vector)).square().sum(-1)


def impostors(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the share of the negatives [T, K] whose distance is below that of the positive [T] plus the margin."""
    return (positive[:, None] - negative + margin > 0).to(positive.dtype).mean(1)


def covariance(x: Tensor, kind: Literal["squared", "signed"]) -> Tensor:
    """Return the sum of the covariances of different dimensions of x [n, D], squared or signed."""
    centred = x - x.mean(0)
    matrix = centred.mT @ centred / len(x)
    if kind == "signed":
        return matrix.sum() - matrix.diagonal().sum()
    return matrix.square().sum() - matrix.diagonal().square().sum()


class MAML(Recommender[MAMLConfig]):
    feat: Tensor  # float [N + 1, F], rows of unit norm

    def __init__(self, config: MAMLConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.register_buffer("feat", joined_features(config, catalog), persistent=False)
        dim = config.hidden_dim
        self.feature_net = FeatureNet(self.feat.shape[1], config)
        self.attention = PairAttention(config)
        self.user_emb = nn.Embedding(catalog.n_users, dim)  # P
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)  # Q
        nn.init.normal_(self.user_emb.weight, std=dim**-0.5)
        with torch.no_grad():
            self.item_emb.weight.copy_(self._project())
            self.item_emb.weight[0] = 0.0
            # Users without a training event are never trained; they stay at the centre of the ball.
            self.user_emb.weight[catalog.histories.n_events == 0] = 0.0
        if not config.train_nets:
            self.freeze_nets()
        self.memo: Memo[Side] = Memo()

    @torch.no_grad()
    def _project(self) -> Tensor:
        """Return f of all items [N + 1, D] without dropout, with the same digits on every machine."""
        net = copy.deepcopy(self.feature_net).double().eval()
        blocks = [net(block.double()) for block in self.feat.split(PROJECTED_BLOCK)]
        return torch.cat(blocks).to(torch.get_default_dtype())

    @torch.no_grad()
    def freeze_nets(self) -> None:
        """Make the weights of the networks constants; f is then constant too and computed once."""
        for module in (*self.feature_net.modules(), *self.attention.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach().clone())
        self.register_buffer("fixed_features", self._project())
        self.feature_net.drop.p = self.attention.drop.p = 0.0

    @classmethod
    def reads(cls, config: MAMLConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        extras = (Negatives(k=self.config.n_negatives),)
        return Needs(layout="padded", samples=("pairs",), causal=False, extras=extras)

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Shorten the rows of P and Q that left the unit ball."""
        for name in ("user_emb.weight", "item_emb.weight"):
            parameters[name].copy_(into_ball(parameters[name]))

    # -- training -----------------------------------------------------------------------------------------

    def features(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return f of the ids [T, 1 + K], [T, 1 + K, D], and Q and f [n, D] of the items in the feature loss."""
        n, every = self.config.n_feature_items, self.item_emb.weight[1:]
        if not self.config.train_nets:
            fixed: Tensor = self.get_buffer("fixed_features")
            return F.embedding(ids, fixed), every, fixed[1:]
        if not n:
            of_all = self.feature_net(self.feat[1:])
            return F.embedding(ids - 1, of_all), every, of_all
        drawn = (torch.rand(n, device=ids.device) * self.n_items).long() + 1
        together = self.feature_net(F.embedding(torch.cat([ids.flatten(), drawn]), self.feat))
        of_ids, of_drawn = together.split([ids.numel(), n])
        return of_ids.unflatten(0, ids.shape), self.item_emb(drawn), of_drawn

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the hinge of the nearest negative times log(rank + 1), the feature loss and the covariances."""
        config, ids = self.config, pairs(batch)  # [T, 1 + K]
        feature_of_ids, items, features = self.features(ids)
        user = self.attention.user_side(self.user_emb(batch.user)[:, None])
        item = self.attention.item_side(self.item_emb(ids), feature_of_ids)
        distance = self.attention.distance(user, item)  # [T, 1 + K]
        positive, negative = distance[:, 0], distance[:, 1:]
        hinge = (positive - negative.amin(1) + config.margin).relu()
        rank = self.n_items * impostors(positive.detach(), negative.detach(), config.margin)
        terms = hinge * rank.log1p()
        apart = (items - features).square().sum(1).mean()
        is_sum = config.loss_reduction == "sum"
        points = torch.cat([self.item_emb.weight[1:], self.user_emb.weight])
        return {
            "rank": terms.sum() if is_sum else terms.mean(),
            "feature": config.feature_weight * apart * (self.n_items if is_sum else 1),
            "covariance": config.covariance_weight * covariance(points, config.covariance),
        }

    # -- scores -------------------------------------------------------------------------------------------

    def items_side(self) -> Side:
        """Return the side of all items, which a ranking computes once."""

        def work() -> Side:
            f = (
                self.feature_net(self.feat[1:])
                if self.config.train_nets
                else self.get_buffer("fixed_features")[1:]
            )
            return self.attention.item_side(self.item_emb.weight[1:], f)

        return self.memo(self, work)

    def score(self, batch: Batch) -> Tensor:
        """Return -D(u, i), block after block of users and items: no [T, N, 5D] is formed."""
        users, items = self.attention.user_side(self.user_emb(batch.user)), self.items_side()
        n_items = min(self.n_items, ITEM_BLOCK[batch.user.device.type])
        n_users = max(1, MOST_HIDDEN[batch.user.device.type] // (n_items * items.mapped.shape[1]))
        scores = users.vector.new_empty(len(batch.user), self.n_items)
        for low in range(0, len(scores), n_users):
            user = Side(*(part[low : low + n_users, None] for part in users))
            for first in range(0, self.n_items, n_items):
                item = Side(*(part[first : first + n_items] for part in items))
                scores[low : low + n_users, first : first + n_items] = -self.attention.distance(user, item)
        return scores

    def train(self, mode: bool = True) -> "MAML":
        self.memo.forget()
        super().train(mode)
        return self


def joined_features(config: MAMLConfig, catalog: Catalog) -> Tensor:
    """Return l2norm([text | image]) of each item, float [N + 1, F]; a missing modality is zero."""
    parts = []
    for name, feat in chosen(config.modalities, text=catalog.text_feat, image=catalog.image_feat).items():
        present: Tensor = getattr(catalog, f"has_{name}")
        if config.centre:
            feat = (feat - feat[present].mean(0)) * present[:, None]
        parts.append(rescaled(feat, present, config.feature_norm))
    return F.normalize(torch.cat(parts, 1), dim=1, eps=EPS)
