// SPDX-License-Identifier: BSL-1.0
// Visiting the entries of a tree of tables, and looking up the mappings of a range.
//
// Without recursion: the way back is kept in one frame a level. What memory holds cannot
// make a visit endless; a table_set makes it visit each table once, whatever refers to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/walk.hpp>

namespace ptebits {

/// A range of addresses, both ends included; the default is all. In bytes.
struct address_range {
    std::uint64_t first = 0;
    std::uint64_t last = ~std::uint64_t{0};
};

/// The part of a range that tables of a shape translate, as offsets into what they
/// translate: canonical addresses lose the copies of their top bit. Empty: first > last.
[[nodiscard]] constexpr address_range translated_part(address_range range, const shape& t) noexcept
{
    const std::uint64_t space = ones(t.address_bits() - 1, 0);
    if (!t.canonical) return {range.first, range.last < space ? range.last : space};
    const std::uint64_t low_half = space >> 1;
    if (range.first > low_half && range.first < ~low_half) range.first = ~low_half;
    if (range.last > low_half && range.last < ~low_half) range.last = low_half;
    if (range.first > range.last) return {1, 0};
    return {range.first & space, range.last & space};
}

/// An address as programs see it, from an offset into what tables of a shape translate.
[[nodiscard]] constexpr std::uint64_t sign_extended(std::uint64_t offset, const shape& t) noexcept
{
    const bool high = t.canonical && (offset >> (t.address_bits() - 1)) != 0;
    return high ? offset | ~ones(t.address_bits() - 1, 0) : offset;
}

/// The slots of one table that lie in a range, in order.
struct slot_run {
    std::uint64_t begin = 0;  ///< of what the table translates: an offset
    std::uint64_t next = 0;   ///< index of the slot that comes next
    std::uint64_t last = 0;

    constexpr slot_run() = default;
    /// Those of a table of a level. Precondition: it translates some of the range.
    constexpr slot_run(const shape& t, unsigned level, std::uint64_t table_begin, address_range part) noexcept
        : begin(table_begin), last(ones(t.index_bits_at(level) - 1, 0))
    {
        const unsigned shift = t.page_shift(level);
        if (part.first > begin) next = (part.first - begin) >> shift;
        if (const std::uint64_t end = (part.last - begin) >> shift; end < last) last = end;
    }

    [[nodiscard]] constexpr bool empty() const noexcept { return next > last; }
};

/// An entry met on the way.
template <slot_word Word>
struct visited_entry {
    unsigned level;
    kind is;
    std::uint64_t address;  ///< the first that the entry translates, sign-extended where the format does
    unsigned page_shift;    ///< log2 of the bytes that it translates
    Word* slot;
    std::uint64_t slot_address;  ///< physical, in bytes
    std::uint64_t entry;         ///< not 0; may be not present, or break a rule
    permissions allowed;         ///< by this entry and those above it
};

/// What a visitor wants next. `into` counts for present entries that refer to a table.
enum class visit_next : std::uint8_t { into, over, stop };

/// How a visit went.
struct visit_summary {
    bool stopped = false;       ///< the visitor said so
    bool set_is_full = false;   ///< the table_set had no room: some tables were left out
    std::uint64_t entered = 0;  ///< tables visited, the root too
    std::uint64_t again = 0;    ///< references to tables that were visited before, left out
    std::uint64_t missing = 0;  ///< slots for which memory had none
};

/// Tables seen, kept in the caller's array: give it twice as many words as there are
/// tables. A table that is used at two levels counts as two.
class table_set {
public:
    enum class outcome : std::uint8_t { added, known, full };

    /// Uses `words[0..count)`, which it clears.
    constexpr table_set(std::uint64_t* words, std::size_t count) noexcept : words_(words), count_(count)
    {
        for (std::size_t i = 0; i < count; ++i) words_[i] = 0;
    }

