// expect: ptebits: these features exclude each other
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.levels = 4, .user_keys = true};
#else
constexpr ptebits::shadow_features features{.levels = 3, .user_keys = true};
#endif

static_assert(ptebits::shadow<features>->present_mask() != 0);

int main() {}
