// expect: ptebits: the target must translate what the first stage does: linear or guest-physical addresses
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/combine.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/shadow.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto target = ptebits::shadow<ptebits::shadow_features{}>;
#else
constexpr auto target = ptebits::ept<ptebits::ept_features{}>;
#endif

constexpr auto guest = ptebits::shadow<ptebits::shadow_features{}>;
constexpr auto host = ptebits::ept<ptebits::ept_features{}>;
static_assert(!combine(ptebits::walk_result{}, guest, ptebits::walk_result{}, host, target));

int main() {}
