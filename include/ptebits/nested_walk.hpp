// SPDX-License-Identifier: BSL-1.0
// Walking a guest's tables over the host's: two stages of translation.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/walk.hpp>

namespace ptebits {

/// The guest's paging is off: its linear addresses are guest-physical.
struct unpaged {};

/// Which of the two walks a nested walk ended in.
enum class dimension : std::uint8_t { guest, host };

/// Where a nested walk ended.
template <class Access>
struct nested_result {
    dimension where = dimension::host;  ///< the walk whose fault it is, if any
    walk_result guest;                  ///< slot addresses are guest-physical; no steps if the guest is unpaged
    walk_result host;                   ///< of the final address, or of the one that faults; none if the guest's fault
    Access host_access;                 ///< what was asked of the host's tables there
    std::uint64_t guest_physical = 0;   ///< the address asked of the host's tables there
    std::uint64_t guest_slots[max_levels] = {};  ///< physical addresses of the slots in guest.path, in bytes

    [[nodiscard]] constexpr const walk_result& last() const noexcept
    {
        return where == dimension::guest ? guest : host;
    }
    [[nodiscard]] constexpr explicit operator bool() const noexcept { return static_cast<bool>(last()); }
    /// Physical address reached, in bytes; and log2 of the bytes around it that translate alike.
    [[nodiscard]] constexpr std::uint64_t address() const noexcept { return host.address; }
    [[nodiscard]] constexpr unsigned page_shift() const noexcept
    {
        return guest.steps != 0 && guest.page_shift < host.page_shift ? guest.page_shift : host.page_shift;
    }
};

namespace detail {

/// The controls that a guest's walk is judged by; those of the host's regime where it does not walk.
template <class Guest, class Host>
struct controls_in {
    using type = controls_of<Guest>;
};
template <class Host>
struct controls_in<unpaged, Host> {
    using type = controls_of<Host>;
};

}  // namespace detail

/// The controls of both stages. A guest's alone convert to it, the host's then have their defaults.
template <class Guest, walkable_format Host>
struct nested_controls {
    using guest_type = typename detail::controls_in<Guest, Host>::type;
    using host_type = controls_of<Host>;

    guest_type guest;
    host_type host;

    constexpr explicit(false) nested_controls(const guest_type& of_guest = {}, const host_type& of_host = {}) noexcept
        : guest(of_guest), host(of_host)
    {
    }
};

namespace detail {

/// The guest's memory as its page walk reaches it: through the host's tables. What an access to
/// a guest's table is there, the host's regime says.
template <walkable_format Host, class Memory, slot_access Access>
class guest_tables {
public:
    constexpr guest_tables(const Host& format, std::uint64_t root, const controls_of<Host>& cpu, Memory& memory,
                           update_flags update, Access how)
        : host_(format), root_(root), cpu_(cpu), memory_(memory), update_(update), how_(how)
    {
    }

    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr bool load(std::uint64_t guest_physical, Word& entry)
    {
        const walk_result reached = translate_table(guest_physical, false);
        if (!reached) return false;
        if (slots_seen_ < max_levels) slots_[slots_seen_++] = reached.address;
        paging_writable_ = paging_writable_ && allows_paging_write(reached);
        return read_slot(memory_, how_, reached.address, entry);
    }
    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr slot_change replace(std::uint64_t guest_physical, Word expected, Word desired)
    {
        const walk_result reached = translate_table(guest_physical, true);
        if (!reached) return slot_change::no_slot;
        const slot_change changed = replace_slot<Word>(memory_, how_, reached.address, expected, desired, true);
        if (changed == slot_change::changed) {  // the guest's walk starts over
            slots_seen_ = 0;
            paging_writable_ = true;
        }
        return changed;
    }
    /// Whether a table that could be read may be written.
    [[nodiscard]] constexpr slot_change may_replace(std::uint64_t guest_physical)
    {
        return translate_table(guest_physical, true) ? slot_change::done : slot_change::no_slot;
    }
    /// Whether a table that could be read may be one that must not be written.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        return regime_of<Host>::updates_may_fault(host_);
    }

    /// Translates one guest-physical address.
    [[nodiscard]] constexpr walk_result translate(std::uint64_t guest_physical, const access_of<Host>& a)
    {
        return walk(host_, root_, guest_physical, a, cpu_, memory_, update_, how_);
    }

    /// Whether all of the host's leaves that mapped the guest's tables allow paging writes by a bit of their own.
    [[nodiscard]] constexpr bool paging_writable() const noexcept { return paging_writable_; }

    /// Tells where the guest's slots are. `first`: entries of the path that were held elsewhere.
    constexpr void tell_slots(nested_result<access_of<Host>>& result, unsigned first) const noexcept
    {
        for (unsigned i = 0; i + first < max_levels && i < slots_seen_; ++i) result.guest_slots[i + first] = slots_[i];
    }

    /// Whether the host's tables refused an access to a guest's table; if so, fills in which.
    constexpr bool tell_fault(nested_result<access_of<Host>>& result) const
    {
        if (!faulted_) return false;
        result.host = fault_;
        result.host_access = access_;
        result.guest_physical = guest_physical_;
        return true;
    }

private:
    [[nodiscard]] constexpr walk_result translate_table(std::uint64_t guest_physical, bool update)
    {
        const access_of<Host> a = regime_of<Host>::table_access(host_, update);
        const walk_result reached = translate(guest_physical, a);
        if (!reached) {
            faulted_ = true;
            fault_ = reached;
            access_ = a;
            guest_physical_ = guest_physical;
        }
        return reached;
    }
    [[nodiscard]] constexpr bool allows_paging_write([[maybe_unused]] const walk_result& reached) const noexcept
    {
        if constexpr (requires { regime_of<Host>::allows_paging_write(reached, host_); }) {
            return regime_of<Host>::allows_paging_write(reached, host_);
        } else {
            return true;
        }
    }

