// SPDX-License-Identifier: BSL-1.0
// Walking a guest's tables over the host's: two stages of translation.
#pragma once

#include <cstddef>
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
    [[nodiscard]] constexpr explicit operator bool() const noexcept
    {
        return where == dimension::guest ? static_cast<bool>(guest) : static_cast<bool>(host);
    }
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

/// The bits of a leaf of the host's, any of which allows paging writes; 0 where it has none for that.
template <walkable_format Host>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t paging_write_bits([[maybe_unused]] const Host& host) noexcept
{
    if constexpr (requires { regime_of<Host>::paging_write_bits(host); }) {
        return regime_of<Host>::paging_write_bits(host);
    } else {
        return 0;
    }
}

/// Where the slot of a guest's table was found, and by which leaf of the host's.
struct table_place {
    std::uint64_t slot = no_slot;  ///< physical address; no_slot: a whole walk must tell
    std::uint64_t leaf = 0;        ///< of the host's, if it has paging_write_bits()
};

/// A callable of one pointer.
template <class Memory>
concept small_memory = std::is_trivially_copyable_v<Memory> && (sizeof(Memory) <= sizeof(void*)) &&
                       (std::is_invocable_v<const Memory&, std::uint64_t> ||
                        std::is_invocable_v<const Memory&, std::uint64_t, std::type_identity<std::uint64_t>>);

/// Memory as functions take it that are not inlined: a callable of one pointer as a copy, so that it stays in a
/// register.
template <class Memory>
using memory_argument = std::conditional_t<small_memory<Memory>, std::remove_const_t<Memory>, Memory&>;

/// Translates the address of a slot that the guest's walk reads, where the host's fast path comes to a page, allows
/// it and finds no A or D to set. Apart, since a nested walk does it for each level of the guest. Memory of handlers
/// is left to the whole walk: to load twice may be seen. Precondition: the root is one.
template <class Memory, walkable_format Host, slot_access Access>
[[nodiscard]] PTEBITS_NOINLINE constexpr table_place find_table(const Host& host, std::uint64_t root,
                                                                const controls_of<Host>& cpu,
                                                                memory_argument<Memory> memory, update_flags update,
                                                                std::uint64_t guest_physical, Access how)
{
    return with_slots_of(host, memory, [&]<class Word>(std::type_identity<Word>) PTEBITS_INLINE {
        table_place found;
        if constexpr (!handles_slots<Memory, Word>) {
            using walked = std::remove_reference_t<memory_argument<Memory>>;
            walk_result r;
            if (table_walk<Word, Host, walked, Access>(host, memory, how)
                    .run_plainly(root, guest_physical, regime_of<Host>::table_access(host, false), cpu, update, r)) {
                found = {r.address, paging_write_bits(host) != 0 ? r.last_entry() : 0};
            }
        }
        return found;
    });
}

/// The host's tables.
template <walkable_format Host, class Memory, slot_access Access>
struct host_tables {
    const Host& format;
    std::uint64_t root;
    const controls_of<Host>& cpu;
    memory_argument<Memory> memory;
    update_flags update;
    Access how;
};

