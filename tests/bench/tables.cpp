// Whole tables: the library beside the loop as kernels write it, in one run, by share of
// young entries, by where the tables are, and by their number. Medians of 9 rounds with
// the contestants in turns. Linux on x86-64. Prints Markdown.
//   bench_tables [--rounds n] [--svg file] [--small]      --small: nothing in DRAM
#include <sys/mman.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <ptebits/table.hpp>
#include <random>
#include <string>
#include <vector>

using table = std::uint64_t[512];
using bitmap = ptebits::slot_bitmap<512>;
using function = bitmap (*)(table&);

#define CONTESTANTS(X) X(plain) X(general) X(sse2) X(avx2) X(native)
#define DECLARE(name)       \
    namespace name {        \
    bitmap library(table&); \
    bitmap kernel(table&);  \
    bitmap read(table&);    \
    }
CONTESTANTS(DECLARE)

namespace {

struct contestant {
    const char* name;
    function run;
};
// The first is what the others are measured by.
const contestant contestants[] = {
    {"entry by entry, -O2", plain::kernel}, {"-O2 -mgeneral-regs-only", general::library}, {"-O2", sse2::library},
    {"-O3 -mavx2", avx2::library},          {"-O3 -march=native", native::library},
};
constexpr std::size_t contestant_count = std::size(contestants);
const contestant readers[] = {
    {"-O2", sse2::read},
    {"-O3 -mavx2", avx2::read},
    {"-O3 -march=native", native::read},
};

constexpr double densities[] = {0, 0.01, 0.1, 0.5, 1};
constexpr std::size_t all_tables = std::size_t{1} << 18;  // 1 GiB

int rounds = 9;
double cycles_a_ns = 1;
table* memory = nullptr;
std::vector<bitmap> bitmaps;
using pattern = std::array<std::uint64_t, 8>;

double median(std::vector<double> values)
{
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

// Mean of the middle half: the time-stamp counter goes in steps of 10 ns on some CPUs.
double middle(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    const std::size_t quarter = values.size() / 4;
    double sum = 0;
    for (std::size_t i = quarter; i < values.size() - quarter; ++i) sum += values[i];
    return sum / static_cast<double>(values.size() - 2 * quarter);
}

std::uint64_t now()
{
    _mm_mfence();
    _mm_lfence();
    const std::uint64_t t = __rdtsc();
    _mm_lfence();
    return t;
}

void run_over(function run, std::size_t tables)
{
    // Made in place, not copied.
    for (std::size_t n = 0; n < tables; ++n) new (&bitmaps[n]) bitmap(run(memory[n]));
}

double ns_of(function run, std::size_t tables, std::size_t times)
{
    const std::uint64_t start = now();
    for (std::size_t i = 0; i < times; ++i) run_over(run, tables);
    return static_cast<double>(now() - start) / cycles_a_ns / static_cast<double>(times);
}

double ns_of_nothing()
{
    const std::uint64_t start = now();
    return static_cast<double>(now() - start) / cycles_a_ns;
}

void calibrate()
{
    const auto begin = std::chrono::steady_clock::now();
    const std::uint64_t start = now();
    while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(200)) {
    }
    const std::uint64_t end = now();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    cycles_a_ns = static_cast<double>(end - start) / took.count();
}

void fill(table& t, const pattern& young)
{
    for (std::size_t i = 0; i < 512; ++i) {
        t[i] = 0x1037 | i << 12 | (young[i / 64] >> i % 64 & 1) << 8;
    }
}

std::vector<pattern> patterns(double density, std::size_t count)
{
    std::mt19937_64 random{1};
    std::vector<pattern> all(count);
    for (pattern& p : all) {
        for (std::size_t i = 0; i < 512; ++i) {
            const bool is_young = static_cast<double>(random() >> 11) * 0x1p-53 < density;
            p[i / 64] |= std::uint64_t{is_young} << i % 64;
        }
    }
    return all;
}

// One contestant's answer against the pattern, so that nobody wins by doing less.
void check(const contestant& c, std::size_t tables, const std::vector<pattern>& young, std::size_t first)
{
    for (std::size_t n = 0; n < tables; ++n) {
        const pattern& p = young[(first + n) % young.size()];
        bool same = true;
        for (std::size_t i = 0; i < p.size(); ++i) same = same && bitmaps[n].word(i) == p[i];
        bool cleared = true;
        for (const std::uint64_t entry : memory[n]) cleared = cleared && (entry & 0x100) == 0;
        if (!same || !cleared) {
            std::fprintf(stderr, "%s: a wrong answer\n", c.name);
            std::exit(1);
        }
    }
}

// ns a table of each contestant: medians over rounds.
std::array<double, contestant_count> measure(std::size_t tables, double density, std::size_t pattern_count,
                                             std::size_t passes)
{
    const std::vector<pattern> young = patterns(density, pattern_count);
    std::vector<double> ns[contestant_count];
    for (int round = 0; round < rounds; ++round) {
        for (std::size_t turn = 0; turn < contestant_count; ++turn) {
            const std::size_t c = (turn + static_cast<std::size_t>(round)) % contestant_count;
            std::vector<double> took;
            std::vector<double> empty;
            for (std::size_t pass = 0; pass < passes; ++pass) {
                for (std::size_t n = 0; n < tables; ++n) fill(memory[n], young[(pass + n) % young.size()]);
                // Where nothing changes, many times at once: the clock itself takes time.
                took.push_back(ns_of(contestants[c].run, tables, density == 0 && tables < 64 ? 100 : 1));
                if (pass == 0) check(contestants[c], tables, young, pass);
                empty.push_back(ns_of_nothing());
            }
            const double clock = density == 0 && tables < 64 ? 0 : middle(empty);
            ns[c].push_back((middle(took) - clock) / static_cast<double>(tables));
        }
    }
    std::array<double, contestant_count> result{};
    for (std::size_t c = 0; c < contestant_count; ++c) result[c] = median(ns[c]);
    return result;
}

void print_head(const char* title, const char* first)
{
    std::printf("\n%s\n\n| %s |", title, first);
    for (const contestant& c : contestants) std::printf(" %s |", c.name);
    std::printf("\n|---|");
    for (std::size_t c = 0; c < contestant_count; ++c) std::printf("---|");
    std::printf("\n");
}

void print_row(const std::array<double, contestant_count>& ns)
{
    std::printf(" %.0f ns |", ns[0]);
    for (std::size_t c = 1; c < contestant_count; ++c) std::printf(" %.0f ns, %.2fx |", ns[c], ns[0] / ns[c]);
    std::printf("\n");
    std::fflush(stdout);
}

using results = std::array<std::array<double, contestant_count>, std::size(densities)>;

results by_density(const char* title, std::size_t tables, std::size_t pattern_count, std::size_t passes)
{
    results all{};
    print_head(title, "young");
    for (std::size_t d = 0; d < std::size(densities); ++d) {
        all[d] = measure(tables, densities[d], pattern_count, passes);
        std::printf("| %.0f%% |", densities[d] * 100);
        print_row(all[d]);
    }
    return all;
}

// Nothing young: every pass alike, so that small sizes are timed over many passes.
void growth()
{
    std::vector<function> runs;
    std::printf("\nNothing young, by number of tables: GB/s\n\n| tables |");
    for (const contestant& c : contestants) {
        std::printf(" %s |", c.name);
        runs.push_back(c.run);
    }
    for (const contestant& r : readers) {
        std::printf(" plain read, %s |", r.name);
        runs.push_back(r.run);
    }
    std::printf("\n|---|");
    for (std::size_t i = 0; i < runs.size(); ++i) std::printf("---|");
    std::printf("\n");

    for (std::size_t n = 0; n < all_tables; ++n) fill(memory[n], {});
    for (unsigned log = 0; log <= 18; ++log) {
        const std::size_t tables = std::size_t{1} << log;
        const std::size_t passes = tables < 2048 ? 2048 / tables : 1;
        std::vector<std::vector<double>> rate(runs.size());
        for (int round = 0; round < rounds; ++round) {
            for (std::size_t turn = 0; turn < runs.size(); ++turn) {
                const std::size_t i = (turn + static_cast<std::size_t>(round)) % runs.size();
                run_over(runs[i], tables);
                const std::uint64_t start = now();
                for (std::size_t pass = 0; pass < passes; ++pass) run_over(runs[i], tables);
                const double took = static_cast<double>(now() - start) / cycles_a_ns;
                rate[i].push_back(static_cast<double>(sizeof(table) * tables * passes) / took);
            }
        }
        std::printf("| 2^%u |", log);
        for (const auto& r : rate) std::printf(" %.1f |", median(r));
        std::printf("\n");
        std::fflush(stdout);
    }
}

// Bars: times as fast as entry by entry, one table in L1.
void draw(const char* path, const results& all)
{
    constexpr int width = 760, height = 340, left = 50, bottom = 290, top = 40;
    constexpr double highest = 10;
    const char* const colours[] = {"", "#9aa5b1", "#4c7fb0", "#2a9d8f", "#d1495b"};
    std::ofstream out(path);
    const auto y_of = [&](double ratio) { return bottom - ratio / highest * (bottom - top); };
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height
        << "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        << "<text x=\"" << left
        << "\" y=\"20\" font-size=\"12\">Ageing one table of 512 entries in L1, by the share of young ones ("
        << COMPILER << ")</text>\n<text transform=\"rotate(-90 16 " << (top + bottom) / 2 << ")\" x=\"16\" y=\""
        << (top + bottom) / 2 << "\" text-anchor=\"middle\">times as fast as entry by entry</text>\n";
    for (int ratio = 0; ratio <= static_cast<int>(highest); ++ratio) {
        out << "<line x1=\"" << left << "\" x2=\"" << width - 10 << "\" y1=\"" << y_of(ratio) << "\" y2=\""
            << y_of(ratio) << "\" stroke=\"" << (ratio == 1 ? "#333" : "#ddd") << "\"/>\n<text x=\"" << left - 8
            << "\" y=\"" << y_of(ratio) + 4 << "\" text-anchor=\"end\">" << ratio << "</text>\n";
    }
    for (std::size_t d = 0; d < std::size(densities); ++d) {
        const double group = left + 15 + static_cast<double>(d) * 140;
        for (std::size_t c = 1; c < contestant_count; ++c) {
            const double ratio = all[d][0] / all[d][c];
            const double x = group + static_cast<double>(c - 1) * 29;
            char label[16];
            std::snprintf(label, sizeof label, "%.1f", ratio);
            const double y = y_of(std::min(ratio, highest));
            out << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"26\" height=\"" << bottom - y << "\" fill=\""
                << colours[c] << "\"/>\n<text x=\"" << x + 13 << "\" y=\"" << y - 4
                << "\" text-anchor=\"middle\" font-size=\"10\">" << label << "</text>\n";
        }
        out << "<text x=\"" << group + 57 << "\" y=\"" << bottom + 18 << "\" text-anchor=\"middle\">"
            << densities[d] * 100 << "% young</text>\n";
    }
    for (std::size_t c = 1; c < contestant_count; ++c) {
        const double x = left + 15 + static_cast<double>(c - 1) * 180;
        out << "<rect x=\"" << x << "\" y=\"" << height - 22 << "\" width=\"12\" height=\"12\" fill=\"" << colours[c]
            << "\"/>\n<text x=\"" << x + 18 << "\" y=\"" << height - 12 << "\">" << contestants[c].name << "</text>\n";
    }
    out << "</svg>\n";
    if (!out) {
        std::fprintf(stderr, "cannot write %s\n", path);
        std::exit(1);
    }
}

}  // namespace

