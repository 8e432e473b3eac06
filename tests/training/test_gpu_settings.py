"""What a GPU asks of the training loop: memory that runs out, products of less precision. Tested on the CPU."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.errors import RunError
from mmbench.evaluation.ranking import rank
from mmbench.matrix_units import bfloat16_units, has_matrix_units
from mmbench.models.needs import Needs, Negatives
from mmbench.nn import losses
from mmbench.runtime import prepare_process
from mmbench.training import precision
from mmbench.training.precision import rounded_products
from mmbench.training.progress import EpochReport
from mmbench.training.trainer import Trainer, train_epoch
from tests.models.toy import MAX_LEN, catalog_of, toy_model, toy_view
from tests.models.toy import N_ITEMS as TOY_ITEMS
from tests.scorers import Bilinear, random_view, state_of
from tests.toy_training import CONFIG, N_ITEMS, N_USERS, log_of, make, same


def test_out_of_gpu_memory_goes_on_with_smaller_chunks(tmp_path: Path) -> None:
    class Large(Bilinear):
        """Needs a chunk of 100 rows or fewer."""

        def loss(self, batch: Any) -> dict[str, Tensor]:
            if losses.rows_of_logits() > 100:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().loss(batch)

    said: list[str] = []

    class Listener:
        def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
        def epoch(self, report: EpochReport) -> None: ...
        def note(self, text: str) -> None:
            said.append(text)

    trainer = make(tmp_path, model=Large(n_items=N_ITEMS, n_users=N_USERS))
    trainer.watcher = Listener()
    assert trainer.fit().stopped
    assert said == [f"out of GPU memory; continued with {n} rows of logits at once" for n in (256, 128, 64)]
    assert trainer.progress.notes == said
    assert losses.rows_of_logits() == losses.ROWS_OF_LOGITS, "the next cell starts with all"
    again = make(tmp_path, model=Bilinear(n_items=N_ITEMS, n_users=N_USERS))
    assert again.fit().notes == said, "a resumed run remembers them"


@pytest.mark.parametrize("call", [1, 7, 20])
def test_a_step_done_again_sees_the_same_noise(call: int, tmp_path: Path) -> None:
    """Dropout, negatives and weights are those of a run whose memory suffices."""

    class Tight(Bilinear):
        left_to_fail = 0

        def loss(self, batch: Any) -> dict[str, Tensor]:
            terms = super().loss(batch)  # all of the step's noise is drawn
            self.left_to_fail -= 1
            if self.left_to_fail == 0:
                self.batches.pop()
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return terms

    trained = []
    for calls in (0, call):
        torch.manual_seed(1)
        needs = Needs(extras=(Negatives(k=2),), samples=("all", "prefix", "pairs"))
        model = Tight(n_items=N_ITEMS, n_users=N_USERS, needs=needs)
        model.left_to_fail = calls
        trainer = make(tmp_path / str(calls), model=model)
        assert len(trainer.fit().notes) == bool(calls)
        trained.append(trainer)
    assert same(*(state_of(model.model) for model in trained))
    drawn = [[batch.negatives for batch in model.model.batches] for model in trained]  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert log_of(tmp_path / "0") == log_of(tmp_path / str(call))


def test_a_step_of_the_optimiser_is_not_done_twice(tmp_path: Path) -> None:
    trainer, calls = make(tmp_path), [0]
    trainer.begin()

    def step() -> None:
        calls[0] += 1
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    trainer.learner.optimizer.step = step  # type: ignore[method-assign, assignment]
    with pytest.raises(RunError, match=r"^CUDA out of memory; lower batch_size"):
        train_epoch([trainer], trainer)
    assert calls == [1]


def test_out_of_gpu_memory_ends_with_one_line(tmp_path: Path) -> None:
    class Larger(Bilinear):
        def loss(self, batch: Any) -> dict[str, Tensor]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(RunError, match=r"^CUDA out of memory; lower batch_size \(now \d+\)$"):
        make(tmp_path, model=Larger(n_items=N_ITEMS, n_users=N_USERS)).fit()
    assert losses.rows_of_logits() == losses.ROWS_OF_LOGITS


def test_out_of_gpu_memory_in_a_ranking_ends_with_one_line(tmp_path: Path) -> None:
    class Wide(Bilinear):
        def score(self, batch: Any) -> Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def validate(model: Any) -> float:
        return float(rank(model, random_view(n_users=N_USERS, n_items=N_ITEMS)).greater.mean())

    with pytest.raises(
        RunError,
        match=r"^epoch 1, validation: CUDA out of memory; the ranking needs more: fewer seeds at once \(--stack\)",
    ):
        make(tmp_path, model=Wide(n_items=N_ITEMS, n_users=N_USERS), validate=validate).fit()


@pytest.mark.skipif(not has_matrix_units(), reason="this processor has no matrix units (AMX)")
@pytest.mark.parametrize(
    ("name", "settings"), [("sasrec", {}), ("fearec", {}), ("ticoserec", {"contrast_warm_up": 0})]
)
def test_bfloat16_products_train_and_leave_float32_weights(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    trained: dict[str, list[dict[str, float]]] = {}
    for matmul in ("float32", "bfloat16"):
        view = toy_view()
        catalog = catalog_of(view, n_items=TOY_ITEMS)
        model = toy_model(name, catalog, dropout=0.0, attn_dropout=0.0, **settings)
        config = replace(CONFIG, max_epochs=2, matmul=matmul, max_len=MAX_LEN)
        trainer = Trainer(model, view, lambda model: 0.0, config, seed=1, folder=tmp_path / matmul)
        trainer.folder.mkdir()
        trainer.fit()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        trained[matmul] = [line["loss"] for line in log_of(trainer.folder)]
    assert trained["bfloat16"] != trained["float32"]
    for actual, expected in zip(trained["bfloat16"], trained["float32"], strict=True):
        assert actual == pytest.approx(expected, rel=0.02)


def test_without_matrix_units_bfloat16_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_matrix_units", lambda: False)
    config = replace(CONFIG, matmul="bfloat16")
    with pytest.raises(RunError, match=r"^matmul = bfloat16: this processor has no matrix units \(AMX\)"):
        make(tmp_path, config=config).fit()


def test_matrix_units_are_used_in_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, forward and backward, are inside; validation and everything after a training is float32."""
    monkeypatch.setattr(precision, "has_matrix_units", lambda: True)
    seen: dict[str, set[str]] = {"loss": set(), "backward": set(), "validation": set()}

    def note(where: str) -> None:
        seen[where].add(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]

    class Noting(Bilinear):
        def loss(self, batch: Any) -> dict[str, Tensor]:
            note("loss")
            terms = super().loss(batch)
            next(iter(terms.values())).register_hook(lambda gradient: note("backward"))
            return terms

    def validate(model: Any) -> float:
        note("validation")
        return 0.0

    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    config = replace(CONFIG, matmul="bfloat16")
    model = Noting(n_items=N_ITEMS, n_users=N_USERS)
    make(tmp_path, model=model, config=config, validate=validate).fit()
    assert seen == {"loss": {"bf16"}, "backward": {"bf16"}, "validation": {before}}
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


