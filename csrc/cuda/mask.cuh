// A mask of Eq. 5 is a gate [N, 1, H, W] (accumulation dtype) or a map [N, C, H, W]: which, and its values.
#pragma once

#include "map.cuh"

namespace efpn {
namespace cuda {

// With as few as one channel, the dtype tells a gate from a map: where both agree, so do the results.
inline bool is_gate(const Tensor& mask, ScalarType type) {
  return mask.size(1) == 1 && mask.scalar_type() == accumulate_type(type);
}

// The mask at a vector of the map: gate values, or an element each.
template <bool channels_last, bool gate, int V, class T>
__device__ __forceinline__ Vec<Acc<T>, V> mask_at(const void* mask, const At& at, int64_t P) {
  if constexpr (gate) {
    return gate_at<channels_last, V>(static_cast<const Acc<T>*>(mask), at, P);
  } else {
    return load<V>(static_cast<const T*>(mask) + at.offset);
  }
}

}  // namespace cuda
}  // namespace efpn
