// expect: ptebits: encryption_bit, shared_bit or key_id_bits lies outside the address field
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr ptebits::shadow_features features{.encryption_bit = 51};
#else
constexpr ptebits::shadow_features features{.encryption_bit = 52};
#endif

static_assert(ptebits::shadow<features>->present_mask() != 0);

int main() {}
