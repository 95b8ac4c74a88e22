// SPDX-License-Identifier: BSL-1.0
// Ordinary x86 paging, as a guest's shadow page tables have it: two levels of 32-bit
// entries, PAE, and the four or five levels of long mode.
#pragma once

#include <ptebits/format.hpp>

namespace ptebits {

struct shadow_description;

/// What a CPU and its control registers make of an ordinary page-table entry.
struct shadow_features {
    using description = shadow_description;

    unsigned levels = 4;               ///< 2: 32-bit entries, 3: PAE, 4, 5: long mode
    unsigned physical_bits = 52;       ///< MAXPHYADDR, 32 to 52
    bool execute_disable = true;       ///< EFER.NXE
    bool gigabyte_pages = true;        ///< CPUID 8000_0001h EDX[26]; long mode only
    bool large_pages = true;           ///< CR4.PSE; 32-bit entries only, else always on
    bool pse36 = true;                 ///< CPUID 1 EDX[17]; 32-bit entries only
    bool global_pages = true;          ///< CR4.PGE
    bool protection_keys = false;      ///< CR4.PKE or CR4.PKS; long mode only
    bool hlat = false;                 ///< HLAT paging: bit 11 restarts the walk; long mode only
    bool reserved_bit_8 = false;       ///< AMD: bit 8 of level 4 and 5 entries is reserved
    optional_bit encryption_bit = {};  ///< SME and SEV C-bit, TDX shared bit
};

/// The named fields of an ordinary entry. A field is empty where the features lack it.
struct x86_fields {
    field present;
    field write;
    field user;
    field write_through;    ///< PWT
    field cache_disable;    ///< PCD
    field page_size;        ///< PS: set in a large leaf
    field pat;              ///< of a 4-Kbyte leaf
    field pat_large;        ///< of a large leaf
    field global;           ///< G
    field restart;          ///< R, with HLAT
    field protection_key;   ///< four bits
    field execute_disable;  ///< XD, AMD's NX
    field encryption;       ///< C
};

/// Intel SDM volume 3, "Paging": tables for 32-bit, PAE, 4-level and 5-level entries.
/// AMD APM volume 2, "Page Translation and Protection": figures of the same.
struct shadow_description {
    using features = shadow_features;
    using fields = x86_fields;
    using when = condition<features>;

    static constexpr bool long_mode(const features& f) { return f.levels >= 4; }
    static constexpr bool pdpte(const features& f, unsigned level) { return f.levels == 3 && level == 3; }
    static constexpr bool large_at_2(const features& f) { return f.levels != 2 || f.large_pages; }
    static constexpr bool large_at_3(const features& f) { return long_mode(f) && f.gigabyte_pages; }

