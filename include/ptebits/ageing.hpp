// SPDX-License-Identifier: BSL-1.0
// Ageing pages by their entries, finding written ones, and changing live mappings.
//
// Where the format has an accessed bit, age() clears it. Where it has none, either
// access_tracking makes the next access fault, or unmap() does; the fault handler then
// says restore() or maps anew. No operation here is confused by hardware that sets A and
// D, or by another thread that uses these operations, at the same moment.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <ptebits/entry.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void saved_bits_are_not_free() noexcept { stop(); }
[[noreturn]] inline void value_must_not_be_present() noexcept { stop(); }
[[noreturn]] inline void value_is_not_one_of_absent_entries() noexcept { stop(); }
[[noreturn]] inline void marker_is_not_distinct() noexcept { stop(); }
}  // namespace broken

namespace detail {

/// Refuses a slot that is not as wide as the format's entries: does not compile where that
/// is known at compile time; for masks, the slot must be wide enough for them.
template <slot_word Word, entry_masks F>
constexpr void require_width(const F& format) noexcept
{
    if constexpr (constant_masks<F> && entry_format<F>) {
        static_assert(constant<F>->shape().entry_bits == 8 * sizeof(Word),
                      "ptebits: the slot is not as wide as this format's entries");
    } else {
        static_cast<void>(slot_mask<Word>(format->present_mask() | format->accessed.mask() | format->dirty.mask()));
    }
}

/// Takes the write permission from a present leaf, and nothing else. Returns whether it had it.
template <slot_word Word, entry_format F, slot_access Access>
constexpr bool revoke_write(Word& slot, const F& format, Access access) noexcept
{
    require_width<Word>(format);
    const layout& l = format->layout_at(1, kind::leaf);
    const field write{l.mask(role::write)};
    const Word entry = access.load(slot);
    if (!write.exists() || !l.grants(entry, role::write) || !present(entry, format)) return false;
    if constexpr (rows_have<typename F::description>(role::write, true)) {
        if ((l.denying & write.mask()) != 0) return !access.test_and_set(slot, write.shift());
    }
    return access.test_and_clear(slot, write.shift());
}

}  // namespace detail

// ---- by accessed bit

/// Clears the accessed bit and returns whether it was set: true is young. Touches memory
/// only if it was; needs no TLB flush, since a stale TLB entry only makes a page look
/// older than it is.
/// Precondition: the slot holds a present entry and the format has an accessed bit. An
/// entry that is not present is old and stays as it is. Who may replace a present entry
/// by one that is not, with a meaning of its own in the accessed bit, must exclude age().
/// Order: acq_rel if young, else acquire. Intel SDM volume 3, "Accessed and Dirty Flags".
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
constexpr bool age(Word& slot, const F& format, Access access = {}) noexcept
{
    detail::require_width<Word>(format);
    const Word entry = access.load(slot);
    if (!young(entry, format) || !present(entry, format)) return false;
    return access.test_and_clear(slot, format->accessed.shift());
}

/// Sets the accessed bit of an entry that is present and old, as hardware or a fault
/// handler does on a use. Returns whether this call set it: never by masks or a run-time
/// format without an accessed bit; a static one does not compile.
/// Precondition: entries of this level have the bit (PAE's top level has not).
/// Order: acq_rel if set, else acquire.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
constexpr bool mark_accessed(Word& slot, const F& format, Access access = {}) noexcept
{
    detail::require_width<Word>(format);
    if constexpr (constant_masks<F>) detail::require_accessed(format);
    if (!format->accessed.exists()) return false;
    const Word mark = detail::slot_mask<Word>(format->accessed.mask());
    const auto markable = [&](Word entry) { return present(entry, format) && !young(entry, format); };
    const Word before =
        update(slot, [&](Word entry) { return markable(entry) ? static_cast<Word>(entry | mark) : entry; }, access);
    return markable(before);
}

// ---- by access tracking

