// SPDX-License-Identifier: BSL-1.0
// Trees that one thread changes: random operations beside a model, and each edge case by name.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <ptebits/ptebits.hpp>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tree_model.hpp"
#include "wider_formats.hpp"

using namespace ptebits;
using tree_model::exercise;
using tree_model::word;

namespace {

// ---- formats with small tables, whose trees are dense

/// Another format's rows over tables of a few slots.
template <class Description, std::uint8_t... IndexBits>
struct small : Description {
    static constexpr dimensions shape_of(const auto& f)
    {
        dimensions d{.levels = sizeof...(IndexBits), .index_bits = {IndexBits...}};
        const dimensions own = Description::shape_of(f);
        d.entry_bits = own.entry_bits;
        d.above = own.above;
        for (unsigned level = 0; level < max_levels; ++level) d.run_bits[level] = own.run_bits[level];
        return d;
    }
};

/// What a format may say of live changes and of TLBs.
struct hooks {
    bool make = false;    ///< a page must be absent before another takes its place
    bool resize = false;  ///< or one of another size
    bool absent = false;  ///< TLBs hold that entries are absent
};
hooks now_said;  // NOLINT: read by the formats below, all of which are known at run time only

/// Another format that says so.
template <class Description>
struct hooked : Description {
    static bool break_before_make(const auto&) { return now_said.make; }
    static bool break_before_resize(const auto&) { return now_said.make || now_said.resize; }
    static bool caches_absent(const auto&) { return now_said.absent; }
};
using small_ept = hooked<small<ept_description, 3, 2, 3, 1>>;
using small_riscv = hooked<small<riscv_description, 5, 2, 3>>;
using small_arm = hooked<small<aarch64_stage1_description, 5, 5, 5, 2>>;

/// How many operations, by default few.
unsigned how_many(unsigned few)
{
    const char* const wanted = std::getenv("PTEBITS_TREE_OPERATIONS");
    return wanted == nullptr ? few : static_cast<unsigned>(std::atoi(wanted));
}
unsigned first_seed()
{
    const char* const wanted = std::getenv("PTEBITS_TREE_SEED");
    return wanted == nullptr ? 1 : static_cast<unsigned>(std::atoi(wanted));
}

template <class Word, bool Flushes, class Format>
void explore(const Format& format, unsigned operations, unsigned seeds = 2)
{
    REQUIRE(format->wrong().what == defect::none);
    for (unsigned seed = first_seed(); seed < first_seed() + seeds; ++seed) {
        CAPTURE(seed);
        exercise<Word, Flushes, Format> e(format, seed, seed % 4 == 0);
        CHECK(e.run(how_many(operations)) == "");
    }
}
/// The format of a description at run time.
template <class Description>
auto of(const typename Description::features& f, const hooks& says = {})
{
    now_said = says;
    return runtime_format<Description>(f);
}

}  // namespace

TEST_CASE("random operations on small tables of EPT")
{
    explore<std::uint64_t, true>(of<small_ept>({}), 200);
    explore<std::uint64_t, false>(of<small_ept>({}), 200);
    explore<std::uint64_t, true>(of<small_ept>({.accessed_dirty = false}, {.absent = true}), 200);
    explore<std::uint64_t, true>(of<small_ept>({}, {.resize = true}), 200);
    explore<std::uint64_t, false>(of<small_ept>({}, {.resize = true}), 200);
}
TEST_CASE("random operations on small tables with runs")
{
    const riscv_features by_hart{.svnapot = true, .svadu = true};
    const riscv_features by_software{.svnapot = true};
    explore<std::uint64_t, true>(of<small_riscv>(by_hart), 200);
    explore<std::uint64_t, false>(of<small_riscv>(by_software, {.absent = true}), 200);
    explore<std::uint64_t, true>(of<small_riscv>(by_hart, {.make = true}), 200);
    explore<std::uint64_t, false>(of<small_riscv>(by_hart, {.make = true}), 200);
    explore<std::uint64_t, true>(of<small_riscv>(by_software, {.resize = true, .absent = true}), 200);
}
TEST_CASE("random operations on small tables of Arm")
{
    const aarch64_stage1_features clean{.dirty_state = false};
    explore<std::uint64_t, true>(of<small_arm>(clean, {.make = true}), 100);
    explore<std::uint64_t, true>(of<small_arm>(clean, {.absent = true}), 100);
}
TEST_CASE("random operations on ordinary entries and EPT")
{
    explore<std::uint32_t, true>(format_for(shadow_features{.levels = 2}), 25);
    explore<std::uint64_t, true>(format_for(shadow_features{.levels = 3}), 25);
    explore<std::uint64_t, true>(format_for(shadow_features{.levels = 5}), 25);
    explore<std::uint64_t, true>(format_for(shadow_features{}), 25);
    explore<std::uint64_t, true>(ept<ept_features{}>, 25);
}
TEST_CASE("random operations on the formats of other machines")
{
    explore<std::uint64_t, true>(
        format_for(amdvi_host_features{.levels = 6, .accessed_bits = true, .dirty_bits = true}), 25);
    explore<std::uint64_t, true>(format_for(amdvi_host_features{.levels = 3}), 25);
    explore<std::uint64_t, true>(format_for(vtd_second_features{.scalable = true, .accessed_dirty = true}), 25);
    explore<std::uint64_t, true>(format_for(vtd_second_features{.levels = 3, .caching_mode = true}), 25);
    explore<std::uint64_t, true>(
        format_for(aarch64_stage2_features{.levels = 3, .input_bits = 40, .dirty_state = false}), 25);
    explore<std::uint64_t, true>(format_for(aarch64_stage1_features{.dirty_state = false}), 25);
    explore<std::uint64_t, true>(
        format_for(aarch64_stage1_features{.input_bits = 39, .dirty_state = false, .upper_half = true}), 25);
    explore<std::uint32_t, true>(wider::short_format<wider::short_features{}>, 25);
}

// ---- edge cases, by name

namespace {

/// Where an address leads.
struct place {
    word physical = ~word{0};
    unsigned shift = 0;  ///< of the page; 0: there is none
    [[nodiscard]] bool operator==(const place&) const = default;
};
constexpr place nowhere{};

/// A tree without a model.
template <class Format, class Word = word, bool Flushes = false>
class bare final : public tree_model::slot_watcher, public tree_model::publisher<Word> {
public:
    static constexpr word root = 0x8'0000;
    using tree_type = tree<Format, tree_model::tree_memory<Word, Flushes>, tree_model::table_source<Word>, exclusive,
                           tree_model::watched_access>;

    explicit bare(const Format& f)
        : format(f), memory(f->shape(), 7), t{f, root, {&memory, this}, {&memory}, {}, {}, {this}}
    {
        memory.add(root, f->shape().levels);
        REQUIRE(clear_root(t) == tree_end::done);
    }

    void before(void* slot) override
    {
        if (meanwhile) meanwhile(slot);
    }
    void after(void* slot, word, word) override
    {
        ++stores;
        unpublished.insert(slot);
    }
    void published(Word* first, word count) override
    {
        for (word i = 0; i < count; ++i) unpublished.erase(first + i);
    }
    void flush_now(const flush_item&) override
    {
        stores_at_flush.push_back(stores);
        unpublished_at_flush += unpublished.size();
    }

