"""The keys of a recurrent module: [input, *state, "is_init"] and [output, *("next", state)]."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey, unravel_key, unravel_key_list

from rlmem.errors import UsageError


def module_keys(
    in_key: NestedKey | None,
    in_keys: Sequence[NestedKey] | None,
    out_key: NestedKey | None,
    out_keys: Sequence[NestedKey] | None,
    states: int,
) -> tuple[NestedKey, NestedKey, list[NestedKey]]:
    """The key of the input, that of the output and the `states` keys of the state.

    As in torchrl's own modules a user gives `in_key`, or `in_keys` with the state's keys, and
    likewise for the output. Without state keys they are the `default_keys`.
    """
    source, target = _given("in", in_key, in_keys), _given("out", out_key, out_keys)
    if source[-1] == "is_init":
        source.pop()
    named, written = source[1:], [_root(key) for key in target[1:]]
    if named and written and named != written:
        raise UsageError(f"out_keys must be [output, *('next', key)] of {named}, not {target}")
    named = named or written
    if named and len(named) != states:
        kinds = "real numbers" if states == 1 else "real numbers, and integers"
        raise UsageError(f"the state has {states} key(s) ({kinds}), but {named} were given")
    return source[0], target[0], named or default_keys(target[0], states)


def default_keys(output: NestedKey, states: int) -> list[NestedKey]:
    """State keys next to the output's, and named after it.

    A network that is made again, also in another process, has the same keys: a copy that is trained
    reads what another one has stored. `MemoryModule` refuses two of them in one network.
    """
    *above, last = (output,) if isinstance(output, str) else output
    names = (f"{last}_memory", f"{last}_memory_counts")
    return [unravel_key((*above, name)) for name in names[:states]]


def next_key(key: NestedKey) -> NestedKey:
    """The key of the state after a step."""
    return unravel_key(("next", key))


def _given(kind: str, key: NestedKey | None, keys: Sequence[NestedKey] | None) -> list[NestedKey]:
    if (key is None) == (not keys):
        raise UsageError(f"give either {kind}_key or {kind}_keys")
    return unravel_key_list([key] if key is not None else list(keys or ()))


def _root(key: NestedKey) -> NestedKey:
    """The key under "next"."""
    if isinstance(key, str) or key[0] != "next":
        raise UsageError(f"a state is written under ('next', key), not {key!r}")
    return unravel_key(key[1:])
