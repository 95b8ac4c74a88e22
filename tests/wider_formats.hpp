// SPDX-License-Identifier: BSL-1.0
// Formats that the library does not have, as users of it would write them: both stages of AArch64,
// and 32-bit Arm. Each has a regime with what its walks need, no more.
#pragma once

#include <cstdint>

#include <ptebits/ptebits.hpp>

namespace wider {

using namespace ptebits;

// ---- accesses

enum class action : std::uint8_t { read, write, fetch };

/// One access to memory.
struct request {
    action what = action::read;
    bool user = false;  ///< Arm: from EL0

    [[nodiscard]] constexpr bool writes() const noexcept { return what == action::write; }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == action::fetch; }
};

/// What Arm's regimes have in common. Arm Architecture Reference Manual, "MMU fault types".
struct arm_paging {
    using access = request;

    template <entry_format F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule r, unsigned, const F&) noexcept
    {
        return r == rule::beyond_the_width ? fault_kind::address_size : fault_kind::not_present;
    }

    /// Fault status code of a walk over 64-bit entries.
    template <entry_format F>
    [[nodiscard]] static constexpr unsigned status(const walk_result& r, const F& format) noexcept
    {
        const unsigned level = r.level == 0 ? 0 : format->manual_level(r.level);
        switch (r.fault) {
        case fault_kind::address_size:
            return 0x00 + level;
        case fault_kind::not_present:
        case fault_kind::address_too_wide:
            return 0x04 + level;
        case fault_kind::access_flag:
            return 0x08 + level;
        case fault_kind::protection:
            return 0x0c + level;
        case fault_kind::memory_absent:
            return 0x14 + level;
        default:
            return 0x3f;  // no fault, or one that Arm does not have
        }
    }
};

// ---- AArch64

/// Whether a granule has one of the sizes. Units: log2 of bytes.
constexpr bool is_granule(unsigned g) { return g == 12 || g == 14 || g == 16; }

/// Blocks: what maps more than a page.
inline constexpr entries blocks = leaf_at(2) | leaf_at(3) | run_at(2) | run_at(3);

/// Levels of blocks: 2 Mbytes and 1 Gbyte; 32 Mbytes; 512 Mbytes, and 4 Tbytes with 52-bit addresses.
template <class Features>
constexpr entries pages_and_blocks(const Features& f, unsigned levels)
{
    const unsigned top = f.granule == 12 || (f.granule == 16 && f.large_addresses) ? 3 : 2;
    const unsigned runs_end = f.granule == 12 ? 3 : 2;
    return leaves_up_to(levels < top ? levels : top) | tables_up_to(levels) |
           entries_from(1, levels < runs_end ? levels : runs_end, kind::run);
}

/// The tables of a granule. The top one has what index bits are left, which concatenation makes
/// more than those of the others.
template <class Features>
constexpr dimensions arm_dimensions(const Features& f, unsigned levels)
{
    dimensions d{.levels = levels, .granule = f.granule};
    const auto index = static_cast<std::uint8_t>(is_granule(f.granule) ? f.granule - 3 : 9);
    for (std::uint8_t& bits : d.index_bits) bits = index;
    if (levels < 1 || levels > 4) return d;
    const unsigned below = f.granule + (levels - 1) * index;
    d.index_bits[levels - 1] = static_cast<std::uint8_t>(f.input_bits > below ? f.input_bits - below : 1);
    d.run_bits[0] = f.granule == 12 ? 4 : f.granule == 14 ? 7 : 5;
    d.run_bits[1] = f.granule == 12 ? 4 : 5;
    d.run_bits[2] = f.granule == 12 ? 4 : 0;
    return d;
}

