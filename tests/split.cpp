// Splitting and merging: what the parts mean together is what the whole meant.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <random>
#include <vector>

using namespace ptebits;

namespace {

template <class Word, class Format>
std::vector<Word> parts_of(std::uint64_t leaf, unsigned level, const Format& format)
{
    std::vector<Word> parts;
    for (unsigned i = 0; i < 1U << format->shape().index_bits_at(level - 1); ++i) {
        const resized part = split(leaf, level, i, format);
        REQUIRE(part);
        parts.push_back(static_cast<Word>(part.entry));
    }
    return parts;
}

// A random legal large leaf: any bits, then the rules mended.
template <class Format>
std::uint64_t random_leaf(unsigned level, const Format& format, std::mt19937_64& random)
{
    const layout& l = format->layout_at(level, kind::leaf);
    for (;;) {
        std::uint64_t entry = random() & l.all & ~l.mask(role::reserved);
        entry = (entry & ~l.mask(role::fixed)) | (l.value & l.mask(role::fixed));
        // Bits that only one size has: another test.
        entry &= ~(l.mask(role::software) & ~format->layout_at(level - 1, kind::leaf).mask(role::software));
        if (present(entry, format) && legal(entry, level, format)) return entry;
    }
}

template <class Word, class Format>
void check(const Format& format)
{
    std::mt19937_64 random(1);
    for (unsigned level = 2; level <= format->shape().levels; ++level) {
        if (!format->exists(level, kind::leaf)) continue;
        const layout& large = format->layout_at(level, kind::leaf);
        const layout& small = format->layout_at(level - 1, kind::leaf);
        for (int n = 0; n < 200; ++n) {
            const std::uint64_t leaf = random_leaf(level, format, random);
            CAPTURE(level);
            CAPTURE(leaf);
            std::vector<Word> parts = parts_of<Word>(leaf, level, format);
            int wrong = 0;
            for (std::size_t i = 0; i < parts.size(); ++i) {
                const std::uint64_t part = parts[i];
                wrong += !present(part, format) || !legal(part, level - 1, format);
                wrong += kind_of(part, level - 1, format) != kind::leaf;
                wrong += address_of(part, level - 1, format) !=
                         address_of(leaf, level, format) + (i << format->shape().page_shift(level - 1));
                wrong += permissions_of(part, level - 1, format) != permissions_of(leaf, level, format);
                wrong += (part & small.mask(role::accessed)) != (leaf & large.mask(role::accessed));
                wrong += (part & small.mask(role::dirty)) != (leaf & large.mask(role::dirty));
                wrong += (part & small.mask(role::software) & large.mask(role::software)) !=
                         (leaf & small.mask(role::software) & large.mask(role::software));
            }
            CHECK(wrong == 0);

            const std::uint64_t upper = encode(kind::table, level, 0, {}, format).entry;
            const resized back = merge(parts.data(), upper, level, format);
            REQUIRE(back);
            CHECK(back.entry == leaf);

            // One dirty part makes the whole dirty, and no other difference is tolerated.
            const std::size_t one = random() % parts.size();
            if (small.mask(role::dirty) != 0) {
                const Word kept = parts[one];
                parts[one] |= static_cast<Word>(small.mask(role::dirty) | small.mask(role::accessed));
                CHECK(merge(parts.data(), upper, level, format).entry ==
                      (leaf | large.mask(role::dirty) | large.mask(role::accessed)));
                parts[one] = kept;
            }
            parts[one] ^= static_cast<Word>(std::uint64_t{1} << format->shape().page_shift(level - 1));
            CHECK(merge(parts.data(), upper, level, format).error == split_error::not_contiguous);
        }
    }
}

constexpr auto host = ept<ept_features{}>;

// As docs/walks.md has it.
template <class Flush>
split_error split_in_two_steps(std::uint64_t& slot, std::uint64_t* table, std::uint64_t table_address, Flush flush)
{
    const auto taken = begin_split(slot, 2, host);  // empty now; taken.before has the last A and D
    if (!taken) return taken.error;
    flush();  // all CPUs: after it none of them has the large page
    return finish_split(slot, taken, 2, table, table_address, host);
}

}  // namespace

TEST_CASE("split and merge give back the leaf: 64-bit formats")
{
    check<std::uint64_t>(shadow<shadow_features{}>);
    check<std::uint64_t>(shadow<shadow_features{.levels = 3}>);
    check<std::uint64_t>(shadow<shadow_features{.physical_bits = 46, .user_keys = true, .encryption_bit = 45}>);
    check<std::uint64_t>(npt<npt_features{.levels = 5}>);
    check<std::uint64_t>(ept<ept_features{}>);
    check<std::uint64_t>(ept<ept_features{.accessed_dirty = false, .suppress_ve = true, .software_accessed = 62}>);
    check<std::uint64_t>(format_for(ept_features{.mode_based_execute = true}));
}

