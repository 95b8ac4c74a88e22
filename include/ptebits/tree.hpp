// SPDX-License-Identifier: BSL-1.0
// Trees of tables that are built and changed while an MMU uses them: what a tree is, and the way to
// one of its slots. Ranges are mapped by map.hpp, taken away by unmap.hpp and changed by protect.hpp.
//
// The caller gives
//   memory       memory(physical) returns the slots of a whole table, as in range.hpp; may be null. Optional:
//                  publish(first slot, count)   makes slots visible to walkers that do not snoop caches, and orders
//                                               them before what is stored next (a barrier on Arm); on x86 not needed
//                  flush(flush_item)            flushes on all CPUs, and returns when it is done; asked while an
//                                               entry is absent for a moment, of a shared tree in the read section
//   allocator    allocate(level) returns the physical address of a table, or nothing (optional_address or
//                std::optional); release(address, level) takes it back
//   sharing      exclusive, or shared(...): how many threads change the tree at once
// Tables come with any contents. The MMU may set A and D, and threads may age and harvest, at any moment.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/ageing.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/flush.hpp>
#include <ptebits/memory.hpp>
#include <ptebits/slot.hpp>
#include <ptebits/split.hpp>

namespace ptebits {

/// An address or none: address 0 is one.
class optional_address {
public:
    constexpr optional_address() = default;
    constexpr explicit(false) optional_address(std::uint64_t address) noexcept : address_(address), given_(true) {}

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return given_; }
    /// Precondition: there is one.
    [[nodiscard]] constexpr std::uint64_t operator*() const noexcept { return address_; }

private:
    std::uint64_t address_ = 0;
    bool given_ = false;
};

/// Where tables come from and go to. `allocate` may give a table again only after it was released.
template <class A>
concept table_allocator = requires(A& allocator, unsigned level, std::uint64_t address) {
    static_cast<bool>(allocator.allocate(level));
    { *allocator.allocate(level) } -> std::convertible_to<std::uint64_t>;
    allocator.release(address, level);
};

// ---- who changes a tree at the same time

/// One thread at a time changes the tree (a lock of the caller's). New entries are plain stores.
struct exclusive {};

/// Of shared trees: tables are never given back while the tree is in use. unmap() leaves empty tables.
struct tables_stay {};

/// Of shared trees: enter() and leave() surround each operation of a thread; wait() returns when all threads that
/// were inside have left.
template <class R>
concept read_section = requires(R& readers) {
    readers.enter();
    readers.leave();
    readers.wait();
};

/// Of shared trees: no entry is absent for a moment. merge_pages() does not compile then, and where the format wants a
/// page to be absent while its size changes, none is split: tree_end::cannot_change_live.
struct never_busy {};

/// Several threads change the tree at once, without a lock. A slot whose entry was taken away holds the marker `frozen`
/// until the flush is reported by flushed(); nobody maps anything there until then. A slot whose entry is absent for a
/// moment holds `busy`: others do not take it for one that is gone, and end with tree_end::pending. Precondition: the
/// two markers differ, and not in A and D alone.
template <marker_of_frozen Marker, class Readers = tables_stay, class Busy = never_busy>
    requires(std::same_as<Readers, tables_stay> || read_section<Readers>) &&
            (std::same_as<Busy, never_busy> || marker_of_frozen<Busy>)
struct shared {
    Marker frozen;
    Readers readers{};
    Busy busy{};
};
template <class Marker>
shared(Marker) -> shared<Marker>;
template <class Marker, class Readers>
shared(Marker, Readers) -> shared<Marker, Readers>;
template <class Marker, class Readers, class Busy>
shared(Marker, Readers, Busy) -> shared<Marker, Readers, Busy>;

namespace detail {
template <class Sharing>
inline constexpr bool is_shared = true;
template <>
inline constexpr bool is_shared<exclusive> = false;

/// Whether entries of a shared tree may be absent for a moment.
template <class Sharing>
inline constexpr bool has_busy = requires(Sharing& s) { s.busy.value; };

/// Whether tables may be given back while the tree is in use.
template <class Sharing>
inline constexpr bool frees_tables = requires(Sharing& s) { s.readers.wait(); };
template <>
inline constexpr bool frees_tables<exclusive> = true;
}  // namespace detail

/// The top slots that belong to somebody else, from first to last, both included: by default none. No operation
/// changes them or what they lead to. Units: index.
struct borrowed_slots {
    std::uint64_t first = 1;
    std::uint64_t last = 0;

