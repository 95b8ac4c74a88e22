// expect: there_is_no_such_part
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/range.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t which = 1;
#else
constexpr std::uint64_t which = 2;
#endif

constexpr ptebits::range_part half(ptebits::ept<ptebits::ept_features{}>, {0, 0x3f'ffff}, 2, which);

int main() { return half.continues() ? 0 : 1; }
