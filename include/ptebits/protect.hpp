// SPDX-License-Identifier: BSL-1.0
// Ranges of a tree changed: their rights, and the sizes of their pages.
//
// Results, the flush list and how to go on are as in unmap.hpp.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/detail/range_changer.hpp>

namespace ptebits {
namespace detail {

/// What protect() makes of the entries of a kind and level.
struct entry_change {
    std::uint64_t clear = 0;
    std::uint64_t set = 0;
    std::uint64_t dirty_modifier = 0;  // where set, what `kept` has stays
    std::uint64_t kept = 0;

    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t of(std::uint64_t entry) const noexcept
    {
        const std::uint64_t wanted = (entry & ~clear) | set;
        return (entry & dirty_modifier) == 0 ? wanted : (wanted & ~kept) | (entry & kept);
    }
};

/// What protect() makes of all entries.
template <entry_format F>
class rights_change {
public:
    constexpr rights_change(const permissions& grant, const F& format) noexcept : grant_(grant), format_(format) {}

    /// Whether the format can grant just this in every page that it has.
    [[nodiscard]] constexpr bool encodable() const noexcept
    {
        for (unsigned level = 1; level <= format_->shape().levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (format_->exists(level, k) && bits_granting(k, level, grant_, format_) == not_offered) return false;
            }
        }
        return true;
    }
    /// Precondition: encodable(); entries of the kind exist at the level.
    [[nodiscard]] PTEBITS_INLINE constexpr entry_change at(unsigned level, kind k) const noexcept
    {
        const layout& l = format_->layout_at(level, k);
        const std::uint64_t granted = bits_granting(k, level, grant_, format_);
        // A clean page that hardware makes writable stays one.
        if (grant_.write) return {l.permission_mask(), granted, l.mask(role::dirty_modifier), l.mask(role::write)};
        const std::uint64_t writes = format_->revocable_writes();
        return {l.permission_mask() | writes, granted & ~writes, 0, 0};
    }

private:
    permissions grant_;
    const F& format_;
};

/// Slots of a table that an operation passed.
struct passed_slots {
    std::uint64_t count = 0;
    std::uint64_t changed = 0;
    std::uint64_t changed_first = 0;
    std::uint64_t changed_last = 0;
};

/// Changes the rights of leaves of a level that follow each other, and appends to the list what is due for them. Stops
/// before anything else, and where the list has no room.
template <slot_word Word, class Tree, class Report>
[[nodiscard]] PTEBITS_INLINE constexpr passed_slots change_leaves(tree_editor<Word, Tree>& edit, Word* slots,
                                                                  std::uint64_t count, std::uint64_t offset,
                                                                  unsigned level, entry_change change, Report& report)
{
    const auto& format = edit.format();
    const shape& s = edit.dimensions();
    const unsigned shift = s.page_shift(level);
    const std::uint64_t free = format->layout_at(level, kind::leaf).mask(role::address) | free_flags_of(level, format);
    passed_slots passed;
    std::uint64_t i = 0;
    while (i < count) {
        const Word first = edit.load(slots[i]);
        if (!plain_leaf(first, level, format)) break;
        const auto difference = static_cast<Word>(first ^ change.of(first));
        const auto after = static_cast<Word>(first ^ difference);
        if (difference != 0 && !plain_leaf(after, level, format)) break;
        const bool due = difference != 0 && needs_flush(first, after, format, level);
        const std::uint64_t begin = offset + (i << shift);
        if (due && !edit.list_has_room(begin, begin + ones(shift - 1, 0), shift, 0)) break;
        // All that follow and are like it are changed like it.
        const std::uint64_t from = i;
        while (i < count) {
            Word before = edit.load(slots[i]);
            if (((before ^ first) & ~free) != 0) break;
            if (difference != 0) {
                if (!edit.replace(slots[i], before, before ^ difference)) continue;
                report(taken_page{s.extended(offset + (i << shift)), before, level, shift, kind::leaf});
            }
            ++i;
        }
        if (difference == 0 || i == from) continue;
        if (passed.changed == 0) passed.changed_first = from;
        passed.changed_last = i - 1;
        passed.changed += i - from;
        if (due) edit.flush_due_for(begin, offset + ((i << shift) - 1), shift, false, 0);
    }
    passed.count = i;
    return passed;
}

/// protect() where it is but to change leaves in one table of the smallest pages. Of a range that is not plain, or
/// where something else is there, it does not pass all slots.
template <class Tree, class Report>
[[nodiscard]] PTEBITS_INLINE constexpr passed_slots protect_in_one_table(
    Tree& t, inclusive_range range, const rights_change<typename Tree::format_type>& rights, flush_list& list,
    const range_options& options, Report& report)
{
    using format = typename Tree::format_type;
    if constexpr (constant_masks<format>) {
        // A run may reach over the range's ends.
        if (constant<format>->exists(1, kind::run) || !rights.encodable()) return {};
        auto* const slots = slots_in_one_table(t, range, options);
        if (slots == nullptr) return {};
        const shape& s = constant<format>->shape();
        const std::uint64_t count = ((range.last - range.first) >> s.page_shift(1)) + 1;
        tree_editor<slot_type_of<format>, Tree> edit(t, list);
        const std::uint64_t first = s.translated_part(range).first;
        const passed_slots passed = change_leaves(edit, slots, count, first, 1, rights.at(1, kind::leaf), report);
        if (passed.changed != 0) {
            edit.publish(slots + passed.changed_first, passed.changed_last - passed.changed_first + 1);
        }
        return passed;
    } else {
        return {};
    }
}

/// protect().
template <slot_word Word, class Tree, class Report>
class protecting : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using editor = tree_editor<Word, Tree>;
    using frame = pass_frame<Word>;
    using changer::changer;
    static constexpr bool settles_ends = true;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t offset, frame& f)
    {
        const Word seen = this->tree_.access.load(slot);
        if (level == 1 ? pass_leaves(1, seen, offset, f) : pass_leaves(level, seen, offset, f)) return step::next;
        if (is_empty(seen, this->format())) return step::next;
        if (this->frozen(seen)) {
            // The page that was there may still be used with its rights.
            const bool known = this->own(level, offset) || this->flush_frozen(level, offset);
            return known ? step::next : this->stop(tree_end::list_full);
        }
        if (this->is_table_entry(seen, level)) return step::into;
        if (this->busy(seen)) return this->stop(tree_end::pending);
        const shape& s = this->dimensions();
        if (!this->is_page_entry(seen, level)) {
            this->report_(taken_page{s.extended(offset), seen, level, s.page_shift(level), kind::none});
            return step::next;
        }
        const unsigned shift = page_shift_of(seen, level, this->format());
        const std::uint64_t begin = offset & ~ones(shift - 1, 0);
        const std::uint64_t last = begin | ones(shift - 1, 0);
        if (begin < this->settled.first || last > this->settled.last) return this->stop(tree_end::inside_page);
        if (!this->list_has_room(begin, last, shift, 0)) return this->stop(tree_end::list_full);

        const kind k = kind_of(seen, level, this->format());
        // Of a run whose first slots others took the rest.
        std::uint64_t count = ((last - offset) >> s.page_shift(level)) + 1;
        const bool apart = k == kind::run && this->format()->break_before_make();
        std::uint64_t before = 0;
        bool changed = false;
        bool due = false;
        for (std::uint64_t i = 0; i < count; ++i) {
            Word& one = *(&slot + i);
            Word old = this->tree_.access.load(one);
            for (;;) {
                if (!this->is_page_entry(old, level) || kind_of(old, level, this->format()) != k ||
                    page_shift_of(old, level, this->format()) != shift) {
                    // Others changed it, as by a split: the pass goes on with it.
                    count = i;
                    break;
                }
                const std::uint64_t wanted = rights->at(level, k).of(old);
                if (!legal(wanted, level, this->format())) {
                    this->result_.encode = encode_error::value_not_legal;
                    this->result_.entry = old;
                    this->result_.level = level;
                    return this->stop(tree_end::not_encodable);
                }
                if (wanted != old && apart) {
                    if (!changer::can_break_run) return this->stop(tree_end::cannot_change_live);
                    before = change_run(&slot, count, begin, level, shift);
                    changed = true;
                    break;
                }
                if (wanted != old) {
                    if (!this->tree_.access.compare_exchange(one, old, static_cast<Word>(wanted))) continue;
                    changed = true;
                    due = due || needs_flush(old, wanted, this->format(), level);
                }
                // Of the others of a run A and D.
                before = i == 0 ? std::uint64_t{old} : this->with_flags_of(before, old, level);
                break;
            }
            if (apart && changed) break;
        }
        if (count == 0) return step::again;
        if (changed) {
            this->publish(&slot, count);
            ++this->result_.pages;
            this->result_.bytes += last - begin + 1;
            if (due) this->flush_due_for(begin, last, shift, false, 0);
            this->report_(taken_page{s.extended(begin), before, level, shift, k});
        }
        f.next += count - 1;
        return step::next;
    }
    constexpr step leave(frame&, unsigned, Word&, unsigned, frame&) const noexcept { return step::next; }

    const rights_change<typename Tree::format_type>* rights = nullptr;

