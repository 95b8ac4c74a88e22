// Whole tables and address ranges against models written out here: all formats, constant
// and run-time, every access policy, aligned and not; and with a hardware thread.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ptebits/ptebits.hpp>

#include "leaf_model.hpp"
#include "stages.hpp"

using namespace ptebits;
using namespace leaf_model;

namespace {

template <class Format>
using word_of = std::conditional_t < Format
{
} -> shape().entry_bits == 32, std::uint32_t, std::uint64_t > ;

// Masks have no rules: an entry is a page if it has any of these bits.
template <std::uint64_t Present>
constexpr bool any_of(std::uint64_t entry)
{
    return (entry & Present) != 0;
}

std::mt19937_64 randomness{20'090'617};  // a fixed seed: the same tables on every run

// An access policy that the library knows nothing of.
struct policy_of_ones_own : plain_access {};

// Tables by how many of their bits are set: none, few, half, most, all; and whole lines
// of either, so that clean blocks, full blocks and lone pairs all occur.
template <class Word, std::size_t Slots>
void fill(Word (&table)[Slots], unsigned density, std::uint64_t interesting)
{
    for (std::size_t i = 0; i < Slots; ++i) {
        std::uint64_t entry = randomness();
        const std::uint64_t low = randomness();
        switch (density) {
        case 0:
            entry &= ~interesting;
            break;
        case 1:
            if (low % 50 != 0) entry &= ~interesting;
            break;
        case 2:
            break;
        case 3:
            if (low % 50 != 0) entry |= interesting;
            break;
        case 4:
            entry |= interesting;
            break;
        default:
            entry = i / 8 % 3 == 0 ? entry | interesting : i / 64 % 2 == 0 ? entry & ~interesting : entry;
            break;
        }
        table[i] = static_cast<Word>(entry);
    }
}

// One operation that clears a flag where it is set in an entry that translates, on tables of every
// density, whole and masked, against the model. `present`: bits that make an entry translate, mostly.
// `run(table, access)` or `run(table, look_at, access)` is the operation.
template <class Word, std::size_t Slots, class Translates, class Access, class Run>
void check(std::uint64_t present, Translates translates, std::uint64_t flag, bool clears, Access access, Run run)
{
    alignas(4096) static Word table[Slots];
    alignas(4096) static Word before[Slots];
    int wrong = 0;
    for (unsigned round = 0; round < 60; ++round) {
        fill(before, round % 6, round % 4 == 3 ? flag : present | flag);
        slot_bitmap<Slots> look_at;
        for (std::size_t n = 0; n < look_at.word_count; ++n) {
            // Some blocks whole, some in part, some left out.
            const std::uint64_t bits = n % 3 == 0 ? ~std::uint64_t{0} : n % 3 == 1 ? randomness() : 0;
            look_at.set_word(n, bits & slot_bitmap<Slots>::all().word(n));
        }
        for (const bool masked : {false, true}) {
            std::copy(before, before + Slots, table);
            const auto done = masked ? run(table, look_at, access) : run(table, access);
            std::size_t expected_count = 0;
            for (std::size_t i = 0; i < Slots; ++i) {
                const bool is = (!masked || look_at.test(i)) && translates(before[i]) && (before[i] & flag) != 0;
                const Word after = is && clears ? static_cast<Word>(before[i] & ~flag) : before[i];
                expected_count += is;
                wrong += done.test(i) != is || table[i] != after;
            }
            wrong += done.count() != expected_count || done.any() != (expected_count != 0);
        }
    }
    CHECK(wrong == 0);
}

template <std::size_t Slots, class Word, class By, class Access>
void check_all(const By& by, const flags& is, Access access)
{
    check<Word, Slots>(is.present, is.translates, is.accessed, true, access,
                       [&](auto& table, auto... how) { return age_table(table, by, how...); });
    check<Word, Slots>(is.present, is.translates, is.accessed, false, access,
                       [&](auto& table, auto... how) { return young_in(std::as_const(table), by, how...); });
    if constexpr (entry_format<By>) {
        check<Word, Slots>(is.present, is.translates, is.dirty != 0 ? is.dirty : is.write, true, access,
                           [&](auto& table, auto... how) { return harvest_dirty(table, by, how...); });
        check<Word, Slots>(is.present, is.translates, is.write, true, access,
                           [&](auto& table, auto... how) { return write_protect_table(table, by, how...); });
    }
}

}  // namespace

TEST_CASE_TEMPLATE("tables of every format do what their model does", Format, type_of<ept_ad>, type_of<ept_soft_8>,
                   type_of<ept_46>, type_of<ept_soft_63>, type_of<ept_mbe>, type_of<ept_five>, type_of<npt_long>,
                   type_of<shadow_long>, type_of<shadow_46>, type_of<shadow_five>, type_of<shadow_pae>,
                   type_of<shadow_two>)
{
    using word = word_of<Format>;
    constexpr std::size_t slots = sizeof(word) == 4 ? 1024 : 512;
    constexpr flags is = flags_of<Format>;
    check_all<slots, word>(Format{}, is, atomic_access<>{});
    check_all<slots, word>(format_for(Format {} -> features()), is, atomic_access<>{});
}

TEST_CASE("tables by every access policy")
{
    check_all<512, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<order::relaxed>{});
    check_all<512, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<order::seq_cst>{});
    check_all<512, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, plain_access{});
    check_all<512, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, policy_of_ones_own{});
}

TEST_CASE("tables of odd sizes: the top of PAE, and some that no format has")
{
    check_all<4, std::uint64_t>(shadow_pae, flags_of<type_of<shadow_pae>>, atomic_access<>{});
    check_all<1, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<>{});
    check_all<63, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<>{});
    check_all<65, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<>{});
    check_all<128, std::uint64_t>(ept_ad, flags_of<type_of<ept_ad>>, atomic_access<>{});
}

TEST_CASE("tables by masks known at run time, the accessed and the dirty bit at every place")
{
    for (unsigned shift = 3; shift < 64; ++shift) {
        const std::uint64_t flag = std::uint64_t{1} << shift;
        const masks by_accessed = masks::from({.present = 0x7, .accessed = flag});
        check<std::uint64_t, 512>(0x7, any_of<0x7>, flag, true, atomic_access<>{},
                                  [&](auto& table, auto... how) { return age_table(table, by_accessed, how...); });
        check<std::uint64_t, 512>(0x7, any_of<0x7>, flag, false, atomic_access<>{}, [&](auto& table, auto... how) {
            return young_in(std::as_const(table), by_accessed, how...);
        });
        const masks by_dirty = masks::from({.present = 0x7, .dirty = flag});
        check<std::uint64_t, 512>(0x7, any_of<0x7>, flag, true, atomic_access<>{},
                                  [&](auto& table, auto... how) { return harvest_dirty(table, by_dirty, how...); });
    }
}

