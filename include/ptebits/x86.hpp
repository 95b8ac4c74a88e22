// SPDX-License-Identifier: BSL-1.0
// How x86's MMUs walk: accesses, the controls that they are judged by, rights, the codes of
// faults and the way back from a code. For ordinary paging, NPT and EPT.
#pragma once

#include <cstdint>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/walk.hpp>

namespace ptebits {

/// What an access does. A read-modify-write needs both rights and counts as a write.
enum class operation : std::uint8_t { read, write, fetch, read_write };

/// One access to memory.
struct memory_access {
    operation what = operation::read;
    bool user = false;            ///< CPL 3, or WRUSS; EPT: to a user-mode linear address, as the guest's U/S says
    bool implicit = false;        ///< a supervisor access to a system structure: EFLAGS.AC does not count
    bool shadow_stack = false;    ///< to the shadow stack: by CALL, RET, WRSS, RSTORSSP and the like
    bool guest_table = false;     ///< nested regimes: made by the guest's own page walk
    bool linear = true;           ///< nested regimes: a linear address is valid (qualification bit 7)
    bool guest_writes = true;     ///< EPT: the guest's translation allows writes (qualification bit 10)
    bool guest_fetches = true;    ///< EPT: and execution (qualification bit 11 is its opposite)
    bool unblocks_nmi = false;    ///< EPT: NMI unblocking by IRET (qualification bit 12)
    bool asynchronous = false;    ///< EPT: not by an instruction, as of a processor trace (qualification bit 16)
    bool paging_writable = true;  ///< EPT: all leaves that mapped the guest's tables have PW

    [[nodiscard]] constexpr bool writes() const noexcept
    {
        return what == operation::write || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool reads() const noexcept
    {
        return what == operation::read || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == operation::fetch; }
    [[nodiscard]] constexpr bool operator==(const memory_access&) const = default;
};

/// The CPU's controls over walks that are not part of the format. Each stage has its own.
struct cpu_controls {
    bool write_protect = true;         ///< CR0.WP
    bool smep = false;                 ///< CR4.SMEP
    bool smap = false;                 ///< CR4.SMAP
    bool alignment_check = false;      ///< EFLAGS.AC
    bool lass = false;                 ///< CR4.LASS
    bool lam_u48 = false;              ///< CR3[62]: user pointers have 48 bits, if lam_u57 is not set
    bool lam_u57 = false;              ///< CR3[61]: user pointers have 57 bits
    bool lam_sup = false;              ///< CR4.LAM_SUP: supervisor pointers have as many bits as tables translate
    std::uint32_t pkru = 0;            ///< two bits a key: access disable, write disable
    std::uint32_t pkrs = 0;            ///< the same for supervisor pages
    bool exit_information = false;     ///< EPT: IA32_VMX_EPT_VPID_CAP[22], qualification bits 9 to 11 are told
    std::uint64_t sub_page_table = 0;  ///< EPT: SPPTP, physical address of the sub-page permission table, in bytes
};

/// What a fault's code tells of the walk.
struct fault_facts {
    fault_kind fault = fault_kind::none;
    bool key_denies = false;                                    ///< #PF bit 5
    bool no_hlat_translation = false;                           ///< #PF bit 7: in HLAT paging, not for its rights
    permissions allowed = {false, false, false, false, false};  ///< qualification bits 6:3
    bool shadow_stack_page = false;                             ///< the nested leaf is a supervisor shadow stack's
    bool not_verified = false;                                  ///< EPT: refused by guest-paging verification

