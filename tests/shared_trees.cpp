// Trees that several threads change at once: what one thread does between the steps of another, and a run of
// threads over one tree beside a thread that does what an MMU does, with a TLB of its own. Everything is counted.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <ptebits/ptebits.hpp>
#include <ptebits/x86.hpp>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

using namespace ptebits;

namespace {

using word = std::uint64_t;
using range = inclusive_range;

constexpr auto host = ept<ept_features{.physical_bits = 46}>;
constexpr auto no_ad = ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>;
constexpr auto guest = shadow<shadow_features{.physical_bits = 46}>;
// CPUs that do not bear a page in two sizes.
constexpr auto careful = ept<ept_features{.physical_bits = 46, .break_before_resize = true}>;
constexpr auto hart = riscv<riscv_features{.svnapot = true, .svadu = true, .svvptc = true}>;
template <const auto& Format>
using type_of = std::remove_cvref_t<decltype(Format)>;

constexpr word marker_value = 0x8000'0000'0000'0400;
constexpr word busy_value = 0x8000'0000'0000'0800;
constexpr word page_bytes = 4096;
constexpr word large_bytes = 512 * page_bytes;
constexpr word gib = 512 * large_bytes;

// ---- tables

// Tables that are given and taken back by several threads. What was taken back is poison, which no walk may meet and
// nobody may change.
class table_pool {
public:
    static constexpr word poison = ~word{0};
    static constexpr word base = 0x100'0000;

    explicit table_pool(unsigned count) : words_(std::size_t{count} * 512, poison), level_(count)
    {
        for (unsigned n = count; n-- > 0;) free_.push_back(n);
    }

    [[nodiscard]] word* at(word physical)
    {
        const word index = (physical - base) / 8;
        return index < words_.size() ? &words_[index] : nullptr;
    }
    [[nodiscard]] optional_address allocate(unsigned level)
    {
        const std::scoped_lock lock(mutex_);
        if (free_.empty() || used_ == most) return {};
        // Now the one that was given back last, now the one before.
        std::size_t which = free_.size() - 1;
        if (which > 0 && (++calls_ & 1) != 0) --which;
        const unsigned n = free_[which];
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(which));
        level_[n] = level;
        ++used_;
        for (word i = 0; i < 512; ++i) wrong += atomic_access<>::load(words_[word{n} * 512 + i]) != poison;
        return base + n * page_bytes;
    }
    void release(word physical, unsigned level)
    {
        const std::scoped_lock lock(mutex_);
        const word n = (physical - base) / page_bytes;
        if (n >= level_.size() || level_[n] != level) {
            ++wrong;
            return;
        }
        level_[n] = 0;
        --used_;
        for (word i = 0; i < 512; ++i) atomic_access<>::store(words_[n * 512 + i], poison);
        free_.push_back(static_cast<unsigned>(n));
    }
    [[nodiscard]] unsigned used() const { return used_; }

    unsigned most = ~0U;
    std::uint64_t wrong = 0;  // tables released twice or as others, or changed after they were

private:
    std::vector<word> words_;
    std::vector<unsigned> level_;  // 0: not given out
    std::vector<unsigned> free_;
    std::mutex mutex_;
    unsigned used_ = 0;
    unsigned calls_ = 0;
};

struct pool_memory {
    table_pool* pool;
    word* operator()(word physical) const { return pool->at(physical); }
};
struct pool_allocator {
    table_pool* pool;
    [[nodiscard]] optional_address allocate(unsigned level) const { return pool->allocate(level); }
    void release(word physical, unsigned level) const { pool->release(physical, level); }
};

// ---- one thread: what others would see between the steps

// A read section that is only counted.
struct counted_readers {
    struct counts {
        int inside = 0;
        int entered = 0;
        int waited = 0;
        unsigned tables_at_wait = 0;
    };
    counts* count;
    table_pool* pool;

    void enter() const { ++count->inside, ++count->entered; }
    void leave() const { --count->inside; }
    void wait() const
    {
        CHECK(count->inside == 0);
        ++count->waited;
        count->tables_at_wait = pool->used();
    }
};

template <class Format, class Readers>
struct small_world {
    static constexpr Format format{};
    static constexpr auto marker = frozen_marker<marker_value>(format);

    table_pool pool{64};
    counted_readers::counts readers;
    tree<Format, pool_memory, pool_allocator, shared<std::remove_cv_t<decltype(marker)>, Readers>> t;

    small_world() : small_world(make_readers()) {}
    explicit small_world(Readers r)
        : t{format, *pool.allocate(Format {} -> shape().levels), {&pool}, {&pool}, shared{marker, r}, {}, {}}
    {
        REQUIRE(clear_root(t) == tree_end::done);
    }
    ~small_world()
    {
        CHECK(pool.wrong == 0);
        CHECK(readers.inside == 0);
    }
    small_world(const small_world&) = delete;
    small_world& operator=(const small_world&) = delete;

    Readers make_readers()
    {
        if constexpr (std::is_same_v<Readers, tables_stay>) {
            return {};
        } else {
            return {&readers, &pool};
        }
    }

    void put(word address, word bytes, word physical, const map_options& options = {})
    {
        flush_list_of<> list;
        REQUIRE(map(t, {address, address + (bytes - 1)}, physical, {}, list, options));
        REQUIRE(list.due() == flush_due::nothing);
    }
    [[nodiscard]] word entry(word address, unsigned level = 1)
    {
        const auto at = find_slot(t, address, level);
        return at ? at.entry : 0;
    }
    [[nodiscard]] word* slot(word address, unsigned level = 1) { return find_slot(t, address, level).slot; }
    [[nodiscard]] bool frozen(word address, unsigned level = 1)
    {
        const auto at = find_slot(t, address, level);
        return at && is_frozen(at.entry, marker);
    }
    [[nodiscard]] bool mapped(word address, unsigned level = 1)
    {
        const word there = entry(address, level);
        return kind_of(there, level, format) == kind::leaf && legal(there, level, format);
    }
    [[nodiscard]] tree_end map_one(word address, word physical)
    {
        flush_list_of<> list;
        return map(t, {address, address + (page_bytes - 1)}, physical, {}, list).end;
    }
};

using world = small_world<type_of<host>, counted_readers>;
using staying_world = small_world<type_of<host>, tables_stay>;

constexpr range pages(word first, word count) { return {first * page_bytes, (first + count) * page_bytes - 1}; }

}  // namespace

TEST_CASE("a slot that was unmapped is frozen until its flush is reported: map says pending, then maps")
{
    world w;
    w.put(0x1000, page_bytes, 0x5000);
    w.put(0x3000, page_bytes, 0x6000);
    flush_list_of<> list;
    word taken = 0;
    REQUIRE(unmap(w.t, pages(1, 1), list, {}, [&](const taken_page& p) { taken = p.entry; }));
    CHECK(host->layout_at(1, kind::leaf).address_in(taken) == 0x5000);
    REQUIRE(list.due() == flush_due::items);
    REQUIRE(list.item_count() == 1);
    CHECK(*list.begin() == flush_item{0x1000, 0x1fff, 12, false, 1});
    CHECK(w.frozen(0x1000));

    flush_list_of<> other;
    const tree_result late = map(w.t, pages(0, 3), 0x7000, {}, other);
    CHECK(late.end == tree_end::pending);
    CHECK(late.next == 0x1000);
    CHECK(late.pages == 1);
    CHECK(late.level == 1);

    flushed(w.t, list);
    CHECK(list.due() == flush_due::not_recorded);
    CHECK(w.entry(0x1000) == host->empty());
    const tree_result again = map(w.t, pages(0, 3), 0x7000, {}, other, {.from = late.next});
    CHECK(again);
    CHECK(again.pages == 2);
    CHECK(host->layout_at(1, kind::leaf).address_in(w.entry(0x1000)) == 0x8000);
    CHECK(w.readers.entered > 3);
}

