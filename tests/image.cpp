// SPDX-License-Identifier: BSL-1.0
#include "image.hpp"

#include <doctest/doctest.h>

#include <string>
#include <variant>

namespace {

using namespace ptebits;

constexpr const char* npt_image =
    "# format=npt levels=4 root=1000 maxphyaddr=40 tables=4\n"
    "# stage=fresh cmdline=\n"
    "# slot 0 low4k gpa=0\n"
    "# slot 1 thp gpa=1000000\n"
    "#\n"
    "1000 2027\n"
    "2000 3027\n"
    "3008 0000000000004027\n"
    "3010 2000e7\n"
    "4010 5067\n"
    "4ff8 80000D0000107\n";

std::string reason(const std::string& text)
{
    try {
        static_cast<void>(ptimg::parse("F", text));
    } catch (const ptimg::error& e) {
        return e.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("an image has the header's facts and every table, with every slot")
{
    ptimg::image image = ptimg::parse("F", npt_image);
    CHECK(image.root == 0x1000);
    CHECK(image.entry_bytes == 8);
    CHECK(image.fact("stage", "?") == "fresh");
    CHECK(image.fact("cmdline", "?") == "");
    CHECK(image.fact("gpa", "?") == "?");  // in notes only

    REQUIRE(image.tables.size() == 4);
    for (const auto& [page, t] : image.tables) {
        CHECK(t.address == page);
        CHECK(t.level == 5 - page / 0x1000);
        CHECK(t.slots.size() == 512);
    }
    REQUIRE(image.slot(0x4ff8) != nullptr);
    CHECK(*image.slot(0x4ff8) == 0x8'0000'd000'0107);
    CHECK(*image.slot(0x3008) == 0x4027);
    CHECK(*image.slot(0x3000) == 0);
    CHECK(image.slot(0x3001) == nullptr);
    CHECK(image.slot(0x5000) == nullptr);
    CHECK(image.slot(0xff8) == nullptr);

    *image.slot(0x4010) = 1;
    CHECK(image.tables.at(0x4000).slots[2] == 1);
}

TEST_CASE("a default image has no slots")
{
    ptimg::image image;
    CHECK(image.slot(0) == nullptr);
    CHECK(image.fact("format", "none") == "none");
}

TEST_CASE("tables without lines are empty, a shared table counts once")
{
    ptimg::image image = ptimg::parse("F",
                                      "# format=x86 levels=4 root=1000 maxphyaddr=40 cr4=a0 efer=d01 tables=4\n"
                                      "1000 2067\n"
                                      "1008 2067\n"
                                      "2000 3067\n"
                                      "2008 8000000000004067\n");
    CHECK(image.tables.size() == 4);
    CHECK(image.tables.at(0x2000).level == 3);
    CHECK(image.tables.at(0x4000).level == 2);
    REQUIRE(image.slot(0x4ff8) != nullptr);
    CHECK(*image.slot(0x4ff8) == 0);
}

TEST_CASE("entries that are not present, and leaves, refer to no table")
{
    CHECK(reason("# format=npt levels=4 root=1000 maxphyaddr=40 tables=2\n"
                 "1000 2027\n1008 9026\n2000 c00000e7\n") == "no error");
    CHECK(reason("# format=ept levels=4 root=1000 eptp=101e maxphyaddr=40 tables=2\n"
                 "1000 2004\n1008 9f78\n2000 400000b4\n") == "no error");
}

TEST_CASE("a present entry with reserved bits set is followed, without them")
{
    const ptimg::image image = ptimg::parse("F",
                                            "# format=shadow levels=3 root=1020 maxphyaddr=40 tables=3\n"
                                            "# save_cr4=a0 save_efer=800\n"
                                            "1020 2021\n"
                                            "1038 10000003001\n");
    CHECK(image.tables.at(0x1000).address == 0x1020);
    CHECK(image.tables.at(0x1000).slots.size() == 4);
    CHECK(image.tables.at(0x2000).level == 2);
    CHECK(image.tables.at(0x3000).level == 2);
}

TEST_CASE("slots of a table that starts inside a page")
{
    ptimg::image image = ptimg::parse("F",
                                      "# format=shadow levels=3 root=1020 maxphyaddr=40 tables=1\n"
                                      "# save_cr4=a0 save_efer=800\n");
    CHECK(image.slot(0x1018) == nullptr);
    CHECK(image.slot(0x1020) == &image.tables.at(0x1000).slots.front());
    CHECK(image.slot(0x1038) == &image.tables.at(0x1000).slots.back());
    CHECK(image.slot(0x1040) == nullptr);
}

TEST_CASE("32-bit entries")
{
    ptimg::image image = ptimg::parse("F",
                                      "# format=x86 levels=2 root=1000 maxphyaddr=36 cr4=10 efer=0 tables=2\n"
                                      "1004 2027\n"
                                      "1008 800087\n"
                                      "2ffc fffff067\n");
    CHECK(image.entry_bytes == 4);
    CHECK(image.tables.at(0x2000).slots32.size() == 1024);
    REQUIRE(image.slot<std::uint32_t>(0x2ffc) != nullptr);
    CHECK(*image.slot<std::uint32_t>(0x2ffc) == 0xffff'f067);
    CHECK(image.slot(0x2ff8) == nullptr);

    // Without CR4.PSE bit 7 does not make a leaf.
    CHECK(reason("# format=x86 levels=2 root=1000 maxphyaddr=36 cr4=0 efer=0 tables=2\n1008 800087\n") == "no error");
}

TEST_CASE("features come from the header")
{
    const auto shadow_of = [](const std::string& header) {
        return std::get<shadow_features>(ptimg::parse("F", header + " root=0 tables=1\n").features);
    };
    const shadow_features la57 = shadow_of("# format=x86 levels=5 maxphyaddr=46 cr4=751eb0 efer=d01");
    CHECK(la57.levels == 5);
    CHECK(la57.physical_bits == 46);
    CHECK(la57.execute_disable);
    CHECK(la57.global_pages);
    CHECK(la57.user_keys);
    CHECK(!la57.supervisor_keys);
    CHECK(!la57.encryption_bit.given);

    const shadow_features plain = shadow_of("# format=x86 levels=4 maxphyaddr=40 cr4=20 efer=500");
    CHECK(!plain.execute_disable);
    CHECK(!plain.global_pages);
    CHECK(!plain.user_keys);
    CHECK(shadow_of("# format=x86 levels=4 maxphyaddr=40 cr4=1000020 efer=500").supervisor_keys);

    // CR4.PKE has no effect in PAE.
    const shadow_features pae = shadow_of("# format=shadow levels=3 maxphyaddr=40 save_cr4=4000a0 save_efer=800");
    CHECK(pae.execute_disable);
    CHECK(!pae.user_keys);

    const auto npt = ptimg::parse("F", "# format=npt levels=5 maxphyaddr=48 root=0 tables=1 c_bit=47\n").features;
    CHECK(std::get<npt_features>(npt).levels == 5);
    CHECK(std::get<npt_features>(npt).physical_bits == 48);
    CHECK(std::get<npt_features>(npt).execute_disable);
    CHECK(std::get<npt_features>(npt).encryption_bit == optional_bits(47));

    const std::string ept = "# format=ept levels=4 maxphyaddr=39 root=1000 tables=1 c_bit=none eptp=";
    CHECK(std::get<ept_features>(ptimg::parse("F", ept + "105e\n").features).accessed_dirty);
    CHECK(!std::get<ept_features>(ptimg::parse("F", ept + "101e\n").features).accessed_dirty);
    CHECK(std::get<ept_features>(ptimg::parse("F", ept + "101e\n").features).physical_bits == 39);
}

TEST_CASE("the encryption bit is no part of a table's address")
{
    const ptimg::image image = ptimg::parse("F",
                                            "# format=npt levels=4 maxphyaddr=48 root=1000 tables=2 c_bit=47\n"
                                            "1000 800000002027\n");
    CHECK(image.tables.count(0x2000) == 1);
}

TEST_CASE("what is not an image says where and why")
{
    const std::string header = "# format=npt levels=4 root=1000 maxphyaddr=40 tables=2\n";
    CHECK(reason("") == "F:1: empty file");
    CHECK(reason("\n") == "F:1: the header lacks format=");
    CHECK(reason(header + "\n") == "F:2: not an address and a value");
    CHECK(reason(header + "1000 2027") == "F:2: the last line is cut off");
    CHECK(reason(header + " 2027\n") == "F:2: '' is not a hexadecimal number of 64 bits");
    CHECK(reason(header + "1000  2027\n") == "F:2: ' 2027' is not a hexadecimal number of 64 bits");
    CHECK(reason(header + "1000 +2027\n") == "F:2: '+2027' is not a hexadecimal number of 64 bits");
    CHECK(reason(header + "1000 2027\t\n") == "F:2: a character that is not printable ASCII");
    CHECK(reason("# =1\n") == "F:1: '=1' is not key=value");
    CHECK(reason(header + "# c_bit=x\n") == "F:2: c_bit is not a decimal number");
    CHECK(reason("# format=npt levels=99999999999 root=0 maxphyaddr=40 tables=1\n") ==
          "F:1: levels is not a decimal number");
    CHECK(reason("# format=npt levels=4294967295 root=0 maxphyaddr=40 tables=1\n") ==
          "F:1: the format has no tables of so many levels");
    CHECK(reason(header + "1000 1027\n") == "F:2: table 1000 is reached at level 4 and at level 3");
    CHECK(reason("# format=shadow levels=3 root=1020 maxphyaddr=40 save_cr4=a0 save_efer=800 tables=1\n1020 1001\n") ==
          "F:2: table 1000 is reached at level 3 and at level 2");
}

TEST_CASE("a file that cannot be read says so")
{
    CHECK_THROWS_WITH_AS(static_cast<void>(ptimg::read("no/such/file")), "no/such/file: no such file", ptimg::error);
    CHECK_THROWS_WITH_AS(static_cast<void>(ptimg::read(".")), ".: is a directory", ptimg::error);
}
