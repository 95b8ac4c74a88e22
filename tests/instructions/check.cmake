# Counts the instructions of the functions of measured.cpp under valgrind, and holds them
# against bounds. A walk that takes the slow path where it need not has three times as many.
# To be run with LD_BIND_NOW=1, so that no symbol is looked up while it counts.
#   cmake -DVALGRIND=valgrind -DMEASURED=program -DCOMPILER="GNU 12" [-DWRITE=ON] -P check.cmake
# With WRITE the counts of operations.cpp become those of this compiler in counts.txt, and are not held against it.
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
# Nested walks of an x86 guest, 24 entries: a result that is kept whole, and one of which only the address is looked at.
# By the whole walk, which a fault takes, they take 1250 or more.
foreach(host ept npt)
  count(kept count_nested_${host} 0)
  hold("x86 over ${host}, nested walk to a page" ${kept} 900)
  count(address count_address_${host} 0)
  hold("x86 over ${host}, nested walk, the address alone" ${address} 650)
  count(absent count_nested_${host} 1)
  hold("x86 over ${host}, nested walk to an absent entry of level 1" ${absent} 1400)
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
hold("age, ept at_boot" ${aged} 23)
# The calls of operations.cpp, all in one run, each followed by a dump of what was counted until then. They are held
# against counts.txt, which has a column for each compiler: at most a tenth more, and 3. A compiler without a column is
# held against the highest count and half of it.
set(compilers "GNU 12" "Clang 14" "Clang 16" "Clang 19")
set(dumps ${CMAKE_CURRENT_BINARY_DIR}/operations.callgrind)
file(REMOVE ${dumps})
execute_process(
  COMMAND ${VALGRIND} --tool=callgrind --callgrind-out-file=${dumps} --combine-dumps=yes
          --toggle-collect=counted_operation --dump-after=counted_operation ${MEASURED}
  RESULT_VARIABLE status
  OUTPUT_VARIABLE names
  ERROR_VARIABLE report
)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "operations: status ${status}\n${names}${report}")
endif()
string(REGEX MATCHALL "[^\n]+" names "${names}")
file(STRINGS ${dumps} totals REGEX "^totals: ")
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/counts.txt known REGEX "^ *[0-9]")
list(LENGTH names calls)
list(LENGTH totals dumped)
list(LENGTH known lines)
math(EXPR expected "${calls} + 1")  # and one at the end of the program
if(NOT dumped EQUAL expected OR (NOT lines EQUAL calls AND NOT WRITE))
  message(FATAL_ERROR "operations: ${calls} calls, ${dumped} dumps, ${lines} lines in counts.txt")
endif()
list(FIND compilers "${COMPILER}" column)
set(written)
foreach(name IN LISTS names)
  list(POP_FRONT totals total)
  list(POP_FRONT known line)
  string(REPLACE "totals: " "" counted "${total}")
  set(counts 0 0 0 0)
  if(line MATCHES "^ *([0-9]+) +([0-9]+) +([0-9]+) +([0-9]+)  (.*)$")
    set(of "${CMAKE_MATCH_5}")
    set(counts ${CMAKE_MATCH_1} ${CMAKE_MATCH_2} ${CMAKE_MATCH_3} ${CMAKE_MATCH_4})
  endif()
  if(WRITE)
    list(REMOVE_AT counts ${column})
    list(INSERT counts ${column} ${counted})
    foreach(count IN LISTS counts)
      string(LENGTH "${count}" digits)
      math(EXPR spaces "8 - ${digits}")
      string(REPEAT " " ${spaces} spaces)
      string(APPEND written "${spaces}${count}")
    endforeach()
    string(APPEND written "  ${name}\n")
  elseif(NOT of STREQUAL name)
    message(FATAL_ERROR "operations: counts.txt has '${of}' where '${name}' is counted")
  elseif(column EQUAL -1)
    list(SORT counts COMPARE NATURAL ORDER DESCENDING)
    list(GET counts 0 bound)
    math(EXPR bound "${bound} * 3 / 2")
    hold("${name}" ${counted} ${bound})
  else()
    list(GET counts ${column} bound)
    math(EXPR bound "${bound} * 11 / 10 + 3")
    hold("${name}" ${counted} ${bound})
  endif()
endforeach()
if(WRITE)
  file(WRITE ${CMAKE_CURRENT_LIST_DIR}/counts.txt
       "Instructions of each call of operations.cpp, -O2; rewritten by check.cmake with WRITE.\n"
       "GCC 12  Clang14 Clang16 Clang19\n" "${written}"
  )
endif()

if(failures GREATER 0)
  message(FATAL_ERROR "${failures} counts are above their bounds")
endif()
