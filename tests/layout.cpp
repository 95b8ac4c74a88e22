// SPDX-License-Identifier: BSL-1.0
#include <ptebits/layout.hpp>

#include <ptebits/formats/ept.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

struct tiny_features {
    unsigned physical_bits = 40;
    bool on = true;
    optional_bits claimed = {};
    unsigned memory_bits = 0;
};

struct tiny_fields {
    entry_field mark;
};

using tiny_row = row<tiny_features, tiny_fields>;

// One level of pages. Those below add the rows.
struct tiny {
    using features = tiny_features;
    using fields = tiny_fields;
    static constexpr dimensions shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1); }
};

constexpr tiny_row valid{"V", bit(0), every, is(1)};
constexpr tiny_row address{"", bits(51, 12), every, role::address};
constexpr tiny_row high{"", bits(63, 52), every, role::reserved};

struct sound : tiny {
    static constexpr condition<features> on{"on", &features::on};
    static constexpr tiny_row rows[] = {
        valid,
        {"F", bit(1), every, role::attribute, &fields::mark, on, role::software},
        {"", bits(11, 2), every, role::software},
        address,
        high,
        {"A", &features::claimed, every, role::accessed, role::software},
    };
};

struct overlapping : tiny {
    static constexpr tiny_row rows[] = {valid, {"", bits(13, 1), every, role::software}, address, high};
};

struct gap : tiny {
    static constexpr tiny_row rows[] = {
        valid, {"", bits(6, 1), every, role::software}, {"", bits(11, 9), every, role::software}, address, high};
};

// The row holds only while a feature is on, and nothing stands in its place.
struct gap_when_off : tiny {
    static constexpr condition<features> on{"on", &features::on};
    static constexpr tiny_row rows[] = {valid,
                                        {"F", bit(1), every, role::attribute, &fields::mark, on},
                                        {"", bits(11, 2), every, role::software},
                                        address,
                                        high};
};

struct dirty_twice : tiny {
    static constexpr tiny_row rows[] = {
        valid, {"D", bits(2, 1), every, role::dirty}, {"", bits(11, 3), every, role::software}, address, high};
};

struct accessed_twice : tiny {
    static constexpr tiny_row rows[] = {
        valid, {"A", bits(2, 1), every, role::accessed}, {"", bits(11, 3), every, role::software}, address, high};
};

struct named_twice : tiny {
    static constexpr tiny_row rows[] = {valid,
                                        {"F", bit(1), every, role::attribute, &fields::mark},
                                        {"F", bit(2), every, role::attribute, &fields::mark},
                                        {"", bits(11, 3), every, role::software},
                                        address,
                                        high};
};

// Each level's entries are sound; the accessed bit is not in one place.
struct accessed_moves : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | table_at(2); }
    static constexpr tiny_row rows[] = {valid,
                                        {"A", bit(1), leaf_at(1), role::accessed},
                                        {"", bit(2), leaf_at(1), role::software},
                                        {"", bit(1), table_at(2), role::software},
                                        {"A", bit(2), table_at(2), role::accessed},
                                        {"", bits(11, 3), every, role::software},
                                        address,
                                        high};
};

// Fixed bits may be several, and so they tell kinds apart. Runs of 16 pages.
struct three_kinds : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 2, .run_bits = {4}}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | run_at(1) | leaf_at(2) | table_at(2); }
    static constexpr tiny_row rows[] = {{"T", bits(1, 0), leaf_at(1) | leaf_at(2), is(2)},
                                        {"T", bits(1, 0), run_at(1) | table_at(2), is(3)},
                                        {"", bits(11, 2), every, role::software},
                                        address,
                                        high};
};

// A run tells that it is one by its lowest address bits, as RISC-V's Svnapot has it.
struct run_in_address : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 1, .run_bits = {4}}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | run_at(1); }
    static constexpr tiny_row rows[] = {valid,
                                        {"", bits(11, 1), every, role::software},
                                        {"", bits(15, 12), run_at(1), is(8)},
                                        address,
                                        {"", bits(62, 52), every, role::reserved},
                                        {"N", bit(63), leaf_at(1), is(0)},
                                        {"N", bit(63), run_at(1), is(1)}};
};

// Leaf and table of level 2 have the same value in the same bits.
struct kinds_are_alike : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | leaf_at(2) | table_at(2); }
    static constexpr tiny_row rows[] = {valid, {"", bits(11, 1), every, role::software}, address, high};
};