    tree_result map(word first, word last, word physical, const map_options& how = {}, const permissions& p = {})
    {
        return ptebits::map(t, {first, last}, physical, p, list, how,
                            [this](const taken_page& r) { seen.push_back(r); });
    }
    tree_result unmap(word first, word last, const range_options& how = {})
    {
        return ptebits::unmap(t, {first, last}, list, how, [this](const taken_page& r) { seen.push_back(r); });
    }
    tree_result protect(word first, word last, const permissions& p, const range_options& how = {})
    {
        return ptebits::protect(t, {first, last}, p, list, how, [this](const taken_page& r) { seen.push_back(r); });
    }
    [[nodiscard]] place at(word address)
    {
        const auto found = find_slot<Word>(t, address, 1);
        const kind k = found.level == 0 ? kind::none : kind_of(found.entry, found.level, format);
        if ((k != kind::leaf && k != kind::run) || !legal(found.entry, found.level, format)) return nowhere;
        const unsigned shift = page_shift_of(found.entry, found.level, format);
        const layout& l = format->layout_at(found.level, k);
        return {l.address_in(found.entry) | (address & ones(l.offset_bits_of(found.entry) - 1, 0)), shift};
    }
    [[nodiscard]] Word& slot(word address, unsigned level)
    {
        const auto found = find_slot<Word>(t, address, level);
        REQUIRE(found.level == level);
        return *found.slot;
    }
    void flush()
    {
        memory.may_release = true;
        flushed(t, list);
        memory.may_release = false;
    }
    /// Tables that the tree has below its root.
    [[nodiscard]] word tables() const { return memory.given - list.table_count(); }
    /// Takes all away. Returns whether nothing is left and nothing went wrong.
    [[nodiscard]] bool ends_well()
    {
        for (;;) {
            const tree_result r = destroy(t, list);
            flush();
            if (r) break;
            if (r.end != tree_end::list_full) return false;
        }
        return memory.given == 0 && memory.first_problem.empty();
    }

    Format format;
    tree_model::machine<Word> memory;
    tree_type t;
    flush_list_of<8, 16> list;
    std::vector<taken_page> seen;
    std::function<void(void*)> meanwhile;  ///< before each store
    unsigned stores = 0;
    std::set<void*> unpublished;
    word unpublished_at_flush = 0;
    std::vector<unsigned> stores_at_flush;
};

constexpr word kibi = 1 << 10;
constexpr word mebi = 1 << 20;
constexpr word gibi = 1 << 30;
constexpr word last_address = ~word{0};
constexpr word lower_end = 0x0000'7fff'ffff'ffff;
constexpr word upper_begin = 0xffff'8000'0000'0000;
constexpr word sizes(word bytes) { return bytes; }  // bit n of a mask of sizes is for pages of 2^n bytes
constexpr permissions read_only{.write = false};
constexpr auto long_mode = shadow<shadow_features{}>;
using long_format = constant_format<shadow_description, shadow_features{}>;

}  // namespace

TEST_CASE("the first and the last page are mapped, and unmapped by one call for the whole space")
{
    bare b(long_mode);
    REQUIRE(b.map(0, 4 * kibi - 1, 0x1000));
    REQUIRE(b.map(last_address - 4 * kibi + 1, last_address, 0));
    CHECK(b.at(0) == place{0x1000, 12});
    CHECK(b.at(last_address - 4 * kibi + 1) == place{0, 12});
    CHECK(b.tables() == 6);
    const tree_result r = b.unmap(0, last_address);
    CHECK(r);
    CHECK(r.pages == 2);
    CHECK(r.bytes == 8 * kibi);
    CHECK(r.tables_freed == 6);
    CHECK(b.tables() == 0);
    CHECK(b.ends_well());
}

TEST_CASE("both sides of the hole are mapped, but no range over it; unmap goes over it")
{
    bare b(long_mode);
    CHECK(b.map(lower_end - 4 * kibi + 1, upper_begin + 4 * kibi - 1, 0).end == tree_end::not_translated);
    CHECK(b.map(lower_end + 1, lower_end + 4 * kibi, 0).end == tree_end::not_translated);
    CHECK(b.memory.calls == 0);
    REQUIRE(b.map(lower_end - 4 * kibi + 1, lower_end, 0x5000));
    REQUIRE(b.map(upper_begin, upper_begin + 4 * kibi - 1, 0x6000));
    CHECK(b.at(lower_end) == place{0x5fff, 12});
    CHECK(b.at(upper_begin) == place{0x6000, 12});
    CHECK(b.unmap(lower_end + 1, upper_begin - 1).pages == 0);
    const tree_result r = b.unmap(lower_end - 4 * kibi + 1, upper_begin + 4 * kibi - 1);
    CHECK(r);
    CHECK(r.pages == 2);
    CHECK(b.ends_well());
}

TEST_CASE("addresses beyond the tables are not mapped, and unmapping them does nothing")
{
    bare b(ept<ept_features{}>);
    CHECK(b.map(word{1} << 48, (word{1} << 48) + 4 * kibi - 1, 0).end == tree_end::not_translated);
    CHECK(b.map((word{1} << 48) - 4 * kibi, (word{1} << 48) + 4 * kibi - 1, 0).end == tree_end::not_translated);
    CHECK(b.unmap(word{1} << 48, last_address));
    REQUIRE(b.map((word{1} << 48) - 4 * kibi, (word{1} << 48) - 1, 0));
    CHECK(b.unmap(0, last_address).pages == 1);
    CHECK(b.ends_well());
}

TEST_CASE("the physical range must fit to its end, which is checked before anything is written")
{
    bare b(ept<ept_features{.physical_bits = 40}>);
    const word end = word{1} << 40;
    CHECK(b.map(0, 8 * kibi - 1, end - 4 * kibi).end == tree_end::physical_too_wide);
    CHECK(b.map(0, 8 * kibi - 1, last_address - 4 * kibi + 1).end == tree_end::physical_too_wide);
    CHECK(b.memory.calls == 0);
    CHECK(b.stores == 512);  // clear_root()
    CHECK(b.map(0, 8 * kibi - 1, end - 8 * kibi));
    CHECK(b.at(4 * kibi) == place{end - 4 * kibi, 12});
    CHECK(b.ends_well());
}

TEST_CASE("where large pages alone reach an address, they are used")
{
    bare<std::remove_cvref_t<decltype(shadow<shadow_features{.levels = 2, .physical_bits = 40}>)>, std::uint32_t> b(
        shadow<shadow_features{.levels = 2, .physical_bits = 40}>);
    const word high = word{5} << 32;
    CHECK(b.map(0, 8 * mebi - 1, high));
    CHECK(b.at(4 * mebi) == place{high + 4 * mebi, 22});
    CHECK(b.map(16 * mebi, 20 * mebi - 1 + 4 * kibi, high).end == tree_end::physical_too_wide);
    CHECK(b.map(16 * mebi, 16 * mebi + 4 * kibi - 1, high).end == tree_end::physical_too_wide);
    // Its parts have no place in the smaller entries.
    const tree_result r = b.unmap(0, 4 * kibi - 1, {.ends = range_end::split});
    CHECK(r.end == tree_end::cannot_split);
    CHECK(r.split == split_error::bits_would_be_lost);
    CHECK(b.ends_well());
}