    [[nodiscard]] constexpr bool overlap(std::uint64_t from, std::uint64_t to) const noexcept
    {
        return first <= last && from <= last && to >= first;
    }
};

/// A tree of tables: all that operations need, by value. Keep handles in it, not memory itself.
template <entry_format F, class Memory, table_allocator Allocator, class Sharing = exclusive,
          slot_access Access = atomic_access<>>
struct tree {
    using format_type = F;
    using sharing_type = Sharing;
    using access_type = Access;

    F format;
    std::uint64_t root;  ///< physical address of the top table, in bytes; its slots are filled
    Memory memory;
    Allocator allocator;
    Sharing sharing{};
    borrowed_slots borrowed{};
    Access access{};
};
template <class F, class Memory, class Allocator>
tree(F, std::uint64_t, Memory, Allocator) -> tree<F, Memory, Allocator>;
template <class F, class Memory, class Allocator, class Sharing>
tree(F, std::uint64_t, Memory, Allocator, Sharing) -> tree<F, Memory, Allocator, Sharing>;
template <class F, class Memory, class Allocator, class Sharing>
tree(F, std::uint64_t, Memory, Allocator, Sharing, borrowed_slots) -> tree<F, Memory, Allocator, Sharing>;

// ---- results

/// Why an operation on a tree ended where it did.
enum class tree_end : std::uint8_t {
    done,                ///< the whole range
    limit,               ///< the limit of steps: go on from `next`
    list_full,           ///< the flush list has no room: flush, report it, go on from `next`
    pending,             ///< an entry is frozen or busy, or was taken away first: flush, report it, go on from `next`
    no_memory,           ///< the allocator gave no table: go on from `next` when there is one
    occupied,            ///< something else is mapped there, or the slot holds what is no page
    inside_page,         ///< the range ends inside a page, which was not to be split
    cannot_split,        ///< a page cannot be split: `split` says why
    cannot_change_live,  ///< the format wants the page to be absent meanwhile, and the memory has no flush()
    not_encodable,       ///< no entry grants this or has these attributes: `encode` says why
    misaligned,          ///< the range or the physical address is not aligned to the smallest page allowed
    not_translated,      ///< the range has addresses that the tables do not translate
    physical_too_wide,   ///< the physical range ends past what entries can hold
    borrowed,            ///< a top slot of the range belongs to somebody else
    not_a_root,          ///< the root is no address of a top table, or the format is wrong()
    table_missing,       ///< memory has no slots at a table's address
};

