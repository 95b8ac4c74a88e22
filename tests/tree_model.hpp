// SPDX-License-Identifier: BSL-1.0
// Models beside a tree of tables: which pages there are, memory that hands out tables and sees every store, and
// TLBs that keep whatever they may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <ptebits/ptebits.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "walking.hpp"

namespace tree_model {

using namespace ptebits;
using walking::dice;
using walking::word;

// ---- pages

/// Pages that follow each other and are alike, in offsets; or one slot with an entry that is no page.
struct pages {
    word last = 0;
    word physical = 0;
    unsigned shift = 0;  ///< of each page
    unsigned level = 0;
    bool run = false;
    bool junk = false;
    unsigned grant = 0;
    unsigned look = 0;  ///< attributes, by number
    word entry = 0;     ///< of what is no page

    [[nodiscard]] bool alike(const pages& o) const
    {
        return shift == o.shift && level == o.level && run == o.run && !junk && !o.junk && grant == o.grant &&
               look == o.look;
    }
};

/// One of them.
struct one_page {
    word begin = 0;
    word last = 0;
    pages is;
};

/// The pages of a tree, by the offset of the first byte.
class page_map {
public:
    using map_type = std::map<word, pages>;

    [[nodiscard]] const map_type& all() const { return all_; }
    [[nodiscard]] bool operator==(const page_map& o) const
    {
        if (all_.size() != o.all_.size()) return false;
        for (auto a = all_.begin(), b = o.all_.begin(); a != all_.end(); ++a, ++b) {
            const bool same = a->first == b->first && a->second.last == b->second.last &&
                              a->second.physical == b->second.physical && a->second.entry == b->second.entry &&
                              a->second.junk == b->second.junk && (a->second.junk || a->second.alike(b->second));
            if (!same) return false;
        }
        return true;
    }

    /// The first page that has a part in a range.
    [[nodiscard]] bool first_in(word first, word last, one_page& found) const
    {
        auto at = all_.upper_bound(first);
        if (at != all_.begin() && std::prev(at)->second.last >= first) --at;
        if (at == all_.end() || at->first > last) return false;
        found.is = at->second;
        const word size = ones(found.is.shift - 1, 0);
        found.begin = first > at->first ? first & ~size : at->first;
        found.last = found.begin | size;
        found.is.physical = at->second.physical + (found.begin - at->first);
        return true;
    }
    [[nodiscard]] bool at(word offset, one_page& found) const { return first_in(offset, offset, found); }

    void put(word begin, pages p)
    {
        auto next = all_.lower_bound(begin);
        if (next != all_.begin()) {
            const auto before = std::prev(next);
            if (before->second.last + 1 == begin && before->second.alike(p) &&
                before->second.physical + (begin - before->first) == p.physical) {
                begin = before->first;
                p.physical = before->second.physical;
                all_.erase(before);
            }
        }
        next = all_.lower_bound(begin);
        if (next != all_.end() && p.last + 1 == next->first && p.alike(next->second) &&
            p.physical + (next->first - begin) == next->second.physical) {
            p.last = next->second.last;
            all_.erase(next);
        }
        all_[begin] = p;
    }

    /// Takes away what is in a range that cuts no page. Returns how many pages that were, and adds their bytes.
    word erase(word first, word last, word* bytes = nullptr)
    {
        word count = 0;
        for (auto at = from(first); at != all_.end() && at->first <= last;) {
            const word begin = at->first;
            const pages p = at->second;
            at = all_.erase(at);
            if (begin < first) {
                pages left = p;
                left.last = first - 1;
                all_[begin] = left;
            }
            if (p.last > last) {
                pages right = p;
                right.physical = p.physical + (last + 1 - begin);
                all_[last + 1] = right;
            }
            const word from_here = begin < first ? first : begin;
            const word to = p.last > last ? last : p.last;
            count += ((to - from_here) >> p.shift) + 1;
            if (bytes != nullptr) *bytes += to - from_here + 1;
        }
        return count;
    }

private:
    [[nodiscard]] map_type::iterator from(word first)
    {
        auto at = all_.upper_bound(first);
        if (at != all_.begin() && std::prev(at)->second.last >= first) --at;
        return at;
    }
    map_type all_;
};

// ---- memory

/// Sees every access to a slot.
class slot_watcher {  // NOLINT(cppcoreguidelines-special-member-functions): never copied
public:
    virtual void before(void* slot) = 0;
    virtual void after(void* slot, word old, word now) = 0;
    std::uint64_t loads = 0;

protected:
    ~slot_watcher() = default;
};

/// Plain accesses that somebody watches.
struct watched_access {
    slot_watcher* by = nullptr;

    template <slot_word Word>
    [[nodiscard]] Word load(const Word& slot) const
    {
        ++by->loads;
        return slot;
    }
    template <slot_word Word>
    Word exchange(Word& slot, Word value) const
    {
        by->before(&slot);
        const Word old = slot;
        slot = value;
        by->after(&slot, old, value);
        return old;
    }
    template <slot_word Word>
    void store(Word& slot, Word value) const
    {
        static_cast<void>(exchange(slot, value));
    }
    template <slot_word Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        by->before(&slot);
        if (slot != expected) {
            expected = slot;
            return false;
        }
        slot = desired;
        by->after(&slot, expected, desired);
        return true;
    }
    template <slot_word Word>
    Word fetch_or(Word& slot, Word mask) const
    {
        by->before(&slot);
        const Word old = slot;
        slot = static_cast<Word>(old | mask);
        by->after(&slot, old, slot);
        return old;
    }
    template <slot_word Word>
    Word fetch_and(Word& slot, Word mask) const
    {
        by->before(&slot);
        const Word old = slot;
        slot = static_cast<Word>(old & mask);
        by->after(&slot, old, slot);
        return old;
    }
    template <slot_word Word>
    bool test_and_set(Word& slot, unsigned shift) const
    {
        return (fetch_or(slot, static_cast<Word>(Word{1} << shift)) >> shift & 1) != 0;
    }
    template <slot_word Word>
    bool test_and_clear(Word& slot, unsigned shift) const
    {
        return (fetch_and(slot, static_cast<Word>(~(Word{1} << shift))) >> shift & 1) != 0;
    }
};
static_assert(slot_access<watched_access>);

/// A table that was handed out.
template <class Word>
struct table {
    word address = 0;
    unsigned level = 0;
    std::size_t count = 0;
    std::unique_ptr<Word[]> slots;
    std::vector<bool> unpublished;  ///< slots that were stored to and not published since
    std::size_t unpublished_count = 0;
    bool linked = false;
    bool was_linked = false;
    word base = 0;  ///< if linked: the first offset that it translates
};

/// Memory for tables; nothing elsewhere. Tables are handed out with random contents.
template <class Word>
class machine {
public:
    static constexpr word apart = 1 << 17;
    static constexpr word begin = 1 << 20;

    explicit machine(const shape& s, unsigned seed) : shape_(s), random_(seed) {}

    /// A table at a place of the caller's.
    table<Word>& add(word address, unsigned level)
    {
        auto t = std::make_unique<table<Word>>();
        t->address = address;
        t->level = level;
        t->count = std::size_t{1} << shape_.index_bits_at(level);
        t->slots = std::make_unique<Word[]>(t->count);
        t->unpublished.resize(t->count);
        for (std::size_t i = 0; i < t->count; ++i) t->slots[i] = static_cast<Word>(random_.bits());
        table<Word>& added = *t;
        by_slots_[t->slots.get()] = t.get();
        by_address_[address] = std::move(t);
        return added;
    }

    [[nodiscard]] optional_address allocate(unsigned level)
    {
        ++calls;
        if (level < 1 || level >= shape_.levels) problem("a table of a level that has none was asked for");
        if (fail_at != 0) {
            --fail_at;
            if (fail_at == 0) return {};
        }
        word address = begin + apart * next_++;
        if (!free_.empty() && !random_.one_in(3)) {
            const std::size_t n = random_.below(free_.size());
            address = free_[n];
            free_[n] = free_.back();
            free_.pop_back();
            --next_;
        }
        add(address, level);
        ++given;
        return address;
    }
    void release(word address, unsigned level)
    {
        const auto at = by_address_.find(address);
        if (at == by_address_.end()) return problem("a table was released that is not handed out");
        if (at->second->level != level) problem("a table was released as one of another level");
        if (at->second->linked) problem("a table was released while it was linked");
        if (at->second->was_linked && !may_release) problem("a table was released before its flush");
        released_.push_back(address);
        by_slots_.erase(at->second->slots.get());
        by_address_.erase(at);
        free_.push_back(address);
        --given;
    }

