// The products of the high gate, Eq. 6 commuted (csrc/derivation.md): nine 1x1 convolutions at the
// low resolution as one product, and its two adjoints.
//
// For 25 x 25 pixels and C = D = 256: 0.74 GFLOP each, 5 ms at a core's 150 GFLOP/s. Bytes: p_high
// and the weights once, 3 MB; taps or their gradient, 5.8 MB.
#include "tensor.h"

#include "product.h"

namespace efpn {
namespace {

// A map as a matrix [pixels, C] of any strides.
template <class E>
Matrix<E> pixels(const Tensor& map, E* data) {
  return {data,
          offsets({{map.size(0), map.stride(0)},
                   {map.size(2), map.stride(2)},
                   {map.size(3), map.stride(3)}}),
          offsets({{map.size(1), map.stride(1)}})};
}

// A weight [D, C, 3, 3] as a matrix [9 D, C] of any strides.
template <class E>
Matrix<E> tap_rows(const Tensor& weight, E* data) {
  return {
      data,
      offsets({{3, weight.stride(2)}, {3, weight.stride(3)}, {weight.size(0), weight.stride(0)}}),
      offsets({{weight.size(1), weight.stride(1)}})};
}

template <class E>
Matrix<E> dense(E* data, int64_t rows, int64_t columns) {
  return {data, offsets({{rows, columns}}), offsets({{columns, 1}})};
}

template <class E>
Matrix<E> transposed(Matrix<E> m) {
  std::swap(m.rows, m.columns);
  return m;
}

// to[i, c] = from[i, c] for the rows [9, D] of weights; those of one d lie close together.
template <class E>
void copy_rows(const Matrix<const E>& from, const Matrix<E>& to) {
  const int64_t D = from.rows.size() / 9, C = from.columns.size();
  parallel(D, kWorkOfElement * 9 * C, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      for (int64_t i = d; i < 9 * D; i += D) {
        const E* source = from.data + from.rows[i];
        E* target = to.data + to.rows[i];
        for (int64_t c = 0; c < C; ++c) target[to.columns[c]] = source[from.columns[c]];
      }
    }
  });
}

// The weight's matrix with C innermost; `copy` holds it where the weight is of another order, whose
// elements are too far apart to be gathered for each product.
template <class S>
Matrix<const S> weight_matrix(const Tensor& weight, Tensor& copy) {
  const Matrix<const S> matrix = tap_rows(weight, data<S>(weight));
  if (weight.stride(1) == 1) return matrix;
  const int64_t rows = 9 * weight.size(0), C = weight.size(1);
  copy = empty({rows, C}, weight.scalar_type());
  copy_rows(matrix, dense(mutable_data<S>(copy), rows, C));
  return dense(data<S>(copy), rows, C);
}

}  // namespace

Tensor taps(const Tensor& p_high, const Tensor& weight) {
  const ScalarType type = p_high.scalar_type();
  const int64_t D = weight.size(0);
  const Tensor out =
      empty({p_high.size(0), p_high.size(2), p_high.size(3), 9, D}, accumulate_type(type));
  dispatch(type, "taps", [&](auto zero) {
    using S = decltype(zero);
    Tensor copy;
    const Matrix<const S> a = pixels(p_high, data<S>(p_high));
    multiply(a, weight_matrix<S>(weight, copy),
             dense(mutable_data<Acc<S>>(out), a.rows.size(), 9 * D));
  });
  return out;
}

std::tuple<Tensor, Tensor> taps_backward(const Tensor& grad_taps, const Tensor& p_high,
                                         const Tensor& weight) {
  const ScalarType type = p_high.scalar_type(), acc = accumulate_type(type);
  const int64_t D = weight.size(0), C = weight.size(1);
  const Tensor grad_p_high = empty_map_like(p_high);
  const Tensor grad_weight = empty({D, C, 3, 3}, acc, !weight.is_contiguous());
  dispatch(type, "taps_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    Tensor copy;
    const Matrix<const S> values = pixels(p_high, data<S>(p_high));
    const Matrix<const A> grad = dense(data<A>(grad_taps), values.rows.size(), 9 * D);
    multiply(grad, transposed(weight_matrix<S>(weight, copy)),
             pixels(grad_p_high, mutable_data<S>(grad_p_high)));

    const Matrix<A> result = tap_rows(grad_weight, mutable_data<A>(grad_weight));
    if (grad_weight.stride(1) == 1) {
      return multiply(transposed(grad), transposed(values), result);
    }
    const Tensor product = empty({9 * D, C}, acc);
    multiply(transposed(grad), transposed(values), dense(mutable_data<A>(product), 9 * D, C));
    copy_rows(dense(data<A>(product), 9 * D, C), result);
  });
  return {grad_p_high, grad_weight};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("taps", TORCH_BOX(&efpn::taps));
  m.impl("taps_backward", TORCH_BOX(&efpn::taps_backward));
}
