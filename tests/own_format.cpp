// SPDX-License-Identifier: BSL-1.0
// A format that the library does not know: three levels, the address shifted by two bits as
// RISC-V has it, permissions in leaves only. All of it is written here, as a user would.
#include <ptebits/ageing.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/format.hpp>

#include <utility>

#include "manual.hpp"

using namespace ptebits;

namespace {

struct slim_description;

struct slim_features {
    using description = slim_description;

    unsigned levels = 3;               // 2 or 3
    unsigned physical_bits = 48;       // 32 to 52
    bool hardware_update = true;       // hardware sets A and D, else software may have the bits
    bool memory_types = false;         // bits 63:62 of a leaf
    bool write_only = false;           // W without R is a permission
    optional_bits soft_accessed = {};  // an ignored bit that software keeps
};

struct slim_fields {
    entry_field valid;
    entry_field read;
    entry_field write;
    entry_field execute;
    entry_field user;
    entry_field large;
    entry_field memory_type;
};

struct slim_description {
    using features = slim_features;
    using fields = slim_fields;
    using when = condition<features>;

    static constexpr when update{"hardware A and D", &features::hardware_update};
    static constexpr when types{"memory types", &features::memory_types};
    static constexpr when no_write_only{"no write-only pages",
                                        [](const features& f, unsigned) { return !f.write_only; }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"V",  bit(0),      every,    is(1),           &fields::valid},
        {"",   bits(6, 1),  tables,   role::reserved},
        {"R",  bit(1),      leaves,   role::read,      &fields::read},
        {"W",  bit(2),      leaves,   role::write,     &fields::write},
        {"X",  bit(3),      leaves,   role::execute,   &fields::execute},
        {"U",  bit(4),      leaves,   role::user,      &fields::user},
        {"A",  bit(5),      leaves,   role::accessed,  nullptr, update, role::software},
        {"D",  bit(6),      leaves,   role::dirty,     nullptr, update, role::software},
        {"",   bit(7),      leaf_at(1),                role::software},
        {"L",  bit(7),      leaf_at(2) | leaf_at(3),   is(1), &fields::large},
        {"L",  bit(7),      table_at(2) | table_at(3), is(0), &fields::large},
        {"",   bits(9, 8),  every,    role::software},
        row<features, fields>
        {"",   bits(53, 10), every,   role::address}.holding(12),
        {"",   bits(61, 54), every,   role::reserved},
        {"",   bits(63, 62), tables,  role::software},
        {"MT", bits(63, 62), leaves,  role::memory_type, &fields::memory_type, types, role::reserved},
        {"A",  &features::soft_accessed, leaves, role::accessed, role::software},
    };
    static constexpr ptebits::forbidden<features, fields> forbidden[] = {
        {rule::write_without_read, leaves, &fields::write,       1, &fields::read, no_write_only},
        {rule::memory_type,        leaves, &fields::memory_type, 3},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features& f) { return {.levels = f.levels}; }
    static constexpr entries entries_of(const features& f) { return leaves_up_to(f.levels) | tables_up_to(f.levels); }
    static constexpr defect contradiction(const features& f)
    {
        return f.levels == 2 || f.levels == 3 ? defect::none : defect::levels;
    }
};

template <slim_features Features>
constexpr constant_format<slim_description, Features> slim{};

constexpr auto plain = slim<slim_features{}>;

static_assert(entry_format<decltype(plain)> && constant_masks<decltype(plain)> && well_formed(plain));
static_assert(well_formed(slim<slim_features{.levels = 2, .memory_types = true}>));
static_assert(well_formed(slim<slim_features{.hardware_update = false, .soft_accessed = 8}>));
static_assert(plain->accessed == field_of(0x20) && plain->dirty == field_of(0x40));
static_assert(plain->accessed.in() == leaves_up_to(3) &&
              plain->large.in() == (leaf_at(2) | leaf_at(3) | tables_up_to(3)));
