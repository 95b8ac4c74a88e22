// SPDX-License-Identifier: BSL-1.0
// Mapping ranges in a tree: the largest pages that addresses, format and the caller's sizes allow.
//
//   const tree_result r = map(t, {first, last}, physical, {.write = false}, list);
// Tables that lack are made on the way. A new table is filled before it is linked, by one store or exchange.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <ptebits/attributes.hpp>
#include <ptebits/tree.hpp>
#include <ptebits/unmap.hpp>

namespace ptebits {

/// What map() does where something else is mapped already. An entry that maps the same, but for A and D, is left as it
/// is with any of these; what is no page is always in the way, and so are tables with entries below a large page.
enum class existing : std::uint8_t {
    refuse,   ///< ends with tree_end::occupied, and which entry it is
    keep,     ///< leaves it
    replace,  ///< takes it away, as unmap() does, and maps over it
};

/// Ranges that a call of map() wrote, in order, over an array of the caller's: for undo(). A call ends with
/// tree_end::limit where there is no room.
class written_ranges {
public:
    constexpr written_ranges(inclusive_range* ranges, unsigned count) noexcept : ranges_(ranges), room_(count) {}

    [[nodiscard]] constexpr const inclusive_range* begin() const noexcept { return ranges_; }
    [[nodiscard]] constexpr const inclusive_range* end() const noexcept { return ranges_ + count_; }
    [[nodiscard]] constexpr bool has_room() const noexcept { return count_ < room_; }

    /// Precondition: has_room(), or it goes on where the last one ends.
    constexpr void add(inclusive_range written) noexcept
    {
        if (count_ != 0 && ranges_[count_ - 1].last + 1 == written.first) {
            ranges_[count_ - 1].last = written.last;
        } else {
            ranges_[count_++] = written;
        }
    }
    constexpr void clear() noexcept { count_ = undone_ = 0, undone_to_ = 0; }

    // For undo(): the range that it goes on with, and where in it.
    [[nodiscard]] constexpr const inclusive_range* left() const noexcept { return ranges_ + undone_; }
    [[nodiscard]] constexpr std::uint64_t left_from() const noexcept { return undone_to_; }
    constexpr void undone() noexcept { ++undone_, undone_to_ = 0; }
    constexpr void undone_up_to(std::uint64_t next) noexcept { undone_to_ = next; }

private:
    inclusive_range* ranges_;
    unsigned room_;
    unsigned count_ = 0;
    unsigned undone_ = 0;
    std::uint64_t undone_to_ = 0;
};

/// How a range is mapped.
struct map_options {
    existing what_exists = existing::refuse;
    std::uint64_t page_sizes = ~std::uint64_t{0};  ///< pages that may be used: bit n is for those of 2^n bytes
    page_attributes attributes{};
    permissions ceiling{};  ///< what a new entry of the top table permits; those below permit all
    /// Pages, and slots on the way to them, after which the operation stops. What `replace` takes away for one page
    /// counts as one.
    std::uint64_t limit = ~std::uint64_t{0};
    std::uint64_t from = 0;             ///< of an operation that stopped: its result.next
    written_ranges* written = nullptr;  ///< what this call maps anew
};

namespace detail {

/// Whether it is known at compile time that entries for tables, which permit all, can be encoded.
template <class F>
[[nodiscard]] constexpr bool always_has_tables() noexcept
{
    if constexpr (constant_masks<F>) {
        for (unsigned level = 2; level <= constant<F>->shape().levels; ++level) {
            if (!ptebits::encode(kind::table, level, 0, permissions{}, constant<F>)) return false;
        }
        return true;
    } else {
        return false;
    }
}

/// Whether entries of a layout hold an address, but for what is inside a page.
[[nodiscard]] PTEBITS_INLINE constexpr bool holds_page_of(const layout& l, std::uint64_t physical) noexcept
{
    const std::uint64_t page = physical & ~ones(l.offset_bits - 1, 0);
    return l.address_in(l.address_bits(page)) == page;
}

/// The sizes, as bits, that a page of a range may have: no longer than it, and aligned alike in both ranges.
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t sizes_between(inclusive_range range,
                                                                   std::uint64_t physical) noexcept
{
    const std::uint64_t length = range.last - range.first;  // less one
    const auto longest = static_cast<unsigned>(std::bit_width(length + 1));
    const auto alike = static_cast<unsigned>(std::countr_zero(range.first ^ physical));
    const unsigned most = length + 1 == 0 || alike < longest ? alike : longest - 1;
    return most > 63 ? ~std::uint64_t{0} : ones(most, 0);
}

/// Puts leaves into slots as far as these are empty. Returns how many; `seen` is what the next slot has.
template <slot_word Word, class Tree>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t fill_empty(tree_editor<Word, Tree>& edit, Word* slots,
                                                                leaves_in_order leaf, std::uint64_t count, Word& seen)
{
    std::uint64_t i = 0;
    for (; i < count; ++i, leaf.next()) {
        Word there = edit.load(slots[i]);
        if (is_empty(there, edit.format()) && edit.fill(slots[i], there, leaf.entry())) continue;
        seen = there;
        break;
    }
    return i;
}

/// Looks for an entry that is no table: ends with tree_end::occupied.
template <slot_word Word, class Tree, class Report>
class looking : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using frame = pass_frame<Word>;
    using changer::changer;

