// SPDX-License-Identifier: BSL-1.0
// Splitting a large page into the entries that mean the same, and merging them back.
//
// Three ways:
//   split(), merge()            values alone
//   begin_..., finish_...       a live entry: it is absent while its page changes size
//   split_live()                a live leaf in one step, on CPUs that tolerate a page in two sizes
// Some CPUs may stop the machine if their TLBs hold a page in two sizes: AMD erratum 383, Intel's
// instruction-fetch machine check on a page size change. There only the second way is right, and the format's
// feature break_before_resize says so. No function here flushes: the caller does, between the steps.
#pragma once

#include <cstdint>

#include <ptebits/ageing.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/no_access.hpp>
#include <ptebits/privacy.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

/// Why a page was not split, or pages not merged.
enum class split_error : std::uint8_t {
    none,
    not_a_leaf,          ///< not present, not a leaf of that level, or it breaks a rule
    not_a_table,         ///< the entry above does not refer to a table, or breaks a rule
    no_such_entry,       ///< the format has no page of the size wanted
    bits_would_be_lost,  ///< a bit that is set has no place in an entry of the other size, or in an absent one
    not_contiguous,      ///< the pages do not follow each other, or the first is not aligned
    entries_differ,      ///< in more than A and D
    rights_above,        ///< the entry above the table takes rights away that the leaves have
    must_be_absent,      ///< the format has break_before_resize: use begin_split()
    changed,             ///< others changed the entry between the steps
};

[[nodiscard]] constexpr const char* name(split_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "not a leaf of this level",
                                     "the entry above refers to no table",
                                     "no page of this size",
                                     "a bit has no place in an entry of the other size",
                                     "the pages do not follow each other",
                                     "the entries differ",
                                     "the entry above takes rights away",
                                     "a live page must be absent while its size changes",
                                     "the entry was changed meanwhile"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(split_error::changed) + 1);
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

