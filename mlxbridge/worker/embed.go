// Package worker holds the source of the Python worker and the list of what it needs, as they are shipped in the
// binary. Package mlxbridge puts them on disk and runs them.
package worker

import "embed"

// Source holds mlxworker/*.py.
//
//go:embed mlxworker/*.py
var Source embed.FS //nolint:gochecknoglobals // go:embed needs a package variable; nothing writes to it
