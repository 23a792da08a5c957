"""Linear maps with weights laid out for few rows while decoding on a CPU, by oneDNN.

A plain product lays its weights out anew each time; with the few words of a sentence that takes as long as to multiply. Inside
`packed_weights` they are laid out beforehand. Training and gradients never see them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16  # words that the layout is made for; it serves any number
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Inside, products of the model use packed weights: those of the last time where no parameter has changed since.

    It does nothing where gradients are taken, under autocast, on other devices than a CPU, and for other dtypes than float32. A
    parameter written to through `.data` in evaluation isn't seen to have changed; one that a training changes is.
    """
    packings = [module for module in model.modules() if isinstance(module, Packing)]
    if HAS_ONEDNN and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        for packing in packings:
            packing.pack()
    try:
        yield
    finally:
        for packing in packings:
            packing.packed = None


def laid_out(weight: Tensor) -> Tensor:
    """A weight `[O,C]`, float32 or bfloat16, as `product` takes it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b with a packed weight, `[..., C]` → `[..., O]`."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def is_plain(linear: nn.Module) -> bool:
    """Whether a module gives x Wᵀ + b with parameters of its own and does nothing else: no adapter, hook or made-up weight."""
    plain = type(linear).forward in (nn.Linear.forward, PackedLinear.forward) and list(linear._parameters) == ["weight", "bias"]
    return plain and not (linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear))


class Packing(nn.Module):
    """A module with a packed copy of its weights, which is no part of its state.

    Attributes:
        packed: what `lay_out` gives, inside `packed_weights`; None elsewhere and where weights can't be packed.
    """

    def __init__(self, *arguments: int, **options: bool) -> None:
        super().__init__(*arguments, **options)
        self._forget()

    def linears(self) -> tuple[nn.Linear, ...]:
        """The linear maps whose outputs are to be side by side."""
        raise NotImplementedError

    def pack(self) -> None:
        """Make `packed`, or take the one kept."""
        linears = self.linears()
        if not all(map(is_plain, linears)) or len({linear._parameters["bias"] is None for linear in linears}) > 1:
            return
        parameters = [x for linear in linears for x in linear._parameters.values() if x is not None]
        if any(x.dtype != torch.float32 or x.device.type != "cpu" or x.is_inference() for x in parameters):
            return  # an inference tensor doesn't tell whether it has changed
        made_of = [(x.data_ptr(), x._version) for x in parameters]
        if made_of != self._made_of:
            weight = torch.cat([linear.weight for linear in linears])
            bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
            self._kept, self._made_of = self.lay_out(weight, bias), made_of
        self.packed = self._kept

    def lay_out(self, weight: Tensor, bias: Tensor | None) -> Any:
        """What `packed` holds of them: weight and bias for `product`."""
        return laid_out(weight), bias

    def train(self, mode: bool = True) -> "Packing":
        if mode:
            self._forget()
        return super().train(mode)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "packed": None, "_kept": None, "_made_of": None}  # a copied model packs its own

    def _forget(self) -> None:
        self.packed: Any = None
        self._kept: Any = None
        self._made_of: list[tuple[int, int]] | None = None


class PackedLinear(Packing, nn.Linear):
    """`nn.Linear`, quicker inside `packed_weights`."""

    def linears(self) -> tuple[nn.Linear, ...]:
        return (self,)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` → `[..., O]`."""
        packed = self.packed
        return F.linear(x, self.weight, self.bias) if packed is None else product(x, *packed)


class PackingOfOthers(Packing):
    """A packing of linear maps that another module has. It has no parameters of its own.

    Args:
        owner: the module that has the linear maps, and this one. names: of these in it. They are looked up at each use: one that
            is replaced, by an adapter for instance, counts at once.
    """

    def __init__(self, owner: nn.Module, *names: str) -> None:
        super().__init__()
        self._owner = ref(owner)  # else each would keep the other, and their memory, until garbage is collected
        self._names = names

    def linears(self) -> tuple[nn.Linear, ...]:
        owner = self._owner()
        return tuple(owner.get_submodule(name) for name in self._names)

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "_owner": self._owner()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({**state, "_owner": ref(state["_owner"])})


class JointLinear(PackingOfOthers):
    """Linear maps of the same input side by side, in one product inside `packed_weights`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` → `[..., ΣO]`, in the order given."""
        if self.packed is None:
            return torch.cat([linear(x) for linear in self.linears()], dim=-1)
        return product(x, *self.packed)
