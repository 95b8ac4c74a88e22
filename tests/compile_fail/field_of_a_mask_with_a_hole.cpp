// expect: mask_is_not_one_run_of_bits
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/field.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t mask = 0x38;
#else
constexpr std::uint64_t mask = 0x28;
#endif

static_assert(ptebits::field_of(mask).shift() == 3);

int main() {}
