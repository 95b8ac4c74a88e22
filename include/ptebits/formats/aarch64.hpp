// SPDX-License-Identifier: BSL-1.0
// AArch64: stage 1 of EL1&0 and of EL2, and stage 2, by granules of 4, 16 and 64 Kbytes.
#pragma once

#include <ptebits/format.hpp>

namespace ptebits {

/// Whose tables.
enum class aarch64_stage : std::uint8_t { el1, el2, second };

struct aarch64_features;
struct aarch64_description;
struct aarch64_stage1_description;
struct aarch64_el2_description;
struct aarch64_stage2_description;
struct aarch64_stage1_paging;  // how the MMU walks them: aarch64.hpp
struct aarch64_stage2_paging;

/// What TCR_EL1 makes of one half of the addresses of EL1&0, or TCR_EL2 with E2H; and what the CPU has.
/// aarch64_registers.hpp takes them out of the registers.
struct aarch64_stage1_features {
    using description = aarch64_stage1_description;

    unsigned granule = 12;         ///< TG0, TG1: log2 of 4, 16 or 64 Kbytes
    unsigned input_bits = 48;      ///< 64 - T0SZ, 64 - T1SZ: 16 to 48, with large addresses 52
    unsigned physical_bits = 48;   ///< IPS, and what the CPU has: 32 to 48, with large addresses 52
    bool access_flag = true;       ///< HA: hardware sets AF; else it faults
    bool dirty_state = true;       ///< HD: hardware makes pages with DBM writable
    bool hierarchical = true;      ///< not HPD0, HPD1: tables take rights away
    bool large_addresses = false;  ///< 64 Kbytes: FEAT_LPA and FEAT_LVA; else FEAT_LPA2, and DS is set
    bool upper_half = false;       ///< TTBR1: addresses begin with ones
    [[nodiscard]] constexpr bool operator==(const aarch64_stage1_features&) const = default;
};

/// What TCR_EL2 makes of EL2's own addresses, without E2H; see aarch64_stage1_features.
struct aarch64_el2_features {
    using description = aarch64_el2_description;

    unsigned granule = 12;
    unsigned input_bits = 48;
    unsigned physical_bits = 48;
    bool access_flag = true;
    bool dirty_state = true;
    bool hierarchical = true;
    bool large_addresses = false;
    [[nodiscard]] constexpr bool operator==(const aarch64_el2_features&) const = default;
};

/// What VTCR_EL2 makes of stage 2's tables; see aarch64_stage1_features.
struct aarch64_stage2_features {
    using description = aarch64_stage2_description;

    unsigned granule = 12;
    unsigned levels = 4;       ///< SL0, SL2: 4 begins at the manual's level 0. The top table is up to 16 side by side
    unsigned input_bits = 48;  ///< 64 - T0SZ
    unsigned physical_bits = 48;  ///< PS, and what the CPU has
    bool access_flag = true;
    bool dirty_state = true;
    bool execute_by_level = true;  ///< FEAT_XNX: XN[0] counts
    bool large_addresses = false;
    [[nodiscard]] constexpr bool operator==(const aarch64_stage2_features&) const = default;
};

/// The named fields. AttrIndx or MemAttr; SH; AP[1]; AP[2]; S2AP[0], S2AP[1]; nG; GP; DBM; Contiguous; PXN, UXN or XN;
/// XN[0], XN[1].
struct aarch64_fields {
    entry_field memory_type, shareability, unprivileged, read_only, read, write, not_global, guarded, dirty_modifier,
        contiguous, privileged_never, unprivileged_never, execute_never;
};

/// What all stages' rows go by.
struct aarch64_features {
    using description = aarch64_description;

    aarch64_stage stage = aarch64_stage::el1;
    unsigned granule = 12;
    unsigned levels = 4;
    unsigned input_bits = 48;
    unsigned physical_bits = 48;
    bool large_addresses = false;
    bool access_flag = false;
    bool dirty_state = false;
    bool hierarchical = true;
    bool execute_by_level = true;
    bool upper_half = false;
    [[nodiscard]] constexpr bool operator==(const aarch64_features&) const = default;

