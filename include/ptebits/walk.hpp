// SPDX-License-Identifier: BSL-1.0
// Walking tables as the MMU does: the address reached, or the right fault; A and D set as
// hardware sets them. One walk for all formats.
//
// What an access is, which controls it is judged by, and how faults are told is the regime's,
// which the format names: x86.hpp has those of x86. Memory is the caller's, see memory.hpp; the
// walk reads nothing else.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/detail/quick_test.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/memory.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void held_entry_of_no_level() noexcept { stop(); }
[[noreturn]] inline void format_has_no_pdpte_registers() noexcept { stop(); }
}  // namespace broken

/// Why a walk did not reach an address.
enum class fault_kind : std::uint8_t {
    none,
    not_present,
    protection,
    access_flag,       ///< the accessed bit is clear, or the dirty bit on a write, and software must set it
    reserved_bits,     ///< a rule is broken; which is in `broken`
    address_size,      ///< an entry's address bits above the physical width
    pdpte_reserved,    ///< PAE: found when CR3 is loaded, #GP
    misconfiguration,  ///< EPT; which rule is in `broken`
    not_canonical,     ///< x86's long mode, #GP or #SS
    address_too_wide,  ///< address bits above what the tables translate, or below them with skipped levels
    wrong_half,        ///< x86's linear-address space separation (LASS), #GP or #SS
    not_a_root,        ///< the root is no address of a top table: see the functions that take it from a register
    restart,           ///< HLAT paging: the walk begins again at CR3, as ordinary paging
    sub_page_miss,     ///< EPT: the sub-page permission table has no entry for the page
    sub_page_misconfiguration,  ///< EPT: an entry of that table breaks a rule
    second_stage,               ///< a guest's walk: the host's tables refuse the access to a table
    memory_absent,              ///< `memory` has no slot there
};

[[nodiscard]] constexpr const char* name(fault_kind f) noexcept
{
    constexpr const char* names[] = {"no fault",
                                     "not present",
                                     "protection",
                                     "accessed or dirty bit clear",
                                     "reserved bits set",
                                     "address size",
                                     "reserved bits set in a PDPTE",
                                     "misconfiguration",
                                     "address not canonical",
                                     "address too wide",
                                     "address in the other mode's half",
                                     "no root",
                                     "HLAT paging ends here",
                                     "no sub-page permissions",
                                     "sub-page permissions misconfigured",
                                     "the host's tables refuse the table",
                                     "no memory there"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(fault_kind::memory_absent) + 1);
    return detail::word_of(names, static_cast<unsigned>(f));
}

/// One entry that a walk used. Without initializers, so that a walk need not clear the path
/// for those who do not look at it.
struct walk_step {
    std::uint64_t slot_address;  ///< physical, in bytes
    std::uint64_t entry;         ///< as it was judged
};

/// Where a walk ended. 128 bytes, which compilers copy in line.
struct walk_result {
    std::uint64_t address = 0;     ///< physical address reached, in bytes
    std::uint64_t bits = 0;        ///< those that break the rule `broken`; else see memory_type()
    walk_step path[max_levels];    ///< from the top
    std::uint16_t steps = 0;       ///< entries in `path`
    std::uint16_t top_level = 0;   ///< of the first of them
    std::uint16_t level = 0;       ///< of the leaf, or of the entry that faults; 0: none was looked for
    std::uint16_t page_shift = 0;  ///< log2 of the page's bytes
    fault_kind fault = fault_kind::none;
    rule broken = rule::none;                                   ///< with faults for a broken rule
    bool key_denies = false;                                    ///< the protection key denies the access
    permissions allowed = {false, false, false, false, false};  ///< by all entries read together

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return fault == fault_kind::none; }

    /// The memory-type bits of the leaf that was reached, in place; 0 where none was.
    [[nodiscard]] constexpr std::uint64_t memory_type() const noexcept
    {
        return page_shift != 0 && broken == rule::none ? bits : 0;
    }

    /// Level of an entry of the path, where no level is skipped. Precondition: step < steps.
    [[nodiscard]] constexpr unsigned level_of(unsigned step) const noexcept { return top_level - step; }

    /// The last entry of the path: the leaf that was reached, or the entry that faults; 0 where none was read.
    [[nodiscard]] constexpr std::uint64_t last_entry() const noexcept { return steps != 0 ? path[steps - 1].entry : 0; }
};

static_assert(sizeof(walk_result) == 128);

/// Whether a walk sets A and D.
enum class update_flags : bool { no, yes };

/// An entry that is held in a register or a cache, for a walk to begin with in place of a root: the one
/// of `level` on the way to the address. It is neither read from memory nor changed.
struct held_entry {
    unsigned level = 0;
    std::uint64_t entry = 0;
};

