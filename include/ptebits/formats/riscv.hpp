// SPDX-License-Identifier: BSL-1.0
// RISC-V: Sv32, Sv39, Sv48 and Sv57, and their x4 forms of the G-stage.
#pragma once

#include <ptebits/format.hpp>

namespace ptebits {

struct riscv_description;
struct gstage_description;
struct riscv_paging;  // how a hart walks them: riscv.hpp
struct gstage_paging;

/// What a hart and its registers make of an entry of satp's or vsatp's tables. menvcfg's bits count for satp's,
/// henvcfg's for vsatp's.
struct riscv_features {
    using description = riscv_description;

    unsigned levels = 3;          ///< satp.MODE: 2 is Sv32, 3 Sv39, 4 Sv48, 5 Sv57
    unsigned physical_bits = 56;  ///< all of PPN, of which Sv32 has 34: where memory ends is for memory to say
    bool svnapot = false;         ///< runs: 64 Kbytes by 16 entries
    bool svpbmt = false;          ///< memory types: Svpbmt, and PBMTE is set
    bool svadu = false;           ///< hardware sets A and D: Svadu, and ADUE is set; else it faults (Svade)
    bool svrsw60t59b = false;     ///< bits 60:59 are software's
    bool svvptc = false;          ///< entries made valid are seen without a fence
    bool global_pages = true;     ///< G counts; the G-stage has none
    [[nodiscard]] constexpr bool operator==(const riscv_features&) const = default;
};

/// The named fields: V; X, W and R where it refers to a table; R, W, X, U, G; PBMT: 0 PMA, 1 NC, 2 IO; N.
struct riscv_fields {
    entry_field valid, rights, read, write, execute, user, global, memory_type, run;
};

/// RISC-V ISA manual, volume II, "Addressing and Memory Protection" of Sv32 to Sv57; "Svnapot"; "Svpbmt";
/// "Svrsw60t59b".
struct riscv_description {
    using features = riscv_features;
    using fields = riscv_fields;
    using when = condition<features>;
    using regime = riscv_paging;
    static constexpr unsigned narrowest_physical = 56, widest_physical = 56;
    static constexpr unsigned different_layouts = 7;  // of present entries, at most
    static constexpr when pbmt{"Svpbmt", &features::svpbmt};
    static constexpr when rsw{"Svrsw60t59b", &features::svrsw60t59b};
    static constexpr when one_stage{"not in the G-stage", &features::global_pages};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits          in which entries  use                named                 only with  otherwise
        {"V",    bit(0),       every,            is(1),             &fields::valid},                                  // valid
        {"XWR",  bits(3, 1),   tables,           is(0),             &fields::rights},                                 // no right: a table
        {"R",    bit(1),       leaves,           role::read,        &fields::read},                                   // loads allowed
        {"W",    bit(2),       leaves,           role::write,       &fields::write},                                  // stores allowed
        {"X",    bit(3),       leaves,           role::execute,     &fields::execute},                                // execution allowed
        {"",     bit(4),       tables,           role::reserved},                                                     // must be 0
        {"U",    bit(4),       leaves,           role::user,        &fields::user},                                   // a page of user mode
        {"G",    bit(5),       every,            role::attribute,   &fields::global,      one_stage, writes(0)},      // in all address spaces
        {"",     bits(7, 6),   tables,           role::reserved},                                                     // must be 0
        {"A",    bit(6),       leaves,           role::accessed},                                                     // used
        {"D",    bit(7),       leaves,           role::dirty},                                                        // written
        {"RSW",  bits(9, 8),   every,            role::software},                                                     // ignored
        {"",     bits(13, 10), runs,             is(0b1000)},                                                         // a run of 16
        row<features, fields>
        {"PPN",  bits(53, 10), every,            role::address}.holding(12),                                          // page or table
        {"",     bits(58, 54), every,            role::reserved},                                                     // must be 0
        {"RSW",  bits(60, 59), every,            role::software,    nullptr,              rsw,       role::reserved}, // ignored
        {"",     bits(63, 61), tables,           role::reserved},                                                     // must be 0
        {"PBMT", bits(62, 61), leaves,           role::memory_type, &fields::memory_type, pbmt,      role::reserved}, // memory type
        {"",     bit(63),      leaves_up_to(5),  role::reserved},                                                     // must be 0
        {"N",    bit(63),      runs,             is(1),             &fields::run},                                    // one of a run
    };
    static constexpr ptebits::forbidden<features, fields> forbidden[] = {
        // breaks                  in                      which                 value  without
        {rule::no_such_kind,       leaf_at(1) | run_at(1), &fields::rights,      0},  // no table below
        {rule::write_without_read, leaves,                 &fields::write,       1,     &fields::read},
        {rule::memory_type,        leaves,                 &fields::memory_type, 3},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f)
    {
        if (f.levels == 2) return {.levels = 2, .entry_bits = 32, .index_bits = {10, 10}};
        return {.levels = f.levels, .run_bits = {4}, .above = extension::sign};
    }
    static constexpr entries entries_of(const features& f)
    {
        return leaves_up_to(f.levels) | tables_up_to(f.levels) | (f.svnapot ? run_at(1) : entries{});
    }
    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 2 || f.levels > 5) return defect::levels;
        return f.levels == 2 && (f.svnapot || f.svpbmt || f.svrsw60t59b) ? defect::contradiction : defect::none;
    }
    static constexpr auto accessed_by(const auto& f)
    {
        return f.svadu ? accessed_setter::hardware : accessed_setter::fault;
    }
    static constexpr bool caches_absent(const auto& f) { return !f.svvptc; }
    static constexpr unsigned type_number(auto t)  // PBMT of a memory_type; 3 is none
    {
        return t == decltype(t)::wb ? 0 : t == decltype(t)::wc ? 1 : t == decltype(t)::uc ? 2 : 3;
    }
    static constexpr unsigned manual_level(unsigned level, const auto&) { return level - 1; }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind, const auto&)
    {
        constexpr const char* types[] = {"PMA", "NC", "IO", ""};
        return named == &fields::memory_type ? types[value & 3] : "";
    }
};