/// The bits of a leaf, or of an entry of a run, without the address, in a leaf of another level. Bits keep their place
/// where they have the same role there; named fields that have another place there (PAT) move.
template <entry_format F>
[[nodiscard]] constexpr resized resize_leaf(std::uint64_t entry, unsigned from, unsigned to, const F& format,
                                            kind is = kind::leaf) noexcept
{
    using description = typename F::description;
    if (diagnose(entry, from, format) || !present(entry, format) || kind_of(entry, from, format) != is) {
        return {0, split_error::not_a_leaf};
    }
    if (!format->exists(to, kind::leaf)) return {0, split_error::no_such_entry};
    const layout& old = format->layout_at(from, is);
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
        if (*a.name == '\0' || !a.in.contains(from, is) || (left & at.mask()) == 0) continue;
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

/// Whether an entry refers to a table and breaks no rule.
template <entry_format F>
[[nodiscard]] constexpr bool is_table(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return kind_of(entry, level, format) == kind::table && legal(entry, level, format);
}

/// Whether a leaf of the table below `level` allows the same with the entry above it as alone.
template <entry_format F>
[[nodiscard]] constexpr bool rights_kept(std::uint64_t leaf, std::uint64_t above, unsigned level,
                                         const F& format) noexcept
{
    permission_fold alone;
    alone.add(leaf, format->layout_at(level - 1, kind::leaf), format);
    permission_fold both = alone;
    const layout& table = format->layout_at(level, kind::table);
    both.add(above, table, format);
    // What lets a page be written without its write permission goes by that of the entries above.
    const bool written_otherwise = (leaf & format->other_writes()) != 0 && !table.grants(above, role::write);
    return both.result(format) == alone.result(format) && !written_otherwise;
}

/// The A and D of a leaf. Where D makes a read-only page one of a shadow stack it is no flag.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t flags_of_leaf(std::uint64_t leaf, const layout& l, const F& format) noexcept
{
    const bool dirty_is_flag = !format->shadow_stacks() || l.grants(leaf, role::write);
    return l.mask(role::accessed) | (dirty_is_flag ? l.mask(role::dirty) : 0);
}

/// merge() of the entries that `entry_at(index)` gives.
template <class EntryAt, entry_format F>
[[nodiscard]] constexpr resized merge_entries(EntryAt entry_at, std::uint64_t above, unsigned level,
                                              const F& format) noexcept
{
    if (!is_table(above, level, format)) return {0, split_error::not_a_table};
    const unsigned small = level - 1;
    const std::uint64_t one = entry_at(0U);
    resized whole = resize_leaf(one, small, level, format);
    if (!whole) return whole;
    if (!rights_kept(one, above, level, format)) return {0, split_error::rights_above};
    // The leaves are not reached by HLAT paging.
    if (ends_hlat(above, format)) return {0, split_error::bits_would_be_lost};
    const layout& l = format->layout_at(small, kind::leaf);
    const layout& large = format->layout_at(level, kind::leaf);
    const std::uint64_t flags = flags_of_leaf(one, l, format);
    const std::uint64_t first = l.address_in(one);
    // Private and shared pages differ, also where the bit that tells them apart is part of the address.
    const std::uint64_t alike = ~(flags | l.mask(role::address)) | privacy_of(format).at.mask();
    const unsigned count = 1U << format->shape().index_bits_at(small);
    for (unsigned i = 0; i < count; ++i) {
        const std::uint64_t entry = entry_at(i);
        if (((entry ^ one) & alike) != 0) return {0, split_error::entries_differ};
        if (l.address_in(entry) != first + (std::uint64_t{i} << format->shape().page_shift(small))) {
            return {0, split_error::not_contiguous};
        }
        whole.entry |= entry & flags;
    }
    whole.entry |= large.address_bits(first);
    if (large.address_in(whole.entry) != first) return {0, split_error::not_contiguous};
    return whole;
}

/// The leaf that an absent entry keeps, and back: of access_tracking and no_access_kept.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool keeps_leaf(std::uint64_t entry, const access_tracking<F, S>& by) noexcept
{
    return is_tracked(entry, by);
}
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool keeps_leaf(std::uint64_t entry, const no_access_kept<F, S>& by) noexcept
{
    return is_no_access(entry, by);
}
template <entry_format F, unsigned S>
[[nodiscard]] constexpr std::uint64_t kept_leaf(std::uint64_t entry, const access_tracking<F, S>& by) noexcept
{
    return by.restored(entry);
}
template <entry_format F, unsigned S>
[[nodiscard]] constexpr std::uint64_t kept_leaf(std::uint64_t entry, const no_access_kept<F, S>& by) noexcept
{
    return by.given(entry);
}
/// Precondition: a legal leaf.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr resized keeping(std::uint64_t leaf, unsigned, const access_tracking<F, S>& by) noexcept
{
    if ((leaf & by.used_mask()) != 0) return {0, split_error::bits_would_be_lost};
    return {by.tracked(leaf), split_error::none};
}
template <entry_format F, unsigned S>
[[nodiscard]] constexpr resized keeping(std::uint64_t leaf, unsigned level, const no_access_kept<F, S>& by) noexcept
{
    const no_access_entry kept = take_access(leaf, level, by);
    if (!kept) return {0, split_error::bits_would_be_lost};
    return {kept.entry, split_error::none};
}

}  // namespace detail

/// How absent entries keep a leaf: track_accesses(), keep_without_access().
template <class By>
concept leaf_keeper = requires(const By& by, std::uint64_t entry) {
    by.format();
    detail::keeps_leaf(entry, by);
    detail::kept_leaf(entry, by);
    detail::keeping(entry, 1U, by);
};

