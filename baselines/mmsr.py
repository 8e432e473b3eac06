"""MMSR: Adaptive Multi-Modalities Fusion in Sequential Recommendation Systems. Hu, Guo, Liu, Kan, CIKM 2023, doi
10.1145/3583780.3614775, arXiv:2308.15980.  Official code: github.com/HoldenHu/MMSR @ 320d2dc (class VLGraph).

A history is a graph: its items, and the codes of their pictures and texts (the nearest cluster centres of the
features), with edges along the sequence inside a type and edges between the three types of an event. Two attentions run
in both orders - across types first, or inside types first - and a gate on each node weighs the orders. The state of the
last item meets the item embeddings.

Axes: B histories, L events, K codes per item and modality, n nodes of a graph (n_m of type m: items, picture codes,
text codes), D hidden, T targets, N items.
Follows: the official code, and the paper where they are known to differ; Graphs and its functions are the paper's
MSGraph, inputs() the nodes' inputs, inside() and het() the attentions, both_orders() the asynchronous fusion,
query()/item_table() the scores.
The three differences that matter: (1) Keys and values have separate maps; the code overwrites both with the
queries (`qkv = "tied"`). (2) Inside-first order reads the updated nodes; in the code its second attention ignores the
first (`inside_first = "code"`). (3) Codes are clusters of principal components of the data set's features, fitted
without draws; the code clusters the output of an autoencoder.
A node's position vector is a mean over the whole history, so each prefix is a separate graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.clusters import k_means, nearest_few, principal_components
from mmbench.nn.features import look_up
from mmbench.nn.layers import Dropout
from mmbench.settings.config import PositiveInt, Probability

CONTENT = ("image", "text")  # in the order of the node types
SLOPE = 0.1  # belongs to both LeakyReLUs
N_CHAINS = 4  # relations inside a type: self, next, previous, both
MOST_ROWS, MOST_CELLS = 128, 2_000_000  # graphs, and pairs of nodes, that are computed together
HIDDEN = -1e9  # is finite: a padding row has no edges, and its softmax must not be NaN


@dataclass(frozen=True, kw_only=True)
class MMSRConfig(Sampling):
    loss: Loss = "ce"
    hidden_dim: PositiveInt
    n_layers: PositiveInt  # share their weights
    n_clusters: PositiveInt  # counts clusters of each modality
    n_codes: PositiveInt  # counts the nearest clusters of an item
    dropout: Probability
    attn_dropout: Probability
    qkv: Literal["separate", "tied"] = "separate"
    inside_first: Literal["paper", "code"] = "paper"
    orders: Literal["both", "across-first", "inside-first"] = "both"
    code_edges: Literal["all", "released"] = "all"  # "released": none for some steps between items
    nodes: Literal["unique", "positions"] = "unique"  # "positions": a node for each event and code
    candidates: Literal["items", "contents"] = "items"  # "contents": scores read the codes of both sides too
    use_text: bool = True
    use_image: bool = True


# -- graphs ------------------------------------------------------------------------------------------------------


class Nodes(NamedTuple):
    """The nodes of a type in B histories."""

    ids: Tensor  # int64 [B, n_m], rows of the node table; 0 = no node
    number: Tensor  # int64 [B, L, K], the node of an event's code; -1 = none
    n_used: Tensor  # int64 [B], columns of `ids` that are in use


class Graphs(NamedTuple):
    """Histories as graphs; their nodes lie side by side, items before picture codes before text codes."""

    row: Tensor  # int64 [B], which histories these are
    ids: Tensor  # int64 [B, n], rows of the node table; 0 = no node
    sizes: list[int]  # n_m
    events: list[Tensor]  # by type [B, L, n_m], 1.0 where the event has the node
    relation: Tensor  # int64 [B, n, n], row = receiving node, see `relations`; 0 = no edge
    last: Tensor  # int64 [B], the node of the last item


def number_nodes(codes: Tensor, *, is_unique: bool) -> Nodes:
    """Number the nodes of histories' codes, int64 [B, L, K], 0 = none; unique nodes are sorted by their id."""
    flat = codes.flatten(1)
    if not is_unique:
        number = torch.arange(flat.shape[1], device=flat.device).where(flat > 0, -1)
        events = (codes > 0).any(2)
        n_used = (events * torch.arange(1, codes.shape[1] + 1, device=flat.device)).amax(1) * codes.shape[2]
        return Nodes(flat, number.view(codes.shape), n_used)
    ordered, order = flat.sort(dim=1, stable=True)
    is_new = F.pad(ordered.diff(dim=1), (1, 0), value=1).ne(0) & (ordered > 0)
    number = is_new.cumsum(1) - 1  # -1 for the zeros, which come first
    ids = F.pad(torch.zeros_like(flat), (0, 1)).scatter(1, number.where(number >= 0, flat.shape[1]), ordered)
    return Nodes(
        ids[:, :-1], torch.empty_like(flat).scatter(1, order, number).view(codes.shape), is_new.sum(1)
    )


