// SPDX-License-Identifier: BSL-1.0
// Formats: objects that operations ask about entries, in two sorts with one syntax.
//
// runtime_format<Description> computes its layouts from features known at run time; a
// constant_format is an empty object whose answers are constants. Both are asked by `->`:
// host->accessed, cpu->reserved_mask(2, kind::leaf).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <ptebits/detail/quick_test.hpp>
#include <ptebits/layout.hpp>
#include <ptebits/permissions.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void address_is_misaligned_or_too_wide() noexcept { stop(); }
[[noreturn]] inline void more_layouts_than_the_description_says() noexcept { stop(); }
}  // namespace broken

/// What ageing and harvesting need to know, no more: run-time masks satisfy this too.
template <class F>
concept entry_masks = requires(const F& f) {
    { f->present_mask() } -> std::same_as<std::uint64_t>;  // present = any of these bits set
    { f->accessed } -> std::convertible_to<field>;         // empty: no accessed bit
    { f->dirty } -> std::convertible_to<field>;            // empty: no dirty bit
    { f->empty() } -> std::same_as<std::uint64_t>;         // what an empty slot holds
};

/// Who sets the accessed bit.
enum class accessed_setter : std::uint8_t {
    nobody,    ///< the format has none, or one that software keeps
    hardware,  ///< with the dirty bit, where the format has one
    fault,     ///< software: an access faults where the bit is clear, a write where the dirty bit is
};

/// A forbidden combination, in place: broken by entries with (entry & mask) == value.
struct combination {
    rule breaks = rule::none;
    entries in;
    std::uint64_t mask = 0;
    std::uint64_t value = 0;
};

/// What is wrong with a format, where, and in which bits.
struct flaw {
    defect what = defect::none;
    unsigned level = 0;
    kind in = kind::leaf;
    std::uint64_t bits = 0;
};

namespace detail {

/// Entries of a kind have these values in these bits. By default no entry passes.
struct kind_test {
    std::uint64_t mask = 0;
    std::uint64_t value = 1;

    [[nodiscard]] constexpr bool passes(std::uint64_t entry) const noexcept { return (entry & mask) == value; }
};

/// What tells the entries of one level apart.
struct kind_tests {
    std::uint64_t any = ~std::uint64_t{0};  ///< entries with none of these bits are absent
    kind_test tests[kind_count - 1];        ///< those of more bits come first
    kind is[kind_count - 1] = {};           ///< what passes them; none: no such test

    /// Adds one. Returns whether it can be told from the others: they differ in a bit that both
    /// test, or one tests all bits that the other does, and more.
    constexpr bool add(const kind_test& added, kind passes) noexcept
    {
        unsigned at = kind_count - 1;
        for (unsigned n = 0; n < kind_count - 1; ++n) {
            const kind_test& t = tests[n];
            if (is[n] == kind::none) {
                if (at > n) at = n;
                break;
            }
            const bool apart = ((t.value ^ added.value) & t.mask & added.mask) != 0;
            const bool wider = (t.mask & ~added.mask) == 0;
            const bool narrower = (added.mask & ~t.mask) == 0;
            if (!apart && wider == narrower) return false;
            if (!apart && wider && at > n) at = n;
        }
        for (unsigned last = kind_count - 2; last > at; --last) {
            tests[last] = tests[last - 1];
            is[last] = is[last - 1];
        }
        tests[at] = added;
        is[at] = passes;
        return true;
    }

    [[nodiscard]] constexpr kind kind_of(std::uint64_t entry) const noexcept
    {
        // Not a loop: see layout::address_in().
        if ((entry & any) == 0) return kind::none;
        if (tests[0].passes(entry)) return is[0];
        if (tests[1].passes(entry)) return is[1];
        if (tests[2].passes(entry)) return is[2];
        return kind::none;
    }
};

}  // namespace detail

/// A format whose features are known at run time only.
///
/// Contradictory features give a format in which nothing is present and every bit is
/// reserved: no operation but unmap() changes an entry by it, and age() stops the program. Look at
/// wrong() first, it tells what to mend.
template <class Description>
class runtime_format : public Description::fields {
public:
    using description = Description;
    using features_type = typename Description::features;
    using fields_type = typename Description::fields;

    entry_field accessed;
    entry_field dirty;

    /// No format: wrong() tells defect::no_format. A place to keep one in, as in a cache by features.
    constexpr runtime_format() noexcept { become(flaw{.what = defect::no_format}); }

