// SPDX-License-Identifier: BSL-1.0
// Walking tables as the MMU does: the address reached, or the right fault; A and D set as
// hardware sets them. One walk for all formats, and a nested one over two of them.
//
// Memory is the caller's: `memory(physical address)` returns a pointer to the slot there,
// or null where there is none. The walk reads nothing else. Where tables of 32-bit and of
// 64-bit entries are both in play, `memory` also takes std::type_identity<Word>.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/entry.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void memory_has_slots_of_another_size() noexcept { stop(); }
[[noreturn]] inline void memory_is_read_only() noexcept { stop(); }
}  // namespace broken

// ---- what is asked

/// What an access does. A read-modify-write needs both rights and counts as a write.
enum class operation : std::uint8_t { read, write, fetch, read_write };

/// One access to memory.
struct memory_access {
    operation what = operation::read;
    bool user = false;         ///< CPL 3; EPT with mode-based execute: a user-mode linear address
    bool implicit = false;     ///< a supervisor access to a system structure: EFLAGS.AC does not count
    bool guest_table = false;  ///< nested regimes: made by the guest's own page walk
    bool linear = true;        ///< nested regimes: a linear address is valid (qualification bit 7)

    [[nodiscard]] constexpr bool writes() const noexcept
    {
        return what == operation::write || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool reads() const noexcept
    {
        return what == operation::read || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == operation::fetch; }
};

/// The CPU's controls over ordinary paging that are not part of the format.
struct cpu_controls {
    bool write_protect = true;     ///< CR0.WP
    bool smep = false;             ///< CR4.SMEP
    bool smap = false;             ///< CR4.SMAP
    bool alignment_check = false;  ///< EFLAGS.AC
    bool user_keys = false;        ///< CR4.PKE
    bool supervisor_keys = false;  ///< CR4.PKS
    std::uint32_t pkru = 0;        ///< two bits a key: access disable, write disable
    std::uint32_t pkrs = 0;        ///< the same for supervisor pages
};

// ---- what is answered

/// Why a walk did not reach an address.
enum class fault_kind : std::uint8_t {
    none,
    not_present,
    protection,
    reserved_bits,     ///< ordinary and nested paging
    pdpte_reserved,    ///< PAE: found when CR3 is loaded, #GP
    misconfiguration,  ///< EPT; which rule is in `broken`
    not_canonical,     ///< long mode, #GP or #SS
    address_too_wide,  ///< address bits above what the tables translate
    memory_absent,     ///< `memory` has no slot there
};

/// One entry that a walk used. Without initializers, so that a walk need not clear the path
/// for those who do not look at it.
struct walk_step {
    std::uint64_t slot_address;  ///< physical, in bytes
    std::uint64_t entry;         ///< as it was judged
};

/// Where a walk ended.
struct walk_result {
    std::uint64_t address = 0;      ///< physical address reached, in bytes
    std::uint64_t memory_type = 0;  ///< the leaf's memory-type bits, in place
    std::uint64_t bits = 0;         ///< the bits that break the rule `broken`
    walk_step path[max_levels];     ///< from the top
    unsigned steps = 0;             ///< entries in `path`
    unsigned top_level = 0;         ///< of the first of them
    unsigned level = 0;             ///< of the leaf, or of the entry that faults; 0: none was looked for
    unsigned page_shift = 0;        ///< log2 of the page's bytes
    fault_kind fault = fault_kind::none;
    rule broken = rule::none;  ///< with reserved_bits, pdpte_reserved, misconfiguration
    bool key_denies = false;   ///< the protection key denies the access
    permissions allowed = {false, false, false, false, false};  ///< by all entries read together

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return fault == fault_kind::none; }

    /// Level of an entry of the path. Precondition: step < steps.
    [[nodiscard]] constexpr unsigned level_of(unsigned step) const noexcept { return top_level - step; }
};

/// Whether a walk sets A and D.
enum class update_flags : bool { no, yes };

/// What a walk may ask of a format.
template <class F>
concept walkable_format = entry_format<F> && requires(const F& f) {
    { f.walked_as() } -> std::same_as<regime>;
    { f.hardware_accessed() } -> std::same_as<bool>;
};

// ---- rights

/// Whether the page's protection key denies a data access. Intel SDM volume 3, "Protection Keys".
[[nodiscard]] PTEBITS_INLINE constexpr bool key_denies(unsigned key, permissions page, const memory_access& a,
                                                       const cpu_controls& cpu) noexcept
{
    if (a.fetches() || !(page.user ? cpu.user_keys : cpu.supervisor_keys)) return false;
    const std::uint32_t rights = (page.user ? cpu.pkru : cpu.pkrs) >> 2 * (key & 15);
    const bool access_disabled = (rights & 1) != 0;
    const bool write_disabled = (rights & 2) != 0 && (a.user || cpu.write_protect);
    return access_disabled || (a.writes() && write_disabled);
}

