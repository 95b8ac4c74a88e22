// SPDX-License-Identifier: BSL-1.0
// One comparison that only present and legal entries of a kind pass. Code that uses it checks all
// rules only for entries that do not pass.
#pragma once

#include <cstdint>

#include <ptebits/layout.hpp>

namespace ptebits::detail {

/// A test that only present and legal entries of one kind pass, though not all of them: some bits
/// must have one value, and the six lowest bits must be one of a set of good combinations. By default
/// nothing passes.
struct quick_test {
    std::uint64_t mask = 0;
    std::uint64_t value = 0;
    bool by_low_bits = true;
    std::uint64_t low_bits = 0;  // bit n: the combination n is good
    std::uint64_t judged = 0;    // the bits that count: entries alike in them have the same result

    [[nodiscard]] PTEBITS_INLINE constexpr bool passes(std::uint64_t entry) const noexcept
    {
        if ((entry & mask) != value) return false;
        return !by_low_bits || (low_bits >> (entry & 63) & 1) != 0;
    }
};

/// The numbers below 64 that have these values in the bits of a mask: bit n stands for n.
[[nodiscard]] constexpr std::uint64_t numbers_with(std::uint64_t mask, std::uint64_t value) noexcept
{
    constexpr std::uint64_t with_bit[] = {0xaaaa'aaaa'aaaa'aaaa, 0xcccc'cccc'cccc'cccc, 0xf0f0'f0f0'f0f0'f0f0,
                                          0xff00'ff00'ff00'ff00, 0xffff'0000'ffff'0000, 0xffff'ffff'0000'0000};
    std::uint64_t numbers = ~std::uint64_t{0};
    for (unsigned n = 0; n < 6; ++n) {
        if ((mask >> n & 1) != 0) numbers &= (value >> n & 1) != 0 ? with_bit[n] : ~with_bit[n];
    }
    return numbers;
}

/// Where any permission makes an entry present, the one that the quick test asks for; else 0.
template <class F>
[[nodiscard]] constexpr std::uint64_t sure_permission_of(unsigned level, const F& format) noexcept
{
    const std::uint64_t any = format->tests_at(level).any;
    return any != ~std::uint64_t{0} ? any & ~(any - 1) : 0;
}

/// The quick test of the entries of a kind and level.
template <class F>
[[nodiscard]] constexpr quick_test quick_test_of(unsigned level, kind k, const F& format) noexcept
{
    if (!format->exists(level, k)) return {};
    const layout& l = format->layout_at(level, k);
    std::uint64_t mask = ~l.all | l.mask(role::reserved) | l.mask(role::beyond) | l.mask(role::fixed);
    std::uint64_t value = l.value & l.mask(role::fixed);
    // Where any permission makes an entry present, only entries that have the lowest one pass.
    const std::uint64_t sure = sure_permission_of(level, format);
    if ((mask & sure) != 0) return {};
    mask |= sure;
    value |= sure;
    if (l.sized) return {};
    const std::uint64_t alike = numbers_with(mask, value);
    std::uint64_t good = alike;
    for (const auto& t : format->tests_at(level).tests) {
        if (t.is == kind::none) continue;
        if (t.is == k) break;  // kinds that are tried later do not matter
        // Another kind must be told apart by the bits of the mask, or by the six lowest alone.
        if (((t.value ^ value) & t.mask & mask) != 0) continue;
        if ((t.mask & ~(mask | 63)) != 0) return {};
        good &= ~numbers_with(t.mask, t.value);
    }
    for (const auto& c : format->combinations()) {
        if (!c.in.contains(level, k)) continue;
        if (const std::uint64_t high = c.value & ~(c.value - 1); (c.mask & 63) == 0 && high != 0) {
            // Above the six lowest bits: entries with the lowest of these bits set do not pass.
            if ((value & high) != 0) return {};
            mask |= high;
        } else {
            good &= ~numbers_with(c.mask, c.value);
        }
    }
    const bool all_good = good == alike;
    const std::uint64_t compared = all_good ? mask : mask & ~std::uint64_t{63};
    std::uint64_t judged = compared;
    for (unsigned n = 0; n < 6; ++n) {
        // Whether some good combination is not good with this bit changed.
        const std::uint64_t with_bit = good >> (1U << n);
        if (((with_bit ^ good) & numbers_with(1U << n, 0)) != 0) judged |= 1U << n;
    }
    return {compared, value & compared, !all_good, good, judged};
}

}  // namespace ptebits::detail