    [[nodiscard]] constexpr bool operator==(const fault_facts&) const = default;
};

/// What a code tells: the access and the fault. Nothing where hardware reports no such code.
struct told_fault {
    memory_access access;
    fault_facts facts;
    bool exists = false;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return exists; }
};

// ---- rights

namespace detail {

/// Whether all entries of a walk but the leaf allow writes. Precondition: the walk came to a page.
template <entry_format F>
[[nodiscard]] constexpr bool writable_above(const walk_result& r, const F& format) noexcept
{
    for (unsigned i = 0; i + 1 < r.steps; ++i) {
        if (!format->layout_at(r.level_of(i), kind::table).grants(r.path[i].entry, role::write)) return false;
    }
    return true;
}

}  // namespace detail

/// Whether the page's protection key denies a data access. Intel SDM volume 3, "Protection Keys".
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool key_denies(unsigned key, permissions page, const memory_access& a,
                                                       const cpu_controls& cpu, const F& format) noexcept
{
    const auto& on = format->features();
    if (a.fetches() || !(page.user ? on.user_keys : on.supervisor_keys)) return false;
    const std::uint32_t rights = (page.user ? cpu.pkru : cpu.pkrs) >> 2 * (key & 15);
    const bool access_disabled = (rights & 1) != 0;
    const bool write_disabled = (rights & 2) != 0 && (a.user || cpu.write_protect);
    return access_disabled || (a.writes() && write_disabled);
}

/// Whether the page that a walk came to is one of a shadow stack: dirty and not writable, below entries
/// that allow writes. Intel SDM volume 3, "Shadow-Stack Pages" under "Determination of Access Rights".
template <entry_format F>
[[nodiscard]] constexpr bool is_shadow_stack_page(const walk_result& r, const F& format) noexcept
{
    return detail::of_shadow_stack(r.last_entry(), format) && detail::writable_above(r, format);
}

/// Ordinary paging: linear addresses; #PF with an error code. Intel SDM volume 3, "Determination
/// of Access Rights"; AMD APM volume 2, "Page-Protection Checks".
struct ordinary_paging {
    using access = memory_access;
    using controls = cpu_controls;

    /// Masks the pointer (LAM) and holds its half of the address space against the mode of the access
    /// (LASS). Intel SDM volume 3, "Linear-Address Masking", "Linear-Address Space Separation".
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr fault_kind admit(std::uint64_t& address, const access& a,
                                                                   const controls& cpu, const F& format) noexcept
    {
        const bool masks = cpu.lam_u48 || cpu.lam_u57 || cpu.lam_sup;
        if ((!cpu.lass && !masks) || format->shape().above != extension::sign) [[likely]]
            return fault_kind::none;
        return admit_in_long_mode(address, a, cpu, format->shape().address_bits());
    }

    /// What a broken rule is called.
    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned level, const F& format) noexcept
    {
        const bool pdpte = level == 3 && format->shape().levels == 3;
        return pdpte ? fault_kind::pdpte_reserved : fault_kind::reserved_bits;
    }

    /// The bits by which an entry ends a walk: R of HLAT paging. Intel SDM volume 3, "HLAT Paging".
    template <entry_format F>
    [[nodiscard]] static constexpr std::uint64_t ends_by(const F& format) noexcept
    {
        return format->restart.mask();
    }

    /// Whether the entries of a walk allow an access; tells what the leaf's protection key says.
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(walk_result& r, std::uint64_t leaf, const access& a,
                                                              const controls& cpu, const F& format) noexcept
    {
        const field key = format->protection_key;
        if (key.exists()) r.key_denies = key_denies(static_cast<unsigned>(key.get(leaf)), r.allowed, a, cpu, format);
        if (a.shadow_stack) [[unlikely]]
            return !r.key_denies && r.allowed.user == a.user && is_shadow_stack_page(r, format);
        return !r.key_denies && allows(r.allowed, a, cpu);
    }

    /// Whether permissions allow an access, protection keys and shadow stacks aside.
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

    /// What the format adds to the code.
    template <entry_format F>
    static constexpr void tell(fault_facts& facts, const walk_result& r, const access&, const F& format) noexcept
    {
        const bool none = r.fault == fault_kind::not_present || r.fault == fault_kind::reserved_bits;
        facts.no_hlat_translation = format->restart.exists() && none;
    }
    template <entry_format F>
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;

private:
    [[nodiscard]] static constexpr fault_kind admit_in_long_mode(std::uint64_t& address, const access& a,
                                                                 const controls& cpu, unsigned bits) noexcept
    {
        const bool upper = address >> 63 != 0;
        if (cpu.lass) {
            const bool wrong = a.user        ? upper
                               : a.fetches() ? !upper
                                             : !upper && cpu.smap && (a.implicit || !cpu.alignment_check);
            if (wrong) return fault_kind::wrong_half;
        }
        if (a.fetches() || a.implicit) return fault_kind::none;
        const unsigned kept = upper ? (cpu.lam_sup ? bits : 64) : cpu.lam_u57 ? 57 : cpu.lam_u48 ? 48 : 64;
        if (kept == 64) return fault_kind::none;
        if ((address >> (kept - 1) & 1) != (address >> 63)) return fault_kind::not_canonical;
        const std::uint64_t masked = ones(62, kept);
        address = upper ? address | masked : address & ~masked;
        return fault_kind::none;
    }
};

