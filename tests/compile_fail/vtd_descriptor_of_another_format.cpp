// expect: ptebits: these descriptors are for vtd_second and vtd_first formats
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/vtd_registers.hpp>

using namespace ptebits;

#ifdef PTEBITS_CONTROL
constexpr auto format = vtd_second<vtd_second_features{}>;
#else
constexpr auto format = ept<ept_features{}>;
#endif

int main() { return vtd_invalidation_of_all({.domain = 1}, format).high == 0; }