    /// The slot at a physical address.
    [[nodiscard]] Word* slot(word physical)
    {
        table<Word>* const t = table_at(physical);
        if (t == nullptr) return nullptr;
        const word index = (physical - t->address) / sizeof(Word);
        return index < t->count ? &t->slots[index] : nullptr;
    }
    [[nodiscard]] table<Word>* table_at(word physical)
    {
        auto at = by_address_.upper_bound(physical);
        if (at == by_address_.begin()) return nullptr;
        return std::prev(at)->second.get();
    }
    [[nodiscard]] table<Word>* exactly(word physical)
    {
        const auto at = by_address_.find(physical);
        return at == by_address_.end() ? nullptr : at->second.get();
    }
    [[nodiscard]] table<Word>* table_of(const Word* slot)
    {
        auto at = by_slots_.upper_bound(slot);
        if (at == by_slots_.begin()) return nullptr;
        table<Word>* const t = std::prev(at)->second;
        return slot < t->slots.get() + t->count ? t : nullptr;
    }
    [[nodiscard]] const auto& tables() const { return by_address_; }
    /// The addresses that were released since the last call.
    [[nodiscard]] std::vector<word> take_released() { return std::exchange(released_, {}); }

    void problem(const std::string& what)
    {
        if (first_problem.empty()) first_problem = what;
    }

    std::string first_problem;
    unsigned fail_at = 0;  ///< the call of allocate() that gives nothing; 0: none
    unsigned calls = 0;
    word given = 0;
    bool may_release = false;

private:
    shape shape_;
    dice random_;
    std::map<word, std::unique_ptr<table<Word>>> by_address_;
    std::map<const Word*, table<Word>*> by_slots_;
    std::vector<word> free_;
    std::vector<word> released_;
    word next_ = 0;
};

/// The allocator of a tree over such memory.
template <class Word>
struct table_source {
    machine<Word>* from = nullptr;
    [[nodiscard]] optional_address allocate(unsigned level) const { return from->allocate(level); }
    void release(word address, unsigned level) const { from->release(address, level); }
};

/// What publishes and flushes.
template <class Word>
class publisher {  // NOLINT(cppcoreguidelines-special-member-functions): never copied
public:
    virtual void published(Word* first, word count) = 0;
    virtual void flush_now(const flush_item& item) = 0;

protected:
    ~publisher() = default;
};

/// The memory of a tree, with or without a flush of its own.
template <class Word, bool Flushes>
struct tree_memory {
    machine<Word>* of = nullptr;
    publisher<Word>* by = nullptr;

    [[nodiscard]] Word* operator()(word physical) const
    {
        Word* const slot = of->slot(physical);
        if (slot == nullptr) of->problem("memory was asked for what is no table");
        return slot;
    }
    void publish(Word* first, word count) const { by->published(first, count); }
    void flush(const flush_item& item) const
        requires Flushes
    {
        by->flush_now(item);
    }
};

// ---- TLBs

/// What a TLB may keep of a walk.
struct kept {
    enum class sort : std::uint8_t { page, table, absent } is = sort::page;
    word begin = 0;
    word last = 0;
    word physical = 0;   ///< of a page: of `begin`; of a table: its address
    unsigned below = 0;  ///< of a table: its level
    unsigned grant = 0;
    unsigned look = 0;
    bool dirty = false;
    unsigned shift = 0;  ///< of the page, of which this may be a part
};

/// TLBs of all CPUs: whatever was put in stays until it is flushed.
class tlb {
public:
    void keep(const kept& k)
    {
        if (entries_.size() < most) {
            entries_.push_back(k);
        } else {
            entries_[turn_++ % most] = k;
        }
    }
    /// Forgets what is in a range; of pages only those that have one of the addresses 2^shift apart, tables only if
    /// upper structures are flushed.
    void flush(word first, word last, unsigned shift, bool upper)
    {
        std::erase_if(entries_, [&](const kept& k) {
            if (k.begin > last || k.last < first) return false;
            if (k.is == kept::sort::table) return upper;
            if (k.is == kept::sort::absent) return true;
            const word page = k.begin & ~ones(k.shift - 1, 0);
            if (page <= first) return true;
            const word stride = ones(shift - 1, 0);
            const word at = first + ((page - first + stride) & ~stride);
            return at >= page && at <= (k.begin | ones(k.shift - 1, 0)) && at <= last;
        });
    }
    void flush_all() { entries_.clear(); }
    [[nodiscard]] const std::vector<kept>& entries() const { return entries_; }

private:
    static constexpr std::size_t most = 40;
    std::vector<kept> entries_;
    std::size_t turn_ = 0;
};

// ---- a tree under random operations

/// A page that a format can have.
struct form {
    unsigned level = 0;
    bool run = false;
    unsigned shift = 0;
};

/// The forms of a format's pages, largest first.
template <entry_format F>
std::vector<form> forms_of(const F& format)
{
    const shape& s = format->shape();
    std::vector<form> all;
    for (unsigned shift = 63; shift >= s.page_shift(1); --shift) {
        for (unsigned level = 1; level <= s.levels; ++level) {
            const bool sized = format->exists(level, kind::run) && format->layout_at(level, kind::run).sized;
            const bool coded = sized && shift > s.page_shift(level) && shift < s.page_shift(level + 1);
            const bool fixed = format->exists(level, kind::run) && !sized && shift == s.page_shift(level, kind::run);
            if (coded || fixed) all.push_back({level, true, shift});
            if (format->exists(level, kind::leaf) && shift == s.page_shift(level)) all.push_back({level, false, shift});
        }
    }
    return all;
}

/// What map() is to do.
struct wanted_map {
    word first = 0;
    word last = 0;
    word physical = 0;
    std::vector<form> forms;
    existing mode = existing::refuse;
    unsigned grant = 0;
    unsigned look = 0;
};

/// How an operation on the model went.
struct outcome {
    tree_end end = tree_end::done;
    word next = 0;
    word pages = 0;
    word bytes = 0;
    bool too_many = false;
};

/// A tree beside its model; Flushes: its memory has flush().
template <class Word, bool Flushes, class Format>
class exercise final : public slot_watcher, public publisher<Word> {
public:
    using memory_of_tree = tree_memory<Word, Flushes>;
    using tree_type = tree<Format, memory_of_tree, table_source<Word>, exclusive, watched_access>;

    exercise(const Format& format, unsigned seed, bool borrows = false)
        : format_(format),
          s_(format->shape()),
          m_(s_, seed + 1),
          d_(seed),
          space_(ones(s_.address_bits() - 1, 0)),
          forms_(forms_of(format)),
          tree_{format, root_address, memory_of_tree{&m_, this}, table_source<Word>{&m_}, {}, {}, watched_access{this}}
    {
        find_grants();
        table<Word>& top = m_.add(root_address, s_.levels);
        const word slots = word{1} << s_.index_bits_at(s_.levels);
        if (borrows && slots >= 4) {
            tree_.borrowed = {slots / 2, slots / 2 + d_.below(slots / 4)};
        }
        std::vector<Word> foreign;
        for (word i = tree_.borrowed.first; i <= tree_.borrowed.last; ++i) foreign.push_back(top.slots[i]);
        CHECK(clear_root(tree_) == tree_end::done);
        top.linked = true;
        for (std::size_t i = 0; i < foreign.size(); ++i) top.slots[tree_.borrowed.first + i] = foreign[i];
        foreign_ = foreign;
        compare("the empty tree");
    }

    /// Runs operations. Returns what went wrong first, or nothing.
    std::string run(unsigned operations)
    {
        for (unsigned n = 0; n < operations && good(); ++n) {
            number_ = n;
            step_once();
            if (!good()) return m_.first_problem + " (operation " + std::to_string(n) + ", " + what_ + ")";
        }
        finish();
        return good() ? "" : m_.first_problem + " (at the end)";
    }