    constexpr explicit runtime_format(const features_type& features) noexcept : features_(features)
    {
        become(compute());
    }

    [[nodiscard]] constexpr const runtime_format* operator->() const noexcept { return this; }

    [[nodiscard]] constexpr const features_type& features() const noexcept { return features_; }
    [[nodiscard]] constexpr const flaw& wrong() const noexcept { return flaw_; }
    [[nodiscard]] constexpr const ptebits::shape& shape() const noexcept { return shape_; }

    /// The named fields.
    [[nodiscard]] constexpr const fields_type& fields() const noexcept { return *this; }

    /// Present = any of these bits set.
    [[nodiscard]] constexpr std::uint64_t present_mask() const noexcept { return present_; }

    /// Whether the format has entries of this kind at this level.
    [[nodiscard]] constexpr bool exists(unsigned level, kind k) const noexcept
    {
        return flaw_.what == defect::none && existing_.contains(level, k);
    }

    /// What an entry of a level is. Total: none where the format has no such level.
    [[nodiscard]] constexpr kind kind_of(std::uint64_t entry, unsigned level) const noexcept
    {
        return kinds_[level <= max_levels ? level : 0].kind_of(entry);
    }

    /// Whether some entry has bits of a role.
    [[nodiscard]] constexpr bool uses(role r) const noexcept { return (roles_ >> static_cast<unsigned>(r) & 1) != 0; }
    /// Whether the size of some page is coded in its address.
    [[nodiscard]] constexpr bool uses_sizes() const noexcept { return sizes_; }

    /// What tells the entries of a level apart. Precondition: level <= 6.
    [[nodiscard]] constexpr const detail::kind_tests& tests_at(unsigned level) const noexcept { return kinds_[level]; }

    /// A test that smallest pages pass, and nothing that does not translate.
    [[nodiscard]] constexpr const detail::quick_test& page_test() const noexcept { return page_test_; }
    /// What walks compare entries with.
    [[nodiscard]] constexpr const detail::walk_plan& plan() const noexcept { return plan_; }

    /// Level of the table that an entry of a kind::table refers to; 0 or not below `level`: none.
    [[nodiscard]] constexpr unsigned level_below(std::uint64_t entry, unsigned level) const noexcept
    {
        if (!uses(role::next_level)) return level - 1;
        const std::uint64_t next = layout_at(level, kind::table).mask(role::next_level);
        return next == 0 ? level - 1 : static_cast<unsigned>(field{next}.get(entry));
    }

    /// Roles of all bits. Any level and kind may be asked for; where the format has no
    /// such entry, every bit is reserved. Absent entries have one layout at every level.
    [[nodiscard]] constexpr const layout& layout_at(unsigned level, kind k) const noexcept
    {
        return layouts_[which_[level <= max_levels ? level : 0][static_cast<unsigned>(k)]];
    }

    /// What an empty slot holds.
    [[nodiscard]] constexpr std::uint64_t empty() const noexcept { return layout_at(1, kind::none).value; }

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

    /// An entry's address bits for a physical address, to which fields are added by `|`: one that
    /// this entry does not have is a broken precondition. Units: level, bytes. Precondition: the
    /// address is aligned and fits the entry; encode() reports where it is not.
    [[nodiscard]] constexpr field_values address(unsigned level, std::uint64_t physical,
                                                 kind k = kind::leaf) const noexcept
    {
        const layout& l = layout_at(level, k);
        const std::uint64_t placed = l.address_bits(physical);
        if (l.address_in(placed) != physical) broken::address_is_misaligned_or_too_wide();
        return {placed, entries(level, k)};
    }

    [[nodiscard]] constexpr accessed_setter accessed_by() const noexcept { return accessed_by_; }

    /// Whether execution in user mode is granted apart from that in supervisor mode.
    [[nodiscard]] constexpr bool modes_apart() const noexcept
    {
        if constexpr (requires { Description::modes_apart(features_); }) {
            return Description::modes_apart(features_);
        } else {
            return layout_at(1, kind::leaf).mask(role::user_execute) != 0;
        }
    }

