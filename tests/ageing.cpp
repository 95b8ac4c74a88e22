// Ageing, tracking, harvesting and flush rules against models written out here: over all
// bits, all formats, static and run-time features, both slot widths.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <vector>

using namespace ptebits;

namespace {

using ept_ad = ept<ept_features{}>;
using ept_no_ad = ept<ept_features{.accessed_dirty = false}>;
using ept_soft_8 = ept<ept_features{.accessed_dirty = false, .software_accessed = 8}>;
using ept_soft_63 = ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>;
using ept_mbe = ept<ept_features{.mode_based_execute = true}>;
using npt_long = npt<npt_features{}>;
using shadow_long = shadow<shadow_features{}>;
using shadow_pae = shadow<shadow_features{.levels = 3}>;
using shadow_two = shadow<shadow_features{.levels = 2}>;

// What the manuals and facts say of each, by hand.
struct expectation {
    std::uint64_t present;
    std::uint64_t accessed;
    std::uint64_t dirty;
    std::uint64_t write;
};
constexpr expectation of(ept_ad) { return {0x7, 0x100, 0x200, 0x2}; }
constexpr expectation of(ept_soft_8) { return {0x7, 0x100, 0, 0x2}; }
constexpr expectation of(ept_soft_63) { return {0x7, 0x8000'0000'0000'0000, 0, 0x2}; }
constexpr expectation of(ept_mbe) { return {0x407, 0x100, 0x200, 0x2}; }
constexpr expectation of(npt_long) { return {0x1, 0x20, 0x40, 0x2}; }
constexpr expectation of(shadow_long) { return {0x1, 0x20, 0x40, 0x2}; }
constexpr expectation of(shadow_pae) { return {0x1, 0x20, 0x40, 0x2}; }
constexpr expectation of(shadow_two) { return {0x1, 0x20, 0x40, 0x2}; }

// Every value with up to three bits set, and their complements.
template <class Word>
std::vector<Word> values()
{
    std::vector<Word> all{0};
    constexpr unsigned width = 8 * sizeof(Word);
    for (unsigned i = 0; i < width; ++i) {
        for (unsigned j = i; j < width; ++j) {
            for (unsigned k = j; k < width; ++k) {
                all.push_back(static_cast<Word>(Word{1} << i | Word{1} << j | Word{1} << k));
            }
        }
    }
    const std::size_t n = all.size();
    for (std::size_t i = 0; i < n; ++i) all.push_back(static_cast<Word>(~all[i]));
    return all;
}

template <class Word, class Format>
void check_age(const Format& format, const expectation& is)
{
    int wrong = 0;
    for (const Word before : values<Word>()) {
        const bool is_present = (before & is.present) != 0;
        const bool is_young = (before & is.accessed) != 0;
        const Word aged = is_present ? static_cast<Word>(before & ~is.accessed) : before;
        const Word marked = is_present ? static_cast<Word>(before | is.accessed) : before;

        Word slot = before;
        wrong += age(slot, format) != (is_present && is_young) || slot != aged;
        wrong += age(slot, format) || slot != aged;
        slot = before;
        wrong += mark_accessed(slot, format) != (is_present && !is_young) || slot != marked;
        wrong += mark_accessed(slot, format) || slot != marked;
    }
    CHECK(wrong == 0);
}

// clear_dirty does not compile for a static format without a dirty bit.
template <class Format>
constexpr bool has_dirty()
{
    if constexpr (static_masks<Format>) return Format::dirty.exists();
    return true;
}

template <class Word, class Format>
void check_dirty(const Format& format, const expectation& is)
{
    int wrong = 0;
    for (const Word before : values<Word>()) {
        const bool is_present = (before & is.present) != 0;
        const Word protected_entry = is_present ? static_cast<Word>(before & ~is.write) : before;
        const bool was_writable = is_present && (before & is.write) != 0;

        Word slot = before;
        wrong += write_protect(slot, format) != was_writable || slot != protected_entry;
        slot = before;
        if (is.dirty != 0) {
            const Word clean = is_present ? static_cast<Word>(before & ~is.dirty) : before;
            const bool was_dirty = is_present && (before & is.dirty) != 0;
            wrong += harvest_dirty(slot, format) != was_dirty || slot != clean;
            if constexpr (has_dirty<Format>()) {
                slot = before;
                wrong += clear_dirty(slot, format) != was_dirty || slot != clean;
            }
        } else {
            wrong += harvest_dirty(slot, format) != was_writable || slot != protected_entry;
        }
        slot = before;
        wrong += unmap(slot, format) != before || slot != 0;
    }
    CHECK(wrong == 0);
}

template <class Format>
void check_both_ways()
{
    using word = std::conditional_t<std::is_same_v<Format, shadow_two>, std::uint32_t, std::uint64_t>;
    check_age<word>(Format{}, of(Format{}));
    check_age<word>(format_for(Format::features()), of(Format{}));
    check_dirty<word>(Format{}, of(Format{}));
    check_dirty<word>(format_for(Format::features()), of(Format{}));
}

constexpr std::uint64_t r = 1, w = 2, x = 4, a = 0x100, d = 0x200;

}  // namespace

TEST_CASE_TEMPLATE("age, mark_accessed and harvesting do what their model does", Format, ept_ad, ept_soft_8,
                   ept_soft_63, ept_mbe, npt_long, shadow_long, shadow_pae, shadow_two)
{
    check_both_ways<Format>();
}

TEST_CASE("ageing by run-time masks, the accessed bit at each of 64 places")
{
    for (unsigned shift = 3; shift < 64; ++shift) {
        const std::uint64_t accessed = std::uint64_t{1} << shift;
        const masks m = masks::from({.present = 0x7, .accessed = accessed});
        REQUIRE(m.valid());
        for (unsigned other = 0; other < 64; ++other) {
            const std::uint64_t rest = std::uint64_t{1} << other | 0x1;
            std::uint64_t slot = rest | accessed;
            CHECK(age(slot, m));
            CHECK(slot == (rest & ~accessed));
            CHECK_FALSE(age(slot, m));
            CHECK(mark_accessed(slot, m));
            CHECK(slot == (rest | accessed));
        }
        std::uint64_t not_present = accessed;
        CHECK_FALSE(age(not_present, m));
        CHECK(not_present == accessed);
    }
}

TEST_CASE("ageing needs a present entry and nothing more: an old one is fine")
{
    std::uint64_t old = 0x1007;
    CHECK_FALSE(age(old, ept_ad{}));
    CHECK(old == 0x1007);
    std::uint64_t frozen = 0x8000'0000'0000'05a0;  // not present, bits 5 and 8 set
    CHECK_FALSE(age(frozen, ept_ad{}));
    CHECK_FALSE(age(frozen, npt_long{}));
    CHECK(frozen == 0x8000'0000'0000'05a0);
}

TEST_CASE("an operation that has nothing to do does not write")
{
    // Counts every access but loads.
    struct counting : plain_access {
        int* writes;
        void store(std::uint64_t& slot, std::uint64_t value) const { ++*writes, plain_access::store(slot, value); }
        std::uint64_t exchange(std::uint64_t& slot, std::uint64_t value) const
        {
            return ++*writes, plain_access::exchange(slot, value);
        }
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            return ++*writes, plain_access::compare_exchange(slot, expected, desired);
        }
        std::uint64_t fetch_or(std::uint64_t& slot, std::uint64_t mask) const
        {
            return ++*writes, plain_access::fetch_or(slot, mask);
        }
        std::uint64_t fetch_and(std::uint64_t& slot, std::uint64_t mask) const
        {
            return ++*writes, plain_access::fetch_and(slot, mask);
        }
        bool test_and_set(std::uint64_t& slot, unsigned shift) const
        {
            return ++*writes, plain_access::test_and_set(slot, shift);
        }
        bool test_and_clear(std::uint64_t& slot, unsigned shift) const
        {
            return ++*writes, plain_access::test_and_clear(slot, shift);
        }
    };
    int writes = 0;
    const counting count{{}, &writes};
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    std::uint64_t old = 0x1007;
    std::uint64_t young_entry = 0x1107;
    std::uint64_t read_only = r | x;
    std::uint64_t tracked = std::uint64_t{5} << 54;
    CHECK_FALSE(age(old, ept_ad{}, count));
    CHECK_FALSE(clear_dirty(old, ept_ad{}, count));
    CHECK_FALSE(harvest_dirty(old, ept_ad{}, count));
    CHECK_FALSE(mark_accessed(young_entry, ept_ad{}, count));
    CHECK_FALSE(write_protect(read_only, ept_ad{}, count));
    CHECK_FALSE(age(tracked, tracking, count));
    CHECK_FALSE(restore(old, tracking, count));
    CHECK(writes == 0);
    CHECK(age(young_entry, ept_ad{}, count));
    CHECK(writes == 1);
}

TEST_CASE("a reverse map of pointers or of slots: all are aged, the answer is any")
{
    for (unsigned young_set = 0; young_set < 8; ++young_set) {
        std::uint64_t slots[3];
        std::uint64_t* chain[3];
        for (unsigned i = 0; i < 3; ++i) {
            slots[i] = 0x1007 | ((young_set >> i & 1) != 0 ? a : 0);
            chain[i] = &slots[i];
        }
        const std::uint64_t before[] = {slots[0], slots[1], slots[2]};
        CHECK(young_any(chain, ept_ad{}) == (young_set != 0));
        CHECK(young_any(slots, ept_ad{}) == (young_set != 0));
        for (unsigned i = 0; i < 3; ++i) CHECK(slots[i] == before[i]);
        CHECK(age_all(chain, ept_ad{}) == (young_set != 0));
        for (const std::uint64_t slot : slots) CHECK(slot == 0x1007);
        CHECK_FALSE(age_all(slots, ept_ad{}));
    }
    const std::vector<std::uint64_t*> empty;
    CHECK_FALSE(age_all(empty, ept_ad{}));
    CHECK_FALSE(young_any(empty, ept_ad{}));
}

TEST_CASE("young_any stops at the first young entry")
{
    struct counting : plain_access {
        int* loads;
        [[nodiscard]] std::uint64_t load(const std::uint64_t& slot) const
        {
            ++*loads;
            return slot;
        }
    };
    const std::uint64_t slots[] = {0x1007, 0x1107, 0x1107};
    int loads = 0;
    CHECK(young_any(slots, ept_ad{}, counting{{}, &loads}));
    CHECK(loads == 2);
}

TEST_CASE_TEMPLATE("access tracking in both of KVM's layouts", Tracking, access_tracking<ept_no_ad, 54>,
                   access_tracking<ept_no_ad, 52>)
{
    constexpr Tracking tracking{};
    constexpr unsigned shift = tracking.saved_mask() == 0x0140'0000'0000'0000 ? 54 : 52;
    static_assert(tracking.saved_mask() == std::uint64_t{5} << shift);
    for (std::uint64_t permission = 0; permission < 8; ++permission) {
        const std::uint64_t entry = 0x0000'0012'3456'7030 | permission;  // WB, a frame
        const std::uint64_t tracked = 0x0000'0012'3456'7030 | (permission & 5) << shift;
        std::uint64_t slot = entry;
        if (permission == 0) {
            CHECK(track(slot, tracking) == track_result::not_present);
            CHECK_FALSE(age(slot, tracking));
            CHECK(slot == entry);
            continue;
        }
        CHECK(young(entry, tracking));
        CHECK_FALSE(is_tracked(entry, tracking));
        if (permission == w) {  // nothing to bring back: not legal in EPT either
            CHECK(track(slot, tracking) == track_result::not_present);
            CHECK(slot == entry);
            continue;
        }
        CHECK(track(slot, tracking) ==
              ((permission & w) != 0 ? track_result::tracked_writable : track_result::tracked));
        CHECK(slot == tracked);
        CHECK(is_tracked(slot, tracking));
        CHECK_FALSE(young(slot, tracking));
        CHECK(track(slot, tracking) == track_result::tracked_already);
        CHECK_FALSE(age(slot, tracking));
        CHECK(slot == tracked);
        CHECK(restore(slot, tracking));
        CHECK(slot == (entry & ~w));
        CHECK_FALSE(restore(slot, tracking));
        CHECK(slot == (entry & ~w));
        CHECK(age(slot, tracking));
        CHECK_FALSE(age(slot, tracking));
    }
    for (const unsigned saved : {shift, shift + 2}) {
        const std::uint64_t entry = 0x1007 | std::uint64_t{1} << saved;
        std::uint64_t slot = entry;
        CHECK(track(slot, tracking) == track_result::saved_bits_in_use);
        CHECK(age(slot, tracking));
        CHECK(slot == entry);
    }
}

TEST_CASE("access tracking with mode-based execute keeps XU too")
{
    using mbe = ept<ept_features{.accessed_dirty = false, .mode_based_execute = true}>;
    constexpr access_tracking<mbe, 52> tracking{};
    static_assert(tracking.saved_mask() == 0x4050'0000'0000'0000);
    std::uint64_t slot = 0x1405;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x4050'0000'0000'1000);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x1405);
}

TEST_CASE("access tracking of a format known at run time")
{
    const auto format = format_for(ept_features{.accessed_dirty = false});
    const access_tracking<runtime_format<ept_description>, 54> tracking{format};
    std::uint64_t slot = 0x1007;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x0140'0000'0000'1000);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x1005);
}

TEST_CASE("access tracking makes any format's next access fault: ordinary paging saves P")
{
    constexpr access_tracking<shadow_long, 52> tracking{};
    std::uint64_t slot = 0x1067;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x0010'0000'0000'1064);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x1065);
}

TEST_CASE("a failed exchange reports young and changes nothing")
{
    // Another thread changes the entry between the look and the exchange.
    struct interrupted : plain_access {
        static bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired)
        {
            slot |= 0x40;
            return plain_access::compare_exchange(slot, expected, desired);
        }
    };
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    std::uint64_t slot = 0x1007;
    CHECK(track(slot, tracking, interrupted{}) == track_result::changed);
    CHECK(slot == 0x1047);
    slot = 0x1007;
    CHECK(age(slot, tracking, interrupted{}));
    CHECK(slot == 0x1047);
}

TEST_CASE("needs_flush: what shrank, moved or was taken away")
{
    const auto flush = [](std::uint64_t before, std::uint64_t after) { return needs_flush(before, after, ept_ad{}); };
    const std::uint64_t page = 0x1030;  // a frame, WB
    CHECK_FALSE(flush(page | r | w | x, page | r | w | x));
    CHECK_FALSE(flush(page | r | w | x | a, page | r | w | x));  // A cleared
    CHECK_FALSE(flush(page | r | w | x, page | r | w | x | a | d));
    CHECK(flush(page | r | w | x | d, page | r | w | x));            // D cleared
    CHECK(flush(page | r, 0));                                       // unmapped
    CHECK_FALSE(flush(0, page | r | w | x));                         // mapped
    CHECK_FALSE(flush(0, 0x8000'0000'0000'05a0));                    // from nothing to a marker
    CHECK(flush(page | r | w, page | r));                            // write-protected
    CHECK(flush(page | r | x, page | r));                            // execute taken
    CHECK_FALSE(flush(page | r, page | r | w | x));                  // permissions grew
    CHECK(flush(page | r, (page ^ 0x3000) | r));                     // points elsewhere
    CHECK(flush(page | r, (page & ~std::uint64_t{0x30}) | r));       // memory type WB to UC
    CHECK_FALSE(flush(page | r, page | r | 0x0600'0000'0000'0000));  // software bits
    CHECK(flush(page | r | w | x, 0x0000'0f80'd000'00f6));           // to an MMIO marker: a misconfiguration
    CHECK_FALSE(flush(0x0000'0f80'd000'00f6, page | r));             // from one: nothing was cached
}

TEST_CASE("needs_flush: the lock-free write path, ordinary paging, and levels")
{
    const std::uint64_t host_and_mmu = 0x600;  // bits 9 and 10
    const std::uint64_t entry = 0x1005;
    CHECK(needs_flush(entry | host_and_mmu, entry, shadow_long{}, 1, host_and_mmu));
    CHECK(needs_flush(entry | host_and_mmu, entry | 0x200, shadow_long{}, 1, host_and_mmu));
    CHECK_FALSE(needs_flush(entry | host_and_mmu, entry, shadow_long{}));
    CHECK_FALSE(needs_flush(entry, entry | host_and_mmu, shadow_long{}, 1, host_and_mmu));

    CHECK(needs_flush(0x1005, 0x8000'0000'0000'1005, shadow_long{}));  // XD set
    CHECK_FALSE(needs_flush(0x8000'0000'0000'1005, 0x1005, shadow_long{}));
    CHECK(needs_flush(0x1007, 0x1003, shadow_long{}));  // U/S cleared
    CHECK(needs_flush(0x1007, 0x1087, shadow_long{}));  // PAT
    CHECK(needs_flush(0x1107, 0x1007, shadow_long{}));  // G
    CHECK_FALSE(needs_flush(0x1027, 0x1007, shadow_long{}));
    CHECK(needs_flush(0x20'0087, 0x5007, shadow_long{}, 2));     // a large page split
    CHECK(needs_flush(0x5007, 0x6007, shadow_long{}, 2));        // another table
    CHECK_FALSE(needs_flush(0x5047, 0x5007, shadow_long{}, 2));  // bit 6 of a table entry is ignored
    CHECK_FALSE(needs_flush(0x20'00a7, 0x20'0087, shadow_long{}, 2));
    CHECK(needs_flush(0x20'00c7, 0x20'0087, shadow_long{}, 2));  // D of a large page
}

TEST_CASE("needs_flush where accesses are tracked: the TLB may hold what a tracked entry restores to")
{
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    const std::uint64_t read_execute = 0x1035;
    const std::uint64_t tracked = 0x0140'0000'0000'1030;
    CHECK(needs_flush(tracked, 0, tracking));                      // zapped while tracked
    CHECK(needs_flush(tracked, 0x0140'0000'0000'2030, tracking));  // points elsewhere
    CHECK_FALSE(needs_flush(tracked, read_execute, tracking));     // restored
    CHECK_FALSE(needs_flush(read_execute, tracked, tracking));     // ageing alone
    CHECK(needs_flush(read_execute | w, tracked, tracking));       // W was taken with it
    CHECK_FALSE(needs_flush(tracked, 0, ept_no_ad{}));             // by the format alone it is a hole
}

TEST_CASE("young_any by access tracking: present is young")
{
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    const std::uint64_t slots[] = {0, 0x0140'0000'0000'1030, 0x1035};
    CHECK(young_any(slots, tracking));
    const std::uint64_t old[] = {0, 0x0140'0000'0000'1030};
    CHECK_FALSE(young_any(old, tracking));
}

TEST_CASE("needs_flush agrees with static and run-time features on every pair of single-bit changes")
{
    const auto runtime = format_for(ept_features{});
    for (unsigned low = 0; low < 64; ++low) {
        for (unsigned b = 0; b < 64; ++b) {
            const std::uint64_t before = 0x1237 ^ std::uint64_t{1} << low;
            const std::uint64_t after = before ^ std::uint64_t{1} << b;
            CHECK(needs_flush(before, after, runtime) == needs_flush(before, after, ept_ad{}));
        }
    }
}

TEST_CASE("needs_atomic_update: what hardware or a lock-free path may change underneath")
{
    const std::uint64_t page = 0x1030;
    CHECK_FALSE(needs_atomic_update(0, ept_ad{}));
    CHECK_FALSE(needs_atomic_update(0x8000'0000'0000'05a0, ept_ad{}));
    CHECK_FALSE(needs_atomic_update(page | r | x, ept_ad{}));
    CHECK(needs_atomic_update(page | r | w | x, ept_ad{}));            // D may be set
    CHECK_FALSE(needs_atomic_update(page | r | w | x | d, ept_ad{}));  // D is set, A alone does not count
    const std::uint64_t fast = 0x0600'0000'0000'0000;
    CHECK(needs_atomic_update(page | r | fast, ept_ad{}, fast));
    CHECK_FALSE(needs_atomic_update(page | r | fast, ept_ad{}));
    CHECK_FALSE(needs_atomic_update(page | r | (fast & (fast - 1)), ept_ad{}, fast));
    CHECK_FALSE(needs_atomic_update(page | r | w | d | fast, ept_ad{}, fast));
    CHECK(needs_atomic_update(page | r, ept_no_ad{}));  // access tracking in play
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    CHECK(needs_atomic_update(page | std::uint64_t{5} << 54, tracking));
    CHECK_FALSE(needs_atomic_update(page, tracking));
    CHECK(needs_atomic_update(page | r, tracking));
}

TEST_CASE("a frozen marker is held against the masks")
{
    // The marker of KVM reads as accessed in both formats.
    CHECK(check_marker(0x8000'0000'0000'05a0, ept_ad{}) == marker_error::looks_accessed);
    CHECK(check_marker(0x8000'0000'0000'05a0, shadow_long{}) == marker_error::looks_accessed);
    CHECK(check_marker(0x8000'0000'0000'05a0, ept_no_ad{}) == marker_error::none);
    CHECK(check_marker(0, ept_ad{}) == marker_error::is_zero);
    CHECK(check_marker(0x4, ept_ad{}) == marker_error::looks_present);
    CHECK(check_marker(0x4, shadow_long{}) == marker_error::none);
    CHECK(check_marker(0x200, ept_ad{}) == marker_error::looks_dirty);

    // W is not part of present in ordinary paging; write-protecting would clear it.
    CHECK(check_marker(0x8000'0000'0000'0002, shadow_long{}) == marker_error::looks_writable);
    // restore() would make it present.
    constexpr access_tracking<ept_no_ad, 54> tracking{};
    CHECK(check_marker(std::uint64_t{1} << 54, tracking) == marker_error::looks_tracked);
    CHECK(check_marker(0x8000'0000'0000'05a0, tracking) == marker_error::none);
    CHECK(check_marker(0x4, tracking) == marker_error::looks_present);

    constexpr frozen_marker<ept_ad, 0x8000'0000'0000'0400> marker;
    std::uint64_t slot = 0x1007;
    std::uint64_t expected = 0x1007;
    CHECK(freeze(slot, expected, marker));
    CHECK(is_frozen(slot, marker));
    CHECK(slot == 0x8000'0000'0000'0400);
    CHECK_FALSE(age(slot, ept_ad{}));
    CHECK_FALSE(mark_accessed(slot, ept_ad{}));
    CHECK_FALSE(harvest_dirty(slot, ept_ad{}));
    CHECK_FALSE(write_protect(slot, ept_ad{}));
    CHECK(is_frozen(slot, marker));
    expected = 0x1007;
    CHECK_FALSE(freeze(slot, expected, marker));
    CHECK(is_frozen(expected, marker));
    CHECK_FALSE(freeze(slot, expected, marker));  // nobody freezes a frozen entry again
    store(slot, 0);
    CHECK_FALSE(is_frozen(slot, marker));
}

TEST_CASE("a frozen marker where the format is known at run time")
{
    const auto format = format_for(ept_features{});
    const runtime_frozen_marker marker(0x8000'0000'0000'0400, format);
    std::uint64_t slot = 0x1007;
    std::uint64_t expected = slot;
    CHECK(freeze(slot, expected, marker));
    CHECK(is_frozen(slot, marker));
    CHECK_FALSE(freeze(slot, expected = slot, marker));
}

TEST_CASE("mark_accessed by masks without an accessed bit marks nothing")
{
    const masks m = masks::from({.present = 7});
    std::uint64_t slot = 0x1007;
    CHECK_FALSE(mark_accessed(slot, m));
    CHECK(slot == 0x1007);
}

TEST_CASE("age_table reports and clears every young slot of a table of each shape")
{
    alignas(4096) std::uint64_t long_table[512] = {};
    alignas(4096) std::uint32_t two_level_table[1024] = {};
    for (unsigned i = 0; i < 512; i += 3) long_table[i] = 0x1021 | i << 12;
    for (unsigned i = 0; i < 1024; i += 5) two_level_table[i] = 0x1021 | i << 12;
    long_table[1] = 0x20;  // not present

    const auto young_long = age_table(long_table, shadow_long{});
    const auto young_two = age_table(two_level_table, shadow_two{});
    for (unsigned i = 0; i < 512; ++i) CHECK(young_long.test(i) == (i % 3 == 0));
    for (unsigned i = 0; i < 1024; ++i) CHECK(young_two.test(i) == (i % 5 == 0));
    CHECK(young_long.count() == 171);
    CHECK(young_two.count() == 205);
    CHECK(long_table[1] == 0x20);
    CHECK(long_table[3] == (0x1001 | 3 << 12));
    CHECK_FALSE(age_table(long_table, shadow_long{}).any());
    CHECK_FALSE(age_table(two_level_table, shadow_two{}).any());
}
