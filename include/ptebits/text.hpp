// SPDX-License-Identifier: BSL-1.0
// An entry in words, into the caller's buffer. Names, bits and conditions come from the
// rows of the format's description; nothing here knows a bit number.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/entry.hpp>

namespace ptebits {

// ---- an entry in parts

/// A format that has rows to describe it by.
template <class F>
concept described_format = entry_format<F> && requires { F::description::rows[0]; };

/// A run of bits that have one role because of one row.
template <class Row>
struct entry_part {
    field bits;
    role is = role::none;       ///< none: the entry does not have these bits
    const Row* from = nullptr;  ///< null: no row, as in an entry that the format does not have

    /// Whether the row is in force, not what stands in its place: `otherwise`, or address
    /// bits that are reserved.
    [[nodiscard]] constexpr bool in_force() const noexcept { return from != nullptr && is == from->is.is; }

    /// The manual's mnemonic, empty if it has none here.
    [[nodiscard]] constexpr const char* name() const noexcept { return in_force() ? from->name : ""; }

    /// The mnemonic, or one word for bits that have none.
    [[nodiscard]] constexpr const char* label() const noexcept
    {
        if (*name() != '\0') return name();
        const bool is_word = is == role::address || is == role::software || is == role::written || is == role::reserved;
        return is_word ? ptebits::name(is) : is == role::beyond ? "beyond" : "-";
    }
};

/// The part of an entry that begins at a bit. Parts from bit 0 up, each beginning where the
/// one before ends, are all of its 64 bits. Precondition: low < 64.
template <described_format F>
[[nodiscard]] constexpr auto part_at(unsigned low, unsigned level, kind k, const F& format) noexcept
{
    using description = typename F::description;
    using row_type = std::remove_cvref_t<decltype(description::rows[0])>;
    const auto switches = row_features<description>(format->features());
    const layout& l = format->layout_at(level, k);
    const std::uint64_t lowest = bit(low).mask();

    entry_part<row_type> part;
    std::uint64_t same = ~l.all;
    for (unsigned r = 0; r < role_count; ++r) {
        if ((l.masks[r] & lowest) == 0) continue;
        part.is = static_cast<role>(r);
        same = l.masks[r];
    }
    const bool exists = k == kind::none || format->exists(level, k);
    if (part.is != role::none && exists) {
        for (const row_type& r : description::rows) {
            if (!r.in.contains(level, k) || r.use_at(switches, level).is == role::none) continue;
            if (r.place != nullptr && !r.in_force(switches, level)) continue;
            if ((r.bits_at(switches).mask() & lowest) == 0) continue;
            // A bit whose place is a feature stands above the row that it is taken from.
            if (part.from == nullptr || r.place != nullptr) part.from = &r;
        }
    }
    if (part.from != nullptr) same &= part.from->bits_at(switches).mask();
    for (const row_type& r : description::rows) {
        if (!exists || r.place == nullptr || !r.in.contains(level, k) || !r.in_force(switches, level)) continue;
        if (const std::uint64_t placed = r.bits_at(switches).mask(); (placed & lowest) == 0) same &= ~placed;
    }
    part.bits = field{ones(low + static_cast<unsigned>(std::countr_one(same >> low)) - 1, low)};
    return part;
}

// ---- text

/// What became of a text. Characters are counted without the closing NUL.
struct text_result {
    std::size_t written = 0;  ///< characters in the buffer
    std::size_t needed = 0;   ///< characters of the whole text

    [[nodiscard]] constexpr bool truncated() const noexcept { return written < needed; }
    [[nodiscard]] constexpr bool operator==(const text_result&) const = default;
};

/// Writes into a buffer what fits, leaves room for a NUL, and counts the rest.
class text_writer {
public:
    /// A size of 0 is allowed, the buffer then may be null.
    constexpr text_writer(char* buffer, std::size_t size) noexcept : buffer_(buffer), size_(size) {}

