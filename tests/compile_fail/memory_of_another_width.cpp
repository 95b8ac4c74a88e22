// expect: ptebits: memory has no slots as wide as this format's entries
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.levels = 4};
#else
constexpr ptebits::shadow_features features{.levels = 2};
#endif

std::uint64_t table[512];

int main()
{
    const auto memory = [](std::uint64_t) { return &table[0]; };
    return ptebits::walk(ptebits::shadow<features>, 0x1000, 0, {}, {}, memory) ? 1 : 0;
}
