// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "dump.hpp"
#include "elf_builder.hpp"
#include "picture.hpp"
#include "questions.hpp"
#include "summary.hpp"

namespace {

using namespace ptebits;

constexpr std::uint64_t paging = registers::cr0::paging.mask() | registers::cr0::write_protect.mask();
constexpr std::uint64_t pae = registers::cr4::physical_address_extension.mask();
constexpr std::uint64_t pse = registers::cr4::page_size_extensions.mask();

dump::file file_of(const std::string& bytes) { return {"F", std::make_unique<std::istringstream>(bytes)}; }

std::string reason(const std::string& bytes, const dump::choices& user = {})
{
    try {
        dump::input from(file_of(bytes), user);
    } catch (const dump::error& e) {
        return e.what();
    }
    return "no error";
}

/// Four levels: 0 is mapped to 5000h, 200000h to 400000h as a large page.
built::tables four_levels()
{
    return built::tables(0x6000)
        .entry(0x1000, 0x2027)
        .entry(0x2000, 0x3027)
        .entry(0x3000, 0x4027)
        .entry(0x3008, 0x4000e7)
        .entry(0x4000, 0x8000'0000'0000'5067);
}

built::elf long_mode(const built::tables& memory, std::uint64_t cr3 = 0x1000)
{
    return {.notes = built::note("CORE", std::string(336, '\0')) + built::cpu(paging, cr3, pae | pse),
            .pieces = {{0, memory.bytes()}}};
}

std::string pages_of(const std::string& bytes, const dump::choices& user = {})
{
    dump::input from(file_of(bytes), user);
    std::ostringstream out;
    dump::print_pages(out, from);
    return out.str();
}

/// Rows of a picture, and the tables in them.
std::pair<std::size_t, std::uint64_t> with_rows(dump::input& from)
{
    std::pair<std::size_t, std::uint64_t> found;
    dump::with_format(from, [&](const auto& format) {
        for (const dump::picture_row& row : dump::picture_rows(from, format)) {
            ++found.first;
            found.second += row.tables;
        }
    });
    return found;
}

const std::string four_level_pages =
    "0000000000000000: 0000000000005000 X--DA--UW\n"
    "0000000000200000: 0000000000400000 --PDA--UW\n";

}  // namespace

TEST_CASE("long mode by the machine in the header, or by a CPU's code segment")
{
    CHECK(pages_of(long_mode(four_levels()).file()) == four_level_pages);
    built::elf other = long_mode(four_levels());
    other.machine = dump::machine_i386;
    other.notes = built::cpu(paging, 0x1000, pae, true);
    CHECK(pages_of(other.file()) == four_level_pages);
}

TEST_CASE("PAE and 32-bit paging, in ELF files of either class")
{
    for (const bool wide : {false, true}) {
        const built::elf of_pae{.wide = wide,
                                .machine = dump::machine_i386,
                                .notes = built::cpu(paging, 0x1020, pae | registers::cr4::global_pages.mask()),
                                .pieces = {{0, built::tables(0x5000)
                                                   .entry(0x1020, 0x2001)
                                                   .entry(0x1038, 0x3021)  // as an emulator leaves it
                                                   .entry(0x2000, 0x4027)
                                                   .entry(0x3ff8, 0x8000'0000'0040'01e3)
                                                   .entry(0x4ff8, 0x3'0000'0001)
                                                   .bytes()}}};
        CHECK(pages_of(of_pae.file()) ==
              "00000000001ff000: 0000000300000000 ---------\n"
              "00000000ffe00000: 0000000000400000 XGPDA---W\n");
        const built::elf of_two{.wide = wide,
                                .machine = dump::machine_i386,
                                .notes = built::cpu(paging, 0x1000, pse),
                                .pieces = {{0, built::tables(0x3000)
                                                   .entry(0x1000, 0x2027, 4)
                                                   .entry(0x1ffc, 0x4000c7, 4)
                                                   .entry(0x2004, 0x5025, 4)
                                                   .bytes()}}};
        CHECK(pages_of(of_two.file()) ==
              "0000000000001000: 0000000000005000 ----A--U-\n"
              "00000000ffc00000: 0000000000400000 --PD---UW\n");
    }
}

TEST_CASE("the CPU that was asked for, and what its registers say")
{
    built::elf two = long_mode(four_levels());
    two.notes += built::cpu(paging, 0x2000, pae);
    two.notes += built::cpu(0, 0, 0);
    CHECK(pages_of(two.file()) == four_level_pages);
    CHECK(pages_of(two.file(), {.cpu = 1}) != four_level_pages);
    CHECK(reason(two.file(), {.cpu = 2}) ==
          "F: CPU 2 of 3 has paging off: choose another by --cpu N, or give --root HEX");
    CHECK(reason(two.file(), {.cpu = 3}) == "F: --cpu 3: the dump tells of 3 CPUs");
    CHECK(pages_of(two.file(), {.cpu = 2, .root = 0x1000}) == four_level_pages);
    two.notes = built::cpu(paging, 0x1003, pae | registers::cr4::pcide.mask());
    CHECK(pages_of(two.file()) == four_level_pages);
}

TEST_CASE("the kernel's tables by VMCOREINFO")
{
    built::elf core = long_mode(four_levels());
    core.notes = built::note("VMCOREINFO",
                             "OSRELEASE=6.1\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82001000\n"
                             "NUMBER(phys_base)=-33554432\nNUMBER(pgtable_l5_enabled)=0\nKERNELOFFSET=0\n");
    CHECK(pages_of(core.file()) == four_level_pages);
    core.notes =
        built::note("VMCOREINFO", "SYMBOL(init_top_pgt)=ffffffff80001000\nNUMBER(phys_base)=0\nNUMBER(sme_mask)=0\n");
    CHECK(pages_of(core.file()) == four_level_pages);
    core.notes = built::note("VMCOREINFO", "SYMBOL(init_top_pgt)=zero\nNUMBER(phys_base)=0\n");
    CHECK(reason(core.file()) == "F: VMCOREINFO: SYMBOL(init_top_pgt) is no number: 'zero'");
    core.notes = "";
    const std::string none =
        "F: tells no CR3 (no CPU notes by QEMU, no kernel's VMCOREINFO): give --root HEX --format FORMAT";
    CHECK(reason(core.file()) == none);
    CHECK(pages_of(core.file(), {.root = 0x1000}) == four_level_pages);
}

TEST_CASE("raw memory, from a base address on")
{
    const std::string bytes = four_levels().bytes();
    CHECK(pages_of(bytes, {.raw = true, .root = 0x1000}) == four_level_pages);
    CHECK(pages_of(bytes.substr(0x1000), {.raw = true, .base = 0x1000, .root = 0x1000}) == four_level_pages);
    CHECK(reason(bytes, {.raw = true}) == "F: raw memory does not tell where its tables are: give --root HEX");
    CHECK(reason("", {.raw = true, .root = 0x1000}) == "F: raw memory is a file of some bytes");
    CHECK(reason(bytes, {.raw = true, .base = ~0ULL - 8, .root = 0}) ==
          "F: from --base the file reaches over the end of all addresses");
    CHECK(reason(bytes, {.raw = true, .root = 0x1000, .levels = 7}) == "F: the format has no tables of so many levels");
    CHECK(reason(bytes, {.raw = true, .root = 1ULL << 60, .physical_bits = 40}) ==
          "F: root 1000000000000000: reserved bits set 1000000000000000");
    CHECK_THROWS_AS(static_cast<void>(reason(bytes, {.raw = true, .root = 0, .features = {"speed=1"}})), named::error);
}

TEST_CASE("segments in any order, overlapping, and a page that lies in two")
{
    const std::string bytes = four_levels().bytes();
    built::elf e = long_mode(four_levels());
    e.pieces = {
        {0x2800, bytes.substr(0x2800)}, {0x1000, bytes.substr(0x1000, 0x1800)}, {0x4000, bytes.substr(0x4000, 0x1000)}};
    e.count_elsewhere = true;
    CHECK(pages_of(e.file()) == four_level_pages);
    // Half of the page of the table of level 2 is missing: what it maps is not there.
    e.pieces = {{0x1000, bytes.substr(0x1000, 0x2800)}, {0x4000, bytes.substr(0x4000)}};
    CHECK(pages_of(e.file()) == "");
}

TEST_CASE("what is refused says what to do instead")
{
    CHECK(reason("makedumpfile" + std::string(100, '\0'))
              .starts_with("F: kdump's compressed format is not read: dump again"));
    CHECK(reason("KDUMP   " + std::string(100, '\0'))
              .starts_with("F: kdump's compressed format is not read: dump again"));
    CHECK(reason(std::string("EMiL\1\0\0\0", 8)).starts_with("F: LiME's format is not read: make a raw image"));
    CHECK(reason(std::string(100, '\0')) ==
          "F: neither an ELF core nor a .ptimg: if it is raw memory, give --raw [--base HEX] --root HEX");
    CHECK(reason("# format=npt\n", {.cpu = 1}) == "F: a .ptimg says itself what its tables are");
    CHECK(reason("Hello\n") == "F:1: the header lacks format=");
}

TEST_CASE("broken ELF files")
{
    const built::elf good = long_mode(four_levels());
    const std::string bytes = good.file();
    CHECK(reason(bytes) == "no error");
    // Cut anywhere it is an error, and never another one than of the file.
    for (std::size_t length = 5; length < bytes.size(); length += length < 1000 ? 1 : 997) {
        CAPTURE(length);
        const std::string why = reason(bytes.substr(0, length));
        CHECK(why.starts_with("F: offset "));
    }
    const auto with = [&](std::size_t base, const dump::elf_number& where, std::uint64_t value) {
        std::string changed = bytes;
        built::put(changed, {base + where.offset, where.bytes}, value);
        return reason(changed);
    };
    const dump::elf_form& f = good.form();
    CHECK(with(0, dump::elf_class, 3) == "F: offset 4: no ELF class");
    CHECK(with(0, dump::elf_byte_order, 2) == "F: offset 5: not little-endian");
    CHECK(with(0, dump::elf_type, 2) == "F: offset 16: an ELF file, but no core: not a dump");
    CHECK(with(0, dump::elf_machine, 183) == "F: offset 18: the dump of a machine that is not x86 (ELF machine 183)");
    CHECK(with(0, f.program_header_bytes, 32) == "F: offset 54: program headers of a wrong size");
    CHECK(with(0, f.program_headers, ~0ULL)
              .starts_with("F: offset 32: the program headers at 18446744073709551615 would be"));
    CHECK(with(0, f.program_header_count, 60000)
              .starts_with("F: offset 32: the program headers at 128 would be 3360000 bytes"));
    CHECK(with(0, f.program_header_count, 1) == "F: offset 0: an ELF core without memory");
    CHECK(with(good.program(1), f.offset, ~0ULL)
              .starts_with("F: offset 184: segment 1 at 18446744073709551615 would be"));
    CHECK(with(good.program(1), f.file_bytes, 1ULL << 40).starts_with("F: offset 184: segment 1 at "));
    CHECK(with(good.program(1), f.physical, ~0ULL - 10) ==
          "F: offset 184: segment 1 reaches over the end of all addresses");
    // Notes that lie: of their length, their version.
    const std::size_t notes = good.program(2);
    CHECK(with(notes, dump::note_bytes, 0xffff'ffff) == "F: offset 240: a note that is longer than its segment");
    CHECK(with(notes, dump::note_name_bytes, 0xffff'fffd) == "F: offset 240: a note that is longer than its segment");
    built::elf lies = good;
    lies.notes = built::note("QEMU", std::string(100, '\0'));
    CHECK(reason(lies.file()) == "F: offset 260: a note of a CPU that is too short");
    lies.notes = built::note("QEMU", std::string(440, '\2'));
    CHECK(reason(lies.file()) == "F: offset 260: a note of a CPU in another version than 1");
    lies.notes = built::note("VMCOREINFO", std::string(70000, 'x'));
    CHECK(reason(lies.file()) == "F: offset 264: VMCOREINFO of more than 64 Kbytes");
}

TEST_CASE("tables that refer to themselves, or to what is not in the dump")
{
    // The top table is its own table, all the way down: 1000h is the page, too.
    const built::elf loop = long_mode(built::tables(0x2000).entry(0x1ff8, 0x1027).entry(0x1000, 0x9'0000'0027));
    dump::input from(file_of(loop.file()), {});
    std::ostringstream out;
    dump::print_summary(out, from);
    CHECK(out.str().find("tables: 1 at level 4, 2 at level 3, 2 at level 2, 2 at level 1") != std::string::npos);
    CHECK(out.str().find("missing: 1536 slots of tables lie outside the memory") != std::string::npos);
    out.str("");
    dump::print_path(out, from, 0xffff'ffff'ffff'f000, {}, pat_after_reset);
    CHECK(out.str().find("-> 0000000000001000, in a page of 4K") != std::string::npos);
    out.str("");
    dump::print_path(out, from, 0, {}, pat_after_reset);
    CHECK(out.str().find("-> fault: no memory there at level 3: the table is not in the dump") != std::string::npos);
    CHECK_THROWS_WITH_AS(dump::save(out, from), "F: some tables lie outside the memory: a .ptimg holds all or none",
                         dump::error);
}

TEST_CASE("a file that is cut while it is open")
{
    // Builds of several compilers may be tested side by side.
    const auto path =
        std::filesystem::temp_directory_path() / ("ptebits-cut-" + std::to_string(std::random_device{}()) + ".elf");
    const std::string bytes = long_mode(four_levels()).file();
    std::ofstream(path, std::ios::binary) << bytes;
    dump::input from(dump::file(path.string()), {});
    std::filesystem::resize_file(path, bytes.size() - 0x4000);
    std::ostringstream out;
    CHECK_THROWS_AS(dump::print_pages(out, from), dump::error);
    std::filesystem::remove(path);
    CHECK_THROWS_WITH_AS(dump::file("no/such/file"), "no/such/file: no such file", dump::error);
    CHECK_THROWS_WITH_AS(dump::file("."), ".: is a directory", dump::error);
}

TEST_CASE("what is saved is what was there")
{
    for (const bool two_levels : {false, true}) {
        built::elf e = long_mode(four_levels());
        if (two_levels) {
            e.machine = dump::machine_i386;
            e.notes = built::cpu(paging, 0x1000, pse);
            e.pieces = {{0, built::tables(0x3000).entry(0x1000, 0x2027, 4).entry(0x2004, 0x5025, 4).bytes()}};
        }
        dump::input from(file_of(e.file()), {});
        std::ostringstream saved;
        dump::save(saved, from);
        CHECK(pages_of(saved.str()) == pages_of(e.file()));
        dump::input again(file_of(saved.str()), {});
        CHECK(again.found().features == from.found().features);
        std::ostringstream changes;
        dump::print_changes(changes, from, again);
        CHECK(changes.str().find("no change") != std::string::npos);
    }
}

TEST_CASE("where an address leads, or why not")
{
    const auto way = [](std::uint64_t address, const ptebits::memory_access& a, const dump::choices& user = {}) {
        // A leaf with an address bit above 40, as a hypervisor marks a device.
        dump::input from(file_of(long_mode(four_levels().entry(0x4008, 0x800'0000'6067)).file()), user);
        std::ostringstream out;
        dump::print_path(out, from, address, a, pat_after_reset);
        return out.str();
    };
    CHECK(way(0x123, {}) ==
          "0000000000000123: read in supervisor mode\n"
          " L4 0000000000001000 0000000000002027 L4->L3 table 0x2000 RWX user A\n"
          " L3 0000000000002000 0000000000003027 L3->L2 table 0x3000 RWX user A\n"
          " L2 0000000000003000 0000000000004027 L2->L1 table 0x4000 RWX user A\n"
          " L1 0000000000004000 8000000000005067 4K leaf 0x5000 RW- user A D\n"
          "-> 0000000000005123, in a page of 4K, urw- WB\n");
    CHECK(way(0x123, {.what = operation::fetch, .user = true})
              .ends_with("-> fault: protection at level 1, the tables allow urw-; error code 15\n"));
    CHECK(way(0x1000, {}).ends_with("-> 0000080000006000, in a page of 4K, urwx WB\n"));
    CHECK(way(0x1000, {}, {.physical_bits = 40})
              .ends_with("-> fault: reserved bits set at level 1 (bits 43); error code 9\n"
                         "   these bits are of an address, if --physical-bits is larger\n"));
    CHECK(way(1ULL << 47, {}) ==
          "0000800000000000: read in supervisor mode\n"
          "-> fault: address not canonical\n");
}

TEST_CASE("ranges that are alike, and who maps a page")
{
    // Two small pages alike, one that is not, a large one that has the same physical page as the first.
    const built::tables memory =
        four_levels().entry(0x3008, 0xe7).entry(0x4008, 0x8000'0000'0000'9027).entry(0x4010, 0x5019);
    dump::input from(file_of(long_mode(memory).file()), {});
    std::ostringstream out;
    dump::print_map(out, from, {}, pat_after_reset);
    CHECK(out.str() ==
          "first            last               size urwx type page  pages  young  dirty\n"
          "0000000000000000-0000000000001fff      8K  urw-    WB    4K      2      2      1\n"
          "0000000000002000-0000000000002fff      4K  -r-x    UC    4K      1      0      0\n"
          "0000000000200000-00000000003fffff      2M  urwx    WB    2M      1      1      1\n");
    out.str("");
    dump::print_map(out, from, {0x1000, 0x1fff}, pat_after_reset);
    CHECK(out.str().ends_with("\n0000000000001000-0000000000001fff      4K  urw-    WB    4K      1      1      0\n"));
    out.str("");
    dump::print_mappings_of(out, from, 0x5678);
    CHECK(out.str() ==
          "0000000000000678: a page of 4K, urw-  8000000000005067  4K leaf 0x5000 RW- user A D\n"
          "0000000000002678: a page of 4K, -r-x  0000000000005019  4K leaf 0x5000 R-X PWT PCD\n"
          "0000000000205678: a page of 2M, urwx  00000000000000e7  2M leaf 0x0 RWX user A D\n");
    out.str("");
    dump::print_mappings_of(out, from, 0x400000);
    CHECK(out.str() == "no page of these tables maps 0000000000400000\n");
    out.str("");
    dump::print_mappings_of(out, from, 0x3008);
    CHECK(out.str().ends_with("it lies in a table of level 2\n"));
}

TEST_CASE("what changed between two dumps")
{
    const auto changes = [](const built::tables& old, const built::tables& now) {
        dump::input before(file_of(long_mode(old).file()), {});
        dump::input after(file_of(long_mode(now).file()), {});
        std::ostringstream out;
        dump::print_changes(out, before, after);
        return out.str();
    };
    const built::tables old = four_levels().entry(0x4010, 0x7025).entry(0x4018, 0x8025).entry(0x4020, 0x9005);
    const built::tables now = four_levels()
                                  .entry(0x3008, 0)
                                  .entry(0x4010, 0xa025)
                                  .entry(0x4018, 0x8067)
                                  .entry(0x4020, 0x9025)
                                  .entry(0x4028, 0xb025);
    CHECK(changes(old, now) ==
          "0000000000002000-0000000000002fff moved: 1 page\n"
          "0000000000003000-0000000000003fff wider rights, became dirty: 1 page\n"
          "0000000000004000-0000000000004fff became young: 1 page\n"
          "0000000000005000-0000000000005fff mapped: 1 page\n"
          "0000000000200000-00000000003fffff unmapped: 1 page\n"
          "of 5 and 5 pages: became young 1; mapped 1; moved 1; unmapped 1; wider rights, became dirty 1\n");
}

TEST_CASE("a picture of many tables is folded, and tables alike are one row")
{
    const auto rows = [](std::uint64_t count, bool alike) {
        built::tables memory((2 + count) * 0x1000);
        for (std::uint64_t i = 0; i < count; ++i) {
            memory.entry(0x1000 + 4 * i, (2 + i) * 0x1000 + 0x27, 4);
            memory.entry((2 + i) * 0x1000 + (alike ? 0 : 4 * i), 0x1067, 4);
        }
        const built::elf e{
            .machine = dump::machine_i386, .notes = built::cpu(paging, 0x1000, 0), .pieces = {{0, memory.bytes()}}};
        dump::input from(file_of(e.file()), {});
        return with_rows(from);
    };
    CHECK(rows(10, true) == std::pair<std::size_t, std::uint64_t>(1, 10));
    CHECK(rows(10, false) == std::pair<std::size_t, std::uint64_t>(10, 10));
    CHECK(rows(500, false) == std::pair<std::size_t, std::uint64_t>(125, 500));
}

TEST_CASE("a guest's tables over the host's")
{
    // The guest's memory is 10000h higher in the host's. Its tables are those of four_levels().
    built::tables memory = built::tables(0x20000).entry(0x1000, 0x2007).entry(0x2000, 0x3007).entry(0x3000, 0x4007);
    for (std::uint64_t page = 0; page < 6; ++page) memory.entry(0x4000 + page * 8, 0x10007 + page * 0x1000);
    memory.entry(0x11000, 0x2027)
        .entry(0x12000, 0x3027)
        .entry(0x13000, 0x4027)
        .entry(0x13008, 0x4000e7)
        .entry(0x14000, 0x8000'0000'0000'5067);
    for (const char* host : {"npt", "ept"}) {
        const dump::choices user{.raw = true, .root = 0x1000, .host_format = host, .host_root = 0x1000};
        CHECK(pages_of(memory.bytes(), user) == four_level_pages);
        dump::input from(file_of(memory.bytes()), user);
        std::ostringstream out;
        dump::print_path(out, from, 0x123, {.user = true}, pat_after_reset);
        CHECK(out.str().find("-> 0000000000015123, in a page of 4K") != std::string::npos);
        CHECK(out.str().find(" L1 0000000000014000 8000000000005067 4K leaf") != std::string::npos);
    }
    CHECK(reason(memory.bytes(), {.raw = true, .root = 0x1000, .format = "npt", .host_format = "npt"}) ==
          "F: a guest's tables are those of ordinary paging");
    CHECK(reason(long_mode(memory).file(), {.host_format = "ept"}) ==
          "F: --ept needs the guest's CR3: give --root HEX");
}
