// expect: ptebits: these features exclude each other
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.shared_bit = 47};
#else
constexpr ptebits::shadow_features features{.encryption_bit = 51, .shared_bit = 47};
#endif

static_assert(ptebits::shadow<features>->present_mask() != 0);

int main() {}
