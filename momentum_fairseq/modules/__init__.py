"""Learning parts, torch only: attention around an op chosen by name, connections, layers, positions, length predictor."""

from momentum_fairseq.modules.attention_kind import AttentionKind, AttentionOptions
from momentum_fairseq.modules.attention_kinds import ATTENTION_KINDS
from momentum_fairseq.modules.causal_attention import CausalSelfAttention
from momentum_fairseq.modules.causal_decoder_layer import CausalDecoderLayer
from momentum_fairseq.modules.connections import CONNECTIONS, ConnectionOptions, ConnectionState, build_connection
from momentum_fairseq.modules.dropout import Dropout
from momentum_fairseq.modules.feed_forward import ACTIVATIONS, FEED_FORWARDS, HighwayFeedForward, ResidualFeedForward
from momentum_fairseq.modules.length_predictor import LengthPredictor
from momentum_fairseq.modules.multihead_attention import MultiheadAttention
from momentum_fairseq.modules.positions import LearnedPositions, SinusoidalPositions
from momentum_fairseq.modules.transformer_layer import DecoderLayer, EncoderLayer, LayerOptions
from momentum_fairseq.modules.word_projection import WordProjection

__all__ = [
    "ACTIVATIONS",
    "ATTENTION_KINDS",
    "CONNECTIONS",
    "FEED_FORWARDS",
    "AttentionKind",
    "AttentionOptions",
    "CausalDecoderLayer",
    "CausalSelfAttention",
    "ConnectionOptions",
    "ConnectionState",
    "DecoderLayer",
    "Dropout",
    "EncoderLayer",
    "HighwayFeedForward",
    "LayerOptions",
    "LearnedPositions",
    "LengthPredictor",
    "MultiheadAttention",
    "ResidualFeedForward",
    "SinusoidalPositions",
    "WordProjection",
    "build_connection",
]