/// PAE's four top entries as the CPU holds them once CR3 was loaded, in place of a root.
/// Intel SDM volume 3, "PDPTE Registers".
struct pdpte_registers {
    std::uint64_t entries[4] = {};
};

/// Slot address of a held entry in a walk's path.
inline constexpr std::uint64_t no_slot = ~std::uint64_t{0};

/// What a walk begins with: the physical address of the top table in bytes, or entries held elsewhere.
template <class Root>
concept walk_root =
    std::convertible_to<Root, std::uint64_t> || std::same_as<Root, held_entry> || std::same_as<Root, pdpte_registers>;

/// A format whose tables can be walked: the header of its regime is included.
template <class F>
concept walkable_format = entry_format<F> && requires { sizeof(typename F::description::regime); };

/// How the MMU walks a format; and what an access and the controls are there.
template <entry_format F>
using regime_of = typename F::description::regime;
template <entry_format F>
using access_of = typename regime_of<F>::access;
template <entry_format F>
using controls_of = typename regime_of<F>::controls;

namespace detail {

/// Entries that were read on the way, and whether the slot behind them is known to be absent.
struct entries_seen {
    std::uint64_t entries[max_levels] = {};
    unsigned count = 0;
    bool no_memory = false;
};

/// Walks of a batch that are made side by side: about as many as a core fetches at once.
inline constexpr std::size_t batch_group = 16;

/// Where a walk begins: at a table of the top level, or with an entry that is held elsewhere.
struct walk_origin {
    std::uint64_t table = 0;
    unsigned level = 0;
    bool held = false;
    std::uint64_t entry = 0;  // if held
};

/// A root in the type that walks take.
template <walk_root Root>
[[nodiscard]] PTEBITS_INLINE constexpr auto as_root(const Root& root) noexcept
{
    if constexpr (std::convertible_to<Root, std::uint64_t>) {
        return static_cast<std::uint64_t>(root);
    } else {
        return root;
    }
}

/// The format that walks the slow path for F: its run-time twin where F is one of constants, so that
/// all formats of one description share that code.
template <entry_format F>
[[nodiscard]] constexpr const auto& shared_format_of(const F& format) noexcept
{
    if constexpr (partly_constant<F>) {
        return format.at_run_time();
    } else {
        return *format.operator->();
    }
}
template <entry_format F>
using shared_format = std::remove_cvref_t<std::invoke_result_t<decltype(shared_format_of<F>), const F&>>;

/// One walk over tables whose entries have the size of Word. Kept apart from walk() so
/// that the size is known where memory is reached.
///
/// Fast path: each entry is compared once. By a format of constants nothing but the entries is kept, and all of it
/// is inlined by force, so that compilers leave out what the caller does not look at. A format known at run time has a
/// plan for a loop. From the first entry that passes neither as a table or page nor as absent the slow path asks all
/// questions.
template <slot_word Word, walkable_format F, class Memory, slot_access Access>
class table_walk {
public:
    using access = access_of<F>;
    using controls = controls_of<F>;

    constexpr table_walk(const F& format, Memory& memory, Access how) : format_(format), memory_(memory), how_(how) {}

    /// Walks from a root, and sets A and D where all is allowed; starts over if an entry changed meanwhile.
    PTEBITS_INLINE constexpr walk_result run(std::uint64_t root, std::uint64_t address, const access& a,
                                             const controls& cpu, update_flags update)
    {
        walk_result r;
        r.fault = admit(address, a, cpu);
        if constexpr (std::is_void_v<constants>) {
            if (r && has_plan(root)) [[likely]] {
                footing on;
                const walk_end ended = planned_walk(r, on, root, address);
                if (ended == walk_end::absent) return r;
                if (ended == walk_end::page && settle(r, on, address, a, cpu, update)) [[likely]]
                    return r;
                r = walk_on(r, ended, root, address, a, cpu, update);
                return r;
            }
        }
        if (r && !begins(root)) [[unlikely]]
            r.fault = fault_kind::not_a_root;
        if (!r) {
            clear_path(r, 0);
            return r;
        }
        entries_seen seen;
        if constexpr (has_fast_walk) {
            footing on;
            if (fast_walk<fixed->shape().levels>(r, on, seen, root, address)) [[likely]] {
                on.rights.know(sure_permission);
                if (settle(r, on, address, a, cpu, update)) [[likely]]
                    return r;
                seen = {};  // an entry changed after it was judged
            } else if (!seen.no_memory && !present(seen.entries[seen.count - 1], format_)) {
                end_absent<fixed->shape().levels>(r, seen, root, address);
                return r;
            }
        }
        r = shared().slow_walk({.table = root, .level = format_->shape().levels}, seen, address, a, cpu, update);
        return r;
    }

