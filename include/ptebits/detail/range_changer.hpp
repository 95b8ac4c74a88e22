// SPDX-License-Identifier: BSL-1.0
// Part of unmap.hpp, protect.hpp and map.hpp: the pass over the slots of a range, and what its operations have in
// common.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <ptebits/tree.hpp>

namespace ptebits {

/// What becomes of a page that reaches over an end of the range.
enum class range_end : std::uint8_t {
    refuse,  ///< nothing is changed: tree_end::inside_page, and which entry it is
    split,   ///< it is split. The tables for this are allocated before anything is changed
    whole,   ///< it is part of the range: result.range tells how far that went
};

/// How a range is changed.
struct range_options {
    range_end ends = range_end::refuse;
    std::uint64_t limit = ~std::uint64_t{0};  ///< slots looked at, after which the operation stops
    std::uint64_t from = 0;                   ///< of an operation that stopped: its result.next
};

namespace detail {

/// The slots of the largest table: 64 Kbytes of 8 bytes.
inline constexpr std::uint64_t most_slots = 8192;

/// What a step does next.
enum class step : std::uint8_t { next, into, again, stop };

/// The range of an operation, as offsets into what the tables translate.
struct tree_part {
    inclusive_range all{1, 0};
    std::uint64_t from = 0;
};

/// A table on the way of a pass.
template <slot_word Word>
struct pass_frame {
    Word* slots;
    std::uint64_t table;  ///< its physical address
    std::uint64_t begin;  ///< the first offset that it translates
    std::uint64_t next;
    std::uint64_t last;
    unsigned above;  ///< the level to go on with after it
    bool whole;      ///< the range covers all that it translates
    bool kept;       ///< something stays in it
    bool resumed;    ///< the pass began inside it
    // Slots that were changed and are not published yet.
    std::uint64_t changed_first;
    std::uint64_t changed_last;
};

/// A pass over the slots of a range, in order; a table's slots before the table is left.
template <slot_word Word, class Tree>
class tree_pass : public tree_editor<Word, Tree> {
public:
    using editor = tree_editor<Word, Tree>;
    using frame = pass_frame<Word>;

    constexpr tree_pass(Tree& t, flush_list& list) noexcept : editor(t, list)
    {
        if (!std::is_constant_evaluated() && !publishes) return;
        for (frame& f : at_) {
            f = {};
            f.changed_first = 1;
        }
    }

    /// step.slot(slot, level, offset, frame) and step.leave(frame, level, slot above, its level, its frame) decide.
    template <class Step>
    constexpr void run(const tree_part& part, std::uint64_t limit, tree_result& result, Step& how)
    {
        left_ = limit;
        pass_slots(part, result, how);
        if constexpr (publishes) {
            for (frame& f : at_) publish_changed(f);
        }
    }

    /// Notes slots that were changed: they are published before their table is left.
    constexpr void note_changed([[maybe_unused]] frame& f, [[maybe_unused]] std::uint64_t first,
                                [[maybe_unused]] std::uint64_t last) noexcept
    {
        if constexpr (publishes) {
            if (f.changed_first > f.changed_last) {
                f.changed_first = first;
                f.changed_last = last;
            } else if (last > f.changed_last) {
                f.changed_last = last;
            }
        }
    }

    constexpr void stop_at(std::uint64_t offset, tree_end why, tree_result& result) const noexcept
    {
        result.end = why;
        result.next = this->dimensions().extended(offset);
    }

private:
    static constexpr bool publishes = requires(Tree& t, Word* slots) { t.memory.publish(slots, std::uint64_t{1}); };

    constexpr void publish_changed([[maybe_unused]] frame& f)
    {
        if constexpr (publishes) {
            if (f.changed_first > f.changed_last) return;
            this->publish(f.slots + f.changed_first, f.changed_last - f.changed_first + 1);
            f.changed_first = 1;
            f.changed_last = 0;
        }
    }

