// SPDX-License-Identifier: BSL-1.0
// Whole tables: one operation on every slot, with one bit per slot as the result.
//
// Every slot keeps the guarantees of the scalar operation: changes that hardware or another
// thread makes meanwhile are kept, and each change is reported by one call only.
// The operation is atomic for each slot, not for the table: slots are read one after another,
// in no order.
//
// A table is an array, or an object with data() and size(), as std::span. Where its size is not
// known at compile time, the bitmap has 512 slots, or as many as the caller says:
// age_table<1024>(slots, host). An optional bitmap before the access policy selects slots; others are
// neither changed nor reported, and 64 in a row that are not selected are not even read. The level of the
// table, behind the access policy, is optional: see ageing.hpp.
//
// Aligned tables of 8-byte slots that are reached by atomic_access are read 64 slots at a time, and
// young neighbours are cleared in pairs. Other tables are read slot by slot.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/ageing.hpp>
#include <ptebits/detail/block.hpp>

namespace ptebits {

/// One bit for each slot of a table.
template <std::size_t Slots>
class slot_bitmap {
public:
    static constexpr std::size_t word_count = (Slots + 63) / 64;

    /// The bitmap of all slots.
    [[nodiscard]] static constexpr slot_bitmap all() noexcept
    {
        slot_bitmap map;
        for (std::uint64_t& word : map.words_) word = ~std::uint64_t{0};
        if constexpr (Slots % 64 != 0) map.words_[word_count - 1] = (std::uint64_t{1} << Slots % 64) - 1;
        return map;
    }

    /// Precondition of all three: slot < Slots.
    constexpr void set(std::size_t slot) noexcept { words_[slot / 64] |= std::uint64_t{1} << slot % 64; }
    constexpr void clear(std::size_t slot) noexcept { words_[slot / 64] &= ~(std::uint64_t{1} << slot % 64); }
    [[nodiscard]] constexpr bool test(std::size_t slot) const noexcept
    {
        return (words_[slot / 64] >> slot % 64 & 1) != 0;
    }

    /// The bits of slots 64 * n up. Precondition: n < word_count, no bits above the last slot.
    [[nodiscard]] constexpr std::uint64_t word(std::size_t n) const noexcept { return words_[n]; }
    constexpr void set_word(std::size_t n, std::uint64_t bits) noexcept { words_[n] = bits; }

    [[nodiscard]] constexpr bool any() const noexcept
    {
        for (const std::uint64_t word : words_) {
            if (word != 0) return true;
        }
        return false;
    }

    /// Number of bits set. (std::popcount would need libgcc in a kernel.)
    [[nodiscard]] constexpr std::size_t count() const noexcept
    {
        std::size_t n = 0;
        for (std::uint64_t word : words_) {
            // Pairs, nibbles and bytes of counts, then their sum in the top byte.
            word -= word >> 1 & 0x5555'5555'5555'5555;
            word = (word & 0x3333'3333'3333'3333) + (word >> 2 & 0x3333'3333'3333'3333);
            n += ((word + (word >> 4)) & 0x0f0f'0f0f'0f0f'0f0f) * 0x0101'0101'0101'0101 >> 56;
        }
        return n;
    }

    /// Calls function(slot) for each bit set, in order.
    template <class Function>
    constexpr void for_each(Function&& function) const
    {
        for (std::size_t n = 0; n < word_count; ++n) {
            for (std::uint64_t left = words_[n]; left != 0; left &= left - 1) {
                function(64 * n + static_cast<std::size_t>(std::countr_zero(left)));
            }
        }
    }

    /// Ors these bits into a larger bitmap of 64-bit words, such as a dirty log, slot 0 at bit
    /// `offset`. Writes only words that get a bit. If others write the same words, pass
    /// atomic_access<>. Precondition: the bitmap has a bit for every bit set.
    template <slot_access Access = plain_access>
    constexpr void or_into(std::uint64_t* bitmap, std::size_t offset, Access access = {}) const noexcept
    {
        const auto put = [&](std::size_t n, std::uint64_t bits) {
            if (bits != 0) static_cast<void>(access.fetch_or(bitmap[n], bits));
        };
        const unsigned shift = offset % 64;
        for (std::size_t n = 0; n < word_count; ++n) {
            put(offset / 64 + n, words_[n] << shift);
            if (shift != 0) put(offset / 64 + n + 1, words_[n] >> (64 - shift));
        }
    }

    constexpr slot_bitmap& operator|=(const slot_bitmap& other) noexcept
    {
        for (std::size_t n = 0; n < word_count; ++n) words_[n] |= other.words_[n];
        return *this;
    }

    [[nodiscard]] constexpr bool operator==(const slot_bitmap&) const = default;

private:
    std::uint64_t words_[word_count] = {};
};

namespace broken {
[[noreturn]] inline void table_has_more_slots_than_the_bitmap() noexcept { stop(); }
}  // namespace broken

// ---- what is done to a slot: a flag is cleared if it is set in an entry that translates

namespace detail {

/// age() by a format, masks or an access_tracking (which has no flag to look for).
template <class By>
struct ageing {
    const By& by;