    /// What entries allow that grant these roles: `k` is the entry's kind, or leaf for all entries
    /// of a walk together.
    [[nodiscard]] constexpr permissions allowed(permissions by_role, kind k) const noexcept
    {
        if constexpr (requires { Description::allowed(by_role, k, features_); }) {
            return Description::allowed(by_role, k, features_);
        } else {
            if (!modes_apart()) by_role.user_execute = by_role.execute && by_role.user;
            return by_role;
        }
    }

    /// The roles that an entry must grant so that this is allowed, if the format can say it.
    [[nodiscard]] constexpr permissions roles_for(permissions wanted, [[maybe_unused]] kind k) const noexcept
    {
        if constexpr (requires { Description::roles_for(wanted, k, features_); }) {
            return Description::roles_for(wanted, k, features_);
        } else {
            return wanted;
        }
    }

    /// Whether all entries that have a permission have it in the same bits.
    [[nodiscard]] constexpr bool permissions_in_place() const noexcept { return in_place_; }

    /// Where memory ends, log2 of bytes, on a CPU that leaks what absent entries point to; else 0.
    [[nodiscard]] constexpr unsigned memory_bits() const noexcept
    {
        if constexpr (requires { Description::memory_bits(row_features<Description>(features_)); }) {
            return Description::memory_bits(row_features<Description>(features_));
        } else {
            return 0;
        }
    }

    /// Whether a leaf that is dirty and not writable is a page of a shadow stack: one that other
    /// instructions than ordinary ones write.
    [[nodiscard]] constexpr bool shadow_stacks() const noexcept
    {
        if constexpr (requires { Description::shadow_stacks(row_features<Description>(features_)); }) {
            return Description::shadow_stacks(row_features<Description>(features_));
        } else {
            return false;
        }
    }

    /// Whether the MMU, as a control says that is none of the features, may write a page without
    /// the write permission, and then sets its dirty bit.
    [[nodiscard]] constexpr bool writes_read_only() const noexcept
    {
        if constexpr (requires { Description::writes_read_only(features_); }) {
            return Description::writes_read_only(features_);
        } else {
            return false;
        }
    }

    /// Whether a live entry must be absent, and flushed, before it refers to another page, or has another memory type.
    [[nodiscard]] constexpr bool break_before_make() const noexcept
    {
        if constexpr (requires { Description::break_before_make(row_features<Description>(features_)); }) {
            return Description::break_before_make(row_features<Description>(features_));
        } else {
            return false;
        }
    }
    /// Whether that is so before a live page changes its size.
    [[nodiscard]] constexpr bool break_before_resize() const noexcept
    {
        if constexpr (requires { Description::break_before_resize(row_features<Description>(features_)); }) {
            return Description::break_before_resize(row_features<Description>(features_));
        } else {
            return break_before_make();
        }
    }
    /// Whether TLBs may hold that an entry is absent, so that it must be flushed after it was made present.
    [[nodiscard]] constexpr bool caches_absent() const noexcept
    {
        if constexpr (requires { Description::caches_absent(features_); }) {
            return Description::caches_absent(features_);
        } else {
            return false;
        }
    }

    /// Bits of a leaf that let a page be written without its write permission: a dirty modifier, D where shadow
    /// stacks are, in EPT what shadow stacks, paging writes and sub-pages go by.
    [[nodiscard]] constexpr std::uint64_t other_writes() const noexcept
    {
        return may_write_otherwise ? other_writes_ : 0;
    }
    /// Those of them that have no other meaning in a leaf of another level, nor are permissions.
    [[nodiscard]] constexpr std::uint64_t revocable_writes() const noexcept
    {
        return may_write_otherwise ? revocable_writes_ : 0;
    }

    /// A level as the manual numbers it.
    [[nodiscard]] constexpr int manual_level(unsigned level) const noexcept
    {
        if constexpr (requires { Description::manual_level(level, features_); }) {
            return static_cast<int>(Description::manual_level(level, features_));
        } else {
            return static_cast<int>(level);
        }
    }

    /// The forbidden combinations under these features.
    [[nodiscard]] constexpr const auto& combinations() const noexcept { return combinations_; }

protected:
    /// Makes all tests fail that have this format's masks and the constants' values.
    constexpr void fail_tests(const runtime_format& constants) noexcept
    {
        page_test_.mask = ~constants.page_test_.value;
        for (unsigned n = 0; n < max_levels; ++n) {
            plan_.levels[n].table_mask = ~constants.plan_.levels[n].table_value;
            plan_.levels[n].leaf.mask = ~constants.plan_.levels[n].leaf.value;
        }
    }

