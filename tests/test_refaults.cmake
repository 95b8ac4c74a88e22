# SPDX-License-Identifier: BSL-1.0
# What refaults prints and draws, and how it ends:
#     cmake [-DEMULATOR=COMMAND] -DREFAULTS=EXECUTABLE -DSOURCE=. -DWORK=SCRATCH -P tests/test_refaults.cmake
#
# The counts in data/refaults.expected were held against a model of the lists, the bounds
# and the ways of ageing that has no page tables and uses nothing of this project.
cmake_minimum_required(VERSION 3.20)

get_filename_component(refaults "${REFAULTS}" ABSOLUTE)
get_filename_component(source "${SOURCE}" ABSOLUTE)
get_filename_component(work "${WORK}" ABSOLUTE)
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})

function(expect status out err)
    execute_process(
        COMMAND ${EMULATOR} ${refaults} ${ARGN}
        WORKING_DIRECTORY ${work}
        RESULT_VARIABLE actual_status
        OUTPUT_VARIABLE actual_out
        ERROR_VARIABLE actual_err
        TIMEOUT 300
    )
    foreach(what status out err)
        if(NOT "${actual_${what}}" STREQUAL "${${what}}")
            message("expected ${what}:\n${${what}}\ngot:\n${actual_${what}}")
            message(FATAL_ERROR "refaults ${ARGN}: ${what} is not as expected")
        endif()
    endforeach()
endfunction()

# The recorded trace, at all sizes of memory, and the drawing of it in the documents.
set(trace ${source}/examples/data/cc1.pages)
file(READ ${source}/tests/data/refaults.expected sweep)
expect(0 "${sweep}" "" ${trace} --tables --svg drawn.svg)
file(READ ${work}/drawn.svg drawn)
file(READ ${source}/docs/refaults.svg documented)
if(NOT drawn STREQUAL documented)
    message(FATAL_ERROR "docs/refaults.svg is not what refaults draws")
endif()

# What these figures must show, however the expected text came about.
string(REPLACE "\nmemory: " ";" sizes "${sweep}")
list(POP_FRONT sizes)
list(LENGTH sizes count)
if(NOT count EQUAL 14)
    message(FATAL_ERROR "${count} sizes of memory, not 14")
endif()
foreach(size IN LISTS sizes)
    string(REGEX MATCH "^[^\n]*" at "${size}")
    foreach(name shadow NPT EPT "EPT without A" "EPT bit 63" "EPT tracking" "EPT unmapping" "perfect LRU" optimum FIFO)
        if(NOT size MATCHES "\n  ${name} +([0-9]+) +([0-9]+) +([-0-9]+) +([-0-9]+) ")
            message(FATAL_ERROR "${at}: no row for ${name}")
        endif()
        string(MAKE_C_IDENTIFIER ${name} row)
        set(${row}_misses "${CMAKE_MATCH_1} faults, ${CMAKE_MATCH_2} refaults")
        set(${row}_faults ${CMAKE_MATCH_1})
        set(${row}_refaults ${CMAKE_MATCH_2})
        set(${row}_tracking ${CMAKE_MATCH_3})
        set(${row}_flushes ${CMAKE_MATCH_4})
    endforeach()
    foreach(same NPT EPT EPT_tracking EPT_unmapping)
        if(NOT ${same}_misses STREQUAL shadow_misses)
            message(FATAL_ERROR "${at}: ${same} and shadow differ")
        endif()
    endforeach()
    math(EXPR clearly "${EPT_refaults} * 6 / 5")
    if(NOT EPT_without_A_refaults GREATER_EQUAL clearly OR NOT EPT_without_A_refaults GREATER EPT_refaults)
        message(FATAL_ERROR "${at}: not clearly more refaults without an accessed bit")
    endif()
    foreach(blind EPT_without_A EPT_bit_63)
        if(NOT ${blind}_misses STREQUAL FIFO_misses)
            message(FATAL_ERROR "${at}: ${blind} is not FIFO")
        endif()
    endforeach()
    foreach(pays EPT_tracking EPT_unmapping)
        if(NOT ${pays}_tracking GREATER 0 OR NOT ${pays}_flushes GREATER EPT_flushes)
            message(FATAL_ERROR "${at}: ${pays} pays nothing")
        endif()
    endforeach()
    foreach(free shadow NPT EPT EPT_without_A EPT_bit_63)
        if(NOT ${free}_tracking EQUAL 0)
            message(FATAL_ERROR "${at}: ${free} has tracking faults")
        endif()
    endforeach()
    foreach(row shadow FIFO perfect_LRU)
        if(${row}_faults LESS optimum_faults)
            message(FATAL_ERROR "${at}: ${row} is better than the optimum")
        endif()
    endforeach()
endforeach()

