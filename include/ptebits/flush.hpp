// SPDX-License-Identifier: BSL-1.0
// The flush list: translations that TLBs must forget, and tables that may be released after that.
//
// Operations on trees append to a list of the caller's. The caller flushes what it says on all CPUs,
// and then reports it to the tree (flushed() in tree.hpp), which releases the tables and empties the
// list. The list is memory of the caller's; nothing here flushes.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/format.hpp>

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

// ---- the addresses of an item

/// The addresses at which an item is flushed, in order: for range-based for. Empty where the tables translate nothing
/// of the item. Units: bytes. All are canonical.
class flush_addresses {
public:
    class iterator {
    public:
        constexpr iterator(const flush_addresses& all, std::uint64_t n) noexcept : all_(&all), n_(n) {}
        [[nodiscard]] constexpr std::uint64_t operator*() const noexcept { return (*all_)[n_]; }
        constexpr iterator& operator++() noexcept
        {
            ++n_;
            return *this;
        }
        [[nodiscard]] constexpr bool operator==(const iterator& other) const noexcept { return n_ == other.n_; }

    private:
        const flush_addresses* all_;
        std::uint64_t n_;
    };

    constexpr flush_addresses() = default;
    /// An address in each 2^stride_shift bytes that a range touches, aligned to that, or to a page where that is less.
    /// A single address where the stride is all that the tables translate, or more.
    constexpr flush_addresses(const shape& s, inclusive_range range, unsigned stride_shift) noexcept
    {
        if (s.levels == 0) return;  // of a format that is wrong
        const inclusive_range part = s.translated_part(range);
        if (part.empty()) return;
        const bool one = stride_shift >= s.address_bits();
        shift_ = one || stride_shift < s.granule ? s.granule : stride_shift;
        first_ = part.first >> shift_;
        count_ = one ? 1 : (part.last >> shift_) - first_ + 1;
        upper_half_ = s.above == extension::ones ? 0 : std::uint64_t{1} << (s.address_bits() - 1);
        upper_bits_ = s.extended(part.last) - part.last;
    }

    /// How many; at most 2^52 in x86.
    [[nodiscard]] constexpr std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] constexpr bool empty() const noexcept { return count_ == 0; }

    /// Precondition: n < count().
    [[nodiscard]] constexpr std::uint64_t operator[](std::uint64_t n) const noexcept
    {
        const std::uint64_t offset = (first_ + n) << shift_;
        return offset < upper_half_ ? offset : offset + upper_bits_;
    }
    [[nodiscard]] constexpr iterator begin() const noexcept { return {*this, 0}; }
    [[nodiscard]] constexpr iterator end() const noexcept { return {*this, count_}; }

private:
    std::uint64_t first_ = 0;  ///< in strides, from the beginning of what the tables translate
    std::uint64_t count_ = 0;
    std::uint64_t upper_half_ = 0;  ///< the offset from which on addresses have the bits above
    std::uint64_t upper_bits_ = 0;
    unsigned shift_ = 0;
};

// ---- what to do

/// How much is to be flushed.
enum class flush_scope : std::uint8_t {
    nothing,
    addresses,   ///< those of all items
    context,     ///< a PCID, a VPID, an EPT root or an ASID
    everything,  ///< all contexts
};

[[nodiscard]] constexpr const char* name(flush_scope s) noexcept
{
    constexpr const char* names[] = {"nothing", "addresses", "context", "everything"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(flush_scope::everything) + 1);
    return detail::word_of(names, static_cast<unsigned>(s));
}

/// What to do about a list or an item.
template <class Type>
struct flush_choice {
    flush_scope scope = flush_scope::nothing;
    Type type{};                  ///< how, unless nothing is to be flushed
    std::uint64_t addresses = 0;  ///< how many there are, of all items; 0 with another scope

    [[nodiscard]] constexpr bool operator==(const flush_choice&) const = default;
};

/// What can be flushed: a list or an item.
template <class W>
concept flush_source = std::same_as<W, flush_item> || std::is_base_of_v<flush_list, W>;

namespace detail {

/// What a list or an item asks for. Nothing of a list that no operation has used.
template <flush_source What>
[[nodiscard]] constexpr bool asks_for_nothing([[maybe_unused]] const What& what) noexcept
{
    if constexpr (std::same_as<What, flush_item>) {
        return false;
    } else {
        return what.due() == flush_due::nothing || what.due() == flush_due::not_recorded;
    }
}

/// What the addresses of a list or an item come to.
struct flush_demand {
    bool whole = false;           ///< too many, or not known
    bool upper = false;           ///< tables were removed, or it is not known
    std::uint64_t addresses = 0;  ///< if not whole

    [[nodiscard]] constexpr bool nothing() const noexcept { return !whole && addresses == 0; }
};

template <flush_source What, entry_format F, class AddressesOf>
[[nodiscard]] constexpr flush_demand demand_of(const What& what, const F& format, std::uint64_t threshold,
                                               AddressesOf addresses_of_item) noexcept
{
    flush_demand d;
    d.whole = format->shape().levels == 0;  // of a format that is wrong
    const auto add = [&](const flush_item& item) {
        const std::uint64_t count = addresses_of_item(item).count();
        d.upper = d.upper || item.upper;
        d.whole = d.whole || count > threshold - d.addresses;
        if (!d.whole) d.addresses += count;
    };
    if constexpr (std::same_as<What, flush_item>) {
        add(what);
    } else {
        if (asks_for_nothing(what)) return {};
        d.whole = d.upper = d.whole || what.due() == flush_due::everything;
        for (const flush_item& item : what) add(item);
    }
    return d;
}

}  // namespace detail
}  // namespace ptebits
