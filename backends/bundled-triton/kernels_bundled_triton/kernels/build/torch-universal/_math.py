"""Mathematical functions of the kernels."""

import triton
import triton.language as tl


@triton.jit
def wide(x):
    """Convert values to the dtype of computations: float32, or float64 for float64."""
    if x.dtype == tl.float64:
        return x
    else:  # noqa: RET505 # Triton compiles one branch only
        return x.to(tl.float32)


@triton.jit
def exp(x):
    """The exponential, as accurate as torch's: Triton's is worse in float32 for large `x`."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:  # noqa: RET505 # as above
        # Beyond these bounds the result is 0 or infinity; within, no intermediate value is.
        x = tl.maximum(x, -200.0, propagate_nan=tl.PropagateNan.ALL)
        x = tl.minimum(x, 200.0, propagate_nan=tl.PropagateNan.ALL)
        power = x * 1.4426950216293335  # log2(e) in float32; the next line has the rest
        lost = tl.fma(x, 1.4426950216293335, -power) + x * 1.925963033500e-08
        return tl.exp2(power) * (1 + lost * 0.6931471805599453)


@triton.jit
def sigmoid(x):
    """The logistic function, and 1 minus it, neither by a difference of almost equal numbers."""
    small = exp(-tl.abs(x))
    large_part = 1 / (1 + small)
    small_part = small * large_part
    return tl.where(x < 0, small_part, large_part), tl.where(x < 0, large_part, small_part)
