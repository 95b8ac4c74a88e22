// SPDX-License-Identifier: BSL-1.0
// How x86's MMUs walk: accesses, the controls that they are judged by, rights, the codes of
// faults, and what is checked of registers. For ordinary paging, NPT and EPT.
#pragma once

#include <cstdint>

#include <ptebits/formats/shadow.hpp>
#include <ptebits/walk.hpp>

namespace ptebits {

/// What an access does. A read-modify-write needs both rights and counts as a write.
enum class operation : std::uint8_t { read, write, fetch, read_write };

/// One access to memory.
struct memory_access {
    operation what = operation::read;
    bool user = false;         ///< CPL 3; EPT with mode-based execute: a user-mode linear address
    bool implicit = false;     ///< a supervisor access to a system structure: EFLAGS.AC does not count
    bool guest_table = false;  ///< nested regimes: made by the guest's own page walk
    bool linear = true;        ///< nested regimes: a linear address is valid (qualification bit 7)

    [[nodiscard]] constexpr bool writes() const noexcept
    {
        return what == operation::write || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool reads() const noexcept
    {
        return what == operation::read || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == operation::fetch; }
};

/// The CPU's controls over ordinary paging that are not part of the format.
struct cpu_controls {
    bool write_protect = true;     ///< CR0.WP
    bool smep = false;             ///< CR4.SMEP
    bool smap = false;             ///< CR4.SMAP
    bool alignment_check = false;  ///< EFLAGS.AC
    bool user_keys = false;        ///< CR4.PKE
    bool supervisor_keys = false;  ///< CR4.PKS
    std::uint32_t pkru = 0;        ///< two bits a key: access disable, write disable
    std::uint32_t pkrs = 0;        ///< the same for supervisor pages
};

// ---- rights

/// Whether the page's protection key denies a data access. Intel SDM volume 3, "Protection Keys".
[[nodiscard]] PTEBITS_INLINE constexpr bool key_denies(unsigned key, permissions page, const memory_access& a,
                                                       const cpu_controls& cpu) noexcept
{
    if (a.fetches() || !(page.user ? cpu.user_keys : cpu.supervisor_keys)) return false;
    const std::uint32_t rights = (page.user ? cpu.pkru : cpu.pkrs) >> 2 * (key & 15);
    const bool access_disabled = (rights & 1) != 0;
    const bool write_disabled = (rights & 2) != 0 && (a.user || cpu.write_protect);
    return access_disabled || (a.writes() && write_disabled);
}

/// Ordinary paging: linear addresses; #PF with an error code. Intel SDM volume 3, "Determination
/// of Access Rights"; AMD APM volume 2, "Page-Protection Checks".
struct ordinary_paging {
    using access = memory_access;
    using controls = cpu_controls;

    /// What a broken rule is called.
    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned level, const F& format) noexcept
    {
        const bool pdpte = level == 3 && format->shape().levels == 3;
        return pdpte ? fault_kind::pdpte_reserved : fault_kind::reserved_bits;
    }

    /// Whether the entries of a walk allow an access; tells what the leaf's protection key says.
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(walk_result& r, std::uint64_t leaf, const access& a,
                                                              const controls& cpu, const F& format) noexcept
    {
        const field key = format->protection_key;
        if (key.exists()) r.key_denies = key_denies(static_cast<unsigned>(key.get(leaf)), r.allowed, a, cpu);
        return !r.key_denies && allows(r.allowed, a, cpu);
    }

    /// Whether permissions allow an access, protection keys aside.
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(permissions page, const access& a,
                                                              const controls& cpu) noexcept
    {
        if (a.user) {
            if (!page.user) return false;
            return a.fetches() ? page.user_execute : !a.writes() || page.write;
        }
        if (a.fetches()) return page.execute && !(cpu.smep && page.user);
        if (cpu.smap && page.user && (a.implicit || !cpu.alignment_check)) return false;
        return !a.writes() || page.write || !cpu.write_protect;
    }

