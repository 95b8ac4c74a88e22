// SPDX-License-Identifier: BSL-1.0
// Intel extended page tables.
#pragma once

#include <ptebits/format.hpp>

namespace ptebits {

struct ept_description;

/// What a CPU and its VM-execution controls make of an EPT entry.
struct ept_features {
    using description = ept_description;

    unsigned levels = 4;                   ///< 4 or 5: EPTP[5:3] plus 1
    unsigned physical_bits = 52;           ///< MAXPHYADDR, 32 to 52
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
    optional_bit software_accessed = {};   ///< an ignored bit that software keeps as accessed bit
};

/// The named fields of an EPT entry. A field is empty where the features lack it.
struct ept_fields {
    field read;
    field write;
    field execute;                  ///< X: in supervisor mode only, with mode-based execute
    field memory_type;              ///< 0 UC, 1 WC, 4 WT, 5 WP, 6 WB
    field ignore_pat;               ///< IPAT
    field page_size;                ///< set in a large leaf
    field user_execute;             ///< XU
    field verify_guest_paging;      ///< VGP
    field paging_write;             ///< PW
    field supervisor_shadow_stack;  ///< SSS
    field sub_page_write;           ///< SPP
    field suppress_ve;              ///< SVE
};

/// Intel SDM volume 3, "VMX Support for Address Translation": tables of the formats of
/// EPT entries; "EPT Misconfigurations".
struct ept_description {
    using features = ept_features;
    using fields = ept_fields;
    using when = condition<features>;

    static constexpr regime walked_as = regime::extended;

    static constexpr when ad{"EPTP[6]", &features::accessed_dirty};
    static constexpr when large_2{"2-Mbyte pages", &features::large_pages};
    static constexpr when large_3{"1-Gbyte pages", &features::gigabyte_pages};
    static constexpr when mbe{"mode-based execute", &features::mode_based_execute};
    static constexpr when verify{"guest-paging verification", &features::verify_guest_paging};
    static constexpr when paging{"EPT paging-write", &features::paging_write};
    static constexpr when shadow_stack{"EPTP[7]", &features::supervisor_shadow_stack};
    static constexpr when sub_page{"sub-page write permissions", &features::sub_page_write};
    static constexpr when ve{"EPT-violation #VE", &features::suppress_ve};
    static constexpr when no_execute_only{"no execute-only pages",
                                          [](const features& f, unsigned) { return !f.execute_only; }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits           in which entries    role                named                             only with     otherwise
        {"R",    bit(0),        every,              role::read,         &fields::read},
        {"W",    bit(1),        every,              role::write,        &fields::write},
        {"X",    bit(2),        every,              role::execute,      &fields::execute},
        {"",     bits(6, 3),    tables,             role::reserved},
        {"MT",   bits(5, 3),    leaves,             role::memory_type,  &fields::memory_type},
        {"IPAT", bit(6),        leaves,             role::memory_type,  &fields::ignore_pat},
        {"",     bit(7),        leaf(1),            role::software},
        {"PS",   bit(7),        table(2) | leaf(2), role::page_size,    &fields::page_size,               large_2,      role::reserved},
        {"PS",   bit(7),        table(3) | leaf(3), role::page_size,    &fields::page_size,               large_3,      role::reserved},
        {"",     bit(7),        table(4) | table(5), role::reserved},
        {"A",    bit(8),        every,              role::accessed,     nullptr,                          ad,           role::software},
        {"",     bit(9),        tables,             role::software},
        {"D",    bit(9),        leaves,             role::dirty,        nullptr,                          ad,           role::software},
        {"XU",   bit(10),       every,              role::user_execute, &fields::user_execute,            mbe,          role::software},
        {"",     bit(11),       every,              role::software},
        {"",     bits(51, 12),  tables | leaf(1),   role::address},
        {"",     bits(20, 12),  leaf(2),            role::reserved},
        {"",     bits(51, 21),  leaf(2),            role::address},
        {"",     bits(29, 12),  leaf(3),            role::reserved},
        {"",     bits(51, 30),  leaf(3),            role::address},
        {"",     bits(56, 52),  every,              role::software},
        {"",     bits(63, 57),  tables,             role::software},
        {"VGP",  bit(57),       leaves,             role::attribute,    &fields::verify_guest_paging,     verify,       role::software},
        {"PW",   bit(58),       leaves,             role::attribute,    &fields::paging_write,            paging,       role::software},
        {"",     bit(59),       leaves,             role::software},
        {"SSS",  bit(60),       leaves,             role::attribute,    &fields::supervisor_shadow_stack, shadow_stack, role::software},
        {"SPP",  bit(61),       leaf(1),            role::attribute,    &fields::sub_page_write,          sub_page,     role::software},
        {"",     bit(61),       leaf(2) | leaf(3),  role::software},
        {"",     bit(62),       leaves,             role::software},
        {"SVE",  bit(63),       leaves,             role::attribute,    &fields::suppress_ve,             ve,           role::software},
        {"A",    &features::software_accessed, leaves, role::accessed,  role::software},
    };

