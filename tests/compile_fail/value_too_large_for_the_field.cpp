// expect: value_does_not_fit_the_field
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr unsigned memory_type = 6;
#else
constexpr unsigned memory_type = 8;
#endif

static_assert(ptebits::ept<ptebits::ept_features{}>->memory_type(memory_type) == 0x30);

int main() {}
