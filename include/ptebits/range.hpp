// SPDX-License-Identifier: BSL-1.0
// Ageing and harvesting all pages of an address range, through the tables that map it.
//
// `memory(physical address)` returns a pointer to the slot there, or null where there is
// none, as in walk(). It is called once for each table, with the table's address, and the
// pointer must be valid for the whole table (4 slots at the top of PAE, 1024 slots of 4
// bytes in two-level tables, else 512). Nothing else is read. Meanwhile no table may be
// freed (hold a lock or a grace period); entries may change in any way. If a large leaf is split meanwhile, the
// entry that refers to the table may lose A, and the bit where a leaf has D.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/memory.hpp>
#include <ptebits/table.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void there_is_no_such_part() noexcept { stop(); }
}  // namespace broken

/// A range, or one of its parts: the caller's threads age or harvest the parts at the same time, without a lock.
///
/// Each slot belongs to one part, and each table of level 1: a page that reaches over the end of a part belongs to the
/// part that has its first address in the range. So all parts together report the pages of one pass, in order if the
/// parts are taken in order, and their counts add up to that pass's. The reports of two parts share no
/// word of a bitmap with a bit for each smallest page, if its bit 0 stands for a multiple of 64 such pages, and as long
/// as nobody splits or merges a page that reaches over the end of a part.
class range_part {
public:
    /// All of a range.
    constexpr explicit(false) range_part(inclusive_range range = {}) noexcept : addresses_(range) {}
    constexpr range_part(std::uint64_t first, std::uint64_t last) noexcept : addresses_{first, last} {}

    /// One of several parts, by number from 0 up; of about equal size in addresses. Parts are empty where there are
    /// more than tables of level 1. Precondition: which < parts; a pass over the part is by a format of the same shape.
    template <entry_format F>
    constexpr range_part(const F& format, inclusive_range range, std::uint64_t parts, std::uint64_t which) noexcept
        : addresses_{1, 0}, continues_(which != 0)
    {
        if (which >= parts) broken::there_is_no_such_part();
        const shape& s = format->shape();
        const inclusive_range all = s.translated_part(range);
        if (all.empty()) return;
        // Cut between tables of level 1, and between words of a bitmap.
        const unsigned word_shift = s.page_shift(1) + 6;
        const unsigned unit = s.page_shift(2) > word_shift ? s.page_shift(2) : word_shift;
        const std::uint64_t first_unit = all.first >> unit;
        const std::uint64_t units = (all.last >> unit) - first_unit + 1;
        const auto begin_of = [&](std::uint64_t part) {
            const std::uint64_t longer = part < units % parts ? part : units % parts;
            return part * (units / parts) + longer;
        };
        const std::uint64_t begin = begin_of(which);
        const std::uint64_t end = begin_of(which + 1);
        if (begin == end) return;
        addresses_.first = s.extended(begin == 0 ? all.first : (first_unit + begin) << unit);
        addresses_.last = s.extended(end == units ? all.last : ((first_unit + end) << unit) - 1);
    }

    [[nodiscard]] constexpr inclusive_range addresses() const noexcept { return addresses_; }
    /// Whether a part comes before it, to which pages belong that reach into this one.
    [[nodiscard]] constexpr bool continues() const noexcept { return continues_; }

private:
    inclusive_range addresses_;
    bool continues_ = false;
};

/// Which subtrees an ageing pass enters.
enum class subtrees : std::uint8_t {
    all,
    /// Only those whose table entries are accessed, where the format has A in them. Clears
    /// A of the table entries that it follows and whose whole span lies in the range.
    /// Precondition: nobody else ages the same range in this way. Flush: the TLB and
    /// paging-structure caches, after every pass: once, after all parts. Otherwise a CPU that has a table entry cached
    /// sets A below it without setting A in it again, and the next pass finds all pages there old. For the same reason
    /// pages below a table that memory did not return may look old. A table entry that translates addresses of two
    /// parts keeps A, so that it is always followed.
    accessed,
};

/// What a pass over a range did.
struct range_counts {
    std::uint64_t pages = 0;    ///< pages reported
    std::uint64_t tables = 0;   ///< tables read
    std::uint64_t missing = 0;  ///< tables that memory did not return
    /// Present entries above level 1 that break a rule: left alone. Those of level 1 are left alone
    /// too, but not counted, since most slots of that level are not read one by one.
    std::uint64_t illegal = 0;
    std::uint64_t skipped = 0;  ///< table entries not followed because they were not accessed

    [[nodiscard]] constexpr bool operator==(const range_counts&) const = default;
};