/// The guest's memory as its page walk reaches it: through the host's tables. What an access to
/// a guest's table is there, the host's regime says.
/// `Plain`: there is no memory where the host's tables need a whole walk, nor may it be written.
template <bool Plain, walkable_format Host, class Memory, slot_access Access>
class guest_tables {
public:
    /// `held`: entries of the guest's path that are held elsewhere.
    PTEBITS_INLINE constexpr guest_tables(const host_tables<Host, Memory, Access>& host,
                                          nested_result<access_of<Host>>& result, unsigned held) noexcept
        : host_(host), result_(result), held_(held)
    {
    }

    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] PTEBITS_INLINE constexpr bool load(std::uint64_t guest_physical, Word& entry)
    {
        table_place found = find_table<Memory>(host_.format, host_.root, host_.cpu, host_.memory, host_.update,
                                               guest_physical, host_.how);
        if (found.slot == no_slot) [[unlikely]] {
            if constexpr (Plain) {
                return false;
            } else {
                const walk_result reached = translate_table(guest_physical, false);
                if (!reached) return false;
                found = {reached.address, reached.last_entry()};
            }
        }
        if (seen_ + held_ < max_levels) result_.guest_slots[held_ + seen_++] = found.slot;
        if constexpr (requires { regime_of<Host>::paging_write_bits(host_.format); }) {
            paging_writable_ = paging_writable_ && (found.leaf & paging_write_bits(host_.format)) != 0;
        }
        return read_slot(host_.memory, host_.how, found.slot, entry);
    }
    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr slot_change replace(std::uint64_t guest_physical, Word expected, Word desired)
    {
        if constexpr (Plain) {
            return slot_change::changed;
        } else {
            const walk_result reached = translate_table(guest_physical, true);
            if (!reached) return slot_change::no_slot;
            const slot_change changed =
                replace_slot<Word>(host_.memory, host_.how, reached.address, expected, desired, true);
            if (changed == slot_change::changed) {  // the guest's walk starts over
                for (std::uint64_t& slot : result_.guest_slots) slot = 0;
                seen_ = 0;
                paging_writable_ = true;
            }
            return changed;
        }
    }
    /// Whether a table that could be read may be written.
    [[nodiscard]] constexpr slot_change may_replace(std::uint64_t guest_physical)
    {
        return translate_table(guest_physical, true) ? slot_change::done : slot_change::no_slot;
    }
    /// Whether a table that could be read may be one that must not be written.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        return regime_of<Host>::updates_may_fault(host_.format);
    }

    /// Whether all of the host's leaves that mapped the guest's tables allow paging writes.
    [[nodiscard]] constexpr bool paging_writable() const noexcept { return paging_writable_; }
    /// Whether the host's tables refused an access to a guest's table. The result tells which.
    [[nodiscard]] constexpr bool refused() const noexcept { return refused_; }

private:
    [[nodiscard]] constexpr walk_result translate_table(std::uint64_t guest_physical, bool update)
    {
        const access_of<Host> a = regime_of<Host>::table_access(host_.format, update);
        walk_result reached =
            walk(host_.format, host_.root, guest_physical, a, host_.cpu, host_.memory, host_.update, host_.how);
        if (!reached) {
            refused_ = true;
            result_.host = reached;
            result_.host_access = a;
            result_.guest_physical = guest_physical;
        }
        return reached;
    }

    host_tables<Host, Memory, Access> host_;
    nested_result<access_of<Host>>& result_;
    unsigned held_;
    unsigned seen_ = 0;
    bool paging_writable_ = true;
    bool refused_ = false;
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

/// A nested walk as far as the guest's tables go.
template <class Access>
struct guest_stage {
    nested_result<Access> result;
    bool paging_writable = true;
};

/// Walks the guest's tables where both fast paths do it and no A or D is left to set. Returns whether that is so;
/// else nothing was changed.
template <walkable_format Guest, class Root, walkable_format Host, class Memory, slot_access Access>
[[nodiscard]] PTEBITS_INLINE constexpr bool walk_guest_plainly(const Guest& guest, const Root& root,
                                                               const host_tables<Host, Memory, Access>& host,
                                                               std::uint64_t address, const access_of<Host>& a,
                                                               const controls_of<Guest>& cpu,
                                                               nested_result<access_of<Host>>& result,
                                                               bool& paging_writable)
{
    using tables = guest_tables<true, Host, Memory, Access>;
    if constexpr (std::convertible_to<Root, std::uint64_t>) {
        if (!is_root(host.root, host.format) || !is_root(as_root(root), guest)) [[unlikely]]
            return false;
        tables of_guest(host, result, 0);
        const bool done = with_slots_of(guest, of_guest, [&]<class Word>(std::type_identity<Word>) PTEBITS_INLINE {
            return table_walk<Word, Guest, tables, Access>(guest, of_guest, host.how)
                .run_plainly(as_root(root), address, a, cpu, host.update, result.guest);
        });
        paging_writable = of_guest.paging_writable();
        return done;
    } else {
        return false;
    }
}

