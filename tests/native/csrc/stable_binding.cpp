// The operator for every version of torch from one on, by its stable ABI.
#include "module.h"
#include "scaled_silu.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#if defined(__x86_64__) && defined(__linux__)
// Headers of torch 2.15 call dlsym, which glibc 2.34 gave a new version and changed in nothing.
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#endif

#ifdef WITH_CUDA
#define DEVICE CUDA
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void **stream);
#else
#define DEVICE CPU
#endif

// The macros of torch do not expand the namespace that they are given.
#define LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)
#define LIBRARY_IMPL(name, device, m) STABLE_TORCH_LIBRARY_IMPL(name, device, m)

namespace {

using torch::stable::Tensor;

Tensor run(Tensor x, double scale) {
  STD_TORCH_CHECK(x.scalar_type() == torch::headeronly::ScalarType::Float,
                  "scaled_silu takes float32");
  STD_TORCH_CHECK(x.is_contiguous(), "scaled_silu takes contiguous tensors");
  void *stream = nullptr;
#ifdef WITH_CUDA
  const torch::stable::accelerator::DeviceGuard guard(x.get_device());
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(x.get_device(), &stream) == 0,
                  "scaled_silu found no stream");
#endif
  Tensor y = torch::stable::empty_like(x);
  scaled_silu(static_cast<const float *>(x.data_ptr()), static_cast<float *>(y.data_ptr()),
              x.numel(), static_cast<float>(scale), stream);
  return y;
}

} // namespace

LIBRARY(NAMESPACE, m) { m.def("scaled_silu(Tensor x, float scale) -> Tensor"); }

LIBRARY_IMPL(NAMESPACE, DEVICE, m) { m.impl("scaled_silu", TORCH_BOX(&run)); }
