// expect: ptebits: two of these masks share a bit
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/masks.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::mask_values values{.present = 0x7, .accessed = 0x100, .dirty = 0x200};
#else
constexpr ptebits::mask_values values{.present = 0x7, .accessed = 0x100, .dirty = 0x100};
#endif

static_assert(ptebits::masks_of<values>->present_mask() == 0x7);

int main() {}
