"""torchvision missing, complete, without its operators, or beyond help: each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.features.torchvision_import import prepare_torchvision
from tests.features import networks
from tests.features.networks import PICTURES
from tests.prepared import ROOT

PREPARE = """
import json, sys
from mmbench.features.torchvision_import import prepare_torchvision, torchvision_fault
state = [prepare_torchvision(), prepare_torchvision(), torchvision_fault()]
"""
# The import of a CUDA build: fake implementations are registered for operators that nobody has declared.
TRAP = """
import sys
import torch
import torchvision.part
sys.tries = getattr(sys, "tries", 0) + 1
torch.library.register_fake("torchvision::nms")(lambda dets, scores, threshold: dets.new_empty(0))
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, threshold: dets.new_empty(0))
"""


def child(code: str, folder: Path, files: dict[str, str]) -> list[object]:
    """What `code` prints as JSON when torchvision is the package with these files."""
    package = folder / "torchvision"
    for name, content in files.items():
        package.mkdir(exist_ok=True)
        (package / name).write_text(content)
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    actual: list[object] = json.loads(done.stdout)
    return actual


def test_missing(tmp_path: Path) -> None:
    code = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""
    said = child(code + PREPARE + "print(json.dumps([*state, 'torch' in sys.modules]))", tmp_path, {})
    assert said == ["missing", "missing", "", False]  # nothing heavy was imported to find that out


def test_complete_is_left_alone(tmp_path: Path) -> None:
    code = PREPARE + "import torchvision\nprint(json.dumps([*state, torchvision.here]))"
    assert child(code, tmp_path, {"__init__.py": "here = 1"}) == ["complete", "complete", "", 1]


def test_without_its_operators_their_signatures_are_declared(tmp_path: Path) -> None:
    code = f"""{PREPARE}
import torch, torchvision
schema = str(torch.ops.torchvision.nms.default._schema)
print(json.dumps([*state, schema, sys.tries, torchvision.part.number]))
"""
    part = "import sys\nnumber = sys.parts = getattr(sys, 'parts', 0) + 1"
    said = child(code, tmp_path, {"__init__.py": TRAP, "part.py": part})
    assert said[:2] == ["declared", "declared"]
    assert "torchvision::nms does not exist" in str(said[2])
    assert said[3] == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert said[4:] == [2, 2]  # the failed try left no half imported part behind


def test_a_library_that_it_misses_is_not_torchvision_missing(tmp_path: Path) -> None:
    files = {"__init__.py": "import numpy.no_such_part"}
    state, _, fault = child(PREPARE + "print(json.dumps(state))", tmp_path, files)
    assert state == "broken"
    assert "numpy.no_such_part" in str(fault)


def test_beyond_help_it_is_hidden_and_encoders_do_without(tmp_path: Path) -> None:
    folder = networks.save("vit", tmp_path / "vit")
    code = f"""{PREPARE}
from mmbench.features.vision import TransformersVision
from tests.features.networks import PICTURES
encoder = TransformersVision("x", source={str(folder)!r}, device="cpu")
values = encoder.run([encoder.pixels(PICTURES[0])])
import transformers
print(json.dumps([*state, values.tolist(), transformers.utils.is_torchvision_available()]))
"""
    said = child(code, tmp_path, {"__init__.py": "raise OSError('libcudart.so.13: cannot open')"})
    assert said[:3] == ["broken", "broken", "OSError: libcudart.so.13: cannot open"]
    assert said[4] is False
    from mmbench.features.vision import TransformersVision

    here = TransformersVision("x", source=str(folder), device="cpu")
    assert said[3] == pytest.approx(here.run([here.pixels(PICTURES[0])]), rel=1e-5, abs=1e-6)


def test_here_models_and_transforms_work_without_operators() -> None:
    if prepare_torchvision() == "missing":
        pytest.skip("torchvision is not installed")
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    assert v2.Resize(8)(PICTURES[0]).size == (8, 12)
    assert sum(parameter.numel() for parameter in resnet18(weights=None).parameters()) == 11_689_512
