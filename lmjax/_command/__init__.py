"""The command line: ``lmjax fit``, ``lmjax models``, ``lmjax demo``."""