    template <class Step>
    constexpr void pass_slots(const tree_part& part, tree_result& result, Step& how)
    {
        const shape& s = this->dimensions();
        Word* const top = this->table_at(this->tree_.root);
        if (top == nullptr) {
            result.end = tree_end::table_missing;
            return;
        }
        unsigned level = s.levels;
        if (Word* const lowest = only_ != nullptr ? only_ : only_table(part); lowest != nullptr) {
            const std::uint64_t begin = part.all.first & ~ones(s.page_shift(2) - 1, 0);
            enter(1, lowest, 0, begin, level + 1, part);
            level = 1;
        } else {
            enter(level, top, this->tree_.root, 0, level + 1, part);
        }
        at_[level].whole = false;  // the top table is the caller's, and the only one is not covered whole
        while (level <= s.levels) {
            frame& f = at_[level];
            if (f.next > f.last) {
                if (f.above > s.levels) return;
                const unsigned up = f.above;
                frame& above = at_[up];
                publish_changed(f);
                if (how.leave(f, level, above.slots[above.next], up, above) == step::stop) {
                    result.next = s.extended(f.begin);
                    return;
                }
                ++above.next;
                level = up;
                continue;
            }
            const std::uint64_t offset = f.begin + (f.next << s.page_shift(level));
            // Not before it came further than it began, or it would stop there again.
            if (left_ == 0 && offset > part.from) {
                stop_at(offset, tree_end::limit, result);
                return;
            }
            if (left_ != 0) --left_;
            Word& slot = f.slots[f.next];
            switch (how.slot(slot, level, offset, f)) {
            case step::next:
                ++f.next;
                break;
            case step::again:
                break;
            case step::stop:
                result.next = s.extended(offset < part.from ? part.from : offset);
                return;
            case step::into: {
                const std::uint64_t entry = this->tree_.access.load(slot);
                if (!this->is_table_entry(entry, level)) break;  // changed meanwhile: look again
                unsigned lower = 0;
                Word* const slots = this->below(entry, level, lower);
                if (slots == nullptr) {
                    result.entry = entry;
                    result.level = level;
                    stop_at(offset, tree_end::table_missing, result);
                    return;
                }
                const std::uint64_t table = this->format()->layout_at(level, kind::table).address_in(entry);
                enter(lower, slots, table, offset, level, part);
                level = lower;
                break;
            }
            }
        }
    }

protected:
    /// The table of smallest pages that holds all of a range, but is not covered whole; null if there is none such.
    [[nodiscard]] constexpr Word* only_table(const tree_part& part)
    {
        const shape& s = this->dimensions();
        const unsigned span = s.page_shift(2);
        const std::uint64_t length = part.all.last - part.all.first;  // less one
        if ((part.all.first ^ part.all.last) >> span != 0 || length == ones(span - 1, 0)) return nullptr;
        const found_slot<Word> at = quick_slot<Word>(this->tree_, s.extended(part.all.first), 1);
        return at.slot == nullptr ? nullptr : at.slot - s.index(part.all.first, 1);
    }

    std::uint64_t left_ = 0;  ///< slots that may still be looked at
    Word* only_ = nullptr;    ///< only_table() of the range, where it was looked for

private:
    constexpr void enter(unsigned entered, Word* slots, std::uint64_t table, std::uint64_t begin, unsigned back,
                         const tree_part& part)
    {
        const shape& s = this->dimensions();
        const slot_run rest(s, entered, begin, {part.from, part.all.last});
        const bool resumed = part.from != part.all.first && slot_run(s, entered, begin, part.all).next < rest.next;
        const std::uint64_t end = begin + ones(s.page_shift(entered + 1) - 1, 0);
        at_[entered] = {.slots = slots,
                        .table = table,
                        .begin = begin,
                        .next = rest.next,
                        .last = rest.last,
                        .above = back,
                        .whole = editor::frees && begin >= part.all.first && end <= part.all.last,
                        .kept = false,
                        .resumed = resumed,
                        .changed_first = 1,
                        .changed_last = 0};
    }

    frame at_[max_levels + 2];  // not initialized: most are not used
};

/// Whether a range, as offsets, has addresses of borrowed top slots.
template <class Tree>
[[nodiscard]] constexpr bool reaches_borrowed(const Tree& t, inclusive_range part) noexcept
{
    const shape& s = t.format->shape();
    return t.borrowed.overlap(s.index(part.first, s.levels), s.index(part.last, s.levels));
}

/// The range of an operation, checked.
template <class Tree>
[[nodiscard]] constexpr bool find_part(const Tree& t, inclusive_range range, std::uint64_t from, tree_part& part,
                                       tree_result& result)
{
    const shape& s = t.format->shape();
    if (!is_root(t.root, t.format)) {
        result.end = tree_end::not_a_root;
        return false;
    }
    result.next = range.first;
    part.all = s.translated_part(range);
    if (part.all.empty()) return false;
    const unsigned granule = s.page_shift(1);
    if (((part.all.first | (part.all.last + 1)) & ones(granule - 1, 0)) != 0) {
        result.end = tree_end::misaligned;
        return false;
    }
    if (reaches_borrowed(t, part.all)) {
        result.end = tree_end::borrowed;
        return false;
    }
    part.from = part.all.first;
    if (from > range.first) {
        const inclusive_range rest = s.translated_part({from, range.last});
        if (rest.empty()) return false;
        part.from = rest.first;
    }
    return true;
}

/// A page that reaches over an end of a range.
template <slot_word Word>
struct cut_page {
    Word* slot = nullptr;  ///< the slot at the end; null: no page reaches over it
    std::uint64_t entry = 0;
    std::uint64_t offset = 0;  ///< of the slot
    std::uint64_t begin = 0;   ///< of the page
    unsigned level = 0;
    unsigned shift = 0;
    tree_end end = tree_end::done;
};

/// What operations on ranges have in common.
template <slot_word Word, class Tree, class Report>
class range_changer : public tree_pass<Word, Tree> {
public:
    using pass = tree_pass<Word, Tree>;
    using editor = tree_editor<Word, Tree>;
    using frame = pass_frame<Word>;