    /// The same from an entry that is held elsewhere. Precondition: the format has its level.
    constexpr walk_result run(const held_entry& from, std::uint64_t address, const access& a, const controls& cpu,
                              update_flags update)
    {
        walk_result r;
        r.fault = admit(address, a, cpu);
        if (!r) {
            clear_path(r, 0);
            return r;
        }
        if (from.level < 1 || from.level > format_->shape().levels) broken::held_entry_of_no_level();
        const walk_origin origin{.level = from.level, .held = true, .entry = from.entry};
        return shared().slow_walk(origin, {}, address, a, cpu, update);
    }
    constexpr walk_result run(const pdpte_registers& from, std::uint64_t address, const access& a, const controls& cpu,
                              update_flags update)
    {
        if constexpr (constant_masks<F>) {
            static_assert(constant<F>->shape().levels == 3, "ptebits: only PAE paging has PDPTE registers");
        }
        const unsigned top = format_->shape().levels;
        if (top != 3 || format_->shape().index_bits_at(top) != 2) broken::format_has_no_pdpte_registers();
        return run(held_entry{top, from.entries[format_->shape().index(address, top)]}, address, a, cpu, update);
    }

    /// The fast path alone, which changes nothing and tells no fault: whether it came to a page, the access is allowed
    /// and no A or D is left to set. Only then `r` is what run() returns.
    /// Precondition: the root is one.
    PTEBITS_INLINE constexpr bool run_plainly(std::uint64_t root, std::uint64_t address, const access& a,
                                              const controls& cpu, update_flags update, walk_result& r)
    {
        if constexpr (has_fast_walk) {
            if (admit(address, a, cpu) != fault_kind::none) [[unlikely]]
                return false;
            footing on;
            entries_seen seen;
            if (!fast_walk<fixed->shape().levels>(r, on, seen, root, address)) [[unlikely]]
                return false;
            on.rights.know(sure_permission);
            r.allowed = on.rights.result(rules());
            return judge(r, on, a, cpu) == fault_kind::none && !must_set_flags(on, a, update);
        } else {
            return false;
        }
    }

    /// The same for several addresses, in groups: the entries of one group are fetched before
    /// the group ahead of it is walked, and so are near when its turn comes.
    constexpr void run_batch(std::uint64_t root, const std::uint64_t* addresses, std::size_t count, const access& a,
                             const controls& cpu, update_flags update, walk_result* results)
    {
        ahead slots[batch_group];
        std::size_t walked = 0;
        for (std::size_t fetched = 0; walked < count;) {
            const std::size_t n = count - fetched < batch_group ? count - fetched : batch_group;
            fetch(root, addresses + fetched, slots, n);
            const std::size_t end = n != 0 ? fetched : count;
            for (; walked < end; ++walked) results[walked] = run(root, addresses[walked], a, cpu, update);
            fetched += n;
        }
    }

    /// Asks for the entries that so many walks will read, at most batch_group, level by level.
    constexpr void fetch_for(std::uint64_t root, const std::uint64_t* addresses, std::size_t count)
    {
        ahead slots[batch_group];
        fetch(root, addresses, slots, count);
    }

    /// Sets A and D as a walk without updates found that they would be. Returns what became of it.
    constexpr slot_change commit(const walk_result& r, bool writes)
    {
        if (!r) return slot_change::changed;
        walk_result done = r;
        if (!set_flags(done, writes, update_flags::yes)) return slot_change::changed;
        return done ? slot_change::done : slot_change::no_slot;
    }

private:
    template <slot_word, walkable_format, class, slot_access>
    friend class table_walk;

    /// What is constant of the format, if something is.
    using constants = constants_of<F>;
    static constexpr auto fixed = [] {
        if constexpr (std::is_void_v<constants>) {
            return nullptr;
        } else {
            return constants{};
        }
    }();

    /// The format to ask about permissions, A and D.
    [[nodiscard]] PTEBITS_INLINE constexpr const auto& rules() const noexcept { return rules_of(format_); }

    /// Whether a walk may begin at this address.
    [[nodiscard]] PTEBITS_INLINE constexpr bool begins(std::uint64_t root) const noexcept
    {
        if constexpr (has_fast_walk && partly_constant<F>) {
            return (root & format_->plan().no_root) == 0;
        } else {
            return is_root(root, format_);
        }
    }

    /// What the access is judged by: the permissions of all entries, and the leaf.
    struct footing {
        permission_fold rights;
        std::uint64_t leaf = 0;
    };

    /// The walk by the format that shares the slow path.
    [[nodiscard]] PTEBITS_INLINE constexpr auto shared()
    {
        return table_walk<Word, shared_format<F>, Memory, Access>(shared_format_of(format_), memory_, how_);
    }

