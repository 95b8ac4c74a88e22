// SPDX-License-Identifier: BSL-1.0
// AMD-Vi: host tables (v1), and guest tables (v2), which have the CPU's own format.
#pragma once

#include <ptebits/formats/shadow.hpp>

namespace ptebits {

struct amdvi_host_description;
struct amdvi_guest_description;
struct amdvi_host_paging;  // how the IOMMU walks them: amdvi.hpp
struct amdvi_guest_paging;

/// What an IOMMU and a device table entry (DTE) make of a host table's entry.
struct amdvi_host_features {
    using description = amdvi_host_description;

    unsigned levels = 4;          ///< DTE.Mode, 1 to 6, of what EFR.HATS offers
    unsigned physical_bits = 52;  ///< PASize, 32 to 52; with memory encryption less
    bool accessed_bits = false;   ///< DTE.HAD is not 0; EFR.HASup
    bool dirty_bits = false;      ///< DTE.HAD is 3; EFR.HDSup
    bool coded_sizes = true;      ///< pages of other than the levels' own sizes are used
    bool caches_absent = false;   ///< NpCache: entries made present are seen after a flush only
    [[nodiscard]] constexpr bool operator==(const amdvi_host_features&) const = default;
};

/// The named fields: PR, NextLevel, U, FC, IR, IW.
struct amdvi_host_fields {
    entry_field present, next_level, untranslated, force_coherent, read, write;
};

/// AMD I/O Virtualization Technology (IOMMU) Specification, "I/O Page Tables for Host Translations".
struct amdvi_host_description {
    using features = amdvi_host_features;
    using fields = amdvi_host_fields;
    using when = condition<features>;
    using regime = amdvi_host_paging;

    static constexpr when had{"DTE.HAD", &features::accessed_bits};
    static constexpr when had_dirty{"DTE.HAD[1]", &features::dirty_bits};
    static constexpr entries own_sizes = leaves_up_to(max_levels);  // of the levels; runs have the sizes between

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name       bits          in which entries  use               named                    only with  otherwise
        {"PR",        bit(0),       every,            is(1),            &fields::present},                                   // present
        {"",          bits(4, 1),   every,            role::software},                                                       // ignored
        {"A",         bit(5),       every,            role::accessed,   nullptr,                 had,       role::software}, // used
        {"",          bit(6),       tables,           role::software},                                                       // ignored
        {"D",         bit(6),       leaves,           role::dirty,      nullptr,                 had_dirty, role::software}, // written
        {"",          bits(8, 7),   every,            role::software},                                                       // ignored
        {"NextLevel", bits(11, 9),  tables,           role::next_level, &fields::next_level},                                // level of the table
        {"NextLevel", bits(11, 9),  own_sizes,        is(0),            &fields::next_level},                                // a page of the level's size
        {"NextLevel", bits(11, 9),  runs,             is(7),            &fields::next_level},                                // a page of a coded size
        {"",          bits(51, 12), tables,           role::address},                                                        // table
        {"",          bits(51, 12), own_sizes,        address_with(role::written, role::reserved)},                          // page
        {"",          bits(51, 12), runs,             address_with_size()},                                                  // page, and its size
        {"",          bits(20, 12), run_at(2),        is(ones(8, 0))},                                                       // larger than the level's
        {"",          bits(29, 12), run_at(3),        is(ones(17, 0))},                                                      // larger than the level's
        {"",          bits(38, 12), run_at(4),        is(ones(26, 0))},                                                      // larger than the level's
        {"",          bits(47, 12), run_at(5),        is(ones(35, 0))},                                                      // larger than the level's
        {"",          bits(58, 52), every,            role::reserved},                                                       // must be 0
        {"",          bits(60, 59), tables,           role::software},                                                       // ignored
        {"U",         bit(59),      leaves,           role::attribute,  &fields::untranslated},                              // told to device TLBs
        {"FC",        bit(60),      leaves,           role::attribute,  &fields::force_coherent},                            // accesses snoop
        {"IR",        bit(61),      every,            role::read,       &fields::read},                                      // reads allowed
        {"IW",        bit(62),      every,            role::write,      &fields::write},                                     // writes allowed
        {"",          bit(63),      every,            role::software},                                                       // ignored
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f)
    {
        return {.levels = f.levels, .index_bits = {9, 9, 9, 9, 9, 7}};
    }
    static constexpr entries entries_of(const features& f)
    {
        const unsigned top = f.levels < 5 ? f.levels : 5;  // level 6 has no pages
        return leaves_up_to(top) | tables_up_to(f.levels) |
               (f.coded_sizes ? entries_from(1, top, kind::run) : entries{});
    }
    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 1 || f.levels > 6) return defect::levels;
        return f.dirty_bits && !f.accessed_bits ? defect::contradiction : defect::none;
    }
    static constexpr bool caches_absent(const features& f) { return f.caches_absent; }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind k, const features&)
    {
        if (named == &fields::present) return value != 0 ? "present" : "not present";
        if (named == &fields::next_level && k != kind::table) return value == 0 ? "the level's size" : "coded size";
        if (named == &fields::untranslated) return value != 0 ? "untranslated accesses only" : "";
        if (named == &fields::force_coherent) return value != 0 ? "accesses snoop" : "as the request says";
        return "";
    }
};

/// What an IOMMU makes of a guest table's entry.
struct amdvi_guest_features {
    using description = amdvi_guest_description;

    unsigned levels = 4;          ///< 4 or 5, of what EFR.GATS offers
    unsigned physical_bits = 52;  ///< PASize; of guest-physical addresses below host tables GASize
    bool execute_disable = true;  ///< EFR.NXSup
    bool gigabyte_pages = true;
    bool caches_absent = false;  ///< NpCache: entries made present are seen after a flush only
    [[nodiscard]] constexpr bool operator==(const amdvi_guest_features&) const = default;
};

/// Ordinary paging's rows, without global pages, protection keys, HLAT and shadow stacks. A and D are always set.
/// AMD I/O Virtualization Technology (IOMMU) Specification, "Guest Page Tables".
struct amdvi_guest_description : shadow_description {
    using features = amdvi_guest_features;
    using regime = amdvi_guest_paging;

    static constexpr shadow_features row_features(const features& f)
    {
        return {.levels = f.levels,
                .physical_bits = f.physical_bits,
                .execute_disable = f.execute_disable,
                .gigabyte_pages = f.gigabyte_pages,
                .global_pages = false};
    }
    /// What may be known at boot only.
    static constexpr features at_boot(features constants, const features& given)
    {
        constants.physical_bits = given.physical_bits;
        return constants;
    }
    static constexpr defect contradiction(const shadow_features& f)
    {
        return f.levels < 4 ? defect::levels : shadow_description::contradiction(f);
    }
    static constexpr bool caches_absent(const features& f) { return f.caches_absent; }
};

/// The formats under features known at compile time.
template <amdvi_host_features Features>
inline constexpr constant_format<amdvi_host_description, Features> amdvi_host{};
template <amdvi_guest_features Features>
inline constexpr constant_format<amdvi_guest_description, Features> amdvi_guest{};

}  // namespace ptebits
