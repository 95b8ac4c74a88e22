// SPDX-License-Identifier: BSL-1.0
// An entry in words, into the caller's buffer. Names, bits and conditions come from the
// rows of the format's description; nothing here knows a bit number.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ptebits/ageing.hpp>
#include <ptebits/ept.hpp>
#include <ptebits/shadow.hpp>
#include <ptebits/walk.hpp>

namespace ptebits {

// ---- enumerations by name

[[nodiscard]] constexpr const char* name(kind k) noexcept { return k == kind::leaf ? "leaf" : "table"; }

[[nodiscard]] constexpr const char* name(role r) noexcept
{
    switch (r) {
    case role::none:
        return "none";
    case role::present:
        return "present";
    case role::read:
        return "read";
    case role::write:
        return "write";
    case role::execute:
        return "execute";
    case role::user_execute:
        return "user execute";
    case role::user:
        return "user";
    case role::execute_disable:
        return "execute disable";
    case role::page_size:
        return "page size";
    case role::address:
        return "address";
    case role::memory_type:
        return "memory type";
    case role::attribute:
        return "attribute";
    case role::accessed:
        return "accessed";
    case role::dirty:
        return "dirty";
    case role::software:
        return "software";
    case role::reserved:
        return "reserved";
    }
    return "unknown role";
}

[[nodiscard]] constexpr const char* name(rule r) noexcept
{
    switch (r) {
    case rule::none:
        return "no rule broken";
    case rule::no_such_level:
        return "no such level";
    case rule::too_wide:
        return "bits above the entry";
    case rule::reserved_bits:
        return "reserved bits set";
    case rule::write_without_read:
        return "write without read";
    case rule::execute_without_read:
        return "execute without read";
    case rule::memory_type:
        return "illegal memory type";
    }
    return "unknown rule";
}

[[nodiscard]] constexpr const char* name(defect d) noexcept
{
    switch (d) {
    case defect::none:
        return "no defect";
    case defect::levels:
        return "the format has no tables of so many levels";
    case defect::physical_bits:
        return "the physical-address width is not 32 to 52";
    case defect::encryption_bit:
        return "the encryption bit lies outside the address";
    case defect::software_bit_in_use:
        return "the hardware uses the software bit";
    case defect::two_accessed_bits:
        return "two accessed bits";
    case defect::contradiction:
        return "features that exclude each other";
    case defect::rows_overlap:
        return "two rows claim the same bit";
    case defect::bit_without_role:
        return "a bit has no role";
    case defect::name_in_two_places:
        return "a named field stands in two places";
    case defect::flag_of_several_bits:
        return "a flag is not one bit";
    }
    return "unknown defect";
}

[[nodiscard]] constexpr const char* name(encode_error e) noexcept
{
    switch (e) {
    case encode_error::none:
        return "no error";
    case encode_error::no_such_entry:
        return "no such entry at this level";
    case encode_error::address_misaligned:
        return "the address is not aligned";
    case encode_error::address_too_wide:
        return "the address is too wide";
    case encode_error::permission_not_offered:
        return "the format does not offer these permissions";
    }
    return "unknown error";
}

[[nodiscard]] constexpr const char* name(masks_error e) noexcept
{
    switch (e) {
    case masks_error::none:
        return "no error";
    case masks_error::no_present_bit:
        return "no present bit";
    case masks_error::accessed_several_bits:
        return "the accessed mask has several bits";
    case masks_error::dirty_several_bits:
        return "the dirty mask has several bits";
    case masks_error::no_execute_several_bits:
        return "the no-execute mask has several bits";
    case masks_error::overlap:
        return "two masks share a bit";
    case masks_error::execute_both_ways:
        return "both a no-execute and an execute mask";
    }
    return "unknown error";
}

[[nodiscard]] constexpr const char* name(marker_error e) noexcept
{
    switch (e) {
    case marker_error::none:
        return "no error";
    case marker_error::is_zero:
        return "the marker is 0";
    case marker_error::looks_present:
        return "the marker looks present";
    case marker_error::looks_accessed:
        return "the marker looks accessed";
    case marker_error::looks_dirty:
        return "the marker looks dirty";
    case marker_error::looks_writable:
        return "the marker looks writable";
    case marker_error::looks_tracked:
        return "the marker looks tracked";
    }
    return "unknown error";
}

[[nodiscard]] constexpr const char* name(fault_kind f) noexcept
{
    switch (f) {
    case fault_kind::none:
        return "no fault";
    case fault_kind::not_present:
        return "not present";
    case fault_kind::protection:
        return "protection";
    case fault_kind::reserved_bits:
        return "reserved bits set";
    case fault_kind::pdpte_reserved:
        return "reserved bits set in a PDPTE";
    case fault_kind::misconfiguration:
        return "misconfiguration";
    case fault_kind::not_canonical:
        return "address not canonical";
    case fault_kind::address_too_wide:
        return "address too wide";
    case fault_kind::memory_absent:
        return "no memory there";
    }
    return "unknown fault";
}

[[nodiscard]] constexpr const char* name(track_result r) noexcept
{
    switch (r) {
    case track_result::tracked:
        return "tracked";
    case track_result::tracked_writable:
        return "tracked, was writable";
    case track_result::tracked_already:
        return "tracked already";
    case track_result::not_present:
        return "not present";
    case track_result::saved_bits_in_use:
        return "saved bits in use";
    case track_result::changed:
        return "changed meanwhile";
    }
    return "unknown result";
}

[[nodiscard]] constexpr const char* name(order o) noexcept
{
    switch (o) {
    case order::relaxed:
        return "relaxed";
    case order::acq_rel:
        return "acq_rel";
    case order::seq_cst:
        return "seq_cst";
    }
    return "unknown order";
}

// ---- values by name

/// What a value of a named field means, "" if its role says it all. A format of your own
/// may have an overload for pointers to members of its fields, in the same namespace.
template <class Fields>
[[nodiscard]] constexpr const char* meaning(field Fields::* /*named*/, std::uint64_t /*value*/) noexcept
{
    return "";
}

/// Intel SDM volume 3, "EPT Paging-Structure Entries" and "EPT and Memory Typing".
[[nodiscard]] constexpr const char* meaning(field ept_fields::* named, std::uint64_t value) noexcept
{
    using fields = ept_fields;
    const bool set = value != 0;
    if (named == &fields::memory_type) {
        constexpr const char* types[] = {"UC", "WC", "", "", "WT", "WP", "WB", ""};
        return value < 8 ? types[value] : "";
    }
    if (named == &fields::ignore_pat) return set ? "guest's PAT ignored" : "guest's PAT counts";
    if (named == &fields::verify_guest_paging) return set ? "guest paging verified" : "guest paging not verified";
    if (named == &fields::paging_write) return set ? "writable for paging" : "not writable for paging";
    if (named == &fields::supervisor_shadow_stack)
        return set ? "supervisor shadow stack" : "no supervisor shadow stack";
    if (named == &fields::sub_page_write) return set ? "write permission by sub-page" : "write permission by page";
    if (named == &fields::suppress_ve) return set ? "violation exits" : "violation may raise #VE";
    return "";
}

/// Intel SDM volume 3, "Paging"; AMD APM volume 2, "Page Translation and Protection".
[[nodiscard]] constexpr const char* meaning(field x86_fields::* named, std::uint64_t value) noexcept
{
    using fields = x86_fields;
    const bool set = value != 0;
    if (named == &fields::write_through) return set ? "PAT index +1" : "PAT index +0";
    if (named == &fields::cache_disable) return set ? "PAT index +2" : "PAT index +0";
    if (named == &fields::pat || named == &fields::pat_large) return set ? "PAT index +4" : "PAT index +0";
    if (named == &fields::global) return set ? "global" : "not global";
    if (named == &fields::restart) return set ? "HLAT walk restarts" : "HLAT walk goes on";
    if (named == &fields::protection_key) return "protection key";
    if (named == &fields::encryption) return set ? "encryption bit set" : "encryption bit clear";
    return "";
}

/// Index into the PAT of the memory type of an ordinary or nested entry.
[[nodiscard]] constexpr unsigned pat_index(std::uint64_t entry, const layout& l, const x86_fields& fields) noexcept
{
    const std::uint64_t typed = entry & l.mask(role::memory_type);  // PAT's bit has other uses at other levels
    return static_cast<unsigned>(fields.write_through.get(typed) + 2 * fields.cache_disable.get(typed) +
                                 ((typed & (fields.pat | fields.pat_large)) != 0 ? 4 : 0));
}

/// Memory type of a PAT index after reset. Intel SDM volume 3, "Page Attribute Table".
/// Precondition: index < 8.
[[nodiscard]] constexpr const char* pat_type_after_reset(unsigned index) noexcept
{
    constexpr const char* types[] = {"WB", "WT", "UC-", "UC"};
    return types[index % 4];
}

// ---- an entry in parts

/// A format that has rows to describe it by.
template <class F>
concept described_format = entry_format<F> && requires(const F& f) {
    F::description::rows[0];
    f.features();
};

/// A run of bits that have one role because of one row.
template <class Row>
struct entry_part {
    field bits;
    role is = role::none;       ///< none: the entry does not have these bits
    const Row* from = nullptr;  ///< null: no row, as in an entry that the format does not have