    /// Why no entry is even read, if so; else the address as the tables translate it.
    [[nodiscard]] PTEBITS_INLINE constexpr fault_kind admit(std::uint64_t& address, [[maybe_unused]] const access& a,
                                                            [[maybe_unused]] const controls& cpu) const noexcept
    {
        if constexpr (requires { regime_of<F>::admit(address, a, cpu, format_); }) {
            const fault_kind refused = regime_of<F>::admit(address, a, cpu, format_);
            if (refused != fault_kind::none) [[unlikely]]
                return refused;
        }
        return refusal(address);
    }
    [[nodiscard]] PTEBITS_INLINE constexpr fault_kind refusal(std::uint64_t address) const noexcept
    {
        const shape& s = format_->shape();
        if (s.levels == 0) return fault_kind::not_present;  // a format that is wrong
        if (s.translates(address)) return fault_kind::none;
        return s.above == extension::sign ? fault_kind::not_canonical : fault_kind::address_too_wide;
    }

    /// Physical address of the slot of a level.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t slot_address(std::uint64_t table, unsigned level,
                                                                      std::uint64_t address) const noexcept
    {
        return table + format_->shape().index(address, level) * sizeof(Word);
    }

    /// Fills in where a leaf leads.
    PTEBITS_INLINE constexpr void arrive(walk_result& r, std::uint64_t leaf, unsigned level, kind k,
                                         std::uint64_t address) const noexcept
    {
        const layout& l = format_->layout_at(level, k);
        const unsigned own = l.offset_bits_of(leaf);
        r.page_shift = static_cast<std::uint16_t>(l.sized ? own : format_->shape().page_shift(level, k));
        r.address = l.address_in(leaf) | (address & ones(own - 1, 0));
        r.bits = leaf & l.mask(role::memory_type);
    }

    /// Fills in where a walk ended, after so many entries; end() clears the path behind them, too.
    PTEBITS_INLINE static constexpr void tell_end(walk_result& r, unsigned top, unsigned level, unsigned steps) noexcept
    {
        r.level = static_cast<std::uint16_t>(level);
        r.top_level = static_cast<std::uint16_t>(top);
        r.steps = static_cast<std::uint16_t>(steps);
    }
    PTEBITS_INLINE static constexpr void end(walk_result& r, unsigned top, unsigned level, unsigned steps) noexcept
    {
        tell_end(r, top, level, steps);
        clear_path(r, steps);
    }

    /// Clears the path behind its entries; place by place, so that compilers drop it where
    /// nobody looks at the path.
    PTEBITS_INLINE static constexpr void clear_path(walk_result& r, unsigned steps) noexcept
    {
        static_assert(max_levels == 6);
        if (steps < 1) r.path[0] = {};
        if (steps < 2) r.path[1] = {};
        if (steps < 3) r.path[2] = {};
        if (steps < 4) r.path[3] = {};
        if (steps < 5) r.path[4] = {};
        if (steps < 6) r.path[5] = {};
    }

    // ---- the fast path by constants

    static constexpr bool has_fast_walk = [] {
        if constexpr (partly_constant<F>) {
            return fixed->plan().usable;
        } else if constexpr (constant_masks<F>) {
            for (unsigned level = 1; level <= fixed->shape().levels; ++level) {
                if (fixed->layout_at(level, kind::table).mask(role::next_level) != 0) return false;
            }
            return fixed->permissions_in_place() && dirty_modifier_of(fixed) == 0 && fixed->shape().levels != 0;
        } else {
            return false;
        }
    }();

    static constexpr std::uint64_t sure_permission = [] {
        std::uint64_t all = ~std::uint64_t{0};
        if constexpr (has_fast_walk) {
            for (unsigned level = 1; level <= fixed->shape().levels; ++level) {
                all &= sure_permission_of(level, fixed);
            }
        }
        return all;
    }();

    /// The bits by which the regime may end a walk.
    static constexpr std::uint64_t ending = [] {
        if constexpr (has_fast_walk) {
            if constexpr (requires { regime_of<F>::ends_by(fixed); }) return regime_of<F>::ends_by(fixed);
        }
        return std::uint64_t{0};
    }();

    /// What passes goes on or ends as its kind says: not where the regime may end a walk by the entry.
    template <unsigned Level, kind Kind>
    static constexpr quick_test test_at = [] {
        quick_test test = quick_test_of(Level, Kind, fixed);
        if constexpr (partly_constant<F>) {  // whose masks are those of its plan
            const walk_level& at = fixed->plan().levels[Level - 1];
            const bool planned = Kind == kind::table ? at.table_mask != 0 : at.leaf.low_bits != 0;
            if (!planned) return quick_test{};
        }
        test.mask |= ending;
        return test;
    }();

    template <unsigned Level, kind Kind>
    [[nodiscard]] PTEBITS_INLINE constexpr bool passes(std::uint64_t entry) const noexcept
    {
        if constexpr (partly_constant<F>) {
            quick_test test = test_at<Level, Kind>;
            const walk_level& at = format_->plan().levels[Level - 1];
            test.mask = (Kind == kind::table ? at.table_mask : at.leaf.mask) | ending;
            return test.passes(entry);
        } else {
            constexpr quick_test test = test_at<Level, Kind>;
            return test.passes(entry);
        }
    }

