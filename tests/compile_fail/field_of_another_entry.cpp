// expect: field_does_not_stand_in_this_entry
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

constexpr auto host = ptebits::shadow<ptebits::shadow_features{}>;

// Bit 12 is PAT in a large leaf, and of the address in a small one.
#ifdef PTEBITS_CONTROL
constexpr std::uint64_t entry = host->address(2, 0x20'0000) | host->pat_large;
#else
constexpr std::uint64_t entry = host->address(1, 0x1000) | host->pat_large;
#endif

static_assert(entry != 0);

int main() {}
