// SPDX-License-Identifier: BSL-1.0
#include <ptebits/layout.hpp>

#include <ptebits/ept.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

struct tiny_features {
    unsigned physical_bits = 40;
    bool on = true;
    optional_bit claimed = {};
};

struct tiny_fields {
    field mark;
};

using tiny_row = row<tiny_features, tiny_fields>;

// One level of pages. Those below add the rows.
struct tiny {
    using features = tiny_features;
    using fields = tiny_fields;
    static constexpr shape shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf(1); }
};

constexpr tiny_row valid{"V", bit(0), every, role::present};
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

struct page_size_twice : tiny {
    static constexpr tiny_row rows[] = {
        valid, {"PS", bits(2, 1), every, role::page_size}, {"", bits(11, 3), every, role::software}, address, high};
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
    static constexpr shape shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf(1) | table(2); }
    static constexpr tiny_row rows[] = {valid,
                                        {"A", bit(1), leaf(1), role::accessed},
                                        {"", bit(2), leaf(1), role::software},
                                        {"", bit(1), table(2), role::software},
                                        {"A", bit(2), table(2), role::accessed},
                                        {"", bits(11, 3), every, role::software},
                                        address,
                                        high};
};

template <class Description>
flaw flaw_of(const tiny_features& features = {})
{
    return runtime_format<Description>(features).wrong();
}

}  // namespace

TEST_CASE("sets of entries: each level and kind alone, out of range none")
{
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            const entries one(level, k);
            const bool real = level >= 1 && level <= 5;
            for (unsigned other = 0; other <= 7; ++other) {
                for (const kind j : {kind::table, kind::leaf}) {
                    CHECK(one.contains(other, j) == (real && other == level && j == k));
                }
            }
            CHECK(every.contains(level, k) == (real && (k == kind::leaf || level >= 2)));
            CHECK(tables.contains(level, k) == (k == kind::table && level >= 2 && level <= 5));
            CHECK(leaves.contains(level, k) == (k == kind::leaf && real));
        }
    }
    // In a constant expression, so that a shift out of range cannot pass by luck.
    static_assert(entries(0, kind::leaf) == entries{} && entries(6, kind::table) == entries{});
    CHECK(tables_up_to(1) == entries{});
    CHECK(tables_up_to(3) == (table(2) | table(3)));
    CHECK(table(4) == entries(4, kind::table));
    CHECK(leaf(4) == entries(4, kind::leaf));
    CHECK((leaf(1) | leaf(1)) == leaf(1));
}

TEST_CASE("an optional bit 0 is not an absent one")
{
    CHECK_FALSE(optional_bit().given);
    CHECK(optional_bit(0).given);
    CHECK(optional_bit(0) != optional_bit());
    CHECK(optional_bit(51).index == 51);
}

TEST_CASE("a row's role follows its condition, and its bits the feature that places them")
{
    const tiny_row& f = sound::rows[1];
    CHECK(f.role_at({.on = true}, 1) == role::attribute);
    CHECK(f.role_at({.on = false}, 1) == role::software);
    CHECK(f.bits_at({}) == bit(1));

    const tiny_row& claim = sound::rows[5];
    CHECK(claim.role_at({}, 1) == role::none);
    CHECK_FALSE(claim.bits_at({}).exists());
    CHECK(claim.role_at({.claimed = 5}, 1) == role::accessed);
    CHECK(claim.bits_at({.claimed = 5}) == bit(5));

    const condition<tiny_features> always;
    const condition<tiny_features> upper{"upper levels",
                                         [](const tiny_features&, unsigned level) { return level > 1; }};
    CHECK(always.holds({.on = false}, 1));
    CHECK_FALSE(upper.holds({}, 1));
    CHECK(upper.holds({}, 2));
}

