// SPDX-License-Identifier: BSL-1.0
// What an AMD IOMMU's registers, device table entries and GCR3 entries say of tables; the way back from an event to the
// access; the commands that invalidate. Nothing here reads or writes a register.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/amdvi.hpp>
#include <ptebits/flush.hpp>

namespace ptebits {

/// Fields of the extended feature register (EFR). AMD IOMMU specification, "IOMMU Extended Feature Register".
struct amdvi_efr_fields {
    static constexpr field execute_disable = bit(3);     ///< NXSup
    static constexpr field guest_tables = bit(4);        ///< GTSup
    static constexpr field host_levels = bits(11, 10);   ///< HATS: 4, 5, 6 levels; 3: no host tables
    static constexpr field guest_levels = bits(13, 12);  ///< GATS: 4, 5, 6 levels
    static constexpr field accessed = bit(49);           ///< HASup
    static constexpr field dirty = bit(52);              ///< HDSup
};

/// Fields of a device table entry (DTE), by its 64-bit words 0 and 1. AMD IOMMU specification, "Device Table Entry
/// Format".
struct amdvi_dte_fields {
    static constexpr field valid = bit(0);         ///< V: else requests pass unchecked
    static constexpr field translates = bit(1);    ///< TV: else they are aborted
    static constexpr field tracking = bits(8, 7);  ///< HAD: 0 none, 1 A, 3 A and D
    static constexpr field mode = bits(11, 9);     ///< levels; 0: no tables
    static constexpr field host_root = bits(51, 12);
    static constexpr field guest = bit(55);             ///< GV: guest tables
    static constexpr field gcr3_levels = bits(57, 56);  ///< GLX, less 1: of the table of GCR3 entries
    static constexpr field gcr3_14_12 = bits(60, 58);
    static constexpr field read = bit(61);             ///< IR
    static constexpr field write = bit(62);            ///< IW
    static constexpr field domain = bits(15, 0);       ///< word 1: DomainID
    static constexpr field gcr3_30_15 = bits(31, 16);  ///< word 1
    static constexpr field gcr3_51_31 = bits(63, 43);  ///< word 1
};
/// Fields of an entry of the table by PASID. AMD IOMMU specification, "Guest CR3 Table".
struct amdvi_gcr3_fields {
    static constexpr field valid = bit(0);
    static constexpr field root = bits(51, 12);
};

/// An IOMMU: its feature register; the widths of addresses as the capability block says (PASize); NpCache.
struct amdvi_unit {
    std::uint64_t efr = 0;
    unsigned physical_bits = 52;
    bool caches_absent = false;
};

/// What becomes of a device's requests.
enum class amdvi_stages : std::uint8_t {
    none,          ///< refused
    unchecked,     ///< passed on as they are, IR and IW do not count
    pass_through,  ///< passed on under IR and IW
    host,
    guest,
    nested,  ///< guest tables above host tables
};

[[nodiscard]] constexpr const char* name(amdvi_stages s) noexcept
{
    constexpr const char* names[] = {"refused",     "unchecked",    "pass-through",
                                     "host tables", "guest tables", "both tables"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(amdvi_stages::nested) + 1);
    return detail::word_of(names, static_cast<unsigned>(s));
}

/// What a device table entry says.
struct amdvi_tables {
    amdvi_event refused = amdvi_event::none;  ///< the event by which an illegal entry is told
    amdvi_stages stages = amdvi_stages::none;
    std::uint16_t domain = 0;     ///< DomainID
    std::uint64_t host_root = 0;  ///< physical address in bytes
    amdvi_host_features host;
    amdvi_host_paging::controls host_controls;  ///< with pass-through, too
    std::uint64_t gcr3_table = 0;               ///< in bytes; of both tables guest-physical
    unsigned gcr3_levels = 0;                   ///< of that table, 1 to 3, each of 9 bits of the PASID
    amdvi_guest_features guest;                 ///< of 4 levels, see read_amdvi_gcr3()

