// expect: ptebits: the second stage must be EPT or NPT
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/combine.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto host = ptebits::npt<ptebits::npt_features{}>;
#else
constexpr auto host = ptebits::shadow<ptebits::shadow_features{}>;
#endif

constexpr auto guest = ptebits::shadow<ptebits::shadow_features{}>;
static_assert(!combine(ptebits::walk_result{}, guest, ptebits::walk_result{}, host, guest));

int main() {}
