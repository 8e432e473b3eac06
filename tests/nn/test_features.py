"""mmbench.nn.features: features per layer stay as they are stored, whatever the model's precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.nn.features import LayerFeatures


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_look_ups_are_the_stored_numbers(stored: torch.dtype, precision: torch.dtype) -> None:
    feat = torch.randn(9, 5, 3).to(stored)
    model = nn.ModuleDict({"all": LayerFeatures(feat), "some": LayerFeatures(feat, slice(0, None, 2))})
    model.to(precision)
    ids = torch.tensor([[3, 0, 8], [8, 8, 1]])
    assert torch.equal(model["all"](ids), feat[ids].to(precision))
    assert torch.equal(model["some"](ids), feat[ids][..., [0, 2, 4], :].to(precision))
    assert not model.state_dict()


def test_a_memory_mapped_file_is_read_where_it_lies(tmp_path: Path) -> None:
    """Neither building the module nor a change of precision copies it: a number that is written into the file shows."""
    np.save(tmp_path / "values.npy", np.arange(24, dtype=np.float16).reshape(4, 3, 2))
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r+")
    module = LayerFeatures(torch.from_numpy(mapped), slice(1, None)).to(torch.float64)
    mapped[2, 1, 0] = -5
    assert module(torch.tensor([2])).tolist() == [[[-5.0, 15.0], [16.0, 17.0]]]
    assert module.bits.untyped_storage().data_ptr() == mapped.ctypes.data