/// What track() did.
enum class track_result : std::uint8_t {
    tracked,           ///< the next access will fault
    tracked_writable,  ///< the same, and the write permission went with it: the page may have been written
    tracked_already,
    not_present,        ///< nothing to track: not present, or nothing that restore() could bring back
    saved_bits_in_use,  ///< a present entry with bits where the permissions would be saved: left alone
    changed,            ///< the entry changed meanwhile, so it is in use: left alone
};

[[nodiscard]] constexpr const char* name(track_result r) noexcept
{
    constexpr const char* names[] = {"tracked",     "tracked, was writable", "tracked already",
                                     "not present", "saved bits in use",     "changed meanwhile"};
    return detail::word_of(names, static_cast<unsigned>(r));
}

/// Ageing for a format without an accessed bit, made by track_accesses(). The permissions that
/// make an entry present, other than write, are kept in software bits from SavedShift up, then
/// cleared with write; the next access faults and restore() brings them back. Write comes back
/// through the write-fault path. KVM has shift 54 (R and X in bits 54 and 56), later 52.
///
/// Takes the place of the format in age() and is_tracked(). A tracked entry is what the format
/// wants of an absent one: bits that must be written are kept above the permissions, and where
/// memory may leak (L1TF) the highest address bit is set.
template <entry_format Format, unsigned SavedShift>
class access_tracking {
public:
    /// Precondition: free_in(format).
    constexpr explicit access_tracking(const Format& format) noexcept : format_(format)
    {
        if (!free_in(format)) broken::saved_bits_are_not_free();
    }

    [[nodiscard]] constexpr const Format& format() const noexcept { return format_; }

    /// Masks: the permission bits that are saved; the same in their saved place; bits cleared.
    [[nodiscard]] constexpr std::uint64_t saved_from() const noexcept { return saved_from(format_); }
    [[nodiscard]] constexpr std::uint64_t saved_mask() const noexcept { return saved_from() << SavedShift; }
    [[nodiscard]] constexpr std::uint64_t cleared_mask() const noexcept
    {
        return format_->present_mask() | write_mask(format_);
    }
    /// Bits that must be clear in an entry that is to be tracked.
    [[nodiscard]] constexpr std::uint64_t used_mask() const noexcept
    {
        return saved_mask() | kept_mask(format_) | away_mask(format_);
    }

    /// The tracked form of a present entry, and the entry that a tracked form was made
    /// from, without its write permission.
    [[nodiscard]] constexpr std::uint64_t tracked(std::uint64_t entry) const noexcept
    {
        const layout& absent_one = format_->layout_at(1, kind::none);
        const field written = written_bits(format_);
        const std::uint64_t kept = written.exists() ? written.get(entry) << kept_shift(format_) : 0;
        return (entry & ~(cleared_mask() | written.mask())) | (absent_one.value & written.mask()) |
               (entry & saved_from()) << SavedShift | kept | away_mask(format_);
    }
    [[nodiscard]] constexpr std::uint64_t restored(std::uint64_t entry) const noexcept
    {
        const field written = written_bits(format_);
        const std::uint64_t kept = written.exists() ? written((entry & kept_mask(format_)) >> kept_shift(format_)) : 0;
        return (entry & ~(used_mask() | written.mask())) | (entry & saved_mask()) >> SavedShift | kept;
    }

    /// Whether all leaves have software bits where this keeps others, and it can make entries
    /// absent as the format wants it.
    [[nodiscard]] static constexpr bool free_in(const Format& f) noexcept
    {
        static_assert(SavedShift < 64, "ptebits: an entry has no bit 64");
        const std::uint64_t saved = saved_from(f) << SavedShift;
        if (saved == 0 || saved >> SavedShift != saved_from(f)) return false;
        const std::uint64_t written = f->layout_at(1, kind::none).mask(role::written);
        if (written != 0 &&
            (written >> std::countr_zero(written) & ((written >> std::countr_zero(written)) + 1)) != 0) {
            return false;  // not one run of bits
        }
        if (written != 0 && kept_mask(f) == 0) return false;
        if (f->memory_bits() != 0 && f->layout_at(1, kind::leaf).address_in(away_mask(f)) >> f->memory_bits() == 0) {
            return false;
        }
        for (unsigned level = 1; level <= max_levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (!f->exists(level, k)) continue;
                if (((saved | kept_mask(f)) & ~f->layout_at(level, k).mask(role::software)) != 0) return false;
            }
        }
        return true;
    }

