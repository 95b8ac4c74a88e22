// expect: ptebits: an accessed, dirty, encryption or shared bit of this format is not one bit
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.encryption_bit = {47, 47}};
#else
constexpr ptebits::shadow_features features{.encryption_bit = {48, 47}};
#endif

static_assert(ptebits::shadow<features>->present_mask() != 0);

int main() {}
