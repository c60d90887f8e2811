"""Nodes of a circuit: attention heads and MLPs, by name.

A head is `text.cross_attn.L1.H3` or `("text.cross_attn", 1, 3)`, an MLP `text.mlp.L1` or `("text.mlp", 1)`. What a node
does is what it gives at all positions: `hook_z` of a head, `hook_mlp_out` of an MLP.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from notice_lens.errors import one_of
from notice_lens.patching.edits import Edit, check_model

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel

_NODE_NAME = re.compile(r"(?P<module>\w+\.\w+)\.L(?P<layer>\d+)(?:\.H(?P<head>\d+))?")
MLP_MODULE = "mlp"
Head = str | tuple[str, int] | tuple[str, int, int | None]
"""A node as the caller writes it: by its name, or as a tuple of module, layer and perhaps head."""


class Node(NamedTuple):
    """One head or MLP.

    Attributes:
        module: Stack and module: `text.attn`, `text.cross_attn`, `text.mlp`.
        layer: The layer.
        head: The head; None for an MLP.
    """

    module: str
    layer: int
    head: int | None = None

    @property
    def name(self) -> str:
        """Such as `text.cross_attn.L1.H3`."""
        return f"{self.module}.L{self.layer}" + ("" if self.head is None else f".H{self.head}")

    def edit(self, source: str) -> Edit:
        """The edit that replaces the node's output at all positions."""
        site = f"{self.module}_out" if self.head is None else f"{self.module}.z"
        return Edit(site, self.layer, self.head, source=source)

    @classmethod
    def of(cls, model: "VisionLanguageModel", asked: Any) -> "Node":
        """A node by its name, checked against a model.

        Raises:
            ValueError: There is no node of that name; the message names the nearest.
        """
        module, layer, head = _parts(asked)
        known = modules(model)
        if module not in known:
            raise ValueError(f"node {_shown(asked)}: " + one_of("module", module, known))
        cfg = model.stack(module.partition(".")[0]).cfg
        node = cls(module, layer, head)
        with_heads = not module.endswith(f".{MLP_MODULE}")
        if with_heads != (head is not None):
            example = cls(module, 0, 0 if with_heads else None).name
            raise ValueError(f"node {_shown(asked)}: nodes of {module} are written like {example!r}")
        for what, number, n in (("layer", layer, cfg.n_layers), ("head", head, cfg.n_heads)):
            if number is not None and not 0 <= number < n:
                raise ValueError(
                    f"node {_shown(asked)}: {what} {number} asked for; {module} has {what}s 0 to {n - 1}; "
                    f"the nearest is {_within(node, cfg.n_layers, cfg.n_heads).name!r}"
                )
        return node


def modules(model: "VisionLanguageModel", stack: str | None = None) -> list[str]:
    """The modules of a stack, or of all, that have nodes."""
    check_model(model)
    stacks = model.cfg.stacks if stack is None else [stack]
    return [f"{name}.{part}" for name in stacks for part in model.sublayers(name)]


def universe_of(model: "VisionLanguageModel", asked: Any) -> list[Node]:
    """Nodes by stacks (`text`: all its heads and MLPs), modules (`text.cross_attn`) or names, each once.

    Raises:
        ValueError: There is no stack, module or node of that name, or nothing was named.
    """
    several = [asked] if isinstance(asked, str) or is_node(asked) else list(asked)
    found: dict[Node, None] = {}
    for one in several:
        stacks = model.cfg.stacks
        if isinstance(one, str) and one in stacks:
            found |= dict.fromkeys(node for module in modules(model, one) for node in _all(model, module))
        elif isinstance(one, str) and one in modules(model):
            found |= dict.fromkeys(_all(model, one))
        elif isinstance(one, str) and not _NODE_NAME.fullmatch(one):
            valid = [*stacks, *modules(model)]
            raise ValueError("universe: " + one_of("stack or module", one, valid) + ", or nodes by name")
        else:
            found[Node.of(model, one)] = None
    if not found:
        raise ValueError("universe is empty; name stacks, modules or nodes, such as 'text'")
    return list(found)


def nodes_of(model: "VisionLanguageModel", circuit: Any) -> list[Node]:
    """The nodes of a circuit, each once.

    Raises:
        TypeError: It is not a list of nodes.
        ValueError: There is no such node, or one is given twice.
    """
    if isinstance(circuit, str) or is_node(circuit):
        circuit = [circuit]
    if not isinstance(circuit, Iterable):
        raise TypeError(
            f"circuit is of type {type(circuit).__name__}; expected a list of nodes, 'text.cross_attn.L1.H3'"
        )
    found = [Node.of(model, one) for one in circuit]
    for node in found:
        if found.count(node) > 1:
            raise ValueError(f"node {node.name!r} is in the circuit {found.count(node)} times; expected it once")
    return found


def _parts(asked: Any) -> tuple[str, int, int | None]:
    """Module, layer and head, from a name or a tuple."""
    if isinstance(asked, str) and (match := _NODE_NAME.fullmatch(asked)):
        return match["module"], int(match["layer"]), None if match["head"] is None else int(match["head"])
    if is_node(asked):
        head = asked[2] if len(asked) == 3 else None
        return str(asked[0]), int(asked[1]), None if head is None else int(head)
    raise ValueError(
        f"node {_shown(asked)}: a head is 'text.cross_attn.L1.H3' or ('text.cross_attn', 1, 3), an MLP 'text.mlp.L1' "
        "or ('text.mlp', 1)"
    )


def is_name(asked: str) -> bool:
    """Return whether a text is the name of a node."""
    return _NODE_NAME.fullmatch(asked) is not None


def is_node(asked: Any) -> bool:
    """Return whether it is a tuple of module, layer and perhaps head."""
    if not isinstance(asked, tuple) or not 2 <= len(asked) <= 3 or not isinstance(asked[0], str):
        return False
    return all(number is None or (hasattr(number, "__index__") and number is not True) for number in asked[1:])


def _all(model: "VisionLanguageModel", module: str) -> list[Node]:
    cfg = model.stack(module.partition(".")[0]).cfg
    heads = [None] if module.endswith(f".{MLP_MODULE}") else range(cfg.n_heads)
    return [Node(module, layer, head) for layer in range(cfg.n_layers) for head in heads]


def _within(node: Node, n_layers: int, n_heads: int) -> Node:
    """The nearest existing node."""
    head = None if node.head is None else min(max(node.head, 0), n_heads - 1)
    return Node(node.module, min(max(node.layer, 0), n_layers - 1), head)


def _shown(asked: Any) -> str:
    return repr(tuple(asked)) if isinstance(asked, tuple) else repr(asked)
