// Package library finds models on this machine's disk and states the facts that placing and loading them needs.
//
// There are three kinds of names: "tiny", which is embedded in the binary and always there; "org/repo", a model in the
// Hugging Face cache; and the absolute path of a folder that mlx-lm can load.
package library