/// What is wrong with sizes that both stages have.
template <class Features>
constexpr defect arm_sizes(const Features& f)
{
    if (!is_granule(f.granule)) return defect::levels;
    const bool wide = f.granule == 16 && f.large_addresses;
    const unsigned least = f.granule == 16 ? 17 : 16;
    const unsigned most = wide ? 52 : 48;
    if (least > f.input_bits || f.input_bits > most) return defect::levels;
    if (f.physical_bits > most) return defect::physical_bits;
    return f.dirty_state && !f.access_flag ? defect::contradiction : defect::none;
}

struct stage1_description;

/// What TCR_EL1 makes of one half of stage 1's addresses. Also what the CPU has: its features.
struct stage1_features {
    using description = stage1_description;

    unsigned granule = 12;         ///< TG0, TG1: log2 of 4, 16, or 64 Kbytes
    unsigned input_bits = 48;      ///< 64 - T0SZ
    unsigned physical_bits = 48;   ///< IPS, and what the CPU and the granule have
    bool access_flag = true;       ///< HA
    bool dirty_state = true;       ///< HD
    bool hierarchical = true;      ///< not HPD0
    bool large_addresses = false;  ///< FEAT_LPA and FEAT_LVA, 64-Kbyte granule
    bool upper_half = false;       ///< TTBR1_EL1

    [[nodiscard]] constexpr bool operator==(const stage1_features&) const = default;
};

struct stage1_fields {
    entry_field attributes, unprivileged, read_only, shareability, not_global, dirty_modifier, contiguous,
        privileged_never, unprivileged_never;
};

struct stage1_controls {
    bool privileged_never = false;     ///< PSTATE.PAN
    bool write_execute_never = false;  ///< SCTLR_EL1.WXN
};

/// Arm Architecture Reference Manual, "Memory access control".
struct stage1_paging : arm_paging {
    using controls = stage1_controls;

    template <entry_format F>
    [[nodiscard]] static constexpr bool allows(walk_result& r, std::uint64_t, const access& a, const controls& cpu,
                                               const F&) noexcept
    {
        const permissions& p = r.allowed;
        const bool writable = p.write && (p.user || !a.user);
        if (a.fetches()) {
            return (a.user ? p.user_execute : p.execute) && !(cpu.write_execute_never && writable);
        }
        if (a.user && !p.user) return false;
        if (!a.user && p.user && cpu.privileged_never) return false;
        return !a.writes() || writable;
    }
};

/// Arm Architecture Reference Manual, "VMSAv8-64 translation table format descriptors", stage 1
/// of EL1&0.
struct stage1_description {
    using features = stage1_features;
    using fields = stage1_fields;
    using when = condition<features>;
    using regime = stage1_paging;

