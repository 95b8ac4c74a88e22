// expect: ptebits: memory may end at the last physical address
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::ept_features features{.physical_bits = 39, .memory_bits = 38};
#else
constexpr ptebits::ept_features features{.physical_bits = 39, .memory_bits = 39};
#endif

static_assert(ptebits::ept<features>->present_mask() != 0);

int main() {}