    constexpr text_writer& put(char c) noexcept
    {
        if (needed_ + 1 < size_) buffer_[needed_] = c;
        ++needed_;
        return *this;
    }
    constexpr text_writer& put(const char* text) noexcept
    {
        for (; *text != '\0'; ++text) put(*text);
        return *this;
    }

    /// A level as the manual numbers it, of which one may be -1.
    constexpr text_writer& level(int manual_level) noexcept
    {
        if (manual_level < 0) put('-');
        return decimal(static_cast<unsigned>(manual_level < 0 ? -manual_level : manual_level));
    }
    constexpr text_writer& decimal(unsigned value) noexcept
    {
        unsigned unit = 1;
        while (value / unit >= 10) unit *= 10;
        for (; unit != 0; unit /= 10) put(static_cast<char>('0' + value / unit % 10));
        return *this;
    }

    /// As 0x12'3456'7000.
    constexpr text_writer& hex(std::uint64_t value) noexcept
    {
        put("0x");
        unsigned digit = 15;
        while (digit > 0 && value >> digit * 4 == 0) --digit;
        for (;; --digit) {
            put("0123456789abcdef"[value >> digit * 4 & 15]);
            if (digit == 0) return *this;
            if (digit % 4 == 0) put('\'');
        }
    }

    /// A value: one digit if it fits, else as hex() does.
    constexpr text_writer& number(std::uint64_t value) noexcept
    {
        return value < 10 ? decimal(static_cast<unsigned>(value)) : hex(value);
    }

    /// Bits as manuals write them: 5:3, or 6.
    constexpr text_writer& bit_range(field bits) noexcept
    {
        if (bits.width() > 1) decimal(bits.shift() + bits.width() - 1).put(':');
        return decimal(bits.shift());
    }

    /// The numbers of a mask's bits: 1,57-61.
    constexpr text_writer& bit_list(std::uint64_t mask) noexcept
    {
        for (bool first = true; mask != 0; first = false) {
            const auto low = static_cast<unsigned>(std::countr_zero(mask));
            const unsigned high = low + static_cast<unsigned>(std::countr_one(mask >> low)) - 1;
            if (!first) put(',');
            decimal(low);
            if (high > low) put(high == low + 1 ? ',' : '-').decimal(high);
            mask &= ~ones(high, low);
        }
        return *this;
    }

    /// A size given by its log2: 4K, 2M, 1G. Precondition: page_shift < 64.
    constexpr text_writer& page_size(unsigned page_shift) noexcept
    {
        return decimal(1U << page_shift % 10).put("BKMGTPE"[page_shift / 10]);
    }

    /// Blanks up to a column of the line, at least one.
    constexpr text_writer& column(std::size_t column) noexcept
    {
        do put(' ');
        while (needed_ - line_ < column);
        return *this;
    }
    constexpr text_writer& end_line() noexcept
    {
        put('\n');
        line_ = needed_;
        return *this;
    }

