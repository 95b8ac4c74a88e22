// What check.cmake counts in one run: the operations of a table, one after the other, each by a call of
// counted_operation(), whose counts come in the same order as the names that are printed. Entries are those of EPT,
// unless said otherwise.
#include "operations.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

using word = std::uint64_t;
constexpr auto linear = shadow<shadow_features{.physical_bits = 46}>;
constexpr auto host = ept<ept_features{.physical_bits = 46}>;
runtime_format<ept_description> any_ept;
runtime_format<shadow_description> any_linear;

constexpr word leaf_bits = 0x337;  // read, write, execute; write-back; A and D
constexpr word accessed = 0x100;
constexpr word dirty_bit = 0x200;
constexpr word writable_bit = 0x2;
constexpr word large_page = 0x4000'0000 | leaf_bits | 0x80;

// ---- what operations are given, and what they give

word slot;
alignas(4096) std::array<word, 512> table;
slot_bitmap<512> found;
bool told;
std::size_t number;
permissions allowed;
finding broken;
resized other_size;
encoded made;
split_error split_end;
tree_result changed;
range_counts counted;
flush_list_of<> list;
char text[2000];

// A tree that maps 8 Mbytes from address 0 on, but for one page: 7 tables.
alignas(4096) std::array<word, std::size_t{7} * 512> tables;
unsigned tables_used;
struct all_memory {
    word* operator()(word physical) const { return &tables[physical / 8]; }
};
struct next_table {
    [[nodiscard]] optional_address allocate(unsigned /*level*/) const { return word{tables_used++} * 4096; }
    void release(word /*address*/, unsigned /*level*/) const { --tables_used; }
};
tree mapped{host, 0, all_memory{}, next_table{}};
tree mapped_linear{linear, 0, all_memory{}, next_table{}};

