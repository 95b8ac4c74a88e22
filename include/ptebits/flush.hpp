// SPDX-License-Identifier: BSL-1.0
// The flush list: translations that TLBs must forget, and tables that may be released after that.
//
// Operations on trees append to a list of the caller's. The caller flushes what it says on all CPUs,
// and then reports it to the tree (flushed() in tree.hpp), which releases the tables and empties the
// list. The list is memory of the caller's; nothing here flushes.
#pragma once

#include <cstdint>

#include <ptebits/field.hpp>

namespace ptebits {

/// Translations to be forgotten. Units: bytes.
struct flush_item {
    std::uint64_t first = 0;  ///< addresses, both included
    std::uint64_t last = 0;
    unsigned page_shift = 64;   ///< log2 of the smallest translation removed
    bool upper = false;         ///< what refers to tables was changed too: paging-structure caches
    unsigned frozen_level = 0;  ///< shared trees: the slots of this level stay frozen until the flush is reported

    [[nodiscard]] constexpr bool operator==(const flush_item&) const = default;
};

/// A table that is not linked any more, to be released after the flush.
struct queued_table {
    std::uint64_t address = 0;  ///< physical, in bytes
    unsigned level = 0;
};

/// What a flush list asks for.
enum class flush_due : std::uint8_t {
    not_recorded,  ///< no operation has used the list
    nothing,       ///< operations have used it, and nothing is to be flushed
    items,         ///< what the items say
    everything,    ///< it had no room: all translations, with the paging-structure caches
};

[[nodiscard]] constexpr const char* name(flush_due d) noexcept
{
    constexpr const char* names[] = {"not recorded", "nothing", "items", "everything"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(flush_due::everything) + 1);
    return detail::word_of(names, static_cast<unsigned>(d));
}

/// A flush list over arrays of the caller's; flush_list_of<> has its own. Not for several threads at once.
class flush_list {
public:
    constexpr flush_list(flush_item* items, unsigned item_count, queued_table* queue_room,
                         unsigned table_count) noexcept
        : items_(items), tables_(queue_room), item_room_(item_count), table_room_(table_count)
    {
    }
    constexpr ~flush_list() = default;
    flush_list(const flush_list&) = delete;
    flush_list& operator=(const flush_list&) = delete;

    [[nodiscard]] constexpr flush_due due() const noexcept
    {
        if (everything_) return flush_due::everything;
        if (item_count_ != 0) return flush_due::items;
        return recorded_ ? flush_due::nothing : flush_due::not_recorded;
    }

    /// The items. Where everything is due they still tell which slots are frozen, but not all that is to be flushed.
    [[nodiscard]] constexpr const flush_item* begin() const noexcept { return items_; }
    [[nodiscard]] constexpr const flush_item* end() const noexcept { return items_ + item_count_; }

    [[nodiscard]] constexpr unsigned table_count() const noexcept { return table_count_; }
    [[nodiscard]] constexpr const queued_table& table(unsigned n) const noexcept { return tables_[n]; }
    [[nodiscard]] constexpr bool has_room_for_table() const noexcept { return table_count_ < table_room_; }

    // ---- for operations

    /// Says that an operation has recorded what it did, if only that nothing is due.
    constexpr void record() noexcept { recorded_ = true; }

    /// Whether an item can be added without loss.
    [[nodiscard]] constexpr bool has_room_for(const flush_item& added) const noexcept
    {
        return item_count_ < item_room_ || (item_count_ != 0 && joins(items_[item_count_ - 1], added));
    }

    /// Appends an item; joins it with the last one if that goes on where this begins. Without room everything is due.
    constexpr void add(const flush_item& added) noexcept
    {
        recorded_ = true;
        if (item_count_ != 0 && joins(items_[item_count_ - 1], added)) {
            flush_item& before = items_[item_count_ - 1];
            if (added.first < before.first) before.first = added.first;
            if (added.last > before.last) before.last = added.last;
            if (added.page_shift < before.page_shift) before.page_shift = added.page_shift;
            before.upper = before.upper || added.upper;
        } else if (item_count_ < item_room_) {
            items_[item_count_++] = added;
        } else {
            overflow();
        }
    }

    /// Appends an item that says more than the last ones, as far as these lie in its addresses: it takes their place.
    /// Returns false, and changes nothing, if there is no room.
    [[nodiscard]] constexpr bool replace(flush_item wider) noexcept
    {
        unsigned count = item_count_;
        for (; count != 0 && items_[count - 1].first >= wider.first && items_[count - 1].last <= wider.last; --count) {
            if (items_[count - 1].page_shift < wider.page_shift) wider.page_shift = items_[count - 1].page_shift;
        }
        const bool overlaps = count != 0 && items_[count - 1].first < wider.first &&
                              items_[count - 1].last >= wider.first && items_[count - 1].last <= wider.last;
        if (overlaps && items_[count - 1].page_shift < wider.page_shift)
            wider.page_shift = items_[count - 1].page_shift;
        const bool room = count < item_room_ || (count != 0 && joins(items_[count - 1], wider));
        if (!room) return false;
        if (overlaps) items_[count - 1].last = wider.first - 1;
        item_count_ = count;
        add(wider);
        return true;
    }
    [[nodiscard]] constexpr unsigned item_count() const noexcept { return item_count_; }

    /// How many slots of a level, which translate 2^shift bytes each, are frozen by this list in a range of addresses
    /// that begins and ends with a slot.
    [[nodiscard]] constexpr std::uint64_t frozen_slots(std::uint64_t first, std::uint64_t last, unsigned level,
                                                       unsigned shift) const noexcept
    {
        std::uint64_t count = 0;
        for (const flush_item& item : *this) {
            if (item.frozen_level != level || item.last < first || item.first > last) continue;
            const std::uint64_t from = item.first > first ? item.first : first;
            const std::uint64_t to = item.last < last ? item.last : last;
            count += ((to - from) >> shift) + 1;
        }
        return count;
    }

    /// Without room for an item: everything is due.
    constexpr void overflow() noexcept { recorded_ = everything_ = true; }

    /// Queues a table. Precondition: has_room_for_table().
    constexpr void queue(const queued_table& table) noexcept
    {
        recorded_ = true;
        tables_[table_count_++] = table;
    }

    /// Forgets everything: for flushed().
    constexpr void clear() noexcept
    {
        item_count_ = table_count_ = 0;
        everything_ = recorded_ = false;
    }

private:
    /// Whether one item can say both: they overlap or one follows the other, and the same slots are frozen.
    [[nodiscard]] static constexpr bool joins(const flush_item& a, const flush_item& b) noexcept
    {
        if (a.frozen_level != b.frozen_level) return false;
        const bool apart = (a.last < b.first && b.first - a.last > 1) || (b.last < a.first && a.first - b.last > 1);
        return !apart;
    }

    flush_item* items_;
    queued_table* tables_;
    unsigned item_room_;
    unsigned table_room_;
    unsigned item_count_ = 0;
    unsigned table_count_ = 0;
    bool everything_ = false;
    bool recorded_ = false;
};

/// A flush list with room for so many items and tables.
template <unsigned Items = 32, unsigned Tables = 32>
class [[nodiscard]] flush_list_of : public flush_list {
public:
    static_assert(Items >= 1 && Tables >= 1, "ptebits: a flush list needs room for an item and a table");
    constexpr flush_list_of() noexcept : flush_list(own_items_, Items, own_tables_, Tables) {}

private:
    flush_item own_items_[Items];
    queued_table own_tables_[Tables];
};

}  // namespace ptebits
