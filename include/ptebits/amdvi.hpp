// SPDX-License-Identifier: BSL-1.0
// How an AMD IOMMU walks its tables, and the events that it logs for faults. For host tables, guest tables, and guest
// tables above host tables.
#pragma once

#include <cstdint>

#include <ptebits/device.hpp>
#include <ptebits/formats/amdvi.hpp>
#include <ptebits/nested_walk.hpp>

namespace ptebits {

/// Fields of an event log entry's first 64 bits; the second have the address. Events of walks are IO_PAGE_FAULT and
/// PAGE_TAB_HARDWARE_ERROR. AMD IOMMU specification, "Event Logging".
struct amdvi_event_fields {
    static constexpr field device = bits(15, 0);
    static constexpr field pasid_high = bits(19, 16);
    static constexpr field domain = bits(47, 32);  ///< with GN: PASID, bits 15:0
    static constexpr field guest = bit(48);        ///< GN: of guest tables
    static constexpr field execute = bit(49);      ///< NX: the access was to execute
    static constexpr field user = bit(50);         ///< US: a user's access
    static constexpr field interrupt = bit(51);    ///< I
    static constexpr field present = bit(52);      ///< PR: all entries were present; else PE and RZ say nothing
    static constexpr field write = bit(53);        ///< RW
    static constexpr field denied = bit(54);       ///< PE: the entries do not allow the access
    static constexpr field reserved = bit(55);     ///< RZ: reserved bits were set; else a level or size is illegal
    static constexpr field translation = bit(56);  ///< TR: a translation was asked for
    static constexpr field code = bits(63, 60);
};

/// What an event is of.
enum class amdvi_event : std::uint8_t {
    none = 0,
    illegal_device_entry = 1,   ///< ILLEGAL_DEV_TABLE_ENTRY
    page_fault = 2,             ///< IO_PAGE_FAULT
    device_table_hardware = 3,  ///< DEV_TAB_HARDWARE_ERROR
    page_table_hardware = 4,    ///< PAGE_TAB_HARDWARE_ERROR: an entry could not be read
    illegal_command = 5,        ///< ILLEGAL_COMMAND_ERROR
    command_hardware = 6,       ///< COMMAND_HARDWARE_ERROR
    device_tlb_timeout = 7,     ///< IOTLB_INV_TIMEOUT
    invalid_request = 8,        ///< INVALID_DEVICE_REQUEST
};

namespace detail {

/// The event's code and flags of a walk's fault, in place.
[[nodiscard]] constexpr reported_code amdvi_event_of(const walk_result& r, const device_access& a, bool guest) noexcept
{
    using fields = amdvi_event_fields;
    if (r.fault == fault_kind::none || r.fault == fault_kind::not_a_root || r.fault == fault_kind::second_stage)
        return {};
    const bool unreadable = r.fault == fault_kind::memory_absent;
    const auto what = unreadable ? amdvi_event::page_table_hardware : amdvi_event::page_fault;
    std::uint64_t event = fields::code(static_cast<std::uint64_t>(what)) | fields::write(a.writes() ? 1 : 0);
    if (guest) event |= fields::guest(1) | fields::user(a.user ? 1 : 0) | fields::execute(a.fetches() ? 1 : 0);
    if (unreadable || r.fault == fault_kind::not_present) return {event, true};
    event |= fields::present(1);
    if (r.fault == fault_kind::protection) event |= fields::denied(1);
    if (r.broken == rule::reserved_bits) event |= fields::reserved(1);
    return {event, true};
}

}  // namespace detail

/// The walk of host tables. The controls are the device table entry's. AMD IOMMU specification, "I/O Page Tables for
/// Host Translations".
struct amdvi_host_paging {
    using access = device_access;
    struct controls {
        bool read = true;   ///< DTE.IR
        bool write = true;  ///< DTE.IW

        [[nodiscard]] constexpr bool operator==(const controls&) const = default;
    };

    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls& c, const auto&) noexcept
    {
        return (!a.reads() || (c.read && r.allowed.read)) && (!a.writes() || (c.write && r.allowed.write));
    }
    /// The event's bits 63:48. An address beyond the tables is told as an illegal level: the manual does not say.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls&,
                                                            const auto&) noexcept
    {
        return detail::amdvi_event_of(r, a, false);
    }

    /// The access to a guest table; to set A or D it must be writable, too.
    [[nodiscard]] static constexpr access table_access(const auto&, bool update) noexcept
    {
        return {.what = update ? operation::read_write : operation::read, .first_stage = true};
    }
    [[nodiscard]] static constexpr bool updates_may_fault(const auto&) noexcept { return true; }
};

/// The walk of guest tables. AMD IOMMU specification, "Guest Page Tables".
struct amdvi_guest_paging {
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
    /// The event's bits 63:48.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls&,
                                                            const auto&) noexcept
    {
        return detail::amdvi_event_of(r, a, true);
    }
};

}  // namespace ptebits
