// The operator for one version of torch, by its C++ interface.
#include "module.h"
#include "scaled_silu.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#ifdef WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define DEVICE CUDA
#else
#define DEVICE CPU
#endif

// The macros of torch do not expand the namespace that they are given.
#define LIBRARY(name, m) TORCH_LIBRARY(name, m)
#define LIBRARY_IMPL(name, device, m) TORCH_LIBRARY_IMPL(name, device, m)

namespace {

at::Tensor run(const at::Tensor &x, double scale) {
  TORCH_CHECK(x.scalar_type() == at::kFloat, "scaled_silu takes float32, got ", x.scalar_type());
  void *stream = nullptr;
#ifdef WITH_CUDA
  const c10::cuda::CUDAGuard guard(x.device());
  stream = c10::cuda::getCurrentCUDAStream().stream();
#endif
  const at::Tensor source = x.contiguous();
  at::Tensor y = at::empty_like(source);
  scaled_silu(source.const_data_ptr<float>(), y.mutable_data_ptr<float>(), y.numel(),
              static_cast<float>(scale), stream);
  return y;
}

} // namespace

LIBRARY(NAMESPACE, m) { m.def("scaled_silu(Tensor x, float scale) -> Tensor"); }

LIBRARY_IMPL(NAMESPACE, DEVICE, m) { m.impl("scaled_silu", &run); }
