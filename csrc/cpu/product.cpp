// Products of matrices on the CPU whose bits do not depend on the number of threads.
//
// For the high gate at 25 x 25 pixels and 256 channels, 0.74 GFLOP each: one operand is packed
// whole into panels of columns, 2.4 MB of weights; the other block by block, in the second-level
// cache. A task is a block of the result with all of its sum, so threads share results and never
// sums.
#include "product.h"

namespace efpn {

// The register blocking of an instruction set, and the run of a sum in a register.
struct ProductBlocking {
  int64_t rows, columns, run;
};

}  // namespace efpn

#define EFPN_KERNELS "product_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// A block of the result with what it reads of a fits the second-level cache.
constexpr int64_t kBlockPanels = 8, kBlockColumns = 256;

template <class A>
Tensor scratch(int64_t elements) {
  return empty({elements}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float);
}

}  // namespace

std::vector<int64_t> offsets(std::initializer_list<Axis> axes) {
  std::vector<int64_t> result{0};
  for (const Axis& axis : axes) {
    std::vector<int64_t> longer;
    longer.reserve(result.size() * axis.size);
    for (const int64_t start : result) {
      for (int64_t i = 0; i < axis.size; ++i) longer.push_back(start + i * axis.stride);
    }
    result = std::move(longer);
  }
  return result;
}

template <class EA, class EB, class EC>
void multiply(const Matrix<const EA>& a, const Matrix<const EB>& b, const Matrix<EC>& c) {
  using A = Acc<EA>;
  static_assert(std::is_same_v<A, Acc<EB>> && std::is_same_v<A, Acc<EC>>);
  const int64_t rows = a.rows.size(), columns = b.rows.size(), depth = a.columns.size();
  if (rows == 0 || columns == 0) return;
  const ProductBlocking block = EFPN_CALL(product_blocking<A>);
  const int64_t panels = ceil_div(columns, block.columns);
  const Tensor packed = scratch<A>(panels * block.columns * depth);
  const int64_t panel_size = block.columns * depth;
  parallel(panels, 8 * panel_size, [&](int64_t begin, int64_t end) {
    EFPN_CALL(pack_panels, b, begin, end, mutable_data<A>(packed));
  });

  // Smaller blocks where there would be too few for the threads: no sum is divided.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t across = ceil_div(columns, kBlockColumns);
  int64_t block_rows = kBlockPanels * block.rows;
  while (block_rows > block.rows && ceil_div(rows, block_rows) * across < 4 * threads) {
    block_rows = ceil_div(block_rows / block.rows, 2) * block.rows;
  }
  const int64_t work = block_rows * std::min(columns, kBlockColumns) * depth;
  parallel(ceil_div(rows, block_rows) * across, work, [&](int64_t begin, int64_t end) {
    const Tensor own = scratch<A>(block_rows * (block.run + kBlockColumns));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / across * block_rows, column = task % across * kBlockColumns;
      EFPN_CALL(product_block, a, data<A>(packed), c, row, std::min(row + block_rows, rows), column,
                std::min(column + kBlockColumns, columns), mutable_data<A>(own));
    }
  });
}

#define EFPN_MULTIPLY(A, B, C) \
  template void multiply(const Matrix<const A>&, const Matrix<const B>&, const Matrix<C>&);
EFPN_MULTIPLY(float, float, float)
EFPN_MULTIPLY(double, double, double)
EFPN_MULTIPLY(BFloat16, BFloat16, float)
EFPN_MULTIPLY(Half, Half, float)
EFPN_MULTIPLY(float, BFloat16, float)
EFPN_MULTIPLY(float, Half, float)
EFPN_MULTIPLY(float, BFloat16, BFloat16)
EFPN_MULTIPLY(float, Half, Half)

}  // namespace efpn