# A trace so short that its counts were found by hand. Page 3 comes when memory is full and
# all is young, so the oldest goes; the read and the write at the end find page 1 tracked.
file(WRITE ${work}/short.pages "@0\n1 3\n2 3\n@1\n1 1\n@2\n3 2\n@3\n1 1\n@4\n2 7\n@5\n1 1\n@6\n1 2\n")
expect(0
[[
trace: 8 touches of 3 pages in 7 intervals

memory: 2 pages, 66.7% of the trace's
                  faults  refaults  tracking faults  flushes  share of the optimum
  shadow               5         2                0        3                 80.0%
  NPT                  5         2                0        3                 80.0%
  EPT                  5         2                0        3                 80.0%
  EPT without A        5         2                0        3                 80.0%
  EPT bit 63           5         2                0        3                 80.0%
  EPT tracking         5         2                2        4                 80.0%
  EPT unmapping        5         2                1        4                 80.0%
  perfect LRU          4         1                -        -                100.0%
  optimum              4         1                -        -                100.0%
  FIFO                 5         2                -        -                 80.0%
]]
    "" short.pages --memory 2)

# The document shows the summary and one size to the letter; the summary's figures are those of the tables.
file(READ ${source}/docs/refaults.md document)
foreach(options "" "--memory;1691")
    execute_process(
        COMMAND ${EMULATOR} ${refaults} ${trace} ${options} OUTPUT_VARIABLE shown COMMAND_ERROR_IS_FATAL ANY
    )
    string(FIND "${document}" "```text\n${shown}```" found)
    if(found LESS 0)
        message(FATAL_ERROR "docs/refaults.md does not show what refaults prints with ${options}")
    endif()
    if(options STREQUAL "")
        set(summary "${shown}")
    endif()
endforeach()
foreach(name shadow NPT EPT "EPT without A" "EPT bit 63" "EPT tracking" "EPT unmapping" "perfect LRU" optimum FIFO)
    set(row "")
    foreach(index RANGE 0 12 2)
        list(GET sizes ${index} size)
        string(REGEX MATCH "\n  ${name} +[0-9]+ +([0-9]+) " found "${size}")
        string(APPEND row " +${CMAKE_MATCH_1}")
    endforeach()
    if(NOT summary MATCHES "\n  ${name}${row}\n")
        message(FATAL_ERROR "the summary's row of ${name} is not what the tables have: ${row}")
    endif()
endforeach()

# A file that is no trace: its name, the line, the reason, and nothing on stdout.
function(expect_bad text line reason)
    file(WRITE ${work}/bad.pages "${text}")
    expect(2 "" "bad.pages:${line}: ${reason}\n" bad.pages)
endfunction()

expect_bad("" 1 "no page is touched")
expect_bad("@0\n@1\n" 2 "no page is touched")
expect_bad("@0\n1 1\n2 1" 3 "the last line is cut off")
expect_bad("1 1\n" 1 "a page before the first interval")
expect_bad("@1\n" 1 "not '@0', the next interval")
expect_bad("@0\n1 1\n@0\n" 3 "not '@1', the next interval")
expect_bad("@0\n@\n" 2 "not '@1', the next interval")
expect_bad("@0\n\n" 2 "neither an interval nor a page and its flags")
expect_bad("@0\n401a\n" 2 "neither an interval nor a page and its flags")
expect_bad("@0\n0x1 1\n" 2 "the page is not a hexadecimal number of 64 bits")
expect_bad("@0\n 1\n" 2 "the page is not a hexadecimal number of 64 bits")
expect_bad("@0\n10000000000000000 1\n" 2 "the page is not a hexadecimal number of 64 bits")
expect_bad("@0\n800000000 1\n" 2 "the page lies above 128 Tbytes")
foreach(flags "" 0 8 -1 r "1 1")
    expect_bad("@0\n1 ${flags}\n" 2 "the flags are not 1 to 7")
endforeach()
expect_bad("@0\n1 1\r\n" 2 "the flags are not 1 to 7")
expect_bad("@0\n1 1\n2 1\n1 2\n" 4 "the interval has the page twice")

expect(2 "" "absent.pages: no such file\n" absent.pages)
expect(2 "" "${work}: is a directory\n" ${work})
expect(2 "" "refaults: --tables is for all sizes of memory, so it does not go with --memory; see refaults --help\n"
    short.pages --tables --memory 2)
expect(2 "" "absent/drawn.svg: cannot be written\n" short.pages --svg absent/drawn.svg)

# The command line.
function(expect_wrong reason)
    expect(2 "" "refaults: ${reason}; see refaults --help\n" ${ARGN})
endfunction()

expect_wrong("no trace given")
expect_wrong("no trace given" --memory 2)
expect_wrong("more than one trace" short.pages short.pages)
expect_wrong("unknown option '--pages'" short.pages --pages 2)
expect_wrong("unknown option '--help'" short.pages --help)
expect_wrong("--memory takes PAGES" short.pages --memory)
expect_wrong("--svg takes FILE" short.pages --svg)
expect_wrong("--memory is given twice" short.pages --memory 2 --memory 3)
expect_wrong("--svg is given twice" short.pages --svg a.svg --svg b.svg)
expect_wrong("--svg draws all sizes of memory, so it does not go with --memory" short.pages --memory 2 --svg a.svg)
foreach(pages 0 -1 0x10 2M 4294967296 99999999999999999999)
    expect_wrong("PAGES is 1 to 4294967295, not '${pages}'" short.pages --memory ${pages})
endforeach()

execute_process(COMMAND ${EMULATOR} ${refaults} --help RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: refaults TRACE" OR NOT err STREQUAL "")
    message(FATAL_ERROR "refaults --help: ${status}, ${out}${err}")
endif()
