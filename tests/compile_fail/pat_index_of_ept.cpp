// expect: ptebits: only ordinary and nested entries have a PAT index
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/memory_types.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::npt<ptebits::npt_features{}>;
#else
constexpr auto format = ptebits::ept<ptebits::ept_features{}>;
#endif

static_assert(pat_index(ptebits::walk_result{}, format) == 0);

int main() {}