    void before(void* slot) override
    {
        if (!inside_ || !good()) return;
        if (hardware() && d_.one_in(4)) {
            Word* const at = static_cast<Word*>(slot);
            if (const table<Word>* const t = m_.table_of(at); t != nullptr && t->linked) {
                const word index = static_cast<word>(at - t->slots.get());
                touch(t->base + (index << s_.page_shift(t->level)), d_.one_in(2), true);
            }
        } else if (d_.one_in(8)) {
            touch(some_offset_near(), d_.one_in(2), hardware());
        }
    }
    void after(void* where, word old, word now) override
    {
        Word* const slot = static_cast<Word*>(where);
        table<Word>* const t = m_.table_of(slot);
        if (t == nullptr) return m_.problem("a store outside the tables");
        if (old == now) return;
        const auto index = static_cast<std::size_t>(slot - t->slots.get());
        if (!t->unpublished[index]) {
            t->unpublished[index] = true;
            ++t->unpublished_count;
        }
        if (t->linked && t->address == root_address && tree_.borrowed.overlap(index, index)) {
            m_.problem("a borrowed slot was changed");
        }
        if (!t->linked) return;
        const word first = t->base + (word{index} << s_.page_shift(t->level));
        const word last = first | ones(s_.page_shift(t->level) - 1, 0);
        if (((old ^ now) & ~flags()) != 0 && (!is_empty(old, format_) || format_->caches_absent())) {
            changed_.push_back({first, last});
        }
        if (is_table(old, t->level)) unlink(old, t->level);
        if (is_table(now, t->level)) link(now, t->level, first);
        const bool was_page = is_page(old, t->level);
        const bool page = is_page(now, t->level);
        const bool kept = page && was_page && (old & flags() & ~now) == 0;
        if (was_page && !kept) lose_marks(first, last);
        if (was_page && page) check_live_change(old, now, t->level);
        if (page && !was_page && !is_table(old, t->level) && format_->break_before_resize())
            check_made(first, last, now, t->level);
        if (inside_ && d_.one_in(prefix_rarity)) check_prefix();
    }
    void published(Word* first, word count) override
    {
        table<Word>* const t = m_.table_of(first);
        if (t == nullptr) return m_.problem("what is no table was published");
        const auto index = static_cast<std::size_t>(first - t->slots.get());
        if (index + count > t->count) return m_.problem("more than a table was published");
        for (std::size_t i = index; i < index + count; ++i) {
            if (t->unpublished[i]) --t->unpublished_count;
            t->unpublished[i] = false;
        }
    }
    void flush_now(const flush_item& item) override
    {
        if (!inside_) m_.problem("flushed outside an operation");
        for (const auto& [address, t] : m_.tables()) {
            if (t->linked && t->unpublished_count != 0) m_.problem("flushed before what was changed was published");
        }
        tlb_.flush(offset_of(item.first), offset_of(item.last), item.page_shift, item.upper);
    }

private:
    static constexpr word root_address = machine<Word>::begin - machine<Word>::apart;
    static constexpr unsigned prefix_rarity = 5;

    struct span {
        word first;
        word last;
    };
    /// What a walk finds.
    struct reached {
        bool page = false;
        bool missing = false;
        word physical = 0;  ///< of the offset
        unsigned shift = 0;
        unsigned level = 0;
        bool run = false;
        unsigned grant = 0;
        unsigned look = 0;
        word flags = 0;  ///< A and D of the entry, or of any of its run
        word entry = 0;
    };

    [[nodiscard]] bool good() const { return m_.first_problem.empty(); }
    [[nodiscard]] word offset_of(word address) const { return address & space_; }
    [[nodiscard]] bool hardware() const { return format_->accessed_by() == accessed_setter::hardware; }
    [[nodiscard]] word flags() const { return format_->accessed.mask() | format_->dirty.mask(); }
    [[nodiscard]] bool is_table(word entry, unsigned level) const
    {
        return present(entry, format_) && kind_of(entry, level, format_) == kind::table && legal(entry, level, format_);
    }
    [[nodiscard]] bool is_page(word entry, unsigned level) const
    {
        const kind k = kind_of(entry, level, format_);
        return present(entry, format_) && (k == kind::leaf || k == kind::run) && legal(entry, level, format_);
    }
    [[nodiscard]] bool breaks() const { return format_->break_before_make() || format_->break_before_resize(); }

    // ---- rights and attributes, by number

    void find_grants()
    {
        const std::vector<page_attributes> looks = {
            {}, {.software = free_bit()}, {.type = memory_type::uc}, {.type = memory_type::uc, .software = free_bit()}};
        for (unsigned n = 0; n < 32; ++n) {
            permissions p{(n & 1) == 0, (n & 2) == 0, (n & 4) == 0, (n & 8) == 0, (n & 16) == 0};
            if (!format_->modes_apart()) p.user_execute = p.execute && p.user;
            bool offered = true;
            for (const form& f : forms_) {
                const encoded e = encode(f.run ? kind::run : kind::leaf, f.level, 0, p, format_);
                offered = offered && e && splits(e.entry, f);
            }
            bool known = false;
            for (const permissions& other : grants_)
                known = known || entry_of(1, false, p, {}) == entry_of(1, false, other, {});
            if (offered && !known && grants_.size() < 5) grants_.push_back(p);
        }
        for (const page_attributes& a : looks) {
            bool offered = true;
            for (const form& f : forms_) {
                offered = offered && static_cast<bool>(bits_for(a, f.level, f.run ? kind::run : kind::leaf, format_));
            }
            if (offered && (looks_.empty() || !(a == looks_.back()))) looks_.push_back(a);
        }
        REQUIRE(!grants_.empty());
        REQUIRE(!looks_.empty());
        for (const form& f : forms_) {
            known_entries& k = known_[f.level][f.run ? 1 : 0];
            const layout& l = format_->layout_at(f.level, f.run ? kind::run : kind::leaf);
            k.ignored = l.mask(role::address) | l.mask(role::accessed) | l.mask(role::dirty);
            k.entries.clear();
            for (const permissions& p : grants_) {
                for (const page_attributes& a : looks_) k.entries.push_back(entry_of(f.level, f.run, p, a));
            }
        }
    }
    /// Whether rights have a place in the entries of the next smaller pages.
    [[nodiscard]] bool splits(word entry, const form& f) const
    {
        if (f.run) return static_cast<bool>(detail::resize_leaf(entry, f.level, f.level, format_, kind::run));
        return f.level == 1 || static_cast<bool>(split(entry, f.level, 0, format_));
    }
    [[nodiscard]] word free_bit() const
    {
        word free = ones(63, 0);
        for (const form& f : forms_) {
            free &= format_->layout_at(f.level, f.run ? kind::run : kind::leaf).mask(role::software);
        }
        return free & ~(free - 1);
    }
    [[nodiscard]] word entry_of(unsigned level, bool run, const permissions& p, const page_attributes& a) const
    {
        const kind k = run ? kind::run : kind::leaf;
        const attribute_bits also = bits_for(a, level, k, format_);
        return encode(k, level, 0, p, format_, field_values(also.bits, entries(level, k))).entry;
    }
    [[nodiscard]] bool identify(word entry, unsigned level, bool run, unsigned& grant, unsigned& look) const
    {
        const known_entries& k = known_[level][run ? 1 : 0];
        for (unsigned n = 0; n < k.entries.size(); ++n) {
            if (((entry ^ k.entries[n]) & ~k.ignored) != 0) continue;
            grant = n / static_cast<unsigned>(looks_.size());
            look = n % static_cast<unsigned>(looks_.size());
            return true;
        }
        return false;
    }

    // ---- links

    void link(word entry, unsigned level, word base)  // NOLINT(misc-no-recursion): six levels
    {
        table<Word>* const t = child(entry, level);
        if (t == nullptr) return m_.problem("a table was linked that is not handed out");
        if (t->linked) return m_.problem("a table was linked twice");
        if (t->unpublished_count != 0) m_.problem("a table was linked before it was published");
        t->linked = t->was_linked = true;
        t->base = base;
        for (std::size_t i = 0; i < t->count; ++i) {
            const word below = t->slots[i];
            const word first = base + (word{i} << s_.page_shift(t->level));
            if (is_table(below, t->level)) link(below, t->level, first);
            if (!is_empty(below, format_)) changed_.push_back({first, first | ones(s_.page_shift(t->level) - 1, 0)});
        }
    }
    void unlink(word entry, unsigned level)  // NOLINT(misc-no-recursion): six levels
    {
        table<Word>* const t = child(entry, level);
        if (t == nullptr) return m_.problem("a table was unlinked that is not handed out");
        t->linked = false;
        for (std::size_t i = 0; i < t->count; ++i) {
            if (is_table(t->slots[i], t->level)) unlink(t->slots[i], t->level);
        }
    }
    [[nodiscard]] table<Word>* child(word entry, unsigned level)
    {
        return m_.exactly(format_->layout_at(level, kind::table).address_in(entry));
    }

    // ---- walks

    /// Where a walk of the tables as they are ends, without a trace.
    [[nodiscard]] reached look_up(word offset)
    {
        reached r;
        table<Word>* t = m_.exactly(root_address);
        for (unsigned level = s_.levels; t != nullptr;) {
            const word index = s_.index(offset, level);
            const word entry = t->slots[index];
            r.entry = entry;
            r.level = level;
            if (is_table(entry, level)) {
                t = child(entry, level);
                level = format_->level_below(entry, level);
                continue;
            }
            if (!is_page(entry, level)) return r;
            r.run = kind_of(entry, level, format_) == kind::run;
            r.page = identify(entry, level, r.run, r.grant, r.look);
            if (!r.page) m_.problem("an entry with other bits than were asked for");
            const layout& l = format_->layout_at(level, kind_of(entry, level, format_));
            r.shift = page_shift_of(entry, level, format_);
            r.physical = l.address_in(entry) | (offset & ones(l.offset_bits_of(entry) - 1, 0));
            const word count = word{1} << (r.shift - s_.page_shift(level));
            const word from = index & ~(count - 1);
            for (word i = from; i < from + count; ++i) r.flags |= t->slots[i] & flags();
            return r;
        }
        r.missing = true;
        return r;
    }

