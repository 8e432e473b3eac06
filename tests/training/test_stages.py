"""Settings of a stage: any of the training's, checked before anything is trained, and in effect in that stage only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.models.base import Stage
from mmbench.models.needs import Needs, WholeRows
from mmbench.training.files import LOG
from tests.toy_training import CONFIG, log_of, make, scripted

BOTH = replace(CONFIG, max_epochs=3, warmup_steps=0)


def test_a_stage_has_its_own_optimiser_rate_and_steps(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "lr": 0.5, "batch_size": 7, "weight_decay": 0.0}
    trainer = make(
        tmp_path, config=BOTH, stages=(Stage(name="a", epochs=1, settings=settings), Stage(name="b"))
    )
    seen: list[tuple[int, str, float, float, int]] = []
    inner = trainer.step

    def spy(batch: Any) -> Any:
        optimizer = trainer.learner.optimizer
        group = optimizer.param_groups[0]
        seen.append(
            (
                trainer.progress.stage,
                type(optimizer).__name__,
                group["lr"],
                group["weight_decay"],
                len(batch.target),
            )
        )
        return inner(batch)

    trainer.step = spy  # type: ignore[method-assign]
    trainer.fit()
    first = [facts for facts in seen if facts[0] == 0]
    second = [facts for facts in seen if facts[0] == 1]
    assert {facts[1:4] for facts in first} == {("SGD", 0.5, 0.0)}
    assert {facts[1:4] for facts in second} == {("Adam", CONFIG.lr, CONFIG.weight_decay)}
    assert {facts[4] for facts in first[:-1]} == {7}
    assert {facts[4] for facts in second[:1]} == {CONFIG.batch_size}


def test_a_stage_has_its_own_early_stopping(tmp_path: Path) -> None:
    stages = (
        Stage(name="a", settings={"patience": 1, "max_epochs": 9}),
        Stage(name="b", settings={"eval_every": 2, "max_epochs": 4}),
    )
    trainer = make(tmp_path, config=BOTH, stages=stages, validate=scripted([0.5, 0.6, 0.4, 0.1, 0.2]))
    trainer.fit()
    validated = [(line["stage"], line["epoch"], "valid" in line) for line in log_of(tmp_path)]
    assert validated == [
        (0, 1, True), (0, 2, True), (0, 3, True), (1, 1, False), (1, 2, True), (1, 3, False), (1, 4, True),
    ]  # fmt: skip


def test_clipping_and_decay_of_the_rate_belong_to_their_stage(tmp_path: Path) -> None:
    clipped = {"grad_clip": 1e-6, "optimizer": "sgd", "weight_decay": 0.0}
    faster = {"lr_schedule": "exponential", "lr_gamma": 0.5}
    stages = (Stage(name="a", epochs=2, settings={**clipped, **faster}), Stage(name="b", epochs=1))
    trainer = make(tmp_path, config=BOTH, stages=stages)
    moved: list[float] = []
    rates: list[tuple[int, int, float]] = []
    step = trainer.step

    def spy(batch: Any) -> Any:
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        rates.append((trainer.progress.stage, trainer.progress.epoch, trainer.learner.rate))
        terms = step(batch)
        after = list(trainer.model.parameters())
        moved.append(max(float((a - b).detach().abs().max()) for a, b in zip(after, before, strict=True)))
        return terms

    trainer.step = spy  # type: ignore[method-assign]
    trainer.fit()
    of_first = sum(1 for stage, _, _ in rates if stage == 0)
    assert max(moved[:of_first]) <= CONFIG.lr * 1e-6 * 1.1
    assert min(moved[of_first:]) > 1e-4
    assert set(rates) == {(0, 0, CONFIG.lr), (0, 1, CONFIG.lr / 2), (1, 0, CONFIG.lr)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lrr": 0.1}, "Bilinear, stage 'late': unknown setting 'lrr'; did you mean 'lr'?"),
        ({"lr": "fast"}, r"Bilinear, stage 'late': lr: .* (got 'fast')"),
        ({"batch_size": 0}, r"Bilinear, stage 'late': batch_size: .* (got 0)"),
        (
            {"max_len": 4},
            "Bilinear, stage 'late': max_len is a setting of the whole run, the same in all stages",
        ),
        ({"precision": "float64"}, "Bilinear, stage 'late': precision is a setting of the whole run"),
        ({"samples": "all"}, r"Bilinear, stage 'late': write Stage(samples=...)"),
    ],
)
def test_a_bad_setting_is_one_line_before_the_first_stage(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    stages = (Stage(name="early", epochs=1), Stage(name="late", settings=settings))
    with pytest.raises(UsageError) as caught:
        make(tmp_path, stages=stages)
    text = str(caught.value)
    assert "\n" not in text
    for part in said.split(" .* "):
        assert part in text
    assert not (tmp_path / LOG).exists()


def test_needs_are_held_against_every_stage(tmp_path: Path) -> None:
    needs = Needs(samples=("all",), extras=(WholeRows(),))
    fits, misfits = {"batch_unit": "rows"}, {"batch_unit": "targets"}
    make(tmp_path, needs=needs, stages=(Stage(settings=fits),))
    with pytest.raises(
        UsageError, match=r"^Bilinear with these settings needs whole histories in a step; set batch"
    ):
        make(
            tmp_path, needs=needs, stages=(Stage(name="a", epochs=1, settings=fits), Stage(settings=misfits))
        )


def test_a_stage_leaves_the_run_s_settings_alone(tmp_path: Path) -> None:
    stages = (Stage(name="a", epochs=1, settings={"lr": 0.5}), Stage(name="b"))
    trainer = make(tmp_path, stages=stages)
    assert [stage.config.lr for stage in trainer.stages] == [0.5, CONFIG.lr]
    assert trainer.stages[1].config is CONFIG
    assert trainer.config is CONFIG
