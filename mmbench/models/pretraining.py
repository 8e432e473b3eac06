"""The setting of models that may be trained on other data sets before the run's own.

`pretrain_on` names prepared data sets; mmbench.runs.sources opens them, mmbench.training.sources joins them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

SETTING = "pretrain_on"
TARGET = "target"  # stands for the run's own data set


def _as_tuple(value: Any) -> Any:
    """Return "a,b", or a list, as a tuple; anything else as it is."""
    parts = value.split(",") if isinstance(value, str) else value
    return (
        tuple(part.strip() if isinstance(part, str) else part for part in parts) if _is_list(parts) else value
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


DataSets = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """Part of a model's configuration."""

    pretrain_on: DataSets = ()  # data sets to train on first; ["target"]: the run's own; []: none

    def check_pretraining(self) -> None:
        """Raise ValueError for a name that is empty or stands twice, and for others beside "target"."""
        names = self.pretrain_on
        if not all(names):
            raise ValueError("pretrain_on has an empty name; write pretrain_on = [] for no pre-training")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"pretrain_on names {name} twice; name each data set once")
        if TARGET in names and len(names) > 1:
            raise ValueError(
                'pretrain_on = ["target"] is the run\'s own data set and goes with no others; leave it or them out'
            )

    @property
    def pretraining_data(self) -> Literal["target", "source"]:
        """Return the data of the stage that pre-trains."""
        return "target" if self.pretrain_on == (TARGET,) else "source"


def described(names: Sequence[str]) -> str:
    """Return the value of `pretrain_on` in words, as tables show it."""
    if not names:
        return "none"
    return "in-domain" if list(names) == [TARGET] else f"pre-trained on {', '.join(names)}"