/// What a hart and its registers, of which menvcfg, make of entries of hgatp's tables; see riscv_features.
struct gstage_features {
    using description = gstage_description;

    unsigned levels = 3;  ///< hgatp.MODE: 2 is Sv32x4, 3 Sv39x4, 4 Sv48x4, 5 Sv57x4
    unsigned physical_bits = 56;
    bool svnapot = false;
    bool svpbmt = false;
    bool svadu = false;
    bool svrsw60t59b = false;
    bool svvptc = false;
    [[nodiscard]] constexpr bool operator==(const gstage_features&) const = default;
};

/// The G-stage, of the same rows: addresses are 2 bits wider, by a root of 16 Kbytes; a leaf without U allows nothing,
/// since every access is a user's. RISC-V ISA manual, volume II, "Guest Physical Address Translation".
struct gstage_description : riscv_description {
    using features = gstage_features;
    using regime = gstage_paging;
    static constexpr riscv_features row_features(const features& f)
    {
        return {f.levels, f.physical_bits, f.svnapot, f.svpbmt, f.svadu, f.svrsw60t59b, f.svvptc, false};
    }
    static constexpr dimensions shape_of(const riscv_features& f)
    {
        dimensions d = riscv_description::shape_of(f);
        if (f.levels >= 1 && f.levels <= max_levels) d.index_bits[f.levels - 1] += 2;
        d.above = extension::zeros;
        return d;
    }
    static constexpr permissions allowed(const permissions& p, kind, const features&)
    {
        return p.user ? permissions{p.read, p.write, p.execute} : no_permissions;
    }
};

/// The formats under features known at compile time. riscv<riscv_features{.levels = 4}> is Sv48, gstage<...> Sv48x4.
template <riscv_features Features>
inline constexpr constant_format<riscv_description, Features> riscv{};
template <gstage_features Features>
inline constexpr constant_format<gstage_description, Features> gstage{};

}  // namespace ptebits