    /// Whether requests go through tables.
    [[nodiscard]] constexpr explicit operator bool() const noexcept { return stages >= amdvi_stages::host; }
};

/// What a device table entry says, by the first two of its four words. Refused: TV clear, without an event of its own;
/// Mode 7, or more levels than HATS has; guest tables that EFR lacks, GLX 3; HAD 2, or 3 without HDSup. Without HASup
/// HAD is not looked at.
[[nodiscard]] constexpr amdvi_tables read_amdvi_device_entry(const std::uint64_t (&words)[2],
                                                             const amdvi_unit& unit) noexcept
{
    using fields = amdvi_dte_fields;
    using has = amdvi_efr_fields;
    amdvi_tables t;
    t.domain = static_cast<std::uint16_t>(fields::domain.get(words[1]));
    t.host_controls = {fields::read.get(words[0]) != 0, fields::write.get(words[0]) != 0};
    if (fields::valid.get(words[0]) == 0) t.stages = amdvi_stages::unchecked;
    if (fields::valid.get(words[0]) == 0 || fields::translates.get(words[0]) == 0) return t;
    const auto mode = static_cast<unsigned>(fields::mode.get(words[0]));
    const auto most = static_cast<unsigned>(has::host_levels.get(unit.efr));
    const std::uint64_t tracking = has::accessed.get(unit.efr) != 0 ? fields::tracking.get(words[0]) : 0;
    const bool guest = fields::guest.get(words[0]) != 0;
    const auto glx = static_cast<unsigned>(fields::gcr3_levels.get(words[0]));
    const bool illegal = mode == 7 || (mode != 0 && (most == 3 || mode > most + 4)) || tracking == 2 ||
                         (tracking == 3 && has::dirty.get(unit.efr) == 0) ||
                         (guest && (has::guest_tables.get(unit.efr) == 0 || glx == 3));
    if (illegal) {
        t.refused = amdvi_event::illegal_device_entry;
        return t;
    }
    t.stages = mode == 0 ? (guest ? amdvi_stages::guest : amdvi_stages::pass_through)
                         : (guest ? amdvi_stages::nested : amdvi_stages::host);
    if (mode != 0) {
        t.host_root = words[0] & fields::host_root.mask();
        t.host = {.levels = mode,
                  .physical_bits = unit.physical_bits,
                  .accessed_bits = tracking != 0,
                  .dirty_bits = tracking == 3,
                  .caches_absent = unit.caches_absent};
    }
    if (guest) {
        t.gcr3_table = fields::gcr3_14_12.get(words[0]) << 12 | fields::gcr3_30_15.get(words[1]) << 15 |
                       fields::gcr3_51_31.get(words[1]) << 31;
        t.gcr3_levels = glx + 1;
        t.guest = {.physical_bits = unit.physical_bits,
                   .execute_disable = has::execute_disable.get(unit.efr) != 0,
                   .caches_absent = unit.caches_absent};
    }
    return t;
}

/// The root of guest tables, in bytes; of both tables guest-physical.
struct amdvi_guest_root {
    std::uint64_t root = 0;
    bool valid = false;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return valid; }
};
/// What an entry of the table by PASID says.
[[nodiscard]] constexpr amdvi_guest_root read_amdvi_gcr3(std::uint64_t entry) noexcept
{
    if (amdvi_gcr3_fields::valid.get(entry) == 0) return {};
    return {entry & amdvi_gcr3_fields::root.mask(), true};
}

// ---- events

/// An event of a walk, and what it tells. Atomic operations are told as writes.
struct amdvi_fault {
    amdvi_event what = amdvi_event::none;
    fault_kind fault = fault_kind::none;  ///< of a page fault; reserved_bits: also an illegal level, size or skip
    bool reserved_set = false;            ///< RZ: bits that must be 0
    std::uint64_t address = 0;            ///< in bytes
    device_access access;                 ///< of a page fault
    bool guest = false;                   ///< GN: of guest tables
    std::uint16_t device = 0;             ///< bus, device and function
    std::uint16_t domain = 0;             ///< not with GN
    std::uint32_t pasid = 0;              ///< with GN

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return what != amdvi_event::none; }
};

