// SPDX-License-Identifier: BSL-1.0
// Operations on a live entry in memory: a slot. The only header that touches one.
//
// Hardware sets A and D with locked read-modify-writes at any moment, so every change
// here is one atomic operation, and other changes of the slot meanwhile are kept.
// An access policy, the last argument, says how memory is reached:
//   atomic_access<>                      the default; acquire loads, release stores
//   atomic_access<order::relaxed>        where other code orders the accesses
//   plain_access                         simulators of one thread
//   little_endian_access<...>            guest memory on a host of either byte order
// All operations also run in constant expressions, where they are plain code.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/detail/atomics.hpp>
#include <ptebits/field.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void mask_is_wider_than_the_slot() noexcept { stop(); }
}  // namespace broken

/// The type of a slot: an unsigned integer of 8 bytes, or 4 for two-level paging.
template <class Word>
concept slot_word = std::unsigned_integral<Word> && (sizeof(Word) == 8 || sizeof(Word) == 4);

/// Memory order of atomic_access. Loads and stores take the half that applies to them.
enum class order : std::uint8_t { relaxed, acq_rel, seq_cst };

/// The name of an order, as in the enumeration.
[[nodiscard]] constexpr const char* name(order o) noexcept
{
    constexpr const char* names[] = {"relaxed", "acq_rel", "seq_cst"};
    return detail::word_of(names, static_cast<unsigned>(o));
}

/// Plain loads and stores, for slots that one thread alone uses. No order.
struct plain_access {
    template <slot_word Word>
    [[nodiscard]] static constexpr Word load(const Word& slot) noexcept
    {
        return slot;
    }
    template <slot_word Word>
    static constexpr void store(Word& slot, Word value) noexcept
    {
        slot = value;
    }
    template <slot_word Word>
    static constexpr Word exchange(Word& slot, Word value) noexcept
    {
        const Word old = slot;
        slot = value;
        return old;
    }
    template <slot_word Word>
    static constexpr bool compare_exchange(Word& slot, Word& expected, Word desired) noexcept
    {
        if (slot == expected) {
            slot = desired;
            return true;
        }
        expected = slot;
        return false;
    }
    template <slot_word Word>
    static constexpr Word fetch_or(Word& slot, Word mask) noexcept
    {
        return exchange(slot, static_cast<Word>(slot | mask));
    }
    template <slot_word Word>
    static constexpr Word fetch_and(Word& slot, Word mask) noexcept
    {
        return exchange(slot, static_cast<Word>(slot & mask));
    }
    template <slot_word Word>
    static constexpr bool test_and_set(Word& slot, unsigned shift) noexcept
    {
        return (fetch_or(slot, static_cast<Word>(Word{1} << shift)) >> shift & 1) != 0;
    }
    template <slot_word Word>
    static constexpr bool test_and_clear(Word& slot, unsigned shift) noexcept
    {
        return (fetch_and(slot, static_cast<Word>(~(Word{1} << shift))) >> shift & 1) != 0;
    }
};

namespace detail {

/// The orders of each kind of operation.
template <order Order>
struct barriers_of {
    static constexpr int load = Order == order::relaxed   ? barrier::none
                                : Order == order::acq_rel ? barrier::acquire
                                                          : barrier::seq_cst;
    static constexpr int store = Order == order::relaxed   ? barrier::none
                                 : Order == order::acq_rel ? barrier::release
                                                           : barrier::seq_cst;
    static constexpr int update = Order == order::relaxed   ? barrier::none
                                  : Order == order::acq_rel ? barrier::acq_rel
                                                            : barrier::seq_cst;
};

}  // namespace detail

/// Atomic operations on slots that hardware or other threads use. Precondition: slots are
/// aligned to their size.
template <order Order = order::acq_rel>
struct atomic_access {
    template <slot_word Word>
    [[nodiscard]] static constexpr Word load(const Word& slot) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::load(slot);
        return detail::slot_load<barriers::load>(slot);
    }
    template <slot_word Word>
    static constexpr void store(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::store(slot, value);
        detail::slot_store<barriers::store>(slot, value);
    }
    template <slot_word Word>
    static constexpr Word exchange(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::exchange(slot, value);
        return detail::slot_exchange<barriers::update>(slot, value);
    }
    template <slot_word Word>
    static constexpr bool compare_exchange(Word& slot, Word& expected, Word desired) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::compare_exchange(slot, expected, desired);
        return detail::slot_compare_exchange<barriers::update, barriers::load>(slot, expected, desired);
    }
    template <slot_word Word>
    static constexpr Word fetch_or(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_or(slot, mask);
        return detail::slot_fetch_or<barriers::update>(slot, mask);
    }
    template <slot_word Word>
    static constexpr Word fetch_and(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_and(slot, mask);
        return detail::slot_fetch_and<barriers::update>(slot, mask);
    }
    template <slot_word Word>
    static constexpr bool test_and_set(Word& slot, unsigned shift) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::test_and_set(slot, shift);
        return detail::slot_test_and_set<barriers::update>(slot, shift);
    }
    template <slot_word Word>
    static constexpr bool test_and_clear(Word& slot, unsigned shift) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::test_and_clear(slot, shift);
        return detail::slot_test_and_clear<barriers::update>(slot, shift);
    }

    /// Replaces two neighbouring slots at once if both are as expected, where the target
    /// can. Returns whether it did. Preconditions: slots of 8 bytes, the first 16-byte
    /// aligned. Order: as compare_exchange().
    template <slot_word Word>
        requires detail::neighbours_at_once
    static bool compare_exchange_pair(Word* pair, const Word (&expected)[2], const Word (&desired)[2]) noexcept
    {
        return detail::slot_compare_exchange_pair(pair, expected, desired);
    }

