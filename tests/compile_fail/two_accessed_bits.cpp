// expect: ptebits: a software accessed bit is claimed, and the hardware sets one
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::ept_features features{.accessed_dirty = false, .software_accessed = 62};
#else
constexpr ptebits::ept_features features{.accessed_dirty = true, .software_accessed = 62};
#endif

static_assert(ptebits::ept<features>->present_mask() != 0);

int main() {}
