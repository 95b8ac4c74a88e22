// SPDX-License-Identifier: BSL-1.0
// What a kernel has around its MMU on RISC-V: control registers, QEMU's virt machine; and the labels of boot.S and
// guest.S. x86/platform.hpp says what other files ask of it.
#pragma once

#include <cstdint>

#include <ptebits/riscv.hpp>
#include <ptebits/riscv_flush.hpp>
#include <ptebits/riscv_registers.hpp>

#include "../../hypervisor_mmu.hpp"
#include "../machine.hpp"

extern "C" {
extern char script[], script_end[], script_at_script[], script_at_read[], script_at_write[], script_at_modify[];
extern char storm[], storm_end[];
extern char text_begin[], text_end[], rodata_end[], bss_end[];
extern std::uint64_t fault_cause, fault_address;
int probe(std::uint64_t address, int how);
void run_guest(guest_registers*);
}

/// The kernel's own tables: Sv39.
inline constexpr auto own_tables = ptebits::riscv<ptebits::riscv_features{.svadu = true}>;

namespace machine {

inline constexpr std::uint64_t memory_at = 0x8000'0000;
inline constexpr std::uint64_t jump_to_d = 0x0006'8067;                 ///< jr a3
inline constexpr std::uint64_t reserved_bit = ptebits::bit(54).mask();  ///< in every entry
inline constexpr hypervisor::software_bits software_bits{.may_write = 8, .frozen = 9};

using access = ptebits::riscv_access;
[[nodiscard]] constexpr access access_of(use how) noexcept
{
    using enum ptebits::riscv_operation;
    return {.what = how == use::read ? load : how == use::fetch ? fetch : store};
}

using fault_code = ptebits::riscv_trap;
void print_code(const fault_code& code);
[[nodiscard]] constexpr fault_code code_of(const auto& r, std::uint64_t address, const access& of_guest,
                                           const auto& guest, const auto& host) noexcept
{
    return trap_of(r, address, of_guest, guest, host);
}

/// What is told of a fault of the G-stage, had it been met by another use.
template <auto Host>
[[nodiscard]] constexpr fault_code as_of(use how, const auto& predicted) noexcept
{
    fault_code code = predicted.code;
    code.cause = ptebits::fault_code(predicted.walk.host, access_of(how), {}, Host).value;
    return code;
}

// The look at a guest's table is a load.
template <auto Host>
inline constexpr bool table_uses_write = false;

/// An instruction as htinst may tell of it. Precondition: a load, a store or an AMO of 32 bits, to an aligned address.
/// RISC-V ISA manual, volume II, "Transformed Instruction or Pseudoinstruction for mtinst or htinst".
[[nodiscard]] constexpr std::uint32_t transformed(std::uint32_t instruction) noexcept
{
    constexpr std::uint32_t rs2 = 0x01f0'0000, funct7 = 0xfe00'0000, funct3_rd_opcode = 0x7fff, rd = 0xf80;
    switch (instruction & 0x7f) {
    case 0x03:  // a load
        return instruction & funct3_rd_opcode;
    case 0x23:  // a store
        return instruction & (rs2 | (funct3_rd_opcode & ~rd));
    default:
        return instruction & (funct7 | rs2 | funct3_rd_opcode);
    }
}

template <auto Host>
[[nodiscard]] constexpr deviation deviation_of(const fault_code& told, const auto& predicted) noexcept
{
    return predicted.walk.host_access.implicit && as_of<Host>(use::read, predicted) == told
               ? deviation::table_access_of_a_load
               : deviation::none;
}

// ---- control registers, by their numbers: assemblers need not know them

namespace csr {
inline constexpr unsigned sstatus = 0x100, sie = 0x104, scause = 0x142, stval = 0x143;
inline constexpr unsigned sip = 0x144, satp = 0x180;
inline constexpr unsigned vsstatus = 0x200, vsatp = 0x280;
inline constexpr unsigned hstatus = 0x600, hedeleg = 0x602, hideleg = 0x603, henvcfg = 0x60a, htval = 0x643;
inline constexpr unsigned htinst = 0x64a, hgatp = 0x680;
inline constexpr unsigned cycle = 0xc00, time = 0xc01;
}  // namespace csr

template <unsigned Csr>
[[nodiscard]] std::uint64_t read_csr()
{
    std::uint64_t v;
    asm volatile("csrr %0, %1" : "=r"(v) : "i"(Csr) : "memory");
    return v;
}
template <unsigned Csr>
void write_csr(std::uint64_t v)
{
    asm volatile("csrw %0, %1" ::"i"(Csr), "r"(v) : "memory");
}
template <unsigned Csr>
void set_in_csr(std::uint64_t bits)
{
    asm volatile("csrs %0, %1" ::"i"(Csr), "r"(bits) : "memory");
}
template <unsigned Csr>
void clear_in_csr(std::uint64_t bits)
{
    asm volatile("csrc %0, %1" ::"i"(Csr), "r"(bits) : "memory");
}

/// Of this hart; machine mode flushes what depends on it.
inline void set_menvcfg(std::uint64_t value) { asm volatile("mv a0, %0; ecall" ::"r"(value) : "a0", "memory"); }

/// A fence, with its operands in a0 and a1; those that it has not are x0.
template <ptebits::fence_instruction What, bool ByAddress = false, bool ById = false>
void execute(const ptebits::fence_operands& operands)
{
    constexpr unsigned a0 = 10, a1 = 11;
    asm volatile("mv a0, %1; mv a1, %2; .word %0" ::"i"(ptebits::encode_fence(What, ByAddress ? a0 : 0, ById ? a1 : 0)),
                 "r"(operands.rs1), "r"(operands.rs2)
                 : "a0", "a1", "memory");
}

/// In instructions under QEMU's -icount shift=0.
inline std::uint64_t ticks() { return read_csr<csr::cycle>(); }
inline unsigned second() { return static_cast<unsigned>(read_csr<csr::time>() / 10'000'000); }
inline void relax() { asm volatile(".word 0x0100000f" ::: "memory"); }  // PAUSE; a FENCE to harts that lack it

// ---- QEMU's virt machine

inline constexpr std::uint64_t test_device = 0x10'0000, clint = 0x200'0000, uart = 0x1000'0000;

inline void put(char c)
{
    auto* const registers = reinterpret_cast<volatile std::uint8_t*>(uart);
    while ((registers[5] & 0x20) == 0) {
    }
    registers[0] = static_cast<std::uint8_t>(c);
}
/// Ends QEMU with status 33 if all was right, else 35.
[[noreturn]] inline void leave(bool right)
{
    *reinterpret_cast<volatile std::uint32_t*>(test_device) = (right ? 33U : 35U) << 16 | 0x3333;
    for (;;) relax();
}

}  // namespace machine
