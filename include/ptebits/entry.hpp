// SPDX-License-Identifier: BSL-1.0
// Questions and edits on the value of an entry. Pure functions: no memory is touched.
#pragma once

#include <cstdint>

#include <ptebits/format.hpp>
#include <ptebits/masks.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void format_has_no_accessed_bit() noexcept { stop(); }
[[noreturn]] inline void format_has_no_dirty_bit() noexcept { stop(); }
}  // namespace broken

/// Refuses a format without an accessed bit: does not compile where that is known at
/// compile time, stops the program otherwise. Its entries would all look old.
template <entry_masks F>
constexpr void require_accessed(const F& format) noexcept
{
    if constexpr (static_masks<F>) {
        static_assert(F::accessed.exists(),
                      "ptebits: this format has no accessed bit; age it by access_tracking or by unmapping");
    } else if (!format.accessed.exists()) {
        broken::format_has_no_accessed_bit();
    }
}

/// The same for a dirty bit. Without one, writes are found by write-protecting.
template <entry_masks F>
constexpr void require_dirty(const F& format) noexcept
{
    if constexpr (static_masks<F>) {
        static_assert(F::dirty.exists(), "ptebits: this format has no dirty bit; write-protect to find writes");
    } else if (!format.dirty.exists()) {
        broken::format_has_no_dirty_bit();
    }
}

/// Whether the MMU uses the entry.
template <entry_masks F>
[[nodiscard]] constexpr bool present(std::uint64_t entry, const F& format) noexcept
{
    return (entry & format.present_mask()) != 0;
}

/// Whether the accessed bit is set. Precondition: the format has one.
template <entry_masks F>
[[nodiscard]] constexpr bool young(std::uint64_t entry, const F& format) noexcept
{
    require_accessed(format);
    return (entry & format.accessed.mask()) != 0;
}

/// Whether the dirty bit is set. Precondition: the format has one.
template <entry_masks F>
[[nodiscard]] constexpr bool dirty(std::uint64_t entry, const F& format) noexcept
{
    require_dirty(format);
    return (entry & format.dirty.mask()) != 0;
}

/// Whether an entry of a level maps a page or refers to a table.
template <entry_format F>
[[nodiscard]] constexpr kind kind_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (level == 1) return kind::leaf;
    const std::uint64_t page_size = format.layout_at(level, kind::leaf).mask(role::page_size);
    return (entry & page_size) != 0 ? kind::leaf : kind::table;
}

/// Roles of all bits of this entry.
template <entry_format F>
[[nodiscard]] constexpr const layout& layout_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return format.layout_at(level, kind_of(entry, level, format));
}

/// Physical address of the page or table, in bytes; encryption and software bits left out.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t address_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return layout_of(entry, level, format).address_in(entry);
}

/// What an entry allows. In a walk, what all entries on the way allow together.
struct permissions {
    bool read = true;
    bool write = true;
    bool execute = true;       ///< in supervisor mode, where the format tells modes apart
    bool user = true;          ///< any access in user mode
    bool user_execute = true;  ///< execution in user mode

    [[nodiscard]] constexpr bool operator==(const permissions&) const = default;
};

/// What an entry of this layout allows. A permission that the entry has no bit for is
/// granted; nothing is granted if the entry is not present.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr permissions permissions_in(std::uint64_t entry, const layout& l,
                                                                  const F& format) noexcept
{
    const auto granted = [&](role r) { return (entry & l.mask(r)) == l.mask(r); };
    const bool user = granted(role::user);
    const bool denied = !present(entry, format) || (format.user_bit() == user_rule::required && !user);
    if (denied) return {false, false, false, false, false};

    const bool execute = granted(role::execute) && (entry & l.mask(role::execute_disable)) == 0;
    if (format.user_bit() == user_rule::traps_supervisor_fetch) {
        const bool trapped = (entry & l.mask(role::user)) != 0;
        return {granted(role::read), granted(role::write), execute && !trapped, true, execute};
    }
    const bool user_execute = l.mask(role::user_execute) != 0 ? granted(role::user_execute) : execute && user;
    return {granted(role::read), granted(role::write), execute, user, user_execute};
}

/// The permissions of several entries of one walk together: each must grant.
struct permission_fold {
    std::uint64_t granted = ~std::uint64_t{0};  ///< the entries, anded
    std::uint64_t denied = 0;                   ///< the entries, ored

    /// What an entry of one layout does not say about permissions, held against a page's. One
    /// without a bit for a permission (PAE's top level) takes nothing away.
    struct silence {
        std::uint64_t granted;
        std::uint64_t denied;
    };
    [[nodiscard]] static constexpr silence silent_in(const layout& l, const layout& page) noexcept
    {
        return {grants(page) & ~grants(l), denies(page) & ~denies(l)};
    }

    PTEBITS_INLINE constexpr void add(std::uint64_t entry, silence s) noexcept
    {
        granted &= entry | s.granted;
        denied |= entry & ~s.denied;
    }

    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE constexpr permissions result(const F& format) const noexcept
    {
        const layout& page = format.layout_at(1, kind::leaf);
        const std::uint64_t kept = grants(page) | page.mask(role::present);
        return permissions_in((granted & kept) | (denied & denies(page)), page, format);
    }

private:
    [[nodiscard]] static constexpr std::uint64_t grants(const layout& l) noexcept
    {
        return l.mask(role::read) | l.mask(role::write) | l.mask(role::execute) | l.mask(role::user_execute) |
               l.mask(role::user);
    }
    [[nodiscard]] static constexpr std::uint64_t denies(const layout& l) noexcept
    {
        return l.mask(role::execute_disable);
    }
};

