// SPDX-License-Identifier: BSL-1.0
// Memory by policy: how walks, visits and range operations reach the tables.
//
// Memory is the caller's: `memory(physical address)` returns a pointer to the slot there, or
// null where there is none. Where tables of 32-bit and of 64-bit entries are both in play,
// `memory` also takes std::type_identity<Word>.
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

/// Whether a memory has slots of the size of Word.
template <class Memory, class Word>
concept has_slots = requires(Memory& memory, std::uint64_t physical) {
    requires sizeof(*memory(physical, std::type_identity<Word>{})) == sizeof(Word);
} || requires(Memory& memory, std::uint64_t physical) { requires sizeof(*memory(physical)) == sizeof(Word); };

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

/// Calls a function with the slot type of a format's entries. Precondition: memory has such slots.
template <entry_format F, class Memory, class Function>
PTEBITS_INLINE constexpr auto with_slots_of(const F& format, Memory&, Function call)
{
    constexpr bool wide = has_slots<Memory, std::uint64_t>;
    constexpr bool narrow = has_slots<Memory, std::uint32_t>;
    static_assert(wide || narrow, "ptebits: memory must return a pointer to slots of 8 or 4 bytes");
    if constexpr (constant_masks<F>) {
        constexpr bool wide_entries = F
        {
        } -> shape().entry_bits == 64;
        static_assert(wide_entries ? wide : narrow, "ptebits: memory has no slots as wide as this format's entries");
        return call(std::type_identity<std::conditional_t<wide_entries, std::uint64_t, std::uint32_t>>{});
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
