// The composed operators on a GPU: see ../common/efpn_bs.h.
#include "tensor.cuh"

#define EFPN_NAMESPACE_BEGIN \
  namespace efpn {           \
  namespace cuda {
#define EFPN_NAMESPACE_END \
  }                        \
  }
#define EFPN_SHIM(name) aoti_torch_cuda_##name

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

namespace efpn {
namespace cuda {
constexpr bool kFusedConvolutions = false;
constexpr bool kLibraryAddsBias = false;
inline bool fuses_convolutions(const Tensor&) { return false; }
}  // namespace cuda
}  // namespace efpn

#include "../common/efpn_bs.h"

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("cem", TORCH_BOX(&efpn::cuda::cem));
  m.impl("cem_backward", TORCH_BOX(&efpn::cuda::cem_backward));
  m.impl("efpn_bs", TORCH_BOX(&efpn::cuda::efpn_bs));
  m.impl("efpn_bs_backward", TORCH_BOX(&efpn::cuda::efpn_bs_backward));
}
