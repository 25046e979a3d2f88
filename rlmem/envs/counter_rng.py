"""Counter-based random numbers: functions of an environment's seed and a counter, without state.

A batch of environments draws its numbers at once, on any device. The numbers of environment i do
not depend on the other environments. The generator is SplitMix64 (Steele et al. 2014, "Fast
splittable pseudorandom number generators") with a computed state instead of a stored one: number c
of a stream is the finalizer of `key + c * GOLDEN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import tau
from typing import Any

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor


def _signed(word: int) -> int:
    """A 64-bit word as a signed integer."""
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
_STEPS = _signed(0xD1B54A32D192ED03)  # separates the streams of steps from those of episode starts
# The number of counters reserved for the start of one episode, times GOLDEN.
_EPISODE = _signed((GOLDEN << 20) & (1 << 64) - 1)

# The most numbers made at a time: more would not fit the cache, fewer would waste calls.
BLOCK = 1 << 15
# The most steps whose numbers another device than the CPU makes at a time. A captured step of an
# environment is one of so many kinds.
DEVICE_STEPS = 8

# Padding between the rows of a deck. Without it they may be a power of two apart, so that a column
# competes for one set of the cache (measured: three times slower).
PAD = 64


def mix(x: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """SplitMix64's finalizer, in place.

    Only the last shift is a logical one, as in the original. An arithmetic shift there would make
    every result non-negative; in the other shifts it only maps a word and its complement to the
    same result.
    """
    x ^= x >> 30
    x *= _FIRST
    x ^= x >> 27
    x *= _SECOND
    x ^= (x >> 31).bitwise_and_((1 << 33) - 1)
    return x


def keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Int[Tensor, "N"]:
    """One key for each seed; a seed is any integer, modulo 2^64."""
    words = [_signed(seed & (1 << 64) - 1) for seed in seeds]
    # Without an offset the key of seed 0, and the first number of its stream, would be 0.
    return mix(torch.tensor(words, dtype=torch.int64, device=device) * GOLDEN + _FIRST)


def bits(key: Int[Tensor, "N"], counter: Int[Tensor, "*K 1"]) -> Int[Tensor, "*K N"]:
    """64 random bits for each pair of key and counter."""
    return mix(counter * GOLDEN + key)


def uniform(word: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Random bits as float32 in [0, 1), multiples of 2^-24."""
    return (word >> 40).to(torch.float32).mul_(2.0**-24).add_(0.5)


