// The headers as a kernel has them: no hosted library, no exceptions, no RTTI. On x86-64 it
// is linked with kernel_memory.cpp and nothing else, and runs without a C library.
#include "use.hpp"

extern "C" {
unsigned kernel_main() { return use::all(); }

#if defined(__x86_64__)
[[noreturn]] void _start()
{
    const long status = kernel_main() == 0 ? 0 : 1;
    for (;;) asm volatile("syscall" ::"a"(60L), "D"(status) : "rcx", "r11", "memory");
}
#endif
}