    /// Address of the table that an entry refers to.
    template <unsigned Level>
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t table_in(std::uint64_t entry) const noexcept
    {
        if constexpr (partly_constant<F>) {
            return (entry & format_->plan().address) << fixed->plan().address_shift;
        } else {
            return fixed->layout_at(Level, kind::table).address_in(entry);
        }
    }

    template <unsigned Level, kind Kind>
    PTEBITS_INLINE static constexpr void add_rights(footing& on, std::uint64_t entry) noexcept
    {
        constexpr std::uint64_t silent = silent_in(fixed->layout_at(Level, Kind), fixed->layout_at(1, kind::leaf));
        on.rights.add_in_place(entry, silent, fixed->layout_at(1, kind::leaf));
    }

    /// Goes down from the table of a level. Returns whether it came to a page; only then is
    /// the result filled in, on the way back.
    template <unsigned Level>
    PTEBITS_INLINE constexpr bool fast_walk(walk_result& r, footing& on, entries_seen& seen, std::uint64_t table,
                                            std::uint64_t address)
    {
        constexpr unsigned step = fixed->shape().levels - Level;
        Word entry_there;
        if (!read_slot(memory_, how_, slot_address(table, Level, address), entry_there)) [[unlikely]] {
            seen.no_memory = true;
            return false;
        }
        const std::uint64_t entry = entry_there;
        seen.entries[step] = entry;
        seen.count = step + 1;
        if constexpr (Level > 1) {
            if (passes<Level, kind::table>(entry)) [[likely]] {
                const std::uint64_t below = table_in<Level>(entry);
                if (!fast_walk<Level - 1>(r, on, seen, below, address)) [[unlikely]]
                    return false;
                r.path[step] = {slot_address(table, Level, address), entry};
                add_rights<Level, kind::table>(on, entry);
                return true;
            }
        }
        if (!passes<Level, kind::leaf>(entry)) [[unlikely]]
            return false;
        r.path[step] = {slot_address(table, Level, address), entry};
        add_rights<Level, kind::leaf>(on, entry);
        on.leaf = entry;
        arrive(r, entry, Level, kind::leaf, address);
        end(r, fixed->shape().levels, Level, step + 1);
        return true;
    }

    /// Fills in the result where the last entry seen is absent, and those before it refer to tables.
    template <unsigned Level>
    PTEBITS_INLINE constexpr void end_absent(walk_result& r, const entries_seen& seen, std::uint64_t table,
                                             std::uint64_t address) const noexcept
    {
        constexpr unsigned step = fixed->shape().levels - Level;
        r.path[step] = {slot_address(table, Level, address), seen.entries[step]};
        if constexpr (Level > 1) {
            if (step + 1 < seen.count) {
                const std::uint64_t below = table_in<Level>(seen.entries[step]);
                return end_absent<Level - 1>(r, seen, below, address);
            }
        }
        r.fault = fault_kind::not_present;
        end(r, fixed->shape().levels, Level, step + 1);
    }

    // ---- the fast path by a format known at run time

    /// Where a walk by a plan ended: at an entry that passes no comparison, or where there is no memory, it goes on.
    enum class walk_end : std::uint8_t { page, absent, unknown, no_memory };

    /// Whether the format has a plan for walks from this root, which breaks no rule.
    [[nodiscard]] PTEBITS_INLINE constexpr bool has_plan(std::uint64_t root) const noexcept
    {
        if constexpr (requires { regime_of<F>::ends_by(format_); }) {
            if (regime_of<F>::ends_by(format_) != 0) [[unlikely]]
                return false;
        }
        return format_->plan().usable && (root & format_->plan().no_root) == 0;
    }

    /// Goes down from the root by the format's plan. The result is filled in at a page and at an absent entry;
    /// else only the entries of the path and how many they are.
    PTEBITS_INLINE constexpr walk_end planned_walk(walk_result& r, footing& on, std::uint64_t root,
                                                   std::uint64_t address)
    {
        const walk_plan& plan = format_->plan();
        const layout& page = format_->layout_at(1, kind::leaf);
        const unsigned top = format_->shape().levels;
        const walk_level* at = plan.levels + (top - 1);
        walk_step* next = r.path;
        permission_fold rights;
        std::uint64_t table = root;
        unsigned level = top;
        clear_path(r, 0);
        for (;;) {
            next->slot_address = table + (address >> at->slot_shift & at->slots);
            Word entry_there;
            if (!read_slot(memory_, how_, next->slot_address, entry_there)) [[unlikely]] {
                r.steps = static_cast<std::uint16_t>(top - level);
                return walk_end::no_memory;
            }
            const std::uint64_t entry = entry_there;
            next->entry = entry;
            if ((entry & at->table_mask) != at->table_value) [[unlikely]] {
                tell_end(r, top, level, top - level + 1);
                if (!at->leaf.passes(entry)) [[unlikely]] {
                    if (present(entry, format_)) return walk_end::unknown;
                    r.fault = fault_kind::not_present;
                    return walk_end::absent;
                }
                rights.add_in_place(entry, 0, page);
                on = {rights, entry};
                arrive(r, entry, level, kind::leaf, address);
                return walk_end::page;
            }
            rights.add_in_place(entry, at->silent, page);
            table = (entry & plan.address) << plan.address_shift;
            --at;
            ++next;
            --level;
        }
    }

