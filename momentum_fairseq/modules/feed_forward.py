"""Feed-forward sub-layers with their own connection: residual (Vaswani et al. 2017) and highway (Lee et al. 2018)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.dropout import Dropout
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.packed_linear import JointLinear, PackedLinear

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


def two_layers(embed_dim: int, hidden_dim: int, activation: str) -> nn.Sequential:
    """Linear, a name in `ACTIVATIONS`, Linear: `[..., C]` → `[..., C]`; ValueError for an unknown name."""
    between = lookup(ACTIVATIONS, activation, "activation")()
    layers = nn.Sequential(PackedLinear(embed_dim, hidden_dim), between, PackedLinear(hidden_dim, embed_dim))
    for linear in (layers[0], layers[2]):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return layers


class ResidualFeedForward(nn.Module):
    """y = LN(x + Drop(FFN(x))), or x + Drop(FFN(LN(x))) with the norm before."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, *, dropout: float, normalize_before: bool, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.ffn = two_layers(embed_dim, hidden_dim, activation)
        self.dropout = Dropout(dropout, type(self).__name__)
        self.layer_norm = nn.LayerNorm(embed_dim)
        self.normalize_before = normalize_before

    def forward(self, x: Tensor) -> Tensor:
        """`[B,N,C]` → `[B,N,C]`."""
        inner = self.layer_norm(x) if self.normalize_before else x
        y = self.mix(x, inner)
        return y if self.normalize_before else self.layer_norm(y)

    def mix(self, x: Tensor, inner: Tensor) -> Tensor:
        """The connection: x is the sub-layer's input, inner what the networks read."""
        return x + self.dropout(self.ffn(inner))


class HighwayFeedForward(ResidualFeedForward):
    """y = LN(g ∘ x + (1 − g) ∘ Drop(FFN(x))),  g = sigmoid(FFN_gate(x))  (Lee et al. 2018, section 4; Srivastava et al. 2015)."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, *, dropout: float, normalize_before: bool, activation: str = "relu"
    ) -> None:
        super().__init__(embed_dim, hidden_dim, dropout=dropout, normalize_before=normalize_before, activation=activation)
        self.gate = two_layers(embed_dim, hidden_dim, activation)
        self.first_layers = JointLinear(self, "ffn.0", "gate.0")

    def mix(self, x: Tensor, inner: Tensor) -> Tensor:
        update, gate = self.networks(inner)
        # Under autocast the networks give lower precision than x, and lerp takes one dtype alone.
        return torch.lerp(self.dropout(update).to(x.dtype), x, torch.sigmoid(gate.to(x.dtype)))

    def networks(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """FFN(x) and FFN_gate(x), their first layers in one product where weights are packed."""
        if self.first_layers.packed is None:
            return self.ffn(inner), self.gate(inner)
        hidden, gate_hidden = self.ffn[1](self.first_layers(inner)).chunk(2, dim=-1)
        return self.ffn[2](hidden), self.gate[2](gate_hidden)


FEED_FORWARDS: dict[str, Callable[..., ResidualFeedForward]] = {
    "highway": HighwayFeedForward,
    "residual": ResidualFeedForward,
}