// Each has a bit of its own, so that an entry with both is of either kind.
struct kinds_overlap : kinds_are_alike {
    static constexpr tiny_row rows[] = {valid,
                                        {"T", bit(1), table_at(2), is(1)},
                                        {"", bit(2), table_at(2), role::software},
                                        {"", bit(1), leaves, role::software},
                                        {"L", bit(2), leaves, is(1)},
                                        {"", bits(11, 3), every, role::software},
                                        address,
                                        high};
};

// Leaves are present by a permission, tables by a fixed bit that is none: which bit tells that an entry is present?
struct present_two_ways : kinds_are_alike {
    static constexpr tiny_row rows[] = {{"R", bit(0), leaf_at(1), role::read},
                                        {"", bit(1), leaf_at(1), role::software},
                                        {"", bit(0), table_at(2), role::software},
                                        {"T", bit(1), table_at(2), is(1)},
                                        {"", bits(11, 2), every, role::software},
                                        address,
                                        high};
    static constexpr entries entries_of(const tiny_features&) { return leaf_at(1) | table_at(2); }
};

// Two rows hold address bits 15:12.
struct address_twice : tiny {
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(3, 1), every, role::software},
        tiny_row{"", bits(7, 4), every, role::address}.holding(12),
        {"", bits(11, 8), every, role::software},
        address,
        high,
    };
};

// Address bits 51:48 and 55:52 in bits 11:8 and 7:4, the others in place: three pieces.
struct three_pieces : tiny {
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(3, 1), every, role::software},
        tiny_row{"", bits(7, 4), every, role::address}.holding(44),
        tiny_row{"", bits(11, 8), every, role::address}.holding(48),
        {"", bits(43, 12), every, role::address},
        {"", bits(63, 44), every, role::reserved},
    };
};

// The same with the lowest bits of an entry, the page's in place.
struct three_from_the_lowest : tiny {
    static constexpr unsigned widest_physical = 56;
    static constexpr tiny_row rows[] = {
        tiny_row{"", bits(3, 0), every, role::address}.holding(48),
        tiny_row{"", bits(7, 4), every, role::address}.holding(52),
        {"V", bit(8), every, is(1)},
        {"", bits(11, 9), every, role::software},
        {"", bits(47, 12), every, role::address},
        {"", bits(63, 48), every, role::reserved},
    };
};

// Two pieces, and neither stands where it weighs: bits 23:12 in 15:4, bits 51:24 in 63:36.
struct two_moved : tiny {
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(3, 1), every, role::software},
        tiny_row{"", bits(15, 4), every, role::address}.holding(12),
        {"", bits(35, 16), every, role::software},
        tiny_row{"", bits(63, 36), every, role::address}.holding(24),
    };
};

// Address bits 51:48 of 64-Kbyte pages stand in bits 15:12, as Arm has it.
struct below_the_page : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 1, .granule = 16}; }
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(11, 1), every, role::software},
        tiny_row{"", bits(15, 12), every, role::address}.holding(48),
        {"", bits(47, 16), every, role::address},
        {"", bits(63, 48), every, role::reserved},
    };
};

// What address bits are below the page and above the physical width is the format's to say.
struct own_rest : tiny {
    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | leaf_at(2) | table_at(2); }
    static constexpr tiny_row rows[] = {
        valid,
        {"L", bit(1), leaves, is(1)},
        {"L", bit(1), tables, is(0)},
        {"", bits(11, 2), every, role::software},
        {"", bits(51, 12), leaf_at(2), address_with(role::software, role::beyond)},
        {"", bits(51, 12), table_at(2), address_with(role::reserved, role::written)},
        {"", bits(51, 12), leaf_at(1), role::address},
        high,
    };
};

// The size of a page stands in its address: 8 Kbytes and up.
struct sized : tiny {
    static constexpr tiny_row rows[] = {
        valid, {"", bits(11, 1), every, role::software}, {"", bits(51, 12), every, address_with_size()}, high};
};

// Bits that software must write, in pages and in absent entries.
struct written_bits : tiny {
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(3, 1), every, writes(5)},
        {"", bits(11, 4), every, role::software},
        {"", bits(6, 5), absent, writes(2)},
        {"", bit(4), absent, writes(0)},
        address,
        high,
    };
};

