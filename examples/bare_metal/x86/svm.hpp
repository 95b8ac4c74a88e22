// SPDX-License-Identifier: BSL-1.0
// AMD: a guest over nested paging. AMD APM volume 2, "Secure Virtual Machine", and its appendix on the VMCB's layout.
#pragma once

#include <ptebits/formats/npt.hpp>
#include <ptebits/x86_flush.hpp>

#include "../virtual_cpu.hpp"
#include "platform.hpp"

class svm {
public:
    static constexpr const char* name = "SVM";
    static constexpr std::uint64_t ends_by = 0;  // VMMCALL: what the guest's program finds in RDI
    static bool exists()
    {
        return machine::cpuid(0x80000000).a >= 0x8000000a && (machine::cpuid(0x80000001).c >> 2 & 1) != 0 &&
               (machine::cpuid(0x8000000a).d & 1) != 0;
    }

    /// On the CPU that will run the guest.
    void start(std::uint64_t nested_root, const guest_mode& mode)
    {
        machine::write_msr(efer, machine::read_msr(efer) | efer_svme);
        machine::write_msr(vm_hsave_pa, reinterpret_cast<std::uint64_t>(host_save_));
        for (auto& byte : vmcb_) byte = 0;
        for (auto& byte : io_map_) byte = 0xff;
        for (auto& byte : msr_map_) byte = 0xff;

        const bool long_mode = mode.levels >= 4;
        put<std::uint32_t>(intercept_exceptions, ~0U);
        // All that may be, but CPUID and what is of no use here.
        put<std::uint32_t>(intercept_first, 0x9f27001f | 1U << 21 | 1U << 24 | 1U << 31);
        put<std::uint32_t>(intercept_second, 0x7f);  // VMRUN, VMMCALL ...
        put<std::uint64_t>(iopm_base, reinterpret_cast<std::uint64_t>(io_map_));
        put<std::uint64_t>(msrpm_base, reinterpret_cast<std::uint64_t>(msr_map_));
        put<std::uint32_t>(guest_asid, 1);
        put<std::uint32_t>(interrupt_control, 1U << 24);  // V_INTR_MASKING: the host's IF lets interrupts in
        put<std::uint64_t>(nested_paging_enable, 1);
        put<std::uint64_t>(n_cr3, nested_root);
        for (unsigned at = es; at <= gs; at += 0x10) segment(at, 0x10, 0xc93, ~0U);
        segment(cs, 0x08, long_mode ? 0xa9b : 0xc9b, ~0U);
        segment(ldtr, 0, 0x82, 0);
        segment(tr, 0x18, 0x8b, 103);
        put<std::uint64_t>(guest_efer, efer_svme | 0x800 | (long_mode ? 0x500 : 0));  // NXE, LME, LMA
        put<std::uint64_t>(guest_cr4, 0x20 | (mode.levels == 5 ? 0x1000 : 0));        // PAE, LA57
        put<std::uint64_t>(guest_cr3, mode.root);
        put<std::uint64_t>(guest_cr0, 0x80010031);
        put<std::uint64_t>(guest_dr7, 0x400);
        put<std::uint64_t>(guest_dr6, 0xffff0ff0);
        put<std::uint64_t>(guest_rflags, 2);
        put<std::uint64_t>(guest_pat, ptebits::pat_after_reset);
        flush();
    }

    /// With the next run.
    void flush() { put(tlb_control_byte, static_cast<std::uint8_t>(ptebits::tlb_control::entire_tlb)); }

    guest_exit run(guest_registers& r)
    {
        put(guest_rip, r.pc);
        put(guest_rax, r.a);
        svm_run(&r, reinterpret_cast<std::uint64_t>(vmcb_));
        put(tlb_control_byte, static_cast<std::uint8_t>(ptebits::tlb_control::nothing));
        r.pc = get<std::uint64_t>(guest_rip);
        r.a = get<std::uint64_t>(guest_rax);
        const auto why = get<std::uint64_t>(exit_code);
        if (why == exit_vmmcall) return {.how = ending::done};
        if (why == exit_interrupt) return {.how = ending::interrupted};
        if (why != exit_npf) return {.how = ending::other, .address = get<std::uint64_t>(exit_info_2), .reason = why};
        const auto code = get<std::uint64_t>(exit_info_1);
        const ptebits::told_fault told = ptebits::npf_told(code, false);
        return {ending::fault, get<std::uint64_t>(exit_info_2), 0, code, static_cast<bool>(told), told.access};
    }

private:
    static constexpr std::uint32_t efer = 0xc0000080, vm_hsave_pa = 0xc0010117;
    static constexpr std::uint64_t efer_svme = 0x1000;
    static constexpr std::uint64_t exit_interrupt = 0x60, exit_vmmcall = 0x81, exit_npf = 0x400;
    // Offsets into the VMCB.
    static constexpr unsigned intercept_exceptions = 0x008, intercept_first = 0x00c, intercept_second = 0x010;
    static constexpr unsigned iopm_base = 0x040, msrpm_base = 0x048, guest_asid = 0x058, tlb_control_byte = 0x05c;
    static constexpr unsigned interrupt_control = 0x060, exit_code = 0x070, exit_info_1 = 0x078, exit_info_2 = 0x080;
    static constexpr unsigned nested_paging_enable = 0x090, n_cr3 = 0x0b0;
    static constexpr unsigned es = 0x400, cs = 0x410, gs = 0x450, ldtr = 0x470, tr = 0x490;
    static constexpr unsigned guest_efer = 0x4d0, guest_cr4 = 0x548, guest_cr3 = 0x550, guest_cr0 = 0x558;
    static constexpr unsigned guest_dr7 = 0x560, guest_dr6 = 0x568, guest_rflags = 0x570, guest_rip = 0x578;
    static constexpr unsigned guest_rax = 0x5f8, guest_pat = 0x668;

    template <class T>
    void put(unsigned at, T v)
    {
        *reinterpret_cast<volatile T*>(vmcb_ + at) = v;
    }
    template <class T>
    T get(unsigned at)
    {
        return *reinterpret_cast<volatile T*>(vmcb_ + at);
    }
    void segment(unsigned at, std::uint16_t selector, std::uint16_t attributes, std::uint32_t limit)
    {
        put(at, selector);
        put(at + 2, attributes);
        put(at + 4, limit);
        put<std::uint64_t>(at + 8, 0);
    }

    alignas(4096) static inline std::uint8_t vmcb_[4096];
    alignas(4096) static inline std::uint8_t host_save_[4096];
    alignas(4096) static inline std::uint8_t io_map_[12288];
    alignas(4096) static inline std::uint8_t msr_map_[8192];
};
