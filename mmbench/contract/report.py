"""All checks of a model, in their order: what holds, what is broken, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mmbench.contract import checks, training
from mmbench.contract.checks import BrokenError
from mmbench.contract.subject import Subject
from mmbench.errors import MmbenchError
from mmbench.visible import one_line

Status = Literal["holds", "broken", "raises", "not asked"]


def _always(subject: Subject) -> str:
    return ""


def _if_trained(subject: Subject) -> str:
    return "" if subject.trainable else "nothing is trained"


def _if_product(subject: Subject) -> str:
    return "" if subject.example.is_dot_product else "the score is not a product"


def _if_causal(subject: Subject) -> str:
    return _if_trained(subject) or ("" if checks.is_causal(subject) else "no state is declared causal")


def _if_both_samples(subject: Subject) -> str:
    if reason := _if_causal(subject):
        return reason
    if not {"all", "prefix"} <= set(subject.needs.samples):
        return "it is not trained on both kinds of samples"
    return "its loss rests on random draws" if checks.draws(subject) else ""


def _if_shift(subject: Subject) -> str:
    return "" if subject.entry.load().time_shift else "time_shift is not declared"


def _if_one_data_set(subject: Subject) -> str:
    if reason := _if_trained(subject):
        return reason
    on_source = any(stage.data == "source" for stage in subject.example.stages)
    return "a stage is trained on other data sets" if on_source else ""


@dataclass(frozen=True)
class Check:
    """Something that must hold for a model.

    holds    what is so when it does
    advice   what to do when it does not
    why_not  says of a model why it is not asked; "" if it is
    """

    name: str
    holds: str
    run: Callable[[Subject], str | None]
    advice: str
    why_not: Callable[[Subject], str] = _always


CHECKS = (
    Check("recipe", "every key of the recipe is a setting", checks.recipe, "correct the recipe"),
    Check(
        "files", "the constructor opens no file", checks.files,
        "take what it needs from the catalogue, which holds training events only",
    ),
    Check(
        "scores", "a finite score per item", checks.scores,
        "return [T, N] without row 0 of padding; in eval mode draw nothing",
    ),
    Check(
        "product", "score = query x item table", checks.product,
        "let item_table() read parameters only, [N, D]; or override score()", _if_product,
    ),
    Check(
        "rows", "padding and other rows change nothing", checks.rows,
        "mask by batch.mask, look only inside a segment, and normalise no axis of rows",
    ),
    Check(
        "seeds", "a seed gives the same model", checks.seeds,
        "draw from torch's default generator only; deterministic = True is for models without seeds",
    ),
    Check(
        "state", "the stored state holds what scores rest on", training.state,
        "keep modules in nn.ModuleList, tensors in register_buffer() or nn.Parameter, never in lists or plain fields",
    ),
    Check(
        "causal", "later items change no earlier state", checks.causal,
        "mask attention and convolutions, or say Needs(causal=False, samples=('prefix',))", _if_causal,
    ),
    Check(
        "target", "scores do not read the target", checks.target,
        "read batch.target and batch.negatives in loss() only", _if_trained,
    ),
    Check(
        "times", "times are read as declared", checks.times_are_read,
        "name time in the recipe's inputs exactly if it is read, or answer in reads()",
    ),
    Check(
        "features", "features are read as declared", checks.features_are_read,
        "name text and image in the recipe's inputs exactly if they are read, or answer in reads()",
    ),
    Check(
        "shift", "moving all times changes nothing", checks.shift,
        "use differences of times only, or leave time_shift out", _if_shift,
    ),
    Check(
        "loss", "named finite terms that repeat", training.loss,
        "return a dict of scalars, whose noise comes from torch's default generator", _if_trained,
    ),
    Check(
        "prefixes", "a pass = each prefix alone", checks.prefixes,
        "let a position see what its prefix alone would see, or offer a single kind of samples", _if_both_samples,
    ),
    Check(
        "gradients", "a gradient reaches each parameter", training.gradients,
        "use the parameter in loss(), remove it, or make it a buffer", _if_trained,
    ),
    Check(
        "memorise", "memorises users", training.memorise,
        "look at the loss: is it minimised, does it compare the target with other items?", _if_trained,
    ),
    Check(
        "resume", "a resumed training ends the same", training.resume,
        "keep what an epoch changes in buffers; draw from torch's default generator", _if_one_data_set,
    ),
    Check("speed", "time of a step", training.speed, "", _if_trained),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    text    what was seen, or why it was not asked
    advice  what to do; "" where nothing is wrong
    """

    model: str
    check: str
    status: Status
    text: str
    advice: str = ""

    @property
    def is_fault(self) -> bool:
        return self.status in ("broken", "raises")


def check_model(subject: Subject, *, names: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Yield the outcome of each check, or of the named checks; a check that raises does not stop the others.

    A model that cannot be built has that as its only finding.
    """
    try:
        subject = _buildable(subject)
    except Exception as error:
        yield Finding(
            subject.name, "build", "raises", text_of(error), "the constructor gets (config, catalog)"
        )
        return
    yield from (_outcome(subject, check) for check in CHECKS if not names or check.name in names)


def _buildable(subject: Subject) -> Subject:
    """Return the subject; with the sizes of its recipe where it cannot be made small."""
    try:
        _ = subject.example
    except Exception:
        if not subject.is_small:
            raise
        subject = replace(subject, is_small=False)
        _ = subject.example
    return subject


def _outcome(subject: Subject, check: Check) -> Finding:
    try:
        if reason := check.why_not(subject):
            return Finding(subject.name, check.name, "not asked", reason)
        remark = check.run(subject) or ""
    except BrokenError as error:
        return Finding(subject.name, check.name, "broken", one_line(str(error)), check.advice)
    except Exception as error:
        return Finding(subject.name, check.name, "raises", text_of(error), check.advice)
    return Finding(subject.name, check.name, "holds", f"{check.holds}{f': {remark}' * bool(remark)}")


def text_of(error: Exception) -> str:
    """Return an error as a line: a message of our own as it is, any other with its kind."""
    text = one_line(str(error))
    shown = text if isinstance(error, MmbenchError) else f"{type(error).__name__}: {text}"
    return shown if len(shown) <= 300 else f"{shown[:297]}..."
