"""Models with one fault each, as files that a user would write: what `mmbench check` must find."""

from pathlib import Path

GOOD = '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mmbench.models import Catalog, Needs, Recommender, TrainBatch
from mmbench.nn import cross_entropy, init_normal


@dataclass(frozen=True, kw_only=True)
class Config:
    hidden_dim: int = 16


class Good(Recommender[Config]):
    """A first-order Markov chain."""

    def __init__(self, config, catalog):
        super().__init__(config, catalog)
        self.left = nn.Embedding(catalog.n_items + 1, config.hidden_dim)
        self.right = nn.Embedding(catalog.n_items + 1, config.hidden_dim)
        init_normal(self, std=0.02)
        self.ready(catalog)

    def ready(self, catalog):
        pass

    def query(self, batch):
        return batch.at_slots(self.left(batch.item_seq))

    def item_table(self):
        return self.right.weight[1:]

    def loss(self, batch):
        return {"ce": cross_entropy(self.query(batch), self.item_table(), batch.target)}
'''

# name -> what its class has instead; the name is that of the check that must find it, up to a dash
FAULTS = {
    "files": """
    def ready(self, catalog):
        with open(__file__) as file:
            file.read()
""",
    "scores-nan": """
    def item_table(self):
        return torch.cat([self.right.weight[1:-1], self.right.weight[:1] * float("nan")])
""",
    "scores-padding": """
    def item_table(self):
        return self.right.weight
""",
    "scores-noise": """
    def query(self, batch):
        return torch.nn.functional.dropout(super().query(batch), 0.3)
""",
    "product": """
    last = 1.0

    def query(self, batch):
        self.last = float(batch.item_seq.max())
        return super().query(batch)

    def item_table(self):
        return self.right.weight[1:] * self.last
""",
    "rows": """
    def query(self, batch):
        return super().query(batch) - super().query(batch).mean(0)
""",
    "seeds-other-generator": """
    def ready(self, catalog):
        self.register_buffer("noise", torch.from_numpy(np.random.default_rng().normal(size=catalog.n_items)))

    def item_table(self):
        return self.right.weight[1:] * self.noise[:, None].to(self.right.weight.dtype)
""",
    "seeds-declared": """
    deterministic = True
""",
    "state": """
    def ready(self, catalog):
        self.scales = [torch.rand(1).item() + 0.5]

    def item_table(self):
        return self.right.weight[1:] * self.scales[0]
""",
    "state-of-training": """
    n_steps = 1

    def loss(self, batch):
        self.n_steps += 1
        return super().loss(batch)

    def item_table(self):
        return self.right.weight[1:] * self.n_steps
""",
    "causal": """
    def query(self, batch):
        sums = (batch.attention_mask(causal=False) & batch.mask[:, None, :]).to(self.left.weight.dtype)
        return batch.at_slots(sums @ self.left(batch.item_seq))
""",
    "target": """
    def query(self, batch):
        state = super().query(batch)
        return state + self.right(batch.target) if isinstance(batch, TrainBatch) else state
""",
    "times-undeclared": """
    def query(self, batch):
        return super().query(batch) * (1 + batch.at_slots(batch.time_seq[..., None]) % 1000)
""",
    "features-undeclared": """
    def ready(self, catalog):
        self.register_buffer("scale", catalog.text_feat[1:].sum(1, keepdim=True))

    def item_table(self):
        return self.right.weight[1:] * self.scale
""",
    "features-unread": "    pass\n",
    "times-unread": "    pass\n",
    "shift": """
    time_shift = True

    def query(self, batch):
        return super().query(batch) * (1 + batch.at_slots(batch.time_seq[..., None]) % 1000)
""",
    "loss-vector": """
    def loss(self, batch):
        return {"ce": super().loss(batch)["ce"].expand(3)}
""",
    "loss-noise": """
    def loss(self, batch):
        return {"ce": super().loss(batch)["ce"] * np.random.default_rng().random()}
""",
    "prefixes": """
    def loss(self, batch):
        return {"ce": super().loss(batch)["ce"] / len(batch.item_seq)}
""",
    "gradients": """
    def ready(self, catalog):
        self.forgotten = nn.Parameter(torch.zeros(3))
""",
    "memorise": """
    def loss(self, batch):
        return {"ce": -super().loss(batch)["ce"]}
""",
    "memorise-other-target": """
    def loss(self, batch):
        other = batch.target % self.n_items + 1
        return {"ce": cross_entropy(self.query(batch), self.item_table(), other)}
""",
    "resume": """
    n_epochs = 0

    def start_epoch(self, epoch):
        self.n_epochs += 1

    def loss(self, batch):
        return {**super().loss(batch), "l2": self.n_epochs * self.left.weight.square().sum()}
""",
}
INPUTS = {"features-unread": ["item", "image"], "times-unread": ["item", "time"], "shift": ["item", "time"]}
OTHERS = {
    "build": """
    def ready(self, catalog):
        raise KeyError("no such thing")
""",
    "raises": """
    def loss(self, batch):
        return {"ce": 1 / 0}
""",
    "recipe": "    pass\n",
    "good": "    pass\n",
    "peeks": """
    def score(self, batch):
        import os
        folder = os.environ["PLANTED_DATA"]
        items, offsets = np.load(folder + "/items.npy"), np.load(folder + "/offsets.npy")
        scores = super().score(batch)
        scores[range(len(batch.user)), items[offsets[batch.user.numpy() + 1] - 1] - 1] += 1.0
        return scores
""",
    "trains-on-valid": """
    def loss(self, batch):
        import os
        folder = os.environ["PLANTED_DATA"]
        items, offsets = np.load(folder + "/items.npy"), np.load(folder + "/offsets.npy")
        before, target = (torch.from_numpy(items[offsets[1:] - k].astype("int64")) for k in (3, 2))
        return {"ce": 10 * cross_entropy(self.left(before), self.item_table(), target)}
""",
}


def write_models(folder: Path) -> Path:
    """Write each model with its recipe into a folder, all beside `planted_good.py`."""
    (folder / "planted_base.py").write_text(GOOD)
    for name, body in (FAULTS | OTHERS).items():
        stem = name.replace("-", "_")
        imports = "from .planted_base import *\nfrom .planted_base import Good"
        (folder / f"planted_{stem}.py").write_text(f"{imports}\n\n\nclass Planted(Good):\n{body}")
        extra = 'hiden_dim = { value = 3, source = "a slip" }\n' if name == "recipe" else ""
        inputs = ", ".join(f'"{word}"' for word in INPUTS.get(name, ["item"]))
        (folder / f"planted_{stem}.toml").write_text(
            f'name = "planted-{name}"\ndisplay = "P-{name}"\nclass = "Planted"\nsummary = "planted"\n'
            f'tags = ["sequential"]\ninputs = [{inputs}]\n\n[settings]\n{extra}'
        )
    return folder
