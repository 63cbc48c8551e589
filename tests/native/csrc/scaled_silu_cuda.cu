#include "scaled_silu.h"

#include <cuda_runtime.h>

namespace {

__global__ void kernel(const float *x, float *y, int64_t n, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    y[i] = scale * x[i] / (1.0f + expf(-x[i]));
  }
}

} // namespace

void scaled_silu(const float *x, float *y, int64_t n, float scale, void *stream) {
  constexpr int threads = 256;
  const int64_t wanted = (n + threads - 1) / threads;
  const int blocks = static_cast<int>(wanted < 65535 ? wanted : 65535);
  if (blocks > 0) {
    kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(x, y, n, scale);
  }
}
