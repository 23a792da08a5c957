import torch

from momentum_fairseq.ops.mean_of_real import mean_of_real


def test_the_mean_is_summed_in_float32():
    x = torch.full((2, 5000, 3), 30.0, dtype=torch.float16)  # their sum is beyond float16
    mask = torch.zeros(2, 5000, dtype=torch.bool)
    mask[1, 10:] = True
    x[1, 10:] = float("nan")
    for found in (mean_of_real(x[:1], None), mean_of_real(x, mask)):
        assert found.dtype == torch.float16 and torch.equal(found, torch.full_like(found, 30.0))
