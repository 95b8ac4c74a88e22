// SPDX-License-Identifier: BSL-1.0
// Sets of entries by level and kind, which rows and fields apply to; and named fields, which know
// these entries.
#pragma once

#include <cstdint>

#include <ptebits/field.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void field_does_not_stand_in_this_entry() noexcept { stop(); }
}  // namespace broken

/// What an entry is.
enum class kind : std::uint8_t {
    none,   ///< absent: refers to no page and no table
    table,  ///< refers to a table of a lower level
    leaf,   ///< maps a page
    run,    ///< maps a page together with its neighbours: one of 2^n entries alike
};
/// How many kinds there are.
inline constexpr unsigned kind_count = static_cast<unsigned>(kind::run) + 1;

/// The kinds of entries that the MMU uses.
inline constexpr kind present_kinds[] = {kind::table, kind::leaf, kind::run};

[[nodiscard]] constexpr const char* name(kind k) noexcept
{
    constexpr const char* names[] = {"absent", "table", "leaf", "run"};
    return detail::word_of(names, static_cast<unsigned>(k));
}

/// Most levels that a format can have. Level 1 is the level of the smallest page.
inline constexpr unsigned max_levels = 6;

/// A set of entries, by level and kind. Absent entries are the same at every level.
class entries {
public:
    constexpr entries() = default;
    constexpr entries(unsigned level, kind k) noexcept : set_(bit_of(level, k)) {}

    [[nodiscard]] constexpr bool contains(unsigned level, kind k) const noexcept
    {
        return (set_ & bit_of(level, k)) != 0;
    }
    [[nodiscard]] constexpr bool empty() const noexcept { return set_ == 0; }

    [[nodiscard]] friend constexpr entries operator|(entries a, entries b) noexcept
    {
        a.set_ |= b.set_;
        return a;
    }
    [[nodiscard]] friend constexpr entries operator&(entries a, entries b) noexcept
    {
        a.set_ &= b.set_;
        return a;
    }
    [[nodiscard]] constexpr bool operator==(const entries&) const = default;

private:
    static constexpr std::uint32_t bit_of(unsigned level, kind k) noexcept
    {
        if (k == kind::none) return 1;
        const bool exists = level >= 1 && level <= max_levels;
        return exists ? std::uint32_t{1} << ((level - 1) * 3 + static_cast<unsigned>(k)) : 0;
    }
    std::uint32_t set_ = 0;
};

/// The entries of one kind at one level. Units: level, 1 is that of the smallest page.
[[nodiscard]] constexpr entries table_at(unsigned level) noexcept { return {level, kind::table}; }
[[nodiscard]] constexpr entries leaf_at(unsigned level) noexcept { return {level, kind::leaf}; }
[[nodiscard]] constexpr entries run_at(unsigned level) noexcept { return {level, kind::run}; }

/// The entries of one kind at several levels, from..to, both included.
[[nodiscard]] constexpr entries entries_from(unsigned from, unsigned to, kind k) noexcept
{
    entries all;
    for (unsigned level = from; level <= to && level <= max_levels; ++level) all = all | entries(level, k);
    return all;
}

/// All entries that refer to a table, from level 2 up to a level.
[[nodiscard]] constexpr entries tables_up_to(unsigned level) noexcept { return entries_from(2, level, kind::table); }
/// All leaves, from level 1 up to a level.
[[nodiscard]] constexpr entries leaves_up_to(unsigned level) noexcept { return entries_from(1, level, kind::leaf); }

/// All entries that refer to a table.
inline constexpr entries tables = tables_up_to(max_levels);
/// All entries of runs of leaves.
inline constexpr entries runs = entries_from(1, max_levels, kind::run);
/// All entries that map a page, those of runs too.
inline constexpr entries leaves = leaves_up_to(max_levels) | runs;
/// All entries but the absent ones.
inline constexpr entries every = tables | leaves;
/// Absent entries, which are the same at every level.
inline constexpr entries absent = entries(1, kind::none);

class entry_field;

/// Values of fields in place, and the entries that have all these fields: what `|` makes of an
/// address and named fields. Converts to the plain value.
class field_values {
public:
    constexpr field_values() = default;
    constexpr field_values(std::uint64_t bits, entries in) noexcept : bits_(bits), in_(in) {}
    constexpr field_values(const entry_field& f) noexcept;  // all its bits set

    [[nodiscard]] constexpr operator std::uint64_t() const noexcept { return bits_; }
    [[nodiscard]] constexpr entries in() const noexcept { return in_; }

    /// Precondition: some entry has all of these fields. A field without bits fits anywhere.
    [[nodiscard]] friend constexpr field_values operator|(const field_values& a, const field_values& b) noexcept
    {
        if (b.bits_ == 0 && b.in_.empty()) return a;
        if (a.bits_ == 0 && a.in_.empty()) return b;
        const entries both = a.in_ & b.in_;
        if (both.empty()) broken::field_does_not_stand_in_this_entry();
        return {a.bits_ | b.bits_, both};
    }

private:
    std::uint64_t bits_ = 0;
    entries in_;
};

/// A named field of a format, which knows the entries that have it. Empty where the format
/// lacks it under its features.
class entry_field : public field {
public:
    constexpr entry_field() = default;
    constexpr entry_field(field at, entries in) noexcept : field(at), in_(in) {}

    [[nodiscard]] constexpr entries in() const noexcept { return in_; }

    /// The value moved into place. Precondition: it fits (an empty field takes only 0).
    [[nodiscard]] constexpr field_values operator()(std::uint64_t value) const noexcept
    {
        return {field::operator()(value), in_};
    }

    [[nodiscard]] friend constexpr field_values operator|(const entry_field& a, const entry_field& b) noexcept
    {
        return field_values(a) | field_values(b);
    }
    [[nodiscard]] friend constexpr field_values operator|(const field_values& a, const entry_field& b) noexcept
    {
        return a | field_values(b);
    }
    [[nodiscard]] friend constexpr field_values operator|(const entry_field& a, const field_values& b) noexcept
    {
        return field_values(a) | b;
    }

private:
    entries in_;
};

constexpr field_values::field_values(const entry_field& f) noexcept : bits_(f.mask()), in_(f.in()) {}

}  // namespace ptebits
