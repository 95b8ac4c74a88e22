// SPDX-License-Identifier: BSL-1.0
// Passes over simulated guests of 1 GiB to 1 TiB, by EPT and by ordinary paging: what a pass takes beside a plain read
// of the same tables, what it saves to skip subtrees that were not accessed, and what more threads gain. The guests are
// tables alone, those of the pages in no order, as a kernel hands them out, in large pages of the host. Before each
// pass it is simulated that the guest uses a share of its pages, by chance or all pages of as many tables: hardware
// sets A in their entries and in those above. Each pass fills a bitmap of young pages, which is counted. Guests:
// medians of rounds, of the time that the thread ran. Threads: the shortest of the rounds, from the first thread's
// begin to the last one's end. Linux on x86-64. Prints Markdown.
//   bench_scale [--most GiB] [--rounds n] [--threads n] [--only guests|threads]
#include <emmintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iterator>
#include <memory>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/range.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "progress.hpp"

using namespace ptebits;

namespace {

using word = std::uint64_t;
constexpr auto nested = ept<ept_features{}>;
constexpr auto ordinary = shadow<shadow_features{}>;
constexpr word table_bytes = 4096;
constexpr word slots_a_table = 512;
constexpr double shares[] = {0.001, 0.01, 0.1, 1};

struct options {
    word most_gib = 1024;
    unsigned rounds = 0;  ///< 0: by the size of the guest
    unsigned threads = std::thread::hardware_concurrency();
    bool guests = true;
    bool parts = true;
};

[[noreturn]] void fail(const char* what)
{
    std::fprintf(stderr, "bench_scale: %s\n", what);
    std::exit(1);
}

double median(std::vector<double> values)
{
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Seconds that this thread has run: not those in which the machine did something else.
double cpu_time()
{
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Zeroed memory in large pages.
class region {
public:
    explicit region(word bytes) : bytes_(bytes + large)
    {
        mapped_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped_ == MAP_FAILED) fail("no memory");
        void* at = mapped_;
        std::size_t room = bytes_;
        words_ = static_cast<word*>(std::align(large, bytes, at, room));
        madvise(words_, bytes, MADV_HUGEPAGE);
    }
    ~region() { munmap(mapped_, bytes_); }
    region(const region&) = delete;
    region& operator=(const region&) = delete;

    [[nodiscard]] word* words() const { return words_; }

private:
    static constexpr word large = 0x20'0000;

    word bytes_;
    void* mapped_ = nullptr;
    word* words_ = nullptr;
};

// How the guest uses its pages: each by chance, or all of a table.
enum class pattern : std::uint8_t { scattered, clustered };

// A guest's tables, in physical memory that begins with them. Tables of one level above the pages are side by side,
// so that the slots of a level are one array; those of the pages are in no order.
template <const auto& Format>
class guest {
public:
    guest(word bytes, unsigned page_level)
        : level_(page_level),
          pages_(bytes >> Format->shape().page_shift(page_level)),
          leaf_tables_(pages_ / slots_a_table),
          memory_((leaf_tables_ + upper_tables(leaf_tables_, page_level)) * table_bytes),
          young_(pages_ / 64)
    {
        word first = leaf_tables_;
        word below = leaf_tables_;
        for (unsigned level = page_level + 1; level <= levels; ++level) {
            upper_[level] = memory_.words() + first * slots_a_table;
            for (word n = 0; n < below; ++n) {
                const word table = level == page_level + 1 ? place(n) : first_below_ + n;
                upper_[level][n] = encode(kind::table, level, table * table_bytes, {}, Format).entry;
            }
            first_below_ = first;
            below = (below + slots_a_table - 1) / slots_a_table;
            first += below;
        }
        const unsigned shift = Format->shape().page_shift(page_level);
        const word leaf = encode(kind::leaf, page_level, 0, {}, Format).entry;
        for (word n = 0; n < pages_; ++n) leaf_table(n / slots_a_table)[n % slots_a_table] = leaf | n << shift;
    }

    [[nodiscard]] word root() const { return first_below_ * table_bytes; }
    [[nodiscard]] word* operator()(word physical) const { return memory_.words() + physical / sizeof(word); }
    [[nodiscard]] inclusive_range all() const { return {0, (pages_ << Format->shape().page_shift(level_)) - 1}; }
    [[nodiscard]] word tables() const { return leaf_tables_ + upper_tables(leaf_tables_, level_); }
    [[nodiscard]] word pages() const { return pages_; }

    // Uses a share of the pages of some tables. Returns how many pages that were.
    word use(word first_table, word last_table, double share, pattern how, std::mt19937_64& random)
    {
        if (share == 0 || first_table > last_table) return 0;
        const word unit = how == pattern::clustered ? slots_a_table : 1;
        const word end = (last_table + 1) * (slots_a_table / unit);
        const double scale = share < 1 ? 1 / std::log1p(-share) : 0;
        word used = 0;
        word table = ~word{0};
        word* slots = nullptr;
        // From one that is used to the next: a geometric distribution.
        const auto gap = [&] {
            const double uniform = static_cast<double>((random() >> 11) + 1) * 0x1p-53;
            return share < 1 ? static_cast<word>(std::log(uniform) * scale) : 0;
        };
        for (word n = first_table * (slots_a_table / unit) + gap(); n < end; n += 1 + gap()) {
            if (n * unit / slots_a_table != table) {
                table = n * unit / slots_a_table;
                slots = leaf_table(table);
                use_above(table);
            }
            for (word i = 0; i < unit; ++i) slots[n * unit % slots_a_table + i] |= accessed;
            used += unit;
        }
        return used;
    }

    range_counts age(range_part part, subtrees which)
    {
        const unsigned shift = Format->shape().page_shift(level_);
        const auto note = [this, shift](word address, word) {
            young_[address >> shift >> 6] |= word{1} << (address >> shift) % 64;
        };
        return age_range(Format, root(), part, *this, note, which);
    }
    // Reads the tables of pages, and nothing else. Returns bits that depend on all of them.
    [[nodiscard]] word read(word first_table, word last_table) const
    {
        __m128i a{}, b{}, c{}, d{};
        for (word n = first_table; n <= last_table; ++n) {
            const auto* const at = reinterpret_cast<const __m128i*>(leaf_table(n));
            for (unsigned i = 0; i < table_bytes / sizeof(__m128i); i += 4) {
                a = _mm_or_si128(a, _mm_load_si128(at + i));
                b = _mm_or_si128(b, _mm_load_si128(at + i + 1));
                c = _mm_or_si128(c, _mm_load_si128(at + i + 2));
                d = _mm_or_si128(d, _mm_load_si128(at + i + 3));
            }
        }
        const __m128i all_bits = _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d));
        return static_cast<word>(_mm_cvtsi128_si64(_mm_or_si128(all_bits, _mm_unpackhi_epi64(all_bits, all_bits))));
    }

