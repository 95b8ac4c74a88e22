// SPDX-License-Identifier: BSL-1.0
// The simulator's readers: a config, a line "---", and a script, of any bytes, give what the
// machine says or a message with file and line. Nothing else is thrown, nothing is endless.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

#include "input.hpp"
#include "machine.hpp"
#include "machine_config.hpp"
#include "message.hpp"

using namespace fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    const std::string text(reinterpret_cast<const char*>(data), size);
    constexpr std::string_view parting = "---\n";
    const std::size_t at = std::min(text.find(parting), text.size());
    const std::string settings = text.substr(0, at);
    const std::string commands = text.substr(std::min(at + parting.size(), text.size()));

    simulated::config c;
    try {
        std::istringstream in(settings);
        c = simulated::read_config(in, "C");
    } catch (const simulated::bad_input& e) {
        require_message(e.what(), "C", settings, true);
        return 0;
    }
    require(c.memory_pages >= 16 && c.memory_pages <= 65536 && c.tlb_entries >= 1 && c.tlb_entries <= 4096);
    c.memory_pages = std::min<std::uint64_t>(c.memory_pages, 64);  // time is for scripts, not for clearing memory

    std::ostringstream out;
    try {
        std::istringstream script(commands);
        simulated::run(c, script, "S", out);
    } catch (const simulated::bad_input& e) {
        require_message(e.what(), "S", commands);
    }
    require(out.str().size() <= 2000 * (commands.size() + 1));
    return 0;
}
