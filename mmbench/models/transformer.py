"""Settings of models that are built around a Transformer."""

from dataclasses import dataclass

from mmbench.models.next_item import Sampling
from mmbench.nn.layers import PostNormEncoder, check_heads
from mmbench.settings.config import PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """Sizes and dropout rates of a Transformer.

    hidden_dim, inner_dim  widths of the states and inside the feed-forward nets
    n_heads                divides hidden_dim
    dropout, attn_dropout  of states, and of attention weights
    """

    hidden_dim: PositiveInt
    inner_dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    dropout: Probability
    attn_dropout: Probability

    def __post_init__(self) -> None:
        check_heads(self.hidden_dim, self.n_heads)

    def encoder(self, *, n_groups: int | None = None) -> PostNormEncoder:
        """Return a new post-norm encoder, or `n_groups` of them that are computed together."""
        return PostNormEncoder(
            dim=self.hidden_dim, inner_dim=self.inner_dim, n_layers=self.n_layers, n_heads=self.n_heads,
            dropout=self.dropout, attn_dropout=self.attn_dropout, n_groups=n_groups,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(TransformerSizes, Sampling):
    """The sizes of a Transformer, beside the negatives of the loss."""

    def __post_init__(self) -> None:
        TransformerSizes.__post_init__(self)
        Sampling.__post_init__(self)
