"""Items in two dimensions: the texts and pictures that a stored run reads, and the id vectors that it learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from mmbench.errors import RunError
from mmbench.look.plots import Plot
from mmbench.look.style import BLUE, new_figure, set_title
from mmbench.models.base import Recommender
from mmbench.reproduce.plan import Plan
from mmbench.runs.build import make_catalog
from mmbench.runs.rerank import reopen
from mmbench.runs.store import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["PCA", "t-SNE"]
METHODS: tuple[Method, ...] = ("PCA", "t-SNE")
MOST_ITEMS = 2_000
PERPLEXITY = 30.0
NEIGHBOURS = 5  # whose places `kept` is about


@dataclass(frozen=True)
class Projected:
    """Vectors in two dimensions.

    points    float64 [n, 2]
    variance  share of the vectors' variance along both axes; None where axes are not directions (t-SNE)
    kept      trustworthiness of the NEIGHBOURS nearest points, 0 to 1: whether they are neighbours of the vectors too
    """

    source: str
    method: Method
    width: int
    points: np.ndarray
    variance: float | None
    kept: float


@dataclass(frozen=True)
class Projection:
    """All projections of a run's items, in the order of sources, then of methods."""

    record: RunRecord
    n_items: int
    n_shown: int
    projected: tuple[Projected, ...]

    def caption(self) -> str:
        chosen = (
            f"the {self.n_shown:,} most popular of" if self.n_shown == MOST_ITEMS else f"{self.n_shown:,} of"
        )
        return (
            f"{self.record.title}: {chosen} {self.n_items:,} items, those that have everything shown. PCA of centred "
            f"vectors; t-SNE from the PCA, perplexity {PERPLEXITY:g} or a third of the items, seed 0."
        )

    def rows(self) -> list[list[str]]:
        """Return source, method, width, variance and kept neighbours, as texts."""
        return [
            [part.source, part.method, str(part.width), "" if part.variance is None else f"{part.variance:.1%}",
             f"{part.kept:.3f}"]
            for part in self.projected
        ]  # fmt: skip


def project(vectors: np.ndarray, method: Method) -> tuple[np.ndarray, float | None]:
    """Return vectors [n, D] in two dimensions, float64 [n, 2], and the share of variance that PCA keeps."""
    if method == "PCA":
        from sklearn.decomposition import PCA

        model = PCA(2, svd_solver="full")
        return model.fit_transform(vectors), float(model.explained_variance_ratio_.sum())
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    points = TSNE(2, init="pca", random_state=0, perplexity=perplexity).fit_transform(vectors)
    return points.astype(np.float64), None


def projection(record: RunRecord, data_dir: Path) -> Projection:
    """Return the projections of a finished run; RunError where it has no id vectors, or too few items."""
    run = reopen(record, data_dir=data_dir, device="cpu")
    sources, present = _features(record, run.data)
    sources["id"] = id_vectors(run.model)
    popularity = np.bincount(run.data.train.items, minlength=run.model.n_items + 1)
    items = np.flatnonzero(present)
    items = items[items > 0]
    shown = np.sort(items[np.argsort(-popularity[items], kind="stable")][:MOST_ITEMS])
    if len(shown) < 2 * NEIGHBOURS + 2:
        raise RunError(f"{record.path}: {len(shown)} items have all vectors, too few to be drawn")
    projected = [
        _projected(source, vectors[shown].astype(np.float64), method)
        for source, vectors in sources.items()
        for method in METHODS
    ]
    return Projection(record, run.model.n_items, len(shown), tuple(projected))


def _features(record: RunRecord, data: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the features that a run reads, [N + 1, D] by modality, and which items have all of them."""
    from mmbench.features.store import load_features

    stored = {
        name: load_features(data.prepared, name, use.encoder) for name, use in sorted(record.features.items())
    }
    flat = {name: features for name, features in stored.items() if not features.n_layers}
    catalog = make_catalog(data, flat, max_len=1)
    present = np.ones(data.prepared.n_items + 1, dtype=bool)
    for name in flat:
        present &= getattr(catalog, f"has_{name}").numpy()
    return {name: getattr(catalog, f"{name}_feat").numpy() for name in reversed(list(flat))}, present


def id_vectors(model: Recommender[Any]) -> np.ndarray:
    """Return a model's trained vector of each item, [N + 1, D]; RunError for a model that has none."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= model.n_items + 1:
            return module.weight.detach().cpu().numpy()[: model.n_items + 1]
    raise RunError(f"{type(model).__name__} has no vector for each item")


def _projected(source: str, vectors: np.ndarray, method: Method) -> Projected:
    from sklearn.manifold import trustworthiness

    points, variance = project(vectors, method)
    kept = float(trustworthiness(vectors, points, n_neighbors=NEIGHBOURS))
    return Projected(source, method, vectors.shape[1], points, variance, kept)


def projections(plan: Plan, records: Mapping[Path, RunRecord], data_dir: Path) -> list[Projection]:
    """Return the projections of the first finished run on each data set."""
    (row,) = plan.rows
    projections = []
    for cells in row.cells.values():
        runs = [records[cell.path] for cell in cells if cell.path in records]
        finished = [run for run in runs if run.status == "finished"]
        if finished:
            projections.append(projection(finished[0], data_dir))
    return projections


def plots(plan: Plan, projections: Sequence[Projection]) -> list[Plot]:
    """Return a figure for each data set: a column for each source, a row for each method."""
    name = plan.experiment.file_name
    return [
        Plot(
            f"{name}-{projection.record.dataset.replace(':', '-')}",
            f"{plan.content.source}: {plan.content.title}. {projection.caption()}",
            lambda projection=projection: draw(projection),  # type: ignore[misc]
        )
        for projection in projections
    ]


def draw(projection: Projection) -> "Figure":
    """Draw the points."""
    across = len(projection.projected) // len(METHODS)
    figure = new_figure(0.5 + 2.2 * len(METHODS))
    set_title(figure, f"{projection.record.dataset}: items in two dimensions")
    for index, part in enumerate(projection.projected):
        column, line = divmod(index, len(METHODS))
        axes = figure.add_subplot(len(METHODS), across, line * across + column + 1)
        axes.scatter(part.points[:, 0], part.points[:, 1], s=3, color=BLUE, alpha=0.5, linewidths=0)
        axes.set_title(f"{part.source}, {part.method}", fontsize=8, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
