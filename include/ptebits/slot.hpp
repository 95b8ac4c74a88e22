// SPDX-License-Identifier: BSL-1.0
// Operations on a live entry in memory: a slot. The only header that touches one.
//
// Hardware sets A and D with locked read-modify-writes at any moment, so every change
// here is one atomic operation; whatever else changes the slot meanwhile is kept.
// An access policy, the last argument, says how memory is reached:
//   atomic_access<>                      the default; acquire loads, release stores
//   atomic_access<order::relaxed>        where other code orders
//   plain_access                         simulators of one thread
//   little_endian_access<...>            guest memory on a host of either byte order
// All operations also run in constant expressions, where they are plain code.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/field.hpp>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

namespace ptebits {

namespace broken {
[[noreturn]] inline void mask_is_wider_than_the_slot() noexcept { stop(); }
}  // namespace broken

/// The type of a slot: an unsigned integer of 8 bytes, or 4 for two-level paging.
template <class Word>
concept slot_word = std::unsigned_integral<Word> && (sizeof(Word) == 8 || sizeof(Word) == 4);

/// Memory order of atomic_access. Loads and stores take the half that applies to them.
enum class order : std::uint8_t { relaxed, acq_rel, seq_cst };

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

// Clang 14 makes a compare-exchange loop of every fetch whose result is one bit, later
// Clangs of bit 63; `lock bts` and `lock btr` are one instruction everywhere. Sanitizers
// watch the builtins only.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define PTEBITS_SANITIZED
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define PTEBITS_SANITIZED
#endif
#if defined(__x86_64__) && defined(__GCC_ASM_FLAG_OUTPUTS__) && !defined(PTEBITS_SANITIZED)
#define PTEBITS_LOCKED_BIT
#endif

/// Atomic operations on slots that hardware or other threads use.
template <order Order = order::acq_rel>
struct atomic_access {
#if defined(__GNUC__) || defined(__clang__)
    template <slot_word Word>
    [[nodiscard]] static constexpr Word load(const Word& slot) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::load(slot);
        return __atomic_load_n(&slot, on_load);
    }
    template <slot_word Word>
    static constexpr void store(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::store(slot, value);
        __atomic_store_n(&slot, value, on_store);
    }
    template <slot_word Word>
    static constexpr Word exchange(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::exchange(slot, value);
        return __atomic_exchange_n(&slot, value, on_update);
    }
    template <slot_word Word>
    static constexpr bool compare_exchange(Word& slot, Word& expected, Word desired) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::compare_exchange(slot, expected, desired);
        return __atomic_compare_exchange_n(&slot, &expected, desired, false, on_update, on_load);
    }
    template <slot_word Word>
    static constexpr Word fetch_or(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_or(slot, mask);
        return __atomic_fetch_or(&slot, mask, on_update);
    }
    template <slot_word Word>
    static constexpr Word fetch_and(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_and(slot, mask);
        return __atomic_fetch_and(&slot, mask, on_update);
    }
    template <slot_word Word>
    static constexpr bool test_and_set(Word& slot, unsigned shift) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::test_and_set(slot, shift);
#if defined(PTEBITS_LOCKED_BIT)
        return locked_set(slot, shift);
#else
        return (fetch_or(slot, static_cast<Word>(Word{1} << shift)) >> shift & 1) != 0;
#endif
    }
    template <slot_word Word>
    static constexpr bool test_and_clear(Word& slot, unsigned shift) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::test_and_clear(slot, shift);
#if defined(PTEBITS_LOCKED_BIT)
        return locked_clear(slot, shift);
#else
        return (fetch_and(slot, static_cast<Word>(~(Word{1} << shift))) >> shift & 1) != 0;
#endif
    }

private:
    static constexpr int on_load = Order == order::relaxed   ? __ATOMIC_RELAXED
                                   : Order == order::acq_rel ? __ATOMIC_ACQUIRE
                                                             : __ATOMIC_SEQ_CST;
    static constexpr int on_store = Order == order::relaxed   ? __ATOMIC_RELAXED
                                    : Order == order::acq_rel ? __ATOMIC_RELEASE
                                                              : __ATOMIC_SEQ_CST;
    static constexpr int on_update = Order == order::relaxed   ? __ATOMIC_RELAXED
                                     : Order == order::acq_rel ? __ATOMIC_ACQ_REL
                                                               : __ATOMIC_SEQ_CST;

