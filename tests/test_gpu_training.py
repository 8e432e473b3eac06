"""Training on a GPU: repeated, resumed, stacked, replayed and short of memory; other numbers are in test_gpu.py."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.evaluation import ranking
from mmbench.models.base import Recommender
from mmbench.nn.losses import cross_entropy
from mmbench.runtime import prepare_process
from mmbench.settings.config import TrainConfig
from mmbench.training.files import BEST
from mmbench.training.stack import fit_together, why_not
from mmbench.training.trainer import Trainer
from tests.gpu import GPU, named
from tests.models.test_contract import make, small
from tests.models.toy import MAX_LEN, N_ITEMS, toy_view
from tests.prepared import cli, same_counts, write_toy
from tests.scorers import Written, random_view, state_of
from tests.toy_training import KillAt, KilledError, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


@pytest.fixture(autouse=True)
def _as_a_run() -> Iterator[None]:
    """Settings of a run's process, and none of another test's memory."""
    prepare_process()
    yield
    torch.cuda.empty_cache()


CONFIG = TrainConfig(max_len=MAX_LEN, batch_size=16, max_epochs=4, patience=50, lr=0.01, adam_eps=1e-4)


def trainer_of(
    name: str, folder: Path, *, seed: int = 1, config: TrainConfig = CONFIG, **settings: Any
) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    model = make(name, seed=seed, **(small(name) | settings))
    model = model.to(device=GPU, dtype=getattr(torch, config.precision))
    return Trainer(model, toy_view(), by_weights, config, seed=seed, folder=folder, device=GPU)


def by_weights(model: Recommender[Any]) -> float:
    return float(sum(parameter.detach().double().sum() for parameter in model.parameters()).sin())


DETERMINISTIC = ["sasrec", "hm4sr", "tmmsrec", "tisasrec", "lrurec", "bert4rec", "gru4rec"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_same_run_twice_has_the_same_weights(name: str, tmp_path: Path) -> None:
    first, second = (trainer_of(name, tmp_path / kind) for kind in "ab")
    for trainer in (first, second):
        trainer.fit()
    assert same(state_of(first.model), state_of(second.model))


@pytest.mark.parametrize("name", ["sasrec", "hm4sr"])
def test_a_killed_run_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    whole = trainer_of(name, tmp_path / "whole")
    whole.fit()
    killed = trainer_of(name, tmp_path / "killed")
    KillAt(killed, "_save", 3)
    with pytest.raises(KilledError):
        killed.fit()
    again = trainer_of(name, tmp_path / "killed")
    again.fit()
    assert same(state_of(again.model), state_of(whole.model))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["sasrec", "hm4sr:shared-pcl", "tisasrec", "lrurec"])
def test_stacked_seeds_train_as_they_do_alone(name: str, tmp_path: Path) -> None:
    settings = small(name, dropout=False)
    if name.startswith("hm4sr"):
        settings["placeholder_share"] = 0.0  # the draws of a stack are shared
        settings["time_encoding"] = "interval"  # phases of 1e9 seconds make chaos of a last bit within steps
    config = replace(CONFIG, precision="float64", max_epochs=2)
    groups = {
        kind: [
            trainer_of(name, tmp_path / kind / str(seed), seed=seed, config=config, **settings)
            for seed in (1, 2, 3)
        ]
        for kind in ("alone", "stack")
    }
    assert not why_not(groups["stack"][0])
    for group in groups["alone"]:
        group.fit()
    assert dict(fit_together(groups["stack"], size=3)) == dict.fromkeys(range(3))
    for alone, stacked in zip(groups["alone"], groups["stack"], strict=True):
        for key, value in state_of(alone.model).items():
            torch.testing.assert_close(
                state_of(stacked.model)[key], value, rtol=1e-5, atol=1e-7, msg=named(key)
            )


@pytest.mark.parametrize(
    "name",
    [
        "sasrec",
        "hm4sr",
        "hm4sr:shared-pcl",
        "tmmsrec",
        "tisasrec",
        "lrurec",
        "bpr-mf",
        "vbpr",
        "maml",
        "mgat",
        "freedom",
        "missrec",
        "unisrec",
        "tedrec",
        "dif-sr",
        "nova",
        "m3srec",
        "mmmlp",
        "s3rec:recbole",
        "trimlp",
        "mlp4rec",
        "caser",
        "nextitnet",
        "fearec",
    ],
)
def test_replayed_steps_train_what_single_kernels_train(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout and all other noise, over epochs whose shapes recur."""
    trained = []
    for use_graphs in (True, False):
        trainer = trainer_of(
            name, tmp_path / str(use_graphs), config=replace(CONFIG, warmup_steps=9, grad_clip=1.0)
        )
        trainer.allows_graphs = use_graphs
        start = trainer.start_stage

        def start_evenly(start: Callable[[], None] = start, trainer: Trainer = trainer) -> None:
            start()
            trainer.batcher.is_even = True  # dropout draws for the same shapes

        monkeypatch.setattr(trainer, "start_stage", start_evenly)
        trainer.fit()
        assert not trainer.progress.notes
        if use_graphs:
            assert trainer.graphs is not None
            assert trainer.graphs.captured, "nothing was replayed"
        trained.append(state_of(trainer.model))
    for key, value in trained[1].items():
        torch.testing.assert_close(trained[0][key], value, rtol=1e-4, atol=1e-6, msg=named(key))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["sasrec", "hm4sr"])
