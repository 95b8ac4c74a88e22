// SPDX-License-Identifier: BSL-1.0
// Visiting the entries of a tree of tables, and looking up the mappings of a range, and its holes.
//
// Without recursion: an array keeps, for each level, where to go on. A visit ends with any contents
// of memory; with a table_set it enters each table once with the same rights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/entry.hpp>
#include <ptebits/memory.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

/// An entry that a visit shows.
template <slot_word Word>
struct visited_entry {
    unsigned level;
    kind is;                ///< none: absent, or of no kind that the level has
    std::uint64_t address;  ///< the first that the entry translates, sign-extended where the format does
    unsigned page_shift;    ///< log2 of the bytes that it translates
    Word* slot;
    std::uint64_t slot_address;  ///< physical, in bytes
    std::uint64_t entry;         ///< not an empty slot's; may be absent, or break a rule
    permissions allowed;         ///< by this entry and those above it; nothing if one of them does not translate
};

/// What a visitor wants next. `into` has an effect where the slot then holds a present entry that refers to a
/// table, also if that breaks a rule: then nothing below is allowed.
enum class visit_next : std::uint8_t { into, over, stop };

/// How a visit went.
struct visit_summary {
    bool stopped = false;       ///< the visitor stopped it
    bool set_is_full = false;   ///< the table_set had no room: some tables were left out
    std::uint64_t entered = 0;  ///< tables visited, the root too
    std::uint64_t again = 0;    ///< references to tables that were visited before with these rights, left out
    std::uint64_t missing = 0;  ///< slots for which memory had none
};

/// The tables that were entered, and the rights with which they were reached, kept in the caller's array of
/// twice as many words as there are tables. A table that is used at two levels counts as two, and so does
/// one that is reached in two ways of which each has a right that the other lacks.
class table_set {
public:
    enum class outcome : std::uint8_t { added, known, full };

    /// Uses `words[0..count)`, which it clears.
    constexpr table_set(std::uint64_t* words, std::size_t count) noexcept : words_(words), count_(count)
    {
        for (std::size_t i = 0; i < count; ++i) words_[i] = 0;
    }

    /// Adds a table that is reached with these rights. It is known if it was reached with all of them before.
    constexpr outcome add(std::uint64_t table, unsigned level, const permissions& rights = {}) noexcept
    {
        const std::uint64_t key = table | level;  // tables are aligned to 32 bytes or more
        const std::uint64_t with = std::uint64_t{detail::number_of(rights, true)} << max_physical_bits;
        // Fibonacci hashing: the page number spread by the golden ratio.
        const std::uint64_t hash = (key >> 5 ^ key << 40) * 0x9e37'79b9'7f4a'7c15;
        std::uint64_t* free = nullptr;  // or a word whose rights these include
        for (std::size_t probe = 0; probe < count_; ++probe) {
            std::uint64_t& place = words_[((hash >> 16) + probe) % count_];
            const bool same = (place & ~rights_mask) == key;
            if (same && (with & ~place) == 0) return outcome::known;
            if (free == nullptr && (place == 0 || (same && (place & rights_mask & ~with) == 0))) free = &place;
            if (place == 0) break;
        }
        if (free == nullptr) return outcome::full;
        *free = key | with;
        return outcome::added;
    }

private:
    static constexpr std::uint64_t rights_mask = ~ones(max_physical_bits - 1, 0);

    std::uint64_t* words_;
    std::size_t count_;
};

