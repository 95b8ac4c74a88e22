// expect: ptebits: an EPT pointer holds the root of an EPT format
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/x86_registers.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::ept<ptebits::ept_features{}>;
#else
constexpr auto format = ptebits::npt<ptebits::npt_features{}>;
#endif

static_assert(ptebits::eptp_for(0x1000, format).eptp == 0x105e);

int main() {}
