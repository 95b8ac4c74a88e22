// SPDX-License-Identifier: BSL-1.0
// Entries in words: exact texts, texts parsed back, and buffers of every size.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/ptebits.hpp>
#include <ptebits/text.hpp>
#include <ptebits/text_stream.hpp>

using namespace ptebits;

namespace {

struct device_description;

struct device_features {
    using description = device_description;

    unsigned levels = 3;
    unsigned physical_bits = 48;
    bool snoop_control = true;
    optional_bits pinned = {};  // a bit that software gave a name
};

struct device_fields {
    entry_field read;
    entry_field write;
    entry_field policy;
    entry_field large;
    entry_field snoop;
    entry_field pinned;
};

struct device_description {
    using features = device_features;
    using fields = device_fields;

    static constexpr condition<features> snooping{"snoop control", &features::snoop_control};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        // name  bits           in which entries    use                named             only with  otherwise
        {"R",    bit(0),        every,              role::read,        &fields::read},
        {"W",    bit(1),        every,              role::write,       &fields::write},
        {"",     bits(6, 2),    tables,             role::reserved},
        {"CP",   bits(4, 2),    leaves,             role::memory_type, &fields::policy},
        {"",     bits(6, 5),    leaves,             role::software},
        {"",     bit(7),        leaf_at(1),         role::software},
        {"L",    bit(7),        leaf_at(2),         is(1),             &fields::large},
        {"L",    bit(7),        table_at(2),        is(0),             &fields::large},
        {"",     bit(7),        table_at(3),        role::reserved},
        {"",     bits(10, 8),   every,              role::software},
        {"",     bit(11),       tables,             role::software},
        {"SNP",  bit(11),       leaves,             role::attribute,   &fields::snoop,   snooping,  role::reserved},
        {"",     bits(51, 12),  every,              role::address},
        {"",     bits(63, 52),  every,              role::software},
        {"PIN",  &features::pinned, leaves,         role::software,    role::software,   &fields::pinned},
    };
    static constexpr ptebits::forbidden<features, fields> forbidden[] = {
        // breaks            in      which            value
        {rule::memory_type,  leaves, &fields::policy, 7},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f) { return {.levels = f.levels}; }
    static constexpr entries entries_of(const features& f) { return leaves_up_to(2) | tables_up_to(f.levels); }
    static constexpr defect contradiction(const features& f)
    {
        return f.levels == 2 || f.levels == 3 ? defect::none : defect::levels;
    }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind, const features&)
    {
        if (named == &fields::policy) return value == 0 ? "uncached" : value == 1 ? "streaming" : "";
        if (named == &fields::snoop) return value != 0 ? "coherent" : "not coherent";
        return "";
    }
};

template <device_features Features>
constexpr constant_format<device_description, Features> device{};

static_assert(well_formed(device<device_features{}>) && well_formed(device<device_features{.snoop_control = false}>));
static_assert(device<device_features{}>->policy == field_of(0x1c));

/// Calls a check with one format of each shape.
template <class Check>
void for_each_shape(Check check)
{
    check(shadow<shadow_features{.levels = 2}>);
    check(shadow<shadow_features{.levels = 3}>);
    check(shadow<shadow_features{.physical_bits = 46, .user_keys = true}>);
    check(npt<npt_features{.physical_bits = 48, .encryption_bit = 47}>);
    check(ept<ept_features{.physical_bits = 46}>);
    check(device<device_features{}>);
}

