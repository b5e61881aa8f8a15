"""YAML documents, and the JSON in their strings, as values with line numbers.

Manifests contain JSON in YAML strings (``spec.config`` of a network, the networks annotation). An
error inside must be reported with the line of the *file*, so each value is a `YamlNode` with its
line, and `embedded` parses the JSON of a string into nodes with lines of the file too. YAML folds
line breaks and whitespace in quoted strings, but keeps the sequence of all other characters;
positions are found by counting these.

Pure: text in, values out. ``manifests`` interprets the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

BLOCK_STYLES = ("|", ">")
BLANK_ESCAPES = "nrtvfb0 _NLPe"
TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
RENDER_ADVICE = "Render the chart first: helm template CHART | bondctl lab run -"


class ManifestFinding(NamedTuple):
    """An error in a file, and what to do about it."""

    file: str
    line: int
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" + f"\n    {self.advice}" * bool(
            self.advice
        )


class ParseError(Exception):
    """Text that is not valid YAML or JSON; ``finding`` says where and why."""

    def __init__(self, finding: ManifestFinding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class YamlNode(NamedTuple):
    """A value and its line; a scalar is its text, or None for null."""

    value: dict[str, YamlNode] | list[YamlNode] | str | None
    file: str
    line: int
    char_lines: tuple[int, ...] = ()  # scalars: the line of each character that is not whitespace

    def at(self, *path: str) -> YamlNode | None:
        """The node at a path of mapping keys, None if there is none."""
        node: YamlNode | None = self
        for key in path:
            node = node.value.get(key) if node and isinstance(node.value, dict) else None
        return node

    def text(self, *path: str) -> str:
        """The text of the scalar at a path, "" if there is none."""
        node = self.at(*path)
        return node.value if node and isinstance(node.value, str) else ""

    def items(self, *path: str) -> list[YamlNode]:
        """The list at a path, empty if there is none."""
        node = self.at(*path)
        return node.value if node and isinstance(node.value, list) else []

    def line_at(self, offset: int) -> int:
        """The line of the character at ``offset`` of this scalar."""
        text = self.value if isinstance(self.value, str) else ""
        count = sum(not letter.isspace() for letter in text[:offset])
        return (
            self.char_lines[min(count, len(self.char_lines) - 1)] if self.char_lines else self.line
        )

    def line_of(self, pointer: str) -> int:
        """The line of the value at a JSON pointer, or of its nearest existing ancestor."""
        node = self
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            below = node.at(key)
            if isinstance(node.value, list) and key.isdigit() and int(key) < len(node.value):
                below = node.value[int(key)]
            if below is None:
                break
            node = below
        return node.line

    def finding(self, message: str, advice: str = "") -> ManifestFinding:
        """A finding at this value."""
        return ManifestFinding(self.file, self.line, message, advice)


def template(text: str) -> str:
    """The first template action in a text, such as ``{{ .Values.mode }}``, "" for none."""
    found = TEMPLATE.search(text)
    return " ".join(found[0].split()) if found else ""


def unrendered(file: str, line: int, action: str) -> ManifestFinding:
    """The finding for a template in place of a manifest."""
    return ManifestFinding(
        file, line, f"`{action}` is a template action that was not rendered", RENDER_ADVICE
    )


def documents(file: str, text: str) -> list[YamlNode]:
    """All documents of a YAML text that have content. Raises ParseError."""
    try:
        nodes = list(YAML(typ="safe", pure=True).compose_all(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if action := template("\n".join(text.splitlines()[max(0, line - 2) : line])):
            raise ParseError(unrendered(file, line, action)) from error
        advice = "Check indentation, quotes and colons in this line and the line before."
        raise ParseError(
            ManifestFinding(file, line, f"invalid YAML: {error.problem}", advice)
        ) from error
    except (YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ParseError(
            ManifestFinding(file, 1, f"invalid YAML: {first}", "Check that it is a text file.")
        ) from error
    made = [_node(file, node, text, lambda _: None) for node in nodes if node is not None]
    return [node for node in made if node.value is not None]


def embedded(holder: YamlNode) -> tuple[Any, YamlNode]:
    """The JSON in a scalar: as plain data, and as nodes with lines of the file."""
    text = holder.value if isinstance(holder.value, str) else ""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if action := TEMPLATE.search(text):
            line = holder.line_at(action.start())
            raise ParseError(unrendered(holder.file, line, template(text))) from error
        raise ParseError(_json_error(holder, text, error)) from error
    try:
        tree = YAML(typ="safe", pure=True).compose(text)
    except YAMLError:  # JSON that is no valid YAML (tabs): all parts get the line of the scalar
        return data, holder._replace(value=None)
    return data, _node(holder.file, tree, text, holder.line_at)


def _json_error(holder: YamlNode, text: str, error: json.JSONDecodeError) -> ManifestFinding:
    """The finding for a JSON error, at the line that has to be changed."""
    before = text[: error.pos].rstrip()
    line = holder.line_at(error.pos)
    if not text.strip():
        return holder.finding(
            "the config is empty; JSON is expected", "Write the CNI configuration."
        )
    shown = re.split(r"[,{\[]\s", before.rstrip(","))[-1][-60:]
    if "delimiter" in error.msg and before:
        line = holder.line_at(len(before) - 1)
        sign = "comma" if "','" in error.msg else "colon"
        found = next(iter(text[error.pos :].split()), "end of text")[:40]
        message = f"invalid JSON: expected a {sign} after `{shown}`, found `{found}`"
        return ManifestFinding(
            holder.file, line, message, f"Add the {sign} at the end of line {line}."
        )
    if "property name" in error.msg and before.endswith(","):
        line = holder.line_at(len(before) - 1)
        return ManifestFinding(
            holder.file,
            line,
            f"invalid JSON: nothing follows the comma after `{shown}`",
            f"Remove the comma at the end of line {line}, or put the next key in double quotes.",
        )
    message = f"invalid JSON: {error.msg.lower()} after `{shown}`"
    return ManifestFinding(holder.file, line, message, "Correct the JSON in this line.")


def _node(file: str, node: Any, source: str, line_at: Any) -> YamlNode:
    """A composed node and its descendants; ``line_at`` converts JSON offsets to lines."""
    line = line_at(node.start_mark.index) or node.start_mark.line + 1
    if isinstance(node, MappingNode):
        if any(
            isinstance(key, MappingNode) for key, _ in node.value
        ):  # YAML parses {{ x }} as this
            raw = source[node.start_mark.index : node.end_mark.index]
            raise ParseError(unrendered(file, line, template(raw) or raw))
        pairs = {
            str(key.value): _value(file, key, value, source, line_at) for key, value in node.value
        }
        return YamlNode(pairs, file, line)
    if isinstance(node, SequenceNode):
        return YamlNode([_node(file, part, source, line_at) for part in node.value], file, line)
    if node.tag is not None and str(node.tag).endswith(":null"):
        return YamlNode(None, file, line)
    raw = source[node.start_mark.index : node.end_mark.index]
    return YamlNode(str(node.value), file, line, tuple(_char_lines(raw, node.style or "", line)))


def _value(file: str, key: Any, value: Any, source: str, line_at: Any) -> YamlNode:
    """The value of a mapping's key; an empty value gets the line of the key."""
    made = _node(file, value, source, line_at)
    if value.start_mark.index < value.end_mark.index:
        return made
    return made._replace(line=line_at(key.start_mark.index) or key.start_mark.line + 1)


def _char_lines(raw: str, style: str, line: int) -> Iterator[int]:
    """The line of each non-whitespace character of a scalar, from its source text."""
    place = 0
    if style in BLOCK_STYLES:
        place = raw.find("\n") + 1
        line += 1
    elif style in ("'", '"'):
        place, raw = 1, raw[:-1]
    while place < len(raw):
        step, blank = _next_char(raw, place, style)
        if not blank:
            yield line
        line += raw.count("\n", place, place + step)
        place += step


def _next_char(raw: str, place: int, style: str) -> tuple[int, bool]:
    """The number of source characters of the next character, and whether it is whitespace."""
    letter = raw[place]
    if style == "'" and letter == "'":
        return 2, False
    if style == '"' and letter == "\\":
        escape = raw[place + 1 : place + 2]
        width = {"x": 4, "u": 6, "U": 10}.get(escape, 2)
        return width, escape in BLANK_ESCAPES or escape.isspace()
    return 1, letter.isspace()