    /// Whether the row is in force, not what stands in its place: `otherwise`, or address
    /// bits that are reserved.
    [[nodiscard]] constexpr bool in_force() const noexcept { return from != nullptr && is == from->is; }

    /// The manual's mnemonic, empty if it has none here.
    [[nodiscard]] constexpr const char* name() const noexcept { return in_force() ? from->name : ""; }
};

/// The part of an entry that begins at a bit. Parts from bit 0 up, each beginning where the
/// one before ends, are all of its 64 bits. Precondition: low < 64.
template <described_format F>
[[nodiscard]] constexpr auto part_at(unsigned low, unsigned level, kind k, const F& format) noexcept
{
    using description = typename F::description;
    using row_type = std::remove_cvref_t<decltype(description::rows[0])>;
    const auto switches = row_features<description>(format.features());
    const layout& l = format.layout_at(level, k);
    const std::uint64_t lowest = bit(low).mask();

    entry_part<row_type> part;
    std::uint64_t same = ~l.all;
    for (unsigned r = 0; r < role_count; ++r) {
        if ((l.masks[r] & lowest) == 0) continue;
        part.is = static_cast<role>(r);
        same = l.masks[r];
    }
    if (part.is != role::none && format.exists(level, k)) {
        for (const row_type& r : description::rows) {
            if (!r.in.contains(level, k) || r.role_at(switches, level) == role::none) continue;
            if ((r.bits_at(switches).mask() & lowest) == 0) continue;
            // A bit whose place is a feature stands above the row that it is taken from.
            if (part.from == nullptr || r.place != nullptr) part.from = &r;
        }
    }
    if (part.from != nullptr) same &= part.from->bits_at(switches).mask();
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

/// What a part of an entry means with this entry's value.
template <described_format F, class Row>
constexpr void write_meaning(text_writer& out, const entry_part<Row>& part, std::uint64_t entry, unsigned level, kind k,
                             const F& format) noexcept
{
    const std::uint64_t value = part.bits.get(entry);
    const bool set = value != 0;
    if (part.in_force()) {
        const char* words = meaning(part.from->member, value);
        if (*words != '\0') {
            out.put(words);
            return;
        }
    }
    switch (part.is) {
    case role::none:
        out.put("the entry has no such bits");
        return;
    case role::present:
    case role::accessed:
    case role::dirty:
        out.put(set ? "" : "not ").put(name(part.is));
        return;
    case role::read:
    case role::write:
    case role::execute:
    case role::user_execute:
        out.put(set ? "" : "no ").put(name(part.is));
        return;
    case role::execute_disable:
        out.put(set ? "no execute" : "execute");
        return;
    case role::user:
        switch (format.user_bit()) {
        case user_rule::separates:
            out.put(set ? "user and supervisor" : "supervisor only");
            return;
        case user_rule::required:
            out.put(set ? "user, as every nested access is" : "no access, every nested access is a user's");
            return;
        case user_rule::traps_supervisor_fetch:
            out.put(!set ? "supervisor execute" : k == kind::leaf ? "no supervisor execute" : "left to the leaf");
            return;
        }
        return;
    case role::page_size:
        if (set) {
            out.page_size(format.tables().page_shift(level)).put(" page");
        } else {
            out.put("table");
        }
        return;
    case role::address:
        out.put("address ").hex(format.layout_at(level, k).address_in(entry & part.bits.mask()));
        return;
    case role::memory_type:
    case role::attribute:
    case role::software:
    case role::reserved:
        out.put(name(part.is));
        break;
    }
    if (part.from == nullptr || part.in_force()) return;
    const auto switches = row_features<typename F::description>(format.features());
    if (part.from->role_at(switches, level) == role::address) {
        out.put(", beyond the address");
    } else {
        out.put("; ").put(*part.from->name != '\0' ? part.from->name : name(part.from->is));
        out.put(" if ").put(part.from->when.text);
    }
}

/// The entry in short, without the rule that it may break.
template <described_format F>
constexpr void write_summary(text_writer& out, std::uint64_t entry, unsigned level, const F& format) noexcept
{
    if (level < 1 || level > format.tables().levels) {
        out.put("no such level ").hex(entry);
        return;
    }
    if (!present(entry, format)) {
        entry == 0 ? out.put("empty") : out.put("not present ").hex(entry);
        return;
    }
    const kind k = kind_of(entry, level, format);
    const layout& l = format.layout_at(level, k);
    if (k == kind::leaf) {
        out.page_size(format.tables().page_shift(level)).put(" leaf ");
    } else {
        out.put('L').decimal(level).put("->L").decimal(level - 1).put(" table ");
    }
    out.hex(l.address_in(entry)).put(' ');

    const permissions p = permissions_of(entry, level, format);
    out.put(p.read ? 'R' : '-').put(p.write ? 'W' : '-').put(p.execute ? 'X' : '-');
    if (l.mask(role::user_execute) != 0 || format.user_bit() == user_rule::traps_supervisor_fetch) {
        out.put('/').put(p.user_execute ? 'X' : '-');
    } else if (format.user_bit() == user_rule::separates && (entry & l.mask(role::user)) != 0) {
        out.put(" user");
    }

    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        const std::uint64_t value = part.bits.get(entry);
        switch (part.is) {
        case role::memory_type:
            if (part.in_force() && part.bits.width() > 1) {
                const char* type = meaning(part.from->member, value);
                if (*type != '\0') {
                    out.put(' ').put(type);
                    break;
                }
            }
            [[fallthrough]];
        case role::attribute:
        case role::accessed:
        case role::dirty:
            if (value == 0) break;
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

/// The rule that an entry breaks, and which of its bits.
constexpr void write_rule(text_writer& out, std::uint64_t entry, const finding& found) noexcept
{
    out.put(name(found.broken));
    if ((found.bits & entry) != 0) out.put(": ").bit_list(found.bits & entry);
}

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
    write_summary(out, entry, level, format);
    if (const finding found = diagnose(entry, level, format); found && found.broken != rule::no_such_level) {
        write_rule(out.put("; "), entry, found);
    }
    return out.end();
}

template <described_format F, std::size_t Size>
constexpr text_result describe(std::uint64_t entry, unsigned level, const F& format, char (&buffer)[Size]) noexcept
{
    return describe(entry, level, format, buffer, Size);
}

/// An entry field by field: the line above, then a line for each field from bit 0 up, with
/// the manual's mnemonic, bits, value and meaning, then the PAT index of ordinary entries and
/// the rule that the entry breaks. Unnamed fields that are 0 are left out. Every line ends
/// with a newline. Of an entry that is not present the fields are as they would be.
template <described_format F>
constexpr text_result describe_fields(std::uint64_t entry, unsigned level, const F& format, char* buffer,
                                      std::size_t size) noexcept
{
    text_writer out(buffer, size);
    write_summary(out, entry, level, format);
    out.end_line();
    if (level < 1 || level > format.tables().levels) return out.end();

    const kind k = kind_of(entry, level, format);
    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        const std::uint64_t value = part.bits.get(entry);
        if (value == 0 && *part.name() == '\0' && part.is != role::address) continue;
        out.put("  ").put(*part.name() != '\0' ? part.name() : "-");
        out.column(8).bit_range(part.bits).column(15).number(value);
        write_meaning(out.column(30), part, entry, level, k, format);
        out.end_line();
    }

    if constexpr (std::is_same_v<typename F::description::fields, x86_fields>) {
        if (present(entry, format)) {
            const unsigned index = pat_index(entry, format.layout_at(level, k), format.fields());
            out.put("memory type: PAT index ").decimal(index).put(", after reset ").put(pat_type_after_reset(index));
            out.end_line();
        }
    }
    if (const finding found = diagnose(entry, level, format)) {
        write_rule(out.put("broken: "), entry, found);
        out.end_line();
    }
    return out.end();
}

template <described_format F, std::size_t Size>
constexpr text_result describe_fields(std::uint64_t entry, unsigned level, const F& format,
                                      char (&buffer)[Size]) noexcept
{
    return describe_fields(entry, level, format, buffer, Size);
}

static_assert(described_format<ept<ept_features{}>> && described_format<runtime_format<shadow_description>>);

}  // namespace ptebits
