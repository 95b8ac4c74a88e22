// SPDX-License-Identifier: BSL-1.0
// Pages that are mapped without any access: an absent entry that keeps all of a leaf, so that
// it can be brought back.
#pragma once

#include <bit>
#include <cstdint>

#include <ptebits/entry.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void kept_bits_are_not_free() noexcept { stop(); }
}  // namespace broken

/// Why a page could not be kept without access.
enum class no_access_error : std::uint8_t {
    none,
    not_a_leaf,          ///< not present, not a leaf, or it breaks a rule
    kept_bits_in_use,    ///< the bits in which the rest would be kept are in use
    points_into_memory,  ///< an absent entry with this address would (L1TF)
};
// Counted by the last: add others before it.

[[nodiscard]] constexpr const char* name(no_access_error e) noexcept
{
    constexpr const char* names[] = {"no error", "not a leaf", "the kept bits are in use",
                                     "it would point into memory"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(no_access_error::points_into_memory) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// An entry without access, or why there is none (then 0).
struct no_access_entry {
    std::uint64_t entry = 0;
    no_access_error error = no_access_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == no_access_error::none; }
};

/// How a format's leaves are kept without access, made by keep_without_access(). The bits that make a
/// leaf present (P; R, W, X in EPT), and those that must have one value in absent entries (bit 63 with
/// EPT-violation #VE), are kept side by side in software bits from KeptShift up. On CPUs with L1TF the
/// highest address bit is inverted. All other bits stay in place.
template <entry_format Format, unsigned KeptShift>
class no_access_kept {
public:
    /// Precondition: free_in(format).
    constexpr explicit no_access_kept(const Format& format) noexcept : format_(format)
    {
        if (!free_in(format)) broken::kept_bits_are_not_free();
    }

    [[nodiscard]] constexpr const Format& format() const noexcept { return format_; }

    /// The software bits that keep the others: clear in a leaf that has access, and in other absent entries.
    [[nodiscard]] constexpr std::uint64_t kept_mask() const noexcept { return packed(moved_mask(format_)); }

    /// The entry without access of a leaf, and the leaf of an entry without access; see take_access().
    [[nodiscard]] constexpr std::uint64_t taken(std::uint64_t leaf) const noexcept
    {
        const std::uint64_t moved = moved_mask(format_);
        return ((leaf & ~moved) | format_->empty() | packed(leaf & moved)) ^ detail::away_mask(format_);
    }
    [[nodiscard]] constexpr std::uint64_t given(std::uint64_t entry) const noexcept
    {
        const std::uint64_t moved = moved_mask(format_);
        return ((entry & ~(moved | kept_mask())) | unpacked(entry)) ^ detail::away_mask(format_);
    }
    /// Whether the entry is absent and one of the bits that make it present is kept.
    [[nodiscard]] constexpr bool has(std::uint64_t entry) const noexcept
    {
        return !present(entry, format_) && (entry & packed(format_->present_mask())) != 0;
    }

    /// Whether all leaves have software bits where this keeps others.
    [[nodiscard]] static constexpr bool free_in(const Format& f) noexcept
    {
        static_assert(KeptShift < 64, "ptebits: an entry has no bit 64");
        unsigned count = 0;
        for (std::uint64_t left = moved_mask(f); left != 0; left &= left - 1) ++count;
        if (count == 0 || KeptShift + count > f->shape().entry_bits) return false;
        const std::uint64_t kept = ones(KeptShift + count - 1, KeptShift);
        for (unsigned level = 1; level <= max_levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (f->exists(level, k) && (kept & ~f->layout_at(level, k).mask(role::software)) != 0) return false;
            }
        }
        return true;
    }

private:
    static constexpr std::uint64_t moved_mask(const Format& f) noexcept
    {
        return f->present_mask() | f->layout_at(1, kind::none).mask(role::written);
    }
    /// These of the moved bits, side by side from KeptShift up; and back.
    [[nodiscard]] constexpr std::uint64_t packed(std::uint64_t bits_in_place) const noexcept
    {
        std::uint64_t kept = 0;
        unsigned at = KeptShift;
        for (std::uint64_t left = moved_mask(format_); left != 0; left &= left - 1, ++at) {
            kept |= (bits_in_place >> std::countr_zero(left) & 1) << at;
        }
        return kept;
    }
    [[nodiscard]] constexpr std::uint64_t unpacked(std::uint64_t entry) const noexcept
    {
        std::uint64_t in_place = 0;
        unsigned at = KeptShift;
        for (std::uint64_t left = moved_mask(format_); left != 0; left &= left - 1, ++at) {
            in_place |= (entry >> at & 1) << std::countr_zero(left);
        }
        return in_place;
    }

    Format format_;
};

/// Keeping a format's leaves without access, what makes them present in the software bits from a bit
/// up. Units: bit index. x86: 52 in EPT and in long mode, 9 in any ordinary or nested entry.
/// Precondition: these are software bits of every leaf (with a constant format it does not compile
/// otherwise), and have no other use: not those of track_accesses().
template <unsigned KeptShift, entry_format F>
[[nodiscard]] constexpr no_access_kept<F, KeptShift> keep_without_access(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(no_access_kept<F, KeptShift>::free_in(F{}),
                      "ptebits: entries without access would keep their bits where these are not free");
    }
    return no_access_kept<F, KeptShift>(format);
}

/// The absent entry that keeps a leaf of a level. The caller puts it into the slot by
/// compare_exchange(), since the hardware may set A and D in the leaf until then.
/// Flush: if the leaf was live. Errors: no_access_error.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr no_access_entry take_access(std::uint64_t leaf, unsigned level,
                                                    const no_access_kept<F, S>& kept) noexcept
{
    const F& format = kept.format();
    const kind k = kind_of(leaf, level, format);
    if ((k != kind::leaf && k != kind::run) || !legal(leaf, level, format)) return {0, no_access_error::not_a_leaf};
    if ((leaf & kept.kept_mask()) != 0) return {0, no_access_error::kept_bits_in_use};
    const std::uint64_t taken = kept.taken(leaf);
    // A and D stay in place: if the hardware set them in the absent entry, that only costs a copy.
    const std::uint64_t flags = format->accessed.mask() | format->dirty.mask();
    if (check_absent(taken & ~flags, format) != absent_error::none) {
        return {0, no_access_error::points_into_memory};
    }
    return {taken, no_access_error::none};
}

/// Whether an entry is mapped without access: absent, and it keeps a leaf.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool is_no_access(std::uint64_t entry, const no_access_kept<F, S>& kept) noexcept
{
    return kept.has(entry);
}

/// The leaf that an entry without access keeps; any other entry as it is. Flush: none.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr std::uint64_t give_access(std::uint64_t entry, const no_access_kept<F, S>& kept) noexcept
{
    return kept.has(entry) ? kept.given(entry) : entry;
}

}  // namespace ptebits
