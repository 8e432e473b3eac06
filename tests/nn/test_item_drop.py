"""Shortened histories against those with the dropped items taken out of the lists."""

import numpy as np
import pytest
import torch

from mmbench.data.batch import TrainBatch
from mmbench.nn.item_drop import Rule, choose_kept, shorten
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch

RULES = pytest.mark.parametrize("rule", ["first-kept", "last-kept"])


def prefixes() -> TrainBatch:
    model = toy_model("sasrec", toy_catalog())
    return training_batch(model, toy_view(), samples="prefix")


def histories_of(batch: TrainBatch) -> list[list[int]]:
    """Return the flat places of the history that ends at each slot, oldest first."""
    width = batch.item_seq.shape[1]
    flat = []
    for slot in batch.slot.tolist():
        length = int(batch.position.flatten()[slot]) + 1
        assert slot % width >= length - 1
        flat.append(list(range(slot - length + 1, slot + 1)))
    return flat


@pytest.mark.parametrize(("rule", "left"), [("last-kept", [2, 3, 6, 8]), ("first-kept", [1, 3, 4, 7])])
def test_the_specification_s_example(rule: Rule, left: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("sasrec", toy_catalog())
    batch = history_batch(model, [[1, 2, 3, 4, 5, 6, 7, 8]])
    draws = torch.zeros(batch.item_seq.shape)
    draws[0, :8] = torch.tensor([0, 0, 1, 1, 0, 0, 1, 0.0])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    kept = choose_kept(batch, 0.2, rule)
    assert batch.item_seq[kept & batch.mask].tolist() == left


@RULES
def test_what_is_drawn(rule: Rule) -> None:
    """Per history of n items a share 0.8 + 0.2 / n stays, and never none."""
    batch, kept_count, n_draws = prefixes(), 0, 300
    histories = histories_of(batch)
    assert len(batch.item_seq) < len(histories)  # several in one row
    torch.manual_seed(0)
    per_history = np.zeros(len(histories))
    for _ in range(n_draws):
        kept = choose_kept(batch, 0.2, rule)
        assert kept[~batch.mask].all()
        flat = kept.flatten()
        for k, places in enumerate(histories):
            stays = flat[places].tolist()
            assert stays[0 if rule == "first-kept" else -1]
            per_history[k] += sum(stays) / len(stays)
            kept_count += sum(stays)
    expected = [0.8 + 0.2 / len(places) for places in histories]
    np.testing.assert_allclose(per_history / n_draws, expected, atol=0.11)
    total = n_draws * sum(0.8 * len(places) + 0.2 for places in histories)
    assert kept_count == pytest.approx(total, rel=0.01)


def test_a_scatter_with_repeated_indices_is_the_last_kept_rule() -> None:
    """The released code, one element after the other: a dropped item overwrites the kept one before it."""
    model = toy_model("sasrec", toy_catalog())
    for seed in range(20):
        torch.manual_seed(seed)
        batch = history_batch(model, [[1, 2, 3, 4, 5, 6, 7, 8]])
        draws = torch.rand(batch.item_seq.shape)
        stays = (draws >= 0.3)[0, :8].tolist()
        out, index = [0] * 9, 0
        for item, stay in zip(range(1, 9), [True, *stays[1:]], strict=True):  # the first always has a place
            index += int(stay)
            out[index - 1] = item
        torch.manual_seed(seed)
        kept = choose_kept(batch, 0.3, "last-kept")
        assert batch.item_seq[kept & batch.mask].tolist() == [item for item in out if item]


@RULES
def test_places_are_counted_anew(rule: Rule) -> None:
    batch = prefixes()
    torch.manual_seed(1)
    for _ in range(20):
        kept = choose_kept(batch, 0.4, rule)
        short = shorten(batch, kept)
        position = short.position.flatten()
        for places, slot in zip(histories_of(batch), short.slot.tolist(), strict=True):
            left = [place for place in places if kept.flatten()[place]]
            assert position[left].tolist() == list(range(len(left)))
            assert slot == left[-1]
        assert position.min() >= 0
        assert position.max() < 8


@RULES
@pytest.mark.parametrize("name", ["sasrec", "sasrec:official"])
def test_a_network_sees_the_shorter_history(name: str, rule: Rule) -> None:
    """Its states are those of lists without the dropped items."""
    model = toy_model(name, toy_catalog()).double().eval()
    batch = prefixes()
    torch.manual_seed(2)
    kept = choose_kept(batch, 0.4, rule)
    short = shorten(batch, kept)
    lists = [
        [int(batch.item_seq.flatten()[p]) for p in places if kept.flatten()[p]]
        for places in histories_of(batch)
    ]
    with torch.no_grad():
        expected = model.query(history_batch(model, lists))
        x = model.item_emb(batch.item_seq)
        mask = short.attention_mask(batch.attention_mask(causal=True))
        if name == "sasrec":
            states = model.encoder(model.norm(x + model.position_emb(short.position)), mask, short.slot)
        else:
            x = x * model.config.hidden_dim**0.5 + model.position_emb(short.position)
            states = model.official_encoder(x, mask, batch.mask, short.slot)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)
