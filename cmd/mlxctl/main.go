// Command mlxctl makes one inference service out of many Macs.
package main

import (
	"os"

	"github.com/mlxctl/mlxctl/cmd"
)

// version and commit are set by the linker.
var version, commit string //nolint:gochecknoglobals // the linker can set nothing else

func main() { os.Exit(cmd.Main(cmd.Build{Version: version, Commit: commit})) }
