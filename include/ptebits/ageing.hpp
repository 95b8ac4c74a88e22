// SPDX-License-Identifier: BSL-1.0
// Ageing pages by their entries, finding written ones, and changing live mappings.
//
// Where the format has an accessed bit, age() clears it. Where it has none,
// access_tracking or unmap() makes the next access fault; the fault handler then
// calls restore() or maps the page again. Hardware may set A and D, and other threads may use
// these operations, at the same moment.
//
// An entry that is absent or breaks a rule is no page: it is left alone and not reported. The last
// argument is the level whose rules count; with 0, the default, it is enough that the entry breaks
// no rule of some level.
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

/// Refuses a slot that is not as wide as the format's entries. Does not compile where that
/// is known at compile time. For masks the slot must be wide enough.
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

/// The leaf made read-only: without the write permission and without a dirty modifier by which hardware
/// would grant it; with shadow stacks also without D, which would make it a shadow-stack page.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t write_protected(std::uint64_t leaf, const F& format) noexcept
{
    return denying_writes(leaf, format->layout_at(1, kind::leaf)) & ~format->revocable_writes();
}

/// Whether writes are allowed by one bit alone.
template <entry_format F>
[[nodiscard]] constexpr bool writes_by_one_bit(const F& format) noexcept
{
    return format->revocable_writes() == 0;
}

/// The leaf after a harvest.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t harvested(std::uint64_t leaf, const F& format) noexcept
{
    if (format->dirty.exists()) return leaf & ~format->dirty.mask();
    if (dirty_modifier_of(format) == 0) return write_protected(leaf, format);
    return denying_writes(leaf, format->layout_at(1, kind::leaf));
}

/// revoke_write() of a page above level 1. It may be split meanwhile: the entry that then refers to a table keeps its
/// permission.
template <slot_word Word, entry_format F, slot_access Access>
PTEBITS_NOINLINE constexpr bool revoke_large_write(Word& slot, const F& format, Access access, unsigned level) noexcept
{
    const layout& l = format->layout_at(1, kind::leaf);
    const auto revoked = [&](Word entry) {
        const bool page = translates(entry, format, level) && kind_of(entry, level, format) != kind::table;
        const bool writes = l.mask(role::write) != 0 && l.grants(entry, role::write);
        return page && writes ? static_cast<Word>(denying_writes(entry, l)) : entry;
    };
    const Word before = update(slot, revoked, access);
    return revoked(before) != before;
}

/// Takes the write permission from a leaf, and nothing else. Returns whether it had it.
template <slot_word Word, entry_format F, slot_access Access>
constexpr bool revoke_write(Word& slot, const F& format, Access access, unsigned level) noexcept
{
    require_width<Word>(format);
    const layout& l = rules_of(format)->layout_at(1, kind::leaf);
    const field write{l.mask(role::write)};
    if (level > 1) return revoke_large_write(slot, format, access, level);
    const Word entry = access.load(slot);
    if (!write.exists() || !l.grants(entry, role::write) || !translates(entry, format, level)) return false;
    if constexpr (rows_have<typename F::description>(role::write, true)) {
        if ((l.denying & write.mask()) != 0) return !access.test_and_set(slot, write.shift());
    }
    return access.test_and_clear(slot, write.shift());
}

}  // namespace detail

// ---- by accessed bit

/// Clears the accessed bit; writes only if it was set. Returns whether it was set: true is young. An
/// entry that does not translate is old and stays as it is.
/// Precondition: the format has an accessed bit. Meanwhile nobody replaces an entry that translates by
/// a value that does not, and that uses the accessed bit for something else.
/// Order: acq_rel if young, else acquire. Flush: none, since a stale TLB entry only makes a page look
/// older than it is. Intel SDM volume 3, "Accessed and Dirty Flags".
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
constexpr bool age(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    detail::require_width<Word>(format);
    const Word entry = access.load(slot);
    if (!young(entry, format) || !translates(entry, format, level)) return false;
    return access.test_and_clear(slot, format->accessed.shift());
}

