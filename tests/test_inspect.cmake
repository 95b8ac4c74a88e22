# SPDX-License-Identifier: BSL-1.0
# What inspect prints, and how it ends:
#     cmake [-DEMULATOR=COMMAND] -DINSPECT=EXECUTABLE -DDATA=tests/data -P tests/test_inspect.cmake
#
# The numbers in data/*.inspect come from a count of the images that uses nothing of this
# project, not from inspect.
cmake_minimum_required(VERSION 3.20)

get_filename_component(inspect "${INSPECT}" ABSOLUTE)
get_filename_component(data "${DATA}" ABSOLUTE)

function(expect status out err)
    execute_process(
        COMMAND ${EMULATOR} ${inspect} ${ARGN}
        WORKING_DIRECTORY ${data}
        RESULT_VARIABLE actual_status
        OUTPUT_VARIABLE actual_out
        ERROR_VARIABLE actual_err
        TIMEOUT 60
    )
    foreach(what status out err)
        if(NOT "${actual_${what}}" STREQUAL "${${what}}")
            message("expected ${what}:\n${${what}}\ngot:\n${actual_${what}}")
            message(FATAL_ERROR "inspect ${ARGN}: ${what} is not as expected")
        endif()
    endforeach()
endfunction()

# Every image that has an expected text, and all of them in one run.
set(images
    ept-hsw-ad-aged
    ept-snb-noad-aged
    npt-tdp-cold-aged
    npt5-la57-aged
    shadow-long-cold-aged
    shadow-p32-aged
    shadow-pae-fresh
    x86-la57
)
set(files "")
set(all "")
foreach(image IN LISTS images)
    file(READ ${data}/${image}.inspect text)
    expect(0 "${text}" "" ${image}.ptimg)
    list(APPEND files ${image}.ptimg)
    string(APPEND all "${separator}${text}")
    set(separator "\n")
endforeach()
expect(0 "${all}" "" ${files})

# A file that is no image: its name, the line, the reason, and nothing of it on stdout.
function(expect_bad file line reason)
    expect(2 "" "bad/${file}.ptimg:${line}: ${reason}\n" bad/${file}.ptimg)
endfunction()

expect_bad(empty 1 "empty file")
expect_bad(cut-off 6 "the last line is cut off")
expect_bad(not-printable 6 "a character that is not printable ASCII")
expect_bad(not-an-entry 7 "not an address and a value")
expect_bad(address-not-hexadecimal 3 "'0x1000' is not a hexadecimal number of 64 bits")
expect_bad(value-not-hexadecimal 3 "'2o27' is not a hexadecimal number of 64 bits")
expect_bad(value-too-wide 3 "'10000000000002027' is not a hexadecimal number of 64 bits")
expect_bad(value-with-more 3 "'2027 3' is not a hexadecimal number of 64 bits")
expect_bad(value-zero 6 "the value is 0, such an entry has no line")
expect_bad(value-wider-than-entry 3 "the value has more than 32 bits")
expect_bad(address-not-aligned 6 "the address is not aligned to 8 bytes")
expect_bad(address-twice 7 "the address is given twice")
expect_bad(addresses-descend 7 "the addresses do not ascend")
expect_bad(entry-outside 7 "the entry is in no table that the root reaches")
expect_bad(entry-beyond-root 2 "the entry is in no table that the root reaches")
expect_bad(table-missing 2 "the header tells of 4 tables, the root reaches 5")
expect_bad(table-lost 2 "the header tells of 4 tables, the root reaches 3")
expect_bad(header-only 2 "the header tells of 4 tables, the root reaches 1")
expect_bad(loop 5 "table 1000 is reached at level 4 and at level 1")
expect_bad(two-levels 5 "table 3000 is reached at level 3 and at level 2")
expect_bad(header-below 5 "a header line below the first entry")
expect_bad(header-word 1 "'maxphyaddr' is not key=value")
expect_bad(key-twice 3 "root is given twice")
expect_bad(key-missing 3 "the header lacks root=")
expect_bad(count-missing 3 "the header lacks tables=")
expect_bad(eptp-missing 2 "the header lacks eptp=")
expect_bad(efer-missing 2 "the header lacks efer=")
expect_bad(unknown-format 1 "format is not npt, shadow, ept or x86")
expect_bad(levels-not-decimal 1 "levels is not a decimal number")
expect_bad(levels-unknown 1 "the format has no tables of so many levels")
expect_bad(width-unknown 1 "the format does not have this physical-address width")
expect_bad(encryption-bit-unknown 1 "bits are claimed from outside the address")
expect_bad(root-not-hexadecimal 1 "root is not a hexadecimal number")
expect_bad(root-not-aligned 1 "root is not aligned to the size of its table")
expect_bad(root-too-wide 1 "root is wider than maxphyaddr")

