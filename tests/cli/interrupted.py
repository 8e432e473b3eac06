"""A user's model, trained as SASRec is, that a test can stop at a chosen moment, so that short runs are caught at work.

MOMENT in the environment names it by kind and number, as "step:17": the 17th training step of a process, its 17th flush
("fsync") or its 17th rename ("replace"). There the process kills itself, or, where WAITS is set, stands still until a
signal ends it; a file in the folder of models tells that it got there.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.models.test_registry import write_own

NAME = "my-sasrec"
CODE = '''
"""SASRec, stopped at MOMENT."""
import os, signal, time
from pathlib import Path
from mmbench.models import registry

SASRec = registry.find("sasrec").load()
KIND, _, NUMBER = os.environ.get("MOMENT", "").partition(":")
left = [int(NUMBER or 0)]

def reach(kind):
    left[0] -= kind == KIND
    if kind == KIND and left[0] == 0:
        Path(__file__).with_name(f"at-work-{os.getpid()}").touch()
        until = time.monotonic() + 600  # in case that the test is killed
        while "WAITS" in os.environ and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

def counting(name, inner):
    def call(*args, **kwargs):
        reach(name)
        return inner(*args, **kwargs)
    return call

if KIND in ("fsync", "replace"):
    setattr(os, KIND, counting(KIND, getattr(os, KIND)))

class MySASRec(SASRec):
    stackable = False

    def loss(self, batch):
        reach("step")
        return super().loss(batch)
'''
RECIPE = """
name = "my-sasrec"
display = "MySASRec"
class = "MySASRec"
summary = "SASRec that stops"
tags = ["sequential"]
inputs = ["item"]

[settings]
hidden_dim = { value = 16, source = "small" }
inner_dim = { value = 16, source = "small" }
n_layers = { value = 1, source = "small" }
n_heads = { value = 1, source = "small" }
dropout = { value = 0.2, source = "small" }
attn_dropout = { value = 0.2, source = "small" }
batch_size = { value = 64, source = "small" }
"""


def write_model(folder: Path) -> Path:
    """Write the model into a folder for `MMBENCH_MODELS`."""
    return write_own(folder, code=CODE, recipe=RECIPE, stem="my_sasrec")


def at(models: Path, moment: str = "", *, waits: bool = False) -> Mapping[str, str]:
    """Return the environment of a command that is stopped at a moment, or of one that is not."""
    stopped = ({"MOMENT": moment} if moment else {}) | ({"WAITS": "1"} if waits else {})
    return {"MMBENCH_MODELS": str(models)} | stopped


def n_at_work(models: Path) -> int:
    """Return how many processes stand still at their moment."""
    return len(list(models.glob("at-work-*")))
