// Checks of arguments that both libraries make.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "device.h"

namespace efpn {

// DCLoss has no composed operator around it: whoever calls it in the dispatcher comes to the kernel
// unchecked, and what is read as another type or size than it has is read beyond its end.
inline void on_device_of_pred(const char* name, const torch::stable::Tensor& x,
                              const torch::stable::Tensor& pred) {
  STD_TORCH_CHECK(same_device(x, pred), "dc_loss: ", name, ": expected the device of pred");
}

inline bool same_shape(const torch::stable::Tensor& x, const torch::stable::Tensor& y) {
  const auto a = x.sizes(), b = y.sizes();  // torch 2.11 cannot compare them
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

inline void like_pred(const char* name, const torch::stable::Tensor& x,
                      const torch::stable::Tensor& pred) {
  on_device_of_pred(name, x, pred);
  STD_TORCH_CHECK(x.scalar_type() == pred.scalar_type(), "dc_loss: ", name,
                  ": expected the dtype of pred, got another; convert one of them");
  STD_TORCH_CHECK(same_shape(x, pred), "dc_loss: ", name, ": expected the shape of pred, with ",
                  pred.numel(), " elements, got another, with ", x.numel(), "; expand it");
}

inline void scalar_parameter(const char* name, const torch::stable::Tensor& x,
                             const torch::stable::Tensor& pred) {
  on_device_of_pred(name, x, pred);
  STD_TORCH_CHECK(x.numel() == 1, "dc_loss: ", name, ": expected one element, got ", x.numel());
}

inline void known_form(int64_t form) {
  STD_TORCH_CHECK(form == 0 || form == 1, "dc_loss: form: expected 0 (equation) or 1 (text), got ",
                  form);
}

// Any strides are welcome: an exported program is called with others than it was exported with.
inline torch::stable::Tensor dense(const torch::stable::Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

}  // namespace efpn
