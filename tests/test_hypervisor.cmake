# SPDX-License-Identifier: BSL-1.0
# How hypervisor ends:
#     cmake [-DEMULATOR=COMMAND] -DHYPERVISOR=EXECUTABLE -P tests/test_hypervisor.cmake
cmake_minimum_required(VERSION 3.20)

function(run)
    execute_process(
        COMMAND ${EMULATOR} ${HYPERVISOR} ${ARGN}
        RESULT_VARIABLE status
        OUTPUT_VARIABLE out
        ERROR_VARIABLE err
        TIMEOUT 120
    )
    set(status "${status}" PARENT_SCOPE)
    set(out "${out}" PARENT_SCOPE)
    set(err "${err}" PARENT_SCOPE)
endfunction()

# All three ways, and each has met what it is there for.
run()
message("${out}${err}")
if(NOT status STREQUAL "0" OR NOT err STREQUAL "")
    message(FATAL_ERROR "hypervisor: ${status}, ${err}")
endif()
string(REGEX MATCHALL "nothing lost" rounds "${out}")
list(LENGTH rounds ways)
if(NOT ways EQUAL 3)
    message(FATAL_ERROR "hypervisor: three ways, not ${ways}")
endif()
foreach(never " 0 pages mapped" " 0 pages made writable" " 0 times a page was young" " 0 times a page was old"
        " 0 pages swapped" " 0 written pages" " 0 mappings taken away" "without them.* 0 tracked pages"
        "device        0 accesses" " 0 that the device" " 0 of the device")
    if(out MATCHES "${never}")
        message(FATAL_ERROR "hypervisor: nothing of \"${never}\"")
    endif()
endforeach()

function(expect_wrong reason)
    run(${ARGN})
    set(message "hypervisor: ${reason}; see hypervisor --help\n")
    if(NOT status STREQUAL "2" OR NOT out STREQUAL "" OR NOT err STREQUAL message)
        message(FATAL_ERROR "hypervisor ${ARGN}: ${status}, ${out}${err}")
    endif()
endfunction()

expect_wrong("unknown option '--all'" --all)
expect_wrong("unknown option '1'" 1)
expect_wrong("--seconds takes a value" --seconds)
expect_wrong("--flags takes a value" --seconds 1 --flags)
expect_wrong("--flags is on or off, not 'maybe'" --flags maybe)
foreach(seconds 0 -1 3601 1s 4294967297 99999999999999999999)
    expect_wrong("--seconds is 1 to 3600, not '${seconds}'" --seconds ${seconds})
endforeach()
run(--help)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: hypervisor " OR NOT err STREQUAL "")
    message(FATAL_ERROR "hypervisor --help: ${status}, ${out}${err}")
endif()