    [[nodiscard]] static constexpr bool by_flag() noexcept { return true; }
    [[nodiscard]] constexpr field flag() const noexcept
        requires entry_masks<By>
    {
        require_accessed(by);
        return by->accessed;
    }
    template <slot_word Word, slot_access Access>
    constexpr bool operator()(Word& slot, Access access, unsigned level) const noexcept
    {
        return age(slot, by, access, level);
    }
};

/// write_protect().
template <class By>
struct write_protecting {
    const By& by;

    [[nodiscard]] constexpr const layout& page() const noexcept { return by->layout_at(1, kind::leaf); }
    /// Whether slots whose flag is set are to be changed; false where a set bit denies writes.
    [[nodiscard]] constexpr bool by_flag() const noexcept
    {
        return (flag().mask() & page().denying) == 0 && writes_by_one_bit(by);
    }
    [[nodiscard]] constexpr field flag() const noexcept { return field{page().mask(role::write)}; }
    template <slot_word Word, slot_access Access>
    constexpr bool operator()(Word& slot, Access access, unsigned level) const noexcept
    {
        return write_protect(slot, by, access, level);
    }
};

/// harvest_dirty() by a format or an access_tracking (which has no single flag to look for);
/// clear_dirty() by masks, which have no write permission to take.
template <class By>
struct dirty_harvesting {
    const By& by;