    // EPT misconfigurations other than reserved bits.
    static constexpr ptebits::forbidden<features, fields> forbidden[] = {
        // breaks                     in      which                  value  without        only with
        {rule::write_without_read,    every,  &fields::write,        1,     &fields::read},
        {rule::execute_without_read,  every,  &fields::execute,      1,     &fields::read, no_execute_only},
        {rule::execute_without_read,  every,  &fields::user_execute, 1,     &fields::read, no_execute_only},
        {rule::memory_type,           leaves, &fields::memory_type,  2},
        {rule::memory_type,           leaves, &fields::memory_type,  3},
        {rule::memory_type,           leaves, &fields::memory_type,  7},
    };
    // clang-format on

    static constexpr shape shape_of(const features& f) { return {.levels = f.levels}; }

    static constexpr entries entries_of(const features& f)
    {
        return leaf(1) | tables_up_to(f.levels) | (f.large_pages ? leaf(2) : entries{}) |
               (f.gigabyte_pages ? leaf(3) : entries{});
    }

    static constexpr defect contradiction(const features& f)
    {
        return f.levels == 4 || f.levels == 5 ? defect::none : defect::levels;
    }
};

/// EPT under features known at compile time.
template <ept_features Features>
struct ept : static_format<ept_description, Features> {
    using base = static_format<ept_description, Features>;

    static constexpr field read = base::value.read;
    static constexpr field write = base::value.write;
    static constexpr field execute = base::value.execute;
    static constexpr field memory_type = base::value.memory_type;
    static constexpr field ignore_pat = base::value.ignore_pat;
    static constexpr field page_size = base::value.page_size;
    static constexpr field user_execute = base::value.user_execute;
    static constexpr field verify_guest_paging = base::value.verify_guest_paging;
    static constexpr field paging_write = base::value.paging_write;
    static constexpr field supervisor_shadow_stack = base::value.supervisor_shadow_stack;
    static constexpr field sub_page_write = base::value.sub_page_write;
    static constexpr field suppress_ve = base::value.suppress_ve;
};

/// Why VM entry refuses an EPT pointer.
enum class eptp_error : std::uint8_t {
    none,
    memory_type,     ///< neither UC nor WB, or the CPU lacks it
    walk_length,     ///< neither 4 nor 5 levels, or the CPU lacks it
    accessed_dirty,  ///< A/D enabled on a CPU without
    shadow_stack,    ///< supervisor shadow-stack control on a CPU without
    reserved_bits,   ///< bits 11:8, or at and above the physical-address width
};

/// What VM entry checks of an EPT pointer, by IA32_VMX_EPT_VPID_CAP and MAXPHYADDR.
/// Intel SDM volume 3, "VM-Execution Control Fields" under "Checks on VMX Controls".
[[nodiscard]] constexpr eptp_error check_eptp(std::uint64_t eptp, std::uint64_t capabilities,
                                              unsigned physical_bits) noexcept
{
    const auto capable = [&](unsigned index) { return (capabilities >> index & 1) != 0; };
    const std::uint64_t type = bits(2, 0).get(eptp);
    const std::uint64_t levels = bits(5, 3).get(eptp) + 1;
    if (!(type == 0 && capable(8)) && !(type == 6 && capable(14))) return eptp_error::memory_type;
    if (!(levels == 4 && capable(6)) && !(levels == 5 && capable(7))) return eptp_error::walk_length;
    if (bit(6).get(eptp) != 0 && !capable(21)) return eptp_error::accessed_dirty;
    if (bit(7).get(eptp) != 0 && !capable(23)) return eptp_error::shadow_stack;
    if ((eptp & (ones(11, 8) | ones(63, physical_bits))) != 0) return eptp_error::reserved_bits;
    return eptp_error::none;
}

static_assert(entry_format<ept<ept_features{}>> && entry_format<runtime_format<ept_description>>);
static_assert(well_formed<ept<ept_features{}>> && well_formed<ept<ept_features{.accessed_dirty = false}>>);
static_assert(well_formed<ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>>);

}  // namespace ptebits
