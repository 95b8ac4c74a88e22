// Parts of a range, one after another in any order, against one pass over the range: the same reports, counts and
// memory, and no slot that two of them change. Threads that take parts: threads.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <ptebits/ptebits.hpp>

#include "walking.hpp"
#include "wider_formats.hpp"

using namespace ptebits;

namespace {

using walking::dice;
using walking::word;

struct page {
    word address;
    word size;
    bool operator==(const page&) const = default;
};

// A format whose tables of level 1 map less than a word of a bitmap.
struct narrow_description;
struct narrow_features {
    using description = narrow_description;
    unsigned physical_bits = 52;
};
struct narrow_fields {};
struct narrow_description {
    using features = narrow_features;
    using fields = narrow_fields;

    // clang-format off
    static constexpr row<features, fields> rows[] = {
        {"V", bit(0),       every,                     is(1)},
        {"L", bit(1),       leaf_at(2) | leaf_at(3),   is(1)},
        {"L", bit(1),       table_at(2) | table_at(3), is(0)},
        {"",  bit(1),       leaf_at(1),                role::software},
        {"A", bit(2),       every,                     role::accessed},
        {"D", bit(3),       leaves,                    role::dirty},
        {"",  bit(3),       tables,                    role::software},
        {"R", bit(4),       every,                     role::read},
        {"W", bit(5),       every,                     role::write},
        {"X", bit(6),       every,                     role::execute},
        {"U", bit(7),       every,                     role::user},
        {"",  bits(11, 8),  every,                     role::software},
        {"",  bits(51, 12), every,                     role::address},
        {"",  bits(63, 52), every,                     role::reserved},
    };
    // clang-format on

    static constexpr dimensions shape_of(const features&) { return {.levels = 3, .index_bits = {3, 4, 9}}; }
    static constexpr entries entries_of(const features&) { return leaves_up_to(3) | tables_up_to(3); }
};

// What one pass, or one part, did.
struct outcome {
    range_counts counts;
    std::vector<page> pages;
};

// Random tables, each as large as the largest; what is elsewhere is missing.
template <class Format>
class forest {
public:
    using slot_type = slot_type_of<Format>;
    static constexpr word root = 0x100'0000;

    struct upper_entry {
        std::size_t slot;
        unsigned level;
        word begin;
        bool table;
    };

    forest(const Format& format, dice& d) : format_(format), dice_(d)
    {
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            table_shift_ = std::max(table_shift_, format->shape().table_shift(level));
        }
        table_shift_ = std::max(table_shift_, 12U);
        add_table();
        grow(format->shape().levels, 0, 0);
    }

    [[nodiscard]] auto memory()
    {
        return [this](word physical) -> slot_type* {
            const word offset = physical - root;
            return physical < root || offset / sizeof(slot_type) >= slots.size() ? nullptr
                                                                                 : &slots[offset / sizeof(slot_type)];
        };
    }

    std::vector<slot_type> slots;
    std::vector<upper_entry> upper;

private:
    std::size_t add_table()
    {
        const std::size_t first = slots.size();
        slots.resize(first + (std::size_t{1} << table_shift_) / sizeof(slot_type));
        return first;
    }

    // Slots that exist often: the first, the last, and neighbours.
    [[nodiscard]] std::vector<std::size_t> some_slots(unsigned level)
    {
        const std::size_t count = std::size_t{1} << format_->shape().index_bits_at(level);
        std::vector<std::size_t> some;
        if (level == 1) {
            for (std::size_t i = 0; i < count; ++i) {
                if (i == 0 || i + 1 == count || dice_.one_in(16)) some.push_back(i);
            }
            return some;
        }
        const std::size_t near = dice_.below(count);
        for (const std::size_t i : {std::size_t{0}, near, near + 1, near + 2, near + 3, count - 1}) {
            some.push_back(i % count);
        }
        std::sort(some.begin(), some.end());
        some.erase(std::unique(some.begin(), some.end()), some.end());
        return some;
    }