    constexpr range_changer(Tree& t, flush_list& list, Report& report, tree_result& result) noexcept
        : pass(t, list), report_(report), result_(result)
    {
    }

    // ---- the ends

    /// The page, if any, of which a part lies before an offset and a part at or after it.
    [[nodiscard]] constexpr cut_page<Word> page_over(std::uint64_t offset)
    {
        const shape& s = this->dimensions();
        // What begins at the offset reaches over it only as one of a run; nothing below it does, and its table may be
        // somebody else's.
        unsigned level = 1;
        while (level < s.levels && (offset & ones(s.page_shift(level + 1) - 1, 0)) == 0) ++level;
        const found_slot<Word> at = find_slot<Word>(this->tree_, s.extended(offset), level);
        if (at.slot == nullptr) return {.end = at.end};
        if (is_empty(at.entry, this->format()) || this->frozen(at.entry)) return {};
        if (this->is_table_entry(at.entry, at.level)) return {};
        if (this->busy(at.entry)) return {.end = tree_end::pending};
        const bool page = this->is_page_entry(at.entry, at.level);
        const unsigned shift = page ? page_shift_of(at.entry, at.level, this->format()) : s.page_shift(at.level);
        const std::uint64_t begin = offset & ~ones(shift - 1, 0);
        if (begin == offset) return {};
        return {at.slot, at.entry, offset, begin, at.level, shift, tree_end::done};
    }

    /// Settles what reaches over the ends of a part: nothing is changed if this returns false, but for pages that
    /// were split.
    [[nodiscard]] constexpr bool settle_ends(tree_part& part, range_end ends)
    {
        const std::uint64_t space = ones(this->dimensions().address_bits() - 1, 0);
        const std::uint64_t was = part.all.first;
        if (!this->format()->exists(1, kind::run)) {
            // Where a table of the smallest pages holds all of the range, only a run reaches over an end.
            this->only_ = this->only_table(part);
            if (this->only_ != nullptr) {
                result_.entry = 0;
                result_.level = 0;
                return true;
            }
        }
        table_reserve reserve(this->tree_);
        bool any = false;
        for (const bool act : {false, true}) {
            if (act && (ends != range_end::split || !any)) break;
            if (act && !reserve.fill()) return fail(tree_end::no_memory, part.all.first);
            for (const bool at_last : {false, true}) {
                if (at_last && part.all.last == space) break;
                const std::uint64_t offset = at_last ? part.all.last + 1 : part.all.first;
                const cut_page<Word> page = page_over(offset);
                // Nothing was changed, so that all of it is still to be done.
                if (page.end == tree_end::pending) return fail(page.end, part.from);
                if (page.end != tree_end::done) return fail(page.end, offset);
                if (page.slot == nullptr) continue;
                any = true;
                result_.entry = page.entry;
                result_.level = page.level;
                switch (ends) {
                case range_end::refuse:
                    return fail(tree_end::inside_page, page.begin);
                case range_end::whole:
                    if (!at_last) part.all.first = page.begin;
                    if (at_last || page.begin + ones(page.shift - 1, 0) > part.all.last) {
                        part.all.last = page.begin + ones(page.shift - 1, 0);
                    }
                    break;
                case range_end::split:
                    if (!(act ? split_at(offset, reserve) : can_split(page, offset, reserve))) {
                        if (result_.end == tree_end::pending) return fail(result_.end, part.from);
                        return false;
                    }
                    break;
                }
            }
        }
        if (ends == range_end::whole && part.from == was) part.from = part.all.first;
        result_.entry = 0;
        result_.level = 0;
        return true;
    }

