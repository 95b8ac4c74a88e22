// expect: ptebits: entries without access would keep their bits where these are not free
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ptebits.hpp>

#ifdef PTEBITS_CONTROL
constexpr unsigned kept = 9;
#else
constexpr unsigned kept = 12;
#endif

static_assert(ptebits::keep_without_access<kept>(ptebits::shadow<ptebits::shadow_features{}>).kept_mask() != 0);

int main() {}
