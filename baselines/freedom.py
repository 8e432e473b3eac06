"""FREEDOM: A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation. Zhou and Shen,
ACM MM 2023, arXiv:2211.06924.  Official code: github.com/enoche/FREEDOM @ 6f896e2.

Two graphs: a frozen graph of items that look or read similarly, built once from features, and the user-item graph of
training events, of which each epoch keeps few edges, preferably those between rare users and items. LightGCN runs on
the second, an average over neighbours on the first; their sum meets the user. The order of events is ignored.

Axes: T triples (user u, training item i, negative j), U users, N items, P distinct training pairs, E edges, D width,
F width of features, k neighbours.
Follows: sec. 3.1 ItemGraph, 3.2 Adjacency, _prune(), 3.3 nodes() with light_gcn(), 3.4 loss(), 3.5 query() and
item_table().
Differences: (1) The features that the auxiliary loss maps are frozen, like the graph; the code trains a copy of them
(`train_features`). (2) An item without a modality has no neighbours there; in the code its zero row makes it a
neighbour of every item. (3) Every training event is a sample; the code collapses repeats. The recipe has all
differences.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.features import check_modalities, chosen, feature_margins
from mmbench.nn.graph import Graph, both_ways, distinct_pairs
from mmbench.nn.losses import bpr, dots, pairs
from mmbench.nn.memo import Memo
from mmbench.nn.neighbours import nearest_by_cosine
from mmbench.settings.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, Probability

TINY = 1e-7  # added to degrees, as in the code


@dataclass(frozen=True, kw_only=True)
class FREEDOMConfig:
    hidden_dim: PositiveInt
    n_layers: NonNegativeInt  # L_ui
    n_item_layers: PositiveInt  # L_ii
    n_neighbours: PositiveInt  # k, the item itself among them
    image_share: Fraction  # alpha_v
    edge_dropout: Probability  # rho
    auxiliary_weight: NonNegativeFloat  # lambda of the auxiliary loss
    modalities: tuple[Literal["text", "image"], ...]
    use_item_graph: bool = True
    train_features: bool = False

    def __post_init__(self) -> None:
        check_modalities(self.modalities)


class Adjacency(Graph):
    """D^-1/2 A D^-1/2 of the user-item graph of some pairs; its nodes are the users, then the items."""

    weight: Tensor  # float [E], of each edge

    def __init__(self, user: Tensor, item: Tensor, *, n_users: int, n_items: int) -> None:
        """Take pairs int64 [P], items from 0."""
        n = n_users + n_items
        super().__init__(*both_ways(user, item, n_users), n_sources=n, n_targets=n)
        self.n_users = n_users
        self.register_buffer("weight", self._weights().to(torch.get_default_dtype()), persistent=False)

    def _weights(self) -> Tensor:
        scale = (self.degree.double() + TINY).rsqrt()
        return scale[self.target] * scale[self.source]

    def replace_pairs(self, user: Tensor, item: Tensor) -> None:
        """Replace the pairs by as many others, and recompute the degrees."""
        self.replace(*both_ways(user, item, self.n_users))
        self.weight.copy_(self._weights())

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.weight, x)


def light_gcn(graph: Adjacency, x: Tensor, n_layers: int) -> Tensor:
    """Return the mean of x [U + N, D] and of the results of 1 to n_layers steps over the graph."""
    layers = [x]
    for _ in range(n_layers):
        layers.append(graph(layers[-1]))
    return torch.stack(layers).mean(0)


class ItemGraph(Graph):
    """S: each item's row is the mean of its neighbours, itself among them; rows sum to 1, columns need not."""

    weight: Tensor  # float [E]

    def __init__(self, shares: dict[str, float], catalog: Catalog, k: int) -> None:
        """Take the weight of each modality; an item that lacks either has the other's row, and without both itself."""
        n = catalog.n_items
        feats = {name: getattr(catalog, f"{name}_feat") for name in shares}
        has = {name: getattr(catalog, f"has_{name}") for name in shares}
        share = torch.stack([has[name].double() * shares[name] for name in shares])  # [M, N + 1]
        alone = torch.stack([has[name].double() for name in shares])
        # An item whose only modality has share 0 takes the row of that modality all the same.
        share = torch.where(share.sum(0) > 0, share, alone)
        share = share / share.sum(0).clamp(min=TINY)
        bare = (share.sum(0)[1:] == 0).nonzero()[:, 0]
        sources, targets, weights = [bare], [bare], [torch.ones(len(bare), dtype=torch.float64)]
        for row, name in zip(share, shares, strict=True):
            items, near = nearest_by_cosine(feats[name], has[name], k)
            width = near.shape[1]
            sources.append(near.flatten() - 1)
            targets.append(items.repeat_interleave(width) - 1)
            weights.append((row[items] / (width + TINY)).repeat_interleave(width))
        super().__init__(torch.cat(sources), torch.cat(targets), n_sources=n, n_targets=n)
        weight = torch.cat(weights)[self.order]
        self.register_buffer("weight", weight.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.weight, x)