    /// Takes what compute() found; with a flaw, nothing is present and every bit is reserved.
    constexpr void become(const flaw& found)
    {
        flaw_ = found;
        if (flaw_.what == defect::none) return;
        static_cast<fields_type&>(*this) = {};
        accessed = dirty = {};
        present_ = 0;
        shape_.levels = 0;  // no level exists
        accessed_by_ = accessed_setter::nobody;
        other_writes_ = revocable_writes_ = 0;
        layouts_[0] = no_layout(shape_.entry_bits);
        for (auto& level : which_) {
            for (std::uint8_t& n : level) n = 0;
        }
        for (detail::kind_tests& tests : kinds_) tests = {};
        page_test_ = {};
        plan_ = {};
    }

private:
    /// How many layouts there is room for: of present entries, of absent ones, and of those that do not exist.
    static constexpr std::size_t layout_count = [] {
        if constexpr (requires { Description::different_layouts; }) {
            return std::size_t{Description::different_layouts} + 2;
        } else {
            return std::size_t{max_levels} * (kind_count - 1) + 2;
        }
    }();

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
        const auto switches = row_features<Description>(features_);
        shape_ = Description::shape_of(switches);
        layouts_[0] = no_layout(shape_.entry_bits);
        unsigned narrowest = min_physical_bits;
        unsigned widest = 52;
        if constexpr (requires { Description::widest_physical; }) widest = Description::widest_physical;
        if constexpr (requires { Description::narrowest_physical; }) narrowest = Description::narrowest_physical;
        if (switches.physical_bits < narrowest || switches.physical_bits > widest) {
            return {.what = defect::physical_bits};
        }
        if constexpr (requires { Description::contradiction(switches); }) {
            if (const defect d = Description::contradiction(switches); d != defect::none) return {.what = d};
        }
        const bool levels_fit = shape_.levels >= 1 && shape_.levels <= max_levels;
        if (!levels_fit || shape_.page_shift(shape_.levels) > 63) return {.what = defect::levels};
        if (memory_bits() >= switches.physical_bits) return {.what = defect::memory_bits};
        const entries existing = Description::entries_of(switches);
        existing_ = existing;
        find_setter(switches);
        const detail::layout_computer<Description> computer(switches, shape_);
        unsigned used = 1;  // layouts, the first of which is that of no entry
        std::uint64_t accessed_bits = 0;
        std::uint64_t dirty_bits = 0;
        entries accessed_in;
        entries dirty_in;
        std::uint64_t common = ~std::uint64_t{0};
        std::uint64_t any_of_them = 0;
        for (unsigned level = 1; level <= shape_.levels; ++level) {
            bool zero_passes = false;
            std::uint64_t grants = 0;
            for (unsigned n = 0; n < kind_count - 1; ++n) {
                const kind k = present_kinds[n];
                if (!existing.contains(level, k)) continue;
                detail::computed_layout l = computer.compute(level, k, *this);
                // Nothing else would set A in it.
                if (k == kind::table && accessed_by_ == accessed_setter::fault) l.value |= l.mask(role::accessed);
                if (l.wrong != defect::none) return {.what = l.wrong, .level = level, .in = k, .bits = l.wrong_bits};
                const std::uint64_t value = l.value & l.mask(role::fixed);
                if (!kinds_[level].add({l.mask(role::fixed), value}, k)) {
                    return {.what = defect::kinds_alike, .level = level, .in = k, .bits = l.mask(role::fixed)};
                }
                for (unsigned r = 0; r < role_count; ++r) roles_ |= l.masks[r] != 0 ? 1U << r : 0;
                sizes_ = sizes_ || l.sized;
                zero_passes = zero_passes || value == 0;
                grants |= (l.permission_mask() & ~l.mask(role::user)) & ~l.denying;
                common &= value;
                if ((any_of_them & value) == 0) any_of_them |= value & ~(value - 1);
                if (l.mask(role::accessed) != 0) accessed_in = accessed_in | entries(level, k);
                if (l.mask(role::dirty) != 0) dirty_in = dirty_in | entries(level, k);
                accessed_bits |= l.mask(role::accessed);
                dirty_bits |= l.mask(role::dirty);
                // Equal layouts, most often of tables, are kept once.
                const std::uint8_t lower = which_[level - 1][static_cast<unsigned>(k)];
                const bool again = lower != 0 && l == layouts_[lower];
                which_[level][static_cast<unsigned>(k)] = again ? lower : static_cast<std::uint8_t>(used);
                if (again) continue;
                if (used == layout_count - 1) broken::more_layouts_than_the_description_says();
                layouts_[used++] = l;
            }
            // No fixed bit tells a present entry from 0: its permissions do.
            if (zero_passes) kinds_[level].any = grants;
            if (zero_passes) present_ |= grants;
        }
        // Present by a permission at one level, and by a fixed bit that is none at another.
        for (unsigned level = 1; present_ != 0 && level <= shape_.levels; ++level) {
            if (kinds_[level].any != ~std::uint64_t{0}) continue;
            for (unsigned n = 0; n < kind_count - 1; ++n) {
                const detail::kind_test& t = kinds_[level].tests[n];
                const kind k = kinds_[level].is[n];
                if (k == kind::none || (t.value & present_) != 0) continue;
                return {.what = defect::kinds_alike, .level = level, .in = k, .bits = t.mask};
            }
        }
        if (present_ == 0) present_ = common != 0 ? common & ~(common - 1) : any_of_them;
        for (const std::uint64_t flag : {accessed_bits, dirty_bits}) {
            if (several_bits(flag)) return {.what = defect::flag_of_several_bits, .bits = flag};
        }
        accessed = {field{accessed_bits}, accessed_in};
        dirty = {field{dirty_bits}, dirty_in};
        detail::computed_layout none = computer.compute(1, kind::none, *this);
        if (none.wrong != defect::none) return {.what = none.wrong, .in = kind::none, .bits = none.wrong_bits};
        if (memory_bits() != 0 && none.address_in(none.mask(role::address)) >> memory_bits() == 0) {
            return {.what = defect::memory_bits, .in = kind::none, .bits = none.mask(role::address)};
        }
        none.mask(role::software) &= ~present_;
        none.mask(role::fixed) |= present_;
        layouts_[used] = none;
        for (auto& level : which_) level[static_cast<unsigned>(kind::none)] = static_cast<std::uint8_t>(used);
        find_in_place(existing);
        place_combinations(switches);
        page_test_ = detail::quick_test_of(1, kind::leaf, *this);
        plan_ = detail::walk_plan_of(*this);
        find_other_writes();
        return {};
    }

    /// Whether under some features there are such bits: else it costs nothing, at run time neither.
    static constexpr bool may_write_otherwise =
        detail::rows_have<Description>(role::dirty_modifier) || requires(typename Description::features f) {
            Description::shadow_stacks(row_features<Description>(f));
        } || requires(typename Description::features f, fields_type named) { Description::other_writes(f, named); };

    constexpr void find_other_writes()
    {
        const layout& page = layout_at(1, kind::leaf);
        other_writes_ = page.mask(role::dirty_modifier) | (shadow_stacks() ? dirty.mask() : 0);
        if constexpr (requires { Description::other_writes(features_, fields()); }) {
            other_writes_ |= Description::other_writes(features_, fields());
        }
        revocable_writes_ = other_writes_ & ~page.permission_mask();
        for (unsigned level = 1; level <= shape_.levels; ++level) {
            for (const kind k : {kind::leaf, kind::run}) {
                if (exists(level, k)) revocable_writes_ &= ~layout_at(level, k).mask(role::software);
            }
        }
    }

    constexpr void find_in_place(entries existing)
    {
        const layout& page = layout_at(1, kind::leaf);
        in_place_ = true;
        for (unsigned level = 1; level <= shape_.levels; ++level) {
            for (const kind k : present_kinds) {
                if (!existing.contains(level, k)) continue;
                const layout& l = layout_at(level, k);
                for (const role r : permission_roles) {
                    const bool same = l.mask(r) == page.mask(r) && ((l.denying ^ page.denying) & l.mask(r)) == 0;
                    in_place_ = in_place_ && (l.mask(r) == 0 || same);
                }
            }
        }
    }

    template <class Switches>
    constexpr void find_setter(const Switches& switches)
    {
        if constexpr (requires { Description::accessed_by(features_); }) {
            accessed_by_ = Description::accessed_by(features_);
        } else {
            for (const auto& r : Description::rows) {
                if (r.is.is != role::accessed || r.place != nullptr || !r.in_force(switches, 1)) continue;
                accessed_by_ = accessed_setter::hardware;
            }
        }
    }

    template <class Switches>
    constexpr void place_combinations([[maybe_unused]] const Switches& switches)
    {
        if constexpr (requires { Description::forbidden; }) {
            std::size_t n = 0;
            for (const auto& f : Description::forbidden) {
                const field which = this->*f.which;
                if (!which.exists() || !f.when.holds(switches, 1)) continue;
                const field without = f.without != nullptr ? static_cast<field>(this->*f.without) : field{};
                combinations_[n++] = {f.breaks, f.in, which | without, which(f.value)};
            }
        }
    }

    features_type features_;
    flaw flaw_;
    ptebits::shape shape_;
    entries existing_;
    std::uint64_t present_ = 0;
    accessed_setter accessed_by_ = accessed_setter::nobody;
    bool in_place_ = true;
    bool sizes_ = false;
    std::uint32_t roles_ = 0;
    layout layouts_[layout_count];  // different ones; the first is that of entries that the format does not have
    std::uint8_t which_[max_levels + 1][kind_count] = {};  // of them, by level and kind
    detail::kind_tests kinds_[max_levels + 1];
    combination combinations_[combination_count()];
    detail::quick_test page_test_;
    detail::walk_plan plan_;
    std::uint64_t other_writes_ = 0;
    std::uint64_t revocable_writes_ = 0;
};

