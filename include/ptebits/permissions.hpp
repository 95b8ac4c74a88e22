// SPDX-License-Identifier: BSL-1.0
// What entries allow.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/config.hpp>

namespace ptebits {

/// What an entry allows. In a walk, what all entries on the way allow together.
struct permissions {
    bool read = true;
    bool write = true;
    bool execute = true;  ///< in supervisor mode, where the format tells modes apart
    bool user = true;     ///< any access in user mode
    /// Execution in user mode. Who does not mention it grants it where both user access and execution are
    /// granted, so that a feature that tells the modes apart opens nothing.
    bool user_execute = execute && user;

    [[nodiscard]] constexpr bool operator==(const permissions&) const = default;

    /// What both allow.
    [[nodiscard]] friend constexpr permissions operator&(const permissions& a, const permissions& b) noexcept
    {
        return {a.read && b.read, a.write && b.write, a.execute && b.execute, a.user && b.user,
                a.user_execute && b.user_execute};
    }
};

namespace detail {

/// Permissions as a number below 32, in which user_execute is bit 4: below 16 without it.
[[nodiscard]] PTEBITS_INLINE constexpr unsigned number_of(const permissions& p, bool user_execute) noexcept
{
    const unsigned above = user_execute && p.user_execute ? 16 : 0;
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (!std::is_constant_evaluated()) {
        // Compilers take bools from a register one by one. Here four bytes of 0 or 1 become four
        // bits by one multiplication: byte n is wanted at bit 21 + n, and no two products meet.
        static_assert(sizeof(permissions) == 5);
        std::uint32_t bytes = 0;
        __builtin_memcpy(&bytes, &p, sizeof bytes);
        return (bytes * (1U << 21 | 1U << 14 | 1U << 7 | 1U) >> 21 & 15U) | above;
    }
#endif
    return unsigned{p.read} | unsigned{p.write} << 1 | unsigned{p.execute} << 2 | unsigned{p.user} << 3 | above;
}

}  // namespace detail

/// Nothing is allowed.
inline constexpr permissions no_permissions{false, false, false, false, false};

}  // namespace ptebits
