"""TMMSRec with other backbones: each against the model whose name it bears, NextItNet in packed rows; one for all."""

from dataclasses import replace

import torch

from mmbench.models.needs import Negatives
from tests.models.test_tmmsrec import HISTORIES, batch_of, make, shaken
from tests.models.toy import history_batch, stack_groups, toy_catalog, toy_model, toy_view, training_batch


def test_mlp4rec_backbone_is_mlp4rec_over_the_fused_vectors() -> None:
    """Its MLPs with the id row alone, on vectors that are zero at padding; trained on prefixes, as it is not causal."""
    model = shaken(make("tmmsrec:mlp4rec"))
    needs = model.needs
    assert (needs.layout, needs.samples, needs.causal) == ("fixed", ("prefix",), False)
    assert needs.extras == (Negatives(k=1),)
    batch = history_batch(model, HISTORIES)
    states = model.query(batch).split(24, dim=-1)
    single = toy_model("mlp4rec:id", toy_catalog(), hidden_dim=24, n_layers=2).double().eval()
    assert model.time is not None
    prepared = model.time.prepare(batch)
    for modality, state, x in zip(model.modalities, states, model.vectors(batch.item_seq), strict=True):
        single.encoder.load_state_dict(model.encoders[modality].mixer.state_dict())
        x = (x + model.time(x, prepared)) * batch.mask[..., None]
        torch.testing.assert_close(state, single.encoder(x[:, :, None], batch.slot))


def test_mlp4rec_backbone_knows_positions_of_real_places_only() -> None:
    model = shaken(make("tmmsrec:mlp4rec", position="random"))
    batch = history_batch(model, HISTORIES)
    before = model.query(batch)
    filled = replace(batch, position=torch.where(batch.mask, batch.position, 5))
    torch.testing.assert_close(model.query(filled), before)


def test_mlp4rec_backbone_takes_one_sample_per_target() -> None:
    model = make("tmmsrec:mlp4rec")
    batch = training_batch(model, toy_view())
    assert len(batch.slot) == len(batch.item_seq)
    assert model.loss(batch)["bce"].isfinite()


def test_nextitnet_backbone_does_not_reach_its_neighbour_in_a_packed_row() -> None:
    """Gradients of one history's states with respect to all places of the row they share."""
    model = shaken(make("tmmsrec:nextitnet"))
    assert model.needs.layout == "packed"
    batch = batch_of("packed", [[5, 2, 9, 1, 6, 6, 3, 2], [7, 3, 4, 8, 8, 1, 2]])
    assert len(batch.item_seq) == 1
    x = torch.randn(1, batch.item_seq.shape[1], 24, dtype=torch.float64, requires_grad=True)
    mask = batch.attention_mask(causal=True)
    for number in (1, 2):
        own = (batch.segment == number).flatten()
        states = model.encoders["id"](x, mask, batch.mask, own.nonzero()[:, 0])
        seen = torch.autograd.grad(states.square().sum(), x)[0][0].abs().sum(1) > 0
        assert torch.equal(seen, own)


def test_gru4rec_and_nextitnet_backbones_are_the_networks_of_these_models() -> None:
    """Over ids alone and without time each has the states of the model whose name it bears."""
    for name, sizes in (("gru4rec", {"emb_dim": 24, "n_layers": 1}), ("nextitnet", {"n_blocks": 5})):
        model = shaken(make(f"tmmsrec:{name}", modalities=["id"], position="none"))
        single = toy_model(name, toy_catalog(), hidden_dim=24, **sizes).double().eval()
        own = {"item_emb.weight": model.item_emb.weight}
        for key, value in model.encoders["id"].state_dict().items():
            renamed = key.replace("stack.", "encoder.").replace("gru.", "gru.0.")
            own[renamed] = value
        single.load_state_dict(own, strict=True)
        states = [network.query(history_batch(network, HISTORIES)) for network in (model, single)]
        torch.testing.assert_close(*states)


def test_a_shared_encoder_serves_each_modality_by_itself() -> None:
    model, own = (make("tmmsrec:as-released", encoder=encoder) for encoder in ("shared", "own"))
    stack_groups(own.encoders["all"], [model.encoders["all"]] * 3)
    own.load_state_dict({k: v for k, v in model.state_dict().items() if "encoders" not in k}, strict=False)
    batch = history_batch(model, HISTORIES)
    torch.testing.assert_close(model.score(batch), own.score(batch))
