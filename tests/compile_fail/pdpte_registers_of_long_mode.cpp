// expect: ptebits: only PAE paging has PDPTE registers
// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::shadow<ptebits::shadow_features{.levels = 3}>;
#else
constexpr auto format = ptebits::shadow<ptebits::shadow_features{}>;
#endif

bool reaches(std::uint64_t* slots)
{
    const auto memory = [&](std::uint64_t physical) { return slots + physical / 8; };
    return static_cast<bool>(ptebits::walk(format, ptebits::pdpte_registers{}, 0x1000, {}, {}, memory));
}

int main() {}
