// Checks of arguments that both libraries make.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace efpn {

// DCLoss has no composed operator around it: whoever calls it in the dispatcher comes to the kernel unchecked,
// and what is read as another type than it has is read beyond its end.
inline void same_type(const char* name, const torch::stable::Tensor& x,
                      torch::headeronly::ScalarType type) {
  STD_TORCH_CHECK(x.scalar_type() == type, "dc_loss: ", name, ": expected the dtype of pred");
}

}  // namespace efpn