    static constexpr when pages_4k{"4-Kbyte granule", [](const features& f, unsigned) { return f.granule == 12; }};
    static constexpr when pages_16k{"16-Kbyte granule", [](const features& f, unsigned) { return f.granule == 14; }};
    static constexpr when pages_64k{"64-Kbyte granule", [](const features& f, unsigned) { return f.granule == 16; }};
    static constexpr when lpa{"FEAT_LPA",
                              [](const features& f, unsigned) { return f.granule == 16 && f.large_addresses; }};
    static constexpr when no_lpa{"without FEAT_LPA",
                                 [](const features& f, unsigned) { return f.granule == 16 && !f.large_addresses; }};
    static constexpr when contiguous{
        "contiguous entries", [](const features& f, unsigned level) { return level <= (f.granule == 12 ? 3U : 2U); }};
    static constexpr when hd{"TCR_EL1.HD", &features::dirty_state};
    static constexpr when not_hpd{"not TCR_EL1.HPD", &features::hierarchical};
    static constexpr entries single = leaves_up_to(max_levels);
    static constexpr entries pages = leaf_at(1) | run_at(1);

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"",           bits(1, 0),   tables | pages, is(3)},
        {"",           bits(1, 0),   blocks,         is(1)},
        {"",           bits(11, 2),  tables,         role::software},
        {"AttrIndx",   bits(4, 2),   leaves,         role::memory_type,         &fields::attributes},
        {"NS",         bit(5),       leaves,         role::attribute},
        {"AP[1]",      bit(6),       leaves,         role::user,                &fields::unprivileged},
        {"AP[2]",      bit(7),       leaves,         denies(role::write),       &fields::read_only},
        {"SH",         bits(9, 8),   leaves,         role::memory_type,         &fields::shareability},
        {"AF",         bit(10),      leaves,         role::accessed},
        {"nG",         bit(11),      leaves,         role::attribute,           &fields::not_global},
        {"",           bits(47, 12), every, address_with(role::written, role::beyond), nullptr, pages_4k},
        {"",           bits(13, 12), every,          writes(0),                 nullptr, pages_16k},
        {"",           bits(47, 14), every, address_with(role::written, role::beyond), nullptr, pages_16k},
        row<features, fields>
        {"",           bits(15, 12), every, address_with(role::written, role::beyond), nullptr, lpa}.holding(48),
        {"",           bits(15, 12), every,          writes(0),                 nullptr, no_lpa},
        {"",           bits(47, 16), every, address_with(role::written, role::beyond), nullptr, pages_64k},
        {"",           bits(49, 48), every,          writes(0)},
        {"",           bit(50),      tables,         writes(0)},
        {"GP",         bit(50),      leaves,         role::attribute},
        {"DBM",        bit(51),      leaves,         role::dirty_modifier,      &fields::dirty_modifier, hd, role::software},
        {"",           bits(58, 51), tables,         role::software},
        {"Contiguous", bit(52),      single,         is(0),                     &fields::contiguous, contiguous, role::attribute},
        {"Contiguous", bit(52),      runs,           is(1),                     &fields::contiguous},
        {"PXN",        bit(53),      leaves,         denies(role::execute),     &fields::privileged_never},
        {"UXN",        bit(54),      leaves,         denies(role::user_execute), &fields::unprivileged_never},
        {"",           bits(63, 55), leaves,         role::software},
        {"PXNTable",   bit(59),      tables,         denies(role::execute),     nullptr, not_hpd, role::software},
        {"UXNTable",   bit(60),      tables,         denies(role::user_execute), nullptr, not_hpd, role::software},
        {"APTable[0]", bit(61),      tables,         denies(role::user),        nullptr, not_hpd, role::software},
        {"APTable[1]", bit(62),      tables,         denies(role::write),       nullptr, not_hpd, role::software},
        {"NSTable",    bit(63),      tables,         role::attribute},
    };
    // clang-format on

    static constexpr unsigned levels_of(const features& f)
    {
        if (!is_granule(f.granule) || f.input_bits <= f.granule) return 1;
        return 1 + (f.input_bits - 1 - f.granule) / (f.granule - 3);
    }
    static constexpr dimensions shape_of(const features& f)
    {
        dimensions d = arm_dimensions(f, levels_of(f));
        d.above = f.upper_half ? extension::ones : extension::zeros;
        return d;
    }
    static constexpr entries entries_of(const features& f) { return pages_and_blocks(f, levels_of(f)); }
    static constexpr defect contradiction(const features& f) { return arm_sizes(f); }
    static constexpr accessed_setter accessed_by(const features& f)
    {
        return f.access_flag ? accessed_setter::hardware : accessed_setter::fault;
    }
    static constexpr unsigned manual_level(unsigned level, const features&) { return 4 - level; }

    // Privileged reads are always allowed; what EL0 may write, EL1 never executes.
    static constexpr permissions allowed(permissions by_role, kind k, const features&)
    {
        if (k != kind::table && by_role.user && by_role.write) by_role.execute = false;
        return by_role;
    }
};

template <stage1_features Features>
inline constexpr constant_format<stage1_description, Features> stage1{};

struct stage2_description;

/// What VTCR_EL2 makes of stage 2's tables. Also what the CPU has: its features.
struct stage2_features {
    using description = stage2_description;