    [[nodiscard]] constexpr bool by_flag() const noexcept
    {
        if constexpr (!entry_format<By>) {
            return true;
        } else {
            const bool one_bit = by->dirty.exists() || dirty_modifier_of(by) != 0 || writes_by_one_bit(by);
            return one_bit && (flag().mask() & by->layout_at(1, kind::leaf).denying) == 0;
        }
    }
    [[nodiscard]] constexpr field flag() const noexcept
        requires entry_masks<By>
    {
        if constexpr (!entry_format<By>) {
            require_dirty(by);
            return by->dirty;
        } else {
            return by->dirty.exists() ? static_cast<field>(by->dirty) : write_protecting<By>{by}.flag();
        }
    }
    template <slot_word Word, slot_access Access>
    constexpr bool operator()(Word& slot, Access access, unsigned level) const noexcept
    {
        if constexpr (entry_masks<By> && !entry_format<By>) {
            return clear_dirty(slot, by, access, level);
        } else {
            return harvest_dirty(slot, by, access, level);
        }
    }
};

/// Whether slots of 8 bytes are one block that look_at_block() takes.
template <slot_word Word>
[[nodiscard]] constexpr bool is_block(const Word* slots, std::size_t count) noexcept
{
    if (count != block_slots || std::is_constant_evaluated()) return false;
    return reinterpret_cast<std::uintptr_t>(slots) % 64 == 0;
}

/// Slots of a table from slot 64 * n on, at most 64.
[[nodiscard]] constexpr std::size_t slots_in_block(std::size_t slots, std::size_t n) noexcept
{
    if (slots % block_slots == 0) return block_slots;
    return slots - n * block_slots < block_slots ? slots - n * block_slots : block_slots;
}

/// Does an operation to those of 64 slots that are in `look_at`, one by one. Returns where it was done.
template <slot_word Word, class Operation, slot_access Access>
PTEBITS_NOINLINE constexpr std::uint64_t clear_each(Word* slots, std::uint64_t look_at, const Operation& clear,
                                                    Access access, unsigned level) noexcept
{
    // Taken as done, unless it turns out otherwise: the loop is short that way.
    std::uint64_t done = look_at;
    for (std::uint64_t left = look_at; left != 0; left &= left - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(left));
        if (!clear(slots[i], access, level)) done &= ~(std::uint64_t{1} << i);
    }
    return done;
}

/// Does an operation by a flag to the slots of a block that are in `found`. Returns where it was done.
/// A function of its own, so that the code that finds the slots stays short.
template <slot_word Word, class Operation, slot_access Access>
PTEBITS_NOINLINE std::uint64_t clear_found(Word* slots, std::uint64_t found, field flagged, const Operation& clear,
                                           Access access, unsigned level) noexcept
{
    const unsigned shift = flagged.shift();
    const Word flag = static_cast<Word>(flagged.mask());
    const auto wanted = [&](Word entry) { return (entry & flag) != 0 && translates_plainly(entry, clear.by); };
    // Most entries are alike, in all bits that count, to one that was judged before.
    const Word judged = static_cast<Word>(bits_judged(clear.by) | flag);
    Word like = access.load(slots[std::countr_zero(found)]);
    if (level > 1 || !wanted(like)) return clear_each(slots, found, clear, access, level);

    // Taken as done, unless it turns out otherwise: the loops are short that way.
    std::uint64_t done = found;
    // Changes a pair by one exchange, if the scalar operation would change both and both stay as
    // they were read.
    std::uint64_t pairs = found & found >> 1 & 0x5555'5555'5555'5555;
    std::uint64_t left = found & ~(pairs | pairs << 1);
    for (; pairs != 0; pairs &= pairs - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(pairs));
        Word* const pair = slots + i;
        const Word before[2] = {access.load(pair[0]), access.load(pair[1])};
        if ((((before[0] ^ like) | (before[1] ^ like)) & judged) != 0) [[unlikely]] {
            if (!wanted(before[0]) || !wanted(before[1])) {
                left |= std::uint64_t{3} << i;
                continue;
            }
            like = before[0];
        }
        const Word after[2] = {before[0] & ~flag, before[1] & ~flag};
        if (!access.compare_exchange_pair(pair, before, after)) [[unlikely]]
            left |= std::uint64_t{3} << i;
    }
    std::uint64_t others = 0;
    for (; left != 0; left &= left - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(left));
        if (((access.load(slots[i]) ^ like) & judged) != 0) {
            others |= std::uint64_t{1} << i;
        } else if (!access.test_and_clear(slots[i], shift)) {
            done &= ~(std::uint64_t{1} << i);
        }
    }
    return others == 0 ? done : (done & ~others) | clear_each(slots, others, clear, access, level);
}

/// Does an operation to those of `count` slots, at most 64, that are in `look_at`: as a block if they are one.
/// Inlined by force, and what it calls is not, so that a block without anything to do is only read.
template <slot_word Word, class Operation, slot_access Access>
PTEBITS_INLINE constexpr std::uint64_t clear_in_block(Word* slots, std::size_t count, std::uint64_t look_at,
                                                      const Operation& clear, Access access, unsigned level) noexcept
{
    if (look_at == 0) return 0;
    if constexpr (several_at_once<Access> && sizeof(Word) == 8 && requires { clear.flag(); }) {
        if (clear.by_flag() && is_block(slots, count)) {
            const field flag = clear.flag();
            if (!flag.exists()) return 0;
            const std::uint64_t found = look_at_block(slots, clear) & look_at;
            return found != 0 ? clear_found(slots, found, flag, clear, access, level) : 0;
        }
    }
    return clear_each(slots, look_at, clear, access, level);
}

