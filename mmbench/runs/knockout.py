"""Knock-outs of stored runs: which make sense for a run, what is stored of them already, the rest ranked now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbench.choices import SPLITS, SplitName
from mmbench.errors import DataError, MmbenchError, RunError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.interventions import Intervention
from mmbench.models import registry
from mmbench.runs import store
from mmbench.runs.rerank import RunModel, reopen
from mmbench.runs.store import RunRecord
from mmbench.runs.workers import cannot_write, claim
from mmbench.runtime import code_version

FEATURES = ("text", "image")
UNREAD = "reads no "


@dataclass(frozen=True)
class KnockedOut:
    """What a knock-out of a run gave.

    rankings  valid and test; empty where nothing was computed
    reason    why nothing was computed: "reads no text"
    """

    name: str
    rankings: Mapping[SplitName, Ranking] = field(default_factory=dict)
    reason: str = ""


def knock_out(
    record: RunRecord,
    interventions: Sequence[Intervention],
    *,
    data_dir: Path,
    device: str = "auto",
    say: Callable[[str], object] = lambda text: None,
) -> list[KnockedOut]:
    """Rank a finished run under each intervention and store the rankings beside its own, while we hold its lock.

    What is stored by the same code, of the same weights and data, is not ranked again.

    Raises RunError where the run cannot be opened or another process computes it, DataError for its own rankings.
    """
    lock = claim(record.path, wait=False)
    if lock is None:
        raise RunError(f"{record.path} is being computed by another run; try again when it is done")
    with lock:
        ranker = _Ranker(record, data_dir, device, say)
        try:
            return [ranker.rank(intervention) for intervention in interventions]
        except OSError as error:
            raise cannot_write(record.path, error) from error


def why_not_read(record: RunRecord, kind: str) -> str:
    """Return why a run cannot notice a knock-out of this kind; "" where it may."""
    if kind in FEATURES:
        return "" if kind in record.features else f"{UNREAD}{kind}"
    needed = "time" if kind == "time" else "item"
    is_read = needed in registry.find(record.model).recipe.inputs
    return "" if is_read else f"{UNREAD}{'time' if kind == 'time' else 'history'}"


class _Ranker:
    """Ranks a run under several interventions; the intact model is opened once."""

    def __init__(self, record: RunRecord, data_dir: Path, device: str, say: Callable[[str], object]) -> None:
        self.record, self.data_dir, self.device, self.say = record, data_dir, device, say
        self.made_by = record.ranking("test").made_by
        self.intact: RunModel | None = None

    def rank(self, intervention: Intervention) -> KnockedOut:
        reason = why_not_read(self.record, intervention.kind)
        if reason:
            return KnockedOut(intervention.name, reason=reason)
        stored = self._stored(intervention)
        if stored:
            return KnockedOut(intervention.name, stored)
        self.say(f"{self.record.title}: {intervention.name}")
        model = self._intact() if intervention.catalog is None else self._changed(intervention)
        if isinstance(model, str):
            return KnockedOut(intervention.name, reason=model)
        if model.made_by.weights != self.made_by.weights:
            raise RunError(
                f"{self.record.path} holds other weights than those that were ranked; "
                f"run: mmbench evaluate {self.record.path}"
            )
        try:
            rankings = model.rank(intervention)
        except RunError as error:  # such as scores that are not finite
            return KnockedOut(intervention.name, reason=f"cannot be ranked: {error}")
        store.write_rankings(self.record.path, rankings)
        return KnockedOut(intervention.name, dict(zip(SPLITS, rankings, strict=True)))

    def _intact(self) -> RunModel:
        if self.intact is None:
            self.intact = reopen(self.record, data_dir=self.data_dir, device=self.device)
        return self.intact

    def _changed(self, intervention: Intervention) -> RunModel | str:
        """Return the model with what the catalogue lost, or why it cannot be built."""
        self._intact()  # raises what is wrong with the run itself
        try:
            return reopen(self.record, data_dir=self.data_dir, device=self.device, intervention=intervention)
        except (MmbenchError, RuntimeError) as error:  # a model may need features that differ
            return f"cannot be built: {error}"

    def _stored(self, intervention: Intervention) -> dict[SplitName, Ranking]:
        """Return what is stored of the same weights and data by this code; nothing where any of it is missing."""
        rankings: dict[SplitName, Ranking] = {}
        for split in SPLITS:
            try:
                ranking = self.record.ranking(intervention.ranking_name(split))
            except DataError:
                return {}
            made_by = ranking.made_by
            same = (made_by.weights, made_by.data) == (self.made_by.weights, self.made_by.data)
            if not same or made_by.code != code_version()["source_hash"]:
                return {}
            rankings[split] = ranking
        return rankings
