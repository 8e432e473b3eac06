"""What other programs call our settings, so that a name of theirs is answered with ours."""

from collections.abc import Collection

from mmbench.errors import nearest, suggest

_MOST_LISTED = 12
OTHER_NAMES = {
    "learning_rate": "lr", "rate": "lr", "epochs": "max_epochs", "num_epochs": "max_epochs", "n_epochs": "max_epochs",
    "train_batch_size": "batch_size", "bs": "batch_size", "wd": "weight_decay", "l2": "weight_decay",
    "embedding_dim": "hidden_dim", "embedding_size": "hidden_dim", "emb_size": "hidden_dim",
    "hidden_size": "hidden_dim",
    "hidden_units": "hidden_dim", "d_model": "hidden_dim", "inner_size": "inner_dim", "num_layers": "n_layers",
    "layers": "n_layers", "num_heads": "n_heads", "heads": "n_heads", "dropout_rate": "dropout",
    "dropout_prob": "dropout", "hidden_dropout_prob": "dropout", "attn_dropout_prob": "attn_dropout",
    "max_seq_length": "max_len", "max_seq_len": "max_len", "maxlen": "max_len", "seq_len": "max_len",
    "early_stop": "patience", "stopping_step": "patience", "num_negatives": "n_negatives", "neg_samples": "n_negatives",
}  # fmt: skip


def unknown_setting(key: str, known: Collection[str]) -> str:
    """Return the text for a key that is not a setting: what is meant, or where all settings are listed."""
    ours = OTHER_NAMES.get(key.casefold().replace("-", "_"))
    if ours in known:
        return f"unknown setting {key!r}; did you mean {ours!r}?"
    if nearest(key, known) or len(known) <= _MOST_LISTED:
        return suggest(key, known, what="setting")
    return f"unknown setting {key!r}; mmbench show MODEL lists the settings of a model"