int main(int argc, char** argv)
{
    const char* svg = nullptr;
    bool small = false;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--rounds" && i + 1 < argc) {
            rounds = std::atoi(argv[++i]);
        } else if (option == "--svg" && i + 1 < argc) {
            svg = argv[++i];
        } else if (option == "--small") {
            small = true;
        } else {
            rounds = 0;
        }
    }
    if (rounds < 1) {
        std::fprintf(stderr, "usage: bench_tables [--rounds n] [--svg file] [--small]\n");
        return 2;
    }
    if (!__builtin_cpu_supports("avx2")) {
        std::fprintf(stderr, "bench_tables: this CPU has no AVX2\n");
        return 1;
    }
    const std::size_t tables = small ? 64 : all_tables;
    void* const mapped =
        mmap(nullptr, tables * sizeof(table) + 0x20'0000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        std::perror("bench_tables");
        return 1;
    }
    // Large pages, as kernels map their memory.
    void* aligned = mapped;
    std::size_t room = tables * sizeof(table) + 0x20'0000;
    memory = static_cast<table*>(std::align(0x20'0000, tables * sizeof(table), aligned, room));
    madvise(memory, tables * sizeof(table), MADV_HUGEPAGE);
    bitmaps.resize(tables);
    calibrate();

    std::printf("%s, medians of %d rounds; ns a table of 512 entries, and times as fast as entry by entry\n", COMPILER,
                rounds);
    const results l1 = by_density("One table in L1, the same entries young in every pass", 1, 1, 300);
    if (svg != nullptr) draw(svg, l1);
    by_density("One table in L1, other entries young in every pass", 1, 256, 300);
    by_density("64 tables in L2, other entries young in every pass", 64, 256, 12);
    if (small) return 0;
    by_density("1 GiB of tables in DRAM", all_tables, 256, 1);
    growth();
}