/// Walks the guest's tables, with all that may happen.
template <walkable_format Guest, class Root, walkable_format Host, class Memory, slot_access Access>
[[nodiscard]] PTEBITS_NOINLINE constexpr guest_stage<access_of<Host>> walk_guest(
    const Guest& guest, const Root& root, const host_tables<Host, Memory, Access>& host, std::uint64_t address,
    access_of<Host> a, const controls_of<Guest>& cpu)
{
    guest_stage<access_of<Host>> stage;
    nested_result<access_of<Host>>& result = stage.result;
    guest_tables<false, Host, Memory, Access> of_guest(host, result, std::convertible_to<Root, std::uint64_t> ? 0 : 1);
    result.guest = walk(guest, root, address, a, cpu, of_guest, host.update, host.how);
    stage.paging_writable = of_guest.paging_writable();
    if (!result.guest) {
        if (of_guest.refused()) {
            result.guest.fault = fault_kind::second_stage;
        } else {
            result.host = {};
            result.where = dimension::guest;
            result.guest.fault = guest_fault_over<Host>(result.guest.fault);
        }
    }
    return stage;
}

/// Asks for what several nested walks will read, level by level, so that the waits for memory overlap.
template <class Guest, walkable_format Host, class Memory, slot_access Access>
class nested_fetch {
public:
    constexpr nested_fetch(const Guest& guest, const host_tables<Host, Memory, Access>& host)
        : guest_(guest), host_(host)
    {
    }

    /// At most batch_group.
    constexpr void fetch(std::uint64_t guest_root, const std::uint64_t* addresses, std::size_t count)
    {
        std::uint64_t guest_physical[batch_group] = {};
        if constexpr (std::is_same_v<Guest, unpaged>) {
            for (std::size_t i = 0; i < count; ++i) guest_physical[i] = addresses[i];
        } else {
            for (std::size_t i = 0; i < count; ++i) on_the_way_[i] = {guest_root, true};
            if (!is_root(guest_root, guest_) || !is_root(host_.root, host_.format)) return;
            with_slots_of(guest_, host_.memory, [&]<class Word>(std::type_identity<Word>) {
                if constexpr (constant_masks<Guest>) {
                    fetch_below<Word, constant<Guest>->shape().levels>(addresses, guest_physical, count);
                } else {
                    for (unsigned level = guest_->shape().levels; level > 0; --level) {
                        fetch_level<Word>(level, addresses, guest_physical, count);
                    }
                }
            });
        }
        with_slots_of(host_.format, host_.memory, [&]<class Word>(std::type_identity<Word>) {
            table_walk<Word, Host, std::remove_reference_t<memory_argument<Memory>>, Access>(host_.format, host_.memory,
                                                                                             host_.how)
                .fetch_for(host_.root, guest_physical, count);
        });
    }

private:
    /// The table where a walk goes on, then its slot in the host's memory; whether it goes on.
    struct ahead {
        std::uint64_t at = 0;
        bool goes_on = false;
    };

    template <slot_word Word, unsigned Level>
    constexpr void fetch_below(const std::uint64_t* addresses, std::uint64_t* guest_physical, std::size_t count)
    {
        if constexpr (Level > 0) {
            fetch_level<Word>(Level, addresses, guest_physical, count);
            fetch_below<Word, Level - 1>(addresses, guest_physical, count);
        }
    }

    /// Asks for the guest's entries of a level, then follows them.
    template <slot_word Word>
    PTEBITS_INLINE constexpr void fetch_level(unsigned level, const std::uint64_t* addresses,
                                              std::uint64_t* guest_physical, std::size_t count)
    {
        for (std::size_t i = 0; i < count; ++i) {
            ahead& walk = on_the_way_[i];
            if (!walk.goes_on) continue;
            const std::uint64_t slot = guest_->shape().slot_address(walk.at, addresses[i], level);
            walk.at =
                find_table<Memory>(host_.format, host_.root, host_.cpu, host_.memory, update_flags::no, slot, host_.how)
                    .slot;
            walk.goes_on = walk.at != no_slot;
            if (walk.goes_on) prefetch_slot<Word>(host_.memory, walk.at);
        }
        for (std::size_t i = 0; i < count; ++i) {
            ahead& walk = on_the_way_[i];
            Word entry = 0;
            if (!walk.goes_on) continue;
            walk.goes_on = read_slot(host_.memory, host_.how, walk.at, entry) && present(entry, guest_);
            if (!walk.goes_on) continue;
            const kind k = kind_of(entry, level, guest_);
            walk.at = guest_->layout_at(level, k).address_in(entry);
            if (k == kind::table) {
                walk.goes_on = guest_->level_below(entry, level) + 1 == level;
            } else {
                walk.goes_on = false;
                guest_physical[i] = walk.at | (addresses[i] & ones(page_shift_of(entry, level, guest_) - 1, 0));
            }
        }
    }