private:
    /// Changes leaves that follow each other, the most of most ranges. Returns whether there were any; the frame is
    /// then at the last of them. Inlined by force, so that the smallest level is a constant.
    [[nodiscard]] PTEBITS_INLINE constexpr bool pass_leaves(unsigned level, Word seen, std::uint64_t offset, frame& f)
    {
        const std::uint64_t count = this->leaves_ahead(level, seen, offset, f);
        if (count == 0) return false;
        const passed_slots passed = change_leaves<Word, Tree>(*this, f.slots + f.next, count, offset, level,
                                                              rights->at(level, kind::leaf), this->report_);
        if (passed.count == 0) return false;
        if (passed.changed != 0) {  // at once: a run that comes next may be flushed
            this->publish(f.slots + f.next + passed.changed_first, passed.changed_last - passed.changed_first + 1);
        }
        this->pass_by(f, passed.count);
        this->result_.pages += passed.changed;
        this->result_.bytes += passed.changed << this->dimensions().page_shift(level);
        return true;
    }

    /// Makes the entries of a run absent, flushes them, and makes them present with other rights. What they hold else
    /// they keep meanwhile. Returns the first as it was, with A and D of all; `count`: how many there were.
    [[nodiscard]] constexpr std::uint64_t change_run(Word* slots, std::uint64_t& count, std::uint64_t begin,
                                                     unsigned level, unsigned shift)
    {
        std::uint64_t before = 0;
        const std::uint64_t present = this->format()->present_mask();
        const layout& l = this->format()->layout_at(level, kind::run);
        for (std::uint64_t i = 0; i < count; ++i) {
            if (!this->same_run(this->tree_.access.load(slots[i]), level, shift)) count = i;
            if (i < count) static_cast<void>(this->tree_.access.fetch_and(slots[i], static_cast<Word>(~present)));
        }
        this->publish(slots, count);
        this->flush_now(begin, shift);
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t found = this->tree_.access.load(slots[i]) | (l.value & l.mask(role::fixed) & present);
            before = i == 0 ? found : this->with_flags_of(before, found, level);
            this->tree_.access.store(slots[i], static_cast<Word>(rights->at(level, kind::run).of(found)));
        }
        this->note_made(begin, shift);
        return before;
    }
};

