// expect: value_is_not_one_of_absent_entries
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t value = 0x20'0000'1000;
#else
constexpr std::uint64_t value = 0x1000;
#endif

constexpr std::uint64_t unmapped()
{
    std::uint64_t slot = 0x1067;
    return unmap(slot, ptebits::shadow<ptebits::shadow_features{.physical_bits = 39, .memory_bits = 37}>, value);
}
static_assert(unmapped() == 0x1067);

int main() {}