    // NOLINTNEXTLINE(misc-no-recursion): no deeper than the tables
    void grow(unsigned level, std::size_t table, word begin)
    {
        const shape& s = format_->shape();
        std::size_t free = 0;  // behind the copies of a coded size
        for (const std::size_t i : some_slots(level)) {
            if (i < free) continue;
            const word address = begin + (word{i} << s.page_shift(level));
            const bool may_refer = level > 1 && slots.size() >> table_shift_ < 32 && !dice_.one_in(3);
            const kind k = may_refer ? kind::table : dice_.one_in(4) ? kind::run : kind::leaf;
            if (!format_->exists(level, k)) continue;
            if (k == kind::run && format_->layout_at(level, k).sized) {
                free = put_copies(level, table, i, free, begin);
                continue;
            }
            const bool is_missing = may_refer && dice_.one_in(12);
            const std::size_t below = may_refer && !is_missing ? add_table() : 0;
            const word target = !may_refer ? 0 : is_missing ? root / 2 : root + below * sizeof(slot_type);
            encoded e = encode(k, level, target, {}, format_);
            if (!e) e = encode(k, level, target, {.execute = false, .user_execute = true}, format_);  // Arm's pages
            if (!e) REQUIRE(e);
            word entry = e.entry;
            const layout& l = format_->layout_at(level, k);
            if (!dice_.one_in(may_refer ? 6 : 3)) entry |= l.mask(role::accessed);
            if (dice_.one_in(2)) entry |= l.mask(role::dirty);
            if (level > 1 && dice_.one_in(12)) {
                const word reserved = l.mask(role::reserved);
                entry |= reserved & (0 - reserved);  // illegal
            }
            unsigned next_level = level - 1;
            if (const field next{l.mask(role::next_level)}; may_refer && next.exists() && dice_.one_in(4)) {
                next_level = static_cast<unsigned>(1 + dice_.below(level - 1));
                entry = (entry & ~next.mask()) | next(next_level);
            }
            const std::size_t slot = table + i;
            slots[slot] = static_cast<slot_type>(entry);
            if (level > 1) upper.push_back({slot, level, address, may_refer});
            if (may_refer && !is_missing) grow(next_level, below, address);
        }
    }

    // Copies of an entry of a coded size around a slot, A and D in any of them, unless some slot is taken. Returns the
    // slot behind them.
    std::size_t put_copies(unsigned level, std::size_t table, std::size_t i, std::size_t free, word begin)
    {
        const shape& s = format_->shape();
        const layout& l = format_->layout_at(level, kind::run);
        const auto more = static_cast<unsigned>(1 + dice_.below(4));
        const std::size_t copies = std::size_t{1} << more;
        const std::size_t first = i & ~(copies - 1);
        if (first < free) return free;
        for (std::size_t n = first; n < first + copies; ++n) {
            if (slots[table + n] != 0) return free;
        }
        const unsigned shift = s.page_shift(level) + more;
        word entry = encode(kind::run, level, 0, {}, format_).entry;
        if (shift > 13) entry |= ones(shift - 2, 12);
        if (dice_.one_in(12)) entry |= l.mask(role::reserved) & (0 - l.mask(role::reserved));
        for (std::size_t n = first; n < first + copies; ++n) {
            const word flags =
                (dice_.one_in(3) ? l.mask(role::accessed) : 0) | (dice_.one_in(3) ? l.mask(role::dirty) : 0);
            slots[table + n] = static_cast<slot_type>(entry | flags);
            if (level > 1) upper.push_back({table + n, level, begin + (word{n} << s.page_shift(level)), false});
        }
        return first + copies;
    }

    const Format& format_;
    dice& dice_;
    unsigned table_shift_ = 0;
};

// A range whose parts end inside an entry's span, or of any size.
template <class Format>
inclusive_range some_range(const Format& format, const forest<Format>& of, dice& d)
{
    if (d.one_in(6)) return {};
    const shape& s = format->shape();
    const auto& e = of.upper[d.below(of.upper.size())];
    const word span = ones(s.page_shift(e.level) - 1, 0);
    const word space = ones(s.address_bits() - 1U, 0);
    const word first = e.begin + (d.one_in(2) ? 0 : d.below(span));
    const word length = d.one_in(2) ? d.below(span) : d.below(4) * span + d.below(span);
    const word last = first + length < first || first + length > space ? space : first + length;
    return {s.extended(first), s.extended(last)};
}