[[nodiscard]] constexpr const char* name(tree_end e) noexcept
{
    constexpr const char* names[] = {"done",
                                     "the limit was reached",
                                     "the flush list is full",
                                     "a flush is pending there",
                                     "no memory for a table",
                                     "occupied",
                                     "the range ends inside a page",
                                     "a page cannot be split",
                                     "a page cannot be changed while it is live",
                                     "no such entry",
                                     "misaligned",
                                     "addresses that are not translated",
                                     "the physical address is too wide",
                                     "a borrowed top slot",
                                     "no root",
                                     "a table is missing"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(tree_end::table_missing) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// How an operation on a range went. What it did before it ended stays done.
struct [[nodiscard]] tree_result {
    tree_end end = tree_end::done;
    std::uint64_t next = 0;          ///< the address from which to go on, in bytes; if not done
    std::uint64_t entry = 0;         ///< the entry that was in the way
    unsigned level = 0;              ///< its level
    std::uint64_t pages = 0;         ///< pages mapped, changed or taken away
    std::uint64_t bytes = 0;         ///< what they translate
    std::uint64_t tables_made = 0;   ///< tables allocated and linked
    std::uint64_t tables_freed = 0;  ///< tables queued for release
    inclusive_range range{1, 0};     ///< with range_end::whole: what was taken, from the first page to the last
    encode_error encode = encode_error::none;
    split_error split = split_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return end == tree_end::done; }

    /// Goes on by another operation: what both did, and how the other ended.
    constexpr void go_on(tree_result other) noexcept
    {
        other.pages += pages;
        other.bytes += bytes;
        other.tables_made += tables_made;
        other.tables_freed += tables_freed;
        *this = other;
    }
};

/// An entry that an operation took away or changed, for the caller's report. A and D are as they were last.
struct taken_page {
    std::uint64_t address = 0;  ///< the first that it translated, in bytes
    std::uint64_t entry = 0;
    unsigned level = 0;
    unsigned page_shift = 0;  ///< log2 of the bytes that it translated
    kind is = kind::none;     ///< none: it was absent and held something, or it broke a rule
};

namespace detail {

/// Does nothing with what is reported.
struct no_report {
    constexpr void operator()(const taken_page&) const noexcept {}
};

/// A page that a format can have.
struct page_form {
    unsigned level;
    kind is;
    unsigned shift;        ///< log2 of the bytes
    unsigned slots_shift;  ///< log2 of the entries that map it
    std::uint64_t plain;   ///< its entry without the address, if encoded
};

/// The pages of a format, largest first, whose sizes are in a mask (bit n: 2^n bytes).
class page_forms {
public:
    template <entry_format F>
    constexpr page_forms(const F& format, std::uint64_t sizes) noexcept
    {
        if (std::is_constant_evaluated()) {
            for (page_form& form : forms_) form = {};
        }
        const shape& s = format->shape();
        for (unsigned level = s.levels; level >= 1; --level) {
            const unsigned base = s.page_shift(level);
            if (format->exists(level, kind::run)) {
                const layout& l = format->layout_at(level, kind::run);
                // A size coded in the address may be any between this level's and the next one's.
                const unsigned largest = l.sized ? s.page_shift(level + 1) - 1 : s.page_shift(level, kind::run);
                const unsigned smallest = l.sized ? base + 1 : largest;
                for (unsigned shift = largest; shift >= smallest; --shift) add(level, kind::run, shift, base, sizes);
            }
            if (format->exists(level, kind::leaf)) add(level, kind::leaf, base, base, sizes);
        }
    }

    /// Those of others.
    constexpr page_forms(const page_forms& all, std::uint64_t sizes) noexcept
    {
        for (unsigned n = 0; n < all.count_; ++n) {
            if ((sizes >> all.forms_[n].shift & 1) != 0) forms_[count_++] = all.forms_[n];
        }
    }

    [[nodiscard]] constexpr unsigned count() const noexcept { return count_; }
    [[nodiscard]] constexpr const page_form& operator[](unsigned n) const noexcept { return forms_[n]; }
    [[nodiscard]] constexpr page_form& operator[](unsigned n) noexcept { return forms_[n]; }
    [[nodiscard]] constexpr const page_form& smallest() const noexcept { return forms_[count_ - 1]; }
    /// Leaves out one of them.
    constexpr void remove(unsigned n) noexcept
    {
        for (--count_; n < count_; ++n) forms_[n] = forms_[n + 1];
    }

private:
    constexpr void add(unsigned level, kind k, unsigned shift, unsigned base, std::uint64_t sizes) noexcept
    {
        if (shift > 63 || (sizes >> shift & 1) == 0 || count_ == 64) return;
        forms_[count_++] = {level, k, shift, shift - base, 0};
    }
    page_form forms_[64];  // not initialized: most are not used
    unsigned count_ = 0;
};

template <constant_masks F>
inline constexpr page_forms all_forms_of{F{}, ~std::uint64_t{0}};

/// The sizes of a format's pages: bit n for those of 2^n bytes.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t sizes_of(const F& format) noexcept
{
    const page_forms all{format, ~std::uint64_t{0}};
    std::uint64_t sizes = 0;
    for (unsigned n = 0; n < all.count(); ++n) sizes |= std::uint64_t{1} << all[n].shift;
    return sizes;
}

/// The pages of a format whose sizes are in a mask.
template <entry_format F>
[[nodiscard]] constexpr page_forms forms_of([[maybe_unused]] const F& format, std::uint64_t sizes) noexcept
{
    if constexpr (constant_masks<F>) {
        return {all_forms_of<F>, sizes};
    } else {
        return {format, sizes};
    }
}

/// The entry of slot number `n` of a page.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t entry_in_page(const page_form& form, std::uint64_t physical, std::uint64_t n,
                                                    const F& format) noexcept
{
    const layout& l = format->layout_at(form.level, form.is);
    if (form.is == kind::leaf) return form.plain | l.address_bits(physical);
    if (l.sized) return form.plain | l.address_bits(physical);
    // An entry of a run holds the address of its part, or of the run, as far as it has bits for it.
    const std::uint64_t part = physical + (n << format->shape().page_shift(form.level));
    return form.plain | l.address_bits(part & ~ones(l.offset_bits - 1, 0));
}

/// The A and D of leaves, as far as neither their rights nor a rule depend on them.
template <class F>
[[nodiscard]] constexpr std::uint64_t free_flags(unsigned level, const F& format) noexcept
{
    const layout& l = format->layout_at(level, kind::leaf);
    std::uint64_t flags = l.mask(role::accessed) | (format->shadow_stacks() ? 0 : l.mask(role::dirty));
    for (const combination& c : format->combinations()) {
        if (c.in.contains(level, kind::leaf)) flags &= ~c.mask;
    }
    return flags;
}

/// By level, one comparison that only legal entries of a kind pass, and most of them.
template <class F>
struct tests_of_levels {
    quick_test table[max_levels + 1] = {};
    quick_test leaf[max_levels + 1] = {};
    std::uint64_t flags[max_levels + 1] = {};  // free_flags()

    constexpr tests_of_levels() noexcept
    {
        for (unsigned level = 1; level <= constant<F>->shape().levels; ++level) {
            if (!constant<F>->uses(role::next_level)) table[level] = quick_test_of(level, kind::table, F{});
            leaf[level] = quick_test_of(level, kind::leaf, F{});
            if (constant<F>->exists(level, kind::leaf)) flags[level] = free_flags(level, F{});
        }
    }
};
template <constant_masks F>
inline constexpr tests_of_levels<F> tests_of{};

/// free_flags(), which a constant format knows.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t free_flags_of(unsigned level, const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        return tests_of<F>.flags[level];
    } else {
        return free_flags(level, format);
    }
}