/// What nested and extended paging have in common: guest-physical addresses.
struct second_stage_paging {
    using access = memory_access;
    using controls = cpu_controls;  // the host's

    /// Whether permissions allow an access.
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(permissions page, const access& a) noexcept
    {
        if (a.fetches()) return a.user ? page.user_execute : page.execute;
        return (!a.reads() || page.read) && (!a.writes() || page.write);
    }
};

/// AMD's nested paging: #NPF with EXITINFO1. AMD APM volume 2, "Nested Paging".
struct nested_paging : second_stage_paging {
    using second_stage_paging::allows;

    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const F&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(walk_result& r, std::uint64_t, const access& a,
                                                              const controls&, const F& format) noexcept
    {
        if (a.shadow_stack && !a.user && !a.guest_table && restricts_shadow_stacks(format)) [[unlikely]]
            return is_supervisor_shadow_stack_page(r, format);
        return allows(r.allowed, a);
    }

    /// Whether the page that a walk came to is one for supervisor shadow stacks: NX set and U/S clear in the
    /// leaf, R/W set in the entries above. AMD APM volume 2, "Supervisor Shadow Stacks".
    template <entry_format F>
    [[nodiscard]] static constexpr bool is_supervisor_shadow_stack_page(const walk_result& r, const F& format) noexcept
    {
        const layout& page = format->layout_at(1, kind::leaf);
        const std::uint64_t leaf = r.last_entry();
        return restricts_shadow_stacks(format) && !page.grants(leaf, role::execute) && !page.grants(leaf, role::user) &&
               detail::writable_above(r, format);
    }
    /// What the leaf adds to the code.
    template <entry_format F>
    static constexpr void tell(fault_facts& facts, const walk_result& r, const access&, const F& format) noexcept
    {
        facts.shadow_stack_page = r.page_shift != 0 && is_supervisor_shadow_stack_page(r, format);
    }
    template <entry_format F>
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;

    /// The access to a guest's table: a user write; with read-only guest tables a read, unless A or D is set.
    template <entry_format F>
    [[nodiscard]] static constexpr access table_access(const F& format, bool update) noexcept
    {
        const bool writes = update || !format->features().read_only_guest_tables;
        return {.what = writes ? operation::write : operation::read, .user = true, .guest_table = true};
    }
    /// Whether a table that could be read may be one that must not be written.
    template <entry_format F>
    [[nodiscard]] static constexpr bool updates_may_fault(const F& format) noexcept
    {
        return format->features().read_only_guest_tables;
    }
    /// A guest's fault as it is here: PDPTEs are read on demand, so that their reserved bits are a #PF.
    [[nodiscard]] static constexpr fault_kind guest_fault(fault_kind f) noexcept
    {
        return f == fault_kind::pdpte_reserved ? fault_kind::reserved_bits : f;
    }

private:
    /// The restriction has no effect where the host has no NX.
    template <entry_format F>
    [[nodiscard]] static constexpr bool restricts_shadow_stacks(const F& format) noexcept
    {
        return format->features().supervisor_shadow_stack && format->layout_at(1, kind::leaf).mask(role::execute) != 0;
    }
};

