// An empty Python module within the limited API: importing it loads the library, whose static
// initializers register the operators.
#pragma once

#define Py_LIMITED_API 0x03090000
#include <Python.h>

#define CONCATENATE_(a, b) a##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)

PyMODINIT_FUNC CONCATENATE(PyInit_, NAMESPACE)(void) {
  static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", nullptr, 0, nullptr};
  return PyModule_Create(&definition);
}