    // Young pages of the bitmap, which is then empty.
    word take_young()
    {
        word count = 0;
        for (word& bits : young_) {
            for (word left = bits; left != 0; left &= left - 1) ++count;
            bits = 0;
        }
        return count;
    }

    // The tables of pages in a part.
    [[nodiscard]] inclusive_range tables_of(range_part part) const
    {
        const inclusive_range r = part.addresses();
        if (r.empty()) return r;
        const unsigned shift = Format->shape().page_shift(level_ + 1);
        return {r.first >> shift, r.last >> shift};
    }

private:
    static constexpr unsigned levels = 4;
    static constexpr word accessed = Format->accessed.mask();

    static word upper_tables(word below, unsigned page_level)
    {
        word sum = 0;
        for (unsigned level = page_level; level < levels; ++level) {
            below = (below + slots_a_table - 1) / slots_a_table;
            sum += below;
        }
        return sum;
    }
    // A table of pages, by address, is the table at this place: the number of tables is a power of two.
    [[nodiscard]] word place(word table) const { return table * 0x9e37'79b1 & (leaf_tables_ - 1); }
    [[nodiscard]] word* leaf_table(word table) const { return memory_.words() + place(table) * slots_a_table; }

    void use_above(word table)
    {
        word n = table;
        for (unsigned level = level_ + 1; level <= levels; ++level) {
            if ((load(upper_[level][n]) & accessed) == 0) set(upper_[level][n], field{accessed});
            n /= slots_a_table;
        }
    }

    unsigned level_;
    word pages_;
    word leaf_tables_;
    region memory_;
    word* upper_[levels + 1] = {};
    word first_below_ = 0;
    std::vector<word> young_;
};

volatile word sink;

std::string size_text(word gib)
{
    return gib < 1024 ? std::to_string(gib) + " GiB" : std::to_string(gib / 1024) + " TiB";
}

// Passes over a guest, in turns with plain reads.
template <const auto& Format>
void measure_guest(word gib, unsigned page_level, const options& wanted, progress& shown)
{
    guest<Format> g(gib << 30, page_level);
    const unsigned rounds = wanted.rounds != 0 ? wanted.rounds : gib >= 64 ? 5 : gib >= 16 ? 9 : 21;
    const word last_table = g.pages() / slots_a_table - 1;
    const auto bytes = static_cast<double>(g.tables() * table_bytes);
    std::mt19937_64 random{1};
    for (const pattern how : {pattern::scattered, pattern::clustered}) {
        for (const double share : shares) {
            if (how == pattern::clustered && (share == 1 || page_level > 1)) continue;
            std::vector<double> plain, all, skipping, ratio, read_share, used_share;
            for (unsigned round = 0; round < rounds; ++round) {
                shown.show("guest of " + size_text(gib) + ", " + std::to_string(100 * share) + "% young, round " +
                           std::to_string(round + 1) + " of " + std::to_string(rounds));
                for (const subtrees which : {subtrees::all, subtrees::accessed}) {
                    const word used = g.use(0, last_table, share, how, random);
                    const double start = cpu_time();
                    const range_counts counts = g.age(g.all(), which);
                    const double took = cpu_time() - start;
                    if (counts.pages != used || g.take_young() != used) fail("a wrong answer");
                    (which == subtrees::all ? all : skipping).push_back(took);
                    if (which == subtrees::all) {
                        // It left A above the pages.
                        static_cast<void>(g.age(g.all(), subtrees::accessed));
                        continue;
                    }
                    used_share.push_back(static_cast<double>(used) / static_cast<double>(g.pages()));
                    read_share.push_back(static_cast<double>(counts.tables * table_bytes) / bytes);
                }
                ratio.push_back(all.back() / skipping.back());
                const double start = cpu_time();
                sink = g.read(0, last_table);
                plain.push_back((cpu_time() - start) / static_cast<double>(last_table + 1));
            }
            const auto rate = [&](double took) { return bytes / took / 1e9; };
            std::printf("| %s | %s%.2f%% | %.3f MiB | %.1f GB/s | %.3f ms | %.1f GB/s | %.3f ms | %.2f%% | %.2f |\n",
                        size_text(gib).c_str(), how == pattern::scattered ? "" : "whole tables, ",
                        100 * median(used_share), bytes / 0x1p20, table_bytes / median(plain) / 1e9, 1e3 * median(all),
                        rate(median(all)), 1e3 * median(skipping), 100 * median(read_share), median(ratio));
            std::fflush(stdout);
        }
    }
}

template <const auto& Format>
void measure_guests(const char* what, const options& wanted, progress& shown)
{
    for (const unsigned page_level : {1U, 2U}) {
        std::printf(
            "\nGuests of %s pages, %s\n\n"
            "| guest | young pages | all tables | plain read of them | pass over all | the same | pass that skips "
            "| tables that it reads | times as fast as over all |\n|---|---|---|---|---|---|---|---|---|\n",
            page_level == 1 ? "4-Kbyte" : "2-Mbyte", what);
        for (word gib = 1; gib <= wanted.most_gib; gib *= 4) {
            const word needs = (gib << 30) / (page_level == 1 ? 0x1000 : 0x20'0000) * 9;
            const word free = static_cast<word>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<word>(sysconf(_SC_PAGESIZE));
            if (needs > free / 2) {
                std::printf("| %s | not measured: needs %.1f GiB of memory, of which half is left free |\n",
                            size_text(gib).c_str(), static_cast<double>(needs) / 0x1p30);
                break;
            }
            measure_guest<Format>(gib, page_level, wanted, shown);
        }
    }
}

// ---- threads

// All wait for all, awake: a pass takes microseconds.
class meeting {
public:
    explicit meeting(unsigned members) : members_(members) {}
    void wait()
    {
        const unsigned turn = turn_.load();
        if (++here_ == members_) {
            here_ = 0;
            ++turn_;
        } else {
            while (turn_.load() == turn) _mm_pause();
        }
    }

private:
    unsigned members_;
    std::atomic<unsigned> here_ = 0;
    std::atomic<unsigned> turn_ = 0;
};

enum class work : std::uint8_t { age, read };

// Seconds of a pass by some threads, each of which has a part and uses it before.
double time_of_parts(guest<nested>& g, unsigned threads, double share, work what, unsigned passes)
{
    meeting together(threads);
    struct alignas(64) span {
        double begin = 0, end = 0;
        word used = 0, found = 0;
    };
    std::vector<span> spans(threads);
    const auto run = [&](unsigned which) {
        const range_part part(nested, g.all(), threads, which);
        const inclusive_range tables = g.tables_of(part);
        std::mt19937_64 random{which};
        span mine;
        mine.used = g.use(tables.first, tables.last, share, pattern::scattered, random);
        sink = g.read(tables.first, tables.last);
        together.wait();
        mine.begin = now();
        for (unsigned pass = 0; pass < passes; ++pass) {
            if (what == work::age) {
                mine.found += g.age(part, subtrees::all).pages;
            } else {
                sink = g.read(tables.first, tables.last);
            }
        }
        mine.end = now();
        spans[which] = mine;
    };
    std::vector<std::thread> others;
    for (unsigned which = 1; which < threads; ++which) others.emplace_back(run, which);
    run(0);
    for (std::thread& t : others) t.join();
    double begin = spans[0].begin, end = spans[0].end;
    word used = 0, found = 0;
    for (const span& s : spans) {
        begin = std::min(begin, s.begin);
        end = std::max(end, s.end);
        used += s.used;
        found += s.found;
    }
    if (what == work::age && (found != used || g.take_young() != used)) fail("a wrong answer of a part");
    return (end - begin) / passes;
}

void measure_threads(const options& wanted, progress& shown)
{
    std::printf(
        "\nA guest of 4-Kbyte pages by EPT, in parts: each thread ages one\n\n"
        "| guest | its tables | young pages | threads | pass | the same | times as fast as one | plain read "
        "| times as fast as one |\n|---|---|---|---|---|---|---|---|---|\n");
    std::vector<unsigned> counts;
    for (unsigned n = 1; n < wanted.threads; n *= 2) counts.push_back(n);
    counts.push_back(wanted.threads);
    for (const word mib : {word{256}, word{2} << 10, word{64} << 10}) {
        guest<nested> g(mib << 20, 1);
        const auto bytes = static_cast<double>(g.tables() * table_bytes);
        const unsigned rounds = wanted.rounds != 0 ? wanted.rounds : mib > 2048 ? 15 : 101;
        for (const double share : {0.0, 0.01, 0.1, 1.0}) {
            // Where nothing changes, many passes at once.
            const unsigned passes = share == 0 ? static_cast<unsigned>(1 + (std::uint64_t{1} << 13) / mib) : 1;
            std::vector<double> took(counts.size(), HUGE_VAL), reads(counts.size(), HUGE_VAL);
            for (unsigned round = 0; round < rounds; ++round) {
                for (std::size_t c = 0; c < counts.size(); ++c) {
                    shown.show("guest of " + std::to_string(mib) + " MiB, " + std::to_string(counts[c]) +
                               " threads, round " + std::to_string(round + 1) + " of " + std::to_string(rounds));
                    reads[c] = std::min(reads[c], time_of_parts(g, counts[c], 0, work::read, passes));
                    took[c] = std::min(took[c], time_of_parts(g, counts[c], share, work::age, passes));
                }
            }
            const auto rate = [&](double seconds) { return bytes / seconds / 1e9; };
            for (std::size_t c = 0; c < counts.size(); ++c) {
                std::printf("| %llu MiB | %.1f MiB | %.0f%% | %u | %.1f us | %.1f GB/s | %.2f | %.1f GB/s | %.2f |\n",
                            static_cast<unsigned long long>(mib), bytes / 0x1p20, 100 * share, counts[c], 1e6 * took[c],
                            rate(took[c]), took[0] / took[c], rate(reads[c]), reads[0] / reads[c]);
                std::fflush(stdout);
            }
        }
    }
}

[[noreturn]] void usage()
{
    std::fputs("usage: bench_scale [--most GiB] [--rounds n] [--threads n] [--only guests|threads]\n", stderr);
    std::exit(2);
}

unsigned long number(const char* text)
{
    char* end = nullptr;
    const unsigned long n = std::strtoul(text, &end, 10);
    if (n == 0 || *end != 0 || *text == '-') usage();
    return n;
}

}  // namespace

int main(int argc, char** argv)
{
    options wanted;
    for (int i = 1; i < argc; i += 2) {
        const std::string option = argv[i];
        if (i + 1 == argc) usage();
        const std::string value = argv[i + 1];
        if (option == "--most") {
            wanted.most_gib = number(argv[i + 1]);
        } else if (option == "--rounds") {
            wanted.rounds = static_cast<unsigned>(number(argv[i + 1]));
        } else if (option == "--threads") {
            wanted.threads = static_cast<unsigned>(number(argv[i + 1]));
        } else if (option == "--only" && (value == "guests" || value == "threads")) {
            wanted.guests = value == "guests";
            wanted.parts = value == "threads";
        } else {
            usage();
        }
    }
    progress shown;
    if (wanted.guests) {
        measure_guests<nested>("EPT", wanted, shown);
        measure_guests<ordinary>("ordinary paging with 4 levels", wanted, shown);
    }
    if (wanted.parts) measure_threads(wanted, shown);
}