/// Sets the accessed bit of an entry that translates and is old, as hardware or a fault
/// handler does when the page is used. Returns whether this call set it. Masks or a run-time format
/// without an accessed bit set nothing; a constant format without one does not compile.
/// Precondition: entries of this level have the bit (those of PAE's top level do not).
/// Order: acq_rel if set, else acquire. Flush: none.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
constexpr bool mark_accessed(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    detail::require_width<Word>(format);
    if constexpr (constant_masks<F>) detail::require_accessed(format);
    if (!format->accessed.exists()) return false;
    const Word mark = detail::slot_mask<Word>(format->accessed.mask());
    const auto markable = [&](Word entry) { return !young(entry, format) && translates(entry, format, level); };
    const Word before =
        update(slot, [&](Word entry) { return markable(entry) ? static_cast<Word>(entry | mark) : entry; }, access);
    return markable(before);
}

// ---- by access tracking

/// What track() did.
enum class track_result : std::uint8_t {
    tracked,           ///< the next access will fault
    tracked_writable,  ///< the same, and the write permission was taken: the page may have been written
    tracked_already,
    not_present,        ///< left alone: does not translate, or has no permission that restore() could bring back
    saved_bits_in_use,  ///< left alone: bits are set where the permissions would be saved
    changed,            ///< left alone: the entry changed meanwhile, so it is in use
};

[[nodiscard]] constexpr const char* name(track_result r) noexcept
{
    constexpr const char* names[] = {"tracked",     "tracked, was writable", "tracked already",
                                     "not present", "saved bits in use",     "changed meanwhile"};
    return detail::word_of(names, static_cast<unsigned>(r));
}

/// Ageing for a format without an accessed bit, made by track_accesses(). The permissions that
/// make an entry present, other than write, are saved in software bits from SavedShift up; then
/// they and write are cleared. The next access faults, and restore() brings the saved ones back. The
/// write-fault path grants write again. KVM has shift 54 (R and X in bits 54 and 56), later 52.
///
/// harvest_dirty() finds writes by the write permission of a format without D, or by D with shadow
/// stacks. Where tracking clears that bit, a software bit records that the page may have been
/// written: the lowest from SavedShift up that holds no permission. It stays when the entry is
/// restored. harvest_dirty() by the tracking, not by its format, finds it and clears it.
///
/// Takes the place of the format in age(), harvest_dirty(), is_tracked() and operations built on them.
/// A tracked entry has what the format demands of an absent one: bits that must have one value are kept
/// above the others, and on CPUs with L1TF the highest address bit is set.
template <entry_format Format, unsigned SavedShift>
class access_tracking {
public:
    /// Precondition: free_in(format).
    constexpr explicit access_tracking(const Format& format) noexcept : format_(format)
    {
        if (!free_in(format)) broken::saved_bits_are_not_free();
    }

    [[nodiscard]] constexpr const Format& format() const noexcept { return format_; }

    /// Masks: the permission bits that are saved; the same in their saved place; the bits that are cleared.
    [[nodiscard]] constexpr std::uint64_t saved_from() const noexcept { return saved_from(format_); }
    [[nodiscard]] constexpr std::uint64_t saved_mask() const noexcept { return saved_from() << SavedShift; }
    [[nodiscard]] constexpr std::uint64_t cleared_mask() const noexcept
    {
        return format_->present_mask() | write_mask(format_);
    }
    /// The bit that records a write; 0 where the bits of the entry itself do.
    [[nodiscard]] constexpr std::uint64_t record_mask() const noexcept { return record_from(format_) << SavedShift; }
    /// Bits that must be clear in an entry that is to be tracked.
    [[nodiscard]] constexpr std::uint64_t used_mask() const noexcept
    {
        return saved_mask() | kept_mask(format_) | detail::away_mask(format_);
    }

    /// The tracked form of a present entry, and the entry that a tracked form was made
    /// from, without its write permission, as write_protect() leaves it.
    [[nodiscard]] constexpr std::uint64_t tracked(std::uint64_t entry) const noexcept
    {
        const layout& absent_one = format_->layout_at(1, kind::none);
        const field written = written_bits(format_);
        const std::uint64_t kept = written.exists() ? written.get(entry) << kept_shift(format_) : 0;
        const std::uint64_t record = detail::harvested(entry, format_) != entry ? record_mask() : 0;
        return (detail::write_protected(entry, format_) & ~(cleared_mask() | written.mask())) |
               (absent_one.value & written.mask()) | (entry & saved_from()) << SavedShift | kept | record |
               detail::away_mask(format_);
    }
    [[nodiscard]] constexpr std::uint64_t restored(std::uint64_t entry) const noexcept
    {
        const field written = written_bits(format_);
        const std::uint64_t kept = written.exists() ? written((entry & kept_mask(format_)) >> kept_shift(format_)) : 0;
        return (entry & ~(used_mask() | written.mask())) | (entry & saved_mask()) >> SavedShift | kept;
    }

