package cmd

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// asBinary makes the test binary behave as mlxctl: services and commands of tests are real processes.
const asBinary = "MLXCTL_TEST_AS_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(asBinary) != "" {
		version, broken := markOf()
		if len(os.Args) > 1 && os.Args[1] == broken {
			_, _ = os.Stderr.WriteString("no such library\n")
			os.Exit(1)
		}
		os.Exit(Main(Build{Version: version, Commit: "0123456789abcdef"}))
	}
	// The terminal at which nobody types is read for ever; a real one ends with its process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/mlxctl/mlxctl/cmd.endless.Read"))
}
