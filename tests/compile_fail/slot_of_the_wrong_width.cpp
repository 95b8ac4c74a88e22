// expect: ptebits: the slot is not as wide as this format's entries
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
using word = std::uint32_t;
#else
using word = std::uint64_t;  // would age one of two neighbours
#endif

int main()
{
    word slot = 0x1027;
    return ptebits::age(slot, ptebits::shadow<ptebits::shadow_features{.levels = 2}>) ? 0 : 1;
}
