"""Kernels of a perceptron: the passes forward and backward through layers that lie in flat memory.

Scratch memory is taken from one array: a function gets the place `at` where free numbers begin, and returns the place
behind those that it keeps. Nothing is allocated. Matrix products are those of SciPy's BLAS.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils
from numba.extending import intrinsic

from decouple.compiled.functions import tanh
from decouple.compiled.kernel import kernel
from decouple.compiled.memory import (
    ACTIVATION,
    BIAS,
    ELU,
    INPUTS,
    LEAKY_RELU,
    LINEAR,
    OUTPUTS,
    RELU,
    SILU,
    TANH,
    WEIGHT,
)

__all__: list[str] = []  # kernels are called by learners and by each other

# Where vectors have 512 bits, OpenBLAS multiplies matrices of at most MOST_PRODUCTS products without packing them,
# and fastest where none is transposed. So a layer gets a batch in blocks that small, and backward turns the weight.
WIDE = bool(get_host_cpu_features().get("avx512f"))
MOST_PRODUCTS = 100**3
LEAST_BLOCK = 64  # rows; for fewer, what turning a weight takes is more than it saves
FEW_INPUTS = 16  # inputs of a layer up to which a loop is faster at its weight's gradient than BLAS


@intrinsic
def borrowed(typing_context, array):
    """The same array without an owner: its views are not counted.

    Counting takes an atomic instruction for each view, and up to a quarter of a small network's update. What calls the
    kernel holds the array.
    """

    def without_owner(context, builder, signature, arguments):
        (kind,) = signature.args
        found = context.make_array(kind)(context, builder, arguments[0])
        for name in ("meminfo", "parent"):
            setattr(found, name, cgutils.get_null_value(getattr(found, name).type))
        return found._getvalue()

    return array(array), without_owner


@kernel
def all_borrowed(agents, layers, slopes, rates, memory, rows, scratch, metrics):
    """The arrays of an update, as `borrowed` gives them."""
    return (
        borrowed(agents), borrowed(layers), borrowed(slopes), borrowed(rates), borrowed(memory), borrowed(rows),
        borrowed(scratch), borrowed(metrics),
    )  # fmt: skip


@kernel
def matrix(memory, at, rows, columns):
    """The numbers from `at` on as a matrix (rows, columns), a view."""
    return memory[at : at + rows * columns].reshape(rows, columns)


@kernel
def width(layers, row):
    """Numbers of scratch that a layer keeps for each row of the batch: its output, and silu's derivative."""
    return layers[row, OUTPUTS] * (2 if layers[row, ACTIVATION] == SILU else 1)


@kernel
def block_of(batch, inputs, outputs):
    """Rows of a batch that go through a layer at once; and whether their product is a small one."""
    rows = MOST_PRODUCTS // (inputs * outputs)
    if not WIDE or rows < LEAST_BLOCK or batch < LEAST_BLOCK:
        return batch, False
    return batch if rows >= batch else rows // 32 * 32, True


@kernel
def forward(layers, slopes, first, count, memory, shift, x, scratch, at):
    """Run `count` layers from row `first` on; each layer's output is kept, one after another, from `at` on.

    Args:
        layers, slopes: tables of `memory.Tables`.
        first, count: rows of the tables.
        memory, shift: the agents' numbers, and the distance of the copy that is run from the first copy.
        x: input (B, in), contiguous.
        scratch, at: memory for the outputs, and where it is free.

    Returns:
        The last output (B, out), or x without layers; and the place behind the outputs.
    """
    batch = x.shape[0]
    for row in range(first, first + count):
        inputs, outputs = layers[row, INPUTS], layers[row, OUTPUTS]
        y, weight = matrix(scratch, at, batch, outputs), matrix(memory, layers[row, WEIGHT] + shift, inputs, outputs)
        bias = memory[layers[row, BIAS] + shift : layers[row, BIAS] + shift + outputs]
        rows, _ = block_of(batch, inputs, outputs)
        for i in range(0, batch, rows):
            block = y[i : i + rows]
            np.dot(x[i : i + rows], weight, block)
            activate(block, bias, layers[row, ACTIVATION], slopes[row], scratch, at + (batch + i) * outputs)
        at += batch * width(layers, row)
        x = y
    return x, at


