// SPDX-License-Identifier: BSL-1.0
// Dumps of any bytes, looked at in any way: an answer, or a message that names the file. What is saved
// of one is read again, and has the same pages.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <sstream>
#include <streambuf>
#include <string>

#include "dump.hpp"
#include "input.hpp"
#include "picture.hpp"
#include "questions.hpp"
#include "summary.hpp"

using namespace fuzz;

namespace {

/// Takes so many characters, then fails: tables that refer to each other may have pages without end.
class limited : public std::streambuf {
public:
    explicit limited(std::size_t most) : left_(most) {}
    [[nodiscard]] bool full() const { return left_ == 0; }
    [[nodiscard]] const std::string& text() const { return text_; }

protected:
    int overflow(int c) override
    {
        if (left_ == 0) return traits_type::eof();
        --left_;
        text_ += static_cast<char>(c);
        return c;
    }

private:
    std::size_t left_;
    std::string text_;
};

dump::file file_of(const std::string& bytes) { return {"F", std::make_unique<std::istringstream>(bytes)}; }

void look(const std::string& bytes, const dump::choices& user, std::uint64_t address, const ptebits::memory_access& a)
{
    dump::input from(file_of(bytes), user);
    std::ostringstream out;
    dump::print_summary(out, from);
    dump::print_ageing(out, from);
    dump::print_path(out, from, address, a, ptebits::pat_after_reset);

    limited pages(100'000);
    std::ostream to_pages(&pages);
    dump::print_pages(to_pages, from);
    if (pages.full()) return;
    dump::print_map(out, from, {}, ptebits::pat_after_reset);
    dump::print_rights(out, from);
    dump::print_mappings_of(out, from, address);
    dump::draw(out, from);
    dump::print_changes(out, from, from);
    require(out.str().ends_with(" no change\n"));

    std::ostringstream saved;
    try {
        dump::save(saved, from);
    } catch (const dump::error&) {
        return;  // tables outside the dump, or used at two levels
    }
    dump::input again(file_of(saved.str()), {});
    limited same(100'000);
    std::ostream to_same(&same);
    dump::print_pages(to_same, again);
    require(same.text() == pages.text());
}

}  // namespace

/// Eight bytes choose, the others are the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    input in(data, size);
    dump::choices user;
    const unsigned how = in.byte();
    user.raw = (how & 1) != 0;
    user.cpu = how >> 6;
    const unsigned format = in.byte();
    const std::uint64_t root = in.number(2) << 12;
    const unsigned level = in.byte();
    if ((how & 2) != 0) {
        user.root = root;
        static constexpr const char* formats[] = {"", "x86", "npt", "ept"};
        user.format = formats[format % 4];
        if ((how & 4) != 0) user.levels = level % 8;
        if ((how & 8) != 0) {
            user.host_format = (format & 4) != 0 ? "npt" : "ept";
            user.host_root = root + 0x1000;
        }
    }
    const std::uint64_t address = in.number(3) << 12;
    const std::string bytes(reinterpret_cast<const char*>(data) + std::min<std::size_t>(8, size),
                            size - std::min<std::size_t>(8, size));
    try {
        look(bytes, user, address,
             {.what = static_cast<ptebits::operation>(format >> 4 & 3), .user = (format & 8) != 0});
    } catch (const dump::error& e) {
        require(std::string(e.what()).starts_with("F:"));
    }
    return 0;
}
