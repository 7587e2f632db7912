// Products of matrices that lie in tensors in any way, with an order of sums of our own.
#pragma once

#include "tensor.h"

namespace efpn {

// Element (i, j) lies at data[rows[i] + columns[j]].
template <class E>
struct Matrix {
  E* data;
  std::vector<int64_t> rows, columns;
};

// The offsets of the positions of a nest of loops, the last one innermost.
struct Axis {
  int64_t size, stride;
};
std::vector<int64_t> offsets(std::initializer_list<Axis> axes);

// c[i, j] = sum over k of a[i, k] b[j, k], accumulated in Acc of the types. The order of the sum
// depends on the length of k alone: runs of it in a register, added up one after the other.
// For A = B = C, and for one of them of less precision than the other two.
template <class A, class B, class C>
void multiply(const Matrix<const A>& a, const Matrix<const B>& b, const Matrix<C>& c);

}  // namespace efpn