/// Whether an entry of a level refers to a table, and breaks no rule.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool leads_to_table(std::uint64_t entry, unsigned level,
                                                           const F& format) noexcept
{
    if (level == 1) return false;
    if constexpr (constant_masks<F>) {
        if (tests_of<F>.table[level].passes(entry)) [[likely]]
            return true;
    }
    return is_table(entry, level, format);
}

/// Whether an entry is a legal leaf of a level, by one comparison where there is one: then not all leaves pass.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool plain_leaf(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        return tests_of<F>.leaf[level].passes(entry);
    } else {
        if (level == 1) return translates_plainly(entry, format);
        return kind_of(entry, level, format) == kind::leaf && legal(entry, level, format);
    }
}

/// Whether an entry of a level maps a page, and breaks no rule.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool maps_page(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (plain_leaf(entry, level, format)) [[likely]]
        return true;
    const kind k = kind_of(entry, level, format);
    return (k == kind::leaf || k == kind::run) && legal(entry, level, format);
}

/// Whether the hardware may still set A or D in an entry, or change it otherwise.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool flags_may_come(std::uint64_t entry, const F& format) noexcept
{
    const std::uint64_t flags = format->accessed.mask() | format->dirty.mask();
    const bool sets = format->accessed_by() == accessed_setter::hardware && (entry & flags) != flags;
    return sets || (entry & format->other_writes()) != 0;
}

/// One operation on a tree: the parts that all of them need.
template <slot_word Word, class Tree>
class tree_editor {
public:
    using format_type = typename Tree::format_type;
    using sharing_type = typename Tree::sharing_type;
    static constexpr bool shared_tree = is_shared<sharing_type>;
    static constexpr bool frees = frees_tables<sharing_type>;

    constexpr tree_editor(Tree& t, flush_list& list) noexcept : tree_(t), list_(list) { list.record(); }

    [[nodiscard]] constexpr const format_type& format() const noexcept { return tree_.format; }
    [[nodiscard]] constexpr const shape& dimensions() const noexcept { return tree_.format->shape(); }

    /// What a slot holds that nothing is mapped by, now that its entry was taken away.
    [[nodiscard]] constexpr Word taken_value() const noexcept
    {
        if constexpr (shared_tree) {
            return slot_mask<Word>(tree_.sharing.frozen.value);
        } else {
            return slot_mask<Word>(tree_.format->empty());
        }
    }
    [[nodiscard]] constexpr bool frozen(std::uint64_t entry) const noexcept
    {
        if constexpr (shared_tree) {
            return is_frozen(entry, tree_.sharing.frozen);
        } else {
            return false;
        }
    }