/// Shows a visitor every entry of the tables below `root` that is not empty and translates
/// part of a range, in the order of addresses, a table's entry before the table. The
/// visitor takes a visited_entry and returns a visit_next. It may change the tree, but must not take away the table
/// that holds the slot or one above it, unless it returns `stop`. The slot is read again after the visitor, and the
/// visit goes on by what it holds then, without showing it again: a page that was split is entered, a table that was
/// taken away is not. What was changed further on is shown as it is when the visit gets there.
/// With `once`, a table is visited again at a level only if it is reached with rights that no earlier visit
/// included, so that each entry is shown with the rights of every way to it. Reads each slot once per visit
/// of its table, and again above level 1 if the visitor wants `into`. Order: acquire.
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
            bool translates = true;  // all entries above
            unsigned back = 0;       // the level to go on with after this table
        };
        const shape& t = format->shape();
        visit_summary summary;
        if (t.levels == 0) return summary;
        if (!is_root(root, format)) {
            summary.missing = 1;
            return summary;
        }

        const inclusive_range part = t.translated_part(range);
        if (part.empty()) return summary;
        frame frames[max_levels + 1];
        unsigned level = t.levels;
        const auto enter = [&](unsigned at, std::uint64_t table, std::uint64_t begin,
                               const detail::permission_fold& above, bool translated, unsigned back) {
            ++summary.entered;
            frames[at] = {table, slot_run(t, at, begin, part), above, translated, back};
        };
        // Adds an entry's rights to those of a way down. Returns whether the whole way translates.
        const auto add = [&](detail::permission_fold& rights, bool translated, std::uint64_t entry, unsigned at,
                             kind is) {
            if (!translated || !translates(entry, format, at) || detail::ends_hlat(entry, format)) return false;
            rights.add(entry, format->layout_at(at, is), format);
            return true;
        };
        enter(level, root, 0, {}, true, level + 1);
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
            std::uint64_t entry = how.load(*slot);
            if (is_empty(entry, format)) continue;

            kind is = kind_of(entry, level, format);
            detail::permission_fold rights = f.above;
            bool translated = add(rights, f.translates, entry, level, is);
            const permissions allowed = translated ? rights.result(format) : no_permissions;
            const visit_next wanted =
                visitor(visited_entry<slot_type>{level, is, t.extended(offset), page_shift_of(entry, level, format),
                                                 slot, slot_address, entry, allowed});
            if (wanted == visit_next::stop) {
                summary.stopped = true;
                return summary;
            }
            if (wanted == visit_next::over || level == 1) continue;

            // The visitor may have freed the table that was there, or put one there.
            if (const std::uint64_t now = how.load(*slot); now != entry) {
                entry = now;
                is = kind_of(entry, level, format);
                rights = f.above;
                translated = add(rights, f.translates, entry, level, is);
            }
            if (is != kind::table) continue;

            const std::uint64_t table = format->layout_at(level, is).address_in(entry);
            const unsigned below = format->level_below(entry, level);
            if (below < 1 || below >= level) continue;  // the table cannot have this level
            if (once != nullptr) {
                const table_set::outcome seen =
                    once->add(table, below, translated ? rights.result(format) : no_permissions);
                summary.again += seen == table_set::outcome::known;
                summary.set_is_full = summary.set_is_full || seen == table_set::outcome::full;
                if (seen != table_set::outcome::added) continue;
            }
            enter(below, table, offset, rights, translated, level);
            level = below;
        }
        return summary;
    });
}

namespace detail {

/// The bits of a leaf that say how a page is encrypted, and are no part of its address.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t encryption_bits([[maybe_unused]] const F& format) noexcept
{
    std::uint64_t bits = 0;
    if constexpr (requires { format->encryption; }) bits |= format->encryption.mask();
    if constexpr (requires { format->key_id; }) bits |= format->key_id.mask();
    return bits;
}

}  // namespace detail

/// Neighbouring pages that translate alike.
struct mapping {
    std::uint64_t address = 0;   ///< the first, in bytes
    std::uint64_t physical = 0;  ///< where it is mapped
    std::uint64_t bytes = 0;
    permissions allowed;
    std::uint64_t memory_type = 0;  ///< memory-type bits of the leaf, in place of its level
    std::uint64_t encryption = 0;   ///< C-bit or key identifier of the leaf, in place
    unsigned page_shift = 0;        ///< log2 of the pages' bytes

    [[nodiscard]] constexpr bool continued_by(const mapping& next) const noexcept
    {
        return address + bytes == next.address && physical + bytes == next.physical && allowed == next.allowed &&
               memory_type == next.memory_type && encryption == next.encryption && page_shift == next.page_shift;
    }
};

/// Addresses from first to last, both included, at which nothing is mapped. Units: bytes.
struct hole {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    std::uint64_t in_use = 0;  ///< slots in it that hold something, though no page: see not_a_page

    [[nodiscard]] constexpr bool operator==(const hole&) const = default;
};

/// What a slot holds that is not empty and maps nothing: an absent entry that keeps something, a present one that
/// breaks a rule, or one at which HLAT paging ends. Units: bytes.
struct not_a_page {
    std::uint64_t first = 0;  ///< addresses that the slot translates, both included
    std::uint64_t last = 0;
    std::uint64_t entry = 0;
    unsigned level = 0;

    [[nodiscard]] constexpr bool operator==(const not_a_page&) const = default;
};

namespace detail {

/// What takes no holes.
struct no_holes {};

template <class T>
inline constexpr bool takes_holes = requires(T& unmapped, const hole& one) { unmapped(one); };
template <class T>
inline constexpr bool takes_entries = requires(T& unmapped, const not_a_page& one) { unmapped(one); };

/// Puts the entries of a visit together to mappings and holes.
template <entry_format F, class Found, class Unmapped>
class mapping_finder {
public:
    constexpr mapping_finder(const F& format, inclusive_range range, Found& found, Unmapped& unmapped)
        : format_(format), found_(found), unmapped_(unmapped)
    {
        if (format->shape().levels != 0) left_ = format->shape().translated_part(range);
    }

    template <class Entry>
    constexpr visit_next operator()(const Entry& e)
    {
        const bool maps = translates(e.entry, format_, e.level) && !ends_hlat(e.entry, format_);
        if (maps && e.is == kind::table) return visit_next::into;
        const shape& s = format_->shape();
        const unsigned part = s.page_shift(e.level);
        if constexpr (takes_holes<Unmapped>) {
            const std::uint64_t offset = e.address & offsets();
            pass_middle(offset);
            if (maps) {
                if (offset > left_.first) tell_hole(offset - 1);
                go_on_after(offset | ones(part - 1, 0));
            } else {
                ++in_use_;
            }
        }
        if (maps) {
            add(e, part);
        } else if constexpr (takes_entries<Unmapped>) {
            tell_mapping();
            unmapped_(not_a_page{e.address, e.address | ones(part - 1, 0), e.entry, e.level});
        }
        return visit_next::over;
    }

