// SPDX-License-Identifier: BSL-1.0
#include <ptebits/entries.hpp>

#include <type_traits>

#include "manual.hpp"

using namespace ptebits;
using manual::constant_expression;

namespace {

constexpr field_values at_leaf_1{0x1000, leaf_at(1)};
constexpr entry_field everywhere{bit(0), every};
constexpr entry_field in_leaves{bits(5, 3), leaves};
constexpr entry_field in_tables{bit(6), tables};
constexpr entry_field large_only{bit(12), leaf_at(2) | leaf_at(3)};
constexpr entry_field lacking;

}  // namespace

TEST_CASE("sets of entries: each level and kind alone, out of range none")
{
    for (unsigned level = 0; level <= 8; ++level) {
        for (const kind k : present_kinds) {
            CAPTURE(level);
            CAPTURE(name(k));
            const entries one(level, k);
            const bool real = level >= 1 && level <= 6;
            CHECK(one.empty() == !real);
            for (unsigned other = 0; other <= 8; ++other) {
                for (const kind j : manual::all_kinds) {
                    CHECK(one.contains(other, j) == (real && other == level && j == k));
                }
            }
            CHECK(every.contains(level, k) == (real && (k != kind::table || level >= 2)));
            CHECK(tables.contains(level, k) == (k == kind::table && level >= 2 && level <= 6));
            CHECK(leaves.contains(level, k) == (k != kind::table && real));
            CHECK(runs.contains(level, k) == (k == kind::run && real));
            CHECK_FALSE(absent.contains(level, k));
        }
    }
    // In a constant expression, so that a shift out of range cannot pass by luck.
    static_assert(entries(0, kind::leaf) == entries{} && entries(7, kind::table) == entries{});
    static_assert(entries(~0U, kind::run) == entries{} && entries(0, kind::table).empty());
    static_assert(max_levels == 6 && entries(6, kind::run) != entries{});
}

TEST_CASE("absent entries are one, whatever the level, and no other set has them")
{
    for (const unsigned level : {0U, 1U, 3U, 6U, 7U, ~0U}) {
        CAPTURE(level);
        CHECK(absent == entries(level, kind::none));
        CHECK(absent.contains(level, kind::none));
        for (const entries& set : {every, tables, leaves, runs, entries{}, leaf_at(1), run_at(6)}) {
            CHECK_FALSE(set.contains(level, kind::none));
        }
    }
    CHECK((absent & every).empty());
}

TEST_CASE("sets of entries by words")
{
    CHECK(tables_up_to(1) == entries{});
    CHECK(tables_up_to(3) == (table_at(2) | table_at(3)));
    CHECK(tables_up_to(6) == tables);
    CHECK(tables_up_to(64) == tables);
    CHECK(leaves_up_to(0) == entries{});
    CHECK(leaves_up_to(2) == (leaf_at(1) | leaf_at(2)));
    CHECK((leaves_up_to(6) | runs) == leaves);
    CHECK((tables | leaves) == every);
    CHECK(entries_from(2, 4, kind::run) == (run_at(2) | run_at(3) | run_at(4)));
    CHECK(entries_from(4, 2, kind::leaf).empty());
    CHECK(table_at(4) == entries(4, kind::table));
    CHECK(leaf_at(4) == entries(4, kind::leaf));
    CHECK(run_at(4) == entries(4, kind::run));
    CHECK((leaf_at(1) | leaf_at(1)) == leaf_at(1));
    CHECK((leaves & tables).empty());
    CHECK((leaves & runs) == runs);
    CHECK((every & leaf_at(3)) == leaf_at(3));
}

TEST_CASE("kinds have names, and those that the MMU uses are all but the absent")
{
    CHECK(std::string(name(kind::none)) == "absent");
    CHECK(std::string(name(kind::table)) == "table");
    CHECK(std::string(name(kind::leaf)) == "leaf");
    CHECK(std::string(name(kind::run)) == "run");
    CHECK(std::size(present_kinds) + 1 == kind_count);
    for (const kind k : present_kinds) CHECK(k != kind::none);
}