/// A format whose features are constants: an empty object, and all that it says is constant.
/// Features that contradict each other do not compile.
template <class Description, typename Description::features Features>
struct constant_format {
    using description = Description;
    using features_type = typename Description::features;

    static constexpr runtime_format<Description> value{Features};

    [[nodiscard]] constexpr const runtime_format<Description>* operator->() const noexcept { return &value; }

    static_assert(value.wrong().what != defect::levels, "ptebits: this format has no tables of so many levels");
    static_assert(value.wrong().what != defect::physical_bits,
                  "ptebits: this format does not have these physical_bits (x86: 32 to 52)");
    static_assert(value.wrong().what != defect::encryption_bit,
                  "ptebits: encryption_bit, shared_bit or key_id_bits lies outside the address field (x86: bits 32 to "
                  "51 of a 64-bit entry; shared_bit below physical_bits)");
    static_assert(value.wrong().what != defect::always_on,
                  "ptebits: large_pages is off, but only 32-bit entries can be without them (CR4.PSE)");
    static_assert(value.wrong().what != defect::software_bit_in_use,
                  "ptebits: a software bit is claimed that the hardware uses under these features");
    static_assert(value.wrong().what != defect::two_accessed_bits,
                  "ptebits: a software accessed bit is claimed, and the hardware sets one under these features");
    static_assert(value.wrong().what != defect::memory_bits,
                  "ptebits: memory may end at the last physical address, so no absent entry points past it");
    static_assert(value.wrong().what != defect::contradiction, "ptebits: these features exclude each other");
    static_assert(value.wrong().what != defect::rows_overlap, "ptebits: two rows of this format claim the same bit");
    static_assert(value.wrong().what != defect::bit_without_role, "ptebits: a bit of this format has no role");
    static_assert(value.wrong().what != defect::name_in_two_places,
                  "ptebits: a named field of this format stands in two places");
    static_assert(value.wrong().what != defect::flag_of_several_bits,
                  "ptebits: an accessed, dirty, encryption or shared bit of this format is not one bit");
    static_assert(value.wrong().what != defect::kinds_alike,
                  "ptebits: two kinds of entries of this format cannot be told apart");
    static_assert(value.wrong().what != defect::address_in_pieces,
                  "ptebits: an address of this format stands in more than two pieces");
};