/// Whether permissions allow an access, protection keys aside. Intel SDM volume 3,
/// "Determination of Access Rights"; AMD APM volume 2, "Page-Protection Checks".
[[nodiscard]] PTEBITS_INLINE constexpr bool allows(permissions page, const memory_access& a, const cpu_controls& cpu,
                                                   regime walked_as) noexcept
{
    if (walked_as != regime::ordinary) {
        if (a.fetches()) return a.user ? page.user_execute : page.execute;
        return (!a.reads() || page.read) && (!a.writes() || page.write);
    }
    if (a.user) {
        if (!page.user) return false;
        return a.fetches() ? page.user_execute : !a.writes() || page.write;
    }
    if (a.fetches()) return page.execute && !(cpu.smep && page.user);
    if (cpu.smap && page.user && (a.implicit || !cpu.alignment_check)) return false;
    return !a.writes() || page.write || !cpu.write_protect;
}

// ---- codes

/// #PF error code of a fault. Intel SDM volume 3, "Page-Fault Exceptions".
template <walkable_format F>
[[nodiscard]] constexpr std::uint32_t page_fault_code(const walk_result& r, const memory_access& a,
                                                      const cpu_controls& cpu, const F& format) noexcept
{
    const bool was_present = r.fault == fault_kind::protection || r.fault == fault_kind::reserved_bits;
    const bool nxe = format.layout_at(1, kind::leaf).mask(role::execute_disable) != 0;
    return static_cast<std::uint32_t>(was_present) | static_cast<std::uint32_t>(a.writes()) << 1 |
           static_cast<std::uint32_t>(a.user) << 2 |
           static_cast<std::uint32_t>(r.fault == fault_kind::reserved_bits) << 3 |
           static_cast<std::uint32_t>(a.fetches() && (nxe || cpu.smep)) << 4 |
           static_cast<std::uint32_t>(r.key_denies) << 5;
}

/// #NPF EXITINFO1 of a fault. AMD APM volume 2, "Nested versus Guest Page Faults".
template <walkable_format F>
[[nodiscard]] constexpr std::uint64_t npf_exit_info(const walk_result& r, const memory_access& a,
                                                    const F& format) noexcept
{
    memory_access as_user = a;
    as_user.user = true;
    const std::uint64_t where = std::uint64_t{1} << (a.guest_table ? 33 : 32);
    return page_fault_code(r, as_user, cpu_controls{}, format) | where;
}

/// Exit qualification of an EPT violation. Intel SDM volume 3, "Exit Qualification for EPT Violations".
template <walkable_format F>
[[nodiscard]] constexpr std::uint64_t ept_qualification(const walk_result& r, const memory_access& a,
                                                        const F& format) noexcept
{
    const bool modes_apart = format.layout_at(1, kind::leaf).mask(role::user_execute) != 0;
    return static_cast<std::uint64_t>(a.reads()) | static_cast<std::uint64_t>(a.writes()) << 1 |
           static_cast<std::uint64_t>(a.fetches()) << 2 | static_cast<std::uint64_t>(r.allowed.read) << 3 |
           static_cast<std::uint64_t>(r.allowed.write) << 4 | static_cast<std::uint64_t>(r.allowed.execute) << 5 |
           static_cast<std::uint64_t>(modes_apart && r.allowed.user_execute) << 6 |
           static_cast<std::uint64_t>(a.linear) << 7 | static_cast<std::uint64_t>(a.linear && !a.guest_table) << 8;
}

/// The code that the format's regime reports for a fault: #PF error code, EXITINFO1 or qualification.
template <walkable_format F>
[[nodiscard]] constexpr std::uint64_t fault_code(const walk_result& r, const memory_access& a, const cpu_controls& cpu,
                                                 const F& format) noexcept
{
    switch (format.walked_as()) {
    case regime::nested:
        return npf_exit_info(r, a, format);
    case regime::extended:
        return ept_qualification(r, a, format);
    case regime::ordinary:
        break;
    }
    return page_fault_code(r, a, cpu, format);
}

// ---- the walk

/// Whether a memory has slots of the size of Word.
template <class Memory, class Word>
concept has_slots = requires(Memory& memory, std::uint64_t physical) {
    requires sizeof(*memory(physical, std::type_identity<Word>{})) == sizeof(Word);
} || requires(Memory& memory, std::uint64_t physical) { requires sizeof(*memory(physical)) == sizeof(Word); };