// `pass` ages or harvests a part: pass(range, memory, report) returns counts.
template <class Format, class Pass>
void check_parts(const Format& format, forest<Format>& trees, dice& d, bool upper_a_changes, const Pass& pass)
{
    const inclusive_range range = some_range(format, trees, d);
    const auto run = [&](range_part part) {
        outcome o;
        o.counts = pass(part, trees.memory(), [&](word address, word size) { o.pages.push_back({address, size}); });
        CHECK(o.counts.pages == o.pages.size());
        return o;
    };
    const auto before = trees.slots;
    const outcome one = run(range);
    const auto after = std::exchange(trees.slots, before);

    const word parts = d.one_in(4) ? 1 + d.below(40) : 1 + d.below(5);
    std::vector<word> order(parts);
    std::iota(order.begin(), order.end(), word{0});
    std::mt19937_64 random(d.below(1000));
    std::shuffle(order.begin(), order.end(), random);
    std::vector<outcome> got(parts);
    std::vector<bool> changed(before.size());
    bool twice = false;
    auto last_state = before;
    for (const word which : order) {
        got[which] = run(range_part(format, range, parts, which));
        if (trees.slots == last_state) continue;
        for (std::size_t i = 0; i < before.size(); ++i) {
            if (trees.slots[i] == last_state[i]) continue;
            twice = twice || changed[i];
            changed[i] = true;
            last_state[i] = trees.slots[i];
        }
    }

    CHECK_FALSE(twice);

    // Together they are one pass, and parts whose reports follow each other have no word in common.
    const shape& s = format->shape();
    outcome sum;
    word next_word = 0;
    for (const outcome& o : got) {
        sum.counts.pages += o.counts.pages;
        sum.counts.tables += o.counts.tables;
        sum.counts.missing += o.counts.missing;
        sum.counts.illegal += o.counts.illegal;
        sum.counts.skipped += o.counts.skipped;
        if (o.pages.empty()) continue;
        sum.pages.insert(sum.pages.end(), o.pages.begin(), o.pages.end());
        const unsigned word_shift = s.page_shift(1) + 6;
        CHECK((o.pages.front().address >> word_shift) >= next_word);
        next_word = ((o.pages.back().address + (o.pages.back().size - 1)) >> word_shift) + 1;
    }
    CHECK(sum.counts == one.counts);
    CHECK(sum.pages == one.pages);

    if (!upper_a_changes) {
        CHECK(trees.slots == after);
        return;
    }
    // Table entries that translate addresses of two parts keep A; all else is alike.
    auto expected = after;
    const inclusive_range all = s.translated_part(range);
    for (const auto& e : trees.upper) {
        if (!e.table) continue;
        const word end = e.begin + ones(s.page_shift(e.level) - 1, 0);
        for (word which = 1; which < parts; ++which) {
            const inclusive_range part = range_part(format, range, parts, which).addresses();
            const word cut = s.translated_part(part).first;
            if (!part.empty() && cut > all.first && e.begin < cut && cut <= end) expected[e.slot] = before[e.slot];
        }
    }
    CHECK(trees.slots == expected);
}

template <class Format>
void check_format(const Format& format, unsigned seed, int rounds = 5)
{
    dice d(seed);
    for (int round = 0; round < rounds; ++round) {
        forest<Format> trees(format, d);
        const auto grown = trees.slots;
        for (int n = 0; n < 8; ++n) {
            trees.slots = grown;
            const auto ages = [&](subtrees which) {
                return [&format, which](range_part part, auto memory, auto report) {
                    return age_range(format, forest<Format>::root, part, memory, report, which);
                };
            };
            check_parts(format, trees, d, false, ages(subtrees::all));
            trees.slots = grown;
            check_parts(format, trees, d, true, ages(subtrees::accessed));
            check_parts(format, trees, d, false, [&](range_part part, auto memory, auto report) {
                return harvest_range(format, trees.root, part, memory, report);
            });
        }
    }
}

}  // namespace