namespace detail {

/// Whether an entry of level 1 is one of a run.
template <slot_word Word, entry_format F>
[[nodiscard]] constexpr bool is_in_run(Word entry, const F& format) noexcept
{
    return kind_of(entry, 1, format) == kind::run && translates(entry, format, 1);
}

/// The slots of a block in `look_at` that are entries of runs, and the others of their runs: hardware sets A and D in
/// any of them for all. Precondition: no run is larger than a block.
template <slot_word Word, entry_format F, slot_access Access>
[[nodiscard]] constexpr std::uint64_t runs_in_block(const Word* slots, std::uint64_t look_at, const F& format,
                                                    Access access)
{
    std::uint64_t found = 0;
    for (; look_at != 0; look_at &= look_at - 1) {
        const auto n = static_cast<unsigned>(std::countr_zero(look_at));
        if ((found >> n & 1) != 0) continue;
        if (!is_in_run(access.load(slots[n]), format)) continue;
        const unsigned inside = (1U << format->shape().run_bits[0]) - 1;
        for (unsigned other = n & ~inside; other <= (n | inside); ++other) {
            if (is_in_run(access.load(slots[other]), format)) found |= std::uint64_t{1} << other;
        }
    }
    return found;
}

/// A page whose size is coded in its entries, which are copies of each other side by side in one table.
struct coded_page {
    std::uint64_t first = 0;  // index of its first slot
    std::uint64_t end = 0;    // 0: none
    std::uint64_t entry = 0;  // without what copies may differ in
    std::uint64_t compared = 0;
    unsigned shift = 0;

    constexpr coded_page() = default;
    template <entry_format F>
    constexpr coded_page(std::uint64_t of, std::uint64_t index, unsigned level, const F& format) noexcept
    {
        const layout& l = format->layout_at(level, kind::run);
        shift = page_shift_of(of, level, format);
        const std::uint64_t copies = std::uint64_t{1} << (shift - format->shape().page_shift(level));
        first = index & ~(copies - 1);
        end = first + copies;
        compared = ~(l.mask(role::accessed) | l.mask(role::dirty) | l.mask(role::software));
        entry = of & compared;
    }
    [[nodiscard]] constexpr bool has(std::uint64_t index, std::uint64_t other) const noexcept
    {
        return index >= first && index < end && (other & compared) == entry;
    }
};

/// Does an operation to all copies of a page's entry: hardware sets A and D in any of them for all. Returns whether it
/// was done to one.
template <slot_word Word, class Operation, slot_access Access>
[[nodiscard]] constexpr bool clear_copies(Word* slots, const coded_page& page, const Operation& clear, Access access,
                                          unsigned level)
{
    bool any = false;
    for (std::uint64_t n = page.first; n < page.end; ++n) {
        if (page.has(n, access.load(slots[n]))) any = clear(slots[n], access, level) || any;
    }
    return any;
}

/// Does an operation to every leaf that maps a part of a range, and reports where it was
/// done. An array keeps, for each level, where to go on.
template <slot_word Word, class Operation, entry_format F, class Memory, class Report, slot_access Access>
constexpr range_counts clear_in_range(const Operation& clear, const F& format, std::uint64_t root, range_part range,
                                      Memory& memory, Report& report, subtrees enter_those, Access access)
{
    struct position : slot_run {
        Word* slots = nullptr;
        unsigned above = 0;  // the level to go on with after this table
        coded_page done;     // the last one
    };
    const shape& t = format->shape();
    range_counts counts;
    if (t.levels == 0) return counts;  // a format that is wrong()
    const inclusive_range part = t.translated_part(range.addresses());
    // What begins before it belongs to another part: it is neither changed nor counted.
    const auto own = [&](std::uint64_t begin) { return !range.continues() || begin >= part.first; };
    const range_counts no_root{.missing = own(0) ? 1U : 0U};
    if (!is_root(root, format)) return no_root;
    if (part.empty()) return counts;

    position at[max_levels + 1];
    const auto enter = [&](unsigned level, Word* slots, std::uint64_t begin, unsigned above) {
        at[level] = {slot_run(t, level, begin, part), slots, above, {}};
        counts.tables += own(begin);
    };
    const auto found = [&](std::uint64_t offset, unsigned page_shift) {
        ++counts.pages;
        report(t.extended(offset), std::uint64_t{1} << page_shift);
    };

    Word* const top_table = slot_in<Word>(memory, root);
    if (top_table == nullptr) return no_root;
    unsigned level = t.levels;
    enter(level, top_table, 0, level + 1);
    while (level <= t.levels) {
        position& here = at[level];
        if (here.empty()) {
            level = here.above;
            continue;
        }
        if (level == 1 && !format->uses_sizes()) {
            // Up to the end of the block or of the range.
            const std::uint64_t block = here.next / block_slots * block_slots;
            const std::uint64_t slots = std::uint64_t{1} << t.index_bits_at(1);
            const std::uint64_t last = here.last - block < block_slots ? here.last - block : block_slots - 1;
            const std::uint64_t look_at = ones(static_cast<unsigned>(last), static_cast<unsigned>(here.next - block));
            const std::uint64_t count = slots - block < block_slots ? slots - block : block_slots;
            std::uint64_t in_runs = 0;
            // Entries of a run that is larger (128, in Arm's 16-Kbyte granule) are taken one by one.
            if (format->exists(1, kind::run) && std::uint64_t{1} << t.run_bits[0] <= block_slots) {
                in_runs = runs_in_block(here.slots + block, look_at, format, access);
            }
            std::uint64_t done = clear_in_block(here.slots + block, count, look_at | in_runs, clear, access, level);
            here.next = block + last + 1;
            while (done != 0) {
                std::uint64_t slot = static_cast<unsigned>(std::countr_zero(done));
                unsigned shift = t.page_shift(1);
                std::uint64_t of_page = done & ~(done - 1);
                if ((in_runs & of_page) != 0) {  // the page of all 16, or how many they are
                    shift = t.page_shift(1, kind::run);
                    const std::uint64_t inside = ones(t.run_bits[0] - 1U, 0);
                    slot &= ~inside;
                    of_page = in_runs & ones(static_cast<unsigned>(slot | inside), static_cast<unsigned>(slot));
                }
                done &= ~of_page;
                found(here.begin + ((block + slot) << t.page_shift(1)), shift);
            }
            continue;
        }
        const std::uint64_t begin = here.begin + (here.next << t.page_shift(level));
        Word& slot = here.slots[here.next++];
        const Word entry = access.load(slot);
        if (!present(entry, format)) {
            // Nothing, unless it is tracked.
            if (own(begin) && clear(slot, access, level)) found(begin, t.page_shift(level));
            continue;
        }
        if (!legal(entry, level, format)) {
            counts.illegal += level != 1 && own(begin);
            continue;
        }
        const kind k = kind_of(entry, level, format);
        const layout& l = format->layout_at(level, k);
        if (k == kind::run && l.sized) {
            if (here.done.has(here.next - 1, entry)) continue;
            here.done = coded_page(entry, here.next - 1, level, format);
            const std::uint64_t page = here.begin + (here.done.first << t.page_shift(level));
            if (own(page) && clear_copies(here.slots, here.done, clear, access, level)) found(page, here.done.shift);
            continue;
        }
        if (k != kind::table) {
            if (own(begin) && clear(slot, access, level)) found(begin, t.page_shift(level));
            continue;
        }
        const bool may_skip = enter_those == subtrees::accessed && l.mask(role::accessed) != 0;
        if (may_skip && (entry & l.mask(role::accessed)) == 0) {
            counts.skipped += own(begin);
            continue;
        }
        Word* const below = slot_in<Word>(memory, l.address_in(entry));
        if (below == nullptr) {
            counts.missing += own(begin);
            continue;
        }
        // Cleared before the leaves: a use between the two sets A in both again.
        const std::uint64_t end = begin + ones(t.page_shift(level) - 1, 0);
        if (may_skip && begin >= part.first && end <= part.last) {
            test_and_clear(slot, field{l.mask(role::accessed)}, access);
        }
        const unsigned above = level;
        level = format->level_below(entry, level);
        enter(level, below, begin, above);
    }
    return counts;
}

/// The format in the argument `by` of age_range() and harvest_range().
template <entry_format F>
[[nodiscard]] constexpr const F& format_of(const F& format) noexcept
{
    return format;  // NOLINT(bugprone-return-const-ref-from-parameter): the caller keeps it for the call
}
template <entry_format F, unsigned S>
[[nodiscard]] constexpr const F& format_of(const access_tracking<F, S>& tracking) noexcept
{
    return tracking.format();
}

}  // namespace detail

