// SPDX-License-Identifier: BSL-1.0
// Visiting the entries of a tree of tables, and looking up the mappings of a range.
//
// Without recursion: the way back is kept in one frame a level. What memory holds cannot
// make a visit endless; a table_set makes it visit each table once, whatever refers to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/entry.hpp>
#include <ptebits/memory.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

/// An entry met on the way.
template <slot_word Word>
struct visited_entry {
    unsigned level;
    kind is;                ///< none: absent, or of no kind that the level has
    std::uint64_t address;  ///< the first that the entry translates, sign-extended where the format does
    unsigned page_shift;    ///< log2 of the bytes that it translates
    Word* slot;
    std::uint64_t slot_address;  ///< physical, in bytes
    std::uint64_t entry;         ///< neither 0 nor an empty slot's; may be absent, or break a rule
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
            std::uint64_t& place = words_[((hash >> 16) + probe) % count_];
            if (place == key) return outcome::known;
            if (place == 0) {
                place = key;
                return outcome::added;
            }
        }
        return outcome::full;
    }

private:
    std::uint64_t* words_;
    std::size_t count_;
};

/// Shows a visitor every entry of the tables below `root` that is not empty and translates
/// part of a range, in the order of addresses, a table's entry before the table. The
/// visitor takes a visited_entry and returns a visit_next; it may change the slot.
/// With `once`, no table is visited twice at a level. Reads each slot once, acquire.
template <entry_format F, class Memory, class Visitor, slot_access Access = atomic_access<>>
constexpr visit_summary visit(const F& format, std::uint64_t root, inclusive_range range, Memory&& memory,
                              Visitor&& visitor, table_set* once = nullptr, Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        using slot_type = std::remove_reference_t<decltype(*slot_in<Word>(memory, root))>;
        struct frame {
            std::uint64_t table = 0;
            slot_run slots;
            detail::permission_fold above;
            unsigned back = 0;  // the level to go on with after this table
        };
        const shape& t = format->shape();
        visit_summary summary;
        if (t.levels == 0) return summary;

        const inclusive_range part = t.translated_part(range);
        if (part.empty()) return summary;
        frame frames[max_levels + 1];
        unsigned level = t.levels;
        const auto enter = [&](unsigned at, std::uint64_t table, std::uint64_t begin,
                               const detail::permission_fold& above, unsigned back) {
            ++summary.entered;
            frames[at] = {table, slot_run(t, at, begin, part), above, back};
        };
        enter(level, root, 0, {}, level + 1);
        if (once != nullptr) static_cast<void>(once->add(root, level));

        while (level <= t.levels) {
            frame& f = frames[level];
            if (f.slots.empty()) {
                level = f.back;
                continue;
            }
            const std::uint64_t index = f.slots.next++;
            const std::uint64_t offset = f.slots.begin + (index << t.page_shift(level));
            const std::uint64_t slot_address = f.table + index * sizeof(Word);
            auto* const slot = slot_in<Word>(memory, slot_address);
            if (slot == nullptr) {
                ++summary.missing;
                continue;
            }
            const std::uint64_t entry = how.load(*slot);
            if (entry == 0 || entry == format->empty()) continue;  // 0: memory that nobody filled

            const kind is = kind_of(entry, level, format);
            const layout& l = format->layout_at(level, is);
            detail::permission_fold rights = f.above;
            permissions allowed = no_permissions;
            if (is != kind::none) {
                rights.add(entry, l, format);
                allowed = rights.result(format);
            }
            const visit_next wanted =
                visitor(visited_entry<slot_type>{level, is, t.extended(offset), page_shift_of(entry, level, format),
                                                 slot, slot_address, entry, allowed});
            if (wanted == visit_next::stop) {
                summary.stopped = true;
                return summary;
            }
            if (wanted == visit_next::over || is != kind::table) continue;

            const std::uint64_t table = l.address_in(entry);
            const unsigned below = format->level_below(entry, level);
            if (below < 1 || below >= level) continue;  // no level that the table could have
            if (once != nullptr) {
                const table_set::outcome seen = once->add(table, below);
                summary.again += seen == table_set::outcome::known;
                summary.set_is_full = summary.set_is_full || seen == table_set::outcome::full;
                if (seen != table_set::outcome::added) continue;
            }
            enter(below, table, offset, rights, level);
            level = below;
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
template <entry_format F, class Memory, class Found, slot_access Access = atomic_access<>>
constexpr visit_summary for_each_mapping(const F& format, std::uint64_t root, inclusive_range range, Memory&& memory,
                                         Found&& found, Access how = {})
{
    mapping pending;
    const auto look = [&](const auto& e) {
        if (!legal(e.entry, e.level, format) || !present(e.entry, format)) return visit_next::over;
        if (e.is == kind::table) return visit_next::into;
        const layout& l = format->layout_at(e.level, e.is);
        // An entry of a run maps its part of it.
        const unsigned part = format->shape().page_shift(e.level);
        const std::uint64_t inside = e.address & ones(l.offset_bits_of(e.entry) - 1, part);
        const mapping page{e.address, l.address_in(e.entry) | inside,      std::uint64_t{1} << part,
                           e.allowed, e.entry & l.mask(role::memory_type), e.page_shift};
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
