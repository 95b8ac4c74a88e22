// SPDX-License-Identifier: BSL-1.0
// Formats: what an operation may ask of one, and the two ways to have one.
//
// runtime_format<Description> computes its layouts from features known at run time;
// static_format<Description, features> is a type whose answers are constants. Both
// satisfy entry_format, over which every operation of the library is written once.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <ptebits/layout.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void address_is_misaligned_or_too_wide() noexcept { stop(); }
}  // namespace broken

/// What ageing and harvesting need to know, no more: run-time masks satisfy this too.
template <class F>
concept entry_masks = requires(const F& f) {
    { f.present_mask() } -> std::same_as<std::uint64_t>;  // present = any of these bits set
    { f.accessed } -> std::same_as<const field&>;         // empty: no accessed bit
    { f.dirty } -> std::same_as<const field&>;            // empty: no dirty bit
};

/// What the bit of role::user means.
enum class user_rule : std::uint8_t {
    separates,               ///< ordinary paging: user mode may use the page if it is set
    required,                ///< nested paging: every access is a user access
    traps_supervisor_fetch,  ///< nested paging with GMET: supervisor mode may not execute if it is set
};

/// Who walks the tables, and how faults are told.
enum class regime : std::uint8_t {
    ordinary,  ///< linear addresses; #PF with an error code
    nested,    ///< guest-physical addresses; #NPF with EXITINFO1
    extended,  ///< guest-physical addresses; EPT violation with a qualification, or misconfiguration
};

/// A forbidden combination, in place: broken by entries with (entry & mask) == value.
struct combination {
    rule breaks = rule::none;
    entries in;
    std::uint64_t mask = 0;
    std::uint64_t value = 0;
};

/// What every operation on entries may ask of a format.
template <class F>
concept entry_format = entry_masks<F> && requires(const F& f, unsigned level, kind k) {
    { f.layout_at(level, k) } -> std::same_as<const layout&>;  // total: absent entries are all reserved
    { f.tables() } -> std::convertible_to<shape>;
    { f.exists(level, k) } -> std::same_as<bool>;
    { f.user_bit() } -> std::same_as<user_rule>;
    { f.combinations()[0] } -> std::same_as<const combination&>;  // an array
};

/// Formats whose masks are constants of the type, so that misuse need not compile.
template <class F>
concept static_masks = entry_masks<F> && requires { typename std::bool_constant<(F::accessed.mask() == 0)>; };

/// What is wrong with a format, where, and in which bits.
struct flaw {
    defect what = defect::none;
    unsigned level = 0;
    kind in = kind::leaf;
    std::uint64_t bits = 0;
};

/// A format whose features are known at run time only.
///
/// Contradictory features give a format in which nothing is present and every bit is
/// reserved: no operation changes an entry by it, and age() stops the program. Look at
/// wrong() first, it tells what to mend.
template <class Description>
class runtime_format : public Description::fields {
public:
    using description = Description;
    using features_type = typename Description::features;

    field accessed;
    field dirty;

    constexpr explicit runtime_format(const features_type& features) noexcept : features_(features)
    {
        flaw_ = compute();
        if (flaw_.what == defect::none) return;
        static_cast<typename Description::fields&>(*this) = {};
        present_ = 0;
        shape_.levels = 0;  // no level exists
        hardware_accessed_ = false;
        for (auto& level : layouts_) {
            level[0] = level[1] = absent_layout(shape_.entry_bits);
        }
    }

    [[nodiscard]] constexpr const features_type& features() const noexcept { return features_; }
    [[nodiscard]] constexpr const flaw& wrong() const noexcept { return flaw_; }
    [[nodiscard]] constexpr const shape& tables() const noexcept { return shape_; }

    /// The named fields.
    [[nodiscard]] constexpr const typename Description::fields& fields() const noexcept { return *this; }

    /// Present = any of these bits set.
    [[nodiscard]] constexpr std::uint64_t present_mask() const noexcept { return present_; }

    /// Whether the format has entries of this kind at this level.
    [[nodiscard]] constexpr bool exists(unsigned level, kind k) const noexcept
    {
        return flaw_.what == defect::none && Description::entries_of(features_).contains(level, k);
    }

    /// Roles of all bits. Any level and kind may be asked for; where the format has no
    /// such entry, every bit is reserved.
    [[nodiscard]] constexpr const layout& layout_at(unsigned level, kind k) const noexcept
    {
        return layouts_[level <= max_levels ? level : 0][static_cast<unsigned>(k)];
    }

    /// Bits that must be 0 in a present entry.
    [[nodiscard]] constexpr std::uint64_t reserved_mask(unsigned level, kind k) const noexcept
    {
        return layout_at(level, k).mask(role::reserved);
    }
    /// Bits that the MMU ignores.
    [[nodiscard]] constexpr std::uint64_t software_mask(unsigned level, kind k) const noexcept
    {
        return layout_at(level, k).mask(role::software);
    }
    /// Bits that hold the physical address.
    [[nodiscard]] constexpr std::uint64_t address_mask(unsigned level, kind k) const noexcept
    {
        return layout_at(level, k).mask(role::address);
    }

