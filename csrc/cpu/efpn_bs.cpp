// The composed operators on the CPU: see ../common/efpn_bs.h.
#include "isa.h"
#include "tensor.h"

#define EFPN_NAMESPACE_BEGIN namespace efpn {
#define EFPN_NAMESPACE_END }
#define EFPN_SHIM(name) aoti_torch_cpu_##name

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

namespace efpn {
constexpr bool kFusedConvolutions = true;
constexpr bool kLibraryAddsBias = true;

// Whether convolutions of a map are our own: Winograd in float32, and for halves where that has
// been measured to be faster than the library, on AVX2 and AVX-512 without a matrix unit.
inline bool fuses_convolutions(const Tensor& map) {
  const ScalarType type = map.scalar_type();
  if (type == ScalarType::Float) return true;
  return type != ScalarType::Double && isa() > Isa::portable && isa() < Isa::amx;
}
}  // namespace efpn

#include "../common/efpn_bs.h"

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("cem", TORCH_BOX(&efpn::cem));
  m.impl("cem_backward", TORCH_BOX(&efpn::cem_backward));
  m.impl("efpn_bs", TORCH_BOX(&efpn::efpn_bs));
  m.impl("efpn_bs_backward", TORCH_BOX(&efpn::efpn_bs_backward));
}
