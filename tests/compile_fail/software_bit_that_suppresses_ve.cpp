// expect: ptebits: a software bit is claimed that the hardware uses under these features
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::ept_features features{.accessed_dirty = false, .software_accessed = 63};
#else
constexpr ptebits::ept_features features{.accessed_dirty = false, .suppress_ve = true, .software_accessed = 63};
#endif

static_assert(ptebits::ept<features>->present_mask() != 0);

int main() {}
