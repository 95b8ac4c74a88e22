// SPDX-License-Identifier: BSL-1.0
// Two small formats of one level whose write permission is the dirty state where bit 51 is set,
// after the two stages of AArch64: stage 1 denies writes by a set bit 7 (AP[2]), stage 2 grants
// them by it (S2AP[1]). Arm Architecture Reference Manual, "Hardware management of the dirty
// state".
#pragma once

#include <ptebits/format.hpp>

namespace stages {

using namespace ptebits;

struct names {
    entry_field write;  ///< AP[2], or S2AP[1]
    entry_field modifier;
};

template <class Description>
struct features_of {
    using description = Description;

    unsigned physical_bits = 48;
    bool dirty_state = true;  ///< else bit 51 is ignored
};

template <class Description>
struct common {  // NOLINT(bugprone-crtp-constructor-accessibility): nobody makes one
    using features = features_of<Description>;
    using fields = names;
    using row = ptebits::row<features, fields>;

    static constexpr condition<features> managed{"hardware management of dirty state", &features::dirty_state};

    static constexpr dimensions shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1); }
};

struct stage_1 : common<stage_1> {
    static constexpr row rows[] = {
        {"V", bits(1, 0), every, is(3)},
        {"", bits(6, 2), every, role::software},
        {"AP2", bit(7), every, denies(role::write), &fields::write},
        {"", bits(9, 8), every, role::software},
        {"AF", bit(10), every, role::accessed},
        {"", bit(11), every, role::software},
        {"", bits(47, 12), every, role::address},
        {"", bits(50, 48), every, role::reserved},
        {"DBM", bit(51), every, role::dirty_modifier, &fields::modifier, managed, role::software},
        {"XN", bit(54), every, denies(role::execute)},
        {"", bits(53, 52), every, role::software},
        {"", bits(63, 55), every, role::software},
    };
};

struct stage_2 : common<stage_2> {
    static constexpr row rows[] = {
        {"V", bits(1, 0), every, is(3)},
        {"", bits(5, 2), every, role::software},
        {"S2AP0", bit(6), every, role::read},
        {"S2AP1", bit(7), every, role::write, &fields::write},
        {"", bits(9, 8), every, role::software},
        {"AF", bit(10), every, role::accessed},
        {"", bit(11), every, role::software},
        {"", bits(47, 12), every, role::address},
        {"", bits(50, 48), every, role::reserved},
        {"DBM", bit(51), every, role::dirty_modifier, &fields::modifier, managed, role::software},
        {"", bits(63, 52), every, role::software},
    };
};

template <class Description, bool DirtyState>
inline constexpr constant_format<Description, features_of<Description>{.dirty_state = DirtyState}> format{};

inline constexpr auto& first = format<stage_1, true>;
inline constexpr auto& first_without = format<stage_1, false>;
inline constexpr auto& second = format<stage_2, true>;
inline constexpr auto& second_without = format<stage_2, false>;

inline constexpr std::uint64_t valid = 0x1;  // the bit by which operations find entries present
/// Whether an entry is a page: bits 1:0 are 3, and bits 50:48 are clear.
constexpr bool translates(std::uint64_t entry) { return (entry & 0x0007'0000'0000'0003) == 3; }
inline constexpr std::uint64_t write = 0x80;
inline constexpr std::uint64_t modifier = std::uint64_t{1} << 51;

}  // namespace stages