/// Intel's EPT: a violation with a qualification, or a misconfiguration. Intel SDM volume 3, "EPT
/// Translation Mechanism".
struct extended_paging : second_stage_paging {
    using second_stage_paging::allows;

    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const F&) noexcept
    {
        return fault_kind::misconfiguration;
    }

    /// Whether the entries of a walk allow an access. A supervisor shadow-stack access goes by SSS in place
    /// of the leaf's W; a write of the guest's A and D by PW, too. Intel SDM volume 3, "EPT Violations".
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(walk_result& r, std::uint64_t leaf, const access& a,
                                                              const controls&, const F& format) noexcept
    {
        if (is_supervisor_shadow_stack(a, format)) [[unlikely]] {
            return r.allowed.read && format->supervisor_shadow_stack.get(leaf) != 0 &&
                   detail::writable_above(r, format);
        }
        if (allows(r.allowed, a)) return !fails_verification(leaf, a, format);
        return a.guest_table && r.allowed.read && format->paging_write.get(leaf) != 0 &&
               detail::writable_above(r, format);
    }

    /// A refused write to a page whose write permission is kept by sub-pages of 128 bytes. Intel SDM
    /// volume 3, "Sub-Page Write Permissions".
    template <entry_format F, class Memory, slot_access Access>
    [[nodiscard]] static constexpr fault_kind on_refusal(const walk_result& r, fault_kind refused,
                                                         std::uint64_t address, const access& a, const controls& cpu,
                                                         const F& format, Memory& memory, Access how)
    {
        if (!format->sub_page_write.exists()) return refused;
        const bool by_sub_page = a.writes() && !a.guest_table && !is_supervisor_shadow_stack(a, format) &&
                                 r.allowed.read && !r.allowed.write && r.level == 1 &&
                                 format->sub_page_write.get(r.last_entry()) != 0;
        return by_sub_page ? sub_page_walk(address, cpu, format, memory, how) : refused;
    }

    /// What the leaf adds to the qualification.
    template <entry_format F>
    static constexpr void tell(fault_facts& facts, const walk_result& r, const access& a, const F& format) noexcept
    {
        if (r.page_shift == 0) return;
        facts.shadow_stack_page = format->supervisor_shadow_stack.get(r.last_entry()) != 0;
        facts.not_verified =
            r.fault == fault_kind::protection && allows(r.allowed, a) && fails_verification(r.last_entry(), a, format);
    }
    template <entry_format F>
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                            const F& format) noexcept;

    /// The access to a guest's table: a read, which counts as a write too where EPT sets A and D; to set the
    /// guest's A and D a read and write.
    template <entry_format F>
    [[nodiscard]] static constexpr access table_access(const F& format, bool update) noexcept
    {
        const bool sets_flags = format->accessed_by() == accessed_setter::hardware;
        return {
            .what = sets_flags || update ? operation::read_write : operation::read, .user = true, .guest_table = true};
    }
    template <entry_format F>
    [[nodiscard]] static constexpr bool updates_may_fault(const F& format) noexcept
    {
        return format->accessed_by() != accessed_setter::hardware;
    }
    /// Modes are told apart by what the guest's tables say of the linear address, not by the CPL.
    [[nodiscard]] static constexpr access final_access(access a, const permissions& in_guest,
                                                       bool paging_writable) noexcept
    {
        a.user = in_guest.user;
        a.guest_writes = in_guest.write;
        a.guest_fetches = in_guest.execute;
        a.paging_writable = paging_writable;
        return a;
    }

    /// The bit of a leaf that allows writes of a guest's A and D: PW.
    template <entry_format F>
    [[nodiscard]] static constexpr std::uint64_t paging_write_bits(const F& format) noexcept
    {
        return format->paging_write.mask();
    }

    /// Whether guest-paging verification refuses a page: it wants all leaves that mapped the guest's tables to
    /// have PW, and acts only with EPT paging-write. Intel SDM volume 3, "Guest-Paging Verification".
    template <entry_format F>
    [[nodiscard]] static constexpr bool fails_verification(std::uint64_t leaf, const access& a,
                                                           const F& format) noexcept
    {
        return format->verify_guest_paging.get(leaf) != 0 && format->paging_write.exists() && !a.guest_table &&
               !a.paging_writable;
    }