static_assert(plain->read == field_of(0x2) && plain->write == field_of(0x4));
static_assert(slim<slim_features{.memory_types = true}>->memory_type == field_of(0xc000'0000'0000'0000));
static_assert(!plain->memory_type.exists());
static_assert(available(plain, 0x300) && !available(plain, 0x380));

constexpr manual::letter<slim_fields> letters[] = {
    {'V', role::fixed, &slim_fields::valid, every},
    {'R', role::read, &slim_fields::read},
    {'W', role::write, &slim_fields::write},
    {'X', role::execute, &slim_fields::execute},
    {'U', role::user, &slim_fields::user},
    {'L', role::fixed, &slim_fields::large, leaf_at(2) | leaf_at(3)},
    {'M', role::memory_type, &slim_fields::memory_type},
    {'A', role::accessed},
    {'D', role::dirty},
    {'a', role::address, nullptr, {}, false, 2},
    {'.', role::software},
    {'0', role::reserved},
};

// clang-format off
constexpr manual::drawn three_levels[] = {
    {"23", kind::table, "..00 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. L000 000V"},
    {"3",  kind::leaf,  "0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. LDAU XWRV"},
    {"2",  kind::leaf,  "0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. LDAU XWRV"},
    {"1",  kind::leaf,  "0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. .DAU XWRV"},
};

// Drawn for 52 bits of address above, which end at bit 49 of the entry.
constexpr manual::setting<slim_features, 4> settings[] = {
    {"52 address bits", {.physical_bits = 52}, three_levels},
    {"48 address bits", {}, three_levels, {
    {"23", kind::table, "..00 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. L000 000V"},
    {"3",  kind::leaf,  "0000 0000 0000 0000 00aa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. LDAU XWRV"},
    {"2",  kind::leaf,  "0000 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. LDAU XWRV"},
    {"1",  kind::leaf,  "0000 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. .DAU XWRV"}}},
    {"two levels, memory types, A and D off",
        {.levels = 2, .hardware_update = false, .memory_types = true}, three_levels, {
    {"2",  kind::table, "..00 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. L000 000V"},
    {"3",  kind::table, ""},
    {"3",  kind::leaf,  ""},
    {"2",  kind::leaf,  "MM00 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. L..U XWRV"},
    {"1",  kind::leaf,  "MM00 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. ...U XWRV"}}},
    {"a software accessed bit, 32 address bits",
        {.physical_bits = 32, .hardware_update = false, .soft_accessed = 9}, three_levels, {
    {"23", kind::table, "..00 0000 0000 0000 0000 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aa.. L000 000V"},
    {"3",  kind::leaf,  "0000 0000 0000 0000 0000 0000 0000 0000 00aa 0000 0000 0000 0000 00A. L..U XWRV"},
    {"2",  kind::leaf,  "0000 0000 0000 0000 0000 0000 0000 0000 00aa aaaa aaaa a000 0000 00A. L..U XWRV"},
    {"1",  kind::leaf,  "0000 0000 0000 0000 0000 0000 0000 0000 00aa aaaa aaaa aaaa aaaa aaA. ...U XWRV"}}},
};
// clang-format on

/// A format whose large pages have every permission one bit above its place in small ones.
struct moved_description;
struct moved_features {
    using description = moved_description;
    unsigned physical_bits = 48;
};
struct moved_description {
    using features = moved_features;
    struct fields {};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"V",  bit(0),       every,       is(1)},
        {"",   bits(6, 1),   tables,      role::reserved},
        {"R",  bit(1),       leaf_at(1),  role::read},
        {"W",  bit(2),       leaf_at(1),  role::write},
        {"X",  bit(3),       leaf_at(1),  role::execute},
        {"U",  bit(4),       leaf_at(1),  role::user},
        {"XU", bit(5),       leaf_at(1),  role::user_execute},
        {"",   bits(7, 6),   leaf_at(1),  role::software},
        {"",   bit(1),       leaf_at(2),  role::software},
        {"R",  bit(2),       leaf_at(2),  role::read},
        {"W",  bit(3),       leaf_at(2),  role::write},
        {"X",  bit(4),       leaf_at(2),  role::execute},
        {"U",  bit(5),       leaf_at(2),  role::user},
        {"XU", bit(6),       leaf_at(2),  role::user_execute},
        {"L",  bit(7),       leaf_at(2),  is(1)},
        {"L",  bit(7),       table_at(2), is(0)},
        {"",   bits(11, 8),  every,       role::software},
        {"",   bits(51, 12), every,       role::address},
        {"",   bits(63, 52), every,       role::software},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaves_up_to(2) | table_at(2); }
    static constexpr defect contradiction(const features&) { return defect::none; }
};

/// A format whose absent entries must have two bits set: neighbours, or one bit apart.
struct marked_description;
struct marked_features {
    using description = marked_description;
    unsigned physical_bits = 48;
    bool apart = false;
};
struct marked_description {
    using features = marked_features;
    struct fields {};
    static constexpr condition<features> apart{"apart", &features::apart};
    static constexpr condition<features> together{"together", [](const features& f, unsigned) { return !f.apart; }};

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"V",  bit(0),       every,   is(1)},
        {"W",  bit(1),       every,   role::write},
        {"",   bits(11, 2),  every,   role::software},
        {"",   bits(51, 12), every,   role::address},
        {"",   bits(63, 52), every,   role::software},
        {"",   bit(63),      absent,  writes(1)},
        {"",   bit(62),      absent,  writes(1), nullptr, together},
        {"",   bit(61),      absent,  writes(1), nullptr, apart},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1); }
    static constexpr defect contradiction(const features&) { return defect::none; }
};

}  // namespace