// ---- what is a table

/// Slots side by side: an array, or an object with data() and size().
template <class Table>
[[nodiscard]] constexpr auto* slots_of(Table& table) noexcept
{
    if constexpr (std::is_array_v<Table>) {
        return +table;
    } else {
        return table.data();
    }
}
template <class Table>
[[nodiscard]] constexpr std::size_t slot_count(const Table& table) noexcept
{
    if constexpr (std::is_array_v<Table>) {
        return std::extent_v<Table>;
    } else {
        return static_cast<std::size_t>(table.size());
    }
}

/// Number of slots of a table, where its type says it: an array, std::array, or a std::span of static
/// extent.
template <class Table>
[[nodiscard]] consteval std::size_t constant_size() noexcept
{
    if constexpr (std::is_array_v<Table>) {
        return std::extent_v<Table>;
    } else if constexpr (requires { typename std::bool_constant<(Table::extent == 0)>; }) {
        return Table::extent == static_cast<std::size_t>(-1) ? 0 : Table::extent;
    } else if constexpr (requires { typename std::bool_constant<(Table{}.size() == 0)>; }) {
        return Table{}.size();  // 0: one that can grow
    } else {
        return 0;
    }
}

/// Number of slots in the bitmap of a table: what the caller says, else the table's own, else 512.
template <std::size_t Slots, class Table>
inline constexpr std::size_t bitmap_size = Slots != 0                    ? Slots
                                           : constant_size<Table>() != 0 ? constant_size<Table>()
                                                                         : 512;

/// What may be aged as a table.
template <class Table>
concept slot_table =
    std::is_array_v<std::remove_reference_t<Table>> || requires(std::remove_reference_t<Table>& table) {
        *table.data();
        table.size();
    };

/// Takes the place of a bitmap in which every slot is set.
struct every_slot {
    [[nodiscard]] static constexpr std::uint64_t word(std::size_t) noexcept { return ~std::uint64_t{0}; }
};

/// Does an operation to the slots of a table that are in `look_at`.
template <std::size_t Slots, class Table, class LookAt, class Operation, slot_access Access>
constexpr slot_bitmap<Slots> clear_in_table(Table& table, const LookAt& look_at, const Operation& clear, Access access,
                                            unsigned level) noexcept
{
    const std::size_t size = slot_count(table);
    if (size > Slots) broken::table_has_more_slots_than_the_bitmap();
    slot_bitmap<Slots> done;
    for (std::size_t n = 0; n * block_slots < size; ++n) {
        auto* const slots = slots_of(table) + n * block_slots;
        const std::size_t count = slots_in_block(size, n);
        const std::uint64_t here = count == block_slots ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
        done.set_word(n, clear_in_block(slots, count, look_at.word(n) & here, clear, access, level));
    }
    return done;
}

}  // namespace detail

// ---- operations on a table

/// Ages the slots of a table. Returns which were young. `by` is a format, masks or an
/// access_tracking. Guarantees, precondition and order of each slot: age().
template <std::size_t Slots = 0, detail::slot_table Table, class By, slot_access Access = atomic_access<>>
constexpr auto age_table(Table&& table, const By& by, Access access = {}, unsigned level = 0) noexcept
{
    constexpr std::size_t bits = detail::bitmap_size<Slots, std::remove_cvref_t<Table>>;
    return detail::clear_in_table<bits>(table, detail::every_slot{}, detail::ageing<By>{by}, access, level);
}
template <detail::slot_table Table, class By, std::size_t Slots, slot_access Access = atomic_access<>>
constexpr slot_bitmap<Slots> age_table(Table&& table, const By& by, const slot_bitmap<Slots>& look_at,
                                       Access access = {}, unsigned level = 0) noexcept
{
    return detail::clear_in_table<Slots>(table, look_at, detail::ageing<By>{by}, access, level);
}

