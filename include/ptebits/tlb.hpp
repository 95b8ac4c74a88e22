// SPDX-License-Identifier: BSL-1.0
// What a simulator's TLB may keep of a walk.
#pragma once

#include <cstdint>

#include <ptebits/nested_walk.hpp>
#include <ptebits/x86.hpp>

namespace ptebits {

/// A set of data accesses and fetches, by mode. A read-modify-write is a read and a write.
class access_set {
public:
    /// Whether all that an access needs is in the set.
    [[nodiscard]] constexpr bool contains(operation what, bool user) const noexcept
    {
        return (bits_ & bits_of(what, user)) == bits_of(what, user);
    }
    constexpr void add(operation what, bool user) noexcept { bits_ |= bits_of(what, user); }

    /// The set as bits, to be kept in a TLB's entry: bit 0 read, 1 write, 2 fetch by the supervisor; 3, 4, 5 the same
    /// by a user.
    [[nodiscard]] constexpr unsigned bits() const noexcept { return bits_; }

    [[nodiscard]] friend constexpr access_set operator&(access_set a, const access_set& b) noexcept
    {
        a.bits_ &= b.bits_;
        return a;
    }
    [[nodiscard]] constexpr bool operator==(const access_set&) const = default;

private:
    [[nodiscard]] static constexpr unsigned bits_of(operation what, bool user) noexcept
    {
        const unsigned needed = what == operation::read    ? 1
                                : what == operation::write ? 2
                                : what == operation::fetch ? 4
                                                           : 3;
        return user ? needed << 3 : needed;
    }
    unsigned bits_ = 0;
};

namespace detail {

/// Whether a walk by the entries of another would leave A and D as they are. `wrote`: whether that walk set D.
template <walkable_format F>
[[nodiscard]] constexpr bool sets_no_flags(const walk_result& r, const memory_access& a, bool wrote,
                                           update_flags update, const F& format) noexcept
{
    const layout& page = format->layout_at(1, kind::leaf);
    if (format->accessed_by() != accessed_setter::hardware) return true;
    for (unsigned i = 0; update == update_flags::no && i < r.steps; ++i) {
        const kind k = i + 1 == r.steps ? kind::leaf : kind::table;
        const std::uint64_t flag = format->layout_at(r.level_of(i), k).mask(role::accessed);
        if ((r.path[i].entry & flag) != flag && r.path[i].slot_address != no_slot) return false;
    }
    const bool dirty_now = (r.last_entry() & page.mask(role::dirty)) == page.mask(role::dirty);
    return !a.writes() || dirty_now || (wrote && update == update_flags::yes);
}

/// Those of the six accesses that a test allows.
template <class Allowed>
[[nodiscard]] constexpr access_set accesses_where(const memory_access& like, Allowed&& allowed)
{
    access_set set;
    for (const bool user : {false, true}) {
        for (const operation what : {operation::read, operation::write, operation::fetch}) {
            memory_access a = like;
            a.what = what;
            a.user = user;
            a.implicit = a.shadow_stack = false;
            if (allowed(static_cast<const memory_access&>(a))) set.add(what, user);
        }
    }
    return set;
}

/// Whether a stage allows an access without a further walk.
template <walkable_format F>
[[nodiscard]] constexpr bool needs_no_walk(walk_result r, const memory_access& a, bool wrote, const controls_of<F>& cpu,
                                           update_flags update, const F& format) noexcept
{
    return regime_of<F>::allows(r, r.last_entry(), a, cpu, format) && sets_no_flags(r, a, wrote, update, format);
}

}  // namespace detail

/// The accesses to the page that a walk reached which need no further walk, while the entries and the controls
/// stay as they are: they are allowed, and no A or D is left to set. Nothing where the walk ended in a fault. `a` and
/// `update` are those of the walk. LASS depends on the address too, so the caller judges it.
template <walkable_format F>
[[nodiscard]] constexpr access_set cacheable(const walk_result& r, const memory_access& a, const controls_of<F>& cpu,
                                             const F& format, update_flags update = update_flags::yes)
{
    if (!r) return {};
    return detail::accesses_where(a, [&](const memory_access& other) {
        return detail::needs_no_walk(r, other, a.writes(), cpu, update, format);
    });
}

/// The same over both stages. Nothing after a walk without updates, where the host's entries that lead to the guest's
/// tables have A and D.
template <class Guest, walkable_format Host>
[[nodiscard]] constexpr access_set cacheable(const nested_result<memory_access>& r, const memory_access& a,
                                             const std::type_identity_t<nested_controls<Guest, Host>>& cpu,
                                             const Guest& guest, const Host& host,
                                             update_flags update = update_flags::yes)
{
    // What would be set in the host's entries for the guest's tables is not in the result.
    const bool unknown = update == update_flags::no && host->accessed_by() == accessed_setter::hardware;
    if (!r || (unknown && walkable_format<Guest>)) return {};
    return detail::accesses_where(a, [&](const memory_access& other) {
        permissions in_guest;
        if constexpr (walkable_format<Guest>) {
            if (!detail::needs_no_walk(r.guest, other, a.writes(), cpu.guest, update, guest)) return false;
            in_guest = r.guest.allowed;
        }
        const memory_access over = detail::final_access_over<Host>(other, in_guest, r.host_access.paging_writable);
        return detail::needs_no_walk(r.host, over, a.writes(), cpu.host, update, host);
    });
}

}  // namespace ptebits
