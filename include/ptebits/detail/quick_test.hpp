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
struct entry_test {
    std::uint64_t mask = 0;
    std::uint64_t value = 0;
    std::uint64_t low_bits = 0;  // bit n: the combination n is good

    [[nodiscard]] PTEBITS_INLINE constexpr bool passes(std::uint64_t entry) const noexcept
    {
        return (entry & mask) == value && (low_bits >> (entry & 63) & 1) != 0;
    }
};

/// The same, and what is known of it beforehand.
struct quick_test : entry_test {
    bool by_low_bits = true;   // else each combination that has the value is good
    std::uint64_t judged = 0;  // the bits that count: entries alike in them have the same result

    /// For tests that are constants: one that does not go by the lowest bits is one comparison.
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

/// The bits of a page's layout for permissions and A that entries of another layout lack: an entry without
/// a bit for a permission (PAE's top level) takes nothing away.
[[nodiscard]] constexpr std::uint64_t silent_in(const layout& l, const layout& page) noexcept
{
    return (page.permission_mask() & ~l.permission_mask()) | (page.mask(role::accessed) & ~l.mask(role::accessed));
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
    const auto& kinds = format->tests_at(level);
    for (unsigned n = 0; n < kind_count - 1; ++n) {
        if (kinds.is[n] == kind::none || kinds.is[n] == k) break;  // kinds that are tried later do not matter
        const auto& t = kinds.tests[n];
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
    return {{compared, value & compared, good}, !all_good, judged};
}

/// How a walk goes through a level. Entries that have one value in some bits refer to a table, and are legal; at
/// level 1 none has.
struct walk_level {
    std::uint64_t table_mask = 0;
    std::uint64_t table_value = 1;
    std::uint64_t silent = 0;  // what tables' entries lack of a page's permissions, and A
    entry_test leaf;
    std::uint32_t slots = 0;  // the slot's offset in its table: these bits of the address, shifted down
    std::uint32_t slot_shift = 0;
};

/// What a walk by a format known at run time compares entries with, in place of all questions.
struct walk_plan {
    walk_level levels[max_levels];              // from level 1 up
    std::uint64_t address = 0;                  // of the table that an entry refers to: these bits,
    std::uint32_t address_shift = 0;            // shifted up
    bool usable = false;                        // whether walks may go by it
    std::uint64_t no_root = ~std::uint64_t{0};  // bits that are clear in a root
};

/// Computes the plan of a format; not usable where entries must be asked more.
template <class F>
[[nodiscard]] constexpr walk_plan walk_plan_of(const F& format) noexcept
{
    const shape& s = format->shape();
    const layout& page = format->layout_at(1, kind::leaf);
    const unsigned slot_bits = s.entry_bits == 64 ? 3 : 2;
    walk_plan plan;
    if (!format->permissions_in_place() || s.granule < slot_bits || page.sized) return plan;
    if (format->uses(role::next_level) || format->uses(role::dirty_modifier)) return plan;
    for (unsigned level = 1; level <= s.levels; ++level) {
        walk_level& at = plan.levels[level - 1];
        at.slots = static_cast<std::uint32_t>(ones(s.index_bits_at(level) - 1U, 0) << slot_bits);
        at.slot_shift = s.page_shift(level) - slot_bits;
        const layout& leaf = format->layout_at(level, kind::leaf);
        if (silent_in(leaf, page) == 0) at.leaf = quick_test_of(level, kind::leaf, format);
        if (level == 1) continue;
        const layout& table = format->layout_at(level, kind::table);
        const address_piece& piece = table.pieces[0];
        if (!piece.at.exists() || table.pieces[1].at.exists() || piece.holds < piece.at.shift()) return plan;
        const unsigned shift = piece.holds - piece.at.shift();
        if (plan.address != 0 && (plan.address != piece.at.mask() || plan.address_shift != shift)) return plan;
        plan.address = piece.at.mask();
        plan.address_shift = shift;
        at.silent = silent_in(table, page);
        // One that goes by the lowest bits, too, is left to the slow path.
        const quick_test test = quick_test_of(level, kind::table, format);
        if (test.by_low_bits) continue;
        at.table_mask = test.mask;
        at.table_value = test.value;
    }
    plan.no_root =
        ones(s.table_shift(s.levels) - 1U, 0) | ~(page.address_in(~std::uint64_t{0}) | ones(s.granule - 1U, 0));
    plan.usable = true;
    return plan;
}

}  // namespace ptebits::detail
