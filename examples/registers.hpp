// SPDX-License-Identifier: BSL-1.0
// The bits of control registers that say how ordinary paging works.
// Intel SDM volume 3, "Control Registers"; AMD APM volume 2, "System-Control Registers".
#pragma once

#include <cstdint>

#include <ptebits/field.hpp>
#include <ptebits/formats/shadow.hpp>

namespace registers {

struct cr0 {
    static constexpr ptebits::field write_protect = ptebits::bit(16);
    static constexpr ptebits::field paging = ptebits::bit(31);
};
struct cr4 {
    static constexpr ptebits::field page_size_extensions = ptebits::bit(4);
    static constexpr ptebits::field physical_address_extension = ptebits::bit(5);
    static constexpr ptebits::field global_pages = ptebits::bit(7);
    static constexpr ptebits::field five_levels = ptebits::bit(12);
    static constexpr ptebits::field pcide = ptebits::bit(17);
    static constexpr ptebits::field smep = ptebits::bit(20);
    static constexpr ptebits::field smap = ptebits::bit(21);
    static constexpr ptebits::field user_keys = ptebits::bit(22);
    static constexpr ptebits::field shadow_stacks = ptebits::bit(23);
    static constexpr ptebits::field supervisor_keys = ptebits::bit(24);
    static constexpr ptebits::field lass = ptebits::bit(27);
};
struct efer {
    static constexpr ptebits::field execute_disable = ptebits::bit(11);
};

[[nodiscard]] constexpr bool has(std::uint64_t value, ptebits::field bit) noexcept { return bit.get(value) != 0; }

/// What CR4 and EFER switch on in tables of so many levels; all else as the library has it.
[[nodiscard]] constexpr ptebits::shadow_features features_of(unsigned levels, std::uint64_t with_cr4,
                                                             std::uint64_t with_efer) noexcept
{
    return {.levels = levels,
            .execute_disable = has(with_efer, efer::execute_disable),
            .large_pages = levels != 2 || has(with_cr4, cr4::page_size_extensions),
            .global_pages = has(with_cr4, cr4::global_pages),
            .user_keys = levels >= 4 && has(with_cr4, cr4::user_keys),
            .supervisor_keys = levels >= 4 && has(with_cr4, cr4::supervisor_keys),
            .shadow_stacks = has(with_cr4, cr4::shadow_stacks)};
}

/// CR4 and EFER with what features_of() would make these features from.
[[nodiscard]] constexpr std::uint64_t cr4_of(const ptebits::shadow_features& f) noexcept
{
    return cr4::page_size_extensions(f.large_pages) | cr4::physical_address_extension(f.levels != 2) |
           cr4::global_pages(f.global_pages) | cr4::five_levels(f.levels == 5) | cr4::user_keys(f.user_keys) |
           cr4::shadow_stacks(f.shadow_stacks) | cr4::supervisor_keys(f.supervisor_keys);
}
[[nodiscard]] constexpr std::uint64_t efer_of(const ptebits::shadow_features& f) noexcept
{
    return efer::execute_disable(f.execute_disable);
}

}  // namespace registers
