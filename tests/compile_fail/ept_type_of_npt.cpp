// expect: ptebits: only EPT entries hold a memory type
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/memory_types.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::ept<ptebits::ept_features{}>;
#else
constexpr auto format = ptebits::npt<ptebits::npt_features{}>;
#endif

static_assert(ept_type(ptebits::walk_result{}, format).type == ptebits::memory_type::uc);

int main() {}
