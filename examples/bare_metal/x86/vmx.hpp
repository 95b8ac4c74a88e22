// SPDX-License-Identifier: BSL-1.0
// Intel: a guest over EPT. Intel SDM volume 3, "Virtual Machine Control Structures", and its appendix of field
// encodings.
#pragma once

#include <ptebits/formats/ept.hpp>
#include <ptebits/x86_flush.hpp>
#include <ptebits/x86_registers.hpp>

#include "../guest.hpp"
#include "../virtual_cpu.hpp"
#include "platform.hpp"

/// By the format of its EPT: with or without A and D.
template <auto Ept>
class vmx {
public:
    static constexpr const char* name = "VMX";
    static constexpr std::uint64_t ends_by = 1;                               // VMCALL
    static std::uint64_t capabilities() { return machine::read_msr(0x48c); }  // IA32_VMX_EPT_VPID_CAP
    static bool exists()
    {
        constexpr std::uint64_t has_secondary = std::uint64_t{1} << 63, has_ept = std::uint64_t{1} << 33;
        if ((machine::cpuid(1).c >> 5 & 1) == 0 || (machine::read_msr(0x482) & has_secondary) == 0 ||
            (machine::read_msr(0x48b) & has_ept) == 0) {
            return false;
        }
        const auto eptp = ptebits::eptp_for(0, Ept);
        return ptebits::check_eptp(eptp.eptp, capabilities(), physical_bits) == ptebits::eptp_error::none;
    }

    void start(std::uint64_t ept_root, const guest_mode& mode)
    {
        using namespace machine;
        const std::uint64_t basic = read_msr(0x480);
        const auto revision = static_cast<std::uint32_t>(basic) & 0x7fffffff;
        if ((cr4() & 0x2000) == 0) {
            if ((read_msr(0x3a) & 1) == 0) write_msr(0x3a, 5);  // IA32_FEATURE_CONTROL: VMX, locked
            set_cr0((cr0() | read_msr(0x486)) & read_msr(0x487));
            set_cr4((cr4() | read_msr(0x488)) & read_msr(0x489));
            *reinterpret_cast<volatile std::uint32_t*>(on_region_) = revision;
            const auto at = reinterpret_cast<std::uint64_t>(on_region_);
            bool failed;
            asm volatile("vmxon %1; setbe %0" : "=qm"(failed) : "m"(at) : "cc", "memory");
            if (failed) fail("VMXON");
        }
        *reinterpret_cast<volatile std::uint32_t*>(vmcs_) = revision;
        const auto at = reinterpret_cast<std::uint64_t>(vmcs_);
        bool failed;
        asm volatile("vmclear %1; setbe %0" : "=qm"(failed) : "m"(at) : "cc", "memory");
        if (failed) fail("VMCLEAR");
        asm volatile("vmptrld %1; setbe %0" : "=qm"(failed) : "m"(at) : "cc", "memory");
        if (failed) fail("VMPTRLD");
        launched_ = false;

        const bool long_mode = mode.levels >= 4;
        const auto eptp = ptebits::eptp_for(ept_root, Ept);
        if (!eptp) fail("EPT pointer");
        eptp_ = eptp.eptp;
        const bool true_controls = (basic >> 55 & 1) != 0;
        write(pin_based, allowed(0, true_controls ? 0x48d : 0x481));
        write(processor_based, allowed(0x80000000, true_controls ? 0x48e : 0x482));  // secondary controls
        write(secondary_processor_based, allowed(2, 0x48b));                         // EPT
        write(exit_controls, allowed(0x200, true_controls ? 0x48f : 0x483));         // 64-bit host
        write(entry_controls, allowed(long_mode ? 0x200 : 0, true_controls ? 0x490 : 0x484));
        write(exception_bitmap, 0xffffffff);
        for (const unsigned f : {0x4006U, 0x4008U, 0x400aU, 0x400eU, 0x4010U, 0x4014U, 0x4016U})
            write(f, 0);  // counts of lists
        for (const unsigned f : {0x6000U, 0x6002U, 0x6004U, 0x6006U})
            write(f, 0);  // masks of CR0 and CR4, and what they show
        write(vmcs_link_pointer, ~std::uint64_t{0});
        write(ept_pointer, eptp_);
        for (unsigned i = 0; i < 4; ++i) write(guest_pdpte + 2 * i, long_mode ? 0 : word_at(guest_at + mode.root)[i]);
        write_host();
        write_guest(mode);
        flush();
    }

    /// At once, on this CPU.
    void flush()
    {
        ptebits::flush_list_of<1, 1> all;
        all.overflow();
        const auto how = ptebits::choose_invept(all, capabilities());
        const auto operands = ptebits::invept_for(how.type, eptp_, capabilities(), physical_bits);
        bool failed = !operands;
        if (!failed) {
            asm volatile("invept %1, %2; setbe %0"
                         : "=qm"(failed)
                         : "m"(operands.descriptor), "r"(operands.number())
                         : "cc", "memory");
        }
        if (failed) fail("INVEPT");
    }

