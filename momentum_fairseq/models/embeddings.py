"""Word embeddings and the projection to the vocabulary, shared or not."""

from typing import Any

from torch import nn


def embedding(words: int, dim: int, padding_idx: int) -> nn.Embedding:
    """A word embedding from N(0, 1/dim), zero at padding."""
    table = nn.Embedding(words, dim, padding_idx=padding_idx)
    nn.init.normal_(table.weight, std=dim**-0.5)
    nn.init.zeros_(table.weight[padding_idx])
    return table


def source_and_target_embedding(cfg: Any, source_dictionary: Any, target_dictionary: Any) -> tuple[nn.Embedding, nn.Embedding]:
    """The two embeddings of a translation model, one and the same with --share-all-embeddings.

    Raises:
        ValueError: embeddings shared over different dictionaries.
    """
    target = embedding(len(target_dictionary), cfg.embed_dim, target_dictionary.pad())
    if not cfg.share_all_embeddings:
        return embedding(len(source_dictionary), cfg.embed_dim, source_dictionary.pad()), target
    if source_dictionary != target_dictionary:
        raise ValueError("--share-all-embeddings needs a joined dictionary (prepare with JOINED_DICTIONARY=1)")
    return target, target


def output_projection(cfg: Any, target: nn.Embedding) -> nn.Linear:
    """`[..., C]` → logits `[..., V]`, from N(0, 1/C) or with the target embedding's weight."""
    projection = nn.Linear(cfg.embed_dim, target.num_embeddings, bias=False)
    nn.init.normal_(projection.weight, std=cfg.embed_dim**-0.5)
    if cfg.share_all_embeddings or cfg.share_decoder_input_output_embed:
        projection.weight = target.weight
    return projection
