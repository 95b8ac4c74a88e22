// expect: ptebits: this format has no tables of so many levels
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/npt.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::npt_features features{.levels = 5};
#else
constexpr ptebits::npt_features features{.levels = 6};
#endif

static_assert(ptebits::npt<features>->present_mask() != 0);

int main() {}