/// A format of constants but for what is known at boot only: the physical-address width and the place of the
/// encryption bit. Fields in use, permissions, kinds, levels are those of `Constants`; the masks that depend on the
/// rest are computed once. Descriptions say which features these are, by at_boot(); by default the width.
/// Look at wrong() before use: a feature that must not differ is defect::not_constant.
template <class Description, typename Description::features Constants>
class boot_format : public runtime_format<Description> {
    using base = runtime_format<Description>;

public:
    using constants_type = constant_format<Description, Constants>;
    using features_type = typename Description::features;

    static constexpr entry_field accessed = constants_type::value.accessed;
    static constexpr entry_field dirty = constants_type::value.dirty;

    /// No format: wrong() tells defect::no_format.
    constexpr boot_format() noexcept { this->fail_tests(constants()); }

    /// The format of these features, which are `Constants` but for those that may differ.
    constexpr explicit boot_format(const features_type& features) noexcept : base(features)
    {
        const bool sound = this->wrong().what == defect::none;
        if (sound && (!(merged(features) == features) || !agrees())) this->become({.what = defect::not_constant});
        if (this->wrong().what != defect::none) this->fail_tests(constants());
    }

    [[nodiscard]] constexpr const boot_format* operator->() const noexcept { return this; }

    /// The same format as one that is known at run time only.
    [[nodiscard]] constexpr const base& at_run_time() const noexcept { return *this; }

