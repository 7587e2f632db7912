// cpu_capability: the instruction set that the kernels of this library use.
#include "isa.h"
#include "tensor.h"

namespace {

int64_t cpu_capability() { return static_cast<int64_t>(efpn::isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(efpn, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
}