    constexpr step slot(Word& slot, unsigned level, std::uint64_t, frame&)
    {
        const Word seen = this->tree_.access.load(slot);
        // Where a flush is pending the mapping will say so when it comes there.
        if (is_empty(seen, this->format()) || this->frozen(seen)) return step::next;
        if (this->is_table_entry(seen, level)) return step::into;
        return this->stop(this->busy(seen) ? tree_end::pending : tree_end::occupied);
    }
    constexpr step leave(frame&, unsigned, Word&, unsigned, frame&) const noexcept { return step::next; }
};

/// map().
template <slot_word Word, class Tree, class Report>
class mapping_pass : public range_changer<Word, Tree, Report> {
public:
    using changer = range_changer<Word, Tree, Report>;
    using editor = tree_editor<Word, Tree>;

    constexpr mapping_pass(Tree& t, flush_list& list, Report& report, tree_result& result, inclusive_range range,
                           std::uint64_t physical, const permissions& grant, const map_options& options) noexcept
        : changer(t, list, report, result),
          grant_(grant),
          options_(options),
          forms_(forms_of(t.format, options.page_sizes & sizes_between(range, physical))),
          steps_left_(options.limit - result.pages)
    {
    }

    /// What needs no memory: the caller says where it failed. Leaves out pages that the format cannot encode.
    [[nodiscard]] constexpr bool check(inclusive_range range, std::uint64_t physical)
    {
        const shape& s = this->dimensions();
        for (unsigned n = forms_.count(); n-- > 0;) {
            page_form& form = forms_[n];
            const encoded e = encoded_as(form.level, form.is);
            const layout& l = this->format()->layout_at(form.level, form.is);
            form.plain = form.is == kind::run && l.sized ? e.entry | size_bits(l, form.shift) : e.entry;
            if (e) continue;
            this->result_.encode = e.error;
            forms_.remove(n);
        }
        // Of these sizes none fits, or none can be encoded.
        if (forms_.count() == 0) {
            const bool small = this->result_.encode == encode_error::none &&
                               forms_of(this->format(), options_.page_sizes).count() != 0;
            return this->fail(small ? tree_end::misaligned : tree_end::not_encodable, 0);
        }
        if (!always_has_tables<typename editor::format_type>() || options_.ceiling != permissions{}) {
            for (unsigned level = 2; level <= s.levels; ++level) {
                const encoded e = this->table_entry(level, 0, level == s.levels ? options_.ceiling : permissions{});
                if (e) continue;
                this->result_.encode = e.error;
                return this->fail(tree_end::not_encodable, 0);
            }
        }
        this->result_.encode = encode_error::none;
        const inclusive_range part = s.translated_part(range);
        const std::uint64_t length = range.last - range.first;  // less one
        if (part.empty() || part.last - part.first != length) return this->fail(tree_end::not_translated, 0);
        if (((range.first | (range.last + 1) | physical) & ones(forms_.smallest().shift - 1, 0)) != 0) {
            return this->fail(tree_end::misaligned, 0);
        }
        const layout& page = this->format()->layout_at(1, kind::leaf);
        const std::uint64_t end = physical + length;
        bool fits = end >= physical;
        if (fits && !holds_page_of(page, end)) {
            // In PSE-36 large pages hold wider addresses than small ones, which are left out.
            for (unsigned n = forms_.count(); n-- > 0;) {
                if (!holds_page_of(this->format()->layout_at(forms_[n].level, kind::leaf), end)) forms_.remove(n);
            }
            fits = forms_.count() != 0 &&
                   ((range.first | (range.last + 1) | physical) & ones(forms_.smallest().shift - 1, 0)) == 0;
        }
        if (!fits) return this->fail(tree_end::physical_too_wide, 0);
        if (reaches_borrowed(this->tree_, part)) return this->fail(tree_end::borrowed, 0);
        return true;
    }