/// The slot of an entry in a caller's memory; null where there is none.
template <slot_word Word, class Memory>
[[nodiscard]] constexpr auto slot_in(Memory& memory, std::uint64_t physical)
{
    if constexpr (requires { memory(physical, std::type_identity<Word>{}); }) {
        return memory(physical, std::type_identity<Word>{});
    } else {
        return memory(physical);
    }
}

/// One walk over tables whose entries have the size of Word. Kept apart from walk() so
/// that the size is known where memory is reached.
///
/// Where the format is one of constants, a walk hurries down as long as each entry passes
/// one comparison, and keeps nothing but the entries. That way is inlined by force, so that
/// compilers leave out what the caller does not look at. From the first entry that does not
/// pass, and for formats known at run time, it walks on with all questions asked.
template <slot_word Word, walkable_format F, class Memory, slot_access Access>
class table_walk {
public:
    constexpr table_walk(const F& format, Memory& memory, Access how) : format_(format), memory_(memory), how_(how) {}

    /// Looks, and sets A and D where all is allowed; starts over if an entry changed meanwhile.
    PTEBITS_INLINE constexpr walk_result run(std::uint64_t root, std::uint64_t address, const memory_access& a,
                                             const cpu_controls& cpu, update_flags update)
    {
        walk_result r;
        r.fault = refusal(address);
        if (!r) {
            clear_path(r, 0);
            return r;
        }
        entries_seen seen;
        if constexpr (static_masks<F>) {
            footing on;
            if (hurry<F::tables().levels>(r, on, seen, root, address)) [[likely]] {
                on.rights.granted |= sure_bit;  // it is; the compiler need not find out
                if (settle(r, on, a, cpu, update)) [[likely]]
                    return r;
                seen = {};  // an entry changed after it was judged
            }
        }
        r = walk_on(seen, root, address, a, cpu, update);
        return r;
    }

    /// The same for several addresses, in groups: the entries of one group are fetched before
    /// the group ahead of it is walked, and so are near when its turn comes.
    constexpr void run_batch(std::uint64_t root, const std::uint64_t* addresses, std::size_t count,
                             const memory_access& a, const cpu_controls& cpu, update_flags update, walk_result* results)
    {
        constexpr std::size_t group = 16;  // about as many as a core fetches at once
        slot_pointer slots[group];
        std::size_t walked = 0;
        for (std::size_t fetched = 0; walked < count;) {
            const std::size_t n = count - fetched < group ? count - fetched : group;
            fetch(root, addresses + fetched, slots, n);
            const std::size_t end = n != 0 ? fetched : count;
            for (; walked < end; ++walked) results[walked] = run(root, addresses[walked], a, cpu, update);
            fetched += n;
        }
    }

private:
    using slot_pointer = std::invoke_result_t<decltype(slot_in<Word, Memory>), Memory&, std::uint64_t>;

    /// What the access is judged by: the permissions of all entries, and the leaf.
    struct footing {
        permission_fold rights;
        std::uint64_t leaf = 0;
    };

    /// Entries that were read on the way, and whether the slot behind them is known to be absent.
    struct entries_seen {
        std::uint64_t entries[max_levels] = {};
        unsigned count = 0;
        bool absent = false;
    };

    /// Why no entry is even looked at.
    [[nodiscard]] PTEBITS_INLINE constexpr fault_kind refusal(std::uint64_t address) const noexcept
    {
        const shape& t = format_.tables();
        if (t.levels == 0) return fault_kind::not_present;  // a format that is wrong
        const unsigned bits_used = t.address_bits();
        if (t.canonical) {
            const std::uint64_t shifted = address + (std::uint64_t{1} << (bits_used - 1));
            return shifted >> bits_used != 0 ? fault_kind::not_canonical : fault_kind::none;
        }
        return address >> bits_used != 0 ? fault_kind::address_too_wide : fault_kind::none;
    }