    // ---- splitting

    /// Tables that are allocated before anything is changed. What is left goes back.
    class table_reserve {
    public:
        constexpr explicit table_reserve(Tree& t) noexcept : tree_(t) {}
        constexpr ~table_reserve()
        {
            for (unsigned n = 0; n < have_; ++n) tree_.allocator.release(tables_[n], levels_[n]);
        }
        table_reserve(const table_reserve&) = delete;
        table_reserve& operator=(const table_reserve&) = delete;

        constexpr void want(unsigned level) noexcept
        {
            if (wanted_ < room) levels_[wanted_++] = level;
        }
        [[nodiscard]] constexpr unsigned wanted() const noexcept { return wanted_; }
        [[nodiscard]] constexpr bool fill()
        {
            for (; have_ < wanted_; ++have_) {
                const auto given = tree_.allocator.allocate(levels_[have_]);
                if (!given) return false;
                tables_[have_] = *given;
            }
            return true;
        }
        /// One of a level; allocates it if there is none, as where others changed the tree meanwhile.
        [[nodiscard]] constexpr optional_address take(unsigned level)
        {
            for (unsigned n = 0; n < have_; ++n) {
                if (levels_[n] != level) continue;
                const std::uint64_t table = tables_[n];
                --have_;
                tables_[n] = tables_[have_];
                levels_[n] = levels_[have_];
                return table;
            }
            const auto given = tree_.allocator.allocate(level);
            return given ? optional_address(*given) : optional_address();
        }

    private:
        static constexpr unsigned room = 2 * max_levels;
        Tree& tree_;
        std::uint64_t tables_[room] = {};
        unsigned levels_[room] = {};
        unsigned wanted_ = 0;
        unsigned have_ = 0;
    };

    /// Whether a page can be split so that a page begins at an offset; notes the tables for that.
    [[nodiscard]] constexpr bool can_split(const cut_page<Word>& page, std::uint64_t offset, table_reserve& reserve)
    {
        if (!this->is_page_entry(page.entry, page.level)) return fail_split(split_error::not_a_leaf, page.begin);
        if (must_break() && !can_break) return fail(tree_end::cannot_change_live, page.begin);
        const shape& s = this->dimensions();
        std::uint64_t leaf = page.entry;
        if (kind_of(leaf, page.level, this->format()) == kind::run) {
            if (must_break() && !can_break_run) return fail(tree_end::cannot_change_live, page.begin);
            const resized part = resize_leaf(leaf, page.level, page.level, this->format(), kind::run);
            if (!part) return fail_split(part.error, page.begin);
            leaf = part.entry;
        }
        for (unsigned level = page.level; (offset & ones(s.page_shift(level) - 1, 0)) != 0; --level) {
            const resized part = split(leaf, level, 0, this->format());
            if (!part) return fail_split(part.error, page.begin);
            leaf = part.entry;
            reserve.want(level - 1);
        }
        return true;
    }

    /// Splits until a page begins at an offset.
    [[nodiscard]] constexpr bool split_at(std::uint64_t offset, table_reserve& reserve)
    {
        for (;;) {
            const cut_page<Word> page = page_over(offset);
            if (page.end != tree_end::done) return fail(page.end, offset);
            if (page.slot == nullptr) return true;
            if (!split_page(page, reserve)) return false;
        }
    }

    /// Splits a page by one step: a run into its leaves, a leaf into a table of them.
    [[nodiscard]] constexpr bool split_page(const cut_page<Word>& page, table_reserve& reserve)
    {
        if (!this->is_page_entry(page.entry, page.level)) return fail_split(split_error::not_a_leaf, page.begin);
        if (kind_of(page.entry, page.level, this->format()) == kind::run) return split_run(page);
        if (must_break() && !can_break) return fail(tree_end::cannot_change_live, page.begin);
        const unsigned small = page.level - 1;
        const optional_address table = reserve.take(small);
        if (!table) return fail(tree_end::no_memory, page.begin);
        Word* const slots = this->table_at(*table);
        if (slots == nullptr) {
            this->tree_.allocator.release(*table, small);
            return fail(tree_end::table_missing, page.begin);
        }
        auto seen = static_cast<Word>(page.entry);
        if (must_break()) {
            if (!break_slot(*page.slot, seen, page.begin, page.shift)) {
                this->tree_.allocator.release(*table, small);
                return true;  // others changed it: the caller looks again
            }
        }
        for (;;) {
            const resized upper = fill_table(slots, *table, seen, page.level, this->format(), 0, this->tree_.access);
            if (!upper) {
                if (must_break()) this->tree_.access.store(*page.slot, seen);
                this->tree_.allocator.release(*table, small);
                return fail_split(upper.error, page.begin);
            }
            this->publish(slots, this->slots_of(small));
            if (must_break()) {
                this->tree_.access.store(*page.slot, static_cast<Word>(upper.entry));
                note_made(page.begin, page.shift);
                break;
            }
            if (this->tree_.access.compare_exchange(*page.slot, seen, static_cast<Word>(upper.entry))) break;
            if (!this->is_page_entry(seen, page.level) || kind_of(seen, page.level, this->format()) != kind::leaf) {
                this->tree_.allocator.release(*table, small);
                return true;
            }
        }
        this->publish(page.slot, 1);
        ++result_.tables_made;
        return true;
    }

