// SPDX-License-Identifier: BSL-1.0
// refaults: which pages a host loses that it should have kept, by how it learns of their use.
//
// A guest replays a recorded page trace on a host with less memory than the guest needs.
// The guest's pages are mapped by entries in page tables, which an MMU walks for every
// access. The host reclaims as Linux does, and asks the entries which pages were used.
// docs/refaults.md tells what is modelled and what the figures show.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ptebits/ptebits.hpp>

#include "progress.hpp"
#include "trace.hpp"

namespace {

using namespace ptebits;
using page_trace::page_id;
using page_trace::touch;
using page_trace::trace;
using page_trace::user_error;

constexpr std::string_view usage =
    "usage: refaults TRACE [--memory PAGES | --tables] [--svg FILE]\n"
    "       refaults --help\n"
    "\n"
    "Replays a page trace on hosts with less memory than the guest needs, one for each way to\n"
    "learn which pages were used, and counts the pages that had to come back.\n"
    "\n"
    "Without an option the refaults alone are printed, for memory of 30% to 90% of the trace's pages.\n"
    "\n"
    "  --memory PAGES   all that is counted, for one size of memory\n"
    "  --tables         the same for 30% to 95% of the trace's pages, in steps of 5\n"
    "  --svg FILE       draw the curves over all sizes, too\n"
    "\n"
    "Exit status: 0, or 2 if the trace or the command line is wrong or the drawing cannot be written.\n";

constexpr unsigned base_page_shift = 12;

// ---- counting

struct counts {
    std::uint64_t faults = 0;           ///< a page was not in memory
    std::uint64_t refaults = 0;         ///< of these, pages that were in memory not long ago
    std::uint64_t tracking_faults = 0;  ///< the page was in memory, and its entry said otherwise
    std::uint64_t flushes = 0;
};

/// Tells refaults from other faults: pages that come back within as many evictions as
/// memory has pages.
class eviction_log {
public:
    eviction_log(std::size_t pages, std::size_t memory) : evicted_at_(pages), memory_(memory) {}

    void comes_in(page_id page, counts& n) const
    {
        ++n.faults;
        const std::uint64_t at = evicted_at_[page];
        if (at != 0 && evictions_ - at <= memory_) ++n.refaults;
    }
    void goes_out(page_id page) { evicted_at_[page] = ++evictions_; }

private:
    std::vector<std::uint64_t> evicted_at_;  // 0: never
    std::uint64_t evictions_ = 0;
    std::uint64_t memory_;
};

// ---- the host's memory

/// Where the frames of the guest's pages begin; the page tables lie below.
constexpr std::uint64_t first_frame = std::uint64_t{1} << 40;

/// The part of the host's physical memory that an MMU looks into: page tables, one a page.
class table_memory {
public:
    /// The slot at a physical address; null where there is no table.
    std::uint64_t* operator()(std::uint64_t physical)
    {
        const std::uint64_t table = physical >> base_page_shift;
        if (table >= tables_.size()) return nullptr;
        return tables_[table].get() + physical % (std::uint64_t{1} << base_page_shift) / sizeof(std::uint64_t);
    }

    /// The physical address of a new table without entries.
    std::uint64_t add()
    {
        tables_.push_back(std::make_unique<std::uint64_t[]>(512));
        return (tables_.size() - 1) << base_page_shift;
    }

private:
    std::vector<std::unique_ptr<std::uint64_t[]>> tables_;
};

/// The lists by which Linux chooses the page to reclaim: anonymous memory of one process,
/// below 1 Gbyte, where both lists should be of one length.
class reclaim_lists {
public:
    explicit reclaim_lists(std::size_t pages) : place_(pages), referenced_(pages) {}

    /// A page that was brought into memory starts as inactive.
    void add(page_id page)
    {
        inactive_.push_front(page);
        place_[page] = inactive_.begin();
        referenced_[page] = false;
    }