    /// Physical address of the slot of a level.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t slot_address(std::uint64_t table, unsigned level,
                                                                      std::uint64_t address) const noexcept
    {
        const shape& t = format_.tables();
        const std::uint64_t index = address >> t.page_shift(level) & ones(t.index_bits_at(level) - 1, 0);
        return table + index * sizeof(Word);
    }

    /// The slot of a level in a table; null where there is none.
    PTEBITS_INLINE constexpr slot_pointer find(std::uint64_t table, unsigned level, std::uint64_t address)
    {
        return slot_in<Word>(memory_, slot_address(table, level, address));
    }

    /// Fills in where a leaf leads.
    PTEBITS_INLINE constexpr void arrive(walk_result& r, std::uint64_t leaf, unsigned level,
                                         std::uint64_t address) const noexcept
    {
        const layout& l = format_.layout_at(level, kind::leaf);
        r.page_shift = format_.tables().page_shift(level);
        r.address = l.address_in(leaf) | (address & ones(r.page_shift - 1, 0));
        r.memory_type = leaf & l.mask(role::memory_type);
    }

    /// Fills in where a walk ended, after so many entries.
    PTEBITS_INLINE constexpr void end(walk_result& r, unsigned level, unsigned steps) const noexcept
    {
        r.level = level;
        r.top_level = format_.tables().levels;
        r.steps = steps;
        clear_path(r, steps);
    }

    /// Clears the path behind its entries; place by place, so that compilers drop it where
    /// nobody looks at the path.
    PTEBITS_INLINE static constexpr void clear_path(walk_result& r, unsigned steps) noexcept
    {
        static_assert(max_levels == 5);
        if (steps < 1) r.path[0] = {};
        if (steps < 2) r.path[1] = {};
        if (steps < 3) r.path[2] = {};
        if (steps < 4) r.path[3] = {};
        if (steps < 5) r.path[4] = {};
    }

    // ---- the way down, in a hurry

    /// A test that only present and legal entries of one kind pass, not all of them: some bits
    /// have one value; and where combinations of the six lowest are forbidden, these are
    /// among those that are not. By default nothing passes.
    struct quick_test {
        std::uint64_t mask = 0;
        std::uint64_t value = 0;
        bool by_low_bits = true;
        std::uint64_t low_bits = 0;  // bit n: n is good
    };

    /// A bit that is set in whatever passes: the lowest of those that make an entry present.
    static constexpr std::uint64_t sure_bit = [] {
        std::uint64_t lowest = 0;
        if constexpr (static_masks<F>) lowest = F::present_mask() & ~(F::present_mask() - 1);
        return lowest;
    }();

    [[nodiscard]] static constexpr quick_test quick_test_of(unsigned level, kind k) noexcept
    {
        if (!F::exists(level, k)) return {};
        const std::uint64_t page_size = F::layout_at(level, kind::leaf).mask(role::page_size);
        const std::uint64_t reserved = F::layout_at(level, k).mask(role::reserved);
        const std::uint64_t mask = reserved | page_size | sure_bit;
        const std::uint64_t value = sure_bit | (k == kind::leaf ? page_size : 0);
        if ((reserved & value) != 0) return {};  // this level is present by another bit
        std::uint64_t good = 0;
        bool all_good = true;
        for (std::uint64_t low = 0; low < 64; ++low) {
            if (((low ^ value) & mask & 63) != 0) continue;
            bool breaks = false;
            for (const combination& c : F::combinations()) {
                breaks = breaks || (c.in.contains(level, k) && (low & c.mask) == (c.value & 63));
            }
            all_good = all_good && !breaks;
            if (!breaks) good |= std::uint64_t{1} << low;
        }
        const std::uint64_t compared = all_good ? mask : mask & ~std::uint64_t{63};
        return {compared, value & compared, !all_good, good};
    }

    template <unsigned Level, kind Kind>
    static constexpr quick_test test_at = quick_test_of(Level, Kind);
    template <unsigned Level, kind Kind>
    static constexpr permission_fold::silence silence_at =
        permission_fold::silent_in(F::layout_at(Level, Kind), F::layout_at(1, kind::leaf));

    template <unsigned Level, kind Kind>
    [[nodiscard]] PTEBITS_INLINE static constexpr bool passes(std::uint64_t entry) noexcept
    {
        constexpr quick_test test = test_at<Level, Kind>;
        if ((entry & test.mask) != test.value) return false;
        return !test.by_low_bits || (test.low_bits >> (entry & 63) & 1) != 0;
    }

    /// Goes down from the table of a level. Returns whether it came to a page; only then is
    /// the result filled in, on the way back.
    template <unsigned Level>
    PTEBITS_INLINE constexpr bool hurry(walk_result& r, footing& on, entries_seen& seen, std::uint64_t table,
                                        std::uint64_t address)
    {
        constexpr unsigned step = F::tables().levels - Level;
        const auto* const slot = find(table, Level, address);
        if (slot == nullptr) [[unlikely]] {
            seen.absent = true;
            return false;
        }
        const std::uint64_t entry = how_.load(*slot);
        seen.entries[step] = entry;
        seen.count = step + 1;
        if constexpr (Level > 1) {
            if (passes<Level, kind::table>(entry)) [[likely]] {
                const std::uint64_t below = F::layout_at(Level, kind::table).address_in(entry);
                if (!hurry<Level - 1>(r, on, seen, below, address)) [[unlikely]]
                    return false;
                r.path[step] = {slot_address(table, Level, address), entry};
                on.rights.add(entry, silence_at<Level, kind::table>);
                return true;
            }
        }
        if (!passes<Level, kind::leaf>(entry)) [[unlikely]]
            return false;
        r.path[step] = {slot_address(table, Level, address), entry};
        on.rights.add(entry, silence_at<Level, kind::leaf>);
        on.leaf = entry;
        arrive(r, entry, Level, address);
        end(r, Level, step + 1);
        return true;
    }

    // ---- the way down, with all questions asked

    /// Why the MMU does not go on with an entry.
    struct objection {
        std::uint64_t bits = 0;
        fault_kind fault = fault_kind::none;
        rule broken = rule::none;
    };
    [[nodiscard]] constexpr objection object_to(std::uint64_t entry, unsigned level) const noexcept
    {
        if (!present(entry, format_)) return {0, fault_kind::not_present, rule::none};
        const finding f = diagnose(entry, level, format_);
        return f ? objection{f.bits, breach(level), f.broken} : objection{};
    }

    /// Walks with all questions asked. The entries that were seen are not read again.
    constexpr walk_result walk_on(entries_seen seen, std::uint64_t root, std::uint64_t address, const memory_access& a,
                                  const cpu_controls& cpu, update_flags update)
    {
        walk_result r;
        for (;;) {
            footing on;
            std::uint64_t table = root;
            for (unsigned level = format_.tables().levels; look(r, on, seen, table, level, address);) --level;
            if (settle(r, on, a, cpu, update)) return r;
            r = {};
            seen = {};  // an entry changed after it was judged
        }
    }

    /// Looks at the entry of a level. Returns whether it refers to a table, else the walk ends.
    constexpr bool look(walk_result& r, footing& on, const entries_seen& seen, std::uint64_t& table, unsigned level,
                        std::uint64_t address)
    {
        const unsigned step = format_.tables().levels - level;
        std::uint64_t entry = 0;
        if (step < seen.count) {
            entry = seen.entries[step];
        } else if (const auto* const slot = seen.absent ? nullptr : find(table, level, address); slot != nullptr) {
            entry = how_.load(*slot);
        } else {
            r.fault = fault_kind::memory_absent;
            end(r, level, step);
            return false;
        }
        r.path[step] = {slot_address(table, level, address), entry};
        const kind k = kind_of(entry, level, format_);
        const layout& l = format_.layout_at(level, k);
        on.rights.add(entry, permission_fold::silent_in(l, format_.layout_at(1, kind::leaf)));
        const objection o = object_to(entry, level);
        if (o.fault == fault_kind::none && k == kind::table) {
            table = l.address_in(entry);
            return true;
        }
        r.fault = o.fault;
        r.broken = o.broken;
        r.bits = o.bits;
        on.leaf = entry;
        if (r) arrive(r, entry, level, address);
        end(r, level, step + 1);
        return false;
    }

    // ---- all entries

    /// Judges the access by what all entries allow, then sets A and D, or only finds out whether
    /// they could be set. Returns false where an entry is no longer the one that was judged.
    PTEBITS_INLINE constexpr bool settle(walk_result& r, const footing& on, const memory_access& a,
                                         const cpu_controls& cpu, update_flags update)
    {
        if (r.steps != 0) r.allowed = on.rights.result(format_);
        if (!r) return true;
        judge(r, on.leaf, a, cpu);
        const bool needed = update == update_flags::yes || updates_may_fault();
        return !r || !needed || flags_are_set(on, a) || set_flags(r, a, update);
    }

    /// Judges the access by what all entries allow, and by the leaf's protection key.
    PTEBITS_INLINE constexpr void judge(walk_result& r, [[maybe_unused]] std::uint64_t leaf, const memory_access& a,
                                        const cpu_controls& cpu) const noexcept
    {
        if constexpr (requires { format_.fields().protection_key; }) {
            const field key = format_.fields().protection_key;
            if (key.exists()) r.key_denies = key_denies(static_cast<unsigned>(key.get(leaf)), r.allowed, a, cpu);
        }
        if (r.key_denies || !allows(r.allowed, a, cpu, format_.walked_as())) r.fault = fault_kind::protection;
    }

    /// The bits that hardware sets in each entry, and in the leaf of a write too.
    [[nodiscard]] constexpr std::uint64_t accessed_flag(const layout& l) const noexcept
    {
        return format_.hardware_accessed() ? l.mask(role::accessed) : 0;
    }
    [[nodiscard]] static constexpr std::uint64_t dirty_flag(const layout& l, const memory_access& a) noexcept
    {
        return a.writes() ? l.mask(role::dirty) : 0;
    }

    /// Whether nothing is left to set, as after the first use of a page.
    [[nodiscard]] PTEBITS_INLINE constexpr bool flags_are_set(const footing& on, const memory_access& a) const noexcept
    {
        const layout& page = format_.layout_at(1, kind::leaf);
        return (on.rights.granted & accessed_flag(page)) == accessed_flag(page) &&
               (on.leaf & dirty_flag(page, a)) == dirty_flag(page, a);
    }

    constexpr bool set_flags(walk_result& r, const memory_access& a, update_flags update)
    {
        for (unsigned i = 0; i < r.steps; ++i) {
            const walk_step& used = r.path[i];
            const bool last = i + 1 == r.steps;
            const layout& l = format_.layout_at(r.level_of(i), last ? kind::leaf : kind::table);
            const std::uint64_t flags = accessed_flag(l) | (last ? dirty_flag(l, a) : 0);
            if ((used.entry & flags) == flags) continue;
            auto* const slot = slot_for_update(used.slot_address);
            if (slot == nullptr) {
                r.fault = fault_kind::memory_absent;
                return true;
            }
            if (update == update_flags::no) continue;
            using slot_type = std::remove_reference_t<decltype(*slot)>;
            if constexpr (std::is_const_v<slot_type>) {
                broken::memory_is_read_only();
            } else {
                auto expected = static_cast<slot_type>(used.entry);
                if (!how_.compare_exchange(*slot, expected, static_cast<slot_type>(used.entry | flags))) return false;
            }
        }
        return true;
    }

    // What a broken rule is called in this regime.
    [[nodiscard]] constexpr fault_kind breach(unsigned level) const noexcept
    {
        if (format_.walked_as() == regime::extended) return fault_kind::misconfiguration;
        const bool pdpte = level == 3 && format_.tables().levels == 3;
        return pdpte && format_.walked_as() == regime::ordinary ? fault_kind::pdpte_reserved
                                                                : fault_kind::reserved_bits;
    }

    // Memory that must know of writes, as a guest's over the host's tables, has for_update; and
    // tells whether that may refuse what was readable.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        if constexpr (requires { memory_.updates_may_fault(); }) {
            return memory_.updates_may_fault();
        } else {
            return false;
        }
    }
    [[nodiscard]] constexpr auto slot_for_update(std::uint64_t physical)
    {
        if constexpr (requires { memory_.for_update(physical, std::type_identity<Word>{}); }) {
            return memory_.for_update(physical, std::type_identity<Word>{});
        } else {
            return slot_in<Word>(memory_, physical);
        }
    }

    // ---- a batch

    /// Asks for the entries on the way of some addresses, level by level, so that the waits
    /// for memory overlap.
    constexpr void fetch(std::uint64_t root, const std::uint64_t* addresses, slot_pointer* slots, std::size_t count)
    {
        const unsigned levels = format_.tables().levels;
        for (std::size_t i = 0; i < count; ++i) {
            slots[i] = refusal(addresses[i]) == fault_kind::none ? find(root, levels, addresses[i]) : nullptr;
        }
        if constexpr (static_masks<F>) {
            fetch_below<F::tables().levels>(addresses, slots, count);
        } else {
            for (unsigned level = levels; level > 1; --level) fetch_next(level, addresses, slots, count);
        }
    }
    template <unsigned Level>
    constexpr void fetch_below(const std::uint64_t* addresses, slot_pointer* slots, std::size_t count)
    {
        if constexpr (Level > 1) {
            fetch_next(Level, addresses, slots, count);
            fetch_below<Level - 1>(addresses, slots, count);
        }
    }

    /// Follows the entries of one level, and asks for those of the next.
    PTEBITS_INLINE constexpr void fetch_next(unsigned level, const std::uint64_t* addresses, slot_pointer* slots,
                                             std::size_t count)
    {
        const layout& l = format_.layout_at(level, kind::table);
        for (std::size_t i = 0; i < count; ++i) {
            if (slots[i] == nullptr) continue;
            const std::uint64_t entry = how_.load(*slots[i]);
            const bool goes_on = present(entry, format_) && kind_of(entry, level, format_) == kind::table;
            slots[i] = goes_on ? find(l.address_in(entry), level - 1, addresses[i]) : nullptr;
            prefetch(slots[i]);
        }
    }

    const F& format_;
    Memory& memory_;
    Access how_;
};