class FREEDOM(Recommender[FREEDOMConfig]):
    user: Tensor  # int64 [P], of each distinct training pair
    item: Tensor  # int64 [P], from 0
    log_odds: Tensor  # float64 [P], log of 1 / sqrt(deg u deg i)

    def __init__(self, config: FREEDOMConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.n_users = catalog.n_users
        feats = chosen(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self.modalities = list(feats)
        self._add_user_graphs(catalog)
        if config.use_item_graph:
            shares = {"image": config.image_share, "text": 1 - config.image_share}
            used = {name: shares[name] if len(self.modalities) > 1 else 1.0 for name in self.modalities}
            self.item_graph = ItemGraph(used, catalog, config.n_neighbours)
        self.user_emb = nn.Embedding(catalog.n_users, config.hidden_dim)
        # Row i - 1 is item i: padding is not a node.
        self.item_emb = nn.Embedding(catalog.n_items, config.hidden_dim)
        if config.auxiliary_weight:
            self._add_auxiliary(feats)
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)
        with torch.no_grad():  # users without a training event are never trained
            self.user_emb.weight[catalog.histories.n_events == 0] = 0.0
        self.memo: Memo[tuple[Tensor, Tensor]] = Memo()

    def _add_user_graphs(self, catalog: Catalog) -> None:
        user, item = distinct_pairs(catalog.histories.users, catalog.train_items - 1, catalog.n_items)
        sizes = {"n_users": catalog.n_users, "n_items": catalog.n_items}
        self.full = Adjacency(user, item, **sizes)
        degree = self.full.degree.double() + TINY
        odds = -0.5 * (degree[user].log() + degree[catalog.n_users + item].log())
        for name, tensor in (("user", user), ("item", item), ("log_odds", odds)):
            self.register_buffer(name, tensor, persistent=False)
        if self.config.edge_dropout:
            kept = self._prune()
            self.pruned = Adjacency(user[kept], item[kept], **sizes)

    def _add_auxiliary(self, feats: dict[str, Tensor]) -> None:
        """Add T_m of each modality, without biases: these would cancel in every comparison."""
        self.maps = nn.ModuleDict()
        for name, feat in feats.items():
            self.maps[name] = nn.Linear(feat.shape[1], self.config.hidden_dim, bias=False)
            if self.config.train_features:
                self.register_parameter(f"{name}_feat", nn.Parameter(feat.clone()))
            else:
                self.register_buffer(f"{name}_feat", feat, persistent=False)

    @classmethod
    def reads(cls, config: FREEDOMConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=("pairs",), causal=False, extras=(Negatives(),))

    # -- graphs -------------------------------------------------------------------------------------------

    def _prune(self) -> Tensor:
        """Draw int(P (1 - rho)) distinct pairs, preferably of small degrees; return their indices, ascending.

        The largest of log p + Gumbel noise are a draw without replacement with probabilities p.
        """
        n_kept = int(len(self.user) * (1.0 - self.config.edge_dropout))
        uniform = torch.rand(len(self.user), dtype=torch.float64, device=self.log_odds.device)
        keys = self.log_odds - (-uniform.log()).log()
        return keys.topk(n_kept).indices.sort().values

    def start_epoch(self, epoch: int) -> None:
        if self.config.edge_dropout:
            kept = self._prune()
            self.pruned.replace_pairs(self.user[kept], self.item[kept])

    def nodes(self, graph: Adjacency) -> tuple[Tensor, Tensor]:
        """Return z of all users [U, D] and of all items [N, D]."""
        start = torch.cat([self.user_emb.weight, self.item_emb.weight])
        users, items = light_gcn(graph, start, self.config.n_layers).split([self.n_users, self.n_items])
        if self.config.use_item_graph:
            similar = self.item_emb.weight
            for _ in range(self.config.n_item_layers):
                similar = self.item_graph(similar)
            items = items + similar
        return users, items

    # -- training and scores ------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return BPR on z, and lambda times BPR of z_u with the mapped features of each modality."""
        users, items = self.nodes(self.pruned if self.config.edge_dropout else self.full)
        ids = pairs(batch)  # [T, 2]
        user = F.embedding(batch.user, users)
        scores = dots(user, F.embedding(ids - 1, items))
        terms = {"bpr": bpr(scores[:, 0], scores[:, 1:])}
        if self.config.auxiliary_weight:
            for name in self.modalities:
                feat: Tensor = getattr(self, f"{name}_feat")
                margins = feature_margins(user, cast(nn.Linear, self.maps[name]).weight.mT, feat, ids)
                terms[name] = self.config.auxiliary_weight * F.softplus(-margins).mean()
        return terms

    def ranked_nodes(self) -> tuple[Tensor, Tensor]:
        """Return the nodes of the whole graph, which a ranking computes once."""
        return self.memo(self, lambda: self.nodes(self.full))

    def query(self, batch: Batch) -> Tensor:
        return F.embedding(batch.user, self.ranked_nodes()[0])

    def item_table(self) -> Tensor:
        return self.ranked_nodes()[1]

    def train(self, mode: bool = True) -> "FREEDOM":
        self.memo.forget()
        super().train(mode)
        return self