TEST_CASE("address bits that stand elsewhere than they weigh")
{
    const tiny_row moved = address.holding(14);
    CHECK(moved.address_shift == 14);
    CHECK(address.address_shift == 0);

    layout l;
    l.mask(role::address) = ones(31, 22) | ones(20, 13);
    l.moved_address = bits(20, 13);
    l.moved_to = 32;
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

TEST_CASE("an absent entry is all reserved")
{
    CHECK(absent_layout(64).all == ~std::uint64_t{0});
    CHECK(absent_layout(32).all == 0xffff'ffff);
    for (const unsigned entry_bits : {32U, 64U}) {
        const layout l = absent_layout(entry_bits);
        CHECK(l.mask(role::reserved) == l.all);
        for (unsigned r = 0; r < static_cast<unsigned>(role::reserved); ++r) CHECK(l.masks[r] == 0);
    }
}

TEST_CASE("rows and features give the layout")
{
    const layout on = compute_layout<sound>({.physical_bits = 40}, 1, kind::leaf);
    CHECK(on.wrong == defect::none);
    CHECK(on.all == ~std::uint64_t{0});
    CHECK(on.mask(role::present) == 0x0000'0000'0000'0001);
    CHECK(on.mask(role::attribute) == 0x0000'0000'0000'0002);
    CHECK(on.mask(role::software) == 0x0000'0000'0000'0ffc);
    CHECK(on.mask(role::address) == 0x0000'00ff'ffff'f000);
    CHECK(on.mask(role::reserved) == 0xffff'ff00'0000'0000);
    CHECK(on.mask(role::accessed) == 0);

    const layout off = compute_layout<sound>({.on = false, .claimed = 1}, 1, kind::leaf);
    CHECK(off.mask(role::attribute) == 0);
    CHECK(off.mask(role::accessed) == 0x0000'0000'0000'0002);
    CHECK(off.mask(role::software) == 0x0000'0000'0000'0ffc);

    for (const unsigned level : {0U, 2U, 6U}) {
        CHECK(compute_layout<sound>({}, level, kind::leaf).mask(role::reserved) == ~std::uint64_t{0});
    }
}

TEST_CASE("a bit claimed by a feature must have the role it is taken from")
{
    for (unsigned index = 0; index <= 70; ++index) {
        for (const bool on : {false, true}) {
            CAPTURE(index);
            CAPTURE(on);
            const layout l = compute_layout<sound>({.on = on, .claimed = index}, 1, kind::leaf);
            const bool free = index >= (on ? 2U : 1U) && index <= 11;
            CHECK(l.wrong == (free ? defect::none : defect::software_bit_in_use));
            CHECK(l.wrong_bits == (free ? 0 : index < 64 ? std::uint64_t{1} << index : ~std::uint64_t{0}));
            CHECK(l.mask(role::accessed) == (free ? std::uint64_t{1} << index : 0));
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
    CHECK(flaw_of<page_size_twice>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<page_size_twice>().bits == 0x6);

    CHECK(flaw_of<named_twice>().what == defect::name_in_two_places);
    CHECK(flaw_of<named_twice>().bits == 0x6);

    CHECK(flaw_of<accessed_moves>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<accessed_moves>().bits == 0x6);

    CHECK(flaw_of<sound>({.physical_bits = 31}).what == defect::physical_bits);
    CHECK(flaw_of<sound>({.physical_bits = 53}).what == defect::physical_bits);
}

TEST_CASE("an accessed flag of several bits is not taken for one that software claims")
{
    CHECK(flaw_of<accessed_twice>().what == defect::flag_of_several_bits);
    CHECK(flaw_of<accessed_twice>().bits == 0x6);
    CHECK(format_for(ept_features{.software_accessed = 62}).wrong().what == defect::two_accessed_bits);
    CHECK(format_for(ept_features{.software_accessed = 62}).wrong().bits == 0x4000'0000'0000'0100);
}

TEST_CASE("a layout keeps the first fault that it was told of")
{
    layout l;
    l.note(defect::rows_overlap, 0);
    CHECK(l.wrong == defect::none);
    l.note(defect::rows_overlap, 4);
    l.note(defect::bit_without_role, 8);
    CHECK(l.wrong == defect::rows_overlap);
    CHECK(l.wrong_bits == 4);
}

TEST_CASE("shape: page sizes, indices and translated bits")
{
    constexpr shape narrow{.levels = 2, .entry_bits = 32, .index_bits = 10, .top_index_bits = 10};
    constexpr shape uneven{.levels = 3, .index_bits = 9, .top_index_bits = 2};
    CHECK(narrow.page_shift(1) == 12);
    CHECK(narrow.page_shift(2) == 22);
    CHECK(narrow.address_bits() == 32);
    CHECK(uneven.page_shift(3) == 30);
    CHECK(uneven.page_shift(4) == 39);
    CHECK(uneven.index_bits_at(2) == 9);
    CHECK(uneven.index_bits_at(3) == 2);
    CHECK(uneven.address_bits() == 32);
    CHECK(shape{}.address_bits() == 48);
}