/// Calls a check with formats of every kind: features off and on, known here or at run time.
template <class Check>
void for_every_format(Check check)
{
    for_each_shape(check);
    const auto with = [&](const auto& features) {
        const auto format = format_for(features);
        REQUIRE(format->wrong().what == defect::none);
        check(format);
    };
    with(shadow_features{});
    with(shadow_features{.levels = 5, .physical_bits = 46, .user_keys = true, .hlat = true});
    with(
        shadow_features{.physical_bits = 39, .execute_disable = false, .gigabyte_pages = false, .global_pages = false});
    with(shadow_features{.levels = 5, .reserved_bit_8 = true, .encryption_bit = 47});
    with(shadow_features{.levels = 3, .physical_bits = 40});
    with(shadow_features{.levels = 2, .physical_bits = 38});
    with(shadow_features{.levels = 2, .large_pages = false});
    with(npt_features{.physical_bits = 48, .encryption_bit = 51});
    with(npt_features{.levels = 5, .guest_mode_execute_trap = true});
    with(npt_features{.levels = 3, .execute_disable = false});
    with(ept_features{});
    with(ept_features{.physical_bits = 39, .accessed_dirty = false, .software_accessed = 54});
    with(ept_features{.execute_only = false, .large_pages = false, .gigabyte_pages = false});
    with(ept_features{.levels = 5,
                      .mode_based_execute = true,
                      .verify_guest_paging = true,
                      .paging_write = true,
                      .supervisor_shadow_stack = true,
                      .sub_page_write = true,
                      .suppress_ve = true});
    with(device_features{});
    with(device_features{.levels = 2, .snoop_control = false});
    with(device_features{.pinned = 54});
}

template <class Format>
std::string line_of(std::uint64_t entry, unsigned level, const Format& format)
{
    char buffer[300];
    REQUIRE_FALSE(describe(entry, level, format, buffer).truncated());
    return buffer;
}

template <class Format>
std::string fields_of(std::uint64_t entry, unsigned level, const Format& format)
{
    char buffer[3000];
    REQUIRE_FALSE(describe_fields(entry, level, format, buffer).truncated());
    return buffer;
}

/// A line of the long form, read back.
struct field_line {
    std::string mnemonic;
    field bits;
    std::uint64_t value = 0;
    std::string means;
};

std::uint64_t number_in(std::string text)
{
    std::erase(text, '\'');
    return std::stoull(text, nullptr, 0);
}

/// The fields in a long form: what is indented.
std::vector<field_line> parse(const std::string& text)
{
    std::vector<field_line> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("  ")) continue;
        field_line f;
        std::string place, value;
        std::istringstream words(line);
        words >> f.mnemonic >> place >> value >> std::ws;
        std::getline(words, f.means);
        const std::size_t colon = place.find(':');
        const auto high = static_cast<unsigned>(std::stoul(place));
        f.bits = bits(high, colon == place.npos ? high : static_cast<unsigned>(std::stoul(place.substr(colon + 1))));
        f.value = number_in(value);
        found.push_back(f);
    }
    return found;
}

/// What is wrong with the long form of an entry, read back; empty if nothing.
template <class Format>
std::string check_fields(std::uint64_t entry, unsigned level, const Format& format)
{
    using description = typename Format::description;
    const std::string text = fields_of(entry, level, format);
    const std::vector<field_line> lines = parse(text);
    std::uint64_t rebuilt = 0;
    std::uint64_t seen = 0;
    for (const field_line& f : lines) {
        if ((seen & f.bits.mask()) != 0) return "a bit stands in two lines:\n" + text;
        if (f.means.empty()) return "a field without a meaning:\n" + text;
        seen |= f.bits.mask();
        rebuilt |= f.bits(f.value);
    }
    if (rebuilt != entry) return "the fields do not give the entry:\n" + text;

    // Every named row in force has its line.
    const kind k = kind_of(entry, level, format);
    const auto switches = row_features<description>(format->features());
    const std::uint64_t all = format->layout_at(level, k).all;
    for (const auto& r : description::rows) {
        if (*r.name == '\0' || !r.in.contains(level, k) || !r.in_force(switches, level)) continue;
        const field at = r.bits_at(switches);
        if ((at.mask() & all) == 0) continue;
        bool told = false;
        for (const field_line& f : lines) {
            told = told || (f.mnemonic == r.name && f.bits == at && f.value == at.get(entry));
        }
        if (!told) return std::string("no line for ") + r.name + ":\n" + text;
    }
    return {};
}