private:
    static constexpr std::uint64_t write_mask(const Format& f) noexcept
    {
        const layout& l = f->layout_at(1, kind::leaf);
        return l.mask(role::write) & ~l.denying;
    }
    static constexpr std::uint64_t saved_from(const Format& f) noexcept { return f->present_mask() & ~write_mask(f); }

    /// The bits that an absent entry must have written, and where their values are kept meanwhile.
    static constexpr field written_bits(const Format& f) noexcept
    {
        return field{f->layout_at(1, kind::none).mask(role::written)};
    }
    static constexpr unsigned kept_shift(const Format& f) noexcept
    {
        return SavedShift + static_cast<unsigned>(std::bit_width(saved_from(f)));
    }
    static constexpr std::uint64_t kept_mask(const Format& f) noexcept
    {
        const std::uint64_t written = f->layout_at(1, kind::none).mask(role::written);
        if (written == 0 || kept_shift(f) > 63) return 0;
        return written >> std::countr_zero(written) << kept_shift(f);
    }

    /// The address bit that leads past the memory, where absent entries must not point into it.
    static constexpr std::uint64_t away_mask(const Format& f) noexcept
    {
        if (f->memory_bits() == 0) return 0;
        const layout& l = f->layout_at(1, kind::leaf);
        return l.address_bits(std::bit_floor(l.address_in(l.mask(role::address))));
    }

    Format format_;
};

/// Access tracking for a format, with the permissions saved from a bit up. Units: bit index.
/// Precondition: these are free software bits of every leaf; of a constant format it does not
/// compile otherwise.
template <unsigned SavedShift, entry_format F>
[[nodiscard]] constexpr access_tracking<F, SavedShift> track_accesses(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(access_tracking<F, SavedShift>::free_in(F{}),
                      "ptebits: access tracking would save permissions in bits that are not free");
    }
    return access_tracking<F, SavedShift>(format);
}

/// Whether an entry is tracked: not present, with permissions kept aside.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool is_tracked(std::uint64_t entry, const access_tracking<F, S>& tracking) noexcept
{
    return (entry & tracking.cleared_mask()) == 0 && (entry & tracking.saved_mask()) != 0;
}

/// Makes the next access to a present leaf fault, by one compare-exchange: what changes
/// meanwhile is never lost. Whoever relies on the fault must flush the TLB. Where writes are
/// found by the write permission (harvest_dirty() of a format without D), tracked_writable
/// says that the page has to be counted as written: W is gone, and comes back by a fault.
/// Precondition: a leaf. Order: acq_rel if tracked, else acquire.
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr track_result track(Word& slot, const access_tracking<F, S>& tracking, Access access = {}) noexcept
{
    detail::require_width<Word>(tracking.format());
    Word entry = access.load(slot);
    if (is_tracked(entry, tracking)) return track_result::tracked_already;
    if (!present(entry, tracking.format())) return track_result::not_present;
    if ((entry & tracking.used_mask()) != 0) return track_result::saved_bits_in_use;
    if ((entry & tracking.saved_from()) == 0) return track_result::not_present;  // EPT: W alone, a misconfiguration
    const bool writable = (entry & tracking.cleared_mask() & ~tracking.saved_from()) != 0;
    if (!access.compare_exchange(slot, entry, static_cast<Word>(tracking.tracked(entry)))) return track_result::changed;
    return writable ? track_result::tracked_writable : track_result::tracked;
}