    constexpr void run(inclusive_range part, std::uint64_t from, std::uint64_t physical)
    {
        const shape& s = this->dimensions();
        at_ = from;
        last_ = part.last;
        delta_ = physical - part.first;
        tables_[s.levels] = this->table_at(this->tree_.root);
        if (tables_[s.levels] == nullptr) {
            this->fail(tree_end::table_missing, from);
            return;
        }
        here_ = s.levels;
        if (const auto at = quick_slot<Word>(this->tree_, s.extended(from), 1); at.slot != nullptr) {
            here_ = 1;
            tables_[1] = at.slot - s.index(from, 1);
        }
        for (;;) {
            // Not before it came further than it began, or it would stop there again.
            if (steps_left_ == 0 && at_ != from) {
                this->fail(tree_end::limit, at_);
                return;
            }
            if (steps_left_ != 0) --steps_left_;
            const progress p = one_step();
            if (p == progress::stopped) {
                this->result_.next = s.extended(at_);
                return;
            }
            if (p == progress::again) continue;
            if (done_) return;
            while (here_ < s.levels &&
                   (tables_[here_] == nullptr || ((at_ ^ before_) >> s.page_shift(here_ + 1)) != 0)) {
                tables_[here_++] = nullptr;
            }
        }
    }

private:
    enum class progress : std::uint8_t { on, again, stopped };

    [[nodiscard]] constexpr encoded encoded_as(unsigned level, kind k) const
    {
        return encode_page(k, level, 0, grant_, options_.attributes, this->format());
    }

    [[nodiscard]] constexpr std::uint64_t physical_of(std::uint64_t offset) const noexcept { return offset + delta_; }

    /// The number of the largest page that may begin where the pass is.
    [[nodiscard]] constexpr unsigned choose() const noexcept
    {
        for (unsigned n = 0; n + 1 < forms_.count(); ++n) {
            const unsigned shift = forms_[n].shift;
            if (shift >= below_shift_ && at_ <= below_until_) continue;
            if (((at_ | physical_of(at_)) & ones(shift - 1, 0)) == 0 && last_ - at_ >= ones(shift - 1, 0)) return n;
        }
        return forms_.count() - 1;
    }

    /// How many pages of a form follow each other in one table, up to where a larger page may begin.
    [[nodiscard]] constexpr std::uint64_t pages_in_table(unsigned n) const noexcept
    {
        const shape& s = this->dimensions();
        const page_form& form = forms_[n];
        const std::uint64_t slots = this->slots_of(form.level) - s.index(at_, form.level);
        std::uint64_t count = slots >> form.slots_shift;
        const std::uint64_t fit = ((last_ - at_ - ones(form.shift - 1, 0)) >> form.shift) + 1;
        if (fit < count) count = fit;
        for (unsigned larger = 0; larger < n; ++larger) {
            const std::uint64_t inside = ones(forms_[larger].shift - 1, 0);
            if (((at_ ^ physical_of(at_)) & inside) != 0) continue;
            const std::uint64_t boundary = (at_ | inside) + 1;
            if ((at_ & inside) == 0 || boundary == 0 || boundary > last_ || last_ - boundary < inside) continue;
            if ((boundary - at_) >> form.shift < count) count = (boundary - at_) >> form.shift;
        }
        return count < steps_left_ ? count : (steps_left_ == 0 ? 1 : steps_left_);
    }