    [[nodiscard]] constexpr bool has_granule() const noexcept
    {
        return granule == 12 || granule == 14 || granule == 16;
    }
    /// FEAT_LPA2's layout of the address.
    [[nodiscard]] constexpr bool ds() const noexcept { return large_addresses && granule != 16; }
    [[nodiscard]] constexpr bool rights_in_tables() const noexcept
    {
        return stage != aarch64_stage::second && hierarchical;
    }
    /// log2 of the bytes that an entry of the top level translates. Precondition: has_granule(), levels are 1 to 5.
    [[nodiscard]] constexpr unsigned top_shift() const noexcept { return granule + (levels - 1) * (granule - 3); }

    /// The features as a stage has them. Those that a stage lacks keep their defaults.
    template <class Features>
    [[nodiscard]] static constexpr aarch64_features of(aarch64_stage stage, const Features& f) noexcept
    {
        aarch64_features all{.stage = stage,
                             .granule = f.granule,
                             .input_bits = f.input_bits,
                             .physical_bits = f.physical_bits,
                             .large_addresses = f.large_addresses,
                             .access_flag = f.access_flag,
                             .dirty_state = f.dirty_state};
        if constexpr (requires { f.hierarchical; }) all.hierarchical = f.hierarchical;
        if constexpr (requires { f.upper_half; }) all.upper_half = f.upper_half;
        if constexpr (requires { f.execute_by_level; }) all.execute_by_level = f.execute_by_level;
        if constexpr (requires { f.levels; }) {
            all.levels = f.levels;
        } else {
            const bool any = all.has_granule() && f.input_bits > f.granule && f.input_bits <= 52;
            all.levels = any ? 1 + (f.input_bits - 1 - f.granule) / (f.granule - 3) : 1;
        }
        return all;
    }
};

/// Arm Architecture Reference Manual, "VMSAv8-64 translation table format descriptors".
struct aarch64_description {
    using features = aarch64_features;
    using fields = aarch64_fields;
    using when = condition<features>;
    using enum aarch64_stage;
    static constexpr unsigned widest_physical = 52;
    static constexpr unsigned different_layouts = 8;  // of present entries, at most

    static constexpr when first{"stage 1", [](const features& f, unsigned) { return f.stage != second; }};
    static constexpr when at_el1{"EL1&0", [](const features& f, unsigned) { return f.stage == el1; }};
    static constexpr when at_el2{"EL2", [](const features& f, unsigned) { return f.stage == el2; }};
    static constexpr when stage2{"stage 2", [](const features& f, unsigned) { return f.stage == second; }};
    static constexpr when xnx{"FEAT_XNX",
                              [](const features& f, unsigned) { return f.stage == second && f.execute_by_level; }};
    static constexpr when no_xnx{"no FEAT_XNX",
                                 [](const features& f, unsigned) { return f.stage == second && !f.execute_by_level; }};
    static constexpr when hd{"HD", &features::dirty_state};
    static constexpr when el1_tables{"EL1&0, not HPD",
                                     [](const features& f, unsigned) { return f.stage == el1 && f.hierarchical; }};
    static constexpr when el2_tables{"EL2, not HPD",
                                     [](const features& f, unsigned) { return f.stage == el2 && f.hierarchical; }};
    static constexpr when any_tables{"stage 1, not HPD",
                                     [](const features& f, unsigned) { return f.rights_in_tables(); }};
    static constexpr when no_tables{"stage 2, or HPD",
                                    [](const features& f, unsigned) { return !f.rights_in_tables(); }};
    static constexpr when of_4k{"4 Kbytes", [](const features& f, unsigned) { return f.granule == 12 && !f.ds(); }};
    static constexpr when of_16k{"16 Kbytes", [](const features& f, unsigned) { return f.granule == 14 && !f.ds(); }};
    static constexpr when of_64k{"64 Kbytes", [](const features& f, unsigned) { return f.granule == 16; }};
    static constexpr when ds_4k{"4 Kbytes, DS", [](const features& f, unsigned) { return f.granule == 12 && f.ds(); }};
    static constexpr when ds_16k{"16 Kbytes, DS",
                                 [](const features& f, unsigned) { return f.granule == 14 && f.ds(); }};
    static constexpr when any_16k{"16 Kbytes", [](const features& f, unsigned) { return f.granule == 14; }};
    static constexpr when ds{"DS", [](const features& f, unsigned) { return f.ds(); }};
    static constexpr when no_ds{"no DS", [](const features& f, unsigned) { return !f.ds(); }};
    static constexpr when lpa{"64 Kbytes, FEAT_LPA",
                              [](const features& f, unsigned) { return f.granule == 16 && f.large_addresses; }};
    static constexpr when no_lpa{"64 Kbytes, no FEAT_LPA",
                                 [](const features& f, unsigned) { return f.granule == 16 && !f.large_addresses; }};
    static constexpr when in_runs{
        "runs", [](const features& f, unsigned level) { return level <= (f.granule == 12 ? 3U : 2U); }};

