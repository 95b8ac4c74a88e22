// SPDX-License-Identifier: BSL-1.0
// How a VT-d unit walks its tables, and the reasons that it records for faults. For the second stage, the first, and
// the first above the second.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/device.hpp>
#include <ptebits/formats/vtd.hpp>
#include <ptebits/nested_walk.hpp>

namespace ptebits {

/// Why a request was refused, as a fault record tells it. Intel VT-d specification, "Fault Conditions".
enum class vtd_reason : std::uint8_t {
    none = 0,
    root_not_present = 0x1,
    context_not_present = 0x2,
    context_invalid = 0x3,  ///< AW or TT that the unit does not have
    address_width = 0x4,    ///< legacy mode: beyond what the tables, or the unit, translate
    write = 0x5,            ///< legacy mode: W is clear in an entry
    read = 0x6,             ///< legacy mode: R is clear in an entry
    table_access = 0x7,     ///< legacy mode: an entry could not be read
    root_access = 0x8,      ///< the root entry could not be read
    context_access = 0x9,   ///< the context entry could not be read
    root_reserved = 0xa,
    context_reserved = 0xb,
    entry_reserved = 0xc,  ///< legacy mode: reserved bits of a paging entry
    blocked = 0xd,         ///< TT does not allow such requests
    pasid_not_present = 0x59,
    pasid_reserved = 0x5a,
    pasid_invalid = 0x5b,      ///< PGTT, AW or FSPM that the unit does not have
    first_access = 0x70,       ///< first stage: an entry could not be read
    first_not_present = 0x71,  ///< P is clear
    first_reserved = 0x72,
    first_root_access = 0x73,   ///< the top table could not be read
    nested_width = 0x74,        ///< a first-stage table lies beyond what the second stage translates
    nested_root_read = 0x75,    ///< the second stage does not let the first stage's top table be read
    nested_read = 0x76,         ///< nor another table of it
    nested_write = 0x77,        ///< nor A and D be set in it
    second_access = 0x78,       ///< scalable mode, second stage: an entry could not be read
    second_not_present = 0x79,  ///< R and W are clear
    second_reserved = 0x7a,
    second_root_access = 0x7b,  ///< the top table could not be read
    second_update = 0x7c,       ///< A or D must be set, and walks do not snoop
    not_canonical = 0x80,
    first_user = 0x81,  ///< U/S is clear in an entry
    execute = 0x82,
    second_width = 0x84,    ///< beyond what the second stage translates
    scalable_write = 0x85,  ///< R/W, or W, is clear in an entry
    scalable_read = 0x86,   ///< R is clear in an entry
    first_update = 0x90,    ///< A or D must be set, and walks do not snoop
};

namespace detail {

[[nodiscard]] constexpr reported_code reported(vtd_reason r) noexcept
{
    return {static_cast<std::uint64_t>(r), r != vtd_reason::none};
}

}  // namespace detail

/// The walk of second-stage tables. Requests to FEE0'0000h..FEEF'FFFFh are interrupts and never come here. Intel VT-d
/// specification, "Second-Stage Translation".
struct vtd_second_paging {
    using access = device_access;
    struct controls {
        unsigned address_bits = 64;  ///< CAP.MGAW plus 1: tables may translate more

        [[nodiscard]] constexpr bool operator==(const controls&) const = default;
    };

    [[nodiscard]] PTEBITS_INLINE static constexpr fault_kind admit(std::uint64_t address, const access&,
                                                                   const controls& c, const auto&) noexcept
    {
        const bool wide = c.address_bits < 64 && address >> c.address_bits != 0;
        return wide ? fault_kind::address_too_wide : fault_kind::none;
    }
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls&, const auto&) noexcept
    {
        return (!a.reads() || r.allowed.read) && (!a.writes() || r.allowed.write);
    }
    /// The reason: a vtd_reason. The manual orders no reasons of one walk: this is that of the first entry that ends
    /// it, rights are judged last.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls& c,
                                                            const auto& format) noexcept
    {
        return detail::reported(format->features().scalable ? in_scalable_mode(r, a, c, format) : in_legacy_mode(r, a));
    }

    /// The access to a first-stage table; to set A or D it must be writable, too.
    [[nodiscard]] static constexpr access table_access(const auto&, bool update) noexcept
    {
        return {.what = update ? operation::read_write : operation::read, .first_stage = true};
    }
    [[nodiscard]] static constexpr bool updates_may_fault(const auto&) noexcept { return true; }

