# Counts the instructions of the functions of measured.cpp under valgrind, and holds them
# against bounds. A walk that takes the slow path where it need not has three times as many.
# To be run with LD_BIND_NOW=1, so that no symbol is looked up while it counts.
#   cmake -DVALGRIND=valgrind -DMEASURED=program -P check.cmake
cmake_minimum_required(VERSION 3.24)

if(NOT VALGRIND)
  message("skipped: valgrind is not installed")
  return()
endif()

function(count result function)
  execute_process(
    COMMAND ${VALGRIND} --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=${function} ${MEASURED}
            ${function} ${ARGN}
    RESULT_VARIABLE status
    ERROR_VARIABLE report
  )
  if(NOT status EQUAL 0 OR NOT report MATCHES "Collected : ([1-9][0-9]*)")
    message(FATAL_ERROR "${function} ${ARGN}: status ${status}\n${report}")
  endif()
  set(${result} ${CMAKE_MATCH_1} PARENT_SCOPE)
endfunction()

set(failures 0)
macro(hold what counted bound)
  message("${what}: ${counted} instructions, at most ${bound}")
  if(${counted} GREATER ${bound})
    math(EXPR failures "${failures} + 1")
  endif()
endmacro()

foreach(format x86 ept)
  count(page count_walk_${format} 0)
  hold("${format}, walk to a page" ${page} 260)
  # An absent entry at any level: at most 1.3 times as many.
  math(EXPR bound "${page} * 13 / 10")
  foreach(level 1 2 3 4)
    count(absent count_walk_${format} ${level})
    hold("${format}, walk to an absent entry of level ${level}" ${absent} ${bound})
  endforeach()
  foreach(kind leaf table)
    count(made count_encode_${format}_${kind})
    hold("${format}, encode a ${kind}" ${made} 25)
  endforeach()
endforeach()
foreach(by x86 ept at_run_time)
  count(aged count_age_${by})
  hold("age, ${by}" ${aged} 40)
endforeach()
# Slots are looked at 64 at once: one by one, each takes 8 instructions or more.
foreach(operation age young_in)
  count(looked_at count_${operation}_old_table)
  hold("${operation} of a table of 512 old pages" ${looked_at} 1500)
endforeach()
# By hand a path takes 58; a page of many takes 5 to be mapped, with a compare-exchange and its loop 10.
count(path count_path)
hold("path to a slot" ${path} 90)
foreach(tree "" _shared)
  foreach(operation map unmap)
    count(one count_${operation}${tree} 0)
    hold("${operation}${tree}, one page" ${one} 400)
    count(many count_${operation}${tree} 1)
    hold("${operation}${tree}, 510 pages" ${many} 11000)
  endforeach()
endforeach()
count(made count_make_format)
hold("make an EPT format" ${made} 25000)
# Formats known at run time, and those of constants but for the width, which are known at boot. By the slow path a walk
# takes three times as many or more.
foreach(format x86 ept)
  foreach(known at_run_time at_boot)
    if(known STREQUAL "at_boot")
      set(bound 280)
    else()
      set(bound 440)
    endif()
    count(page count_walk_${format}_${known} 0)
    hold("${format} ${known}, walk to a page" ${page} ${bound})
    foreach(level 1 2 3 4)
      count(absent count_walk_${format}_${known} ${level})
      hold("${format} ${known}, walk to an absent entry of level ${level}" ${absent} ${bound})
    endforeach()
  endforeach()
endforeach()
count(aged count_age_ept_at_boot)
hold("age, ept at_boot" ${aged} 20)
if(failures GREATER 0)
  message(FATAL_ERROR "${failures} counts are above their bounds")
endif()