    /// Whether a live page must be absent while its size changes.
    [[nodiscard]] constexpr bool must_break() const noexcept { return this->format()->break_before_resize(); }

    static constexpr bool can_flush = requires(Tree& t, const flush_item& item) { t.memory.flush(item); };
    /// Whether a slot may be made absent for a moment: others that meet it must know that its page comes back.
    static constexpr bool can_break = can_flush && (!editor::shared_tree || has_busy<typename editor::sharing_type>);

    /// Takes a live entry away and flushes it, so that it can be put back in another form. False: it was changed.
    [[nodiscard]] constexpr bool break_slot(Word& slot, Word& seen, std::uint64_t begin, unsigned shift)
    {
        const std::uint64_t rest = ~(this->format()->accessed.mask() | this->format()->dirty.mask());
        const auto check = [&](std::uint64_t entry) {
            return ((entry ^ seen) & rest) == 0 ? split_error::none : split_error::changed;
        };
        const taken_entry<Word> taken =
            detail::take(slot, this->busy_marker().value, this->format(), check, this->tree_.access);
        if (!taken) return false;
        seen = taken.before;
        this->publish(&slot, 1);
        flush_now(begin, shift);
        return true;
    }
    constexpr void flush_now([[maybe_unused]] std::uint64_t begin, [[maybe_unused]] unsigned shift)
    {
        if constexpr (can_flush) {
            const shape& s = this->dimensions();
            this->tree_.memory.flush(
                flush_item{s.extended(begin), s.extended(begin + ones(shift - 1, 0)), s.page_shift(1), true, 0});
        }
    }

    /// Whether an entry is one of a run of 2^shift bytes.
    [[nodiscard]] constexpr bool same_run(std::uint64_t entry, unsigned level, unsigned shift) const noexcept
    {
        return this->is_page_entry(entry, level) && kind_of(entry, level, this->format()) == kind::run &&
               page_shift_of(entry, level, this->format()) == shift;
    }
    /// An entry of a run with A and D that another one has, also where the write permission is the dirty state.
    [[nodiscard]] constexpr std::uint64_t with_flags_of(std::uint64_t entry, std::uint64_t other, unsigned level,
                                                        kind of_entry = kind::run) const noexcept
    {
        const layout& l = this->format()->layout_at(level, kind::run);
        entry |= other & (this->format()->accessed.mask() | this->format()->dirty.mask());
        const bool written = (other & l.mask(role::dirty_modifier)) != 0 && l.grants(other, role::write);
        return written ? granted_by_hardware(entry, this->format()->layout_at(level, of_entry)) : entry;
    }
    /// Whether the slots of a run may be made absent for a moment: others that changed them would be overwritten.
    static constexpr bool can_break_run = can_flush && !editor::shared_tree;

    /// Where TLBs may hold that what was absent for a moment is so still, it is to be flushed again.
    constexpr void note_made(std::uint64_t begin, unsigned shift)
    {
        if (!this->format()->caches_absent()) return;
        this->flush_due_for(begin, begin + ones(shift - 1, 0), this->dimensions().page_shift(1), true, 0);
    }

