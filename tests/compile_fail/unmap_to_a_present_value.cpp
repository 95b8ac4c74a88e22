// expect: value_must_not_be_present
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t value = 0x1030;
#else
constexpr std::uint64_t value = 0x1031;
#endif

constexpr std::uint64_t unmapped()
{
    std::uint64_t slot = 0x1037;
    return unmap(slot, ptebits::ept<ptebits::ept_features{}>, value);
}
static_assert(unmapped() == 0x1037);

int main() {}
