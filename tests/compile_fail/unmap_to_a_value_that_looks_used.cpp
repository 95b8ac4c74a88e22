// expect: value_is_not_one_of_absent_entries
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t value = 0x1018;
#else
constexpr std::uint64_t value = 0x1060;  // bits 5 and 6 are A and D
#endif

constexpr std::uint64_t unmapped()
{
    std::uint64_t slot = 0x1007;
    return unmap(slot, ptebits::shadow<ptebits::shadow_features{}>, value);
}
static_assert(unmapped() == 0x1007);

int main() {}