    /// An access by an MMU that may use what its TLB kept of tables. With `sets` it sets A and D.
    void touch(word offset, bool writes, bool sets)
    {
        word address = root_address;
        unsigned level = s_.levels;
        for (const kept& k : tlb_.entries()) {
            if (k.is != kept::sort::table || offset < k.begin || offset > k.last || !d_.one_in(2)) continue;
            address = k.physical;
            level = k.below;
            break;
        }
        for (;;) {
            table<Word>* const t = m_.exactly(address);
            if (t == nullptr) return m_.problem("an MMU read a table that was given back");
            const word index = s_.index(offset, level);
            if (address == root_address && tree_.borrowed.overlap(index, index)) return;
            Word& slot = t->slots[index];
            const unsigned shift = s_.page_shift(level);
            const word first = offset & ~ones(shift - 1, 0);
            const word last = offset | ones(shift - 1, 0);
            if (is_table(slot, level)) {
                if (sets) slot = static_cast<Word>(slot | format_->layout_at(level, kind::table).mask(role::accessed));
                address = format_->layout_at(level, kind::table).address_in(slot);
                const unsigned below = format_->level_below(slot, level);
                if (d_.one_in(3)) tlb_.keep({kept::sort::table, first, last, address, below});
                level = below;
                continue;
            }
            if (!is_page(slot, level)) {
                if (!present(slot, format_) && format_->caches_absent() && d_.one_in(2))
                    tlb_.keep({kept::sort::absent, first, last});
                return;
            }
            const kind k = kind_of(slot, level, format_);
            const layout& l = format_->layout_at(level, k);
            kept page{kept::sort::page, first, last,
                      l.address_in(slot) | (first & ones(l.offset_bits_of(slot) - 1, 0))};
            unsigned grant = 0;
            unsigned look = 0;
            if (!identify(slot, level, k == kind::run, grant, look))
                return m_.problem("an entry with other bits than were asked for, seen by an MMU");
            page.grant = grant;
            page.look = look;
            const bool may_write = writes && grants_[grant].write;
            if (sets) {
                word set = l.mask(role::accessed);
                if (may_write) set |= l.mask(role::dirty);
                slot = static_cast<Word>(slot | set);
                if (set != 0) marks_[offset & ~ones(s_.page_shift(1) - 1, 0)] |= set;
            } else if ((slot & l.mask(role::accessed)) != l.mask(role::accessed)) {
                return;
            }
            page.dirty = l.mask(role::dirty) != 0 && (slot & l.mask(role::dirty)) != 0;
            // The whole page, what the entry maps of it, or less.
            const unsigned size = page_shift_of(slot, level, format_);
            page.shift = size;
            if (d_.one_in(3)) {
                const word from = offset & ~ones(size - 1, 0);
                page.physical -= page.begin - from;
                page.begin = from;
                page.last = offset | ones(size - 1, 0);
            } else if (d_.one_in(3)) {
                const word from = offset & ~ones(s_.page_shift(1) - 1, 0);
                page.physical += from - page.begin;
                page.begin = from;
                page.last = offset | ones(s_.page_shift(1) - 1, 0);
            }
            tlb_.keep(page);
            return;
        }
    }

    // ---- A and D

    void lose_marks(word first, word last)
    {
        for (auto at = marks_.lower_bound(first); at != marks_.end() && at->first <= last;) {
            gone_[at->first] |= at->second;
            at = marks_.erase(at);
        }
    }
    void check_marks()
    {
        for (const auto& [offset, set] : gone_) {
            if (!look_up(offset).page) m_.problem("A or D of a page that is gone was not reported");
            marks_[offset] |= set;
        }
        gone_.clear();
        for (const auto& [offset, set] : marks_) {
            const reached r = look_up(offset);
            if (!r.page || (set & ~r.flags) != 0) m_.problem("A or D was lost");
        }
        while (marks_.size() > 24) harvest(marks_.begin()->first);
    }
    /// Clears A and D of a page, and flushes it.
    void harvest(word offset)
    {
        one_page p;
        if (!now_.at(offset, p)) return m_.problem("a mark without a page");
        table<Word>* t = m_.exactly(root_address);
        unsigned level = s_.levels;
        while (is_table(t->slots[s_.index(offset, level)], level)) {
            const word entry = t->slots[s_.index(offset, level)];
            t = child(entry, level);
            level = format_->level_below(entry, level);
        }
        const word count = word{1} << (p.is.shift - s_.page_shift(level));
        const word from = s_.index(p.begin, level);
        for (word i = from; i < from + count; ++i) t->slots[i] = static_cast<Word>(t->slots[i] & ~flags());
        tlb_.flush(p.begin, p.last, s_.page_shift(1), false);
        marks_.erase(marks_.lower_bound(p.begin), marks_.upper_bound(p.last));
    }
    void report(const taken_page& p)
    {
        ++reported_;
        const word first = offset_of(p.address);
        const word last = first + ones(p.page_shift - 1, 0);
        one_page was;
        if (!now_.at(first, was)) {
            m_.problem("what was not there was reported");
        } else if (was.is.junk != (p.is == kind::none)) {
            m_.problem("a page was reported as another entry, or the reverse");
        } else if (was.is.junk) {
            if (p.entry != was.is.entry) m_.problem("another entry was reported");
        } else {
            const layout& l = format_->layout_at(p.level, p.is);
            const word physical = l.address_in(p.entry) | (first & ones(l.offset_bits_of(p.entry) - 1, 0));
            if (physical != was.is.physical + (first - was.begin)) m_.problem("another page was reported");
        }
        if (protecting_) return;
        for (auto at = gone_.lower_bound(first); at != gone_.end() && at->first <= last;) {
            if ((at->second & ~p.entry) != 0) m_.problem("A or D of a page that was taken away was not reported");
            at = gone_.erase(at);
        }
    }

    // ---- checks of the tree

    [[nodiscard]] static bool same(const page_map& model, word offset, const reached& r)
    {
        one_page p;
        if (!model.at(offset, p) || p.is.junk) return !r.page;
        return r.page && r.physical == p.is.physical + (offset - p.begin) && r.grant == p.is.grant &&
               r.look == p.is.look;
    }
    void check_prefix()
    {
        const word offset = some_offset_near();
        if (tree_.borrowed.overlap(s_.index(offset, s_.levels), s_.index(offset, s_.levels))) return;
        const reached r = look_up(offset);
        if (r.missing) return m_.problem("a table is linked that was given back");
        if (same(now_, offset, r) || same(after_, offset, r) || (may_be_absent_ && !r.page)) return;
        m_.problem("between two stores an address translates as neither before nor after");
    }
    void check_live_change(word old, word now, unsigned level)
    {
        if (!format_->break_before_make()) return;
        const kind k = kind_of(old, level, format_);
        const layout& l = format_->layout_at(level, k);
        const word address = l.mask(role::address) | l.mask(role::memory_type) | l.mask(role::attribute);
        if (k != kind_of(now, level, format_) || ((old ^ now) & address) != 0) {
            m_.problem("a live entry was changed that had to be absent first");
        }
        if (k == kind::run && ((old ^ now) & ~flags()) != 0) m_.problem("an entry of a live run was changed");
    }
    /// A page was made where none was: no TLB may hold another page or size there.
    void check_made(word first, word last, word entry, unsigned level)
    {
        const kind k = kind_of(entry, level, format_);
        const layout& l = format_->layout_at(level, k);
        const word physical = l.address_in(entry) | (first & ones(l.offset_bits_of(entry) - 1, 0));
        for (const kept& e : tlb_.entries()) {
            if (e.is != kept::sort::page || e.begin > last || e.last < first) continue;
            const bool larger = e.last - e.begin > ones(page_shift_of(entry, level, format_) - 1, 0);
            if (larger || e.physical - e.begin != physical - first) {
                m_.problem("a page was made before another one was flushed");
            }
        }
    }

