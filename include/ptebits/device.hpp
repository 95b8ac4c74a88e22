// SPDX-License-Identifier: BSL-1.0
// What a device asks of an IOMMU, for Intel's and AMD's alike.
#pragma once

#include <cstdint>

#include <ptebits/x86.hpp>

namespace ptebits {

/// One access of a device. Atomic operations are operation::read_write.
struct device_access {
    operation what = operation::read;
    bool user = true;          ///< first stage, guest tables: not a privileged request
    bool first_stage = false;  ///< second stage, host tables: made by the walk of the tables above

    [[nodiscard]] constexpr bool writes() const noexcept
    {
        return what == operation::write || what == operation::read_write;
    }
    [[nodiscard]] constexpr bool reads() const noexcept { return what != operation::write; }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == operation::fetch; }
    [[nodiscard]] constexpr bool operator==(const device_access&) const = default;
};

/// The controls of tables in the CPU's format.
struct device_controls {
    bool write_protect = true;  ///< VT-d's WPE: privileged requests do not write pages without R/W
    bool smep = false;          ///< VT-d's SMEP: privileged requests do not execute pages of user mode

    [[nodiscard]] constexpr bool operator==(const device_controls&) const = default;
};

/// An aligned block of 2^shift bytes, as invalidations take them.
struct address_block {
    std::uint64_t first = 0;
    unsigned shift = 64;  ///< 64: all addresses

    [[nodiscard]] constexpr bool operator==(const address_block&) const = default;
};

/// The smallest aligned block of pages of 4 Kbytes that holds a range. Precondition: first <= last.
[[nodiscard]] constexpr address_block block_around(std::uint64_t first, std::uint64_t last) noexcept
{
    unsigned shift = 12;
    while (shift < 64 && first >> shift != last >> shift) ++shift;
    return {shift == 64 ? 0 : first >> shift << shift, shift};
}

namespace detail {

/// Whether permissions of the CPU's format allow a device's access.
[[nodiscard]] PTEBITS_INLINE constexpr bool device_allows(permissions page, const device_access& a,
                                                          const device_controls& c) noexcept
{
    return ordinary_paging::allows(page, {.what = a.what, .user = a.user},
                                   {.write_protect = c.write_protect, .smep = c.smep});
}

}  // namespace detail

}  // namespace ptebits
