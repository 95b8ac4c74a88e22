// SPDX-License-Identifier: BSL-1.0
// What a VT-d unit's registers, context entries and PASID-table entries say of tables; fault records, and the way back
// from one to the access; the descriptors that invalidate. Nothing here reads or writes a register.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/flush.hpp>
#include <ptebits/vtd.hpp>

namespace ptebits {

/// Fields of the capability register. Intel VT-d specification, "Capability Register".
struct vtd_cap_fields {
    static constexpr field caching_mode = bit(7);     ///< CM
    static constexpr field widths = bits(12, 8);      ///< SAGAW: a set, bit AW
    static constexpr field max_width = bits(21, 16);  ///< MGAW, less 1
    static constexpr field large_pages = bit(34);     ///< SSLPS: 2 Mbytes
    static constexpr field gigabyte_pages = bit(35);
    static constexpr field page_selective = bit(39);  ///< PSI
    static constexpr field max_mask = bits(53, 48);   ///< MAMV
    static constexpr field first_gigabyte = bit(56);  ///< FS1GP
    static constexpr field first_5_levels = bit(60);  ///< FS5LP
};
/// Fields of the extended capability register. Intel VT-d specification, "Extended Capability Register".
struct vtd_ecap_fields {
    static constexpr field coherent = bit(0);            ///< C: walks of legacy mode snoop
    static constexpr field device_tlbs = bit(2);         ///< DT
    static constexpr field pass_through = bit(6);        ///< PT
    static constexpr field snoop_control = bit(7);       ///< SC
    static constexpr field nested = bit(26);             ///< NEST
    static constexpr field supervisor = bit(31);         ///< SRS
    static constexpr field extended_accessed = bit(34);  ///< EAFS
    static constexpr field accessed_dirty = bit(45);     ///< SSADS
    static constexpr field second_stage = bit(46);       ///< SSTS
    static constexpr field first_stage = bit(47);        ///< FSTS
    static constexpr field coherent_scalable = bit(48);  ///< SMPWC
};
/// Fields of a legacy-mode context entry; `domain` and `width` are of its upper half. Intel VT-d specification,
/// "Context Entry".
struct vtd_context_fields {
    static constexpr field present = bit(0);
    static constexpr field type = bits(3, 2);  ///< TT
    static constexpr field low_reserved = bits(11, 4);
    static constexpr field root = bits(63, 12);
    static constexpr field width = bits(2, 0);    ///< AW
    static constexpr field domain = bits(23, 8);  ///< DID
    static constexpr std::uint64_t high_reserved = ~(bits(6, 0) | bits(23, 8));
};
/// Fields of a PASID-table entry, by its 64-bit words 0, 1 and 2. Intel VT-d specification, "Scalable-Mode PASID-Table
/// Entry".
struct vtd_pasid_fields {
    static constexpr field present = bit(0);
    static constexpr field width = bits(4, 2);          ///< AW
    static constexpr field type = bits(8, 6);           ///< PGTT
    static constexpr field accessed_dirty = bit(9);     ///< SSADE
    static constexpr field second_root = bits(63, 12);  ///< SSPTPTR
    static constexpr field domain = bits(15, 0);        ///< word 1: DID
    static constexpr field walks_snoop = bit(23);       ///< PWSNP
    static constexpr field pages_snoop = bit(24);       ///< PGSNP
    static constexpr field supervisor = bit(0);         ///< word 2: SRE
    static constexpr field levels = bits(3, 2);         ///< FSPM
    static constexpr field write_protect = bit(4);      ///< WPE
    static constexpr field execute_disable = bit(5);    ///< NXE
    static constexpr field smep = bit(6);
    static constexpr field extended_accessed = bit(7);  ///< EAFE
    static constexpr field first_root = bits(63, 12);   ///< FSPTPTR
};

/// A remapping unit: its registers, the host's address width (HAW, as the firmware's DMAR table says), and whether its
/// revision is before 3.2, which has TM.
struct vtd_unit {
    std::uint64_t cap = 0;
    std::uint64_t ecap = 0;
    unsigned host_bits = 52;
    bool transient = false;
};

/// Which tables a device's requests go through.
enum class vtd_stages : std::uint8_t { none, second, first, nested, pass_through };

[[nodiscard]] constexpr const char* name(vtd_stages s) noexcept
{
    constexpr const char* names[] = {"no translation", "second stage", "first stage", "both stages", "pass-through"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(vtd_stages::pass_through) + 1);
    return detail::word_of(names, static_cast<unsigned>(s));
}

/// What a context entry or a PASID-table entry says, or the reason by which every request is refused.
struct vtd_tables {
    vtd_reason refused = vtd_reason::none;
    vtd_stages stages = vtd_stages::none;
    std::uint16_t domain = 0;       ///< DID
    bool pages_snoop = false;       ///< PGSNP: all accesses snoop
    std::uint64_t second_root = 0;  ///< physical address in bytes
    vtd_second_features second;
    vtd_second_paging::controls second_controls;
    std::uint64_t first_root = 0;  ///< of both stages second-stage input
    vtd_first_features first;
    device_controls first_controls;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return refused == vtd_reason::none; }
};

