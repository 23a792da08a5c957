"""Copies of modules for decoding step by step, with packed weights: a context around each step would take a tenth of it."""

import copy

import torch
from torch import nn

from momentum_fairseq.modules.causal_attention import CausalSelfAttention
from momentum_fairseq.modules.multihead_attention import MultiheadAttention
from momentum_fairseq.modules.packed_linear import HAS_ONEDNN, Packing


def packed_copy(module: nn.Module) -> nn.Module:
    """A copy for steps without gradients, which shares the parameters and has their packed weights; the module itself elsewhere.

    Elsewhere: in training, where gradients are taken, under autocast, without oneDNN. What no step needs stays as it is: one
    projection serves queries, keys and values of causal self-attention, and a source's keys and values are remembered already.
    """
    if module.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not HAS_ONEDNN:
        return module
    return _copied(module)


def _copied(module: nn.Module) -> nn.Module:
    result = copy.copy(module)
    needless: tuple[str, ...] = ()
    if isinstance(module, CausalSelfAttention):
        needless = "q_proj", "k_proj", "v_proj"
    elif isinstance(module, MultiheadAttention):
        needless = "k_proj", "v_proj", "qkv_proj"
    result._modules = {name: child if name in needless else _copied(child) for name, child in module.named_children()}
    if isinstance(module, Packing):
        module.pack()
        result.packed, module.packed = module.packed, None
    return result