    const Host& host_;
    std::uint64_t root_;
    const controls_of<Host>& cpu_;
    Memory& memory_;
    update_flags update_;
    Access how_;
    bool faulted_ = false;
    bool paging_writable_ = true;
    unsigned slots_seen_ = 0;
    std::uint64_t slots_[max_levels] = {};
    walk_result fault_;  // the three of a fault, if there was one
    access_of<Host> access_;
    std::uint64_t guest_physical_ = 0;
};

/// A guest's fault as it is over this host.
template <walkable_format Host>
[[nodiscard]] constexpr fault_kind guest_fault_over(fault_kind f) noexcept
{
    if constexpr (requires { regime_of<Host>::guest_fault(f); }) {
        return regime_of<Host>::guest_fault(f);
    } else {
        return f;
    }
}

/// The access to the address that a guest's tables lead to, as the host's tables judge it.
template <walkable_format Host>
[[nodiscard]] constexpr access_of<Host> final_access_over(const access_of<Host>& a,
                                                          [[maybe_unused]] const permissions& in_guest,
                                                          [[maybe_unused]] bool paging_writable) noexcept
{
    if constexpr (requires { regime_of<Host>::final_access(a, in_guest, paging_writable); }) {
        return regime_of<Host>::final_access(a, in_guest, paging_writable);
    } else {
        return a;
    }
}

}  // namespace detail

/// Walks a guest's tables (or none: unpaged) over the host's, as the MMU does for one access of the
/// guest. `guest_root` is guest-physical, or the entries that registers hold (a PAE guest over EPT);
/// `host_root` physical; `memory` is the host's. The guest's A and D are set through the host's translation.
/// Where the host's tables refuse an access to a guest's table, the guest's walk has fault_kind::second_stage.
/// AMD APM volume 2, "Nested Paging"; Intel SDM volume 3, "EPT Translation Mechanism".
template <class Guest, walk_root Root, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr nested_result<access_of<Host>> nested_walk(
    const Guest& guest, const Root& guest_root, const Host& host, std::uint64_t host_root, std::uint64_t address,
    const access_of<Host>& a, const std::type_identity_t<nested_controls<Guest, Host>>& cpu, Memory&& memory,
    update_flags update = update_flags::yes, Access how = {})
{
    detail::guest_tables<Host, std::remove_reference_t<Memory>, Access> tables_of_guest(host, host_root, cpu.host,
                                                                                        memory, update, how);
    nested_result<access_of<Host>> result;
    permissions in_guest;  // of an unpaged guest: every address is a user's, and allows all
    if constexpr (std::is_same_v<Guest, unpaged>) {
        result.guest = {};  // its path, too
        result.guest_physical = address;
    } else {
        result.guest = walk(guest, guest_root, address, a, cpu.guest, tables_of_guest, update, how);
        tables_of_guest.tell_slots(result, std::convertible_to<Root, std::uint64_t> ? 0 : 1);
        if (!result.guest) {
            if (tables_of_guest.tell_fault(result)) {
                result.guest.fault = fault_kind::second_stage;
                return result;
            }
            result.host = {};
            result.where = dimension::guest;
            result.guest.fault = detail::guest_fault_over<Host>(result.guest.fault);
            return result;
        }
        in_guest = result.guest.allowed;
        result.guest_physical = result.guest.address;
    }
    result.host_access = detail::final_access_over<Host>(a, in_guest, tables_of_guest.paging_writable());
    result.host = tables_of_guest.translate(result.guest_physical, result.host_access);
    return result;
}

namespace detail {

/// The access by which a host's fault is told: the one that was refused, or as the regime says, the guest's own.
template <walkable_format Host>
[[nodiscard]] constexpr access_of<Host> told_access_over(const access_of<Host>& refused,
                                                         [[maybe_unused]] const access_of<Host>& a) noexcept
{
    if constexpr (requires { regime_of<Host>::told_access(refused, a); }) {
        return regime_of<Host>::told_access(refused, a);
    } else {
        return refused;
    }
}

}  // namespace detail

/// The code that hardware reports for a nested walk's fault: the guest's or the host's, as `where` says.
template <walkable_format Guest, walkable_format Host>
[[nodiscard]] constexpr reported_code fault_code(const nested_result<access_of<Host>>& r, const access_of<Host>& a,
                                                 const std::type_identity_t<nested_controls<Guest, Host>>& cpu,
                                                 const Guest& guest, const Host& host) noexcept
{
    if (r.where == dimension::guest) return fault_code(r.guest, a, cpu.guest, guest);
    return fault_code(r.host, detail::told_access_over<Host>(r.host_access, a), cpu.host, host);
}
template <walkable_format Host>
[[nodiscard]] constexpr reported_code fault_code(const nested_result<access_of<Host>>& r, const access_of<Host>&,
                                                 const std::type_identity_t<nested_controls<unpaged, Host>>& cpu,
                                                 const unpaged&, const Host& host) noexcept
{
    return fault_code(r.host, r.host_access, cpu.host, host);
}

}  // namespace ptebits
