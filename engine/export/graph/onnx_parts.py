"""Which part of an ONNX graph a node belongs to."""

import onnx


def after_last_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the nodes between the outputs and the last convolutions, by their first output."""
    producers = {name: node for node in graph.node for name in node.output}
    after, todo = set(), [value.name for value in graph.output]
    while todo:
        node = producers.get(todo.pop())
        if node is not None and node.op_type != "Conv" and node.output[0] not in after:
            after.add(node.output[0])
            todo += node.input
    return after


def float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes that stay float in an int8 graph.

    The first and the last convolutions, and all after the last.
    """
    after = after_last_convolutions(graph)
    ends = {name for node in graph.node if node.output[0] in after for name in node.input}
    images = {value.name for value in graph.input}
    return [
        node.name
        for node in graph.node
        if node.output[0] in after or (node.op_type == "Conv" and (node.output[0] in ends or node.input[0] in images))
    ]