    unsigned granule = 12;         ///< TG0: log2 of 4, 16, or 64 Kbytes
    unsigned levels = 4;           ///< SL0, by way of the granule
    unsigned input_bits = 48;      ///< 64 - T0SZ
    unsigned physical_bits = 48;   ///< PS, and what the CPU and the granule have
    bool access_flag = true;       ///< HA
    bool dirty_state = true;       ///< HD
    bool execute_by_level = true;  ///< FEAT_XNX
    bool large_addresses = false;  ///< FEAT_LPA, 64-Kbyte granule

    [[nodiscard]] constexpr bool operator==(const stage2_features&) const = default;
};

struct stage2_fields {
    entry_field attributes, shareability, dirty_modifier, contiguous, execute_never;
};

/// Arm Architecture Reference Manual, "Stage 2 permissions".
struct stage2_paging : arm_paging {
    struct controls {};

    template <entry_format F>
    [[nodiscard]] static constexpr bool allows(walk_result& r, std::uint64_t, const access& a, const controls&,
                                               const F&) noexcept
    {
        if (a.fetches()) return a.user ? r.allowed.user_execute : r.allowed.execute;
        return a.writes() ? r.allowed.write : r.allowed.read;
    }
};

/// Arm Architecture Reference Manual, "VMSAv8-64 translation table format descriptors", stage 2.
struct stage2_description {
    using features = stage2_features;
    using fields = stage2_fields;
    using when = condition<features>;
    using regime = stage2_paging;

