// SPDX-License-Identifier: BSL-1.0
// A format that the library does not have, as users of it would write one: 32-bit Arm. It has a regime with what its
// walks need, no more.
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
struct short_paging {
    using access = request;
    struct controls {};

    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept
    {
        return fault_kind::not_present;
    }
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
