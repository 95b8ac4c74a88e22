// expect: ptebits: this format has no dirty bit
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = true}>;
#else
constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = false}>;
#endif

bool marked(std::uint64_t& slot) { return mark_dirty(slot, format); }

int main() {}
