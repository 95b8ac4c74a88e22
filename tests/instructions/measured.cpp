// What check.cmake counts: one function is called, by name. Each result is kept whole, as a
// hypervisor or simulator that looks at all of it would.
#include "operations.hpp"

#include <array>
#include <cstddef>
#include <cstring>

#include <ptebits/ptebits.hpp>

#include "at_run_time.hpp"

using namespace ptebits;

namespace {

constexpr auto x86 = shadow<shadow_features{.physical_bits = 46}>;
constexpr auto extended = ept<ept_features{.physical_bits = 46}>;

/// Five tables, the top one first; the last holds one page, its table entry 1 is absent. Behind them four of a host's.
alignas(4096) std::uint64_t tables_of_test[9 * 512];

struct whole_memory {
    std::uint64_t* operator()(std::uint64_t physical) const { return tables_of_test + physical / 8; }
};

void fill(std::uint64_t table_bits, std::uint64_t leaf_bits)
{
    for (std::size_t n = 0; n < 3; ++n) tables_of_test[n * 512] = (n + 1) * 0x1000 | table_bits;
    tables_of_test[std::size_t{3} * 512] = 0x5000 | leaf_bits;
}

constexpr auto nested = npt<npt_features{.physical_bits = 46}>;

/// The host's tables at 0x5000, which map the lowest 16 pages to themselves.
void fill_host(std::uint64_t table_bits, std::uint64_t leaf_bits)
{
    for (std::size_t n = 5; n < 8; ++n) tables_of_test[n * 512] = (n + 1) * 0x1000 | table_bits;
    for (std::size_t page = 0; page < 16; ++page)
        tables_of_test[std::size_t{8} * 512 + page] = page * 0x1000 | leaf_bits;
}

walk_result reached;
nested_result<ptebits::memory_access> reached_nested;
encoded made;
slot_bitmap<512> found;
runtime_format<ept_description> at_run_time;
bool was_young;

/// The tables of a tree: those of the test, the first of which is the top one.
struct table_allocator {
    unsigned* used;

    [[nodiscard]] optional_address allocate(unsigned /*level*/) const
    {
        if (*used == 5) return {};
        return std::uint64_t{(*used)++} * 0x1000;
    }
    void release(std::uint64_t /*address*/, unsigned /*level*/) const { --*used; }
};
unsigned tables_used = 1;
tree alone{extended, 0, whole_memory{}, table_allocator{&tables_used}};
tree together{extended, 0, whole_memory{}, table_allocator{&tables_used},
              shared{frozen_marker<std::uint64_t{1} << 60>(extended)}};
flush_list_of<> due;
tree_result changed;
found_slot<std::uint64_t> slot_found;

/// A table of old pages.
alignas(4096) std::array<std::uint64_t, 512> old_table;

}  // namespace