    /// Walks on by the slow path, from where a walk by a plan ended.
    PTEBITS_NOINLINE constexpr walk_result walk_on(const walk_result& until, walk_end ended, std::uint64_t root,
                                                   std::uint64_t address, const access& a, const controls& cpu,
                                                   update_flags update)
    {
        entries_seen seen;
        seen.no_memory = ended == walk_end::no_memory;
        seen.count = ended == walk_end::page ? 0 : until.steps;  // else an entry changed after it was judged
        for (unsigned n = 0; n < seen.count; ++n) seen.entries[n] = until.path[n].entry;
        return shared().slow_walk({.table = root, .level = format_->shape().levels}, seen, address, a, cpu, update);
    }

    // ---- the slow path

    /// Walks with all questions asked. The entries that were seen are not read again.
    constexpr walk_result slow_walk(const walk_origin& origin, entries_seen seen, std::uint64_t address,
                                    const access& a, const controls& cpu, update_flags update)
    {
        walk_result r;
        for (;;) {
            footing on;
            std::uint64_t table = origin.table;
            unsigned level = origin.level;
            while (step_down(r, on, origin, seen, table, level, address)) {
            }
            if (!r) {
                if (r.steps != 0 && r.fault != fault_kind::not_present) r.allowed = on.rights.result(format_);
                return r;
            }
            if (settle(r, on, address, a, cpu, update)) return r;
            r = {};
            seen = {};  // an entry changed after it was judged
        }
    }

    /// Judges the entry of a level. Returns whether it refers to a table, which then is `table`,
    /// of `level`; else the walk ends.
    constexpr bool step_down(walk_result& r, footing& on, const walk_origin& origin, const entries_seen& seen,
                             std::uint64_t& table, unsigned& level, std::uint64_t address)
    {
        const unsigned step = r.steps;
        const bool held = origin.held && step == 0;
        const std::uint64_t where = held ? no_slot : slot_address(table, level, address);
        Word entry_there = 0;
        if (held) {
            entry_there = static_cast<Word>(origin.entry);
        } else if (step < seen.count) {
            entry_there = static_cast<Word>(seen.entries[step]);
        } else if (seen.no_memory || !read_slot(memory_, how_, where, entry_there)) {
            r.fault = fault_kind::memory_absent;
            end(r, origin.level, level, step);
            return false;
        }
        const std::uint64_t entry = entry_there;
        r.path[step] = {where, entry};
        if (!present(entry, format_)) {
            r.fault = fault_kind::not_present;
            end(r, origin.level, level, step + 1);
            return false;
        }
        const kind k = kind_of(entry, level, format_);
        const layout& l = format_->layout_at(level, k);
        on.leaf = entry;
        on.rights.add(granted_by_hardware(entry | (held ? l.mask(role::accessed) : 0), l), l, format_);
        if (const finding f = broken_rule(entry, level, k, format_)) {
            r.fault = regime_of<F>::fault_of(f.broken, level, format_);
            r.broken = f.broken;
            r.bits = f.bits;
        } else if (const fault_kind ended = ends(entry); ended != fault_kind::none) {
            r.fault = ended;
        } else if (k == kind::table) {
            const unsigned below = format_->level_below(entry, level);
            if (!format_->shape().reaches(level, below, address)) {
                r.fault = fault_kind::address_too_wide;
            } else {
                r.steps = static_cast<std::uint16_t>(step + 1);
                table = l.address_in(entry);
                level = below;
                return true;
            }
        } else {
            arrive(r, entry, level, k, address);
        }
        end(r, origin.level, level, step + 1);
        return false;
    }

    /// Whether the regime ends a walk by an entry that breaks no rule.
    [[nodiscard]] constexpr fault_kind ends([[maybe_unused]] std::uint64_t entry) const noexcept
    {
        if constexpr (requires { regime_of<F>::ends_by(format_); }) {
            if ((entry & regime_of<F>::ends_by(format_)) != 0) return fault_kind::restart;
        }
        return fault_kind::none;
    }

    // ---- all entries

