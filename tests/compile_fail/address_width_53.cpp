// expect: ptebits: this format does not have these physical_bits (x86: 32 to 52)
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::ept_features features{.physical_bits = 52};
#else
constexpr ptebits::ept_features features{.physical_bits = 53};
#endif

static_assert(ptebits::ept<features>->present_mask() != 0);

int main() {}