private:
    template <entry_format F>
    [[nodiscard]] static constexpr bool is_supervisor_shadow_stack(const access& a, const F& format) noexcept
    {
        return format->supervisor_shadow_stack.exists() && a.shadow_stack && !a.user && !a.guest_table;
    }

    /// Walks the sub-page permission table: four levels, indexed as EPT's. Its lowest entries have two bits for
    /// each of 32 sub-pages, of which the upper must be 0.
    template <entry_format F, class Memory, slot_access Access>
    [[nodiscard]] static constexpr fault_kind sub_page_walk(std::uint64_t guest_physical, const controls& cpu,
                                                            const F& format, Memory& memory, Access how);
};

// ---- codes

namespace detail {

// Bits of the #PF error code; EXITINFO1 has them too. Intel SDM volume 3, "Page-Fault Exceptions".
inline constexpr field code_present = bit(0);
inline constexpr field code_write = bit(1);
inline constexpr field code_user = bit(2);
inline constexpr field code_reserved = bit(3);
inline constexpr field code_fetch = bit(4);
inline constexpr field code_key = bit(5);
inline constexpr field code_shadow_stack = bit(6);
inline constexpr field code_hlat = bit(7);
// EXITINFO1 only. AMD APM volume 2, "Nested versus Guest Page Faults".
inline constexpr field exit_final = bit(32);
inline constexpr field exit_guest_table = bit(33);
inline constexpr field exit_shadow_stack = bit(37);

// The exit qualification. Intel SDM volume 3, "Exit Qualification for EPT Violations".
inline constexpr field qualified_read = bit(0);
inline constexpr field qualified_write = bit(1);
inline constexpr field qualified_fetch = bit(2);
inline constexpr field qualified_readable = bit(3);
inline constexpr field qualified_writable = bit(4);
inline constexpr field qualified_executable = bit(5);
inline constexpr field qualified_user_executable = bit(6);
inline constexpr field qualified_linear = bit(7);
inline constexpr field qualified_final = bit(8);
inline constexpr field qualified_user = bit(9);
inline constexpr field qualified_guest_writes = bit(10);
inline constexpr field qualified_guest_no_fetch = bit(11);
inline constexpr field qualified_nmi = bit(12);
inline constexpr field qualified_shadow_stack = bit(13);
inline constexpr field qualified_shadow_stack_page = bit(14);
inline constexpr field qualified_not_verified = bit(15);
inline constexpr field qualified_asynchronous = bit(16);
// The qualification of an SPP-related event.
inline constexpr field sub_page_was_missed = bit(11);

/// A field of one bit, set or not; and whether it is set in a code.
[[nodiscard]] constexpr std::uint64_t flag(field f, bool set) noexcept { return set ? f.mask() : 0; }
[[nodiscard]] constexpr bool has(std::uint64_t code, field f) noexcept { return (code & f.mask()) != 0; }

}  // namespace detail

/// What a walk's result tells to its code. What leaves say counts where a page was reached.
template <walkable_format F>
[[nodiscard]] constexpr fault_facts facts_of(const walk_result& r, const memory_access& a, const F& format) noexcept
{
    fault_facts facts;
    facts.fault = r.fault;
    facts.key_denies = r.key_denies;
    facts.allowed = r.allowed;
    regime_of<F>::tell(facts, r, a, format);
    return facts;
}

/// #PF error code. `fetches_are_told`: NXE or SMEP is on. None for what raises no #PF.
/// Intel SDM volume 3, "Page-Fault Exceptions".
[[nodiscard]] constexpr reported_code page_fault_code(const fault_facts& f, const memory_access& a,
                                                      bool fetches_are_told) noexcept
{
    using namespace detail;
    const bool found = f.fault == fault_kind::protection || f.fault == fault_kind::reserved_bits;
    if (!found && f.fault != fault_kind::not_present) return {};
    return {flag(code_present, found) | flag(code_write, a.writes()) | flag(code_user, a.user) |
                flag(code_reserved, f.fault == fault_kind::reserved_bits) |
                flag(code_fetch, a.fetches() && fetches_are_told) | flag(code_key, f.key_denies) |
                flag(code_shadow_stack, a.shadow_stack) | flag(code_hlat, f.no_hlat_translation),
            true};
}