def relations(
    items: Tensor, events: Sequence[Tensor], ids: Tensor, types: Sequence[int], *, code_edges: str
) -> Tensor:
    """Return the relation of each ordered pair of nodes, int64 [B, n, n], row = receiving node.

    1 self; of nodes of a type in consecutive events: 2 where the row's comes first, 3 where it comes later, 4 where
    both occur; of nodes of an event: item -> picture 5, back 6, item -> text 7, back 8, picture -> text 9, back 10.
    items int64 [B, L], 0 = none; events [B, L, n_m] of each of `types`: 0 items, 1 picture codes, 2 text codes.
    """
    has_step = (items[:, 1:] > 0).to(events[0])
    code_step = has_step * _keeps_codes(items).to(has_step) if code_edges == "released" else has_step
    rows = []
    for a, of_row in zip(types, events, strict=True):
        row = []
        for b, of_column in zip(types, events, strict=True):
            if a == b:
                step = has_step if a == 0 else code_step
                row.append(_chain((of_row[:, :-1] * step[..., None]).mT @ of_row[:, 1:] > 0))
            else:
                code = 3 + 2 * (a + b) + int(a > b)
                row.append((of_row.mT @ of_column > 0) * code)
        rows.append(torch.cat(row, 2))
    together = torch.cat(rows, 1)
    is_self = torch.eye(together.shape[1], dtype=torch.bool, device=ids.device) & (ids > 0)[:, None]
    return torch.where(is_self, 1, together)


def _chain(is_next: Tensor) -> Tensor:
    """Return the relations inside a type from bool [B, n, n], True = the column's node directly follows the row's."""
    return 2 * is_next + 3 * is_next.mT - (is_next & is_next.mT).long()


def _keeps_codes(items: Tensor) -> Tensor:
    """Return the steps between which the released code adds edges of codes, bool [B, L - 1].

    It skips steps between equal items, and between items that followed each other both ways before.
    """
    first, second = items[:, :-1], items[:, 1:]
    n_steps = first.shape[1]
    earlier = torch.ones(n_steps, n_steps, dtype=torch.bool, device=items.device).tril(-1)
    same = (first[:, :, None] == first[:, None]) & (second[:, :, None] == second[:, None]) & earlier
    reverse = (first[:, :, None] == second[:, None]) & (second[:, :, None] == first[:, None]) & earlier
    return (first != second) & ~(same.any(2) & reverse.any(2))


# -- codes -------------------------------------------------------------------------------------------------------


