"""A control: softmax attention times 0.6, as momentum attention's γ weighs it beside the residual."""

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionKind


class WeightedSoftmaxAttention(AttentionKind):
    def __init__(self, num_heads, options):
        super().__init__()
        self.softmax = ATTENTION_KINDS["softmax"](num_heads, options)

    def forward(self, q, k, v, key_padding_mask):  # [B,H,N,D], [B,H,S,D], [B,H,S,M], bool [B,S] → [B,H,N,M]
        return 0.6 * self.softmax(q, k, v, key_padding_mask)


ATTENTION_KINDS["weighted_softmax"] = WeightedSoftmaxAttention