    /// Closes the text with a NUL, if the buffer has room for anything.
    constexpr text_result end() noexcept
    {
        if (size_ == 0) return {0, needed_};
        const std::size_t written = needed_ < size_ ? needed_ : size_ - 1;
        buffer_[written] = '\0';
        return {written, needed_};
    }

private:
    char* buffer_;
    std::size_t size_;
    std::size_t needed_ = 0;
    std::size_t line_ = 0;  // where this line begins
};

namespace detail {

/// What a value of a named field means, as the description says; else "".
template <described_format F, class Row>
[[nodiscard]] constexpr const char* meaning_of(const entry_part<Row>& part, std::uint64_t value, kind k,
                                               const F& format) noexcept
{
    using description = typename F::description;
    if (!part.in_force()) return "";
    if constexpr (requires { description::meaning(part.from->member, value, k, format->features()); }) {
        return description::meaning(part.from->member, value, k, format->features());
    } else if constexpr (requires { description::fields::meaning(part.from->member, value); }) {
        return description::fields::meaning(part.from->member, value);
    } else {
        return "";
    }
}

}  // namespace detail

/// What a part of an entry means with this entry's value.
template <described_format F, class Row>
constexpr void write_meaning(text_writer& out, const entry_part<Row>& part, std::uint64_t entry, unsigned level, kind k,
                             const F& format) noexcept
{
    const std::uint64_t value = part.bits.get(entry);
    const bool set = value != 0;
    if (const char* words = detail::meaning_of(part, value, k, format); *words != '\0') {
        out.put(words);
        return;
    }
    switch (part.is) {
    case role::none:
        out.put("the entry has no such bits");
        return;
    case role::fixed:
        if (k == kind::leaf || k == kind::run) {
            out.page_size(format->shape().page_shift(level, k)).put(k == kind::leaf ? " page" : " run");
        } else {
            out.put(name(k));
        }
        return;
    case role::accessed:
    case role::dirty:
        out.put(set ? "" : "not ").put(name(part.is));
        return;
    case role::read:
    case role::write:
    case role::execute:
    case role::user_execute:
    case role::user:
        out.put(format->layout_at(level, k).grants(entry, part.is) ? "" : "no ").put(name(part.is));
        return;
    case role::next_level:
        out.put("level ").level(format->manual_level(static_cast<unsigned>(value)));
        return;
    case role::address:
        out.put(*part.name() != '\0' ? "address " : "")
            .hex(format->layout_at(level, k).address_in(entry & part.bits.mask()));
        return;
    case role::software:
        out.put("ignored by the MMU");
        break;
    case role::reserved:
        out.put("must be 0");
        break;
    case role::memory_type:
    case role::attribute:
    case role::dirty_modifier:
    case role::written:
    case role::beyond:
        out.put(name(part.is));
        break;
    }
    if (part.from == nullptr || part.in_force()) return;
    const auto switches = row_features<typename F::description>(format->features());
    if (part.from->use_at(switches, level).is == role::address) {
        if (part.bits.mask() > format->layout_at(level, k).mask(role::address)) out.put(", beyond the address");
    } else {
        out.put("; ").put(*part.from->name != '\0' ? part.from->name : name(part.from->is.is));
        out.put(" if ").put(part.from->when.text);
    }
}

namespace detail {

/// The entry in short, without the rule that it may break.
template <described_format F>
constexpr void write_summary(text_writer& out, std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (level < 1 || level > format->shape().levels) {
        out.put("no such level ").hex(entry);
        return;
    }
    if (entry == format->empty()) {
        out.put("empty");
        return;
    }
    const kind k = kind_of(entry, level, format);
    if (k == kind::none) {
        out.put(present(entry, format) ? "no such kind of entry " : "not present ").hex(entry);
        return;
    }
    const layout& l = format->layout_at(level, k);
    if (k == kind::table) {
        const unsigned below = format->level_below(entry, level);
        out.put('L').level(format->manual_level(level)).put("->L").level(format->manual_level(below));
        out.put(" table ");
    } else {
        out.page_size(page_shift_of(entry, level, format)).put(k == kind::leaf ? " leaf " : " run ");
    }
    out.hex(l.address_in(entry)).put(' ');

    const permissions p = permissions_of(entry, level, format);
    out.put(p.read ? 'R' : '-').put(p.write ? 'W' : '-').put(p.execute ? 'X' : '-');
    const bool user_counts = format->allowed({true, true, true, false, true}, k) != no_permissions;
    if (format->modes_apart()) {
        out.put('/').put(p.user_execute ? 'X' : '-');
    } else if (user_counts && l.mask(role::user) != 0 && l.grants(entry, role::user)) {
        out.put(" user");
    }

    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        const std::uint64_t value = part.bits.get(entry);
        switch (part.is) {
        case role::memory_type:
            if (part.in_force() && part.bits.width() > 1) {
                const char* type = meaning_of(part, value, k, format);
                if (*type != '\0') {
                    out.put(' ').put(type);
                    break;
                }
            }
            [[fallthrough]];
        case role::attribute:
        case role::accessed:
        case role::dirty:
        case role::address:
            if (value == 0 || (part.is == role::address && part.from->place == nullptr)) break;
            out.put(' ').put(*part.name() != '\0' ? part.name() : name(part.is));
            if (part.bits.width() > 1) out.put('=').decimal(static_cast<unsigned>(value));
            break;
        default:
            break;
        }
    }
    if (const std::uint64_t software = entry & l.mask(role::software); software != 0) {
        out.put(" sw=").bit_list(software);
    }
}

/// The rule that an entry breaks, and which of its bits; or what is wrong with an absent one.
/// Returns whether there was something to write.
template <described_format F>
constexpr bool write_rule(text_writer& out, const char* before, std::uint64_t entry, unsigned level,
                          const F& format) noexcept
{
    const finding found = diagnose(entry, level, format);
    if (found.broken == rule::no_such_level) return false;
    if (!found) {
        if (present(entry, format)) return false;
        // Without A and D, which are not software's alone to set.
        const absent_error wrong = check_absent(entry & ~stray_bits(format), format);
        if (wrong == absent_error::none) return false;
        out.put(before).put(name(wrong));
        return true;
    }
    out.put(before).put(name(found.broken));
    if ((found.bits & entry) != 0) out.put(": ").bit_list(found.bits & entry);
    return true;
}

}  // namespace detail