    /// An entry's address bits for a physical address. Units: bytes. Precondition: the
    /// address is aligned and fits the entry; encode() reports where it is not.
    [[nodiscard]] constexpr std::uint64_t address(unsigned level, std::uint64_t physical,
                                                  kind k = kind::leaf) const noexcept
    {
        const layout& l = layout_at(level, k);
        const std::uint64_t placed = l.address_bits(physical);
        if (l.address_in(placed) != physical) broken::address_is_misaligned_or_too_wide();
        return placed;
    }

    [[nodiscard]] constexpr user_rule user_bit() const noexcept
    {
        if constexpr (requires { Description::user_bit(features_); }) {
            return Description::user_bit(features_);
        } else {
            return user_rule::separates;
        }
    }

    [[nodiscard]] constexpr regime walked_as() const noexcept
    {
        if constexpr (requires { Description::walked_as; }) {
            return Description::walked_as;
        } else {
            return regime::ordinary;
        }
    }

    /// Whether the hardware sets the accessed bit: false without one, and if software keeps it.
    [[nodiscard]] constexpr bool hardware_accessed() const noexcept { return hardware_accessed_; }

    /// The forbidden combinations under these features.
    [[nodiscard]] constexpr const auto& combinations() const noexcept { return combinations_; }

private:
    static constexpr std::size_t combination_count()
    {
        if constexpr (requires { Description::forbidden; }) {
            // NOLINTNEXTLINE(bugprone-sizeof-expression): both types depend on Description, and so look the same
            return sizeof(Description::forbidden) / sizeof(Description::forbidden[0]);
        } else {
            return 1;  // one that nothing breaks
        }
    }

    constexpr flaw compute()
    {
        shape_ = Description::shape_of(features_);
        for (unsigned level = 0; level <= max_levels; ++level) {
            layouts_[level][0] = layouts_[level][1] = absent_layout(shape_.entry_bits);
        }
        const auto switches = row_features<Description>(features_);
        if (switches.physical_bits < min_physical_bits || switches.physical_bits > max_physical_bits) {
            return {.what = defect::physical_bits};
        }
        if constexpr (requires { Description::contradiction(features_); }) {
            if (const defect d = Description::contradiction(features_); d != defect::none) return {.what = d};
        }
        std::uint64_t accessed_bits = 0;
        std::uint64_t dirty_bits = 0;
        for (unsigned level = 1; level <= max_levels; ++level) {
            for (const kind k : {kind::table, kind::leaf}) {
                layout& l = layouts_[level][static_cast<unsigned>(k)];
                l = compute_layout<Description>(features_, level, k);
                if (l.wrong != defect::none) return {.what = l.wrong, .level = level, .in = k, .bits = l.wrong_bits};
                if (!Description::entries_of(features_).contains(level, k)) continue;
                if (flaw f = name_fields(level, k); f.what != defect::none) return f;
                present_ |= l.mask(role::present);
                accessed_bits |= l.mask(role::accessed);
                dirty_bits |= l.mask(role::dirty);
            }
        }
        if (present_ == 0) {
            const layout& page = layout_at(1, kind::leaf);
            for (const role grant : {role::read, role::write, role::execute, role::user_execute}) {
                present_ |= page.mask(grant);
            }
        }
        for (const std::uint64_t flag : {accessed_bits, dirty_bits}) {
            if (several_bits(flag)) return {.what = defect::flag_of_several_bits, .bits = flag};
        }
        accessed = field{accessed_bits};
        dirty = field{dirty_bits};
        place_combinations();
        return {};
    }

    constexpr flaw name_fields(unsigned level, kind k)
    {
        const auto switches = row_features<Description>(features_);
        for (const auto& r : Description::rows) {
            if (r.is == role::accessed && r.place == nullptr && r.role_at(switches, level) == role::accessed) {
                hardware_accessed_ = true;
            }
            if (r.member == nullptr || !r.in.contains(level, k) || r.role_at(switches, level) != r.is) continue;
            const field at = r.bits_at(switches);
            if ((at.mask() & ~ones(shape_.entry_bits - 1, 0)) != 0) continue;
            field& named = this->*r.member;
            if (named.exists() && named != at) {
                return {.what = defect::name_in_two_places, .level = level, .in = k, .bits = named | at};
            }
            named = at;
        }
        return {};
    }

    constexpr void place_combinations()
    {
        if constexpr (requires { Description::forbidden; }) {
            std::size_t n = 0;
            for (const auto& f : Description::forbidden) {
                const field which = this->*f.which;
                if (!which.exists() || !f.when.holds(row_features<Description>(features_), 1)) continue;
                const field without = f.without != nullptr ? this->*f.without : field{};
                combinations_[n++] = {f.breaks, f.in, which | without, which(f.value)};
            }
        }
    }

    features_type features_;
    flaw flaw_;
    shape shape_;
    std::uint64_t present_ = 0;
    bool hardware_accessed_ = false;
    layout layouts_[max_levels + 1][2];  // by level; row 0 is the entry that no format has
    combination combinations_[combination_count()];
};