    /// Compares the tree with the model, and what was handed out with what is linked.
    void compare(const char* when)
    {
        word bytes = 0;
        word linked = 0;
        scan(*m_.exactly(root_address), 0, bytes, linked);
        word expected = 0;
        for (const auto& [begin, p] : now_.all()) expected += p.last - begin + 1;
        if (bytes != expected) m_.problem(std::string("pages are missing: ") + when);
        if (linked != m_.given - list_.table_count()) m_.problem(std::string("tables are lost: ") + when);
        for (unsigned n = 0; n < list_.table_count(); ++n) {
            const table<Word>* const t = m_.exactly(list_.table(n).address);
            if (t == nullptr || t->level != list_.table(n).level) m_.problem("a queued table is not handed out");
            if (t != nullptr && t->linked) m_.problem("a queued table is linked");
        }
        const table<Word>& top = *m_.exactly(root_address);
        for (std::size_t i = 0; i < foreign_.size(); ++i) {
            if (top.slots[tree_.borrowed.first + i] != foreign_[i]) m_.problem("a borrowed slot was changed");
        }
    }
    void scan(const table<Word>& t, word base, word& bytes, word& linked)  // NOLINT(misc-no-recursion): six levels
    {
        if (!t.linked) m_.problem("the model lost a link");
        if (t.unpublished_count != 0) m_.problem("slots were not published");
        const auto empty = static_cast<Word>(format_->empty());
        for (std::size_t i = 0; i < t.count; ++i) {
            const word entry = t.slots[i];
            if (entry == empty) continue;
            if (&t == m_.exactly(root_address) && tree_.borrowed.overlap(i, i)) continue;
            const word offset = base + (word{i} << s_.page_shift(t.level));
            if (is_table(entry, t.level)) {
                const table<Word>* const below = child(entry, t.level);
                if (below == nullptr) return m_.problem("a table is linked that is not handed out");
                ++linked;
                scan(*below, offset, bytes, linked);
                continue;
            }
            bytes += ones(s_.page_shift(t.level) - 1, 0) + 1;
            one_page p;
            if (!now_.at(offset, p)) return m_.problem("an entry that is not in the model");
            if (p.is.junk) {
                if (p.is.entry != entry) m_.problem("an entry that is no page was changed");
                continue;
            }
            if (!is_page(entry, t.level)) return m_.problem("an entry is neither a page nor empty");
            const kind k = kind_of(entry, t.level, format_);
            const layout& l = format_->layout_at(t.level, k);
            unsigned grant = 0;
            unsigned look = 0;
            if (!identify(entry, t.level, k == kind::run, grant, look))
                return m_.problem("an entry with other bits than were asked for");
            const word physical = l.address_in(entry) | (offset & ones(l.offset_bits_of(entry) - 1, 0));
            const bool right = p.is.level == t.level && p.is.run == (k == kind::run) &&
                               p.is.shift == page_shift_of(entry, t.level, format_) && p.is.grant == grant &&
                               p.is.look == look && physical == p.is.physical + (offset - p.begin);
            if (!right) m_.problem("a page differs from the model's");
        }
    }
    /// Compares with what the library says of the tree.
    void compare_by_library()
    {
        if (tree_.borrowed.first <= tree_.borrowed.last) return;
        const auto memory = [this](word physical) { return m_.slot(physical); };
        word bytes = 0;
        word last_end = 0;
        static_cast<void>(for_each_mapping(format_, root_address, {}, memory, [&](const mapping& found) {
            bytes += found.bytes;
            const word first = offset_of(found.address);
            if (first < last_end) m_.problem("for_each_mapping goes back");
            last_end = first + (found.bytes - 1);
            one_page p;
            for (const word offset : {first, last_end}) {
                const bool right = now_.at(offset, p) && !p.is.junk && p.is.shift == found.page_shift &&
                                   p.is.physical + (offset - p.begin) == found.physical + (offset - first) &&
                                   grants_[p.is.grant] == found.allowed;
                if (!right) m_.problem("for_each_mapping shows another page than the model");
            }
        }));
        word expected = 0;
        for (const auto& [begin, p] : now_.all()) {
            if (!p.junk) expected += p.last - begin + 1;
            for (const word offset : {begin - 1, begin, p.last, p.last + 1}) {
                const walk_result r =
                    walk(format_, root_address, s_.extended(offset & space_), {}, {}, memory, update_flags::no);
                one_page there;
                const bool page = now_.at(offset & space_, there) && !there.is.junk;
                const bool found = r.page_shift != 0 && r.broken == rule::none && r.fault != fault_kind::not_present;
                if (page != found) m_.problem("a walk finds a page that is not in the model, or the reverse");
                if (page && r && r.address != there.is.physical + ((offset & space_) - there.begin)) {
                    m_.problem("a walk reaches another page than the model says");
                }
            }
        }
        if (bytes != expected) m_.problem("for_each_mapping leaves pages out");
    }

    // ---- flushing

    void flush()
    {
        const flush_due due = list_.due();
        if (due == flush_due::everything) {
            tlb_.flush_all();
        } else {
            for (const flush_item& item : list_) {
                tlb_.flush(offset_of(item.first), offset_of(item.last), item.page_shift, item.upper);
                bool first = false;
                bool last = false;
                for (const span& c : changed_) {
                    first = first || c.first == offset_of(item.first);
                    last = last || c.last == offset_of(item.last);
                }
                if (!first || !last) m_.problem("more is to be flushed than was changed");
            }
        }
        for (const kept& k : tlb_.entries()) check_kept(k);
        m_.may_release = true;
        static_cast<void>(m_.take_released());
        flushed(tree_, list_);
        m_.may_release = false;
        if (list_.due() != flush_due::not_recorded) m_.problem("a list is not empty after its flush");
        for (const word address : m_.take_released()) {
            for (const kept& k : tlb_.entries()) {
                if (k.is == kept::sort::table && k.physical == address)
                    m_.problem("a table was given back that a TLB holds");
            }
        }
        changed_.clear();
    }
    /// Whether what a TLB holds after a flush is still so.
    void check_kept(const kept& k)
    {
        one_page p;
        if (k.is == kept::sort::absent) {
            for (word at = k.begin; now_.first_in(at, k.last, p);) {
                if (!p.is.junk) return m_.problem("a TLB holds that a page is absent, after the flush");
                if (p.last >= k.last) break;
                at = p.last + 1;
            }
            return;
        }
        if (k.is == kept::sort::table) {
            table<Word>* t = m_.exactly(root_address);
            for (unsigned level = s_.levels; t != nullptr && level > 1;) {
                const word entry = t->slots[s_.index(k.begin, level)];
                if (!is_table(entry, level)) break;
                t = child(entry, level);
                level = format_->level_below(entry, level);
                if (t != nullptr && level == k.below && t->address == k.physical) return;
            }
            return m_.problem("a TLB holds a table that is not there, after the flush");
        }
        for (word at = k.begin;; at = p.last + 1) {
            if (!now_.at(at, p) || p.is.junk) return m_.problem("a TLB holds a page that is gone, after the flush");
            const permissions had = grants_[k.grant];
            const bool right = p.is.physical + (at - p.begin) == k.physical + (at - k.begin) &&
                               looks_[p.is.look].type == looks_[k.look].type && (had & grants_[p.is.grant]) == had;
            if (!right) return m_.problem("a TLB holds another page than there is, after the flush");
            if (p.last >= k.last) break;
        }
        if (k.dirty && (look_up(k.begin).flags & format_->dirty.mask()) == 0) {
            m_.problem("a TLB holds a page as dirty that is clean, after the flush");
        }
    }

    // ---- random places

    [[nodiscard]] word some_offset_near()
    {
        if (!d_.one_in(4)) {
            const word length = op_last_ - op_first_;
            return op_first_ + (length == ~word{0} ? d_.bits() : d_.below(length + 1));
        }
        const auto level = static_cast<unsigned>(1 + d_.below(s_.levels));
        return (op_first_ + (d_.below(8) << s_.page_shift(level)) - (word{4} << s_.page_shift(level))) & space_;
    }
    /// A range of whole smallest pages somewhere near the ends, the middle and other corners of the space.
    void choose_range()
    {
        const word page = ones(s_.page_shift(1) - 1, 0);
        const unsigned top = s_.page_shift(s_.levels);
        const word corners[] = {0,
                                space_,
                                (space_ >> 1) + 1,
                                word{1} << top,
                                ones(top, 0),
                                word{3} << s_.page_shift(s_.levels > 1 ? 2 : 1)};
        const auto level = static_cast<unsigned>(1 + d_.below(s_.levels < 3 ? s_.levels : 3));
        const word jitter = d_.below(6) << s_.page_shift(level);
        word first = (corners[d_.below(d_.one_in(3) ? 6 : 2)] + (d_.one_in(2) ? jitter : ~jitter)) & space_ & ~page;
        const form& f = forms_[d_.below(forms_.size())];
        const form& small = forms_.back();
        const unsigned shift = d_.one_in(2) ? small.shift : f.shift;
        if (!d_.one_in(3)) first &= ~ones(shift - 1, 0);
        word length = (1 + d_.below(5)) << shift;
        if (d_.one_in(4)) length += (1 + d_.below(20)) << s_.page_shift(1);
        if (d_.one_in(6)) length = (1 + d_.below(word{3} << s_.index_bits_at(1))) << s_.page_shift(1);
        if (d_.one_in(8)) length = space_;
        op_first_ = first;
        op_last_ = space_ - first < length ? space_ : first + (length - 1);
        if (op_last_ != space_ && ((op_last_ + 1) & page) != 0) op_last_ |= page;
        if (tree_.borrowed.overlap(s_.index(op_first_, s_.levels), s_.index(op_last_, s_.levels))) {
            op_last_ = op_first_ | page;
        }
    }
    [[nodiscard]] inclusive_range range() const { return {s_.extended(op_first_), s_.extended(op_last_)}; }
    [[nodiscard]] bool over_the_hole() const
    {
        return s_.extended(op_first_) - op_first_ != s_.extended(op_last_) - op_last_;
    }
    [[nodiscard]] bool on_borrowed() const
    {
        return tree_.borrowed.overlap(s_.index(op_first_, s_.levels), s_.index(op_last_, s_.levels));
    }