/// Ages by access tracking: tracks a present entry and returns true (young), returns
/// false (old) for one that is tracked already or not present. An entry that could not be
/// tracked is in use, or not ours to change: young, and left alone. With a dirty log that goes
/// by the write permission use track(), which tells where that went. Order: as track().
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr bool age(Word& slot, const access_tracking<F, S>& tracking, Access access = {}) noexcept
{
    switch (track(slot, tracking, access)) {
    case track_result::tracked_already:
    case track_result::not_present:
        return false;
    case track_result::tracked:
    case track_result::tracked_writable:
    case track_result::saved_bits_in_use:
    case track_result::changed:
        break;
    }
    return true;
}

/// Gives a tracked entry its read and execute permissions back, in the fault handler.
/// Returns whether this call did. Needs no flush. Precondition: other values that are not
/// present (frozen markers, swap entries) leave the saved bits clear; see check_marker(). Order: acq_rel if so, else
/// acquire.
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr bool restore(Word& slot, const access_tracking<F, S>& tracking, Access access = {}) noexcept
{
    const Word before = update(
        slot,
        [&](Word entry) { return is_tracked(entry, tracking) ? static_cast<Word>(tracking.restored(entry)) : entry; },
        access);
    return is_tracked(before, tracking);
}

/// Whether an entry is young in the eyes of access tracking: present.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool young(std::uint64_t entry, const access_tracking<F, S>& tracking) noexcept
{
    return present(entry, tracking.format());
}

// ---- over many slots

namespace detail {

/// A slot out of a range's element: the range may hold slots, or pointers to them.
template <class Element>
[[nodiscard]] constexpr auto& slot_of(Element& element) noexcept
{
    if constexpr (std::is_pointer_v<std::remove_cv_t<Element>>) {
        return *element;
    } else {
        return element;
    }
}

}  // namespace detail

/// Ages all slots of a range, as of a reverse map: every entry that maps one page.
/// `by` is a format, run-time masks or an access_tracking. Returns whether any was young.
template <class Slots, class By, slot_access Access = atomic_access<>>
constexpr bool age_all(Slots&& slots, const By& by, Access access = {}) noexcept
{
    bool any = false;
    for (auto&& element : slots) {
        if (age(detail::slot_of(element), by, access)) any = true;
    }
    return any;
}

/// Whether any slot of a range holds a young entry. Clears nothing, stops at the first.
template <class Slots, class By, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool young_any(const Slots& slots, const By& by, Access access = {}) noexcept
{
    for (const auto& element : slots) {
        const auto entry = access.load(detail::slot_of(element));
        if constexpr (entry_masks<By>) {
            if (!present(entry, by)) continue;
        }
        if (young(entry, by)) return true;
    }
    return false;
}

// ---- by unmapping

/// Takes a mapping away: the slot holds what an empty one of the format does. Returns the entry
/// as it was last, with the A and D that hardware set until then. A present result means that the
/// page was mapped since it was unmapped before. A frozen entry is overwritten too: where others
/// freeze, freeze(). Order: acq_rel. Needs a flush if the result was present or is_tracked():
/// tracking does not flush.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr Word unmap(Word& slot, const F& format, Access access = {}) noexcept
{
    detail::require_width<Word>(format);
    return access.exchange(slot, detail::slot_mask<Word>(format->empty()));
}

/// The same with a value of the caller's for the absent entry. Precondition: check_absent() finds
/// nothing wrong with it.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr Word unmap(Word& slot, const F& format, std::type_identity_t<Word> value,
                                   Access access = {}) noexcept
{
    detail::require_width<Word>(format);
    const absent_error wrong = check_absent(value, format);
    if (wrong == absent_error::looks_present) broken::value_must_not_be_present();
    if (wrong != absent_error::none) broken::value_is_not_one_of_absent_entries();
    return access.exchange(slot, value);
}

// ---- dirty

