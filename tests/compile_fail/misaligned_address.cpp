// expect: address_is_misaligned_or_too_wide
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t page = 0x60'0000;
#else
constexpr std::uint64_t page = 0x60'1000;
#endif

static_assert(ptebits::ept<ptebits::ept_features{}>->address(2, page) == 0x60'0000);

int main() {}