namespace detail {

/// Whether a unit has tables of an AW: 1, 2, 3 are of 3, 4, 5 levels.
[[nodiscard]] constexpr bool vtd_has_width(const vtd_unit& unit, std::uint64_t width) noexcept
{
    return width >= 1 && width <= 3 && (vtd_cap_fields::widths.get(unit.cap) >> width & 1) != 0;
}

/// The second stage's features that the unit alone decides. Precondition: it has the AW.
[[nodiscard]] constexpr vtd_second_features vtd_second_of(const vtd_unit& unit, std::uint64_t width) noexcept
{
    return {.levels = static_cast<unsigned>(width) + 2,
            .physical_bits = unit.host_bits,
            .large_pages = vtd_cap_fields::large_pages.get(unit.cap) != 0,
            .gigabyte_pages = vtd_cap_fields::gigabyte_pages.get(unit.cap) != 0,
            .coherent = vtd_ecap_fields::coherent.get(unit.ecap) != 0,
            .snoop_control = vtd_ecap_fields::snoop_control.get(unit.ecap) != 0,
            .transient = unit.transient && vtd_ecap_fields::device_tlbs.get(unit.ecap) != 0,
            .caching_mode = vtd_cap_fields::caching_mode.get(unit.cap) != 0};
}
[[nodiscard]] constexpr vtd_second_paging::controls vtd_width_of(const vtd_unit& unit) noexcept
{
    return {static_cast<unsigned>(vtd_cap_fields::max_width.get(unit.cap)) + 1};
}
[[nodiscard]] constexpr bool vtd_is_wide(std::uint64_t root, const vtd_unit& unit) noexcept
{
    return unit.host_bits < 64 && root >> unit.host_bits != 0;
}

}  // namespace detail

/// What a legacy-mode context entry says, by its two halves. Refused: not present; TT or AW that the unit lacks;
/// reserved bits. TT 0 translates requests, as 1 does, which lets device TLBs ask, too.
[[nodiscard]] constexpr vtd_tables read_vtd_context(std::uint64_t low, std::uint64_t high,
                                                    const vtd_unit& unit) noexcept
{
    using fields = vtd_context_fields;
    vtd_tables t;
    t.domain = static_cast<std::uint16_t>(fields::domain.get(high));
    const std::uint64_t type = fields::type.get(low);
    const std::uint64_t width = fields::width.get(high);
    const std::uint64_t root = low & fields::root.mask();
    if (fields::present.get(low) == 0) {
        t.refused = vtd_reason::context_not_present;
    } else if ((low & fields::low_reserved.mask()) != 0 || (high & fields::high_reserved) != 0 ||
               detail::vtd_is_wide(root, unit)) {
        t.refused = vtd_reason::context_reserved;
    } else if (!detail::vtd_has_width(unit, width) || type == 3 ||
               (type == 1 && vtd_ecap_fields::device_tlbs.get(unit.ecap) == 0) ||
               (type == 2 && vtd_ecap_fields::pass_through.get(unit.ecap) == 0)) {
        t.refused = vtd_reason::context_invalid;
    }
    if (!t) return t;
    t.stages = type == 2 ? vtd_stages::pass_through : vtd_stages::second;
    if (t.stages == vtd_stages::pass_through) return t;
    t.second_root = root;
    t.second = detail::vtd_second_of(unit, width);
    t.second_controls = detail::vtd_width_of(unit);
    return t;
}

