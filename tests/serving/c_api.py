"""Run a SavedModel through TensorFlow's C API, as a C program would: no Python of TensorFlow, none of ours.

Usage: python -I c_api.py LIBRARY SAVED_MODEL SIGNATURE INPUT OUTPUT ARRAYS.npz RESULTS.npz

LIBRARY is libtensorflow_cc.so.2 of the wheel. Names of the tensors are those that the card states for the signature.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

FLOAT = 1  # TF_FLOAT


class Output(ctypes.Structure):
    """TF_Output: an operation and which of its results."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def declare(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
library_path, folder, signature, given, made, arrays_path, results_path = sys.argv[1:]
tf = ctypes.CDLL(library_path)
new_status = declare(tf, "TF_NewStatus", pointer)
get_code = declare(tf, "TF_GetCode", integer, pointer)
message = declare(tf, "TF_Message", text, pointer)
new_graph = declare(tf, "TF_NewGraph", pointer)
new_options = declare(tf, "TF_NewSessionOptions", pointer)
load = declare(
    tf,
    "TF_LoadSessionFromSavedModel",
    *(pointer, pointer, pointer, text, ctypes.POINTER(text), integer, pointer, pointer, pointer),
)
operation_by_name = declare(tf, "TF_GraphOperationByName", pointer, pointer, text)
allocate = declare(tf, "TF_AllocateTensor", pointer, integer, ctypes.POINTER(ctypes.c_int64), integer, ctypes.c_size_t)
data_of = declare(tf, "TF_TensorData", pointer, pointer)
type_of = declare(tf, "TF_TensorType", integer, pointer)
rank_of = declare(tf, "TF_NumDims", integer, pointer)
edge_of = declare(tf, "TF_Dim", ctypes.c_int64, pointer, integer)
delete_tensor = declare(tf, "TF_DeleteTensor", None, pointer)
run = declare(
    tf,
    "TF_SessionRun",
    None,
    *(pointer, pointer, ctypes.POINTER(Output), ctypes.POINTER(pointer), integer),
    *(ctypes.POINTER(Output), ctypes.POINTER(pointer), integer, pointer, integer, pointer, pointer),
)

status, graph = new_status(), new_graph()


def check():
    if get_code(status):
        sys.exit(f"TensorFlow: {message(status).decode()}")


session = load(new_options(), None, folder.encode(), (text * 1)(b"serve"), 1, graph, None, status)
check()


def tensor(name):
    operation, _, index = name.partition(":")
    found = operation_by_name(graph, operation.encode())
    if not found:
        sys.exit(f"the graph has no operation {operation}")
    return Output(found, int(index))


card = json.loads(Path(folder, "assets.extra", "card.json").read_text())["signatures"][signature]
inputs = (Output * 1)(tensor(card["inputs"][given]["tensor"]))
outputs = (Output * 1)(tensor(card["outputs"][made]["tensor"]))
results = {}
with np.load(arrays_path) as arrays:
    for name in arrays:
        array = np.ascontiguousarray(arrays[name], np.float32)
        value = allocate(FLOAT, (ctypes.c_int64 * array.ndim)(*array.shape), array.ndim, array.nbytes)
        ctypes.memmove(data_of(value), array.ctypes.data, array.nbytes)
        got = (pointer * 1)()
        run(session, None, inputs, (pointer * 1)(value), 1, outputs, got, 1, None, 0, None, status)
        check()
        if type_of(got[0]) != FLOAT:
            sys.exit("the result is not float32")
        shape = [edge_of(got[0], i) for i in range(rank_of(got[0]))]
        buffer = (ctypes.c_float * int(np.prod(shape))).from_address(data_of(got[0]))
        results[name] = np.frombuffer(buffer, np.float32).reshape(shape).copy()
        delete_tensor(value)
        delete_tensor(got[0])
np.savez(results_path, **results)
if {"tensorflow", "keras", "cyclescan", "data_prep"} & {name.split(".")[0] for name in sys.modules}:
    sys.exit("Python of TensorFlow or of ours was imported")