/// Calls a function with the slot type of a format's entries. Precondition: memory has such slots.
template <walkable_format F, class Memory, class Function>
PTEBITS_INLINE constexpr auto with_slots_of(const F& format, Memory&, Function call)
{
    constexpr bool wide = has_slots<Memory, std::uint64_t>;
    constexpr bool narrow = has_slots<Memory, std::uint32_t>;
    static_assert(wide || narrow, "ptebits: memory must return a pointer to slots of 8 or 4 bytes");
    if constexpr (static_masks<F>) {
        constexpr bool wide_entries = F{}.tables().entry_bits == 64;
        static_assert(wide_entries ? wide : narrow, "ptebits: memory has no slots as wide as this format's entries");
        return call(std::type_identity<std::conditional_t<wide_entries, std::uint64_t, std::uint32_t>>{});
    } else {
        if constexpr (wide) {
            if (format.tables().entry_bits == 64) return call(std::type_identity<std::uint64_t>{});
        }
        if constexpr (narrow) {
            if (format.tables().entry_bits == 32) return call(std::type_identity<std::uint32_t>{});
        }
        broken::memory_has_slots_of_another_size();
    }
}

/// Walks the tables below `root` (physical address of the top table, in bytes) as the MMU
/// does for one access to an address: the address reached and what is allowed, or a fault.
/// Sets A and D as hardware does, only after the access is allowed: each by a
/// compare-exchange on the entry that was judged; where that changed meanwhile the walk
/// starts over. Reads at most one slot a level.
/// Intel SDM volume 3, "Paging" and "VMX Support for Address Translation"; AMD APM volume 2,
/// "Page Translation and Protection" and "Nested Paging".
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] PTEBITS_INLINE constexpr walk_result walk(const F& format, std::uint64_t root, std::uint64_t address,
                                                        const memory_access& a, const cpu_controls& cpu,
                                                        Memory&& memory, update_flags update = update_flags::yes,
                                                        Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) PTEBITS_INLINE {
        return table_walk<Word, F, std::remove_reference_t<Memory>, Access>(format, memory, how)
            .run(root, address, a, cpu, update);
    });
}

