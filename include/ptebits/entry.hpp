// SPDX-License-Identifier: BSL-1.0
// Questions and edits on the value of an entry. Pure functions: no memory is touched.
#pragma once

#include <bit>
#include <cstdint>

#include <ptebits/format.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void format_has_no_accessed_bit() noexcept { stop(); }
[[noreturn]] inline void format_has_no_dirty_bit() noexcept { stop(); }
}  // namespace broken

namespace detail {

/// The dirty modifier of a format's leaves; empty where it has none.
template <entry_masks F>
[[nodiscard]] constexpr std::uint64_t dirty_modifier_of([[maybe_unused]] const F& format) noexcept
{
    if constexpr (entry_format<F>) {
        if constexpr (rows_have<typename F::description>(role::dirty_modifier)) {
            return format->layout_at(1, kind::leaf).mask(role::dirty_modifier);
        }
    }
    return 0;
}

/// Refuses a format without an accessed bit, whose entries would all look old: does not compile where
/// that is known at compile time, else stops the program.
template <entry_masks F>
constexpr void require_accessed(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(constant<F>->accessed.exists(),
                      "ptebits: this format has no accessed bit; age it by access tracking or by unmapping");
    } else if (!format->accessed.exists()) {
        broken::format_has_no_accessed_bit();
    }
}

/// The same for a dirty state. Without one, writes must be found by write-protecting.
template <entry_masks F>
constexpr void require_dirty(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(constant<F>->dirty.exists() || dirty_modifier_of(F{}) != 0,
                      "ptebits: this format has no dirty bit; write-protect to find writes");
    } else if (!format->dirty.exists() && dirty_modifier_of(format) == 0) {
        broken::format_has_no_dirty_bit();
    }
}

}  // namespace detail

/// Whether the MMU uses the entry: it is not absent.
template <entry_masks F>
[[nodiscard]] constexpr bool present(std::uint64_t entry, const F& format) noexcept
{
    return (entry & format->present_mask()) != 0;
}

/// Whether the accessed bit is set. Precondition: the format has one.
template <entry_masks F>
[[nodiscard]] constexpr bool young(std::uint64_t entry, const F& format) noexcept
{
    detail::require_accessed(format);
    return (entry & format->accessed.mask()) != 0;
}

/// Whether hardware found the page written: the dirty bit, or the write permission where a
/// dirty modifier makes it the dirty state. Precondition: a leaf; the format has either.
template <entry_masks F>
[[nodiscard]] constexpr bool dirty(std::uint64_t entry, const F& format) noexcept
{
    detail::require_dirty(format);
    const std::uint64_t modifier = detail::dirty_modifier_of(format);
    if (modifier == 0) return (entry & format->dirty.mask()) != 0;
    if constexpr (entry_format<F>) {
        return (entry & modifier) != 0 && format->layout_at(1, kind::leaf).grants(entry, role::write);
    } else {
        return false;
    }
}

namespace detail {

/// The bits that some CPUs set in an entry after it has become absent: A and D. Intel Xeon Phi
/// Processor x200 Product Family Specification Update, KNL4.
template <entry_masks F>
[[nodiscard]] constexpr std::uint64_t stray_bits(const F& format) noexcept
{
    if constexpr (entry_format<F>) {
        if (format->accessed_by() != accessed_setter::hardware) return 0;
    }
    return format->accessed.mask() | format->dirty.mask();
}

/// The address bit that, if set, makes an absent entry point past the memory (L1TF); else 0.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t away_mask(const F& format) noexcept
{
    if (format->memory_bits() == 0) return 0;
    const layout& l = format->layout_at(1, kind::leaf);
    return l.address_bits(std::bit_floor(l.address_in(l.mask(role::address))));
}

/// The leaf with the permissions that count: writable if hardware makes it so on a write.
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t granted_by_hardware(std::uint64_t entry, const layout& l) noexcept
{
    if ((entry & l.mask(role::dirty_modifier)) == 0) return entry;
    return (entry & ~(l.mask(role::write) & l.denying)) | (l.mask(role::write) & ~l.denying);
}

/// Whether HLAT paging ends at an entry: what is below it is reached by ordinary paging alone.
template <entry_format F>
[[nodiscard]] constexpr bool ends_hlat([[maybe_unused]] std::uint64_t entry, [[maybe_unused]] const F& format) noexcept
{
    if constexpr (requires { format->restart; }) {
        return (entry & format->restart.mask()) != 0;
    } else {
        return false;
    }
}

/// A leaf that denies ordinary writes.
[[nodiscard]] constexpr std::uint64_t denying_writes(std::uint64_t leaf, const layout& l) noexcept
{
    return (leaf & ~(l.mask(role::write) & ~l.denying)) | (l.mask(role::write) & l.denying);
}

/// Whether a present leaf is a shadow-stack page.
template <entry_format F>
[[nodiscard]] constexpr bool of_shadow_stack(std::uint64_t leaf, const F& format) noexcept
{
    if (!format->shadow_stacks() || (leaf & format->dirty.mask()) == 0) return false;
    return !format->layout_at(1, kind::leaf).grants(leaf, role::write);
}

}  // namespace detail