    // ---- the model of each operation

    /// Splits pages until one begins at an offset. False: what is there cannot be split.
    [[nodiscard]] bool cut(page_map& model, word offset) const
    {
        one_page p;
        while (model.at(offset, p) && p.begin != offset) {
            if (p.is.junk) return false;
            split_once(model, p);
        }
        return true;
    }
    void split_once(page_map& model, const one_page& p) const
    {
        pages parts = p.is;
        if (parts.run) {
            parts.run = false;
        } else {
            --parts.level;
        }
        parts.shift = s_.page_shift(parts.level);
        parts.last = p.last;
        model.erase(p.begin, p.last);
        model.put(p.begin, parts);
    }

    /// map(), up to an offset.
    [[nodiscard]] outcome map_model(page_map& model, const wanted_map& w, word until, unsigned most = 3000) const
    {
        outcome o;
        const word delta = w.physical - w.first;
        word at = w.first;
        unsigned below_shift = 64;
        word below_until = 0;
        const auto stop = [&](tree_end why) {
            o.end = why;
            o.next = at;
            return o;
        };
        for (bool done = false; !done;) {
            if (at == until) return stop(tree_end::limit);
            if (most-- == 0) {
                o.too_many = true;
                return o;
            }
            std::size_t n = w.forms.size() - 1;
            for (std::size_t i = 0; i < n; ++i) {
                const word size = ones(w.forms[i].shift - 1, 0);
                if (w.forms[i].shift >= below_shift && at <= below_until) continue;
                if (((at | (at + delta)) & size) == 0 && w.last - at >= size) n = i;
            }
            const form& f = w.forms[n];
            const word end = at | ones(f.shift - 1, 0);
            const auto go_to = [&](word last) {
                done = last >= w.last;
                at = last + 1;
            };
            const auto put = [&] {
                model.put(at, {end, at + delta, f.shift, f.level, f.run, false, w.grant, w.look, 0});
                ++o.pages;
                o.bytes += end - at + 1;
                go_to(end);
            };
            one_page p;
            if (!model.first_in(at, end, p)) {
                put();
                continue;
            }
            if (p.begin <= at && p.is.shift >= f.shift) {
                if (p.is.junk) return stop(tree_end::occupied);
                const bool alike =
                    p.is.physical + (at - p.begin) == at + delta && p.is.grant == w.grant && p.is.look == w.look;
                if (alike || w.mode == existing::keep) {
                    go_to(p.last < w.last ? p.last : w.last);
                    continue;
                }
                if (w.mode == existing::refuse) return stop(tree_end::occupied);
                const bool in_place = p.is.shift == f.shift && !f.run && !p.is.run;
                const bool live = in_place ? format_->break_before_make() : breaks();
                if (live && !Flushes) return stop(tree_end::cannot_change_live);
                if (!cut(model, at) || (end != space_ && !cut(model, end + 1))) return stop(tree_end::cannot_split);
                model.erase(at, end);
                if (in_place) put();
                continue;
            }
            if (f.run && p.is.junk && p.is.level == f.level) return stop(tree_end::occupied);
            if (w.mode == existing::replace) {
                if (breaks() && !Flushes) return stop(tree_end::cannot_change_live);
                model.erase(at, end);
                continue;
            }
            if (w.mode == existing::refuse && !f.run) return stop(tree_end::occupied);
            if (n + 1 >= w.forms.size()) return stop(tree_end::occupied);
            below_shift = f.shift;
            below_until = end;
        }
        return o;
    }

    /// What becomes of the range's ends: the range changes with `whole`, pages with `split`.
    [[nodiscard]] tree_end ends_model(page_map& model, range_end ends, word& first, word& last) const
    {
        one_page p;
        const bool at_first = model.at(first, p) && p.begin != first;
        const one_page left = p;
        one_page right;
        const bool at_last = last != space_ && model.at(last + 1, right) && right.begin != last + 1;
        if (ends == range_end::refuse) return at_first || at_last ? tree_end::inside_page : tree_end::done;
        if (ends == range_end::whole) {
            if (at_first) first = left.begin;
            if (at_first && left.last > last) last = left.last;
            if (at_last && right.last > last) last = right.last;
            return tree_end::done;
        }
        if ((at_first && left.is.junk) || (at_last && right.is.junk)) return tree_end::cannot_split;
        if ((at_first || at_last) && breaks() && !Flushes) return tree_end::cannot_change_live;
        if (!cut(model, first) || (last != space_ && !cut(model, last + 1))) return tree_end::cannot_split;
        return tree_end::done;
    }

    /// protect() of a range without pages over its ends, up to an offset.
    [[nodiscard]] outcome protect_model(page_map& model, word first, word last, unsigned grant) const
    {
        outcome o;
        one_page p;
        for (word at = first; model.first_in(at, last, p);) {
            if (!p.is.junk && p.is.grant != grant) {
                if (p.is.run && format_->break_before_make() && !Flushes) {
                    o.end = tree_end::cannot_change_live;
                    o.next = p.begin;
                    return o;
                }
                ++o.pages;
                o.bytes += p.last - p.begin + 1;
                pages changed = p.is;
                changed.grant = grant;
                changed.last = p.last;
                model.erase(p.begin, p.last);
                model.put(p.begin, changed);
            }
            if (p.last >= last) break;
            at = p.last + 1;
        }
        return o;
    }

    /// split_pages(), so many splits.
    [[nodiscard]] outcome split_model(page_map& model, word first, word last, unsigned shift, word most) const
    {
        outcome o;
        one_page p;
        for (word at = first; model.first_in(at, last, p);) {
            if (!p.is.junk && p.is.shift > shift) {
                if (o.pages == most) return o;
                if (breaks() && !Flushes) {
                    o.end = tree_end::cannot_change_live;
                    return o;
                }
                split_once(model, p);
                ++o.pages;
                continue;
            }
            // All pages of these that follow are alike.
            const auto all = std::prev(model.all().upper_bound(p.begin));
            if (all->second.last >= last) break;
            at = all->second.last + 1;
        }
        return o;
    }

    /// merge_pages().
    [[nodiscard]] outcome merge_model(page_map& model, word first, word last, unsigned largest) const
    {
        outcome o;
        for (unsigned level = 2; level <= s_.levels; ++level) {
            const unsigned shift = s_.page_shift(level);
            if (shift > largest || !format_->exists(level, kind::leaf)) continue;
            const word size = ones(shift - 1, 0);
            std::vector<std::pair<word, pages>> found;
            for (const auto& [begin, p] : model.all()) {
                if (p.junk || p.run || p.level != level - 1 || p.last < first || begin > last) continue;
                const word from = begin > first ? begin : first;
                const word to = p.last < last ? p.last : last;
                for (word at = (from + size) & ~size; at >= from && at <= to && to - at >= size; at += size + 1) {
                    const word physical = p.physical + (at - begin);
                    if ((physical & size) == 0)
                        found.push_back({at, {at | size, physical, shift, level, false, false, p.grant, p.look, 0}});
                    if ((at | size) == space_) break;
                }
            }
            for (const auto& [begin, p] : found) {
                model.erase(begin, p.last);
                model.put(begin, p);
                ++o.pages;
            }
        }
        return o;
    }

    // ---- operations

    /// Calls an operation until it is through; `partly(result, sum)` judges it where it stopped for a while.
    template <class Call, class Partly>
    tree_result drive(Call call, Partly partly)
    {
        tree_result sum;
        word from = 0;
        unsigned idle = 0;
        bool was_full = false;
        m_.fail_at = d_.one_in(3) ? static_cast<unsigned>(1 + d_.below(6)) : 0;
        for (;;) {
            const word limit = d_.one_in(2) ? ~word{0} : 1 + d_.below(d_.one_in(2) ? 3 : 200);
            const word given = m_.given;
            const unsigned queued = list_.table_count();
            inside_ = true;
            const tree_result r = call(from, limit);
            inside_ = false;
            sum.pages += r.pages;
            sum.bytes += r.bytes;
            sum.tables_made += r.tables_made;
            sum.tables_freed += r.tables_freed;
            sum.end = r.end;
            sum.next = r.next;
            sum.range = r.range;
            // What was made and not freed is linked, or was released at once.
            const word linked_before = given - queued;
            const word linked_after = m_.given - list_.table_count();
            if (counts_tables_ && linked_after - linked_before != r.tables_made - r.tables_freed) {
                m_.problem("tables made and freed are miscounted");
            }
            if (!good()) return sum;
            const bool stopped = r.end == tree_end::limit || r.end == tree_end::list_full ||
                                 r.end == tree_end::no_memory || r.end == tree_end::pending;
            if (!stopped) break;
            if (r.end == tree_end::no_memory && m_.fail_at != 0) m_.problem("no memory, but the allocator gave all");
            const bool full = r.end == tree_end::list_full || r.end == tree_end::pending;
            // A list that is full may stop behind what is gone from a table that is still to be unlinked.
            was_full = was_full || full;
            if (!was_full) partly(r, sum);
            if (full) flush_between();
            if (r.end == tree_end::no_memory) m_.fail_at = 0;
            idle = r.next == from && r.pages == 0 && r.tables_freed == 0 && r.end == tree_end::limit ? idle + 1 : 0;
            if (idle > 2) m_.problem("an operation with a limit does not go on");
            if (!good()) return sum;
            from = r.next;
        }
        m_.fail_at = 0;
        return sum;
    }
    /// In the middle of an operation the TLB is only emptied.
    void flush_between()
    {
        tlb_.flush_all();
        m_.may_release = true;
        flushed(tree_, list_);
        m_.may_release = false;
        static_cast<void>(m_.take_released());
        changed_.clear();
    }
    void end_of(const page_map& model)
    {
        now_ = model;
        check_marks();
        compare(what_);
        if (d_.one_in(8)) compare_by_library();
        if (breaks() || d_.one_in(3)) flush();
    }
    void expect(bool what, const char* problem)
    {
        if (!what) m_.problem(problem);
    }
    [[nodiscard]] auto reporter()
    {
        return [this](const taken_page& p) { report(p); };
    }

