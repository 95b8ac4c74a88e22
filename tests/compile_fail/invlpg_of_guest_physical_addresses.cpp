// expect: ptebits: this instruction takes linear addresses
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86_flush.hpp>

using namespace ptebits;

#ifdef PTEBITS_CONTROL
constexpr auto format = shadow<shadow_features{}>;
#else
constexpr auto format = ept<ept_features{}>;
#endif

int main() { return invlpg_addresses({.first = 0x1000, .last = 0x1fff, .page_shift = 12}, format).empty(); }