/// Whether a slot is empty: it holds what an empty one of the format does, or 0 as memory that
/// nobody filled. A and D do not count, since some CPUs set them in an entry that is absent already.
template <entry_masks F>
[[nodiscard]] constexpr bool is_empty(std::uint64_t entry, const F& format) noexcept
{
    const std::uint64_t rest = entry & ~detail::stray_bits(format);
    return rest == 0 || rest == format->empty();
}

/// What an entry of a level is: none where it is absent, or of no kind that the level has.
template <entry_format F>
[[nodiscard]] constexpr kind kind_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return format->kind_of(entry, level);
}

/// Roles of all bits of this entry.
template <entry_format F>
[[nodiscard]] constexpr const layout& layout_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return format->layout_at(level, kind_of(entry, level, format));
}

/// Physical address of the page or table, in bytes; encryption and software bits left out.
/// 0 for an absent entry.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t address_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    const kind k = kind_of(entry, level, format);
    return k == kind::none ? 0 : format->layout_at(level, k).address_in(entry);
}

/// log2 of the bytes that a leaf or run maps, or that an entry for a table translates.
/// Precondition: 1 <= level <= levels.
template <entry_format F>
[[nodiscard]] constexpr unsigned page_shift_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    const kind k = kind_of(entry, level, format);
    const layout& l = format->layout_at(level, k);
    return l.sized ? l.offset_bits_of(entry) : format->shape().page_shift(level, k);
}

namespace detail {

/// The permission roles that an entry of this layout grants.
[[nodiscard]] constexpr permissions roles_granted(std::uint64_t entry, const layout& l) noexcept
{
    return {l.grants(entry, role::read), l.grants(entry, role::write), l.grants(entry, role::execute),
            l.grants(entry, role::user), l.grants(entry, role::user_execute)};
}

/// The permissions of several entries of one walk together: each must grant.
class permission_fold {
public:
    /// Adds an entry where permissions_in_place() holds; `silent` are the bits that it lacks.
    PTEBITS_INLINE constexpr void add_in_place(std::uint64_t entry, std::uint64_t silent, const layout& page) noexcept
    {
        bits_ &= (entry ^ page.denying) | silent;
    }

    template <entry_format F>
    constexpr void add(std::uint64_t entry, const layout& l, const F& format) noexcept
    {
        const layout& page = format->layout_at(1, kind::leaf);
        if (format->permissions_in_place()) {
            add_in_place(entry, silent_in(l, page), page);
        } else {
            bits_ &= entry | silent_in(l, page);
            by_role_ = by_role_ & roles_granted(entry, l);
        }
    }

    /// What all entries allow. Precondition: none of them is absent.
    template <entry_format F>
    [[nodiscard]] PTEBITS_INLINE constexpr permissions result(const F& format) const noexcept
    {
        const layout& page = format->layout_at(1, kind::leaf);
        const bool in_place = format->permissions_in_place();
        return format->allowed(in_place ? roles_granted(bits_ ^ page.denying, page) : by_role_, kind::leaf);
    }

    /// Tells the compiler that all entries have these bits set.
    PTEBITS_INLINE constexpr void know(std::uint64_t bits) noexcept { bits_ |= bits; }

