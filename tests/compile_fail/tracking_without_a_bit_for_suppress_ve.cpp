// expect: ptebits: access tracking would save permissions in bits that are not free
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

// R and X in bits 60 and 62; bit 63's own value would need a place above.
#ifdef PTEBITS_CONTROL
constexpr ptebits::ept_features features{.accessed_dirty = false};
#else
constexpr ptebits::ept_features features{.accessed_dirty = false, .suppress_ve = true};
#endif

static_assert(ptebits::track_accesses<60>(ptebits::ept<features>).saved_mask() == 0x5000'0000'0000'0000);

int main() {}