/// Ages every leaf, large ones included, that maps a part of a range, or that belongs to a range_part, and calls
/// report(address, size), both in bytes, for each page that was young. `by` is a format or
/// an access_tracking; `root` the physical address of the top table. Follows only present
/// entries that break no rule; guarantees, precondition and order of each leaf: age().
///
/// Addresses are reported in order, a large page, a page of a coded size or a run of level 1 once and from its
/// beginning: of the two latter all entries are aged, also those outside the range, since hardware sets A in any of
/// them for all. Entries of runs of another level, or of more than 64 entries, are pages of their own. Tables may share
/// tables, or contain themselves: a page is reported for each way to it, and only the range and the number of levels
/// bound the time.
template <class By, class Memory, class Report, slot_access Access = atomic_access<>>
    requires requires(const By& by) { detail::format_of(by); }
constexpr range_counts age_range(const By& by, std::uint64_t root, range_part range, Memory&& memory, Report&& report,
                                 subtrees enter_those = subtrees::all, Access access = {})
{
    const auto& format = detail::format_of(by);
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        return detail::clear_in_range<Word>(detail::ageing<By>{by}, format, root, range, memory, report, enter_those,
                                            access);
    });
}

/// Harvests every leaf, large ones included, that maps a part of a range, and calls
/// report(address, size) for each page that may have been written. Like age_range(), but never skips
/// subtrees: a page that wrongly looks clean would be lost. Flush: one before the pages count as
/// clean, if there are any.
template <class By, class Memory, class Report, slot_access Access = atomic_access<>>
    requires requires(const By& by) { detail::format_of(by); }
constexpr range_counts harvest_range(const By& by, std::uint64_t root, range_part range, Memory&& memory,
                                     Report&& report, Access access = {})
{
    const auto& format = detail::format_of(by);
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        return detail::clear_in_range<Word>(detail::dirty_harvesting<By>{by}, format, root, range, memory, report,
                                            subtrees::all, access);
    });
}

}  // namespace ptebits
