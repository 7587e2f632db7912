// Gradients of parameters as autograd and DDP want them: the shape, the strides and the dtype of
// each parameter.
#pragma once

#include "aten.h"

EFPN_NAMESPACE_BEGIN

// Whether no two elements of x share memory and none is left out.
inline bool is_non_overlapping_and_dense(const Tensor& x) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  const auto sizes = x.sizes(), strides = x.strides();
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] != 1) dims.emplace_back(strides[i], sizes[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Collects gradients, and copies those together that come with other strides or in another dtype.
class ParameterGradients {
 public:
  // `dtype`: of all results; none: that of each parameter.
  explicit ParameterGradients(std::optional<ScalarType> dtype) : dtype_(dtype) {}

  // `grad` has the elements of `parameter`; of another shape, it is contiguous.
  void add(const Tensor& grad, const Tensor& parameter) {
    const auto sizes = to_vector(parameter.sizes());
    const Tensor shaped =
        grad.dim() == parameter.dim() ? grad : reinterpret(grad, sizes, contiguous_strides(sizes));
    const ScalarType type = dtype_.value_or(parameter.scalar_type());
    const bool keep_strides = is_non_overlapping_and_dense(parameter);
    if (keep_strides && shaped.scalar_type() == type && same_order(shaped, parameter)) {
      grads_.push_back(reinterpret(shaped, sizes, to_vector(parameter.strides())));
      return;
    }
    grads_.push_back(keep_strides
                         ? new_strided(parameter, sizes, to_vector(parameter.strides()), type)
                         : aten("aten::empty_like", parameter, std::optional<ScalarType>(type),
                                std::nullopt, std::nullopt, std::nullopt, std::nullopt));
    targets_.push_back(grads_.back());
    sources_.push_back(shaped);
  }

  // The gradients, in the order in which they were added.
  Tensors finish() {
    if (!targets_.empty()) {
      std::array<StableIValue, 3> stack{torch::stable::detail::from(targets_),
                                        torch::stable::detail::from(sources_),
                                        torch::stable::detail::from(false)};
      TORCH_ERROR_CODE_CHECK(
          torch_call_dispatcher("aten::_foreach_copy_", "", stack.data(), TORCH_ABI_VERSION));
    }
    return std::move(grads_);
  }

 private:
  // Whether both lie in memory in the same order.
  static bool same_order(const Tensor& a, const Tensor& b) {
    const auto sizes = a.sizes(), strides = a.strides(), others = b.strides();
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] != 1 && strides[i] != others[i]) return false;
    }
    return true;
  }

  std::optional<ScalarType> dtype_;
  Tensors grads_, targets_, sources_;
};

EFPN_NAMESPACE_END
