"""Running llama.cpp ourselves: the manifest of models, the store and its pulls, one supervised child process a model."""