/// What an event log entry tells, by its halves. Of other events than a walk's the event alone.
[[nodiscard]] constexpr amdvi_fault read_amdvi_event(std::uint64_t low, std::uint64_t high) noexcept
{
    using fields = amdvi_event_fields;
    amdvi_fault f;
    f.what = static_cast<amdvi_event>(fields::code.get(low));
    if (f.what != amdvi_event::page_fault && f.what != amdvi_event::page_table_hardware) return f;
    f.address = high;
    f.device = static_cast<std::uint16_t>(fields::device.get(low));
    f.guest = fields::guest.get(low) != 0;
    const auto id = static_cast<std::uint16_t>(fields::domain.get(low));
    if (f.guest) {
        f.pasid = static_cast<std::uint32_t>(fields::pasid_high.get(low) << 16 | id);
        f.access.user = fields::user.get(low) != 0;
    } else {
        f.domain = id;
    }
    f.access.what = fields::write.get(low) != 0                ? operation::write
                    : f.guest && fields::execute.get(low) != 0 ? operation::fetch
                                                               : operation::read;
    if (f.what != amdvi_event::page_fault) {
        f.fault = fault_kind::memory_absent;
    } else if (fields::present.get(low) == 0) {
        f.fault = fault_kind::not_present;
    } else if (fields::denied.get(low) != 0) {
        f.fault = fault_kind::protection;
    } else {
        f.fault = fault_kind::reserved_bits;
        f.reserved_set = fields::reserved.get(low) != 0;
    }
    return f;
}

// ---- invalidation

/// Fields of INVALIDATE_IOMMU_PAGES; `size`, `tables`, `guest` and `page` are of the upper half. AMD IOMMU
/// specification, "INVALIDATE_IOMMU_PAGES".
struct amdvi_invalidation_fields {
    static constexpr field pasid = bits(19, 0);
    static constexpr field domain = bits(47, 32);
    static constexpr field command = bits(63, 60);  ///< 3
    static constexpr field size = bit(0);           ///< S: the address has a size, as pages of coded sizes have
    static constexpr field tables = bit(1);         ///< PDE: entries that refer to tables were changed, too
    static constexpr field guest = bit(2);          ///< GN: of guest tables, of a PASID
    static constexpr field page = bits(63, 12);
};

/// A command of 128 bits.
struct amdvi_command {
    std::uint64_t low = 0;
    std::uint64_t high = 0;

    [[nodiscard]] constexpr bool operator==(const amdvi_command&) const = default;
};

/// Whose translations are invalidated.
struct amdvi_flush_target {
    std::uint16_t domain = 0;
    std::uint32_t pasid = 0;  ///< of guest tables. Precondition: 20 bits
};

namespace detail {

/// The command for a block; larger ones than 2^52 bytes are all addresses.
template <entry_format F>
[[nodiscard]] constexpr amdvi_command amdvi_command_of(address_block block, bool tables,
                                                       const amdvi_flush_target& target, const F&) noexcept
{
    using fields = amdvi_invalidation_fields;
    constexpr bool guest = std::is_same_v<typename F::description, amdvi_guest_description>;
    static_assert(guest || std::is_same_v<typename F::description, amdvi_host_description>,
                  "ptebits: these commands are for amdvi_host and amdvi_guest formats");
    if (block.shift > 52) block = {0, 64};
    amdvi_command c;
    c.low = fields::command(3) | fields::domain(target.domain) | fields::pasid(guest ? target.pasid : 0);
    c.high = block.first | fields::tables(tables ? 1 : 0) | fields::guest(guest ? 1 : 0);
    // The lowest zero of bits 63:12 is half the size.
    if (block.shift > 12) c.high |= fields::size(1) | (block.shift > 13 ? ones(block.shift - 2, 12) : 0);
    return c;
}

}  // namespace detail

/// The command that invalidates all of a domain's translations or, for an amdvi_guest format, of a PASID's: what a list
/// without room calls for, and a change of the root.
template <entry_format F>
[[nodiscard]] constexpr amdvi_command amdvi_invalidation_of_all(const amdvi_flush_target& target,
                                                                const F& format) noexcept
{
    return detail::amdvi_command_of({}, true, target, format);
}

/// The command for an item: the smallest aligned block of pages around it, with PDE if entries that refer to tables
/// were changed.
template <entry_format F>
[[nodiscard]] constexpr amdvi_command amdvi_invalidation(const flush_item& item, const amdvi_flush_target& target,
                                                         const F& format) noexcept
{
    return detail::amdvi_command_of(block_around(item.first, item.last), item.upper, target, format);
}

}  // namespace ptebits
