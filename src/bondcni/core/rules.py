"""What options of one bond do to each other and in its mode.

``problems`` are what the kernel would refuse, or accept and silently not do; they come
before anything is touched. ``warnings`` are what it accepts and what yet has no effect,
or another one than was written. Both derive from the columns of the option table; a
single value's range was checked when it was parsed.

One mistake neither hides another nor makes one up: without a mode (None) the rules that
depend on it are left out, and an option that could not be read is neither set nor absent.

Findings name the option by its kernel name, so that the caller can say where it stood.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, MODES, Option, name_of
from bondcni.core.state import OptionValue

TX_QUEUES = 16
"""A bond's transmit queues unless the module's tx_queues says otherwise."""

Options = Mapping[str, OptionValue]

_NONE: Mapping[int, Options] = {}
_ROWS = {row.kernel: row for row in BOND_OPTIONS}
_MEMBER_ROWS = {row.kernel: row for row in MEMBER_OPTIONS}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say. ``member`` is the index in links, -1 for the bond itself."""

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
) -> list[Finding]:
    """Hard errors, all of them.

    ``links`` are the names that ``primary`` may be, None when they cannot be known;
    ``members`` the options of each link by its index in the configuration; ``unread`` the
    options that were given a value that is not allowed.
    """
    return [
        *_bond_problems(mode, options, unread),
        *_strangers(options, links),
        *_member_problems(mode, members),
    ]


def warnings(
    mode: int | None,
    options: Options,
    members: Mapping[int, Options] = _NONE,
    unread: Collection[str] = (),
) -> list[Finding]:
    """What will have no effect, or not the one that was written."""
    found = list(_unmonitored(options, unread))
    for row, value in _rows(options):
        if value != row.default_of(mode):
            idle = _idle(row, mode, options, unread)
            texts = (*idle, *_obsolete(row), *_changed(row, mode, options))
            found += [Finding(row.kernel, text) for text in texts]
    return [*found, *_member_warnings(options, members)]


def settled(mode: int | None, options: Options) -> dict[str, OptionValue]:
    """The options as the kernel will hold them: delays rounded down as it rounds them."""
    return {
        row.kernel: _rounded(row, value, mode, options) if row.multiple else value
        for row, value in _rows(options)
    }


def in_effect(name: str, mode: int | None, options: Options) -> OptionValue | None:
    """What an option is: as asked for, or the mode's default."""
    return options[name] if name in options else _ROWS[name].default_of(mode)


def _rows(options: Options) -> Iterator[tuple[Option, OptionValue]]:
    return ((_ROWS[name], value) for name, value in options.items())


def _in_modes(modes: tuple[int, ...]) -> str:
    names = ", ".join(MODES[number] for number in modes)
    return f"mode {names}" if len(modes) == 1 else f"modes {names}"


def _only_in(row: Option, mode: int | None, member: int = -1) -> Iterator[Finding]:
    if mode is not None and mode not in row.takes:
        text = f"only for {_in_modes(row.takes)}; the mode is {MODES[mode]}"
        advice = f"leave {row.key} out, or change the mode"
        yield Finding(row.kernel, text, member, advice)


def _bond_problems(
    mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[Finding]:
    for row, value in _rows(options):
        yield from _only_in(row, mode)
        yield from _unmet(row, value, mode, options, unread)


def _unmet(
    row: Option, value: OptionValue, mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[Finding]:
    for name in row.needs:
        known = name not in unread and (mode is not None or name in options)
        if known and not in_effect(name, mode, options):
            key = _ROWS[name].key
            yield Finding(row.kernel, f"needs {key} above 0", advice=f'write "{key}": 100')
    for name in row.conflicts:
        if value and options.get(name) and _ROWS[name].number < row.number:
            text = f"cannot be used together with {_ROWS[name].key}"
            yield Finding(row.kernel, text, advice="leave one of them out")
    if row.exact and row.multiple not in unread:
        down, step = _rounded(row, value, mode, options), in_effect(row.multiple, mode, options)
        if isinstance(down, int) and isinstance(step, int) and value != down:
            text = f"{value} must be a multiple of {_ROWS[row.multiple].key}, which is {step}"
            yield Finding(row.kernel, text, advice=f"write {down} or {down + step}")


def _rounded(row: Option, value: OptionValue, mode: int | None, options: Options) -> OptionValue:
    step = in_effect(row.multiple, mode, options)
    if isinstance(value, int) and isinstance(step, int) and step > 0:
        return value - value % step
    return value


def _strangers(options: Options, links: Sequence[str] | None) -> Iterator[Finding]:
    for row, value in _rows(options):
        if row.codec == "ifindex" and links is not None and value not in links:
            text = f"{value} is not one of the links: {', '.join(links)}"
            yield Finding(row.kernel, text, advice="write one of these names")


def _member_problems(mode: int | None, members: Mapping[int, Options]) -> Iterator[Finding]:
    taken: dict[OptionValue, int] = {}
    for index, options in members.items():
        for name in options:
            yield from _only_in(_MEMBER_ROWS[name], mode, index)
        queue = options.get("queue_id", 0)
        if queue and queue in taken:
            text = f"{queue} is the queueId of link {taken[queue]}, too"
            yield Finding("queue_id", text, index, "give each link a queueId of its own")
        taken.setdefault(queue, index)


def _unmonitored(options: Options, unread: Collection[str]) -> Iterator[Finding]:
    arp = options.get("arp_interval") or "arp_interval" in unread
    if options.get("miimon") == 0 and not arp:  # to leave it out is a problem
        text = "no link monitoring: a failed member goes unnoticed"
        yield Finding("miimon", text, advice='write "miimon": 100')


def _idle(
    row: Option, mode: int | None, options: Options, unread: Collection[str]
) -> Iterator[str]:
    if mode is not None and mode in row.takes and mode not in row.works:
        yield f"has no effect in {MODES[mode]}, only in {_in_modes(row.works)}"
    elif row.wants and not any(options.get(name) or name in unread for name in row.wants):
        others = " or ".join(_ROWS[name].key for name in row.wants)
        yield f"has no effect without {others}"


def _obsolete(row: Option) -> Iterator[str]:
    if row.obsolete and row.default is not None:
        yield f"kernels from {row.obsolete} on take only {name_of(row, row.default)}"


def _changed(row: Option, mode: int | None, options: Options) -> Iterator[str]:
    value = options[row.kernel]
    down = _rounded(row, value, mode, options) if row.multiple else value
    if down != value and not row.exact:
        step = _ROWS[row.multiple].key
        yield f"{value} is no multiple of {step}: the kernel rounds it down to {down}"


def _member_warnings(options: Options, members: Mapping[int, Options]) -> Iterator[Finding]:
    for index, member in members.items():
        if member.get("prio") and options.get("primary"):
            yield Finding("prio", "has no effect while a primary is set", index)
        queue = member.get("queue_id", 0)
        if isinstance(queue, int) and queue > TX_QUEUES:
            text = f"{queue} is above the {TX_QUEUES} transmit queues that a bond has by default"
            advice = "write a lower number, or load the module bonding with a higher tx_queues"
            yield Finding("queue_id", text, index, advice)