TEST_CASE("the layout of a user's format, as an object of constants and at run time")
{
    const auto check = [](auto index) {
        constexpr auto& s = settings[index];
        CAPTURE(s.words);
        const auto found = format_for(s.features);
        REQUIRE(found->wrong().what == defect::none);
        CHECK(manual::difference(found, s, letters) == "");
        CHECK(manual::difference(slim<s.features>, s, letters) == "");
        CHECK(manual::difference_of(found, slim<s.features>) == "");
    };
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        (check(std::integral_constant<std::size_t, Index>{}), ...);
    }(std::make_index_sequence<std::size(settings)>{});
}

TEST_CASE("the address of a user's format stands two bits lower than it weighs")
{
    const auto f = format_for(slim_features{});
    for (unsigned index = 12; index < 48; ++index) {
        CAPTURE(index);
        const std::uint64_t one = std::uint64_t{1} << index;
        CHECK(encode(kind::table, 3, one, {}, f).entry == (one >> 2 | 0x1));
        CHECK(encode(kind::leaf, 1, one, {}, f).entry == (one >> 2 | 0x1f));
        CHECK(address_of(one >> 2 | 0x1, 1, f) == one);
        CHECK(address_of(one >> 2, 1, f) == 0);
        if (index >= 21) CHECK(encode(kind::leaf, 2, one, {}, f).entry == (one >> 2 | 0x9f));
        if (index < 21) CHECK(encode(kind::leaf, 2, one, {}, f).error == encode_error::address_misaligned);
        if (index >= 30) CHECK(encode(kind::leaf, 3, one, {}, f).entry == (one >> 2 | 0x9f));
        if (index < 30) CHECK(encode(kind::leaf, 3, one, {}, f).error == encode_error::address_misaligned);
    }
    CHECK(encode(kind::leaf, 1, std::uint64_t{1} << 48, {}, f).error == encode_error::address_too_wide);
    CHECK(encode(kind::leaf, 1, 0x800, {}, f).error == encode_error::address_misaligned);
    CHECK(address_of(~std::uint64_t{0}, 1, f) == 0x0000'ffff'ffff'f000);
    CHECK(address_of(~std::uint64_t{0}, 2, f) == 0x0000'ffff'ffe0'0000);
    CHECK(address_of(~std::uint64_t{0}, 3, f) == 0x0000'ffff'c000'0000);
    CHECK(address_of(~std::uint64_t{0x80}, 3, f) == 0x0000'ffff'ffff'f000);
    CHECK(plain->address(1, 0x1234'5678'9000) == 0x048d'159e'2400);
}

TEST_CASE("questions and edits on entries of a user's format")
{
    for (unsigned n = 0; n < 16; ++n) {
        const permissions p{(n & 1) != 0, (n & 2) != 0, (n & 4) != 0, (n & 8) != 0, false};
        CAPTURE(n);
        for (const bool write_only : {false, true}) {
            const auto f = format_for(slim_features{.write_only = write_only});
            const encoded e = encode(kind::leaf, 1, 0x1000, p, f);
            if (p.write && !p.read && !write_only) {
                CHECK(e.error == encode_error::permission_not_offered);
                continue;
            }
            CHECK(e.error == encode_error::none);
            CHECK(e.entry == (0x401 | n << 1));
            CHECK(permissions_of(e.entry, 1, f) ==
                  permissions{p.read, p.write, p.execute, p.user, p.execute && p.user});
        }
    }
    const auto f = format_for(slim_features{.physical_bits = 40, .memory_types = true});
    CHECK(permissions_of(0x401, 2, f) == permissions{});  // a table's entry has no permissions of its own
    CHECK(encode(kind::table, 2, 0x1000, {.write = false}, f).error == encode_error::permission_not_offered);
    CHECK(present(0x401, f));
    CHECK_FALSE(present(~std::uint64_t{1}, f));
    CHECK(young(0x20, f));
    CHECK_FALSE(young(~std::uint64_t{0x20}, f));
    CHECK(dirty(0x40, plain));
    CHECK(kind_of(0x81, 2, f) == kind::leaf);
    CHECK(kind_of(0x80, 2, f) == kind::none);
    CHECK(kind_of(0x00, 1, f) == kind::none);
    CHECK(kind_of(0x01, 2, f) == kind::table);

    CHECK(legal(0x403, 1, f));
    CHECK(diagnose(0x405, 1, f) == finding{rule::write_without_read, 0x6});
    CHECK(diagnose(0xc000'0000'0000'0403, 1, f) == finding{rule::memory_type, 0xc000'0000'0000'0000});
    CHECK(legal(0x8000'0000'0000'0403, 1, f));
    CHECK(legal(0xc000'0000'0000'0401, 2, f));  // not in an entry that refers to a table
    CHECK(diagnose(0x403, 2, f) == finding{rule::reserved_bits, 0x2});
    CHECK(diagnose(0x1'0000'0000'0401 << 5, 1, f) == finding{});  // V is clear
    CHECK(diagnose(0x20'0000'0000'0401, 1, f) == finding{rule::reserved_bits, 0x20'0000'0000'0000});
    CHECK(diagnose(0x401, 4, f) == finding{rule::no_such_level, 0x401});

    CHECK(encode(kind::leaf, 1, 0x1000, {}, f, f->memory_type(2)).entry == 0x8000'0000'0000'041f);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, f, f->memory_type(3)).error == encode_error::value_not_legal);
    CHECK(encode(kind::table, 2, 0x1000, {}, f, f->memory_type(2)).error == encode_error::no_such_field);
    const std::uint64_t whole = f->address(2, 0x20'0000) | f->valid | f->large | f->read | f->memory_type(1);
    CHECK(whole == 0x4000'0000'0008'0083);
}

TEST_CASE("permissions may stand elsewhere at each level of a user's format")
{
    constexpr constant_format<moved_description, moved_features{}> moved;
    const auto found = format_for(moved_features{});
    REQUIRE(well_formed(found));
    for (unsigned n = 0; n < 32; ++n) {
        CAPTURE(n);
        const permissions p{(n & 1) != 0, (n & 2) != 0, (n & 4) != 0, (n & 8) != 0, (n & 16) != 0};
        CHECK(encode(kind::leaf, 1, 0x20'0000, p, moved).entry == (0x20'0001 | n << 1));
        CHECK(encode(kind::leaf, 2, 0x20'0000, p, moved).entry == (0x20'0081 | n << 2));
        CHECK(encode(kind::leaf, 1, 0x20'0000, p, found).entry == (0x20'0001 | n << 1));
        CHECK(encode(kind::leaf, 2, 0x20'0000, p, found).entry == (0x20'0081 | n << 2));
        CHECK(permissions_of(0x20'0001 | n << 1, 1, moved) == p);
        CHECK(permissions_of(0x20'0081 | n << 2, 2, moved) == p);
    }
}

TEST_CASE("a user's format whose absent entries must have bits set: tracked where these are neighbours")
{
    using tracking = access_tracking<runtime_format<marked_description>, 52>;
    const auto together = format_for(marked_features{});
    const auto apart = format_for(marked_features{.apart = true});
    REQUIRE(together->wrong().what == defect::none);
    REQUIRE(apart->wrong().what == defect::none);
    CHECK(together->empty() == 0xc000'0000'0000'0000);
    CHECK(apart->empty() == 0xa000'0000'0000'0000);
    CHECK(tracking::free_in(together));
    CHECK_FALSE(tracking::free_in(apart));
    // V goes to bit 52, a write that may have been to bit 53, what bits 63:62 were to bits 55:54.
    std::uint64_t slot = 0x4000'0000'0000'1003;
    CHECK(age(slot, track_accesses<52>(together)));
    CHECK(slot == 0xc070'0000'0000'1000);
    CHECK(restore(slot, track_accesses<52>(together)));
    CHECK(slot == 0x4020'0000'0000'1001);
}

TEST_CASE("the library checks a user's features as its own")
{
    CHECK(format_for(slim_features{.levels = 4})->wrong().what == defect::levels);
    CHECK(format_for(slim_features{.physical_bits = 53})->wrong().what == defect::physical_bits);
    CHECK(format_for(slim_features{.soft_accessed = 8})->wrong().what == defect::two_accessed_bits);
    for (unsigned index = 0; index <= 64; ++index) {
        CAPTURE(index);
        const auto f = format_for(slim_features{.hardware_update = false, .soft_accessed = index});
        const bool free = index == 5 || index == 6 || index == 8 || index == 9;
        CHECK(f->wrong().what == (free ? defect::none : defect::software_bit_in_use));
        CHECK(find_flaw(f).what == f->wrong().what);
        CHECK(f->accessed.mask() == (free ? std::uint64_t{1} << index : 0));
    }
}
