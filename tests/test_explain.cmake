# SPDX-License-Identifier: BSL-1.0
# What explain prints, and how it ends:
#     cmake [-DEMULATOR=COMMAND] -DEXPLAIN=EXECUTABLE -DINCLUDE=include -DWORK=DIRECTORY -P tests/test_explain.cmake
cmake_minimum_required(VERSION 3.20)

get_filename_component(explain "${EXPLAIN}" ABSOLUTE)
get_filename_component(include "${INCLUDE}" ABSOLUTE)
set(input ${WORK}/explain-input.txt)

# A file for standard input may be given by a variable `from`.
function(expect status out err)
    set(stdin "")
    if(from)
        set(stdin INPUT_FILE ${from})
    endif()
    execute_process(
        COMMAND ${EMULATOR} ${explain} ${ARGN}
        ${stdin}
        RESULT_VARIABLE actual_status
        OUTPUT_VARIABLE actual_out
        ERROR_VARIABLE actual_err
        TIMEOUT 60
    )
    foreach(what status out err)
        if(NOT "${actual_${what}}" STREQUAL "${${what}}")
            message("expected ${what}:\n${${what}}\ngot:\n${actual_${what}}")
            message(FATAL_ERROR "explain ${ARGN}: ${what} is not as expected")
        endif()
    endforeach()
endfunction()

