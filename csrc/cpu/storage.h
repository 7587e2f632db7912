// Element types of the feature maps and the type that each is accumulated in.
#pragma once

#include <cstdint>
#include <cstring>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#include <type_traits>

namespace efpn {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

// float16, bfloat16 and float32 accumulate in float32, float64 in float64.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace efpn
