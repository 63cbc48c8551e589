// The computation, apart from how torch calls it.
#pragma once

#include <cstdint>

// y = scale * x * sigmoid(x), for n elements. On a GPU: on the given stream.
void scaled_silu(const float *x, float *y, int64_t n, float scale, void *stream);
