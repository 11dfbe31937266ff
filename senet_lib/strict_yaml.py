"""A YAML loader without object tags and without silent surprises, for the files that people write."""

import re

import yaml

# What YAML 1.1 takes a key without quotes for
KEYS_READ_AS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null", "timestamp": "a date"}
AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?)")  # octal, and base 60, in YAML 1.1


class StrictLoader(yaml.SafeLoader):
    """Every key of a mapping is a different text, and a number is what a reader takes it for."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                kind = "mapping" if isinstance(key, yaml.MappingNode) else "list"
                raise _invalid(key, f"a {kind} is no key; a text with braces or brackets needs quotes")
            kind = KEYS_READ_AS.get(key.tag.rpartition(":")[2])
            if kind:
                raise _invalid(key, f"the key {key.value!r} is read as {kind}, not as text; write it in quotes")
            if key.value in seen:
                raise _invalid(key, f"duplicate key {key.value!r}")
            seen.add(key.value)
        return node

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.style is None and node.tag.endswith((":int", ":float")) and AMBIGUOUS.fullmatch(node.value):
            raise _invalid(node, f"{node.value} is ambiguous: write it without a leading zero or colon, or in quotes")
        return node


def _invalid(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


# YAML 1.1 reads 5e-1 and 1e3 as text
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