    guest_exit run(guest_registers& r)
    {
        write(guest_rip, r.pc);
        if (const int failed = vmx_run(&r, !launched_); failed != 0) {
            fail("VM entry, error ", failed == 1 ? read(instruction_error) : 0);
        }
        launched_ = true;
        r.pc = read(guest_rip);
        const std::uint64_t why = read(exit_reason);
        if (why == exit_vmcall) return {.how = ending::done};
        const std::uint64_t address = read(guest_physical_address);
        // A misconfiguration has no qualification, and tells no access.
        if (why == exit_misconfiguration) return {.how = ending::fault, .address = address, .told = true};
        if (why != exit_violation) return {.how = ending::other, .address = read(exit_qualification), .reason = why};
        const std::uint64_t code = read(exit_qualification);
        const ptebits::told_fault told = ptebits::ept_violation_told(code, false);
        return {ending::fault, address, 0, code, static_cast<bool>(told), told.access};
    }

private:
    static constexpr unsigned exit_vmcall = 18, exit_violation = 48, exit_misconfiguration = 49;
    // Encodings of fields.
    static constexpr unsigned pin_based = 0x4000, processor_based = 0x4002, exception_bitmap = 0x4004;
    static constexpr unsigned exit_controls = 0x400c, entry_controls = 0x4012, secondary_processor_based = 0x401e;
    static constexpr unsigned vmcs_link_pointer = 0x2800, ept_pointer = 0x201a, guest_pdpte = 0x280a;
    static constexpr unsigned guest_physical_address = 0x2400, instruction_error = 0x4400, exit_reason = 0x4402;
    static constexpr unsigned exit_qualification = 0x6400, guest_rip = 0x681e;

    void write_host()
    {
        write(0x6c00, machine::cr0());
        write(0x6c02, machine::cr3());
        write(0x6c04, machine::cr4());
        for (unsigned f = 0xc00; f <= 0xc0a; f += 2) write(f, f == 0xc02 ? 8 : 0x10);  // ES, CS, SS, DS, FS, GS
        write(0xc0c, 0x18);
        write(0x6c06, 0);
        write(0x6c08, 0);
        const std::uint64_t task = (gdt[3] >> 16 & 0xffffff) | (gdt[3] >> 56) << 24 | gdt[4] << 32;
        write(0x6c0a, task);
        write(0x6c0c, reinterpret_cast<std::uint64_t>(gdt));
        struct [[gnu::packed]] {
            std::uint16_t limit;
            std::uint64_t base;
        } idt;
        asm volatile("sidt %0" : "=m"(idt));
        write(0x6c0e, idt.base);
        for (const unsigned f : {0x4c00U, 0x6c10U, 0x6c12U}) write(f, 0);  // SYSENTER
        write(0x6c16, reinterpret_cast<std::uint64_t>(vmx_exit));
    }
    void write_guest(const guest_mode& mode)
    {
        const bool long_mode = mode.levels >= 4;
        const std::uint64_t vmxe = 0x2000;
        write(0x6800, machine::cr0());
        write(0x6802, mode.root);
        write(0x6804, 0x20 | vmxe | (mode.levels == 5 ? 0x1000 : 0));
        for (unsigned i = 0; i < 8; ++i) {  // ES, CS, SS, DS, FS, GS, LDTR, TR: base, limit, rights, selector
            write(0x6806 + 2 * i, 0);
            write(0x4800 + 2 * i, 0xffffffff);
            write(0x4814 + 2 * i, 0xc093);
            write(0x0800 + 2 * i, 0x10);
        }
        write(0x0802, 8);
        write(0x4816, long_mode ? 0xa09b : 0xc09b);
        write(0x4820, 0x10000);
        write(0x080e, 0x18);
        write(0x4822, 0x8b);
        write(0x480e, 0x67);
        for (const unsigned f : {0x6816U, 0x4810U, 0x6818U, 0x4812U, 0x681cU}) write(f, 0);  // GDTR, IDTR, RSP
        write(0x681a, 0x400);                                                                // DR7
        write(0x6820, 2);                                                                    // RFLAGS
        for (const unsigned f : {0x6822U, 0x6824U, 0x6826U, 0x4824U, 0x4826U, 0x482aU, 0x2802U}) write(f, 0);
    }

    static void write(unsigned f, std::uint64_t v)
    {
        bool failed;
        asm volatile("vmwrite %2, %1; setbe %0" : "=qm"(failed) : "r"(std::uint64_t{f}), "r"(v) : "cc");
        if (failed) fail("VMWRITE ", hex{f});
    }
    static std::uint64_t read(unsigned f)
    {
        std::uint64_t v;
        asm volatile("vmread %1, %0" : "=r"(v) : "r"(std::uint64_t{f}) : "cc");
        return v;
    }
    /// The controls wanted, and those that the CPU demands.
    static std::uint32_t allowed(std::uint32_t wanted, std::uint32_t msr)
    {
        const std::uint64_t m = machine::read_msr(msr);
        const auto v = (wanted | static_cast<std::uint32_t>(m)) & static_cast<std::uint32_t>(m >> 32);
        if ((v & wanted) != wanted) fail("a control of ", hex{msr});
        return v;
    }

    std::uint64_t eptp_ = 0;
    bool launched_ = false;
    alignas(4096) static inline std::uint8_t vmcs_[4096];
    alignas(4096) static inline std::uint8_t on_region_[4096];
};