    static constexpr when pages_4k{"4-Kbyte granule", [](const features& f, unsigned) { return f.granule == 12; }};
    static constexpr when pages_16k{"16-Kbyte granule", [](const features& f, unsigned) { return f.granule == 14; }};
    static constexpr when pages_64k{"64-Kbyte granule", [](const features& f, unsigned) { return f.granule == 16; }};
    static constexpr when lpa{"FEAT_LPA",
                              [](const features& f, unsigned) { return f.granule == 16 && f.large_addresses; }};
    static constexpr when no_lpa{"without FEAT_LPA",
                                 [](const features& f, unsigned) { return f.granule == 16 && !f.large_addresses; }};
    static constexpr when contiguous{
        "contiguous entries", [](const features& f, unsigned level) { return level <= (f.granule == 12 ? 3U : 2U); }};
    static constexpr when hd{"VTCR_EL2.HD", &features::dirty_state};
    static constexpr when xnx{"FEAT_XNX", &features::execute_by_level};
    static constexpr entries single = leaves_up_to(max_levels);
    static constexpr entries pages = leaf_at(1) | run_at(1);

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"",           bits(1, 0),   tables | pages, is(3)},
        {"",           bits(1, 0),   blocks,         is(1)},
        {"",           bits(11, 2),  tables,         role::software},
        {"MemAttr",    bits(5, 2),   leaves,         role::memory_type,         &fields::attributes},
        {"S2AP[0]",    bit(6),       leaves,         role::read},
        {"S2AP[1]",    bit(7),       leaves,         role::write},
        {"SH",         bits(9, 8),   leaves,         role::memory_type,         &fields::shareability},
        {"AF",         bit(10),      leaves,         role::accessed},
        {"FnXS",       bit(11),      leaves,         role::attribute},
        {"",           bits(47, 12), every, address_with(role::written, role::beyond), nullptr, pages_4k},
        {"",           bits(13, 12), every,          writes(0),                 nullptr, pages_16k},
        {"",           bits(47, 14), every, address_with(role::written, role::beyond), nullptr, pages_16k},
        row<features, fields>
        {"",           bits(15, 12), every, address_with(role::written, role::beyond), nullptr, lpa}.holding(48),
        {"",           bits(15, 12), every,          writes(0),                 nullptr, no_lpa},
        {"",           bits(47, 16), every, address_with(role::written, role::beyond), nullptr, pages_64k},
        {"",           bits(50, 48), every,          writes(0)},
        {"DBM",        bit(51),      leaves,         role::dirty_modifier,      &fields::dirty_modifier, hd, role::software},
        {"",           bits(63, 51), tables,         role::software},
        {"Contiguous", bit(52),      single,         is(0),                     &fields::contiguous, contiguous, role::attribute},
        {"Contiguous", bit(52),      runs,           is(1),                     &fields::contiguous},
        {"XN[0]",      bit(53),      leaves,         denies(role::user_execute), nullptr, xnx, writes(0)},
        {"XN[1]",      bit(54),      leaves,         denies(role::execute),     &fields::execute_never},
        {"",           bits(63, 55), leaves,         role::software},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f) { return arm_dimensions(f, f.levels); }
    static constexpr entries entries_of(const features& f) { return pages_and_blocks(f, f.levels); }
    static constexpr defect contradiction(const features& f)
    {
        if (const defect d = arm_sizes(f); d != defect::none) return d;
        if (f.levels < 1 || f.levels > (f.granule == 12 ? 4U : 3U)) return defect::levels;
        // Up to 16 tables side by side at the top.
        const unsigned below = f.granule + (f.levels - 1) * (f.granule - 3);
        const bool fits = f.input_bits > below && f.input_bits <= below + f.granule - 3 + 4;
        return fits ? defect::none : defect::levels;
    }
    static constexpr accessed_setter accessed_by(const features& f)
    {
        return f.access_flag ? accessed_setter::hardware : accessed_setter::fault;
    }
    static constexpr unsigned manual_level(unsigned level, const features&) { return 4 - level; }

    // XN[1:0] is a code: 0 both, 1 EL0 only, 2 neither, 3 EL1 only. The roles tell the two bits.
    static constexpr bool modes_apart(const features& f) { return f.execute_by_level; }
    static constexpr permissions allowed(permissions by_role, kind, const features& f)
    {
        const bool xn_0 = f.execute_by_level && !by_role.user_execute;
        const bool xn_1 = !by_role.execute;
        by_role.user_execute = !xn_1;
        by_role.execute = xn_1 == xn_0;
        if (!f.execute_by_level) by_role.execute = by_role.user_execute;
        return by_role;
    }
    static constexpr permissions roles_for(permissions wanted, kind, const features&)
    {
        const bool alike = wanted.execute == wanted.user_execute;
        wanted.execute = wanted.user_execute;
        wanted.user_execute = alike;
        return wanted;
    }
};

template <stage2_features Features>
inline constexpr constant_format<stage2_description, Features> stage2{};

// ---- 32-bit Arm

struct short_description;

struct short_features {
    using description = short_description;

    unsigned physical_bits = 32;
    bool privileged_never = false;  ///< the CPU has PXN

    [[nodiscard]] constexpr bool operator==(const short_features&) const = default;
};

struct short_fields {
    entry_field domain, execute_never;
};

/// Domains are those of a client: entries are checked.
struct short_paging : arm_paging {
    struct controls {};

    template <entry_format F>
    [[nodiscard]] static constexpr bool allows(walk_result& r, std::uint64_t, const access& a, const controls&,
                                               const F&) noexcept
    {
        if (a.fetches()) return a.user ? r.allowed.user_execute : r.allowed.execute;
        return (!a.user || r.allowed.user) && (!a.writes() || r.allowed.write);
    }
};

/// Short descriptors with SCTLR.AFE set, addresses of 32 bits. The access flag is an attribute
/// here: it stands in different bits of sections and pages. Arm Architecture Reference Manual,
/// ARMv7-A, "Short-descriptor translation table format descriptors".
struct short_description {
    using features = short_features;
    using fields = short_fields;
    using when = condition<features>;
    using regime = short_paging;

