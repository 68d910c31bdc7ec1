# What find_package(Slicer) gives an extension, as far as this one uses it; for the test of the installation where there is no
# Slicer. Written by the documented behaviour of Slicer's macros, and compared with the real ones of 5.8.1 and 5.13: the same
# files are installed.
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CPack.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer/qt-scripted-modules")
