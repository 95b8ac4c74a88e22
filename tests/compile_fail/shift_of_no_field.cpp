// expect: field_without_bits_has_no_shift
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/field.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::field none = ptebits::bit(63);
#else
constexpr ptebits::field none;
#endif

static_assert(none.shift() == 63);

int main() {}
