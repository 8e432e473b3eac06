"""`tfidf-svd`: words and word pairs of an item's text, weighted by TF-IDF, reduced by a truncated SVD.

No pretrained knowledge: two texts are near when they share rare words, or words that occur with the same other
words in this catalogue.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbench.features.manifest import Modality


@dataclass(frozen=True, kw_only=True)
class TfidfSvd:
    """Encodes texts by TF-IDF and SVD in `dim` numbers or, for a small catalogue, in as many as its words allow."""

    dim: int = 256
    max_terms: int = (
        50_000  # keeps the most frequent terms, which bounds the SVD's memory on large catalogues
    )
    n_iter: int = 5  # power iterations of the randomised SVD
    random_state: int = 0

    name = "tfidf-svd"
    modality: Modality = "text"

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": 1,
            "terms": "lower case, accents stripped, words of any length, 1-2 grams",
            "weights": "(1 + log tf) * smoothed idf, rows of length 1",
            "dim": self.dim,
            "max_terms": self.max_terms,
            "n_iter": self.n_iter,
            "random_state": self.random_state,
            "scaling": "components signed by their largest loading, rows of length 1",
        }

    def encode(self, inputs: Iterable[str | None]) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts as float32 [n, D <= dim] with rows of length 1; a text without any word is absent."""
        texts = [text or "" for text in inputs]
        weights = self._weights(texts)
        if weights is None:
            return np.zeros((len(texts), 0), np.float32), np.zeros(len(texts), bool)
        reduced = self._reduce(weights)
        length = np.linalg.norm(reduced, axis=1)
        # A nearly zero vector (of a text whose words the SVD all dropped) has a direction that only rounding decides.
        present = length > 1e-6
        values = np.divide(reduced, length[:, None], out=np.zeros_like(reduced), where=present[:, None])
        return values.astype(np.float32), present

    def _weights(self, texts: list[str]) -> Any:
        """Return the TF-IDF matrix, sparse float64 [n, terms]; None when no text has a word."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            strip_accents="unicode",
            token_pattern=r"(?u)\b\w+\b",
            max_features=self.max_terms,
        )
        try:
            return vectorizer.fit_transform(texts)
        except ValueError as error:
            if "empty vocabulary" in str(error):
                return None
            raise

    def _reduce(self, weights: Any) -> np.ndarray:
        """Project on the first right singular directions, float64 [n, k], with signs independent of the solver."""
        from scipy.sparse import csr_matrix, hstack
        from sklearn.decomposition import TruncatedSVD
        from threadpoolctl import threadpool_limits

        k = min(self.dim, *weights.shape)
        if weights.shape[1] == 1:  # the SVD refuses a single column; adding an empty column changes nothing
            weights = hstack([weights, csr_matrix(weights.shape)], format="csr")
        svd = TruncatedSVD(n_components=k, n_iter=self.n_iter, random_state=self.random_state)
        # A thread sums in a fixed order, so that the same texts give the same bits on any number of cores; on a busy
        # machine it is also much faster. The explained variance, which is not read, is 0/0 when all texts are equal.
        with threadpool_limits(limits=1), np.errstate(invalid="ignore", divide="ignore"):
            reduced = svd.fit_transform(weights)
        # Takes the first of the largest loadings: they differ by rounding only, which must not choose the sign.
        size = np.abs(svd.components_)
        largest = (size >= size.max(axis=1, keepdims=True) * (1 - 1e-6)).argmax(axis=1)
        return reduced * np.where(svd.components_[np.arange(k), largest] < 0, -1.0, 1.0)
