// expect: ptebits: this format does not tell private pages from shared ones
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ptebits.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::npt_features features{.encryption_bit = 47};
#else
constexpr ptebits::npt_features features{};
#endif

static_assert(ptebits::to_private(0x1007, 1, ptebits::npt<features>) != 0);

int main() {}