    /// What marks a slot whose entry comes back in another form. In an exclusive tree nobody else judges it.
    [[nodiscard]] constexpr auto busy_marker() const noexcept
    {
        if constexpr (has_busy<sharing_type>) {
            return tree_.sharing.busy;
        } else {
            return empty_marker(tree_.format);
        }
    }
    [[nodiscard]] constexpr bool busy(std::uint64_t entry) const noexcept
    {
        if constexpr (has_busy<sharing_type>) {
            return is_frozen(entry, tree_.sharing.busy);
        } else {
            return false;
        }
    }

    [[nodiscard]] constexpr Word* table_at(std::uint64_t physical) { return slot_in<Word>(tree_.memory, physical); }

    /// The table that an entry refers to, and its level; null where there is none that is a table of this format.
    [[nodiscard]] constexpr Word* below(std::uint64_t entry, unsigned level, unsigned& below_level)
    {
        const layout& l = tree_.format->layout_at(level, kind::table);
        below_level = tree_.format->level_below(entry, level);
        return table_at(l.address_in(entry));
    }
    [[nodiscard]] constexpr bool is_table_entry(std::uint64_t entry, unsigned level) const noexcept
    {
        return leads_to_table(entry, level, tree_.format);
    }
    [[nodiscard]] constexpr bool is_page_entry(std::uint64_t entry, unsigned level) const noexcept
    {
        return maps_page(entry, level, tree_.format);
    }

    constexpr void publish([[maybe_unused]] Word* first, [[maybe_unused]] std::uint64_t count)
    {
        if constexpr (requires { tree_.memory.publish(first, count); }) tree_.memory.publish(first, count);
    }

    [[nodiscard]] constexpr Word load(const Word& slot) const { return tree_.access.load(slot); }

    /// Puts an entry where a slot was seen empty. False: another thread was first; `seen` is what is there.
    [[nodiscard]] constexpr bool fill(Word& slot, Word& seen, std::uint64_t entry)
    {
        if constexpr (shared_tree) {
            return tree_.access.compare_exchange(slot, seen, static_cast<Word>(entry));
        } else {
            tree_.access.store(slot, static_cast<Word>(entry));
            return true;
        }
    }

    /// Replaces an entry that was seen in a slot. Returns whether it was still that one; else `seen` is what is there.
    [[nodiscard]] constexpr bool replace(Word& slot, Word& seen, std::uint64_t entry)
    {
        return tree_.access.compare_exchange(slot, seen, static_cast<Word>(entry));
    }

    /// Takes an entry away that was seen in a slot. Returns whether it was still that one, but for A and D; `seen` is
    /// then the entry as it was last, else what is there.
    [[nodiscard]] constexpr bool take(Word& slot, Word& seen)
    {
        if constexpr (shared_tree) {
            return tree_.access.compare_exchange(slot, seen, taken_value());
        } else {
            // Without others that change it, only the hardware adds A and D.
            if (flags_may_come(seen, tree_.format)) {
                seen = tree_.access.exchange(slot, taken_value());
            } else {
                tree_.access.store(slot, taken_value());
            }
            return true;
        }
    }

    /// A table of a level, all of whose slots are empty, that is not linked; null if there is none: `end` says why.
    constexpr Word* new_table(unsigned level, std::uint64_t& address, tree_end& end)
    {
        const auto given = tree_.allocator.allocate(level);
        if (!given) {
            end = tree_end::no_memory;
            return nullptr;
        }
        address = *given;
        Word* const slots = table_at(address);
        if (slots == nullptr) {
            tree_.allocator.release(address, level);
            end = tree_end::table_missing;
            return nullptr;
        }
        return slots;
    }

    /// Fills slots from..to of a table that is not linked with the empty value.
    constexpr void clear_slots(Word* slots, std::uint64_t from, std::uint64_t to) noexcept
    {
        const Word empty = slot_mask<Word>(tree_.format->empty());
        for (std::uint64_t i = from; i < to; ++i) tree_.access.store(slots[i], empty);
    }

    [[nodiscard]] constexpr std::uint64_t slots_of(unsigned level) const noexcept
    {
        return std::uint64_t{1} << dimensions().index_bits_at(level);
    }

    /// The entry for a table, which permits all.
    [[nodiscard]] constexpr encoded table_entry(unsigned level, std::uint64_t address, const permissions& ceiling) const
    {
        return ptebits::encode(kind::table, level, address, ceiling, tree_.format);
    }