    /// Judges the access by what all entries allow, then sets A and D, or only finds out whether
    /// they could be set. Returns false where an entry is no longer the one that was judged.
    /// Precondition: the walk came to a page.
    PTEBITS_INLINE constexpr bool settle(walk_result& r, const footing& on, [[maybe_unused]] std::uint64_t address,
                                         const access& a, const controls& cpu, update_flags update)
    {
        r.allowed = on.rights.result(rules());
        if (fault_kind refused = judge(r, on, a, cpu); refused != fault_kind::none) {
            if constexpr (requires { regime_of<F>::on_refusal(r, refused, address, a, cpu, format_, memory_, how_); }) {
                refused = regime_of<F>::on_refusal(r, refused, address, a, cpu, format_, memory_, how_);
            }
            r.fault = refused;
            if (!r) return true;
        }
        return !must_set_flags(on, a, update) || set_flags(r, a.writes(), update);
    }

    /// Judges the access by what all entries allow and by the leaf.
    PTEBITS_INLINE constexpr fault_kind judge(walk_result& r, const footing& on, const access& a,
                                              const controls& cpu) const noexcept
    {
        const layout& page = rules()->layout_at(1, kind::leaf);
        const bool by_fault = rules()->accessed_by() == accessed_setter::fault;
        if (by_fault && !on.rights.all_have(page.mask(role::accessed))) return fault_kind::access_flag;
        if (!regime_of<F>::allows(r, on.leaf, a, cpu, rules())) return fault_kind::protection;
        const std::uint64_t dirty_bit = a.writes() ? page.mask(role::dirty) : 0;
        return by_fault && (on.leaf & dirty_bit) != dirty_bit ? fault_kind::access_flag : fault_kind::none;
    }

    /// An entry as hardware leaves it: A set in each that has it, the dirty state in the leaf of a write.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t used(std::uint64_t entry, const layout& l,
                                                              bool written) const noexcept
    {
        if (rules()->accessed_by() == accessed_setter::hardware) entry |= l.mask(role::accessed);
        if (!written) return entry;
        return granted_by_hardware(entry | l.mask(role::dirty), l);
    }

    /// Whether nothing is left to set, as after the first use of a page.
    [[nodiscard]] PTEBITS_INLINE constexpr bool flags_are_set(const footing& on, const access& a) const noexcept
    {
        const layout& page = rules()->layout_at(1, kind::leaf);
        const bool by_hardware = rules()->accessed_by() == accessed_setter::hardware;
        return (!by_hardware || on.rights.all_have(page.mask(role::accessed))) &&
               used(on.leaf, page, a.writes()) == on.leaf;
    }

    /// Whether set_flags() has anything to do or to find out. Precondition: the access is allowed.
    [[nodiscard]] PTEBITS_INLINE constexpr bool must_set_flags(const footing& on, const access& a,
                                                               update_flags update) const noexcept
    {
        const bool needed = update == update_flags::yes || updates_may_fault();
        return needed && rules()->accessed_by() != accessed_setter::fault && !flags_are_set(on, a);
    }

    /// Sets A and D in the entries of a walk, or with update_flags::no asks whether they could be set.
    /// Returns false where an entry is no longer what was judged.
    PTEBITS_INLINE constexpr bool set_flags(walk_result& r, bool writes, update_flags update)
    {
        unsigned level = r.top_level;
        for (unsigned i = 0; i < r.steps; ++i) {
            const walk_step& step = r.path[i];
            const bool last = i + 1 == r.steps;
            const kind k = last ? kind_of(step.entry, level, format_) : kind::table;
            const std::uint64_t wanted = used(step.entry, format_->layout_at(level, k), last && writes);
            level = format_->level_below(step.entry, level);
            if (wanted == step.entry || step.slot_address == no_slot) continue;
            const auto changed =
                replace_slot<Word>(memory_, how_, step.slot_address, step.entry, wanted, update == update_flags::yes);
            if (changed == slot_change::changed) return false;
            if (changed == slot_change::no_slot) {
                r.fault = fault_kind::memory_absent;
                return true;
            }
        }
        return true;
    }

    /// Whether memory may refuse a write of what was readable, as a guest's over the host's tables.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        if constexpr (requires { memory_.updates_may_fault(); }) {
            return memory_.updates_may_fault();
        } else {
            return false;
        }
    }

    // ---- a batch

    /// Where the walk of one address goes on; `goes_on` is false where it ended.
    struct ahead {
        std::uint64_t slot = 0;
        bool goes_on = false;
    };

    /// Asks for the entries on the way of some addresses, level by level, so that the waits
    /// for memory overlap.
    constexpr void fetch(std::uint64_t root, const std::uint64_t* addresses, ahead* on_the_way, std::size_t count)
    {
        const unsigned levels = format_->shape().levels;
        for (std::size_t i = 0; i < count; ++i) {
            const bool walks = is_root(root, format_) && refusal(addresses[i]) == fault_kind::none;
            on_the_way[i] = {walks ? slot_address(root, levels, addresses[i]) : 0, walks};
        }
        if constexpr (constant_masks<F>) {
            fetch_below<constant<F>->shape().levels>(addresses, on_the_way, count);
        } else {
            for (unsigned level = levels; level > 1; --level) fetch_next(level, addresses, on_the_way, count);
        }
    }
    template <unsigned Level>
    constexpr void fetch_below(const std::uint64_t* addresses, ahead* on_the_way, std::size_t count)
    {
        if constexpr (Level > 1) {
            fetch_next(Level, addresses, on_the_way, count);
            fetch_below<Level - 1>(addresses, on_the_way, count);
        }
    }

    /// Follows the entries of one level, and asks for those of the next.
    PTEBITS_INLINE constexpr void fetch_next(unsigned level, const std::uint64_t* addresses, ahead* on_the_way,
                                             std::size_t count)
    {
        const layout& l = format_->layout_at(level, kind::table);
        for (std::size_t i = 0; i < count; ++i) {
            Word entry = 0;
            if (!on_the_way[i].goes_on || !read_slot(memory_, how_, on_the_way[i].slot, entry)) {
                on_the_way[i].goes_on = false;
                continue;
            }
            const bool goes_on = present(entry, format_) && kind_of(entry, level, format_) == kind::table &&
                                 format_->level_below(entry, level) + 1 == level;
            on_the_way[i] = {goes_on ? slot_address(l.address_in(entry), level - 1, addresses[i]) : 0, goes_on};
            if (goes_on) prefetch_slot<Word>(memory_, on_the_way[i].slot);
        }
    }

    const F& format_;
    Memory& memory_;
    Access how_;
};

}  // namespace detail