TEST_CASE("a present mask of bits in both halves of an entry, and 4-byte slots by masks")
{
    constexpr std::uint64_t present_mask = 0x4000'0000'0000'0800;
    const masks m = masks::from({.present = present_mask, .accessed = 0x20});
    check<std::uint64_t, 512>(present_mask, any_of<present_mask>, 0x20, true, atomic_access<>{},
                              [&](auto& table, auto... how) { return age_table(table, m, how...); });
    const masks narrow = masks::from({.present = 0x1, .accessed = 0x20});
    check<std::uint32_t, 1024>(0x1, any_of<0x1>, 0x20, true, atomic_access<>{},
                               [&](auto& table, auto... how) { return age_table(table, narrow, how...); });
}

TEST_CASE("byte-swapped tables")
{
    using access = swapped_access<>;
    alignas(4096) static std::uint64_t table[512];
    for (unsigned i = 0; i < 512; ++i) {
        std::uint64_t slot = 0;
        store(slot, 0x1007 | (i % 3 == 0 ? 0x100 : 0) | std::uint64_t{i} << 12, access{});
        table[i] = slot;
    }
    const auto done = age_table(table, ept_ad, access{});
    for (unsigned i = 0; i < 512; ++i) {
        CHECK(done.test(i) == (i % 3 == 0));
        CHECK(load(table[i], access{}) == (0x1007 | std::uint64_t{i} << 12));
    }
}

TEST_CASE("tables that are not aligned, and slots next to a table, which stay as they are")
{
    alignas(64) static std::uint64_t memory[512 + 16];
    for (std::size_t offset = 0; offset < 16; ++offset) {
        std::fill(std::begin(memory), std::end(memory), 0x1107);
        auto& table = reinterpret_cast<std::uint64_t(&)[512]>(memory[offset]);
        CHECK(young_in(table, ept_ad) == slot_bitmap<512>::all());
        CHECK(age_table(table, ept_ad) == slot_bitmap<512>::all());
        for (std::size_t i = 0; i < std::size(memory); ++i) {
            CHECK(memory[i] == (i >= offset && i < offset + 512 ? 0x1007 : 0x1107));
        }
    }
}