    /// Whether all entries have these bits set, which are no permission's.
    [[nodiscard]] constexpr bool all_have(std::uint64_t bits) const noexcept { return (bits_ & bits) == bits; }

private:
    std::uint64_t bits_ = ~std::uint64_t{0};  ///< the entries, anded; for permissions a set bit grants
    permissions by_role_;
};

}  // namespace detail

/// What an entry of a level allows by itself; nothing if it is absent. A permission that the
/// entry has no bit for is granted.
template <entry_format F>
[[nodiscard]] constexpr permissions permissions_of(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    const kind k = kind_of(entry, level, format);
    if (k == kind::none) return no_permissions;
    return format->allowed(detail::roles_granted(entry, format->layout_at(level, k)), k);
}

/// Whether a leaf allows reads, writes, execution (in supervisor mode where modes differ).
template <entry_format F>
[[nodiscard]] constexpr bool readable(std::uint64_t leaf, const F& format, unsigned level = 1) noexcept
{
    return permissions_of(leaf, level, format).read;
}
template <entry_format F>
[[nodiscard]] constexpr bool writable(std::uint64_t leaf, const F& format, unsigned level = 1) noexcept
{
    return permissions_of(leaf, level, format).write;
}
template <entry_format F>
[[nodiscard]] constexpr bool executable(std::uint64_t leaf, const F& format, unsigned level = 1) noexcept
{
    return permissions_of(leaf, level, format).execute;
}

/// What a rule check found: the rule, and the bits of the entry that break it.
struct finding {
    rule broken = rule::none;
    std::uint64_t bits = 0;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return broken != rule::none; }
    [[nodiscard]] constexpr bool operator==(const finding&) const = default;
};

namespace detail {

/// The rule that a present entry of a level breaks, whose kind is known.
template <entry_format F>
[[nodiscard]] constexpr finding broken_rule(std::uint64_t entry, unsigned level, kind k, const F& format) noexcept
{
    const shape& s = format->shape();
    const std::uint64_t above = ~ones(s.entry_bits - 1, 0);
    if ((entry & above) != 0) return {rule::too_wide, entry & above};
    if (k == kind::none) return {rule::no_such_kind, entry};
    const layout& l = format->layout_at(level, k);
    if ((entry & l.mask(role::reserved)) != 0) return {rule::reserved_bits, entry & l.mask(role::reserved)};
    if (format->uses(role::beyond) && (entry & l.mask(role::beyond)) != 0) {
        return {rule::beyond_the_width, entry & l.mask(role::beyond)};
    }
    if (format->uses(role::next_level) && k == kind::table) {
        const unsigned below = format->level_below(entry, level);
        if (below < 1 || below >= level) return {rule::next_level, l.mask(role::next_level)};
    }
    if (format->uses_sizes() && l.sized) {
        const unsigned size = l.offset_bits_of(entry);
        if (size <= s.page_shift(level) || size >= s.page_shift(level + 1)) {
            return {rule::page_size, l.mask(role::address)};
        }
    }
    for (const combination& c : format->combinations()) {
        if (c.in.contains(level, k) && (entry & c.mask) == c.value) return {c.breaks, c.mask};
    }
    return {};
}

}  // namespace detail

/// The rule that an entry of a level breaks. An absent entry breaks none, if the level exists.
/// Reserved bits come before forbidden combinations.
template <entry_format F>
[[nodiscard]] constexpr finding diagnose(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (level < 1 || level > format->shape().levels) return {rule::no_such_level, entry};
    if (!present(entry, format)) return {};
    return detail::broken_rule(entry, level, kind_of(entry, level, format), format);
}

/// Whether an entry of a level breaks no rule.
template <entry_format F>
[[nodiscard]] constexpr bool legal(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return !diagnose(entry, level, format);
}

