"""VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback. He and McAuley, AAAI 2016, arXiv:1510.01784.
The authors' C++ is not on GitHub; we read instead: github.com/aaossa/VBPR-PyTorch @ 883b471, enoche/MMRec @ e775373 and
PreferredAI/cornac @ 4db147d.

BPR-MF with a second pair of factors: a user's taste theta_u meets a learned map E of an item's picture, and a vector
beta' scores pictures for all users. The order of events is ignored.

    x(u, i) = beta_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i

Axes: T triples (user u, training item i, negatives j), F width of the image features, N items.
Follows: sec. "Preference Predictor" (x above) query()/item_table(), x_uij and BPR-Opt loss(), all of ContentBPR.
Differences: (1) Adam on shuffled epochs; the paper draws triples with replacement and takes plain gradient steps.
(2) Half of `hidden_dim` is for pictures; the paper gives both halves of 20. (3) Features are divided by their mean
norm; the authors divide by a constant. The recipe lists all differences.
"""

from dataclasses import dataclass

from mmbench.models.base import Catalog
from mmbench.models.content_bpr import ContentBPR, ContentBPRConfig
from mmbench.nn.features import chosen, rescaled


@dataclass(frozen=True, kw_only=True)
class VBPRConfig(ContentBPRConfig):
    pass


class VBPR(ContentBPR[VBPRConfig]):
    def __init__(self, config: VBPRConfig, catalog: Catalog) -> None:
        (feat,) = chosen(["image"], text=None, image=catalog.image_feat).values()
        feat = rescaled(feat, catalog.has_image, config.feature_norm)
        super().__init__(config, catalog, {"image": feat})