/// walk() for `count` independent addresses, the same access for each: results[i] is that of
/// addresses[i]. Their entries are fetched side by side first, so that the waits for memory
/// overlap; memory() is asked twice for a slot.
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
constexpr void walk_batch(const F& format, std::uint64_t root, const std::uint64_t* addresses, std::size_t count,
                          const memory_access& a, const cpu_controls& cpu, Memory&& memory, walk_result* results,
                          update_flags update = update_flags::yes, Access how = {})
{
    with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
        table_walk<Word, F, std::remove_reference_t<Memory>, Access>(format, memory, how)
            .run_batch(root, addresses, count, a, cpu, update, results);
    });
}

/// What the CPU checks of PAE's four top entries when CR3 is loaded: the first present one
/// that has reserved bits set. Intel SDM volume 3, "PDPTE Registers".
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr finding check_pdptes(const F& format, std::uint64_t root, Memory&& memory, Access how = {})
{
    for (unsigned i = 0; i < 4; ++i) {
        const auto* const slot = slot_in<std::uint64_t>(memory, root + i * sizeof(std::uint64_t));
        if (slot == nullptr) continue;
        if (const finding f = diagnose(how.load(*slot), 3, format)) return f;
    }
    return {};
}

// ---- the nested walk

/// The guest's paging is off: its linear addresses are guest-physical.
struct unpaged {};

