// SPDX-License-Identifier: BSL-1.0
// One entry that does what two stages do together: for shadow paging over a host's tables, and for a
// hypervisor that runs in a guest and has tables of its own (nested EPT, nested NPT).
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/memory_types.hpp>
#include <ptebits/x86.hpp>

namespace ptebits {

/// Why two stages do not make one entry.
enum class combine_error : std::uint8_t {
    none,
    first_walk,      ///< the first stage's walk did not reach a page
    second_walk,     ///< the second stage's walk did not reach a page
    rights,          ///< nothing is allowed, or rights that no entry of the target can grant
    protection_key,  ///< the first stage's entry has a key, the target's has no place for it
    encryption,      ///< the second stage's entry has a C-bit or key identifier, the target's no place for it
    memory_type,     ///< no entry of the target gives this memory type
    entry,           ///< the entry could not be made: see `encoding`
};

[[nodiscard]] constexpr const char* name(combine_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "the first stage did not reach a page",
                                     "the second stage did not reach a page",
                                     "no entry of the target grants just this",
                                     "the target has no protection keys",
                                     "the target cannot say how the page is encrypted",
                                     "no entry of the target gives this memory type",
                                     "the entry could not be made"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(combine_error::entry) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// What the walks' results do not have, and what the caller chooses.
struct combine_options {
    std::uint64_t first_pat = pat_after_reset;   ///< the PAT that the first stage's entries index
    std::uint64_t second_pat = pat_after_reset;  ///< that of the second stage's, if it is NPT
    std::uint64_t target_pat = pat_after_reset;  ///< that of the target's, while it is in use

    /// Not writable while the first stage's leaf is clean, so that the first write faults and a walk sets D there.
    bool wait_for_dirty = true;
    /// The first stage's walk was a write with update_flags::yes: its leaf is dirty now, if not in `path`.
    bool written = false;

    /// Controls of the guest, whose first stage is ordinary paging. The target must be used with CR0.WP = 1,
    /// and otherwise with these controls.
    cpu_controls cpu = {};
    /// With the guest's CR0.WP = 0: a read-only page of the guest becomes one that the supervisor may write, and
    /// that user mode may not access. If false, it stays read-only, and the caller emulates such a write.
    bool writable_for_supervisor = false;

    bool keep_global = false;  ///< G of the first stage's leaf is kept
};

/// A leaf of the target, or why there is none (then 0).
struct combined_leaf {
    std::uint64_t entry = 0;
    unsigned level = 0;  ///< of the leaf: the largest page within those of both stages
    combine_error error = combine_error::none;
    encode_error encoding = encode_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == combine_error::none; }
};

namespace detail {

template <class F>
inline constexpr bool is_unpaged = std::is_same_v<F, unpaged>;
template <class F>
inline constexpr bool is_ept = requires(const F& f) { f->ignore_pat; };

/// Whether a first stage or target translates guest-physical addresses, not linear ones.
template <class F>
[[nodiscard]] consteval bool translates_guest_physical()
{
    if constexpr (is_unpaged<F>) {
        return false;
    } else {
        return std::is_base_of_v<second_stage_paging, regime_of<F>>;
    }
}

/// What both stages allow together.
template <class First, walkable_format Second>
[[nodiscard]] constexpr permissions both_allow(const walk_result& first, const walk_result& second) noexcept
{
    if constexpr (translates_guest_physical<First>()) {
        return first.allowed & second.allowed;
    } else {
        // The regime decides which mode's right to execute counts; it may depend on the first stage.
        permissions linear = first.allowed;
        if constexpr (is_unpaged<First>) linear = {};
        const auto fetch = [&](bool user) {
            const memory_access a{.what = operation::fetch, .user = user};
            return regime_of<Second>::allows(second.allowed, final_access_over<Second>(a, linear, true));
        };
        return linear & permissions{second.allowed.read, second.allowed.write, fetch(false), true, fetch(true)};
    }
}

/// The memory type as bits of a leaf of the target.
struct said_type {
    field_values bits;
    bool exists = false;
};

template <entry_format Target>
[[nodiscard]] constexpr said_type said_by_pat(memory_type type, unsigned level, const Target& target,
                                              std::uint64_t pat) noexcept
{
    const unsigned index = find_pat_index(pat, type);
    if (index == 8) return {};
    return {pat_bits(index, level, target), true};
}

/// A leaf of one stage of EPT that gives the types of two, with any PAT.
[[nodiscard]] constexpr ept_memory_type both_ept_types(ept_memory_type first, ept_memory_type second) noexcept
{
    if (second.ignore_pat) return second;
    if (first.ignore_pat) return {effective_type(second, first.type), true};
    for (const memory_type type : types_in_order) {
        bool same = true;
        for (const memory_type pat : types_in_order) {
            same = same && effective_type({type, false}, pat) == effective_type(second, effective_type(first, pat));
        }
        if (same) return {type, false};
    }
    return {memory_type::reserved, false};
}

/// The type of one stage of NPT that combines with each type of a guest as two stages do.
[[nodiscard]] constexpr memory_type both_npt_types(memory_type first, memory_type second) noexcept
{
    for (const memory_type type : types_in_order) {
        bool same = true;
        for (const memory_type guest : types_in_order) {
            const memory_type both = combined_pat_type(combined_pat_type(guest, first), second);
            same = same && combined_pat_type(guest, type) == both;
        }
        if (same) return type;
    }
    return memory_type::reserved;
}

template <class First, entry_format Second, entry_format Target>
[[nodiscard]] constexpr said_type type_for(const walk_result& first, const First& first_format,
                                           const walk_result& second, const Second& second_format, unsigned level,
                                           const Target& target, const combine_options& o) noexcept
{
    if constexpr (is_ept<Target>) {
        const ept_memory_type type = both_ept_types(ept_type(first, first_format), ept_type(second, second_format));
        if (type.type == memory_type::reserved) return {};
        return {target->memory_type(static_cast<std::uint64_t>(type.type)) | target->ignore_pat(type.ignore_pat), true};
    } else if constexpr (translates_guest_physical<Target>()) {
        const memory_type of_first = pat_type(o.first_pat, pat_index(first, first_format));
        const memory_type of_second = pat_type(o.second_pat, pat_index(second, second_format));
        return said_by_pat(both_npt_types(of_first, of_second), level, target, o.target_pat);
    } else {
        memory_type type = guest_pat_type(first, first_format, o.first_pat);
        if constexpr (is_ept<Second>) {
            type = effective_type(ept_type(second, second_format), type);
        } else {
            type = combined_pat_type(type, pat_type(o.second_pat, pat_index(second, second_format)));
            if (type == memory_type::wc_plus) type = memory_type::wc;  // no PAT has a type for the probes
        }
        return said_by_pat(type, level, target, o.target_pat);
    }
}

/// Whether an EPT leaf demands guest-paging verification, which a leaf of the target cannot express.
template <class F>
[[nodiscard]] constexpr bool verifies_guest_paging([[maybe_unused]] const walk_result& r,
                                                   [[maybe_unused]] const F& format) noexcept
{
    if constexpr (is_ept<F>) {
        return format->verify_guest_paging.get(r.last_entry()) != 0;
    } else {
        return false;
    }
}

/// Adds the second stage's C-bit or key identifier: the page lies in the memory that it names. Returns whether the
/// target can say so.
template <entry_format Second, entry_format Target>
[[nodiscard]] constexpr bool keep_encryption(std::uint64_t& more, [[maybe_unused]] const walk_result& second,
                                             [[maybe_unused]] const Second& second_format,
                                             [[maybe_unused]] const Target& target) noexcept
{
    const auto keep = [&](const field& from, const field& to) {
        const std::uint64_t value = from.get(second.last_entry());
        if (value == 0) return true;
        if (value > to.mask() >> (to.exists() ? to.shift() : 0)) return false;
        more |= to(value);
        return true;
    };
    bool kept = true;
    if constexpr (requires { second_format->encryption, target->encryption; }) {
        kept = keep(second_format->encryption, target->encryption);
    }
    if constexpr (requires { second_format->key_id, target->key_id; }) {
        kept = kept && keep(second_format->key_id, target->key_id);
    }
    return kept;
}

/// Makes a read-only page writable for the supervisor, as with CR0.WP = 0. A user page becomes a supervisor
/// page, without execution if SMEP is on. Returns whether an entry can say this: not for a user page if SMAP or
/// protection keys are on, since they treat user and supervisor pages differently.
[[nodiscard]] constexpr bool allow_supervisor_write(permissions& allowed, const cpu_controls& cpu, bool keys) noexcept
{
    allowed.write = true;
    if (!allowed.user) return true;
    allowed.user = allowed.user_execute = false;
    allowed.execute = allowed.execute && !cpu.smep;
    return !cpu.smap && !keys;
}

}  // namespace detail

/// The leaf of `target` that does what two stages do together, for the address of the two walks: it allows what
/// both allow, maps a page within those of both, and has the memory type of both. Its A and D are clear; whether a
/// clean page is writable the options decide. `also` is added: software bits, for example. Entries of the target
/// that refer to tables must grant everything.
///
/// Shadow paging: the first stage is the guest's ordinary paging, or `unpaged`; the second the host's EPT or
/// NPT; the target ordinary paging. MTRRs apply to the target's memory type in addition, and WC+ becomes WC.
/// Nested virtualization: the first stage is the guest hypervisor's EPT or NPT, the second the host's own, the
/// target of the same sort. Not combined: shadow stacks, and EPT's bits 57 to 63; guest-paging verification is
/// refused.
///
/// Precondition: the second walk is of the address that the first one reached.
/// Intel SDM volume 3, "EPT and Memory Typing"; AMD APM volume 2, "Combining Nested and Guest Attributes".
template <class First, walkable_format Second, walkable_format Target>
[[nodiscard]] constexpr combined_leaf combine(const walk_result& first, const First& first_format,
                                              const walk_result& second, const Second& second_format,
                                              const Target& target, const combine_options& o = {},
                                              const field_values& also = {}) noexcept
{
    constexpr bool linear = !detail::translates_guest_physical<First>();
    static_assert(detail::translates_guest_physical<Second>(), "ptebits: the second stage must be EPT or NPT");
    static_assert(linear != detail::translates_guest_physical<Target>(),
                  "ptebits: the target must translate what the first stage does: linear or guest-physical addresses");
    static_assert(
        linear || (detail::is_ept<First> == detail::is_ept<Target> && detail::is_ept<Second> == detail::is_ept<Target>),
        "ptebits: two stages of EPT make an EPT entry, two of NPT an NPT entry");
    constexpr bool unpaged_guest = detail::is_unpaged<First>;
    if (!unpaged_guest && (!first || first.page_shift == 0)) return {.error = combine_error::first_walk};
    if (!second || second.page_shift == 0) return {.error = combine_error::second_walk};

    if (detail::verifies_guest_paging(first, first_format) || detail::verifies_guest_paging(second, second_format))
        return {.error = combine_error::rights};
    permissions allowed = detail::both_allow<First, Second>(first, second);
    std::uint64_t more = also;
    if constexpr (!unpaged_guest) {
        const std::uint64_t leaf = first.last_entry();
        const std::uint64_t dirty = first_format->dirty.mask();
        const bool waits = o.wait_for_dirty && !o.written && (leaf & dirty) != dirty;
        if (waits) allowed.write = false;
        if constexpr (linear) {
            const auto& on = first_format->features();
            const auto& target_on = target->features();
            if ((on.user_keys && !target_on.user_keys) || (on.supervisor_keys && !target_on.supervisor_keys))
                return {.error = combine_error::protection_key};
            const bool keys = target->protection_key.exists();
            const bool lets = o.writable_for_supervisor && !o.cpu.write_protect && second.allowed.write && !waits;
            if (lets && !first.allowed.write && !detail::allow_supervisor_write(allowed, o.cpu, keys))
                return {.error = combine_error::rights};
            // A key that the first stage does not ask says nothing.
            const bool asked = first.allowed.user ? on.user_keys : on.supervisor_keys;
            if (keys && asked) more |= target->protection_key(first_format->protection_key.get(leaf));
            if (o.keep_global && first_format->global.get(leaf) != 0) more |= target->global.mask();
        }
    }
    if (!detail::keep_encryption(more, second, second_format, target)) return {.error = combine_error::encryption};
    const bool modes_differ = allowed.user && allowed.execute != allowed.user_execute;
    if ((modes_differ && !target->modes_apart()) || allowed == permissions{false, false, false, allowed.user, false})
        return {.error = combine_error::rights};

    const shape& s = target->shape();
    const unsigned within =
        unpaged_guest || second.page_shift < first.page_shift ? second.page_shift : first.page_shift;
    unsigned level = s.levels;
    while (level > 1 && !(target->exists(level, kind::leaf) && s.page_shift(level) <= within)) --level;
    if (!target->exists(level, kind::leaf) || (also != 0 && !also.in().contains(level, kind::leaf))) {
        const bool exists = target->exists(level, kind::leaf);
        return {.error = combine_error::entry,
                .encoding = exists ? encode_error::no_such_field : encode_error::no_such_entry};
    }
    const detail::said_type type = detail::type_for(first, first_format, second, second_format, level, target, o);
    if (!type.exists) return {.error = combine_error::memory_type};
    const encoded made = encode(kind::leaf, level, second.address & ~ones(s.page_shift(level) - 1, 0), allowed, target,
                                {more | type.bits, entries(level, kind::leaf)});
    if (!made) return {.error = combine_error::entry, .encoding = made.error};
    return {.entry = made.entry, .level = level};
}

/// The same of a nested walk: shadow paging.
template <class First, walkable_format Second, walkable_format Target>
[[nodiscard]] constexpr combined_leaf combine(const nested_result<access_of<Second>>& walks, const First& first_format,
                                              const Second& second_format, const Target& target,
                                              const combine_options& o = {}, const field_values& also = {}) noexcept
{
    return combine(walks.guest, first_format, walks.host, second_format, target, o, also);
}

}  // namespace ptebits
