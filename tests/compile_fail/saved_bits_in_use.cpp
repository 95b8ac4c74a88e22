// expect: ptebits: access tracking would save permissions in bits that are not free
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr unsigned saved_shift = 54;
#else
constexpr unsigned saved_shift = 61;  // X would be kept in bit 63, which suppresses #VE
#endif

constexpr auto format = ptebits::ept<ptebits::ept_features{.accessed_dirty = false, .suppress_ve = true}>;

int main()
{
    std::uint64_t slot = 0x1007;
    return ptebits::age(slot, ptebits::track_accesses<saved_shift>(format)) ? 0 : 1;
}
