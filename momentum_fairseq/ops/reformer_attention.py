"""LSH attention of the Reformer (Kitaev et al., "Reformer: The Efficient Transformer", ICLR 2020), not causal.

A query reads the keys whose hash is like its own in at least one of several rounds, each of them once. The paper's causal form
masks later positions, but later positions still move the borders of the chunks that earlier ones read: it is left out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.real_first import real_counts
from momentum_fairseq.ops.softmax_attention import softmax_attention

# The score of a position with itself, which under shared queries and keys would be the largest: read only where it is alone.
ALONE = -1e5
NEVER = -1e30


def lsh_attention(
    qk: Tensor, v: Tensor, *, rotations: Tensor, chunk: int, key_padding_mask: Tensor | None = None
) -> Tensor:
    """Self-attention with shared queries and keys: softmax(q_i·k_j / √D) over the j that i meets, k = q / ‖q‖.

    In each round positions are hashed to the nearest of 2c directions ±R, sorted by hash, and cut into chunks; i meets the j of
    its hash in its own chunk and in the one before. The j met in any round count once (the N_{i,j} of the paper's Eq. 15), i
    itself only where it meets no other. With more rounds the sum nears that over all j ≠ i.

    A sentence of L positions has 2 ⌊⌈L / chunk⌉ / 2⌋ hashes, or 1, and chunks of its own real positions: neither padding nor
    batch mates change anything.

    Args:
        qk: `[B,H,N,D]`. v: `[B,H,N,M]`.
        rotations: R, `[H,rounds,D,C]` with 2 C chunks at least as many as the sequence has.
        chunk: positions in a chunk.
        key_padding_mask: bool `[B,N]`, True = padding, which must be finite.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros at padding.

    Raises:
        ValueError: shapes that disagree, or a sequence too long for the rotations.
    """
    check_shapes(qk, qk, v, key_padding_mask)
    out_dtype = v.dtype
    with no_autocast(qk):
        q, _, v = in_full_precision(qk, qk, v, key_padding_mask)
        keys, counts = F.normalize(q, dim=-1), real_counts(key_padding_mask, q)
        hashes = padding_last(hash_positions(q, needed_rotations(rotations, q.shape[2], chunk), counts, chunk), key_padding_mask)
        places, outputs, masses = [], [], []
        for hashed in hashes:
            places.append(Places(hashed, chunk))
            out, mass = read_chunks(q, keys, v, places, key_padding_mask)
            outputs.append(places[-1].put_back(out))
            masses.append(places[-1].put_back(mass))
        out = joined(outputs, masses)
        return (out if key_padding_mask is None else out.masked_fill(key_padding_mask[:, None, :, None], 0)).to(out_dtype)


def needed_rotations(rotations: Tensor, keys: int, chunk: int) -> Tensor:
    """Of `[H,rounds,D,C]` the columns that so many keys may need, `[rounds,1,H,D,c]`; ValueError where there are fewer."""
    needed = max(1, -(-keys // chunk) // 2)
    if needed > rotations.shape[-1]:
        longest = (2 * rotations.shape[-1] + 1) * chunk
        raise ValueError(f"reformer attention was built for at most {longest} keys and got {keys}; raise the maximal length")
    return rotations[..., :needed].transpose(0, 1).unsqueeze(1)


def hash_positions(x: Tensor, rotations: Tensor, counts: Tensor, chunk: int) -> Tensor:
    """argmax([x R, −x R]) in each round (section 2): `[B,H,N,D]`, `[rounds,1,H,D,c]` → int64 `[rounds,B,H,N]`.

    The number of keys of each row, int64 `[B]`, tells how many hashes it has.
    """
    projected = x @ rotations.to(x.dtype)  # [rounds,B,H,N,c]
    columns = (counts + chunk - 1).div(chunk, rounding_mode="floor").div(2, rounding_mode="floor")[:, None, None, None]
    unused = torch.arange(projected.shape[-1], device=x.device) >= columns
    projected = torch.cat([projected.masked_fill(unused, -torch.inf), (-projected).masked_fill(unused, -torch.inf)], dim=-1)
    return projected.argmax(-1)  # 0 where no column is used: of equal numbers the first


def padding_last(hashes: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Hashes int64 `[rounds,B,H,S]` with the largest one for padding."""
    if key_padding_mask is None:
        return hashes
    return hashes.masked_fill(key_padding_mask[:, None, :], torch.iinfo(hashes.dtype).max)


def joined(outputs: list[Tensor], masses: list[Tensor]) -> Tensor:
    """One softmax over all rounds from each one's output `[B,H,N,M]` and log Σ exp of its scores `[B,H,N,1]`."""
    return (torch.stack(masses).softmax(0) * torch.stack(outputs)).sum(0)


class Places:
    """Where each position stands in the order of one round's hashes `[B,H,N]`; the last chunk is filled up.

    hashes; number: of a position's chunk, `[B,H,N]`.
    """

    def __init__(self, hashes: Tensor, chunk: int) -> None:
        self.hashes, self.chunk = hashes, chunk
        self.order = hashes.argsort(dim=-1, stable=True)
        self.rank = self.order.argsort(dim=-1)
        self.number = self.rank.div(chunk, rounding_mode="floor")

    def chunked(self, x: Tensor) -> Tensor:
        """x `[B,H,N,D]` in this order → `[B,H,C,c,D]`."""
        x = x.gather(2, self.order.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))
        x = F.pad(x, (0, 0, 0, -x.shape[2] % self.chunk))
        return x.unflatten(2, (-1, self.chunk))

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x `[B,H,N]` of each query and of each key that it may meet, in this order: `[B,H,C,c,1]`, `[B,H,C,1,2c]`."""
        x = self.chunked(x.unsqueeze(-1))
        return x, with_previous(x).transpose(-1, -2)

    def put_back(self, x: Tensor) -> Tensor:
        """The inverse of `chunked`."""
        x = x.flatten(2, 3)
        return x.gather(2, self.rank.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))


def with_previous(x: Tensor) -> Tensor:
    """Each chunk behind the one before it: `[B,H,C,c,D]` → `[B,H,C,2c,D]`; before the first one stands itself."""
    return torch.cat([torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2), x], dim=3)


def read_chunks(
    q: Tensor, keys: Tensor, v: Tensor, places: list[Places], key_padding_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One round's attention, in its own order: outputs `[B,H,C,c,M]` and log Σ exp of their scores `[B,H,C,c,1]`.

    The last one of the places is this round's; what a query met in those before isn't read again.
    """
    *earlier, here = places
    position = torch.arange(q.shape[2], device=q.device).expand(q.shape[:3])
    real = torch.ones_like(position) if key_padding_mask is None else (~key_padding_mask).long()[:, None, :].expand(q.shape[:3])
    _, met = here.pairs(real)  # zeros where the last chunk is filled up
    met = met.bool()
    met[:, :, :1, :, : here.chunk] = False
    for place in (here, *earlier):
        (hash_, key_hash), (number, key_number) = here.pairs(place.hashes), here.pairs(place.number)
        meets = (hash_ == key_hash) & ((number == key_number) | (number == key_number + 1))
        met = met & (meets if place is here else ~meets)
    own, key = here.pairs(position)
    scores = here.chunked(q) @ with_previous(here.chunked(keys)).transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(own == key, ALONE).masked_fill(~met, NEVER)
    return scores.softmax(-1) @ with_previous(here.chunked(v)), scores.logsumexp(-1, keepdim=True)


