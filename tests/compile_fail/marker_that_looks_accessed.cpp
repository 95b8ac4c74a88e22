// expect: ptebits: a frozen marker must not look accessed
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t marker = 0x8000'0000'0000'0400;
#else
constexpr std::uint64_t marker = 0x8000'0000'0000'05a0;  // bit 8 is A
#endif

static_assert(ptebits::frozen_marker<marker>(ptebits::ept<ptebits::ept_features{}>).value == marker);

int main() {}
