"""What every attention kind offers, and the options that all are made from."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from momentum_fairseq.ops import KeysAndValues, QueriesAndKeys


@dataclass(frozen=True)
class AttentionPlace:
    """Where in a model an attention stands, for kinds whose parts go by it.

    Attributes:
        head_dim: D of queries and keys.
        self_attention: queries and keys are of the same positions, so the keys' mask is the queries' too.
        layer, layers: the number of its layer in the stack, from 0, and how many there are.
        max_length: the most keys.
    """

    head_dim: int = 64
    self_attention: bool = False
    layer: int = 0
    layers: int = 1
    max_length: int = 1024


@dataclass(frozen=True)
class AttentionSizes:
    """Numbers that some kinds have and others refuse; None = the kind's own default.

    Attributes:
        features: random features F of a head. redraw_interval: updates of a training after which random numbers are drawn anew,
            0 = never.
        projected_length: P positions that linformer projects keys and values to.
        hashes: rounds of hashing. bucket: positions in one of reformer's chunks, about as many as share a hash.
        landmarks: m of a Nyström attention. block: w positions in one of DiagAttention's blocks.
    """

    features: int | None = None
    redraw_interval: int | None = None
    projected_length: int | None = None
    hashes: int | None = None
    bucket: int | None = None
    landmarks: int | None = None
    block: int | None = None


@dataclass(frozen=True)
class AttentionOptions:
    """What an attention is made of; each kind takes what it needs.

    Attributes:
        kind: a name in `ATTENTION_KINDS`.
        momentum: β in [0, 1).
        step_size: γ > 0.
        momentum_learned: learn β and γ, one of each a head, from these values on.
        feature_map: φ, a name in `FEATURE_MAPS`.
        sizes: of kinds that have some. place: set by what the attention is built into.
    """

    kind: str = "momentum"
    momentum: float = 0.6
    step_size: float = 0.6
    momentum_learned: bool = False
    feature_map: str = "elu"
    sizes: AttentionSizes = field(default_factory=AttentionSizes)
    place: AttentionPlace = field(default_factory=AttentionPlace)


class AttentionKind(nn.Module):
    """What a kind does with projected q `[B,H,N,D]`, k `[B,H,S,D]`, v `[B,H,S,M]` and a mask bool `[B,S]` (True = padding).

    `forward` is not causal. A kind that has a causal form gives it as `causal`, for all positions at once, and as `step`, for
    the positions after those that a state has read. `remember` and `recall` are `forward` in two halves: what a source needs
    computing once, and what each query needs. So are `pattern` and `weigh`: what queries and keys need that stay the same, and
    what values need that don't. `joint` is `forward` of q, k and v in one tensor. Only `forward` must be written: it serves for
    all of these, and a kind overrides those that it can do in less time.

    Attributes:
        shares_queries_and_keys: keys must be projected as queries are.
    """

    shares_queries_and_keys = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """→ `[B,H,N,M]`."""
        raise NotImplementedError

    def joint(self, qkv: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`forward` of q, k and v side by side `[B,N,3,H,D]`, float32 on a CPU, without gradients → `[B,H,N,D]`.

        A kind may do it in fewer operations.
        """
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # three times as fast as to iterate
        return self(q, k, v, key_padding_mask)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """N = S; query i reads keys 1 … i → `[B,H,N,M]`."""
        raise NotImplementedError

    def step(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """N new positions after those in `state`, None before the first → `[B,H,N,M]` and the new state.

        The state given is spent: without gradients the new one is written over it. A state's `reorder(order)` is that of other
        rows of the batch, int64 `[B']`.
        """
        raise NotImplementedError

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Any:
        """What queries read of a source; its `reorder(order)` is that of other rows of the batch."""
        return KeysAndValues(k, v, key_padding_mask)

    def recall(self, q: Tensor, memory: Any) -> Tensor:
        """`forward` of the source that `remember` has read → `[B,H,N,M]`."""
        return self(q, *memory)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> Any:
        """What q and k that stay the same make of any values; one row of q and k `[1,H,N,D]` may serve the whole batch.

        Its `reorder(order)` is that of other rows of the batch.
        """
        return QueriesAndKeys(q, k, key_padding_mask)

    def weigh(self, v: Tensor, pattern: Any) -> Tensor:
        """`forward` of the queries and keys that `pattern` has read, with values finite at padding → `[B,H,N,M]`."""
        q, k, key_padding_mask = pattern
        return self(q.expand(len(v), -1, -1, -1), k.expand(len(v), -1, -1, -1), v, key_padding_mask)


def take_sizes(options: AttentionOptions, **defaults: int) -> AttentionSizes:
    """The sizes of a kind, with its defaults where none is given.

    Raises:
        ValueError: a size that the kind doesn't have, or one below 1 (below 0 where it may be 0: the redraw interval).
    """
    given = {size.name: getattr(options.sizes, size.name) for size in fields(options.sizes)}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in defaults:
            has = f"has {', '.join(defaults)} alone" if defaults else "has no sizes"
            raise ValueError(f"{options.kind} attention has no {name} (got {value}); it {has}")
        least = 0 if name == "redraw_interval" else 1
        if value < least:
            raise ValueError(f"{name} of {options.kind} attention must be at least {least}, got {value}")
    return AttentionSizes(**{**defaults, **given})


def refuse_learned(options: AttentionOptions) -> None:
    """Raise ValueError where a kind without momentum is asked to learn it."""
    if options.momentum_learned:
        raise ValueError(f"{options.kind} attention has no momentum to learn")


def refuse_feature_map(options: AttentionOptions) -> None:
    """Raise ValueError where a kind that maps no features is given a map."""
    if options.feature_map != AttentionOptions.feature_map:
        raise ValueError(f"{options.kind} attention takes no feature map (got {options.feature_map!r})")