# Field by field, or in one line; no colours, since this is no terminal.
set(ept_entry
[[4K leaf 0x12'3456'7000 RW- WB A D sw=57,58
  R         0      1              read
  W         1      1              write
  X         2      0              no execute
  MT        5:3    6              WB
  IPAT      6      0              guest's PAT counts
  A         8      1              accessed
  D         9      1              dirty
  address   38:12  0x123'4567     0x12'3456'7000
  software  57     1              ignored by the MMU; VGP if guest-paging verification
  software  58     1              ignored by the MMU; PW if EPT paging-write
]])
expect(0 "${ept_entry}" "" ept,physical_bits=39 1 0x0600001234567333)
expect(0 "${ept_entry}\n${ept_entry}" "" --long ept,physical_bits=39 1 600001234567333 "0X600'0012'3456'7333")
expect(0
"0x0600001234567333  4K leaf 0x12'3456'7000 RW- WB sw=8,9,57,58
0x0000000000001002  4K leaf 0x1000 -W- UC; write without read: 1
0x0000000000000000  empty
" "" --short ept,accessed_dirty=0 1 600001234567333 1002 0)
expect(0 "0x00c3f0e7  4M leaf 0x1f'00c0'0000 RWX user A D PAT\n" "" --short x86,levels=2 2 c3f0e7)
expect(0 "0x0000000000001067  L5->L4 table 0x1000 RWX A sw=6\n" "" --short npt 5 1067)
expect(0 "0x8000800000001067  4K leaf 0x1000 RW- user A D C\n" "" --short shadow,encryption_bit=47 1 8000800000001067)

expect(0 "0x0000000040200883  2M leaf 0x4020'0000 RWX SNP\n" "" --short vtd_second 2 40200883)
expect(0 "0x0000000000005067  4K leaf 0x5000 RWX user A D\n" "" --short vtd_first 1 5067)
expect(0 "0x6000000000005401  L6->L2 table 0x5000 RWX\n" "" --short amdvi_host 6 6000000000005401)
expect(0 "0x20000000dead1e01  16K run 0xdead'0000 R-X\n" "" --short amdvi_host 1 20000000dead1e01)
expect(0 "0x0000000000005065  4K leaf 0x5000 R-X user A D\n" "" --short amdvi_guest 1 5065)

# As a filter, on lines of debuggers and logs.
file(WRITE ${input}
"0x8000000123456067
# a note

\$1 = 0x1067
[   12.345678] oops: PTE 8000000123456067\t
0xffff888000001000:\t0x0000000000001067\r
0x7ffe <table+16>:\t0x0000000000001067\t0x8000000123456067
0x10: 0x1 0x10000000000000067
at 0x1000 0x1067
pte=1067
nothing added
pte=
pte=10x7
10000000000000067
0xdead
ffff")
set(from ${input})
set(long_leaf "0x8000000123456067  4K leaf 0x1'2345'6000 RW- user A D\n")
set(short_leaf "0x0000000000001067  4K leaf 0x1000 RWX user A D\n")
string(CONCAT lines
    "${long_leaf}" "${short_leaf}" "${long_leaf}" "${short_leaf}"
    "${short_leaf}" "${long_leaf}" "${short_leaf}" "${short_leaf}"
    "0x000000000000dead  4K leaf 0xd000 R-X user PWT A PAT sw=9-11\n"
)
expect(2 "${lines}"
"-:8: '0x10000000000000067' is not a hexadecimal number of 64 bits
-:11: 'added' is not an entry
-:12: '' is not an entry
-:13: '10x7' is not a hexadecimal number of 64 bits
-:14: '10000000000000067' is not a hexadecimal number of 64 bits
-:16: 'ffff' is not an entry
" x86,physical_bits=40,global_pages=0 1 -)

file(WRITE ${input} "1002\n1000\n")
expect(0 "0x0000000000001002  4K leaf 0x1000 -W- UC; write without read: 1\n0x0000000000001000  not present 0x1000\n" ""
    ept 1 -)
expect(0
[[L2->L1 table 0x1000 -W-
  R         0      0              no read
  W         1      1              write
  X         2      0              no execute
  PS        7      0              table
  A         8      0              not accessed
  address   51:12  1              0x1000
broken: write without read: 1

not present 0x1000
  software  63:3   0x200          ignored by the MMU
]] "" --long ept 2 -)
# A whole table from a debugger: runs of empty entries are short.
file(WRITE ${input} "0x1000: 0x0 0x0\n0x1010: 0x0 0x1067\n0x1020: 0x0 0x1067\n0x1030: 0x0 0x0\n")
set(empty "0x0000000000000000  empty\n")
expect(0 "${empty}  and 2 more, empty\n${short_leaf}${empty}${short_leaf}${empty}  and 1 more, empty\n" "" x86 1 -)
file(WRITE ${input} "")
expect(0 "" "" ept 1 -)
set(from "")

# Differences.
expect(0
[[old: 4K leaf 0x12'3456'7000 RW- WB A
new: 4K leaf 0x12'3456'7000 R-- UC
changed:
  W         1      1 -> 0  no write
  MT        5:3    6 -> 0  UC
  A         8      1 -> 0  not accessed
TLB flush: needed
atomic update: needed
]] "" --diff ept 1 1234567133 1234567001)
expect(0
[[old: 4K leaf 0x1000 RW- WB A D
new: 4K leaf 0x1000 RW- WB D
changed:
  A         8      1 -> 0  not accessed
TLB flush: not needed
atomic update: not needed
]] "" --diff ept 1 1333 1233)
expect(0
[[old: 4K leaf 0x1000 RWX user
new: 4K leaf 0x1000 RWX user
changed: nothing
TLB flush: not needed
atomic update: needed
]] "" --diff x86 1 1007 1007)
expect(0
[[old: 4K leaf 0x12'3000 RWX user A D
new: 4K leaf 0xab'cdef'0000 RWX user A D
changed:
  address   51:12  0x123 -> 0xabc'def0  0xab'cdef'0000
TLB flush: needed
atomic update: not needed
]] "" --diff x86 1 123067 abcdef0067)
expect(0
[[old: 2M leaf 0x20'0000 RWX user A D
new: L2->L1 table 0x20'1000 RWX user A
changed, as fields of a leaf:
  D         6      1 -> 0  not dirty
  PS        7      1 -> 0  table
  PAT       12     0 -> 1  PAT index +4
changed, as fields of a table's entry:
  software  6      1 -> 0          ignored by the MMU
  PS        7      1 -> 0          table
  address   51:12  0x200 -> 0x201  0x20'1000
TLB flush: needed
atomic update: not needed
]] "" --diff x86 2 2000e7 201027)
expect(0
[[old: L4->L3 table 0x1000 RWX A
new: empty
changed:
  R         0      1 -> 0  no read
  W         1      1 -> 0  no write
  X         2      1 -> 0  no execute
  A         8      1 -> 0  not accessed
  address   51:12  1 -> 0  0x0
TLB flush: needed
atomic update: asked of leaves only
]] "" --diff ept 4 1107 0)

expect(0
[[old: empty
new: 2M leaf 0x20'0000 RWX user A
changed:
  P         0      0 -> 1  present
  R/W       1      0 -> 1  write
  U/S       2      0 -> 1  user and supervisor
  A         5      0 -> 1  accessed
  PS        7      0 -> 1  2M page
  address   51:21  0 -> 1  0x20'0000
TLB flush: not needed
atomic update: not needed
]] "" --diff x86 2 0 2000a7)
expect(0
[[old: 4K leaf 0x1000 RWX user A D
new: not present 0x5a0
changed:
  P         0      1 -> 0  absent
  R/W       1      1 -> 0  no write
  U/S       2      1 -> 0  supervisor only
  D         6      1 -> 0  not dirty
  PAT       7      0 -> 1  PAT index +4
  G         8      0 -> 1  global
  software  10:9   0 -> 2  ignored by the MMU
  address   51:12  1 -> 0  0x0
TLB flush: needed
atomic update: not needed
]] "" --diff x86 1 1067 5a0)
expect(0
[[old: not present 0x5a0
new: not present 0x3a0
changed:
  software  63:1   0x2d0 -> 0x1d0  ignored by the MMU
TLB flush: not needed
atomic update: not needed
]] "" --diff x86 1 5a0 3a0)

# What an absent entry must hold: bit 63 with #VE, no address in memory on a CPU with L1TF.
expect(0
[[not present 0xab'c000
  address   51:12  0xabc          0xab'c000
broken: points into memory
]] "" --long ept,memory_bits=39 1 abc000)
expect(0 "0x8000000000000000  empty\n" "" --short ept,suppress_ve=1 1 8000000000000000)

# Every feature of the headers can be given.
foreach(format shadow npt ept)
    file(STRINGS ${include}/ptebits/formats/${format}.hpp members REGEX "^    (unsigned|bool|optional_bits) [a-z_0-9]+ = ")
    list(LENGTH members count)
    if(count LESS 9)
        message(FATAL_ERROR "the features of ${format}.hpp are not found: the search is broken")
    endif()
    foreach(member IN LISTS members)
        string(REGEX MATCH "^    ([a-z_]+) ([a-z_0-9]+) = ([a-z0-9]*)" matched "${member}")
        set(value ${CMAKE_MATCH_3})
        if(CMAKE_MATCH_1 STREQUAL "bool")
            set(value 0)
            if(CMAKE_MATCH_2 STREQUAL "large_pages" AND NOT format STREQUAL "ept")
                # Only 32-bit entries can be without.
                expect(0 "0x00000000  empty\n" "" --short ${format},levels=2,large_pages=0 1 0)
                continue()
            endif()
        elseif(CMAKE_MATCH_1 STREQUAL "optional_bits")
            set(value 51)
            if(CMAKE_MATCH_2 STREQUAL "software_accessed")
                set(value "52,accessed_dirty=0")
            endif()
        endif()
        expect(0 "0x0000000000000000  empty\n" "" --short ${format},${CMAKE_MATCH_2}=${value} 1 0)
    endforeach()
endforeach()

# The command line.
function(expect_wrong reason)
    expect(2 "" "explain: ${reason}; see explain --help\n" ${ARGN})
endfunction()

set(arguments "it takes FORMAT LEVEL HEX... or FORMAT LEVEL -")
expect_wrong("${arguments}")
expect_wrong("${arguments}" ept)
expect_wrong("${arguments}" --short ept 1)
expect_wrong("--diff takes FORMAT LEVEL OLD NEW" --diff ept 1 1)
expect_wrong("--diff takes FORMAT LEVEL OLD NEW" --diff ept 1 1 2 3)
expect_wrong("unknown option '--all'" --all ept 1 1)
expect_wrong("unknown option '--help'" --help ept 1 1)
expect_wrong("one of --short, --long and --diff, no more" --short --long ept 1 1)
expect_wrong("FORMAT is shadow, x86, npt, ept, riscv, gstage, vtd_second, vtd_first, amdvi_host or amdvi_guest, not 'arm'" arm 1 1)
expect_wrong("FORMAT is shadow, x86, npt, ept, riscv, gstage, vtd_second, vtd_first, amdvi_host or amdvi_guest, not ''" ,levels=4 1 1)
foreach(level 0 7 -1 one 4294967297)
    expect_wrong("LEVEL is 1 to 6, not '${level}'" ept ${level} 1)
endforeach()
expect_wrong("the format has no tables of so many levels" ept 6 1)
expect_wrong("the format has no level 3" x86,levels=2 3 1)
expect_wrong("the format has no level 5" ept,levels=4 5 1)
expect_wrong("'levels' is not FEATURE=VALUE" ept,levels 1 1)
expect_wrong("'' is not FEATURE=VALUE" ept,,levels=4 1 1)
expect_wrong("accessed_dirty is 0 or 1, not '2'" ept,accessed_dirty=2 1 1)
expect_wrong("accessed_dirty is 0 or 1, not 'on'" ept,accessed_dirty=on 1 1)
expect_wrong("physical_bits is a decimal number, not '0x30'" ept,physical_bits=0x30 1 1)
expect_wrong("the format does not have this physical-address width" ept,physical_bits=53 1 1)
expect_wrong("the format has no tables of so many levels" ept,levels=3 1 1)
expect_wrong("two accessed bits" ept,software_accessed=63 1 1)
expect_wrong("bits are claimed from outside the address" npt,encryption_bit=52 1 1)
expect_wrong("features that exclude each other" x86,levels=3,hlat=1 1 1)
foreach(hex 0x x 1g -1 +1 10000000000000000)
    expect_wrong("'${hex}' is not a hexadecimal number of 64 bits" ept 1 1 ${hex})
endforeach()
expect_wrong("'-' is not a hexadecimal number of 64 bits" ept 1 1 -)

execute_process(COMMAND ${EMULATOR} ${explain} npt,hlat=1 1 1 RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "2" OR NOT err MATCHES "^explain: no such feature: 'hlat'; there are levels, physical_bits, ")
    message(FATAL_ERROR "an unknown feature: ${status}, ${out}${err}")
endif()
execute_process(COMMAND ${EMULATOR} ${explain} --help RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: explain " OR NOT err STREQUAL "")
    message(FATAL_ERROR "explain --help: ${status}, ${out}${err}")
endif()
