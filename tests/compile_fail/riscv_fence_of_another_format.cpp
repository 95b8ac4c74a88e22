// expect: ptebits: these fences are for riscv and gstage formats
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/riscv_flush.hpp>

using namespace ptebits;

#ifdef PTEBITS_CONTROL
constexpr auto format = gstage<gstage_features{}>;
#else
constexpr auto format = ept<ept_features{}>;
#endif

int main() { return fence_for({.by_address = true}, format, 0x1000).rs1 == 0; }