/// What a PASID-table entry says, by the first three of its eight words. Refused: not present; fields set whose
/// capability the unit lacks; PGTT, AW or FSPM that it lacks. Requests that ask for supervisor rights need SRE, which
/// this does not judge. With EAFE hardware sets EA (bit 10) with A: walks here do not.
[[nodiscard]] constexpr vtd_tables read_vtd_pasid_entry(const std::uint64_t (&words)[3], const vtd_unit& unit) noexcept
{
    using fields = vtd_pasid_fields;
    using has = vtd_ecap_fields;
    const auto lacks = [&](field f) { return f.get(unit.ecap) == 0; };
    vtd_tables t;
    t.domain = static_cast<std::uint16_t>(fields::domain.get(words[1]));
    t.pages_snoop = fields::pages_snoop.get(words[1]) != 0;
    const std::uint64_t type = fields::type.get(words[0]);
    const std::uint64_t width = fields::width.get(words[0]);
    const std::uint64_t mode = fields::levels.get(words[2]);
    const bool first = type == 1 || type == 3;
    const bool second = type == 2 || type == 3;
    const bool walks_snoop = fields::walks_snoop.get(words[1]) != 0;
    const bool tracks = fields::accessed_dirty.get(words[0]) != 0;
    t.second_root = words[0] & fields::second_root.mask();
    t.first_root = words[2] & fields::first_root.mask();
    const bool reserved = (walks_snoop && lacks(has::coherent_scalable)) || (tracks && lacks(has::accessed_dirty)) ||
                          (fields::supervisor.get(words[2]) != 0 && lacks(has::supervisor)) ||
                          (fields::extended_accessed.get(words[2]) != 0 && lacks(has::extended_accessed)) ||
                          (second && detail::vtd_is_wide(t.second_root, unit)) ||
                          (type == 1 && detail::vtd_is_wide(t.first_root, unit));
    const bool invalid = type == 0 || type > 4 || (first && lacks(has::first_stage)) ||
                         (second && (lacks(has::second_stage) || !detail::vtd_has_width(unit, width))) ||
                         (type == 3 && lacks(has::nested)) || (type == 4 && lacks(has::pass_through)) ||
                         (first && (mode > 1 || (mode == 1 && vtd_cap_fields::first_5_levels.get(unit.cap) == 0)));
    if (fields::present.get(words[0]) == 0) {
        t.refused = vtd_reason::pasid_not_present;
    } else if (reserved) {
        t.refused = vtd_reason::pasid_reserved;
    } else if (invalid) {
        t.refused = vtd_reason::pasid_invalid;
    }
    if (!t || !first) t.first_root = 0;
    if (!t || !second) t.second_root = 0;
    if (!t) return t;
    constexpr vtd_stages stages[] = {vtd_stages::none, vtd_stages::first, vtd_stages::second, vtd_stages::nested,
                                     vtd_stages::pass_through};
    t.stages = stages[type];
    if (second) {
        t.second = detail::vtd_second_of(unit, width);
        t.second.scalable = true;
        t.second.accessed_dirty = tracks;
        t.second.coherent = walks_snoop;
        t.second_controls = detail::vtd_width_of(unit);
    }
    if (first) {
        t.first = {.levels = static_cast<unsigned>(mode) + 4,
                   .physical_bits = unit.host_bits,
                   .execute_disable = fields::execute_disable.get(words[2]) != 0,
                   .gigabyte_pages = vtd_cap_fields::first_gigabyte.get(unit.cap) != 0,
                   .coherent = walks_snoop,
                   .caching_mode = vtd_cap_fields::caching_mode.get(unit.cap) != 0};
        t.first_controls = {.write_protect = fields::write_protect.get(words[2]) != 0,
                            .smep = fields::smep.get(words[2]) != 0};
    }
    return t;
}