    /// Chooses a page and takes it from the lists. `used_since(page)` tells whether a page
    /// was used since it was last asked.
    template <class UsedSince>
    page_id take(UsedSince used_since)
    {
        for (;;) {
            if (inactive_.size() < active_.size()) {
                // Asked only to start anew: what counts is whether it is used while inactive.
                const page_id page = active_.back();
                used_since(page);
                inactive_.splice(inactive_.begin(), active_, place_[page]);
                continue;
            }
            const page_id page = inactive_.back();
            if (!used_since(page)) {
                inactive_.pop_back();
                return page;
            }
            // Every page is young once, by the fault that brought it in. Twice is use.
            std::list<page_id>& to = referenced_[page] ? active_ : inactive_;
            referenced_[page] = true;
            to.splice(to.begin(), inactive_, place_[page]);
        }
    }

private:
    std::list<page_id> active_;  // the front is the young end
    std::list<page_id> inactive_;
    std::vector<std::list<page_id>::iterator> place_;
    std::vector<bool> referenced_;  // as the page flag: found young before
};

// ---- the ways to learn of use

/// What most ways have in common: an access to a page in memory faults only where it is
/// not mapped, and then the host maps it anew.
template <auto Format>
struct way {
    static constexpr auto format = Format;

    /// Repairs an entry whose page is in memory after an access fault; false: map it anew.
    static bool repair(std::uint64_t&, const ptebits::memory_access&) { return false; }
};

/// By the entry's accessed bit, hardware's or software's.
template <auto Format>
struct by_accessed_bit : way<Format> {
    static bool used_since(std::uint64_t& slot) { return age(slot, Format, plain_access{}); }
};

/// No accessed bit, and nothing in its place: every page looks old.
template <auto Format>
struct by_nothing : way<Format> {
    static bool used_since(std::uint64_t&) { return false; }
};

/// By unmapping: the next access maps the page again.
template <auto Format>
struct by_unmapping : way<Format> {
    static bool used_since(std::uint64_t& slot) { return present(unmap(slot, Format, plain_access{}), Format); }
};

/// By making the next access fault, with the permissions kept in bits 54 and 56.
template <auto Format>
struct by_tracking : way<Format> {
    static constexpr auto tracking = track_accesses<54>(Format);

    static bool used_since(std::uint64_t& slot) { return age(slot, tracking, plain_access{}); }

    /// Read and execute come back by restore(); write only with a write, in the same fault
    /// or in one of its own. All of the guest's memory is writable.
    static bool repair(std::uint64_t& slot, const ptebits::memory_access& a)
    {
        restore(slot, tracking, plain_access{});
        if (a.writes()) set(slot, Format->write, plain_access{});
        return true;
    }
};

// ---- the host and its guest

template <class Way>
class host {
    static constexpr auto format = Way::format;

public:
    host(const trace& t, std::size_t memory)
        : trace_(t),
          memory_(memory),
          root_(tables_.add()),
          frame_(t.pages.size()),
          slot_(t.pages.size()),
          lists_(t.pages.size()),
          log_(t.pages.size(), memory)
    {
    }

    counts run()
    {
        for (const touch& t : trace_.touches) {
            if ((t.flags & 4) != 0) reach(t.page, operation::fetch);
            switch (t.flags & 3) {
            case 1:
                reach(t.page, operation::read);
                break;
            case 2:
                reach(t.page, operation::write);
                break;
            case 3:
                reach(t.page, operation::read_write);
                break;
            default:
                break;
            }
        }
        return counts_;
    }

private:
    /// One access of the guest: the MMU walks, and once more if the host has handled a fault.
    void reach(page_id page, operation what)
    {
        const std::uint64_t address = trace_.pages[page] << base_page_shift;
        const ptebits::memory_access a{.what = what, .user = true};
        const auto mmu = [&] {
            return walk(format, root_, address, a, cpu_controls{}, tables_, update_flags::yes, plain_access{});
        };
        walk_result r = mmu();
        if (!r) {
            handle_fault(page, a);
            r = mmu();
        }
        if (!r || r.address != frame_[page]) throw std::logic_error("an access does not reach its page");
    }

    void handle_fault(page_id page, const ptebits::memory_access& a)
    {
        if (frame_[page] != 0) {
            ++counts_.tracking_faults;
            const bool repaired = change(page, [&](std::uint64_t& slot) { return Way::repair(slot, a); });
            if (!repaired) map(page);
            return;
        }
        log_.comes_in(page, counts_);
        frame_[page] = frames_used_ < memory_ ? first_frame + (frames_used_++ << base_page_shift) : reclaim();
        map(page);
        lists_.add(page);
    }

