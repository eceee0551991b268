// Package worker holds the source of the Python worker and the list of what it needs, as they are shipped in the
// binary. Package mlxbridge puts them on disk and runs them.
package worker

import "embed"

// Source holds the Python package mlxworker.
//
//go:embed mlxworker/*.py
var Source embed.FS

// Requirements lists every package of the worker's environment with the hashes of its files, for all platforms, in the
// form that pip and uv read.
//
//go:embed requirements.lock
var Requirements string
