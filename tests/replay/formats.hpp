// SPDX-License-Identifier: BSL-1.0
// The formats that recorded walks are replayed by: of features known at run time, and of
// constants where some case has them.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <type_traits>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>

#include "outcomes.hpp"

namespace replay {

/// The features of a case.
template <class Features>
[[nodiscard]] Features features_of(const header& head, const switches& on);
template <>
[[nodiscard]] inline shadow_features features_of(const header& head, const switches& on)
{
    return {.levels = head.levels,
            .physical_bits = head.physical_bits,
            .execute_disable = on.nxe,
            .gigabyte_pages = on.gigabyte_pages,
            .large_pages = head.levels != 2 || head.pse,
            .pse36 = head.pse36,
            .global_pages = head.global_pages,
            .user_keys = on.user_keys,
            .supervisor_keys = on.supervisor_keys,
            .shadow_stacks = on.shadow_stacks,
            .reserved_bit_8 = head.amd};
}
template <>
[[nodiscard]] inline npt_features features_of(const header& head, const switches& on)
{
    return {.levels = head.levels,
            .physical_bits = head.physical_bits,
            .execute_disable = on.nxe,
            .gigabyte_pages = on.gigabyte_pages,
            .reserved_bit_8 = head.amd};
}
template <>
[[nodiscard]] inline ept_features features_of(const header& head, const switches& on)
{
    return {.levels = head.levels,
            .physical_bits = head.physical_bits,
            .accessed_dirty = head.accessed_dirty,
            .execute_only = (head.capabilities & 1) != 0,
            .large_pages = (head.capabilities >> 16 & 1) != 0,
            .gigabyte_pages = on.gigabyte_pages,
            .mode_based_execute = on.mode_based_execute,
            .supervisor_shadow_stack = on.supervisor_shadow_stack,
            .sub_page_write = on.sub_page_write,
            .suppress_ve = on.suppress_ve};
}

/// Whether two formats have the same layouts and rules, and judge pages alike.
template <entry_format A, entry_format B>
[[nodiscard]] bool same_format(const A& a, const B& b)
{
    if (a->shape().levels != b->shape().levels || a->modes_apart() != b->modes_apart()) return false;
    if (a->shadow_stacks() != b->shadow_stacks()) return false;
    if constexpr (requires { a->features().user_keys; }) {
        const auto& of_a = a->features();
        const auto& of_b = b->features();
        if (of_a.user_keys != of_b.user_keys || of_a.supervisor_keys != of_b.supervisor_keys) return false;
    }
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
            const layout& of_a = a->layout_at(level, k);
            const layout& of_b = b->layout_at(level, k);
            if (a->exists(level, k) != b->exists(level, k) || of_a.denying != of_b.denying) return false;
            if (of_a.value != of_b.value || of_a.pieces[0] != of_b.pieces[0] || of_a.pieces[1] != of_b.pieces[1]) {
                return false;
            }
            for (unsigned r = 0; r < role_count; ++r) {
                if (of_a.masks[r] != of_b.masks[r]) return false;
            }
        }
    }
    const auto& rules = b->combinations();
    const auto* other = std::begin(rules);
    for (const combination& c : a->combinations()) {
        if (c.breaks != other->breaks || c.mask != other->mask || c.value != other->value) return false;
        ++other;
    }
    return true;
}

