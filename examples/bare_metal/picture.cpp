// SPDX-License-Identifier: BSL-1.0
// picture: draws which pages a guest used and wrote in each step, from what a kernel sent by its serial port.
//
//   picture SERIAL-OUTPUT > pages.svg
#include <charconv>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace {

/// A row of pages that follow each other.
struct pages {
    unsigned first = 0;
    unsigned last = 0;
};

struct step {
    std::string name;
    std::vector<pages> used, written;
};

constexpr unsigned page_count = 2048;  // of the guest
constexpr unsigned top = 70, left = 190, row = 26, width = 1024, margin = 20;

/// The pages of a line such as "    used 1-4 8 20-22"; false if it is none.
bool read_pages(std::string_view line, std::vector<pages>& to)
{
    while (!line.empty()) {
        if (line.front() == ' ') {
            line.remove_prefix(1);
            continue;
        }
        pages p;
        const char* const end = line.data() + line.size();
        auto [stop, problem] = std::from_chars(line.data(), end, p.first);
        if (problem != std::errc{}) return false;
        p.last = p.first;
        if (stop != end && *stop == '-') {
            const auto second = std::from_chars(stop + 1, end, p.last);
            if (second.ec != std::errc{}) return false;
            stop = second.ptr;
        }
        if (p.last < p.first || p.last >= page_count) return false;
        to.push_back(p);
        line = {stop, static_cast<std::size_t>(end - stop)};
    }
    return true;
}

void draw_row(const std::vector<pages>& all, const char* style, unsigned y, unsigned height)
{
    for (const pages& p : all) {
        const double x = left + 1.0 * width * p.first / page_count;
        const double w = 1.0 * width * (p.last - p.first + 1) / page_count;
        std::cout << "<rect class=\"" << style << "\" x=\"" << x << "\" y=\"" << y << "\" width=\"" << (w < 1 ? 1 : w)
                  << "\" height=\"" << height << "\"/>\n";
    }
}

void draw(const std::string& title, const std::vector<step>& steps)
{
    const auto rows = static_cast<unsigned>(steps.size());
    const unsigned right = left + width + margin, bottom = top + row * rows + 50;
    std::cout << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << right << ' ' << bottom << "\">\n"
              << "<style>\n"
                 "text { font: 14px sans-serif; fill: #222 }\n"
                 ".paper { fill: #fff } .axis { stroke: #999 } .line { fill: #f0f0f0 }\n"
                 ".used { fill: #4a90d9 } .written { fill: #d9534f }\n"
                 "@media (prefers-color-scheme: dark) {\n"
                 "text { fill: #ddd } .paper { fill: #1c1c1c } .line { fill: #2b2b2b }\n"
                 "}\n"
                 "</style>\n"
              << "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
              << "<text x=\"" << margin << "\" y=\"24\">" << title << ": its pages, by step</text>\n"
              << "<rect class=\"used\" x=\"" << left << "\" y=\"38\" width=\"14\" height=\"14\"/><text x=\""
              << left + 20 << "\" y=\"50\">used</text>\n"
              << "<rect class=\"written\" x=\"" << left + 80 << "\" y=\"38\" width=\"14\" height=\"14\"/><text x=\""
              << left + 100 << "\" y=\"50\">written</text>\n";
    unsigned y = top;
    for (const step& s : steps) {
        std::cout << "<text x=\"" << margin << "\" y=\"" << y + 15 << "\">" << s.name << "</text>\n"
                  << "<rect class=\"line\" x=\"" << left << "\" y=\"" << y << "\" width=\"" << width
                  << "\" height=\"20\"/>\n";
        draw_row(s.used, "used", y, 20);
        draw_row(s.written, "written", y + 10, 10);
        y += row;
    }
    for (unsigned mib = 0; mib <= 8; mib += 2) {
        const unsigned x = left + width * mib / 8;
        std::cout << "<line class=\"axis\" x1=\"" << x << "\" y1=\"" << top << "\" x2=\"" << x << "\" y2=\"" << y + 6
                  << "\"/><text x=\"" << x << "\" y=\"" << y + 22 << "\" text-anchor=\"middle\">" << mib << "</text>\n";
    }
    std::cout << "<text x=\"" << left + width / 2 << "\" y=\"" << y + 42
              << "\" text-anchor=\"middle\">guest-physical address, MiB</text>\n</svg>\n";
}

int wrong(const std::string& what)
{
    std::cerr << "picture: " << what << '\n';
    return 2;
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 2) return wrong("usage: picture SERIAL-OUTPUT > pages.svg");
    const std::string path = argv[1];
    std::ifstream in(path);
    if (!in) return wrong("cannot read " + path);

    // The first guest whose pages are listed.
    constexpr std::string_view begin = "  pages of: ";
    std::string title, guest;
    std::vector<step> steps;
    unsigned number = 0;
    for (std::string line; std::getline(in, line);) {
        ++number;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        const std::string_view text = line;
        const auto begins = [&](std::string_view with) { return text.substr(0, with.size()) == with; };
        if (text.find("; a guest in ") != text.npos) {
            if (!steps.empty()) break;
            guest = line;
        } else if (begins(begin)) {
            title = guest;
            steps.push_back({std::string(text.substr(begin.size())), {}, {}});
        } else if (!steps.empty() && (begins("    used") || begins("    written"))) {
            const bool used = begins("    used");
            if (!read_pages(text.substr(used ? 8 : 11), used ? steps.back().used : steps.back().written)) {
                return wrong(path + ":" + std::to_string(number) + ": not a list of pages");
            }
        }
    }
    if (steps.empty()) return wrong(path + ": no list of pages");
    draw(title, steps);
    return 0;
}
