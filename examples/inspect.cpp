// SPDX-License-Identifier: BSL-1.0
// inspect: the page tables in a dump of a machine's memory, and answers to what people ask of them.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ptebits/formats/x86_fields.hpp>
#include <ptebits/x86.hpp>

#include "colours.hpp"
#include "dump.hpp"
#include "features.hpp"
#include "numbers.hpp"
#include "picture.hpp"
#include "questions.hpp"
#include "summary.hpp"

namespace {

constexpr std::string_view usage =
    "usage: inspect [OPTION]... FILE...   what the tables hold, what is wrong in them\n"
    "       inspect FILE --at ADDRESS [--access read|write|fetch] [--user]\n"
    "                                     the entries on the way, where it leads, or\n"
    "                                     the fault\n"
    "       inspect FILE --map [FIRST-LAST]\n"
    "                                     ranges by rights, memory type, page size\n"
    "       inspect FILE --pages          a line a page, as QEMU's `info tlb`\n"
    "       inspect FILE --rights         ranges by rights, as QEMU's `info mem`\n"
    "       inspect FILE --find PHYSICAL  which pages map a physical address\n"
    "       inspect --diff FILE FILE      what changed from one to the other\n"
    "       inspect FILE --age            age the pages of a copy, twice\n"
    "       inspect FILE --save OUT.ptimg    the tables alone, as a small text\n"
    "       inspect FILE --picture OUT.svg   the address space as a picture\n"
    "       inspect --help\n"
    "\n"
    "FILE is told by its content: an ELF core of QEMU's dump-guest-memory (or of\n"
    "virsh dump --memory-only), a kernel's vmcore with VMCOREINFO, or a .ptimg.\n"
    "Addresses and registers are hexadecimal, other numbers decimal.\n"
    "\n"
    "  --cpu N               the tables of this CPU of the dump, 0 if not given\n"
    "  --root HEX            CR3, N_CR3 or the EPT pointer, not what the dump tells\n"
    "  --format FORMAT       shadow (or x86), npt or ept; with --root\n"
    "  --levels N            levels of the tables\n"
    "  --physical-bits N     MAXPHYADDR, 52 if not given\n"
    "  --feature NAME=VALUE  a feature of the library, as encryption_bit=47\n"
    "  --npt HEX, --ept HEX  the host's root: --root is then a guest's CR3\n"
    "  --raw, --base HEX     FILE is raw memory, from this address or from 0 on\n"
    "  --pat HEX             the PAT, for memory types; else that after reset\n"
    "\n"
    "Exit status: 0, or 2 if a file cannot be used or the command line is wrong.\n";

/// What is wrong with the command line.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using named::in_quotes;

const colours paint = choose_colours();

struct request {
    dump::choices choices;
    std::vector<std::string> files;
    std::string question;  ///< the option that asks; empty: the summary
    std::string argument;  ///< of the question
    ptebits::inclusive_range range;
    ptebits::memory_access access;
    bool access_given = false;
    std::uint64_t pat = ptebits::pat_after_reset;
};

std::uint64_t need_hex(std::string_view option, std::string_view text)
{
    const auto value = numbers::hexadecimal(text);
    if (!value) throw usage_error(std::string(option) + " takes a hexadecimal number, not " + in_quotes(text));
    return *value;
}

unsigned need_decimal(std::string_view option, std::string_view text)
{
    const auto value = numbers::decimal(text);
    if (!value) throw usage_error(std::string(option) + " takes a decimal number, not " + in_quotes(text));
    return *value;
}

/// FIRST-LAST, if the text is that.
std::optional<ptebits::inclusive_range> range_in(std::string_view text)
{
    const std::size_t dash = text.find('-');
    if (dash == text.npos) return std::nullopt;
    const auto first = numbers::hexadecimal(text.substr(0, dash));
    const auto last = numbers::hexadecimal(text.substr(dash + 1));
    if (!first || !last) return std::nullopt;
    return ptebits::inclusive_range{*first, *last};
}

ptebits::operation operation_named(std::string_view word)
{
    if (word == "read") return ptebits::operation::read;
    if (word == "write") return ptebits::operation::write;
    if (word == "fetch") return ptebits::operation::fetch;
    throw usage_error("--access is read, write or fetch, not " + in_quotes(word));
}

request read_request(const std::vector<std::string>& words)
{
    request r;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        const auto next = [&]() -> const std::string& {
            if (i + 1 == words.size()) throw usage_error(word + " needs a value");
            return words[++i];
        };
        const auto ask = [&] {
            if (!r.question.empty()) throw usage_error("one question at a time: " + r.question + " or " + word);
            r.question = word;
        };
        if (!word.starts_with('-')) {
            r.files.push_back(word);
        } else if (word == "--pages" || word == "--rights" || word == "--age" || word == "--diff") {
            ask();
        } else if (word == "--at" || word == "--find" || word == "--save" || word == "--picture") {
            ask();
            r.argument = next();
        } else if (word == "--map") {
            ask();
            if (i + 1 < words.size()) {
                if (const auto range = range_in(words[i + 1])) {
                    r.range = *range;
                    ++i;
                }
            }
        } else if (word == "--access") {
            r.access.what = operation_named(next());
            r.access_given = true;
        } else if (word == "--user") {
            r.access.user = true;
            r.access_given = true;
        } else if (word == "--raw") {
            r.choices.raw = true;
        } else if (word == "--base") {
            r.choices.base = need_hex(word, next());
        } else if (word == "--cpu") {
            r.choices.cpu = need_decimal(word, next());
        } else if (word == "--root") {
            r.choices.root = need_hex(word, next());
        } else if (word == "--format") {
            r.choices.format = next();
            static_cast<void>(named::format_named(r.choices.format));
        } else if (word == "--levels") {
            r.choices.levels = need_decimal(word, next());
        } else if (word == "--physical-bits") {
            r.choices.physical_bits = need_decimal(word, next());
        } else if (word == "--feature") {
            r.choices.features.push_back(next());
        } else if (word == "--ept" || word == "--npt") {
            r.choices.host_format = word.substr(2);
            r.choices.host_root = need_hex(word, next());
        } else if (word == "--pat") {
            r.pat = need_hex(word, next());
        } else {
            throw usage_error("unknown option " + in_quotes(word));
        }
    }
    if (r.files.empty()) throw usage_error("no file given");
    const bool two = r.question == "--diff";
    if (two && r.files.size() != 2) throw usage_error("--diff takes two files");
    if (!two && !r.question.empty() && r.files.size() != 1) throw usage_error(r.question + " takes one file");
    if (r.access_given && r.question != "--at") throw usage_error("--access and --user go with --at");
    if (r.choices.base != 0 && !r.choices.raw) throw usage_error("--base goes with --raw");
    if (!r.choices.format.empty() && !r.choices.root) throw usage_error("--format goes with --root");
    return r;
}

