// Border classes of a 3x3 convolution with padding 1. Include through a target (see target.h).
namespace efpn {
namespace EFPN_ISA {

// 0: first position of the axis, 2: last (and not first), 1: between.
EFPN_INLINE int border_class(int64_t position, int64_t size) {
  return position == 0 ? 0 : (position == size - 1 ? 2 : 1);
}

// Whether tap k in {0, 1, 2}, which reads position + k - 1, falls inside an axis of `size` positions
// for a position of the class.
EFPN_INLINE bool tap_inside(int border, int k, int64_t size) {
  if (k == 0) return border != 0;
  if (k == 2) return border == 1 || (border == 0 && size > 1);
  return true;
}

}  // namespace EFPN_ISA
}  // namespace efpn
