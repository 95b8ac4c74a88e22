// expect: value_is_not_one_of_absent_entries
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t value = 0x8000'0000'0000'0000;
#else
constexpr std::uint64_t value = 0;
#endif

constexpr std::uint64_t unmapped()
{
    std::uint64_t slot = 0x1037;
    return unmap(slot, ptebits::ept<ptebits::ept_features{.suppress_ve = true}>, value);
}
static_assert(unmapped() == 0x1037);

int main() {}