// ---- fault records

/// Fields of a fault recording register: `page` of its lower half, the others of its upper one. Intel VT-d
/// specification, "Fault Recording Registers".
struct vtd_fault_fields {
    static constexpr field page = bits(63, 12);    ///< FI
    static constexpr field source = bits(15, 0);   ///< SID
    static constexpr field privileged = bit(29);   ///< PRIV
    static constexpr field execute = bit(30);      ///< EXE
    static constexpr field has_pasid = bit(31);    ///< PP: PASID, PRIV and EXE say something
    static constexpr field reason = bits(39, 32);  ///< FR
    static constexpr field pasid = bits(59, 40);
    static constexpr field reads = bit(62);  ///< T1
    static constexpr field fault = bit(63);  ///< F: cleared by a write of 1
};

/// A fault record, and what it tells. Atomic operations are told as writes where W is missing.
struct vtd_fault {
    vtd_reason reason = vtd_reason::none;  ///< none: there is no record
    std::uint64_t page = 0;                ///< the first address of the page that was asked for, in bytes
    device_access access;
    std::uint16_t source = 0;  ///< bus, device and function
    bool has_pasid = false;
    std::uint32_t pasid = 0;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return reason != vtd_reason::none; }
    [[nodiscard]] constexpr bool operator==(const vtd_fault&) const = default;
};

/// What a fault recording register tells, by its halves. Without PP, PASID, EXE and PRIV are not looked at.
[[nodiscard]] constexpr vtd_fault read_vtd_fault(std::uint64_t low, std::uint64_t high) noexcept
{
    using fields = vtd_fault_fields;
    vtd_fault f;
    if (fields::fault.get(high) == 0) return f;
    f.reason = static_cast<vtd_reason>(fields::reason.get(high));
    f.page = low & fields::page.mask();
    f.source = static_cast<std::uint16_t>(fields::source.get(high));
    f.has_pasid = fields::has_pasid.get(high) != 0;
    f.access.what = fields::reads.get(high) != 0 ? operation::read : operation::write;
    if (!f.has_pasid) return f;
    f.pasid = static_cast<std::uint32_t>(fields::pasid.get(high));
    f.access.user = fields::privileged.get(high) == 0;
    if (f.access.what == operation::read && fields::execute.get(high) != 0) f.access.what = operation::fetch;
    return f;
}

/// A fault recording register's halves.
struct vtd_fault_record {
    std::uint64_t low = 0;
    std::uint64_t high = 0;

    [[nodiscard]] constexpr bool operator==(const vtd_fault_record&) const = default;
};

/// The record of a fault, as hardware writes it; zeros for no fault. Precondition: the PASID has 20 bits.
[[nodiscard]] constexpr vtd_fault_record vtd_record_of(const vtd_fault& f) noexcept
{
    using fields = vtd_fault_fields;
    if (!f) return {};
    std::uint64_t high = fields::fault(1) | fields::reason(static_cast<std::uint64_t>(f.reason)) |
                         fields::source(f.source) | fields::reads(f.access.writes() ? 0 : 1);
    if (f.has_pasid) {
        high |= fields::has_pasid(1) | fields::pasid(f.pasid) | fields::privileged(f.access.user ? 0 : 1) |
                fields::execute(f.access.fetches() ? 1 : 0);
    }
    return {f.page & fields::page.mask(), high};
}

// ---- invalidation