#if defined(PTEBITS_LOCKED_BIT)
    // Every order is satisfied: a locked instruction is a full barrier, and the compiler
    // is told that memory changes. Functions apart, since constexpr ones may not hold asm.
    template <slot_word Word>
    static bool locked_set(Word& slot, unsigned shift) noexcept
    {
        bool was_set;
        if constexpr (sizeof(Word) == 8) {
            __asm__ volatile("lock btsq %2, %1"
                             : "=@ccc"(was_set), "+m"(slot)
                             : "Jr"(static_cast<std::uint64_t>(shift))
                             : "memory");
        } else {
            __asm__ volatile("lock btsl %2, %1" : "=@ccc"(was_set), "+m"(slot) : "Ir"(shift) : "memory");
        }
        return was_set;
    }
    template <slot_word Word>
    static bool locked_clear(Word& slot, unsigned shift) noexcept
    {
        bool was_set;
        if constexpr (sizeof(Word) == 8) {
            __asm__ volatile("lock btrq %2, %1"
                             : "=@ccc"(was_set), "+m"(slot)
                             : "Jr"(static_cast<std::uint64_t>(shift))
                             : "memory");
        } else {
            __asm__ volatile("lock btrl %2, %1" : "=@ccc"(was_set), "+m"(slot) : "Ir"(shift) : "memory");
        }
        return was_set;
    }

public:
    /// Replaces two neighbouring slots at once if both are as expected, and returns whether
    /// it did. Precondition: the first is 16-byte aligned. Every x86-64 CPU has this but
    /// AMD's first, which have no nested paging either. Order: as compare_exchange().
    template <slot_word Word>
    static bool compare_exchange_pair(Word* pair, const Word (&expected)[2], const Word (&desired)[2]) noexcept
    {
        static_assert(sizeof(Word) == 8, "ptebits: only slots of 8 bytes are exchanged in pairs");
        using two_slots = Word[2];
        bool same;
        Word low = expected[0];
        Word high = expected[1];
        __asm__ volatile("lock cmpxchg16b %1"
                         : "=@ccz"(same), "+m"(*reinterpret_cast<two_slots*>(pair)), "+a"(low), "+d"(high)
                         : "b"(desired[0]), "c"(desired[1])
                         : "memory");
        return same;
    }
#endif

#else  // MSVC: its interlocked intrinsics are full barriers on x64 and ARM64

    template <slot_word Word>
    [[nodiscard]] static constexpr Word load(const Word& slot) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::load(slot);
        Word seen;
        if constexpr (sizeof(Word) == 8) {
            seen = static_cast<Word>(__iso_volatile_load64(reinterpret_cast<const volatile __int64*>(&slot)));
        } else {
            seen = static_cast<Word>(__iso_volatile_load32(reinterpret_cast<const volatile int*>(&slot)));
        }
#if defined(_M_ARM64)
        __dmb(_ARM64_BARRIER_ISH);
#else
        _ReadWriteBarrier();  // x64 orders loads; this keeps the compiler from moving them
#endif
        return seen;
    }
    template <slot_word Word>
    static constexpr void store(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::store(slot, value);
        exchange(slot, value);
    }
    template <slot_word Word>
    static constexpr Word exchange(Word& slot, Word value) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::exchange(slot, value);
        if constexpr (sizeof(Word) == 8) {
            return static_cast<Word>(_InterlockedExchange64(signed64(slot), static_cast<__int64>(value)));
        } else {
            return static_cast<Word>(_InterlockedExchange(signed32(slot), static_cast<long>(value)));
        }
    }
    template <slot_word Word>
    static constexpr bool compare_exchange(Word& slot, Word& expected, Word desired) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::compare_exchange(slot, expected, desired);
        const Word found = compare_and_swap(slot, expected, desired);
        const bool same = found == expected;
        expected = found;
        return same;
    }
    template <slot_word Word>
    static constexpr Word fetch_or(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_or(slot, mask);
        if constexpr (sizeof(Word) == 8) {
            return static_cast<Word>(_InterlockedOr64(signed64(slot), static_cast<__int64>(mask)));
        } else {
            return static_cast<Word>(_InterlockedOr(signed32(slot), static_cast<long>(mask)));
        }
    }
    template <slot_word Word>
    static constexpr Word fetch_and(Word& slot, Word mask) noexcept
    {
        if (std::is_constant_evaluated()) return plain_access::fetch_and(slot, mask);
        if constexpr (sizeof(Word) == 8) {
            return static_cast<Word>(_InterlockedAnd64(signed64(slot), static_cast<__int64>(mask)));
        } else {
            return static_cast<Word>(_InterlockedAnd(signed32(slot), static_cast<long>(mask)));
        }
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

private:
    template <slot_word Word>
    static __int64 volatile* signed64(Word& slot) noexcept
    {
        return reinterpret_cast<__int64 volatile*>(&slot);
    }
    template <slot_word Word>
    static long volatile* signed32(Word& slot) noexcept
    {
        return reinterpret_cast<long volatile*>(&slot);
    }
    template <slot_word Word>
    static Word compare_and_swap(Word& slot, Word expected, Word desired) noexcept
    {
        if constexpr (sizeof(Word) == 8) {
            return static_cast<Word>(_InterlockedCompareExchange64(signed64(slot), static_cast<__int64>(desired),
                                                                   static_cast<__int64>(expected)));
        } else {
            return static_cast<Word>(
                _InterlockedCompareExchange(signed32(slot), static_cast<long>(desired), static_cast<long>(expected)));
        }
    }
#endif
};

