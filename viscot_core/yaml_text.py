"""Reads YAML that others wrote, in bounded time and memory.

A few lines of aliases can stand for billions of entries. PyYAML shares them, but whatever walks, copies or
prints the result does not; so entries are counted as if every alias were written out.
"""

from __future__ import annotations

from typing import Any

import yaml

_CHARACTERS = 1 << 20
_ENTRIES = 100_000
_DEPTH = 50


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of ``text``. `yaml.YAMLError`: not YAML, or too long, too deep or too large written out."""
    if len(text) > _CHARACTERS:
        raise yaml.YAMLError(f"it has more than {_CHARACTERS:,} characters")
    try:
        opened = loader(text)
        try:
            node = opened.get_single_node()
            if node is None:
                return None
            _entries(node, {}, 0)
            return opened.construct_document(node)
        finally:
            opened.dispose()
    except RecursionError:
        raise yaml.YAMLError(_too("deeply nested")) from None
    except ValueError as error:  # a date or a number that Python does not have
        raise yaml.YAMLError(str(error)) from None


def _entries(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Entries of a node with all aliases written out; each node is counted once."""
    if depth > _DEPTH:
        raise yaml.YAMLError(_too("deeply nested"))
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _ENTRIES  # an alias inside itself has no end
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_entries(part, known, depth + 1) for part in inside)
    if total > _ENTRIES:
        raise yaml.YAMLError(_too("large with its aliases written out"))
    known[id(node)] = total
    return total


def _too(what: str) -> str:
    return f"it is too {what}; write it without aliases"
