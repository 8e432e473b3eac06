"""MISSRec with the slips of its released code, github.com/gimpong/MM23-MISSRec @ c3167c5; the model is in missrec.py.

Each slip has a setting, so that it can be undone.

Axes: as in missrec.py; V interests of a row.
Follows: one_pass() a single pass that takes absolute values, diversity() the regulariser over batch and padding,
next_item_loss() padding as a class of the softmax.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.models.needs import Needs
from mmbench.nn.clusters import count_by, nearest, sum_by

from .missrec import Histories, MISSRec, MISSRecConfig

BATCH = 2048  # vectors that the pass reads together, with fewer clusters than that


@dataclass(frozen=True, kw_only=True)
class MISSRecAsReleasedConfig(MISSRecConfig):
    clusters: Literal["one-pass", "intended"] = "one-pass"  # intended: as clustering says
    regulariser: Literal["batch-sum", "intended"] = "batch-sum"
    padding: Literal["class", "no class"] = "class"  # in the softmax


def batch_size(n_clusters: int) -> int:
    """Return how many vectors the pass reads together."""
    return int(1.1 * n_clusters) if n_clusters >= BATCH else BATCH


def one_pass(rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the released k-means: centroids [K, D] and the nearest of each row [n, D], int64 [n].

    It makes a single pass over batches. Once a batch has labels, absolute values replace its rows and the centroids
    (the distances square and root in place); a centroid moves by the mean of its rows over its count so far, and
    towards 0 where it has no rows. `first` [K] are rows of the first batch.
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
        # After the first batch no centroid is negative.
        centroids = (1 - 1 / count) * centroids + mean / count
        count = count + members
    return centroids, nearest(rows, centroids)


class MISSRecAsReleased(MISSRec):
    config: MISSRecAsReleasedConfig

    @property
    def needs(self) -> Needs:
        # The regulariser counts the padding of rows with a single history.
        is_padded = self.config.regulariser == "batch-sum"
        return replace(super().needs, layout="padded" if is_padded else "packed")

    def draw_first(self, n_rows: int, n_interests: int) -> Tensor:
        """Draw rows of the first batch only."""
        is_one_pass = self.config.clusters == "one-pass"
        return super().draw_first(
            min(n_rows, batch_size(n_interests)) if is_one_pass else n_rows, n_interests
        )

    def clusters(self, rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.clusters == "intended":
            return super().clusters(rows, first)
        return one_pass(rows, first)

    def encoder_mask(self, same_history: Tensor, is_read: Tensor) -> Tensor:
        """Return a mask in which padding, though hidden itself, looks at the history of its row."""
        if self.config.regulariser == "intended":
            return super().encoder_mask(same_history, is_read)
        return is_read.expand_as(same_history)

    def states(self, histories: Histories, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the states of rows that end with a column of padding."""
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
        """Return the batch's sum of |rho * sum over all slots, padding too|^2 / D, rho the share of real slots.

        The history with most different ids decides the number of slots; the padding id counts in histories shorter than
        max_len. Slots of padding share a draw of dropout; in the code each has a draw of its own.
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
