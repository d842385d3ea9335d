"""Kernels of a perceptron: the passes forward and backward through layers that lie in flat memory.

Scratch memory is taken from one array: a function gets the place `at` where free numbers begin, and returns the place
behind those that it keeps. Nothing is allocated. Matrix products are those of SciPy's BLAS.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

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

# tanh(x) = x P(x^2) / Q(x^2) on [-7.9988, 7.9988], to a few units in the last place of float32; the coefficients are
# those of Eigen's ptanh_float (https://gitlab.com/libeigen/eigen, MPL 2.0), found by a minimax fit.
LARGEST = 7.99881172180175781
P1, P3, P5, P7 = 4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08
P9, P11, P13 = -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16
Q0, Q2, Q4, Q6 = 4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06


def tanh(x):
    """tanh in a kernel: by arithmetic alone in float32, so that a loop over it becomes vector code."""
    raise NotImplementedError("for kernels")


@overload(tanh)
def _tanh(x):
    if isinstance(x, types.Float) and x.bitwidth == 64:
        return lambda x: math.tanh(x)
    one = np.float32
    largest = one(LARGEST)
    p1, p3, p5, p7, p9, p11, p13 = (one(each) for each in (P1, P3, P5, P7, P9, P11, P13))
    q0, q2, q4, q6 = (one(each) for each in (Q0, Q2, Q4, Q6))

    def by_quotient(x):
        # Comparisons let NaN through, as tanh does.
        y = largest if x > largest else x
        y = -largest if y < -largest else y
        z = y * y
        p = ((((((p13 * z + p11) * z + p9) * z + p7) * z + p5) * z + p3) * z + p1) * y
        return p / (((q6 * z + q4) * z + q2) * z + q0)

    return by_quotient


@kernel
def matrix(memory, at, rows, columns):
    """The numbers from `at` on as a matrix (rows, columns), a view."""
    return memory[at : at + rows * columns].reshape(rows, columns)


@kernel
def width(layers, row):
    """Numbers of scratch that a layer keeps for each row of the batch: its output, and silu's derivative."""
    return layers[row, OUTPUTS] * (2 if layers[row, ACTIVATION] == SILU else 1)


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
        y = matrix(scratch, at, batch, outputs)
        np.dot(x, matrix(memory, layers[row, WEIGHT] + shift, inputs, outputs), y)
        bias = layers[row, BIAS] + shift
        activate(y, memory[bias : bias + outputs], layers[row, ACTIVATION], slopes[row], scratch, at + batch * outputs)
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
        y = matrix(scratch, begin, batch, outputs)
        slope_of(dy, y, layers[row, ACTIVATION], slopes[row], scratch, begin + batch * outputs)
        below = x
        if row > first:
            below = matrix(scratch, begin - batch * width(layers, row - 1), batch, inputs)
        if of_parameters:
            np.dot(below.T, dy, matrix(memory, layers[row, WEIGHT] + gradient, inputs, outputs))
            bias = layers[row, BIAS] + gradient
            sum_rows(dy, memory[bias : bias + outputs])
        if row > first or of_input:
            dx = matrix(scratch, at, batch, inputs)
            np.dot(dy, matrix(memory, layers[row, WEIGHT] + shift, inputs, outputs).T, dx)
            at += batch * inputs
            dy = dx
    return dy, at


@kernel
def sum_rows(x, out):
    """out <- the sum of the rows of x."""
    out[:] = 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
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
