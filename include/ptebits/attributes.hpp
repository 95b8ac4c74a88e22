// SPDX-License-Identifier: BSL-1.0
// What a page is beside its address and rights, by meaning: the fields of its leaf follow from it, at each level.
#pragma once

#include <cstdint>

#include <ptebits/entry.hpp>
#include <ptebits/formats/x86_fields.hpp>

namespace ptebits {

/// The lowest index of a PAT that has this type; 8 if none has.
[[nodiscard]] constexpr unsigned find_pat_index(std::uint64_t pat, memory_type type) noexcept
{
    if (type == memory_type::reserved) return 8;
    unsigned index = 0;
    while (index < 8 && pat_type(pat, index) != type) ++index;
    return index;
}

/// The bits of a leaf of a level for an index into the PAT. Precondition: index < 8, the leaf exists.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr field_values pat_bits(unsigned index, unsigned level, const F& format) noexcept
{
    const entry_field& third = level == 1 ? format->pat : format->pat_large;
    return format->write_through(index & 1) | format->cache_disable(index >> 1 & 1) | third(index >> 2);
}

/// Attributes of a page. What a format has no bit for may only be given its default.
struct page_attributes {
    memory_type type = memory_type::wb;
    bool global = false;
    bool encrypted = false;               ///< by the C-bit
    bool shared = false;                  ///< by the shared bit
    bool used = false;                    ///< where software may have to set A and D (not x86): set, D with write
    std::uint64_t key_id = 0;             ///< key identifier of multi-key encryption
    std::uint64_t software = 0;           ///< bits that the MMU ignores, in place: a mask
    std::uint64_t pat = pat_after_reset;  ///< the PAT in force; of ordinary and nested entries

    [[nodiscard]] constexpr bool operator==(const page_attributes&) const = default;
};

/// The bits of a leaf beside address and permissions, or why there are none.
struct attribute_bits {
    std::uint64_t bits = 0;
    encode_error error = encode_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == encode_error::none; }
};

namespace detail {

/// The bits of a field that a format may lack.
[[nodiscard]] PTEBITS_INLINE constexpr attribute_bits wanted_bits(const entry_field& f, std::uint64_t value) noexcept
{
    if (value == 0) return {};
    if (!f.exists()) return {0, encode_error::no_such_field};
    if (value >> (f.width()) != 0) return {0, encode_error::value_not_legal};
    return {f(value), encode_error::none};
}

/// The bits of a memory type in a leaf.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr attribute_bits type_bits(const page_attributes& a,
                                                                [[maybe_unused]] unsigned level,
                                                                [[maybe_unused]] kind k, const F& format) noexcept
{
    using description = typename F::description;
    if constexpr (requires { description::type_bits(a.type, level, k, format->fields()); }) {
        return description::type_bits(a.type, level, k, format->fields());
    } else if constexpr (requires { description::type_number(a.type); }) {
        return wanted_bits(format->memory_type, description::type_number(a.type));
    } else if constexpr (requires { format->pat_large; }) {
        const unsigned index = find_pat_index(a.pat, a.type);
        // Without large pages there is no third bit for them.
        const entry_field& third = level == 1 ? format->pat : format->pat_large;
        if (index == 8 || (index > 3 && !third.exists())) return {0, encode_error::value_not_legal};
        return {pat_bits(index, level, format), encode_error::none};
    } else if constexpr (requires { format->ignore_pat; }) {
        const auto number = static_cast<std::uint64_t>(a.type);
        if (number > 7) return {0, encode_error::value_not_legal};
        return {format->memory_type(number), encode_error::none};
    } else {
        return {0, a.type == memory_type::wb ? encode_error::none : encode_error::no_such_field};
    }
}

}  // namespace detail

/// The bits of a leaf or run for attributes. Errors: no_such_field, value_not_legal.
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr attribute_bits bits_for(const page_attributes& a, unsigned level, kind k,
                                                               const F& format) noexcept
{
    attribute_bits all = detail::type_bits(a, level, k, format);
    const auto add = [&all](const attribute_bits& more) {
        all.bits |= more.bits;
        if (all) all.error = more.error;
    };
    if constexpr (requires { format->global; }) {
        add(detail::wanted_bits(format->global, a.global));
    } else {
        if (a.global) add({0, encode_error::no_such_field});
    }
    if constexpr (requires { format->encryption; }) {
        add(detail::wanted_bits(format->encryption, a.encrypted));
    } else {
        if (a.encrypted) add({0, encode_error::no_such_field});
    }
    if constexpr (requires { format->shared; }) {
        add(detail::wanted_bits(format->shared, a.shared));
    } else {
        if (a.shared) add({0, encode_error::no_such_field});
    }
    if constexpr (requires { format->key_id; }) {
        add(detail::wanted_bits(format->key_id, a.key_id));
    } else {
        if (a.key_id != 0) add({0, encode_error::no_such_field});
    }
    const bool free = (a.software & ~format->layout_at(level, k).mask(role::software)) == 0;
    add({a.software, free ? encode_error::none : encode_error::value_not_legal});
    return all;
}

/// The entry of a leaf or run with these attributes: encode() with their bits. Errors: as encode() and bits_for().
template <entry_format F>
[[nodiscard]] PTEBITS_INLINE constexpr encoded encode_page(kind k, unsigned level, std::uint64_t physical,
                                                           const permissions& grant, const page_attributes& a,
                                                           const F& format) noexcept
{
    attribute_bits also = bits_for(a, level, k, format);
    if (!also) return {0, also.error};
    if constexpr (requires { F::description::accessed_by(format->features()); }) {
        const layout& l = format->layout_at(level, k);
        if (a.used) also.bits |= l.mask(role::accessed) | (grant.write ? l.mask(role::dirty) : 0);
    }
    return encode(k, level, physical, grant, format, field_values(also.bits, entries(level, k)));
}

}  // namespace ptebits