    void try_map()
    {
        what_ = "map";
        wanted_map w;
        w.first = op_first_;
        w.last = op_last_;
        w.mode = static_cast<existing>(d_.below(3));
        w.grant = static_cast<unsigned>(d_.below(grants_.size()));
        w.look = static_cast<unsigned>(d_.below(looks_.size()));
        word sizes = d_.one_in(2) ? ~word{0} : d_.bits() | word{1} << forms_.back().shift;
        if (d_.one_in(6)) sizes = word{1} << forms_[d_.below(forms_.size())].shift;
        for (const form& f : forms_) {
            if ((sizes >> f.shift & 1) != 0) w.forms.push_back(f);
        }
        const unsigned smallest = w.forms.back().shift;
        const unsigned alike = forms_[d_.below(forms_.size())].shift;
        w.physical = (w.first & ones((alike > 30 ? 30 : alike) - 1, 0)) | d_.below(4) << (alike > 29 ? 29 : alike);
        if (d_.one_in(4)) w.physical = w.first & ones(30, 0);
        if (!d_.one_in(8)) {
            w.first &= ~ones(smallest - 1, 0);
            w.last |= ones(smallest - 1, 0);
            w.physical &= ~ones(smallest - 1, 0);
        }
        op_first_ = w.first;
        op_last_ = w.last;
        const word length = w.last - w.first;
        const bool aligned = ((w.first | (w.last + 1) | w.physical) & ones(smallest - 1, 0)) == 0;
        const word widest =
            format_->layout_at(1, kind::leaf).address_in(format_->layout_at(1, kind::leaf).mask(role::address));
        const bool fits =
            w.physical + length >= w.physical && (w.physical + length) <= (widest | ones(s_.page_shift(1) - 1, 0));
        after_ = now_;
        may_be_absent_ = w.mode == existing::replace;
        outcome o;
        if (!over_the_hole() && aligned && fits && !on_borrowed()) {
            o = map_model(after_, w, ~word{0} - 1);
            if (o.too_many) return;
        }
        const bool undoes = d_.one_in(3);
        std::vector<inclusive_range> room(undoes ? 4000 : 1 + d_.below(3));
        written_ranges written(room.data(), static_cast<unsigned>(room.size()));
        const bool writes = d_.one_in(2) || undoes;
        const tree_result r = drive(
            [&](word from, word limit) {
                if (!undoes) written.clear();
                return map(tree_, range(), w.physical, grants_[w.grant], list_,
                           {.what_exists = w.mode,
                            .page_sizes = sizes,
                            .attributes = looks_[w.look],
                            .limit = limit,
                            .from = from,
                            .written = writes ? &written : nullptr},
                           reporter());
            },
            [&](const tree_result& at, const tree_result& sum) {
                if (w.mode == existing::replace) return;
                page_map part = now_;
                const outcome some = map_model(part, w, offset_of(at.next));
                expect(some.end == tree_end::limit && some.pages == sum.pages, "map stopped elsewhere than it says");
                std::swap(part, now_);
                compare("map stopped");
                std::swap(part, now_);
            });
        if (!good()) return;
        if (on_borrowed() || over_the_hole() || !aligned || !fits) {
            const bool why = (r.end == tree_end::borrowed && on_borrowed()) ||
                             (r.end == tree_end::not_translated && over_the_hole()) ||
                             (r.end == tree_end::misaligned && !aligned) ||
                             (r.end == tree_end::physical_too_wide && !fits);
            expect(why, "map did not refuse what it must");
        } else {
            expect(r.end == o.end, "map ended in another way than the model");
            if (good() && r.end != tree_end::done)
                expect(offset_of(r.next) == o.next, "map ended elsewhere than the model");
            expect(r.pages == o.pages && r.bytes == o.bytes, "map miscounts");
        }
        const page_map before = now_;
        end_of(after_);
        if (!undoes || !good()) return;
        what_ = "undo";
        page_map undone = after_;
        word bytes = 0;
        for (const inclusive_range& one : written)
            static_cast<void>(undone.erase(offset_of(one.first), offset_of(one.last), &bytes));
        expect(bytes == r.bytes, "written ranges are not what was mapped");
        if (w.mode != existing::replace) expect(undone == before, "what map wrote is not what there is more");
        if (!good()) return;
        after_ = undone;
        bool full = false;
        do {
            inside_ = true;
            const tree_result u = undo(tree_, written, list_);
            inside_ = false;
            full = u.end == tree_end::list_full;
            if (full) flush_between();
            expect(full || u, "undo failed");
        } while (full);
        // undo() tells nobody of A and D.
        gone_.clear();
        end_of(undone);
    }

    void try_unmap()
    {
        what_ = "unmap";
        const auto ends = static_cast<range_end>(d_.below(3));
        word first = op_first_;
        word last = op_last_;
        after_ = now_;
        may_be_absent_ = breaks();
        const tree_end settled = on_borrowed() ? tree_end::borrowed : ends_model(after_, ends, first, last);
        page_map cut_only = settled == tree_end::done ? after_ : now_;
        word bytes = 0;
        word count = 0;
        if (settled == tree_end::done) {
            count = after_.erase(first, last, &bytes);
        } else {
            after_ = now_;
        }
        reported_ = 0;
        const tree_result r = drive(
            [&](word from, word limit) {
                return unmap(tree_, range(), list_, {.ends = ends, .limit = limit, .from = from}, reporter());
            },
            [&](const tree_result& at, const tree_result&) {
                page_map part = at.end == tree_end::no_memory ? now_ : cut_only;
                if (at.end == tree_end::limit && offset_of(at.next) > first) part.erase(first, offset_of(at.next) - 1);
                std::swap(part, now_);
                compare("unmap stopped");
                std::swap(part, now_);
            });
        if (!good()) return;
        expect(r.end == settled, "unmap ended in another way than the model");
        expect(r.pages == count && r.bytes == bytes && reported_ == count, "unmap miscounts");
        if (r && ends != range_end::whole) {
            expect(offset_of(r.range.first) == first && offset_of(r.range.last) == last, "unmap says another range");
        }
        if (r) check_no_tables(op_first_, op_last_, false);
        end_of(after_);
    }
    /// No table lies in a range whole, or none that is empty.
    void check_no_tables(word first, word last, bool empty_ones)
    {
        for (const auto& [address, t] : m_.tables()) {
            if (!t->linked || address == root_address) continue;
            const word end = t->base + ones(s_.page_shift(t->level + 1) - 1, 0);
            if (t->base < first || end > last) continue;
            bool used = false;
            for (std::size_t i = 0; i < t->count; ++i) used = used || !is_empty(t->slots[i], format_);
            if (!used || !empty_ones) m_.problem("a table was left that the range covers");
        }
    }

    void try_protect()
    {
        what_ = "protect";
        const auto ends = static_cast<range_end>(d_.below(3));
        const auto grant = static_cast<unsigned>(d_.below(grants_.size()));
        word first = op_first_;
        word last = op_last_;
        after_ = now_;
        may_be_absent_ = breaks();
        const tree_end settled = on_borrowed() ? tree_end::borrowed : ends_model(after_, ends, first, last);
        const page_map cut_only = settled == tree_end::done ? after_ : now_;
        outcome o;
        o.end = settled;
        if (settled == tree_end::done) {
            o = protect_model(after_, first, last, grant);
        } else {
            after_ = now_;
        }
        protecting_ = true;
        const tree_result r = drive(
            [&](word from, word limit) {
                return protect(tree_, range(), grants_[grant], list_, {.ends = ends, .limit = limit, .from = from},
                               reporter());
            },
            [&](const tree_result& at, const tree_result&) {
                page_map part = at.end == tree_end::no_memory ? now_ : cut_only;
                if (at.end == tree_end::limit && offset_of(at.next) > first) {
                    static_cast<void>(protect_model(part, first, offset_of(at.next) - 1, grant));
                }
                std::swap(part, now_);
                compare("protect stopped");
                std::swap(part, now_);
            });
        protecting_ = false;
        if (!good()) return;
        expect(r.end == o.end, "protect ended in another way than the model");
        expect(r.pages == o.pages && r.bytes == o.bytes, "protect miscounts");
        end_of(after_);
    }

