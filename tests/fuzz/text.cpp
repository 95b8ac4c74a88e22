// SPDX-License-Identifier: BSL-1.0
// Entries in words: any entry, level and features into a buffer of any size. Nothing is
// written behind the buffer, and what is cut is the beginning of the whole text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include <ptebits/text_stream.hpp>

#include "input.hpp"

using namespace ptebits;
using namespace fuzz;

namespace {

/// The whole of a text, after a look at what a buffer of another size gets.
template <class Describe>
std::string whole(const Describe& describe, std::size_t size)
{
    const std::size_t needed = describe(nullptr, 0).needed;
    std::string text(needed, '?');
    require(describe(text.data(), needed + 1) == text_result{needed, needed});
    require(text.find('\0') == text.npos);

    const auto buffer = std::make_unique<char[]>(size);  // of exactly this size, for the sanitizer
    const text_result r = describe(buffer.get(), size);
    require(r.needed == needed && r.written == (size == 0 ? 0 : std::min(needed, size - 1)));
    require(r.truncated() == (r.written < needed));
    if (size != 0) require(std::string_view(buffer.get(), size).substr(0, r.written) == text.substr(0, r.written));
    if (size != 0) require(buffer[r.written] == '\0');
    return text;
}

template <class Format>
void try_one(const Format& format, std::uint64_t entry, unsigned level, std::size_t size)
{
    const auto in_a_line = [&](char* buffer, std::size_t n) { return describe(entry, level, format, buffer, n); };
    const auto in_fields = [&](char* buffer, std::size_t n) {
        return describe_fields(entry, level, format, buffer, n);
    };
    const auto printable = [](char c) { return c >= ' ' && c <= '~'; };

    const std::string line = whole(in_a_line, size);
    require(!line.empty() && std::all_of(line.begin(), line.end(), printable));
    require(line.front() != ' ' && line.back() != ' ' && line.find("  ") == line.npos);
    require(in_words(entry, level, format).line() == line);

    // The same line but for the rule, then lines that end and are not empty.
    const std::string fields = whole(in_fields, size);
    require(in_words(entry, level, format).fields() == fields);
    require(!fields.empty() && fields.back() == '\n' && fields.find("\n\n") == fields.npos);
    require(std::all_of(fields.begin(), fields.end(), [&](char c) { return c == '\n' || printable(c); }));
    require(fields.find(" \n") == fields.npos);
    const std::string head = fields.substr(0, fields.find('\n'));
    require(line.starts_with(head));
    const std::string_view behind = std::string_view(line).substr(head.size());

    const bool exists = level >= 1 && level <= format->shape().levels;
    const finding found = diagnose(entry, level, format);
    if (!exists) {
        require(line.starts_with("no such level 0x") && behind.empty() && head.size() + 1 == fields.size());
        return;
    }
    // What an absent entry must not be is told like a broken rule; A and D are the CPU's, where it sets them.
    const bool by_cpu = format->accessed_by() == accessed_setter::hardware;
    const std::uint64_t value = by_cpu ? entry & ~(format->accessed | format->dirty) : entry;
    const absent_error wrong = !present(entry, format) ? check_absent(value, format) : absent_error::none;
    const bool told = found || wrong != absent_error::none;
    require(behind.empty() != told);
    if (told) require(behind.starts_with("; " + std::string(found ? name(found.broken) : name(wrong))));
    require((fields.find("\nbroken: ") != fields.npos) == told);
    require(present(entry, format) || line == "empty" || line.starts_with("not present 0x"));

    // Parts are all bits of an entry, each once, of one role because of one row.
    const auto switches = row_features<typename Format::description>(format->features());
    for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
        const layout& l = format->layout_at(level, k);
        auto before = part_at(0, level, k, format);
        for (unsigned low = 0; low < 64; low += before.bits.width()) {
            const auto part = part_at(low, level, k, format);
            require(part.bits.exists() && part.bits.shift() == low && low + part.bits.width() <= 64);
            require((part.bits.mask() & ~(part.is == role::none ? ~l.all : l.mask(part.is))) == 0);
            if (part.from != nullptr) require((part.bits.mask() & ~part.from->bits_at(switches).mask()) == 0);
            require(low == 0 || part.is != before.is || part.from != before.from);
            before = part;
        }
    }
}

/// The pieces that texts are made of, by themselves.
void try_pieces(std::uint64_t value, std::size_t size)
{
    const auto piece = [&](const auto& put) {
        return whole(
            [&](char* buffer, std::size_t n) {
                text_writer out(buffer, n);
                put(out);
                return out.end();
            },
            size);
    };
    std::string hex = piece([&](text_writer& out) { out.hex(value); });
    std::erase(hex, '\'');
    require(std::stoull(hex, nullptr, 16) == value);
    const auto low = static_cast<unsigned>(value);
    require(piece([&](text_writer& out) { out.decimal(low); }) == std::to_string(low));

    std::uint64_t listed = 0;
    const std::string list = piece([&](text_writer& out) { out.bit_list(value); });
    for (const char* at = list.c_str(); *at != '\0'; at += *at == ',') {
        char* end = nullptr;
        const unsigned long first = std::strtoul(at, &end, 10);
        const unsigned long last = *end == '-' ? std::strtoul(end + 1, &end, 10) : first;
        require(end != at && first <= last && last < 64);
        listed |= ones(static_cast<unsigned>(last), static_cast<unsigned>(first));
        at = end;
    }
    require(listed == value);

    const unsigned shift = low % 64;
    const std::string page = piece([&](text_writer& out) { out.page_size(shift); });
    const std::size_t unit = std::string_view("BKMGTPE").find(page.back());
    require(unit != std::string_view::npos && std::stoull(page) << 10 * unit == std::uint64_t{1} << shift);

    // Every value of an enumeration has a name.
    const auto any = static_cast<unsigned>(value >> 8 & 0xff);
    const auto named = [any](auto last) {
        return name(static_cast<decltype(last)>(any % (static_cast<unsigned>(last) + 1)));
    };
    for (const char* text :
         {named(kind::run), named(role::beyond), named(rule::memory_type), named(defect::no_format),
          named(encode_error::value_not_legal), named(absent_error::points_into_memory),
          named(masks_error::execute_both_ways), named(marker_error::points_into_memory),
          named(fault_kind::memory_absent), named(track_result::changed), named(split_error::rights_above)}) {
        require(text != nullptr && *text != '\0');
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    input in(data, size);
    const unsigned first = in.byte();
    const unsigned level = first < 240 ? first % 7 : static_cast<unsigned>(in.number(4));
    const std::size_t buffer_size = in.byte() % 2 == 0 ? in.byte() : in.number(2);
    with_format_from(in, [&](const auto& format) {
        do {
            const std::uint64_t entry = in.number(8);
            try_one(format, entry, level, buffer_size);
            try_pieces(entry, buffer_size % 64);
        } while (!in.empty());
    });
    return 0;
}