TEST_CASE("an empty range is done; one byte and unaligned ends are refused")
{
    bare b(long_mode);
    CHECK(b.map(1, 0, 0));
    CHECK(b.unmap(1, 0));
    CHECK(b.protect(1, 0, read_only));
    for (const inclusive_range r :
         {inclusive_range{0, 0}, {0, 4 * kibi}, {1, 4 * kibi - 1}, {4 * kibi, 12 * kibi - 2}}) {
        CHECK(b.map(r.first, r.last, 0).end == tree_end::misaligned);
        CHECK(b.unmap(r.first, r.last).end == tree_end::misaligned);
        CHECK(b.protect(r.first, r.last, read_only).end == tree_end::misaligned);
    }
    CHECK(b.map(0, 4 * kibi - 1, 1).end == tree_end::misaligned);
    CHECK(b.map(0, 4 * mebi - 1, 4 * kibi, {.page_sizes = sizes(2 * mebi)}).end == tree_end::misaligned);
    CHECK(b.map(0, 4 * kibi - 1, 0, {.page_sizes = 0}).end == tree_end::not_encodable);
    CHECK(b.memory.calls == 0);
    CHECK(b.ends_well());
}

TEST_CASE("sizes are chosen by address, physical address, length and the caller's mask")
{
    bare b(long_mode);
    CHECK(b.map(2 * mebi - 4 * kibi, gibi + gibi + 4 * kibi - 1, 2 * mebi - 4 * kibi).pages == 1 + 511 + 1 + 1);
    CHECK(b.at(2 * mebi - 4 * kibi).shift == 12);
    CHECK(b.at(2 * mebi).shift == 21);
    CHECK(b.at(gibi) == place{gibi, 30});
    CHECK(b.at(2 * gibi) == place{2 * gibi, 12});
    // An odd physical address, and back.
    CHECK(b.map(4 * gibi, 4 * gibi + 2 * mebi - 1, 4 * kibi).pages == 512);
    CHECK(b.map(5 * gibi + 4 * kibi, 5 * gibi + 2 * mebi + 4 * kibi - 1, 0).pages == 512);
    // A mask with a gap.
    CHECK(b.map(6 * gibi, 7 * gibi + 2 * mebi - 1, 6 * gibi, {.page_sizes = sizes(4 * kibi) | sizes(gibi)}).pages ==
          1 + 512);
    // Longer than a table, and over the border of the next level.
    CHECK(b.map(512 * gibi - 2 * gibi, 512 * gibi + gibi - 1, 0, {.page_sizes = sizes(2 * mebi)}).pages == 3 * 512);
    CHECK(b.at(512 * gibi) == place{2 * gibi, 21});
    CHECK(b.ends_well());
}