    void try_split()
    {
        what_ = "split_pages";
        const unsigned shift =
            d_.one_in(8) ? 0 : forms_[d_.below(forms_.size())].shift - static_cast<unsigned>(d_.below(2));
        const unsigned until = shift < s_.page_shift(1) ? s_.page_shift(1) : shift;
        after_ = now_;
        may_be_absent_ = breaks();
        outcome o =
            on_borrowed() ? outcome{.end = tree_end::borrowed} : split_model(after_, op_first_, op_last_, until, 40);
        if (o.pages == 40) return;
        const tree_result r =
            drive([&](word from,
                      word limit) { return split_pages(tree_, range(), shift, list_, {.limit = limit, .from = from}); },
                  [&](const tree_result&, const tree_result& sum) {
                      page_map part = now_;
                      static_cast<void>(split_model(part, op_first_, op_last_, until, sum.pages));
                      std::swap(part, now_);
                      compare("split_pages stopped");
                      std::swap(part, now_);
                  });
        if (!good()) return;
        expect(r.end == o.end && r.pages == o.pages, "split_pages ended in another way than the model");
        end_of(after_);
    }

    void try_merge()
    {
        if constexpr (Flushes) {
            what_ = "merge_pages";
            const unsigned largest = d_.one_in(2) ? 63 : forms_[d_.below(forms_.size())].shift;
            after_ = now_;
            may_be_absent_ = true;
            outcome o;
            if (!on_borrowed()) o = merge_model(after_, op_first_, op_last_, largest);
            m_.may_release = true;  // memory.flush() was called before
            static_cast<void>(m_.take_released());
            const tree_result r = drive(
                [&](word from, word limit) {
                    return merge_pages(tree_, range(), largest, list_, {.limit = limit, .from = from});
                },
                [](const tree_result&, const tree_result&) {});
            m_.may_release = false;
            for (const word address : m_.take_released()) {
                for (const kept& k : tlb_.entries()) {
                    if (k.is == kept::sort::table && k.physical == address)
                        m_.problem("a table was given back that a TLB holds");
                }
            }
            if (!good()) return;
            expect(r.end == (on_borrowed() ? tree_end::borrowed : tree_end::done), "merge_pages ended in another way");
            expect(r.pages == o.pages && r.tables_freed == o.pages, "merge_pages merged other pages than the model");
            end_of(after_);
        }
    }

    void try_prune()
    {
        what_ = "prune";
        after_ = now_;
        may_be_absent_ = false;
        const tree_result r =
            drive([&](word from, word limit) { return prune(tree_, range(), list_, {.limit = limit, .from = from}); },
                  [](const tree_result&, const tree_result&) {});
        expect(r.end == (on_borrowed() ? tree_end::borrowed : tree_end::done) && r.pages == 0,
               "prune ended in another way");
        if (good() && r) check_no_tables(op_first_, op_last_, true);
        end_of(after_);
    }

    void try_make_slot()
    {
        what_ = "make_slot";
        after_ = now_;
        may_be_absent_ = false;
        const auto level = static_cast<unsigned>(1 + d_.below(s_.levels));
        m_.fail_at = d_.one_in(3) ? static_cast<unsigned>(1 + d_.below(3)) : 0;
        inside_ = true;
        const auto at = make_slot<Word>(tree_, s_.extended(op_first_), level, list_);
        inside_ = false;
        const bool failed = at.end == tree_end::no_memory;
        if (failed) expect(m_.fail_at == 0, "no memory, but the allocator gave all");
        m_.fail_at = 0;
        one_page p;
        const word top = s_.index(op_first_, s_.levels);
        const bool above = now_.at(op_first_, p) && p.is.level > level;
        if (tree_.borrowed.overlap(top, top)) {
            expect(level == s_.levels || !at, "make_slot went through a borrowed slot");
        } else if (!failed) {
            expect(at.end == (above ? tree_end::occupied : tree_end::done),
                   "make_slot ended in another way than the model");
        }
        if (at) {
            const table<Word>* const t = m_.table_of(at.slot);
            const bool right = at.level == level && t != nullptr && t->level == level &&
                               at.slot == &t->slots[s_.index(op_first_, level)];
            expect(right, "make_slot found another slot");
        }
        end_of(after_);
    }

    /// Puts an entry that is no page into an empty slot.
    void plant()
    {
        what_ = "plant";
        const auto level = static_cast<unsigned>(1 + d_.below(s_.levels));
        const auto at = find_slot<Word>(tree_, s_.extended(op_first_), level);
        if (!at || !is_empty(at.entry, format_)) return;
        const word top = s_.index(op_first_, s_.levels);
        if (tree_.borrowed.overlap(top, top)) return;
        const layout& absent = format_->layout_at(level, kind::none);
        word entry = d_.bits() & absent.mask(role::software) & ~flags() & ones(s_.entry_bits - 1, 0);
        if (d_.one_in(2)) {
            const kind k = format_->exists(level, kind::leaf) ? kind::leaf : kind::table;
            const word reserved = format_->layout_at(level, k).mask(role::reserved);
            if (reserved != 0) {
                entry = encode(k, level, 0, {}, format_).entry | (reserved & ~(reserved - 1));
                if (legal(entry, level, format_)) return;
            }
        }
        if (is_empty(entry, format_) || is_table(entry, level) || is_page(entry, level)) return;
        *at.slot = static_cast<Word>(entry);
        const unsigned shift = s_.page_shift(level);
        const word begin = op_first_ & ~ones(shift - 1, 0);
        now_.put(begin, {begin | ones(shift - 1, 0), 0, shift, level, false, true, 0, 0, *at.slot});
        // A TLB may hold that the slot is absent, which it is.
    }

    void try_destroy()
    {
        what_ = "destroy";
        op_first_ = 0;
        op_last_ = space_;
        after_ = {};
        may_be_absent_ = false;
        word bytes = 0;
        page_map copy = now_;
        const word count = copy.erase(0, space_, &bytes);
        reported_ = 0;
        const tree_result r = drive(
            [&](word from, word limit) {
                return destroy(tree_, list_, {.limit = limit < 50 ? 50 : limit, .from = from}, reporter());
            },
            [](const tree_result&, const tree_result&) {});
        expect(r && r.pages == count && r.bytes == bytes && reported_ == count, "destroy miscounts");
        if (!good()) return;
        end_of(after_);
        expect(m_.given == list_.table_count(), "destroy leaves tables");
    }

    void step_once()
    {
        choose_range();
        const word n = d_.below(100);
        if (n < 38) return try_map();
        if (n < 58) return try_unmap();
        if (n < 70) return try_protect();
        if (n < 78) return try_split();
        if (n < 86) return try_merge();
        if (n < 90) return try_prune();
        if (n < 93) return try_make_slot();
        if (n < 95) return plant();
        if (n < 96 && d_.one_in(6)) return try_destroy();
        // Accesses between operations.
        what_ = "accesses";
        for (int i = 0; i < 6; ++i) touch(some_offset_near(), d_.one_in(2), true);
        for (const auto& [begin, p] : now_.all()) {
            if (d_.one_in(3)) touch(d_.one_in(2) ? begin : p.last, d_.one_in(2), true);
        }
        check_marks();
    }
    void finish()
    {
        if (good()) flush();
        if (good()) try_destroy();
        if (good()) flush();
        expect(m_.given == 0, "tables are left");
    }

    struct known_entries {
        std::vector<word> entries;  ///< by rights and attributes
        word ignored = 0;
    };

    Format format_;
    shape s_;
    machine<Word> m_;
    dice d_;
    word space_;
    std::vector<form> forms_;
    tree_type tree_;
    flush_list_of<6, 5> list_;
    std::vector<Word> foreign_;
    std::vector<permissions> grants_;
    std::vector<page_attributes> looks_;
    known_entries known_[max_levels + 1][2];
    page_map now_;
    page_map after_;
    tlb tlb_;
    std::map<word, word> marks_;  ///< A and D that were set, by offset of the smallest page
    std::map<word, word> gone_;   ///< those of entries that were taken away and not yet reported
    std::vector<span> changed_;
    const char* what_ = "";
    unsigned number_ = 0;
    word op_first_ = 0;
    word op_last_ = 0;
    word reported_ = 0;
    bool inside_ = false;
    bool protecting_ = false;
    bool may_be_absent_ = false;
    bool counts_tables_ = true;
};

}  // namespace tree_model