    constexpr void flush_due_for(std::uint64_t offset, std::uint64_t last_offset, unsigned page_shift, bool upper,
                                 unsigned frozen_level)
    {
        list_.add({dimensions().extended(offset), dimensions().extended(last_offset), page_shift, upper,
                   shared_tree ? frozen_level : 0});
    }
    [[nodiscard]] constexpr bool list_has_room(std::uint64_t offset, std::uint64_t last_offset, unsigned page_shift,
                                               unsigned frozen_level) const
    {
        if constexpr (!shared_tree) return true;  // everything is due then
        return list_.has_room_for(
            {dimensions().extended(offset), dimensions().extended(last_offset), page_shift, false, frozen_level});
    }

protected:
    Tree& tree_;
    flush_list& list_;
};

/// Keeps a thread of a shared tree in its read section.
template <class Tree>
class reading {
public:
    constexpr explicit reading([[maybe_unused]] Tree& t) : tree_(t)
    {
        if constexpr (sections) tree_.sharing.readers.enter();
    }
    constexpr ~reading()
    {
        if constexpr (sections) tree_.sharing.readers.leave();
    }
    reading(const reading&) = delete;
    reading& operator=(const reading&) = delete;

private:
    static constexpr bool sections = requires(Tree& t) { t.sharing.readers.enter(); };
    Tree& tree_;
};

/// The tree as the type that all operations have.
template <class T>
inline constexpr bool is_tree = false;
template <class F, class M, class A, class S, class Access>
inline constexpr bool is_tree<tree<F, M, A, S, Access>> = true;

}  // namespace detail

/// A tree<>, also by reference.
template <class T>
concept page_tree = detail::is_tree<std::remove_cvref_t<T>>;

/// Fills the slots of a top table, but the borrowed ones, with the empty value, before anyone uses it. Errors:
/// not_a_root, table_missing.
template <page_tree Tree>
[[nodiscard]] constexpr tree_end clear_root(Tree& t)
{
    if (!is_root(t.root, t.format)) return tree_end::not_a_root;
    return with_slots_of(t.format, t.memory, [&]<class Word>(std::type_identity<Word>) {
        Word* const slots = slot_in<Word>(t.memory, t.root);
        if (slots == nullptr) return tree_end::table_missing;
        const shape& s = t.format->shape();
        const std::uint64_t count = std::uint64_t{1} << s.index_bits_at(s.levels);
        for (std::uint64_t i = 0; i < count; ++i) {
            if (t.borrowed.overlap(i, i)) continue;
            t.access.store(slots[i], detail::slot_mask<Word>(t.format->empty()));
        }
        if constexpr (requires { t.memory.publish(slots, count); }) t.memory.publish(slots, count);
        return tree_end::done;
    });
}

// ---- the slot of an address

/// A slot on the way to an address.
template <slot_word Word>
struct found_slot {
    Word* slot = nullptr;           ///< null if there is none: `end` says why
    unsigned level = 0;             ///< the level wanted, or that of the entry at which the way ends
    std::uint64_t entry = 0;        ///< what the slot held
    tree_end end = tree_end::done;  ///< done: the slot of the level wanted; occupied: the way ends above it

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return end == tree_end::done; }
};