    /// Tells what is left at the end.
    constexpr void finish()
    {
        if constexpr (takes_holes<Unmapped>) {
            if (!left_.empty()) {
                pass_middle(left_.last);
                tell_hole(left_.last);
            }
        }
        tell_mapping();
    }

private:
    template <class Entry>
    constexpr void add(const Entry& e, unsigned part)
    {
        const layout& l = format_->layout_at(e.level, e.is);
        // An entry of a run maps its part of it.
        const std::uint64_t inside = e.address & ones(l.offset_bits_of(e.entry) - 1, part);
        const mapping page{.address = e.address,
                           .physical = l.address_in(e.entry) | inside,
                           .bytes = std::uint64_t{1} << part,
                           .allowed = e.allowed,
                           .memory_type = e.entry & l.mask(role::memory_type),
                           .encryption = e.entry & encryption_bits(format_),
                           .page_shift = e.page_shift};
        if (pending_.bytes != 0 && pending_.continued_by(page)) {
            pending_.bytes += page.bytes;
        } else {
            tell_mapping();
            pending_ = page;
        }
    }

    constexpr void tell_mapping()
    {
        if (pending_.bytes != 0) found_(static_cast<const mapping&>(pending_));
        pending_.bytes = 0;
    }

    /// Tells the hole from what is left up to an offset, after the mapping before it.
    constexpr void tell_hole(std::uint64_t last)
    {
        tell_mapping();
        const shape& s = format_->shape();
        const hole one{s.extended(left_.first), s.extended(last), in_use_};
        in_use_ = 0;
        unmapped_(one);
    }

    constexpr void go_on_after(std::uint64_t last)
    {
        left_ = last < left_.last ? inclusive_range{last + 1, left_.last} : inclusive_range{1, 0};
    }

    /// A hole ends where addresses that are not canonical begin: told before the first entry behind them.
    constexpr void pass_middle(std::uint64_t offset)
    {
        const shape& s = format_->shape();
        const std::uint64_t lower_last = offsets() >> 1;
        if (s.above != extension::sign || s.address_bits() == 64) return;
        if (left_.first > lower_last || offset <= lower_last) return;
        tell_hole(lower_last);
        go_on_after(lower_last);
    }

    /// The bits of an address that are its offset into what the tables translate.
    [[nodiscard]] constexpr std::uint64_t offsets() const noexcept
    {
        return ones(format_->shape().address_bits() - 1U, 0);
    }

    const F& format_;
    Found& found_;
    Unmapped& unmapped_;
    mapping pending_;
    inclusive_range left_{1, 0};  ///< offsets that no mapping or hole was told of
    std::uint64_t in_use_ = 0;
};

template <entry_format F, class Memory, class Found, class Unmapped, slot_access Access>
constexpr visit_summary find_mappings(const F& format, std::uint64_t root, inclusive_range range, Memory& memory,
                                      Found& found, Unmapped& unmapped, Access how)
{
    mapping_finder<F, Found, Unmapped> look(format, range, found, unmapped);
    const visit_summary summary = visit(format, root, range, memory, look, nullptr, how);
    look.finish();
    return summary;
}

}  // namespace detail

/// Calls `found` for every mapping of a range and `unmapped` for every hole in it, in the order of addresses. Pages
/// that follow each other in both address spaces, and have the same size, rights and memory type, are one mapping.
/// Pages that reach over the range's ends are shown whole. Entries that break a rule map nothing. A hole reaches from
/// a page, or the range's end, to the next, but not over addresses that are not canonical. Slots that memory does not
/// have are part of holes, and counted as missing. If `unmapped` also takes a not_a_page, it is called for each, before
/// the hole that has it. Both may change the tree up to the end of what they are told of, but for tables that also
/// translate what comes after it. Of a tree that others change, each slot counts as it was when it was read.
template <entry_format F, class Memory, class Found, class Unmapped, slot_access Access = atomic_access<>>
    requires detail::takes_holes<Unmapped>
constexpr visit_summary for_each_mapping(const F& format, std::uint64_t root, inclusive_range range, Memory&& memory,
                                         Found&& found, Unmapped&& unmapped, Access how = {})
{
    return detail::find_mappings(format, root, range, memory, found, unmapped, how);
}
/// The same without holes.
template <entry_format F, class Memory, class Found, slot_access Access = atomic_access<>>
constexpr visit_summary for_each_mapping(const F& format, std::uint64_t root, inclusive_range range, Memory&& memory,
                                         Found&& found, Access how = {})
{
    detail::no_holes none;
    return detail::find_mappings(format, root, range, memory, found, none, how);
}

}  // namespace ptebits
