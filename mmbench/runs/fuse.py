"""Late fusion of finished runs: their scores on a common scale, in a sum with weights chosen on validation targets.

Each member's best weights score once for each split; the test targets are opened once, after the weights are chosen.
The result is itself a run, whose record names its members:

    results/<data set>/fused-<model>+<model>/<configuration>/seed_<seed of the first trained member>/
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbench.atomic import hash_json
from mmbench.choices import DEFAULT_LISTS, SPLITS
from mmbench.data.batcher import Batcher
from mmbench.data.loaded import LoadedData
from mmbench.data.samples import last_rows
from mmbench.data.views import TargetView
from mmbench.errors import RunError, UsageError
from mmbench.evaluation.evidence import MadeBy
from mmbench.evaluation.fusion import ScaledChunk, WeightKind, find_weights
from mmbench.evaluation.ranking import chunk_size, rank_scores
from mmbench.nn.score_scales import FusionWeights, Scale, rescale
from mmbench.runs import store
from mmbench.runs.rerank import MEMBERS, RunModel, reopen
from mmbench.runs.store import RunRecord, slug
from mmbench.runs.workers import cannot_write, claim
from mmbench.runtime import environment, pick_device
from mmbench.settings.config import Origin, Setting


@dataclass
class Fusion:
    """Opened members of a fusion.

    popularity  float64 [N + 1], log(1 + training events) of each item
    """

    members: Sequence[RunModel]
    scale: Scale
    device: torch.device
    popularity: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        counts = np.bincount(self.data.train.items, minlength=self.n_items + 1)
        self.popularity = np.log1p(counts.astype(np.float64))

    @property
    def data(self) -> LoadedData:
        return self.members[0].data

    @property
    def n_items(self) -> int:
        return self.members[0].model.n_items

    def chunks(self, view: TargetView) -> Iterator[ScaledChunk]:
        """Yield the members' scores of a view on a common scale, users with histories of similar length together."""
        models = [member.model.eval() for member in self.members]
        rows, batchers = [], []
        for model in models:
            rows.append(last_rows(view.offsets, view.user, model.max_len - model.needs.slots_after))
            batchers.append(
                Batcher(
                    view.items,
                    view.times,
                    layout=model.needs.layout,
                    max_len=model.max_len,
                    device=self.device,
                )
            )
        # Each user has two float64 scores of every item and member, on its scale and on the way there.
        size = max(1, min(chunk_size(model, self.device.type) for model in models) // (2 * len(models)))
        order = np.argsort(np.diff(view.offsets), kind="stable")
        for first in range(0, len(order), size):
            index = order[first : first + size]
            with torch.no_grad():
                scores = [
                    model.score(batcher.evaluation(part[index], slots_after=model.needs.slots_after))
                    for model, batcher, part in zip(models, batchers, rows, strict=True)
                ]
                scaled = torch.stack([rescale(member, self.scale) for member in scores])
            knows = torch.ones(scaled.shape[:2], dtype=torch.bool, device=self.device)
            yield ScaledChunk(index, scaled, knows, self._traits(view, index))

    def _traits(self, view: TargetView, index: np.ndarray) -> torch.Tensor:
        length = (view.offsets[index + 1] - view.offsets[index]).astype(np.float64)
        last = view.items[view.offsets[index + 1] - 1]
        traits = np.stack([np.log1p(length), self.popularity[last]], 1)
        return torch.from_numpy(traits).to(self.device)

    def scores(self, view: TargetView, weights: FusionWeights) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield the fused scores of a view."""
        for chunk in self.chunks(view):
            yield chunk.index, weights.combine(chunk.scores, chunk.knows, chunk.traits)


def fuse_runs(
    records: Sequence[RunRecord],
    *,
    results_dir: Path,
    data_dir: Path,
    scale: Scale = "zscore",
    weights: WeightKind = "validation",
    device: str = "auto",
    lists: int = DEFAULT_LISTS,
) -> RunRecord:
    """Fuse finished runs of the same protocol, store the fusion as a run, and return its record.

    A fusion that is stored is made again, because its members may have been ranked again. UsageError for fewer than
    two runs, a run twice, and runs that do not share data and protocol; RunError for a run that did not finish.
    """
    check_members(records)
    chosen = pick_device(device)
    base = _record(records, results_dir, scale, weights)
    lock = claim(base.path, wait=False)
    if lock is None:
        raise RunError(f"{base.path} is being computed by another command; try again when it is done")
    with lock:
        try:
            members = [reopen(record, data_dir=data_dir, device=chosen) for record in records]
            record = _ranked(base, Fusion(members, scale, torch.device(chosen)), weights, lists)
            store.write_record(record)
        except OSError as error:
            raise cannot_write(base.path, error) from error
    return record


def check_members(records: Sequence[RunRecord]) -> None:
    """Raise an error for runs that cannot be fused."""
    if len(records) < 2:
        raise UsageError("a fusion needs two runs or more")
    for number, record in enumerate(records):
        if record.status != "finished":
            raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
        if record.title in [other.title for other in records[:number]]:
            raise UsageError(f"{record.path} is given twice")
        _check_protocol(records[0], record)


def _check_protocol(first: RunRecord, record: RunRecord) -> None:
    """Raise UsageError for a run whose data set, data or protocol differ from the first's."""
    if record.dataset != first.dataset:
        raise UsageError(f"{record.path} is of {record.dataset}, but {first.path} is of {first.dataset}")
    for key in sorted({*first.protocol, *record.protocol}):
        values = first.protocol.get(key), record.protocol.get(key)
        if values[0] != values[1]:
            raise UsageError(
                f"{first.path} and {record.path} have different protocols: {key} is {values[0]} and {values[1]}; "
                "fuse runs of the same protocol"
            )


def _record(records: Sequence[RunRecord], results_dir: Path, scale: Scale, weights: WeightKind) -> RunRecord:
    """Return what is known of a fusion before it is computed.

    Its configuration is the members' configurations, and their seeds counted from the first trained member's, so that
    fusions of seeds 1, 2, 3, ... of the same models are the runs of a row. The seed of a member that draws nothing
    does not count.
    """
    first = next((record for record in records if not record.deterministic), records[0])
    model = "fused-" + "+".join(slug(record.model) for record in records)
    offsets = [0 if record.deterministic else record.seed - first.seed for record in records]
    identity = {
        "members": [
            [record.model, record.config_id, offset] for record, offset in zip(records, offsets, strict=True)
        ],
        "scale": scale, "weights": weights,
    }  # fmt: skip
    config_id = hash_json(identity)[:10]
    settings: dict[str, Any] = {"scale": scale, "fusion_weights": weights, "mask_seen": first.mask_seen}
    return RunRecord(
        path=store.cell_path(results_dir, dataset=first.dataset, model=model, config_id=config_id, seed=first.seed),
        dataset=first.dataset, model=model, config_id=config_id, seed=first.seed, status="finished",
        display=" + ".join(record.display for record in records) + ", fused",
        deterministic=all(record.deterministic for record in records),
        synthetic=any(record.synthetic for record in records), leaky=any(record.leaky for record in records),
        protocol=first.protocol, n_items=first.n_items, stopped="fused",
        settings={key: Setting(value, Origin.default) for key, value in settings.items()},
        features={modality: use for record in reversed(records) for modality, use in record.features.items()},
        n_parameters=sum(record.n_parameters for record in records),
        extra={MEMBERS: [record.title for record in records]},
    )  # fmt: skip


def _ranked(base: RunRecord, fusion: Fusion, weights: WeightKind, lists: int) -> RunRecord:
    """Choose the weights, rank both splits, store the rankings, and return the record."""
    valid, shape = fusion.data.valid, (len(fusion.members), fusion.n_items)
    began = time.perf_counter()
    fitted = find_weights(weights, fusion.chunks, valid, shape, mask_seen=base.mask_seen)
    seconds = {"fusion": time.perf_counter() - began}
    made_by = _made_by(base, fusion, fitted)
    for split in SPLITS:
        began, view = time.perf_counter(), fusion.data.targets(split)
        ranking = rank_scores(
            fusion.scores(view, fitted), view, fusion.n_items, name=split, lists=lists if split == "test" else 0,
            made_by=made_by,
        )  # fmt: skip
        store.write_rankings(base.path, [ranking])
        seconds[f"rank_{split}"] = time.perf_counter() - began
    state: dict[str, Any] = {
        "weights": [share / sum(fitted.shares) for share in fitted.shares], "weights_from": fitted.source,
        "gates": [list(gate) for gate in fitted.gates],
    }  # fmt: skip
    return replace(
        base, seconds=seconds, extra={**base.extra, **state}, environment=environment(str(fusion.device))
    )


def _made_by(base: RunRecord, fusion: Fusion, weights: FusionWeights) -> MadeBy:
    parts = [member.made_by.weights for member in fusion.members]
    identity = hash_json([*parts, list(weights.shares), [list(gate) for gate in weights.gates]])
    return replace(fusion.members[0].made_by, run=base.title, weights=identity)
