// SPDX-License-Identifier: BSL-1.0
// The features of the library's formats, by the names of their members.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include <ptebits/formats/aarch64.hpp>
#include <ptebits/formats/amdvi.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/riscv.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/formats/vtd.hpp>

#include "numbers.hpp"

namespace named {

template <class Features>
struct feature {
    std::string_view name;
    std::variant<unsigned Features::*, bool Features::*, ptebits::optional_bits Features::*> member;
};

[[nodiscard]] inline std::span<const feature<ptebits::shadow_features>> features_of(const ptebits::shadow_features&)
{
    using f = ptebits::shadow_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},
        {"physical_bits", &f::physical_bits},
        {"execute_disable", &f::execute_disable},
        {"gigabyte_pages", &f::gigabyte_pages},
        {"large_pages", &f::large_pages},
        {"pse36", &f::pse36},
        {"global_pages", &f::global_pages},
        {"user_keys", &f::user_keys},
        {"supervisor_keys", &f::supervisor_keys},
        {"shadow_stacks", &f::shadow_stacks},
        {"hlat", &f::hlat},
        {"break_before_resize", &f::break_before_resize},
        {"reserved_bit_8", &f::reserved_bit_8},
        {"encryption_bit", &f::encryption_bit},
        {"shared_bit", &f::shared_bit},
        {"key_id_bits", &f::key_id_bits},
        {"memory_bits", &f::memory_bits},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::npt_features>> features_of(const ptebits::npt_features&)
{
    using f = ptebits::npt_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},
        {"physical_bits", &f::physical_bits},
        {"execute_disable", &f::execute_disable},
        {"gigabyte_pages", &f::gigabyte_pages},
        {"large_pages", &f::large_pages},
        {"pse36", &f::pse36},
        {"break_before_resize", &f::break_before_resize},
        {"reserved_bit_8", &f::reserved_bit_8},
        {"guest_mode_execute_trap", &f::guest_mode_execute_trap},
        {"supervisor_shadow_stack", &f::supervisor_shadow_stack},
        {"read_only_guest_tables", &f::read_only_guest_tables},
        {"encryption_bit", &f::encryption_bit},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::ept_features>> features_of(const ptebits::ept_features&)
{
    using f = ptebits::ept_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},
        {"physical_bits", &f::physical_bits},
        {"accessed_dirty", &f::accessed_dirty},
        {"execute_only", &f::execute_only},
        {"large_pages", &f::large_pages},
        {"gigabyte_pages", &f::gigabyte_pages},
        {"mode_based_execute", &f::mode_based_execute},
        {"verify_guest_paging", &f::verify_guest_paging},
        {"paging_write", &f::paging_write},
        {"supervisor_shadow_stack", &f::supervisor_shadow_stack},
        {"sub_page_write", &f::sub_page_write},
        {"suppress_ve", &f::suppress_ve},
        {"break_before_resize", &f::break_before_resize},
        {"key_id_bits", &f::key_id_bits},
        {"software_accessed", &f::software_accessed},
        {"memory_bits", &f::memory_bits},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::riscv_features>> features_of(const ptebits::riscv_features&)
{
    using f = ptebits::riscv_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},   {"physical_bits", &f::physical_bits},
        {"svnapot", &f::svnapot}, {"svpbmt", &f::svpbmt},
        {"svadu", &f::svadu},     {"svrsw60t59b", &f::svrsw60t59b},
        {"svvptc", &f::svvptc},   {"global_pages", &f::global_pages},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::gstage_features>> features_of(const ptebits::gstage_features&)
{
    using f = ptebits::gstage_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels}, {"physical_bits", &f::physical_bits}, {"svnapot", &f::svnapot}, {"svpbmt", &f::svpbmt},
        {"svadu", &f::svadu},   {"svrsw60t59b", &f::svrsw60t59b},     {"svvptc", &f::svvptc},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::aarch64_stage1_features>> features_of(
    const ptebits::aarch64_stage1_features&)
{
    using f = ptebits::aarch64_stage1_features;
    static constexpr feature<f> all[] = {
        {"granule", &f::granule},
        {"input_bits", &f::input_bits},
        {"physical_bits", &f::physical_bits},
        {"access_flag", &f::access_flag},
        {"dirty_state", &f::dirty_state},
        {"hierarchical", &f::hierarchical},
        {"large_addresses", &f::large_addresses},
        {"upper_half", &f::upper_half},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::aarch64_el2_features>> features_of(
    const ptebits::aarch64_el2_features&)
{
    using f = ptebits::aarch64_el2_features;
    static constexpr feature<f> all[] = {
        {"granule", &f::granule},
        {"input_bits", &f::input_bits},
        {"physical_bits", &f::physical_bits},
        {"access_flag", &f::access_flag},
        {"dirty_state", &f::dirty_state},
        {"hierarchical", &f::hierarchical},
        {"large_addresses", &f::large_addresses},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::aarch64_stage2_features>> features_of(
    const ptebits::aarch64_stage2_features&)
{
    using f = ptebits::aarch64_stage2_features;
    static constexpr feature<f> all[] = {
        {"granule", &f::granule},
        {"levels", &f::levels},
        {"input_bits", &f::input_bits},
        {"physical_bits", &f::physical_bits},
        {"access_flag", &f::access_flag},
        {"dirty_state", &f::dirty_state},
        {"execute_by_level", &f::execute_by_level},
        {"large_addresses", &f::large_addresses},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::vtd_second_features>> features_of(
    const ptebits::vtd_second_features&)
{
    using f = ptebits::vtd_second_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},           {"physical_bits", &f::physical_bits},
        {"large_pages", &f::large_pages}, {"gigabyte_pages", &f::gigabyte_pages},
        {"scalable", &f::scalable},       {"accessed_dirty", &f::accessed_dirty},
        {"coherent", &f::coherent},       {"snoop_control", &f::snoop_control},
        {"transient", &f::transient},     {"caching_mode", &f::caching_mode},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::vtd_first_features>> features_of(
    const ptebits::vtd_first_features&)
{
    using f = ptebits::vtd_first_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},
        {"physical_bits", &f::physical_bits},
        {"execute_disable", &f::execute_disable},
        {"gigabyte_pages", &f::gigabyte_pages},
        {"coherent", &f::coherent},
        {"caching_mode", &f::caching_mode},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::amdvi_host_features>> features_of(
    const ptebits::amdvi_host_features&)
{
    using f = ptebits::amdvi_host_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},         {"physical_bits", &f::physical_bits}, {"accessed_bits", &f::accessed_bits},
        {"dirty_bits", &f::dirty_bits}, {"coded_sizes", &f::coded_sizes},     {"caches_absent", &f::caches_absent},
    };
    return all;
}

[[nodiscard]] inline std::span<const feature<ptebits::amdvi_guest_features>> features_of(
    const ptebits::amdvi_guest_features&)
{
    using f = ptebits::amdvi_guest_features;
    static constexpr feature<f> all[] = {
        {"levels", &f::levels},
        {"physical_bits", &f::physical_bits},
        {"execute_disable", &f::execute_disable},
        {"gigabyte_pages", &f::gigabyte_pages},
        {"caches_absent", &f::caches_absent},
    };
    return all;
}

/// Those of tables that a dump of an x86 machine has, and of entries of any format.
using any_features = std::variant<ptebits::shadow_features, ptebits::npt_features, ptebits::ept_features>;
using any_entry_features =
    std::variant<ptebits::shadow_features, ptebits::npt_features, ptebits::ept_features, ptebits::riscv_features,
                 ptebits::gstage_features, ptebits::vtd_second_features, ptebits::vtd_first_features,
                 ptebits::amdvi_host_features, ptebits::amdvi_guest_features>;

/// What is wrong with a format or a feature that somebody named.
struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[nodiscard]] inline std::string in_quotes(std::string_view text) { return "'" + std::string(text) + "'"; }

/// The features of a format as the library has them. Throws error.
[[nodiscard]] inline any_features format_named(std::string_view format)
{
    if (format == "npt") return ptebits::npt_features{};
    if (format == "ept") return ptebits::ept_features{};
    if (format == "shadow" || format == "x86") return ptebits::shadow_features{};
    throw error("FORMAT is shadow, x86, npt or ept, not " + in_quotes(format));
}

/// The same for entries alone, of RISC-V and IOMMUs too.
[[nodiscard]] inline any_entry_features entry_format_named(std::string_view format)
{
    if (format == "riscv") return ptebits::riscv_features{};
    if (format == "gstage") return ptebits::gstage_features{};
    if (format == "vtd_second") return ptebits::vtd_second_features{};
    if (format == "vtd_first") return ptebits::vtd_first_features{};
    if (format == "amdvi_host") return ptebits::amdvi_host_features{};
    if (format == "amdvi_guest") return ptebits::amdvi_guest_features{};
    if (format != "npt" && format != "ept" && format != "shadow" && format != "x86")
        throw error(
            "FORMAT is shadow, x86, npt, ept, riscv, gstage, vtd_second, vtd_first, amdvi_host or amdvi_guest, not " +
            in_quotes(format));
    return std::visit([](const auto& features) -> any_entry_features { return features; }, format_named(format));
}

/// Sets a feature by its name. Throws error.
template <class Features>
void set_feature(Features& features, std::string_view key, std::string_view value)
{
    std::string known;
    for (const auto& f : features_of(features)) {
        known += (known.empty() ? "" : ", ") + std::string(f.name);
        if (f.name != key) continue;
        const auto number = numbers::decimal(value);
        std::visit(
            [&](auto member) {
                using type = std::remove_reference_t<decltype(features.*member)>;
                const bool is_switch = std::is_same_v<type, bool>;
                if (!number || (is_switch && *number > 1)) {
                    throw error(std::string(key) + (is_switch ? " is 0 or 1" : " is a decimal number") + ", not " +
                                in_quotes(value));
                }
                if constexpr (is_switch) {
                    features.*member = *number == 1;
                } else {
                    features.*member = *number;
                }
            },
            f.member);
        return;
    }
    throw error("no such feature: " + in_quotes(key) + "; there are " + known);
}

/// Sets a feature by FEATURE=VALUE. Throws error.
template <class Features>
void set_feature(Features& features, std::string_view word)
{
    const std::size_t equals = word.find('=');
    if (equals == word.npos) throw error(in_quotes(word) + " is not FEATURE=VALUE");
    set_feature(features, word.substr(0, equals), word.substr(equals + 1));
}

}  // namespace named
