"""Fusions of finished runs: weights, identity, what is refused, and what a table shows of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmbench
from mmbench.data.store import Prepared
from mmbench.errors import MmbenchError
from mmbench.evaluation.complementarity import complementarity
from mmbench.evaluation.evidence import Ranks
from mmbench.nn.score_scales import FusionWeights
from mmbench.reporting.runs import Runs
from mmbench.runs import fuse as fuse_module
from mmbench.runs.fuse import Fusion, check_members
from mmbench.runs.rerank import reopen
from mmbench.runs.store import RunRecord, read_record
from tests.prepared import cli, write_toy

SMALL: dict[str, Any] = {"hidden_dim": 8, "inner_dim": 8, "n_layers": 1, "n_heads": 1, "batch_size": 128}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path, Runs]:
    """Two seeds of SASRec, of BPR-MF (which reads user ids, no histories) and of HM4SR's ids; and a model of counts."""
    folder = tmp_path_factory.mktemp("fuse")
    prepared = write_toy(folder / "data")
    runs = mmbench.run(
        ["sasrec", "bpr-mf", "itemknn"], datasets=prepared, seeds=2, epochs=2, floors=False, settings=SMALL,
        data_dir=folder / "data", results_dir=folder / "results",
    )  # fmt: skip
    assert not runs.failed
    return prepared, folder, runs


def members_of(runs: Runs, *names: str, seed: int = 1) -> list[RunRecord]:
    return [
        next(r for r in runs if r.model == name and (r.seed == seed or r.deterministic)) for name in names
    ]


def fuse(folder: Path, members: list[RunRecord], results: str = "results", **options: Any) -> RunRecord:
    return mmbench.fuse(members, data_dir=folder / "data", results_dir=folder / results, **options)


@pytest.mark.parametrize("scale", ["raw", "zscore", "minmax", "rank"])
def test_all_weight_on_one_member_ranks_as_its_run(scale: Any, world: tuple[Prepared, Path, Runs]) -> None:
    _, folder, runs = world
    members = members_of(runs, "sasrec", "bpr-mf", "itemknn")
    fusion = Fusion([reopen(m, data_dir=folder / "data", device="cpu") for m in members], scale, _cpu())
    view = fusion.data.targets("test")
    for number, member in enumerate(members):
        shares = tuple(int(k == number) for k in range(len(members)))
        ranking = fuse_module.rank_scores(
            fusion.scores(view, FusionWeights(shares, "test")), view, fusion.n_items, name="test"
        )
        assert ranking.n_different(member.ranking("test")) == 0, member.model


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def test_a_fusion_is_a_run_that_names_its_members(world: tuple[Prepared, Path, Runs]) -> None:
    _, folder, runs = world
    first = fuse(folder, members_of(runs, "sasrec", "itemknn"))
    second = fuse(folder, members_of(runs, "sasrec", "itemknn", seed=2))
    assert read_record(first.path).extra == first.extra
    assert first.extra["fused_runs"] == [m.title for m in members_of(runs, "sasrec", "itemknn")]
    assert first.extra["weights_from"].startswith("equal: 120 validation users are fewer")
    assert (first.model, first.display) == ("fused-sasrec+itemknn", "SASRec + ItemKNN, fused")
    assert first.n_parameters == sum(m.n_parameters for m in members_of(runs, "sasrec", "itemknn"))
    assert first.ranking("test").list_length == 20
    assert (first.config_id, second.config_id) == (first.config_id, first.config_id)
    assert (first.seed, second.seed) == (1, 2)
    table = mmbench.report([*runs, first, second]).table
    row = next(row for row in table.rows if row.model == first.model)
    assert row.cells[0].seeds == (1, 2)
    other = fuse(folder, members_of(runs, "sasrec", "itemknn"), scale="rank")
    assert other.config_id != first.config_id


def test_seeds_of_one_model_are_an_ensemble(world: tuple[Prepared, Path, Runs]) -> None:
    _, folder, runs = world
    both = [*members_of(runs, "sasrec"), *members_of(runs, "sasrec", seed=2)]
    fused = fuse(folder, both)
    swapped = fuse(folder, both[::-1])
    assert fused.ranking("test").n_different(swapped.ranking("test")) == 0
    assert fused.config_id != members_of(runs, "sasrec")[0].config_id


