// SPDX-License-Identifier: BSL-1.0
// Memory by policy: how walks, visits and range operations reach the tables.
//
// Memory is the caller's: `memory(physical address)` returns a pointer to the slot there, or
// null where there is none. Where tables of 32-bit and of 64-bit entries are both in play,
// `memory` also takes std::type_identity<Word>.
//
// Two members are optional. `memory.for_update(physical, std::type_identity<Word>)` is asked in place
// of memory() for a slot in which a walk is about to set A or D: so a simulator learns of the write
// before it happens. And memory that is no array but handlers has, for walks,
//   bool load(physical, Word& value)                              false: there is no slot
//   slot_change replace(physical, Word expected, Word desired)    one atomic compare and exchange
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/format.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void memory_has_slots_of_another_size() noexcept { stop(); }
[[noreturn]] inline void memory_is_read_only() noexcept { stop(); }
}  // namespace broken

/// What became of a slot that was to be replaced.
enum class slot_change : std::uint8_t {
    done,
    changed,  ///< it was no longer what was expected, and is as it was
    no_slot,
};

[[nodiscard]] constexpr const char* name(slot_change c) noexcept
{
    constexpr const char* names[] = {"done", "changed meanwhile", "no slot there"};
    return detail::word_of(names, static_cast<unsigned>(c));
}

/// Whether a memory hands out pointers to slots of the size of Word.
template <class Memory, class Word>
concept points_to_slots = requires(Memory& memory, std::uint64_t physical) {
    requires sizeof(*memory(physical, std::type_identity<Word>{})) == sizeof(Word);
} || requires(Memory& memory, std::uint64_t physical) { requires sizeof(*memory(physical)) == sizeof(Word); };

/// Whether a memory reads and replaces slots of the size of Word by functions of its own.
template <class Memory, class Word>
concept handles_slots = requires(Memory& memory, std::uint64_t physical, Word& value) {
    { memory.load(physical, value) } -> std::same_as<bool>;
    { memory.replace(physical, value, value) } -> std::same_as<slot_change>;
};

/// Whether a memory has slots of the size of Word.
template <class Memory, class Word>
concept has_slots = points_to_slots<Memory, Word> || handles_slots<Memory, Word>;

/// The slot of an entry in a caller's memory; null where there is none.
template <slot_word Word, class Memory>
[[nodiscard]] constexpr auto slot_in(Memory& memory, std::uint64_t physical)
{
    if constexpr (requires { memory(physical, std::type_identity<Word>{}); }) {
        return memory(physical, std::type_identity<Word>{});
    } else {
        return memory(physical);
    }
}

namespace detail {

/// Reads the entry at a physical address. Returns whether there is one.
template <slot_word Word, class Memory, slot_access Access>
[[nodiscard]] PTEBITS_INLINE constexpr bool read_slot(Memory& memory, Access how, std::uint64_t physical, Word& entry)
{
    if constexpr (handles_slots<Memory, Word>) {
        return memory.load(physical, entry);
    } else {
        const auto* const slot = slot_in<Word>(memory, physical);
        if (slot == nullptr) [[unlikely]]
            return false;
        entry = how.load(*slot);
        return true;
    }
}

/// Replaces the entry at a physical address if it is the expected one; without `commit`, only asks
/// whether there is one.
template <slot_word Word, class Memory, slot_access Access>
[[nodiscard]] constexpr slot_change replace_slot(Memory& memory, Access how, std::uint64_t physical,
                                                 std::uint64_t expected, std::uint64_t desired, bool commit)
{
    if constexpr (handles_slots<Memory, Word>) {
        if (!commit) {
            if constexpr (requires { memory.may_replace(physical); }) return memory.may_replace(physical);
            return slot_change::done;
        }
        return memory.replace(physical, static_cast<Word>(expected), static_cast<Word>(desired));
    } else {
        auto* const slot = [&] {
            if constexpr (requires { memory.for_update(physical, std::type_identity<Word>{}); }) {
                return commit ? memory.for_update(physical, std::type_identity<Word>{})
                              : slot_in<Word>(memory, physical);
            } else {
                return slot_in<Word>(memory, physical);
            }
        }();
        if (slot == nullptr) return slot_change::no_slot;
        if (!commit) return slot_change::done;
        using slot_type = std::remove_reference_t<decltype(*slot)>;
        if constexpr (std::is_const_v<slot_type>) {
            broken::memory_is_read_only();
        } else {
            auto there = static_cast<slot_type>(expected);
            return how.compare_exchange(*slot, there, static_cast<slot_type>(desired)) ? slot_change::done
                                                                                       : slot_change::changed;
        }
    }
}

/// Asks for the cache line of a slot that will be read soon.
template <slot_word Word, class Memory>
constexpr void prefetch_slot([[maybe_unused]] Memory& memory, [[maybe_unused]] std::uint64_t physical)
{
    if constexpr (points_to_slots<Memory, Word>) {
        if (const auto* const slot = slot_in<Word>(memory, physical); slot != nullptr) prefetch(slot);
    }
}

}  // namespace detail

namespace detail {
/// Whether a format's entries have 32 bits, and that is known at compile time.
template <class F>
[[nodiscard]] consteval bool surely_32_bits()
{
    if constexpr (std::is_void_v<constants_of<F>>) {
        return false;
    } else {
        return constant<constants_of<F>>->shape().entry_bits == 32;
    }
}
}  // namespace detail

/// The type of a format's slots; std::uint64_t where features are known at run time only.
template <entry_format F>
using slot_type_of = std::conditional_t<detail::surely_32_bits<F>(), std::uint32_t, std::uint64_t>;

/// Calls a function with the slot type of a format's entries. Precondition: memory has such slots.
template <entry_format F, class Memory, class Function>
PTEBITS_INLINE constexpr auto with_slots_of(const F& format, Memory&, Function call)
{
    constexpr bool wide = has_slots<Memory, std::uint64_t>;
    constexpr bool narrow = has_slots<Memory, std::uint32_t>;
    static_assert(wide || narrow, "ptebits: memory must return a pointer to slots of 8 or 4 bytes");
    if constexpr (constant_masks<F> || partly_constant<F>) {
        using word = slot_type_of<F>;
        static_assert(has_slots<Memory, word>, "ptebits: memory has no slots as wide as this format's entries");
        return call(std::type_identity<word>{});
    } else {
        if constexpr (wide) {
            if (format->shape().entry_bits == 64) return call(std::type_identity<std::uint64_t>{});
        }
        if constexpr (narrow) {
            if (format->shape().entry_bits == 32) return call(std::type_identity<std::uint32_t>{});
        }
        broken::memory_has_slots_of_another_size();
    }
}

}  // namespace ptebits
