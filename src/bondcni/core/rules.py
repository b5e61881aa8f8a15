"""Checks the options of a bond against its mode and against each other.

``problems`` are combinations that the kernel refuses, or accepts and silently ignores; they
are found before anything is changed. ``warnings`` are options that the kernel accepts and
that have no effect, or another effect than written. Both derive from the columns of the
option table. The range of each value was checked when it was parsed.

One mistake neither hides nor causes another: without a valid mode (None) the rules that
depend on the mode are skipped, and an option with an invalid value counts neither as set nor
as absent.

A finding has the kernel name of its option, so that the caller can add the JSON pointer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, MODES, Option, name_of
from bondcni.core.state import OptionValue

TX_QUEUES = 16
"""Transmit queues of a bond; the default of the module parameter tx_queues."""

Options = Mapping[str, OptionValue]

_NONE: Mapping[int, Options] = {}
_ROWS = {row.kernel: row for row in BOND_OPTIONS}
_MEMBER_ROWS = {row.kernel: row for row in MEMBER_OPTIONS}


@dataclass(frozen=True, slots=True)
class OptionFinding:
    """A problem or a warning. ``member`` is the index in links, -1 for the bond itself."""

    option: str  # kernel name
    message: str
    member: int = -1
    advice: str = ""


def problems(
    mode: int | None,
    options: Options,
    links: Sequence[str] | None = None,
    members: Mapping[int, Options] = _NONE,
    unread: Collection[str] = (),
) -> list[OptionFinding]:
    """Every error.

    ``links`` are the names that ``primary`` may have, None if they are not known; ``members``
    the options of each link by its index in the configuration; ``unread`` the options whose
    value is not allowed.
    """
    return [
        *_bond_problems(mode, options, unread),
        *_unknown_links(options, links),
        *_member_problems(mode, members),
    ]


def warnings(
    mode: int | None,
    options: Options,
    members: Mapping[int, Options] = _NONE,
    unread: Collection[str] = (),
) -> list[OptionFinding]:
    """Options that have no effect, or another effect than written."""
    found = list(_without_monitoring(options, unread))
    for row, value in _rows(options):
        if value != row.default_of(mode):
            ineffective = _no_effect(row, mode, options, unread)
            texts = (*ineffective, *_obsolete(row), *_rounding(row, mode, options))
            found += [OptionFinding(row.kernel, text) for text in texts]
    return [*found, *_member_warnings(options, members)]


def with_rounded_delays(mode: int | None, options: Options) -> dict[str, OptionValue]:
    """The options with delays rounded down to a multiple of miimon, as the kernel does."""
    return {
        row.kernel: _rounded(row, value, mode, options) if row.multiple_of else value
        for row, value in _rows(options)
    }


def effective_value(name: str, mode: int | None, options: Options) -> OptionValue | None:
    """The value of an option: as configured, or the default of the mode."""
    return options[name] if name in options else _ROWS[name].default_of(mode)


def _rows(options: Options) -> Iterator[tuple[Option, OptionValue]]:
    return ((_ROWS[name], value) for name, value in options.items())


def _in_modes(modes: tuple[int, ...]) -> str:
    names = ", ".join(MODES[number] for number in modes)
    return f"mode {names}" if len(modes) == 1 else f"modes {names}"


def _only_in(row: Option, mode: int | None, member: int = -1) -> Iterator[OptionFinding]:
    if mode is not None and mode not in row.accepted_in:
        text = f"is not supported in mode {MODES[mode]}, only in {_in_modes(row.accepted_in)}"
        advice = f"remove {row.key}, or change the mode"
        yield OptionFinding(row.kernel, text, member, advice)


def _bond_problems(
    mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[OptionFinding]:
    for row, value in _rows(options):
        yield from _only_in(row, mode)
        yield from _option_problems(row, value, mode, options, unread)


def _option_problems(
    row: Option, value: OptionValue, mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[OptionFinding]:
    for name in row.requires:
        known = name not in unread and (mode is not None or name in options)
        if known and not effective_value(name, mode, options):
            key = _ROWS[name].key
            yield OptionFinding(
                row.kernel, f"requires {key} to be greater than 0", advice=f'write "{key}": 100'
            )
    for name in row.conflicts:
        if value and options.get(name) and _ROWS[name].number < row.number:
            text = f"cannot be used together with {_ROWS[name].key}"
            yield OptionFinding(row.kernel, text, advice="remove one of them")
    if row.exact and row.multiple_of not in unread:
        down, step = (
            _rounded(row, value, mode, options),
            effective_value(row.multiple_of, mode, options),
        )
        if isinstance(down, int) and isinstance(step, int) and value != down:
            text = f"{value} is not a multiple of {_ROWS[row.multiple_of].key} ({step})"
            yield OptionFinding(row.kernel, text, advice=f"write {down} or {down + step}")


def _rounded(row: Option, value: OptionValue, mode: int | None, options: Options) -> OptionValue:
    step = effective_value(row.multiple_of, mode, options)
    if isinstance(value, int) and isinstance(step, int) and step > 0:
        return value - value % step
    return value


def _unknown_links(options: Options, links: Sequence[str] | None) -> Iterator[OptionFinding]:
    for row, value in _rows(options):
        if row.codec == "ifindex" and links is not None and value not in links:
            text = f"{value} is not one of the links ({', '.join(links)})"
            yield OptionFinding(row.kernel, text, advice="write one of these names")


def _member_problems(mode: int | None, members: Mapping[int, Options]) -> Iterator[OptionFinding]:
    taken: dict[OptionValue, int] = {}
    for index, options in members.items():
        for name in options:
            yield from _only_in(_MEMBER_ROWS[name], mode, index)
        queue = options.get("queue_id", 0)
        if queue and queue in taken:
            text = f"queueId {queue} is already used by /links/{taken[queue]}"
            yield OptionFinding("queue_id", text, index, "give each link a different queueId")
        taken.setdefault(queue, index)


def _without_monitoring(options: Options, unread: Collection[str]) -> Iterator[OptionFinding]:
    arp = options.get("arp_interval") or "arp_interval" in unread
    if options.get("miimon") == 0 and not arp:  # absent: an error
        text = "0 disables link monitoring: a failed member is not detected"
        yield OptionFinding("miimon", text, advice='write "miimon": 100')


def _no_effect(
    row: Option, mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[str]:
    if mode is not None and mode in row.accepted_in and mode not in row.effective_in:
        yield f"has no effect in mode {MODES[mode]}, only in {_in_modes(row.effective_in)}"
    elif row.effective_with and not any(
        options.get(name) or name in unread for name in row.effective_with
    ):
        others = " or ".join(_ROWS[name].key for name in row.effective_with)
        yield f"has no effect without {others}"


def _obsolete(row: Option) -> Iterator[str]:
    if row.obsolete and row.default is not None:
        yield f"Linux {row.obsolete} and later accept only {name_of(row, row.default)}"


def _rounding(row: Option, mode: int | None, options: Options) -> Iterator[str]:
    value = options[row.kernel]
    down = _rounded(row, value, mode, options) if row.multiple_of else value
    if down != value and not row.exact:
        step = _ROWS[row.multiple_of].key
        yield f"{value} is not a multiple of {step}: the kernel rounds it down to {down}"


def _member_warnings(options: Options, members: Mapping[int, Options]) -> Iterator[OptionFinding]:
    for index, member in members.items():
        if member.get("prio") and options.get("primary"):
            yield OptionFinding("prio", "has no effect while primary is set", index)
        queue = member.get("queue_id", 0)
        if isinstance(queue, int) and queue > TX_QUEUES:
            text = f"{queue} exceeds the default number of transmit queues of a bond ({TX_QUEUES})"
            advice = "write a lower number, or load the bonding module with a higher tx_queues"
            yield OptionFinding("queue_id", text, index, advice)