    static constexpr unsigned widest_physical = 32;
    static constexpr when pxn{"PXN", &features::privileged_never};
    static constexpr when no_pxn{"without PXN", [](const features& f, unsigned) { return !f.privileged_never; }};
    static constexpr entries page = leaf_at(1);         // 4 Kbytes
    static constexpr entries large_page = run_at(1);    // 64 Kbytes
    static constexpr entries section = leaf_at(2);      // 1 Mbyte
    static constexpr entries supersection = run_at(2);  // 16 Mbytes
    static constexpr entries sections = section | supersection;

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"",       bits(1, 0),   tables | large_page, is(1)},
        {"",       bit(1),       page | sections,     is(1)},
        {"XN",     bit(0),       page,                denies(role::user_execute)},
        {"PXN",    bit(0),       sections,            denies(role::execute), nullptr, pxn, is(0)},
        {"PXN",    bit(2),       tables,              denies(role::execute), nullptr, pxn, writes(0)},
        {"NS",     bit(3),       tables,              role::attribute},
        {"",       bit(4),       tables,              writes(0)},
        {"Domain", bits(8, 5),   tables | section,    role::attribute,       &fields::domain},
        {"",       bits(8, 5),   supersection,        writes(0)},
        {"",       bit(9),       tables | sections,   role::software},
        {"",       bits(31, 10), tables,              role::address},
        {"C, B",   bits(3, 2),   leaves,              role::memory_type},
        {"AF",     bit(4),       page | large_page,   role::attribute},
        {"AP[1]",  bit(5),       page | large_page,   role::user},
        {"TEX",    bits(8, 6),   page,                role::memory_type},
        {"",       bits(8, 6),   large_page,          writes(0)},
        {"AP[2]",  bit(9),       page | large_page,   denies(role::write)},
        {"S",      bit(10),      page | large_page,   role::memory_type},
        {"nG",     bit(11),      page | large_page,   role::attribute},
        {"",       bits(31, 12), page,                role::address},
        {"TEX",    bits(14, 12), large_page | sections, role::memory_type},
        {"XN",     bit(15),      large_page,          denies(role::user_execute)},
        {"",       bits(31, 16), large_page,          role::address},
        {"XN",     bit(4),       sections,            denies(role::user_execute), &fields::execute_never},
        {"AF",     bit(10),      sections,            role::attribute},
        {"AP[1]",  bit(11),      sections,            role::user},
        {"AP[2]",  bit(15),      sections,            denies(role::write)},
        {"S",      bit(16),      sections,            role::memory_type},
        {"nG",     bit(17),      sections,            role::attribute},
        {"",       bit(18),      section,             is(0)},
        {"",       bit(18),      supersection,        is(1)},
        {"NS",     bit(19),      sections,            role::attribute},
        {"",       bits(31, 20), section,             role::address},
        {"",       bits(23, 20), supersection,        writes(0)},
        {"",       bits(31, 24), supersection,        role::address},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features&)
    {
        return {.levels = 2, .entry_bits = 32, .index_bits = {8, 12}, .run_bits = {4, 4}};
    }
    static constexpr entries entries_of(const features&) { return page | large_page | sections | table_at(2); }

    // XN denies execution to both modes, PXN to the privileged one.
    static constexpr bool modes_apart(const features& f) { return f.privileged_never; }
    static constexpr permissions allowed(permissions by_role, kind, const features&)
    {
        by_role.execute = by_role.execute && by_role.user_execute;
        by_role.user_execute = by_role.user_execute && by_role.user;
        return by_role;
    }
    static constexpr permissions roles_for(permissions wanted, kind, const features&)
    {
        const bool any = wanted.execute || wanted.user_execute;
        wanted.execute = wanted.execute || !any;
        wanted.user_execute = any;
        return wanted;
    }
};

template <short_features Features>
inline constexpr constant_format<short_description, Features> short_format{};

}  // namespace wider
