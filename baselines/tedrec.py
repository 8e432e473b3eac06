"""TedRec: Sequence-level Semantic Representation Fusion for Recommender Systems. Xu, Tian, Li, Zhang, Wang, Wang, Wang,
Chen, Zhao, CIKM 2024, arXiv:2402.18166.  Official code: github.com/RUCAIBox/TedRec @ e6b3cb9 (on RecBole).

The texts of a history's items and their ids are fused as whole sequences: experts map texts to the width of ids, then
texts and ids are multiplied frequency by frequency, which mixes every event's text with every other event's id. A
causal Transformer reads the result; its last state is compared with the id vectors by cosine.

Axes: R rows, W width, T histories (of each target), L = max_len positions, K = L // 2 + 1 frequencies, G experts,
F width of features, D hidden, N items.
Follows: paper sec. 3.2: Adaptor the distinguishable textual representations (experts with an offset for each position);
sec. 3.3: FrequencyFusion the contextual convolution and its two gates; sec. 3.4: encode() the Transformer,
query()/item_table() and loss() cosines and cross entropy.
Three differences matter, the recipe lists all: (1) Padding takes part in the frequencies, as in the code: the random
vector of its id, and the experts' offsets; `zero_padding` keeps it out. (2) The padding id is not a class of the
softmax, so this vector stays as it was drawn. (3) Experts and Transformer run over packed histories, the frequencies
over histories padded to L; the same numbers, without 768-wide work for padding.
Not causal: frequencies mix later events into earlier events, so each target is trained with the prefix before it.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.features import available
from mmbench.nn.layers import Dropout, dropout, init_normal
from mmbench.nn.losses import wide
from mmbench.nn.unit import unit
from mmbench.settings.config import PositiveFloat, PositiveInt, Probability

LEAST_NOISE = 0.01  # is the least deviation of a gate's logit in training


@dataclass(frozen=True, kw_only=True)
class TedRecConfig(TransformerConfig):
    loss: Loss = "ce"
    adaptor_dropout: Probability  # drops features, with a mask for each expert
    n_experts: PositiveInt  # G
    temperature: PositiveFloat  # tau
    modalities: tuple[Literal["text", "image"], ...]
    zero_padding: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities {list(self.modalities)} must name each modality once")


class Adaptor(nn.Module):
    """Vectors of frozen features: G experts W_g (dropout_g(x) - b_g[position]) and a gate, noisy in training."""

    feat: Tensor

    def __init__(self, feat: Tensor, config: TedRecConfig, n_positions: int) -> None:
        super().__init__()
        width, self.n_experts, self.p = feat.shape[1], config.n_experts, config.adaptor_dropout
        self.register_buffer("feat", feat, persistent=False)  # not in checkpoints: the data set has it
        self.experts = nn.Linear(width, self.n_experts * config.hidden_dim, bias=False)
        self.offsets = nn.Parameter(torch.zeros(self.n_experts, n_positions, width))
        self.gate = nn.Linear(width, self.n_experts, bias=False)
        self.noise = nn.Linear(width, self.n_experts, bias=False)

    @torch.no_grad()
    def reset_gates(self) -> None:
        """Zero the gates, so that all experts weigh the same at first."""
        self.gate.weight.zero_()
        self.noise.weight.zero_()

    def forward(self, items: Tensor, position: Tensor) -> Tensor:
        """Return the vectors of items [R, W] at their positions [R, W], [R, W, D]."""
        x = F.embedding(items, self.feat)
        offsets = F.embedding(position, self.mapped_offsets().flatten(1)).unflatten(-1, (self.n_experts, -1))
        shares = self.shares(self.gate(x), self.noise(x))
        return torch.einsum("rwg,rwgd->rwd", shares, self.mapped(x) - offsets)

    def padding(self, like: Tensor) -> Tensor:
        """Return the vectors of padding, whose features are zero, for T histories: [T, L, D]; [L, D] in evaluation."""
        offsets = self.mapped_offsets()  # [L, G, D]
        if not self.training:
            return -offsets.mean(1)
        zero = like.new_zeros(len(like), *offsets.shape[:2])
        return -torch.einsum("tlg,lgd->tld", self.shares(zero, zero), offsets)

    def shares(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return the experts' weights [..., G]; training draws noise for each position and expert."""
        if self.training:
            drawn = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device)
            logits = logits + drawn * (F.softplus(noise) + LEAST_NOISE)
        return logits.softmax(-1)

    def mapped(self, x: Tensor) -> Tensor:
        """Return W_g dropout_g(x) of x [R, W, F], [R, W, G, D]."""
        if not self.training or not self.p:
            mapped: Tensor = self.experts(x)
            return mapped.unflatten(-1, (self.n_experts, -1))
        # Expert after expert: their copies of x do not fit into a processor's cache together.
        by_expert = [dropout(x, self.p, self.training) @ weight.T for weight in self.weights()]
        return torch.stack(by_expert, -2)

    def mapped_offsets(self) -> Tensor:
        """Return W_g b_g[position], [L, G, D]."""
        return (self.offsets @ self.weights().mT).transpose(0, 1)

    def weights(self) -> Tensor:
        """Return the experts' maps, [G, D, F]."""
        return self.experts.weight.unflatten(0, (self.n_experts, -1))


