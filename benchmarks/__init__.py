"""Reference problems and the commands that measure lmjax against them."""