/// Formats of constants under features that the files have. Cases of other features are
/// walked by the run-time format alone.
template <class Features>
struct twins;
[[nodiscard]] constexpr shadow_features amd_features(unsigned levels, bool nxe)
{
    return {
        .levels = levels, .physical_bits = 40, .execute_disable = nxe, .global_pages = false, .reserved_bit_8 = true};
}
[[nodiscard]] constexpr shadow_features with_shadow_stacks(unsigned levels)
{
    return {.levels = levels, .physical_bits = 40, .global_pages = false, .shadow_stacks = true};
}
template <>
struct twins<shadow_features> {
    template <shadow_features F>
    using of = constant_format<shadow_description, F>;
    static constexpr shadow_features plain_5{.levels = 5, .physical_bits = 40, .global_pages = false};
    static constexpr shadow_features all_5{.levels = 5,
                                           .physical_bits = 40,
                                           .global_pages = false,
                                           .user_keys = true,
                                           .supervisor_keys = true,
                                           .shadow_stacks = true};
    static constexpr shadow_features keys_4{
        .levels = 4, .physical_bits = 40, .global_pages = false, .user_keys = true, .supervisor_keys = true};
    using all = std::tuple<of<amd_features(4, true)>, of<amd_features(4, false)>, of<amd_features(5, true)>,
                           of<amd_features(3, true)>, of<amd_features(2, false)>, of<with_shadow_stacks(4)>,
                           of<with_shadow_stacks(3)>, of<with_shadow_stacks(2)>, of<plain_5>, of<all_5>, of<keys_4>>;
};
template <>
struct twins<npt_features> {
    template <npt_features F>
    using of = constant_format<npt_description, F>;
    using all = std::tuple<of<npt_features{.physical_bits = 40}>,
                           of<npt_features{.physical_bits = 40, .execute_disable = false}>>;
};
template <>
struct twins<ept_features> {
    template <ept_features F>
    using of = constant_format<ept_description, F>;
    using all = std::tuple<of<ept_features{.physical_bits = 40}>,
                           of<ept_features{.physical_bits = 40, .accessed_dirty = false}>,
                           of<ept_features{.physical_bits = 40, .mode_based_execute = true}>,
                           of<ept_features{.physical_bits = 40, .supervisor_shadow_stack = true}>,
                           of<ept_features{.physical_bits = 40, .sub_page_write = true}>,
                           of<ept_features{.physical_bits = 40, .suppress_ve = true}>,
                           of<ept_features{.physical_bits = 40,
                                           .mode_based_execute = true,
                                           .supervisor_shadow_stack = true,
                                           .sub_page_write = true,
                                           .suppress_ve = true}>>;
};

/// Walks the cases of one file. Keeps a format for each set of switches.
template <class Features>
class walker {
public:
    explicit walker(const header& head) : head_(head) {}

    /// What is wrong with the features of a case.
    [[nodiscard]] const flaw& wrong(const switches& on) { return known(on).by->wrong(); }

    [[nodiscard]] walked run_time(const vector_case& c)
    {
        const format& f = known(c.on).by;
        return head_.levels == 2 ? run<std::uint32_t>(head_, c, f) : run<std::uint64_t>(head_, c, f);
    }

    /// Walks by a constant format of the same masks, if there is one: whether it did what the
    /// run-time format did. Nothing if there is none.
    [[nodiscard]] std::optional<bool> twin_agrees(const vector_case& c, const walked& expected)
    {
        const twin by_constants = known(c.on).by_constants;
        return by_constants != nullptr ? std::optional(by_constants(head_, c, expected)) : std::nullopt;
    }

private:
    using format = runtime_format<typename Features::description>;
    using twin = bool (*)(const header&, const vector_case&, const walked&);
    struct pair {
        format by;
        twin by_constants;
    };

    [[nodiscard]] const pair& known(const switches& on)
    {
        if (const auto found = formats_.find(on); found != formats_.end()) return found->second;
        const format f = format_for(features_of<Features>(head_, on));
        return formats_.emplace(on, pair{f, twin_of(f, std::type_identity<typename twins<Features>::all>{})})
            .first->second;
    }

    template <class Constant>
    static bool constant_agrees(const header& head, const vector_case& c, const walked& expected)
    {
        constexpr bool narrow = ptebits::detail::constant<Constant>->shape().entry_bits == 32;
        const walked w = run<std::conditional_t<narrow, std::uint32_t, std::uint64_t>>(head, c, Constant{});
        return w.ended == expected.ended && same(w.result, expected.result);
    }

    template <class... Constants>
    [[nodiscard]] static twin twin_of(const format& f, std::type_identity<std::tuple<Constants...>>)
    {
        twin found = nullptr;
        ((found = (found == nullptr && same_format(Constants{}, f)) ? &constant_agrees<Constants> : found), ...);
        return found;
    }

    header head_;
    std::map<switches, pair> formats_;
};

}  // namespace replay