TEST_CASE("flushed() empties what its own list froze and nothing else: two lists in turn")
{
    world w;
    w.put(0, 8 * page_bytes, 0x10'0000);
    flush_list_of<> a;
    flush_list_of<> b;
    for (const word n : {0U, 2U, 4U}) REQUIRE(unmap(w.t, pages(n, 1), a));
    for (const word n : {1U, 3U}) REQUIRE(unmap(w.t, pages(n, 1), b));
    CHECK(a.item_count() == 3);
    // All five: nothing to take any more, and all to be flushed, for the other's flush may come later.
    const tree_result all = unmap(w.t, pages(0, 6), b);
    CHECK(all);
    CHECK(all.pages == 1);
    std::array<bool, 6> covered{};
    for (const flush_item& item : b) {
        for (word n = item.first / page_bytes; n <= item.last / page_bytes; ++n) covered[n] = true;
    }
    CHECK(std::all_of(covered.begin(), covered.end(), [](bool c) { return c; }));

    flushed(w.t, b);
    for (const word n : {0U, 2U, 4U}) CHECK(w.frozen(n * page_bytes));
    for (const word n : {1U, 3U, 5U}) CHECK(w.entry(n * page_bytes) == host->empty());
    for (const word n : {6U, 7U}) CHECK(w.mapped(n * page_bytes));
    // What is mapped anew between the two reports stays.
    CHECK(w.map_one(0x1000, 0x9000) == tree_end::done);
    flushed(w.t, a);
    for (const word n : {0U, 2U, 3U, 4U, 5U}) CHECK(w.entry(n * page_bytes) == host->empty());
    for (const word n : {1U, 6U, 7U}) CHECK(w.mapped(n * page_bytes));
}

TEST_CASE("a full list stops unmap before it takes more, and nothing is lost")
{
    world w;
    for (const word n : {0U, 2U, 4U, 6U}) w.put(n * page_bytes, page_bytes, 0x10'0000 + n * page_bytes);
    flush_list_of<2, 1> list;
    unsigned reported = 0;
    const auto report = [&](const taken_page&) { ++reported; };
    const tree_result first = unmap(w.t, pages(0, 8), list, {}, report);
    CHECK(first.end == tree_end::list_full);
    CHECK(first.next == 0x4000);
    CHECK(first.pages == 2);
    CHECK(reported == 2);
    CHECK(list.due() == flush_due::items);
    CHECK(w.mapped(0x4000));
    CHECK(w.mapped(0x6000));
    // Without a flush there is still no room.
    const tree_result stuck = unmap(w.t, pages(0, 8), list, {.from = first.next}, report);
    CHECK(stuck.end == tree_end::list_full);
    CHECK(reported == 2);

    flushed(w.t, list);
    CHECK(w.entry(0) == host->empty());
    const tree_result rest = unmap(w.t, pages(0, 8), list, {.from = first.next}, report);
    CHECK(rest);
    CHECK(rest.pages == 2);
    CHECK(reported == 4);
    flushed(w.t, list);
    CHECK(w.entry(0x6000) == host->empty());
}

TEST_CASE("a list without room for a table or its item leaves the table where it is, with its empty slots")
{
    for (const bool items_are_short : {false, true}) {
        CAPTURE(items_are_short);
        world w;
        w.put(0, page_bytes, 0x10'0000);
        w.put(large_bytes, page_bytes, 0x20'0000);
        flush_list_of<2, 8> few_items;
        flush_list_of<8, 1> few_tables;
        flush_list& list = items_are_short ? static_cast<flush_list&>(few_items) : few_tables;
        // Fills what is short.
        w.put(gib, page_bytes, 0x30'0000);
        w.put(gib + 2 * page_bytes, page_bytes, 0x30'0000);
        REQUIRE(unmap(w.t, {gib, gib + (items_are_short ? page_bytes : large_bytes) - 1}, list));
        const tree_result first = unmap(w.t, {0, 2 * large_bytes - 1}, list);
        CHECK(first.end == tree_end::list_full);
        CHECK(first.next == (items_are_short ? large_bytes : 0));
        CHECK(w.pool.used() == 7);
        flushed(w.t, list);
        CHECK(w.pool.used() == 6);
        // The slots are empty, not frozen: others map there.
        CHECK(w.map_one(0x5000, 0x9000) == tree_end::done);
        tree_result next = unmap(w.t, {0, 2 * large_bytes - 1}, list, {.from = first.next});
        while (next.end == tree_end::list_full) {
            flushed(w.t, list);
            next = unmap(w.t, {0, 2 * large_bytes - 1}, list, {.from = next.next});
        }
        CHECK(next);
        flushed(w.t, list);
        CHECK(w.pool.used() == (items_are_short ? 6 : 4));
    }
}

TEST_CASE(
    "a table goes when all that it held was taken; late mappers find its slots frozen, and readers are waited for")
{
    world w;
    w.put(0, page_bytes, 0x10'0000);
    w.put(large_bytes, page_bytes, 0x20'0000);
    CHECK(w.pool.used() == 5);
    word* const last_slot = w.slot(511 * page_bytes);  // as a thread has it that came before
    flush_list_of<> list;
    const tree_result r = unmap(w.t, {0, large_bytes - 1}, list);
    REQUIRE(r);
    CHECK(r.tables_freed == 1);
    REQUIRE(list.item_count() == 1);
    CHECK(*list.begin() == flush_item{0, large_bytes - 1, 12, true, 2});
    REQUIRE(list.table_count() == 1);
    CHECK(list.table(0).level == 1);
    CHECK(w.frozen(0, 2));
    CHECK(is_frozen(*last_slot, w.marker));
    CHECK(w.map_one(0x5000, 0x9000) == tree_end::pending);
    CHECK(make_slot(w.t, 0x5000, 1, list).end == tree_end::pending);

    flushed(w.t, list);
    CHECK(w.readers.waited == 1);
    CHECK(w.readers.tables_at_wait == 5);  // not given back before
    CHECK(w.pool.used() == 4);
    CHECK(w.entry(0, 2) == host->empty());
    CHECK(w.map_one(0x5000, 0x9000) == tree_end::done);
    // Nothing waits where there is nothing to give back.
    REQUIRE(unmap(w.t, pages(5, 1), list));
    flushed(w.t, list);
    CHECK(w.readers.waited == 1);
}

TEST_CASE("the tables of all levels go together, and one item says so")
{
    world w;
    w.put(0, page_bytes, 0x10'0000);
    w.put(3 * gib + 5 * large_bytes, 3 * page_bytes, 0x20'0000);
    w.put(3 * gib + large_bytes, large_bytes, 0x40'0000);
    CHECK(w.pool.used() == 6);
    flush_list_of<8, 8> list;
    const tree_result r = unmap(w.t, {}, list);
    REQUIRE(r);
    CHECK(r.pages == 5);
    CHECK(r.tables_freed == 5);
    REQUIRE(list.item_count() == 1);
    CHECK(*list.begin() == flush_item{0, 512 * gib - 1, 12, true, 4});
    flushed(w.t, list);
    CHECK(w.pool.used() == 1);
    CHECK(w.entry(0, 4) == host->empty());
}

TEST_CASE("a table is not taken out with a slot that another list froze; prune does it later")
{
    world w;
    w.put(0, 3 * page_bytes, 0x10'0000);
    flush_list_of<> a;
    flush_list_of<> b;
    REQUIRE(unmap(w.t, pages(1, 1), a));
    const tree_result r = unmap(w.t, {0, large_bytes - 1}, b);
    CHECK(r);
    CHECK(r.pages == 2);
    CHECK(r.tables_freed == 0);
    CHECK(w.frozen(0));
    CHECK(w.frozen(0x2000));
    CHECK(w.entry(0x3000) == host->empty());  // was not frozen, or is no more
    const tree_result none = prune(w.t, {0, large_bytes - 1}, b);
    CHECK(none);
    CHECK(none.tables_freed == 0);
    flushed(w.t, b);
    CHECK(w.frozen(0x1000));
    CHECK(w.entry(0) == host->empty());
    CHECK(prune(w.t, {0, large_bytes - 1}, b).tables_freed == 0);
    flushed(w.t, a);
    flushed(w.t, b);

    const tree_result gone = prune(w.t, {0, 512 * gib - 1}, b);
    CHECK(gone);
    CHECK(gone.tables_freed == 3);
    REQUIRE(b.item_count() == 1);
    CHECK(b.begin()->upper);
    CHECK(b.begin()->frozen_level == 4);
    flushed(w.t, b);
    CHECK(w.pool.used() == 1);
}

TEST_CASE("a table goes with slots that the same list froze in earlier calls")
{
    world w;
    w.put(0, 6 * page_bytes, 0x10'0000);
    w.put(large_bytes - page_bytes, 2 * page_bytes, 0x20'0000);
    flush_list_of<> list;
    SUBCASE("by a limit of steps")
    {
        // The item of the first table grows into the second one.
        tree_result r = unmap(w.t, {0, 2 * large_bytes - 1}, list, {.limit = 7});
        word pages_taken = r.pages;
        unsigned calls = 1;
        for (; r.end == tree_end::limit && calls < 1000; ++calls) {
            r = unmap(w.t, {0, 2 * large_bytes - 1}, list, {.limit = 7, .from = r.next});
            pages_taken += r.pages;
        }
        CHECK(r);
        CHECK(calls > 100);
        CHECK(pages_taken == 8);
    }
    SUBCASE("page by page")
    {
        for (const word n : {3U, 0U, 5U, 1U, 4U, 2U, 511U, 512U}) REQUIRE(unmap(w.t, pages(n, 1), list));
        CHECK(list.item_count() > 3);
        REQUIRE(prune(w.t, {0, 2 * large_bytes - 1}, list));
    }
    CHECK(list.table_count() == 2);
    flushed(w.t, list);
    CHECK(w.pool.used() == 3);
    CHECK(w.entry(0, 2) == host->empty());
    CHECK(w.entry(large_bytes, 2) == host->empty());
    CHECK(w.map_one(0, 0x9000) == tree_end::done);
}

TEST_CASE("where tables stay no table is taken out, and unmapping leaves empty ones")
{
    staying_world w;
    w.put(0, 4 * page_bytes, 0x10'0000);
    flush_list_of<> list;
    const tree_result r = unmap(w.t, {}, list);
    CHECK(r);
    CHECK(r.pages == 4);
    CHECK(r.tables_freed == 0);
    CHECK(list.table_count() == 0);
    flushed(w.t, list);
    CHECK(w.pool.used() == 4);
    CHECK(w.entry(0x3000) == host->empty());
    // A large page does not fit over the table: small ones do.
    w.put(0, large_bytes, 0x20'0000);
    CHECK(w.pool.used() == 4);
    CHECK(w.mapped(511 * page_bytes));
}

TEST_CASE("a table that another thread's slot keeps is as it was, for whoever holds a pointer into it")
{
    world w;
    w.put(0, 2 * page_bytes, 0x10'0000);
    flush_list_of<> a;
    flush_list_of<> b;
    REQUIRE(unmap(w.t, pages(0, 1), a));
    REQUIRE(unmap(w.t, {0, large_bytes - 1}, b));
    word* const slots = w.slot(0);
    for (word i = 2; i < 512; ++i) CHECK(slots[i] == host->empty());
    CHECK(is_frozen(slots[0], w.marker));
    CHECK(is_frozen(slots[1], w.marker));
    flushed(w.t, a);
    CHECK(slots[0] == host->empty());
    CHECK(is_frozen(slots[1], w.marker));
    flushed(w.t, b);
}

TEST_CASE("protect flushes what another thread has unmapped and not flushed yet")
{
    world w;
    w.put(0, 4 * page_bytes, 0x10'0000);
    flush_list_of<> a;
    flush_list_of<> b;
    REQUIRE(unmap(w.t, pages(1, 1), a));
    REQUIRE(protect(w.t, pages(0, 3), {.write = false}, b));
    std::array<bool, 3> covered{};
    for (const flush_item& item : b) {
        CHECK(item.frozen_level == 0);
        for (word n = item.first / page_bytes; n <= item.last / page_bytes; ++n) covered[n] = true;
    }
    CHECK((covered[0] && covered[1] && covered[2]));
    flushed(w.t, b);
    CHECK(w.frozen(0x1000));

    // Without room for it the operation stops there.
    flush_list_of<1, 1> full;
    REQUIRE(unmap(w.t, pages(3, 1), full));
    const tree_result r = protect(w.t, pages(1, 1), {.write = false}, full);
    CHECK(r.end == tree_end::list_full);
    CHECK(r.next == 0x1000);
    flushed(w.t, full);
    flushed(w.t, a);
}

TEST_CASE("A and D that a CPU sets in a frozen slot change nothing")
{
    small_world<type_of<guest>, counted_readers> w;
    w.put(0, 2 * page_bytes, 0x10'0000);
    constexpr word stray = 0x60;
    flush_list_of<> list;
    REQUIRE(unmap(w.t, pages(0, 1), list));
    *w.slot(0) |= stray;
    CHECK(w.frozen(0));
    CHECK(w.map_one(0, 0x9000) == tree_end::pending);
    flush_list_of<> other;
    const tree_result again = unmap(w.t, pages(0, 1), other);
    CHECK(again);
    CHECK(again.pages == 0);
    flushed(w.t, other);
    CHECK(w.frozen(0));
    REQUIRE(protect(w.t, pages(0, 2), {.write = false}, other));
    flushed(w.t, list);
    CHECK(w.entry(0) == 0);
    // The table goes with it.
    REQUIRE(unmap(w.t, pages(1, 1), list));
    *w.slot(0x1000) |= stray;
    REQUIRE(prune(w.t, {0, large_bytes - 1}, list));
    CHECK(list.table_count() == 1);
    flushed(w.t, list);
    // An empty slot with such bits is empty.
    w.put(0, page_bytes, 0x10'0000);
    *w.slot(0x1000) |= stray;
    CHECK(w.map_one(0x1000, 0x9000) == tree_end::done);
}

TEST_CASE("a large page over a table waits for the flushes in it, and then uses small pages or takes it out")
{
    world w;
    w.put(0, page_bytes, 0x10'0000);
    flush_list_of<> a;
    flush_list_of<> b;
    REQUIRE(unmap(w.t, pages(0, 1), a));
    const tree_result wait = map(w.t, {0, large_bytes - 1}, 0x20'0000, {}, b);
    CHECK(wait.end == tree_end::pending);
    CHECK(wait.next == 0);
    flushed(w.t, a);
    CHECK(map(w.t, {0, large_bytes - 1}, 0x20'0000, {}, b));
    CHECK(w.mapped(511 * page_bytes));

    // Replaced by another: what was there is taken away first, with its table.
    word replaced = 0;
    const auto count = [&](const taken_page&) { ++replaced; };
    const map_options over{.what_exists = existing::replace};
    const tree_result taken = map(w.t, {0, large_bytes - 1}, 0x40'0000, {}, b, over, count);
    CHECK(taken.end == tree_end::pending);
    CHECK(replaced == 512);
    CHECK(w.frozen(0, 2));
    flushed(w.t, b);
    CHECK(map(w.t, {0, large_bytes - 1}, 0x40'0000, {}, b, over, count));
    CHECK(replaced == 512);
    CHECK(w.mapped(0, 2));
    CHECK(w.pool.used() == 3);
}

TEST_CASE("undo takes away what one call wrote, goes on after a full list, and leaves what came there meanwhile")
{
    world w;
    for (const word n : {2U, 5U}) w.put(n * page_bytes, page_bytes, 0x10'0000);
    flush_list_of<> list;
    std::array<range, 4> room;
    written_ranges written(room.data(), 4);
    REQUIRE(map(w.t, pages(0, 8), 0x20'0000, {}, list, {.what_exists = existing::keep, .written = &written}));
    CHECK(written.end() - written.begin() == 3);

    flush_list_of<1, 1> tiny;
    tree_result r = undo(w.t, written, tiny);
    CHECK(r.end == tree_end::list_full);
    CHECK(w.frozen(0));
    CHECK(w.mapped(0x3000));
    flushed(w.t, tiny);
    CHECK(w.map_one(0, 0x9000) == tree_end::done);  // another thread
    unsigned calls = 1;
    for (; r.end == tree_end::list_full && calls < 10; ++calls) {
        r = undo(w.t, written, tiny);
        flushed(w.t, tiny);
    }
    CHECK(r);
    CHECK(calls == 3);
    for (const word n : {1U, 3U, 4U, 6U, 7U}) CHECK(w.entry(n * page_bytes) == host->empty());
    for (const word n : {0U, 2U, 5U}) CHECK(w.mapped(n * page_bytes));
}

TEST_CASE("runs: whole ones in new tables, and a part of one that another thread has begun to take")
{
    constexpr const auto& format = hart;
    small_world<type_of<format>, counted_readers> w;
    w.put(0, 48 * page_bytes, 0x10'0000);
    for (word n = 0; n < 48; ++n) CHECK(kind_of(w.entry(n * page_bytes), 1, format) == kind::run);
    // In a table that others see, the slots of a run would not come at once.
    w.put(64 * page_bytes, 16 * page_bytes, 0x20'0000);
    CHECK(kind_of(w.entry(64 * page_bytes), 1, format) == kind::leaf);

    // The other thread has the first slots of the second run.
    const word marker = w.marker.value;
    for (word n = 16; n < 19; ++n) *w.slot(n * page_bytes) = marker;
    *w.slot(20 * page_bytes) |= 0x80;  // D
    std::vector<taken_page> taken;
    flush_list_of<> list;
    REQUIRE(unmap(w.t, pages(16, 16), list, {}, [&](const taken_page& p) { taken.push_back(p); }));
    REQUIRE(taken.size() == 1);
    CHECK(taken[0].address == 19 * page_bytes);
    CHECK(taken[0].page_shift == 16);
    CHECK(dirty(taken[0].entry, format));
    for (word n = 16; n < 32; ++n) CHECK(w.frozen(n * page_bytes));
    for (word n = 32; n < 48; ++n) CHECK(kind_of(w.entry(n * page_bytes), 1, format) == kind::run);
    flushed(w.t, list);
    for (word n = 16; n < 19; ++n) CHECK(w.frozen(n * page_bytes));
    for (word n = 19; n < 32; ++n) CHECK(w.entry(n * page_bytes) == format->empty());

    // Or some in the middle.
    *w.slot(36 * page_bytes) = marker;
    taken.clear();
    REQUIRE(unmap(w.t, pages(32, 16), list, {}, [&](const taken_page& p) { taken.push_back(p); }));
    CHECK(taken.size() == 2);
    CHECK(list.frozen_slots(0, large_bytes - 1, 1, 12) == 15);
    flushed(w.t, list);
    CHECK(w.frozen(36 * page_bytes));
    CHECK(w.entry(35 * page_bytes) == format->empty());
    CHECK(w.entry(37 * page_bytes) == format->empty());

    // Rights of what is left of one.
    *w.slot(3 * page_bytes) = marker;
    word changed = 0;
    REQUIRE(protect(w.t, pages(0, 16), {.write = false}, list, {}, [&](const taken_page& p) {
        ++changed;
        CHECK(format->layout_at(1, kind::run).address_in(p.entry) >= 0x10'0000);
        CHECK(format->layout_at(1, kind::run).address_in(p.entry) < 0x11'0000);
    }));
    CHECK(changed == 2);
    for (word n = 0; n < 16; ++n) CHECK((n == 3 || !writable(w.entry(n * page_bytes), format)));
}

namespace {

// A small world whose pages may be absent for a moment: each flush looks at one slot then.
template <class Format>
struct busy_world {
    static constexpr Format format{};
    static constexpr auto marker = frozen_marker<marker_value>(format);
    static constexpr auto busy = frozen_marker<busy_value>(format);

    struct flushing_memory : pool_memory {
        busy_world* by;
        void flush(const flush_item& item) const
        {
            ++by->flushes;
            by->flushed = {item.first, item.last};
            const auto at = find_slot(by->t, item.first, 2);
            CHECK(is_frozen(at.entry, busy));
        }
    };

    table_pool pool{64};
    counted_readers::counts readers;
    unsigned flushes = 0;
    range flushed{1, 0};
    tree<Format, flushing_memory, pool_allocator,
         shared<std::remove_cv_t<decltype(marker)>, counted_readers, std::remove_cv_t<decltype(busy)>>>
        t{format, *pool.allocate(4), {{&pool}, this}, {&pool}, {marker, {&readers, &pool}, busy}, {}, {}};

    busy_world() { REQUIRE(clear_root(t) == tree_end::done); }
    ~busy_world()
    {
        CHECK(pool.wrong == 0);
        CHECK(readers.inside == 0);
    }
    busy_world(const busy_world&) = delete;
    busy_world& operator=(const busy_world&) = delete;

    [[nodiscard]] word entry(word address, unsigned level) { return find_slot(t, address, level).entry; }
};

}  // namespace

TEST_CASE("what is absent for a moment is not gone: nobody passes it, maps there or takes its table out")
{
    busy_world<type_of<careful>> w;
    flush_list_of<> list;
    REQUIRE(map(w.t, {0, 2 * large_bytes - 1}, 0x4000'0000, {}, list));
    word& slot = *find_slot(w.t, large_bytes, 2).slot;
    const word before = slot;
    slot = w.busy.value;
    const range part = pages(512, 1);
    const range whole{0, 2 * large_bytes - 1};

    const auto waits = [&](const tree_result& r, word next) {
        CHECK(r.end == tree_end::pending);
        CHECK(r.next == next);
        CHECK(slot == w.busy.value);
    };
    waits(unmap(w.t, part, list, {.ends = range_end::split}), part.first);
    waits(unmap(w.t, {part.last + 1, 2 * large_bytes - 1}, list, {.ends = range_end::whole}), part.last + 1);
    // At the end of the range, so that nothing before it is done; from where it was to go on.
    waits(unmap(w.t, {0, part.last}, list, {.ends = range_end::split}), 0);
    waits(unmap(w.t, {0, part.last}, list, {.ends = range_end::split, .from = 0x20'0000}), 0x20'0000);
    CHECK(w.flushes == 0);
    waits(protect(w.t, whole, {.write = false}, list), large_bytes);
    CHECK(!writable(w.entry(0, 2), careful));
    waits(split_pages(w.t, part, 12, list), large_bytes);
    waits(map(w.t, {large_bytes, 2 * large_bytes - 1}, 0x4000'0000, {}, list), large_bytes);
    waits(map(w.t, part, 0x4000'0000, {}, list, {.what_exists = existing::replace}), part.first);
    CHECK(find_slot(w.t, part.first, 1).end == tree_end::pending);
    CHECK(make_slot(w.t, part.first, 1, list).end == tree_end::pending);
    REQUIRE(prune(w.t, {0, gib - 1}, list));
    CHECK(list.table_count() == 0);
    waits(unmap(w.t, whole, list), large_bytes);
    flushed(w.t, list);
    // A large page over the table.
    waits(map(w.t, {0, gib - 1}, 0x4000'0000, {}, list), 0);

    slot = before;
    REQUIRE(unmap(w.t, whole, list));
    flushed(w.t, list);
}

TEST_CASE("in a shared tree a page is absent and flushed while it is split, where the format wants that, or not split")
{
    busy_world<type_of<careful>> w;
    flush_list_of<> list;
    REQUIRE(map(w.t, {0, large_bytes - 1}, 0x4000'0000, {}, list));
    REQUIRE(unmap(w.t, pages(1, 1), list, {.ends = range_end::split}));
    CHECK(w.flushes == 1);
    CHECK(w.flushed.first == 0);
    CHECK(w.flushed.last == large_bytes - 1);
    CHECK(w.entry(0, 1) != 0);
    CHECK(is_frozen(w.entry(page_bytes, 1), w.marker));
    flushed(w.t, list);

    small_world<type_of<careful>, counted_readers> without;
    without.put(0, large_bytes, 0x4000'0000);
    const word before = without.entry(0, 2);
    CHECK(unmap(without.t, pages(1, 1), list, {.ends = range_end::split}).end == tree_end::cannot_change_live);
    CHECK(split_pages(without.t, {}, 12, list).end == tree_end::cannot_change_live);
    CHECK(without.entry(0, 2) == before);
    CHECK(list.due() == flush_due::nothing);
}

TEST_CASE("pages of a shared tree are merged with A and D of all; the table goes after the flush")
{
    busy_world<type_of<host>> w;
    flush_list_of<4, 1> list;
    REQUIRE(map(w.t, {0, 2 * large_bytes - 1}, 0x4000'0000, {}, list, {.page_sizes = 1 << 12}));
    *find_slot(w.t, 7 * page_bytes, 1).slot |= host->accessed.mask();
    *find_slot(w.t, 511 * page_bytes, 1).slot |= host->dirty.mask();
    const word table = host->layout_at(2, kind::table).address_in(w.entry(0, 2));
    const unsigned used = w.pool.used();

    // Room for one table.
    const tree_result first = merge_pages(w.t, {0, 2 * large_bytes - 1}, 21, list);
    CHECK(first.end == tree_end::list_full);
    CHECK(first.next == large_bytes);
    CHECK(first.pages == 1);
    CHECK(first.tables_freed == 1);
    const word page = w.entry(0, 2);
    CHECK(kind_of(page, 2, host) == kind::leaf);
    CHECK(host->layout_at(2, kind::leaf).address_in(page) == 0x4000'0000);
    CHECK(young(page, host));
    CHECK(dirty(page, host));
    CHECK(w.pool.used() == used);
    REQUIRE(list.item_count() == 1);
    CHECK(*list.begin() == flush_item{0, large_bytes - 1, 12, true, 0});
    // Who is still in the table meets no page.
    for (word n = 0; n < 512; ++n) CHECK(is_frozen(*w.pool.at(table + n * 8), w.busy));
    flushed(w.t, list);
    CHECK(w.readers.waited == 1);
    CHECK(w.pool.used() == used - 1);

    const tree_result second = merge_pages(w.t, {0, 2 * large_bytes - 1}, 21, list, {.from = first.next});
    CHECK(second);
    CHECK(second.pages == 1);
    CHECK(!young(w.entry(large_bytes, 2), host));
    flushed(w.t, list);
    CHECK(w.pool.used() == used - 2);
    CHECK(w.flushes == 2);

    // D is a flag of read-only pages, too.
    REQUIRE(protect(w.t, {0, large_bytes - 1}, {.write = false}, list));
    REQUIRE(split_pages(w.t, pages(0, 1), 12, list));
    *find_slot(w.t, 0, 1).slot &= ~host->dirty.mask();
    CHECK(merge_pages(w.t, {0, large_bytes - 1}, 21, list).pages == 1);
    CHECK(dirty(w.entry(0, 2), host));
    CHECK(!writable(w.entry(0, 2), host, 2));
    flushed(w.t, list);
    CHECK(w.flushes == 3);

    // One that is not like the others, at the end: nothing was absent.
    REQUIRE(split_pages(w.t, pages(0, 1), 12, list));
    *find_slot(w.t, 511 * page_bytes, 1).slot ^= host->address(1, 0x2000);
    const tree_result none = merge_pages(w.t, {0, large_bytes - 1}, 21, list);
    CHECK(none);
    CHECK(none.pages == 0);
    CHECK(w.flushes == 3);
    CHECK(list.due() == flush_due::nothing);
}

// ---- many threads

namespace {

// A read section: a count for each thread, odd while it is inside.
class readers_of_threads {
public:
    static constexpr unsigned most = 16;

    void enter() { counts_[self].value.fetch_add(1, std::memory_order_acq_rel); }
    void leave() { counts_[self].value.fetch_add(1, std::memory_order_acq_rel); }
    void wait()
    {
        for (auto& count : counts_) {
            // An update, so that what a thread does that enters later comes after it.
            const unsigned seen = count.value.fetch_add(0, std::memory_order_acq_rel);
            while ((seen & 1) != 0 && count.value.load(std::memory_order_acquire) == seen) std::this_thread::yield();
        }
    }

    static inline thread_local unsigned self = 0;

private:
    struct alignas(64) padded {
        std::atomic<unsigned> value{0};
    };
    std::array<padded, most> counts_;
};

struct readers_handle {
    readers_of_threads* readers;
    void enter() const { readers->enter(); }
    void leave() const { readers->leave(); }
    void wait() const { readers->wait(); }
};

// What a flush asks of the CPU. The one who asks waits until it is done.
struct flush_request {
    const flush_list* list;
    range gone{1, 0};     // no translation of these addresses that is older than `since` may be left now
    range protect{1, 0};  // none by which they can be written
    word since = 0;
    std::atomic<unsigned>* answered;  // counts; outlives the request
};

// What was found out about a page of physical memory. Each is mapped once in a round.
struct page_state {
    std::atomic<std::uint32_t> written{0};  // how often
    std::atomic<std::uint32_t> saved{0};    // how often it was, when it was last found to be written and flushed
    std::atomic<std::uint32_t> taken{0};    // its entry was reported: by so many
    std::atomic<bool> gone{false};          // and flushed
};

constexpr word frames = word{1} << 18;
constexpr word frames_begin = word{1} << 32;  // physical

// Notes the entries that a harvest changed: harvest_range() reports addresses, at which there may be another page by
// now.
struct noting_access : atomic_access<> {
    std::vector<word>* found = nullptr;

    template <class Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        const Word old = expected;
        const bool done = atomic_access<>::compare_exchange(slot, expected, desired);
        if (done) found->push_back(old);
        return done;
    }
    template <class Word>
    bool test_and_clear(Word& slot, unsigned shift) const
    {
        Word old = load(slot);
        do {
            if ((old >> shift & 1) == 0) return false;
        } while (!compare_exchange(slot, old, static_cast<Word>(old & ~(Word{1} << shift))));
        return true;
    }
};

template <class Format, bool Frees>
class crowd {
public:
    static constexpr Format format{};
    static constexpr auto marker = frozen_marker<marker_value>(format);
    static constexpr bool by_flag = format->dirty.exists();  // else the write permission says that a page is dirty
    static constexpr auto busy = frozen_marker<busy_value>(format);
    using readers_type = std::conditional_t<Frees, readers_handle, tables_stay>;

    // Its flush asks the CPU, too.
    struct flushing_memory : pool_memory {
        crowd* by;
        void flush(const flush_item& item) const
        {
            flush_list_of<1, 1> list;
            list.add(item);
            by->flush(list, {1, 0}, {1, 0}, 0);
        }
    };
    using tree_type = tree<Format, flushing_memory, pool_allocator,
                           shared<std::remove_cv_t<decltype(marker)>, readers_type, std::remove_cv_t<decltype(busy)>>>;

    crowd()
        : states_(frames),
          t_{format, *pool_.allocate(4), {{&pool_}, this}, {&pool_}, shared{marker, section(), busy}, {}, {}}
    {
        REQUIRE(clear_root(t_) == tree_end::done);
    }

    void run(std::chrono::milliseconds time, unsigned seed)
    {
        std::vector<std::thread> threads;
        const auto start = [&](unsigned number, auto what) {
            threads.emplace_back([this, number, what, seed] {
                readers_of_threads::self = number;
                std::mt19937_64 dice(seed * 16 + number);
                while (!stop_) {
                    (this->*what)(dice);
                    std::this_thread::yield();
                }
                --working_;
            });
        };
        working_ = Frees ? 8 : 7;
        start(1, &crowd::map_some);
        start(2, &crowd::map_some);
        start(3, &crowd::unmap_some);
        start(4, &crowd::age_some);
        start(5, &crowd::harvest_some);
        start(6, &crowd::protect_some);
        start(7, &crowd::unmap_or_map);
        if constexpr (Frees) start(9, &crowd::merge_some);
        std::thread mmu([this, seed] {
            readers_of_threads::self = 8;
            std::mt19937_64 dice(seed * 16 + 8);
            while (working_ != 0) access(dice);
            answer();
        });
        std::this_thread::sleep_for(time);
        stop_ = true;
        for (std::thread& thread : threads) thread.join();
        mmu.join();
    }

    // When all is quiet.
    void check_all()
    {
        CHECK(first_error_.load() == 0);
        CHECK(pool_.wrong == 0);
        unsigned tables = 0;
        count(pool_.at(t_.root), 4, tables);
        CHECK(tables == pool_.used());
        CHECK(tables == 1 + tables_made_ - tables_freed_);
        CHECK(bytes_there_ == bytes_mapped_ - bytes_taken_);
        std::uint64_t lost = 0;
        std::uint64_t twice = 0;
        for (const page_state& s : states_) {
            lost += s.written != s.saved;
            twice += s.taken > 1;
        }
        CHECK(lost == 0);
        CHECK(twice == 0);

        flush_list_of<> list;
        REQUIRE(unmap(t_, {}, list));
        flushed(t_, list);
        if (Frees) {
            CHECK(pool_.used() == 1);
        } else {
            CHECK(tables_freed_ == 0);
        }
        CHECK(pool_.wrong == 0);
    }
    struct numbers {
        std::uint64_t accesses, writes, mapped, taken, harvested, flushes, freed, pending, splits, merged;
    };
    [[nodiscard]] numbers done() const
    {
        return {accesses_,
                writes_,
                bytes_mapped_ / page_bytes,
                bytes_taken_ / page_bytes,
                harvested_,
                flushes_,
                tables_freed_,
                pending_,
                splits_,
                merged_};
    }

private:
    auto section()
    {
        if constexpr (Frees) {
            return readers_handle{&readers_};
        } else {
            return tables_stay{};
        }
    }

    // Addresses on both sides of a border of level 3, so that tables of two levels come and go.
    static constexpr word first_address = gib - 3 * large_bytes;
    static constexpr word all_pages = word{6} * 512;

    [[nodiscard]] static range some_range(std::mt19937_64& dice)
    {
        word first = dice() % all_pages;
        word count = 1 + dice() % (dice() % 4 == 0 ? 1500 : 40);
        if (dice() % 3 == 0) {
            first = first / 512 * 512;
            count = (dice() % 2 + 1) * 512;
        }
        count = std::min(count, all_pages - first);
        return {first_address + first * page_bytes, first_address + (first + count) * page_bytes - 1};
    }

    // What must not be; the line of the first is kept.
    void error(bool wrong, unsigned line = __builtin_LINE())
    {
        unsigned none = 0;
        if (wrong) first_error_.compare_exchange_strong(none, line);
    }

    [[nodiscard]] static bool is_dirty(word entry, unsigned level)
    {
        const word mask = by_flag ? format->dirty.mask() : format->layout_at(level, kind::leaf).mask(role::write);
        return (entry & mask) != 0;
    }

    template <class Function>
    void each_frame(word entry, unsigned shift, Function what)
    {
        const word physical = format->layout_at(shift == 12 ? 1 : 2, kind::leaf).address_in(entry);
        const word number = (physical - frames_begin) / page_bytes;
        error(number >= frames);
        for (word n = 0; number < frames && n < word{1} << (shift - 12); ++n) what(states_[number + n]);
    }

    // ---- after an operation

    // What an operation reported, until its flush.
    struct reported {
        std::vector<taken_page> taken;
        std::vector<taken_page> changed;
    };

    auto note_taken(reported& r)
    {
        return [this, &r](const taken_page& p) {
            error(p.is != kind::leaf);
            if (p.is == kind::leaf) r.taken.push_back(p);
            bytes_taken_ += word{1} << p.page_shift;
        };
    }

    void save(page_state& s)
    {
        // What is read now was written before the flush.
        const std::uint32_t now = s.written;
        std::uint32_t before = s.saved;
        while (before < now && !s.saved.compare_exchange_weak(before, now)) {
        }
    }

    void flush(const flush_list& list, range gone, range protect, word since)
    {
        if (list.due() == flush_due::nothing && gone.empty() && protect.empty()) return;
        error(list.due() == flush_due::not_recorded);
        std::atomic<unsigned>& answered = answered_[readers_of_threads::self];
        const unsigned before = answered;
        flush_request request{&list, gone, protect, since, &answered};
        {
            const std::scoped_lock lock(requests_mutex_);
            requests_.push_back(&request);
            asked_ = true;
        }
        answered.wait(before);
        ++flushes_;
    }
    void settle(flush_list& list, reported& r, range gone = {1, 0}, range protect = {1, 0}, word since = 0)
    {
        flush(list, gone, protect, since);
        for (const taken_page& p : r.taken) {
            each_frame(p.entry, p.page_shift, [&](page_state& s) {
                if (is_dirty(p.entry, p.level)) save(s);
                ++s.taken;
                s.gone = true;
            });
        }
        for (const taken_page& p : r.changed) {
            if (by_flag || !is_dirty(p.entry, p.level)) continue;
            each_frame(p.entry, p.page_shift, [&](page_state& s) { save(s); });
        }
        r = {};
        flushed(t_, list);
    }

    void count_tables(const tree_result& r)
    {
        tables_made_ += r.tables_made;
        tables_freed_ += r.tables_freed;
    }

    // ---- the threads

    void map_some(std::mt19937_64& dice)
    {
        const range where = some_range(dice);
        const word count = (where.last - where.first + 1) / page_bytes;
        // New pages each time, as far from a large page's border as the addresses.
        const word inside = where.first / page_bytes % 512;
        const word number = (next_frame_.fetch_add(count + 1024) + 511) / 512 * 512 + inside;
        if (number + count > frames) {
            stop_ = true;
            return;
        }
        constexpr existing choices[] = {existing::refuse, existing::keep, existing::keep, existing::replace};
        map_options options{.what_exists = choices[dice() % 4]};
        if (dice() % 3 == 0) options.page_sizes = 1 << 12;
        if (dice() % 4 == 0) options.limit = 20;
        flush_list_of<4, 2> list;
        reported r;
        for (unsigned tries = 0; tries < 50; ++tries) {
            const word physical = frames_begin + number * page_bytes;
            const tree_result result = map(t_, where, physical, {}, list, options, note_taken(r));
            count_tables(result);
            bytes_mapped_ += result.bytes;
            error(result.end != tree_end::done && result.end != tree_end::limit && result.end != tree_end::list_full &&
                  result.end != tree_end::pending && result.end != tree_end::occupied &&
                  result.end != tree_end::no_memory);
            if (result.end == tree_end::pending) {
                ++pending_;
                std::this_thread::yield();
            }
            if (result.end != tree_end::limit) settle(list, r);
            if (result || result.end == tree_end::occupied || result.end == tree_end::no_memory) break;
            options.from = result.next;
        }
        if (list.due() != flush_due::not_recorded) settle(list, r);
    }

    void unmap_some(std::mt19937_64& dice)
    {
        range where = some_range(dice);
        if (dice() % 16 == 0) where = {first_address, first_address + all_pages * page_bytes - 1};
        if (dice() % 32 == 0) where = {0, 512 * gib - 1};
        flush_list_of<4, 2> list;
        reported r;
        if constexpr (Frees) {
            if (dice() % 4 == 0) {
                count_tables(prune(t_, where, list));
                settle(list, r);
                return;
            }
        }
        constexpr range_end choices[] = {range_end::split, range_end::split, range_end::whole, range_end::refuse};
        range_options options{.ends = choices[dice() % 4]};
        if (dice() % 4 == 0) options.limit = 100 + dice() % 1000;
        const bool flush_at_limit = dice() % 2 == 0;
        const word since = now_;
        for (;;) {
            const tree_result result = unmap(t_, where, list, options, note_taken(r));
            count_tables(result);
            if (result) {
                settle(list, r, where, {1, 0}, since);
                return;
            }
            error(result.end != tree_end::limit && result.end != tree_end::list_full &&
                  result.end != tree_end::inside_page && result.end != tree_end::no_memory &&
                  result.end != tree_end::pending);
            if (result.end != tree_end::limit || flush_at_limit) settle(list, r);
            if (result.end == tree_end::inside_page || result.end == tree_end::no_memory) return;
            options.from = result.next;
        }
    }

    void unmap_or_map(std::mt19937_64& dice)
    {
        if (dice() % 4 == 0) {
            map_some(dice);
        } else {
            unmap_some(dice);
        }
    }

    void protect_some(std::mt19937_64& dice)
    {
        const range where = some_range(dice);
        flush_list_of<4, 2> list;
        reported r;
        if (dice() % 3 == 0) {
            const tree_result result = split_pages(t_, where, 12, list);
            count_tables(result);
            splits_ += result.pages;
            error(!result && result.end != tree_end::no_memory && result.end != tree_end::pending);
            return;
        }
        const bool write = dice() % 4 == 0;
        range_options options{.ends = dice() % 2 == 0 ? range_end::split : range_end::whole};
        const word since = now_;
        for (;;) {
            const tree_result result = protect(t_, where, {.write = write}, list, options,
                                               [&](const taken_page& p) { r.changed.push_back(p); });
            count_tables(result);
            if (result) {
                // By flags nobody else takes the permission to write.
                settle(list, r, {1, 0}, by_flag && !write ? where : range{1, 0}, since);
                return;
            }
            error(result.end != tree_end::list_full && result.end != tree_end::no_memory &&
                  result.end != tree_end::pending);
            settle(list, r);
            if (result.end == tree_end::no_memory) return;
            options.from = result.next;
        }
    }

    // Makes pages large where it can: some that were mapped so, and were split.
    void merge_some(std::mt19937_64& dice)
    {
        flush_list_of<4, 2> list;
        reported r;
        range_options options;
        const range where = {first_address, first_address + all_pages * page_bytes - 1};
        if (dice() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
        for (;;) {
            const tree_result result = merge_pages(t_, where, 21, list, options);
            count_tables(result);
            merged_ += result.pages;
            error(!result && result.end != tree_end::list_full);
            settle(list, r);
            if (result) return;
            options.from = result.next;
        }
    }

    void age_some(std::mt19937_64& dice)
    {
        const auto none = [](word, word) {};
        const detail::reading<tree_type> inside(t_);
        if constexpr (by_flag) {
            error(age_range(format, t_.root, some_range(dice), t_.memory, none).illegal != 0);
        } else {
            for_each_present(some_range(dice));
        }
    }
    // Without A and D the ager looks on.
    void for_each_present(range where)
    {
        for (word at = where.first; at < where.last; at += page_bytes) {
            const auto found = find_slot(t_, at, 1);
            error(found.entry == table_pool::poison || found.end == tree_end::table_missing);
        }
    }

    void harvest_some(std::mt19937_64& dice)
    {
        std::vector<word> found;
        flush_list_of<16, 1> list;
        list.record();
        std::vector<unsigned> shifts;
        {
            const detail::reading<tree_type> inside(t_);
            noting_access noting;
            noting.found = &found;
            const auto report = [&](word address, word size) {
                shifts.push_back(size == page_bytes ? 12 : 21);
                list.add({address, address + (size - 1), shifts.back(), false, 0});
            };
            error(harvest_range(format, t_.root, some_range(dice), t_.memory, report, noting).illegal != 0);
        }
        error(found.size() != shifts.size());
        flush(list, {1, 0}, {1, 0}, 0);
        harvested_ += found.size();
        for (std::size_t n = 0; n < found.size() && n < shifts.size(); ++n) {
            each_frame(found[n], shifts[n], [&](page_state& s) { save(s); });
        }
    }

    // ---- the MMU

    struct translation {
        bool valid = false;
        word address = 0;
        unsigned shift = 12;
        word frame = 0;
        bool write = false;
        bool dirty = false;  // D is known to be set
        word since = 0;
    };
    struct upper_entry {
        bool valid = false;
        word address = 0;
        word entry = 0;
    };

    [[nodiscard]] static bool overlaps(range a, word first, word bytes)
    {
        return !a.empty() && a.first <= first + (bytes - 1) && a.last >= first;
    }

    void answer()
    {
        std::vector<flush_request*> requests;
        {
            const std::scoped_lock lock(requests_mutex_);
            requests.swap(requests_);
            asked_ = false;
        }
        for (flush_request* request : requests) {
            const bool all = request->list->due() == flush_due::everything;
            for (translation& one : tlb_) {
                const word bytes = word{1} << one.shift;
                for (const flush_item& item : *request->list) {
                    if (overlaps({item.first, item.last}, one.address, bytes)) one.valid = false;
                }
                if (all) one.valid = false;
                // An access that was under way then may have found what came later.
                if (!one.valid || one.since >= request->since) continue;
                error(overlaps(request->gone, one.address, bytes));
                error(one.write && overlaps(request->protect, one.address, bytes));
            }
            for (upper_entry& one : upper_) {
                for (const flush_item& item : *request->list) {
                    if (item.upper && overlaps({item.first, item.last}, one.address, large_bytes)) one.valid = false;
                }
                if (all) one.valid = false;
            }
            std::atomic<unsigned>& answered = *request->answered;
            ++answered;
            answered.notify_one();
        }
    }

    void access(std::mt19937_64& dice)
    {
        if (asked_) answer();
        ++now_;
        ++accesses_;
        static const unsigned hot = 48;
        const word number = dice() % 4 == 0 ? dice() % all_pages : dice() % hot * 67 % all_pages;
        const word address = first_address + number * page_bytes;
        const bool write = dice() % 2 == 0;
        translation& held = tlb_[number % tlb_.size()];
        const bool hit = held.valid && (address & ~(ones(held.shift - 1, 0))) == held.address;
        if (!hit || (write && (!held.write || !held.dirty))) {
            if (!fill(held, address, write)) return;
        }
        const word offset = (address - held.address) / page_bytes;
        error(held.frame + offset >= frames);
        if (held.frame + offset >= frames) return;
        page_state& s = states_[held.frame + offset];
        error(s.gone);
        if (write) {
            ++s.written;
            ++writes_;
        }
    }

    // Walks, and keeps the translation. False: a fault.
    bool fill(translation& held, word address, bool write)
    {
        held.valid = false;
        const memory_access a{.what = write ? operation::write : operation::read};
        const word prefix = address / large_bytes * large_bytes;
        upper_entry& upper = upper_[address / large_bytes % upper_.size()];
        walk_result r;
        for (unsigned tries = 0;; ++tries) {
            if (upper.valid && upper.address == prefix) {
                r = walk(format, held_entry{2, upper.entry}, address, a, {}, t_.memory);
                // A fault takes what is cached of the way with it.
                upper.valid = r.fault == fault_kind::none;
                if (!r) r = walk(format, t_.root, address, a, {}, t_.memory);
            } else {
                r = walk(format, t_.root, address, a, {}, t_.memory);
            }
            if (r) break;
            error(r.fault != fault_kind::not_present && r.fault != fault_kind::protection);
            if (r.fault != fault_kind::protection || tries == 3) return false;
            // The fault handler gives the permission to write.
            flush_list_of<4, 2> list;
            static_cast<void>(protect(t_, {address, address + (page_bytes - 1)}, {}, list, {.ends = range_end::whole}));
            ++now_;
        }
        if (r.page_shift == 12 && r.steps >= 2) upper = {true, prefix, r.path[r.steps - 2].entry};
        const word offset = address & ones(r.page_shift - 1U, 0);
        held = {.valid = true,
                .address = address - offset,
                .shift = r.page_shift,
                .frame = (r.address - offset - frames_begin) / page_bytes,
                .write = r.allowed.write,
                .dirty = write || !by_flag || is_dirty(r.last_entry(), r.level),
                .since = now_};
        return true;
    }

    // ---- at the end

    void count(word* slots, unsigned level, unsigned& tables)  // NOLINT(misc-no-recursion): six levels at the most
    {
        ++tables;
        for (word i = 0; i < 512; ++i) {
            const word entry = atomic_access<>::load(slots[i]);
            if (is_empty(entry, format)) continue;
            const kind k = legal(entry, level, format) ? kind_of(entry, level, format) : kind::none;
            error(k != kind::leaf && k != kind::table);
            if (k == kind::table) count(pool_.at(format->layout_at(level, k).address_in(entry)), level - 1, tables);
            if (k != kind::leaf) continue;
            const unsigned shift = format->shape().page_shift(level);
            bytes_there_ += word{1} << shift;
            each_frame(entry, shift, [&](page_state& s) {
                error(s.taken != 0);
                if (is_dirty(entry, level)) save(s);
            });
        }
    }

    table_pool pool_{64};
    readers_of_threads readers_;
    std::vector<page_state> states_;
    tree_type t_;

    std::atomic<bool> stop_ = false;
    std::atomic<unsigned> working_ = 0;
    std::atomic<unsigned> first_error_ = 0;
    std::atomic<word> next_frame_ = 0;
    std::atomic<std::uint64_t> bytes_mapped_ = 0, bytes_taken_ = 0, tables_made_ = 0, tables_freed_ = 0;
    std::atomic<std::uint64_t> flushes_ = 0, pending_ = 0;
    std::uint64_t bytes_there_ = 0, accesses_ = 0, writes_ = 0, harvested_ = 0, splits_ = 0, merged_ = 0;

    std::array<std::atomic<unsigned>, readers_of_threads::most> answered_{};
    std::mutex requests_mutex_;
    std::vector<flush_request*> requests_;
    std::atomic<bool> asked_ = false;
    std::atomic<word> now_ = 0;  // the MMU's accesses so far
    std::array<translation, 32> tlb_;
    std::array<upper_entry, 4> upper_;
};

template <class Format, bool Frees>
void run_crowd()
{
    // Longer by hand.
    const char* const longer = std::getenv("PTEBITS_TEST_SECONDS");
    const double seconds = longer != nullptr ? std::strtod(longer, nullptr) : 0.4;
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    unsigned rounds = 0;
    std::uint64_t freed = 0;
    std::uint64_t harvested = 0;
    std::uint64_t taken = 0;
    std::uint64_t merged = 0;
    do {
        ++rounds;
        auto all = std::make_unique<crowd<Format, Frees>>();
        all->run(std::chrono::milliseconds(100), rounds);
        const auto n = all->done();
        all->check_all();
        freed += n.freed;
        harvested += n.harvested;
        taken += n.taken;
        merged += n.merged;
        if (longer != nullptr && rounds % 50 == 1) {
            MESSAGE("round " << rounds << ": " << n.accesses << " accesses, " << n.writes << " writes, " << n.mapped
                             << " pages mapped, " << n.taken << " taken, " << n.harvested << " harvested, " << n.flushes
                             << " flushes, " << n.freed << " tables freed, " << n.pending << " pending, " << n.splits
                             << " splits, " << n.merged << " merged");
        }
        // Where threads get little time, until pages were merged.
    } while (std::chrono::steady_clock::now() < end || (Frees && merged == 0 && rounds < 100));
    CHECK(taken > 0);
    CHECK(harvested > 0);
    CHECK((freed > 0) == Frees);
    CHECK((merged > 0) == Frees);
}

}  // namespace

TEST_CASE_TEMPLATE("threads over one tree: every write is found or still there, nobody uses a page or table that went",
                   Format, type_of<host>, type_of<no_ad>, type_of<guest>, type_of<careful>)
{
    run_crowd<Format, true>();
}

TEST_CASE("threads over one tree whose tables stay") { run_crowd<type_of<host>, false>(); }