/// Which of the two walks a nested walk ended in.
enum class dimension : std::uint8_t { guest, host };

/// Where a nested walk ended.
struct nested_result {
    dimension where = dimension::host;  ///< the walk whose fault it is, if any
    walk_result guest;                  ///< slot addresses are guest-physical; no steps if the guest is unpaged
    walk_result host;                   ///< of the final address, or of the one that faults; none if the guest's fault
    memory_access host_access;          ///< what was asked of the host's tables there
    std::uint64_t guest_physical = 0;   ///< the address asked of the host's tables there

    [[nodiscard]] constexpr const walk_result& last() const noexcept
    {
        return where == dimension::guest ? guest : host;
    }
    [[nodiscard]] constexpr explicit operator bool() const noexcept { return static_cast<bool>(last()); }
    /// Physical address reached, in bytes; and log2 of the bytes around it that translate alike.
    [[nodiscard]] constexpr std::uint64_t address() const noexcept { return host.address; }
    [[nodiscard]] constexpr unsigned page_shift() const noexcept
    {
        return guest.steps != 0 && guest.page_shift < host.page_shift ? guest.page_shift : host.page_shift;
    }
};

/// The guest's memory as its page walk reaches it: through the host's tables. Each access
/// to a guest table is translated as the hardware does: NPT: as a user write; EPT: as a
/// read, or as a read and write where EPT sets A and D; as a write to set the guest's A or D.
template <walkable_format Host, class Memory, slot_access Access>
class guest_tables {
public:
    constexpr guest_tables(const Host& format, std::uint64_t root, Memory& memory, update_flags update, Access how)
        : host_(format), root_(root), memory_(memory), update_(update), how_(how)
    {
    }

    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr auto operator()(std::uint64_t guest_physical, std::type_identity<Word>)
    {
        return slot<Word>(guest_physical, table_read());
    }
    template <slot_word Word>
        requires has_slots<Memory, Word>
    [[nodiscard]] constexpr auto for_update(std::uint64_t guest_physical, std::type_identity<Word>)
    {
        return slot<Word>(guest_physical, updates_may_fault() ? operation::write : table_read());
    }
    /// Whether a table that could be read may be one that must not be written.
    [[nodiscard]] constexpr bool updates_may_fault() const noexcept
    {
        return host_.walked_as() == regime::extended && !host_.hardware_accessed();
    }