/// Walks the tables below `root` (physical address of the top table, in bytes; or entries that are
/// held in registers) as the MMU does for one access to an address: the address reached and what is
/// allowed, or a fault.
/// Sets A and D as hardware does, only after the access is allowed: each by a
/// compare-exchange on the entry that was judged; where that changed meanwhile the walk
/// starts over. Reads at most one slot a level.
/// Intel SDM volume 3, "Paging" and "VMX Support for Address Translation"; AMD APM volume 2,
/// "Page Translation and Protection" and "Nested Paging".
template <walkable_format F, walk_root Root, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] PTEBITS_INLINE constexpr walk_result walk(const F& format, const Root& root, std::uint64_t address,
                                                        const access_of<F>& a, const controls_of<F>& cpu,
                                                        Memory&& memory, update_flags update = update_flags::yes,
                                                        Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) PTEBITS_INLINE {
        return detail::table_walk<Word, F, std::remove_reference_t<Memory>, Access>(format, memory, how)
            .run(detail::as_root(root), address, a, cpu, update);
    });
}

/// walk() for `count` independent addresses, the same access for each: results[i] is that of
/// addresses[i]. Their entries are fetched side by side first, so that the waits for memory
/// overlap; memory() is asked twice for a slot.
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
constexpr void walk_batch(const F& format, std::uint64_t root, const std::uint64_t* addresses, std::size_t count,
                          const access_of<F>& a, const controls_of<F>& cpu, Memory&& memory, walk_result* results,
                          update_flags update = update_flags::yes, Access how = {})
{
    with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        detail::table_walk<Word, F, std::remove_reference_t<Memory>, Access>(format, memory, how)
            .run_batch(root, addresses, count, a, cpu, update, results);
    });
}

/// Sets A and D that a walk without updates (update_flags::no) left clear: the second half of a walk whose
/// first half only finds out. Returns `changed` where an entry is no longer what was judged, and nothing
/// may be taken from the walk; then walk again. The same for a walk that faulted.
/// Order: acq_rel.
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr slot_change commit(const F& format, const walk_result& r, const access_of<F>& a,
                                           Memory&& memory, Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        return detail::table_walk<Word, F, std::remove_reference_t<Memory>, Access>(format, memory, how)
            .commit(r, a.writes());
    });
}

/// The code that hardware reports for a fault, if it reports one.
struct reported_code {
    std::uint64_t value = 0;
    bool exists = false;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return exists; }
    [[nodiscard]] constexpr bool operator==(const reported_code&) const = default;
};

/// The code that the format's regime reports for the fault of a walk; of x86 the #PF error code, EXITINFO1
/// or the qualification. None for a walk that did not fault, or ended in another way than by such a
/// fault: an address that is not canonical, memory that is absent.
template <walkable_format F>
[[nodiscard]] constexpr reported_code fault_code(const walk_result& r, const access_of<F>& a, const controls_of<F>& cpu,
                                                 const F& format) noexcept
{
    return regime_of<F>::fault_code(r, a, cpu, format);
}

}  // namespace ptebits
