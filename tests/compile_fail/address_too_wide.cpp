// expect: address_is_misaligned_or_too_wide
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t page = 0x40'0000'0000;
#else
constexpr std::uint64_t page = 0x80'0000'0000;
#endif

static_assert(ptebits::ept<ptebits::ept_features{.physical_bits = 39}>->address(1, page) != 0);

int main() {}