TEST_CASE("a frozen entry whose marker looks accessed is neither reported nor changed")
{
    alignas(4096) static std::uint64_t table[512];
    std::fill(std::begin(table), std::end(table), 0x8000'0000'0000'05a0);
    table[100] = table[101] = 0x1107;
    table[102] = 0x1107;
    slot_bitmap<512> expected;
    for (std::size_t i = 100; i < 103; ++i) expected.set(i);
    CHECK(young_in(table, ept_ad) == expected);
    CHECK(age_table(table, ept_ad) == expected);
    for (std::size_t i = 0; i < 512; ++i) CHECK(table[i] == (expected.test(i) ? 0x1007 : 0x8000'0000'0000'05a0));
}

TEST_CASE("entries that break a rule between pages: neither reported nor changed, wherever they stand")
{
    constexpr std::uint64_t device = 0xfee0'0306;          // W without R
    constexpr std::uint64_t past = 0x0008'0000'fee0'0337;  // an address past the width
    alignas(4096) static std::uint64_t table[512];
    const auto check = [](const auto& format) {
        for (std::size_t step = 1; step < 8; ++step) {
            for (const std::uint64_t broken : {device, past}) {
                // First in its block, first or second of a pair, and all of a block.
                for (std::size_t i = 0; i < 512; ++i) table[i] = i % step == 0 || i / 64 == 3 ? broken : 0x1337;
                const std::size_t pages = count_where(table, [](std::uint64_t e) { return e == 0x1337; });
                CHECK(young_in(table, format).count() == pages);
                CHECK(age_table(table, format).count() == pages);
                CHECK(harvest_dirty(table, format).count() == pages);
                CHECK(write_protect_table(table, format).count() == pages);
                CHECK(count_where(table, [=](std::uint64_t e) { return e == broken; }) == 512 - pages);
                CHECK(count_where(table, [](std::uint64_t e) { return e == 0x1035; }) == pages);
            }
        }
    };
    check(ept_46);
    check(format_for(ept_46->features()));
}

TEST_CASE("tables by access tracking")
{
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    alignas(4096) static std::uint64_t table[512];
    for (unsigned i = 0; i < 512; ++i) table[i] = i % 3 == 0 ? 0x1037 : i % 3 == 1 ? 0x0140'0000'0000'1030 : 0;
    CHECK(young_in(table, tracking).count() == 171);
    slot_bitmap<512> first_half;
    for (std::size_t i = 0; i < 256; ++i) first_half.set(i);
    CHECK(age_table(table, tracking, first_half).count() == 86);
    const auto rest = age_table(table, tracking);
    CHECK(rest.count() == 85);
    CHECK_FALSE(rest.test(255));
    CHECK(rest.test(258));
    for (unsigned i = 0; i < 512; ++i)
        CHECK(table[i] == (i % 3 == 2 ? 0 : i % 3 == 1 ? 0x0140'0000'0000'1030 : 0x01c0'0000'0000'1030));
    CHECK_FALSE(young_in(table, tracking).any());
}

TEST_CASE("a format that contradicts itself changes no table")
{
    const auto none = format_for(shadow_features{.levels = 7});
    alignas(4096) static std::uint64_t table[512];
    std::fill(std::begin(table), std::end(table), ~std::uint64_t{0});
    CHECK_FALSE(harvest_dirty(table, none).any());
    CHECK_FALSE(write_protect_table(table, none).any());
    CHECK(std::all_of(std::begin(table), std::end(table), [](std::uint64_t e) { return e == ~std::uint64_t{0}; }));
}

TEST_CASE("table operations run in constant expressions")
{
    constexpr bool right = [] {
        std::uint64_t table[512] = {};
        for (std::uint64_t& slot : table) slot = 0x1307;
        table[7] = 0x1007;
        slot_bitmap<512> two;
        two.set(6);
        two.set(7);
        if (age_table(table, ept_ad, two).count() != 1 || young_in(table, ept_ad).count() != 510) return false;
        if (age_table(table, masks::from({.present = 0x7, .accessed = 0x100})).count() != 510) return false;
        if (harvest_dirty(table, ept_ad).count() != 511 || write_protect_table(table, ept_ad).count() != 512) {
            return false;
        }
        return count_where(table, [](std::uint64_t entry) { return entry == 0x1005; }) == 512;
    }();
    static_assert(right);
}

TEST_CASE("counting by property")
{
    alignas(4096) static std::uint64_t table[512] = {};
    for (unsigned i = 0; i < 100; ++i) table[i] = 0x1005 | (i % 2 == 0 ? 0x2 : 0) | (i % 5 == 0 ? 0x100 : 0);
    CHECK(count_where(table, [](std::uint64_t entry) { return present(entry, ept_ad); }) == 100);
    CHECK(count_where(table, [](std::uint64_t entry) { return young(entry, ept_ad); }) == 20);
    CHECK(count_where(table, [](std::uint64_t entry) { return writable(entry, ept_ad); }, plain_access{}) == 50);
}

TEST_CASE("slot bitmaps: all, order, and ored into a larger bitmap at any offset")
{
    CHECK(slot_bitmap<512>::all().count() == 512);
    CHECK(slot_bitmap<4>::all().word(0) == 0xf);
    CHECK(slot_bitmap<65>::all().count() == 65);

    for (std::size_t offset = 0; offset < 200; ++offset) {
        slot_bitmap<130> map;
        std::set<std::size_t> model;
        for (int i = 0; i < 40; ++i) {
            const std::size_t slot = randomness() % 130;
            map.set(slot);
            model.insert(slot);
        }
        const std::size_t gone = *model.begin();
        map.clear(gone);
        model.erase(gone);
        CHECK(map.count() == model.size());

        std::vector<std::size_t> in_order;
        map.for_each([&](std::size_t slot) { in_order.push_back(slot); });
        CHECK(std::equal(in_order.begin(), in_order.end(), model.begin(), model.end()));

        // Just as long as it must be, so that a sanitizer sees a write beyond.
        const std::size_t words = (offset + *model.rbegin()) / 64 + 1;
        const auto log = std::make_unique<std::uint64_t[]>(words);
        log[0] = 1;
        if (offset % 2 == 0) {
            map.or_into(log.get(), offset);
        } else {
            map.or_into(log.get(), offset, atomic_access<>{});
        }
        for (std::size_t bit = 0; bit < words * 64; ++bit) {
            const bool expected = bit == 0 || (bit >= offset && model.contains(bit - offset));
            CHECK((log[bit / 64] >> bit % 64 & 1) == expected);
        }
        slot_bitmap<130> twice = map;
        twice |= map;
        CHECK(twice == map);
    }
}

// ---- what may be a table

namespace {

// Something of one's own with data() and size().
struct own_table {
    std::uint64_t* first;
    std::size_t count;
    [[nodiscard]] std::uint64_t* data() const { return first; }
    [[nodiscard]] std::size_t size() const { return count; }
};

// Some young, dirty and writable, some not present.
template <class Word>
std::vector<Word> some_entries(std::size_t count)
{
    std::vector<Word> all(count);
    for (Word& entry : all) entry = static_cast<Word>(0x1000 | (randomness() & 0x167));
    return all;
}

template <std::size_t Bits, std::size_t Slots>
bool same_slots(const slot_bitmap<Bits>& got, const slot_bitmap<Slots>& expected)
{
    bool same = got.count() == expected.count();
    expected.for_each([&](std::size_t slot) { same = same && got.test(slot); });
    return same;
}

// A table in one form, each operation against the same on an array of as many slots.
template <class Word, std::size_t Slots, std::size_t Bits, class Format, class As>
void check_form(const Format& format, As as_table)
{
    alignas(64) static Word array[Slots];
    const std::vector<Word> entries = some_entries<Word>(Slots);
    slot_bitmap<Slots> some;
    slot_bitmap<Bits> same_some;
    for (std::size_t i = 0; i < Slots; ++i) {
        if (randomness() % 2 == 0) some.set(i), same_some.set(i);
    }
    const auto check_one = [&](auto operation) {
        std::copy(entries.begin(), entries.end(), std::begin(array));
        const auto expected = operation(array);
        const std::vector<Word> after(std::begin(array), std::end(array));
        std::copy(entries.begin(), entries.end(), std::begin(array));
        auto&& table = as_table(array);
        const auto got = operation(table);
        CHECK(std::is_same_v<std::remove_const_t<decltype(got)>, slot_bitmap<Bits>>);
        CHECK(same_slots(got, expected));
        CHECK(std::equal(after.begin(), after.end(), table.data()));
    };
    const auto look_at = [&]<class Table>(const Table&) -> const auto& {
        if constexpr (std::is_array_v<Table>) {
            return some;
        } else {
            return same_some;
        }
    };
    check_one([&](auto& table) { return age_table(table, format); });
    check_one([&](auto& table) { return age_table(table, format, look_at(table)); });
    check_one([&](auto& table) { return harvest_dirty(table, format); });
    check_one([&](auto& table) { return harvest_dirty(table, format, look_at(table)); });
    check_one([&](auto& table) { return write_protect_table(table, format); });
    check_one([&](auto& table) { return write_protect_table(table, format, look_at(table)); });
    check_one([&](auto& table) { return young_in(table, format); });
    check_one([&](auto& table) { return young_in(table, format, look_at(table)); });

    auto&& table = as_table(array);
    const auto is_young = [&](std::uint64_t entry) { return young(entry, format); };
    CHECK(count_where(table, is_young) == count_where(array, is_young));
}

template <std::size_t Slots>
void check_forms()
{
    using word = std::uint64_t;
    check_form<word, Slots, Slots>(shadow_long, [](auto& array) { return std::span<word, Slots>(array); });
    check_form<word, Slots, Slots>(shadow_long, [](auto& array) {
        std::array<word, Slots> copy;
        std::copy(std::begin(array), std::end(array), copy.begin());
        return copy;
    });
    if constexpr (Slots <= 512) {
        check_form<word, Slots, 512>(shadow_long, [](auto& array) { return std::span<word>(array); });
        check_form<word, Slots, 512>(format_for(shadow_features{}), [](auto& array) { return std::span<word>(array); });
        check_form<word, Slots, 512>(shadow_long, [](auto& array) { return own_table{array, Slots}; });
        check_form<word, Slots, 512>(shadow_long,
                                     [](auto& array) { return std::vector<word>(std::begin(array), std::end(array)); });
    }
}

}  // namespace

TEST_CASE("a table is an array, a std::array, a std::vector, a std::span, or one's own: the same bitmaps")
{
    check_forms<1>();
    check_forms<4>();
    check_forms<63>();
    check_forms<64>();
    check_forms<65>();
    check_forms<100>();
    check_forms<200>();
    check_forms<512>();
    check_forms<1024>();
    check_form<std::uint32_t, 1024, 1024>(shadow_two,
                                          [](auto& array) { return std::span<std::uint32_t, 1024>(array); });
    check_form<std::uint32_t, 100, 512>(shadow_two, [](auto& array) { return std::span<std::uint32_t>(array); });
}

TEST_CASE("the bitmap of a table whose size is not constant is as large as asked for, or of 512 slots")
{
    std::vector<std::uint32_t> wide(1024, 0x1027);
    const auto young_slots = young_in<1024>(wide, shadow_two);
    static_assert(std::is_same_v<decltype(young_slots), const slot_bitmap<1024>>);
    CHECK(young_slots.count() == 1024);
    CHECK(age_table<1024>(wide, shadow_two).count() == 1024);
    CHECK(young_in<1024>(wide, shadow_two).count() == 0);

    std::vector<std::uint64_t> dirty_pages(70, 0x1063);
    CHECK(harvest_dirty<70>(dirty_pages, shadow_long) == slot_bitmap<70>::all());
    CHECK(write_protect_table<128>(std::span(dirty_pages), shadow_long).count() == 70);
    CHECK(dirty_pages[69] == 0x1021);

    // A part of a table, and one without slots.
    CHECK(age_table(std::span(dirty_pages).subspan(60), shadow_long).count() == 10);
    CHECK(young_in(dirty_pages, shadow_long).count() == 60);
    CHECK_FALSE(age_table(std::span<std::uint64_t>(), shadow_long).any());
    CHECK_FALSE(young_in(std::vector<std::uint64_t>(), shadow_long).any());
    CHECK(count_where(std::span<std::uint64_t>(), [](std::uint64_t) { return true; }) == 0);

    // What can only be read.
    const std::vector<std::uint64_t> still(3, 0x1027);
    CHECK(young_in(still, shadow_long).count() == 3);
    CHECK(young_in(std::span<const std::uint64_t, 3>(still), shadow_long) == slot_bitmap<3>::all());
}

TEST_CASE("tables of other forms in constant expressions")
{
    constexpr bool right = [] {
        std::array<std::uint64_t, 65> table{};
        for (std::uint64_t& slot : table) slot = 0x1107;
        const auto young_slots = young_in(std::span(table), ept_ad);
        return young_slots == slot_bitmap<65>::all() && age_table(table, ept_ad) == young_slots && table[64] == 0x1007;
    }();
    static_assert(right);
}

// ---- where a set bit denies writes, or the write permission is the dirty state

namespace {

// One operation on whole tables and on parts of them, against the scalar one on each slot.
template <std::size_t Slots, class Access, class One, class Run>
void check_by_slot(Access access, One one, Run run)
{
    alignas(4096) static std::uint64_t table[Slots];
    alignas(4096) static std::uint64_t before[Slots];
    int wrong = 0;
    for (unsigned round = 0; round < 30; ++round) {
        fill(before, round % 6, 3 | stages::write | stages::modifier);
        slot_bitmap<Slots> look_at;
        for (std::size_t n = 0; n < look_at.word_count; ++n) {
            look_at.set_word(n, randomness() & slot_bitmap<Slots>::all().word(n));
        }
        for (const bool masked : {false, true}) {
            std::copy(before, before + Slots, table);
            const auto done = masked ? run(table, look_at, access) : run(table, access);
            for (std::size_t i = 0; i < Slots; ++i) {
                std::uint64_t slot = before[i];
                const bool is = (!masked || look_at.test(i)) && one(slot);
                wrong += done.test(i) != is || table[i] != slot;
            }
        }
    }
    CHECK(wrong == 0);
}

// By the manual: what writes, and what is left.
template <class Format>
void check_stage(const Format& format, bool write_bit_denies)
{
    const bool managed = format->features().dirty_state;
    const auto take_write = [=](std::uint64_t& slot, bool modifier_too) {
        if (!stages::translates(slot)) return false;
        const std::uint64_t entry = slot;
        slot = write_bit_denies ? slot | stages::write : slot & ~stages::write;
        if (modifier_too && managed) slot &= ~stages::modifier;
        return slot != entry;
    };
    const auto check_access = [&]<std::size_t Slots>(std::integral_constant<std::size_t, Slots>, auto access) {
        check_by_slot<Slots>(
            access, [&](std::uint64_t& slot) { return take_write(slot, true); },
            [&](auto& table, auto... how) { return write_protect_table(table, format, how...); });
        check_by_slot<Slots>(
            access, [&](std::uint64_t& slot) { return take_write(slot, false); },
            [&](auto& table, auto... how) { return harvest_dirty(table, format, how...); });
        check<std::uint64_t, Slots>(stages::valid, stages::translates, 0x400, true, access,
                                    [&](auto& table, auto... how) { return age_table(table, format, how...); });
    };
    check_access(std::integral_constant<std::size_t, 512>{}, atomic_access<>{});
    check_access(std::integral_constant<std::size_t, 512>{}, plain_access{});
    check_access(std::integral_constant<std::size_t, 100>{}, atomic_access<>{});
}

}  // namespace

TEST_CASE("tables of formats whose write permission denies, or is the dirty state")
{
    check_stage(stages::first, true);
    check_stage(stages::first_without, true);
    check_stage(stages::second, false);
    check_stage(stages::second_without, false);
    check_stage(format_for(stages::first->features()), true);
    check_stage(format_for(stages::second->features()), false);
}

TEST_CASE("tables by access tracking of entries that suppress #VE and point past the memory")
{
    constexpr auto format =
        ept<ept_features{.physical_bits = 46, .accessed_dirty = false, .suppress_ve = true, .memory_bits = 45}>;
    constexpr auto tracking = track_accesses<54>(format);
    alignas(4096) static std::uint64_t table[512];
    for (unsigned i = 0; i < 512; ++i) table[i] = i % 3 == 0 ? 0x1037 : format->empty();
    CHECK(age_table(table, tracking).count() == 171);
    for (unsigned i = 0; i < 512; ++i) CHECK(table[i] == (i % 3 == 0 ? 0x81c0'2000'0000'1030 : format->empty()));
    CHECK_FALSE(age_table(table, tracking).any());
    for (unsigned i = 0; i < 512; i += 3) CHECK(restore(table[i], tracking));
    CHECK(young_in(table, tracking).count() == 171);
    CHECK(table[510] == 0x80'0000'0000'1035);
}

// ---- ranges

namespace {

// Physical memory of tables alone: whatever else is asked for is missing.
template <class Word>
class machine {
public:
    explicit machine(std::size_t slots_of_top, std::size_t slots = 4096 / sizeof(Word)) : slots_(slots)
    {
        tables_[0x1000].assign(slots_of_top, 0);
    }
    std::uint64_t add()
    {
        next_ += 0x1000;
        tables_[next_].assign(slots_, 0);
        return next_;
    }
    Word& at(std::uint64_t table, std::size_t slot) { return tables_.at(table).at(slot); }
    Word* operator()(std::uint64_t physical)
    {
        ++asked;
        const auto table = tables_.find(physical);
        return table == tables_.end() ? nullptr : table->second.data();
    }

    int asked = 0;

private:
    std::size_t slots_;
    std::uint64_t next_ = 0x1000;
    std::map<std::uint64_t, std::vector<Word>> tables_;
};

struct page {
    std::uint64_t address;
    std::uint64_t size;
    bool operator==(const page&) const = default;
};

template <class Format>
constexpr bool canonical_form = Format
{
} -> shape().above == extension::sign;

// Random tables over an interesting part of the space, and beside them the pages they map.
template <class Format>
struct random_tables {
    using word = word_of<Format>;
    static constexpr unsigned levels = Format
    {
    } -> shape().levels;

    struct mapping {
        page where;
        word* slot;
    };

    random_tables() : memory(std::size_t{1} << Format {} -> shape().index_bits_at(levels)) { grow(levels, 0x1000, 0); }

    // NOLINTNEXTLINE(misc-no-recursion): no deeper than the tables
    void grow(unsigned level, std::uint64_t table, std::uint64_t begin)
    {
        const std::size_t slots = std::size_t{1} << Format
        {
        } -> shape().index_bits_at(level);
        const std::size_t tries = level == 1 ? slots : 6;
        for (std::size_t n = 0; n < tries; ++n) {
            // The first and the last slot often, for the ends of the space.
            const std::size_t i = level == 1 ? n : n == 0 ? 0 : n == 1 ? slots - 1 : randomness() % slots;
            word& slot = memory.at(table, i);
            if (slot != 0) continue;
            const std::uint64_t address = begin + (std::uint64_t{i} << Format {} -> shape().page_shift(level));
            const std::uint64_t young_bits = randomness() % 2 == 0 ? flags_of<Format>.accessed : 0;
            const std::uint64_t dirty_bits = randomness() % 2 == 0 ? flags_of<Format>.dirty : 0;
            const unsigned choice = randomness() % 8;
            const bool is_large = level > 1 && choice < 2 && Format
            {
            } -> exists(level, kind::leaf);
            if (level == 1 ? choice < 5 : is_large) {
                const std::uint64_t size = std::uint64_t{1} << Format
                {
                } -> shape().page_shift(level);
                slot = static_cast<word>(encode(kind::leaf, level, 0, {}, Format{}).entry | young_bits | dirty_bits);
                pages.push_back({{address, size}, &slot});
            } else if (level > 1 && choice == 2) {
                slot = static_cast<word>(encode(kind::table, level, 0x7ff'0000, {}, Format{}).entry);
                ++missing;
            } else if (level > 1 && choice == 3) {
                // Present, and a rule broken: not followed, whatever it points to.
                const std::uint64_t entry = encode(kind::table, level, 0x1000, {}, Format{}).entry;
                const std::uint64_t reserved = Format
                {
                } -> reserved_mask(level, kind::table);
                slot = static_cast<word>(entry | (reserved & (0 - reserved)));
                illegal += reserved != 0;
                if (reserved == 0) slot = 0;
            } else if (level > 1) {
                const std::uint64_t below = memory.add();
                slot = static_cast<word>(encode(kind::table, level, below, {}, Format{}).entry);
                grow(level - 1, below, address);
            } else {
                slot = static_cast<word>(flags_of<Format>.accessed | flags_of<Format>.dirty);  // not present
            }
        }
    }

    static std::uint64_t user_form(std::uint64_t address)
    {
        const unsigned bits = Format
        {
        } -> shape().address_bits();
        return canonical_form<Format> && (address >> (bits - 1)) != 0 ? address | ~ones(bits - 1, 0) : address;
    }

    // Young or dirty pages that overlap a range of addresses as users write them.
    [[nodiscard]] std::vector<page> model(std::uint64_t flag, inclusive_range range) const
    {
        std::vector<page> expected;
        for (const mapping& m : pages) {
            const std::uint64_t first = user_form(m.where.address);
            const std::uint64_t last = first + (m.where.size - 1);
            if (first > range.last || last < range.first || (*m.slot & flag) == 0) continue;
            expected.push_back({first, m.where.size});
        }
        std::sort(expected.begin(), expected.end(), [](page a, page b) { return a.address < b.address; });
        return expected;
    }

    machine<word> memory;
    std::vector<mapping> pages;
    std::uint64_t missing = 0;
    std::uint64_t illegal = 0;
};

}  // namespace

TEST_CASE_TEMPLATE("ranges of every format report the pages of the model, in order, once", Format, type_of<ept_ad>,
                   type_of<ept_soft_63>, type_of<ept_five>, type_of<ept_mbe>, type_of<npt_long>, type_of<shadow_long>,
                   type_of<shadow_five>, type_of<shadow_pae>, type_of<shadow_two>)
{
    constexpr flags is = flags_of<Format>;
    const auto format = format_for(Format {} -> features());
    for (int round = 0; round < 12; ++round) {
        random_tables<Format> space;
        std::vector<page> got;
        const auto report = [&](std::uint64_t address, std::uint64_t size) { got.push_back({address, size}); };

        // Parts first: they take their pages, and leave the others.
        std::vector<std::uint64_t> ends;
        for (const auto& m : space.pages) ends.push_back(m.where.address);
        for (int part = 0; part < 20 && !ends.empty(); ++part) {
            const auto end = [&] {
                const std::uint64_t near = ends[randomness() % ends.size()];
                return space.user_form(near) + randomness() % 0x40'0000 - 0x20'0000;
            };
            inclusive_range range{end(), end()};
            if (range.first > range.last && part % 4 != 0) std::swap(range.first, range.last);
            const auto expected = space.model(is.accessed, range);
            got.clear();
            const auto counts = part % 2 == 0 ? age_range(Format{}, 0x1000, range, space.memory, report)
                                              : age_range(format, 0x1000, range, space.memory, report);
            if (range.first <= range.last) CHECK(got == expected);
            if (range.first > range.last) CHECK(got.empty());
            CHECK(counts.pages == got.size());
        }

        const auto left = space.model(is.accessed, {});
        got.clear();
        const auto counts = age_range(Format{}, 0x1000, {}, space.memory, report);
        CHECK(got == left);
        CHECK(counts.pages == left.size());
        CHECK(counts.missing == space.missing);
        CHECK(counts.illegal == space.illegal);
        CHECK(counts.skipped == 0);
        CHECK(age_range(Format{}, 0x1000, {}, space.memory, report).pages == 0);

        const std::uint64_t written = is.dirty != 0 ? is.dirty : is.write;
        const auto dirty_pages = space.model(written, {});
        got.clear();
        CHECK(harvest_range(Format{}, 0x1000, {}, space.memory, report).pages == dirty_pages.size());
        CHECK(got == dirty_pages);
        CHECK(harvest_range(format, 0x1000, {}, space.memory, report).pages == 0);
    }
}

TEST_CASE("a range asks memory once for each table that it needs, and for nothing else")
{
    machine<std::uint64_t> memory(512);
    const std::uint64_t level_3 = memory.add(), level_2 = memory.add(), level_1 = memory.add(), other = memory.add();
    memory.at(0x1000, 0) = level_3 | 0x7;
    memory.at(level_3, 1) = level_2 | 0x7;
    memory.at(level_2, 2) = level_1 | 0x7;
    memory.at(level_2, 3) = other | 0x7;
    for (std::size_t i = 0; i < 512; ++i) memory.at(level_1, i) = memory.at(other, i) = 0x0003'0137 | i << 12;

    std::uint64_t sum = 0;
    const std::uint64_t base = 0x4040'0000;
    const auto report = [&](std::uint64_t address, std::uint64_t size) {
        CHECK(size == 0x1000);
        sum += address - base;
    };
    auto counts = age_range(ept_ad, 0x1000, {base + 0x3f'fff, base + 0x41'000}, memory, report);
    CHECK(counts == range_counts{.pages = 3, .tables = 4});
    CHECK(memory.asked == 4);
    CHECK(sum == 0x3f'000 + 0x40'000 + 0x41'000);
    counts = age_range(ept_ad, 0x1000, {base, base + 0x1f'ffff}, memory, [](auto, auto) {});
    CHECK(counts == range_counts{.pages = 509, .tables = 4});
    CHECK(age_range(ept_ad, 0x1000, {0, 0x3fff'ffff}, memory, report) == range_counts{.tables = 2});
    CHECK(age_range(ept_ad, 0x7000, {}, memory, report) == range_counts{.missing = 1});
    CHECK(age_range(format_for(ept_features{.levels = 9}), 0x1000, {}, memory, report) == range_counts{});
}

TEST_CASE("a table that contains itself is followed as many times as there are levels")
{
    machine<std::uint64_t> memory(512);
    memory.at(0x1000, 511) = 0x1000 | 0x23;
    std::vector<page> got;
    const auto report = [&](std::uint64_t address, std::uint64_t size) { got.push_back({address, size}); };
    const auto counts = age_range(shadow_long, 0x1000, {}, memory, report);
    CHECK(got == std::vector<page>{{0xffff'ffff'ffff'f000, 0x1000}});
    CHECK(counts.tables == 4);
}

TEST_CASE("the part of a range that tables translate: canonical addresses and the hole between them")
{
    const auto part = [](std::uint64_t first, std::uint64_t last, const auto& format) {
        const inclusive_range r = format->shape().translated_part({first, last});
        return std::pair{r.first, r.last};
    };
    using ends = std::pair<std::uint64_t, std::uint64_t>;
    const auto is_empty = [](ends e) { return e.first > e.second; };
    constexpr std::uint64_t low = 0x0000'7fff'ffff'ffff, high = 0xffff'8000'0000'0000, all = ~std::uint64_t{0};
    CHECK(part(0, all, shadow_long) == ends{0, 0xffff'ffff'ffff});
    CHECK(part(0x1000, low, shadow_long) == ends{0x1000, low});
    CHECK(part(high, all, shadow_long) == ends{0x8000'0000'0000, 0xffff'ffff'ffff});
    CHECK(part(0x1000, low + 0x1000, shadow_long) == ends{0x1000, low});
    CHECK(part(high - 0x1000, high + 5, shadow_long) == ends{0x8000'0000'0000, 0x8000'0000'0005});
    CHECK(part(low - 1, high, shadow_long) == ends{low - 1, 0x8000'0000'0000});
    CHECK(is_empty(part(low + 1, high - 1, shadow_long)));
    CHECK(is_empty(part(2, 1, shadow_long)));
    CHECK(is_empty(part(high, low, shadow_long)));
    CHECK(part(0x1000, all, ept_ad) == ends{0x1000, 0xffff'ffff'ffff});
    CHECK(part(0x1000, 0x1fff, ept_ad) == ends{0x1000, 0x1fff});
    CHECK(is_empty(part(0x1'0000'0000, all, shadow_two)));
    CHECK(part(0, all, shadow_two) == ends{0, 0xffff'ffff});
}

TEST_CASE("skipping subtrees that were not accessed")
{
    machine<std::uint64_t> memory(512);
    const std::uint64_t level_3 = memory.add(), level_2 = memory.add(), used = memory.add(), idle = memory.add();
    memory.at(0x1000, 0) = level_3 | 0x107;
    memory.at(level_3, 0) = level_2 | 0x107;
    memory.at(level_2, 0) = used | 0x107;
    memory.at(level_2, 1) = idle | 0x7;
    memory.at(level_2, 2) = 0x99'9000 | 0x107;  // not there
    memory.at(used, 5) = 0x3'0137;
    memory.at(idle, 5) = 0x3'0137;  // what a CPU leaves that remembers the table entry
    const auto none = [](auto, auto) {};

    // A part of a table's span: nothing is cleared on the way.
    auto counts = age_range(ept_ad, 0x1000, {0, 0x1f'fffe}, memory, none, subtrees::accessed);
    CHECK(counts == range_counts{.pages = 1, .tables = 4});
    CHECK(memory.at(level_2, 0) == (used | 0x107));
    memory.at(used, 5) |= 0x100;

    // All of it.
    counts = age_range(ept_ad, 0x1000, {}, memory, none, subtrees::accessed);
    CHECK(counts == range_counts{.pages = 1, .tables = 4, .missing = 1, .skipped = 1});
    CHECK(memory.at(0x1000, 0) == (level_3 | 0x7));
    CHECK(memory.at(level_3, 0) == (level_2 | 0x7));
    CHECK(memory.at(level_2, 0) == (used | 0x7));
    CHECK(memory.at(level_2, 2) == (0x99'9000 | 0x107));
    CHECK(age_range(ept_ad, 0x1000, {}, memory, none, subtrees::accessed) == range_counts{.tables = 1, .skipped = 1});

    // By default nothing is skipped, and no table entry changes.
    CHECK(age_range(ept_ad, 0x1000, {}, memory, none) == range_counts{.pages = 1, .tables = 5, .missing = 1});
    CHECK(memory.at(level_2, 1) == (idle | 0x7));

    // A software accessed bit stands in leaves alone: there is nothing to skip by.
    memory.at(idle, 5) |= 0x8000'0000'0000'0000;
    counts = age_range(ept_soft_63, 0x1000, {}, memory, none, subtrees::accessed);
    CHECK(counts == range_counts{.pages = 1, .tables = 5, .missing = 1});
}

TEST_CASE("a range leaves entries alone that break a rule of their level, at every level")
{
    const auto check = [](const auto& format) {
        machine<std::uint64_t> memory(512);
        const std::uint64_t level_3 = memory.add(), level_2 = memory.add(), level_1 = memory.add();
        memory.at(0x1000, 0) = level_3 | 0x107;
        memory.at(0x1000, 1) = level_3 | 0x10f;  // a memory type in an entry for a table
        memory.at(level_3, 0) = level_2 | 0x107;
        memory.at(level_3, 1) = 0x4000'0000 | 0x3b6;  // W without R
        memory.at(level_2, 0) = level_1 | 0x107;
        memory.at(level_2, 1) = 0x60'03b7;
        memory.at(level_2, 2) = 0x60'1000 | 0x3b7;  // not aligned; in level 1 it would be a page
        memory.at(level_1, 8) = 0xfee0'0306;
        memory.at(level_1, 9) = 0x3'0337;
        const std::uint64_t before[] = {memory.at(0x1000, 1), memory.at(level_3, 1), memory.at(level_2, 2),
                                        memory.at(level_1, 8)};
        std::vector<page> got;
        const auto report = [&](std::uint64_t address, std::uint64_t size) { got.push_back({address, size}); };
        const std::vector<page> pages{{0x9000, 0x1000}, {0x20'0000, 0x20'0000}};
        CHECK(age_range(format, 0x1000, {}, memory, report) == range_counts{.pages = 2, .tables = 4, .illegal = 3});
        CHECK(got == pages);
        got.clear();
        CHECK(harvest_range(format, 0x1000, {}, memory, report) == range_counts{.pages = 2, .tables = 4, .illegal = 3});
        CHECK(got == pages);
        CHECK(memory.at(0x1000, 1) == before[0]);
        CHECK(memory.at(level_3, 1) == before[1]);
        CHECK(memory.at(level_2, 2) == before[2]);
        CHECK(memory.at(level_1, 8) == before[3]);
        CHECK(memory.at(level_2, 1) == 0x60'00b7);
        CHECK(memory.at(level_1, 9) == 0x3'0037);
    };
    check(ept_46);
    check(format_for(ept_46->features()));
}

TEST_CASE("a range by access tracking, large pages too")
{
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    machine<std::uint64_t> memory(512);
    const std::uint64_t level_3 = memory.add(), level_2 = memory.add(), level_1 = memory.add();
    memory.at(0x1000, 0) = level_3 | 0x7;
    memory.at(level_3, 0) = level_2 | 0x7;
    memory.at(level_2, 0) = level_1 | 0x7;
    memory.at(level_2, 1) = 0x60'00b7;
    memory.at(level_1, 9) = 0x3'0037;
    std::vector<page> got;
    const auto report = [&](std::uint64_t address, std::uint64_t size) { got.push_back({address, size}); };
    CHECK(age_range(tracking, 0x1000, {}, memory, report).pages == 2);
    CHECK(got == std::vector<page>{{0x9000, 0x1000}, {0x20'0000, 0x20'0000}});
    CHECK(memory.at(level_2, 1) == 0x01c0'0000'0060'00b0);
    CHECK(memory.at(level_1, 9) == 0x01c0'0000'0003'0030);
    CHECK(age_range(tracking, 0x1000, {}, memory, report).pages == 0);
    // What was writable may have been written: tracked, restored, and then no more.
    CHECK(restore(memory.at(level_1, 9), tracking));
    got.clear();
    CHECK(harvest_range(tracking, 0x1000, {}, memory, report).pages == 2);
    CHECK(got == std::vector<page>{{0x9000, 0x1000}, {0x20'0000, 0x20'0000}});
    CHECK(memory.at(level_2, 1) == 0x0140'0000'0060'00b0);
    CHECK(memory.at(level_1, 9) == 0x3'0035);
    CHECK(harvest_range(tracking, 0x1000, {}, memory, report).pages == 0);
}

// ---- with a hardware thread

namespace {

// The MMU: sets A, and D on a write, by compare-exchange on the entry that it judged.
template <class Word, class Format>
void access_slot(Word& slot, bool write, const Format& format, std::uint32_t& accessed, std::uint32_t& dirty)
{
    const Word a = static_cast<Word>(format->accessed.mask());
    const Word d = static_cast<Word>(format->dirty.mask());
    Word entry = load(slot);
    for (;;) {
        const Word wanted = static_cast<Word>(entry | a | (write ? d : Word{0}));
        if (wanted == entry) return;
        if (compare_exchange(slot, entry, wanted)) {
            accessed += (wanted & ~entry & a) != 0;
            dirty += (wanted & ~entry & d) != 0;
            return;
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("over whole tables every A is aged or still there, every D harvested or still there", Format,
                   type_of<ept_ad>, type_of<npt_long>, type_of<shadow_two>)
{
    using word = word_of<Format>;
    constexpr std::size_t slots = sizeof(word) == 4 ? 1024 : 512;
    constexpr unsigned accesses = 200'000;
    const auto page_entry = static_cast<word>(encode(kind::leaf, 1, 0x1000, {}, Format{}).entry);
    alignas(4096) static word table[slots];
    std::fill(std::begin(table), std::end(table), page_entry);
    std::vector<std::uint32_t> accessed(slots), dirtied(slots), aged(slots), aged_too(slots), harvested(slots);
    std::uint64_t lost = 0;
    constexpr word software = 0x800;  // bit 11, which one thread alone sets and clears
    std::atomic<bool> stop = false;

    std::thread mmu([&] {
        std::minstd_rand pick{7};
        for (unsigned n = 0; n < accesses; ++n) {
            // By turns all over the table, and neighbours, so that pairs are exchanged too.
            const std::size_t i = n / 1024 % 2 == 0 ? pick() % slots : n % slots;
            access_slot(table[i], n % 3 != 0, Format{}, accessed[i], dirtied[i]);
        }
        stop = true;
    });
    std::thread second_reclaimer([&] {
        while (!stop) age_table(table, Format{}).for_each([&](std::size_t i) { ++aged_too[i]; });
    });
    std::thread other_software([&] {
        while (!stop) {
            for (word& slot : table) lost += test_and_set(slot, field{software});
            for (word& slot : table) lost += !test_and_clear(slot, field{software});
        }
    });
    do {
        age_table(table, Format{}).for_each([&](std::size_t i) { ++aged[i]; });
        harvest_dirty(table, Format{}).for_each([&](std::size_t i) { ++harvested[i]; });
    } while (!stop);
    mmu.join();
    second_reclaimer.join();
    other_software.join();

    int wrong = 0;
    std::uint64_t all_aged = 0;
    const auto still_young = young_in(table, Format{});
    for (std::size_t i = 0; i < slots; ++i) {
        wrong += accessed[i] != aged[i] + aged_too[i] + still_young.test(i);
        wrong += dirtied[i] != harvested[i] + dirty(table[i], Format{});
        wrong += (table[i] & ~(Format {} -> accessed | Format {} -> dirty)) != page_entry;
        all_aged += aged[i] + aged_too[i] + still_young.test(i);
    }
    CHECK(wrong == 0);
    CHECK(all_aged != 0);
    CHECK(lost == 0);
}

TEST_CASE("two neighbours are cleared at once, and a bit that another thread sets in either is kept")
{
    alignas(4096) static std::uint64_t table[512] = {0x1007, 0x1007};
    const field software{std::uint64_t{1} << 57};
    std::uint64_t lost = 0;
    std::atomic<bool> stop = false;
    std::thread other([&] {
        do {
            for (std::uint64_t* slot : {&table[0], &table[1]}) {
                lost += test_and_set(*slot, software);
                lost += !test_and_clear(*slot, software);
            }
        } while (!stop);
    });
    slot_bitmap<512> both;
    both.set(0);
    both.set(1);
    std::uint64_t wrong = 0;
    for (unsigned n = 0; n < 200'000; ++n) {
        for (std::uint64_t* slot : {&table[0], &table[1]}) set(*slot, ept_ad->accessed | ept_ad->dirty);
        wrong += age_table(table, ept_ad, both) != both;
        wrong += harvest_dirty(table, ept_ad, both) != both;
    }
    stop = true;
    other.join();
    CHECK(wrong == 0);
    CHECK(lost == 0);
    CHECK(table[0] == 0x1007);
    CHECK(table[1] == 0x1007);
}

TEST_CASE("write-protecting whole tables takes each permission once, and unmapped entries stay unmapped")
{
    alignas(4096) static std::uint64_t table[512];
    std::fill(std::begin(table), std::end(table), 0x1037);
    // Comes and goes beside entries that are writable: neither it nor its neighbour may be harmed.
    constexpr std::uint64_t marker = 0x8000'0000'0000'05a0;
    std::vector<std::uint32_t> given(512, 1), taken(512);
    std::uint64_t bad = 0;
    std::atomic<bool> stop = false;

    std::thread owner([&] {
        for (unsigned n = 0; n < 100'000; ++n) {
            const std::size_t i = n % 512;
            if (i % 4 == 3) {
                // Zapped, seen to stay as it is, and mapped again.
                if (n / 512 % 2 == 0) {
                    store(table[i], marker);
                } else {
                    bad += load(table[i]) != marker;
                    store(table[i], 0x1037);
                }
            } else {
                given[i] += (set(table[i], 0x100), !test_and_set(table[i], field{0x2}));
            }
        }
        stop = true;
    });
    do {
        write_protect_table(table, ept_ad).for_each([&](std::size_t i) { ++taken[i]; });
    } while (!stop);
    owner.join();

    for (std::size_t i = 0; i < 512; ++i) {
        if (i % 4 == 3) continue;
        CHECK(given[i] == taken[i] + ((table[i] & 0x2) != 0));
        CHECK((table[i] & ~std::uint64_t{0x2}) == 0x1135);
    }
    CHECK(bad == 0);
}

namespace {

// A view whose default object speaks of more slots than others have.
struct view_of_many {
    std::uint64_t* slots = nullptr;
    std::size_t count = 512;

    [[nodiscard]] constexpr std::uint64_t* data() const { return slots; }
    [[nodiscard]] constexpr std::size_t size() const { return count; }
};

}  // namespace

TEST_CASE("the size of a table is the object's, not its type's")
{
    std::uint64_t memory[8] = {0x1021, 0x1021, 0x1021, 0x1021, 0x1021, 0x1021, 0x1021, 0x1021};
    const auto young = age_table(view_of_many{memory, 4}, shadow<shadow_features{}>);
    CHECK(young.count() == 4);
    for (unsigned n = 0; n < 8; ++n) CHECK(memory[n] == (n < 4 ? 0x1001 : 0x1021));
}