def codes_of(feat: Tensor, present: Tensor, config: MMSRConfig) -> tuple[Tensor, Tensor]:
    """Return the nearest clusters of each item and all centres, for features [N + 1, F] of the items `present`.

    -> int64 [N + 1, K], from 1, 0 = none; [C, D] scaled as a whole to -1 / sqrt(D) .. 1 / sqrt(D).
    """
    x = principal_components(feat[present], config.hidden_dim)
    centres = k_means(x, config.n_clusters)
    codes = torch.zeros(len(feat), min(config.n_codes, len(centres)), dtype=torch.int64)
    codes[present] = nearest_few(x, centres, codes.shape[1]) + 1
    low, high = centres.min(), centres.max()
    scaled = 2 * (centres - low) / (high - low).clamp(min=1e-12) - 1
    return codes, scaled.to(feat.dtype) * config.hidden_dim**-0.5


# -- the model ---------------------------------------------------------------------------------------------------


class MMSR(Recommender[MMSRConfig]):
    def __init__(self, config: MMSRConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim, n_nodes, centres = config.hidden_dim, catalog.n_items + 1, []
        self.types, self.n_clusters = [0], dict[str, int]()
        for number, name in enumerate(CONTENT, 1):
            feat = getattr(catalog, f"{name}_feat") if self.reads(config, name) else None
            present = None if feat is None else getattr(catalog, f"has_{name}")
            present = feat.ne(0).any(1) if feat is not None and present is None else present
            if feat is None or present is None or not present.any():
                continue
            codes, scaled = codes_of(feat, present, config)
            self.register_buffer(f"{name}_codes", torch.where(codes > 0, codes + n_nodes - 1, 0))
            self.types.append(number)
            self.n_clusters[name] = len(scaled)
            centres.append(scaled)
            n_nodes += len(scaled)
        self.node_emb = nn.Embedding(n_nodes, dim, padding_idx=0)
        self.type_emb = nn.Embedding(len(self.types), dim)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.input_map = nn.Parameter(torch.empty(3 * dim, dim))  # stacks the maps of node, type and position
        self.maps = nn.ParameterDict(
            {name: torch.empty(len(self.types), dim, dim) for name in self._map_names()}
        )
        self.chain_weights = nn.Parameter(torch.empty(N_CHAINS, dim))  # a_r
        if config.orders == "both":
            self.gate = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1, bias=False))
        if config.candidates == "contents":
            self.fusion = nn.Linear(len(self.types) * dim, dim)
        self.drop, self.attn_drop = Dropout(config.dropout), Dropout(config.attn_dropout)
        self._init_weights(centres)

    def _map_names(self) -> tuple[str, ...]:
        """Return the maps that are read: not those of tied values, nor of keys without a second attention."""
        config = self.config
        if config.qkv == "separate":
            return ("query", "key", "value")
        has_second = config.inside_first == "paper" and config.orders != "across-first"
        return ("query", "key") if has_second else ("query",)

    @torch.no_grad()
    def _init_weights(self, centres: Sequence[Tensor]) -> None:
        """Draw weights and biases uniformly within 1 / sqrt(D), then set the rows of codes to their centres."""
        bound = self.config.hidden_dim**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self.node_emb.weight[self.n_items + 1 :] = torch.cat([self.node_emb.weight[:0], *centres])
        self.node_emb.weight[0] = 0.0

    @classmethod
    def reads(cls, config: MMSRConfig, modality: str) -> bool:
        return config.use_text if modality == "text" else config.use_image

    @property
    def needs(self) -> Needs:
        """Return the needs; not stackable, because graphs of similar size run together: shapes depend on histories."""
        return Needs(
            layout="padded", samples=("prefix",), causal=False, stackable=False, extras=self.next_item.extras
        )

    def extra_state(self) -> dict[str, Any]:
        absent = {name: self._codes(name)[1:, 0].eq(0).double().mean().item() for name in self.n_clusters}
        return {"clusters": self.n_clusters, "share_without": absent}

    def _codes(self, name: str) -> Tensor:
        return self.get_buffer(f"{name}_codes")

    # -- graphs ------------------------------------------------------------------------------------------------

    def graphs(self, items: Tensor) -> Iterator[Graphs]:
        """Yield histories int64 [T, L], 0 = padding, as graphs, similar sizes together, the largest first."""
        is_unique = self.config.nodes == "unique"
        codes = [items[..., None], *(F.embedding(items, self._codes(name)) for name in self.n_clusters)]
        nodes = [number_nodes(part, is_unique=is_unique) for part in codes]
        length = (items > 0).sum(1)
        sizes = torch.stack([length, *(part.n_used for part in nodes)]).cpu()  # the host waits once
        order, first = sizes[1:].sum(0).argsort(descending=True, stable=True), 0
        while first < len(order):
            n_nodes = int(sizes[1:, order[first]].sum())
            rows = order[first : first + min(MOST_ROWS, max(1, MOST_CELLS // n_nodes**2))]
            width, *largest = sizes[:, rows].amax(1).tolist()
            chosen = rows.to(items.device)
            parts = [Nodes(*(tensor.index_select(0, chosen) for tensor in part)) for part in nodes]
            yield self._graphs(chosen, items.index_select(0, chosen)[:, :width], parts, largest)
            first += len(rows)

    def _graphs(self, row: Tensor, items: Tensor, nodes: Sequence[Nodes], sizes: list[int]) -> Graphs:
        ids = torch.cat([part.ids[:, :size] for part, size in zip(nodes, sizes, strict=True)], 1)
        events = [
            (part.number[:, : items.shape[1], :, None] == torch.arange(size, device=row.device)).any(2)
            for part, size in zip(nodes, sizes, strict=True)
        ]
        events = [part.to(self.node_emb.weight.dtype) for part in events]
        relation = relations(items, events, ids, self.types, code_edges=self.config.code_edges)
        last = nodes[0].number[..., 0].gather(1, (items > 0).sum(1, keepdim=True) - 1)[:, 0]
        return Graphs(row, ids, sizes, events, relation, last)

    def inputs(self, node: Tensor, graphs: Graphs) -> Tensor:
        """Return h = [E[node]; type; mean of the positions] W, [B, n, D], from E[node] [B, n, D]."""
        of_node, of_type, of_position = self.input_map.chunk(3)
        events = torch.cat(graphs.events, 2)  # [B, L, n]
        shares = events / events.sum(1, keepdim=True).clamp(min=1)
        kind = torch.repeat_interleave(torch.tensor(graphs.sizes)).to(node.device)
        types = F.embedding(kind, self.type_emb.weight @ of_type)
        positions = self.position_emb.weight[: shares.shape[1]] @ of_position
        return node @ of_node + types + shares.mT @ positions

    # -- attention ---------------------------------------------------------------------------------------------

    def typed(self, x: Tensor, graphs: Graphs, *names: str) -> tuple[Tensor, ...]:
        """Return x [B, n, D] through each of the named maps of its nodes' types."""
        weights = torch.cat([self.maps[name] for name in names], -1)
        parts = [part @ weight for part, weight in zip(x.split(graphs.sizes, 1), weights, strict=True)]
        return torch.cat(parts, 1).chunk(len(names), -1)

    def het(self, query: Tensor, key: Tensor, graphs: Graphs) -> Tensor:
        """Return softmax_j LeakyReLU(q_i . k_j) over the node itself and its edges across types, [B, n, n]."""
        has_edge = (graphs.relation == 1) | (graphs.relation > N_CHAINS)
        return _softmax(query @ key.mT, has_edge)

    def inside(self, x: Tensor, values: Tensor, graphs: Graphs) -> Tensor:
        """Return A_hom(x) values, [B, n, D]: the messages inside a type, along the sequence.

        A_hom(x) = drop(softmax_j LeakyReLU(sum_c a_r[c] x_i[c] x_j[c])), r = relation of i and j in 1..4.
        """
        mixed, first = [], 0
        for part, value in zip(x.split(graphs.sizes, 1), values.split(graphs.sizes, 1), strict=True):
            of_type = slice(first, first := first + part.shape[1])
            relation = graphs.relation[:, of_type, of_type]
            scaled = part[:, None] * self.chain_weights[:, None]  # [B, r, n_m, D]
            of_all = (scaled.flatten(1, 2) @ part.mT).unflatten(1, (N_CHAINS, -1))
            scores = of_all.gather(1, (relation - 1).clamp(min=0)[:, None])[:, 0]
            mixed.append(self.attn_drop(_softmax(scores, relation > 0)) @ value)
        return torch.cat(mixed, 1)

    def both_orders(self, h: Tensor, graphs: Graphs) -> Tensor:
        """Return the gated sum of across-first (BA) and inside-first (AB) attention; both mix the initial values."""
        config, answers = self.config, []
        if config.qkv == "tied":
            query = key = value = self.typed(h, graphs, "query")[0]
        else:
            query, key, value = self.typed(h, graphs, "query", "key", "value")
        if config.orders != "inside-first" or config.inside_first == "code":
            across = self.het(query, key, graphs)
        if config.orders != "inside-first":
            answers.append(self.inside(self.attn_drop(across) @ value, value, graphs))
        if config.orders != "across-first":
            if config.inside_first == "paper":
                query, key = self.typed(self.inside(value, value, graphs), graphs, "query", "key")
                across = self.het(query, key, graphs)
            answers.append(self.attn_drop(across) @ value)
        if len(answers) == 1:
            return answers[0]
        across_first, inside_first = answers
        share = (self.gate(inside_first) - self.gate(across_first)).sigmoid()  # a softmax over the two
        return across_first + share * (inside_first - across_first)

    # -- user and items ----------------------------------------------------------------------------------------

    def user_states(self, node: Tensor, graphs: Graphs) -> Tensor:
        """Return the state of the last item, [B, D], or its fusion with the mean states of the codes."""
        h = self.inputs(node, graphs)
        for _ in range(self.config.n_layers):
            h = self.drop(self.both_orders(h, graphs))
        last = h.gather(1, graphs.last[:, None, None].expand(-1, 1, h.shape[2]))[:, 0]
        if self.config.candidates == "items":
            return last
        n_events = graphs.events[0].sum((1, 2))[:, None]
        means = [
            (events.sum(1)[:, None] @ part)[:, 0] / (n_events * self._codes(name).shape[1])
            for name, events, part in zip(
                self.n_clusters, graphs.events[1:], h.split(graphs.sizes, 1)[1:], strict=True
            )
        ]
        fused: Tensor = self.fusion(torch.cat([last, *means], 1))
        return fused

    def query(self, batch: Batch) -> Tensor:
        row, last = batch.slot // batch.item_seq.shape[1], batch.slot % batch.item_seq.shape[1]
        seen = torch.arange(batch.item_seq.shape[1], device=last.device) <= last[:, None]
        graphs = list(self.graphs(batch.item_seq.index_select(0, row) * seen))
        nodes = look_up(self.node_emb, *(part.ids for part in graphs))
        users = torch.cat([self.user_states(node, part) for node, part in zip(nodes, graphs, strict=True)])
        return users.index_select(0, torch.cat([part.row for part in graphs]).argsort())

    def item_table(self) -> Tensor:
        items = self.node_emb.weight[1 : self.n_items + 1]
        if self.config.candidates == "items":
            return items
        codes = [self.node_emb(self._codes(name)[1:]).sum(1) for name in self.n_clusters]
        fused: Tensor = self.fusion(torch.cat([items, *codes], 1))
        return fused

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}


def _softmax(scores: Tensor, has_edge: Tensor) -> Tensor:
    """Return softmax_j LeakyReLU(scores) [B, n, n] over the edges."""
    return (F.leaky_relu(scores, SLOPE) + torch.where(has_edge, 0.0, HIDDEN)).softmax(-1)
