// SPDX-License-Identifier: BSL-1.0
// Ranges of a tree unmapped, and tables that are not needed any more.
//
// Each operation returns a tree_result, and appends to a flush list what TLBs must forget. The caller flushes and
// calls flushed() before pages that were taken away are used again. An operation that stops (the limit of steps, a
// full list, no memory) is called again with the same range and `from` = result.next.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/detail/range_changer.hpp>

namespace ptebits {
namespace detail {

/// Takes away leaves of a level that follow each other, and appends them to the list. Returns how many.
template <slot_word Word, class Tree, class Report>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t take_leaves(tree_editor<Word, Tree>& edit, Word* slots,
                                                                 std::uint64_t count, std::uint64_t offset,
                                                                 unsigned level, Report& report)
{
    const shape& s = edit.dimensions();
    const unsigned shift = s.page_shift(level);
    if (!edit.list_has_room(offset, offset + ones(shift - 1, 0), shift, level)) return 0;
    std::uint64_t i = 0;
    while (i < count) {
        Word entry = edit.load(slots[i]);
        if (!plain_leaf(entry, level, edit.format())) break;
        if (!edit.take(slots[i], entry)) continue;
        report(taken_page{s.extended(offset + (i << shift)), entry, level, shift, kind::leaf});
        ++i;
    }
    if (i != 0) edit.flush_due_for(offset, offset + ((i << shift) - 1), shift, false, level);
    return i;
}

/// unmap() where it is but to take leaves out of one table of the smallest pages. Returns how many were taken: of a
/// range that is not plain, or where something else is there, not all.
template <class Tree, class Report>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t unmap_in_one_table(Tree& t, inclusive_range range,
                                                                        flush_list& list, const range_options& options,
                                                                        Report& report)
{
    using format = typename Tree::format_type;
    if constexpr (constant_masks<format>) {
        const shape& s = constant<format>->shape();
        const std::uint64_t count = ((range.last - range.first) >> s.page_shift(1)) + 1;
        // A table of which nothing is left goes, and a run may reach over the range's ends.
        if (constant<format>->exists(1, kind::run) || count == std::uint64_t{1} << s.index_bits_at(1)) return 0;
        auto* const slots = slots_in_one_table(t, range, options);
        if (slots == nullptr) return 0;
        tree_editor<slot_type_of<format>, Tree> edit(t, list);
        const std::uint64_t pages = take_leaves(edit, slots, count, s.translated_part(range).first, 1, report);
        if (pages != 0) edit.publish(slots, pages);
        return pages;
    } else {
        return 0;
    }
}

/// unmap().
template <slot_word Word, class Tree, class Report>
class unmapping : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using frame = pass_frame<Word>;
    using changer::changer;
    static constexpr bool settles_ends = true;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t offset, frame& f)
    {
        Word seen = this->tree_.access.load(slot);
        if (level == 1 ? take_leaves(1, seen, offset, f) : take_leaves(level, seen, offset, f)) return step::next;
        if (is_empty(seen, this->format())) return step::next;
        if (this->frozen(seen)) {
            if (this->own(level, offset)) return step::next;
            if (!this->flush_frozen(level, offset)) return this->stop(tree_end::list_full);
            f.kept = true;
            return step::next;
        }
        if (this->is_table_entry(seen, level)) return step::into;
        if (this->busy(seen)) return this->stop(tree_end::pending);
        if (!within(seen, level, offset)) return this->stop(tree_end::inside_page);
        return this->take_page(slot, seen, level, offset, f);
    }
    constexpr step leave(frame& f, unsigned level, Word& slot_above, unsigned up, frame& above)
    {
        return this->unlink(f, level, slot_above, up, above, f.resumed);
    }

private:
    /// Takes away leaves that follow each other, the most of most ranges. Returns whether there were any; the frame is
    /// then at the last of them. Inlined by force, so that the smallest level is a constant.
    [[nodiscard]] PTEBITS_INLINE constexpr bool take_leaves(unsigned level, Word seen, std::uint64_t offset, frame& f)
    {
        const std::uint64_t ahead = this->leaves_ahead(level, seen, offset, f);
        if (ahead == 0) return false;
        const std::uint64_t count =
            detail::take_leaves<Word, Tree>(*this, f.slots + f.next, ahead, offset, level, this->report_);
        if (count == 0) return false;
        this->note_changed(f, f.next, f.next + count - 1);
        this->pass_by(f, count);
        this->result_.pages += count;
        this->result_.bytes += count << this->dimensions().page_shift(level);
        return true;
    }

