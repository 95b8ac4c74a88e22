// expect: execute-disable stands on the dirty bit
// SPDX-License-Identifier: BSL-1.0
// A slip that stood in a hypervisor's header for more than a year: execute-disable as bit 6,
// where the dirty bit is. Pages that were to be data only could be executed, and looked
// written. This file must not compile, and does with PTEBITS_CONTROL.
#include <cstdint>

#include <ptebits/formats/npt.hpp>

namespace theirs {

constexpr std::uint64_t npt_dirty = 1ull << 6;
#ifdef PTEBITS_CONTROL
constexpr std::uint64_t npt_execute_disable = 1ull << 63;
#else
constexpr std::uint64_t npt_execute_disable = 1ull << 6;
#endif

}  // namespace theirs

constexpr auto nested = ptebits::npt<ptebits::npt_features{}>;

static_assert(nested->dirty == ptebits::field_of(theirs::npt_dirty));
static_assert(ptebits::disjoint(theirs::npt_execute_disable, nested->dirty.mask()),
              "execute-disable stands on the dirty bit");
static_assert(nested->execute_disable == ptebits::field_of(theirs::npt_execute_disable),
              "execute-disable is not where the manual has it");

int main() {}
