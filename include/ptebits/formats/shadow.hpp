// SPDX-License-Identifier: BSL-1.0
// Ordinary x86 paging, as a guest's shadow page tables have it: two levels of 32-bit
// entries, PAE, and the four or five levels of long mode.
#pragma once

#include <ptebits/format.hpp>
#include <ptebits/formats/x86_fields.hpp>

namespace ptebits {

struct shadow_description;
struct ordinary_paging;  // how the MMU walks it: x86.hpp

/// What a CPU and its control registers make of an ordinary page-table entry.
struct shadow_features {
    using description = shadow_description;

    unsigned levels = 4;                ///< 2: 32-bit entries, 3: PAE, 4, 5: long mode
    unsigned physical_bits = 52;        ///< MAXPHYADDR, 32 to 52; see with_memory_encryption() and key_id_bits
    bool execute_disable = true;        ///< EFER.NXE
    bool gigabyte_pages = true;         ///< CPUID 8000_0001h EDX[26]; long mode only
    bool large_pages = true;            ///< 32-bit entries: CR4.PSE; all others have them, and must say so
    bool pse36 = true;                  ///< CPUID 1 EDX[17]; 32-bit entries only
    bool global_pages = true;           ///< CR4.PGE
    bool user_keys = false;             ///< CR4.PKE: user pages have protection keys; long mode only
    bool supervisor_keys = false;       ///< CR4.PKS: supervisor pages have; long mode only
    bool shadow_stacks = false;         ///< CR4.CET: a dirty page without W is one of a shadow stack
    bool hlat = false;                  ///< HLAT paging: bit 11 restarts the walk; long mode only
    bool break_before_resize = false;   ///< AMD erratum 383, Intel's machine check on a page size change: see split.hpp
    bool reserved_bit_8 = false;        ///< AMD: bit 8 of level 4 and 5 entries is reserved
    optional_bits encryption_bit = {};  ///< AMD SME, SEV: the C-bit, no part of the address; set: encrypted
    optional_bits shared_bit = {};      ///< TDX guest: the highest address bit, GPAW - 1; set: shared with the host
    optional_bits key_id_bits = {};     ///< Intel MKTME, TDX host: key identifier, the highest bits of MAXPHYADDR
    unsigned memory_bits = 0;           ///< L1TF: memory ends below 2^memory_bits; 0: the CPU is not affected

    [[nodiscard]] constexpr bool operator==(const shadow_features&) const = default;
};

/// The rows of ordinary paging. Intel SDM volume 3, "Paging": tables for 32-bit, PAE, 4-level and 5-level entries.
/// AMD APM volume 2, "Page Translation and Protection": figures of the same.
struct shadow_description {
    using features = shadow_features;
    using fields = x86_fields;
    using when = condition<features>;
    using regime = ordinary_paging;

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
    static constexpr when large_2{"CR4.PSE or 64-bit entries",
                                  [](const features& f, unsigned) { return large_at_2(f); }};
    static constexpr when large_3{"1-Gbyte pages", [](const features& f, unsigned) { return large_at_3(f); }};
    static constexpr when pse_36{"PSE-36", [](const features& f, unsigned) { return f.levels == 2 && f.pse36; }};
    static constexpr when pge{"CR4.PGE", &features::global_pages};
    static constexpr when hlat{"HLAT", &features::hlat};
    static constexpr bool has_keys(const features& f) { return f.user_keys || f.supervisor_keys; }
    static constexpr when keys{"CR4.PKE or CR4.PKS", [](const features& f, unsigned) { return has_keys(f); }};
    static constexpr when no_keys{"long mode without protection keys",
                                  [](const features& f, unsigned) { return long_mode(f) && !has_keys(f); }};
    static constexpr when leaks{"L1TF", [](const features& f, unsigned) { return f.memory_bits != 0; }};
    static constexpr when nxe{"EFER.NXE, not a PAE PDPTE",
                              [](const features& f, unsigned l) { return f.execute_disable && !pdpte(f, l); }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits          in which entries            use                     named                     only with  otherwise
        {"P",    bit(0),       every,                      is(1),                  &fields::present},                                                 // present
        {"R/W",  bit(1),       every,                      role::write,            &fields::write,           not_pdpte, role::reserved},              // writes allowed
        {"U/S",  bit(2),       every,                      role::user,             &fields::user,            not_pdpte, role::reserved},              // user mode allowed
        {"PWT",  bit(3),       every,                      role::memory_type,      &fields::write_through},                                           // PAT index bit 0
        {"PCD",  bit(4),       every,                      role::memory_type,      &fields::cache_disable},                                           // PAT index bit 1
        {"A",    bit(5),       every,                      role::accessed,         nullptr,                  not_pdpte, role::reserved},              // used
        {"",     bit(6),       tables,                     role::software,         nullptr,                  not_pdpte, role::reserved},              // ignored
        {"D",    bit(6),       leaves,                     role::dirty},                                                                              // written
        {"PAT",  bit(7),       leaf_at(1),                 role::memory_type,      &fields::pat},                                                     // PAT index bit 2
        {"PS",   bit(7),       leaf_at(2) | leaf_at(3),    is(1),                  &fields::page_size},                                               // a large page
        {"PS",   bit(7),       table_at(2),                is(0),                  &fields::page_size,       large_2,   role::software},              // a table
        {"PS",   bit(7),       table_at(3),                is(0),                  &fields::page_size,       large_3,   role::reserved},              // a table
        {"",     bit(7),       table_at(4) | table_at(5),  role::reserved},                                                                           // no large pages
        {"",     bit(8),       tables,                     role::software,         nullptr,                  ignored_8, role::reserved},              // ignored
        {"G",    bit(8),       leaves,                     role::attribute,        &fields::global,          pge,       role::software},              // survives a change of CR3
        {"",     bits(10, 9),  every,                      role::software},                                                                           // ignored
        {"R",    bit(11),      every,                      role::attribute,        &fields::restart,         hlat,      role::software},              // HLAT paging ends here
        {"PAT",  bit(12),      leaf_at(2) | leaf_at(3),    role::memory_type,      &fields::pat_large},                                               // PAT index bit 2
        row<features, fields>
        {"",     bits(20, 13), leaf_at(2),                 role::address,          nullptr,                  pse_36,    role::reserved}.holding(32),  // address bits 39:32
        {"",     bits(51, 12), every,                      role::address},                                                                            // page or table
        {"",     bits(51, 12), absent,                     address_with(role::software, role::software), nullptr, leaks, role::software},             // must not point into memory
        {"",     bits(62, 52), every,                      role::reserved,         nullptr,                  in_pae},                                 // no ignored bits in PAE
        {"",     bits(58, 52), every,                      role::software,         nullptr,                  in_long},                                // ignored
        {"",     bits(62, 59), tables,                     role::software,         nullptr,                  in_long},                                // ignored
        {"PK",   bits(62, 59), leaves,                     role::attribute,        &fields::protection_key,  keys},                                   // protection key
        {"",     bits(62, 59), leaves,                     role::software,         nullptr,                  no_keys},                                // ignored
        {"XD",   bit(63),      every,                      denies(role::execute),  &fields::execute_disable, nxe,       role::reserved},              // no execution
        {"C",    &features::encryption_bit, tables,        encoded_as(role::attribute, 1), role::address,    &fields::encryption},                    // encrypted table
        {"C",    &features::encryption_bit, leaves,        role::attribute,        role::address,            &fields::encryption},                    // encrypted page
        {"SHARED", &features::shared_bit,   every,         role::address,          role::address,            &fields::shared},                        // shared with the host
        {"KEYID", &features::key_id_bits,   every,         role::attribute,        role::address,            &fields::key_id},                        // key identifier
    };
    // clang-format on