    const Guest& guest_;
    host_tables<Host, Memory, Access> host_;
    ahead on_the_way_[batch_group] = {};
};

}  // namespace detail

/// Walks a guest's tables (or none: unpaged) over the host's, as the MMU does for one access of the
/// guest. `guest_root` is guest-physical, or the entries that registers hold (a PAE guest over EPT);
/// `host_root` physical; `memory` is the host's. The guest's A and D are set through the host's translation.
/// Where the host's tables refuse an access to a guest's table, the guest's walk has fault_kind::second_stage.
/// Where a fault must be told or A or D set, the guest's tables are walked again from the start, so that memory() is
/// asked more than once for a slot.
/// AMD APM volume 2, "Nested Paging"; Intel SDM volume 3, "EPT Translation Mechanism".
template <class Guest, walk_root Root, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] PTEBITS_INLINE constexpr nested_result<access_of<Host>> nested_walk(
    const Guest& guest, const Root& guest_root, const Host& host, std::uint64_t host_root, std::uint64_t address,
    const access_of<Host>& a, const std::type_identity_t<nested_controls<Guest, Host>>& cpu, Memory&& memory,
    update_flags update = update_flags::yes, Access how = {})
{
    using host_tables = detail::host_tables<Host, std::remove_reference_t<Memory>, Access>;
    detail::memory_argument<std::remove_reference_t<Memory>> at_hand = memory;
    nested_result<access_of<Host>> result;
    bool paging_writable = true;
    permissions in_guest;  // of an unpaged guest: every address is a user's, and allows all
    if constexpr (std::is_same_v<Guest, unpaged>) {
        result.guest = {};  // its path, too
        result.guest_physical = address;
    } else {
        if (!detail::walk_guest_plainly(guest, guest_root, host_tables{host, host_root, cpu.host, at_hand, update, how},
                                        address, a, cpu.guest, result, paging_writable)) [[unlikely]] {
            auto stage = detail::walk_guest(
                guest, guest_root, host_tables{host, host_root, cpu.host, memory, update, how}, address, a, cpu.guest);
            result = stage.result;
            paging_writable = stage.paging_writable;
            if (!result.guest) return result;
        }
        in_guest = result.guest.allowed;
        result.guest_physical = result.guest.address;
    }
    // By copies, so that no reference to the result keeps it in memory.
    access_of<Host> final_access = detail::final_access_over<Host>(a, in_guest, paging_writable);
    result.host = walk(host, host_root, result.guest_physical, final_access, cpu.host, at_hand, update, how);
    result.host_access = final_access;
    return result;
}

/// nested_walk() for `count` independent addresses, the same access for each: results[i] is that of addresses[i]. What
/// they read is fetched side by side first, so that the waits for memory overlap; memory() is asked twice for a slot.
template <class Guest, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
constexpr void nested_walk_batch(const Guest& guest, std::uint64_t guest_root, const Host& host,
                                 std::uint64_t host_root, const std::uint64_t* addresses, std::size_t count,
                                 const access_of<Host>& a,
                                 const std::type_identity_t<nested_controls<Guest, Host>>& cpu, Memory&& memory,
                                 nested_result<access_of<Host>>* results, update_flags update = update_flags::yes,
                                 Access how = {})
{
    using memory_without_reference = std::remove_reference_t<Memory>;
    detail::nested_fetch<Guest, Host, memory_without_reference, Access> ahead(
        guest, {host, host_root, cpu.host, memory, update, how});
    std::size_t walked = 0;
    for (std::size_t fetched = 0; walked < count;) {
        const std::size_t n = count - fetched < detail::batch_group ? count - fetched : detail::batch_group;
        ahead.fetch(guest_root, addresses + fetched, n);
        const std::size_t end = n != 0 ? fetched : count;
        for (; walked < end; ++walked) {
            results[walked] =
                nested_walk(guest, guest_root, host, host_root, addresses[walked], a, cpu, memory, update, how);
        }
        fetched += n;
    }
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