namespace detail {

/// The entries of leaves of one size, one after the other.
class leaves_in_order {
public:
    PTEBITS_INLINE constexpr leaves_in_order(std::uint64_t plain, std::uint64_t physical, unsigned shift,
                                             const layout& l) noexcept
        : layout_(l), plain_(plain), physical_(physical), size_(std::uint64_t{1} << shift)
    {
        entry_ = plain_ | l.address_bits(physical);
        // An address in one piece grows with the entry.
        if (!l.pieces[1].at.exists()) step_ = l.address_bits(size_);
    }
    [[nodiscard]] constexpr std::uint64_t entry() const noexcept { return entry_; }
    PTEBITS_INLINE constexpr void next() noexcept
    {
        if (step_ != 0) [[likely]] {
            entry_ += step_;
        } else {
            physical_ += size_;
            entry_ = plain_ | layout_.address_bits(physical_);
        }
    }

private:
    const layout& layout_;
    std::uint64_t plain_;
    std::uint64_t physical_;
    std::uint64_t size_;
    std::uint64_t entry_ = 0;
    std::uint64_t step_ = 0;  ///< what is added to an entry for the next one; 0: none can be
};

/// The entries that mean the same as a large leaf, one level down.
template <entry_format F>
class leaf_parts {
public:
    constexpr leaf_parts(std::uint64_t leaf, unsigned level, const F& format) noexcept
        : plain_(resize_leaf(leaf, level, level - 1, format))
    {
        if (!plain_) return;
        const shape& s = format->shape();
        shift_ = s.page_shift(level - 1);
        layout_ = &format->layout_at(level - 1, kind::leaf);
        first_ = format->layout_at(level, kind::leaf).address_in(leaf);
        // All bits that any of the addresses has.
        const std::uint64_t all = first_ | (ones(s.index_bits_at(level - 1) - 1U, 0) << shift_);
        if (layout_->address_in(plain_.entry | layout_->address_bits(all)) != all) {
            plain_ = {0, split_error::bits_would_be_lost};
        }
    }
    [[nodiscard]] constexpr split_error error() const noexcept { return plain_.error; }

    [[nodiscard]] constexpr resized at(std::uint64_t index) const noexcept
    {
        if (!plain_) return plain_;
        return {plain_.entry | layout_->address_bits(first_ + (index << shift_)), split_error::none};
    }
    /// All of them, from the first. Precondition: no error.
    [[nodiscard]] constexpr leaves_in_order in_order() const noexcept
    {
        return {plain_.entry, first_, shift_, *layout_};
    }

private:
    resized plain_;  // without the address
    const layout* layout_ = nullptr;
    unsigned shift_ = 0;
    std::uint64_t first_ = 0;
};

}  // namespace detail

/// Entry `index` of the table, one level down, that means the same as a large leaf:
/// permissions, A, D, memory type and software bits as they are.
/// Precondition: index is below the entries of such a table.
template <entry_format F>
[[nodiscard]] constexpr resized split(std::uint64_t leaf, unsigned level, unsigned index, const F& format) noexcept
{
    return detail::leaf_parts(leaf, level, format).at(index);
}

/// The same for an absent entry that keeps a leaf: each part is an absent entry that keeps its leaf.
template <leaf_keeper By>
[[nodiscard]] constexpr resized split(std::uint64_t entry, unsigned level, unsigned index, const By& by) noexcept
{
    if (!detail::keeps_leaf(entry, by)) return {0, split_error::not_a_leaf};
    const resized part = split(detail::kept_leaf(entry, by), level, index, by.format());
    return part ? detail::keeping(part.entry, level - 1, by) : part;
}

/// The large leaf, of `level`, that means the same as the entries of the table below it:
/// young or dirty if any of them is. `entries[0..2^index bits)`; `above` is the entry, of
/// `level`, that refers to their table: it must not take away what the leaves grant.
/// Errors: split_error; absent entries, tracked ones too, are not_a_leaf.
template <slot_word Word, entry_format F>
[[nodiscard]] constexpr resized merge(const Word* entries, std::uint64_t above, unsigned level,
                                      const F& format) noexcept
{
    return detail::merge_entries([&](unsigned i) -> std::uint64_t { return entries[i]; }, above, level, format);
}

