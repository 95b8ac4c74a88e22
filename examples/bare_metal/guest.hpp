// SPDX-License-Identifier: BSL-1.0
// A guest: its memory, its own page tables, what it does, and what an MMU must make of that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

#include <ptebits/map.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/range.hpp>
#include <ptebits/tree.hpp>

#include "../hypervisor_mmu.hpp"
#include "output.hpp"

// ---- memory. The kernel maps physical memory as it is: an address is a pointer.

[[nodiscard]] inline std::uint64_t* word_at(std::uint64_t physical) noexcept
{
    return reinterpret_cast<std::uint64_t*>(physical);
}
[[nodiscard]] inline std::uint64_t address_of_symbol(const void* p) noexcept
{
    return reinterpret_cast<std::uint64_t>(p);
}

inline constexpr unsigned small_shift = 12;
inline constexpr std::uint64_t page_bytes = std::uint64_t{1} << small_shift;

// Host-physical, in bytes: the guest's memory, and pages of the host's own.
inline constexpr std::uint64_t guest_at = machine::memory_at + (16 << 20);
inline constexpr std::uint64_t guest_bytes = 8 << 20;
inline constexpr std::uint64_t spare_at = guest_at + guest_bytes;
inline constexpr std::uint64_t memory_end = machine::memory_at + (32 << 20);

// Guest-physical, in pages.
inline constexpr unsigned guest_pages = guest_bytes >> small_shift;
inline constexpr unsigned first_table = 1, last_table = 7;
inline constexpr unsigned code_page = 8, script_page = 9, first_data_page = 16;
inline constexpr unsigned small_pages = 512;  ///< the first are mapped by small pages
inline constexpr unsigned large_page = 512;   ///< the next by large ones

/// The guest's linear addresses: guest-physical + this.
inline constexpr std::uint64_t guest_linear = 0x4000'0000;
[[nodiscard]] constexpr std::uint64_t linear(std::uint64_t page) noexcept { return guest_linear + page * page_bytes; }

/// A page of the guest as the host reaches it: words 0 to 3 are a jump back, a count, a scratch word, its own address.
[[nodiscard]] inline std::uint64_t& guest_word(std::uint64_t page, unsigned word) noexcept
{
    return word_at(guest_at + page * page_bytes)[word];
}
inline constexpr unsigned word_of_count = 1, word_of_address = 3;

using page_set = hypervisor::page_bitmap<guest_pages>;

[[nodiscard]] inline unsigned count(const page_set& s) noexcept
{
    unsigned n = 0;
    for (std::uint64_t word : s.words) {
        for (; word != 0; word &= word - 1) ++n;  // a kernel has no library that counts
    }
    return n;
}

// ---- what the guest does

/// A program of guest.S that works through a script, and where it makes which access.
struct script_program {
    const char* begin;
    const char* end;
    const char* at_script;
    const char* at_read;
    const char* at_write;
    const char* at_modify;
    unsigned word_bytes;

    [[nodiscard]] std::uint64_t linear_of(const char* label) const noexcept
    {
        return linear(code_page) + static_cast<std::uint64_t>(label - begin);
    }
};

inline void copy_program(const char* begin, const char* end) noexcept
{
    auto* to = reinterpret_cast<char*>(&guest_word(code_page, 0));
    for (const char* from = begin; from != end; ++from) *to++ = *from;
}

/// Fills the guest's memory.
inline void fill_guest_memory() noexcept
{
    for (std::uint64_t page = 0; page < guest_pages; ++page) {
        for (unsigned i = 0; i < page_bytes / 8; ++i) guest_word(page, i) = 0;
        guest_word(page, 0) = machine::jump_to_d;
        guest_word(page, word_of_address) = linear(page);
    }
}

/// Numbers that are the same in each run.
class random_numbers {
public:
    unsigned below(std::uint64_t n) noexcept
    {
        state_ = state_ * 6364136223846793005 + 1442695040888963407;
        return static_cast<unsigned>((state_ >> 33) % n);
    }

private:
    std::uint64_t state_ = 1;
};

// ---- the guest's own page tables

/// Where the guest's tables are: in its memory.
struct guest_table_pool {
    std::uint64_t next = first_table;

    std::uint64_t* operator()(std::uint64_t guest_physical) const noexcept
    {
        return guest_physical < guest_bytes ? word_at(guest_at + guest_physical) : nullptr;
    }
    ptebits::optional_address allocate(unsigned /*level*/) noexcept
    {
        if (next > last_table) return {};
        return next++ * page_bytes;
    }
    void release(std::uint64_t /*table*/, unsigned /*level*/) noexcept {}
};

/// A guest's own format, for a scenario that does not depend on it.
struct guest_tables {
    const char* name;
    unsigned levels;
    const script_program* program;
    /// Makes the tables. Returns the root, in bytes; 0 if something went wrong.
    std::uint64_t (*build)();
    /// The pages that the guest's entries say were used, and written; the bits are cleared.
    void (*harvest)(std::uint64_t root, page_set& used, page_set& written);
    /// Takes A from top entries that have none, where an emulator set it. Returns from how many.
    unsigned (*mend)(std::uint64_t root);
};

