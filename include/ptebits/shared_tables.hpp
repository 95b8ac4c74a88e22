// SPDX-License-Identifier: BSL-1.0
// One tree of tables walked by two MMUs of different formats, as a CPU's EPT by a VT-d unit too: which tables may
// serve both, which bits keep others from it, and entries that mean the same to both.
#pragma once

#include <cstdint>

#include <ptebits/entry.hpp>

namespace ptebits {

/// How two formats differ in the entries of a kind and level: masks of bits. What one reserves must be 0 if both walk;
/// what one ignores has an effect on the other alone.
struct shared_bits {
    std::uint64_t first_reserves = 0;   ///< the second uses or ignores them
    std::uint64_t second_reserves = 0;  ///< the first uses or ignores them
    std::uint64_t first_ignores = 0;    ///< the second uses them
    std::uint64_t second_ignores = 0;   ///< the first uses them
    std::uint64_t different = 0;        ///< both use them, in different roles
    std::uint64_t contrary = 0;         ///< of one value to be the first's entry, and not the second's: never both

    [[nodiscard]] constexpr bool operator==(const shared_bits&) const = default;
};

namespace detail {

/// Bits that the MMU looks at.
[[nodiscard]] constexpr std::uint64_t used_bits(const layout& l) noexcept
{
    return l.all & ~(l.mask(role::software) | l.mask(role::written) | l.mask(role::reserved) | l.mask(role::beyond));
}
[[nodiscard]] constexpr std::uint64_t reserved_bits(const layout& l) noexcept
{
    return l.mask(role::reserved) | l.mask(role::beyond);
}

}  // namespace detail

/// The differences in the entries of a kind and level. Precondition: both formats have them.
template <entry_format First, entry_format Second>
[[nodiscard]] constexpr shared_bits shared_bits_of(unsigned level, kind k, const First& first,
                                                   const Second& second) noexcept
{
    const layout& a = first->layout_at(level, k);
    const layout& b = second->layout_at(level, k);
    const std::uint64_t a_used = detail::used_bits(a), b_used = detail::used_bits(b);
    const std::uint64_t a_reserved = detail::reserved_bits(a), b_reserved = detail::reserved_bits(b);
    const std::uint64_t a_fixed = a.mask(role::fixed), b_fixed = b.mask(role::fixed);
    std::uint64_t alike = 0;
    for (unsigned r = 0; r < role_count; ++r) alike |= a.masks[r] & b.masks[r];
    alike &= ~((a.denying ^ b.denying) & (a.permission_mask() | b.permission_mask()));
    return {.first_reserves = a_reserved & ~b_reserved,
            .second_reserves = b_reserved & ~a_reserved,
            .first_ignores = b_used & ~(a_used | a_reserved),
            .second_ignores = a_used & ~(b_used | b_reserved),
            .different = a_used & b_used & ~alike,
            .contrary = (a_fixed & b_fixed & (a.value ^ b.value)) | (a_fixed & a.value & b_reserved) |
                        (b_fixed & b.value & a_reserved)};
}

/// Why two formats have no tables in common.
enum class sharing_error : std::uint8_t {
    none,
    wrong_format,  ///< one of the formats is wrong
    shape,         ///< levels, sizes of tables or entries, or the smallest page
    bits,          ///< no entry that refers to a table, or no smallest page, is one for both
};

[[nodiscard]] constexpr const char* name(sharing_error e) noexcept
{
    constexpr const char* names[] = {"no error", "a format is wrong", "tables of different shapes",
                                     "entries that cannot be the same"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(sharing_error::bits) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// What tables two MMUs may walk.
struct shared_tables {
    sharing_error error = sharing_error::none;
    entries both;                     ///< of these, some are entries for both; of others none
    unsigned level = 0;               ///< with `bits`: where
    kind in = kind::none;             ///< and of which kind
    std::uint64_t contrary = 0;       ///< and which bits
    unsigned address_bits = 0;        ///< of the addresses that both translate
    bool flush_after_absent = false;  ///< one of them caches that entries are absent

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == sharing_error::none; }
};

/// Whether some tables may serve two MMUs, and which entries they may have. Whether a given entry does:
/// same_for_both().
template <entry_format First, entry_format Second>
[[nodiscard]] constexpr shared_tables share_tables(const First& first, const Second& second) noexcept
{
    const shape& a = first->shape();
    const shape& b = second->shape();
    shared_tables s;
    if (first->wrong().what != defect::none || second->wrong().what != defect::none) {
        s.error = sharing_error::wrong_format;
        return s;
    }
    bool same = a.levels == b.levels && a.entry_bits == b.entry_bits && a.granule == b.granule;
    for (unsigned level = 1; same && level <= a.levels; ++level) {
        same = a.index_bits_at(level) == b.index_bits_at(level);
    }
    if (!same) {
        s.error = sharing_error::shape;
        return s;
    }
    s.address_bits = a.address_bits();
    if (a.above != b.above) s.address_bits -= 1;  // canonical addresses: the lower half
    s.flush_after_absent = first->caches_absent() || second->caches_absent();
    for (unsigned level = 1; level <= a.levels; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            if (!first->exists(level, k) || !second->exists(level, k)) continue;
            const std::uint64_t contrary = shared_bits_of(level, k, first, second).contrary;
            if (contrary == 0) {
                s.both = s.both | entries(level, k);
            } else if (s.error == sharing_error::none && (level == 1 || k == kind::table)) {
                s.error = sharing_error::bits;
                s.level = level;
                s.in = k;
                s.contrary = contrary;
            }
        }
    }
    return s;
}

/// Whether an entry of a level means the same to both: absent to both; or legal, of one kind, with one address and
/// size, and the same rights to read and write. The right to execute, memory types and attributes are not compared.
template <entry_format First, entry_format Second>
[[nodiscard]] constexpr bool same_for_both(std::uint64_t entry, unsigned level, const First& first,
                                           const Second& second) noexcept
{
    if (!present(entry, first) || !present(entry, second)) return !present(entry, first) && !present(entry, second);
    if (!legal(entry, level, first) || !legal(entry, level, second)) return false;
    const kind k = kind_of(entry, level, first);
    const permissions a = permissions_of(entry, level, first), b = permissions_of(entry, level, second);
    return k == kind_of(entry, level, second) && a.read == b.read && a.write == b.write &&
           address_of(entry, level, first) == address_of(entry, level, second) &&
           page_shift_of(entry, level, first) == page_shift_of(entry, level, second) &&
           (k != kind::table || first->level_below(entry, level) == second->level_below(entry, level));
}

/// The entry for both: what encode() makes of the first's fields and of the second's, in one. `grant` is what the first
/// grants; the second grants its reads and writes. Errors: as encode(); value_not_legal where it does not mean the same
/// to both.
template <entry_format First, entry_format Second>
[[nodiscard]] constexpr encoded encode_for_both(kind k, unsigned level, std::uint64_t physical, permissions grant,
                                                const First& first, const Second& second,
                                                const field_values& also_first = {},
                                                const field_values& also_second = {}) noexcept
{
    const encoded a = encode(k, level, physical, grant, first, also_first);
    if (!a) return a;
    const encoded b = encode(k, level, physical, {.read = grant.read, .write = grant.write}, second, also_second);
    if (!b) return b;
    const std::uint64_t entry = a.entry | b.entry;
    if (!same_for_both(entry, level, first, second)) return {0, encode_error::value_not_legal};
    return {entry};
}

}  // namespace ptebits
