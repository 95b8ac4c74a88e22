// expect: ptebits: these commands are for amdvi_host and amdvi_guest formats
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/amdvi_registers.hpp>
#include <ptebits/formats/npt.hpp>

using namespace ptebits;

#ifdef PTEBITS_CONTROL
constexpr auto format = amdvi_host<amdvi_host_features{}>;
#else
constexpr auto format = npt<npt_features{}>;
#endif

int main() { return amdvi_invalidation_of_all({.domain = 1}, format).high == 0; }