    static constexpr when not_pdpte{"not a PAE PDPTE", [](const features& f, unsigned l) { return !pdpte(f, l); }};
    static constexpr when ignored_8{"not a PAE PDPTE, not AMD's level 4 or 5", [](const features& f, unsigned l) {
                                        return !pdpte(f, l) && !(f.reserved_bit_8 && l >= 4);
                                    }};
    static constexpr when in_long{"long mode", [](const features& f, unsigned) { return long_mode(f); }};
    static constexpr when in_pae{"PAE", [](const features& f, unsigned) { return f.levels == 3; }};
    static constexpr when wide{"64-bit entries", [](const features& f, unsigned) { return f.levels != 2; }};
    static constexpr when large_2{"CR4.PSE or 64-bit entries",
                                  [](const features& f, unsigned) { return large_at_2(f); }};
    static constexpr when large_3{"1-Gbyte pages", [](const features& f, unsigned) { return large_at_3(f); }};
    static constexpr when pse_36{"PSE-36", [](const features& f, unsigned) { return f.levels == 2 && f.pse36; }};
    static constexpr when pge{"CR4.PGE", &features::global_pages};
    static constexpr when hlat{"HLAT", &features::hlat};
    static constexpr when keys{"CR4.PKE or CR4.PKS", &features::protection_keys};
    static constexpr when no_keys{"long mode without protection keys",
                                  [](const features& f, unsigned) { return long_mode(f) && !f.protection_keys; }};
    static constexpr when nxe{"EFER.NXE, not a PAE PDPTE",
                              [](const features& f, unsigned l) { return f.execute_disable && !pdpte(f, l); }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits           in which entries    role                   named                     only with  otherwise
        {"P",    bit(0),        every,              role::present,         &fields::present},
        {"R/W",  bit(1),        every,              role::write,           &fields::write,           not_pdpte, role::reserved},
        {"U/S",  bit(2),        every,              role::user,            &fields::user,            not_pdpte, role::reserved},
        {"PWT",  bit(3),        every,              role::memory_type,     &fields::write_through},
        {"PCD",  bit(4),        every,              role::memory_type,     &fields::cache_disable},
        {"A",    bit(5),        every,              role::accessed,        nullptr,                  not_pdpte, role::reserved},
        {"",     bit(6),        tables,             role::software,        nullptr,                  not_pdpte, role::reserved},
        {"D",    bit(6),        leaves,             role::dirty},
        {"PAT",  bit(7),        leaf(1),            role::memory_type,     &fields::pat},
        {"PS",   bit(7),        table(2) | leaf(2), role::page_size,       &fields::page_size,       large_2,   role::software},
        {"PS",   bit(7),        table(3) | leaf(3), role::page_size,       &fields::page_size,       large_3,   role::reserved},
        {"",     bit(7),        table(4) | table(5), role::reserved},
        {"",     bit(8),        tables,             role::software,        nullptr,                  ignored_8, role::reserved},
        {"G",    bit(8),        leaves,             role::attribute,       &fields::global,          pge,       role::software},
        {"",     bits(10, 9),   every,              role::software},
        {"R",    bit(11),       every,              role::attribute,       &fields::restart,         hlat,      role::software},
        {"PAT",  bit(12),       leaf(2) | leaf(3),  role::memory_type,     &fields::pat_large},
        {"",     bits(51, 12),  tables | leaf(1),   role::address},
        row<features, fields>
        {"",     bits(20, 13),  leaf(2),            role::address,         nullptr,                  pse_36,    role::reserved}.holding(32),
        {"",     bit(21),       leaf(2),            role::address,         nullptr,                  wide,      role::reserved},
        {"",     bits(51, 22),  leaf(2),            role::address},
        {"",     bits(29, 13),  leaf(3),            role::reserved},
        {"",     bits(51, 30),  leaf(3),            role::address},
        {"",     bits(62, 52),  every,              role::reserved,        nullptr,                  in_pae},
        {"",     bits(58, 52),  every,              role::software,        nullptr,                  in_long},
        {"",     bits(62, 59),  tables,             role::software,        nullptr,                  in_long},
        {"PK",   bits(62, 59),  leaves,             role::attribute,       &fields::protection_key,  keys},
        {"",     bits(62, 59),  leaves,             role::software,        nullptr,                  no_keys},
        {"XD",   bit(63),       every,              role::execute_disable, &fields::execute_disable, nxe,       role::reserved},
        {"C",    &features::encryption_bit, every,  role::attribute,       role::address,            &fields::encryption},
    };
    // clang-format on

    static constexpr shape shape_of(const features& f)
    {
        if (f.levels == 2) return {.levels = 2, .entry_bits = 32, .index_bits = 10, .top_index_bits = 10};
        return {.levels = f.levels, .top_index_bits = f.levels == 3 ? 2U : 9U, .canonical = long_mode(f)};
    }

    static constexpr entries entries_of(const features& f)
    {
        return leaf(1) | tables_up_to(f.levels) | (large_at_2(f) ? leaf(2) : entries{}) |
               (large_at_3(f) ? leaf(3) : entries{});
    }

    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 2 || f.levels > max_levels) return defect::levels;
        if (!long_mode(f) && (f.protection_keys || f.hlat)) return defect::contradiction;
        return defect::none;
    }
};

/// The named fields of ordinary entries as constants of a type.
template <class Static>
struct x86_names {
    static constexpr field present = Static::value.present;
    static constexpr field write = Static::value.write;
    static constexpr field user = Static::value.user;
    static constexpr field write_through = Static::value.write_through;
    static constexpr field cache_disable = Static::value.cache_disable;
    static constexpr field page_size = Static::value.page_size;
    static constexpr field pat = Static::value.pat;
    static constexpr field pat_large = Static::value.pat_large;
    static constexpr field global = Static::value.global;
    static constexpr field restart = Static::value.restart;
    static constexpr field protection_key = Static::value.protection_key;
    static constexpr field execute_disable = Static::value.execute_disable;
    static constexpr field encryption = Static::value.encryption;
};

/// Ordinary paging under features known at compile time.
template <shadow_features Features>
struct shadow : static_format<shadow_description, Features>, x86_names<static_format<shadow_description, Features>> {};

static_assert(entry_format<shadow<shadow_features{}>> && entry_format<runtime_format<shadow_description>>);
static_assert(well_formed<shadow<shadow_features{.levels = 5, .protection_keys = true, .encryption_bit = 47}>>);
static_assert(well_formed<shadow<shadow_features{.levels = 3}>> && well_formed<shadow<shadow_features{.levels = 2}>>);

}  // namespace ptebits