    /// Whether the range covers the whole page. It does, unless others changed the tree after the ends were settled.
    [[nodiscard]] constexpr bool within(Word entry, unsigned level, std::uint64_t offset) const noexcept
    {
        const unsigned shift = this->is_page_entry(entry, level) ? page_shift_of(entry, level, this->format())
                                                                 : this->dimensions().page_shift(level);
        const std::uint64_t begin = offset & ~ones(shift - 1, 0);
        return begin >= this->settled.first && begin + ones(shift - 1, 0) <= this->settled.last;
    }
};

/// prune().
template <slot_word Word, class Tree, class Report>
class pruning : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using frame = pass_frame<Word>;
    using changer::changer;
    static constexpr bool settles_ends = false;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t offset, frame& f)
    {
        const Word seen = this->tree_.access.load(slot);
        if (is_empty(seen, this->format())) return step::next;
        if (this->is_table_entry(seen, level)) return step::into;
        f.kept = f.kept || !this->frozen(seen) || !this->own(level, offset);
        return step::next;
    }
    constexpr step leave(frame& f, unsigned level, Word& slot_above, unsigned up, frame& above)
    {
        return this->unlink(f, level, slot_above, up, above, true);
    }
};

}  // namespace detail

/// Takes away all that a range maps, and the tables that it covers; removes also entries that are no page.
/// `report(taken_page)` is called for each entry, with A and D as they were last. Addresses that are not translated
/// hold nothing. Order: acq_rel. Flush: `list`, before what was mapped is used for something else.
/// Errors: tree_end; with inside_page, cannot_split, no_memory, misaligned and borrowed nothing was taken away.
template <page_tree Tree, class Report = detail::no_report>
[[nodiscard]] constexpr tree_result unmap(Tree& t, inclusive_range range, flush_list& list,
                                          const range_options& options = {}, Report&& report = {})
{
    const detail::reading<Tree> inside(t);
    const std::uint64_t done = detail::unmap_in_one_table(t, range, list, options, report);
    const unsigned shift = t.format->shape().page_shift(1);
    const tree_result result{.next = range.first, .pages = done, .bytes = done << shift, .range = range};
    if (done != 0 && done == ((range.last - range.first) >> shift) + 1) [[likely]]
        return result;
    const auto always = [](const auto&, const tree_result&) { return true; };
    return detail::rest_of_range<detail::unmapping>(t, range, list, options, report, always,
                                                    done == 0 ? tree_result{} : result, done);
}

/// Takes out the tables that a range covers and that hold nothing but empty slots. Order, flush: as unmap().
template <page_tree Tree>
[[nodiscard]] constexpr tree_result prune(Tree& t, inclusive_range range, flush_list& list,
                                          const range_options& options = {})
{
    static_assert(detail::frees_tables<typename std::remove_cvref_t<Tree>::sharing_type>,
                  "ptebits: the tables of this shared tree stay, unless it is given a read section");
    detail::no_report report;
    const detail::reading<Tree> inside(t);
    return detail::pass_over<detail::pruning>(t, range, list, options, report,
                                              [](const auto&, tree_result&) { return true; });
}

/// Takes away all that a tree maps, with all its tables but the top one, which is the caller's; borrowed top slots
/// stay. Precondition: the tree is exclusive. Order, report, flush: as unmap().
template <page_tree Tree, class Report = detail::no_report>
[[nodiscard]] constexpr tree_result destroy(Tree& t, flush_list& list, const range_options& options = {},
                                            Report&& report = {})
{
    static_assert(!detail::is_shared<typename std::remove_cvref_t<Tree>::sharing_type>,
                  "ptebits: destroy a tree when one thread alone uses it: as an exclusive one");
    const shape& s = t.format->shape();
    if (s.levels == 0) return tree_result{.end = tree_end::not_a_root};
    const std::uint64_t slots = std::uint64_t{1} << s.index_bits_at(s.levels);
    const borrowed_slots& b = t.borrowed;
    const bool any = b.first <= b.last;
    // The slots before those that are borrowed, and behind them.
    const inclusive_range parts[] = {{0, any ? b.first - 1 : slots - 1}, {any ? b.last + 1 : slots, slots - 1}};
    tree_result all;
    for (const inclusive_range& part : parts) {
        if (part.empty() || part.last >= slots) continue;
        const unsigned shift = s.page_shift(s.levels);
        const inclusive_range range{s.extended(part.first << shift),
                                    s.extended((part.last << shift) | ones(shift - 1, 0))};
        if (options.from > range.last) continue;
        const tree_result one =
            unmap(t, range, list, {.ends = range_end::refuse, .limit = options.limit, .from = options.from}, report);
        all.go_on(one);
        if (!one) break;
    }
    return all;
}

}  // namespace ptebits
