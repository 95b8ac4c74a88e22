// SPDX-License-Identifier: BSL-1.0
// RISC-V: a guest in VS-mode over a G-stage. RISC-V ISA manual, volume II, "H" Extension for Hypervisor Support.
#pragma once

#include <ptebits/riscv_flush.hpp>
#include <ptebits/riscv_registers.hpp>

#include "../guest.hpp"
#include "../virtual_cpu.hpp"
#include "platform.hpp"

/// A guest's own format: Sv39, Sv48 or Sv57.
template <unsigned Levels, bool Svadu>
inline constexpr auto guest_format = ptebits::riscv<ptebits::riscv_features{.levels = Levels, .svadu = Svadu}>;

/// By the format of its G-stage.
template <auto GStage>
class hart {
public:
    static constexpr const char* name = "RISC-V";
    static constexpr std::uint64_t ends_by = 0;  // ECALL, whatever the register holds

    void start(std::uint64_t host_root, const guest_mode& mode)
    {
        using namespace machine;
        constexpr bool svadu = GStage->features().svadu;
        constexpr std::uint64_t envcfg = svadu ? ptebits::riscv_envcfg_fields::adue.mask() : 0;
        set_menvcfg(envcfg);
        write_csr<csr::henvcfg>(envcfg);
        write_csr<csr::hedeleg>(0);  // the guest has no handlers
        write_csr<csr::hideleg>(0);
        write_csr<csr::sie>(software_interrupt);
        write_csr<csr::vsatp>(0);  // first: nothing of the old guest is walked under the new VMID
        write_csr<csr::hgatp>(value_of(ptebits::atp_for(host_root, GStage, vmid)));
        write_csr<csr::vsatp>(value_of(mode.levels == 3   ? ptebits::atp_for(mode.root, guest_format<3, svadu>)
                                       : mode.levels == 4 ? ptebits::atp_for(mode.root, guest_format<4, svadu>)
                                                          : ptebits::atp_for(mode.root, guest_format<5, svadu>)));
        write_csr<csr::vsstatus>(0);
        flush();
    }

    /// At once, on this hart: both stages, since the guest's tables may have changed as well.
    void flush()
    {
        execute_gvma<false>();
        machine::execute<vvma>({});
    }

    guest_exit run(guest_registers& r)
    {
        using namespace machine;
        // What a handler grants or sets needs a fence no earlier than this. RISC-V ISA manual, volume II, "Supervisor
        // Memory-Management Fence Instruction".
        if (last_.kind == ptebits::riscv_trap_kind::guest_page) {
            execute_gvma<true>(last_.guest_physical);
        } else if (last_.kind == ptebits::riscv_trap_kind::page) {
            execute<vvma>({});
        }
        asm volatile("fence.i" ::: "memory");  // pages hold code, and the host moves them
        set_in_csr<csr::hstatus>(hstatus_spv | hstatus_spvp);
        set_in_csr<csr::sstatus>(sstatus_spp);
        run_guest(&r);

        const std::uint64_t cause = read_csr<csr::scause>();
        ptebits::riscv_trap trap{.cause = cause,
                                 .tval = read_csr<csr::stval>(),
                                 .tval2 = read_csr<csr::htval>(),
                                 .tinst = read_csr<csr::htinst>(),
                                 .gva = (read_csr<csr::hstatus>() & hstatus_gva) != 0,
                                 .exists = true};
        // The instruction may be told as well; then it is the one at the PC.
        const std::uint64_t at_pc = guest_at + (r.pc - guest_linear);
        if (trap.tinst % 4 == 3 && trap.tinst == transformed(*reinterpret_cast<const std::uint32_t*>(at_pc)))
            trap.tinst = 0;
        last_ = told_by(trap);
        if (last_.kind == ptebits::riscv_trap_kind::guest_page)
            return {ending::fault, last_.guest_physical, 0, trap, last_.address_known, last_.refused};
        if (last_.kind == ptebits::riscv_trap_kind::page)
            return {ending::guest_fault, trap.tval, 0, trap, true, last_.refused};
        if (cause == cause_ecall_from_vs) return {.how = ending::done};
        if (cause != cause_software_interrupt) return {.how = ending::other, .address = trap.tval, .reason = cause};
        clear_in_csr<csr::sip>(software_interrupt);
        return {.how = ending::interrupted};
    }

private:
    static constexpr std::uint16_t vmid = 1;
    static constexpr std::uint64_t cause_software_interrupt = std::uint64_t{1} << 63 | 1, cause_ecall_from_vs = 10;
    static constexpr std::uint64_t hstatus_gva = 1 << 6, hstatus_spv = 1 << 7, hstatus_spvp = 1 << 8;
    static constexpr std::uint64_t sstatus_spp = 1 << 8, software_interrupt = 1 << 1;
    static constexpr auto vvma = ptebits::fence_instruction::hfence_vvma;

    /// Of this VMID.
    template <bool ByAddress>
    static void execute_gvma(std::uint64_t guest_physical = 0)
    {
        const auto operands = fence_for({ByAddress, true}, GStage, guest_physical, vmid);
        if (!operands) fail(ptebits::name(operands.error));
        machine::execute<ptebits::fence_instruction::hfence_gvma, ByAddress, true>(operands);
    }
    static std::uint64_t value_of(const ptebits::encoded_atp& a)
    {
        if (!a) fail(ptebits::name(a.error));
        return a.value;
    }

    ptebits::riscv_told last_;  // that ended the last run
};