    constexpr void go_on(std::uint64_t bytes) noexcept
    {
        before_ = at_;
        done_ = last_ - at_ < bytes;
        at_ += bytes;
    }
    constexpr progress stop(tree_end why, std::uint64_t entry, unsigned level) noexcept
    {
        this->result_.end = why;
        this->result_.entry = entry;
        this->result_.level = level;
        return progress::stopped;
    }

    /// Goes down to the page's level, and maps pages there.
    constexpr progress one_step()
    {
        const shape& s = this->dimensions();
        const unsigned n = choose();
        const page_form& form = forms_[n];
        while (here_ < form.level) ++here_;
        while (tables_[here_] == nullptr) ++here_;
        while (here_ != form.level) {
            Word& slot = tables_[here_][s.index(at_, here_)];
            Word seen = this->tree_.access.load(slot);
            if (is_empty(seen, this->format())) return link(slot, seen, n);
            if (!this->is_table_entry(seen, here_)) return in_the_way(slot, seen, here_, n, at_);
            unsigned below_level = 0;
            Word* const slots = this->below(seen, here_, below_level);
            if (slots == nullptr) return stop(tree_end::table_missing, seen, here_);
            if (below_level < form.level || !s.reaches(here_, below_level, at_)) {
                return stop(tree_end::occupied, seen, here_);
            }
            while (--here_ > below_level) tables_[here_] = nullptr;
            tables_[here_] = slots;
        }
        return fill_pages(n);
    }

    /// Maps pages in the table of their level.
    constexpr progress fill_pages(unsigned n)
    {
        const shape& s = this->dimensions();
        const page_form& form = forms_[n];
        if (options_.written != nullptr && !options_.written->has_room()) return stop(tree_end::limit, 0, 0);
        const std::uint64_t count = pages_in_table(n);
        Word* const slots = tables_[form.level] + s.index(at_, form.level);
        const std::uint64_t per_page = std::uint64_t{1} << form.slots_shift;
        Word seen = 0;
        std::uint64_t done = 0;
        // The slots of a run cannot be filled at once: in a shared tree there are runs in new tables alone.
        if (editor::shared_tree && per_page > 1) return smaller(form.shift, n, 0, form.level);
        if (form.is == kind::leaf) {
            const layout& l = this->format()->layout_at(form.level, kind::leaf);
            done = fill_empty<Word, Tree>(*this, slots, {form.plain, physical_of(at_), form.shift, l}, count, seen);
        } else {
            while (done < count &&
                   put_run(slots + (done << form.slots_shift), form, physical_of(at_) + (done << form.shift), seen)) {
                ++done;
            }
        }
        if (done != 0) {
            this->publish(slots, done << form.slots_shift);
            steps_left_ = steps_left_ > done ? steps_left_ - done : 0;
            mapped(done, form.shift, false);
            return progress::on;
        }
        // A page of several slots is judged by the first one that is not free.
        std::uint64_t at_slot = 0;
        while (at_slot + 1 < per_page && is_empty(this->tree_.access.load(slots[at_slot]), this->format())) ++at_slot;
        return in_the_way(slots[at_slot], seen, form.level, n, at_ + (at_slot << s.page_shift(form.level)));
    }

    /// Puts the entries of a run into slots that are empty. False: one is not, `seen`; nothing was written.
    [[nodiscard]] constexpr bool put_run(Word* slots, const page_form& form, std::uint64_t physical, Word& seen)
    {
        const std::uint64_t count = std::uint64_t{1} << form.slots_shift;
        for (std::uint64_t i = 0; i < count; ++i) {
            seen = this->tree_.access.load(slots[i]);
            if (!is_empty(seen, this->format())) return false;
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            static_cast<void>(this->fill(slots[i], seen, entry_in_page(form, physical, i, this->format())));
        }
        return true;
    }

    /// Says that pages were mapped from where the pass is, and goes on behind them.
    constexpr void mapped(std::uint64_t pages, unsigned shift, bool upper)
    {
        const shape& s = this->dimensions();
        const std::uint64_t bytes = pages << shift;
        this->result_.pages += pages;
        this->result_.bytes += bytes;
        if (options_.written != nullptr) {
            options_.written->add({s.extended(at_), s.extended(at_ + (bytes - 1))});
        }
        if (this->format()->caches_absent()) this->flush_due_for(at_, at_ + (bytes - 1), shift, upper, 0);
        go_on(bytes);
    }

