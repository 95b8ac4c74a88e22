// SPDX-License-Identifier: BSL-1.0
// What the manuals say of the leaves of some formats, by hand: which bits are the flags, and
// which entries translate.
#pragma once

#include <cstdint>
#include <random>
#include <type_traits>

#include <ptebits/ptebits.hpp>

namespace leaf_model {

using namespace ptebits;

inline constexpr auto ept_ad = ept<ept_features{}>;
inline constexpr auto ept_no_ad = ept<ept_features{.accessed_dirty = false}>;
inline constexpr auto ept_soft_8 = ept<ept_features{.accessed_dirty = false, .software_accessed = 8}>;
inline constexpr auto ept_soft_63 = ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>;
inline constexpr auto ept_mbe = ept<ept_features{.mode_based_execute = true}>;
inline constexpr auto ept_five = ept<ept_features{.levels = 5}>;
inline constexpr auto ept_46 = ept<ept_features{.physical_bits = 46}>;
inline constexpr auto npt_long = npt<npt_features{}>;
inline constexpr auto shadow_long = shadow<shadow_features{}>;
inline constexpr auto shadow_five = shadow<shadow_features{.levels = 5}>;
inline constexpr auto shadow_46 = shadow<shadow_features{.physical_bits = 46}>;
inline constexpr auto shadow_pae = shadow<shadow_features{.levels = 3}>;
inline constexpr auto shadow_two = shadow<shadow_features{.levels = 2}>;

template <const auto& Format>
using type_of = std::remove_cvref_t<decltype(Format)>;

struct flags {
    std::uint64_t present;
    std::uint64_t accessed;
    std::uint64_t dirty;                // 0: writes are found by `write`
    bool (*translates)(std::uint64_t);  // present, and legal at some level
    std::uint64_t write = 0x2;
};

/// EPT: some permission; no W without R; no memory type 2, 3 or 7; address bits up to the width.
template <std::uint64_t Permissions, std::uint64_t Beyond = 0>
constexpr bool ept_translates(std::uint64_t entry)
{
    const std::uint64_t type = entry >> 3 & 7;
    return (entry & Permissions) != 0 && (entry & 3) != 2 && type != 2 && type != 3 && type != 7 &&
           (entry & Beyond) == 0;
}
/// Ordinary paging: P, and no reserved bit.
template <std::uint64_t Reserved>
constexpr bool x86_translates(std::uint64_t entry)
{
    return (entry & 1) != 0 && (entry & Reserved) == 0;
}
inline constexpr std::uint64_t from_46_to_51 = 0x000f'c000'0000'0000;

template <class Format>
constexpr flags flags_of{0x1, 0x20, 0x40, x86_translates<0>};
template <>
inline constexpr flags flags_of<type_of<shadow_pae>>{0x1, 0x20, 0x40, x86_translates<0x7ff0'0000'0000'0000>};
template <>
inline constexpr flags flags_of<type_of<shadow_46>>{0x1, 0x20, 0x40, x86_translates<from_46_to_51>};
template <>
inline constexpr flags flags_of<type_of<ept_ad>>{0x7, 0x100, 0x200, ept_translates<0x7>};
template <>
inline constexpr flags flags_of<type_of<ept_five>>{0x7, 0x100, 0x200, ept_translates<0x7>};
template <>
inline constexpr flags flags_of<type_of<ept_46>>{0x7, 0x100, 0x200, ept_translates<0x7, from_46_to_51>};
template <>
inline constexpr flags flags_of<type_of<ept_soft_8>>{0x7, 0x100, 0, ept_translates<0x7>};
template <>
inline constexpr flags flags_of<type_of<ept_soft_63>>{0x7, 0x8000'0000'0000'0000, 0, ept_translates<0x7>};
template <>
inline constexpr flags flags_of<type_of<ept_mbe>>{0x407, 0x100, 0x200, ept_translates<0x407>};

/// Number of entries, out of many, for which translates() is not what the rules of the levels say.
template <class Format>
int wrong_translations(const Format& format)
{
    std::mt19937_64 random(20'090'617);
    const std::uint64_t page = encode(kind::leaf, 1, 0x10'0000, {}, format).entry;
    int wrong = 0;
    for (int n = 0; n < 30'000; ++n) {
        // Any, and those that a page becomes by one or two bits.
        const std::uint64_t change = std::uint64_t{1} << random() % 64 | std::uint64_t{1} << random() % 64;
        const std::uint64_t entry = n % 3 == 0 ? random() : n % 3 == 1 ? page ^ change : (random() & 0xfff) | 0x10'0000;
        bool at_some_level = false;
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            const bool here = present(entry, format) && legal(entry, level, format);
            wrong += translates(entry, format, level) != here;
            at_some_level = at_some_level || here;
        }
        wrong += translates(entry, format) != at_some_level;
        wrong += translates(entry, format, format->shape().levels + 1);
    }
    return wrong;
}
template <class Format>
int wrong_translations_both_ways(const Format& format)
{
    return wrong_translations(format) + wrong_translations(format_for(format->features()));
}

}  // namespace leaf_model