def test_whether_there_are_matrix_units_is_measured() -> None:
    """The answer is that of products: rounded ones differ from those of float64 by more than float32 explains."""
    numbers = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    with bfloat16_units():
        actual = numbers @ numbers
    error = (actual.double() - numbers.double() @ numbers.double()).abs().max()
    assert has_matrix_units() == bool(error > 1e-4)


def test_tf32_is_on_in_training_only() -> None:
    prepare_process()
    with rounded_products("tf32", "cuda"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    with rounded_products("float32", "cuda"):
        assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("name", ["sasrec", "mlp4rec"])
def test_a_compiled_loss_trains_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torch's tracer, with the traced operations run as they are: compiling them takes minutes.

    An epoch of two steps, of unequal size, and a layer: what the tracer reads is read again for some shapes.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    view, trained = toy_view(), {}
    small = {"hidden_dim": 12, "n_layers": 1} | ({"inner_dim": 16, "n_heads": 2} if name == "sasrec" else {})
    for compiles in (False, True):
        model = toy_model(name, catalog_of(view, n_items=TOY_ITEMS), **small)
        config = replace(CONFIG, max_epochs=1, batch_size=100, compile=compiles, max_len=MAX_LEN)
        trainer = Trainer(model, view, lambda model: 0.0, config, seed=1, folder=tmp_path / str(compiles))
        trainer.folder.mkdir()
        trainer.fit()
        trained[compiles] = [line["loss"] for line in log_of(trainer.folder)]
    for actual, expected in zip(trained[True], trained[False], strict=True):
        assert actual == pytest.approx(expected, rel=1e-4)


def test_what_the_compiler_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(
        RunError, match=r"^compile = true: .*no working C\+\+ compiler found; run it with compile"
    ):
        make(tmp_path, config=replace(CONFIG, compile=True)).fit()