    template <entry_format F>
    [[nodiscard]] static constexpr std::uint64_t fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;
};

/// What nested and extended paging have in common: guest-physical addresses.
struct second_stage_paging {
    using access = memory_access;
    using controls = cpu_controls;

    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(walk_result& r, std::uint64_t, const access& a,
                                                              const controls&, const F&) noexcept
    {
        return allows(r.allowed, a);
    }

    /// Whether permissions allow an access.
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(permissions page, const access& a) noexcept
    {
        if (a.fetches()) return a.user ? page.user_execute : page.execute;
        return (!a.reads() || page.read) && (!a.writes() || page.write);
    }
};

/// AMD's nested paging: #NPF with EXITINFO1. AMD APM volume 2, "Nested Paging".
struct nested_paging : second_stage_paging {
    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const F&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    template <entry_format F>
    [[nodiscard]] static constexpr std::uint64_t fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;

    /// The access to a guest's table: a user write.
    template <entry_format F>
    [[nodiscard]] static constexpr access table_access(const F&, bool /*update*/) noexcept
    {
        return {.what = operation::write, .user = true, .guest_table = true};
    }
    /// Whether a table that could be read may be one that must not be written.
    template <entry_format F>
    [[nodiscard]] static constexpr bool updates_may_fault(const F&) noexcept
    {
        return false;
    }
    /// The access to the address that the guest's tables lead to. GMET goes by the CPL.
    [[nodiscard]] static constexpr access final_access(const access& a, const walk_result&) noexcept { return a; }
};

/// Intel's EPT: a violation with a qualification, or a misconfiguration. Intel SDM volume 3, "EPT
/// Translation Mechanism".
struct extended_paging : second_stage_paging {
    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const F&) noexcept
    {
        return fault_kind::misconfiguration;
    }
    template <entry_format F>
    [[nodiscard]] static constexpr std::uint64_t fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;

    /// The access to a guest's table: a read; a read and write where EPT sets A and D, else a
    /// write to set the guest's.
    template <entry_format F>
    [[nodiscard]] static constexpr access table_access(const F& format, bool update) noexcept
    {
        const bool sets_flags = format->accessed_by() == accessed_setter::hardware;
        return {.what = sets_flags ? operation::read_write
                        : update   ? operation::write
                                   : operation::read,
                .user = true,
                .guest_table = true};
    }
    template <entry_format F>
    [[nodiscard]] static constexpr bool updates_may_fault(const F& format) noexcept
    {
        return format->accessed_by() != accessed_setter::hardware;
    }
    /// XU is for linear addresses that user mode may use.
    [[nodiscard]] static constexpr access final_access(access a, const walk_result& in_guest) noexcept
    {
        a.user = in_guest.allowed.user;
        return a;
    }
};

// ---- codes

/// #PF error code of a fault. Intel SDM volume 3, "Page-Fault Exceptions".
template <walkable_format F>
[[nodiscard]] constexpr std::uint32_t page_fault_code(const walk_result& r, const memory_access& a,
                                                      const cpu_controls& cpu, const F& format) noexcept
{
    const bool was_present = r.fault == fault_kind::protection || r.fault == fault_kind::reserved_bits;
    const bool nxe = format->layout_at(1, kind::leaf).mask(role::execute) != 0;
    return static_cast<std::uint32_t>(was_present) | static_cast<std::uint32_t>(a.writes()) << 1 |
           static_cast<std::uint32_t>(a.user) << 2 |
           static_cast<std::uint32_t>(r.fault == fault_kind::reserved_bits) << 3 |
           static_cast<std::uint32_t>(a.fetches() && (nxe || cpu.smep)) << 4 |
           static_cast<std::uint32_t>(r.key_denies) << 5;
}

/// #NPF EXITINFO1 of a fault. AMD APM volume 2, "Nested versus Guest Page Faults".
template <walkable_format F>
[[nodiscard]] constexpr std::uint64_t npf_exit_info(const walk_result& r, const memory_access& a,
                                                    const F& format) noexcept
{
    memory_access as_user = a;
    as_user.user = true;
    const std::uint64_t where = std::uint64_t{1} << (a.guest_table ? 33 : 32);
    return page_fault_code(r, as_user, cpu_controls{}, format) | where;
}

