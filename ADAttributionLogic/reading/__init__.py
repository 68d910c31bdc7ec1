"""The formats that scans and label maps come in: one module each, and what they share.

A reader takes the geometry from the header, refuses what is not there, compares sizes with the file and the free memory
before anything is allocated, and takes the voxels from a stream that is read to its end, so that its checksum counts.
Headers are parsed by nibabel, pynrrd and pydicom, none of which can crash the process. Only compressed DICOM pixels
need a decoder in C++ (GDCM, through SimpleITK); it runs in a process of its own.

Use :mod:`ADAttributionLogic.scan_files`, which finds the reader and turns whatever a library raises into one error.
"""