    /// What may be known at boot only.
    static constexpr features at_boot(features constants, const features& given)
    {
        constants.physical_bits = given.physical_bits;
        constants.encryption_bit = given.encryption_bit;
        constants.shared_bit = given.shared_bit;
        constants.key_id_bits = given.key_id_bits;
        return constants;
    }

    static constexpr unsigned different_layouts = 6;  // of present entries, at most

    static constexpr dimensions shape_of(const features& f)
    {
        if (f.levels == 2) return {.levels = 2, .entry_bits = 32, .index_bits = {10, 10}};
        if (f.levels == 3) return {.levels = 3, .index_bits = {9, 9, 2}};
        return {.levels = f.levels, .above = extension::sign};
    }

    static constexpr entries entries_of(const features& f)
    {
        return leaf_at(1) | tables_up_to(f.levels) | (large_at_2(f) ? leaf_at(2) : entries{}) |
               (large_at_3(f) ? leaf_at(3) : entries{});
    }

    static constexpr unsigned memory_bits(const features& f) { return f.memory_bits; }
    static constexpr bool shadow_stacks(const features& f) { return f.shadow_stacks; }
    static constexpr bool break_before_resize(const features& f) { return f.break_before_resize; }
    // In supervisor mode with CR0.WP = 0, which CR4.CET rules out. Nested accesses are all a user's.
    static constexpr bool writes_read_only(const features& f) { return !f.shadow_stacks; }

    static constexpr defect contradiction(const features& f)
    {
        if (f.levels < 2 || f.levels > 5) return defect::levels;
        if (!long_mode(f) && (has_keys(f) || f.hlat)) return defect::contradiction;
        // The MMU looks at PS in 64-bit entries whatever CR4.PSE is: no format is without.
        if (f.levels != 2 && !f.large_pages) return defect::always_on;
        if (f.encryption_bit.given + f.shared_bit.given + f.key_id_bits.given > 1) return defect::contradiction;
        if (f.encryption_bit.several() || f.shared_bit.several()) return defect::flag_of_several_bits;
        if (f.key_id_bits.given && f.key_id_bits.high >= f.physical_bits) return defect::encryption_bit;
        return defect::none;
    }
};

/// The features of a CPU with memory encryption on (AMD SME, SEV): its C-bit, and fewer address bits.
/// `ebx`: of CPUID 8000_001Fh. Precondition: physical_bits is that of CPUID 8000_0008h EAX[7:0].
/// Errors: an impossible width is the format's defect. AMD APM volume 3, "Encrypted Memory Capabilities".
template <class Features>
    requires requires(Features f) { f.encryption_bit; }
[[nodiscard]] constexpr Features with_memory_encryption(Features features, std::uint32_t ebx) noexcept
{
    constexpr field c_bit_position = bits(5, 0);
    constexpr field width_reduction = bits(11, 6);
    features.encryption_bit = static_cast<unsigned>(c_bit_position.get(ebx));
    features.physical_bits -= static_cast<unsigned>(width_reduction.get(ebx));
    return features;
}

/// Ordinary paging under features known at compile time.
template <shadow_features Features>
inline constexpr constant_format<shadow_description, Features> shadow{};

}  // namespace ptebits