def test_a_stack_is_replayed_and_the_same_twice(name: str, tmp_path: Path) -> None:
    ends = []
    for kind in ("a", "b"):
        group = [trainer_of(name, tmp_path / kind / str(seed), seed=seed) for seed in (1, 2, 3)]
        assert dict(fit_together(group, size=3)) == dict.fromkeys(range(3))
        assert not any(trainer.progress.notes for trainer in group)
        assert group[0].progress.stack == [1, 2, 3]
        ends.append([state_of(trainer.model) for trainer in group])
    assert all(same(a, b) for a, b in zip(*ends, strict=True))


class Uncapturable(Recommender[Any]):
    """SASRec with a loss that waits for a number, which no capture survives."""

    def __init__(self) -> None:
        inner = make("sasrec")
        super().__init__(inner.config, _catalog_like(inner))
        self.inner = inner

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        terms = self.inner.loss(batch)
        assert all(float(value) > 0 for value in terms.values())
        return terms

    def score(self, batch: Batch) -> Tensor:
        return self.inner.score(batch)


def test_a_step_that_cannot_be_captured_is_trained_kernel_by_kernel(tmp_path: Path) -> None:
    """What comes after a failed capture, in this training and in the next, draws noise and is captured again."""
    config = replace(CONFIG, max_epochs=2)
    notes = []
    for kind in (True, False):
        torch.manual_seed(0)
        trainer = Trainer(
            Uncapturable().to(GPU), toy_view(), by_weights, config, seed=1, folder=tmp_path / str(kind), device=GPU,
            use_graphs=kind,
        )  # fmt: skip
        (tmp_path / str(kind)).mkdir()
        notes.append(trainer.fit().notes)
    assert [note.startswith("trained without CUDA graphs") for note in notes[0]] == [True]
    assert not notes[1]
    for name in ("sasrec", "freedom"):
        after = trainer_of(name, tmp_path / name)
        after.fit()
        assert not after.progress.notes
        assert after.graphs is not None
        assert after.graphs.captured


def test_memory_that_runs_out_is_gone_on_without(tmp_path: Path) -> None:
    """Real memory: the loss's rows of logits do not fit until there are fewer of them."""
    n_items, taken = 400_000, 512 * 2**20
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    query = torch.randn(512, 32, device=GPU, requires_grad=True)
    table = torch.randn(n_items, 32, device=GPU, requires_grad=True)
    target = torch.randint(1, n_items + 1, (512,), device=GPU)

    class Wide(Recommender[Any]):
        def __init__(self) -> None:
            inner = make("sasrec")
            super().__init__(inner.config, _catalog_like(inner))
            self.inner = inner

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            return self.inner.loss(batch) | {"wide": 1e-9 * cross_entropy(query, table, target)}

        def score(self, batch: Batch) -> Tensor:
            return self.inner.score(batch)

    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + taken) / total)
    try:
        trainer = Trainer(
            Wide().to(GPU),
            toy_view(),
            by_weights,
            replace(CONFIG, max_epochs=1),
            seed=1,
            folder=tmp_path,
            device=GPU,
        )
        progress = trainer.fit()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any(note.startswith("out of GPU memory; continued with") for note in progress.notes)
    assert (tmp_path / BEST).is_file()


def _catalog_like(model: Recommender[Any]) -> Any:
    from tests.scorers import empty_catalog

    return empty_catalog(n_items=model.n_items, n_users=20, max_len=model.max_len)


def scores_of(model: Recommender[Any]) -> list[Tensor]:
    """The scores that a ranking on the GPU sees, by chunk."""
    view = random_view(n_users=9, n_items=N_ITEMS)
    model.eval()
    with torch.no_grad():
        return [scores.clone() for _, scores in ranking._chunks(model, view, torch.device(GPU), None)]


def test_a_gpu_makes_the_lists_of_a_cpu() -> None:
    """Few levels, so ties; more blocks than the lists are long; histories that hold good items."""
    view = random_view(n_users=40, n_items=900, longest=60)
    for levels in (3, 10**6):
        table = torch.randint(levels, (40, 900), generator=torch.Generator().manual_seed(0)).float()
        expected = ranking.rank_fully(Written(table), view, name="test", lists=9)
        model = Written(table.to(GPU))
        actual = ranking.rank_fully(model, view, name="test", lists=9, device=GPU)
        assert actual.n_different(expected) == 0
        for rule, lists in expected.lists.items():
            assert (actual.lists[rule].items == lists.items).all()


def test_bfloat16_trains_and_ranks_in_float32(tmp_path: Path) -> None:
    trainer = trainer_of("hm4sr", tmp_path, config=replace(CONFIG, matmul="bfloat16", max_epochs=2))
    trainer.fit()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    seen = scores_of(trainer.model)
    assert {event.dtype for event in seen} == {torch.float32}
    exact = [event.double() for event in seen]
    trainer.model.double()
    again = scores_of(trainer.model)
    for a, b in zip(exact, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # tf32 would be off by 1e-3


def test_two_cells_share_one_gpu(tmp_path: Path) -> None:
    write_toy(tmp_path / "data")
    small_run = ("--set", "hidden_dim=16", "--set", "inner_dim=16", "--epochs", "2", "--dataset", "toy")
    for kind, jobs in (("alone", "1"), ("both", "2")):
        done = cli(
            "run", "sasrec", "--seeds", "2", "--device", "cuda", "--stack", "off", "--jobs", jobs, *small_run,
            data=tmp_path / "data", results=tmp_path / kind, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    first, second = (
        sorted((tmp_path / kind / "toy" / "sasrec").glob("*/seed_*")) for kind in ("alone", "both")
    )
    assert len(first) == len(second) == 2
    assert all(same_counts(a, b) for a, b in zip(first, second, strict=True))
