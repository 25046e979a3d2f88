"""Associative recurrent memory transformer (Rodkin et al. 2024, arXiv 2407.04841): memory tokens.

Every S steps of an episode a segment ends, and N memory tokens are written to an associative memory
A [F, D] of each head. A layer attends to this step and the S before it, and reads A:

    u = LN(x),   y = x + W_out attention(u) + W_read A^T f(W_q u),   then a feedforward network

At the end of a segment, token i, a learned vector, attends to the segment's S steps and is written:

    m_i = LN(token_i + W_out softmax_j(c_i . key_j / sqrt(D) + p_ij) value_j)
    k_i, v_i, b_i = f(W_k m_i), W_v m_i, s(W_b m_i + b)
    A' = A + sum_i b_i k_i (v_i - A_i^T k_i)^T,      A_i: A after the tokens before i

f is DPFP (Schlag et al. 2021, arXiv 2102.11174): products of rectified entries, of which the paper
takes nu = 3. Differences from the paper: a step attends to a sliding window, as in
`transformer_xl`, not to its segment alone, so that all steps see equally many. f(k) is scaled to
length 1 instead of the paper's normaliser z with its correction gamma, and tokens are written one
after the other, so that any b in (0, 1) is stable. Tokens do not read A in their own layer (in
higher layers they see its effect), so that all segments of a row are computed at once, and they
skip the feedforward network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.attention import Cache, WindowAttention, take
from rlmem.cores.base import register
from rlmem.cores.delta import unit
from rlmem.cores.heads import split_heads
from rlmem.cores.transformer_xl import Block, WindowTransformer
from rlmem.errors import positive
from rlmem.kernels import Linear
from rlmem.kernels.episodes import ages


class SegmentState(NamedTuple):
    """`key` and `value` of the last S steps as in `Cache`, and `A` [B, H, F, D]."""

    key: Tensor
    value: Tensor
    A: Tensor


class Tokens(NamedTuple):
    """Memory tokens: `key` [*N, K, H, F], `value` [*N, K, H, D] and `beta` [*N, K, H]."""

    key: Tensor
    value: Tensor
    beta: Tensor


def dpfp(x: Float[Tensor, "*N D"], nu: int) -> Float[Tensor, "*N F"]:
    """DPFP of length 1: r_i r_{i+j} of r = [relu(x); relu(-x)] for j = 1 ... nu; F = 2 D nu."""
    r = F.relu(torch.cat([x, -x], dim=-1))
    return unit(torch.cat([r * r.roll(-j, -1) for j in range(1, nu + 1)], dim=-1))


class Ends(NamedTuple):
    """Segment ends in a row, at most n = ceil(T / S) of them.

    `place` [B, n] is the step of each end, `valid` [B, n] whether there is one, and `fresh`
    [B, n + 1] whether an episode began after the end before; the last entry is for the row's end.
    """

    place: Tensor
    valid: Tensor
    fresh: Tensor


def segment_ends(age: Int[Tensor, "B T"], start: Bool[Tensor, "B T"], segment: int) -> Ends:
    """Segments are counted from the start of each episode."""
    rows, time = age.shape
    most = -(-time // segment)
    ends = (age + 1) % segment == 0
    order = ends.cumsum(1)
    # Steps that end no segment are put behind the last end.
    slot = torch.where(ends, order - 1, most)
    steps = torch.arange(time, device=age.device).expand(rows, -1)
    place = age.new_zeros(rows, most + 1).scatter(1, slot, steps)[:, :most]
    valid = torch.arange(most, device=age.device) < order[:, -1:]
    starts = start.cumsum(1)
    until = torch.cat([torch.where(valid, starts.gather(1, place), 0), starts[:, -1:]], dim=1)
    before = F.pad(until[:, :-1].cummax(1).values, (1, 0))
    return Ends(place, valid, until > before)


def written(A: Float[Tensor, "B H F D"], tokens: Tokens) -> Float[Tensor, "B H F D"]:
    """The memory after the tokens [B, K, ...], one after the other."""
    key, value, beta = (each.transpose(1, 2) for each in tokens)
    # What the memory knew of each token, and what it learned of it from the tokens before.
    known, overlap = key @ A, key @ key.mT
    new: list[Tensor] = []
    for i in range(key.shape[2]):
        error = value[:, :, i] - known[:, :, i]
        for j, each in enumerate(new):
            error = error - overlap[:, :, i, j, None] * each
        new.append(beta[:, :, i, None] * error)
    return A + key.mT @ torch.stack(new, dim=2)


class SegmentMemory(WindowAttention):
    """Attention over a window of S steps, and an associative memory of the segments before."""

    def __init__(
        self, width: int, heads: int, segment: int, tokens: int, nu: int, position: str
    ) -> None:
        super().__init__(width, heads, segment, position)
        self.nu = positive("nu", nu)
        inner, count = heads * self.size, positive("tokens", tokens)
        self.tokens = nn.Parameter(torch.randn(count, width))
        self.token_query = nn.Parameter(torch.randn(count, heads, self.size))
        self.token_place = nn.Parameter(0.1 * torch.randn(count, heads, segment))
        self.token_norm = nn.LayerNorm(width)
        self.W_kv = Linear(width, 2 * inner, bias=False)
        self.W_beta = Linear(width, heads)
        self.W_query = Linear(width, inner, bias=False)
        self.W_read = Linear(inner, width, bias=False)

    def empty_cache(self, rows: int, like: Tensor) -> SegmentState:  # type: ignore[override]
        A = like.new_zeros(rows, self.heads, 2 * self.size * self.nu, self.size)
        return SegmentState(*super().empty_cache(rows, like), A)

    def step(  # type: ignore[override]
        self, x: Float[Tensor, "B W"], cache: SegmentState, count: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B W"], SegmentState]:
        """The output of one step, and the next cache."""
        query, key, value = self._project(x, cache.key.dtype)
        scores, values, window = self.score(query, key, value, Cache(*cache[:2]), count)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        # At the end of a segment the ring holds its steps in order.
        tokens = self._tokens(*window)
        ends = (count + 1) % self.memory == 0
        beta = torch.where(ends[:, None, None], tokens.beta, 0)
        asked = self._asked(x, cache.A.dtype)[..., None, :]
        with torch.autocast(x.device.type, enabled=False):
            reading = (asked @ cache.A).squeeze(-2)
            A = written(cache.A, tokens._replace(beta=beta))
        return self._mixed(y, reading, x), SegmentState(*window, A)

    def scan(  # type: ignore[override]
        self,
        x: Float[Tensor, "B T W"],
        cache: SegmentState,
        count: Int[Tensor, "B"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], SegmentState]:
        """The outputs of a row, and the cache after it."""
        query, key, value = self._project(x, cache.key.dtype)
        keys, values = self.with_past(cache[:2], (key, value), count)
        y = self.attend(query, keys, values, count, start)
        age = ages(count, start)
        ends = segment_ends(age, start, self.memory)
        # Step t of the row is entry S + t of these.
        inside = ends.place[..., None] + 1 + torch.arange(self.memory, device=x.device)
        tokens = self._tokens(*(take(each, inside) for each in (keys, values)))
        memories = self._memories(cache.A, tokens, ends)
        reading = self._read(self._asked(x, cache.A.dtype), memories, age, start)
        window = self.next_cache((keys, values), count, start)
        return self._mixed(y, reading, x), SegmentState(*window, memories[-1])

    def _asked(self, x: Float[Tensor, "*N W"], dtype: torch.dtype) -> Float[Tensor, "*N H F"]:
        return dpfp(split_heads(self.W_query(x).to(dtype), self.heads), self.nu)

    def _tokens(self, keys: Float[Tensor, "*N S H D"], values: Float[Tensor, "*N S H D"]) -> Tokens:
        """The tokens at the end of a segment with these keys and values, oldest first."""
        dtype = keys.dtype
        scores = torch.einsum("khd,...shd->...khs", self.token_query.to(dtype), keys)
        weights = (scores * self.size**-0.5 + self.token_place).softmax(-1)
        seen = torch.einsum("...khs,...shd->...khd", weights, values.to(weights.dtype))
        m = self.token_norm(self.tokens + self.out(seen.flatten(-2).to(self.tokens.dtype)))
        key, value = (split_heads(x, self.heads) for x in self.W_kv(m).to(dtype).chunk(2, dim=-1))
        return Tokens(dpfp(key, self.nu), value, self.W_beta(m).to(dtype).sigmoid())

    def _memories(self, A: Float[Tensor, "B H F D"], tokens: Tokens, ends: Ends) -> list[Tensor]:
        """A before the first end and after each of them, and that after the row.

        The writes of a segment are one: with L the products of keys k_i . k_j, j < i, times b_i,
        their sum is K^T (I + L)^-1 diag(b) (V - K A).
        """
        beta = torch.where(ends.valid[..., None, None], tokens.beta, 0).transpose(2, 3)
        key, value = (each.transpose(2, 3) for each in tokens[:2])
        # A product in half precision would not invert what follows.
        with torch.autocast(A.device.type, enabled=False):
            overlap = (beta[..., None] * (key @ key.mT)).tril(-1)
            one = torch.eye(len(self.tokens), dtype=A.dtype, device=A.device)
            right = beta[..., None] * torch.cat([key, value], dim=-1)
            solved = torch.linalg.solve_triangular(one + overlap, right, upper=False)
            drop, new = solved.split([key.shape[-1], value.shape[-1]], dim=-1)
            fresh, found = ends.fresh[..., None, None, None], [A]
            for j in range(ends.place.shape[1]):
                A = torch.where(fresh[:, j], 0, A)
                A = A + key[:, j].mT @ (new[:, j] - drop[:, j] @ A)
                found.append(A)
            return [*found, torch.where(fresh[:, -1], 0, A)]

    def _read(
        self,
        asked: Float[Tensor, "B T H F"],
        memories: list[Tensor],
        age: Int[Tensor, "B T"],
        start: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T H D"]:
        """What the steps read. At most S steps follow an end: they read the same A."""
        (rows, time), S, groups = age.shape, self.memory, len(memories) - 1
        ended = F.pad(((age + 1) % S == 0).cumsum(1)[:, :-1], (1, 0))
        # The first segment of an episode that begins in the row has no A.
        reads = (age >= S) | (start.cumsum(1) == 0)
        slot = torch.where(reads, ended * S + age % S, groups * S)
        steps = torch.arange(time, device=age.device).expand(rows, -1)
        step_of = age.new_zeros(rows, groups * S + 1).scatter(1, slot, steps)[:, :-1]
        grouped = take(asked, step_of.unflatten(1, (groups, S)))
        with torch.autocast(asked.device.type, enabled=False):
            found = torch.einsum("bgshf,bghfd->bgshd", grouped, torch.stack(memories[:-1], 1))
        found = take(found.flatten(1, 2), torch.where(reads, slot, 0))
        return torch.where(reads[..., None, None], found, 0)

    def _mixed(self, y: Tensor, reading: Tensor, x: Tensor) -> Tensor:
        """The output for those of attention and memory, [*N, H, D] each."""
        return self.out(y.flatten(-2).to(x.dtype)) + self.W_read(reading.flatten(-2).to(x.dtype))


class SegmentBlock(Block):
    """One layer: window, associative memory and a feedforward network."""

    def __init__(
        self,
        width: int,
        heads: int,
        segment: int,
        tokens: int,
        nu: int,
        ff_size: int,
        position: str,
    ) -> None:
        super().__init__(width, heads, positive("segment", segment), ff_size, position, norm="pre")
        self.attention = SegmentMemory(width, heads, segment, tokens, nu, position)


@register("armt")
class ARMT(WindowTransformer):
    """ARMT: memory tokens of each segment in an associative memory (Rodkin et al. 2024).

    S is `segment`, N is `tokens`. Other options are those of `transformer_xl`, with its layer norms
    before.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        segment: int = 16,
        tokens: int = 4,
        nu: int = 3,
        ff_size: int | None = None,
        position: str = "relative",
    ) -> None:
        def block(width: int, ff_size: int) -> Block:
            return SegmentBlock(width, heads, segment, tokens, nu, ff_size, position)

        super().__init__(input_size, output_size, layers, ff_size, block)