TEST_CASE("the same is no conflict; other pages are refused, kept or replaced")
{
    bare b(long_mode);
    REQUIRE(b.map(0, 8 * kibi - 1, 0x1'0000));
    b.slot(0, 1) |= 0x60;  // A and D
    const tree_result same = b.map(0, 8 * kibi - 1, 0x1'0000);
    CHECK(same);
    CHECK(same.pages == 0);
    CHECK((b.slot(0, 1) & 0x60) == 0x60);

    const tree_result refused = b.map(0, 12 * kibi - 1, 0x2'0000);
    CHECK(refused.end == tree_end::occupied);
    CHECK(refused.next == 0);
    CHECK(refused.level == 1);
    CHECK(refused.entry == b.slot(0, 1));
    CHECK(b.map(0, 12 * kibi - 1, 0x2'0000, {.what_exists = existing::keep}).pages == 1);
    CHECK(b.at(4 * kibi) == place{0x1'1000, 12});
    CHECK(b.at(8 * kibi) == place{0x2'2000, 12});
    CHECK(b.seen.empty());
    b.flush();
    CHECK(b.map(0, 12 * kibi - 1, 0x2'0000, {.what_exists = existing::replace}).pages == 2);
    CHECK(b.at(0) == place{0x2'0000, 12});
    REQUIRE(b.seen.size() == 2);
    CHECK((b.seen[0].entry & 0x60) == 0x60);
    CHECK(b.list.due() == flush_due::items);
    CHECK(b.ends_well());
}

TEST_CASE("a large page over tables: without leaves they go, a leaf at the last slot is in the way")
{
    bare b(long_mode);
    REQUIRE(make_slot(b.t, 0, 1, b.list));
    CHECK(b.tables() == 3);
    CHECK(b.map(0, 2 * mebi - 1, 2 * mebi).pages == 1);
    CHECK(b.at(0) == place{2 * mebi, 21});
    CHECK(b.tables() == 2);
    CHECK(b.list.table_count() == 1);
    b.flush();

    REQUIRE(b.map(4 * mebi - 4 * kibi, 4 * mebi - 1, 0x7000));
    const tree_result refused = b.map(2 * mebi, 4 * mebi - 1, 0);
    CHECK(refused.end == tree_end::occupied);
    CHECK(refused.level == 2);
    CHECK(b.map(2 * mebi, 4 * mebi - 1, 0, {.what_exists = existing::keep, .page_sizes = sizes(2 * mebi)}).end ==
          tree_end::occupied);
    CHECK(b.map(2 * mebi, 4 * mebi - 1, 0, {.what_exists = existing::keep}).pages == 511);
    CHECK(b.at(4 * mebi - 4 * kibi) == place{0x7000, 12});
    CHECK(b.map(2 * mebi, 4 * mebi - 1, 0, {.what_exists = existing::replace}).pages == 1);
    CHECK(b.at(2 * mebi) == place{0, 21});
    CHECK(b.seen.size() == 512);
    CHECK(b.ends_well());
}

TEST_CASE("a small page over a large one splits what is replaced")
{
    bare b(long_mode);
    REQUIRE(b.map(0, gibi - 1, 0));
    const word at = 5 * mebi;
    CHECK(b.map(at, at + 4 * kibi - 1, 0x7000).end == tree_end::occupied);
    CHECK(b.map(at, at + 4 * kibi - 1, 0x7000, {.what_exists = existing::keep}).pages == 0);
    const tree_result r = b.map(at, at + 4 * kibi - 1, 0x7000, {.what_exists = existing::replace});
    CHECK(r);
    CHECK(r.tables_made == 2);
    CHECK(b.at(at) == place{0x7000, 12});
    CHECK(b.at(at + 4 * kibi) == place{at + 4 * kibi, 12});
    CHECK(b.at(0) == place{0, 21});
    CHECK(b.ends_well());
}

TEST_CASE("the first, a middle and the last part of each size are unmapped")
{
    for (const unsigned shift : {21U, 30U}) {
        for (const unsigned which : {0U, 1U, 2U}) {
            CAPTURE(shift);
            CAPTURE(which);
            const word size = word{1} << shift;
            const word at = which == 0 ? 0 : which == 1 ? size / 2 + 4 * kibi : size - 4 * kibi;
            bare b(long_mode);
            REQUIRE(b.map(0, size - 1, 0));
            CHECK(b.unmap(at, at + 4 * kibi - 1).end == tree_end::inside_page);
            CHECK(b.at(at).shift == shift);
            const tree_result r = b.unmap(at, at + 4 * kibi - 1, {.ends = range_end::split});
            CHECK(r);
            CHECK(r.pages == 1);
            CHECK(r.tables_made == (shift - 12) / 9);
            CHECK(b.at(at) == nowhere);
            for (const word near : {at - 4 * kibi, at + 4 * kibi}) {
                if (near < size) CHECK(b.at(near) == place{near, 12});
            }
            // Two ends in one of the pages that are left.
            const word other = which == 0 ? size - 2 * mebi : 0;
            if (shift == 30) {
                CHECK(b.unmap(other + 4 * kibi, other + 2 * mebi - 4 * kibi - 1, {.ends = range_end::split}).pages ==
                      510);
                CHECK(b.at(other) == place{other, 12});
                CHECK(b.at(other + 2 * mebi - 4 * kibi) == place{other + 2 * mebi - 4 * kibi, 12});
            }
            CHECK(b.ends_well());

            bare whole(long_mode);
            REQUIRE(whole.map(0, size - 1, 0));
            const tree_result all = whole.unmap(at, at + 4 * kibi - 1, {.ends = range_end::whole});
            CHECK(all);
            CHECK(all.bytes == size);
            CHECK(all.range.first == 0);
            CHECK(all.range.last == size - 1);
            REQUIRE(whole.list.due() == flush_due::items);
            CHECK(whole.list.begin()->first == 0);
            CHECK(whole.list.begin()->last == size - 1);
            CHECK(whole.ends_well());
        }
    }
}

TEST_CASE("holes before, between and behind are passed")
{
    bare b(long_mode);
    REQUIRE(b.map(8 * kibi, 12 * kibi - 1, 0));
    REQUIRE(b.map(3 * gibi, 4 * gibi - 1, 0));
    const tree_result r = b.unmap(0, 512 * gibi - 1);
    CHECK(r.pages == 2);
    CHECK(r.bytes == gibi + 4 * kibi);
    CHECK(b.ends_well());
}

TEST_CASE("to unmap nothing in a huge range reads little and allocates nothing")
{
    bare b(long_mode);
    REQUIRE(b.map(0, 4 * kibi - 1, 0));
    const unsigned calls = b.memory.calls;
    b.loads = 0;
    CHECK(b.unmap(4 * kibi, lower_end).pages == 0);
    CHECK(b.unmap(upper_begin, last_address).pages == 0);
    CHECK(b.loads < 6 * 512);
    CHECK(b.memory.calls == calls);
    CHECK(b.ends_well());
}

TEST_CASE("protect: a mix, the same, and none that the format grants")
{
    bare b(ept<ept_features{}>);
    REQUIRE(b.map(0, 4 * kibi - 1, 0, {}, read_only));
    REQUIRE(b.map(4 * kibi, 8 * kibi - 1, 0));
    REQUIRE(b.map(2 * mebi, 4 * mebi - 1, 0));
    b.flush();
    CHECK(b.protect(0, 4 * mebi - 1, read_only).pages == 2);
    CHECK(b.list.due() == flush_due::items);
    CHECK(!writable(b.slot(2 * mebi, 2), b.format, 2));
    b.flush();
    CHECK(b.protect(0, 4 * mebi - 1, read_only).pages == 0);
    CHECK(b.list.due() == flush_due::nothing);
    CHECK(b.protect(0, 4 * mebi - 1, {}).pages == 3);
    CHECK(b.list.due() == flush_due::nothing);  // more rights need no flush
    CHECK(b.protect(0, 4 * mebi - 1, no_permissions).end == tree_end::not_encodable);
    CHECK(b.protect(0, 4 * mebi - 1, {.read = false}).end == tree_end::not_encodable);
    CHECK(b.protect(2 * mebi, 3 * mebi - 1, read_only).end == tree_end::inside_page);
    CHECK(b.protect(2 * mebi, 3 * mebi - 1, read_only, {.ends = range_end::split}).pages == 256);
    CHECK(b.ends_well());
}

namespace {

/// What protect() did with a tree: at once, or a slot at a time, which goes another way.
template <class Format>
struct protected_range {
    explicit protected_range(const Format& f) : pages_of(f) {}

    void run(word first, word last, const permissions& rights, word limit)
    {
        const auto note = [this](const taken_page& r) {
            for (const word part : {r.address, r.entry, word{r.level}, word{r.page_shift}, static_cast<word>(r.is)}) {
                told.push_back(part);
            }
        };
        for (word from = 0;;) {
            const tree_result r =
                protect(pages_of.t, {first, last}, rights, list, {.limit = limit, .from = from}, note);
            pages += r.pages;
            bytes += r.bytes;
            end = r.end;
            if (r.end != tree_end::limit) break;
            REQUIRE(r.next > from);
            from = r.next;
        }
    }

    bare<Format> pages_of;
    flush_list_of<2000, 1> list;
    std::vector<word> told;
    word pages = 0;
    word bytes = 0;
    tree_end end = tree_end::done;
};

constexpr permissions usual[] = {{}, read_only, {.execute = false}, {.write = false, .execute = false}};

template <class Format>
void protect_in_both_ways(const Format& format, const permissions (&rights)[4] = usual)
{
    std::mt19937_64 random(7);  // NOLINT: the same in each run
    const layout& l = format->layout_at(1, kind::leaf);
    const word flags = l.mask(role::accessed) | l.mask(role::dirty) | l.mask(role::dirty_modifier);
    word stretches = 0;
    for (unsigned round = 0; round < 40; ++round) {
        CAPTURE(round);
        protected_range at_once(format);
        protected_range one_by_one(format);
        for (protected_range<Format>* const p : {&at_once, &one_by_one}) {
            REQUIRE(p->pages_of.map(0, 4 * mebi - 1, 64 * mebi, {.page_sizes = sizes(4 * kibi)}, rights[0]));
            REQUIRE(p->pages_of.map(4 * mebi, 12 * mebi - 1, 68 * mebi, {}, rights[0]));
        }
        word entry = 0;
        for (word address = 0; address < 4 * mebi; address += 4 * kibi) {
            // Most are like the one before.
            const word chance = random() % 64;
            if (chance == 0) entry = encode(kind::leaf, 1, 0, rights[random() % 4], format).entry;
            if (chance == 1) entry = random() & flags;
            const word also = (chance < 60 ? 0 : random()) & flags;
            for (protected_range<Format>* const p : {&at_once, &one_by_one}) {
                word& slot = p->pages_of.slot(address, 1);
                if (entry != 0) slot = (entry & ~l.mask(role::address)) | (slot & l.mask(role::address));
                slot ^= also;
                if (chance == 2) slot = format->empty();
                if (chance == 3) slot ^= word{1} << (address >> 12) % 64;
            }
        }
        const word first = random() % 512 * (4 * kibi);
        const word last = round % 2 == 0 ? first + random() % 511 * (4 * kibi) + 4 * kibi - 1 : 12 * mebi - 1;
        const permissions& wanted = rights[random() % 4];
        at_once.run(first, last, wanted, ~word{0});
        one_by_one.run(first, last, wanted, 1);
        CHECK(at_once.end == one_by_one.end);
        CHECK(at_once.pages == one_by_one.pages);
        CHECK(at_once.bytes == one_by_one.bytes);
        CHECK(at_once.told == one_by_one.told);
        CHECK(std::equal(at_once.list.begin(), at_once.list.end(), one_by_one.list.begin(), one_by_one.list.end()));
        stretches += at_once.list.item_count();
        bool alike = true;
        for (word address = 0; address < 4 * mebi; address += 4 * kibi) {
            alike = alike && at_once.pages_of.slot(address, 1) == one_by_one.pages_of.slot(address, 1);
        }
        for (word address = 4 * mebi; address < 12 * mebi; address += 2 * mebi) {
            alike = alike && at_once.pages_of.slot(address, 2) == one_by_one.pages_of.slot(address, 2);
        }
        CHECK(alike);
    }
    CHECK(stretches > 40);
}

}  // namespace

TEST_CASE("protect changes many pages as it changes one")
{
    protect_in_both_ways(ept<ept_features{}>);
    protect_in_both_ways(ept<ept_features{.accessed_dirty = false}>);
    protect_in_both_ways(format_for(ept_features{}));
    protect_in_both_ways(long_mode);
    protect_in_both_ways(shadow<shadow_features{.shadow_stacks = true}>);
    protect_in_both_ways(format_for(shadow_features{.shadow_stacks = true}));
    protect_in_both_ways(format_for(riscv_features{.svnapot = true}));
    constexpr permissions of_arm[] = {{.execute = false},
                                      {.write = false, .execute = false},
                                      {.write = false, .execute = false, .user = false},
                                      {.execute = false, .user_execute = false}};
    protect_in_both_ways(format_for(aarch64_stage1_features{}), of_arm);
}

TEST_CASE("pages are merged only where all mean the same together")
{
    using flushing = bare<long_format, word, true>;
    const auto merged = [](flushing& b) { return merge_pages(b.t, {0, 2 * mebi - 1}, 63, b.list).pages; };
    const map_options small{.page_sizes = sizes(4 * kibi)};
    for (const char* const what :
         {"none", "missing", "a right", "a software bit", "another place", "unaligned", "above"}) {
        CAPTURE(what);
        const std::string_view wrong(what);
        flushing b(long_mode);
        map_options how = small;
        if (wrong == "above") how.ceiling.user = false;
        REQUIRE(b.map(0, 2 * mebi - 1, wrong == "unaligned" ? 4 * kibi : 2 * mebi, how));
        if (wrong == "missing") b.slot(2 * mebi - 4 * kibi, 1) = 0;
        if (wrong == "a right") b.slot(0, 1) &= ~word{2};
        if (wrong == "a software bit") b.slot(4 * kibi, 1) |= word{1} << 9;
        if (wrong == "another place") b.slot(8 * kibi, 1) += 0x1000;
        if (wrong == "above") b.slot(0, 2) &= ~word{4};
        b.slot(16 * kibi, 1) |= 0x20;
        b.slot(20 * kibi, 1) |= 0x60;
        CHECK(merged(b) == (wrong == "none" ? 1 : 0));
        CHECK(b.at(0).shift == (wrong == "none" ? 21 : 12));
        if (wrong == "none") {
            CHECK((b.slot(0, 2) & 0x60) == 0x60);
            CHECK(b.stores_at_flush.size() == 1);
        }
        if (wrong == "missing") b.slot(2 * mebi - 4 * kibi, 1) = 0;
        CHECK(b.ends_well());
    }
}

TEST_CASE("one of a run is unmapped: the others stay, with A and D of any of them")
{
    constexpr auto format = riscv<riscv_features{.svnapot = true, .svadu = true, .svvptc = true}>;
    for (const word gone : {word{0}, word{7}, word{15}}) {
        bare b(format);
        REQUIRE(b.map(0, 64 * kibi - 1, 0x10'0000));
        CHECK(b.at(0) == place{0x10'0000, 16});
        b.slot(12 * kibi, 1) |= 0xc0;  // A and D in one
        const unsigned calls = b.memory.calls;
        CHECK(b.unmap(4 * kibi * gone, 4 * kibi * (gone + 1) - 1, {.ends = range_end::split}).pages == 1);
        CHECK(b.memory.calls == calls);
        for (word i = 0; i < 16; ++i) {
            CHECK(b.at(4 * kibi * i) == (i == gone ? nowhere : place{0x10'0000 + 4 * kibi * i, 12}));
            if (i != gone) CHECK((b.slot(4 * kibi * i, 1) & 0xc0) == 0xc0);
        }
        CHECK(b.ends_well());
    }
}

TEST_CASE("A and D that come to one of a run while it is split are those of all its pages")
{
    // A TLB that took the entry as one of the run writes to the other pages without setting D again.
    constexpr auto format = riscv<riscv_features{.svnapot = true, .svadu = true, .svvptc = true}>;
    bare b(format);
    REQUIRE(b.map(0, 64 * kibi - 1, 0x10'0000));
    word& last = b.slot(60 * kibi, 1);
    b.meanwhile = [&](void* slot) {
        if (slot == &b.slot(8 * kibi, 1)) last |= 0xc0;
    };
    CHECK(split_pages(b.t, {0, 64 * kibi - 1}, 12, b.list));
    b.meanwhile = nullptr;
    for (word i = 0; i < 16; ++i) {
        CHECK(b.at(4 * kibi * i) == place{0x10'0000 + 4 * kibi * i, 12});
        CHECK((b.slot(4 * kibi * i, 1) & 0xc0) == 0xc0);
    }
    CHECK(b.ends_well());
}

TEST_CASE("a table is not freed by an unmap that goes on behind pages that are there")
{
    bare b(long_mode);
    REQUIRE(b.map(0, 2 * mebi - 1, 4 * kibi));
    const tree_result r = b.unmap(0, 4 * mebi - 1, {.from = mebi});
    CHECK(r.pages == 256);
    CHECK(r.tables_freed == 0);
    CHECK(b.at(0) == place{4 * kibi, 12});
    CHECK(b.ends_well());
}

TEST_CASE("a run whose dirty state is the write permission keeps it, of any of its entries")
{
    constexpr auto format = aarch64_stage1<aarch64_stage1_features{}>;
    constexpr word modifier = word{1} << 51;
    constexpr word denied = 1 << 7;
    const auto fill = [](auto& b) {
        REQUIRE(b.map(0, 64 * kibi - 1, 0x10'0000, {}, {.execute = false, .user = false}));
        REQUIRE(b.at(0).shift == 16);
        for (word i = 0; i < 16; ++i) b.slot(4 * kibi * i, 1) |= modifier | denied;
        b.slot(20 * kibi, 1) &= ~denied;  // as the hardware does on a write
    };
    bare<std::remove_const_t<decltype(format)>, word, true> b(format);  // runs are flushed before they change
    fill(b);
    CHECK(b.unmap(0, 64 * kibi - 1));
    REQUIRE(b.seen.size() == 1);
    CHECK(dirty(b.seen[0].entry, format));
    b.flush();
    fill(b);
    REQUIRE(split_pages(b.t, {0, 64 * kibi - 1}, 12, b.list));
    for (word i = 0; i < 16; ++i) {
        CHECK(b.at(4 * kibi * i) == place{0x10'0000 + 4 * kibi * i, 12});
        CHECK(dirty(b.slot(4 * kibi * i, 1), format));
    }
    CHECK(b.unmap(0, 64 * kibi - 1));
    b.flush();
    fill(b);
    b.seen.clear();
    CHECK(b.protect(0, 64 * kibi - 1, {.write = false, .execute = false, .user = false}));
    REQUIRE(b.seen.size() == 1);
    CHECK(dirty(b.seen[0].entry, format));
    CHECK(address_of(b.seen[0].entry, 1, format) == 0x10'0000);
    CHECK(b.ends_well());
}

TEST_CASE("pages that were protected are published before a run behind them is flushed")
{
    constexpr auto format = aarch64_stage1<aarch64_stage1_features{.dirty_state = false}>;
    constexpr permissions kernels{.execute = false, .user = false};
    bare<std::remove_const_t<decltype(format)>, word, true> b(format);
    REQUIRE(b.map(0, 64 * kibi - 1, 0x10'0000, {.page_sizes = sizes(4 * kibi)}, kernels));
    REQUIRE(b.map(64 * kibi, 128 * kibi - 1, 0x11'0000, {}, kernels));
    REQUIRE(b.at(60 * kibi).shift == 12);
    REQUIRE(b.at(64 * kibi).shift == 16);
    CHECK(b.protect(0, 128 * kibi - 1, {.write = false, .execute = false, .user = false}).pages == 17);
    CHECK(b.stores_at_flush.size() == 1);
    CHECK(b.unpublished_at_flush == 0);
    CHECK(b.ends_well());
}

TEST_CASE("a page in the middle of a run's slots is refused, kept, the same, or replaced")
{
    constexpr auto format = riscv<riscv_features{.svnapot = true, .svvptc = true}>;
    const auto begin = [](auto& b) { REQUIRE(b.map(20 * kibi, 24 * kibi - 1, 0x10'5000)); };
    bare same(format);
    begin(same);
    CHECK(same.map(0, 64 * kibi - 1, 0x10'0000).pages == 15);
    CHECK(same.at(0) == place{0x10'0000, 12});
    bare refused(format);
    begin(refused);
    const tree_result r = refused.map(0, 64 * kibi - 1, 0x20'0000);
    CHECK(r.end == tree_end::occupied);
    CHECK(r.next == 20 * kibi);
    CHECK(refused.map(64 * kibi, 128 * kibi - 1, 0x20'0000).pages == 1);
    bare alone(format);
    begin(alone);
    CHECK(alone.map(0, 64 * kibi - 1, 0x20'0000, {.what_exists = existing::keep, .page_sizes = sizes(64 * kibi)}).end ==
          tree_end::occupied);
    CHECK(alone.at(0) == nowhere);
    bare kept(format);
    begin(kept);
    CHECK(kept.map(0, 64 * kibi - 1, 0x20'0000, {.what_exists = existing::keep}).pages == 15);
    CHECK(kept.at(0) == place{0x20'0000, 12});
    CHECK(kept.at(20 * kibi) == place{0x10'5000, 12});
    CHECK(kept.map(0, 64 * kibi - 1, 0x20'0000, {.what_exists = existing::replace}).pages == 1);
    CHECK(kept.at(20 * kibi) == place{0x20'5000, 16});
    for (auto* const b : {&same, &refused, &alone, &kept}) CHECK(b->ends_well());
}

TEST_CASE("the allocator fails at each call: nothing leaks, and the operation goes on later")
{
    for (unsigned at = 1; at < 12; ++at) {
        CAPTURE(at);
        bare b(long_mode);
        b.memory.fail_at = at;
        const map_options how{.page_sizes = sizes(4 * kibi)};
        tree_result r = b.map(512 * gibi - 2 * mebi, 512 * gibi + 2 * mebi - 1, 0, how);
        if (at <= 6) {
            CHECK(r.end == tree_end::no_memory);
            CHECK(b.tables() == r.tables_made);
            map_options again = how;
            again.from = r.next;
            CHECK(b.map(512 * gibi - 2 * mebi, 512 * gibi + 2 * mebi - 1, 0, again));
        } else {
            CHECK(r);
        }
        CHECK(b.tables() == 6);
        REQUIRE(b.map(0, gibi - 1, 0));
        REQUIRE(b.map(gibi, 2 * gibi - 1, 0));
        b.memory.fail_at = at;
        const word before = b.tables();
        const range_options ends{.ends = range_end::split};
        r = b.unmap(4 * kibi, 2 * gibi - 4 * kibi - 1, ends);
        if (at <= 4) {
            // Before anything was changed.
            CHECK(r.end == tree_end::no_memory);
            CHECK(b.at(0).shift == 30);
            CHECK(b.at(2 * gibi - 1).shift == 30);
            CHECK(b.tables() == before);
            b.memory.fail_at = at;
            CHECK(b.protect(4 * kibi, 2 * gibi - 4 * kibi - 1, read_only, ends).end == tree_end::no_memory);
            CHECK(writable(b.slot(0, 3), b.format, 3));
            CHECK(b.unmap(4 * kibi, 2 * gibi - 4 * kibi - 1, ends));
        } else {
            CHECK(r);
        }
        CHECK(b.at(0) == place{0, 12});
        CHECK(b.at(4 * kibi) == nowhere);
        CHECK(b.ends_well());
    }
}

TEST_CASE("borrowed slots are never cut, read below, or freed")
{
    bare b(long_mode);
    b.t.borrowed = {256, 511};
    auto* const top = b.memory.slot(b.root);
    top[256] = 0x7777'7000 | 7;  // leads to what is no memory
    const word first = upper_begin;
    CHECK(b.map(first, first + 4 * kibi - 1, 0).end == tree_end::borrowed);
    CHECK(b.unmap(first, first + 4 * kibi - 1).end == tree_end::borrowed);
    CHECK(b.unmap(0, last_address).end == tree_end::borrowed);
    CHECK(b.protect(first, last_address, read_only).end == tree_end::borrowed);
    CHECK(prune(b.t, {0, last_address}, b.list).end == tree_end::borrowed);
    CHECK(split_pages(b.t, {0, last_address}, 12, b.list).end == tree_end::borrowed);
    CHECK(make_slot(b.t, last_address, 1, b.list).end == tree_end::borrowed);
    REQUIRE(b.map(0, 4 * kibi - 1, 0));
    CHECK(b.ends_well());
    CHECK(top[256] == (0x7777'7000 | 7));
    CHECK(clear_root(b.t) == tree_end::done);
    CHECK(top[256] == (0x7777'7000 | 7));
}

TEST_CASE("a new top entry permits no more than the ceiling")
{
    bare b(long_mode);
    REQUIRE(b.map(0, 4 * kibi - 1, 0, {.ceiling = {.user = false}}));
    CHECK((b.slot(0, 4) & 7) == 3);
    CHECK((b.slot(0, 3) & 7) == 7);
    REQUIRE(make_slot(b.t, 512 * gibi, 1, b.list, {.user = false}));
    CHECK((b.slot(512 * gibi, 4) & 7) == 3);
    CHECK((b.slot(512 * gibi, 2) & 7) == 7);
    CHECK(b.ends_well());
}

TEST_CASE("top tables of 2 to 8192 slots")
{
    const auto check = [](auto& b, unsigned slots) {
        const shape& s = b.format->shape();
        CHECK((1U << s.index_bits_at(s.levels)) == slots);
        const word page = word{1} << s.page_shift(1);
        const word end = ones(s.address_bits() - 1, 0);
        for (const word first : {word{0}, end - page + 1}) {
            const word address = s.extended(first);
            REQUIRE(b.map(address, address + (page - 1), 0));
            CHECK(b.at(address) == place{0, s.page_shift(1)});
        }
        CHECK(b.unmap(s.extended(0), s.extended(end)).pages == 2);
        CHECK(b.ends_well());
    };
    bare two(of<small<ept_description, 3, 2, 3, 1>>({}));
    check(two, 2);
    bare four(format_for(shadow_features{.levels = 3}));
    check(four, 4);
    bare thirty_two(of<small<ept_description, 3, 2, 3, 5>>({}));
    check(thirty_two, 32);
    bare many(format_for(aarch64_stage2_features{.levels = 3, .input_bits = 43}));
    check(many, 8192);
    bare<runtime_format<riscv_description>, std::uint32_t> thousand(format_for(riscv_features{.levels = 2}));
    check(thousand, 1024);
    bare one_level(format_for(amdvi_host_features{.levels = 1}));
    check(one_level, 512);
    bare six_levels(format_for(amdvi_host_features{.levels = 6}));
    check(six_levels, 128);
}

TEST_CASE("a table that skips levels translates its own span alone")
{
    constexpr auto format = amdvi_host<amdvi_host_features{.levels = 4}>;
    bare b(format);
    // Of level 4 to one of level 1, by hand: 2 Mbytes of 512 Gbytes.
    const auto lowest = b.memory.allocate(1);
    for (word i = 0; i < 512; ++i) *b.memory.slot(*lowest + 8 * i) = 0;
    b.slot(0, 4) = encode(kind::table, 2, *lowest, {}, format).entry;
    REQUIRE(format->level_below(b.slot(0, 4), 4) == 1);
    const map_options small{.page_sizes = sizes(4 * kibi)};
    CHECK(b.map(4 * kibi, 8 * kibi - 1, 0x5000, small));
    CHECK(b.at(4 * kibi) == place{0x5000, 12});
    CHECK(b.map(2 * mebi, 2 * mebi + 4 * kibi - 1, 0, small).end == tree_end::occupied);
    CHECK(make_slot(b.t, 2 * mebi, 1, b.list).end == tree_end::occupied);
    CHECK(b.at(2 * mebi) == nowhere);
    CHECK(b.unmap(2 * mebi, 4 * mebi - 1).pages == 0);
    CHECK(b.protect(0, 4 * mebi - 1, read_only).pages == 1);
    CHECK(b.unmap(0, 2 * mebi - 1).tables_freed == 1);
    CHECK(b.tables() == 0);
    CHECK(b.ends_well());
}

TEST_CASE("entries that are no page: in the way of map, removed and told by unmap, kept by prune")
{
    for (const word entry : {word{0x100}, word{0x0000'0000'0060'2087}}) {  // absent; a large page with a reserved bit
        bare b(long_mode);
        REQUIRE(make_slot(b.t, 2 * mebi, 2, b.list));
        b.slot(2 * mebi, 2) = entry;
        REQUIRE(!is_empty(entry, long_mode));
        for (const existing how : {existing::refuse, existing::keep, existing::replace}) {
            const tree_result r = b.map(2 * mebi, 2 * mebi + 4 * kibi - 1, 0, {.what_exists = how});
            CHECK(r.end == tree_end::occupied);
            CHECK(r.entry == entry);
            CHECK(r.level == 2);
        }
        CHECK(prune(b.t, {0, last_address}, b.list).tables_freed == 0);
        CHECK(b.protect(0, gibi - 1, read_only).pages == 0);
        REQUIRE(b.seen.size() == 1);  // it says what it leaves
        CHECK(b.seen[0].is == kind::none);
        CHECK(b.seen[0].entry == entry);
        CHECK(b.seen[0].address == 2 * mebi);
        b.seen.clear();
        CHECK(b.slot(2 * mebi, 2) == entry);
        CHECK(b.unmap(2 * mebi, 2 * mebi + 4 * kibi - 1).end == tree_end::inside_page);
        CHECK(b.unmap(2 * mebi, 2 * mebi + 4 * kibi - 1, {.ends = range_end::split}).end == tree_end::cannot_split);
        CHECK(b.unmap(2 * mebi, 4 * mebi - 1));
        REQUIRE(b.seen.size() == 1);
        CHECK(b.seen[0].is == kind::none);
        CHECK(b.seen[0].entry == entry);
        CHECK(prune(b.t, {0, last_address}, b.list).tables_freed == 2);
        CHECK(b.ends_well());
    }
}

TEST_CASE("a live page that must be absent first is flushed before the new one, or refused")
{
    const auto format = of<small_arm>({.dirty_state = false}, {.make = true});
    const word page = 4 * kibi;
    const word large = word{1} << format->shape().page_shift(2);
    const map_options over{.what_exists = existing::replace};
    const permissions kernel{.execute = false, .user = false};
    bare<runtime_format<small_arm>, word, false> silent(format);
    REQUIRE(silent.map(0, page - 1, 0, {}, kernel));
    REQUIRE(silent.map(large, 2 * large - 1, 0, {}, kernel));
    const unsigned stores = silent.stores;
    CHECK(silent.map(0, page - 1, page, over, kernel).end == tree_end::cannot_change_live);
    CHECK(silent.map(large, large + page - 1, page, over, kernel).end == tree_end::cannot_change_live);
    CHECK(silent.unmap(large, large + page - 1, {.ends = range_end::split}).end == tree_end::cannot_change_live);
    CHECK(split_pages(silent.t, {large, 2 * large - 1}, 12, silent.list).end == tree_end::cannot_change_live);
    CHECK(silent.stores == stores);
    CHECK(silent.protect(0, page - 1, {.write = false, .execute = false, .user = false}));
    CHECK(silent.ends_well());

    bare<runtime_format<small_arm>, word, true> b(format);
    REQUIRE(b.map(0, page - 1, 0, {}, kernel));
    REQUIRE(b.map(large, 2 * large - 1, 0, {}, kernel));
    const unsigned before = b.stores;
    CHECK(b.map(0, page - 1, page, over, kernel));
    REQUIRE(b.stores_at_flush.size() == 1);
    CHECK(b.stores_at_flush[0] > before);
    CHECK(b.stores > b.stores_at_flush[0]);
    CHECK(split_pages(b.t, {large, 2 * large - 1}, 12, b.list));
    CHECK(b.stores_at_flush.size() == 2);
    CHECK(b.ends_well());
}

TEST_CASE("operations with a limit of one go on each time")
{
    bare b(long_mode);
    const word end = 4 * mebi - 1;
    word pages = 0;
    for (word from = 0;;) {
        const tree_result r = b.map(0, end, 4 * kibi, {.limit = 1, .from = from});
        pages += r.pages;
        if (r) break;
        REQUIRE(r.end == tree_end::limit);
        REQUIRE(r.next > from);
        from = r.next;
    }
    CHECK(pages == 1024);
    pages = 0;
    for (word from = 0;;) {
        const tree_result r = b.unmap(0, end, {.limit = 1, .from = from});
        pages += r.pages;
        if (r) break;
        REQUIRE(r.next > from);
        from = r.next;
    }
    CHECK(pages == 1024);
    CHECK(b.tables() == 2);
    CHECK(b.ends_well());
}

TEST_CASE("a list tells nothing from not recorded, and everything when it is full")
{
    bare b(long_mode);
    flush_list_of<1, 1> list;
    CHECK(list.due() == flush_due::not_recorded);
    REQUIRE(map(b.t, {0, 4 * mebi - 1}, 4 * kibi, {}, list));
    CHECK(list.due() == flush_due::nothing);
    REQUIRE(unmap(b.t, {0, 4 * kibi - 1}, list));
    CHECK(list.due() == flush_due::items);
    REQUIRE(unmap(b.t, {16 * kibi, 20 * kibi - 1}, list));
    CHECK(list.due() == flush_due::everything);
    const tree_result r = unmap(b.t, {0, 4 * mebi - 1}, list);
    CHECK(r.end == tree_end::list_full);
    CHECK(list.table_count() == 1);
    b.memory.may_release = true;
    flushed(b.t, list);
    CHECK(list.due() == flush_due::not_recorded);
    const tree_result rest = unmap(b.t, {0, 4 * mebi - 1}, list, {.from = r.next});
    CHECK(rest);
    CHECK(rest.tables_freed == 1);
    flushed(b.t, list);
    b.memory.may_release = false;
    CHECK(b.ends_well());
}

TEST_CASE("written ranges have no more than their room, and undo takes back just them")
{
    bare b(long_mode);
    REQUIRE(b.map(8 * kibi, 12 * kibi - 1, 0x9000));
    inclusive_range room[1];
    written_ranges written(room, 1);
    const map_options how{.what_exists = existing::keep, .written = &written};
    const tree_result r = b.map(0, 20 * kibi - 1, 0x10'0000, how);
    CHECK(r.end == tree_end::limit);
    CHECK(r.next == 8 * kibi);
    CHECK(undo(b.t, written, b.list).pages == 2);
    CHECK(b.at(0) == nowhere);
    CHECK(b.at(8 * kibi) == place{0x9000, 12});
    // Also where pages are replaced.
    REQUIRE(b.map(32 * kibi, 36 * kibi - 1, 0x9000));
    written.clear();
    const map_options over{.what_exists = existing::replace, .written = &written};
    CHECK(b.map(24 * kibi, 36 * kibi - 1, 0x10'0000, over).end == tree_end::limit);
    CHECK(written.end() - written.begin() == 1);
    CHECK(b.ends_well());
}

TEST_CASE("a root that is none, and a table that memory does not have")
{
    bare b(long_mode);
    b.t.root = 0x8'0010;
    CHECK(b.map(0, 4 * kibi - 1, 0).end == tree_end::not_a_root);
    CHECK(b.unmap(0, 4 * kibi - 1).end == tree_end::not_a_root);
    CHECK(clear_root(b.t) == tree_end::not_a_root);
    b.t.root = b.root;
    b.slot(0, 4) = 0x7777'7007;
    CHECK(b.map(0, 4 * kibi - 1, 0).end == tree_end::table_missing);
    CHECK(b.unmap(0, 4 * kibi - 1).end == tree_end::table_missing);
    CHECK(b.protect(0, 4 * kibi - 1, read_only).end == tree_end::table_missing);
    b.slot(0, 4) = 0;
}

TEST_CASE("a small range in a table that is there is judged as any other")
{
    bare b(shadow<shadow_features{.physical_bits = 46}>);
    constexpr word page = 4 * kibi;
    constexpr word end = word{1} << 46;
    REQUIRE(b.map(0, page - 1, 0x9000));
    const auto none = [&](const tree_result& r, tree_end why) {
        CHECK(r.end == why);
        CHECK(r.pages == 0);
        CHECK(b.tables() == 3);
        for (const word address : {page, 2 * page, 511 * page}) CHECK(b.at(address) == nowhere);
    };
    none(b.map(page, 2 * page, 0x1000), tree_end::misaligned);
    none(b.map(page + 8, 2 * page - 1, 0x1008), tree_end::misaligned);
    none(b.map(page, 3 * page - 1, 0x1800), tree_end::misaligned);
    none(b.map(page, 3 * page - 1, 0x1000, {.page_sizes = 2 * mebi}), tree_end::misaligned);
    none(b.map(page, 3 * page - 1, end - page), tree_end::physical_too_wide);
    none(b.map(page, 3 * page - 1, last_address - page + 1), tree_end::physical_too_wide);
    none(b.map(page, 3 * page - 1, 0, {}, {.read = false}), tree_end::not_encodable);
    none(b.map(page, 3 * page - 1, 0, {.attributes = {.key_id = 1}}), tree_end::not_encodable);
    none(b.map(page, 3 * page - 1, 0, {.ceiling = {.read = false}}), tree_end::not_encodable);
    none(b.map(page, 3 * page - 1, 0, {.from = 3 * page}), tree_end::done);
    none(b.map(2 * page, page - 1, 0), tree_end::done);
    b.t.borrowed = {0, 0};
    none(b.map(page, 3 * page - 1, 0), tree_end::borrowed);
    CHECK(b.unmap(0, page - 1).end == tree_end::borrowed);
    b.t.borrowed = {};
    CHECK(b.unmap(0, page).end == tree_end::misaligned);
    CHECK(b.unmap(8, page - 1).end == tree_end::misaligned);
    CHECK(b.unmap(0, 2 * page - 1, {.from = page}).pages == 0);
    CHECK(b.list.due() == flush_due::nothing);

    // The last pages that fit.
    CHECK(b.map(page, 3 * page - 1, end - 2 * page));
    CHECK(b.at(2 * page) == place{end - page, 12});
    CHECK(b.list.due() == flush_due::nothing);
    // As far as the limit goes, and on.
    const tree_result some = b.map(8 * page, 12 * page - 1, 0x8000, {.limit = 2});
    CHECK(some.end == tree_end::limit);
    CHECK(some.pages < 4);
    CHECK(b.map(8 * page, 12 * page - 1, 0x8000, {.from = some.next}).pages == 4 - some.pages);
    CHECK(b.at(11 * page) == place{0xb000, 12});
    // What is there already: up to it, then as is asked for.
    const tree_result met = b.map(6 * page, 12 * page - 1, 0x1'0000);
    CHECK(met.end == tree_end::occupied);
    CHECK(met.next == 8 * page);
    CHECK(met.pages == 2);
    CHECK(met.bytes == 2 * page);
    const tree_result kept = b.map(4 * page, 16 * page - 1, 0x2'0000, {.what_exists = existing::keep});
    CHECK(kept);
    CHECK(kept.pages == 6);
    CHECK(b.at(8 * page) == place{0x8000, 12});
    CHECK(b.at(15 * page) == place{0x2'b000, 12});
    inclusive_range room[1];
    written_ranges written(room, 1);
    CHECK(b.map(20 * page, 22 * page - 1, 0, {.written = &written}));
    REQUIRE(written.end() - written.begin() == 1);
    CHECK(room[0].last == 22 * page - 1);

    // Unmapped: up to what is no page, behind it, and the report.
    b.seen.clear();
    const tree_result gone = b.unmap(19 * page, 24 * page - 1);
    CHECK(gone);
    CHECK(gone.pages == 2);
    CHECK(gone.range.first == 19 * page);
    CHECK(gone.range.last == 24 * page - 1);
    REQUIRE(b.map(20 * page, 22 * page - 1, 0));
    REQUIRE(b.unmap(20 * page, 22 * page - 1));
    REQUIRE(b.seen.size() == 4);
    for (const unsigned n : {0U, 1U, 2U, 3U}) CHECK(b.seen[n].address == (20 + n % 2) * page);
    b.seen.clear();
    CHECK(b.unmap(14 * page, 15 * page - 1).pages == 1);
    const tree_result over = b.unmap(13 * page, 16 * page - 1);
    CHECK(over);
    CHECK(over.pages == 2);
    CHECK(over.bytes == 2 * page);
    CHECK(over.range.first == 13 * page);
    CHECK(b.seen.size() == 3);
    CHECK(b.unmap(8 * page, 12 * page - 1, {.limit = 1}).end == tree_end::limit);
    // The whole table goes, also where all of it was mapped; a large page takes the place of an empty one.
    CHECK(b.unmap(0, 2 * mebi - 1).tables_freed == 1);
    b.flush();
    REQUIRE(b.map(0, 2 * mebi - 1, 0, {.page_sizes = page}));
    CHECK(b.unmap(0, 2 * mebi - 1).tables_freed == 1);
    b.flush();
    REQUIRE(b.map(0, page - 1, 0));
    REQUIRE(b.unmap(0, page - 1));
    CHECK(b.tables() == 3);
    b.flush();
    CHECK(b.map(0, 2 * mebi - 1, 0).tables_freed == 1);
    CHECK(b.at(0) == place{0, 21});
    b.flush();
    CHECK(b.ends_well());
}