/// Fields of the descriptors that invalidate IOTLBs: IOTLB Invalidate and, with a PASID, PASID-based-IOTLB Invalidate.
/// `mask`, `leaves` and `page` are of the upper half. Intel VT-d specification, "Queued Invalidation Interface".
struct vtd_invalidation_fields {
    static constexpr field type = bits(3, 0);         ///< 2; PASID-based 6
    static constexpr field granularity = bits(5, 4);  ///< 2 domain, 3 pages; PASID-based 2 PASID, 3 pages of it
    static constexpr field drain_writes = bit(6);     ///< DW, not PASID-based
    static constexpr field drain_reads = bit(7);      ///< DR, not PASID-based
    static constexpr field domain = bits(31, 16);     ///< DID
    static constexpr field pasid = bits(51, 32);
    static constexpr field mask = bits(5, 0);  ///< AM: 2^AM pages
    static constexpr field leaves = bit(6);    ///< IH: entries that refer to tables were not changed
    static constexpr field page = bits(63, 12);
};

/// A descriptor of 128 bits.
struct vtd_descriptor {
    std::uint64_t low = 0;
    std::uint64_t high = 0;

    [[nodiscard]] constexpr bool operator==(const vtd_descriptor&) const = default;
};

/// Whose translations are invalidated.
struct vtd_flush_target {
    std::uint16_t domain = 0;  ///< DID
    std::uint32_t pasid = 0;   ///< of first-stage tables. Precondition: 20 bits
};

namespace detail {

template <entry_format F>
inline constexpr bool is_vtd_first = std::is_same_v<typename F::description, vtd_first_description>;

template <entry_format F>
constexpr void require_vtd() noexcept
{
    static_assert(is_vtd_first<F> || std::is_same_v<typename F::description, vtd_second_description>,
                  "ptebits: these descriptors are for vtd_second and vtd_first formats");
}

template <entry_format F>
[[nodiscard]] constexpr vtd_descriptor vtd_descriptor_of(const vtd_flush_target& target, bool pages) noexcept
{
    using fields = vtd_invalidation_fields;
    const std::uint64_t low = fields::domain(target.domain) | fields::granularity(pages ? 3 : 2);
    if (is_vtd_first<F>) return {low | fields::type(6) | fields::pasid(target.pasid)};
    return {low | fields::type(2) | fields::drain_writes(1) | fields::drain_reads(1)};
}

}  // namespace detail

/// The descriptor that invalidates all of a domain's translations or, for a vtd_first format, of a PASID's: what a list
/// without room calls for, and a change of the root.
template <entry_format F>
[[nodiscard]] constexpr vtd_descriptor vtd_invalidation_of_all(const vtd_flush_target& target, const F&) noexcept
{
    detail::require_vtd<F>();
    return detail::vtd_descriptor_of<F>(target, false);
}

/// The descriptor for an item: the smallest aligned block of pages around it, with IH if no entry that refers to a
/// table was changed; all translations where the unit has no such block. What was combined of both stages goes by
/// the second stage's domain: after a change of the second stage under first-stage tables, vtd_invalidation_of_all() of
/// both.
template <entry_format F>
[[nodiscard]] constexpr vtd_descriptor vtd_invalidation(const flush_item& item, const vtd_flush_target& target,
                                                        const vtd_unit& unit, const F& format) noexcept
{
    using fields = vtd_invalidation_fields;
    detail::require_vtd<F>();
    const address_block block = block_around(item.first, item.last);
    const unsigned mask = block.shift - 12;
    const bool selective = detail::is_vtd_first<F> || vtd_cap_fields::page_selective.get(unit.cap) != 0;
    if (!selective || mask > vtd_cap_fields::max_mask.get(unit.cap)) return vtd_invalidation_of_all(target, format);
    vtd_descriptor d = detail::vtd_descriptor_of<F>(target, true);
    d.high = block.first | fields::mask(mask) | fields::leaves(item.upper ? 0 : 1);
    return d;
}

}  // namespace ptebits
