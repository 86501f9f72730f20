"""What a person with an accelerator runs once: are its bits those of a CPU, do engines agree, how fast is it.

    make gpu-check                                              the embedded model, about ten minutes
    python -m benchmarks.gpu_check --device cpu --base tiny     the script itself, without an accelerator

Prints a Markdown table to paste into an issue. Exit code 0 if all agree, 1 if something differs or failed,
2 if there is no accelerator.
"""