private:
    [[nodiscard]] static constexpr vtd_reason in_legacy_mode(const walk_result& r, const access& a) noexcept
    {
        switch (r.fault) {
        case fault_kind::address_too_wide:
            return vtd_reason::address_width;
        case fault_kind::not_present:
        case fault_kind::protection:
            return a.writes() && !r.allowed.write ? vtd_reason::write : vtd_reason::read;
        case fault_kind::reserved_bits:
            return vtd_reason::entry_reserved;
        case fault_kind::memory_absent:
            return vtd_reason::table_access;
        default:
            return vtd_reason::none;
        }
    }
    [[nodiscard]] static constexpr vtd_reason in_scalable_mode(const walk_result& r, const access& a, const controls& c,
                                                               const auto& format) noexcept
    {
        const bool denied = r.fault == fault_kind::protection ||
                            (r.fault == fault_kind::access_flag && !allows(r, r.last_entry(), a, c, format));
        if (denied && a.first_stage) return r.allowed.read ? vtd_reason::nested_write : vtd_reason::nested_read;
        if (denied) return a.writes() && !r.allowed.write ? vtd_reason::scalable_write : vtd_reason::scalable_read;
        switch (r.fault) {
        case fault_kind::address_too_wide:
            return a.first_stage ? vtd_reason::nested_width : vtd_reason::second_width;
        case fault_kind::not_present:
            return vtd_reason::second_not_present;
        case fault_kind::reserved_bits:
            return vtd_reason::second_reserved;
        case fault_kind::memory_absent:
            return r.steps == 0 ? vtd_reason::second_root_access : vtd_reason::second_access;
        case fault_kind::access_flag:
            return vtd_reason::second_update;
        default:
            return vtd_reason::none;
        }
    }
};

/// The walk of first-stage tables. Intel VT-d specification, "First-Stage Translation".
struct vtd_first_paging {
    using access = device_access;
    using controls = device_controls;

    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls& c, const auto&) noexcept
    {
        return detail::device_allows(r.allowed, a, c);
    }
    /// The reason: a vtd_reason.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls& c,
                                                            const auto&) noexcept
    {
        return detail::reported(reason_of(r, a, c));
    }

private:
    [[nodiscard]] static constexpr vtd_reason reason_of(const walk_result& r, const access& a,
                                                        const controls& c) noexcept
    {
        switch (r.fault) {
        case fault_kind::not_canonical:
            return vtd_reason::not_canonical;
        case fault_kind::not_present:
            return vtd_reason::first_not_present;
        case fault_kind::reserved_bits:
            return vtd_reason::first_reserved;
        case fault_kind::memory_absent:
            return r.steps == 0 ? vtd_reason::first_root_access : vtd_reason::first_access;
        case fault_kind::access_flag:
            if (detail::device_allows(r.allowed, a, c)) return vtd_reason::first_update;
            [[fallthrough]];
        case fault_kind::protection:
            if (a.user && !r.allowed.user) return vtd_reason::first_user;
            return a.fetches() ? vtd_reason::execute : vtd_reason::scalable_write;
        default:
            return vtd_reason::none;
        }
    }
};

/// The reason of a walk of both stages (PGTT 3). The second stage is in scalable mode.
template <walkable_format Guest, walkable_format Host>
[[nodiscard]] constexpr vtd_reason nested_reason(const nested_result<device_access>& r, const device_access& a,
                                                 const std::type_identity_t<nested_controls<Guest, Host>>& cpu,
                                                 const Guest& first, const Host& second) noexcept
{
    const auto reason = static_cast<vtd_reason>(fault_code(r, a, cpu, first, second).value);
    const bool of_root = reason == vtd_reason::nested_read && r.guest.steps == 0;
    return of_root ? vtd_reason::nested_root_read : reason;
}

}  // namespace ptebits