/// Makes a page clean and returns whether it was dirty: clears D, or takes the write permission
/// where a dirty modifier makes it the dirty state. Touches memory only if it was. Between the
/// look and the change the entry may be replaced, as with age().
/// Precondition: a leaf; the format has a dirty bit or a dirty modifier.
/// Order: acq_rel if it was dirty, else acquire. Needs a flush before the page counts as clean:
/// the CPU does not set D again while it remembers that it did.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool clear_dirty(Word& slot, const F& format, Access access = {}) noexcept
{
    detail::require_width<Word>(format);
    const Word entry = access.load(slot);
    if (!dirty(entry, format) || !present(entry, format)) return false;
    if constexpr (entry_format<F>) {
        if (detail::dirty_modifier_of(format) != 0) return detail::revoke_write(slot, format, access);
    }
    return access.test_and_clear(slot, format->dirty.shift());
}

/// Takes the write permission from a present leaf, and a dirty modifier by which hardware would
/// grant it again. Returns whether it had either. Between the look and the change the entry may
/// be replaced, as with age(). Order: acq_rel if it had, else acquire. Needs a flush if so.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
constexpr bool write_protect(Word& slot, const F& format, Access access = {}) noexcept
{
    const std::uint64_t modifier = detail::dirty_modifier_of(format);
    if (modifier == 0) return detail::revoke_write(slot, format, access);
    const layout& l = format->layout_at(1, kind::leaf);
    const auto protect = [&](Word entry) {
        if (!present(entry, format)) return entry;
        const std::uint64_t denied = (entry & ~(l.mask(role::write) & ~l.denying)) | (l.mask(role::write) & l.denying);
        return static_cast<Word>(denied & ~modifier);
    };
    const Word before = update(slot, protect, access);
    return protect(before) != before;
}

/// Whether a page may have been written since the last harvest: makes it clean where hardware
/// keeps a dirty state, else takes the write permission away, so that the next write faults.
/// Precondition: a leaf; the format has a dirty bit or a write permission.
/// Order: as clear_dirty() and write_protect(). Needs a flush if true.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool harvest_dirty(Word& slot, const F& format, Access access = {}) noexcept
{
    if constexpr (constant_masks<F>) {
        if constexpr (detail::constant<F>->dirty.exists()) {
            return clear_dirty(slot, format, access);
        } else {
            return detail::revoke_write(slot, format, access);
        }
    } else {
        return format->dirty.exists() ? clear_dirty(slot, format, access) : detail::revoke_write(slot, format, access);
    }
}

// ---- changing a live entry

/// Whether a change of an entry at a level calls for a TLB flush: a translation that the
/// CPU may hold became wider than the entry, points elsewhere, or has another memory type
/// or attribute; or D was cleared, which the CPU may remember as set.
/// `lock_free_write`: software bits by which a lock-free fault path may make the entry
/// writable, all set; 0 if there is no such path.
/// Intel SDM volume 3, "Invalidation of TLBs and Paging-Structure Caches".
template <entry_format F>
[[nodiscard]] constexpr bool needs_flush(std::uint64_t before, std::uint64_t after, const F& format, unsigned level = 1,
                                         std::uint64_t lock_free_write = 0) noexcept
{
    const auto may_write = [&](std::uint64_t entry) {
        return lock_free_write != 0 && present(entry, format) && (entry & lock_free_write) == lock_free_write;
    };
    // Only what translated can be in a TLB.
    if (!present(before, format) || !legal(before, level, format)) return false;
    if (!present(after, format) || !legal(after, level, format)) return true;

    const kind k = kind_of(before, level, format);
    if (k != kind_of(after, level, format)) return true;
    const layout& l = format->layout_at(level, k);
    const std::uint64_t same = l.mask(role::address) | l.mask(role::next_level) | l.mask(role::memory_type) |
                               l.mask(role::attribute) | l.mask(role::dirty_modifier);
    if (((before ^ after) & same) != 0) return true;
    if ((before & ~after & l.mask(role::dirty)) != 0) return true;
    if (may_write(before) && !may_write(after)) return true;

    const permissions had = permissions_of(before, level, format);
    return (had & permissions_of(after, level, format)) != had;
}