    /// Takes a page's frame and returns it.
    std::uint64_t reclaim()
    {
        const page_id page = lists_.take([&](page_id asked) { return change(asked, Way::used_since); });
        change(page, [&](std::uint64_t& slot) { return unmap(slot, format, plain_access{}); });
        log_.goes_out(page);
        return std::exchange(frame_[page], 0);
    }

    /// Maps a page that an access waits for, so that it starts out accessed.
    void map(page_id page)
    {
        const std::uint64_t address = trace_.pages[page] << base_page_shift;
        std::uint64_t table = root_;
        for (unsigned level = format->shape().levels; level > 1; --level) {
            std::uint64_t& slot = slot_at(table, level, address);
            if (!present(slot, format)) {
                store(slot, entry_of(encode(kind::table, level, tables_.add(), {}, format)), plain_access{});
            }
            table = address_of(slot, level, format);
        }
        slot_[page] = &slot_at(table, 1, address);
        const encoded leaf = encode(kind::leaf, 1, frame_[page], {}, format, fields_of_a_new_page());
        store(*slot_[page], entry_of(leaf), plain_access{});
    }

    std::uint64_t& slot_at(std::uint64_t table, unsigned level, std::uint64_t address)
    {
        return *tables_(format->shape().slot_address(table, address, level));
    }

    static std::uint64_t entry_of(const encoded& e)
    {
        if (!e) throw std::logic_error("an entry cannot be made");
        return e.entry;
    }

    /// Accessed; and EPT's memory type: ordinary and nested paging have write-back where no bit is set.
    static constexpr field_values fields_of_a_new_page()
    {
        if constexpr (requires { format->memory_type(6); }) {
            return format->memory_type(6) | format->accessed;
        } else {
            return format->accessed;
        }
    }

    /// Changes a page's entry, and counts the flush if it calls for one.
    template <class Change>
    auto change(page_id page, Change how)
    {
        std::uint64_t& slot = *slot_[page];
        const std::uint64_t before = slot;
        const auto result = how(slot);
        counts_.flushes += needs_flush(before, slot, format);
        return result;
    }