TEST_CASE("parts of a range are together one pass: x86")
{
    check_format(format_for(shadow_features{}), 1);
    check_format(format_for(shadow_features{.levels = 3}), 2);
    check_format(shadow<shadow_features{.levels = 2}>, 8);
    check_format(format_for(ept_features{.levels = 5}), 3);
}

TEST_CASE("parts of a range are together one pass: runs, sizes coded in addresses, tables that skip levels")
{
    check_format(format_for(aarch64_stage1_features{}), 4);
    check_format(format_for(aarch64_stage1_features{.granule = 14, .input_bits = 42, .upper_half = true}), 5, 2);
    check_format(format_for(amdvi_host_features{.levels = 6, .accessed_bits = true, .dirty_bits = true}), 6);
}

TEST_CASE("parts of a range are together one pass: tables that map less than a word of a bitmap")
{
    const auto format = format_for(narrow_features{});
    REQUIRE(format->shape().levels == 3);
    check_format(format, 9);
    CHECK(range_part(format, {0, 0xf'ffff}, 2, 1).addresses().first == 0x8'0000);
    CHECK(range_part(format, {0, 0xf'ffff}, 3, 1).addresses().first == 0x8'0000);
}

TEST_CASE("parts of a range by access tracking")
{
    constexpr auto format = ept<ept_features{.accessed_dirty = false}>;
    constexpr auto tracking = track_accesses<54>(format);
    dice d(7);
    for (int round = 0; round < 6; ++round) {
        forest trees(format, d);
        const auto ages = [&](range_part part, auto memory, auto report) {
            return age_range(tracking, trees.root, part, memory, report);
        };
        const auto harvests = [&](range_part part, auto memory, auto report) {
            return harvest_range(tracking, trees.root, part, memory, report);
        };
        for (int n = 0; n < 4; ++n) {
            check_parts(format, trees, d, false, ages);
            check_parts(format, trees, d, false, harvests);
        }
    }
}

TEST_CASE("where the parts of a range begin and end")
{
    constexpr auto host = ept<ept_features{}>;
    const auto part = [](const auto& format, inclusive_range range, word parts, word which) {
        const inclusive_range r = range_part(format, range, parts, which).addresses();
        return std::pair{r.first, r.last};
    };
    using ends = std::pair<word, word>;

    // Between tables of level 1; the first parts are longer by one.
    constexpr inclusive_range guest{0x1000, 0xa0'0fff};
    CHECK(part(host, guest, 1, 0) == ends{0x1000, 0xa0'0fff});
    CHECK(part(host, guest, 4, 0) == ends{0x1000, 0x3f'ffff});
    CHECK(part(host, guest, 4, 1) == ends{0x40'0000, 0x7f'ffff});
    CHECK(part(host, guest, 4, 2) == ends{0x80'0000, 0x9f'ffff});
    CHECK(part(host, guest, 4, 3) == ends{0xa0'0000, 0xa0'0fff});
    CHECK(part(host, {0x1ff'f000, 0x200'0000}, 2, 1) == ends{0x200'0000, 0x200'0000});

    // More parts than tables, and no addresses at all.
    CHECK(part(host, {0x1000, 0x1fff}, 3, 0) == ends{0x1000, 0x1fff});
    CHECK(range_part(host, {0x1000, 0x1fff}, 3, 1).addresses().empty());
    CHECK(range_part(host, {0x1000, 0x1fff}, ~word{0}, ~word{0} - 1).addresses().empty());
    CHECK(range_part(host, {2, 1}, 2, 0).addresses().empty());
    CHECK(range_part(host, {word{1} << 60, ~word{0}}, 2, 0).addresses().empty());

    // Over the hole between canonical addresses, and in the upper half alone.
    constexpr auto linear = shadow<shadow_features{}>;
    CHECK(part(linear, {}, 2, 0) == ends{0, 0x7fff'ffff'ffff});
    CHECK(part(linear, {}, 2, 1) == ends{0xffff'8000'0000'0000, ~word{0}});
    CHECK(part(linear, {}, 3, 1).first < 0x8000'0000'0000);
    CHECK(part(linear, {}, 3, 1).second > 0xffff'8000'0000'0000);
    CHECK(part(linear, {0xffff'ffff'ffe0'0000, ~word{0}}, 1, 0) == ends{0xffff'ffff'ffe0'0000, ~word{0}});
    constexpr auto upper = aarch64_stage1<aarch64_stage1_features{.input_bits = 39, .upper_half = true}>;
    CHECK(part(upper, {}, 2, 1) == ends{0xffff'ffc0'0000'0000, ~word{0}});

    // A root that is none counts as missing once.
    const auto nothing = [](word) -> word* { return nullptr; };
    const auto none = [](word, word) {};
    for (const word root : {word{0x1000}, word{0x1001}}) {
        CHECK(age_range(host, root, range_part(host, guest, 2, 0), nothing, none) == range_counts{.missing = 1});
        CHECK(age_range(host, root, range_part(host, guest, 2, 1), nothing, none) == range_counts{});
        CHECK(age_range(host, root, range_part(host, {0, 1}, 2, 1), nothing, none) == range_counts{});
    }
    CHECK_FALSE(range_part(host, guest, 2, 0).continues());
    CHECK(range_part(host, guest, 2, 1).continues());
}

TEST_CASE("entries of a run that is larger than 64 slots are aged one by one")
{
    constexpr auto arm = aarch64_stage1<aarch64_stage1_features{.granule = 14, .input_bits = 36}>;
    static_assert(arm->shape().levels == 2 && arm->shape().run_bits[0] == 7);
    static word slots[2 * 2048];
    slots[0] = encode(kind::table, 2, 0x4000, {}, arm).entry;
    const encoded first = encode(kind::run, 1, 0, {.execute = false, .user_execute = true}, arm);
    REQUIRE(first);
    for (word n = 0; n < 128; ++n) {
        slots[2048 + n] = first.entry | n << 14 | (n == 3 || n == 100 ? arm->accessed.mask() : 0);
    }
    std::vector<page> got;
    age_range(
        arm, 0, range_part(0, 0x1f'ffff), [](word physical) { return slots + physical / 8; },
        [&](word address, word size) { got.push_back({address, size}); });
    CHECK(got == std::vector<page>{{word{3} << 14, 0x4000}, {word{100} << 14, 0x4000}});
    CHECK(slots[2048 + 3] == (first.entry | word{3} << 14));
}

TEST_CASE("a page over the end of a part belongs to the part that it begins in, or to the first")
{
    constexpr auto host = ept<ept_features{}>;
    // A page of 1 Gbyte, in the middle of which the range begins and each part ends.
    word top[512] = {0x2107};
    word level_3[512] = {0x01b7, 0x4000'01b7};
    const auto memory = [&](word physical) { return physical == 0x1000 ? top : level_3; };
    constexpr inclusive_range range{0x2000'0000, 0x5fff'ffff};
    const auto pages_of = [&](word which) {
        std::vector<page> got;
        const range_counts counts = age_range(host, 0x1000, range_part(host, range, 4, which), memory,
                                              [&](word address, word size) { got.push_back({address, size}); });
        CHECK(counts == range_counts{.pages = got.size(), .tables = which == 0 ? 2U : 0U});
        return got;
    };
    CHECK(pages_of(3).empty());
    CHECK(pages_of(1).empty());
    CHECK(level_3[0] == 0x01b7);
    CHECK(level_3[1] == 0x4000'01b7);
    CHECK(pages_of(0) == std::vector<page>{{0, 0x4000'0000}});
    CHECK(pages_of(2) == std::vector<page>{{0x4000'0000, 0x4000'0000}});

    // The same of one that is tracked.
    constexpr auto tracking = track_accesses<54>(ept<ept_features{.accessed_dirty = false}>);
    top[0] = 0x2007;
    level_3[0] = tracking.tracked(0xb7);
    const word before = level_3[0];
    const auto harvested_in = [&](word which) {
        const range_part part(tracking.format(), {0, 0x3fff'ffff}, 2, which);
        return harvest_range(tracking, 0x1000, part, memory, [](word, word) {}).pages;
    };
    CHECK(harvested_in(1) == 0);
    CHECK(level_3[0] == before);
    CHECK(harvested_in(0) == 1);
    CHECK(level_3[0] != before);
}
