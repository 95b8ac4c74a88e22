// SPDX-License-Identifier: BSL-1.0
// What a simulated CPU keeps of nested walks, so that the next ones read less: the guest's entries that refer to
// tables, as a paging-structure cache has them, and the host's translations of guest-physical pages.
//
// The guest's leaf is read at each walk, so that rights, controls, keys, G, A and D of its pages are as without the
// cache. Whatever does not succeed with what is kept is walked once more without it, and that walk tells the fault.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/nested_walk.hpp>
#include <ptebits/x86.hpp>
#include <ptebits/x86_flush.hpp>

namespace simulated {

using namespace ptebits;

/// How often what was kept did not suffice.
struct cache_counts {
    std::uint64_t walks = 0;        ///< all of them
    std::uint64_t guest_walks = 0;  ///< from the guest's root, for want of an entry
    std::uint64_t host_walks = 0;   ///< of the host's tables, for want of a translation
    std::uint64_t full_walks = 0;   ///< nested walks that used nothing kept: those that fault
};

/// Of one virtual CPU, one pair of formats and one root of the host. What is kept has the one place that its address
/// gives. Not for several threads at once.
template <std::size_t Tables = 64, std::size_t Pages = 256>
class translation_cache {
public:
    /// nested_walk() that sets A and D. The result is the same but for the guest's path, which may begin with a kept
    /// entry: one that stands for all above the leaf. `context`: the PCID, or whatever tells the guest's address
    /// spaces apart; it may have another root only after a flush.
    template <class Guest, walk_root Root, walkable_format Host, class Memory, slot_access Access = atomic_access<>>
    [[nodiscard]] nested_result<memory_access> walk(const Guest& guest, const Root& guest_root, const Host& host,
                                                    std::uint64_t host_root, std::uint64_t address,
                                                    const memory_access& a, const nested_controls<Guest, Host>& cpu,
                                                    Memory& memory, std::uint64_t context = 0, Access how = {})
    {
        ++counts_.walks;
        host_tables<Host, Memory, Access> tables{*this, host, host_root, cpu.host, memory, how};
        nested_result<memory_access> result;
        if constexpr (std::is_same_v<Guest, unpaged>) {
            result.guest = {};  // its path, too
            if (tables.finish(result, address, a, {})) return result;
        } else {
            std::uint64_t linear = address;
            static_cast<void>(regime_of<Guest>::admit(linear, a, cpu.guest, guest));  // if it refuses so does the walk
            const std::uint64_t block = linear >> guest->shape().page_shift(2);
            table& known = tables_[(block + context) % Tables];
            const bool kept = known.above.level != 0 && known.block == block && known.context == context;
            if (kept) {
                tables.first = 1;
                tables.paging_writable = known.paging_writable;
                result.guest = ptebits::walk(guest, known.above, address, a, cpu.guest, tables, update_flags::yes, how);
            } else {
                ++counts_.guest_walks;
                tables.first = std::is_convertible_v<Root, std::uint64_t> ? 0 : 1;
                result.guest = ptebits::walk(guest, guest_root, address, a, cpu.guest, tables, update_flags::yes, how);
                known = {block, context, entry_above_leaf(result.guest, guest), tables.paging_writable};
            }
            if (result.guest && tables.finish(result, result.guest.address, a, result.guest.allowed)) return result;
            known.above.level = 0;
        }
        ++counts_.full_walks;
        return nested_walk(guest, guest_root, host, host_root, address, a, cpu, memory, update_flags::yes, how);
    }

    /// After an invalidation by linear addresses, as INVLPG, INVPCID, INVVPID and a MOV to CR3. `everything`: of all
    /// contexts, as CR0.PG, CR4.PCIDE and the like ask for. `addresses` are taken for the whole context, since INVLPG
    /// takes all entries of the paging-structure caches of the PCID.
    void flush_guest(flush_scope scope, std::uint64_t context = 0) noexcept
    {
        if (scope == flush_scope::nothing) return;
        for (table& t : tables_) {
            if (scope == flush_scope::everything || t.context == context) t.above.level = 0;
        }
    }

    /// After an invalidation by guest-physical addresses, as INVEPT and TLB_CONTROL: forgets everything, since what is
    /// kept of the guest's tables was read through the host's.
    void flush_host() noexcept
    {
        tables_ = {};
        pages_ = {};
    }

    [[nodiscard]] const cache_counts& counts() const noexcept { return counts_; }

private:
    /// What stands above the leaves of a block of linear addresses; level 0: nothing is kept.
    struct table {
        std::uint64_t block = 0;
        std::uint64_t context = 0;
        held_entry above;
        bool paging_writable = true;  ///< EPT: all leaves that mapped the guest's tables have PW
    };

