// SPDX-License-Identifier: BSL-1.0
// RISC-V's page tables as a format of one's own; docs/extending.md explains it.
#pragma once

#include <ptebits/walk.hpp>

namespace riscv {

using namespace ptebits;
struct sv39_description;

/// What a hart and its registers make of an entry.
struct sv39_features {
    using description = sv39_description;

    unsigned levels = 3;                                   ///< satp.MODE: 2 is Sv32, 3 Sv39, 4 Sv48, 5 Sv57
    unsigned physical_bits = 56;                           ///< all of PPN: where memory ends is for memory to say
    bool runs = false;                                     ///< Svnapot: 64 Kbytes by 16 entries
    bool memory_types = false;                             ///< Svpbmt, menvcfg.PBMTE
    accessed_setter accessed_by = accessed_setter::fault;  ///< Svade; hardware: Svadu, menvcfg.ADUE
};

/// The names by which users reach bits.
struct sv39_fields {
    entry_field valid, rights, read, write, execute, user, global, memory_type, run;
};

/// How a hart walks. RISC-V ISA manual, volume II, "Virtual Address Translation Process".
struct sv39_paging {
    enum class operation : std::uint8_t { load, store, fetch };  ///< an AMO is a store
    struct access {
        operation what = operation::load;
        bool user = false;
        [[nodiscard]] constexpr bool writes() const noexcept { return what == operation::store; }
    };
    struct controls {
        bool sum = false;  ///< sstatus.SUM: the supervisor may load and store in pages of user mode
        bool mxr = false;  ///< sstatus.MXR: what may be executed may be loaded
    };

    static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept { return fault_kind::reserved_bits; }
    static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a, const controls& c, const auto&)
    {
        const bool fetches = a.what == operation::fetch;
        if (a.user != r.allowed.user && (a.user || fetches || !c.sum)) return false;
        if (fetches) return r.allowed.execute;
        return a.writes() ? r.allowed.write : r.allowed.read || (c.mxr && r.allowed.execute);
    }
};

/// RISC-V ISA manual, volume II, "Addressing and Memory Protection" of Sv32 to Sv57; "Svnapot"; "Svpbmt".
struct sv39_description {
    using features = sv39_features;
    using fields = sv39_fields;
    using regime = sv39_paging;

    static constexpr unsigned narrowest_physical = 56, widest_physical = 56;
    static constexpr condition<features> pbmt{"Svpbmt", &features::memory_types};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits          in which entries  use                named                 only with  otherwise
        {"V",    bit(0),       every,            is(1),             &fields::valid},                             // valid
        {"XWR",  bits(3, 1),   tables,           is(0),             &fields::rights},                            // no right: a table
        {"R",    bit(1),       leaves,           role::read,        &fields::read},                              // loads allowed
        {"W",    bit(2),       leaves,           role::write,       &fields::write},                             // stores allowed
        {"X",    bit(3),       leaves,           role::execute,     &fields::execute},                           // execution allowed
        {"",     bit(4),       tables,           role::reserved},                                                // must be 0
        {"U",    bit(4),       leaves,           role::user,        &fields::user},                              // a page of user mode
        {"G",    bit(5),       every,            role::attribute,   &fields::global},                            // in all address spaces
        {"",     bits(7, 6),   tables,           role::reserved},                                                // must be 0
        {"A",    bit(6),       leaves,           role::accessed},                                                // used
        {"D",    bit(7),       leaves,           role::dirty},                                                   // written
        {"RSW",  bits(9, 8),   every,            role::software},                                                // ignored
        {"",     bits(13, 10), runs,             is(0b1000)},                                                    // a run of 16
        row<features, fields>
        {"PPN",  bits(53, 10), every,            role::address}.holding(12),                                     // page or table
        {"",     bits(60, 54), every,            role::reserved},                                                // must be 0
        {"",     bits(63, 61), tables,           role::reserved},                                                // must be 0
        {"PBMT", bits(62, 61), leaves,           role::memory_type, &fields::memory_type, pbmt, role::reserved},  // memory type
        {"",     bit(63),      leaves_up_to(5),  role::reserved},                                                // must be 0
        {"N",    bit(63),      runs,             is(1),             &fields::run},                               // one of a run
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
        return leaves_up_to(f.levels) | tables_up_to(f.levels) | (f.runs ? run_at(1) : entries{});
    }
    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 2 || f.levels > 5) return defect::levels;
        return f.levels == 2 && (f.runs || f.memory_types) ? defect::contradiction : defect::none;
    }
    static constexpr accessed_setter accessed_by(const features& f) { return f.accessed_by; }
    static constexpr unsigned manual_level(unsigned level, const features&) { return level - 1; }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind, const features&)
    {
        constexpr const char* types[] = {"PMA", "NC", "IO", ""};
        return named == &fields::memory_type ? types[value & 3] : "";
    }
};

/// The format under features known at compile time. sv39<sv39_features{.levels = 4}> is Sv48.
template <sv39_features Features>
inline constexpr constant_format<sv39_description, Features> sv39{};

}  // namespace riscv