class FrequencyFusion(nn.Module):
    """X = 2 (a_1 c_1 + a_2 c_2): ids under a learned filter, and ids under texts as the filter.

    c = irfft(rfft(ids) * filter) along the positions; a = sigmoid(w . c + b), a number per position. Each further
    modality adds a filter and a gate. Filters and spectra have 2 K rows: real parts, then imaginary parts.
    """

    def __init__(self, n_positions: int, dim: int, n_contents: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.empty(2 * (n_positions // 2 + 1), dim))
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in range(1 + n_contents))

    def reset(self) -> None:
        """Draw the filter and the biases of the gates, which are not zero at first."""
        nn.init.normal_(self.filter, std=0.02)
        for gate in self.gates:
            assert isinstance(gate, nn.Linear)
            nn.init.uniform_(gate.bias, -(gate.in_features**-0.5), gate.in_features**-0.5)

    def forward(self, ids: Tensor, contents: list[Tensor]) -> Tensor:
        """Return X [T, L, D] of ids and of each of contents [T, L, D], in single precision at least."""
        with torch.autocast(ids.device.type, enabled=False):
            ids = wide(ids)
            transform, inverse = fourier(ids)
            spectrum = transform @ ids  # [T, 2 K, D]
            filters = [wide(self.filter), *(transform @ wide(x) for x in contents)]
            convolved = [inverse @ complex_product(spectrum, spectral) for spectral in filters]
            gated = [gate(c).sigmoid() * c for gate, c in zip(self.gates, convolved, strict=True)]
            return 2 * torch.stack(gated).sum(0)


def fourier(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rfft and irfft (both "ortho") along the L positions of x [T, L, D] as matrices [2 K, L] and [L, 2 K].

    On a CPU products with them are faster than the transforms; torch can vectorise and compile them everywhere.
    """
    n_positions = x.shape[1]
    unit = torch.eye(n_positions, dtype=x.dtype, device=x.device)
    spectrum = torch.fft.rfft(unit, dim=0, norm="ortho")
    transform = torch.cat([spectrum.real, spectrum.imag])
    frequency = torch.arange(len(spectrum), device=x.device)
    # Each counts twice, except frequency 0 and, if L is even, the highest.
    times = torch.where((frequency == 0) | (2 * frequency == n_positions), 1.0, 2.0).to(x.dtype)
    return transform, (transform * times.repeat(2)[:, None]).T


def complex_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply spectra [..., 2 K, D] whose rows are real parts, then imaginary parts."""
    real_a, imag_a = a.chunk(2, -2)
    real_b, imag_b = b.chunk(2, -2)
    return torch.cat([real_a * real_b - imag_a * imag_b, real_a * imag_b + imag_a * real_b], -2)


class Grid(NamedTuple):
    """The histories of T targets as rows of L positions, and the indices of their events in the batch's flat [R W]."""

    source: Tensor  # int64 [T, L], index in the flat batch; 0 for padding
    real: Tensor  # bool [T, L], False = padding

    @staticmethod
    def of(batch: Batch, n_positions: int) -> "Grid":
        """Return the grid of the batch's slots, each the last event of a separate history."""
        last = batch.position.flatten()[batch.slot][:, None]
        position = torch.arange(n_positions, device=last.device)
        real = position <= last
        return Grid(torch.where(real, batch.slot[:, None] - last + position, 0), real)

    def take(self, flat: Tensor) -> Tensor:
        """Spread the batch's flat [R W, D] over the grid, [T, L, D]; the values of padding are arbitrary."""
        return F.embedding(self.source, flat)

    def put_back(self, x: Tensor, n_flat: int) -> Tensor:
        """Gather x [T, L, D] into the batch's flat [R W, D], R W = `n_flat`; the values of padding are arbitrary."""
        cell = torch.arange(self.source.numel(), device=x.device)
        index = torch.where(self.real, self.source, n_flat).flatten()
        source = index.new_zeros(n_flat + 1).scatter(0, index, cell)[:-1]
        return F.embedding(source, x.flatten(0, 1))


class TedRec(Recommender[TedRecConfig]):
    def __init__(self, config: TedRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.adaptors = nn.ModuleDict(
            {
                name: Adaptor(getattr(catalog, f"{name}_feat"), config, catalog.max_len)
                for name in self.modalities
            }
        )
        self.fusion = FrequencyFusion(catalog.max_len, dim, len(self.modalities))
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        self._init_weights()

    def _init_weights(self) -> None:
        init_normal(self, std=0.02)
        for module in self.modules():
            if isinstance(module, Adaptor):
                module.reset_gates()
            if isinstance(module, FrequencyFusion):
                module.reset()

    @classmethod
    def reads(cls, config: TedRecConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(samples=("prefix",), causal=False, extras=self.next_item.extras)

    def fuse(self, batch: Batch) -> Tensor:
        """Return X of every event of the batch, [R, W, D]."""
        grid, items = Grid.of(batch, self.max_len), batch.item_seq.flatten()
        ids = self.item_emb(torch.where(grid.real, items[grid.source], 0))
        contents = []
        for adaptor in self.adaptors.values():
            assert isinstance(adaptor, Adaptor)
            content = grid.take(adaptor(batch.item_seq, batch.position).flatten(0, 1))
            padding = torch.zeros_like(content) if self.config.zero_padding else adaptor.padding(content)
            contents.append(torch.where(grid.real[..., None], content, padding))
        if self.config.zero_padding:
            ids = ids * grid.real[..., None]
        return grid.put_back(self.fusion(ids, contents), len(items)).unflatten(0, batch.item_seq.shape)

    def encode(self, batch: Batch) -> Tensor:
        """Return the states at the slots, [T, D]."""
        x = self.drop(self.norm(self.fuse(batch) + self.position_emb(batch.position)))
        states: Tensor = self.encoder(x, batch.attention_mask(causal=True), batch.slot)
        return states

    def query(self, batch: Batch) -> Tensor:
        return unit(self.encode(batch))

    def item_table(self) -> Tensor:
        return unit(self.item_emb.weight[1:])

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        query = self.query(batch) / self.config.temperature
        return {self.config.loss: self.next_item(query, self.item_table(), batch)}

    def extra_state(self) -> dict[str, Any]:
        return {"modalities": self.modalities}