/// #NPF EXITINFO1. As above; bit 2 is set, since every nested access is a user's, but with GMET tells the mode of
/// a final access (errata make it unreliable there). AMD APM volume 2, "Nested versus Guest Page Faults".
[[nodiscard]] constexpr reported_code npf_exit_info(const fault_facts& f, memory_access a, bool fetches_are_told,
                                                    bool modes_apart) noexcept
{
    using namespace detail;
    a.user = a.user || a.guest_table || !modes_apart;
    reported_code code = page_fault_code(f, a, fetches_are_told);
    if (!code) return {};
    code.value |= (a.guest_table ? exit_guest_table : exit_final).mask() | flag(exit_shadow_stack, f.shadow_stack_page);
    return code;
}

/// Exit qualification of an EPT violation or misconfiguration (0), and of an SPP-related event.
/// `exit_information`: bits 9 to 11 are told, of an access to what the guest's tables lead to. Intel SDM
/// volume 3, "Exit Qualification for EPT Violations", "Exit Qualification for SPP-Related Events".
[[nodiscard]] constexpr reported_code ept_qualification(const fault_facts& f, const memory_access& a,
                                                        bool exit_information) noexcept
{
    using namespace detail;
    const bool final = a.linear && !a.guest_table;
    switch (f.fault) {
    case fault_kind::misconfiguration:
        return {0, true};
    case fault_kind::sub_page_misconfiguration:
    case fault_kind::sub_page_miss:
        return {flag(sub_page_was_missed, f.fault == fault_kind::sub_page_miss) | flag(qualified_nmi, a.unblocks_nmi),
                true};
    case fault_kind::not_present:
    case fault_kind::protection:
    case fault_kind::address_too_wide:
        break;
    default:
        return {};
    }
    std::uint64_t code = flag(qualified_linear, a.linear) | flag(qualified_final, final) |
                         flag(qualified_read, a.reads()) | flag(qualified_write, a.writes()) |
                         flag(qualified_fetch, a.fetches()) | flag(qualified_readable, f.allowed.read) |
                         flag(qualified_writable, f.allowed.write) | flag(qualified_executable, f.allowed.execute) |
                         flag(qualified_user_executable, f.allowed.user_execute) | flag(qualified_nmi, a.unblocks_nmi) |
                         flag(qualified_shadow_stack, a.shadow_stack) |
                         flag(qualified_shadow_stack_page, f.shadow_stack_page) |
                         flag(qualified_not_verified, f.not_verified) | flag(qualified_asynchronous, a.asynchronous);
    if (exit_information && final) {
        code |= flag(qualified_user, a.user) | flag(qualified_guest_writes, a.guest_writes) |
                flag(qualified_guest_no_fetch, !a.guest_fetches);
    }
    return {code, true};
}

namespace detail {

/// Whether codes tell fetches apart: NXE or SMEP is on.
template <entry_format F>
[[nodiscard]] constexpr bool fetches_are_told(const cpu_controls& cpu, const F& format) noexcept
{
    return cpu.smep || format->layout_at(1, kind::leaf).mask(role::execute) != 0;
}

}  // namespace detail

/// The codes of a walk's fault. The controls are those of the format's own stage: of NPT the host's.
template <walkable_format F>
[[nodiscard]] constexpr reported_code page_fault_code(const walk_result& r, const memory_access& a,
                                                      const cpu_controls& cpu, const F& format) noexcept
{
    return page_fault_code(facts_of(r, a, format), a, detail::fetches_are_told(cpu, format));
}
template <walkable_format F>
[[nodiscard]] constexpr reported_code npf_exit_info(const walk_result& r, const memory_access& a,
                                                    const cpu_controls& cpu, const F& format) noexcept
{
    return npf_exit_info(facts_of(r, a, format), a, detail::fetches_are_told(cpu, format), format->modes_apart());
}
template <walkable_format F>
[[nodiscard]] constexpr reported_code ept_qualification(const walk_result& r, const memory_access& a,
                                                        const cpu_controls& cpu, const F& format) noexcept
{
    fault_facts facts = facts_of(r, a, format);
    facts.allowed.user_execute = facts.allowed.user_execute && format->modes_apart();
    return ept_qualification(facts, a, cpu.exit_information);
}