    // What does not depend on the features known at boot.
    [[nodiscard]] static constexpr const ptebits::shape& shape() noexcept { return constants().shape(); }
    [[nodiscard]] static constexpr std::uint64_t present_mask() noexcept { return constants().present_mask(); }
    [[nodiscard]] static constexpr std::uint64_t empty() noexcept { return constants().empty(); }
    [[nodiscard]] static constexpr bool exists(unsigned level, kind k) noexcept { return constants().exists(level, k); }
    [[nodiscard]] static constexpr kind kind_of(std::uint64_t entry, unsigned level) noexcept
    {
        return constants().kind_of(entry, level);
    }
    [[nodiscard]] static constexpr const detail::kind_tests& tests_at(unsigned level) noexcept
    {
        return constants().tests_at(level);
    }
    [[nodiscard]] static constexpr bool uses_sizes() noexcept { return constants().uses_sizes(); }
    [[nodiscard]] static constexpr accessed_setter accessed_by() noexcept { return constants().accessed_by(); }
    [[nodiscard]] static constexpr bool permissions_in_place() noexcept { return constants().permissions_in_place(); }
    [[nodiscard]] static constexpr std::uint64_t other_writes() noexcept { return constants().other_writes(); }
    [[nodiscard]] static constexpr std::uint64_t revocable_writes() noexcept { return constants().revocable_writes(); }

    /// A test that smallest pages pass, of which only the mask is not a constant.
    [[nodiscard]] PTEBITS_INLINE constexpr detail::quick_test page_test() const noexcept
    {
        detail::quick_test test = constants().page_test();
        test.mask = base::page_test().mask;
        test.judged = base::page_test().judged;
        return test;
    }

private:
    static constexpr const base& constants() noexcept { return constants_type::value; }

    /// The constants with those features that may differ.
    static constexpr features_type merged(const features_type& given) noexcept
    {
        if constexpr (requires { Description::at_boot(Constants, given); }) {
            return Description::at_boot(Constants, given);
        } else {
            features_type all = Constants;
            all.physical_bits = given.physical_bits;
            return all;
        }
    }

    /// Whether the roles that must not differ are as in the constants.
    [[nodiscard]] static constexpr bool alike(const layout& a, const layout& b) noexcept
    {
        for (unsigned n = 0; n < role_count; ++n) {
            const role r{static_cast<std::uint8_t>(n)};
            // Bits that the address gives up may be of these roles.
            if (r == role::address || r == role::reserved || r == role::beyond || r == role::attribute) continue;
            if (r == role::software || r == role::written) continue;
            if (a.mask(r) != b.mask(r)) return false;
        }
        for (unsigned n = 0; n < 2; ++n) {
            const address_piece& of_a = a.pieces[n];
            const address_piece& of_b = b.pieces[n];
            if (of_a.at.exists() != of_b.at.exists() || of_a.holds != of_b.holds) return false;
            if (of_a.at.exists() && of_a.at.shift() != of_b.at.shift()) return false;
        }
        return a.denying == b.denying && a.sized == b.sized && a.offset_bits == b.offset_bits &&
               ((a.value ^ b.value) & a.mask(role::fixed)) == 0;
    }