namespace detail {

/// Whether a few bits of an entry show that it translates as a smallest page does. Not all entries that
/// translate pass. By masks: present.
template <entry_masks F>
[[nodiscard]] PTEBITS_INLINE constexpr bool translates_plainly(std::uint64_t entry, const F& format) noexcept
{
    if constexpr (entry_format<F> && constant_masks<F>) {
        return format->page_test().passes(entry);
    } else if constexpr (entry_format<F>) {
        return format->page_test().entry_test::passes(entry);
    } else {
        return present(entry, format);
    }
}

/// Those bits: entries that are alike in them have the same result.
template <entry_masks F>
[[nodiscard]] constexpr std::uint64_t bits_judged(const F& format) noexcept
{
    if constexpr (entry_format<F>) {
        return format->page_test().judged;
    } else {
        return format->present_mask();
    }
}

/// Whether a present entry breaks no rule of a level; for level 0, of some level.
template <entry_format F>
[[nodiscard]] PTEBITS_NOINLINE constexpr bool translates_by_rules(std::uint64_t entry, const F& format,
                                                                  unsigned level) noexcept
{
    if (level != 0) return legal(entry, level, format);
    for (unsigned any = 1; any <= format->shape().levels; ++any) {
        if (legal(entry, any, format)) return true;
    }
    return false;
}

}  // namespace detail

/// Whether the MMU translates by the entry: it is present and breaks no rule of its level. An entry that
/// does not translate is no page, whatever its bits say: hypervisors mark emulated devices by such
/// entries. With `level` 0 it is enough to break no rule of some level. Masks have no rules: present.
template <entry_masks F>
[[nodiscard]] PTEBITS_INLINE constexpr bool translates(std::uint64_t entry, const F& format,
                                                       [[maybe_unused]] unsigned level = 0) noexcept
{
    if constexpr (entry_format<F>) {
        if (level <= 1 && detail::translates_plainly(entry, format)) [[likely]]
            return true;
        return present(entry, format) && detail::translates_by_rules(entry, format, level);
    } else {
        return present(entry, format);
    }
}

/// What is wrong with a value that an absent entry should have.
enum class absent_error : std::uint8_t {
    none,
    looks_present,       ///< the MMU uses it as a present entry
    looks_accessed,      ///< A is set, which has a meaning for pages only
    looks_dirty,         ///< D is set
    bits_not_written,    ///< a bit that must have one value has the other
    points_into_memory,  ///< a CPU with L1TF may read memory at its address bits
};

