"""What fairseq takes from numpy is there."""

import torch
from fairseq.data import TokenBlockDataset

import momentum_fairseq  # noqa: F401  (puts it there)


def test_a_language_model_reads_sentence_by_sentence():
    """--sample-break-mode eos."""
    sentences = [torch.tensor([5, 6, 2]), torch.tensor([7, 2])]
    blocks = TokenBlockDataset(sentences, [3, 2], block_size=None, pad=1, eos=2, break_mode="eos")
    assert [blocks[i].tolist() for i in range(len(blocks))] == [[5, 6, 2], [7, 2]]