    const trace& trace_;
    std::uint64_t memory_;
    table_memory tables_;
    std::uint64_t root_;
    std::vector<std::uint64_t> frame_;  // by page: physical address, 0 if not in memory
    std::uint64_t frames_used_ = 0;
    std::vector<std::uint64_t*> slot_;  // the reverse map: the one entry that maps a page
    reclaim_lists lists_;
    eviction_log log_;
    counts counts_;
};

template <class Way>
counts run_host(const trace& t, std::size_t memory)
{
    return host<Way>(t, memory).run();
}

// ---- bounds: no tables, every touch is known

enum class eviction_rule : std::uint8_t { first_in, least_recent, farthest_use };

template <eviction_rule Rule>
counts run_bound(const trace& t, std::size_t memory)
{
    constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
    std::vector<std::size_t> next_use;
    if constexpr (Rule == eviction_rule::farthest_use) {
        next_use.resize(t.touches.size());
        std::vector<std::size_t> next(t.pages.size(), never);
        for (std::size_t i = t.touches.size(); i-- > 0;) {
            next_use[i] = std::exchange(next[t.touches[i].page], i);
        }
    }

    counts n;
    eviction_log log(t.pages.size(), memory);
    constexpr std::size_t nowhere = never;
    std::vector<std::size_t> frame(t.pages.size(), nowhere);  // by page
    std::vector<page_id> page_in;                             // by frame
    std::vector<std::size_t> key;                             // by frame: the page with the greatest goes
    for (std::size_t i = 0; i < t.touches.size(); ++i) {
        const page_id page = t.touches[i].page;
        std::size_t at = frame[page];
        const bool hit = at != nowhere;
        if (!hit) {
            log.comes_in(page, n);
            at = page_in.size();
            if (at < memory) {
                page_in.push_back(page);
                key.push_back(0);
            } else {
                at = static_cast<std::size_t>(std::max_element(key.data(), key.data() + memory) - key.data());
                const page_id out = std::exchange(page_in[at], page);
                frame[out] = nowhere;
                log.goes_out(out);
            }
            frame[page] = at;
        }
        if constexpr (Rule == eviction_rule::farthest_use) {
            key[at] = next_use[i];
        } else if (Rule == eviction_rule::least_recent || !hit) {
            key[at] = never - i;
        }
    }
    return n;
}

// ---- the comparison

constexpr auto ordinary = shadow<shadow_features{}>;
constexpr auto nested = npt<npt_features{}>;
constexpr auto ept_with = ept<ept_features{}>;
constexpr auto ept_without = ept<ept_features{.accessed_dirty = false}>;
constexpr auto ept_bit_63 = ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>;

struct contender {
    const char* name;
    const char* colour;
    bool has_tables;
    counts (*run)(const trace&, std::size_t memory);
};

// Colours of middle brightness, which read on light and on dark ground.
constexpr contender contenders[] = {
    {"shadow", "#2f81d6", true, run_host<by_accessed_bit<ordinary>>},
    {"NPT", "#1f9696", true, run_host<by_accessed_bit<nested>>},
    {"EPT", "#6b7fd6", true, run_host<by_accessed_bit<ept_with>>},
    {"EPT without A", "#d9534f", true, run_host<by_nothing<ept_without>>},
    {"EPT bit 63", "#cc5490", true, run_host<by_accessed_bit<ept_bit_63>>},
    {"EPT tracking", "#9a5fd0", true, run_host<by_tracking<ept_without>>},
    {"EPT unmapping", "#b0731c", true, run_host<by_unmapping<ept_without>>},
    {"perfect LRU", "#2e9e5b", false, run_bound<eviction_rule::least_recent>},
    {"optimum", "#878a1e", false, run_bound<eviction_rule::farthest_use>},
    {"FIFO", "#c0603a", false, run_bound<eviction_rule::first_in>},
};
constexpr std::size_t contender_count = std::size(contenders);
constexpr std::size_t optimum = 8;
static_assert(std::string_view(contenders[optimum].name) == "optimum");

using comparison = std::array<counts, contender_count>;

std::vector<comparison> compare(const trace& t, const std::vector<std::size_t>& sizes)
{
    progress line;
    std::vector<comparison> results;
    for (const std::size_t memory : sizes) {
        comparison& c = results.emplace_back();
        for (std::size_t i = 0; i < contender_count; ++i) {
            line.show(std::to_string(memory) + " pages of memory: " + contenders[i].name);
            c[i] = contenders[i].run(t, memory);
        }
    }
    return results;
}

/// A ratio in per cent with one decimal, rounded; in integers, so that it is the same everywhere.
std::string per_cent(std::uint64_t part, std::uint64_t whole)
{
    const std::uint64_t tenths = (2000 * part + whole) / (2 * whole);
    return std::to_string(tenths / 10) + '.' + std::to_string(tenths % 10) + '%';
}

void print(const comparison& c, std::size_t memory, std::size_t pages)
{
    std::cout << '\n' << "memory: " << memory << " pages, " << per_cent(memory, pages) << " of the trace's\n";
    std::cout << "                  faults  refaults  tracking faults  flushes  share of the optimum\n";
    for (std::size_t i = 0; i < contender_count; ++i) {
        const counts& n = c[i];
        const auto if_tables = [&](std::uint64_t count) {
            return contenders[i].has_tables ? std::to_string(count) : "-";
        };
        std::cout << "  " << std::left << std::setw(14) << contenders[i].name << std::right << std::setw(8) << n.faults
                  << std::setw(10) << n.refaults << std::setw(17) << if_tables(n.tracking_faults) << std::setw(9)
                  << if_tables(n.flushes) << std::setw(22) << per_cent(c[optimum].faults, n.faults) << '\n';
    }
}

/// The refaults at every second size, in one table.
void print_summary(const std::vector<comparison>& results, const std::vector<unsigned>& percents)
{
    std::cout << "\nrefaults, with memory for so much of the trace's pages\n" << std::setw(16) << "";
    for (const unsigned percent : percents) {
        if (percent % 10 == 0) std::cout << std::setw(7) << percent << '%';
    }
    std::cout << '\n';
    for (std::size_t i = 0; i < contender_count; ++i) {
        std::cout << "  " << std::left << std::setw(14) << contenders[i].name << std::right;
        for (std::size_t k = 0; k < percents.size(); ++k) {
            if (percents[k] % 10 == 0) std::cout << std::setw(8) << results[k][i].refaults;
        }
        std::cout << '\n';
    }
}

// ---- the drawing

/// A curve, and all whose figures it shows.
struct curve {
    std::string names;
    const char* colour;
    std::vector<std::uint64_t> values;
};

std::vector<curve> curves_of(const std::vector<comparison>& results, std::uint64_t counts::* column, bool with_bounds)
{
    std::vector<curve> curves;
    for (std::size_t i = 0; i < contender_count; ++i) {
        if (!with_bounds && !contenders[i].has_tables) continue;
        std::vector<std::uint64_t> values;
        for (const comparison& c : results) values.push_back(c[i].*column);
        const auto same =
            std::find_if(curves.begin(), curves.end(), [&](const curve& c) { return c.values == values; });
        if (same != curves.end()) {
            same->names += std::string(", ") + contenders[i].name;
        } else {
            curves.push_back({contenders[i].name, contenders[i].colour, std::move(values)});
        }
    }
    return curves;
}

constexpr int drawing_width = 760;

/// Draws a chart from `top` down and returns where it ends.
int draw(std::ostream& out, int top, const std::string& title, const std::string& counted,
         const std::vector<curve>& curves, const std::vector<unsigned>& percents)
{
    constexpr const char* dashes[] = {"", "8 4", "2 4", "10 3 2 3"};
    constexpr int left = 80;
    constexpr int right = drawing_width - 20;
    const int high = top + 40;
    const int low = high + 300;

    std::uint64_t most = 1;
    for (const curve& c : curves) most = std::max(most, *std::max_element(c.values.begin(), c.values.end()));
    std::uint64_t step = 1;  // 1, 2, 5, 10, ...: the first that needs no more than six lines
    for (unsigned i = 0; most / step >= 6; ++i) step = i % 3 == 1 ? step / 2 * 5 : step * 2;
    const std::uint64_t limit = (most + step - 1) / step * step;
    const auto x = [&](unsigned percent) {
        return left + (right - left) * static_cast<int>(percent - percents.front()) /
                          static_cast<int>(percents.back() - percents.front());
    };
    const auto y = [&](std::uint64_t value) {
        return low - static_cast<int>(value * static_cast<std::uint64_t>(low - high) / limit);
    };
    const auto text = [&](int at_x, int at_y, const char* anchor, const std::string& what) {
        out << "<text x=\"" << at_x << "\" y=\"" << at_y << "\" text-anchor=\"" << anchor << "\">" << what
            << "</text>\n";
    };

    text(left, top + 22, "start", title);
    for (std::uint64_t value = 0; value <= limit; value += step) {
        out << "<path d=\"M" << left << ' ' << y(value) << 'H' << right << "\" stroke-opacity=\".4\"/>\n";
        text(left - 8, y(value) + 4, "end", std::to_string(value));
    }
    for (const unsigned percent : percents) {
        if (percent % 10 == 0) text(x(percent), low + 20, "middle", std::to_string(percent) + '%');
    }
    text((left + right) / 2, low + 40, "middle", "size of memory, in per cent of the pages that the trace touches");
    const int middle = (high + low) / 2;
    out << "<g transform=\"rotate(-90 20 " << middle << ")\">";
    text(20, middle, "middle", counted);
    out << "</g>\n";

    int key = low + 66;
    for (std::size_t i = 0; i < curves.size(); ++i) {
        const std::string style = std::string("\" stroke-width=\"2.5\" stroke=\"") + curves[i].colour +
                                  "\" stroke-dasharray=\"" + dashes[i % std::size(dashes)] + "\"/>\n";
        out << "<path d=\"";
        for (std::size_t k = 0; k < percents.size(); ++k) {
            out << (k == 0 ? 'M' : 'L') << x(percents[k]) << ' ' << y(curves[i].values[k]);
        }
        out << style << "<path d=\"M" << left << ' ' << key << "h36" << style;
        text(left + 46, key + 4, "start", curves[i].names);
        key += 20;
    }
    return key + 10;
}

std::string drawing(const std::vector<comparison>& results, const std::vector<unsigned>& percents)
{
    std::ostringstream charts;
    int end = draw(charts, 0, "Refaults: pages that come back within as many evictions as memory has pages", "refaults",
                   curves_of(results, &counts::refaults, true), percents);
    end = draw(charts, end, "Tracking faults: on pages that are in memory", "tracking faults",
               curves_of(results, &counts::tracking_faults, false), percents);

    std::ostringstream out;
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << drawing_width << "\" height=\"" << end
        << "\" viewBox=\"0 0 " << drawing_width << ' ' << end << "\">\n"
        << "<style>text{fill:#777;stroke:none;font-family:sans-serif;font-size:13px}</style>\n"
        << "<g fill=\"none\" stroke=\"#777\">\n"
        << charts.str() << "</g>\n</svg>\n";
    return out.str();
}

// ---- the command line

struct options {
    std::string file;
    std::optional<std::size_t> memory;
    bool tables = false;
    std::optional<std::string> svg;
};

options parse(const std::vector<std::string>& words)
{
    const auto wrong = [](const std::string& problem) {
        throw user_error("refaults: " + problem + "; see refaults --help");
    };
    options o;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (word == "--memory" || word == "--svg") {
            if (word == "--svg" ? o.svg.has_value() : o.memory.has_value()) wrong(word + " is given twice");
            if (++i == words.size()) wrong(word + (word == "--svg" ? " takes FILE" : " takes PAGES"));
            if (word == "--svg") {
                o.svg = words[i];
                continue;
            }
            constexpr std::uint64_t most = std::numeric_limits<page_id>::max();
            const auto pages = page_trace::number(words[i], 10);
            if (!pages || *pages < 1 || *pages > most) {
                wrong("PAGES is 1 to " + std::to_string(most) + ", not '" + words[i] + "'");
            }
            o.memory = static_cast<std::size_t>(*pages);
        } else if (word == "--tables") {
            o.tables = true;
        } else if (word.starts_with('-')) {
            wrong("unknown option '" + word + "'");
        } else if (!o.file.empty()) {
            wrong("more than one trace");
        } else {
            o.file = word;
        }
    }
    if (o.file.empty()) wrong("no trace given");
    if (o.memory && o.tables) wrong("--tables is for all sizes of memory, so it does not go with --memory");
    if (o.memory && o.svg) wrong("--svg draws all sizes of memory, so it does not go with --memory");
    return o;
}