/// split_pages().
template <slot_word Word, class Tree, class Report>
class splitting : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using frame = pass_frame<Word>;
    using changer::changer;
    static constexpr bool settles_ends = false;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t offset, frame&)
    {
        const Word seen = this->tree_.access.load(slot);
        if (is_empty(seen, this->format())) return step::next;
        if (this->is_table_entry(seen, level)) return step::into;
        if (this->busy(seen)) return this->stop(tree_end::pending);
        if (!this->is_page_entry(seen, level)) return step::next;
        const unsigned page = page_shift_of(seen, level, this->format());
        if (page <= shift) return step::next;
        typename changer::table_reserve none(this->tree_);
        const cut_page<Word> whole{&slot, seen, offset, offset & ~ones(page - 1, 0), level, page, tree_end::done};
        if (!this->split_page(whole, none)) return step::stop;
        ++this->result_.pages;
        return step::again;
    }
    constexpr step leave(frame&, unsigned, Word&, unsigned, frame&) const noexcept { return step::next; }

    unsigned shift = 0;
};

/// merge_pages().
template <slot_word Word, class Tree, class Report>
class merging : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using editor = tree_editor<Word, Tree>;
    using frame = pass_frame<Word>;
    using changer::changer;
    static constexpr bool settles_ends = false;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t, frame&) const
    {
        return this->is_table_entry(this->tree_.access.load(slot), level) ? step::into : step::next;
    }
    constexpr step leave(frame& f, unsigned level, Word& slot_above, unsigned up, frame&)
    {
        if (!f.whole || level + 1 != up || this->dimensions().page_shift(up) > largest) return step::next;
        // Looked at first, so that nothing is made absent in vain.
        const auto entry_at = [&](unsigned i) -> std::uint64_t { return this->tree_.access.load(f.slots[i]); };
        resized whole = merge_entries(entry_at, this->tree_.access.load(slot_above), up, this->format());
        if (!whole) return step::next;
        const unsigned shift = this->dimensions().page_shift(up);
        const std::uint64_t last = f.begin + ones(shift - 1, 0);
        const unsigned small = this->dimensions().page_shift(level);
        if constexpr (editor::shared_tree) {
            if (!this->list_.has_room_for_table() || !this->list_has_room(f.begin, last, small, 0)) {
                return this->stop(tree_end::list_full);
            }
            // Others may be in the table: from now on their exchanges fail.
            if (!take_parts(f, level, whole.entry)) return step::next;
        }
        const taken_entry<Word> taken =
            begin_merge(slot_above, up, this->format(), this->busy_marker(), this->tree_.access);
        if (!taken) return step::next;
        this->publish(&slot_above, 1);
        this->flush_now(f.begin, shift);
        const auto finish = [&] {
            if constexpr (editor::shared_tree) return put(slot_above, taken, whole, this->tree_.access);
            // In an exclusive tree the CPU may have set A and D until now.
            return finish_merge(slot_above, taken, up, f.slots, this->format(), this->tree_.access);
        };
        const split_error error = finish();
        this->publish(&slot_above, 1);
        this->note_made(f.begin, shift);
        if (error != split_error::none) return step::next;
        if constexpr (editor::shared_tree) {
            // Others may still be in the table: it goes when they have left.
            this->flush_due_for(f.begin, last, small, true, 0);
            this->list_.queue({f.table, level});
        } else {
            this->tree_.allocator.release(f.table, level);
        }
        ++this->result_.pages;
        ++this->result_.tables_freed;
        return step::next;
    }

    unsigned largest = 63;