/// What is wrong when a text is written into a buffer of some size; empty if nothing.
template <class Describe>
std::string check_size(const std::string& whole, std::size_t size, Describe write)
{
    constexpr char guard = '#';
    std::string buffer(size + 8, guard);
    const text_result result = write(buffer.data(), size);
    const std::size_t fits = size == 0 ? 0 : std::min(size - 1, whole.size());
    if (result != text_result{fits, whole.size()}) return "written or needed is wrong";
    if (result.truncated() != (size <= whole.size())) return "truncated() is wrong";
    if (buffer.compare(0, fits, whole, 0, fits) != 0) return "the text differs";
    if (size > 0 && buffer[fits] != '\0') return "no NUL";
    // Not one character more than the text and its NUL.
    const std::size_t end = size == 0 ? 0 : fits + 1;
    return buffer.find_first_not_of(guard, end) == buffer.npos ? "" : "written beyond the text";
}

// A text in a constant expression, held against the expected one.
template <std::size_t Size, class Format>
consteval bool says(const char (&expected)[Size], std::uint64_t entry, unsigned level, const Format& format)
{
    char buffer[200];
    const text_result result = describe(entry, level, format, buffer);
    return result.written + 1 == Size && std::string_view(buffer, Size) == std::string_view(expected, Size);
}
static_assert(says("4K leaf 0x12'3456'7000 RW- WB A D sw=57,58", 0x0600'0012'3456'7333, 1, ept<ept_features{}>));

consteval bool fields_fit()
{
    char buffer[1000];
    return !describe_fields(0x0600'0012'3456'7333, 1, ept<ept_features{}>, buffer).truncated();
}
static_assert(fields_fit());

}  // namespace

TEST_CASE("an entry in one line")
{
    const auto e = format_for(ept_features{});
    CHECK(line_of(0, 1, e) == "empty");
    CHECK(line_of(0x0750'0000'07a0'7870, 1, e) == "not present 0x750'0000'07a0'7870");
    CHECK(line_of(0x1000, 5, e) == "no such level 0x1000");
    CHECK(line_of(0x1000, 0, e) == "no such level 0x1000");
    CHECK(line_of(0x1037, 1, e) == "4K leaf 0x1000 RWX WB");
    CHECK(line_of(0x1007, 1, e) == "4K leaf 0x1000 RWX UC");
    CHECK(line_of(0x1047, 1, e) == "4K leaf 0x1000 RWX UC IPAT");
    CHECK(line_of(0x1012, 1, e) == "4K leaf 0x1000 -W- MT=2; write without read: 1");
    CHECK(line_of(0x1011, 1, e) == "4K leaf 0x1000 R-- MT=2; illegal memory type: 4");
    CHECK(line_of(0x20'00b5, 2, e) == "2M leaf 0x20'0000 R-X WB");
    CHECK(line_of(0x4000'00b5, 3, e) == "1G leaf 0x4000'0000 R-X WB");
    CHECK(line_of(0x1107, 4, e) == "L4->L3 table 0x1000 RWX A");
    CHECK(line_of(0x1187, 4, e) == "L4->L3 table 0x1000 RWX A; reserved bits set: 7");

    const auto modes = format_for(ept_features{.mode_based_execute = true, .suppress_ve = true});
    CHECK(line_of(0x8000'0000'0000'1433, 1, modes) == "4K leaf 0x1000 RW-/X WB SVE");
    CHECK(line_of(0x1037, 1, modes) == "4K leaf 0x1000 RWX/- WB");

    const auto seed = format_for(ept_features{.accessed_dirty = false, .software_accessed = 63});
    CHECK(line_of(0x8000'0000'0000'1333, 1, seed) == "4K leaf 0x1000 RW- WB A sw=8,9");

    const auto x = format_for(shadow_features{.physical_bits = 40, .user_keys = true});
    CHECK(line_of(0x8000'0001'2345'6067, 1, x) == "4K leaf 0x1'2345'6000 RW- user A D");
    CHECK(line_of(0x12'3467, 1, x) == "4K leaf 0x12'3000 RWX user A D sw=10");
    CHECK(line_of(0x2800'0000'0000'1199, 1, x) == "4K leaf 0x1000 R-X PWT PCD PAT G PK=5");
    CHECK(line_of(0x0600'0100'0000'1e01, 1, x) == "4K leaf 0x1000 R-X sw=9-11,57,58; reserved bits set: 40");
    CHECK(line_of(0x20'10e3, 2, x) == "2M leaf 0x20'0000 RWX A D PAT");

    const auto two = format_for(shadow_features{.levels = 2});
    CHECK(line_of(0x00c3'f0e7, 2, two) == "4M leaf 0x1f'00c0'0000 RWX user A D PAT");
    CHECK(line_of(0x1'0000'1067, 1, two) == "4K leaf 0x1000 RWX user A D; bits above the entry: 32");
    CHECK(line_of(0x1067, 2, two) == "L2->L1 table 0x1000 RWX user A sw=6");

    const auto pae = format_for(shadow_features{.levels = 3});
    CHECK(line_of(0x1001, 3, pae) == "L3->L2 table 0x1000 RWX");
    CHECK(line_of(0x1003, 3, pae) == "L3->L2 table 0x1000 RWX; reserved bits set: 1");

    const auto n = format_for(npt_features{});
    CHECK(line_of(0x1067, 1, n) == "4K leaf 0x1000 RWX A D");
    CHECK(line_of(0x1063, 1, n) == "4K leaf 0x1000 --- A D");
    const auto trap = format_for(npt_features{.guest_mode_execute_trap = true});
    CHECK(line_of(0x1067, 1, trap) == "4K leaf 0x1000 RW-/X A D");
    CHECK(line_of(0x1027, 2, trap) == "L2->L1 table 0x1000 RWX/X A");
    CHECK(fields_of(0x1027, 2, trap).find("  U/S       2      1              left to the leaf\n") != std::string::npos);
    CHECK(fields_of(0x1067, 1, trap).find("  U/S       2      1              no supervisor execute\n") !=
          std::string::npos);
    CHECK(line_of(0x1063, 1, trap) == "4K leaf 0x1000 RWX/X A D");

    const auto sev = format_for(npt_features{.encryption_bit = 47});
    CHECK(line_of(0x8000'0000'1067, 1, sev) == "4K leaf 0x1000 RWX A D C");

    const auto none = format_for(ept_features{.levels = 7});
    CHECK(line_of(0x1037, 1, none) == "no such level 0x1037");
}

TEST_CASE("an entry field by field")
{
    const auto e = format_for(ept_features{.physical_bits = 39});
    CHECK(fields_of(0x0610'0092'3456'7332, 1, e) ==
          "4K leaf 0x12'3456'7000 -W- WB A D sw=52,57,58\n"
          "  R         0      0              no read\n"
          "  W         1      1              write\n"
          "  X         2      0              no execute\n"
          "  MT        5:3    6              WB\n"
          "  IPAT      6      0              guest's PAT counts\n"
          "  A         8      1              accessed\n"
          "  D         9      1              dirty\n"
          "  address   38:12  0x123'4567     0x12'3456'7000\n"
          "  reserved  51:39  1              must be 0, beyond the address\n"
          "  software  56:52  1              ignored by the MMU\n"
          "  software  57     1              ignored by the MMU; VGP if guest-paging verification\n"
          "  software  58     1              ignored by the MMU; PW if EPT paging-write\n"
          "broken: reserved bits set: 39\n");
    CHECK(fields_of(0x1000, 5, e) == "no such level 0x1000\n");
    CHECK(fields_of(0, 4, e) == "empty\n");
    CHECK(fields_of(0x8750'0000'07a0'7870, 1, e) ==
          "not present 0x8750'0000'07a0'7870\n"
          "  software  63:3   0x10ea'0000'00f4'0f0e ignored by the MMU\n");

    // What software must write into an absent entry has its line.
    const auto ve = format_for(ept_features{.suppress_ve = true});
    CHECK(fields_of(0x8000'0000'0000'0000, 1, ve) ==
          "empty\n"
          "  SVE       63     1              violation exits\n");
    CHECK(fields_of(0, 1, ve) ==
          "not present 0x0\n"
          "  SVE       63     0              violation may raise #VE\n"
          "broken: a bit that must be written has another value\n");
    CHECK(fields_of(0xab'c000, 1, ve) ==
          "not present 0xab'c000\n"
          "  software  62:3   0x15'7800      ignored by the MMU\n"
          "  SVE       63     0              violation may raise #VE\n"
          "broken: a bit that must be written has another value\n");

    const auto x = format_for(shadow_features{.user_keys = true, .encryption_bit = 47});
    CHECK(fields_of(0xd800'8000'00e0'31fb, 2, x) ==
          "2M leaf 0xe0'0000 RW- PWT PCD A D G PAT C PK=11\n"
          "  P         0      1              present\n"
          "  R/W       1      1              write\n"
          "  U/S       2      0              supervisor only\n"
          "  PWT       3      1              PAT index +1\n"
          "  PCD       4      1              PAT index +2\n"
          "  A         5      1              accessed\n"
          "  D         6      1              dirty\n"
          "  PS        7      1              2M page\n"
          "  G         8      1              global\n"
          "  PAT       12     1              PAT index +4\n"
          "  reserved  20:13  1              must be 0; address if PSE-36\n"
          "  address   46:21  7              0xe0'0000\n"
          "  C         47     1              encrypted\n"
          "  PK        62:59  0xb            protection key\n"
          "  XD        63     1              no execute\n"
          "memory type: PAT index 7, after reset UC\n"
          "broken: reserved bits set: 13\n");

    // The two pieces of a 4-Mbyte page's address, each where it weighs.
    const auto two = format_for(shadow_features{.levels = 2});
    const std::string large = fields_of(0x1'00c3'e087, 2, two);
    CHECK(large.find("  address   20:13  0x1f           0x1f'0000'0000\n") != large.npos);
    CHECK(large.find("  address   31:22  3              0xc0'0000\n") != large.npos);
    CHECK(large.find("  -         63:32  1              the entry has no such bits\n") != large.npos);
}

TEST_CASE("a user's format in words")
{
    const auto f = format_for(device_features{});
    CHECK(line_of(0x1807, 1, f) == "4K leaf 0x1000 RWX streaming SNP");
    CHECK(line_of(0x1801, 1, f) == "4K leaf 0x1000 R-X uncached SNP");
    CHECK(line_of(0x100d, 1, f) == "4K leaf 0x1000 R-X CP=3");
    CHECK(line_of(0x101d, 1, f) == "4K leaf 0x1000 R-X CP=7; illegal memory type: 2-4");
    CHECK(fields_of(0x20'0883, 2, device<device_features{.snoop_control = false}>) ==
          "2M leaf 0x20'0000 RWX uncached\n"
          "  R         0      1              read\n"
          "  W         1      1              write\n"
          "  CP        4:2    0              uncached\n"
          "  L         7      1              2M page\n"
          "  reserved  11     1              must be 0; SNP if snoop control\n"
          "  address   47:21  1              0x20'0000\n"
          "broken: reserved bits set: 11\n");
    // A named bit among others of its role is a part of its own.
    CHECK(fields_of(0x00f0'0000'0020'0883, 2, device<device_features{.pinned = 54}>) ==
          "2M leaf 0x20'0000 RWX uncached SNP sw=52-55\n"
          "  R         0      1              read\n"
          "  W         1      1              write\n"
          "  CP        4:2    0              uncached\n"
          "  L         7      1              2M page\n"
          "  SNP       11     1              coherent\n"
          "  address   47:21  1              0x20'0000\n"
          "  software  53:52  3              ignored by the MMU\n"
          "  PIN       54     1              ignored by the MMU\n"
          "  software  63:55  1              ignored by the MMU\n");
}

TEST_CASE("the long form read back gives the entry, for every field of every format")
{
    for_every_format([](const auto& format) {
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            CAPTURE(level);
            std::set<std::uint64_t> entries{0, ~std::uint64_t{0}};
            for (unsigned index = 0; index < 64; ++index) {
                entries.insert(bit(index).mask());
                entries.insert(~bit(index).mask());
            }
            // Every field at its least and greatest, alone and beside all others.
            for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
                const layout& l = format->layout_at(level, k);
                const std::uint64_t fixed = l.mask(role::fixed);
                for (unsigned low = 0; low < 64;) {
                    const auto part = part_at(low, level, k, format);
                    low += part.bits.width();
                    for (const std::uint64_t with :
                         {std::uint64_t{0}, fixed, fixed & l.value, ~fixed, ~fixed | l.value}) {
                        entries.insert(part.bits.mask() | with);
                        entries.insert(~part.bits.mask() & with);
                    }
                }
            }
            for (const std::uint64_t entry : entries) {
                CAPTURE(entry);
                CHECK(check_fields(entry, level, format) == "");
            }
        }
    });
}

TEST_CASE("no buffer is overrun, whatever its size")
{
    for_each_shape([](const auto& format) {
        for (unsigned level = 0; level <= format->shape().levels + 1; ++level) {
            for (unsigned index = 0; index <= 64; ++index) {
                const std::uint64_t entry = bit(index).mask();
                const auto line = [&](char* buffer, std::size_t size) {
                    return describe(entry, level, format, buffer, size);
                };
                const auto fields = [&](char* buffer, std::size_t size) {
                    return describe_fields(entry, level, format, buffer, size);
                };
                std::string found;
                const std::string short_text = line_of(entry, level, format);
                for (std::size_t size = 0; size <= short_text.size() + 2; ++size) {
                    if (found.empty()) found = check_size(short_text, size, line);
                }
                const std::string long_text = fields_of(entry, level, format);
                for (std::size_t size = 0; size <= long_text.size() + 2; ++size) {
                    if (found.empty()) found = check_size(long_text, size, fields);
                }
                CAPTURE(level);
                CAPTURE(index);
                CHECK(found == "");
            }
        }
    });
}

TEST_CASE("a buffer of size 0 may be absent")
{
    const auto f = format_for(ept_features{});
    CHECK(describe(0x1037, 1, f, nullptr, 0) == text_result{0, 21});
    CHECK(describe_fields(0x1037, 1, f, nullptr, 0).written == 0);
}

TEST_CASE("the parts of an entry are its 64 bits, in order, each with the role that the layout has")
{
    for_every_format([](const auto& format) {
        for (unsigned level = 0; level <= max_levels + 1; ++level) {
            for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
                CAPTURE(level);
                CAPTURE(name(k));
                unsigned next = 0;
                for (unsigned low = 0; low < 64;) {
                    const auto part = part_at(low, level, k, format);
                    REQUIRE(part.bits.exists());
                    REQUIRE(part.bits.shift() == low);
                    const layout& l = format->layout_at(level, k);
                    if (part.is == role::none) {
                        CHECK((part.bits.mask() & l.all) == 0);
                    } else {
                        CHECK((part.bits.mask() & ~l.mask(part.is)) == 0);
                    }
                    if (k == kind::none) {  // what no row speaks of is software's, or tells that it is absent
                        if (part.from == nullptr) {
                            CHECK((part.is == role::none || part.is == role::software || part.is == role::fixed));
                        }
                    } else {
                        CHECK((part.from == nullptr) == (part.is == role::none || !format->exists(level, k)));
                    }
                    low += part.bits.width();
                    next = low;
                }
                CHECK(next == 64);
            }
        }
    });
}

TEST_CASE("numbers in text")
{
    const auto text = [](auto write) {
        char buffer[100];
        text_writer out(buffer, sizeof buffer);
        write(out);
        out.end();
        return std::string(buffer);
    };
    CHECK(text([](text_writer& out) { out.decimal(0).put(' ').decimal(7).put(' ').decimal(4096); }) == "0 7 4096");
    CHECK(text([](text_writer& out) { out.hex(0).put(' ').hex(0xffff).put(' ').hex(0x1'0000); }) ==
          "0x0 0xffff 0x1'0000");
    CHECK(text([](text_writer& out) { out.hex(~std::uint64_t{0}); }) == "0xffff'ffff'ffff'ffff");
    CHECK(text([](text_writer& out) { out.number(9).put(' ').number(10); }) == "9 0xa");
    CHECK(text([](text_writer& out) { out.bit_range(bits(63, 0)).put(' ').bit_range(bit(63)); }) == "63:0 63");
    CHECK(text([](text_writer& out) { out.bit_list(0); }) == "");
    CHECK(text([](text_writer& out) { out.bit_list(0x8000'0000'0000'00db); }) == "0,1,3,4,6,7,63");
    CHECK(text([](text_writer& out) { out.bit_list(~std::uint64_t{0}); }) == "0-63");
    CHECK(text([](text_writer& out) { out.bit_list(0x7000'0000'0000'000e); }) == "1-3,60-62");
    CHECK(text([](text_writer& out) { out.page_size(12).put(' ').page_size(21).put(' ').page_size(22); }) ==
          "4K 2M 4M");
    CHECK(text([](text_writer& out) { out.page_size(30).put(' ').page_size(39).put(' ').page_size(63); }) ==
          "1G 512G 8E");
}

TEST_CASE("the memory types of EPT")
{
    const auto type = [](std::uint64_t value) {
        return std::string(ept_fields::meaning(&ept_fields::memory_type, value));
    };
    CHECK(type(0) == "UC");
    CHECK(type(1) == "WC");
    CHECK(type(4) == "WT");
    CHECK(type(5) == "WP");
    CHECK(type(6) == "WB");
    for (const unsigned none : {2U, 3U, 7U, 8U}) CHECK(type(none) == "");
}

TEST_CASE("the PAT index of an ordinary entry")
{
    const auto x = format_for(shadow_features{});
    const auto index = [&](std::uint64_t entry, unsigned level) {
        return pat_index(entry, layout_of(entry, level, x), x->fields());
    };
    for (unsigned n = 0; n < 8; ++n) {
        const std::uint64_t low = 1 | (n & 1) << 3 | (n & 2) << 3;
        CHECK(index(low | (n & 4) << 5, 1) == n);
        CHECK(index(low | (n & 4) << 10 | 0x80, 2) == n);
        CHECK(index(low | 0x1000, 3) == n % 4);  // in an entry to a table bit 12 is address
    }
    CHECK(index(0x81, 2) == 0);    // PS is no PAT
    CHECK(index(0x1001, 1) == 0);  // address
    for (unsigned n = 0; n < 8; ++n)
        CHECK(std::string(pat_type_after_reset(n)) == std::string(pat_type_after_reset(n % 4)));
    CHECK(std::string(pat_type_after_reset(2)) == "UC-");
}

TEST_CASE("every enumerator has a name of its own")
{
    const auto check = [](auto last) {
        using type = decltype(last);
        std::set<std::string> names;
        const auto count = static_cast<unsigned>(last) + 1;
        for (unsigned n = 0; n < count; ++n) {
            CHECK(*name(static_cast<type>(n)) != '\0');
            names.insert(name(static_cast<type>(n)));
        }
        CHECK(names.size() == count);
        CHECK(std::string(name(static_cast<type>(count))) == "unknown");
    };
    check(kind::run);
    check(role::beyond);
    check(static_cast<rule>(rule_count - 1));
    check(defect::no_format);
    check(encode_error::value_not_legal);
    check(absent_error::points_into_memory);
    check(split_error::changed);
    check(tree_end::table_missing);
    check(flush_due::everything);
    check(flush_error::eptp);
    check(flush_scope::everything);
    check(invpcid_type::all_contexts);
    check(invvpid_type::single_context_no_globals);
    check(no_access_error::points_into_memory);
    check(masks_error::execute_both_ways);
    check(marker_error::too_wide);
    check(track_result::changed);
    check(fault_kind::memory_absent);
    check(root_error::reserved_bits);
    check(eptp_error::root);
    check(atp_error::asid);
    check(fence_error::id);
    check(fence_due::all_levels);
    check(riscv_trap_kind::guest_page);
    check(pat_error::reserved_type);
    check(combine_error::entry);
    CHECK(std::string(name(kind::none)) == "absent");
    CHECK(std::string(name(kind::table)) == "table");
    CHECK(std::string(name(kind::leaf)) == "leaf");
    CHECK(std::string(name(kind::run)) == "run");
}

TEST_CASE("streams and std::format")
{
    const auto f = format_for(ept_features{});
    std::ostringstream out;
    out << in_words(0x0600'0012'3456'7333, 1, f) << '\n' << in_words(0, 1, f).fields();
    CHECK(out.str() == "4K leaf 0x12'3456'7000 RW- WB A D sw=57,58\n" + fields_of(0, 1, f));
#ifdef __cpp_lib_format
    CHECK(std::format("{:>25}|", in_words(0x1037, 1, f)) == "    4K leaf 0x1000 RWX WB|");
#endif
}
