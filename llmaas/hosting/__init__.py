"""Running llama.cpp ourselves: `models` brings and keeps model files, `local` supervises one child process a model."""