template <entry_format F>
constexpr reported_code ordinary_paging::fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                    const F& format) noexcept
{
    return page_fault_code(r, a, cpu, format);
}
template <entry_format F>
constexpr reported_code nested_paging::fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                  const F& format) noexcept
{
    return npf_exit_info(r, a, cpu, format);
}
template <entry_format F>
constexpr reported_code extended_paging::fault_code(const walk_result& r, const access& a, const controls& cpu,
                                                    const F& format) noexcept
{
    return ept_qualification(r, a, cpu, format);
}

// ---- the way back

namespace detail {

/// Bits that a code may have, and combinations that none has.
[[nodiscard]] constexpr bool is_page_fault_code(std::uint64_t code) noexcept
{
    const std::uint64_t known = code_present | code_write | code_user | code_reserved.mask() | code_fetch.mask() |
                                code_key.mask() | code_shadow_stack.mask() | code_hlat.mask();
    if ((code & ~known) != 0) return false;
    if (has(code, code_fetch) && (has(code, code_write) || has(code, code_key) || has(code, code_shadow_stack)))
        return false;
    if (has(code, code_reserved) && (!has(code, code_present) || has(code, code_key))) return false;
    if (has(code, code_hlat) && has(code, code_present) && !has(code, code_reserved)) return false;
    return has(code, code_present) || !has(code, code_key);
}

}  // namespace detail

/// What a #PF error code tells. A read-modify-write is told as a write, an implicit access as a supervisor's,
/// and a fetch as a read where neither NXE nor SMEP is on. Nothing where no page fault has this code.
[[nodiscard]] constexpr told_fault page_fault_told(std::uint64_t code) noexcept
{
    using namespace detail;
    if (!is_page_fault_code(code)) return {};
    told_fault told;
    told.exists = true;
    told.access.what = has(code, code_fetch)   ? operation::fetch
                       : has(code, code_write) ? operation::write
                                               : operation::read;
    told.access.user = has(code, code_user);
    told.access.shadow_stack = has(code, code_shadow_stack);
    told.facts.fault = has(code, code_reserved)  ? fault_kind::reserved_bits
                       : has(code, code_present) ? fault_kind::protection
                                                 : fault_kind::not_present;
    told.facts.key_denies = has(code, code_key);
    told.facts.no_hlat_translation = has(code, code_hlat);
    return told;
}

/// What EXITINFO1 of a nested page fault tells. `modes_apart`: GMET is on; without it bit 2 is always set.
[[nodiscard]] constexpr told_fault npf_told(std::uint64_t exit_info, bool modes_apart) noexcept
{
    using namespace detail;
    const std::uint64_t own = exit_final | exit_guest_table | exit_shadow_stack.mask();
    told_fault told = page_fault_told(exit_info & ~own);
    const bool may_be_clear = modes_apart && !has(exit_info, exit_guest_table);
    const bool shadow_stack_page_reached =
        !has(exit_info, exit_shadow_stack) || told.facts.fault == fault_kind::protection;
    if (!told || has(exit_info, exit_final) == has(exit_info, exit_guest_table) || has(exit_info, code_key) ||
        has(exit_info, code_hlat) || !shadow_stack_page_reached || (!has(exit_info, code_user) && !may_be_clear)) {
        return {};
    }
    told.access.guest_table = has(exit_info, exit_guest_table);
    told.facts.shadow_stack_page = has(exit_info, exit_shadow_stack);
    return told;
}

