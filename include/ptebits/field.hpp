// SPDX-License-Identifier: BSL-1.0
// A field: a run of neighbouring bits, its mask, and the shift derived from the mask.
#pragma once

#include <ptebits/config.hpp>

#include <bit>
#include <concepts>
#include <cstdint>

namespace ptebits {

/// Broken preconditions, one function each. In a constant expression the compiler prints its
/// name; at run time the program stops there, before a wrong bit reaches an entry.
namespace broken {
[[noreturn]] inline void mask_is_not_one_run_of_bits() noexcept { stop(); }
[[noreturn]] inline void field_without_bits_has_no_shift() noexcept { stop(); }
[[noreturn]] inline void field_is_not_one_bit() noexcept { stop(); }
[[noreturn]] inline void value_does_not_fit_the_field() noexcept { stop(); }
}  // namespace broken

/// Mask of bits high..low; 0 if low > high. Bits above 63 are left out.
[[nodiscard]] constexpr std::uint64_t ones(unsigned high, unsigned low) noexcept
{
    if (low > high || low > 63) return 0;
    const unsigned top = high < 63 ? high : 63;
    return (~std::uint64_t{0} >> (63 - (top - low))) << low;
}

/// Whether a mask has more than one bit. (std::popcount would need libgcc in a kernel.)
[[nodiscard]] constexpr bool several_bits(std::uint64_t mask) noexcept { return (mask & (mask - 1)) != 0; }

/// Whether a mask is one bit: neither none nor several.
[[nodiscard]] constexpr bool one_bit(std::uint64_t mask) noexcept { return (mask ^ (mask - 1)) > mask - 1; }

namespace detail {

/// The word for a value of an enumeration.
template <unsigned Count>
[[nodiscard]] constexpr const char* word_of(const char* const (&words)[Count], unsigned value) noexcept
{
    return value < Count ? words[value] : "unknown";
}

}  // namespace detail

/// A run of neighbouring bits in an entry, or no bits at all: a field that the format
/// does not have under its features. The empty field reads as 0 and sets nothing.
class field {
public:
    constexpr field() = default;

    /// The field with this mask. Precondition: the mask is 0 or one run of ones.
    constexpr explicit field(std::uint64_t mask) noexcept : mask_(mask)
    {
        if (mask == 0) return;
        shift_ = static_cast<std::uint8_t>(std::countr_zero(mask));
        if ((mask >> shift_ & ((mask >> shift_) + 1)) != 0) broken::mask_is_not_one_run_of_bits();
    }

    /// The bits, in place.
    [[nodiscard]] constexpr std::uint64_t mask() const noexcept { return mask_; }

    /// Index of the lowest bit, 0 to 63. Precondition: exists().
    [[nodiscard]] constexpr unsigned shift() const noexcept
    {
        if (mask_ == 0) broken::field_without_bits_has_no_shift();
        return shift_;
    }

    /// Number of bits, 0 to 64.
    [[nodiscard]] constexpr unsigned width() const noexcept
    {
        return static_cast<unsigned>(std::bit_width(mask_)) - shift_;
    }

    /// Index of the only bit, 0 to 63. Precondition: the field is one bit.
    [[nodiscard]] constexpr unsigned only_shift() const noexcept
    {
        if (!one_bit(mask_)) broken::field_is_not_one_bit();
        return shift_;
    }

    [[nodiscard]] constexpr bool exists() const noexcept { return mask_ != 0; }
    [[nodiscard]] constexpr explicit operator bool() const noexcept { return exists(); }

    /// The value moved into place. Precondition: it fits (an empty field takes only 0).
    [[nodiscard]] constexpr std::uint64_t operator()(std::uint64_t value) const noexcept
    {
        const std::uint64_t placed = value << shift_ & mask_;
        if (placed >> shift_ != value) broken::value_does_not_fit_the_field();
        return placed;
    }

    /// The field's value in an entry, moved down to bit 0.
    [[nodiscard]] constexpr std::uint64_t get(std::uint64_t entry) const noexcept { return (entry & mask_) >> shift_; }

    /// The entry with the field set to a value, all else kept. Precondition: the value fits.
    [[nodiscard]] constexpr std::uint64_t put(std::uint64_t entry, std::uint64_t value) const noexcept
    {
        return (entry & ~mask_) | (*this)(value);
    }

    [[nodiscard]] constexpr bool operator==(const field&) const = default;

    // Setting fields by `|`, as entries are written by hand; the result is a plain value.
    [[nodiscard]] friend constexpr std::uint64_t operator|(field a, field b) noexcept { return a.mask_ | b.mask_; }
    [[nodiscard]] friend constexpr std::uint64_t operator|(std::uint64_t entry, field f) noexcept
    {
        return entry | f.mask_;
    }
    [[nodiscard]] friend constexpr std::uint64_t operator|(field f, std::uint64_t entry) noexcept
    {
        return entry | f.mask_;
    }

private:
    std::uint64_t mask_ = 0;
    std::uint8_t shift_ = 0;
};

/// The field of one bit. Units: bit index, 0 to 63; any other index gives the empty field.
[[nodiscard]] constexpr field bit(unsigned index) noexcept { return field{ones(index, index)}; }

/// The field of bits high..low, as manuals write it; empty if low > high.
[[nodiscard]] constexpr field bits(unsigned high, unsigned low) noexcept { return field{ones(high, low)}; }

/// The field of a hand-written mask, to compare it with a format's. Compile time only: a mask that is
/// not one run of bits does not compile. A mask of 0 gives the empty field.
[[nodiscard]] consteval field field_of(std::uint64_t mask) noexcept { return field{mask}; }

/// Whether no two of these masks share a bit.
template <std::convertible_to<std::uint64_t>... Masks>
[[nodiscard]] constexpr bool disjoint(Masks... masks) noexcept
{
    [[maybe_unused]] std::uint64_t seen = 0;
    bool apart = true;
    ((apart = apart && (seen & static_cast<std::uint64_t>(masks)) == 0, seen |= static_cast<std::uint64_t>(masks)),
     ...);
    return apart;
}

}  // namespace ptebits
