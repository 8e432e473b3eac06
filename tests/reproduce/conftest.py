"""A made-up paper about the toy data set, found through MMBENCH_PAPERS."""

from pathlib import Path

import pytest

PAPER = """
display = "Tiny"
reference = "Nobody, never"

[datasets]
toy = "Toy"
amazon-home = "Home"

[experiments.table1]
kind = "table"
title = "All methods"
source = "Tiny, table 1"
datasets = ["toy", "amazon-home"]
metrics = ["HR@10", "NDCG@10"]
compare = "sasrec"
rows = [
  { model = "pop", label = "Popular" },
  { model = "no-such-model", label = "Future" },
  { model = "random", label = "Chance" },
  { model = "sasrec:no-such-variant", label = "SASRec-X" },
  { model = "sasrec", label = "SASRec (Ours)" },
]
notes = ["made up"]
[experiments.table1.shared]
settings = { max_len = 9, no_such_setting = 1 }
source = "sec. 1"
[experiments.table1.improved]
label = "Improved"
printed = ["+1.00%", "+2.00%", "+3.00%", "+4.00%"]
[experiments.table1.p]
label = "Paired t-test"
printed = ["< 0.01", "< 0.02", "< 0.03", "< 0.04"]

[experiments.fig1]
kind = "lines"
title = "Width and dropout"
source = "Tiny, figure 1"
datasets = ["toy"]
metrics = ["NDCG@10"]
printed_from = "table1"
sweep_model = "sasrec"
sweeps = [
  { setting = "hidden_dim", label = "d", values = [4, 8] },
  { setting = "dropout", label = "p", values = [0.0, 0.3] },
]

[experiments.fig2]
kind = "bars"
title = "Some bars"
source = "Tiny, figure 2"
datasets = ["toy"]
metrics = ["HR@10"]
compare = "random"
printed_from = "table1"
rows = [
  { model = "pop", label = "Popular" },
  { model = "no-such-model", label = "Future" },
  { model = "random", label = "Chance" },
]

[experiments.fig3]
kind = "over-time"
title = "Time"
source = "Tiny, figure 3"
datasets = ["toy", "amazon-home"]

[experiments.fig4]
kind = "intervals"
title = "Intervals"
source = "Tiny, figure 4"
datasets = ["toy"]
long_share = { toy = 0.25 }
pair = ["i00000", "i00007"]
pair_days = [1, 2]

[experiments.fig6]
kind = "projection"
title = "Items"
source = "Tiny, figure 6"
datasets = ["toy"]
metrics = ["HR@5"]
rows = [ { model = "tmmsrec", label = "Ours", settings = { hidden_dim = 12, max_epochs = 1, n_layers = 1 } } ]

[experiments.fig5]
kind = "cases"
title = "One user"
source = "Tiny, figure 5"
datasets = ["toy"]
metrics = ["HR@5"]
compare = "itemknn"
rows = [
  { model = "random", label = "Chance" },
  { model = "itemknn", label = "ItemKNN (Ours)" },
]
"""
PRINTED = """paper,table,dataset,method,metric,value
tiny,table1,toy,pop,HR@10,0.5
tiny,table1,toy,no-such-model,HR@10,0.0325
tiny,table1,toy,random,HR@10,0.1667
tiny,table1,toy,sasrec,NDCG@10,0.1
tiny,table1,amazon-home,no-such-model,NDCG@10,0.0456
"""


def write_paper(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tiny.toml").write_text(PAPER, encoding="utf-8")
    (folder / "printed.csv").write_text(PRINTED, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper(tmp_path_factory.mktemp("papers"))