def test_weights_of_the_validation_targets_are_the_best_of_the_grid(
    world: tuple[Prepared, Path, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, runs = world
    monkeypatch.setattr("mmbench.evaluation.fusion.FEWEST_USERS", 100)
    members = members_of(runs, "sasrec", "itemknn")
    fused = fuse(folder, members, "chosen")
    equal = fuse(folder, members, "chosen", weights="equal")
    assert fused.extra["weights_from"] == "validation NDCG@10"
    best = fused.metrics("valid", "NDCG@10")["NDCG@10"]
    others = [r.metrics("valid", "NDCG@10")["NDCG@10"] for r in (equal, *members)]
    assert best >= max(others) - 1e-12
    for weights in ("learned", "gated"):
        assert (
            fuse(folder, members, "chosen", weights=weights).extra["weights_from"]
            == f"{weights} on 120 validation users"
        )


def test_no_test_target_is_opened_before_the_weights_are_chosen(
    world: tuple[Prepared, Path, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmbench.data import loaded

    _, folder, runs = world
    events: list[str] = []
    real_view, real_find = loaded.target_view, fuse_module.find_weights
    monkeypatch.setattr(loaded, "target_view", lambda *args: events.append(args[2]) or real_view(*args))
    monkeypatch.setattr(
        fuse_module, "find_weights", lambda *a, **k: (real_find(*a, **k), events.append("chosen"))[0]
    )
    fuse(folder, members_of(runs, "sasrec", "itemknn"), "sealed")
    assert "test" not in events[: events.index("chosen")]
    assert events.count("test") == 1


def test_what_cannot_be_fused_is_one_line(world: tuple[Prepared, Path, Runs], tmp_path: Path) -> None:
    prepared, folder, runs = world
    sasrec, other = members_of(runs, "sasrec", "itemknn")
    masked = mmbench.run(
        "itemknn", datasets=prepared, floors=False, settings={"mask_seen": "input"}, data_dir=folder / "data",
        results_dir=tmp_path,
    )[0]  # fmt: skip
    for members, options, message in (
        ([sasrec], {}, "needs two runs or more"),
        ([sasrec, sasrec], {}, "is given twice"),
        ([sasrec, masked], {}, "mask_seen is none and input; fuse runs of the same protocol"),
        ([sasrec, other], {"scale": "zscor"}, "did you mean 'zscore'?"),
        ([sasrec, other], {"weights": "best"}, "--weights"),
    ):
        with pytest.raises(MmbenchError, match=message) as caught:
            fuse(folder, members, **options)
        assert "\n" not in str(caught.value)
    fused = fuse(folder, [sasrec, other])
    with pytest.raises(MmbenchError, match="it is a fusion; rank its members"):
        reopen(fused, data_dir=folder / "data")
    check_members([sasrec, other])


def test_the_command_prints_members_and_fusion(world: tuple[Prepared, Path, Runs]) -> None:
    _, folder, runs = world
    paths = [record.path for record in members_of(runs, "sasrec", "itemknn")]
    done = cli("fuse", *paths, "--weights", "equal", data=folder / "data", results=folder / "results")
    assert done.returncode == 0, done.stderr
    assert "sasrec, seed 1" in done.stdout
    assert "McNemar p =" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("seed_1")
    assert len(list((folder / "results").glob("toy/fused-sasrec+itemknn/*/seed_1/run.json"))) >= 1


def test_hits_of_each_and_of_all_by_hand() -> None:
    """Six users; ranks from 0 (greater) with K = 1."""

    def ranks(*greater: int) -> Ranks:
        return Ranks(np.arange(6), np.array(greater), np.zeros(6, np.int64), 9)

    facts = complementarity([ranks(0, 0, 0, 5, 5, 5), ranks(0, 5, 5, 0, 5, 5)], ranks(0, 0, 5, 0, 5, 0), k=1)
    assert facts.only == (2, 1)
    assert facts.every == 1
    assert facts.oracle == pytest.approx(4 / 6)
    assert facts.kept == pytest.approx(3 / 4)
    assert facts.best == 0
    assert facts.p_mcnemar == pytest.approx(1.0)  # two gained, one lost: 2 * P(at most 1 of 3) = 1