    constexpr outcome add(std::uint64_t table, unsigned level) noexcept
    {
        const std::uint64_t key = table | level;  // tables are aligned to 32 bytes or more
        // Fibonacci hashing: the page number spread by the golden ratio.
        const std::uint64_t hash = (key >> 5 ^ key << 40) * 0x9e37'79b9'7f4a'7c15;
        for (std::size_t probe = 0; probe < count_; ++probe) {
            std::uint64_t& word = words_[((hash >> 16) + probe) % count_];
            if (word == key) return outcome::known;
            if (word == 0) {
                word = key;
                return outcome::added;
            }
        }
        return outcome::full;
    }

private:
    std::uint64_t* words_;
    std::size_t count_;
};

/// Shows a visitor every entry of the tables below `root` that is not 0 and translates
/// part of a range, in the order of addresses, a table's entry before the table. The
/// visitor takes a visited_entry and returns a visit_next; it may change the slot.
/// With `once`, no table is visited twice at a level. Reads each slot once, acquire.
template <walkable_format F, class Memory, class Visitor, slot_access Access = atomic_access<>>
constexpr visit_summary visit(const F& format, std::uint64_t root, address_range range, Memory&& memory,
                              Visitor&& visitor, table_set* once = nullptr, Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        using word = std::remove_reference_t<decltype(*slot_in<Word>(memory, root))>;
        struct frame {
            std::uint64_t table = 0;
            slot_run slots;
            permission_fold above;
        };
        const shape& t = format.tables();
        visit_summary summary;
        if (t.levels == 0) return summary;

        const address_range part = translated_part(range, t);
        if (part.first > part.last) return summary;
        frame frames[max_levels + 1];
        unsigned level = t.levels;
        const auto enter = [&](unsigned at, std::uint64_t table, std::uint64_t begin, const permission_fold& above) {
            ++summary.entered;
            frames[at] = {table, slot_run(t, at, begin, part), above};
        };
        enter(level, root, 0, {});
        if (once != nullptr) static_cast<void>(once->add(root, level));

        while (level <= t.levels) {
            frame& f = frames[level];
            if (f.slots.empty()) {
                ++level;
                continue;
            }
            const std::uint64_t index = f.slots.next++;
            const std::uint64_t offset = f.slots.begin + (index << t.page_shift(level));
            const std::uint64_t slot_address = f.table + index * sizeof(Word);
            word* const slot = slot_in<Word>(memory, slot_address);
            if (slot == nullptr) {
                ++summary.missing;
                continue;
            }
            const std::uint64_t entry = how.load(*slot);
            if (entry == 0) continue;

            const kind is = kind_of(entry, level, format);
            const layout& l = format.layout_at(level, is);
            permission_fold rights = f.above;
            rights.add(entry, permission_fold::silent_in(l, format.layout_at(1, kind::leaf)));
            const visit_next wanted =
                visitor(visited_entry<word>{level, is, sign_extended(offset, t), t.page_shift(level), slot,
                                            slot_address, entry, rights.result(format)});
            if (wanted == visit_next::stop) {
                summary.stopped = true;
                return summary;
            }
            if (wanted == visit_next::over || is == kind::leaf || !present(entry, format)) continue;

            const std::uint64_t table = l.address_in(entry);
            if (once != nullptr) {
                const table_set::outcome seen = once->add(table, level - 1);
                summary.again += seen == table_set::outcome::known;
                summary.set_is_full = summary.set_is_full || seen == table_set::outcome::full;
                if (seen != table_set::outcome::added) continue;
            }
            --level;
            enter(level, table, offset, rights);
        }
        return summary;
    });
}

/// Neighbouring pages that translate alike.
struct mapping {
    std::uint64_t address = 0;   ///< the first, in bytes
    std::uint64_t physical = 0;  ///< where it is mapped
    std::uint64_t bytes = 0;
    permissions allowed;
    std::uint64_t memory_type = 0;  ///< memory-type bits of the leaf, in place of its level
    unsigned page_shift = 0;        ///< log2 of the pages' bytes

    [[nodiscard]] constexpr bool continued_by(const mapping& next) const noexcept
    {
        return address + bytes == next.address && physical + bytes == next.physical && allowed == next.allowed &&
               memory_type == next.memory_type && page_shift == next.page_shift;
    }
};

/// Shows `found` every mapping of a range, in the order of addresses: pages that follow
/// each other in both address spaces, of one size, with the same rights and memory type,
/// as one. Pages that reach over the range's ends are shown whole. Entries that break a
/// rule map nothing.
template <walkable_format F, class Memory, class Found, slot_access Access = atomic_access<>>
constexpr visit_summary for_each_mapping(const F& format, std::uint64_t root, address_range range, Memory&& memory,
                                         Found&& found, Access how = {})
{
    mapping pending;
    const auto look = [&](const auto& e) {
        if (!legal(e.entry, e.level, format) || !present(e.entry, format)) return visit_next::over;
        if (e.is == kind::table) return visit_next::into;
        const layout& l = format.layout_at(e.level, kind::leaf);
        const mapping page{e.address,
                           l.address_in(e.entry),
                           std::uint64_t{1} << e.page_shift,
                           e.allowed,
                           e.entry & l.mask(role::memory_type),
                           e.page_shift};
        if (pending.bytes != 0 && pending.continued_by(page)) {
            pending.bytes += page.bytes;
        } else {
            if (pending.bytes != 0) found(static_cast<const mapping&>(pending));
            pending = page;
        }
        return visit_next::into;
    };
    const visit_summary summary = visit(format, root, range, memory, look, nullptr, how);
    if (pending.bytes != 0) found(static_cast<const mapping&>(pending));
    return summary;
}

}  // namespace ptebits