/// A format whose features are template arguments: every mask is a constant.
/// Features that contradict each other do not compile.
template <class Description, typename Description::features Features>
struct static_format {
    using description = Description;
    using features_type = typename Description::features;

    static constexpr runtime_format<Description> value{Features};

    static_assert(value.wrong().what != defect::levels, "ptebits: this format has no tables of so many levels");
    static_assert(value.wrong().what != defect::physical_bits, "ptebits: physical_bits must be 32 to 52");
    static_assert(value.wrong().what != defect::encryption_bit,
                  "ptebits: encryption_bit lies outside the address field (bits 32 to 51 of a 64-bit entry)");
    static_assert(value.wrong().what != defect::software_bit_in_use,
                  "ptebits: a software bit is claimed that the hardware uses under these features");
    static_assert(value.wrong().what != defect::two_accessed_bits,
                  "ptebits: a software accessed bit is claimed, and the hardware sets one under these features");
    static_assert(value.wrong().what != defect::contradiction, "ptebits: these features exclude each other");
    static_assert(value.wrong().what != defect::rows_overlap, "ptebits: two rows of this format claim the same bit");
    static_assert(value.wrong().what != defect::bit_without_role, "ptebits: a bit of this format has no role");
    static_assert(value.wrong().what != defect::name_in_two_places,
                  "ptebits: a named field of this format stands in two places");
    static_assert(value.wrong().what != defect::flag_of_several_bits,
                  "ptebits: an accessed, dirty or page-size flag of this format is not one bit");

    static constexpr field accessed = value.accessed;
    static constexpr field dirty = value.dirty;

    [[nodiscard]] static constexpr const features_type& features() noexcept { return value.features(); }
    [[nodiscard]] static constexpr const flaw& wrong() noexcept { return value.wrong(); }
    [[nodiscard]] static constexpr const shape& tables() noexcept { return value.tables(); }
    [[nodiscard]] static constexpr const typename Description::fields& fields() noexcept { return value.fields(); }
    [[nodiscard]] static constexpr std::uint64_t present_mask() noexcept { return value.present_mask(); }
    [[nodiscard]] static constexpr bool exists(unsigned level, kind k) noexcept { return value.exists(level, k); }
    [[nodiscard]] static constexpr const layout& layout_at(unsigned level, kind k) noexcept
    {
        return value.layout_at(level, k);
    }
    [[nodiscard]] static constexpr std::uint64_t reserved_mask(unsigned level, kind k) noexcept
    {
        return value.reserved_mask(level, k);
    }
    [[nodiscard]] static constexpr std::uint64_t software_mask(unsigned level, kind k) noexcept
    {
        return value.software_mask(level, k);
    }
    [[nodiscard]] static constexpr std::uint64_t address_mask(unsigned level, kind k) noexcept
    {
        return value.address_mask(level, k);
    }
    [[nodiscard]] static constexpr std::uint64_t address(unsigned level, std::uint64_t physical,
                                                         kind k = kind::leaf) noexcept
    {
        return value.address(level, physical, k);
    }
    [[nodiscard]] static constexpr user_rule user_bit() noexcept { return value.user_bit(); }
    [[nodiscard]] static constexpr regime walked_as() noexcept { return value.walked_as(); }
    [[nodiscard]] static constexpr bool hardware_accessed() noexcept { return value.hardware_accessed(); }
    [[nodiscard]] static constexpr const auto& combinations() noexcept { return value.combinations(); }
};

/// The format of these features, known at run time. Cheap to keep, not to make: make it
/// once, at start-up. Look at wrong() before use if the features come from outside.
template <class Features>
[[nodiscard]] constexpr auto format_for(const Features& features) noexcept
{
    return runtime_format<typename Features::description>(features);
}

/// What is wrong with a format, first flaw first: some bit of some entry with no role or
/// with two. A flaw in the features comes first.
template <entry_format F>
[[nodiscard]] constexpr flaw find_flaw(const F& format) noexcept
{
    if constexpr (requires { format.wrong(); }) {
        if (format.wrong().what != defect::none) return format.wrong();
    }
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            const layout& l = format.layout_at(level, k);
            std::uint64_t seen = 0;
            for (const std::uint64_t mask : l.masks) {
                if ((seen & mask) != 0) return {defect::rows_overlap, level, k, seen & mask};
                seen |= mask;
            }
            if (seen != l.all) return {defect::bit_without_role, level, k, seen ^ l.all};
        }
    }
    return {};
}

/// Whether every bit of every entry of the format has exactly one role.
template <entry_format F>
inline constexpr bool well_formed = find_flaw(F{}).what == defect::none;

/// Whether software may use all these bits in every entry of the format.
template <entry_format F>
[[nodiscard]] constexpr bool available(std::uint64_t mask, const F& format) noexcept
{
    bool any = false;
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            if (!format.exists(level, k)) continue;
            if ((mask & ~format.layout_at(level, k).mask(role::software)) != 0) return false;
            any = true;
        }
    }
    return any;
}

/// The same for a format of constants.
template <entry_format F>
[[nodiscard]] constexpr bool available(std::uint64_t mask) noexcept
{
    return available(mask, F{});
}

}  // namespace ptebits
