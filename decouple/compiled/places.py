"""Arrays that a kernel finds by their addresses, where functions of one signature have different arrays.

state = carray(pointer(places[1]), (2, places[0]), np.float64)       # in a kernel, by numba.carray
places = np.array([games, *addresses(state, facts)])     # outside, by `playing.addresses`; the caller holds both
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

__all__: list[str] = []  # called in kernels


@intrinsic
def pointer(typing_context, address):
    """The address of an array's numbers, int64, as a pointer."""

    def as_pointer(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), as_pointer
