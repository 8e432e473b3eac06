"""MGAT: Multimodal Graph Attention Network for Recommendation. Tao, Wei, Wang, He, Huang, Chua, Information Processing
and Management 57(5), 2020, doi 10.1016/j.ipm.2020.102277.  Official code: github.com/zltao/MGAT @ 5f85961.

Each modality has a user-item graph, in which users have a free vector and items their mapped features. Gated attention
decides how much a node takes from each neighbour; id vectors, shared by all modalities and layers, are added. A node's
vector is the mean over the modalities. The order of events is ignored.

Axes: T triples (user u, training item i, negative j), U users, N items, n = U + N nodes, E directed edges, M
modalities, H latent width of a modality, D width of a layer, L layers.
Follows: the official code, because the paper's text was not available: Tower.start() latent features, GatedAttention
messages and aggregation, Layer combination, nodes() fusion of modalities, loss() BPR.
Differences: (1) Two layers, whose outputs stand side by side; in the code a `return` stands before the second
(`n_layers = 1`). (2) The loss is a mean in nats, not a sum in bits (`loss_scale`). (3) Every training event is a sample
and its pair a single edge; the code keeps repeats as parallel edges. The recipe lists all differences.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.features import check_modalities, chosen, rescaled
from mmbench.nn.graph import Graph, both_ways, distinct_pairs
from mmbench.nn.losses import dots, pairs
from mmbench.nn.memo import Memo
from mmbench.settings.config import PositiveInt


@dataclass(frozen=True, kw_only=True)
class MGATConfig:
    hidden_dim: PositiveInt  # d
    image_dim: PositiveInt  # h_m
    text_dim: PositiveInt
    n_layers: PositiveInt
    modalities: tuple[Literal["text", "image"], ...]
    combine: Literal["mean", "concat"]
    feature_norm: Literal["none", "scale"]  # "scale": mean norm sqrt(F)
    loss_scale: Literal["mean", "official"]

    def __post_init__(self) -> None:
        check_modalities(self.modalities)


class UserItemGraph(Graph):
    """Distinct training pairs as edges both ways; its nodes are the users, then the items."""

    inverse_root: Tensor  # float [E], 1 / sqrt(degree of the edge's source)

    def __init__(self, catalog: Catalog) -> None:
        n = catalog.n_users + catalog.n_items
        user, item = distinct_pairs(catalog.histories.users, catalog.train_items - 1, catalog.n_items)
        super().__init__(*both_ways(user, item, catalog.n_users), n_sources=n, n_targets=n)
        root = self.degree[self.source].double().rsqrt().to(torch.get_default_dtype())
        self.register_buffer("inverse_root", root, persistent=False)


class GatedAttention(nn.Module):
    """Messages from the neighbours of each node, x [n, D_in] -> [n, D_in], rows of norm 1.

    A neighbour s of t has the logit a * sigmoid(a / sqrt(deg s)), a = z_t . leaky(z_s), z = x W; a node is not among
    its neighbours. A node without neighbours gets the normalised bias.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim))
        self.bias = nn.Parameter(torch.empty(dim))
        nn.init.xavier_normal_(self.weight)
        nn.init.uniform_(self.bias, -(dim**-0.5), dim**-0.5)

    def forward(self, x: Tensor, graph: UserItemGraph) -> Tensor:
        z = x @ self.weight
        inner = graph.products(z, F.leaky_relu(z))
        gate = (inner * graph.inverse_root).sigmoid()
        return F.normalize(graph.softmax_mix(inner * gate, z) + self.bias, dim=1)


class Layer(nn.Module):
    """leaky(G leaky(h) + leaky(L x) + id), where h are the neighbours' messages, x [n, D_in] -> [n, D]."""

    def __init__(self, d_in: int, dim: int) -> None:
        super().__init__()
        self.attention = GatedAttention(d_in)
        # The code's linear_layer and g_layer.
        self.local, self.gathered = nn.Linear(d_in, dim), nn.Linear(d_in, dim)
        for linear in (self.local, self.gathered):
            nn.init.xavier_normal_(linear.weight)

    def forward(self, x: Tensor, ids: Tensor, graph: UserItemGraph, nodes: Tensor | None = None) -> Tensor:
        """Return the outputs of all nodes [n, D], or of `nodes` int64 [K], [K, D]; ids [n, D] are their id vectors."""
        messages, x, ids = (rows(part, nodes) for part in (self.attention(x, graph), x, ids))
        return F.leaky_relu(self.gathered(F.leaky_relu(messages)) + F.leaky_relu(self.local(x)) + ids)