def lsh_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, *, rotations: Tensor, chunk: int, key_padding_mask: Tensor | None = None
) -> Tensor:
    """Attention to another sequence: softmax(q_i·k_j / √D) over the j that i meets, keys of unit length.

    Queries and keys are hashed by the same rotations, as `lsh_attention` hashes; i meets the 2 chunks of keys in the middle of
    which its hash lies in the sorted order, each key once whatever the number of rounds. So no query depends on others, and
    a sentence of at most 2 chunks is read whole.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`.
        rotations, chunk: as in `lsh_attention`.
        key_padding_mask: bool `[B,S]`, True = padding, which must be finite.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree, or a sequence too long for the rotations.
    """
    check_shapes(q, k, v, key_padding_mask)
    out_dtype = v.dtype
    with no_autocast(q):
        q, hashed, v = in_full_precision(q, k, v, key_padding_mask)
        k = F.normalize(hashed, dim=-1)
        if k.shape[2] <= 2 * chunk:
            return softmax_attention(q, k, v, key_padding_mask=key_padding_mask).to(out_dtype)
        counts = real_counts(key_padding_mask, k)
        rotations = needed_rotations(rotations, k.shape[2], chunk)
        key_hashes = padding_last(hash_positions(hashed, rotations, counts, chunk), key_padding_mask)
        query_hashes = hash_positions(q, rotations, counts, chunk)
        windows, outputs, masses = [], [], []
        for query_hash, key_hash in zip(query_hashes, key_hashes, strict=True):
            windows.append(Windows(query_hash, key_hash, counts, 2 * chunk))
            out, mass = read_windows(q, k, v, windows, counts)
            outputs.append(out)
            masses.append(mass)
        return joined(outputs, masses).to(out_dtype)  # zeros, as the values are, where a row has no real key


class Windows:
    """Which keys each query reads in one round: `size` of them, from `first` `[B,H,N]` on in the order of their hashes."""

    def __init__(self, query_hash: Tensor, key_hash: Tensor, counts: Tensor, size: int) -> None:
        self.order = key_hash.argsort(dim=-1, stable=True)
        self.rank, self.size = self.order.argsort(dim=-1), size
        key_hash, query_hash = key_hash.gather(-1, self.order), query_hash.contiguous()
        start, end = (torch.searchsorted(key_hash, query_hash, right=right) for right in (False, True))
        middle = (start + end).div(2, rounding_mode="floor")
        self.first = (middle - size // 2).minimum((counts - size)[:, None, None]).clamp(min=0)

    def places(self) -> Tensor:
        """Of the keys in the order of their hashes, `[B,H,N,W]`."""
        return self.first.unsqueeze(-1) + torch.arange(self.size, device=self.first.device)

    def holds(self, keys: Tensor) -> Tensor:
        """Whether these keys, `[B,H,N,W]`, are in the window."""
        place = self.rank.gather(-1, keys.flatten(-2)).view_as(keys) - self.first.unsqueeze(-1)
        return (place >= 0) & (place < self.size)


def read_windows(q: Tensor, k: Tensor, v: Tensor, windows: list[Windows], counts: Tensor) -> tuple[Tensor, Tensor]:
    """One round's attention: outputs `[B,H,N,M]` and log Σ exp of their scores `[B,H,N,1]`; see `read_chunks`."""
    *earlier, here = windows
    places = here.places()
    keys = here.order.gather(-1, places.flatten(-2)).view_as(places)
    met = places < counts[:, None, None, None]
    for window in earlier:
        met = met & ~window.holds(keys)

    def taken(x: Tensor) -> Tensor:
        return x.gather(2, keys.flatten(-2).unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])).unflatten(2, keys.shape[-2:])

    scores = (taken(k) @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(q.shape[-1])  # [B,H,N,W]
    scores = scores.masked_fill(~met, NEVER)
    out = (scores.softmax(-1).unsqueeze(-2) @ taken(v)).squeeze(-2)
    return out, scores.logsumexp(-1, keepdim=True)