private:
    /// Makes all slots of a table busy, whose entries are parts of a page; this gets the A and D that they had. Nobody
    /// takes the table out then. False: others changed an entry; those that were taken are back, with the A and D of
    /// all.
    [[nodiscard]] constexpr bool take_parts(const frame& f, unsigned level, std::uint64_t& whole)
    {
        const std::uint64_t flags = flags_of_leaf(whole, this->format()->layout_at(level, kind::leaf), this->format());
        const std::uint64_t count = this->slots_of(level);
        whole &= ~flags;
        const leaf_parts parts(whole, level + 1, this->format());
        std::uint64_t taken = 0;
        for (; taken < count; ++taken) {
            Word& slot = f.slots[taken];
            const auto part = static_cast<Word>(parts.at(taken).entry);
            Word seen = this->tree_.access.load(slot);
            bool mine = false;
            while (!mine && ((seen ^ part) & ~flags) == 0) {
                mine = this->tree_.access.compare_exchange(slot, seen, slot_mask<Word>(this->busy_marker().value));
            }
            if (!mine) break;
            whole |= seen & flags;
        }
        if (taken != count) {
            leaves_in_order part = leaf_parts(whole, level + 1, this->format()).in_order();
            for (std::uint64_t i = 0; i < taken; ++i, part.next()) {
                this->tree_.access.store(f.slots[i], static_cast<Word>(part.entry()));
            }
        }
        this->publish(f.slots, taken);
        if (taken != count) this->note_made(f.begin, this->dimensions().page_shift(level + 1));
        return taken == count;
    }
};

}  // namespace detail

