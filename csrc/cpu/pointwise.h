// 1x1 convolutions of maps with what stands around them, float32: the products of a gate per
// channel.
#pragma once

#include "winograd.h"

namespace efpn {

// out = conv1x1(in, weight), parallel over strips of pixels. The strides of the weight's taps do
// not count, and `out` has no border.
void pointwise_convolve(const WinogradInput& in, const WinogradWeight& weight,
                        const WinogradOutput& out);

// The gradient of the weight of conv1x1(in, weight) for the output's gradient dy, written to `grad`
// by the strides of `weight`; bias[dy.C] is the sum of dy over images and pixels.
void pointwise_weight_gradient(const WinogradInput& in, const WinogradInput& dy,
                               const WinogradWeight& weight, float* grad, float* bias);

}  // namespace efpn
