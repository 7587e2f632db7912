// The products of the high gate on a GPU; their contract is in efpn_kernels/ops/kernels.py.
#pragma once

#include "tensor.cuh"

namespace efpn {
namespace cuda {

// [N, h, w, 9, D] of p_high [N, C, h, w] and weight [D, C, 3, 3].
Tensor taps(const Tensor& p_high, const Tensor& weight);

// (grad_p_high, grad_weight) of grad_taps [N, h, w, 9, D].
std::tuple<Tensor, Tensor> taps_backward(const Tensor& grad_taps, const Tensor& p_high,
                                         const Tensor& weight);

}  // namespace cuda
}  // namespace efpn