    /// Makes the tables below an empty slot, fills the lowest with pages and links them by one store or exchange.
    constexpr progress link(Word& slot, Word seen, unsigned n)
    {
        const shape& s = this->dimensions();
        const page_form& form = forms_[n];
        if (options_.written != nullptr && !options_.written->has_room()) return stop(tree_end::limit, 0, 0);
        std::uint64_t made[max_levels + 1] = {};
        Word* slots[max_levels + 1] = {};
        const unsigned top = here_ - 1;
        tree_end end = tree_end::done;
        unsigned level = top;
        for (; level >= form.level; --level) {
            slots[level] = this->new_table(level, made[level], end);
            if (slots[level] == nullptr) break;
        }
        if (end != tree_end::done) {
            for (unsigned back = top; back > level; --back) this->tree_.allocator.release(made[back], back);
            return stop(end, 0, 0);
        }
        const std::uint64_t count = pages_in_table(n);
        for (level = form.level; level <= top; ++level) {
            const std::uint64_t index = s.index(at_, level);
            std::uint64_t used = 1;
            if (level == form.level) {
                used = count << form.slots_shift;
                fill_unlinked(slots[level] + index, n, count);
            } else {
                const encoded e = this->table_entry(level, made[level - 1], permissions{});
                if (!e) return give_back(made, form.level, top, e.error);
                this->tree_.access.store(slots[level][index], static_cast<Word>(e.entry));
            }
            this->clear_slots(slots[level], 0, index);
            this->clear_slots(slots[level], index + used, this->slots_of(level));
            this->publish(slots[level], this->slots_of(level));
        }
        const encoded upper = this->table_entry(here_, made[top], here_ == s.levels ? options_.ceiling : permissions{});
        if (!upper) return give_back(made, form.level, top, upper.error);
        if (!this->fill(slot, seen, upper.entry)) {
            for (level = form.level; level <= top; ++level) this->tree_.allocator.release(made[level], level);
            return progress::again;
        }
        this->publish(&slot, 1);
        this->result_.tables_made += here_ - form.level;
        for (level = form.level; level <= top; ++level) tables_[level] = slots[level];
        here_ = form.level;
        steps_left_ = steps_left_ > count ? steps_left_ - count : 0;
        mapped(count, form.shift, true);
        return progress::on;
    }
    constexpr progress give_back(const std::uint64_t* made, unsigned lowest, unsigned top, encode_error why)
    {
        for (unsigned level = lowest; level <= top; ++level) this->tree_.allocator.release(made[level], level);
        this->result_.encode = why;
        return stop(tree_end::not_encodable, 0, 0);
    }

    constexpr void fill_unlinked(Word* slots, unsigned n, std::uint64_t count)
    {
        const page_form& form = forms_[n];
        const std::uint64_t per_page = std::uint64_t{1} << form.slots_shift;
        std::uint64_t physical = physical_of(at_);
        if (form.is == kind::leaf) {
            const layout& l = this->format()->layout_at(form.level, kind::leaf);
            leaves_in_order leaf(form.plain, physical, form.shift, l);
            for (std::uint64_t i = 0; i < count; ++i, leaf.next()) {
                this->tree_.access.store(slots[i], static_cast<Word>(leaf.entry()));
            }
            return;
        }
        for (std::uint64_t page = 0; page < count; ++page, physical += std::uint64_t{1} << form.shift) {
            for (std::uint64_t i = 0; i < per_page; ++i, ++slots) {
                this->tree_.access.store(*slots, static_cast<Word>(entry_in_page(form, physical, i, this->format())));
            }
        }
    }

    // ---- where something is already