/// Asks for the cache line of a slot that will be looked at soon. A hint, without an effect.
template <slot_word Word>
constexpr void prefetch([[maybe_unused]] const Word* slot) noexcept
{
    if (std::is_constant_evaluated()) return;
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(slot);
#elif defined(_M_ARM64)
    __prefetch(slot);
#else
    _mm_prefetch(reinterpret_cast<const char*>(slot), _MM_HINT_T0);
#endif
}

/// Whether this access may be taken to be the CPU's own to plain memory, so that several
/// slots may be looked at, or exchanged, at once. A policy of one's own, a sanitizer and
/// other targets see one slot at a time.
template <class Access>
inline constexpr bool several_at_once = false;
#if defined(PTEBITS_LOCKED_BIT)
template <order Order>
inline constexpr bool several_at_once<atomic_access<Order>> = true;
#endif

#undef PTEBITS_LOCKED_BIT
#undef PTEBITS_SANITIZED

/// Another policy's access to slots whose bytes stand in the other order than the host's.
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

/// The entry in a slot, read once. Order: acquire.
template <slot_word Word, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr Word load(const Word& slot, Access access = {}) noexcept
{
    return access.load(slot);
}

/// Replaces the entry, losing what hardware set meanwhile: for entries that are not live,
/// or frozen; see needs_atomic_update. Order: release.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void store(Word& slot, std::type_identity_t<Word> value, Access access = {}) noexcept
{
    access.store(slot, value);
}

/// Replaces the entry and returns the old one, A and D as they were last. Order: acq_rel.
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

/// Sets all bits of a field or mask. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void set(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    static_cast<void>(access.fetch_or(slot, slot_mask<Word>(mask)));
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void set(Word& slot, field f, Access access = {}) noexcept
{
    set(slot, f.mask(), access);
}

/// Clears all bits of a field or mask. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void clear(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    static_cast<void>(access.fetch_and(slot, static_cast<Word>(~slot_mask<Word>(mask))));
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr void clear(Word& slot, field f, Access access = {}) noexcept
{
    clear(slot, f.mask(), access);
}

/// Sets a field of one bit and returns whether it was set. Order: acq_rel.
/// Precondition: the field has one bit.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr bool test_and_set(Word& slot, field f, Access access = {}) noexcept
{
    return access.test_and_set(slot, slot_shift<Word>(f));
}

/// Clears a field of one bit and returns whether it was set. Order: acq_rel.
/// Precondition: the field has one bit.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr bool test_and_clear(Word& slot, field f, Access access = {}) noexcept
{
    return access.test_and_clear(slot, slot_shift<Word>(f));
}

/// The same with a mask of any bits; returns those that were set. Order: acq_rel.
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr Word test_and_set(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    const Word bits_wanted = slot_mask<Word>(mask);
    if (one_bit(mask)) return access.test_and_set(slot, field{mask}.shift()) ? bits_wanted : Word{0};
    return static_cast<Word>(access.fetch_or(slot, bits_wanted) & bits_wanted);
}
template <slot_word Word, slot_access Access = atomic_access<>>
constexpr Word test_and_clear(Word& slot, std::uint64_t mask, Access access = {}) noexcept
{
    const Word bits_wanted = slot_mask<Word>(mask);
    if (one_bit(mask)) return access.test_and_clear(slot, field{mask}.shift()) ? bits_wanted : Word{0};
    return static_cast<Word>(access.fetch_and(slot, static_cast<Word>(~bits_wanted)) & bits_wanted);
}

/// Replaces the entry by a pure function of it, trying again until no other change came
/// between; stores nothing where the function changes nothing. Returns the entry that the
/// function last saw. Order: acq_rel, or acquire if nothing was stored.
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