/// The same for absent entries that each keep a leaf: the result keeps the large leaf. Precondition: the
/// leaves were flushed, so that the hardware sets no A or D. Errors: as above, and entries_differ if some
/// are present.
template <slot_word Word, leaf_keeper By>
[[nodiscard]] constexpr resized merge(const Word* entries, std::uint64_t above, unsigned level, const By& by) noexcept
{
    if (!detail::keeps_leaf(entries[0], by)) return {0, split_error::not_a_leaf};
    const auto leaf_at_index = [&](unsigned i) {
        // An entry that keeps no leaf does not agree with the first.
        return detail::keeps_leaf(entries[i], by) ? detail::kept_leaf(entries[i], by) : by.format()->empty();
    };
    const resized whole = detail::merge_entries(leaf_at_index, above, level, by.format());
    return whole ? detail::keeping(whole.entry, level, by) : whole;
}

namespace detail {

/// Fills a table, not live yet, with the entries that mean the same as a large leaf, and gives the
/// entry that refers to it.
template <slot_word Word, entry_format F, slot_access Access>
[[nodiscard]] constexpr resized fill_table(Word* table, std::uint64_t table_address, std::uint64_t leaf, unsigned level,
                                           const F& format, std::uint64_t also, Access access) noexcept
{
    const encoded made = encode(kind::table, level, table_address, {}, format);
    resized upper{made.entry | also, split_error::none};
    if (!made || !is_table(upper.entry, level, format)) return {0, split_error::no_such_entry};
    const leaf_parts parts(leaf, level, format);
    if (parts.error() != split_error::none) return {0, parts.error()};
    const unsigned count = 1U << format->shape().index_bits_at(level - 1);
    leaves_in_order part = parts.in_order();
    for (unsigned i = 0; i < count; ++i, part.next()) access.store(table[i], static_cast<Word>(part.entry()));
    // If the leaf was used, the entry above its parts counts as used too.
    const bool used = (leaf & format->layout_at(level, kind::leaf).mask(role::accessed)) != 0;
    if (used) upper.entry |= format->layout_at(level, kind::table).mask(role::accessed);
    return upper;
}

}  // namespace detail

/// Puts a table in the place of a live large leaf: fills `table` (not live yet, one level
/// below, at physical address `table_address`) with the entries that mean the same, then
/// exchanges the leaf for an entry that refers to it; starts over if A or D were set
/// meanwhile. `also`: further bits of the entry that refers to the table, which is encrypted if the format
/// has an encryption bit. Order: acq_rel. Flush: the range, before one of the new entries is changed: until then both
/// sizes translate alike. Errors: as split(), and must_be_absent where CPUs do not tolerate a page in two sizes.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr split_error split_live(Word& slot, unsigned level, Word* table, std::uint64_t table_address,
                                               const F& format, std::uint64_t also = 0, Access access = {}) noexcept
{
    if (format->break_before_resize()) return split_error::must_be_absent;
    Word leaf = access.load(slot);
    for (;;) {
        const resized upper = detail::fill_table(table, table_address, leaf, level, format, also, access);
        if (!upper) return upper.error;
        if (access.compare_exchange(slot, leaf, static_cast<Word>(upper.entry))) return split_error::none;
    }
}

// ---- changing the size of a live page through an absent entry

/// A live entry that was made absent while its page changes size.
template <slot_word Word>
struct taken_entry {
    Word before = 0;     ///< the entry as it was last, with the A and D that the hardware set until then
    Word meanwhile = 0;  ///< what the slot holds until the size is changed
    Word stray = 0;      ///< bits of it that the CPU may have set
    split_error error = split_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == split_error::none; }
};

namespace detail {

/// Takes a live entry away if `check(entry)` finds no error.
template <slot_word Word, entry_format F, class Check, slot_access Access>
[[nodiscard]] constexpr taken_entry<Word> take(Word& slot, std::uint64_t meanwhile, const F& format, Check check,
                                               Access access) noexcept
{
    require_width<Word>(format);
    if (check_absent(meanwhile, format) != absent_error::none) broken::value_is_not_one_of_absent_entries();
    taken_entry<Word> taken{access.load(slot), slot_mask<Word>(meanwhile), slot_mask<Word>(stray_bits(format))};
    do {
        taken.error = check(taken.before);
    } while (taken && !access.compare_exchange(slot, taken.before, taken.meanwhile));
    return taken;
}

/// What an empty slot holds, in the place of a frozen marker.
template <entry_format F>
[[nodiscard]] constexpr runtime_marker empty_marker(const F& format) noexcept
{
    return {format->empty(), stray_bits(format)};
}

/// Puts an entry where one was taken away; if it could not be made, the entry that was there.
template <slot_word Word, slot_access Access>
[[nodiscard]] constexpr split_error put(Word& slot, const taken_entry<Word>& taken, const resized& entry,
                                        Access access) noexcept
{
    const Word wanted = entry ? static_cast<Word>(entry.entry) : taken.before;
    // A and D that some CPUs set in an absent entry are no change.
    Word expected = access.load(slot);
    while (((expected ^ taken.meanwhile) & ~taken.stray) == 0) {
        if (access.compare_exchange(slot, expected, wanted)) return entry.error;
    }
    return split_error::changed;
}

}  // namespace detail