[[nodiscard]] constexpr const char* name(absent_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "looks present",
                                     "looks accessed",
                                     "looks dirty",
                                     "a bit that must be written has another value",
                                     "points into memory"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// What is wrong with a value that software writes as an absent entry of this format. An entry that is
/// read back may have A and D as well, which some CPUs set; a tracked one has those of its page.
template <entry_masks F>
[[nodiscard]] constexpr absent_error check_absent(std::uint64_t value, const F& format) noexcept
{
    if (present(value, format)) return absent_error::looks_present;
    if ((value & format->accessed.mask()) != 0) return absent_error::looks_accessed;
    if ((value & format->dirty.mask()) != 0) return absent_error::looks_dirty;
    if constexpr (entry_format<F>) {
        const layout& l = format->layout_at(1, kind::none);
        if (((value ^ l.value) & l.mask(role::written)) != 0) return absent_error::bits_not_written;
        const std::uint64_t address = l.address_in(value);
        // Address 0 is allowed: an empty slot has it, and page 0 holds no secrets.
        if (address != 0 && address >> format->memory_bits() == 0) return absent_error::points_into_memory;
    }
    return absent_error::none;
}

/// Why an entry could not be made.
enum class encode_error : std::uint8_t {
    none,
    no_such_entry,           ///< the format has no entry of this kind at this level
    address_misaligned,      ///< address bits below the page or table size
    address_too_wide,        ///< address bits above the physical width
    permission_not_offered,  ///< the format cannot grant exactly these permissions
    no_such_field,           ///< a field that this entry does not have
    value_not_legal,         ///< fields that make the entry break a rule
};

[[nodiscard]] constexpr const char* name(encode_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "no such entry at this level",
                                     "the address is not aligned",
                                     "the address is too wide",
                                     "the format does not offer these permissions",
                                     "the entry has no such field",
                                     "the fields make an entry that breaks a rule"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// An entry, or why there is none (then 0).
struct encoded {
    std::uint64_t entry = 0;
    encode_error error = encode_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == encode_error::none; }
};

namespace detail {

/// Marks permissions that an entry cannot grant: no entry has all bits set.
inline constexpr std::uint64_t not_offered = ~std::uint64_t{0};

/// The permission bits of an entry that grants exactly these permissions, or not_offered.
template <class F>
[[nodiscard]] constexpr std::uint64_t permission_bits(kind k, unsigned level, permissions grant,
                                                      const F& format) noexcept
{
    const layout& l = format->layout_at(level, k);
    if (!format->modes_apart()) grant.user_execute = grant.execute && grant.user;
    const permissions wanted = format->roles_for(grant, k);
    const bool granted[] = {wanted.read, wanted.write, wanted.execute, wanted.user_execute, wanted.user};
    std::uint64_t entry = 0;
    for (unsigned n = 0; n < sizeof granted; ++n) {
        const std::uint64_t mask = l.mask(permission_roles[n]);
        entry |= granted[n] ? mask & ~l.denying : mask & l.denying;
    }
    std::uint64_t whole = entry | (l.value & l.mask(role::fixed));
    if (const field next{l.mask(role::next_level)}; next.exists()) whole |= next(level - 1);
    if (format->allowed(roles_granted(entry, l), k) != grant || format->kind_of(whole, level) != k) return not_offered;
    for (const combination& c : format->combinations()) {
        if (c.in.contains(level, k) && (whole & c.mask) == c.value) return not_offered;
    }
    return entry;
}

/// The row of permission_table for each kind and level of a constant format. Entries with the same
/// permission bits share a row.
template <class F>
struct permission_rows {
    static constexpr unsigned levels = constant<F>->shape().levels;
    unsigned char row[kind_count - 1][levels] = {};
    unsigned count = 0;
    kind first_kind[(kind_count - 1) * levels] = {};
    unsigned first_level[(kind_count - 1) * levels] = {};

    constexpr permission_rows() noexcept
    {
        for (const kind k : present_kinds) {
            for (unsigned level = 1; level <= levels; ++level) {
                if (!constant<F>->exists(level, k)) continue;
                unsigned n = 0;
                while (n < count && !same(k, level, n)) ++n;
                row[static_cast<unsigned>(k) - 1][level - 1] = static_cast<unsigned char>(n);
                if (n < count) continue;
                first_kind[n] = k;
                first_level[n] = level;
                ++count;
            }
        }
    }

private:
    [[nodiscard]] constexpr bool same(kind k, unsigned level, unsigned n) const noexcept
    {
        const layout& a = constant<F>->layout_at(level, k);
        const layout& b = constant<F>->layout_at(first_level[n], k);
        if (first_kind[n] != k || ((a.denying ^ b.denying) & a.permission_mask()) != 0) return false;
        for (const role r : permission_roles) {
            if (a.mask(r) != b.mask(r)) return false;
        }
        for (const combination& c : constant<F>->combinations()) {
            if (c.in.contains(level, k) != c.in.contains(first_level[n], k)) return false;
        }
        return true;
    }
};

/// permission_bits() of a constant format, for all permissions by number.
template <class F>
struct permission_table {
    static constexpr permission_rows<F> rows{};
    static constexpr unsigned numbers = constant<F>->modes_apart() ? 32 : 16;
    std::uint64_t bits[rows.count][numbers] = {};

    constexpr permission_table() noexcept
    {
        for (unsigned row = 0; row < rows.count; ++row) {
            for (unsigned n = 0; n < numbers; ++n) {
                const permissions p{(n & 1) != 0, (n & 2) != 0, (n & 4) != 0, (n & 8) != 0, (n & 16) != 0};
                bits[row][n] = permission_bits(rows.first_kind[row], rows.first_level[row], p, F{});
            }
        }
    }
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t of(kind k, unsigned level, const permissions& p) const noexcept
    {
        return bits[rows.row[static_cast<unsigned>(k) - 1][level - 1]][number_of(p, numbers == 32)];
    }
};
template <class F>
inline constexpr permission_table<F> permission_table_of{};

/// permission_bits(), from a table where the format is constant.
template <class F>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t bits_granting(kind k, unsigned level, const permissions& grant,
                                                                   const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        return permission_table_of<F>.of(k, level, grant);
    } else {
        return permission_bits(k, level, grant, format);
    }
}

}  // namespace detail

