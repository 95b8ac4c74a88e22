// SPDX-License-Identifier: BSL-1.0
// Masks that are set once at start-up, as a shadow MMU does, with the accessed shift derived from
// the accessed mask.
#pragma once

#include <cstdint>

#include <ptebits/field.hpp>

namespace ptebits {

/// Masks of an entry, in place. 0: the format has no such bit.
struct mask_values {
    std::uint64_t present = 0;  ///< an entry is present if any of these is set
    std::uint64_t user = 0;
    std::uint64_t accessed = 0;    ///< one bit
    std::uint64_t dirty = 0;       ///< one bit
    std::uint64_t no_execute = 0;  ///< one bit that denies execution
    std::uint64_t execute = 0;     ///< bits that grant execution
};

/// What is wrong with a set of masks.
enum class masks_error : std::uint8_t {
    none,
    no_present_bit,         ///< nothing could ever be present
    accessed_several_bits,  ///< more than one bit where one is meant
    dirty_several_bits,
    no_execute_several_bits,
    overlap,            ///< a bit in two masks; only present may share bits, with permissions
    execute_both_ways,  ///< both a bit that denies execution and bits that grant it
};

[[nodiscard]] constexpr const char* name(masks_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "no present bit",
                                     "the accessed mask has several bits",
                                     "the dirty mask has several bits",
                                     "the no-execute mask has several bits",
                                     "two masks share a bit",
                                     "both a no-execute and an execute mask"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The first thing wrong with a set of masks.
[[nodiscard]] constexpr masks_error check(const mask_values& m) noexcept
{
    if (m.present == 0) return masks_error::no_present_bit;
    if (several_bits(m.accessed)) return masks_error::accessed_several_bits;
    if (several_bits(m.dirty)) return masks_error::dirty_several_bits;
    if (several_bits(m.no_execute)) return masks_error::no_execute_several_bits;
    if (!disjoint(m.user, m.accessed, m.dirty, m.no_execute, m.execute)) return masks_error::overlap;
    if (!disjoint(m.present, m.accessed, m.dirty, m.no_execute)) return masks_error::overlap;
    if (m.no_execute != 0 && m.execute != 0) return masks_error::execute_both_ways;
    return masks_error::none;
}

namespace broken {
[[noreturn]] inline void masks_have_no_accessed_bit() noexcept { stop(); }
}  // namespace broken

/// Masks known at run time only: age(), mark_accessed(), clear_dirty(), unmap() and the
/// operations on tables take them in place of a format.
class masks {
public:
    /// Masks from a shadow MMU's settings. Errors: error() is what check() finds; test it first. With
    /// faulty masks no entry is present, nothing but unmap() changes a slot, and age() stops the program.
    [[nodiscard]] static constexpr masks from(const mask_values& values) noexcept { return masks(values); }

    [[nodiscard]] constexpr const masks* operator->() const noexcept { return this; }

    [[nodiscard]] constexpr masks_error error() const noexcept { return error_; }
    [[nodiscard]] constexpr bool valid() const noexcept { return error_ == masks_error::none; }

    [[nodiscard]] constexpr bool has_accessed() const noexcept { return accessed.exists(); }
    [[nodiscard]] constexpr bool has_dirty() const noexcept { return dirty.exists(); }

    /// Bit index of the accessed bit. Precondition: has_accessed().
    [[nodiscard]] constexpr unsigned accessed_shift() const noexcept
    {
        if (!has_accessed()) broken::masks_have_no_accessed_bit();
        return accessed.shift();
    }

    [[nodiscard]] constexpr std::uint64_t present_mask() const noexcept { return values_.present; }
    [[nodiscard]] constexpr std::uint64_t empty() const noexcept { return 0; }
    [[nodiscard]] constexpr const mask_values& values() const noexcept { return values_; }

    field accessed;
    field dirty;

private:
    constexpr explicit masks(const mask_values& values) noexcept : error_(check(values))
    {
        if (error_ != masks_error::none) return;
        values_ = values;
        accessed = field{values.accessed};
        dirty = field{values.dirty};
    }

    mask_values values_;
    masks_error error_;
};

namespace detail {
/// Constant masks as an object of an empty type.
template <mask_values Values>
struct constant_mask_set {
    static_assert(check(Values) != masks_error::no_present_bit, "ptebits: a present mask of 0 makes no entry present");
    static_assert(check(Values) != masks_error::accessed_several_bits, "ptebits: the accessed mask must be one bit");
    static_assert(check(Values) != masks_error::dirty_several_bits, "ptebits: the dirty mask must be one bit");
    static_assert(check(Values) != masks_error::no_execute_several_bits,
                  "ptebits: the no-execute mask must be one bit");
    static_assert(check(Values) != masks_error::overlap, "ptebits: two of these masks share a bit");
    static_assert(check(Values) != masks_error::execute_both_ways,
                  "ptebits: both a no-execute mask and an execute mask are given");

    static constexpr masks value = masks::from(Values);
    [[nodiscard]] constexpr const masks* operator->() const noexcept { return &value; }
};
}  // namespace detail

/// The same masks as constants; faulty ones do not compile.
template <mask_values Values>
inline constexpr detail::constant_mask_set<Values> masks_of{};

}  // namespace ptebits
