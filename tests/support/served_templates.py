"""How vLLM and SGLang decide what a chat template gets as a message's content: parts, or one text.

The rule that both have: a loop over the messages names a message; where a loop goes over that message's
``content`` (sliced or filtered on the way, or the messages renamed), the template takes parts ("openai").
Where none does, it takes text ("string"), and the server writes the image marks into it itself. (Newer
vLLM also follows macros, and a variable named ``content``; no template of ours leans on that.)
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES, CONTENT = "messages", "content"


def content_format(template: str) -> str:
    """``openai`` or ``string``."""
    tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    lists = _renamed(tree, {MESSAGES})
    message_names = {_name(loop.target) for loop in tree.find_all(nodes.For) if _source(loop.iter) in lists}
    for loop in tree.find_all(nodes.For):
        of = _bare(loop.iter)
        if _key(of) == CONTENT and _source(getattr(of, "node", of)) in message_names:
            return "openai"
    return "string"


def _renamed(tree: nodes.Template, names: set[str]) -> set[str]:
    """``names`` and every variable that is assigned from one of them."""
    while True:
        more = {_name(each.target) for each in tree.find_all(nodes.Assign) if _source(each.node) in names}
        if more <= names:
            return names
        names = names | more


def _wrapped(node: nodes.Node) -> Iterator[nodes.Node]:
    """A value and what it is made of by filters, tests and slices."""
    while True:
        yield node
        sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        if not isinstance(node, nodes.Filter | nodes.Test) and not sliced:
            return
        node = node.node  # type: ignore[attr-defined, assignment]


def _bare(node: nodes.Node) -> nodes.Node:
    return list(_wrapped(node))[-1]


def _source(node: nodes.Node) -> str | None:
    """The variable behind a value."""
    return _name(_bare(node))


def _name(node: nodes.Node) -> str | None:
    return node.name if isinstance(node, nodes.Name) else None


def _key(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return None