/// The same where accesses are tracked. Tracking itself does not flush, so a tracked entry
/// counts as the one that it restores to: the TLB may still hold it.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool needs_flush(std::uint64_t before, std::uint64_t after,
                                         const access_tracking<F, S>& tracking, unsigned level = 1,
                                         std::uint64_t lock_free_write = 0) noexcept
{
    const auto seen = [&](std::uint64_t entry) {
        return is_tracked(entry, tracking) ? tracking.restored(entry) : entry;
    };
    return needs_flush(seen(before), seen(after), tracking.format(), level, lock_free_write);
}

/// Whether an update of a leaf must be one atomic operation, because hardware or a
/// lock-free path may change more than A underneath: D, the write permission, or access
/// tracking where hardware keeps no A and D. A alone does not count: losing it makes the
/// page look older, no more. If false, a plain store() is enough.
template <entry_format F>
[[nodiscard]] constexpr bool needs_atomic_update(std::uint64_t leaf, const F& format,
                                                 std::uint64_t lock_free_write = 0) noexcept
{
    if (!present(leaf, format)) return false;
    const layout& l = format->layout_at(1, kind::leaf);
    const bool writes = l.mask(role::write) != 0 && l.grants(leaf, role::write);
    if (!writes && lock_free_write != 0 && (leaf & lock_free_write) == lock_free_write) return true;
    if (!format->dirty.exists()) return true;
    return writes && (leaf & format->dirty.mask()) == 0;
}

/// The same where accesses are tracked: the fault path may restore a tracked entry.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool needs_atomic_update(std::uint64_t leaf, const access_tracking<F, S>& tracking,
                                                 std::uint64_t lock_free_write = 0) noexcept
{
    return is_tracked(leaf, tracking) || needs_atomic_update(leaf, tracking.format(), lock_free_write);
}

// ---- freezing

/// What is wrong with a value as frozen marker.
enum class marker_error : std::uint8_t {
    none,
    is_empty,  ///< looks like an empty slot
    looks_present,
    looks_accessed,      ///< ageing would change it
    looks_dirty,         ///< harvesting would change it
    looks_writable,      ///< write-protecting would change it
    looks_tracked,       ///< restore() would make it present
    bits_not_written,    ///< a bit that must have one value in absent entries has the other
    points_into_memory,  ///< what is there may leak: see check_absent()
    too_wide,            ///< bits above the slot: bit 32 and up of 32
};

[[nodiscard]] constexpr const char* name(marker_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "the marker is an empty slot's value",
                                     "the marker looks present",
                                     "the marker looks accessed",
                                     "the marker looks dirty",
                                     "the marker looks writable",
                                     "the marker looks tracked",
                                     "the marker lacks a bit that must be written",
                                     "the marker points into memory",
                                     "the marker is wider than the slot"};
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// Why a value must not mark frozen entries of a format.
template <entry_masks F>
[[nodiscard]] constexpr marker_error check_marker(std::uint64_t marker, const F& format) noexcept
{
    if (marker == 0 || marker == format->empty()) return marker_error::is_empty;
    if (present(marker, format)) return marker_error::looks_present;
    if ((marker & format->accessed.mask()) != 0) return marker_error::looks_accessed;
    if ((marker & format->dirty.mask()) != 0) return marker_error::looks_dirty;
    if constexpr (entry_format<F>) {
        if ((marker & ~format->layout_at(1, kind::none).all) != 0) return marker_error::too_wide;
        const layout& l = format->layout_at(1, kind::leaf);
        if (l.mask(role::write) != 0 && l.grants(marker, role::write)) return marker_error::looks_writable;
        if (check_absent(marker, format) == absent_error::bits_not_written) return marker_error::bits_not_written;
        if (check_absent(marker, format) == absent_error::points_into_memory) return marker_error::points_into_memory;
    }
    return marker_error::none;
}

