"""TriMLP ensemble: three TriMLPs, over ids, texts and images, whose scores are added. A control of TMMSRec (Wang et
al., 2026, manuscript, sec. 3.7.4 and fig. 5), without equations or code; its members are the TriMLP of Jiang et al.,
ACM TOIS 42(6), 2024, doi 10.1145/3670995, github.com/jiangyiheng1/TriMLP@999e23d.

TriMLP reads ids and scores with a separate output layer, so features need two additions: an input, which is a linear
map of them, and a score (`head`). "tied" compares the centred state, turned by a square matrix, with the
modality's item vectors, as TMMSRec does; "linear" is three literal TriMLPs, whose features enter at the input only.
`training` and the three-ids control are those of sasrec-ensemble.

Axes: R rows, W width, D hidden, M members, T targets, N items.
Follows: TriMLPMember = trimlp with a choice of input and head; query()/item_table() = the sum of scores as a product
of concatenations; loss() = TriMLP's cross entropy, or TMMSRec's eq. 14, of the sum (joint) or of each member
(separate).
Differences, beside those of trimlp: (1) Features are divided by their mean norm and pass a linear map unless they are
D wide; an item without a modality has the zero vector. (2) Tied: ids start from N(0, `id_std`^2), by default as small
as in other tied tables, and the matrix from the identity. (3) The state is centred by the activation of 0 (sigmoid:
1/2). (4) Maps of features share the learning rate.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog
from mmbench.models.ensemble import Ensemble, EnsembleConfig
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.features import FeatureTable
from mmbench.nn.layers import Dropout
from mmbench.nn.mlp import Activation, TriangularMixer
from mmbench.settings.config import PositiveFloat, PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class TriMLPEnsembleConfig(Sampling, EnsembleConfig):
    head: Literal["tied", "linear"]
    loss: Loss  # "ce" as trimlp, "bce" as TMMSRec with a negative per target
    id_std: PositiveFloat = 0.02  # initial standard deviation of the id vectors
    hidden_dim: PositiveInt
    n_sessions: PositiveInt  # must divide max_len
    dropout: Probability
    activation: Activation
    align: Literal["right", "left-pad"] = "right"

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        EnsembleConfig.__post_init__(self)


class TriMLPMember(nn.Module):
    """A TriMLP over the item vectors of a modality."""

    def __init__(self, config: TriMLPEnsembleConfig, catalog: Catalog, modality: str) -> None:
        super().__init__()
        dim, self.is_tied, self.n_items = config.hidden_dim, config.head == "tied", catalog.n_items
        self.id_std = config.id_std
        if modality == "id":
            self.items: nn.Module = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        else:
            feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
            self.items = FeatureTable(feat, present, dim, keep_width=True, unit_norm=True)
        self.drop = Dropout(config.dropout)
        self.mixer = TriangularMixer(
            max_len=catalog.max_len,
            n_sessions=config.n_sessions,
            activation=config.activation,
            align=config.align,
        )
        self.head = nn.Linear(dim, dim if self.is_tied else catalog.n_items)
        self._adjust()

    def _adjust(self) -> None:
        """Replace torch's initialisation by that of a tied head, if the head is tied."""
        if not self.is_tied:
            return
        with torch.no_grad():
            nn.init.eye_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            if isinstance(self.items, nn.Embedding):
                self.items.weight.mul_(self.id_std)

    def restart(self) -> None:
        """Draw all weights again."""
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                module.reset_parameters()
        self._adjust()

    def forward(self, batch: Batch) -> Tensor:
        """Return the states at the slots of the batch that meet `table`, [T, D]."""
        mixed = self.mixer(self.drop(self.items(batch.item_seq)), batch.mask)
        state = batch.at_slots(mixed)
        if not self.is_tied:
            return state
        return self.head(state - self.mixer.activate(torch.zeros_like(state[:1, :1])))

    def table(self) -> tuple[Tensor, Tensor]:
        """Return vectors [N, D] and biases [N] of items 1..N."""
        weight = self.head.weight
        if not self.is_tied:
            return weight, self.head.bias
        every = torch.arange(1, self.n_items + 1, device=weight.device)
        return self.items(every), weight.new_zeros(self.n_items)


class TriMLPEnsemble(Ensemble[TriMLPEnsembleConfig]):
    def __init__(self, config: TriMLPEnsembleConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog, TriMLPMember)
        self.next_item = NextItem(config.loss, config, catalog)

    @property
    def needs(self) -> Needs:
        extras = self.next_item.extras
        if self.config.align == "left-pad":  # positions, and so kernels, depend on the row's length
            return Needs(layout="fixed", samples=("prefix", "last-window"), causal=False, extras=extras)
        return Needs(layout="padded", samples=("all", "prefix", "last-window"), extras=extras)

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        scores = {}
        for name, member in self.members.active():
            table, bias = member.table()
            scores[name] = member(batch) @ table.T + bias
        return scores

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Return concatenated item vectors [N, M D] and summed biases [N]."""
        tables, biases = zip(*(member.table() for _, member in self.members.active()), strict=True)
        return torch.cat(tables, dim=-1), torch.stack(biases).sum(0)

    def _states(self, batch: Batch) -> Tensor:
        return torch.cat([member(batch) for _, member in self.members.active()], dim=-1)

    def query(self, batch: Batch) -> Tensor:
        """Return [T, M D + 1], the last column of ones for the bias."""
        return F.pad(self._states(batch), (0, 1), value=1.0)

    def item_table(self) -> Tensor:
        table, bias = self._joined()
        return torch.cat([table, bias[:, None]], 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the loss of the summed scores, or of each member's."""
        kind = self.config.loss
        if self.config.training == "joint":
            factors: dict[str, tuple[Tensor, ...]] = {kind: (self._states(batch), *self._joined())}
        else:
            active = self.members.active()
            factors = {f"{kind}_{name}": (member(batch), *member.table()) for name, member in active}
        return {
            term: self.next_item(state, table, batch, bias) for term, (state, table, bias) in factors.items()
        }