def rows(x: Tensor, nodes: Tensor | None) -> Tensor:
    return x if nodes is None else F.embedding(nodes, x)


class Tower(nn.Module):
    """The initial node vectors and the layers of a modality."""

    feat: Tensor

    def __init__(self, feat: Tensor, n_users: int, latent_dim: int, dim: int, n_layers: int) -> None:
        super().__init__()
        self.register_buffer("feat", feat[1:], persistent=False)  # [N, F]
        self.user_emb = nn.Embedding(n_users, latent_dim)
        self.map = nn.Linear(feat.shape[1], latent_dim)
        self.layers = nn.ModuleList(Layer(latent_dim if k == 0 else dim, dim) for k in range(n_layers))
        nn.init.xavier_normal_(self.user_emb.weight)

    def start(self) -> Tensor:
        """Return x0 [n, H]: free vectors of users, tanh of the mapped features of items, each of norm 1."""
        return F.normalize(torch.cat([self.user_emb.weight, self.map(self.feat).tanh()]), dim=1)

    def forward(self, ids: Tensor, graph: UserItemGraph, nodes: Tensor | None = None) -> Tensor:
        """Return the outputs of all layers side by side for all nodes [n, L D], or for `nodes` [K], [K, L D].

        The last layer's attention needs all nodes; its maps need only `nodes`.
        """
        x, outputs = self.start(), []
        for layer in self.layers[:-1]:
            x = layer(x, ids, graph)
            outputs.append(rows(x, nodes))
        return torch.cat([*outputs, self.layers[-1](x, ids, graph, nodes)], 1)


class MGAT(Recommender[MGATConfig]):
    def __init__(self, config: MGATConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.n_users = catalog.n_users
        feats = chosen(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self.graph = UserItemGraph(catalog)
        self.node_emb = nn.Embedding(catalog.n_users + catalog.n_items, config.hidden_dim)
        nn.init.xavier_normal_(self.node_emb.weight)
        widths = {"image": config.image_dim, "text": config.text_dim}
        self.towers = nn.ModuleDict()
        for name, feat in feats.items():
            mean_norm = feat.shape[1] ** 0.5
            scaled = rescaled(feat, getattr(catalog, f"has_{name}"), config.feature_norm, mean_norm=mean_norm)
            self.towers[name] = Tower(
                scaled, catalog.n_users, widths[name], config.hidden_dim, config.n_layers
            )
        self._silence_absent_users(catalog)
        self.memo: Memo[Tensor] = Memo()

    @torch.no_grad()
    def _silence_absent_users(self, catalog: Catalog) -> None:
        """Zero the vectors of users without a training event: they are never trained, and so are all ranked equally."""
        absent = catalog.histories.n_events == 0
        self.node_emb.weight[: catalog.n_users][absent] = 0.0
        for tower in self.towers.values():
            cast(Tower, tower).user_emb.weight[absent] = 0.0

    @classmethod
    def reads(cls, config: MGATConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=("pairs",), causal=False, extras=(Negatives(),))

    def nodes(self, some: Tensor | None = None) -> Tensor:
        """Return the vectors of all nodes [n, L D], or only of `some` of them, int64 [K], [K, L D]."""
        vectors = [tower(self.node_emb.weight, self.graph, some) for tower in self.towers.values()]
        if self.config.combine == "concat":
            return torch.cat(vectors, 1)
        return torch.stack(vectors).mean(0)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return BPR: the mean of -log sigma(x_ui - x_uj), or the code's sum of -log2 sigma."""
        ids = pairs(batch)  # [T, 2]
        nodes = torch.cat([batch.user[:, None], self.n_users + ids - 1], 1)
        vectors = self.nodes(nodes.flatten()).unflatten(0, nodes.shape)  # [T, 3, L D]
        scores = dots(vectors[:, 0], vectors[:, 1:])
        terms = F.softplus(scores[:, 1] - scores[:, 0])
        is_official = self.config.loss_scale == "official"
        return {"bpr": terms.sum() / math.log(2) if is_official else terms.mean()}

    def ranked_nodes(self) -> Tensor:
        """Return the vectors of all nodes, which a ranking computes once."""
        return self.memo(self, self.nodes)

    def query(self, batch: Batch) -> Tensor:
        return F.embedding(batch.user, self.ranked_nodes())

    def item_table(self) -> Tensor:
        return self.ranked_nodes()[self.n_users :]

    def train(self, mode: bool = True) -> "MGAT":
        self.memo.forget()
        super().train(mode)
        return self