namespace detail {

/// The slot of a level for an address, where all entries on the way pass their quick tests; else null.
template <unsigned Here, slot_word Word, class Tree>
[[nodiscard]] PTEBITS_INLINE constexpr Word* quick_path(Tree& t, std::uint64_t table, std::uint64_t address,
                                                        unsigned level, std::uint64_t& entry)
{
    using format = typename Tree::format_type;
    Word* const slots = slot_in<Word>(t.memory, table);
    if (slots == nullptr) [[unlikely]]
        return nullptr;
    Word* const slot = slots + constant<format>->shape().index(address, Here);
    entry = t.access.load(*slot);
    if (level == Here) return slot;
    if constexpr (Here > 1) {
        constexpr quick_test test = tests_of<format>.table[Here];
        if (test.passes(entry)) [[likely]] {
            const std::uint64_t below = constant<format>->layout_at(Here, kind::table).address_in(entry);
            return quick_path<Here - 1, Word>(t, below, address, level, entry);
        }
    }
    return nullptr;
}

/// find_slot() of any format and tree.
template <slot_word Word, class Tree>
[[nodiscard]] PTEBITS_NOINLINE constexpr found_slot<Word> search_slot(Tree& t, std::uint64_t address, unsigned level)
{
    const shape& s = t.format->shape();
    found_slot<Word> at;
    if (!is_root(t.root, t.format)) return {.end = tree_end::not_a_root};
    if (!s.translates(address)) return {.end = tree_end::not_translated};
    std::uint64_t table = t.root;
    unsigned here = s.levels;
    for (;;) {
        Word* const slots = slot_in<Word>(t.memory, table);
        if (slots == nullptr) return {.end = tree_end::table_missing};
        at.slot = slots + s.index(address, here);
        at.level = here;
        at.entry = t.access.load(*at.slot);
        if (here == level) return at;
        if (!leads_to_table(at.entry, here, t.format)) break;
        const unsigned below = t.format->level_below(at.entry, here);
        if (below < level || !s.reaches(here, below, address)) break;
        table = t.format->layout_at(here, kind::table).address_in(at.entry);
        here = below;
    }
    at.end = is_empty(at.entry, t.format) ? tree_end::no_memory : tree_end::occupied;
    if constexpr (requires { t.sharing.frozen; }) {
        if (is_frozen(at.entry, t.sharing.frozen)) at.end = tree_end::pending;
    }
    if constexpr (has_busy<decltype(t.sharing)>) {
        if (is_frozen(at.entry, t.sharing.busy)) at.end = tree_end::pending;
    }
    return at;
}

/// The same where all entries on the way pass their quick tests: at once.
template <slot_word Word, class Tree>
[[nodiscard]] PTEBITS_INLINE constexpr found_slot<Word> quick_slot(Tree& t, std::uint64_t address, unsigned level)
{
    if constexpr (constant_masks<typename Tree::format_type>) {
        constexpr unsigned top = constant<typename Tree::format_type>->shape().levels;
        if (is_root(t.root, t.format) && t.format->shape().translates(address)) [[likely]] {
            std::uint64_t entry = 0;
            Word* const slot = quick_path<top, Word>(t, t.root, address, level, entry);
            return {slot, level, entry, tree_end::done};
        }
    }
    return {};
}

/// The slot of a range's first page, where one table of the smallest pages holds all of it, and it is aligned, not
/// borrowed, not begun and within the limit: then slots are all that is left to judge. Null: a pass judges it.
template <class Tree, class Options>
[[nodiscard]] PTEBITS_INLINE constexpr auto* slots_in_one_table(Tree& t, inclusive_range range, const Options& options)
{
    using format = typename Tree::format_type;
    const shape& s = constant<format>->shape();
    const unsigned shift = s.page_shift(1);
    const bool one_table = range.first <= range.last && (range.first ^ range.last) >> s.page_shift(2) == 0;
    const bool aligned = ((range.first | (range.last + 1)) & ones(shift - 1, 0)) == 0;
    const bool all_at_once = options.from <= range.first && options.limit > (range.last - range.first) >> shift;
    const std::uint64_t top = s.index(range.first, s.levels);
    if (one_table && aligned && all_at_once && !t.borrowed.overlap(top, s.index(range.last, s.levels))) {
        return quick_slot<slot_type_of<format>>(t, range.first, 1).slot;
    }
    return static_cast<slot_type_of<format>*>(nullptr);
}

/// make_slot() where a table lacks.
template <slot_word Word, class Tree>
[[nodiscard]] PTEBITS_NOINLINE constexpr found_slot<Word> make_path(Tree& t, std::uint64_t address, unsigned level,
                                                                    flush_list& list, const permissions& ceiling)
{
    const reading<Tree> inside(t);
    tree_editor<Word, Tree> edit(t, list);
    const shape& s = t.format->shape();
    for (;;) {
        found_slot<Word> at = search_slot<Word>(t, address, level);
        if (at || at.end != tree_end::no_memory) return at;
        if (at.level == s.levels) {
            const std::uint64_t index = s.index(address, s.levels);
            if (t.borrowed.overlap(index, index)) {
                at.end = tree_end::borrowed;
                return at;
            }
        }
        std::uint64_t table = 0;
        Word* const slots = edit.new_table(at.level - 1, table, at.end);
        if (slots == nullptr) return at;
        const encoded upper = edit.table_entry(at.level, table, at.level == s.levels ? ceiling : permissions{});
        if (!upper) {
            t.allocator.release(table, at.level - 1);
            at.end = tree_end::not_encodable;
            return at;
        }
        edit.clear_slots(slots, 0, edit.slots_of(at.level - 1));
        edit.publish(slots, edit.slots_of(at.level - 1));
        auto seen = static_cast<Word>(at.entry);
        if (edit.fill(*at.slot, seen, upper.entry)) {
            edit.publish(at.slot, 1);
            if (t.format->caches_absent()) {
                const std::uint64_t inside_slot = ones(s.page_shift(at.level) - 1, 0);
                list.add({address & ~inside_slot, address | inside_slot, s.page_shift(at.level), true, 0});
            }
        } else {
            t.allocator.release(table, at.level - 1);
        }
    }
}

}  // namespace detail