/// Makes all pages of a range grant just these rights; all else in their entries stays, A and D too. A shadow-stack
/// page that becomes read-only loses D, which `report(taken_page)` tells: it is called for each page that was changed,
/// with the entry as it was. Entries that are no page stay as they are and are reported with kind::none: a tracked one
/// among them keeps its page's rights. Order: acq_rel. Flush: `list`, where a translation that a TLB may hold allows
/// more. Errors: tree_end; with not_encodable, inside_page, cannot_split, no_memory, misaligned and borrowed nothing
/// was changed.
template <page_tree Tree, class Report = detail::no_report>
[[nodiscard]] constexpr tree_result protect(Tree& t, inclusive_range range, const permissions& grant, flush_list& list,
                                            const range_options& options = {}, Report&& report = {})
{
    const detail::reading<Tree> inside(t);
    const detail::rights_change<typename Tree::format_type> rights(grant, t.format);
    const detail::passed_slots passed = detail::protect_in_one_table(t, range, rights, list, options, report);
    const unsigned shift = t.format->shape().page_shift(1);
    tree_result result{.next = range.first, .pages = passed.changed, .bytes = passed.changed << shift, .range = range};
    if (passed.count != 0 && passed.count == ((range.last - range.first) >> shift) + 1) [[likely]]
        return result;
    if (passed.count == 0) result = {};
    const auto prepare = [&rights](auto& pass, tree_result& refused) {
        pass.rights = &rights;
        if (rights.encodable()) return true;
        refused.end = tree_end::not_encodable;
        refused.encode = encode_error::permission_not_offered;
        return false;
    };
    return detail::rest_of_range<detail::protecting>(t, range, list, options, report, prepare, result, passed.count);
}

/// Splits all pages, of which a part lies in the range, that are larger than 2^page_shift bytes. The parts mean the
/// same as the page. A live page is split by one exchange, or where the format wants it through an absent entry that
/// memory.flush() flushes. Order: acq_rel. Flush: none, since an operation that changes one of the parts flushes it;
/// but `list` where the page was absent meanwhile and the format caches absent entries. Errors: no_memory,
/// cannot_split, cannot_change_live; what was split until then stays.
template <page_tree Tree>
[[nodiscard]] constexpr tree_result split_pages(Tree& t, inclusive_range range, unsigned page_shift, flush_list& list,
                                                const range_options& options = {})
{
    detail::no_report report;
    const detail::reading<Tree> inside(t);
    return detail::pass_over<detail::splitting>(t, range, list, options, report, [&](auto& pass, tree_result&) {
        const unsigned smallest = t.format->shape().page_shift(1);
        pass.shift = page_shift > smallest ? page_shift : smallest;
        return true;
    });
}

/// Puts a large page in the place of each table that the range covers and whose pages follow each other and are alike,
/// up to pages of 2^largest bytes. The entry is absent meanwhile and memory.flush() flushes it, so that no A or D is
/// lost. Precondition: a shared tree has a read section and the marker `busy`. Order: acq_rel. Flush: done by
/// memory.flush(); but `list` where the format caches absent entries, and in a shared tree for the tables, which others
/// may still read. Errors: list_full.
template <page_tree Tree>
[[nodiscard]] constexpr tree_result merge_pages(Tree& t, inclusive_range range, unsigned largest, flush_list& list,
                                                const range_options& options = {})
{
    using sharing = typename std::remove_cvref_t<Tree>::sharing_type;
    static_assert(!detail::is_shared<sharing> || (detail::has_busy<sharing> && detail::frees_tables<sharing>),
                  "ptebits: to merge pages of a shared tree, give it a read section and a marker of busy entries");
    static_assert(
        requires(const flush_item& item) { t.memory.flush(item); },
        "ptebits: merging needs memory.flush(), or A and D that are set meanwhile would be lost");
    detail::no_report report;
    const detail::reading<Tree> inside(t);
    return detail::pass_over<detail::merging>(t, range, list, options, report, [&](auto& pass, tree_result&) {
        pass.largest = largest;
        return true;
    });
}

}  // namespace ptebits