void run(const options& o)
{
    const trace t = page_trace::read(o.file);
    std::vector<unsigned> percents;
    std::vector<std::size_t> sizes;
    if (o.memory) {
        sizes.push_back(*o.memory);
    } else {
        for (unsigned percent = 30; percent <= 95; percent += 5) {
            percents.push_back(percent);
            sizes.push_back(std::max<std::size_t>(1, (t.pages.size() * percent + 50) / 100));
        }
    }
    const std::vector<comparison> results = compare(t, sizes);

    if (o.svg) {
        std::ofstream out(*o.svg, std::ios::binary);
        if (!(out << drawing(results, percents)).flush()) throw user_error(*o.svg + ": cannot be written");
    }
    std::cout << "trace: " << t.touches.size() << " touches of " << t.pages.size() << " pages in " << t.intervals
              << " intervals\n";
    if (o.memory || o.tables) {
        for (std::size_t i = 0; i < sizes.size(); ++i) print(results[i], sizes[i], t.pages.size());
    } else {
        print_summary(results, percents);
    }
    if (!std::cout.flush()) throw user_error("refaults: cannot write the output");
}

}  // namespace

int main(int argc, char** argv)
{
    const std::vector<std::string> words(argv + 1, argv + argc);
    if (words.size() == 1 && words.front() == "--help") {
        std::cout << usage;
        return 0;
    }
    try {
        run(parse(words));
    } catch (const user_error& e) {
        std::cerr << e.what() << '\n';
        return 2;
    }
    return 0;
}