def uniform64(word: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Random bits as float64 in [0, 1), multiples of 2^-53."""
    return (word >> 11).to(torch.float64).mul_(2.0**-53).add_(0.5)


def below(word: Int[Tensor, "*N"], limit: int | Tensor) -> Int[Tensor, "*N"]:
    """Random bits as integers in [0, limit); limit at most 2^31, bias below limit / 2^31."""
    return (word >> 33).bitwise_and_(0x7FFFFFFF).mul_(limit).bitwise_right_shift_(31)


def normals(word: Int[Tensor, "*K N"]) -> Float[Tensor, "*K 2 N"]:
    """Two standard normal float32 numbers from each word (Box and Muller 1958)."""
    # In (0, 1], because the logarithm of 0 is infinite.
    uniform = (word >> 40).to(torch.float32).mul_(-(2.0**-24)).add_(0.5)
    angle = (word & 0xFFFFFFFF).to(torch.float32).mul_(tau * 2.0**-32)
    radius = uniform.log_().mul_(-2).sqrt_()
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -2)


def _narrow(size: int) -> torch.dtype:
    """The narrowest dtype that holds 0..size-1."""
    return torch.uint8 if size <= 256 else torch.int16 if size <= 2**15 else torch.int64


def _uses(limit: int) -> int:
    """The number of integers below `limit` that one word provides."""
    return max(1, 32 // limit.bit_length() - 1)


class RandomDraws:
    """Random numbers for the initial states of M episodes.

    Each call continues the stream of the previous one and returns `count` rows of M numbers.
    """

    def __init__(self, key: Int[Tensor, "M"], episode: Int[Tensor, "M"]) -> None:
        self.size = len(key)
        self.device = key.device
        self._key = key + episode * _EPISODE
        self._used = 0

    def bits(self, count: int) -> Int[Tensor, "count M"]:
        """The next `count` words of each stream."""
        first, self._used = self._used, self._used + count
        counter = torch.arange(first, first + count, device=self.device)
        return bits(self._key, counter[:, None])

    def uniform(self, count: int) -> Float[Tensor, "count M"]:
        """float32 in [0, 1)."""
        return uniform(self.bits(count))

    def uniform64(self, count: int) -> Float[Tensor, "count M"]:
        """float64 in [0, 1)."""
        return uniform64(self.bits(count))

    def below(self, limit: int, count: int) -> Int[Tensor, "count M"]:
        """Integers in [0, limit)."""
        return below(self.bits(count), limit)

    def nested(
        self, limits: Int[Tensor, "count"], most: int, each: int = 1
    ) -> Int[Tensor, "count width"]:
        """`each` times M integers in [0, limits[i]), several from one word; no limit exceeds
        `most`.

        A word is a fraction in [0, 1). The fraction times the limit has an integer part, which is
        the result, and a fractional part, which serves the next one. The number of integers per
        word keeps the bias of each below 2^-31.
        """
        uses, free = _uses(most), 63 - most.bit_length()
        words = -(-len(limits) // uses)
        mask = (1 << free) - 1
        fraction = self.bits(words * each).view(words, -1)
        fraction.bitwise_right_shift_(63 - free + 1).bitwise_and_(mask)
        numbers = fraction.new_empty(words, uses, fraction.shape[1])
        ones = limits.new_ones(uses * words - len(limits))
        rows = torch.cat([limits, ones]).view(words, uses, 1).unbind(1)
        for limit, number in zip(rows, numbers.unbind(1), strict=True):
            fraction.mul_(limit)
            torch.bitwise_right_shift(fraction, free, out=number)
            fraction.bitwise_and_(mask)
        return numbers.flatten(0, 1)[: len(limits)]

    def shuffle(self, size: int, count: int | None = None) -> Integer[Tensor, "count M"]:
        """The first `count` (default: all) of the numbers 0..size-1 in random order, in the
        narrowest dtype of uint8, int16 and int64.
        """
        return self.shuffles(1, size, count).squeeze(1)

    def shuffles(
        self, decks: int, size: int, count: int | None = None
    ) -> Integer[Tensor, "count decks M"]:
        """`decks` independent results of `shuffle`.

        Fisher and Yates' shuffle: card t is swapped with a random card among those not yet dealt.
        """
        count = size if count is None else count
        numbers = torch.arange(size, dtype=_narrow(size), device=self.device)
        width = decks * self.size
        pitch = width + PAD
        deck = numbers[:, None].repeat(1, pitch)
        flat, cards = deck.view(-1), deck[:, :width].unbind()
        dealt = deck.new_empty(count, decks, self.size)
        hands = dealt.view(count, width).unbind()
        columns = torch.arange(width, device=self.device)
        for first, chosen in self._chosen(decks, size, count):
            here = torch.arange(first, first + len(chosen), device=self.device)
            chosen.add_(here[:, None])
            torch.add(columns, chosen, alpha=pitch, out=chosen)
            for t, place in enumerate(chosen.unbind(), first):
                torch.index_select(flat, 0, place, out=hands[t])
                flat.index_copy_(0, place, cards[t].clone())
        return dealt

    def kinds(self, decks: int, kinds: int, each: int) -> UInt8[Tensor, "count decks M"]:
        """The kinds of shuffled decks with `each` cards of every kind, at half the cost of
        `shuffles`.

        Each card is a random one of the remaining cards. With these sorted by kind, its kind is
        greater than k exactly if its position is behind the last card of kind k.
        """
        size = kinds * each
        dtype = _narrow(size)
        ends = torch.arange(each, size, each, dtype=dtype, device=self.device)
        ends = ends[:, None].repeat(1, decks * self.size)
        dealt = []
        for _, chosen in self._chosen(decks, size, size):
            before = chosen.new_empty(len(chosen), *ends.shape, dtype=torch.bool)
            taken = before.view(torch.uint8).unbind()
            for card, out, less in zip(chosen.to(dtype), before.unbind(), taken, strict=True):
                torch.lt(card, ends, out=out)
                ends -= less
            later = before.logical_not_().view(torch.uint8).unbind(1)
            dealt.append(sum(later[1:], later[0]))
        return torch.cat(dealt).view(size, decks, self.size)

    def _chosen(
        self, decks: int, size: int, count: int
    ) -> Iterator[tuple[int, Int[Tensor, "rows width"]]]:
        """For each dealt card its index among the remaining ones, in blocks of cards, each with the
        number of its first card.

        A block uses whole words, so that the cards do not depend on `count`.
        """
        rows = _uses(size) * max(1, BLOCK // (decks * self.size * _uses(size)))
        for first in range(0, count, rows):
            last = min(first + rows, count)
            left = torch.arange(size - first, size - last, -1, device=self.device)
            yield first, self.nested(left, size, decks)


class RandomSteps:
    """Random numbers for each environment and step, made in blocks of steps.

    Use `bits` or `half`, not both: the words of a block would depend on the block size.
    """

    replayable = True

    def __init__(self, key: Int[Tensor, "N"], per_step: int = 1) -> None:
        self._key = mix(key ^ _STEPS)
        self._per_step = per_step
        most = BLOCK // max(len(key) * per_step, 1)
        if key.device.type != "cpu":
            most = min(most, DEVICE_STEPS)
        self._block = max(1, most)
        # On the device, because a captured step counts on without the host.
        self._word = torch.zeros((), dtype=torch.int64, device=key.device)
        self._words: list[Tensor] = []
        self._halves: list[Tensor] = []
        self._normals: list[Tensor] = []

    def bits(self) -> Int[Tensor, "per_step N"]:
        """64 random bits for each number of the next step."""
        if not self._words:
            self._words = list(self._draw().unbind())[::-1]
        return self._words.pop()

    def half(self) -> Integer[Tensor, "N"]:
        """The next 32 random bits, as int32: half a word."""
        if not self._halves:
            words = self._draw().flatten(0, 1).view(torch.int32).unflatten(-1, (-1, 2))
            halves = words.transpose(1, 2).contiguous().flatten(0, 1)
            self._halves = list(halves.unbind())[::-1]
        return self._halves.pop()

    def normals(self) -> Float[Tensor, "2 N"]:
        """The next two standard normal float32 numbers, from one word."""
        if not self._normals:
            self._normals = list(normals(self._draw().flatten(0, 1)).unbind())[::-1]
        return self._normals.pop()

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, with the numbers that are made already."""
        made = {"words": self._words, "halves": self._halves, "normals": self._normals}
        return {"word": int(self._word)} | {k: torch.stack(v) for k, v in made.items() if v}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the stream of a `state_dict`."""
        made = {name: state.get(name) for name in ("words", "halves", "normals")}
        device = self._key.device
        self._word = torch.full((), state["word"], dtype=torch.int64, device=device)
        self._words, self._halves, self._normals = (
            [] if each is None else list(each.to(device).unbind()) for each in made.values()
        )

    def _draw(self) -> Int[Tensor, "block per_step N"]:
        """The next words."""
        size = self._block * self._per_step
        counter = torch.arange(size, device=self._key.device) + self._word
        self._word = self._word + size
        return bits(self._key, counter.view(self._block, self._per_step, 1))
