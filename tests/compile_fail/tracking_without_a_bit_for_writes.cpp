// expect: ptebits: access tracking would save permissions in bits that are not free
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr unsigned accessed = 58;
#else
constexpr unsigned accessed = 55;  // where tracking records that the page may have been written
#endif

constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = false, .software_accessed = accessed}>;
static_assert(ptebits::track_accesses<54>(format).saved_mask() == 0x0140'0000'0000'0000);

int main() {}