    /// An entry is where a page was to be: at its level, or a page of a higher one. `where`: the offset of its slot.
    constexpr progress in_the_way(Word& slot, Word seen, unsigned level, unsigned n, std::uint64_t where)
    {
        const shape& s = this->dimensions();
        if (is_empty(seen, this->format())) return progress::again;
        if (this->frozen(seen) || this->busy(seen)) return stop(tree_end::pending, seen, level);
        const bool is_table = this->is_table_entry(seen, level);
        const unsigned slot_shift = s.page_shift(level);
        const unsigned form_shift = forms_[n].shift;
        if (is_table) {
            const tree_end inside = end_of_looking(where, slot_shift);
            if (inside == tree_end::pending) return stop(inside, seen, level);
            if (inside == tree_end::done) {
                if constexpr (!editor::shared_tree) return take_away(where, slot_shift);
            } else if (options_.what_exists == existing::replace) {
                if (must_wait(this->must_break())) return stop(tree_end::cannot_change_live, seen, level);
                return take_away(at_, form_shift);
            } else if (options_.what_exists == existing::refuse && form_shift == slot_shift) {
                return stop(tree_end::occupied, seen, level);
            }
            return smaller(form_shift, n, seen, level);
        }
        if (!this->is_page_entry(seen, level)) return stop(tree_end::occupied, seen, level);

        const unsigned shift = page_shift_of(seen, level, this->format());
        if (shift < form_shift) {
            // In one of the slots of a run: what is there may be the same, or be kept, page by page.
            if (options_.what_exists != existing::replace) return smaller(form_shift, n, seen, level);
            if (must_wait(this->must_break())) return stop(tree_end::cannot_change_live, seen, level);
            return take_away(at_, form_shift);
        }
        const std::uint64_t page_last = at_ | ones(shift - 1, 0);
        if (maps_the_same(seen, level, shift) || options_.what_exists == existing::keep) {
            // Past the page, or past the one that was wanted if that is smaller.
            const std::uint64_t until = page_last < last_ ? page_last : last_;
            go_on(until - at_ + 1);
            if (until == last_) done_ = true;
            return progress::on;
        }
        if (options_.what_exists == existing::refuse) return stop(tree_end::occupied, seen, level);
        return replace(slot, seen, level, n);
    }

    /// Uses smaller pages up to the end of a slot.
    constexpr progress smaller(unsigned slot_shift, unsigned n, std::uint64_t entry, unsigned level)
    {
        if (n + 1 >= forms_.count()) return stop(tree_end::occupied, entry, level);
        below_shift_ = slot_shift;
        below_until_ = at_ | ones(slot_shift - 1, 0);
        return progress::again;
    }

    /// Whether a page of a level maps what this pass would map there, with the same rights and attributes.
    [[nodiscard]] constexpr bool maps_the_same(std::uint64_t entry, unsigned level, unsigned shift) const
    {
        const kind k = kind_of(entry, level, this->format());
        const encoded e = encoded_as(level, k);
        if (!e) return false;
        const layout& l = this->format()->layout_at(level, k);
        const std::uint64_t begin = at_ & ~ones(shift - 1, 0);
        const page_form form{level, k, shift, shift - this->dimensions().page_shift(level),
                             l.sized ? e.entry | size_bits(l, shift) : e.entry};
        if ((physical_of(begin) & ones(shift - 1, 0)) != 0) return false;
        const std::uint64_t part = (at_ - begin) >> this->dimensions().page_shift(level);
        const std::uint64_t wanted = entry_in_page(form, physical_of(begin), part, this->format());
        const std::uint64_t flags = l.mask(role::accessed) | l.mask(role::dirty);
        return ((entry ^ wanted) & ~flags) == 0;
    }

    /// How looking for entries ends in the tables that translate 2^shift bytes around an offset: done if they hold
    /// nothing but empty slots and tables.
    [[nodiscard]] constexpr tree_end end_of_looking(std::uint64_t offset, unsigned shift)
    {
        const std::uint64_t begin = offset & ~ones(shift - 1, 0);
        tree_result looked;
        no_report none;
        looking<Word, Tree, no_report> at_each(this->tree_, this->list_, none, looked);
        at_each.run({{begin, begin | ones(shift - 1, 0)}, begin}, ~std::uint64_t{0}, looked, at_each);
        return looked.end;
    }

    /// Whether something live must be absent and flushed first, and nobody here can flush.
    [[nodiscard]] static constexpr bool must_wait(bool breaks) noexcept
    {
        return breaks && !changer::can_flush && !editor::shared_tree;
    }

