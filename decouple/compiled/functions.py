"""Functions of one number as arithmetic alone, so that a loop over them becomes vector code.

    y[i] = tanh(x[i])                # in a kernel; exp, softplus and log_of_normal likewise

LLVM does not vectorise a loop that calls the C library. `tanh`, `exp` and `softplus` are within a few units in the last
place in float32; in float64 they are the C library's, which the tests against PyTorch need. Infinities and NaN come out
as there.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

__all__: list[str] = []  # called in kernels

# Multiplications and additions may be fused, and are otherwise computed in the order written.
EXACT = {"fastmath": {"contract"}}

# tanh(x) = x P(x^2) / Q(x^2) on [-7.9988, 7.9988], to a few units in the last place of float32; the coefficients are
# those of Eigen's ptanh_float (https://gitlab.com/libeigen/eigen, MPL 2.0), found by a minimax fit.
LARGEST = 7.99881172180175781
P1, P3, P5, P7 = 4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08
P9, P11, P13 = -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16
Q0, Q2, Q4, Q6 = 4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06

# exp(x) = 2^n exp(r), n = round(x / log 2), with r = x - n log 2 in two steps and a polynomial of r (Cephes' expf).
LOG2_E, LOG2_HIGH, LOG2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
E2, E3, E4 = 5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2
E5, E6, E7 = 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4
LEAST_EXPONENT, LARGEST_EXPONENT = -104.0, 89.0  # beyond, exp is 0 and infinite in float32

# log(1 + t) = 2 s A(s^2), s = t / (2 + t), for t in [0, 1]; A is fitted at Chebyshev's nodes, to 4e-9.
A0, A1, A2 = 1.0000000039388741, 0.3333315796754082, 0.20012426861724555
A3, A4 = 0.13980709417497045, 0.14087328631271276

# log(2^n m) in float64 = n log 2 + log m, m in [sqrt 1/2, sqrt 2): the numbers of fdlibm's e_log.c (Sun, 1993).
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
L1, L2, L3, L4 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01
L5, L6, L7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01
MANTISSA, HIDDEN_ONE, TO_HALF = 0x000FFFFFFFFFFFFF, 0x3FF0000000000000, 0x00095F6400000000
EXPONENT_UNIT, AS_FLOAT = 0x0010000000000000, 0x4330000000000000  # 2^52, as an integer and as a float's bits


def tanh(x):
    """The hyperbolic tangent."""
    raise NotImplementedError("for kernels")


def exp(x):
    """The exponential function."""
    raise NotImplementedError("for kernels")


def softplus(x):
    """log(1 + exp(x)), which is x from 20 on, as in PyTorch."""
    raise NotImplementedError("for kernels")


def _in_64_bits(x) -> bool:
    return isinstance(x, types.Float) and x.bitwidth == 64


@overload(tanh, jit_options=EXACT)
def _tanh(x):
    if _in_64_bits(x):
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


@overload(exp, jit_options=EXACT)
def _exp(x):
    return (lambda x: math.exp(x)) if _in_64_bits(x) else exp_in_32_bits


@register_jitable(**EXACT)
def exp_in_32_bits(x):
    one = np.float32
    y = one(LEAST_EXPONENT) if x < one(LEAST_EXPONENT) else x
    y = one(LARGEST_EXPONENT) if y > one(LARGEST_EXPONENT) else y
    number = np.floor(y * one(LOG2_E) + one(0.5))
    r = (y - number * one(LOG2_HIGH)) - number * one(LOG2_LOW)
    p = ((((one(E7) * r + one(E6)) * r + one(E5)) * r + one(E4)) * r + one(E3)) * r + one(E2)
    p = p * r * r + r + one(1)
    whole = np.int32(number)  # of any bits where x is NaN, as p is then
    half = np.int32(whole >> np.int32(1))
    return p * power_of_two(half) * power_of_two(np.int32(whole - half))  # in two steps, for results below 2^-126


@register_jitable
def power_of_two(number):
    """2^number in float32, for a number in [-126, 127]."""
    return np.int32((number + np.int32(127)) << np.int32(23)).view(np.float32)


@overload(softplus, jit_options=EXACT)
def _softplus(x):
    if _in_64_bits(x):
        return lambda x: x if x > 20.0 else math.log1p(math.exp(x))

    def by_arithmetic(x):
        one = np.float32
        positive = x if x > one(0) else one(0)
        t = exp_in_32_bits(-x if x > one(0) else x)
        s = t / (one(2) + t)
        z = s * s
        return positive + one(2) * s * ((((one(A4) * z + one(A3)) * z + one(A2)) * z + one(A1)) * z + one(A0))

    return by_arithmetic


@register_jitable(**EXACT)
def log_of_normal(x):
    """The logarithm of a positive normal number, float64; of others it is arbitrary."""
    bits = np.float64(x).view(np.int64)
    up = ((bits & np.int64(MANTISSA)) + np.int64(TO_HALF)) & np.int64(
        EXPONENT_UNIT
    )  # set for a mantissa from sqrt 2 on
    m = np.int64((bits & np.int64(MANTISSA)) | (up ^ np.int64(HIDDEN_ONE))).view(np.float64)
    exponent = (bits >> np.int64(52)) + (up >> np.int64(52))  # in [0, 2047]
    number = np.int64(exponent | np.int64(AS_FLOAT)).view(np.float64) - (EXPONENT_UNIT + 1023.0)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * (L1 + w * (L3 + w * (L5 + w * L7))) + w * (L2 + w * (L4 + w * L6))
    half = 0.5 * f * f
    return number * LN2_HIGH - ((half - (s * (half + r) + number * LN2_LOW)) - f)
