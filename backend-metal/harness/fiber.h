// Fibers, one for each GPU thread, switched explicitly.
#pragma once
#include <cstddef>
#include <cstring>

/// Saves the registers of the running fiber at `*save`, and continues where `to` was saved.
extern "C" void msl_switch(void** save, void* to);

#if defined(__APPLE__)
#define MSL_SYMBOL "_msl_switch"
#define MSL_HIDE ".private_extern _msl_switch\n"
#else
#define MSL_SYMBOL "msl_switch"
#define MSL_HIDE ".hidden msl_switch\n"
#endif

#if defined(__x86_64__)
asm(".text\n.globl " MSL_SYMBOL "\n" MSL_HIDE MSL_SYMBOL R"(:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(".text\n.balign 4\n.globl " MSL_SYMBOL "\n" MSL_HIDE MSL_SYMBOL R"(:
  sub sp,sp,#160
  stp x19,x20,[sp]; stp x21,x22,[sp,#16]; stp x23,x24,[sp,#32]; stp x25,x26,[sp,#48]; stp x27,x28,[sp,#64]; stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]; stp d10,d11,[sp,#112]; stp d12,d13,[sp,#128]; stp d14,d15,[sp,#144]
  mov x9,sp; str x9,[x0]; mov sp,x1
  ldp x19,x20,[sp]; ldp x21,x22,[sp,#16]; ldp x23,x24,[sp,#32]; ldp x25,x26,[sp,#48]; ldp x27,x28,[sp,#64]; ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]; ldp d10,d11,[sp,#112]; ldp d12,d13,[sp,#128]; ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
)");
#else
#error "the emulator runs on x86-64 and aarch64"
#endif

/// A stack that begins at `start` when it is switched to; `start` never returns.
inline void* fresh_stack(char* top, void (*start)()) {
  void** sp = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  *--sp = nullptr;  // so that `ret` leaves the stack aligned as after a call
  *--sp = reinterpret_cast<void*>(start);
  for (int i = 0; i < 6; i++) *--sp = nullptr;
#else
  sp -= 20;
  memset(sp, 0, 160);
  sp[11] = reinterpret_cast<void*>(start);
#endif
  return sp;
}
