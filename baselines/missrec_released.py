"""MISSRec with the slips of its released code, github.com/gimpong/MM23-MISSRec @ c3167c5; the model is in missrec.py.

Each slip has a setting, so that it can be taken back by itself.

Axes: as in missrec.py; V interests of a row.
Follows: one pass that takes absolute values one_pass(), the regulariser over batch and padding diversity(), padding as
a class of the softmax next_item_loss().
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.models.needs import Needs
from mmbench.nn.interest_clusters import count_by, nearest, sum_by

from .missrec import Histories, MISSRec, MISSRecConfig

BATCH = 2048  # vectors that the pass reads at once, unless there are as many clusters


@dataclass(frozen=True, kw_only=True)
class MISSRecAsReleasedConfig(MISSRecConfig):
    clusters: Literal["one-pass", "intended"] = "one-pass"  # intended: what clustering says
    regulariser: Literal["batch-sum", "intended"] = "batch-sum"
    padding: Literal["class", "no class"] = "class"  # of the softmax


def batch_size(n_clusters: int) -> int:
    """Return how many vectors the pass reads at once."""
    return int(1.1 * n_clusters) if n_clusters >= BATCH else BATCH


def one_pass(rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return centroids [K, D] and the nearest one of each row [n, D], int64 [n], as the released k-means has them.

    One pass over batches. After a batch has its labels, its rows and the centroids are replaced by their absolute
    values (an in-place square and root in the distances); a centroid moves by the mean of its rows over its count so
    far, and towards 0 where it has none. `first` [K] are rows of the first batch.
    """
    n_clusters = len(first)
    batches = list(rows.split(batch_size(n_clusters)))
    if len(batches) > 1 and len(batches[-1]) <= n_clusters:
        batches[-2:] = [torch.cat(batches[-2:])]
    centroids, count = rows[first], rows.new_ones(n_clusters, 1)
    for batch in batches:
        label = nearest(batch, centroids)
        members = count_by(label, n_clusters)[:, None].to(rows.dtype)
        mean = sum_by(batch.abs(), label, n_clusters) / members.clamp(min=1)
        centroids = (
            1 - 1 / count
        ) * centroids + mean / count  # after the first batch no centroid is negative
        count = count + members
    return centroids, nearest(rows, centroids)


class MISSRecAsReleased(MISSRec):
    config: MISSRecAsReleasedConfig

    @property
    def needs(self) -> Needs:
        # The regulariser counts the padding of rows that hold one history.
        is_padded = self.config.regulariser == "batch-sum"
        return replace(super().needs, layout="padded" if is_padded else "packed")

    def draw_first(self, n_rows: int, n_interests: int) -> Tensor:
        """Draw from the first batch only."""
        is_one_pass = self.config.clusters == "one-pass"
        return super().draw_first(
            min(n_rows, batch_size(n_interests)) if is_one_pass else n_rows, n_interests
        )

    def clusters(self, rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.clusters == "intended":
            return super().clusters(rows, first)
        return one_pass(rows, first)

    def encoder_mask(self, same_history: Tensor, is_read: Tensor) -> Tensor:
        """Padding, which nothing looks at, looks at the history of its row."""
        if self.config.regulariser == "intended":
            return super().encoder_mask(same_history, is_read)
        return is_read.expand_as(same_history)

    def states(self, histories: Histories, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        """With a place of padding at the end of each row."""
        if self.config.regulariser == "intended":
            return super().states(histories, tables)
        row = torch.div(histories.slot, histories.item_seq.shape[1], rounding_mode="floor")
        wider = Histories(
            item_seq=F.pad(histories.item_seq, (0, 1)), position=F.pad(histories.position, (0, 1)),
            segment=F.pad(histories.segment, (0, 1)), kept=F.pad(histories.kept, (0, 1), value=True),
            slot=histories.slot + row,
        )  # fmt: skip
        return super().states(wider, tables)

    def diversity(self, memory: Tensor, looks: Tensor, histories: Histories) -> Tensor:
        """Return the sum over the batch of |rho * sum over all slots, padding too|^2 / D, rho the share of real ones.

        There are as many slots as the history with most different ids has; the padding's id counts where a history is
        shorter than max_len. All slots of padding have one draw of dropout; in the code each has its own.
        """
        if self.config.regulariser == "intended":
            return super().diversity(memory, looks, histories)
        width = histories.item_seq.shape[1]
        row = torch.div(histories.slot, width, rounding_mode="floor")
        real = looks.flatten(0, 1).index_select(0, histories.slot).to(memory.dtype)  # [T, V]
        states = memory.index_select(0, row)
        length = ((histories.segment > 0) & histories.kept).sum(1).index_select(0, row)
        n_real = real.sum(1)
        n_slots = (n_real + (length < self.max_len)).amax()
        total = (real[:, None, :] @ states)[:, 0] + (n_slots - n_real)[:, None] * states[:, width - 1]
        return ((n_real / n_slots)[:, None] * total).square().sum() / memory.shape[-1]

    def next_item_loss(self, u: Tensor, tables: list[Tensor], target: Tensor) -> Tensor:
        if self.config.padding == "no class":
            return super().next_item_loss(u, tables, target)
        content, ids = self.catalogue(tables, first=0)
        slope = self.slopes()
        slope = slope if len(slope) == 1 else F.pad(slope, (1, 0))
        return self.classify(u, content, ids, slope, target)