    /// Whether all that is taken from the constants is so under the features that were given.
    [[nodiscard]] constexpr bool agrees() const noexcept
    {
        const base& c = constants();
        for (unsigned level = 1; level <= shape().levels; ++level) {
            const detail::walk_level& here = base::plan().levels[level - 1];
            const detail::walk_level& there = c.plan().levels[level - 1];
            if (here.table_value != there.table_value || !same_but_mask(here.leaf, there.leaf)) return false;
            for (const kind k : present_kinds) {
                if (base::exists(level, k) != exists(level, k)) return false;
                if (!alike(this->layout_at(level, k), c.layout_at(level, k))) return false;
            }
        }
        return base::shape().levels == shape().levels && base::shape().entry_bits == shape().entry_bits &&
               base::present_mask() == present_mask() && base::empty() == empty() &&
               base::accessed_by() == accessed_by() && base::other_writes() == other_writes() &&
               base::revocable_writes() == revocable_writes() && base::plan().usable == c.plan().usable &&
               same_but_mask(base::page_test(), c.page_test()) &&
               base::page_test().by_low_bits == c.page_test().by_low_bits;
    }
    [[nodiscard]] static constexpr bool same_but_mask(const detail::entry_test& a, const detail::entry_test& b) noexcept
    {
        return a.value == b.value && a.low_bits == b.low_bits;
    }
};

/// The format of these features, known at run time. Cheap to keep, not to make: make it
/// once, at start-up. Look at wrong() before use if the features come from outside.
template <class Features>
[[nodiscard]] constexpr auto format_for(const Features& features) noexcept
{
    return runtime_format<typename Features::description>(features);
}

/// Formats and masks whose answers are constants, so that misuse need not compile.
template <class F>
concept constant_masks = entry_masks<F> && std::is_empty_v<F> &&
                         requires { typename std::bool_constant<(F{}.operator->()->accessed.mask() == 0)>; };

namespace detail {
/// The object of a type of constants.
template <constant_masks F>
inline constexpr F constant{};
}  // namespace detail

/// A format whose levels, kinds and permissions are constants, but not all of its masks: a boot_format.
template <class F>
concept partly_constant = requires { typename F::constants_type; };

namespace detail {
template <class F>
consteval auto find_constants()
{
    if constexpr (partly_constant<F>) {
        return std::type_identity<typename F::constants_type>{};
    } else if constexpr (constant_masks<F>) {
        return std::type_identity<F>{};
    } else {
        return std::type_identity<void>{};
    }
}
/// What is constant of a format: the format itself, or the constants of a boot_format; else void. Not a class with
/// constrained specializations: now and then GCC 12 took none of them where one fitted.
template <class F>
using constants_of = typename decltype(find_constants<F>())::type;

/// The format to ask about permissions, A and D: of a boot_format its constants.
template <class F>
[[nodiscard]] PTEBITS_INLINE constexpr const auto& rules_of(const F& format) noexcept
{
    if constexpr (partly_constant<F>) {
        return constant<typename F::constants_type>;
    } else {
        return format;
    }
}
}  // namespace detail

/// What every operation on entries may ask of a format.
template <class F>
concept entry_format = entry_masks<F> && requires(const F& f) {
    typename F::description;
    { f->kind_of(0, 1) } -> std::same_as<kind>;
};

/// What is wrong with a format, first flaw first: some bit of some entry with no role or
/// with two. A flaw in the features comes first.
template <entry_format F>
[[nodiscard]] constexpr flaw find_flaw(const F& format) noexcept
{
    if (format->wrong().what != defect::none) return format->wrong();
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
            const layout& l = format->layout_at(level, k);
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
[[nodiscard]] constexpr bool well_formed(const F& format) noexcept
{
    return find_flaw(format).what == defect::none;
}

/// Whether software may use all these bits in every present entry of the format.
template <entry_format F>
[[nodiscard]] constexpr bool available(const F& format, std::uint64_t mask) noexcept
{
    bool any = false;
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : present_kinds) {
            if (!format->exists(level, k)) continue;
            if ((mask & ~format->layout_at(level, k).mask(role::software)) != 0) return false;
            any = true;
        }
    }
    return any;
}

/// Whether a top table of the format may lie at this physical address (bytes): aligned to the table's
/// size, which is 32 bytes in PAE, and within the physical width. The bits of a register beside the root
/// make it none: x86_registers.hpp has the root from a register.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr bool is_root(std::uint64_t root, const F& format) noexcept
{
    const shape& s = format->shape();
    if (s.levels == 0 || (root & ones(s.table_shift(s.levels) - 1U, 0)) != 0) return false;
    const layout& page = format->layout_at(1, kind::leaf);
    const std::uint64_t in_page = root & ones(s.granule - 1U, 0);
    return page.address_in(page.address_bits(root)) == root - in_page;
}

}  // namespace ptebits