/// guest_tables of a format.
template <auto Guest>
struct guest_of {
    static std::uint64_t build()
    {
        guest_table_pool pool;
        const auto root = pool.allocate(Guest->shape().levels);
        ptebits::tree tables{Guest, *root, pool, guest_table_pool{*root / page_bytes + 1}};
        if (clear_root(tables) != ptebits::tree_end::done) return 0;
        ptebits::flush_list_of<> list;  // nothing to flush: paging is off
        // Its first pages small, the others large.
        const std::uint64_t small = small_pages * page_bytes;
        const bool mapped =
            map(tables, {guest_linear, guest_linear + small - 1}, 0, {.user = false}, list,
                {.page_sizes = page_bytes}) &&
            map(tables, {guest_linear + small, guest_linear + guest_bytes - 1}, small, {.user = false}, list);
        return mapped ? *root : 0;
    }
    static void harvest(std::uint64_t root, page_set& used, page_set& written)
    {
        const auto report_to = [](page_set& s) {
            return [&s](std::uint64_t address, std::uint64_t bytes) {
                s.add((address - guest_linear) >> small_shift, bytes >> small_shift);
            };
        };
        age_range(Guest, root, {}, guest_table_pool{}, report_to(used));
        harvest_range(Guest, root, {}, guest_table_pool{}, report_to(written));
    }
    static unsigned mend(std::uint64_t root)
    {
        const unsigned top = Guest->shape().levels;
        const std::uint64_t a = Guest->accessed.mask();
        unsigned mended = 0;
        for (std::uint64_t i = 0; i < std::uint64_t{1} << Guest->shape().index_bits_at(top); ++i) {
            std::uint64_t& slot = *guest_table_pool{}(root + 8 * i);
            if ((slot & a) == 0 || legal(slot, top, Guest) || !legal(slot & ~a, top, Guest)) continue;
            ptebits::clear(slot, a);
            ++mended;
        }
        return mended;
    }
    static constexpr guest_tables tables(const char* name, const script_program& program)
    {
        return {name, Guest->shape().levels, &program, build, harvest, mend};
    }
};

/// What an access comes to, and what the CPU must tell of it.
template <class HostFormat>
struct prediction {
    ptebits::nested_result<ptebits::access_of<HostFormat>> walk;
    machine::fault_code code;
};

/// A guest over a format of the second stage.
template <class HostFormat>
struct guest_paging {
    guest_tables tables;
    bool register_holds_top;  ///< the top table is read with the root's register, not by walks
    /// What an access comes to, as tables are now.
    prediction<HostFormat> (*look)(std::uint64_t guest_root, std::uint64_t host_root, std::uint64_t address,
                                   const machine::access& a);
    /// What a handler of the guest's does where it is its to set A and D. Returns whether the access is allowed then.
    bool (*repair)(std::uint64_t guest_root, std::uint64_t host_root, std::uint64_t address, const machine::access& a);
};
/// The root as walks take it.
[[nodiscard]] inline std::uint64_t root_as_it_is(std::uint64_t root) noexcept { return root; }

template <auto Guest, auto Host, auto RootOf = root_as_it_is>
struct guest_over {
    using host_format = std::remove_const_t<decltype(Host)>;

    static prediction<host_format> look(std::uint64_t guest_root, std::uint64_t host_root, std::uint64_t address,
                                        const machine::access& a)
    {
        const auto r = walk_as_it_is(guest_root, host_root, address, a);
        return {r, machine::code_of(r, address, a, Guest, Host)};
    }
    static bool repair(std::uint64_t guest_root, std::uint64_t host_root, std::uint64_t address,
                       const machine::access& a)
    {
        if constexpr (Guest->accessed_by() == ptebits::accessed_setter::fault) {
            const auto r = walk_as_it_is(guest_root, host_root, address, a);
            const auto what = repair_of(r.guest, a, {}, Guest);
            if (what.set != 0) ptebits::set(*word_at(r.guest_slots[r.guest.steps - 1]), what.set);
            return !what.refused;
        } else {
            return false;
        }
    }
    static constexpr guest_paging<host_format> over(const guest_tables& tables)
    {
        return {tables, !std::is_same_v<decltype(RootOf(0)), std::uint64_t>, look, repair};
    }

private:
    static ptebits::nested_result<machine::access> walk_as_it_is(std::uint64_t guest_root, std::uint64_t host_root,
                                                                 std::uint64_t address, const machine::access& a)
    {
        return nested_walk(Guest, RootOf(guest_root), Host, host_root, address, a, {}, word_at,
                           ptebits::update_flags::no);
    }
};

// ---- the hypervisor's half

inline constexpr hypervisor::mmu_limits limits{
    .memory_slots = 2, .slot_pages = guest_pages, .host_pages = guest_pages, .mappings = 1, .tables = 16};

/// A hypervisor's MMU, in memory that one after the other uses.
template <auto Format>
auto& new_mmu()
{
    using mmu = hypervisor::mmu<Format, limits, machine::software_bits>;
    constexpr std::uint64_t table_bytes = mmu::pool::table_bytes;
    alignas(table_bytes) static std::uint64_t tables[limits.tables][table_bytes / 8];
    alignas(mmu) static unsigned char room[sizeof(mmu)];
    return *new (room)
        mmu({.tables = tables[0], .tables_physical = address_of_symbol(tables), .host_physical = guest_at});
}
