// SPDX-License-Identifier: BSL-1.0
// Intel extended page tables.
#pragma once

#include <ptebits/format.hpp>
#include <ptebits/formats/x86_fields.hpp>

namespace ptebits {

struct ept_description;
struct extended_paging;  // how the MMU walks it: x86.hpp

/// What a CPU and its VM-execution controls make of an EPT entry.
struct ept_features {
    using description = ept_description;

    unsigned levels = 4;                   ///< 4 or 5: EPTP[5:3] plus 1
    unsigned physical_bits = 52;           ///< MAXPHYADDR, 32 to 52; key_id_bits are within
    bool accessed_dirty = true;            ///< EPTP[6]
    bool execute_only = true;              ///< IA32_VMX_EPT_VPID_CAP[0]
    bool large_pages = true;               ///< 2-Mbyte pages, IA32_VMX_EPT_VPID_CAP[16]
    bool gigabyte_pages = true;            ///< 1-Gbyte pages, IA32_VMX_EPT_VPID_CAP[17]
    bool mode_based_execute = false;       ///< mode-based execute control for EPT
    bool verify_guest_paging = false;      ///< guest-paging verification
    bool paging_write = false;             ///< EPT paging-write control
    bool supervisor_shadow_stack = false;  ///< EPTP[7]
    bool sub_page_write = false;           ///< sub-page write permissions for EPT
    bool suppress_ve = false;              ///< EPT-violation #VE
    bool break_before_resize = false;      ///< Intel's machine check on a page size change: see split.hpp
    optional_bits key_id_bits = {};        ///< MKTME, TDX host: key identifier, the highest bits of MAXPHYADDR
    optional_bits software_accessed = {};  ///< an ignored bit that software keeps as accessed bit
    unsigned memory_bits = 0;              ///< L1TF: memory ends below 2^memory_bits; 0: the CPU is not affected

    [[nodiscard]] constexpr bool operator==(const ept_features&) const = default;
};

/// The named fields of an EPT entry. A field is empty where the features lack it.
struct ept_fields {
    entry_field read;
    entry_field write;
    entry_field execute;                  ///< X: in supervisor mode only, with mode-based execute
    entry_field memory_type;              ///< 0 UC, 1 WC, 4 WT, 5 WP, 6 WB
    entry_field ignore_pat;               ///< IPAT
    entry_field page_size;                ///< set in a large leaf
    entry_field user_execute;             ///< XU
    entry_field verify_guest_paging;      ///< VGP
    entry_field paging_write;             ///< PW
    entry_field supervisor_shadow_stack;  ///< SSS
    entry_field sub_page_write;           ///< SPP
    entry_field suppress_ve;              ///< SVE
    entry_field key_id;                   ///< key identifier of memory encryption

    /// What a value of a named field means, "" if its role says it all.
    static constexpr const char* meaning(entry_field ept_fields::* named, std::uint64_t value) noexcept
    {
        using fields = ept_fields;
        const bool set = value != 0;
        if (named == &fields::memory_type) {
            using type = ptebits::memory_type;
            const auto t = static_cast<type>(value);
            const bool exists = t == type::uc || t == type::wc || t == type::wt || t == type::wp || t == type::wb;
            return exists ? name(t) : "";
        }
        if (named == &fields::ignore_pat) return set ? "guest's PAT ignored" : "guest's PAT counts";
        if (named == &fields::verify_guest_paging) return set ? "guest paging verified" : "guest paging not verified";
        if (named == &fields::paging_write) return set ? "writable for paging" : "not writable for paging";
        if (named == &fields::supervisor_shadow_stack)
            return set ? "supervisor shadow stack" : "no supervisor shadow stack";
        if (named == &fields::sub_page_write) return set ? "write permission by sub-page" : "write permission by page";
        if (named == &fields::suppress_ve) return set ? "violation exits" : "violation may raise #VE";
        if (named == &fields::key_id) return "key identifier";
        return "";
    }
};

/// The rows of EPT. Intel SDM volume 3, "VMX Support for Address Translation": tables of the formats of
/// EPT entries; "EPT Misconfigurations".
struct ept_description {
    using features = ept_features;
    using fields = ept_fields;
    using when = condition<features>;
    using regime = extended_paging;