/// The slot of a level for an address. `Word`: the type of slots, which must be given for 32-bit entries of a format
/// known at run time. If the way ends above it, the slot at which it ends, with tree_end::occupied
/// (a large page, or what is no table), pending, or no_memory where the slot is empty. Precondition: nobody releases
/// tables while the slot is used: in a shared tree with a read section the caller is inside one; 1 <= level <= levels.
/// Order: acquire.
template <class Word = void, page_tree Tree>
[[nodiscard]] constexpr auto find_slot(Tree& t, std::uint64_t address, unsigned level)
{
    using format = typename std::remove_cvref_t<Tree>::format_type;
    using word = std::conditional_t<std::is_same_v<Word, void>, slot_type_of<format>, Word>;
    detail::require_width<word>(t.format);
    const found_slot<word> at = detail::quick_slot<word>(t, address, level);
    if (at.slot != nullptr) [[likely]]
        return at;
    return detail::search_slot<word>(t, address, level);
}

/// The same, and makes the tables that lack on the way. A table is filled with empty slots before it is linked; where
/// two threads make one, the loser gives its own back at once. `ceiling`: what a new entry of the top table permits;
/// those below permit all. Order: acq_rel. Flush: `list`, where the format caches absent entries.
template <class Word = void, page_tree Tree>
[[nodiscard]] constexpr auto make_slot(Tree& t, std::uint64_t address, unsigned level, flush_list& list,
                                       const permissions& ceiling = {})
{
    using format = typename std::remove_cvref_t<Tree>::format_type;
    using word = std::conditional_t<std::is_same_v<Word, void>, slot_type_of<format>, Word>;
    detail::require_width<word>(t.format);
    list.record();
    const found_slot<word> at = detail::quick_slot<word>(t, address, level);
    if (at.slot != nullptr) [[likely]]
        return at;
    return detail::make_path<word>(t, address, level, list, ceiling);
}

// ---- after the flush

/// Reports that what a list says was flushed on all CPUs. Empties the frozen slots of a shared tree, waits for readers,
/// releases the tables, and clears the list. Precondition: nobody else uses the list; the flush is complete, and the
/// list was filled by this tree alone. Order: release.
template <page_tree Tree>
constexpr void flushed(Tree& t, flush_list& list)
{
    if constexpr (requires { t.sharing.frozen; }) {
        const detail::reading<Tree> inside(t);
        with_slots_of(t.format, t.memory, [&]<class Word>(std::type_identity<Word>) {
            const shape& s = t.format->shape();
            for (const flush_item& item : list) {
                if (item.frozen_level == 0) continue;
                const inclusive_range part = s.translated_part({item.first, item.last});
                const unsigned shift = s.page_shift(item.frozen_level);
                const std::uint64_t in_table = ones(s.page_shift(item.frozen_level + 1) - 1, 0);
                for (std::uint64_t at = part.first;;) {
                    // The slots of one table.
                    const std::uint64_t end = part.last < (at | in_table) ? part.last : at | in_table;
                    const auto found = find_slot<Word>(t, s.extended(at), item.frozen_level);
                    const std::uint64_t count = found ? ((end - at) >> shift) + 1 : 0;
                    for (std::uint64_t i = 0; i < count; ++i) {
                        Word& slot = found.slot[i];
                        if (is_frozen(t.access.load(slot), t.sharing.frozen)) {
                            t.access.store(slot, detail::slot_mask<Word>(t.format->empty()));
                        }
                    }
                    if (end == part.last) break;
                    at = end + 1;
                }
            }
        });
    }
    if constexpr (requires { t.sharing.readers.wait(); }) {
        if (list.table_count() != 0) t.sharing.readers.wait();
    }
    for (unsigned n = 0; n < list.table_count(); ++n) t.allocator.release(list.table(n).address, list.table(n).level);
    list.clear();
}

}  // namespace ptebits
