// expect: ptebits: two stages of EPT make an EPT entry, two of NPT an NPT entry
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/combine.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto first = ptebits::ept<ptebits::ept_features{}>;
#else
constexpr auto first = ptebits::npt<ptebits::npt_features{}>;
#endif

constexpr auto second = ptebits::ept<ptebits::ept_features{}>;
static_assert(!combine(ptebits::walk_result{}, first, ptebits::walk_result{}, second, second));

int main() {}