private:
    using barriers = detail::barriers_of<Order>;
};

namespace detail {

/// Prefetches the cache line of a slot that will be read soon. A hint only.
template <slot_word Word>
constexpr void prefetch([[maybe_unused]] const Word* slot) noexcept
{
    if (std::is_constant_evaluated()) return;
    fetch_line(slot);
}

/// Whether an access policy reaches plain memory by the CPU's own accesses, so that several
/// slots may be read, or exchanged, at once. A caller's own policy, sanitizers and other
/// targets get one slot at a time.
template <class Access>
inline constexpr bool several_at_once = false;
template <order Order>
inline constexpr bool several_at_once<atomic_access<Order>> = neighbours_at_once;

}  // namespace detail

/// Another policy's access to slots whose byte order is not the host's.
template <class Base = atomic_access<>>
struct swapped_access {
    template <slot_word Word>
    [[nodiscard]] static constexpr Word load(const Word& slot) noexcept
    {
        return swap(Base::load(slot));
    }
    template <slot_word Word>
    static constexpr void store(Word& slot, Word value) noexcept
    {
        Base::store(slot, swap(value));
    }
    template <slot_word Word>
    static constexpr Word exchange(Word& slot, Word value) noexcept
    {
        return swap(Base::exchange(slot, swap(value)));
    }
    template <slot_word Word>
    static constexpr bool compare_exchange(Word& slot, Word& expected, Word desired) noexcept
    {
        Word there = swap(expected);
        const bool done = Base::compare_exchange(slot, there, swap(desired));
        expected = swap(there);
        return done;
    }
    template <slot_word Word>
    static constexpr Word fetch_or(Word& slot, Word mask) noexcept
    {
        return swap(Base::fetch_or(slot, swap(mask)));
    }
    template <slot_word Word>
    static constexpr Word fetch_and(Word& slot, Word mask) noexcept
    {
        return swap(Base::fetch_and(slot, swap(mask)));
    }
    template <slot_word Word>
    static constexpr bool test_and_set(Word& slot, unsigned shift) noexcept
    {
        return Base::test_and_set(slot, place<Word>(shift));
    }
    template <slot_word Word>
    static constexpr bool test_and_clear(Word& slot, unsigned shift) noexcept
    {
        return Base::test_and_clear(slot, place<Word>(shift));
    }

private:
    // The byte's number counts from the other end; the bit in the byte stays.
    template <slot_word Word>
    static constexpr unsigned place(unsigned shift) noexcept
    {
        return shift ^ static_cast<unsigned>(8 * (sizeof(Word) - 1));
    }
    template <slot_word Word>
    static constexpr Word swap(Word value) noexcept
    {
        Word swapped = 0;
        for (unsigned byte = 0; byte < sizeof(Word); ++byte) {
            swapped = static_cast<Word>(swapped << 8 | (value >> 8 * byte & 0xff));
        }
        return swapped;
    }
};

/// Another policy's access to little-endian slots, as x86 memory has them, on any host.
template <class Base = atomic_access<>>
using little_endian_access = std::conditional_t<std::endian::native == std::endian::little, Base, swapped_access<Base>>;

/// How memory is reached.
template <class A>
concept slot_access = requires(A access, std::uint64_t& slot, const std::uint64_t& seen, std::uint64_t value) {
    { access.load(seen) } -> std::same_as<std::uint64_t>;
    access.store(slot, value);
    { access.exchange(slot, value) } -> std::same_as<std::uint64_t>;
    { access.compare_exchange(slot, value, value) } -> std::same_as<bool>;  // on failure value is what was there
    { access.fetch_or(slot, value) } -> std::same_as<std::uint64_t>;
    { access.fetch_and(slot, value) } -> std::same_as<std::uint64_t>;
    { access.test_and_set(slot, 0U) } -> std::same_as<bool>;  // shift below the slot's width
    { access.test_and_clear(slot, 0U) } -> std::same_as<bool>;
};
static_assert(slot_access<plain_access> && slot_access<atomic_access<>> && slot_access<swapped_access<>>);