    /// Makes the entries of a run leaves: each keeps the A and D that any of them has.
    [[nodiscard]] constexpr bool split_run(const cut_page<Word>& page)
    {
        if (must_break() && !can_break_run) return fail(tree_end::cannot_change_live, page.begin);
        const shape& s = this->dimensions();
        const unsigned base = s.page_shift(page.level);
        const layout& leaf = this->format()->layout_at(page.level, kind::leaf);
        const layout& run = this->format()->layout_at(page.level, kind::run);
        resized part = resize_leaf(page.entry, page.level, page.level, this->format(), kind::run);
        if (!part) return fail_split(part.error, page.begin);
        Word* const slots = page.slot - ((page.offset - page.begin) >> base);
        const std::uint64_t count = std::uint64_t{1} << (page.shift - base);
        // The first address of the page: of a run whose entries hold their own parts, the first entry's.
        const std::uint64_t first = run.address_in(page.entry) & ~ones(page.shift - 1, 0);
        std::uint64_t used = page.entry;
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t seen = must_break() ? this->tree_.access.exchange(slots[i], this->taken_value())
                                                    : this->tree_.access.load(slots[i]);
            if (same_run(seen, page.level, page.shift)) used = with_flags_of(used, seen, page.level);
        }
        std::uint64_t late = used;
        if (must_break()) {
            part = resize_leaf(used, page.level, page.level, this->format(), kind::run);
            this->publish(slots, count);
            flush_now(page.begin, page.shift);
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t address = leaf.address_bits(first + (i << base));
            if (must_break()) {
                this->tree_.access.store(slots[i], static_cast<Word>(part.entry | address));
                continue;
            }
            // None may stay one of the run: by that the hardware may translate the others, too. Rights may have been
            // changed meanwhile.
            Word seen = this->tree_.access.load(slots[i]);
            while (same_run(seen, page.level, page.shift)) {
                const std::uint64_t now = with_flags_of(seen, used, page.level);
                const resized one = resize_leaf(now, page.level, page.level, this->format(), kind::run);
                if (!one) return fail_split(one.error, page.begin);
                if (this->tree_.access.compare_exchange(slots[i], seen, static_cast<Word>(one.entry | address))) {
                    late = with_flags_of(late, seen, page.level);
                    break;
                }
            }
        }
        // A TLB that saw A or D in an entry that was still one of the run takes it for all of them.
        for (std::uint64_t i = 0; late != used && i < count; ++i) {
            Word seen = this->tree_.access.load(slots[i]);
            for (;;) {
                const bool ours = this->is_page_entry(seen, page.level) &&
                                  kind_of(seen, page.level, this->format()) == kind::leaf &&
                                  leaf.address_in(seen) == first + (i << base);
                const auto now = static_cast<Word>(ours ? with_flags_of(seen, late, page.level, kind::leaf) : seen);
                if (now == seen || this->tree_.access.compare_exchange(slots[i], seen, now)) break;
            }
        }
        this->publish(slots, count);
        if (must_break()) note_made(page.begin, page.shift);
        return true;
    }

    // ---- leaves that follow each other

    /// How many slots, from one on that holds a leaf, may be passed at once: as far as the range and the limit go, and
    /// pages lie in the range whole. 0: that one may not.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t leaves_ahead(unsigned level, Word seen, std::uint64_t offset,
                                                                      const frame& f) const noexcept
    {
        if (!plain_leaf(seen, level, this->format())) return 0;
        const std::uint64_t count = f.last - f.next < this->left_ ? f.last - f.next + 1 : this->left_;
        if (level == 1 || count == 0) return count;
        if (offset < settled.first) return 0;
        const std::uint64_t last = offset + ((count << this->dimensions().page_shift(level)) - 1);
        return last > settled.last ? count - 1 : count;
    }
    /// Goes to the last of slots that were passed at once.
    PTEBITS_INLINE constexpr void pass_by(frame& f, std::uint64_t count) noexcept
    {
        f.next += count - 1;
        this->left_ -= count - 1;
    }

    // ---- taking entries away

    /// Whether a slot was frozen by this list, in an earlier call.
    [[nodiscard]] constexpr bool own(unsigned level, std::uint64_t offset) const noexcept
    {
        const shape& s = this->dimensions();
        const std::uint64_t first = s.extended(offset);
        return this->list_.frozen_slots(first, first | ones(s.page_shift(level) - 1, 0), level, s.page_shift(level)) !=
               0;
    }
    /// A slot that another thread froze: its flush may come later than that of this list. False: no room.
    [[nodiscard]] constexpr bool flush_frozen(unsigned level, std::uint64_t offset)
    {
        const shape& s = this->dimensions();
        const std::uint64_t last = offset + ones(s.page_shift(level) - 1, 0);
        if (!this->list_has_room(offset, last, s.page_shift(1), 0)) return false;
        this->flush_due_for(offset, last, s.page_shift(1), true, 0);
        return true;
    }