TEST_CASE("two-level paging: a 4-Mbyte page splits where its address fits a 4-Kbyte entry")
{
    check<std::uint32_t>(shadow<shadow_features{.levels = 2, .physical_bits = 32}>);
    constexpr auto pse36 = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    const std::uint64_t high = pse36->address(2, std::uint64_t{1} << 32) | 0x83;
    CHECK(split(high, 2, 0, pse36).error == split_error::bits_would_be_lost);
}

TEST_CASE("PAT is bit 12 of a large page and bit 7 of a small one")
{
    constexpr auto format = shadow<shadow_features{}>;
    CHECK(split(0x20'1083, 2, 0, format).entry == 0x20'0083);
    CHECK(split(0x20'0083, 2, 3, format).entry == 0x20'3003);
    CHECK(split(0x4000'1083, 3, 1, format).entry == 0x4020'1083);  // 1 Gbyte to 2 Mbytes: bit 12 stays
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x20'0083 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).entry == 0x20'1083);
}

TEST_CASE("what cannot be split or merged is told apart")
{
    constexpr auto format = ept<ept_features{}>;
    CHECK(split(0x20'0030, 2, 0, format).error == split_error::not_a_leaf);  // not present
    CHECK(split(0x20'0007, 2, 0, format).error == split_error::not_a_leaf);  // refers to a table
    CHECK(split(0x20'10b7, 2, 0, format).error == split_error::not_a_leaf);  // reserved bit 12
    CHECK(split(0x1037, 1, 0, format).error == split_error::no_such_entry);  // nothing below 4 Kbytes
    constexpr auto no_1g = ept<ept_features{.gigabyte_pages = false}>;
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0xb7 + (i << 21));
    CHECK(merge(parts.data(), 0x7, 3, no_1g).error == split_error::no_such_entry);
    CHECK(merge(parts.data(), 0x7, 3, format).entry == 0xb7);
    parts[511] |= 0x0200'0000'0000'0000;  // a software bit
    CHECK(merge(parts.data(), 0x7, 3, format).error == split_error::entries_differ);

    // Bit 7 of a 4-Kbyte EPT leaf is software's; in a larger one it is PS.
    parts.clear();
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0xb7 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).error == split_error::bits_would_be_lost);
    // The pages start in the middle of a large one.
    parts.clear();
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x1037 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).error == split_error::not_contiguous);
}

TEST_CASE("merge does not lose what the entry above takes away")
{
    constexpr auto format = shadow<shadow_features{}>;
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x20'0007 + (i << 12));
    CHECK(merge(parts.data(), 0x5007, 2, format).entry == 0x20'0087);
    for (const std::uint64_t above : {0x5005ULL, 0x5003ULL, 0x8000'0000'0000'5007ULL}) {
        CHECK(merge(parts.data(), above, 2, format).error == split_error::rights_above);
    }
    CHECK(merge(parts.data(), 0x5006, 2, format).error == split_error::not_a_table);  // not present
    CHECK(merge(parts.data(), 0x87, 2, format).error == split_error::not_a_table);    // a page
    CHECK(merge(parts.data(), 0x0010'0000'0000'5007, 2, shadow<shadow_features{.levels = 3}>).error ==
          split_error::not_a_table);  // reserved bits
    // What the leaves do not grant either is not lost.
    for (std::uint64_t& part : parts) part &= ~std::uint64_t{4};
    CHECK(merge(parts.data(), 0x5003, 2, format).entry == 0x20'0083);
    CHECK(merge(parts.data(), 0x5007, 2, format).entry == 0x20'0083);
    CHECK(merge(parts.data(), 0x5001, 2, format).error == split_error::rights_above);
    for (std::uint64_t& part : parts) CHECK(write_protect(part, format));
    CHECK(merge(parts.data(), 0x5001, 2, format).entry == 0x20'0081);
    CHECK(merge(parts.data(), 0x8000'0000'0000'5001, 2, format).error == split_error::rights_above);
    CHECK(merge(parts.data(), 0x5807, 2, format).entry == 0x20'0081);
    CHECK(merge(parts.data(), 0x5807, 2, shadow<shadow_features{.hlat = true}>).error ==
          split_error::bits_would_be_lost);  // R

    // With GMET an entry above with U/S clear lets the supervisor execute what the leaves deny it.
    constexpr auto gmet = npt<npt_features{.guest_mode_execute_trap = true}>;
    for (std::uint64_t i = 0; i < 512; ++i) parts[i] = 0x20'0007 + (i << 12);
    CHECK(merge(parts.data(), 0x5007, 2, gmet).entry == 0x20'0087);
    CHECK(merge(parts.data(), 0x5003, 2, gmet).error == split_error::rights_above);
}

TEST_CASE("a table that split_live puts in is encrypted, and its entries are as the leaf was")
{
    constexpr auto format = npt<npt_features{.encryption_bit = 47}>;
    std::uint64_t slot = 0x8000'4000'00e7;
    std::uint64_t table[512];
    CHECK(split_live(slot, 2, table, 0x7000, format) == split_error::none);
    CHECK(slot == 0x8000'0000'7027);
    CHECK(table[1] == 0x8000'4000'1067);
    slot = 0x4000'00e7;
    CHECK(split_live(slot, 2, table, 0x7000, format_for(format->features())) == split_error::none);
    CHECK(slot == 0x8000'0000'7027);
    CHECK(table[1] == 0x4000'1067);
    CHECK(merge(table, slot, 2, format).entry == 0x4000'00e7);
    table[511] |= format->encryption.mask();
    CHECK(merge(table, slot, 2, format).error == split_error::entries_differ);

    // A shared bit is part of the address, and still no page next to one that differs in it.
    constexpr auto guest = shadow<shadow_features{.shared_bit = 47}>;
    slot = 0x8000'4000'00e7;
    CHECK(split_live(slot, 2, table, 0x7000, guest) == split_error::none);
    CHECK(slot == 0x7027);
    CHECK(table[1] == 0x8000'4000'1067);
    CHECK(merge(table, slot, 2, guest).entry == 0x8000'4000'00e7);
    table[511] ^= 0x8000'0000'0000;
    CHECK(merge(table, slot, 2, guest).error == split_error::entries_differ);

    // The same with a key identifier.
    constexpr auto keyed = ept<ept_features{.key_id_bits = {51, 46}}>;
    slot = 0x000c'0000'4000'03b7;
    CHECK(split_live(slot, 2, table, 0x7000, keyed, keyed->key_id(5)) == split_error::none);
    CHECK(slot == 0x0001'4000'0000'7107);
    CHECK(table[1] == 0x000c'0000'4000'1337);
    table[511] ^= keyed->key_id(1);
    CHECK(merge(table, slot, 2, keyed).error == split_error::entries_differ);

    slot = 0x20'0087;
    CHECK(split_live(slot, 2, table, 0x7000, format, 0x80) == split_error::no_such_entry);  // PS
    CHECK(slot == 0x20'0087);
}

TEST_CASE("split_live keeps what hardware sets in the leaf meanwhile")
{
    // Sets D once, between the look and the exchange.
    struct interfering : atomic_access<> {
        int* times;
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            if ((*times)++ == 0) set(slot, bit(9) | bit(8));
            return atomic_access<>::compare_exchange(slot, expected, desired);
        }
    };
    constexpr auto format = ept<ept_features{}>;
    std::uint64_t slot = 0x20'00b7;
    std::uint64_t table[512];
    int times = 0;
    CHECK(split_live(slot, 2, table, 0x9000, format, 0, interfering{{}, &times}) == split_error::none);
    CHECK(times == 2);
    CHECK(slot == 0x9107);
    for (std::uint64_t i = 0; i < 512; ++i) CHECK(table[i] == 0x20'0337 + (i << 12));

    CHECK(split_live(slot, 2, table, 0x9000, format) == split_error::not_a_leaf);
    CHECK(slot == 0x9107);
}

TEST_CASE("tracked entries, and entries without access, are split and merged as what they keep")
{
    const auto check = [](std::uint64_t leaf, const auto& absent_of, const auto& by) {
        const auto& format = by.format();
        std::uint64_t parts[512];
        for (unsigned i = 0; i < 512; ++i) {
            parts[i] = absent_of(split(leaf, 2, i, format).entry, 1);
            REQUIRE(check_absent(parts[i] & ~(format->accessed | format->dirty), format) == absent_error::none);
            REQUIRE(split(absent_of(leaf, 2), 2, i, by).entry == parts[i]);
        }
        const std::uint64_t above = encode(kind::table, 2, 0x7000, {}, format).entry;
        CHECK(merge(parts, above, 2, format).error == split_error::not_a_leaf);
        CHECK(merge(parts, above, 2, by).entry == absent_of(leaf, 2));
        CHECK(split(leaf, 2, 0, by).error == split_error::not_a_leaf);
        const std::uint64_t one = parts[9];
        parts[9] = split(leaf, 2, 9, format).entry;
        CHECK(merge(parts, above, 2, by).error == split_error::entries_differ);
        parts[9] = format->empty();
        CHECK(merge(parts, above, 2, by).error == split_error::entries_differ);
        parts[9] = one;
        parts[0] = format->empty();
        CHECK(merge(parts, above, 2, by).error == split_error::not_a_leaf);
    };
    constexpr auto leaky =
        ept<ept_features{.physical_bits = 46, .accessed_dirty = false, .suppress_ve = true, .memory_bits = 45}>;
    const auto tracking = track_accesses<54>(leaky);
    check(0x8000'0123'4560'00b5, [&](std::uint64_t leaf, unsigned) { return tracking.tracked(leaf); }, tracking);
    const auto without = keep_without_access<52>(leaky);
    check(
        0x8000'0123'4560'00b7,
        [&](std::uint64_t leaf, unsigned level) { return take_access(leaf, level, without).entry; }, without);
    const auto guest = keep_without_access<9>(shadow<shadow_features{.physical_bits = 46, .memory_bits = 36}>);
    check(
        0x8000'0003'4560'11e7,
        [&](std::uint64_t leaf, unsigned level) { return take_access(leaf, level, guest).entry; }, guest);
}

TEST_CASE("a live page whose CPU does not tolerate two sizes is not split in one step")
{
    std::uint64_t table[512] = {};
    const auto check = [&](const auto& format, std::uint64_t leaf) {
        std::uint64_t slot = leaf;
        CHECK(split_live(slot, 2, table, 0x9000, format) == split_error::must_be_absent);
        CHECK(slot == leaf);
        CHECK(table[0] == 0);
        CHECK(begin_split(slot, 2, format).error == split_error::none);
    };
    check(shadow<shadow_features{.break_before_resize = true}>, 0x20'00e7);
    check(npt<npt_features{.break_before_resize = true}>, 0x20'00e7);
    check(ept<ept_features{.break_before_resize = true}>, 0x20'00b7);
    check(format_for(npt_features{.break_before_resize = true}), 0x20'00e7);
}

TEST_CASE("break before make: absent between the sizes, A and D are kept")
{
    constexpr auto format = ept<ept_features{.suppress_ve = true}>;
    constexpr std::uint64_t suppress = 0x8000'0000'0000'0000;
    constexpr auto marker = frozen_marker < suppress | 0x10 > (format);
    std::uint64_t slot = suppress | 0x20'00b7;
    std::uint64_t table[512] = {};

    CHECK(begin_merge(slot, 2, format).error == split_error::not_a_table);
    CHECK(begin_split(slot, 1, format).error == split_error::no_such_entry);
    CHECK(slot == (suppress | 0x20'00b7));

    set(slot, 0x300);  // the hardware, before the first step
    auto taken = begin_split(slot, 2, format);
    REQUIRE(taken);
    CHECK(slot == suppress);
    CHECK(taken.before == (suppress | 0x20'03b7));
    CHECK(finish_split(slot, taken, 2, table, 0x9000, format) == split_error::none);
    CHECK(slot == 0x9107);
    for (std::uint64_t i = 0; i < 512; ++i) REQUIRE(table[i] == (suppress | (0x20'0337 + (i << 12))));

    taken = begin_merge(slot, 2, format, marker);
    REQUIRE(taken);
    CHECK(is_frozen(slot, marker));
    clear(table[0], 0x200);
    CHECK(finish_merge(slot, taken, 2, table, format) == split_error::none);
    CHECK(slot == (suppress | 0x20'03b7));

    // What cannot be done leaves the slot as it was.
    taken = begin_split(slot, 2, format, marker);
    REQUIRE(taken);
    CHECK(finish_split(slot, taken, 2, table, 0x9001, format) == split_error::no_such_entry);
    CHECK(slot == (suppress | 0x20'03b7));
    slot = 0x9107;
    table[7] ^= 2;
    taken = begin_merge(slot, 2, format);
    REQUIRE(taken);
    CHECK(finish_merge(slot, taken, 2, table, format) == split_error::entries_differ);
    CHECK(slot == 0x9107);

    // Others put something there meanwhile: it stays.
    taken = begin_merge(slot, 2, format);
    REQUIRE(taken);
    slot = 0xa007;
    CHECK(finish_merge(slot, taken, 2, table, format) == split_error::changed);
    CHECK(slot == 0xa007);

    // The slot is empty while the caller flushes.
    slot = 0x20'00b7;
    const auto flush = [&] { CHECK(slot == host->empty()); };
    CHECK(split_in_two_steps(slot, table, 0x9000, flush) == split_error::none);
    CHECK(slot == 0x9007);
    CHECK(split_in_two_steps(slot, table, 0x9000, flush) == split_error::not_a_leaf);

    // Two-level paging, features known at run time.
    const auto two = format_for(shadow_features{.levels = 2});
    std::uint32_t word = 0x0040'00e7;
    static std::uint32_t small[1024];
    const auto narrow = begin_split(word, 2, two);
    REQUIRE(narrow);
    CHECK(word == 0);
    CHECK(finish_split(word, narrow, 2, small, 0x5000, two) == split_error::none);
    CHECK(word == 0x5027);
    CHECK(small[1023] == 0x007f'f067);
    const auto again = begin_merge(word, 2, two);
    REQUIRE(again);
    CHECK(finish_merge(word, again, 2, small, two) == split_error::none);
    CHECK(word == 0x0040'00e7);
}

TEST_CASE("break before make: what hardware sets until the leaf is absent is kept")
{
    struct interfering : atomic_access<> {
        int* times;
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            if ((*times)++ == 0) set(slot, bit(9) | bit(8));
            return atomic_access<>::compare_exchange(slot, expected, desired);
        }
    };
    constexpr auto format = ept<ept_features{}>;
    std::uint64_t slot = 0x20'00b7;
    int times = 0;
    const auto taken = begin_split(slot, 2, format, interfering{{}, &times});
    REQUIRE(taken);
    CHECK(times == 2);
    CHECK(taken.before == 0x20'03b7);
    CHECK(slot == 0);
}

// What lets a page be written without its write permission goes by W of the entries above, too.
TEST_CASE("merge does not give back writes of another sort that the entry above denies")
{
    const auto check = [](const auto& format, std::uint64_t leaf, std::uint64_t denying, std::uint64_t granting) {
        std::uint64_t parts[512];
        for (unsigned i = 0; i < 512; ++i) parts[i] = leaf + (std::uint64_t{i} << 12);
        CHECK(merge(parts, denying, 2, format).error == split_error::rights_above);
        CHECK(merge(parts, granting, 2, format));
    };
    check(shadow<shadow_features{.shadow_stacks = true}>, 0x4000'0065, 0x9025, 0x9027);
    check(ept<ept_features{.supervisor_shadow_stack = true}>, 0x1000'0000'4000'0135, 0x9105, 0x9107);
    check(ept<ept_features{.paging_write = true}>, 0x0400'0000'4000'0135, 0x9105, 0x9107);
    check(npt<npt_features{.supervisor_shadow_stack = true}>, 0x8000'0000'4000'0025, 0x9025, 0x9027);
    // Without the features the bits say nothing.
    std::uint64_t parts[512];
    for (unsigned i = 0; i < 512; ++i) parts[i] = 0x4000'0065 + (std::uint64_t{i} << 12);
    CHECK(merge(parts, 0x9025, 2, shadow<shadow_features{}>));
}

TEST_CASE("where shadow stacks are, read-only pages of which some are dirty do not merge")
{
    constexpr auto cet = shadow<shadow_features{.shadow_stacks = true}>;
    std::uint64_t parts[512];
    for (unsigned i = 0; i < 512; ++i) parts[i] = 0x4000'0025 + (std::uint64_t{i} << 12);
    CHECK(merge(parts, 0x9027, 2, cet).entry == 0x4000'00a5);
    parts[7] |= 0x40;
    CHECK(merge(parts, 0x9027, 2, cet).error == split_error::entries_differ);
    CHECK(merge(parts, 0x9027, 2, shadow<shadow_features{}>).entry == 0x4000'00e5);
    for (std::uint64_t& part : parts) part |= 2;
    CHECK(merge(parts, 0x9027, 2, cet).entry == 0x4000'00e7);
}

TEST_CASE("A and D that a CPU sets between the steps do not stop a change of size; what others put there does")
{
    constexpr auto format = shadow<shadow_features{}>;
    std::uint64_t table[512];
    for (const std::uint64_t stray : {0x00U, 0x20U, 0x40U, 0x60U}) {
        std::uint64_t slot = 0x4000'00e7;
        const auto taken = begin_split(slot, 2, format);
        REQUIRE(taken);
        slot |= stray;
        CHECK(finish_split(slot, taken, 2, table, 0x9000, format) == split_error::none);
        CHECK(slot == 0x9027);
    }
    std::uint64_t slot = 0x4000'00e7;
    const auto taken = begin_split(slot, 2, format);
    slot = 0x200;
    CHECK(finish_split(slot, taken, 2, table, 0x9000, format) == split_error::changed);
    CHECK(slot == 0x200);
}