/// What an entry of a level allows by itself. U/S counts if it is set in all entries of a
/// walk, so with GMET an entry that refers to a table leaves execution to the leaf.
template <entry_format F>
[[nodiscard]] constexpr permissions permissions_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    const kind k = kind_of(entry, level, format);
    const layout& l = format.layout_at(level, k);
    const bool left_to_leaf = k == kind::table && format.user_bit() == user_rule::traps_supervisor_fetch;
    return permissions_in(left_to_leaf ? entry & ~l.mask(role::user) : entry, l, format);
}

/// Whether a leaf allows reads, writes, execution (in supervisor mode where modes differ).
template <entry_format F>
[[nodiscard]] constexpr bool readable(std::uint64_t leaf, const F& format) noexcept
{
    return permissions_of(leaf, 1, format).read;
}
template <entry_format F>
[[nodiscard]] constexpr bool writable(std::uint64_t leaf, const F& format) noexcept
{
    return permissions_of(leaf, 1, format).write;
}
template <entry_format F>
[[nodiscard]] constexpr bool executable(std::uint64_t leaf, const F& format) noexcept
{
    return permissions_of(leaf, 1, format).execute;
}

/// What a rule check found: the rule, and the bits of the entry that break it.
struct finding {
    rule broken = rule::none;
    std::uint64_t bits = 0;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return broken != rule::none; }
    [[nodiscard]] constexpr bool operator==(const finding&) const = default;
};

/// The rule that an entry of a level breaks. Presence comes first: an entry that is not
/// present breaks none, if the level exists. Reserved bits come before forbidden combinations.
template <entry_format F>
[[nodiscard]] constexpr finding diagnose(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (level < 1 || level > format.tables().levels) return {rule::no_such_level, entry};
    const kind k = kind_of(entry, level, format);
    const layout& l = format.layout_at(level, k);
    if (!present(entry, format)) return {};
    if ((entry & ~l.all) != 0) return {rule::too_wide, entry & ~l.all};
    if ((entry & l.mask(role::reserved)) != 0) return {rule::reserved_bits, entry & l.mask(role::reserved)};
    for (const combination& c : format.combinations()) {
        if (c.in.contains(level, k) && (entry & c.mask) == c.value) return {c.breaks, c.mask};
    }
    return {};
}

/// Whether an entry of a level breaks no rule.
template <entry_format F>
[[nodiscard]] constexpr bool legal(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return !diagnose(entry, level, format);
}

/// Why an entry could not be made.
enum class encode_error : std::uint8_t {
    none,
    no_such_entry,           ///< the format has no entry of this kind at this level
    address_misaligned,      ///< address bits below the page or table size
    address_too_wide,        ///< address bits above the physical width
    permission_not_offered,  ///< the format cannot grant or deny just this
};

/// An entry, or why there is none (then 0, not present in any format).
struct encoded {
    std::uint64_t entry = 0;
    encode_error error = encode_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == encode_error::none; }
};

/// The entry of a kind and level that holds a physical address (bytes) and grants these
/// permissions. Other fields are clear; or them in. `user` must be as the format has it
/// (EPT and NPT: true); user_execute counts only where the format grants it apart.
template <entry_format F>
[[nodiscard]] constexpr encoded encode(kind k, unsigned level, std::uint64_t physical, permissions grant,
                                       const F& format) noexcept
{
    if (!format.exists(level, k)) return {0, encode_error::no_such_entry};
    const layout& l = format.layout_at(level, k);
    const unsigned align = k == kind::leaf ? format.tables().page_shift(level) : base_page_shift;
    if ((physical & ones(align - 1, 0)) != 0) return {0, encode_error::address_misaligned};
    std::uint64_t entry = l.address_bits(physical);
    if (l.address_in(entry) != physical) return {0, encode_error::address_too_wide};

    const bool modes_apart = l.mask(role::user_execute) != 0 || format.user_bit() == user_rule::traps_supervisor_fetch;
    const bool any_execute = grant.execute || (modes_apart && grant.user_execute);
    if (!modes_apart) grant.user_execute = grant.execute && grant.user;

    const auto set_if = [&](bool wanted, role r) { entry |= wanted ? l.mask(r) : 0; };
    set_if(true, role::present);
    set_if(k == kind::leaf, role::page_size);
    set_if(grant.read, role::read);
    set_if(grant.write, role::write);
    set_if(grant.execute, role::execute);
    set_if(grant.user_execute, role::user_execute);
    set_if(!any_execute, role::execute_disable);
    switch (format.user_bit()) {
    case user_rule::separates:
        set_if(grant.user, role::user);
        break;
    case user_rule::required:
        set_if(true, role::user);
        break;
    case user_rule::traps_supervisor_fetch:
        set_if(k == kind::table || (any_execute && !grant.execute), role::user);
        break;
    }
    if (!present(entry, format) || permissions_of(entry, level, format) != grant || !legal(entry, level, format)) {
        return {0, encode_error::permission_not_offered};
    }
    return {entry, encode_error::none};
}

}  // namespace ptebits
