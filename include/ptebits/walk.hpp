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
[[nodiscard]] constexpr bool key_denies(unsigned key, const permissions& page, const memory_access& a,
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
[[nodiscard]] constexpr bool allows(const permissions& page, const memory_access& a, const cpu_controls& cpu,
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
template <slot_word Word, walkable_format F, class Memory, slot_access Access>
class table_walk {
public:
    constexpr table_walk(const F& format, Memory& memory, Access how) : format_(format), memory_(memory), how_(how) {}

    /// Looks, and sets A and D where all is allowed; starts over if an entry changed meanwhile.
    constexpr walk_result run(std::uint64_t root, std::uint64_t address, const memory_access& a,
                              const cpu_controls& cpu, update_flags update)
    {
        walk_result r;
        // Cleared apart, place by place, so that compilers drop it where nobody looks at the path.
        static_assert(max_levels == 5);
        r.path[0] = r.path[1] = r.path[2] = r.path[3] = r.path[4] = walk_step{};
        for (;;) {
            look(r, root, address, a, cpu);
            const bool needed = update == update_flags::yes || updates_may_fault();
            if (!r || !needed || set_flags(r, a, update)) return r;
            r = {};
        }
    }

    /// The same for several addresses. First the entries of a group are fetched side by side,
    /// level by level, so that the waits for memory overlap; then each walk finds them near.
    constexpr void run_batch(std::uint64_t root, const std::uint64_t* addresses, std::size_t count,
                             const memory_access& a, const cpu_controls& cpu, update_flags update, walk_result* results)
    {
        constexpr std::size_t group = 32;  // more than the loads that a core keeps under way
        for (std::size_t first = 0; first < count; first += group) {
            const std::size_t n = count - first < group ? count - first : group;
            std::uint64_t at[group];
            for (std::size_t i = 0; i < n; ++i) {
                at[i] = refusal(addresses[first + i]) == fault_kind::none ? root : ended;
            }
            fetch<max_levels>(addresses + first, at, n);
            for (std::size_t i = first; i < first + n; ++i) results[i] = run(root, addresses[i], a, cpu, update);
        }
    }

private:
    /// What is carried from entry to entry.
    struct progress {
        std::uint64_t table = 0;
        std::uint64_t leaf = 0;
        permission_fold rights;
    };

    constexpr void look(walk_result& r, std::uint64_t root, std::uint64_t address, const memory_access& a,
                        const cpu_controls& cpu)
    {
        r.fault = refusal(address);
        if (!r) return;
        progress at;
        at.table = root;
        switch (format_.tables().levels) {
        case 5:
            step<5>(r, at, address);
            break;
        case 4:
            step<4>(r, at, address);
            break;
        case 3:
            step<3>(r, at, address);
            break;
        case 2:
            step<2>(r, at, address);
            break;
        case 1:
            step<1>(r, at, address);
            break;
        default:  // a format that is wrong: nothing is present
            r.fault = fault_kind::not_present;
            break;
        }
        finish(r, at, a, cpu);
    }

    /// Judges the access by all entries read.
    constexpr void finish(walk_result& r, const progress& at, const memory_access& a,
                          const cpu_controls& cpu) const noexcept
    {
        if (r.steps == 0) return;
        r.allowed = at.rights.result(format_);
        if (r) judge(r, at.leaf, a, cpu);
    }

    /// Touches the entries of one level, then of those below it. `at` is the table of each
    /// address, `ended` where there is none.
    template <unsigned Level>
    constexpr void fetch(const std::uint64_t* addresses, std::uint64_t* at, std::size_t n) const
    {
        const shape& t = format_.tables();
        if (Level <= t.levels) {
            const layout& l = format_.layout_at(Level, kind::table);
            for (std::size_t i = 0; i < n; ++i) {
                if (at[i] == ended) continue;
                const std::uint64_t index = addresses[i] >> t.page_shift(Level) & ones(t.index_bits_at(Level) - 1, 0);
                const auto* const slot = slot_in<Word>(memory_, at[i] + index * sizeof(Word));
                const std::uint64_t entry = slot != nullptr ? how_.load(*slot) : 0;
                const bool below = present(entry, format_) && kind_of(entry, Level, format_) == kind::table;
                at[i] = below ? l.address_in(entry) : ended;
            }
        }
        if constexpr (Level > 1) fetch<Level - 1>(addresses, at, n);
    }
    static constexpr std::uint64_t ended = ~std::uint64_t{0};

    /// Why no entry is even looked at.
    [[nodiscard]] constexpr fault_kind refusal(std::uint64_t address) const noexcept
    {
        const shape& t = format_.tables();
        const unsigned bits_used = t.address_bits();
        if (t.canonical) {
            const std::uint64_t shifted = address + (std::uint64_t{1} << (bits_used - 1));
            return shifted >> bits_used != 0 ? fault_kind::not_canonical : fault_kind::none;
        }
        return address >> bits_used != 0 ? fault_kind::address_too_wide : fault_kind::none;
    }

    /// Uses the entry of one level, then those below it.
    template <unsigned Level>
    constexpr void step(walk_result& r, progress& at, std::uint64_t address)
    {
        const shape& t = format_.tables();
        const std::uint64_t index = address >> t.page_shift(Level) & ones(t.index_bits_at(Level) - 1, 0);
        const std::uint64_t slot_address = at.table + index * sizeof(Word);
        r.level = Level;
        const auto* const slot = slot_in<Word>(memory_, slot_address);
        if (slot == nullptr) {
            r.fault = fault_kind::memory_absent;
            return;
        }
        // The place in the path is a constant where the format is one, so that a caller who
        // does not look at the path does not pay for it.
        const std::uint64_t entry = how_.load(*slot);
        r.path[t.levels - Level] = {slot_address, entry};
        r.steps = t.levels - Level + 1;
        r.top_level = t.levels;
        if (kind_of(entry, Level, format_) == kind::leaf) {
            if (!usable<Level, kind::leaf>(r, at, entry)) return;
            const layout& l = format_.layout_at(Level, kind::leaf);
            at.leaf = entry;
            r.page_shift = t.page_shift(Level);
            r.address = l.address_in(entry) | (address & ones(t.page_shift(Level) - 1, 0));
            r.memory_type = entry & l.mask(role::memory_type);
        } else if constexpr (Level > 1) {
            if (!usable<Level, kind::table>(r, at, entry)) return;
            at.table = format_.layout_at(Level, kind::table).address_in(entry);
            step<Level - 1>(r, at, address);
        }
    }

    /// Whether the MMU goes on with an entry; if not, why.
    template <unsigned Level, kind Kind>
    constexpr bool usable(walk_result& r, progress& at, std::uint64_t entry) const noexcept
    {
        at.rights.add(entry, format_.layout_at(Level, Kind));
        if (plain<Level, Kind>(entry)) return true;
        if (!present(entry, format_)) {
            r.fault = fault_kind::not_present;
            return false;
        }
        const finding f = diagnose(entry, Level, format_);
        if (!f) return true;
        r.fault = breach(Level);
        r.broken = f.broken;
        r.bits = f.bits;
        return false;
    }

    /// Whether an entry is surely present and legal, by two tests against constants where the
    /// format is one. What they leave open is looked into.
    template <unsigned Level, kind Kind>
    [[nodiscard]] static constexpr bool plain(std::uint64_t entry) noexcept
    {
        if constexpr (static_masks<F>) {
            constexpr std::uint64_t good = plain_low_bits(Level, Kind);
            return (entry & F::layout_at(Level, Kind).mask(role::reserved)) == 0 && (good >> (entry & 63) & 1) != 0;
        } else {
            return false;
        }
    }

    /// Bit n: an entry whose six low bits are n is present and breaks no combination, whatever
    /// its other bits.
    [[nodiscard]] static constexpr std::uint64_t plain_low_bits(unsigned level, kind k) noexcept
    {
        std::uint64_t good = 0;
        for (std::uint64_t low = 0; low < 64; ++low) {
            bool is_good = (low & F::present_mask()) != 0;
            for (const combination& c : F::combinations()) {
                if (c.in.contains(level, k) && (low & c.mask) == (c.value & 63)) is_good = false;
            }
            good |= std::uint64_t{is_good} << low;
        }
        return good;
    }

    /// Judges the access by what all entries allow, and by the leaf's protection key.
    constexpr void judge(walk_result& r, std::uint64_t leaf, const memory_access& a,
                         const cpu_controls& cpu) const noexcept
    {
        if constexpr (requires { format_.fields().protection_key; }) {
            const field key = format_.fields().protection_key;
            if (key.exists()) r.key_denies = key_denies(static_cast<unsigned>(key.get(leaf)), r.allowed, a, cpu);
        }
        if (r.key_denies || !allows(r.allowed, a, cpu, format_.walked_as())) r.fault = fault_kind::protection;
    }

    /// Sets A in the entries of the path, D in the leaf of a write, or only finds out whether
    /// they could be set. Returns false where an entry is no longer the one that was judged.
    constexpr bool set_flags(walk_result& r, const memory_access& a, update_flags update)
    {
        for (unsigned i = 0; i < r.steps; ++i) {
            const walk_step& used = r.path[i];
            const bool last = i + 1 == r.steps;
            const layout& l = format_.layout_at(r.level_of(i), last ? kind::leaf : kind::table);
            std::uint64_t flags = format_.hardware_accessed() ? l.mask(role::accessed) : 0;
            if (last && a.writes()) flags |= l.mask(role::dirty);
            if ((used.entry & flags) == flags) continue;
            auto* const slot = slot_for_update(used.slot_address);
            if (slot == nullptr) {
                r.fault = fault_kind::memory_absent;
                return true;
            }
            if (update == update_flags::no) continue;
            using slot_type = std::remove_cvref_t<decltype(*slot)>;
            auto expected = static_cast<slot_type>(used.entry);
            if (!how_.compare_exchange(*slot, expected, static_cast<slot_type>(used.entry | flags))) return false;
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

    const F& format_;
    Memory& memory_;
    Access how_;
};

/// Calls a function with the slot type of a format's entries. Precondition: memory has such slots.
template <walkable_format F, class Memory, class Function>
constexpr auto with_slots_of(const F& format, Memory&, Function call)
{
    constexpr bool wide = has_slots<Memory, std::uint64_t>;
    constexpr bool narrow = has_slots<Memory, std::uint32_t>;
    static_assert(wide || narrow, "ptebits: memory must return a pointer to slots of 8 or 4 bytes");
    if constexpr (wide) {
        if (format.tables().entry_bits == 64) return call(std::type_identity<std::uint64_t>{});
    }
    if constexpr (narrow) {
        if (format.tables().entry_bits == 32) return call(std::type_identity<std::uint32_t>{});
    }
    broken::memory_has_slots_of_another_size();
}

/// Walks the tables below `root` (physical address of the top table, in bytes) as the MMU
/// does for one access to an address: the address reached and what is allowed, or a fault.
/// Sets A and D as hardware does, only after the access is allowed: each by a
/// compare-exchange on the entry that was judged; where that changed meanwhile the walk
/// starts over. Reads at most one slot a level.
/// Intel SDM volume 3, "Paging" and "VMX Support for Address Translation"; AMD APM volume 2,
/// "Page Translation and Protection" and "Nested Paging".
template <walkable_format F, class Memory, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr walk_result walk(const F& format, std::uint64_t root, std::uint64_t address,
                                         const memory_access& a, const cpu_controls& cpu, Memory&& memory,
                                         update_flags update = update_flags::yes, Access how = {})
{
    return with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
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