    /// Takes away what is mapped in the 2^shift bytes around an offset, as unmap() does.
    constexpr progress take_away(std::uint64_t offset, unsigned shift)
    {
        const std::uint64_t begin = offset & ~ones(shift - 1, 0);
        tree_result taken;
        unmapping<Word, Tree, Report> away(this->tree_, this->list_, this->report_, taken);
        tree_part part{{begin, begin | ones(shift - 1, 0)}, begin};
        const shape& s = this->dimensions();
        away.change({s.extended(part.all.first), s.extended(part.all.last)}, part, {.ends = range_end::split}, away);
        this->result_.tables_freed += taken.tables_freed;
        this->result_.tables_made += taken.tables_made;
        for (Word*& table : tables_) {
            // Tables may be gone, all but the top one.
            if (&table != &tables_[s.levels]) table = nullptr;
        }
        here_ = s.levels;
        if (!taken) {
            this->result_.split = taken.split;
            return stop(taken.end, taken.entry, taken.level);
        }
        if constexpr (editor::shared_tree) return stop(tree_end::pending, 0, 0);
        if (this->format()->break_before_make() || this->must_break()) {
            // Only a table without pages is taken away without a flush here: the caller's must come first.
            if (!changer::can_flush) return stop(tree_end::pending, 0, 0);
            this->flush_now(begin, shift);
        }
        return progress::again;
    }

    constexpr progress replace(Word& slot, Word seen, unsigned level, unsigned n)
    {
        const shape& s = this->dimensions();
        const unsigned shift = page_shift_of(seen, level, this->format());
        const page_form& form = forms_[n];
        const bool in_place =
            form.level == level && form.is == kind::leaf && kind_of(seen, level, this->format()) == kind::leaf;
        if (must_wait(in_place ? this->format()->break_before_make() : this->must_break())) {
            return stop(tree_end::cannot_change_live, seen, level);
        }
        // Of a page that is larger the part that is mapped anew.
        if (!in_place || this->format()->break_before_make()) return take_away(at_, form.shift);
        const std::uint64_t wanted = entry_in_page(form, physical_of(at_), 0, this->format());
        const std::uint64_t last = at_ | ones(shift - 1, 0);
        if (!this->list_has_room(at_, last, shift, 0)) return stop(tree_end::list_full, seen, level);
        if constexpr (editor::shared_tree) {
            if (!this->tree_.access.compare_exchange(slot, seen, static_cast<Word>(wanted))) return progress::again;
        } else {
            seen = this->tree_.access.exchange(slot, static_cast<Word>(wanted));
        }
        this->publish(&slot, 1);
        if (needs_flush(seen, wanted, this->format(), level)) this->flush_due_for(at_, last, shift, false, 0);
        this->report_(taken_page{s.extended(at_), seen, level, shift, kind::leaf});
        mapped(1, shift, false);
        return progress::on;
    }

