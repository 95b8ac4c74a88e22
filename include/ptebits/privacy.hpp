// SPDX-License-Identifier: BSL-1.0
// Private pages and shared ones, where an entry tells them apart: AMD's C-bit (set: private,
// encrypted) and the shared bit of TDX guests (set: shared).
#pragma once

#include <cstdint>

#include <ptebits/entry.hpp>
#include <ptebits/slot.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void format_does_not_tell_private_from_shared() noexcept { stop(); }
}  // namespace broken

namespace detail {

/// The bit that tells private entries from shared ones.
struct privacy_bit {
    entry_field at;
    bool set_is_private = false;
};

/// The bit that a format has; an empty field if it has none.
template <entry_format F>
[[nodiscard]] constexpr privacy_bit privacy_of([[maybe_unused]] const F& format) noexcept
{
    if constexpr (requires { format->encryption; }) {
        if (format->encryption.exists()) return {format->encryption, true};
    }
    if constexpr (requires { format->shared; }) {
        // Another format's field of this name may mean something else.
        const std::uint64_t address = format->layout_at(1, kind::leaf).mask(role::address);
        if ((format->shared.mask() & address) != 0) return {format->shared, false};
    }
    return {};
}

template <entry_format F>
[[nodiscard]] constexpr privacy_bit require_privacy(const F& format) noexcept
{
    if constexpr (constant_masks<F>) {
        static_assert(privacy_of(constant<F>).at.exists(),
                      "ptebits: this format does not tell private pages from shared ones (encryption_bit, shared_bit)");
    } else if (!privacy_of(format).at.exists()) {
        broken::format_does_not_tell_private_from_shared();
    }
    return privacy_of(format);
}

template <entry_format F>
[[nodiscard]] constexpr std::uint64_t with_privacy(std::uint64_t entry, unsigned level, bool is_private,
                                                   const F& format) noexcept
{
    const privacy_bit p = require_privacy(format);
    if (!present(entry, format) || !legal(entry, level, format)) return entry;
    return p.at.put(entry, is_private == p.set_is_private ? 1 : 0);
}

}  // namespace detail

/// Whether an entry refers to private memory, a page or a table. False if it is absent.
/// Precondition, of all of these: the format has an encryption_bit or a shared_bit.
template <entry_format F>
[[nodiscard]] constexpr bool is_private(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    const detail::privacy_bit p = detail::require_privacy(format);
    if (!translates(entry, format, level)) return false;
    return (p.at.get(entry) != 0) == p.set_is_private;
}

/// The entry as a private or a shared one. One that is absent or breaks a rule stays as it is.
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t to_private(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return detail::with_privacy(entry, level, true, format);
}
template <entry_format F>
[[nodiscard]] constexpr std::uint64_t to_shared(std::uint64_t entry, unsigned level, const F& format) noexcept
{
    return detail::with_privacy(entry, level, false, format);
}

/// Makes a live entry private or shared, by one atomic operation; keeps A and D, which the hardware
/// may set meanwhile. An entry that is absent or breaks a rule stays as it is. Returns whether the entry
/// changed. The page's contents are lost. Precondition: the hypervisor agrees: by the RMP and PVALIDATE
/// with SEV-SNP, by MapGPA with TDX, where a page that becomes private must be accepted too. Order: acq_rel
/// if changed, else acquire. Flush: the TLB, if true. C-bit: the caches hold the page under the old key, so
/// write its lines back and invalidate them before, unless the CPU keeps them coherent (CPUID 8000_001Fh
/// EAX[10]). AMD APM volume 2, "Secure Encrypted Virtualization"; Intel TDX module
/// specification, "Physical Memory Management".
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool convert_to_private(Word& slot, unsigned level, const F& format,
                                                Access access = {}) noexcept
{
    const auto converted = [&](Word entry) { return static_cast<Word>(to_private(entry, level, format)); };
    const Word before = update(slot, converted, access);
    return converted(before) != before;
}
template <slot_word Word, entry_format F, slot_access Access = atomic_access<>>
[[nodiscard]] constexpr bool convert_to_shared(Word& slot, unsigned level, const F& format, Access access = {}) noexcept
{
    const auto converted = [&](Word entry) { return static_cast<Word>(to_shared(entry, level, format)); };
    const Word before = update(slot, converted, access);
    return converted(before) != before;
}

}  // namespace ptebits