    /// An entry, tracked or present, after a harvest.
    [[nodiscard]] constexpr std::uint64_t harvested(std::uint64_t entry) const noexcept
    {
        return detail::harvested(entry, format_) & ~record_mask();
    }

    /// Whether all leaves have software bits where this keeps others, and a tracked entry can have what
    /// the format demands of an absent one.
    [[nodiscard]] static constexpr bool free_in(const Format& f) noexcept
    {
        static_assert(SavedShift < 64, "ptebits: an entry has no bit 64");
        const std::uint64_t from = saved_from(f) | record_from(f);
        const std::uint64_t used = from << SavedShift;
        if (saved_from(f) == 0 || used >> SavedShift != from) return false;
        const std::uint64_t written = written_from_bit_0(f);
        if ((written & (written + 1)) != 0) return false;  // not one run of bits
        if (written != 0 && kept_mask(f) == 0) return false;
        const std::uint64_t away = f->layout_at(1, kind::leaf).address_in(detail::away_mask(f));
        if (f->memory_bits() != 0 && away >> f->memory_bits() == 0) return false;
        for (unsigned level = 1; level <= max_levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (!f->exists(level, k)) continue;
                if (((used | kept_mask(f)) & ~f->layout_at(level, k).mask(role::software)) != 0) return false;
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

    /// The lowest bit that is no saved permission, whose place the record takes; 0 where none is needed.
    static constexpr std::uint64_t record_from(const Format& f) noexcept
    {
        if (f->dirty.exists() && !f->shadow_stacks()) return 0;
        return ~saved_from(f) & (saved_from(f) + 1);
    }

    /// The bits that an absent entry must have written, and where their values are kept meanwhile.
    static constexpr field written_bits(const Format& f) noexcept
    {
        return field{f->layout_at(1, kind::none).mask(role::written)};
    }
    static constexpr unsigned kept_shift(const Format& f) noexcept
    {
        return SavedShift + static_cast<unsigned>(std::bit_width(saved_from(f) | record_from(f)));
    }
    static constexpr std::uint64_t kept_mask(const Format& f) noexcept
    {
        return kept_shift(f) > 63 ? 0 : written_from_bit_0(f) << kept_shift(f);
    }
    static constexpr std::uint64_t written_from_bit_0(const Format& f) noexcept
    {
        const std::uint64_t written = f->layout_at(1, kind::none).mask(role::written);
        return written == 0 ? 0 : written >> std::countr_zero(written) % 64;  // % 64: GCC 14 warns of a shift by 64
    }

    Format format_;
};

/// Access tracking for a format, with the permissions saved from a bit up. Units: bit index.
/// Precondition: these are free software bits of every leaf; with a constant format it does not
/// compile otherwise.
template <unsigned SavedShift, entry_format F>
[[nodiscard]] constexpr access_tracking<F, SavedShift> track_accesses(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(
            access_tracking<F, SavedShift>::free_in(F{}),
            "ptebits: access tracking would save permissions in bits that are not free, or record writes in one");
    }
    return access_tracking<F, SavedShift>(format);
}

/// Whether an entry is tracked: not present, with permissions kept aside. A and D do not count.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool is_tracked(std::uint64_t entry, const access_tracking<F, S>& tracking) noexcept
{
    return (entry & tracking.cleared_mask()) == 0 && (entry & tracking.saved_mask()) != 0;
}

/// Makes the next access to a leaf fault, by one compare-exchange, so that no change meanwhile is
/// lost. Returns what was done. Precondition: a leaf. Order: acq_rel if tracked, else acquire.
/// Flush: before the fault is relied on.
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr track_result track(Word& slot, const access_tracking<F, S>& tracking, Access access = {},
                             unsigned level = 0) noexcept
{
    detail::require_width<Word>(tracking.format());
    Word entry = access.load(slot);
    if (is_tracked(entry, tracking)) return track_result::tracked_already;
    if (!translates(entry, tracking.format(), level)) return track_result::not_present;
    if ((entry & tracking.used_mask()) != 0) return track_result::saved_bits_in_use;
    if ((entry & tracking.saved_from()) == 0) return track_result::not_present;
    const bool writable = detail::write_protected(entry, tracking.format()) != entry;
    if (!access.compare_exchange(slot, entry, static_cast<Word>(tracking.tracked(entry)))) return track_result::changed;
    return writable ? track_result::tracked_writable : track_result::tracked;
}

/// Ages by access tracking: tracks an entry that translates. Returns true (young) for it, and false
/// (old) for one that is tracked already or does not translate. An entry that translates but could
/// not be tracked is young, and left alone. Order, flush: as track().
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr bool age(Word& slot, const access_tracking<F, S>& tracking, Access access = {}, unsigned level = 0) noexcept
{
    switch (track(slot, tracking, access, level)) {
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
/// Returns whether this call did. The entry keeps its D: a D that a CPU set when the entry was absent
/// costs one more copy of the page, but clearing D could lose a write. Precondition: other values that
/// are not present (frozen markers, swap entries) have the saved bits clear; see check_marker().
/// Order: acq_rel if so, else acquire. Flush: none.
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
constexpr bool restore(Word& slot, const access_tracking<F, S>& tracking, Access access = {}) noexcept
{
    const Word before = update(
        slot,
        [&](Word entry) { return is_tracked(entry, tracking) ? static_cast<Word>(tracking.restored(entry)) : entry; },
        access);
    return is_tracked(before, tracking);
}

/// Whether an entry is young by access tracking: it translates.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool young(std::uint64_t entry, const access_tracking<F, S>& tracking) noexcept
{
    return translates(entry, tracking.format());
}

/// Whether an entry, tracked or present, says that its page may have been written since the last
/// harvest. Also for what unmap() returned.
template <entry_format F, unsigned S>
[[nodiscard]] constexpr bool dirty(std::uint64_t entry, const access_tracking<F, S>& tracking) noexcept
{
    return tracking.harvested(entry) != entry;
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

/// Ages all slots of a range, such as those of a reverse map, which all map one page. Returns whether
/// any was young. `by` is a format, run-time masks or an access_tracking.
template <class Slots, class By, slot_access Access = atomic_access<>>
constexpr bool age_all(Slots&& slots, const By& by, Access access = {}, unsigned level = 0) noexcept
{
    bool any = false;
    for (auto&& element : slots) {
        if (age(detail::slot_of(element), by, access, level)) any = true;
    }
    return any;
}

/// Whether any slot of a range holds a young entry. Clears nothing, stops at the first.
template <class Slots, class By, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool young_any(const Slots& slots, const By& by, Access access = {},
                                       unsigned level = 0) noexcept
{
    for (const auto& element : slots) {
        const auto entry = access.load(detail::slot_of(element));
        if constexpr (entry_masks<By>) {
            if (!translates(entry, by, level)) continue;
        }
        if (young(entry, by)) return true;
    }
    return false;
}

// ---- by unmapping

/// Takes a mapping away: the slot then holds what an empty one of the format does. Returns the entry
/// as it was last, with the A and D that hardware set until then. A and D count only if it was
/// present, since some CPUs set them in an absent entry too. Precondition: nobody freezes the slot, since
/// a frozen entry is overwritten too; else use freeze(). Order: acq_rel. Flush: if the result was present
/// or is_tracked(), since tracking does not flush.
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

/// Makes a page clean: clears D, or takes the write permission where a dirty modifier makes it the
/// dirty state. Writes only if the page was dirty. Returns whether it was. A shadow-stack page becomes
/// a read-only page, until a fault handler sets D again.
/// Precondition: a leaf; the format has a dirty bit or a dirty modifier. As with age() the entry may
/// be replaced meanwhile. Order: acq_rel if it was dirty, else acquire. Flush: before the page counts as
/// clean, since the CPU does not set D again while its TLB says that D is set.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool clear_dirty(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    detail::require_width<Word>(format);
    const Word entry = access.load(slot);
    if (!dirty(entry, format) || !translates(entry, format, level)) return false;
    if constexpr (entry_format<F>) {
        if (detail::dirty_modifier_of(format) != 0) return detail::revoke_write(slot, format, access, level);
    }
    return access.test_and_clear(slot, format->dirty.shift());
}

/// Makes a page dirty, for example after its copy failed: sets D, or grants the write permission to an
/// entry with a dirty modifier. Returns whether this call did. It does not if the entry does not translate
/// or is dirty already, has no dirty modifier where the format needs one, or is read-only and would become a
/// shadow-stack page; nor by masks or a run-time format without a dirty state (a constant format without
/// one does not compile). If false, and the page was not dirty already, keep the write elsewhere.
/// Precondition: a leaf. Order: acq_rel if set, else acquire. Flush: none.
template <slot_word Word, entry_masks F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool mark_dirty(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    detail::require_width<Word>(format);
    if constexpr (constant_masks<F>) detail::require_dirty(format);
    const auto marked = [&](Word entry) {
        if (!translates(entry, format, level)) return entry;
        std::uint64_t written = entry | format->dirty.mask();
        if constexpr (entry_format<F>) {
            if (detail::of_shadow_stack(written, format)) return entry;
            written = detail::granted_by_hardware(written, format->layout_at(1, kind::leaf));
        }
        return static_cast<Word>(written);
    };
    const Word before = update(slot, marked, access);
    return marked(before) != before;
}

/// Takes the write permission from a leaf, and a dirty modifier by which hardware would grant it
/// again. Returns whether it had either. With shadow stacks D is taken as well, in one exchange, and
/// true then says that the page may have been written. As with age() the entry may be replaced
/// meanwhile. Order: acq_rel if it had, else acquire. Flush: if true.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool write_protect(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    if (detail::writes_by_one_bit(format)) return detail::revoke_write(slot, format, access, level);
    detail::require_width<Word>(format);
    const auto protect = [&](Word entry) {
        return translates(entry, format, level) ? static_cast<Word>(detail::write_protected(entry, format)) : entry;
    };
    const Word before = update(slot, protect, access);
    return protect(before) != before;
}

namespace detail {

/// Takes what lets a page be written; only the write permission where that is the dirty state.
template <slot_word Word, entry_format F, slot_access Access>
constexpr bool harvest_writes(Word& slot, const F& format, Access access, unsigned level) noexcept
{
    if (dirty_modifier_of(format) != 0) return revoke_write(slot, format, access, level);
    return write_protect(slot, format, access, level);
}

}  // namespace detail

/// Makes a page clean where hardware keeps a dirty state; else takes the write permission away, so that
/// the next write faults. Returns whether the page may have been written since the last harvest.
/// Precondition: a leaf; the format has a dirty bit or a write permission; accesses are not
/// tracked. Order: as clear_dirty() and write_protect(). Flush: if true.
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool harvest_dirty(Word& slot, const F& format, Access access = {}, unsigned level = 0) noexcept
{
    if constexpr (constant_masks<F>) {
        if constexpr (detail::constant<F>->dirty.exists()) {
            return clear_dirty(slot, format, access, level);
        } else {
            return detail::harvest_writes(slot, format, access, level);
        }
    } else {
        return format->dirty.exists() ? clear_dirty(slot, format, access, level)
                                      : detail::harvest_writes(slot, format, access, level);
    }
}

/// The same where accesses are tracked, also for tracked entries: finds what tracking recorded, too.
/// Order: acq_rel if true, else acquire. Flush: if true.
template <slot_word Word, entry_format F, unsigned S, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool harvest_dirty(Word& slot, const access_tracking<F, S>& tracking, Access access = {},
                                           unsigned level = 0) noexcept
{
    detail::require_width<Word>(tracking.format());
    const auto harvest = [&](Word entry) {
        const bool page = is_tracked(entry, tracking) || translates(entry, tracking.format(), level);
        return page ? static_cast<Word>(tracking.harvested(entry)) : entry;
    };
    const Word before = update(slot, harvest, access);
    return harvest(before) != before;
}

// ---- changing a live entry

/// Whether a change of an entry at a level needs a TLB flush: the translation that a CPU may hold
/// allows more than the new entry, leads elsewhere, or has another memory type or attribute; or D was
/// cleared, which the TLB may hold as set; or a shadow-stack page is one no longer.
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
    if (k != kind::table && detail::of_shadow_stack(before, format) && !detail::of_shadow_stack(after, format)) {
        return true;
    }

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
/// lock-free path may change more than A meanwhile: D, the write permission, or access
/// tracking where hardware keeps no A and D. A alone does not count: losing it only makes the
/// page look older. CR0.WP, which is no feature, may be 0: then ordinary paging sets D of a read-only
/// page. If false, a plain store() is enough.
template <entry_format F>
[[nodiscard]] constexpr bool needs_atomic_update(std::uint64_t leaf, const F& format,
                                                 std::uint64_t lock_free_write = 0) noexcept
{
    if (!translates(leaf, format)) return false;
    const layout& l = format->layout_at(1, kind::leaf);
    const bool writes = l.mask(role::write) != 0 && l.grants(leaf, role::write);
    if (!writes && lock_free_write != 0 && (leaf & lock_free_write) == lock_free_write) return true;
    if (!format->dirty.exists()) return true;
    const bool writable = writes || (leaf & format->other_writes()) != 0 || format->writes_read_only();
    return writable && (leaf & format->dirty.mask()) == 0;
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

/// Why a value must not mark frozen entries of a format: a marker must be a value that absent entries
/// may have, and differ from an empty slot and a writable page.
template <entry_masks F>
[[nodiscard]] constexpr marker_error check_marker(std::uint64_t marker, const F& format) noexcept
{
    if (marker == 0 || marker == format->empty()) return marker_error::is_empty;
    switch (check_absent(marker, format)) {
    case absent_error::none:
        break;
    case absent_error::looks_present:
        return marker_error::looks_present;
    case absent_error::looks_accessed:
        return marker_error::looks_accessed;
    case absent_error::looks_dirty:
        return marker_error::looks_dirty;
    case absent_error::bits_not_written:
        return marker_error::bits_not_written;
    case absent_error::points_into_memory:
        return marker_error::points_into_memory;
    }
    if constexpr (entry_format<F>) {
        if ((marker & ~format->layout_at(1, kind::none).all) != 0) return marker_error::too_wide;
        const layout& l = format->layout_at(1, kind::leaf);
        if (l.mask(role::write) != 0 && l.grants(marker, role::write)) return marker_error::looks_writable;
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

/// What marks an entry as being taken away, made by frozen_marker(). Where several threads take
/// mappings away: freeze() the entry, flush, then store() the value that is not present. Nobody else
/// overwrites a frozen entry.
template <class M>
concept marker_of_frozen = requires(const M& marker) {
    { marker.value } -> std::same_as<const std::uint64_t&>;
    { marker.stray } -> std::same_as<const std::uint64_t&>;  // A and D, which some CPUs set in a frozen entry too
};

namespace detail {

template <class By>
inline constexpr bool by_constants = constant_masks<By>;
template <entry_format F, unsigned S>
inline constexpr bool by_constants<access_tracking<F, S>> = constant_masks<F>;

template <entry_format F, unsigned S>
[[nodiscard]] constexpr std::uint64_t stray_bits(const access_tracking<F, S>& tracking) noexcept
{
    return stray_bits(tracking.format());
}

template <std::uint64_t Marker, std::uint64_t Stray, marker_error Error>
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
    static constexpr std::uint64_t stray = Stray;
};

struct runtime_marker {
    std::uint64_t value;
    std::uint64_t stray;
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

/// The marker of a value, for a constant format, constant masks, or an access_tracking of one. A value
/// that check_marker() refuses does not compile.
template <std::uint64_t Marker, class By>
    requires detail::by_constants<By>
[[nodiscard]] constexpr auto frozen_marker(const By&) noexcept
{
    constexpr By by = detail::constant_maker<By>::make();
    return detail::constant_marker<Marker, detail::stray_bits(by), check_marker(Marker, by)>{};
}

/// The same by a format known at run time. Precondition: check_marker() finds nothing wrong.
template <class By>
[[nodiscard]] constexpr auto frozen_marker(std::uint64_t marker, const By& by) noexcept
{
    if (check_marker(marker, by) != marker_error::none) broken::marker_is_not_distinct();
    return detail::runtime_marker{marker, detail::stray_bits(by)};
}

/// Whether an entry is frozen. A and D do not count: some CPUs set them in an absent entry.
template <marker_of_frozen Marker>
[[nodiscard]] constexpr bool is_frozen(std::uint64_t entry, const Marker& marker) noexcept
{
    return (entry & ~marker.stray) == marker.value;
}

/// Freezes an entry that is still the expected one; else `expected` becomes what was there.
/// Returns whether this call froze it; false also if it was frozen already. Order: acq_rel.
/// Flush: before the next store().
template <slot_word Word, marker_of_frozen Marker, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool freeze(Word& slot, Word& expected, const Marker& marker, Access access = {}) noexcept
{
    if (is_frozen(expected, marker)) return false;
    return access.compare_exchange(slot, expected, detail::slot_mask<Word>(marker.value));
}

}  // namespace ptebits