    permissions grant_;
    const map_options& options_;
    page_forms forms_;
    std::uint64_t steps_left_;
    std::uint64_t at_ = 0;  ///< offset
    std::uint64_t before_ = 0;
    std::uint64_t last_ = 0;
    std::uint64_t delta_ = 0;  ///< physical address less offset
    std::uint64_t below_until_ = 0;
    unsigned below_shift_ = 64;  ///< no page as large as this up to there
    unsigned here_ = 0;
    bool done_ = false;
    Word* tables_[max_levels + 1] = {};  ///< on the way to where the pass is; null: not known
};

/// map() where it is but to fill slots of one table of the smallest pages. Returns how many pages were mapped: of a
/// range that is not plain, or where something is there already, not all. Nothing else is judged here than by
/// mapping_pass.
template <class Tree>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t map_in_one_table(Tree& t, inclusive_range range,
                                                                      std::uint64_t physical, const permissions& grant,
                                                                      flush_list& list, const map_options& options)
{
    using format = typename Tree::format_type;
    if constexpr (always_has_tables<format>()) {
        using word = slot_type_of<format>;
        constexpr std::uint64_t sizes = sizes_of(constant<format>);
        const layout& l = constant<format>->layout_at(1, kind::leaf);
        const unsigned shift = constant<format>->shape().page_shift(1);
        // Where no other size fits, both begin with a page.
        if ((options.page_sizes & sizes_between(range, physical) & sizes) != std::uint64_t{1} << shift) return 0;
        if (options.written != nullptr || options.ceiling != permissions{} || t.format->caches_absent()) return 0;
        const std::uint64_t end = physical + (range.last - range.first);
        if (end < physical || !holds_page_of(l, end)) return 0;
        const encoded plain = encode_page(kind::leaf, 1, 0, grant, options.attributes, t.format);
        if (!plain) return 0;
        word* const slots = slots_in_one_table(t, range, options);
        if (slots == nullptr) return 0;
        tree_editor<word, Tree> edit(t, list);
        word seen = 0;
        const std::uint64_t count = ((range.last - range.first) >> shift) + 1;
        const std::uint64_t pages = fill_empty(edit, slots, {plain.entry, physical, shift, l}, count, seen);
        if (pages != 0) edit.publish(slots, pages);
        return pages;
    } else {
        return 0;
    }
}

/// map() of any range, of which so many of the smallest pages are done.
template <class Tree, class Report>
[[nodiscard]] PTEBITS_NOINLINE constexpr tree_result map_range(Tree& t, inclusive_range range, std::uint64_t physical,
                                                               const permissions& grant, flush_list& list,
                                                               const map_options& options, Report& report,
                                                               std::uint64_t done)
{
    return with_slots_of(t.format, t.memory, [&]<class Word>(std::type_identity<Word>) {
        list.record();
        tree_result result;
        result.next = range.first;
        if (!is_root(t.root, t.format)) {
            result.end = tree_end::not_a_root;
            return result;
        }
        if (range.empty()) return result;
        result.pages = done;
        result.bytes = done << t.format->shape().page_shift(1);
        mapping_pass<Word, Tree, Report> pass(t, list, report, result, range, physical, grant, options);
        if (!pass.check(range, physical)) {
            result.next = range.first;
            return result;
        }
        const inclusive_range part = t.format->shape().translated_part(range);
        std::uint64_t from = part.first + result.bytes;
        if (options.from > range.first) from = part.first + (options.from - range.first);
        if (from <= part.last) pass.run(part, from, physical);
        return result;
    });
}

}  // namespace detail

/// Maps a range of addresses to a range of physical addresses, by the largest pages possible; these grant `grant`.
/// `report(taken_page)` is called for each entry that was replaced. An empty range is done. What needs no table is
/// checked before anything is written: alignment, both ranges' ends, and whether rights and attributes can be encoded.
/// Order: a new entry is stored with release. Flush: `list`, before the addresses are used where something was replaced
/// or the format caches absent entries. Errors: tree_end; what was mapped until then stays, and options.written tells.
template <page_tree Tree, class Report = detail::no_report>
[[nodiscard]] PTEBITS_INLINE constexpr tree_result map(Tree& t, inclusive_range range, std::uint64_t physical,
                                                       const permissions& grant, flush_list& list,
                                                       const map_options& options = {}, Report&& report = {})
{
    const detail::reading<Tree> inside(t);
    // Inlined by force, so that options and rights that the caller writes out are judged at compile time.
    const std::uint64_t done = detail::map_in_one_table(t, range, physical, grant, list, options);
    const unsigned shift = t.format->shape().page_shift(1);
    if (done != 0 && done == ((range.last - range.first) >> shift) + 1) [[likely]] {
        return {.next = range.first, .pages = done, .bytes = done << shift};
    }
    return detail::map_range(t, range, physical, grant, list, options, report, done);
}

/// Takes away what a call of map() wrote, as unmap() does, but for what it replaced; `report` as there. Precondition:
/// nobody has mapped anything else there. If it stops, call it again: what was undone is not touched again. Flush:
/// `list`.
template <page_tree Tree, class Report = detail::no_report>
[[nodiscard]] constexpr tree_result undo(Tree& t, written_ranges& written, flush_list& list, Report&& report = {})
{
    tree_result all;
    for (; written.left() != written.end(); written.undone()) {
        const tree_result one =
            unmap(t, *written.left(), list, {.ends = range_end::split, .from = written.left_from()}, report);
        all.go_on(one);
        if (one) continue;
        written.undone_up_to(one.next);
        break;
    }
    return all;
}

}  // namespace ptebits