    /// A walk of the host's tables to a guest-physical page.
    struct page {
        std::uint64_t number = ~std::uint64_t{0};
        bool written = false;  ///< a write has nothing left to set
        walk_result reached;
    };

    /// The guest's memory as its page walk reaches it.
    template <class Host, class Memory, class Access>
    struct host_tables {
        translation_cache& cache;
        const Host& host;
        std::uint64_t root;
        const cpu_controls& cpu;
        Memory& memory;
        Access how;
        bool paging_writable = true;
        unsigned first = 0;  ///< entries of the guest's path that are not read
        unsigned count = 0;  ///< and those that are, at:
        std::array<std::uint64_t, max_levels> slots = {};

        template <slot_word Word>
            requires has_slots<Memory, Word>
        [[nodiscard]] bool load(std::uint64_t address, Word& entry)
        {
            const page* const at = reach(address, regime_of<Host>::table_access(host, false));
            if (at == nullptr) return false;
            if (count < max_levels) slots[count++] = address;
            if constexpr (std::is_same_v<regime_of<Host>, extended_paging>) {
                paging_writable = paging_writable && host->paging_write.get(at->reached.last_entry()) != 0;
            }
            const Word* const slot = slot_in<Word>(memory, address);
            if (slot == nullptr) return false;
            entry = how.load(*slot);
            return true;
        }
        template <slot_word Word>
            requires has_slots<Memory, Word>
        [[nodiscard]] slot_change replace(std::uint64_t address, Word expected, Word desired)
        {
            if (reach(address, regime_of<Host>::table_access(host, true)) == nullptr) return slot_change::no_slot;
            Word* const slot = slot_in<Word>(memory, address);
            if (slot == nullptr) return slot_change::no_slot;
            if (how.compare_exchange(*slot, expected, desired)) return slot_change::done;
            count = 0;  // the guest's walk starts over
            return slot_change::changed;
        }

        /// Translates the address that the guest's tables lead to. Returns whether the host allows the access.
        [[nodiscard]] bool finish(nested_result<memory_access>& result, std::uint64_t address, const memory_access& a,
                                  const permissions& in_guest)
        {
            for (unsigned i = 0; i < count; ++i) result.guest_slots[first + i] = slots[i];
            result.guest_physical = address;
            result.host_access = a;
            if constexpr (std::is_same_v<regime_of<Host>, extended_paging>) {
                result.host_access = extended_paging::final_access(a, in_guest, paging_writable);
            }
            const page* const at = reach(address, result.host_access);
            if (at == nullptr) return false;
            result.host = at->reached;
            result.host.address = address;
            return true;
        }

        /// The host's walk to the page of a guest-physical address, which becomes physical; null where it faults.
        [[nodiscard]] const page* reach(std::uint64_t& address, const memory_access& a)
        {
            const std::uint64_t in_page = ones(host->shape().granule - 1, 0);
            const std::uint64_t number = address >> host->shape().granule;
            page& p = cache.pages_[number % Pages];
            const bool allows =
                p.number == number && regime_of<Host>::allows(p.reached, p.reached.last_entry(), a, cpu, host);
            if (!allows || (a.writes() && !p.written)) {
                ++cache.counts_.host_walks;
                p.reached = ptebits::walk(host, root, address, a, cpu, memory, update_flags::yes, how);
                p.number = p.reached ? number : page{}.number;
                p.written = a.writes() || !host->dirty.exists() || host->dirty.get(p.reached.last_entry()) != 0;
                if (!p.reached) return nullptr;
            }
            address = (p.reached.address & ~in_page) | (address & in_page);
            return &p;
        }
    };

    /// The entry that refers to the leaf's table, with the permissions of all entries above the leaf; of level 0 where
    /// there is no such entry.
    template <walkable_format Guest>
    [[nodiscard]] static held_entry entry_above_leaf(const walk_result& r, const Guest& guest)
    {
        if (!r || r.steps < 2) return {};
        permissions all;
        for (unsigned i = 0; i + 1 < r.steps; ++i) {
            all = all & permissions_of(r.path[i].entry, r.level_of(i), guest);
        }
        const unsigned level = r.level + 1U;
        const encoded above =
            encode(kind::table, level, address_of(r.path[r.steps - 2].entry, level, guest), all, guest);
        return above ? held_entry{level, above.entry} : held_entry{};
    }

    std::array<table, Tables> tables_;
    std::array<page, Pages> pages_;
    cache_counts counts_;
};

}  // namespace simulated