namespace detail {

/// A mask in a slot's type. Precondition: it fits.
template <slot_word Word>
[[nodiscard]] constexpr Word slot_mask(std::uint64_t mask) noexcept
{
    if (static_cast<Word>(mask) != mask) broken::mask_is_wider_than_the_slot();
    return static_cast<Word>(mask);
}

/// Bit index of a field of one bit in a slot. Precondition: one bit, and it fits.
template <slot_word Word>
[[nodiscard]] constexpr unsigned slot_shift(field f) noexcept
{
    static_cast<void>(slot_mask<Word>(f.mask()));
    return f.only_shift();
}

}  // namespace detail

/// The entry in a slot, read once. Order: acquire.
template <slot_word Word, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr Word load(const Word& slot, Access access = {}) noexcept
{
    return access.load(slot);
}

/// Replaces the entry; A and D that hardware sets meanwhile are lost. Precondition: the entry is not
/// live, or is frozen; see needs_atomic_update(). Order: release.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void store(Word& slot, std::type_identity_t<Word> value, Access access = {}) noexcept
{
    access.store(slot, value);
}

/// Replaces the entry. Returns the old one, with A and D as they were last. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr Word exchange(Word& slot, std::type_identity_t<Word> value, Access access = {}) noexcept
{
    return access.exchange(slot, value);
}

/// Replaces the entry if it is still the expected one; else `expected` becomes what was
/// there. Returns whether it was replaced. Order: acq_rel, on failure acquire.
template <slot_word Word, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool compare_exchange(Word& slot, Word& expected, std::type_identity_t<Word> desired,
                                              Access access = {}) noexcept
{
    return access.compare_exchange(slot, expected, desired);
}

/// Sets all bits of a field or mask. Precondition: they fit the slot. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void set(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    static_cast<void>(access.fetch_or(slot, detail::slot_mask<Word>(mask)));
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void set(Word& slot, field f, Access access = {}) noexcept
{
    set(slot, f.mask(), access);
}

/// Clears all bits of a field or mask. Precondition: they fit the slot. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void clear(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    static_cast<void>(access.fetch_and(slot, static_cast<Word>(~detail::slot_mask<Word>(mask))));
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void clear(Word& slot, field f, Access access = {}) noexcept
{
    clear(slot, f.mask(), access);
}

/// Sets a field of one bit. Returns whether it was set. Precondition: the field has one bit,
/// which fits the slot. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr bool test_and_set(Word& slot, field f, Access access = {}) noexcept
{
    return access.test_and_set(slot, detail::slot_shift<Word>(f));
}

/// Clears a field of one bit. Returns whether it was set. Precondition: the field has one bit,
/// which fits the slot. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr bool test_and_clear(Word& slot, field f, Access access = {}) noexcept
{
    return access.test_and_clear(slot, detail::slot_shift<Word>(f));
}

/// The same with a mask of any bits. Returns those that were set. Precondition: the mask
/// fits the slot. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr Word test_and_set(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    const Word bits_wanted = detail::slot_mask<Word>(mask);
    if (one_bit(mask)) return access.test_and_set(slot, field{mask}.shift()) ? bits_wanted : Word{0};
    return static_cast<Word>(access.fetch_or(slot, bits_wanted) & bits_wanted);
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr Word test_and_clear(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    const Word bits_wanted = detail::slot_mask<Word>(mask);
    if (one_bit(mask)) return access.test_and_clear(slot, field{mask}.shift()) ? bits_wanted : Word{0};
    return static_cast<Word>(access.fetch_and(slot, static_cast<Word>(~bits_wanted)) & bits_wanted);
}

/// Replaces the entry by a pure function of it; tries again if the entry changed meanwhile. Stores
/// nothing if the function changes nothing. Returns the entry that the function was last called
/// with. Order: acq_rel, or acquire if nothing was stored.
template <slot_word Word, class Function, slot_access Access = atomic_access<>>
    requires std::convertible_to<std::invoke_result_t<Function&, Word>, Word>
constexpr Word update(Word& slot, Function change, Access access = {})
{
    Word old = access.load(slot);
    for (;;) {
        const Word wanted = change(old);
        if (wanted == old || access.compare_exchange(slot, old, wanted)) return old;
    }
}

}  // namespace ptebits
