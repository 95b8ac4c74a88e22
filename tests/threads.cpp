// A hardware thread that sets A and D at any moment, while other threads age, harvest,
// track, restore and write-protect the same slots. Everything is counted.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

constexpr auto host = ept<ept_features{}>;
constexpr auto nested = npt<npt_features{}>;
constexpr auto two_level = shadow<shadow_features{.levels = 2}>;
template <const auto& Format>
using type_of = std::remove_cvref_t<decltype(Format)>;

constexpr unsigned slot_count = 8;
constexpr unsigned rounds = 20'000;

struct counters {
    std::array<std::uint64_t, slot_count> accessed{};
    std::array<std::uint64_t, slot_count> dirty{};
};

// The MMU: sets A, and D on a write, by compare-exchange on the entry that it judged.
template <class Word, class Format>
void access_slot(Word& slot, bool write, const Format& format, std::uint64_t& accessed, std::uint64_t& dirty)
{
    const Word a = static_cast<Word>(format->accessed.mask());
    const Word d = static_cast<Word>(format->dirty.mask());
    Word entry = load(slot);
    for (;;) {
        if (!(write ? writable(entry, format) : readable(entry, format))) return;
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

TEST_CASE_TEMPLATE("every A is aged or still there, every D harvested or still there", Format, type_of<host>,
                   type_of<nested>, type_of<two_level>)
{
    constexpr Format format{};
    using word = std::conditional_t<format->shape().entry_bits == 32, std::uint32_t, std::uint64_t>;
    const auto page = static_cast<word>(encode(kind::leaf, 1, 0x1000, {}, format).entry);
    REQUIRE(page != 0);
    alignas(64) std::array<word, slot_count> slots;
    slots.fill(page);
    counters set, found;
    std::uint64_t young_twice[slot_count] = {};
    std::atomic<bool> stop = false;

    std::thread mmu([&] {
        for (unsigned n = 0; n < rounds * slot_count; ++n) {
            const unsigned i = n % slot_count;
            access_slot(slots[i], n % 3 != 0, format, set.accessed[i], set.dirty[i]);
        }
        stop = true;
    });
    std::thread second_reclaimer([&] {
        while (!stop) {
            for (unsigned i = 0; i < slot_count; ++i) young_twice[i] += age(slots[i], format);
        }
    });
    do {
        for (unsigned i = 0; i < slot_count; ++i) {
            found.accessed[i] += age(slots[i], format);
            found.dirty[i] += harvest_dirty(slots[i], format);
        }
    } while (!stop);
    mmu.join();
    second_reclaimer.join();

    for (unsigned i = 0; i < slot_count; ++i) {
        CHECK(set.accessed[i] == found.accessed[i] + young_twice[i] + young(slots[i], format));
        CHECK(set.dirty[i] == found.dirty[i] + dirty(slots[i], format));
        CHECK((slots[i] & ~(format->accessed | format->dirty)) == page);
        CHECK(set.accessed[i] != 0);
    }
}

TEST_CASE("tracking, restoring, write-protecting and the write-fault path lose and invent no permission")
{
    constexpr auto format = ept<ept_features{.accessed_dirty = false}>;
    constexpr auto tracking = track_accesses<54>(format);
    constexpr std::uint64_t writable_again = std::uint64_t{1} << 57;  // software: the page may be written
    constexpr std::uint64_t page = 0x1037 | writable_again;
    alignas(64) std::array<std::uint64_t, slot_count> slots;
    slots.fill(page);
    std::array<std::uint64_t, slot_count> tracked{}, tracked_writable{}, restored{}, taken{}, given{};
    std::atomic<bool> stop = false;

    // The vCPU: an access faults if it is not allowed, and the fault path repairs it.
    std::thread vcpu([&] {
        for (unsigned n = 0; n < rounds * slot_count; ++n) {
            const unsigned i = n % slot_count;
            restored[i] += restore(slots[i], tracking);
            const auto fix_write = [](std::uint64_t entry) {
                const bool fixable = (entry & 0x3) == 0x1 && (entry & writable_again) != 0;
                return fixable ? entry | 0x2 : entry;
            };
            const std::uint64_t before = update(slots[i], fix_write);
            given[i] += fix_write(before) != before;
        }
        stop = true;
    });
    std::thread logger([&] {
        while (!stop) {
            for (unsigned i = 0; i < slot_count; ++i) taken[i] += harvest_dirty(slots[i], format);
        }
    });
    std::uint64_t bad = 0;
    do {
        for (unsigned i = 0; i < slot_count; ++i) {
            const track_result result = track(slots[i], tracking);
            tracked[i] += result == track_result::tracked || result == track_result::tracked_writable;
            tracked_writable[i] += result == track_result::tracked_writable;
            const std::uint64_t entry = load(slots[i]);
            const bool in_place = (entry & 0x5) == 0x5 && (entry & tracking.saved_mask()) == 0;
            const bool aside = (entry & 0x7) == 0 && (entry & tracking.saved_mask()) == tracking.saved_mask();
            bad += in_place == aside;
        }
    } while (!stop);
    vcpu.join();
    logger.join();

    CHECK(bad == 0);
    for (unsigned i = 0; i < slot_count; ++i) {
        CHECK(tracked[i] == restored[i] + is_tracked(slots[i], tracking));
        // Every W that was given, and the first, was harvested, went with tracking, or is there.
        CHECK(taken[i] + tracked_writable[i] + writable(slots[i], format) == given[i] + 1);
        CHECK((slots[i] & ~(0x7 | tracking.saved_mask() | tracking.record_mask())) == (page & ~std::uint64_t{0x7}));
        CHECK(((slots[i] & tracking.record_mask()) != 0) == (tracked_writable[i] != 0));
        CHECK(tracked[i] != 0);
    }
}

TEST_CASE("what was written before a store to a slot is seen after the load that finds it")
{
    // Plain data, published by a slot: under ThreadSanitizer a weaker order is a race.
    for (int round = 0; round < 200; ++round) {
        std::uint64_t slot = 0;
        int payload = 0;
        std::thread writer([&] {
            payload = round + 1;
            store(slot, 0x1007);
        });
        while (load(slot) == 0) std::this_thread::yield();
        CHECK(payload == round + 1);
        payload = 0;
        writer.join();
    }
    // An update publishes too.
    for (int round = 0; round < 200; ++round) {
        std::uint64_t slot = 0x1007;
        int payload = 0;
        std::thread writer([&] {
            payload = round + 1;
            set(slot, bit(9));
        });
        while (!test_and_clear(slot, bit(9))) std::this_thread::yield();
        CHECK(payload == round + 1);
        writer.join();
    }
}

namespace {

// A guest of 64 Mbytes at an address that is none of a table's, by pages of 4 Kbytes, but for one of 2 Mbytes.
struct small_guest {
    static constexpr unsigned tables = 33;
    static constexpr std::uint64_t begin = 0x4000'0000 - 0x5'0000;
    static constexpr inclusive_range all{begin, begin + 0x400'0000 - 1};

    alignas(64) std::array<std::uint64_t, (tables + 4) * std::size_t{512}> slots{};

    small_guest()
    {
        slots[0] = 0x2107;
        // The table below the first Gbyte, and that of the second.
        slots[512] = 0x3107;
        slots[513] = 0x4107;
        slots[1024 + 511] = 0x5107;
        for (unsigned n = 1; n < tables; ++n) slots[1536 + n - 1] = 0x5107 + 0x1000 * std::uint64_t{n};
        for (std::uint64_t page = all.first >> 12; page <= all.last >> 12; ++page)
            *leaf(page << 12) = page << 12 | 0x37;
        slots[1536 + 7] = 0x4000'00b7;
    }

    std::uint64_t* operator()(std::uint64_t physical) { return &slots[(physical - 0x1000) / 8]; }
    // The leaf of an address, and the table entries above it.
    template <class Above>
    std::uint64_t* leaf(std::uint64_t address, Above above)
    {
        std::uint64_t* slot = slots.data();
        for (unsigned level = 3;; --level) {
            above(*slot);
            slot = (*this)((load(*slot) & 0xf'f000) | (address >> (12 + 9 * (level - 1)) & 0x1ff) * 8);
            if (level == 1 || (load(*slot) & 0x80) != 0) return slot;
        }
    }
    std::uint64_t* leaf(std::uint64_t address)
    {
        return leaf(address, [](std::uint64_t&) {});
    }
};

/// A pass over a range by some threads, without a lock: whoever is free takes the next part. Returns pages found.
template <class Pass>
std::uint64_t by_threads(unsigned workers, inclusive_range pages, const Pass& pass)
{
    const std::uint64_t parts = std::uint64_t{16} * workers;
    std::atomic<std::uint64_t> next = 0;
    std::atomic<std::uint64_t> found = 0;
    const auto work = [&] {
        for (std::uint64_t n = next++; n < parts; n = next++) found += pass(range_part(host, pages, parts, n)).pages;
    };
    std::vector<std::thread> threads;
    for (unsigned n = 0; n < workers; ++n) threads.emplace_back(work);
    for (std::thread& t : threads) t.join();
    return found;
}

}  // namespace

TEST_CASE("threads that age and harvest parts of a range write no word of their bitmaps twice, and lose no A and D")
{
    small_guest guest;
    // Plain words: under ThreadSanitizer two threads that write one of them are a race.
    constexpr std::uint64_t first_word = small_guest::begin >> 18;
    std::vector<std::uint64_t> young_pages((small_guest::all.last >> 18) - first_word + 1);
    std::vector<std::uint64_t> dirty_pages(young_pages.size());
    const auto into = [&](std::vector<std::uint64_t>& words) {
        return [&](std::uint64_t address, std::uint64_t size) {
            for (std::uint64_t at = address; at < address + size; at += 0x1000) {
                words[(at >> 18) - first_word] |= std::uint64_t{1} << (at >> 12) % 64;
            }
        };
    };
    std::atomic<bool> stop = false;
    std::uint64_t set_a = 0, set_d = 0;
    std::thread mmu([&] {
        for (std::uint64_t n = 0; !stop; ++n) {
            const std::uint64_t address = small_guest::begin + n * 0x9'7000 % 0x400'0000;
            // Hardware sets A above before A in the leaf.
            std::uint64_t* const slot = guest.leaf(address, [](std::uint64_t& entry) { set(entry, bit(8)); });
            access_slot(*slot, n % 2 == 0, host, set_a, set_d);
        }
    });
    std::uint64_t got_a = 0, got_d = 0;
    for (unsigned pass = 0; pass < 12; ++pass) {
        const auto report_young = into(young_pages);
        got_a += by_threads(3, small_guest::all, [&](const range_part& part) {
            return age_range(host, 0x1000, part, guest, report_young,
                             pass % 2 == 0 ? subtrees::all : subtrees::accessed);
        });
        const auto report_dirty = into(dirty_pages);
        got_d += by_threads(3, small_guest::all, [&](const range_part& part) {
            return harvest_range(host, 0x1000, part, guest, report_dirty);
        });
    }
    stop = true;
    mmu.join();

    std::uint64_t left_a = 0, left_d = 0;
    for (std::uint64_t page = small_guest::all.first >> 12; page <= small_guest::all.last >> 12; ++page) {
        std::uint64_t& slot = *guest.leaf(page << 12);
        left_a += test_and_clear(slot, bit(8));
        left_d += test_and_clear(slot, bit(9));
    }
    CHECK(set_a == got_a + left_a);
    CHECK(set_d == got_d + left_d);
    CHECK(got_a != 0);
    CHECK(got_d != 0);
}