    /// Takes a page or another entry away, with the slots of its run that follow. Returns what the pass does next.
    constexpr step take_page(Word& slot, Word seen, unsigned level, std::uint64_t offset, frame& f)
    {
        const shape& s = this->dimensions();
        const unsigned base = s.page_shift(level);
        const bool page = this->is_page_entry(seen, level);
        const unsigned shift = page ? page_shift_of(seen, level, this->format()) : base;
        // Of a run whose first slots others took the rest.
        std::uint64_t last = offset | ones(shift - 1, 0);
        if (!this->list_has_room(offset, last, shift, level)) return stop(tree_end::list_full);
        if (!this->take(slot, seen)) return step::again;
        std::uint64_t entry = seen;
        std::uint64_t count = ((last - offset) >> base) + 1;
        for (std::uint64_t i = 1; i < count; ++i) {
            // The other entries of a run, up to one that others changed: the pass goes on with that.
            Word& other = *(&slot + i);
            Word there = this->tree_.access.load(other);
            bool taken = false;
            while (!taken && this->same_run(there, level, shift)) taken = this->take(other, there);
            if (!taken) {
                count = i;
                last = offset + ((count << base) - 1);
                break;
            }
            entry = with_flags_of(entry, there, level);
        }
        // Also of an absent entry: it may be a tracked one, and tracking does not flush.
        this->flush_due_for(offset, last, shift, false, level);
        this->note_changed(f, f.next, f.next + count - 1);
        report_(taken_page{s.extended(offset), entry, level, shift,
                           page ? kind_of(entry, level, this->format()) : kind::none});
        ++result_.pages;
        result_.bytes += last - offset + 1;
        f.next += count - 1;
        return step::next;
    }

    /// Unlinks a table that was left, if nothing stays in it. `look`: whether slots may hold what this pass did not
    /// see.
    constexpr step unlink(frame& f, unsigned level, Word& slot_above, unsigned up, frame& above, bool look)
    {
        if (!f.whole || f.kept) {
            above.kept = true;
            return step::next;
        }
        if (!this->list_.has_room_for_table()) return stop(tree_end::list_full);
        frozen_slots also(*this, f, level, look);
        if (!also.all()) {
            above.kept = true;
            return step::next;
        }
        const shape& s = this->dimensions();
        // At least one flush for the table itself, also where nothing was mapped by it.
        const flush_item item{s.extended(f.begin), s.extended(f.begin + ones(s.page_shift(up) - 1, 0)),
                              s.page_shift(up), true, editor::shared_tree ? up : 0};
        if (!this->list_.replace(item)) {
            if constexpr (editor::shared_tree) return stop(tree_end::list_full);
            this->list_.overflow();
        }
        also.keep();
        Word seen = this->tree_.access.load(slot_above);
        if constexpr (editor::shared_tree) {
            // The MMU may set A in it. Nobody else changes it, since all slots of its table are frozen.
            while (!this->tree_.access.compare_exchange(slot_above, seen, this->taken_value())) {
            }
        } else {
            this->tree_.access.store(slot_above, this->taken_value());
        }
        this->note_changed(above, above.next, above.next);
        this->list_.queue({f.table, level});
        ++result_.tables_freed;
        return step::next;
    }

    /// The slots of a table that is to be unlinked. In a shared tree freezes those that are empty, so that nobody puts
    /// an entry there any more, and empties them again if the table stays.
    class frozen_slots {
    public:
        constexpr frozen_slots(range_changer& by, const frame& f, unsigned level, bool look) : by_(by), slots_(f.slots)
        {
            all_ = !look && !editor::shared_tree;
            if (all_) return;
            const std::uint64_t count = by.slots_of(level);
            std::uint64_t frozen_before = 0;
            for (std::uint64_t i = 0; i < count; ++i) {
                Word seen = by.tree_.access.load(f.slots[i]);
                if (by.frozen(seen)) {
                    ++frozen_before;
                    continue;
                }
                if (!is_empty(seen, by.format())) return;
                if constexpr (editor::shared_tree) {
                    if (!by.tree_.access.compare_exchange(f.slots[i], seen, by.taken_value())) return;
                    frozen_[i / 64] |= std::uint64_t{1} << i % 64;
                }
            }
            // A slot that others froze is theirs until their flush. Those of this list, also from earlier calls, go
            // with the table.
            if constexpr (editor::shared_tree) {
                const shape& s = by.dimensions();
                const std::uint64_t last = f.begin + ones(s.page_shift(level + 1) - 1, 0);
                frozen_before -=
                    by.list_.frozen_slots(s.extended(f.begin), s.extended(last), level, s.page_shift(level));
            }
            all_ = frozen_before == 0;
        }
        constexpr ~frozen_slots()
        {
            if constexpr (editor::shared_tree) {
                for (std::uint64_t word = 0; !kept_ && word < words; ++word) {
                    for (std::uint64_t left = frozen_[word]; left != 0; left &= left - 1) {
                        const std::uint64_t i = 64 * word + static_cast<unsigned>(std::countr_zero(left));
                        by_.tree_.access.store(slots_[i], slot_mask<Word>(by_.format()->empty()));
                    }
                }
            }
        }
        frozen_slots(const frozen_slots&) = delete;
        frozen_slots& operator=(const frozen_slots&) = delete;