/// Harvests the slots of a table: harvest_dirty() by a format or an access_tracking, clear_dirty() by
/// masks. Returns which may have been written. Flush: one for all, if there are any.
template <std::size_t Slots = 0, detail::slot_table Table, class By, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr auto harvest_dirty(Table&& table, const By& by, Access access = {}, unsigned level = 0) noexcept
{
    constexpr std::size_t bits = detail::bitmap_size<Slots, std::remove_cvref_t<Table>>;
    return detail::clear_in_table<bits>(table, detail::every_slot{}, detail::dirty_harvesting<By>{by}, access, level);
}
template <detail::slot_table Table, class By, std::size_t Slots, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr slot_bitmap<Slots> harvest_dirty(Table&& table, const By& by, const slot_bitmap<Slots>& look_at,
                                                         Access access = {}, unsigned level = 0) noexcept
{
    return detail::clear_in_table<Slots>(table, look_at, detail::dirty_harvesting<By>{by}, access, level);
}

/// Takes the write permission from the slots of a table. Returns which had it. Guarantees and
/// order of each slot: write_protect(). Flush: one for all, if there are any.
template <std::size_t Slots = 0, detail::slot_table Table, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr auto write_protect_table(Table&& table, const F& format, Access access = {},
                                                 unsigned level = 0) noexcept
{
    constexpr std::size_t bits = detail::bitmap_size<Slots, std::remove_cvref_t<Table>>;
    return detail::clear_in_table<bits>(table, detail::every_slot{}, detail::write_protecting<F>{format}, access,
                                        level);
}
template <detail::slot_table Table, entry_format F, std::size_t Slots, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr slot_bitmap<Slots> write_protect_table(Table&& table, const F& format,
                                                               const slot_bitmap<Slots>& look_at, Access access = {},
                                                               unsigned level = 0) noexcept
{
    return detail::clear_in_table<Slots>(table, look_at, detail::write_protecting<F>{format}, access, level);
}

/// Which slots of a table hold young entries; nothing is cleared. Order: acquire.
template <detail::slot_table Table, class By, std::size_t Slots, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr slot_bitmap<Slots> young_in(const Table& table, const By& by, const slot_bitmap<Slots>& look_at,
                                                    Access access = {}, unsigned level = 0) noexcept
{
    const std::size_t size = detail::slot_count(table);
    if (size > Slots) broken::table_has_more_slots_than_the_bitmap();
    slot_bitmap<Slots> found;
    for (std::size_t n = 0; n * detail::block_slots < size; ++n) {
        const auto* const slots = detail::slots_of(table) + n * detail::block_slots;
        const std::size_t count = detail::slots_in_block(size, n);
        std::uint64_t left = look_at.word(n) & ones(static_cast<unsigned>(count) - 1, 0);
        if constexpr (detail::several_at_once<Access> && sizeof(*slots) == 8 && entry_masks<By>) {
            if (left != 0 && detail::is_block(slots, count))
                left &= detail::look_at_block(slots, detail::ageing<By>{by});
        }
        for (; left != 0; left &= left - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(left));
            const std::uint64_t entry = access.load(slots[i]);
            bool is_young = young(entry, by);
            if constexpr (entry_masks<By>) is_young = is_young && translates(entry, by, level);
            if (is_young) found.set(n * detail::block_slots + i);
        }
    }
    return found;
}
template <std::size_t Slots = 0, detail::slot_table Table, class By, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr auto young_in(const Table& table, const By& by, Access access = {}, unsigned level = 0) noexcept
{
    return young_in(table, by, slot_bitmap<detail::bitmap_size<Slots, Table>>::all(), access, level);
}

/// Number of slots of a table whose entries have a property: property(entry) is true, with
/// the entry as a std::uint64_t. Order: acquire.
template <detail::slot_table Table, class Property, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr std::size_t count_where(const Table& table, Property&& property, Access access = {})
{
    std::size_t n = 0;
    for (std::size_t i = 0; i < detail::slot_count(table); ++i) {
        n += property(std::uint64_t{access.load(detail::slots_of(table)[i])}) ? 1U : 0U;
    }
    return n;
}

}  // namespace ptebits
