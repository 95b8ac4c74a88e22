// SPDX-License-Identifier: BSL-1.0
// simulator: the MMU of a simulated machine with a guest in it, as a machine simulator has
// it: formats by a config file, a nested walk, a TLB and a translation cache in front, and faults as the guest or
// its hypervisor would see them. A script of loads, stores and fetches drives it.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "machine.hpp"
#include "machine_config.hpp"

namespace {

using namespace simulated;

constexpr std::string_view usage =
    "usage: simulator CONFIG [SCRIPT]   run a script, or standard input\n"
    "       simulator --help\n"
    "\n"
    "CONFIG has lines KEY = VALUE; # begins a comment.\n"
    "  memory = PAGES          of 4 Kbytes, 16 to 65536\n"
    "  tlb = ENTRIES           1 to 4096\n"
    "  translation_cache = on  keeps entries that refer to tables and the host's translations; counts are the last "
    "line\n"
    "  guest = paging | none   the guest's own format; none: its paging is off\n"
    "  host = ept | npt        the host's\n"
    "  guest.FEATURE, host.FEATURE = VALUE   members of the format's features, as levels, physical_bits,\n"
    "                          execute_disable, accessed_dirty, execute_only; on, off or a number\n"
    "  guest.tables = ADDRESS  where the guest keeps its tables (guest-physical; the first is the root)\n"
    "  cpu.CONTROL = VALUE     write_protect, smep, smap, pkru, pkrs, ...\n"
    "\n"
    "A script has one command a line; numbers are hexadecimal, accesses are of 8 bytes.\n"
    "  map host GUEST-PHYSICAL PHYSICAL SIZE RIGHTS    SIZE is 4K, 2M, 4M or 1G, RIGHTS of rwxu or -\n"
    "  map guest LINEAR GUEST-PHYSICAL SIZE RIGHTS     u: user mode; with mode-based execute, its execution\n"
    "  entry host|guest LEVEL ADDRESS VALUE            writes an entry on the way to an address, as it is\n"
    "  show host|guest ADDRESS                         the entries on the way\n"
    "  load ADDRESS, store ADDRESS VALUE, fetch ADDRESS\n"
    "  user, kernel                                    the mode of what follows\n"
    "  cpu CONTROL VALUE\n"
    "  invlpg ADDRESS, flush                           the TLB and the cache are told of changes by these alone\n"
    "\n"
    "Exit status: 0, or 2 if the config, the script or the command line is wrong. Faults are no error.\n";

std::ifstream open(const std::string& file)
{
    std::ifstream in(file);
    if (!in) throw bad_input(file + ": cannot be opened");
    // A directory opens, and to libc++ it is an empty file.
    std::error_code none;
    if (std::filesystem::is_directory(file, none)) throw bad_input(file + ": cannot be read");
    return in;
}

int wrong(const std::string& problem)
{
    std::cerr << "simulator: " << problem << "; see simulator --help\n";
    return 2;
}

int start(const std::vector<std::string>& words)
{
    if (words.size() == 1 && words[0] == "--help") {
        std::cout << usage;
        return 0;
    }
    for (const std::string& word : words) {
        if (word.starts_with('-')) return wrong("unknown option '" + word + "'");
    }
    if (words.empty() || words.size() > 2) return wrong("it takes CONFIG and perhaps SCRIPT");
    try {
        std::ifstream in = open(words[0]);
        const config c = read_config(in, words[0]);
        if (words.size() == 1) {
            run(c, std::cin, "standard input", std::cout);
            return 0;
        }
        std::ifstream script = open(words[1]);
        run(c, script, words[1], std::cout);
    } catch (const bad_input& e) {
        std::cout.flush();
        std::cerr << e.what() << '\n';
        return 2;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv)
{
    const int status = start({argv + 1, argv + argc});
    if (std::cout.flush()) return status;
    std::cerr << "simulator: cannot write the output\n";
    return 2;
}