    static constexpr when ad{"EPTP[6]", &features::accessed_dirty};
    static constexpr when large_2{"2-Mbyte pages", &features::large_pages};
    static constexpr when large_3{"1-Gbyte pages", &features::gigabyte_pages};
    static constexpr when mbe{"mode-based execute", &features::mode_based_execute};
    static constexpr when verify{"guest-paging verification", &features::verify_guest_paging};
    static constexpr when paging{"EPT paging-write", &features::paging_write};
    static constexpr when shadow_stack{"EPTP[7]", &features::supervisor_shadow_stack};
    static constexpr when sub_page{"sub-page write permissions", &features::sub_page_write};
    static constexpr when ve{"EPT-violation #VE", &features::suppress_ve};
    static constexpr when leaks{"L1TF", [](const features& f, unsigned) { return f.memory_bits != 0; }};
    static constexpr when no_execute_only{"no execute-only pages",
                                          [](const features& f, unsigned) { return !f.execute_only; }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits          in which entries            use                 named                             only with     otherwise
        {"R",    bit(0),       every,                      role::read,         &fields::read},                                                   // reads allowed
        {"W",    bit(1),       every,                      role::write,        &fields::write},                                                  // writes allowed
        {"X",    bit(2),       every,                      role::execute,      &fields::execute},                                                // execution allowed
        {"",     bits(6, 3),   tables,                     role::reserved},                                                                      // leaves' memory type
        {"MT",   bits(5, 3),   leaves,                     role::memory_type,  &fields::memory_type},                                            // memory type
        {"IPAT", bit(6),       leaves,                     role::memory_type,  &fields::ignore_pat},                                             // guest's PAT ignored
        {"",     bit(7),       leaf_at(1),                 role::software},                                                                      // ignored
        {"PS",   bit(7),       leaf_at(2) | leaf_at(3),    is(1),              &fields::page_size},                                              // a large page
        {"PS",   bit(7),       table_at(2),                is(0),              &fields::page_size,               large_2,      role::reserved},  // a table
        {"PS",   bit(7),       table_at(3),                is(0),              &fields::page_size,               large_3,      role::reserved},  // a table
        {"",     bit(7),       table_at(4) | table_at(5),  role::reserved},                                                                      // no large pages
        {"A",    bit(8),       every,                      role::accessed,     nullptr,                          ad,           role::software},  // used
        {"",     bit(9),       tables,                     role::software},                                                                      // ignored
        {"D",    bit(9),       leaves,                     role::dirty,        nullptr,                          ad,           role::software},  // written
        {"XU",   bit(10),      every,                      role::user_execute, &fields::user_execute,            mbe,          role::software},  // execution in user mode
        {"",     bit(11),      every,                      role::software},                                                                      // ignored
        {"",     bits(51, 12), every,                      role::address},                                                                       // page or table
        {"",     bits(51, 12), absent,                     address_with(role::software, role::software), nullptr, leaks, role::software},        // must not point into memory
        {"",     bits(56, 52), every,                      role::software},                                                                      // ignored
        {"",     bits(63, 57), tables,                     role::software},                                                                      // ignored
        {"VGP",  bit(57),      leaves,                     role::attribute,    &fields::verify_guest_paging,     verify,       role::software},  // guest paging verified
        {"PW",   bit(58),      leaves,                     role::attribute,    &fields::paging_write,            paging,       role::software},  // guest paging may write
        {"",     bit(59),      leaves,                     role::software},                                                                      // ignored
        {"SSS",  bit(60),      leaves,                     role::attribute,    &fields::supervisor_shadow_stack, shadow_stack, role::software},  // supervisor shadow stack
        {"SPP",  bit(61),      leaf_at(1),                 role::attribute,    &fields::sub_page_write,          sub_page,     role::software},  // writes allowed by sub-page
        {"",     bit(61),      leaf_at(2) | leaf_at(3),    role::software},                                                                      // ignored
        {"",     bit(62),      leaves,                     role::software},                                                                      // ignored
        {"SVE",  bit(63),      leaves,                     role::attribute,    &fields::suppress_ve,             ve,           role::software},  // violations exit
        {"SVE",  bit(63),      absent,                     writes(1),          &fields::suppress_ve,             ve,           role::software},  // violations exit
        {"KEYID", &features::key_id_bits,   every,         role::attribute,    role::address, &fields::key_id},                                  // key identifier
        {"A",    &features::software_accessed, leaves,     role::accessed,     role::software},                                                  // used, by software
    };

    // EPT misconfigurations other than reserved bits.
    static constexpr ptebits::forbidden<features, fields> forbidden[] = {
        // breaks                     in      which                  value  without        only with
        {rule::write_without_read,    every,  &fields::write,        1,     &fields::read},
        {rule::write_without_read,    leaves, &fields::paging_write, 1,     &fields::read},
        {rule::execute_without_read,  every,  &fields::execute,      1,     &fields::read, no_execute_only},
        {rule::execute_without_read,  every,  &fields::user_execute, 1,     &fields::read, no_execute_only},
        {rule::memory_type,           leaves, &fields::memory_type,  2},
        {rule::memory_type,           leaves, &fields::memory_type,  3},
        {rule::memory_type,           leaves, &fields::memory_type,  7},
    };
    // clang-format on

    /// What may be known at boot only.
    static constexpr features at_boot(features constants, const features& given)
    {
        constants.physical_bits = given.physical_bits;
        constants.key_id_bits = given.key_id_bits;
        return constants;
    }

    static constexpr unsigned different_layouts = 5;  // of present entries, at most

    static constexpr dimensions shape_of(const features& f) { return {.levels = f.levels}; }
    static constexpr unsigned memory_bits(const features& f) { return f.memory_bits; }
    static constexpr bool break_before_resize(const features& f) { return f.break_before_resize; }
    static constexpr std::uint64_t other_writes(const features&, const fields& f)
    {
        return f.paging_write.mask() | f.supervisor_shadow_stack.mask() | f.sub_page_write.mask();
    }

    static constexpr entries entries_of(const features& f)
    {
        return leaf_at(1) | tables_up_to(f.levels) | (f.large_pages ? leaf_at(2) : entries{}) |
               (f.gigabyte_pages ? leaf_at(3) : entries{});
    }

    static constexpr defect contradiction(const features& f)
    {
        if (f.levels != 4 && f.levels != 5) return defect::levels;
        const bool outside = f.key_id_bits.given && f.key_id_bits.high >= f.physical_bits;
        return outside ? defect::encryption_bit : defect::none;
    }
};

/// EPT under features known at compile time.
template <ept_features Features>
inline constexpr constant_format<ept_description, Features> ept{};

}  // namespace ptebits
