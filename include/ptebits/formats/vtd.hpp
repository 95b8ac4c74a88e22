// SPDX-License-Identifier: BSL-1.0
// Intel VT-d: second-stage tables, and first-stage tables, which have the CPU's own format.
#pragma once

#include <ptebits/formats/shadow.hpp>

namespace ptebits {

struct vtd_second_description;
struct vtd_first_description;
struct vtd_second_paging;  // how the unit walks them: vtd.hpp
struct vtd_first_paging;

/// What a remapping unit, and the context or PASID-table entry of a device, make of a second-stage entry.
/// vtd_registers.hpp takes them out of the registers.
struct vtd_second_features {
    using description = vtd_second_description;

    unsigned levels = 4;          ///< 3, 4 or 5: AW plus 2, of what CAP.SAGAW offers
    unsigned physical_bits = 52;  ///< host address width (HAW), 32 to 52
    bool large_pages = true;      ///< 2-Mbyte pages, CAP.SSLPS bit 0
    bool gigabyte_pages = true;   ///< 1-Gbyte pages, CAP.SSLPS bit 1
    bool scalable = false;        ///< RTADDR.TTM is 1, which changes the reasons of faults
    bool accessed_dirty = false;  ///< the PASID-table entry's SSADE; scalable mode, ECAP.SSADS
    bool coherent = true;         ///< walks snoop: else an access that has A or D to set faults
    bool snoop_control = true;    ///< ECAP.SC
    bool transient = false;       ///< ECAP.DT of revisions before 3.2; TM is reserved since
    bool caching_mode = false;    ///< CAP.CM: entries made present are seen after a flush only
    [[nodiscard]] constexpr bool operator==(const vtd_second_features&) const = default;
};

/// The named fields: R, W, PS, SNP, TM.
struct vtd_second_fields {
    entry_field read, write, page_size, snoop, transient;
};

/// Intel VT-d specification, "Second-Stage Translation"; "Second-Stage Paging Entries".
struct vtd_second_description {
    using features = vtd_second_features;
    using fields = vtd_second_fields;
    using when = condition<features>;
    using regime = vtd_second_paging;

    static constexpr when large_2{"CAP.SSLPS[0]", &features::large_pages};
    static constexpr when large_3{"CAP.SSLPS[1]", &features::gigabyte_pages};
    static constexpr when ad{"SSADE", &features::accessed_dirty};
    static constexpr when sc{"ECAP.SC", &features::snoop_control};
    static constexpr when dt{"ECAP.DT before 3.2", &features::transient};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits          in which entries           use              named               only with  otherwise
        {"R",    bit(0),       every,                     role::read,      &fields::read},                                 // reads allowed
        {"W",    bit(1),       every,                     role::write,     &fields::write},                                // writes allowed
        {"",     bits(6, 2),   every,                     role::software},                                                 // ignored
        {"",     bit(7),       leaf_at(1),                role::software},                                                 // ignored
        {"PS",   bit(7),       leaf_at(2) | leaf_at(3),   is(1),           &fields::page_size},                            // a large page
        {"PS",   bit(7),       table_at(2),               is(0),           &fields::page_size, large_2,  role::reserved},  // a table
        {"PS",   bit(7),       table_at(3),               is(0),           &fields::page_size, large_3,  role::reserved},  // a table
        {"",     bit(7),       table_at(4) | table_at(5), role::reserved},                                                 // no large pages
        {"A",    bit(8),       every,                     role::accessed,  nullptr,            ad,       role::software},  // used
        {"",     bit(9),       tables,                    role::software},                                                 // ignored
        {"D",    bit(9),       leaves,                    role::dirty,     nullptr,            ad,       role::software},  // written
        {"",     bit(10),      every,                     role::software},                                                 // ignored
        {"",     bit(11),      tables,                    role::reserved},                                                 // revisions differ: never set
        {"SNP",  bit(11),      leaves,                    role::attribute, &fields::snoop,     sc,       role::reserved},  // accesses snoop
        {"",     bits(51, 12), every,                     role::address},                                                  // page or table
        {"",     bits(61, 52), every,                     role::software},                                                 // ignored
        {"",     bit(62),      tables,                    role::reserved},                                                 // revisions differ: never set
        {"TM",   bit(62),      leaves,                    role::attribute, &fields::transient, dt,       role::reserved},  // transient for device TLBs
        {"",     bit(63),      every,                     role::software},                                                 // ignored
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f) { return {.levels = f.levels}; }
    static constexpr entries entries_of(const features& f)
    {
        return leaf_at(1) | tables_up_to(f.levels) | (f.large_pages ? leaf_at(2) : entries{}) |
               (f.gigabyte_pages ? leaf_at(3) : entries{});
    }
    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 3 || f.levels > 5) return defect::levels;
        return f.accessed_dirty && !f.scalable ? defect::contradiction : defect::none;
    }
    static constexpr accessed_setter accessed_by(const features& f)
    {
        return !f.accessed_dirty ? accessed_setter::nobody
               : f.coherent      ? accessed_setter::hardware
                                 : accessed_setter::fault;
    }
    static constexpr bool caches_absent(const features& f) { return f.caching_mode; }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind, const features&)
    {
        if (named == &fields::snoop) return value != 0 ? "accesses snoop" : "as the request says";
        return "";
    }
};

/// What a unit and a PASID-table entry make of a first-stage entry. Scalable mode alone.
struct vtd_first_features {
    using description = vtd_first_description;

    unsigned levels = 4;           ///< 4 or 5: FSPM plus 4, of which 5 needs CAP.FS5LP
    unsigned physical_bits = 52;   ///< host address width (HAW), 32 to 52
    bool execute_disable = false;  ///< NXE; revisions without execute requests have none
    bool gigabyte_pages = true;    ///< CAP.FS1GP
    bool coherent = true;          ///< PWSNP, ECAP.SMPWC: else an access that has A or D to set faults
    bool caching_mode = false;     ///< CAP.CM: entries made present are seen after a flush only
    [[nodiscard]] constexpr bool operator==(const vtd_first_features&) const = default;
};

/// Ordinary paging's rows, without global pages, protection keys, HLAT and shadow stacks. A and D are always set.
/// Intel VT-d specification, "First-Stage Translation"; "First-Stage Paging Entries".
struct vtd_first_description : shadow_description {
    using features = vtd_first_features;
    using regime = vtd_first_paging;

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
    static constexpr accessed_setter accessed_by(const features& f)
    {
        return f.coherent ? accessed_setter::hardware : accessed_setter::fault;
    }
    static constexpr bool caches_absent(const features& f) { return f.caching_mode; }
};

/// The formats under features known at compile time.
template <vtd_second_features Features>
inline constexpr constant_format<vtd_second_description, Features> vtd_second{};
template <vtd_first_features Features>
inline constexpr constant_format<vtd_first_description, Features> vtd_first{};

}  // namespace ptebits
