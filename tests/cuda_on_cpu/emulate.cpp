// The change of stacks, and the calls of the CUDA runtime that the host side makes.
#include <cuda_runtime_api.h>

// efpn_emulate_switch(&from, to): keeps the registers that a call must keep, x86-64.
asm(R"(
.text
.globl efpn_emulate_switch
.hidden efpn_emulate_switch
.type efpn_emulate_switch,@function
efpn_emulate_switch:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");

// Compute capability 8: no clusters.
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 8;
  return cudaSuccess;
}
