"""What TensorFlow would do on the host though a graph is placed on a GPU.

By the kernels that its packages for Linux register, with a GPU or without.
"""

import functools

import tensorflow as tf
from tensorflow.python.framework import kernels

_MOST_ON_HOST = 64  # numbers of a tensor that is a shape, an axis or a place
_LOOPS = ("While", "StatelessWhile", "If", "StatelessIf")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_ANYWHERE = (*_CALLS, "Placeholder", "Const", "NoOp")


@functools.cache
def gpu_kernels(operation):
    """Kernels for GPUs that TensorFlow's Linux packages register, GPU or none."""
    every = kernels.get_registered_kernels_for_op(operation).kernel
    return [kernel for kernel in every if kernel.device_type in ("GPU", "DEFAULT")]


def gpu_kernel(operation):
    """The first kernel of an operation whose constraints on types are met."""

    def allows(kernel):
        for constraint in kernel.constraint:
            allowed = constraint.allowed_values.list.type
            value = operation.get_attr(constraint.name)
            values = value if isinstance(value, list) else [value]
            if allowed and any(one.as_datatype_enum not in allowed for one in values):
                return False
        return True

    return next(filter(allows, gpu_kernels(operation.type)), None)


def inputs_of(operation, names):
    """The tensors of the arguments with these names."""
    definition = operation.op_def
    first = 0
    for argument in definition.input_arg:
        count = 1
        if argument.number_attr:
            count = operation.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(operation.get_attr(argument.type_list_attr))
        if argument.name in names:
            yield from operation.inputs[first : first + count]
        first += count


def graphs_below(graph):
    """A graph and those of the loops and branches in it."""
    yield graph
    for operation in graph.get_operations():
        if operation.type not in (*_LOOPS, *_CALLS):
            continue
        for name in ("cond", "body", "then_branch", "else_branch", "f"):
            if name in operation.node_def.attr:
                function = operation.node_def.attr[name].func.name
                yield from graphs_below(graph._get_function(function).graph)


def is_large(tensor):
    return not tensor.shape.is_fully_defined() or (
        tensor.shape.num_elements() > _MOST_ON_HOST
    )


def work_on_host(graph):
    """What TensorFlow would do on the host though the graph is placed on a GPU."""
    for below in graphs_below(graph):
        for operation in below.get_operations():
            if operation.type in (*_LOOPS, *_ANYWHERE):
                # Loops and branches have int32 tensors on the host.
                for tensor in operation.inputs if operation.type in _LOOPS else ():
                    if tensor.dtype == tf.int32 and is_large(tensor):
                        yield f"{operation.type} of {tensor}"
                continue
            kernel = gpu_kernel(operation)
            if kernel is None:
                yield f"no kernel for GPUs: {operation.type} of {operation.inputs}"
                continue
            for tensor in inputs_of(operation, kernel.host_memory_arg):
                if tensor.dtype.is_integer and is_large(tensor):
                    yield f"{operation.type} of {tensor}"