/// An entry in one line, without a newline:
///     4K leaf 0x12'3456'7000 RW- WB A D sw=57,58
/// What it is; its address; read, write, execute (execute in user mode behind a slash where
/// it is granted apart; "user" where U/S grants access to user mode); memory type, flags and
/// attributes by the manual's mnemonics; software bits in use; the rule that it breaks.
/// Of an entry that is not present its value, since the MMU looks at no other bit.
/// The text is cut to the buffer, with a NUL always, unless the size is 0.
template <described_format F>
constexpr text_result describe(std::uint64_t entry, unsigned level, const F& format, char* buffer,
                               std::size_t size) noexcept
{
    text_writer out(buffer, size);
    detail::write_summary(out, entry, level, format);
    detail::write_rule(out, "; ", entry, level, format);
    return out.end();
}

template <described_format F, std::size_t Size>
constexpr text_result describe(std::uint64_t entry, unsigned level, const F& format, char (&buffer)[Size]) noexcept
{
    return describe(entry, level, format, buffer, Size);
}

/// An entry field by field: the line above, then a line for each field from bit 0 up, with
/// the manual's mnemonic or a word, bits, value and meaning, then the PAT index of ordinary entries and
/// the rule that the entry breaks. Unnamed fields that are 0 are left out. Every line ends
/// with a newline. An absent entry has the fields that the format has for one, most often none.
template <described_format F>
constexpr text_result describe_fields(std::uint64_t entry, unsigned level, const F& format, char* buffer,
                                      std::size_t size) noexcept
{
    text_writer out(buffer, size);
    detail::write_summary(out, entry, level, format);
    out.end_line();
    if (level < 1 || level > format->shape().levels) return out.end();

    const kind k = kind_of(entry, level, format);
    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        const std::uint64_t value = part.bits.get(entry);
        if (value == 0 && *part.name() == '\0' && part.is != role::address) continue;
        out.put("  ").put(part.label());
        out.column(12).bit_range(part.bits).column(19).number(value);
        write_meaning(out.column(34), part, entry, level, k, format);
        out.end_line();
    }

    using fields = typename F::description::fields;
    if constexpr (requires { fields::describe_more(out, entry, format->layout_at(level, k), format->fields()); }) {
        if (k != kind::none) fields::describe_more(out, entry, format->layout_at(level, k), format->fields());
    }
    if (detail::write_rule(out, "broken: ", entry, level, format)) out.end_line();
    return out.end();
}

template <described_format F, std::size_t Size>
constexpr text_result describe_fields(std::uint64_t entry, unsigned level, const F& format,
                                      char (&buffer)[Size]) noexcept
{
    return describe_fields(entry, level, format, buffer, Size);
}

}  // namespace ptebits