// Memory ends at a power of two that is a feature; an absent entry's address is its bits 51:12.
struct leaking : tiny {
    static constexpr condition<features> leaks{"L1TF", [](const features& f, unsigned) { return f.memory_bits != 0; }};
    static constexpr unsigned memory_bits(const features& f) { return f.memory_bits; }
    static constexpr tiny_row rows[] = {
        valid,
        {"", bits(11, 1), every, role::software},
        address,
        {"", bits(51, 12), absent, address_with(role::software, role::software), nullptr, leaks, role::software},
        high,
    };
};

// A permission that is denied, and no fixed bit: what grants something is present.
struct denying : tiny {
    static constexpr tiny_row rows[] = {{"R", bit(0), every, role::read, &fields::mark},
                                        {"W", bit(1), every, role::write},
                                        {"NX", bit(2), every, denies(role::execute)},
                                        {"", bits(11, 3), every, role::software},
                                        address,
                                        high};
};

// Not every format is of x86: the widths that it has.
struct narrow_addresses : sound {
    static constexpr unsigned narrowest_physical = 20;
    static constexpr unsigned widest_physical = 36;
};
struct wide_addresses : sound {
    static constexpr unsigned widest_physical = 56;
    static constexpr tiny_row rows[] = {valid,
                                        {"", bits(11, 1), every, role::software},
                                        {"", bits(55, 12), every, role::address},
                                        {"", bits(63, 56), every, role::reserved}};
};

template <class Description>
flaw flaw_of(const tiny_features& features = {})
{
    return runtime_format<Description>(features).wrong();
}

template <class Description>
runtime_format<Description> format_for_tiny(const tiny_features& features)
{
    return runtime_format<Description>(features);
}

}  // namespace

TEST_CASE("optional bits: bit 0 is not none, one bit, and several")
{
    CHECK_FALSE(optional_bits().given);
    CHECK_FALSE(optional_bits().bits().exists());
    CHECK(optional_bits(0).given);
    CHECK(optional_bits(0) != optional_bits());
    CHECK(optional_bits(51).high == 51);
    CHECK(optional_bits(51).low == 51);
    CHECK(optional_bits(51) == optional_bits(51, 51));
    CHECK(optional_bits(51, 46) != optional_bits(51));
    CHECK(optional_bits(51, 46).bits() == bits(51, 46));
    CHECK_FALSE(optional_bits(46, 51).bits().exists());
    CHECK_FALSE(optional_bits(64).bits().exists());
}

TEST_CASE("a row's role follows its condition, and its bits the feature that places them")
{
    const tiny_row& f = sound::rows[1];
    CHECK(f.use_at({.on = true}, 1).is == role::attribute);
    CHECK(f.use_at({.on = false}, 1).is == role::software);
    CHECK(f.in_force({.on = true}, 1));
    CHECK_FALSE(f.in_force({.on = false}, 1));
    CHECK(f.bits_at({}) == bit(1));

    const tiny_row& claim = sound::rows[5];
    CHECK(claim.use_at({}, 1).is == role::none);
    CHECK_FALSE(claim.in_force({}, 1));
    CHECK_FALSE(claim.bits_at({}).exists());
    CHECK(claim.use_at({.claimed = 5}, 1).is == role::accessed);
    CHECK(claim.in_force({.claimed = 5}, 1));
    CHECK(claim.bits_at({.claimed = 5}) == bit(5));
    CHECK(claim.bits_at({.claimed = {7, 5}}) == bits(7, 5));

    const condition<tiny_features> always;
    const condition<tiny_features> upper{"upper levels",
                                         [](const tiny_features&, unsigned level) { return level > 1; }};
    CHECK(always.holds({.on = false}, 1));
    CHECK_FALSE(upper.holds({}, 1));
    CHECK(upper.holds({}, 2));
}

TEST_CASE("the words of rows")
{
    CHECK(is(5).is == role::fixed);
    CHECK(is(5).value == 5);
    CHECK(writes(1).is == role::written);
    CHECK(writes(1).value == 1);
    CHECK(denies(role::write).is == role::write);
    CHECK(denies(role::write).denies);
    CHECK_FALSE(use(role::write).denies);
    CHECK(use(role::address).below == role::reserved);
    CHECK(use(role::address).above == role::reserved);
    CHECK(address_with(role::software, role::beyond).is == role::address);
    CHECK(address_with(role::software, role::beyond).below == role::software);
    CHECK(address_with(role::software, role::beyond).above == role::beyond);
    CHECK(address_with_size().sized);
}