/// Writes a file that somebody named.
void write_file(const std::string& name, const std::function<void(std::ostream&)>& write)
{
    std::ofstream out(name, std::ios::binary);
    if (!out) throw dump::error(name + ": cannot be written");
    write(out);
    if (!out.flush()) throw dump::error(name + ": cannot be written");
}

void answer(const request& r)
{
    if (r.question == "--diff") {
        dump::input before(dump::file(r.files[0]), r.choices);
        dump::input after(dump::file(r.files[1]), r.choices);
        return dump::print_changes(std::cout, before, after);
    }
    dump::input from(dump::file(r.files.front()), r.choices);
    if (r.question == "--at") {
        dump::print_path(std::cout, from, need_hex("--at", r.argument), r.access, r.pat, paint);
    } else if (r.question == "--map") {
        dump::print_map(std::cout, from, r.range, r.pat);
    } else if (r.question == "--pages") {
        dump::print_pages(std::cout, from);
    } else if (r.question == "--rights") {
        dump::print_rights(std::cout, from);
    } else if (r.question == "--find") {
        dump::print_mappings_of(std::cout, from, need_hex("--find", r.argument));
    } else if (r.question == "--age") {
        dump::print_ageing(std::cout, from);
    } else if (r.question == "--save") {
        write_file(r.argument, [&](std::ostream& out) { dump::save(out, from); });
    } else if (r.question == "--picture") {
        write_file(r.argument, [&](std::ostream& out) { dump::draw(out, from); });
    }
}

/// One file after the other. What cannot be used does not keep the others from being read.
int summarize(const request& r)
{
    int status = 0;
    bool first = true;
    for (const std::string& file : r.files) {
        try {
            dump::input from(dump::file(file), r.choices);
            if (!first) std::cout << '\n';
            first = false;
            dump::print_summary(std::cout, from, paint);
        } catch (const dump::error& e) {
            std::cerr << e.what() << '\n';
            status = 2;
        }
    }
    return status;
}

int run(const std::vector<std::string>& words)
{
    if (words.size() == 1 && words.front() == "--help") {
        std::cout << usage;
        return 0;
    }
    try {
        const request r = read_request(words);
        if (r.question.empty()) return summarize(r);
        answer(r);
        return 0;
    } catch (const dump::error& e) {
        std::cerr << e.what() << '\n';
    } catch (const usage_error& e) {
        std::cerr << "inspect: " << e.what() << "; see inspect --help\n";
    } catch (const named::error& e) {
        std::cerr << "inspect: " << e.what() << "; see inspect --help\n";
    }
    return 2;
}

}  // namespace

int main(int argc, char** argv)
{
    std::ios::sync_with_stdio(false);
    const int status = run({argv + 1, argv + argc});
    if (std::cout.flush()) return status;
    std::cerr << "inspect: cannot write the output\n";
    return 2;
}
