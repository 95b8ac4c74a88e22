// SPDX-License-Identifier: BSL-1.0
// What a kernel has around its MMU on x86: registers, a serial port, a clock, an end; and the labels of boot.S and
// guest.S.
#pragma once

#include <cstdint>

#include <ptebits/nested_walk.hpp>
#include <ptebits/x86.hpp>

#include "../../hypervisor_mmu.hpp"
#include "../machine.hpp"

// What other files ask of a machine: all from memory_at to print_code(); put(), leave(), ticks(), second(), relax();
// this kernel's programs for guests.

/// The physical width that this kernel is built for: of QEMU's CPUs and most of Bochs'. Held against CPUID.
inline constexpr unsigned physical_bits = 40;

/// The kernel's own tables.
inline constexpr auto own_tables = ptebits::shadow<ptebits::shadow_features{
    .physical_bits = physical_bits, .gigabyte_pages = false, .global_pages = false}>;

namespace machine {

inline constexpr std::uint64_t memory_at = 0;
inline constexpr std::uint64_t jump_to_d = 0xe2ff;                                     ///< jmp *%rdx
inline constexpr std::uint64_t reserved_bit = ptebits::bit(physical_bits + 5).mask();  ///< in all formats
inline constexpr hypervisor::software_bits software_bits;

using access = ptebits::memory_access;
[[nodiscard]] constexpr access access_of(use how) noexcept
{
    using enum ptebits::operation;
    // A locked access is a write, from the beginning.
    return {.what = how == use::read ? read : how == use::fetch ? fetch : write};
}

/// EXITINFO1 or the exit qualification.
using fault_code = std::uint64_t;
void print_code(fault_code code);
[[nodiscard]] constexpr fault_code code_of(const auto& r, std::uint64_t /*address*/, const access& /*of_guest*/,
                                           const auto& /*guest*/, const auto& host) noexcept
{
    return ptebits::fault_code(r.host, r.host_access, {}, host).value;
}

/// What is told of a fault, had it been met by a read or a write.
template <auto Host>
[[nodiscard]] constexpr fault_code as_of(use how, const auto& predicted) noexcept
{
    return how == use::write ? predicted.code | 2 : predicted.code & ~fault_code{2};
}

/// Whether each look at a guest's table counts as a write there, whatever changes.
template <auto Host>
inline constexpr bool table_uses_write = Host->accessed.exists();

/// How an emulator differs that tells another code than predicted.
template <auto Host>
[[nodiscard]] constexpr deviation deviation_of(fault_code told, const auto& predicted) noexcept
{
    const std::uint64_t code = predicted.code;
    if constexpr (requires { Host->memory_type; }) {
        const bool of_table = Host->accessed.exists() && predicted.walk.host_access.guest_table;
        return of_table && code == (told | 1) ? deviation::table_access_not_read : deviation::none;
    } else {
        const bool reserved = predicted.walk.host.fault == ptebits::fault_kind::reserved_bits;
        return reserved && code == (told | 1) ? deviation::reserved_not_present : deviation::none;
    }
}

inline void outb(std::uint16_t port, std::uint8_t v) { asm volatile("outb %0, %1" ::"a"(v), "Nd"(port)); }
inline void outl(std::uint16_t port, std::uint32_t v) { asm volatile("outl %0, %1" ::"a"(v), "Nd"(port)); }
inline std::uint8_t inb(std::uint16_t port)
{
    std::uint8_t v;
    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
inline std::uint64_t read_msr(std::uint32_t n)
{
    std::uint32_t low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(n));
    return low | std::uint64_t{high} << 32;
}
inline void write_msr(std::uint32_t n, std::uint64_t v)
{
    asm volatile("wrmsr" ::"c"(n), "a"(static_cast<std::uint32_t>(v)), "d"(static_cast<std::uint32_t>(v >> 32))
                 : "memory");
}

struct cpuid_result {
    std::uint32_t a, b, c, d;
};
inline cpuid_result cpuid(std::uint32_t leaf)
{
    cpuid_result r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
    return r;
}
/// Whether there are 5 levels for guests.
inline bool has_la57() { return cpuid(0).a >= 7 && (cpuid(7).c >> 16 & 1) != 0; }

#define PTEBITS_CONTROL_REGISTER(n)                             \
    inline std::uint64_t cr##n()                                \
    {                                                           \
        std::uint64_t v;                                        \
        asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory"); \
        return v;                                               \
    }                                                           \
    inline void set_cr##n(std::uint64_t v) { asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory"); }
PTEBITS_CONTROL_REGISTER(0)
PTEBITS_CONTROL_REGISTER(3)
PTEBITS_CONTROL_REGISTER(4)
#undef PTEBITS_CONTROL_REGISTER

/// In instructions under QEMU's -icount shift=0 and in Bochs.
inline std::uint64_t ticks()
{
    std::uint32_t low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return low | std::uint64_t{high} << 32;
}
/// The clock's second, of 60 or as BCD.
inline unsigned second()
{
    outb(0x70, 0);
    return inb(0x71);
}
inline void relax() { asm volatile("pause" ::: "memory"); }

// ---- the serial port

inline void start_serial()
{
    outb(0x3f8 + 3, 0x80);  // 115,200 baud, 8 bits, queues
    outb(0x3f8 + 0, 1);
    outb(0x3f8 + 1, 0);
    outb(0x3f8 + 3, 3);
    outb(0x3f8 + 2, 1);
}
inline void put(char c)
{
    while ((inb(0x3f8 + 5) & 0x20) == 0) {
    }
    outb(0x3f8, static_cast<std::uint8_t>(c));
}
/// Ends the emulator: QEMU with status 33 if all was right, else 35; Bochs with its only one.
[[noreturn]] inline void leave(bool right)
{
    while ((inb(0x3f8 + 5) & 0x40) == 0) {  // until all is sent
    }
    outl(0xf4, right ? 0x10 : 0x11);
    for (const char* s = "Shutdown"; *s != '\0'; ++s) outb(0x8900, static_cast<std::uint8_t>(*s));
    for (;;) asm volatile("cli; hlt");
}

}  // namespace machine

extern "C" {
extern char text_begin[], text_end[], rodata_end[], bss_end[];
extern char script64[], script64_end[], script64_at_script[], script64_at_read[], script64_at_write[],
    script64_at_modify[];
extern char script32[], script32_end[], script32_at_script[], script32_at_read[], script32_at_write[],
    script32_at_modify[];
extern char storm[], storm_end[];
extern char second_cpu_code[], second_cpu_code_end[];
extern char exception_stubs[], interrupt_stub[], vmx_exit[];
extern std::uint64_t gdt[6], multiboot_information;
extern std::uint64_t fault_address, fault_error;
void probe(const void* address, int how);
void svm_run(guest_registers*, std::uint64_t vmcb);
int vmx_run(guest_registers*, int launch);
}
