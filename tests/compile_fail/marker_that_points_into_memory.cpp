// expect: ptebits: a frozen marker must not point into memory
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t marker = 0x20'0000'1000;
#else
constexpr std::uint64_t marker = 0x1f'ffff'f000;
#endif

constexpr auto host = ptebits::ept<ptebits::ept_features{.physical_bits = 39, .memory_bits = 37}>;
static_assert(ptebits::frozen_marker<marker>(host).value == marker);

int main() {}
