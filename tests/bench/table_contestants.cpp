// One contestant of tables.cpp, compiled once for each set of flags, under a name of its
// own: -DCONTESTANT=name. No header here may need floating point.
#include <cstddef>
#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/masks.hpp>
#include <ptebits/table.hpp>

using table = std::uint64_t[512];

namespace {

// A type of this file's own, so that no instance is shared with a file of other flags.
struct own_format : ptebits::constant_format<ptebits::ept_description, ptebits::ept_features{}> {};
constexpr own_format host;

}  // namespace

namespace CONTESTANT {

using bitmap = ptebits::slot_bitmap<512>;

bitmap library(table& t) { return ptebits::age_table(t, host); }

// The same entry by entry, as kernels write it: load, test, locked clear.
bitmap kernel(table& t)
{
    bitmap found;
    for (std::size_t i = 0; i < 512; ++i) {
        const std::uint64_t entry = *static_cast<const volatile std::uint64_t*>(&t[i]);
        if ((entry & 0x7) == 0 || (entry & 0x100) == 0) continue;
        bool was_set;
        asm volatile("lock btrq $8, %1" : "=@ccc"(was_set), "+m"(t[i]) : : "memory");
        if (was_set) found.set(i);
    }
    return found;
}

// Reads every byte and does next to nothing with it: what memory has to give.
bitmap read(table& t)
{
    std::uint64_t any[8] = {};
    for (std::size_t i = 0; i < 512; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) any[j] |= t[i + j];
    }
    bitmap found;
    for (std::size_t j = 0; j < 8; ++j) found.set_word(j, any[j]);
    return found;
}

}  // namespace CONTESTANT
