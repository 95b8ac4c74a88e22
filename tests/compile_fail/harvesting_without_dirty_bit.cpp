// expect: ptebits: this format has no dirty bit
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/entry.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = true}>;
#else
constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = false, .software_accessed = 62}>;
#endif

bool written(std::uint64_t entry) { return dirty(entry, format); }

int main() {}