    static constexpr entries single = leaves_up_to(max_levels);
    static constexpr entries pages = leaf_at(1) | run_at(1);
    static constexpr entries blocks = leaf_at(2) | leaf_at(3) | leaf_at(4) | run_at(2) | run_at(3);
    static constexpr use output = address_with(role::written, role::beyond);

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name        bits          in which entries  use                          named                      only with   otherwise
        {"",           bits(1, 0),   tables | pages,   is(3)},                                                                            // a table or a page
        {"",           bits(1, 0),   blocks,           is(1)},                                                                            // a block
        {"",           bits(7, 2),   tables,           role::software},                                                                   // ignored
        {"",           bits(9, 8),   tables,           role::software,              nullptr,                   no_ds},                    // ignored
        {"",           bits(11, 10), tables,           role::software},                                                                   // ignored
        {"AttrIndx",   bits(4, 2),   leaves,           role::memory_type,           &fields::memory_type,      first},                    // attributes in MAIR
        {"NS",         bit(5),       leaves,           role::attribute,             nullptr,                   first},                    // not secure
        {"MemAttr",    bits(5, 2),   leaves,           role::memory_type,           &fields::memory_type,      stage2},                   // memory type
        {"AP[1]",      bit(6),       leaves,           role::user,                  &fields::unprivileged,     at_el1},                   // EL0 too
        {"",           bit(6),       leaves,           writes(1),                   nullptr,                   at_el2},                   // ignored
        {"S2AP[0]",    bit(6),       leaves,           role::read,                  &fields::read,             stage2},                   // reads allowed
        {"AP[2]",      bit(7),       leaves,           denies(role::write),         &fields::read_only,        first},                    // read-only
        {"S2AP[1]",    bit(7),       leaves,           role::write,                 &fields::write,            stage2},                   // writes allowed
        {"SH",         bits(9, 8),   leaves,           role::memory_type,           &fields::shareability,     no_ds},                    // shareability
        {"AF",         bit(10),      leaves,           role::accessed},                                                                   // used
        {"nG",         bit(11),      leaves,           role::attribute,             &fields::not_global,       at_el1},                   // of one ASID
        {"",           bit(11),      leaves,           writes(0),                   nullptr,                   at_el2},                   // ignored
        {"FnXS",       bit(11),      leaves,           role::attribute,             nullptr,                   stage2},                   // XS is cleared
        {"",           bits(47, 12), every,            output,                      nullptr,                   of_4k},                    // page or table
        {"",           bits(49, 12), every,            output,                      nullptr,                   ds_4k},                    // page or table
        {"",           bits(13, 12), every,            writes(0),                   nullptr,                   any_16k},                  // ignored
        {"",           bits(47, 14), every,            output,                      nullptr,                   of_16k},                   // page or table
        {"",           bits(49, 14), every,            output,                      nullptr,                   ds_16k},                   // page or table
        {"",           bits(47, 16), every,            output,                      nullptr,                   of_64k},                   // page or table
        row<features, fields>
        {"",           bits(15, 12), every,            output,                      nullptr,                   lpa}.holding(48),         // its bits 51:48
        {"",           bits(15, 12), every,            writes(0),                   nullptr,                   no_lpa},                   // ignored
        row<features, fields>
        {"",           bits(9, 8),   every,            output,                      nullptr,                   ds}.holding(50),          // its bits 51:50
        {"",           bits(49, 48), every,            writes(0),                   nullptr,                   no_ds},                    // ignored
        {"",           bit(50),      tables,           writes(0)},                                                                        // ignored
        {"GP",         bit(50),      leaves,           role::attribute,             &fields::guarded,          first,      writes(0)},    // branch targets are checked
        {"DBM",        bit(51),      leaves,           role::dirty_modifier,        &fields::dirty_modifier,   hd,         role::software}, // hardware makes it writable
        {"",           bits(58, 51), tables,           role::software},                                                                   // ignored
        {"Contiguous", bit(52),      single,           is(0),                       &fields::contiguous,       in_runs,    role::attribute}, // alone
        {"Contiguous", bit(52),      runs,             is(1),                       &fields::contiguous},                                 // one of a run
        {"PXN",        bit(53),      leaves,           denies(role::execute),       &fields::privileged_never, at_el1},                   // EL1 does not execute
        {"",           bit(53),      leaves,           writes(0),                   nullptr,                   at_el2},                   // ignored
        {"XN[0]",      bit(53),      leaves,           denies(role::user_execute),  nullptr,                   xnx},                      // with XN[1], a code
        {"",           bit(53),      leaves,           writes(0),                   nullptr,                   no_xnx},                   // ignored
        {"UXN",        bit(54),      leaves,           denies(role::user_execute),  &fields::unprivileged_never, at_el1},                 // EL0 does not execute
        {"XN",         bit(54),      leaves,           denies(role::execute),       &fields::execute_never,    at_el2},                   // not executable
        {"XN[1]",      bit(54),      leaves,           denies(role::execute),       &fields::execute_never,    stage2},                   // see XN[0]
        {"",           bits(63, 55), leaves,           role::software},                                                                   // ignored
        {"PXNTable",   bit(59),      tables,           denies(role::execute),       nullptr,                   el1_tables},               // for all below
        {"UXNTable",   bit(60),      tables,           denies(role::user_execute),  nullptr,                   el1_tables},               // for all below
        {"APTable[0]", bit(61),      tables,           denies(role::user),          nullptr,                   el1_tables},               // for all below
        {"",           bit(59),      tables,           writes(0),                   nullptr,                   el2_tables},               // ignored
        {"XNTable",    bit(60),      tables,           denies(role::execute),       nullptr,                   el2_tables},               // for all below
        {"",           bit(61),      tables,           writes(0),                   nullptr,                   el2_tables},               // ignored
        {"APTable[1]", bit(62),      tables,           denies(role::write),         nullptr,                   any_tables},               // for all below
        {"",           bits(62, 59), tables,           role::software,              nullptr,                   no_tables},                // ignored
        {"NSTable",    bit(63),      tables,           role::attribute,             nullptr,                   first,      role::software}, // not secure
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f)
    {
        dimensions d{.levels = f.levels, .granule = f.granule};
        const auto index = static_cast<std::uint8_t>(f.has_granule() ? f.granule - 3 : 9);
        for (std::uint8_t& bits : d.index_bits) bits = index;
        d.above = f.upper_half ? extension::ones : extension::zeros;
        if (f.levels < 1 || f.levels > 5 || !f.has_granule()) return d;
        // The top table has what index bits are left, of stage 2 up to 4 more.
        const unsigned left = f.input_bits > f.top_shift() ? f.input_bits - f.top_shift() : 1;
        d.index_bits[f.levels - 1] = static_cast<std::uint8_t>(left < 17 ? left : 17);
        d.run_bits[0] = f.granule == 12 ? 4 : f.granule == 14 ? 7 : 5;
        d.run_bits[1] = f.granule == 12 ? 4 : 5;
        d.run_bits[2] = f.granule == 12 ? 4 : 0;
        return d;
    }
    /// Blocks of 2 Mbytes and 1 Gbyte; 32 Mbytes; 512 Mbytes; and with large addresses one more: 512 Gbytes, 64 Gbytes,
    /// 4 Tbytes.
    static constexpr entries entries_of(const features& f)
    {
        const unsigned top = (f.granule == 12 ? 3U : 2U) + (f.large_addresses ? 1U : 0U);
        const unsigned runs_end = f.granule == 12 ? 3 : 2;
        return leaves_up_to(f.levels < top ? f.levels : top) | tables_up_to(f.levels) |
               entries_from(1, f.levels < runs_end ? f.levels : runs_end, kind::run);
    }
    static constexpr defect contradiction(const features& f)
    {
        if (!f.has_granule()) return defect::levels;
        const unsigned most = f.large_addresses ? 52 : 48;
        if (f.input_bits < (f.granule == 16 ? 17U : 16U) || f.input_bits > most) return defect::levels;
        if (f.physical_bits > most) return defect::physical_bits;
        if (f.dirty_state && !f.access_flag) return defect::contradiction;
        if (f.stage != second) return defect::none;
        // 16 Kbytes begin at level 0 with DS alone, 4 Kbytes then at level -1.
        const unsigned most_levels = (f.granule == 12 ? 4U : 3U) + (f.ds() ? 1U : 0U);
        if (f.levels < 1 || f.levels > most_levels) return defect::levels;
        // Up to 16 tables side by side at the top.
        const bool fits = f.input_bits > f.top_shift() && f.input_bits <= f.top_shift() + f.granule - 3 + 4;
        return fits ? defect::none : defect::levels;
    }
    static constexpr accessed_setter accessed_by(const auto& f)
    {
        return f.access_flag ? accessed_setter::hardware : accessed_setter::fault;
    }
    static constexpr bool break_before_make(const features&) { return true; }
    static constexpr int manual_level(unsigned level, const auto&) { return 4 - static_cast<int>(level); }
};