/// Exit qualification of an EPT violation. Intel SDM volume 3, "Exit Qualification for EPT Violations".
template <walkable_format F>
[[nodiscard]] constexpr std::uint64_t ept_qualification(const walk_result& r, const memory_access& a,
                                                        const F& format) noexcept
{
    const bool modes_apart = format->modes_apart();
    return static_cast<std::uint64_t>(a.reads()) | static_cast<std::uint64_t>(a.writes()) << 1 |
           static_cast<std::uint64_t>(a.fetches()) << 2 | static_cast<std::uint64_t>(r.allowed.read) << 3 |
           static_cast<std::uint64_t>(r.allowed.write) << 4 | static_cast<std::uint64_t>(r.allowed.execute) << 5 |
           static_cast<std::uint64_t>(modes_apart && r.allowed.user_execute) << 6 |
           static_cast<std::uint64_t>(a.linear) << 7 | static_cast<std::uint64_t>(a.linear && !a.guest_table) << 8;
}

template <entry_format F>
constexpr std::uint64_t ordinary_paging::fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                    const F& format) noexcept
{
    return page_fault_code(r, a, cpu, format);
}
template <entry_format F>
constexpr std::uint64_t nested_paging::fault_code(const walk_result& r, const access& a, const controls&,
                                                  const F& format) noexcept
{
    return npf_exit_info(r, a, format);
}
template <entry_format F>
constexpr std::uint64_t extended_paging::fault_code(const walk_result& r, const access& a, const controls&,
                                                    const F& format) noexcept
{
    return ept_qualification(r, a, format);
}

// ---- registers

/// What the CPU checks of PAE's four top entries when CR3 is loaded: the first present one
/// that has reserved bits set. Intel SDM volume 3, "PDPTE Registers".
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr finding check_pdptes(const F& format, std::uint64_t root, Memory&& memory, Access how = {})
{
    for (unsigned i = 0; i < 4; ++i) {
        const auto* const slot = slot_in<std::uint64_t>(memory, root + i * sizeof(std::uint64_t));
        if (slot == nullptr) continue;
        if (const finding f = diagnose(how.load(*slot), 3, format)) return f;
    }
    return {};
}

/// Why VM entry refuses an EPT pointer.
enum class eptp_error : std::uint8_t {
    none,
    memory_type,     ///< neither UC nor WB, or the CPU lacks it
    walk_length,     ///< neither 4 nor 5 levels, or the CPU lacks it
    accessed_dirty,  ///< A/D enabled on a CPU without
    shadow_stack,    ///< supervisor shadow-stack control on a CPU without
    reserved_bits,   ///< bits 11:8, or at and above the physical-address width
};

/// What VM entry checks of an EPT pointer, by IA32_VMX_EPT_VPID_CAP and MAXPHYADDR.
/// Intel SDM volume 3, "VM-Execution Control Fields" under "Checks on VMX Controls".
[[nodiscard]] constexpr eptp_error check_eptp(std::uint64_t eptp, std::uint64_t capabilities,
                                              unsigned physical_bits) noexcept
{
    const auto capable = [&](unsigned index) { return (capabilities >> index & 1) != 0; };
    const std::uint64_t type = bits(2, 0).get(eptp);
    const std::uint64_t levels = bits(5, 3).get(eptp) + 1;
    if (!(type == 0 && capable(8)) && !(type == 6 && capable(14))) return eptp_error::memory_type;
    if (!(levels == 4 && capable(6)) && !(levels == 5 && capable(7))) return eptp_error::walk_length;
    if (bit(6).get(eptp) != 0 && !capable(21)) return eptp_error::accessed_dirty;
    if (bit(7).get(eptp) != 0 && !capable(23)) return eptp_error::shadow_stack;
    if ((eptp & (ones(11, 8) | ones(63, physical_bits))) != 0) return eptp_error::reserved_bits;
    return eptp_error::none;
}

}  // namespace ptebits
