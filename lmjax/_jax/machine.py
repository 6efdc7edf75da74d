"""From IR to machine code that XLA may call, for as long as the process lives.

Programs are known by a hash of their text: the same fit is assembled once, and a
compiled function that jax keeps on disk finds its program under the same name.
"""

import ctypes
import ctypes.util
import hashlib
import re
import threading
from functools import cache
from typing import Any

import jax
from jaxlib.version import __version__ as jaxlib_version

# The version of XLA's interface that `lmjax._engines.fused.handler` speaks.
INTERFACE = 3
# The oldest GPU that programs are made for and the language of its assembler, which
# drivers have known since 2020. A driver makes code for newer ones of it.
GPU, GPU_LANGUAGE = "sm_70", "+ptx70"

# How hard LLVM tries. Code made in a hurry runs two to six times as long, and takes a
# fifth of the time to make. Fair code of a long program (23 parameters) runs 1.03 times
# as long as the best, and takes 0.6 of the time to make; short programs gain nothing.
HURRY, FAIR, BEST = 0, 1, 2
LONG = 10_000  # lines

# How a function answers when XLA asks it, as it is registered, which version it speaks.
ANSWER = """
  %extp = getelementptr i8, ptr %frame, i64 8
  %ext = load ptr, ptr %extp
  %none = icmp eq ptr %ext, null
  br i1 %none, label %run, label %check
check:
  %typep = getelementptr i8, ptr %ext, i64 8
  %type = load i32, ptr %typep
  %asked = icmp eq i32 %type, 1
  br i1 %asked, label %tell, label %run
tell:
  %metap = getelementptr i8, ptr %ext, i64 24
  %meta = load ptr, ptr %metap
  %majorp = getelementptr i8, ptr %meta, i64 24
  store i32 0, ptr %majorp
  %minorp = getelementptr i8, ptr %meta, i64 28
  store i32 VERSION, ptr %minorp
  ret ptr null
run:
"""

_lock = threading.Lock()
# Machine code is never given back: compiled functions of jax hold no reference to it.
_engines: dict[str, Any] = {}


class Unsupported(Exception):
    """There is no machine program for this; says why."""


@cache
def available() -> str:
    """Return why no machine code can be made here; nothing if it can."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return "llvmlite is not installed"
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        library = ctypes.util.find_library("m")
        if library:
            llvm.load_library_permanently(library)
        _machine(BEST)
    except RuntimeError as error:
        return f"LLVM has no code for this machine: {error}"
    return ""


def _machine(effort: int) -> Any:
    """Return LLVM's description of this processor, and how hard it is to try."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=effort, jit=True
    )


@cache
def vector_bytes() -> int:
    """Return the size of this processor's vectors."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") or features.get("avx") else 16


def assemble(text: str, hurry: bool = False) -> str:
    """Return the name under which XLA finds a program, assembled if it is new.

    Args:
        text: The program.
        hurry: Whether it runs so seldom that it need not be fast.

    Raises:
        Unsupported: If LLVM refuses it.
    """
    effort = HURRY if hurry else FAIR if text.count("\n") > LONG else BEST
    stamp = f"{jaxlib_version} {effort} {text}"
    name = "lmjax_" + hashlib.sha256(stamp.encode()).hexdigest()[:32]
    with _lock:
        if name not in _engines:
            try:
                program = assembled(text.replace("VERSION", str(INTERFACE)), effort)
            except RuntimeError as error:  # a program that this LLVM does not know
                raise Unsupported(f"LLVM refuses the program: {error}") from error
            _engines[name] = program
            address = _engines[name].get_function_address("handler")
            new = ctypes.pythonapi.PyCapsule_New
            new.restype = ctypes.py_object
            new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
            capsule = new(address, b"xla._CUSTOM_CALL_TARGET", None)
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return name


def assembled(text: str, effort: int = BEST) -> Any:
    import llvmlite.binding as llvm

    machine = _machine(effort)
    module = _parsed(text, machine)
    # What LLVM's whole pipeline would do beyond this makes no fit faster: every
    # operation is written once already. It takes twice as long.
    options = llvm.create_pipeline_tuning_options(speed_level=0)
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_instruction_combine_pass()
    passes.run(module, builder)
    # the engine owns the machine from here on, so each has one of its own
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _parsed(text: str, machine: Any) -> Any:
    """Return a module for a processor, checked.

    The layout of its data stands before the rest: LLVM gives loads and stores their
    alignment as it reads them, four bytes for numbers of eight unless it is told.
    """
    import llvmlite.binding as llvm

    head = (
        f'target datalayout = "{machine.target_data}"\n'
        f'target triple = "{machine.triple}"\n'
    )
    module = llvm.parse_assembly(head + text)
    module.verify()
    return module


def for_gpu(text: str) -> str:
    """Return a program in the language of NVIDIA's assembler, PTX.

    Raises:
        Unsupported: If it calls what a GPU has not, or LLVM has no code for GPUs.
    """
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("nvptx64-nvidia-cuda")
        machine = target.create_target_machine(cpu=GPU, features=GPU_LANGUAGE, opt=3)
        module = _parsed(text, machine)
        # the whole pipeline: what it leaves in memory costs a GPU most
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        ptx = machine.emit_assembly(module)
    except RuntimeError as error:
        raise Unsupported(f"LLVM refuses the program: {error}") from error
    if missing := re.findall(r"^\.extern .func .*?(\w+)$", ptx, re.MULTILINE):
        raise Unsupported(f"a GPU has no {missing[0]}")
    return ptx
