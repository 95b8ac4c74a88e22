// SPDX-License-Identifier: BSL-1.0
// A small hypervisor on the bare machine, x86: its own page tables, a guest's and the nested ones are made, aged,
// harvested, split, merged and taken away by ptebits, and used by a CPU.
#include "kernel.hpp"

#include <cstddef>

#include "../own_tables.hpp"
#include "host.hpp"

// What compilers call on their own.
extern "C" void* memset(void* to, int value, std::size_t n)
{
    void* const first = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
    return first;
}
extern "C" void* memcpy(void* to, const void* from, std::size_t n)
{
    void* const first = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return first;
}

void machine::print_code(fault_code code) { print(hex{code}); }

constexpr guest_tables pae = guest_of<guest_format<3>>::tables("PAE", script_of_32_bits);
constexpr guest_tables long_mode_4 = guest_of<guest_format<4>>::tables("long mode, 4 levels", script_of_64_bits);
constexpr guest_tables long_mode_5 = guest_of<guest_format<5>>::tables("long mode, 5 levels", script_of_64_bits);

extern "C" void kernel_main()
{
    machine::start_serial();
    const options wanted = read_options();
    host::set_up_exceptions();
    print("ptebits on the bare machine\n");
    if ((machine::cpuid(0x80000008).a & 0xff) != physical_bits)
        fail("this kernel is for physical addresses of 40 bits");
    host::set_up_paging();
    if (!wanted.two_cpus) {
        examine_faults();
        examine_tlb();
    }
    run_second_stages(wanted);
    finish();
}
