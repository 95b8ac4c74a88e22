// expect: ptebits: hgatp holds the root of a gstage format
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/riscv_registers.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::gstage<ptebits::gstage_features{}>;
#else
constexpr auto format = ptebits::riscv<ptebits::riscv_features{}>;
#endif

static_assert(ptebits::root_of_hgatp(0x8000'0000'0008'0004, format).root == 0x8000'4000);

int main() {}