/// What the exit qualification of an EPT violation tells. `exit_information`: bits 9 to 11 are told. A violation of
/// an entry that is not present is told apart from one of rights by the rights: none at all.
[[nodiscard]] constexpr told_fault ept_violation_told(std::uint64_t qualification, bool exit_information) noexcept
{
    using namespace detail;
    const bool final = has(qualification, qualified_final);
    const bool data = has(qualification, qualified_read) || has(qualification, qualified_write);
    if ((qualification & ~ones(16, 0)) != 0 || data == has(qualification, qualified_fetch)) return {};
    if (final && !has(qualification, qualified_linear)) return {};
    const bool tells_guest = final && exit_information;
    const bool of_guest = has(qualification, qualified_user) || has(qualification, qualified_guest_writes) ||
                          has(qualification, qualified_guest_no_fetch);
    if (of_guest && !tells_guest) return {};

    told_fault told;
    told.exists = true;
    memory_access& a = told.access;
    a.what = has(qualification, qualified_fetch)    ? operation::fetch
             : !has(qualification, qualified_write) ? operation::read
             : has(qualification, qualified_read)   ? operation::read_write
                                                    : operation::write;
    a.linear = has(qualification, qualified_linear);
    a.guest_table = a.linear && !final;
    a.user = tells_guest ? has(qualification, qualified_user) : a.guest_table;
    a.guest_writes = !tells_guest || has(qualification, qualified_guest_writes);
    a.guest_fetches = !tells_guest || !has(qualification, qualified_guest_no_fetch);
    a.unblocks_nmi = has(qualification, qualified_nmi);
    a.asynchronous = has(qualification, qualified_asynchronous);
    a.shadow_stack = has(qualification, qualified_shadow_stack);
    a.paging_writable = !has(qualification, qualified_not_verified);
    fault_facts& f = told.facts;
    f.allowed.read = has(qualification, qualified_readable);
    f.allowed.write = has(qualification, qualified_writable);
    f.allowed.execute = has(qualification, qualified_executable);
    f.allowed.user_execute = has(qualification, qualified_user_executable);
    f.shadow_stack_page = has(qualification, qualified_shadow_stack_page);
    f.not_verified = has(qualification, qualified_not_verified);
    const permissions& p = f.allowed;
    const bool reached = p.read || p.write || p.execute || p.user_execute || f.shadow_stack_page || f.not_verified;
    f.fault = reached ? fault_kind::protection : fault_kind::not_present;
    f.allowed.user = reached;
    return told;
}

/// Whether an EPT violation becomes exception 20 (#VE) in the guest, with the same qualification: the entry that
/// ended the walk has SVE clear. `area_is_busy`: bytes 4 to 7 of the #VE information area are not 0.
/// Intel SDM volume 3, "Convertible EPT Violations".
template <walkable_format F>
    requires requires(const F& f) { f->suppress_ve; }
[[nodiscard]] constexpr bool raises_ve(const walk_result& r, bool area_is_busy, const F& format) noexcept
{
    const bool violation = r.fault == fault_kind::not_present || r.fault == fault_kind::protection;
    return violation && !area_is_busy && format->suppress_ve.exists() && format->suppress_ve.get(r.last_entry()) == 0;
}

// ---- sub-page write permissions

template <entry_format F, class Memory, slot_access Access>
constexpr fault_kind extended_paging::sub_page_walk(std::uint64_t guest_physical, const controls& cpu, const F& format,
                                                    Memory& memory, Access how)
{
    // Intel SDM volume 3, "Sub-Page Permission Table".
    constexpr field valid = bit(0);
    constexpr field address = bits(51, 12);
    constexpr std::uint64_t always_0 = ones(11, 1);
    constexpr std::uint64_t upper_bits = 0xaaaa'aaaa'aaaa'aaaa;
    constexpr unsigned sub_page_shift = 7;
    const shape& s = format->shape();
    std::uint64_t table = cpu.sub_page_table;
    if (!is_root(table, format)) return fault_kind::sub_page_misconfiguration;  // its tables lie as EPT's do
    for (unsigned level = 4;; --level) {
        std::uint64_t entry = 0;
        if (!detail::read_slot(memory, how, s.slot_address(table, guest_physical, level), entry)) {
            return fault_kind::memory_absent;
        }
        if (level == 1) {
            if ((entry & upper_bits) != 0) return fault_kind::sub_page_misconfiguration;
            const auto sub_page = static_cast<unsigned>(guest_physical >> sub_page_shift & ones(4, 0));
            return (entry >> 2 * sub_page & 1) != 0 ? fault_kind::none : fault_kind::protection;
        }
        if (valid.get(entry) == 0) return fault_kind::sub_page_miss;
        if ((entry & (always_0 | ones(63, format->features().physical_bits))) != 0) {
            return fault_kind::sub_page_misconfiguration;
        }
        table = entry & address.mask();
    }
}

}  // namespace ptebits
