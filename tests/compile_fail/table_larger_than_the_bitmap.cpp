// expect: table_has_more_slots_than_the_bitmap
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/table.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::size_t slots = 65;
#else
constexpr std::size_t slots = 64;
#endif

constexpr std::size_t young_slots()
{
    std::uint64_t table[65] = {};
    table[64] = 0x1107;
    return ptebits::age_table<slots>(table, ptebits::ept<ptebits::ept_features{}>).count();
}
static_assert(young_slots() == 1);

int main() {}
