"""GRU4Rec: Session-based Recommendations with Recurrent Neural Networks. Hidasi et al., ICLR 2016, arXiv:1511.06939;
losses of Hidasi and Karatzoglou, CIKM 2018, doi 10.1145/3269206.3271761; prefix recipe of Tan et al., DLRS 2016.
Official code: github.com/hidasib/GRU4Rec_PyTorch_Official.

A GRU reads the item ids of a history; its last state is compared with item vectors. Two networks go by this name,
which the setting `network` tells apart: "toolbox" (default; RecBole's, which the HM4SR table calls GRU4Rec) and
"official" (the authors' constrained network: gates with biases, output table = input table, output bias).

Axes: R rows, W width, D embedding width, H hidden width, T targets, N items, M sampled items, C = T + M candidates.
Follows: toolbox = RecBole GRU4Rec; official losses = CIKM 2018, `candidate_loss`.
Differences: (1) trained on all positions of a history in a single pass instead of a sample per prefix; equal in loss
and gradient with dropout off (`samples = "prefix"` is the literal procedure). (2) Padding is not a class of the
softmax. (3) bpr is a softplus instead of -log(1e-10 + sigmoid): the same below its saturation. (4) official:
histories are read from their first item with back-propagation through all of them; the authors' session-parallel
batches cut it after a single step and order sessions by time. (5) official: Adam, because this toolkit has no Adagrad.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling, is_loss
from mmbench.nn.layers import Dropout, dropout_of_rows, take_rows, zero_padding
from mmbench.nn.recurrent import gru_states
from mmbench.settings.config import NonNegativeFloat, PositiveInt, Probability

CandidateLoss = Literal["sampled-ce", "top1", "top1-max", "bpr-mean", "bpr-max"]


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(Sampling):
    network: Literal["toolbox", "official"] = "toolbox"
    loss: Loss | CandidateLoss = "ce"
    emb_dim: PositiveInt  # must equal hidden_dim in the official network
    hidden_dim: PositiveInt
    n_layers: PositiveInt
    dropout: Probability  # applies to the embeddings
    hidden_dropout: Probability = 0.0  # applies after each GRU layer
    # The rest belongs to the losses over sampled candidates (sampled-ce, top1, top1-max, bpr-mean, bpr-max).
    n_samples: PositiveInt = 2048  # items drawn per step beside the targets of the batch
    sample_alpha: NonNegativeFloat = 0.5  # an item is drawn with probability ~ count^alpha
    score_reg: NonNegativeFloat = 1.0  # bpr-max: weight of the softmax-weighted squared negative scores
    elu_param: NonNegativeFloat = 0.0  # bpr-max: ELU(alpha) of the scores first, 0 = linear
    use_logq: bool = False  # sampled-ce: subtract the log of the probability of being a candidate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "official" and self.emb_dim != self.hidden_dim:
            raise ValueError(
                f"network = 'official' shares its input and output table, so emb_dim {self.emb_dim} "
                f"must equal hidden_dim {self.hidden_dim}"
            )


def candidate_loss(
    scores: Tensor, *, kind: CandidateLoss, score_reg: float = 0.0, elu_param: float = 0.0
) -> Tensor:
    """Return the mean loss over rows of scores [T, C]; the target of row i is column i, other columns are negatives.

    A candidate that happens to be the row's target item stays a negative, as in the official code.
    """
    if kind == "sampled-ce":
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
    if kind == "bpr-max" and elu_param:
        scores = F.elu(scores, elu_param)
    positive = scores.diagonal()[:, None]  # r_i [T, 1]
    negative = ~torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    if kind in ("top1-max", "bpr-max"):  # softmax over the negatives only
        weight = scores.masked_fill(~negative, float("-inf")).softmax(1)
    else:
        weight = negative / negative.sum(1, keepdim=True).clamp(min=1)
    if kind in ("top1", "top1-max"):
        return (weight * (torch.sigmoid(scores - positive) + torch.sigmoid(scores.square()))).sum(1).mean()
    if kind == "bpr-mean":
        return (weight * F.softplus(scores - positive)).sum(1).mean()
    likely = (weight * torch.sigmoid(positive - scores)).sum(1)
    return (-torch.log(likely + 1e-24) + score_reg * (weight * scores.square()).sum(1)).mean()


class GRU4Rec(Recommender[GRU4RecConfig]):
    def __init__(self, config: GRU4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        is_official = config.network == "official"
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.emb_dim, padding_idx=0)
        self.gru = nn.ModuleList(
            nn.GRU(
                config.hidden_dim if k else config.emb_dim,
                config.hidden_dim,
                bias=is_official,
                batch_first=True,
            )
            for k in range(config.n_layers)
        )
        self.hidden_drop = Dropout(config.hidden_dropout)
        if is_official:
            self.item_bias = nn.Parameter(torch.zeros(catalog.n_items))
        else:
            self.out = nn.Linear(config.hidden_dim, config.emb_dim)
        counts = torch.bincount(catalog.train_items, minlength=catalog.n_items + 1)[1:].double()
        # Only sampling reads these buffers, so they are not in checkpoints.
        self.register_buffer("target_prob", counts / counts.sum().clamp(min=1), persistent=False)
        weight = counts**config.sample_alpha * (counts > 0)
        self.register_buffer("sample_prob", weight / weight.sum().clamp(min=1e-12), persistent=False)
        kind = config.loss
        self.next_item = NextItem(kind if is_loss(kind) else "ce", config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        if self.config.network == "official":
            _glorot(self.item_emb.weight)
            for layer in self.gru:
                for name, parameter in layer.named_parameters():
                    if "bias" in name:
                        nn.init.zeros_(parameter)
                    else:  # the three gates are three matrices
                        for gate in parameter.chunk(3):
                            _glorot(gate)
        else:
            nn.init.xavier_normal_(self.item_emb.weight)
            nn.init.xavier_uniform_(self.gru[0].weight_ih_l0)  # type: ignore[arg-type]
            nn.init.xavier_uniform_(self.gru[0].weight_hh_l0)  # type: ignore[arg-type]
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        """Return the needs; not stackable, because histories are packed by lengths, which differ between seeds."""
        return Needs(layout="padded", stackable=False, extras=self.next_item.extras)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the states of all P events [P, H], and for each place of the flat [R W] its number among them.

        They lie as torch packs sequences, step after step, so that nothing is computed for padding; its number is 0.
        """
        places = torch.arange(batch.item_seq.numel(), device=batch.item_seq.device)
        grid = torch.stack([batch.item_seq, places.view_as(batch.item_seq)], -1)
        length = batch.mask.sum(1).cpu()
        packed = pack_padded_sequence(grid, length, batch_first=True, enforce_sorted=False)
        items, place = packed.data.unbind(-1)
        rate = self.config.dropout
        x = dropout_of_rows(self.item_emb(items), place, len(places), rate, self.training)
        packed = packed._replace(data=x)
        for layer in self.gru:
            packed = gru_states(layer, packed)  # type: ignore[arg-type]
            packed = packed._replace(data=self.hidden_drop(packed.data))
        return packed.data, torch.zeros_like(places).scatter(0, place, places[: len(place)])

    def state(self, batch: Batch) -> Tensor:
        """Return the states at the slots, [T, D]."""
        states, number = self.encode(batch)
        hidden = take_rows(states, number[batch.slot])
        return hidden if self.config.network == "official" else self.out(hidden)

    def query(self, batch: Batch) -> Tensor:
        state = self.state(batch)
        return F.pad(state, (0, 1), value=1.0) if self.config.network == "official" else state

    def item_table(self) -> Tensor:
        table = self.item_emb.weight[1:]
        return torch.cat([table, self.item_bias[:, None]], 1) if self.config.network == "official" else table

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        kind, query, table = self.config.loss, self.query(batch), self.item_table()
        if is_loss(kind):
            return {kind: self.next_item(query, table, batch)}
        return {kind: self._sampled(query, table, batch.target, kind)}

    def _sampled(self, query: Tensor, table: Tensor, target: Tensor, kind: CandidateLoss) -> Tensor:
        """Return the loss over the step's targets and items drawn by popularity, which are candidates of all rows."""
        drawn = torch.multinomial(self.sample_prob, self.config.n_samples, replacement=True)  # type: ignore[arg-type]
        candidates = torch.cat([target - 1, drawn])
        scores = query @ F.embedding(candidates, table).T  # [T, C]
        if kind == "sampled-ce" and self.config.use_logq:
            probability = torch.cat([self.target_prob[target - 1], self.sample_prob[drawn]])  # type: ignore[index]
            scores = scores - probability.log().to(scores.dtype)
        return candidate_loss(
            scores, kind=kind, score_reg=self.config.score_reg, elu_param=self.config.elu_param
        )


def _glorot(weight: Tensor) -> None:
    """Draw a matrix uniformly within +-sqrt(6 / (rows + columns)), in place."""
    bound = (6 / sum(weight.shape)) ** 0.5
    nn.init.uniform_(weight, -bound, bound)