@kernel
def activate(y, bias, kind, slope, scratch, at):
    """y <- f(y + bias), in place; silu's derivative goes to the scratch at `at`."""
    batch, outputs = y.shape
    zero, one = y.dtype.type(0), y.dtype.type(1)
    if kind == RELU:
        for i in range(batch):
            for j in range(outputs):
                z = y[i, j] + bias[j]
                y[i, j] = zero if z < zero else z
    elif kind == TANH:
        for i in range(batch):
            for j in range(outputs):
                y[i, j] = tanh(y[i, j] + bias[j])
    elif kind == LINEAR and outputs == 1:
        flat, shift = y.reshape(batch), bias[0]
        for i in range(batch):
            flat[i] += shift
    elif kind == LINEAR:
        for i in range(batch):
            for j in range(outputs):
                y[i, j] += bias[j]
    elif kind == LEAKY_RELU:
        by = y.dtype.type(slope)
        for i in range(batch):
            for j in range(outputs):
                z = y[i, j] + bias[j]
                y[i, j] = z * by if z < zero else z
    elif kind == ELU:
        by = y.dtype.type(slope)
        for i in range(batch):
            for j in range(outputs):
                z = y[i, j] + bias[j]
                y[i, j] = by * y.dtype.type(math.expm1(z)) if z < zero else z
    elif kind == SILU:
        half = y.dtype.type(0.5)
        derivative = matrix(scratch, at, batch, outputs)
        for i in range(batch):
            for j in range(outputs):
                z = y[i, j] + bias[j]
                sigmoid = half + half * tanh(half * z)
                y[i, j] = z * sigmoid
                derivative[i, j] = sigmoid * (one + z * (one - sigmoid))


@kernel
def backward(layers, slopes, first, count, memory, shift, gradient, x, begin, dy, scratch, at, of_parameters, of_input):
    """Pull a gradient back through layers that `forward` has run.

    Args:
        layers, slopes, first, count, memory, shift: as for `forward`.
        gradient: distance of the copy for the parameters' gradient, which is overwritten.
        x, begin: input of the pass (B, in), and the place from which it kept its outputs.
        dy: gradient of the output (B, out), which is overwritten.
        scratch, at: memory for gradients, and where it is free.
        of_parameters, of_input: which gradients are asked for.

    Returns:
        The gradient of x (B, in), if asked for, else of the first layer's output; and the place behind it.
    """
    batch = x.shape[0]
    for row in range(first, first + count):
        begin += batch * width(layers, row)
    for row in range(first + count - 1, first - 1, -1):
        begin -= batch * width(layers, row)
        inputs, outputs = layers[row, INPUTS], layers[row, OUTPUTS]
        y, weight = matrix(scratch, begin, batch, outputs), matrix(memory, layers[row, WEIGHT] + shift, inputs, outputs)
        below = x
        if row > first:
            below = matrix(scratch, begin - batch * width(layers, row - 1), batch, inputs)
        further = row > first or of_input
        dx = dy
        if further:
            dx = matrix(scratch, at, batch, inputs)
            at += batch * inputs
        dw = matrix(memory, layers[row, WEIGHT] + gradient, inputs, outputs)
        of_bias = memory[layers[row, BIAS] + gradient : layers[row, BIAS] + gradient + outputs]
        part, turned = matrix(scratch, at, inputs, outputs), matrix(scratch, at + inputs * outputs, outputs, inputs)
        rows, small = block_of(batch, inputs, outputs)
        if further and small and outputs > 1:
            turn(weight, turned)
        for i in range(0, batch, rows):
            block = dy[i : i + rows]
            place = begin + (batch + i) * outputs
            slope_of(block, y[i : i + rows], layers[row, ACTIVATION], slopes[row], scratch, place)
            if of_parameters:
                if i == 0:
                    of_bias[:] = 0
                if inputs <= FEW_INPUTS:
                    if i == 0:
                        dw[:] = 0
                    add_products(below[i : i + rows], block, dw)
                else:
                    np.dot(below[i : i + rows].T, block, dw if i == 0 else part)
                    if i > 0:
                        add(dw, part, dw.dtype.type(1))
                sum_rows(block, of_bias)
            if further and outputs == 1:
                outer(block, weight, dx[i : i + rows])
            elif further and small:
                np.dot(block, turned, dx[i : i + rows])
            elif further:
                np.dot(block, weight.T, dx)
        dy = dx
    return dy, at


