// Bilinear upsampling with align_corners=False, one axis. Include through a target (see target.h).
namespace efpn {
namespace EFPN_ISA {

template <class T>
struct Source {
  int64_t index;  // lower source index; the upper one is min(index + 1, in - 1)
  T weight;       // weight of the upper source; the lower one has 1 - weight
};

// The source of output position `out` on an axis of `in` samples resized to `size`:
// max(0, (out + 1/2) in / size - 1/2), in integers, so that index and weight are exact.
template <class T>
EFPN_INLINE Source<T> bilinear_source(int64_t out, int64_t in, int64_t size) {
  const int64_t numerator = (2 * out + 1) * in - size;
  if (numerator <= 0) return {0, T(0)};
  const int64_t index = numerator / (2 * size);
  if (index >= in - 1) return {in - 1, T(0)};
  return {index, T(numerator - index * 2 * size) / T(2 * size)};
}

// The first output position whose lower source is at least `index`: the outputs that read source i are
// [first_output(i - 1), first_output(i + 1)), those with lower source i are [first_output(i), first_output(i + 1)).
EFPN_INLINE int64_t bilinear_first_output(int64_t index, int64_t in, int64_t size) {
  if (index <= 0) return 0;
  if (index >= in) return size;
  // smallest out with (2 out + 1) in - size >= 2 index size
  const int64_t bound = 2 * index * size + size - in;
  const int64_t out = bound <= 0 ? 0 : (bound + 2 * in - 1) / (2 * in);
  return out < size ? out : size;
}

}  // namespace EFPN_ISA
}  // namespace efpn