/// The same where accesses are tracked.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr marker_error check_marker(std::uint64_t marker, const access_tracking<F, S>& tracking) noexcept
{
    if ((marker & tracking.saved_mask()) != 0) return marker_error::looks_tracked;
    return check_marker(marker, tracking.format());
}

/// What marks an entry as being taken away, made by frozen_marker(). The protocol of a shared
/// zap: freeze() the entry, flush, then store() the value that is not present. Nobody else
/// overwrites a frozen entry.
template <class M>
concept marker_of_frozen = requires(const M& marker) {
    { marker.value } -> std::same_as<const std::uint64_t&>;
};

namespace detail {

template <class By>
inline constexpr bool by_constants = constant_masks<By>;
template <entry_format F, unsigned S>
inline constexpr bool by_constants<access_tracking<F, S>> = constant_masks<F>;

template <std::uint64_t Marker, marker_error Error>
struct constant_marker {
    static_assert(Error != marker_error::is_empty, "ptebits: a frozen marker must not be what an empty slot holds");
    static_assert(Error != marker_error::looks_present, "ptebits: a frozen marker must not look present");
    static_assert(Error != marker_error::looks_accessed, "ptebits: a frozen marker must not look accessed");
    static_assert(Error != marker_error::looks_dirty, "ptebits: a frozen marker must not look dirty");
    static_assert(Error != marker_error::looks_writable, "ptebits: a frozen marker must not look writable");
    static_assert(Error != marker_error::looks_tracked, "ptebits: a frozen marker must not look tracked");
    static_assert(Error != marker_error::bits_not_written,
                  "ptebits: a frozen marker must have what absent entries of this format must have");
    static_assert(Error != marker_error::points_into_memory, "ptebits: a frozen marker must not point into memory");
    static_assert(Error != marker_error::too_wide, "ptebits: a frozen marker must fit the slot");

    static constexpr std::uint64_t value = Marker;
};

struct runtime_marker {
    std::uint64_t value;
};

/// An object of an empty type of constants.
template <class By>
struct constant_maker {
    static constexpr By make() noexcept { return {}; }
};
template <entry_format F, unsigned S>
struct constant_maker<access_tracking<F, S>> {
    static constexpr access_tracking<F, S> make() noexcept { return access_tracking<F, S>(F{}); }
};

}  // namespace detail

/// The marker of a value, held against constants: a format, masks, or an access_tracking of one.
/// One that check_marker() refuses does not compile.
template <std::uint64_t Marker, class By>
    requires detail::by_constants<By>
[[nodiscard]] constexpr auto frozen_marker(const By&) noexcept
{
    return detail::constant_marker<Marker, check_marker(Marker, detail::constant_maker<By>::make())>{};
}

/// The same by a format known at run time. Precondition: check_marker() finds nothing wrong.
template <class By>
[[nodiscard]] constexpr auto frozen_marker(std::uint64_t marker, const By& by) noexcept
{
    if (check_marker(marker, by) != marker_error::none) broken::marker_is_not_distinct();
    return detail::runtime_marker{marker};
}

/// Whether an entry is frozen.
template <marker_of_frozen Marker>
[[nodiscard]] constexpr bool is_frozen(std::uint64_t entry, const Marker& marker) noexcept
{
    return entry == marker.value;
}

/// Freezes an entry that is still the expected one; else `expected` becomes what was there.
/// Returns whether this call froze it: false too if it was frozen. Order: acq_rel.
template <slot_word Word, marker_of_frozen Marker, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool freeze(Word& slot, Word& expected, const Marker& marker, Access access = {}) noexcept
{
    if (is_frozen(expected, marker)) return false;
    return access.compare_exchange(slot, expected, detail::slot_mask<Word>(marker.value));
}

}  // namespace ptebits
