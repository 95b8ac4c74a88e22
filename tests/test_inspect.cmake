# SPDX-License-Identifier: BSL-1.0
# What inspect prints, and how it ends:
#     cmake [-DEMULATOR=COMMAND] -DINSPECT=EXECUTABLE -DDATA=tests/data -DDOCS=docs -DDUMPS=FOLDER
#         -DWORK=FOLDER -P tests/test_inspect.cmake
#
# The numbers in data/*.inspect come from a count of the images that uses nothing of this
# project, not from inspect.
cmake_minimum_required(VERSION 3.20)

get_filename_component(inspect "${INSPECT}" ABSOLUTE)
get_filename_component(data "${DATA}" ABSOLUTE)
file(MAKE_DIRECTORY ${WORK})

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

# The last line of an expected text is the answer to --age.
function(read_expected file)
    file(READ ${file} text)
    string(FIND "${text}" "ageing:" at)
    string(SUBSTRING "${text}" 0 ${at} summary)
    string(SUBSTRING "${text}" ${at} -1 ageing)
    set(summary "${summary}" PARENT_SCOPE)
    set(ageing "${ageing}" PARENT_SCOPE)
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
    read_expected(${data}/${image}.inspect)
    expect(0 "${summary}" "" ${image}.ptimg)
    expect(0 "${ageing}" "" ${image}.ptimg --age)
    list(APPEND files ${image}.ptimg)
    string(APPEND all "${separator}${summary}")
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
read_expected(${data}/shadow-pae-fresh.inspect)
expect(2 "${summary}" "bad/loop.ptimg:5: table 1000 is reached at level 4 and at level 1\n"
    bad/loop.ptimg shadow-pae-fresh.ptimg)

# Dumps of real guests, as tests/dumps.sh made them: what QEMU's monitor said of the same moment.
# What is saved of one has the same pages.
function(expect_same_as file)
    execute_process(
        COMMAND ${EMULATOR} ${inspect} ${ARGN}
        OUTPUT_FILE ${WORK}/out
        COMMAND_ERROR_IS_FATAL ANY
    )
    execute_process(
        COMMAND ${CMAKE_COMMAND} -E compare_files ${WORK}/out ${file}
        COMMAND_ERROR_IS_FATAL ANY
    )
endfunction()
foreach(guest x86-4-levels x86-5-levels x86-pae x86-2-levels)
    expect_same_as(${DUMPS}/${guest}.tlb ${DUMPS}/${guest}.elf --pages)
    # Of five levels the monitor's `info mem` prints nothing.
    if(NOT guest STREQUAL "x86-5-levels")
        expect_same_as(${DUMPS}/${guest}.mem ${DUMPS}/${guest}.elf --rights)
    endif()
    expect(0 "" "" ${DUMPS}/${guest}.elf --save ${WORK}/${guest}.ptimg)
    expect_same_as(${DUMPS}/${guest}.tlb ${WORK}/${guest}.ptimg --pages)
endforeach()

# A KVM host's nested tables, and the page map of the process behind the guest: addresses alone.
file(READ ${DUMPS}/x86-kvm.root root)
string(STRIP "${root}" root)
file(READ ${DUMPS}/x86-kvm.pages expected)
execute_process(
    COMMAND ${EMULATOR} ${inspect} ${DUMPS}/x86-kvm.elf --root ${root} --format npt --pages
    OUTPUT_VARIABLE pages
    COMMAND_ERROR_IS_FATAL ANY
)
string(REGEX REPLACE " [-A-Z]+\n" "\n" pages "${pages}")
if(NOT pages STREQUAL expected)
    message(FATAL_ERROR "the nested tables are not the page map:\n${pages}")
endif()

# What the documents show of them: the command that a block begins with prints the rest of it.
file(READ ${DOCS}/inspect.md rest)
set(blocks 0)
set(begins "```text\n$ build/examples/inspect build/dumps/")
string(LENGTH "${begins}" length)
while(TRUE)
    string(FIND "${rest}" "${begins}" at)
    if(at LESS 0)
        break()
    endif()
    math(EXPR at "${at} + ${length}")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    string(FIND "${rest}" "\n" line_end)
    string(SUBSTRING "${rest}" 0 ${line_end} command)
    string(FIND "${rest}" "```" block_end)
    math(EXPR line_end "${line_end} + 1")
    math(EXPR length_of_text "${block_end} - ${line_end}")
    string(SUBSTRING "${rest}" ${line_end} ${length_of_text} text)
    string(REPLACE "build/dumps" "${DUMPS}" text "${text}")
    string(REPLACE " " ";" command "${command}")
    expect(0 "${text}" "" ${DUMPS}/${command})
    math(EXPR blocks "${blocks} + 1")
endwhile()
if(blocks LESS 5)
    message(FATAL_ERROR "${blocks} blocks found in inspect.md: the search is broken")
endif()
expect(0 "" "" ${DUMPS}/x86-4-levels.elf --picture ${WORK}/inspect.svg)
execute_process(
    COMMAND ${CMAKE_COMMAND} -E compare_files ${WORK}/inspect.svg ${DOCS}/inspect.svg
    COMMAND_ERROR_IS_FATAL ANY
)

# The command line.
function(expect_wrong reason)
    expect(2 "" "inspect: ${reason}; see inspect --help\n" ${ARGN})
endfunction()

expect_wrong("no file given")
expect_wrong("unknown option '--all'" --all)
expect_wrong("unknown option '-v'" shadow-pae-fresh.ptimg -v)
expect_wrong("unknown option '--help'" --help shadow-pae-fresh.ptimg)
expect_wrong("unknown option '--entry'" --entry npt 1 0)
expect_wrong("one question at a time: --age or --map" shadow-pae-fresh.ptimg --age --map)
expect_wrong("--age takes one file" --age ${files})
expect_wrong("--diff takes two files" --diff shadow-pae-fresh.ptimg)
expect_wrong("--at needs a value" shadow-pae-fresh.ptimg --at)
expect_wrong("--at takes a hexadecimal number, not '1g'" shadow-pae-fresh.ptimg --at 1g)
expect_wrong("--find takes a hexadecimal number, not '10000000000000000'" shadow-pae-fresh.ptimg --find 10000000000000000)
expect_wrong("--levels takes a decimal number, not 'x'" shadow-pae-fresh.ptimg --levels x)
expect_wrong("--access is read, write or fetch, not 'use'" shadow-pae-fresh.ptimg --at 0 --access use)
expect_wrong("--access and --user go with --at" shadow-pae-fresh.ptimg --user)
expect_wrong("--base goes with --raw" shadow-pae-fresh.ptimg --base 1000)
expect_wrong("--format goes with --root" shadow-pae-fresh.ptimg --format npt)
expect_wrong("FORMAT is shadow, x86, npt or ept, not 'arm'" shadow-pae-fresh.ptimg --root 0 --format arm)

execute_process(COMMAND ${EMULATOR} ${inspect} --help RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: inspect " OR NOT err STREQUAL "")
    message(FATAL_ERROR "inspect --help: ${status}, ${out}${err}")
endif()