/// The entry of a kind and level that holds a physical address (bytes), grants these
/// permissions, and has these fields, for example host->memory_type(6) | host->global. Other fields
/// are clear, except that an entry that refers to a table is encrypted where there is a C-bit, and accessed where A is
/// for software to set in it. A shared bit may be in the address or among the fields. `user` must be what the format
/// can grant (EPT and NPT: true); user_execute counts only where the format grants it separately.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr encoded encode(kind k, unsigned level, std::uint64_t physical, permissions grant,
                                                      const F& format, const field_values& also = {}) noexcept
{
    if (!format->exists(level, k)) return {0, encode_error::no_such_entry};
    const layout& l = format->layout_at(level, k);
    if ((physical & ones(l.offset_bits_of(0) - 1, 0)) != 0) [[unlikely]]
        return {0, encode_error::address_misaligned};
    std::uint64_t entry = l.address_bits(physical);
    if (l.address_in(entry) != physical) [[unlikely]]
        return {0, encode_error::address_too_wide};
    entry |= l.value;
    if (const field next{l.mask(role::next_level)}; next.exists()) entry |= next(level - 1);
    const std::uint64_t bits = detail::bits_granting(k, level, grant, format);
    if (bits == detail::not_offered) [[unlikely]]
        return {0, encode_error::permission_not_offered};
    entry |= bits;
    if (also == 0) return {entry, encode_error::none};
    if (!also.in().contains(level, k)) return {0, encode_error::no_such_field};
    std::uint64_t given = l.permission_mask() | l.mask(role::fixed) | l.mask(role::address);
    if constexpr (requires { format->shared; }) given &= ~format->shared.mask();
    entry |= also;
    const bool right =
        (level == 1 && k == kind::leaf && detail::translates_plainly(entry, format)) || legal(entry, level, format);
    if ((also & given) != 0 || !right) return {0, encode_error::value_not_legal};
    return {entry, encode_error::none};
}

namespace detail {

/// The bits of an entry that code the size of its page. Precondition: the layout has such a size.
[[nodiscard]] constexpr std::uint64_t size_bits(const layout& l, unsigned shift) noexcept
{
    const unsigned count = shift - l.offset_bits - 1;
    return count == 0 ? 0 : ones(count - 1, 0) << l.pieces[0].at.shift();
}

}  // namespace detail

/// An entry of a page whose size is coded in it, and which entries hold it.
struct encoded_page {
    std::uint64_t entry = 0;
    encode_error error = encode_error::none;
    unsigned level = 0;
    unsigned copies_shift = 0;  ///< log2 of the entries that hold it, side by side

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == encode_error::none; }
};

/// The entry of a page of 2^shift bytes, where that is a size coded in the address (AMD-Vi), as encode(). Errors: as
/// encode(); no_such_entry where it is no such size.
template <entry_format F>
[[nodiscard]] constexpr encoded_page encode_coded(unsigned shift, std::uint64_t physical, permissions grant,
                                                  const F& format, const field_values& also = {}) noexcept
{
    const shape& s = format->shape();
    unsigned level = 1;
    while (level < s.levels && s.page_shift(level + 1) <= shift) ++level;
    const layout& l = format->layout_at(level, kind::run);
    const bool between = format->exists(level, kind::run) && l.sized && shift > s.page_shift(level) &&
                         shift < s.page_shift(level + 1) && shift < 64;
    if (!between) return {0, encode_error::no_such_entry};
    if ((physical & ones(shift - 1, 0)) != 0) return {0, encode_error::address_misaligned};
    if (shift > l.pieces[0].holds + l.pieces[0].at.width()) return {0, encode_error::address_too_wide};
    const encoded e = encode(kind::run, level, physical, grant, format, also);
    if (!e) return {0, e.error};
    return {e.entry | detail::size_bits(l, shift), encode_error::none, level, shift - s.page_shift(level)};
}

}  // namespace ptebits