    /// Translates one guest-physical address.
    [[nodiscard]] constexpr walk_result translate(std::uint64_t guest_physical, const memory_access& a)
    {
        return walk(host_, root_, guest_physical, a, cpu_controls{}, memory_, update_, how_);
    }

    /// Whether the host's tables refused an access to a guest's table; if so, fills in which.
    constexpr bool tell_fault(nested_result& result) const
    {
        if (!faulted_) return false;
        result.host = fault_;
        result.host_access = access_;
        result.guest_physical = guest_physical_;
        return true;
    }

private:
    [[nodiscard]] constexpr operation table_read() const noexcept
    {
        if (host_.walked_as() == regime::nested) return operation::write;
        return host_.hardware_accessed() ? operation::read_write : operation::read;
    }

    template <slot_word Word>
    [[nodiscard]] constexpr auto slot(std::uint64_t guest_physical, operation what)
    {
        const memory_access a{.what = what, .user = true, .guest_table = true};
        const walk_result reached = translate(guest_physical, a);
        if (reached) return slot_in<Word>(memory_, reached.address);
        faulted_ = true;
        fault_ = reached;
        access_ = a;
        guest_physical_ = guest_physical;
        return decltype(slot_in<Word>(memory_, guest_physical)){nullptr};
    }

    const Host& host_;
    std::uint64_t root_;
    Memory& memory_;
    update_flags update_;
    Access how_;
    bool faulted_ = false;
    walk_result fault_;  // the three of a fault, if there was one
    memory_access access_;
    std::uint64_t guest_physical_ = 0;
};

/// Walks a guest's tables (or none: unpaged) over the host's, as the MMU does for one
/// access of the guest. `guest_root` is guest-physical, `host_root` physical; `memory` is
/// the host's. The guest's A and D are set through the host's translation.
/// AMD APM volume 2, "Nested Paging"; Intel SDM volume 3, "EPT Translation Mechanism".
template <class Guest, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr nested_result nested_walk(const Guest& guest, std::uint64_t guest_root, const Host& host,
                                                  std::uint64_t host_root, std::uint64_t address,
                                                  const memory_access& a, const cpu_controls& guest_cpu,
                                                  Memory&& memory, update_flags update = update_flags::yes,
                                                  Access how = {})
{
    guest_tables<Host, std::remove_reference_t<Memory>, Access> tables_of_guest(host, host_root, memory, update, how);
    if constexpr (std::is_same_v<Guest, unpaged>) {
        return {.where = dimension::host,
                .guest = {},
                .host = tables_of_guest.translate(address, a),
                .host_access = a,
                .guest_physical = address};
    } else {
        const walk_result in_guest = walk(guest, guest_root, address, a, guest_cpu, tables_of_guest, update, how);
        if (!in_guest) {
            // The guest's walk lacks memory where the host's walk faults, or where there is none.
            nested_result result{};
            result.where = tables_of_guest.tell_fault(result) ? dimension::host : dimension::guest;
            result.guest = in_guest;
            return result;
        }
        // EPT's XU is for linear addresses that user mode may use, NPT's GMET for the CPL.
        memory_access final = a;
        if (host.walked_as() == regime::extended) final.user = in_guest.allowed.user;
        return {.where = dimension::host,
                .guest = in_guest,
                .host = tables_of_guest.translate(in_guest.address, final),
                .host_access = final,
                .guest_physical = in_guest.address};
    }
}

}  // namespace ptebits
