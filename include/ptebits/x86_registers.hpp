// SPDX-License-Identifier: BSL-1.0
// The registers that hold the roots of x86's tables: the root, their other bits, and what the CPU checks
// of them. CR3, AMD's nCR3, Intel's EPT pointer, HLAT pointer and SPP table pointer; the four top entries
// of PAE.
#pragma once

#include <cstdint>

#include <ptebits/formats/x86_fields.hpp>
#include <ptebits/walk.hpp>

namespace ptebits {

// ---- CR3 and its like

/// Why a register gives no root.
enum class root_error : std::uint8_t {
    none,
    no_tables,      ///< the format is wrong, and so has no tables
    reserved_bits,  ///< bits that must be 0
};

[[nodiscard]] constexpr const char* name(root_error e) noexcept
{
    constexpr const char* names[] = {"no error", "the format has no tables", "reserved bits set"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(root_error::reserved_bits) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The bits of CR3 that are not the root. Intel SDM volume 3, "Paging": tables of the use of CR3.
struct cr3_fields {
    static constexpr field write_through = bit(3);
    static constexpr field cache_disable = bit(4);
    static constexpr field pcid = bits(11, 0);  ///< with CR4.PCIDE, in place of the two above
    static constexpr field lam_u57 = bit(61);
    static constexpr field lam_u48 = bit(62);
    static constexpr field no_flush = bit(63);  ///< of MOV to CR3, with CR4.PCIDE
};

/// What decides which bits CR3 has. Both count in long mode only.
struct cr3_controls {
    bool pcide = false;                ///< CR4.PCIDE
    bool linear_address_mask = false;  ///< the CPU has LAM, CPUID (7,1) EAX[26]
};

/// What CR3 says, or why there is no root.
struct cr3_root {
    std::uint64_t root = 0;  ///< physical address of the top table, in bytes
    root_error error = root_error::none;
    std::uint64_t bits = 0;      ///< those that are reserved
    bool write_through = false;  ///< PWT, of accesses to the top table; Intel's PAE has none
    bool cache_disable = false;  ///< PCD, of the same
    bool encrypted = false;      ///< the C-bit of the format
    std::uint16_t key_id = 0;    ///< of the top table, where the format has key identifiers
    bool lam_u57 = false;        ///< user addresses are masked to 57 bits
    bool lam_u48 = false;        ///< user addresses are masked to 48 bits, if lam_u57 is not set
    bool no_flush = false;       ///< a MOV to CR3 keeps the translations of the PCID
    std::uint16_t pcid = 0;      ///< 0 without CR4.PCIDE

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == root_error::none; }
};

/// The root of ordinary or nested paging in a value of CR3, and what its other bits say. The format gives the
/// paging mode: 32-bit and PAE paging ignore bits 63:32, and PAE's table is aligned to 32 bytes.
/// Intel SDM volume 3, "Paging"; AMD APM volume 2, "CR3 Register".
template <entry_format F>
[[nodiscard]] constexpr cr3_root root_of_cr3(std::uint64_t cr3, const F& format, const cr3_controls& cpu = {}) noexcept
{
    static_assert(
        requires { format->cache_disable; },
        "ptebits: CR3 holds the root of ordinary or nested paging, not that of EPT (root_of_eptp)");
    const shape& s = format->shape();
    cr3_root r;
    if (s.levels == 0) {
        r.error = root_error::no_tables;
        return r;
    }
    const bool long_mode = s.levels >= 4;
    const bool pcide = long_mode && cpu.pcide;
    const unsigned width = long_mode ? format->features().physical_bits : 32;
    const std::uint64_t encryption = long_mode ? format->encryption.mask() : 0;
    std::uint64_t reserved = long_mode ? ones(63, width) & ~encryption : 0;
    if (pcide) reserved &= ~cr3_fields::no_flush.mask();
    if (cpu.linear_address_mask) reserved &= ~(cr3_fields::lam_u57 | cr3_fields::lam_u48);
    if (r.bits = cr3 & reserved; r.bits != 0) {
        r.error = root_error::reserved_bits;
        return r;
    }
    const field key = long_mode ? static_cast<field>(format->key_id) : field{};
    r.root = cr3 & ones(width - 1, s.table_shift(s.levels)) & ~(encryption | key.mask());
    r.key_id = static_cast<std::uint16_t>(key.get(cr3));
    r.encrypted = (cr3 & encryption) != 0;
    r.pcid = pcide ? static_cast<std::uint16_t>(cr3_fields::pcid.get(cr3)) : std::uint16_t{0};
    r.write_through = !pcide && cr3_fields::write_through.get(cr3) != 0;
    r.cache_disable = !pcide && cr3_fields::cache_disable.get(cr3) != 0;
    r.lam_u57 = long_mode && cr3_fields::lam_u57.get(cr3) != 0;
    r.lam_u48 = long_mode && cr3_fields::lam_u48.get(cr3) != 0;
    r.no_flush = long_mode && cr3_fields::no_flush.get(cr3) != 0;
    return r;
}

/// The same for nCR3, the VMCB's nested CR3, which has the form of the host's CR3 without PCID.
/// AMD APM volume 2, "Nested Paging and VMRUN/#VMEXIT".
template <entry_format F>
[[nodiscard]] constexpr cr3_root root_of_ncr3(std::uint64_t ncr3, const F& format) noexcept
{
    return root_of_cr3(ncr3, format);
}

/// The same for the HLAT pointer, of which bits 2:0 and 11:5 must be 0, too. Intel SDM volume 3, "HLAT Paging".
template <entry_format F>
[[nodiscard]] constexpr cr3_root root_of_hlatp(std::uint64_t hlatp, const F& format) noexcept
{
    cr3_root r = root_of_cr3(hlatp, format);
    const std::uint64_t beside = cr3_fields::pcid.mask() & ~(cr3_fields::write_through | cr3_fields::cache_disable);
    if (!r || (hlatp & beside) == 0) return r;
    r = {};
    r.error = root_error::reserved_bits;
    r.bits = hlatp & beside;
    return r;
}

/// The root of the sub-page permission tables of an EPT format, from their pointer, which has no other bits.
/// Intel SDM volume 3, "Sub-Page Write Permissions".
template <entry_format F>
[[nodiscard]] constexpr cr3_root root_of_spptp(std::uint64_t spptp, const F& format) noexcept
{
    cr3_root r;
    if (format->shape().levels == 0) {
        r.error = root_error::no_tables;
    } else if (is_root(spptp, format)) {
        r.root = spptp;
    } else {
        r.error = root_error::reserved_bits;
        r.bits = spptp & ~format->address_mask(1, kind::leaf);
    }
    return r;
}

// ---- PAE's top entries

/// Checks PAE's four top entries as the CPU does when CR3 is loaded. Returns the first present one
/// that has reserved bits set, if any. Intel SDM volume 3, "PDPTE Registers".
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr finding check_pdptes(const F& format, std::uint64_t root, Memory&& memory, Access how = {})
{
    if (format->shape().levels != 3 || !is_root(root, format)) return {rule::no_such_level, root};
    for (unsigned i = 0; i < 4; ++i) {
        std::uint64_t entry = 0;
        if (!detail::read_slot(memory, how, root + i * sizeof(std::uint64_t), entry)) continue;
        if (const finding f = diagnose(entry, 3, format)) return f;
    }
    return {};
}

// ---- the EPT pointer

/// What is wrong with an EPT pointer: VM entry refuses it, or it does not agree with the format.
enum class eptp_error : std::uint8_t {
    none,
    memory_type,     ///< neither UC nor WB, or the CPU lacks it
    walk_length,     ///< neither 4 nor 5 levels, or the CPU lacks them; not those of the format
    accessed_dirty,  ///< A/D enabled on a CPU without; or not as in the format
    shadow_stack,    ///< supervisor shadow-stack control on a CPU without; or not as in the format
    reserved_bits,   ///< bits 11:8, or at and above the physical-address width
    root,            ///< the root for a new pointer is misaligned or too wide
};

[[nodiscard]] constexpr const char* name(eptp_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "memory type",
                                     "page-walk length",
                                     "accessed and dirty flags",
                                     "supervisor shadow-stack control",
                                     "reserved bits set",
                                     "the root is misaligned or too wide"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(eptp_error::root) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The bits of an EPT pointer that are not the root. Intel SDM volume 3, "Extended-Page-Table Pointer (EPTP)".
struct eptp_fields {
    static constexpr field memory_type = bits(2, 0);
    static constexpr field walk_length = bits(5, 3);  ///< levels, less 1
    static constexpr field accessed_dirty = bit(6);
    static constexpr field supervisor_shadow_stack = bit(7);
    static constexpr field reserved = bits(11, 8);
};

/// What VM entry checks of an EPT pointer, by IA32_VMX_EPT_VPID_CAP and MAXPHYADDR.
/// Intel SDM volume 3, "VM-Execution Control Fields" under "Checks on VMX Controls".
[[nodiscard]] constexpr eptp_error check_eptp(std::uint64_t eptp, std::uint64_t capabilities,
                                              unsigned physical_bits) noexcept
{
    const auto capable = [&](unsigned index) { return (capabilities >> index & 1) != 0; };
    const auto type = static_cast<memory_type>(eptp_fields::memory_type.get(eptp));
    const std::uint64_t levels = eptp_fields::walk_length.get(eptp) + 1;
    if (!(type == memory_type::uc && capable(8)) && !(type == memory_type::wb && capable(14)))
        return eptp_error::memory_type;
    if (!(levels == 4 && capable(6)) && !(levels == 5 && capable(7))) return eptp_error::walk_length;
    if (eptp_fields::accessed_dirty.get(eptp) != 0 && !capable(21)) return eptp_error::accessed_dirty;
    if (eptp_fields::supervisor_shadow_stack.get(eptp) != 0 && !capable(23)) return eptp_error::shadow_stack;
    if ((eptp & (eptp_fields::reserved.mask() | ones(63, physical_bits))) != 0) return eptp_error::reserved_bits;
    return eptp_error::none;
}

/// What an EPT pointer says, and whether it agrees with the format.
struct eptp_root {
    std::uint64_t root = 0;  ///< physical address of the top table, in bytes; 0 with an error
    eptp_error error = eptp_error::none;
    memory_type type = memory_type::uc;  ///< of accesses to the tables
    unsigned levels = 0;
    bool accessed_dirty = false;
    bool supervisor_shadow_stack = false;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == eptp_error::none; }
};

/// The root in an EPT pointer, and what its other bits say. Errors: the pointer and the format differ.
/// Whether the CPU accepts the pointer is for check_eptp().
template <entry_format F>
[[nodiscard]] constexpr eptp_root root_of_eptp(std::uint64_t eptp, const F& format) noexcept
{
    static_assert(requires { format->ignore_pat; }, "ptebits: an EPT pointer holds the root of an EPT format");
    const auto& on = format->features();
    eptp_root r;
    r.type = static_cast<memory_type>(eptp_fields::memory_type.get(eptp));
    r.levels = static_cast<unsigned>(eptp_fields::walk_length.get(eptp)) + 1;
    r.accessed_dirty = eptp_fields::accessed_dirty.get(eptp) != 0;
    r.supervisor_shadow_stack = eptp_fields::supervisor_shadow_stack.get(eptp) != 0;
    if (r.type != memory_type::uc && r.type != memory_type::wb) {
        r.error = eptp_error::memory_type;
    } else if (r.levels != format->shape().levels) {
        r.error = eptp_error::walk_length;
    } else if (r.accessed_dirty != on.accessed_dirty) {
        r.error = eptp_error::accessed_dirty;
    } else if (r.supervisor_shadow_stack != on.supervisor_shadow_stack) {
        r.error = eptp_error::shadow_stack;
    } else if ((eptp & (eptp_fields::reserved.mask() | ones(63, on.physical_bits))) != 0) {
        r.error = eptp_error::reserved_bits;
    } else {
        r.root = eptp & format->address_mask(1, kind::leaf);
    }
    return r;
}

/// An EPT pointer, or why there is none (then 0).
struct encoded_eptp {
    std::uint64_t eptp = 0;
    eptp_error error = eptp_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == eptp_error::none; }
};

/// The EPT pointer to a root (bytes) of a format. `type` is that of accesses to the tables: WB or UC.
template <entry_format F>
[[nodiscard]] constexpr encoded_eptp eptp_for(std::uint64_t root, const F& format,
                                              memory_type type = memory_type::wb) noexcept
{
    static_assert(requires { format->ignore_pat; }, "ptebits: an EPT pointer holds the root of an EPT format");
    const auto& on = format->features();
    if (type != memory_type::uc && type != memory_type::wb) return {0, eptp_error::memory_type};
    if (format->shape().levels == 0) return {0, eptp_error::walk_length};
    if (!is_root(root, format)) return {0, eptp_error::root};
    return {root | eptp_fields::memory_type(static_cast<std::uint64_t>(type)) |
            eptp_fields::walk_length(format->shape().levels - 1) | eptp_fields::accessed_dirty(on.accessed_dirty) |
            eptp_fields::supervisor_shadow_stack(on.supervisor_shadow_stack)};
}

}  // namespace ptebits
