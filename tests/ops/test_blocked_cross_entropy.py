"""The blocked cross-entropy against torch's own of whole logits: values, gradients, best words."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops import blocked_cross_entropy as module
from momentum_fairseq.ops.blocked_cross_entropy import blocked_cross_entropy

WORDS, FEATURES, FIRST = 23, 6, 3


def case(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(WORDS, FEATURES, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(WORDS, (rows,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.t()
    return F.cross_entropy(logits, targets, reduction="sum"), logits[:, FIRST:].argmax(1) + FIRST


@pytest.fixture(params=[1, 4, 1000], ids="{} rows a block".format)
def block(request, monkeypatch):
    monkeypatch.setitem(module.BLOCK, "cpu", request.param * WORDS)
    return request.param


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_values_gradients_and_words_are_those_of_whole_logits(block, rows):
    results = []
    for loss_of in (plain, lambda *case: blocked_cross_entropy(*case, first_word=FIRST)):
        hidden, weight, targets = case(rows)
        loss, words = loss_of(hidden, weight, targets)
        results.append((loss.detach(), words, *torch.autograd.grad(0.7 * loss, (hidden, weight))))
    (expected, best, *gradients), (found, words, *blocked) = results
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(blocked, gradients, rtol=1e-10, atol=1e-10)
    assert torch.equal(words, best) and (words >= FIRST).all()


def test_gradients_are_the_derivatives(block):
    hidden, weight, targets = case(5)
    assert torch.autograd.gradcheck(lambda h, w: blocked_cross_entropy(h, w, targets)[0], (hidden, weight))


@pytest.mark.parametrize("which", [0, 1])
def test_a_gradient_that_is_not_asked_for_changes_nothing(block, which):
    hidden, weight, targets = case(5)
    leaves = [hidden, weight]
    expected = torch.autograd.grad(plain(hidden, weight, targets)[0], leaves[which])
    leaves[1 - which] = leaves[1 - which].detach()
    found = torch.autograd.grad(blocked_cross_entropy(*leaves, targets)[0], leaves[which])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_of_equal_words_the_first_ordinary_one_is_the_best(block):
    hidden, weight, targets = torch.ones(7, FEATURES), torch.ones(WORDS, FEATURES), torch.zeros(7, dtype=torch.long)
    assert blocked_cross_entropy(hidden, weight, targets, first_word=FIRST)[1].tolist() == [FIRST] * 7


def test_large_logits_do_not_overflow(block):
    hidden, weight, targets = case(5)
    loss, _ = blocked_cross_entropy(1e4 * hidden, weight, targets)
    torch.testing.assert_close(loss, plain(1e4 * hidden, weight, targets)[0], rtol=1e-10, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_at_most_twice_as_far_off_as_the_plain_form(block, dtype):
    """With a loss scale, as in training; the plain form takes its logits in float32 for the loss, as the criterion does."""
    hidden, weight, targets = case(40, dtype)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    value = plain(*wide, targets)[0]
    exact = [value.detach(), *torch.autograd.grad(value, wide)]
    results = []
    for loss in (
        F.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum"),
        blocked_cross_entropy(hidden, weight, targets)[0],
    ):
        gradients = torch.autograd.grad(128 * loss, (hidden, weight))
        assert loss.dtype == torch.float32 and [g.dtype for g in gradients] == [dtype, dtype]
        found = [loss.detach(), *(gradient.float() / 128 for gradient in gradients)]
        results.append([relative(x, e) for x, e in zip(found, exact, strict=True)])
    for of_plain, of_blocked in zip(*results, strict=True):
        assert of_blocked <= 2 * of_plain + torch.finfo(dtype).eps


def test_the_gradient_of_a_word_that_is_too_rare_for_float16_is_there_once_the_loss_is_scaled():
    """Its probability is 1.5e-8, the least number of float16 6e-8."""
    hidden, weight = (torch.tensor(x, dtype=torch.float16, requires_grad=True) for x in ([[1.0]], [[18.0], [0.0]]))
    loss, _ = blocked_cross_entropy(hidden, weight, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(2**15 * loss, weight)
    torch.testing.assert_close(gradient[1].float(), 2**15 * torch.tensor([-18.0]).exp(), rtol=1e-3, atol=0)


def test_under_autocast_the_products_are_in_its_type_and_the_gradients_in_the_leaves(block):
    hidden, weight, targets = case(40, torch.float32)
    low = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    expected = blocked_cross_entropy(*low, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = blocked_cross_entropy(hidden, weight, targets)
    assert torch.equal(loss, expected)
    for gradient, of_low in zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, low), strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, of_low.float(), rtol=0.01, atol=0.01)


def test_without_gradients_none_are_taken(block, monkeypatch):
    monkeypatch.setattr(module, "add_product", None)  # called for the weight's gradient
    hidden, weight, targets = case(5)
    with pytest.raises(TypeError):
        blocked_cross_entropy(hidden, weight, targets)
    with torch.no_grad():
        loss, _ = blocked_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, plain(hidden, weight, targets)[0].detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("rows", [1, 300])
def test_no_more_than_a_block_of_logits_is_held(rows):
    assert module.rows_a_block(rows, 40_000, torch.device("cpu")) == min(rows, (1 << 24) // 40_000)
    assert module.rows_a_block(rows, 1 << 30, torch.device("cpu")) == 1


def test_a_second_derivative_is_refused():
    hidden, weight, targets = case(5)
    loss, _ = blocked_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(loss.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_shapes_that_disagree_are_refused():
    hidden, weight, targets = case(5)
    for wrong in ((hidden[:, 1:], weight, targets), (hidden, weight, targets[1:]), (hidden[None], weight, targets)):
        with pytest.raises(ValueError, match=r"expected hidden \[R,C\], weight \[V,C\], targets \[R\]; got \("):
            blocked_cross_entropy(*wrong)