/// Stage 1 of EL1&0. "Stage 1 VMSAv8-64 block and page descriptors"; "Memory access control".
struct aarch64_stage1_description : aarch64_description {
    using features = aarch64_stage1_features;
    using regime = aarch64_stage1_paging;
    static constexpr aarch64_features row_features(const features& f) { return aarch64_features::of(el1, f); }

    /// EL1 always reads; what EL0 may write, EL1 never executes.
    static constexpr permissions allowed(permissions by_role, kind k, const features&)
    {
        if (k != kind::table && by_role.user && by_role.write) by_role.execute = false;
        return by_role;
    }
};

/// Stage 1 of EL2 without E2H.
struct aarch64_el2_description : aarch64_description {
    using features = aarch64_el2_features;
    using regime = aarch64_stage1_paging;
    static constexpr aarch64_features row_features(const features& f) { return aarch64_features::of(el2, f); }
};

/// Stage 2. "Stage 2 VMSAv8-64 block and page descriptors"; "Stage 2 permissions".
struct aarch64_stage2_description : aarch64_description {
    using features = aarch64_stage2_features;
    using regime = aarch64_stage2_paging;
    static constexpr aarch64_features row_features(const features& f) { return aarch64_features::of(second, f); }

    /// XN[1:0] is a code: 0 both, 1 EL0 alone, 2 neither, 3 EL1 alone. The roles tell the two bits.
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

/// The formats under features known at compile time.
template <aarch64_stage1_features Features>
inline constexpr constant_format<aarch64_stage1_description, Features> aarch64_stage1{};
template <aarch64_el2_features Features>
inline constexpr constant_format<aarch64_el2_description, Features> aarch64_el2{};
template <aarch64_stage2_features Features>
inline constexpr constant_format<aarch64_stage2_description, Features> aarch64_stage2{};

}  // namespace ptebits
