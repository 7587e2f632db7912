// Where a tensor is.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace efpn {

inline bool same_device(const torch::stable::Tensor& x, const torch::stable::Tensor& y) {
  int32_t x_type, y_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &x_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(y.get(), &y_type));
  return x_type == y_type && x.get_device_index() == y.get_device_index();
}

}  // namespace efpn
