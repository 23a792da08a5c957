"""What every translation model's embeddings are held to."""

from collections.abc import Callable

from torch import Tensor


def assert_shared_by_flag(matrices: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    """`matrices` builds a model with these flags and gives its source, target and output embeddings `[V,C]`."""
    source, target, output = (x.data_ptr() for x in matrices())
    assert len({source, target, output}) == 3
    source, target, output = (x.data_ptr() for x in matrices(share_decoder_input_output_embed=True))
    assert source != target == output
    source, target, output = (x.data_ptr() for x in matrices(share_all_embeddings=True))
    assert source == target == output