        [[nodiscard]] constexpr bool all() const noexcept { return all_; }
        constexpr void keep() noexcept { kept_ = true; }

    private:
        static constexpr std::uint64_t words = editor::shared_tree ? most_slots / 64 : 1;
        range_changer& by_;
        Word* slots_;
        std::uint64_t frozen_[words] = {};
        bool all_ = false;
        bool kept_ = false;
    };

    /// Settles the ends of a range and passes over it. Where others put a page over an end meanwhile, from there on
    /// again.
    template <class Step>
    constexpr void change(inclusive_range range, tree_part all, const range_options& options, Step& how)
    {
        do {
            result_.end = tree_end::done;
            if (!settle_ends(all, options.ends)) return;
            settled = all.all;
            note_range(settled);
            this->run(all, options.limit, result_, how);
        } while (editor::shared_tree && result_.end == tree_end::inside_page && options.ends != range_end::refuse &&
                 find_part(this->tree_, range, result_.next, all, result_));
    }

    inclusive_range settled{};  ///< the range as offsets, after its ends were settled

    /// Says how far the range goes; it was less or more if others changed the ends since the last time.
    constexpr void note_range(inclusive_range part) const noexcept
    {
        const shape& s = this->dimensions();
        inclusive_range& all = result_.range;
        if (all.empty()) all = {s.extended(part.first), s.extended(part.last)};
        if (s.extended(part.first) < all.first) all.first = s.extended(part.first);
        if (s.extended(part.last) > all.last) all.last = s.extended(part.last);
    }

    // ---- ends of operations

    constexpr bool fail(tree_end why, std::uint64_t offset) noexcept
    {
        this->stop_at(offset, why, result_);
        return false;
    }
    constexpr bool fail_split(split_error why, std::uint64_t offset) noexcept
    {
        result_.split = why;
        return fail(tree_end::cannot_split, offset);
    }
    constexpr step stop(tree_end why) noexcept
    {
        result_.end = why;
        return step::stop;
    }

protected:
    Report& report_;
    tree_result& result_;
};

/// Passes over a range by a step of its own, in the read section of the caller. `prepare(pass)` gives it what it needs,
/// and says whether to go on.
template <template <slot_word, class, class> class Pass, class Tree, class Report, class Prepare>
[[nodiscard]] constexpr tree_result pass_over(Tree& t, inclusive_range range, flush_list& list,
                                              const range_options& options, Report& report, Prepare prepare)
{
    return with_slots_of(t.format, t.memory, [&]<class Word>(std::type_identity<Word>) {
        using pass_type = Pass<Word, Tree, Report>;
        tree_result result;
        tree_part part;
        pass_type pass(t, list, report, result);
        if (!find_part(t, range, options.from, part, result) || !prepare(pass, result)) return result;
        if constexpr (pass_type::settles_ends) {
            pass.change(range, part, options, pass);
        } else {
            pass.run(part, options.limit, result, pass);
        }
        return result;
    });
}

/// The same for the rest of a range, of which so many of the smallest pages are done; `so_far` tells what became of
/// them.
template <template <slot_word, class, class> class Pass, class Tree, class Report, class Prepare>
[[nodiscard]] PTEBITS_NOINLINE constexpr tree_result rest_of_range(Tree& t, inclusive_range range, flush_list& list,
                                                                   const range_options& options, Report& report,
                                                                   Prepare prepare, tree_result so_far,
                                                                   std::uint64_t done)
{
    if (done == 0) return pass_over<Pass>(t, range, list, options, report, prepare);
    const std::uint64_t from = range.first + (done << t.format->shape().page_shift(1));
    const range_options rest{.ends = options.ends, .limit = options.limit - done, .from = from};
    so_far.go_on(pass_over<Pass>(t, range, list, rest, report, prepare));
    return so_far;
}

}  // namespace detail
}  // namespace ptebits
