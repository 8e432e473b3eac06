"""Items in two dimensions: PCA is the singular value decomposition's, and the vectors are the stored run's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmbench.data.store import open_prepared
from mmbench.features.store import load_features
from mmbench.reproduce.projection import id_vectors, project, projection
from mmbench.runs.rerank import reopen
from mmbench.runs.store import read_record
from tests.prepared import cells, cli


def test_pca_is_the_projection_on_the_two_largest_singular_directions() -> None:
    vectors = np.random.default_rng(1).normal(size=(80, 7)) * np.array([5, 3, 1, 1, 0.5, 0.5, 0.1]) + 4
    points, variance = project(vectors, "PCA")
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    signs = np.sign((points * expected).sum(0))
    np.testing.assert_allclose(points, expected * signs, atol=1e-9)
    assert variance == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())


def test_tsne_keeps_planted_groups_apart_and_gives_the_same_points_again() -> None:
    rng = np.random.default_rng(2)
    vectors = np.concatenate([rng.normal(size=(30, 8)) + 40 * k for k in range(3)])
    points, variance = project(vectors, "t-SNE")
    assert variance is None
    centres = points.reshape(3, 30, 2).mean(1)
    spread = points.reshape(3, 30, 2).std(1).max()
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(3, 1)]
    assert distances.min() > 2 * spread
    np.testing.assert_array_equal(project(vectors, "t-SNE")[0], points)


def test_the_command_shows_the_stored_run_s_vectors_and_saves_the_figure(
    data_dir: Path, papers: Path, tmp_path: Path
) -> None:
    done = cli(
        "reproduce", "tiny/fig6", "--seeds", "1", "--output", tmp_path / "out", data=data_dir,
        results=tmp_path / "results", env={"MMBENCH_PAPERS": str(papers)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "tiny-fig6-toy.png", "tiny-fig6-toy.svg", "tiny-fig6-captions.txt",
    }  # fmt: skip
    (cell,) = cells(tmp_path / "results")
    record = read_record(cell)
    tensors = load_file(cell / "best.safetensors")
    ids = id_vectors(reopen(record, data_dir=data_dir, device="cpu").model)
    assert any(
        value.shape == ids.shape and torch.equal(value, torch.from_numpy(ids)) for value in tensors.values()
    )
    shown = projection(record, data_dir)
    widths = {"text": 12, "image": 8, "id": ids.shape[1]}
    assert [(projection.source, projection.method, projection.width) for projection in shown.projected] == [
        (source, method, width) for source, width in widths.items() for method in ("PCA", "t-SNE")
    ]
    prepared = open_prepared("toy", data_dir)
    stored = [load_features(prepared, name, record.features[name].encoder) for name in ("text", "image")]
    has_both = np.array(stored[0].present) & np.array(stored[1].present)
    assert shown.n_shown == has_both[1:].sum()
    texts = np.array(stored[0].values)[has_both & (np.arange(61) > 0)]
    np.testing.assert_allclose(
        shown.projected[0].points, project(texts.astype(np.float64), "PCA")[0], atol=1e-5
    )
