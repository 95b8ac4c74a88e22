// expect: ptebits: large_pages is off, but only 32-bit entries can be without them
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.levels = 2, .large_pages = false};
#else
constexpr ptebits::shadow_features features{.levels = 4, .large_pages = false};
#endif

static_assert(ptebits::shadow<features>->present_mask() != 0);

int main() {}
