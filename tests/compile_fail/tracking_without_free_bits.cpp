// expect: ptebits: access tracking would save permissions in bits that are not free
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.levels = 4};
#else
constexpr ptebits::shadow_features features{.levels = 3};  // PAE: bits 62:52 are reserved
#endif

static_assert(ptebits::track_accesses<52>(ptebits::shadow<features>).saved_mask() == 0x0010'0000'0000'0000);

int main() {}
