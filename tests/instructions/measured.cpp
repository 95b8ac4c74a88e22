// What check.cmake counts: one function is called, by name. Each result is kept whole, as a
// hypervisor or simulator that looks at all of it would.
#include <cstddef>
#include <cstring>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

constexpr auto x86 = shadow<shadow_features{.physical_bits = 46}>;
constexpr auto extended = ept<ept_features{.physical_bits = 46}>;

/// Five tables, the top one first; the last holds one page, its table entry 1 is absent.
alignas(4096) std::uint64_t tables_of_test[5 * 512];

struct whole_memory {
    std::uint64_t* operator()(std::uint64_t physical) const { return tables_of_test + physical / 8; }
};

void fill(std::uint64_t table_bits, std::uint64_t leaf_bits)
{
    for (std::size_t n = 0; n < 3; ++n) tables_of_test[n * 512] = (n + 1) * 0x1000 | table_bits;
    tables_of_test[std::size_t{3} * 512] = 0x5000 | leaf_bits;
}

walk_result reached;
encoded made;

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
}

/// measured FUNCTION [ADDRESS]
int main(int count, char** arguments)
{
    if (count < 2) return 2;
    const auto is = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
    // Where the walk ends, by the level of its last entry: 0 is the page.
    const unsigned level = count > 2 ? static_cast<unsigned>(arguments[2][0] - '0') : 0;
    const std::uint64_t address = level == 0 ? 0 : std::uint64_t{1} << (12 + 9 * (level - 1));
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
    if (is("count_encode_x86_leaf")) count_encode_x86_leaf(0x20'0000, {.write = false});
    if (is("count_encode_x86_table")) count_encode_x86_table(0x1000, {});
    if (is("count_encode_ept_leaf")) count_encode_ept_leaf(0x1000, {.write = false});
    if (is("count_encode_ept_table")) count_encode_ept_table(0x1000, {});
    return made.error == encode_error::none && made.entry != 0 ? 0 : 3;
}
