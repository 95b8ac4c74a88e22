// SPDX-License-Identifier: BSL-1.0
// The kernel's own tables: physical memory as it is. Probes of them: faults, and what the TLB keeps.
#pragma once

#include <cstdint>

#include <ptebits/map.hpp>
#include <ptebits/visit.hpp>

#include "guest.hpp"

namespace machine {
/// What a probe of an address met.
struct probed {
    bool faulted = false;
    std::uint64_t code = 0;  ///< of the fault, and its address
    std::uint64_t address = 0;
};
[[nodiscard]] probed probe_at(std::uint64_t address, use how);
/// The CPU forgets the translations of an item.
void forget(const ptebits::flush_item& item);
}  // namespace machine

struct own_table_pool {
    static constexpr unsigned tables = 8;
    alignas(page_bytes) static inline std::uint64_t slots[tables][page_bytes / 8];
    static inline unsigned count = 0;

    std::uint64_t* operator()(std::uint64_t physical) const noexcept { return word_at(physical); }
    static ptebits::optional_address allocate(unsigned /*level*/) noexcept
    {
        if (count == tables) return {};
        return address_of_symbol(slots[count++]);
    }
    static void release(std::uint64_t /*table*/, unsigned /*level*/) noexcept {}
};
inline ptebits::tree own_tree{own_tables, 0, own_table_pool{}, own_table_pool{}};

inline void map_as_it_is(std::uint64_t begin, std::uint64_t end, ptebits::permissions grant,
                         ptebits::page_attributes with = {})
{
    grant.user = false;
    with.used = true;               // nobody asks for A and D here
    ptebits::flush_list_of<> list;  // nothing to flush: these tables are not in use yet
    check(static_cast<bool>(map(own_tree, {begin, end - 1}, begin, grant, list, {.attributes = with})),
          "the host's tables");
}
/// Makes the root, and maps the kernel by its rights, and the guest's memory. Nothing is writable and executable.
inline void map_kernel(std::uint64_t begin)
{
    own_tree.root = *own_table_pool::allocate(own_tables->shape().levels);
    check(clear_root(own_tree) == ptebits::tree_end::done, "the root");
    const std::uint64_t rodata = address_of_symbol(text_end), data = address_of_symbol(rodata_end);
    map_as_it_is(begin, rodata, {.write = false});
    map_as_it_is(rodata, data, {.write = false, .execute = false});
    map_as_it_is(data, address_of_symbol(bss_end), {.execute = false});
    map_as_it_is(guest_at, memory_end, {.execute = false});
}
inline void print_own_mappings()
{
    print("~ host: ");
    for_each_mapping(own_tables, own_tree.root, {}, own_table_pool{}, [](const ptebits::mapping& m) {
        print(hex{m.address}, "+", m.bytes >> 10, "K", m.allowed.write ? "w" : "", m.allowed.execute ? "x" : "", " ");
    });
    print("\n");
}

/// Faults: the CPU's code is the one that a walk tells.
inline void examine_faults()
{
    using namespace ptebits;
    using enum ::use;
    const std::uint64_t text = address_of_symbol(text_begin), rodata = address_of_symbol(text_end);
    const std::uint64_t data = address_of_symbol(rodata_end);
    const struct {
        std::uint64_t address;
        ::use how;
    } probes[] = {{text, read},        {text, write},     {rodata, write},  {rodata, fetch},
                  {data, write},       {data, fetch},     {0x5000, read},   {0x5000, write},
                  {memory_end, fetch}, {guest_at, fetch}, {guest_at, read}, {memory_end, read}};
    unsigned right = 0;
    for (const auto& p : probes) {
        const auto a = machine::access_of(p.how);
        const walk_result r = walk(own_tables, own_tree.root, p.address, a, {}, own_table_pool{}, update_flags::no);
        machine::probed found;
        if (p.how != fetch || !r) found = machine::probe_at(p.address, p.how);
        const bool same =
            r ? !found.faulted
              : found.faulted && found.code == fault_code(r, a, {}, own_tables).value && found.address == p.address;
        right += check(same, "a fault of the host's");
    }
    unsigned illegal = 0;
    visit(own_tables, own_tree.root, {}, own_table_pool{}, [&](const auto& e) {
        illegal += !legal(e.entry, e.level, own_tables);
        return visit_next::into;
    });
    check(illegal == 0, "an entry of the host's");
    print("host: ", right, " of ", sizeof probes / sizeof probes[0], " page faults as predicted\n");
}

/// What a TLB keeps: a page that was aged and harvested is used and written again. Without a flush its entry may not
/// tell; with the flush that the library asks for it does.
inline void examine_tlb()
{
    using namespace ptebits;
    std::uint64_t& slot = *find_slot(own_tree, spare_at, 2).slot;
    auto* const word = reinterpret_cast<volatile std::uint64_t*>(spare_at);
    const flush_item item{spare_at, spare_at, small_shift};
    const auto use_again = [&](bool flush) {
        machine::forget(item);
        *word = 1;  // the TLB has it, for writes
        age(slot, own_tables);
        check(harvest_dirty(slot, own_tables), "D after a write");
        if (flush) machine::forget(item);
        *word = 2;
        return load(slot);
    };
    const std::uint64_t without = use_again(false);
    const std::uint64_t with = use_again(true);
    print("host: written again after age and harvest: without a flush A=", unsigned{young(without, own_tables)},
          " D=", unsigned{dirty(without, own_tables)}, ", with one A=", unsigned{young(with, own_tables)},
          " D=", unsigned{dirty(with, own_tables)}, "\n");
    check(young(with, own_tables) && dirty(with, own_tables), "A and D after a flush");
}