TEST_CASE("address bits that stand elsewhere than they weigh")
{
    const tiny_row moved = address.holding(14);
    CHECK(moved.address_shift == 14);
    CHECK(address.address_shift == 0);

    layout l;
    l.mask(role::address) = ones(31, 22) | ones(20, 13);
    l.pieces[0] = {bits(20, 13), 32};
    l.pieces[1] = {bits(31, 22), 22};
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        const std::uint64_t one = std::uint64_t{1} << index;
        const bool in_place = index >= 22 && index <= 31;
        CHECK(l.address_in(one) == (in_place ? one : index >= 13 && index <= 20 ? one << 19 : 0));
        CHECK(l.address_bits(one) == (in_place ? one : index >= 32 && index <= 39 ? one >> 19 : 0));
    }
    CHECK(l.address_in(~std::uint64_t{0}) == 0xff'ffc0'0000);
    CHECK(l.address_bits(~std::uint64_t{0}) == 0xffdf'e000);
}

TEST_CASE("an address in two pieces that are both moved")
{
    for (const unsigned physical_bits : {32U, 40U, 52U}) {
        CAPTURE(physical_bits);
        const auto format = format_for_tiny<two_moved>({.physical_bits = physical_bits});
        REQUIRE(format->wrong().what == defect::none);
        CHECK(well_formed(format));
        const layout& l = format->layout_at(1, kind::leaf);
        const std::uint64_t held = ones(15, 4) | ones(physical_bits - 24 + 36 - 1, 36);
        CHECK(l.mask(role::address) == held);
        CHECK(l.mask(role::reserved) == (ones(63, 36) & ~held));
        CHECK(l.offset_bits == 12);
        for (unsigned index = 0; index < 64; ++index) {
            CAPTURE(index);
            const std::uint64_t one = std::uint64_t{1} << index;
            const bool lower = index >= 4 && index <= 15;
            const bool upper = index >= 36 && (held & one) != 0;
            CHECK(l.address_in(one) == (lower ? one << 8 : upper ? one >> 12 : 0));
            const encoded e = encode(kind::leaf, 1, one, {}, format);
            CHECK(e.error == (index < 12               ? encode_error::address_misaligned
                              : index >= physical_bits ? encode_error::address_too_wide
                                                       : encode_error::none));
            if (e) CHECK(address_of(e.entry, 1, format) == one);
            if (e) CHECK(e.entry == (1 | (index < 24 ? one >> 8 : one << 12)));
        }
    }
}