extern "C" {

[[gnu::noinline]] void count_walk_x86(std::uint64_t address)
{
    reached = walk(x86, 0, address, {.what = operation::write, .user = true}, {}, whole_memory{});
}
[[gnu::noinline]] void count_walk_ept(std::uint64_t address)
{
    reached = walk(extended, 0, address, {.what = operation::write}, {}, whole_memory{});
}
[[gnu::noinline]] void count_nested_ept(std::uint64_t address)
{
    reached_nested = nested_walk(x86, 0, extended, 0x5000, address, {.user = true}, {}, whole_memory{});
}
[[gnu::noinline]] void count_nested_npt(std::uint64_t address)
{
    reached_nested = nested_walk(x86, 0, nested, 0x5000, address, {.user = true}, {}, whole_memory{});
}
// Of which only the address is looked at.
[[gnu::noinline]] std::uint64_t count_address_ept(std::uint64_t address)
{
    return nested_walk(x86, 0, extended, 0x5000, address, {.user = true}, {}, whole_memory{}).address();
}
[[gnu::noinline]] std::uint64_t count_address_npt(std::uint64_t address)
{
    return nested_walk(x86, 0, nested, 0x5000, address, {.user = true}, {}, whole_memory{}).address();
}
[[gnu::noinline]] void count_encode_x86_leaf(std::uint64_t physical, const permissions& grant)
{
    made = encode(kind::leaf, 2, physical, grant, x86);
}
[[gnu::noinline]] void count_encode_x86_table(std::uint64_t physical, const permissions& grant)
{
    made = encode(kind::table, 3, physical, grant, x86);
}
[[gnu::noinline]] void count_encode_ept_leaf(std::uint64_t physical, const permissions& grant)
{
    made = encode(kind::leaf, 1, physical, grant, extended);
}
[[gnu::noinline]] void count_encode_ept_table(std::uint64_t physical, const permissions& grant)
{
    made = encode(kind::table, 4, physical, grant, extended);
}
[[gnu::noinline]] void count_age_x86(std::uint64_t& slot) { was_young = age(slot, x86); }
[[gnu::noinline]] void count_age_ept(std::uint64_t& slot) { was_young = age(slot, extended); }
[[gnu::noinline]] void count_age_at_run_time(std::uint64_t& slot) { was_young = age(slot, at_run_time); }
[[gnu::noinline]] void count_age_old_table() { found = age_table(old_table, extended); }
[[gnu::noinline]] void count_young_in_old_table() { found = young_in(old_table, extended); }
[[gnu::noinline]] void count_path(std::uint64_t address) { slot_found = make_slot(alone, address, 1, due); }
[[gnu::noinline]] void count_map(inclusive_range range) { changed = map(alone, range, 0x40'0000, {}, due); }
[[gnu::noinline]] void count_unmap(inclusive_range range) { changed = unmap(alone, range, due); }
[[gnu::noinline]] void count_map_shared(inclusive_range range) { changed = map(together, range, 0x40'1000, {}, due); }
[[gnu::noinline]] void count_unmap_shared(inclusive_range range) { changed = unmap(together, range, due); }
[[gnu::noinline]] void count_make_format(const ept_features& features) { at_run_time = format_for(features); }
}

/// measured [FUNCTION [ADDRESS]]
int main(int count, char** arguments)
{
    if (count < 2) return run_operations();
    const auto is = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
    // Where the walk ends, by the level of its last entry: 0 is the page.
    const unsigned level = count > 2 ? static_cast<unsigned>(arguments[2][0] - '0') : 0;
    const std::uint64_t address = level == 0 ? 0 : std::uint64_t{1} << (12 + 9 * (level - 1));
    if (std::strstr(arguments[1], "_at_boot") != nullptr || is("count_walk_x86_at_run_time") ||
        is("count_walk_ept_at_run_time")) {
        return measure_at_run_time(arguments[1], level, address);
    }
    if (is("count_walk_x86")) {
        fill(0x27, 0x67);
        count_walk_x86(address);
        return reached.fault == (level == 0 ? fault_kind::none : fault_kind::not_present) ? 0 : 3;
    }
    if (is("count_walk_ept")) {
        fill(0x107, 0x337);
        count_walk_ept(address);
        return reached.fault == (level == 0 ? fault_kind::none : fault_kind::not_present) ? 0 : 3;
    }
    if (is("count_nested_ept") || is("count_nested_npt") || is("count_address_ept") || is("count_address_npt")) {
        fill(0x27, 0x67);
        if (is("count_nested_ept") || is("count_address_ept")) fill_host(0x107, 0x337);
        if (is("count_nested_npt") || is("count_address_npt")) fill_host(0x27, 0x67);
        if (is("count_address_ept")) return count_address_ept(address) == 0x5000 ? 0 : 3;
        if (is("count_address_npt")) return count_address_npt(address) == 0x5000 ? 0 : 3;
        if (is("count_nested_ept")) count_nested_ept(address);
        if (is("count_nested_npt")) count_nested_npt(address);
        return (level == 0) == static_cast<bool>(reached_nested) ? 0 : 3;
    }
    if (is("count_age_x86")) {
        std::uint64_t slot = 0x5067;
        count_age_x86(slot);
        return was_young && slot == 0x5047 ? 0 : 3;
    }
    if (is("count_age_ept") || is("count_age_at_run_time")) {
        std::uint64_t slot = 0x5337;
        at_run_time = format_for(ept_features{.physical_bits = 46});
        if (is("count_age_ept")) count_age_ept(slot);
        if (is("count_age_at_run_time")) count_age_at_run_time(slot);
        return was_young && slot == 0x5237 ? 0 : 3;
    }
    if (is("count_age_old_table") || is("count_young_in_old_table")) {
        old_table.fill(0x5237);
        found = slot_bitmap<512>::all();
        if (is("count_age_old_table")) count_age_old_table();
        if (is("count_young_in_old_table")) count_young_in_old_table();
        return found.any() ? 3 : 0;
    }
    if (is("count_path") || is("count_map") || is("count_unmap") || is("count_map_shared") ||
        is("count_unmap_shared")) {
        // One page, or all of a table but the last; a page is there already, so that the table is.
        const inclusive_range range{0, level == 0 ? 0xfffU : 0x1f'dfffU};
        if (!map(alone, {0x1f'f000, 0x1f'ffff}, 0x1000, {}, due)) return 3;
        if (is("count_path")) {
            count_path(0x5000);
            return slot_found && slot_found.level == 1 ? 0 : 3;
        }
        if (is("count_map")) count_map(range);
        if (is("count_map_shared")) count_map_shared(range);
        if (is("count_unmap") || is("count_unmap_shared")) {
            if (!map(alone, range, 0x40'0000, {}, due)) return 3;
            if (is("count_unmap")) count_unmap(range);
            if (is("count_unmap_shared")) count_unmap_shared(range);
        }
        return changed && changed.pages == (level == 0 ? 1 : 510) ? 0 : 3;
    }
    if (is("count_make_format")) {
        count_make_format({.physical_bits = 46});
        return at_run_time.wrong().what == defect::none ? 0 : 3;
    }
    if (is("count_encode_x86_leaf")) count_encode_x86_leaf(0x20'0000, {.write = false});
    if (is("count_encode_x86_table")) count_encode_x86_table(0x1000, {});
    if (is("count_encode_ept_leaf")) count_encode_ept_leaf(0x1000, {.write = false});
    if (is("count_encode_ept_table")) count_encode_ept_table(0x1000, {});
    return made.error == encode_error::none && made.entry != 0 ? 0 : 3;
}
