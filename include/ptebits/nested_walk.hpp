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

/// The guest's memory as its page walk reaches it: through the host's tables. What an access to
/// a guest's table is there, the host's regime says.
template <walkable_format Host, class Memory, slot_access Access>
class guest_tables {
public:
    constexpr guest_tables(const Host& format, std::uint64_t root, Memory& memory, update_flags update, Access how)
        : host_(format), root_(root), memory_(memory), update_(update), how_(how)
    {
    }

    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr auto operator()(std::uint64_t guest_physical, std::type_identity<Word>)
    {
        return slot<Word>(guest_physical, false);
    }
    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr auto for_update(std::uint64_t guest_physical, std::type_identity<Word>)
    {
        return slot<Word>(guest_physical, true);
    }
    /// Whether a table that could be read may be one that must not be written.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        return regime_of<Host>::updates_may_fault(host_);
    }

    /// Translates one guest-physical address.
    [[nodiscard]] constexpr walk_result translate(std::uint64_t guest_physical, const access_of<Host>& a)
    {
        return walk(host_, root_, guest_physical, a, controls_of<Host>{}, memory_, update_, how_);
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
    template <slot_word Word>
    [[nodiscard]] constexpr auto slot(std::uint64_t guest_physical, bool update)
    {
        const access_of<Host> a = regime_of<Host>::table_access(host_, update);
        const walk_result reached = translate(guest_physical, a);
        if (reached) return slot_in<Word>(memory_, reached.address);
        faulted_ = true;
        fault_ = reached;
        access_ = a;
        guest_physical_ = guest_physical;
        return decltype(slot_in<Word>(memory_, guest_physical)){nullptr};
    }

    const Host& host_;
    std::uint64_t root_;
    Memory& memory_;
    update_flags update_;
    Access how_;
    bool faulted_ = false;
    walk_result fault_;  // the three of a fault, if there was one
    access_of<Host> access_;
    std::uint64_t guest_physical_ = 0;
};

/// The controls that a guest's walk is judged by; those of the host's regime where it does not walk.
template <class Guest, class Host>
struct controls_in {
    using type = controls_of<Guest>;
};
template <class Host>
struct controls_in<unpaged, Host> {
    using type = controls_of<Host>;
};
template <class Guest, class Host>
using guest_controls = typename controls_in<Guest, Host>::type;

}  // namespace detail

/// Walks a guest's tables (or none: unpaged) over the host's, as the MMU does for one
/// access of the guest. `guest_root` is guest-physical, `host_root` physical; `memory` is
/// the host's. The guest's A and D are set through the host's translation.
/// AMD APM volume 2, "Nested Paging"; Intel SDM volume 3, "EPT Translation Mechanism".
template <class Guest, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr nested_result<access_of<Host>> nested_walk(
    const Guest& guest, std::uint64_t guest_root, const Host& host, std::uint64_t host_root, std::uint64_t address,
    const access_of<Host>& a, const detail::guest_controls<Guest, Host>& guest_cpu, Memory&& memory,
    update_flags update = update_flags::yes, Access how = {})
{
    detail::guest_tables<Host, std::remove_reference_t<Memory>, Access> tables_of_guest(host, host_root, memory, update,
                                                                                        how);
    if constexpr (std::is_same_v<Guest, unpaged>) {
        return {.where = dimension::host,
                .guest = {},
                .host = tables_of_guest.translate(address, a),
                .host_access = a,
                .guest_physical = address};
    } else {
        const walk_result in_guest = walk(guest, guest_root, address, a, guest_cpu, tables_of_guest, update, how);
        if (!in_guest) {
            // The guest's walk lacks memory where the host's walk faults, or where there is none.
            nested_result<access_of<Host>> result{};
            result.where = tables_of_guest.tell_fault(result) ? dimension::host : dimension::guest;
            result.guest = in_guest;
            return result;
        }
        const access_of<Host> final = regime_of<Host>::final_access(a, in_guest);
        return {.where = dimension::host,
                .guest = in_guest,
                .host = tables_of_guest.translate(in_guest.address, final),
                .host_access = final,
                .guest_physical = in_guest.address};
    }
}

}  // namespace ptebits