/// First step of splitting a live leaf of a level: makes the slot empty. Then the caller flushes the
/// whole page on all CPUs and calls finish_split(). Between the steps accesses fault, and the fault
/// handler must wait; a frozen marker in place of the empty slot tells it so. Order: acq_rel.
/// Flush: always, before the second step. Errors: as split(), the slot is unchanged.
/// AMD erratum 383; Intel SDM volume 3, "Details of TLB Use".
template <slot_word Word, entry_format F, marker_of_frozen Marker, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr taken_entry<Word> begin_split(Word& slot, unsigned level, const F& format, const Marker& marker,
                                                      Access access = {}) noexcept
{
    return detail::take(
        slot, marker.value, format, [&](std::uint64_t leaf) { return split(leaf, level, 0, format).error; }, access);
}
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr taken_entry<Word> begin_split(Word& slot, unsigned level, const F& format,
                                                      Access access = {}) noexcept
{
    return begin_split(slot, level, format, detail::empty_marker(format), access);
}

/// Second step: fills the table as split_live() does, from the leaf that was taken, and puts the entry
/// that refers to it into the slot. Precondition: begin_split() gave `taken` without an error, and the
/// caller flushed. Order: acq_rel. Flush: none. Errors: the leaf is back as it was; but with
/// split_error::changed the slot holds what others put there.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr split_error finish_split(Word& slot, const taken_entry<Word>& taken, unsigned level,
                                                 Word* table, std::uint64_t table_address, const F& format,
                                                 std::uint64_t also = 0, Access access = {}) noexcept
{
    const resized upper = detail::fill_table(table, table_address, taken.before, level, format, also, access);
    return detail::put(slot, taken, upper, access);
}

/// First step of merging the live leaves of a table: makes the entry of `level` that refers to it
/// absent. Then the caller flushes all that the table maps on all CPUs, after which nobody sets A or D
/// in the table, and calls finish_merge(). Otherwise as begin_split().
template <slot_word Word, entry_format F, marker_of_frozen Marker, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr taken_entry<Word> begin_merge(Word& slot, unsigned level, const F& format, const Marker& marker,
                                                      Access access = {}) noexcept
{
    const auto check = [&](std::uint64_t entry) {
        return detail::is_table(entry, level, format) ? split_error::none : split_error::not_a_table;
    };
    return detail::take(slot, marker.value, format, check, access);
}
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr taken_entry<Word> begin_merge(Word& slot, unsigned level, const F& format,
                                                      Access access = {}) noexcept
{
    return begin_merge(slot, level, format, detail::empty_marker(format), access);
}

/// Second step: merges what the table holds and puts the large leaf into the slot. Precondition:
/// begin_merge() gave `taken` without an error, and the caller flushed. Order: acq_rel. Flush: none.
/// Errors: as merge(), the table is back as it was; and split_error::changed as in finish_split().
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr split_error finish_merge(Word& slot, const taken_entry<Word>& taken, unsigned level,
                                                 const Word* table, const F& format, Access access = {}) noexcept
{
    const auto entry_at = [&](unsigned i) -> std::uint64_t { return access.load(table[i]); };
    return detail::put(slot, taken, detail::merge_entries(entry_at, taken.before, level, format), access);
}

}  // namespace ptebits
