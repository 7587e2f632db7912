// What the composed operators require of their arguments. functional.py says the same with the
// exceptions of Python; this is for whoever calls the operators in the dispatcher, where nothing
// else looks.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <string>
#include <vector>

#include "device.h"

EFPN_NAMESPACE_BEGIN

// Checks the arguments of one call against its first map.
class Arguments {
 public:
  Arguments(const char* op, const char* name, const Tensor& first)
      : op_(op), first_name_(name), first_(first), type_(first.scalar_type()) {
    dims(name, first);
    STD_TORCH_CHECK(type_ == ScalarType::Float || type_ == ScalarType::Double ||
                        type_ == ScalarType::BFloat16 || type_ == ScalarType::Half,
                    op_, ": ", name, ": expected float16, bfloat16, float32 or float64");
  }

  // The second map of the call: the images of the first, at least one pixel.
  void high(const char* name, const Tensor& x) const {
    dims(name, x);
    alike(name, x);
    STD_TORCH_CHECK(x.size(0) == first_.size(0), op_, ": ", name, ": expected the batch size of ",
                    first_name_, " (", first_.size(0), "), got ", x.size(0));
    STD_TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0, op_, ": ", name,
                    ": expected a height and width of at least 1, got shape ", shape_of(x));
  }

  void shape(const char* name, const Tensor& x, const std::vector<int64_t>& expected) const {
    const auto sizes = x.sizes();
    const bool fits = sizes.size() == expected.size() &&
                      std::equal(expected.begin(), expected.end(), sizes.begin());
    STD_TORCH_CHECK(fits, op_, ": ", name, ": expected shape ", text_of(expected), ", got ",
                    shape_of(x));
    alike(name, x);
  }

  std::string shape_of(const Tensor& x) const {
    const auto sizes = x.sizes();
    return text_of({sizes.begin(), sizes.end()});
  }

 private:
  static std::string text_of(const std::vector<int64_t>& sizes) {
    std::string text = "(";
    for (size_t i = 0; i < sizes.size(); ++i) {
      text += (i ? ", " : "") + std::to_string(sizes[i]);
    }
    return text + (sizes.size() == 1 ? ",)" : ")");
  }

  void dims(const char* name, const Tensor& x) const {
    STD_TORCH_CHECK(x.dim() == 4, op_, ": ", name,
                    ": expected 4 dimensions [N, C, H, W], got shape ", shape_of(x));
  }

  void alike(const char* name, const Tensor& x) const {
    STD_TORCH_CHECK(same_device(x, first_), op_, ": ", name, ": expected the device of ",
                    first_name_);
    STD_TORCH_CHECK(x.scalar_type() == type_, op_, ": ", name, ": expected the dtype of ",
                    first_name_);
  }

  const char *op_, *first_name_;
  const Tensor& first_;
  ScalarType type_;
};

EFPN_NAMESPACE_END