expect(2 "" "absent.ptimg: no such file\n" absent.ptimg)
expect(2 "" "bad: is a directory\n" bad)

# A bad file does not keep the others from being read.
file(READ ${data}/shadow-pae-fresh.inspect text)
expect(2 "${text}" "bad/loop.ptimg:5: table 1000 is reached at level 4 and at level 1\n"
    bad/loop.ptimg shadow-pae-fresh.ptimg)

# Single entries, by the manuals' tables.
expect(0
[[
entry:           80000000010001e1
kind:            leaf of level 2, 2M
present:         yes
address:         1000000
permissions:     read
accessed:        yes
dirty:           yes
software bits:   -
rule:            none broken
  name   bits  value  role
     P      0      1  fixed
     A      5      1  accessed
     D      6      1  dirty
    PS      7      1  fixed
     G      8      1  attribute
     -  51:21      8  address
    XD     63      1  denies execute
]]
    "" --entry x86 2 80000000010001e1)
expect(0
[[
entry:           3c01167
kind:            refers to a table of level 4
present:         yes
address:         3c01000
permissions:     read, write, execute, user, user execute
accessed:        yes
dirty:           has no such bit
software bits:   6
rule:            reserved bits set: 8
  name   bits  value  role
     P      0      1  fixed
   R/W      1      1  write
   U/S      2      1  user
     A      5      1  accessed
     -      6      1  software
     -      8      1  reserved
     -  51:12   3c01  address
]]
    "" --entry npt 5 0x3c01167)
expect(0
[[
entry:           750000007a07870
kind:            absent
present:         no, so the MMU looks at no other bit
address:         0
permissions:     none
accessed:        has no such bit
dirty:           has no such bit
software bits:   4 5 6 11 12 13 14 21 23 24 25 26 52 54 56 57 58
rule:            none broken
  name  bits           value  role
     -  63:3  ea000000f40f0e  software
]]
    "" --entry ept 1 0750000007a07870)
expect(0
[[
entry:           f80d00000f6
kind:            leaf of level 1, 4K
present:         yes
address:         f80d0000000
permissions:     write, execute, user, user execute
accessed:        no
dirty:           no
software bits:   7
rule:            write without read: 1
  name   bits     value  role
     W      1         1  write
     X      2         1  execute
    MT    5:3         6  memory type
  IPAT      6         1  memory type
     -      7         1  software
     -  51:12  f80d0000  address
]]
    "" --entry ept 1 00000f80d00000f6)
expect(0
[[
entry:           0
kind:            absent
present:         no, so the MMU looks at no other bit
address:         0
permissions:     none
accessed:        has no such bit
dirty:           has no such bit
software bits:   -
rule:            none broken
  name  bits  value  role
]]
    "" --entry shadow 4 0)

# The command line.
function(expect_wrong reason)
    expect(2 "" "inspect: ${reason}; see inspect --help\n" ${ARGN})
endfunction()

expect_wrong("no file given")
expect_wrong("unknown option '--all'" --all)
expect_wrong("unknown option '-v'" shadow-pae-fresh.ptimg -v)
expect_wrong("unknown option '--help'" --help shadow-pae-fresh.ptimg)
expect_wrong("--entry takes FORMAT LEVEL HEX" --entry npt 1)
expect_wrong("--entry takes FORMAT LEVEL HEX" --entry npt 1 0 0)
expect_wrong("FORMAT is shadow, x86, npt or ept, not 'arm'" --entry arm 1 0)
foreach(level 0 6 -1 one 4294967297)
    expect_wrong("LEVEL is 1 to 5, not '${level}'" --entry npt ${level} 0)
endforeach()
foreach(hex 0x 1g -1 +1 10000000000000000)
    expect_wrong("HEX is a hexadecimal number of 64 bits, not '${hex}'" --entry npt 1 ${hex})
endforeach()

execute_process(COMMAND ${EMULATOR} ${inspect} --help RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: inspect FILE" OR NOT err STREQUAL "")
    message(FATAL_ERROR "inspect --help: ${status}, ${out}${err}")
endif()
