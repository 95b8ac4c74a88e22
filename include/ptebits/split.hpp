// SPDX-License-Identifier: BSL-1.0
// Splitting a large page into the entries that mean the same, and merging them back.
//
// Pure functions, but for split_live. To merge live entries: unmap() the entry that refers
// to the table, flush, merge() what the table holds now that nobody sets A or D in it any
// more, store() the leaf. So no write of the hardware is lost, and the MMU never sees a
// state that means something else.
#pragma once

#include <cstdint>

#include <ptebits/ageing.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

/// Why a page was not split, or pages not merged.
enum class split_error : std::uint8_t {
    none,
    not_a_leaf,          ///< not present, not a leaf of that level, or it breaks a rule
    no_such_entry,       ///< the format has no page of the size wanted
    bits_would_be_lost,  ///< a bit in use has no place in an entry of the other size
    not_contiguous,      ///< the pages do not follow each other, or the first is not aligned
    entries_differ,      ///< in more than A and D
    rights_above,        ///< the entry above the table takes rights away
};

[[nodiscard]] constexpr const char* name(split_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "not a leaf of this level",
                                     "no page of this size",
                                     "a bit has no place in an entry of the other size",
                                     "the pages do not follow each other",
                                     "the entries differ",
                                     "the entry above takes rights away"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// An entry of the other size, or why there is none (then 0).
struct resized {
    std::uint64_t entry = 0;
    split_error error = split_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == split_error::none; }
};

namespace detail {

/// Whether two rows have one mnemonic.
[[nodiscard]] constexpr bool same_name(const char* a, const char* b) noexcept
{
    while (*a != '\0' && *a == *b) ++a, ++b;
    return *a == *b;
}

/// A leaf's bits, address aside, in a leaf of another level. Bits keep their place where
/// they have the same role there; named ones with another place (PAT) move.
template <entry_format F>
[[nodiscard]] constexpr resized resize_leaf(std::uint64_t entry, unsigned from, unsigned to, const F& format) noexcept
{
    using description = typename F::description;
    if (diagnose(entry, from, format) || !present(entry, format) || kind_of(entry, from, format) != kind::leaf) {
        return {0, split_error::not_a_leaf};
    }
    if (!format->exists(to, kind::leaf)) return {0, split_error::no_such_entry};
    const layout& old = format->layout_at(from, kind::leaf);
    const layout& wanted = format->layout_at(to, kind::leaf);
    constexpr auto own_of_each = [](role r) { return r == role::address || r == role::fixed || r == role::written; };
    std::uint64_t left = entry & ~(old.mask(role::address) | old.mask(role::fixed) | old.mask(role::written));
    std::uint64_t result = wanted.value;
    for (unsigned r = 0; r < role_count; ++r) {
        if (own_of_each(static_cast<role>(r))) continue;
        result |= left & old.masks[r] & wanted.masks[r];
        left &= ~(old.masks[r] & wanted.masks[r]);
    }
    const auto switches = row_features<description>(format->features());
    for (const auto& a : description::rows) {
        const field at = a.bits_at(switches);
        if (*a.name == '\0' || !a.in.contains(from, kind::leaf) || (left & at.mask()) == 0) continue;
        for (const auto& b : description::rows) {
            const bool same = b.member != a.member && b.is.is == a.is.is && b.in.contains(to, kind::leaf) &&
                              a.use_at(switches, from).is == b.use_at(switches, to).is && same_name(a.name, b.name);
            if (!same) continue;
            result |= b.bits_at(switches)(at.get(left));
            left &= ~at.mask();
        }
    }
    if (left != 0) return {0, split_error::bits_would_be_lost};
    return {result, split_error::none};
}

}  // namespace detail

/// Entry `index` of the table, one level down, that means the same as a large leaf:
/// permissions, A, D, memory type and software bits as they are.
/// Precondition: index is below the entries of such a table.
template <entry_format F>
[[nodiscard]] constexpr resized split(std::uint64_t leaf, unsigned level, unsigned index, const F& format) noexcept
{
    resized part = detail::resize_leaf(leaf, level, level - 1, format);
    if (!part) return part;
    const std::uint64_t first = format->layout_at(level, kind::leaf).address_in(leaf);
    const std::uint64_t physical = first + (std::uint64_t{index} << format->shape().page_shift(level - 1));
    const layout& l = format->layout_at(level - 1, kind::leaf);
    part.entry |= l.address_bits(physical);
    if (l.address_in(part.entry) != physical) return {0, split_error::bits_would_be_lost};
    return part;
}

/// The large leaf, of `level`, that means the same as the entries of the table below it:
/// young or dirty if any of them is. `entries[0..2^index bits)`; `above` is the entry, of
/// `level`, that refers to their table: it must grant everything.
template <slot_word Word, entry_format F>
[[nodiscard]] constexpr resized merge(const Word* entries, std::uint64_t above, unsigned level,
                                      const F& format) noexcept
{
    if (permissions_of(above, level, format) != permissions{}) return {0, split_error::rights_above};
    const unsigned small = level - 1;
    resized whole = detail::resize_leaf(entries[0], small, level, format);
    if (!whole) return whole;
    const layout& l = format->layout_at(small, kind::leaf);
    const layout& large = format->layout_at(level, kind::leaf);
    const std::uint64_t flags = l.mask(role::accessed) | l.mask(role::dirty);
    const std::uint64_t first = l.address_in(entries[0]);
    const std::uint64_t alike = ~(flags | l.mask(role::address));
    const unsigned count = 1U << format->shape().index_bits_at(small);
    for (unsigned i = 0; i < count; ++i) {
        if (l.address_in(entries[i]) != first + (std::uint64_t{i} << format->shape().page_shift(small))) {
            return {0, split_error::not_contiguous};
        }
        if (((entries[i] ^ entries[0]) & alike) != 0) return {0, split_error::entries_differ};
        whole.entry |= entries[i] & flags;
    }
    whole.entry |= large.address_bits(first);
    if (large.address_in(whole.entry) != first) return {0, split_error::not_contiguous};
    return whole;
}

/// Puts a table in the place of a live large leaf: fills `table` (not live yet, one level
/// below, at physical address `table_address`) with the entries that mean the same, then
/// exchanges the leaf for an entry that refers to it; starts over if A or D were set
/// meanwhile. The translations before and after are the same, so the range may be flushed
/// later, but before one of the new entries is changed. `also`: further bits of the entry
/// that refers to the table, an encryption bit or software bits. Order: acq_rel.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr split_error split_live(Word& slot, unsigned level, Word* table, std::uint64_t table_address,
                                               const F& format, std::uint64_t also = 0, Access access = {}) noexcept
{
    encoded upper = encode(kind::table, level, table_address, {}, format);
    upper.entry |= also;
    if (!upper || !legal(upper.entry, level, format)) return split_error::no_such_entry;
    const unsigned count = 1U << format->shape().index_bits_at(level - 1);
    Word leaf = access.load(slot);
    do {
        for (unsigned i = 0; i < count; ++i) {
            const resized part = split(leaf, level, i, format);
            if (!part) return part.error;
            access.store(table[i], static_cast<Word>(part.entry));
        }
        // A leaf that was used was reached through this entry.
        const layout& above = format->layout_at(level, kind::table);
        const bool used = (leaf & format->layout_at(level, kind::leaf).mask(role::accessed)) != 0;
        if (used) upper.entry |= above.mask(role::accessed);
    } while (!access.compare_exchange(slot, leaf, static_cast<Word>(upper.entry)));
    return split_error::none;
}

}  // namespace ptebits
