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
                const std::uint64_t wanted = with_rights(old, level, k);
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

    /// Whether the format can grant just this in every page that it has.
    [[nodiscard]] constexpr bool encodable() const noexcept
    {
        for (unsigned level = 1; level <= this->dimensions().levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (!this->format()->exists(level, k)) continue;
                if (permission_bits(k, level, grant, this->format()) == not_offered) return false;
            }
        }
        return true;
    }

    permissions grant{};

private:
    [[nodiscard]] constexpr std::uint64_t with_rights(std::uint64_t entry, unsigned level, kind k) const noexcept
    {
        const layout& l = this->format()->layout_at(level, k);
        std::uint64_t wanted = (entry & ~l.permission_mask()) | permission_bits(k, level, grant, this->format());
        if (!grant.write) return wanted & ~this->format()->revocable_writes();
        // A clean page that hardware makes writable stays one.
        if ((entry & l.mask(role::dirty_modifier)) != 0) {
            wanted = (wanted & ~l.mask(role::write)) | (entry & l.mask(role::write));
        }
        return wanted;
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
            this->tree_.access.store(slots[i], static_cast<Word>(with_rights(found, level, kind::run)));
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
        const auto part_at = [&](std::uint64_t i) {
            return static_cast<Word>(split(whole, level + 1, static_cast<unsigned>(i), this->format()).entry);
        };
        const std::uint64_t count = this->slots_of(level);
        whole &= ~flags;
        std::uint64_t taken = 0;
        for (; taken < count; ++taken) {
            Word& slot = f.slots[taken];
            const Word part = part_at(taken);
            Word seen = this->tree_.access.load(slot);
            bool mine = false;
            while (!mine && ((seen ^ part) & ~flags) == 0) {
                mine = this->tree_.access.compare_exchange(slot, seen, slot_mask<Word>(this->busy_marker().value));
            }
            if (!mine) break;
            whole |= seen & flags;
        }
        if (taken != count) {
            for (std::uint64_t i = 0; i < taken; ++i) this->tree_.access.store(f.slots[i], part_at(i));
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
    return detail::pass_over<detail::protecting>(t, range, list, options, report, [&](auto& pass, tree_result& result) {
        pass.grant = grant;
        if (pass.encodable()) return true;
        result.end = tree_end::not_encodable;
        result.encode = encode_error::permission_not_offered;
        return false;
    });
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
