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
        write_csr<csr::hedeleg>(0);  // the guest has no handlers
        write_csr<csr::hideleg>(0);
        write_csr<csr::sie>(software_interrupt);
        write_csr<csr::henvcfg>(svadu ? ptebits::riscv_envcfg_fields::adue.mask() : 0);
        write_csr<csr::vsatp>(0);  // first: nothing of the old guest is walked under the new VMID
        write_csr<csr::hgatp>(value_of(ptebits::atp_for(host_root, GStage, vmid)));
        write_csr<csr::vsatp>(value_of(mode.levels == 3   ? ptebits::atp_for(mode.root, guest_format<3, svadu>)
                                       : mode.levels == 4 ? ptebits::atp_for(mode.root, guest_format<4, svadu>)
                                                          : ptebits::atp_for(mode.root, guest_format<5, svadu>)));
        write_csr<csr::vsstatus>(0);
        flush();
    }

    /// At once, on this hart.
    void flush()
    {
        using namespace ptebits;
        flush_list_of<1, 1> all;
        all.overflow();
        // The guest's tables change with it: both stages.
        constexpr unsigned a0 = 10;
        const fence_operands guests = fence_for(choose_fence(all, GStage).type, GStage, 0, vmid);
        register std::uint64_t id asm("a0") = guests.rs2;
        if (!guests || guests.fence.by_address || !guests.fence.by_id) fail("HFENCE.GVMA");
        asm volatile(".word %0; .word %1" ::"i"(encode_fence(fence_instruction::hfence_gvma, 0, a0)),
                     "i"(encode_fence(fence_instruction::hfence_vvma)), "r"(id)
                     : "memory");
    }

    guest_exit run(guest_registers& r)
    {
        using namespace machine;
        asm volatile("fence.i" ::: "memory");  // pages hold code, and the host moves them
        set_in_csr<csr::hstatus>(hstatus_spv | hstatus_spvp);
        set_in_csr<csr::sstatus>(sstatus_spp);
        run_guest(&r);
        const std::uint64_t cause = read_csr<csr::scause>();
        if (cause == cause_ecall_from_vs) return {.how = ending::done};
        if (cause == cause_software_interrupt) {
            clear_in_csr<csr::sip>(software_interrupt);
            return {.how = ending::interrupted};
        }
        ptebits::riscv_trap trap{.cause = cause,
                                 .tval = read_csr<csr::stval>(),
                                 .tval2 = read_csr<csr::htval>(),
                                 .tinst = read_csr<csr::htinst>(),
                                 .gva = (read_csr<csr::hstatus>() & hstatus_gva) != 0,
                                 .exists = true};
        const ptebits::riscv_told told = told_by(trap);
        if (told.kind != ptebits::riscv_trap_kind::guest_page)
            return {.how = ending::other, .guest_physical = trap.tval, .reason = cause};
        return {ending::fault, told.guest_physical, 0, trap, told.address_known, told.refused};
    }

private:
    static constexpr std::uint16_t vmid = 1;
    static constexpr std::uint64_t cause_software_interrupt = std::uint64_t{1} << 63 | 1, cause_ecall_from_vs = 10;
    static constexpr std::uint64_t hstatus_gva = 1 << 6, hstatus_spv = 1 << 7, hstatus_spvp = 1 << 8;
    static constexpr std::uint64_t sstatus_spp = 1 << 8, software_interrupt = 1 << 1;

    static std::uint64_t value_of(const ptebits::encoded_atp& a)
    {
        if (!a) fail(ptebits::name(a.error));
        return a.value;
    }
};
