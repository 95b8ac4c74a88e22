// SPDX-License-Identifier: BSL-1.0
// Effective memory types: the type of an access by page tables, the PAT, EPT and MTRRs together.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/attributes.hpp>
#include <ptebits/nested_walk.hpp>

namespace ptebits {

/// Intel's and AMD's manuals combine types differently: where caches are not used, AMD's says whether they
/// are probed; and WT with WP is cached by Intel only.
enum class vendor : std::uint8_t { intel, amd };

/// What is wrong with a value of the PAT.
enum class pat_error : std::uint8_t {
    none,
    reserved_type,  ///< a byte that is no memory type: writing the MSR raises #GP, VM entry and VMRUN fail
};

[[nodiscard]] constexpr const char* name(pat_error e) noexcept
{
    constexpr const char* names[] = {"no error", "a byte is no memory type"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// Whether all eight bytes of a PAT are memory types. Intel SDM volume 3, "IA32_PAT MSR"; AMD APM volume 2,
/// "PAT Register".
[[nodiscard]] constexpr pat_error check_pat(std::uint64_t pat) noexcept
{
    for (unsigned index = 0; index < 8; ++index) {
        if (pat_type(pat, index) == memory_type::reserved) return pat_error::reserved_type;
    }
    return pat_error::none;
}

// ---- the manuals' tables

namespace detail {

/// Types in the order of the rows and columns of the tables below; the fifth and sixth are not MTRRs'.
inline constexpr memory_type types_in_order[] = {memory_type::uc,     memory_type::wc, memory_type::wt,
                                                 memory_type::wp,     memory_type::wb, memory_type::uc_minus,
                                                 memory_type::wc_plus};

/// Place of a type in that order; 7 if it has none.
[[nodiscard]] constexpr unsigned place_of(memory_type type) noexcept
{
    unsigned n = 0;
    while (n < 7 && types_in_order[n] != type) ++n;
    return n;
}

/// A table of types, row by row.
template <unsigned Rows, unsigned Columns>
struct type_table {
    memory_type types[Rows][Columns];

    [[nodiscard]] constexpr memory_type at(memory_type row, memory_type column) const noexcept
    {
        const unsigned r = place_of(row);
        const unsigned c = place_of(column);
        return r < Rows && c < Columns ? types[r][c] : memory_type::reserved;
    }
};

// clang-format off
inline constexpr auto intel_types = [] {
    using enum memory_type;
    return type_table<6, 5>{{
        // MTRR:   UC  WC  WT  WP  WB
        /* UC  */ {uc, uc, uc, uc, uc},
        /* WC  */ {wc, wc, wc, wc, wc},
        /* WT  */ {uc, uc, wt, wt, wt},
        /* WP  */ {uc, uc, wp, wp, wp},
        /* WB  */ {uc, wc, wt, wp, wb},
        /* UC- */ {uc, wc, uc, wc, uc},
    }};
}();
inline constexpr auto amd_types = [] {
    using enum memory_type;
    return type_table<7, 5>{{
        // MTRR:   UC  WC  WT       WP       WB
        /* UC  */ {uc, cd, cd,      cd,      cd},
        /* WC  */ {wc, wc, wc,      wc,      wc},
        /* WT  */ {uc, cd, wt,      cd,      wt},
        /* WP  */ {uc, cd, cd,      wp,      wp},
        /* WB  */ {uc, wc, wt,      wp,      wb},
        /* UC- */ {uc, wc, cd,      cd,      cd},
        /* WC+ */ {wc, wc, wc_plus, wc_plus, wc_plus},
    }};
}();
inline constexpr auto nested_pat_types = [] {
    using enum memory_type;
    return type_table<6, 6>{{
        // host:   UC  WC  WT       WP       WB       UC-
        /* UC  */ {uc, uc, uc,      uc,      uc,      uc},
        /* WC  */ {wc, wc, wc_plus, wc_plus, wc_plus, wc},
        /* WT  */ {uc, uc, wt,      uc,      wt,      uc},
        /* WP  */ {uc, uc, uc,      wp,      wp,      uc},
        /* WB  */ {uc, wc, wt,      wp,      wb,      uc},
        /* UC- */ {uc, wc, uc,      uc,      uc,      uc_minus},
    }};
}();
// clang-format on

}  // namespace detail

/// The memory type of a page, from its PAT type (on AMD also a result of combined_pat_type()) and the
/// type that MTRRs give its physical address. Reserved if either is no type. Precondition: CR0.CD = 0.
/// Intel SDM volume 3, "Selecting Memory Types for Pentium III and More Recent Processor Families"; AMD APM
/// volume 2, "Combined Effect of MTRRs and PAT" and "Combining Memory Types, MTRRs".
[[nodiscard]] constexpr memory_type effective_type(memory_type pat, memory_type mtrr, vendor cpu) noexcept
{
    return cpu == vendor::intel ? detail::intel_types.at(pat, mtrr) : detail::amd_types.at(pat, mtrr);
}

/// The PAT type that a guest's and a nested PAT type make together, to be combined with the MTRR's. A guest's
/// WC+ is what two stages above made, and counts as WC. AMD APM volume 2, "Combining Memory Types, MTRRs".
[[nodiscard]] constexpr memory_type combined_pat_type(memory_type guest, memory_type host) noexcept
{
    return detail::nested_pat_types.at(guest == memory_type::wc_plus ? memory_type::wc : guest, host);
}

/// What an EPT leaf says of the type.
struct ept_memory_type {
    memory_type type = memory_type::wb;
    bool ignore_pat = false;

    [[nodiscard]] constexpr bool operator==(const ept_memory_type&) const = default;
};

/// The memory type of a page under EPT, from its leaf and the guest's PAT type, which is WB where the guest's
/// paging is off. MTRRs do not count. `cache_disable` is CR0.CD while the guest runs, which VM entry does not load.
/// Intel SDM volume 3, "Memory Type Used for Translated Guest-Physical Addresses".
[[nodiscard]] constexpr memory_type effective_type(ept_memory_type ept, memory_type pat,
                                                   bool cache_disable = false) noexcept
{
    if (cache_disable) return memory_type::uc;
    return ept.ignore_pat ? ept.type : effective_type(pat, ept.type, vendor::intel);
}

/// The type of accesses to the EPT tables themselves, by the type in the EPT pointer and CR0.CD.
/// Intel SDM volume 3, "Memory Type Used for Accessing EPT Paging Structures".
[[nodiscard]] constexpr memory_type ept_table_type(memory_type in_eptp, bool cache_disable) noexcept
{
    return cache_disable ? memory_type::uc : in_eptp;
}

// ---- walks

/// Index into the PAT of the page that a walk of ordinary or nested paging reached, 0 to 7.
template <entry_format F>
[[nodiscard]] constexpr unsigned pat_index(const walk_result& r, const F& format) noexcept
{
    static_assert(requires { format->pat_large; }, "ptebits: only ordinary and nested entries have a PAT index");
    return pat_index(r.memory_type(), format->layout_at(r.level, kind::leaf), format->fields());
}

/// What the EPT leaf that a walk reached says of the type.
template <entry_format F>
[[nodiscard]] constexpr ept_memory_type ept_type(const walk_result& r, const F& format) noexcept
{
    static_assert(requires { format->ignore_pat; }, "ptebits: only EPT entries hold a memory type");
    return {static_cast<memory_type>(format->memory_type.get(r.memory_type())),
            format->ignore_pat.get(r.memory_type()) != 0};
}

/// What beside the tables decides the memory type of a nested access.
struct memory_type_inputs {
    std::uint64_t guest_pat = pat_after_reset;  ///< the guest's PAT MSR
    std::uint64_t host_pat = pat_after_reset;   ///< NPT: the host's PAT MSR
    memory_type mtrr = memory_type::wb;         ///< NPT: what MTRRs give the physical address
    bool cache_disable = false;                 ///< CR0.CD; NPT: the guest's or the host's
};

namespace detail {

/// PAT type of the page that a guest's walk reached. Without paging it is WB, so that the other stage decides.
template <class Guest>
[[nodiscard]] constexpr memory_type guest_pat_type(const walk_result& r, const Guest& guest, std::uint64_t pat) noexcept
{
    if constexpr (std::is_same_v<Guest, unpaged>) {
        return memory_type::wb;
    } else {
        return pat_type(pat, pat_index(r, guest));
    }
}

}  // namespace detail

/// The memory type of an access through both stages. Precondition: the nested walk reached it.
/// Intel SDM volume 3, "EPT and Memory Typing"; AMD APM volume 2, "Combining Memory Types, MTRRs".
template <class Guest, entry_format Host, class Access>
[[nodiscard]] constexpr memory_type effective_type(const nested_result<Access>& r, const Guest& guest, const Host& host,
                                                   const memory_type_inputs& in = {}) noexcept
{
    const memory_type of_guest = detail::guest_pat_type(r.guest, guest, in.guest_pat);
    if constexpr (requires { host->ignore_pat; }) {
        return effective_type(ept_type(r.host, host), of_guest, in.cache_disable);
    } else {
        if (in.cache_disable) return memory_type::cd;
        const memory_type of_host = pat_type(in.host_pat, pat_index(r.host, host));
        return effective_type(combined_pat_type(of_guest, of_host), in.mtrr, vendor::amd);
    }
}

}  // namespace ptebits