TEST_CASE("address bits that stand below the page")
{
    const auto format = format_for_tiny<below_the_page>({.physical_bits = 52});
    REQUIRE(format->wrong().what == defect::none);
    const layout& l = format->layout_at(1, kind::leaf);
    CHECK(l.mask(role::address) == 0x0000'ffff'ffff'f000);
    CHECK(l.offset_bits == 16);
    CHECK(encode(kind::leaf, 1, 0xf'5678'9abc'0000, {}, format).entry == 0x5678'9abc'f001);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, format).error == encode_error::address_misaligned);
    CHECK(address_of(0x5678'9abc'f001, 1, format) == 0xf'5678'9abc'0000);

    // Where the width does not reach them, they are reserved.
    const layout narrow = format_for_tiny<below_the_page>({.physical_bits = 48})->layout_at(1, kind::leaf);
    CHECK(narrow.mask(role::address) == 0x0000'ffff'ffff'0000);
    CHECK(narrow.mask(role::reserved) == 0xffff'0000'0000'f000);
}

TEST_CASE("an entry that the format does not have is all reserved")
{
    CHECK(no_layout(64).all == ~std::uint64_t{0});
    CHECK(no_layout(32).all == 0xffff'ffff);
    for (const unsigned entry_bits : {32U, 64U}) {
        const layout l = no_layout(entry_bits);
        CHECK(l.mask(role::reserved) == l.all);
        for (unsigned r = 0; r < role_count; ++r) {
            if (r != static_cast<unsigned>(role::reserved)) CHECK(l.masks[r] == 0);
        }
        CHECK(l.value == 0);
        CHECK(l.denying == 0);
    }
}

TEST_CASE("rows and features give the layout")
{
    const auto sound_on = format_for_tiny<sound>({.physical_bits = 40});
    CHECK(sound_on.wrong().what == defect::none);
    const layout on = sound_on->layout_at(1, kind::leaf);
    CHECK(on.all == ~std::uint64_t{0});
    CHECK(on.mask(role::fixed) == 0x0000'0000'0000'0001);
    CHECK(on.value == 0x0000'0000'0000'0001);
    CHECK(on.mask(role::attribute) == 0x0000'0000'0000'0002);
    CHECK(on.mask(role::software) == 0x0000'0000'0000'0ffc);
    CHECK(on.mask(role::address) == 0x0000'00ff'ffff'f000);
    CHECK(on.mask(role::reserved) == 0xffff'ff00'0000'0000);
    CHECK(on.mask(role::accessed) == 0);
    CHECK(on.offset_bits == 12);
    CHECK(on.pieces[0] == address_piece{bits(39, 12), 12});
    CHECK_FALSE(on.pieces[1].at.exists());

    const layout off = format_for_tiny<sound>({.on = false, .claimed = 1})->layout_at(1, kind::leaf);
    CHECK(off.mask(role::attribute) == 0);
    CHECK(off.mask(role::accessed) == 0x0000'0000'0000'0002);
    CHECK(off.mask(role::software) == 0x0000'0000'0000'0ffc);

    const auto format = format_for_tiny<sound>({});
    for (const unsigned level : {0U, 2U, 6U, 7U, ~0U}) {
        CHECK(format->layout_at(level, kind::leaf).mask(role::reserved) == ~std::uint64_t{0});
        CHECK_FALSE(format->exists(level, kind::leaf));
    }
}

TEST_CASE("several fixed bits tell three kinds apart, and absent entries from all")
{
    const auto format = format_for_tiny<three_kinds>({});
    REQUIRE(format->wrong().what == defect::none);
    CHECK(well_formed(format));
    constexpr kind by_value_1[] = {kind::none, kind::none, kind::leaf, kind::run};
    constexpr kind by_value_2[] = {kind::none, kind::none, kind::leaf, kind::table};
    for (unsigned value = 0; value < 4; ++value) {
        for (const std::uint64_t others : {std::uint64_t{0}, std::uint64_t{0x1000}, ~std::uint64_t{3}}) {
            CHECK(kind_of(others | value, 1, format) == by_value_1[value]);
            CHECK(kind_of(others | value, 2, format) == by_value_2[value]);
        }
    }
    CHECK(format->present_mask() == 2);
    CHECK(format->layout_at(1, kind::run).value == 3);
    CHECK(format->layout_at(1, kind::leaf).value == 2);
    CHECK(page_shift_of(0x1003, 1, format) == 16);
    CHECK(page_shift_of(0x1002, 1, format) == 12);
    CHECK(diagnose(0x2, 2, format).broken == rule::none);

    // 01 is not present: only bit 1 makes an entry present.
    CHECK(legal(0x1001, 1, format));
    CHECK_FALSE(present(0x1001, format));
}

TEST_CASE("a run that tells what it is by its lowest address bits")
{
    const auto format = format_for_tiny<run_in_address>({});
    REQUIRE(format->wrong().what == defect::none);
    CHECK(well_formed(format));
    constexpr std::uint64_t n = std::uint64_t{1} << 63;
    CHECK(format->layout_at(1, kind::run).mask(role::address) == 0x0000'00ff'ffff'0000);
    CHECK(format->layout_at(1, kind::leaf).mask(role::address) == 0x0000'00ff'ffff'f000);
    CHECK(kind_of(n | 0x1'8001, 1, format) == kind::run);
    CHECK(kind_of(0x1'8001, 1, format) == kind::leaf);
    CHECK(kind_of(n | 0x1'0001, 1, format) == kind::none);
    CHECK(diagnose(n | 0x1'0001, 1, format).broken == rule::no_such_kind);
    CHECK(address_of(n | 0x1'8001, 1, format) == 0x1'0000);
    CHECK(encode(kind::run, 1, 0x1'0000, {}, format).entry == (n | 0x1'8001));
    CHECK(encode(kind::run, 1, 0x1'8000, {}, format).error == encode_error::address_misaligned);
    CHECK(encode(kind::leaf, 1, 0x1'8000, {}, format).entry == 0x1'8001);
}

TEST_CASE("address bits below the page and above the width have the role that the row says")
{
    const auto format = format_for_tiny<own_rest>({.physical_bits = 40});
    REQUIRE(format->wrong().what == defect::none);
    CHECK(well_formed(format));
    const layout& large = format->layout_at(2, kind::leaf);
    CHECK(large.mask(role::address) == 0x0000'00ff'ffe0'0000);
    CHECK(large.mask(role::software) == 0x0000'0000'001f'fffc);
    CHECK(large.mask(role::beyond) == 0x000f'ff00'0000'0000);
    CHECK(large.mask(role::reserved) == 0xfff0'0000'0000'0000);
    const layout& table = format->layout_at(2, kind::table);
    CHECK(table.mask(role::address) == 0x0000'00ff'ffff'f000);
    CHECK(table.mask(role::written) == 0x000f'ff00'0000'0000);
    CHECK((table.value & table.mask(role::written)) == 0);
    const layout& page = format->layout_at(1, kind::leaf);
    CHECK(page.mask(role::reserved) == 0xffff'ff00'0000'0000);

    CHECK(diagnose(0x20'0003, 2, format).broken == rule::none);
    CHECK(diagnose(0x30'0003, 2, format).broken == rule::none);
    CHECK(diagnose(0x100'0020'0003, 2, format) == finding{rule::beyond_the_width, 0x100'0000'0000});
    CHECK(diagnose(0x8000'0100'0020'0003, 2, format).broken == rule::reserved_bits);
    CHECK(diagnose(0x100'0020'0001, 2, format).broken == rule::none);
    CHECK(address_of(0x100'0020'0001, 2, format) == 0x20'0000);
    CHECK(encode(kind::leaf, 2, 0x30'0000, {}, format).error == encode_error::address_misaligned);
}

// AMD's IOMMU codes a size so: 8 Kbytes are an address of zeros in bit 12, 16 Kbytes 01, 32 Kbytes 011.
TEST_CASE("an address that has the size of its page in it")
{
    const auto format = format_for_tiny<sized>({.physical_bits = 52});
    REQUIRE(format->wrong().what == defect::none);
    const layout& l = format->layout_at(1, kind::leaf);
    REQUIRE(l.sized);
    for (unsigned ones_below = 0; ones_below <= 38; ++ones_below) {
        CAPTURE(ones_below);
        const std::uint64_t size_bits = ((std::uint64_t{1} << ones_below) - 1) << 12;
        const unsigned shift = 13 + ones_below;
        CHECK(l.offset_bits_of(size_bits | 1) == shift);
        CHECK(page_shift_of(size_bits | 1, 1, format) == shift);
        CHECK(l.address_in(size_bits | 1) == 0);
        const std::uint64_t page = shift < 52 ? std::uint64_t{1} << shift : 0;
        CHECK(l.address_in(page | size_bits | 1) == page);
        CHECK(address_of(page | size_bits | 1, 1, format) == page);
    }
}

TEST_CASE("bits that software must write: encode does, and absent entries have theirs")
{
    const auto format = format_for_tiny<written_bits>({});
    REQUIRE(format->wrong().what == defect::none);
    const layout& page = format->layout_at(1, kind::leaf);
    CHECK(page.mask(role::written) == 0xe);
    CHECK(page.value == 0xb);
    CHECK(page.mask(role::fixed) == 1);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, format).entry == 0x100b);
    CHECK(legal(0x1001, 1, format));  // the MMU ignores them

    const layout& none = format->layout_at(1, kind::none);
    CHECK(none.mask(role::written) == 0x70);
    CHECK(none.value == 0x40);
    CHECK(none.mask(role::fixed) == 1);
    CHECK(none.mask(role::software) == ~std::uint64_t{0x71});
    CHECK(format->empty() == 0x40);
    CHECK(check_absent(0x40, format) == absent_error::none);
    CHECK(check_absent(0x1234'0040, format) == absent_error::none);
    for (const std::uint64_t wrong : {0x0U, 0x10U, 0x20U, 0x30U, 0x50U, 0x60U, 0x70U}) {
        CAPTURE(wrong);
        CHECK(check_absent(wrong, format) == absent_error::bits_not_written);
        CHECK(check_absent(wrong | 1, format) == absent_error::looks_present);
    }
}

TEST_CASE("a set bit that denies does not make an entry present")
{
    const auto format = format_for_tiny<denying>({});
    REQUIRE(format->wrong().what == defect::none);
    CHECK(format->present_mask() == 3);
    CHECK(format->layout_at(1, kind::leaf).denying == 4);
    CHECK(kind_of(4, 1, format) == kind::none);
    CHECK(kind_of(0x1000, 1, format) == kind::none);
    CHECK(kind_of(1, 1, format) == kind::leaf);
    CHECK(permissions_of(1, 1, format) == permissions{true, false, true, true, true});
    CHECK(permissions_of(5, 1, format) == permissions{true, false, false, true, false});
    CHECK(encode(kind::leaf, 1, 0x1000, {.write = false, .execute = false}, format).entry == 0x1005);
    CHECK(encode(kind::leaf, 1, 0x1000, {.read = false, .write = false}, format).error ==
          encode_error::permission_not_offered);
}

TEST_CASE("absent entries that point into memory, where a CPU leaks what they point to")
{
    for (const unsigned memory_bits : {0U, 13U, 31U, 39U}) {
        CAPTURE(memory_bits);
        const auto format = format_for_tiny<leaking>({.physical_bits = 40, .memory_bits = memory_bits});
        REQUIRE(format->wrong().what == defect::none);
        CHECK(well_formed(format));
        CHECK(format->memory_bits() == memory_bits);
        const layout& none = format->layout_at(1, kind::none);
        CHECK(none.mask(role::address) == (memory_bits != 0 ? 0x0000'00ff'ffff'f000 : 0));
        CHECK(none.mask(role::fixed) == 1);
        CHECK((none.mask(role::address) | none.mask(role::fixed) | none.mask(role::software)) == none.all);
        CHECK(format->empty() == 0);
        for (unsigned index = 1; index < 64; ++index) {
            CAPTURE(index);
            const std::uint64_t one = std::uint64_t{1} << index;
            const bool inside = memory_bits != 0 && index >= 12 && index < memory_bits;
            CHECK(check_absent(one, format) == (inside ? absent_error::points_into_memory : absent_error::none));
            CHECK(check_absent(one | 1, format) == absent_error::looks_present);
            // With an address bit past the memory it is safe; page 0 holds nothing worth hiding.
            const std::uint64_t past = std::uint64_t{1} << 39;
            CHECK(check_absent(one | past, format) == absent_error::none);
        }
        CHECK(check_absent(0, format) == absent_error::none);
        CHECK(check_absent(0xffe, format) == absent_error::none);
    }
    for (const unsigned physical_bits : {32U, 40U, 52U}) {
        for (const unsigned memory_bits : {31U, 32U, 39U, 40U, 51U, 52U, 63U, 64U, ~0U}) {
            const flaw f = flaw_of<leaking>({.physical_bits = physical_bits, .memory_bits = memory_bits});
            CHECK(f.what == (memory_bits < physical_bits ? defect::none : defect::memory_bits));
        }
    }
}

TEST_CASE("a bit claimed by a feature must have the role it is taken from")
{
    for (unsigned index = 0; index <= 70; ++index) {
        for (const bool on : {false, true}) {
            CAPTURE(index);
            CAPTURE(on);
            const auto format = format_for_tiny<sound>({.on = on, .claimed = index});
            const flaw& f = format->wrong();
            const bool free = index >= (on ? 2U : 1U) && index <= 11;
            CHECK(f.what == (free ? defect::none : defect::software_bit_in_use));
            CHECK(f.bits == (free ? 0 : index < 64 ? std::uint64_t{1} << index : ~std::uint64_t{0}));
            CHECK(format->accessed.mask() == (free ? std::uint64_t{1} << index : 0));
            if (free) CHECK(format->layout_at(1, kind::leaf).mask(role::accessed) == std::uint64_t{1} << index);
        }
    }
}

TEST_CASE("flaws of a table of rows are found, with place and bits")
{
    CHECK(flaw_of<sound>().what == defect::none);

    CHECK(flaw_of<overlapping>().what == defect::rows_overlap);
    CHECK(flaw_of<overlapping>().bits == 0x3000);
    CHECK(flaw_of<overlapping>().level == 1);
    CHECK(flaw_of<overlapping>().in == kind::leaf);

    CHECK(flaw_of<gap>().what == defect::bit_without_role);
    CHECK(flaw_of<gap>().bits == 0x180);

    CHECK(flaw_of<gap_when_off>({.on = true}).what == defect::none);
    CHECK(flaw_of<gap_when_off>({.on = false}).what == defect::bit_without_role);
    CHECK(flaw_of<gap_when_off>({.on = false}).bits == 0x2);

    CHECK(flaw_of<dirty_twice>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<dirty_twice>().bits == 0x6);

    CHECK(flaw_of<named_twice>().what == defect::name_in_two_places);
    CHECK(flaw_of<named_twice>().bits == 0x6);

    CHECK(flaw_of<accessed_moves>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<accessed_moves>().bits == 0x6);

    CHECK(flaw_of<kinds_are_alike>().what == defect::kinds_alike);
    CHECK(flaw_of<kinds_are_alike>().level == 2);
    CHECK(flaw_of<kinds_are_alike>().bits == 0x1);
    CHECK(flaw_of<kinds_overlap>().what == defect::kinds_alike);
    CHECK(flaw_of<kinds_overlap>().level == 2);

    CHECK(flaw_of<present_two_ways>().what == defect::kinds_alike);
    CHECK(flaw_of<present_two_ways>().level == 2);
    CHECK(flaw_of<present_two_ways>().in == kind::table);
    CHECK(flaw_of<present_two_ways>().bits == 2);

    CHECK(flaw_of<address_twice>({.physical_bits = 52}).what == defect::rows_overlap);

    CHECK(flaw_of<three_pieces>({.physical_bits = 52}).what == defect::address_in_pieces);
    CHECK(flaw_of<three_pieces>({.physical_bits = 52}).level == 1);
    CHECK(flaw_of<three_pieces>({.physical_bits = 52}).in == kind::leaf);
    CHECK(flaw_of<three_from_the_lowest>({.physical_bits = 56}).what == defect::address_in_pieces);
    const auto two = format_for_tiny<three_from_the_lowest>({.physical_bits = 52});
    CHECK(well_formed(two));
    CHECK(encode(kind::leaf, 1, 0x000f'0000'0000'0000, {}, two).entry == 0x10f);
    CHECK(address_of(0x1ff, 1, two) == 0x000f'0000'0000'0000);
    CHECK(diagnose(0x1ff, 1, two) == finding{rule::reserved_bits, 0xf0});
    // No more than two pieces lie within the width.
    CHECK(flaw_of<three_pieces>({.physical_bits = 48}).what == defect::none);

    CHECK(flaw_of<sound>({.physical_bits = 31}).what == defect::physical_bits);
    CHECK(flaw_of<sound>({.physical_bits = 53}).what == defect::physical_bits);
    CHECK(flaw_of<narrow_addresses>({.physical_bits = 19}).what == defect::physical_bits);
    CHECK(flaw_of<narrow_addresses>({.physical_bits = 20}).what == defect::none);
    CHECK(flaw_of<narrow_addresses>({.physical_bits = 36}).what == defect::none);
    CHECK(flaw_of<narrow_addresses>({.physical_bits = 37}).what == defect::physical_bits);
    CHECK(flaw_of<wide_addresses>({.physical_bits = 56}).what == defect::none);
    CHECK(flaw_of<wide_addresses>({.physical_bits = 57}).what == defect::physical_bits);
}

TEST_CASE("an accessed flag of several bits is not taken for one that software claims")
{
    CHECK(flaw_of<accessed_twice>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<accessed_twice>().bits == 0x6);
    CHECK(format_for(ept_features{.software_accessed = 62})->wrong().what == defect::two_accessed_bits);
    CHECK(format_for(ept_features{.software_accessed = 62})->wrong().bits == 0x4000'0000'0000'0100);
}

TEST_CASE("a layout keeps the first fault that it was told of")
{
    detail::computed_layout l;
    l.note(defect::rows_overlap, 0);
    CHECK(l.wrong == defect::none);
    l.note(defect::rows_overlap, 4);
    l.note(defect::bit_without_role, 8);
    CHECK(l.wrong == defect::rows_overlap);
    CHECK(l.wrong_bits == 4);
}

namespace {

// A description that does not look at its number of levels.
struct any_levels_features {
    unsigned physical_bits = 40;
    unsigned levels = 1;
};
struct any_levels {
    using features = any_levels_features;
    using fields = tiny_fields;
    static constexpr row<features, fields> rows[] = {{"V", bit(0), every, is(1)},
                                                     {"", bits(11, 1), every, role::software},
                                                     {"", bits(51, 12), every, role::address},
                                                     {"", bits(63, 52), every, role::software}};
    static constexpr dimensions shape_of(const features& f) { return {.levels = f.levels}; }
    static constexpr entries entries_of(const features& f) { return leaf_at(1) | tables_up_to(f.levels); }
};

}  // namespace

TEST_CASE("a number of levels that no format can have is a defect, whatever the description says")
{
    for (const unsigned levels : {0U, 1U, 6U, 7U, 200U, ~0U}) {
        CAPTURE(levels);
        const runtime_format<any_levels> f(any_levels_features{.levels = levels});
        const bool possible = levels >= 1 && levels <= max_levels;
        CHECK(f->wrong().what == (possible ? defect::none : defect::levels));
        CHECK(f->shape().levels == (possible ? levels : 0));
    }
}