@kernel
def add_products(x, dy, out):
    """out <- out + x transposed times dy, for an x of few columns, which BLAS is slow at."""
    rows, columns = x.shape
    fours = rows // 4 * 4
    for i in range(0, fours, 4):
        for k in range(columns):
            a, b, c, d = x[i, k], x[i + 1, k], x[i + 2, k], x[i + 3, k]
            for j in range(dy.shape[1]):
                out[k, j] += (a * dy[i, j] + b * dy[i + 1, j]) + (c * dy[i + 2, j] + d * dy[i + 3, j])
    for i in range(fours, rows):
        for k in range(columns):
            for j in range(dy.shape[1]):
                out[k, j] += x[i, k] * dy[i, j]


@kernel
def outer(x, y, out):
    """out <- x times y transposed, of two columns (B, 1) and (n, 1)."""
    x, y = x.reshape(len(x)), y.reshape(len(y))
    for i in range(len(x)):
        for j in range(len(y)):
            out[i, j] = x[i] * y[j]


@kernel
def turn(x, out):
    """out <- x transposed."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[j, i] = x[i, j]


@kernel
def add(to, x, by):
    """to <- to + by x, matrices."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            to[i, j] += by * x[i, j]


@kernel
def sum_rows(x, out):
    """out <- out + the sum of the rows of x."""
    rows, columns = x.shape
    if columns == 1:
        flat, total = x.reshape(rows), out.dtype.type(0)
        for i in range(rows):
            total += flat[i]
        out[0] += total
        return
    fours = rows // 4 * 4
    for i in range(0, fours, 4):
        for j in range(columns):
            out[j] += (x[i, j] + x[i + 1, j]) + (x[i + 2, j] + x[i + 3, j])
    for i in range(fours, rows):
        for j in range(columns):
            out[j] += x[i, j]


@kernel
def slope_of(dy, y, kind, slope, scratch, at):
    """dy <- dy f'(z), in place, where y = f(z)."""
    batch, outputs = y.shape
    zero, one = y.dtype.type(0), y.dtype.type(1)
    if kind == RELU:
        for i in range(batch):
            for j in range(outputs):
                dy[i, j] = dy[i, j] if y[i, j] > zero else zero
    elif kind == TANH:
        for i in range(batch):
            for j in range(outputs):
                dy[i, j] *= one - y[i, j] * y[i, j]
    elif kind == LEAKY_RELU:
        by = y.dtype.type(slope)
        for i in range(batch):
            for j in range(outputs):
                dy[i, j] = dy[i, j] if y[i, j] > zero else dy[i, j] * by
    elif kind == ELU:
        by = y.dtype.type(slope)
        for i in range(batch):
            for j in range(outputs):
                dy[i, j] = dy[i, j] if y[i, j] > zero else dy[i, j] * (y[i, j] + by)
    elif kind == SILU:
        derivative = matrix(scratch, at, batch, outputs)
        for i in range(batch):
            for j in range(outputs):
                dy[i, j] *= derivative[i, j]
