// SPDX-License-Identifier: BSL-1.0
// The features of the library's formats, by the names of their members.
#pragma once

#include <span>
#include <string_view>
#include <variant>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>

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
        {"protection_keys", &f::protection_keys},
        {"hlat", &f::hlat},
        {"reserved_bit_8", &f::reserved_bit_8},
        {"encryption_bit", &f::encryption_bit},
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
        {"reserved_bit_8", &f::reserved_bit_8},
        {"guest_mode_execute_trap", &f::guest_mode_execute_trap},
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
        {"software_accessed", &f::software_accessed},
        {"memory_bits", &f::memory_bits},
    };
    return all;
}

}  // namespace named
