"""VBPR_ITV: VBPR with ids, texts and pictures, a baseline of TMMSRec (Wang et al., 2026, manuscript), which says only
that text is added "by the same fusion method as the image". VBPR is He and McAuley's, AAAI 2016, arXiv:1510.01784.
No code; the nearest is MMRec's VBPR, github.com/enoche/MMRec @ e775373, which concatenates text and image features.

Texts get what VBPR gives pictures: separate user factors, a map and a bias (`fusion = "separate"`), or text and image
features side by side form a single table (`fusion = "concat"`, MMRec's). The order of events is ignored.

    x(u, i) = beta_i + gamma_u . gamma_i + sum_m (theta_u^m . (E_m f_i^m) + beta^m . f_i^m)

Axes: T triples (user u, training item i, negatives j), F width of a feature table, N items.
Follows: x above query()/item_table(), VBPR's BPR-Opt loss(), all of ContentBPR; tables_of() names the tables.
Differences: the paper prints no equation, so the whole form is a reading: (1) a pair of factors per modality;
(2) the modalities share half of `hidden_dim`; (3) each modality is divided by its mean norm. The recipe has
all differences.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.models.base import Catalog
from mmbench.models.content_bpr import ContentBPR, ContentBPRConfig
from mmbench.nn.features import check_modalities, chosen, rescaled


@dataclass(frozen=True, kw_only=True)
class VBPRITVConfig(ContentBPRConfig):
    modalities: tuple[Literal["text", "image"], ...]  # () is BPR-MF
    fusion: Literal["separate", "concat"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modalities(self.modalities, may_be_empty=True)


def tables_of(config: VBPRITVConfig, catalog: Catalog) -> dict[str, Tensor]:
    """Return the feature tables by name: image and text, or both side by side as "content", text first."""
    feats = chosen(
        config.modalities,
        text=catalog.text_feat,
        image=catalog.image_feat,
        otherwise=", or set modalities = []",
    )
    tables = {
        name: rescaled(feat, getattr(catalog, f"has_{name}"), config.feature_norm)
        for name, feat in reversed(feats.items())
    }
    if config.fusion == "concat" and len(tables) == 2:
        return {"content": torch.cat([tables["text"], tables["image"]], 1)}
    return tables


class VBPRITV(ContentBPR[VBPRITVConfig]):
    def __init__(self, config: VBPRITVConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog, tables_of(config, catalog))

    @classmethod
    def reads(cls, config: VBPRITVConfig, modality: str) -> bool:
        return modality in config.modalities
