// Packing, multiplying and unpacking blocks of matrices, for one instruction set. Include through
// foreach_isa.h.
#include "multiply_block.h"

namespace efpn {
namespace EFPN_ISA {

// Elements of a sum that are added up in a register: short runs keep the error low. The order of
// every sum depends on it and on nothing else.
constexpr int64_t kRun = 128;

template <class T>
ProductBlocking product_blocking() {
  return {kRows, kColumnsOf<T>, kRun};
}

EFPN_INLINE bool consecutive(const int64_t* offsets, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    if (offsets[i] != offsets[0] + i) return false;
  }
  return true;
}

template <class E>
EFPN_INLINE void copy_wide(const E* from, int64_t count, Acc<E>* to) {
  constexpr int kLanesOf = Vec<Acc<E>>::size;
  int64_t i = 0;
  for (; i + kLanesOf <= count; i += kLanesOf) store(to + i, load(from + i));
  if (i < count) {
    const int rest = static_cast<int>(count - i);
    store(to + i, load(from + i, rest), rest);
  }
}

// to[k - first][width]: `count` rows of a matrix side by side, zeros up to `width`, for columns k
// in [first, last).
template <int width, class E>
EFPN_INLINE void pack_across(const Matrix<const E>& m, int64_t row, int64_t count, int64_t first,
                             int64_t last, Acc<E>* to) {
  using A = Acc<E>;
  const int64_t *rows = m.rows.data() + row, *columns = m.columns.data();
  if (count < width) std::memset(to, 0, (last - first) * width * sizeof(A));
  if (consecutive(rows, count)) {
    for (int64_t k = first; k < last; ++k, to += width) {
      copy_wide(m.data + rows[0] + columns[k], count, to);
    }
    return;
  }
  constexpr int64_t kCached = 64;  // rows of `to` that stay in the first-level cache
  for (int64_t start = first; start < last; start += kCached) {
    const int64_t end = std::min(start + kCached, last);
    for (int64_t r = 0; r < count; ++r) {
      const E* from = m.data + rows[r];
      A* target = to + (start - first) * width + r;
      for (int64_t k = start; k < end; ++k, target += width) {
        *target = static_cast<A>(from[columns[k]]);
      }
    }
  }
}

// b[panel][k][kColumnsOf]: the rows of a matrix as panels of columns of the product, those of
// [begin, end).
template <class E>
void pack_panels(const Matrix<const E>& m, int64_t begin, int64_t end, Acc<E>* b) {
  constexpr int kColumns = kColumnsOf<Acc<E>>;
  const int64_t rows = m.rows.size(), depth = m.columns.size();
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t row = panel * kColumns;
    pack_across<kColumns>(m, row, std::min<int64_t>(kColumns, rows - row), 0, depth,
                          b + row * depth);
  }
}

// The rows [begin, end) of a for k in [first, last), in panels of kRows. They are copied along the
// way that they lie in: true for a[panel][kRows][kRun], false for a[panel][k][kRows].
template <class E>
EFPN_INLINE bool pack_rows(const Matrix<const E>& m, int64_t begin, int64_t end, int64_t first,
                           int64_t last, Acc<E>* a) {
  const bool along = last > first && consecutive(m.columns.data() + first, last - first);
  for (int64_t row = begin; row < end; row += kRows, a += kRows * kRun) {
    const int64_t count = std::min<int64_t>(kRows, end - row);
    if (!along) {
      pack_across<kRows>(m, row, count, first, last, a);
      continue;
    }
    if (count < kRows) std::memset(a, 0, kRows * kRun * sizeof(*a));
    for (int64_t r = 0; r < count; ++r) {
      copy_wide(m.data + m.rows[row + r] + m.columns[first], last - first, a + r * kRun);
    }
  }
  return along;
}

// c[row + r, column + j] = sums[r][kColumnsOf][j].
template <class E>
EFPN_INLINE void unpack(const Acc<E>* sums, const Matrix<E>& c, int64_t row, int64_t rows,
                        int64_t column, int64_t columns) {
  constexpr int kLanesOf = Vec<Acc<E>>::size, kColumns = kColumnsOf<Acc<E>>;
  const int64_t *to_row = c.rows.data() + row, *to_column = c.columns.data() + column;
  if (consecutive(to_column, columns)) {
    for (int64_t r = 0; r < rows; ++r, sums += kColumns) {
      E* to = c.data + to_row[r] + to_column[0];
      int64_t j = 0;
      for (; j + kLanesOf <= columns; j += kLanesOf) store(to + j, load(sums + j));
      if (j < columns) store(to + j, load(sums + j), static_cast<int>(columns - j));
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t r = 0; r < rows; ++r) {
      c.data[to_row[r] + to_column[j]] = static_cast<E>(sums[r * kColumns + j]);
    }
  }
}

// The rows [row, row_end) and the columns [column, column_end) of c; `column` begins a panel of b.
// scratch: product_scratch() elements.
template <class A, class C>
void product_block(const Matrix<const A>& a, const Acc<A>* b, const Matrix<C>& c, int64_t row,
                   int64_t row_end, int64_t column, int64_t column_end, Acc<A>* scratch) {
  constexpr int kColumns = kColumnsOf<Acc<A>>, kTile = kRows * kColumns;
  const int64_t depth = a.columns.size(), panels = (row_end - row + kRows - 1) / kRows;
  Acc<A>* const sums = scratch + panels * kRows * kRun;
  for (int64_t k = 0; k == 0 || k < depth; k += kRun) {
    const int64_t run = std::min(kRun, depth - k);
    const bool along = pack_rows(a, row, row_end, k, k + run, scratch);
    Acc<A>* tile = sums;
    for (int64_t j = column; j < column_end; j += kColumns) {
      const Acc<A>* of_b = b + j * depth + k * kColumns;
      for (int64_t i = 0; i < panels; ++i, tile += kTile) {
        const Acc<A>* of_a = scratch + i * kRows * kRun;
        if (along) {
          multiply_block<Factors<Acc<A>>, kRun, 1>(run, of_a, 1, of_b, tile, k > 0);
        } else {
          multiply_block<Factors<Acc<A>>, 1, 1>(run, of_a, kRows, of_b, tile, k > 0);
        }
      }
    }
  }
  const Acc<A>* tile = sums;
  for (int64_t j = column; j < column_end; j += kColumns) {
    for (int64_t i = row; i < row_end; i += kRows, tile += kTile) {
      unpack(tile, c, i, std::min<int64_t>(kRows, row_end - i), j,
             std::min<int64_t>(kColumns, column_end - j));
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