// What no compiler knows: see run_operations().
volatile word zero = 0;
inclusive_range all_pages{0, 0x7f'ffff};
inclusive_range one_page{0x5000, 0x5fff};
inclusive_range most_of_a_table{0x1000, 0x1f'efff};
word physical = 0x5000;
unsigned width = 46;

std::array<word, 64> addresses;
std::array<walk_result, 64> reached;

template <class Tree>
void make_tree(Tree& t)
{
    tables.fill(0);
    tables_used = 1;
    list.clear();
    told = bool{map(t, all_pages, 0, {}, list, {.page_sizes = 0x1000})} && bool{unmap(t, {0x1000, 0x1fff}, list)};
    list.clear();
    for (std::size_t i = 0; i < addresses.size(); ++i) addresses[i] = ((i * 37 + 2) % 2048) << 12 | (i * 8);
}
constexpr std::size_t none = 1000;  // more than a table has
// Every n-th page of the tree, or of the table, has these bits beside those of a leaf.
void set_in_tree(word bits, std::size_t n)
{
    make_tree(mapped);
    for (std::size_t i = std::size_t{3} * 512; i < std::size_t{7} * 512; i += n) {
        if (tables[i] != 0) tables[i] |= bits;
    }
}
template <word Bits, std::size_t Every>
void fill_table()
{
    for (std::size_t i = 0; i < table.size(); ++i) {
        table[i] = (i << 12) | (leaf_bits & ~Bits) | (i % Every == Every - 1 ? Bits : 0);
    }
}
template <word Entry>
void set_slot()
{
    slot = Entry;
}
template <bool Expected>
bool told_is()
{
    return told == Expected;
}
template <std::size_t Expected>
bool number_is()
{
    return number == Expected;
}
template <std::size_t Expected>
bool found_are()
{
    return found.count() == Expected;
}
template <std::uint64_t Pages>
bool pages_are()
{
    return changed.end == tree_end::done && changed.pages == Pages;
}

struct measured_call {
    const char* what;
    void (*prepare)();  // not counted
    void (*run)();
    bool (*right)();
};
constexpr measured_call calls[] = {
    {"age an old entry", set_slot<0x5237>, [] { told = age(slot, host); }, told_is<false>},
    {"age a young entry", set_slot<0x5337>, [] { told = age(slot, host); }, told_is<true>},
    {"age a young entry, ordinary paging", set_slot<0x5067>, [] { told = age(slot, linear); }, told_is<true>},
    {"age a young entry, features at run time", set_slot<0x5337>, [] { told = age(slot, any_ept); }, told_is<true>},
    {"clear_dirty of a clean entry", set_slot<0x5137>, [] { told = clear_dirty(slot, host); }, told_is<false>},
    {"clear_dirty of a dirty entry", set_slot<0x5337>, [] { told = clear_dirty(slot, host); }, told_is<true>},
    {"write_protect of a read-only entry", set_slot<0x5335>, [] { told = write_protect(slot, host); }, told_is<false>},
    {"write_protect of a writable entry", set_slot<0x5337>, [] { told = write_protect(slot, host); }, told_is<true>},
    {"harvest_dirty of a dirty entry", set_slot<0x5337>, [] { told = harvest_dirty(slot, host); }, told_is<true>},

    {"age_table, none of 512 young", fill_table<accessed, none>, [] { found = age_table(table, host); }, found_are<0>},
    {"age_table, a tenth young", fill_table<accessed, 10>, [] { found = age_table(table, host); }, found_are<51>},
    {"age_table, all young", fill_table<accessed, 1>, [] { found = age_table(table, host); }, found_are<512>},
    {"age_table, all young, features at run time", fill_table<accessed, 1>, [] { found = age_table(table, any_ept); },
     found_are<512>},
    {"harvest_dirty of a table, none of 512 dirty", fill_table<dirty_bit, none>,
     [] { found = harvest_dirty(table, host); }, found_are<0>},
    {"harvest_dirty of a table, a tenth dirty", fill_table<dirty_bit, 10>, [] { found = harvest_dirty(table, host); },
     found_are<51>},
    {"harvest_dirty of a table, all dirty", fill_table<dirty_bit, 1>, [] { found = harvest_dirty(table, host); },
     found_are<512>},
    {"write_protect_table, none of 512 writable", fill_table<writable_bit, none>,
     [] { found = write_protect_table(table, host); }, found_are<0>},
    {"write_protect_table, a tenth writable", fill_table<writable_bit, 10>,
     [] { found = write_protect_table(table, host); }, found_are<51>},
    {"write_protect_table, all writable", fill_table<writable_bit, 1>, [] { found = write_protect_table(table, host); },
     found_are<512>},
    {"young_in a table, a tenth young", fill_table<accessed, 10>, [] { found = young_in(table, host); }, found_are<51>},

    {"age_range of 2047 pages, none young", [] { set_in_tree(0, 1); },
     [] {
         number = 0;
         counted = age_range(host, 0, all_pages, all_memory{}, [](word, word) { ++number; });
     },
     number_is<0>},
    {"age_range of 2047 pages, a tenth young", [] { set_in_tree(accessed, 10); },
     [] {
         number = 0;
         counted = age_range(host, 0, all_pages, all_memory{}, [](word, word) { ++number; });
     },
     number_is<205>},
    {"harvest_range of 2047 pages, a tenth dirty", [] { set_in_tree(dirty_bit, 10); },
     [] {
         number = 0;
         counted = harvest_range(host, 0, all_pages, all_memory{}, [](word, word) { ++number; });
     },
     number_is<205>},
    {"visit of 2047 pages", [] { make_tree(mapped); },
     [] {
         number = 0;
         visit(host, 0, all_pages, all_memory{}, [](const visited_entry<word>& e) {
             number += e.allowed.write ? 1U : 0U;
             return visit_next::into;
         });
     },
     number_is<2047 + 6>},
    {"for_each_mapping of 2047 pages in two runs", [] { make_tree(mapped); },
     [] {
         number = 0;
         for_each_mapping(host, 0, all_pages, all_memory{}, [](const mapping&) { ++number; });
     },
     number_is<2>},
    {"walk_batch of 64 addresses, ordinary paging", [] { make_tree(mapped_linear); },
     [] {
         walk_batch(linear, 0, addresses.data(), addresses.size(), {}, {}, all_memory{}, reached.data(),
                    update_flags::no);
     },
     [] {
         number = 0;
         for (std::size_t i = 0; i < reached.size(); ++i) number += reached[i].address == addresses[i] ? 1U : 0U;
         return number == 64;
     }},

    {"permissions_of a leaf", set_slot<0x5335>, [] { allowed = permissions_of(slot, 1, host); },
     [] { return allowed.read && !allowed.write; }},
    {"permissions_of a leaf, features at run time", set_slot<0x5335>,
     [] { allowed = permissions_of(slot, 1, any_ept); }, [] { return allowed.read && !allowed.write; }},
    {"diagnose a leaf that breaks no rule", set_slot<0x5337>, [] { broken = diagnose(slot, 1, host); },
     [] { return !broken; }},
    {"diagnose a leaf that breaks one", set_slot<0x5332>, [] { broken = diagnose(slot, 1, host); },
     [] { return bool{broken}; }},
    {"legal leaf", set_slot<0x5337>, [] { told = legal(slot, 1, host); }, told_is<true>},
    {"legal leaf, features at run time", set_slot<0x5337>, [] { told = legal(slot, 1, any_ept); }, told_is<true>},
    {"needs_flush", set_slot<0x5337>, [] { told = needs_flush(slot, slot & ~writable_bit, host); }, told_is<true>},

    {"encode a leaf", [] {}, [] { made = encode(kind::leaf, 1, physical, {.write = false}, host); },
     [] { return made && made.entry == 0x5005; }},
    {"encode a leaf, features at run time", [] {},
     [] { made = encode(kind::leaf, 1, physical, {.write = false}, any_ept); },
     [] { return made && made.entry == 0x5005; }},
    {"encode_page with attributes", [] {}, [] { made = encode_page(kind::leaf, 1, physical, {}, {}, host); },
     [] { return made && made.entry == 0x5037; }},
    {"split: one part of a 2-Mbyte page", set_slot<large_page>, [] { other_size = split(slot, 2, 5, host); },
     [] { return other_size && other_size.entry == (0x4000'5000 | leaf_bits); }},
    {"split_live of a 2-Mbyte page", set_slot<large_page>,
     [] { split_end = split_live(slot, 2, table.data(), 0x1000, host); },
     [] { return split_end == split_error::none && table[511] == (0x401f'f000 | leaf_bits); }},
    {"merge of 512 pages", fill_table<dirty_bit, 10>, [] { other_size = merge(table.data(), 0x1107, 2, host); },
     [] { return other_size && other_size.entry == (leaf_bits | 0x80); }},

    {"map one page", [] { make_tree(mapped), told = bool{unmap(mapped, one_page, list)}; },
     [] { changed = map(mapped, one_page, 0x40'5000, {}, list); }, pages_are<1>},
    {"map 510 pages", [] { make_tree(mapped), told = bool{unmap(mapped, most_of_a_table, list)}; },
     [] { changed = map(mapped, most_of_a_table, 0x40'1000, {}, list); }, pages_are<510>},
    {"map 8 Mbytes of 4-Kbyte pages, new tables", [] { tables.fill(0), tables_used = 1, list.clear(); },
     [] { changed = map(mapped, all_pages, 0, {}, list, {.page_sizes = 0x1000}); }, pages_are<2048>},
    {"unmap one page", [] { make_tree(mapped); }, [] { changed = unmap(mapped, one_page, list); }, pages_are<1>},
    {"unmap 509 pages and a hole", [] { make_tree(mapped); }, [] { changed = unmap(mapped, most_of_a_table, list); },
     pages_are<509>},
    {"unmap 8 Mbytes, with their tables", [] { make_tree(mapped); }, [] { changed = unmap(mapped, all_pages, list); },
     pages_are<2047>},
    {"protect one page", [] { make_tree(mapped); }, [] { changed = protect(mapped, one_page, {.write = false}, list); },
     pages_are<1>},
    {"protect 509 pages and a hole", [] { make_tree(mapped); },
     [] { changed = protect(mapped, most_of_a_table, {.write = false}, list); }, pages_are<509>},
    {"path to a slot", [] { make_tree(mapped); }, [] { told = find_slot(mapped, 0x5000, 1).level == 1; },
     told_is<true>},

    {"flush list: an item that goes on where the last one ends", [] { list.clear(), list.add({.last = 0xfff}); },
     [] { list.add({.first = 0x1000, .last = 0x1fff}); }, [] { return list.item_count() == 1; }},
    {"flush list: an item apart", [] { list.clear(), list.add({.last = 0xfff}); },
     [] { list.add({.first = 0x3000, .last = 0x3fff}); }, [] { return list.item_count() == 2; }},
    {"flush list: 3 items replaced by one",
     [] {
         list.clear();
         for (word at = 0; at < 0x6000; at += 0x2000) list.add({.first = at, .last = at + 0xfff});
     },
     [] { told = list.replace({.last = 0xffff}); }, [] { return told && list.item_count() == 1; }},
    {"flushed", [] { make_tree(mapped), changed = unmap(mapped, all_pages, list); }, [] { flushed(mapped, list); },
     [] { return list.due() == flush_due::not_recorded && tables_used == 3; }},

    {"describe an entry", set_slot<0x5337>, [] { describe(slot, 1, host, text); },
     [] { return std::strstr(text, "0x5000 RWX") != nullptr; }},
    {"describe_fields of an entry", set_slot<0x5337>, [] { describe_fields(slot, 1, host, text); },
     [] { return std::strstr(text, "\n  address") != nullptr; }},
    {"format_for EPT", [] {}, [] { any_ept = format_for(ept_features{.physical_bits = width}); },
     [] { return any_ept.wrong().what == defect::none; }},
    {"format_for ordinary paging", [] {}, [] { any_linear = format_for(shadow_features{.physical_bits = width}); },
     [] { return any_linear.wrong().what == defect::none; }},
};

}  // namespace

/// Not inlined, nor left by a jump: valgrind finds calls of it by its name.
extern "C" [[gnu::noinline]] void counted_operation(void (*run)())
{
    run();
    asm volatile("" ::: "memory");
}

int run_operations()
{
    for (inclusive_range* const range : {&all_pages, &one_page, &most_of_a_table}) {
        range->first += zero;
        range->last += zero;
    }
    physical += zero;
    width += static_cast<unsigned>(zero);
    any_ept = format_for(ept_features{.physical_bits = width});
    for (const measured_call& c : calls) {
        c.prepare();
        counted_operation(c.run);
        std::printf("%s\n", c.what);
        if (c.right()) continue;
        std::printf("is not what it should be\n");
        return 3;
    }
    return 0;
}
