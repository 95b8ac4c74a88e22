// SPDX-License-Identifier: BSL-1.0
// The tables that paging is turned on with: constants, in the image as the MMU reads them.
#include <cstdint>

#include <ptebits/entry.hpp>

#include "platform.hpp"

using namespace ptebits;

namespace {

constexpr std::uint64_t here = 0x101000;  // link.ld holds it against the place

struct tables_at_boot {
    std::uint64_t slots[3][512] = {};
};

// The first GiB, as it is, by pages of 2 MiB.
consteval tables_at_boot first_gigabyte()
{
    tables_at_boot t;
    t.slots[0][0] = encode(kind::table, 4, here + 4096, {.user = false}, own_tables).entry;
    t.slots[1][0] = encode(kind::table, 3, here + 8192, {.user = false}, own_tables).entry;
    for (std::uint64_t page = 0; page < 512; ++page) {
        t.slots[2][page] = encode(kind::leaf, 2, page << 21, {.user = false}, own_tables).entry;
    }
    return t;
}

}  // namespace

extern "C" {
extern const tables_at_boot boot_tables;
[[gnu::section(".boot_tables")]] alignas(4096) constinit const tables_at_boot boot_tables = first_gigabyte();
}