TEST_CASE("a field of entries is a field, and its values know where it stands")
{
    CHECK(in_leaves == bits(5, 3));
    CHECK(in_leaves.in() == leaves);
    CHECK(in_leaves.mask() == 0x38);
    CHECK(in_leaves.get(0xff) == 7);
    CHECK(in_leaves.put(0x38, 2) == 0x10);
    CHECK_FALSE(lacking.exists());
    CHECK(lacking.in().empty());

    const field_values six = in_leaves(6);
    CHECK(six == 0x30);
    CHECK(six.in() == leaves);
    const field_values all = in_leaves;
    CHECK(all == 0x38);
    CHECK(all.in() == leaves);
    static_assert(std::is_convertible_v<field_values, std::uint64_t>);
    static_assert(std::is_same_v<decltype(in_leaves | in_leaves(1)), field_values>);
    static_assert(std::is_same_v<decltype(in_leaves | everywhere), field_values>);
    static_assert(std::is_same_v<decltype(at_leaf_1 | everywhere), field_values>);

    CHECK(constant_expression<[] { return in_leaves(7); }>);
    CHECK_FALSE(constant_expression<[] { return in_leaves(8); }>);
    CHECK(constant_expression<[] { return lacking(0); }>);
    CHECK_FALSE(constant_expression<[] { return lacking(1); }>);
}

TEST_CASE("field | field: bits of both, in the entries of both")
{
    CHECK((everywhere | in_leaves) == 0x39);
    CHECK((everywhere | in_leaves).in() == leaves);
    CHECK((in_leaves | everywhere).in() == leaves);
    CHECK((in_leaves(6) | large_only).in() == (leaf_at(2) | leaf_at(3)));
    CHECK((at_leaf_1 | everywhere | in_leaves(6)) == 0x1031);
    CHECK((at_leaf_1 | everywhere | in_leaves(6)).in() == leaf_at(1));
    CHECK((everywhere | at_leaf_1) == 0x1001);
    CHECK((everywhere | at_leaf_1).in() == leaf_at(1));
    CHECK((everywhere | everywhere) == 1);
    CHECK((field_values{} | at_leaf_1) == 0x1000);
    CHECK((field_values{} | at_leaf_1).in() == leaf_at(1));
}

TEST_CASE("field | field: fields that no entry has together do not compile")
{
    CHECK(constant_expression<[] { return at_leaf_1 | in_leaves; }>);
    CHECK_FALSE(constant_expression<[] { return at_leaf_1 | in_tables; }>);
    CHECK_FALSE(constant_expression<[] { return in_tables | at_leaf_1; }>);
    CHECK_FALSE(constant_expression<[] { return at_leaf_1 | large_only; }>);
    CHECK_FALSE(constant_expression<[] { return in_leaves | in_tables; }>);
    CHECK_FALSE(constant_expression<[] { return in_leaves(1) | in_tables(1); }>);
    // Each two fit, all three do not.
    CHECK_FALSE(constant_expression<[] { return everywhere | in_leaves | in_tables; }>);
    CHECK_FALSE(constant_expression<[] { return (everywhere | in_leaves) | (everywhere | in_tables); }>);
    // An address of 0 stands in its entry all the same.
    CHECK_FALSE(constant_expression<[] { return field_values(0, leaf_at(1)) | in_tables; }>);
    CHECK(constant_expression<[] { return field_values(0, leaf_at(1)) | in_leaves; }>);
}

TEST_CASE("field | field: one that the format lacks fits anywhere and changes nothing")
{
    CHECK((at_leaf_1 | lacking) == 0x1000);
    CHECK((at_leaf_1 | lacking).in() == leaf_at(1));
    CHECK((lacking | at_leaf_1) == 0x1000);
    CHECK((lacking | at_leaf_1).in() == leaf_at(1));
    CHECK((in_tables | lacking(0)).in() == tables);
    CHECK((lacking | lacking) == 0);
}
